"""Several processes that train together (gloo on the CPU): the same rows a step, the same curve, one run folder."""

import json
import os
import re
import socket
import subprocess
import sys

import jsonschema
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from shared.course import runtime
from shared.course.runtime import ROOT
from tests.programs import LESSONS

SCHEMA = json.loads((ROOT / "tests" / "results.schema.json").read_text(encoding="utf8"))
LAUNCH = [sys.executable, "-m", "torch.distributed.run"]  # what `accelerate launch` calls for GPUs; for a CPU it starts one process alone


def environment(folder) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    return kept | {"COURSE_OUTPUTS": str(folder), "OMP_NUM_THREADS": "1"}


def run(folder, *command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, env=environment(folder), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    return done.stdout


def launched(folder, processes: int, *command: str) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return run(folder, *LAUNCH, "--nproc_per_node", str(processes), "--master_port", port, "-m", *command)


def curve(folder, name: str) -> dict[str, np.ndarray]:
    history = json.loads((folder / name / "logs" / "history.json").read_text(encoding="utf8"))
    keys = ("loss", "grad_norm", "eval_loss", "eval_accuracy")
    return {key: np.array([row[key] for row in history if key in row]) for key in keys}


@pytest.mark.slow
def test_two_processes_with_the_same_batch_have_the_curve_of_one(tmp_path):
    alike = ("--dropout", "0", "--random")
    run(tmp_path, sys.executable, "-m", "tests.tiny_training", "one", *alike)
    launched(tmp_path, 2, "tests.tiny_training", "two", *alike)
    one, two = curve(tmp_path, "one"), curve(tmp_path, "two")
    assert len(one["loss"]) == 24 and one["loss"][-1] < one["loss"][0]
    for key in one:
        np.testing.assert_allclose(two[key], one[key], atol=2e-3, err_msg=key)
    answers = [np.load(tmp_path / name / "logs" / "predictions.npy") for name in ("one", "two")]
    np.testing.assert_allclose(answers[1], answers[0], atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("lesson", [path.parent for path in LESSONS], ids=lambda folder: folder.name)
def test_every_lesson_runs_in_two_processes_and_writes_once(tmp_path, lesson):
    name = f"{lesson.parent.name}/{lesson.name}"
    if lesson.parent.name == "task-3":
        pytest.xfail("decoder lessons do not train in several processes yet: llm-sst2's second one fails in section 6")
    printed = launched(tmp_path, 2, "shared.course.run", name, "--profile", "tiny")
    wrote_once(tmp_path, lesson, printed)


@pytest.mark.slow
def test_the_cell_of_the_page_on_machines_runs_a_lesson_in_two_processes(tmp_path):
    readme = (ROOT / "MACHINES.md").read_text(encoding="utf8")
    (cell,) = re.findall(r"```python\n(from accelerate import notebook_launcher\n.*?)```", readme, re.DOTALL)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell.replace('"colab"', '"tiny"'))])
    client = NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}})
    client.execute(env=environment(tmp_path))
    printed = "".join(output.get("text", "") for output in notebook.cells[0].outputs)
    wrote_once(tmp_path, ROOT / "task-1" / "mnli", printed)


def wrote_once(outputs, lesson, printed: str) -> None:
    """Of the processes one has written: a valid results file with the lesson's metrics, a report and the notebook."""
    name = f"{lesson.parent.name}/{lesson.name}"
    assert printed.count(f"ok      {name}") == 1
    (folder,) = outputs.glob(f"*_{lesson.name}")
    results = json.loads((folder / "results.json").read_text(encoding="utf8"))
    jsonschema.validate(results, SCHEMA)
    committed = json.loads((lesson / "results" / "laptop.json").read_text(encoding="utf8"))
    assert results["metrics"].keys() == committed["metrics"].keys() and results["history"]
    assert (folder / "report.md").is_file() and (folder / f"{lesson.name.replace('-', '_')}.ipynb").is_file()


def test_one_process_asks_nobody():
    assert runtime.agreed(lambda: "mine") == "mine"
    done = []
    runtime.by_main_process(lambda: done.append(1))
    assert done == [1] and runtime.is_main_process()


def test_other_processes_write_nothing(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    done = []
    runtime.by_main_process(lambda: done.append(1))
    assert done == []
