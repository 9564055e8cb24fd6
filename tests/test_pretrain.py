"""What a substitute is taught before the lessons: the pairs that are made of texts, and a small training that can be resumed."""

import json
import signal
import string

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, TrainerCallback

from shared import data, metrics
from shared.course import pretrain, substitutes, twins
from shared.course.pretrain import cloze, gap_sentences, pairs_of, pieces, texts_of
from shared.course.runtime import CourseError, RunFolder
from shared.course.settings import COMMON, Settings

SQUAD = list(dict.fromkeys(data.bundled_split("squad", "train")["context"]))
NEWS = data.bundled_split("cnn_dailymail", "train")["article"][:]
SMALL = {"rows": 12, "batch_size": 4, "max_source": 64, "max_target": 16, "model": "a tiny one"}


def settings(model: str, **changes) -> Settings:
    return Settings(model.removeprefix("course/"), "laptop", COMMON | pretrain.TASKS[model] | SMALL | changes)


@pytest.fixture
def run(tmp_path):
    folder = RunFolder(tmp_path / "run")
    for place in (folder.logs, folder.checkpoints):
        place.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    target = tmp_path_factory.mktemp("models") / "pointer"
    substitutes.make_pointer(twins.twin(substitutes.MINILM), target, layers=1)
    return str(target)


# ---------------------------------------------------------------- pairs


def test_a_cloze_question_asks_for_words_that_stand_in_its_context():
    rng, found = np.random.default_rng(0), []
    for text in SQUAD * 10:
        for part in pieces(text):
            pair = cloze(part, rng)
            if pair is None:
                continue
            source, answer = pair
            question, context = source.removeprefix("question: ").split(" context: ")
            assert question.endswith("?") and context == " ".join(part)
            assert answer in context and answer == answer.strip(string.punctuation) and 1 <= len(answer.split()) <= 5
            assert {"who", "what", "where", "which", "when", "how", "in"} & set(question.rstrip("?").split())
            found.append((question, answer))
    assert len(found) > 150 and len(set(found)) > 0.9 * len(found)
    asked_for_a_number = [question for question, answer in found if answer.isdigit() and len(answer) == 4 and answer[:2] in ("18", "19")]
    assert asked_for_a_number and all("when" in question or "in what year" in question for question in asked_for_a_number)
    assert np.mean([len(question.split()) for question, _ in found]) < 20


def test_a_text_is_cut_between_sentences_and_nothing_is_lost():
    for text in SQUAD + NEWS:
        parts = pieces(text)
        assert [sentence for part in parts for sentence in part] == metrics.split_sentences(text)
        assert all(sum(len(sentence.split()) for sentence in part) >= pretrain.PIECE for part in parts[:-1])


def test_summaries_are_leads_or_principal_sentences_of_what_is_read():
    rng, leads, missing, chosen = np.random.default_rng(0), 0, 0, 0
    for text in NEWS * 20:
        sentences = metrics.split_sentences(text)
        source, target = gap_sentences(sentences, rng)
        read, written = metrics.split_sentences(source.removeprefix("summarize: ")), metrics.split_sentences(target)
        assert source.startswith("summarize: ") and 1 <= len(written) <= 3
        assert [sentences.index(sentence) for sentence in written] == sorted(sentences.index(sentence) for sentence in written)
        leads += read[: len(written)] == written
        missing += sum(sentence not in read for sentence in written)
        chosen += len(written)
        sizes = [len(sentence.split()) for sentence in written]
        assert sum(sizes) - max(sizes) < pretrain.LEAD
    assert 0.3 < leads / (20 * len(NEWS)) < 0.7
    assert 0.05 < missing / chosen < 0.25


def test_the_principal_sentence_shares_most_words_with_the_rest():
    sentences = ["The mill burned down.", "Nobody slept.", "The old mill on the river burned down on Monday.", "The river froze on Monday."]
    shares = pretrain._shares(sentences)
    assert int(np.argmax(shares)) == 2 and shares[1] == 0.0


