"""Scores with their uncertainty. Arrays or texts in, numbers out: no files, no plots.

    intervals   Wilson's interval of a share, bootstrap of rows and of groups, paired differences
    labels      one label per row: confusion matrix, F1, calibration
    multilabel  several labels per row, and their thresholds
    squad       exact match, F1 and refusing, as the official scripts define them
    text        ROUGE, BLEU, chrF, METEOR, faithfulness
    modules     the same as `evaluate.Metric`s, imported when one is first used (`evaluate` takes a second)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from shared.metrics.intervals import RESAMPLES, Metric, cluster_weights, interval, mean_difference, means, resample_weights, wilson
from shared.metrics.labels import (
    accuracy,
    accuracy_by_bucket,
    bootstrap_confusions,
    class_table,
    classification_scores,
    confusion_matrix,
    expected_calibration_error,
    macro_f1,
    mean_of_known,
    per_class,
    reliability,
    sigmoid,
    softmax,
    surest_errors,
    weighted_f1,
    word_overlap,
    words,
)
from shared.metrics.multilabel import (
    apply_thresholds,
    best_thresholds,
    label_counts,
    label_scores,
    multilabel_f1,
    multilabel_scores,
    tier,
)
from shared.metrics.squad import best_null_threshold, normalize_answer, null_precision_recall, squad_rows, squad_v1, squad_v2, stands_in
from shared.metrics.text import (
    ROUGE_TYPES,
    References,
    TextScores,
    bleu,
    checkable,
    chrf,
    meteor_without_synonyms,
    novel_ngrams,
    porter_stemmer,
    repetition,
    rouge,
    split_sentences,
    unsupported,
    unsupported_rate,
)

MODULES = ("Squad", "SquadV2", "Rouge", "Sacrebleu", "Chrf", "MeteorWithoutSynonyms", "Classification")
__all__ = [
    "Metric",
    "RESAMPLES",
    "ROUGE_TYPES",
    "References",
    "TextScores",
    "accuracy",
    "accuracy_by_bucket",
    "apply_thresholds",
    "best_null_threshold",
    "best_thresholds",
    "bleu",
    "bootstrap_confusions",
    "checkable",
    "chrf",
    "class_table",
    "classification_scores",
    "cluster_weights",
    "confusion_matrix",
    "expected_calibration_error",
    "interval",
    "label_counts",
    "label_scores",
    "macro_f1",
    "mean_difference",
    "mean_of_known",
    "means",
    "meteor_without_synonyms",
    "multilabel_f1",
    "multilabel_scores",
    "normalize_answer",
    "novel_ngrams",
    "null_precision_recall",
    "per_class",
    "porter_stemmer",
    "reliability",
    "repetition",
    "resample_weights",
    "rouge",
    "sigmoid",
    "softmax",
    "split_sentences",
    "squad_rows",
    "squad_v1",
    "squad_v2",
    "stands_in",
    "surest_errors",
    "tier",
    "unsupported",
    "unsupported_rate",
    "weighted_f1",
    "wilson",
    "word_overlap",
    "words",
    *MODULES,
]


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return getattr(import_module("shared.metrics.modules"), name)
    raise AttributeError(f"module 'shared.metrics' has no attribute '{name}'")
