"""Windows and macOS, as far as they can be pretended here: paths, line ends, encodings, Ctrl-C, open files, no fork, a GPU that is none."""

import ast
import asyncio
import io
import os
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
import torch
import yaml
from nbclient import NotebookClient

from shared.course import forkserver, report, run, runtime, standin
from shared.course.runtime import ROOT, CourseError
from shared.course.settings import Settings
from tests.programs import program

MODULES = [*sorted(ROOT.glob("shared/**/*.py")), ROOT / "conftest.py"]
# What some system lacks. Forking is Linux' alone and has a module of its own, which looks before it does.
LACKING = {"fork", "kill", "killpg", "getppid", "execv", "getuid", "getloadavg", "uname", "mkfifo", "alarm", "setitimer"}
LACKING |= {"SIGALRM", "SIGKILL", "SIGCHLD", "SIGHUP", "SIGUSR1", "AF_UNIX"}
ABSENT = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "posix", "winreg", "msvcrt"}


@pytest.fixture
def windows(monkeypatch):
    """What the course asks: `sys.platform`. (`os.name` would have pathlib make paths that do not exist here.)"""
    monkeypatch.setattr(sys, "platform", "win32")


# ---------------------------------------------------------------- files


def calls(path: Path) -> list[tuple[str, ast.Call]]:
    nodes = [node for node in ast.walk(ast.parse(program(path))) if isinstance(node, ast.Call)]
    return [(getattr(node.func, "attr", getattr(node.func, "id", "")), node) for node in nodes]


def mode(name: str, call: ast.Call) -> str:
    """What an open file is for: "r", "wb", ...; of the two methods of a path, what they do."""
    if name != "open":
        return {"read_text": "r", "write_text": "w"}[name]
    given = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    place = 1 if isinstance(call.func, ast.Name) else 0  # open(path, mode), path.open(mode)
    given += call.args[place : place + 1]
    return given[0].value if given and isinstance(given[0], ast.Constant) and isinstance(given[0].value, str) else "r"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_has_an_encoding_and_the_line_ends_of_unix(path):
    """Else Windows reads and writes in the code page of the country, and its line ends make other bytes of the same text."""
    for name, call in calls(path):
        if name not in ("open", "read_text", "write_text") or ast.unparse(call.func).startswith("Image."):
            continue
        kind, keywords = mode(name, call), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if "b" not in kind:
            assert keywords.get("encoding") == "'utf8'", ast.unparse(call)
            assert kind == "r" or keywords.get("newline") == r"'\n'", ast.unparse(call)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_is_used_that_windows_or_macos_lacks(path):
    tree = ast.parse(program(path))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported & ABSENT == set()
    attributes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in attributes if ast.unparse(node.value) in ("os", "signal", "socket")}
    assert path.name == "forkserver.py" or used & LACKING == set()


def test_a_written_file_has_the_line_ends_of_unix(tmp_path):
    runtime.write_whole(tmp_path / "page.md", "one\ntwo – three\n")
    assert (tmp_path / "page.md").read_bytes() == "one\ntwo – three\n".encode()


def busy(monkeypatch, times: int) -> list[Path]:
    """Has `times` moves refused, as Windows does while another program has the file open; the targets that were tried."""
    tried, replace = [], Path.replace

    def refuse(self, target):
        tried.append(target)
        if len(tried) <= times:
            raise PermissionError(13, "The process cannot access the file because it is being used by another process")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    monkeypatch.setattr(runtime.time, "sleep", lambda seconds: None)
    return tried


@pytest.mark.usefixtures("windows")
def test_a_file_that_is_open_for_a_moment_is_replaced_after_it(tmp_path, monkeypatch):
    tried = busy(monkeypatch, 3)
    runtime.write_whole(tmp_path / "page.md", "new")
    assert len(tried) == 4 and (tmp_path / "page.md").read_text() == "new"


@pytest.mark.usefixtures("windows")
def test_a_file_that_stays_open_is_named_with_the_cure(tmp_path, monkeypatch):
    busy(monkeypatch, 99)
    line = r"^cannot write to the-run \(The process cannot access.*\): close the program that has it open, .* and run this cell again"
    with pytest.raises(CourseError, match=line), runtime.writing("the-run"):
        runtime.write_whole(tmp_path / "page.md", "new")
    assert list(tmp_path.iterdir()) == []


