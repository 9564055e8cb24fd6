"""What lab_lora alone uses: lists in its settings, rows that share no phrase, matched ranks, intervals over seeds and rows, verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.stats import t

from shared import metrics
from shared.course.runtime import CourseError

SUPPORT, AGAINST, OPEN = "support it", "do not support it", "cannot decide"


def numbers(key: str, text: str, kind: type = float, least: int = 1) -> list:
    """ "1,4,64" as sorted numbers without doubles; CourseError for other texts, fewer than `least`, numbers below 0 (seeds may be 0)."""
    try:
        found = sorted({kind(part) for part in text.split(",")})
    except ValueError:
        example = "1e-4,3e-4" if kind is float else "1,64"
        raise CourseError(f"{key}={text}: write numbers with commas and no blanks, for example {key}={example}") from None
    if len(found) < least:
        raise CourseError(f"{key}={text}: give {least} or more different numbers")
    if found[0] < 0 or (found[0] == 0 and key != "seeds"):
        raise CourseError(f"{key}={text}: {found[0]:g} is too small, give numbers above 0")
    return found


def phrases(text: str, sizes: Iterable[int]) -> set[str]:
    """All runs of so many words."""
    words = text.split()
    return {" ".join(words[i : i + n]) for n in sizes for i in range(len(words) - n + 1)}


def without_pieces(rows: Any, sentences: Sequence[str]) -> Any:
    """The rows that share no five words in a row with a sentence; a row of three or four words goes if all of it stands in one."""
    known = set().union(*(phrases(sentence, (3, 4, 5)) for sentence in sentences))

    def is_new(row: dict) -> bool:
        size = min(5, max(3, len(row["sentence"].split())))
        return known.isdisjoint(phrases(row["sentence"], [size]))

    return rows.filter(is_new)


def matched_rank(every: int, some: int, rank: int) -> int:
    """The rank at which layers with `some` inputs and outputs get as many trained numbers as those with `every` at `rank`.

    An adapter trains rank x (inputs + outputs) numbers. The nearest whole rank is taken.
    """
    return max(1, round(rank * every / some))


def over_seeds(values: Sequence[float]) -> dict[str, float]:
    """{'value', 'low', 'high'}: the mean with Student's 95 % interval: what other seeds would give, on the same rows.

    With three seeds it is 4.3 standard errors wide on each side: three runs do not say much. CourseError for fewer than two.
    """
    if len(values) < 2:
        raise CourseError("one seed says nothing about other seeds: give two or more, for example seeds=0,1,2")
    mean = float(np.mean(values))
    half = float(t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5)
    return {"value": mean, "low": mean - half, "high": mean + half}


def over_rows(values: np.ndarray, seed: int = 0) -> dict[str, float]:
    """The mean of [seeds, rows] with a bootstrap interval: what other rows would give, with the same seeds."""
    rows = np.asarray(values, float).mean(0)
    return metrics.means({"mean": rows}, metrics.resample_weights(len(rows), seed=seed), -1.0, 1.0)["mean"]


def difference(a: np.ndarray, b: np.ndarray, seed: int = 0) -> dict[str, dict[str, float]]:
    """a - b, both [seeds, rows] of the same seeds and rows: {'seeds', 'rows'}, each with value, low and high."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    if a.shape != b.shape:
        raise CourseError(f"{a.shape} and {b.shape} are no pairs: score the same rows with the same seeds")
    nothing = dict.fromkeys(("value", "low", "high"), 0.0)  # the same losses, whatever the rows
    return {"seeds": over_seeds((a - b).mean(1)), "rows": nothing if np.array_equal(a, b) else over_rows(a - b, seed)}


def best_rate(losses: dict[float, np.ndarray]) -> tuple[float, bool]:
    """(the rate with the lowest mean loss, whether it lies inside the grid). At an edge the best rate may lie outside."""
    rates = sorted(losses)
    best = min(rates, key=lambda rate: np.mean(losses[rate]))
    return best, best not in (rates[0], rates[-1])


def best_of_each_seed(losses: dict[float, np.ndarray]) -> list[float]:
    """The best rate of every seed by itself."""
    rates = sorted(losses)
    means = np.stack([np.mean(losses[rate], axis=1) for rate in rates])  # [rates, seeds]
    return [rates[at] for at in means.argmin(0)]


def judge_sign(found: dict[str, dict[str, float]]) -> str:
    """The claim is that a difference is above zero: both intervals, over seeds and over rows, have to agree."""
    if all(part["low"] > 0 for part in found.values()):
        return SUPPORT
    return AGAINST if all(part["high"] < 0 for part in found.values()) else OPEN


def judge_equal(found: dict[str, dict[str, float]], margin: float) -> str:
    """The claim is that a difference is smaller than `margin` either way: both intervals have to lie inside, or outside."""
    if all(-margin < part["low"] and part["high"] < margin for part in found.values()):
        return SUPPORT
    outside = [all(part["low"] > margin for part in found.values()), all(part["high"] < -margin for part in found.values())]
    return AGAINST if any(outside) else OPEN


def judge_range(values: Sequence[float], low: float, high: float, bracketed: bool) -> str:
    """The claim is that a figure, of which every seed gives one, lies in a range: all have to agree.

    bracketed: whether every best rate lies inside its grid. If not, the figure is unknown.
    """
    inside = [low <= value <= high for value in values]
    if not bracketed or (any(inside) and not all(inside)):
        return OPEN
    return SUPPORT if all(inside) else AGAINST