def test_the_same_seed_gives_the_same_pairs():
    drawn = [pairs_of(SQUAD, cloze, pretrain.PIECE, 30, seed) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 30


@pytest.mark.parametrize("texts", [[], [" "], ["of the"]])
def test_texts_that_give_no_pairs_are_one_clear_line(texts):
    with pytest.raises(CourseError, match=r"texts gave 0 of 5 pairs: give a folder with more texts \(--data\), or set fewer rows"):
        pairs_of(texts, cloze, pretrain.PIECE, 5, 0)


def test_the_texts_are_those_of_training_splits_and_none_that_is_scored():
    found = texts_of("squad")
    assert sorted(found) == sorted(SQUAD)
    assert not set(found) & set(data.bundled_split("squad", "validation")["context"])
    assert texts_of("cnn_dailymail") == list(NEWS)


def test_runs_are_eight_words_without_signs_and_a_shorter_text_is_one():
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert pretrain.runs("One, two three -- four five. Six: seven eight (nine)!") == {tuple(words[:8]), tuple(words[1:])}
    assert pretrain.runs("Two words.") == {("two", "words")} and pretrain.runs("...") == {()}


def test_a_text_printed_again_with_another_opening_is_found():
    story, other = (" ".join(f"{stem}{number}" for number in range(100)) for stem in ("word", "other"))
    scored = pretrain.runs(story)
    assert pretrain.again(story, scored) and pretrain.again(f"Updated on Monday. {story.title()}", scored)
    assert pretrain.again(f"{other} {' '.join(story.split()[:30])}", scored)  # 23 of its 123 runs
    assert not pretrain.again(f"{other} {' '.join(story.split()[:17])}", scored)  # 10 of 110
    assert not pretrain.again(other, scored)


def test_a_training_text_that_is_scored_in_other_words_at_its_start_is_left_out(monkeypatch):
    scored = data.bundled_split("cnn_dailymail", "test")
    train = data.bundled_split("cnn_dailymail", "train")
    reprint = train[0] | {"article": "Updated on Monday with more. " + scored[0]["article"]}
    splits = {"train": Dataset.from_list([reprint, train[1], train[1]]), "validation": train.select([2]), "test": scored}
    monkeypatch.setattr("datasets.load_dataset", lambda *names, **options: splits)
    assert texts_of("cnn_dailymail") == [train[1]["article"]]


def test_held_out_pairs_are_about_other_texts():
    parts = pretrain.rows_of(settings("course/minilm-pointer-qa", rows=40), SQUAD)
    contexts = {name: {source.split(" context: ")[1] for source in part["source"]} for name, part in parts.items()}
    assert not contexts["train"] & contexts["held_out"] and len(parts["train"]) == 40


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("model", substitutes.PRETRAINED)
def test_a_small_pre_training_is_saved_with_a_note_of_what_was_taught(model, run, base, tmp_path):
    texts = {"cnn_dailymail": list(NEWS), "xsum": []} if model.endswith("news") else {"squad": SQUAD}
    target = tmp_path / "cache" / "model"
    note = pretrain.learn(settings(model), run, texts, target, base)
    taught = AutoModelForSeq2SeqLM.from_pretrained(target, dtype=torch.float32)
    assert taught.config.pretraining == note
    assert note["rows"] == 12 and note["data"] == {name: len(some) for name, some in texts.items()} and note["seconds"] > 0
    assert note["task"] == ("leads and gap sentences" if model.endswith("news") else "cloze questions")
    before = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32).state_dict()
    assert any(not torch.equal(weight, before[name]) for name, weight in taught.state_dict().items())
    assert AutoTokenizer.from_pretrained(target).get_vocab() == AutoTokenizer.from_pretrained(base).get_vocab()
    recorded = json.loads((run.path / "results.json").read_text(encoding="utf8"))
    assert recorded["history"] and recorded["rows"] == 12


class Dies(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 4:
            raise KeyboardInterrupt


def test_an_interrupted_pre_training_goes_on_to_the_same_model(run, base, tmp_path, monkeypatch):
    cfg, texts, targets = settings("course/minilm-pointer-qa", epochs=2.0), {"squad": SQUAD}, [tmp_path / name for name in ("one", "other")]
    usual, handler = pretrain.course.callbacks, signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(pretrain.course, "callbacks", lambda run: [*usual(run), Dies()])
        pretrain.learn(cfg, run, texts, targets[0], base)
    signal.signal(signal.SIGINT, handler)  # a training that dies leaves its own
    assert [path.name for path in run.checkpoints.iterdir()] == ["checkpoint-3"] and not targets[0].exists()
    pretrain.learn(cfg, run, texts, targets[0], base)
    whole = RunFolder(tmp_path / "whole")
    for place in (whole.logs, whole.checkpoints):
        place.mkdir(parents=True)
    pretrain.learn(cfg, whole, texts, targets[1], base)
    one, other = (AutoModelForSeq2SeqLM.from_pretrained(target, dtype=torch.float32).state_dict() for target in targets)
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_the_command_is_for_machines_without_the_hub(capsys):
    assert pretrain.main(["course/minilm-pointer-qa"]) == 2
    assert capsys.readouterr().err == (
        "error: course/minilm-pointer-qa is for machines without the Hub, in profile laptop: here choose the model that it stands in for\n"
    )


def test_a_wrong_key_is_named(monkeypatch):
    monkeypatch.setattr(pretrain.course, "setup", lambda: None)
    monkeypatch.setattr(pretrain.standin, "kind_of_models", lambda: "packaged")
    with pytest.raises(CourseError, match=r"unknown --set key of course/minilm-pointer-qa 'epoch': did you mean 'epochs'"):
        pretrain.pretrain("course/minilm-pointer-qa", "epoch=2")
