"""Multi-label scores, thresholds and their intervals, against scikit-learn and against loops that take the long way."""

import time
import warnings
from fractions import Fraction

import numpy as np
import pytest
import sklearn.metrics

from shared import metrics
from shared.course.runtime import CourseError
from shared.metrics import (
    apply_thresholds,
    best_thresholds,
    label_counts,
    label_scores,
    multilabel_f1,
    multilabel_scores,
    resample_weights,
    sigmoid,
)

PARTS = ("precision", "recall", "f1")
AVERAGES = ("micro", "macro", "weighted")


def random_case(rng, rows=None, labels=None):
    """(gold, predicted) booleans; labels may lack gold rows, predictions or both, and all of one side may be empty."""
    rows, labels = rows or int(rng.integers(1, 50)), labels or int(rng.integers(2, 9))
    gold = rng.random((rows, labels)) < rng.uniform(0.05, 0.6, labels)
    predicted = np.where(rng.random((rows, labels)) < 0.8, gold, rng.random((rows, labels)) < 0.3)
    for side in (gold, predicted):
        side[:, rng.random(labels) < 0.2] = False
        if rng.random() < 0.1:
            side[:] = False
    return gold, predicted


def cases(count, seed, **options):
    rng = np.random.default_rng(seed)
    return [random_case(rng, **options) for _ in range(count)]


def typical(rows=300, labels=6, right=0.9, seed=0):
    """Gold labels and predictions that are right in most decisions; every label occurs on both sides."""
    rng = np.random.default_rng(seed)
    gold = rng.random((rows, labels)) < np.linspace(0.1, 0.4, labels)
    return gold, np.where(rng.random((rows, labels)) < right, gold, rng.random((rows, labels)) < 0.3)


def f1_of(gold, predicted, average):
    return sklearn.metrics.f1_score(gold, predicted, average=average, zero_division=0)


# sigmoid


def test_sigmoid_agrees_with_its_definition():
    logits = np.random.default_rng(0).normal(0, 5, (40, 7))
    np.testing.assert_allclose(sigmoid(logits), 1 / (1 + np.exp(-logits)), rtol=1e-14)
    np.testing.assert_allclose(sigmoid(-logits), 1 - sigmoid(logits), atol=1e-15)
    assert sigmoid(np.zeros(3)).tolist() == [0.5] * 3


def test_sigmoid_of_huge_logits_neither_warns_nor_overflows():
    with warnings.catch_warnings(), np.errstate(over="raise", invalid="raise", divide="raise"):
        warnings.simplefilter("error")
        found = sigmoid(np.array([-1000.0, 1000.0, -np.inf, np.inf, -40.0]))
    assert found[:4].tolist() == [0, 1, 0, 1]
    assert found[4] == pytest.approx(np.exp(-40), rel=1e-12)  # where 1 - sigmoid(40) has nothing left


def test_sigmoid_is_in_double_precision_whatever_comes_in():
    half = sigmoid(np.array([[60_000, 1]], np.float16))
    assert (half.dtype, half.shape) == (np.float64, (1, 2))
    assert half[0, 1] == pytest.approx(1 / (1 + np.exp(-1)), rel=1e-14)


# counts and scores


def test_the_random_cases_leave_labels_out_of_gold_of_predictions_and_of_both():
    absent, empty = set(), set()
    for gold, predicted in cases(45, seed=1):
        absent |= set(zip(gold.any(0).tolist(), predicted.any(0).tolist(), strict=True))
        empty |= {(bool(gold.any()), bool(predicted.any()))}
    assert absent == {(True, True), (True, False), (False, True), (False, False)}
    assert {(True, False), (False, True)} <= empty


def test_label_scores_agree_with_scikit_learn():
    for gold, predicted in cases(45, seed=1):
        expected = sklearn.metrics.precision_recall_fscore_support(gold, predicted, zero_division=0)
        found = label_scores(label_counts(gold, predicted))
        for key, values in zip((*PARTS, "support"), expected, strict=True):
            np.testing.assert_allclose(found[key], values, err_msg=key)


def test_averaged_f1_agrees_with_scikit_learn():
    for gold, predicted in cases(45, seed=1):
        found = multilabel_f1(label_counts(gold, predicted))
        assert list(found) == ["micro_f1", "macro_f1", "weighted_f1"]
        for average in AVERAGES:
            assert found[f"{average}_f1"] == pytest.approx(f1_of(gold, predicted, average)), average


