"""SQuAD against the official scripts' definitions, ROUGE, BLEU, chrF and METEOR against their libraries, statistics by hand."""

import collections
import re
import socket
import string
import time

import evaluate
import numpy as np
import pytest

from shared import metrics as text_metrics
from shared.course.runtime import CourseError
from shared.metrics import (
    best_null_threshold,
    bleu,
    chrf,
    meteor_without_synonyms,
    null_precision_recall,
    resample_weights,
    rouge,
    split_sentences,
    squad_rows,
    squad_v1,
    squad_v2,
    stands_in,
    text,
    unsupported,
)

# the official definitions, written down again: evaluate-v1.1.py and evaluate-v2.0.py


def official_normalise(text):
    text = "".join(letter for letter in text.lower() if letter not in set(string.punctuation))
    return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text).split())


def official_f1(prediction, gold, version):
    said, wanted = official_normalise(prediction).split(), official_normalise(gold).split()
    same = sum((collections.Counter(said) & collections.Counter(wanted)).values())
    if version == 2 and (len(wanted) == 0 or len(said) == 0):
        return int(wanted == said)
    if same == 0:
        return 0
    precision, recall = 1.0 * same / len(said), 1.0 * same / len(wanted)
    return (2 * precision * recall) / (precision + recall)


def official_rows(predictions, answers, version):
    exact, f1 = [], []
    for prediction, golds in zip(predictions, answers, strict=True):
        if version == 2:
            golds = [gold for gold in golds if official_normalise(gold)] or [""]
        exact.append(max(int(official_normalise(gold) == official_normalise(prediction)) for gold in golds))
        f1.append(max(official_f1(prediction, gold, version) for gold in golds))
    return {"exact_match": exact, "f1": f1}


def official_best_threshold(predictions, scores, null, has_answer):
    current = sum(1 for has in has_answer if not has)
    best, threshold = current, 0.0
    for row in sorted(range(len(null)), key=lambda k: null[k]):
        if has_answer[row]:
            current += scores[row]
        elif predictions[row]:
            current += -1
        if current > best:
            best, threshold = current, null[row]
    return 100.0 * best / len(scores), threshold


def official_curve(scores, null, has_answer):
    order, true_positives = sorted(range(len(null)), key=lambda k: null[k]), 0.0
    precisions, recalls, average = [1.0], [0.0], 0.0
    for place, row in enumerate(order):
        if has_answer[row]:
            true_positives += scores[row]
        precision, recall = true_positives / (place + 1), true_positives / sum(has_answer)
        if place == len(order) - 1 or null[row] != null[order[place + 1]]:
            average += precision * (recall - recalls[-1])
            precisions.append(precision)
            recalls.append(recall)
    return precisions, recalls, average


PIECES = [
    "the", "The", "a", "an", "An", "theory", "cat", "Cat", "cat.", "dog", "dog's", "1,000", "1000", "$5", "--", "!", "...",
    "café", "cafe\u0301", "CAFÉ", "naïve",
    "İstanbul", "straße", "北京", "the-cat", "“the”", "’s", "👍🏽", "\u00a0", "\t", "  ", "", "x" * 9,
]  # fmt: skip


def random_text(rng, longest=6):
    return " ".join(PIECES[k] for k in rng.integers(len(PIECES), size=rng.integers(longest + 1)))


def questions(count, seed, unanswerable=0.0):
    """(predictions, gold answers): equal, overlapping, empty, made of articles or punctuation alone, with repeated words."""
    rng = np.random.default_rng(seed)
    predictions, answers = [], []
    for _ in range(count):
        golds = [random_text(rng) or "gold" for _ in range(int(rng.integers(1, 4)))]
        said = golds[-1] if rng.random() < 0.3 else random_text(rng)
        if rng.random() < 0.2:
            said = f"{said} {golds[0]} {golds[0]}".upper()
        predictions.append("" if rng.random() < 0.1 else said)
        answers.append([] if rng.random() < unanswerable else [gold if gold.strip() else "." for gold in golds])
    return predictions, answers


