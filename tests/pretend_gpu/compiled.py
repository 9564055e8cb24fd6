"""Compiles the pretended device once for each version of PyTorch, and says why where that cannot be done."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

SOURCE = Path(__file__).with_name("device.cpp")
FLAGS = ("-std=c++20", "-O1", "-w", "-fPIC", "-shared")  # hardly slower to compile than -O0, and faster


class CannotPretend(Exception):
    """This machine can't have a pretended GPU; the message says why."""


def torch_folder() -> Path:
    """Where PyTorch is installed, found without importing it."""
    found = util.find_spec("torch")
    if found is None:
        raise CannotPretend("PyTorch is not installed")
    return Path(found.origin).parent


def compiler() -> str:
    """The C++ compiler: CXX, else what is there under a usual name."""
    found = next(filter(None, map(shutil.which, (os.environ.get("CXX", ""), "g++", "c++", "clang++"))), None)
    if found is None:
        raise CannotPretend("there is no C++ compiler")
    return found


def library() -> Path:
    """Where the compiled device is kept, under a name that changes with its source, PyTorch's version and the machine's kind."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetuning-course"
    parts = (SOURCE.read_text(encoding="utf8"), *FLAGS, metadata.version("torch"), platform.machine())
    return cache / f"pretend-gpu-{hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}.so"


def build() -> Path:
    """The compiled device, made now unless it is there. Raises CannotPretend.

    Several processes may build at once: each compiles into a folder of its own, and a finished file takes its place in one step.
    """
    if sys.platform != "linux":
        raise CannotPretend(f"libraries are compiled and loaded here as Linux does it, and this is {sys.platform}")
    torch = torch_folder()
    if (torch / "lib" / "libtorch_cuda.so").exists():
        raise CannotPretend("this PyTorch was built with CUDA and has kernels of its own; the pretended device needs the CPU build")
    target = library()
    if not target.is_file():
        with temporary_folder(target.parent) as folder:
            _compile(torch, folder / "device.so")
            (folder / "device.so").replace(target)
    return target


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder of this process inside `parent`, so that what is made there can be renamed; it goes away afterwards."""
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="pretend-gpu.partial-", dir=parent) as folder:
        yield Path(folder)


def _compile(torch: Path, target: Path) -> None:
    include = torch / "include"
    headers = (f"-I{include}", f"-I{include / 'torch' / 'csrc' / 'api' / 'include'}")
    command = [compiler(), *FLAGS, *headers, str(SOURCE), "-o", str(target), f"-L{torch / 'lib'}", "-lc10", "-ltorch_cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.splitlines() or ["no reason given"]
        reason = next((line for line in said if "error" in line), said[0])
        raise CannotPretend(f"it does not compile with PyTorch {metadata.version('torch')}: {reason}")


@functools.cache
def why_not() -> str:
    """Why this machine can't have a pretended GPU, or nothing where it can. Compiles if that has not been done yet."""
    try:
        build()
    except CannotPretend as reason:
        return str(reason)
    return ""
