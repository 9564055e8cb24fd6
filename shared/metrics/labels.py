"""Metrics of a classifier whose rows have one label each, and its calibration. Arrays in, numbers out.

Everything about a single-label classifier except calibration is a function of its confusion matrix, so the functions
here take one, or a whole stack of them (shape [..., classes, classes], rows gold, columns predicted): a bootstrap over
1,000 resamples is then one call.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from shared.course.runtime import CourseError
from shared.metrics.intervals import RESAMPLES, Metric, interval, some_rows, wilson


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [rows, classes] from logits [rows, classes], in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Probabilities of the logits one by one, same shape, in float64; large logits of either sign do not overflow."""
    logits = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1.0, small) / (1.0 + small)


# ---------------------------------------------------------------- single-label classification


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, classes: int) -> np.ndarray:
    """Counts [classes, classes]: how many rows of gold class i (row) were predicted as class j (column).

    Raises ValueError where the two differ in length or a value is no whole number of 0..classes-1.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"{len(labels)} labels but {len(predictions)} predictions: they must be row by row the same")
    both = np.concatenate([labels, predictions])
    if both.dtype.kind == "f" and (broken := both[both != np.floor(both)]).size:
        raise ValueError(f"labels and predictions must be whole numbers, found {broken[0]:g}: take the argmax of probabilities")
    if both.size and not (0 <= both.min() and both.max() < classes):
        raise ValueError(f"labels and predictions must lie in 0..{classes - 1}, found {both.min()}..{both.max()}")
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator with 0 where the denominator is 0 (scikit-learn's zero_division=0)."""
    return np.divide(numerator, denominator, out=np.zeros(np.broadcast(numerator, denominator).shape), where=denominator > 0)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of rows on the diagonal, shape [...]. For single-label data this is also the micro-averaged F1. CourseError for no rows."""
    some_rows(confusion.sum())
    return ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """{'precision', 'recall', 'f1', 'support'}, each [..., classes]; a class never predicted has precision 0."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    predicted, support = confusion.sum(-2), confusion.sum(-1)
    return {
        "precision": ratio(hits, predicted),
        "recall": ratio(hits, support),
        "f1": ratio(2 * hits, predicted + support),
        "support": support,
    }


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Unweighted mean of the classes' F1, shape [...], over classes that occur as gold or prediction. CourseError for no rows."""
    some_rows(confusion.sum())
    occurs = (confusion.sum(-1) + confusion.sum(-2)) > 0
    return ratio(per_class(confusion)["f1"].sum(-1), occurs.sum(-1))


def weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean of the classes' F1 weighted by support, shape [...]. CourseError for no rows."""
    some_rows(confusion.sum())
    scores = per_class(confusion)
    return ratio((scores["f1"] * scores["support"]).sum(-1), scores["support"].sum(-1))


