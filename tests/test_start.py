"""The page to begin with: its order of the lessons, its glossary, and the model in five lines."""

import re

import pytest

from shared.course import report
from shared.course.runtime import ROOT
from tests.programs import START
from tests.test_notebooks import checked, lines, load, prose, solutions, source

NOTEBOOK, CODE = load(START)
PROSE = prose(NOTEBOOK)
TERMS = (
    "token", "logit", "learning rate", "epoch", "warm-up", "mixed precision", "batch", "loss", "head", "baseline", "F1", "LoRA",
    "confidence interval", "threshold", "padding", "validation set", "fine-tuning", "prompt", "seed", "profile",
)  # fmt: skip


def order() -> list[tuple[int, str, list[int]]]:
    """(number, folder of the lesson, numbers of those to read before it), row by row."""
    rows = re.findall(r"^\| (\d+) \| \[[^]]+\]\((task-\d/[\w-]+)/\w+\.ipynb\) \|.*\| ([\d, –]+) \|$", PROSE, re.MULTILINE)
    return [(int(number), lesson, [int(n) for n in re.findall(r"\d+", before)]) for number, lesson, before in rows]


def test_every_lesson_has_its_place_after_what_it_needs():
    found = order()
    assert [number for number, *_ in found] == list(range(1, len(found) + 1))
    assert [lesson for _, lesson, _ in found] == [folder.relative_to(ROOT).as_posix() for folder in report.lesson_folders()]
    assert all(needed < number for number, _, before in found for needed in before)
    assert [before for _, _, before in found if not before] == [[]]  # the first one alone needs none


def test_the_glossary_has_a_heading_for_every_term_once():
    headings = re.findall(r"^#### (.+)$", PROSE, re.MULTILINE)
    assert len(headings) == len({heading.lower() for heading in headings}) >= 50
    assert set(TERMS) - set(headings) == set()


def test_a_model_is_used_in_five_lines():
    (cell,) = [cell for cell in CODE[1:] if "pipeline(" in source(cell)]
    assert cell is CODE[1] and lines(cell) == 5
    assert "".join(cell["outputs"][0]["text"]).strip()


def test_cells_are_short_and_some_are_checked():
    assert sum(map(checked, CODE)) >= 4
    for cell in CODE[1:]:
        assert lines(cell) <= 21 and max(map(len, source(cell).splitlines())) <= 100


def test_its_exercises_are_solved_out_of_sight():
    solved = solutions(CODE)
    assert solved == CODE[-2:] and all(cell["metadata"]["jupyter"]["source_hidden"] for cell in solved)


@pytest.mark.parametrize("page", ["README.md", "README.id.md", "task-1/README.md", "task-2/README.md", "task-3/README.md"])
def test_the_pages_lead_to_it(page):
    assert f"({'../' * page.count('/')}{START.name})" in (ROOT / page).read_text(encoding="utf8")
