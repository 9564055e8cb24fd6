"""What must not get in or out: foreign code, pickles, shells, known holes, tokens, names of people and machines, live markup from data."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from shared.course import report
from shared.course.runtime import ROOT
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
    "somebody's folder": r"(?<![\w.])(/home/|/Users/|[A-Za-z]:\\+Users\\+)[\w-][\w. -]*",
}
TEXTS = (".py", ".md", ".j2", ".ipynb", ".json", ".jsonl", ".toml", ".txt", ".yml", ".cff")
# The first version without a hole that matters here. Not a replacement for the audit below, but it needs no network.
MENDED = {
    "aiohttp": ("3.12.14", "CVE-2025-53643"), "certifi": ("2024.7.4", "CVE-2024-39689"), "filelock": ("3.20.1", "CVE-2025-68146"),
    "fonttools": ("4.60.2", "CVE-2025-66034"), "h11": ("0.16.0", "CVE-2025-43859"), "idna": ("3.7", "CVE-2024-3651"),
    "ipython": ("8.10.0", "CVE-2023-24816"), "jinja2": ("3.1.6", "CVE-2025-27516"), "joblib": ("1.2.0", "CVE-2022-21797"),
    "jupyter-core": ("5.8.1", "CVE-2025-30167"), "nltk": ("3.9", "CVE-2024-39705"), "pillow": ("11.3.0", "CVE-2025-48379"),
    "pyarrow": ("14.0.1", "CVE-2023-47248"), "pygments": ("2.15.0", "CVE-2022-40896"), "pyyaml": ("5.4", "CVE-2020-14343"),
    "requests": ("2.32.4", "CVE-2024-47081"), "scikit-learn": ("1.5.0", "CVE-2024-5206"), "setuptools": ("78.1.1", "CVE-2025-47273"),
    "torch": ("2.6.0", "CVE-2025-32434"), "tornado": ("6.5", "CVE-2025-47287"), "tqdm": ("4.66.3", "CVE-2024-34062"),
    "transformers": ("4.48.0", "CVE-2024-11392"), "urllib3": ("2.6.0", "CVE-2025-66418"),
}  # fmt: skip


def stamped(*arguments: str) -> str:
    """What git says, without its last line end; empty where there is none."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False).stdout.decode().strip()


def texts() -> list:
    """Every text file of the repository, or its programs where it is no repository."""
    listed = [ROOT / name for name in stamped("ls-files", "-z").split("\0") if name.endswith(TEXTS)]
    return [path for path in listed if path.is_file()] or PROGRAMS


def requirements(name: str) -> list[Requirement]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf8").splitlines()]
    return [Requirement(line) for line in lines if line]


def holes(pins: list[Requirement]) -> Iterator[str]:
    """The pins that are older than their package's first mended version."""
    for pin in pins:
        (exact,) = pin.specifier
        mended, hole = MENDED.get(canonicalize_name(pin.name), ("0", ""))
        if Version(exact.version) < Version(mended):
            yield f"{pin.name} {exact.version} has {hole}: pin {mended} or newer"


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
    assert [path.name for path in texts() if re.search(SECRETS[what], path.read_text(encoding="utf8"))] == []


def test_no_result_and_no_report_names_a_place_on_the_machine_that_made_it():
    """An address has the host before such a folder, and a path of the repository does not begin with a slash."""
    place = re.compile(r"(?<![\w.:/-])/(root|tmp|work|content|kaggle|mnt|media|opt|var|private)/\w")
    assert place.search('read from "/content/my-data/x"') and not place.search("https://a.org/content/x and ../tmp/x")
    made = [*ROOT.glob("task-*/*/results/*.json"), *ROOT.glob("task-*/**/*.md"), *ROOT.glob("task-*/*/tries.json")]
    assert len(made) > 11 and not [path.name for path in made if place.search(path.read_text(encoding="utf8"))]


