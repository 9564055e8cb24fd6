"""What every pytest run needs, notebooks included: profile tiny, no network, nothing inherited from the shell."""

import os
import shutil
import subprocess
import sys
import tempfile

import pytest

from tests import warm

for name in ("COURSE_DATA", "COURSE_SET", "COURSE_TEXTS", "COURSE_PROGRESS", "COURSE_REPO", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)  # without bytecode every worker and every kernel would compile five thousand modules anew
os.environ |= {
    "COURSE_PROFILE": "tiny",
    "COURSE_OUTPUTS": tempfile.mkdtemp(prefix="course-outputs-"),
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",  # the tests mean the CPU wherever they run
    "OMP_NUM_THREADS": "1",  # one worker a core already; tiny models gain nothing from threads
}

SERVER = pytest.StashKey[subprocess.Popen]()


def pytest_configure(config):
    """Have the notebooks' kernels forked from a process with the libraries in it. (macOS and Windows cannot: there they start anew.)"""
    if sys.platform != "linux":
        return
    if not hasattr(config, "workerinput"):  # the session itself, not one of its workers, which inherit the address
        os.environ[warm.ADDRESS] = os.path.join(tempfile.mkdtemp(prefix="course-warm-"), "socket")
        config.stash[SERVER] = subprocess.Popen(warm.command("--serve", os.environ[warm.ADDRESS]), stdin=subprocess.PIPE)
    warm.fork_kernels()


def pytest_sessionfinish(session, exitstatus):
    shutil.rmtree(os.environ["COURSE_OUTPUTS"], ignore_errors=True)
    if server := session.config.stash.get(SERVER, None):
        server.kill()
        shutil.rmtree(os.path.dirname(os.environ[warm.ADDRESS]), ignore_errors=True)
