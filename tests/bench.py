"""Speed ratios, each measured side by side in this one process: python -m tests.bench [--accuracy] [--quick]

Absolute times say more about the machine than about the code, so only ratios are printed. With COURSE_DATA set to a
folder the rows are real AG News; without it, the course's bundled rows, repeated. `--accuracy` also trains both
recipes on the same rows for as many steps and compares them on the whole test split (needs COURSE_DATA; 15 minutes).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import DataCollatorWithPadding, DefaultDataCollator, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from shared import metrics
from shared.legacy import data, models, runtime, training
from tests import bench_decoder, bench_qa, bench_text

NAMES = ["World", "Sports", "Business", "Sci/Tech"]
BATCH, LIMIT, RATE = 32, 128, 2e-4
# What each rung adds to the one before; the first is the common recipe, the last the course's.
LADDER = {
    "common: every row padded to 128, fp32, random batches": {},
    "+ padding to the batch, batches grouped by length": {"grouped": True},
    "+ no dropout on attention probabilities": {"attention": 0.0},
    "+ no hidden dropout, fused AdamW": {"hidden": 0.0, "fused": True},
    "+ embeddings and the four lowest of six layers frozen": {"frozen": 4},
    "+ bf16 autocast": {"bf16": True},
}


class StepTimes(TrainerCallback):
    """Seconds of every step but the first, which also pays for allocation."""

    def __init__(self):
        self.marks: list[float] = []

    def on_step_end(self, args, state, control, **kwargs):
        self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> float:
        return self.marks[-1] - self.marks[0]


def rungs() -> dict[str, dict]:
    """The ladder's recipes, cumulative; bf16 only where the processor has it."""
    made, recipe = {}, {"grouped": False, "attention": 0.1, "hidden": 0.1, "fused": False, "frozen": 0, "bf16": False}
    for name, change in LADDER.items():
        if "bf16" in change and not runtime.cpu_has_bf16():
            continue
        recipe = recipe | change
        made[name] = recipe
    return made


