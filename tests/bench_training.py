"""The training part of `make bench`: the recipe of the AG News lesson against the usual one, rung by rung.

The usual recipe: every text padded to the limit, fp32, batches at random, all layers trained, with the model's own dropout. The
lesson's is what the cells of task-1/ag-news do in the active profile: `DataCollatorWithPadding`, `group_by_length`, the dropout
and the frozen layers of `profiles.toml`, the precision of `course.precision`. Checkpoint, texts, batch size, optimiser
and schedule are the same on every rung, and so are the calls: a plain Trainer.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    DefaultDataCollator,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from shared import course, data
from shared.course import estimate, runtime
from shared.course.settings import Settings
from tests.bench_timing import Ratio, ratio, side_by_side

LESSON = "task-1/ag-news"
STEPS = 11  # of a recipe with batches at random; all but the first are timed


@dataclass(frozen=True)
class Recipe:
    """How one rung trains; the defaults are the usual way."""

    padded: bool = True  # to the limit; False: to the longest text of the batch
    grouped: bool = False  # texts of like length share a batch
    dropout: float | None = None  # None: the model's own
    frozen: int = 0  # lowest layers, and with them the embeddings
    bf16: bool = False


def lesson_settings() -> Settings:
    """The lesson's settings in the active profile: what its notebook and its profiles.toml say."""
    return course.settings(LESSON, **estimate.settings_of(runtime.ROOT / LESSON / "ag_news.ipynb"))


def ladder(cfg: Settings) -> dict[str, Recipe]:
    """The recipes from the usual one to the lesson's; each rung adds one thing. bf16 is on it where this processor trains in it."""
    usual = f"usual: padded to {cfg.max_length} tokens, fp32, batches at random, all layers trained"
    rungs, recipe = {usual: Recipe()}, Recipe()
    changes: dict[str, dict[str, Any]] = {
        "+ padded to the longest text of the batch": {"padded": False},
        "+ texts of like length in a batch (group_by_length)": {"grouped": True},
        f"+ dropout {cfg.dropout} instead of the model's own": {"dropout": cfg.dropout},
        f"+ embeddings and the {cfg.frozen_layers} lowest layers frozen": {"frozen": cfg.frozen_layers},
        "+ bf16": {"bf16": True},
    }
    for name, change in changes.items():
        if "bf16" not in change or runtime.precision("cpu") == "bf16":
            recipe = dataclasses.replace(recipe, **change)
            rungs[name] = recipe
    return rungs


def lesson_rows(cfg: Settings, rows: int | None = None) -> Dataset:
    """The texts that the lesson trains on, drawn as it draws them; repeated where there are fewer.

    Args:
        rows: as many instead of the settings' train_rows.
    """
    rows = rows or cfg.train_rows
    train = data.subsample(load_dataset("fancyzhx/ag_news", split=cfg.train_split), rows, cfg.seed, "label")
    if rows and len(train) < rows:
        train = train.select(np.arange(rows) % len(train))
    return train.train_test_split(test_size=0.05, seed=cfg.seed, stratify_by_column="label")["train"]


def tokenised(rows: Dataset, tokenizer: PreTrainedTokenizerBase, cfg: Settings, padded: bool = False) -> Dataset:
    """`map` as in the lesson; as in the usual notebook with padding to the limit."""

    def encode(rows):
        padding = {"padding": "max_length"} if padded else {}
        return tokenizer(rows["text"], truncation=True, max_length=cfg.max_length, **padding)

    return rows.map(encode, batched=True, remove_columns="text", load_from_cache_file=False)


class StepTimes(TrainerCallback):
    """The moment at which each step ended. The time before the first is left out: it also pays for allocation."""

    def __init__(self):
        self.marks: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.marks.append(time.perf_counter())

    def examples_per_second(self, batch_size: int) -> float:
        return (len(self.marks) - 1) * batch_size / (self.marks[-1] - self.marks[0])


