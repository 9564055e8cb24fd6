"""The question-answering part of `make bench`: what windows and labels cost by the library's own call, and span decoding.

Both loops are written from their definition: a label is found by walking from the window's first and last context token
inwards; an answer by pairing the n best starts with the n best ends of each window of a question.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, load_dataset
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from shared import data, qa
from shared.course import runtime, standin
from tests.bench_timing import Ratio, ratio, side_by_side

MODEL = "sentence-transformers/all-MiniLM-L6-v2"
LENGTH, STRIDE, N_BEST, LONGEST = 384, 128, 20, 30


class Features(NamedTuple):
    """Windows and labels of some questions: time of the usual function over that of `qa.train_features`, the same values from both."""

    data: str
    questions: int
    paragraphs: int
    usual: Ratio  # each window as long as its text
    padded: Ratio  # each window padded to the limit, as the Hugging Face course does it


def load_tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL)


def samples(rows: int) -> dict[str, Dataset]:
    """Questions by where they come from: the bundled ones as they are, and others where the setup found them, drawn in two ways.

    A draw at random, as the lesson makes it, takes few questions of each paragraph; the first rows take all.
    """
    found = {"the course's bundled rows": data.bundled_split("squad", "train")}
    if (place := standin.start(runtime.profile()).rows) != "bundled":
        whole = load_dataset("rajpurkar/squad", split="train")
        name = "squad/train of the Hub" if place == "hub" else "squad/train of COURSE_DATA"
        found[f"{name}, drawn at random"] = data.subsample(whole, rows, seed=0)
        found[f"{name}, the first rows"] = whole.select(range(min(rows, len(whole))))
    return found


# ---------------------------------------------------------------- windows and labels


def call(tokenizer: PreTrainedTokenizerBase, batch: dict[str, list], **more: Any) -> Any:
    """The library's own call: windows with offsets."""
    return tokenizer(
        [question.lstrip() for question in batch["question"]], batch["context"], truncation="only_second", max_length=LENGTH,
        stride=STRIDE, return_overflowing_tokens=True, return_offsets_mapping=True, **more,
    )  # fmt: skip


def usual_features(rows: Dataset, tokenizer: PreTrainedTokenizerBase, padding: bool | str = False) -> Dataset:
    """The usual function of notebooks and of the Hugging Face course: the library's call inside `map`, labels from its offsets.

    A Python loop walks over the windows and their tokens. padding: "max_length" in the Hugging Face course.
    """

    def prepare(batch):
        tokens = call(tokenizer, batch, padding=padding)
        samples, offsets = tokens.pop("overflow_to_sample_mapping"), tokens.pop("offset_mapping")
        starts, ends = [], []
        for window, spans in enumerate(offsets):
            cls = tokens["input_ids"][window].index(tokenizer.cls_token_id)
            sides, answer = tokens.sequence_ids(window), batch["answers"][samples[window]]
            left, right = answer["answer_start"][0], answer["answer_start"][0] + len(answer["text"][0])
            first, last = 0, len(sides) - 1
            while sides[first] != 1:
                first += 1
            while sides[last] != 1:
                last -= 1
            if spans[first][0] > left or spans[last][1] < right:
                starts.append(cls)
                ends.append(cls)
                continue
            while first < len(spans) and spans[first][0] <= left:
                first += 1
            while spans[last][1] >= right:
                last -= 1
            starts.append(first - 1)
            ends.append(last + 1)
        return dict(tokens) | {"start_positions": starts, "end_positions": ends}

    return rows.map(prepare, batched=True, remove_columns=rows.column_names, load_from_cache_file=False)


def values(features: Dataset) -> dict[str, list]:
    """All columns as lists, each window without its padding on the right."""
    mask = features["attention_mask"][:]
    found = {}
    for name in sorted(features.column_names):
        column = features[name][:]
        listed = isinstance(column[0], list)
        found[name] = [row[: sum(own)] for row, own in zip(column, mask, strict=True)] if listed else column
    return found


def features(name: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase, rounds: int = 3, repeat: int = 1) -> Features:
    """What the usual function takes beside `qa.train_features` on rows whose answers stand where they should."""
    rows = qa.sound_rows(rows, skip_bad_answers=True, tokenizer=tokenizer)
    ways = {
        "ours": lambda: qa.train_features(rows, tokenizer, LENGTH, STRIDE),
        "usual": lambda: usual_features(rows, tokenizer),
        "padded": lambda: usual_features(rows, tokenizer, "max_length"),
    }
    seconds, results = side_by_side(ways, rounds, repeat)
    ours = values(results["ours"])
    assert ours == values(results["usual"]) == values(results["padded"]), "the features differ"
    against = {way: ratio(seconds[way], seconds["ours"]) for way in ("usual", "padded")}
    return Features(name, len(rows), len(set(rows["context"])), **against)


