"""The students' copy: no solution is left, all else is as it was, and the checks fit the course's own solutions."""

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from shared.course import report, student
from shared.course.runtime import ROOT, CourseError
from tests import links
from tests.programs import LABS, LESSONS, START
from tests.test_notebooks import checked, load, printed, prose, solutions, source

every_notebook = pytest.mark.parametrize("path", [START, *LESSONS, *LABS], ids=lambda path: path.stem)


def lesson_of(path: Path) -> str:
    """The name under which exercises.toml has a notebook."""
    return path.stem if path == START else path.parent.relative_to(ROOT).as_posix()


def checks(path: Path) -> dict:
    return student.checks(lesson_of(path))


def wrong_answers(path: Path) -> dict[str, list[str]]:
    """{number of the exercise: for each assert of its check an answer that it must refuse}."""
    return tomllib.loads((ROOT / "tests" / "wrong_answers.toml").read_text(encoding="utf8"))[lesson_of(path)]


def messages(number: str, path: Path) -> list[str]:
    """What the asserts of a check say when they fail, in their order."""
    nodes = [node for node in ast.walk(ast.parse(checks(path)[number]["check"])) if isinstance(node, ast.Assert)]
    return [ast.literal_eval(node.msg) for node in sorted(nodes, key=lambda node: node.lineno)]


def assigned(text: str) -> set[str]:
    """The names that a program defines at its top level, in loops and conditions as well."""
    found, nodes = set(), list(ast.parse(text).body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif not isinstance(node, (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.Lambda)):
            nodes.extend(ast.iter_child_nodes(node))
    return found


@pytest.fixture(scope="module")
def copied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course") / "student"
    student.copy(folder)
    return folder


def test_the_files_are_the_same_but_for_notebooks_and_what_authors_alone_need(copied):
    def files(root: Path) -> set[str]:
        return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}

    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split("\n")
    wanted = {name for name in listed if (ROOT / name).is_file() and not set(name.split("/")) & student.LEFT_OUT}
    assert wanted <= files(copied) <= files(ROOT) and (not listed[0] or len(wanted) > 100)
    assert not [name for name in files(copied) if name.startswith(("tests/", ".git/", ".github/"))]
    for name in wanted:
        if not name.endswith(".ipynb"):
            assert (copied / name).read_bytes() == (ROOT / name).read_bytes(), name


def test_no_link_of_the_copy_leads_nowhere(copied):
    assert [link for page in links.sources(copied) for link in links.broken_in(page, copied)] == []


@every_notebook
def test_no_solution_is_left_and_the_other_cells_are_as_they_were(path, copied):
    before, code = load(path)
    after, _ = load(copied / path.relative_to(ROOT))
    nbformat.validate(nbformat.from_dict(after))
    given = [cell for cell in after["cells"] if set(cell["metadata"].get("tags", [])) & {"answer", "check"}]
    kept = [cell for cell in after["cells"] if cell not in given]
    expected = [cell for cell in before["cells"] if cell not in solutions(code)]
    assert [source(cell).replace(student.INSTEAD, student.ASIDE) for cell in kept] == [source(cell) for cell in expected]
    assert [cell.get("outputs") for cell in kept] == [cell.get("outputs") for cell in expected]
    assert len(kept) == len(before["cells"]) - len(solutions(code)) and not any(cell["outputs"] for cell in given)
    assert student.INSTEAD in prose(after) and student.ASIDE not in prose(after)
    text = json.dumps(after)
    for cell in solutions(code):
        longest = max(source(cell).splitlines(), key=len)
        assert json.dumps(longest)[1:-1] not in text


@every_notebook
def test_the_first_answer_cells_name_what_is_asked_for(path, copied):
    after, _ = load(copied / path.relative_to(ROOT))
    answers = [source(cell) for cell in after["cells"] if "answer" in cell["metadata"].get("tags", [])]
    assert len(answers) == len(solutions(load(path)[1]))
    for number, answer in enumerate(answers, 1):
        names = checks(path).get(str(number), {"names": {}})["names"]
        assert answer.splitlines()[0] == f"# Exercise {number}: your code" and assigned(answer) == set(names)
        assert max(map(len, answer.splitlines())) <= 120


