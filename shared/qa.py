"""Extractive question answering: windows with stride, answer positions, span decoding. Knows no data set and no metric.

A context longer than the model becomes several overlapping windows. Training needs each window's first and last answer
token, or the sign that the answer is elsewhere; decoding has to merge what the windows of one question say.

Several questions share a paragraph, and neighbouring windows share tokens, so every distinct text is tokenised once and
all windows are cut from its tokens by array operations. They are the windows of the library's own call,
`tokenizer(questions, contexts, truncation="only_second", max_length=…, stride=…, return_overflowing_tokens=True)`.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset
from transformers import BatchEncoding, PreTrainedModel, PreTrainedTokenizerBase
from transformers.data.data_collator import pad_without_fast_tokenizer_warning

from shared.course.runtime import CourseError, check_max_length, encodable

N_BEST, MAX_ANSWER_TOKENS = 20, 30  # the defaults of the official BERT and transformers scripts
BLOCK = 1_024  # windows that a thread decodes at a time: few enough for some megabytes, enough to be out of the interpreter mostly
CURE = "predict on windows.inputs, all of it, in its order, padded by qa.collator"


# ---------------------------------------------------------------- windows


@dataclass(frozen=True)
class Windows:
    """The windows of some questions, in the questions' order; what the model reads and what decoding needs.

    ids, contexts: one per question. columns: the model's inputs, one list a window, unpadded (`inputs` as a Dataset).
    row [windows]: the question's number. length [windows]: tokens. cls [windows]: position of the CLS token.
    first, size [windows]: position of the first context token, and how many follow (0 for an empty context).
    token [windows]: that first token's number in start and end.
    start, end [context tokens]: character offsets in the context, end exclusive, without whitespace at the edges (a token
    of nothing else ends before it starts). Each distinct context is there once.
    """

    ids: list[str]
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
        """The model's inputs, a row a window; pad them with `collator`."""
        return Dataset(pa.table(self.columns))


def eval_features(rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, stride: int) -> Windows:
    """Every window of every row, for prediction: `decode_spans` takes it with the logits for its `inputs`.

    Args:
        rows: with the SQuAD columns id, context and question; answers are not looked at.
        max_length, stride: tokens of a window, special ones included, and context tokens that neighbours share.

    Raises CourseError for a missing column, a slow tokenizer or one without CLS token, a stride that makes no progress,
    and a question too long for its window.
    """
    ids, questions, contexts = _read(rows)
    pairs = _tokenise(questions, contexts, tokenizer)
    return _cut(pairs, ids, contexts, tokenizer, max_length, stride)


def train_features(
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    *,
    allow_unanswerable: bool = False,
    skip_bad_answers: bool = False,
) -> Dataset:
    """Every window of every row with start_positions and end_positions, the first answer's tokens in that window.

    Args:
        rows: with the SQuAD columns id, context, question and answers {text: [...], answer_start: [...]}.
        max_length, stride: as in `eval_features`.
        allow_unanswerable: rows may have no answer (SQuAD v2).
        skip_bad_answers: drop rows whose answer does not stand at its answer_start, and print how many.

    An answer's tokens are those that share a character with it, whitespace apart. Unless all of them are in the window,
    both positions are that of the CLS token, as for a row without answer (Devlin et al. 2019, arXiv 1810.04805, 4.3).
    Positions count from the left of the unpadded window, so `collator` has to do the padding. Raises CourseError as
    `eval_features` does, for a bad answer, and for a row without answer where none may be.
    """
    ids, questions, contexts = _read(rows, "answers")
    answers = _answers(rows)
    if not allow_unanswerable:
        _require_answers(ids, answers)
    pairs = _tokenise(questions, contexts, tokenizer)
    first, last, bad = _answer_tokens(answers, contexts, pairs)
    _judge(ids, bad, skip_bad_answers)
    windows = _cut(pairs, ids, contexts, tokenizer, max_length, stride, ~bad)
    first, last = first[windows.row] - windows.token, last[windows.row] - windows.token
    inside = (first >= 0) & (last < windows.size)
    labels = {"start_positions": first, "end_positions": last}
    labels = {name: pa.array(np.where(inside, windows.first + where, windows.cls)) for name, where in labels.items()}
    return Dataset(pa.table(windows.columns | labels))


def collator(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], BatchEncoding]:
    """A data collator that pads each batch to its longest window, always on the right.

    Answer positions and logits count from a window's left. XLNet's tokenizer pads there, which would shift them by a
    different amount in every batch; the model itself, with relative positions and a mask, does not mind the side.
    """
    return functools.partial(pad_without_fast_tokenizer_warning, tokenizer, padding_side="right", return_tensors="pt")


