import json
import math
import warnings

import pytest
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    PhiConfig,
    T5Config,
    T5ForConditionalGeneration,
)

from shared import lora, text2text
from shared.course import cost
from shared.course.runtime import ROOT, CourseError
from shared.legacy import causal, data, training
from tests.tiny_training import losses_of_steps

TEXTS = list(data.bundled_split("squad", "train")["context"][:60])
architectures = pytest.mark.parametrize("name", ["phi-2", "llama-3.2-1b", "gemma-2-2b"])
both_weights = pytest.mark.parametrize("packed", [False, True], ids=["whole", "4-bit"])


def load(name="phi-2", packed=False, seed=0):
    quantization = lora.four_bit(torch.float32) if packed else None
    return causal.load_causal(name, "random", quantization=quantization, tokenizer_texts=TEXTS, max_length=128, seed=seed)


def batch_for(tokenizer, rows=3):
    prompts = [("Say: ", text, "\nAnswer:") for text in TEXTS[:rows]]
    encoded, _ = text2text.encode_completions(prompts, [" " + text[:30] for text in TEXTS[:rows]], tokenizer, 100)
    return text2text.CompletionCollator(tokenizer)([encoded[i] for i in range(rows)])


@architectures
@both_weights
def test_adapters_learn_and_the_base_model_stays(name, packed):
    model, tokenizer, _ = load(name, packed)
    batch = batch_for(tokenizer)
    untouched = load(name, packed)[0]
    adapted = lora.add_adapters(model, rank=4, alpha=8)
    assert lora.largest_difference(untouched, adapted, batch) < 1e-5  # B is zero
    before = {key: value.clone() for key, value in adapted.state_dict().items()}
    losses = losses_of_steps(adapted, batch)
    assert losses[-1] < 0.98 * losses[0]
    for key, value in adapted.state_dict().items():
        assert torch.equal(before[key], value) == ("lora_" not in key), key
    assert all(p.dtype == torch.float32 for p in adapted.parameters() if p.requires_grad)


@both_weights
@pytest.mark.parametrize("of", ["the base model", "the adapted model"])
def test_adding_adapters_again_does_the_work_again_and_says_so(of, packed, capsys):
    """As where the cell is run twice: with `model = add_adapters(model)` the model is adapted already, with another name its base is."""
    model, tokenizer, _ = load(packed=packed)
    first, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
    fresh = {name: value.clone() for name, value in first.state_dict().items()}
    losses = losses_of_steps(first, batch)
    assert "adapters" not in capsys.readouterr().out
    with warnings.catch_warnings(action="error"):
        second = lora.add_adapters(model if of == "the base model" else first, 4, 8)
    assert capsys.readouterr().out == "NOTE: the model had adapters already; they are taken off, and it gets new ones.\n"
    again = second.state_dict()
    assert again.keys() == fresh.keys() and all(torch.equal(value, again[name]) for name, value in fresh.items())
    assert lora.count_parameters(second) == lora.count_parameters(first)
    assert losses_of_steps(second, batch) == pytest.approx(losses, abs=1e-6)
    assert lora.add_adapters(second, 2, 8).peft_config["default"].r == 2


def test_adapters_of_a_classifier_and_its_fresh_head_are_taken_off_together():
    model = small_bert()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapted = lora.add_adapters(model, 2, 4)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(1.0)
    plain = lora.without_adapters(adapted)
    assert plain is model and plain.state_dict().keys() == before.keys() and not hasattr(plain, "peft_config")
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert lora.without_adapters(plain) is plain


def test_loading_adapters_over_others_gives_those_of_the_folder(tmp_path, capsys):
    model, tokenizer, card = load()
    adapted, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
    losses_of_steps(adapted, batch)
    lora.save_adapter(adapted, tokenizer, tmp_path, card)
    wanted = lora.logits(adapted, batch)
    over = lora.load_adapter(lora.add_adapters(load()[0], 2, 4), tmp_path, card)
    assert "they are taken off" in capsys.readouterr().out
    assert (lora.logits(over, batch) - wanted).abs().max() < 1e-5