def test_the_random_questions_hold_every_kind_of_trouble():
    predictions, answers = questions(2_500, seed=0, unanswerable=0.3)
    normal = [official_normalise(text) for text in predictions]
    assert sum(not text for text in predictions) > 100  # empty
    assert sum(bool(text) and not bare for text, bare in zip(predictions, normal, strict=True)) > 30  # nothing but articles, signs
    assert sum(len(set(bare.split())) < len(bare.split()) for bare in normal) > 200  # repeated words
    assert sum(not all(map(official_normalise, golds)) for golds in answers if golds) > 100
    f1 = np.array(official_rows(predictions, answers, 2)["f1"])
    assert ((f1 > 0) & (f1 < 1)).sum() > 500


@pytest.mark.parametrize(("version", "unanswerable"), [(1, 0.0), (2, 0.0), (2, 0.4)])
def test_squad_agrees_with_the_official_definition(version, unanswerable):
    predictions, answers = questions(2_500, seed=version, unanswerable=unanswerable)
    found, expected = squad_rows(predictions, answers, version), official_rows(predictions, answers, version)
    assert {name: values.tolist() for name, values in found.items()} == expected


def test_the_two_versions_part_where_nothing_is_left_of_an_answer():
    case = (["the", "", "the", "cat"], [["A"], ["."], ["cat", "an"], ["!", "cat"]])
    first, second = squad_rows(*case, version=1), squad_rows(*case, version=2)
    assert first["exact_match"].tolist() == [1, 1, 1, 1] and first["f1"].tolist() == [0, 0, 0, 1]
    assert second["exact_match"].tolist() == second["f1"].tolist() == [1, 1, 0, 1]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Cat!", "cat"), ("An apple, a day", "apple day"), ("theory of the U.S.", "theory of us"), ("", ""), (" a ", ""),
        ("the-cat", "thecat"), ("“the” cat", "“ ” cat"), ("CAFÉ", "café"),
    ],
)  # fmt: skip
def test_normalize_answer_of_known_texts(text, expected):
    assert text_metrics.normalize_answer(text) == expected == official_normalise(text)


def test_squad_v1_is_the_mean_with_an_interval_and_counts_empty_predictions():
    predictions, answers = questions(400, seed=3)
    scores = squad_v1(predictions, answers)
    expected = official_rows(predictions, answers, 1)
    for name, values in expected.items():
        found = scores.metrics[name]
        assert found["value"] == pytest.approx(np.mean(values))
        assert found["low"] < found["value"] < found["high"]
        by_rows = [np.mean(np.repeat(values, line.astype(int))) for line in resample_weights(400, 1_000, 0)]
        assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(by_rows, [0.025, 0.975])))
    assert scores.counts == {"rows": 400, "empty_predictions": sum(not text.strip() for text in predictions)}
    assert scores.counts["empty_predictions"] > 20 and scores.breakdown == {}


def test_squad_v2_scores_both_groups_and_applies_the_threshold():
    predictions, answers = questions(600, seed=4, unanswerable=0.4)
    null = np.random.default_rng(0).random(600)
    has = np.array([bool(golds) for golds in answers])
    for threshold in (0.0, 0.35, 1.0):
        scores = squad_v2(predictions, answers, null, threshold)
        for name, values in official_rows(predictions, answers, 2).items():
            values = np.where(null > threshold, ~has, values)
            assert scores.rows[name].tolist() == values.tolist()
            assert scores.metrics[name]["value"] == pytest.approx(values.mean())
            for group, inside in (("has_answer", has), ("no_answer", ~has)):
                found = scores.breakdown[group][name]
                assert found["value"] == pytest.approx(values[inside].mean())
                assert found["low"] <= found["value"] <= found["high"]
        assert (scores.counts["has_answer"], scores.counts["no_answer"]) == (has.sum(), (~has).sum())
    assert squad_v2(predictions, answers, null, 1.0).metrics == squad_v2(predictions, answers).metrics
    refusing = squad_v2(predictions, answers, null, -1.0)
    assert refusing.breakdown["no_answer"]["f1"]["value"] == 1 and refusing.breakdown["has_answer"]["f1"]["value"] == 0


