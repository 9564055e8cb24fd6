"""The newest run as a web page: which run is meant, what its functions answer, what is refused, and the page in a true browser."""

import importlib.util
import json
import shutil

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationMixin,
)

from shared import qa
from shared.course import demo, upload
from shared.course.runtime import CourseError, RunFolder, newest_run

BERT, T5, LLAMA = "google-bert/bert-base-uncased", "google-t5/t5-small", "HuggingFaceTB/SmolLM2-135M-Instruct"
SCORE = {"value": 0.5, "low": 0.4, "high": 0.6}
needs_gradio = pytest.mark.skipif(importlib.util.find_spec("gradio") is None, reason="pip install -r requirements-demo.txt")


@pytest.fixture(autouse=True)
def outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    return tmp_path


def made(outputs, family, base, lesson="task-1/ag-news", name="2026-01-02", profile="tiny", **config) -> RunFolder:
    """A complete run with a twin of `base` as its model."""
    run = RunFolder(outputs / name)
    torch.manual_seed(0)
    family.from_pretrained(base, **({"num_labels": 3} if family is AutoModelForSequenceClassification else {})).save_pretrained(run.model)
    AutoTokenizer.from_pretrained(base).save_pretrained(run.model)
    results = {"lesson": lesson, "profile": profile, "config": {"max_length": 64} | config}
    results |= {"metrics": {"accuracy": SCORE}, "model": {"id": base}}
    (run.path / "results.json").write_text(json.dumps(results))
    return run


def results_of(run: RunFolder) -> dict:
    return json.loads((run.path / "results.json").read_text())


# ---------------------------------------------------------------- which run


def test_the_newest_run_of_the_lesson_that_kept_a_model(outputs):
    assert newest_run("task-1/ag-news", everywhere=True) is None
    first = made(outputs, AutoModelForSequenceClassification, BERT, name="2026-01-02")
    newer = made(outputs, AutoModelForSequenceClassification, BERT, name="2026-01-03", profile="laptop")
    shutil.copytree(newer.path, outputs / "2026-01-04")
    shutil.rmtree(outputs / "2026-01-04" / "model")
    made(outputs, AutoModelForSequenceClassification, BERT, name="2026-01-05", lesson="task-1/mnli")
    made(outputs, AutoModelForSequenceClassification, BERT, name="2026-01-06", data="my.csv")
    assert newest_run("task-1/ag-news").name == first.name  # of this profile, on the lesson's own data
    assert newest_run("task-1/ag-news", everywhere=True).name == "2026-01-06"
    (outputs / "2026-01-07").mkdir()  # of `shared.course.pretrain`, whose results name no lesson
    (outputs / "2026-01-07" / "results.json").write_text('{"task": "cloze questions", "history": []}')
    assert newest_run("task-1/ag-news").name == first.name
    assert newest_run("task-1/ag-news", everywhere=True).name == "2026-01-06"


@pytest.mark.parametrize(
    ("lesson", "line"),
    [
        ("", "name a lesson, for example: make demo LESSON=task-1/ag-news"),
        ("agnews", "unknown lesson 'agnews': did you mean"),
        ("task-1", "task-1 is no lesson with a model of its own: name one"),
        ("lab-speed", "lab-speed is no lesson with a model of its own"),
        ("ag-news", "task-1/ag-news has no run with a model in "),
    ],
)
def test_what_cannot_be_shown_is_one_line(lesson, line, capsys):
    assert demo.main([lesson] if lesson else []) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {line}") and said.count("\n") == 1


def test_a_missing_gradio_and_an_unknown_model_are_one_line(outputs, monkeypatch):
    run = made(outputs, AutoModelForSequenceClassification, BERT)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CourseError, match=r"^the page needs the package gradio: .* -m pip install -r requirements-demo\.txt$"):
        demo.chosen("ag-news")
    (run.model / "config.json").write_text('{"architectures": ["BertModel"]}')
    with pytest.raises(CourseError, match=r"^the model of 2026-01-02 is of a kind that has no page here"):
        demo.chosen("ag-news")


# ---------------------------------------------------------------- what the pages answer


def test_a_classifier_gives_every_label_a_probability(outputs):
    label = demo.classifier(made(outputs, AutoModelForSequenceClassification, BERT), 64)
    found = label("Rates rise again.")
    assert sorted(found) == ["LABEL_0", "LABEL_1", "LABEL_2"] and sum(found.values()) == pytest.approx(1)
    assert label("Rates rise again.", "Money costs more.") != found
    assert label("word " * 500)  # cut, not refused


