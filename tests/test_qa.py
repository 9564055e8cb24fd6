import copy
import json
import math
import tracemalloc

import numpy as np
import pytest
import torch
import transformers
from datasets import Dataset, Features, List, Value
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel

from shared import data as data_rooms
from shared import metrics, qa
from shared.course import twins
from shared.course.rows import squad_answers
from shared.course.runtime import CourseError

SQUAD = Features(
    {name: Value("string") for name in ("id", "title", "context", "question")}
    | {"answers": {"text": List(Value("string")), "answer_start": List(Value("int32"))}}
)
PLAIN = ["the", "bridge", "was", "closed", "in", "1987,", "Zürich", "“quoted”", "co-op", "don't", "river.", "and", "an", "old", "keeper"]
ODD = ["é", "e\u0301", "cafe\u0301", "😀", "😀😀", "👩‍👩‍👧", "가나", "ﬁ", "½", "a\u0301\u0323b", "東京都", "x😀y", "—", "[SEP]", "\u200b"]
GAPS = [" ", " ", " ", " ", "  ", "\n", "\u00a0", " \t "]
IDS = {
    "bert": "google-bert/bert-base-uncased", "roberta": "FacebookAI/roberta-base", "xlnet": "xlnet/xlnet-base-cased",
    "deberta": "microsoft/deberta-base", "modernbert": "answerdotai/ModernBERT-base", "mpnet": "sentence-transformers/all-mpnet-base-v2",
}  # fmt: skip
KINDS = ["bert", "roberta", "xlnet"]  # CLS first and one separator, two separators, CLS last and padding on the left


def random_text(rng, words: int, odd: float = 0.3) -> str:
    """Words with gaps between them and perhaps around them."""
    text = rng.choice(["", "", "", " ", "\n "])
    for _ in range(words):
        text += str(rng.choice(ODD if rng.random() < odd else PLAIN)) + str(rng.choice(GAPS))
    return text if rng.random() < 0.3 else text.rstrip()


def random_rows(rng, n: int, unanswerable: float = 0.2) -> list[dict]:
    """SQuAD rows: contexts of 0 to 40 words, several questions on some, answers anywhere, at the edges, several or none."""
    rows, context = [], ""
    for number in range(n):
        if not rows or rng.random() < 0.6:
            context = random_text(rng, int(rng.integers(0, 40)))
        spans = []
        for _ in range(int(rng.integers(1, 4))):
            a, b = sorted(rng.integers(0, len(context) + 1, 2).tolist())
            b = min(b, a + int(rng.integers(1, 60)))
            a, b = {0: (0, b), 1: (a, len(context))}.get(int(rng.integers(0, 8)), (a, b))
            if any(letter.isascii() and letter.isalnum() for letter in context[a:b]):
                spans.append((a, context[a:b]))
        if rng.random() < unanswerable:
            spans = []
        answers = {"text": [text for _, text in spans], "answer_start": [a for a, _ in spans]}
        question = " " * int(rng.integers(0, 3)) + random_text(rng, int(rng.integers(1, 6)), 0.1)
        rows.append({"id": f"q{number}", "title": "t", "context": context, "question": question, "answers": answers})
    return rows


def dataset(rows: list[dict]) -> Dataset:
    return Dataset.from_list(rows, features=SQUAD)


def row(context="The old bridge was closed in 1987.", question="When was it closed?", text="1987", start=None, name="q0") -> dict:
    answers = {"text": [], "answer_start": []}
    if text is not None:
        answers = {"text": [text], "answer_start": [context.find(text) if start is None else start]}
    return {"id": name, "title": "t", "context": context, "question": question, "answers": answers}


def bundled(name: str, split: str) -> list[dict]:
    lines = (data_rooms.BUNDLED / name / f"{split}.jsonl").read_text(encoding="utf8").split("\n")
    return [json.loads(line) for line in lines if line]


@pytest.fixture(scope="module")
def tokenizers():
    """A tiny tokenizer of every kind, trained on the bundled texts and the odd words."""
    texts = sorted({row[column] for row in bundled("squad", "train") for column in ("context", "question")})
    texts += [" ".join(ODD + PLAIN)] * 20
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twins, "bundled_texts", lambda: texts)
        return {name: twins._tokenizer(twins.TWINS[model_id]) for name, model_id in IDS.items()}


@pytest.fixture(params=KINDS)
def tokenizer(request, tokenizers):
    return tokenizers[request.param]


# the oracle: the library's own windows, and plain loops over them


def library_windows(rows: list[dict], tokenizer, max_length: int, stride: int) -> list[dict]:
    """The library's windows, each with its row, its inputs, and (start, end) characters of the context tokens by position."""
    batch = tokenizer(
        [row["question"].lstrip() for row in rows], [row["context"] for row in rows], truncation="only_second", max_length=max_length,
        stride=stride, return_overflowing_tokens=True, return_offsets_mapping=True,
    )
    made, nth = [], {}
    for w, r in enumerate(batch["overflow_to_sample_mapping"]):
        inputs = {name: batch[name][w] for name in ("input_ids", "token_type_ids", "attention_mask") if name in batch}
        offsets = {}
        for position, side in enumerate(batch.sequence_ids(w)):
            if side == 1:
                offsets[position] = batch["offset_mapping"][w][position]
        cls = inputs["input_ids"].index(tokenizer.cls_token_id)
        if tokenizer.cls_token_id == inputs["input_ids"][-1]:
            cls = len(inputs["input_ids"]) - 1
        nth[r] = nth.get(r, -1) + 1
        made.append({"row": r, "nth": nth[r], "inputs": inputs, "offsets": offsets, "cls": cls})
    return made


