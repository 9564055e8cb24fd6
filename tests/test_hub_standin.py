"""The real client against a stand-in Hub: the `colab` cells of lessons that are not plain, and what happens where the Hub fails."""

import json
import os
import re
import subprocess
import sys

import nbformat
import pytest
from nbclient import NotebookClient

from shared.course.runtime import ROOT
from tests import hub_standin
from tests.programs import OLD

pytestmark = pytest.mark.slow
FULL_ON_A_CPU = 'runtime.profile = lambda: "colab"'  # the one thing that a CPU is refused
# sizes for a CPU, and an optimiser for it: paged 8-bit AdamW needs CUDA
SMALLER = {
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return hub_standin.build(tmp_path_factory.mktemp("hub"))


@pytest.fixture(autouse=True)
def no_trouble(hub):
    """What befell one test's requests must not befall the next one's."""
    hub.trouble = {}


def online(address: str, home, **more: str) -> dict[str, str]:
    """The variables of a machine whose Hub is the stand-in."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COURSE_", "HF_"))}
    own = {"HF_ENDPOINT": address, "HF_HOME": str(home / "hf"), "XDG_CACHE_HOME": str(home / "cache"), "COURSE_OUTPUTS": str(home / "runs")}
    return kept | own | more


@pytest.mark.parametrize("path", OLD, ids=[path.stem for path in OLD])  # of the plain ones see test_standin.py
def test_the_full_profile_runs_from_the_hub(hub, tmp_path, path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
    first = next(place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code")
    notebook.cells.insert(first + 1, nbformat.v4.new_code_cell(FULL_ON_A_CPU))
    sizes = SMALLER.get(path.parent.name, "epochs=1")
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
    hub.asked.clear()
    with hub.serving() as address:
        client.execute(env=online(address, tmp_path, COURSE_PROFILE="laptop", COURSE_SET=sizes))
    (found,) = (tmp_path / "runs").glob("*/results.json")
    results = json.loads(found.read_text(encoding="utf8"))
    assert results["profile"] == "colab"
    assert {part["source"].split(":")[0] for part in results["data"].values()} == {"hub"}
    assert results["model"]["revision"] == hub_standin.SHA
    assert any(f"/{results['model']['id']}/" in asked for asked in hub.asked)


SCRIPT = """
import json, sys, time
from shared.legacy import causal, data, models, seq2seq
from shared.course.runtime import CourseError
started = time.perf_counter()
try:
    found = {what}
    print("GOT", getattr(found, "num_rows", "a model"))
except CourseError as error:
    print("ERROR", error)
print("SECONDS", time.perf_counter() - started)
"""
REFERENCE = """
from shared import text2text
from shared.legacy import seq2seq
model, tokenizer, _ = seq2seq.load_seq2seq("Helsinki-NLP/opus-mt-en-id", "pretrained")
ids = tokenizer(["Where is the water?", "The old bridge over the river is closed."])["input_ids"]
print(tokenizer.decode(ids[0], skip_special_tokens=True))
print(len(text2text.generate(model, tokenizer, ids, max_new_tokens=5, num_beams=2).texts), "translations")
"""
ENCODER, T5 = 'models.load_encoder("bert", "pretrained", ["no", "yes"])', 'seq2seq.load_seq2seq("t5-small", "pretrained")'
ROWS, MODEL = 'data.load_split("ag_news", "train")', 'causal.load_causal("phi-2", "pretrained")'


def ask(hub, home, what: str, trouble: dict | None = None, **more: str) -> str:
    hub.trouble = trouble or {}
    with hub.serving() as address:
        done = subprocess.run([sys.executable, "-c", SCRIPT.format(what=what)], cwd=ROOT, capture_output=True, text=True, timeout=120,
                              env=online(address, home, COURSE_PROFILE="laptop") | more)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


def test_rows_and_models_come_through_the_real_client(hub, tmp_path):
    assert "GOT 120" in ask(hub, tmp_path, ROWS)
    assert "GOT 120" in ask(hub, tmp_path, ROWS, {"/": 500})  # the second time from the cache


def test_the_reference_of_the_translation_lesson_comes_from_the_hub_and_translates(hub, tmp_path):
    pytest.importorskip("sentencepiece")
    with hub.serving() as address:
        done = subprocess.run([sys.executable, "-c", REFERENCE], cwd=ROOT, capture_output=True, text=True, timeout=120,
                              env=online(address, tmp_path))  # fmt: skip
    assert done.returncode == 0, done.stderr[-2_000:]
    assert "Where is the water?" in done.stdout and "2 translations" in done.stdout


@pytest.mark.parametrize(
    ("what", "trouble", "answer"),
    [
        (ROWS, {"datasets/fancyzhx": 404}, "NOTE: the Hub gave no fancyzhx/ag_news (DatasetNotFoundError"),
        (ROWS, {"datasets/fancyzhx": 401}, "NOTE: the Hub gave no fancyzhx/ag_news ("),
        (ROWS, {"train-00000": "cut"}, "NOTE: the Hub gave no fancyzhx/ag_news ("),
        (ROWS, {"/": 500}, "NOTE: the Hub gave no fancyzhx/ag_news (no network)"),
        (MODEL, {"microsoft/phi-2": 404}, "ERROR the Hub has no microsoft/phi-2, or refuses it to this token: check the name"),
        (MODEL, {"microsoft/phi-2": 401}, "ERROR microsoft/phi-2 is gated: accept the licence on its page and log in, or choose"),
        (MODEL, {"model.safetensors": "cut"}, "ERROR cannot load microsoft/phi-2: check the connection"),
    ],
)
def test_a_failing_hub_is_named_and_nothing_hangs(hub, tmp_path, what, trouble, answer):
    said = ask(hub, tmp_path, what, trouble)
    assert answer in said
    if what == ROWS:
        assert "using the course's bundled train rows instead" in said and "GOT 120" in said


@pytest.mark.parametrize("what", [MODEL, ENCODER, T5])
def test_a_model_fetched_once_serves_where_the_hub_no_longer_gives_it(hub, tmp_path, what):
    assert "GOT a model" in ask(hub, tmp_path, what)
    for code in (401, 404):
        said = ask(hub, tmp_path, what, {"/": code})
        assert "GOT a model" in said and "using the copy fetched earlier" in said


def test_a_hub_that_does_not_answer_is_noticed_within_ten_seconds(hub, tmp_path):
    said = ask(hub, tmp_path, ROWS, {"whoami": 30.0})
    assert "(no network)" in said and float(re.search(r"SECONDS ([\d.]+)", said)[1]) < 10


def test_a_slow_hub_is_waited_for(hub, tmp_path):
    assert "GOT a model" in ask(hub, tmp_path, MODEL, {"model.safetensors": 4.0})
    assert "GOT 120" in ask(hub, tmp_path, ROWS, {"train-00000": 4.0})


@pytest.mark.parametrize(("what", "file", "got"), [(MODEL, "model.safetensors", "GOT a model"), (ROWS, "train-00000", "GOT 120")])
def test_what_was_cut_off_is_fetched_the_next_time(hub, tmp_path, what, file, got):
    first = ask(hub, tmp_path, what, {file: "cut"})
    assert "cannot load" in first or "the Hub gave no" in first
    again = ask(hub, tmp_path, what)
    assert got in again and "the Hub gave no" not in again
