"""`data.from_file`: files as readers have them, each read right or refused in one line with file, row and cure."""

import gzip
import io
import json
import os
import random
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from shared import data
from shared.course import session
from shared.course.runtime import ROOT, CourseError
from shared.data import columns as cells
from shared.data import files
from tests.test_options import run

LABELS = ["fruit", "bread", "fish"]
TOPICS = {
    "fruit": "The {} apples from the garden were sweet and red.",
    "bread": "A {} loaf of rye was still warm from the oven.",
    "fish": "Off the pier we caught {} herrings before noon.",
}
HOW_MANY = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen"]
ROWS = [{"text": TOPICS[label].format(number), "label": label} for number in HOW_MANY for label in LABELS]  # 12 of each
PAIRS = [{"source": f"The bus number {n} leaves at noon.", "target": f"Bus nomor {n} berangkat siang hari."} for n in range(20)]
PARAGRAPHS = [f"In the year 18{n} the village of Halm {n} built a mill. Its miller was called Ove {n}, and he sang." for n in range(10, 22)]


@pytest.fixture(autouse=True)
def forget(monkeypatch):
    """No test leaves the note behind that a reader's file was read."""
    monkeypatch.setattr(session, "_own_file", False)


@pytest.fixture
def write(tmp_path):
    """Writes a file from bytes, or from a text in UTF-8 with its line ends as they are."""

    def file(name: str, content: str | bytes):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf8"))
        return path

    return file


def delimited(rows=ROWS, delimiter=",", end="\n", **options) -> str:
    return pd.DataFrame(rows).to_csv(index=False, sep=delimiter, lineterminator=end, **options)


def lines(rows) -> str:
    return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n"


def named(found: DatasetDict, label: str = "label") -> list[dict]:
    """All rows of all splits with label names, sorted by their text."""
    rows = []
    for part in found.values():
        kind = part.features[label]
        for row in part:
            value = [kind.feature.names[one] for one in row[label]] if label == "labels" else kind.names[row[label]]
            rows.append(row | {label: value})
    return sorted(rows, key=lambda row: row["text"])


WANTED = sorted(ROWS, key=lambda row: row["text"])


def refused(path, message: str, **columns: str | int) -> None:
    with pytest.raises(CourseError, match=message) as caught:
        data.from_file(path, **(columns or {"text": "", "label": ""}))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- text files


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_encodings_delimiters_and_line_ends_are_found_out(write, encoding, delimiter, end):
    rows = [row | {"text": f'{row["text"]}{end}The café, "Zum Bären"; said: so'} for row in ROWS]
    if delimiter == "|":
        rows = [row | {"text": row["text"].replace("|", "")} for row in rows]
    found = data.from_file(write("my.csv", delimited(rows, delimiter, end).encode(encoding)), text="", label="")
    assert named(found) == sorted(rows, key=lambda row: row["text"])
    assert found["train"].features == {"text": Value("string"), "label": ClassLabel(names=sorted(LABELS))}


@pytest.mark.parametrize("words", ["Voilà l’été", "20°C, 3×4", "Ünïcödé", "don´t", "US£5 at 10µm", "col·lecció", "créée", "rødgrød"])
def test_western_words_are_western(write, words):
    rows = [row | {"text": f"{words} {row['text']}"} for row in ROWS]
    found = data.from_file(write("my.csv", delimited(rows).encode("cp1252")), text="", label="")
    assert named(found) == sorted(rows, key=lambda row: row["text"])


@pytest.mark.parametrize("encoding", ["cp1251", "gbk", "shift_jis", "iso8859-2", "koi8-r", "euc-kr"])
def test_letters_of_another_alphabet_are_not_taken_for_western_ones(write, encoding):
    words = {
        "cp1251": "Поезд ушёл утром", "koi8-r": "Поезд ушёл утром", "gbk": "火车早上离开了", "shift_jis": "列車は朝に出発した",
        "iso8859-2": "Zażółć gęślą jaźń święty", "euc-kr": "기차는 아침에 떠났다",
    }  # fmt: skip
    rows = [row | {"text": f"{words[encoding]} {row['text']}"} for row in ROWS]
    content = delimited(rows).encode(encoding)
    refused(write("my.csv", content), r"^my\.csv, line 2: byte 0x\w\w is neither UTF-8 nor a Western letter: save it as 'CSV UTF-8'$")
    assert named(data.from_file(write("right.csv", delimited(rows)), text="", label="")) == sorted(rows, key=lambda row: row["text"])


def test_utf8_with_one_broken_byte_is_not_read_as_something_else(write):
    content = delimited([row | {"text": "Café: " + row["text"]} for row in ROWS]).encode().replace(b"three", b"thr\xe9e", 1)
    refused(write("my.csv", content), r"^my\.csv, line 5: byte 0xe9 is neither")


def test_western_letters_are_said_with_an_example(write, capsys):
    data.from_file(
        write("my.csv", delimited([row | {"text": row["text"] + " Voilà l’été!"} for row in ROWS]).encode("cp1252")), text="", label=""
    )
    assert "not in UTF-8, read as Western letters (cp1252), such as 'Voilà' in line 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ("text,label\n", "sep=;\ntext;label\n", {",": ";"}),
        ("text,label\n", "TEXT , Label\n", {}),
        ("text,label\n", '"text","label"\n', {}),
        ("text,label\n", "\n\n\ntext,label\n\n", {}),
        ("text,label\n", "text,label,\n", {}),  # rows of two cells, the header of three
        ("text,label\n", "text,label,,\n", {"\n": ",,\n"}),
        ("text,label\n", "text,label\n", {"\n": ",\n"}),
        ("text,label\n", "text,label\n", {",": ", "}),
        ("text,label\n", "\ufefftext,label\n", {}),
    ],
)
def test_odd_headers_and_ends_of_lines(write, before, after, changes):
    body = "".join(f'"{row["text"]}",{row["label"]}\n' for row in ROWS)
    for old, new in changes.items():
        body = body.replace(old, new)
    assert named(data.from_file(write("my.csv", after + body), text="", label="")) == WANTED


def test_cells_keep_what_stands_in_them(write):
    """Nothing is taken for a number, for nothing, or for a date."""
    odd = [
        "007 is a number that no cell may lose",
        "NA",
        "None",
        "null",
        "N/A",
        "1e5",
        "2024-01-01",
        "True",
        "-",
        '""',
        "a\u2028b",
        "x" * 300_000,
    ]
    rows = ROWS + [{"text": text, "label": "fish"} for text in odd]
    found = named(data.from_file(write("my.csv", delimited(rows)), text="", label=""))
    assert {row["text"] for row in found} == {row["text"] for row in rows}


def test_labels_that_look_like_numbers_keep_their_zeros(write):
    rows = [row | {"label": "007" if row["label"] == "fish" else "7"} for row in ROWS]
    assert named(data.from_file(write("my.csv", delimited(rows)), text="", label="")) == sorted(rows, key=lambda row: row["text"])


def test_tabs_with_lone_quotes(write, capsys):
    body = "".join(f'"Well, {row["text"]}\t{row["label"]}\n' for row in ROWS)
    found = data.from_file(write("my.tsv", "text\tlabel\n" + body), text="", label="")
    assert len(named(found)) == 36 and all(row["text"].startswith('"Well') for row in named(found))
    assert "separated by tabs, quotes are letters, UTF-8" in capsys.readouterr().out


@pytest.mark.parametrize("header", ["", "1,2\n", "0,1\n"], ids=["none", "numbers", "as pandas numbers them"])
def test_a_missing_header(write, header, capsys):
    path = write("my.csv", header + delimited(header=False))
    if header:  # the names of the columns
        assert named(data.from_file(path, text="", label="")) == WANTED
        return
    assert named(data.from_file(path, text="", label="")) == WANTED
    assert "no column names: line 1 is a row" in capsys.readouterr().out
    assert named(data.from_file(path, text="column 1", label="column 2")) == WANTED


@pytest.mark.parametrize(
    "shape", ["{0}\t{1}\n", "{2}\t{0}\t{3}\t{1}\n"], ids=["two columns", "with numbers, as Tatoeba has them"]
)
def test_the_first_pair_of_a_file_without_a_header_is_a_pair(write, shape, capsys):
    """Sentences among sentences, and numbers among numbers, are no names of columns."""
    pairs = [(f"Where is house {n}?" if n % 3 else f"House {n}.", f"Di mana rumah {n}?" if n % 3 else f"Rumah {n}.") for n in range(40)]
    path = write("my.tsv", "".join(shape.format(*pair, n + 17, n + 900) for n, pair in enumerate(pairs)))
    found = data.from_file(path, source="", target="")
    assert "no column names: line 1 is a row" in capsys.readouterr().out
    assert sorted((row["source"], row["target"]) for part in found.values() for row in part) == sorted(pairs)


