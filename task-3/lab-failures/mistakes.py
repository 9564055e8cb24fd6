"""What the lab on failures measures: losses of answers and of their end, packed merging, mistakes against the right way.

Only this lab uses it. Nothing here trains or writes.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from shared import metrics
from shared.course import CourseError

KEYS = ("rouge1", "rouge2", "rougeL")
PUBLISHED = {"rouge1": 7.13, "rouge2": 0.21, "rougeL": 6.03}  # of a public course, Phi-2 and QLoRA on XSum


def padded(lengths: Sequence[int], batch_size: int) -> np.ndarray:
    """[prompts] bool: which get padding where batches are taken in the given order. Raises CourseError for a batch size below 1."""
    if batch_size < 1:
        raise CourseError(f"a batch of {batch_size} prompts cannot be: choose 1 or more")
    parts = [np.array(lengths[start : start + batch_size]) for start in range(0, len(lengths), batch_size)]
    return np.concatenate([part < part.max() for part in parts]) if parts else np.zeros(0, dtype=bool)


def merge_packed(model: torch.nn.Module, dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    """The mistake: adapters added to 4-bit weights whose sums are packed again, by peft's own call. `model` is left as it is.

    What is not packed is stored as `dtype`: keys and values are as wide as the norms make them.
    """
    whole = copy.deepcopy(model).eval()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Merge lora module to 4-bit")  # peft says what this lab measures
        packed = whole.merge_and_unload().eval()
    for weight in packed.parameters():
        if weight.is_floating_point():
            weight.data = weight.data.to(dtype)
    return packed


@torch.inference_mode()
def answer_losses(model: torch.nn.Module, rows: Sequence[dict[str, list[int]]]) -> dict[str, list[float]]:
    """{'words', 'end'}: -log P a token of each row's answer without its end token, and of the end token alone, in nats.

    Args:
        rows: 'input_ids', and 'labels' of -100 on the prompt; the last label is the end token.

    One row at a time, so that nothing is padded. Raises CourseError for a row with fewer than two tokens in its answer.
    """
    training, found = model.training, {"words": [], "end": []}
    model.eval()
    for number, row in enumerate(rows):
        answer = [token for token in row["labels"] if token != -100]
        if len(answer) < 2:
            raise CourseError(f"row {number} has no answer before its end token: drop the row")
        ids = torch.tensor([row["input_ids"]], device=model.device)
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(answer) + 1).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, -len(answer) :], reduction="none")
        found["words"].append(losses[:-1].mean().item())
        found["end"].append(losses[-1].item())
    model.train(training)
    return found


def mean_rows(scores: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """{measure: [rows]}: each row's ROUGE, averaged over the seeds. Raises CourseError for no seed."""
    if not scores:
        raise CourseError("there is no score: run at least one seed")
    return {key: np.mean([score[key] for score in scores], axis=0) for key in KEYS}


def against(rows: dict[str, np.ndarray], right: dict[str, np.ndarray], seed: int = 0) -> dict[str, Any]:
    """A line of the lab's table: each measure with its interval, and 'difference' by measure, the paired difference to the right way.

    Args:
        rows, right: of the mistake and of the right way, from `mean_rows` on the same test rows.

    The intervals say what other articles would change. Other seeds are not in them.
    """
    difference = {key: _difference(rows[key], right[key], seed) for key in KEYS}
    weights = metrics.resample_weights(len(right["rouge1"]), seed=seed)
    return {**metrics.means({key: rows[key] for key in KEYS}, weights, highest=100.0), "difference": difference}


def _difference(rows: np.ndarray, right: np.ndarray, seed: int) -> dict[str, float]:
    """rows - right, paired; exactly 0 for the right way itself, whatever the articles."""
    return dict.fromkeys(("value", "low", "high"), 0.0) if rows is right else metrics.mean_difference(rows, right, seed=seed)


def times_published(line: dict[str, Any]) -> dict[str, float]:
    """How many times the published figure each measure is; 7.13 and 0.21 have to be near 1 both, before a mistake explains them."""
    return {key: line[key]["value"] / PUBLISHED[key] for key in KEYS}
