"""All cells of lessons on a pretended GPU, in this process; says on stderr which cells fail, and goes on after each.

    python -m tests.pretend_gpu.run_notebook task-1/ag-news --capability 7.5 --set "train_rows=64 epochs=1"

The exit status is 1 where a cell has failed, or where a run has left no results or numbers that are not finite.
"""

from __future__ import annotations

import argparse
import json
import linecache
import math
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.course import standin
from shared.course.runtime import ROOT
from tests.pretend_gpu import start


def cells(notebook: Path) -> Iterator[tuple[int, str]]:
    """The code cells with their numbers among all cells, counted from 0."""
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf8"))["cells"]):
        if cell["cell_type"] == "code":
            yield number, "".join(cell["source"])


def run(notebook: Path) -> tuple[int, int]:
    """Execute the code cells in one namespace, from the notebook's own folder; returns how many failed and how many there are."""
    os.chdir(notebook.parent)
    space, failed, number = {"__name__": "__main__"}, 0, 0
    for number, (cell, source) in enumerate(cells(notebook), 1):
        name = f"<cell {cell}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)  # so that a traceback has the lines
        try:
            exec(compile(source, name, "exec"), space)
        except (Exception, SystemExit) as error:  # the setup cell exits where it finds no course
            failed += 1
            print(f"FAILED cell {cell} (code cell {number}): {type(error).__name__}: {str(error)[:400]}", file=sys.stderr)
            print(*frames(error), sep="\n", file=sys.stderr)
    return failed, number


def frames(error: BaseException) -> Iterator[str]:
    """The lines of a traceback that are in the notebook or in the course, and the one where it ends."""
    *inner, last = traceback.extract_tb(error.__traceback__)[1:] or traceback.extract_tb(error.__traceback__)
    for frame in [frame for frame in inner if "site-packages" not in frame.filename] + [last]:
        yield f"    {Path(frame.filename).name}:{frame.lineno}  {frame.line}"


def not_finite(value: Any, place: str = "results") -> Iterator[str]:
    """Where in a JSON document a number is NaN or infinite."""
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from not_finite(inside, f"{place}.{key}")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{place} is {value}"


def wrong_results(outputs: Path, lesson: str) -> list[str]:
    """What is wrong with the results of a lesson's newest run: that there are none, or numbers that are not finite."""
    runs = sorted(outputs.glob(f"*_{Path(lesson).name}*/"))  # the names begin with the time
    if not runs:
        return ["there is no run folder"]
    results = runs[-1] / "results.json"
    if not results.is_file():
        return [f"{runs[-1].name} has no results.json"]
    return list(not_finite(json.loads(results.read_text(encoding="utf8"))))


def succeeds(lesson: str, outputs: Path) -> bool:
    """Run a lesson and look at its results; what is wrong is printed, and at the end a line that sums up."""
    began = time.perf_counter()
    failed, number = run(next((ROOT / lesson).glob("*.ipynb")))
    wrong = wrong_results(outputs, lesson)
    for line in wrong:
        print(f"FAILED {line}", file=sys.stderr)
    seconds = time.perf_counter() - began
    print(f"{lesson}: {failed} of {number} code cells failed, results {'wrong' if wrong else 'fine'}, {seconds:.0f} s", flush=True)
    return not failed and not wrong


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("lessons", nargs="+", metavar="lesson", help="task-1/ag-news")
    parser.add_argument("--capability", default="7.5", help="compute capability: 7.5, a T4's, trains in fp16; 8.0, an A100's, in bf16")
    parser.add_argument("--set", default="", help='overrides of the configuration, "key=value key=value"')
    options = parser.parse_args()
    os.environ |= {"COURSE_SET": options.set, "MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    os.environ.setdefault("COURSE_PROFILE", "tiny")
    with tempfile.TemporaryDirectory(prefix="pretend-gpu-") as folder:
        outputs = Path(os.environ.setdefault("COURSE_OUTPUTS", folder))
        standin.start(os.environ["COURSE_PROFILE"])  # later bitsandbytes has imported the Hub's client
        start(f"Pretended GPU {options.capability}", tuple(map(int, options.capability.split("."))))
        went_well = [succeeds(lesson, outputs) for lesson in options.lessons]
    sys.exit(not all(went_well))


if __name__ == "__main__":
    main()
