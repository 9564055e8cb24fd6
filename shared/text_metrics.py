"""Metrics of texts: SQuAD, ROUGE, BLEU, chrF, METEOR and statistics of summaries. Texts in, numbers out: no files, no plots.

Every scorer scores once and returns a TextScores. Its intervals draw examples, not words: the scores (or, for BLEU and
chrF, the counts that a corpus score is made of) are summed again under resampled weights, so 1,000 resamples are one
matrix product and nothing is scored twice. The same number of rows and the same seed give the same resamples.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import datasets
import evaluate
import numpy as np

from shared.metrics import RESAMPLES, Metric, interval, resample_weights, words
from shared.runtime import CourseError

References = Sequence[str | Sequence[str]]  # one reference a row, or several
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TITLES = ["Mr", "Mrs", "Ms", "Dr", "Prof", "St", "Sen", "Rep", "Gov", "Gen", "Lt", "Col", "Capt", "Sgt", "No", "vs"]
_SENTENCE_END = re.compile(
    r"""(?:(?<=[.!?…])|(?<=[.!?…]["'”’)\]]))""" + "".join(rf"(?<!\b{word}\.)" for word in ["[A-Z]", *_TITLES]) + r"\s+(?![a-z\s])"
)
_NUMBER_OR_WORD = re.compile(r"\d+(?:[.,:]\d+)*|[^\W\d_]+")


@dataclass(frozen=True)
class TextScores:
    """What a scorer found.

    metrics: the corpus figures with their 95 % intervals, under the names that the results use.
    rows: the same figures one by one, {name: [rows]}; none for BLEU, which is no mean of sentences.
    counts: "rows", "empty_predictions" and whatever else was counted.
    breakdown: {group of rows: {name: figure with interval}}.
    signature: how it was scored, to be stated beside the numbers.
    """

    metrics: dict[str, Metric]
    rows: dict[str, np.ndarray]
    counts: dict[str, int]
    breakdown: dict[str, dict[str, Metric]] = field(default_factory=dict)
    signature: str = ""


def _paired(predictions: Sequence[str], references: References, empty_ok: bool = False) -> list[list[str]]:
    """The references as a list a row; CourseError for what cannot be scored row by row."""
    if len(predictions) != len(references):
        raise CourseError(f"{len(predictions)} predictions but {len(references)} references: give one of each a row, in the same order")
    if not len(predictions):
        raise CourseError("there is nothing to score: give at least one prediction with its reference")
    golds = [[gold] if isinstance(gold, str) else list(gold or []) for gold in references]
    for row, (said, wanted) in enumerate(zip(predictions, golds, strict=True)):
        for kind, text in [("prediction", said), *(("reference", text) for text in wanted)]:
            if not isinstance(text, str):
                raise CourseError(f"a {kind} of row {row} is of type {type(text).__name__}: decode it to a text first")
        if not empty_ok and not any(text.strip() for text in wanted):
            raise CourseError(f"row {row} has no reference to compare with: drop the row, or give it a text")
    return golds


def _counts(predictions: Sequence[str], **more: int) -> dict[str, int]:
    return {"rows": len(predictions), "empty_predictions": sum(not text.strip() for text in predictions)} | more


def _means(rows: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, Metric]:
    """The mean of every column with its interval; a resample in which no row was drawn has no mean."""
    values, total = np.stack(list(rows.values()), axis=1), weights.sum(1)
    drawn = (weights @ values)[total > 0] / total[total > 0, None]
    return {name: interval(values[:, k].mean(), drawn[:, k]) for k, name in enumerate(rows)}


def _scores(predictions: Sequence[str], rows: dict[str, np.ndarray], resamples: int, seed: int, signature: str) -> TextScores:
    """Where the corpus figure is the mean over the rows."""
    found = _means(rows, resample_weights(len(predictions), resamples, seed))
    return TextScores(found, rows, _counts(predictions), signature=signature)


def mean_difference(first: np.ndarray, second: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> Metric:
    """Mean of first - second, two arrays [rows] of the same rows, with its paired 95 % bootstrap interval.

    An interval without 0 is a significant difference (Koehn 2004, "Statistical significance tests for MT evaluation").
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    return _means({"difference": difference}, resample_weights(len(difference), resamples, seed))["difference"]


# ---------------------------------------------------------------- SQuAD


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
    golds = _paired(predictions, answers, empty_ok=version == 2)
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
    return _scores(predictions, squad_rows(predictions, answers), resamples, seed, "SQuAD 1.1")


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
    rows, groups = _refusing(predictions, answers, null_scores, threshold)
    weights = resample_weights(len(predictions), resamples, seed)
    return TextScores(
        _means(rows, weights),
        rows,
        _counts(predictions, **{name: int(inside.sum()) for name, inside in groups.items()}),
        {
            name: _means({key: values[inside] for key, values in rows.items()}, weights[:, inside])
            for name, inside in groups.items()
            if inside.any()
        },
        "SQuAD 2.0" + ("" if null_scores is None else f", null threshold {threshold:g}"),
    )


def _refusing(
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
    return np.array([len(texts or ()) > 0 for texts in answers])


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


# ---------------------------------------------------------------- ROUGE and METEOR


def split_sentences(text: str) -> list[str]:
    """The sentences of a text: its lines, cut after . ! ? … before white space and anything but a small letter.

    Not cut after an initial (U.S., J. Smith) or a title (Mr. Smith). A rule of thumb for English that needs no model.
    """
    return [part for line in text.splitlines() for part in _SENTENCE_END.split(line.strip()) if part]


@functools.cache
def porter_stemmer() -> Any:
    """nltk's Porter stemmer with a memory, since the same words come again and again."""
    from nltk.stem.porter import PorterStemmer

    stemmer = PorterStemmer()
    stemmer.stem = functools.lru_cache(maxsize=65_536)(stemmer.stem)
    return stemmer


def rouge(
    predictions: Sequence[str],
    references: References,
    use_stemmer: bool = True,
    split: bool = True,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TextScores:
    """ROUGE-1, -2, -L and -Lsum F-measures, 0 to 100, by Google's rouge_score (Lin 2004); the best of several references.

    Args:
        use_stemmer: whether Porter stems are compared. Published summarisation figures mostly do; the Hub's metric
            does not unless asked.
        split: whether ROUGE-Lsum gets sentences by `split_sentences`. Without, only line breaks part them, and
            ROUGE-Lsum of a text in one line is ROUGE-L.

    Its words are runs of a-z and 0-9, so a text in another script scores 0, even against itself: rows whose references have none of
    them are counted ("unread_references"), and a line says so. Raises CourseError for unequal lengths, no
    rows, or a row without a reference; an empty prediction scores 0 and is counted.
    """
    from rouge_score import rouge_scorer, tokenize

    stemmer = porter_stemmer() if use_stemmer else None
    tokenizer = SimpleNamespace(tokenize=lambda text: tokenize.tokenize(text, stemmer))
    scorer = rouge_scorer.RougeScorer(list(ROUGE_TYPES), tokenizer=tokenizer)
    lines: Callable[[str], str] = (lambda text: "\n".join(split_sentences(text))) if split else str
    wanted = _paired(predictions, references)
    unread = sum(not any(map(tokenizer.tokenize, texts)) for texts in wanted)
    if unread:
        print(f"NOTE: ROUGE reads the letters a to z and digits alone; {unread} of {len(wanted)} references have none and score 0")
    pairs = zip(predictions, wanted, strict=True)
    found = [scorer.score_multi([lines(text) for text in texts], lines(prediction)) for prediction, texts in pairs]
    rows = {name: np.array([100 * scores[name].fmeasure for scores in found]) for name in ROUGE_TYPES}
    signature = (
        f"rouge_score {metadata.version('rouge_score')}, F-measure, {'Porter stems' if use_stemmer else 'no stemmer'}, "
        f"Lsum over {'sentences' if split else 'lines'}"
    )
    scores = _scores(predictions, rows, resamples, seed, signature)
    return replace(scores, counts=scores.counts | ({"unread_references": unread} if unread else {}))


def meteor_without_synonyms(predictions: Sequence[str], references: References, resamples: int = RESAMPLES, seed: int = 0) -> TextScores:
    """METEOR without its synonym stage, 0 to 100: words match if equal or of equal Porter stem.

    nltk's meteor_score (Lavie & Agarwal 2007; alpha .9, beta 3, gamma .5; the best of several references) with an empty
    WordNet, because WordNet is a download. nltk's full score is mostly a little higher: "car" for "auto" is a miss here
    and a match there. The Java METEOR 1.5 of most papers differs from both: it also matches paraphrases, discounts
    function words, and has other weights; don't compare with it. Texts are cut into words by nltk's Treebank rules,
    sentence by sentence. Even a perfect answer loses 50 / words^3, which leaves 50 for a single word.
    Errors as in `rouge`.
    """
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    tokenizer, empty_wordnet = NLTKWordTokenizer(), SimpleNamespace(synsets=lambda word: [])

    def tokens(text: str) -> list[str]:
        return [word for sentence in split_sentences(text) for word in tokenizer.tokenize(sentence)]

    found = [
        meteor_score([tokens(text) for text in texts], tokens(prediction), stemmer=porter_stemmer(), wordnet=empty_wordnet)
        for prediction, texts in zip(predictions, _paired(predictions, references), strict=True)
    ]
    signature = f"nltk {metadata.version('nltk')}, exact and Porter stem matches, no synonyms"
    return _scores(predictions, {"meteor": 100 * np.array(found)}, resamples, seed, signature)


# ---------------------------------------------------------------- BLEU and chrF


def _statistics(metric: Any, predictions: Sequence[str], references: References) -> np.ndarray:
    """The counts per row that sacrebleu adds up for a corpus score, [rows, counts]."""
    golds = _paired(predictions, references)
    streams = [[texts[k] if k < len(texts) else None for texts in golds] for k in range(max(map(len, golds)))]
    return np.array(metric._extract_corpus_statistics(list(predictions), streams), np.float64)


def _corpus_score(metric: Any, statistics: np.ndarray, formula: Callable, resamples: int, seed: int) -> Metric:
    """sacrebleu's own figure of the summed counts; the interval is by `formula`, the same for many sums at once."""
    value = metric._compute_score_from_stats(statistics.sum(0).tolist()).score
    return interval(value, formula(resample_weights(len(statistics), resamples, seed) @ statistics))


def _bleu(statistics: np.ndarray) -> np.ndarray:
    """BLEU [...] of counts [..., 10] (lengths of prediction and reference, 4 x right, 4 x all n-grams), exp smoothing."""
    said, wanted, right, total = np.split(statistics, [1, 2, 6], axis=-1)
    halvings = 0.5 ** np.cumsum(right == 0, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(right == 0, halvings, right) / total
        score = 100 * np.exp(np.log(precision).mean(-1) + np.minimum(0, 1 - wanted / said)[..., 0])
    return np.where((total > 0).all(-1) & (right > 0).any(-1), score, 0.0)


def bleu(
    predictions: Sequence[str],
    references: References,
    tokenize: str = "13a",
    lowercase: bool = False,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TextScores:
    """Corpus BLEU, 0 to 100, by sacrebleu (Papineni et al. 2002; Post 2018) with its signature.

    The texts must be as a reader sees them: BLEU of tokenised text is another, higher number. `rows` is empty: the
    BLEU of a corpus is no mean over sentences. Errors as in `rouge`.
    """
    import sacrebleu

    metric = sacrebleu.BLEU(tokenize=tokenize, lowercase=lowercase)
    statistics = _statistics(metric, predictions, references)
    found = {"bleu": _corpus_score(metric, statistics, _bleu, resamples, seed)}
    return TextScores(found, {}, _counts(predictions), signature=str(metric.get_signature()))


def _chrf(statistics: np.ndarray, beta: int = 2) -> np.ndarray:
    """chrF [...] of counts [..., 3 x orders] (n-grams of the prediction, of the reference, in both)."""
    said, wanted, both = np.moveaxis(statistics.reshape(*statistics.shape[:-1], -1, 3), -1, 0)
    counted = (said > 0) & (wanted > 0)
    orders = np.maximum(counted.sum(-1), 1)
    precision = np.where(counted, both / np.maximum(said, 1), 0).sum(-1) / orders
    recall = np.where(counted, both / np.maximum(wanted, 1), 0).sum(-1) / orders
    bottom = beta**2 * precision + recall
    return 100 * (1 + beta**2) * precision * recall / np.where(bottom > 0, bottom, 1)


def chrf(predictions: Sequence[str], references: References, word_order: int = 0, resamples: int = RESAMPLES, seed: int = 0) -> TextScores:
    """Corpus chrF (Popović 2015), 0 to 100, by sacrebleu with its signature; `rows` has each sentence's own chrF.

    word_order 2 gives chrF++. Errors as in `rouge`.
    """
    import sacrebleu

    metric = sacrebleu.CHRF(word_order=word_order)
    statistics = _statistics(metric, predictions, references)
    found = {"chrf": _corpus_score(metric, statistics, _chrf, resamples, seed)}
    return TextScores(found, {"chrf": _chrf(statistics)}, _counts(predictions), signature=str(metric.get_signature()))


# ---------------------------------------------------------------- statistics of generated texts


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return list(zip(*(found[start:] for start in range(n)), strict=False))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _rows(share: Callable[[str, str], float], predictions: Sequence[str], others: Sequence[str]) -> np.ndarray:
    golds = _paired(predictions, others)
    return np.array([share(prediction, texts[0]) for prediction, texts in zip(predictions, golds, strict=True)])


def length_ratio(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Words of the prediction per word of the reference, [rows]; nan where the reference has no word."""
    return _rows(lambda said, wanted: _share(len(words(said)), len(words(wanted))), predictions, references)


def novel_ngrams(predictions: Sequence[str], sources: Sequence[str], n: int = 2) -> np.ndarray:
    """Share of the prediction's distinct n-grams that its source lacks, [rows] (See et al. 2017; Narayan et al. 2018).

    Lower-cased words without punctuation; nan where the prediction has fewer than `n` words: average with np.nanmean.
    """

    def share(said: str, source: str) -> float:
        grams = set(_ngrams(said, n))
        return _share(len(grams - set(_ngrams(source, n))), len(grams))

    return _rows(share, predictions, sources)


def repetition(predictions: Sequence[str], n: int = 3) -> np.ndarray:
    """Share of the n-grams that stood before in the same prediction, [rows]: 1 - distinct / all.

    Seq-rep-n of Welleck et al. 2020 (arXiv 1908.04319); nan where the prediction has fewer than `n` words.
    """
    grams = [_ngrams(text, n) for text in predictions]
    return np.array([_share(len(row) - len(set(row)), len(row)) for row in grams])


def checkable(text: str) -> list[str]:
    """The numbers and names of a text, in order: what its source should contain.

    A name is a capitalised word of two letters or more that does not open a sentence, or one all in capitals. English only.
    """
    found = []
    for sentence in split_sentences(text):
        for place, word in enumerate(_NUMBER_OR_WORD.findall(sentence)):
            name = len(word) > 1 and word[0].isupper() and (place > 0 or word.isupper())
            if name or word[0].isdigit():
                found.append(word)
    return found


def unsupported(prediction: str, source: str) -> list[str]:
    """The numbers and names of `prediction` that stand nowhere in `source` (case and the commas of 1,000 ignored)."""
    there = {word.lower().replace(",", "") for word in _NUMBER_OR_WORD.findall(source)}
    return [word for word in checkable(prediction) if word.lower().replace(",", "") not in there]


def unsupported_rate(predictions: Sequence[str], sources: Sequence[str]) -> np.ndarray:
    """Share of the prediction's numbers and names that its source lacks, [rows]; nan where it has neither.

    A cheap check of faithfulness: it sees neither a wrong verb nor a name given to the wrong person.
    """
    return _rows(lambda said, source: _share(len(unsupported(said, source)), len(checkable(said))), predictions, sources)


# ---------------------------------------------------------------- for evaluate

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
        rows, groups = _refusing(texts, answers, null, no_answer_threshold)
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
        total = _statistics(metric, predictions, references).sum(0).astype(int).tolist()
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
