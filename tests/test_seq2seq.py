import pytest
import torch
from transformers import DataCollatorForSeq2Seq, MBart50Tokenizer, NllbTokenizer

from shared import text2text
from shared.course.runtime import CourseError
from shared.legacy import data, models, seq2seq
from shared.legacy.seq2seq import SEQ2SEQ, load_seq2seq
from tests.tiny_training import losses_of_steps

TEXTS = list(dict.fromkeys(data.bundled_split("squad", "train")["context"]))
every_name = pytest.mark.parametrize("name", list(SEQ2SEQ))


def load(name, **options):
    return load_seq2seq(name, "random", **({"tokenizer_texts": TEXTS, "max_length": 64} | options))


def batch_of(model, tokenizer, rows=3):
    encoded, _ = text2text.encode_pairs(TEXTS[:rows], [text[:40] for text in TEXTS[:rows]], tokenizer, 48, 24)
    return DataCollatorForSeq2Seq(tokenizer, model=model)([encoded[i] for i in range(rows)])


@every_name
def test_a_random_model_learns_a_batch_and_generates(name):
    model, tokenizer, card = load(name, dropout=0.0)
    assert card["parameters"] == card["trainable"] == model.num_parameters() == sum(p.numel() for p in model.parameters())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    losses = losses_of_steps(model, batch_of(model, tokenizer))
    assert losses[-1] < 0.9 * losses[0]
    generated = text2text.generate(model, tokenizer, TEXTS[:2], max_new_tokens=5, max_source=48)
    assert len(generated.texts) == 2


@every_name
def test_seed_and_dropout_are_as_asked(name):
    first, again, other = (load(name, seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)
    model, tokenizer, _ = load(name, dropout=0.0)
    batch = batch_of(model, tokenizer)
    model.train()
    with torch.no_grad():
        assert model(**batch).loss.item() == model(**batch).loss.item()  # nothing is left that draws
    model, tokenizer, _ = load(name, dropout=0.5)
    model.train()
    with torch.no_grad():
        assert model(**batch).loss.item() != model(**batch).loss.item()


def test_t5s_tokenizer_ends_every_text_and_says_any_text_again():
    _, tokenizer, _ = load("t5-small")
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    for text in ("The bridge of Ålborg.", "naïve 😀  two blanks", "x"):
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == 1 and tokenizer.decode(ids, skip_special_tokens=True) == text


def test_barts_tokenizer_frames_every_text():
    model, tokenizer, _ = load("bart-base")
    ids = tokenizer("a text")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)
    assert model.config.decoder_start_token_id == 2


def test_the_vocabulary_has_the_size_asked_for():
    model, tokenizer, _ = load("t5-scratch", vocabulary=900)
    assert len(tokenizer) == model.config.vocab_size == 900


def test_the_warm_started_decoder_begins_with_the_encoders_weights_and_new_cross_attention():
    model, tokenizer, _ = load("minilm2minilm")
    encoder, decoder = model.encoder.state_dict(), model.decoder.bert.state_dict()
    new = [key for key in decoder if key not in encoder]
    assert new and all("crossattention" in key for key in new)
    assert all(torch.equal(encoder[key], decoder[key]) for key in decoder if key in encoder)
    assert model.config.decoder_start_token_id == tokenizer.cls_token_id
    assert model.generation_config.eos_token_id == tokenizer.sep_token_id


@pytest.mark.parametrize("name", seq2seq.WARM_STARTED)
def test_the_encoder_may_be_one_that_was_fine_tuned(tmp_path, name):
    pointing, tokenizer, _ = models.load_encoder("minilm", "random", None, head="spans", tokenizer_texts=TEXTS, max_length=64, seed=7)
    models.save(pointing, tokenizer, tmp_path)
    plain, *_ = load(name)
    model, _, card = load(name, encoder=tmp_path)
    theirs = pointing.base_model.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.encoder.state_dict().items() if not key.startswith("pooler"))
    assert all(torch.equal(value, plain.decoder.state_dict()[key]) for key, value in model.decoder.state_dict().items())
    assert "its encoder fine-tuned before" in card["id"]
    with pytest.raises(CourseError, match=r"^t5-scratch brings its own encoder: only minilm2minilm and minilm2minilm-copy "):
        load("t5-scratch", encoder=tmp_path)


@every_name
def test_a_saved_model_says_the_same_again(name, tmp_path):
    model, tokenizer, _ = load(name)
    models.save(model, tokenizer, tmp_path)
    again, its_tokenizer = seq2seq.load_saved(tmp_path)
    assert type(again) is type(model) and not again.training
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    first, second = (
        text2text.generate(*pair, TEXTS[:3], max_new_tokens=6, max_source=48).texts for pair in ((model, tokenizer), (again, its_tokenizer))
    )
    assert first == second


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(CourseError, match="holds no saved model"):
        seq2seq.load_saved(tmp_path)