def test_scores_of_known_counts():
    gold = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]])
    predicted = np.array([[1, 0, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]])
    counts = label_counts(gold, predicted)
    assert {key: values.tolist() for key, values in counts.items()} == {
        "hits": [2, 1, 0, 0], "predicted": [3, 1, 1, 0], "support": [2, 2, 0, 0],
    }
    scores = label_scores(counts)
    assert scores["precision"].tolist() == pytest.approx([2 / 3, 1, 0, 0])
    assert scores["recall"].tolist() == pytest.approx([1, 0.5, 0, 0])
    assert scores["f1"].tolist() == pytest.approx([0.8, 2 / 3, 0, 0])
    averages = multilabel_f1(counts)
    assert averages["micro_f1"] == pytest.approx(6 / 9)
    assert averages["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 4)
    assert averages["weighted_f1"] == pytest.approx((0.8 + 2 / 3) / 2)


def test_a_single_label_is_the_f1_of_a_yes_or_no_question():
    gold, predicted = (side[:, :1] for side in typical(seed=3))
    expected = sklearn.metrics.f1_score(gold[:, 0], predicted[:, 0])
    found = multilabel_f1(label_counts(gold, predicted))
    assert all(score == pytest.approx(expected) for score in found.values())


@pytest.mark.parametrize("kind", [np.int8, np.int64, np.float32])
def test_zeros_and_ones_count_like_booleans(kind):
    gold, predicted = typical(50)
    expected = label_counts(gold, predicted)
    found = label_counts(gold.astype(kind), predicted.astype(kind))
    assert all(found[key].tolist() == expected[key].tolist() for key in expected)


def test_counts_refuse_shapes_that_do_not_pair():
    with pytest.raises(ValueError, match=r"gold labels have shape \(3, 2\), predictions \(3, 4\): they must be the same"):
        label_counts(np.zeros((3, 2)), np.zeros((3, 4)))


def test_weights_count_rows_as_often_as_they_say():
    rng = np.random.default_rng(0)
    gold, predicted = random_case(rng, rows=12, labels=5)
    weights = rng.integers(0, 4, (2, 3, 12))
    found = label_counts(gold, predicted, weights)
    for at in np.ndindex(2, 3):
        repeated = np.repeat(np.arange(12), weights[at])
        expected = label_counts(gold[repeated], predicted[repeated])
        for key in expected:
            assert found[key].shape == (2, 3, 5)
            assert found[key][at].tolist() == expected[key].tolist()


def test_a_stack_of_counts_gives_what_they_give_one_by_one():
    gold, predicted = typical(30)
    weights = resample_weights(30, 6).reshape(2, 3, 30)
    together = multilabel_f1(label_counts(gold, predicted, weights))
    for name, scores in together.items():
        assert scores.shape == (2, 3)
        alone = [[multilabel_f1(label_counts(gold, predicted, row))[name] for row in plane] for plane in weights]
        np.testing.assert_allclose(scores, alone, rtol=1e-12)


@pytest.mark.parametrize(
    ("f1", "expected"),
    [(1.0, "excellent"), (0.7, "excellent"), (0.699, "good"), (0.5, "good"), (0.499, "moderate"), (0.3, "moderate"),
     (0.299, "poor"), (1e-9, "poor"), (0.0, "zero"), (np.float64(0), "zero")],
)
def test_tier(f1, expected):
    assert metrics.tier(f1) == expected


# intervals


def drawn_rows(rows, resamples, seed):
    """The rows of each resample, drawn as `resample_weights` draws them."""
    return np.random.default_rng(seed).integers(rows, size=(resamples, rows))


def test_resample_weights_count_the_drawn_rows():
    weights = resample_weights(37, 50, seed=4)
    assert (weights.shape, weights.dtype) == ((50, 37), np.float32)
    for line, drawn in zip(weights, drawn_rows(37, 50, 4), strict=True):
        assert line.tolist() == [np.sum(drawn == row) for row in range(37)]
    assert set(weights.sum(1).tolist()) == {37}
    np.testing.assert_array_equal(weights, resample_weights(37, 50, seed=4))
    assert not np.array_equal(weights, resample_weights(37, 50, seed=5))
    assert resample_weights(3).shape == (metrics.RESAMPLES, 3)


@pytest.mark.parametrize("seed", [0, 1])
def test_intervals_agree_with_resampling_the_rows_one_by_one(seed):
    gold, predicted = random_case(np.random.default_rng(seed), rows=40, labels=5)
    samples, per_label = [], []
    for rows in drawn_rows(40, 25, seed):
        g, p = gold[rows], predicted[rows]
        samples.append([f1_of(g, p, average) for average in AVERAGES])
        per_label.append(sklearn.metrics.precision_recall_fscore_support(g, p, zero_division=0)[2])
    scores, table = multilabel_scores(gold, predicted, resamples=25, seed=seed)
    assert list(scores) == ["micro_f1", "macro_f1", "weighted_f1", "accuracy"]
    assert scores["accuracy"] == metrics.wilson(sum((a == b).all() for a, b in zip(gold, predicted, strict=True)), 40)
    for average, drawn in zip(AVERAGES, np.transpose(samples), strict=True):
        low, high = np.quantile(drawn, [0.025, 0.975])
        expected = {"value": f1_of(gold, predicted, average), "low": low, "high": high}
        assert scores[f"{average}_f1"] == pytest.approx(expected, abs=1e-6)
    expected = sklearn.metrics.precision_recall_fscore_support(gold, predicted, zero_division=0)
    assert len(table) == 5
    for i, row in enumerate(table):
        assert list(row) == [*PARTS, "support"]
        assert (row["support"], type(row["support"])) == (gold[:, i].sum(), int)
        either, both = gold[:, i] | predicted[:, i], gold[:, i] & predicted[:, i]
        f1 = metrics.interval(expected[2][i], np.array(per_label)[:, i], either.sum())
        assert row["f1"] == pytest.approx(f1)
        for k, rows in enumerate((predicted[:, i].sum(), gold[:, i].sum())):
            share = metrics.wilson(both.sum(), rows) if rows else {"value": 0.0, "low": 0.0, "high": 1.0}
            assert row[PARTS[k]] == pytest.approx(share | {"value": expected[k][i]})


def test_scores_of_typical_data_lie_inside_their_intervals():
    for seed in range(5):
        scores, table = multilabel_scores(*typical(seed=seed), seed=seed)
        for score in [*scores.values(), *(row[key] for row in table for key in PARTS)]:
            assert score["low"] < score["value"] < score["high"]
            assert all(type(number) is float for number in score.values())


def test_intervals_repeat_with_their_seed_and_change_with_another():
    first, again, other = (multilabel_scores(*typical(), resamples=100, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first[0]["micro_f1"] != other[0]["micro_f1"]
    assert first[0]["micro_f1"]["value"] == other[0]["micro_f1"]["value"]


@pytest.mark.parametrize(("predict", "expected", "named"), [(lambda gold: gold, 1.0, 50), (lambda gold: ~gold, 0.0, 150)])
def test_all_right_and_all_wrong_have_the_width_that_their_rows_allow(predict, expected, named):
    gold = np.eye(4, dtype=bool)[np.arange(200) % 4]
    scores, table = multilabel_scores(gold, predict(gold), resamples=50)
    for score in scores.values():
        assert score == pytest.approx(metrics.wilson(200 * expected, 200))
    for row in table:
        for key, rows in {"precision": named, "recall": 50, "f1": 50 if expected else 200}.items():
            assert row[key] == pytest.approx(metrics.wilson(rows * expected, rows))


def test_predicting_nothing_scores_rows_without_gold_labels_only():
    gold = np.zeros((100, 3), bool)
    gold[:60, 0] = True
    scores, table = multilabel_scores(gold, np.zeros_like(gold), resamples=200)
    assert all(scores[f"{average}_f1"] == pytest.approx(metrics.wilson(0, 100)) for average in AVERAGES)
    assert scores["accuracy"]["value"] == 0.4
    assert 0.25 < scores["accuracy"]["low"] < 0.4 < scores["accuracy"]["high"] < 0.55
    assert [row["support"] for row in table] == [60, 0, 0]


def test_a_thousand_resamples_of_the_whole_test_set_take_no_time():
    rng = np.random.default_rng(0)
    gold, predicted = rng.random((5_427, 28)) < 0.04, rng.random((5_427, 28)) < 0.04
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        scores, table = multilabel_scores(gold, predicted, resamples=1_000)
        seconds.append(time.perf_counter() - started)
        if seconds[-1] < 2:
            break  # another attempt only where the machine was busy
    assert min(seconds) < 2
    assert len(table) == 28
    assert 0 < scores["micro_f1"]["high"] - scores["micro_f1"]["low"] < 0.03


# thresholds


def test_a_probability_at_its_threshold_is_named():
    probabilities = np.array([[0.3, 0.7], [0.29, 0.71], [0.0, 1.0]])
    assert apply_thresholds(probabilities, 0.3).tolist() == [[True, True], [False, True], [False, True]]
    assert apply_thresholds(probabilities, [0.3, 0.71]).tolist() == [[True, False], [False, True], [False, True]]
    assert apply_thresholds(probabilities, np.array([0.0, 1.0])).tolist() == [[True, False], [True, False], [True, True]]
    assert apply_thresholds(probabilities, 0).all()


@pytest.mark.parametrize(
    ("thresholds", "shown"),
    [(-0.1, "-0.1"), (1.5, "1.5"), (float("nan"), "nan"), (float("inf"), "inf"), ([0.5, 1.01], "1.01"),
     (np.array([0.2, np.nan]), "nan"), ([-1e-9, 2.0], "-1e-09")],
)
def test_a_threshold_that_is_no_probability_is_refused(thresholds, shown):
    with pytest.raises(CourseError, match=rf"^the threshold {shown} is no probability: choose values from 0 to 1$"):
        apply_thresholds(np.full((3, 2), 0.5), thresholds)


@pytest.mark.parametrize(("thresholds", "given"), [([0.5], 1), ([0.5] * 3, 3), (np.full((3, 2), 0.5), 6)])
def test_a_number_of_thresholds_that_does_not_fit_is_refused(thresholds, given):
    with pytest.raises(CourseError, match=rf"^{given} thresholds for 2 labels: give one, or one a label$"):
        apply_thresholds(np.full((3, 2), 0.5), thresholds)


def exact_f1(gold, named):
    hits = int((gold & named).sum())
    return Fraction(2 * hits, int(gold.sum() + named.sum())) if hits else Fraction(0)


def brute_force(gold, probabilities):
    """(the best F1 of one column over every cut there is, how few rows reach it); exact."""
    cuts = [(exact_f1(gold, probabilities >= cut), -int((probabilities >= cut).sum())) for cut in np.unique(probabilities)]
    best, named = max(cuts)
    return best, -named


def probability_column(rng, rows):
    """One column out of the kinds that break a threshold search: ties, constants, 0, 1 and neighbouring numbers."""
    near = rng.choice([0.5, 0.1, 1.0, 1 / 3])
    return {
        "spread": lambda: rng.random(rows),
        "tied": lambda: rng.choice([0.0, 0.2, 0.5, 0.9, 1.0], rows),
        "constant": lambda: np.full(rows, rng.random()),
        "zeros": lambda: np.zeros(rows),
        "ones": lambda: np.ones(rows),
        "zeros and ones": lambda: rng.integers(0, 2, rows).astype(float),
        "tiny": lambda: rng.integers(0, 3, rows) * 5e-324,
        "neighbours": lambda: near - rng.integers(0, 4, rows) * np.spacing(near) / 2,
        "single precision": lambda: rng.random(rows).astype(np.float32).astype(float),
    }[rng.choice(KINDS)]()


KINDS = ("spread", "tied", "constant", "zeros", "ones", "zeros and ones", "tiny", "neighbours", "single precision")


def threshold_case(rng):
    rows, labels = int(rng.integers(1, 40)), int(rng.integers(1, 7))
    probabilities = np.stack([probability_column(rng, rows) for _ in range(labels)], axis=1)
    gold = rng.random((rows, labels)) < rng.choice([0.0, 0.1, 0.5, 0.9, 1.0], labels)
    return gold, probabilities


def test_best_thresholds_agree_with_a_search_over_every_cut():
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(250):
        gold, probabilities = threshold_case(rng)
        thresholds, f1 = best_thresholds(gold, probabilities)
        named = apply_thresholds(probabilities, thresholds)  # also refuses what lies outside [0, 1]
        for i in range(gold.shape[1]):
            if not gold[:, i].any():
                assert (thresholds[i], f1[i]) == (1, 0)
                continue
            best, fewest = brute_force(gold[:, i], probabilities[:, i])
            assert exact_f1(gold[:, i], named[:, i]) == best, (gold[:, i], probabilities[:, i], thresholds[i])
            assert f1[i] == pytest.approx(float(best), rel=1e-12)
            assert named[:, i].sum() == fewest  # of equal F1 the highest threshold
            seen.add((fewest == len(gold), len(np.unique(probabilities[:, i])) == 1))
    assert seen == {(True, True), (True, False), (False, False)}


def test_best_thresholds_part_neighbouring_probabilities():
    """Half-way between two neighbouring floats lies no float: the mean is one of the two, and may be the lower."""
    for upper in (0.5, np.nextafter(0.5, 1), 0.1, 1.0, 5e-324):
        lower = np.nextafter(upper, 0)
        thresholds, f1 = best_thresholds(np.array([[True], [False]]), np.array([[upper], [lower]]))
        assert f1.tolist() == [1]
        assert apply_thresholds(np.array([[upper], [lower]]), thresholds).tolist() == [[True], [False]], upper


def test_best_thresholds_of_a_known_case_lie_half_way_to_the_next_lower_probability():
    probabilities = np.array([[0.9, 0.8], [0.6, 0.4], [0.2, 0.4]])
    gold = np.array([[1, 0], [1, 0], [0, 1]])
    thresholds, f1 = best_thresholds(gold, probabilities)
    assert thresholds.tolist() == pytest.approx([0.4, 0.2])
    assert f1.tolist() == [1, 0.5]


def test_a_label_without_gold_rows_is_named_by_no_threshold_below_certainty():
    thresholds, f1 = best_thresholds(np.zeros((3, 2), bool), np.array([[0.99, 0.0], [0.5, 0.0], [0.1, 0.0]]))
    assert (thresholds.tolist(), f1.tolist()) == ([1, 1], [0, 0])


def test_best_thresholds_take_zeros_and_ones_in_single_precision():
    gold, probabilities = threshold_case(np.random.default_rng(5))
    probabilities = probabilities.astype(np.float32)
    found = best_thresholds(gold.astype(np.float32), probabilities)
    for one, other in zip(found, best_thresholds(gold, probabilities.astype(np.float64)), strict=True):
        np.testing.assert_array_equal(one, other)
    named = apply_thresholds(probabilities, found[0])
    np.testing.assert_allclose(label_scores(label_counts(gold, named))["f1"], found[1])


def test_one_threshold_for_all_labels_is_the_best_of_them():
    rng = np.random.default_rng(1)
    for _ in range(60):
        gold, probabilities = threshold_case(rng)
        (threshold,), (f1,) = best_thresholds(gold.reshape(-1, 1), probabilities.reshape(-1, 1))
        reached = multilabel_f1(label_counts(gold, apply_thresholds(probabilities, threshold)))["micro_f1"]
        expected = float(brute_force(gold.ravel(), probabilities.ravel())[0]) if gold.any() else 0
        assert reached == pytest.approx(f1) == pytest.approx(expected)


def test_thresholds_of_their_own_are_never_worse_than_one_for_all():
    rng = np.random.default_rng(2)
    better = 0
    for _ in range(40):
        gold, probabilities = threshold_case(rng)
        own = best_thresholds(gold, probabilities)[1].mean()
        (shared,), _ = best_thresholds(gold.reshape(-1, 1), probabilities.reshape(-1, 1))
        macro = multilabel_f1(label_counts(gold, apply_thresholds(probabilities, shared)))["macro_f1"]
        assert own >= macro - 1e-12
        better += own > macro
    assert better > 10


def test_a_threshold_search_over_the_whole_validation_set_takes_no_time():
    rng = np.random.default_rng(0)
    gold, probabilities = (rng.random((5_426, 28)) < 0.04).reshape(-1, 1), rng.random((5_426 * 28, 1))
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        best_thresholds(gold, probabilities)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (lambda: multilabel_scores(np.eye(3), np.full((3, 3), 0.2)), r"^predictions hold 0.2: give 0 and 1, or booleans"),
        (lambda: multilabel_scores(np.full((3, 3), 2), np.eye(3)), r"^gold labels hold 2: give 0 and 1, or booleans"),
        (lambda: multilabel_scores(np.full((3, 3), np.nan), np.eye(3)), r"^gold labels hold nan: "),
        (lambda: best_thresholds(np.eye(3), np.full((3, 3), np.nan)), r"^nan is no probability: "),
        (lambda: best_thresholds(np.eye(3), np.full((3, 3), -1.5)), r"^-1.5 is no probability: apply softmax or sigmoid"),
        (lambda: best_thresholds(np.eye(3), np.full((2, 3), 0.5)), r"^3 labels but probabilities of 2 rows"),
    ],
)
def test_numbers_that_are_no_marks_or_no_probabilities_are_refused_in_one_line(score, message):
    with pytest.raises(CourseError, match=message):
        score()


@pytest.mark.parametrize("score", [multilabel_scores, best_thresholds], ids=lambda score: score.__name__)
def test_no_rows_are_refused_in_one_line(score):
    with pytest.raises(CourseError, match=r"^there are no rows to score: give at least one$"):
        score(np.zeros((0, 3), bool), np.zeros((0, 3)))
