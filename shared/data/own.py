"""A reader's own rows in place of a data set of the Hub: which column is what, which labels there are, which rows test.

    news = data.from_file("reviews.csv", text="review", label="stars")

Whatever is found out is printed before anything is trained: columns, label names with their counts, splits, three rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, List, Value

from shared.course import session
from shared.course.runtime import CourseError
from shared.data import columns as cells
from shared.data import files
from shared.data.files import SPLITS, Part, split_of

MADE = {"test": (0.2, 5_000), "validation": (0.1, 2_000)}  # splits that a file lacks: their share of the texts, and the most texts
LEAST_TEXTS = 10
SQUAD = {"text": List(Value("string")), "answer_start": List(Value("int32"))}


@dataclass
class Rows:
    """The lesson's columns of all rows, the split and the number in the file of each, and what there is to say of them.

    `kind` is the column of labels, "label" or "labels", whose names `names` has; None where there is none.
    """

    name: str
    parts: list[Part]
    columns: dict[str, list]
    splits: np.ndarray
    number: np.ndarray
    kind: str | None
    used: str  # the file's columns, as a lesson is told them
    names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    few_first: bool = False  # pairs whose first texts are so few that they say nothing of what is a copy

    def where(self, row: int) -> str:
        """The file and line of a row."""
        ends = np.cumsum([part.table.num_rows for part in self.parts])
        part = int(np.searchsorted(ends, self.number[row], side="right"))
        return self.parts[part].where(int(self.number[row] - ends[part]) + self.parts[part].table.num_rows)

    def keep(self, wanted: Iterable[int]) -> None:
        """Leave out all other rows."""
        wanted = np.fromiter(wanted, int)
        self.columns = {column: [values[row] for row in wanted] for column, values in self.columns.items()}
        self.splits, self.number = self.splits[wanted], self.number[wanted]

    def labels(self) -> list[list[int]]:
        """The label numbers of each row."""
        return self.columns[self.kind] if self.kind == "labels" else [[label] for label in self.columns[self.kind]]

    def keys(self, whole: bool = False) -> list[int]:
        """Equal numbers for copies: rows with the same first text, or context; or all texts. Case and white space do not count."""
        whole = whole or self.few_first
        texts = [column for column in self.columns if column != self.kind]
        if "answers" in self.columns:
            texts = ["context", "question"]
        texts = texts if whole else texts[:1]
        return [hash(" ".join(" ".join(row).casefold().split())) for row in zip(*(self.columns[text] for text in texts), strict=True)]


def from_file(path: str | Path, *, seed: int = 0, min_rows: int = 8, most_labels: int | None = None, **columns: str) -> DatasetDict:
    """The rows of a file or folder as {"train", "validation", "test"}, with the columns that a lesson has.

        data.from_file("my.csv", text="review", label="stars")   one label a row: `label` is a ClassLabel
        data.from_file("my.tsv", premise="", hypothesis="", label="")   two texts and their label
        data.from_file("my.jsonl", text="", labels="")           several labels a row: `labels` is a list of ClassLabels
        data.from_file("my.json", question="", context="", answers="")   SQuAD's columns, with an id and a title
        data.from_file("pairs.tsv", source="", target="")        texts alone

    Args:
        path: CSV or TSV in any usual encoding, JSON, JSON lines, Parquet, Arrow, Excel, each also with .gz; a folder of such files in the
            Hub's layout; what `save_to_disk` wrote.
        seed: draws the splits that are not there: 20 % of the texts test, at most 5,000, and 10 % validate, at most 2,000, each label by
            itself, with copies of a text (of a context, a source, the first text of a pair) on one side. A validation split tests where
            there is no test split.
        min_rows: a label with fewer different texts to train on is refused.
        most_labels: a file with more labels is refused, by a lesson that is about two.
        columns: {the lesson's name: the file's}, "" to have it guessed. Several of the file's, with commas between: texts are put
            together, labels are columns of 0 and 1.

    Rows without a text or a label are left out, and said. Raises CourseError, in one line with file, row and cure, for what cannot be
    read, guessed or trained on.
    """
    name, parts = Path(path).resolve().name, files.read(path)
    session.note_own_file()
    chosen, said = cells.choose(name, parts, columns)
    rows = _complete_rows(name, parts, chosen)
    made = _given_splits(rows)
    _check_labels(rows, most_labels)
    _check_size(rows, min_rows)
    made += _drawn_splits(rows, seed)
    found = _datasets(rows)
    _say(rows, found, said, made)
    return found


def _complete_rows(name: str, parts: list[Part], chosen: dict[str, list[str]]) -> Rows:
    """The rows that have everything, their labels as numbers."""
    kind = next((column for column in cells.LABELS if column in chosen), None)
    taken, brought, moved = [], [], 0
    for part in parts:
        real = {column.lower(): column for column in part.table.column_names}
        here = {column: [real[one.lower()] for one in names] for column, names in chosen.items()}
        values = {column: cells.texts(part, names) for column, names in here.items() if column not in (kind, "answers")}
        if kind:
            values[kind], known = cells.labels(part, here[kind], several=kind == "labels")
            brought.append(known)
        if "answers" in here:
            values, wrong = cells.with_answers(part, here["answers"][0], values)
            moved += wrong
        taken.append(values)
    splits = np.array([split for part in parts for split in _splits_of(part, chosen)], dtype=object)
    values = {column: [value for one in taken for value in one[column]] for column in taken[0]}
    used = " ".join(f"{column}={','.join(names)}" for column, names in chosen.items())
    rows = Rows(name, parts, values, splits, np.arange(len(splits)), kind, used)
    if moved:
        rows.notes.append(f"{moved:,} answers did not stand at their answer_start; the nearest place in the context is taken")
    _leave_out(rows)
    if kind:
        lists, rows.names = cells.numbered(rows.columns[kind], brought)
        rows.columns[kind] = lists if kind == "labels" else [row[0] for row in lists]
    return rows


def _splits_of(part: Part, chosen: dict[str, list[str]]) -> list[str]:
    """The split of each row of a part: the file's or sheet's, or what a column called split says."""
    for name in part.table.column_names:
        if not part.split and name.lower() in ("split", "set", "subset", "partition") and [name] not in chosen.values():
            said = [str(cell).strip().lower() for cell in part.table[name].to_pylist()]
            if set(said) <= set(SPLITS):
                return [SPLITS[split] for split in said]
    return [part.split] * part.table.num_rows


def _leave_out(rows: Rows) -> None:
    """Leave out, and note, splits without labels and rows without a text, a label or a sound answer; CourseError where that is most."""
    if rows.kind:  # the hidden test rows of a contest
        labelled = {split for split, value in zip(rows.splits, rows.columns[rows.kind], strict=True) if value}
        hidden = [split for split in dict.fromkeys(rows.splits) if split not in labelled]
        if hidden and labelled:
            rows.notes.append(f"{' and '.join(hidden)} without any label: left out")
            rows.keep(row for row, split in enumerate(rows.splits) if split in labelled)
    lacks: dict[int, str] = {}
    for column, values in rows.columns.items():
        for row, value in enumerate(values):
            if value is None or (column == "answers" and isinstance(value, str)):
                lacks.setdefault(row, value or f"no {column}")
    if not lacks:
        return
    first = [f"{rows.where(row)}: {lacks[row]}" for row in sorted(lacks)[:3]]
    if 2 * len(lacks) > len(rows.number):
        most = f"{len(lacks):,} of {len(rows.number):,} rows"
        raise CourseError(f"{first[0]}; so it is in {most}: fill them, or name other columns than {rows.used}")
    rows.notes.append(f"left out {len(lacks):,} of {len(rows.number):,} rows: {'; '.join(first)}{'; ...' if len(lacks) > 3 else ''}")
    rows.keep(row for row in range(len(rows.number)) if row not in lacks)


def _check_labels(rows: Rows, most: int | None) -> None:
    """CourseError for more labels than a lesson takes."""
    if most and len(rows.names) > most:
        there = f"{', '.join(rows.names[:4])}{', ...' if len(rows.names) > 4 else ''}"
        cure = f"put labels together, name other columns than {rows.used}, or take a lesson for more, such as task-1/mnli"
        raise CourseError(f"{rows.name} has {len(rows.names)} labels ({there}), and this lesson takes {most}: {cure}")


def _texts_to_train_on(rows: Rows) -> dict[int, int]:
    """For each label, in how many different texts of the training split it stands, those with the fewest first."""
    trains = (rows.splits == "train").tolist()
    pairs = {(label, key, train) for key, train, labels in zip(rows.keys(), trains, rows.labels(), strict=True) for label in labels}
    texts = Counter({label: 0 for label, _, _ in pairs})
    texts.update(label for label, _, train in pairs if train)
    return dict(sorted(texts.items(), key=lambda pair: pair[::-1]))


def _check_size(rows: Rows, least: int) -> None:
    """CourseError for fewer than two labels to train on, or too few texts of one; a note on what else is odd. Splits are not drawn yet."""
    keys = rows.keys()
    if not rows.kind:
        if len(set(keys)) < LEAST_TEXTS:
            raise CourseError(f"{rows.name}: {len(set(keys))} different texts in {len(keys)} rows, and {LEAST_TEXTS} are needed: add rows")
        return
    texts = _texts_to_train_on(rows)
    if rows.kind == "label" and min(texts.values()) < least:  # one of a pair's texts may be a question that many rows share
        rows.few_first = True
        if texts != (texts := _texts_to_train_on(rows)) and min(texts.values()) >= least:
            first = next(iter(rows.columns))
            rows.notes.append(f"{len(set(keys)):,} different texts in '{first}': rows that share one may be in different splits")
    trained = [label for label, number in texts.items() if number]
    if len(trained) < 2:
        only = f"only the label '{rows.names[trained[0]]}'" if trained else "no label"
        have = f"the {(rows.splits == 'train').sum():,} rows to train on have {only}"
        raise CourseError(f"{rows.name}: {have}, and two are needed: name other columns than {rows.used}, or other rows")
    rare = [f"'{rows.names[label]}' ({number:,})" for label, number in texts.items() if number < least]
    shown = f"{', '.join(rare[:4])}{', ...' if len(rare) > 4 else ''}"
    if rare and (rows.kind == "label" or len(set(keys)) < 2 * least):
        cure = f"add rows, put labels together, or name other columns than {rows.used}"
        raise CourseError(f"{rows.name}: fewer than {least} different texts to train on for the label {shown}: {cure}")
    if rare:
        rows.notes.append(f"labels with few texts, which can hardly be learned: {shown}")
    alike = Counter(name.casefold() for name in rows.names)
    if twice := [name for name in rows.names if alike[name.casefold()] > 1]:
        rows.notes.append(f"labels that differ in capital letters alone: {', '.join(twice[:6])}; are they the same?")
    if "-1" in rows.names and {"0", "1", "2"} <= set(rows.names):
        rows.notes.append("the label -1 beside 0, 1, 2: if it means 'no label', as on the Hub, leave out its rows")
    told = {(key, tuple(labels)) for key, labels in zip(rows.keys(whole=True), rows.labels(), strict=True)}
    if more := len(told) - len({key for key, _ in told}):
        rows.notes.append(f"{more:,} texts stand there again with another label")


# ---------------------------------------------------------------- splits


def _given_splits(rows: Rows) -> str:
    """Call the file's splits train, validation and test (others keep their names); where it has no two, all is train. Returns words."""
    there = list(dict.fromkeys(rows.splits))
    called = {split: split or "train" for split in there if split in ("", "train", *MADE)}
    for split in sorted(set(there) - set(called)):  # the first that speaks of validation is the validation split
        called[split] = split if split_of(split) in called.values() else split_of(split) or split
    rows.splits = np.array([called[split] for split in rows.splits], dtype=object)
    if "train" not in called.values() or len(there) == 1:
        rows.splits[:] = "train"
        return ""
    said = "the file's own"
    if "test" not in rows.splits and "validation" in rows.splits:
        rows.splits[rows.splits == "validation"] = "test"
        said += ", of which validation tests"
    keys = rows.keys(whole=True)
    later = {key for key, split in zip(keys, rows.splits, strict=True) if split not in ("train", "validation")}
    validated = {key for key, split in zip(keys, rows.splits, strict=True) if split == "validation"}
    copies = {"train": later | validated, "validation": later}
    kept = [row for row, (key, split) in enumerate(zip(keys, rows.splits, strict=True)) if key not in copies.get(split, ())]
    if len(kept) < len(keys):
        rows.notes.append(f"left out {len(keys) - len(kept):,} rows that stand in a later split as well")
        rows.keep(kept)
    if "train" not in rows.splits:
        raise CourseError(f"{rows.name}: all rows to train on are rows to test on as well: give other rows, or one file alone")
    return said