def test_the_intervals_of_a_group_come_from_drawing_all_questions():
    predictions, answers = questions(80, seed=5, unanswerable=0.5)
    scores, weights = squad_v2(predictions, answers, seed=7), resample_weights(80, 1_000, 7)
    has = np.array([bool(golds) for golds in answers])
    drawn = [(line[has] @ scores.rows["f1"][has]) / line[has].sum() for line in weights]
    found = scores.breakdown["has_answer"]["f1"]
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_a_group_that_most_resamples_may_miss_keeps_a_finite_interval():
    found = squad_v2(["cat", "", ""], [["cat"], [], []]).breakdown["has_answer"]["f1"]
    assert (resample_weights(3)[:, 0] == 0).any()  # the case is there
    assert found["value"] == 1 and 0 <= found["low"] <= found["high"] <= 1


def test_squad_v2_without_unanswerable_questions_has_no_such_group():
    assert list(squad_v2(["cat"], [["cat"]]).breakdown) == ["has_answer"]
    for none in ([], [""], [" "], None):
        assert list(squad_v2([""], [none]).breakdown) == ["no_answer"]


@pytest.mark.parametrize("decimals", [17, 1])  # with one decimal many null scores are equal
def test_best_null_threshold_agrees_with_the_official_loop(decimals):
    for seed in range(40):
        predictions, answers = questions(1 + 5 * seed, seed, unanswerable=0.5)
        null = (0.001 + np.random.default_rng(seed).random(len(answers))).round(decimals) + 1e-6
        has, rows = [bool(golds) for golds in answers], official_rows(predictions, answers, 2)
        found = best_null_threshold(predictions, answers, null)
        for name, scores in rows.items():
            value, threshold = official_best_threshold(predictions, scores, null, has)
            assert (100.0 * found[name]["value"], found[name]["threshold"]) == (pytest.approx(value, rel=1e-12), threshold)


@pytest.mark.parametrize("shift", [0.0, -0.5, -2.0])
def test_the_best_threshold_gives_its_score_when_applied_even_among_negative_scores(shift):
    for seed in range(40):
        predictions, answers = questions(30, seed, unanswerable=[0.2, 0.5, 0.9, 1.0][seed % 4])
        predictions = [text if text.strip() else "x" for text in predictions]
        null = np.random.default_rng(seed).random(30) + shift
        for name, best in best_null_threshold(predictions, answers, null).items():
            scores = squad_v2(predictions, answers, null, best["threshold"], resamples=10)
            exact_empty = [not official_normalise(text) for text in predictions]  # "the" is right by definition, wrong by the loop
            if not any(empty and not golds for empty, golds in zip(exact_empty, answers, strict=True)):
                assert scores.metrics[name]["value"] == pytest.approx(best["value"])


def test_precision_recall_agrees_with_the_official_loop():
    for seed in range(40):
        predictions, answers = questions(2 + 5 * seed, seed, unanswerable=0.4)
        answers[0] = ["cat"]
        null = np.random.default_rng(seed).random(len(answers)).round(1 + seed % 5)
        has, scores = [bool(golds) for golds in answers], official_rows(predictions, answers, 2)["f1"]
        precisions, recalls, average = official_curve(scores, null, has)
        found = null_precision_recall(np.array(scores), has, null)
        assert found["precision"] == pytest.approx(precisions) and found["recall"] == pytest.approx(recalls)
        assert found["average_precision"] == pytest.approx(average)
        for threshold, recall in list(zip(found["threshold"], recalls, strict=True))[:5]:
            answered = np.array(has) & (null <= threshold)
            assert recall == pytest.approx(np.array(scores)[answered].sum() / sum(has))


def test_squad_says_what_is_wrong_with_its_input():
    with pytest.raises(CourseError, match=r"2 predictions but 1 references: give one of each a row"):
        squad_v1(["a", "b"], [["a"]])
    with pytest.raises(CourseError, match=r"nothing to score"):
        squad_v1([], [])
    for nothing in ([], [""], None):
        with pytest.raises(CourseError, match=r"row 1 has no reference to compare with: drop the row"):
            squad_v1(["a", "b"], [["a"], nothing])
    with pytest.raises(CourseError, match=r"prediction of row 0 is of type list: decode it"):
        squad_v1([[1, 2]], [["a"]])
    with pytest.raises(CourseError, match=r"3 null scores for 2 questions: give one a question"):
        squad_v2(["a", "b"], [["a"], []], [0.1, 0.2, 0.3], 0.5)
    with pytest.raises(CourseError, match=r"null score of row 1 is not a number"):
        best_null_threshold(["a", "b"], [["a"], []], [0.1, float("nan")])
    with pytest.raises(CourseError, match=r"without a threshold: choose one"):
        squad_v2(["a"], [["a"]], [0.1])
    with pytest.raises(CourseError, match=r"recall is undefined"):
        null_precision_recall(np.zeros(2), [False, False], [0.1, 0.2])


