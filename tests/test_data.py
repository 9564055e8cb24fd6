import contextlib
import itertools
import json
import os
import re
import socket
import threading
import time
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, Features
from transformers import DataCollatorWithPadding

from shared import data as shared_data
from shared.course import runtime, standin
from shared.course.rows import DATA_SETS
from shared.course.runtime import CourseError
from shared.legacy import data, models
from shared.legacy.data import choose_source, excerpt, fingerprint, hold_out, load_split, stratified_sizes, subsample

NAMES = ["World", "Sports", "Business", "Sci/Tech"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Profile tiny, nothing else set, no network, and no remembered answer of the Hub."""
    monkeypatch.setattr(data, "_first_rows", {})
    for name in ("COURSE_DATA", "COURSE_TEXTS", "COURSE_STANDIN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(standin, "_answered", set())


def described(labels, texts=None, source="folder", split="train") -> Dataset:
    """Rows in ag_news's schema, described as `load_split` describes them."""
    texts = texts or [f"story number {i}" for i in range(len(labels))]
    dataset = Dataset.from_dict(
        {"text": texts, "label": [int(k) for k in labels]}, features=data.SPECS["ag_news"].features
    )
    dataset.info.description = json.dumps({"name": "ag_news", "split": split, "source": source})
    return dataset


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A function that writes a split into the folder of COURSE_DATA."""
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))

    def write(split="train", name="ag_news", **columns):
        path = tmp_path / "data" / name / f"{split}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)
        return path

    return write


@pytest.fixture
def bundled(monkeypatch, tmp_path):
    """A function that writes a bundled split of ag_news from its raw text."""
    monkeypatch.setattr(data, "BUNDLED", tmp_path / "bundled")

    def write(text, split="train"):
        path = tmp_path / "bundled" / "ag_news" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")

    return write


@pytest.fixture
def hub(monkeypatch):
    """The Hub answers `load_dataset` with four rows; the list collects the calls."""
    calls = []

    def stand_in(*args, **kwargs):
        calls.append((args, kwargs))
        return described([0, 1, 2, 3], ["from", "the", "Hub", "here"])

    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    monkeypatch.setattr(data, "hub_reachable", lambda: True)
    monkeypatch.setattr(data, "load_dataset", stand_in)
    return calls


def cut_off(monkeypatch, profile: str):
    """This profile with no network: the Hub isn't reachable and its client finds nothing in its cache."""

    def nothing(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setattr(data, "profile", lambda: profile)
    monkeypatch.setattr(data, "hub_reachable", lambda: False)
    monkeypatch.setattr(data, "load_dataset", nothing)


# the bundled rows


def test_bundled_ag_news_has_balanced_unique_rows_in_the_hubs_schema():
    train, test = load_split("ag_news", "train"), load_split("ag_news", "test")
    assert (len(train), len(test)) == (120, 64)
    assert Counter(train["label"]) == dict.fromkeys(range(4), 30)
    assert Counter(test["label"]) == dict.fromkeys(range(4), 16)
    assert train.features == test.features == data.SPECS["ag_news"].features
    assert train.features["label"].names == NAMES
    assert train.column_names == ["text", "label"]
    texts = [*train["text"], *test["text"]]
    assert len(set(texts)) == 184
    assert len({shared_data._ending(text, 60) for text in texts}) == 184


BUNDLED_SPLITS = {
    "go_emotions": {"train": 180, "validation": 50, "test": 74},
    "mnli": {"train": 90, "validation_matched": 60, "validation_mismatched": 36},
    "rte": {"train": 56, "validation": 64},
    "xsum": {"train": 24, "validation": 8, "test": 60},
    "en_id": {"train": 80, "validation": 20, "test": 20},
    "sst2": {"train": 80, "validation": 64},
    "cnn_dailymail": {"train": 8, "validation": 4, "test": 60},
    "squad": {"train": 80, "validation": 64},
    "squad_v2": {"train": 106, "validation": 80},
}


def test_every_bundled_data_set_is_counted_here():
    assert {path.name for path in data.BUNDLED.iterdir() if path.is_dir()} == {"ag_news", *BUNDLED_SPLITS}


@pytest.fixture(scope="module")
def all_bundled():
    """{name: {split: rows}} of the data sets after ag_news, as a lesson gets the course's own rows."""
    return {name: {split: shared_data.bundled_split(name, split) for split in splits} for name, splits in BUNDLED_SPLITS.items()}


def texts_of(row) -> tuple[str, ...]:
    """The natural language of a row, without its id and its article's title."""
    row = row.get("translation", row)
    return tuple(value for column, value in row.items() if isinstance(value, str) and column not in ("id", "title"))


@pytest.mark.parametrize("name", BUNDLED_SPLITS)
def test_bundled_splits_have_their_rows_in_the_hubs_schema_and_none_twice(all_bundled, name):
    splits, features = all_bundled[name], Features.from_dict(DATA_SETS[name].features)
    assert {split: len(rows) for split, rows in splits.items()} == BUNDLED_SPLITS[name]
    assert {path.stem for path in (shared_data.BUNDLED / name).glob("*.jsonl")} == set(splits)
    texts = []
    for rows in splits.values():
        assert rows.features == Features({column: kind for column, kind in features.items() if column in rows.column_names})
        texts += map(texts_of, rows)
    assert len(set(texts)) == len(texts) == sum(BUNDLED_SPLITS[name].values())
    assert all(text.strip() for both in texts for text in both)
    assert all(len(set(both)) == len(both) for both in texts)


@pytest.mark.parametrize("name", ["mnli", "rte", "sst2"])
def test_bundled_labels_are_balanced_in_every_split(all_bundled, name):
    for rows in all_bundled[name].values():
        classes = len(rows.features["label"].names)
        assert Counter(rows["label"]) == dict.fromkeys(range(classes), len(rows) // classes)


@pytest.mark.parametrize("name", ["mnli", "rte"])
def test_bundled_pairs_share_no_first_text_between_splits(all_bundled, name):
    first = [{texts_of(row)[0] for row in rows} for rows in all_bundled[name].values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(first, 2))


@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_bundled_answers_stand_where_they_say_and_no_paragraph_is_in_two_splits(all_bundled, name):
    splits = all_bundled[name].values()
    for row in itertools.chain(*splits):
        answers = row["answers"]
        assert all(row["context"][at:].startswith(text) for text, at in zip(answers["text"], answers["answer_start"], strict=True))
    contexts = [set(rows["context"]) for rows in splits]
    assert contexts[0].isdisjoint(contexts[1])
    unanswerable = sum(not row["answers"]["text"] for row in itertools.chain(*splits))
    assert (len(contexts[0] | contexts[1]), unanswerable) == {"squad": (36, 0), "squad_v2": (30, 66)}[name]


def test_bundled_emotions_have_every_label_often_enough(all_bundled):
    splits = all_bundled["go_emotions"]
    counts = {split: Counter(label for row in rows["labels"] for label in row) for split, rows in splits.items()}
    for label, emotion in enumerate(data.EMOTIONS):
        assert counts["train"][label] >= 4, emotion
        assert sum(count[label] for count in counts.values()) >= 7, emotion
    ids = [one for rows in splits.values() for one in rows["id"]]
    assert len(set(ids)) == len(ids)
    per_row = [row for rows in splits.values() for row in rows["labels"]]
    assert all(len(set(row)) == len(row) for row in per_row)
    assert any(len(row) > 1 for row in per_row)


def test_bundled_split_ignores_the_chosen_source(folder):
    folder(text=["from the folder"], label=[0])
    rows = data.bundled_split("ag_news", "test")
    assert len(rows) == 64
    assert data.record(rows)["test"]["source"] == "bundled"


def test_bundled_rows_may_hold_a_unicode_line_separator(bundled):
    bundled(json.dumps({"text": "first\u2028second", "label": 1}, ensure_ascii=False) + "\n")
    assert load_split("ag_news", "train")["text"][0] == "first\u2028second"


def test_bundled_rows_cut_off_in_a_line(bundled):
    bundled('{"text": "whole", "label": 1}\n{"text": "ha')
    with pytest.raises(CourseError, match=r"cannot read ag_news/train.jsonl: .* damaged or cut off.*copy it again"):
        load_split("ag_news", "train")


def test_an_empty_bundled_file_is_called_empty(bundled):
    bundled("")
    with pytest.raises(CourseError, match=r"ag_news/train \(bundled\) is empty: give it at least one row"):
        load_split("ag_news", "train")


# choosing the source


@pytest.mark.parametrize(
    ("profile", "wanted", "expected"),
    [
        ("tiny", "", "bundled"),
        ("laptop", "", "hub"),
        ("colab", "", "hub"),
        ("paper", "", "hub"),
        ("tiny", "hub", "hub"),
        ("colab", "bundled", "bundled"),
        ("laptop", " bundled ", "bundled"),
    ],
)
def test_source_follows_the_variable_then_the_profile(monkeypatch, profile, wanted, expected):
    monkeypatch.setattr(data, "profile", lambda: profile)
    monkeypatch.setenv("COURSE_DATA", wanted)
    assert choose_source() == (expected, None)


def test_source_folder_may_be_relative_to_the_checkout(monkeypatch, tmp_path):
    (tmp_path / "checkout" / "mine").mkdir(parents=True)
    (tmp_path / "notebook").mkdir()
    monkeypatch.setattr(data, "ROOT", tmp_path / "checkout")
    monkeypatch.chdir(tmp_path / "notebook")
    monkeypatch.setenv("COURSE_DATA", "mine")
    assert choose_source() == ("folder", tmp_path / "checkout" / "mine")


def test_course_data_that_names_no_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "gone"))
    with pytest.raises(CourseError, match=r"COURSE_DATA=.*gone: no such folder; give a folder, 'hub' or 'bundled'"):
        load_split("ag_news", "train")


def test_unknown_data_set_suggests_the_nearest():
    with pytest.raises(CourseError, match=r"unknown data set 'agnews': did you mean 'ag_news'\? known are ag_news"):
        load_split("agnews", "train")


# a folder


def test_folder_rows_are_read_in_order_and_cast_to_the_schema(folder):
    folder(
        source=["x", "y", "z"],  # not in the schema
        label=pa.array([3, 0, 1], pa.int8()),
        text=pa.array(["chips", "war", "goal"], pa.large_string()),
    )
    rows = load_split("ag_news", "train")
    assert rows.to_dict() == {"text": ["chips", "war", "goal"], "label": [3, 0, 1]}
    assert rows.features == data.SPECS["ag_news"].features
    assert data.record(rows)["train"]["source"] == "folder"


def test_missing_split_names_those_there(folder):
    folder("test", text=["a"], label=[0])
    folder("train_extra", text=["a"], label=[0])
    message = r"has no split 'train': train.parquet is missing from data/ag_news; there are test, train_extra"
    with pytest.raises(CourseError, match=message):
        load_split("ag_news", "train")


def test_missing_data_set_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(CourseError, match=r"has no split 'train'.*the folder is missing or empty"):
        load_split("ag_news", "train")


def test_missing_column_names_those_there(folder):
    folder(text=["a"], category=[0])
    with pytest.raises(CourseError, match=r"ag_news/train \(folder\) lacks the column 'label': it has text, category"):
        load_split("ag_news", "train")


@pytest.mark.parametrize(
    ("labels", "row", "shown"),
    [
        ([0, 4], 1, "4"),
        ([-1, 0], 0, "-1"),
        ([0, 1, None], 2, "None"),
        ([0.5], 0, "0.5"),
        ([True, False], 0, "True"),
    ],
)
def test_label_outside_the_classes_names_row_value_and_range(folder, labels, row, shown):
    folder(text=["a", "b", "c"][: len(labels)], label=labels)
    with pytest.raises(CourseError, match=rf"row {row} has label {shown}; labels run from 0 to 3 \(World, Sports, "):
        load_split("ag_news", "train")


def test_label_names_are_taken_for_their_numbers(folder):
    folder(text=["a", "b", "c"], label=["Sports", "Sci/Tech", "World"])
    rows = load_split("ag_news", "train")
    assert rows["label"] == [1, 3, 0]
    assert rows.features == data.SPECS["ag_news"].features


@pytest.mark.parametrize(
    ("labels", "row", "message"),
    [
        (["World", "Sport"], 1, "unknown label 'Sport': did you mean 'Sports'? known are World, Sports, Business, Sci/Tech"),
        (["1"], 0, "unknown label '1': known are World, Sports, Business, Sci/Tech"),
    ],
)
def test_label_name_that_does_not_exist_names_its_row(folder, labels, row, message):
    folder(text=["a", "b"][: len(labels)], label=labels)
    with pytest.raises(CourseError, match=rf"^ag_news/train \(folder\): row {row}: {re.escape(message)}$"):
        load_split("ag_news", "train")


def test_empty_data(folder):
    folder(text=pa.array([], pa.string()), label=pa.array([], pa.int64()))
    with pytest.raises(CourseError, match=r"ag_news/train \(folder\) is empty: give it at least one row"):
        load_split("ag_news", "train")


@pytest.mark.parametrize("text", ["", " \n\t", None])
def test_row_without_text(folder, text):
    folder(text=["fine", text], label=[0, 1])
    with pytest.raises(CourseError, match=r"row 1 has an empty 'text'; remove the row or fill it"):
        load_split("ag_news", "train")


def test_pairs_are_read_from_a_folder_without_the_columns_that_are_not_in_the_schema(folder):
    folder(name="mnli", premise=["p", "q"], hypothesis=["h", "i"], label=[2, 0], idx=[7, 8], genre=["x", "y"])
    rows = load_split("mnli", "train")
    assert rows.to_dict() == {"premise": ["p", "q"], "hypothesis": ["h", "i"], "label": [2, 0]}
    assert rows.features == data.SPECS["mnli"].features


@pytest.mark.parametrize("column", ["sentence1", "sentence2"])
def test_a_pair_with_an_empty_side(folder, column):
    folder(name="rte", **({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "label": [0, 1]} | {column: ["fine", " "]}))
    with pytest.raises(CourseError, match=rf"rte/train \(folder\): row 1 has an empty '{column}'; remove the row or fill it"):
        load_split("rte", "train")


def test_rows_of_a_test_set_without_labels(folder):
    folder("test", name="rte", sentence1=["a"], sentence2=["b"], label=[-1])
    with pytest.raises(CourseError, match=r"row 0 has label -1; labels run from 0 to 1 \(entailment, not_entailment\)$"):
        load_split("rte", "test")


def write_emotions(folder, labels):
    n = len(labels)
    return folder(name="go_emotions", text=[f"text {i}" for i in range(n)], id=[str(i) for i in range(n)], labels=labels)


@pytest.mark.parametrize(
    "labels",
    [
        [[27], [0, 4], [15]],
        [["neutral"], ["admiration", "approval"], ["gratitude"]],
        pa.array([[27], [0, 4], [15]], pa.large_list(pa.int8())),
        pa.array([["neutral"], ["admiration", "approval"], ["gratitude"]], pa.large_list(pa.large_string())),
    ],
    ids=["numbers", "names", "large list of numbers", "large list of names"],
)
def test_lists_of_labels_are_read_from_a_folder(folder, labels):
    write_emotions(folder, labels)
    rows = load_split("go_emotions", "train")
    assert rows["labels"] == [[27], [0, 4], [15]]
    assert rows.features == data.SPECS["go_emotions"].features


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0], []], "row 1 has no label in 'labels'; remove the row or give it at least one"),
        ([[0], None], "row 1 has no label in 'labels'; remove the row or give it at least one"),
        ([[0, 28]], "row 0 has labels 28; labels run from 0 to 27 (admiration, amusement, anger, annoyance, …)"),
        ([[3], [3, -1]], "row 1 has labels -1; labels run from 0 to 27 (admiration, amusement, anger, annoyance, …)"),
        ([[3, None]], "row 0 has labels None; labels run from 0 to 27 (admiration, amusement, anger, annoyance, …)"),
        ([[0.0]], "row 0 has labels 0.0; labels run from 0 to 27 (admiration, amusement, anger, annoyance, …)"),
        ([["joy"], ["joy", "0"]], f"row 1: unknown label '0': known are {', '.join(data.EMOTIONS)}"),
        ([["gratitud"]], f"row 0: unknown label 'gratitud': did you mean 'gratitude'? known are {', '.join(data.EMOTIONS)}"),
    ],
)
def test_lists_of_labels_with_something_wrong_name_their_row(folder, labels, message):
    write_emotions(folder, labels)
    with pytest.raises(CourseError, match=rf"^go_emotions/train \(folder\): {re.escape(message)}$"):
        load_split("go_emotions", "train")