def shared(context: str, a: int, b: int, left: int, right: int) -> bool:
    """Whether the characters a to b and left to right have one in common that is not whitespace."""
    return bool(context[max(a, left) : min(b, right)].strip()) if max(a, left) < min(b, right) else False


def stripped(context: str, a: int, b: int) -> tuple[int, int] | None:
    """The characters a to b without whitespace at the edges, None if nothing is left."""
    inner = [at for at in range(a, b) if not context[at].isspace()]
    return (inner[0], inner[-1] + 1) if inner else None


def answer_positions(window: dict, row: dict, tokens_in_all: int) -> tuple[int, int]:
    """Of the tokens that share a letter with the first answer the first and the last, if the window has all of them."""
    if not row["answers"]["text"]:
        return window["cls"], window["cls"]
    left = row["answers"]["answer_start"][0]
    right = left + len(row["answers"]["text"][0])
    touched = [position for position, (a, b) in window["offsets"].items() if shared(row["context"], a, b, left, right)]
    return (touched[0], touched[-1]) if len(touched) == tokens_in_all else (window["cls"], window["cls"])


def touched_by_answer(rows: list[dict], tokenizer) -> list[int]:
    """How many tokens of the whole context share a letter with each row's first answer."""
    counts = []
    for row, whole in zip(rows, library_windows(rows, tokenizer, 100_000, 0), strict=True):
        for text, left in zip(row["answers"]["text"][:1], row["answers"]["answer_start"][:1], strict=True):
            counts.append(sum(shared(row["context"], a, b, left, left + len(text)) for a, b in whole["offsets"].values()))
        if not row["answers"]["text"]:
            counts.append(0)
    return counts


def spans_by_loops(rows, windows, start_logits, end_logits, n_best, longest) -> list[dict]:
    """The nested loop over the n best starts and ends of every window."""
    found = [{"null": math.inf, "spans": {}} for _ in rows]
    for window, start, end in zip(windows, start_logits, end_logits, strict=True):
        size, mine, pairs = len(window["inputs"]["input_ids"]), found[window["row"]], []
        start, end = [float(x) for x in start[:size]], [float(x) for x in end[:size]]
        mine["null"] = min(mine["null"], start[window["cls"]] + end[window["cls"]])
        for a in sorted(range(size), key=lambda i: (-start[i], i))[:n_best]:
            for b in sorted(range(size), key=lambda i: (-end[i], i))[:n_best]:
                if a not in window["offsets"] or b not in window["offsets"] or b < a or b - a + 1 > longest:
                    continue
                pairs.append((start[a] + end[b], a, b))
        pairs.sort(reverse=True)
        for score, a, b in pairs:
            span = stripped(rows[window["row"]]["context"], window["offsets"][a][0], window["offsets"][b][1])
            if span and (len(pairs) <= n_best or score >= pairs[n_best - 1][0]):
                mine["spans"][span] = max(score, mine["spans"].get(span, -math.inf))
    for mine in found:
        mine["spans"] = sorted(((s, a, b) for (a, b), s in mine["spans"].items()), key=lambda span: (-span[0], *span[1:]))[:n_best]
    return found


def positions_of(trained: Dataset) -> list[tuple[int, int]]:
    return list(zip(trained["start_positions"][:], trained["end_positions"][:], strict=True))


def found_again(rows: list[dict], tokenizer, max_length: int, stride: int) -> list[tuple[int, str]]:
    """(row, text by the offsets of start and end position) of every window that has the answer."""
    trained = positions_of(qa.train_features(dataset(rows), tokenizer, max_length, stride, unanswerable=True))
    made, found = qa.eval_features(dataset(rows), tokenizer, max_length, stride), []
    for w, (a, b) in enumerate(trained):
        if a != made.cls[w]:
            left, right = (x[made.token[w] + at - made.first[w]] for x, at in ((made.start, a), (made.end, b)))
            found.append((int(made.row[w]), rows[made.row[w]]["context"][left:right]))
    return found


def random_settings(rng, rows, tokenizer) -> tuple[int, int]:
    """A window length in which every question has some room, and a stride that leaves progress."""
    asked = max(len(tokenizer(row["question"].lstrip(), add_special_tokens=False)["input_ids"]) for row in rows)
    room = int(rng.integers(2, 40))
    return asked + room + tokenizer.num_special_tokens_to_add(pair=True), int(rng.integers(0, room))


def random_logits(rng, windows, kind: str):
    """Start and end logits for the library's windows: floats or a few whole numbers (ties), padded with -100 or as lists."""
    lengths = [len(window["inputs"]["input_ids"]) for window in windows]
    made = []
    for _ in range(2):
        draw = (lambda n: rng.integers(-2, 3, n)) if "ties" in kind else (lambda n: rng.normal(0, 4, n))
        each = [draw(n).astype(np.float32) for n in lengths]
        if "list" not in kind:
            matrix = np.full((len(each), max(lengths) + 3), -100, np.float32)
            for line, values in zip(matrix, each, strict=True):
                line[: len(values)] = values
                line[len(values) : len(values) + int(rng.integers(0, 3))] = 99  # logits of padding: must not win
            each = matrix
        made.append(each)
    return made


# windows