def test_a_thousand_resamples_of_five_thousand_questions_cost_well_under_a_second():
    predictions, answers = questions(5_000, seed=6, unanswerable=0.3)
    started = time.process_time()
    squad_rows(predictions, answers, version=2)
    once = time.process_time() - started
    started = time.process_time()
    squad_v2(predictions, answers)
    assert time.process_time() - started - once < 1.0


# ROUGE

WORDS = "the cat cats sat sitting on mat mats Dr. Smith said running run fairly 1,000 U.S. of it is and in to a big dog barked".split()  # noqa: SIM905


def text_pairs(count, seed, longest=40):
    """(predictions, references) that share words, some of several sentences, some predictions empty."""
    rng = np.random.default_rng(seed)

    def text(least):
        words = [WORDS[k] for k in rng.integers(len(WORDS), size=rng.integers(least, longest))]
        return " ".join(word + (". " if rng.random() < 0.15 else "") for word in words).strip()

    return ["" if rng.random() < 0.05 else text(0) for _ in range(count)], [text(1) for _ in range(count)]


@pytest.mark.parametrize("use_stemmer", [True, False])
def test_rouge_agrees_with_the_library_and_its_aggregate(use_stemmer):
    from rouge_score import rouge_scorer, scoring

    predictions, references = text_pairs(500, seed=0, longest=25)
    found = rouge(predictions, references, use_stemmer)
    scorer = rouge_scorer.RougeScorer(list(text_metrics.ROUGE_TYPES), use_stemmer=use_stemmer)
    aggregator = scoring.BootstrapAggregator(n_samples=200)
    expected = {name: [] for name in text_metrics.ROUGE_TYPES}
    for said, wanted in zip(predictions, references, strict=True):
        scores = scorer.score(*("\n".join(split_sentences(text)) for text in (wanted, said)))
        aggregator.add_scores(scores)
        for name, score in scores.items():
            expected[name].append(100 * score.fmeasure)
    np.random.seed(0)
    for name, aggregate in aggregator.aggregate().items():
        assert found.rows[name].tolist() == expected[name]
        assert found.metrics[name]["value"] == pytest.approx(np.mean(expected[name]))
        assert found.metrics[name]["value"] == pytest.approx(100 * aggregate.mid.fmeasure, abs=0.2)
        for end in ("low", "high"):
            assert found.metrics[name][end] == pytest.approx(100 * getattr(aggregate, end).fmeasure, abs=0.6)
    assert found.counts["empty_predictions"] == sum(not text for text in predictions) > 10
    assert ("Porter stems" in found.signature) is use_stemmer


def test_the_stemmer_and_the_sentences_change_what_they_should():
    said, wanted = ["Cats run fast. Dogs bark loudly."], ["Dogs barked loudly. A cat was running fast."]
    with_stems, without = rouge(said, wanted), rouge(said, wanted, use_stemmer=False)
    assert with_stems.metrics["rouge1"]["value"] > without.metrics["rouge1"]["value"]
    assert with_stems.metrics["rougeLsum"]["value"] > with_stems.metrics["rougeL"]["value"]
    one_line = rouge(said, wanted, split=False).metrics
    assert one_line["rougeLsum"] == one_line["rougeL"] == with_stems.metrics["rougeL"]
    by_lines = rouge([said[0].replace(". ", ".\n")], [wanted[0].replace(". ", ".\n")], split=False).metrics
    assert by_lines == with_stems.metrics


def test_the_best_of_several_references_counts():
    several = rouge(["the cat sat", "a dog"], [["nothing here", "the cat sat"], ["a dog barked"]])
    one = rouge(["the cat sat", "a dog"], ["the cat sat", "a dog barked"])
    assert several.metrics == one.metrics and several.rows["rouge1"][0] == 100


