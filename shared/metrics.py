"""Metrics with their uncertainty. Arrays in, numbers out: no files, no plots.

Everything about a single-label classifier except calibration is a function of its confusion matrix, so the functions
here take one, or a whole stack of them (shape [..., classes, classes], rows gold, columns predicted): a bootstrap over
1,000 resamples is then one call.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import datasets
import evaluate
import numpy as np

from shared.runtime import CourseError

RESAMPLES = 1_000
Metric = dict[str, float]  # {'value', 'low', 'high'}


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

    Raises ValueError where the two differ in length or a value is outside 0..classes-1.
    """
    labels, predictions = np.asarray(labels), np.asarray(predictions)
    if labels.shape != predictions.shape:
        raise ValueError(f"{len(labels)} labels but {len(predictions)} predictions: they must be row by row the same")
    both = np.concatenate([labels, predictions])
    if both.size and not (0 <= both.min() and both.max() < classes):
        raise ValueError(f"labels and predictions must lie in 0..{classes - 1}, found {both.min()}..{both.max()}")
    cells = labels.astype(np.int64) * classes + predictions.astype(np.int64)
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator with 0 where the denominator is 0 (scikit-learn's zero_division=0)."""
    return np.divide(numerator, denominator, out=np.zeros(np.broadcast(numerator, denominator).shape), where=denominator > 0)


def accuracy(confusion: np.ndarray) -> np.ndarray:
    """Share of rows on the diagonal, shape [...]. For single-label data this is also the micro-averaged F1."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def per_class(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """{'precision', 'recall', 'f1', 'support'}, each [..., classes]; a class never predicted has precision 0."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    predicted, support = confusion.sum(-2), confusion.sum(-1)
    return {
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, predicted + support),
        "support": support,
    }


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """Unweighted mean of the classes' F1, shape [...], over classes that occur as gold or prediction."""
    occurs = (confusion.sum(-1) + confusion.sum(-2)) > 0
    return _ratio(per_class(confusion)["f1"].sum(-1), occurs.sum(-1))


def weighted_f1(confusion: np.ndarray) -> np.ndarray:
    """Mean of the classes' F1 weighted by support, shape [...]."""
    scores = per_class(confusion)
    return _ratio((scores["f1"] * scores["support"]).sum(-1), scores["support"].sum(-1))


