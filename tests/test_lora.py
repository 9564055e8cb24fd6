import copy
import math
import warnings

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    PhiConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from shared import data, lora, text2text
from shared.course import cost
from shared.course.runtime import ROOT, CourseError
from tests.tiny import DECODERS, completion_rows, decoder, largest_difference, tokenizer_of, with_adapters
from tests.tiny_training import losses_of_steps

TEXTS = [text[:160] for text in data.bundled_split("squad", "train")["context"][:60]]
architectures = pytest.mark.parametrize("name", DECODERS)
both_weights = pytest.mark.parametrize("packed", [False, True], ids=["whole", "4-bit"])


def load(name=DECODERS[0], packed=False):
    return decoder(name, lora.four_bit(torch.float32) if packed else None)


def batch_for(name=DECODERS[0], rows=3):
    tokenizer, prompts = tokenizer_of(name), [f"Say: {text}\nAnswer:" for text in TEXTS[:rows]]
    return text2text.CompletionCollator(tokenizer)(completion_rows(tokenizer, prompts, [" " + text[:30] for text in TEXTS[:rows]]))


@architectures
@both_weights
def test_adapters_learn_and_the_base_model_stays(name, packed):
    model, untouched, batch = load(name, packed), load(name, packed), batch_for(name)
    adapted = with_adapters(model, rank=4, alpha=8)
    assert largest_difference(untouched, adapted, batch) < 1e-5  # B is zero
    before = {key: value.clone() for key, value in adapted.state_dict().items()}
    losses = losses_of_steps(adapted, batch)
    assert losses[-1] < 0.98 * losses[0]
    for key, value in adapted.state_dict().items():
        assert torch.equal(before[key], value) == ("lora_" not in key), key
    assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)


@both_weights
@pytest.mark.parametrize("of", ["the base model", "the adapted model"])
def test_adding_adapters_again_does_the_work_again_and_says_so(of, packed, capsys):
    """As where the cell is run twice: the model is adapted already."""
    model = load(packed=packed)
    first, batch = with_adapters(model, 4, 8), batch_for()
    fresh = {name: value.clone() for name, value in first.state_dict().items()}
    losses = losses_of_steps(first, batch)
    assert "adapters" not in capsys.readouterr().out
    with warnings.catch_warnings(action="error"):
        second = with_adapters(model if of == "the base model" else first, 4, 8)
    assert capsys.readouterr().out == "NOTE: the model had adapters already; they are taken off, and it gets new ones.\n"
    again = second.state_dict()
    assert again.keys() == fresh.keys() and all(torch.equal(value, again[name]) for name, value in fresh.items())
    assert lora.count_parameters(second) == lora.count_parameters(first)
    assert losses_of_steps(second, batch) == pytest.approx(losses, abs=1e-6)
    assert with_adapters(second, 2, 8).peft_config["default"].r == 2


