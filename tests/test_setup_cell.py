"""The setup cell alone, in an empty folder: from where it takes the course, and what it says where it cannot."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import quote

import pytest

from tests.programs import START

# of the helper package what the setup cell asks for: the folder `shared/course`
HELPERS = "from pathlib import Path\n\ndef setup():\n    print('set up from', Path(__file__).parents[2].name)\n"
FORK = "https://github.com/someone/their-fork"


def git(*arguments: str, cwd) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=cwd, check=True, capture_output=True)


def write_helpers(folder) -> None:
    (folder / "course").mkdir(parents=True)
    (folder / "course" / "__init__.py").write_text(HELPERS)


@pytest.fixture
def bare(tmp_path):
    """A bare clone of a repository that holds a stand-in for the helper package."""
    write_helpers(tmp_path / "source" / "shared")
    git("init", "-q", cwd=tmp_path / "source")
    git("add", ".", cwd=tmp_path / "source")
    git("commit", "-qm", "helpers", cwd=tmp_path / "source")
    git("clone", "-q", "--bare", "source", "bare.git", cwd=tmp_path)
    return f"file://{tmp_path}/bare.git"


def setup_cell(repository: str = "OWNER/NAME") -> str:
    cells = json.loads(START.read_text(encoding="utf8"))["cells"]
    code = "".join(next(cell["source"] for cell in cells if cell["cell_type"] == "code"))
    lines = [f'REPOSITORY = "{repository}"' if line.startswith("REPOSITORY") else line for line in code.splitlines()]
    return "\n".join(lines)


def run_cell(folder, repository: str = "OWNER/NAME", before: str = "", flags: tuple = (), **variables: str) -> subprocess.CompletedProcess:
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "PYTHON", "COLAB_"))}
    command = [sys.executable, *flags, "-c", before + setup_cell(repository)]
    return subprocess.run(command, cwd=folder, env=inherited | variables, capture_output=True, text=True, timeout=60)


def instead_of(address: str, bare: str) -> dict[str, str]:
    """Git's own way to fetch one address from another place."""
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.{bare}.insteadOf", "GIT_CONFIG_VALUE_0": address}


