import dataclasses

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BertConfig,
    LlamaConfig,
    T5Config,
)

from shared import lora
from shared.course import cost, report
from shared.course.cost import training_cost
from shared.course.runtime import ROOT, CourseError

SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128, "vocab_size": 500}
BERT = BertConfig(**SMALL, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
LLAMA = LlamaConfig(**SMALL, num_key_value_heads=1)


@pytest.mark.parametrize(
    ("config", "head"),
    [(BERT, "classes"), (BERT, "spans"), (LLAMA, "next token"),
     (T5Config(d_model=64, d_kv=32, d_ff=128, num_layers=2, num_heads=2, vocab_size=300), "text"),
     (BartConfig(vocab_size=300, d_model=64, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2,
                 encoder_ffn_dim=128, decoder_ffn_dim=128), "text")],
    ids=["bert", "bert-qa", "llama", "t5", "bart"],
)
@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_activations_are_what_a_real_step_keeps(config, head, precision):
    found = training_cost(config, head, batch=4, length=40, target_length=12, precision=precision)
    model = cost.HEADS[head].from_config(config).train()
    inputs = cost._inputs(head, config, 4, 40, 12)
    with cost._saved_bytes(model) as saved, cost._autocast(precision):
        model(**inputs)
    assert found.activations == pytest.approx(saved[0], rel=0.1)
    assert found.parameters == found.trainable == sum(p.numel() for p in model.parameters())
    assert (found.weights, found.gradients, found.optimizer) == tuple(found.parameters * b for b in (4, 4, 8))
    assert found.total == found.weights + found.gradients + found.optimizer + found.activations


@pytest.mark.parametrize("frozen", [False, True])
def test_saved_bytes_of_two_layers_by_hand(frozen):
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 64))
    net[0].requires_grad_(not frozen)
    with cost._saved_bytes(net) as saved:
        net(torch.randn(8, 64))
    kept = 128 if frozen else 64 + 128 + 128  # the input, before GELU, after it; weights are not counted
    assert saved[0] == 4 * 8 * kept


def test_flops_are_six_per_weight_and_token_plus_attention():
    length, layers, width, inner = 32, 2, 64, 128
    found = training_cost(BERT, "classes", batch=4, length=length, attention="eager")
    weights = layers * (4 * width**2 + 2 * width * inner)
    once = 2 * width**2 + 2 * 2 * width  # pooler and classifier see one token
    assert found.flops == 3 * (2 * length * weights + layers * 2 * 2 * length**2 * width + once)


def test_flops_and_activations_grow_with_length_and_batch():
    one, two, longer = (training_cost(BERT, "classes", batch=b, length=n) for b, n in ((4, 32), (8, 32), (4, 64)))
    assert two.flops == one.flops < longer.flops / 2 + one.flops
    assert 1.9 < two.activations / one.activations < 2.1
    assert longer.activations > 1.9 * one.activations


def frozen_but_the_head(model):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith(("classifier", "lm_head")))
    return model


def test_frozen_weights_need_neither_gradients_nor_moments():
    whole, part = (training_cost(BERT, "classes", batch=4, length=32, adapt=adapt) for adapt in (None, frozen_but_the_head))
    assert part.trainable == 64 * 2 + 2 < whole.trainable == part.parameters
    assert (part.gradients, part.optimizer) == (4 * part.trainable, 8 * part.trainable)
    assert part.activations < 0.2 * whole.activations
    assert part.weights == whole.weights
    assert whole.flops / 3 < part.flops < 0.35 * whole.flops  # little more than the forward pass


