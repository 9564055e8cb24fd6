"""Extractive question answering: windows with stride, answer positions, span decoding. Knows no data set and no metric.

A context longer than the model becomes several overlapping windows. Training needs each window's first and last answer
token, or the sign that the answer is elsewhere; decoding has to merge what the windows of one question say.

The windows are those of the library's own call, `tokenizer(questions, contexts, truncation="only_second", max_length=…,
stride=…, return_overflowing_tokens=True)`. Its `stride` is the number of tokens that two neighbours share, not the step.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from shared.course.rows import squad_answers
from shared.course.runtime import CourseError, check_max_length, encodable

N_BEST, MAX_ANSWER_TOKENS = 20, 30  # the defaults of the official BERT and transformers scripts
CHARACTERS = 500_000  # tokenised at a time: the tokenizer's lists take some fifty bytes a character
BLOCK = 1_024  # windows that a thread decodes at a time: few enough for some megabytes, enough to be out of the interpreter mostly
CURE = "predict on windows.inputs, all of it, in its order, padded on the right"


# ---------------------------------------------------------------- rows


def sound_rows(
    rows: Dataset, *, skip_bad_answers: bool = False, unanswerable: bool = False, tokenizer: PreTrainedTokenizerBase | None = None
) -> Dataset:
    """The rows to learn from, or to score on, with their answers as the Hub has them: {text: [...], answer_start: [...]}.

    This is the one filter: windows, labels, gold answers and baselines are made of what it returns, so that they belong together.

    Args:
        rows: with the columns id, question, context and answers, in any of the forms that `squad_answers` reads.
        skip_bad_answers: leave rows out whose first answer does not stand at its answer_start, and print how many.
        unanswerable: rows may have no answer (SQuAD v2).
        tokenizer: then an answer none of whose characters becomes a token is bad, too.

    Raises CourseError for a missing column, a bad answer that is not to be skipped, and a row without answer where none may be.
    """
    ids, _, contexts = _read(rows, "answers")
    given, answers = rows["answers"][:], _answers(ids, rows, unanswerable)
    bad = np.array([bool(a["text"]) and _misplaced(a, context) for a, context in zip(answers, contexts, strict=True)])
    if tokenizer:
        bad[_without_tokens(answers, bad, tokenizer)] = True
    if bad.any() and not skip_bad_answers:
        raise CourseError(
            f"the answer of {_named(ids, bad)} does not stand at its answer_start: correct it, or drop such rows with skip_bad_answers=true"
        )
    if bad.all():
        raise CourseError(f"no row is left: none of the {len(ids):,} answers stands at its answer_start; check the column")
    if answers != given:
        rows = rows.remove_columns("answers").add_column("answers", answers)
    if bad.any():
        print(f"skipped {bad.sum():,} of {len(ids):,} rows: their answer does not stand at its answer_start")
        rows = rows.select(np.flatnonzero(~bad))
    return rows


def _read(rows: Dataset | Mapping, *more: str) -> tuple[list[str], list[str], list[str]]:
    """The columns id, question and context as lists."""
    columns = rows.column_names if isinstance(rows, Dataset) else list(rows)
    for column in ("id", "question", "context", *more):
        if column not in columns:
            raise CourseError(f"the rows lack the column '{column}': they have {', '.join(columns)}")
    if not len(rows["id"]):
        raise CourseError("there are no rows: give at least one question")
    return rows["id"][:], rows["question"][:], rows["context"][:]


def _misplaced(answers: dict[str, list], context: str) -> bool:
    text, at = answers["text"][0], answers["answer_start"][0]
    return not text.strip() or at < 0 or context[at : at + len(text)] != text


def _without_tokens(answers: list[dict[str, list]], bad: np.ndarray, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The rows whose answer the tokenizer drops."""
    asked = [row for row, answer in enumerate(answers) if answer["text"] and not bad[row]]
    if not asked:
        return []
    tokens = tokenizer([answers[row]["text"][0] for row in asked], add_special_tokens=False)["input_ids"]
    return [row for row, ids in zip(asked, tokens, strict=True) if not ids]


