import socket
import time

import datasets
import evaluate
import numpy as np
import pytest
import sklearn.metrics
from scipy.stats import binom

from shared import metrics
from shared.course.runtime import CourseError
from shared.metrics import bootstrap_confusions, confusion_matrix, expected_calibration_error, per_class, reliability

PARTS = ("precision", "recall", "f1")


def random_case(rng, rows=None):
    """(labels, predictions, classes), where classes may be absent from either or both."""
    classes = int(rng.integers(2, 9))
    rows = rows or int(rng.integers(1, 60))
    gold, predicted = (rng.choice(classes, size=int(rng.integers(1, classes + 1)), replace=False) for _ in range(2))
    return rng.choice(gold, rows), rng.choice(predicted, rows), classes


def cases(count, seed, **options):
    rng = np.random.default_rng(seed)
    return [random_case(rng, **options) for _ in range(count)]


def typical(n=400, classes=4, right=0.8, seed=0):
    """Labels and predictions of a classifier that is right in most rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    return labels, np.where(rng.random(n) < right, labels, rng.integers(0, classes, n))


# confusion matrix


def test_confusion_matrix_has_gold_in_rows_and_predictions_in_columns():
    expected = [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion_matrix([0, 0, 1, 2], [0, 1, 1, 0], 4).tolist() == expected


def test_confusion_matrix_agrees_with_scikit_learn():
    for labels, predictions, classes in cases(200, seed=0):
        expected = sklearn.metrics.confusion_matrix(labels, predictions, labels=range(classes))
        np.testing.assert_array_equal(confusion_matrix(labels, predictions, classes), expected)


def test_confusion_matrix_refuses_rows_that_do_not_pair():
    with pytest.raises(ValueError, match=r"3 labels but 2 predictions: they must be row by row the same"):
        confusion_matrix([0, 1, 1], [0, 1], 2)


@pytest.mark.parametrize(
    ("labels", "predictions", "found"),
    [([0, 3], [0, 1], r"0\.\.3"), ([0, 1], [3, 1], r"0\.\.3"), ([-1, 2], [0, 1], r"-1\.\.2")],
)
def test_confusion_matrix_refuses_what_is_no_class(labels, predictions, found):
    with pytest.raises(ValueError, match=rf"labels and predictions must lie in 0\.\.2, found {found}"):
        confusion_matrix(labels, predictions, 3)


@pytest.mark.parametrize(("labels", "predictions", "found"), [([0, 1], [0.7, 1.0], "0.7"), ([np.nan, 1], [0, 1], "nan")])
def test_confusion_matrix_refuses_probabilities_and_takes_whole_floats(labels, predictions, found):
    with pytest.raises(ValueError, match=rf"must be whole numbers, found {found}: take the argmax of probabilities"):
        confusion_matrix(labels, predictions, 2)
    assert confusion_matrix([0.0, 1.0], [1.0, 1.0], 2).tolist() == [[0, 1], [0, 1]]


def test_confusion_matrix_of_no_rows_is_all_zeros():
    np.testing.assert_array_equal(confusion_matrix([], [], 3), np.zeros((3, 3)))


@pytest.mark.parametrize("kind", [np.int8, np.uint8])
def test_confusion_matrix_counts_whatever_the_integers_width(kind):
    labels, predictions = np.array([19, 19, 3], kind), np.array([19, 4, 3], kind)
    found = confusion_matrix(labels, predictions, 20)
    assert (found[19, 19], found[19, 4], found[3, 3], found.sum()) == (1, 1, 1, 3)


# scores


def test_accuracy_and_f1_agree_with_scikit_learn():
    for labels, predictions, classes in cases(200, seed=1):
        confusion = confusion_matrix(labels, predictions, classes)
        assert metrics.accuracy(confusion) == pytest.approx(np.mean(labels == predictions))
        for average, measure in (("macro", metrics.macro_f1), ("weighted", metrics.weighted_f1)):
            expected = sklearn.metrics.f1_score(labels, predictions, average=average, zero_division=0)
            assert measure(confusion) == pytest.approx(expected)


def test_per_class_agrees_with_scikit_learn():
    for labels, predictions, classes in cases(200, seed=2):
        expected = sklearn.metrics.precision_recall_fscore_support(
            labels, predictions, labels=range(classes), zero_division=0
        )
        scores = per_class(confusion_matrix(labels, predictions, classes))
        for key, values in zip((*PARTS, "support"), expected, strict=True):
            np.testing.assert_allclose(scores[key], values, err_msg=key)


def test_a_single_row_agrees_with_scikit_learn():
    for labels, predictions, classes in cases(50, seed=3, rows=1):
        confusion = confusion_matrix(labels, predictions, classes)
        right = float(labels[0] == predictions[0])
        expected = sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)
        assert (metrics.accuracy(confusion), metrics.macro_f1(confusion)) == (right, expected)


def test_the_random_cases_leave_classes_out_of_gold_of_predictions_and_of_both():
    absent = set()
    for labels, predictions, classes in cases(200, seed=1):
        absent |= {(k in labels, k in predictions) for k in range(classes)}
    assert absent == {(True, True), (True, False), (False, True), (False, False)}


def test_scores_of_known_counts():
    confusion = np.array([[8, 2, 0], [1, 9, 0], [0, 0, 0]])  # the third class does not occur
    scores = per_class(confusion)
    assert scores["precision"].tolist() == pytest.approx([8 / 9, 9 / 11, 0])
    assert scores["recall"].tolist() == pytest.approx([0.8, 0.9, 0])
    assert scores["f1"].tolist() == pytest.approx([16 / 19, 18 / 21, 0])
    assert scores["support"].tolist() == [10, 10, 0]
    assert metrics.accuracy(confusion) == pytest.approx(0.85)
    assert metrics.macro_f1(confusion) == pytest.approx((16 / 19 + 18 / 21) / 2)


def test_a_stack_of_matrices_gives_what_they_give_one_by_one():
    stack = np.stack([confusion_matrix(*typical(n, seed=n), 4) for n in (1, 3, 20, 100, 400, 7)]).reshape(2, 3, 4, 4)
    for measure in (metrics.accuracy, metrics.macro_f1, metrics.weighted_f1):
        together = measure(stack)
        assert together.shape == (2, 3)
        np.testing.assert_array_equal(together, [[measure(matrix) for matrix in row] for row in stack])
    together = per_class(stack)
    for key in (*PARTS, "support"):
        assert together[key].shape == (2, 3, 4)
        np.testing.assert_array_equal(together[key], [[per_class(matrix)[key] for matrix in row] for row in stack])


# uncertainty


def test_bootstrap_draws_as_many_rows_as_there_are_and_only_into_filled_cells():
    confusion = np.array([[30, 0, 2], [1, 20, 0], [0, 5, 42]])
    drawn = bootstrap_confusions(confusion, resamples=300, seed=0)
    assert drawn.shape == (300, 3, 3)
    assert set(drawn.sum((1, 2)).tolist()) == {100}
    assert not drawn[:, confusion == 0].any()
    np.testing.assert_allclose(drawn.mean(0), confusion, atol=1.5)
    assert len(np.unique(drawn.reshape(300, -1), axis=0)) > 250


def test_bootstrap_repeats_with_its_seed_and_changes_with_another():
    confusion = confusion_matrix(*typical(), 4)
    first, again, other = (bootstrap_confusions(confusion, 50, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert bootstrap_confusions(confusion).shape == (1_000, 4, 4)


@pytest.mark.parametrize("measure", [metrics.accuracy, metrics.macro_f1, metrics.weighted_f1])
def test_bootstrap_is_distributed_like_one_that_draws_the_rows(measure):
    labels, predictions = typical(300, seed=4)
    of_cells = measure(bootstrap_confusions(confusion_matrix(labels, predictions, 4), 4_000, seed=0))
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, 300, (4_000, 300))
    of_rows = measure(np.stack([confusion_matrix(labels[rows], predictions[rows], 4) for rows in drawn]))
    assert of_cells.mean() == pytest.approx(of_rows.mean(), abs=0.002)
    assert of_cells.std() == pytest.approx(of_rows.std(), rel=0.06)
    np.testing.assert_allclose(np.quantile(of_cells, [0.025, 0.975]), np.quantile(of_rows, [0.025, 0.975]), atol=0.007)


def test_a_thousand_resamples_of_the_whole_test_set_take_no_time():
    confusion = confusion_matrix(*typical(7_600), 4)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        scores = metrics.classification_scores(confusion, resamples=1_000)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5
    assert 0 < scores["accuracy"]["high"] - scores["accuracy"]["low"] < 0.03


def test_interval_takes_the_percentiles():
    samples = np.arange(101) / 100
    assert metrics.interval(0.4, samples) == pytest.approx({"value": 0.4, "low": 0.025, "high": 0.975})
    assert metrics.interval(0.4, samples, rows=9) == metrics.interval(0.4, samples)
    assert all(type(number) is float for number in metrics.interval(np.float64(0.4), samples).values())


LIMITS = [(1.0, 0.0, 1.0), (0.0, 0.0, 1.0), (0.0, -1.0, 1.0), (100.0, 0.0, 100.0), (0.5, 0.0, 1.0)]


@pytest.mark.parametrize(("value", "lowest", "highest"), LIMITS)
def test_a_score_that_is_the_same_in_every_resample_has_a_width(value, lowest, highest):
    """As many rows may be different as Wilson allows for: at the lower limit all of them, at the upper limit all of them."""
    found = metrics.interval(value, np.full(50, value), 24, lowest, highest)
    other = metrics.wilson(0, 24)["high"]
    assert found == pytest.approx({"value": value, "low": value - other * (value - lowest), "high": value + other * (highest - value)})
    assert lowest <= found["low"] < found["high"] <= highest
    assert metrics.interval(value, np.full(50, value)) == {"value": value, "low": value, "high": value}


def test_means_of_equal_rows_count_the_groups_that_are_drawn():
    right, weights = {"f1": np.ones(60), "mixed": np.arange(60) % 2 / 1.0}, metrics.resample_weights(60)
    assert metrics.means(right, weights)["f1"] == pytest.approx(metrics.wilson(60, 60))
    by_group = metrics.means(right, metrics.cluster_weights(np.arange(60) // 5)[0])
    assert by_group["f1"] == pytest.approx(metrics.wilson(12, 12))
    assert metrics.means({"mixed": right["mixed"]}, weights)["mixed"] == metrics.means(right, weights)["mixed"]
    other = metrics.wilson(0, 9)["high"]
    assert metrics.mean_difference(np.ones(9), np.ones(9)) == pytest.approx({"value": 0.0, "low": -other, "high": other})


def test_scores_of_typical_data_lie_inside_their_intervals():
    for seed in range(20):
        labels, predictions = typical(300, seed=seed)
        scores = metrics.classification_scores(confusion_matrix(labels, predictions, 4), seed=seed)
        assert list(scores) == ["accuracy", "macro_f1", "weighted_f1"]
        assert scores["accuracy"]["value"] == pytest.approx(np.mean(labels == predictions))
        for score in scores.values():
            assert score["low"] < score["value"] < score["high"]


def test_interval_narrows_with_the_square_root_of_the_rows():
    small, large = (metrics.classification_scores(confusion_matrix(*typical(n), 4))["accuracy"] for n in (400, 6_400))
    assert (small["high"] - small["low"]) / (large["high"] - large["low"]) == pytest.approx(4, rel=0.25)


def test_wilson_ends_where_the_share_is_z_standard_errors_away():
    """The definition: the ends are the p for which the share lies exactly z standard errors of p from p."""
    for level, z in ((0.95, 1.959964), (0.8, 1.281552)):
        for successes, n in ((1, 2), (8, 10), (3, 40), (700, 1_000)):
            found = metrics.wilson(successes, n, level)
            for p in (found["low"], found["high"]):
                assert abs(successes / n - p) == pytest.approx(z * np.sqrt(p * (1 - p) / n), rel=1e-5)
            assert found["low"] < found["value"] == successes / n < found["high"]
    assert metrics.wilson(8, 10) == pytest.approx({"value": 0.8, "low": 0.49016, "high": 0.94332}, abs=1e-5)


def test_wilson_of_a_perfect_score_has_a_width():
    assert metrics.wilson(24, 24) == {"value": 1.0, "low": pytest.approx(24 / (24 + 1.959964**2)), "high": 1.0}
    assert metrics.wilson(0, 24) == {"value": 0.0, "low": 0.0, "high": pytest.approx(1 - metrics.wilson(24, 24)["low"])}
    assert all(type(number) is float for number in metrics.wilson(np.int64(3), np.float32(7)).values())


@pytest.mark.parametrize(("n", "p", "bootstrap"), [(24, 0.95, 0.71), (24, 0.98, 0.38), (40, 0.95, 0.87)])
def test_wilson_covers_where_the_bootstrap_of_few_rows_does_not(n, p, bootstrap):
    """Coverage without chance: every possible number of right rows, weighted by how likely it is."""
    rows = np.arange(n + 1)
    likely = binom.pmf(rows, n, p)
    drawn = [metrics.interval(k / n, np.random.default_rng(0).binomial(n, k / n, 4_000) / n) for k in rows]
    found = {"bootstrap": drawn, "wilson": [metrics.wilson(k, n) for k in rows]}
    held = {name: sum(w for w, i in zip(likely, some, strict=True) if i["low"] <= p <= i["high"]) for name, some in found.items()}
    assert held["bootstrap"] == pytest.approx(bootstrap, abs=0.01)
    assert held["wilson"] > 0.91


def test_wilson_covers_on_average_what_it_promises():
    shares = np.linspace(0.02, 0.98, 97)
    for n in (10, 24, 100):
        ends = [metrics.wilson(k, n) for k in range(n + 1)]
        low, high = (np.array([i[end] for i in ends])[:, None] for end in ("low", "high"))
        held = (binom.pmf(np.arange(n + 1)[:, None], n, shares) * ((low <= shares) & (shares <= high))).sum(0)
        assert held.mean() == pytest.approx(0.95, abs=0.015)
        assert held.min() > 0.82  # Brown, Cai, DasGupta 2001: it dips near 0 and 1


@pytest.mark.parametrize(("successes", "n", "message"), [(0, 0, "no rows to score"), (-1, 4, "-1 of 4"), (5, 4, "5 of 4 rows is no share")])
def test_wilson_refuses_what_is_no_share(successes, n, message):
    with pytest.raises(CourseError, match=message):
        metrics.wilson(successes, n)


def test_cluster_weights_draw_whole_groups_and_say_how_many_there_are():
    groups = ["b", "a", "b", "c", "a", "b"]
    weights, number = metrics.cluster_weights(groups, 400, seed=2)
    assert number == 3 and weights.shape == (400, 6) and weights.dtype == np.float32
    for name in set(groups):
        inside = weights[:, [group == name for group in groups]]
        assert (inside == inside[:, :1]).all()
    assert set(weights[:, [0, 1, 3]].sum(1).tolist()) == {3}  # as many groups as there are
    np.testing.assert_array_equal(weights, metrics.cluster_weights(np.array(groups), 400, seed=2)[0])
    assert not np.array_equal(weights, metrics.cluster_weights(groups, 400, seed=3)[0])


def test_cluster_weights_of_groups_of_one_are_those_of_rows():
    np.testing.assert_array_equal(metrics.cluster_weights(np.arange(30), 50, 1)[0], metrics.resample_weights(30, 50, 1))


def test_cluster_weights_widen_the_interval_where_rows_repeat():
    """Nine copies of every row are no new evidence: the standard error stays, that of drawing rows one by one shrinks to a third."""
    values = np.repeat(np.random.default_rng(0).random(40), 9)
    weights, _ = metrics.cluster_weights(np.repeat(np.arange(40), 9), 4_000)
    by_group, by_row = (w @ values / w.sum(1) for w in (weights, metrics.resample_weights(360, 4_000)))
    assert by_group.std() / by_row.std() == pytest.approx(3, rel=0.05)


def test_cluster_weights_refuse_a_single_group():
    with pytest.raises(CourseError, match="all 3 rows are of one group"):
        metrics.cluster_weights(["x"] * 3)


@pytest.mark.parametrize(
    "score",
    [
        lambda: metrics.resample_weights(0),
        lambda: metrics.cluster_weights([]),
        lambda: metrics.mean_difference([], []),
        lambda: bootstrap_confusions(np.zeros((2, 2), int)),
        lambda: metrics.classification_scores(confusion_matrix([], [], 2)),
        lambda: metrics.class_table(confusion_matrix([], [], 2), ["a", "b"]),
        lambda: expected_calibration_error(np.zeros((0, 2)), np.zeros(0, int)),
        lambda: metrics.reliability(np.zeros((0, 2)), np.zeros(0, int)),
        lambda: metrics.accuracy(np.zeros((2, 2), int)),
        lambda: metrics.macro_f1(np.zeros((2, 2), int)),
        lambda: metrics.weighted_f1(np.zeros((2, 2), int)),
    ],
)
def test_no_rows_are_refused_in_one_line(score):
    with pytest.raises(CourseError, match=r"^there are no rows to score: give at least one$"):
        score()


@pytest.mark.parametrize("score", [metrics.reliability, metrics.expected_calibration_error], ids=lambda score: score.__name__)
@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.full((3, 2), 0.5), [0, 1], "2 labels but probabilities of 3 rows"),
        (np.full((1, 2), 0.5), [0, 1], "2 labels but probabilities of 1 rows"),
        (np.full((2, 2), np.nan), [0, 1], "nan is no probability"),
        (np.array([[3.0, -2.0], [0.0, 1.0]]), [0, 1], "3 is no probability: apply softmax or sigmoid to logits"),
    ],
)
def test_calibration_of_what_is_no_probability_is_refused_in_one_line(score, probabilities, labels, message):
    with pytest.raises(CourseError, match=rf"^{message}"):
        score(probabilities, np.array(labels))


@pytest.mark.parametrize(("first", "second"), [([0.5, 1.0], [1.0]), ([1.0], [0.5, 1.0]), ([0.1, 0.2, 0.3], [0.1, 0.2])])
def test_mean_difference_refuses_unequal_lengths(first, second):
    with pytest.raises(CourseError, match=rf"^{len(first)} scores against {len(second)}: a paired difference needs both on the same rows$"):
        metrics.mean_difference(first, second)


def test_class_table_has_a_row_a_class_with_intervals_of_its_own():
    labels, predictions = typical(600)
    confusion = confusion_matrix(labels, predictions, 4)
    table = metrics.class_table(confusion, ["a", "b", "c", "d"], resamples=500, seed=3)
    assert [row["class"] for row in table] == ["a", "b", "c", "d"]
    expected, drawn = per_class(confusion), per_class(bootstrap_confusions(confusion, 500, 3))
    for i, row in enumerate(table):
        assert list(row) == ["class", *PARTS, "support"]
        assert row["support"] == np.sum(labels == i)
        assert type(row["support"]) is int
        low, high = np.quantile(drawn["f1"][:, i], [0.025, 0.975])
        assert row["f1"] == pytest.approx({"value": expected["f1"][i], "low": low, "high": high})
        assert row["precision"] == metrics.wilson(confusion[i, i], np.sum(predictions == i))
        assert row["recall"] == metrics.wilson(confusion[i, i], np.sum(labels == i))


def test_class_table_knows_nothing_of_a_share_of_no_rows():
    never = metrics.class_table(np.array([[3, 0], [2, 0]]), ["a", "b"])[1]
    assert never["precision"] == {"value": 0, "low": 0, "high": 1}
    assert never["recall"] == metrics.wilson(0, 2)


# calibration


def test_softmax_sums_to_one_and_agrees_with_its_definition():
    logits = np.random.default_rng(0).normal(0, 3, (50, 5))
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(metrics.softmax(logits), expected, rtol=1e-12)
    np.testing.assert_allclose(metrics.softmax(logits).sum(-1), 1)


def test_softmax_is_stable_and_in_double_precision():
    found = metrics.softmax(np.array([[1e4, 1e4, -1e4], [-1e4, -1e4 + np.log(3), -1e9]]))
    np.testing.assert_allclose(found, [[0.5, 0.5, 0], [0.25, 0.75, 0]], rtol=1e-9)
    half = metrics.softmax(np.array([[60_000, 0], [1, 1]], np.float16))
    assert half.dtype == np.float64
    assert half.tolist() == [[1, 0], [0.5, 0.5]]


def reliability_row_by_row(probabilities, labels, bins):
    """The definition of Guo et al. 2017, one row at a time: bin m holds confidences in (m / bins, (m + 1) / bins]."""
    held = [[] for _ in range(bins)]
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        top = max(row)
        m = next(m for m in range(bins) if top <= (m + 1) / bins)
        held[m].append((top, row.index(top) == label))
    mean = [[sum(column) / len(column) for column in zip(*rows, strict=True)] if rows else [0, 0] for rows in held]
    error = sum(len(rows) / len(labels) * abs(c - a) for rows, (c, a) in zip(held, mean, strict=True))
    return [c for c, _ in mean], [a for _, a in mean], [len(rows) for rows in held], error


def with_top(top, classes, rng):
    """A row of probabilities whose largest is exactly `top`."""
    row = np.full(classes, (1 - top) / (classes - 1))
    row[rng.integers(classes)] = top
    return row


def calibration_case(rng, bins):
    classes = int(rng.integers(2, 12))
    rows = int(rng.integers(1, 80))
    on_edges = [k / bins for k in range(bins + 1) if k / bins > 1 / classes]
    tops = [rng.choice(on_edges) if rng.random() < 0.5 else rng.uniform(1 / classes, 1) for _ in range(rows)]
    return np.stack([with_top(top, classes, rng) for top in [*tops, 1.0]]), rng.integers(0, classes, rows + 1)


@pytest.mark.parametrize("bins", [10, 15, 20])
def test_reliability_and_its_error_agree_with_a_row_by_row_count(bins):
    rng = np.random.default_rng(bins)
    for _ in range(100):
        probabilities, labels = calibration_case(rng, bins)
        confidence, accuracy, count, error = reliability_row_by_row(probabilities, labels, bins)
        table = reliability(probabilities, labels, bins)
        assert table["count"].tolist() == count
        np.testing.assert_allclose(table["confidence"], confidence, atol=1e-12)
        np.testing.assert_allclose(table["accuracy"], accuracy, atol=1e-12)
        assert expected_calibration_error(probabilities, labels, bins) == pytest.approx(error, abs=1e-12)


def test_reliability_keeps_edges_in_the_lower_bin_for_any_number_of_bins():
    for bins in range(2, 60):
        tops = [k / bins for k in range(1, bins + 1) if k / bins >= 0.5]
        probabilities = np.array([[top, 1 - top] for top in tops])
        found = reliability(probabilities, np.zeros(len(tops), int), bins)["count"]
        assert np.flatnonzero(found).tolist() == [k - 1 for k in range(1, bins + 1) if k / bins >= 0.5], bins


def test_reliability_has_fifteen_bins_and_zeros_where_there_is_no_row():
    table = reliability(np.array([[1.0, 0.0]]), np.array([0]))
    assert table["count"].tolist() == [0] * 14 + [1]
    assert table["confidence"].tolist() == table["accuracy"].tolist() == [0] * 14 + [1]


def test_a_perfectly_calibrated_model_has_no_error():
    rng = np.random.default_rng(0)
    probabilities = np.stack([with_top(top, 4, rng) for top in np.repeat([0.5, 0.75, 1.0], 20)])
    right = np.concatenate([np.arange(20) < hits for hits in (10, 15, 20)])
    labels = np.where(right, probabilities.argmax(-1), (probabilities.argmax(-1) + 1) % 4)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("label", "error"), [(0, 0), (1, 1)])
def test_a_certain_model_has_the_error_of_its_mistakes(label, error):
    assert expected_calibration_error(np.array([[1.0, 0.0]] * 8), np.full(8, label)) == error


def test_calibration_error_weighs_the_bins_by_their_rows():
    probabilities = np.array([[0.9, 0.1]] * 3 + [[0.6, 0.4]])
    expected = (3 * (0.9 - 2 / 3) + 0.6) / 4
    assert expected_calibration_error(probabilities, np.array([0, 0, 1, 1])) == pytest.approx(expected)


# rows to look at


def test_surest_errors_are_the_wrong_rows_with_the_highest_probability():
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.45, 0.55], [0.97, 0.03], [0.3, 0.7]])
    labels = np.array([0, 0, 0, 1, 0])
    assert metrics.surest_errors(probabilities, labels) == [3, 1, 4, 2]
    assert metrics.surest_errors(probabilities, labels, n=2) == [3, 1]
    assert metrics.surest_errors(probabilities, probabilities.argmax(-1)) == []


def test_surest_errors_agree_with_a_sort_in_which_ties_keep_their_order():
    rng = np.random.default_rng(0)
    for _ in range(50):
        probabilities = rng.choice([0.1, 0.2, 0.6], (30, 3))
        labels = rng.integers(0, 3, 30)
        wrong = [row for row in range(30) if probabilities[row].tolist().index(max(probabilities[row])) != labels[row]]
        found = metrics.surest_errors(probabilities, labels, n=12)
        assert found == sorted(wrong, key=lambda row: -max(probabilities[row]))[:12]
        assert all(type(row) is int for row in found)


def test_accuracy_by_bucket_counts_each_bucket_for_itself():
    bucket = np.array([10, 2, 2, 10, 2, 7, 2])
    table = metrics.accuracy_by_bucket(np.array([1, 1, 0, 1, 1, 0, 1], bool), bucket)
    assert [(row["bucket"], row["accuracy"]["value"], row["rows"]) for row in table] == [("2", 0.75, 4), ("7", 0, 1), ("10", 1, 2)]
    assert [row["accuracy"] for row in table] == [metrics.wilson(3, 4), metrics.wilson(0, 1), metrics.wilson(2, 2)]
    assert all(type(row["rows"]) is int for row in table)


def test_accuracy_by_bucket_takes_names():
    table = metrics.accuracy_by_bucket(np.array([True, False, True]), np.array(["travel", "fiction", "travel"]))
    assert [(row["bucket"], row["accuracy"]["value"]) for row in table] == [("fiction", 0), ("travel", 1)]


def test_accuracy_by_bucket_has_nearly_the_interval_of_drawing_the_buckets_rows():
    rng = np.random.default_rng(0)
    bucket = rng.choice(["a", "b"], 500, p=[0.8, 0.2])
    right = rng.random(500) < np.where(bucket == "a", 0.9, 0.6)
    table = metrics.accuracy_by_bucket(right, bucket)
    for row in table:
        inside = right[bucket == row["bucket"]]
        drawn = inside[rng.integers(0, len(inside), (4_000, len(inside)))].mean(-1)
        low, high = np.quantile(drawn, [0.025, 0.975])
        assert (row["accuracy"]["value"], row["rows"]) == (inside.mean(), len(inside))
        assert (row["accuracy"]["low"], row["accuracy"]["high"]) == pytest.approx((low, high), abs=0.02)


# for evaluate


def test_classification_is_an_evaluate_metric_that_agrees_with_scikit_learn(tmp_path):
    metric = metrics.Classification(8, cache_dir=str(tmp_path))
    assert isinstance(metric, evaluate.Metric)
    for labels, predictions, _ in cases(5, seed=5, rows=30):
        assert metric.compute(predictions=predictions, references=labels) == {
            "accuracy": pytest.approx(sklearn.metrics.accuracy_score(labels, predictions)),
            "macro_f1": pytest.approx(sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)),
            "weighted_f1": pytest.approx(
                sklearn.metrics.f1_score(labels, predictions, average="weighted", zero_division=0)
            ),
        }


def test_classification_works_in_batches_and_without_a_network(tmp_path, monkeypatch):
    def no_network(*args, **kwargs):
        raise AssertionError("no metric may ask the network")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    metric = metrics.Classification(classes=3, cache_dir=str(tmp_path))
    metric.add_batch(predictions=[0, 1], references=[0, 2])
    metric.add_batch(predictions=[2], references=[2])
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.network
def test_classification_agrees_with_the_metrics_of_the_hub(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(evaluate.config, "HF_EVALUATE_OFFLINE", False)
    accuracy, f1 = (evaluate.load(name, cache_dir=str(tmp_path)) for name in ("accuracy", "f1"))
    own = metrics.Classification(8, cache_dir=str(tmp_path))
    for labels, predictions, _ in cases(20, seed=6, rows=40):
        rows = {"predictions": predictions, "references": labels}
        found = own.compute(**rows)
        assert found["accuracy"] == pytest.approx(accuracy.compute(**rows)["accuracy"])
        assert found["macro_f1"] == pytest.approx(f1.compute(**rows, average="macro")["f1"])
        assert found["weighted_f1"] == pytest.approx(f1.compute(**rows, average="weighted")["f1"])


# words of pairs


def test_words_are_lower_case_and_keep_their_apostrophes():
    assert metrics.words("She didn’t pay; the bank's 2 clerks DID.") == ["she", "didn't", "pay", "the", "bank's", "2", "clerks", "did"]
    assert metrics.words("Žluťoučký kůň — über 'quoted'") == ["žluťoučký", "kůň", "über", "quoted"]
    assert metrics.words(" ... ") == []


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [("The mayor opened it.", "the MAYOR opened", 1.0), ("a b c", "a a a d", 0.5), ("a b", "c", 0.0), ("a b", "...", 0.0), ("", "a", 0.0)],
)
def test_word_overlap_is_the_share_of_the_seconds_different_words(first, second, share):
    assert metrics.word_overlap(first, second) == share


@pytest.mark.parametrize(
    ("first", "second", "share"),
    [
        ("市长打开了桥。", "市长 打开桥", 0.75),  # 打开, 市长, 长打 of four; 开桥 is new
        ("สะพานเปิดแล้ว", "สะพาน", 1.0),
        ("市长", "桥", 0.0),
        ("桥", "桥。", 1.0),
        ("市长", "。", 0.0),
    ],
)
def test_overlap_without_spaces_counts_pairs_of_neighbouring_characters(first, second, share):
    assert metrics.word_overlap(first, second, "char_wb") == share
    assert metrics.word_overlap("市长打开了桥。", "市长打开桥") == 0.0  # one word, which the first text has not


def test_buckets_get_their_titles():
    right, bucket = np.array([True, False, True]), np.array([2, 0, 2])
    named = metrics.accuracy_by_bucket(right, bucket, titles=["short", "middle", "long"])
    plain = metrics.accuracy_by_bucket(right, bucket)
    assert [row["bucket"] for row in named] == ["short", "long"]
    assert [row["accuracy"] for row in named] == [row["accuracy"] for row in plain]


def test_the_mean_of_known_numbers_leaves_nan_out_and_is_none_without_any():
    assert metrics.mean_of_known([1.0, float("nan"), 4.0]) == 2.5
    assert metrics.mean_of_known([float("nan")]) is metrics.mean_of_known([]) is None
