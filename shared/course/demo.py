"""The newest run of a lesson as a web page: `make demo LESSON=task-1/ag-news`, or python -m shared.course.demo task-1/ag-news.

A classifier shows its labels as bars, a reader of questions marks its answer in the text, everything else takes a prompt and writes. The
page is for this machine alone. It needs the package gradio, which nothing else here does.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Callable
from typing import Any

from shared.course import runtime, standin
from shared.course.run import find_lessons
from shared.course.runtime import ROOT, CourseError, RunFolder, newest_run
from shared.course.upload import kind_of, text_columns


def chosen(lesson: str) -> tuple[RunFolder, dict[str, Any]]:
    """The newest run of a lesson, and what its settings were. CourseError for no lesson, one without a run, and without gradio."""
    if not lesson:
        raise CourseError("name a lesson, for example: make demo LESSON=task-1/ag-news")
    (path, *others) = find_lessons([lesson])
    name = path.parent.relative_to(ROOT).as_posix()
    if others or "/lab-" in name:
        raise CourseError(f"{lesson} is no lesson with a model of its own: name one, for example task-1/ag-news")
    run = newest_run(name, everywhere=True)
    if run is None:
        raise CourseError(f"{name} has no run with a model in {runtime.outputs_root()} yet: make run LESSONS={name} makes one")
    if not kind_of(run.model):
        raise CourseError(f"the model of {run.name} is of a kind that has no page here: load it as section 9 of the lesson does")
    if importlib.util.find_spec("gradio") is None:
        raise CourseError(f"the page needs the package gradio: {sys.executable} -m pip install -r requirements-demo.txt")
    return run, json.loads((run.path / "results.json").read_text(encoding="utf8"))


# ---------------------------------------------------------------- what the pages do


def classifier(run: RunFolder, max_length: int) -> Callable[..., dict[str, float]]:
    """A function of one or two texts: {label: probability}. Where several labels may hold, they do not sum to 1."""
    from transformers import pipeline

    classify = pipeline("text-classification", model=str(run.model), top_k=None)

    def label(text: str, pair: str = "") -> dict[str, float]:
        asked = {"text": text, "text_pair": pair} if pair else {"text": text}
        found = classify(asked, truncation=True, max_length=max_length)
        return {one["label"]: one["score"] for one in found}

    return label


def reader(run: RunFolder, max_length: int) -> Callable[[str, str], list[tuple[str, str | None]]]:
    """A function of a question and a text: the text in pieces, the answer marked with its probability among the best spans."""
    import torch
    from transformers import AutoModelForQuestionAnswering, AutoTokenizer

    from shared import qa

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    model = AutoModelForQuestionAnswering.from_pretrained(run.model, dtype=torch.float32).eval()

    def mark(question: str, text: str) -> list[tuple[str, str | None]]:
        if not question.strip() or not text.strip():
            return [(text, None)]
        with torch.inference_mode():
            found = qa.answer(model, tokenizer, question, text, max_length, max_length // 4)
        if not found:
            return [(text, None)]
        best = found[0]
        return [(text[: best.start_char], None), (best.text, f"{best.probability:.0%}"), (text[best.end_char :], None)]

    return mark


def writer(run: RunFolder, kind: str) -> tuple[Callable[[str, int, bool], str], bool]:
    """A function of a prompt, the most new tokens, and whether the chat template is put around it; and whether there is a template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.model)
    family = AutoModelForSeq2SeqLM if kind == "text2text-generation" else AutoModelForCausalLM
    model = family.from_pretrained(run.model, dtype=torch.float32).eval().to(runtime.device())  # adapters bring their base model along

    def write(prompt: str, max_new_tokens: int = 60, template: bool = False) -> str:
        if template:
            prompt = tokenizer.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        batch = tokenizer(prompt, return_tensors="pt", truncation=True, add_special_tokens=not template).to(model.device)
        with torch.inference_mode():
            said = model.generate(**batch, max_new_tokens=int(max_new_tokens), do_sample=False)[0]
        new = said if model.config.is_encoder_decoder else said[batch["input_ids"].shape[1] :]
        return tokenizer.decode(new, skip_special_tokens=True)

    return write, bool(tokenizer.chat_template)


# ---------------------------------------------------------------- the page


def page(run: RunFolder, results: dict[str, Any]) -> Any:
    """The Gradio interface of a run's model."""
    import gradio as gr

    kind, longest = kind_of(run.model), results["config"].get("max_length", 128)
    if kind == "text-classification":
        boxes = [gr.Textbox(label=name, lines=4) for name in text_columns(results)[:2]]
        work, inputs, output = classifier(run, longest), boxes, gr.Label(label="labels")
    elif kind == "question-answering":
        boxes = [gr.Textbox(label="question"), gr.Textbox(label="text", lines=10)]
        work, inputs, output = reader(run, longest), boxes, gr.HighlightedText(label="answer", combine_adjacent=False)
    else:
        work, template = writer(run, kind)
        boxes = [gr.Textbox(label="prompt", lines=8, placeholder="in the form that the lesson trains with")]
        more = [gr.Slider(1, 400, 60, step=1, label="at most this many new tokens"), gr.Checkbox(template, label="as a chat message")]
        inputs, output = boxes + more[: 1 + template], gr.Textbox(label="output", lines=8)
    scores = ", ".join(f"{name.replace('_', '-')} {score['value']:.3f}" for name, score in list(results["metrics"].items())[:2])
    about = f"{results['model']['id']}, profile {results['profile']}: {scores} on its test rows. Other texts may go worse."
    return gr.Interface(work, inputs, output, title=f"{results['lesson']}: {run.name}", description=about, flagging_mode="never")


@runtime.command_line
def main(argv: list[str] | None = None) -> int | None:
    arguments = sys.argv[1:] if argv is None else argv
    run, results = chosen(" ".join(arguments))
    standin.start(results["profile"])  # adapters need their base model, from where the run had it
    runtime.quiet()
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    print(f"the model of {run.name} (Ctrl-C ends it)", flush=True)
    page(run, results).launch()


if __name__ == "__main__":
    sys.exit(main())