def test_a_question_may_be_the_name_of_a_column(write):
    """As forms on the web write them."""
    path = write("my.csv", delimited([{"How was your visit?": row["text"], "mark": row["label"]} for row in ROWS]))
    assert named(data.from_file(path, text="How was your visit?", label="mark")) == WANTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"^my\.csv is empty: it needs a line of column names"),
        ("\ufeff\n \n", r"^my\.csv (is empty|has no rows): it needs a line of column names"),
        ("text,label\n", r"^my\.csv has no rows: it needs a line of column names and lines below it$"),
        ("text,label\na,b,c\n", r"^my\.csv, line 2 has 3 cells for 2 columns: put a text that holds the delimiter in double quotes$"),
        ("text,label\na,b\n\nc\n", r"^my\.csv, line 4 ends after 1 of 2 cells: write the others, or put a text with a line break"),
        (
            'text,label\n"He said "no" today.",b\n',
            r'^my\.csv, line 2: .* expected after .*; write a double quote .* twice \(""\) and close each$',
        ),
        ('text,label\na,b\n"two\nlines",c\n"open,d\ne,f\n', r"^my\.csv, line 5: a double quote is opened and never closed; "),
        ("text,label,label\n" + "a b,c,d\n" * 20, r"^my\.csv has 2 columns called 'label': rename all but the one that is meant$"),
        ("text,Label,label\n" + "a b,c,d\n" * 20, r"^my\.csv has 2 columns called '[Ll]abel': rename all but the one that is meant$"),
        ("<!DOCTYPE html><html>", r"^my\.csv is a web page, not the file: download it again$"),
        ("version https://git-lfs.github.com/spec/v1\noid", r"^my\.csv is a pointer of Git LFS, not the file: run `git lfs pull`"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", r"^my\.csv is an Excel file of the old kind: save it as \.xlsx$"),
        (b"BZh91AY", r"^my\.csv is packed with bzip2: unpack it first$"),
        (b"PK\x03\x04 and so on", r"^my\.csv cannot be read as an Excel file|^my\.csv: for Excel files, run `pip install openpyxl`"),
        (b"PAR1 and so on", r"^my\.csv is damaged or cut off .*: copy it again$"),
        (b"\x1f\x8b\x08 and so on", r"^my\.csv is damaged or cut off: copy it again$"),
        (b"\0\1\2\3\0\0\0", r"^my\.csv is no text, or a damaged one \(it has bytes of 0\): save it as 'CSV UTF-8'$"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line_and_cure(write, content, message):
    refused(write("my.csv", content), message)


def test_a_file_that_is_not_there(tmp_path):
    refused("nowhere.csv", r"^nowhere\.csv: no such file or folder, neither in .* nor in the checkout: give its whole path$")
    refused("https://example.org/my.csv", r"is an address: download the file, and give the path where it lies$")
    refused(tmp_path, r"has no file of rows, only nothing: give a folder with files such as train\.csv")


def test_a_path_in_the_home_folder(write, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    write("my rows/a b.csv", delimited())
    assert named(data.from_file("~/my rows/a b.csv", text="", label="")) == WANTED


# ---------------------------------------------------------------- files with types, and JSON


def parquet(rows=ROWS, features: Features | None = None) -> bytes:
    stream = io.BytesIO()
    (Dataset.from_list(rows, features=features)).to_parquet(stream)
    return stream.getvalue()


def arrow(table: pa.Table) -> bytes:
    stream = io.BytesIO()
    pq.write_table(table, stream)
    return stream.getvalue()


def in_arrow_file(stream: bool) -> bytes:
    sink, table = pa.BufferOutputStream(), pa.Table.from_pylist(ROWS)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


FORMATS = {
    "my.parquet": parquet(),
    "my.PARQUET": parquet(),
    "my.arrow": in_arrow_file(stream=True),
    "my.feather": in_arrow_file(stream=False),
    "my.jsonl": lines(ROWS),
    "my.ndjson": lines(ROWS).replace("\n", "\r\n"),
    "my.json": json.dumps(ROWS),
    "indented.json": json.dumps(ROWS, indent=1),
    "lines.json": lines(ROWS),
    "bom.json": "\ufeff" + json.dumps(ROWS),
    "data.json": json.dumps({"version": 1, "data": ROWS}),
    "rows.json": json.dumps({"rows": ROWS}, indent=2),
    "columns.json": json.dumps({key: [row[key] for row in ROWS] for key in ROWS[0]}),
    "pandas.json": pd.DataFrame(ROWS).to_json(),
    "records.json": pd.DataFrame(ROWS).to_json(orient="records", lines=True),
    "utf16.json": json.dumps(ROWS).encode("utf-16"),
    "my.csv.gz": gzip.compress(delimited().encode()),
    "my.jsonl.gz": gzip.compress(lines(ROWS).encode()),
    "my.parquet.gz": gzip.compress(parquet()),
    "MY.CSV": delimited(),
    "my.txt": delimited(delimiter="\t"),
    "no suffix": delimited(delimiter=";"),
    "parquet called.csv": parquet(),
}


@pytest.mark.parametrize("name", FORMATS)
def test_the_content_tells_the_format(write, name):
    assert named(data.from_file(write(name, FORMATS[name]), text="", label="")) == WANTED


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(ROWS[:3]) + '{"text": "broken\n' + lines(ROWS), r"^my\.jsonl, line 4 is no valid JSON \(.*\): correct or remove it$"),
        (lines(ROWS[:3]) + "[1, 2]\n", r'^my\.jsonl, line 4 is no JSON object: write \{"text": \.\.\., "label": \.\.\.\} in every line$'),
        ('[{"text": "a",\n "label": 1}', r"^my\.jsonl, line 2 is no valid JSON \(.*\): correct or remove it$"),
        ("[1, 2, 3]", r"^my\.jsonl has no rows that are understood: write a list of objects"),
        ('"only a text"', r"^my\.jsonl has no rows that are understood"),
        ("{}", r"^my\.jsonl has no rows that are understood"),
        ("[]", r"^my\.jsonl has no rows"),
        ("[" * 100_000, r"^my\.jsonl, line 1 is no valid JSON"),
    ],
)
def test_json_that_is_none_is_refused(write, content, message):
    refused(write("my.jsonl", content), message)


def test_json_lines_with_nulls_missing_keys_and_nan(write, capsys):
    rows = [
        *ROWS,
        {"text": None, "label": "fish"},
        {"label": "fish"},
        {"text": "no label here at all"},
        {"text": "nor here", "label": None},
    ]
    content = lines(rows) + '{"text": "and not here", "label": NaN, "more": {"deep": [1, "x"]}}\n'
    assert named(data.from_file(write("my.jsonl", content), text="", label="")) == WANTED
    said = capsys.readouterr().out
    assert "NOTE: left out 5 of 41 rows: my.jsonl, line 37: no text; my.jsonl, line 38: no text; my.jsonl, line 39: no label; ..." in said


def test_values_of_several_types_in_one_column_are_read(write):
    rows = [
        {"text": row["text"], "label": [1, "1", 1.0, True][at % 4] if row["label"] == "fish" else "other"} for at, row in enumerate(ROWS)
    ]
    names = data.from_file(write("my.jsonl", lines(rows)), text="", label="", min_rows=1)["train"].features["label"].names
    assert names == ["1", "1.0", "other", "true"]


def test_half_a_surrogate_pair_is_no_obstacle(write):
    rows = [row | {"text": row["text"] + " \ud83d"} for row in ROWS]
    content = "\n".join(map(json.dumps, rows))
    assert {row["text"][-1] for row in named(data.from_file(write("my.jsonl", content), text="", label=""))} == {"\ufffd"}


def test_categories_large_texts_and_bytes_in_parquet(write):
    text = [row["text"] for row in ROWS]
    label = pa.array([row["label"] for row in ROWS]).dictionary_encode()
    for kind in (pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.string_view()):
        table = pa.table({"text": pa.array(text).cast(kind), "label": label})
        assert named(data.from_file(write("my.parquet", arrow(table)), text="", label="")) == WANTED
    table = pa.table({"text": pa.array([b"caf\xe9", *map(str.encode, text[1:])], pa.binary()), "label": label})
    refused(write("my.parquet", arrow(table)), r"^my\.parquet, row 1: 'text' holds bytes that are not UTF-8: write texts into the file$")
    table = pa.table({"text": [row["text"].split() for row in ROWS], "label": label})
    refused(write("my.parquet", arrow(table)), r"^my\.parquet: the column 'text' holds lists, not texts: name another one$")


def test_objects_inside_the_rows(write):
    rows = [{"id": str(n), "translation": {"en": pair["source"], "id": pair["target"]}} for n, pair in enumerate(PAIRS)]
    for name, content in (("my.parquet", parquet(rows)), ("my.jsonl", lines(rows)), ("my.json", json.dumps({"data": rows}))):
        found = data.from_file(write(name, content), en="", id="")
        assert {row["id"] for part in found.values() for row in part} == {pair["target"] for pair in PAIRS}
    deep = [{"meta": {"review": {"text": row["text"]}}, "label": row["label"]} for row in ROWS]
    assert named(data.from_file(write("deep.jsonl", lines(deep)), text="meta.review.text", label="")) == WANTED


# ---------------------------------------------------------------- Excel


def workbook(**sheets) -> bytes:
    pytest.importorskip("openpyxl")
    stream = io.BytesIO()
    with pd.ExcelWriter(stream) as book:
        for name, table in sheets.items():
            table.to_excel(book, sheet_name=name, index=False, header=not isinstance(table.columns[0], int))
    return stream.getvalue()


def test_excel_with_numbers_for_labels(write, capsys):
    stars = pd.DataFrame(
        {"review": [row["text"] for row in ROWS], "stars": [1.0 + at % 3 for at in range(36)], "when": pd.Timestamp("2024-01-01")}
    )
    found = data.from_file(
        write("reviews.xlsx", workbook(Notes=pd.DataFrame({"x": []}), Reviews=stars, Other=stars[:2])), text="review", label="stars"
    )
    assert found["train"].features["label"].names == ["1", "2", "3"] and sum(map(len, found.values())) == 36
    assert "reviews.xlsx: 36 rows (Excel, sheet 'Reviews' of 2)" in capsys.readouterr().out


def test_excel_with_a_title_above_the_table_and_sheets_for_splits(write):
    table = pd.DataFrame(ROWS)
    titled = pd.DataFrame([["My survey", None], [None, None], ["text", "label"], *table.to_numpy().tolist()])
    assert named(data.from_file(write("my.xlsx", workbook(Sheet1=titled)), text="", label="")) == WANTED
    found = data.from_file(write("my.xlsx", workbook(Train=table[:30], Test=table[30:])), text="", label="")
    assert len(found["test"]) == 6 and len(found["train"]) + len(found["validation"]) == 30


def test_excel_with_a_csv_that_stands_in_one_column(write, capsys):
    lines = delimited(({"label": row["label"], "text": f"{row['text']}; so; it is"} for row in ROWS), ";").splitlines()
    found = data.from_file(write("my.xlsx", workbook(Reviews=pd.DataFrame(lines))), text="", label="")
    assert [row["text"] for row in named(found)] == [f"{row['text']}; so; it is" for row in WANTED]
    assert "my.xlsx: 36 rows (Excel, sheet 'Reviews', separated by semicolons)" in capsys.readouterr().out


def test_excel_names_the_row(write, capsys):
    path = write("my.xlsx", workbook(S=pd.DataFrame([*ROWS, {"text": " ", "label": "fish"}])))
    assert named(data.from_file(path, text="", label="")) == WANTED
    assert "NOTE: left out 1 of 37 rows: my.xlsx, row 38: no text" in capsys.readouterr().out


# ---------------------------------------------------------------- folders


def splits(rows=ROWS, **shares) -> dict[str, list]:
    start, parts = 0, {}
    for name, size in shares.items():
        parts[name], start = rows[start : start + size], start + size
    return parts


HALVES = splits(train=27, test=9)


