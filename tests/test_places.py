"""Where the course can be run: Colab, Kaggle, Codespaces, and what the first pages say of them."""

import json
import re

from shared.course import report
from shared.course.runtime import ROOT

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf8")


def test_the_codespace_installs_what_make_installs():
    told = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf8"))
    target = told["postCreateCommand"].removeprefix("make .venv")
    assert re.search(rf"^\$\(VENV\){re.escape(target)}:", MAKEFILE, re.MULTILINE)
    assert told["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    assert told["image"].split(":")[1] >= "3.11"


def test_the_readme_opens_every_lesson_on_both_places():
    text = (ROOT / "README.md").read_text(encoding="utf8")
    for lesson in report.lesson_folders():
        notebook = next(lesson.glob("*.ipynb")).relative_to(ROOT).as_posix()
        for address in (report.colab_link(report.repository(), notebook), report.kaggle_link(report.repository(), notebook)):
            assert f"({address})" in text


def test_the_commands_of_the_first_pages_exist():
    text = "".join((ROOT / page).read_text(encoding="utf8") for page in ("README.md", "README.id.md", "MACHINES.md"))
    for target in set(re.findall(r"`make ([a-z-]+)", text)):
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
    for module in set(re.findall(r"python -m (shared\.[\w.]+)", text)):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module
    for file in set(re.findall(r"requirements-[a-z]+\.txt", text)):
        assert (ROOT / file).is_file(), file
