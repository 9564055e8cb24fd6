"""A classification head that a checkpoint brings along: kept, put into the lesson's order, or made anew, and said which."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, PreTrainedModel


def check_head(model: PreTrainedModel, model_id: str, say: bool = True) -> PreTrainedModel:
    """Settle what a loaded classifier's head means where its checkpoint was a classifier already; returns the same model.

    `from_pretrained(..., id2label=...)` renames the outputs of such a head and leaves their weights in place: the output that
    was "contradiction" is then called "entailment". Outputs are matched by name here, never by number. The head is kept where
    the checkpoint has the model's labels in their order, its outputs are put into that order where it has them in another one, and
    the whole head is made anew where the labels are others (or have no names, as LABEL_0). A line says which; a folder is called by
    its last two names there.

    Args:
        model: loaded with the lesson's `id2label`, and `ignore_mismatched_sizes=True` for checkpoints with more or fewer labels.
        model_id: what it was loaded from. A checkpoint without a classification head changes nothing and says nothing.
        say: False for the same model loaded again, as in a series of seeds.
    """
    checkpoint = AutoConfig.from_pretrained(model_id)
    if not any("ForSequenceClassification" in name for name in checkpoint.architectures or ()):
        return model
    wanted, there = ([str(c.id2label[i]) for i in range(c.num_labels)] for c in (model.config, checkpoint))
    order = _order(wanted, there)
    if order is None:
        _make_anew(model)
        what = f"the head is made anew for {_listed(wanted)}"
    elif order == sorted(order):
        what = "it is kept, and trained further"
    else:
        _put_in_order(model, order)
        what = f"it is kept, its outputs put into the order {_listed(wanted)}"
    if say:
        name = "/".join(Path(model_id).parts[-2:]) if Path(model_id).is_dir() else model_id
        print(f"{name} has a head for {_listed(there)}: {what}")
    return model


def _order(wanted: list[str], there: list[str]) -> list[int] | None:
    """Which of the checkpoint's outputs is which label; None where the names are not the same."""
    wanted, there = ([name.casefold().replace("-", "_").replace(" ", "_") for name in names] for names in (wanted, there))
    if sorted(wanted) != sorted(there) or len(set(there)) < len(there) or all(name.startswith("label_") for name in there):
        return None
    return [there.index(name) for name in wanted]


def _listed(names: list[str], shown: int = 4) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more labels" if len(names) > shown else "")


def _head(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors outside the encoder, by name."""
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(model.base_model_prefix + ".")}


def _make_anew(model: PreTrainedModel) -> None:
    fresh = _head(type(model)(model.config))
    model.load_state_dict(fresh, strict=False)


def _put_in_order(model: PreTrainedModel, order: list[int]) -> None:
    outputs = [tensor for tensor in _head(model).values() if len(tensor) == len(order)]
    with torch.no_grad():
        for tensor in outputs[-2:]:  # weight and bias of the last layer
            tensor.copy_(tensor[order].clone())