@pytest.mark.parametrize(
    ("name", "weights", "options", "message"),
    [
        ("t5-smal", "random", {}, r"^unknown encoder–decoder 't5-smal': did you mean 't5-small'\?"),
        ("t5-small", "trained", {}, r"^unknown kind of weights 'trained'"),
        ("someone/a-t5", "random", {}, r"^'someone/a-t5' has no random twin: choose weights=pretrained"),
        ("t5-scratch", "pretrained", {}, r"^t5-scratch exists with random weights only: set weights=random$"),
        ("t5-small", "random", {"tokenizer_texts": []}, r"^a random model needs texts to train its tokenizer on"),
    ],
)
def test_what_cannot_be_loaded_says_why(name, weights, options, message):
    with pytest.raises(CourseError, match=message):
        load_seq2seq(name, weights, **({"tokenizer_texts": TEXTS} | options))


def test_a_model_that_the_hub_cannot_give_names_the_way_out(monkeypatch):
    asked = []

    def refuse(place, **kwargs):
        asked.append((place, kwargs))
        raise OSError("not here")

    monkeypatch.setattr(seq2seq.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setattr(models, "hub_reachable", lambda: False)
    message = r"^cannot load google-t5/t5-small: check the connection or choose model=t5-scratch \(not here\)$"
    with pytest.raises(CourseError, match=message):
        load_seq2seq("t5-small", "pretrained")
    assert asked == [("google-t5/t5-small", {"local_files_only": True})]


def test_pretrained_weights_are_loaded_in_float32(monkeypatch, tmp_path):
    source, tokenizer, _ = load("t5-small")
    models.save(source.to(torch.bfloat16), tokenizer, tmp_path)
    monkeypatch.setitem(SEQ2SEQ, "t5-small", seq2seq.Seq2SeqSpec(str(tmp_path), "t5", {}))
    monkeypatch.setattr(models, "hub_reachable", lambda: False)
    model, _, card = load_seq2seq("t5-small", "pretrained")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert card["id"] == str(tmp_path)


@pytest.mark.parametrize(("tagged", "source", "target"), [(NllbTokenizer, "eng_Latn", "ind_Latn"), (MBart50Tokenizer, "en_XX", "id_ID")])
def test_language_tags_reach_both_sides_and_the_generation(tagged, source, target):
    tokenizer = tagged()
    first, second = tokenizer.convert_tokens_to_ids([source, target])
    assert seq2seq.set_languages(tokenizer, source, target) == {"forced_bos_token_id": second}
    assert tokenizer("a")["input_ids"][0] == first
    assert tokenizer(text_target="a")["input_ids"][0] == second


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        ("eng_Latn", "ind", r"^target 'ind' is none of the 202 language tags of NllbTokenizer: choose one like ind_Latn$"),
        ("eng_latn", "ind_Latn", r"^source 'eng_latn' is none of .*: choose one like eng_Latn$"),
        ("", "", r"^source '' is none of the 202 language tags of NllbTokenizer: choose one like ace_Arab, ace_Latn, acm_Arab$"),
        ("eng_Latn", "<unk>", r"^target '<unk>' is none of"),
    ],
)
def test_a_language_tag_that_the_tokenizer_does_not_know(source, target, message):
    with pytest.raises(CourseError, match=message):
        seq2seq.set_languages(NllbTokenizer(), source, target)


def test_a_model_without_language_tags():
    _, tokenizer, _ = load("t5-small")
    assert seq2seq.set_languages(tokenizer, "", "") == {}
    with pytest.raises(CourseError, match=r"has no language tags: leave language_tags empty and use a prefix$"):
        seq2seq.set_languages(tokenizer, "", "ind_Latn")


def test_a_saved_model_is_loaded_with_its_tokenizer_and_its_prefix_known(tmp_path):
    model, tokenizer, _ = load("t5-small")
    models.save(model, tokenizer, tmp_path)
    again, tokenizer_again = seq2seq.load_saved(tmp_path)
    wrote = text2text.generate(model, tokenizer, TEXTS[:2], max_new_tokens=5, max_source=48).texts
    assert text2text.generate(again, tokenizer_again, TEXTS[:2], max_new_tokens=5, max_source=48).texts == wrote
    with pytest.raises(CourseError, match="holds no saved model"):
        seq2seq.load_saved(tmp_path / "nothing")
    assert [seq2seq.prefix_for(name, "do: ") for name in ("t5-small", "bart-base", "someone/a-t5")] == ["do: ", "", "do: "]
