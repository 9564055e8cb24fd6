"""Forked processes: the libraries are there, nothing else is shared, signals and exit codes pass, and the server leaves nothing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shared.course import forkserver

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux forks")
SAY = """
import json, os, sys
print('wave' in sys.modules, 'marked' in vars(json), os.getcwd(), os.environ['WHO'], sys.argv[1:])
json.marked = 1
"""


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder of programs, with a server that has imported `wave`, a module that nothing else here imports."""
    (tmp_path / "say.py").write_text(SAY)
    (tmp_path / "leave.py").write_text("import sys; sys.exit(7)")
    (tmp_path / "wait.py").write_text("import time; print('waiting', flush=True); time.sleep(60)")
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    with forkserver.server(("json", "wave")):
        yield tmp_path


def test_a_forked_process_has_the_libraries_and_is_otherwise_its_own(modules):
    for who in ("first", "second"):
        done = subprocess.run(
            forkserver.command("say", who), cwd=modules, env=os.environ | {"WHO": who},
            capture_output=True, text=True, check=True, timeout=60,
        )
        assert done.stdout.strip() == f"True False {modules} {who} ['{who}']"


def test_the_streams_are_those_of_the_asking_process_whatever_the_server_had(modules):
    """A pipe where the server (under pytest's capture) has a file: one cannot be sought in, which `reconfigure` does."""
    change = "import sys\nfor stream in (sys.stdout, sys.stderr):\n    stream.reconfigure(errors='replace')\n    print('fine', file=stream)"
    (modules / "change.py").write_text(change)
    done = subprocess.run(forkserver.command("change"), cwd=modules, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "fine\n", "fine\n")


def test_without_a_server_the_same_command_starts_python_anew(modules, monkeypatch):
    monkeypatch.delenv(forkserver.ADDRESS)
    done = subprocess.run(
        forkserver.command("say", "x"), cwd=modules, env=os.environ | {"WHO": "me"}, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == f"False False {modules} me ['x']"
    monkeypatch.setenv(forkserver.ADDRESS, "")  # the server's context takes it away at its end


def test_exit_codes_and_signals_pass(modules):
    assert subprocess.run(forkserver.command("leave"), cwd=modules, check=False, timeout=60).returncode == 7
    waiting = subprocess.Popen(forkserver.command("wait"), cwd=modules, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert waiting.stdout.readline() == b"waiting\n"
    started = time.perf_counter()
    waiting.send_signal(signal.SIGINT)
    assert waiting.wait(timeout=30) != 0 and time.perf_counter() - started < 30


def test_the_server_ends_with_its_context(monkeypatch):
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    with forkserver.server(("json",)):
        address = Path(os.environ[forkserver.ADDRESS])
        with forkserver.server():  # one listens already
            assert os.environ[forkserver.ADDRESS] == str(address)
    assert forkserver.ADDRESS not in os.environ and not address.parent.exists()
