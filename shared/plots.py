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
import re
import textwrap
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

STYLE = 9  # raise it when figures are to look different: every committed one is drawn again


WIDTH = 7.0  # inches of every figure; pages show it at 700 pixels, so that no letter is smaller than 11 points


def _figure(height: float = 3.6):
    """A styled figure that the notebook shows once: closed for pyplot, returned for display."""
    figure, (axes,) = _panels(1, height)
    return figure, axes


def _panels(count: int, height: float = 3.4, across: int = 2):
    """A figure and its `count` axes, `across` in a row, each row `height` inches high."""
    sns.set_theme(style="whitegrid", context="notebook")  # letters of 11 and 12 points
    columns = min(count, across)
    rows = math.ceil(count / columns)
    figure, axes = plt.subplots(rows, columns, figsize=(WIDTH, height * rows), layout="constrained", dpi=80, squeeze=False)
    for empty in axes.ravel()[count:]:
        empty.remove()
    plt.close(figure)
    return figure, list(axes.ravel()[:count])


def _finding(figure: Figure, text: str) -> None:
    """What the figure shows, as its title; broken into lines that fit."""
    figure.suptitle(textwrap.fill(text, 76), fontsize="medium")


def _percent(share: float) -> str:
    """A share as text, with a digit behind the point where few rows would hide it."""
    return f"{share:.1%}" if 0 < share < 0.1 or 0.9 < share < 1 else f"{share:.0%}"


def drawn(plot: Callable[..., Figure]) -> Callable[..., Figure]:
    """A plot function whose figures have `drawn`, a record of its name and arguments that JSON can hold, and are drawn from that."""

    @functools.wraps(plot)
    def from_record(*args: Any, **kwargs: Any) -> Figure:
        arguments = _as_json(inspect.signature(plot).bind(*args, **kwargs).arguments)
        figure = plot(**{name: _as_arrays(_as_words(part)) for name, part in arguments.items()})
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


