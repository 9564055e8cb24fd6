import itertools
import sys

import numpy as np
import pytest

from shared import qa
from shared.course.runtime import ROOT, CourseError

sys.path.insert(0, str(ROOT / "task-2" / "lab-stride-and-spans"))

import support
from support import FEATURES, READER, content_words, features, learned_weights, no_answer_probability, reader_signs, word_weights

CONTEXT = "Anna Lind rowed the lamp out in 1887. She kept the light for 31 years, and was not paid. Mr. Hale built the last boat."
ALIKE = word_weights(["none of the words"])  # every stem that is asked for weighs the same


def of(question, answer, context=CONTEXT, weight=ALIKE):
    """The features of one question by name."""
    start = context.index(answer)
    (row,) = features([question], [context], [(start, start + len(answer))], weight)
    return dict(zip(FEATURES, row.tolist(), strict=True))


def test_content_words_are_stems_without_function_words():
    assert content_words("When didn't the lamps of Anna's boats shine first?") == ["n't", "lamp", "anna", "boat", "shine", "first"]
    assert content_words("") == [] and content_words("what is the") == []


def test_a_words_weight_is_the_idf_of_its_stem():
    weight = word_weights(["the lamp", "a lamp and a boat", "the lamps", "the lamp"])  # three distinct texts
    assert weight("lamp") == 0 and weight("boat") == pytest.approx(np.log(4 / 2)) and weight("oar") == pytest.approx(np.log(4))
    with pytest.raises(CourseError, match="pass the training paragraphs"):
        word_weights([])


def test_coverage_of_the_sentence_the_one_before_the_best_and_the_paragraph():
    found = of("How many years did Anna Lind keep the lamp light?", "31 years")  # year anna lind keep lamp light
    assert found["words in the answer's sentence"] == pytest.approx(2 / 6)  # year light; kept is another stem
    assert found["words there or in the sentence before"] == pytest.approx(5 / 6)
    assert found["words in the best sentence"] == pytest.approx(3 / 6)
    assert found["words in the paragraph"] == pytest.approx(5 / 6)
    assert found["names and numbers in the answer's sentence"] == 0 and found["names and numbers in the paragraph"] == 1
    assert found["words of the question"] == 6


def test_rare_words_count_more():
    weight = {"lamp": 3.0, "boat": 1.0, "paid": 2.0}.get
    found = of("lamp boat paid", "Anna Lind", weight=weight)
    assert found["words in the answer's sentence"] == pytest.approx(3 / 6) and found["rarest word missing"] == 2
    assert of("lamp", "Anna Lind", weight=weight)["rarest word missing"] == 0


def test_neighbours_are_counted_in_their_order():
    name = "neighbours in the answer's sentence"
    assert of("Anna Lind rowed home", "1887")[name] == pytest.approx(2 / 3)
    assert of("Lind Anna rowed home", "1887")[name] == 0
    assert of("lamp", "1887")[name] == 0


@pytest.mark.parametrize(
    ("question", "turning", "quantity"),
    [("Who was not paid?", 1, 0), ("Who wasn't paid?", 1, 0), ("Who built the last boat?", 1, 0), ("How long did she stay?", 0, 1),
     ("In what year was it lit?", 0, 1), ("When was it lit?", 0, 1), ("Who built the boat?", 0, 0), ("Who has notes?", 0, 0)],
)  # fmt: skip
def test_words_that_turn_a_question_and_questions_for_a_quantity(question, turning, quantity):
    found = of(question, "1887")
    assert (found["turning words"], found["quantity asked"]) == (turning, quantity)


def test_what_the_answer_itself_shows():
    found = of("When did the years begin?", "31 years")
    assert found["words of the answer"] == pytest.approx(np.log(3)) and found["digit in the answer"] == 1
    assert found["answer said in the question"] == pytest.approx(1 / 2)
    assert of("When?", "Anna Lind")["digit in the answer"] == 0


def test_a_question_without_words_and_an_empty_paragraph_are_no_trouble():
    rows = features(["?", "Who rowed?"], [CONTEXT, ""], [(0, 4), (0, 0)], ALIKE)
    assert np.isfinite(rows).all() and rows[0, :4].tolist() == [0, 0, 0, 0] and rows[1, :4].tolist() == [0, 0, 0, 0]
    assert features([], [], [], ALIKE).shape == (0, len(FEATURES))


def test_the_sentence_is_the_one_that_has_the_answer_though_it_stands_twice():
    context = "It is late. It is late. The boat is late."
    positions = [support._sentence_at(context, support.split_sentences(context), place) for place in range(len(context))]
    ends = [11, 23, 41]  # of the sentences
    expected = [next(number for number, end in enumerate(ends) if place <= end) for place in range(len(context))]
    assert positions == expected


