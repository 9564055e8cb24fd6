"""What every pytest run needs, notebooks included: profile tiny, no network, nothing inherited from the shell but COURSE_PRECISION.

Training is in fp32 unless COURSE_PRECISION says otherwise, so that a test means the same on a processor with and without bf16.
"""

import contextlib
import os
import shutil
import sys
import tempfile

import pytest

from shared.course import forkserver, standin

for name in ("COURSE_DATA", "COURSE_SET", "COURSE_TEXTS", "COURSE_PROGRESS", "COURSE_REPO", "MPLBACKEND", "PYTHONDONTWRITEBYTECODE"):
    os.environ.pop(name, None)  # without bytecode every worker and every kernel would compile five thousand modules anew
os.environ |= {
    "COURSE_PROFILE": "tiny",
    "COURSE_PRECISION": os.environ.get("COURSE_PRECISION", "fp32"),
    "COURSE_OUTPUTS": tempfile.mkdtemp(prefix="course-outputs-"),
    "TOKENIZERS_PARALLELISM": "false",
    "CUDA_VISIBLE_DEVICES": "",  # the tests mean the CPU wherever they run
    "OMP_NUM_THREADS": "1",  # one worker a core already; tiny models gain nothing from threads
}

if sys.platform == "darwin":  # likewise; no variable hides a Mac's GPU
    import torch

    torch.backends.mps.is_available = lambda: False

standin.start("tiny")  # the Hub of this session, its workers and their kernels; before a library of the Hub is imported
SERVER = pytest.StashKey[contextlib.ExitStack]()


def pytest_configure(config):
    """Have the notebooks' kernels forked from a process with the libraries in it."""
    config.stash[SERVER] = contextlib.ExitStack()
    config.stash[SERVER].enter_context(forkserver.server())
    if forkserver.ADDRESS in os.environ:  # a worker of this session inherits the address
        forkserver.fork_kernels()


def pytest_sessionfinish(session, exitstatus):
    shutil.rmtree(os.environ["COURSE_OUTPUTS"], ignore_errors=True)
    session.config.stash[SERVER].close()
