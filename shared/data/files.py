"""What stands in a reader's file or folder: tables of columns, with the split and the place of every row. Knows nothing of tasks.

pandas, pyarrow and `datasets` read what has types (Excel, Parquet, Arrow, save_to_disk). Texts with delimiters go through Python's `csv`
in its strict mode, every cell a text: `load_dataset("csv")` takes a ; for a part of a single column, "NA" and "None" for no text, 007 for
7, shifts the columns where rows end with a comma, and reads `"He said "no"."` as another text, each without a word.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import itertools
import json
import re
import zipfile
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shared.course.runtime import ROOT, CourseError, encodable, first_line

csv.field_size_limit(2**31 - 1)  # a whole contract may stand in a cell
BATCH = 10_000  # rows of a text file that become columns at once
# white space of all kinds, and what has no width
BLANK = "\t\n\v\f\r \x85\xa0\u1680\u205f\u2060\u3000\ufeff" + "".join(map(chr, [*range(0x2000, 0x2010), *range(0x2028, 0x2030)]))
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
NAMES = ("text", "sentence", "label", "labels", "class", "category", "question", "context", "answer", "source", "target", "title", "id", "")
VALUE, ENDS = re.compile(r"[-+]?\d+([.,]\d+)*"), (".", "!", "?", "\u3002", "\uff01", "\uff1f")  # a number; how a sentence ends
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
}  # fmt: skip
READ = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet", ".arrow", ".xlsx")  # in a folder, also with .gz
NOTES = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")  # what stands beside rows
REFUSED = {
    b"\xd0\xcf\x11\xe0": "is an Excel file of the old kind: save it as .xlsx",
    b"BZh": "is packed with bzip2: unpack it first",
    b"\xfd7zXZ": "is packed with xz: unpack it first",
    b"\x28\xb5\x2f\xfd": "is packed with zstd: unpack it first",
    b"%PDF": "is a PDF: save its table as CSV",
    b"<!doctype": "is a web page, not the file: download it again",
    b"<html": "is a web page, not the file: download it again",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file: run `git lfs pull` where it comes from",
}


@dataclass
class Part:
    """One table: its columns, the split it belongs to ("" where nothing says), and the names that the file gives to label numbers."""

    name: str
    table: pa.Table
    split: str = ""
    how: str = ""  # what was found out about the format
    names: dict[str, list[str]] = field(default_factory=dict)
    lines: Sequence[int] | None = None  # in which each row begins
    unit: str = "line"

    def where(self, row: int) -> str:
        """The place of a row for messages: its line in a text or sheet, else its number, counted from 1."""
        return f"{self.name}, row {row + 1}" if self.lines is None else f"{self.name}, {self.unit} {self.lines[row]}"


def read(path: str | Path) -> list[Part]:
    """The tables of a file or folder. Raises CourseError, in one line with file, line and cure, for what cannot be read."""
    if "://" in str(path):
        raise CourseError(f"{path} is an address: download the file, and give the path where it lies")
    place = next((place for place in (Path(path).expanduser(), ROOT / path) if place.exists()), None)
    if place is None:
        raise CourseError(f"{path}: no such file or folder, neither in {Path.cwd().name} nor in the checkout: give its whole path")
    try:
        parts = _folder(place) if place.is_dir() else _file(place)
    except OSError as error:
        raise CourseError(f"{place.name} cannot be read ({error.strerror or first_line(error)}): copy it again") from None
    parts = sorted((part for part in parts if part.table.num_rows), key=lambda part: split_of(part.split) not in ("", "train"))
    if not parts:
        raise CourseError(f"{place.name} has no rows: it needs a line of column names and lines below it")
    return parts


def _file(place: Path, split: str = "") -> list[Part]:
    """The tables of one file, whose content tells its format: one, or the splits of an Excel file or a JSON object."""
    raw = place.read_bytes()
    try:
        raw = gzip.decompress(raw) if raw.startswith(b"\x1f\x8b") else raw
    except (EOFError, OSError, zlib.error):
        raise CourseError(f"{place.name} is damaged or cut off: copy it again") from None
    if not raw.strip(b" \r\n\t\xef\xbb\xbf"):
        raise CourseError(f"{place.name} is empty: it needs a line of column names and lines below it")
    for start, what in REFUSED.items():
        if raw[:30].lower().startswith(start.lower()):
            raise CourseError(f"{place.name} {what}")
    readers = {b"PAR1": _columnar, b"ARROW1": _columnar, b"\xff\xff\xff\xff": _columnar, b"PK\x03\x04": _excel}
    parts = next((reader for start, reader in readers.items() if raw.startswith(start)), _text)(place.name, raw)
    for part in parts:
        part.split = part.split or split
    return parts


# ---------------------------------------------------------------- folders


def split_of(words: str) -> str:
    """The split that a name speaks of, "test" for "my_test_set"; "" for none."""
    return next((SPLITS[word] for word in re.split(r"[^a-z]+", words.lower()) if word in SPLITS), "")


def _folder(place: Path) -> list[Part]:
    """What `save_to_disk` wrote, alone or a folder a split; else data files, whose names and folders say which split they are."""
    whole = any((place / name).is_file() for name in ("dataset_dict.json", "state.json"))
    if saved := [place] if whole else sorted(path.parent for path in place.glob("*/state.json")):
        return [part for folder in saved for part in _saved(folder, "" if whole else folder.name)]
    found = sorted(path.relative_to(place) for path in place.rglob("*") if path.name not in NOTES)
    found = [path for path in found if path.name.lower().removesuffix(".gz").endswith(READ) and "/." not in f"/{path.as_posix()}"]
    if not found:
        there = ", ".join(path.name for path in sorted(place.iterdir())[:4]) or "nothing"
        raise CourseError(f"{place.name} has no file of rows, only {there}: give a folder with files such as train.csv or train.parquet")
    alike = [(path.parent, path.name.split(".")[0], split_of(_stem(path.name))) for path in found]  # train.csv and train.clean.csv
    if twice := [path.name for path, key in zip(found, alike, strict=True) if alike.count(key) > 1]:
        raise CourseError(f"{place.name} has {' and '.join(twice[:3])}, perhaps the same rows: leave one of them there")
    splits = [_split_of_file(path) for path in found]
    if len(tables := sorted({table for _, table in splits})) > 1:
        raise CourseError(f"{place.name} holds several tables ({', '.join(tables[:5])}): give one of them, as {place.name}/{tables[-1]}")
    parts, names = [], _names_on_the_card(place)
    for path, (split, _) in zip(found, splits, strict=True):
        parts += _file(place / path, split)
    for part in parts:
        part.names = names | part.names
    return parts


def _stem(name: str) -> str:
    """A file's name without its ending: "wiki-1.0.train" of wiki-1.0.train.csv.gz."""
    name = name[: -len(".gz")] if name.lower().endswith(".gz") else name
    return name[: -len(Path(name).suffix)] if name.lower().endswith(READ) else name


