"""What a plain training leaves for the next one: checkpoints whole or passed over, a clock that counts on, the same end after a kill."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from shared import course
from shared.course import forkserver
from shared.course.runtime import ROOT, CourseError, RunFolder
from shared.course.training import encoder_layers
from tests.test_heads import ENCODERS
from tests.tiny_training import TOLD, config, trainer_for


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    return course.run_folder(config())


# ---------------------------------------------------------------- killed, in a process of its own


def start(folder: Path, name: str, *options: str) -> subprocess.Popen:
    environment = os.environ | {"COURSE_OUTPUTS": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        forkserver.command("tests.tiny_training", name, *options),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def final_loss(output: str) -> float:
    return float(re.search(r"final loss ([\d.]+)", output).group(1))


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    for line in process.stdout:
        if (found := re.match(r"step (\d+)/", line)) and int(found.group(1)) >= step:
            return
    pytest.fail(f"the training ended before step {step}")


def test_killed_run_resumes_to_the_same_final_loss(tmp_path):
    """With rows in random order. Grouped by length, the library draws them anew for the epoch in which a training goes on."""
    whole = start(tmp_path, "whole", "--random")
    killed = start(tmp_path, "killed", "--random", "--slow", "0.15")
    wait_for_step(killed, 11)  # checkpoints every 2 steps, 6 steps an epoch: the kill falls into the middle of epoch 2
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    expected = final_loss(whole.communicate(timeout=120)[0])
    checkpoints = sorted((tmp_path / "killed" / "checkpoints").glob("checkpoint-*"))
    assert checkpoints, "the kill left no checkpoint"
    output = start(tmp_path, "killed", "--random", "--resume").communicate(timeout=120)[0]
    assert re.search(r"going on from .*checkpoint-1\d", output)
    assert final_loss(output) == pytest.approx(expected, abs=1e-4)


# ---------------------------------------------------------------- checkpoints


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("file", "damage"),
    [("trainer_state.json", cut), ("model.safetensors", cut), ("optimizer.pt", cut), ("scheduler.pt", cut), ("optimizer.pt", flip)],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(run, capsys, file, damage):
    trainer_for(config(epochs=1.0), run, rows=24, save_total_limit=5).train()
    *_, before, newest = sorted(run.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert run.checkpoint == str(newest)
    (newest / file).write_bytes(damage((newest / file).read_bytes()))
    assert run.checkpoint == str(before)
    assert f"{newest.name} is incomplete or damaged: passed over" in capsys.readouterr().out
    trainer = trainer_for(config(epochs=1.0), run, rows=24)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    assert trainer.state.global_step == 3


def test_a_checkpoint_without_state_or_weights_is_none(run):
    for name in ("checkpoint-3", "checkpoint-4"):
        (run.checkpoints / name).mkdir()
    (run.checkpoints / "checkpoint-4" / "trainer_state.json").write_text("{}")
    assert run.checkpoint is None


def test_a_resumed_training_counts_the_steps_and_seconds_before_the_interruption(run):
    def trained(epochs: float) -> dict:
        trainer_for(config(epochs=epochs), run, rows=24).train(resume_from_checkpoint=run.checkpoint)
        return json.loads(record.read_text())

    record = run.logs / "timed.json"
    first = trained(1.0)  # 3 steps
    assert (first["steps"], first["of"]) == (3, 3) and first["seconds"] > 0
    record.write_text('{"steps": 3, "of": 3, "seconds": 1000.0, "peak_memory_mb": 1e6}')
    both = trained(2.0)
    assert (both["steps"], both["of"]) == (6, 6) and 1000 < both["seconds"] < 1100 and both["peak_memory_mb"] == 1e6
    record.unlink()  # an interruption before the first record: only what was timed is claimed
    part = trained(3.0)
    assert (part["steps"], part["of"]) == (3, 9) and part["seconds"] < 100 and 50 < part["peak_memory_mb"] < 1e5


# ---------------------------------------------------------------- frozen layers


every_encoder = pytest.mark.parametrize("name", ENCODERS)


def tiny(name: str):
    return AutoModelForSequenceClassification.from_pretrained(name, **TOLD)


@every_encoder
def test_freezing_no_layer_changes_nothing(name):
    model = course.freeze_lower_layers(tiny(name), 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@every_encoder
def test_freezing_one_of_two_freezes_the_embeddings_and_the_lowest_block_only(name):
    model = tiny(name)
    lowest, highest = encoder_layers(model)
    assert course.freeze_lower_layers(model, 1) is model
    assert not any(parameter.requires_grad for parameter in lowest.parameters())
    assert all(parameter.requires_grad for parameter in highest.parameters())
    assert not any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters())
    of_lowest = {id(parameter) for parameter in lowest.parameters()}
    others = [key for key, p in model.named_parameters() if not p.requires_grad and id(p) not in of_lowest]
    assert all("emb" in key or "relative_attention_bias" in key for key in others)
    head = [p.requires_grad for key, p in model.named_parameters() if not key.startswith(model.base_model_prefix + ".")]
    assert head and all(head)


@every_encoder
def test_a_training_step_moves_only_what_is_not_frozen(name):
    model, tokenizer = course.freeze_lower_layers(tiny(name), 1), AutoTokenizer.from_pretrained(name)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    batch = tokenizer(["the keeper saved the last penalty", "a bank in Lima sold half its shares"] * 4, return_tensors="pt", padding=True)
    model(**batch, labels=torch.arange(8) % 4).loss.backward()
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    top = {id(p) for p in encoder_layers(model)[1].parameters()}
    torch.optim.SGD(model.parameters(), lr=1.0).step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    assert frozen and moved.isdisjoint(frozen)
    assert any(id(p) in top and key in moved for key, p in model.named_parameters())
    assert any(not key.startswith(model.base_model_prefix + ".") for key in moved)


@every_encoder
@pytest.mark.parametrize("layers", [2, 3, -1])
def test_freezing_too_many_layers_names_the_range(name, layers):
    model = tiny(name)
    with pytest.raises(CourseError, match=rf"cannot freeze {layers} of 2 layers: choose 0 to 1"):
        course.freeze_lower_layers(model, layers)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_encoder_layers_of_a_model_without_a_stack():
    class Odd(torch.nn.Module):
        config = AutoConfig.for_model("bert", num_hidden_layers=3)
        base_model = torch.nn.Linear(2, 2)

    with pytest.raises(CourseError, match=r"Odd has no list of 3 layers: freezing is not supported for it"):
        encoder_layers(Odd())


# ---------------------------------------------------------------- the twins of the encoders


@every_encoder
def test_a_row_gets_the_same_logits_in_a_padded_batch_as_alone(name):
    model, tokenizer = tiny(name).eval(), AutoTokenizer.from_pretrained(name)
    texts = ["the keeper saved the last penalty", "a bank in Lima sold half its shares, and the new phone tested a faster chip", "lost"]
    with torch.inference_mode():
        together = model(**tokenizer(texts, return_tensors="pt", padding=True)).logits
        alone = torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)
    assert model.config.pad_token_id == tokenizer.pad_token_id and not torch.allclose(alone[0], alone[1])