def _as_words(value: Any) -> Any:
    """Texts in which a dollar is a dollar: matplotlib reads what stands between two of them as mathematics."""
    if isinstance(value, dict):
        return {_as_words(key): _as_words(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_as_words(part) for part in value]
    return value.replace("$", r"\$") if isinstance(value, str) else value


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
    """The picture; its `Title` is what it shows, its `Description` the record's fingerprint."""
    picture = io.BytesIO()
    title = figure.get_suptitle() or next((axes.get_title() for axes in figure.axes if axes.get_title()), "")
    metadata = {"Title": " ".join(title.split())} | ({"Description": fingerprint(record)} if record else {})
    figure.savefig(picture, dpi=200, format="png", metadata=metadata)
    return picture.getvalue()


def is_stale(record: dict[str, Any], path: Path) -> bool:
    """Whether the picture is missing, or was drawn from something else or in an older style."""
    if not path.is_file():
        return True
    with Image.open(path) as picture:
        return picture.info.get("Description") != fingerprint(record)


def finding(path: Path) -> str:
    """What a saved picture shows, in words; "" where it has no title."""
    with Image.open(path) as picture:
        return picture.info.get("Title", "")


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


LONGEST, CROWD, UPRIGHT = 24, 8, 25  # letters of a class name that are shown; classes whose numbers, whose names fit beside each other


def _short(names: list[str]) -> list[str]:
    """Names of classes as a figure has room for them."""
    return [name if len(name) <= LONGEST else name[: LONGEST - 1] + "…" for name in names]


@drawn
def learning_curve(history: list[dict], scores: tuple[str, ...] = ("accuracy", "macro_f1"), loss: str = "cross-entropy") -> Figure:
    """Training and validation loss by step, and the validation `scores` (keys of the history without `eval_`) beside them.

    Fewer than three checks are no curve: then the losses stand alone.
    """
    checks = [row for row in history if "eval_loss" in row]
    steps = [row["step"] for row in checks]
    figure, (left, *right) = _panels(2 if scores and len(checks) >= 3 else 1, 3.8)
    train = [(row["step"], row["loss"]) for row in history if "loss" in row]
    left.plot(*zip(*train, strict=True), color=BLUE, label="training")
    left.plot(steps, [row["eval_loss"] for row in checks], color=ORANGE, marker="o", label="validation")
    highest = max([value for _, value in train] + [row["eval_loss"] for row in checks])
    left.set(xlabel="step", ylabel=loss, ylim=(0, 1.08 * highest))
    left.legend()
    for axes in right:
        for key, colour in zip(scores, sns.color_palette("colorblind", len(scores)), strict=True):
            axes.plot(steps, [row[f"eval_{key}"] for row in checks], color=colour, marker="o", label=_score_name(key))
        axes.set(xlabel="step", ylabel="validation score")
        axes.legend()
    _finding(figure, _best_check(checks, scores) if checks else f"The training loss ends at {train[-1][1]:.3g}")
    return figure


def _score_name(key: str) -> str:
    """A key of the Trainer's history or of a table as the field writes it: rouge1 is ROUGE-1, macro_f1 macro-F1."""
    named = {"bleu": "BLEU", "chrf": "chrF", "exact_match": "exact match", "exact": "exact match"}
    return named.get(key) or re.sub(r"^rouge", "ROUGE-", key.replace("_", "-")).replace("f1", "F1")


def _best_check(checks: list[dict], scores: tuple[str, ...]) -> str:
    lowest = min(checks, key=lambda row: row["eval_loss"])
    text = f"The validation loss is lowest ({lowest['eval_loss']:.3g}) at step {lowest['step']:,}"
    if scores:
        best = max(checks, key=lambda row: row[f"eval_{scores[0]}"])
        text += f", {_score_name(scores[0])} highest ({best[f'eval_{scores[0]}']:.3g}) at step {best['step']:,}"
    return text


@drawn
def confusion(matrix: np.ndarray, names: list[str]) -> Figure:
    """Confusion matrix: colour by share of the gold class; for at most CROWD classes, counts and shares are written out."""
    few, short = len(names) <= CROWD, _short(names)
    upright = 0.09 * sum(map(len, short)) > 4
    figure, axes = _figure(1.8 + (0.6 if few else 0.2) * len(names) + 0.08 * upright * max(map(len, short)))
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    text = [[f"{n:,}\n{share:.1%}" for n, share in zip(*rows, strict=True)] for rows in zip(matrix, shares, strict=True)]
    options = {"annot": text, "fmt": "", "cbar": False} if few else {"cbar_kws": {"label": "share of the gold class"}}
    below = short if len(names) <= UPRIGHT else False
    sns.heatmap(shares, cmap="Blues", vmin=0, vmax=1, xticklabels=below, yticklabels=short, ax=axes, **options)
    axes.tick_params(axis="x", rotation=90 if upright else 0)
    axes.tick_params(axis="y", rotation=0)
    axes.set(xlabel="predicted" if below else "predicted, in the order of the lines", ylabel="gold")
    _finding(figure, _most_frequent_error(matrix, names))
    return figure


def _most_frequent_error(matrix: np.ndarray, names: list[str]) -> str:
    errors = np.array(matrix) * (1 - np.eye(len(names), dtype=int))
    if not errors.any():
        return "No row is in the wrong class"
    gold, said = np.unravel_index(errors.argmax(), errors.shape)
    rows = int(errors[gold, said])
    return f"Most frequent error: {names[gold]} predicted as {names[said]} ({rows:,} of {int(errors.sum()):,} errors)"


def _range_of_f1(f1: dict[str, float]) -> str:
    best, worst = (pick(f1, key=f1.get) for pick in (max, min))
    return f"F1 is highest for {best} ({f1[best]:.2f}), lowest for {worst} ({f1[worst]:.2f})"


FEW = 20  # rows: the accuracy of fewer is mostly chance


@drawn
def reliability(table: dict[str, np.ndarray], error: float) -> Figure:
    """Accuracy against confidence, a disc a bin, its area by the rows; bins with fewer than FEW rows are left out."""
    figure, axes = _figure(4.2)
    count = np.asarray(table["count"])
    shown, rows = count >= FEW, max(int(count.sum()), 1)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", label="as accurate as confident")
    axes.plot(table["confidence"][shown], table["accuracy"][shown], color=BLUE, linewidth=1, label="this model, area by rows")
    area = 40 + 1_200 * count[shown] / rows
    axes.scatter(table["confidence"][shown], table["accuracy"][shown], s=area, color=BLUE, alpha=0.6)
    hidden = int(count[(count > 0) & ~shown].sum())
    axes.set(xlabel=f"confidence ({hidden:,} of {rows:,} rows are in bins of fewer than {FEW})")
    axes.set(ylabel="accuracy", xlim=(0, 1.05), ylim=(0, 1.05))
    gap = float(((table["confidence"] - table["accuracy"]) * count).sum() / rows)
    _finding(figure, f"On average {abs(gap):.3f} too {'sure' if gap > 0 else 'unsure'} (calibration error {error:.3f})")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


@drawn
def comparison(
    scores: dict[str, dict], measure: str, top: float = 1.0, lower_is_better: bool = False, line: tuple[str, float] | None = None
) -> Figure:
    """Horizontal bars of one measure, the best on top. `scores`: {system: {'value', and 'low', 'high' if known}}.

    "this model" has a colour of its own; where no system has that name, the best one. A system whose name begins with "published" is
    an open mark: its score comes from other rows or another recipe. `top` is where the measure's axis ends: 1 for shares, 100 or
    less for ROUGE and BLEU. `line`, (text, value), is what all bars are to be read against, and then none has a colour of its own.
    """
    figure, axes = _figure(1.3 + 0.42 * len(scores))
    names = sorted(scores, key=lambda name: scores[name]["value"], reverse=lower_is_better)
    others = ("published", f"{OWN},") if OWN in scores else "published"  # this model in another way is no other system
    ranked = [name for name in reversed(names) if not name.startswith(others)]
    own = OWN if OWN in scores or line else ranked[0]
    for at, name in enumerate(names):
        value, shown = scores[name]["value"], _shown(scores[name]["value"], top)
        low, high = (scores[name].get(part, value) for part in ("low", "high"))
        if mark := name.startswith("published"):
            axes.plot(value, at, "D", color="black", fillstyle="none", markersize=8)
        else:
            spread = [[max(value - low, 0)], [max(high - value, 0)]] if low < high else None  # no cap where no interval is known
            axes.barh(at, value, xerr=spread, color=ORANGE if name == own else BLUE, capsize=3)
        inside = value > 0.25 * top and not mark  # else it stands beside the interval or the mark
        before = value > 0.8 * top and mark  # there is no room behind it
        left = 0.01 * top if inside else value - 0.03 * top if before else max(value, high) + (0.03 if mark else 0.02) * top
        color, side = "white" if inside else "black", "right" if before else "left"
        axes.text(left, at, shown, va="center", ha=side, color=color, fontweight="bold")
    axes.set_yticks(range(len(names)), [textwrap.fill(name, 30) for name in names])
    axes.set(xlabel=measure, xlim=(0, top), ylim=(-0.6, len(names) - 0.4))
    axes.grid(axis="y", visible=False)
    if line:
        axes.axvline(line[1], color="black", linestyle="--", label=line[0])
        figure.legend(loc="outside lower center")
    _finding(figure, _beside(scores, line, top) if line else _distance(scores, ranked, top))
    return figure


OWN = "this model"


def _shown(value: float, top: float) -> str:
    return f"{value:.3f}" if top <= 1 else f"{value:.1f}"


def _beside(scores: dict[str, dict], line: tuple[str, float], top: float) -> str:
    """How many scores lie above a line, and the lowest and the highest of all."""
    values = [score["value"] for score in scores.values()]
    span = " to ".join(_shown(value, top) for value in (min(values), max(values)))
    return f"{sum(value > line[1] for value in values)} of {len(values)} lie above {line[0]}; they have {span}"


def _distance(scores: dict[str, dict], ranked: list[str], top: float) -> str:
    """How far this model is from the best other system on the same rows; without it, the best two of `ranked`."""
    if OWN not in ranked or len(ranked) < 2:
        return "Best: " + ", then ".join(f"{name} ({_shown(scores[name]['value'], top)})" for name in ranked[:2])
    best = next(name for name in ranked if name != OWN)
    gap = (scores[OWN]["value"] - scores[best]["value"]) * (100 if top <= 1 else 1)
    inside = scores[OWN].get("low", np.inf) <= scores[best]["value"] <= scores[OWN].get("high", -np.inf)
    doubt = ", which lies within its interval" if inside else ""
    return f"This model is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} {best}{doubt}"


@drawn
def differences(found: dict[str, dict], label: str) -> Figure:
    """Paired differences with their intervals, one a line, zero marked: {what is compared: {'value', 'low', 'high'}}."""
    figure, axes = _figure(1.3 + 0.42 * len(found))
    for at, difference in enumerate(reversed(found.values())):
        value, low, high = (difference[part] for part in ("value", "low", "high"))
        clear = low > 0 or high < 0
        spread = [[max(value - low, 0)], [max(high - value, 0)]]
        axes.errorbar(value, at, xerr=spread, fmt="o", color=ORANGE if clear else BLUE, capsize=3)
    axes.axvline(0, color=GREY, linestyle="--")
    axes.set_yticks(range(len(found)), [textwrap.fill(name, 30) for name in reversed(found)])
    axes.set(xlabel=label, ylim=(-0.6, len(found) - 0.4))
    axes.grid(axis="y", visible=False)
    clear = sum(difference["low"] > 0 or difference["high"] < 0 for difference in found.values())
    _finding(figure, f"{clear} of {len(found)} differences are clear of zero")
    return figure


@drawn
def overview(
    names: list[str], scores: np.ndarray, lows: np.ndarray, highs: np.ndarray, baselines: np.ndarray, published: np.ndarray, finding: str
) -> Figure:
    """A line a lesson, from 0 to 100: its score with interval, its baseline, a published score or nan; `finding` is the title."""
    figure, axes = _figure(1.3 + 0.29 * len(names))
    at = np.arange(len(names))
    axes.hlines(at, np.minimum(scores, baselines), np.maximum(scores, baselines), color="#D0D0D0", linewidth=2)
    axes.plot(baselines, at, "s", color=BLUE, markersize=7, label="best baseline")
    axes.hlines(at, lows, highs, color=ORANGE, linewidth=3)
    axes.plot(scores, at, "o", color=ORANGE, markersize=8, label="this course, 95 % interval")
    axes.plot(published, at, "D", color="black", fillstyle="none", markersize=7, label="published")
    axes.set_yticks(at, names)
    axes.set(xlim=(0, 100), ylim=(len(names) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    _finding(figure, finding)
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@drawn
def weights(values: dict[str, float], label: str) -> Figure:
    """Horizontal bars to both sides of zero, the largest on top. `values`: {name: weight}; `label` says what a weight is."""
    figure, axes = _figure(0.9 + 0.32 * len(values))
    names = sorted(values, key=lambda name: abs(values[name]))
    axes.barh(names, [values[name] for name in names], color=[ORANGE if values[name] < 0 else BLUE for name in names])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set(xlabel=label)
    axes.grid(axis="y", visible=False)
    largest = names[-1]
    _finding(figure, f"The largest weight is that of {largest} ({values[largest]:+.2f})")
    return figure


# ---------------------------------------------------------------- multi-label


TIERS = {"excellent": GREEN, "good": BLUE, "moderate": "#E69F00", "poor": ORANGE, "zero": GREY}


@drawn
def label_f1(table: list[dict]) -> Figure:
    """F1 per label with 95 % intervals, best first, coloured by tier. `table`: rows with 'label', 'f1', 'tier', 'support'."""
    figure, axes = _figure(max(2.0, 1.4 + 0.23 * len(table)))
    rows = sorted(table, key=lambda row: row["f1"]["value"])
    for at, row in enumerate(rows):
        f1 = row["f1"]
        spread = [[max(f1["value"] - f1["low"], 0)], [max(f1["high"] - f1["value"], 0)]]
        axes.barh(at, f1["value"], xerr=spread, color=TIERS[row["tier"]], capsize=2, height=0.7)
    axes.set_yticks(range(len(rows)), [f"{_short([row['label']])[0]} ({row['support']:,})" for row in rows])
    axes.set(xlabel="F1 (behind each label: its test rows)", xlim=(0, 1), ylim=(-0.7, len(rows) - 0.3))
    axes.grid(axis="y", visible=False)
    _finding(figure, _range_of_f1({row["label"]: row["f1"]["value"] for row in table}))
    present = [name for name in TIERS if any(row["tier"] == name for row in rows)]
    figure.legend([Patch(color=TIERS[name]) for name in present], present, loc="outside lower center", ncols=5)
    return figure


# ---------------------------------------------------------------- buckets, seeds


@drawn
def buckets(
    groups: dict[str, list[dict]], measure: str, title: str, floor: float | None = None, top: float = 1.0, label: str = ""
) -> Figure:
    """A measure with its interval per bucket (its rows in brackets), one panel a group: {group: [{'bucket', measure: {...}, 'rows'}]}.

    `top` is where the measure's axis ends, as in `comparison`; `label` names the axis where the column is only a 'mean'. A title
    without a colon says only what is drawn: the lowest bucket is added.
    """
    figure, panels = _panels(len(groups), 1.3 + 0.36 * max(map(len, groups.values())))
    lowest = min(row[measure][part] for rows in groups.values() for row in rows for part in ("value", "low"))
    for axes, (name, rows) in zip(panels, groups.items(), strict=True):
        values = np.array([[row[measure][part] for part in ("value", "low", "high")] for row in rows]).T
        errors = np.maximum([values[0] - values[1], values[2] - values[0]], 0)
        axes.errorbar(values[0], range(len(rows)), xerr=errors, fmt="o", color=BLUE, capsize=3)
        if floor is not None:
            line = axes.axvline(floor, color=GREY, linestyle="--")
        axes.set_yticks(range(len(rows)), [f"{row['bucket']} ({row['rows']:,})" for row in rows])
        axes.set(xlabel=label or measure, title=name, ylim=(len(rows) - 0.5, -0.5), xlim=(max(0, lowest - 0.05 * top), 1.02 * top))
        axes.grid(axis="y", visible=False)
    if ":" not in title:
        value, bucket = min((row[measure]["value"], row["bucket"]) for rows in groups.values() for row in rows)
        title += f": lowest for {bucket!r} ({_shown(value, top)})"
    _finding(figure, title)
    if floor is not None:
        figure.legend([line], ["all rows"], loc="outside lower center")
    return figure


@drawn
def seeds(runs: dict[str, list[float]], measure: str) -> Figure:
    """One dot a run, the mean as a line: {start: [score of seed 0, ...]}."""
    figure, axes = _figure()
    for at, values in enumerate(runs.values()):
        axes.plot(np.full(len(values), at), values, "o", color=(BLUE, ORANGE, GREEN)[at % 3], alpha=0.7)
        axes.hlines(np.mean(values), at - 0.25, at + 0.25, color=GREY, linewidth=2)
    axes.set_xticks(range(len(runs)), list(runs))
    axes.set(ylabel=f"{measure} (one dot per seed)", xlim=(-0.6, len(runs) - 0.4))
    axes.grid(axis="x", visible=False)
    _finding(figure, "; ".join(_spread(name, values) for name, values in runs.items()))
    return figure


def _spread(name: str, values: np.ndarray) -> str:
    return f"{name}: mean {np.mean(values):.3f}, from {np.min(values):.3f} to {np.max(values):.3f}"


# ---------------------------------------------------------------- question answering


@drawn
def windows(cuts: dict[str, list[tuple[int, int]]], answers: dict[str, tuple[int, int]]) -> Figure:
    """Overlapping windows over a text's tokens, one panel a way to cut, with answers as bands across them.

    `cuts`: {title: [(first token, end), ...]}; `answers`: {name: (first token, end)}.
    """
    figure, panels = _panels(len(cuts), 3.0)
    for axes, (title, spans) in zip(panels, cuts.items(), strict=True):
        for at, (left, right) in enumerate(spans):
            axes.barh(-at, right - left, left=left, height=0.6, color=BLUE, alpha=0.55)
            short = right - left < max(end - start for start, end in spans)  # the last window: its name stands before it
            axes.text(left - 2 if short else left + 2, -at, f"{left} to {right - 1}", va="center", ha="right" if short else "left")
        for (name, (left, right)), colour in zip(answers.items(), (ORANGE, GREEN, "#CC79A7"), strict=False):
            axes.axvspan(left, right, color=colour, alpha=0.5)
            axes.text((left + right) / 2, 0.75, name, ha="center", va="center", fontweight="bold")
        axes.set(title=title, xlabel="token of the text", yticks=[], ylim=(-len(spans) + 0.3, 1.1))
        axes.grid(axis="y", visible=False)
    _finding(figure, "Whole in a window: " + "; ".join(f"with {title}, {_whole(spans, answers)}" for title, spans in cuts.items()))
    return figure


def _whole(spans: list[tuple[int, int]], answers: dict[str, tuple[int, int]]) -> str:
    """The answers that one of the windows holds from end to end."""
    names = [name for name, (left, right) in answers.items() if any(start <= left and right <= end for start, end in spans)]
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names) or "no answer"


@drawn
def stride_sweep(table: list[dict], chosen: int) -> Figure:
    """Windows a question and answers that are whole in one, against the stride; a line for each window length.

    Args:
        table: rows with 'max_length' and 'stride' in tokens, 'windows_per_question', and 'answers_whole' as a share.
        chosen: the stride in use, drawn as a vertical line.
    """
    figure, (left, right) = _panels(2, 3.8)
    lengths = dict.fromkeys(row["max_length"] for row in table)
    for length, colour in zip(lengths, (BLUE, ORANGE, GREEN), strict=False):
        rows = [row for row in table if row["max_length"] == length]
        for axes, key in ((left, "windows_per_question"), (right, "answers_whole")):
            axes.plot([row["stride"] for row in rows], [row[key] for row in rows], color=colour, marker="o", label=f"{length} tokens")
    lowest = min(row["answers_whole"] for row in table)
    room = max(0.05 * (1 - lowest), 0.005)
    left.set(xlabel="stride in tokens", ylabel="windows per question")
    left.set_ylim(0, 1.1 * max(row["windows_per_question"] for row in table))
    right.set(xlabel="stride in tokens", ylabel="answers whole in a window")
    right.set_ylim(lowest - room, 1 + room)
    for axes in (left, right):
        axes.axvline(chosen, color=GREY, linestyle="--", label=f"in use: {chosen}")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    most = max(row["windows_per_question"] for row in table)
    _finding(figure, f"Whole in a window: at least {_percent(lowest)} of the answers; at most {most:.1f} windows per question")
    return figure


@drawn
def token_logits(tokens: list[str], start_logits: np.ndarray, end_logits: np.ndarray) -> Figure:
    """Start and end logits as paired bars over the tokens of a text, or of a part of it."""
    figure, axes = _figure(3.8)
    at = np.arange(len(tokens))
    axes.bar(at - 0.2, start_logits, 0.4, color=BLUE, label="start")
    axes.bar(at + 0.2, end_logits, 0.4, color=ORANGE, label="end")
    axes.axhline(0, color=GREY, linewidth=1)
    axes.set_xticks(at, tokens, rotation=90 if len(tokens) > 14 else 60, ha="center" if len(tokens) > 14 else "right")
    axes.set(ylabel="logit")
    start, end = (tokens[int(np.argmax(values))] for values in (start_logits, end_logits))
    _finding(figure, f"The highest start logit is at \"{start}\", the highest end logit at \"{end}\"")
    axes.grid(axis="x", visible=False)
    axes.legend()
    return figure


@drawn
def null_odds(groups: dict[str, np.ndarray], threshold: float, label: str) -> Figure:
    """Histograms of one score for one or two groups of questions, {group: [questions]}, with the threshold between them."""
    figure, axes = _figure()
    both = np.concatenate(list(groups.values()))
    low, high = (float(limit(np.percentile(both, share), threshold)) for limit, share in ((min, 1), (max, 99)))  # the threshold shows, too
    edges = np.linspace(low, high, 31) if low < high else np.array([low - 1, low + 1])
    for (name, values), colour in zip(groups.items(), (BLUE, ORANGE), strict=False):
        axes.hist(np.clip(values, edges[0], edges[-1]), bins=edges, color=colour, alpha=0.6, label=f"{name} ({len(values):,})")
    axes.axvline(threshold, color=GREY, linestyle="--", label=f"refuse above {threshold:.2f}")
    axes.set(xlabel=label, ylabel="questions")
    refused = [f"{_percent(float((values > threshold).mean()))} of {name!r}" for name, values in groups.items()]
    _finding(figure, "Above the threshold, and refused: " + ", ".join(refused))
    figure.legend(loc="outside lower center", ncols=3)
    return figure


@drawn
def precision_recall(precision: np.ndarray, recall: np.ndarray, average: float) -> Figure:
    """Precision against recall, a point a threshold, with the average precision in the title."""
    figure, axes = _figure(3.8)
    axes.step(recall, precision, where="post", color=BLUE)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02))
    _finding(figure, f"Over all thresholds the average precision is {average:.3f}")
    return figure