# ---------------------------------------------------------------- decoding


def usual_answers(rows: Dataset, tokens: dict, start: np.ndarray, end: np.ndarray) -> list[str]:
    """The answer of each question by nested loops over its windows and their best starts and ends, with the n-best list beside it.

    As in the question-answering examples that most notebooks copy: a dictionary for every valid pair of a question, the
    n best of them with their texts and a softmax over their scores, of which the first is the answer. `decode_spans`
    gives the same list as arrays. Here equal scores are ordered by position, or the answers could not be compared.
    """
    of_row, contexts, answers = defaultdict(list), rows["context"][:], []
    for window, row in enumerate(tokens["overflow_to_sample_mapping"]):
        of_row[row].append(window)
    for row, context in enumerate(contexts):
        candidates = []
        for window in of_row[row]:
            offsets = tokens["offset_mapping"][window]
            best_starts = np.argsort(-start[window], kind="stable")[:N_BEST].tolist()
            best_ends = np.argsort(-end[window], kind="stable")[:N_BEST].tolist()
            for i in best_starts:
                for j in best_ends:
                    if i >= len(offsets) or j >= len(offsets) or offsets[i] is None or offsets[j] is None:
                        continue
                    if j < i or j - i + 1 > LONGEST:
                        continue
                    logits = float(start[window][i]), float(end[window][j])
                    span = offsets[i][0], offsets[j][1]
                    candidates.append({"span": span, "score": sum(logits), "start_logit": logits[0], "end_logit": logits[1]})
        candidates = sorted(candidates, key=lambda found: (-found["score"], found["span"]))[:N_BEST]
        scores = np.array([found["score"] for found in candidates] or [0.0])
        shares = np.exp(scores - scores.max())
        for found, share in zip(candidates, shares / shares.sum(), strict=False):
            found |= {"text": context[found["span"][0] : found["span"][1]], "probability": float(share)}
        answers.append(candidates[0]["text"] if candidates else "")
    return answers


def readers_logits(windows: qa.Windows, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits as a trained reader's: a few places stand out, and what lies near them does too; [windows, longest], padded with -100.

    A fine-tuned reader has about 130 valid pairs among a window's 20 x 20 best (counted on SQuAD v2: 132), these logits 120 to 140.
    """
    rng, shape = np.random.default_rng(seed), (len(windows), int(windows.length.max()))
    position, made = np.arange(shape[1]), []
    places = windows.first[:, None] + rng.random((len(windows), 4)) * windows.size[:, None]
    for shift in (0, 3):  # an answer ends some tokens after its start
        distance = np.abs(position[None, :, None] - places[:, None, :] - shift)
        height = rng.normal(6, 2, places.shape)[:, None, :] - distance
        inside = (position >= windows.first[:, None]) & (position < (windows.first + windows.size)[:, None])
        logits = np.where(inside, np.maximum(height.max(2), -8), -9) + rng.normal(0, 1, shape)
        made.append(np.where(position < windows.length[:, None], logits, -100).astype(np.float32))
    return made[0], made[1]


def decoding(rows: Dataset, tokenizer: PreTrainedTokenizerBase, rounds: int = 3) -> Ratio:
    """Time of the usual loops over that of `qa.decode_spans`, n-best lists on both sides; the answers are the same."""
    tokens, windows = call(tokenizer, rows[:]), qa.eval_features(rows, tokenizer, LENGTH, STRIDE)
    logits = readers_logits(windows)
    for window, spans in enumerate(tokens["offset_mapping"]):  # as such notebooks keep them: no offsets outside the context
        sides = tokens.sequence_ids(window)
        tokens["offset_mapping"][window] = [span if side == 1 else None for span, side in zip(spans, sides, strict=True)]
    ways = {
        "ours": lambda: qa.decode_spans(windows, *logits, N_BEST, LONGEST).texts,
        "usual": lambda: usual_answers(rows, tokens, *logits),
    }
    seconds, results = side_by_side(ways, rounds)
    assert results["ours"] == results["usual"], "the two decoders differ"
    return ratio(seconds["usual"], seconds["ours"])
