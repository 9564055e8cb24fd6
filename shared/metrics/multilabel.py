"""Metrics of a classifier whose rows may have several labels, and its thresholds. Arrays in, numbers out."""

from __future__ import annotations

import numpy as np

from shared.course.runtime import CourseError
from shared.metrics.intervals import RESAMPLES, Metric, interval, resample_weights, wilson
from shared.metrics.labels import as_probabilities, ratio, share_of


def apply_thresholds(probabilities: np.ndarray, thresholds: float | np.ndarray) -> np.ndarray:
    """Booleans [rows, labels]: probability at or above its label's threshold (one for all, or one a label).

    Raises CourseError for a threshold outside [0, 1] and for a number of thresholds that does not fit.
    """
    thresholds = np.asarray(thresholds, np.float64)
    outside = thresholds[~((thresholds >= 0) & (thresholds <= 1))]  # catches nan too
    if outside.size:
        raise CourseError(f"the threshold {outside.flat[0]:g} is no probability: choose values from 0 to 1")
    if thresholds.ndim and thresholds.shape != probabilities.shape[-1:]:
        raise CourseError(f"{thresholds.size} thresholds for {probabilities.shape[-1]} labels: give one, or one a label")
    return probabilities >= thresholds


def as_marks(values: np.ndarray, whose: str) -> np.ndarray:
    """Booleans from booleans or 0 and 1. Raises CourseError for other numbers: a probability of .2 would count as a label."""
    values = np.asarray(values)
    other = values[(values != 0) & (values != 1)]
    if other.size:
        raise CourseError(f"{whose} hold {other[0]:g}: give 0 and 1, or booleans (`apply_thresholds` makes them of probabilities)")
    return values.astype(bool)


def label_counts(gold: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """True positives, predictions and gold labels per label: {'hits', 'predicted', 'support'}.

    Args:
        gold, predicted: booleans or 0/1, [rows, labels].
        weights: how often each row counts, [..., rows]; then every array has shape [..., labels], else [labels].

    Raises ValueError where the two differ in shape, CourseError where they hold other numbers.
    """
    gold, predicted = as_marks(gold, "gold labels"), as_marks(predicted, "predictions")
    if gold.shape != predicted.shape:
        raise ValueError(f"gold labels have shape {gold.shape}, predictions {predicted.shape}: they must be the same")
    if weights is None:
        weights = np.ones(len(gold), np.float32)
    # Counts up to 2^24 are exact in float32, and BLAS multiplies it far faster than integers.
    columns = np.concatenate([gold & predicted, predicted, gold], axis=1).astype(np.float32)
    hits, named, support = np.split(weights @ columns, 3, axis=-1)
    return {"hits": hits.astype(np.float64), "predicted": named.astype(np.float64), "support": support.astype(np.float64)}


def label_scores(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """{'precision', 'recall', 'f1', 'support'} per label, [..., labels], with 0 for 0/0 (scikit-learn's zero_division=0)."""
    hits, predicted, support = counts["hits"], counts["predicted"], counts["support"]
    return {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, predicted + support),
        "support": support,
    }


def multilabel_f1(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Micro-, macro- and weighted F1, each [...], over all labels (Sokolova & Lapalme 2009)."""
    f1, support = label_scores(counts)["f1"], counts["support"]
    named = counts["predicted"] + support
    return {
        "micro_f1": ratio(2 * counts["hits"].sum(-1), named.sum(-1)),
        "macro_f1": f1.mean(-1),
        "weighted_f1": ratio((f1 * support).sum(-1), support.sum(-1)),
    }


def multilabel_scores(
    gold: np.ndarray, predicted: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, Metric], list[dict]]:
    """Micro-, macro-, weighted F1 and subset accuracy with 95 % intervals, and one table row per label.

    Accuracy, precision and recall are shares and get Wilson's interval, F1 that of a bootstrap that draws rows. Since all counts
    are sums over rows, a thousand resamples are one matrix product of the draws [resamples, rows] with the row's contributions
    [rows, 3 x labels].

    Returns ({name: {'value', 'low', 'high'}}, [{'precision', 'recall', 'f1': {...}, 'support'}]). Raises CourseError for no rows.
    """
    weights = resample_weights(len(gold), resamples, seed)
    counts, drawn = label_counts(gold, predicted), label_counts(gold, predicted, weights)
    values, samples = multilabel_f1(counts), multilabel_f1(drawn)
    scores = {name: interval(values[name], samples[name], len(gold)) for name in values}
    exact = (np.asarray(gold, bool) == np.asarray(predicted, bool)).all(-1)
    scores["accuracy"] = wilson(exact.sum(), len(exact))
    f1, drawn_f1 = label_scores(counts)["f1"], label_scores(drawn)["f1"]
    rows = []
    for i, (hits, named, support) in enumerate(zip(counts["hits"], counts["predicted"], counts["support"], strict=True)):
        score = interval(f1[i], drawn_f1[:, i], int(named + support - hits))
        rows.append({"precision": share_of(hits, named), "recall": share_of(hits, support), "f1": score, "support": int(support)})
    return scores, rows


def best_thresholds(gold: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per label, the threshold with the highest F1 on these rows, and that F1: two arrays [labels].

    Every distinct probability is a candidate, so the search is exhaustive: sort each column once, and the hits of all
    cuts are a cumulative sum. The threshold lies half-way to the next lower probability, so that it does not hang on
    one row; of equal F1 the highest threshold wins. A label without gold rows gets threshold 1 and F1 0.
    For one threshold over all labels pass both arrays as a single column: `best_thresholds(g.reshape(-1, 1), ...)`.
    Raises CourseError for no rows and for what is no probability.
    """
    gold, probabilities = as_marks(gold, "gold labels"), as_probabilities(probabilities, len(gold))
    order = np.argsort(-probabilities, axis=0, kind="stable")
    ranked = np.take_along_axis(probabilities, order, axis=0)
    hits = np.cumsum(np.take_along_axis(gold, order, axis=0), axis=0)
    named = np.arange(1, len(gold) + 1)[:, None]
    f1 = 2 * hits / (named + gold.sum(0))
    below = np.vstack([ranked[1:], np.zeros(ranked.shape[1])])
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # a cut between equal probabilities does not exist
    best = f1.argmax(0)
    column = np.arange(gold.shape[1])
    upper, lower = ranked[best, column], below[best, column]
    middle = (upper + lower) / 2
    thresholds = np.where(middle > lower, middle, upper)  # between neighbouring floats the mean may round down to the lower
    empty = ~gold.any(0)
    return np.where(empty, 1.0, thresholds), np.where(empty, 0.0, f1[best, column])


def tier(f1: float) -> str:
    """'excellent' from .7, 'good' from .5, 'moderate' from .3, 'poor' below, 'zero' at 0."""
    if f1 == 0:
        return "zero"
    return next((name for bound, name in ((0.7, "excellent"), (0.5, "good"), (0.3, "moderate")) if f1 >= bound), "poor")
