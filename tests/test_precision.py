"""Sixteen bits: what is forced, what a training leaves behind, and that a reloaded model gives what the trained one gave.

Any processor can train in bf16, if slowly, so every architecture does here, whatever precision the other tests run in.
"""

import gc
import re
import weakref

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import DataCollatorForSeq2Seq, Trainer

from shared import lora, text2text
from shared.course import runtime
from shared.course.runtime import CourseError, RunFolder
from shared.legacy import causal, data, models, seq2seq, training
from tests.programs import PROGRAMS, program
from tests.test_training import lesson
from tests.tiny_training import config, trainer_for

TEXTS = list(dict.fromkeys(data.bundled_split("squad", "train")["context"]))[:12]
SHORT = {"max_steps": 3, "eval_steps": 10_000, "save_strategy": "no", "load_best_model_at_end": False}


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("COURSE_PRECISION", "bf16")
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    return runtime.run_folder(config())


def seen_by(layer: torch.nn.Module) -> list[torch.dtype]:
    """Filled with the type of everything that the layer puts out."""
    seen: list[torch.dtype] = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    return seen


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(("asked", "found"), [("fp32", "fp32"), (" BF16 ", "bf16")])
def test_the_precision_can_be_forced(monkeypatch, asked, found):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: found == "fp32")  # what it would be of itself is the other one
    monkeypatch.setenv("COURSE_PRECISION", asked)
    assert runtime.precision() == found == runtime.environment()["precision"]
    for nothing in ("auto", ""):
        monkeypatch.setenv("COURSE_PRECISION", nothing)
        assert runtime.precision() != found


