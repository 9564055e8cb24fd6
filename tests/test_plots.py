import errno
import io
import itertools
import json
import struct
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from shared import metrics, plots
from shared.course.runtime import ROOT

NAMES = ["World", "Sports", "Business", "Sci/Tech"]
HISTORY = [
    {"step": 10, "loss": 1.4, "epoch": 0.5},
    {"step": 10, "eval_loss": 1.3, "eval_accuracy": 0.4, "eval_macro_f1": 0.35},
    {"step": 20, "loss": 0.9, "epoch": 1.0},
    {"step": 20, "eval_loss": 0.8, "eval_accuracy": 0.7, "eval_macro_f1": 0.65},
    {"step": 30, "loss": 0.7, "epoch": 1.5},
    {"step": 30, "eval_loss": 0.9, "eval_accuracy": 0.6, "eval_macro_f1": 0.75},
    {"step": 30, "train_loss": 1.15, "train_runtime": 3.0},
]
BINS = {
    "confidence": np.array([0, 0, 0.5, 0, 0.9]),
    "accuracy": np.array([0, 0, 0.4, 0, 0.95]),
    "count": np.array([0, 0, 5, 0, 25]),
}
SCORES = {"BERT": {"value": 0.9}, "TF-IDF": {"value": 0.5, "low": 0.4, "high": 0.6}, "majority": {"value": 0.25}}
LABEL_TABLE = [
    {"label": name, "f1": {"value": value, "low": low, "high": high}, "tier": metrics.tier(value), "support": support}
    for name, value, low, high, support in (
        ("joy", 0.6, 0.5, 0.65, 160), ("anger", 0.35, 0.3, 0.4, 1_200), ("fear", 0.8, 0.7, 0.9, 78),
        ("relief", 0.0, 0.0, 0.0, 11), ("grief", 0.2, 0.25, 0.3, 6),  # below its interval: a percentile interval may be
    )
]
BUCKETS = {
    "length": [
        {"bucket": "1-20", "accuracy": {"value": 0.9, "low": 0.85, "high": 0.95}, "rows": 1_200},
        {"bucket": "21-40", "accuracy": {"value": 0.7, "low": 0.75, "high": 0.8}, "rows": 300},
    ],
    "genre": [{"bucket": "travel", "accuracy": {"value": 0.8, "low": 0.6, "high": 1.0}, "rows": 7}],
}
CURVES = {"micro-F1": np.array([0.2, 0.6, 0.1]), "macro-F1": np.array([0.1, 0.4, 0.3])}
CUTS = {"stride 0": [(0, 60), (60, 120)], "stride 20": [(0, 60), (40, 100), (80, 120)]}
STRIDES = [
    {"max_length": length, "stride": stride, "windows_per_question": windows, "answers_whole": whole}
    for length, stride, windows, whole in ((256, 0, 1.2, 0.97), (256, 64, 1.3, 1.0), (128, 0, 2.1, 0.9), (128, 32, 2.5, 0.99))
]
OUTCOMES = {"writing": {"perfect": 0.5, "partial": 0.3, "zero": 0.2}, "pointing": {"perfect": 0.7, "partial": 0.25, "zero": 0.05}}
LENGTHS = {"test": np.array([0.5, 1.0, 9.0]), "course": np.array([1.0])}
SIZES = [
    {"set": name, "rows": rows, **{key: {"value": v, "low": v - 1, "high": v + 1} for key, v in (("bleu", rows / 100), ("chrf", 30.0))}}
    for rows in (100, 400, 1_600) for name in ("test", "course")
]
GROUPS = {"model": [0.2, 0.6], "Lead-3": [0.0, 0.1], "references": [0.1, 0.5]}
FIGURES = {
    "learning_curve": (lambda: plots.learning_curve(HISTORY), 2),
    "confusion": (lambda: plots.confusion(np.arange(16).reshape(4, 4), NAMES), 1),
    "reliability": (lambda: plots.reliability(BINS, 0.123), 1),
    "comparison": (lambda: plots.comparison(SCORES, "accuracy"), 1),
    "differences": (lambda: plots.differences({"A": {"value": -2.0, "low": -3.0, "high": -1.0}}, "ROUGE-1 minus right"), 1),
    "weights": (lambda: plots.weights({"null odds": 0.9, "words": -1.2, "names": 0.1}, "weight"), 1),
    "label_f1": (lambda: plots.label_f1(LABEL_TABLE), 1),
    "buckets": (lambda: plots.buckets(BUCKETS, "accuracy", "By length and genre", floor=0.85), 2),
    "seeds": (lambda: plots.seeds({"MNLI": [0.8, 0.7], "none": [0.6]}, "accuracy"), 1),
    "stacked": (lambda: plots.stacked({"short": {"weights": 1.0, "activations": 2.0}}, "GiB", ("a T4", 14.0)), 1),
    "windows": (lambda: plots.windows(CUTS, {"A": (48, 54)}), 2),
    "stride_sweep": (lambda: plots.stride_sweep(STRIDES, 64), 2),
    "curves": (lambda: plots.curves(np.arange(3), CURVES, ("threshold", "score", "a title"), {"in use": 1.0}), 1),
    "rate_sweep": (lambda: plots.rate_sweep(np.array([1e-4, 1e-3]), {"full": np.array([0.5, 0.4])}, "loss", 0.45), 1),
    "grouped_bars": (lambda: plots.grouped_bars(GROUPS, ["words", "pairs"], ("share", "a title")), 1),
    "distributions": (lambda: plots.distributions(LENGTHS, "ratio", "Length ratio", (0, 2.5)), 2),
    "size_curve": (lambda: plots.size_curve(SIZES, ("bleu", "chrf")), 2),
    "token_logits": (lambda: plots.token_logits(["the", "lord", "."], np.array([1.0, 3.0, -1.0]), np.array([0.0, 2.0, 0.5])), 1),
    "outcomes": (lambda: plots.outcomes(OUTCOMES, "Writing and pointing"), 1),
    "null_odds": (lambda: plots.null_odds({"has an answer": np.array([-3.0, -1, 0]), "has none": np.array([1.0, 2])}, 0.5, "odds"), 1),
    "overview": (lambda: plots.overview(["A", "B"], [50, 20], [45, 18], [55, 22], [30, 25], [None, 60.0], "1 of 2 above"), 1),
    "precision_recall": (lambda: plots.precision_recall(np.array([1, 0.8]), np.array([0, 0.5]), 0.4), 1),
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
    assert all(one.get_xlabel() or one.get_ylabel() for one in figure.axes) or name == "overview"  # its lines have units of their own


@pytest.mark.parametrize("name", list(FIGURES))
def test_every_plot_is_saved_as_a_png_of_its_size(name, tmp_path):
    figure = FIGURES[name][0]()
    path = plots.save(figure, tmp_path / "plots" / "tiny", name)
    assert path == tmp_path / "plots" / "tiny" / f"{name}.png"
    content = path.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    np.testing.assert_allclose(struct.unpack(">II", content[16:24]), 200 * figure.get_size_inches(), atol=1)


@pytest.mark.parametrize("name", list(FIGURES))
def test_no_letter_is_smaller_than_eleven_points_on_a_page_of_seven_inches(name):
    figure = FIGURES[name][0]()
    figure.savefig(io.BytesIO())  # ticks get their texts when they are drawn
    sizes = {text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()}
    assert figure.get_size_inches()[0] == plots.WIDTH == 7 and min(sizes) >= 11, sizes


def test_there_is_a_case_for_every_public_plot():
    public = {name for name, value in vars(plots).items() if getattr(value, "__module__", "") == plots.__name__}
    assert {name for name in public if hasattr(getattr(plots, name), "__wrapped__")} == set(FIGURES)


@pytest.mark.parametrize("name", list(FIGURES))
def test_a_figure_is_drawn_again_from_its_record_to_the_last_pixel(name, tmp_path):
    figure = FIGURES[name][0]()
    figure.savefig(io.BytesIO(), dpi=80)  # a notebook shows it first
    records = plots.save_all({name: figure}, tmp_path)
    assert list(records) == [name]
    before, record = (tmp_path / f"{name}.png").read_bytes(), json.loads(json.dumps(records, allow_nan=False))[name]
    assert plots.save(plots.redraw(record), tmp_path / "again", name, record).read_bytes() == before


def test_a_figure_with_a_line_of_the_notebooks_own_is_kept_as_a_picture_alone(tmp_path):
    figure, plain = plots.seeds({"plain": [0.5]}, "accuracy"), plt.figure()
    figure.axes[0].axhline(0.5)
    scaled = plots.seeds({"plain": [0.5]}, "accuracy")
    scaled.axes[0].set_yscale("log")
    assert plots.save_all({"seeds": figure, "plain": plain, "scaled": scaled}, tmp_path) == {}
    plt.close(plain)
    assert {path.name for path in tmp_path.iterdir()} == {"seeds.png", "plain.png", "scaled.png"}


def test_a_figure_is_stale_in_an_older_style_or_of_other_numbers(tmp_path, monkeypatch):
    (record,) = plots.save_all({"seeds": plots.seeds({"plain": [0.5]}, "accuracy")}, tmp_path).values()
    other = plots.seeds({"plain": [0.6]}, "accuracy").drawn
    path = tmp_path / "seeds.png"
    assert not plots.is_stale(record, path) and plots.is_stale(other, path) and plots.is_stale(record, tmp_path / "none.png")
    monkeypatch.setattr(plots, "STYLE", plots.STYLE + 1)
    assert plots.is_stale(record, path)


def test_what_is_undefined_stays_so_and_equal_lists_are_arrays():
    curve = {"P": np.array([0.123456789, np.nan]), "n": np.array([1, 2])}
    record = plots.curves(np.array([1, 2]), curve, ("x", "y", "z")).drawn["arguments"]
    assert record["lines"] == {"P": [0.123457, None], "n": [1, 2]} and record["labels"] == ["x", "y", "z"]
    (axes,) = plots.curves(np.array([1, 2]), curve, ("x", "y", "z")).axes
    assert np.isnan(axes.lines[0].get_ydata()[1])


def test_a_plot_that_cannot_be_written_leaves_the_old_one_and_no_rest(tmp_path, monkeypatch):
    figure = plots.seeds({"plain": [0.5]}, "accuracy")
    before, write = plots.save(figure, tmp_path, "seeds").read_bytes(), Path.write_bytes

    def full(self, content):
        write(self, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        plots.save(figure, tmp_path, "seeds")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("seeds.png", before)]


def test_saving_again_replaces_the_file(tmp_path):
    first = plots.save(plots.comparison(SCORES, "accuracy"), tmp_path, "same").read_bytes()
    second = plots.save(plots.learning_curve(HISTORY), tmp_path, "same").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["same.png"]
    assert first != second


def test_learning_curve_draws_losses_and_scores_over_their_steps():
    figure = plots.learning_curve(HISTORY)
    left, right = figure.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for axes in (left, right) for line in axes.lines}
    assert drawn == {
        "training": [[10, 1.4], [20, 0.9], [30, 0.7]],
        "validation": [[10, 1.3], [20, 0.8], [30, 0.9]],
        "accuracy": [[10, 0.4], [20, 0.7], [30, 0.6]],
        "macro-F1": [[10, 0.35], [20, 0.65], [30, 0.75]],
    }
    assert left.get_ylim()[0] == 0
    finding = "The validation loss is lowest (0.8) at step 20, accuracy highest (0.7) at step 20"
    assert figure.get_suptitle().replace("\n", " ") == finding


