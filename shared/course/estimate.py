"""Minutes and memory that Run All of a lesson's `colab` takes on a Colab T4: an estimate from its configuration, not a measurement.

    python -m shared.course.estimate                                   a table of all lessons
    python -m shared.course.estimate ag-news --set train_rows=all --set epochs=4
    python -m shared.course.estimate --write    puts the table of all lessons into MACHINES.md

The values of `colab` are read from the notebook's own settings, and the lesson's plan (`plans`) says what its cells do. A step of
training takes its FLOPs (counted by `cost`) at the rate below or, where batches are small, as long as Python needs to start its
kernels. Checks run in the training's precision and reported evaluation in fp32, T5 always in fp32, packed decoders in fp16.
Free Colab disconnects who leaves it alone (https://research.google.com/colaboratory/faq.html), after about 90 minutes as users report;
LIMIT is half of that.

Tokens a row are means over real rows, cut as in the lesson: WordPiece of BERT uncased for encoders (AG News 54, GoEmotions 19, MNLI 39,
RTE 70, SST-2 13, SQuAD 187 a window and 1.03 windows a question; T5 on SQuAD 195, CNN/DailyMail 94 % of 512), SmolLM2's BPE for
decoders (prompts with SST-2 27 in training, 38 in validation, SQuAD v2 228, XSum 459 of 768); the models' own tokenizers differ a
little. Highlights have 56 words (See, Liu, Manning 2017), so 75 tokens. A guess: OPUS-100, 24 and 30.
"""

from __future__ import annotations

import argparse
import ast
import copy
import functools
import json
import math
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

from transformers import BertConfig, DistilBertConfig, LlamaConfig, PhiConfig, PreTrainedConfig

from shared import lora
from shared.course import cost, plans, report, run, runtime
from shared.course.runtime import CourseError, unknown
from shared.course.settings import overridden

# FLOP/s that a T4 reaches of its 65 and 8.1 tera (https://www.nvidia.com/en-us/data-center/tesla-t4/). fp16: ModernBERT-base on Kaggle's
# T4, a training step of 32 x 128 tokens (2.8 tera FLOPs) in 0.30 s. fp32: half of the peak (a guess).
RATE = {"fp16": 9.5e12, "fp32": 4.3e12}
PASS = 0.0017  # seconds of one layer's forward pass at the least, however few tokens: those of a layer and decoding step on a T4
BACKWARD = 2  # kernels of a backward pass over those of a forward pass (a guess)
STEP = 0.015  # seconds of a training step outside the model: collating, clipping, optimiser, callbacks (a guess)
ADAPTED = 2.0  # kernels of a 4-bit layer with an adapter beside it over those of a plain one (a guess)
BEAMED = 1.5  # a decoding step with beams over one without: scoring, reordering the cache (a guess)
PADDING = 1.04  # positions over tokens in batches of like length: 1.01 to 1.07, measured on the course's data sets
UNPACKED = 2.5 / 240e9  # seconds to unpack a 4-bit weight: half a byte read, two written, at three quarters of 320 GB/s (a guess)
DOWNLOAD, DISK = 50e6, 150e6  # bytes a second from the Hub, and from and to Colab's disk (guesses)
START = 180.0  # seconds for cloning, installing, importing and drawing (a guess)
SLOWER = 1.5  # Colab's two virtual cores over the two that the seconds given to `Plan.host` were measured on (a guess)
CONTEXT = 0.5 * cost.GIB  # bytes of the CUDA context
LIMIT, T4 = 45, 14.7  # minutes that a default may take; GiB of a T4, of which `cost.T4_GIB` can be used
PARTS = ("training", "checks", "evaluation", "other", "start")  # other: second trainings, other models, work of the CPU
ROWS = {  # of the Hub's splits, from their cards: train, validation, test
    "ag_news": (120_000, 0, 7_600), "go_emotions": (43_410, 5_426, 5_427), "mnli": (392_702, 9_815, 0), "rte": (2_490, 277, 0),
    "squad": (87_599, 10_570, 0), "squad_v2": (130_319, 11_873, 0), "cnn_dailymail": (287_113, 13_368, 11_490),
    "en_id": (1_000_000, 2_000, 2_000), "sst2": (67_349, 872, 0), "xsum": (204_045, 11_332, 11_334),
}  # fmt: skip


class Model(NamedTuple):
    """A published model: its head, its configuration, the GB of its file; whether QLoRA trains it."""

    head: str
    config: PreTrainedConfig
    gigabytes: float
    adapted: bool = False


