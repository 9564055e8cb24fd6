"""A checkpoint that was a classifier already: its head is kept, put into the lesson's order or made anew, never taken by number."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from shared import course

ENCODERS = (
    "google-bert/bert-base-uncased", "distilbert/distilbert-base-cased", "FacebookAI/roberta-base", "microsoft/deberta-base",
    "xlnet/xlnet-base-cased", "answerdotai/ModernBERT-base", "sentence-transformers/all-mpnet-base-v2",
)  # fmt: skip
WANTED = ["entailment", "neutral", "contradiction"]


def load(source, names):
    torch.manual_seed(0)
    return AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=len(names), id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        ignore_mismatched_sizes=True, dtype=torch.float32,
    )  # fmt: skip


@pytest.fixture(params=ENCODERS)
def saved(request, tmp_path):
    """Saves a classifier of this architecture with the given labels, and returns it with its folder."""

    def save(names):
        model = load(request.param, names)
        for parameter in model.parameters():  # no two outputs alike, and no bias of zero
            torch.nn.init.normal_(parameter, std=0.1)
        model.save_pretrained(tmp_path / "checkpoint")
        return model.eval(), str(tmp_path / "checkpoint")

    return save


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        return model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]


def head(model):
    return {name: value for name, value in model.state_dict().items() if not name.startswith(model.base_model_prefix + ".")}


def test_labels_in_another_order_are_put_into_the_lessons(saved, capsys):
    before, folder = saved(["CONTRADICTION", "entailment", "neutral"])
    model = course.check_head(load(folder, WANTED), folder)
    assert torch.allclose(logits(model), logits(before)[[1, 2, 0]], atol=1e-5)
    assert "its outputs put into the order entailment, neutral, contradiction" in capsys.readouterr().out


def test_labels_in_the_same_order_are_kept(saved, capsys):
    before, folder = saved(WANTED)
    model = course.check_head(load(folder, WANTED), folder)
    # the same numbers, but for the order in which a processor adds them up
    torch.testing.assert_close(logits(model), logits(before), rtol=1e-5, atol=1e-6)
    assert all(torch.equal(head(before)[name], value) for name, value in head(model).items())
    assert "it is kept" in capsys.readouterr().out


@pytest.mark.parametrize("names", [["LABEL_0", "LABEL_1", "LABEL_2"], ["bad", "so so", "good"], ["not_entailment", "entailment"]])
def test_other_labels_get_a_fresh_head(saved, names, capsys):
    before, folder = saved(names)
    model = course.check_head(load(folder, WANTED), folder)
    old, new = head(before), head(model)
    compared = [name for name, value in new.items() if old[name].shape == value.shape and "norm" not in name]
    assert compared or len(names) != len(WANTED)
    assert all(not torch.equal(old[name], new[name]) for name in compared)
    assert model.config.num_labels == len(WANTED) and any(len(value) == len(WANTED) for value in new.values())
    base = before.base_model.state_dict()
    assert all(torch.equal(base[name], value) for name, value in model.base_model.state_dict().items())
    assert "the head is made anew for entailment, neutral, contradiction" in capsys.readouterr().out


def test_a_series_says_it_once_and_a_folder_by_its_last_names(saved, capsys):
    _, folder = saved(["bad", "so so", "good"])
    old, new = load(folder, WANTED), course.check_head(load(folder, WANTED), folder, say=False)
    assert not capsys.readouterr().out
    assert any(not torch.equal(value, head(old)[name]) for name, value in head(new).items())
    course.check_head(load(folder, WANTED), folder)
    where = Path(folder)
    assert capsys.readouterr().out.startswith(f"{where.parent.name}/checkpoint has a head for bad, so so, good: the head is made anew")


def test_a_pre_trained_encoder_says_nothing(capsys):
    model = load(ENCODERS[0], WANTED)
    before = head(model)
    course.check_head(model, ENCODERS[0])
    assert all(torch.equal(before[name], value) for name, value in head(model).items()) and not capsys.readouterr().out
    assert "ForSequenceClassification" not in str(AutoConfig.from_pretrained(ENCODERS[0]).architectures)
