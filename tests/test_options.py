"""Whole lessons in `tiny` with the options that `tiny` itself leaves off, as a reader sets them with --set."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from shared import data
from shared.course import forkserver, twins
from shared.course.runtime import ROOT

pytestmark = pytest.mark.slow


def run(lesson: str, outputs: Path, *sets: str, **environment: str) -> tuple[str, dict[str, Any] | None]:
    """What `python -m shared.run` prints, and the results it wrote, if any."""
    before = set(outputs.glob("*/results.json"))
    options = [word for pair in sets for word in ("--set", pair)]
    words = ("shared.course.run", lesson, "--profile", "tiny", *options)
    # a forked process has the client in it already, which asks the session's own Hub, and that has the bundled rows
    command = [sys.executable, "-u", "-m", *words] if "COURSE_DATA" in environment else forkserver.command(*words)
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"COURSE_OUTPUTS": str(outputs)} | environment,
    )
    made = set(outputs.glob("*/results.json")) - before
    assert (done.returncode == 0) == (len(made) == 1), done.stdout + done.stderr
    return done.stdout, json.loads(made.pop().read_text(encoding="utf8")) if made else None


def as_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """The bundled rows of some data sets as a COURSE_DATA folder."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for split in ("train", "validation"):
            data.bundled_split(name, split).to_parquet(folder / name / f"{split}.parquet")
    return folder


def shifted(rows: list[dict]) -> list[dict]:
    """The same rows with answers that do not stand where they say."""
    return [row | {"answers": row["answers"] | {"answer_start": [at + 1 for at in row["answers"]["answer_start"]]}} for row in rows]


def test_bad_answers_are_left_out_and_counted_if_asked_for(tmp_path):
    folder = as_folder(tmp_path / "data", ("squad",))
    file = folder / "squad" / "train.parquet"
    rows = Dataset.from_parquet(str(file)).to_list()
    Dataset.from_list(shifted(rows[:6]) + rows[6:]).to_parquet(file)
    said, nothing = run("extractive-squad", tmp_path / "runs", COURSE_DATA=str(folder))
    assert nothing is None and "does not stand at its answer_start: correct it, or drop such rows with skip_bad_answers=true" in said
    _, results = run("extractive-squad", tmp_path / "runs", "skip_bad_answers=true", COURSE_DATA=str(folder))
    assert results["tables"]["skipped"] == [{"rows": 6}]


def test_a_model_that_writes_leaves_out_questions_without_an_answer(tmp_path):
    """Their list may be empty, hold an empty text (with a start of -1), or be missing."""
    folder = as_folder(tmp_path / "data", ("squad",))
    file = folder / "squad" / "train.parquet"
    rows = Dataset.from_parquet(str(file)).to_list()
    rows[3]["answers"], rows[4]["answers"] = {"text": [""], "answer_start": [-1]}, {"text": [], "answer_start": []}
    Dataset.from_list(rows).to_parquet(file)
    said, results = run("t5-squad", tmp_path / "runs", COURSE_DATA=str(folder))
    assert results, said
    assert sum(results["data"][split]["rows"] for split in ("train", "held_out")) == len(rows) - 2


def test_answers_as_lists_of_structs_are_read_and_titles_with_commas_left_out(tmp_path):
    folder = as_folder(tmp_path / "data", ("squad",))
    for file in (folder / "squad").glob("*.parquet"):
        rows = Dataset.from_parquet(str(file)).to_list()
        for row in rows:
            pairs = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
            row["answers"] = [{"text": text, "answer_start": start} for text, start in pairs]
            row["title"] = {"Chess clock": "Chess clock,_Oregon"}.get(row["title"], row["title"])
        Dataset.from_list(rows).to_parquet(file)
    _, whole = run("extractive-squad", tmp_path / "runs", COURSE_DATA=str(folder))
    _, results = run("extractive-squad", tmp_path / "runs", "left_out_titles=Chess clock,_Oregon; Invar", COURSE_DATA=str(folder))
    used = [sum(part["data"][split]["rows"] for split in ("train", "held_out")) for part in (whole, results)]
    titles = data.bundled_split("squad", "train")["title"]
    assert used == [80, 80 - sum(title in ("Chess clock", "Invar") for title in titles)]
    said, _ = run("extractive-squad", tmp_path / "runs", "left_out_titles=Nobody", COURSE_DATA=str(folder))
    assert "no row has the title 'Nobody': names are separated by semicolons" in said


