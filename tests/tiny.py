"""Tiny decoders, their rows and their adapters, as the cells of task 3 make them; the stand-in Hub of the test run has the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from shared import lora, text2text

DECODERS = ("microsoft/phi-2", "unsloth/Llama-3.2-1B", "unsloth/gemma-2-2b")


def decoder(name: str = DECODERS[0], quantization: Any = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(name, quantization_config=quantization, dtype=dtype).eval()


def tokenizer_of(name: str = DECODERS[0]) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(name)


def completion_rows(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], completions: Sequence[str]) -> list[dict[str, list[int]]]:
    """input_ids of prompt, completion and EOS; labels, -100 on the prompt."""
    rows = []
    for prompt, completion in zip(prompts, completions, strict=True):
        asked = tokenizer(prompt)["input_ids"]
        said = [*tokenizer(completion, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        rows.append({"input_ids": asked + said, "labels": [text2text.IGNORED] * len(asked) + said})
    return rows


def with_adapters(model: PreTrainedModel, rank: int = 4, alpha: float = 8, checkpointing: bool = False) -> PeftModel:
    """The model with fresh adapters on all linear layers of its blocks; those that it has already are taken off first."""
    base = lora.prepared(lora.without_adapters(model), checkpointing)
    kind = "SEQ_CLS" if "SequenceClassification" in type(base).__name__ else "CAUSAL_LM"
    kind = "SEQ_2_SEQ_LM" if base.config.is_encoder_decoder else kind
    torch.manual_seed(0)
    return get_peft_model(base, LoraConfig(r=rank, lora_alpha=alpha, target_modules=lora.target_modules(base), task_type=kind))


def largest_difference(first: torch.nn.Module, second: torch.nn.Module, batch: dict[str, torch.Tensor]) -> float:
    """The largest difference between two models' logits where the batch is not padding."""
    return (lora.logits(first, batch) - lora.logits(second, batch)).abs().max().item()