def _split_of_file(path: Path) -> tuple[str, str]:
    """(split, folder of its table) of data/train-00000-of-00001.parquet, mnli/validation_matched.csv, default/test/0000.parquet."""
    stem = re.sub(r"(-\d{5}-of-\d{5}|[-_]?\d+)$", "", _stem(path.name))
    above = [folder for folder in path.parts[:-1] if folder.lower() != "data"]
    said = stem if split_of(stem) else next(filter(split_of, reversed(above)), "")
    return SPLITS.get(said.lower(), said), "/".join(folder for folder in above if folder != said) or "."


def _names_on_the_card(place: Path) -> dict[str, list[str]]:
    """The names of label numbers in the folder's README.md or dataset_infos.json, as on the Hub, where it has one configuration."""
    from datasets.info import DatasetInfosDict

    with contextlib.suppress(Exception):  # a card of another kind
        (info,) = DatasetInfosDict.from_directory(str(place)).values()
        return _class_names(info.features)
    return {}


def _class_names(features: dict[str, Any] | None) -> dict[str, list[str]]:
    """{column: names} of the columns that are ClassLabels, or lists of them."""
    kinds = {column: getattr(kind, "feature", kind) for column, kind in (features or {}).items()}
    return {column: list(kind.names) for column, kind in kinds.items() if getattr(kind, "names", None)}


