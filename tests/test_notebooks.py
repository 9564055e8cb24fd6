"""What can be said of a notebook without running it. (pytest --nbval-lax runs them.)"""

import ast
import json
import os
import re
import subprocess
import sys

import pytest

from shared.course import forkserver, report, run
from shared.course.runtime import ROOT
from tests.programs import LABS, LESSONS, NOTEBOOKS, START, program

SECTIONS = ["1. Setup and settings", "2. The data", "3. ", "4. Tokenise", "5. The model", "6. Train",
            "7. Evaluate", "8. Errors", "9. Use it", "10. Results and takeaways"]
# What a reader of a lesson sees being called, with its arguments.
SEEN = [
    r"\bload_dataset\(", r"\bAutoTokenizer\.from_pretrained\(", r"\bAutoModelFor\w+\.from_pretrained\(", r"\.map\(",
    r"TrainingArguments\(", r"Trainer\(", r"\btrainer\.train\(", r"\.(save_model|save_pretrained)\(", r"\b(pipeline|generate|answer)\(",
]
# Names that the current libraries no longer have, or that a course must not use.
FORBIDDEN = [
    r"\bevaluation_strategy\b", r"\bgroup_by_length\s*=", r"\bwarmup_ratio\b", r"\boverwrite_output_dir\b", r"\blogging_dir\b",
    r"\bno_cuda\b", r"\bload_metric\b", r"Trainer\([^)]*\btokenizer=", r"\btorch_dtype\b", r"\buse_auth_token\b",
    r"as_target_tokenizer", r"prepare_seq2seq_batch", r"from transformers import [^\n]*\bAdamW\b", r"trust_remote_code",
    r"notebook_login", r"load_in_[48]bit\s*=\s*True\s*\)", r"push_to_hub\s*=\s*True", r"is_bf16_supported\(\)",
    r"pipeline\(\s*[\"'](summarization|translation|text2text-generation|question-answering)",
    r"load_dataset\(\s*[\"'](?![^\"']*/)", r"evaluate\.load\(", r"max_length[\"']?\s*,\s*padding=[\"']max_length",
]
every = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
with_start = pytest.mark.parametrize("path", [START, *NOTEBOOKS], ids=lambda path: path.stem)
lesson = pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
lab = pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
PROFILE = r"cfg\.profile|COURSE_PROFILE|profile\(\)|[\"'](tiny|laptop|colab|paper)[\"']"


def load(path):
    notebook = json.loads(path.read_text(encoding="utf8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return notebook, code


def source(cell) -> str:
    return "".join(cell["source"])


def lines(cell) -> int:
    return len([line for line in source(cell).splitlines() if line.strip()])


def prose(notebook) -> str:
    return "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def solutions(code) -> list:
    return [cell for cell in code if "solution" in cell["metadata"].get("tags", [])]


def checked(cell) -> bool:
    return source(cell).startswith("# NBVAL_CHECK_OUTPUT")


def printed(code) -> str:
    return "".join("".join(out.get("text", "")) for cell in code for out in cell["outputs"])


def assert_nothing_asserted_between(code, training: str, saving: str) -> None:
    """Else a check that fails would cost the run its figures. (A checked cell's output is the same everywhere, trained or not.)"""
    first = next(i for i, cell in enumerate(code) if training in source(cell))
    for cell in code[first:]:
        if saving in source(cell):
            return
        if not checked(cell):
            assert not [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Assert)], source(cell)
    raise AssertionError("the notebook saves no results")


def attributes_of_cfg(text: str) -> set[str]:
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)]
    return {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == "cfg"}


def call(path, name: str) -> ast.Call:
    """The one call of this function, such as `course.settings`."""
    nodes = [node for node in ast.walk(ast.parse(program(path))) if isinstance(node, ast.Call)]
    (found,) = [node for node in nodes if ast.unparse(node.func) == name]
    return found


# ---------------------------------------------------------------- every notebook


@with_start
def test_is_small_valid_and_has_no_widget_state(path):
    notebook, code = load(path)
    assert path.stat().st_size < 300_000
    assert notebook["nbformat"] == 4
    assert "widgets" not in notebook["metadata"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in code:
        ast.parse(source(cell))


@every
def test_asks_colab_and_kaggle_for_a_gpu(path):
    assert run.WITH_A_GPU.items() <= load(path)[0]["metadata"].items()


@every
def test_lies_in_a_lesson_folder_of_its_name(path):
    assert path.stem == path.parent.name.replace("-", "_")
    allowed = {path.name, "report.md.j2", "report.md", "results", "plots", "tries.json", "profiles.toml"}
    found = {entry.name for entry in path.parent.iterdir() if not entry.name.startswith((".", "__pycache__"))}
    assert found - {name for name in found if path in LABS and name.endswith(".py")} <= allowed  # code that one lab alone uses
    assert (path.parent / "profiles.toml").is_file()


@with_start
def test_was_executed_from_top_to_bottom_without_error(path):
    _, code = load(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert sum(bool(cell["outputs"]) for cell in code) > len(code) / 2
    assert "profile laptop" in printed(code)


@with_start
def test_outputs_name_no_machine(path):
    _, code = load(path)
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"(/root|/home|/tmp|/work|/Users|site-packages)/", outputs)
    assert not [out for cell in code for out in cell["outputs"] if out.get("name") == "stderr"]


@with_start
def test_address_agrees_with_the_repository(path):
    address = report.repository()
    notebook, code = load(path)
    assert f'REPOSITORY = "{address}"' in source(code[0])
    assert report.colab_link(address, path.relative_to(ROOT).as_posix()) in source(notebook["cells"][0])


@with_start
def test_no_forbidden_names(path):
    _, code = load(path)
    for cell in code:
        for pattern in FORBIDDEN:
            assert not re.search(pattern, source(cell)), pattern


@every
def test_saves_the_plots_it_shows(path):
    _, code = load(path)
    shown = sum("image/png" in out.get("data", {}) for cell in code for out in cell["outputs"])
    saved = list((path.parent / "plots" / "laptop").glob("*.png"))
    assert shown >= len(saved) >= 3
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in saved)
    if path in LABS:
        return
    referenced = set(re.findall(r"plots/laptop/([\w-]+\.png)", (path.parent / "report.md").read_text(encoding="utf8")))
    assert referenced == {plot.name for plot in saved}