def _answers(ids: list[str], rows: Dataset | Mapping, unanswerable: bool) -> list[dict[str, list]]:
    """The answers of all rows in the Hub's form."""
    try:
        answers = [squad_answers(value) for value in rows["answers"][:]]
    except (AttributeError, TypeError):
        raise CourseError("the column 'answers' holds no answers: write {'text': [...], 'answer_start': [...]} in every row") from None
    missing = [not answer["text"] for answer in answers]
    if any(missing) and not unanswerable:
        raise CourseError(f"{_named(ids, missing)} has no answer: remove it, or, for SQuAD v2, pass unanswerable=True")
    return answers


def _named(ids: Sequence[str], mask: Iterable[bool]) -> str:
    """The first row in the mask by its id, and how many more there are."""
    numbers = np.flatnonzero(np.fromiter(mask, bool, len(ids)))
    return f"row '{ids[numbers[0]]}'" + (f" (and {len(numbers) - 1:,} more)" if len(numbers) > 1 else "")


# ---------------------------------------------------------------- windows


@dataclass(frozen=True)
class Windows:
    """The windows of some questions, in the questions' order; what the model reads and what decoding needs.

    contexts: one per question. columns: the model's inputs, one list a window, unpadded (`inputs` as a Dataset).
    row [windows]: the question's number. length [windows]: tokens. cls [windows]: position of the CLS token.
    first, size [windows]: position of the first context token, and how many follow (0 for an empty context).
    token [windows]: that first token's number in start and end.
    start, end [context tokens of all windows]: character offsets in the context, end exclusive, without whitespace at the
    edges (a token of nothing else ends before it starts).
    """

    contexts: list[str]
    columns: dict[str, pa.Array]
    row: np.ndarray
    length: np.ndarray
    cls: np.ndarray
    first: np.ndarray
    size: np.ndarray
    token: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    @functools.cached_property
    def inputs(self) -> Dataset:
        """The model's inputs, a row a window."""
        return Dataset(pa.table(self.columns))


def eval_features(rows: Dataset | Mapping, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> Windows:
    """Every window of every row, for prediction: `decode_spans` takes it with the logits for its `inputs`.

    Args:
        rows: with the SQuAD columns id, context and question; answers are not looked at.
        max_length, stride: tokens of a window, special ones included, and context tokens that neighbours share.

    Raises CourseError for a missing column, a slow tokenizer or one without CLS token, a stride that makes no progress,
    and a question too long for its window.
    """
    ids, questions, contexts = _read(rows)
    questions = [question.lstrip() for question in questions]  # leading blanks would take the context's room; some data sets have many
    _check_windows(ids, questions, contexts, tokenizer, max_length, stride)
    options = {"truncation": "only_second", "max_length": max_length, "stride": stride}
    parts = [_cut(questions, contexts, part, tokenizer, options) for part in _batches(contexts)]
    row, length, first, size, start, end = (np.concatenate([part[k] for part in parts]) for k in range(6))
    bounds, columns = pa.array(np.append(0, length.cumsum()), pa.int32()), {}
    for name in parts[0][6]:
        values = np.concatenate([part[6][name] for part in parts])
        columns[name] = pa.ListArray.from_arrays(bounds, pa.array(values, pa.int32() if name == "input_ids" else pa.int8()))
    special = {columns["input_ids"][0][place].as_py(): place for place in (-1, 0)}
    if tokenizer.cls_token_id not in special:
        raise CourseError(
            f"{type(tokenizer).__name__} puts no CLS token beside a pair, and that is where 'no answer here' is said: "
            "choose an encoder such as bert, roberta or xlnet"
        )
    cls = np.zeros_like(length) if special[tokenizer.cls_token_id] == 0 else length - 1  # XLNet has it at the end
    return Windows(contexts, columns, row, length, cls, first, size, size.cumsum() - size, start, end)


def train_features(
    rows: Dataset | Mapping, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int, *, unanswerable: bool = False
) -> Dataset | dict[str, list]:
    """Every window of every row with start_positions and end_positions, the first answer's tokens in that window.

    Args:
        rows: as `sound_rows` returns them. A batch of `Dataset.map(..., batched=True)` gives the columns of its windows as lists.
        max_length, stride: as in `eval_features`.
        unanswerable: rows may have no answer (SQuAD v2).

    An answer's tokens are those that share a character with it, whitespace apart. Unless all of them are in the window,
    both positions are that of the CLS token, as for a row without answer (Devlin et al. 2019, arXiv 1810.04805, 4.3).
    Positions count from the left of the unpadded window, so pad on the right. Raises CourseError as `eval_features` does, and as
    `sound_rows` does for bad and missing answers.
    """
    ids, _, contexts = _read(rows, "answers")
    answers = _answers(ids, rows, unanswerable)
    windows = eval_features(rows, tokenizer, max_length, stride)
    first, last, found = _answer_tokens(windows, answers, stride)
    bad = [bool(a["text"]) and (_misplaced(a, text) or not there) for a, text, there in zip(answers, contexts, found, strict=True)]
    if any(bad):
        raise CourseError(f"the answer of {_named(ids, bad)} does not stand at its answer_start: qa.sound_rows leaves such rows out")
    labels = {"start_positions": pa.array(first), "end_positions": pa.array(last)}
    table = pa.table(windows.columns | labels)
    return Dataset(table) if isinstance(rows, Dataset) else table.to_pydict()


def collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], BatchEncoding]:
    """A data collator that pads each batch to its longest window, always on the right.

    Answer positions and logits count from a window's left. XLNet's tokenizer pads there, which would shift them by a
    different amount in every batch; the model itself, with relative positions and a mask, does not mind the side.
    """
    return functools.partial(pad_without_fast_tokenizer_warning, tokenizer, padding_side="right", return_tensors="pt")


