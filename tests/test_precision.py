"""Sixteen bits: what is forced, what a training leaves behind, and that a reloaded model gives what the trained one gave.

Any processor can train in bf16, if slowly, so every architecture does here, whatever precision the other tests run in.
"""

import gc
import re
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    DataCollatorForSeq2Seq,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainingArguments,
)

from shared import course, data, lora, text2text
from shared.course import runtime, training
from shared.course.runtime import CourseError, RunFolder
from tests.programs import PROGRAMS, program
from tests.test_heads import ENCODERS
from tests.tiny import DECODERS, completion_rows, decoder, largest_difference, tokenizer_of, with_adapters
from tests.tiny_training import config, trainer_for

TEXTS = list(dict.fromkeys(data.bundled_split("squad", "train")["context"]))[:12]
PLAIN = {"save_strategy": "no", "disable_tqdm": True}
SHORT = {"max_steps": 3, "eval_strategy": "no", "load_best_model_at_end": False} | PLAIN


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
    trainer = trainer_for(config(model="microsoft/deberta-base"), run, rows=8)
    assert not trainer.args.bf16 and training.precision_for(trainer.model) == "fp32"
    assert "a deberta trains in fp32: bf16 does not work with this architecture" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "device", "expected"), [("t5", "fp16", "fp32"), ("t5", "bf16", "bf16"), ("bart", "fp16", "fp16"), ("bert", "fp32", "fp32")]
)
def test_only_a_t5_is_kept_out_of_fp16(monkeypatch, kind, device, expected):
    monkeypatch.setattr(runtime, "precision", lambda: device)
    assert training.precision_for(SimpleNamespace(config=SimpleNamespace(model_type=kind))) == expected


# ---------------------------------------------------------------- every architecture: train, predict, save, reload


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_trained_in_bf16_reloads_to_the_same_logits(run, name):
    trainer = trainer_for(config(model=name), run, rows=16, **SHORT)
    seen = seen_by([m for m in trainer.model.modules() if isinstance(m, torch.nn.Linear)][-1])
    trainer.train()
    assert set(seen) == {torch.float32 if "deberta" in name else torch.bfloat16}
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    seen.clear()
    trainer.args.train_sampling_strategy = "random"  # predictions in the order of the rows
    expected = trainer.predict(trainer.eval_dataset).predictions
    assert set(seen) == {torch.float32} and len(np.unique(expected)) > 0.9 * expected.size  # 16-bit logits tie
    trainer.save_model(str(run.model))
    attention = trainer.model.config._attn_implementation
    again = AutoModelForSequenceClassification.from_pretrained(run.model, attn_implementation=attention).eval()
    with torch.no_grad():  # as one batch, as the Trainer had them
        logits = again(**trainer.data_collator([trainer.eval_dataset[i] for i in range(16)])).logits
    np.testing.assert_array_equal(logits.numpy(), expected)


@pytest.mark.parametrize("name", ["google-t5/t5-small", "google/flan-t5-small", "facebook/bart-base"])
def test_an_encoder_decoder_trained_in_bf16_reloads_to_the_same_texts_and_logits(run, name):
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(name, dtype=torch.float32), tokenizer_of(name)
    pairs = zip([text[:60] for text in TEXTS], [text[:20] for text in TEXTS], strict=True)
    rows = [{**tokenizer(source), "labels": tokenizer(text_target=target)["input_ids"]} for source, target in pairs]
    collate = DataCollatorForSeq2Seq(tokenizer, model=model)
    args = Seq2SeqTrainingArguments(run.checkpoints, learning_rate=3e-3, max_steps=3, **PLAIN, **course.precision(model))
    seen = seen_by(next(m for m in model.modules() if isinstance(m, torch.nn.Linear)))
    Seq2SeqTrainer(model, args, train_dataset=rows, data_collator=collate, callbacks=course.callbacks(run)).train()
    assert set(seen) == {torch.bfloat16}
    model.save_pretrained(run.model)
    again = AutoModelForSeq2SeqLM.from_pretrained(run.model)
    batch = collate(rows[:4])
    with torch.no_grad():
        mine, theirs = (one.eval()(**batch).logits for one in (model, again))
    assert mine.dtype == torch.float32 and torch.equal(mine, theirs)
    said, same = (text2text.generate(one, tokenizer, TEXTS[:4], max_new_tokens=8).texts for one in (model, again))
    assert said == same