def test_no_file_names_who_works_on_it():
    """The full name and the address that git would stamp; licence and citation are where an author may stand."""
    committers = stamped("log", "-n", "50", "--format=%an%n%ae%n%cn%n%ce").splitlines()
    own = {word.strip().lower() for word in (*committers, stamped("config", "user.name"), stamped("config", "user.email"))}
    own = {word for word in own if " " in word or "@" in word} - {"noreply@github.com"}
    if not own:
        pytest.skip("git names nobody here, so there is nothing to look for")
    for path in texts():
        text = "" if path.name in ("LICENSE", "CITATION.cff") else path.read_text(encoding="utf8").lower()
        assert not [word for word in own if word in text], path.name


@pytest.mark.parametrize(
    "start", ["/home" + "/ada/x.py", '"/Users' + '/ada"', "C:" + r"\Users" + r"\Ada Lovelace\x", "d:" + r"\\Users" + r"\\ada"]
)
def test_a_folder_of_a_person_is_found(start):
    assert re.search(SECRETS["somebody's folder"], f"saved in {start}")


@pytest.mark.parametrize("text", ["https://example.org/home/page.html", "the /home folder", "x/Users/y", "a path such as ~/course"])
def test_other_folders_are_let_pass(text):
    assert not re.search(SECRETS["somebody's folder"], text)


def test_every_requirement_has_an_exact_version_within_its_bounds():
    pins = {canonicalize_name(pin.name): pin.specifier for pin in requirements("constraints.txt")}
    for wanted in requirements("requirements.txt"):
        (exact,) = pins[canonicalize_name(wanted.name)]
        assert exact.operator == "==" and exact.version in wanted.specifier, wanted.name


def test_no_pin_has_a_known_hole():
    assert list(holes(requirements("constraints.txt"))) == []


def test_a_pin_with_a_hole_is_found():
    found = list(holes([Requirement("h11==0.14.0"), Requirement("Jinja2==3.1.6"), Requirement("scikit_learn==1.4"), Requirement("new==1")]))
    assert found == ["h11 0.14.0 has CVE-2025-43859: pin 0.16.0 or newer", "scikit_learn 1.4 has CVE-2024-5206: pin 1.5.0 or newer"]


@pytest.mark.network
def test_no_pin_has_an_advisory():
    pytest.importorskip("pip_audit")
    command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "-f", "json", "-r", str(ROOT / "constraints.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    audited = [part for part in json.loads(done.stdout or '{"dependencies": []}')["dependencies"] if "vulns" in part]
    if not audited:  # it passes over whatever it gets no answer for
        unreachable = re.search(r"[Cc]onnect|[Rr]esolve|[Tt]imed out|[Rr]each|[Pp]roxy|HTTP", done.stderr)
        assert unreachable, f"pip-audit itself failed: {done.stderr[-500:]}"
        pytest.skip("the advisories cannot be reached")
    vulnerable = {part["name"]: [hole["id"] for hole in part["vulns"]] for part in audited if part["vulns"]}
    assert vulnerable == {}


@pytest.mark.network
def test_no_pin_was_withdrawn():
    options = ["--dry-run", "--no-deps", "--ignore-installed", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *options, "-r", str(ROOT / "constraints.txt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "yanked" not in done.stdout + done.stderr, done.stderr


@pytest.mark.parametrize("lesson", report.lesson_folders(), ids=lambda path: path.name)
def test_reports_disarm_the_texts_of_the_data(lesson):
    (results, *_) = report.lesson_results(lesson)
    assert results["examples"]
    for example in results["examples"]:
        texts = [key for key, value in example.items() if isinstance(value, str) and (" " in value or key in ("text", "second"))]
        example |= dict.fromkeys(texts, HOSTILE)
    for part in results["data"].values():
        part["source"] += HOSTILE  # a folder may be called so
    results["model"]["id"] = results["environment"]["device"] = HOSTILE
    whole = report.render(lesson / "report.md.j2", results, "plots/laptop", "results/laptop.json")
    for page in (whole, report.headline_row(lesson, results, ROOT)):
        assert "alert" in page
        page = re.sub(r"(?<!\\)`[^`]*`", "", page)  # what stands in code is no markup
        for live in ("<script", "<img", "](javascript", "![p]", "<!-- results:end"):
            assert live not in page
