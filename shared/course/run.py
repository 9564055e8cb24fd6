"""Run lessons from the command line: execute notebooks headless, with a live line of where each one is.

    python -m shared.run task-1/ag-news --profile laptop --set train_rows=2000 --set epochs=1
    python -m shared.run --profile tiny --keep-going          all lessons and labs, on a CPU two at a time
    COURSE_DATA=folder python -m shared.run ag-news --commit  put notebook, results, plots and report into the lesson

The executed notebook, results, plots, report and model land in `outputs/<run>/`; the lesson's own folder changes only
with --commit.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from shared.course import forkserver, report, runtime, standin
from shared.course.runtime import ROOT, CourseError, unknown


def find_lessons(names: list[str]) -> list[Path]:
    """The notebooks meant by names: 'task-1/ag-news', 'ag-news', a whole 'task-1', 'lessons' or 'labs', or nothing for all."""
    known = {path.parent.relative_to(ROOT).as_posix(): path for path in sorted(ROOT.glob("task-*/*/*.ipynb"))}
    if not names or names == ["all"]:
        return list(known.values())
    chosen = []
    for name in names:
        wanted = name.strip("/")
        matches = [path for key, path in known.items() if wanted in (key, *key.split("/"), "labs" if "/lab-" in key else "lessons")]
        if not matches:
            raise unknown("lesson", name, list(known))
        chosen += [path for path in matches if path not in chosen]
    return chosen


# ---------------------------------------------------------------- live progress


class Progress:
    """The live line of one notebook: section, cell, training step, seconds.

    A terminal sees one line rewritten twice a second; a log, and a terminal that other lessons write to as well
    (`alone` false), a line per section, one when a training has made its first step, and one every 30 seconds.
    """

    def __init__(self, name: str, events: Path, stream=sys.stdout, alone: bool = True):
        self.name, self.events, self.stream = name, events, stream
        self.rewritten = alone and stream.isatty()
        self.section, self.cell, self.run_path = "starting", "", None
        self.started, self.said, self.shown = time.perf_counter(), ("", False), 0.0
        self._done, self._position, self._step = threading.Event(), 0, ""
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def __enter__(self) -> Progress:
        self._ticker.start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()
        self._ticker.join()
        self.read_events()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def read_events(self) -> None:
        """Take in what the lesson appended to the progress file since the last look."""
        with open(self.events, "rb") as stream:  # bytes: text on Windows has other line ends than it seems
            stream.seek(self._position)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                self._position += len(line)
                event = json.loads(line)
                self.run_path = event.get("run", self.run_path)
                if "step" in event:
                    self._step = f"  step {event['step']}/{event['of']}"

    def on_cell(self, section: str, cell: int, cells: int) -> None:
        if section != self.section:
            self._step = ""
        self.section, self.cell = section, f"cell {cell}/{cells}"

    def line(self) -> str:
        return f"{self.name}  {self.section}  {self.cell}{self._step}  {self.seconds:.0f} s"

    def _tick(self) -> None:
        while not self._done.wait(0.5):
            self.read_events()
            if self.rewritten:
                self._rewrite(self.line())
            elif (news := (self.section, bool(self._step))) != self.said or self.seconds - self.shown > 30:
                self.said, self.shown = news, self.seconds
                self.stream.write(self.line() + "\n")
            self.stream.flush()
        if self.rewritten:
            self._rewrite("")
            self.stream.write("\r")

    def _rewrite(self, text: str) -> None:
        """Put the text in place of the line; with spaces, since not every terminal of Windows knows a code that clears one."""
        width = shutil.get_terminal_size().columns - 1
        self.stream.write(f"\r{text[:width]:{width}}")


# ---------------------------------------------------------------- execution


class Interrupts:
    """Pass Ctrl-C on to the running lessons' kernels, which then keep a checkpoint; the third one ends this process.

    Lessons therefore run outside the main thread: there nbclient would answer Ctrl-C by killing the kernel.
    """

    def __init__(self):
        self.kernels: list[AsyncKernelManager] = []
        self.presses = 0

    def __enter__(self) -> None:
        self.presses, self.usual = 0, signal.getsignal(signal.SIGINT)
        signal.signal(signal.SIGINT, self.pressed)

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGINT, self.usual)

    def pressed(self, number, frame) -> None:
        self.presses += 1
        running = [manager for manager in self.kernels if manager.has_kernel]
        if self.presses > 2 or not running:
            raise KeyboardInterrupt
        print("\ninterrupting; no further lesson is started", flush=True)
        for manager in running:  # each in a thread: where this one has an event loop already, it cannot run another
            threading.Thread(target=self._pass_on, args=(manager,)).start()

    @staticmethod
    def _pass_on(manager: AsyncKernelManager) -> None:
        """A signal, or on Windows, which has none for other processes, the event that the kernel waits for."""
        with contextlib.suppress(OSError, RuntimeError):  # it has just ended
            asyncio.run(manager.interrupt_kernel())


def _apart() -> dict[str, int]:
    """How a kernel is started so that `Interrupts` alone reaches it: a console of Windows would send it a Ctrl-C as well.

    The second one ends a training at once, without its checkpoint.
    """
    return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP} if sys.platform == "win32" else {}


INTERRUPTS, FINISHING = Interrupts(), threading.Lock()


def execute(path: Path, progress: Progress, options: argparse.Namespace) -> tuple[nbformat.NotebookNode, Exception | None]:
    """Run a notebook in a fresh kernel of this very interpreter; the notebook comes back also where a cell failed."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:  # a run that fails must not show what another run printed
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    sections = _sections(notebook)
    manager = AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[]), kernel_name="python3")
    client = NotebookClient(
        notebook,
        km=manager,
        timeout=options.timeout,
        skip_cells_with_tag="solution" if options.skip_solutions else "skip-execution",
        startup_timeout=300,  # a busy machine may need more than the usual minute
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
        extra_arguments=["--IPKernelApp.log_level=50"],  # no word about the unencrypted loopback connection and other clients
        on_cell_start=lambda cell, cell_index: progress.on_cell(
            sections[cell_index], cell_index + 1, len(notebook.cells)
        ),
    )
    INTERRUPTS.kernels.append(manager)
    try:
        # a kernel that we made is not nbclient's to end unless told
        client.execute(cleanup_kc=True, env=os.environ | {"COURSE_PROGRESS": str(progress.events)}, **_apart())
        error = None
    except Exception as caught:  # whatever stops a lesson is reported as its failure
        error = caught
    finally:
        INTERRUPTS.kernels.remove(manager)
    return clean(notebook), error


