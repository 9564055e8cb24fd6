"""One function a figure: arrays in, a matplotlib Figure out. Nothing is computed here that is a result.

A figure knows what it was drawn from. `save_all` writes that beside the pictures, and `redraw` draws them again without any training:
after a change of style, raise STYLE and run `python -m shared.report`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from shared.course.runtime import replace

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#8A8A8A"  # Okabe-Ito: safe for colour-blind readers

STYLE = 2  # raise it when figures are to look different: every committed one is drawn again


def _figure(width: float = 7.0, height: float = 3.6, columns: int = 1):
    """A styled figure that the notebook shows once: closed for pyplot, returned for display."""
    sns.set_theme(style="whitegrid", context="notebook", font_scale=0.9)
    figure, axes = plt.subplots(1, columns, figsize=(width, height), layout="constrained", dpi=80)
    plt.close(figure)
    return figure, axes


def drawn(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """A plot function whose figures have `drawn`, a record of its name and arguments that JSON can hold, and are drawn from that."""

    @functools.wraps(plot)
    def from_record(*args: Any, **kwargs: Any) -> Figure:
        arguments = _as_json(inspect.signature(plot).bind(*args, **kwargs).arguments)
        figure = plot(**{name: _as_arrays(part) for name, part in arguments.items()})
        figure.drawn = {"plot": plot.__name__, "arguments": arguments}
        return figure

    return from_record


def redraw(record: dict[str, Any]) -> Figure:
    """The figure of a record, in today's style."""
    return globals()[record["plot"]](**record["arguments"])


