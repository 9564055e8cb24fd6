"""SQuAD 1.1 and 2.0: exact match, F1, refusing. Texts in, numbers out; equal to the official scripts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from shared.course.runtime import CourseError
from shared.metrics.intervals import RESAMPLES, means, resample_weights
from shared.metrics.text import TextScores, counted, mean_scores, paired

_PUNCTUATION = str.maketrans("", "", string.punctuation)

_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalize_answer(text: str) -> str:
    """Lower case without ASCII punctuation, the articles a, an, the, and extra white space (evaluate-v1.1.py)."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _token_f1(said: str, gold: str, version: int) -> float:
    """F1 of two normalised answers as bags of words; two empty ones agree in version 2 and score 0 in version 1."""
    if said == gold:
        return float(bool(said) or version == 2)
    tokens, wanted = said.split(), gold.split()
    same = sum((Counter(tokens) & Counter(wanted)).values())
    if not same:
        return 0.0
    precision, recall = same / len(tokens), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def squad_rows(predictions: Sequence[str], answers: Sequence[Sequence[str]], version: int = 1) -> dict[str, np.ndarray]:
    """{'exact_match', 'f1'} of each question, [questions], 0 to 1: the best over its gold answers.

    Args:
        answers: the gold answers' texts of each question; in version 2 none means unanswerable, where only "" is right.
        version: 1 or 2, the definitions of the official evaluate-v1.1.py and evaluate-v2.0.py. They differ where an
            answer is empty once normalised.

    Raises CourseError for unequal lengths and, in version 1, for a question without an answer.
    """
    golds = paired(predictions, answers, empty_ok=version == 2)
    exact, f1 = np.zeros(len(golds)), np.zeros(len(golds))
    for row, (prediction, texts) in enumerate(zip(predictions, golds, strict=True)):
        said, wanted = normalize_answer(prediction), {normalize_answer(text) for text in texts}
        if version == 2:
            wanted = wanted - {""} or {""}
        exact[row] = said in wanted
        f1[row] = max(_token_f1(said, gold, version) for gold in wanted)
    return {"exact_match": exact, "f1": f1}


def squad_v1(predictions: Sequence[str], answers: Sequence[Sequence[str]], resamples: int = RESAMPLES, seed: int = 0) -> TextScores:
    """Exact match and F1 of SQuAD 1.1, as fractions. Arguments and errors as in `squad_rows`."""
    return mean_scores(predictions, squad_rows(predictions, answers), resamples, seed, "SQuAD 1.1", highest=1.0)