def _drawn_splits(rows: Rows, seed: int) -> str:
    """Move texts, with all their copies, from train to the splits that are missing: of each label its share. Returns words."""
    wanted = [split for split in MADE if split not in rows.splits]
    keys, train = np.array(rows.keys()), rows.splits == "train"
    order = {key: number for number, key in enumerate(dict.fromkeys(keys[train].tolist()))}  # the order of the rows, not of the hashes
    group = np.array([order[key] if training else -1 for key, training in zip(keys.tolist(), train, strict=True)])
    groups, first = np.unique(group, return_index=True)
    groups, first = groups[groups >= 0], first[groups >= 0]
    strata = _strata(rows)[first]
    if np.unique(strata, return_counts=True)[1].max(initial=0) <= len(wanted):  # few texts, each with many rows
        strata[:] = -1
    rng = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        members = rng.permutation(groups[strata == stratum])
        for split in wanted if len(members) > len(wanted) else ():
            share, most = MADE[split]
            size = max(1, round((strata == stratum).sum() * min(share, most / len(groups))))
            rows.splits[np.isin(group, members[:size])] = split
            members = members[size:]
    return f"; drawn: {' and '.join(wanted)}, seed {seed}, copies of a text on one side" if wanted else ""


def _strata(rows: Rows) -> np.ndarray:
    """For each row its label, of several the rarest; -1 for none."""
    if not rows.kind:
        return np.full(len(rows.number), -1)
    counts = Counter(label for labels in rows.labels() for label in labels)
    return np.array([min(labels, key=lambda label: (counts[label], label), default=-1) for labels in rows.labels()])