@pytest.mark.parametrize("checks", [1, 2])
def test_learning_curve_of_too_few_checks_for_a_curve_is_the_loss_alone(checks):
    figure = plots.learning_curve(HISTORY[: 2 * checks])
    (axes,) = figure.axes
    assert [len(line.get_xdata()) for line in axes.lines] == [checks, checks]
    assert "accuracy highest" in figure.get_suptitle().replace("\n", " "), "the finding tells the score"


def test_learning_curve_draws_the_scores_and_names_the_loss_it_is_told():
    history = [row | {"eval_micro_f1": 0.1 * row["step"]} if "eval_loss" in row else row for row in HISTORY]
    left, right = plots.learning_curve(history, scores=("micro_f1", "macro_f1"), loss="binary cross-entropy").axes
    assert left.get_ylabel() == "binary cross-entropy"
    assert {line.get_label(): line.get_xydata().tolist() for line in right.lines} == {
        "micro-F1": [[10, 1], [20, 2], [30, 3]],
        "macro-F1": [[10, 0.35], [20, 0.65], [30, 0.75]],
    }
    assert legend(right) == ["micro-F1", "macro-F1"]
    assert plots.learning_curve(HISTORY).axes[0].get_ylabel() == "cross-entropy"


def test_learning_curve_draws_each_of_five_scores_in_a_colour_of_its_own():
    names = ("micro_f1", "macro_f1", "tuned_micro_f1", "tuned_macro_f1", "accuracy")
    checks = [{"step": step, "eval_loss": 1.0} | {f"eval_{name}": 0.5 for name in names} for step in (1, 2, 3)]
    lines = plots.learning_curve([{"step": 1, "loss": 1.0}, *checks], scores=names).axes[1].lines
    assert [line.get_label() for line in lines] == ["micro-F1", "macro-F1", "tuned-micro-F1", "tuned-macro-F1", "accuracy"]
    assert len({line.get_color() for line in lines}) == 5


