"""The data sets that the stand-in Hub serves: the rows that come with the course, or a folder's, in the Hub's own form.

Whatever a file's own types are, what is served has the Hub's columns and features, class names included. Works with pyarrow
alone: importing `datasets` in the server would cost every process a second.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.course.runtime import first_line
from shared.course.standin import Absent, Missing

BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
BATCH = 20_000  # rows that are converted at once
PARQUET = "refs/convert/parquet"  # the revision to ask for where the newest holds a loading script instead of rows
EMOTIONS = [
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire", "disappointment",
    "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy", "love", "nervousness", "optimism",
    "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
]  # fmt: skip


def _value(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "_type": "Value"}


def _list(feature: dict[str, Any]) -> dict[str, Any]:
    return {"feature": feature, "_type": "List"}


def _classes(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def _texts(*columns: str) -> dict[str, Any]:
    return dict.fromkeys(columns, _value("string"))


@dataclass(frozen=True)
class Rows:
    """A configuration of a data set of the Hub: its id, its file names with {split} in them, its columns as `datasets` writes them."""

    hub_id: str
    config: str
    file: str
    features: dict[str, Any]
    revision: str = "main"


_TEXTS = {"text": _list(_value("string")), "answer_start": _list(_value("int32"))}
_SQUAD = _texts("id", "title", "context", "question") | {"answers": _TEXTS}
_NLI = _texts("premise", "hypothesis") | {"label": _classes("entailment", "neutral", "contradiction")}
_RTE = _texts("sentence1", "sentence2") | {"label": _classes("entailment", "not_entailment")}
_TOPIC = {"label": _classes("World", "Sports", "Business", "Sci/Tech")}
_IDX = {"idx": _value("int32")}  # the row's number where a file has none
_FILE = "{split}-00000-of-00001.parquet"
DATA_SETS = {
    "ag_news": Rows("fancyzhx/ag_news", "default", f"data/{_FILE}", _texts("text") | _TOPIC),
    "go_emotions": Rows(
        "google-research-datasets/go_emotions", "simplified", f"simplified/{_FILE}",
        _texts("text") | {"labels": _list(_classes(*EMOTIONS))} | _texts("id"),
    ),
    "mnli": Rows("nyu-mll/glue", "mnli", f"mnli/{_FILE}", _NLI | _IDX),
    "rte": Rows("nyu-mll/glue", "rte", f"rte/{_FILE}", _RTE | _IDX),
    "sst2": Rows("nyu-mll/glue", "sst2", f"sst2/{_FILE}", _texts("sentence") | {"label": _classes("negative", "positive")} | _IDX),
    "nli_mix": Rows("course/nli_mix", "default", f"data/{_FILE}", _NLI),  # on no Hub: a mixture that a reader may have in a folder
    "squad": Rows("rajpurkar/squad", "plain_text", f"plain_text/{_FILE}", _SQUAD),
    "squad_v2": Rows("rajpurkar/squad_v2", "squad_v2", f"squad_v2/{_FILE}", _SQUAD),
    "xsum": Rows("EdinburghNLP/xsum", "default", "default/{split}/0000.parquet", _texts("document", "summary", "id"), PARQUET),
    "cnn_dailymail": Rows("abisee/cnn_dailymail", "3.0.0", f"3.0.0/{_FILE}", _texts("article", "highlights", "id")),
    "en_id": Rows("Helsinki-NLP/opus-100", "en-id", f"en-id/{_FILE}", {"translation": {"languages": ["en", "id"], "_type": "Translation"}}),
}  # fmt: skip
REVISIONS = {spec.hub_id: spec.revision for spec in DATA_SETS.values()}
ORDER = ("train", "validation", "test")  # of splits, by how their names begin


def files(hub_id: str, source: str, work: Path) -> dict[str, Path]:
    """A repository's files by the Hub's names, converted into `work` where they are not in the Hub's form yet.

    Args:
        source: "bundled", or a folder with `<name>/<split>.parquet`; splits that the Hub does not have are served like the others.

    Raises Absent where nothing of this id is there, and Missing, with file and row, for rows that do not fit.
    """
    if hub_id not in REVISIONS:
        raise Absent(f"the stand-in Hub has no {hub_id}, only {', '.join(REVISIONS)}")
    folder, suffix = (BUNDLED, ".jsonl") if source == "bundled" else (Path(source), ".parquet")
    found, card = {}, ["---", "configs:"]
    names = [name for name, spec in DATA_SETS.items() if spec.hub_id == hub_id]
    for name in names:
        spec, places = DATA_SETS[name], [place for place in (folder / name).glob("*") if place.suffix == suffix]
        places.sort(key=lambda place: (next((n for n, start in enumerate(ORDER) if place.stem.startswith(start)), len(ORDER)), place.stem))
        card += [f"- config_name: {spec.config}", "  data_files:"] if places else []
        for place in places:
            if not place.stem.isidentifier():
                raise Missing(f"{name}/{place.name}: a split's name has letters, digits and _; rename the file")
            file = spec.file.format(split=place.stem)
            found[file] = _converted(name, place, work / hub_id / file)
            card += [f"  - split: {place.stem}", f"    path: {file.replace('00000-of-00001', '*')}"]
    if not found:
        there = sorted(path.name for name in names for path in (folder / name).glob("*"))[:3]
        wanted = " or ".join(f"{name}/<split>{suffix}" for name in names)
        has = f"has {', '.join(there)}, but" if there else "has"
        raise Absent(f"{'the course' if folder == BUNDLED else 'COURSE_DATA'} {has} no {wanted} for {hub_id}")
    (work / hub_id / "README.md").write_text("\n".join([*card, "---", ""]), encoding="utf8", newline="\n")
    return found | {"README.md": work / hub_id / "README.md"}


def _converted(name: str, source: Path, target: Path) -> Path:
    """`source` itself where it has the Hub's columns and features already, else `target`, written in batches. Raises Missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    features, rows = DATA_SETS[name].features, 0
    schema = pa.schema([(column, _arrow(kind)) for column, kind in features.items()])
    schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        alike = source.suffix == ".parquet" and pq.read_schema(source).equals(schema)
        if alike and "answers" not in features and _noted_features(pq.read_schema(source)) == features:
            return source
        with pq.ParquetWriter(target, schema) as writer:
            for table in _batches(source):
                writer.write_table(_conform(table, schema, name, source, rows))
                rows += len(table)
    except (pa.ArrowException, OSError, json.JSONDecodeError) as error:
        raise Missing(f"{name}/{source.name} is damaged or cut off ({first_line(error, 100)}): copy it again") from None
    if not rows:
        raise Missing(f"{name}/{source.name} is empty: give it at least one row")
    return target


