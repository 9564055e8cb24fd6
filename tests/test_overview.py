"""What the first pages show of all lessons: their order, one table, one figure."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image

from shared.course import overview, report
from shared.course.runtime import ROOT
from tests.programs import START

ROWS = report.overview_rows(ROOT, report.lesson_folders())


def test_the_order_names_every_lesson_and_nothing_before_what_it_builds_on():
    known = overview.order(ROOT)
    names = list(known)
    assert [lesson.name for lesson in report.lesson_folders()] == names
    for name, told in known.items():
        assert told["new"] and told["baru"]
        assert all(names.index(before) < names.index(name) for before in told["before"])


def test_the_start_notebook_has_the_same_order():
    text = "".join("".join(cell["source"]) for cell in json.loads(START.read_text(encoding="utf8"))["cells"])
    rows = re.findall(r"^\| (\d+) \| \[[^]]+\]\(([^)]+)\) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert rows == [(str(row.number), row.notebook, row.new, row.after) for row in ROWS]


def test_lessons_that_the_order_does_not_name_come_last():
    lessons = [ROOT / "task-1" / name for name in ("zeta", "rte", "alpha", "ag-news")]
    assert [lesson.name for lesson in overview.in_order(lessons, overview.order(ROOT))] == ["ag-news", "rte", "alpha", "zeta"]


@pytest.mark.parametrize(("language", "up"), [("new", ""), ("baru", ""), ("new", "../")])
def test_the_table_has_a_line_a_lesson_with_links_that_lead_somewhere(language, up):
    lines = overview.table(ROWS, language, up).splitlines()
    assert len(lines) == 2 + len(ROWS)
    for line, row in zip(lines[2:], ROWS, strict=True):
        assert line.count(" | ") == 6
        assert getattr(row, language) in line and f"**{row.score[0]:.1f}**" in line
        links = [link for link in re.findall(r"\]\(([^)]+)\)", line) if not link.startswith("https://")]
        assert len(links) == 2 and all((ROOT / link.removeprefix(up)).is_file() and link.startswith(up) for link in links)
        assert re.search(r"\| \d+ / \d+ \|", line)  # the estimate for a T4, which another page has, and the measured minutes


def test_the_finding_counts_whole_intervals():
    above, inside = replace(ROWS[0], score=(50.0, 41.0, 60.0), baseline=40.0), replace(ROWS[0], score=(50.0, 39.0, 60.0), baseline=40.0)
    assert overview.finding([above, inside, above]).startswith("2 of 3 lessons")


def test_the_figure_is_drawn_again_when_a_score_changes_and_not_when_an_address_does(tmp_path):
    path = tmp_path / overview.FIGURE
    assert overview.is_stale(ROWS, path)
    overview.draw(ROWS, path)
    assert not overview.is_stale(ROWS, path)
    assert not overview.is_stale([replace(row, colab="https://elsewhere") for row in ROWS], path)
    assert overview.is_stale([replace(ROWS[0], score=(1.0, 0.5, 1.5)), *ROWS[1:]], path)
    with Image.open(path) as image:
        assert image.width >= 1_400  # 200 dpi, shown at 700 pixels


def test_the_committed_figure_is_of_the_committed_results():
    assert not overview.is_stale(ROWS, ROOT / overview.FIGURE), "run python -m shared.report"
