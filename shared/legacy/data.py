"""Data sets in the Hub's schema, from a folder, the Hub or the course's bundled rows. Knows nothing of models.

The source is chosen by COURSE_DATA: a folder with `<name>/<split>.parquet`, "hub", or "bundled". Unset, it follows the
profile: tiny reads the bundled rows; laptop asks the Hub and falls back to the bundled rows, saying so; colab and
paper ask the Hub and nothing else.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import errno
import io
import json
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
from datasets import ClassLabel, Dataset, Features, List, Value, concatenate_datasets, load_dataset
from datasets.exceptions import DatasetGenerationError

from shared import data as rows
from shared.course.runtime import ROOT, CourseError, check_max_length, hub_reachable, profile, unknown, withhold_texts
from shared.data import BUNDLED, count_cut, fingerprint, stratified_sizes, subsample  # noqa: F401

# What reading a damaged copy raises. Compared exactly: the Hub client's own errors are subclasses of OSError and FileNotFoundError.
DAMAGED = (pyarrow.ArrowInvalid, json.JSONDecodeError, DatasetGenerationError, OSError, FileNotFoundError)
# "hub": its first data set, or "bundled": why the Hub was given up. A lesson is a process, and all its rows come from one of the two.
_first_rows: dict[str, str] = {}


@dataclass(frozen=True)
class DatasetSpec:
    """What the course knows of a data set: where the Hub has it and what its rows look like."""

    hub_id: str  # "" where the Hub has none
    features: Features
    texts: tuple[str, ...]  # the columns that hold natural language
    label: str | None = None
    config: str | None = None
    revision: str | None = None  # of the Hub's repository, where its newest holds a loading script instead of rows
    gaps: bool = False  # rows of the Hub's version may lack a text; they are dropped and counted

    @property
    def multi_label(self) -> bool:
        """True where a row has a list of labels."""
        return self.label is not None and isinstance(self.features[self.label], List)

    @property
    def names(self) -> list[str]:
        """The label names, in label order."""
        kind = self.features[self.label]
        return (kind.feature if self.multi_label else kind).names


EMOTIONS = [
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief",
    "joy", "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise",
    "neutral",
]
NLI = ClassLabel(names=["entailment", "neutral", "contradiction"])
SQUAD = Features(
    {column: Value("string") for column in ("id", "title", "context", "question")}
    | {"answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))}}
)

SPECS = {
    "ag_news": DatasetSpec(
        hub_id="fancyzhx/ag_news",
        features=Features(
            {"text": Value("string"), "label": ClassLabel(names=["World", "Sports", "Business", "Sci/Tech"])}
        ),
        texts=("text",),
        label="label",
    ),
    "go_emotions": DatasetSpec(
        hub_id="google-research-datasets/go_emotions",
        config="simplified",
        features=Features({"text": Value("string"), "labels": List(ClassLabel(names=EMOTIONS)), "id": Value("string")}),
        texts=("text",),
        label="labels",
    ),
    "mnli": DatasetSpec(
        hub_id="nyu-mll/glue",
        config="mnli",
        features=Features({"premise": Value("string"), "hypothesis": Value("string"), "label": NLI}),
        texts=("premise", "hypothesis"),
        label="label",
    ),
    "nli_mix": DatasetSpec(  # a mixture of other NLI corpora that a reader may have in a folder
        hub_id="",
        features=Features({"premise": Value("string"), "hypothesis": Value("string"), "label": NLI}),
        texts=("premise", "hypothesis"),
        label="label",
    ),
    "rte": DatasetSpec(
        hub_id="nyu-mll/glue",
        config="rte",
        features=Features(
            {
                "sentence1": Value("string"),
                "sentence2": Value("string"),
                "label": ClassLabel(names=["entailment", "not_entailment"]),
            }
        ),
        texts=("sentence1", "sentence2"),
        label="label",
    ),
    "en_id": DatasetSpec(
        hub_id="Helsinki-NLP/opus-100",
        config="en-id",
        features=Features({"en": Value("string"), "id": Value("string")}),
        texts=("en", "id"),
        gaps=True,
    ),
    "squad": DatasetSpec(hub_id="rajpurkar/squad", features=SQUAD, texts=("question", "context")),
    "squad_v2": DatasetSpec(hub_id="rajpurkar/squad_v2", features=SQUAD, texts=("question", "context")),
    "xsum": DatasetSpec(
        hub_id="EdinburghNLP/xsum",
        revision="refs/convert/parquet",
        features=Features({column: Value("string") for column in ("document", "summary", "id")}),
        texts=("document", "summary"),
    ),
    "sst2": DatasetSpec(
        hub_id="nyu-mll/glue",
        config="sst2",
        features=Features({"sentence": Value("string"), "label": ClassLabel(names=["negative", "positive"])}),
        texts=("sentence",),
        label="label",
    ),
    "cnn_dailymail": DatasetSpec(
        hub_id="abisee/cnn_dailymail",
        config="3.0.0",
        features=Features({column: Value("string") for column in ("article", "highlights", "id")}),
        texts=("article", "highlights"),
    ),
}


# ---------------------------------------------------------------- choosing the source


def choose_source() -> tuple[str, Path | None]:
    """('folder', path), ('hub', None) or ('bundled', None), from COURSE_DATA, else from the profile."""
    wanted = os.environ.get("COURSE_DATA", "").strip()
    if wanted in ("hub", "bundled"):
        return wanted, None
    if wanted:
        folder = Path(wanted).expanduser()
        if not folder.is_dir() and (ROOT / folder).is_dir():  # a notebook runs in its own folder, not in the checkout
            folder = ROOT / folder
        if not folder.is_dir():
            raise CourseError(f"COURSE_DATA={wanted}: no such folder; give a folder, 'hub' or 'bundled'")
        return "folder", folder
    return ("bundled", None) if profile() == "tiny" else ("hub", None)


# ---------------------------------------------------------------- loading


def load_split(name: str, split: str, n: int | None = None, seed: int = 0) -> Dataset:
    """One split of a data set as a `datasets.Dataset` in the Hub's schema.

    Args:
        name: a key of SPECS, for example "ag_news".
        split: the split's name, for example "train".
        n: rows to keep (stratified by label for classification), None for all; more than there are means all.
        seed: of the subsample.

    The source and the rows are recorded with the data set; `record` reads them back for the results.
    Raises CourseError for whatever the reader can mend: unknown name, missing split or column, label out of range,
    empty or unreadable data, no network in a profile that must not fall back, or only after the Hub has given other rows.
    """
    if name not in SPECS:
        raise unknown("data set", name, list(SPECS))
    spec = SPECS[name]
    source, folder = choose_source()
    if source == "hub":
        dataset, source = _from_hub(name, spec, split)
    else:
        path = (folder / name / f"{split}.parquet") if folder else (BUNDLED / name / f"{split}.jsonl")
        dataset = _from_file(name, path)
    dataset = by_language(dataset)
    if spec.gaps and source.startswith("hub"):
        dataset = _without_gaps(dataset, spec, split)
    dataset = check(dataset, spec, f"{name}/{split} ({source})")
    dataset = subsample(dataset, n, seed, None if spec.multi_label else spec.label)
    dataset.info.description = json.dumps({"name": name, "split": split, "source": source})
    return dataset


def bundled_split(name: str, split: str) -> Dataset:
    """One split of the course's own rows, whatever COURSE_DATA says: free to show, and nothing was trained on its test."""
    spec = SPECS[name]
    dataset = by_language(_from_file(name, BUNDLED / name / f"{split}.jsonl"))
    dataset = check(dataset, spec, f"{name}/{split} (bundled)")
    dataset.info.description = json.dumps({"name": name, "split": split, "source": "bundled"})
    return dataset