def test_one_number_where_a_list_of_labels_belongs(folder):
    write_emotions(folder, [3, 4])
    with pytest.raises(CourseError, match=r"^go_emotions/train \(folder\): row 0 has no list of labels in 'labels' but 3; write \[3\]$"):
        load_split("go_emotions", "train")


def test_load_split_of_a_multi_label_set_keeps_a_random_part_in_order(folder):
    write_emotions(folder, [[i % 28, (i + 1) % 28] for i in range(60)])
    rows, again, other = (load_split("go_emotions", "train", n=20, seed=seed) for seed in (1, 1, 2))
    numbers = [int(one) for one in rows["id"]]
    assert numbers == sorted(set(numbers))
    assert len(rows) == 20
    assert rows["labels"] == [[i % 28, (i + 1) % 28] for i in numbers]
    assert rows["id"] == again["id"] != other["id"]


@pytest.mark.parametrize("kept", [0.5, 0.0])
def test_truncated_parquet(folder, kept):
    path = folder(text=[f"row {i}" for i in range(5_000)], label=[i % 4 for i in range(5_000)])
    assert len(load_split("ag_news", "train")) == 5_000
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(CourseError, match=r"cannot read ag_news/train.parquet: .* damaged or cut off.*copy it again"):
        load_split("ag_news", "train")


