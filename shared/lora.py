"""Low-rank adapters, on whole or 4-bit weights: where they go, what they cost, whose they are, merging.

Knows no data set and trains nothing. peft and bitsandbytes are imported where they are used, so that lessons without
adapters need neither.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open
from transformers import BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from shared.course import runtime, standin
from shared.course.runtime import CourseError

if TYPE_CHECKING:
    from peft import PeftModel

# What `relative_difference` may find between an adapted model and the same one merged, by the type of the arithmetic
MERGING_ROUNDS = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
IN_BLOCK = r"^.*\.\d+\."  # the blocks of a model are in a list, so that a number is in their names


# ---------------------------------------------------------------- 4 bits


def compute_dtype(device: str | None = None) -> torch.dtype:
    """What 4-bit weights are unpacked to for a product: bf16 or fp16 on a GPU as `runtime.precision` says, on a CPU fp32
    unless it has bf16 in hardware."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[runtime.precision(device)]


def four_bit(dtype: torch.dtype | None = None) -> BitsAndBytesConfig | None:
    """NF4 with double quantisation (Dettmers et al. 2023, arXiv 2305.14314): about 4.13 bits a weight.

    Args:
        dtype: of the arithmetic; None: `compute_dtype()`.

    On Apple's MPS, for which bitsandbytes packs nothing, a line says so and None is returned: whole weights. Raises CourseError
    where bitsandbytes is not installed.

    On a CPU with AVX512-BF16, bitsandbytes would pack a 4-bit layer anew at its first inference, after which it can be neither trained
    nor merged (validation comes before the next training step); that is switched off for this process.
    """
    if runtime.device() == "mps":
        print("NOTE: bitsandbytes does not pack weights for MPS, so they are loaded whole.")
        return None
    if util.find_spec("bitsandbytes") is None:
        raise CourseError("4-bit weights need the package bitsandbytes: pip install bitsandbytes, or set four_bit=false")
    from bitsandbytes.nn import modules

    if standin.kind_of_models() == "packaged":
        print("NOTE: a packaged decoder was stored in 4 bits (Q4_1) before; NF4 rounds its weights a second time.")
    modules.has_avx512bf16 = lambda: False
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype or compute_dtype()
    )


def check_finite(
    model: torch.nn.Module, batch: dict[str, torch.Tensor], dtype: torch.dtype | None = None, cure: str = "set another model"
) -> float:
    """The largest absolute logit of one batch, in the arithmetic of the training; CourseError where one is not finite.

    Phi-2's attention overflows in fp16 where it is computed without care (transformers pull request 28163), and what follows is
    a training of nothing but nan.

    Args:
        dtype: of the training's autocast; None: `compute_dtype()`.
        cure: what the message advises, in keys that the lesson has.
    """
    dtype = dtype or compute_dtype()
    with torch.autocast(model.device.type, dtype=dtype, enabled=dtype != torch.float32):
        largest = logits(model, batch).abs().max().item()
    if not largest < float("inf"):  # nan is smaller than nothing
        raise CourseError(f"the logits are not finite ({largest}) in {str(dtype).removeprefix('torch.')}: {cure}")
    return largest


# ---------------------------------------------------------------- adapters


def target_modules(model: PreTrainedModel) -> list[str]:
    """The names of the linear layers that get an adapter: all of the blocks, of any architecture, in the model's order.

    LoRA's paper adapts the attention alone (Hu et al. 2021, arXiv 2106.09685); that every linear layer of a block is needed to match full
    fine-tuning is QLoRA's finding (Dettmers et al. 2023, arXiv 2305.14314, section 4). Embeddings, output layer and heads, which are in
    no block, are left out, as in peft's "all-linear", which would not say what it took. A name is as short as it can be: BERT's
    "output.dense" keeps apart from its pooler's "dense". CourseError for a model without such layers.
    """
    linear = [name for name, layer in model.named_modules() if isinstance(layer, torch.nn.Linear | Conv1D)]
    outside = [name for name in linear if not re.search(IN_BLOCK, name)]
    found = {}
    for name in linear:
        if blocks := re.search(IN_BLOCK, name):
            inside = name[blocks.end() :]
            last = inside.rsplit(".", 1)[-1]
            found[inside if any(f".{other}".endswith(f".{last}") for other in outside) else last] = None
    if not found:
        raise CourseError(f"a {model.config.model_type} has no linear layers in blocks, so nothing takes an adapter: set another model")
    return list(found)