def _from_file(name: str, path: Path) -> Dataset:
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob(f"*{path.suffix}"))
        raise CourseError(
            f"{name} has no split '{path.stem}': {path.name} is missing from {path.parent.parent.name}/{name}; "
            + (f"there are {', '.join(there)}" if there else "the folder is missing or empty")
        )
    try:
        if path.suffix == ".jsonl":
            rows = [json.loads(line) for line in path.read_text(encoding="utf8").split("\n") if line.strip()]
            return Dataset.from_list(rows)
        import pyarrow.parquet as pq

        return Dataset(pq.read_table(path).combine_chunks())
    except Exception as error:  # pyarrow raises half a dozen types for a damaged file
        reason = (str(error) or type(error).__name__).splitlines()[0][:120]
        raise CourseError(f"cannot read {name}/{path.name}: the file is damaged or cut off ({reason}); copy it again") from None


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    """Keep the Hub's clients off the network: `local_files_only` does not reach all of load_dataset's requests."""
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before


def _load(spec: DatasetSpec, split: str, online: bool) -> Dataset:
    """`load_dataset`; a damaged copy in its cache is fetched again, and named where that does not help."""
    extra, damage = {"revision": spec.revision} if spec.revision else {}, ""
    folder = Path(datasets.config.HF_DATASETS_CACHE) / spec.hub_id.replace("/", "___")
    copied = any(path.is_file() for path in folder.rglob("*"))
    for _ in range(1 + online):
        if damage:
            print(f"NOTE: the cached copy of {spec.hub_id} is damaged ({damage}); fetching it again.")
            extra["download_mode"] = "force_redownload"
        try:
            return load_dataset(spec.hub_id, spec.config, split=split, **extra)
        except Exception as error:
            missing = type(error) is FileNotFoundError and not copied  # a Hub that answers with errors, where no copy is
            if missing or type(error) not in DAMAGED or getattr(error, "errno", None) == errno.ENOSPC:
                raise
            damage = type(error).__name__
    raise CourseError(
        f"the cached copy of {spec.hub_id} is damaged ({damage}) and {'fetching it again' if online else 'being offline'} does not mend "
        f"it: delete {folder} and load it again with a connection, or set COURSE_DATA"
    )


