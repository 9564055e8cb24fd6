"""The copying encoder–decoder against its definition, written out place by place, and in the work that it is for."""

import math
import subprocess
import sys

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    BertModel,
    DataCollatorForSeq2Seq,
    EncoderDecoderModel,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
)

from shared import data
from shared.course import cost, substitutes, twins
from shared.course.pointer import Pointer, PointerConfig, PointerEncoderDecoder
from shared.course.runtime import ROOT
from tests.tiny_training import losses_of_steps

TEXTS = list(dict.fromkeys(data.bundled_split("squad", "train")["context"]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A two-layer pointer, made as course/minilm-pointer is, from the twin of MiniLM."""
    target = tmp_path_factory.mktemp("models") / "pointer"
    substitutes.make_pointer(twins.twin(substitutes.MINILM), target, layers=1)
    return target


@pytest.fixture
def loaded(folder):
    """(model, tokenizer), as a lesson loads them, without dropout."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model, AutoTokenizer.from_pretrained(folder)


def encode(tokenizer, rows=3):
    sources = tokenizer(TEXTS[:rows], truncation=True, max_length=48)
    labels = tokenizer(text_target=[text[: 15 * place + 20] for place, text in enumerate(TEXTS[:rows])], truncation=True, max_length=24)
    columns = zip(sources["input_ids"], sources["attention_mask"], labels["input_ids"], strict=True)
    return [dict(zip(("input_ids", "attention_mask", "labels"), row, strict=True)) for row in columns]


def batch_of(model, tokenizer, rows=3):
    return DataCollatorForSeq2Seq(tokenizer, model=model)(encode(tokenizer, rows))


def by_definition(pointer, logits, states, encoded, source, mask, written):
    """See et al. 2017, equation 9, for one row: a number at a time."""
    rows = []
    for t in range(len(logits)):
        scores = []
        for i in range(len(source)):
            score = pointer.query(states[t]).dot(pointer.key(encoded[i])).item() / math.sqrt(encoded.shape[-1])
            scores.append(score + (pointer.follow.item() if i > 1 and source[i - 1] == written[t] else 0.0))
        weights = [math.exp(score) if mask[i] else 0.0 for i, score in enumerate(scores)]
        shares = [weight / sum(weights) for weight in weights]
        found = sum(share * encoded[i] for i, share in enumerate(shares))
        write = torch.sigmoid(pointer.gate(torch.cat([states[t], found]))).item()
        said = (write * logits[t].softmax(-1)).tolist()
        for i, share in enumerate(shares):
            said[int(source[i])] += (1 - write) * share
        rows.append(said)
    return torch.tensor(rows)


def drawn(size=8, vocabulary=11):
    """A pointer and what it is given, two rows, the second of which ends in padding."""
    pointer = Pointer(size).double()
    with torch.no_grad():
        pointer.follow.fill_(1.7)
    states, encoded = torch.randn(2, 4, size).double(), torch.randn(2, 6, size).double()
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    given = (torch.randn(2, 4, vocabulary), states, encoded, torch.randint(vocabulary, (2, 6)), mask, torch.randint(vocabulary, (2, 4)))
    return pointer, given


def test_the_mixture_is_the_one_of_the_definition():
    torch.manual_seed(0)
    for _ in range(20):
        pointer, given = drawn()
        found = pointer(*given)
        for row in range(2):
            wanted = by_definition(pointer, *(part[row] for part in given))
            torch.testing.assert_close(found[row].exp(), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 4), rtol=0, atol=1e-5)


def test_the_loss_is_that_of_the_mixture_and_so_are_its_gradients():
    torch.manual_seed(1)
    for _ in range(10):
        pointer, given = drawn()
        labels = torch.randint(11, (2, 4))
        labels[1, 2:] = -100
        gradients = []
        for loss in (
            pointer.loss(labels, *given),
            torch.nn.functional.nll_loss(pointer(*given).flatten(0, 1), labels.flatten(), ignore_index=-100),
        ):
            pointer.zero_grad()
            loss.backward()
            gradients.append([loss.detach(), *(p.grad.clone() for p in pointer.parameters())])
        for short, long in zip(*gradients, strict=True):
            torch.testing.assert_close(short, long, rtol=1e-4, atol=1e-6)


def test_padding_gets_no_share_and_the_place_after_the_last_token_gets_the_bonus():
    pointer, source = Pointer(4), torch.tensor([[8, 5, 7, 5, 9, 0]])
    with torch.no_grad():
        pointer.follow.fill_(30.0)
    shares = pointer.attention(torch.zeros(1, 2, 4), torch.zeros(1, 6, 4), source, (source != 0).long(), torch.tensor([[8, 5]]))
    torch.testing.assert_close(shares[0, 0], torch.tensor([0.2] * 5 + [0.0]))  # 8 opens the source and leads nowhere
    torch.testing.assert_close(shares[0, 1], torch.tensor([0.0, 0.0, 0.5, 0.0, 0.5, 0.0]))  # 5 stands twice: after either


def test_probabilities_are_added_up_in_32_bits_whatever_the_weights_have():
    torch.manual_seed(0)
    pointer, (logits, states, encoded, *others) = drawn()
    halves = (logits.bfloat16(), states.bfloat16(), encoded.bfloat16())
    found = pointer.bfloat16()(*halves, *others)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 4), rtol=0, atol=1e-5)


