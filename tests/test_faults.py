"""Faults survived: lessons killed and resumed, two at once, odd homes. (Of a failing Hub see test_standin.py.)"""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from shared.course.runtime import ROOT

pytestmark = pytest.mark.slow
# of each family one lesson, with a training that is long enough to be hit: an encoder, an encoder–decoder, a decoder
LESSONS = {"task-1/ag-news": (), "task-2/t5-en-id": ("epochs=12",), "task-3/phi2-xsum": ("epochs=8",)}
PLACES = {"training": r"  6\. Train.*  step ", "evaluation": r"  [789]\. ", "writing": r"  6\. Train"}


def start(lesson: str, outputs: Path, *values: str, **variables: str) -> subprocess.Popen:
    settings = [word for value in (*LESSONS[lesson], *values) for word in ("--set", value)]
    command = [sys.executable, "-u", "-m", "shared.run", lesson, "--profile", "tiny", *settings]
    environment = os.environ | {"COURSE_OUTPUTS": str(outputs)} | variables
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def kill_at(process: subprocess.Popen, place: str, outputs: Path) -> str:
    """SIGKILL to the lesson's kernel once it is there; the runner's last words."""
    for line in process.stdout:
        if re.search(PLACES[place], line):
            break
    while place == "writing" and not list(outputs.glob("*/plots/*.png")):  # amid the results' files, of which the line tells too late
        time.sleep(0.001)
    while place == "training" and not list(outputs.glob("*/checkpoints/checkpoint-*/trainer_state.json")):  # there is something to resume
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
    """What a lesson measures if nothing happens to it."""

    @functools.cache
    def metrics(lesson: str) -> dict:
        outputs = tmp_path_factory.mktemp("undisturbed")
        finish(start(lesson, outputs))
        return scores(outputs)

    return metrics


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("lesson", LESSONS)
def test_a_killed_lesson_resumes_to_the_same_result(undisturbed, tmp_path, lesson, place):
    process = start(lesson, tmp_path)
    said = kill_at(process, place, tmp_path)
    assert process.returncode == 1 and f"FAILED  {lesson}" in said
    (run,) = tmp_path.glob(f"*_{Path(lesson).name}")
    assert not (run / "results.json").exists() and not (run / "report.md").exists()
    states = [json.loads(state.read_text()) for state in run.glob("checkpoints/checkpoint-*/trainer_state.json")]
    assert place != "training" or (states and min(state["global_step"] for state in states) < states[0]["max_steps"])
    output = finish(start(lesson, tmp_path, f"resume={run.name}"))
    assert f"ok      {lesson}" in output and list(tmp_path.glob(f"*_{Path(lesson).name}")) == [run]
    assert scores(tmp_path) == undisturbed(lesson)
    assert (run / "report.md").is_file() and not list(run.glob(".*"))


def test_two_runs_of_one_lesson_at_once_do_not_meet(undisturbed, tmp_path):
    for process in [start("task-1/ag-news", tmp_path), start("task-1/ag-news", tmp_path)]:
        finish(process)
    found = [json.loads(file.read_text(encoding="utf8"))["metrics"] for file in tmp_path.glob("*_ag-news*/results.json")]
    assert found == [undisturbed("task-1/ag-news")] * 2


def test_a_home_with_other_letters_and_spaces_is_no_trouble(undisturbed, tmp_path, monkeypatch):
    """Everything that follows the home: the outputs, the libraries' caches, Jupyter's runtime files, scratch files."""
    home = tmp_path / "Üñï çødé 家"
    (home / "scratch").mkdir(parents=True)
    for name in [name for name in os.environ if name.startswith(("HF_HOME", "XDG_", "JUPYTER_", "MPLCONFIGDIR"))]:
        monkeypatch.delenv(name)
    finish(start("task-1/ag-news", home / "läufe", HOME=str(home), USERPROFILE=str(home), TMPDIR=str(home / "scratch")))
    assert scores(home / "läufe") == undisturbed("task-1/ag-news")