@every_notebook
def test_a_check_asks_for_new_names_that_the_solution_defines(path):
    _, code = load(path)
    solved = solutions(code)
    assert set(checks(path)) == {str(number) for number in range(1, len(solved) + 1)}
    earlier = set().union(*(assigned(source(cell)) for cell in code if cell not in solved))
    for number, known in checks(path).items():
        defined = assigned(source(solved[int(number) - 1]))
        assert set(known["names"]) <= defined and not set(known["names"]) & earlier, (number, set(known["names"]) & earlier)
        assert messages(number, path) and len(messages(number, path)) == len(wrong_answers(path)[number]), number
        assert max(map(len, student.check_cell(int(number), known))) <= 110, number


def run_check(number: int, text: str, capsys) -> str:
    lines = student.check_cell(number, checks(START)[str(number)])
    exec(f"{text}\n" + "\n".join(lines), {"np": np})
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "right", "wrong"),
    [
        (1, "all_steps, first_steps = 189, 19", "all_steps, first_steps = 186, 19"),
        (2, "both_probabilities = 1 / (1 + np.exp([-2.0, -1.0]))", "both_probabilities = np.array([0.731, 0.269])"),
    ],
)
def test_a_check_takes_the_right_answer_refuses_a_wrong_one_and_waits_for_none(number, right, wrong, capsys):
    names = " = ".join(checks(START)[str(number)]["names"])
    assert run_check(number, right, capsys) == f"exercise {number}: the check found no mistake\n"
    assert run_check(number, f"{names} = None", capsys) == f"exercise {number}: no answer yet\n"
    with pytest.raises(AssertionError, match=r"batches|sum to 1"):
        run_check(number, wrong, capsys)


def test_the_copy_runs_by_itself(copied):
    """By its own conftest and helpers, without an answer; nbval also compares the outputs that are the same everywhere."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "HF_", "PYTEST_"))}
    command = [sys.executable, "-m", "pytest", "--nbval-lax", "-q", "-n0", START.name]
    done = subprocess.run(command, cwd=copied, env=clean, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0 and f"{len(load(copied / START.name)[1])} passed" in done.stdout, done.stdout[-2_000:] + done.stderr[-500:]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf8")
    with pytest.raises(CourseError, match="is there already: name a new folder, or remove it first"):
        student.copy(tmp_path)
    assert student.main([str(tmp_path)]) == 2 and capsys.readouterr().err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_copy_inside_the_checkout_does_not_hold_itself(tmp_path):
    root = tmp_path / "course"
    (root / "task-1" / "demo").mkdir(parents=True)
    for name in ("00_start_here.ipynb", "task-1/demo/demo.ipynb"):
        (root / name).write_bytes(START.read_bytes())
    assert [path.relative_to(root).as_posix() for path in student.copy(root / "mine", root)] == [
        "mine/00_start_here.ipynb", "mine/task-1/demo/demo.ipynb",
    ]  # fmt: skip
    assert not (root / "mine" / "mine").exists()


def test_the_plan_has_twelve_weeks_and_every_lesson():
    text = (ROOT / "LECTURERS.md").read_text(encoding="utf8")
    assert re.findall(r"^\| (\d+) \| (?:\[|Projects)", text, re.MULTILINE) == [str(week) for week in range(1, 13)]
    for folder in report.lesson_folders():
        assert folder.name.startswith("lab-") or f"({folder.relative_to(ROOT).as_posix()}/" in text, folder.name


REFUSES = """
for _wrong in {wrong!r}:
    _names = dict(globals())  # the notebook's own stay as they are
    exec(_wrong, _names)
    try:
        exec({check!r}, _names)
    except AssertionError as _error:
        print("exercise {number} refuses:", _error)
    else:
        print("exercise {number} accepts:", _wrong)
"""


@pytest.mark.slow
@every_notebook
def test_the_checks_take_the_courses_own_solutions_and_refuse_wrong_answers(path):
    notebook, number = nbformat.read(path, 4), 0
    for cell in notebook.cells:
        if "solution" in cell.metadata.get("tags", []):
            number += 1
            known = checks(path)[str(number)]
            cell.source += "\n" + "\n".join(student.check_cell(number, known))
            cell.source += REFUSES.format(wrong=wrong_answers(path)[str(number)], check=known["check"], number=number)
    place = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, startup_timeout=300, kernel_name="python3", resources=place).execute()
    said = printed([cell for cell in notebook.cells if cell.cell_type == "code" and not checked(cell)])
    assert said.count("the check found no mistake") == len(checks(path))
    verdicts = re.findall(r"^exercise \d+ (?:refuses|accepts): .*", said, re.MULTILINE)
    assert verdicts == [f"exercise {number} refuses: {message}" for number in checks(path) for message in messages(number, path)]
