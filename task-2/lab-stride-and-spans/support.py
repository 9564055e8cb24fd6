"""The signs that a question has no answer, the reader's own and the text's, and a regression that weighs them: this lab's calibrator.

A reader's null odds say how sure it is. Which of the question's words stand where it found its answer says something else, so
both together may refuse better than a threshold on the odds alone (Kamath, Jia, Liang 2020, Selective Question Answering under
Domain Shift, arXiv 2006.09462; the features are this course's own). English only: words and stemmer are.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from shared import metrics
from shared.course.runtime import CourseError
from shared.metrics.text import checkable, porter_stemmer, split_sentences, unsupported

if TYPE_CHECKING:
    from shared.qa import Answers

READER = (
    "null odds",
    "score of the answer",
    "probability of the answer",  # among the n best
    "null odds before",  # of the reader that has not learned to refuse yet; so are the next two
    "probability before",
    "same answer before",  # F1 of the two answers
)
FEATURES = (
    "words in the answer's sentence",  # share of the question's words, each weighted by how rare it is; so are the next three
    "words there or in the sentence before",
    "words in the best sentence",
    "words in the paragraph",
    "rarest word missing",  # its weight; 0 where the answer's sentence has all words
    "neighbours in the answer's sentence",  # share of the question's pairs of neighbouring words that are neighbours there
    "names and numbers in the answer's sentence",  # share of those of the question; 1 where it has none
    "names and numbers in the paragraph",
    "words of the question",
    "turning words",  # whether the question has one, as questions made unanswerable by a small change often do
    "quantity asked",
    "words of the answer",  # logarithm of 1 + their number
    "digit in the answer",
    "answer said in the question",  # share of the answer's words
)
# Larger lists also drop first, most or between, on which a question without an answer may turn.
_FUNCTION_WORDS = """
the a an of in on at to for by with from and or is was were are be been did do does what which who whom whose when where why how many
much that this it its their his her as not has have had can could would will s
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())
TURNING = frozenset(["not", "no", "never", "n't", "nor", "without", "except", "other", "only", "least", "last", "first"])
QUANTITY = re.compile(r"\bhow (?:many|much|long|old|far|often)\b|\bwhen\b|\bwhat (?:year|date|day|century|number|percentage)\b", re.I)
WORD = re.compile(r"n't\b|\w+?(?=n't\b)|\w+")


def content_words(text: str) -> list[str]:
    """The Porter stems of a text's words in their order, function words left out."""
    return [porter_stemmer().stem(word) for word in WORD.findall(text.lower()) if word not in FUNCTION_WORDS]


def word_weights(paragraphs: Iterable[str]) -> Callable[[str], float]:
    """The weight of a stem: log((1 + n) / (1 + number of the n distinct paragraphs that have it)), a search engine's idf.

    Raises CourseError without paragraphs.
    """
    texts = set(paragraphs)
    if not texts:
        raise CourseError("word weights are counted in paragraphs, and there are none: pass the training paragraphs")
    found = Counter(stem for text in texts for stem in set(content_words(text)))
    return lambda stem: float(np.log((1 + len(texts)) / (1 + found[stem])))