def test_the_lab_on_refusing_reads_empty_and_null_answers_as_none_and_leaves_bad_rows_out_of_all_that_follows(tmp_path):
    """SQuAD v2 with "no answer" as [""] at -1 and as null, and with answers that are one character off."""
    folder, lab = as_folder(tmp_path / "data", ("squad", "squad_v2")), "lab-stride-and-spans"
    _, whole = run(lab, tmp_path / "runs", COURSE_DATA=str(folder))
    for file in (folder / "squad_v2").glob("*.parquet"):
        rows = Dataset.from_parquet(str(file)).to_list()
        for number, row in enumerate(rows):
            if not row["answers"]["text"]:
                row["answers"] = {"text": [""], "answer_start": [-1]} if number % 2 else None
        Dataset.from_list(rows).to_parquet(file)
    _, same = run(lab, tmp_path / "runs", COURSE_DATA=str(folder))
    assert same["data"] == whole["data"] and same["tables"]["protocols"] == whole["tables"]["protocols"]
    rows = Dataset.from_parquet(str(folder / "squad_v2" / "train.parquet")).to_list()
    answered = [row for row in rows if row["answers"] and row["answers"]["text"] != [""]]
    off = {row["id"] for row in answered[:7]}
    Dataset.from_list([shifted([row])[0] if row["id"] in off else row for row in rows]).to_parquet(folder / "squad_v2" / "train.parquet")
    said, nothing = run(lab, tmp_path / "runs", COURSE_DATA=str(folder))
    assert nothing is None and "(and 6 more) does not stand at its answer_start" in said
    _, left = run(lab, tmp_path / "runs", "skip_bad_answers=true", COURSE_DATA=str(folder))
    used = [sum(results["data"][f"v2_{part}"]["rows"] for part in ("train", "held_out")) for results in (whole, left)]
    assert used[0] - used[1] == 7


def test_the_lab_starts_from_a_run_of_the_lesson(tmp_path):
    run("extractive-squad", tmp_path)
    (lesson,) = tmp_path.glob("*_extractive-squad")
    _, results = run("lab-stride-and-spans", tmp_path, f"reader={lesson.name}")
    assert results["tables"]["start"] == [{"model": lesson.name, "rows": 76}]
    assert results["tables"]["headline"][0]["train_rows"] == results["data"]["v2_train"]["rows"] + 76
    _, results = run("lab-stride-and-spans", tmp_path, "reader=")
    assert results["tables"]["start"][0]["model"] is None


def test_rte_starts_from_a_model_of_the_hub_or_from_a_run_of_the_mnli_lesson(tmp_path):
    said, _ = run("rte", tmp_path, "mnli_model=2020-01-01_00-00-00_bert_mnli")
    assert "there is no run '2020-01-01_00-00-00_bert_mnli' with a model" in said
    said, _ = run("rte", tmp_path, "mnli_model=google-bert/bert-base-uncased")
    assert "cannot stand in for distilbert/distilbert-base-uncased: its model_type is bert, not distilbert" in said
    mnli_run = tmp_path / "2030-01-01_00-00-00_distilbert_mnli"
    shutil.copytree(twins.twin("typeform/distilbert-base-uncased-mnli"), mnli_run / "model")
    made = {"config": {"train_data": "course/nli_mix"}, "data": {"train": {"rows": 7}}, "metrics": {"accuracy": {"value": 0.4}}}
    (mnli_run / "results.json").write_text(json.dumps(made), encoding="utf8")
    for name, rows in (("typeform/distilbert-base-uncased-mnli", None), (mnli_run.name, 7)):
        _, results = run("rte", tmp_path, f"mnli_model={name}")
        (source,) = results["tables"]["intermediate"]
        assert (source["model"], source["rows"]) == (name, rows) and "mnli_train" not in results["data"]


def test_rte_goes_on_with_the_trainings_that_are_missing(tmp_path):
    _, first = run("rte", tmp_path)
    (folder,) = tmp_path.glob("*_rte")
    (folder / "results.json").unlink()
    shutil.rmtree(folder / "parts" / "plain-1")
    _, again = run("rte", tmp_path, f"resume={folder.name}")
    assert again["metrics"] == first["metrics"] and again["tables"]["starts"] == first["tables"]["starts"]
    assert again["tables"]["timed"][0]["steps"] == again["tables"]["timed"][0]["of"]


def test_a_run_is_published_and_its_curves_go_to_a_tracker(tmp_path):
    pytest.importorskip("tensorboard")
    _, results = run("ag-news", tmp_path, "push_to_hub=ada/news", "report_to=tensorboard")
    (folder,) = tmp_path.glob("*_ag-news")
    notebook = (folder / "ag_news.ipynb").read_text(encoding="utf8")
    assert results["config"]["push_to_hub"] == "ada/news" and "a rehearsal: the stand-in Hub has ada/news until" in notebook
    assert (folder / "model" / "README.md").is_file() and list((folder / "logs").glob("events.*"))
    assert "push_to_hub" not in (folder / "report.md").read_text(encoding="utf8")


def test_somebody_elses_repository_is_refused_before_anything_is_trained(tmp_path):
    said, nothing = run("ag-news", tmp_path, "push_to_hub=google-bert/news")
    assert nothing is None and "in 1. Setup and settings" in said and "push_to_hub=google-bert/news: you may not write to it (" in said


@pytest.mark.parametrize(
    ("lesson", "option"),
    [
        ("phi2-xsum", "four_bit=false"),
        ("llm-sst2", "four_bit=false"),
        ("llm-squad-v2", "four_bit=false"),
    ],
)
def test_the_lesson_runs_with(lesson, option, tmp_path):
    _, results = run(lesson, tmp_path, option)
    key, value = option.split("=")
    assert str(results["config"][key]).lower().startswith(value)