@architectures
@both_weights
def test_merged_model_is_plain_and_gives_the_same_logits(name, packed):
    model, tokenizer, _ = load(name, packed)
    adapted, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
    losses_of_steps(adapted, batch)
    logits = adapted(**batch).logits.detach()
    merged = lora.merge(adapted)
    assert lora.largest_difference(adapted, merged, batch) < 1e-4
    assert torch.equal(adapted(**batch).logits, logits)  # the adapted model is as it was
    assert type(merged).__name__ == type(model).__name__
    assert not [key for key in merged.state_dict() if "lora" in key]
    assert {p.dtype for p in merged.parameters()} == {torch.float32}


def test_a_merged_four_bit_model_can_be_saved_and_loaded(tmp_path):
    model, tokenizer, _ = load(packed=True)
    adapted, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
    losses_of_steps(adapted, batch)
    merged = lora.merge(adapted)
    merged.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again, _, _ = causal.load_causal("phi-2", str(tmp_path))
    assert lora.largest_difference(merged, again, batch) == 0


def test_merging_into_four_bit_weights_would_round_the_adapters_away():
    model, tokenizer, _ = load(packed=True)
    adapted, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
    losses_of_steps(adapted, batch)
    merged, trained = lora.merge(adapted), adapted(**batch).logits.detach()
    rounded = adapted.merge_and_unload()
    real = batch["attention_mask"].bool()
    assert (rounded(**batch).logits - trained)[real].abs().max() > 100 * (merged(**batch).logits - trained)[real].abs().max()


@both_weights
def test_saved_adapters_come_back(tmp_path, packed):
    model, tokenizer, card = load(packed=packed)
    adapted, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
    losses_of_steps(adapted, batch)
    megabytes = lora.save_adapter(adapted, tokenizer, tmp_path, card)
    assert math.isclose(megabytes, lora.trainable_report(adapted)["adapter_mb"], rel_tol=0.2)
    again = lora.load_adapter(load(packed=packed)[0], tmp_path, card)
    assert lora.largest_difference(adapted, again, batch) < 1e-5
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    on = lora.load_adapter(load(packed=packed)[0], tmp_path, card, trainable=True)
    assert any(p.requires_grad for p in on.parameters())


@pytest.mark.parametrize(
    ("name", "seed", "message"),
    [("phi-2", 1, "revision seed-0, this one has seed-1"), ("llama-3.2-1b", 0, "another base model .*tiny phi")],
)
def test_adapters_of_another_base_model_are_refused(tmp_path, name, seed, message):
    model, tokenizer, card = load()
    lora.save_adapter(lora.add_adapters(model, 4, 8), tokenizer, tmp_path, card)
    other, _, other_card = load(name, seed=seed)
    with pytest.raises(CourseError, match=message):
        lora.load_adapter(other, tmp_path, other_card)


def test_adapters_without_a_note_of_their_base_are_refused_where_they_do_not_fit(tmp_path):
    model, tokenizer, card = load()
    lora.save_adapter(lora.add_adapters(model, 4, 8), tokenizer, tmp_path, card)
    (tmp_path / lora.BASE_FILE).unlink()
    other, _, other_card = load("llama-3.2-1b")
    with pytest.raises(CourseError, match="does not fit this model"):
        lora.load_adapter(other, tmp_path, other_card)


def test_a_plain_adapter_is_checked_against_its_base_by_id_and_shapes(tmp_path):
    """As peft saves it, without a note of the course."""
    model, _, _ = load()
    model.config.name_or_path = "ada/base"
    adapted = lora.add_adapters(model, 4, 8)
    adapted.peft_config["default"].base_model_name_or_path = "ada/base"
    adapted.save_pretrained(tmp_path)
    lora.check_base(lora.without_adapters(adapted), tmp_path)
    other = load()[0]
    other.config.name_or_path = "bob/base"
    with pytest.raises(CourseError, match=r"another base model \(id ada/base, this one has bob/base\): load ada/base first"):
        lora.load_adapter(other, tmp_path)
    wide = r"model\.layers\.0\.mlp\.fc\d has 96 \w+ features, not \d+"
    for layers, width, message in ((1, 128, r"it has no layer model\.layers\.1"), (2, 96, wide)):
        sizes = {"hidden_size": 64, "intermediate_size": width, "num_hidden_layers": layers, "num_attention_heads": 2}
        small = AutoModelForCausalLM.from_config(PhiConfig(vocab_size=50, **sizes))
        small.config.name_or_path = "ada/base"
        with pytest.raises(CourseError, match=f"does not fit this model .{message}"):
            lora.check_base(small, tmp_path)


