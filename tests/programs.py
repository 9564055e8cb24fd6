"""The course's Python: every module of the package and of a lab, and every notebook."""

import json
from pathlib import Path

from shared.course.runtime import ROOT

START = ROOT / "00_start_here.ipynb"  # no lesson: it comes before them
NOTEBOOKS = sorted(ROOT.glob("task-*/*/*.ipynb"))
PROGRAMS = [*sorted(ROOT.glob("shared/**/*.py")), *sorted(ROOT.glob("task-*/lab-*/*.py")), START, *NOTEBOOKS]


def program(path: Path) -> str:
    """The Python of a module, or of a notebook's cells one after another."""
    text = path.read_text(encoding="utf8")
    if path.suffix == ".py":
        return text
    return "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code")


LABS = [path for path in NOTEBOOKS if path.parent.name.startswith("lab-")]  # depth by topic, without a report
LESSONS = [path for path in NOTEBOOKS if path not in LABS]
