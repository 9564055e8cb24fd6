import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertTokenizer, T5Config, T5ForConditionalGeneration, Trainer, TrainerControl, TrainerState, TrainingArguments

from shared import metrics
from shared.course.runtime import ROOT, CourseError

sys.path.insert(0, str(ROOT / "task-2" / "lab-without-pretraining"))

import tools

TEXT = "The mill closed in 1911. Nobody repaired it."


def row(*answers, context=TEXT):
    return {"context": context, "answers": {"text": list(answers), "answer_start": [context.index(text) for text in answers]}}


# ---------------------------------------------------------------- equal input


@pytest.mark.parametrize(
    ("characters", "kept"),
    [
        (1_000, TEXT), (len(TEXT), TEXT), (24, TEXT[:24]), (23, "The mill closed in"), (18, "The mill closed in"), (17, "The mill closed"),
        (2, "Th"),
    ],
)
def test_a_text_is_cut_between_words(characters, kept):
    assert tools.shortened(row("1911"), characters)["context"] == kept


def test_an_answer_that_is_cut_or_misplaced_is_left_out():
    both = row("mill", "Nobody")
    assert tools.shortened(both, 24)["answers"] == {"text": ["mill"], "answer_start": [4]}
    assert tools.shortened(both, 1_000)["answers"] == both["answers"]
    assert tools.shortened(row("in 1911"), 20)["answers"] == {"text": [], "answer_start": []}
    for text, start in (("mill", 5), ("", -1), (" ", 3)):
        answers = {"text": [text], "answer_start": [start]}
        assert tools.shortened({"context": TEXT, "answers": answers}, 1_000)["answers"]["text"] == []
    assert tools.shortened({"context": TEXT, "answers": None}, 1_000)["answers"]["text"] == []


def test_a_text_without_spaces_is_cut_at_the_character():
    assert tools.shortened(row("水车", context="水车停止于一九一一年"), 4)["context"] == "水车停止"
    with pytest.raises(CourseError, match=r"^0 characters leave nothing to read: give at least 1$"):
        tools.shortened(row("1911"), 0)


def test_the_sentence_with_a_character():
    assert tools.sentence_with(TEXT, TEXT.index("1911")) == "The mill closed in 1911."
    assert tools.sentence_with(TEXT, TEXT.index("Nobody")) == "Nobody repaired it."
    assert tools.sentence_with(TEXT, TEXT.index(" Nobody")) == TEXT  # between the two
    assert tools.sentence_with("It did. It rang. It did.", 17) == "It did."


def test_sizes_of_a_curve():
    assert tools.sizes("2000, 500,all", 800) == [500, 800]
    assert tools.sizes("1_000,all,50", 3_000) == [50, 1_000, 3_000]
    assert tools.sizes(None, 7) == [7]  # --set curve_rows=all
    for wrong in ("0", "500,", "many", "-3", "1.5"):
        with pytest.raises(CourseError, match="give numbers of rows with commas between them, or all"):
            tools.sizes(wrong, 10)


# ---------------------------------------------------------------- equal time


def steps_in(seconds, takes, monkeypatch):
    """How many steps of these seconds a trial of so many makes."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(tools.time, "perf_counter", lambda: clock.now)
    watch, state, control = tools.StopAfter(seconds), TrainerState(), TrainerControl()
    watch.on_train_begin(None, state, control)
    while not control.should_training_stop:
        clock.now += takes
        state.global_step += 1
        watch.on_step_end(None, state, control)
    assert watch.spent == pytest.approx(clock.now)
    return state.global_step


def test_a_trial_begins_no_step_that_would_pass_its_limit(monkeypatch):
    assert steps_in(10.5, 1.0, monkeypatch) == 10
    assert steps_in(10.5, 4.0, monkeypatch) == 2
    assert steps_in(10.5, 60.0, monkeypatch) == 1  # the first is always made
    for seconds in (0.0, -1.0, float("nan")):
        with pytest.raises(CourseError, match="give it more than 0"):
            tools.StopAfter(seconds)


@pytest.mark.parametrize(("seconds", "steps"), [(1e-9, 1), (600, 3)])
def test_a_trainer_stops_when_its_time_is_over_or_its_steps_are_made(seconds, steps, tmp_path):
    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, x, labels):
            return {"loss": (self.weight * x - labels).square().mean()}

    watch, rows = tools.StopAfter(seconds), [{"x": 1.0, "labels": 2.0}] * 8
    arguments = TrainingArguments(tmp_path, max_steps=3, use_cpu=True, report_to="none", save_strategy="no", disable_tqdm=True)
    trainer = Trainer(Line(), arguments, train_dataset=rows, callbacks=[watch])
    trainer.train()
    assert trainer.state.global_step == steps and watch.spent > 0


# ---------------------------------------------------------------- one unit of loss


def test_bits_per_character_by_hand():
    assert tools.bits_per_character(np.array([4 * np.log(10)]), ["1911"])["value"] == pytest.approx(np.log2(10))
    assert tools.bits_per_character(np.array([4 * np.log(2), 0.0]), [" ab ", "cdef"]) == {"value": pytest.approx(4 / 6)}
    with pytest.raises(CourseError, match=r"^2 losses for 1 answers"):
        tools.bits_per_character(np.zeros(2), ["a"])
    with pytest.raises(CourseError, match="no characters"):
        tools.bits_per_character(np.zeros(1), [" "])


def test_the_interval_of_bits_draws_whole_groups():
    nats, answers, groups = np.log(2) * np.array([1.0, 1.0, 8.0, 8.0]), ["aa"] * 4, ["one", "one", "other", "other"]
    weights, _ = metrics.cluster_weights(groups, seed=0)
    found = tools.bits_per_character(nats, answers, weights)
    assert found == pytest.approx({"value": 2.25, "low": 0.5, "high": 4.0})


@pytest.fixture(scope="module")
def small():
    """A T5 and a BERT tokenizer of ten tokens."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mill", "1911", "when", "flood", "may"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_input_names=["input_ids", "attention_mask"])
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 10}
    model = T5ForConditionalGeneration(T5Config(**sizes, pad_token_id=0, eos_token_id=3, decoder_start_token_id=3))
    return model, tokenizer


def coded(tokenizer, *pairs):
    return Dataset.from_list([{**tokenizer(source), "labels": tokenizer(text_target=target)["input_ids"]} for source, target in pairs])


def test_surprise_is_the_loss_of_the_answer_without_its_opening_token(small):
    model, tokenizer = small
    rows = coded(tokenizer, ("when mill", "1911"), ("when flood mill mill", "may 1911"), ("flood", "may"))
    model.train()
    found = tools.surprise(model, tokenizer, rows, batch_size=2)
    assert model.training
    model.eval()
    for row, nats in zip(rows, found, strict=True):
        labels = torch.tensor([row["labels"]])
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]]), labels=labels).logits
        each = -logits.log_softmax(-1)[0].gather(-1, labels[0][:, None])[:, 0]
        assert row["labels"][0] == tokenizer.cls_token_id and nats == pytest.approx(each[1:].sum().item(), abs=1e-4)
