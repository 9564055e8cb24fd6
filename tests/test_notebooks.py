"""What can be said of a notebook without running it. (pytest --nbval-lax runs them.)"""

import ast
import json
import re
import statistics

import pytest

from shared import report
from shared.runtime import ROOT
from tests.programs import NOTEBOOKS, program

SECTIONS = ["1. Setup and configuration", "2. Look at the data", "3.", "4. Tokenise", "5. The model", "6. Train",
            "7. Evaluate", "8. Diagnose", "9. Predict", "10. Save"]
# Names that the current libraries no longer have, or that a course must not use.
FORBIDDEN = [
    r"\bevaluation_strategy\b", r"\bgroup_by_length\s*=", r"\bwarmup_ratio\b", r"\boverwrite_output_dir\b", r"\blogging_dir\b",
    r"\bno_cuda\b", r"\bload_metric\b", r"Trainer\([^)]*\btokenizer=", r"\btorch_dtype\b", r"\buse_auth_token\b",
    r"as_target_tokenizer", r"prepare_seq2seq_batch", r"from transformers import [^\n]*\bAdamW\b", r"trust_remote_code",
    r"notebook_login", r"load_in_[48]bit\s*=\s*True\s*\)", r"push_to_hub\s*=\s*True", r"is_bf16_supported\(\)",
    r"pipeline\(\s*[\"'](summarization|translation|text2text-generation|question-answering)",
    r"load_dataset\(\s*[\"'](?![^\"']*/)", r"evaluate\.load\(", r"max_length[\"']?\s*,\s*padding=[\"']max_length",
]
pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def load(path):
    notebook = json.loads(path.read_text(encoding="utf8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return notebook, code


def source(cell) -> str:
    return "".join(cell["source"])


def lines(cell) -> int:
    return len([line for line in source(cell).splitlines() if line.strip()])


def headings(notebook) -> list[str]:
    text = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return re.findall(r"^## (.+)$", text, re.MULTILINE)


def test_is_small_valid_and_has_no_widget_state(path):
    notebook, code = load(path)
    assert path.stat().st_size < 300_000
    assert notebook["nbformat"] == 4
    assert "widgets" not in notebook["metadata"]
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])
    for cell in code:
        ast.parse(source(cell))


def test_lies_in_a_lesson_folder_of_its_name(path):
    assert path.stem == path.parent.name.replace("-", "_")
    allowed = {path.name, "report.md.j2", "report.md", "results", "plots", "tries.json", "v2_tries.json", "profiles.toml"}
    assert {entry.name for entry in path.parent.iterdir() if not entry.name.startswith(".")} <= allowed


def test_was_executed_from_top_to_bottom_without_error(path):
    _, code = load(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert sum(bool(cell["outputs"]) for cell in code) > len(code) / 2
    assert "[laptop]" in "".join("".join(out.get("text", "")) for cell in code for out in cell["outputs"])


def test_outputs_name_no_machine(path):
    _, code = load(path)
    outputs = json.dumps([cell["outputs"] for cell in code])
    assert not re.search(r"(/root|/home|/tmp|/work|/Users|site-packages)/", outputs)
    assert not [out for cell in code for out in cell["outputs"] if out.get("name") == "stderr"]


def test_setup_cell_is_the_same_everywhere(path):
    setups = {source(load(other)[1][0]) for other in NOTEBOOKS}
    assert len(setups) == 1 and "runtime.setup()" in setups.pop()


def test_address_agrees_with_the_repository(path):
    address = report.repository()
    notebook, code = load(path)
    assert f'REPOSITORY = "{address}"' in source(code[0])
    assert report.colab_link(address, path.relative_to(ROOT).as_posix()) in source(notebook["cells"][0])


def test_sections_come_in_order(path):
    notebook, _ = load(path)
    found = headings(notebook)
    assert len(found) == len(SECTIONS)
    for heading, expected in zip(found, SECTIONS, strict=True):
        assert heading.startswith(expected)


def test_no_forbidden_names(path):
    _, code = load(path)
    for cell in code:
        for pattern in FORBIDDEN:
            assert not re.search(pattern, source(cell)), pattern


def test_cells_are_short(path):
    _, code = load(path)
    sizes = [lines(cell) for cell in code]
    assert statistics.median(sizes) <= 6
    assert max(len(source(cell).splitlines()) for cell in code) <= 30  # blank ones too: it has to fit on a screen


def test_only_the_configuration_cell_names_the_profiles(path):
    _, code = load(path)
    others = [cell for cell in code[1:] if "runtime.configure(" not in source(cell)]
    assert len(others) == len(code) - 2
    for cell in others:
        assert not re.search(r"cfg\.profile|COURSE_PROFILE|profile\(\)|[\"'](tiny|laptop|colab|paper)[\"']", source(cell))


def test_has_checked_cells_pitfalls_and_solved_exercises(path):
    notebook, code = load(path)
    assert sum("# NBVAL_CHECK_OUTPUT" in source(cell).splitlines()[0] for cell in code if cell["source"]) >= 4
    assert sum("solution" in cell["metadata"].get("tags", []) for cell in code) == 3
    text = "\n".join(source(cell) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    assert len(re.findall(r"^### Pitfall", text, re.MULTILINE)) >= 1
    assert "### Exercises" in text and "### Takeaways" in text


def test_nothing_is_asserted_between_training_and_the_saving_of_the_results(path):
    """Else a check that fails would cost the run its figures. (A checked cell's output is the same everywhere, trained or not.)"""
    _, code = load(path)
    first = next(i for i, cell in enumerate(code) if "training.fit(" in source(cell))
    for cell in code[first:]:
        if not source(cell).startswith("# NBVAL_CHECK_OUTPUT"):
            if "report.save_results(" in source(cell):
                return
            assert not [node for node in ast.walk(ast.parse(source(cell))) if isinstance(node, ast.Assert)], source(cell)
    raise AssertionError("the notebook saves no results")


def test_saves_the_plots_it_shows(path):
    _, code = load(path)
    shown = sum("image/png" in out.get("data", {}) for cell in code for out in cell["outputs"])
    saved = list((path.parent / "plots" / "laptop").glob("*.png"))
    assert shown >= len(saved) >= 4
    assert all(plot.read_bytes().startswith(b"\x89PNG") for plot in saved)
    referenced = set(re.findall(r"plots/laptop/([\w-]+\.png)", (path.parent / "report.md").read_text(encoding="utf8")))
    assert referenced == {plot.name for plot in saved}


def test_every_configuration_key_is_read(path):
    """By the notebook itself or by what trains it; a key that nothing reads would be a promise that nothing keeps."""
    read = {
        node.attr
        for text in (program(path), *(program(ROOT / "shared" / f"{name}.py") for name in ("runtime", "training", "report")))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "cfg"
    } | {"resume", "accumulate"}  # which `cfg.get` reads, since not every caller has them
    (configure,) = [
        node
        for node in ast.walk(ast.parse(program(path)))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "configure"
    ]
    assert {key.value for key in configure.args[1].keys} - read == set()
