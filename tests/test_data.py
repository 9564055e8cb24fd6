import itertools
import json
from collections import Counter

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from transformers import AutoTokenizer

from shared import data
from shared.course.rows import DATA_SETS, EMOTIONS
from shared.course.runtime import CourseError
from shared.data import fingerprint, hold_out, stratified_sizes, subsample
from tests.test_heads import ENCODERS

NAMES = ["World", "Sports", "Business", "Sci/Tech"]


def described(labels, texts=None) -> Dataset:
    """Rows in ag_news's schema."""
    texts = texts or [f"story number {i}" for i in range(len(labels))]
    features = Features.from_dict(DATA_SETS["ag_news"].features)
    return Dataset.from_dict({"text": texts, "label": [int(k) for k in labels]}, features=features)


@pytest.fixture
def bundled(monkeypatch, tmp_path):
    """A function that writes a bundled split of ag_news from its raw text."""
    monkeypatch.setattr(data, "BUNDLED", tmp_path / "bundled")

    def write(text, split="train"):
        path = tmp_path / "bundled" / "ag_news" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf8")

    return write


# the bundled rows


def test_bundled_ag_news_has_balanced_unique_rows_in_the_hubs_schema():
    train, test = data.bundled_split("ag_news", "train"), data.bundled_split("ag_news", "test")
    assert (len(train), len(test)) == (120, 64)
    assert Counter(train["label"]) == dict.fromkeys(range(4), 30)
    assert Counter(test["label"]) == dict.fromkeys(range(4), 16)
    assert train.features == test.features == Features.from_dict(DATA_SETS["ag_news"].features)
    assert train.features["label"].names == NAMES
    assert train.column_names == ["text", "label"]
    texts = [*train["text"], *test["text"]]
    assert len(set(texts)) == 184
    assert len({data._ending(text, 60) for text in texts}) == 184


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
    return {name: {split: data.bundled_split(name, split) for split in splits} for name, splits in BUNDLED_SPLITS.items()}


def texts_of(row) -> tuple[str, ...]:
    """The natural language of a row, without its id and its article's title."""
    row = row.get("translation", row)
    return tuple(value for column, value in row.items() if isinstance(value, str) and column not in ("id", "title"))


@pytest.mark.parametrize("name", BUNDLED_SPLITS)
def test_bundled_splits_have_their_rows_in_the_hubs_schema_and_none_twice(all_bundled, name):
    splits, features = all_bundled[name], Features.from_dict(DATA_SETS[name].features)
    assert {split: len(rows) for split, rows in splits.items()} == BUNDLED_SPLITS[name]
    assert {path.stem for path in (data.BUNDLED / name).glob("*.jsonl")} == set(splits)
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
    for label, emotion in enumerate(EMOTIONS):
        assert counts["train"][label] >= 4, emotion
        assert sum(count[label] for count in counts.values()) >= 7, emotion
    ids = [one for rows in splits.values() for one in rows["id"]]
    assert len(set(ids)) == len(ids)
    per_row = [row for rows in splits.values() for row in rows["labels"]]
    assert all(len(set(row)) == len(row) for row in per_row)
    assert any(len(row) > 1 for row in per_row)


def test_bundled_split_ignores_the_chosen_source(monkeypatch):
    monkeypatch.setenv("COURSE_DATA", "/nowhere")
    assert len(data.bundled_split("ag_news", "test")) == 64


def test_bundled_rows_may_hold_a_unicode_line_separator(bundled):
    bundled(json.dumps({"text": "first\u2028second", "label": 1}, ensure_ascii=False) + "\n")
    assert data.bundled_split("ag_news", "train")["text"][0] == "first\u2028second"


def test_unknown_data_sets_and_splits_are_named():
    with pytest.raises(CourseError, match=r"unknown data set 'agnews': did you mean 'ag_news'\? known are ag_news"):
        data.bundled_split("agnews", "train")
    with pytest.raises(CourseError, match=r"unknown split of ag_news 'validation': known are test, train$"):
        data.bundled_split("ag_news", "validation")


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
    assert data.leave_out(rows, "title", "") is rows
    assert data.leave_out(rows, "title", "Raleigh,_North_Carolina; Tin;")["number"][:] == [2]
    with pytest.raises(CourseError, match=r"^no row has the title 'Carolina; Raleigh': names are separated by semicolons, and set\("):
        data.leave_out(rows, "title", "Raleigh; Tin; Carolina")


def test_hold_out_parts_the_rows_stratified():
    dataset = described(np.repeat([0, 1, 2, 3], [40, 30, 20, 10]))
    rest, held = hold_out(dataset, 10, seed=2, label="label")
    assert Counter(held["label"]) == {0: 4, 1: 3, 2: 2, 3: 1}
    assert set(rest["text"]).isdisjoint(held["text"])
    assert sorted([*rest["text"], *held["text"]]) == sorted(dataset["text"])
    assert len(rest) == 90
    assert rest.features == held.features == dataset.features


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
    held = [hold_out(dataset, 12, seed, "label")[1]["text"] for seed in (1, 1, 2)]
    assert held[0] == held[1] != held[2]


@pytest.mark.parametrize("n", [0, 4, 5, -1])
def test_hold_out_leaves_rows_on_both_sides(n):
    with pytest.raises(CourseError, match=rf"cannot hold out {n} of 4 rows: choose between 1 and 3"):
        hold_out(described([0, 1, 2, 3]), n, label="label")


