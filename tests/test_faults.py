"""Faults survived: lessons killed and resumed, two at once, odd homes, a clock set back, a Hub that is slow, damaged or gone."""

import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from datasets import Dataset

from shared.course import runtime
from shared.course.runtime import ROOT, RunFolder
from shared.legacy import data, training
from tests import hub_standin
from tests.tiny_training import config, trainer_for

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
    for state in run.glob("checkpoints/checkpoint-*/trainer_state.json"):
        json.loads(state.read_text())
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


def test_a_clock_that_was_set_back_costs_no_checkpoint(tmp_path, monkeypatch):
    """The checkpoints of before bear a time that is still to come; the newest one must outlive them all the same."""
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    run = runtime.run_folder(config())
    training.fit(trainer_for(config(epochs=1.0), run, rows=24), run)
    for number, checkpoint in enumerate(sorted(run.checkpoints.glob("checkpoint-*"))):
        os.utime(checkpoint, (time.time() + 86_400 + 60 * number,) * 2)
    resumed = RunFolder(run.path, resumed=True)
    trainer = trainer_for(config(epochs=3.0), resumed, rows=24)
    training.fit(trainer, resumed)
    assert training.last_checkpoint(resumed).name == f"checkpoint-{trainer.state.global_step}"


# ---------------------------------------------------------------- the Hub


LOAD = """
import sys, time
from shared.legacy import data
from shared.course.runtime import CourseError
for where in sys.argv[1:]:
    started = time.perf_counter()
    try:
        rows = data.load_split(*where.split("/"))
        print("GOT", where, len(rows), data.record(rows)[where.split("/")[1]]["source"], "|", rows[0]["text"])
    except CourseError as error:
        print("ERROR", error)
    print("SECONDS", round(time.perf_counter() - started), flush=True)
    sys.stdin.readline()
"""
TRAIN, TEST = (f"GOT ag_news/{split} 8 hub: fancyzhx/ag_news | {split} row 0 of the stand-in" for split in ("train", "test"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """AG News on a Hub of our own, with rows that are nowhere else: no test takes the bundled ones for them."""
    root = tmp_path_factory.mktemp("hub")
    hub_standin.add_data(root, "ag_news")
    for split in ("train", "test"):
        columns = {"text": [f"{split} row {i} of the stand-in" for i in range(8)], "label": [0, 1, 2, 3] * 2}
        file = root / "datasets" / "fancyzhx" / "ag_news" / hub_standin.FILES["ag_news"].format(split=split)
        Dataset.from_dict(columns, features=data.SPECS["ag_news"].features).to_parquet(file)
    return hub_standin.Hub(root)


def load(hub, home: Path, *splits: str, trouble: dict | None = None, later: dict | None = None, **more: str) -> str:
    """What a process prints that loads the splits; `trouble` is the Hub's from the start, `later` from the second split on."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "HF_"))}
    hub.asked.clear()
    hub.trouble = trouble or {}
    with hub.serving() as address:
        own = {"COURSE_PROFILE": "laptop", "HF_ENDPOINT": address, "HF_HOME": str(home / "hf"), "PYTHONPATH": str(ROOT)}
        command, pipe = [sys.executable, "-c", LOAD, *splits], subprocess.PIPE
        process = subprocess.Popen(command, env=kept | own | more, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        first = []
        for line in process.stdout:
            first.append(line)
            if line.startswith("SECONDS"):
                break
        hub.trouble |= later or {}
        rest, errors = process.communicate("\n" * len(splits), timeout=240)
    assert process.returncode == 0, errors[-2_000:]
    return "".join([*first, rest])


@pytest.fixture(scope="module")
def cached(rows, tmp_path_factory):
    """A home in whose cache both splits lie, whole."""
    home = tmp_path_factory.mktemp("home")
    assert TRAIN in load(rows, home, "ag_news/train")
    return home


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE = {
    "rows cut in half": ("*.arrow", cut), "rows overwritten": ("*.arrow", lambda file: file.write_bytes(b"x" * file.stat().st_size)),
    "rows gone": ("*.arrow", Path.unlink),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_cache_is_fetched_again_from_the_hub(rows, cached, tmp_path, what):
    home = shutil.copytree(cached, tmp_path / "home", symlinks=True)
    pattern, damage = DAMAGE[what]
    damaged = list((home / "hf" / "datasets").rglob(pattern))
    assert damaged
    for file in damaged:
        damage(file)
    said = load(rows, home, "ag_news/train", "ag_news/test")
    assert TRAIN in said and TEST in said and "bundled" not in said
    assert said.count("NOTE: the cached copy of fancyzhx/ag_news is damaged") == 1
    assert any(path.endswith("train-00000-of-00001.parquet") for path in rows.asked)  # not from what lies in the cache


@pytest.mark.parametrize(("pattern", "offline"), [("*.arrow", "1"), ("dataset_info.json", "0")])
def test_a_damaged_cache_that_fetching_does_not_mend_is_named(rows, cached, tmp_path, pattern, offline):
    home = shutil.copytree(cached, tmp_path / "home", symlinks=True)
    for file in (home / "hf" / "datasets").rglob(pattern):
        cut(file)
    said = load(rows, home, "ag_news/train", HF_HUB_OFFLINE=offline)
    (line,) = [line for line in said.splitlines() if line.startswith("ERROR the cached copy of fancyzhx/ag_news is damaged (")]
    shutil.rmtree(re.search(r"delete (\S+) and load it again", line)[1])  # the cure
    assert "GOT" not in said and TRAIN in load(rows, home, "ag_news/train")


def test_a_network_lost_midway_mixes_no_sources(rows, tmp_path):
    """The second split is in the cache by then; another data set is not, and its bundled rows do not take its place."""
    said = load(rows, tmp_path, "ag_news/train", "ag_news/test", "rte/train", later={"/": 500})
    assert TRAIN in said and TEST in said
    assert "ERROR the Hub gave fancyzhx/ag_news but no train rows of nyu-mll/glue (" in said and "bundled (" not in said


def test_a_slow_download_succeeds(rows, tmp_path):
    said = load(rows, tmp_path, "ag_news/train", trouble={"fancyzhx": 1.0})
    assert TRAIN in said and int(re.search(r"SECONDS (\d+)", said)[1]) >= 3


def test_a_download_that_stalls_ends_in_a_clear_line(rows, tmp_path):
    patience = {"HF_HUB_DOWNLOAD_TIMEOUT": "1", "HF_HUB_ETAG_TIMEOUT": "1", "COURSE_DATA": "hub"}
    said = load(rows, tmp_path, "ag_news/train", trouble={"train-00000": 30.0}, **patience)
    assert said.startswith("ERROR cannot load fancyzhx/ag_news from the Hub (") and said.count("\n") == 2
    assert int(re.search(r"SECONDS (\d+)", said)[1]) < 120