# ---------------------------------------------------------------- translation


@drawn
def distributions(values: dict[str, np.ndarray], xlabel: str, title: str, span: tuple[float, float], bins: int = 25) -> Figure:
    """One histogram a system over the same bins, as shares, with its mean as a dashed line."""
    figure, panels = _panels(len(values), 3.0)
    colours = sns.color_palette("colorblind", len(values))
    highest = 0.0
    for axes, (name, row), colour in zip(panels, values.items(), colours, strict=True):
        shares, _, _ = axes.hist(np.clip(row, *span), bins=bins, range=span, weights=np.full(len(row), 1 / len(row)), color=colour)
        axes.axvline(row.mean(), color=GREY, linestyle="--", label=f"mean {row.mean():.2f}" if span[1] <= 5 else f"mean {row.mean():.1f}")
        axes.set(xlabel=xlabel, title=name, xlim=span)
        axes.legend()
        highest = max(highest, shares.max())
    for axes in panels:
        axes.set(ylim=(0, 1.15 * highest))
    panels[0].set(ylabel="share of sentences")
    _finding(figure, f"{title}; means: " + ", ".join(f"{name} {row.mean():.3g}" for name, row in values.items()))
    return figure


@drawn
def size_curve(table: list[dict], measures: tuple[str, ...]) -> Figure:
    """Scores with their intervals against the number of training rows (logarithmic): rows with 'rows', a measure each, and 'set'.

    One panel a measure, one line a set.
    """
    figure, panels = _panels(len(measures), 3.6)
    for axes, measure in zip(panels, measures, strict=True):
        for name, colour in zip(dict.fromkeys(row["set"] for row in table), (BLUE, ORANGE, GREEN), strict=False):
            rows = [row for row in table if row["set"] == name]
            values = np.array([[row[measure][part] for part in ("value", "low", "high")] for row in rows]).T
            errors = np.maximum([values[0] - values[1], values[2] - values[0]], 0)
            axes.errorbar([row["rows"] for row in rows], values[0], yerr=errors, marker="o", color=colour, capsize=3, label=name)
        sizes = sorted({row["rows"] for row in table})
        axes.set(xscale="log", xlabel="training rows (logarithmic)", ylabel=_score_name(measure), ylim=(0, None))
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
    panels[0].legend()
    name, key = table[0]["set"], measures[0]
    first, last = (next(row for row in table if (row["set"], row["rows"]) == (name, size))[key]["value"] for size in (sizes[0], sizes[-1]))
    _finding(figure, f"{name}: {_score_name(key)} is {first:.3g} with {sizes[0]:,} rows and {last:.3g} with {sizes[-1]:,}")
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
def rate_sweep(rates: np.ndarray, lines: dict[str, np.ndarray], loss: str, before: float | None = None) -> Figure:
    """A loss after trainings at several learning rates: {method: [loss at each rate, nan where it was not trained]}.

    The title says where each method's loss is lowest or, if the loss `before` training is given, how far it rises at most.
    """
    figure, axes = _figure()
    found = []
    for (name, values), colour in zip(lines.items(), sns.color_palette("colorblind", len(lines)), strict=True):
        tried = ~np.isnan(values)
        axes.plot(rates[tried], values[tried], color=colour, marker="o", label=name)
        at = np.nanargmin(values) if before is None else np.nanargmax(values)
        found.append(f"{name} {'' if before is None else f'{values[at]:.2f} '}at {rates[at]:g}")
    if before is not None:
        axes.axhline(before, color=GREY, linestyle="--", label="before training")
    axes.set_xscale("log")
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()
    axes.set(xlabel="learning rate", ylabel=loss)
    figure.legend(loc="outside lower center", ncols=4)
    _finding(figure, ("Lowest: " if before is None else f"{before:.2f} before training; highest after it: ") + ", ".join(found))
    return figure


