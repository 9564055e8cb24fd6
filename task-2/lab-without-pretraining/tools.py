"""Equal time, equal input and one unit of loss: what the comparisons of this lab rest on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from shared import metrics
from shared.course import runtime
from shared.course.runtime import CourseError


class StopAfter(TrainerCallback):
    """Ends a training before so many seconds are over, for comparing models at equal time.

    The step that would pass the limit, if it took as long as the mean of those before it, is not begun: else the model with
    the slower step would get more time. The first step is always made. `spent` holds the seconds that were.
    """

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise CourseError(f"a trial of {seconds} seconds trains nothing: give it more than 0")
        self.seconds, self.spent = seconds, 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        self.started = _clock()

    def on_step_end(self, args, state, control, **kwargs):
        self.spent = _clock() - self.started
        over = self.spent * (1 + 1 / state.global_step) > self.seconds
        control.should_training_stop |= runtime.agreed(lambda: over)  # one clock for all processes, or one would wait for ever


def _clock() -> float:
    """Now, in seconds, after a GPU has done what it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return time.perf_counter()


def shortened(row: Mapping[str, Any], characters: int) -> dict[str, Any]:
    """{'context', 'answers'}: the paragraph's first `characters`, whole words only, and the answers that lie in them.

    Characters, since tokens would cut the same text in another place for every tokenizer. An answer that does not stand where its
    row says is left out as well, so a row may have none left. Raises CourseError for a limit below 1.
    """
    if characters < 1:
        raise CourseError(f"{characters} characters leave nothing to read: give at least 1")
    text = row["context"]
    if len(text) > characters:
        head = text[: characters + 1]
        text = head[: max(head.rfind(" "), 0)] or head[:characters]  # without spaces, as in Chinese, at the very character
    answers = row["answers"] or {}
    pairs = zip(answers.get("text") or [], answers.get("answer_start") or [], strict=False)
    whole = [(said, start) for said, start in pairs if said.strip() and start >= 0 and text[start : start + len(said)] == said]
    return {"context": text, "answers": {"text": [said for said, _ in whole], "answer_start": [start for _, start in whole]}}


def surprise(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, encoded: Dataset, batch_size: int = 32) -> np.ndarray:
    """-log P of each row's labels given its source and the labels before, in nats, float64 [rows].

    Args:
        encoded: rows with input_ids, attention_mask and labels.

    The token that a BERT tokenizer opens every text with is no part of the answer and is left out; the one that ends it counts.
    """
    collate, found, was_training = DataCollatorForSeq2Seq(tokenizer, model=model), [], model.training
    model.eval()
    opening = -100 if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    for start in range(0, len(encoded), batch_size):
        batch = collate([encoded[row] for row in range(start, min(start + batch_size, len(encoded)))]).to(model.device)
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch).logits.float()
        wanted = labels.masked_fill(labels == opening, -100)
        lost = torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, ignore_index=-100, reduction="none")
        found += lost.cpu().double().sum(1).tolist()
    model.train(was_training)
    return np.array(found)


def bits_per_character(nats: np.ndarray, answers: Sequence[str], weights: np.ndarray | None = None) -> dict[str, float]:
    """{'value', 'low', 'high'}: all bits over all characters of the answers, with its 95 % interval; the value alone without weights.

    Args:
        nats: [rows], as `surprise` returns them.
        weights: [resamples, rows], as `metrics.cluster_weights` returns them.

    Raises CourseError where the two differ in number, and where the answers have no character.
    """
    size = np.array([len(answer.strip()) for answer in answers], np.float64)
    if len(nats) != len(size):
        raise CourseError(f"{len(nats)} losses for {len(size)} answers: give one a row, in the same order")
    if not size.sum():
        raise CourseError("the answers have no characters to divide by: give rows with an answer")
    bits = np.asarray(nats, np.float64) / np.log(2)
    value = float(bits.sum() / size.sum())
    if weights is None:
        return {"value": value}
    characters = weights @ size
    drawn = (weights @ bits)[characters > 0] / characters[characters > 0]
    return metrics.interval(value, drawn)


def sentence_with(context: str, start: int) -> str:
    """The sentence of the context in which the character stands; the whole context where it stands between two."""
    after = 0
    for sentence in metrics.split_sentences(context):
        begins = context.index(sentence, after)
        after = begins + len(sentence)
        if begins <= start < after:
            return sentence
    return context


def sizes(text: str | None, rows: int) -> list[int]:
    """The numbers of training rows in "500,2000,all", in rising order, each once; those that are more than `rows` become `rows`.

    Raises CourseError for what is neither a number above 0 nor `all`.
    """
    found = set()
    for part in (text or "all").split(","):
        word = part.strip().replace("_", "")
        if word != "all" and not (word.isdecimal() and int(word)):
            raise CourseError(f"curve_rows has {part.strip()!r}: give numbers of rows with commas between them, or all: 500,2000,all")
        found.add(rows if word == "all" else min(int(word), rows))
    return sorted(found)