def test_a_folder_without_adapters_is_told(tmp_path):
    model, _, card = load()
    with pytest.raises(CourseError, match="holds no adapter"):
        lora.load_adapter(model, tmp_path, card)


def test_by_hand_one_layer():
    model, tokenizer, _ = load()
    adapted = lora.add_adapters(model, 4, 8)
    losses_of_steps(adapted, batch_for(tokenizer))
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
    for model in (t5, gated, bert, *(load(name)[0] for name in ("phi-2", "llama-3.2-1b", "gemma-2-2b"))):
        blocks = {
            name for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and (".block." in name or ".layer." in name or ".layers." in name)
        }  # fmt: skip
        adapted = lora.add_adapters(model, 2, 4)
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
    adapted = lora.add_adapters(model, 4, 8)
    layers = {name.removeprefix("base_model.model.") for name, module in adapted.named_modules() if hasattr(module, "lora_A")}
    assert layers == blocks and adapted.get_base_model().get_output_embeddings() is output
    ids = torch.arange(5, 25).reshape(2, 10)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
    losses = losses_of_steps(adapted, batch)
    assert losses[-1] < losses[0]
    assert lora.largest_difference(adapted, lora.merge(adapted), batch) < 1e-4


def test_a_model_without_blocks_is_told():
    model = small_bert()
    model.bert.encoder = torch.nn.Identity()
    with pytest.raises(CourseError, match="a bert has no linear layers in blocks"):
        lora.target_modules(model)


def test_bert_trains_its_head_too():
    adapted = lora.add_adapters(small_bert(), 2, 4)
    assert any("classifier" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_the_report_counts_by_layer():
    model, _, card = load(packed=True)
    found = lora.trainable_report(lora.add_adapters(model, 4, 8))
    per_block = {"q_proj": 512, "k_proj": 512, "v_proj": 512, "dense": 512, "fc1": 4 * (64 + 128), "fc2": 4 * (64 + 128)}
    assert found["layers"] == {layer: 2 * numbers for layer, numbers in per_block.items()}
    assert found["trainable"] == sum(found["layers"].values()) and found["parameters"] == card["parameters"] + found["trainable"]
    assert found["share"] == found["trainable"] / found["parameters"] and found["adapter_mb"] == 4 * found["trainable"] / 1e6


@both_weights
def test_checkpointing_gives_the_same_gradients(packed):
    gradients = []
    for checkpointing in (False, True):
        model, tokenizer, _ = load(packed=packed)
        adapted = lora.add_adapters(model, 4, 8, checkpointing=checkpointing).train()
        adapted(**batch_for(tokenizer)).loss.backward()
        gradients.append([p.grad for p in adapted.parameters() if p.requires_grad])
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
    model, tokenizer, _ = load()
    batch = batch_for(tokenizer)
    assert 0 < lora.check_finite(model, batch) < 100
    for bad in (float("nan"), float("inf")):
        with torch.no_grad():
            model.lm_head.bias[3] = bad
        with pytest.raises(CourseError, match=r"^the logits are not finite \((nan|inf)\) in float32: set another model"):
            lora.check_finite(model, batch, torch.float32)
        with pytest.raises(CourseError, match=r"in bfloat16: set compute=fp32"):
            lora.check_finite(model, batch, torch.bfloat16, "set compute=fp32")


def test_logits_are_checked_in_the_arithmetic_of_the_training():
    model, tokenizer, _ = load()
    batch = batch_for(tokenizer)
    exact, rounded = (lora.check_finite(model, batch, dtype) for dtype in (torch.float32, torch.bfloat16))
    assert exact == lora.logits(model, batch).abs().max() and rounded != exact


def test_a_rank_that_trains_nothing_is_told():
    with pytest.raises(CourseError, match="rank 0"):
        lora.add_adapters(load()[0], 0, 8)


def test_the_note_of_the_base_names_no_folder(tmp_path):
    model, tokenizer, card = load()
    lora.save_adapter(lora.add_adapters(model, 4, 8), tokenizer, tmp_path, card)
    assert json.loads((tmp_path / lora.BASE_FILE).read_text())["id"] == "tiny phi (random weights)"
    assert "/tmp" not in (tmp_path / "adapter_config.json").read_text()


def test_adapters_of_a_packaged_model_name_the_hubs(tmp_path):
    model, tokenizer, card = load()
    lora.save_adapter(lora.add_adapters(model, 4, 8), tokenizer, tmp_path, card | {"id": "ada/base" + causal.PACKAGED})
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "ada/base"
    assert json.loads((tmp_path / lora.BASE_FILE).read_text())["id"] == "ada/base" + causal.PACKAGED


def test_other_processes_write_no_adapter(tmp_path, monkeypatch):
    model, tokenizer, card = load()
    adapted = lora.add_adapters(model, 4, 8)
    lora.save_adapter(adapted, tokenizer, tmp_path / "first", card)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "first").iterdir()}
    assert {"adapter_model.safetensors", "tokenizer.json", lora.BASE_FILE} <= {path.name for path in before}
    monkeypatch.setenv("RANK", "1")
    lora.save_adapter(adapted, tokenizer, tmp_path / "first", card)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "first").iterdir()}