def _check_windows(
    ids: list[str], questions: list[str], contexts: list[str], tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int
) -> None:
    """The library panics, or cuts nothing at all, where these don't hold."""
    if not getattr(tokenizer, "is_fast", False):
        raise CourseError(
            f"{type(tokenizer).__name__} is not a fast tokenizer and knows no character offsets: load the model's fast "
            "tokenizer, or choose another model"
        )
    special, plain = tokenizer.num_special_tokens_to_add(pair=True), {"add_special_tokens": False, "verbose": False}
    if stride < 0:
        raise CourseError(f"stride {stride} is below zero: give the number of tokens that two windows share, 0 or more")
    if max_length - special <= stride:
        raise CourseError(
            f"max_length {max_length} with stride {stride} makes no progress: beside {special} special tokens a window holds "
            f"{max(max_length - special, 0)}, and that has to be more than the stride; raise max_length or lower stride"
        )
    check_max_length(max_length, tokenizer)
    asked = np.array([len(tokens) for tokens in tokenizer(questions, **plain)["input_ids"]])
    room = max_length - special - asked
    for row in np.flatnonzero(room <= stride):
        if room[row] < len(tokenizer(contexts[row], **plain)["input_ids"]):
            raise CourseError(
                f"the question of row '{ids[row]}' has {asked[row]} tokens and leaves {max(room[row], 0)} of {max_length} for the "
                f"context, not more than the stride of {stride}: raise max_length, lower stride, or shorten the question"
            )


def _batches(contexts: list[str]) -> Iterator[slice]:
    """Rows that are tokenised together: as many as have CHARACTERS, at least one."""
    group = np.cumsum([len(context) for context in contexts]) // CHARACTERS
    bounds = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), len(contexts)]
    return (slice(*pair) for pair in itertools.pairwise(bounds))


def _cut(questions: list[str], contexts: list[str], part: slice, tokenizer: PreTrainedTokenizerBase, options: dict[str, Any]) -> tuple:
    """The windows of some rows: row, length, first, size [windows], start, end [context tokens], and the inputs as flat arrays."""
    texts, flat = contexts[part], itertools.chain.from_iterable
    made = tokenizer(questions[part], texts, return_overflowing_tokens=True, return_offsets_mapping=True, verbose=False, **options)
    row = np.array(made["overflow_to_sample_mapping"])
    sides = [made.sequence_ids(window) for window in range(len(row))]
    length, size = np.array([len(side) for side in sides]), np.array([side.count(1) for side in sides])
    first = np.array([side.index(1) if 1 in side else len(side) for side in sides])
    inputs = {name: np.fromiter(flat(made[name]), np.int32, length.sum()) for name in tokenizer.model_input_names if name in made}
    offsets = np.fromiter(flat(flat(made["offset_mapping"])), np.int64, 2 * length.sum()).reshape(-1, 2)
    # the context tokens of window w are those from length[:w].sum() + first[w] on
    told = np.repeat(length.cumsum() - length + first - size.cumsum() + size, size) + np.arange(size.sum())
    start, end = _without_blanks(*offsets[told].T, np.repeat(row, size), texts)
    return row + part.start, length, first, size, start, end, inputs