@pytest.mark.parametrize("name", IDS)
def test_windows_and_positions_equal_the_librarys_and_plain_loops(tokenizers, name):
    tokenizer, rng = tokenizers[name], np.random.default_rng(1)
    split_answers = 0
    for _ in range(3):
        rows = random_rows(rng, 40)
        max_length, stride = random_settings(rng, rows, tokenizer)
        expected = library_windows(rows, tokenizer, max_length, stride)
        made = qa.eval_features(dataset(rows), tokenizer, max_length, stride)
        trained = qa.train_features(dataset(rows), tokenizer, max_length, stride, unanswerable=True)
        assert made.row.tolist() == [window["row"] for window in expected]
        for column in expected[0]["inputs"]:
            assert made.inputs[column][:] == trained[column][:] == [window["inputs"][column] for window in expected]
        assert set(trained.column_names) == {*expected[0]["inputs"], "start_positions", "end_positions"}
        in_all, hits, labels = touched_by_answer(rows, tokenizer), [0] * len(rows), positions_of(trained)
        for w, window in enumerate(expected):
            r = window["row"]
            positions = answer_positions(window, rows[r], in_all[r])
            assert labels[w] == positions
            hits[r] += positions[0] != window["cls"]
            own = slice(made.token[w], made.token[w] + made.size[w])
            found = zip(range(made.first[w], made.first[w] + made.size[w]), made.start[own], made.end[own], strict=True)
            offsets = {position: stripped(rows[r]["context"], *pair) for position, pair in window["offsets"].items()}
            assert {p: (a, b) if a < b else None for p, a, b in found} == offsets
            assert (made.cls[w], made.length[w]) == (window["cls"], len(window["inputs"]["input_ids"]))
        split_answers += sum(not hit for hit, n in zip(hits, in_all, strict=True) if n)
    assert split_answers  # some answers are cut by every window


def test_an_answer_inside_a_window_is_found_again_by_the_offsets(tokenizer):
    """Whole words are, to the letter; `test_windows_and_positions…` has answers that end inside a token."""
    rng, rows = np.random.default_rng(2), []
    for number in range(120):
        words = rng.choice([*PLAIN, "😀", "é", "東京都"], int(rng.integers(5, 40))).tolist()
        first = int(rng.integers(0, len(words)))
        last = int(rng.integers(first, min(first + 6, len(words))))
        gap = "  " if number % 3 else " "
        before, text = gap.join([*words[:first], ""]), gap.join(words[first : last + 1])
        rows.append(row(before + text + gap.join(["", *words[last + 1 :]]), text=text, start=len(before), name=f"q{number}"))
    max_length, stride = random_settings(rng, rows, tokenizer)
    found = found_again(rows, tokenizer, max_length, stride)
    assert len(found) > 60
    assert all(text == rows[r]["answers"]["text"][0] for r, text in found)


@pytest.mark.parametrize("name", ["squad", "squad_v2"])
def test_bundled_answers_are_found_again_in_at_least_one_window(tokenizer, name):
    rows = bundled(name, "train") + bundled(name, "validation")
    found = found_again(rows, tokenizer, 96, 32)
    assert {r for r, _ in found} == {r for r, row in enumerate(rows) if row["answers"]["text"]}
    for r, text in found:
        answer = rows[r]["answers"]["text"][0]
        assert answer in text
        assert len(text) < len(answer) + 4  # XLNet's tiny tokenizer has pieces such as "1987,"


def test_positions_equal_the_usual_tutorial_loop_on_plain_text(tokenizers):
    tokenizer, rows = tokenizers["bert"], bundled("squad", "train")
    trained = positions_of(qa.train_features(dataset(rows), tokenizer, 80, 20))
    batch = tokenizer(
        [row["question"] for row in rows], [row["context"] for row in rows], truncation="only_second", max_length=80, stride=20,
        return_overflowing_tokens=True, return_offsets_mapping=True,
    )
    for w, r in enumerate(batch["overflow_to_sample_mapping"]):
        offsets, sides, answers = batch["offset_mapping"][w], batch.sequence_ids(w), rows[r]["answers"]
        start_char, end_char = answers["answer_start"][0], answers["answer_start"][0] + len(answers["text"][0])
        first, last = sides.index(1), len(sides) - 1 - sides[::-1].index(1)
        if offsets[first][0] > start_char or offsets[last][1] < end_char:
            first = last = 0
        else:
            while first < len(offsets) and offsets[first][0] <= start_char:
                first += 1
            while offsets[last][1] >= end_char:
                last -= 1
            first, last = first - 1, last + 1
        assert trained[w] == (first, last)


def test_several_answers_the_first_is_the_training_answer(tokenizers):
    many = row() | {"answers": {"text": ["bridge", "The old bridge"], "answer_start": [8, 0]}}
    assert found_again([many], tokenizers["bert"], 64, 8) == [(0, "bridge")]


def test_an_empty_context_is_one_window_without_context_tokens_and_yields_no_span(tokenizer):
    rows = [row("", text=None), row("A full context."), row(" \n", text=None)]
    rows[1]["answers"] = {"text": [], "answer_start": []}
    made = qa.eval_features(dataset(rows), tokenizer, 64, 8)
    trained = qa.train_features(dataset(rows), tokenizer, 64, 8, unanswerable=True)
    assert made.row.tolist() == [0, 1, 2]
    assert made.size[0] == 0
    assert trained["start_positions"][:] == trained["end_positions"][:] == made.cls.tolist()
    logits = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    answers = qa.decode_spans(made, logits, logits)
    assert answers.texts[0] == answers.texts[2] == ""
    assert answers.n_best(0) == [] and answers.null_odds[0] == math.inf
    alone = qa.eval_features(dataset(rows[:1]), tokenizer, 64, 8)
    assert qa.decode_spans(alone, logits[:1], logits[:1]).texts == [""]


def test_inputs_have_the_compact_types_and_depend_on_nothing_but_the_rows_given(tokenizers):
    rows = dataset(bundled("squad", "train"))
    made = qa.eval_features(rows, tokenizers["bert"], 96, 32).inputs
    kinds = {"input_ids": "int32", "token_type_ids": "int8", "attention_mask": "int8"}
    assert made.features == Features({name: List(Value(kind)) for name, kind in kinds.items()})
    picked = qa.eval_features(rows.select([7, 3]), tokenizers["bert"], 96, 32)
    alone = [qa.eval_features(rows.select([i]), tokenizers["bert"], 96, 32).inputs["input_ids"][:] for i in (7, 3)]
    assert picked.inputs["input_ids"][:] == alone[0] + alone[1]