# ---------------------------------------------------------------- lessons


def test_the_setup_cell_is_the_same_everywhere():
    setups = {source(load(other)[1][0]) for other in (START, *NOTEBOOKS)}
    assert len(setups) == 1 and setups.pop().endswith("\ncourse.setup()")


@lesson
def test_sections_come_in_order(path):
    found = re.findall(r"^## (.+)$", prose(load(path)[0]), re.MULTILINE)
    assert len(found) == len(SECTIONS)
    for heading, start in zip(found, SECTIONS, strict=True):
        assert heading.startswith(start)
    assert "### Takeaways" in prose(load(path)[0]) and "### Exercises" in prose(load(path)[0])


@lesson
def test_the_calls_of_the_libraries_are_seen(path):
    shown = program(path)
    assert [pattern for pattern in SEEN if not re.search(pattern, shown)] == []


@lesson
def test_a_lesson_is_short_and_soon_trains(path):
    _, code = load(path)
    shown = [cell for cell in code[1:] if cell not in solutions(code)]
    assert len(shown) <= 25
    assert next(i for i, cell in enumerate(shown, 1) if re.search(r"\btrainer\.train\(", source(cell))) <= 15
    for cell in code[1:]:
        assert lines(cell) <= (21 if cell in shown else 30), source(cell)
        assert max(map(len, source(cell).splitlines())) <= 100, source(cell)


@lesson
def test_a_lesson_takes_few_names_from_the_helpers(path):
    nodes = [node for node in ast.walk(ast.parse(program(path))) if isinstance(node, ast.ImportFrom)]
    names = {alias.name for node in nodes if (node.module or "").split(".")[0] == "shared" for alias in node.names}
    assert "course" in names and len(names) <= 6


@lesson
def test_only_the_settings_cell_names_a_profile(path):
    _, code = load(path)
    others = [cell for cell in code[1:] if "course.settings(" not in source(cell)]
    assert len(others) == len(code) - 2
    assert [source(cell) for cell in others if re.search(PROFILE, source(cell))] == []


@lesson
def test_three_exercises_are_solved_out_of_sight_and_one_trains(path):
    _, code = load(path)
    solved = solutions(code)
    assert len(solved) == 3 and solved == code[-3:]
    assert any(re.search(r"\.train\(\)", source(cell)) for cell in solved)
    for cell in [code[0], *solved]:
        assert cell["metadata"]["jupyter"]["source_hidden"] is True and source(cell).startswith("# @title ")


@lesson
def test_a_lesson_has_cells_whose_output_is_checked(path):
    _, code = load(path)
    assert sum(map(checked, code)) >= 4


@lesson
def test_a_lesson_asserts_nothing_before_its_results_are_saved(path):
    assert_nothing_asserted_between(load(path)[1], "trainer.train(", "course.save_results(")


@lesson
def test_every_setting_is_read(path):
    """A key that nothing reads would be a promise that nothing keeps."""
    keys = {keyword.arg for keyword in call(path, "course.settings").keywords}
    assert keys - attributes_of_cfg(program(path)) == set()


# ---------------------------------------------------------------- labs


@lab
def test_a_lab_stays_within_its_measures_and_is_checked(path):
    _, code = load(path)
    shown = [cell for cell in code[1:] if cell not in solutions(code)]
    assert len(shown) <= 45 and sum(map(lines, shown)) <= 450
    assert max(len(line) for cell in code[1:] for line in source(cell).splitlines()) <= 100
    assert sum(map(checked, code)) >= 4


@lab
def test_a_lab_saves_its_results_and_asserts_nothing_before(path):
    _, code = load(path)
    assert_nothing_asserted_between(code, "course.settings(", "course.save_lab(")
    keys = {keyword.arg for keyword in call(path, "course.settings").keywords}
    assert keys - attributes_of_cfg(program(path)) == set()
    others = [cell for cell in code[1:] if "course.settings(" not in source(cell)]
    assert [source(cell) for cell in others if re.search(PROFILE, source(cell))] == []


@lab
def test_a_lab_has_results_of_a_laptop_run(path):
    results = json.loads((path.parent / "results" / "laptop.json").read_text(encoding="utf8"))
    assert results["lesson"] == path.parent.relative_to(ROOT).as_posix() and results["profile"] == "laptop"
    assert results["tables"] and all(results["tables"].values()) and results["data"]


# ---------------------------------------------------------------- make run


@pytest.mark.slow
@every
def test_make_run_needs_no_more_than_the_bundled_rows(path, tmp_path):
    """Profile laptop with the few rows that the course brings: sizes that tiny never asks for. With all cores, as a reader's."""
    variables = {name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", forkserver.ADDRESS)}
    variables |= {"COURSE_DATA": "bundled", "COURSE_OUTPUTS": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "shared.run", f"{path.parent.parent.name}/{path.parent.name}", "--profile", "laptop"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