@drawn
def grouped_bars(groups: dict[str, list[float]], names: list[str], labels: tuple[str, str]) -> Figure:
    """Bars side by side, a cluster a name: {group: [value of each name]}; `labels` of the vertical axis and the title."""
    figure, axes = _figure()
    width, colours = 0.8 / len(groups), _colours(groups)
    for i, ((group, values), colour) in enumerate(zip(groups.items(), colours, strict=True)):
        axes.bar(np.arange(len(names)) + i * width, values, width, color=colour, label=group)
    axes.set_xticks(np.arange(len(names)) + width * (len(groups) - 1) / 2, names)
    axes.set(ylabel=labels[0])
    title, told = labels[1], _highest(groups, names)
    if told:
        title += f" H{told[1:]}" if title.endswith("?") else f"; {told}"
    _finding(figure, title)
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=min(len(groups), 3))
    return figure


def _colours(names: dict[str, Any]) -> list[Any]:
    """This model's own colour, and others for whatever stands beside it."""
    palette = sns.color_palette("colorblind")
    others = iter(palette[:3] + palette[4:])  # the fourth is about ORANGE
    return [ORANGE if name == OWN else next(others) for name in names]


def _highest(groups: dict[str, list[float]], names: list[str]) -> str:
    """Which name is highest in each group, or which group for each name: whichever is said in fewer words, at most three of them."""
    by_name = {name: dict(zip(groups, values, strict=True)) for name, values in zip(names, zip(*groups.values(), strict=True), strict=True)}
    by_group = {group: dict(zip(names, values, strict=True)) for group, values in groups.items()}
    told = min(by_group, by_name, key=len)
    if len(told) > 3:
        return ""
    return "highest: " + "; ".join(f"{max(inside, key=inside.get)} ({part})" for part, inside in told.items())