def test_load_split_keeps_a_stratified_part(folder):
    folder(text=[f"row {i}" for i in range(40)], label=[i % 4 for i in range(40)])
    rows = load_split("ag_news", "train", n=8, seed=1)
    assert Counter(rows["label"]) == dict.fromkeys(range(4), 2)
    assert rows["text"] == load_split("ag_news", "train", n=8, seed=1)["text"]
    assert rows["text"] != load_split("ag_news", "train", n=8, seed=2)["text"]


# the Hub


def test_hub_is_asked_for_the_namespaced_id_and_the_split(hub):
    rows = load_split("ag_news", "test")
    assert hub == [(("fancyzhx/ag_news", None), {"split": "test"})]
    assert rows["text"] == ["from", "the", "Hub", "here"]
    assert data.record(rows)["test"]["source"] == "hub: fancyzhx/ag_news"


@pytest.mark.parametrize(
    ("name", "split", "hub_id", "config"),
    [
        ("go_emotions", "train", "google-research-datasets/go_emotions", "simplified"),
        ("mnli", "validation_mismatched", "nyu-mll/glue", "mnli"),
        ("rte", "validation", "nyu-mll/glue", "rte"),
        ("sst2", "validation", "nyu-mll/glue", "sst2"),
    ],
)
def test_hub_is_asked_for_the_configuration(hub, monkeypatch, name, split, hub_id, config):
    rows, asked = data.bundled_split(name, split), []

    def stand_in(*args, **kwargs):
        asked.append((args, kwargs))
        return rows.add_column("idx", list(range(len(rows))))  # GLUE has a column more than the course uses

    monkeypatch.setattr(data, "load_dataset", stand_in)
    found = load_split(name, split)
    assert asked == [((hub_id, config), {"split": split})]
    assert found.to_dict() == rows.to_dict()
    assert data.record(found)[split]["source"] == f"hub: {hub_id}"


@pytest.mark.parametrize("wanted", ["", "hub"])
def test_a_data_set_that_the_hub_lacks_asks_for_a_folder(hub, monkeypatch, wanted):
    monkeypatch.setenv("COURSE_DATA", wanted)
    with pytest.raises(CourseError, match=r"^the Hub has no nli_mix: set COURSE_DATA to a folder with nli_mix/train.parquet$"):
        load_split("nli_mix", "train")
    assert hub == []


def test_a_data_set_that_the_hub_lacks_is_read_from_a_folder(folder):
    folder(name="nli_mix", premise=["p"], hypothesis=["h"], label=["contradiction"])
    assert load_split("nli_mix", "train").to_dict() == {"premise": ["p"], "hypothesis": ["h"], "label": [2]}


def test_hub_rows_are_checked_too(hub, monkeypatch):
    monkeypatch.setattr(data, "load_dataset", lambda *_, **__: Dataset.from_dict({"text": ["a"], "label": [7]}))
    with pytest.raises(CourseError, match=r"ag_news/train \(hub: fancyzhx/ag_news\): row 0 has label 7"):
        load_split("ag_news", "train")


def test_without_network_the_hubs_cache_still_serves(hub, monkeypatch):
    monkeypatch.setattr(data, "hub_reachable", lambda: False)
    rows = load_split("ag_news", "test")
    assert rows["text"] == ["from", "the", "Hub", "here"]
    assert data.record(rows)["test"]["source"] == "hub: fancyzhx/ag_news"


def test_full_without_network_is_an_error_and_never_falls_back(monkeypatch, capsys):
    cut_off(monkeypatch, "colab")
    message = r"cannot load fancyzhx/ag_news from the Hub \(no network\): check the connection, or set COURSE_DATA to"
    with pytest.raises(CourseError, match=message):
        load_split("ag_news", "train")
    assert "NOTE" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "wanted",
    ["hub", " hub "],
)
def test_asking_for_the_hub_without_network_never_falls_back(monkeypatch, wanted):
    cut_off(monkeypatch, "laptop")
    monkeypatch.setenv("COURSE_DATA", wanted)
    with pytest.raises(CourseError, match=r"\(no network\): check the connection"):
        load_split("ag_news", "train")


def test_a_split_that_is_not_bundled_has_nothing_to_fall_back_to(monkeypatch):
    cut_off(monkeypatch, "laptop")
    with pytest.raises(CourseError, match=r"\(no network\): check the connection.*ag_news/validation.parquet"):
        load_split("ag_news", "validation")


def test_small_without_network_takes_the_bundled_rows_and_says_so(monkeypatch, capsys):
    cut_off(monkeypatch, "laptop")
    rows = load_split("ag_news", "train")
    assert rows.to_dict() == data.bundled_split("ag_news", "train").to_dict()
    note = "NOTE: the Hub gave no fancyzhx/ag_news (no network); using the course's bundled train rows"
    assert note in capsys.readouterr().out
    assert data.record(rows)["train"]["source"] == "bundled (fallback, no network)"
    assert data.is_bundled(rows)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such data set\nmore"), "ValueError: no such data set"),
        (TimeoutError(), "TimeoutError"),
    ],
)
def test_fallback_from_a_hub_that_refuses_records_its_reason(hub, monkeypatch, capsys, error, reason):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(data, "load_dataset", refuse)
    source = data.record(load_split("ag_news", "train"))["train"]["source"]
    assert source.startswith(f"bundled (fallback, {reason}")
    assert f"({reason}" in capsys.readouterr().out


