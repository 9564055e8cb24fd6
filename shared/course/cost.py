"""What a fine-tuning run needs, from a configuration alone: parameters, FLOPs and memory. No weight is ever stored.

The model is built and run once, forward and loss, with fake tensors: they have shapes and types but no storage. What
autograd would keep for the backward pass is then counted instead of estimated, and so are the FLOPs.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    PreTrainedConfig,
    PreTrainedModel,
    T5Config,
)

from shared.course.runtime import CourseError, unknown

GIB = 2**30
HEADS = {
    "classes": AutoModelForSequenceClassification,
    "spans": AutoModelForQuestionAnswering,
    "text": AutoModelForSeq2SeqLM,
    "next token": AutoModelForCausalLM,
}
# NF4 in blocks of 64 with 8-bit block constants in blocks of 256: Dettmers et al. 2023 (arXiv 2305.14314), section 3
NF4_BYTES = (4 + 8 / 64 + 32 / (64 * 256)) / 8
PRECISIONS = ("fp32", "mixed", "half")


@dataclass(frozen=True)
class Cost:
    """Parameters (numbers), FLOPs of one training example, and bytes of one training step at its peak.

    weights: as stored. gradients, optimizer: of what is trained. activations: what autograd keeps for the backward pass of
    one batch, the half-precision copies of the weights that autocast makes included. What a kernel needs for a moment,
    the allocator's fragments and the CUDA context (roughly half a GiB) come on top.
    """

    parameters: int
    trainable: int
    flops: int
    weights: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.weights + self.gradients + self.optimizer + self.activations


def training_cost(
    config: PreTrainedConfig,
    head: str,
    *,
    batch: int = 8, length: int = 512, target_length: int | None = None,
    precision: str = "fp32",
    adapt: Callable[[PreTrainedModel], PreTrainedModel] | None = None,
    four_bit: bool = False,
    optimizer_bytes: float = 8,
    attention: str | None = None,
    count_flops: bool = True,
) -> Cost:  # fmt: skip
    """The cost of training a model of this configuration. CourseError for an unknown head or precision.

    Args:
        head: "classes", "spans", "text" (encoder–decoder) or "next token".
        batch, length, target_length: rows, tokens of each (of the source for "text"), and of the target (default: length / 4).
        precision: "fp32"; "mixed", fp32 weights under 16-bit autocast; "half", frozen weights in 16 bits, as with adapters.
        adapt: makes the model a partly trained one, for example `lora.sketch(rank)`.
        four_bit: the frozen linear layers of the blocks are stored in NF4 with double quantisation (QLoRA) and compute in
            16 bits; whatever else is frozen is kept in 32, as peft's prepare_model_for_kbit_training does.
        optimizer_bytes: per trained parameter; 8 for AdamW in fp32, 2 for its 8-bit version.
        attention: "sdpa" or "eager", which also keeps the attention probabilities; None: the library's choice.
        count_flops: False leaves `flops` at 0, in a quarter of the time for a small model.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, list(PRECISIONS))
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = _sketched(config, head, attention, adapt)
        packed = _pack(model) if four_bit else set()
        if precision == "half" and not four_bit:
            _halve(model)
        inputs = _inputs(head, config, batch, length, target_length or max(1, length // 4))
        with _saved_bytes(model) as saved, _autocast(precision):
            model(**inputs)
        flops = _step_flops(model, inputs, precision) if count_flops else 0
    return _summed(model, saved[0], flops // batch, packed, optimizer_bytes)


def _sketched(
    config: PreTrainedConfig, head: str, attention: str | None, adapt: Callable[[PreTrainedModel], PreTrainedModel] | None
) -> PreTrainedModel:
    extra = {"attn_implementation": attention} if attention else {}
    model = _model_from(head, copy.deepcopy(config), dtype=torch.float32, **extra)  # the library writes into a configuration
    return (adapt(model) if adapt else model).train()


def _step_flops(model: PreTrainedModel, inputs: dict[str, torch.Tensor], precision: str) -> int:
    """FLOPs of a forward and a backward pass; the latter counted too, since frozen weights need no gradient of their own.

    Attention runs in plain matrix products: the counter does not know every fused kernel's backward pass.
    """
    with FlopCounterMode(display=False) as flops, sdpa_kernel(SDPBackend.MATH), _autocast(precision):
        model(**inputs).loss.backward()
    return flops.get_total_flops()


def _deepened(one: Cost, two: Cost, blocks: int) -> Cost:
    """The cost of `blocks` equal blocks from that of one and of two: each further one adds what the second did."""
    pairs = ((getattr(one, f.name), getattr(two, f.name)) for f in fields(Cost))
    return Cost(*(first + (blocks - 1) * (second - first) for first, second in pairs))


def _model_from(head: str, config: PreTrainedConfig, **settings: Any) -> PreTrainedModel:
    if head not in HEADS:
        raise unknown("head", head, list(HEADS))
    return HEADS[head].from_config(config, **settings)


def _halve(model: PreTrainedModel) -> None:
    """What is frozen gets 16 bits; what is trained keeps 32."""
    frozen = [p for p in model.parameters() if not p.requires_grad]
    if not frozen:
        raise CourseError("precision 'half' is for frozen weights and nothing is frozen: pass adapt, or use 'mixed'")
    for parameter in frozen:
        parameter.data = parameter.data.to(torch.bfloat16)


def _pack(model: PreTrainedModel) -> set[int]:
    """Let the frozen linear layers, all but the output's, compute like 4-bit ones; returns the ids of their weights.

    As in bitsandbytes, a layer's input is cast to 16 bits and its output back to what came in; the unpacked weight is
    not kept for the backward pass.
    """
    output = model.get_output_embeddings()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not output and not m.weight.requires_grad]
    if not layers:
        raise CourseError("four_bit is for frozen weights and nothing is frozen: pass adapt")
    for layer in layers:
        layer.weight.data = layer.weight.data.to(torch.bfloat16)
        layer.forward = functools.partial(_unpacked_product, layer)
    return {id(layer.weight) for layer in layers}


def _unpacked_product(layer: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
    half = layer.weight.dtype
    bias = None if layer.bias is None else layer.bias.to(half)
    return torch.nn.functional.linear(x.to(half), layer.weight, bias).to(x.dtype)


def _inputs(head: str, config: PreTrainedConfig, batch: int, length: int, target: int) -> dict[str, torch.Tensor]:
    def ids(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, dtype=torch.long)

    inputs = {"input_ids": ids(batch, length), "attention_mask": torch.ones(batch, length, dtype=torch.long)}
    if head == "classes":
        several = config.problem_type == "multi_label_classification"
        return inputs | {"labels": torch.zeros(batch, config.num_labels) if several else ids(batch)}
    if head == "spans":
        return inputs | {"start_positions": ids(batch), "end_positions": ids(batch)}
    if head == "text":  # the decoder's input given, since not every configuration says which token it starts with
        return inputs | {"decoder_input_ids": ids(batch, target), "labels": ids(batch, target)}
    return inputs | {"labels": ids(batch, length)}


def _autocast(precision: str) -> torch.autocast:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision != "fp32")


@contextmanager
def _saved_bytes(model: torch.nn.Module) -> Iterator[list[int]]:
    """Counts the storages that autograd keeps, each once and without the parameters' own."""
    # What is on record stays alive, or another storage might get its address: a 4-bit layer replaces its bias while it computes.
    kept = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
    counted, total = {storage._cdata for storage in kept}, [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in counted:
            counted.add(storage._cdata)
            kept.append(storage)
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def _summed(model: PreTrainedModel, activations: int, flops: int, packed: set[int], optimizer_bytes: float) -> Cost:
    trained = [p for p in model.parameters() if p.requires_grad]
    weights = sum(p.numel() * (NF4_BYTES if id(p) in packed else p.element_size()) for p in model.parameters())
    numbers = sum(p.numel() for p in trained)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        trainable=numbers,
        flops=flops,
        weights=round(weights),
        gradients=sum(p.numel() * p.element_size() for p in trained),
        optimizer=round(optimizer_bytes * numbers),
        activations=activations,
    )


# ---------------------------------------------------------------- the encoder–decoders of task 2


@dataclass(frozen=True)
class TextModel:
    """A published encoder–decoder, its configuration written down: as deep a decoder as an encoder, `layers` each.

    published: the number of parameters that its authors state.
    tied: False where the output layer has a matrix of its own beside the embeddings.
    """

    hub_id: str
    layers: int
    sizes: dict[str, object]
    published: str
    tied: bool = True

    def config(self, layers: int | None = None, dropout: float = 0.1) -> PreTrainedConfig:
        """Its configuration, with another depth or dropout if asked for."""
        depth = self.layers if layers is None else layers
        if "encoder_ffn_dim" in self.sizes:
            everywhere = {"dropout": dropout, "attention_dropout": dropout, "activation_dropout": dropout}
            return BartConfig(encoder_layers=depth, decoder_layers=depth, **everywhere, **self.sizes)
        return T5Config(num_layers=depth, num_decoder_layers=depth, dropout_rate=dropout, **self.sizes)


_T5 = {"vocab_size": 32_128, "d_kv": 64}
TEXT_MODELS = {
    "T5-small": TextModel("google-t5/t5-small", 6, _T5 | {"d_model": 512, "d_ff": 2048, "num_heads": 8}, "60 M"),
    "FLAN-T5-small": TextModel(
        "google/flan-t5-small", 8,
        _T5 | {"d_model": 512, "d_ff": 1024, "num_heads": 6, "feed_forward_proj": "gated-gelu"}, "80 M", tied=False,
    ),
    "T5-base": TextModel("google-t5/t5-base", 12, _T5 | {"d_model": 768, "d_ff": 3072, "num_heads": 12}, "220 M"),
    "BART-base": TextModel(
        "facebook/bart-base", 6,
        {"vocab_size": 50_265, "d_model": 768, "encoder_attention_heads": 12, "decoder_attention_heads": 12,
         "encoder_ffn_dim": 3072, "decoder_ffn_dim": 3072}, "140 M",
    ),
    "BART-large": TextModel(
        "facebook/bart-large", 12,
        {"vocab_size": 50_265, "d_model": 1024, "encoder_attention_heads": 16, "decoder_attention_heads": 16,
         "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096}, "400 M",
    ),
    "T5-large": TextModel("google-t5/t5-large", 24, _T5 | {"d_model": 1024, "d_ff": 4096, "num_heads": 16}, "770 M"),
}
T4_GIB = 14.0  # PyTorch sees 14.7 GiB of a T4's 16 GB (CogVideo issue 741: 14.74), of which the CUDA context takes a part


def text_model_cost(model: TextModel, precision: str = "fp32", dropout: float = 0.1, batch: int = 8, length: int = 512) -> Cost:
    """The cost of training a published encoder–decoder, from twins of one and of two layers.

    Every layer beyond the first adds the same parameters, FLOPs and bytes, so two shallow models say what the deep one
    needs, in seconds instead of half a minute.
    """
    adapt = None if model.tied else _untie
    shallow = (
        training_cost(model.config(layers, dropout), "text", batch=batch, length=length, precision=precision, adapt=adapt)
        for layers in (1, 2)
    )
    return _deepened(*shallow, model.layers)


def _untie(model: PreTrainedModel) -> PreTrainedModel:
    """The output layer with its own matrix, as in the checkpoints of T5 1.1 and FLAN-T5; the library ties them until one is loaded."""
    model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    return model


def text_model_memory(batch: int = 8, length: int = 512) -> list[dict[str, object]]:
    """A row a model of TEXT_MODELS: 'name', 'hub_id', 'parameters', 'published', 'fp32' and 'mixed' (GiB, low and high), 'fits'.

    The low figure is without dropout. The high one is with a dropout of 0.1 everywhere as a CPU does it, which keeps each
    mask in full precision and the attention probabilities; a GPU's kernels keep a byte an element, or nothing, and lie
    between. fits: "yes" where the high figures of both precisions stay below T4_GIB, "no" where the low ones do not.
    """
    rows = []
    for name, model in TEXT_MODELS.items():
        spans, parameters = {}, 0
        for precision in ("fp32", "mixed"):
            found = [text_model_cost(model, precision, dropout, batch, length) for dropout in (0.0, 0.1)]
            spans[precision], parameters = tuple(cost.total / GIB for cost in found), found[0].parameters
        worst, best = max(high for _, high in spans.values()), min(low for low, _ in spans.values())
        fits = "yes" if worst <= T4_GIB else "no" if best > T4_GIB else "perhaps"
        rows.append({"name": name, "hub_id": model.hub_id, "parameters": parameters, "published": model.published, **spans, "fits": fits})
    return rows