def squad_v2(
    predictions: Sequence[str],
    answers: Sequence[Sequence[str]],
    null_scores: Sequence[float] | None = None,
    threshold: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TextScores:
    """Exact match and F1 of SQuAD 2.0, as fractions; `breakdown` has the same for "has_answer" and "no_answer".

    Args:
        null_scores: how likely each question has no answer, probabilities or differences of scores. A question above
            `threshold` counts as refused, whatever its prediction says. None: the predictions as they are.

    Otherwise as in `squad_rows` with version 2.
    """
    rows, groups = refusing(predictions, answers, null_scores, threshold)
    weights = resample_weights(len(predictions), resamples, seed)
    return TextScores(
        means(rows, weights),
        rows,
        counted(predictions, **{name: int(inside.sum()) for name, inside in groups.items()}),
        {
            name: means({key: values[inside] for key, values in rows.items()}, weights[:, inside])
            for name, inside in groups.items()
            if inside.any()
        },
        "SQuAD 2.0" + ("" if null_scores is None else f", null threshold {threshold:g}"),
    )


def refusing(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], null_scores: Sequence[float] | None, threshold: float | None
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The scores of the questions with the threshold applied, and which of them have an answer and which have none."""
    rows, has_answer = squad_rows(predictions, answers, version=2), _has_answer(answers)
    if null_scores is not None:
        if threshold is None:
            raise CourseError("null scores were given without a threshold: choose one, for example by best_null_threshold")
        refused = _null_scores(null_scores, len(predictions)) > threshold
        rows = {name: np.where(refused, ~has_answer, values) for name, values in rows.items()}
    return rows, {"has_answer": has_answer, "no_answer": ~has_answer}


def _has_answer(answers: Sequence[Sequence[str]]) -> np.ndarray:
    return np.array([any(text.strip() for text in texts or ()) for texts in answers])  # some files write [""] for none


def _null_scores(scores: Sequence[float], rows: int) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.shape != (rows,):
        raise CourseError(f"{scores.size} null scores for {rows} questions: give one a question")
    if np.isnan(scores).any():
        raise CourseError(f"the null score of row {np.isnan(scores).argmax()} is not a number: check the model's logits")
    return scores


def best_null_threshold(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], null_scores: Sequence[float]
) -> dict[str, dict[str, float]]:
    """{'exact_match': {'value', 'threshold'}, 'f1': {...}}: the threshold with the best score (a fraction) on these rows.

    find_best_thresh of evaluate-v2.0.py: sorted by null score, answering one question more adds its score, or takes 1
    away where an unanswerable one gets an answer; the first best cut wins. As there, a cut between equal null scores
    counts though no threshold makes it. Where answering nothing is best the official threshold is 0, which is kept if
    it means that; among negative scores it does not, and the threshold lies just below the lowest one.
    Choose it on other rows than you report.
    """
    rows, has_answer = squad_rows(predictions, answers, version=2), _has_answer(answers)
    null = _null_scores(null_scores, len(predictions))
    order = np.argsort(null, kind="stable")
    wrong = -np.array([float(len(text) > 0) for text in predictions])
    nothing = 0.0 if null.min() > 0 else np.nextafter(null.min(), -np.inf)
    thresholds = np.concatenate([[nothing], null[order]])
    best = {}
    for name, scores in rows.items():
        gains = np.where(has_answer, scores, wrong)[order]
        totals = np.cumsum(np.concatenate([[(~has_answer).sum()], gains]))
        first = totals.argmax()
        best[name] = {"value": float(totals[first] / len(null)), "threshold": float(thresholds[first])}
    return best


def null_precision_recall(scores: np.ndarray, has_answer: np.ndarray, null_scores: Sequence[float]) -> dict[str, np.ndarray | float]:
    """The precision-recall curve of answering: {'precision', 'recall', 'threshold': [points], 'average_precision'}.

    Args:
        scores: exact match or F1 of each question before any threshold, [questions].
        has_answer: booleans [questions].

    A question answered well counts as found by its score; precision is the mean over the questions answered, recall
    over those that have an answer (make_precision_recall_eval of evaluate-v2.0.py). The first point answers nothing.
    """
    has_answer, null = np.asarray(has_answer, bool), _null_scores(null_scores, len(scores))
    if not has_answer.any():
        raise CourseError("no question has an answer, so recall is undefined: score rows of which some can be answered")
    order = np.argsort(null, kind="stable")
    ranked = null[order]
    found = np.cumsum(np.where(has_answer, scores, 0.0)[order])
    possible = np.append(ranked[1:] != ranked[:-1], True)  # no threshold parts equal null scores
    precision = np.append(1.0, (found / np.arange(1, len(found) + 1))[possible])
    recall = np.append(0.0, found[possible] / has_answer.sum())
    return {
        "precision": precision,
        "recall": recall,
        "threshold": np.append(-np.inf, ranked[possible]),
        "average_precision": float((precision[1:] * np.diff(recall)).sum()),
    }


def stands_in(answer: str, text: str) -> bool:
    """Whether an answer stands in a text word for word, both normalised as for scoring; an empty one stands everywhere."""
    said = normalize_answer(answer)
    return not said or f" {said} " in f" {normalize_answer(text)} "
