"""What CONTRIBUTING asks of the helper package and a machine can see: functions under 40 lines, and nothing that stands there twice."""

import ast
from collections import defaultdict

import pytest

from shared.course.runtime import ROOT
from tests.programs import program

MODULES = sorted(ROOT.glob("shared/**/*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_stay_under_40_lines(path):
    nodes = [node for node in ast.walk(ast.parse(program(path))) if isinstance(node, FUNCTIONS)]
    assert [node.name for node in nodes if node.end_lineno - node.lineno + 1 >= 40] == []


def bodies(source: str) -> list[tuple[str, str]]:
    """(name, what it does) of each function of more than three statements or lines of code, and of each class; docstrings left out."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            body = node.body[1:] if ast.get_docstring(node) is not None else node.body
            text = "\n".join(ast.unparse(statement) for statement in body)
            if text.count("\n") >= 3:
                found.append((node.name, text))
    return found


def test_nothing_stands_in_two_modules():
    places = defaultdict(list)
    for path in MODULES:
        for name, text in bodies(program(path)):
            places[text].append(f"{path.relative_to(ROOT / 'shared').as_posix()}: {name}")
    assert [where for where in places.values() if len(where) > 1] == []


def test_a_copy_under_another_name_and_docstring_is_found():
    one = 'def one(x):\n    """One."""\n    a = x\n    b = a\n    c = b\n    return c'
    other = one.replace("one", "other").replace("One", "Another")
    assert bodies(one)[0][1] == bodies(other)[0][1] and bodies("def short(x):\n    return x") == []
