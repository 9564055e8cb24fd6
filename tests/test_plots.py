import itertools
import struct

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

from shared import metrics, plots

NAMES = ["World", "Sports", "Business", "Sci/Tech"]
HISTORY = [
    {"step": 10, "loss": 1.4, "epoch": 0.5},
    {"step": 10, "eval_loss": 1.3, "eval_accuracy": 0.4, "eval_macro_f1": 0.35},
    {"step": 20, "loss": 0.9, "epoch": 1.0},
    {"step": 20, "eval_loss": 0.8, "eval_accuracy": 0.7, "eval_macro_f1": 0.65},
    {"step": 20, "train_loss": 1.15, "train_runtime": 3.0},
]
TABLE = [
    {
        "class": name,
        "precision": {"value": 0.8, "low": 0.75, "high": 0.9},
        "recall": {"value": 0.6 + i / 10, "low": 0.5, "high": 0.95},
        "f1": {"value": 0.7, "low": 0.6, "high": 0.8},
        "support": 10,
    }
    for i, name in enumerate(NAMES)
]
BINS = {
    "confidence": np.array([0, 0, 0.5, 0, 0.9]),
    "accuracy": np.array([0, 0, 0.4, 0, 0.95]),
    "count": np.array([0, 0, 5, 0, 20]),
}
SCORES = {"BERT": {"value": 0.9}, "TF-IDF": {"value": 0.5, "low": 0.4, "high": 0.6}, "majority": {"value": 0.25}}
FIGURES = {
    "class_counts": (lambda: plots.class_counts({"train": [3, 4, 5, 6]}, NAMES), 1),
    "lengths": (lambda: plots.lengths(np.arange(10, 60), 48), 1),
    "learning_curve": (lambda: plots.learning_curve(HISTORY), 2),
    "confusion": (lambda: plots.confusion(np.arange(16).reshape(4, 4), NAMES), 1),
    "class_scores": (lambda: plots.class_scores(TABLE), 1),
    "reliability": (lambda: plots.reliability(BINS, 0.123), 2),
    "comparison": (lambda: plots.comparison(SCORES, "accuracy"), 1),
}


def heights(container) -> list[float]:
    return [bar.get_height() for bar in container]


def legend(axes) -> list[str]:
    found = axes.get_legend() or axes.figure.legends[0]
    return [text.get_text() for text in found.get_texts()]


def ticks(labels) -> list[str]:
    return [label.get_text() for label in labels]


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_plot_is_a_figure_with_its_axes_that_pyplot_has_let_go(name):
    before = plt.get_fignums()
    draw, axes = FIGURES[name]
    figure = draw()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == axes
    assert plt.get_fignums() == before
    assert all(one.get_xlabel() or one.get_ylabel() for one in figure.axes)


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_plot_is_saved_as_a_png_of_its_size(name, tmp_path):
    figure = FIGURES[name][0]()
    path = plots.save(figure, tmp_path / "plots" / "tiny", name)
    assert path == tmp_path / "plots" / "tiny" / f"{name}.png"
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    np.testing.assert_allclose(struct.unpack(">II", content[16:24]), 100 * figure.get_size_inches(), atol=1)


def test_there_is_a_case_for_every_public_plot():
    public = {name for name, value in vars(plots).items() if getattr(value, "__module__", "") == plots.__name__}
    assert {name for name in public if not name.startswith("_")} == {*FIGURES, "save"}


def test_saving_again_replaces_the_file(tmp_path):
    first = plots.save(plots.comparison(SCORES, "accuracy"), tmp_path, "same").read_bytes()
    second = plots.save(plots.class_scores(TABLE), tmp_path, "same").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["same.png"]
    assert first != second


def test_class_counts_draws_a_bar_a_class_and_split_side_by_side():
    counts = {"train": [30, 20, 10, 5], "validation": [4, 3, 2, 1_000]}
    (axes,) = plots.class_counts(counts, NAMES).axes
    assert [heights(container) for container in axes.containers] == list(counts.values())
    assert ticks(axes.get_xticklabels()) == NAMES
    assert legend(axes) == list(counts)
    assert "1,000" in [text.get_text() for text in axes.texts]
    edges = [(bar.get_x(), bar.get_x() + bar.get_width()) for k in zip(*axes.containers, strict=True) for bar in k]
    assert all(end <= start + 1e-9 for (_, end), (start, _) in itertools.pairwise(edges))
    middles = [np.mean([edges[2 * k][0], edges[2 * k + 1][1]]) for k in range(4)]
    np.testing.assert_allclose(axes.get_xticks(), middles)


def test_lengths_draws_every_row_the_limit_and_the_percentile():
    tokens = np.array([10] * 90 + [60] * 8 + [500] * 2)
    (axes,) = plots.lengths(tokens, limit=64, percentile=90).axes
    drawn = [(bar.get_x(), bar.get_x() + bar.get_width(), bar.get_height()) for bar in axes.patches]
    assert sum(rows for *_, rows in drawn) == 100
    assert next(rows for left, right, rows in drawn if left <= 10 < right) == 90
    assert max(right for _, right, _ in drawn) == pytest.approx(64 * 1.05)
    assert drawn[-1][2] == 2
    limit, mark = axes.lines
    assert list(limit.get_xdata()) == [64, 64]
    assert list(mark.get_xdata()) == [np.percentile(tokens, 90)] * 2
    assert legend(axes) == ["cut at 64 tokens (2.0% of rows)", "90th percentile: 15"]