_LLAMA = {
    "vocab_size": 128_256, "hidden_size": 2_048, "intermediate_size": 8_192, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "tie_word_embeddings": True,
}  # fmt: skip
_SMOL = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1_536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "tie_word_embeddings": True,
}  # fmt: skip
_PHI = {"vocab_size": 51_200, "hidden_size": 2_560, "intermediate_size": 10_240, "num_hidden_layers": 32, "num_attention_heads": 32}
MODELS = {
    "google-bert/bert-base-uncased": Model("classes", BertConfig(), 0.44),
    "google-bert/bert-base-cased": Model("classes", BertConfig(vocab_size=28_996), 0.44),
    "distilbert/distilbert-base-uncased": Model("classes", DistilBertConfig(), 0.27),
    "distilbert/distilbert-base-cased": Model("classes", DistilBertConfig(vocab_size=28_996), 0.26),
    "google-t5/t5-small": Model("text", cost.TEXT_MODELS["T5-small"].config(), 0.24),
    "google-t5/t5-base": Model("text", cost.TEXT_MODELS["T5-base"].config(), 0.89),
    "unsloth/Llama-3.2-1B": Model("next token", LlamaConfig(**_LLAMA), 2.5, adapted=True),
    "HuggingFaceTB/SmolLM2-135M-Instruct": Model("next token", LlamaConfig(**_SMOL), 0.27, adapted=True),
    "microsoft/phi-2": Model("next token", PhiConfig(**_PHI, partial_rotary_factor=0.4, resid_pdrop=0.1), 5.6, adapted=True),
}
Shape = tuple[int, int, int]  # rows of a batch, tokens of the longest row, of its target (1 where there is none)
Tokens = float | tuple[float, float]  # of a mean row, or of its source and target


@functools.cache
def _shallow(name: str, shape: Shape) -> tuple[cost.Cost, cost.Cost]:
    """What a training step costs with one block and with two."""
    model, costs, options = MODELS[name], [], {"precision": "fp32" if MODELS[name].head == "text" else "mixed"}
    if model.adapted:
        options = {"precision": "half", "adapt": lora.sketch(16, 0.05), "four_bit": True, "optimizer_bytes": 2}
    for blocks in (1, 2):
        config = copy.deepcopy(model.config)
        config.num_hidden_layers = blocks
        if model.head == "text":
            config.num_decoder_layers = blocks
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:blocks]
        costs.append(cost.training_cost(config, model.head, batch=shape[0], length=shape[1], target_length=shape[2], **options))
    return costs[0], costs[1]


