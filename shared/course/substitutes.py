"""Models that stand in, offline, for an encoder–decoder that cannot be had: profile laptop without the Hub, ids `course/…`.

    course/t5-scratch            a small T5 with random weights and a tokenizer made for the English–Indonesian rows that are served
    course/minilm-pointer        MiniLM on both sides, with random cross-attention and a copying pointer (`shared.course.pointer`)
    course/minilm-pointer-qa     the same, after cloze questions      } both have to be pre-trained here first, once:
    course/minilm-pointer-news   the same, after leads and gap sentences } python -m shared.course.pretrain ID

Each is loaded by the plain `AutoModelForSeq2SeqLM.from_pretrained`, is the same in every process, and lies in the user's cache.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from shared.course import rows
from shared.course.runtime import CourseError, unknown
from shared.course.standin import Absent, Missing, etag
from shared.course.twins import SEED, cache_folder, made_once, packaged, quietly

OWNER = "course/"  # of models that stand in for one that cannot be had, named in a profile alone
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
POINTER, SCRATCH = "course/minilm-pointer", "course/t5-scratch"
PRETRAINED = ("course/minilm-pointer-qa", "course/minilm-pointer-news")
ALL = (SCRATCH, POINTER, *PRETRAINED)
TRANSLATION = "Helsinki-NLP/opus-100"
VOCABULARY = 8_000  # pieces of the small T5's tokenizer; fewer where the texts do not have so many
DECODER_LAYERS = 3  # of MiniLM's six, the lowest


def folder(model_id: str, source: str) -> Path:
    """The folder of a substitute, made on the first call, in seconds. Raises Missing.

    source: where rows come from, as in `rows.files`.
    """
    if model_id not in ALL:
        raise Absent(f"the stand-in Hub has no {model_id}, only {', '.join(ALL)}")
    if model_id in PRETRAINED:
        if not (pretrained_folder(model_id) / "config.json").is_file():
            raise Missing(untrained(model_id))
        return pretrained_folder(model_id)
    if model_id == POINTER:
        base = packaged(MINILM)
        return made_once(_place(model_id, etag(base / "model.safetensors")), functools.partial(make_pointer, base))
    with tempfile.TemporaryDirectory() as work:
        file = _pairs(source, Path(work))
        return made_once(_place(model_id, etag(file)), functools.partial(_make_scratch, file))


def pretrained_folder(model_id: str) -> Path:
    """Where `shared.course.pretrain` puts a model; it need not be there."""
    return cache_folder() / "pretrained" / model_id.removeprefix(OWNER)


def untrained(model_id: str) -> str:
    """The line for a reader who asks for a model that has not been pre-trained here."""
    return f"{model_id} has to be pre-trained on this machine first, once: python -m shared.course.pretrain {model_id}"


def check(model_id: str, models: str) -> None:
    """CourseError, in one line, where a lesson's setting names a substitute that it would not get.

    Args:
        models: where this process's models come from, as `Standing` has it.
    """
    if models == "hub":
        raise CourseError(f"{model_id} stands in for a model of the Hub, and the Hub answers: choose the true one, or set HF_HUB_OFFLINE=1")
    if models == "packaged" and model_id not in ALL:
        raise unknown("substitute", model_id, ALL)
    if models == "packaged" and model_id in PRETRAINED and not (pretrained_folder(model_id) / "config.json").is_file():
        raise CourseError(untrained(model_id))


def _place(model_id: str, ingredients: str) -> Path:
    """A folder in the cache whose name changes with whatever the model depends on."""
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "tokenizers")]
    written = [Path(__file__).with_name(f"{name}.py").read_text(encoding="utf8") for name in ("substitutes", "pointer")]
    recipe = hashlib.sha256("\0".join([ingredients, *versions, *written]).encode()).hexdigest()[:16]
    return cache_folder() / "substitutes" / recipe / model_id.removeprefix(OWNER)


# ---------------------------------------------------------------- a decoder beside an encoder


def make_pointer(base: Path, target: Path, layers: int = DECODER_LAYERS) -> None:
    """Write a PointerEncoderDecoder that starts from a BERT encoder on both sides, and its tokenizer.

    Rothe, Narayan, Severyn 2020 (arXiv 1907.12461) start both sides so. The decoder has the encoder's embeddings and its lowest
    layers; cross-attention and pointer are random, from a seed of their own.
    """
    import torch
    from transformers import AutoTokenizer, BertConfig, BertLMHeadModel, BertModel, GenerationConfig

    from shared.course.pointer import PointerEncoderDecoder

    tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True, model_input_names=["input_ids", "attention_mask"])
    tokenizer.backend_tokenizer.no_truncation()  # a sentence encoder's file may ask for both
    tokenizer.backend_tokenizer.no_padding()
    with quietly(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        encoder = BertModel.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        named = {key: value for key, value in encoder.config.to_dict().items() if key not in ("model_type", "architectures")}
        sides = {"is_decoder": True, "add_cross_attention": True, "num_hidden_layers": min(layers, encoder.config.num_hidden_layers)}
        decoder = BertLMHeadModel(BertConfig(**(named | sides)))
        decoder.bert.load_state_dict(encoder.state_dict(), strict=False)  # the upper layers stay behind, cross-attention is new
        model = PointerEncoderDecoder(encoder=encoder, decoder=decoder)
        opening, end = tokenizer.cls_token_id, tokenizer.sep_token_id
        tokens = {"decoder_start_token_id": end, "eos_token_id": end, "pad_token_id": tokenizer.pad_token_id}
        for name, token in tokens.items():
            setattr(model.config, name, token)
        model.generation_config = GenerationConfig(**tokens, forced_bos_token_id=opening)  # labels open with it, as sources do
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)


# ---------------------------------------------------------------- a T5 from nothing


def _pairs(source: str, work: Path) -> Path:
    """The file with the English–Indonesian training rows that are served; the course's own where a folder has none."""
    with_rows = [source, "bundled"] if source not in ("bundled", "hub") else ["bundled"]
    for place in with_rows:
        try:
            found = rows.files(TRANSLATION, place, work / Path(place).name)
            return next(path for name, path in found.items() if "train" in name)
        except (Absent, StopIteration):
            continue
    raise Missing(f"{SCRATCH} needs English–Indonesian training rows for its tokenizer: put en_id/train.parquet into COURSE_DATA")


def _make_scratch(file: Path, target: Path) -> None:
    """Write a T5 with four layers of width 256 and random weights, and a byte-level BPE trained on both sides of the pairs.

    T5's own kind of tokenizer is a Unigram, whose trainer in the tokenizers library gives other pieces in every process.
    """
    import pyarrow.parquet as pq
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    pairs = pq.read_table(file, columns=["translation"])["translation"].to_pylist()
    tokenizer = _byte_pairs([text for pair in pairs for text in pair.values()])
    sizes = {"d_model": 256, "d_kv": 64, "d_ff": 1024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4}
    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    with quietly(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        T5ForConditionalGeneration(T5Config(vocab_size=len(tokenizer), **sizes, **ids)).save_pretrained(target)
        tokenizer.save_pretrained(target)


def _byte_pairs(texts: list[str]) -> Any:
    """A byte-level BPE that ends every text with </s>: no text is unknown to it, and it is the same in every process."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # a word is the same token at the start of a text, as in T5
    core.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    letters = pre_tokenizers.ByteLevel.alphabet()
    options = {"vocab_size": VOCABULARY, "special_tokens": list(special.values()), "initial_alphabet": letters, "show_progress": False}
    core.train_from_iterator(texts, trainers.BpeTrainer(**options))
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    columns = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=columns, model_max_length=512, **special)