@pytest.mark.parametrize(
    "names",
    [
        {"train.csv": "train", "test.csv": "test"},
        {"data/train-00000-of-00001.csv": "train", "data/test-00000-of-00001.csv": "test", "README.md": None, ".git/x.csv": None},
        {"default/train/0000.csv": "train", "default/test/0000.csv": "test"},
        {"train/part-1.csv": "train", "test/part-1.csv": "test", "dataset_infos.json": None},
        {"ag_train.CSV": "train", "ag_test.CSV": "test"},
    ],
)
def test_a_folder_in_the_hubs_layout(write, tmp_path, names):
    for name, split in names.items():
        write(f"my/{name}", delimited(HALVES[split]) if split else "nothing of interest")
    found = data.from_file(tmp_path / "my", text="", label="")
    assert named(found) == WANTED and len(found["test"]) == 9
    assert sorted(found["test"]["text"]) == sorted(row["text"] for row in HALVES["test"])


def test_shards_are_put_together_and_formats_may_differ(write, tmp_path):
    for number in range(3):
        write(f"my/train-{number:05}-of-00003.parquet", parquet(ROWS[9 * number : 9 * number + 9]))
    write("my/test.jsonl.gz", gzip.compress(lines(ROWS[27:]).encode()))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert named(found) == WANTED and len(found["test"]) == 9


def test_several_tables_in_a_folder_and_other_columns_are_refused(write, tmp_path):
    for table in ("mnli", "rte"):
        write(f"two/{table}/train.csv", delimited())
    refused(tmp_path / "two", r"^two holds several tables \(mnli, rte\): give one of them, as two/rte$")
    write("twice/train.csv", delimited())
    write("twice/train.parquet", parquet())
    refused(tmp_path / "twice", r"^twice has train\.csv and train\.parquet, perhaps the same rows: leave one of them there$")
    write("clean/train.csv", delimited())
    write("clean/train.clean.csv", delimited())
    refused(tmp_path / "clean", r"^clean has train\.clean\.csv and train\.csv, perhaps the same rows")
    write("other/train.csv", delimited())
    write("other/test.csv", delimited([{"text": row["text"], "category": row["label"]} for row in ROWS]))
    refused(tmp_path / "other", r"^test\.csv lacks the column 'label' of train\.csv, it has text, category: give all files the same, or ")


@pytest.mark.parametrize("name", ["reviews.{}.csv", "wiki-1.0-{}.csv", "{}.v2.csv"])
def test_points_in_the_names_of_a_folders_files(write, tmp_path, name):
    write(f"my/{name.format('train')}", delimited(ROWS[:27]))
    write(f"my/{name.format('test')}.gz", gzip.compress(delimited(ROWS[27:]).encode()))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert named(found) == WANTED and len(found["test"]) == 9


def test_json_lines_with_a_single_row(write, tmp_path):
    write("my/train.jsonl", lines(ROWS[:-1]))
    write("my/test.jsonl", lines(ROWS[-1:]))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert named(found) == WANTED and found["test"]["text"][:] == [ROWS[-1]["text"]]
    refused(write("my.json", '{"version": "1.0", "rows": {"a": 1}}'), "has no rows that are understood")


def test_a_class_label_whose_names_are_numbers_is_looked_up_by_its_number(write, tmp_path):
    stars = [str(1 + number % 3) for number in range(len(ROWS))]
    features = Features({"text": Value("string"), "label": ClassLabel(names=["1", "2", "3"])})
    rows = Dataset.from_dict({"text": [row["text"] for row in ROWS], "label": [int(star) - 1 for star in stars]}, features=features)
    rows.to_parquet(tmp_path / "stars.parquet")
    wanted = sorted(({"text": row["text"], "label": star} for row, star in zip(ROWS, stars, strict=True)), key=lambda row: row["text"])
    assert named(data.from_file(tmp_path / "stars.parquet", text="", label="")) == wanted
    again = data.from_file(write("stars.csv", delimited(wanted)), text="", label="")
    again.save_to_disk(tmp_path / "saved")  # what the course made itself
    assert named(data.from_file(tmp_path / "saved", text="", label="")) == wanted


def test_where_names_look_like_numbers_texts_are_names_and_are_not_guessed_at():
    def labels(*said):
        part = files.Part("my.csv", pa.table({"label": list(said)}), names={"label": ["1", "2", "3"]})
        return [row[0] for row in cells.labels(part, ["label"], False)[0]]

    assert labels("1", "3", "2") == ["1", "3", "2"] and labels(0, 2, 1) == ["1", "3", "2"]
    with pytest.raises(CourseError, match=r"^my\.csv, .* has the label 0, but the file names 1, 2, 3: write one of these$"):
        labels("1", "0", "2")


def test_columns_that_nobody_needs_may_share_a_name(write):
    rows = "".join(f"Who sang in 18{n}?,{PARAGRAPHS[n - 10]},Ove {n},x,y\n" for n in range(10, 22)).replace(", and he", " and he")
    found = data.from_file(write("my.csv", "question,context,answer,,\n" + rows), question="", context="", answers="")
    assert {row["answers"]["text"][0] for part in found.values() for row in part} == {f"Ove {n}" for n in range(10, 22)}


@pytest.mark.parametrize("whole", [True, False], ids=["DatasetDict", "one folder a split"])
def test_what_save_to_disk_wrote(tmp_path, whole):
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    parts = DatasetDict({split: Dataset.from_list(rows, features=features) for split, rows in HALVES.items()})
    parts["train"] = parts["train"].shuffle(seed=1)  # rows in another order than in the file
    if whole:
        parts.save_to_disk(tmp_path / "my")
    else:
        for split, rows in parts.items():
            rows.save_to_disk(tmp_path / "my" / split)
    found = data.from_file(tmp_path / "my", text="", label="")
    assert named(found) == WANTED and found["train"].features["label"].names == LABELS and len(found["test"]) == 9
    for file in (tmp_path / "my").rglob("*.arrow"):
        file.write_bytes(b"damaged")
    refused(tmp_path / "my", r"^\w+ cannot be loaded \(.*\): write it again with save_to_disk$")


def test_one_saved_dataset_is_divided(tmp_path):
    Dataset.from_list(ROWS).save_to_disk(tmp_path / "my")
    assert named(data.from_file(tmp_path / "my", text="", label="")) == WANTED


def test_the_hubs_card_names_the_labels(write, tmp_path):
    card = {
        "features": [
            {"name": "text", "dtype": "string"},
            {"name": "label", "dtype": {"class_label": {"names": {"0": "no", "1": "yes", "2": "?"}}}},
        ]
    }
    write("my/README.md", f"---\ndataset_info: {json.dumps(card)}\n---\nA card\n")
    write("my/train.csv", delimited([row | {"label": LABELS.index(row["label"])} for row in ROWS]))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert found["train"].features["label"].names == ["no", "yes", "?"]
    assert {row["label"] for row in named(found) if "apples" in row["text"]} == {"no"}


# ---------------------------------------------------------------- labels, one a row


def with_labels(labels) -> list[dict]:
    return [{"text": row["text"], "label": labels[LABELS.index(row["label"])]} for row in ROWS]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([3, 1, 2], ["1", "2", "3"]),
        ([0, 10, 9], ["0", "9", "10"]),
        ([-1, 1, 0], ["-1", "0", "1"]),
        ([1.0, 2.0, 0.0], ["0", "1", "2"]),
        ([4.5, 5.0, 1.0], ["1", "4.5", "5"]),
        ([True, False, True], ["False", "True"]),
        (["b ", " a", "C"], ["a", "b", "C"]),
        ([["a"], ["b"], ["c"]], ["a", "b", "c"]),
        ([[0, 1, 0], [1, 0, 0], [0, 0, 1]], ["0", "1", "2"]),
        ([10**20, 1, 2], ["1", "2", str(10**20)]),
    ],
)
def test_labels_of_all_kinds_get_names_and_stay_with_their_texts(write, labels, names):
    found = data.from_file(write("my.jsonl", lines(with_labels(labels))), text="", label="")
    assert found["train"].features["label"].names == names
    kept = [dict.fromkeys(row["label"] for row in named(found) if word in row["text"]) for word in ("apples", "loaf", "herrings")]
    assert all(len(one) == 1 for one in kept)
    flat = [one.index(1) if isinstance(one, list) and one[0] in (0, 1) else one[0] if isinstance(one, list) else one for one in labels]
    for label, one in zip(flat, kept, strict=True):
        assert next(iter(one)) == (str(int(label)) if type(label) is float and label == int(label) else str(label).strip())


def test_whole_floats_of_one_split_are_the_numbers_of_another(write, tmp_path):
    rows = with_labels([2, 0, 1])
    write("my/train.parquet", parquet([row | {"label": float(row["label"])} for row in rows[:27]]))
    write("my/test.csv", delimited(rows[27:]))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert found["train"].features["label"].names == ["0", "1", "2"] and found["train"].features == found["test"].features


@pytest.mark.parametrize("order", [LABELS, LABELS[::-1], ["fish", "fruit", "bread"]])
def test_class_names_in_the_file_decide(write, order):
    features = Features({"text": Value("string"), "label": ClassLabel(names=order)})
    found = data.from_file(write("my.parquet", parquet(ROWS, features)), text="", label="")
    assert named(found) == WANTED and found["train"].features["label"].names == order


def test_splits_whose_class_names_have_another_order(write, tmp_path):
    for split, order in (("train", LABELS), ("test", LABELS[::-1])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=order)})
        write(f"my/{split}.parquet", parquet(HALVES[split], features))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert named(found) == WANTED and found["test"].features["label"].names == LABELS


def test_a_number_beyond_the_class_names_is_refused_and_minus_one_is_none(write, tmp_path):
    features = Features({"text": Value("string"), "label": ClassLabel(names=LABELS)})
    table = Dataset.from_list(ROWS, features=features).with_format("arrow")[:]
    numbers = table["label"].to_pylist()
    for last, message in ((7, r"^my\.parquet, row 36 has the label 7, but the file names 3 labels, from 0: correct it$"), (-1, "")):
        changed = table.set_column(1, table.schema.field("label"), pa.array([*numbers[:-1], last]))
        path = write("my.parquet", arrow(changed))
        if message:
            refused(path, message)
        else:
            assert sum(map(len, data.from_file(path, text="", label="").values())) == 35
    hidden = table.set_column(1, table.schema.field("label"), pa.array([-1] * 36))
    write("my/train.parquet", arrow(table))
    write("my/test.parquet", arrow(hidden))
    assert named(data.from_file(tmp_path / "my", text="", label="")) == WANTED  # a contest's test rows have no labels