class Plan:
    """Adds up what a lesson does: `seconds` of each of PARTS, and `peak`, the most bytes on the GPU at a time.

    A model is read and written with at the shape at which it was first trained here.
    """

    def __init__(self, cfg: dict[str, Any]):
        self.cfg, self.shapes, self.peak, self.resident = cfg, {}, 0.0, 0.0
        self.seconds = dict.fromkeys(PARTS, 0.0) | {"start": START}

    def rows(self, key: str, data: str, split: int = 0) -> int:
        """What the configuration asks for of a split (0 training, 1 validation, 2 test), at most what there is."""
        asked, there = self.cfg.get(key), ROWS[data][split]
        return there if asked is None else min(asked, there)

    def deep(self, name: str, of: str, kept: float = 1.0, blocks: int = 0) -> float:
        """A field of the whole model's `Cost`, or with so many blocks; of what stands outside of them a share of `kept`."""
        one, two = (getattr(found, of) for found in _shallow(name, self.shapes[name]))
        return (2 * one - two) * kept + (blocks or MODELS[name].config.num_hidden_layers) * (two - one)

    def flops(self, name: str, tokens: Tokens, kept: float = 1.0) -> float:
        """A mean row's forward and backward pass, as its share of the longest row's: attention's part is rounded up a little."""
        (_, length, longest), c = self.shapes[name], MODELS[name].config
        if not isinstance(tokens, tuple):
            return self.deep(name, "flops", kept) * tokens / length * PADDING
        block = 6 * c.d_model**2 + 2 * c.d_model * c.d_ff  # numbers that work on a token of the source, and on one of the target
        source, target = c.num_layers * block, c.num_layers * block + c.vocab_size * c.d_model
        return self.deep(name, "flops") * (source * tokens[0] + target * tokens[1]) / (source * length + target * longest) * PADDING

    def passing(self, name: str, flops: float, precision: str, passes: float) -> float:
        """Seconds of some passes through a model that together take so many FLOPs."""
        model = MODELS[name]
        layers = model.config.num_hidden_layers * (2 if model.head == "text" else 1)
        unpacking = UNPACKED * 12 * model.config.hidden_size**2 * layers if model.adapted else 0.0  # about twelve squares a block
        return max(layers * PASS * passes * (ADAPTED if model.adapted else 1), flops / RATE[precision] + passes * unpacking)

    def training(
        self, tokens: Tokens, rows: float, held: float, *longest: int, name: str = "", answer: float = 0, part: str = "training",
        times: float = 1, epochs: float = 0, batch: int = 0, checks: float = 0,
    ) -> None:  # fmt: skip
        """Trainings with checks. longest: tokens of the longest row and target; answer: tokens whose logits a decoder computes.

        checks: how many an epoch. Activations computed twice ("checkpointing"): a block keeps only its input.
        """
        c, name = self.cfg, name or self.cfg["model"]
        model, batch, epochs, again = MODELS[name], batch or c["batch_size"], epochs or c["epochs"], bool(c.get("checkpointing"))
        self.shapes.setdefault(name, (batch, *longest, 1)[:3])
        kept = min(1.0, batch * answer / longest[0]) if model.adapted else 1.0
        flops, precision = self.flops(name, tokens, kept), "fp32" if model.head == "text" else "fp16"
        forward = flops / (2 if model.adapted else 3)  # frozen weights need no gradient of their own
        step = self.passing(name, batch * (flops + again * forward), precision, 1 + again + BACKWARD) + STEP
        size = batch if model.adapted else 2 * batch
        check = math.ceil(held / size) * self.passing(name, size * forward, precision, 1)
        saved = 12 * self.deep(name, "trainable") / DISK  # weights and AdamW's two moments
        self.seconds[part] += times * math.ceil(rows * epochs / batch) * step
        self.seconds["checks"] += times * epochs * checks * (check + saved)
        inputs = 4 * batch * longest[0] * model.config.hidden_size * model.config.num_hidden_layers if again else 0
        head = 2 * model.config.vocab_size * model.config.hidden_size if model.adapted else 0  # the output layer's copy in 16 bits
        still = sum(self.deep(name, of) for of in ("weights", "gradients", "optimizer"))
        self.hold(still + self.deep(name, "activations", kept, 1 if again else 0) + inputs + head)

    def hold(self, size: float) -> None:
        """So many bytes lie on the GPU beside what is resident, for a while."""
        self.peak = max(self.peak, self.resident + size + CONTEXT)

    def cache(self, rows: int, tokens: float) -> float:
        """Bytes of a decoder's keys and values, in 16 bits, of so many texts of so many tokens."""
        c = MODELS[self.cfg["model"]].config
        heads = getattr(c, "num_key_value_heads", None) or c.num_attention_heads
        return 2 * 2 * c.num_hidden_layers * heads * (c.hidden_size // c.num_attention_heads) * rows * tokens

    def reading(self, tokens: Tokens, rows: float, batch: int = 0, name: str = "", part: str = "evaluation", times: float = 1) -> None:
        """Forward passes over rows, in fp32 unless the weights are packed."""
        name, batch = name or self.cfg["model"], batch or 2 * self.cfg["batch_size"]
        adapted = MODELS[name].adapted
        forward = self.flops(name, tokens, kept=0 if adapted else 1) / (2 if adapted else 3)
        self.seconds[part] += times * math.ceil(rows / batch) * self.passing(name, batch * forward, "fp16" if adapted else "fp32", 1)

    def writing(
        self, tokens: Tokens, rows: float, new: float, batch: int, *, beams: int = 1, merged: bool = False, part: str = "evaluation",
        times: float = 1,
    ) -> None:  # fmt: skip
        """Reading prompts and writing. new: tokens of the longest answer of a batch. merged: adapters added to unpacked weights."""
        self.reading(tokens, rows, batch, part=part, times=times)
        model = MODELS[self.cfg["model"]]
        step = model.config.num_hidden_layers * PASS * (BEAMED if beams > 1 else 1) * (ADAPTED if model.adapted and not merged else 1)
        self.seconds[part] += times * math.ceil(rows / batch) * new * step

    def host(self, rows: float, seconds: float) -> None:
        """Work without a GPU: so many seconds a thousand rows, measured on two cores."""
        self.seconds["other"] += SLOWER * seconds * rows / 1_000

    def fetch(self, *names: str, loads: int = 3, more: float = 0) -> None:
        """Models (and `more` GB of data) from the Hub, which are read from or written to the disk so many times."""
        size = 1e9 * (more + sum(MODELS[name].gigabytes for name in names or (self.cfg["model"],)))
        self.seconds["start"] += size * (1 / DOWNLOAD + loads / DISK)


# ---------------------------------------------------------------- from the notebook to the table


def settings_of(notebook: Path) -> dict[str, Any]:
    """The settings that a notebook writes down, which are those of `colab`."""
    cells = ("".join(cell["source"]) for cell in json.loads(notebook.read_text(encoding="utf8"))["cells"])
    source = next(text for text in cells if text.startswith("cfg = course.settings("))
    return {keyword.arg: ast.literal_eval(keyword.value) for keyword in ast.parse(source).body[0].value.keywords}


def estimate(notebook: Path, overrides: str = "") -> dict[str, Any]:
    """'lesson', 'model', the minutes of each of PARTS, 'minutes' in all and 'gib' at the peak, of a lesson's `colab`.

    overrides: "key=value key=value". CourseError for an unknown key, a model that is not among MODELS, a lesson without a plan.
    """
    lesson, cfg = notebook.parent.name, settings_of(notebook)
    if lesson not in plans.PLANS:
        raise CourseError(f"{lesson} has no plan: say in shared/course/plans.py what its cells do")
    cfg |= overridden(lesson, cfg, overrides)
    for key in {"model", "encoder"} & set(cfg):
        if cfg[key] not in MODELS:
            raise unknown("model in the estimate", cfg[key], list(MODELS))
    plan = Plan(cfg)
    plans.PLANS[lesson](plan, cfg)
    minutes = {part: seconds / 60 for part, seconds in plan.seconds.items()}
    return {"lesson": lesson, "model": cfg["model"], **minutes, "minutes": sum(minutes.values()), "gib": plan.peak / cost.GIB}


def shown(rows: list[dict[str, Any]], markdown: bool = False) -> str:
    """A table of the rows of `estimate`, and below it what kind of figures they are."""
    table = [["Lesson", "Model", *(part.capitalize() for part in PARTS), "Minutes", f"At most {LIMIT}", f"GiB of {T4}"]]
    for row in rows:
        minutes = [f"{row[part]:.0f}" for part in (*PARTS, "minutes")]
        fits = "yes" if row["minutes"] <= LIMIT and row["gib"] <= cost.T4_GIB else "no"
        table.append([row["lesson"], row["model"].split("/")[-1], *minutes, fits, f"{row['gib']:.1f}"])
    widths = [0 if markdown else max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [(" | " if markdown else "  ").join(map(str.ljust, line, widths)).rstrip() for line in table]
    if markdown:
        lines = [f"| {line} |" for line in (lines[0], " | ".join(["---"] * len(widths)), *lines[1:])]
    return "\n".join([*lines, "", "An estimate for a Colab T4, in minutes; nobody has measured it."])


def write(rows: list[dict[str, Any]], page: Path = runtime.ROOT / "MACHINES.md") -> None:
    """Put the table into the page on machines, between its marks."""
    runtime.write_whole(page, report.fill(page.read_text(encoding="utf8"), "t4", shown(rows, markdown=True)))


@runtime.command_line
def main(argv: list[str] | None = None) -> int | None:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m shared.course.estimate", description="estimated minutes and memory of `colab` on a T4")
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="task-1/ag-news, ag-news, task-1; default: all")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="another value, for one lesson")
    parser.add_argument("--write", action="store_true", help="put the table of all lessons into MACHINES.md")
    options = parser.parse_args(argv)
    notebooks = run.find_lessons(options.lessons)
    if not options.lessons:  # labs say themselves how long they take
        notebooks = [notebook for notebook in notebooks if not notebook.parent.name.startswith("lab-")]
    if options.set and len(notebooks) > 1:
        raise CourseError("--set changes one lesson: name it")
    if options.write and (options.set or options.lessons):
        raise CourseError("--write takes every lesson with its own settings: leave out lessons and --set")
    rows = [estimate(notebook, " ".join(map(shlex.quote, options.set))) for notebook in notebooks]
    print(shown(rows))
    if options.write:
        write(rows)


if __name__ == "__main__":
    sys.exit(main())
