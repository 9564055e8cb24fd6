"""What must not get in or out: foreign code, pickles, shells, tokens, names of people and machines, live markup from data."""

import re
import subprocess

import pytest

from shared import report
from shared.runtime import ROOT
from tests.programs import PROGRAMS, program

HOSTILE = "<script>alert(1)</script> <img src=x onerror=y> [go](javascript:alert(2)) | `x` ![p](http://h/i.png) **b** <!-- results:end -->"
UNSAFE = {
    "foreign code from a model's repository": r"trust_remote_code\s*=\s*True",
    "a pickle": r"\bimport pickle\b|\bpickle\.load|\bjoblib\.load|allow_pickle\s*=\s*True",
    "torch.load of more than weights": r"torch\.load\((?![^)]*weights_only=True)",
    "a shell": r"shell\s*=\s*True|os\.system\(|os\.popen\(",
    "text run as code": r"(?<![\w.])(eval|exec)\(",
}
SECRETS = {
    "a Hub token": r"\bhf_[A-Za-z0-9]{20,}",
    "another service's key": r"\b(ghp_|github_pat_|sk-|AKIA)[A-Za-z0-9_]{16,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "somebody's folder": r"(?<![\w.])/(home|Users)/[a-z][\w-]+/",
}


@pytest.mark.parametrize("what", UNSAFE)
def test_no_program_lets_in(what):
    assert [path.name for path in PROGRAMS if re.search(UNSAFE[what], program(path))] == []


@pytest.mark.parametrize(
    ("what", "line"),
    [("a pickle", "pickle.loads(x)"), ("torch.load of more than weights", "torch.load(path)"), ("a shell", "run(x, shell=True)"),
     ("text run as code", "x = eval(text)"), ("foreign code from a model's repository", "f(trust_remote_code = True)")],
)  # fmt: skip
def test_the_patterns_find_what_they_are_for(what, line):
    assert re.search(UNSAFE[what], line)


def test_models_and_methods_named_alike_are_let_pass():
    assert not re.search(UNSAFE["text run as code"], "model.eval()")
    assert not re.search(UNSAFE["torch.load of more than weights"], "torch.load(path, weights_only=True)")


@pytest.mark.parametrize("what", SECRETS)
def test_no_file_carries(what):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout.decode().split("\0")
    files = [ROOT / name for name in listed if name.endswith((".py", ".md", ".j2", ".ipynb", ".json", ".jsonl", ".toml", ".txt", ".yml"))]
    assert [path.name for path in files or PROGRAMS if re.search(SECRETS[what], path.read_text(encoding="utf8"))] == []


@pytest.mark.parametrize("lesson", report.lesson_folders(), ids=lambda path: path.name)
def test_reports_disarm_the_texts_of_the_data(lesson):
    (results, *_) = report.lesson_results(lesson)
    assert results["examples"]
    for example in results["examples"]:
        texts = [key for key, value in example.items() if isinstance(value, str) and (" " in value or key in ("text", "second"))]
        example |= dict.fromkeys(texts, HOSTILE)
    page = report.render(lesson / "report.md.j2", results, "plots/small", "results/small.json")
    assert "alert" in page
    for live in ("<script", "<img", "](javascript", "![p]", "<!-- results:end"):
        assert live not in page