def test_learning_curve_draws_losses_and_scores_over_their_steps():
    left, right = plots.learning_curve(HISTORY).axes
    drawn = {line.get_label(): line.get_xydata().tolist() for axes in (left, right) for line in axes.lines}
    assert drawn == {
        "training": [[10, 1.4], [20, 0.9]],
        "validation": [[10, 1.3], [20, 0.8]],
        "accuracy": [[10, 0.4], [20, 0.7]],
        "macro-f1": [[10, 0.35], [20, 0.65]],
    }
    assert left.get_ylim()[0] == 0


def test_learning_curve_of_a_single_check():
    left, right = plots.learning_curve(HISTORY[:2]).axes
    assert [line.get_xydata().tolist() for line in left.lines] == [[[10, 1.4]], [[10, 1.3]]]
    assert [line.get_xydata().tolist() for line in right.lines] == [[[10, 0.4]], [[10, 0.35]]]


def test_learning_curve_of_a_run_too_short_to_log_a_training_loss():
    left, right = plots.learning_curve(HISTORY[1:2]).axes
    assert [line.get_xydata().tolist() for line in left.lines if len(line.get_xdata())] == [[[10, 1.3]]]
    assert len(right.lines) == 2


def test_confusion_writes_counts_and_colours_by_the_share_of_the_gold_class():
    matrix = np.array([[6, 2], [0, 1_200]])
    (axes,) = plots.confusion(matrix, ["no", "yes"]).axes
    assert [text.get_text() for text in axes.texts] == ["6\n75.0%", "2\n25.0%", "0\n0.0%", "1,200\n100.0%"]
    np.testing.assert_allclose(axes.collections[0].get_array().ravel(), [0.75, 0.25, 0, 1])
    assert axes.collections[0].get_clim() == (0, 1)
    assert ticks(axes.get_xticklabels()) == ticks(axes.get_yticklabels()) == ["no", "yes"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "gold")


def test_confusion_of_a_class_without_rows():
    (axes,) = plots.confusion(np.array([[0, 0], [1, 3]]), ["no", "yes"]).axes
    assert [text.get_text() for text in axes.texts] == ["0\n0.0%", "0\n0.0%", "1\n25.0%", "3\n75.0%"]


def test_class_scores_draws_values_with_their_intervals():
    (axes,) = plots.class_scores(TABLE).axes
    assert legend(axes) == ["precision", "recall", "f1"]
    assert ticks(axes.get_xticklabels()) == NAMES
    for key, container in zip(("precision", "recall", "f1"), axes.containers, strict=True):
        points, _, (bars,) = container.lines
        np.testing.assert_allclose(points.get_ydata(), [row[key]["value"] for row in TABLE])
        ends = [[segment[0][1], segment[1][1]] for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [[row[key]["low"], row[key]["high"]] for row in TABLE])
        np.testing.assert_allclose(points.get_xdata(), np.arange(4), atol=0.3)


def test_reliability_draws_the_filled_bins_and_the_rows_of_all():
    left, right = plots.reliability(BINS, 0.1234).axes
    diagonal, model = left.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert model.get_xydata().tolist() == [[0.5, 0.4], [0.9, 0.95]]
    assert "ECE 0.123" in left.get_title()
    assert heights(right.containers[0]) == [0, 0, 5, 0, 20]
    np.testing.assert_allclose([bar.get_x() for bar in right.patches], [0, 0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], 0.2)


def test_reliability_takes_the_table_of_the_metrics():
    table = metrics.reliability(np.array([[0.7, 0.3], [0.2, 0.8], [0.6, 0.4]]), np.array([0, 1, 1]), bins=5)
    left, right = plots.reliability(table, 0.1).axes
    np.testing.assert_allclose(left.lines[1].get_xydata(), [[0.6, 0], [0.75, 1]])
    assert heights(right.containers[0]) == [0, 0, 1, 2, 0]


def test_comparison_draws_a_bar_a_system_from_top_to_bottom():
    (axes,) = plots.comparison(SCORES, "accuracy").axes
    bars = next(container for container in axes.containers if hasattr(container, "patches"))
    drawn = {label: bar.get_width() for label, bar in zip(ticks(axes.get_yticklabels()), bars, strict=True)}
    assert drawn == {"BERT": 0.9, "TF-IDF": 0.5, "majority": 0.25}
    assert list(drawn) == list(SCORES)[::-1]  # matplotlib counts from the bottom
    assert [text.get_text() for text in axes.texts] == ["0.250", "0.500", "0.900"]
    assert axes.get_xlabel() == "accuracy"
    _, _, (intervals,) = bars.errorbar.lines
    ends = [[segment[0][0], segment[1][0]] for segment in intervals.get_segments()]
    np.testing.assert_allclose(ends, [[0.25, 0.25], [0.4, 0.6], [0.9, 0.9]])
    *others, first = [bar.get_facecolor() for bar in bars]
    assert first not in others


def test_comparison_of_a_single_system():
    (axes,) = plots.comparison({"BERT": {"value": 0.9}}, "accuracy").axes
    assert [bar.get_width() for bar in axes.patches] == [0.9]


def test_comparison_draws_a_value_outside_its_interval():
    """A percentile interval need not hold its value: a bootstrapped macro-F1 is biased where a class is small."""
    (axes,) = plots.comparison({"BERT": {"value": 0.5, "low": 0.6, "high": 0.7}}, "macro-F1").axes
    assert [bar.get_width() for bar in axes.patches] == [0.5]


def test_class_scores_draws_no_interval_below_a_value_that_lies_below_it():
    scores = {key: {"value": 0.5, "low": 0.6, "high": 0.7} for key in ("precision", "recall", "f1")}
    (axes,) = plots.class_scores([{"class": "rare"} | scores]).axes
    _, _, (bars,) = axes.containers[0].lines
    ((low, high),) = [(segment[0][1], segment[1][1]) for segment in bars.get_segments()]
    assert (low, high) == pytest.approx((0.5, 0.7))