def test_a_full_disk_is_named_with_the_cure(tmp_path, monkeypatch):
    model, tokenizer, card = load()
    adapted = lora.add_adapters(model, 4, 8)

    def full(*args, **kwargs):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(type(adapted), "save_pretrained", full)
    with pytest.raises(CourseError, match=r"^cannot write to adapter \(.*No space left on device.*\): free some space and run this cell"):
        lora.save_adapter(adapted, tokenizer, tmp_path / "adapter", card)


def test_a_checkpoint_of_other_adapters_is_not_resumed(tmp_path):
    model, _, _ = load()
    adapted = lora.add_adapters(model, 4, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # a lesson's output must name no folder of the machine
        for _ in range(2):
            adapted.save_pretrained(tmp_path / "checkpoint-1")
    training.check_same_model(tmp_path / "checkpoint-1", adapted)
    with pytest.raises(CourseError, match="r 4, this model has 2"):
        training.check_same_model(tmp_path / "checkpoint-1", lora.add_adapters(load()[0], 2, 8))
    with pytest.raises(CourseError, match="r 4, this model has None"):
        training.check_same_model(tmp_path / "checkpoint-1", load()[0])


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
        weights, adapters = causal.count_parameters(model)["parameters"], sum(16 * (m.in_features + m.out_features) for m in layers)
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
    model, _, _ = load(name)
    real = lora.trainable_report(lora.add_adapters(model, 4, 8))
    options = {"batch": 1, "length": 16, "precision": "half", "adapt": lora.sketch(4, 0.05), "four_bit": True}
    drawn = cost.training_cost(load(name)[0].config, "next token", **options)
    assert (drawn.parameters, drawn.trainable) == (real["parameters"], real["trainable"])


@architectures
def test_the_sketch_keeps_the_bytes_that_real_four_bit_layers_do(name):
    quantization = lora.four_bit(torch.bfloat16)
    model, _, _ = causal.load_causal(name, "random", quantization=quantization, dtype=torch.bfloat16, tokenizer_texts=TEXTS, max_length=128)
    real = lora.add_adapters(model, 4, 8).train()
    inputs = cost._inputs("next token", real.config, 2, 48, 0)
    with cost._saved_bytes(real) as saved, cost._autocast("half"):
        real(**inputs)
    options = {"batch": 2, "length": 48, "precision": "half", "adapt": lora.sketch(4), "four_bit": True}
    drawn = cost.training_cost(load(name)[0].config, "next token", **options)
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
        model, tokenizer, _ = load(packed=True)
        adapted, batch = lora.add_adapters(model, 4, 8), batch_for(tokenizer)
        lora.logits(adapted, batch)
        losses.append(losses_of_steps(adapted, batch))
        assert lora.largest_difference(adapted, lora.merge(adapted), batch) < 1e-4
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