def test_learning_curve_of_a_run_too_short_to_log_a_training_loss():
    (axes,) = plots.learning_curve(HISTORY[1:2]).axes
    assert [line.get_xydata().tolist() for line in axes.lines if len(line.get_xdata())] == [[[10, 1.3]]]


def test_confusion_writes_counts_and_colours_by_the_share_of_the_gold_class():
    matrix = np.array([[6, 2], [0, 1_200]])
    (axes,) = plots.confusion(matrix, ["no", "yes"]).axes
    assert [text.get_text() for text in axes.texts] == ["6\n75.0%", "2\n25.0%", "0\n0.0%", "1,200\n100.0%"]
    np.testing.assert_allclose(axes.collections[0].get_array().ravel(), [0.75, 0.25, 0, 1])
    assert axes.collections[0].get_clim() == (0, 1)
    assert ticks(axes.get_xticklabels()) == ticks(axes.get_yticklabels()) == ["no", "yes"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "gold")
    assert plots.confusion(matrix, ["no", "yes"]).get_suptitle() == "Most frequent error: no predicted as yes (2 of 2 errors)"
    assert plots.confusion(np.eye(2, dtype=int), ["no", "yes"]).get_suptitle() == "No row is in the wrong class"


def test_dollars_in_a_text_are_no_mathematics():
    figure = plots.confusion(np.array([[6, 2], [1, 3]]), ["$10", "$20 to $50^2"])
    assert figure.drawn["arguments"]["names"] == ["$10", "$20 to $50^2"]
    assert plots.as_png(figure) and plots.as_png(plots.redraw(figure.drawn))
    shown = figure.axes[0].get_xticklabels()[1]
    assert shown._preprocess_math(shown.get_text()) == ("$20 to $50^2", False)  # drawn as it is written
    plots.as_png(plots.comparison({"$$": {"value": 0.5}, "a $ and a $": {"value": 0.4}}, "accuracy"))


