"""Encoder–decoder models by one call: from the Hub, from scratch, warm-started from an encoder, or tiny.

Split off from `models`, which holds the encoders. Knows nothing of data sets.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    EncoderDecoderModel,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from shared.course.pointer import PointerEncoderDecoder
from shared.course.runtime import CourseError, device, unknown
from shared.legacy import models

# said at every loss of an EncoderDecoderModel, whoever made its decoder inputs
warnings.filterwarnings("ignore", message="Version v4.12.0 introduces a better way to train encoder-decoder")


@dataclass(frozen=True)
class Seq2SeqSpec:
    """An encoder–decoder of the model switch: its Hub id, its architecture, the sizes of its random twin, its prefix habit."""

    hub_id: str  # "" for a model that exists only with random weights
    model_type: str
    sizes: dict[str, Any]
    prefixes: bool = True  # T5 is told its task by a prefix, BART is not
    special: tuple[str, ...] = field(default=("<pad>", "</s>", "<unk>"))  # in the order of their ids


_TOKEN_NAMES = {"<pad>": "pad_token", "</s>": "eos_token", "<unk>": "unk_token", "<s>": "bos_token"}
_T5_TINY = {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
_FLAN_TINY = _T5_TINY | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART_TINY = {
    "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128,
}
SEQ2SEQ = {
    "t5-small": Seq2SeqSpec("google-t5/t5-small", "t5", _T5_TINY),
    "t5-base": Seq2SeqSpec("google-t5/t5-base", "t5", _T5_TINY),
    "flan-t5-small": Seq2SeqSpec("google/flan-t5-small", "t5", _FLAN_TINY),
    "flan-t5-base": Seq2SeqSpec("google/flan-t5-base", "t5", _FLAN_TINY),
    "bart-base": Seq2SeqSpec("facebook/bart-base", "bart", _BART_TINY, prefixes=False, special=("<s>", "<pad>", "</s>", "<unk>")),
    "t5-scratch": Seq2SeqSpec(
        "", "t5", {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4}
    ),
    "minilm2minilm": Seq2SeqSpec("", "encoder-decoder", {"decoder_layers": 3}),
    "minilm2minilm-copy": Seq2SeqSpec("", "encoder-decoder", {"decoder_layers": 3, "architecture": PointerEncoderDecoder}),
}
# those that can read with an encoder that was fine-tuned before
WARM_STARTED = [name for name, spec in SEQ2SEQ.items() if spec.model_type == "encoder-decoder"]


def load_seq2seq(
    name: str,
    weights: str,
    *,
    tokenizer_texts: Iterable[str] = (),
    vocabulary: int = models.TINY_VOCABULARY,
    max_length: int = 512,
    dropout: float | None = None,
    encoder: Path | None = None,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """An encoder–decoder, its tokenizer, and the `model` object of the results.

    Args:
        name: a key of SEQ2SEQ, or any encoder–decoder's Hub id (pre-trained only).
        weights: "pretrained" from the Hub; "random" for the tiny twin, or for "t5-scratch" a small T5. "minilm2minilm" is a MiniLM
            encoder and a decoder started from its lowest layers, with random cross-attention (Rothe, Narayan, Severyn 2020, arXiv
            1907.12461), "minilm2minilm-copy" the same with a pointer (`shared.course.pointer`); with "random" their tiny twins.
        tokenizer_texts, vocabulary: what a random T5's or BART's byte-level BPE is trained on, and its size.
        max_length: positions of a random model that has a limit.
        dropout: one probability for all layers; None keeps the model's own.
        encoder: for a warm start from MiniLM, a folder of `models.save` with a fine-tuned MiniLM to read with; its head is left out.

    The weights are float32, on the best device. Raises CourseError for an unknown name and for a model that can't be fetched.
    """
    torch.manual_seed(seed)
    spec = _spec_of(name)
    if weights not in ("random", "pretrained"):
        raise unknown("kind of weights", weights, ["random", "pretrained"])
    if spec.model_type == "encoder-decoder":
        model, tokenizer, card = _warm_started(spec, weights, tokenizer_texts, max_length, encoder, seed)
    elif encoder:
        raise CourseError(f"{name} brings its own encoder: only {' and '.join(WARM_STARTED)} can take another")
    elif weights == "pretrained":
        model, tokenizer, card = _pretrained(spec, name)
    else:
        model, tokenizer = _random(spec, name, tokenizer_texts, vocabulary, max_length)
        card = {"id": f"{name if name == 't5-scratch' else 'tiny ' + spec.model_type} (random weights)", "revision": f"seed-{seed}"}
    return set_dropout(model, dropout).to(device()).eval(), tokenizer, card | models.count_parameters(model)


def _spec_of(name: str) -> Seq2SeqSpec:
    if name not in SEQ2SEQ and "/" not in name:
        raise unknown("encoder–decoder", name, list(SEQ2SEQ))
    return SEQ2SEQ.get(name) or Seq2SeqSpec(name, "", {})


def load_saved(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """An encoder–decoder in float32 and its tokenizer from a folder written by `models.save`, in evaluation mode, on the best device."""
    if not (folder / "config.json").is_file():
        raise CourseError(f"{folder} holds no saved model: run the lesson's saving cell first")
    config = AutoConfig.from_pretrained(folder)
    architecture = EncoderDecoderModel if config.model_type == "encoder-decoder" else AutoModelForSeq2SeqLM
    return architecture.from_pretrained(folder, dtype=torch.float32).to(device()).eval(), AutoTokenizer.from_pretrained(folder)


def prefix_for(name: str, prefix: str) -> str:
    """`prefix`, or nothing for a model that was never told its task that way (BART; mBART, NLLB and Marian go by tags or by model).

    Of a Hub id the name decides: the T5 family has "t5" in it.
    """
    takes = SEQ2SEQ[name].prefixes if name in SEQ2SEQ else "t5" in name.lower()
    return prefix if takes else ""


def set_languages(tokenizer: PreTrainedTokenizerBase, source: str, target: str) -> dict[str, int]:
    """Tell a model with language tags (mBART "en_XX", NLLB "eng_Latn") what it translates; returns arguments for `generate`.

    Args:
        source, target: tags of the tokenizer, or "" for a model without any, such as T5, which a prefix tells its task.

    The library takes a wrong tag for the unknown token, without a word, and the model then writes in any language.
    Raises CourseError for a tag that the tokenizer does not know, for a missing one, and for one that can't be used.
    """
    kind = type(tokenizer).__name__
    if not hasattr(tokenizer, "src_lang"):
        if source or target:
            raise CourseError(f"{kind} has no language tags: leave language_tags empty and use a prefix")
        return {}
    special = {*tokenizer.all_special_tokens, *getattr(tokenizer, "lang_code_to_id", {})}
    known = sorted(token for token in special if token[:2].isalpha() and "_" in token)
    for side, tag in (("source", source), ("target", target)):
        if tag not in known:
            alike = [other for other in known if tag and other.lower().startswith(tag[:3].lower())]
            near = ", ".join(alike or difflib.get_close_matches(tag, known, 3) or known[:3])
            raise CourseError(f"{side} '{tag}' is none of the {len(known)} language tags of {kind}: choose one like {near}")
    tokenizer.src_lang, tokenizer.tgt_lang = source, target
    return {"forced_bos_token_id": tokenizer.convert_tokens_to_ids(target)}


def set_dropout(model: PreTrainedModel, dropout: float | None) -> PreTrainedModel:
    """Give every dropout layer, and the attention of architectures that keep it as a number, the same probability; returns the model."""
    for module in model.modules() if dropout is not None else ():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
        for name in ("dropout", "attention_dropout", "activation_dropout", "dropout_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, dropout)
    return model


# ---------------------------------------------------------------- pre-trained


def _pretrained(spec: Seq2SeqSpec, name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    if not spec.hub_id:
        raise CourseError(f"{name} exists with random weights only: set weights=random")

    def load(place: str, **local: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        tokenizer = AutoTokenizer.from_pretrained(place, **local)
        return AutoModelForSeq2SeqLM.from_pretrained(place, dtype=torch.float32, **local), tokenizer

    model, tokenizer = models.fetched(load, None, spec.hub_id, "choose model=t5-scratch")
    return model, tokenizer, {"id": spec.hub_id, "revision": models.revision_of(model, spec.hub_id)}


# ---------------------------------------------------------------- random


def _random(
    spec: Seq2SeqSpec, name: str, texts: Iterable[str], vocabulary: int, max_length: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    if not spec.sizes:
        raise CourseError(f"'{name}' has no random twin: choose weights=pretrained, or a model of {', '.join(SEQ2SEQ)}")
    tokenizer = tokenizer_for(texts, vocabulary, spec.special)
    ids = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "unk_token_id": tokenizer.unk_token_id}
    settings = spec.sizes | {"vocab_size": len(tokenizer), "decoder_start_token_id": tokenizer.pad_token_id}
    if spec.model_type == "bart":
        ids |= {"bos_token_id": tokenizer.bos_token_id, "forced_eos_token_id": None}
        settings |= {"max_position_embeddings": max_length, "decoder_start_token_id": tokenizer.eos_token_id}
    config = AutoConfig.for_model(spec.model_type, **ids, **settings)
    return AutoModelForSeq2SeqLM.from_config(config).float(), tokenizer


def tokenizer_for(texts: Iterable[str], vocabulary: int, special: tuple[str, ...]) -> PreTrainedTokenizerBase:
    """A byte-level BPE that ends every text with </s>, and begins it with <s> where that is one of the special tokens.

    T5's own kind is a Unigram, whose trainer in the tokenizers library gives other pieces in every process.
    """
    texts = list(texts)
    if not texts:
        raise CourseError("a random model needs texts to train its tokenizer on: pass tokenizer_texts")
    single = "<s> $A </s>" if "<s>" in special else "$A </s>"
    return models.byte_level_bpe(texts, vocabulary, {_TOKEN_NAMES[token]: token for token in special}, single)


# ---------------------------------------------------------------- warm-started


def _warm_started(
    spec: Seq2SeqSpec, weights: str, texts: Iterable[str], max_length: int, fine_tuned: Path | None, seed: int
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """A MiniLM encoder, fine-tuned or not, and a decoder of MiniLM's embeddings and lowest layers with cross-attention that
    knows nothing yet."""
    source, tokenizer, card = models.load_encoder("minilm", weights, ["none"], tokenizer_texts=texts, max_length=max_length, seed=seed)
    encoder = source.base_model
    settings = encoder.config.to_dict() | {"is_decoder": True, "add_cross_attention": True}
    settings["num_hidden_layers"] = min(spec.sizes["decoder_layers"], encoder.config.num_hidden_layers)
    decoder = BertLMHeadModel(BertConfig(**{k: v for k, v in settings.items() if k not in ("model_type", "architectures")}))
    decoder.bert.load_state_dict(encoder.state_dict(), strict=False)  # the upper layers stay behind, cross-attention is new
    if fine_tuned:
        other, its_tokenizer, _ = models.load_encoder("minilm", str(fine_tuned), ["none"], seed=seed)
        if its_tokenizer.get_vocab() != tokenizer.get_vocab():
            raise CourseError(f"the model in {fine_tuned.parent.name} has another vocabulary: train it on the same texts, or leave it out")
        encoder = other.base_model
        card = card | {"id": f"{card['id']}, its encoder fine-tuned before"}
    model = spec.sizes.get("architecture", EncoderDecoderModel)(encoder=encoder, decoder=decoder)
    start, end, pad = tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id
    model.config.decoder_start_token_id, model.config.eos_token_id, model.config.pad_token_id = start, end, pad
    model.generation_config = GenerationConfig(decoder_start_token_id=start, eos_token_id=end, pad_token_id=pad)
    copies = ", with a copying pointer" if isinstance(model, PointerEncoderDecoder) else ""
    return model, tokenizer, card | {"id": f"{card['id']}, warm-started on both sides{copies}"}
