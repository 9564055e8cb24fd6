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

from shared import qa
from shared.legacy import data, models

LENGTH, STRIDE, N_BEST, LONGEST = 384, 128, 20, 30


def questions(rows: int) -> Dataset:
    """Real questions where COURSE_DATA names a folder, else the bundled ones repeated (few paragraphs, which favours shared.qa)."""
    if os.environ.get("COURSE_DATA"):
        return data.load_split("squad", "train", rows)
    bundled = data.bundled_split("squad", "train")
    return bundled.select(np.arange(rows) % len(bundled))


def call(tokenizer, batch, **more) -> dict:
    """The bare call: windows with offsets."""
    return tokenizer(
        [question.lstrip() for question in batch["question"]], batch["context"], truncation="only_second", max_length=LENGTH,
        stride=STRIDE, return_overflowing_tokens=True, return_offsets_mapping=True, **more,
    )


def usual_features(rows: Dataset, tokenizer) -> Dataset:
    """Windows and labels by a Python loop over windows and tokens, inside `datasets.map`; padded, as the usual loop's are."""

    def prepare(batch):
        tokens = call(tokenizer, batch, padding="max_length")
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


def compare(rows: int = 5_000) -> dict[str, float]:
    """Ratios: features against the bare call, the usual loop against our features, the usual decoding against ours."""
    dataset = questions(rows)
    _, tokenizer, _ = models.load_encoder("minilm", "pretrained", None, head="spans")
    batch, seconds = dataset[:], {}
    source = "rows of COURSE_DATA" if os.environ.get("COURSE_DATA") else "the bundled rows, repeated"
    print(f"question answering on {len(dataset):,} questions about {len(set(batch['context'])):,} paragraphs: {source}")

    def timed(name, work):
        """The result; its time is the best of three, as the first also pays for memory that later ones find."""
        for _ in range(3):
            started = time.perf_counter()
            result = work()
            seconds[name] = min(seconds.get(name, np.inf), time.perf_counter() - started)
        return result

    tokens = timed("call", lambda: call(tokenizer, batch))
    features = timed("features", lambda: qa.train_features(dataset, tokenizer, LENGTH, STRIDE))
    usual = timed("usual features", lambda: usual_features(dataset, tokenizer))
    own = (ids[:sum(mask)] for ids, mask in zip(usual["input_ids"], usual["attention_mask"], strict=True))
    assert features["input_ids"][:] == list(own) and features["start_positions"][:] == usual["start_positions"][:]
    windows = qa.eval_features(dataset, tokenizer, LENGTH, STRIDE)
    logits = readers_logits(windows)
    for window, spans in enumerate(tokens["offset_mapping"]):  # as such notebooks keep them: no offsets outside the context
        sides = tokens.sequence_ids(window)
        tokens["offset_mapping"][window] = [span if side == 1 else None for span, side in zip(spans, sides, strict=True)]
    answers = timed("decoding", lambda: qa.decode_spans(windows, *logits, N_BEST, LONGEST).texts)
    by_loop = timed("usual decoding", lambda: usual_answers(dataset, tokens, *logits))
    assert answers == by_loop, "the two decoders differ"
    return {
        "features": seconds["features"] / seconds["call"],
        "usual features": seconds["usual features"] / seconds["features"],
        "decoding": seconds["usual decoding"] / seconds["decoding"],
    }
