"""How sure a figure is: bootstrap resamples of rows, percentile intervals, paired differences."""

from __future__ import annotations

import numpy as np

RESAMPLES = 1_000

Metric = dict[str, float]  # {'value', 'low', 'high'}


def interval(value: float, samples: np.ndarray, level: float = 0.95) -> Metric:
    """{'value', 'low', 'high'}: a figure with its percentile interval."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def resample_weights(rows: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each row was drawn in each bootstrap resample: float32 [resamples, rows], every line sums to `rows`."""
    drawn = np.random.default_rng(seed).integers(rows, size=(resamples, rows))
    drawn += np.arange(resamples)[:, None] * rows  # one range of numbers a resample, so that one count does all
    return np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float32)


def means(rows: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, Metric]:
    """The mean of every column with its interval; a resample in which no row was drawn has no mean."""
    values, total = np.stack(list(rows.values()), axis=1), weights.sum(1)
    drawn = (weights @ values)[total > 0] / total[total > 0, None]
    return {name: interval(values[:, k].mean(), drawn[:, k]) for k, name in enumerate(rows)}


def mean_difference(first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Metric:
    """Mean of first - second, two arrays [rows] of the same rows, with its paired 95 % bootstrap interval.

    An interval without 0 is a significant difference (Koehn 2004, "Statistical significance tests for MT evaluation").
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return means({"difference": difference}, resample_weights(len(difference), resamples, seed))["difference"]