def test_the_loss_of_a_batch_is_the_mean_over_counted_labels_in_training_and_in_evaluation(loaded):
    model, tokenizer = loaded
    batch = batch_of(model, tokenizer)
    assert (batch["labels"] == -100).any()
    out = model(**batch)
    counted = batch["labels"] != -100
    picked = out.logits.gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(out.loss, -picked[counted].mean())
    trained = model.train()(**batch)
    assert trained.logits is None
    torch.testing.assert_close(trained.loss, out.loss)
    torch.testing.assert_close(model(**{k: v for k, v in batch.items() if k != "labels"}).logits, out.logits)  # for label smoothing
    trained.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    lost = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert all("bias" in name or "token_type" in name for name in lost), lost  # nothing that several processes would wait for


def test_labels_open_as_sources_do_and_the_decoder_starts_from_the_end_token(loaded):
    model, tokenizer = loaded
    batch = batch_of(model, tokenizer)
    assert (batch["labels"][:, 0] == tokenizer.cls_token_id).all() and (batch["decoder_input_ids"][:, 0] == tokenizer.sep_token_id).all()
    written = model.generate(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=3)
    assert (written[:, :2] == torch.tensor([tokenizer.sep_token_id, tokenizer.cls_token_id])).all()


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_writes_what_whole_passes_write(loaded, beams):
    model, tokenizer = loaded
    losses_of_steps(model, batch_of(model, tokenizer), steps=3)
    batch = tokenizer(TEXTS[:3], truncation=True, max_length=48, padding=True, return_tensors="pt")
    assert set(batch) == {"input_ids", "attention_mask"}  # as T5's; `generate` takes no token types
    said = [model.generate(**batch, max_new_tokens=6, num_beams=beams, use_cache=cache).tolist() for cache in (True, False)]
    alone = tokenizer(TEXTS[:1], truncation=True, max_length=48, return_tensors="pt")
    said.append([*model.generate(**alone, max_new_tokens=6, num_beams=beams).tolist(), *said[0][1:]])
    assert said[0] == said[1]
    assert tokenizer.batch_decode(said[0], skip_special_tokens=True) == tokenizer.batch_decode(said[2], skip_special_tokens=True)


def test_greedy_decoding_takes_the_likeliest_token_of_the_mixture(loaded):
    model, tokenizer = loaded
    losses_of_steps(model, batch_of(model, tokenizer), steps=3)
    batch = tokenizer(TEXTS[:1], truncation=True, max_length=48, return_tensors="pt")
    (written,) = model.generate(**batch, max_new_tokens=5).tolist()
    for length in range(2, len(written)):
        with torch.no_grad():
            logits = model(**batch, decoder_input_ids=torch.tensor([written[:length]])).logits
        assert int(logits[0, -1].argmax()) == written[length]


def test_a_saved_model_is_loaded_as_one_that_copies(loaded, tmp_path):
    model, tokenizer = loaded
    losses_of_steps(model, batch_of(model, tokenizer), steps=2)
    model.config.pretraining = {"task": "none", "rows": 3}
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert type(again) is PointerEncoderDecoder and again.config.pretraining == {"task": "none", "rows": 3}
    batch = batch_of(model, tokenizer)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    kept = ("decoder_start_token_id", "eos_token_id", "pad_token_id", "forced_bos_token_id")
    assert [getattr(again.generation_config, key) for key in kept] == [getattr(model.generation_config, key) for key in kept]


FRESH = """
import os, sys
os.environ |= {"COURSE_PROFILE": sys.argv[2], "HF_HUB_OFFLINE": "1"}
from shared import course
course.setup()
print("registered", "shared.course.pointer" in sys.modules)
from transformers import AutoModelForSeq2SeqLM
print(type(AutoModelForSeq2SeqLM.from_pretrained(sys.argv[1])).__name__)
"""