def test_columns_of_their_own_for_one_label_each(write):
    rows = [{"text": row["text"], **{f"is_{one}": int(row["label"] == one) for one in LABELS}} for row in ROWS]
    found = data.from_file(write("my.csv", delimited(rows)), text="", label="is_fruit,is_bread,is_fish")
    assert {row["label"] for row in named(found) if "apples" in row["text"]} == {"is_fruit"}
    rows[4]["is_fruit"] = 1
    refused(
        write("my.csv", delimited(rows)),
        r"^my\.csv, line 6 has the labels is_fruit, is_bread: keep one per row",
        text="",
        label="is_fruit,is_bread,is_fish",
    )
    rows[4]["is_fruit"] = 3
    refused(
        write("my.csv", delimited(rows)),
        r"^my\.csv, line 6: 'is_fruit' is 3, and a label's own column has 0 or 1",
        text="",
        label="is_fruit, is_bread",
    )


def test_more_than_one_label_where_one_is_wanted(write):
    rows = [*ROWS, {"text": "Bread and fish for all of them.", "label": ["bread", "fish"]}]
    refused(
        write("my.jsonl", lines(rows)),
        r"^my\.jsonl, line 37 has the labels bread, fish: keep one per row; task-1/go-emotions takes several$",
    )
    refused(
        write("my.jsonl", lines([row | {"label": [[0, 5, "PER"]]} for row in ROWS])), r"^my\.jsonl, line 1: .* is no label, which is a name"
    )


def test_a_dash_is_no_label_where_no_plus_is_one(write, capsys):
    """SNLI writes one where its annotators disagreed."""
    rows = [*ROWS, {"text": "Nobody agreed on this one.", "label": "-"}]
    assert named(data.from_file(write("my.csv", delimited(rows)), text="", label="")) == WANTED
    assert "left out 1 of 37 rows: my.csv, line 38: no label" in capsys.readouterr().out
    signs = [row | {"label": "+" if row["label"] == "fish" else "-"} for row in ROWS]
    found = data.from_file(write("signs.csv", delimited(signs)), text="", label="")
    assert sorted(found["train"].features["label"].names) == ["+", "-"]


@pytest.mark.parametrize(("others", "noted"), [((0, 1, 2), True), ((0, 1), False)])
def test_minus_one_beside_numbers_from_zero_is_noted(write, capsys, others, noted):
    """On the Hub it says that there is no label; as a grade beside 0 and 1 it is one."""
    rows = [{"text": f"{row['text']} {n}", "label": [*others, -1][n % (len(others) + 1)]} for n, row in enumerate(ROWS + ROWS)]
    data.from_file(write("my.jsonl", lines(rows)), text="", label="")
    assert ("the label -1 beside 0, 1, 2" in capsys.readouterr().out) == noted


def test_odd_things_about_labels_are_noted(write, capsys):
    rows = [
        *ROWS,
        *[row | {"label": row["label"].upper()} for row in ROWS if row["label"] == "fish"],
        {"text": ROWS[0]["text"].upper(), "label": "fish"},
    ]
    data.from_file(write("my.csv", delimited(rows)), text="", label="")
    said = capsys.readouterr().out
    assert "NOTE: labels that differ in capital letters alone: FISH, fish; are they the same?" in said
    assert "NOTE: 13 texts stand there again with another label" in said


# ---------------------------------------------------------------- several labels a row


TAGS = [["red", "sweet"], ["warm"], ["sea", "red"]]


@pytest.mark.parametrize(
    "form",
    [
        lambda tags: tags,
        lambda tags: ", ".join(tags),
        lambda tags: "|".join(tags),
        lambda tags: "; ".join(tags),
        lambda tags: json.dumps(tags),
        str,
        lambda tags: [int(one in tags) for one in ("red", "sea", "sweet", "warm")],
        lambda tags: str([int(one in tags) for one in ("red", "sea", "sweet", "warm")]),
        lambda tags: str(np.array(tags)),  # what pandas writes of an array into a CSV
        lambda tags: str(np.array([int(one in tags) for one in ("red", "sea", "sweet", "warm")])),
        lambda tags: str(np.array([float(one in tags) for one in ("red", "sea", "sweet", "warm")])),
        lambda tags: str(np.array([one in tags for one in ("red", "sea", "sweet", "warm")])),
        lambda tags: f"tensor({[float(one in tags) for one in ('red', 'sea', 'sweet', 'warm')]}, device='cuda:0')",
    ],
    ids=[
        *("list", "commas", "bars", "semicolons", "JSON", "Python", "vector", "vector as text"),
        *("NumPy", "NumPy vector", "NumPy floats", "NumPy flags", "tensor"),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_several_labels_in_all_their_forms(write, form, kind):
    rows = [{"text": row["text"], "tags": form(TAGS[LABELS.index(row["label"])])} for row in ROWS]
    content = {"jsonl": lines, "csv": delimited, "parquet": parquet}[kind](rows)
    found = data.from_file(write(f"my.{kind}", content), text="", labels="")
    names = found["train"].features["labels"].feature.names
    if "red" in str(form(["red"])):
        assert names == ["red", "sea", "sweet", "warm"]
    else:
        assert names == ["0", "1", "2", "3"]
    meant = dict(zip(names, ("red", "sea", "sweet", "warm"), strict=True))
    for row in named(found, "labels"):
        wanted = next(tags for tags, word in zip(TAGS, ("apples", "loaf", "herrings"), strict=True) if word in row["text"])
        assert {meant[label] for label in row["labels"]} == set(wanted)


def test_one_hot_columns_are_guessed_and_rows_without_a_label_stay(write, capsys):
    rows = [{"id": n, "comment": row["text"], "toxic": n % 2, "rude": n % 3 == 0, "threat": n % 5 == 0} for n, row in enumerate(ROWS)]
    found = data.from_file(write("my.csv", delimited(rows)), text="", labels="")
    assert found["train"].features["labels"] == List(ClassLabel(names=["toxic", "rude", "threat"]))
    assert sum(map(len, found.values())) == 36 and [] in [row["labels"] for part in found.values() for row in part]
    assert (
        "columns: text = comment, labels = toxic + rude + threat (guessed; others are named with text=..., labels=...)"
        in capsys.readouterr().out
    )


def test_lists_of_class_numbers_and_their_names(write):
    features = Features({"text": Value("string"), "labels": List(ClassLabel(names=["x", "y", "z"]))})
    rows = [{"text": row["text"], "labels": [[0, 2], [1], []][n % 3]} for n, row in enumerate(ROWS)]
    found = data.from_file(write("my.parquet", parquet(rows, features)), text="", labels="")
    assert found["train"].features["labels"].feature.names == ["x", "y", "z"]
    assert {tuple(row["labels"]) for row in named(found, "labels")} == {("x", "z"), ("y",), ()}
    plain = data.from_file(write("my.jsonl", lines(rows)), text="", labels="")
    assert plain["train"].features["labels"].feature.names == ["0", "1", "2"]


def test_rare_labels_among_several_are_noted(write, capsys):
    rows = [{"text": row["text"], "labels": ["common", "rare"] if n == 3 else ["common"]} for n, row in enumerate(ROWS)]
    data.from_file(write("my.jsonl", lines(rows)), text="", labels="")
    assert "NOTE: labels with few texts, which can hardly be learned: 'rare' (1)" in capsys.readouterr().out


# ---------------------------------------------------------------- which column is what


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            {"review": "text", "stars": "label"},
            "columns: text = review, label = stars (guessed; others are named with text=..., label=...)",
        ),
        ({"Text": "text", "LABEL": "label"}, "columns: text = Text, label = LABEL\n"),
        ({"what was said": "text", "kind of thing": "label"}, "text = what was said, label = kind of thing (guessed"),
        ({"content": "text", "labels": "label"}, "text = content, label = labels (guessed"),
    ],
)
def test_columns_are_guessed_where_it_is_plain_and_said(write, columns, said, capsys):
    rows = [
        {name: row[mine] for name, mine in columns.items()} | {"id": f"b{n:04}", "day": f"2024-01-{n % 28 + 1:02}"}
        for n, row in enumerate(ROWS)
    ]
    assert named(data.from_file(write("my.csv", delimited(rows)), text="", label="")) == WANTED
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("day", ["2024-01-{:02}", "{}.1.2024", "2024-01-{:02} 10:30:00"])
def test_a_day_and_a_column_that_always_says_the_same_are_no_labels_beside_one_that_could_be(write, day):
    rows = [
        {"Datum": day.format(n % 9 + 1), "Bewertung": row["label"], "Rezension": row["text"], "Kanal": "web"} for n, row in enumerate(ROWS)
    ]
    assert named(data.from_file(write("my.csv", delimited(rows, ";")), text="", label="")) == WANTED


def test_where_it_is_not_plain_the_reader_is_asked(write):
    rows = [
        {"one": row["text"], "two": row["text"] + " Indeed so.", "kind": row["label"], "shop": "ab"[n % 2]} for n, row in enumerate(ROWS)
    ]
    path = write("my.csv", delimited(rows))
    refused(path, r"^my\.csv: which column is 'text'\? It has one, two, kind, shop: name one with text=\.\.\. \(--set text=\.\.\.\)$")
    refused(path, r"^my\.csv: which column is 'label'\? It has one, two, kind, shop: name one with label", text="one", label="")
    refused(
        path, r"^unknown column of my\.csv for text 'ones': did you mean 'one'\? known are one, two, kind, shop$", text="ones", label="kind"
    )
    found = data.from_file(path, text="one,two", label="KIND")
    assert all(re.fullmatch(r"(.+) \1 Indeed so\.", row["text"]) for row in named(found))


def test_texts_without_spaces_are_texts(write):
    rows = [{"content": f"教练{row['text'][4:6]}退出联赛{n}", "kind": row["label"]} for n, row in enumerate(ROWS)]
    assert len(named(data.from_file(write("my.csv", delimited(rows)), text="", label=""))) == 36


def test_pairs_go_by_other_names_and_by_their_order(write):
    for names in (("source", "target"), ("English", "Indonesian"), ("src", "tgt"), ("from here", "to there"), ("document", "summary")):
        rows = [dict(zip(names, pair.values(), strict=True)) for pair in PAIRS]
        found = data.from_file(write("pairs.tsv", ("\ufeff" + delimited(rows, "\t"))), source="", target="")
        assert {row["target"] for part in found.values() for row in part} == {pair["target"] for pair in PAIRS}
    rows = [{"text_a": row["text"], "text_b": "It is so.", "gold": row["label"]} for row in ROWS]
    found = data.from_file(write("my.csv", delimited(rows)), premise="", hypothesis="", label="")
    assert found["train"].column_names == ["premise", "hypothesis", "label"] and set(found["test"]["hypothesis"]) == {"It is so."}