def test_confusion_of_a_class_without_rows():
    (axes,) = plots.confusion(np.array([[0, 0], [1, 3]]), ["no", "yes"]).axes
    assert [text.get_text() for text in axes.texts] == ["0\n0.0%", "0\n0.0%", "1\n25.0%", "3\n75.0%"]


def test_reliability_draws_bins_with_enough_rows_and_tells_the_others():
    figure = plots.reliability(BINS, 0.1234)
    (axes,) = figure.axes
    diagonal, model = axes.lines
    assert diagonal.get_xydata().tolist() == [[0, 0], [1, 1]]
    assert model.get_xydata().tolist() == axes.collections[0].get_offsets().tolist() == [[0.9, 0.95]]
    assert axes.get_xlabel() == "confidence (5 of 30 rows are in bins of fewer than 20)"
    assert figure.get_suptitle() == "On average 0.025 too unsure (calibration error 0.123)"  # (5 * .1 - 25 * .05) / 30


def test_reliability_takes_the_table_of_the_metrics():
    probabilities = np.repeat([[0.7, 0.3], [0.1, 0.9], [0.64, 0.36]], [30, 60, 5], axis=0)
    table = metrics.reliability(probabilities, np.repeat([0, 1, 1], [30, 60, 5]), bins=5)
    (axes,) = plots.reliability(table, 0.1).axes
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[24.2 / 35, 30 / 35], [0.9, 1]], rtol=1e-5)
    small, large = axes.collections[0].get_sizes()
    assert large > small


def test_comparison_draws_a_bar_a_system_the_best_on_top():
    scores = {"majority": SCORES["majority"], "this model": SCORES["BERT"], "TF-IDF": SCORES["TF-IDF"]}
    figure = plots.comparison(scores, "accuracy")
    (axes,) = figure.axes
    drawn = {label: bar.get_width() for label, bar in zip(ticks(axes.get_yticklabels()), axes.patches, strict=True)}
    assert list(drawn.items()) == [("majority", 0.25), ("TF-IDF", 0.5), ("this model", 0.9)]  # matplotlib counts from the bottom
    assert [text.get_text() for text in axes.texts] == ["0.250", "0.500", "0.900"]
    assert axes.get_xlabel() == "accuracy"
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    assert [bar.errorbar is not None for bar in bars] == [False, True, False]  # no interval, no cap
    ends = [[segment[0][0], segment[1][0]] for segment in bars[1].errorbar.lines[2][0].get_segments()]
    np.testing.assert_allclose(ends, [[0.4, 0.6]])
    *others, first = [bar.get_facecolor() for bar in axes.patches]
    assert first not in others
    assert figure.get_suptitle() == "This model is 40.0 points above TF-IDF"


def test_comparison_draws_a_published_score_as_an_open_mark_that_is_compared_with_nothing():
    scores = {"this model": {"value": 12.0}, "Lead-3": {"value": 20.0}, "published: T5": {"value": 41.0}}
    figure = plots.comparison(scores, "ROUGE-1", top=50)
    (axes,) = figure.axes
    assert len(axes.patches) == 2 and figure.get_suptitle() == "This model is 8.0 points below Lead-3"
    close = {"this model": {"value": 21.0, "low": 19.0, "high": 23.0}, "Lead-3": {"value": 20.0}}
    finding = plots.comparison(close, "ROUGE-1", top=50).get_suptitle()
    assert finding == "This model is 1.0 points above Lead-3, which lies within its interval"
    (mark,) = [line for line in axes.lines if line.get_marker() == "D"]
    assert mark.get_fillstyle() == "none" and list(mark.get_xdata()) == [41.0]


def test_comparison_s_colour_is_of_a_system_that_was_scored_and_a_high_mark_has_its_score_before_it():
    figure = plots.comparison({"MNLI first": {"value": 0.7}, "plain": {"value": 0.6}, "published: BERT": {"value": 0.95}}, "accuracy")
    (axes,) = figure.axes
    plain, first = (bar.get_facecolor() for bar in axes.patches)
    assert plain != first and figure.get_suptitle() == "Best: MNLI first (0.700), then plain (0.600)"
    (score,) = [text for text in axes.texts if text.get_text() == "0.950"]
    assert score.get_horizontalalignment() == "right" and score.get_position()[0] < 0.95


def test_comparison_of_a_loss_has_the_lowest_on_top():
    losses = {"AdamW": {"value": 1.5}, "Adafactor": {"value": 1.25}, "SGD": {"value": 3.0}}
    figure = plots.comparison(losses, "bits", top=3.5, lower_is_better=True)
    (axes,) = figure.axes
    assert ticks(axes.get_yticklabels()) == ["SGD", "AdamW", "Adafactor"]
    assert figure.get_suptitle() == "Best: Adafactor (1.2), then AdamW (1.5)"
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [plots.BLUE.lower()] * 2 + [plots.ORANGE.lower()]


def test_this_model_in_another_way_is_no_other_system_but_may_be_the_best():
    scores = {"this model": {"value": 0.8}, "this model, greedy": {"value": 0.7}, "words": {"value": 0.5}}
    assert plots.comparison(scores, "F1").get_suptitle() == "This model is 30.0 points above words"
    ways = {"this model, one": {"value": 0.6}, "this model, half": {"value": 0.5}, "words": {"value": 0.4}}
    assert plots.comparison(ways, "F1").get_suptitle() == "Best: this model, one (0.600), then this model, half (0.500)"