def bootstrap_confusions(confusion: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """`resamples` confusion matrices of rows drawn with replacement, shape [resamples, classes, classes].

    Drawing n rows with replacement and counting them per cell *is* a multinomial draw of n over the cells' shares, so
    the rows themselves are not needed and the cost does not depend on n. Percentile bootstrap: Efron & Tibshirani
    (1993), chapter 13.
    """
    total = int(confusion.sum())
    draws = np.random.default_rng(seed).multinomial(total, confusion.ravel() / total, size=resamples)
    return draws.reshape(resamples, *confusion.shape)


def interval(value: float, samples: np.ndarray, level: float = 0.95) -> Metric:
    """{'value', 'low', 'high'}: a figure with its percentile interval."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return {"value": float(value), "low": float(low), "high": float(high)}


def classification_scores(confusion: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Metric]:
    """Accuracy, macro-F1 and weighted F1, each with its 95 % bootstrap interval."""
    drawn = bootstrap_confusions(confusion, resamples, seed)
    measures: dict[str, Callable] = {"accuracy": accuracy, "macro_f1": macro_f1, "weighted_f1": weighted_f1}
    return {name: interval(measure(confusion), measure(drawn)) for name, measure in measures.items()}


def class_table(confusion: np.ndarray, names: list[str], resamples: int = RESAMPLES, seed: int = 0) -> list[dict]:
    """One row a class: {'class', 'precision', 'recall', 'f1': {'value', 'low', 'high'}, 'support'}."""
    scores, drawn = per_class(confusion), per_class(bootstrap_confusions(confusion, resamples, seed))
    return [
        {"class": name}
        | {key: interval(scores[key][i], drawn[key][:, i]) for key in ("precision", "recall", "f1")}
        | {"support": int(scores["support"][i])}
        for i, name in enumerate(names)
    ]


def surest_errors(probabilities: np.ndarray, labels: np.ndarray, n: int = 10) -> list[int]:
    """The `n` wrongly predicted rows with the highest probability of the predicted class, the surest first."""
    wrong = np.flatnonzero(probabilities.argmax(-1) != labels)
    return wrong[np.argsort(-probabilities[wrong].max(-1), kind="stable")][:n].tolist()


def accuracy_by_bucket(right: np.ndarray, bucket: np.ndarray, seed: int = 0, titles: Sequence[str] | None = None) -> list[dict]:
    """Accuracy with its 95 % bootstrap interval in each bucket: [{'bucket', 'accuracy', 'rows'}], in order of the buckets.

    Args:
        right: booleans [rows], whether the row was predicted right.
        bucket: the bucket of each row [rows]; numbers or names, sorted as they are.
        titles: where the buckets are numbers from 0, what they are called.
    """
    def drawn(inside: np.ndarray) -> np.ndarray:  # the mean of resampled zeros and ones is a binomial's
        return np.random.default_rng(seed).binomial(len(inside), inside.mean(), size=RESAMPLES) / len(inside)

    return _by_bucket("accuracy", right, bucket, drawn, titles)


def mean_by_bucket(values: np.ndarray, bucket: np.ndarray, seed: int = 0, titles: Sequence[str] | None = None) -> list[dict]:
    """Mean with its 95 % bootstrap interval in each bucket: [{'bucket', 'mean', 'rows'}], in order of the buckets.

    Args:
        values: a score a row [rows], for example each question's F1.
        bucket, titles: as in `accuracy_by_bucket`.
    """
    def drawn(inside: np.ndarray) -> np.ndarray:
        return resample_weights(len(inside), seed=seed) @ inside / len(inside)

    return _by_bucket("mean", np.asarray(values, np.float64), bucket, drawn, titles)


def mean_of_known(values: Sequence[float] | np.ndarray) -> float | None:
    """The mean of the numbers that are not nan; None, which JSON has a word for, where there are none."""
    known = np.asarray(values, float)
    known = known[~np.isnan(known)]
    return float(known.mean()) if len(known) else None


def _by_bucket(
    measure: str, values: np.ndarray, bucket: np.ndarray, drawn: Callable[[np.ndarray], np.ndarray], titles: Sequence[str] | None
) -> list[dict]:
    parts = {titles[int(name)] if titles else str(name): values[bucket == name] for name in np.unique(bucket)}
    return [{"bucket": name, measure: interval(v.mean(), drawn(v)), "rows": len(v)} for name, v in parts.items()]


def words(text: str) -> list[str]:
    """The words of a text in lower case, in order; an apostrophe inside a word belongs to it ("didn't" is one word)."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("’", "'"))


def word_overlap(first: str, second: str) -> float:
    """The share of the second text's different words that also stand in the first; 0 for a second text without words.

    The lexical-overlap heuristic of McCoy, Pavlick, Linzen 2019 (arXiv 1902.01007), made a number.
    """
    there, asked = set(words(first)), set(words(second))
    return len(there & asked) / max(len(asked), 1)


# ---------------------------------------------------------------- multi-label classification


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


def label_counts(gold: np.ndarray, predicted: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """True positives, predictions and gold labels per label: {'hits', 'predicted', 'support'}.

    Args:
        gold, predicted: booleans or 0/1, [rows, labels].
        weights: how often each row counts, [..., rows]; then every array has shape [..., labels], else [labels].

    Raises ValueError where the two differ in shape.
    """
    gold, predicted = np.asarray(gold, bool), np.asarray(predicted, bool)
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
        "precision": _ratio(hits, predicted),
        "recall": _ratio(hits, support),
        "f1": _ratio(2 * hits, predicted + support),
        "support": support,
    }


def multilabel_f1(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Micro-, macro- and weighted F1, each [...], over all labels (Sokolova & Lapalme 2009)."""
    f1, support = label_scores(counts)["f1"], counts["support"]
    named = counts["predicted"] + support
    return {
        "micro_f1": _ratio(2 * counts["hits"].sum(-1), named.sum(-1)),
        "macro_f1": f1.mean(-1),
        "weighted_f1": _ratio((f1 * support).sum(-1), support.sum(-1)),
    }


def subset_accuracy(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Share of rows whose whole set of labels is right."""
    return float((np.asarray(gold, bool) == np.asarray(predicted, bool)).all(-1).mean())


def hamming_loss(gold: np.ndarray, predicted: np.ndarray) -> float:
    """Share of all row-label decisions that are wrong. Naming nothing already scores low where labels are rare."""
    return float((np.asarray(gold, bool) != np.asarray(predicted, bool)).mean())


def resample_weights(rows: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """How often each row was drawn in each bootstrap resample: float32 [resamples, rows], every line sums to `rows`."""
    drawn = np.random.default_rng(seed).integers(rows, size=(resamples, rows))
    drawn += np.arange(resamples)[:, None] * rows  # one range of numbers a resample, so that one count does all
    return np.bincount(drawn.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float32)


def multilabel_scores(
    gold: np.ndarray, predicted: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[dict[str, Metric], list[dict]]:
    """Micro-, macro-, weighted F1 and subset accuracy with 95 % intervals, and one table row per label.

    The bootstrap draws rows. Since all counts are sums over rows, a thousand resamples are one matrix product of the
    draws [resamples, rows] with the row's contributions [rows, 3 x labels].

    Returns ({name: {'value', 'low', 'high'}}, [{'precision', 'recall', 'f1': {...}, 'support'}]).
    """
    weights = resample_weights(len(gold), resamples, seed)
    counts, drawn = label_counts(gold, predicted), label_counts(gold, predicted, weights)
    values, samples = multilabel_f1(counts), multilabel_f1(drawn)
    scores = {name: interval(values[name], samples[name]) for name in values}
    exact = (np.asarray(gold, bool) == np.asarray(predicted, bool)).all(-1)
    scores["accuracy"] = interval(exact.mean(), weights @ exact.astype(np.float32) / len(exact))
    per_label, per_label_drawn = label_scores(counts), label_scores(drawn)
    rows = [
        {key: interval(per_label[key][i], per_label_drawn[key][:, i]) for key in ("precision", "recall", "f1")}
        | {"support": int(per_label["support"][i])}
        for i in range(np.shape(gold)[1])
    ]
    return scores, rows


def best_thresholds(gold: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per label, the threshold with the highest F1 on these rows, and that F1: two arrays [labels].

    Every distinct probability is a candidate, so the search is exhaustive: sort each column once, and the hits of all
    cuts are a cumulative sum. The threshold lies half-way to the next lower probability, so that it does not hang on
    one row; of equal F1 the highest threshold wins. A label without gold rows gets threshold 1 and F1 0.
    For one threshold over all labels pass both arrays as a single column: `best_thresholds(g.reshape(-1, 1), ...)`.
    """
    gold, probabilities = np.asarray(gold, bool), np.asarray(probabilities, np.float64)
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


# ---------------------------------------------------------------- calibration


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> dict[str, np.ndarray]:
    """Confidence against accuracy in equal-width bins of the top probability.

    Returns {'confidence', 'accuracy', 'count'}, each [bins]; an empty bin has 0 in all. The first bin is closed on
    both sides, the others are (low, high], as in Guo et al. 2017 (arXiv 1706.04599).
    """
    top = probabilities.max(-1)
    correct = probabilities.argmax(-1) == labels
    which = np.searchsorted(np.arange(1, bins) / bins, top, side="left")
    count = np.bincount(which, minlength=bins)
    return {
        "confidence": _ratio(np.bincount(which, top, minlength=bins), count),
        "accuracy": _ratio(np.bincount(which, correct, minlength=bins), count),
        "count": count,
    }


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """ECE: the mean gap between confidence and accuracy over the bins, weighted by their rows (Guo et al. 2017)."""
    table = reliability(probabilities, labels, bins)
    return float(np.average(np.abs(table["confidence"] - table["accuracy"]), weights=table["count"]))


# ---------------------------------------------------------------- for the Trainer and for evaluate


def trainer_scores(prediction) -> dict[str, float]:
    """`compute_metrics` for the Trainer: accuracy and macro-F1 of an EvalPrediction with logits [rows, classes]."""
    logits = prediction.predictions
    confusion = confusion_matrix(prediction.label_ids, logits.argmax(-1), logits.shape[-1])
    return {"accuracy": float(accuracy(confusion)), "macro_f1": float(macro_f1(confusion))}


def multilabel_trainer_scores(prediction) -> dict[str, float]:
    """`compute_metrics` for a multi-label Trainer: micro- and macro-F1 at 0.5, and with the best threshold on these rows.

    `tuned_micro_f1` (one threshold for all labels) and `tuned_macro_f1` (one a label) show what the ranking is worth
    while the probabilities are still too low for 0.5. They are optimistic on the rows they are tuned on.
    """
    probabilities, gold = sigmoid(prediction.predictions), np.asarray(prediction.label_ids) > 0.5
    at_half = multilabel_f1(label_counts(gold, probabilities >= 0.5))
    return {
        "micro_f1": float(at_half["micro_f1"]),
        "macro_f1": float(at_half["macro_f1"]),
        "tuned_micro_f1": float(best_thresholds(gold.reshape(-1, 1), probabilities.reshape(-1, 1))[1][0]),
        "tuned_macro_f1": float(best_thresholds(gold, probabilities)[1].mean()),
    }


class Classification(evaluate.Metric):
    """Accuracy, macro-F1 and weighted F1 as an `evaluate.Metric` that needs no download.

    `evaluate.load("accuracy")` fetches a script from the Hub; this gives the same figures offline.
    `Classification(classes=4).compute(predictions=[...], references=[...])`.
    """

    def __init__(self, classes: int, **kwargs):
        self.classes = classes
        super().__init__(**kwargs)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracy and F1 of a single-label classifier.",
            citation="",
            inputs_description="predictions and references: lists of class numbers.",
            features=datasets.Features(
                {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        confusion = confusion_matrix(np.asarray(references), np.asarray(predictions), self.classes)
        return {
            "accuracy": float(accuracy(confusion)),
            "macro_f1": float(macro_f1(confusion)),
            "weighted_f1": float(weighted_f1(confusion)),
        }