def features(
    questions: Sequence[str], contexts: Sequence[str], spans: Sequence[tuple[int, int]], weight: Callable[[str], float]
) -> np.ndarray:
    """[questions, FEATURES] float64: how the answer that a reader found fits the question.

    Args:
        spans: a question's answer as characters of its context, end exclusive; (0, 0) for none.
        weight: of a stem, as `word_weights` counts it.

    Shares are 0 to 1. A question without words of its own has share 0 of everything but names. Raises CourseError where the
    three differ in number and for a span outside its context.
    """
    if not len(questions) == len(contexts) == len(spans):
        raise CourseError(f"{len(questions)} questions, {len(contexts)} contexts and {len(spans)} answers: pass as many of each")
    rows = [_of_one(*row, weight) for row in zip(questions, contexts, spans, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(FEATURES))


def _of_one(question: str, context: str, span: tuple[int, int], weight: Callable[[str], float]) -> list[float]:
    start, end = map(int, span)
    if not 0 <= start <= end <= len(context):
        raise CourseError(f"an answer at {start} to {end} lies outside its context of {len(context)} characters: pass character positions")
    answer, asked = context[start:end], content_words(question)
    sentences = split_sentences(context) or [""]
    place = _sentence_at(context, sentences, start)
    words = [content_words(sentence) for sentence in sentences]
    here = set(words[place])
    weights = {word: weight(word) for word in asked}
    total = sum(weights[word] for word in asked)

    def covered(found: set[str]) -> float:
        return sum(weights[word] for word in asked if word in found) / total if total else 0.0

    names = len(checkable(question))
    neighbours = set(itertools.pairwise(words[place]))
    return [
        covered(here),
        covered(here.union(*words[max(place - 1, 0) : place])),
        max(covered(set(found)) for found in words),
        covered(set().union(*words)),
        max((weights[word] for word in asked if word not in here), default=0.0),
        _share(pair in neighbours for pair in itertools.pairwise(asked)),
        *(1 - len(unsupported(question, text)) / max(names, 1) for text in (sentences[place], context)),
        len(asked),
        not TURNING.isdisjoint(WORD.findall(question.lower())),
        bool(re.search(QUANTITY, question)),
        np.log1p(len(answer.split())),
        bool(re.search(r"\d", answer)),
        _share(word in weights for word in content_words(answer)),
    ]


def _share(hits: Iterable[bool]) -> float:
    found = list(hits)
    return sum(found) / len(found) if found else 0.0


def _sentence_at(context: str, sentences: list[str], position: int) -> int:
    """Which sentence has the character; one between two sentences belongs to the first."""
    place, after = 0, 0
    for number, sentence in enumerate(sentences):
        begins = context.index(sentence, after)
        if begins > position:
            break
        place, after = number, begins + len(sentence)
    return place


def reader_signs(before: Answers, after: Answers) -> np.ndarray:
    """[questions, READER] float64: what a reader says of its own answer, before and after it has learned to refuse."""
    widest = 100.0  # a question without any span has odds beyond all scales
    golds = [[text] if text else [] for text in before.texts]
    columns = [
        np.clip(after.null_odds, -widest, widest),
        np.clip(after.best(after.score, -widest), -widest, widest),
        after.best(after.probability, 0.0),
        np.clip(before.null_odds, -widest, widest),
        before.best(before.probability, 0.0),
        metrics.squad_rows(after.texts, golds, version=2)["f1"],
    ]
    return np.column_stack(columns)


def no_answer_probability(
    signs: np.ndarray, unanswerable: np.ndarray, groups: np.ndarray, fit_on: np.ndarray, folds: int = 5, seed: int = 0
) -> np.ndarray:
    """[questions] the probability that a question has no answer, each from a logistic regression that has seen no row of its group.

    It learns from the rows of `fit_on`; those rows themselves are judged by cross-validation, so that a threshold may be
    chosen on them.

    Args:
        signs [questions, any]: the null odds, and whatever else may tell.
        unanswerable [questions] bool: the gold; only that of `fit_on` is used.
        groups [questions]: rows of the same group (paragraph, article) are never on both sides. None may be in `fit_on` and outside.
        fit_on [questions] bool: the rows to learn from.

    Where `fit_on` is too small to be divided, everybody gets its share of unanswerable questions, and a line says so.
    """
    if set(groups[fit_on]) & set(groups[~fit_on]):
        raise CourseError("a group lies on both sides of fit_on: divide whole paragraphs or articles")
    model, own, gold = _regression(), signs[fit_on], unanswerable[fit_on]
    parts = _parts(gold, groups[fit_on], folds, seed)
    found = np.full(len(signs), gold.mean() if len(gold) else 0.5)
    if not parts:
        print(f"NOTE: {len(gold)} questions are too few to learn from which have no answer: evaluate on more")
        return found
    for learn, judge in parts:
        found[np.flatnonzero(fit_on)[judge]] = model.fit(own[learn], gold[learn]).predict_proba(own[judge])[:, 1]
    if not fit_on.all():
        found[~fit_on] = model.fit(own, gold).predict_proba(signs[~fit_on])[:, 1]
    return found


def learned_weights(signs: np.ndarray, unanswerable: np.ndarray) -> np.ndarray:
    """[signs] what a logistic regression makes of each sign: its weight in log odds of "no answer" a standard deviation.

    0 for all where only one kind of question is there.
    """
    if len(set(unanswerable.tolist())) < 2:
        return np.zeros(signs.shape[1])
    return _regression().fit(signs, unanswerable)[-1].coef_[0]


def _regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression())


def _parts(gold: np.ndarray, groups: np.ndarray, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divisions into rows to learn from and rows to judge, each with both kinds to learn from; empty if there are none."""
    from sklearn.model_selection import StratifiedGroupKFold

    divided = [len(set(groups[gold == kind])) for kind in (True, False)]
    if min(divided) < 2:
        return []
    found = list(StratifiedGroupKFold(min(folds, *divided), shuffle=True, random_state=seed).split(groups, gold, groups))
    return found if all(0 < gold[learn].mean() < 1 and len(judge) for learn, judge in found) else []