def _ask_hub(spec: DatasetSpec, split: str) -> Dataset | str:
    """The split, or why it is not to be had."""
    online = hub_reachable()
    try:
        with contextlib.nullcontext() if online else _cache_only():
            return _load(spec, split, online)
    except CourseError:
        raise
    except Exception as error:  # the Hub client has many error types; all mean "not to be had"
        return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])[:140] if online else "no network"


def _from_hub(name: str, spec: DatasetSpec, split: str) -> tuple[Dataset, str]:
    if not spec.hub_id:
        raise CourseError(f"the Hub has no {name}: set COURSE_DATA to a folder with {name}/{split}.parquet")
    bundled = BUNDLED / name / f"{split}.jsonl"
    hub_only = profile() in ("colab", "paper") or os.environ.get("COURSE_DATA", "").strip() == "hub" or not bundled.is_file()
    given_up = "" if hub_only else _first_rows.get("bundled", "")
    found = given_up or _ask_hub(spec, split)
    if isinstance(found, Dataset):
        _first_rows.setdefault("hub", spec.hub_id)
        return found, f"hub: {spec.hub_id}"
    if hub_only:
        raise CourseError(
            f"cannot load {spec.hub_id} from the Hub ({found}): check the connection, or set COURSE_DATA to a folder "
            f"with {name}/{split}.parquet"
        )
    if "hub" in _first_rows:
        raise CourseError(
            f"the Hub gave {_first_rows['hub']} but no {split} rows of {spec.hub_id} ({found}), and bundled rows are not mixed with the "
            "Hub's: run this again when the Hub answers, or restart with COURSE_DATA=bundled"
        )
    _first_rows["bundled"] = found
    print(f"NOTE: the Hub gave no {spec.hub_id} ({found}); using the course's bundled {split} rows instead.")
    return _from_file(name, bundled), f"bundled (fallback, {found})"


