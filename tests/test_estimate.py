"""The estimate of a lesson's minutes and memory on a T4: every lesson has one, and no default asks for more than a reader has."""

import ast
import json
import re
import tomllib
from functools import cache

import pytest

from shared.course import cost, estimate, plans
from shared.course.runtime import ROOT, CourseError
from shared.course.settings import overridden
from tests.programs import LABS, NOTEBOOKS

LESSONS = {path.parent.name: path for path in NOTEBOOKS if path not in LABS}
RECIPE = r"`((?:--set [^`]+)+)` \(an estimate: ([\d.]+) hours on a T4\)"


@cache
def row(lesson: str, overrides: str = "") -> dict:
    return estimate.estimate(LESSONS[lesson], overrides)


def texts(lesson: str) -> list[str]:
    """The markdown of a notebook as one line each cell."""
    cells = json.loads(LESSONS[lesson].read_text(encoding="utf8"))["cells"]
    return [" ".join("".join(cell["source"]).split()) for cell in cells if cell["cell_type"] == "markdown"]


def test_every_lesson_has_a_plan():
    assert set(LESSONS) <= set(plans.PLANS) <= {path.parent.name for path in NOTEBOOKS}  # a lab may have one


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_default_ends_in_time_and_fits_into_the_memory(lesson):
    found = row(lesson)
    assert found["minutes"] == pytest.approx(sum(found[part] for part in estimate.PARTS))
    assert all(found[part] >= 0 for part in estimate.PARTS) and found["training"] > 1
    assert 5 < found["minutes"] <= estimate.LIMIT
    assert 1 < found["gib"] <= cost.T4_GIB


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_notebook_says_the_same(lesson):
    """In its first cell the minutes of `colab`, and beside a line of overrides the hours of that recipe."""
    first, *others = texts(lesson)
    said = re.search(r"`colab` about (\d+) minutes on a Colab T4", first)
    assert abs(int(said[1]) - row(lesson)["minutes"]) <= 5 and "estimate" in first[said.start() : said.end() + 90]
    for text in others:
        for overrides, hours in re.findall(RECIPE, text):
            assert row(lesson, overrides.replace("--set ", ""))["minutes"] / 60 == pytest.approx(float(hours), rel=0.1)


@pytest.mark.parametrize("lesson", LESSONS)
def test_the_recipe_that_a_lesson_names_is_that_of_its_profile_paper(lesson):
    (line,) = [found for text in texts(lesson) for found, _ in re.findall(RECIPE, text)]
    said = overridden(lesson, estimate.settings_of(LESSONS[lesson]), line.replace("--set ", ""))
    paper = tomllib.loads((LESSONS[lesson].parent / "profiles.toml").read_text(encoding="utf8"))["paper"]
    assert said == {key: None if value == "all" else value for key, value in paper.items()}


def test_the_configuration_is_the_notebooks_own():
    settings = estimate.settings_of(LESSONS["ag-news"])
    assert settings["train_rows"] == 20_000 and settings["model"] == row("ag-news")["model"] == "google-bert/bert-base-uncased"


@pytest.mark.parametrize(
    ("lesson", "overrides"),
    [("ag-news", "epochs=4"), ("go-emotions", "epochs=5"), ("mnli", "train_rows=all"), ("rte", "seeds=9"), ("t5-squad", "epochs=4"),
     ("t5-en-id", "epochs=4"), ("llm-sst2", "epochs=3"), ("llm-squad-v2", "test_rows=4000"), ("phi2-xsum", "max_new_tokens=128")],
)  # fmt: skip
def test_more_work_takes_longer(lesson, overrides):
    assert row(lesson, overrides)["minutes"] > row(lesson)["minutes"] + 0.3


def test_fewer_rows_take_less_time_and_no_more_than_all_rows_are_counted():
    assert row("ag-news", "train_rows=2000")["training"] == pytest.approx(row("ag-news")["training"] / 10, rel=0.01)
    assert row("ag-news", "train_rows=500000") == row("ag-news", "train_rows=all")


def test_a_larger_batch_needs_more_memory():
    assert row("ag-news", "batch_size=64")["gib"] > row("ag-news")["gib"] + 1


@pytest.mark.parametrize(
    ("lesson", "overrides", "message"),
    [("rte", "epoch=3", "unknown --set key of rte 'epoch': did you mean 'epochs'"), ("rte", "epochs=many", "'epochs' takes a number"),
     ("rte", "model=xlnet", "unknown model in the estimate 'xlnet': known are google-bert/"),
     ("llm-sst2", "encoder=mpnet", "unknown model in")],
)  # fmt: skip
def test_what_it_does_not_know_is_one_clear_line(lesson, overrides, message):
    with pytest.raises(CourseError, match=re.escape(message)) as caught:
        row(lesson, overrides)
    assert "\n" not in str(caught.value)


def test_a_lesson_without_a_plan_is_named(tmp_path):
    notebook, source = tmp_path / "new" / "new.ipynb", 'cfg = course.settings("task-1/new", model="bert")\nrun = course.run_folder(cfg)'
    notebook.parent.mkdir()
    notebook.write_text(json.dumps({"cells": [{"cell_type": "code", "source": [source]}]}), encoding="utf8")
    assert estimate.settings_of(notebook) == {"model": "bert"}
    with pytest.raises(CourseError, match=r"new has no plan: say in shared/course/plans\.py"):
        estimate.estimate(notebook)


def test_the_command_line(capsys):
    assert estimate.main(["rte", "--set", "seeds=1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:3] == ["Lesson", "Model", "Training"] and said[1].split()[0] == "rte" and "yes" in said[1]
    assert said[-1] == "An estimate for a Colab T4, in minutes; nobody has measured it."


def test_the_page_on_machines_has_the_table_of_today(tmp_path):
    readme = ROOT / "MACHINES.md"
    copied = tmp_path / "MACHINES.md"
    copied.write_text(readme.read_text(encoding="utf8"), encoding="utf8")
    estimate.write([row(lesson) for lesson in LESSONS], copied)
    assert copied.read_text(encoding="utf8") == readme.read_text(encoding="utf8"), "run python -m shared.course.estimate --write"
    assert len(re.findall(r"^\| [a-z0-9-]+ \|.*\| yes \|", copied.read_text(encoding="utf8"), re.MULTILINE)) == len(LESSONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nothing"], "unknown lesson 'nothing'"), (["rte", "--write"], "--write takes every lesson"),
     (["task-1", "--set", "epochs=1"], "--set changes one lesson"),
     (["rte", "--set", "nothing=1"], "unknown --set key of rte 'nothing'")],
)  # fmt: skip
def test_a_mistake_on_the_command_line_is_one_line(capsys, arguments, message):
    assert estimate.main(arguments) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and message in said and "\n" not in said


def test_every_key_that_a_plan_reads_is_a_key_of_its_lesson():
    notebooks = {path.parent.name: path for path in NOTEBOOKS}
    tree = ast.parse((notebooks["rte"].parents[2] / "shared" / "course" / "plans.py").read_text(encoding="utf8"))
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        settings = estimate.settings_of(notebooks[function.name.replace("_", "-")])
        read = {n.slice.value for n in ast.walk(function) if isinstance(n, ast.Subscript) and getattr(n.value, "id", "") == "c"}
        assert read <= set(settings), function.name
