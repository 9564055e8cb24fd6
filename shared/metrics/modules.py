"""The course's scorers as `evaluate.Metric`s, which need no download: `evaluate.load` fetches a script from the Hub."""

from __future__ import annotations

from typing import Any

import datasets
import evaluate
import numpy as np

from shared.course.runtime import CourseError
from shared.metrics.labels import accuracy, confusion_matrix, macro_f1, weighted_f1
from shared.metrics.squad import best_null_threshold, refusing, squad_rows
from shared.metrics.text import References, chrf, corpus_statistics, meteor_without_synonyms, rouge

_TEXT, _TEXTS = datasets.Value("string"), datasets.List(datasets.Value("string"))
_ANSWERS = {"id": _TEXT, "answers": {"text": _TEXTS, "answer_start": datasets.List(datasets.Value("int32"))}}


class _Offline(evaluate.Metric):
    """Inputs, names, units and defaults of the Hub's metric of that name, without the download that evaluate.load needs."""

    shapes: tuple[dict, ...] = ({"predictions": _TEXT, "references": _TEXTS}, {"predictions": _TEXT, "references": _TEXT})

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="",
            inputs_description="predictions and references, as for the Hub's metric of the same name",
            features=[datasets.Features(shape) for shape in self.shapes],
        )


_HUB_NAMES = {"exact_match": "exact", "f1": "f1"}


def _by_question(predictions: list[dict], references: list[dict]) -> tuple[list[dict], list[list[str]]]:
    """The predictions in the order of the references, and the gold answers."""
    said = {row["id"]: row for row in predictions}
    if missing := [row["id"] for row in references if row["id"] not in said]:
        raise CourseError(f"question '{missing[0]}' has no prediction: give one a question, an empty text for no answer")
    return [said[row["id"]] for row in references], [row["answers"]["text"] for row in references]


class Squad(_Offline):
    """SQuAD 1.1: {'exact_match', 'f1'}, 0 to 100."""

    shapes = ({"predictions": {"id": _TEXT, "prediction_text": _TEXT}, "references": _ANSWERS},)

    def _compute(self, predictions: list[dict], references: list[dict]) -> dict[str, float]:
        said, answers = _by_question(predictions, references)
        rows = squad_rows([row["prediction_text"] for row in said], answers)
        return {name: float(100 * values.mean()) for name, values in rows.items()}


class SquadV2(_Offline):
    """SQuAD 2.0: 'exact', 'f1', 'total', the same with HasAns_ and NoAns_, 'best_exact', 'best_f1' and thresholds; 0 to 100."""

    shapes = (
        {
            "predictions": {"id": _TEXT, "prediction_text": _TEXT, "no_answer_probability": datasets.Value("float32")},
            "references": _ANSWERS,
        },
    )

    def _compute(self, predictions: list[dict], references: list[dict], no_answer_threshold: float = 1.0) -> dict[str, float]:
        said, answers = _by_question(predictions, references)
        texts, null = [row["prediction_text"] for row in said], [row["no_answer_probability"] for row in said]
        rows, groups = refusing(texts, answers, null, no_answer_threshold)
        groups = {"": np.ones(len(texts), bool), "HasAns_": groups["has_answer"], "NoAns_": groups["no_answer"]}
        result = {}
        for prefix, inside in groups.items():
            if inside.any():
                result |= {prefix + _HUB_NAMES[key]: float(100 * values[inside].mean()) for key, values in rows.items()}
                result[prefix + "total"] = int(inside.sum())
        for key, best in best_null_threshold(texts, answers, null).items():
            name = "best_" + _HUB_NAMES[key]
            result |= {name: 100 * best["value"], name + "_thresh": best["threshold"] if best["threshold"] >= min(null) else 0.0}
        return result


class Rouge(_Offline):
    """ROUGE F-measures, 0 to 1, without a stemmer unless asked, Lsum over lines.

    The Hub's aggregate is the median of its own unseeded bootstrap and so another number at every call; this is the mean.
    """

    def _compute(
        self, predictions: list[str], references: References, use_stemmer: bool = False, use_aggregator: bool = True
    ) -> dict[str, Any]:
        rows = rouge(predictions, references, use_stemmer, split=False, resamples=1).rows
        return {name: float(v.mean() / 100) if use_aggregator else (v / 100).tolist() for name, v in rows.items()}


class Sacrebleu(_Offline):
    """BLEU, 0 to 100: {'score', 'counts', 'totals', 'precisions', 'bp', 'sys_len', 'ref_len'}, and its 'signature'."""

    def _compute(self, predictions: list[str], references: References, tokenize: str = "13a", lowercase: bool = False) -> dict[str, Any]:
        import sacrebleu

        metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
        total = corpus_statistics(metric, predictions, references).sum(0).astype(int).tolist()
        found = metric._compute_score_from_stats(total)
        names = ("score", "counts", "totals", "precisions", "bp", "sys_len", "ref_len")
        return {name: getattr(found, name) for name in names} | {"signature": str(metric.get_signature())}


class Chrf(_Offline):
    """chrF, 0 to 100: {'score', 'signature'}."""

    def _compute(self, predictions: list[str], references: References, word_order: int = 0) -> dict[str, Any]:
        scores = chrf(predictions, references, word_order, resamples=1)
        return {"score": scores.metrics["chrf"]["value"], "signature": scores.signature}


class MeteorWithoutSynonyms(_Offline):
    """METEOR without synonyms, 0 to 1: {'meteor'}; see `meteor_without_synonyms` for what that leaves out."""

    def _compute(self, predictions: list[str], references: References) -> dict[str, float]:
        return {"meteor": meteor_without_synonyms(predictions, references, resamples=1).metrics["meteor"]["value"] / 100}


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