def by_language(dataset: Dataset) -> Dataset:
    """A column a language, where the Hub's translation sets have a single one, `translation`: {"en": …, "id": …}."""
    if "translation" not in dataset.column_names:
        return dataset
    flat = dataset.flatten()
    return flat.rename_columns({name: name.removeprefix("translation.") for name in flat.column_names})


def _without_gaps(dataset: Dataset, spec: DatasetSpec, split: str) -> Dataset:
    sides = [dataset[column] for column in spec.texts if column in dataset.column_names]
    whole = [row for row, texts in enumerate(zip(*sides, strict=True)) if all(text and text.strip() for text in texts)]
    if len(whole) < len(dataset):
        print(f"{split}: dropped {len(dataset) - len(whole):,} of {len(dataset):,} rows of {spec.hub_id} that lack a text")
    return dataset.select(whole)


def check(dataset: Dataset, spec: DatasetSpec, where: str) -> Dataset:
    """The data set with exactly the columns and types of its schema; CourseError where a row breaks it."""
    if not len(dataset):
        raise CourseError(f"{where} is empty: give it at least one row")
    missing = [column for column in spec.features if column not in dataset.column_names]
    if missing:
        raise CourseError(f"{where} lacks the column '{missing[0]}': it has {', '.join(dataset.column_names)}")
    dataset = dataset.select_columns(list(spec.features))
    if spec.label:
        _check_labels(dataset, spec, where)
    for column in spec.texts:
        for row, text in enumerate(dataset[column]):
            if not isinstance(text, str) or not text.strip():
                raise CourseError(f"{where}: row {row} has an empty '{column}'; remove the row or fill it")
    return dataset.cast(spec.features)


def _check_labels(dataset: Dataset, spec: DatasetSpec, where: str) -> None:
    names = spec.names
    for row, value in enumerate(dataset[spec.label]):
        labels = value if spec.multi_label else [value]
        if not isinstance(labels, list | None):
            raise CourseError(f"{where}: row {row} has no list of labels in '{spec.label}' but {value!r}; write [{value!r}]")
        if not labels:
            raise CourseError(f"{where}: row {row} has no label in '{spec.label}'; remove the row or give it at least one")
        for label in labels:
            if isinstance(label, str) and label not in names:
                raise CourseError(f"{where}: row {row}: {unknown('label', label, names)}")
            if not isinstance(label, str) and (type(label) is not int or not 0 <= label < len(names)):
                shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
                raise CourseError(
                    f"{where}: row {row} has {spec.label} {label!r}; labels run from 0 to {len(names) - 1} ({shown})"
                )


def hold_out(dataset: Dataset, n: int, seed: int = 0, name: str = "validation", group: str | None = None) -> tuple[Dataset, Dataset]:
    """`shared.data.hold_out`, stratified by the schema's label; `name` is what the results call the held-out rows."""
    info = json.loads(dataset.info.description)
    spec = SPECS[info["name"]]
    rest, held_out = rows.hold_out(dataset, n, seed, None if spec.multi_label else spec.label, group)
    held_out.info.description = json.dumps(info | {"split": name, "source": f"{info['source']}, held out of {info['split']}"})
    return rest, held_out


def join(*parts: Dataset) -> Dataset:
    """The parts' rows one after another; described as the first part (record the parts, not the whole)."""
    whole = concatenate_datasets(list(parts))
    whole.info.description = parts[0].info.description
    return whole


def drop_overlap(train: Dataset, test: Dataset, tail: int = 60, column: str | None = None) -> Dataset:
    """`shared.data.drop_overlap`, in the schema's first text unless told."""
    return rows.drop_overlap(train, test, column or SPECS[json.loads(train.info.description)["name"]].texts[0], tail)