def test_empty_predictions_score_zero_and_are_counted():
    said, wanted = ["", "  ", "the cat sat"], ["the cat sat"] * 3
    for scorer, name in ((rouge, "rouge1"), (rouge, "rougeLsum"), (meteor_without_synonyms, "meteor"), (chrf, "chrf")):
        found = scorer(said, wanted)
        assert found.rows[name][:2].tolist() == [0, 0] and found.rows[name][2] > 90
        assert found.counts == {"rows": 3, "empty_predictions": 2}
    nothing = {name: 100 * number for name, number in text_metrics.wilson(0, 2).items()}
    assert bleu(["", ""], ["the cat", "sat"]).metrics["bleu"] == pytest.approx(nothing)
    assert bleu(said, wanted).counts["empty_predictions"] == 2


@pytest.mark.parametrize("scorer", [rouge, bleu, chrf, meteor_without_synonyms])
def test_the_scorers_say_what_is_wrong_with_their_input(scorer):
    with pytest.raises(CourseError, match=r"1 predictions but 2 references: give one of each a row, in the same order"):
        scorer(["a"], ["a", "b"])
    with pytest.raises(CourseError, match=r"row 1 has no reference to compare with: drop the row, or give it a text"):
        scorer(["a", "b"], ["a", " "])
    with pytest.raises(CourseError, match=r"row 0 has no reference"):
        scorer(["a"], [[]])
    with pytest.raises(CourseError, match=r"a reference of row 0 is of type int: decode it to a text first"):
        scorer(["a"], [[3]])
    with pytest.raises(CourseError, match=r"nothing to score"):
        scorer([], [])


def test_rouge_counts_references_in_a_script_that_it_does_not_read(capsys):
    found = text_metrics.rouge(["今天下雨。", "rain today", "วันนี้ฝนตก"], ["今天下雨。", "rain today", "วันนี้ฝนตก 3"], resamples=10)
    assert found.rows["rouge1"].tolist()[:2] == [0.0, 100.0] and found.counts["unread_references"] == 1
    assert capsys.readouterr().out == "NOTE: ROUGE reads the letters a to z and digits alone; 1 of 3 references have none and score 0\n"
    assert text_metrics.rouge(["a"], ["a"], resamples=10).counts == {"rows": 1, "empty_predictions": 0} and capsys.readouterr().out == ""


def test_rouge_with_a_thousand_resamples_takes_little_more_than_scoring_once():
    predictions, references = text_pairs(300, seed=1)

    def seconds(resamples):
        started = time.process_time()
        rouge(predictions, references, resamples=resamples)
        return time.process_time() - started

    seconds(1)
    assert min(seconds(1_000) for _ in range(2)) < 1.3 * min(seconds(1) for _ in range(2)) + 0.05


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ("Mr. Smith met Dr. Jones. They left.", ["Mr. Smith met Dr. Jones.", "They left."]),
        ("The U.S. Senate met J. Doe. It rained.", ["The U.S. Senate met J. Doe.", "It rained."]),
        ('He said "no." "Why?" she asked. 3 left.', ['He said "no."', '"Why?" she asked.', "3 left."]),
        ("It cost 3.5 million.  Up by 2 p.m. today.", ["It cost 3.5 million.", "Up by 2 p.m. today."]),
        ("a line\nanother one.\r\n\n  last ", ["a line", "another one.", "last"]),
        ("e.g.  this one etc. and so on…  Yes.", ["e.g.  this one etc. and so on…", "Yes."]),
        ("", []), (" \n ", []),
    ],
)  # fmt: skip
def test_split_sentences_of_known_texts(text, sentences):
    assert split_sentences(text) == sentences


def test_mean_difference_is_paired():
    rng = np.random.default_rng(0)
    first = rng.random(300)
    second = first - 0.02 + rng.normal(0, 0.01, 300)  # a difference far below the spread of the rows
    found = text_metrics.mean_difference(first, second)
    assert found["low"] > 0.015 and found["high"] < 0.025 and found["value"] == pytest.approx((first - second).mean())


def test_a_difference_that_is_the_same_in_all_rows_lies_inside_its_interval_on_either_scale():
    for scale in (1.0, 100.0):
        found = text_metrics.mean_difference(np.zeros(8), np.full(8, 0.22 * scale))
        assert -scale < found["low"] < found["value"] < found["high"] < scale and found["value"] == pytest.approx(-0.22 * scale)


# METEOR