def test_a_batch_of_map_gives_the_same_columns_as_the_whole_data_set(tokenizer):
    rows = dataset(bundled("squad", "train"))
    settings = {"tokenizer": tokenizer, "max_length": 96, "stride": 32}
    mapped = rows.map(qa.train_features, batched=True, batch_size=7, fn_kwargs=settings, remove_columns=rows.column_names)
    assert mapped.to_dict() == qa.train_features(rows, **settings).to_dict()


@pytest.mark.parametrize("characters", [1, 900, 3_000])
def test_texts_are_tokenised_in_parts_of_which_nothing_is_seen(tokenizer, monkeypatch, characters):
    rows = dataset(random_rows(np.random.default_rng(5), 30))
    max_length, stride = 60, 10
    whole = qa.eval_features(rows, tokenizer, max_length, stride)
    learned = qa.train_features(rows, tokenizer, max_length, stride, unanswerable=True)
    monkeypatch.setattr(qa, "CHARACTERS", characters)
    assert len(list(qa._batches(rows["context"][:]))) > 1
    parts = qa.eval_features(rows, tokenizer, max_length, stride)
    for name in ("row", "length", "cls", "first", "size", "token", "start", "end"):
        assert getattr(parts, name).tolist() == getattr(whole, name).tolist()
    assert qa.train_features(rows, tokenizer, max_length, stride, unanswerable=True).to_dict() == learned.to_dict()


def test_long_contracts_take_memory_in_proportion_to_their_text(tokenizers, monkeypatch):
    """A contract forty times as long as nine others, which have many questions."""
    monkeypatch.setattr(qa, "CHARACTERS", 50_000)
    clause = "The old keeper was closed in an old river and the bridge don't co-op. "
    contracts = [f"{number} " + clause * (800 if number == 0 else 20) for number in range(10)]
    rows = dataset([row(contracts[number and 1 + number % 9], text="old keeper", name=f"q{number}") for number in range(120)])
    characters = sum(map(len, rows["context"]))
    tracemalloc.start()
    try:
        sound = qa.sound_rows(rows)
        windows = qa.eval_features(sound, tokenizers["bert"], 384, 128)
        parts = data_rooms.hold_out(sound, 8, group="context")
        weights, groups = metrics.cluster_weights(sound["context"], resamples=10)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert groups == 10 and weights.shape == (10, 120) and len(windows) > 250 and sum(map(len, parts)) == 120
    assert peak < 100 * characters  # an array as wide as the longest would take 120 more


def test_the_collator_pads_on_the_right_for_every_tokenizer_so_that_positions_stay(tokenizer):
    rows = dataset(bundled("squad", "validation"))
    trained = qa.train_features(rows, tokenizer, 96, 32)
    batch = qa.collator(tokenizer)([trained[i] for i in range(len(trained))])
    for i, ids in enumerate(trained["input_ids"]):
        assert batch["input_ids"][i, : len(ids)].tolist() == ids
        assert (batch["input_ids"][i, len(ids) :] == tokenizer.pad_token_id).all()
        assert batch["attention_mask"][i].sum() == len(ids)
    assert batch["start_positions"].tolist() == trained["start_positions"][:]


# bad rows and settings


@pytest.mark.parametrize(
    "bad",
    [
        row(text="1987", start=28),
        row(text="1987", start=-4, context="closed in 1987"),  # Python's slice from the end would find it
        row(text="1987", start=400),
        row(text="", start=3),
        row(text=" ", start=3),
        row() | {"answers": {"text": ["1987"], "answer_start": []}},
    ],
)
def test_an_answer_that_does_not_stand_at_its_start_names_the_row_or_is_skipped_and_counted(tokenizers, bad, capsys):
    rows = dataset([row(name="fine"), bad | {"id": "bad"}, row("No bridge is old.", text="bridge", name="fine, too")])
    message = r"^the answer of row 'bad' does not stand at its answer_start: "
    with pytest.raises(CourseError, match=f"{message}qa.sound_rows leaves such rows out$"):
        qa.train_features(rows, tokenizers["bert"], 64, 8)
    with pytest.raises(CourseError, match=f"{message}correct it, or drop such rows with skip_bad_answers=true$"):
        qa.sound_rows(rows)
    kept = qa.sound_rows(rows, skip_bad_answers=True)
    assert capsys.readouterr().out == "skipped 1 of 3 rows: their answer does not stand at its answer_start\n"
    assert kept["id"][:] == ["fine", "fine, too"]
    assert qa.sound_rows(kept) is kept
    assert len(qa.train_features(kept, tokenizers["bert"], 64, 8)) == 2
    assert capsys.readouterr().out == ""


def test_several_bad_answers_are_counted_and_none_left_is_an_error():
    rows = dataset([row(start=0, name=f"q{i}") for i in range(3)])
    with pytest.raises(CourseError, match=r"the answer of row 'q0' \(and 2 more\) does not stand"):
        qa.sound_rows(rows)
    with pytest.raises(CourseError, match=r"no row is left: none of the 3 answers stands at its answer_start; check the column"):
        qa.sound_rows(rows, skip_bad_answers=True)