@contextmanager
def colab_sessions(path: str):
    """The sessions that a Colab machine's own server tells of; gives the variables that lead there."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/sessions" else 404)
            self.end_headers()
            self.wfile.write(json.dumps([{"name": "ag_news.ipynb", "path": path, "type": "notebook"}]).encode())

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield {"COLAB_JUPYTER_IP": "127.0.0.1", "KMP_TARGET_PORT": str(server.server_port)}
    finally:
        server.shutdown()
        server.server_close()


def from_github(repository: str) -> str:
    return "fileId=" + quote(f"https://github.com/{repository}/blob/main/task-1/ag-news/ag_news.ipynb", safe="")


def test_the_checkout_around_the_notebook_comes_first(bare, tmp_path):
    done = run_cell(tmp_path / "source" / "task-1" / "lesson", COURSE_REPO="file:///nowhere")
    assert done.stdout == "set up from source\n", done.stderr


@pytest.mark.parametrize("folder", ["empty", "with spaces and ünïcode"])
def test_course_repo_is_cloned_once_and_shallowly(bare, tmp_path, folder):
    for _ in range(2):  # the second time there is nothing left to fetch
        done = run_cell(tmp_path / folder, COURSE_REPO=bare)
        assert done.stdout == "set up from fine-tuning-course\n", done.stderr
        bare = "file:///nowhere"
    assert (tmp_path / folder / "fine-tuning-course" / ".git" / "shallow").is_file()


def test_colab_clones_the_repository_that_the_notebook_was_opened_from(bare, tmp_path):
    with colab_sessions(from_github("someone/their-fork")) as colab:
        done = run_cell(tmp_path / "content", "the/original", **colab, **instead_of(FORK, bare))
    assert done.stdout == "set up from fine-tuning-course\n", done.stderr


@pytest.mark.parametrize("path", ["fileId=1UpXM_a-copy-in-somebodys-drive", ""])
def test_a_copy_on_colab_clones_the_address_that_is_stamped_in(bare, tmp_path, path):
    with colab_sessions(path) as colab:
        done = run_cell(tmp_path / "content", "someone/their-fork", **colab, **instead_of(FORK, bare))
    assert done.stdout == "set up from fine-tuning-course\n", done.stderr


def test_elsewhere_the_stamped_address_is_cloned(bare, tmp_path):
    unanswered = {"COLAB_JUPYTER_IP": "127.0.0.1", "KMP_TARGET_PORT": "9"}
    done = run_cell(tmp_path / "content", "someone/their-fork", **unanswered, **instead_of(FORK, bare))
    assert done.stdout == "set up from fine-tuning-course\n", done.stderr


@pytest.fixture
def kaggle(tmp_path):
    """A stand-in for a Kaggle notebook: its working folder and variables. Nothing of Colab is there; git cannot leave the machine."""
    folder = tmp_path / "kaggle" / "working"
    folder.mkdir(parents=True)
    cut_off = {"GIT_ALLOW_PROTOCOL": "file", "PIP_NO_INDEX": "1"}
    return folder, {"KAGGLE_KERNEL_RUN_TYPE": "Interactive", "KAGGLE_URL_BASE": "https://www.kaggle.com", "HOME": str(tmp_path)} | cut_off


def test_kaggle_clones_the_stamped_address_into_its_working_folder(bare, kaggle):
    folder, variables = kaggle
    done = run_cell(folder, "someone/their-fork", **variables, **instead_of(FORK, bare))
    assert done.stdout == "set up from fine-tuning-course\n", done.stderr
    assert [entry.name for entry in folder.iterdir()] == ["fine-tuning-course"]


def test_kaggle_with_the_internet_off_says_what_to_do_and_leaves_nothing(kaggle):
    folder, variables = kaggle
    done = run_cell(folder, "someone/their-fork", **variables)
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1].startswith(f"cannot clone the course from {FORK}: set COURSE_REPO")
    assert list(folder.iterdir()) == []


def test_kaggle_with_the_internet_off_takes_a_clone_that_is_attached_as_input(bare, kaggle):
    folder, variables = kaggle
    attached = folder.parent / "input" / "fine-tuning-course.git"
    attached.parent.mkdir()
    git("clone", "-q", "--bare", bare, str(attached), cwd=folder)
    done = run_cell(folder, COURSE_REPO=str(attached), **variables)
    assert done.stdout == "set up from fine-tuning-course\n", done.stderr


def test_kaggle_with_the_internet_off_and_packages_missing_says_so(bare, kaggle):
    folder, variables = kaggle
    done = run_cell(folder, flags=("-S",), COURSE_REPO=bare, PIP_IGNORE_INSTALLED="1", **variables)
    assert done.returncode == 1 and "switch the internet access of this notebook on" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(("variables", "address"), [({}, "nowhere"), ({"COURSE_REPO": "file:///no/such/place"}, "file:///no/such/place")])
def test_without_an_address_it_says_what_to_do(tmp_path, variables, address):
    done = run_cell(tmp_path / "content", **variables)
    expected = f"cannot clone the course from {address}: set COURSE_REPO to its git address, check the network, run this again"
    assert done.returncode == 1 and done.stderr.strip().splitlines()[-1] == expected


def test_another_package_named_shared_is_noticed(bare, tmp_path):
    impostor = tmp_path / "elsewhere" / "shared"
    write_helpers(impostor)
    (impostor / "__init__.py").touch()
    hidden = f"import sys; sys.path.insert(0, {str(impostor.parent)!r}); import shared.course\n"
    done = run_cell(tmp_path / "content", before=hidden, COURSE_REPO=bare)
    assert done.returncode == 1 and "another package named shared hides the course's" in done.stderr


def test_what_is_missing_is_installed_and_a_failure_says_so(bare, tmp_path):
    """A Python that sees no packages (-S), and a pip that neither counts the installed ones nor finds an index."""
    blind = {"PIP_NO_INDEX": "1", "PIP_IGNORE_INSTALLED": "1"}
    done = run_cell(tmp_path / "content", flags=("-S",), COURSE_REPO=bare, **blind)
    message = "cannot install peft, bitsandbytes, evaluate, rouge_score, sacrebleu: switch the internet access of this notebook on"
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(message)
