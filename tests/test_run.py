"""The runner: finding lessons, reporting failures in one line, progress, committing only when asked."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import psutil
import pytest
from matplotlib.figure import Figure

from shared.course import forkserver, report, run, runtime
from shared.course.runtime import ROOT, CourseError


@pytest.fixture(autouse=True)
def environment_is_put_back():
    """The runner hands its options to the kernels through the environment; the other tests must not see them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


def test_finds_lessons_by_full_name_short_name_and_task():
    every = run.find_lessons([])
    assert every == run.find_lessons(["all"]) and all(path.suffix == ".ipynb" for path in every)
    expected = [ROOT / "task-1/ag-news/ag_news.ipynb"]
    assert run.find_lessons(["task-1/ag-news"]) == run.find_lessons(["ag-news"]) == expected
    assert set(expected) <= set(run.find_lessons(["task-1"]))
    assert run.find_lessons(["ag-news", "task-1/ag-news"]) == expected
    lessons, labs = run.find_lessons(["lessons"]), run.find_lessons(["labs"])
    assert {path.parent.name.startswith("lab-") for path in lessons} == {False} and lessons[0] == expected[0]
    assert {path.parent.name.startswith("lab-") for path in labs} == {True} and sorted(lessons + labs) == sorted(every)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ag-newz"], r"unknown lesson 'ag-newz': .*known are .*task-1/ag-news"),
        (["--profile", "lapto"], r"unknown profile 'lapto': did you mean 'laptop'\? known are tiny, laptop, colab, paper"),
        (["--profile", "colab"], r"profile 'colab' needs a CUDA GPU .* set COURSE_PROFILE=laptop"),
        (["--commit", "--skip-solutions"], r"--commit publishes .* run to its end: leave out --skip-solutions"),
        (["--profile", "tiny", "--set", "epochs"], r"cannot read the override 'epochs': write it as key=value"),
    ],
)
def test_bad_arguments_are_one_line_and_exit_code_two(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    assert run.main(arguments) == 2
    errors = capsys.readouterr().err
    assert re.search(message, errors) and len(errors.strip().splitlines()) == 1


def test_list_names_every_lesson(capsys):
    assert run.main(["--list"]) == 0
    assert capsys.readouterr().out.split() == [path.parent.relative_to(ROOT).as_posix() for path in run.find_lessons([])]


MAKE = pytest.mark.skipif(shutil.which("make") is None or os.name == "nt", reason="needs make and a shell of Unix")


@MAKE
@pytest.mark.parametrize(
    ("arguments", "environment", "data", "profile"),
    [
        ([], {}, "bundled", "laptop"),  # the rows in the checkout with small models, on a GPU too
        (["PROFILE=colab"], {}, None, "colab"),
        ([], {"COURSE_PROFILE": "tiny"}, None, "tiny"),
        (["DATA=../my-data"], {}, "../my-data", None),
        ([], {"COURSE_DATA": "../my-data"}, None, None),  # which shared.course.run reads itself
    ],
)
def test_make_run_takes_bundled_rows_unless_told_otherwise(arguments, environment, data, profile):
    clean = {name: value for name, value in os.environ.items() if name not in ("COURSE_PROFILE", "COURSE_DATA")}
    shown = subprocess.run(["make", "-n", "run", *arguments], cwd=ROOT, env=clean | environment, capture_output=True, text=True, check=True)
    (command,) = [line for line in shown.stdout.splitlines() if "-m shared.run" in line]
    assert (f'COURSE_DATA="{data}"' in command) if data else ("COURSE_DATA" not in command)
    assert (f"--profile {profile}" in command) if profile else ("--profile" not in command)
    assert " lessons " in command and ("--skip-solutions" in command) == (data == "bundled")


@MAKE
def test_make_run_runs_a_lesson_that_is_named_to_its_end():
    command = ["make", "-n", "run", "LESSONS=task-1/ag-news"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--keep-going task-1/ag-news" in shown and "--skip-solutions" not in shown


@MAKE
def test_make_hands_settings_on_as_they_were_quoted(tmp_path):
    told = tmp_path / "told"
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nprintf %s "$COURSE_SET" > {told}\n')
    python.chmod(0o755)
    for stamp in (".installed", ".installed-offline"):
        (tmp_path / stamp).touch()
    wanted = """data="my pairs.csv" note='of $HOME' test_rows=5"""
    clean = {name: value for name, value in os.environ.items() if name != "COURSE_SET"}
    command = ["make", "run", f"VENV={tmp_path}", f"SET={wanted.replace('$', '$$')}", "-o", f"{tmp_path}/.installed-offline"]
    subprocess.run(command, cwd=ROOT, env=clean, capture_output=True, check=True)
    assert told.read_text() == wanted
    subprocess.run([*command[:3], *command[4:]], cwd=ROOT, env=clean | {"COURSE_SET": "epochs=1"}, capture_output=True, check=True)
    assert told.read_text() == "epochs=1"  # what the environment says stays where SET says nothing


@pytest.mark.parametrize("name", ["task-3/phi2-xsum", "task-2/extractive-squad"])
def test_the_report_of_a_run_links_to_the_lessons_neighbours(name, tmp_path):
    shutil.copy(ROOT / name / "results" / "laptop.json", tmp_path / "results.json")
    links = re.findall(r"\]\((\.\./[^)]*)\)", report.render_run(ROOT / name, tmp_path).read_text(encoding="utf8"))
    assert links and all((tmp_path / link).is_file() for link in links)


def test_a_tilde_in_course_outputs_is_the_home_folder(monkeypatch, tmp_path):
    for home in ("HOME", "USERPROFILE"):  # of Unix and of Windows
        monkeypatch.setenv(home, str(tmp_path))
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    monkeypatch.setenv("COURSE_OUTPUTS", "~/runs")
    run.prepare_environment(run.parse(["ag-news"]))
    assert os.environ["COURSE_OUTPUTS"] == str(tmp_path / "runs")


# ---------------------------------------------------------------- whole runs of a small notebook


SETUP = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from shared import course
from shared.course import report, runtime
sys.modules["shared.course.settings"].ROOT = Path.cwd().parents[1]  # where profiles.toml is
"""
SETTINGS = 'cfg = course.settings(f"task-9/{Path.cwd().name}", model="bert", epochs=1.0)'


def lesson(root: Path, name: str, *cells: str) -> Path:
    folder = root / "task-9" / name
    folder.mkdir(parents=True)
    headed = [nbformat.v4.new_markdown_cell("# Demo\n\n## 1. Setup"), nbformat.v4.new_code_cell(SETUP)]
    for i, cell in enumerate(cells, 2):
        headed += [nbformat.v4.new_markdown_cell(f"## {i}. Part {i}"), nbformat.v4.new_code_cell(cell)]
    nbformat.write(nbformat.v4.new_notebook(cells=headed), folder / f"{name}.ipynb")
    (folder / "report.md.j2").write_text("{% set title = 'Demo' %}accuracy {{ r.metrics.accuracy | interval }}")
    (folder / "profiles.toml").write_text("")
    return folder


NOTHING = (nbformat.v4.new_notebook(), None)  # an executed notebook and no error
RESULTS = """
from matplotlib.figure import Figure
run = course.run_folder(cfg)
runtime.progress(step=3, of=7)
results = {"lesson": cfg.lesson, "profile": cfg.profile, "config": {**cfg, "overrides": cfg.overrides}, "data": {}, "model": {},
           "seconds": {}, "history": [], "metrics": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}, "baselines": {}}
report.write_results(run, results, {"demo": Figure()})
"""


@pytest.mark.parametrize(("lessons", "device", "forked"), [(2, "cpu", True), (1, "cpu", False), (2, "cuda", False)])
def test_kernels_are_forked_for_several_lessons_on_a_cpu(lessons, device, forked, monkeypatch):
    monkeypatch.setattr(runtime, "device", lambda: device)
    monkeypatch.setattr(forkserver, "server", lambda: "forked")
    assert (run._kernels_for([Path("lesson")] * lessons) == "forked") == forked


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "ROOT", tmp_path)
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path / "outputs"))
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    monkeypatch.setenv("COURSE_SET", "")
    monkeypatch.delenv("COURSE_PROGRESS", raising=False)
    return tmp_path


def test_a_failure_is_one_line_with_cause_and_section_and_stops(checkout, capsys):
    lesson(checkout, "broken", "course.setup()\n" + SETTINGS)
    lesson(checkout, "later", SETTINGS)
    assert run.main(["broken", "later", "--jobs", "1", "--set", "epoch=2"]) == 1
    out = capsys.readouterr().out
    cause = "unknown --set key of task-9/broken 'epoch': did you mean 'epochs'?"
    assert re.search(rf"FAILED  task-9/broken  in 2\. Part 2, cell 4/4, after \d+ s: {re.escape(cause)}", out)
    assert "later" not in out.split("FAILED")[1].split("lessons ran")[0]
    assert "0 of 2 lessons ran" in out
    executed = nbformat.read(checkout / "outputs/failed/broken.ipynb", 4)
    [error] = [out for cell in executed.cells if cell.cell_type == "code" for out in cell.outputs if out.output_type == "error"]
    assert [line.startswith(f"CourseError: {cause}") for line in error.traceback] == [True]  # no traceback through the helpers


@pytest.mark.parametrize("flags", [[], ["--skip-solutions"]])
def test_solutions_are_left_out_where_that_is_asked_for(flags, checkout, capsys):
    folder = lesson(checkout, "demo", SETTINGS, RESULTS, "print('solved')")
    notebook = nbformat.read(folder / "demo.ipynb", 4)
    notebook.cells[-1].metadata["tags"] = ["solution"]
    nbformat.write(notebook, folder / "demo.ipynb")
    assert run.main(["demo", "--profile", "tiny", *flags]) == 0
    (executed,) = (checkout / "outputs").glob("*/demo.ipynb")
    *_, solution = nbformat.read(executed, 4).cells
    assert [output.text for output in solution.outputs] == ([] if flags else ["solved\n"])


def test_a_failed_run_keeps_no_output_of_cells_that_it_never_ran(checkout):
    folder = lesson(checkout, "broken", "1 / 0", "print('accuracy 0.9')")
    path = folder / "broken.ipynb"
    committed = nbformat.read(path, 4)
    committed.cells[-1].outputs = [nbformat.v4.new_output("stream", name="stdout", text="accuracy 0.9262")]
    committed.cells[-1].execution_count = 3
    nbformat.write(committed, path)
    assert run.main(["broken", "--profile", "tiny"]) == 1
    executed = nbformat.read(checkout / "outputs/failed/broken.ipynb", 4)
    assert executed.cells[-3].outputs[0].ename == "ZeroDivisionError"
    assert (executed.cells[-1].outputs, executed.cells[-1].execution_count) == ([], None)


def test_a_run_leaves_everything_in_its_run_folder_and_nothing_in_the_lesson(checkout, capsys):
    """And it runs, with --keep-going, although the lesson before it failed."""
    lesson(checkout, "broken", "raise ValueError('no such luck')")
    folder = lesson(checkout, "demo", SETTINGS, RESULTS)
    before = {path: path.read_bytes() for path in folder.iterdir()}
    processes = psutil.Process().children()
    assert run.main(["broken", "demo", "--keep-going", "--profile", "tiny", "--set", "epochs=2"]) == 1
    assert psutil.Process().children() == processes  # neither kernel is left to hold its memory
    out = capsys.readouterr().out
    assert "ValueError: no such luck" in out and "1 of 2 lessons ran" in out
    assert re.search(r"ok      task-9/demo  \d+ s  report: .*report\.md", out)
    [made] = (checkout / "outputs").glob("*_bert_demo")
    assert (made / "report.md").read_text().replace("\N{NO-BREAK SPACE}", " ") == "accuracy 50.0 % [40.0, 60.0]\n"
    results = json.loads((made / "results.json").read_text())
    assert (results["config"]["epochs"], results["config"]["overrides"]) == (2.0, {"epochs": 2.0})
    executed = nbformat.read(made / "demo.ipynb", 4)
    assert [cell.execution_count for cell in executed.cells if cell.cell_type == "code"] == [1, 2, 3]
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert "COURSE_PROGRESS" not in os.environ


MEET = """
import time
from pathlib import Path
here = Path.cwd()
(here / "arrived").touch()
waited = time.monotonic()
while not (here.parent / {other!r} / "arrived").exists():
    assert time.monotonic() - waited < 60, "nobody came"
    time.sleep(0.05)
"""


def test_two_lessons_run_at_a_time_and_share_the_cores(checkout, capsys, monkeypatch):
    """Each waits for the other, so one after the other would fail; every line of the log is a whole one."""
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(4), raising=False)
    threads = "import os; assert os.environ['OMP_NUM_THREADS'] == '2'"
    lesson(checkout, "one", SETTINGS, MEET.format(other="other"), RESULTS, threads)
    lesson(checkout, "other", SETTINGS, MEET.format(other="one"), RESULTS, threads)
    assert run.main(["one", "other", "--jobs", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("ok      task-9/") for line in lines) == 2 and lines[-1].startswith("2 of 2 lessons ran")
    assert all(re.match(r"ok      |task-9/(one|other)  |2 of 2", line) for line in lines)


@pytest.mark.parametrize(
    ("arguments", "device", "processes", "cores", "jobs"),
    [
        ([], "cpu", "1", 2, 2),
        ([], "cpu", "1", 1, 1),
        (["--commit"], "cpu", "1", 8, 1),  # its seconds are published
        ([], "cuda", "1", 8, 1),  # whose memory is one lesson's
        ([], "cpu", "2", 8, 1),  # every process must run the same lesson
        (["--jobs", "3"], "cpu", "1", 8, 3),
        (["--jobs", "9"], "cpu", "1", 16, 5),  # no more than there are lessons
    ],
)
def test_how_many_lessons_run_at_a_time(arguments, device, processes, cores, jobs, monkeypatch):
    monkeypatch.setattr(runtime, "device", lambda: device)
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(cores), raising=False)
    options = run.parse(arguments)
    run.share_the_processor([Path("lesson")] * 5, options)
    assert options.jobs == jobs
    assert os.environ.get("OMP_NUM_THREADS") == (str(cores // jobs) if jobs > 1 else None)


def test_no_job_is_an_error_in_one_line(capsys):
    assert run.main(["ag-news", "--profile", "tiny", "--jobs", "0"]) == 2
    assert capsys.readouterr().err == "error: --jobs 0 runs nothing: set it to 1 or more\n"


def results_in_this_process(folder: Path) -> runtime.RunFolder:
    """What RESULTS writes, without a kernel."""
    made = runtime.RunFolder(folder)
    results = {"lesson": "task-9/demo", "profile": "tiny", "config": {"model": "bert", "seed": 0, "overrides": {}}, "data": {}, "model": {},
               "seconds": {}, "history": [], "metrics": {"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}}, "baselines": {}}  # fmt: skip
    report.write_results(made, results, {"demo": Figure()})
    return made


def test_commit_copies_notebook_results_and_plots_and_withholds_texts(checkout, monkeypatch):
    folder = lesson(checkout, "demo", SETTINGS, RESULTS)
    made = results_in_this_process(checkout / "outputs" / "a_bert_demo")
    executed = made.path / "demo.ipynb"
    executed.write_text("executed")
    monkeypatch.setattr(report, "write_pages", lambda: [])
    monkeypatch.setattr(run, "execute", lambda path, progress, timeout: (setattr(progress, "run_path", str(made.path)), NOTHING)[1])
    assert run.main(["demo", "--commit"]) == 0
    assert os.environ["COURSE_TEXTS"] == "withhold"  # what the kernel inherits
    assert nbformat.read(folder / "demo.ipynb", 4) == nbformat.read(executed, 4) == NOTHING[0]
    assert json.loads((folder / "results" / "tiny.json").read_text())["profile"] == "tiny"
    assert (folder / "plots" / "tiny" / "demo.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_on_the_readers_own_file_is_not_committed(checkout, monkeypatch, capsys):
    folder = lesson(checkout, "demo", SETTINGS, RESULTS)
    made = results_in_this_process(checkout / "outputs" / "a_bert_demo")
    results = json.loads((made.path / "results.json").read_text())
    results["config"] |= {"data": "my.csv", "columns": {"text": "", "label": ""}}
    (made.path / "results.json").write_text(json.dumps(results))
    monkeypatch.setattr(run, "execute", lambda path, progress, timeout: (setattr(progress, "run_path", str(made.path)), NOTHING)[1])
    assert run.main(["demo", "--commit"]) == 1
    assert "--commit publishes a lesson's run on its own data: leave out data=my.csv" in capsys.readouterr().out
    assert not (folder / "results").exists() and not (folder / "plots").exists()


def test_a_page_that_cannot_be_written_fails_its_lesson_alone(checkout, monkeypatch, capsys):
    folders = {name: lesson(checkout, name, SETTINGS, RESULTS) for name in ("demo", "other")}

    def execute(path, progress, timeout):
        progress.run_path = str(results_in_this_process(checkout / "outputs" / f"a_bert_{path.stem}").path)
        return NOTHING

    def write_pages():
        raise runtime.CourseError("task-9/older/report.md.j2 asks for what the results do not have")

    monkeypatch.setattr(run, "execute", execute)
    monkeypatch.setattr(report, "write_pages", write_pages)
    assert run.main(["demo", "other", "--commit", "--keep-going"]) == 1
    out = capsys.readouterr().out
    for name, folder in folders.items():
        assert f"FAILED  task-9/{name}  ran, and its results are in " in out
        assert (folder / "results" / "tiny.json").is_file()
    assert "task-9/older/report.md.j2 asks for" in out


@pytest.mark.skipif(os.name == "nt", reason="a program on Windows cannot press Ctrl-C for another one")
def test_ctrl_c_interrupts_the_lesson_and_keeps_the_notebook(tmp_path):
    """As a user: the command in a process of its own, interrupted while it trains."""
    folder = ROOT / "task-1" / "ag-news"
    environment = os.environ | {"COURSE_OUTPUTS": str(tmp_path)}
    command = forkserver.command("shared.course.run", "ag-news", "--profile", "tiny", "--set", "epochs=500")
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for line in process.stdout:
        if "step" in line:
            break
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1
    assert re.search(r"FAILED  task-1/ag-news  in 6\. Train.*KeyboardInterrupt", output)
    name = re.search(r"interrupted: checkpoint-\d+ is kept\. Run this cell again .* with --set resume=(\S+)", output).group(1)
    assert list((tmp_path / name / "checkpoints").glob("checkpoint-*"))
    assert (tmp_path / name / "ag_news.ipynb").is_file()
    assert not list(folder.glob("outputs"))


# ---------------------------------------------------------------- the progress line


def test_progress_line_shows_section_step_and_seconds(tmp_path):
    events = tmp_path / "events"
    events.write_text("")
    progress = run.Progress("task-1/demo", events, io.StringIO())
    progress.on_cell("6. Train", 12, 40)
    with events.open("ab") as stream:  # with the line ends that a lesson writes on Windows
        stream.write(b'{"run": "/somewhere/run"}\r\n{"step": 5, "of": 90}\r\n{"step": 6, "o')
    progress.read_events()
    assert progress.run_path == "/somewhere/run"
    assert re.fullmatch(r"task-1/demo  6\. Train  cell 12/40  step 5/90  \d+ s", progress.line())
    with events.open("a") as stream:
        stream.write('f": 90}\n')
    progress.read_events()
    assert "step 6/90" in progress.line()
    progress.on_cell("7. Evaluate", 13, 40)
    assert "step" not in progress.line()


def test_widget_state_is_removed():
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1")])
    notebook.metadata["widgets"] = {"x": 1}
    bar = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "bar"}
    notebook.cells[0].outputs = [nbformat.v4.new_output("display_data", bar)]
    cleaned = run.clean(notebook)
    assert "widgets" not in cleaned.metadata
    assert list(cleaned.cells[0].outputs[0].data) == ["text/plain"]


def test_unknown_lesson_is_a_course_error():
    with pytest.raises(CourseError, match="did you mean 'task-1/ag-news'"):
        run.find_lessons(["task-1/agnews"])


def test_cleaning_makes_plots_small_and_leaves_them_the_same_picture():
    import base64
    import io

    import matplotlib.pyplot as plt
    import numpy as np
    from PIL import Image

    figure, axes = plt.subplots(dpi=80)
    axes.imshow(np.random.default_rng(0).random((20, 20)), cmap="Blues")
    raw = io.BytesIO()
    figure.savefig(raw, format="png")
    plt.close(figure)
    image = base64.encodebytes(raw.getvalue()).decode()  # with line breaks, as some kernels send it
    output = nbformat.v4.new_output("display_data", {"image/png": image, "application/vnd.jupyter.widget-view+json": {}})
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("plot", outputs=[output])], metadata={"widgets": {}})
    cleaned = run.clean(notebook)
    (shown,) = (out.data for cell in cleaned.cells for out in cell.outputs)
    assert set(shown) == {"image/png"} and "widgets" not in cleaned.metadata
    assert len(shown["image/png"]) < 0.7 * len(image)
    before, after = (np.asarray(Image.open(io.BytesIO(base64.b64decode(i))).convert("RGB"), int) for i in (image, shown["image/png"]))
    assert before.shape == after.shape
    assert np.abs(before - after).mean() < 1
    again = run.clean(cleaned).cells[0].outputs[0].data["image/png"]
    assert len(again) <= len(shown["image/png"])