def build(recipe: dict, rows: Dataset, epochs: float, extra=()) -> Trainer:
    """A Trainer of one recipe; model, rows, steps, learning rate and seed are the same for all."""
    weights = "pretrained" if models.packaged_folder(models.ENCODERS["minilm"].package) else "random"
    model, tokenizer, _ = models.load_encoder(
        "minilm", weights, NAMES, tokenizer_texts=data.bundled_split("ag_news", "train")["text"],
        hidden_dropout=recipe["hidden"], attention_dropout=recipe["attention"],
    )
    models.freeze_lower_layers(model, recipe["frozen"] if weights == "pretrained" else 0)
    folder = tempfile.mkdtemp(prefix="course-bench-")
    arguments = TrainingArguments(
        folder, num_train_epochs=epochs, per_device_train_batch_size=BATCH, per_device_eval_batch_size=2 * BATCH, learning_rate=RATE,
        warmup_steps=0.1, weight_decay=0.01, seed=0, save_strategy="no", logging_steps=10_000, disable_tqdm=True, report_to="none",
        optim="adamw_torch_fused" if recipe["fused"] else "adamw_torch", bf16=recipe["bf16"], use_cpu=True, dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length" if recipe["grouped"] else "random",
    )
    collator = DataCollatorWithPadding(tokenizer) if recipe["grouped"] else DefaultDataCollator()
    trainer = training.OrderedTrainer(
        model=model, args=arguments, train_dataset=encode(rows, tokenizer, recipe["grouped"]), processing_class=tokenizer,
        data_collator=collator, callbacks=list(extra),
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def encode(rows: Dataset, tokenizer, dynamic: bool) -> Dataset:
    if dynamic:
        return data.encode(rows, tokenizer, LIMIT)
    padded = rows.map(lambda b: dict(tokenizer(b["text"], truncation=True, max_length=LIMIT, padding="max_length")), batched=True)
    return padded.rename_column("label", "labels").remove_columns("text")


def sample(rows: int) -> Dataset:
    """Real training rows where COURSE_DATA names a folder, else bundled rows repeated."""
    if folder := os.environ.get("COURSE_DATA"):
        more = "train_extra_lowercased"  # a second file of training rows that some folders have
        splits = ["train", *([more] if (Path(folder) / "ag_news" / f"{more}.parquet").is_file() else [])]
        return data.subsample(data.join(*(data.load_split("ag_news", split) for split in splits)), rows, seed=0, label="label")
    bundled = data.bundled_split("ag_news", "train")
    return bundled.select(np.arange(rows) % len(bundled))


def training_speed(steps: int, rounds: int) -> dict[str, float]:
    """Examples per second of every rung relative to the common recipe: the median of `rounds` interleaved runs.

    The rungs between the first and the last, which no target depends on, run in the first round only. Fifty steps are
    one run through the length grouping (it sorts fifty batches at a time); with fewer, batches mix lengths that a real
    training keeps apart.
    """
    rows, ladder = sample(steps * BATCH), list(rungs().items())
    seconds = {name: [] for name, _ in ladder}
    for turn in range(rounds):
        for name, recipe in ladder if turn == 0 else (ladder[0], ladder[-1]):
            timer = StepTimes()
            build(recipe, rows, epochs=1, extra=[timer]).train()
            seconds[name].append(timer.seconds)
    common = statistics.median(next(iter(seconds.values())))
    return {name: common / statistics.median(values) for name, values in seconds.items()}


def tokenising_cost(rows: int = 10_000, rounds: int = 5) -> float:
    """Time of `data.encode` (datasets.map) over the time of one bare tokenizer call on the same texts."""
    dataset = sample(rows)
    texts = list(dataset["text"])
    _, tokenizer, _ = models.load_encoder("minilm", "pretrained", NAMES)
    ratios = []
    for _ in range(rounds):
        started = time.perf_counter()
        tokenizer(texts, truncation=True, max_length=LIMIT)
        between = time.perf_counter()
        data.encode(dataset, tokenizer, LIMIT)
        ratios.append((time.perf_counter() - between) / (between - started))
    return statistics.median(ratios)


def accuracies(rows: int, epochs: float) -> tuple[float, float, float]:
    """Test accuracy of the common recipe and of the course's after the same steps on the same rows, and the ratio of their speeds."""
    test, train = data.load_split("ag_news", "test"), sample(rows)
    train.info.description = test.info.description
    train = data.drop_overlap(train, test)
    found, seconds = [], []
    for recipe in (next(iter(rungs().values())), list(rungs().values())[-1]):
        timer = StepTimes()
        trainer = build(recipe, train, epochs, extra=[timer])
        trainer.train()
        seconds.append(timer.seconds)
        trainer.data_collator = DataCollatorWithPadding(trainer.processing_class)
        logits = trainer.predict(data.encode(test, trainer.processing_class, LIMIT)).predictions
        confusion = metrics.confusion_matrix(np.asarray(test["label"]), logits.argmax(-1), len(NAMES))
        found.append(float(metrics.accuracy(confusion)))
    return found[0], found[1], seconds[0] / seconds[1]


def verdict(text: str, reached: bool) -> bool:
    print(f"{text}  {'reached' if reached else 'MISSED'}", flush=True)
    return reached


def encoder_verdicts(quick: bool) -> list[bool]:
    """The recipe of the encoder lessons, and tokenising."""
    speed = training_speed(*(3, 1) if quick else (50, 2))
    for name, ratio in speed.items():
        print(f"{ratio:5.2f} x  {name}")
    cost = tokenising_cost(*(1_000, 1) if quick else ())
    return [
        verdict(f"training, examples per second against the common recipe: {ratio:.2f} x (target 6)", ratio >= 6),
        verdict(f"tokenising through datasets.map against a bare call: {cost:.2f} x the time (target 1.3)", cost <= 1.3),
    ]


def answer_verdicts(quick: bool) -> list[bool]:
    """Windows and span decoding."""
    ratios = bench_qa.compare(*(200,) if quick else ())
    return [
        verdict(f"question-answering features against the bare tokenizer call: {ratios['features']:.2f} x the time (target 1.25)",
                ratios["features"] <= 1.25),
        verdict(f"the usual loop for the same features: {ratios['usual features']:.1f} x ours (target 3)", ratios["usual features"] >= 3),
        verdict(f"span decoding, the usual loops with n_best 20: {ratios['decoding']:.1f} x ours, same answers (target 20)",
                ratios["decoding"] >= 20),
    ]


def text_verdicts(quick: bool) -> list[bool]:
    """Generating with an encoder-decoder, and ROUGE."""
    ratios = bench_text.compare(*(8, 100, 1) if quick else ())
    return [
        verdict(f"generation, one by one against length-sorted batches: {ratios['generation']:.1f} x ours, same texts (target 3)",
                ratios["generation"] >= 3),
        verdict(f"ROUGE with 1,000 resamples against scoring once: {ratios['intervals']:.2f} x the time (target 1.3)",
                ratios["intervals"] <= 1.3),
    ]


def decoder_verdicts(quick: bool) -> list[bool]:
    """Generating with a decoder, and training it."""
    found = bench_decoder.compare(*(4,) if quick else ())
    return [
        verdict(f"generation in left-padded batches against one by one: {found['generation']:.1f} x, "
                f"{found['equal texts']:.0%} of the texts the same (target 2.5, all)",
                found["generation"] >= 2.5 and found["equal texts"] == 1),
        verdict("training a decoder on grouped rows with logits for completions only, against rows padded to the maximum: "
                f"{found['training']:.2f} x, losses {found['loss difference']:.0e} apart (target 1.5, 1e-4)",
                found["training"] >= 1.5 and found["loss difference"] <= 1e-4),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--accuracy", action="store_true", help="also compare test accuracy (needs COURSE_DATA)")
    parser.add_argument("--quick", action="store_true", help="one short round: does it run?")
    options = parser.parse_args()
    os.environ.setdefault("COURSE_PROFILE", "laptop")
    runtime.setup()
    parts = (encoder_verdicts, answer_verdicts, text_verdicts, decoder_verdicts)
    results = [result for part in parts for result in part(options.quick)]
    if options.accuracy:
        common, ours, ratio = accuracies(rows=4_000, epochs=1)
        text = (f"test accuracy: common recipe {common:.4f}, the course's {ours:.4f}, same rows and steps, {ratio:.2f} x the speed "
                "(target: within 0.005)")
        results.append(verdict(text, ours >= common - 0.005))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