def test_one_filter_makes_all_that_belongs_together(tokenizers, capsys):
    """A row of SQuAD v2 whose answer is one character off is left out of windows, labels and gold answers alike."""
    rows = dataset([row(name="a"), row(text="1987", start=28, name="off by one"), row(text=None, name="none"), row(name="b")])
    sound = qa.sound_rows(rows, skip_bad_answers=True, unanswerable=True)
    assert "skipped 1 of 4 rows" in capsys.readouterr().out
    trained = qa.train_features(sound, tokenizers["bert"], 64, 8, unanswerable=True)
    windows = qa.eval_features(sound, tokenizers["bert"], 64, 8)
    logits = np.zeros((len(windows), int(windows.length.max())), np.float32)
    assert len(qa.decode_spans(windows, logits, logits).texts) == len(sound) == 3 == len(trained)


NONE = {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ({"text": ["1987"], "answer_start": [29]}, {"text": ["1987"], "answer_start": [29]}),
        ([{"text": "1987", "answer_start": 29}, {"text": "in 1987", "answer_start": 26}],
         {"text": ["1987", "in 1987"], "answer_start": [29, 26]}),
        ({"text": "1987", "answer_start": 29}, {"text": ["1987"], "answer_start": [29]}),
        ({"text": [""], "answer_start": [-1]}, NONE),
        ({"text": ["", "1987"], "answer_start": [-1, 29]}, {"text": ["1987"], "answer_start": [29]}),
        ({"text": [" "], "answer_start": []}, NONE),
        ({"text": [""], "answer_start": [3]}, {"text": [""], "answer_start": [3]}),  # not "no answer", but a broken row
        ({"text": ["1987"], "answer_start": None}, {"text": ["1987"], "answer_start": [-1]}),
        (None, NONE), ([], NONE), ({}, NONE), ({"text": None, "answer_start": None}, NONE), ([{"text": None, "answer_start": None}], NONE),
    ],
)  # fmt: skip
def test_answers_in_any_form_that_public_files_have(written, expected):
    assert squad_answers(written) == expected


@pytest.mark.parametrize("broken", ["1987", 7])
def test_what_holds_no_answers_is_said_in_one_line(broken):
    rows = dataset([row()]).remove_columns("answers").add_column("answers", [broken])
    with pytest.raises(CourseError, match=r"^the column 'answers' holds no answers: write \{'text': \[...\], 'answer_start': \[...\]\} in"):
        qa.sound_rows(rows)


@pytest.mark.parametrize("answers", [
    [[{"text": "1987", "answer_start": 29}], []],
    [{"text": ["1987"], "answer_start": [29]}, {"text": [""], "answer_start": [-1]}],
    [{"text": ["1987"], "answer_start": [29]}, None],
    [{"text": ["1987"], "answer_start": [29]}, {"text": None, "answer_start": None}],
])  # fmt: skip
def test_rows_get_the_hubs_form(tokenizers, answers):
    rows = dataset([row(name="a"), row(text=None, name="b")]).remove_columns("answers").add_column("answers", answers)
    with pytest.raises(CourseError, match=r"^row 'b' has no answer: remove it"):
        qa.sound_rows(rows)
    sound = qa.sound_rows(rows, unanswerable=True)
    assert sound["answers"][:] == [{"text": ["1987"], "answer_start": [29]}, NONE]
    for some in (rows, sound):
        trained = qa.train_features(some, tokenizers["bert"], 64, 8, unanswerable=True)
        assert [position == 0 for position in trained["start_positions"]] == [False, True]


def test_sound_rows_with_a_tokenizer_leaves_out_what_it_drops(tokenizers, capsys):
    without_token = dataset([row(name="fine"), row("A bridge \u200b of old.", text="\u200b", name="no token")])
    assert qa.sound_rows(without_token) is without_token
    with pytest.raises(CourseError, match="the answer of row 'no token' does not stand"):
        qa.sound_rows(without_token, tokenizer=tokenizers["bert"])
    sound = qa.sound_rows(without_token, tokenizer=tokenizers["bert"], skip_bad_answers=True)
    assert sound["id"][:] == ["fine"] and len(qa.train_features(sound, tokenizers["bert"], 64, 8)) == 1


def test_an_answer_of_characters_that_the_tokenizer_drops_is_bad(tokenizers):
    invisible = row("closed \u200b in 1987", text="\u200b", name="unseen")
    with pytest.raises(CourseError, match="the answer of row 'unseen' does not stand"):
        qa.train_features(dataset([invisible]), tokenizers["bert"], 64, 8)
    qa.train_features(dataset([invisible]), tokenizers["roberta"], 64, 8)  # keeps every byte


def test_a_row_without_answer_needs_leave(tokenizer):
    rows = dataset([row(), row(text=None, name="none")])
    cure = "remove it, or, for SQuAD v2, pass unanswerable=True"
    with pytest.raises(CourseError, match=rf"^row 'none' has no answer: {cure}$"):
        qa.train_features(rows, tokenizer, 64, 8)
    trained = qa.train_features(rows, tokenizer, 64, 8, unanswerable=True)
    made = qa.eval_features(rows, tokenizer, 64, 8)
    assert trained["start_positions"][1] == trained["end_positions"][1] == made.cls[1]
    assert trained["input_ids"][1][made.cls[1]] == tokenizer.cls_token_id


@pytest.mark.parametrize("stride", [60, 61, 64, 500])
def test_a_stride_that_makes_no_progress(tokenizers, stride):
    special = {"bert": 3, "roberta": 4, "xlnet": 3}
    for name, n in special.items():
        if stride < 64 - n:
            continue
        message = (
            rf"^max_length 64 with stride {stride} makes no progress: beside {n} special tokens a window holds {64 - n}, and that has "
            r"to be more than the stride; raise max_length or lower stride$"
        )
        with pytest.raises(CourseError, match=message):
            qa.eval_features(dataset([row()]), tokenizers[name], 64, stride)