def test_grouped_bars_say_what_is_highest_and_this_model_has_its_colour():
    figure = plots.grouped_bars({"words": [0.2, 0.6], "this model": [0.4, 0.1]}, ["copied", "new"], ("share", "Does it copy?"))
    assert figure.get_suptitle() == "Does it copy? Highest: new (words); copied (this model)"
    own = [to_hex(bar.get_facecolor()) for bar in figure.axes[0].containers[1]]
    assert own == [plots.ORANGE.lower()] * 2 and to_hex(figure.axes[0].containers[0][0].get_facecolor()) != own[0]
    many = {str(k): [k, 1 - k, 2, 3] for k in range(4)}
    assert plots.grouped_bars(many, list("abcd"), ("share", "Four of each")).get_suptitle() == "Four of each"


def test_windows_and_weights_say_what_they_show(tmp_path):
    cuts = {"stride 0": [(0, 4), (4, 8)], "stride 2": [(0, 4), (2, 6), (4, 8)]}
    figure = plots.windows(cuts, {"A": (1, 3), "B": (3, 5)})
    assert figure.get_suptitle() == "Whole in a window: with stride 0, A; with stride 2, A and B"
    assert plots.weights({"odds": 0.5, "length": -0.7}, "weight").get_suptitle() == "The largest weight is that of length (-0.70)"
    path = plots.save(figure, tmp_path, "windows", figure.drawn)
    assert plots.finding(path) == figure.get_suptitle() and not plots.is_stale(figure.drawn, path)


def test_comparison_draws_a_line_to_read_all_bars_against():
    figure = plots.comparison({"right": {"value": 20.0}, "wrong": {"value": 9.0}}, "ROUGE-1", top=30, line=("published", 10.0))
    (axes,) = figure.axes
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == [10.0, 10.0] and legend(axes) == ["published"]
    assert figure.get_suptitle() == "1 of 2 lie above published; they have 9.0 to 20.0"
    assert len({bar.get_facecolor() for bar in axes.patches}) == 1


def test_stacked_bars_end_at_the_sum_of_their_parts_beside_a_line():
    bars = {"short": {"weights": 1.0, "activations": 2.0}, "long": {"weights": 1.0, "activations": 14.0}}
    figure = plots.stacked(bars, "GiB", ("a T4", 14.0))
    (axes,) = figure.axes
    ends = {round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches}
    assert ends == {1.0, 3.0, 15.0} and axes.get_xlim()[1] > 15
    (line,) = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == [14.0, 14.0] and ticks(axes.get_yticklabels()) == ["short", "long"]
    assert figure.get_suptitle() == "1 of 2 fit into a T4; most of 'long' are activations"
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is on top


def test_differences_mark_zero_and_say_how_many_are_clear_of_it():
    found = {"A": {"value": -2.0, "low": -3.0, "high": -1.0}, "B": {"value": 0.5, "low": -1.0, "high": 2.0}}
    figure = plots.differences(found, "ROUGE-1 minus right")
    (axes,) = figure.axes
    assert ticks(axes.get_yticklabels()) == ["B", "A"]  # matplotlib counts from the bottom
    assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [0]
    assert figure.get_suptitle() == "1 of 2 differences are clear of zero"


def test_comparison_of_a_single_system():
    (axes,) = plots.comparison({"BERT": {"value": 0.9}}, "accuracy").axes
    assert [bar.get_width() for bar in axes.patches] == [0.9]


def test_comparison_draws_a_value_outside_its_interval():
    """A percentile interval need not hold its value: a bootstrapped macro-F1 is biased where a class is small."""
    (axes,) = plots.comparison({"BERT": {"value": 0.5, "low": 0.6, "high": 0.7}}, "macro-F1").axes
    assert [bar.get_width() for bar in axes.patches] == [0.5]


# multi-label


def test_label_f1_draws_the_best_on_top_in_the_colour_of_its_tier():
    (axes,) = plots.label_f1(LABEL_TABLE).axes
    assert ticks(axes.get_yticklabels()) == ["relief (11)", "grief (6)", "anger (1,200)", "joy (160)", "fear (78)"]
    assert [bar.get_width() for bar in axes.patches] == [0, 0.2, 0.35, 0.6, 0.8]
    tiers = ["zero", "poor", "moderate", "good", "excellent"]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [plots.TIERS[tier].lower() for tier in tiers]
    bars = [container for container in axes.containers if hasattr(container, "patches")]
    ends = [segment for bar in bars for segment in bar.errorbar.lines[2][0].get_segments()]
    drawn = [(segment[0][0], segment[1][0]) for segment in ends]
    np.testing.assert_allclose(drawn, [(0, 0), (0.2, 0.3), (0.3, 0.4), (0.5, 0.65), (0.7, 0.9)])


def test_label_f1_names_the_tiers_that_occur_best_first():
    (axes,) = plots.label_f1(LABEL_TABLE).axes
    assert legend(axes) == ["excellent", "good", "moderate", "poor", "zero"]
    (axes,) = plots.label_f1([row for row in LABEL_TABLE if row["label"] in ("relief", "fear")]).axes
    assert legend(axes) == ["excellent", "zero"]


