"""The course as students get it: every notebook with an empty cell where it had a solution, all else as it is.

    python -m shared.course.student ../for-students     make student FOLDER=../for-students

Below the empty cell comes one with asserts, where `exercises.toml` has some for that exercise. What only the course's authors run
(tests, continuous integration) stays behind.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

from shared.course import runtime
from shared.course.runtime import ROOT, CourseError

LEFT_OUT = {
    ".git", ".github", ".ci", ".venv", ".venv-site", "_site", "tests", "outputs", "student", "__pycache__", ".ipynb_checkpoints",
    ".pytest_cache", ".ruff_cache",
}  # fmt: skip
ASIDE = "The solutions are in the next cells; try first."
INSTEAD = "Write your answers in the next cells. A cell that begins with *Check* tells you whether your answer can be right."


def checks(lesson: str) -> dict[str, dict[str, Any]]:
    """{number of the exercise: {"names": {name: what it shall be}, "check": asserts}} of "task-1/ag-news"; {} where there are none."""
    return tomllib.loads(Path(__file__).with_name("exercises.toml").read_text(encoding="utf8")).get(lesson, {})


def without_solutions(notebook: dict[str, Any], found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The notebook (as its JSON says it) with an answer cell, and a check where `found` has one, for each cell tagged `solution`."""
    cells, number = [], 0
    for cell in notebook["cells"]:
        if "solution" in cell["metadata"].get("tags", []):
            number += 1
            cells += _answer(number, cell["id"], found.get(str(number)))
        elif cell["cell_type"] == "markdown":
            cells.append(cell | {"source": "".join(cell["source"]).replace(ASIDE, INSTEAD).splitlines(keepends=True)})
        else:
            cells.append(cell)
    return notebook | {"cells": cells}


def _answer(number: int, place: str, known: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The cells of one exercise: the student's, and its check."""
    names = known["names"] if known else {}
    cells = [_code(place, "answer", [f"# Exercise {number}: your code", *(f"{name} = None  # {what}" for name, what in names.items())])]
    if known:
        cells.append(_code(f"{place}-check", "check", check_cell(number, known)))
    return cells


def check_cell(number: int, known: dict[str, Any]) -> list[str]:
    """The lines of the cell that checks an exercise: asserts if it has been answered, and one line that says how it went."""
    unanswered = " or ".join(f"{name} is None" for name in known["names"])
    asserts = [f"    {line}" if line else "" for line in known["check"].strip().splitlines()]
    return [f"# Check of exercise {number}", f"if {unanswered}:", f'    print("exercise {number}: no answer yet")', "else:", *asserts,
            f'    print("exercise {number}: the check found no mistake")']  # fmt: skip


def _code(place: str, tag: str, lines: list[str]) -> dict[str, Any]:
    source = "\n".join(lines).splitlines(keepends=True)
    return {"cell_type": "code", "execution_count": None, "id": place, "metadata": {"tags": [tag]}, "outputs": [], "source": source}


def copy(target: Path, root: Path = ROOT) -> list[Path]:
    """Write the students' copy of `root` into a new folder; returns its notebooks. CourseError where the folder has something in it."""
    target = target.expanduser().resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CourseError(f"{target} is there already: name a new folder, or remove it first")

    def left_out(folder: str, names: list[str]) -> set[str]:
        return {name for name in names if name in LEFT_OUT or Path(folder, name).resolve() == target}

    with runtime.writing(target):
        shutil.copytree(root, target, ignore=left_out, dirs_exist_ok=True)
        notebooks = sorted([*target.glob("*.ipynb"), *target.glob("task-*/*/*.ipynb")])
        for path in notebooks:
            lesson = path.stem if path.parent == target else path.parent.relative_to(target).as_posix()
            given = without_solutions(json.loads(path.read_text(encoding="utf8")), checks(lesson))
            runtime.write_whole(path, json.dumps(given, indent=1, ensure_ascii=False) + "\n")
    return notebooks


@runtime.command_line
def main(argv: list[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(prog="python -m shared.course.student", description="copy the course without its solutions")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("student"), help="a new folder; default: student")
    target = parser.parse_args(argv).folder
    print(f"{len(copy(target))} notebooks without solutions are in {target}")


if __name__ == "__main__":
    sys.exit(main())