@pytest.mark.parametrize("number", [str, "opus-{:06}".format], ids=["numbers", "codes"])
@pytest.mark.parametrize("target", ["indonesian", "Bahasa kita"])
def test_a_row_number_called_id_is_not_the_indonesian_side(write, number, target):
    rows = [{"id": number(n), "en": pair["source"], target: pair["target"]} for n, pair in enumerate(PAIRS)]
    for name, content in (("pairs.csv", delimited(rows)), ("pairs.jsonl", lines(rows))):
        found = data.from_file(write(name, content), source="", target="")
        assert {row["target"] for part in found.values() for row in part} == {pair["target"] for pair in PAIRS}
    nested = [{"id": number(n), "translation": {"en": pair["source"], "id": pair["target"]}} for n, pair in enumerate(PAIRS)]
    found = data.from_file(write("nested.jsonl", lines(nested)), source="", target="")
    assert {row["target"] for part in found.values() for row in part} == {pair["target"] for pair in PAIRS}


def test_an_indonesian_side_called_id_is_taken_even_where_it_has_single_words(write):
    rows = [{"id": f"kata{chr(97 + n)}", "en": f"word{chr(97 + n)}"} for n in range(20)]
    found = data.from_file(write("words.csv", delimited(rows)), source="", target="")
    assert all(row["target"].startswith("kata") and row["source"].startswith("word") for part in found.values() for row in part)


def graded(questions: int, answers: int, grades: int = 3) -> list[dict]:
    """Answers to a few questions with their grade, as a school keeps them; the question comes first."""
    return [
        {
            "question1": f"What does valve {q} of the pump do?",
            "question2": f"It lets {a} litres an hour pass, I think {q}.",
            "gold_label": (q + a) % grades,
        }
        for q in range(questions)
        for a in range(answers)
    ]


PAIR = {"sentence1": "", "sentence2": "", "label": ""}


