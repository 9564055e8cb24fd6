"""Metrics of texts: ROUGE, BLEU, chrF, METEOR and statistics of summaries. Texts in, numbers out: no files, no plots.

Every scorer scores once and returns a TextScores. Its intervals draw examples, not words: the scores (or, for BLEU and
chrF, the counts that a corpus score is made of) are summed again under resampled weights, so 1,000 resamples are one
matrix product and nothing is scored twice. The same number of rows and the same seed give the same resamples.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from types import SimpleNamespace
from typing import Any

import numpy as np

from shared.course.runtime import CourseError
from shared.metrics.intervals import RESAMPLES, Metric, interval, means, resample_weights
from shared.metrics.labels import words

References = Sequence[str | Sequence[str]]  # one reference a row, or several
ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
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


def paired(predictions: Sequence[str], references: References, empty_ok: bool = False) -> list[list[str]]:
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


def counted(predictions: Sequence[str], **more: int) -> dict[str, int]:
    return {"rows": len(predictions), "empty_predictions": sum(not text.strip() for text in predictions)} | more


def mean_scores(
    predictions: Sequence[str], rows: dict[str, np.ndarray], resamples: int, seed: int, signature: str, highest: float = 100.0
) -> TextScores:
    """Where the corpus figure is the mean over the rows."""
    found = means(rows, resample_weights(len(predictions), resamples, seed), highest=highest)
    return TextScores(found, rows, counted(predictions), signature=signature)


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
    wanted = paired(predictions, references)
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
    scores = mean_scores(predictions, rows, resamples, seed, signature)
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
        for prediction, texts in zip(predictions, paired(predictions, references), strict=True)
    ]
    signature = f"nltk {metadata.version('nltk')}, exact and Porter stem matches, no synonyms"
    return mean_scores(predictions, {"meteor": 100 * np.array(found)}, resamples, seed, signature)


# ---------------------------------------------------------------- BLEU and chrF


def corpus_statistics(metric: Any, predictions: Sequence[str], references: References) -> np.ndarray:
    """The counts per row that sacrebleu adds up for a corpus score, [rows, counts]."""
    golds = paired(predictions, references)
    streams = [[texts[k] if k < len(texts) else None for texts in golds] for k in range(max(map(len, golds)))]
    return np.array(metric._extract_corpus_statistics(list(predictions), streams), np.float64)


def _corpus_score(metric: Any, statistics: np.ndarray, formula: Callable, resamples: int, seed: int) -> Metric:
    """sacrebleu's own figure of the summed counts; the interval is by `formula`, the same for many sums at once."""
    value = metric._compute_score_from_stats(statistics.sum(0).tolist()).score
    return interval(value, formula(resample_weights(len(statistics), resamples, seed) @ statistics), len(statistics), highest=100.0)


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
    statistics = corpus_statistics(metric, predictions, references)
    found = {"bleu": _corpus_score(metric, statistics, _bleu, resamples, seed)}
    return TextScores(found, {}, counted(predictions), signature=str(metric.get_signature()))


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
    statistics = corpus_statistics(metric, predictions, references)
    found = {"chrf": _corpus_score(metric, statistics, _chrf, resamples, seed)}
    return TextScores(found, {"chrf": _chrf(statistics)}, counted(predictions), signature=str(metric.get_signature()))


# ---------------------------------------------------------------- statistics of generated texts


def _ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    found = words(text)
    return list(zip(*(found[start:] for start in range(n)), strict=False))


def _share(part: int, whole: int) -> float:
    return part / whole if whole else float("nan")


def _rows(share: Callable[[str, str], float], predictions: Sequence[str], others: Sequence[str]) -> np.ndarray:
    golds = paired(predictions, others)
    return np.array([share(prediction, texts[0]) for prediction, texts in zip(predictions, golds, strict=True)])


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