def test_rows_of_the_hub_are_not_mixed_with_bundled_ones(hub, monkeypatch, capsys):
    """The network goes between the training rows and the test rows."""
    load_split("ag_news", "train")

    def gone(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(data, "load_dataset", gone)
    for name in ("ag_news", "rte"):  # nor with those of another data set
        message = r"^the Hub gave fancyzhx/ag_news but no train rows of .*\(ConnectionError: no route to host\)"
        with pytest.raises(CourseError, match=message):
            load_split(name, "train")
    assert "NOTE" not in capsys.readouterr().out


def test_once_given_up_the_hub_is_not_asked_for_the_other_splits(hub, monkeypatch):
    answer, asked = data.load_dataset, []

    def refuse(*args, **kwargs):
        asked.append(args)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(data, "load_dataset", refuse)
    train = load_split("ag_news", "train")
    monkeypatch.setattr(data, "load_dataset", answer)  # the network is back, but the training rows are bundled ones
    test = load_split("ag_news", "test")
    assert len(asked) == 1 and hub == []
    assert {part["source"] for part in data.record(train, test).values()} == {"bundled (fallback, ConnectionError: no route to host)"}
    monkeypatch.setenv("COURSE_DATA", "hub")  # the reader insists
    assert data.record(load_split("ag_news", "test"))["test"]["source"] == "hub: fancyzhx/ag_news"


@pytest.mark.parametrize("error", [pa.ArrowInvalid("Expected 392 bytes"), OSError("Expected to read"), json.JSONDecodeError("x", "", 0)])
def test_a_damaged_copy_in_the_cache_is_fetched_again_and_said(hub, monkeypatch, capsys, error):
    answer, modes = data.load_dataset, []

    def damaged(*args, download_mode="as it lies there", **kwargs):
        modes.append(download_mode)
        if download_mode != "force_redownload":
            raise error
        return answer(*args, **kwargs)

    monkeypatch.setattr(data, "load_dataset", damaged)
    assert data.record(load_split("ag_news", "train"))["train"]["source"] == "hub: fancyzhx/ag_news"
    assert modes == ["as it lies there", "force_redownload"]
    assert capsys.readouterr().out == f"NOTE: the cached copy of fancyzhx/ag_news is damaged ({type(error).__name__}); fetching it again.\n"


def test_a_damaged_copy_without_network_is_an_error_with_the_cure(hub, monkeypatch, capsys):
    def damaged(*args, **kwargs):
        raise pa.ArrowInvalid("Expected 392 bytes")

    monkeypatch.setattr(data, "hub_reachable", lambda: False)
    monkeypatch.setattr(data, "load_dataset", damaged)
    message = r"^the cached copy of fancyzhx/ag_news is damaged \(ArrowInvalid\) and being offline does not mend it: delete .*___ag_news "
    with pytest.raises(CourseError, match=message):
        load_split("ag_news", "train")
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(data, "hub_reachable", lambda: True)  # what cannot be mended by fetching it is not passed over either
    with pytest.raises(CourseError, match="and fetching it again does not mend it: delete"):
        load_split("ag_news", "train")


def local_server(answer: bytes = b"", pause: float = 0.0) -> str:
    """The address of a local server that accepts, sends `answer` a byte at a time, and then says nothing more."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]

    def serve():
        with listener, contextlib.suppress(OSError):
            connection, _ = listener.accept()
            with connection:
                for byte in answer:
                    connection.send(bytes([byte]))
                    time.sleep(pause)
                while connection.recv(1024):  # until the client hangs up
                    pass

    threading.Thread(target=serve, daemon=True).start()
    return f"http://127.0.0.1:{port}"


def online(monkeypatch, endpoint: str, timeout: float):
    for name in (*standin.OFFLINE, "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(standin, "HUB_TIMEOUT", timeout)


def test_nobody_waits_for_longer_than_ten_seconds():
    assert 0 < standin.HUB_TIMEOUT <= 10


def test_hub_that_never_answers_is_not_reachable(monkeypatch):
    online(monkeypatch, local_server(), 0.3)
    started = time.perf_counter()
    assert runtime.hub_reachable() is False
    assert 0.2 < time.perf_counter() - started < 10


def test_hub_that_answers_a_byte_at_a_time_is_given_up_in_time(monkeypatch):
    online(monkeypatch, local_server(b"HTTP/1.1 200 OK\r\nSlow: ", pause=0.1), 0.3)
    started = time.perf_counter()
    assert runtime.hub_reachable() is False
    assert time.perf_counter() - started < 1.5


def test_hub_that_refuses_the_connection_is_not_reachable(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    online(monkeypatch, f"http://127.0.0.1:{port}", 5.0)
    assert runtime.hub_reachable() is False


@pytest.mark.parametrize(
    ("status", "expected"), [("200 OK", True), ("401 Unauthorized", True), ("503 Unavailable", False)]
)
def test_hub_that_answers_is_reachable_unless_it_is_broken(monkeypatch, status, expected):
    online(monkeypatch, local_server(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()), 5.0)
    assert runtime.hub_reachable() is expected


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_hub_is_not_asked_when_set_offline(monkeypatch, value):
    online(monkeypatch, local_server(), 8.0)
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    started = time.perf_counter()
    assert runtime.hub_reachable() is False
    assert time.perf_counter() - started < 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/missing.pem"),
        ("ALL_PROXY", "socks5://127.0.0.1:9"),  # the package for SOCKS is not installed with the client
        ("https_proxy", "http://[::1"),
        ("NO_PROXY", "localhost,::1,[::1]"),
    ],
)
def test_a_proxy_or_certificate_that_is_set_wrongly_is_named_by_the_old_loaders_too(monkeypatch, name, value):
    online(monkeypatch, "http://127.0.0.1:9", 0.5)
    for variable in [variable for variable in os.environ if variable.upper() in standin.NETWORK]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    monkeypatch.setenv(name, value)
    if name == "NO_PROXY":
        try:
            standin._client().close()
        except Exception:  # the older client's
            pass
        else:
            pytest.skip("newer clients understand it")
    line = rf"(?i)^{name} cannot be used \(.*\): correct or unset it$"
    with pytest.raises(CourseError, match=line):
        load_split("ag_news", "train")
    with pytest.raises(CourseError, match=line):
        models.fetched(lambda place, local_files_only: None, None, "google-bert/bert-base-uncased", "choose model=minilm")


def test_without_network_the_hub_client_does_not_try_again_and_again(monkeypatch, tmp_path):
    """Five retries of the client, with its pauses, would add half a minute (and more where packets are dropped)."""
    import huggingface_hub.constants

    looked_up = []

    def no_network(host, *args, **kwargs):
        looked_up.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    online(monkeypatch, "https://huggingface.co", 5.0)
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    rows = load_split("ag_news", "train")
    assert data.record(rows)["train"]["source"] == "bundled (fallback, no network)"
    assert len(looked_up) <= 1


# subsamples


def brute_force_sizes_are_fair(labels: np.ndarray, sizes: dict[int, int], n: int) -> bool:
    """Every class present has its exact share, rounded down or up."""
    shares = {k: sum(1 for label in labels if label == k) * n / len(labels) for k in set(labels.tolist())}
    return set(shares) == set(sizes) and all(abs(sizes[k] - shares[k]) < 1 for k in shares)


def random_labels(rng) -> np.ndarray:
    classes = int(rng.integers(1, 8))
    weights = rng.dirichlet(np.full(classes, 0.5))
    return rng.choice(classes, size=int(rng.integers(2, 200)), p=weights)


def test_stratified_sizes_sum_to_n_and_keep_the_shares():
    rng = np.random.default_rng(0)
    for _ in range(500):
        labels = random_labels(rng)
        n = int(rng.integers(1, len(labels) + 1))
        sizes = stratified_sizes(labels, n)
        assert sum(sizes.values()) == n
        assert brute_force_sizes_are_fair(labels, sizes, n)
        assert all(0 <= size <= np.sum(labels == k) for k, size in sizes.items())


def test_stratified_sizes_gives_the_spare_rows_to_the_largest_remainders():
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    assert stratified_sizes(labels, 7) == {0: 4, 1: 2, 2: 1}  # exact shares 3.5, 2.1, 1.4


def test_subsample_is_stratified_ordered_and_without_repeats():
    rng = np.random.default_rng(1)
    for seed in range(40):
        labels = random_labels(rng) % 4
        dataset = described(labels)
        n = int(rng.integers(1, len(labels)))
        kept = subsample(dataset, n, seed, "label")
        order = [int(text.split()[-1]) for text in kept["text"]]
        assert len(kept) == n
        assert all(a < b for a, b in itertools.pairwise(order))
        assert kept["label"] == labels[order].tolist()
        counts = {int(k): kept["label"].count(k) for k in np.unique(labels)}
        assert brute_force_sizes_are_fair(labels, counts, n)


def test_subsample_repeats_with_its_seed_and_changes_with_another():
    dataset = described(np.arange(80) % 4)
    first, again, other = (subsample(dataset, 20, seed, "label")["text"] for seed in (3, 3, 4))
    assert first == again != other


def test_subsample_without_a_label_draws_from_everywhere():
    dataset = described(np.zeros(100))
    drawn = [set(subsample(dataset, 10, seed)["text"]) for seed in range(200)]
    assert all(len(texts) == 10 for texts in drawn)
    assert len(set.union(*drawn)) == 100


@pytest.mark.parametrize("n", [None, 4, 5, 10_000])
def test_subsample_of_all_rows_or_more_is_everything(n):
    dataset = described([0, 1, 2, 3])
    assert subsample(dataset, n, 0, "label")["text"] == dataset["text"]


@pytest.mark.parametrize("n", [0, -1])
def test_subsample_of_no_rows_is_refused(n):
    with pytest.raises(CourseError, match=rf"cannot keep {n} rows: ask for at least one"):
        subsample(described([0, 1]), n, 0, "label")


# splitting and joining


def test_leave_out_takes_titles_with_commas_and_names_one_that_is_not_there():
    rows = Dataset.from_dict({"title": ["Raleigh,_North_Carolina", "Tin", "Istanbul", "Tin"], "number": [0, 1, 2, 3]})
    assert shared_data.leave_out(rows, "title", "") is rows
    assert shared_data.leave_out(rows, "title", "Raleigh,_North_Carolina; Tin;")["number"][:] == [2]
    with pytest.raises(CourseError, match=r"^no row has the title 'Carolina; Raleigh': names are separated by semicolons, and set\("):
        shared_data.leave_out(rows, "title", "Raleigh; Tin; Carolina")


def test_hold_out_parts_the_rows_stratified_and_says_so():
    dataset = described(np.repeat([0, 1, 2, 3], [40, 30, 20, 10]))
    rest, held = hold_out(dataset, 10, seed=2)
    assert Counter(held["label"]) == {0: 4, 1: 3, 2: 2, 3: 1}
    assert set(rest["text"]).isdisjoint(held["text"])
    assert sorted([*rest["text"], *held["text"]]) == sorted(dataset["text"])
    assert len(rest) == 90
    assert rest.features == held.features == dataset.features
    assert list(data.record(rest, held)) == ["train", "validation"]
    assert data.record(rest)["train"]["source"] == data.record(dataset)["train"]["source"] == "folder"
    assert data.record(held)["validation"]["source"] == "folder, held out of train"


def test_hold_out_gives_the_held_out_rows_the_name_it_is_told():
    rest, held = hold_out(described([0, 1, 2, 3] * 5), 8, name="test")
    assert {split: part["rows"] for split, part in data.record(rest, held).items()} == {"train": 12, "test": 8}
    assert data.record(held)["test"]["source"] == "folder, held out of train"


def test_hold_out_of_a_multi_label_set_parts_the_rows():
    whole = data.bundled_split("go_emotions", "train")
    rest, held = hold_out(whole, 30, seed=1)
    assert (len(rest), len(held)) == (150, 30)
    assert sorted([*rest["id"], *held["id"]]) == sorted(whole["id"])
    assert rest.features == held.features == whole.features
    again, other = (hold_out(whole, 30, seed)[1]["id"] for seed in (1, 2))
    assert held["id"] == again != other


def test_hold_out_of_groups_parts_no_group():
    whole = data.bundled_split("squad", "train")
    rest, held = hold_out(whole, 10, seed=3, group="context")
    assert not set(rest["context"]) & set(held["context"])
    assert sorted([*rest["id"], *held["id"]]) == sorted(whole["id"])
    largest = max(list(whole["context"]).count(context) for context in set(whole["context"]))
    assert 10 <= len(held) < 10 + largest
    assert list(held["id"]) == [name for name in whole["id"] if name in set(held["id"])]  # the data's order is kept
    again, other = (hold_out(whole, 10, seed, group="context")[1]["id"] for seed in (3, 4))
    assert held["id"] == again != other


def test_hold_out_of_a_single_group_would_leave_nothing():
    whole = data.bundled_split("squad", "train")
    one = whole.select(np.flatnonzero(np.asarray(whole["context"]) == whole[0]["context"]))
    with pytest.raises(CourseError, match=r"all rows have the same context: nothing would be left to train on; hold rows out without"):
        hold_out(one, 1, group="context")


def test_hold_out_repeats_with_its_seed():
    dataset = described(np.arange(60) % 4)
    held = [hold_out(dataset, 12, seed)[1]["text"] for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]


@pytest.mark.parametrize("n", [0, 4, 5, -1])
def test_hold_out_leaves_rows_on_both_sides(n):
    with pytest.raises(CourseError, match=rf"cannot hold out {n} of 4 rows: choose between 1 and 3"):
        hold_out(described([0, 1, 2, 3]), n)


def test_join_puts_the_rows_one_after_another():
    whole = data.join(described([0, 1], ["a", "b"]), described([2], ["c"], split="train_extra"))
    assert whole.to_dict() == {"text": ["a", "b", "c"], "label": [0, 1, 2]}
    assert list(data.record(whole)) == ["train"]


def test_drop_overlap_finds_a_story_under_another_headline():
    story = "The central bank left its rate unchanged and said that prices should settle by the spring of next year."
    other = story.replace("spring", "autumn")
    train = described([2, 2, 0, 1], [f"BANK WAITS {story.upper()}", f"Bank waits. {other}", "short", "a goal"])
    test = described([2, 0], [f"No change (agency) -- {story} ", "short"], split="test")
    assert data.drop_overlap(train, test)["text"] == [f"Bank waits. {other}", "short", "a goal"]
    assert data.drop_overlap(train, test, tail=5)["text"] == ["a goal"]


def test_drop_reprints_finds_a_story_with_another_opening_and_end():
    story, other, third = (" ".join(f"{stem}{number}" for number in range(60)) for stem in ("word", "other", "third"))
    middle = " ".join(story.split()[10:40])
    quoted = f"{other} {' '.join(story.split()[:10])}"
    train = Dataset.from_dict({"text": [story.title(), f"New: {middle} {other}", quoted, third, "short"]})
    assert shared_data.drop_reprints(train, [story], "text")["text"] == train["text"][2:]
    assert shared_data.drop_reprints(train, [story], "text", share=0.01)["text"] == train["text"][3:]
    assert shared_data.drop_reprints(train, ["Short!"], "text")["text"] == train["text"][:4]
    assert shared_data.drop_reprints(train, [], "text")["text"] == train["text"][:]


def test_drop_overlap_says_where_most_texts_are_too_short_for_it(capsys):
    train = described([0, 1], ["Who wrote the first atlas?", "Where is the salt kept?"])
    test = described([0, 1, 1], ["Who wrote the first atlas?", "Where do the swifts sleep?", "a" * 80], split="test")
    assert len(data.drop_overlap(train, test)) == 2
    assert "NOTE: 2 of 3 texts are shorter than 60 letters and never match: set a smaller tail" in capsys.readouterr().out
    assert len(data.drop_overlap(train, test, tail=10)) == 1
    assert capsys.readouterr().out == ""


# tokens


TEXTS = ["the old bridge was closed for repairs", "the bridge is open", "a keeper saved the last penalty", "nobody saved it"]


@pytest.fixture(scope="module")
def tokenizer():
    """A tiny BERT tokenizer that knows the words of TEXTS."""
    return models.tiny_tokenizer(models.ENCODERS["bert"], TEXTS)


def pairs(first, second, labels, name="rte", split="train") -> Dataset:
    spec = data.SPECS[name]
    columns = dict(zip(spec.texts, (first, second), strict=True))
    dataset = Dataset.from_dict(columns | {"label": labels}, features=spec.features)
    dataset.info.description = json.dumps({"name": name, "split": split, "source": "folder"})
    return dataset


def emotions(texts, labels) -> Dataset:
    rows = {"text": texts, "labels": labels, "id": [str(i) for i in range(len(texts))]}
    dataset = Dataset.from_dict(rows, features=data.SPECS["go_emotions"].features)
    dataset.info.description = json.dumps({"name": "go_emotions", "split": "train", "source": "folder"})
    return dataset


def test_encode_cuts_keeps_the_labels_and_drops_the_texts(tokenizer):
    encoded = data.encode(described([3, 0], [TEXTS[0], TEXTS[1]]), tokenizer, max_length=6)
    whole = [tokenizer(text)["input_ids"] for text in TEXTS[:2]]
    assert encoded["labels"] == [3, 0]
    assert encoded["input_ids"] == [[*whole[0][:5], tokenizer.sep_token_id], whole[1]]
    assert encoded["attention_mask"] == [[1] * 6, [1] * 6]
    assert set(encoded.column_names) == {"labels", "input_ids", "token_type_ids", "attention_mask"}


def test_encode_counts_the_rows_it_cuts_and_says_so(tokenizer, capsys):
    dataset = described([0, 1, 2, 3], TEXTS, split="validation")
    lengths = [len(tokenizer(text)["input_ids"]) for text in TEXTS]
    for max_length in (max(lengths), max(lengths) - 1, min(lengths), min(lengths) - 1):
        expected = sum(length > max_length for length in lengths)
        assert data.cut_rows(data.encode(dataset, tokenizer, max_length)) == expected
        line = f"validation: {expected} of 4 rows were longer than {max_length} tokens and lost their right end\n"
        assert capsys.readouterr().out == (line if expected else "")


@pytest.mark.parametrize(("length", "cure"), [(0, "leaves no token: raise it"), (65, "is more than the model's 64 positions: lower it")])
def test_encode_refuses_a_length_that_the_model_has_no_positions_for(tokenizer, monkeypatch, length, cure):
    monkeypatch.setattr(tokenizer, "model_max_length", 64)
    rows = data.bundled_split("ag_news", "train")
    with pytest.raises(CourseError, match=rf"^max_length {length} {re.escape(cure)}$"):
        data.encode(rows, tokenizer, length)


def test_encode_keeps_what_the_rows_are(tokenizer):
    dataset = described([0, 1, 2, 3], TEXTS, split="test", source="bundled")
    encoded = data.encode(dataset, tokenizer, 4)
    assert data.cut_rows(encoded.select([0, 2])) == 4  # of the whole split, whatever is taken of it
    assert list(data.record(encoded)) == ["test"]
    assert data.is_bundled(encoded)


@pytest.mark.parametrize("name", ["bert", "roberta", "xlnet", "deberta", "modernbert", "mpnet"])  # the others have BERT's
def test_cut_rows_are_those_that_the_whole_tokens_exceed_for_every_tokenizer(name):
    tokenizer = models.tiny_tokenizer(models.ENCODERS[name], TEXTS)
    dataset = pairs(TEXTS, TEXTS[::-1], [0, 1, 0, 1])
    for columns in (None, ("sentence1",)):
        sides = [dataset[column] for column in columns or ("sentence1", "sentence2")]
        lengths = [len(tokenizer(*texts)["input_ids"]) for texts in zip(*sides, strict=True)]
        for max_length in (min(lengths) - 1, sorted(lengths)[1], max(lengths)):
            encoded = data.encode(dataset, tokenizer, max_length, columns)
            assert data.cut_rows(encoded) == sum(length > max_length for length in lengths)
            assert [len(ids) for ids in encoded["input_ids"]] == [min(length, max_length) for length in lengths]


def test_encode_puts_a_pair_between_its_special_tokens(tokenizer):
    encoded = data.encode(pairs(TEXTS[:2], TEXTS[2:], [1, 0]), tokenizer, max_length=64)
    bare = [[tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS[k : k + 2]] for k in (0, 2)]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    for row, (first, second) in enumerate(zip(*bare, strict=True)):
        assert encoded["input_ids"][row] == [cls, *first, sep, *second, sep]
        assert encoded["token_type_ids"][row] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert encoded["labels"] == [1, 0]


@pytest.mark.parametrize(
    ("columns", "sides"),
    [(("sentence1",), (0,)), (("sentence2",), (1,)), (("sentence2", "sentence1"), (1, 0))],
)
def test_encode_takes_the_columns_it_is_told(tokenizer, columns, sides):
    texts = (TEXTS[:2], TEXTS[2:])
    encoded = data.encode(pairs(*texts, [1, 0]), tokenizer, 64, columns=columns)
    assert encoded["input_ids"] == tokenizer(*(texts[side] for side in sides))["input_ids"]
    assert encoded["labels"] == [1, 0]
    assert not {"sentence1", "sentence2"} & set(encoded.column_names)


def test_of_a_pair_the_longer_side_is_cut(tokenizer):
    short, long = tokenizer(TEXTS[1], add_special_tokens=False)["input_ids"], " ".join([TEXTS[0]] * 5)
    for first, second in ((TEXTS[1], long), (long, TEXTS[1])):
        ids = data.encode(pairs([first], [second], [0]), tokenizer, max_length=16)["input_ids"][0]
        assert len(ids) == 16
        sides = " ".join(map(str, ids[1:-1])).split(f" {tokenizer.sep_token_id} ")
        assert " ".join(map(str, short)) in sides


def test_encode_gives_each_multi_label_row_floats_for_the_binary_cross_entropy(tokenizer):
    encoded = data.encode(emotions(TEXTS, [[27], [0, 4], [15], [4, 0, 26]]), tokenizer, 64)
    assert set(encoded.column_names) == {"labels", "input_ids", "token_type_ids", "attention_mask"}
    assert [np.flatnonzero(row).tolist() for row in encoded["labels"]] == [[27], [0, 4], [15], [0, 4, 26]]
    assert {value for row in encoded["labels"] for value in row} == {0, 1}
    batch = DataCollatorWithPadding(tokenizer)([encoded[i] for i in range(4)])
    assert (batch["labels"].dtype, tuple(batch["labels"].shape)) == (torch.float32, (4, 28))
    logits = torch.zeros(4, 28)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, batch["labels"])
    assert float(loss) == pytest.approx(np.log(2))


def test_encode_of_a_data_set_without_labels_has_none(tokenizer, monkeypatch):
    spec = data.DatasetSpec("x/y", data.Features({"text": data.Value("string")}), ("text",))
    monkeypatch.setitem(data.SPECS, "plain", spec)
    rows = Dataset.from_dict({"text": TEXTS})
    rows.info.description = json.dumps({"name": "plain", "split": "train", "source": "folder"})
    encoded = data.encode(rows, tokenizer, 64)
    assert encoded["input_ids"] == tokenizer(TEXTS)["input_ids"]
    assert "labels" not in encoded.column_names


def test_multi_hot_agrees_with_a_loop():
    rng = np.random.default_rng(0)
    for _ in range(30):
        classes, rows = int(rng.integers(1, 9)), int(rng.integers(1, 20))
        labels = [rng.choice(classes, int(rng.integers(0, classes + 1)), replace=False).tolist() for _ in range(rows)]
        matrix = data.multi_hot(labels, classes)
        assert (matrix.shape, matrix.dtype) == ((rows, classes), np.float32)
        assert matrix.tolist() == [[float(k in row) for k in range(classes)] for row in labels]


def test_multi_hot_of_a_label_named_twice_and_of_rows_without_any():
    assert data.multi_hot([[1, 1], []], 3).tolist() == [[0, 1, 0], [0, 0, 0]]
    assert data.multi_hot([], 3).shape == (0, 3)


# provenance


def test_fingerprint_is_that_of_the_rows_and_nothing_else():
    one = described([0, 1], ["a", "b"])
    same = described([0, 1], ["a", "b"], source="bundled", split="test")
    assert fingerprint(one) == fingerprint(same)
    assert fingerprint(one) == fingerprint(one.select_columns(["label", "text"]))
    assert fingerprint(one) == fingerprint(described([0, 1, 2], ["a", "b", "c"]).select([0, 1]))
    assert len(fingerprint(one)) == 16
    assert int(fingerprint(one), 16) >= 0


@pytest.mark.parametrize(
    ("labels", "texts"),
    [([0, 1], "aB"), ([0, 2], "ab"), ([1, 0], "ba"), ([0], "a"), ([0, 1, 1], "abb")],
    ids=["one character", "one label", "order", "fewer rows", "more rows"],
)
def test_fingerprint_changes_with_the_rows(labels, texts):
    assert fingerprint(described(labels, list(texts))) != fingerprint(described([0, 1], ["a", "b"]))


def test_record_has_source_rows_and_fingerprint_of_each_split():
    train, test = described([0, 1], source="hub: x/y"), described([2], source="bundled", split="test")
    assert data.record(train, test) == {
        "train": {"source": "hub: x/y", "rows": 2, "fingerprint": fingerprint(train)},
        "test": {"source": "bundled", "rows": 1, "fingerprint": fingerprint(test)},
    }


# showing texts


@pytest.mark.parametrize("source", ["folder", "hub: fancyzhx/ag_news", "folder, held out of train"])
def test_excerpt_withholds_other_peoples_texts(monkeypatch, source):
    rows = described([0, 1], ["public", "somebody else's"], source=source)
    assert excerpt(rows, 1) == "somebody else's"
    monkeypatch.setenv("COURSE_TEXTS", "withhold")
    assert excerpt(rows, 1) == "[text withheld: row 1 of ag_news/train]"


@pytest.mark.parametrize("source", ["bundled", "bundled (fallback, no network)", "bundled, held out of train"])
def test_excerpt_always_shows_the_courses_own_rows(monkeypatch, source):
    monkeypatch.setenv("COURSE_TEXTS", "withhold")
    assert excerpt(described([0], ["ours to show"], source=source), 0) == "ours to show"


def test_excerpt_is_cut_to_its_width_on_one_line():
    rows = described([0, 1], ["one  two\nthree", "exactly ten"])
    assert excerpt(rows, 0) == "one two three"
    assert excerpt(rows, 0, width=8) == "one two…"
    assert excerpt(rows, 1, width=11) == "exactly ten"
    assert excerpt(rows, 1, column="text", width=10) == "exactly t…"


@pytest.mark.parametrize(
    ("name", "multi_label", "names", "texts"),
    [
        ("ag_news", False, NAMES, ("text",)),
        ("mnli", False, ["entailment", "neutral", "contradiction"], ("premise", "hypothesis")),
        ("nli_mix", False, ["entailment", "neutral", "contradiction"], ("premise", "hypothesis")),
        ("rte", False, ["entailment", "not_entailment"], ("sentence1", "sentence2")),
    ],
)
def test_schemas_of_the_single_label_data_sets(name, multi_label, names, texts):
    spec = data.SPECS[name]
    assert (spec.multi_label, spec.names, spec.texts, spec.label) == (multi_label, names, texts, "label")
    assert set(texts) < set(spec.features)


def test_schema_of_the_emotions_has_28_labels_with_neutral_at_the_end():
    spec = data.SPECS["go_emotions"]
    assert (spec.multi_label, spec.label, spec.texts) == (True, "labels", ("text",))
    assert len(spec.names) == 28
    assert spec.names[:27] == sorted(spec.names[:27])
    assert [spec.names[i] for i in (0, 15, 17, 26, 27)] == ["admiration", "gratitude", "joy", "surprise", "neutral"]


def test_a_data_set_without_labels_is_not_multi_label():
    assert not data.DatasetSpec("x/y", data.Features({"text": data.Value("string")}), ("text",)).multi_label


def test_the_schema_names_the_classes_in_the_hubs_order():
    assert data.SPECS["ag_news"].features["label"] == ClassLabel(names=NAMES)
    assert data.SPECS["ag_news"].hub_id.count("/") == 1


# translation pairs, and a reader's own CSV


def test_translations_become_a_column_a_language(folder):
    folder(name="en_id", translation=[{"en": "Yes.", "id": "Ya."}, {"en": "No.", "id": "Tidak."}])
    pairs = load_split("en_id", "train")
    assert pairs.column_names == ["en", "id"]
    assert pairs[1] == {"en": "No.", "id": "Tidak."}


def test_pairs_may_have_their_columns_already(folder):
    folder(name="en_id", id=["Ya."], en=["Yes."], source=["somewhere"])
    assert load_split("en_id", "train")[0] == {"en": "Yes.", "id": "Ya."}


def test_the_hubs_feature_for_translations_is_taken_apart_and_gaps_are_dropped_and_counted(monkeypatch, capsys):
    rows = [{"en": "Yes.", "id": "Ya."}, {"en": "No.", "id": " "}, {"en": None, "id": "Siapa?"}, {"en": "Who?", "id": "Siapa?"}]
    features = datasets.Features({"translation": datasets.Translation(languages=["en", "id"])})
    monkeypatch.setenv("COURSE_PROFILE", "laptop")
    monkeypatch.setattr(data, "hub_reachable", lambda: True)
    monkeypatch.setattr(data, "load_dataset", lambda *args, **kwargs: Dataset.from_list([{"translation": row} for row in rows], features))
    pairs = load_split("en_id", "train")
    assert list(pairs["en"]) == ["Yes.", "Who?"]
    assert pairs.features == data.SPECS["en_id"].features
    assert "train: dropped 2 of 4 rows of Helsinki-NLP/opus-100 that lack a text" in capsys.readouterr().out


def test_a_gap_in_a_folder_is_an_error_since_the_reader_can_mend_it(folder):
    folder(name="en_id", translation=[{"en": "Yes.", "id": "Ya."}, {"en": "No.", "id": ""}])
    with pytest.raises(CourseError, match=r"^en_id/train \(folder\): row 1 has an empty 'id'; remove the row or fill it$"):
        load_split("en_id", "train")


@pytest.fixture
def written(tmp_path):
    """A function that writes my.csv from bytes, or from a text in UTF-8."""

    def write(content):
        file = tmp_path / "my.csv"
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf8"))
        return file

    return write


def test_csv_is_read_whatever_the_order_of_its_columns_its_quotes_and_its_line_ends(written):
    file = written('\ufeffid, source ,en\r\n"Ya, ""benar"".",web,"Yes,\nright."\r\n\r\n Tidak. ,web,No.\r\n')
    assert data.read_csv(file, ("en", "id")) == [{"en": "Yes,\nright.", "id": 'Ya, "benar".'}, {"en": "No.", "id": "Tidak."}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("en,indonesian\nYes,Ya\n", r"^my.csv lacks the column 'id': its first line has en, indonesian$"),
        ("", r"^my.csv lacks the column 'en': its first line has nothing$"),
        ("en;id\nYes;Ya\n", r"^my.csv: its cells are parted by ';'; save it with commas$"),
        ("en\tid\nYes\tYa\n", r"^my.csv: its cells are parted by '\\t'; save it with commas$"),
        ("en,id\nYes,Ya\nNo,\n", r"^my.csv, line 3: 'id' is empty; fill it or remove the line$"),
        ("en,id\n  ,Ya\n", r"^my.csv, line 2: 'en' is empty; fill it or remove the line$"),
        ("en,id\nYes,Ya\nNo\n", r"^my.csv, line 3 ends after 1 of 2 cells: one side is missing; write it or remove the line$"),
        ("en,id\nNo, thanks,Tidak\n", r"^my.csv, line 2 has 3 cells for 2 columns: put a text with a comma in double quotes$"),
        ('en,id\n"Yes,Ya\nNo,Tidak\n', r"^my.csv, line 3: unexpected end of data; a double quote inside .* every quote must be closed$"),
        ("en,id\nCafé,Kafe\n".encode("latin-1"), r"^my.csv is not UTF-8 \(byte 0xe9 in line 2\): save it as 'CSV UTF-8'$"),
        ("en,id\nYes,Ya\n".encode("utf-16"), r"^my.csv is UTF-16 or no text at all: save it as 'CSV UTF-8'$"),
        ("en,id\nYes,Ya\n".encode("utf-16-le"), r"^my.csv is UTF-16 or no text at all: save it as 'CSV UTF-8'$"),
    ],
)
def test_csv_with_something_wrong_names_its_line(written, content, message):
    with pytest.raises(CourseError, match=message):
        data.read_csv(written(content), ("en", "id"))


def test_csv_splits_share_no_source_and_lose_no_row(written):
    file = written("en,id\n" + "".join(f"sentence {k % 40},kalimat {k}\n" for k in range(60)))
    parts = data.csv_splits(file, seed=3)
    assert sum(map(len, parts)) == 60
    assert all(len(part) >= 6 for part in parts[1:])
    sources = [set(part["en"]) for part in parts]
    assert not (sources[0] & sources[1] or sources[0] & sources[2] or sources[1] & sources[2])
    recorded = data.record(*parts)
    assert list(recorded) == ["train", "validation", "test"]
    assert {part["source"].split(",")[0] for part in recorded.values()} == {"file my.csv"}
    assert data.record(*data.csv_splits(file, seed=3)) == recorded != data.record(*data.csv_splits(file, seed=4))


def test_csv_that_is_not_there_or_too_short(written, monkeypatch, tmp_path):
    with pytest.raises(CourseError, match=r"^nowhere.csv: no such file; give the path of a CSV file with the columns en,id$"):
        data.csv_splits("nowhere.csv")
    with pytest.raises(CourseError, match=r"^my.csv has 1 rows: training, validation and test rows need at least 10 together$"):
        data.csv_splits(written("en,id\nYes,Ya\n"))
    written("en,id\n" + "".join(f"sentence {k},kalimat {k}\n" for k in range(12)))
    monkeypatch.setattr(data, "ROOT", tmp_path)  # a notebook runs in its own folder; a path may be relative to the checkout
    assert sum(map(len, data.csv_splits("my.csv"))) == 12


def test_texts_of_a_csv_are_withheld_from_what_gets_published(written, monkeypatch):
    file = written("en,id\n" + "".join(f"sentence {k},kalimat {k}\n" for k in range(12)))
    monkeypatch.setenv("COURSE_TEXTS", "withhold")
    assert excerpt(data.csv_splits(file)[2], 0, "en") == "[text withheld: row 0 of en_id/test]"


# texts without spaces between their words


CHINESE = [
    "央行下调利率，股市大涨。", "主队在加时赛中赢得冠军。", "科学家在火星上发现了水。", "总统会见了邻国的外长。",
    "公司第三季度的利润翻了一番。", "新手机的电池可以用两天。",
]  # fmt: skip
THAI = ["ธนาคารกลางลดอัตราดอกเบี้ย หุ้นพุ่งแรง", "ทีมเหย้าคว้าแชมป์ในช่วงต่อเวลาพิเศษ", "นักวิทยาศาสตร์พบน้ำบนดาวอังคาร", "ประธานาธิบดีพบรัฐมนตรีต่างประเทศ"]
JAPANESE = ["中央銀行が金利を引き下げ、株価が上がった。", "ホームチームが延長戦で優勝した。"]
KOREAN = ["중앙은행이 금리를 내리자 주가가 크게 올랐다.", "홈팀이 연장전에서 우승을 차지했다."]
ENGLISH = ["Central bank cuts rates, shares soar.", "Yes.", "Donaudampfschifffahrtsgesellschaftskapitän wins in extra time", ""]


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (CHINESE, True), (THAI, True), (JAPANESE, True), (KOREAN, False), (ENGLISH, False), ([], False), (["", " "], False),
        (["Veltrona (威创) doubles its profit", "Shares of 威创 rise"], False),  # a name in another script
        (["x" * 30] * 4 + ENGLISH, True), ([*CHINESE, *ENGLISH], True), ([*CHINESE[:2], *ENGLISH], False),
    ],
)  # fmt: skip
def test_texts_without_spaces_are_told_apart(texts, found):
    assert shared_data.without_spaces(iter(texts)) is found


def test_a_baseline_counts_characters_where_there_are_no_words_and_says_so(capsys):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    assert shared_data.analyzer(ENGLISH) == "word" and capsys.readouterr().out == ""
    rows = [(f"今日{subject}：{verb}{end}", label) for label, subjects in enumerate((("股市", "银行", "利率"), ("球队", "冠军", "进球")))
            for subject in subjects for verb in ("上涨", "公布", "迎来") for end in ("了新的消息", "很大变化")]  # fmt: skip
    texts, labels = zip(*rows, strict=True)
    kind = shared_data.analyzer(texts)
    assert kind == "char_wb" and capsys.readouterr().out.startswith("NOTE: most texts have no spaces between words, as in Chinese or Thai")
    counted = make_pipeline(TfidfVectorizer(analyzer=kind, ngram_range=(1, 2), min_df=2), LogisticRegression())
    assert counted.fit(texts[::2], labels[::2]).score(texts[1::2], labels[1::2]) == 1.0
    with pytest.raises(ValueError, match="no terms remain"):  # every sentence would be a word of its own
        TfidfVectorizer(min_df=2).fit([text.replace("：", "") for text in texts])
    assert shared_data.analyzer(THAI) == "char_wb"