def test_meteor_of_known_pairs():
    def penalised(precision, recall, chunks, matches):
        return 100 * precision * recall / (0.9 * precision + 0.1 * recall) * (1 - 0.5 * (chunks / matches) ** 3)

    cases = [
        ("the cat sat on the mat", "the cat sat on the mat", penalised(1, 1, 1, 6)),
        ("cats sitting", "cat sits", penalised(1, 1, 1, 2)),  # stems only
        ("auto", "car", 0.0),  # what the synonyms would have found
        ("cat", "cat", 50.0),
        ("a b c d", "c d a b", penalised(1, 1, 2, 4)),
        ("the cat", "the big cat sleeps", penalised(2 / 2, 2 / 4, 2, 2)),
    ]
    for said, wanted, expected in cases:
        assert meteor_without_synonyms([said], [wanted]).metrics["meteor"]["value"] == pytest.approx(expected), said


def test_meteor_is_nltks_without_its_last_stage():
    from types import SimpleNamespace

    from nltk.translate import meteor_score

    rng, plain = np.random.default_rng(2), [word for word in WORDS if word.isalpha()]
    pairs = [[" ".join(plain[k] for k in rng.integers(len(plain), size=size)) for size in rng.integers(1, 30, 2)] for _ in range(150)]
    found = meteor_without_synonyms(*zip(*pairs, strict=True)).rows["meteor"]
    for score, pair in zip(found, pairs, strict=True):
        said, wanted = (text.split() for text in pair)
        exact, left, right = meteor_score.exact_match(said, wanted)
        stems, _, _ = meteor_score._enum_stem_match(left, right)
        matches = sorted(exact + stems)
        expected = 0.0
        if matches:
            precision, recall = len(matches) / len(said), len(matches) / len(wanted)
            penalty = 0.5 * (meteor_score._count_chunks(matches) / len(matches)) ** 3
            expected = 100 * (1 - penalty) * precision * recall / (0.9 * precision + 0.1 * recall)
        assert score == pytest.approx(expected)

    lemma = SimpleNamespace(lemmas=lambda: [SimpleNamespace(name=lambda: "auto")])
    full = meteor_score.single_meteor_score(["auto"], ["car"], wordnet=SimpleNamespace(synsets=lambda word: [lemma]))
    assert full == 0.5 and meteor_without_synonyms(["car"], ["auto"]).metrics["meteor"]["value"] == 0


# BLEU and chrF


def test_bleu_and_chrf_are_sacrebleus():
    import sacrebleu

    predictions, references = text_pairs(500, seed=0)
    found = bleu(predictions, references), chrf(predictions, references), chrf(predictions, references, word_order=2)
    expected = (
        sacrebleu.corpus_bleu(predictions, [references]),
        sacrebleu.corpus_chrf(predictions, [references]),
        sacrebleu.corpus_chrf(predictions, [references], word_order=2),
    )
    for own, library in zip(found, expected, strict=True):
        (metric,) = own.metrics.values()
        assert metric["value"] == pytest.approx(library.score, rel=1e-12)
        assert metric["low"] < metric["value"] < metric["high"]
    assert found[0].signature.startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert "nc:6|nw:0" in found[1].signature and "nc:6|nw:2" in found[2].signature
    lower = bleu(["The Cat sat there now"], ["the cat sat there now"], lowercase=True)
    assert lower.metrics["bleu"]["value"] == pytest.approx(100) and "case:lc" in lower.signature


def test_the_formula_for_many_sums_is_sacrebleus_one_by_one():
    import sacrebleu

    rng = np.random.default_rng(0)
    for longest, metric, formula in (
        (8, sacrebleu.BLEU(), text._bleu),  # short texts: n-grams without a match, and none at all
        (40, sacrebleu.BLEU(), text._bleu),
        (8, sacrebleu.CHRF(), text._chrf),
        (40, sacrebleu.CHRF(word_order=2), text._chrf),
    ):
        statistics = text.corpus_statistics(metric, *text_pairs(60, seed=longest, longest=longest))
        sums = np.stack([statistics[rng.integers(60, size=size)].sum(0) for size in [1, 1, 2, 3, 5, 60] * 40])
        expected = [metric._compute_score_from_stats(row.tolist()).score for row in sums]
        assert formula(sums) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert np.array(expected).min() == 0 if longest == 8 and formula is text._bleu else True