def test_elsewhere_nobody_waits_for_what_is_forbidden(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    tried = busy(monkeypatch, 99)
    with pytest.raises(PermissionError):
        runtime.write_whole(tmp_path / "page.md", "new")
    assert len(tried) == 1


# ---------------------------------------------------------------- paths


@pytest.mark.parametrize("kind", [PureWindowsPath, PurePosixPath])
def test_links_of_pages_have_slashes(kind):
    root = kind("C:/course") if kind is PureWindowsPath else kind("/course")
    lesson = root / "task-1" / "ag-news"
    assert report.link(lesson / "report.md", root) == "task-1/ag-news/report.md"
    assert report.link(lesson / "report.md", root / "task-1") == "ag-news/report.md"
    assert report.link(lesson / "report.md", root / "task-3") == "../task-1/ag-news/report.md"


def test_a_run_on_another_drive_is_shown_whole(monkeypatch):
    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    monkeypatch.setattr(os.path, "relpath", relpath)
    assert run._shown(Path("runs") / "one") == str(Path("runs") / "one")


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("google-bert/bert-base-uncased", "google-bert-bert-base-uncased"),
        ("t5-scratch", "t5-scratch"),
        ("C:\\models\\my bert", "C-models-my-bert"),
        ("..\\runs\\x\\model", "runs-x-model"),
        ("/models/a:b*c?", "models-a-b-c"),
        ("model.", "model"),
        ("x/" * 200 + "last", "x-" * 28 + "last"),
        ("моя/модель", "моя-модель"),
        ("//", "model"),
    ],
)
def test_a_model_gives_a_run_folder_a_name_that_every_system_takes(model, name, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    made = runtime.run_folder(Settings("task-1/ag-news", "tiny", {"model": model, "resume": ""}))
    assert made.name[19:] == f"_{name}_ag-news" and made.path.parent == tmp_path


def test_the_path_of_the_stand_ins_cache_leaves_windows_room(monkeypatch, tmp_path):
    """`datasets` names a lock after the whole path of what it locks: GoEmotions' takes twice the cache's path and 103 letters, of 259."""
    monkeypatch.setattr(standin.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert standin.platform.node() in standin._work_folder().name
    monkeypatch.setattr(sys, "platform", "win32")
    folder = standin._work_folder()
    temporary = 36  # letters of the usual one below a user's folder, whose name Windows cuts to eight
    assert 2 * (temporary + len(f"\\{folder.name}\\hf\\datasets")) + 103 <= 259


SETS = [
    (r"data=C:\data\my.csv model=..\runs\x epochs=1", {"data": r"C:\data\my.csv", "model": r"..\runs\x", "epochs": "1"}),
    (r'data="C:\my data\pairs.csv" note=' + "'C:\\n'", {"data": r"C:\my data\pairs.csv", "note": r"C:\n"}),
    (r'data="C:\my data"\pairs.csv', {"data": r"C:\my data\pairs.csv"}),
    (r"data=\\server\rows\ epochs=1", {"data": "\\\\server\\rows\\", "epochs": "1"}),
    ('data="D:\\" epochs=1', {"data": "D:\\", "epochs": "1"}),
    ("note=#1 data='a # b'", {"note": "#1", "data": "a # b"}),
]


@pytest.mark.parametrize(("text", "found"), SETS)
def test_backslashes_come_through_and_quotes_hold_words_together(text, found):
    assert runtime.parse_overrides(text) == found


@pytest.mark.parametrize("value", [r"C:\data\my.csv", r"..\runs\x", r"C:\my data\it's.csv", 'C:\\a "b".csv', "D:\\"])
def test_what_the_command_line_sets_reaches_the_kernels_as_it_was(value, monkeypatch):
    for name in ("COURSE_SET", "COURSE_DATA"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    run.prepare_environment(run.parse(["--set", f"data={value}", "--set", "epochs=1"]))
    assert runtime.parse_overrides(os.environ["COURSE_SET"]) == {"data": value, "epochs": "1"}


# ---------------------------------------------------------------- kernels and terminals


class Manager:
    """A kernel manager that notes which thread interrupts it."""

    def __init__(self, has_kernel: bool = True, fails: type[Exception] | None = None):
        self.has_kernel, self.fails, self.asked = has_kernel, fails, []

    async def interrupt_kernel(self):
        self.asked.append(asyncio.get_running_loop())
        if self.fails:
            raise self.fails


def test_ctrl_c_is_passed_on_by_the_kernels_own_managers(monkeypatch, capsys):
    """`os.kill` would end the process on Windows; the manager sets the event that a kernel waits for there."""
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("os.kill"))
    interrupts = run.Interrupts()
    interrupts.kernels = [Manager(), Manager(has_kernel=False), Manager(fails=ProcessLookupError), Manager(fails=RuntimeError)]
    before = set(threading.enumerate())
    interrupts.pressed(2, None)
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
    assert [len(manager.asked) for manager in interrupts.kernels] == [1, 0, 1, 1]
    printed = capsys.readouterr()
    assert printed.out == "\ninterrupting; no further lesson is started\n" and printed.err == ""
    interrupts.pressed(2, None)
    with pytest.raises(KeyboardInterrupt):  # the third one is the runner's own
        interrupts.pressed(2, None)
    interrupts.kernels = [Manager(has_kernel=False)]
    interrupts.presses = 0
    with pytest.raises(KeyboardInterrupt):
        interrupts.pressed(2, None)


@pytest.mark.parametrize(("platform", "flags"), [("linux", {}), ("darwin", {}), ("win32", {"creationflags": 512})])
def test_a_kernel_on_windows_does_not_get_the_consoles_ctrl_c_as_well(platform, flags, monkeypatch, tmp_path):
    """The second one would end a training without its checkpoint."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    started = []
    monkeypatch.setattr(NotebookClient, "execute", lambda self, **how: started.append(how))
    path = tmp_path / "empty.ipynb"
    path.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', encoding="utf8")
    run.execute(path, run.Progress("task-9/empty", tmp_path / "events", io.StringIO()), run.parse([]))
    (how,) = started
    assert {key: value for key, value in how.items() if key not in ("env", "cleanup_kc")} == flags


@pytest.mark.parametrize("why", ["win32", "darwin", "no fork"])
def test_without_fork_kernels_and_programs_start_as_usual(why, monkeypatch):
    monkeypatch.delenv(forkserver.ADDRESS, raising=False)
    if why == "no fork":
        monkeypatch.delattr(os, "fork", raising=False)
    else:
        monkeypatch.setattr(sys, "platform", why)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a server"))
    with forkserver.server():
        assert forkserver.ADDRESS not in os.environ
    assert forkserver.command("shared.course.run", "--list") == [sys.executable, "-u", "-m", "shared.course.run", "--list"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_live_line_needs_no_codes_of_a_terminal_and_fits_it(monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "40")
    (tmp_path / "events").touch()
    terminal = Terminal()
    progress = run.Progress("task-1/a-lesson-of-a-long-name", tmp_path / "events", terminal)
    progress.on_cell("6. Train the model on all texts", 12, 40)
    progress._rewrite(progress.line())
    progress._rewrite("short")
    first, second = terminal.getvalue().split("\r")[1:]
    assert first == progress.line()[:39] and second == f"{'short':39}"


def test_a_console_that_lacks_a_character_shows_a_question_mark(monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, console)
    runtime.print_anything()
    print("86 \N{RIGHTWARDS ARROW} 91 – 中")
    console.flush()
    assert console.buffer.getvalue().split(b"\r\n")[0].strip() == "86 ? 91 – ?".encode("cp1252")


# ---------------------------------------------------------------- what the machine has


def test_a_gpu_of_apples_that_takes_nothing_is_none(monkeypatch):
    """As on GitHub's machines: https://github.com/actions/runner-images/issues/9918."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)

    def ones(*_, device):
        raise RuntimeError("MPS backend out of memory (MPS allocated: 0 bytes, max allowed: 7.93 GB). Tried to allocate 256 bytes")

    monkeypatch.setattr(torch, "ones", ones)
    assert runtime.device() == "cpu"
    assert not torch.backends.mps.is_available()  # nor does the Trainer see it


def test_the_systems_own_proxies_are_kept_where_the_stand_in_hands_on(monkeypatch):
    for name in [name for name in os.environ if name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(standin, "getproxies", lambda: {"http": "http://proxy:1", "https": "http://proxy:2", "ftp": "http://proxy:3"})
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert standin._system_proxies() == {"HTTP_PROXY": "http://proxy:1", "HTTPS_PROXY": "http://proxy:2"}
    monkeypatch.setenv("https_proxy", "http://mine:1")  # then Python asks the environment alone
    assert standin._system_proxies() == {}


def test_windows_and_macos_run_the_lessons_in_continuous_integration():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf8"))["jobs"]
    (job,) = [job for job in jobs.values() if "matrix.system" in str(job["runs-on"])]
    assert job["strategy"]["matrix"]["system"] == ["windows-latest", "macos-latest"] and job["env"]["COURSE_PROFILE"] == "tiny"
    steps = "\n".join(step.get("run", "") for step in job["steps"])
    for command in ("pip install -r requirements.txt -c constraints.txt", "python -m pytest --nbval-lax", "python -m shared.run ag-news"):
        assert command in steps