def test_adapters_of_a_classifier_and_its_fresh_head_are_taken_off_together():
    model = small_bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = with_adapters(model, 2, 4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    plain = lora.without_adapters(adapted)
    assert plain is model and plain.state_dict().keys() == before.keys() and not hasattr(plain, "peft_config")
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert lora.without_adapters(plain) is plain


def test_loading_adapters_over_others_gives_those_of_the_folder(tmp_path, capsys):
    adapted, batch = with_adapters(load(), 4, 8), batch_for()
    losses_of_steps(adapted, batch)
    adapted.save_pretrained(tmp_path)
    wanted = lora.logits(adapted, batch)
    over = PeftModel.from_pretrained(lora.without_adapters(with_adapters(load(), 2, 4)), tmp_path)
    assert "they are taken off" in capsys.readouterr().out
    assert (lora.logits(over, batch) - wanted).abs().max() < 1e-5


@architectures
@both_weights
def test_merged_model_is_plain_and_gives_the_same_logits(name, packed):
    model = load(name, packed)
    adapted, batch = with_adapters(model, 4, 8), batch_for(name)
    losses_of_steps(adapted, batch)
    logits = adapted(**batch).logits.detach()
    merged = lora.merge(adapted)
    assert largest_difference(adapted, merged, batch) < 1e-4
    assert torch.equal(adapted(**batch).logits, logits)  # the adapted model is as it was
    assert type(merged).__name__ == type(model).__name__
    assert not [key for key in merged.state_dict() if "lora" in key]
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


def test_a_merged_four_bit_model_can_be_saved_and_loaded(tmp_path):
    adapted, batch = with_adapters(load(packed=True), 4, 8), batch_for()
    losses_of_steps(adapted, batch)
    merged = lora.merge(adapted)
    merged.save_pretrained(tmp_path)
    assert largest_difference(merged, decoder(str(tmp_path)), batch) == 0


def test_merging_into_four_bit_weights_would_round_the_adapters_away():
    adapted, batch = with_adapters(load(packed=True), 4, 8), batch_for()
    losses_of_steps(adapted, batch)
    merged, trained = lora.merge(adapted), adapted(**batch).logits.detach()
    rounded = adapted.merge_and_unload()
    real = batch["attention_mask"].bool()
    assert (rounded(**batch).logits - trained)[real].abs().max() > 100 * (merged(**batch).logits - trained)[real].abs().max()


@both_weights
def test_saved_adapters_come_back(tmp_path, packed):
    adapted, batch = with_adapters(load(packed=packed), 4, 8), batch_for()
    losses_of_steps(adapted, batch)
    adapted.save_pretrained(tmp_path)
    megabytes = (tmp_path / "adapter_model.safetensors").stat().st_size / 1e6
    assert math.isclose(megabytes, lora.trainable_report(adapted)["adapter_mb"], rel_tol=0.2)
    base = lora.prepared(load(packed=packed))
    lora.check_base(base, tmp_path)
    again = PeftModel.from_pretrained(base, tmp_path).eval()
    assert largest_difference(adapted, again, batch) < 1e-5


def test_adapters_of_another_base_model_are_refused(tmp_path):
    with_adapters(load(), 4, 8).save_pretrained(tmp_path)
    other = load(DECODERS[1])
    with pytest.raises(CourseError, match=rf"another base model \({DECODERS[0]}, this one is {DECODERS[1]}\): load {DECODERS[0]} first"):
        lora.check_base(other, tmp_path)
    other.config.name_or_path = ""  # a model without a name
    with pytest.raises(CourseError, match="does not fit this model"):
        lora.check_base(other, tmp_path)


def test_a_plain_adapter_is_checked_against_its_base_by_id_and_shapes(tmp_path):
    model = load()
    model.config.name_or_path = "ada/base"
    adapted = with_adapters(model, 4, 8)
    adapted.peft_config["default"].base_model_name_or_path = "ada/base"
    adapted.save_pretrained(tmp_path)
    lora.check_base(lora.without_adapters(adapted), tmp_path)
    other = load()
    other.config.name_or_path = "bob/base"
    with pytest.raises(CourseError, match=r"another base model \(ada/base, this one is bob/base\): load ada/base first"):
        lora.check_base(other, tmp_path)
    wide = r"model\.layers\.0\.mlp\.fc\d has 96 \w+ features, not \d+"
    for layers, width, message in ((1, 128, r"it has no layer model\.layers\.1"), (2, 96, wide)):
        sizes = {"hidden_size": 64, "intermediate_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
        small = AutoModelForCausalLM.from_config(PhiConfig(vocab_size=50, **sizes))
        small.config.name_or_path = "ada/base"
        with pytest.raises(CourseError, match=f"does not fit this model .{message}"):
            lora.check_base(small, tmp_path)


def test_a_folder_without_adapters_is_told(tmp_path):
    with pytest.raises(CourseError, match="holds no adapter"):
        lora.check_base(load(), tmp_path)


def test_by_hand_one_layer():
    adapted = with_adapters(load(), 4, 8)
    losses_of_steps(adapted, batch_for())
    layer = adapted.get_base_model().model.layers[0].self_attn.q_proj
    x = torch.randn(2, 5, 64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    by_hand = layer.base_layer(x) + 8 / 4 * (x @ a.T @ b.T)
    assert torch.allclose(layer(x), by_hand, atol=1e-6) and not torch.allclose(layer(x), layer.base_layer(x), atol=1e-4)


def small_bert():
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    )


def test_every_linear_layer_of_a_block_and_no_other_gets_an_adapter():
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    t5 = T5ForConditionalGeneration(T5Config(**sizes))
    gated = T5ForConditionalGeneration(T5Config(**sizes, feed_forward_proj="gated-gelu"))
    bert = small_bert()
    assert lora.target_modules(t5) == ["q", "k", "v", "o", "wi", "wo"]
    assert lora.target_modules(gated) == ["q", "k", "v", "o", "wi_0", "wi_1", "wo"]
    for model in (t5, gated, bert, *map(load, DECODERS)):
        blocks = {
            name for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and (".block." in name or ".layer." in name or ".layers." in name)
        }  # fmt: skip
        adapted = with_adapters(model, 2, 4)
        found = {name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
        assert found == blocks


ATTENTION, GATED = ["q_proj", "k_proj", "v_proj", "o_proj"], ["gate_proj", "up_proj", "down_proj"]
OTHERS = {
    "qwen3": {*ATTENTION, *GATED}, "gemma3_text": {*ATTENTION, *GATED}, "smollm3": {*ATTENTION, *GATED}, "mistral": {*ATTENTION, *GATED},
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"}, "modernbert-decoder": {"q_proj", "k_proj", "v_proj", "Wo", "Wi"},
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
@both_weights
def test_decoders_that_nobody_named_get_adapters_on_all_linear_layers_of_their_blocks(tmp_path, kind, packed):
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | ({"cls_token_id": 3, "sep_token_id": 4} if "bert" in kind else {})
    grouped = {} if "bert" in kind else {"num_key_value_heads": 1, "head_dim": 32}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes, **tokens, **grouped)).save_pretrained(tmp_path)
    quantization = lora.four_bit(torch.float32) if packed else None
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32, quantization_config=quantization)
    output = model.get_output_embeddings()
    found = lora.target_modules(model)
    assert set(found) == OTHERS[kind] and len(found) == len(OTHERS[kind])
    blocks = {name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear) and ".layers." in name}
    adapted = with_adapters(model, 4, 8)
    layers = {name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert layers == blocks and adapted.get_base_model().get_output_embeddings() is output
    ids = torch.arange(5, 25).reshape(2, 10)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    losses = losses_of_steps(adapted, batch)
    assert losses[-1] < losses[0]
    assert largest_difference(adapted, lora.merge(adapted), batch) < 1e-4


def test_a_model_without_blocks_is_told():
    model = small_bert()
    model.bert.encoder = torch.nn.Identity()
    with pytest.raises(CourseError, match="a bert has no linear layers in blocks"):
        lora.target_modules(model)


def test_bert_trains_its_head_too():
    adapted = with_adapters(small_bert(), 2, 4)
    assert any("classifier" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_gpt2s_own_kind_of_linear_layer_gets_adapters_too(tmp_path):
    model = GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=64, n_layer=2, n_head=2, n_positions=64))
    assert lora.target_modules(model) == ["c_attn", "c_proj", "c_fc"]
    config = copy.deepcopy(model.config)
    adapted = with_adapters(model, 4, 8)
    trainable = 2 * 4 * ((64 + 192) + (64 + 64) + (64 + 256) + (256 + 64))
    assert lora.trainable_report(adapted)["trainable"] == trainable
    assert lora.count_parameters(lora.sketch(4)(GPT2LMHeadModel(config)))["trainable"] == trainable
    adapted.save_pretrained(tmp_path)
    lora.check_base(lora.without_adapters(adapted), tmp_path)