def encode(dataset: Dataset, tokenizer: Callable, max_length: int, columns: tuple[str, ...] | None = None) -> Dataset:
    """The rows as token ids, plus `labels`; the texts stay behind.

    Args:
        columns: the text columns to encode, one or two (a pair becomes `[CLS] A [SEP] B [SEP]`); by default the schema's.

    `labels` is the class number, or for a multi-label data set a row of 0.0 and 1.0, one per label, as the binary
    cross-entropy wants it. What is longer than `max_length` loses its right end (of a pair, the longer side does); how
    many rows did is printed, and `cut_rows` reads it back. Nothing is padded here: the collator pads each batch to its
    own longest row. Raises CourseError for a `max_length` that the model has no positions for.
    """
    check_max_length(max_length, tokenizer)
    info = json.loads(dataset.info.description)
    spec = SPECS[info["name"]]
    texts, cut = columns or spec.texts, []

    def tokenise(batch: dict[str, list]) -> dict[str, list]:
        tokens = tokenizer(*(batch[column] for column in texts), truncation=True, max_length=max_length)
        cut.append(count_cut(tokens, max_length))
        labels = {}
        if spec.label:
            labels["labels"] = multi_hot(batch[spec.label], len(spec.names)) if spec.multi_label else batch[spec.label]
        return dict(tokens) | labels

    encoded = dataset.map(
        tokenise, batched=True, remove_columns=dataset.column_names, features=_encoded_features(spec, tokenizer), keep_in_memory=True,
        # the library's fingerprint pickles the whole tokenizer, which takes longer than tokenising a small data set
        new_fingerprint=uuid.uuid4().hex, load_from_cache_file=False,
    )
    if sum(cut):
        print(f"{info['split']}: {sum(cut):,} of {len(encoded):,} rows were longer than {max_length} tokens and lost their right end")
    encoded.info.description = json.dumps(info | {"cut": sum(cut)})
    return encoded


def _encoded_features(spec: DatasetSpec, tokenizer: Callable) -> Features:
    """The columns that `encode` makes. Left to guess them, the library would look at every single number."""
    names = tokenizer("", truncation=True).keys()
    columns = {name: List(Value("int32" if name == "input_ids" else "int8")) for name in names}
    if spec.label:
        columns["labels"] = List(Value("float32")) if spec.multi_label else spec.features[spec.label]
    return Features(columns)


def cut_rows(encoded: Dataset) -> int:
    """How many rows `encode` had to cut."""
    return json.loads(encoded.info.description)["cut"]


def multi_hot(labels: list[list[int]], classes: int) -> np.ndarray:
    """Float32 matrix [rows, classes] with 1.0 where the row has the label."""
    matrix = np.zeros((len(labels), classes), np.float32)
    rows = np.repeat(np.arange(len(labels)), [len(row) for row in labels])
    matrix[rows, np.fromiter((label for row in labels for label in row), int, len(rows))] = 1.0
    return matrix


# ---------------------------------------------------------------- a reader's own CSV


def csv_splits(
    path: str | Path, name: str = "en_id", validation_share: float = 0.1, test_share: float = 0.1, seed: int = 0
) -> tuple[Dataset, Dataset, Dataset]:
    """(train, validation, test) of a comma-separated UTF-8 file whose first line names the text columns of data set `name`.

    Args:
        path: the file, relative to the working folder or to the checkout; other columns are left out.
        validation_share, test_share: of the rows, drawn by `seed`. Rows with the same first text stay together, so that no
            sentence is both trained on and tested.

    Raises CourseError, with the line, for what can't be read: see `read_csv`.
    """
    file = next((place for place in (Path(path).expanduser(), ROOT / path) if place.is_file()), None)
    if file is None:
        raise CourseError(f"{path}: no such file; give the path of a CSV file with the columns {','.join(SPECS[name].texts)}")
    rows = read_csv(file, SPECS[name].texts)
    if len(rows) < 10:
        raise CourseError(f"{file.name} has {len(rows)} rows: training, validation and test rows need at least 10 together")
    dataset = Dataset.from_list(rows, features=SPECS[name].features)
    dataset.info.description = json.dumps({"name": name, "split": "train", "source": f"file {file.name}"})
    group = SPECS[name].texts[0]
    rest, test = hold_out(dataset, max(1, round(test_share * len(rows))), seed, "test", group)
    train, validation = hold_out(rest, max(1, round(validation_share * len(rows))), seed, "validation", group)
    return train, validation, test