def test_a_fresh_process_loads_it_after_the_courses_setup_in_laptop_alone(folder, monkeypatch):
    for name in ("COURSE_STANDIN", "COURSE_STANDIN_BEFORE"):
        monkeypatch.delenv(name, raising=False)
    done = {
        profile: subprocess.run([sys.executable, "-c", FRESH, str(folder), profile], cwd=ROOT, capture_output=True, text=True)
        for profile in ("laptop", "tiny")
    }
    assert done["laptop"].stdout.splitlines()[-2:] == ["registered True", "PointerEncoderDecoder"], done["laptop"].stderr
    assert "registered False" in done["tiny"].stdout and "pointer-encoder-decoder" in done["tiny"].stderr


def test_its_cost_counts_the_pointer(loaded):
    model, _ = loaded
    assert cost.training_cost(model.config, "text", batch=2, length=16).parameters == model.num_parameters()


def test_a_trainer_trains_checks_and_writes_with_it(loaded, tmp_path):
    model, tokenizer = loaded
    arguments = Seq2SeqTrainingArguments(
        tmp_path, max_steps=2, per_device_train_batch_size=2, gradient_accumulation_steps=2, eval_strategy="steps", eval_steps=2,
        predict_with_generate=True, generation_max_length=8, label_smoothing_factor=0.1, use_cpu=True, report_to="none",
    )  # fmt: skip
    collate = DataCollatorForSeq2Seq(tokenizer, model=model)
    rows = encode(tokenizer, 8)
    trainer = Seq2SeqTrainer(model, arguments, train_dataset=rows, eval_dataset=rows[:2], data_collator=collate, processing_class=tokenizer)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[0]["eval_loss"])
    assert len(trainer.predict(rows[:3]).predictions) == 3
    assert not trainer.model_accepts_loss_kwargs  # else the losses of accumulated batches would be added up, not averaged


def test_it_learns_to_copy_where_the_plain_model_does_not(folder):
    """Six random words, the third of which is to be said; words of the test do not occur as answers in training."""

    def pairs(generator, words, rows=32):
        picked = torch.stack([words[torch.randperm(len(words), generator=generator)[:6]] for _ in range(rows)])
        ends = torch.full((rows, 1), tokenizer.sep_token_id)
        return {"input_ids": torch.cat([picked, ends], 1), "labels": torch.cat([picked[:, 2:3], ends], 1)}

    tokenizer, right = AutoTokenizer.from_pretrained(folder), {}
    for kind in (PointerEncoderDecoder, EncoderDecoderModel):
        torch.manual_seed(0)
        config = PointerConfig.from_pretrained(folder)
        encoder, decoder = BertModel(config.encoder), BertLMHeadModel(config.decoder)
        model = kind(encoder=encoder, decoder=decoder)
        model.config.decoder_start_token_id, model.config.pad_token_id = config.decoder_start_token_id, config.pad_token_id
        words, generator = torch.arange(100, 400), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
        for _ in range(150):
            model(**pairs(generator, words[:200])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        unseen = pairs(generator, words[200:], 200)
        with torch.no_grad():
            right[kind] = (model.eval()(**unseen).logits[:, 0].argmax(-1) == unseen["labels"][:, 0]).float().mean().item()
    assert right[PointerEncoderDecoder] > 0.9
    assert right[EncoderDecoderModel] < 0.1


def test_hidden_states_come_back_only_when_they_are_asked_for(loaded):
    model, tokenizer = loaded
    batch = batch_of(model, tokenizer)
    assert model(**batch).decoder_hidden_states is None and model(**batch).encoder_hidden_states is None
    asked = model(**batch, output_hidden_states=True)
    assert asked.decoder_hidden_states[-1].shape == (*batch["labels"].shape, model.config.decoder.hidden_size)


def test_two_vocabularies_are_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    decoder = BertLMHeadModel(BertConfig(**sizes, vocab_size=60, is_decoder=True, add_cross_attention=True))
    with pytest.raises(ValueError, match="the same vocabulary"):
        PointerEncoderDecoder(encoder=BertModel(BertConfig(**sizes, vocab_size=50)), decoder=decoder)


def test_its_type_is_its_own():
    sides = {side: BertConfig().to_dict() for side in ("encoder", "decoder")}
    assert AutoConfig.for_model("pointer-encoder-decoder", **sides).pretraining is None
    assert "t5" not in PointerConfig.model_type  # whose precision is another one