def test_other_windows_that_cannot_be(tokenizers):
    rows = dataset([row()])
    with pytest.raises(CourseError, match=r"^stride -1 is below zero: give the number of tokens that two windows share, 0 or more$"):
        qa.eval_features(rows, tokenizers["bert"], 64, -1)
    with pytest.raises(CourseError, match="max_length 2 with stride 0 makes no progress: beside 3 special tokens a window holds 0"):
        qa.eval_features(rows, tokenizers["bert"], 2, 0)
    tokenizer = copy.deepcopy(tokenizers["bert"])
    tokenizer.model_max_length = 48
    with pytest.raises(CourseError, match=r"^max_length 64 is more than the model's 48 positions: lower it$"):
        qa.eval_features(rows, tokenizer, 64, 8)


def test_a_question_too_long_for_its_window_names_its_row_exactly_where_the_library_fails(tokenizer):
    context, question = "The old bridge was closed in 1987.", "When was the old bridge closed?"
    special, asked = tokenizer.num_special_tokens_to_add(pair=True), len(tokenizer(question, add_special_tokens=False)["input_ids"])
    rows = dataset([row(), row(context, question, name="long")])
    for room, stride in ((-3, 0), (0, 0), (3, 3), (2, 4)):
        message = (
            rf"^the question of row 'long' has {asked} tokens and leaves {max(room, 0)} of {special + asked + room} for the context, "
            rf"not more than the stride of {stride}: raise max_length, lower stride, or shorten the question$"
        )
        with pytest.raises(CourseError, match=message):
            qa.eval_features(rows.select([1]), tokenizer, special + asked + room, stride)
    for room, stride in ((1, 0), (4, 3)):
        made = qa.eval_features(rows.select([1]), tokenizer, special + asked + room, stride)
        assert made.inputs["input_ids"][:] == [
            window["inputs"]["input_ids"] for window in library_windows([rows[1]], tokenizer, special + asked + room, stride)
        ]
    short = dataset([row("Yes.", question, "Yes"), row("", question, None)])  # nothing to cut: the stride does not matter
    size = len(tokenizer("Yes.", add_special_tokens=False)["input_ids"])
    assert len(qa.eval_features(short, tokenizer, special + asked + size, size + 1)) == 2
    assert len(qa.eval_features(short.select([1]), tokenizer, special + asked, 0)) == 1


def test_a_tokenizer_without_offsets(tokenizers):
    with pytest.raises(CourseError, match=r"^ByT5Tokenizer is not a fast tokenizer and knows no character offsets: load the model's fast"):
        qa.eval_features(dataset([row()]), transformers.ByT5Tokenizer(), 64, 8)


def test_a_tokenizer_without_cls():
    core = Tokenizer(WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    message = "^TokenizersBackend puts no CLS token beside a pair, .*: choose an encoder such as bert, roberta or xlnet$"
    with pytest.raises(CourseError, match=message):
        qa.eval_features(dataset([row()]), transformers.PreTrainedTokenizerFast(tokenizer_object=core), 64, 8)


@pytest.mark.parametrize("column", ["id", "question", "context", "answers"])
def test_a_missing_column(tokenizers, column):
    rows = dataset([row()]).remove_columns(column)
    with pytest.raises(CourseError, match=rf"^the rows lack the column '{column}': they have "):
        qa.train_features(rows, tokenizers["bert"], 64, 8)


def test_no_rows(tokenizers):
    with pytest.raises(CourseError, match=r"^there are no rows: give at least one question$"):
        qa.eval_features(dataset([row()]).select([]), tokenizers["bert"], 64, 8)


# spans


@pytest.mark.parametrize("kind", ["padded", "list", "ties", "ties, list"])
@pytest.mark.parametrize(("n_best", "longest"), [(20, 30), (1, 30), (4, 3), (20, 1)])
def test_spans_equal_the_nested_loop(tokenizer, kind, n_best, longest):
    rng = np.random.default_rng(3)
    rows = random_rows(rng, 30)
    max_length, stride = random_settings(rng, rows, tokenizer)
    windows = library_windows(rows, tokenizer, max_length, stride)
    start, end = random_logits(rng, windows, kind)
    expected = spans_by_loops(rows, windows, start, end, n_best, longest)
    made = qa.eval_features(dataset(rows), tokenizer, max_length, stride)
    answers = qa.decode_spans(made, start, end, n_best, longest)
    for r, one in enumerate(expected):
        context = rows[r]["context"]
        spans = [(context[a:b], a, b, score) for score, a, b in one["spans"]]
        assert [span[:4] for span in answers.n_best(r)] == spans
        assert answers.texts[r] == (spans[0][0] if spans else "")
        assert answers.null_score[r] == one["null"]
        assert answers.null_odds[r] == one["null"] - (spans[0][3] if spans else -math.inf)
        shares = [math.exp(score - spans[0][3]) for *_, score in spans]
        assert [span.probability for span in answers.n_best(r)] == pytest.approx([share / sum(shares) for share in shares], abs=1e-12)


@pytest.mark.parametrize("kind", ["padded", "ties, list"])
def test_windows_are_decoded_in_blocks_of_which_nothing_is_seen(tokenizer, monkeypatch, kind):
    rng = np.random.default_rng(3)
    rows = random_rows(rng, 30)
    max_length, stride = random_settings(rng, rows, tokenizer)
    start, end = random_logits(rng, library_windows(rows, tokenizer, max_length, stride), kind)
    made = qa.eval_features(dataset(rows), tokenizer, max_length, stride)
    whole = qa.decode_spans(made, start, end)
    for block in (1, 7):
        assert (made.row[block::block] == made.row[block - 1 : -1 : block]).any()  # a question on both sides of a cut
        monkeypatch.setattr(qa, "BLOCK", block)
        parts = qa.decode_spans(made, start, end)
        for name in ("bounds", "start", "end", "score", "probability", "null_score"):
            np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name), err_msg=name)


