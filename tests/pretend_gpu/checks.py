"""What two pretended T4s do, and what every kind of encoder does on one of them; written to a file as JSON.

    python -m tests.pretend_gpu.checks FACTS.json

All in one process, since the libraries take longer to import than the checks to run. `tests/test_pretended_gpu.py` says
what the facts should be. A check that ends in an error leaves {"error": its traceback}.
"""

from __future__ import annotations

import copy
import io
import json
import math
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.course import runtime, standin
from tests.pretend_gpu import T4, start

standin.start("tiny")  # later bitsandbytes has imported the Hub's client
torch = start(*T4, count=2)  # two, as Kaggle lends them

from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments  # noqa: E402  after the pretended GPUs are there

from tests.test_heads import ENCODERS  # noqa: E402
from tests.tiny_training import config, trainer_for  # noqa: E402

ROWS = 48


def refusal(act: Callable[[], Any]) -> str:
    """What an error says that `act` ends in; nothing where it ends in none."""
    try:
        act()
    except (TypeError, RuntimeError) as error:
        return runtime.first_line(error)
    return ""


# ---------------------------------------------------------------- the device itself


def placement() -> dict[str, Any]:
    """Where tensors are, and what is refused."""
    there, here = torch.ones(3, 4, device="cuda"), torch.ones(3, 4)
    saved = io.BytesIO()
    torch.save(there, saved)
    saved.seek(0)
    there.view(12)[0] = 5  # a view writes into its base
    made = {"sum": there + 1, "on the GPU": here.cuda(), "indexed": there[torch.tensor([0])], "plus a number": there + torch.tensor(1.0)}
    made |= {"copied": copy.deepcopy(there), "loaded": torch.load(saved), "random": torch.randn(2, device="cuda")}
    mixed = {"sum": lambda: there + here, "linear": lambda: torch.nn.Linear(4, 2)(there)}
    mixed |= {"written": lambda: there.index_put_((torch.tensor([0]),), here[:1])}
    return {
        "devices": {name: str(tensor.device) for name, tensor in made.items()},
        "back": there.cpu().numpy().sum().item(),
        "numpy": refusal(there.numpy),
        "mixed": {name: refusal(act) for name, act in mixed.items()},
    }


def autocast() -> dict[str, str]:
    """The types by CUDA's rules: products in 16 bits, softmax in 32."""
    there = torch.ones(4, 4, device="cuda")
    with torch.autocast("cuda", torch.float16):
        product = there @ there
        softmax = torch.softmax(product, 0)
    return {"product": str(product.dtype), "softmax": str(softmax.dtype), "outside": str((there @ there).dtype)}


def scaler() -> dict[str, Any]:
    """A GradScaler's scale and whether the weight moved, after a step with finite gradients and after one on an infinite one."""
    found = {}
    for name, factor in (("finite", 1e-3), ("infinite", math.inf)):
        layer = torch.nn.Linear(4, 1, device="cuda")
        optimizer, scaler, before = torch.optim.AdamW(layer.parameters(), fused=True), torch.amp.GradScaler("cuda"), layer.weight.clone()
        with torch.autocast("cuda", torch.float16):
            loss = layer(torch.ones(2, 4, device="cuda")).sum() * factor
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        found[name] = {"scale": scaler.get_scale(), "moved": not torch.equal(layer.weight, before)}
    return found


def gpus() -> dict[str, int]:
    """How many GPUs are visible, and how many a Trainer would use."""
    with tempfile.TemporaryDirectory() as folder:
        library = TrainingArguments(output_dir=folder, report_to="none")
    return {"visible": torch.cuda.device_count(), "library": library.n_gpu}


# ---------------------------------------------------------------- the encoders


class Types:
    """Notes in which types a model's linear layers compute, while it is trained and at other times."""

    def __init__(self, trainer: Trainer):
        self.seen: dict[str, set[str]] = {"training": set(), "predicting": set()}
        self.trainer = trainer
        for module in trainer.model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self.note)

    def note(self, module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        self.seen["training" if self.trainer.is_in_train else "predicting"].add(str(output.dtype))


def predictions(model: torch.nn.Module, encoded: Any, collate: Callable) -> torch.Tensor:
    """A model's logits of encoded rows in their order, without any Trainer."""
    columns = [name for name in encoded.column_names if name != "label"]
    with torch.inference_mode():
        batches = (collate([encoded.select_columns(columns)[i] for i in range(k, k + 8)]) for k in range(0, len(encoded), 8))
        return torch.cat([model(**batch.to(model.device)).logits for batch in batches]).cpu()


def encoder(name: str) -> dict[str, Any]:
    """Trains a tiny twin for a dozen steps, predicts, saves, loads again and predicts once more."""
    cfg = config(model=name, epochs=1.0, batch_size=4)
    run = runtime.run_folder(cfg)
    trainer = trainer_for(cfg, run, rows=ROWS)
    types, before, model = Types(trainer), copy.deepcopy(trainer.model.state_dict()), trainer.model
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    trainer.args.train_sampling_strategy = "random"  # predictions in the order of the rows
    encoded = trainer.eval_dataset
    reported = torch.tensor(trainer.predict(encoded).predictions)
    trainer.save_model(str(run.model))
    reloaded = AutoModelForSequenceClassification.from_pretrained(run.model).to(model.device).eval()
    return {
        "gpus": trainer.args.n_gpu if trainer.model_wrapped is model else 0,  # else something is wrapped around the model
        "losses": losses,
        "scaled by": trainer.accelerator.scaler and trainer.accelerator.scaler.get_scale(),
        "moved": sum(not torch.equal(value, before[key]) for key, value in model.state_dict().items()),
        "types": {when: sorted(found) for when, found in types.seen.items()},
        "devices": [str(model.device), str(reloaded.device)],
        "spread": reported.std().item(),
        "difference": (reported - predictions(reloaded, encoded, trainer.data_collator)).abs().max().item(),
    }


def fact(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a check finds, or the traceback of the error that it ends in."""
    try:
        return check()
    except Exception:
        return {"error": traceback.format_exc()}


def main() -> None:
    runtime.quiet()
    facts = {check.__name__: fact(check) for check in (placement, autocast, scaler, gpus)}
    torch.cuda.device_count = lambda: 1  # as many as `course.setup` shows to a lesson's process
    facts |= {name: fact(lambda name=name: encoder(name)) for name in ENCODERS}
    Path(sys.argv[1]).write_text(json.dumps(facts), encoding="utf8")


if __name__ == "__main__":
    main()