def test_fp16_without_a_gpu_and_unknown_precisions_are_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("COURSE_PRECISION", "fp16")
    with pytest.raises(CourseError, match=r"^COURSE_PRECISION=fp16 needs a CUDA GPU and this machine trains on cpu: set it to bf16"):
        runtime.precision()
    monkeypatch.setenv("COURSE_PRECISION", "bf32")
    with pytest.raises(CourseError, match=r"^unknown COURSE_PRECISION 'bf32': .*known are auto, fp32, bf16, fp16$"):
        runtime.precision()
    monkeypatch.setenv("COURSE_PRECISION", "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert runtime.precision() == "fp16"


def test_deberta_trains_in_fp32_and_says_so(run, capsys):
    trainer = trainer_for(config(model="deberta"), run, rows=8)
    assert not trainer.args.bf16 and training.precision_for(trainer.model) == "fp32"
    assert "a deberta trains in fp32: bf16 does not work with this architecture" in capsys.readouterr().out


# ---------------------------------------------------------------- every architecture: train, predict, save, reload


@pytest.mark.parametrize("name", models.ENCODERS)
def test_an_encoder_trained_in_bf16_reloads_to_the_same_logits(run, name):
    trainer = trainer_for(config(model=name), run, rows=16, **SHORT)
    seen = seen_by([m for m in trainer.model.modules() if isinstance(m, torch.nn.Linear)][-1])
    training.fit(trainer, run)
    assert set(seen) == {torch.float32 if name == "deberta" else torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    seen.clear()
    expected = trainer.predict(trainer.eval_dataset).predictions
    assert set(seen) == {torch.float32} and len(np.unique(expected)) > 0.9 * expected.size  # 16-bit logits tie
    models.save(trainer.model, trainer.processing_class, run.model)
    again, _ = models.load_saved(run.model)
    other = training.OrderedTrainer(model=again, args=trainer.args, eval_dataset=[], data_collator=trainer.data_collator)
    np.testing.assert_array_equal(other.predict(trainer.eval_dataset).predictions, expected)


@pytest.mark.parametrize("pooled", ["rte", "go_emotions"])
def test_a_mean_pooled_classifier_trained_in_bf16_reloads_to_the_same_logits(run, pooled):
    kind = {"go_emotions": {"scores": None}}.get(pooled, {})
    trainer = lesson(run, pooled, arguments=SHORT, **kind)
    training.fit(trainer, run)
    expected = trainer.predict(trainer.eval_dataset).predictions
    models.save(trainer.model, trainer.processing_class, run.model)
    again, _ = models.load_saved(run.model)
    other = training.OrderedTrainer(model=again, args=trainer.args, eval_dataset=[], data_collator=trainer.data_collator)
    np.testing.assert_array_equal(other.predict(trainer.eval_dataset).predictions, expected)


@pytest.mark.parametrize("name", ["t5-small", "flan-t5-small", "bart-base", "minilm2minilm", "minilm2minilm-copy"])
def test_an_encoder_decoder_trained_in_bf16_reloads_to_the_same_texts_and_logits(run, name):
    model, tokenizer, _ = seq2seq.load_seq2seq(name, "random", tokenizer_texts=TEXTS, max_length=96)
    rows, _ = text2text.encode_pairs([text[:60] for text in TEXTS], [text[:20] for text in TEXTS], tokenizer, 80, 16)
    args = training.seq2seq_arguments(config(learning_rate=3e-3), run, model, len(rows), **SHORT)
    trainer = training.seq2seq_trainer(model, tokenizer, args, {"train": rows, "validation": rows}, None, 3, max_new_tokens=8)
    training.fit(trainer, run)
    models.save(model, tokenizer, run.model)
    again, _ = seq2seq.load_saved(run.model)
    batch = DataCollatorForSeq2Seq(tokenizer, model=model)([rows[i] for i in range(4)])
    with torch.no_grad():
        mine, theirs = (one.eval()(**batch).logits for one in (model, again))
    assert mine.dtype == torch.float32 and torch.equal(mine, theirs)
    said = text2text.decode(trainer.predict(rows).predictions, tokenizer)
    assert text2text.generate(again, tokenizer, rows["input_ids"], max_new_tokens=8).texts == said


@pytest.mark.parametrize("name", ["phi-2", "llama-3.2-1b", "gemma-2-2b"])
def test_adapters_on_four_bit_weights_trained_in_bf16_reload_to_the_same_logits_and_merge_within_rounding(run, name):
    def base():
        return causal.load_causal(name, "random", quantization=lora.four_bit(), tokenizer_texts=TEXTS, max_length=128)

    model, tokenizer, card = base()
    rows, _ = text2text.encode_completions([("Say: ", text, "\n") for text in TEXTS], [" " + text[:20] for text in TEXTS], tokenizer, 100)
    adapted, collate = lora.add_adapters(model, 4, 8), text2text.CompletionCollator(tokenizer)
    args = training.arguments(config(learning_rate=3e-3), run, adapted, len(rows), label_names=["labels"], **SHORT)
    both = {"train": rows, "validation": rows}
    training.fit(training.trainer(adapted, tokenizer, args, both, None, 3, data_collator=collate), run)
    batch = collate([rows[i] for i in range(4)])
    expected = lora.logits(adapted, batch)
    lora.save_adapter(adapted, tokenizer, run.model, card)
    again = lora.load_adapter(lora.prepared(base()[0]), run.model, card)
    assert torch.equal(lora.logits(again, batch), expected)
    merged = lora.merge(again, torch.bfloat16)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in merged.buffers() if b.is_floating_point()} <= {torch.float32}  # rotary frequencies keep their digits
    off = lora.relative_difference(lora.logits(merged, batch), expected)
    assert 0 < off < lora.MERGING_ROUNDS[torch.bfloat16]


def test_a_merged_model_in_bf16_reloads_to_the_same_logits(tmp_path):
    model, tokenizer, _ = causal.load_causal("phi-2", "random", quantization=lora.four_bit(torch.bfloat16), tokenizer_texts=TEXTS)
    merged = lora.merge(lora.add_adapters(model, 4, 8), torch.bfloat16)
    models.save(merged, tokenizer, tmp_path)
    again, _, _ = causal.load_causal("phi-2", str(tmp_path), dtype=torch.bfloat16)
    rows, _ = text2text.encode_completions([("Say: ", text, "\n") for text in TEXTS], ["yes"] * len(TEXTS), tokenizer, 100)
    assert lora.largest_difference(merged, again, text2text.CompletionCollator(tokenizer)([rows[i] for i in range(4)])) == 0


# ---------------------------------------------------------------- what a training leaves behind


def test_checks_run_in_the_trainings_precision_and_reported_figures_in_fp32(run):
    trainer = trainer_for(config(), run, rows=16, max_steps=2, eval_steps=1, save_steps=1)
    seen = seen_by(trainer.model.classifier)
    trainer.evaluate()
    assert set(seen) == {torch.float32}
    seen.clear()
    training.fit(trainer, run)  # an evaluation before it must not keep the training out of autocast
    assert set(seen) == {torch.bfloat16} and len(seen) == 2 * 2  # steps and checks
    seen.clear()
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    models.classify(trainer.model, trainer.processing_class, ["Shares fell in Tokyo."])
    assert set(seen) == {torch.float32}


def test_a_second_training_is_under_autocast_too(run):
    trainer = trainer_for(config(), run, rows=16, **SHORT)
    training.fit(trainer, run)
    seen = seen_by(trainer.model.classifier)
    trainer.train()
    assert seen and set(seen) == {torch.bfloat16}
    assert "forward" not in vars(trainer.model)


def test_a_training_that_is_cut_off_leaves_no_autocast_either(run):
    trainer = trainer_for(config(), run, rows=16, **SHORT)
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(CourseError, match=r"train in fp32 \(COURSE_PRECISION=fp32\)"):
        training.fit(trainer, run)
    assert "forward" not in vars(trainer.model) and not trainer.is_in_train


def test_what_a_plain_trainer_leaves_behind_is_taken_away_before_a_figure_is_reported(run):
    trainer = trainer_for(config(), run, rows=16, **SHORT)
    expected = trainer.predict(trainer.eval_dataset).predictions
    plain = Trainer(model=trainer.model, args=trainer.args, eval_dataset=[], data_collator=trainer.data_collator)
    assert not np.array_equal(plain.predict(trainer.eval_dataset.select(range(4))).predictions, expected[:4])
    assert "forward" in vars(trainer.model), "the trap is gone"
    np.testing.assert_array_equal(trainer.predict(trainer.eval_dataset).predictions, expected)


def test_a_prepared_model_is_given_back_as_it_was_and_dies_when_it_is_deleted():
    model = torch.nn.Linear(2, 2)
    hooked = torch.nn.Linear(2, 2)
    hooked.forward = special = lambda x: hooked.weight @ x  # as accelerate's hooks and peft's checkpointing replace it
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    for one in (model, hooked):
        accelerator.prepare_model(one)
        assert one(torch.ones(2)).dtype == torch.float32 and hasattr(one, "_original_forward")
        training.leave_autocast(one)
        training.leave_autocast(one)  # once more does no harm
        assert not {"_original_forward", "_is_accelerate_prepared"} & set(vars(one))
    assert "forward" not in vars(model) and hooked.forward is special
    accelerator.free_memory()
    dead = weakref.ref(model)
    gc.disable()
    try:
        del model, one
        assert dead() is None, "something still holds the model"
    finally:
        gc.enable()


# ---------------------------------------------------------------- Apple's MPS, which no machine here has


def test_four_bit_weights_are_loaded_whole_on_mps_and_a_line_says_so(monkeypatch, capsys):
    monkeypatch.setattr(runtime, "device", lambda: "mps")
    assert lora.four_bit() is None
    assert capsys.readouterr().out == "NOTE: bitsandbytes does not pack weights for MPS, so they are loaded whole.\n"


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_a_tensor_leaves_the_device_before_it_becomes_double(path):
    """MPS has no float64."""
    assert not re.search(r"\.(double\(\)|to\(torch\.float64\))\.(cpu|numpy|tolist|item)\(", program(path))