def test_adapters_spare_the_frozen_weights_gradients_and_no_other_flops():
    """Of the three products of a linear layer, forward, gradient of the input and gradient of the weight, a frozen one lacks the last."""
    length, rank = 32, 2
    whole, adapted = (
        training_cost(LLAMA, "next token", batch=2, length=length, adapt=adapt)
        for adapt in (None, lora.sketch(rank))
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LLAMA)
    shapes = [m.weight.shape for name, m in model.named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"]
    spared = 2 * length * (sum(a * b for a, b in shapes) + model.lm_head.weight.numel())
    # the first block's inputs are frozen embeddings, whose gradient nothing needs: its q, k and v give none back
    spared += 2 * length * sum(a * b for a, b in shapes[:3])
    added = 3 * 2 * length * rank * sum(a + b for a, b in shapes)
    assert adapted.flops == pytest.approx(whole.flops - spared + added, rel=0.02)


def test_a_multi_label_classifier_costs_what_a_single_label_one_does():
    several = BertConfig(**(BERT.to_dict() | {"problem_type": "multi_label_classification"}))
    found, single = (training_cost(config, "classes", batch=4, length=32) for config in (several, BERT))
    assert (found.parameters, found.flops) == (single.parameters, single.flops)
    assert found.activations == pytest.approx(single.activations, rel=0.01)


def test_half_stores_what_is_frozen_in_two_bytes_and_four_bits_only_the_linear_layers():
    config = LlamaConfig(**SMALL, num_key_value_heads=1, tie_word_embeddings=False)
    half = training_cost(config, "next token", batch=2, length=16, precision="half", adapt=frozen_but_the_head)
    assert half.weights == 2 * (half.parameters - half.trainable) + 4 * half.trainable
    nf4 = training_cost(config, "next token", batch=2, length=16, precision="half", adapt=frozen_but_the_head, four_bit=True)
    model = AutoModelForCausalLM.from_config(config)
    linear = sum(m.weight.numel() for m in model.model.modules() if isinstance(m, torch.nn.Linear))
    assert nf4.weights == pytest.approx(linear * cost.NF4_BYTES + 4 * (nf4.parameters - linear), abs=1)  # embeddings and norms in 32 bits
    assert pytest.approx(4.127, abs=0.001) == 8 * cost.NF4_BYTES  # bits a weight, as the QLoRA paper has it
    assert (nf4.parameters, nf4.trainable, nf4.flops) == (half.parameters, half.trainable, half.flops)


def test_an_8_bit_optimizer_needs_a_quarter():
    found = training_cost(BERT, "classes", batch=1, length=8, optimizer_bytes=2)
    assert found.optimizer == 2 * found.parameters


def test_nothing_is_left_fake_or_stored():
    training_cost(BERT, "classes", batch=1, length=8)
    model = AutoModelForSequenceClassification.from_config(BERT)
    assert type(next(model.parameters()).data) is torch.Tensor and next(model.parameters()).device.type == "cpu"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "class"}, r"^unknown head 'class': did you mean 'classes'\?"),
        ({"head": "classes", "precision": "fp8"}, r"^unknown precision 'fp8'"),
        ({"head": "classes", "precision": "half"}, r"^precision 'half' is for frozen weights and nothing is frozen: pass adapt"),
        ({"head": "classes", "four_bit": True}, r"^four_bit is for frozen weights and nothing is frozen: pass adapt"),
    ],
)
def test_what_cannot_be_counted_says_why(options, message):
    with pytest.raises(CourseError, match=message):
        training_cost(BERT, **options)


# ---------------------------------------------------------------- the encoder–decoders of task 2

# What the Hub's checkpoints hold: the embeddings of FLAN-T5 are not shared with its output layer.
CHECKPOINTS = {
    "T5-small": 60_506_624, "FLAN-T5-small": 76_961_152, "T5-base": 222_903_552, "BART-base": 139_420_416, "BART-large": 406_291_456,
    "T5-large": 737_668_096,
}


@pytest.mark.parametrize("name", ["T5-small", "BART-base"])
@pytest.mark.parametrize("precision", ["fp32", "mixed"])
def test_two_shallow_twins_say_what_the_deep_model_costs(name, precision):
    model = cost.TEXT_MODELS[name]
    deep = training_cost(model.config(layers=4), "text", batch=2, length=32, precision=precision)
    shallow = cost.text_model_cost(dataclasses.replace(model, layers=4), precision, batch=2, length=32)
    assert shallow == deep


@pytest.mark.slow  # no run changes it; a new torch or transformers may
def test_the_memory_table_in_the_readme_is_up_to_date():
    rows = cost.text_model_memory()
    assert {row["name"]: row["parameters"] for row in rows} == CHECKPOINTS
    for row in rows:
        assert row["parameters"] == pytest.approx(1e6 * float(row["published"].split()[0]), rel=0.05), row["name"]
        assert all(low <= high for low, high in (row["fp32"], row["mixed"]))
        least = 16 * row["parameters"] / cost.GIB
        assert row["fp32"][0] > least and row["mixed"][0] > least
    assert {row["name"]: row["fits"] for row in rows if row["name"] in ("T5-small", "T5-large")} == {"T5-small": "yes", "T5-large": "no"}
    readme = (ROOT / "task-2" / "README.md").read_text(encoding="utf8")
    assert report.fill(readme, "memory", report.memory_table(rows)) == readme, "run `python -m shared.report --memory` and commit the table"