def _without_blanks(start: np.ndarray, end: np.ndarray, row: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each start moved on to the next letter, each end back to the last one: some tokenizers count a word's leading space in.

    A token that is all whitespace then ends before it starts, and a run of tokens holds text just where it does not.
    """
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<U1")
    blank, place = np.char.isspace(letters), np.arange(len(letters))
    following = np.append(np.minimum.accumulate(np.where(blank, len(letters), place)[::-1])[::-1], len(letters))
    preceding = np.append(0, np.maximum.accumulate(np.where(blank, 0, place + 1)))
    size = np.array([*map(len, texts)])
    offset = (size.cumsum() - size)[row]  # of the token's text in the joined texts
    start, end = np.minimum(following[start + offset] - offset, size[row]), np.maximum(preceding[end + offset] - offset, 0)
    return start.astype(np.int32), end.astype(np.int32)


def _answer_tokens(windows: Windows, answers: list[dict[str, list]], stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last position of each row's first answer in each window, CLS for none, and whether an answer has a token at all."""
    left, right = np.full((2, len(answers)), -1)
    for row, answer in enumerate(answers):
        if answer["text"]:
            text, at = answer["text"][0], answer["answer_start"][0]
            left[row], right[row] = at + len(text) - len(text.lstrip()), at + len(text.rstrip())
    window, each = np.repeat(np.arange(len(windows)), windows.size), np.arange(len(windows))
    row = windows.row[window]
    touched = np.flatnonzero((windows.start < right[row]) & (windows.end > left[row]))  # tokens that share a character with the answer
    from_, to = (np.searchsorted(window[touched], each, side) for side in ("left", "right"))
    there = from_ < to
    first, last = (np.append(touched, 0)[np.where(there, at, -1)] - windows.token for at in (from_, to - 1))
    begins = np.searchsorted(windows.row, np.arange(len(answers)))  # the first window of each row
    before = (each - begins[windows.row]) * (windows.size[begins] - stride)[windows.row]  # the row's tokens to the window's left
    lowest = np.minimum.reduceat(np.where(there, before + first, np.iinfo(int).max), begins)
    highest = np.maximum.reduceat(np.where(there, before + last, -1), begins)
    whole = there & (before + first == lowest[windows.row]) & (before + last == highest[windows.row])
    first, last = (np.where(whole, windows.first + at, windows.cls) for at in (first, last))
    return first, last, highest >= 0


# ---------------------------------------------------------------- decoding


class Span(NamedTuple):
    """One answer of an n-best list: the context's characters start_char to end_char."""

    text: str
    start_char: int
    end_char: int
    score: float
    probability: float


@dataclass(frozen=True)
class Answers:
    """What the model says to each question, best first; spans of question q are bounds[q] to bounds[q + 1].

    start, end [spans]: characters in the question's context, end exclusive. score [spans]: start logit + end logit.
    probability [spans]: softmax over a question's n-best scores. null_score [questions]: the score of no answer.
    """

    contexts: list[str]
    bounds: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray
    probability: np.ndarray
    null_score: np.ndarray

    def best(self, column: np.ndarray, missing: float) -> np.ndarray:
        """[questions] the column's value of each question's best span, `missing` where it has none."""
        return np.where(np.diff(self.bounds) > 0, np.append(column, missing)[self.bounds[:-1]], missing)

    @property
    def null_odds(self) -> np.ndarray:
        """[questions] null score - best span's score; infinite where a question has no span."""
        return self.null_score - self.best(self.score, -np.inf)

    @property
    def texts(self) -> list[str]:
        """The text of each question's best span, "" where it has none."""
        spans = zip(self.best(self.start, 0).tolist(), self.best(self.end, 0).tolist(), strict=True)
        return [text[a:b] for text, (a, b) in zip(self.contexts, spans, strict=True)]

    def n_best(self, question: int) -> list[Span]:
        """The spans of one question, best first."""
        text, own = self.contexts[question], slice(*self.bounds[question : question + 2])
        columns = (column[own].tolist() for column in (self.start, self.end, self.score, self.probability))
        return [Span(text[a:b], a, b, score, probability) for a, b, score, probability in zip(*columns, strict=True)]


def decode_spans(
    windows: Windows,
    start_logits: np.ndarray | Sequence[np.ndarray],
    end_logits: np.ndarray | Sequence[np.ndarray],
    n_best: int = N_BEST,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
) -> Answers:
    """The n best answers to every question, from the logits of all of its windows.

    Args:
        windows: of `eval_features`.
        start_logits, end_logits: [windows, longest] as Trainer.predict gives them, or a list with an array per window.
            What lies beyond a window's own tokens is not looked at. Taken as float32, summed as float64.
        n_best: positions that compete in a window, and answers kept of a question.
        max_answer_tokens: tokens of the longest answer.

    The definition is `write_predictions` of the official run_squad.py (google-research/bert; transformers' utils_qa has
    it too): in each window the n_best highest start and the n_best highest end logits are paired, of equal ones the
    earlier; a pair counts if both are context tokens, start <= end, and it is not too long; its score is the sum. The
    null score is the lowest start + end logit at the CLS token over the question's windows.
    Added to it: a window contributes its n_best pairs, ties with the last included, less those of whitespace only; a span
    that comes up twice (in an overlap, from tokens of one character) counts once, with its best score; of equal scores
    the earlier start comes first, then the shorter span.
    """
    _check_decoding(windows, (start_logits, end_logits), n_best, max_answer_tokens)
    decode = functools.partial(_decode_block, windows, start_logits, end_logits, n_best, max_answer_tokens)
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # numpy lets go of the interpreter while it sorts and compares
        found = list(pool.map(decode, (slice(at, at + BLOCK) for at in range(0, len(windows), BLOCK))))
    null, row, left, right, score = map(np.concatenate, zip(*found, strict=True))
    null = np.minimum.reduceat(null, np.searchsorted(windows.row, np.arange(len(windows.contexts))))
    row, left, right, score = _best_per_question(row, left, right, score, windows.contexts, n_best)
    bounds = np.searchsorted(row, np.arange(len(null) + 1))
    share = np.exp(score - np.append(score, 0.0)[bounds[row]])  # of a question's best: no sum overflows
    return Answers(windows.contexts, bounds, left, right, score, share / np.bincount(row, share, len(null))[row], null)


def _decode_block(
    windows: Windows, start_logits: Any, end_logits: Any, n_best: int, longest: int, block: slice
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The null score of each of the block's windows, and the columns of their best pairs."""
    start, end = (_own_logits(logits[block], windows.length[block]) for logits in (start_logits, end_logits))
    null = sum(np.take_along_axis(logits, windows.cls[block, None], 1)[:, 0].astype(np.float64) for logits in (start, end))
    return null, *_candidates(windows, block, start, end, n_best, longest)


def _check_decoding(windows: Windows, both: tuple, n_best: int, max_answer_tokens: int) -> None:
    if n_best < 1 or max_answer_tokens < 1:
        raise CourseError(f"n_best {n_best} and max_answer_tokens {max_answer_tokens} have to be at least 1")
    for logits in both:
        if len(logits) != len(windows):
            raise CourseError(f"there are logits for {len(logits):,} windows, not {len(windows):,}: {CURE}")


def _own_logits(logits: np.ndarray | Sequence[np.ndarray], length: np.ndarray) -> np.ndarray:
    """Float32 [windows, longest], minus infinity beyond a window's own tokens."""
    longest = int(length.max())
    if not isinstance(logits, np.ndarray) or logits.ndim == 1 or logits.shape[1] < longest:
        logits = np.array([np.pad(row[:longest], (0, longest - len(row[:longest])), constant_values=-100) for row in logits])
    inside = np.arange(longest, dtype=np.int32) < length[:, None].astype(np.int32)
    own = np.where(inside, logits[:, :longest].astype(np.float32, copy=False), np.float32(-np.inf))
    if (np.take_along_axis(own, length[:, None] - 1, 1) == -100).any():  # the Trainer's padding
        raise CourseError(f"some logits end before their window does: {CURE}")
    if not (own < np.inf).all():  # false for nan, too
        raise CourseError("some logits are not finite: the model has overflowed; train and predict in fp32 or bf16")
    return own


def _candidates(
    windows: Windows, block: slice, start: np.ndarray, end: np.ndarray, n_best: int, longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(question, first character, end character, score) of the block's best pairs; logits [windows, positions]."""
    first, size = windows.first[block, None], windows.size[block, None]
    sides = []
    for logits in (start, end):
        at = _highest(logits, n_best)
        score = np.take_along_axis(logits, at, 1).astype(np.float64)
        score[(at < first) | (at >= first + size)] = -np.inf
        sides += [at.astype(np.uint32), score]
    a, score_a, b, score_b = sides
    score = score_a[:, :, None] + score_b[:, None, :]
    np.putmask(score, b[:, None, :] - a[:, :, None] >= longest, -np.inf)  # unsigned: an end before its start is far away
    flat = score.reshape(len(score), -1)
    # a full sort, since partition is several times slower where so many values are equal
    last = np.sort(flat, axis=1)[:, -n_best, None] if flat.shape[1] > n_best else -np.inf
    found = np.flatnonzero(flat >= np.maximum(last, np.finfo(float).min))
    window, i, j = np.unravel_index(found, score.shape)
    token = (windows.token - windows.first)[block][window]
    return windows.row[block][window], windows.start[token + a[window, i]], windows.end[token + b[window, j]], score.ravel()[found]


def _highest(logits: np.ndarray, k: int) -> np.ndarray:
    """Positions [rows, k] of each row's k highest values in rising order; of equal values the earlier ones."""
    rows, width = logits.shape
    if width <= k:
        return np.broadcast_to(np.arange(width), logits.shape)
    last = np.sort(logits, axis=1)[:, -k, None]
    taken = logits >= last
    tied = np.flatnonzero(np.count_nonzero(taken, axis=1) > k)
    above, level = logits[tied] > last[tied], logits[tied] == last[tied]
    taken[tied] = above | level & (level.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True))
    return (np.flatnonzero(taken) % width).reshape(rows, k)


def _best_per_question(
    row: np.ndarray, left: np.ndarray, right: np.ndarray, score: np.ndarray, contexts: list[str], n_best: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The same columns with each span once and at most n_best a question, sorted by the rule of `decode_spans`."""
    before = np.cumsum([0, *map(len, contexts)])[:-1]  # characters of all earlier contexts: question and span are one number
    span = ((left + before[row]) << 32) + right + before[row]
    order = np.argsort(span, kind="stable")  # nearly sorted already, which this kind turns to account
    order = order[(left < right)[order]]
    row, span, score = row[order], span[order], score[order]
    new = np.flatnonzero(np.diff(span, prepend=-1))
    row, span, score = row[new], span[new], np.maximum.reduceat(score, new) if len(new) else score
    order = np.argsort(row - 1j * score, kind="stable")  # complex numbers sort by two keys at once; equal ones stay in place
    row, span, score = row[order], span[order], score[order]
    kept = np.arange(len(row)) - np.searchsorted(row, np.arange(len(contexts)))[row] < n_best
    row, span, score = row[kept], span[kept], score[kept]
    return row, (span >> 32) - before[row], (span & 0xFFFFFFFF) - before[row], score


# ---------------------------------------------------------------- one question


@torch.inference_mode()
def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    context: str,
    max_length: int = 384,
    stride: int = 128,
    n_best: int = N_BEST,
) -> list[Span]:
    """The n best answers to one question about a text of any length, with their characters in it.

    Raises CourseError for an empty question or context, a model without a question-answering head, and as `eval_features` does.
    """
    for name, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise CourseError(f"the {name} is empty: write something into it")
    rows = Dataset.from_dict({"id": ["your own"], "question": [encodable(question)], "context": [encodable(context)]})
    windows = eval_features(rows, tokenizer, max_length, stride)
    model.eval()
    pad, logits = collator(tokenizer), {"start_logits": [], "end_logits": []}
    for at in range(0, len(windows), 16):
        output = model(**pad([windows.inputs[i] for i in range(at, min(at + 16, len(windows)))]).to(model.device))
        for name, found in logits.items():
            if getattr(output, name, None) is None:
                raise CourseError(f"{type(model).__name__} has no start and end logits: load it with AutoModelForQuestionAnswering")
            found += list(output[name].float().cpu().numpy())
    return decode_spans(windows, *logits.values(), n_best=n_best).n_best(0)
