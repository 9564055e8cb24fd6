"""Rows: the course's own, a reader's file, samples, held-out rows, overlap, prints. `Dataset`s in and out; knows nothing of models."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from datasets import Dataset, Features

from shared.course.rows import DATA_SETS
from shared.course.runtime import CourseError, unknown
from shared.data.own import from_file as from_file

if TYPE_CHECKING:
    from transformers import BatchEncoding

BUNDLED = Path(__file__).resolve().parents[1] / "bundled"


def bundled_split(name: str, split: str) -> Dataset:
    """One split of the rows that were written for this course (CC0), with the Hub's columns and features, whatever COURSE_DATA says.

    Args:
        name: a folder of shared/bundled, for example "ag_news".

    Raises CourseError for a data set or split that is not there.
    """
    if name not in DATA_SETS:
        raise unknown("data set", name, list(DATA_SETS))
    there = sorted(path.stem for path in (BUNDLED / name).glob("*.jsonl"))
    if split not in there:
        raise unknown(f"split of {name}", split, there)
    lines = (BUNDLED / name / f"{split}.jsonl").read_text(encoding="utf8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    features = DATA_SETS[name].features
    if "translation" in features and "translation" not in rows[0]:
        rows = [{"translation": row} for row in rows]
    known = {column: kind for column, kind in features.items() if column in rows[0]}  # the Hub's `idx` is in no file
    return Dataset.from_list([{column: row[column] for column in known} for row in rows], features=Features.from_dict(known))


def subsample(dataset: Dataset, n: int | None, seed: int, label: str | None = None) -> Dataset:
    """`n` rows in their original order, stratified by `label` if one is given (shares kept to within one row)."""
    if n is None or n >= len(dataset):
        return dataset
    if n < 1:
        raise CourseError(f"cannot keep {n} rows: ask for at least one")
    rng = np.random.default_rng(seed)
    if label is None:
        return dataset.select(np.sort(rng.permutation(len(dataset))[:n]))
    labels = np.asarray(dataset[label])
    kept = [rng.permutation(np.flatnonzero(labels == k))[:size] for k, size in stratified_sizes(labels, n).items()]
    return dataset.select(np.sort(np.concatenate(kept)))


def stratified_sizes(labels: np.ndarray, n: int) -> dict[int, int]:
    """Rows to take of each class so that they sum to `n` with the classes' shares kept (largest remainder method)."""
    classes, counts = np.unique(labels, return_counts=True)
    exact = counts * n / counts.sum()
    sizes = np.floor(exact).astype(int)
    sizes[np.argsort(sizes - exact, kind="stable")[: n - sizes.sum()]] += 1
    return dict(zip(classes.tolist(), sizes.tolist(), strict=True))


def hold_out(dataset: Dataset, n: int, seed: int = 0, label: str | None = None, group: str | None = None) -> tuple[Dataset, Dataset]:
    """(rest, held-out rows): `n` rows set aside, for data sets that have no validation split of their own.

    Args:
        label: stratify by this column of classes.
        group: a column whose equal values stay together, so that no paragraph is on both sides; then at least `n` rows.

    Raises CourseError where one of the two sides would be empty.
    """
    if not 0 < n < len(dataset):
        raise CourseError(f"cannot hold out {n} of {len(dataset)} rows: choose between 1 and {len(dataset) - 1}")
    if group:
        held = _whole_groups(dataset[group], n, seed)
    else:
        numbered = dataset.add_column("_row", np.arange(len(dataset)))
        held = np.asarray(subsample(numbered, n, seed, label)["_row"])
    if len(held) == len(dataset):
        raise CourseError(f"all rows have the same {group}: nothing would be left to train on; hold rows out without group")
    return dataset.select(np.setdiff1d(np.arange(len(dataset)), held)), dataset.select(held)


def leave_out(dataset: Dataset, column: str, names: str) -> Dataset:
    """The rows whose value in `column` is not among `names`, which are separated by semicolons, as titles have commas; "" names none.

    Raises CourseError for a name that no row has.
    """
    wanted = {name.strip() for name in names.split(";") if name.strip()}
    if unknown_names := wanted - set(dataset[column]):
        named = "; ".join(sorted(unknown_names))
        raise CourseError(f"no row has the {column} '{named}': names are separated by semicolons, and set(rows['{column}']) shows them all")
    return dataset.select([row for row, name in enumerate(dataset[column]) if name not in wanted]) if wanted else dataset