@pytest.mark.parametrize("questions", [1, 5])
def test_pairs_with_few_first_texts_are_told_apart_by_both_texts(write, questions, capsys):
    found = data.from_file(write("my.csv", delimited(graded(questions, 120 // questions))), **PAIR)
    said = capsys.readouterr().out
    assert "sentence1 = question1, sentence2 = question2, label = gold_label (guessed" in said
    assert f"NOTE: {questions} different texts in 'sentence1': rows that share one may be in different splits" in said
    assert {split: len(part) for split, part in found.items()} == {"train": 84, "validation": 12, "test": 24}
    assert [set(part["label"]) for part in found.values()] == [{0, 1, 2}] * 3
    refused(write("few.csv", delimited(graded(questions, 15 // questions))), r"^few\.csv: fewer than 8 different texts to train on", **PAIR)


def test_pairs_with_enough_first_texts_keep_those_together(write, capsys):
    """Twelve questions, whose first answers have twelve grades: no grade has questions enough to draw from by itself."""
    found = data.from_file(write("my.csv", delimited(graded(12, 24, grades=12))), **PAIR)
    asked = [set(part["sentence1"]) for part in found.values()]
    assert [len(one) for one in asked] == [9, 1, 2] and len(set.union(*asked)) == 12
    assert "rows that share one" not in capsys.readouterr().out


def test_more_labels_than_a_lesson_takes(write):
    path = write("my.csv", delimited(graded(20, 4)))
    message = r"^my\.csv has 3 labels \(0, 1, 2\), and this lesson takes 2: put labels together, name other columns than sentence1=quest"
    refused(path, message, **PAIR, most_labels=2)
    assert data.from_file(path, **PAIR, most_labels=3)["train"].features["label"].names == ["0", "1", "2"]


# ---------------------------------------------------------------- small and empty


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [row for row in ROWS if row["label"] == "fish"],
            r"have only the label 'fish', and two are needed: name other columns than text=text label=label, or",
        ),
        (
            ROWS[:18],
            r"^my\.csv: fewer than 8 different texts to train on for the label 'bread' \(6\), 'fish' \(6\), 'fruit' \(6\): add rows, put",
        ),
        ([ROWS[0]] * 30 + ROWS, None),
        ([ROWS[0]] * 30 + [row for row in ROWS if row["label"] != "fruit"], r"for the label 'fruit' \(1\): add rows"),
        (
            [row | {"label": ""} for row in ROWS[:20]] + ROWS[20:],
            r"^my\.csv, line 2: no label; so it is in 20 of 36 rows: fill them, or name other col",
        ),
    ],
    ids=["one label", "few", "copies", "copies of one text", "no labels"],
)
def test_small_sets_are_refused_before_anything_is_trained(write, rows, message):
    path = write("my.csv", delimited(rows))
    if message is None:
        assert sum(map(len, data.from_file(path, text="", label="").values())) == len(rows)
    else:
        refused(path, message)


def test_few_texts_without_labels(write):
    refused(
        write("my.csv", delimited(PAIRS[:9])), r"^my\.csv: 9 different texts in 9 rows, and 10 are needed: add rows$", source="", target=""
    )
    refused(write("my.csv", delimited(PAIRS[:1] * 30)), r"^my\.csv: 1 different texts in 30 rows", source="", target="")


@pytest.mark.parametrize("nothing", ["", " ", "\u00a0", "\u200b", "\ufeff", "NaN", "nan", "\u3000\t"])
def test_cells_with_nothing_to_see_are_left_out_and_named(write, nothing, capsys):
    rows = [*ROWS[:5], {"text": nothing, "label": "fish"}, {"text": "A text without any label.", "label": nothing}, *ROWS[5:]]
    assert named(data.from_file(write("my.csv", delimited(rows)), text="", label="")) == WANTED
    assert "NOTE: left out 2 of 38 rows: my.csv, line 7: no text; my.csv, line 8: no label\n" in capsys.readouterr().out


def test_one_label_in_the_training_split_alone(write, tmp_path):
    write("my/train.csv", delimited([row for row in ROWS if row["label"] == "fish"]))
    write("my/test.csv", delimited([row for row in ROWS if row["label"] == "bread"]))
    refused(tmp_path / "my", r"^my: the 12 rows to train on have only the label 'fish', and two are needed")


# ---------------------------------------------------------------- splits


def test_made_splits_are_stratified_drawn_by_the_seed_and_keep_copies_together(write, capsys):
    rows = [*ROWS, *[row | {"text": row["text"].upper() + " "} for row in ROWS[:20]], *ROWS[:10]]
    random.Random(0).shuffle(rows)
    path = write("my.csv", delimited(rows))
    found, again, other = (data.from_file(path, text="", label="", seed=seed) for seed in (0, 0, 1))
    assert list(found) == ["train", "validation", "test"]
    assert (
        "splits: train " in (said := capsys.readouterr().out) and "drawn: test and validation, seed 0, copies of a text on one side" in said
    )
    texts = {split: {text.strip().lower() for text in part["text"]} for split, part in found.items()}
    assert not texts["train"] & texts["test"] and not texts["train"] & texts["validation"] and not texts["validation"] & texts["test"]
    for split, size in (("test", 2), ("validation", 1)):  # of the twelve different texts of each label
        assert len(texts[split]) == 3 * size and set(found[split]["label"]) == {0, 1, 2}
    assert found["test"]["text"][:] == again["test"]["text"][:] != other["test"]["text"][:]
    assert sum(map(len, found.values())) == len(rows)


def test_drawn_splits_are_the_same_in_every_process(write):
    path = write("my.csv", delimited())
    code = "import sys; from shared import data; print(data.from_file(sys.argv[1], text='', label='')['test']['text'][:])"
    said = set()
    for seed in "12":  # Python hashes a text otherwise in every process
        environment = os.environ | {"PYTHONHASHSEED": seed}
        run = [sys.executable, "-c", code, str(path)]
        said.add(subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()[-1])
    assert len(said) == 1 and "garden" in said.pop()


def test_many_rows_are_not_wasted_on_tests(write):
    rows = [{"text": f"The {n}th of the many small texts", "label": "ab"[n % 2]} for n in range(30_000)]
    found = data.from_file(write("my.csv", delimited(rows)), text="", label="")
    assert (len(found["test"]), len(found["validation"])) == (5_000, 2_000)


@pytest.mark.parametrize(
    ("given", "sizes", "said"),
    [
        ({"train": 24, "validation": 6, "test": 6}, (24, 6, 6), "(the file's own)"),
        ({"train": 27, "test": 9}, (24, 3, 9), "(the file's own; drawn: validation, seed 0, copies of a text on one side)"),
        ({"train": 27, "dev": 9}, (24, 3, 9), "(the file's own, of which validation tests; drawn: validation, seed 0"),
        ({"test": 36}, (27, 3, 6), "(drawn: test and validation, seed 0"),
        ({"validation": 20, "test": 16}, (27, 3, 6), "(drawn: test and validation, seed 0"),
    ],
)
@pytest.mark.parametrize("how", ["files", "column", "JSON"])
def test_splits_are_taken_where_there_are_some(write, tmp_path, given, sizes, said, how, capsys):
    parts = splits(**given)
    if how == "files":
        for split, rows in parts.items():
            write(f"my/{split}.csv", delimited(rows))
        path = tmp_path / "my"
    elif how == "column":
        path = write("my.csv", delimited([row | {"split": split} for split, rows in parts.items() for row in rows]))
    else:
        path = write("my.json", json.dumps(parts))
    found = data.from_file(path, text="", label="", min_rows=1)
    assert tuple(len(found[split]) for split in ("train", "validation", "test")) == sizes and said in capsys.readouterr().out
    assert named(found) == WANTED


def test_other_splits_keep_their_names_and_copies_of_later_rows_are_left_out(write, tmp_path, capsys):
    write("my/train.csv", delimited(ROWS[:30] + ROWS[33:34]))
    write("my/validation_matched.csv", delimited(ROWS[30:33]))
    write("my/validation_mismatched.csv", delimited(ROWS[33:]))
    found = data.from_file(tmp_path / "my", text="", label="")
    assert list(found) == ["train", "validation", "test", "validation_mismatched"]
    assert found["test"]["text"][:] == [row["text"] for row in ROWS[30:33]] and len(found["validation_mismatched"]) == 3
    assert "NOTE: left out 1 rows that stand in a later split as well" in capsys.readouterr().out
    write("all/train.csv", delimited())
    write("all/test.csv", delimited())
    refused(tmp_path / "all", r"^all: all rows to train on are rows to test on as well: give other rows, or one file alone$")


def test_labels_that_the_test_rows_lack_are_noted(write, tmp_path, capsys):
    write("my/train.csv", delimited(ROWS[:30]))
    write("my/test.csv", delimited([row for row in ROWS[30:] if row["label"] != "fish"]))
    data.from_file(tmp_path / "my", text="", label="")
    assert "NOTE: no test row has the label fish" in capsys.readouterr().out


# ---------------------------------------------------------------- questions


def articles(version: str, start: int = 0) -> dict:
    found = []
    for number, context in enumerate(PARAGRAPHS):
        name = re.search(r"Halm \d+", context)[0]
        asked = [
            {
                "id": f"q{number}",
                "question": f"What was built in {name}?",
                "answers": [{"text": "a mill", "answer_start": context.index("a mill") + start}],
            }
        ]
        if version == "v2.0":
            asked[0]["is_impossible"] = False
            hopeless = {"id": f"n{number}", "question": "Who painted it?", "answers": [], "is_impossible": True}
            asked.append(hopeless | {"plausible_answers": [{"text": "Ove", "answer_start": 0}]})
        found.append({"title": f"Halm, {number}", "paragraphs": [{"context": context, "qas": asked}]})
    return {"version": version, "data": found}


def questions(found: DatasetDict) -> dict[str, dict]:
    return {row["id"]: row for part in found.values() for row in part}


def asked(path) -> dict[str, dict]:
    found = data.from_file(path, question="", context="", answers="")
    assert found["train"].column_names == ["id", "title", "question", "context", "answers"]
    assert found["train"].features["answers"] == {"text": List(Value("string")), "answer_start": List(Value("int32"))}
    rows = questions(found)
    for row in rows.values():
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"][start : start + len(text)] == text
    contexts = [set(part["context"]) for part in found.values()]
    assert not contexts[0] & contexts[1] and not contexts[0] & contexts[2]
    return rows


@pytest.mark.parametrize("version", ["1.1", "v2.0"])
def test_squads_own_form(write, version, capsys):
    rows = asked(write("my.json", json.dumps(articles(version))))
    assert (
        len(rows) == (12 if version == "1.1" else 24) and rows["q3"]["title"] == "Halm, 3" and rows["q3"]["answers"]["text"] == ["a mill"]
    )
    if version == "v2.0":
        assert rows["n3"]["answers"] == {"text": [], "answer_start": []}
        assert "questions without an answer: 12" in capsys.readouterr().out


ANSWER = {"text": ["a mill"], "answer_start": [36]}
FORMS = {
    "SQuAD on the Hub": lambda start: {"text": ["a mill"], "answer_start": [start]},
    "list of objects": lambda start: [{"text": "a mill", "answer_start": start}],
    "one object": lambda start: {"text": "a mill", "answer_start": start},
    "list of texts": lambda start: ["a mill"],
    "text": lambda start: "a mill",
    "JSON as text": lambda start: json.dumps({"text": ["a mill"], "answer_start": [start]}),
    "Python as text": lambda start: str({"text": ["a mill"], "answer_start": [start]}),
    "NumPy as text": lambda start: f"{{'text': array(['a mill'], dtype=object), 'answer_start': array([{start}], dtype=int32)}}",
    "off by one": lambda start: {"text": ["a mill"], "answer_start": [start + 1]},
    "no place": lambda start: {"text": ["a mill"], "answer_start": []},
    "white space": lambda start: " a mill\n",
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["jsonl", "parquet", "csv"])
def test_answers_in_all_their_forms(write, form, kind):
    rows = [
        {"qid": n, "question": f"What was built, number {n}?", "context": context, "answer": FORMS[form](context.index("a mill"))}
        for n, context in enumerate(PARAGRAPHS)
    ]
    if kind == "csv":
        rows = [row | {"answer": row["answer"] if isinstance(row["answer"], str) else json.dumps(row["answer"])} for row in rows]
    content = {"jsonl": lines, "parquet": parquet, "csv": delimited}[kind](rows)
    for row in asked(write(f"my.{kind}", content)).values():
        assert row["answers"] == {"text": ["a mill"], "answer_start": [row["context"].index("a mill")]}


@pytest.mark.parametrize(
    "nothing",
    [None, "", [], [""], {"text": [], "answer_start": []}, {"text": [""], "answer_start": [-1]}, {"text": None, "answer_start": None}],
)
def test_no_answer_in_all_its_forms(write, nothing):
    rows = [
        {"question": f"Who, number {n}?", "context": context, "answers": nothing if n % 2 else FORMS["one object"](0)}
        for n, context in enumerate(PARAGRAPHS)
    ]
    if not isinstance(nothing, dict):
        rows = [row if n % 2 else row | {"answers": ["a mill"] if isinstance(nothing, list) else "a mill"} for n, row in enumerate(rows)]
    else:
        rows = [row if n % 2 else row | {"answers": {"text": ["a mill"], "answer_start": [0]}} for n, row in enumerate(rows)]
    for kind, content in (("jsonl", lines(rows)), ("parquet", parquet(rows))):
        assert sorted(len(row["answers"]["text"]) for row in asked(write(f"my.{kind}", content)).values()) == [0] * 6 + [1] * 6


def test_wrong_places_are_corrected_and_said_and_foreign_answers_left_out(write, capsys):
    wrong = articles("1.1", start=2)
    wrong["data"][2]["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "a castle"
    rows = asked(write("my.json", json.dumps(wrong)))
    assert len(rows) == 11 and "q2" not in rows
    said = capsys.readouterr().out
    assert "NOTE: 11 answers did not stand at their answer_start; the nearest place in the context is taken" in said
    assert "NOTE: left out 1 of 12 rows: my.json, row 3: the answer 'a castle' does not stand in the context" in said
    for article in wrong["data"]:
        article["paragraphs"][0]["qas"][0]["answers"][0]["text"] = "a castle"
    refused(
        write("my.json", json.dumps(wrong)),
        r"^my\.json, row 1: the answer 'a castle' .* in 12 of 12 rows: fill them",
        question="",
        context="",
        answers="",
    )


def test_paragraphs_without_articles_around_them(write):
    bare = [paragraph for article in articles("v2.0")["data"] for paragraph in article["paragraphs"]]
    assert asked(write("my.json", json.dumps(bare))).keys() == asked(write("whole.json", json.dumps(articles("v2.0")))).keys()


def test_squads_form_with_something_missing(write):
    wrong = articles("1.1")
    del wrong["data"][4]["paragraphs"][0]["qas"][0]["question"]
    refused(
        write("my.json", json.dumps(wrong)),
        r"^my\.json: 'question' is missing: SQuAD's form is paragraphs",
        question="",
        context="",
        answers="",
    )


def test_a_place_among_several_is_the_nearest(write):
    context = "a b a b a b"
    assert cells._placed(context, [("b", 5)])[0] == {"text": ["b"], "answer_start": [6]}
    assert cells._placed(context, [("b", None)]) == ({"text": ["b"], "answer_start": [2]}, 0)


# ---------------------------------------------------------------- what is printed, noted and kept


def test_labels_splits_and_three_rows_are_printed(write, capsys):
    data.from_file(write("my.csv", delimited()), text="", label="")
    said = capsys.readouterr().out.splitlines()
    assert said[:4] == [
        "my.csv: 36 rows (separated by commas, UTF-8)",
        "columns: text = text, label = label",
        "3 labels: bread 12, fish 12, fruit 12",
        "splits: train 27, validation 3, test 6 (drawn: test and validation, seed 0, copies of a text on one side)",
    ]
    assert len(said) == 7 and all(re.fullmatch(r"  text: .{20,70}  label: \w+", line) for line in said[4:])


def test_texts_are_withheld_where_outputs_get_published(write, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_TEXTS", "withhold")
    found = data.from_file(write("my.csv", delimited()), text="", label="")
    said = capsys.readouterr().out
    assert "text: (row 0)" in said and not any(row["text"][:10] in said for row in ROWS)
    assert session.excerpt(found["test"]["text"][0], 4) == "(row 4)"


def test_the_results_name_the_file(write):
    found = data.from_file(write("my rows.csv", delimited()), text="", label="")
    parts = {"train": found["train"].shuffle(seed=1).select(range(20)), "test": found["test"].map(lambda row: {"more": 1})}
    assert {part["source"] for part in session.record(parts).values()} == {"file my rows.csv"}


def test_memory_is_in_proportion_to_the_file(write):
    """A long document with many questions is read once, and no step multiplies texts with texts."""
    import tracemalloc

    long = " ".join(f"Clause {n} of the contract." for n in range(4_000))
    rows = [{"text": f"{n} {long}", "label": "ab"[n % 2]} for n in range(40)]
    path = write("my.jsonl", lines(rows))
    tracemalloc.start()
    data.from_file(path, text="", label="")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * path.stat().st_size


def test_places_survive_rows_that_are_left_out(write, tmp_path):
    write("my/train.csv", delimited([{"text": "", "label": "fish"}, *ROWS[:30]]))
    write("my/test.csv", delimited([*ROWS[30:], {"text": "x", "label": ""}]))
    parts = files.read(tmp_path / "my")
    assert [part.where(0) for part in parts] == ["train.csv, line 2", "test.csv, line 2"]
    assert len(named(data.from_file(tmp_path / "my", text="", label=""))) == 36


def test_numbers_keep_their_order_beyond_nine():
    lists, names = cells.numbered([["10"], ["9"], ["b"], ["A"]], [])
    assert names == ["9", "10", "A", "b"] and lists == [[1], [0], [3], [2]]
    assert cells.numbered([["part 10"], ["part 2"], ["Part 1"]], [])[1] == ["Part 1", "part 2", "part 10"]
    assert cells.written(np.float64("nan")) is None and cells.written(2.0) == "2" and cells.written(" x\u200b") == "x"


# ---------------------------------------------------------------- a lesson on a reader's file


def reviews(rows: int = 48) -> list[dict]:
    """Reviews with one to three stars, and what else a shop's export holds."""
    words = {1: "broke after {} days and nobody answers my mail", 2: "is all right after {} days", 3: "délicieux, {} days of joy"}
    return [
        {"order": f"A-{n:05}", "review": f'The kettle {words[n % 3 + 1].format(n)}; "so it is".', "stars": n % 3 + 1} for n in range(rows)
    ]


def tickets(language: str, labels: int, each: int = 9) -> list[dict]:
    """Tickets of many kinds, of which the first are the commonest."""
    template = {"id": "Tiket nomor {}: mohon bantuan untuk urusan {} secepatnya", "zh": "请求{}号关于事情{}的帮助"}[language]
    kinds = [kind for kind in range(labels) for _ in range(each + (labels - kind) // 4)]
    return [
        {"isi tiket": template.format(n, chr(0x4E00 + kind) if language == "zh" else f"jenis{kind}"), "kategori": f"jenis {kind:02}"}
        for n, kind in enumerate(kinds)
    ]


PARTS = ["brake", "chain", "lamp", "saddle", "wheel"]


def notes(rows: int = 90) -> list[dict]:
    """A workshop's notes with their tags in one cell; the later tags are rarer, and some notes have none."""
    tags = [[part for k, part in enumerate(PARTS) if n % (k + 2) == 0 and n % 15] for n in range(rows)]
    return [
        {"nr": n, "note": f"Bicycle {n}: saw to the {' and the '.join(own) or 'bell'}, then rode it.", "tags": ", ".join(own)}
        for n, own in enumerate(tags)
    ]


def wishes(labels: int, rows: int = 200) -> list[dict]:
    """Texts without spaces, and a column of 0 and 1 for each of their many labels."""
    kinds = [{n % labels, n * n % labels} for n in range(rows)]
    texts = [f"第{n}位顾客想要{'和'.join(chr(0x4E00 + kind) for kind in sorted(own))}谢谢" for n, own in enumerate(kinds)]
    flags = [{f"k{kind:02}": int(kind in own) for kind in range(labels)} for own in kinds]
    return [{"内容": text} | row for text, row in zip(texts, flags, strict=True)]


def claims(language: str, labels: list[str], each: int = 14, long: str = "") -> list[dict]:
    """A text, a claim about it and their label, of which the first are the commonest. `long` ends the first claim."""
    text, claim = {
        "id": ("Kapal nomor {} berangkat dari pelabuhan pada pagi hari.", "Kapal {} itu {} di laut."),
        "zh": ("第{}号船早上离开了港口。", "第{}号船{}在海上。"),
    }[language]
    kinds = [kind for kind in range(len(labels)) for _ in range(each - 2 * kind)]
    words = [chr(0x4E00 + kind) if language == "zh" else f"jenis{kind}" for kind in kinds]
    rows = [
        {"pernyataan": text.format(n), "klaim": claim.format(n, word), "nilai": labels[kind]}
        for n, (kind, word) in enumerate(zip(kinds, words, strict=True))
    ]
    rows[0]["klaim"] += long
    return rows


def lesson_on(lesson: str, runs, file, *sets: str) -> tuple[dict, str, str]:
    """(results, report, printed outputs) of a run of a lesson on a file, all of whose scored rows are the file's."""
    said, results = run(lesson, runs, f"data={file}", "epochs=1", *sets)
    assert results is not None, said
    (folder,) = runs.glob(f"*_{lesson}")
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your data: ") and f"from the file {file.name}" in page
    assert not re.search("published|GoEmotions|Contamination|written for this course|Reddit|nli_mix|GLUE", page)
    notebook = json.loads((folder / f"{lesson.replace('-', '_')}.ipynb").read_text(encoding="utf8"))
    printed = "".join("".join(out.get("text", "")) for cell in notebook["cells"] for out in cell.get("outputs", []))
    assert all(part["source"] == f"file {file.name}" for split, part in results["data"].items() if split != "mnli_train")
    return results, page, printed


def named_in_the_model(runs) -> list[str]:
    (config,) = runs.glob("*/model/config.json")
    return list(json.loads(config.read_text(encoding="utf8"))["id2label"].values())


def test_go_emotions_runs_on_tags_in_one_cell(write, tmp_path):
    results, page, printed = lesson_on("go-emotions", tmp_path / "runs", write("notes.csv", delimited(notes(), ";")))
    assert "columns: text = note, labels = tags (guessed" in printed and named_in_the_model(tmp_path / "runs") == PARTS
    assert sorted(results["data"]) == ["test", "train", "validation"]
    assert [row["label"] for row in results["tables"]["labels"]] == PARTS
    several = {row["labels"]: row["rows"] for row in results["tables"]["several"]}
    assert list(several) == ["none", "one label", "two or more"] and sum(several.values()) == results["data"]["test"]["rows"]
    assert "all 5 probabilities sum to" in printed and "of two groups" in printed
    assert "| Test texts with | Number |" in page and "emotion" not in page.split("## Run it yourself")[0]


@pytest.mark.slow
def test_go_emotions_runs_on_columns_of_0_and_1_and_texts_without_spaces(write, tmp_path):
    results, _, printed = lesson_on("go-emotions", tmp_path / "runs", write("愿望.jsonl.gz", gzip.compress(lines(wishes(60)).encode())))
    assert named_in_the_model(tmp_path / "runs") == [f"k{kind:02}" for kind in range(60)]
    assert "the baseline counts characters" in printed and len(results["tables"]["labels"]) == 60
    assert results["baselines"]["TF-IDF + logistic regression, one per label"]["micro_f1"] > 0.5  # as words, no two texts share one


def test_mnli_runs_on_pairs_of_four_labels(write, tmp_path):
    labels = ["benar", "mungkin", "salah", "tidak jelas"]
    rows = claims("id", labels, 20, long=" dan berlayar" * 200)
    file = write("pasangan.tsv", "\ufeff" + delimited(rows, "\t"))
    results, page, printed = lesson_on("mnli", tmp_path / "runs", file, "premise=pernyataan", "hypothesis=klaim", "label=nilai")
    assert named_in_the_model(tmp_path / "runs") == labels == [row["class"] for row in results["tables"]["classes"]]
    assert list(results["data"]) == ["train", "held_out", "test"] and "mismatched" not in results["tables"]
    assert {*results["baselines"]} == {"hypothesis only, TF-IDF + logistic regression", "one label for all"}
    assert "premise of a test pair and stay" in printed and "pairs of your file" in printed
    assert "atched" not in page and "| **this model** |" in page


@pytest.mark.slow
@pytest.mark.parametrize("labels", [["0", "1"], [f"kelas {n:02}" for n in range(24)]], ids=["two", "twenty-four"])
def test_mnli_runs_on_pairs_without_spaces(write, tmp_path, labels):
    """Two labels have one row of weights in a linear model; of many, the report shows the worst."""
    file = write("pairs.jsonl", lines(claims("zh", labels, 16 if len(labels) == 2 else 60)))
    results, page, printed = lesson_on("mnli", tmp_path / "runs", file)
    assert named_in_the_model(tmp_path / "runs") == labels and "the baseline counts characters" in printed
    words = {line[:13].strip(): line[13:] for line in printed.split("hypothesis only")[1].splitlines()[1 : len(labels) + 1]}
    assert list(words) == labels and all(chr(0x4E00 + kind) in words[label] for kind, label in enumerate(labels))
    assert results["baselines"]["hypothesis only, TF-IDF + logistic regression"]["accuracy"] > 0.9
    assert ("the 20 labels with the lowest F1, of 24" in page) == (len(labels) == 24)


@pytest.mark.parametrize("language", ["id", pytest.param("zh", marks=pytest.mark.slow)])
def test_rte_runs_on_a_small_file_of_two_labels(write, tmp_path, language):
    rows = claims(language, ["ya", "tidak"], long=" dan berlayar" * 200)
    for row in rows[14:]:
        row["klaim"] = "Tidak ada." if language == "id" else "没有这样的事。"  # so the other label shares more with its text
    file = write("pairs.csv", delimited(rows, "|"))
    results, page, printed = lesson_on("rte", tmp_path / "runs", file, "sentence1=pernyataan", "sentence2=klaim", "label=nilai")
    assert named_in_the_model(tmp_path / "runs") == ["tidak", "ya"] and results["baselines"]["word overlap"]["accuracy"] == 1
    assert list(results["data"]) == ["train", "held_out", "test", "mnli_train"] and results["data"]["test"]["rows"] == 5
    assert ("the baseline counts characters" in printed) == (language == "zh") and "without a row of your file" in printed
    assert "Of the pairs with the label tidak " in page and not re.search("RTE's|277|2,490", page)


def test_rte_says_in_one_line_that_it_takes_two_labels(write, tmp_path):
    said, results = run("rte", tmp_path / "runs", f"data={write('grades.csv', delimited(graded(20, 4)))}")
    assert results is None
    assert re.search(r"^FAILED  task-1/rte  in 2\. The data, .*: grades\.csv has 3 labels \(0, 1, 2\), .* task-1/mnli$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "content", "sets", "labels"),
    [
        ("reviews.csv", delimited(reviews(), ";", "\r\n").encode("cp1252"), ("text=review", "label=stars"), ["1", "2", "3"]),
        pytest.param("tiket.jsonl", lines(tickets("id", 12)), (), [f"jenis {n:02}" for n in range(12)], marks=pytest.mark.slow),
        pytest.param(
            "工单.jsonl.gz",
            gzip.compress(lines(tickets("zh", 40)).encode()),
            (),
            [f"jenis {n:02}" for n in range(40)],
            marks=pytest.mark.slow,
        ),
    ],
    ids=["three stars", "twelve unbalanced labels", "forty labels without spaces"],
)
def test_ag_news_runs_on_a_readers_file(write, tmp_path, name, content, sets, labels):
    said, results = run("ag-news", tmp_path / "runs", f"data={write(name, content)}", "epochs=1", *sets)
    assert results is not None, said
    (folder,) = (tmp_path / "runs").glob("*_ag-news")
    assert {part["source"] for part in results["data"].values()} == {f"file {name}"} and set(results["data"]) == {
        "train",
        "held_out",
        "test",
    }
    assert [row["class"] for row in results["tables"]["classes"]] == labels
    assert json.loads((folder / "model" / "config.json").read_text(encoding="utf8"))["id2label"] == {
        str(n): label for n, label in enumerate(labels)
    }
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your data: sort your texts with an encoder\n") and f"from the file {name}" in page
    assert not re.search("published|94.75|AG News|Contamination|written for this course", page)
    assert len(list((folder / "plots").glob("*.png"))) == 3


def test_ag_news_says_in_one_line_what_is_wrong_with_a_file(write, tmp_path):
    said, results = run("ag-news", tmp_path / "runs", f"data={write('my.csv', delimited(ROWS[:12]))}")
    assert results is None
    assert re.search(
        r"^FAILED  task-1/ag-news  in 2\. The data, .*: my\.csv: fewer than 8 different texts to train on for the label 'bread' \(4\)",
        said,
        re.MULTILINE,
    )


def annotated() -> list[dict]:
    """Questions as an annotation tool exports them: the answer as a text, its place counted from 1, some questions without an answer."""
    rows = []
    for n in range(40):
        context = (
            f"Ticket {n} came in at {n % 12 + 1} o'clock. The printer on floor {n % 7} was empty, and Tova{n} refilled it before lunch."
        )
        rows += [
            {
                "Frage": f"Who refilled the printer of ticket {n}?",
                "Absatz": context,
                "Antwort": f"Tova{n}",
                "answer_start": context.index("Tova"),
            },
            {"Frage": f"Where was the printer of ticket {n}?", "Absatz": context, "Antwort": f"floor {n % 7}", "answer_start": 3},
        ]
        if n % 4 == 0:
            rows.append({"Frage": f"Who wrote ticket {n}?", "Absatz": context, "Antwort": "", "answer_start": -1})
    return rows


@pytest.mark.parametrize(
    ("lesson", "title"),
    [
        ("extractive-squad", "# Your data: an encoder that points at the answer\n"),
        ("t5-squad", "# Your data with T5: a model that writes the answer\n"),
    ],
)
def test_question_answering_runs_on_a_readers_file(write, tmp_path, lesson, title):
    file = write("export.csv", delimited(annotated(), ";").encode("utf-8-sig"))
    sets = ("question=Frage", "context=Absatz", "answers=Antwort", "epochs=1")
    said, results = run(lesson, tmp_path / "runs", f"data={file}", *sets)
    assert results is not None, said
    (folder,) = (tmp_path / "runs").glob(f"*_{lesson}")
    assert {split: (part["source"], part["rows"]) for split, part in results["data"].items()} == {
        "train": ("file export.csv", 56),
        "held_out": ("file export.csv", 8),
        "validation": ("file export.csv", 16),
    }
    assert results["tables"]["articles"] == [{"articles": 8, "unit": "paragraphs"}]
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith(title) and "from the file export.csv" in page
    assert not re.search("published|XQuAD|Contamination|written for this course|SQuAD v2|Earlier versions", page)


@pytest.mark.parametrize(("lesson", "table"), [("extractive-squad", "articles"), ("t5-squad", "articles"), ("llm-squad-v2", "groups")])
def test_a_readers_test_questions_may_share_one_paragraph(tmp_path, lesson, table):
    folder, rows = tmp_path / "handbook", annotated()
    folder.mkdir()
    for split, chosen in (("train", False), ("test", True)):
        part = [row for row in rows if (row["Absatz"] == rows[-1]["Absatz"]) == chosen]
        (folder / f"{split}.csv").write_text(delimited(part), encoding="utf8")
    sets = ("question=Frage", "context=Absatz", "answers=Antwort", "epochs=1")
    said, results = run(lesson, tmp_path / "runs", f"data={folder}", *sets)
    assert results is not None, said
    assert results["tables"][table][0]["unit"] == "questions"


def opinions(labels: tuple[str, ...], each: int = 15) -> list[dict]:
    return [
        {"text": f"Room {n} was {label} and the soup at table {n * 7} came late.", "label": label} for n in range(each) for label in labels
    ]


def test_a_decoder_answers_a_readers_questions(write, tmp_path):
    file = write("export.csv", delimited(annotated(), ";").encode("utf-8-sig"))
    told = ("question=Frage", "context=Absatz", "answers=Antwort", "train_rows=all")
    said, results = run("llm-squad-v2", tmp_path / "runs", f"data={file}", *told)
    assert results is not None, said
    (folder,) = (tmp_path / "runs").glob("*_llm-squad-v2")
    assert {split: (part["source"], part["rows"]) for split, part in results["data"].items()} == {
        "train": ("file export.csv", 64),
        "held_out": ("file export.csv", 8),
        "validation": ("file export.csv", 18),
    }
    assert results["tables"]["groups"][0]["unit"] == "paragraphs"
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your questions with a decoder: answer, or refuse\n") and "from the file export.csv" in page
    assert not re.search("published|Contamination|written for this course|SQuAD v2|Earlier versions", page)


def test_a_decoder_answers_with_the_labels_of_a_readers_file(write, tmp_path):
    content = delimited(reviews(), ";", "\r\n").encode("cp1252")
    told = ("sentence=review", "label=stars", "epochs=1")
    said, results = run("llm-sst2", tmp_path / "runs", f"data={write('reviews.csv', content)}", *told)
    assert results is not None, said
    assert results["tables"]["asked"][0]["words"] == ["1", "2", "3"]  # a number has no blank in front
    assert [row["value"] for row in results["tables"]["auc"]] == [None, None]
    (folder,) = (tmp_path / "runs").glob("*_llm-sst2")
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your data with a decoder: ") and "from the file reviews.csv" in page
    assert not re.search("published|SST-2|GLUE|Contamination|written for this course|Seen before", page)


def test_a_decoder_says_where_test_rows_of_one_label_have_no_auc(tmp_path):
    folder, labels = tmp_path / "rooms", ("fine", "awful")
    folder.mkdir()
    for split, rows in (("train", opinions(labels)), ("test", [row for row in opinions(labels, 20)[30:] if row["label"] == "fine"])):
        (folder / f"{split}.csv").write_text(delimited(rows), encoding="utf8")
    said, results = run("llm-sst2", tmp_path / "runs", f"data={folder}", "epochs=1")
    assert results is not None, said
    assert [row["value"] for row in results["tables"]["auc"]] == [None, None]
    (made,) = (tmp_path / "runs").glob("*_llm-sst2")
    assert "AUC undefined: test rows need two labels" in (made / "llm_sst2.ipynb").read_text(encoding="utf8")
    assert "after undefined (it needs two labels, and test rows of both)" in (made / "report.md").read_text(encoding="utf8")


def test_a_decoder_refuses_labels_that_begin_alike(write, tmp_path):
    file = write("my.csv", delimited(opinions(("very good", "very bad"))))
    said, results = run("llm-sst2", tmp_path / "runs", f"data={file}")
    assert results is None
    assert re.search(
        r"^FAILED  task-3/llm-sst2  in 4\. Tokenise.*: the labels very bad, very good begin with the same token: rename them in the file$",
        said,
        re.MULTILINE,
    )


def test_summaries_are_learned_from_a_readers_file(write, tmp_path):
    """Reports that have most of their words in common: none of them is dropped as printed again."""
    rows = [
        {
            "Bericht": f"{row['Absatz']} Nothing else was noted before the office closed for the day. The next shift read it.",
            "Kurz": f"Tova{n} refilled the printer.",
        }
        for n, row in enumerate({row["Absatz"]: row for row in annotated()}.values())
    ]
    file = write("reports.csv", delimited(rows, ";").encode("utf-8-sig"))
    said, results = run("t5-cnn-dailymail", tmp_path / "runs", f"data={file}", "article=Bericht", "highlights=Kurz")
    assert results is not None, said
    (folder,) = (tmp_path / "runs").glob("*_t5-cnn-dailymail")
    assert {split: (part["source"], part["rows"]) for split, part in results["data"].items()} == {
        "train": ("file reports.csv", 28),
        "validation": ("file reports.csv", 4),
        "test": ("file reports.csv", 4),
    }
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your data with T5: a model that writes the summary\n") and "from the file reports.csv" in page
    assert not re.search("published|CNN|Contamination|written for this course|Earlier versions", page)


def test_a_decoder_learns_to_summarise_a_readers_file(write, tmp_path):
    """Special tokens in its texts stay text, and are counted."""
    text = "Ticket {0}: the printer on floor {1} was empty, and Tova{0} refilled it before lunch. <|endoftext|> "
    rows = [{"Text": text.format(n, n % 7) * 2, "Kurz": f"Tova{n} helped."} for n in range(40)]
    file = write("notes.csv", delimited(rows))
    said, results = run("phi2-xsum", tmp_path / "runs", f"data={file}", "document=Text", "summary=Kurz")
    assert results is not None, said
    (folder,) = (tmp_path / "runs").glob("*_phi2-xsum")
    assert {part["source"] for part in results["data"].values()} == {"file notes.csv"} and results["data"]["test"]["rows"] == 8
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your data with QLoRA: a decoder writes summaries\n") and "from the file notes.csv" in page
    assert not re.search("published|Contamination|written for this course|earlier version", page)
    assert "56 in 28 of 28 texts" in (folder / "phi2_xsum.ipynb").read_text(encoding="utf8")


TOWNS = ["Bandung", "Solo", "Medan", "Padang", "Kupang", "Ambon", "Bogor", "Malang", "Palu", "Ternate"]
BUSES = [
    {
        "id": str(n),
        "en": f"Bus number {n} leaves for {TOWNS[n % 10]} at {n % 12 + 1} o'clock.",
        "indonesian": f"Bus nomor {n} berangkat ke {TOWNS[n % 10]} pukul {n % 12 + 1}.",
    }
    for n in range(60)
]
TRAINS = [
    {"de": f"Der Zug Nummer {n} fährt um {n % 12 + 1} Uhr.", "zh": f"{n}号列车在{n % 12 + 1}点出发，请大家准备好。"} for n in range(60)
]


@pytest.mark.parametrize(
    ("name", "rows", "sets"),
    [
        ("buses.tsv", BUSES, ()),
        pytest.param("züge.jsonl", TRAINS, ("source=de", "target=zh", "translator=", "prefix=german:"), marks=pytest.mark.slow),
    ],
    ids=["a row number called id", "a language without spaces"],
)
def test_translation_runs_on_a_readers_file(write, tmp_path, name, rows, sets):
    file = write(name, lines(rows) if name.endswith("jsonl") else delimited(rows, "\t").encode("utf-8-sig"))
    said, results = run("t5-en-id", tmp_path / "runs", f"data={file}", "epochs=1", *sets)
    assert results is not None, said
    (folder,) = (tmp_path / "runs").glob("*_t5-en-id")
    assert {split: (part["source"], part["rows"]) for split, part in results["data"].items()} == {
        "train": (f"file {name}", 42),
        "validation": (f"file {name}", 6),
        "test": (f"file {name}", 12),
    }
    chinese = name != "buses.tsv"
    kept = {example["gold"] for example in results["examples"]}
    assert kept <= {row["zh" if chinese else "indonesian"] for row in rows}
    systems = {row["system"]: row for row in results["tables"]["systems"]}
    assert ("tok:char" in systems["this model"]["signatures"][0]) == chinese
    assert [row["set"] for row in results["tables"]["domains"]] == ["test"]
    page = (folder / "report.md").read_text(encoding="utf8")
    assert page.startswith("# Your data with T5: a model that translates\n") and f"from the file {name}" in page
    assert not re.search("published|Tatoeba|OPUS-100|written for this course|PANL|Earlier looks|tries.json", page)