@pytest.mark.parametrize("name", DECODERS)
def test_adapters_on_four_bit_weights_trained_in_bf16_reload_to_the_same_logits_and_merge_within_rounding(run, name):
    tokenizer = tokenizer_of(name)
    rows = completion_rows(tokenizer, [f"Say: {text[:150]}\n" for text in TEXTS], [" " + text[:20] for text in TEXTS])
    adapted, collate = with_adapters(decoder(name, lora.four_bit()), 4, 8), text2text.CompletionCollator(tokenizer)
    told = {"learning_rate": 3e-3, "max_steps": 3, "label_names": ["labels"]} | PLAIN
    args = TrainingArguments(run.checkpoints, **told, **course.precision(adapted))
    Trainer(adapted, args, train_dataset=rows, data_collator=collate, callbacks=course.callbacks(run)).train()
    batch = collate(rows[:4])
    expected = lora.logits(adapted, batch)
    adapted.save_pretrained(run.model)
    again = PeftModel.from_pretrained(lora.prepared(decoder(name, lora.four_bit())), run.model).eval()
    assert torch.equal(lora.logits(again, batch), expected)
    merged = lora.merge(again, torch.bfloat16)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in merged.buffers() if b.is_floating_point()} <= {torch.float32}  # rotary frequencies keep their digits
    off = lora.relative_difference(lora.logits(merged, batch), expected)
    assert 0 < off < lora.MERGING_ROUNDS[torch.bfloat16]


def test_a_merged_model_in_bf16_reloads_to_the_same_logits(tmp_path):
    tokenizer = tokenizer_of()
    merged = lora.merge(with_adapters(decoder(quantization=lora.four_bit(torch.bfloat16)), 4, 8), torch.bfloat16)
    merged.save_pretrained(tmp_path)
    rows = completion_rows(tokenizer, [f"Say: {text[:150]}\n" for text in TEXTS[:4]], ["yes"] * 4)
    again = decoder(str(tmp_path), dtype=torch.bfloat16)
    assert largest_difference(merged, again, text2text.CompletionCollator(tokenizer)(rows)) == 0


# ---------------------------------------------------------------- what a training leaves behind


def test_checks_run_in_the_trainings_precision_and_reported_figures_in_fp32(run):
    trainer = trainer_for(config(), run, rows=16, max_steps=2, eval_steps=1, save_steps=1)
    seen = seen_by(trainer.model.classifier)
    trainer.train()
    assert set(seen) == {torch.bfloat16} and len(seen) == 2 * 2  # steps and checks
    seen.clear()
    trainer.predict(trainer.eval_dataset)
    assert set(seen) == {torch.float32}


def test_a_training_that_is_cut_off_is_not_taken_for_a_finished_one(run):
    trainer = trainer_for(config(), run, rows=16, **SHORT)
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(CourseError, match=r"train in fp32 \(COURSE_PRECISION=fp32\)"):
        trainer.train()
    assert not getattr(trainer.model, training.TRAINED, False)


def test_the_trap_that_the_course_leads_out_of_is_still_there(run):
    """A Trainer of 16 bits leaves autocast behind: a model that it only predicts with goes on in 16 bits."""
    trainer = trainer_for(config(), run, rows=16, **SHORT)
    trainer.predict(trainer.eval_dataset)
    assert "forward" in vars(trainer.model), "the trap is gone: shared/course/training.py can do without leave_autocast"


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