def _as_json(value: Any) -> Any:
    """Arrays and tuples as lists, numbers with six digits, nan and infinity as null."""
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    if isinstance(value, dict):
        return {str(key): _as_json(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _as_arrays(value: Any) -> Any:
    """Lists of numbers as arrays, null as nan."""
    if isinstance(value, dict):
        return {key: _as_arrays(part) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    if value and all(part is None or isinstance(part, int | float) for part in value):
        return np.array(value, dtype=float if None in value else None)
    parts = [_as_arrays(part) for part in value]
    alike = bool(parts) and all(isinstance(part, np.ndarray) and part.shape == parts[0].shape for part in parts)
    return np.array(parts) if alike else parts


def fingerprint(record: dict[str, Any]) -> str:
    """Changes with the record and with STYLE."""
    return hashlib.sha256(json.dumps([STYLE, record]).encode()).hexdigest()[:16]


def as_png(figure: Figure, record: dict[str, Any] | None = None) -> bytes:
    """The picture; its `Description` is the record's fingerprint."""
    picture = io.BytesIO()
    metadata = {"Description": fingerprint(record)} if record else None
    figure.savefig(picture, dpi=200, format="png", metadata=metadata)
    return picture.getvalue()


def is_stale(record: dict[str, Any], path: Path) -> bool:
    """Whether the picture is missing, or was drawn from something else or in an older style."""
    if not path.is_file():
        return True
    with Image.open(path) as picture:
        return picture.info.get("Description") != fingerprint(record)


def save(figure: Figure, folder: Path, name: str, record: dict[str, Any] | None = None) -> Path:
    """Write `<folder>/<name>.png`, whole or not at all, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.png"
    temporary = folder / f".{path.name}.{os.getpid()}"
    try:
        temporary.write_bytes(as_png(figure, record))
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def save_all(figures: dict[str, Figure], folder: Path) -> dict[str, dict]:
    """Save figures and return the records of those that can be drawn again: {name: record}.

    A notebook may have drawn a figure by itself or added a line to one of ours; what its record does not draw is kept as a picture.
    """
    records = {}
    for name, figure in figures.items():
        record = getattr(figure, "drawn", None)
        again = redraw(record) if record else None  # as a later `redraw`: a figure that was shown before has moved by a pixel
        if again and _parts(again) == _parts(figure):
            records[name] = record
            save(again, folder, name, record)
        else:
            save(figure, folder, name)
    return records


def _parts(figure: Figure) -> list[tuple]:
    """What a notebook could have changed of a figure: artists, scales, limits and texts of all axes."""
    return [
        (
            Counter(type(part).__name__ for part in axes.get_children()), axes.get_xscale(), axes.get_yscale(),
            axes.get_xlim(), axes.get_ylim(), axes.get_title(), axes.get_xlabel(), axes.get_ylabel(),
        )
        for axes in figure.axes
    ]  # fmt: skip


LONGEST, CROWD = 24, 12  # letters of a class name that are shown; classes whose numbers still fit beside each other


def _short(names: list[str]) -> list[str]:
    """Names of classes as a figure has room for them."""
    return [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in names]


def _class_axis(names: list[str], middle: float = 0.0):
    """A figure with the names of the classes along its horizontal axis, upright where they would run into each other."""
    names = _short(names)
    upright = sum(map(len, names)) > 70
    figure, axes = _figure(max(7.0, 0.22 * len(names)), 5.0 if upright else 3.6)
    axes.set_xticks(np.arange(len(names)) + middle, names, rotation=90 if upright else 0, fontsize=8 if len(names) > CROWD else None)
    return figure, axes


@drawn
def class_counts(counts: dict[str, list[int]], names: list[str]) -> Figure:
    """Bars of rows per class, one group a split. `counts`: {split: [rows of class 0, ...]}."""
    width = 0.8 / len(counts)
    figure, axes = _class_axis(names, width * (len(counts) - 1) / 2)
    for i, (split, values) in enumerate(counts.items()):
        bars = axes.bar(np.arange(len(names)) + i * width, values, width, label=split, color=[BLUE, ORANGE, GREEN][i % 3])
        if len(names) <= CROWD:
            axes.bar_label(bars, fmt="{:,.0f}", padding=2, fontsize=8)
    axes.set(ylabel="rows", title="Rows per class")
    axes.margins(y=0.12)
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=len(counts))  # inside it would hide a bar where the classes are balanced
    return figure


@drawn
def lengths(
    tokens: np.ndarray, limit: int, legend: str = "cut at {limit} tokens ({share:.1%} of rows)", percentile: float = 99
) -> Figure:
    """Histogram of lengths in tokens with a limit and a percentile marked; `legend` says what the limit does to longer ones."""
    figure, axes = _figure()
    mark = np.percentile(tokens, percentile)
    right = max(limit * 1.05, mark * 1.1)
    axes.hist(np.minimum(tokens, right), bins=40, color=BLUE)
    axes.axvline(limit, color=ORANGE, linewidth=2, label=legend.format(limit=limit, share=(tokens > limit).mean()))
    axes.axvline(mark, color=GREY, linestyle="--", label=f"{percentile:g}th percentile: {mark:.0f}")
    axes.set(xlabel="tokens, special ones included (longer rows stand at the right edge)", ylabel="rows", title="Length of the rows")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@drawn
def learning_curve(history: list[dict], scores: tuple[str, ...] = ("accuracy", "macro_f1"), loss: str = "cross-entropy") -> Figure:
    """Training and validation loss by step, and the validation `scores` (keys of the history without `eval_`) beside them."""
    figure, panels = _figure(9.0, 3.6, columns=2) if scores else _figure()
    left, right = panels if scores else (panels, None)
    train = [(row["step"], row["loss"]) for row in history if "loss" in row]
    left.plot(*zip(*train, strict=True), color=BLUE, label="training")
    checks = [row for row in history if "eval_loss" in row]
    steps = [row["step"] for row in checks]
    left.plot(steps, [row["eval_loss"] for row in checks], color=ORANGE, marker="o", label="validation")
    highest = max([value for _, value in train] + [row["eval_loss"] for row in checks])
    left.set(xlabel="step", ylabel=loss, title="Loss", ylim=(0, 1.08 * highest))
    left.legend()
    if not scores:  # validated by the loss alone
        return figure
    for key, colour in zip(scores, sns.color_palette("colorblind", len(scores)), strict=True):
        right.plot(steps, [row[f"eval_{key}"] for row in checks], color=colour, marker="o", label=key.replace("_", "-"))
    right.set(xlabel="step", ylabel="score", title="Validation scores")
    low, high = right.get_ylim()
    if high - low < 0.02:  # a single check, or checks that agree: their last decimals are no curve
        right.set_ylim((low + high) / 2 - 0.01, (low + high) / 2 + 0.01)
    right.legend()
    return figure


@drawn
def confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """Confusion matrix: colour by share of the gold class; for at most 12 classes, counts and shares are written out."""
    few, short = len(names) <= CROWD, _short(names)
    side = 0.72 * max(0, len(names) - 5) if few else 0.17 * len(names)
    figure, axes = _figure(5.4 + side, 4.4 + 0.8 * side)
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    text = [[f"{n:,}\n{share:.1%}" for n, share in zip(*rows, strict=True)] for rows in zip(matrix, shares, strict=True)]
    options = {"annot": text, "fmt": "", "cbar": False} if few else {"cbar_kws": {"label": "share of the gold class"}}
    sns.heatmap(shares, cmap="Blues", vmin=0, vmax=1, xticklabels=short, yticklabels=short, ax=axes, **options)
    if not few:
        axes.tick_params(labelsize=8)
    axes.set(xlabel="predicted", ylabel="gold", title="Confusion matrix")
    return figure


@drawn
def class_scores(table: list[dict]) -> Figure:
    """Precision, recall and F1 per class with their 95 % intervals."""
    figure, axes = _class_axis([row["class"] for row in table])
    for i, (key, colour) in enumerate((("precision", BLUE), ("recall", ORANGE), ("f1", GREEN))):
        values = np.array([[row[key][part] for part in ("value", "low", "high")] for row in table]).T
        errors = np.maximum([values[0] - values[1], values[2] - values[0]], 0)
        at = np.arange(len(table)) + (i - 1) * 0.18
        axes.errorbar(at, values[0], yerr=errors, fmt="o", color=colour, capsize=3, label=key)
    axes.set(ylabel="score", title="Per class, with 95 % intervals")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@drawn
def reliability(table: dict[str, np.ndarray], error: float) -> Figure:
    """Accuracy against confidence with the perfect diagonal, and how many rows each bin holds."""
    figure, (left, right) = _figure(9.0, 3.6, columns=2)
    filled = table["count"] > 0
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="perfect")
    left.plot(table["confidence"][filled], table["accuracy"][filled], color=BLUE, marker="o", label="model")
    left.set(xlabel="confidence", ylabel="accuracy", title=f"Reliability (ECE {error:.3f})", xlim=(0, 1.02), ylim=(0, 1.02))
    left.legend()
    edges = np.linspace(0, 1, len(table["count"]) + 1)
    right.bar(edges[:-1], table["count"], width=np.diff(edges), align="edge", color=BLUE)
    right.set(xlabel="confidence", ylabel="rows", title="Rows per bin", xlim=(0, 1.02))
    return figure


@drawn
def comparison(scores: dict[str, dict], measure: str, top: float = 1.0) -> Figure:
    """Horizontal bars of one measure for several systems. `scores`: {system: {'value', and 'low', 'high' if known}}.

    `top` is where the measure's axis ends: 1 for shares, 100 or less for ROUGE and BLEU.
    """
    figure, axes = _figure(7.0, 0.8 + 0.5 * len(scores))
    names = list(scores)[::-1]
    values = np.array([scores[name]["value"] for name in names])
    spread = [[values[i] - scores[n].get("low", values[i]), scores[n].get("high", values[i]) - values[i]] for i, n in enumerate(names)]
    axes.barh(names, values, xerr=np.maximum(spread, 0).T, color=[BLUE] * (len(names) - 1) + [ORANGE], capsize=3)
    for i, value in enumerate(values):
        shown = f"{value:.3f}" if top <= 1 else f"{value:.1f}"
        inside = value > 0.15 * top  # else it stands behind the interval
        at = 0.01 * top if inside else max(value, scores[names[i]].get("high", value)) + 0.01 * top
        axes.text(at, i, shown, va="center", color="white" if inside else "black", fontweight="bold")
    axes.set(xlabel=measure, xlim=(0, top))
    axes.grid(axis="y", visible=False)
    return figure


@drawn
def overview(
    names: list[str], scores: np.ndarray, lows: np.ndarray, highs: np.ndarray, baselines: np.ndarray, published: np.ndarray, finding: str
) -> Figure:
    """A line a lesson, from 0 to 100: its score with interval, its baseline, a published score or nan; `finding` is the title."""
    figure, axes = _figure(7.0, 1.3 + 0.33 * len(names))
    at = np.arange(len(names))
    axes.hlines(at, np.minimum(scores, baselines), np.maximum(scores, baselines), color="#D0D0D0", linewidth=2)
    axes.plot(baselines, at, "s", color=BLUE, markersize=7, label="best baseline")
    axes.hlines(at, lows, highs, color=ORANGE, linewidth=3)
    axes.plot(scores, at, "o", color=ORANGE, markersize=8, label="this course, with its 95 % interval")
    axes.plot(published, at, "D", color="black", fillstyle="none", markersize=7, label="published, in another way")
    axes.set_yticks(at, names)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    figure.suptitle(finding, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@drawn
def weights(values: dict[str, float], label: str) -> Figure:
    """Horizontal bars to both sides of zero, the largest on top. `values`: {name: weight}; `label` says what a weight is."""
    figure, axes = _figure(7.5, 0.8 + 0.3 * len(values))
    names = sorted(values, key=lambda name: abs(values[name]))
    axes.barh(names, [values[name] for name in names], color=[ORANGE if values[name] < 0 else BLUE for name in names])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=label)
    axes.grid(axis="y", visible=False)
    return figure


# ---------------------------------------------------------------- multi-label


@drawn
def label_counts(counts: dict[str, list[int]], names: list[str]) -> Figure:
    """Rows per label on a logarithmic scale, the commonest first: a line a label, a dot a split."""
    figure, axes = _figure(7.0, max(2.0, 0.6 + 0.21 * len(names)))
    order = np.argsort(next(iter(counts.values())))
    for (split, values), colour in zip(counts.items(), (BLUE, ORANGE, GREEN), strict=False):
        axes.plot(np.maximum(np.asarray(values)[order], 0.5), range(len(names)), "o", color=colour, label=split, markersize=5)
    axes.set_yticks(range(len(names)), np.asarray(_short(names))[order])
    axes.set(xscale="log", xlabel="rows (logarithmic)", title="Rows per label", ylim=(-1, len(names)))
    axes.legend(loc="lower right")
    return figure


@drawn
def cooccurrence(shares: np.ndarray, names: list[str]) -> Figure:
    """Heat map [labels, labels]: of the rows with the label of the line, the share that also has the column's."""
    side = max(3.0, 0.2 * len(names))
    figure, axes = _figure(2.8 + side, 1.8 + side)
    hidden, short = np.eye(len(names), dtype=bool), _short(names)
    bar = {"label": "share of the line's rows"}
    sns.heatmap(shares, mask=hidden, cmap="Blues", vmin=0, xticklabels=short, yticklabels=short, ax=axes, cbar_kws=bar)
    axes.tick_params(labelsize=8)
    axes.set(xlabel="also have", ylabel="rows with", title="Which labels go together")
    return figure


@drawn
def threshold_curves(thresholds: np.ndarray, curves: dict[str, np.ndarray], marks: dict[str, float]) -> Figure:
    """Scores against one threshold for all labels; `marks` {text: threshold} are drawn as vertical lines."""
    figure, axes = _figure()
    for (name, values), colour in zip(curves.items(), (BLUE, ORANGE, GREEN), strict=False):
        axes.plot(thresholds, values, color=colour, label=name)
    for (text, at), style in zip(marks.items(), ("--", ":", "-."), strict=False):
        axes.axvline(at, color=GREY, linestyle=style, label=f"{text} ({at:.2f})")
    axes.set(xlabel="threshold for all labels", ylabel="score", title="The threshold decides", xlim=(0, 1), ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


TIERS = {"excellent": GREEN, "good": BLUE, "moderate": "#E69F00", "poor": ORANGE, "zero": GREY}


@drawn
def label_f1(table: list[dict]) -> Figure:
    """F1 per label with 95 % intervals, best first, coloured by tier. `table`: rows with 'label', 'f1', 'tier', 'support'."""
    figure, axes = _figure(7.0, max(2.0, 1.0 + 0.21 * len(table)))
    rows = sorted(table, key=lambda row: row["f1"]["value"])
    for at, row in enumerate(rows):
        f1 = row["f1"]
        spread = [[max(f1["value"] - f1["low"], 0)], [max(f1["high"] - f1["value"], 0)]]
        axes.barh(at, f1["value"], xerr=spread, color=TIERS[row["tier"]], capsize=2, height=0.7)
    axes.set_yticks(range(len(rows)), [f"{_short([row['label']])[0]} ({row['support']:,})" for row in rows], fontsize=8)
    axes.set(xlabel="F1", title="F1 per label (test rows in brackets)", xlim=(0, 1), ylim=(-0.7, len(rows) - 0.3))
    axes.grid(axis="y", visible=False)
    present = [name for name in TIERS if any(row["tier"] == name for row in rows)]
    figure.legend([Patch(color=TIERS[name]) for name in present], present, loc="outside lower center", ncols=5)
    return figure


# ---------------------------------------------------------------- buckets, seeds


@drawn
def buckets(
    groups: dict[str, list[dict]], measure: str, title: str, floor: float | None = None, top: float = 1.0, label: str = ""
) -> Figure:
    """A measure with its interval per bucket, one panel a group: {group: [{'bucket', measure: {...}, 'rows'}]}.

    `top` is where the measure's axis ends, as in `comparison`; `label` names the axis where the column is only a 'mean'.
    """
    figure, panels = _figure(max(5.0, 1.05 * sum(map(len, groups.values())) + 2), 3.8, columns=len(groups))
    lowest = min(row[measure][part] for rows in groups.values() for row in rows for part in ("value", "low"))
    for axes, (name, rows) in zip(np.atleast_1d(panels), groups.items(), strict=True):
        values = np.array([[row[measure][part] for part in ("value", "low", "high")] for row in rows]).T
        errors = np.maximum([values[0] - values[1], values[2] - values[0]], 0)
        axes.errorbar(range(len(rows)), values[0], yerr=errors, fmt="o", color=BLUE, capsize=3)
        if floor is not None:
            line = axes.axhline(floor, color=GREY, linestyle="--")
        axes.set_xticks(range(len(rows)), [f"{row['bucket']}\n{row['rows']:,} rows" for row in rows], fontsize=8)
        axes.set(ylabel=label or measure, title=name, xlim=(-0.5, len(rows) - 0.5), ylim=(max(0, lowest - 0.05 * top), 1.02 * top))
    figure.suptitle(title, fontsize="medium")
    if floor is not None:
        figure.legend([line], ["all rows"], loc="outside lower center")
    return figure


@drawn
def seeds(runs: dict[str, list[float]], measure: str) -> Figure:
    """One dot a run, the mean as a line: {start: [score of seed 0, ...]}."""
    figure, axes = _figure(6.0, 3.4)
    for at, values in enumerate(runs.values()):
        axes.plot(np.full(len(values), at), values, "o", color=(BLUE, ORANGE, GREEN)[at % 3], alpha=0.7)
        axes.hlines(np.mean(values), at - 0.25, at + 0.25, color=GREY, linewidth=2)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set(ylabel=measure, title="One dot a seed, the line is the mean", xlim=(-0.6, len(runs) - 0.4))
    axes.grid(axis="x", visible=False)
    return figure


# ---------------------------------------------------------------- question answering


@drawn
def windows(cuts: dict[str, list[tuple[int, int]]], answers: dict[str, tuple[int, int]]) -> Figure:
    """Overlapping windows over a text's tokens, one panel a way to cut, with answers as bands across them.

    `cuts`: {title: [(first token, end), ...]}; `answers`: {name: (first token, end)}.
    """
    figure, panels = _figure(8.0, 3.0, columns=len(cuts))
    for axes, (title, spans) in zip(np.atleast_1d(panels), cuts.items(), strict=True):
        for at, (left, right) in enumerate(spans):
            axes.barh(-at, right - left, left=left, height=0.6, color=BLUE, alpha=0.55)
            axes.text(left + 2, -at, f"{left} to {right - 1}", va="center", fontsize=8)
        for (name, (left, right)), colour in zip(answers.items(), (ORANGE, GREEN, "#CC79A7"), strict=False):
            axes.axvspan(left, right, color=colour, alpha=0.5)
            axes.text((left + right) / 2, 0.75, name, ha="center", va="center", fontweight="bold")
        axes.set(title=title, xlabel="token of the text", yticks=[], ylim=(-len(spans) + 0.3, 1.1))
        axes.grid(axis="y", visible=False)
    return figure


@drawn
def stride_sweep(table: list[dict], chosen: int) -> Figure:
    """Windows a question and answers that are whole in one, against the stride; a line for each window length.

    Args:
        table: rows with 'max_length' and 'stride' in tokens, 'windows_per_question', and 'answers_whole' as a share.
        chosen: the stride in use, drawn as a vertical line.
    """
    figure, (left, right) = _figure(8.0, 3.2, columns=2)
    lengths = dict.fromkeys(row["max_length"] for row in table)
    for length, colour in zip(lengths, (BLUE, ORANGE, GREEN), strict=False):
        rows = [row for row in table if row["max_length"] == length]
        for axes, key in ((left, "windows_per_question"), (right, "answers_whole")):
            axes.plot([row["stride"] for row in rows], [row[key] for row in rows], color=colour, marker="o", label=f"{length} tokens")
    lowest = min(row["answers_whole"] for row in table)
    room = max(0.05 * (1 - lowest), 0.005)
    left.set(xlabel="stride in tokens", ylabel="windows a question", title="What it costs")
    left.set_ylim(0, 1.1 * max(row["windows_per_question"] for row in table))
    right.set(xlabel="stride in tokens", ylabel="share of answers", title="Answers whole in at least one window")
    right.set_ylim(lowest - room, 1 + room)
    for axes in (left, right):
        axes.axvline(chosen, color=GREY, linestyle="--", label=f"in use: {chosen}")
        axes.legend()
    return figure


@drawn
def token_logits(tokens: list[str], start_logits: np.ndarray, end_logits: np.ndarray) -> Figure:
    """Start and end logits as paired bars over the tokens of a text, or of a part of it."""
    figure, axes = _figure(9.0, 3.4)
    at = np.arange(len(tokens))
    axes.bar(at - 0.2, start_logits, 0.4, color=BLUE, label="start")
    axes.bar(at + 0.2, end_logits, 0.4, color=ORANGE, label="end")
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xticks(at, tokens, rotation=60, ha="right", fontsize=8)
    axes.set(ylabel="logit", title="Where would the answer start, where would it end?")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


@drawn
def null_odds(groups: dict[str, np.ndarray], threshold: float, label: str) -> Figure:
    """Histograms of one score for several groups of questions, {group: [questions]}, with the threshold between them."""
    figure, axes = _figure()
    both = np.concatenate(list(groups.values()))
    low, high = (float(limit(np.percentile(both, share), threshold)) for limit, share in ((min, 1), (max, 99)))  # the threshold shows, too
    edges = np.linspace(low, high, 31) if low < high else np.array([low - 1, low + 1])
    for (name, values), colour in zip(groups.items(), (BLUE, ORANGE), strict=True):
        axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges, color=colour, alpha=0.6, label=f"{name} ({len(values):,})")
    axes.axvline(threshold, color=GREY, linestyle="--", label=f"refuse above {threshold:.2f}")
    axes.set(xlabel=label, ylabel="questions", title="How sure is it that there is no answer?")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@drawn
def precision_recall(precision: np.ndarray, recall: np.ndarray, average: float) -> Figure:
    """Precision against recall, a point a threshold, with the average precision in the title."""
    figure, axes = _figure(5.4, 3.8)
    axes.step(recall, precision, where="post", color=BLUE)
    axes.set(xlabel="recall", ylabel="precision", title=f"Answer or refuse (average precision {average:.3f})", xlim=(0, 1), ylim=(0, 1.02))
    return figure


# ---------------------------------------------------------------- translation


@drawn
def length_pairs(source: np.ndarray, target: np.ndarray, names: tuple[str, str]) -> Figure:
    """Words of each pair's two sides against each other, and the distribution of their ratio, target / source."""
    figure, (left, right) = _figure(9.0, 3.6, columns=2)
    limit = max(np.percentile(source, 99.5), np.percentile(target, 99.5))
    left.plot([0, limit], [0, limit], color=GREY, linestyle="--", label="equal")
    left.plot(source, target, "o", color=BLUE, markersize=3, alpha=max(0.08, min(0.6, 60 / len(source))))
    left.set(xlabel=f"words, {names[0]}", ylabel=f"words, {names[1]}", title="Length of the two sides", xlim=(0, limit), ylim=(0, limit))
    left.legend(loc="lower right")
    ratio = np.clip(target / np.maximum(source, 1), 0, 2.5)
    right.hist(ratio, bins=40, range=(0, 2.5), color=BLUE)
    right.axvline(np.median(ratio), color=ORANGE, linewidth=2, label=f"median {np.median(ratio):.2f}")
    right.set(xlabel=f"words, {names[1]} / {names[0]} (at most 2.5)", ylabel="pairs", title="Length ratio")
    right.legend()
    return figure


@drawn
def distributions(values: dict[str, np.ndarray], xlabel: str, title: str, span: tuple[float, float], bins: int = 25) -> Figure:
    """One histogram a system over the same bins, as shares, with its mean as a dashed line."""
    figure, panels = _figure(max(5.0, 3.4 * len(values)), 3.4, columns=len(values))
    colours = sns.color_palette("colorblind", len(values))
    highest = 0.0
    for axes, (name, row), colour in zip(np.atleast_1d(panels), values.items(), colours, strict=True):
        shares, _, _ = axes.hist(np.clip(row, *span), bins=bins, range=span, weights=np.full(len(row), 1 / len(row)), color=colour)
        axes.axvline(row.mean(), color=GREY, linestyle="--", label=f"mean {row.mean():.2f}" if span[1] <= 5 else f"mean {row.mean():.1f}")
        axes.set(xlabel=xlabel, title=name, xlim=span)
        axes.legend(fontsize=8)
        highest = max(highest, shares.max())
    for axes in np.atleast_1d(panels):
        axes.set(ylim=(0, 1.15 * highest))
    np.atleast_1d(panels)[0].set(ylabel="share of sentences")
    figure.suptitle(title, fontsize="medium")
    return figure


@drawn
def size_curve(table: list[dict], measures: tuple[str, ...]) -> Figure:
    """Scores with their intervals against the number of training rows (logarithmic): rows with 'rows', a measure each, and 'set'.

    One panel a measure, one line a set.
    """
    figure, panels = _figure(4.5 * len(measures), 3.6, columns=len(measures))
    for axes, measure in zip(np.atleast_1d(panels), measures, strict=True):
        for name, colour in zip(dict.fromkeys(row["set"] for row in table), (BLUE, ORANGE, GREEN), strict=False):
            rows = [row for row in table if row["set"] == name]
            values = np.array([[row[measure][part] for part in ("value", "low", "high")] for row in rows]).T
            errors = np.maximum([values[0] - values[1], values[2] - values[0]], 0)
            axes.errorbar([row["rows"] for row in rows], values[0], yerr=errors, marker="o", color=colour, capsize=3, label=name)
        sizes = sorted({row["rows"] for row in table})
        shown = {"bleu": "BLEU", "chrf": "chrF"}.get(measure, measure)
        axes.set(xscale="log", xlabel="training rows (logarithmic)", ylabel=shown, ylim=(0, None))
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
    np.atleast_1d(panels)[0].legend()
    figure.suptitle("What more rows buy", fontsize="medium")
    return figure


# ---------------------------------------------------------------- generated texts


@drawn
def curves(at: np.ndarray, lines: dict[str, np.ndarray], labels: tuple[str, str, str], marks: dict[str, float] | None = None) -> Figure:
    """Lines over a common axis; `labels` are those of the axes and the title, `marks` {text: place} vertical lines."""
    figure, axes = _figure()
    for (name, values), colour in zip(lines.items(), sns.color_palette("colorblind", len(lines)), strict=True):
        axes.plot(at, values, color=colour, marker="o", label=name)
    for text, place in (marks or {}).items():
        axes.axvline(place, color=GREY, linestyle="--", label=text)
    axes.set(xlabel=labels[0], ylabel=labels[1], title=labels[2], ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@drawn
def grouped_bars(groups: dict[str, list[float]], names: list[str], labels: tuple[str, str]) -> Figure:
    """Bars side by side, a cluster a name: {group: [value of each name]}; `labels` of the vertical axis and the title."""
    figure, axes = _figure(8.0, 3.6)
    width, colours = 0.8 / len(groups), sns.color_palette("colorblind", len(groups))
    for i, ((group, values), colour) in enumerate(zip(groups.items(), colours, strict=True)):
        axes.bar(np.arange(len(names)) + i * width, values, width, color=colour, label=group)
    axes.set_xticks(np.arange(len(names)) + width * (len(groups) - 1) / 2, names)
    axes.set(ylabel=labels[0], title=labels[1])
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=len(groups))
    return figure


@drawn
def losses(stages: dict[str, list[dict]], loss: str = "cross-entropy a token") -> Figure:
    """Training and validation loss by step, one panel a stage of training: {stage: the Trainer's log history}."""
    figure, panels = _figure(4.5 * len(stages), 3.4, columns=len(stages))
    for axes, (title, history) in zip(np.atleast_1d(panels), stages.items(), strict=True):
        for key, name, colour, mark in (("loss", "training", BLUE, None), ("eval_loss", "held-out rows", ORANGE, "o")):
            points = [(row["step"], row[key]) for row in history if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=mark, label=name)
        highest = max(row[key] for row in history for key in ("loss", "eval_loss") if key in row)
        axes.set(xlabel="step", ylabel=loss, title=title, ylim=(0, 1.08 * highest))
        axes.legend()
    return figure


@drawn
def outcomes(shares: dict[str, dict[str, float]], title: str) -> Figure:
    """One stacked bar a system, its parts the shares of each outcome: {system: {outcome: share}}, best outcome first."""
    figure, axes = _figure(7.5, 1.5 + 0.55 * len(shares))
    names = list(shares)[::-1]
    colours = (GREEN, BLUE, "#E69F00", GREY)
    left = np.zeros(len(names))
    for outcome, colour in zip(next(iter(shares.values())), colours, strict=False):
        values = np.array([shares[name][outcome] for name in names])
        axes.barh(names, values, left=left, color=colour, label=outcome, height=0.6)
        for at, value in enumerate(values):
            if value > 0.06:
                axes.text(left[at] + value / 2, at, f"{value:.0%}", ha="center", va="center", color="white", fontsize=8)
        left += values
    axes.set(xlabel="share of the questions", xlim=(0, 1), title=title)
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=len(colours))
    return figure
