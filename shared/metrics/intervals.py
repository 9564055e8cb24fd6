"""How sure a figure is: Wilson's interval of a share, bootstrap resamples of rows or whole groups, paired differences.

Coverage is how often such an interval holds the true value; task-1/lab-measuring simulates it. A share gets Wilson's interval, for
the bootstrap of an accuracy of .95 on 24 rows covers .71 and not .95. A mean of fewer than about 100 rows is bootstrapped for want of
better: its interval is too narrow.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from shared.course.runtime import CourseError

RESAMPLES = 1_000
ENOUGH_ROWS = 100  # of fewer, a bootstrap's interval of a mean covers less than it says; `lab-measuring` simulates by how much
Metric = dict[str, float]  # {'value', 'low', 'high'}


def interval(value: float, samples: np.ndarray, rows: int = 0, lowest: float = 0.0, highest: float = 1.0) -> Metric:
    """{'value', 'low', 'high'}: a figure with its 95 % percentile interval.

    Rows that are all right are all right in every resample too, so the percentiles of a perfect score have no width, as if five
    right rows were proof. There the interval allows for other rows, for a share of them as large as Wilson's: 3.84 / (rows + 3.84).

    Args:
        samples: the same figure of each resample [resamples].
        rows: how many rows, or groups of rows, were drawn independently; 0 leaves the percentiles as they are.
        lowest, highest: the limits of the figure; a difference of two shares can be as low as -1.
    """
    low, high = np.quantile(samples, [0.025, 0.975])
    if rows and np.ptp(samples) < 1e-6:
        other = 1 - wilson(rows, rows)["low"]
        low, high = value - other * (value - lowest), value + other * (highest - value)
    return {"value": float(value), "low": float(low), "high": float(high)}


def some_rows(rows: int) -> None:
    """Raise CourseError where there is nothing to score."""
    if rows < 1:
        raise CourseError("there are no rows to score: give at least one")


def wilson(successes: int, n: int, level: float = 0.95) -> Metric:
    """{'value', 'low', 'high'}: the share successes / n with Wilson's score interval, all p within z standard errors *of p*.

    Unlike the bootstrap it has a width where all rows are right: 24 of 24 give [.862, 1]. Wilson 1927, "Probable inference, the
    law of succession, and statistical inference"; recommended for few rows by Brown, Cai, DasGupta 2001, "Interval estimation
    for a binomial proportion". Rows have to be independent.

    Raises CourseError for no rows, and for a count outside 0..n.
    """
    successes, n = int(successes), int(n)
    some_rows(n)
    if not 0 <= successes <= n:
        raise CourseError(f"{successes} of {n} rows is no share: count between 0 and {n}")
    share, z2 = successes / n, NormalDist().inv_cdf((1 + level) / 2) ** 2
    middle = share + z2 / (2 * n)
    half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ** 0.5
    low, high = ((middle + side * half) / (1 + z2 / n) for side in (-1, 1))
    return {"value": share, "low": low if successes else 0.0, "high": high if successes < n else 1.0}


def resample_weights(rows: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each row was drawn in each bootstrap resample: float32 [resamples, rows], every line sums to `rows`.

    Raises CourseError for no rows.
    """
    some_rows(rows)
    drawn = np.random.default_rng(seed).integers(rows, size=(resamples, rows))
    drawn += np.arange(resamples)[:, None] * rows  # one range of numbers a resample, so that one count does all
    return np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float32)


def cluster_weights(groups: Sequence | np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> tuple[np.ndarray, int]:
    """How often each row was drawn where whole groups are drawn, and how many groups there are: (float32 [resamples, rows], groups).

    Questions about one article are alike: drawn one by one they would count as more evidence than they are. A line sums to the
    number of rows only where all groups are of one size, so divide by the line's own sum: `weights @ values / weights.sum(1)`.
    Say the number of groups beside the interval; with fewer than about 30 it is still too narrow (Cameron, Gelbach, Miller 2008,
    "Bootstrap-based improvements for inference with clustered errors"; Davison, Hinkley 1997, section 3.8).

    Args:
        groups: the group of each row [rows], numbers or names.

    Raises CourseError for no rows, and where all are of one group.
    """
    some_rows(len(groups))
    names = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)  # an array of long texts would be as wide as the longest
    places = {name: place for place, name in enumerate(sorted(set(names)))}
    member, number = np.array([places[name] for name in names]), len(places)
    if number == 1:
        raise CourseError(f"all {len(member)} rows are of one group, which says nothing about other groups: score rows of several")
    return resample_weights(number, resamples, seed)[:, member], number


def means(rows: dict[str, np.ndarray], weights: np.ndarray, lowest: float = 0.0, highest: float = 1.0) -> dict[str, Metric]:
    """The mean of every column with its interval; a resample in which no row was drawn has no mean.

    Args:
        rows: scores [rows] by name.
        weights: how often each row was drawn [resamples, rows]; rows that are drawn together have the same column.
        lowest, highest: as in `interval`.
    """
    values, total = np.stack(list(rows.values()), axis=1), weights.sum(1)
    drawn = (weights @ values)[total > 0] / total[total > 0, None]
    groups = np.unique(weights, axis=1).shape[1] if (np.ptp(values, axis=0) == 0).any() else 0
    return {name: interval(values[:, k].mean(), drawn[:, k], groups, lowest, highest) for k, name in enumerate(rows)}


def mean_difference(first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Metric:
    """Mean of first - second, two arrays [rows] of the same rows, with its paired 95 % bootstrap interval.

    An interval without 0 is a significant difference (Koehn 2004, "Statistical significance tests for MT evaluation"). One with 0
    in it shows neither a difference nor that there is none.

    Raises CourseError for no rows, and where the two differ in length.
    """
    if np.shape(first) != np.shape(second):
        raise CourseError(f"{np.size(first)} scores against {np.size(second)}: a paired difference needs both on the same rows")
    first, second = (np.asarray(scores, np.float64) for scores in (first, second))
    some_rows(len(first))
    limit = 100.0 if max(abs(first).max(), abs(second).max()) > 1 else 1.0  # ROUGE, BLEU and the like run from 0 to 100
    weights = resample_weights(len(first), resamples, seed)
    return means({"difference": first - second}, weights, lowest=-limit, highest=limit)["difference"]
