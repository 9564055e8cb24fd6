"""Which of a file's columns a lesson means, and what its cells say: texts, labels in all the forms they are written in, answers."""

from __future__ import annotations

import ast
import itertools
import json
import re
from decimal import Decimal
from typing import Any

import pyarrow as pa

from shared.course.runtime import CourseError, unknown
from shared.data.files import BLANK, Part

LABELS = ("label", "labels")  # the lesson's columns that are no texts: one label a row, or several; "answers" is the third
LOOK_AT = 1_000  # cells by which a column is judged
COUNTERS = ("", "idx", "index", "guid", "uid", "uuid", "row", "nr", "no", "number", "unnamed: 0")  # columns that number the rows
ALIKE = [  # names that go for the same thing
    set(names.split())
    for names in (
        "text sentence review content body comment message tweet document article post ticket description",
        "label labels class category target sentiment stars rating topic tag tags intent emotion emotions gold_label",
        "premise sentence1 text1 text_a sentence_a question1",
        "hypothesis sentence2 text2 text_b sentence_b question2",
        "question query",
        "context passage paragraph",
        "answers answer answer_text",
        "source src input document article dialogue en english",
        "target tgt output summary highlights abstract id indonesian",
    )
]
FLAGS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "False": 0, "True": 1, "false": 0, "true": 1, "FALSE": 0, "TRUE": 1}
SEPARATORS = "|;,"
DAY = re.compile(r"\d{4}-\d\d?-\d\d?\b.*|\d\d?[./]\d\d?[./]\d{2,4}\b.*")
LIST = re.compile(r"(?:array\(|tensor\()?\[")
ITEM = r"""'[^']*'|"[^"]*"|True|False|-?\d+\.?\d*"""
PRINTED = re.compile(rf"\[\s*(?:{ITEM})(?:\s+(?:{ITEM}))+\s*\]")  # as NumPy prints an array, without commas
NUMBER, WHOLE = re.compile(r"-?\d+(\.\d+)?"), re.compile(r"-?\d+(\.0+)?")


# ---------------------------------------------------------------- which column is what


def choose(name: str, parts: list[Part], columns: dict[str, str]) -> tuple[dict[str, list[str]], str]:
    """({the lesson's column: the file's}, the same in words). Raises CourseError where one is not there or cannot be guessed."""
    for part in parts:
        part.table = _flat(part.table)
    part = max(parts, key=lambda part: part.table.num_rows)
    chosen = {column: _named(part, column, told) for column, told in columns.items() if told}
    chosen |= _of_the_same_name(part, [column for column in columns if column not in chosen])
    for guess in (_by_name, _by_look):
        for column in sorted(columns, key=lambda column: column not in (*LABELS, "answers")):  # what is left over is a text
            if column not in chosen:
                chosen |= guess(part, column, columns, chosen)
    for column in columns:
        if column not in chosen:
            there = ", ".join(part.table.column_names)
            raise CourseError(f"{name}: which column is '{column}'? It has {there}: name one with {column}=... (--set {column}=...)")
    chosen = {column: chosen[column] for column in columns}
    for one, other in itertools.product(itertools.chain(*chosen.values()), parts):
        there = other.table.column_names
        count = [name.lower() for name in there].count(one.lower())
        if not count:
            cure = f"give all files the same, or name {part.name} alone"
            raise CourseError(f"{other.name} lacks the column '{one}' of {part.name}, it has {', '.join(there)}: {cure}")
        if count > 1:
            raise CourseError(f"{other.name} has {count} columns called '{one}': rename all but the one that is meant")
    words = ", ".join(f"{column} = {' + '.join(chosen[column])}" for column in columns)
    guessed = [column for column in columns if not columns[column] and chosen[column][0].lower() != column]
    return chosen, words + (f" (guessed; others are named with {'=..., '.join(guessed)}=...)" if guessed else "")


def _flat(table: pa.Table) -> pa.Table:
    """Objects inside the rows as columns of their own ("translation.en"), but for SQuAD's answers."""
    nested = [kind.name for kind in table.schema if pa.types.is_struct(kind.type)]
    answers = [name for name in nested if table.schema.field(name).type.get_field_index("answer_start") >= 0]
    if nested == answers:
        return table
    flat = table.drop_columns(answers).flatten()
    for name in answers:
        flat = flat.append_column(name, table[name])
    return _flat(flat)


def _named(part: Part, column: str, told: str) -> list[str]:
    """The file's columns that the reader names, whatever their case."""
    there = {other.lower(): other for other in part.table.column_names}
    wanted = [one.strip() for one in ([told] if told.strip().lower() in there else told.split(","))]
    for one in wanted:
        if one.lower() not in there:
            raise unknown(f"column of {part.name} for {column}", one, part.table.column_names)
    return [there[one.lower()] for one in wanted]