def _saved(folder: Path, split: str) -> list[Part]:
    from datasets import DatasetDict, load_from_disk

    try:
        loaded = load_from_disk(str(folder))
        splits = loaded if isinstance(loaded, DatasetDict) else {split: loaded}
        tables = {name: rows.with_format("arrow")[:] for name, rows in splits.items()}
    except (FileNotFoundError, KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise CourseError(f"{folder.name} cannot be loaded ({first_line(error, 80)}): write it again with save_to_disk") from None
    names = {key: _class_names(rows.features) for key, rows in splits.items()}
    return [Part(f"{folder.name}/{key}".rstrip("/"), table, key, "save_to_disk", names[key]) for key, table in tables.items()]


# ---------------------------------------------------------------- files with types


def _columnar(name: str, raw: bytes) -> list[Part]:
    """Parquet, an Arrow file, or an Arrow stream, as `datasets` keeps in its cache."""
    from datasets import Features

    source = pa.BufferReader(raw)
    try:
        if raw.startswith(b"PAR1"):
            table = pq.ParquetFile(source).read()
        else:
            table = (pa.ipc.open_file if raw.startswith(b"ARROW1") else pa.ipc.open_stream)(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise CourseError(f"{name} is damaged or cut off ({first_line(error, 80)}): copy it again") from None
    names = {}
    with contextlib.suppress(Exception):  # another program's metadata
        names = _class_names(Features.from_arrow_schema(table.schema))
    return [Part(name, table, how="Parquet" if raw.startswith(b"PAR1") else "Arrow", names=names)]


def _excel(name: str, raw: bytes) -> list[Part]:
    """The first sheet with rows, or all sheets where each is called after a split."""
    import pandas

    with contextlib.suppress(zipfile.BadZipFile):
        if "xl/workbook.xml" not in zipfile.ZipFile(io.BytesIO(raw)).namelist():
            raise CourseError(f"{name} is a packed folder or another program's file: unpack it, or save its table as .xlsx or CSV")
    try:
        sheets = pandas.read_excel(io.BytesIO(raw), sheet_name=None, header=None, dtype=object, keep_default_na=False)
    except ImportError:
        raise CourseError(f"{name}: for Excel files, run `pip install openpyxl`; or save the sheet as CSV") from None
    except Exception as error:  # a broken workbook raises whatever it breaks
        raise CourseError(f"{name} cannot be read as an Excel file ({first_line(error, 80)}): save it again, or as CSV") from None
    sheets = {str(sheet): table for sheet, table in sheets.items() if len(table) > 1}
    kept = list(sheets) if len(sheets) > 1 and all(map(split_of, sheets)) else list(sheets)[:1]
    parts = []
    for sheet in kept:
        lines = ((at, [_cell(value) for value in row]) for at, row in enumerate(sheets[sheet].itertuples(index=False), 1))
        two = min(2, sheets[sheet].shape[1])  # a title above the table stands alone in its row
        part = _cut(name, sheets[sheet]) or _grid(
            name, itertools.dropwhile(lambda line, two=two: sum(map(bool, line[1])) < two, lines), "row"
        )
        part.how = f"Excel, sheet '{sheet}'" + f" of {len(sheets)}" * (len(sheets) > 1) + part.how
        part.split = split_of(sheet) if len(kept) > 1 else ""
        parts.append(part)
    return parts


def _cut(name: str, sheet: Any) -> Part | None:
    """The table in a sheet of one column, where a spreadsheet did not cut the lines of a CSV; None where nothing can be cut."""
    text = "\n".join(map(_cell, sheet[0])) if sheet.shape[1] == 1 else ""
    delimiter, _ = _delimiter(text[:400_000], "")
    if delimiter not in text.partition("\n")[0]:
        return None
    part = _csv(name, text.encode(), "utf-8")
    part.how = f", {part.how}"
    return part


def _cell(value: Any) -> str:
    """A cell of a sheet as a text; nothing is "", and a whole number has no point."""
    if value is None or value != value:
        return ""
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


# ---------------------------------------------------------------- texts with delimiters


def _text(name: str, raw: bytes) -> list[Part]:
    encoding, said = _encoding(name, raw)
    start = raw[:4_000].decode(encoding, "ignore").strip(BLANK)[:1]
    if start in ("[", "{") or re.search(r"\.(json|jsonl|ndjson)(\.gz)?$", name.lower()):
        parts = _json(name, io.TextIOWrapper(io.BytesIO(raw), encoding, newline="\n"))
    else:
        parts = [_csv(name, raw, encoding)]
    for part in parts:
        part.how += f", {said}"
    return parts


def _encoding(name: str, raw: bytes) -> tuple[str, str]:
    """(codec, its name for people): what a byte order mark says, UTF-8, UTF-16 without a mark, or Western letters of one byte each."""
    marks = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe\0\0": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
    marked = next((codec for mark, codec in marks.items() if raw.startswith(mark)), None)
    even, odd = raw[:4_000:2].count(0), raw[1:4_000:2].count(0)
    if not marked and even + odd:
        marked = "utf-16-le" if odd > 4 * even else "utf-16-be" if even > 4 * odd else None
        if not marked:
            raise CourseError(f"{name} is no text, or a damaged one (it has bytes of 0): save it as 'CSV UTF-8'")
    codec = marked or "utf-8"
    try:
        raw.decode(codec)
        return codec, codec.upper().removesuffix("-SIG")
    except UnicodeDecodeError as error:
        byte, line = raw[error.start], len(re.findall(rb"\r\n|\r|\n", raw[: error.start])) + 1
    if not marked and (example := _western(raw)):
        return "cp1252", f"not in UTF-8, read as Western letters (cp1252), such as '{example}' in line {line}"
    raise CourseError(f"{name}, line {line}: byte 0x{byte:02x} is neither {codec.upper()} nor a Western letter: save it as 'CSV UTF-8'")


def _western(raw: bytes) -> str:
    """The first word with a letter beyond ASCII, where all such words look Western in one byte a letter; else "".

    Other alphabets, read so, have long runs of odd letters, or signs amid letters. UTF-8 with a broken byte has pairs that UTF-8 knows.
    """
    try:
        words = re.findall(r"\S*[^\x00-\x7f]\S*", raw.decode("cp1252"))
    except UnicodeDecodeError:
        return ""
    strange = sum(bool(re.search(r"[À-ÿŠŒŽšœžŸƒ]{3}|\w[¡¢¤¦§©-¬¯±-³¶¸¹»-¿]\w", word)) for word in words)
    return "" if re.search(rb"[\xc3-\xf4][\x80-\xbf]", raw) or 5 * strange > len(words) else words[0]


class _Quotes(CourseError):
    """A double quote stands where none may."""


def _csv(name: str, raw: bytes, encoding: str) -> Part:
    delimiter, skip = _delimiter(raw[:400_000].decode(encoding, "ignore"), name.lower())

    def table(quoting: int, said: str) -> Part:
        stream = io.TextIOWrapper(io.BytesIO(raw), encoding, newline="")
        part = _grid(name, _lines(name, stream, skip, delimiter=delimiter, quoting=quoting))
        part.how = f"separated by {DELIMITERS.get(delimiter, repr(delimiter))}{said}{part.how}"
        return part

    try:
        return table(csv.QUOTE_MINIMAL, "")
    except _Quotes:
        if delimiter != "\t":
            raise
        return table(csv.QUOTE_NONE, ", quotes are letters")  # many files with tabs know no others


def _delimiter(head: str, name: str) -> tuple[str, int]:
    """(delimiter, lines to skip): what Excel's line `sep=;` says, else what cuts most of the first rows into as many cells as the first."""
    if told := re.match(r'"?sep=(.)"?[\r\n]', head):
        return told[1], 1
    scores = {}
    for delimiter in DELIMITERS:
        rows = csv.reader(io.StringIO(head, newline=""), delimiter=delimiter, skipinitialspace=True)
        widths = [len(row) for row in itertools.islice(rows, 100) if row] or [0]
        equal = Counter(widths)[widths[0]] / len(widths) + (delimiter == "\t" and ".tsv" in name)
        scores[delimiter] = (widths[0] > 1, equal, widths[0])
    return max(scores, key=scores.get), 0


def _lines(name: str, stream: Iterable[str], skip: int, **options: Any) -> Iterator[tuple[int, list[str]]]:
    """(the line in which it begins, cells) of each row. Raises _Quotes with that line where a quote stands alone."""
    reader = csv.reader(itertools.islice(stream, skip, None), strict=True, skipinitialspace=True, **options)
    while True:
        begins = reader.line_num + skip + 1
        try:
            yield begins, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = "a double quote is opened and never closed" if "end of data" in str(error) else error
            raise _Quotes(f'{name}, line {begins}: {what}; write a double quote inside a quoted text twice ("") and close each') from None


def _grid(name: str, rows: Iterator[tuple[int, list[str]]], unit: str = "line") -> Part:
    """A table of texts from (line, cells); the first row that is not blank names the columns, unless it reads like the others."""
    rows = ((line, cells) for line, cells in rows if any(cell.strip(BLANK) for cell in cells))
    line, header = next(rows, (0, []))
    first, said = list(itertools.islice(rows, 200)), ""
    if not _is_header(header, [cells for _, cells in first]):
        first, said = [(line, header), *first], f", no column names: {unit} {line} is a row"
        header = [f"column {number}" for number in range(1, len(header) + 1)]
    header = [cell.strip(BLANK) for cell in header]
    lines, chunks = array("L"), [[] for _ in header]
    rows = itertools.chain(first, rows)
    while batch := list(itertools.islice(rows, BATCH)):
        lines.extend(line for line, _ in batch)
        cells = [_fit(cells, header, f"{name}, {unit} {line}") for line, cells in batch]
        for chunk, column in zip(chunks, zip(*cells, strict=True), strict=True):
            chunk.append(pa.array(map(encodable, column), pa.string()))
    columns = [pa.chunked_array(chunk, pa.string()) for chunk in chunks]
    kept = [at for at, column in enumerate(header) if column or any(cell.as_py().strip(BLANK) for cell in columns[at])]
    return Part(name, pa.table([columns[at] for at in kept], names=[header[at] for at in kept]), how=said, lines=lines, unit=unit)


def _is_header(header: list[str], rows: list[list[str]]) -> bool:
    """False where the first row has no usual name, and reads like those below it; pandas names columns 0, 1, 2."""
    names = [cell.strip(BLANK).lower() for cell in header]
    if set(NAMES) & set(names) or names == [str(number) for number in range(max(2, len(names)))]:
        return True
    columns = [[row[at].strip(BLANK).lower() for row in rows if at < len(row)] for at in range(len(names))]
    sentences = bool(names) and all(map(_is_sentence, names, columns))
    return not sentences and not any(map(_is_value, names, columns))


def _is_value(cell: str, column: list[str]) -> bool:
    """Whether a cell is no name: long, there again as labels are, or a number above numbers."""
    if len(cell.split()) > 8 or len(cell) > 100 or column.count(cell) > 1:
        return True
    return bool(VALUE.fullmatch(cell)) and bool(column) and all(map(VALUE.fullmatch, column))


def _is_sentence(cell: str, column: list[str]) -> bool:
    """Whether a cell ends as sentences do, and most of those below it, too."""
    return cell.endswith(ENDS) and 2 * sum(other.endswith(ENDS) for other in column) > len(column)


def _fit(cells: list[str], header: list[str], where: str) -> list[str]:
    """As many cells as there are columns; what is too many must be empty, what is missing must be of columns without a name."""
    width = len(header)
    if len(cells) > width and any(cell.strip(BLANK) for cell in cells[width:]):
        raise CourseError(f"{where} has {len(cells)} cells for {width} columns: put a text that holds the delimiter in double quotes")
    if len(cells) < width and any(header[len(cells) :]):
        cure = "write the others, or put a text with a line break in double quotes"
        raise CourseError(f"{where} ends after {len(cells)} of {width} cells: {cure}")
    return [*cells[:width], *[""] * (width - len(cells))]


# ---------------------------------------------------------------- JSON


def _json(name: str, stream: io.TextIOBase) -> list[Part]:
    """One object a line, or one document."""
    filled = filter(None, (line.strip(BLANK) for line in stream))
    first, second = next(filled, ""), next(filled, "")
    stream.seek(0)
    if second and first.startswith("{") and first.endswith("}"):
        lines = array("L")
        return [Part(name, _as_table(_objects(name, stream, lines)), how="JSON lines", lines=lines)]
    found = _parsed(name, stream.read().strip(BLANK))
    return [Part(name, _as_table(rows), split, "JSON") for split, rows in _documents(name, found)]


def _parsed(name: str, text: str, line: int = 0) -> Any:
    try:
        return json.loads(text, parse_constant=lambda constant: None)  # NaN
    except (ValueError, RecursionError) as error:
        what = getattr(error, "msg", type(error).__name__)
        raise CourseError(f"{name}, line {line or getattr(error, 'lineno', 1)} is no valid JSON ({what}): correct or remove it") from None


def _objects(name: str, stream: Iterable[str], lines: array) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, 1):
        if line := line.strip(BLANK):
            row = _parsed(name, line, number)
            if not isinstance(row, dict):
                raise CourseError(f'{name}, line {number} is no JSON object: write {{"text": ..., "label": ...}} in every line')
            lines.append(number)
            yield row


def _documents(name: str, found: Any) -> Iterator[tuple[str, Iterable[dict[str, Any]]]]:
    """(split, rows) of a list of objects, {"data": a list}, {"train": a list, ...}, {"text": [...], "label": [...]}."""
    found = found if isinstance(found, dict) else {"data": found}
    lists = {key: value for key, value in found.items() if _are_objects(value)}
    columns = {key: list(value.values()) if isinstance(value, dict) else value for key, value in found.items() if key != "data"}
    if lists and set(map(str.lower, lists)) <= set(SPLITS):
        for key, value in lists.items():
            yield SPLITS[key.lower()], _questions(name, value)
    elif len(lists) == 1 and _are_objects(rows := next(iter(lists.values()))):
        yield "", _questions(name, rows)
    elif len(columns) > 1 and all(isinstance(value, list) for value in columns.values()) and len(set(map(len, columns.values()))) == 1:
        yield "", (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    elif list(found) != ["data"] and any(isinstance(one, str) for one in found.values()) and not any(map(_holds_objects, found.values())):
        yield "", [found]  # JSON lines with a single one
    else:
        raise CourseError(f'{name} has no rows that are understood: write a list of objects, an object a line, or {{"data": [...]}}')


def _holds_objects(value: Any) -> bool:
    return isinstance(value, dict) or _are_objects(value)


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _questions(name: str, rows: list[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    """The rows themselves; a row a question where they are SQuAD's articles, or its paragraphs without articles around them."""
    if "paragraphs" not in rows[0] and "qas" not in rows[0]:
        return rows
    if "paragraphs" not in rows[0]:
        rows = [{"paragraphs": rows}]
    try:
        found = [(row, paragraph, qa) for row in rows for paragraph in row["paragraphs"] for qa in paragraph["qas"]]
        return [
            {
                "id": qa.get("id"),
                "title": article.get("title"),
                "context": paragraph["context"],
                "question": qa["question"],
                "answers": [] if qa.get("is_impossible") else qa.get("answers"),
            }
            for article, paragraph, qa in found
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise CourseError(f"{name}: {error} is missing: SQuAD's form is paragraphs with context and qas (question, answers)") from None


def _as_table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Objects as columns, in the order in which their keys come up; a key that a row lacks is null there."""
    columns: dict[str, list] = {}
    count = 0
    for count, row in enumerate(rows, 1):
        for key, value in row.items():
            cells = columns.setdefault(str(key), [])
            cells += [None] * (count - 1 - len(cells)) + [value]
    return pa.table({key: _as_array(cells + [None] * (count - len(cells))) for key, cells in columns.items()})


def _as_array(cells: list[Any]) -> pa.Array:
    """Values as one column, NaN as null; where they are of several types, each is written out as a text."""
    try:
        return pa.array(cells, from_pandas=True)
    except (pa.ArrowException, UnicodeEncodeError, OverflowError):
        texts = [encodable(cell) if isinstance(cell, str) else json.dumps(cell) for cell in cells]
        return pa.array([None if cell is None else text for cell, text in zip(cells, texts, strict=True)], pa.string())