def test_n_best_lists_equal_the_usual_post_processing_where_every_row_has_one_window(tokenizers):
    """Without ties, of a tokenizer whose tokens have characters of their own, the usual loop has the same list."""
    tokenizer, rng, rows = tokenizers["bert"], np.random.default_rng(4), bundled("squad", "validation")
    windows = library_windows(rows, tokenizer, 1_000, 100)
    assert len(windows) == len(rows)
    start, end = random_logits(rng, windows, "padded")
    answers = qa.decode_spans(qa.eval_features(dataset(rows), tokenizer, 1_000, 100), start, end)
    for window, s, e in zip(windows, start, end, strict=True):
        size, found = len(window["inputs"]["input_ids"]), []
        for a in np.argsort(s[:size])[-1:-21:-1].tolist():
            for b in np.argsort(e[:size])[-1:-21:-1].tolist():
                if a in window["offsets"] and b in window["offsets"] and a <= b < a + 30:
                    found.append((float(s[a]) + float(e[b]), window["offsets"][a][0], window["offsets"][b][1]))
        found = sorted(found, key=lambda one: one[0], reverse=True)[:20]
        assert [(span.score, span.start_char, span.end_char) for span in answers.n_best(window["row"])] == found


def windows_of(tokenizers, context, question="old?", max_length=64, stride=8, name="bert"):
    return qa.eval_features(dataset([row(context, question, None)]), tokenizers[name], max_length, stride)


def flat_logits(windows, value=-9.0) -> tuple[np.ndarray, np.ndarray]:
    return tuple(np.full((len(windows), int(windows.length.max())), value, np.float32) for _ in range(2))


WORDS = "bridge old the was closed in river and keeper an the old bridge"


def place(windows, window: int, word: int, step: int = 0) -> int:
    """The position in a window of the context's word, where every word is one token, and a window begins so many after the one before."""
    return int(word - window * step + windows.first[window])


def test_equal_scores_go_to_the_earlier_start_then_to_the_shorter_span(tokenizers):
    made = windows_of(tokenizers, WORDS)
    assert made.size.tolist() == [13]
    start, end = flat_logits(made)
    start[0, [place(made, 0, w) for w in (2, 5)]] = 1
    end[0, [place(made, 0, w) for w in (3, 6, 7)]] = 1
    spans = qa.decode_spans(made, start, end, n_best=6).n_best(0)
    top = [span.text for span in spans if span.score == 2]
    assert top == ["the was", "the was closed in river", "the was closed in river and", "in river", "in river and"]
    assert [span.probability for span in spans[:5]] == pytest.approx([spans[0].probability] * 5)


def test_equal_logits_at_the_edge_of_the_n_best_positions_go_to_the_earlier_position(tokenizers):
    made = windows_of(tokenizers, WORDS)
    start, end = flat_logits(made, 0.0)
    assert qa.decode_spans(made, start, end, n_best=1).texts == [""]  # position 0, the CLS token, comes first
    start[:, : made.first[0]] = end[:, : made.first[0]] = -1
    assert qa.decode_spans(made, start, end, n_best=1).texts == ["bridge"]


def test_a_span_of_two_windows_counts_once_with_its_best_score(tokenizers):
    made = windows_of(tokenizers, WORDS, max_length=13, stride=6)
    assert made.start[made.token].tolist() == [WORDS.index("bridge"), *(WORDS.index(word) for word in ("the", "closed", "river"))]
    start, end = flat_logits(made)
    for window, score in ((0, 1.0), (1, 3.0), (2, 2.0)):
        start[window, place(made, window, 4, step=2)] = score
        end[window, place(made, window, 5, step=2)] = score
    spans = qa.decode_spans(made, start, end).n_best(0)
    assert [(span.text, span.score) for span in spans if span.score > 0] == [("closed in", 6.0)]
    assert len({span[:3] for span in spans}) == len(spans)


def test_tokens_of_one_character_give_one_span(tokenizers):
    made = windows_of(tokenizers, "ab 😀 cd", name="roberta")
    start, end = flat_logits(made, 0.0)
    spans = qa.decode_spans(made, start, end).n_best(0)
    assert len({(span.start_char, span.end_char) for span in spans}) == len(spans)
    assert "😀" in {span.text for span in spans}
    assert all(span.text == span.text.strip() != "" for span in spans)


def test_the_null_score_is_the_lowest_of_a_questions_windows(tokenizer):
    rows = dataset([row(WORDS, "old?", None), row("the bridge", "old?", None)])
    special, asked = tokenizer.num_special_tokens_to_add(pair=True), len(tokenizer("old?", add_special_tokens=False)["input_ids"])
    made = qa.eval_features(rows, tokenizer, special + asked + 8, 6)
    assert len(made) > 3
    start, end = flat_logits(made)
    each = np.arange(len(made))
    start[each, made.cls] = end[each, made.cls] = 1.0 + each
    last = len(made) - 1
    start[0, made.first[0]] = end[0, made.first[0]] = 2.5
    answers = qa.decode_spans(made, start, end)
    assert answers.null_score.tolist() == [2.0, 2.0 + 2 * last]
    assert answers.null_odds.tolist() == [2.0 - 5.0, 2.0 + 2 * last + 18.0]
    assert answers.best(answers.score, 0.0).tolist() == [5.0, -18.0]