def _of_the_same_name(part: Part, wanted: list[str]) -> dict[str, list[str]]:
    """Columns with the lesson's own names; those of an object that has them all (`translation`) go before single ones (`id`)."""
    there = {name.lower(): [name] for name in part.table.column_names}
    inside = {name.rpartition(".")[0] for name in there if "." in name}
    inside = next((f"{one}." for one in sorted(inside) if wanted and all(f"{one}.{column}" in there for column in wanted)), "")
    twins = {"label": "labels", "labels": "label"}
    found = {column: there.get(inside + column) or there.get(twins.get(column, column)) for column in wanted}
    return {column: names for column, names in found.items() if names}


def _first(part: Part, column: str) -> pa.ChunkedArray:
    """The column of this name, and the first of several."""
    return part.table.column(part.table.column_names.index(column))


def _looks(part: Part, column: str) -> str:
    """What the first cells of a column look like: "text", "label", "flag" (0 and 1), "list", or "" for none of them."""
    cells = _plain(_first(part, column).slice(0, LOOK_AT))
    if any(isinstance(cell, list | dict) for cell in cells):
        return "list"
    cells = [text for cell in cells if (text := written(cell))]
    different = set(cells)
    if not cells or column.lower() in COUNTERS:
        return ""
    if different <= set(FLAGS):
        return "flag"
    few = 2 * len(different) <= len(cells) and len(different) <= 200
    if all(map(NUMBER.fullmatch, different)):
        return "label" if few else ""
    words = sum(len(cell.split()) for cell in cells) / len(cells)
    spoken = sum(len(cell.split()) > 1 or not cell.isascii() for cell in cells) > 0.3 * len(cells)
    if spoken and (not few or words >= 6):
        return "text"
    return "label" if few and max(map(len, different)) <= 100 else ""


def _free(part: Part, column: str, chosen: dict[str, list[str]]) -> dict[str, bool]:
    """The columns that are still to be had, and whether each looks like one for the lesson's column."""
    texts = column not in (*LABELS, "answers")
    looks = {one: _looks(part, one) for one in part.table.column_names if [one] not in chosen.values()}
    return {one: look == "text" if texts else look not in ("", "text") for one, look in looks.items()}


def _by_name(part: Part, column: str, columns: dict[str, str], chosen: dict[str, list[str]]) -> dict[str, list[str]]:
    """The only column whose name goes for the same thing; of several, the only one that looks so."""
    free = _free(part, column, chosen)
    named = [one for one in free if any({column, one.lower().rpartition(".")[2]} <= names for names in ALIKE)]
    named = [one for one in named if free[one]] or [one for one in named if not _counts(part, one)]
    return {column: named} if len(named) == 1 else {}


def _counts(part: Part, column: str) -> bool:
    """Whether a column called `id`, which may be Indonesian, numbers the rows: each of its first cells is one word with a digit in it."""
    cells = [written(cell) for cell in _plain(_first(part, column).slice(0, LOOK_AT))] if column.lower() == "id" else []
    return bool(cells) and all(cell and re.fullmatch(r"\S*\d\S*", cell) for cell in cells)


def _by_look(part: Part, column: str, columns: dict[str, str], chosen: dict[str, list[str]]) -> dict[str, list[str]]:
    """The only column that looks so; as many texts as the lesson has left, in their order; the columns of 0 and 1 for several labels."""
    right = [one for one, looks_so in _free(part, column, chosen).items() if looks_so]
    texts = [one for one in columns if one not in (*LABELS, "answers", *chosen)]
    if column in texts:
        return {column: [right[texts.index(column)]]} if len(right) == len(texts) else {}
    flags = [one for one in right if _looks(part, one) == "flag"]
    if column == "labels" and len(flags) > 1:
        return {column: flags}
    if len(right) > 1:
        right = [one for one in right if not _says_little(part, one)]
    return {column: right} if column in LABELS and len(right) == 1 else {}


def _says_little(part: Part, column: str) -> bool:
    """Whether the first cells are all the same, or all days: no label where another column can be one."""
    cells = set(filter(None, map(written, _plain(_first(part, column).slice(0, LOOK_AT)))))
    return len(cells) == 1 or all(map(DAY.fullmatch, cells))


# ---------------------------------------------------------------- texts


def written(cell: Any) -> str | None:
    """A cell as a text without white space around it: 2.0 is "2", True is "True"; None for nothing, and for NaN."""
    if cell is None or cell != cell:
        return None
    if isinstance(cell, float | Decimal) and cell == cell // 1:
        cell = int(cell)
    text = (cell if isinstance(cell, str) else str(cell)).strip(BLANK)
    return None if text.lower() in ("", "nan") else text