def trainer_for(
    recipe: Recipe, cfg: Settings, encoded: Dataset, tokenizer: PreTrainedTokenizerBase, folder: str, steps: int, seed: int = 0, extra=()
) -> Trainer:
    """The lesson's model, arguments and Trainer, with what the recipe changes of them; no checks and no checkpoints."""
    torch.manual_seed(cfg.seed)
    labels = encoded.features["label"].num_classes
    model = AutoModelForSequenceClassification.from_pretrained(cfg.model, num_labels=labels, dtype=torch.float32)
    course.freeze_lower_layers(model, recipe.frozen)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout) and recipe.dropout is not None:
            module.p = recipe.dropout
    flags = {"bf16": recipe.bf16, "fp16": False, "use_cpu": True, "dataloader_pin_memory": False}
    precision = course.precision(model, cfg.max_length if recipe.bf16 else None) | flags
    arguments = TrainingArguments(
        folder,
        max_steps=steps,
        per_device_train_batch_size=cfg.batch_size,
        per_device_eval_batch_size=2 * cfg.batch_size,
        learning_rate=cfg.learning_rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length" if recipe.grouped else "random",
        save_strategy="no",
        logging_steps=10_000,
        disable_tqdm=True,
        seed=seed,
        **precision,
    )
    trainer = Trainer(
        model,
        arguments,
        train_dataset=encoded,
        processing_class=tokenizer,
        data_collator=DefaultDataCollator() if recipe.padded else DataCollatorWithPadding(tokenizer),
        callbacks=[*course.callbacks(), *extra],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def cycle(rows: int, batch_size: int) -> int:
    """Batches that the library's sampler sorts at a time, the longest first: only all of them together have the usual lengths."""
    return max(1, min(rows // (4 * batch_size), 50))


def speeds(cfg: Settings, rows: Dataset, rounds: int = 3, steps: int = STEPS) -> dict[str, list[float]]:
    """Training examples per second of every rung in every round; a round takes all rungs in turn, with a seed of its own.

    A recipe with grouped batches is timed over one cycle of its sampler, the others over `steps` - 1 steps. To look all lengths up,
    which the sampler does once, before the first step, is left out here (`lookup_share`). Raises ValueError for too few rows.
    """
    tokenizer = AutoTokenizer.from_pretrained(cfg.model)
    encoded = {padded: tokenised(rows, tokenizer, cfg, padded) for padded in (True, False)}
    found: dict[str, list[float]] = {}
    for seed in range(rounds):
        for name, recipe in ladder(cfg).items():
            taken = 1 + cycle(len(rows), cfg.batch_size) if recipe.grouped else steps
            if taken * cfg.batch_size > len(rows):
                raise ValueError(f"{len(rows)} rows are too few for {taken} batches of {cfg.batch_size}")
            timer = StepTimes()
            with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
                trainer_for(recipe, cfg, encoded[recipe.padded], tokenizer, folder, taken, seed, [timer]).train()
            found.setdefault(name, []).append(timer.examples_per_second(cfg.batch_size))
            course.free()
    return found


def map_cost(cfg: Settings, rows: Dataset, rounds: int = 3) -> Ratio:
    """Time of `map` with a batched call of the tokenizer over that of one call on the list of all texts; the tokens are the same."""
    tokenizer = AutoTokenizer.from_pretrained(cfg.model)
    ways = {
        "map": lambda: tokenised(rows, tokenizer, cfg),
        "call": lambda: tokenizer(rows["text"][:], truncation=True, max_length=cfg.max_length),
    }
    seconds, results = side_by_side(ways, rounds)
    for column, values in results["call"].items():
        assert results["map"][column][:] == values, f"map and the plain call differ in {column}"
    return ratio(seconds["map"], seconds["call"])


def lookup_share(cfg: Settings, rows: Dataset, speed: float) -> float:
    """Time in which the sampler of group_by_length looks all lengths up, once a training, over that of one epoch at `speed` examples/s."""
    encoded = tokenised(rows, AutoTokenizer.from_pretrained(cfg.model), cfg)
    started = time.perf_counter()
    LengthGroupedSampler(cfg.batch_size, dataset=encoded, model_input_name="input_ids")
    return (time.perf_counter() - started) / (len(rows) / speed)


def accuracies(cfg: Settings) -> tuple[float, float]:
    """Accuracy on all test texts of the usual recipe and of the lesson's after one epoch each on the same texts, from the same seed."""
    rows, test = lesson_rows(cfg), load_dataset("fancyzhx/ag_news", split="test")
    rows = data.drop_overlap(rows, test, "text")
    tokenizer, found = AutoTokenizer.from_pretrained(cfg.model), []
    encoded, rungs = tokenised(test, tokenizer, cfg), list(ladder(cfg).values())
    for recipe in (rungs[0], rungs[-1]):
        with tempfile.TemporaryDirectory(prefix="course-bench-") as folder:
            train = tokenised(rows, tokenizer, cfg, recipe.padded)
            trainer = trainer_for(recipe, cfg, train, tokenizer, folder, steps=-(-len(rows) // cfg.batch_size))
            trainer.train()
            trainer.args.train_sampling_strategy = "random"  # predictions in the order of the texts
            trainer.data_collator = DataCollatorWithPadding(tokenizer)
            predicted = trainer.predict(encoded).predictions.argmax(-1)
        found.append(float((predicted == np.array(test["label"])).mean()))
    return found[0], found[1]