def _sections(notebook: nbformat.NotebookNode) -> list[str]:
    """For every cell, the last second-level heading above it."""
    found, current = [], "start"
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            headings = [line[3:].strip() for line in cell.source.splitlines() if line.startswith("## ")]
            current = headings[-1] if headings else current
        found.append(current)
    return found


WITH_A_GPU = {  # what Colab and Kaggle give a notebook that is opened there
    "accelerator": "GPU",
    "colab": {"gpuType": "T4", "provenance": []},
    "kaggle": {
        "accelerator": "nvidiaTeslaT4", "isGpuEnabled": True, "isInternetEnabled": True, "language": "python", "sourceType": "notebook",
    },
}  # fmt: skip


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Drop what breaks rendering or differs between machines (widget state, timing), make the plots small, ask for a GPU."""
    notebook.metadata.pop("widgets", None)
    notebook.metadata |= WITH_A_GPU
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            shown = output.get("data", {})
            shown.pop("application/vnd.jupyter.widget-view+json", None)
            if "image/png" in shown:
                shown["image/png"] = _with_palette(shown["image/png"])
    return notebook


def _with_palette(image: str) -> str:
    """A base64 PNG in 128 colours of its own choice: a plot hardly has more, and the file has half the size."""
    small = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(image))) as plot:
        plot.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return min(base64.b64encode(small.getvalue()).decode(), "".join(image.split()), key=len)


def reason(error: Exception) -> str:
    """The line of an execution error that names the cause."""
    if isinstance(error, CellExecutionError):
        return f"{error.ename}: {error.evalue}".removeprefix("CourseError: ")
    return str(error).strip().splitlines()[-1]


def run_lesson(path: Path, options: argparse.Namespace) -> bool:
    """Execute one lesson, save what it made, say how it went; True on success."""
    name = path.parent.relative_to(ROOT).as_posix()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:  # Windows deletes no file that is still open
        events = Path(scratch) / "progress.jsonl"
        events.touch()
        with Progress(name, events, alone=options.jobs == 1) as progress:
            notebook, error = execute(path, progress, options)
    if not runtime.is_main_process():  # of several that train together; the first one writes and tells
        return error is None
    with FINISHING:
        return _finish(path, progress, notebook, error, options.commit)


def _finish(path: Path, progress: Progress, notebook: nbformat.NotebookNode, error: Exception | None, commit: bool) -> bool:
    """Save what a lesson made and say how it went; one at a time, as they write the same pages."""
    name = progress.name
    folder = Path(progress.run_path) if progress.run_path else runtime.outputs_root() / "failed"
    folder.mkdir(parents=True, exist_ok=True)
    executed = folder / path.name
    runtime.write_whole(executed, nbformat.writes(notebook) + "\n")
    if error:
        print(f"FAILED  {name}  in {progress.section}, {progress.cell}, after {progress.seconds:.0f} s: {reason(error)}")
        for line in _last_lines(notebook):
            print(f"        {line}")
        print(f"        the notebook up to there: {_shown(executed)}", flush=True)
        return False
    try:
        _render_and_commit(path, folder, executed, commit)
    except CourseError as error:  # results are whole; the other lessons still have their turn
        print(f"FAILED  {name}  ran, and its results are in {_shown(folder)}, but not every page could be written: {error}", flush=True)
        return False
    page = "report.md" if (folder / "report.md").is_file() else "results.json"  # labs have no report
    print(f"ok      {name}  {progress.seconds:.0f} s  {page.partition('.')[0]}: {_shown(folder / page)}", flush=True)
    return True


def _render_and_commit(path: Path, folder: Path, executed: Path, commit: bool) -> None:
    """Render the run's own report and, with --commit, put everything into the lesson and render all pages."""
    if (path.parent / "report.md.j2").is_file():
        report.render_run(path.parent, folder)
    if commit:
        changed = report.commit_run(path.parent, folder, executed)
        name = path.parent.relative_to(ROOT).as_posix()
        print(f"committed to {name}; rendered {', '.join(_shown(p) for p in changed) or 'nothing new'}")