# ---------------------------------------------------------------- tokens


class _Pairs(NamedTuple):
    """Questions and distinct contexts as flat token arrays; text t has the tokens bounds[t] to bounds[t + 1]."""

    question: np.ndarray
    question_bounds: np.ndarray
    context: np.ndarray
    context_bounds: np.ndarray
    start: np.ndarray  # of the context tokens, in characters
    end: np.ndarray
    context_of: np.ndarray  # [questions]: the number of its context


def _read(rows: Dataset, *more: str) -> tuple[list[str], list[str], list[str]]:
    """The columns id, question and context as lists."""
    for column in ("id", "question", "context", *more):
        if column not in rows.column_names:
            raise CourseError(f"the rows lack the column '{column}': they have {', '.join(rows.column_names)}")
    if not len(rows):
        raise CourseError("there are no rows: give at least one question")
    return rows["id"][:], rows["question"][:], rows["context"][:]


def sound_rows(rows: Dataset, *, skip_bad_answers: bool = False, tokenizer: PreTrainedTokenizerBase | None = None) -> Dataset:
    """The rows of SQuAD v1 whose first answer stands at its answer_start, and that `train_features` would keep.

    For that it needs the tokenizer: an answer none of whose characters becomes a token is as bad. Models that write their
    answers, and are not shown positions, do without. Raises CourseError as `train_features` does: for a row without
    answer, and for a bad answer unless it is to be skipped, which is then counted and said.
    """
    ids, questions, contexts = _read(rows, "answers")
    answers = _answers(rows)
    _require_answers(ids, answers)
    if tokenizer:
        bad = _answer_tokens(answers, contexts, _tokenise(questions, contexts, tokenizer))[2]
    else:
        bad = np.array([_misplaced(answer, context) for answer, context in zip(answers, contexts, strict=True)])
    _judge(ids, bad, skip_bad_answers)
    return rows.select(np.flatnonzero(~bad)) if bad.any() else rows


def _answers(rows: Dataset) -> list[tuple[list[str], list[int]] | None]:
    """(texts, starts) of each row, None for a row without answer."""
    return [(a["text"], a["answer_start"]) if a and a["text"] else None for a in rows["answers"][:]]


def _misplaced(answer: tuple[list[str], list[int]], context: str) -> bool:
    text, at = answer[0][0], answer[1][0] if answer[1] else -1
    return not text.strip() or at < 0 or context[at : at + len(text)] != text


def _require_answers(ids: list[str], answers: list[Any]) -> None:
    if None in answers:
        raise CourseError(
            f"{_named(ids, [answer is None for answer in answers])} has no answer: remove it, or, for SQuAD v2, call train_features "
            "with allow_unanswerable=True"
        )


def _judge(ids: list[str], bad: np.ndarray, skip: bool) -> None:
    """Stop at bad answers, or say how many are skipped."""
    if bad.any() and not skip:
        raise CourseError(
            f"the answer of {_named(ids, bad)} does not stand at its answer_start: correct it, or drop such rows with skip_bad_answers=true"
        )
    if bad.all():
        raise CourseError(f"no row is left: none of the {len(ids):,} answers stands at its answer_start; check the column")
    if bad.any():
        print(f"skipped {bad.sum():,} of {len(ids):,} rows: their answer does not stand at its answer_start")


def _named(ids: Sequence[str], mask: Iterable[bool]) -> str:
    """The first row in the mask by its id, and how many more there are."""
    numbers = np.flatnonzero(np.fromiter(mask, bool, len(ids)))
    return f"row '{ids[numbers[0]]}'" + (f" (and {len(numbers) - 1:,} more)" if len(numbers) > 1 else "")


