"""What the cells of each lesson's `colab` do that takes time on a GPU, for `estimate`: trainings, readings, writings, with their rows.

A plan gets an `estimate.Plan` to fill and the configuration. Second trainings, trials, baselines, pitfalls, diagnoses and solutions
count, as Run All runs them; what takes seconds is left out. Tokens a row: see `estimate`. Seconds a thousand rows of work without a
GPU were measured on two cores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.course.estimate import Plan


def ag_news(p: Plan, c: dict[str, Any]) -> None:
    rows, test = p.rows("train_rows", "ag_news"), p.rows("test_rows", "ag_news", 2)
    held, few = 0.05 * rows, min(500, rows)
    p.training(54, rows - held, held, c["max_length"], checks=2)
    p.training(89, few, 0, c["max_length"], part="other", epochs=4, batch=16)  # exercise 1: in batches of random rows 89 positions a row
    p.reading(54, test)  # sorted by length
    p.reading(54, min(1_000, test), batch=8, part="other")  # exercise 1 again
    p.reading(54, held)  # exercise 2
    p.host(rows + test, 0.6)  # TF-IDF and logistic regression, overlap, tokens
    p.fetch()


def go_emotions(p: Plan, c: dict[str, Any]) -> None:
    train, held, test = (p.rows(f"{split}_rows", "go_emotions", k) for k, split in enumerate(("train", "validation", "test")))
    p.training(19, train, held, c["max_length"], checks=1)
    p.training(33, min(1_000, train), 0, c["max_length"], part="other", epochs=4, batch=16)  # exercise 1, in batches of random rows
    p.reading(19, 2 * (held + test))  # sorted by length, and again in exercise 1
    p.host(train, 1.1)  # 28 logistic regressions, tokens, thresholds
    p.fetch()


def mnli(p: Plan, c: dict[str, Any]) -> None:
    rows, test, length = p.rows("train_rows", "mnli"), p.rows("test_rows", "mnli", 1), c["max_length"]
    held, few, some = 0.03 * rows, min(2_000, rows), min(1_000, test)
    p.training(39, rows - held, held, length, checks=2)
    p.training(78, few, 0, length, part="other", epochs=2, batch=16)  # exercise 1: in batches of random rows 78 positions a pair
    p.training(25, few, 0, length, part="other", epochs=2, batch=16)  # and 25 a hypothesis
    p.reading(39, 2 * test)
    p.reading(68 + 22, some, batch=8, part="other")  # exercise 1 again
    p.reading(99, some)  # exercise 2: in the order of the rows the longest of 64 has 99 tokens
    p.host(rows + 2 * test, 0.8)  # TF-IDF and logistic regression, premises, tokens
    p.fetch()


def rte(p: Plan, c: dict[str, Any]) -> None:
    rows, first, given = p.rows("train_rows", "rte"), p.rows("mnli_rows", "mnli"), bool(c["mnli_model"])
    held, test = 0.1 * rows, p.rows("", "rte", 1)
    once = {"batch": 16, "checks": 1}
    for epochs in (c["epochs"], c["transfer_epochs"]):
        p.training(70, rows - held, held, c["max_length"], epochs=epochs, times=c["seeds"], **once)
        p.training(70, 0.1 * rows, held, c["max_length"], epochs=epochs, part="other", **once)  # exercise 1
    p.training(39, 0 if given else 0.9 * first, 0.1 * first, c["max_length"], epochs=1, part="other", times=not given, **once)
    p.reading(70, held + test + 64, batch=32, times=2 * c["seeds"] + 2)
    p.reading(70, test, batch=8)  # exercise 3
    p.fetch(*[c["model"]] * (1 + given), loads=2 * c["seeds"])


def extractive_squad(p: Plan, c: dict[str, Any]) -> None:
    rows, test = p.rows("train_rows", "squad"), p.rows("test_rows", "squad", 1)
    held, some = 0.03 * rows, min(300, test)
    p.training(187, 1.03 * (rows - held), 1.03 * held, c["max_length"], checks=2)
    p.training(260, 1.03 * min(500, rows), 0, c["max_length"], part="other", epochs=2, batch=16)  # exercise 1: in batches of random rows
    p.reading(187, 1.03 * (held + test + 40))
    p.reading(187, 1.03 * some, batch=8, part="other")  # exercise 1 again
    p.reading(187, 1.03 * some)  # exercise 3
    p.host(rows + held, 1.0)  # windows and labels
    p.host(test, 5.0)  # the baseline, scores, decoding several times
    p.fetch()


def t5_cnn_dailymail(p: Plan, c: dict[str, Any]) -> None:
    rows, name, batch, new = p.rows("train_rows", "cnn_dailymail"), "cnn_dailymail", c["batch_size"], c["max_target"]
    held, test, own = p.rows("validation_rows", name, 1), p.rows("test_rows", name, 2), 60
    tokens, checked = (0.94 * c["max_source"], min(75, new)), min(c["check_rows"], held)
    p.training(tokens, rows, 0, c["max_source"], new, checks=2)
    p.writing(tokens, checked, new, batch, part="checks", times=2 * c["epochs"])
    p.writing(tokens, held, new, batch, times=2)  # greedy, and with no trigram twice
    p.writing(tokens, held, new, batch, beams=4, times=3)
    p.writing(tokens, test, new, batch, beams=4)
    p.writing(tokens, own, new, batch, beams=4, times=4)  # before and after training, exercises 1 and 3
    p.training(tokens, min(200, rows), 0, c["max_source"], new, part="other", epochs=1, batch=8)  # exercise 1
    p.host(held, 15.0)  # ROUGE of five ways
    p.host(test, 25.0)  # ROUGE of three systems, names and numbers
    p.host(rows + held + test, 2.0)  # tokens, runs of eight words
    p.fetch(more=1.3)


def t5_en_id(p: Plan, c: dict[str, Any]) -> None:
    rows, shape, tokens = p.rows("train_rows", "en_id"), (c["max_tokens"], c["max_tokens"]), (24.0, 30.0)
    held, test, own, batch = p.rows("validation_rows", "en_id", 1), p.rows("test_rows", "en_id", 2), 120, c["batch_size"]
    p.training(tokens, rows, held, *shape, checks=2)
    p.writing(tokens, min(100, held), 60, batch)  # how many beams?
    p.writing(tokens, min(100, held), 60, batch, beams=4, times=2)
    p.writing(tokens, test, 60, batch)
    p.writing(tokens, test + own, 60, batch, beams=4)
    p.writing(tokens, test if c["translator"] else 0, 60, batch, beams=4, part="other")  # it has as many layers as T5-small
    p.writing(tokens, own, c["max_tokens"], batch, part="other", times=2)  # before training, and exercise 1
    p.writing(tokens, own, c["max_tokens"], batch, beams=4, part="other", times=3)  # exercise 2
    p.training(tokens, min(2_000, rows), 0, *shape, part="other", epochs=2)  # exercise 1
    p.reading(tokens, held, times=2, part="other")  # exercise 3
    p.host(2 * test, 26.0)  # BLEU and chrF of all systems, the nearest training pair
    p.host(rows, 0.5)
    p.fetch(more=0.75)  # the pairs and the trained translator


def t5_squad(p: Plan, c: dict[str, Any]) -> None:
    rows, test, own = p.rows("train_rows", "squad"), p.rows("test_rows", "squad", 1), 64
    shape, tokens, new, batch = (c["max_source"], c["max_target"]), (195.0, 7.0), min(25, c["max_target"]), c["batch_size"]
    p.training(tokens, rows, 0, *shape, checks=2)
    p.writing(tokens, c["held_out_rows"], new, batch, part="checks", times=2 * c["epochs"])
    p.writing(tokens, test, new, batch)
    p.writing(tokens, own, c["max_target"], own, times=5)  # before and after training, exercises 1 and 3
    p.writing(tokens, own, new, batch, beams=4, times=2)  # exercise 2
    p.training(tokens, min(500, rows), 0, *shape, part="other", epochs=2, batch=8)  # exercise 1
    p.host(rows, 2.0)
    p.host(test, 6.0)  # the baseline, scores, answers that are not in the text
    p.fetch()


def llm_sst2(p: Plan, c: dict[str, Any]) -> None:
    rows, test, held, own = p.rows("train_rows", "sst2"), p.rows("test_rows", "sst2", 1), c["held_out_rows"], 64
    batch, few = 2 * c["batch_size"], min(200, rows)
    p.training(27, rows, held, c["max_length"], answer=0.15, checks=4)  # rows of like length share their answers' places
    p.resident = p.deep(c["model"], "weights")
    p.training(13, rows, 0, c["max_length"], name=c["encoder"], part="other", epochs=2, batch=32)
    p.reading(13, test, name=c["encoder"], part="other", batch=8)
    p.reading(37, 3 * held + 2 * test, batch=batch)  # three prompts, before training and after it
    p.reading(37, own, batch=batch, times=6)  # before, after, exercises 1 and 3
    p.reading(4 * 27 + 37, own, batch=8, times=3)  # exercise 2
    p.training(27, few, 0, c["max_length"], answer=1, part="other", epochs=2, batch=8)  # exercise 1
    p.host(rows, 0.4)  # TF-IDF and logistic regression, tokens
    p.hold(p.resident)  # the copy that is loaded to try the adapters
    p.fetch(c["model"], c["encoder"])


def llm_squad_v2(p: Plan, c: dict[str, Any]) -> None:
    rows, test, p.cfg = p.rows("train_rows", "squad_v2"), p.rows("test_rows", "squad_v2", 1), c | {"checkpointing": True}
    held, together, longest = c["held_out_rows"], 5.5, c["max_length"] + 8 * 30  # a paragraph has seven questions, a row at most eight
    p.training(190 + 27 * together, rows / together, held / 3, longest, answer=6 * together, checks=3)
    p.writing(222, held + test + 80, c["max_new_tokens"], 4 * c["batch_size"], merged=True, times=2)
    p.writing(222, 169, c["max_new_tokens"], 4 * c["batch_size"], merged=True)  # the own text, exercise 3
    p.training(190 + 27 * together, 64, held / 3, longest, answer=6 * together, part="other", epochs=1, batch=4, checks=1)  # exercise 1
    p.training(190 + 27 * together, 64, held / 3, longest, answer=6 * together, part="other", epochs=1, batch=4, checks=1)
    p.hold(p.deep(c["model"], "weights") + 2 * 2 * p.deep(c["model"], "parameters"))  # two merged copies in 16 bits
    p.host(rows, 2.0)
    p.host(test + held, 10.0)
    p.fetch()


def phi2_xsum(p: Plan, c: dict[str, Any]) -> None:
    rows, held, test = (p.rows(f"{split}_rows", "xsum", k) for k, split in enumerate(("train", "validation", "test")))
    tokens, new, shape = min(459.0, 0.95 * c["max_length"]), c["max_new_tokens"], c["max_length"]
    p.cfg = c | {"checkpointing": True}
    p.training(tokens, rows, held, shape, answer=28, batch=4, checks=2)
    p.resident = 2 * p.deep(c["model"], "parameters")  # the merged copy, which writes, in 16 bits
    samples = c["samples"]
    p.writing(tokens, test, new, 16, merged=True, times=2 if samples > 1 else 1)  # greedily, before and after training
    p.reading(tokens, test + 60, max(1, 16 // samples))  # the consensus, also of the course's own articles: a prompt is read once
    p.writing(1, samples * (test + 60), new, 16, merged=True)
    p.training(tokens, min(64, rows), 0, shape, answer=28, batch=4, part="other", epochs=1, checks=0)  # exercise 1
    p.writing(tokens, 60, new, 16, merged=True, part="other", times=3)
    p.hold(p.deep(c["model"], "weights") + p.cache(16, shape))  # both copies, and what writing keeps
    p.hold(2 * p.deep(c["model"], "weights") + p.cache(16, 400))  # the adapters on a second base model, exercise 1
    p.host(test, 12.0)
    p.host(rows, 3.0)
    p.fetch(more=0.3, loads=3)


def lab_measuring(p: Plan, c: dict[str, Any]) -> None:
    rows, test = 0.9 * p.rows("train_rows", "sst2"), p.rows("", "sst2", 1)
    p.training(13, rows, 0, c["max_length"], times=c["seeds"])
    p.training(13, rows / 2, 0, c["max_length"], part="other")  # exercise 1
    p.reading(25, test, times=c["seeds"] + 1)
    p.reading(13, rows / 9, times=c["seeds"] + 1)
    p.host(rows, 2.0)  # 26 linear baselines
    p.host(p.rows("emotion_rows", "go_emotions"), 1.0)  # 28 logistic regressions
    p.host(p.rows("", "mnli", 1), 4.0)  # 20 logistic regressions
    p.host(p.rows("", "squad", 1), 0.5)  # words of every sentence
    p.fetch()


def lab_stride_and_spans(p: Plan, c: dict[str, Any]) -> None:
    rows, test = p.rows("train_rows", "squad_v2"), p.rows("test_rows", "squad_v2", 1)
    held = min(rows / 4, 4_000)
    p.training(187, 1.03 * (rows - held), 1.03 * held, c["max_length"], checks=1)
    p.training(187, 1.03 * min(300, rows), 103, c["max_length"], part="other", checks=1)  # exercise 1
    p.reading(187, 1.03 * (held + test + 80), times=2)  # by the reader before and after
    p.reading(187, 1.03 * min(300, test), part="other")  # exercise 1 again
    p.host(rows, 1.0)  # windows and labels
    p.host(held + test, 12.0)  # signs, scores, regressions for every article
    p.fetch(c["model"], c["model"])  # the reader, and the encoder's configuration


def lab_failures(p: Plan, c: dict[str, Any]) -> None:
    rows, held, test = (p.rows(f"{split}_rows", "xsum", k) for k, split in enumerate(("train", "validation", "test")))
    tokens, shape, new = min(459.0, c["article_tokens"] + 50), c["article_tokens"] + 100, c["max_new_tokens"]
    p.cfg = c | {"checkpointing": True}
    p.training(tokens, rows, 0, shape, answer=28, times=4 * c["seeds"], checks=0)  # one of them with logits for the prompts
    p.training(tokens, min(16, rows), 0, shape, answer=28, part="other", epochs=1, checks=0)  # exercise 1
    copies = 2 * p.deep(c["model"], "parameters") + 2 * p.deep(c["model"], "weights")  # two merged ones, one of them packed, and the model
    p.hold(copies + p.cache(16, tokens + new))
    p.reading(tokens, held, batch=1, times=4 * c["seeds"] + 1)
    p.writing(tokens, test + 8, new, 16, merged=True, times=6 * c["seeds"] + 1)
    p.writing(tokens, test + 8, new, 16, times=c["seeds"])  # merged into packed weights, which are unpacked at every token
    p.writing(tokens, 24, new, 16, merged=True, part="other")  # exercises 1 and 3
    p.host(test, 25.0)
    p.fetch(more=0.3, loads=4 * c["seeds"] + 3)


def lab_lora(p: Plan, c: dict[str, Any]) -> None:
    rows, test, held = p.rows("train_rows", "sst2"), p.rows("test_rows", "sst2", 1), c["held_out_rows"]
    usual, large = sorted(map(int, c["batch_sizes"].split(",")))[:2]
    lists = (c["seeds"], c["ranks"], c["rates"], c["full_rates"])
    seeds, ranks, rates, whole = (len(set(text.split(","))) for text in lists)  # ranks: beside that of `rank`
    half = 0.5  # a step of whole weights has half of the kernels of one with adapters
    scored = seeds * ((2 + ranks) * rates + 3 + half * whole)  # all layers, attention, each rank; rsLoRA twice, DoRA; whole weights
    larger, tested = 2 * seeds * (1 + half), seeds * (2 + half)  # at two rates in large batches; three methods for the test rows
    once, longest = {"answer": 0.15, "epochs": 1}, c["max_length"] + 20  # the question and the answer
    p.training(27, rows, 0, longest, batch=large, times=larger, **once)  # first, for its memory
    p.training(27, rows, 0, longest, batch=usual, times=scored + tested, **once)
    p.training(27, rows, 0, longest, batch=usual, times=2, part="other", **once)  # exercise 1
    p.reading(37, held, batch=2 * usual, times=scored + larger + 2)
    p.reading(37, test, batch=2 * usual, times=tested + half)
    p.reading(128, max(4, held // 15), batch=1, times=scored + larger + tested + 2)  # unrelated texts, one at a time
    p.hold(20 * p.deep(c["model"], "parameters") + p.deep(c["model"], "activations", 0.03))  # all weights in training, and their copy
    p.fetch(loads=1)


_ALL = (
    ag_news, go_emotions, mnli, rte, extractive_squad, t5_cnn_dailymail, t5_en_id, t5_squad, llm_sst2, llm_squad_v2, phi2_xsum,
    lab_measuring, lab_stride_and_spans, lab_failures, lab_lora,
)  # fmt: skip
PLANS: dict[str, Callable[[Plan, dict[str, Any]], None]] = {plan.__name__.replace("_", "-"): plan for plan in _ALL}