def test_a_question_whose_windows_have_no_valid_span(tokenizers):
    made = windows_of(tokenizers, WORDS)
    start, end = flat_logits(made)
    start[0, place(made, 0, 12)], end[0, place(made, 0, 0)] = 5, 5  # the end before the start
    answers = qa.decode_spans(made, start, end, n_best=1)
    assert answers.texts == [""]
    assert answers.n_best(0) == []
    assert answers.null_odds[0] == math.inf
    assert answers.best(answers.start, 7).tolist() == [7]
    start, end = flat_logits(made)
    start[0, place(made, 0, 0)], end[0, place(made, 0, 4)] = 5, 5  # five tokens
    assert qa.decode_spans(made, start, end, n_best=1, max_answer_tokens=4).texts == [""]
    assert qa.decode_spans(made, start, end, n_best=1, max_answer_tokens=5).texts == ["bridge old the was closed"]


def test_large_logits_give_probabilities(tokenizers):
    made = windows_of(tokenizers, WORDS)
    start, end = flat_logits(made)
    start[0, place(made, 0, 1)], end[0, place(made, 0, 1)] = 3e4, 3e4
    best = qa.decode_spans(made, start, end).n_best(0)[0]
    assert best[:3] == ("old", 7, 10)
    assert best.probability == pytest.approx(1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite(tokenizers, value):
    made = windows_of(tokenizers, WORDS)
    start, end = flat_logits(made)
    end[0, 4] = value
    with pytest.raises(CourseError, match=r"^some logits are not finite: the model has overflowed; train and predict in fp32 or bf16$"):
        qa.decode_spans(made, start, end)


def test_logits_that_do_not_belong_to_the_windows(tokenizers):
    rows = dataset([row(WORDS, text="old"), row("the bridge", text="bridge")])
    made = qa.eval_features(rows, tokenizers["bert"], 64, 8)
    start, end = flat_logits(made)
    start[1, made.length[1] :] = -100
    qa.decode_spans(made, start, end)
    cure = "predict on windows.inputs, all of it, in its order, padded on the right"
    with pytest.raises(CourseError, match=f"^there are logits for 1 windows, not 2: {cure}$"):
        qa.decode_spans(made, start[:1], end[:1])
    for short in (start[:, :-1], start[::-1], [start[0], start[1, :3]]):
        with pytest.raises(CourseError, match=f"^some logits end before their window does: {cure}$"):
            qa.decode_spans(made, short, end)
    with pytest.raises(CourseError, match=r"^n_best 0 and max_answer_tokens 30 have to be at least 1$"):
        qa.decode_spans(made, start, end, n_best=0)


# a model


def tiny_model(tokenizer, name: str):
    """A question-answering model of two layers with random weights."""
    torch.manual_seed(0)
    settings = twins.TWINS[IDS[name]].sizes | ({} if name == "xlnet" else {"max_position_embeddings": 256})
    config = transformers.AutoConfig.for_model(
        name, vocab_size=len(tokenizer), initializer_range=0.5, pad_token_id=tokenizer.pad_token_id, **settings
    )
    return transformers.AutoModelForQuestionAnswering.from_config(config).float().eval()


@pytest.mark.parametrize("name", KINDS)
def test_padding_on_the_right_does_not_change_a_windows_logits(tokenizers, name):
    tokenizer, model = tokenizers[name], tiny_model(tokenizers[name], name)
    trained = qa.train_features(dataset([*bundled("squad", "validation")[:4], row()]), tokenizer, 96, 32)
    batch = [trained[i] for i in range(len(trained))]
    with torch.no_grad():
        together = model(**qa.collator(tokenizer)(batch))
        assert torch.isfinite(together.loss)
        for i, one in enumerate(batch):
            alone = model(**qa.collator(tokenizer)([one]))
            size = len(one["input_ids"])
            torch.testing.assert_close(together.start_logits[i, :size], alone.start_logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.end_logits[i, :size], alone.end_logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", KINDS)
def test_answer_gives_the_n_best_of_the_readers_own_paragraph(tokenizers, name):
    tokenizer, model = tokenizers[name], tiny_model(tokenizers[name], name)
    question, context = "When was the bridge closed?", bundled("squad", "train")[0]["context"] + " 😀 Zürich in 1987."
    rows = [row(context, question, None)]
    windows = library_windows(rows, tokenizer, 64, 24)
    assert len(windows) > 2
    start, end = [], []
    with torch.no_grad():
        for window in windows:
            output = model(**{column: torch.tensor([values]) for column, values in window["inputs"].items()})
            start.append(output.start_logits[0].numpy())
            end.append(output.end_logits[0].numpy())
    expected = spans_by_loops(rows, windows, start, end, 5, 30)[0]
    spans = qa.answer(model, tokenizer, question, context, 64, 24, n_best=5)
    assert [(span.start_char, span.end_char) for span in spans] == [(a, b) for _, a, b in expected["spans"]]
    assert [span.score for span in spans] == pytest.approx([score for score, _, _ in expected["spans"]], abs=1e-3)
    assert all(span.text == context[span.start_char : span.end_char] for span in spans)


def test_answer_to_a_reader_who_left_something_out(tokenizers):
    tokenizer, model = tokenizers["bert"], tiny_model(tokenizers["bert"], "bert")
    for question, context, name in ((" ", "a bridge", "question"), ("why?", "\n", "context"), ("why?", None, "context")):
        with pytest.raises(CourseError, match=f"^the {name} is empty: write something into it$"):
            qa.answer(model, tokenizer, question, context)


def test_answer_of_a_model_without_the_head(tokenizers):
    config = transformers.AutoConfig.for_model("bert", vocab_size=len(tokenizers["bert"]), **twins.TWINS[IDS["bert"]].sizes)
    model = transformers.AutoModelForSequenceClassification.from_config(config)
    message = "^BertForSequenceClassification has no start and end logits: load it with AutoModelForQuestionAnswering$"
    with pytest.raises(CourseError, match=message):
        qa.answer(model, tokenizers["bert"], "why?", "a bridge", 64, 8)