def bootstrap_confusions(confusion: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """`resamples` confusion matrices of rows drawn with replacement, shape [resamples, classes, classes].

    Drawing n rows with replacement and counting them per cell *is* a multinomial draw of n over the cells' shares, so
    the rows themselves are not needed and the cost does not depend on n. Percentile bootstrap: Efron & Tibshirani
    (1993), chapter 13. Raises CourseError for a matrix without rows.
    """
    total = int(confusion.sum())
    some_rows(total)
    draws = np.random.default_rng(seed).multinomial(total, confusion.ravel() / total, size=resamples)
    return draws.reshape(resamples, *confusion.shape)


def classification_scores(confusion: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Metric]:
    """Accuracy with Wilson's 95 % interval, macro-F1 and weighted F1 with their bootstrap's. Raises CourseError for no rows."""
    drawn = bootstrap_confusions(confusion, resamples, seed)
    scores = {"accuracy": wilson(np.trace(confusion), confusion.sum())}
    measures: dict[str, Callable] = {"macro_f1": macro_f1, "weighted_f1": weighted_f1}
    rows = int(confusion.sum())
    return scores | {name: interval(measure(confusion), measure(drawn), rows) for name, measure in measures.items()}


def class_table(confusion: np.ndarray, names: list[str], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """One row a class: {'class', 'precision', 'recall', 'f1': {'value', 'low', 'high'}, 'support'}.

    Precision and recall are shares (of the rows predicted, of those that are of the class) and get Wilson's 95 % interval, F1 the
    bootstrap's. A share of no rows is 0 with the interval [0, 1]: nothing is known of it. Raises CourseError for no rows at all.
    """
    scores, drawn = per_class(confusion), per_class(bootstrap_confusions(confusion, resamples, seed))
    hits, predicted, support = np.diagonal(confusion), confusion.sum(0), confusion.sum(1)
    return [
        {
            "class": name,
            "precision": share_of(hits[i], predicted[i]),
            "recall": share_of(hits[i], support[i]),
            "f1": interval(scores["f1"][i], drawn["f1"][:, i], int(predicted[i] + support[i] - hits[i])),
            "support": int(support[i]),
        }
        for i, name in enumerate(names)
    ]


def share_of(hits: int, rows: int) -> Metric:
    """The share hits / rows with Wilson's interval; 0 [0, 1] where there are no rows."""
    return wilson(hits, rows) if rows else {"value": 0.0, "low": 0.0, "high": 1.0}


def surest_errors(probabilities: np.ndarray, labels: np.ndarray, n: int = 10) -> list[int]:
    """The `n` wrongly predicted rows with the highest probability of the predicted class, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(-1), kind="stable")][:n].tolist()


def accuracy_by_bucket(right: np.ndarray, bucket: np.ndarray, titles: Sequence[str] | None = None) -> list[dict]:
    """Accuracy with Wilson's 95 % interval in each bucket: [{'bucket', 'accuracy', 'rows'}], in order of the buckets.

    Args:
        right: booleans [rows], whether the row was predicted right.
        bucket: the bucket of each row [rows]; numbers or names, sorted as they are.
        titles: where the buckets are numbers from 0, what they are called.
    """
    parts = {titles[int(name)] if titles else str(name): right[bucket == name] for name in np.unique(bucket)}
    return [{"bucket": name, "accuracy": wilson(part.sum(), len(part)), "rows": len(part)} for name, part in parts.items()]


def mean_of_known(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean of the numbers that are not nan; None, which JSON has a word for, where there are none."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def words(text: str) -> list[str]:
    """The words of a text in lower case, in order; an apostrophe inside a word belongs to it ("didn't" is one word)."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("’", "'"))


def word_overlap(first: str, second: str, analyzer: str = "word") -> float:
    """The share of the second text's different words that also stand in the first; 0 for a second text without words.

    The lexical-overlap heuristic of McCoy, Pavlick, Linzen 2019 (arXiv 1902.01007), made a number. Any other `analyzer` than "word"
    (see `data.analyzer`) counts pairs of neighbouring characters instead, for texts without spaces between their words.
    """
    there, asked = (set(words(text)) if analyzer == "word" else _character_pairs(text) for text in (first, second))
    return len(there & asked) / max(len(asked), 1)


def _character_pairs(text: str) -> set[str]:
    """Letters with their marks, and digits, each with its neighbour; what stands between them does not count."""
    letters = "".join(character for character in text.lower() if unicodedata.category(character)[0] in "LMN")
    return {letters[at : at + 2] for at in range(max(1, len(letters) - 1))} - {""}


def as_probabilities(values: np.ndarray, rows: int) -> np.ndarray:
    """`values` in float64, checked: numbers from 0 to 1 for `rows` rows. Raises CourseError for none, too few, logits and nan."""
    some_rows(rows)
    values = np.asarray(values, np.float64)
    if len(values) != rows:
        raise CourseError(f"{rows} labels but probabilities of {len(values)} rows: they must be row by row the same")
    outside = values[~((values > -1e-6) & (values < 1 + 1e-6))]  # catches nan too
    if outside.size:
        raise CourseError(f"{outside[0]:g} is no probability: apply softmax or sigmoid to logits; nan means that the model's weights broke")
    return values


# ---------------------------------------------------------------- calibration


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict[str, np.ndarray]:
    """Confidence against accuracy in equal-width bins of the top probability.

    Returns {'confidence', 'accuracy', 'count'}, each [bins]; an empty bin has 0 in all. The first bin is closed on
    both sides, the others are (low, high], as in Guo et al. 2017 (arXiv 1706.04599). Raises CourseError for no rows,
    for labels of other rows, and for what is no probability.
    """
    probabilities = as_probabilities(probabilities, len(labels))
    top = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    which = np.searchsorted(np.arange(1, bins) / bins, top, side="left")
    count = np.bincount(which, minlength=bins)
    return {
        "confidence": ratio(np.bincount(which, top, minlength=bins), count),
        "accuracy": ratio(np.bincount(which, correct, minlength=bins), count),
        "count": count,
    }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """ECE: the mean gap between confidence and accuracy over the bins, weighted by their rows (Guo et al. 2017).

    Few rows make it too high: a perfectly calibrated model of 100 rows has an error of several points. Raises CourseError for none.
    """
    table = reliability(probabilities, labels, bins)
    return float(np.average(np.abs(table["confidence"] - table["accuracy"]), weights=table["count"]))