def test_the_texts_that_a_classifier_reads():
    def columns(lesson, **config):
        return upload.text_columns({"lesson": lesson, "config": config})

    assert columns("task-1/ag-news") == ["text"] and columns("task-1/mnli") == ["premise", "hypothesis"]
    assert columns("task-1/go-emotions") == ["text"] and columns("task-1/new") == ["text"]
    assert columns("task-1/rte", columns={"premise": "a", "hypothesis": "b", "label": "c"}) == ["premise", "hypothesis"]


def model_of(run):
    return AutoModelForQuestionAnswering.from_pretrained(run.model), AutoTokenizer.from_pretrained(run.model)


def test_a_reader_marks_a_stretch_of_the_text_wherever_it_stands(outputs):
    run = made(outputs, AutoModelForQuestionAnswering, "distilbert/distilbert-base-cased-distilled-squad")
    mark = demo.reader(run, 64)
    for text in ("The mill was built by Ove in 1807.", "It rained. " * 40 + "The mill was built by Ove in 1807."):
        pieces = mark("Who built the mill?", text)
        assert "".join(piece for piece, _ in pieces) == text
        (before, nothing), (answer, share), _ = pieces
        assert answer and nothing is None and before is not None and share.endswith("%")
        best = qa.answer(*model_of(run), "Who built the mill?", text, 64, 16)[0]
        assert (len(before), answer) == (best.start_char, best.text)  # windows are compared by their scores
    assert mark("", "A text.") == [("A text.", None)] and mark("Who?", " ") == [(" ", None)]


@pytest.mark.parametrize(
    ("family", "base", "kind"), [(AutoModelForSeq2SeqLM, T5, "text2text-generation"), (AutoModelForCausalLM, LLAMA, "text-generation")]
)
def test_a_writer_continues_a_prompt(outputs, monkeypatch, family, base, kind):
    write, template = demo.writer(made(outputs, family, base), kind)
    tokenizer, asked = AutoTokenizer.from_pretrained(base), []
    new = tokenizer("Ove did", add_special_tokens=False)["input_ids"]

    def generate(self, input_ids, **options):
        asked.append((input_ids[0].tolist(), options["max_new_tokens"]))
        return torch.tensor([[0, *new]] if self.config.is_encoder_decoder else [[*asked[-1][0], *new]])

    monkeypatch.setattr(GenerationMixin, "generate", generate)
    said = tokenizer.decode(new, skip_special_tokens=True).strip()
    assert said and write("The mill was built by", 8).strip() == said
    assert asked[-1] == (tokenizer("The mill was built by")["input_ids"], 8) and template == (base == LLAMA)
    if template:
        write("Who built it?", 4, True)
        message = [{"role": "user", "content": "Who built it?"}]
        shown = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert asked[-1] == (tokenizer(shown, add_special_tokens=False)["input_ids"], 4)


# ---------------------------------------------------------------- the page


@needs_gradio
@pytest.mark.parametrize(
    ("family", "base", "boxes"),
    [
        (AutoModelForSequenceClassification, BERT, ["text"]),
        (AutoModelForQuestionAnswering, "distilbert/distilbert-base-cased-distilled-squad", ["question", "text"]),
        (AutoModelForSeq2SeqLM, T5, ["prompt", "at most this many new tokens"]),
        (AutoModelForCausalLM, LLAMA, ["prompt", "at most this many new tokens", "as a chat message"]),
    ],
)
def test_every_kind_of_model_has_a_page(outputs, family, base, boxes):
    run = made(outputs, family, base)
    interface = demo.page(run, results_of(run))
    assert [box.label for box in interface.input_components] == boxes
    assert "accuracy 0.500 on its test rows" in interface.description


@needs_gradio
@pytest.mark.slow
def test_a_reader_types_a_text_and_sees_the_bars(outputs, monkeypatch):
    playwright = pytest.importorskip("playwright.sync_api")
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        pytest.skip("no Chromium here")
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    run = made(outputs, AutoModelForSequenceClassification, BERT)
    interface = demo.page(run, results_of(run))
    _, address, _ = interface.launch(prevent_thread_lock=True, quiet=True)
    try:
        with playwright.sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(address)
            page.get_by_label("text").fill("Rates rise again.")
            page.get_by_role("button", name="Submit").click()
            page.get_by_text("LABEL_2").first.wait_for(timeout=60_000)
            shown = page.inner_text("body")
            page.screenshot(path=outputs / "page.png")
            browser.close()
    finally:
        interface.close()
    assert all(f"LABEL_{number}" in shown for number in range(3)) and "%" in shown