def _plain(column: pa.ChunkedArray) -> list[Any]:
    """The cells of a column as Python has them; of a category, its name."""
    return (column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column).to_pylist()


def texts(part: Part, names: list[str]) -> list[str | None]:
    """A text a row, of several columns with a space between them; None where nothing can be seen."""
    columns = []
    for name in names:
        cells = _plain(part.table[name])
        if pa.types.is_nested(part.table[name].type):
            raise CourseError(f"{part.name}: the column '{name}' holds lists, not texts: name another one")
        columns.append([_decoded(part, row, name, cell) if isinstance(cell, bytes) else cell for row, cell in enumerate(cells)])
    if len(names) > 1:
        return [" ".join(filter(None, map(written, row))) or None for row in zip(*columns, strict=True)]
    return [cell if isinstance(cell, str) and written(cell) else written(cell) for cell in columns[0]]


def _decoded(part: Part, row: int, name: str, cell: bytes) -> str:
    try:
        return cell.decode("utf8")
    except UnicodeDecodeError:
        raise CourseError(f"{part.where(row)}: '{name}' holds bytes that are not UTF-8: write texts into the file") from None


# ---------------------------------------------------------------- labels


def labels(part: Part, names: list[str], several: bool) -> tuple[list[list[str] | None], list[str]]:
    """(the label names of each row, None for a row without; the names in their order, where the file brings them along)."""
    known = part.names.get(names[0], [])
    if len(names) > 1:
        lists = [list(row) for row in zip(*(_flags(part, name) for name in names), strict=True)]
        known = [name.rpartition(".")[2] for name in names]
    else:
        cells = _plain(part.table[names[0]])
        if "+" not in cells:  # in SNLI, where annotators disagreed
            cells = [None if cell == "-" else cell for cell in cells]
        texts = [cell for cell in cells if isinstance(cell, str) and not LIST.match(cell.strip(BLANK))]
        separator = next((mark for mark in SEPARATORS if several and any(mark in cell for cell in texts)), None)
        lists = [_listed(cell, separator) for cell in cells]
    widths = {len(row) for row in lists if row is not None}
    if len(widths) == 1 and min(widths) > 1 and all(str(one) in FLAGS for row in lists for one in row or ()):  # vectors of 0 and 1
        known = known if len(known) == min(widths) else [str(number) for number in range(min(widths))]
        lists = [row and [known[at] for at, one in enumerate(row) if FLAGS[str(one)]] for row in lists]
    else:
        lists = [row and _names_of(part, at, row, known) for at, row in enumerate(lists)]
    if several:
        return [row or [] for row in lists], known
    for at, row in enumerate(lists):
        if row and len(row) > 1:
            raise CourseError(f"{part.where(at)} has the labels {', '.join(row)}: keep one per row; task-1/go-emotions takes several")
    return [row or None for row in lists], known


def _flags(part: Part, name: str) -> list[int]:
    """A column of 0 and 1 or True and False; an empty cell is 0."""
    cells = [written(cell) or "0" for cell in _plain(part.table[name])]
    for row, cell in enumerate(cells):
        if cell not in FLAGS:
            raise CourseError(f"{part.where(row)}: '{name}' is {cell[:40]}, and a label's own column has 0 or 1: correct it")
    return [FLAGS[cell] for cell in cells]


def _listed(cell: Any, separator: str | None) -> list | None:
    """A label cell as a list; None where it says nothing."""
    if isinstance(cell, str) and LIST.match(cell.strip(BLANK)):
        cell = _literal(cell.strip(BLANK))
    if isinstance(cell, list | tuple):
        return list(cell)
    if written(cell) is None:
        return None
    return cell.split(separator) if separator and isinstance(cell, str) else [cell]