@drawn
def stacked(bars: dict[str, dict[str, float]], label: str, line: tuple[str, float]) -> Figure:
    """Horizontal bars made of parts, the first on top: {name: {part: size}}. `line`, (text, size), is what they have to fit into."""
    figure, axes = _figure(1.9 + 0.42 * len(bars))
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    colours, ends = _colours(dict.fromkeys(parts)), np.zeros(len(bars))
    for part, colour in zip(parts, colours, strict=True):
        sizes = np.array([bar.get(part, 0.0) for bar in bars.values()])
        axes.barh(range(len(bars)), sizes, left=ends, color=colour, label=part)
        ends += sizes
    axes.axvline(line[1], color="black", linestyle="--", label=line[0])
    axes.set_yticks(range(len(bars)), [textwrap.fill(name, 30) for name in bars])
    axes.set(xlabel=label, xlim=(0, 1.05 * max(line[1], ends.max())), ylim=(len(bars) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=3)
    most = list(bars)[int(ends.argmax())]
    part = max(bars[most], key=bars[most].get)
    _finding(figure, f"{int((ends <= line[1]).sum())} of {len(bars)} fit into {line[0]}; most of '{most}' are {part}")
    return figure


@drawn
def outcomes(shares: dict[str, dict[str, float]], title: str) -> Figure:
    """One stacked bar a system, its parts the shares of at most five outcomes: {system: {outcome: share}}, best outcome first."""
    figure, axes = _figure(2.1 + 0.55 * len(shares))
    names, first = list(shares)[::-1], next(iter(shares))
    kinds = list(shares[first])
    colours = (GREEN, BLUE, "#E69F00", GREY, ORANGE)[: len(kinds)]
    left = np.zeros(len(names))
    for outcome, colour in zip(kinds, colours, strict=True):
        values = np.array([shares[name][outcome] for name in names])
        axes.barh(names, values, left=left, color=colour, label=outcome, height=0.6)
        for at, value in enumerate(values):
            if value > 0.08:
                axes.text(left[at] + value / 2, at, f"{value:.0%}", ha="center", va="center", color="white")
        left += values
    axes.set(xlabel="share of the questions", xlim=(0, 1))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside lower center", ncols=2)
    most = sorted(kinds, key=lambda outcome: -shares[first][outcome])[:2]
    told = ", ".join(f"{shares[first][outcome]:.0%} '{outcome}'" for outcome in most)
    _finding(figure, f"{title}{'' if title.endswith('?') else ':'} {first} {told}")
    return figure