def test_the_report_counts_by_layer():
    model = load(packed=True)
    parameters = lora.count_parameters(load())["parameters"]  # of the same weights, not packed
    found = lora.trainable_report(with_adapters(model, 4, 8))
    per_block = {"q_proj": 512, "k_proj": 512, "v_proj": 512, "dense": 512, "fc1": 4 * (64 + 128), "fc2": 4 * (64 + 128)}
    assert found["layers"] == {layer: 2 * numbers for layer, numbers in per_block.items()}
    assert found["trainable"] == sum(found["layers"].values()) and found["parameters"] == parameters + found["trainable"]
    assert found["share"] == found["trainable"] / found["parameters"] and found["adapter_mb"] == 4 * found["trainable"] / 1e6


@both_weights
def test_checkpointing_gives_the_same_gradients(packed):
    gradients = []
    passes = []
    for checkpointing in (False, True):
        adapted, seen = with_adapters(load(packed=packed), 4, 8, checkpointing=checkpointing).train(), []
        attention = adapted.get_base_model().model.layers[0].self_attn
        attention.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        adapted(**batch_for()).loss.backward()
        passes.append(len(seen))
        gradients.append([p.grad for p in adapted.parameters() if p.requires_grad])
    assert passes == [1, 2]  # a block is computed a second time for its gradient
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_four_bit_settings(monkeypatch):
    config = lora.four_bit()
    assert (config.bnb_4bit_quant_type, config.bnb_4bit_use_double_quant) == ("nf4", True)
    assert config.bnb_4bit_compute_dtype == lora.compute_dtype()
    for precision, dtype in (("fp16", torch.float16), ("bf16", torch.bfloat16), ("fp32", torch.float32)):
        monkeypatch.setattr(lora.runtime, "precision", lambda device=None, answer=precision: answer)
        assert lora.four_bit().bnb_4bit_compute_dtype == dtype
    monkeypatch.setattr(lora.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match="pip install bitsandbytes"):
        lora.four_bit()