# ---------------------------------------------------------------- what comes out


def _datasets(rows: Rows) -> DatasetDict:
    """The splits in the order in which they are used; that they come from a file is noted where `datasets` notes such things."""
    kinds: dict[str, Any] = dict.fromkeys(rows.columns, Value("string"))
    if rows.kind:
        kinds[rows.kind] = ClassLabel(names=rows.names) if rows.kind == "label" else List(ClassLabel(names=rows.names))
    features = Features(kinds | ({"answers": SQUAD} if "answers" in kinds else {}))
    made = {}
    for split in sorted(set(rows.splits), key=lambda split: (["train", "validation", "test", split].index(split), split)):
        wanted = np.flatnonzero(rows.splits == split)
        values = {column: [cells[row] for row in wanted] for column, cells in rows.columns.items()}
        info = DatasetInfo(features=features, download_checksums={session.FILE + rows.name: {}})
        made[split] = Dataset.from_dict(values, features=features, info=info)
    return DatasetDict(made)


def _say(rows: Rows, found: DatasetDict, columns: str, splits: str) -> None:
    how = "; ".join(dict.fromkeys(part.how for part in rows.parts))
    print(f"{rows.name}: {sum(part.table.num_rows for part in rows.parts):,} rows ({how})")
    print(f"columns: {columns}")
    if rows.kind:
        counts = Counter(label for labels in rows.labels() for label in labels)
        print(f"{len(rows.names)} labels: {', '.join(f'{name} {counts[number]:,}' for number, name in enumerate(rows.names))}")
    if "answers" in rows.columns:
        print(f"questions without an answer: {sum(not one['text'] for one in rows.columns['answers']):,}")
    sizes = ", ".join(f"{split} {len(part):,}" for split, part in found.items())
    print(f"splits: {sizes} ({splits.removeprefix('; ')})")
    if rows.kind:
        tested = {label for labels, split in zip(rows.labels(), rows.splits, strict=True) if split == "test" for label in labels}
        if missing := [rows.names[label] for label in sorted(set(counts) - tested)]:
            print(f"NOTE: no test row has the label {', '.join(missing[:6])}{', ...' if len(missing) > 6 else ''}")
    for note in rows.notes:
        print(f"NOTE: {note}")
    for number in range(min(3, len(found["train"]))):
        print("  " + "  ".join(_shown(rows, column, value, number) for column, value in found["train"][number].items()))


def _shown(rows: Rows, column: str, value: Any, number: int) -> str:
    """A value of a row as it is printed; texts are withheld where outputs get published."""
    if column == rows.kind:
        labels = value if rows.kind == "labels" else [value]
        return f"{column}: {' + '.join(rows.names[label] for label in labels) or 'none'}"
    text = " | ".join(value["text"]) or "none" if column == "answers" else value
    return f"{column}: {session.excerpt(text, number, 70)}"
