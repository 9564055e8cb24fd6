import contextlib
import itertools
import json
import socket
import threading
import time
from collections import Counter

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset

from shared import data, runtime
from shared.data import choose_source, excerpt, fingerprint, hold_out, load_split, stratified_sizes, subsample
from shared.runtime import CourseError

NAMES = ["World", "Sports", "Business", "Sci/Tech"]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """Profile tiny, nothing else set, no network, and no remembered answer of the Hub."""
    for name in ("COURSE_DATA", "COURSE_TEXTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    forget = getattr(runtime._answers, "cache_clear", lambda: None)
    forget()
    yield
    forget()


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

    def write(split="train", **columns):
        path = tmp_path / "data" / "ag_news" / f"{split}.parquet"
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

    monkeypatch.setenv("COURSE_PROFILE", "small")
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
    assert (len(train), len(test)) == (120, 40)
    assert Counter(train["label"]) == dict.fromkeys(range(4), 30)
    assert Counter(test["label"]) == dict.fromkeys(range(4), 10)
    assert train.features == test.features == data.SPECS["ag_news"].features
    assert train.features["label"].names == NAMES
    assert train.column_names == ["text", "label"]
    texts = [*train["text"], *test["text"]]
    assert len(set(texts)) == 160
    assert len({data._ending(text, 60) for text in texts}) == 160


def test_bundled_split_ignores_the_chosen_source(folder):
    folder(text=["from the folder"], label=[0])
    rows = data.bundled_split("ag_news", "test")
    assert len(rows) == 40
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
        ("small", "", "hub"),
        ("full", "", "hub"),
        ("tiny", "hub", "hub"),
        ("full", "bundled", "bundled"),
        ("small", " bundled ", "bundled"),
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
        (["World", "Sports"], 0, "'World'"),
        ([0.5], 0, "0.5"),
    ],
)
def test_label_outside_the_classes_names_row_value_and_range(folder, labels, row, shown):
    folder(text=["a", "b", "c"][: len(labels)], label=labels)
    with pytest.raises(CourseError, match=rf"row {row} has label {shown}; labels run from 0 to 3 \(World, Sports, "):
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
    cut_off(monkeypatch, "full")
    message = r"cannot load fancyzhx/ag_news from the Hub \(no network\): check the connection, or set COURSE_DATA to"
    with pytest.raises(CourseError, match=message):
        load_split("ag_news", "train")
    assert "NOTE" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "wanted",
    ["hub", " hub "],
)
def test_asking_for_the_hub_without_network_never_falls_back(monkeypatch, wanted):
    cut_off(monkeypatch, "small")
    monkeypatch.setenv("COURSE_DATA", wanted)
    with pytest.raises(CourseError, match=r"\(no network\): check the connection"):
        load_split("ag_news", "train")


def test_a_split_that_is_not_bundled_has_nothing_to_fall_back_to(monkeypatch):
    cut_off(monkeypatch, "small")
    with pytest.raises(CourseError, match=r"\(no network\): check the connection.*ag_news/validation.parquet"):
        load_split("ag_news", "validation")


def test_small_without_network_takes_the_bundled_rows_and_says_so(monkeypatch, capsys):
    cut_off(monkeypatch, "small")
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
    for name in ("HF_HUB_OFFLINE", "http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(runtime, "HUB_TIMEOUT", timeout)


def test_nobody_waits_for_longer_than_ten_seconds():
    assert 0 < runtime.HUB_TIMEOUT <= 10


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
    monkeypatch.setenv("COURSE_PROFILE", "small")
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


# tokens


def test_encode_cuts_keeps_the_labels_and_drops_the_texts():
    def tokenizer(texts, truncation, max_length):
        assert truncation
        return {"input_ids": [[len(word) for word in text.split()][:max_length] for text in texts]}

    encoded = data.encode(described([3, 0], ["a bb ccc dddd", "ee"]), tokenizer, max_length=3)
    assert encoded.to_dict() == {"labels": [3, 0], "input_ids": [[1, 2, 3], [2]]}


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


def test_the_schema_names_the_classes_in_the_hubs_order():
    assert data.SPECS["ag_news"].features["label"] == ClassLabel(names=NAMES)
    assert data.SPECS["ag_news"].hub_id.count("/") == 1