def test_logits_that_are_not_finite_stop_with_cause_and_cure():
    model, batch = load(), batch_for()
    assert 0 < lora.check_finite(model, batch) < 100
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            model.lm_head.bias[3] = bad
        with pytest.raises(CourseError, match=r"^the logits are not finite \((nan|inf)\) in float32: set another model"):
            lora.check_finite(model, batch, torch.float32)
        with pytest.raises(CourseError, match=r"in bfloat16: set compute=fp32"):
            lora.check_finite(model, batch, torch.bfloat16, "set compute=fp32")


def test_logits_are_checked_in_the_arithmetic_of_the_training():
    model, batch = load(), batch_for()
    exact, rounded = (lora.check_finite(model, batch, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact == lora.logits(model, batch).abs().max() and rounded != exact


def test_the_numbers_of_the_readme_are_those_of_the_shapes():
    """Everything that task-3/README.md says about Llama-3.2-1B and Phi-2, counted from their configurations."""
    text = (ROOT / "task-3" / "README.md").read_text(encoding="utf8")
    llama = LlamaConfig(vocab_size=128_256, hidden_size=2_048, intermediate_size=8_192, num_hidden_layers=16, num_attention_heads=32,
                        num_key_value_heads=8, tie_word_embeddings=True)
    phi = PhiConfig(vocab_size=51_200, hidden_size=2_560, intermediate_size=10_240, num_hidden_layers=32, num_attention_heads=32)
    memory = {}
    for name, config in (("llama", llama), ("phi", phi)):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        targets = tuple(f".{target}" for target in lora.target_modules(model))
        layers = [layer for key, layer in model.named_modules() if key.endswith(targets)]
        weights, adapters = lora.count_parameters(model)["parameters"], sum(16 * (m.in_features + m.out_features) for m in layers)
        linear = sum(layer.weight.numel() for layer in layers)
        packed = linear * cost.NF4_BYTES + 4 * (weights - linear)
        memory[name] = [n / cost.GIB for n in (16 * weights, 2 * weights + 16 * adapters, packed + 16 * adapters)]
        if name == "llama":
            assert f"{weights:,}" in text and f"{adapters:,}" in text and f"{adapters / weights:.2%}".replace("%", " %") in text
            assert f"{4 * adapters / 1e6:.1f} MB" in text and f"{8 * cost.NF4_BYTES:.3f} bits" in text
            stored = [n / cost.GIB for n in (4 * weights, 2 * weights, packed)]
            assert "| weights of the model | " + " | ".join(f"{value:.2f}" for value in stored) + " |" in text
            assert f"| AdamW | {8 * weights / cost.GIB:.2f} | {8 * adapters / cost.GIB:.2f} |" in text
    assert "| in all | " + " | ".join(f"{value:.2f}" for value in memory["llama"]) + " |" in text
    assert "{:.2f}, {:.2f} and {:.2f} GiB".format(*memory["phi"]) in text.replace("\n", " ")


@architectures
def test_the_sketch_has_as_many_numbers_as_the_real_adapters(name):
    real = lora.trainable_report(with_adapters(load(name), 4, 8))
    options = {"batch": 1, "length": 16, "precision": "half", "adapt": lora.sketch(4, 0.05), "four_bit": True}
    drawn = cost.training_cost(load(name).config, "next token", **options)
    assert (drawn.parameters, drawn.trainable) == (real["parameters"], real["trainable"])


@architectures
def test_the_sketch_keeps_the_bytes_that_real_four_bit_layers_do(name):
    real = with_adapters(decoder(name, lora.four_bit(torch.bfloat16), torch.bfloat16), 4, 8).train()
    inputs = cost._inputs("next token", real.config, 2, 48, 0)
    with cost._saved_bytes(real) as saved, cost._autocast("half"):
        real(**inputs)
    options = {"batch": 2, "length": 48, "precision": "half", "adapt": lora.sketch(4), "four_bit": True}
    drawn = cost.training_cost(load(name).config, "next token", **options)
    assert drawn.activations == pytest.approx(saved[0], rel=0.1)
    kept = sum(p.numel() * p.element_size() for p in real.parameters())
    scales = drawn.parameters * 4 / 64  # which bitsandbytes keeps beside the parameters
    assert kept <= drawn.weights <= kept + scales


def test_layers_that_have_written_can_still_be_trained(monkeypatch):
    """bitsandbytes repacks 4-bit weights for AVX512-BF16 at their first inference; such weights know no gradient and unpack to noise."""
    import bitsandbytes as bnb

    losses = []
    for repacks in (False, True):
        monkeypatch.setattr(bnb.nn.modules, "has_avx512bf16", lambda answer=repacks: answer)
        adapted, batch = with_adapters(load(packed=True), 4, 8), batch_for()
        lora.logits(adapted, batch)
        losses.append(losses_of_steps(adapted, batch))
        assert largest_difference(adapted, lora.merge(adapted), batch) < 1e-4
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