def _whole_groups(values: list[str], n: int, seed: int) -> np.ndarray:
    """Row numbers of randomly drawn groups of equal values, as many groups as `n` rows need."""
    groups, member = np.unique(np.asarray(values, dtype=object), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(groups))
    drawn = np.searchsorted(np.cumsum(np.bincount(member)[order]), n) + 1
    return np.flatnonzero(np.isin(member, order[:drawn]))


def drop_overlap(train: Dataset, test: Dataset, column: str, tail: int = 60) -> Dataset:
    """`train` without the rows whose text, in `column`, ends like a row of `test`.

    News agencies reissue a story under another headline, so equality of the whole text misses most copies. Two rows
    count as the same story if their last `tail` letters and digits agree, case ignored; shorter texts never match, and where
    that is most of them a line says so.
    """
    endings = [_ending(text, tail) for text in test[column]]
    short = endings.count(None)
    if short > len(endings) / 2:
        print(f"NOTE: {short:,} of {len(endings):,} {column}s are shorter than {tail} letters and never match: set a smaller tail")
    seen = set(endings) - {None}
    return train.select([row for row, text in enumerate(train[column]) if _ending(text, tail) not in seen])


def word_runs(text: str, size: int = 8) -> set[int]:
    """A number for each run of `size` words of a text, in lower case and without signs: equal runs have equal numbers in one process.

    A shorter text is one run. Numbers take a fifth of the memory of the words.
    """
    words = re.findall(r"\w+", text.lower())
    return {hash(tuple(words[start : start + size])) for start in range(max(1, len(words) - size + 1))}


def drop_reprints(train: Dataset, scored: Iterable[str], column: str, share: float = 0.1, size: int = 8) -> Dataset:
    """`train` without the rows whose text, in `column`, shares `share` or more of its runs of `size` words with the `scored` texts.

    News is printed again with another opening, another end, or as a part of a longer story; `drop_overlap` sees only its end.
    Quotations and set phrases that two stories share are a smaller part of either.
    """
    seen = {run for text in scored for run in word_runs(text, size)}
    own = [word_runs(text, size) for text in train[column]]
    return train.select([row for row, runs in enumerate(own) if len(runs & seen) < share * len(runs)])


def _ending(text: str, size: int) -> str | None:
    letters = "".join(character for character in text.lower() if character.isalnum())
    return letters[-size:] if len(letters) >= size else None


# Thai and Lao, Burmese, Khmer, Japanese kana, Chinese characters: scripts that set no spaces between words
SPACELESS = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")


def without_spaces(texts: Iterable[str], look_at: int = 1_000) -> bool:
    """True where most texts (of the first `look_at`) have no spaces between their words.

    That is a text of which more than half of the letters belong to such a script, or one of more than 20 letters without a space.
    """
    looked = [text for text in itertools.islice(texts, look_at) if text.strip()]
    found = [(len(text) > 20 and len(text.split()) == 1) or 2 * len(SPACELESS.findall(text)) > _letters(text) for text in looked]
    return 2 * sum(found) > len(looked)


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def analyzer(texts: Iterable[str]) -> str:
    """What scikit-learn's `TfidfVectorizer(analyzer=...)` should count: "word", or "char_wb", characters, where texts have no spaces.

    It looks for words between spaces and punctuation, so a Chinese or Thai sentence would be one word, which no other text has.
    A line says so where characters are counted.
    """
    if not without_spaces(texts):
        return "word"
    print("NOTE: most texts have no spaces between words, as in Chinese or Thai; the baseline counts characters.")
    return "char_wb"


def count_cut(encoded: BatchEncoding, max_length: int) -> int:
    """How many rows of a tokenizer's output lost an end to `max_length`.

    Only a full row can have; asking every row what overflowed would cost a third of the tokenising.
    """
    rows = zip(encoded["input_ids"], encoded.encodings, strict=True)
    return sum(len(ids) >= max_length and bool(row.overflowing) for ids, row in rows)


def fingerprint(dataset: Dataset) -> str:
    """The first 16 hex digits of a SHA-256 over the rows' values, in order: the same rows give the same print."""
    digest = hashlib.sha256()
    for row in dataset.select_columns(sorted(dataset.column_names)):
        digest.update(json.dumps(row, ensure_ascii=False, sort_keys=True).encode("utf8", "surrogatepass"))
    return digest.hexdigest()[:16]