def _literal(text: str) -> Any:
    """What a cell with JSON, a Python list, a NumPy array or a tensor says; the text itself where it is none of them."""
    text = re.sub(r"(?:array|tensor)\((\[.*?\])(?:, \w+=[^()]+)?\)", r"\1", text, flags=re.DOTALL)
    if PRINTED.fullmatch(text):  # Python would read ['a' 'b'] as ['ab']
        text = f"[{', '.join(re.findall(ITEM, text))}]"
    for reader in (json.loads, ast.literal_eval):
        try:
            return reader(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return text


def _names_of(part: Part, at: int, row: list, known: list[str]) -> list[str]:
    """The names of a row's labels, each once; a number is looked up where the file brings names along, where -1 is none.

    Names may look like numbers: then a number is looked up, a text is a name, and a text that is no name is not guessed at.
    """
    names = []
    for cell in row:
        name = written(cell)
        if isinstance(cell, list | dict):
            raise CourseError(f"{part.where(at)}: {str(cell)[:60]} is no label, which is a name or a number: name another column")
        if known and name and WHOLE.fullmatch(name) and not (isinstance(cell, str) and name in known):
            if isinstance(cell, str) and float(name) >= 0 and all(map(WHOLE.fullmatch, known)):
                raise CourseError(f"{part.where(at)} has the label {name}, but the file names {', '.join(known[:5])}: write one of these")
            if float(name) >= len(known):
                raise CourseError(f"{part.where(at)} has the label {name}, but the file names {len(known)} labels, from 0: correct it")
            name = known[int(float(name))] if float(name) >= 0 else None
        names.append(name)
    return list(dict.fromkeys(filter(None, names)))


def numbered(lists: list[list[str]], brought: list[list[str]]) -> tuple[list[list[int]], list[str]]:
    """(label numbers of each row, names): the names in the order that the file brings along, else by size or the alphabet."""
    found = set(itertools.chain(*lists))
    if all(map(WHOLE.fullmatch, found)):  # "1.0" in one file is "1" in another
        lists = [[name.partition(".")[0] for name in row] for row in lists]
        found = set(itertools.chain(*lists))
    first = list(dict.fromkeys(itertools.chain(*brought)))
    names = first + sorted(found - set(first), key=_order)
    number = {name: at for at, name in enumerate(names)}
    return [[number[name] for name in row] for row in lists], names


def _order(name: str) -> tuple:
    """Numbers by their size, then names by the alphabet, "part 2" before "part 10"."""
    parts = [int(part) if at % 2 else part for at, part in enumerate(re.split(r"([0-9]+)", name.casefold()))]
    return (0, float(name), name) if NUMBER.fullmatch(name) else (1, parts, name)


# ---------------------------------------------------------------- answers


def with_answers(part: Part, column: str, found: dict[str, list]) -> tuple[dict[str, list], int]:
    """(SQuAD's columns, answers that did not stand at their place): an id and a title beside context, question and answers.

    An answer is {"text": [...], "answer_start": [...]}, or a text that says what is wrong with it.
    """
    there = [name.lower() for name in part.table.column_names]  # two that nobody needs may share a name
    wanted = {"answer_start", "is_impossible", "id", "title"} & set(there) - set(found)
    more = {name: _plain(part.table.column(there.index(name))) for name in wanted}
    rows, moved, answers = part.table.num_rows, 0, []
    starts, hopeless = more.get("answer_start", [None] * rows), more.get("is_impossible", [None] * rows)
    for at, cell in enumerate(_plain(part.table[column])):
        pairs = _pairs(cell, starts[at]) if written(hopeless[at]) not in ("True", "true", "TRUE", "1") else []
        placed, wrong = _placed(found["context"][at] or "", pairs)
        answers.append(placed)
        moved += wrong
    ids, titles = [written(one) or "" for one in more.get("id", [])], [written(one) or "" for one in more.get("title", [""] * rows)]
    ids = ids if len(set(ids)) == rows else [f"{part.name}-{number}" for number in range(1, rows + 1)]
    return {"id": ids, "title": titles} | found | {"answers": answers}, moved


def _pairs(cell: Any, start: Any) -> list[tuple[str, int | None]]:
    """The (answer, place) pairs of a cell: SQuAD's object, a list of objects or texts, a text; an empty text is no answer."""
    if isinstance(cell, str) and cell.strip(BLANK)[:1] in ("{", "["):
        cell = _literal(cell.strip(BLANK))
    if isinstance(cell, dict) and isinstance(cell.get("text"), list | None):
        pairs = itertools.zip_longest(cell.get("text") or [], cell.get("answer_start") or [])
    else:
        cells = cell if isinstance(cell, list) else [cell]
        pairs = [(one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (one, start) for one in cells]
    return [(str(text), int(float(place)) if WHOLE.fullmatch(str(place)) else None) for text, place in pairs if written(text)]


def _placed(context: str, pairs: list[tuple[str, int | None]]) -> tuple[dict[str, list] | str, int]:
    """(SQuAD's answers, how many did not stand at their place): each at its place in the context, else the nearest one, else the first."""
    answers: dict[str, list] = {"text": [], "answer_start": []}
    moved = 0
    for text, start in pairs:
        if start is None or start < 0 or context[start : start + len(text)] != text:
            text = text if text in context else text.strip(BLANK)
            places = [match.start() for match in re.finditer(re.escape(text), context)]
            if not places:
                return f"the answer '{text[:40]}' does not stand in the context", 0
            moved += start is not None
            start = min(places, key=lambda place: abs(place - (start or 0)))
        answers["text"].append(text)
        answers["answer_start"].append(start)
    return answers, moved
