"""Every notebook cold: alone in an empty folder, the course to be had from a bare clone only (`pytest -m slow`).

This is how a reader on Colab meets it. It takes as long as running all notebooks once more, so the default selection leaves
it out; continuous integration has a job for it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from shared.course.runtime import ROOT
from tests.programs import NOTEBOOKS

pytestmark = pytest.mark.slow
LIMIT = 20.0  # seconds that a notebook may take in tiny, imports included
# the kernel's own seconds, which do not depend on what else the machine does; tests have one thread each
USED = "import time\n\nprint(f'seconds of the processor: {time.process_time():.1f}')"
STRANGER = """
import json, pathlib, sys
from shared import course
course.setup()  # the stand-in Hub, which has the base of adapters
import peft, torch, transformers
folder = pathlib.Path(sys.argv[1])
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
if (folder / "adapter_config.json").is_file():
    model = peft.AutoPeftModelForCausalLM.from_pretrained(folder)
else:
    (name,) = json.loads((folder / "config.json").read_text(encoding="utf8"))["architectures"]
    model = getattr(transformers, name).from_pretrained(folder)
text = tokenizer("The mill of Hove burned down.", return_tensors="pt")
if model.can_generate():
    print("wrote", model.generate(**text, max_new_tokens=4, min_new_tokens=2).shape[1], "tokens")
else:
    print("finite:", all(part.isfinite().all().item() for part in model(**text).to_tuple()))
"""
cold = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A bare clone of this checkout's last commit with what is not committed yet on top."""
    folder = tmp_path_factory.mktemp("origin")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{ROOT}", "work"], cwd=folder, check=True)
    tracked = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(tracked, cwd=ROOT, check=True, capture_output=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / "work" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, folder / "work" / name)
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", "add", "-A"], cwd=folder / "work", check=True)
    subprocess.run(["git", *identity, "commit", "-q", "--allow-empty", "-m", "as it lies here"], cwd=folder / "work", check=True)
    subprocess.run(["git", "clone", "-q", "--bare", "work", "bare.git"], cwd=folder, check=True)
    return f"file://{folder}/bare.git"


def variables(home: Path, **more: str) -> dict[str, str]:
    """What a new machine's shell holds, tiny and offline as every test, with a stand-in for google.colab on the path."""
    package = home / "stand-in" / "google" / "colab"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "PYTHON"))}
    return kept | {"COURSE_PROFILE": "tiny", "PYTHONPATH": str(home / "stand-in"), "HOME": str(home)} | more


def run_all(notebook: Path, folder: Path, environment: dict[str, str]) -> str:
    """Copy a notebook into a folder, run all its cells in a fresh kernel there, and return what it printed."""
    folder.mkdir(parents=True, exist_ok=True)
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    content.cells.append(nbformat.v4.new_code_cell(USED))
    client = NotebookClient(content, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    client.execute(env=environment)
    return "".join(output.text for cell in content.cells for output in cell.get("outputs", []) if output.output_type == "stream")


@cold
def test_runs_alone_in_an_empty_folder(notebook, bare, tmp_path):
    folder = tmp_path / "content with spaces"
    printed = run_all(notebook, folder, variables(tmp_path, COURSE_REPO=bare))
    assert "profile tiny on cpu" in printed
    assert float(re.search(r"seconds of the processor: ([\d.]+)", printed)[1]) <= LIMIT
    assert (folder / "fine-tuning-course" / "shared" / "course" / "runtime.py").is_file()
    assert list((folder / "fine-tuning-course" / "outputs").glob("*/results.json"))
    assert sorted(entry.name for entry in folder.iterdir()) == ["fine-tuning-course"]
    if not notebook.parent.name.startswith("lab-"):
        (model,) = (folder / "fine-tuning-course" / "outputs").glob("*/model")
        answer_of_a_stranger(model, folder / "fine-tuning-course", variables(tmp_path))


def answer_of_a_stranger(model: Path, checkout: Path, environment: dict[str, str]) -> None:
    """Load what a lesson has saved in a fresh process, by the libraries' own classes, and let it answer."""
    command = [sys.executable, "-c", STRANGER, str(model)]
    done = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^(finite: True|wrote ([2-9]|\d\d) tokens)$", done.stdout, re.MULTILINE), done.stdout


def test_runs_from_a_read_only_checkout(bare, tmp_path):
    """As a user without rights in the checkout; the administrator is made one for the time being."""
    checkout, home = tmp_path / "check out", tmp_path / "home"
    subprocess.run(["git", "clone", "-q", bare, str(checkout)], check=True)
    home.mkdir()
    nobody = 65534 if os.geteuid() == 0 else os.geteuid()
    if subprocess.run(["test", "-x", os.path.realpath(sys.executable)], user=nobody).returncode:
        pytest.skip("this Python belongs to the administrator alone, so no one without rights can run it")
    os.chown(home, nobody, -1)
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        os.chmod(folder, 0o755)
    subprocess.run(["chmod", "-R", "a-w,a+rX", str(checkout)], check=True)
    command = [sys.executable, "-m", "shared.run", "ag-news", "--profile", "tiny"]
    environment = variables(tmp_path, HOME=str(home)) | {"HF_HOME": str(home / "hf"), "MPLCONFIGDIR": str(home / "mpl")}
    done = subprocess.run(command, cwd=checkout, env=environment, user=nobody, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert list((home / "fine-tuning-course-outputs").glob("*_ag-news/report.md"))
    assert subprocess.run(["git", "status", "--short"], cwd=checkout, capture_output=True, text=True, check=True).stdout == ""
