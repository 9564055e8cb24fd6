import sys

import numpy as np
import pytest
from datasets import Dataset

from shared.course.runtime import ROOT, CourseError

sys.path.insert(0, str(ROOT / "task-3" / "lab-lora"))

import lora_tools as tools
from lora_tools import AGAINST, OPEN, SUPPORT


def test_a_list_in_a_setting_is_sorted_and_without_doubles():
    assert tools.numbers("ranks", "64,1,4,4", int) == [1, 4, 64]
    assert tools.numbers("rates", "1e-3,3e-4") == [3e-4, 1e-3]
    with pytest.raises(CourseError, match="rates=1e-3;3e-4: write numbers with commas and no blanks"):
        tools.numbers("rates", "1e-3;3e-4")
    with pytest.raises(CourseError, match="seeds=0: give 2 or more different numbers"):
        tools.numbers("seeds", "0", int, least=2)
    with pytest.raises(CourseError, match="0 is too small"):
        tools.numbers("ranks", "0,4", int)
    assert tools.numbers("seeds", "0,1", int) == [0, 1]


def test_training_rows_that_are_pieces_of_a_scored_sentence_are_dropped():
    rows = Dataset.from_dict({"sentence": ["a slow and gentle film", "gentle film of manners", "a gem", "of manners and money too"]})
    kept = tools.without_pieces(rows, ["it is a slow and gentle film of manners"])
    assert kept["sentence"][:] == ["a gem", "of manners and money too"]  # two words stay, and four in a row of five


def test_the_matched_rank_gives_attention_as_many_trained_numbers():
    every, some = 10_176, 3_840  # inputs + outputs of a block of SmolLM2-135M, and of its attention
    assert tools.matched_rank(every, some, 16) == 42
    assert abs(42 * some / (16 * every) - 1) < 0.02
    assert tools.matched_rank(10, 100, 1) == 1  # never none


def test_the_interval_over_seeds_is_students():
    found = tools.over_seeds([0.30, 0.31, 0.32])  # t(2) = 4.303, standard error .01 / sqrt(3)
    assert found == pytest.approx({"value": 0.31, "low": 0.31 - 0.02484, "high": 0.31 + 0.02484}, abs=1e-5)
    with pytest.raises(CourseError, match="one seed says nothing about other seeds"):
        tools.over_seeds([0.5])


def test_a_difference_has_an_interval_over_seeds_and_one_over_rows():
    chance = np.random.default_rng(0)
    rows = chance.normal(size=200)
    b = np.stack([rows, rows, rows])
    a = b + 0.5 + 0.1 * chance.normal(size=(3, 200))
    found = tools.difference(a, b)
    assert found["seeds"]["value"] == pytest.approx(found["rows"]["value"]) == pytest.approx(0.5, abs=0.02)
    assert all(0.4 < part["low"] < part["value"] < part["high"] < 0.6 for part in found.values())
    with pytest.raises(CourseError, match="no pairs"):
        tools.difference(a[:2], b)


def test_the_best_rate_and_whether_it_lies_inside_the_grid():
    losses = {1e-4: [[3.0, 3.0], [1.0, 1.0]], 3e-4: [[1.0, 2.0], [2.0, 1.0]], 1e-3: [[4.0, 4.0], [4.0, 4.0]]}
    assert tools.best_rate(losses) == (3e-4, True)
    assert tools.best_rate({rate: losses[rate] for rate in (3e-4, 1e-3)}) == (3e-4, False)
    assert tools.best_of_each_seed(losses) == [3e-4, 1e-4]


def both(low, high, other_low=None, other_high=None):
    return {"seeds": {"low": low, "high": high}, "rows": {"low": other_low or low, "high": other_high or high}}


def test_a_sign_is_judged_by_both_intervals():
    assert tools.judge_sign(both(0.1, 0.2)) == SUPPORT
    assert tools.judge_sign(both(-0.2, -0.1)) == AGAINST
    assert tools.judge_sign(both(0.1, 0.2, -0.1, 0.3)) == OPEN


def test_equality_is_judged_by_a_margin():
    assert tools.judge_equal(both(-0.02, 0.03), 0.05) == SUPPORT
    assert tools.judge_equal(both(0.06, 0.2), 0.05) == AGAINST
    assert tools.judge_equal(both(-0.2, -0.06), 0.05) == AGAINST
    assert tools.judge_equal(both(-0.02, 0.03, -0.02, 0.06), 0.05) == OPEN


def test_a_range_needs_all_seeds_and_best_rates_inside_their_grids():
    assert tools.judge_range([10, 10, 30], 5, 30, True) == SUPPORT
    assert tools.judge_range([3, 1, 100], 5, 30, True) == AGAINST
    assert tools.judge_range([3, 10], 5, 30, True) == OPEN
    assert tools.judge_range([10, 10], 5, 30, False) == OPEN
