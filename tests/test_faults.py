"""A lesson that is killed, at three points, and then resumed: nothing half-written, and the same result as without the kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.runtime import ROOT

pytestmark = pytest.mark.slow
PLACES = {"training": "6. Train", "evaluation": "7. Evaluate", "writing": "10. Save"}


def start(outputs: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-u", "-m", "shared.run", "ag-news", "--profile", "tiny", *options]
    environment = os.environ | {"COURSE_OUTPUTS": str(outputs)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def kill_at(process: subprocess.Popen, place: str, outputs: Path) -> str:
    """SIGKILL to the lesson's kernel once it is there; the runner's last words."""
    for line in process.stdout:
        if PLACES[place] in line and (place != "training" or "step" in line):
            break
    while place == "writing" and not list(outputs.glob("*/plots/*.png")):  # amid the files of the results
        time.sleep(0.001)
    children = psutil.Process(process.pid).children(recursive=True)
    (kernel,) = [child for child in children if "ipykernel_launcher" in " ".join(child.cmdline())]
    kernel.send_signal(signal.SIGKILL)
    return process.communicate(timeout=120)[0]


def scores(outputs: Path) -> dict:
    (file,) = outputs.glob("*/results.json")
    return json.loads(file.read_text(encoding="utf8"))["metrics"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("undisturbed")
    finish(start(outputs))
    return scores(outputs)


@pytest.mark.parametrize("place", PLACES)
def test_a_killed_lesson_resumes_to_the_same_result(undisturbed, tmp_path, place):
    process = start(tmp_path)
    said = kill_at(process, place, tmp_path)
    assert process.returncode == 1 and "FAILED  task-1/ag-news" in said
    (run,) = tmp_path.glob("*_ag-news")
    assert not (run / "results.json").exists() and not (run / "report.md").exists()
    for state in run.glob("checkpoints/checkpoint-*/trainer_state.json"):
        json.loads(state.read_text())
    output = finish(start(tmp_path, "--set", f"resume={run.name}"))
    assert "ok      task-1/ag-news" in output and list(tmp_path.glob("*_ag-news")) == [run]
    assert scores(tmp_path) == undisturbed
    assert (run / "report.md").is_file() and not list(run.glob(".*"))


def test_two_runs_of_one_lesson_at_once_do_not_meet(undisturbed, tmp_path):
    both = [start(tmp_path), start(tmp_path)]
    for process in both:
        finish(process)
    found = [json.loads(file.read_text(encoding="utf8"))["metrics"] for file in tmp_path.glob("*_ag-news*/results.json")]
    assert found == [undisturbed, undisturbed]


def test_a_home_with_other_letters_and_spaces_is_no_trouble(undisturbed, tmp_path):
    outputs = tmp_path / "Üñï çødé 家" / "läufe"
    finish(start(outputs))
    assert scores(outputs) == undisturbed