def _last_lines(notebook: nbformat.NotebookNode, count: int = 3) -> list[str]:
    """What the failing cell printed last: after Ctrl-C, the line that resumes."""
    for cell in reversed(notebook.cells):
        outputs = cell.get("outputs", [])
        if any(output.output_type == "error" for output in outputs):
            text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
            return text.strip().splitlines()[-count:]
    return []


def _shown(path: Path) -> str:
    """The path from here; the whole one from another drive of Windows."""
    try:
        return os.path.relpath(path, Path.cwd())
    except ValueError:
        return str(path)


# ---------------------------------------------------------------- command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shared.run", description="execute lessons headless")
    parser.add_argument("lessons", nargs="*", metavar="LESSON", help="task-1/ag-news, ag-news, task-1, lessons, labs; default: all")
    parser.add_argument("--profile", help="tiny, laptop, colab or paper; default: colab with a CUDA GPU, else laptop")
    parser.add_argument("--data", help="a folder of <name>/<split>.parquet, 'hub' or 'bundled'")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override the configuration")
    parser.add_argument("--commit", action="store_true", help="copy notebook, results and plots into the lesson")
    parser.add_argument("--skip-solutions", action="store_true", help="leave out the solutions of the exercises, many of which train")
    parser.add_argument("--keep-going", action="store_true", help="go on with the next lesson after a failure")
    parser.add_argument("--jobs", type=int, help="lessons at a time; default: 2 on a CPU, 1 with --commit, whose seconds are published")
    parser.add_argument("--timeout", type=int, default=6 * 3600, help="seconds a single cell may take")
    parser.add_argument("--list", action="store_true", help="list the lessons and stop")
    return parser.parse_args(argv)


