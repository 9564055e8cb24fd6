"""Metrics with their uncertainty. Arrays in, numbers out: no files, no plots.

Everything about a single-label classifier except calibration is a function of its confusion matrix, so the functions
here take one, or a whole stack of them (shape [..., classes, classes], rows gold, columns predicted): a bootstrap over
1,000 resamples is then one call.
"""

from __future__ import annotations

from collections.abc import Callable

import datasets
import evaluate
import numpy as np

RESAMPLES = 1_000
Metric = dict[str, float]  # {'value', 'low', 'high'}


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities [rows, classes] from logits [rows, classes], in float64."""
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


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
