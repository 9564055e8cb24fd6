"""The question-answering part of `make bench`: shared.qa against the loops that most notebooks use, side by side.

Both loops are written from their definition: a label is found by walking from the window's first and last context token
inwards; an answer by pairing the n best starts with the n best ends of each window of a question.
"""

from __future__ import annotations

import os
import time
from collections import defaultdict

import numpy as np
from datasets import Dataset

from shared import data, models, qa

LENGTH, STRIDE, N_BEST, LONGEST = 384, 128, 20, 30


def questions(rows: int) -> Dataset:
    """Real questions where COURSE_DATA names a folder, else the bundled ones repeated (few paragraphs, which favours shared.qa)."""
    if os.environ.get("COURSE_DATA"):
        return data.load_split("squad", "train", rows)
    bundled = data.bundled_split("squad", "train")
    return bundled.select(np.arange(rows) % len(bundled))


def call(tokenizer, batch) -> dict:
    """The bare call: windows with offsets."""
    return tokenizer(
        [question.lstrip() for question in batch["question"]], batch["context"], truncation="only_second", max_length=LENGTH,
        stride=STRIDE, return_overflowing_tokens=True, return_offsets_mapping=True,
    )


def usual_features(rows: Dataset, tokenizer) -> Dataset:
    """Windows and labels by a Python loop over windows and tokens, inside `datasets.map`."""

    def prepare(batch):
        tokens = call(tokenizer, batch)
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


def usual_answers(rows: Dataset, tokens: dict, sides: list, start: np.ndarray, end: np.ndarray) -> list[str]:
    """The best answer of each question by nested loops over its windows and their best starts and ends."""
    of_row, contexts, answers = defaultdict(list), rows["context"][:], []
    for window, row in enumerate(tokens["overflow_to_sample_mapping"]):
        of_row[row].append(window)
    for row, context in enumerate(contexts):
        candidates = []
        for window in of_row[row]:
            offsets = [span if side == 1 else None for span, side in zip(tokens["offset_mapping"][window], sides[window], strict=True)]
            best_starts = np.argsort(-start[window], kind="stable")[:N_BEST].tolist()
            best_ends = np.argsort(-end[window], kind="stable")[:N_BEST].tolist()
            for i in best_starts:
                for j in best_ends:
                    if i >= len(offsets) or j >= len(offsets) or offsets[i] is None or offsets[j] is None:
                        continue
                    if j < i or j - i + 1 > LONGEST:
                        continue
                    span = offsets[i][0], offsets[j][1]
                    candidates.append((-(float(start[window][i]) + float(end[window][j])), *span))
        candidates = sorted(candidates)[:N_BEST]
        answers.append(context[candidates[0][1] : candidates[0][2]] if candidates else "")
    return answers


def peaked_logits(lengths: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits as a trained model's: low nearly everywhere, high at a few positions; [windows, longest], padded with -100."""
    rng, shape = np.random.default_rng(seed), (len(lengths), int(lengths.max()))
    made = []
    for _ in range(2):
        logits = rng.normal(-6, 2, shape).astype(np.float32)
        logits += np.where(rng.random(shape) < 0.02, rng.normal(8, 3, shape), 0).astype(np.float32)
        made.append(np.where(np.arange(shape[1]) < lengths[:, None], logits, np.float32(-100)))
    return made[0], made[1]


def compare(rows: int = 5_000) -> dict[str, float]:
    """Ratios: features against the bare call, the usual loop against our features, the usual decoding against ours."""
    dataset = questions(rows)
    _, tokenizer, _ = models.load_encoder("minilm", "pretrained", None, head="spans")
    batch, seconds = dataset[:], {}
    source = "rows of COURSE_DATA" if os.environ.get("COURSE_DATA") else "the bundled rows, repeated"
    print(f"question answering on {len(dataset):,} questions about {len(set(batch['context'])):,} paragraphs: {source}")

    def timed(name, work):
        started = time.perf_counter()
        result = work()
        seconds[name] = time.perf_counter() - started
        return result

    tokens = timed("call", lambda: call(tokenizer, batch))
    features = timed("features", lambda: qa.train_features(dataset, tokenizer, LENGTH, STRIDE))
    usual = timed("usual features", lambda: usual_features(dataset, tokenizer))
    assert features["input_ids"] == usual["input_ids"] and features["start_positions"] == usual["start_positions"]
    windows = qa.eval_features(dataset, tokenizer, LENGTH, STRIDE)
    logits = peaked_logits(windows.length)
    sides = [tokens.sequence_ids(window) for window in range(len(windows))]
    answers = timed("decoding", lambda: qa.decode_spans(windows, *logits, N_BEST, LONGEST).texts)
    by_loop = timed("usual decoding", lambda: usual_answers(dataset, tokens, sides, *logits))
    assert answers == by_loop, "the two decoders differ"
    return {
        "features": seconds["features"] / seconds["call"],
        "usual features": seconds["usual features"] / seconds["features"],
        "decoding": seconds["usual decoding"] / seconds["decoding"],
    }