def _tokenise(questions: list[str], contexts: list[str], tokenizer: PreTrainedTokenizerBase) -> _Pairs:
    if not getattr(tokenizer, "is_fast", False):
        raise CourseError(
            f"{type(tokenizer).__name__} is not a fast tokenizer and knows no character offsets: load the model's fast "
            "tokenizer, or choose another model"
        )
    number = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    plain = {"add_special_tokens": False, "return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    # leading blanks of a question would take the context's room; some data sets have many
    asked = tokenizer([question.lstrip() for question in questions], **plain)["input_ids"]
    batch = tokenizer(list(number), return_offsets_mapping=True, **plain)
    context, bounds = _flat(batch["input_ids"])
    pairs = itertools.chain.from_iterable(batch["offset_mapping"])
    offsets = np.fromiter(itertools.chain.from_iterable(pairs), np.int64, 2 * len(context)).reshape(-1, 2)
    start, end = _without_blanks(*offsets.T, np.diff(bounds), list(number))
    context_of = np.fromiter(map(number.__getitem__, contexts), np.int64, len(contexts))
    return _Pairs(*_flat(asked), context, bounds, start, end, context_of)


def _flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """All values in one array, and the bounds [lists + 1] of each list in it."""
    bounds = np.cumsum([0, *map(len, lists)])
    return np.fromiter(itertools.chain.from_iterable(lists), np.int32, bounds[-1]), bounds


def _without_blanks(start: np.ndarray, end: np.ndarray, tokens: np.ndarray, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Each start moved on to the next letter, each end back to the last one: some tokenizers count a word's leading space in.

    A token that is all whitespace then ends before it starts, and a run of tokens holds text just where it does not.
    """
    letters = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), "<U1")
    blank, place = np.char.isspace(letters), np.arange(len(letters))
    following = np.append(np.minimum.accumulate(np.where(blank, len(letters), place)[::-1])[::-1], len(letters))
    preceding = np.append(0, np.maximum.accumulate(np.where(blank, 0, place + 1)))
    size = np.array([*map(len, texts)])
    offset = np.repeat(np.cumsum(size) - size, tokens)  # of the token's text in the joined texts
    return np.minimum(following[start + offset] - offset, np.repeat(size, tokens)), np.maximum(preceding[end + offset] - offset, 0)


def _answer_tokens(
    answers: list[tuple[list[str], list[int]] | None], contexts: list[str], pairs: _Pairs
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First and last context token of each row's first answer (both -1 without one), and which answers are bad."""
    first, last, bad = np.full(len(answers), -1), np.full(len(answers), -1), np.zeros(len(answers), bool)
    spans = []
    for row, answer in enumerate(answers):
        if answer is not None:
            text, at = answer[0][0], answer[1][0] if answer[1] else -1
            bad[row] = _misplaced(answer, contexts[row])
            spans.append((row, at, at + len(text)))
    if not spans:
        return first, last, bad
    row, left, right = np.array(spans).T
    # One sorted search over all contexts: a context's number goes in front of its offsets. The running maximum and
    # minimum make it exact where a normaliser has swapped two characters.
    size = np.diff(pairs.context_bounds)
    number, own = np.repeat(np.arange(len(size)), size) << 32, pairs.context_of[row] << 32
    first[row] = np.searchsorted(np.maximum.accumulate(number + pairs.end), own + left, side="right")
    last[row] = np.searchsorted(np.minimum.accumulate((number + pairs.start)[::-1])[::-1], own + right, side="left") - 1
    bad[row] |= first[row] > last[row]  # the tokenizer drops all of its characters
    return first, last, bad


# ---------------------------------------------------------------- cutting


class _Layout(NamedTuple):
    """The special tokens of a pair, `before` question `between` context `after`, as (id, type) columns."""

    before: np.ndarray
    between: np.ndarray
    after: np.ndarray
    question_type: int
    context_type: int
    cls: int  # counted from the window's end if negative

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)


def _layout(tokenizer: PreTrainedTokenizerBase) -> _Layout:
    """Read off a pair of one-letter texts, since every architecture has its own."""
    pair = tokenizer("a", "a", return_token_type_ids=True)
    side, tokens = pair.sequence_ids(0), np.array([pair["input_ids"], pair["token_type_ids"]]).T
    question, context = ([i for i, s in enumerate(side) if s == which] for which in (0, 1))
    before, between, after = tokens[: question[0]], tokens[question[-1] + 1 : context[0]], tokens[context[-1] + 1 :]
    if tokenizer.cls_token_id in before[:, 0]:
        cls = before[:, 0].tolist().index(tokenizer.cls_token_id)
    elif tokenizer.cls_token_id in after[:, 0]:
        cls = after[:, 0].tolist().index(tokenizer.cls_token_id) - len(after)
    else:
        raise CourseError(
            f"{type(tokenizer).__name__} puts no CLS token beside a pair, and that is where 'no answer here' is said: "
            "choose an encoder such as bert, roberta or xlnet"
        )
    return _Layout(before, between, after, int(tokens[question[0], 1]), int(tokens[context[0], 1]), cls)


def _cut(
    pairs: _Pairs,
    ids: list[str],
    contexts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    stride: int,
    keep: np.ndarray | None = None,
) -> Windows:
    """The windows of all pairs, or of those in the mask `keep`."""
    layout = _layout(tokenizer)
    _check_window(tokenizer, layout, max_length, stride)
    asked = np.diff(pairs.question_bounds)
    context = np.diff(pairs.context_bounds)[pairs.context_of]
    keep = np.ones(len(asked), bool) if keep is None else keep
    room = max_length - layout.size - asked
    stuck = keep & ((room < 0) | (room < context) & (room <= stride))
    if stuck.any():
        worst = int(np.argmax(stuck))
        raise CourseError(
            f"the question of {_named(ids, stuck)} has {asked[worst]} tokens and leaves {max(room[worst], 0)} of {max_length} for the "
            f"context, not more than the stride of {stride}: raise max_length, lower stride, or shorten the question"
        )
    step = np.maximum(room - stride, 1)
    count = keep * np.where(room < context, 1 - (room - context) // step, 1)
    row = np.repeat(np.arange(len(count)), count)
    skipped = (np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)) * step[row]
    size = np.minimum(room[row], context[row] - skipped)
    token = pairs.context_bounds[pairs.context_of[row]] + skipped
    columns, length = _assemble(pairs, layout, row, token, size, tokenizer.model_input_names)
    first = len(layout.before) + asked[row] + len(layout.between)
    cls = np.full(len(row), layout.cls) if layout.cls >= 0 else length + layout.cls
    return Windows(ids, contexts, columns, row, length, cls, first, size, token, pairs.start, pairs.end)


def _check_window(tokenizer: PreTrainedTokenizerBase, layout: _Layout, max_length: int, stride: int) -> None:
    """The library panics, or cuts nothing at all, where these don't hold."""
    room = max_length - layout.size
    if stride < 0:
        raise CourseError(f"stride {stride} is below zero: give the number of tokens that two windows share, 0 or more")
    if room <= stride:
        raise CourseError(
            f"max_length {max_length} with stride {stride} makes no progress: beside {layout.size} special tokens a window holds "
            f"{max(room, 0)}, and that has to be more than the stride; raise max_length or lower stride"
        )
    check_max_length(max_length, tokenizer)


def _assemble(
    pairs: _Pairs, layout: _Layout, row: np.ndarray, token: np.ndarray, size: np.ndarray, names: list[str]
) -> tuple[dict[str, pa.Array], np.ndarray]:
    """The model's inputs as Arrow lists, and each window's length: one gather from all special, question and context tokens."""
    special = np.concatenate([layout.before, layout.between, layout.after])
    before, between, after = (len(part) for part in layout[:3])
    asked, context = len(special), len(special) + len(pairs.question)
    starts = np.stack(np.broadcast_arrays(0, asked + pairs.question_bounds[row], before, context + token, before + between), 1)
    lengths = np.stack(np.broadcast_arrays(before, np.diff(pairs.question_bounds)[row], between, size, after), 1)
    source = np.repeat((starts + lengths - lengths.cumsum().reshape(lengths.shape)).ravel(), lengths.ravel())
    source += np.arange(len(source))
    bounds = pa.array(np.append(0, lengths.sum(1).cumsum()), pa.int32())
    ids = np.concatenate([special[:, 0], pairs.question, pairs.context])
    types = np.repeat([*special[:, 1], layout.question_type, layout.context_type], [1] * asked + [len(pairs.question), len(pairs.context)])
    values = {
        "input_ids": ids.astype(np.int32)[source],
        "token_type_ids": types.astype(np.int8)[source] if "token_type_ids" in names else None,
        "attention_mask": np.ones(len(source), np.int8),
    }
    columns = {name: pa.ListArray.from_arrays(bounds, pa.array(value)) for name, value in values.items() if value is not None}
    return columns, lengths.sum(1)


# ---------------------------------------------------------------- decoding


class Span(NamedTuple):
    """One answer of an n-best list: the context's characters start_char to end_char; empty for 'no answer'."""

    text: str
    start_char: int
    end_char: int
    score: float
    probability: float


@dataclass(frozen=True)
class Answers:
    """What the model says to each question, best first; spans of question q are bounds[q] to bounds[q + 1].

    start, end [spans]: characters in the question's context, end exclusive. score [spans]: start logit + end logit.
    null_score [questions]: the score of no answer. probability [spans] and null_probability [questions]: softmax over a
    question's n-best scores, with the null score among them if a null threshold was given (else null_probability is 0).
    texts: one answer per question, "" for none.
    """

    contexts: list[str]
    bounds: np.ndarray
    start: np.ndarray
    end: np.ndarray
    score: np.ndarray
    probability: np.ndarray
    null_score: np.ndarray
    null_probability: np.ndarray
    null_threshold: float | None

    @property
    def null_odds(self) -> np.ndarray:
        """[questions] null score - best span's score; infinite where a question has no span."""
        best = np.append(self.score, -np.inf)[self.bounds[:-1]]
        return self.null_score - np.where(np.diff(self.bounds) > 0, best, -np.inf)

    @property
    def best_spans(self) -> np.ndarray:
        """[questions, 2] start and end of each question's best span in characters of its context; (0, 0) where it has none."""
        empty = np.diff(self.bounds) == 0
        return np.where(empty[:, None], 0, np.stack([np.append(column, 0)[self.bounds[:-1]] for column in (self.start, self.end)], axis=1))

    @property
    def texts(self) -> list[str]:
        """One answer per question, decided with the null threshold that was given to `decode_spans`."""
        return self.texts_at(self.null_threshold)

    def texts_at(self, null_threshold: float | None) -> list[str]:
        """The best span of each question, or "" where null_odds > null_threshold; None always takes the span if there is one."""
        empty = np.diff(self.bounds) == 0
        if null_threshold is not None:
            empty |= self.null_odds > null_threshold
        return ["" if none else text[a:b] for none, text, (a, b) in zip(empty, self.contexts, self.best_spans.tolist(), strict=True)]

    def n_best(self, question: int) -> list[Span]:
        """The spans of one question, best first; with a null threshold the empty answer has its place among them.

        The threshold is what it needs to be better by, so that it comes first exactly where `texts` has "".
        """
        text, own = self.contexts[question], slice(*self.bounds[question : question + 2])
        columns = (column[own].tolist() for column in (self.start, self.end, self.score, self.probability))
        spans = [Span(text[a:b], a, b, score, probability) for a, b, score, probability in zip(*columns, strict=True)]
        if self.null_threshold is not None:
            spans.append(Span("", 0, 0, float(self.null_score[question]), float(self.null_probability[question])))
        needed = self.null_threshold or 0.0
        return sorted(spans, key=lambda span: -span.score if span.text else needed - span.score)  # stable: the rule for equal scores stands


def decode_spans(
    windows: Windows,
    start_logits: np.ndarray | Sequence[np.ndarray],
    end_logits: np.ndarray | Sequence[np.ndarray],
    n_best: int = N_BEST,
    max_answer_tokens: int = MAX_ANSWER_TOKENS,
    null_threshold: float | None = None,
) -> Answers:
    """The n best answers to every question, from the logits of all of its windows.

    Args:
        windows: of `eval_features`.
        start_logits, end_logits: [windows, longest] as Trainer.predict gives them, or a list with an array per window.
            What lies beyond a window's own tokens is not looked at. Taken as float32, summed as float64.
        n_best: positions that compete in a window, and answers kept of a question.
        max_answer_tokens: tokens of the longest answer.
        null_threshold: "no answer" if the null score exceeds the best span's by more than this; None: never (SQuAD v1).

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
    probability, null_probability = _softmax(row, bounds, score, None if null_threshold is None else null)
    return Answers(windows.contexts, bounds, left, right, score, probability, null, null_probability, null_threshold)


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


def _softmax(row: np.ndarray, bounds: np.ndarray, score: np.ndarray, null: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of the spans and of the null answers (0 without them), summing to 1 in each question."""
    highest = np.where(np.diff(bounds) > 0, np.append(score, -np.inf)[bounds[:-1]], -np.inf)
    null_share = np.zeros(len(highest))
    if null is not None:
        highest = np.maximum(highest, null)
        null_share = np.exp(null - highest)
    share = np.exp(score - highest[row])
    total = np.bincount(row, share, len(highest)) + null_share
    return share / total[row], null_share / np.where(total > 0, total, 1)


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
    null_threshold: float | None = None,
) -> list[Span]:
    """The n best answers to one question about a text of any length, with their characters in it.

    With a null threshold the empty answer has its place among them. Raises CourseError for an empty question or context,
    a model without a question-answering head, and as `eval_features` does.
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
    return decode_spans(windows, *logits.values(), n_best=n_best, null_threshold=null_threshold).n_best(0)