def without_adapters(model: torch.nn.Module) -> PreTrainedModel:
    """The model that adapters were added to, without them; one that has none is returned as it is.

    peft changes the model in place, so that a second call finds no linear layers to adapt, only those with adapters.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper  # around a fresh head, which is trained whole

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    adapted = [pair for pair in base.named_modules() if isinstance(pair[1], BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for name, layer in adapted:
        parent, _, attribute = name.rpartition(".")
        own = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer.original_module
        setattr(base.get_submodule(parent), attribute, own)
    if adapted:
        vars(base).pop("peft_config", None)
        print("NOTE: the model had adapters already; they are taken off, and it gets new ones.")
    return base


def prepared(model: PreTrainedModel, checkpointing: bool = False) -> PreTrainedModel:
    """The frozen base of adapters: what is not quantised in a 4-bit model becomes float32, as in training.

    Needed before a saved adapter is loaded only where that must give the very numbers of the training.
    """
    from peft import prepare_model_for_kbit_training

    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft reads it
    reentrant = {"use_reentrant": False}
    if getattr(model, "is_loaded_in_4bit", False):
        return prepare_model_for_kbit_training(model, checkpointing, gradient_checkpointing_kwargs=reentrant)
    if checkpointing:
        model.gradient_checkpointing_enable(reentrant)
        model.enable_input_require_grads()
    return model


class _Adapter(torch.nn.Module):
    """A linear layer with an adapter beside it, as plain as the paper's formula."""

    def __init__(self, base: torch.nn.Linear | Conv1D, rank: int, dropout: float):
        super().__init__()
        inputs, outputs = (base.nx, base.nf) if isinstance(base, Conv1D) else (base.in_features, base.out_features)
        self.base, self.dropout = base, torch.nn.Dropout(dropout)
        self.a = torch.nn.Linear(inputs, rank, bias=False)
        self.b = torch.nn.Linear(rank, outputs, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + self.b(self.a(self.dropout(x).to(self.a.weight.dtype)))


def sketch(rank: int, dropout: float = 0.0) -> Callable[[PreTrainedModel], PreTrainedModel]:
    """For `cost.training_cost(adapt=...)`: gives a model without storage the adapters that peft would, which cannot attach any there.
    """

    def adapt(model: PreTrainedModel) -> PreTrainedModel:
        targets = tuple(f".{target}" for target in target_modules(model))
        model.requires_grad_(False)
        for name, layer in list(model.named_modules()):
            if isinstance(layer, torch.nn.Linear | Conv1D) and name.endswith(targets):
                parent, _, attribute = name.rpartition(".")
                setattr(model.get_submodule(parent), attribute, _Adapter(layer, rank, dropout))
        return model

    return adapt


def count_parameters(model: torch.nn.Module) -> dict[str, int]:
    """{'parameters': all, 'trainable': those that get gradients}; a tensor in 4 bits counts what it stands for.

    Two 4-bit weights share a byte, so `numel` of such a tensor is half of the truth.
    """
    return {
        "parameters": sum(map(_numbers, model.parameters())),
        "trainable": sum(_numbers(p) for p in model.parameters() if p.requires_grad),
    }


def _numbers(parameter: torch.nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else state.shape.numel()


def trainable_report(model: PeftModel) -> dict[str, Any]:
    """How many numbers are trained: {'parameters', 'trainable', 'share', 'adapter_mb', 'layers': {layer: trained numbers}}.

    parameters: of base and adapters, 4-bit ones counted as what they stand for. adapter_mb: of the adapters as they are
    saved, in 10^6 bytes. layers: by target module, summed over the blocks.
    """
    counts, layers, size = count_parameters(model), {}, 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            layer = name.split(".lora_")[0].rsplit(".", 1)[-1]
            layers[layer] = layers.get(layer, 0) + parameter.numel()
            size += parameter.numel() * parameter.element_size()
    return counts | {"share": counts["trainable"] / counts["parameters"], "adapter_mb": size / 1e6, "layers": layers}


# ---------------------------------------------------------------- load, merge


def check_base(model: PreTrainedModel, folder: Path) -> None:
    """CourseError where `folder` has no adapter, and where its adapter was trained on another model than this one.

    peft itself fails with a traceback where shapes differ and says nothing where they don't: the adapter is noise there. Compared are
    the model's id, where both have one, and the shapes.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise CourseError(f"{folder.name} holds no adapter: run the lesson's saving cell first")
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf8"))
    wanted, here = settings["base_model_name_or_path"], model.config.name_or_path
    if wanted and here and wanted != here:
        raise CourseError(f"the adapter in {folder.name} belongs to another base model ({wanted}, this one is {here}): load {wanted} first")
    if wrong := _misfit(model, folder / "adapter_model.safetensors"):
        raise CourseError(f"the adapter in {folder.name} does not fit this model ({wrong}): load its own")


def _misfit(model: PreTrainedModel, file: Path) -> str:
    """The first layer that the adapter has and the model has not, or not with as many inputs and outputs; "" where all fit."""
    layers = dict(model.named_modules())
    with safe_open(file, "pt") as adapter:
        for key in adapter.keys():  # noqa: SIM118 (no dict)
            name, part = key.removeprefix("base_model.model.").rsplit(".weight", 1)[0].rsplit(".", 1)
            if part not in ("lora_A", "lora_B"):
                continue
            layer, shape = layers.get(name), adapter.get_slice(key).get_shape()
            if layer is None:
                return f"it has no layer {name}"
            side, numbers = ("in_features", shape[1]) if part == "lora_A" else ("out_features", shape[0])
            found = getattr(layer, side, numbers)  # GPT-2's Conv1D has other names for them
            if found != numbers:
                return f"{name} has {found:,} {side.replace('_', ' ')}, not {numbers:,}"
    return ""


def merge(model: PeftModel, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A plain model with the adapters added into its weights, stored as `dtype`; the adapted one is left as it is.

    Buffers keep their type, as they do where a model is loaded: the frequencies of rotary positions, rounded to 16 bits, would
    point elsewhere. 4-bit weights are unpacked first. Adding the adapters to 4-bit weights and packing the sum again, as peft's
    `merge_and_unload` does, rounds away much of what was learnt.
    """
    whole = copy.deepcopy(model)
    whole.eval()
    base = whole.get_base_model()
    if getattr(base, "is_loaded_in_4bit", False):
        _unpack(whole, dtype)
        for attribute in ("is_loaded_in_4bit", "is_quantized"):
            setattr(base, attribute, False)
        base.hf_quantizer = None
        if hasattr(base.config, "quantization_config"):
            del base.config.quantization_config
    for parameter in whole.parameters():
        parameter.data = parameter.data.to(dtype)
    return whole.merge_and_unload().eval()


def _unpack(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Replace every 4-bit layer by a linear layer of the same values, and its adapter by that of a linear layer."""
    import bitsandbytes as bnb
    from peft.tuners.lora import Linear

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, bnb.nn.Linear4bit):
                plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
                unpacked = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
                plain.weight = torch.nn.Parameter(unpacked.to(dtype), requires_grad=False)
                plain.bias = layer.bias
                setattr(parent, name, plain)
    for layer in model.modules():
        if hasattr(layer, "lora_A") and not isinstance(layer, Linear):
            layer.__class__ = Linear  # its own merging would pack the sum again


@torch.inference_mode()
def logits(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """The logits of one batch where it is not padding: float32 [tokens, vocabulary] on the CPU, dropout off."""
    inputs = {key: value.to(model.device) for key, value in batch.items() if key in ("input_ids", "attention_mask")}
    training = model.training
    model.eval()
    found = model(**inputs, use_cache=False).logits.float().cpu()
    model.train(training)
    return found[batch["attention_mask"].bool().cpu()]


def relative_difference(first: torch.Tensor, second: torch.Tensor) -> float:
    """Root mean square of first - second over that of `second`; both as from `logits`.

    What 16-bit arithmetic may change: a merged model rounds each weight once more, which moves the logits by one or two per cent
    in bf16 and a tenth of that in fp16. The largest difference of millions of logits says little: a maximum grows with their
    number.
    """
    return ((first - second).square().mean().sqrt() / second.square().mean().sqrt()).item()
