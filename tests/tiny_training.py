"""A real training of a tiny BERT on bundled rows, small enough to be started, killed and resumed by tests.

python -m tests.tiny_training RUN_NAME [--resume] [--slow SECONDS] [--dropout RATE]   prints the final training loss
"""

from __future__ import annotations

import argparse
import time
import types

import numpy as np
import torch
from transformers import DataCollatorWithPadding, TrainerCallback

from shared import metrics
from shared.legacy import data, models, runtime, training

BERT = types.SimpleNamespace(config=types.SimpleNamespace(model_type="bert"))  # all that `training.arguments` asks of a model


def config(**values) -> runtime.Config:
    defaults = {
        "model": "bert",
        "epochs": 4.0,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "evaluations_per_epoch": 3,
        "max_length": 48,
        "seed": 0,
        "resume": "",
    }
    return runtime.Config("task-1/ag-news", "tiny", defaults | values)


def trainer_for(cfg: runtime.Config, run: runtime.RunFolder, rows: int = 48, extra=(), **arguments) -> training.OrderedTrainer:
    """Everything between a configuration and a Trainer; dropout is on, so that the random state matters."""
    train = data.load_split("ag_news", "train", rows, cfg.seed)
    model, tokenizer, _ = models.load_encoder(
        cfg.model,
        "random",
        train.features["label"].names,
        tokenizer_texts=train["text"],
        hidden_dropout=cfg.get("hidden_dropout", 0.1),
        attention_dropout=0.0,
        seed=cfg.seed,
    )
    encoded = data.encode(train, tokenizer, cfg.max_length)
    return training.OrderedTrainer(
        model=model,
        args=training.arguments(cfg, run, model, rows=len(train), metric="macro_f1", **({"logging_steps": 1} | arguments)),
        train_dataset=encoded,
        eval_dataset=encoded,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=metrics.trainer_scores,
        callbacks=[training.Reporter(), *extra],
    )


def losses_of_steps(model: torch.nn.Module, batch: dict[str, torch.Tensor], steps: int = 6) -> list[float]:
    """The losses of a few plain AdamW steps on one batch, each before its step; the model ends in evaluation mode."""
    optimizer, losses = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2), []
    model.train()
    for _ in range(steps):
        loss = model(**batch).loss
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    return losses


class Slow(TrainerCallback):
    """Leaves a killer time to strike between two checkpoints."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_step_end(self, args, state, control, **kwargs):
        time.sleep(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    options = parser.parse_args()
    runtime.setup()
    folder = runtime.outputs_root() / options.name
    if not options.resume:
        for part in ("model", "logs", "checkpoints"):
            (folder / part).mkdir(parents=True, exist_ok=True)
    run = runtime.run_folder(config(resume=options.name))
    trainer = trainer_for(config(hidden_dropout=options.dropout), run, extra=[Slow(options.slow)])
    history = training.fit(trainer, run)
    predictions = trainer.predict(trainer.eval_dataset).predictions
    runtime.by_main_process(lambda: np.save(run.logs / "predictions.npy", predictions))
    print("final loss", [row["loss"] for row in history if "loss" in row][-1])


if __name__ == "__main__":
    main()