def test_every_tier_of_the_metrics_has_a_colour_of_its_own():
    assert {metrics.tier(f1) for f1 in np.linspace(0, 1, 101)} == set(plots.TIERS)
    assert len({colour.lower() for colour in plots.TIERS.values()}) == len(plots.TIERS)


# buckets, seeds


def test_buckets_draws_a_panel_a_group_with_values_and_intervals():
    figure = plots.buckets(BUCKETS, "accuracy", "By length and genre")
    assert figure.get_suptitle() == "By length and genre: lowest for '21-40' (0.700)"
    told = plots.buckets(BUCKETS, "accuracy", "Length: it matters little")
    assert told.get_suptitle() == "Length: it matters little"
    assert [axes.get_title() for axes in figure.axes] == ["length", "genre"]
    for axes, rows in zip(figure.axes, BUCKETS.values(), strict=True):
        ((points, _, (intervals,)),) = [container.lines for container in axes.containers]
        assert points.get_xdata().tolist() == [row["accuracy"]["value"] for row in rows]
        ends = [(segment[0][0], segment[1][0]) for segment in intervals.get_segments()]
        held = [(min(row["accuracy"]["low"], row["accuracy"]["value"]), row["accuracy"]["high"]) for row in rows]
        np.testing.assert_allclose(ends, held)
        assert ticks(axes.get_yticklabels()) == [f"{row['bucket']} ({row['rows']:,})" for row in rows]
        assert axes.get_xlabel() == "accuracy"
        low, high = axes.get_xlim()
        assert low <= min(end for pair in held for end in pair) and high >= 1
    assert len({axes.get_xlim() for axes in figure.axes}) == 1  # panels that are compared share their scale
    assert not figure.legends


def test_buckets_marks_and_names_the_figure_of_all_rows():
    figure = plots.buckets(BUCKETS, "accuracy", "By length and genre", floor=0.85)
    for axes in figure.axes:
        assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "--"] == [[0.85, 0.85]]
    (found,) = figure.legends
    assert [text.get_text() for text in found.get_texts()] == ["all rows"]


def test_buckets_takes_the_table_of_the_metrics_as_a_single_panel():
    table = metrics.accuracy_by_bucket(np.array([True, False, True]), np.array([2, 2, 10]))
    (axes,) = plots.buckets({"length": table}, "accuracy", "By length").axes
    assert axes.containers[0].lines[0].get_xdata().tolist() == [0.5, 1]
    assert ticks(axes.get_yticklabels()) == ["2 (2)", "10 (1)"]


def test_seeds_draws_a_dot_a_run_and_the_mean_of_each_start():
    runs = {"MNLI": [0.8, 0.7, 0.75], "mixture": [0.9], "none": [0.5, 0.7]}
    (axes,) = plots.seeds(runs, "accuracy").axes
    for at, (line, values) in enumerate(zip(axes.lines, runs.values(), strict=True)):
        assert line.get_xydata().tolist() == [[at, value] for value in values]
    means = [segment for lines in axes.collections for segment in lines.get_segments()]
    np.testing.assert_allclose([segment[:, 1] for segment in means], [[0.75] * 2, [0.9] * 2, [0.6] * 2])
    np.testing.assert_allclose([segment[:, 0].mean() for segment in means], [0, 1, 2])
    assert ticks(axes.get_xticklabels()) == list(runs)
    assert axes.get_ylabel() == "accuracy (one dot per seed)"


# question answering


def test_windows_draws_every_window_over_its_tokens_and_every_answer_in_every_panel():
    figure = plots.windows(CUTS, {"A": (48, 54), "B": (85, 90)})
    assert [axes.get_title() for axes in figure.axes] == list(CUTS)
    for axes, spans in zip(figure.axes, CUTS.values(), strict=True):
        bars = [bar for container in axes.containers for bar in container]
        assert [(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] == spans
        assert len({bar.get_y() for bar in bars}) == len(spans)  # each on a line of its own
        texts = [text.get_text() for text in axes.texts]
        assert texts[-2:] == ["A", "B"] and texts[0] == "0 to 59"


def test_stride_sweep_draws_cost_and_gain_over_the_strides_and_marks_the_one_in_use():
    figure = plots.stride_sweep(STRIDES, 64)
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[0, 1.2], [64, 1.3]] and left.lines[1].get_xydata().tolist() == [[0, 2.1], [32, 2.5]]
    assert right.lines[0].get_xydata().tolist() == [[0, 0.97], [64, 1.0]] and right.lines[1].get_xydata().tolist() == [[0, 0.9], [32, 0.99]]
    assert right.get_ylim()[1] < 1.01, "no share is above one"
    for axes in (left, right):
        assert list(axes.lines[2].get_xdata()) == [64, 64]


def test_stride_sweep_has_one_legend_for_both_panels():
    (found,) = plots.stride_sweep(STRIDES, 64).legends
    assert [text.get_text() for text in found.get_texts()] == ["256 tokens", "128 tokens", "in use: 64"]