def _batches(source: Path) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.suffix == ".jsonl":
        yield pa.Table.from_pylist([json.loads(line) for line in source.read_text(encoding="utf8").split("\n") if line.strip()])
        return
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(BATCH):
            yield pa.Table.from_batches([batch])


def _arrow(kind: dict[str, Any]) -> Any:
    """The Arrow type of a feature."""
    import pyarrow as pa

    if kind.get("_type") == "Value":
        return pa.type_for_alias(kind["dtype"])
    if kind.get("_type") == "ClassLabel":
        return pa.int64()
    if kind.get("_type") == "List":
        return pa.list_(_arrow(kind["feature"]))
    inner = _texts(*kind["languages"]) if "languages" in kind else kind
    return pa.struct([(name, _arrow(feature)) for name, feature in inner.items()])


def _noted_features(schema: Any) -> dict[str, Any]:
    """The features that `datasets` has written into a file; {} where another library wrote it."""
    return json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features") or {}


def _conform(table: Any, schema: Any, name: str, source: Path, start: int) -> Any:
    """The table with the columns and types of `schema`, nothing else; Missing names the first row (from 0) that does not fit.

    Args:
        start: the number of the table's first row in its file.
    """
    import pyarrow as pa

    where, columns, noted = f"{name}/{source.name}", [], _noted_features(table.schema)
    for column, kind in DATA_SETS[name].features.items():
        if column in table.column_names:
            array = table[column].combine_chunks()
        elif column == "idx":
            array = pa.array(range(start, start + len(table)))
        elif column == "translation" and {"en", "id"} <= set(table.column_names):
            array = pa.StructArray.from_arrays([table[side].combine_chunks() for side in ("en", "id")], names=["en", "id"])
        else:
            raise Missing(f"{where} lacks the column '{column}': it has {', '.join(table.column_names)}")
        try:
            if column == "answers":
                array = pa.array([squad_answers(value) for value in array.to_pylist()], schema.field(column).type)
            elif names := kind.get("feature", kind).get("names"):
                own = noted.get(column, {})
                lowest = -1 if source.stem.startswith("test") else 0  # the Hub's rows without a label have -1
                array = _labels(array, names, own.get("feature", own).get("names"), lowest, f"{where}: '{column}'", start)
            columns.append(array.cast(schema.field(column).type))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, AttributeError, TypeError):
            raise Missing(f"{where}: '{column}' is {array.type}, but the Hub's is {schema.field(column).type}: convert it") from None
    result = pa.Table.from_arrays(columns, schema=schema)
    for flat in result.flatten().itercolumns():
        if flat.null_count:
            raise Missing(f"{where}: row {start + flat.is_null().index(True).as_py()} lacks a value: fill it or leave the row out")
    return result


