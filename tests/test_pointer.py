"""The copying encoder–decoder against its definition, written out place by place, and in the work that it is for."""

import math

import pytest
import torch
from transformers import BertConfig, BertModel

from shared import text2text
from shared.course import cost
from shared.legacy import models, seq2seq
from shared.legacy.pointer import Pointer, PointerEncoderDecoder
from tests.test_seq2seq import TEXTS, batch_of, load
from tests.tiny_training import losses_of_steps

NAME = "minilm2minilm-copy"


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


def test_the_mixture_is_the_one_of_the_definition():
    torch.manual_seed(0)
    size, vocabulary = 8, 11
    pointer = Pointer(size).double()
    with torch.no_grad():
        pointer.follow.fill_(1.7)
    for _ in range(20):
        logits, states, encoded = torch.randn(2, 4, vocabulary), torch.randn(2, 4, size).double(), torch.randn(2, 6, size).double()
        source, written = torch.randint(vocabulary, (2, 6)), torch.randint(vocabulary, (2, 4))
        mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
        found = pointer(logits, states, encoded, source, mask, written)
        for row in range(2):
            wanted = by_definition(pointer, logits[row], states[row], encoded[row], source[row], mask[row], written[row])
            torch.testing.assert_close(found[row].exp(), wanted, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(2, 4), rtol=0, atol=1e-5)


def test_padding_gets_no_share_and_the_place_after_the_last_token_gets_the_bonus():
    pointer, source = Pointer(4), torch.tensor([[8, 5, 7, 5, 9, 0]])
    with torch.no_grad():
        pointer.follow.fill_(30.0)
    shares = pointer.attention(torch.zeros(1, 2, 4), torch.zeros(1, 6, 4), source, (source != 0).long(), torch.tensor([[8, 5]]))
    torch.testing.assert_close(shares[0, 0], torch.tensor([0.2] * 5 + [0.0]))  # 8 opens the source and leads nowhere
    torch.testing.assert_close(shares[0, 1], torch.tensor([0.0, 0.0, 0.5, 0.0, 0.5, 0.0]))  # 5 stands twice: after either


def test_the_loss_is_the_mean_over_counted_labels_and_its_gradient_is_finite():
    model, tokenizer, _ = load(NAME, dropout=0.0)
    batch = batch_of(model, tokenizer)
    out = model(**batch)
    counted = batch["labels"] != -100
    picked = out.logits.gather(-1, batch["labels"].clamp(min=0)[..., None])[..., 0]
    torch.testing.assert_close(out.loss, -picked[counted].mean())
    out.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.pointer.parameters() if p is not model.pointer.key.bias)


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_writes_what_whole_passes_write(beams):
    model, tokenizer, _ = load(NAME)
    said = [
        text2text.generate(model, tokenizer, TEXTS[:3], max_new_tokens=6, max_source=48, num_beams=beams, **others).texts
        for others in ({"batch_size": 3}, {"batch_size": 1}, {"batch_size": 3, "use_cache": False})
    ]
    assert said[0] == said[1] == said[2]


def test_a_saved_model_is_loaded_as_one_that_copies(tmp_path):
    model, tokenizer, _ = load(NAME)
    losses_of_steps(model, batch_of(model, tokenizer))
    models.save(model.eval(), tokenizer, tmp_path)
    again, _ = seq2seq.load_saved(tmp_path)
    assert type(again) is PointerEncoderDecoder
    batch = batch_of(model, tokenizer)
    torch.testing.assert_close(again(**batch).logits, model(**batch).logits)
    plain, its_tokenizer, _ = load("minilm2minilm")
    models.save(plain, its_tokenizer, tmp_path / "plain")
    assert type(seq2seq.load_saved(tmp_path / "plain")[0]).__name__ == "EncoderDecoderModel"


def test_its_cost_counts_the_pointer():
    model, _, card = load(NAME)
    plain_card = load("minilm2minilm")[2]
    own = sum(p.numel() for p in model.pointer.parameters())
    assert cost.parameters_of(model.config, "text") == card["parameters"] == plain_card["parameters"] + own
    assert cost.training_cost(model.config, "text", batch=2, length=16).parameters == card["parameters"]


def test_it_learns_to_copy_where_the_plain_model_does_not():
    """Six random words, the third of which is to be said; words of the test do not occur as answers in training."""

    def pairs(generator, words, rows=32):
        picked = torch.stack([words[torch.randperm(len(words), generator=generator)[:6]] for _ in range(rows)])
        ends = torch.full((rows, 1), tokenizer.sep_token_id)
        return {"input_ids": torch.cat([picked, ends], 1), "labels": torch.cat([picked[:, 2:3], ends], 1)}

    right = {}
    for name in (NAME, "minilm2minilm"):
        model, tokenizer, _ = load(name, dropout=0.0)
        words, generator = torch.arange(100, 400), torch.Generator().manual_seed(0)
        optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-3)
        for _ in range(150):
            model(**pairs(generator, words[:200])).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        unseen = pairs(generator, words[200:], 200)
        with torch.no_grad():
            right[name] = (model.eval()(**unseen).logits[:, 0].argmax(-1) == unseen["labels"][:, 0]).float().mean().item()
    assert right[NAME] > 0.9
    assert right["minilm2minilm"] < 0.1


def test_hidden_states_come_back_only_when_they_are_asked_for():
    model, tokenizer, _ = load(NAME, dropout=0.0)
    batch = batch_of(model, tokenizer)
    assert model(**batch).decoder_hidden_states is None and model(**batch).encoder_hidden_states is None
    asked = model(**batch, output_hidden_states=True)
    assert asked.decoder_hidden_states[-1].shape == (*batch["labels"].shape, model.config.decoder.hidden_size)


def test_two_vocabularies_are_refused():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    decoder = type(load(NAME)[0].decoder)(BertConfig(**sizes, vocab_size=60, is_decoder=True, add_cross_attention=True))
    with pytest.raises(ValueError, match="the same vocabulary"):
        PointerEncoderDecoder(encoder=BertModel(BertConfig(**sizes, vocab_size=50)), decoder=decoder)
