"""What a plain Trainer gets from the course: precision, callbacks, a way on after an interruption, one GPU; and the results' frame."""

import errno
import json
import os
import shutil
import signal

import jsonschema
import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from shared import course, data
from shared.course import runtime, session
from shared.course import training as module
from shared.course.runtime import ROOT, CourseError, RunFolder
from tests.tiny_training import BERT, config

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
ROWS = [{"input_ids": [i % 50, (3 * i) % 50, 7], "labels": i % 4} for i in range(32)]


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    return runtime.run_folder(config())


def lesson(run: RunFolder, extra: tuple = (), model=None, **more) -> Trainer:
    """A plain Trainer as in a lesson, eight steps long."""
    torch.manual_seed(0)
    model = model or BertForSequenceClassification(BertConfig(num_labels=4, hidden_dropout_prob=0.0, **SIZES))
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1, "save_steps": 100, "disable_tqdm": True}
    arguments = TrainingArguments(run.checkpoints, **(settings | more), **course.precision(model))
    return Trainer(model, arguments, train_dataset=ROWS, eval_dataset=ROWS, callbacks=[*extra, *course.callbacks(run)])


class PressAt(TrainerCallback):
    """Ctrl-C at the end of one step, once."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.step = None
            signal.raise_signal(signal.SIGINT)


def test_after_training_the_model_computes_in_fp32_and_a_saved_copy_says_the_same(run, tmp_path):
    trainer, seen = lesson(run), []
    trainer.model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train(resume_from_checkpoint=run.checkpoint)
    assert set(seen) == {torch.bfloat16}
    seen.clear()
    expected = trainer.predict(ROWS).predictions
    assert set(seen) == {torch.float32}
    trainer.save_model(str(run.model))
    again = BertForSequenceClassification.from_pretrained(run.model)
    inputs = torch.tensor([row["input_ids"] for row in ROWS])
    with torch.no_grad():
        np.testing.assert_allclose(again(inputs).logits.numpy(), expected, atol=1e-6)


def test_the_training_cell_run_twice_says_how_to_train_anew(run):
    trainer = lesson(run)
    trainer.train()
    with pytest.raises(CourseError, match=r"^this model is trained already: run the cell that loads the model again, and those after it"):
        trainer.train()
    with pytest.raises(CourseError, match="trained already"):
        lesson(run, model=trainer.model).train()  # a new Trainer alone does not make it a new model


def test_after_an_interruption_the_same_cell_goes_on(run, capsys):
    usual = signal.getsignal(signal.SIGINT)
    trainer = lesson(run, extra=(PressAt(3),))
    with pytest.raises(KeyboardInterrupt):
        trainer.train(resume_from_checkpoint=run.checkpoint)
    said = capsys.readouterr().out
    reached = trainer.state.global_step
    assert reached in (3, 4) and f"interrupted: checkpoint-{reached} is kept." in said and f"--set resume={run.name}" in said
    assert signal.getsignal(signal.SIGINT) is usual and "forward" not in vars(trainer.model)
    assert run.checkpoint.endswith(f"checkpoint-{reached}")
    seen = []
    trainer.model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train(resume_from_checkpoint=run.checkpoint)
    assert trainer.state.global_step == 8 and set(seen) == {torch.bfloat16}
    assert json.loads((run.logs / "timed.json").read_text())["steps"] == 8


def test_ctrl_c_after_a_training_that_died_is_nobodys_but_the_readers(run):
    class Dies(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise ZeroDivisionError

    usual = signal.default_int_handler
    signal.signal(signal.SIGINT, usual)  # a training that died in another test may have left its own
    with pytest.raises(ZeroDivisionError):
        lesson(run, extra=(Dies(),)).train()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual


def test_ctrl_c_twice_stops_a_training_that_follows_one_that_died(run):
    class Dies(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            raise ZeroDivisionError

    class PressTwice(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

    usual = signal.default_int_handler
    signal.signal(signal.SIGINT, usual)
    dying = lesson(run, extra=(Dies(),))
    for trainer in (dying, dying, lesson(run, extra=(Dies(),))):
        with pytest.raises(ZeroDivisionError):
            trainer.train()
    trainer = lesson(run, extra=(PressTwice(),))
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert trainer.state.global_step == 1 and signal.getsignal(signal.SIGINT) is usual


def test_a_run_below_a_link_or_elsewhere_is_resumed_by_what_it_says(run, tmp_path, monkeypatch):
    assert run.resume == run.part("plain-2").resume == run.name
    os.symlink(tmp_path, tmp_path / "link")
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path / "link"))
    again = runtime.run_folder(config(resume=run.name))
    assert again.path == run.path.resolve() and again.resume == again.part("plain-2").resume == run.name
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path / "elsewhere"))
    assert runtime.run_folder(config(resume=again.part("plain-2").resume)).path == again.path


def test_what_lies_beside_the_checkpoints_is_no_checkpoint(run):
    lesson(run, save_steps=4).train()
    newest = run.checkpoint
    assert newest.endswith("checkpoint-8")
    for name in ("checkpoint-9.zip", "checkpoint-9 copy", "checkpoint-9 (1)", "checkpoint-best"):
        (run.checkpoints / name).mkdir() if "." not in name else (run.checkpoints / name).write_bytes(b"PK")
    assert run.checkpoint == newest


@pytest.mark.parametrize(("when", "words"), [("train", "the loss is nan at step 1"), ("evaluate", "the validation loss is nan at step 0")])
def test_a_loss_that_is_not_finite_stops_with_cause_and_cure(run, when, words):
    trainer = lesson(run)
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(CourseError, match=rf"^{words}: lower learning_rate .*COURSE_PRECISION=fp32"):
        getattr(trainer, when)()


def test_the_clock_counts_training_and_prediction(run):
    trainer = lesson(run)
    trainer.train()
    trainer.predict(ROWS)
    timed = json.loads((run.logs / "timed.json").read_text())
    assert timed["steps"] == timed["of"] == 8 and timed["seconds"] > 0 and timed["evaluate"] > 0 and timed["peak_memory_mb"] > 10
    assert not any(isinstance(callback, module.Stopwatch) for callback in course.callbacks())  # an exercise is not the run


def test_a_run_of_several_trainings_keeps_the_finished_ones_and_adds_up_their_clocks(run, capsys):
    """As in a lesson that trains several seeds: one dies, and the run goes on with the seeds that are missing."""

    def seed(number: int, extra: tuple = ()) -> dict:
        part = run.part(f"seed-{number}")

        def work() -> dict:
            trainer = lesson(part, extra=extra, save_steps=4)
            trainer.train(resume_from_checkpoint=part.checkpoint)
            return {"logits": trainer.predict(ROWS).predictions.tolist(), "steps": trainer.state.global_step}

        return course.once(part, work)

    lesson(run).train()
    first = seed(0)
    with pytest.raises(KeyboardInterrupt):
        seed(1, extra=(PressAt(5),))
    assert f"--set resume={run.name}\n" in capsys.readouterr().out  # the whole run's name, not the part's
    assert seed(0) == first and first["steps"] == 8 and f"seed-0: was done before, and is read from {run.name}" in capsys.readouterr().out
    assert run.part("seed-1").checkpoint.endswith(("checkpoint-5", "checkpoint-6")) and seed(1)["steps"] == 8
    assert not run.part("seed-0").checkpoint and not run.part("seed-1").checkpoint  # removed with the work done
    clocks = [json.loads((place.logs / "timed.json").read_text()) for place in (run, run.part("seed-0"), run.part("seed-1"))]
    took = session._took(RunFolder(run.path, resumed=True))
    assert took["seconds"]["train"] == pytest.approx(sum(clock["seconds"] for clock in clocks), abs=0.01)
    assert took["seconds"]["evaluate"] == pytest.approx(sum(clock.get("evaluate", 0) for clock in clocks), abs=0.01)
    (timed,) = took["tables"]["timed"]
    assert timed["steps"] == timed["of"] == 24 and timed["peak_memory_mb"] == max(clock["peak_memory_mb"] for clock in clocks)


def test_a_part_whose_record_finds_the_disk_full_can_be_done_again(run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr("pathlib.Path.write_text", full)
        with pytest.raises(CourseError, match=rf"^cannot write to {run.name} \(No space left on device\)"):
            course.once(run.part("a"), lambda: [0.5])
    assert course.once(run.part("a"), lambda: [0.25]) == [0.25]


def test_a_training_starts_from_a_run_by_its_name_and_from_the_same_encoder_alone(run):
    BertForSequenceClassification(BertConfig(num_labels=3, **SIZES)).save_pretrained(run.model)
    other = BertForSequenceClassification(BertConfig(num_labels=3, **(SIZES | {"vocab_size": 60})))
    other.save_pretrained(run.path / "other")
    known = {"model": run.name, "data": None, "rows": None, "accuracy": None}
    assert course.start_from(run.name, like=str(run.model)) == (str(run.model), known)
    results = {"config": {"train_data": "course/nli_mix"}, "data": {"train": {"rows": 7}}, "metrics": {"accuracy": {"value": 0.5}}}
    (run.path / "results.json").write_text(json.dumps(results))
    assert course.start_from(run.name, like=str(run.model))[1] == known | {"data": "course/nli_mix", "rows": 7, "accuracy": 0.5}
    results["data"]["train"]["source"] = "file my pairs.tsv"
    (run.path / "results.json").write_text(json.dumps(results))
    assert course.start_from(run.name, like=str(run.model))[1] == known | {"data": "file my pairs.tsv", "rows": 7}
    assert course.start_from(str(run.model), like=str(run.model)) == (str(run.model), known | {"model": str(run.model)})
    with pytest.raises(CourseError, match=rf"^{run.name} cannot stand in for .*: its vocab_size is 50, not 60; name a model with the same"):
        course.start_from(run.name, like=str(run.path / "other"))
    with pytest.raises(CourseError, match=r"^there is no run 'no-such-run' with a model: `ls "):
        course.start_from("no-such-run", like=str(run.model))
    shutil.rmtree(run.model)
    run.model.mkdir()  # as a run has it from its start
    with pytest.raises(CourseError, match=rf"^the run '{run.name}' kept no model: finish it with --set resume={run.name}, or"):
        course.start_from(run.name, like=str(run.path / "other"))


def test_precision_flags_follow_model_and_device(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    others = {"average_tokens_across_devices": False}
    assert course.precision(BERT) == {"bf16": True, "fp16": False, "use_cpu": True, "dataloader_pin_memory": False} | others
    deberta = BertForSequenceClassification(BertConfig(**SIZES))
    deberta.config.model_type = "deberta"
    assert not course.precision(deberta)["bf16"] and "a deberta trains in fp32: bf16 does not work" in capsys.readouterr().out
    monkeypatch.setattr(runtime, "device", lambda: "cuda")
    monkeypatch.setenv("COURSE_PRECISION", "fp16")
    assert course.precision(BERT) == {"bf16": False, "fp16": True, "use_cpu": False, "dataloader_pin_memory": True} | others


@pytest.mark.parametrize(
    ("precision", "max_length", "attention"),
    [("bf16", 128, "eager"), ("bf16", 256, "sdpa"), ("bf16", None, "sdpa"), ("fp32", 128, "sdpa")],
)
def test_short_texts_in_16_bits_on_a_cpu_get_the_attention_with_the_quick_gradient(monkeypatch, capsys, precision, max_length, attention):
    monkeypatch.setenv("COURSE_PRECISION", precision)
    model = BertForSequenceClassification(BertConfig(**SIZES)).eval()
    batch = {"input_ids": torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]]), "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])}
    before = model(**batch).logits
    course.precision(model, max_length)
    assert model.config._attn_implementation == attention
    assert ("attention step by step" in capsys.readouterr().out) == (attention == "eager")
    assert torch.allclose(model(**batch).logits, before, atol=1e-6)


@pytest.mark.parametrize(
    ("visible", "processes", "started", "found"),
    [(None, "1", False, "0"), ("2,3", "1", False, "2"), ("", "1", False, ""), ("2,3", "2", False, "2,3"), ("2,3", "1", True, "2,3")],
)
def test_a_process_shows_itself_one_gpu(monkeypatch, visible, processes, started, found):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "" if visible is None else visible)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    session._take_one_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == found


def test_a_substitute_is_called_one_in_the_results_and_the_report(run, monkeypatch):
    from shared.course import report, standin
    from shared.course.settings import Settings

    monkeypatch.setattr(session, "_standing", standin.Standing(["laptop", "bundled"], "", "bundled", "packaged"))
    values = {"model": "course/small-t5", "second": "course/other", "seed": 0, "resume": ""}
    changed = {"model": ("google-t5/t5-small", "course/small-t5", "profile laptop"), "second": ("a/b", "course/other", "profile laptop")}
    cfg = Settings("task-1/ag-news", "laptop", values, {}, changed)
    trainer = lesson(run)
    trainer.state.log_history = [{"step": 1, "loss": 1.0}]
    timed = {"steps": 1, "of": 1, "seconds": 1.0, "peak_memory_mb": 1.0}
    (run.logs / "timed.json").write_text(json.dumps(timed), encoding="utf8")
    rows, metrics = Dataset.from_dict({"text": ["a"]}), {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}
    results = course.save_results(
        run, cfg, trainer, splits={"train": rows, "test": rows}, metrics=metrics, baselines={"chance": {"accuracy": 0.25}}
    )
    assert results["model"]["id"] == "course/small-t5 (made by the course), stands in for google-t5/t5-small"
    assert results["model"]["stands_in_for"] == "google-t5/t5-small"
    assert results["config"]["stands_in_for"] == {"model": "google-t5/t5-small", "second": "a/b"}
    assert json.loads((run.path / "results.json").read_text())["model"] == results["model"]
    jsonschema.validate(results, json.loads((ROOT / "tests" / "results.schema.json").read_text(encoding="utf8")))
    folder = run.path / "task-1" / "ag-news"
    folder.mkdir(parents=True)
    head = '{% set title = "Demo" %}{% set headline = "accuracy" %}{% set published = "" %}'
    (folder / "report.md.j2").write_text(head, encoding="utf8")
    assert "| small-t5 (made by the course), stands in for google-t5/t5-small |" in report.headline_row(folder, results, run.path)
    plain = session.model_card(Settings("task-1/ag-news", "laptop", values | {"model": "google-t5/t5-small"}), trainer.model)
    assert plain["id"] == "google-t5/t5-small (packaged)" and "stands_in_for" not in plain


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"train": 20, "test": 99}, "NOTE: 99 scored rows: below about 100"),
        ({"train": 20, "validation": 30, "test": 100}, ""),  # the validation rows are for choices
        ({"train": 20, "validation": 30}, "NOTE: 30 scored rows"),
        ({"train": 900, "matched": 200, "mismatched": 50}, ""),
        ({"train": 20}, ""),
    ],
)
def test_few_scored_rows_are_said(data, said, capsys):
    session.note_few_rows({name: {"rows": rows} for name, rows in data.items()})
    out = capsys.readouterr().out
    assert out.startswith(said) and bool(out) == bool(said)


def test_results_are_kept_whatever_the_hub_says(run, monkeypatch):
    from shared.course import upload

    def refuse(*_):
        raise CourseError("the Hub is full")

    monkeypatch.setattr(upload, "upload", refuse)
    with pytest.raises(CourseError, match="the Hub is full"):
        session._finish(run, {"config": {"push_to_hub": "ada/news"}, "seed": 7}, {})
    assert json.loads((run.path / "results.json").read_text())["seed"] == 7


def test_texts_of_others_are_withheld_where_outputs_are_published(monkeypatch):
    monkeypatch.setattr(session, "_standing", None)
    assert session.excerpt("two\nlines  here", 7) == "two lines here"
    assert session.excerpt("a" * 200, 7, width=10) == "a" * 9 + "…"
    monkeypatch.setenv("COURSE_TEXTS", "withhold")
    assert session.excerpt("somebody's text", 7) == "(row 7)"
    ours = data.bundled_split("ag_news", "test")[0]["text"]
    assert session.excerpt(ours, 7, width=10_000) == ours  # the course's own rows may be read by everybody