def squad_answers(value: Any) -> dict[str, list]:
    """A row's answers as the Hub has them, {'text': [...], 'answer_start': [...]}, from any form that public files have.

    Two lists side by side; a list of {'text', 'answer_start'}; a single text with its start. No answer is written as empty lists, as
    null, as null lists, or as an empty text at -1. A start that is missing is -1. Raises TypeError or AttributeError for anything else.
    """
    value = value or {}
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        texts, starts = ([found] if isinstance(found, str | int) else found or [] for found in (texts, starts))
    else:
        texts, starts = ([one.get(key) for one in value] for key in ("text", "answer_start"))
    pairs = [(text or "", -1 if start is None else start) for text, start in itertools.zip_longest(texts, starts)]
    pairs = [(text, start) for text, start in pairs if text.strip() or start >= 0]
    return {"text": [text for text, _ in pairs], "answer_start": [start for _, start in pairs]}


def _labels(array: Any, names: list[str], own: list[str] | None, lowest: int, where: str, start: int) -> Any:
    """Class numbers in the Hub's order, whatever the file has: numbers, names, or numbers of names in an order of its own."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = array if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) else None
    if lists is not None:
        sizes = pc.list_value_length(lists).fill_null(0).cast(pa.int32())
        if len(lists) and pc.min(sizes).as_py() >= len(names):
            raise Missing(f"{where} has {len(names)} values in every row: write the numbers of its labels, not a 0 or 1 for each label")
        array = pc.list_flatten(lists)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if own and own != names and pa.types.is_integer(array.type):
        if 0 <= (pc.min(array).as_py() or 0) and (pc.max(array).as_py() or 0) < len(own):
            array = pa.array(own).take(array)
        else:  # -1, no label, stays
            place = {number: names.index(name) if name in names else len(names) for number, name in enumerate(own)}
            numbers = [number if number is None or number < 0 else place.get(number, len(names)) for number in array.to_pylist()]
            array = pa.array(numbers, pa.int64())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_binary(array.type):
        array = array.cast(pa.string())
        numbers, bad = pc.index_in(array, pa.array(names)), pc.and_(array.is_valid(), pc.invert(pc.is_in(array, pa.array(names))))
    else:
        numbers = (array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array).cast(pa.int64())
        bad = pc.or_(pc.less(numbers, lowest), pc.greater_equal(numbers, len(names)))
    if (place := bad.index(True).as_py()) >= 0:
        row = start + (place if lists is None else pc.list_parent_indices(lists)[place].as_py())
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        raise Missing(f"{where} of row {row} is {array[place].as_py()!r}: labels are {shown}, or their numbers from 0 to {len(names) - 1}")
    if lists is None:
        return numbers
    return pa.ListArray.from_arrays(pc.cumulative_sum(pa.concat_arrays([pa.array([0], pa.int32()), sizes])), numbers, mask=lists.is_null())
