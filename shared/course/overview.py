"""What the first pages show of all lessons: one table in the order of teaching, and one figure, both from the committed results."""

from __future__ import annotations

import textwrap
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIGURE = "overview.png"
IN_SIGHT = r"\*"  # the READMEs say what it means
COLUMNS = {
    "en": "| | Lesson | New in it | After | Minutes, T4 / CPU | Score, baseline | |",
    "id": "| | Pelajaran | Yang baru | Sesudah | Menit, T4 / CPU | Skor, pembanding | |",
}


@dataclass(frozen=True)
class Row:
    """A lesson's line: numbers in the unit of its measure, 0 to 100, and links relative to the repository's root."""

    number: int
    title: str
    new: dict[str, str]
    after: str
    minutes: str
    measure: str
    score: tuple[float, float, float]
    baseline: float
    published: float | None
    notebook: str
    report: str
    colab: str
    kaggle: str
    in_sight: bool  # whether test scores were in sight when the recipe was chosen


def order(root: Path) -> dict[str, dict[str, Any]]:
    """What `lessons.toml` says of each lesson by the name of its folder, in the order of teaching; {} where there is no such file."""
    file = root / "shared" / "course" / "lessons.toml"
    return tomllib.loads(file.read_text(encoding="utf8")) if file.is_file() else {}


def in_order(lessons: list[Path], known: dict[str, Any]) -> list[Path]:
    """Lessons in the order of teaching; those that it does not name come last."""
    names = list(known)
    return sorted(lessons, key=lambda lesson: (names.index(lesson.name) if lesson.name in known else len(names), lesson.as_posix()))


def table(rows: list[Row], language: str = "en", up: str = "") -> str:
    """The table of lessons. `language` is "en" or "id", for Indonesian; `up` leads from the page to the root."""
    lines = [COLUMNS[language], "|--:|:--|:--|:--|:--|:--|:--|"]
    for row in rows:
        value, low, high = (f"{number:.1f}" for number in row.score)
        score = f"{row.measure} **{value}** [{low}, {high}]".replace(" ", "\N{NO-BREAK SPACE}").replace("-", "\N{NON-BREAKING HYPHEN}")
        links = f"[Colab]({row.colab}) [Kaggle]({row.kaggle}) [report]({up}{row.report})"
        lines.append(
            f"| {row.number} | [{row.title}]({up}{row.notebook}) | {row.new[language]} | {row.after} | {row.minutes} "
            f"| {score}{IN_SIGHT if row.in_sight else ''}<br>{row.baseline:.1f} | {links} |"
        )
    return "\n".join(lines)


def finding(rows: list[Row]) -> str:
    """What the figure shows, in a sentence: how many lessons lie above their baseline with their whole interval."""
    above = sum(row.score[1] > row.baseline for row in rows)
    return f"{above} of {len(rows)} lessons score above their baseline with the whole 95 % interval"


def figure(rows: list[Row]) -> dict[str, Any]:
    """What the figure is drawn from, as `plots.redraw` takes it."""
    shown = [[textwrap.fill(f"{row.title} ({row.measure})", 30), *row.score, row.baseline, row.published] for row in rows]
    columns = dict(zip(("names", "scores", "lows", "highs", "baselines", "published"), map(list, zip(*shown, strict=True)), strict=True))
    return {"plot": "overview", "arguments": {**columns, "finding": finding(rows)}}
