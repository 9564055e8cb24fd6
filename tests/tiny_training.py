"""A real training of a tiny BERT on bundled rows, as a lesson has it, small enough to be started, killed and resumed by tests.

python -m tests.tiny_training RUN_NAME [--resume] [--slow SECONDS] [--dropout RATE] [--random]   prints the final training loss
"""

from __future__ import annotations

import argparse
import json
import time
import types

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from shared import course, data
from shared.course import runtime
from shared.course.settings import Settings

BERT = types.SimpleNamespace(config=types.SimpleNamespace(model_type="bert"))  # all that `course.precision` asks of a model
TOLD = {"num_labels": 4, "dtype": torch.float32}


def config(**values) -> Settings:
    defaults = {
        "model": "google-bert/bert-base-uncased", "epochs": 4.0, "batch_size": 8, "learning_rate": 1e-3, "max_length": 48, "seed": 0,
        "resume": "",
    }  # fmt: skip
    return Settings("task-1/ag-news", "tiny", defaults | values)


def accuracy(prediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def trainer_for(cfg: Settings, run: runtime.RunFolder, rows: int = 48, extra=(), dropout: float = 0.1, **arguments) -> Trainer:
    """Everything between the settings and a Trainer; dropout is on, so that the random state matters."""
    train = data.subsample(data.bundled_split("ag_news", "train"), rows, cfg.seed, "label")
    tokenizer, options = AutoTokenizer.from_pretrained(cfg.model), {"truncation": True, "max_length": cfg.max_length}
    encoded = train.map(lambda part: tokenizer(part["text"], **options), batched=True, remove_columns="text")
    torch.manual_seed(cfg.seed)
    model = AutoModelForSequenceClassification.from_pretrained(cfg.model, **TOLD)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    third, size = max(1, rows // cfg.batch_size // 3), cfg.batch_size // runtime.processes()
    settings = {
        "num_train_epochs": cfg.epochs, "per_device_train_batch_size": size, "per_device_eval_batch_size": 2 * size,
        "learning_rate": cfg.learning_rate, "warmup_steps": 0.1, "train_sampling_strategy": "group_by_length", "eval_strategy": "steps",
        "eval_steps": third, "save_steps": third, "save_total_limit": 2, "load_best_model_at_end": True, "logging_steps": 1,
        "disable_tqdm": True, "seed": cfg.seed,
    }  # fmt: skip
    told = TrainingArguments(run.checkpoints, **(settings | arguments), **course.precision(model, cfg.max_length))
    return Trainer(
        model, told, train_dataset=encoded, eval_dataset=encoded, processing_class=tokenizer, compute_metrics=accuracy,
        data_collator=DataCollatorWithPadding(tokenizer), callbacks=[*extra, *course.callbacks(run)],
    )  # fmt: skip


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
    """Says each step, and leaves a killer time to strike between two checkpoints."""

    def __init__(self, seconds: float):
        self.seconds = seconds

    def on_step_end(self, args, state, control, **kwargs):
        print(f"step {state.global_step}/{state.max_steps}", flush=True)
        time.sleep(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--slow", type=float, default=0.0)
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--random", action="store_true", help="rows in random order, the same after a kill and in two processes")
    options = parser.parse_args()
    course.setup()
    (runtime.outputs_root() / options.name).mkdir(parents=True, exist_ok=True)
    run = course.run_folder(config(resume=options.name))
    order = {"train_sampling_strategy": "random"} if options.random else {}
    trainer = trainer_for(config(), run, extra=[Slow(options.slow)], dropout=options.dropout, **order)
    if options.resume:
        print(f"going on from {run.checkpoint}", flush=True)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    trainer.args.train_sampling_strategy = "random"  # predictions in the order of the rows
    predictions, history = trainer.predict(trainer.eval_dataset).predictions, trainer.state.log_history
    runtime.by_main_process(lambda: np.save(run.logs / "predictions.npy", predictions))
    runtime.by_main_process(lambda: runtime.write_whole(run.logs / "history.json", json.dumps(history)))
    print("final loss", [row["loss"] for row in history if "loss" in row][-1])


if __name__ == "__main__":
    main()
