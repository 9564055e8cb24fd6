"""What the first pages show of all lessons: their order, one table, one figure."""

import json
import math
import re
import shutil
from dataclasses import replace

import pytest
from PIL import Image

from shared import plots
from shared.course import overview, report
from shared.course.runtime import ROOT
from tests.programs import START

ROWS = report.overview_rows(ROOT, report.lesson_folders())


def test_the_order_names_every_lesson_and_nothing_before_what_it_builds_on():
    known = overview.order(ROOT)
    names = list(known)
    assert [lesson.name for lesson in report.lesson_folders()] == names
    for name, told in known.items():
        assert told["new"]["en"] and told["new"]["id"]
        assert all(names.index(before) < names.index(name) for before in told["before"])


def test_the_start_notebook_has_the_same_order():
    text = "".join("".join(cell["source"]) for cell in json.loads(START.read_text(encoding="utf8"))["cells"])
    rows = re.findall(r"^\| (\d+) \| \[[^]]+\]\(([^)]+)\) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert rows == [(str(row.number), row.notebook, row.new["en"], row.after) for row in ROWS]


def test_lessons_that_the_order_does_not_name_come_last():
    lessons = [ROOT / "task-1" / name for name in ("zeta", "rte", "alpha", "ag-news")]
    assert [lesson.name for lesson in overview.in_order(lessons, overview.order(ROOT))] == ["ag-news", "rte", "alpha", "zeta"]


@pytest.mark.parametrize(("language", "up"), [("en", ""), ("id", ""), ("en", "../")])
def test_the_table_has_a_line_a_lesson_with_links_that_lead_somewhere(language, up):
    lines = overview.table(ROWS, language, up).splitlines()
    assert len(lines) == 2 + len(ROWS)
    for line, row in zip(lines[2:], ROWS, strict=True):
        assert line.count(" | ") == 6
        assert row.new[language] in line and f"**{row.score[0]:.1f}**" in line
        links = [link for link in re.findall(r"\]\(([^)]+)\)", line) if not link.startswith("https://")]
        assert len(links) == 2 and all((ROOT / link.removeprefix(up)).is_file() and link.startswith(up) for link in links)
        assert re.search(r"\| \d+ / \d+( \+ \d+)? \|", line)  # the estimate for a T4, which another page has, and the measured minutes


def test_the_finding_counts_whole_intervals():
    above, inside = replace(ROWS[0], score=(50.0, 41.0, 60.0), baseline=40.0), replace(ROWS[0], score=(50.0, 39.0, 60.0), baseline=40.0)
    assert overview.finding([above, inside, above]).startswith("2 of 3 lessons")


def test_the_figure_tells_other_scores_from_other_addresses():
    same, other = [replace(row, colab="https://elsewhere") for row in ROWS], [replace(ROWS[0], score=(1.0, 0.5, 1.5)), *ROWS[1:]]
    assert overview.figure(same) == overview.figure(ROWS) != overview.figure(other)
    assert overview.figure(other)["arguments"]["scores"][0] == 1.0


def test_the_committed_figures_are_of_the_committed_results_and_of_todays_style():
    assert not report.stale_figures(), "run python -m shared.report"
    with Image.open(ROOT / overview.FIGURE) as image:
        assert image.width >= 1_400  # 200 dpi, shown at 700 pixels


# Figures that only their notebook can draw, since it draws them itself or adds a line or a scale; and those of runs before there
# were records, whose results do not have all numbers: the next run of their lesson records them.
DRAWN_BY_THE_NOTEBOOK = {"lab-measuring": {"coverage", "thresholds"}, "lab-speed": {"ladder"}}
UNRECORDED = {
    "lab-measuring": {"reliability"}, "extractive-squad": {"logits"}, "lab-stride-and-spans": {"curve", "learning_curve", "null_odds"},
}  # fmt: skip


@pytest.mark.parametrize("folder", sorted(ROOT.glob("task-*/*/plots/*")), ids=lambda folder: folder.parts[-3])
def test_every_committed_figure_is_redrawn_from_a_record_wide_and_says_what_it_shows(folder):
    records = json.loads((folder / "figures.json").read_text(encoding="utf8"))
    pictures, lesson = {path.stem: path for path in folder.glob("*.png")}, folder.parts[-3]
    unrecorded = UNRECORDED.get(lesson, set())
    assert set(pictures) - set(records) == DRAWN_BY_THE_NOTEBOOK.get(lesson, set()) | unrecorded
    for name in set(pictures) - unrecorded:
        with Image.open(pictures[name]) as picture:
            assert picture.width >= 1_400 and len(picture.info["Title"].split()) > 2, name


@pytest.mark.parametrize("folder", sorted(ROOT.glob("task-*/*/plots/laptop")), ids=lambda folder: folder.parts[-3])
def test_a_published_score_in_a_figure_is_that_of_the_report_which_names_its_source(folder):
    drawn = json.loads((folder / "figures.json").read_text(encoding="utf8")).get("comparison", {"arguments": {"scores": {}}})
    top = drawn["arguments"].get("top", 1)
    marks = {name: score["value"] for name, score in drawn["arguments"]["scores"].items() if name.startswith("published")}
    page = folder.parents[1] / "report.md"
    for name, value in marks.items():
        number = f"{value if top > 1 else 100 * value:.4g}"
        assert re.search(rf"(?<![\d.]){re.escape(number)}0?(?!\d)", page.read_text(encoding="utf8")), (name, number)


@pytest.mark.parametrize("lesson", report.lesson_folders(), ids=lambda lesson: lesson.name)
def test_a_run_on_other_rows_does_not_claim_the_recipe_that_was_chosen_for_the_published_one(lesson):
    results = report.lesson_results(lesson)[0]
    for part in results["data"].values():
        part["source"] = "bundled"
    page = report.render(lesson / "report.md.j2", results, "plots/laptop", "results/laptop.json")
    assert "(this run)" not in page and page.splitlines()[2].startswith("**A trial run**")


def height(page, width=916, line=24):
    """About the pixels of a page as GitHub shows it, with what is folded closed: in a browser these eleven were up to 11 % higher."""
    pixels = 0
    for part in re.split(r"\n\n+", re.sub(r"<details>.*?</details>", "folded", page.read_text(encoding="utf8"), flags=re.DOTALL)):
        if picture := re.fullmatch(r"!\[[^]]*\]\((.+)\)", part):
            with Image.open(page.parent / picture[1]) as image:
                pixels += min(width, image.width) * image.height / image.width + 16
        elif part.startswith("|"):
            pixels += sum(37 + line * (len(row) // 170) for row in part.split("\n")[1:]) + 16
        elif part.startswith("#"):
            pixels += 60
        else:
            rows = re.split(r"\n(?=- )", part)
            pixels += sum(line * math.ceil(len(row) / 128) for row in rows) + 16
    return pixels


@pytest.mark.parametrize("page", sorted(ROOT.glob("task-*/*/report.md")), ids=lambda page: page.parent.name)
def test_a_report_is_read_in_four_screens(page):
    assert 1_000 < height(page) <= 3_500  # of 900 pixels, with what the estimate leaves out


@pytest.mark.parametrize("page", sorted(ROOT.glob("task-*/*/report.md")), ids=lambda page: page.parent.name)
def test_the_alternative_text_of_a_report_s_figure_states_its_finding(page):
    shown = re.findall(r"!\[([^]]*)\]\((plots/[^)]+)\)", page.read_text(encoding="utf8"))
    told = {path: plots.finding(page.parent / path) for _, path in shown}
    assert shown and all(told[path].replace("[", "(").replace("]", ")") in text for text, path in shown)


def test_a_style_that_changes_draws_every_figure_again_from_what_is_recorded(tmp_path, monkeypatch):
    root, lesson = tmp_path / "course", ROOT / "task-1" / "ag-news"
    copied = root / "task-1" / "ag-news"
    shutil.copytree(lesson, copied)
    shutil.copyfile(ROOT / "pyproject.toml", root / "pyproject.toml")
    records = plots.save_all({"seeds": plots.seeds({"plain": [0.5]}, "accuracy")}, copied / "plots" / "laptop")
    (copied / "plots" / "laptop" / "figures.json").write_text(json.dumps(records))
    assert {path.name for path in report.write_pages(root)} >= {overview.FIGURE}
    assert report.stale_figures(root) == {}
    monkeypatch.setattr(plots, "STYLE", plots.STYLE + 1)
    monkeypatch.setattr(plots, "ORANGE", "#000000")
    before = (copied / "plots" / "laptop" / "seeds.png").read_bytes()
    assert {path.name for path in report.write_pages(root)} == {overview.FIGURE, "seeds.png"}
    assert (copied / "plots" / "laptop" / "seeds.png").read_bytes() != before and report.stale_figures(root) == {}
