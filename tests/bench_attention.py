"""The attention part of `make bench`: transformers' two ways to compute it on a CPU, fused (sdpa) and step by step (eager)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.models.bert.modeling_bert import eager_attention_forward

from shared.lora import relative_difference
from tests.bench_timing import Ratio, ratio, side_by_side

LENGTHS = (64, 128, 192, 256, 384, 512)  # tokens of a row
TOKENS = 2_048  # of a batch
HEADS, SIZE = 12, 32  # of MiniLM
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 0.02}  # the relative root mean square by which the two ways may differ


def compare(length: int, dtype: torch.dtype, rounds: int) -> Ratio:
    """Time of the fused attention, forward and backward, over that of the one step by step; both give the same numbers."""
    torch.manual_seed(0)
    shape = (TOKENS // length, HEADS, length, SIZE)
    parts = [torch.randn(shape).to(dtype).requires_grad_() for _ in range(3)]
    padded = torch.zeros(shape[0], 1, length, length, dtype=dtype)
    padded[..., -length // 8 :] = torch.finfo(dtype).min
    module = torch.nn.Module()  # of which both ask whether it is being trained
    module.is_causal = False

    def way(attention: Callable) -> Callable[[], torch.Tensor]:
        def forward_and_backward() -> torch.Tensor:
            found, _ = attention(module, *parts, padded, dropout=0.0, scaling=SIZE**-0.5)
            found.sum().backward()
            return found.detach()

        return forward_and_backward

    ways = {"fused": way(sdpa_attention_forward), "steps": way(eager_attention_forward)}
    seconds, results = side_by_side(ways, rounds, repeat=5)
    assert relative_difference(results["fused"].float(), results["steps"].float()) < CLOSE[dtype], "the two ways differ"
    return ratio(seconds["fused"], seconds["steps"])