def test_shares_stay_shares_whatever_the_texts():
    rng = np.random.default_rng(0)
    pieces = ["Anna", "lamp", " ", ". ", "\n", "1887", "não", "🚤", "e\u0301", "?", "the", "n't", "A.", "", "  ", "３"]
    for _ in range(300):
        question, context = ("".join(rng.choice(pieces, 12)) for _ in range(2))
        start, end = sorted(rng.integers(0, len(context) + 1, 2))
        (row,) = features([question], [context], [(start, end)], word_weights([context]))
        shares = [0, 1, 2, 3, 5, 6, 7, 13]
        assert np.isfinite(row).all() and (row[shares] >= 0).all() and (row[shares] <= 1 + 1e-9).all()
        assert row[0] <= row[1] + 1e-9 and row[1] <= row[3] + 1e-9 and row[0] <= row[2] + 1e-9 and row[2] <= row[3] + 1e-9


def test_bad_input_is_named():
    with pytest.raises(CourseError, match="1 questions, 2 contexts and 1 answers"):
        features(["a"], ["b", "c"], [(0, 1)], ALIKE)
    with pytest.raises(CourseError, match="an answer at 0 to 9 lies outside its context of 1 characters"):
        features(["a"], ["b"], [(0, 9)], ALIKE)


# ---------------------------------------------------------------- the regression


def problem(rows=200, seed=0):
    """Signs of which the first tells, the gold, groups of four rows, and one half of the groups."""
    rng = np.random.default_rng(seed)
    gold = rng.random(rows) < 0.5
    signs = np.stack([gold + rng.normal(0, 0.7, rows), rng.normal(0, 1, rows)], axis=1)
    groups = np.arange(rows) // 4
    return signs, gold, groups, groups % 2 == 0


def area(gold, probability):
    """A brute-force area under the ROC curve."""
    pairs = itertools.product(probability[gold], probability[~gold])
    return np.mean([(one > other) + 0.5 * (one == other) for one, other in pairs])


def test_it_finds_the_sign_that_tells():
    signs, gold, groups, fit_on = problem()
    found = no_answer_probability(signs, gold, groups, fit_on)
    assert ((found > 0) & (found < 1)).all()
    assert area(gold[~fit_on], found[~fit_on]) > 0.8 and area(gold[fit_on], found[fit_on]) > 0.8
    first, second = learned_weights(signs, gold)
    assert first > 1 and abs(second) < 0.5


def test_the_gold_of_the_other_rows_is_not_looked_at():
    signs, gold, groups, fit_on = problem()
    again = no_answer_probability(signs, gold | ~fit_on, groups, fit_on)
    np.testing.assert_array_equal(no_answer_probability(signs, gold, groups, fit_on), again)


def test_no_row_is_judged_by_what_has_seen_its_group():
    """A sign that names the group, and gold that depends on the group alone: seen groups would be known, unseen ones are a guess."""
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(40), 5)
    gold = (rng.permutation(40) % 2 == 0)[groups]
    signs = np.eye(40)[groups]
    inside = no_answer_probability(signs, gold, groups, np.ones(len(groups), bool))
    assert area(gold, inside) < 0.6
    assert area(gold, support._regression().fit(signs, gold).predict_proba(signs)[:, 1]) == 1  # as seen groups are


def test_a_group_on_both_sides_is_refused():
    signs, gold, groups, _ = problem()
    with pytest.raises(CourseError, match="lies on both sides"):
        no_answer_probability(signs, gold, groups, np.arange(len(gold)) % 2 == 0)


@pytest.mark.parametrize("kept", [0, 4, 8])
def test_too_few_rows_give_the_share_and_a_line(capsys, kept):
    signs, gold, groups, _ = problem()
    gold = groups % 2 == 0  # whole groups of one kind: two groups are too few to be divided
    found = no_answer_probability(signs, gold, groups, np.arange(len(gold)) < kept)
    assert len(set(found.tolist())) == 1 and found[0] == (gold[:kept].mean() if kept else 0.5)
    assert f"NOTE: {kept} questions are too few" in capsys.readouterr().out


def test_one_kind_alone_has_no_weights():
    signs, gold, _, _ = problem()
    assert learned_weights(signs, np.zeros_like(gold)).tolist() == [0, 0]


def answers(contexts, spans, scores, null):
    """What a reader says to some questions: one span each, or None."""
    there = [span for span in spans if span]
    bounds = np.cumsum([0, *(span is not None for span in spans)])
    start, end = np.array(there or np.zeros((0, 2), int)).T
    return qa.Answers(contexts, bounds, start, end, np.array(scores), np.full(len(there), 0.5), np.array(null))


def test_reader_signs_compare_what_it_says_before_and_after():
    before = answers(["the red boat"] * 3, [(4, 12), (0, 7), None], [3.0, 2.0], [1.0, 2.0, 0.0])
    after = answers(["the red boat"] * 3, [(4, 12), (8, 12), None], [5.0, -1.0], [-2.0, 4.0, 0.0])
    found = dict(zip(READER, reader_signs(before, after).T.tolist(), strict=True))
    assert found["null odds"] == [-7, 5, 100] and found["null odds before"] == [-2, 0, 100]
    assert found["score of the answer"] == [5, -1, -100]
    assert found["probability of the answer"] == found["probability before"] == [0.5, 0.5, 0]
    assert found["same answer before"] == [1, 0, 1]