def test_the_bleu_interval_is_that_of_resampled_corpora():
    import sacrebleu

    predictions, references = text_pairs(40, seed=5)
    found = bleu(predictions, references, resamples=60, seed=3).metrics["bleu"]
    drawn = []
    for line in resample_weights(40, 60, 3):
        rows = np.repeat(np.arange(40), line.astype(int))
        drawn.append(sacrebleu.corpus_bleu([predictions[k] for k in rows], [[references[k] for k in rows]]).score)
    assert (found["low"], found["high"]) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_sentence_chrf_is_sacrebleus():
    import sacrebleu

    predictions, references = text_pairs(50, seed=6)
    expected = [sacrebleu.sentence_chrf(said, [wanted]).score for said, wanted in zip(predictions, references, strict=True)]
    assert chrf(predictions, references).rows["chrf"] == pytest.approx(expected)


def test_rows_may_have_different_numbers_of_references():
    import sacrebleu

    said, wanted = ["the cat sat on the mat", "a dog barked loudly today"], [["a cat sat on the mat", "the cat"], ["a dog barked today"]]
    streams = [[wanted[0][0], wanted[1][0]], [wanted[0][1], None]]
    assert bleu(said, wanted).metrics["bleu"]["value"] == pytest.approx(sacrebleu.corpus_bleu(said, streams).score)
    assert chrf(said, wanted).metrics["chrf"]["value"] == pytest.approx(sacrebleu.corpus_chrf(said, streams).score)


# statistics


def test_statistics_of_known_texts():
    said = ["The cat sat. The cat sat.", "A dog", "", "one two three four five six"]
    source = ["the cat sat on the mat", "a dog barked", "anything", "one two three and four"]
    assert text_metrics.novel_ngrams(said, source, 1) == pytest.approx([0, 0, np.nan, 2 / 6], nan_ok=True)
    assert text_metrics.novel_ngrams(said, source) == pytest.approx([1 / 3, 0, np.nan, 3 / 5], nan_ok=True)  # "sat the" is new
    assert text_metrics.repetition(said) == pytest.approx([1 / 4, np.nan, np.nan, 0], nan_ok=True)
    assert text_metrics.repetition(["ha ha ha ha ha"]) == pytest.approx([2 / 3])


def test_unsupported_names_and_numbers():
    source = "Police in Anchorage said 1,000 people left on Sunday. NASA's Arne Sundquist, 61, was cut."
    assert text_metrics.checkable("Sundquist, 61, flew to Bethel with NASA. I saw B. 3.5 of it, on the 19th.") == [
        "61", "Bethel", "NASA", "3.5", "19",
    ]  # fmt: skip
    assert unsupported("He met Arne SUNDQUIST and NASA in Anchorage with 1000 others, 61.", source) == []
    assert unsupported("It was in Bethel, where 62 met Arne.", source) == ["Bethel", "62"]
    rate = text_metrics.unsupported_rate(["It was in Bethel, where 62 met Arne.", "nothing to check", "61 left"], [source] * 3)
    assert rate == pytest.approx([2 / 3, np.nan, 0], nan_ok=True)
    with pytest.raises(CourseError, match=r"2 predictions but 1 references"):
        text_metrics.unsupported_rate(["a", "b"], [source])


# as evaluate.Metric objects


def squad_input(count, seed, unanswerable):
    predictions, answers = questions(count, seed, unanswerable)
    null = np.random.default_rng(seed).random(count).astype(np.float32).tolist()
    said = [
        {"id": str(k), "prediction_text": text} | ({"no_answer_probability": null[k]} if unanswerable else {})
        for k, text in enumerate(predictions)
    ]
    gold = [{"id": str(k), "answers": {"text": texts, "answer_start": [0] * len(texts)}} for k, texts in enumerate(answers)]
    return said, gold, null


def metric_inputs():
    """(name at the Hub, own metric, predictions, references): what both must give the same for."""
    predictions, references = text_pairs(60, seed=7)
    lines = [["\n".join(split_sentences(text)) for text in texts] for texts in (predictions, references)]
    return [
        ("squad", text_metrics.Squad, *squad_input(300, 1, 0.0)[:2]),
        ("squad_v2", text_metrics.SquadV2, *squad_input(300, 2, 0.4)[:2]),
        ("rouge", text_metrics.Rouge, *lines),
        ("sacrebleu", text_metrics.Sacrebleu, predictions, [[text] for text in references]),
    ]