def test_drop_overlap_finds_a_story_under_another_headline():
    story = "The central bank left its rate unchanged and said that prices should settle by the spring of next year."
    other = story.replace("spring", "autumn")
    train = described([2, 2, 0, 1], [f"BANK WAITS {story.upper()}", f"Bank waits. {other}", "short", "a goal"])
    test = described([2, 0], [f"No change (agency) -- {story} ", "short"])
    assert data.drop_overlap(train, test, "text")["text"] == [f"Bank waits. {other}", "short", "a goal"]
    assert data.drop_overlap(train, test, "text", tail=5)["text"] == ["a goal"]


def test_drop_reprints_finds_a_story_with_another_opening_and_end():
    story, other, third = (" ".join(f"{stem}{number}" for number in range(60)) for stem in ("word", "other", "third"))
    middle = " ".join(story.split()[10:40])
    quoted = f"{other} {' '.join(story.split()[:10])}"
    train = Dataset.from_dict({"text": [story.title(), f"New: {middle} {other}", quoted, third, "short"]})
    assert data.drop_reprints(train, [story], "text")["text"] == train["text"][2:]
    assert data.drop_reprints(train, [story], "text", share=0.01)["text"] == train["text"][3:]
    assert data.drop_reprints(train, ["Short!"], "text")["text"] == train["text"][:4]
    assert data.drop_reprints(train, [], "text")["text"] == train["text"][:]


def test_drop_overlap_says_where_most_texts_are_too_short_for_it(capsys):
    train = described([0, 1], ["Who wrote the first atlas?", "Where is the salt kept?"])
    test = described([0, 1, 1], ["Who wrote the first atlas?", "Where do the swifts sleep?", "a" * 80])
    assert len(data.drop_overlap(train, test, "text")) == 2
    assert "NOTE: 2 of 3 texts are shorter than 60 letters and never match: set a smaller tail" in capsys.readouterr().out
    assert len(data.drop_overlap(train, test, "text", tail=10)) == 1
    assert capsys.readouterr().out == ""


# tokens


@pytest.mark.parametrize("name", ENCODERS)
def test_cut_rows_are_those_that_the_whole_tokens_exceed_for_every_tokenizer(name):
    tokenizer = AutoTokenizer.from_pretrained(name)
    texts = ["the old bridge was closed for repairs", "the bridge is open", "a keeper saved the last penalty", "nobody saved it"]
    for sides in ((texts,), (texts, texts[::-1])):
        lengths = [len(tokenizer(*row)["input_ids"]) for row in zip(*sides, strict=True)]
        for max_length in (min(lengths) - 1, sorted(lengths)[1], max(lengths)):
            encoded = tokenizer(*sides, truncation=True, max_length=max_length)
            assert data.count_cut(encoded, max_length) == sum(length > max_length for length in lengths)


# provenance


def test_fingerprint_is_that_of_the_rows_and_nothing_else():
    one = described([0, 1], ["a", "b"])
    same = described([0, 1], ["a", "b"])
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


def test_the_schemas_name_the_classes_in_the_hubs_order():
    for name, names in (
        ("ag_news", NAMES), ("mnli", ["entailment", "neutral", "contradiction"]), ("nli_mix", ["entailment", "neutral", "contradiction"]),
        ("rte", ["entailment", "not_entailment"]), ("sst2", ["negative", "positive"]),
    ):  # fmt: skip
        assert Features.from_dict(DATA_SETS[name].features)["label"] == ClassLabel(names=names)
    labels = Features.from_dict(DATA_SETS["go_emotions"].features)["labels"].feature
    assert labels.names == EMOTIONS and len(EMOTIONS) == 28 and EMOTIONS[:27] == sorted(EMOTIONS[:27])
    assert [EMOTIONS[i] for i in (0, 15, 17, 26, 27)] == ["admiration", "gratitude", "joy", "surprise", "neutral"]


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
    assert data.without_spaces(iter(texts)) is found


def test_a_baseline_counts_characters_where_there_are_no_words_and_says_so(capsys):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    assert data.analyzer(ENGLISH) == "word" and capsys.readouterr().out == ""
    rows = [(f"今日{subject}：{verb}{end}", label) for label, subjects in enumerate((("股市", "银行", "利率"), ("球队", "冠军", "进球")))
            for subject in subjects for verb in ("上涨", "公布", "迎来") for end in ("了新的消息", "很大变化")]  # fmt: skip
    texts, labels = zip(*rows, strict=True)
    kind = data.analyzer(texts)
    assert kind == "char_wb" and capsys.readouterr().out.startswith("NOTE: most texts have no spaces between words, as in Chinese or Thai")
    counted = make_pipeline(TfidfVectorizer(analyzer=kind, ngram_range=(1, 2), min_df=2), LogisticRegression())
    assert counted.fit(texts[::2], labels[::2]).score(texts[1::2], labels[1::2]) == 1.0
    with pytest.raises(ValueError, match="no terms remain"):  # every sentence would be a word of its own
        TfidfVectorizer(min_df=2).fit([text.replace("：", "") for text in texts])
    assert data.analyzer(THAI) == "char_wb"
