"""What the lab on failures measures with its mistakes."""

import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from shared import lora
from shared.course.runtime import ROOT, CourseError

sys.path.insert(0, str(ROOT / "task-3" / "lab-failures"))

import mistakes


def scores(*values):
    return {key: np.array(values, dtype=float) for key in mistakes.KEYS}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=40, max_position_embeddings=64, **shape)).train()


# ---------------------------------------------------------------- padding


@pytest.mark.parametrize(
    ("lengths", "batch", "expected"),
    [
        ([5, 3, 5, 2], 2, [False, True, False, True]),
        ([5, 3, 4], 3, [False, True, True]),
        ([5, 3, 4], 1, [False, False, False]),
        ([7, 7, 2], 2, [False, False, False]),
        ([], 4, []),
    ],
)
def test_rows_shorter_than_the_longest_of_their_batch_are_padded(lengths, batch, expected):
    assert mistakes.padded(lengths, batch).tolist() == expected


def test_a_batch_of_none_is_refused():
    with pytest.raises(CourseError, match="choose 1 or more"):
        mistakes.padded([1, 2], 0)


# ---------------------------------------------------------------- losses


def test_losses_of_an_answer_and_of_its_end_are_those_of_the_whole_logits(model):
    row = {"input_ids": [3, 4, 5, 6, 7, 2], "labels": [-100, -100, -100, 6, 7, 2]}
    found = mistakes.answer_losses(model, [row])
    assert model.training  # its mode is back
    with torch.inference_mode():
        logs = model.eval()(input_ids=torch.tensor([row["input_ids"]])).logits[0].log_softmax(-1)
    model.train()
    said = [-logs[place - 1, row["input_ids"][place]].item() for place in (3, 4, 5)]
    np.testing.assert_allclose(found["words"], [np.mean(said[:2])], rtol=1e-5)
    np.testing.assert_allclose(found["end"], [said[2]], rtol=1e-5)


def test_an_answer_of_its_end_alone_is_refused(model):
    with pytest.raises(CourseError, match="row 0 has no answer"):
        mistakes.answer_losses(model, [{"input_ids": [3, 4, 2], "labels": [-100, -100, 2]}])


# ---------------------------------------------------------------- merging


def test_merging_leaves_the_adapted_model_as_it_is(model):
    adapted = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=lora.target_modules(model)))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    batch = {"input_ids": torch.tensor([[3, 4, 5]]), "attention_mask": torch.ones(1, 3)}
    before = lora.logits(adapted, batch)
    merged = mistakes.merge_packed(adapted)  # nothing is packed here, so the sum is exact
    assert lora.relative_difference(lora.logits(merged, batch), before) < 1e-5
    assert torch.equal(lora.logits(adapted, batch), before) and hasattr(adapted, "peft_config")
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    lora.without_adapters(adapted)


# ---------------------------------------------------------------- mistakes against the right way


def test_rows_are_averaged_over_seeds():
    found = mistakes.mean_rows([scores(10, 20), scores(20, 40)])
    assert {key: rows.tolist() for key, rows in found.items()} == {key: [15, 30] for key in mistakes.KEYS}
    with pytest.raises(CourseError, match="at least one seed"):
        mistakes.mean_rows([])


def test_a_paired_difference_is_narrower_than_the_intervals_of_the_two():
    chance = np.random.default_rng(0)
    easy = chance.uniform(10, 40, 100)
    line = mistakes.against(scores(*(easy - 3 + chance.normal(0, 0.5, 100))), scores(*easy))
    difference, own = line["difference"]["rouge1"], line["rouge1"]
    assert difference["low"] < -2.5 and difference["high"] > -3.5 and difference["high"] < 0
    assert difference["high"] - difference["low"] < (own["high"] - own["low"]) / 5


def test_the_right_way_differs_from_itself_by_nothing():
    rows = scores(1, 2, 3)
    assert mistakes.against(rows, rows)["difference"]["rouge2"] == {"value": 0, "low": 0, "high": 0}


def test_rows_of_another_test_cannot_be_paired():
    with pytest.raises(CourseError, match="a paired difference needs both on the same rows"):
        mistakes.against(scores(1, 2), scores(1, 2, 3))


def test_how_many_times_the_published_figures():
    line = {"rouge1": {"value": 14.26}, "rouge2": {"value": 1.89}, "rougeL": {"value": 6.03}}
    assert mistakes.times_published(line) == pytest.approx({"rouge1": 2, "rouge2": 9, "rougeL": 1})