def test_token_logits_draws_both_bars_of_every_token():
    start, end = np.array([1.0, 3.0, -1.0]), np.array([0.0, 2.0, 0.5])
    (axes,) = plots.token_logits(["the", "lord", "."], start, end).axes
    assert [heights(container) for container in axes.containers] == [start.tolist(), end.tolist()]
    assert ticks(axes.get_xticklabels()) == ["the", "lord", "."]
    assert legend(axes) == ["start", "end"]


def test_precision_recall_draws_the_points_and_names_the_average():
    figure = plots.precision_recall(np.array([1, 0.8, 0.5]), np.array([0, 0.5, 0.9]), 0.4321)
    (axes,) = figure.axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 1], [0.5, 0.8], [0.9, 0.5]]
    assert "0.432" in figure.get_suptitle()


def test_null_odds_draws_every_question_of_both_groups_and_the_threshold():
    groups = {"has an answer": np.array([-300.0, -2, -1, -1, 0]), "has none": np.array([0.5, 2, 500])}
    (axes,) = plots.null_odds(groups, 0.25, "odds").axes
    assert [sum(heights(container)) for container in axes.containers] == [5, 3]
    assert list(axes.lines[0].get_xdata()) == [0.25, 0.25]
    assert set(legend(axes)) == {"has an answer (5)", "has none (3)", "refuse above 0.25"}
    assert len(plots.null_odds({"a": np.zeros(2), "b": np.zeros(1)}, 0, "odds").axes) == 1  # all alike, as of a model that knows nothing
    (alone,) = plots.null_odds({"has an answer": np.array([-1.0, 0])}, 0.25, "odds").axes  # a reader's questions may all have one
    assert sum(heights(alone.containers[0])) == 2


def test_distributions_share_their_bins_and_height_and_keep_what_is_outside():
    figure = plots.distributions(LENGTHS, "ratio", "Length ratio", (0, 2.5))
    first, second = figure.axes
    assert first.get_ylim() == second.get_ylim() and first.get_xlim() == second.get_xlim() == (0, 2.5)
    for axes in (first, second):
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)
    assert first.lines[0].get_label() == "mean 3.50"  # of the values as they are, not as they are drawn


def test_size_curve_has_a_panel_a_measure_and_a_line_a_set():
    figure = plots.size_curve(SIZES, ("bleu", "chrf"))
    for axes, measure in zip(figure.axes, ("bleu", "chrf"), strict=True):
        assert axes.get_xscale() == "log" and axes.get_ylabel().lower() == measure and axes.get_ylim()[0] == 0
        assert [text.get_text() for text in axes.get_xticklabels()] == ["100", "400", "1,600"]
        assert len(axes.containers) == 2
    assert figure.axes[0].containers[0].lines[0].get_ydata().tolist() == [1.0, 4.0, 16.0]


def test_scores_out_of_a_hundred_have_their_own_axis():
    axes = plots.comparison({"model": {"value": 31.25}, "floor": {"value": 4.0}}, "chrF", top=100).axes[0]
    assert axes.get_xlim() == (0, 100) and {text.get_text() for text in axes.texts} == {"4.0", "31.2"}
    rows = [{"bucket": "all", "mean": {"value": 31.0, "low": 30.0, "high": 32.0}, "rows": 9}]
    axes = plots.buckets({"length": rows}, "mean", "chrF", top=100).axes[0]
    assert axes.get_xlim() == (25, 102)


def test_weights_stand_by_size_with_a_colour_for_each_side():
    axes = plots.weights({"null odds": 0.9, "words": -1.2, "names": 0.1}, "weight").axes[0]
    assert ticks(axes.get_yticklabels()) == ["names", "null odds", "words"]
    bars = axes.containers[0]
    assert [bar.get_width() for bar in bars] == [0.1, 0.9, -1.2]
    assert bars[0].get_facecolor() == bars[1].get_facecolor() != bars[2].get_facecolor()


def test_a_learning_curve_without_scores_is_the_loss_alone():
    (axes,) = plots.learning_curve(HISTORY, ()).axes
    assert len(axes.lines) == 2


# ---------------------------------------------------------------- generated texts


def test_curves_draw_every_line_and_mark_places():
    (axes,) = plots.curves(np.array([64, 128, 512]), CURVES, ("tokens", "share", "What is kept"), {"in use": 128.0}).axes
    lines = {line.get_label(): line for line in axes.lines}
    assert list(lines) == [*CURVES, "in use"]
    assert lines["micro-F1"].get_xdata().tolist() == [64, 128, 512] and lines["micro-F1"].get_ydata().tolist() == [0.2, 0.6, 0.1]
    assert set(lines["in use"].get_xdata()) == {128.0}
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_title(), axes.get_ylim()[0]) == ("tokens", "share", "What is kept", 0)


def test_a_rate_sweep_says_where_each_loss_is_lowest_or_how_far_it_rose():
    rates, lines = np.array([1e-5, 1e-4, 1e-3]), {"full": np.array([0.5, 0.3, np.nan]), "LoRA": np.array([np.nan, 0.6, 0.4])}
    figure = plots.rate_sweep(rates, lines, "loss on held-out rows")
    (axes,) = figure.axes
    assert figure.get_suptitle() == "Lowest: full at 0.0001, LoRA at 0.001" and axes.get_xscale() == "log"
    drawn = {line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines}
    assert drawn == {"full": ([1e-5, 1e-4], [0.5, 0.3]), "LoRA": ([1e-4, 1e-3], [0.6, 0.4])}
    low, high = axes.get_ylim()
    assert low < 0.3 and high > 0.6  # no point on the frame
    figure = plots.rate_sweep(rates, lines, "loss on texts", before=0.35)
    title = "0.35 before training; highest after it: full 0.50 at 1e-05, LoRA 0.60 at 0.0001"
    assert figure.get_suptitle().replace("\n", " ") == title and set(figure.axes[0].lines[-1].get_ydata()) == {0.35}