def prepare_environment(options: argparse.Namespace) -> None:
    """Hand the options to the kernels, which read them from the environment. Checks what can be checked at once."""
    if options.profile:
        os.environ["COURSE_PROFILE"] = options.profile
    os.environ["COURSE_PROFILE"] = runtime.profile()
    data = options.data or os.environ.get("COURSE_DATA", "")
    if data and data not in ("hub", "bundled"):  # relative to here, not to the notebook's folder
        os.environ["COURSE_DATA"] = str(Path(data).expanduser().resolve())
    elif data:
        os.environ["COURSE_DATA"] = data
    if options.set:
        pairs = {key: value for word in options.set for key, value in runtime.parse_overrides(shlex.quote(word)).items()}
        os.environ["COURSE_SET"] = " ".join(shlex.quote(f"{key}={value}") for key, value in pairs.items())
    if os.environ.get("COURSE_OUTPUTS"):
        os.environ["COURSE_OUTPUTS"] = str(Path(os.environ["COURSE_OUTPUTS"]).expanduser().resolve())
    if options.commit and options.skip_solutions:
        raise CourseError("--commit publishes a notebook that was run to its end: leave out --skip-solutions")
    if options.commit:  # what gets published shows no text that is not the course's own
        os.environ["COURSE_TEXTS"] = "withhold"
    os.environ.pop("MPLBACKEND", None)  # the kernel's inline backend draws the figures


def share_the_processor(lessons: list[Path], options: argparse.Namespace) -> None:
    """Settle how many lessons run at a time, and give each its share of the cores.

    Reading, plotting and starting use one core, whatever the model does; a second lesson fills the other.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if options.jobs is not None and options.jobs < 1:
        raise CourseError(f"--jobs {options.jobs} runs nothing: set it to 1 or more")
    alone = options.commit or runtime.processes() > 1 or runtime.device() != "cpu"
    options.jobs = min(options.jobs or (1 if alone else 2), cores, max(1, len(lessons)))
    if options.jobs > 1:
        os.environ.setdefault("OMP_NUM_THREADS", str(cores // options.jobs))


def run_lessons(lessons: list[Path], options: argparse.Namespace) -> dict[Path, bool]:
    """Run them, `options.jobs` at a time, up to the first failure or Ctrl-C, with --keep-going past failures: those that ran, and how."""
    # several at a time: the last lessons have the largest models, and one that is left over runs on its share of the cores alone
    waiting, done, crashes = deque(lessons if options.jobs == 1 else reversed(lessons)), {}, []

    def work() -> None:
        while waiting and not crashes and not INTERRUPTS.presses and (options.keep_going or all(done.values())):
            with contextlib.suppress(IndexError):  # another thread took the last one
                path = waiting.popleft()
                try:
                    done[path] = run_lesson(path, options)
                except Exception as crash:
                    crashes.append(crash)

    with INTERRUPTS:
        threads = [threading.Thread(target=work, daemon=True) for _ in range(options.jobs)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
    if crashes:
        raise crashes[0]
    return done


def _kernels_for(lessons: list[Path]) -> contextlib.AbstractContextManager[None]:
    """Kernels forked from one process that has imported the libraries: a third of what a lesson of a few rows takes on a CPU.

    One lesson gains nothing by it, and a process that has looked at a GPU must not be forked.
    """
    if len(lessons) == 1 or runtime.device() != "cpu":
        return contextlib.nullcontext()
    standin.start(runtime.profile())  # a forked kernel has the client in it already, which must know where to ask
    return forkserver.server()


def main(argv: list[str] | None = None) -> int:
    options = parse(argv)
    runtime.print_anything()
    try:
        lessons = find_lessons(options.lessons)
        if options.list:
            print("\n".join(path.parent.relative_to(ROOT).as_posix() for path in lessons))
            return 0
        prepare_environment(options)
        share_the_processor(lessons, options)
        with _kernels_for(lessons):
            done = run_lessons(lessons, options)
    except KeyboardInterrupt:  # pressed where no lesson could take it, or for the third time
        print("stopped", file=sys.stderr)
        return 130
    except CourseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        place = error.filename or "the results"
        print(f"error: cannot write {place}: {error.strerror}; set COURSE_OUTPUTS to a folder you can write", file=sys.stderr)
        return 2
    good = sum(done.values())
    print(f"{good} of {len(lessons)} lessons ran; everything is under {_shown(runtime.outputs_root())}/")
    return 0 if good == len(lessons) else 1


if __name__ == "__main__":
    sys.exit(main())