def read_csv(file: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """The rows of a CSV file as {column: text}, nothing but `columns` kept.

    Raises CourseError for another encoding than UTF-8, another separator than the comma, a missing column, a row with too
    few or too many cells, an empty cell, and a quote that is never closed. The message names the line.
    """
    reader = csv.reader(io.StringIO(_utf8(file), newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(reader, [])]
        places = _places(file.name, header, columns)
        rows = [_csv_row(f"{file.name}, line {reader.line_num}", cells, header, places) for cells in reader if cells]
    except csv.Error as error:
        cure = "a double quote inside a quoted text is written twice, and every quote must be closed"
        raise CourseError(f"{file.name}, line {reader.line_num}: {error}; {cure}") from None
    return rows


def _utf8(file: Path) -> str:
    """The file's text, without the byte order mark that spreadsheets put in front."""
    raw, cure = file.read_bytes(), "save it as 'CSV UTF-8'"
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in raw:
        raise CourseError(f"{file.name} is UTF-16 or no text at all: {cure}")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise CourseError(f"{file.name} is not UTF-8 (byte 0x{raw[error.start]:02x} in line {line}): {cure}") from None


def _places(name: str, header: list[str], columns: tuple[str, ...]) -> dict[str, int]:
    """Where the columns stand."""
    other = next((mark for mark in (";", "\t", "|") if len(header) == 1 and mark in header[0]), None)
    if other:
        raise CourseError(f"{name}: its cells are parted by {other!r}; save it with commas")
    for column in columns:
        if column not in header:
            raise CourseError(f"{name} lacks the column '{column}': its first line has {', '.join(header) or 'nothing'}")
    return {column: header.index(column) for column in columns}


def _csv_row(where: str, cells: list[str], header: list[str], places: dict[str, int]) -> dict[str, str]:
    if len(cells) < len(header):
        raise CourseError(f"{where} ends after {len(cells)} of {len(header)} cells: one side is missing; write it or remove the line")
    if len(cells) > len(header):
        raise CourseError(f"{where} has {len(cells)} cells for {len(header)} columns: put a text with a comma in double quotes")
    row = {column: cells[place].strip() for column, place in places.items()}
    for column, text in row.items():
        if not text:
            raise CourseError(f"{where}: '{column}' is empty; fill it or remove the line")
    return row


def record(*splits: Dataset) -> dict[str, dict[str, Any]]:
    """The `data` object of the results: {split: {source, rows, fingerprint}} of the rows actually used."""
    described = [(json.loads(dataset.info.description), dataset) for dataset in splits]
    return {
        info["split"]: {"source": info["source"], "rows": len(dataset), "fingerprint": fingerprint(dataset)}
        for info, dataset in described
    }


def is_bundled(dataset: Dataset) -> bool:
    """True for the course's own CC0 rows, which may be shown anywhere."""
    return json.loads(dataset.info.description)["source"].startswith("bundled")


def excerpt(dataset: Dataset, row: int, column: str | None = None, width: int = 160) -> str:
    """Row `row`'s text for showing, cut to `width` characters; withheld if it is not ours and outputs get published."""
    info = json.loads(dataset.info.description)
    column = column or SPECS[info["name"]].texts[0]
    if withhold_texts() and not is_bundled(dataset):
        return f"[text withheld: row {row} of {info['name']}/{info['split']}]"
    text = " ".join(dataset[row][column].split())
    return text if len(text) <= width else text[: width - 1] + "…"