def test_the_metric_objects_give_the_scorers_figures_without_a_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("no metric may ask the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    found = {}
    for name, metric, predictions, references in metric_inputs():
        metric = metric(cache_dir=str(tmp_path))
        assert isinstance(metric, evaluate.Metric)
        found[name] = metric.compute(predictions=predictions, references=references)
    predictions, answers = questions(300, 1)
    for name, values in official_rows(predictions, answers, 1).items():
        assert found["squad"][name] == pytest.approx(100 * np.mean(values))
    said, wanted = text_pairs(60, seed=7)
    for name, figure in rouge(said, wanted, use_stemmer=False).metrics.items():
        assert found["rouge"][name] == pytest.approx(figure["value"] / 100)
    own = bleu(said, wanted)
    assert found["sacrebleu"]["score"] == pytest.approx(own.metrics["bleu"]["value"])
    assert found["sacrebleu"]["signature"] == own.signature and len(found["sacrebleu"]["counts"]) == 4
    for metric, value in (
        (text_metrics.Chrf, chrf(said, wanted).metrics["chrf"]["value"]),
        (text_metrics.MeteorWithoutSynonyms, meteor_without_synonyms(said, wanted).metrics["meteor"]["value"] / 100),
    ):
        result = metric(cache_dir=str(tmp_path)).compute(predictions=said, references=wanted)
        assert next(iter(result.values())) == pytest.approx(value)


def test_the_squad_v2_object_agrees_with_the_official_definition(tmp_path):
    predictions, answers = questions(300, 2, unanswerable=0.4)
    said, gold, null = squad_input(300, 2, 0.4)
    found = text_metrics.SquadV2(cache_dir=str(tmp_path)).compute(predictions=said[::-1], references=gold, no_answer_threshold=0.5)
    has, refused = np.array([bool(golds) for golds in answers]), np.array(null) > 0.5
    for key, name in (("exact_match", "exact"), ("f1", "f1")):
        raw = official_rows(predictions, answers, 2)[key]
        scores = np.where(refused, ~has, raw)
        assert found[name] == pytest.approx(100 * scores.mean())
        assert found[f"HasAns_{name}"] == pytest.approx(100 * scores[has].mean())
        assert found[f"NoAns_{name}"] == pytest.approx(100 * scores[~has].mean())
        best = official_best_threshold(predictions, raw, null, has)
        assert (found[f"best_{name}"], found[f"best_{name}_thresh"]) == (pytest.approx(best[0]), pytest.approx(best[1]))
    assert (found["total"], found["HasAns_total"], found["NoAns_total"]) == (300, has.sum(), (~has).sum())


def test_a_question_without_a_prediction_is_named(tmp_path):
    gold = [{"id": "q7", "answers": {"text": ["a"], "answer_start": [0]}}]
    with pytest.raises(CourseError, match=r"question 'q7' has no prediction: give one a question"):
        text_metrics.Squad(cache_dir=str(tmp_path)).compute(predictions=[{"id": "q8", "prediction_text": "a"}], references=gold)


@pytest.mark.network
def test_the_metric_objects_agree_with_those_of_the_hub(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
    for name, metric, predictions, references in metric_inputs():
        rows = {"predictions": predictions, "references": references}
        options = {"use_aggregator": False} if name == "rouge" else {}  # the Hub's aggregate is a random median
        expected = evaluate.load(name, cache_dir=str(tmp_path)).compute(**rows, **options)
        found = metric(cache_dir=str(tmp_path)).compute(**rows, **options)
        for key, value in expected.items():
            assert found[key] == pytest.approx(value), (name, key)


def test_an_answer_stands_in_a_text_word_for_word_or_not_at_all():
    text = "The mill stopped on 3 May, 1911."
    assert stands_in("3 May 1911", text) and stands_in("the mill", text) and stands_in("May", text)
    assert not stands_in("Ma", text) and not stands_in("the 3rd of May", text) and not stands_in("1911 May", text)
    assert stands_in("", text) and stands_in("The", "no article here")