def test_grouped_bars_draw_a_bar_a_group_and_name_side_by_side():
    (axes,) = plots.grouped_bars(GROUPS, ["words", "pairs"], ("share", "Novel")).axes
    assert [[bar.get_height() for bar in bars] for bars in axes.containers] == list(GROUPS.values())
    left = sorted(bar.get_x() for bars in axes.containers for bar in bars)
    assert np.diff(left).min() > 0.2
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["words", "pairs"]


def test_the_axis_of_points_ends_where_it_is_told_to():
    points = {"model": {"value": 12.34, "low": 10, "high": 14}, "Lead-3": {"value": 41.0}}
    (axes,) = plots.comparison(points, "ROUGE-1", top=50).axes
    assert axes.get_xlim() == (0, 50) and {text.get_text() for text in axes.texts} == {"12.3", "41.0"}
    rows = [{"bucket": "whole", "mean": {"value": 30.0, "low": 20.0, "high": 40.0}, "rows": 7}]
    (axes,) = plots.buckets({"model": rows}, "mean", "by length", top=60).axes
    assert axes.get_xlim() == pytest.approx((17, 61.2))


def test_outcomes_stacks_the_shares_of_each_system_to_one_and_writes_the_large_ones():
    figure = plots.outcomes(OUTCOMES, "Answers")
    [axes] = figure.axes
    assert figure.get_suptitle() == "Answers: writing 50% 'perfect', 30% 'partial'"
    assert ticks(axes.get_yticklabels()) == ["pointing", "writing"]  # the first system stands on top
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    np.testing.assert_allclose(ends, 1)
    assert legend(axes) == ["perfect", "partial", "zero"]
    assert sorted(text.get_text() for text in axes.texts) == ["20%", "25%", "30%", "50%", "70%"]


def test_outcomes_draws_five_kinds_and_refuses_a_sixth():
    five = dict.fromkeys(("right", "refused, rightly", "refused", "wrong", "invented"), 0.2)
    [axes] = plots.outcomes({"model": five}, "Answers").axes
    assert len({bar.get_facecolor() for part in axes.containers for bar in part}) == 5 and axes.containers[-1][0].get_x() == 0.8
    with pytest.raises(ValueError):
        plots.outcomes({"model": five | {"more": 0.0}}, "Answers")


def recorded() -> list:
    """Every committed figure of a lesson that is drawn from a record."""
    files = sorted(ROOT.glob("task-*/*/plots/*/figures.json"))
    records = [(file, name, record) for file in files for name, record in json.loads(file.read_text(encoding="utf8")).items()]
    return [pytest.param(record, id=f"{file.parents[2].name}-{name}") for file, name, record in records]


@pytest.mark.parametrize("record", recorded())
def test_titles_and_legends_of_the_published_figures_are_whole(record):
    figure = plots.redraw(record)
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    parts = [*figure.legends, figure._suptitle, *(axes.title for axes in figure.axes), *(axes.get_legend() for axes in figure.axes)]
    for box in (part.get_window_extent(renderer) for part in parts if part and getattr(part, "get_text", lambda: True)()):
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1


@pytest.mark.parametrize("classes", [2, 3, 12, 13, 30, 60])
def test_figures_have_room_for_the_classes_of_a_readers_file(classes, tmp_path):
    """No name runs into another one, and none is lost."""
    names = [f"class {number} " + "with a long name " * (number % 3) for number in range(classes)]
    matrix = np.random.default_rng(0).integers(0, 2_000, (classes, classes))
    part = {"value": 0.5, "low": 0.4, "high": 0.6}
    table = [{"class": name, "label": name, "precision": part, "recall": part, "f1": part, "support": 10, "tier": "good"} for name in names]
    figures = {
        "confusion": plots.confusion(matrix, names),
        "label_f1": plots.label_f1(table),
    }
    for name, figure in figures.items():
        plots.save(figure, tmp_path, f"{name}-{classes}")
        renderer, axes = FigureCanvasAgg(figure).get_renderer(), figure.axes[0]
        figure.draw(renderer)
        for labels, low, high in ((axes.get_xticklabels(), "x0", "x1"), (axes.get_yticklabels(), "y0", "y1")):
            labels = [label for label in labels if label.get_text().startswith("class")]  # the other axis may have numbers
            boxes = sorted((label.get_window_extent(renderer) for label in labels), key=lambda box: getattr(box, low))
            assert len(boxes) in (0, classes), name
            assert all(getattr(first, high) <= getattr(second, low) + 1 for first, second in itertools.pairwise(boxes)), name
        assert max(figure.get_size_inches()) < 20
    written = len(figures["confusion"].axes[0].texts)
    assert written == (classes**2 if classes <= plots.CROWD else 0)
