"""What is committed as measured: valid, consistent with itself, and the only source of the rendered pages."""

import copy
import errno
import itertools
import json
import os
import re
import shutil
from pathlib import Path

import jsonschema
import nbformat
import pytest
from datasets import Features

from shared import plots
from shared.course import report, runtime
from shared.course.rows import DATA_SETS
from shared.course.runtime import ROOT, CourseError

SCHEMA = json.loads((Path(__file__).parent / "results.schema.json").read_text(encoding="utf8"))
FRACTIONS = {"accuracy", "macro_f1", "micro_f1", "weighted_f1", "exact_match", "f1"}
RESULTS = sorted(path for path in ROOT.glob("task-*/*/results/*.json") if not path.parts[-3].startswith("lab-"))


def names(paths):
    return [path.relative_to(ROOT).as_posix() for path in paths]


def test_every_lesson_has_results_of_a_small_run():
    assert report.lesson_folders()
    for lesson in report.lesson_folders():
        assert (lesson / "results" / "laptop.json").is_file(), lesson


@pytest.mark.parametrize("path", RESULTS, ids=names(RESULTS))
def test_results_fit_the_schema_and_their_place(path):
    results = json.loads(path.read_text(encoding="utf8"))
    jsonschema.validate(results, SCHEMA)
    assert results["lesson"] == path.parent.parent.relative_to(ROOT).as_posix()
    assert results["profile"] == path.stem
    for name, metric in results["metrics"].items():
        assert metric["low"] <= metric["value"] <= metric["high"], name
        assert 0 <= metric["value"] <= (1 if name in FRACTIONS else 100), name
    for key, value in results["config"]["overrides"].items():
        assert results["config"][key] == value


LABELS = {
    name
    for spec in DATA_SETS.values()
    for kind in Features.from_dict(spec.features).values()
    for name in getattr(getattr(kind, "feature", kind), "names", None) or ()
}


@pytest.mark.parametrize("path", RESULTS, ids=names(RESULTS))
def test_results_hold_no_text_that_is_not_the_courses_own(path):
    results = json.loads(path.read_text(encoding="utf8"))
    assert results["examples"]
    if any(not part["source"].startswith("bundled") for part in results["data"].values()):
        withheld = r"\(row \d+\)"  # by `course.excerpt`
        for example in results["examples"]:
            assert re.fullmatch(withheld, example["text"])
            for key, value in example.items():
                assert not isinstance(value, str) or re.fullmatch(withheld, value) or set(value.split(" + ")) <= LABELS, (key, value)


def test_the_schema_refuses_what_is_wrong():
    good = json.loads(RESULTS[0].read_text(encoding="utf8"))
    for damage in (
        lambda r: r.pop("data"),
        lambda r: r["metrics"].update(top_score={"value": 1, "low": 1, "high": 1}),
        lambda r: r["metrics"]["accuracy"].pop("low"),
        lambda r: r["model"].update(sha256="abc"),
        lambda r: r["data"]["train"].update(rows=0),
    ):
        bad = copy.deepcopy(good)
        damage(bad)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(bad, SCHEMA)


def test_rendered_pages_are_up_to_date():
    assert report.main(["--check"]) == 0, "run `python -m shared.report` and commit what it renders"


# ---------------------------------------------------------------- rendering


@pytest.fixture
def checkout(tmp_path):
    """A repository with one lesson whose report shows two numbers."""
    lesson = tmp_path / "task-1" / "demo"
    (lesson / "results").mkdir(parents=True)
    results = json.loads(RESULTS[0].read_text(encoding="utf8"))
    results["lesson"] = "task-1/demo"
    (lesson / "results" / "laptop.json").write_text(json.dumps(results))
    (lesson / "demo.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    (lesson / "report.md.j2").write_text(
        '{% set title = "Demo" %}{% set headline = "accuracy" %}{% set published = "90 %" %}\n'
        "accuracy {{ r.metrics.accuracy | interval }} in {{ plots }} from {{ results_file }}\n"
    )
    (tmp_path / "README.md").write_text(
        "top\n<!-- results:start -->\nold\n<!-- results:end -->\n<!-- lessons:start -->\n<!-- lessons:end -->\nend\n"
    )
    (tmp_path / "pyproject.toml").write_text('[tool.course]\nrepository = "old-owner/old-name"\n')
    return tmp_path


def test_a_template_that_asks_for_more_than_the_results_have_is_named(checkout):
    template = checkout / "task-1" / "demo" / "report.md.j2"
    template.write_text(template.read_text() + "{{ r.tables.more[0] }}")
    message = r"task-1/demo/report.md.j2 asks for what the results do not have \(.*'more'\): correct .* run task-1/demo again"
    with pytest.raises(report.CourseError, match=message):
        report.rendered(checkout)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{% set headline = "accuracy" %}', "", r"demo/report.md.j2 does not set 'headline': add \{% set headline = \"...\" %\}"),
        ('{% set published = "90 %" %}', "", r"demo/report.md.j2 does not set 'published'"),
        ('"accuracy"', '"acuracy"', r"unknown headline of task-1/demo/report.md.j2 'acuracy': did you mean 'accuracy'\?"),
        ('"Demo" %}', '"Demo" %}{% set tested = ["tset"] %}', r"unknown tested split of .*report.md.j2 'tset': did you mean 'test'"),
        ("{{ plots }}", "{{ plots", r"task-1/demo/report.md.j2, line 2: .*: correct the template"),
        ("{{ plots }}", "{{ beside('tries.json') }}", r"demo/report.md.j2 cannot be rendered \(FileNotFoundError: .*tries.json"),
        ("{{ plots }}", "{{ r.metrics | interval }}", r"demo/report.md.j2 cannot be rendered \(KeyError"),
    ],
)
def test_a_broken_template_is_named_in_one_line(checkout, old, new, message):
    template = checkout / "task-1" / "demo" / "report.md.j2"
    assert old in template.read_text()
    template.write_text(template.read_text().replace(old, new))
    with pytest.raises(report.CourseError, match=message) as found:
        report.rendered(checkout)
    assert "\n" not in str(found.value)


def test_one_broken_template_keeps_no_other_lesson_from_its_report(checkout):
    shutil.copytree(checkout / "task-1" / "demo", checkout / "task-0" / "older")
    (checkout / "task-0" / "older" / "report.md.j2").write_text("{{ r.gone.away }}")
    message = r"task-0/older/report.md.j2 asks .* The other reports are written; .* python -m shared.report"
    with pytest.raises(report.CourseError, match=message):
        report.write_pages(checkout)
    assert re.match(r"accuracy [\d.]+ % \[", plain((checkout / "task-1/demo/report.md").read_text()))
    assert "old\n" in (checkout / "README.md").read_text()  # which shows every lesson or, until then, what it showed before


def test_writing_renders_once_and_then_is_up_to_date(checkout):
    written = report.write_pages(checkout)
    assert {path.name for path in written} == {"README.md", "report.md", "overview.png"}
    assert report.write_pages(checkout) == []
    accuracy = json.loads((checkout / "task-1/demo/results/laptop.json").read_text())["metrics"]["accuracy"]
    text = plain((checkout / "task-1/demo/report.md").read_text())
    assert f"accuracy {100 * accuracy['value']:.1f} % [" in text and "plots/laptop from results/laptop.json" in text
    readme = plain((checkout / "README.md").read_text())
    assert readme.startswith("top\n") and readme.endswith("end\n") and "old\n" not in readme
    assert f"**{100 * accuracy['value']:.1f} %" in readme and "[Demo](task-1/demo/report.md)" in readme
    assert "[Demo](task-1/demo/demo.ipynb)" in readme


@pytest.mark.parametrize("path", RESULTS, ids=names(RESULTS))
def test_a_trial_run_does_not_claim_what_was_scored_on_other_rows(path):
    """Earlier scores are those of real test rows, which a run on the course's own rows has not seen."""
    results = json.loads(path.read_text(encoding="utf8"))
    for part in results["data"].values():
        part["source"] = "bundled"
    text = report.render(path.parents[1] / "report.md.j2", results, "plots", "results.json")
    assert text.splitlines()[2].startswith("**A trial run**")
    assert not re.search(r"arlier versions? of this lesson|Earlier (looks|runs)|Seen before|A look at the test|Contamination", text)


@pytest.mark.parametrize(("sources", "told"), [({"bundled"}, True), ({"bundled", "folder"}, False), ({"hub"}, False)])
def test_a_report_says_below_its_title_that_a_run_had_only_the_courses_rows(checkout, sources, told):
    results = json.loads((checkout / "task-1/demo/results/laptop.json").read_text())
    for part, source in zip(results["data"].values(), itertools.cycle(sorted(sources)), strict=False):
        part["source"] = source
    template = checkout / "task-1" / "demo" / "report.md.j2"
    template.write_text("# Demo\n\nNumbers\n")
    text = report.render(template, results, "plots", "results.json")
    assert text.startswith("# Demo\n\n**A trial run** on the few rows") is told and text.endswith("\n\nNumbers\n")


def test_a_report_says_that_the_run_was_trained_for_longer_than_planned(checkout):
    path = checkout / "task-1/demo/results/laptop.json"
    results = json.loads(path.read_text())
    results["config"]["epochs"], results["tables"]["longer"] = 4.5, [{"epochs": 2.0}, {"epochs": 3.0}]
    path.write_text(json.dumps(results))
    report.write_pages(checkout)
    said = "was planned for 2, then for 3 epochs and resumed with 4.5: from there on the learning rate is that of a plan over all 4.5"
    assert said in (checkout / "task-1/demo/report.md").read_text()


def test_check_notices_a_changed_number(checkout, monkeypatch, capsys):
    report.write_pages(checkout)
    path = checkout / "task-1/demo/results/laptop.json"
    results = json.loads(path.read_text())
    results["metrics"]["accuracy"]["value"] = 0.123
    path.write_text(json.dumps(results))
    stale = {p.name for p, text in report.rendered(checkout).items() if p.read_text() != text}
    assert stale == {"README.md", "report.md"}


def test_check_exits_one_and_names_the_file(monkeypatch, capsys):
    page = ROOT / "README.md"
    monkeypatch.setattr(report, "rendered", lambda: {page: page.read_text(encoding="utf8") + "x"})
    before = page.read_bytes()
    assert report.main(["--check"]) == 1
    assert "stale: README.md (run python -m shared.report)" in capsys.readouterr().out
    assert page.read_bytes() == before


def test_a_template_that_names_an_unknown_result_fails(checkout):
    (checkout / "task-1/demo/report.md.j2").write_text(
        '{% set title = "Demo" %}{% set headline = "accuracy" %}{% set published = "" %}{{ r.metrics.acuracy | interval }}'
    )
    with pytest.raises(Exception, match="acuracy"):
        report.write_pages(checkout)


def test_publish_stamps_every_place_and_refuses_nonsense(checkout):
    report.write_pages(checkout)
    assert "github/old-owner/old-name/blob/main/task-1/demo/demo.ipynb" in (checkout / "README.md").read_text()
    changed = report.publish("ada/course", checkout)
    assert {path.name for path in changed} == {"pyproject.toml", "README.md"}
    assert "old-owner" not in (checkout / "README.md").read_text()
    assert report.write_pages(checkout) == []
    (checkout / "README.md").write_text("not-ada/course, ada/course-2, ada/course.")
    report.publish("bob/lessons", checkout)
    assert (checkout / "README.md").read_text() == "not-ada/course, ada/course-2, bob/lessons."
    with pytest.raises(CourseError, match="write it as owner/name"):
        report.publish("https://example.org/x", checkout)


def test_publish_stamps_a_true_lesson_and_everything_around_it(tmp_path):
    lesson, old, start = "task-1/ag-news", report.repository(ROOT), "00_start_here.ipynb"
    for name in (start, "pyproject.toml", "README.md", "README.id.md", "CITATION.cff", "task-1/README.md", f"{lesson}/ag_news.ipynb"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    report.publish("ada/course", tmp_path)
    for name in (start, f"{lesson}/ag_news.ipynb"):
        notebook = nbformat.read(tmp_path / name, 4)
        assert f"colab.research.google.com/github/ada/course/blob/main/{name}" in notebook.cells[0].source
        assert 'REPOSITORY = "ada/course"' in notebook.cells[1].source
    assert 'repository-code: "https://github.com/ada/course"' in (tmp_path / "CITATION.cff").read_text()
    assert report.repository(tmp_path) == "ada/course"
    assert not [path for path in tmp_path.rglob("*.*") if old in path.read_text(encoding="utf8")]


def plain(text: str) -> str:
    """With the spaces that keep a score and its interval in one line written as common ones."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def readme_row(checkout, results, variables="") -> str:
    """The README's row of the lesson, with more variables set by its template."""
    lesson = checkout / "task-1" / "demo"
    template = lesson / "report.md.j2"
    template.write_text(variables + template.read_text())
    return report.headline_row(lesson, results, checkout)


def three_splits() -> dict:
    results = json.loads(RESULTS[0].read_text(encoding="utf8"))
    part = {"source": "folder", "fingerprint": "0" * 16}
    results["data"] = {
        "train": part | {"rows": 1_200}, "validation_matched": part | {"rows": 9_815},
        "validation_mismatched": part | {"rows": 9_832}, "test_extra": part | {"rows": 7},
    }
    return results


def test_readme_names_the_splits_that_the_template_says_were_tested(checkout):
    row = readme_row(checkout, three_splits(), '{% set tested = ["validation_matched", "validation_mismatched"] %}')
    assert "| 1,200 | validation_matched 9,815 (folder); validation_mismatched 9,832 (folder) |" in row
    assert "test_extra" not in row


def test_readme_names_the_test_splits_where_the_template_says_nothing(checkout):
    assert "| 1,200 | test_extra 7 (folder) |" in readme_row(checkout, three_splits())


def test_readme_of_a_tested_split_that_the_results_lack_fails(checkout):
    with pytest.raises(report.CourseError, match=r"unknown tested split of .* 'validation': did you mean 'validation_matched'"):
        readme_row(checkout, three_splits(), '{% set tested = ["validation"] %}')


def test_readme_shows_bleu_and_its_floor_without_a_percent_sign(checkout):
    results = three_splits()
    results["metrics"] = {"bleu": {"value": 9.14, "low": 8.2, "high": 10.06}}
    results["baselines"] = {"copy": {"bleu": 1.2}, "word for word": {"bleu": 2.75, "chrf": 30.0}}
    lesson = checkout / "task-1" / "demo"
    template = '{% set title = "Demo" %}{% set headline = "bleu" %}{% set published = "27.5" %}{{ r.metrics.bleu | points }}'
    (lesson / "report.md.j2").write_text(template)
    row = plain(report.headline_row(lesson, results, checkout))
    assert "| BLEU **9.1 [8.2, 10.1]** | 2.8 (word for word) |" in row
    assert plain(report.render(lesson / "report.md.j2", results, "", "")) == "9.1 [8.2, 10.1]\n"


def test_a_lesson_without_results_is_passed_over(checkout):
    waiting = checkout / "task-1" / "later"
    waiting.mkdir()
    (waiting / "report.md.j2").write_text('{% set title = "Later" %}{% set headline = "f1" %}{% set published = "" %}')
    report.write_pages(checkout)
    assert not (waiting / "report.md").exists() and "Later" not in (checkout / "README.md").read_text()


def test_the_memory_table_is_counted_when_asked_for_and_left_alone_otherwise(checkout, monkeypatch):
    from shared.course import cost

    memory = {"fp32": (1.0, 2.04), "mixed": (0.5, 1.5), "fits": "yes"}
    row = {"name": "T5-tiny", "hub_id": "someone/t5-tiny", "parameters": 1_234, "published": "0 M", **memory}
    monkeypatch.setattr(cost, "text_model_memory", lambda: [row])
    assert report.write_memory(checkout) == []
    page = checkout / "task-1" / "README.md"
    page.write_text("<!-- memory:start -->\n<!-- memory:end -->\n")
    assert report.write_memory(checkout) == [page]
    line = "| [T5-tiny](https://huggingface.co/someone/t5-tiny) | 1,234 | 0 M | 1.0 to 2.0 GiB | 0.5 to 1.5 GiB | yes |"
    assert line in page.read_text().splitlines()
    report.write_pages(checkout)
    assert line in page.read_text() and report.write_memory(checkout) == []


def test_text_from_data_is_inert_markdown():
    hostile = "<script>x</script> | [a](javascript:1) `b` *c* _d_\nnew line # e"
    shown = report.escape(hostile)
    assert "<" not in shown and "\n" not in shown
    assert not re.search(r"(?<!\\)[|\[\]`*_]", shown)


FOLDER = "<img src=x onerror=alert(1)>|[x](javascript:1)"


def test_words_stay_what_they_are_and_live_characters_become_references():
    kept = {"source": "hub: fancyzhx/ag_news", "id": "HuggingFaceTB/SmolLM2-135M-Instruct (packaged, Q4_1)", "rows": 7, "none": None}
    assert report.inert(kept) == kept
    assert report.inert({FOLDER: [FOLDER]}) == {report.inert(FOLDER): [report.inert(FOLDER)]}
    assert not re.search(r"[<>\[\]|`*\n]", report.inert(FOLDER + "`*\n# heading"))
    assert report.escape(report.inert("a & b &amp; <c>")) == "a &amp; b &amp;amp; &lt;c&gt;"  # what a template's `md` gets


def test_a_value_in_backticks_is_shown_as_it_was_and_does_not_get_out(checkout):
    lesson = checkout / "task-1" / "demo"
    (lesson / "report.md.j2").write_text("{{ r.text | code }}\n| `{{ r.text }}` |\n")
    page = report.render(lesson / "report.md.j2", {"text": "<a>|b\nc `d` <img>"}, "", "")
    assert page == "`<a>|b⏎c 'd' <img>`\n| `&#60;a&#62;&#124;b&#10;c &#96;d&#96; &#60;img&#62;` |\n"


def test_a_hostile_folder_name_is_inert_in_every_table_and_report(checkout):
    results = json.loads(RESULTS[0].read_text(encoding="utf8")) | {"lesson": "task-1/ag-news"}
    results["model"]["id"] = results["environment"]["device"] = FOLDER
    results["baselines"] = {FOLDER: {"accuracy": 0.5}}
    for part in results["data"].values():
        part["source"] = FOLDER
    for name in ("demo", "ag-news"):
        folder = checkout / "task-1" / name
        (folder / "results").mkdir(parents=True, exist_ok=True)
        (folder / "results" / "laptop.json").write_text(json.dumps(results))
        template = (checkout / "task-1/demo/report.md.j2").read_text()
        (folder / "report.md.j2").write_text(template + "{{ r.data.train.source }}, {{ r.model.id | code }}")
        (folder / "demo.ipynb").touch()
    readme = checkout / "README.md"
    readme.write_text(readme.read_text() + "<!-- families:start -->\n<!-- families:end -->\n")
    pages = report.rendered(checkout)
    assert len(pages) == 3
    for page in pages.values():
        shown = re.sub(r"`[^`]*`", "", page)  # what stands in code is no markup
        assert "onerror" in shown and "<img" not in shown and "](javascript" not in shown
    tables = [line for line in pages[readme].splitlines() if "onerror" in line]
    assert {line.count("|") for line in tables} == {9, 12}  # eight and eleven columns: no cell was broken


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """A run at its last cell: what `write_results` takes."""
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    run = runtime.RunFolder(tmp_path / "the-run")
    run.logs.mkdir(parents=True)
    return run, {"lesson": "task-1/demo", "seed": 0}, {"seeds": plots.seeds({"plain": [0.5]}, "accuracy")}


def full_disk(target: Path, *_, **__):
    """Takes a part of a file and then no more."""
    with open(target, "wb") as file:
        file.write(b"half")
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("place", ["pathlib.Path.write_bytes", "pathlib.Path.write_text"])
def test_a_full_disk_names_the_cure_and_leaves_nothing_half_written(finished, monkeypatch, place):
    run, results, figures = finished

    def files() -> set[str]:
        return {path.name for path in run.path.rglob("*") if path.is_file()}

    message = r"^cannot write to the-run \(No space left on device\): free some space and run this cell again; .* --set resume=the-run "
    with monkeypatch.context() as disk:
        disk.setattr(place, full_disk)
        with pytest.raises(CourseError, match=message):
            report.write_results(run, results, figures)
    assert files() == (set() if "bytes" in place else {"seeds.png"})
    report.write_results(run, results, figures)  # the same cell once more: nothing of what was computed is gone
    assert files() == {"seeds.png", "figures.json", "results.json"} and json.loads((run.path / "results.json").read_text())["seed"] == 0


def test_numbers_are_shown_in_their_unit():
    metric = {"value": 0.92534, "low": 0.9193, "high": 0.93101}
    assert report.with_interval(metric) == "92.5 % [91.9, 93.1]"
    assert report.shown_metric("accuracy", metric) == "92.5 % [91.9, 93.1]"
    assert report.shown_metric("bleu", {"value": 38.31, "low": 37.0, "high": 39.0}) == "38.3 [37.0, 39.0]"
    assert (report.duration(47.2), report.duration(740)) == ("47 s", "12.3 min")
    shown = report.environment(Path()).from_string("{{ m | interval }} {{ m | interval(2) }}").render(m=metric)
    assert shown == "92.5 % [91.9, 93.1] 92.53 % [91.93, 93.10]"


def test_a_number_its_unit_and_its_interval_stay_in_one_line():
    text = "F1 of 92.5 % [91.9, 93.1], +0.4 [-0.9, +1.6] and +7.7 points [+3.7, +11.7], 0.3 [0.2, 0.4] of 5 [see](x)"
    kept = report.unbroken(text)
    assert plain(kept) == text
    assert kept.split(" ")[2:] == [
        "92.5\xa0%\xa0[91.9,\xa093.1],", "+0.4\xa0[-0.9,\xa0+1.6]", "and", "+7.7", "points\xa0[+3.7,\xa0+11.7],",
        "0.3\xa0[0.2,\xa00.4]", "of", "5", "[see](x)",
    ]  # fmt: skip


def test_rouge_is_shown_in_points():
    metric = {"value": 38.31, "low": 37.0, "high": 39.02}
    assert report.points_with_interval(metric) == report.shown_metric("rouge1", metric) == "38.3 [37.0, 39.0]"


def test_what_is_not_finite_becomes_null(tmp_path):
    report.write_json(tmp_path / "a.json", {"auc": float("nan"), "rows": [{"norm": float("-inf"), "loss": 0.5}, (float("inf"), 1)]})
    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert found == {"auc": None, "rows": [{"norm": None, "loss": 0.5}, [None, 1]]}


@pytest.mark.parametrize(("rows", "said"), [(99, ", so few that the intervals of means are too narrow"), (100, "")])
def test_a_report_on_few_rows_says_so_beside_the_intervals(rows, said):
    lesson = ROOT / "task-3" / "phi2-xsum"
    results = json.loads((lesson / "results" / "laptop.json").read_text(encoding="utf8"))
    results["data"]["test"]["rows"] = rows
    page = report.render(lesson / "report.md.j2", results, "plots", "results.json")
    assert f"intervals over the test articles{said}; they do not cover" in page


def test_the_command_of_a_run_is_one_for_make_and_says_what_it_needs():
    told = {"train_split": "train+train_extra_lowercased", "train_rows": None, "columns": "my text", "resume": "x"}
    assert report.changed({}) == report.changed({"resume": "x"}) == ""
    said = report.changed(told)
    assert said == "; this run changed them with `SET=\"train_split=train+train_extra_lowercased train_rows=all 'columns=my text'\"`"

    def needs(source="Hub", model=None, **overrides):
        card = {"stands_in_for": model} if model else {}
        return report.needs({"data": {"train": {"source": source}}, "config": {"overrides": overrides}, "model": card})

    assert needs() == needs(train_rows=5, train_data="nyu-mll/glue") == ""
    assert needs("folder").startswith(" Its rows came from a folder")
    assert needs(mnli_model="2026-01-02_03-04-05_bert_mnli") == (
        " `mnli_model` is a run of another lesson on that machine: run that lesson first, and give the name of your own run."
    )
    assert needs(resume="2026-01-02_03-04-05_bert_mnli") == ""
    assert needs(model="google-t5/t5-small").startswith(" With the Hub the lesson takes `google-t5/t5-small`, and")


def test_json_is_written_whole_or_not_at_all(tmp_path):
    target = tmp_path / "results.json"
    report.write_json(target, {"a": 1})
    with pytest.raises(TypeError):
        report.write_json(target, {"a": object()})
    assert json.loads(target.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [target]


# ---------------------------------------------------------------- the three families


def contender(checkout, lesson, **changes):
    """A lesson of the comparison with results of its own."""
    folder = checkout / lesson
    (folder / "results").mkdir(parents=True)
    results = copy.deepcopy(json.loads(RESULTS[0].read_text(encoding="utf8"))) | {"lesson": lesson} | changes
    (folder / "results" / "laptop.json").write_text(json.dumps(results))
    (folder / "demo.ipynb").write_text((checkout / "task-1/demo/demo.ipynb").read_text())
    (folder / "report.md.j2").write_text((checkout / "task-1/demo/report.md.j2").read_text().replace("Demo", folder.name))
    return results


def refusing(rows=100, fingerprint="a" * 16):
    """The data of a lesson that is scored on as many rows as the lab."""
    part = {"source": "folder", "fingerprint": fingerprint}
    return {"data": {"train": part | {"rows": 900}, "test": part | {"rows": rows}}}


def lab_contender(checkout, f1, rows=100):
    """The results of a lab, which has no report, with the table that the comparison reads."""
    folder = checkout / "task-2" / "lab-stride-and-spans"
    (folder / "results").mkdir(parents=True)
    part = {"source": "folder", "fingerprint": "a" * 16}
    score = {"value": f1, "low": f1 - 0.05, "high": f1 + 0.05}
    told = {"title": "Lab: stride and spans", "f1": score, "always_refuse": 0.5, "scored": rows,
            "tested": ["v2_validation"], "train_rows": 900, "minutes": 1.5, "memory": 1_234.4}
    results = {"lesson": "task-2/lab-stride-and-spans", "profile": "laptop", "seed": 0, "environment": {"device": "cpu"},
               "data": {"v2_train": part | {"rows": 900}, "v2_validation": part | {"rows": 2 * rows}}, "tables": {"headline": [told]},
               "models": [{"id": "owner/small one", "parameters": 22, "trainable": 11}]}
    (folder / "results" / "laptop.json").write_text(json.dumps(results))


def test_families_leave_out_what_has_no_results(checkout):
    assert report.families_table(checkout, checkout).count("\n") == 1  # the header alone
    contender(checkout, "task-1/ag-news")
    table = report.families_table(checkout, checkout).splitlines()
    assert len(table) == 3 and table[2].startswith("| Topic of a text (AG News) | encoder | accuracy **")
    assert "| [ag-news](task-1/ag-news/report.md), laptop |" in table[2]
    assert "llm-sst2" not in "".join(table)


def test_families_say_what_may_not_be_compared(checkout):
    contender(checkout, "task-2/extractive-squad", data=three_splits()["data"])
    contender(checkout, "task-2/t5-squad")
    *_, note = report.families_table(checkout, checkout).splitlines()
    assert note.startswith("- **Answer from a text (SQuAD)**: **the scores must not be compared with each other**")
    assert "the scored rows" in note and re.search(r"the training rows \([\d,]+ and [\d,]+\)", note)


def test_families_set_the_encoder_of_a_decoders_lesson_beside_it(checkout):
    results = contender(checkout, "task-3/llm-sst2")
    score = {"value": 0.8, "low": 0.7, "high": 0.9}
    card = {"id": "small one", "parameters": 22, "trained": 11, "seconds": 90.0}
    results["tables"] |= {"systems": [{"system": "encoder", "accuracy": score}], "encoder": [card]}
    results["tables"]["pairs"] = [{"other": "zero-shot", "p": 0.001}, {"other": "encoder", "p": 0.2614}]
    (checkout / "task-3/llm-sst2/results/laptop.json").write_text(json.dumps(results))
    *_, encoder, decoder, blank, note = plain(report.families_table(checkout, checkout)).splitlines()
    assert "| encoder |" in encoder and "| small one |" in encoder and "accuracy **80.0 % [70.0, 90.0]**" in encoder
    assert "| 11 of 22 | 1.5 | –, " in encoder
    assert "| decoder |" in decoder and f"{results['model']['trainable']:,} of" in decoder
    assert blank == "" and note == (
        "- **Sentiment of a sentence (SST-2)**: scored on the same rows, so the scores may be compared (McNemar's exact test: p = 0.26, "
        f"so these rows do not tell the two apart); what differs: the parameters (22 and {results['model']['parameters']:,})."
    )


def test_families_compare_a_labs_refusals_with_a_lessons_on_the_same_rows(checkout):
    lab_contender(checkout, 0.61)
    score = {"f1": {"value": 0.6, "low": 0.5, "high": 0.7}}
    contender(checkout, "task-3/llm-squad-v2", metrics=score, baselines={"always refuse": {"f1": 0.5}}, **refusing())
    template = checkout / "task-3/llm-squad-v2/report.md.j2"
    template.write_text(template.read_text().replace("accuracy", "f1"))
    table = plain(report.families_table(checkout, checkout)).splitlines()
    rows = [row for row in table if row.startswith("| Answer or refuse")]
    assert len(rows) == 2 and "F1 **61.0 % [56.0, 66.0]** | 50.0 % (always refuse)" in rows[0] and "| 900 | 100 |" in rows[1]
    assert "| [Lab: stride and spans](task-2/lab-stride-and-spans/lab_stride_and_spans.ipynb), laptop | small one |" in rows[0]
    assert "| 11 of 22 | 1.5 | 1,234 MiB, cpu |" in rows[0]
    note = "- **Answer or refuse (SQuAD v2)**: scored on the same rows, so the scores may be compared; what differs: the parameters (22 and"
    assert table[-1].startswith(note) and "training rows" not in table[-1]


def test_families_notice_other_rows(checkout):
    lab_contender(checkout, 0.61)
    contender(checkout, "task-3/llm-squad-v2", **refusing(fingerprint="b" * 16))
    assert "must not be compared" in report.families_table(checkout, checkout).splitlines()[-1]


def test_a_report_quotes_a_lab_once_it_has_results(checkout):
    template = checkout / "task-1/demo/report.md.j2"
    quoted = '{% set v2 = lab("task-2/lab-stride-and-spans") %}{{ v2.tables.headline[0].f1 | interval if v2 else "not run yet" }}'
    template.write_text(template.read_text() + quoted)
    report.write_pages(checkout)
    assert "not run yet" in (checkout / "task-1/demo/report.md").read_text()
    lab_contender(checkout, 0.61)
    report.write_pages(checkout)
    assert "61.0 % [56.0, 66.0]" in plain((checkout / "task-1/demo/report.md").read_text())


def test_a_page_shows_what_a_lab_found_about_the_findings_of_others(tmp_path):
    assert report.findings_table(tmp_path) == ""
    folder = tmp_path / "task-3/lab-lora/results"
    folder.mkdir(parents=True)
    found = [{"source": "A 2024", "finding": "it forgets less", "our_runs": "cannot decide"}]
    (folder / "laptop.json").write_text(json.dumps({"tables": {"findings": found}}))
    assert report.findings_table(tmp_path).splitlines()[2:] == ["| it forgets less (A 2024) | cannot decide |"]


def test_the_readme_has_the_families_between_its_markers(checkout):
    contender(checkout, "task-1/ag-news")
    readme = checkout / "README.md"
    readme.write_text(readme.read_text() + "<!-- families:start -->\nstale\n<!-- families:end -->\n")
    text = report.rendered(checkout)[readme]
    assert "stale" not in text and "| Topic of a text (AG News) | encoder |" in text


def test_a_report_folds_what_few_readers_look_for_and_the_end_of_long_lists():
    errors = "".join(f"- row {k}\n  and more\n" for k in range(9))
    page = f"# Title\n\n- a\n- b\n\n## Errors\n\n{errors}\nLast.\n\n## Training\n\nTwo epochs.\n\n## Run it yourself\n\n`make run`\n"
    shown, more, recipe, command = report.folded(page).split("<details><summary>")
    assert "- a\n- b\n" in shown and "- row 4\n  and more\n" in shown and "row 5" not in shown
    assert more.startswith("4 more</summary>\n\n- row 5\n")
    assert "- row 8\n  and more\n\n</details>\n\nLast.\n\n## Training\n" in more
    assert "Two epochs.\n\n</details>" in recipe and command.endswith("`make run`\n\n</details>\n")
    seven = "".join(f"- row {k}\n" for k in range(report.SHOWN + 2))
    assert report.folded(seven) == seven  # a click for two rows is not worth it


def test_a_list_of_long_rows_shows_as_many_as_a_screen_has_room_for():
    long = "".join(f"- row {k} {'word ' * 80}\n" for k in range(4))
    shown, more = report.folded(long).split("<details><summary>")
    assert "row 1" in shown and "row 2" not in shown and more.startswith("2 more</summary>\n\n- row 2")
    assert "row 3" in more and more.endswith("</details>\n")


def test_a_template_folds_a_part_of_its_own_and_its_lists_stay_whole(tmp_path):
    rows = "".join(f"- row {k}\n" for k in range(9))
    template = f'Before.\n\n{{% filter fold("What it rests on") %}}\n{rows}{{% endfilter %}}\n\nAfter.\n'
    page = report.folded(report.environment(tmp_path).from_string(template).render())
    assert page == f"Before.\n\n<details><summary>What it rests on</summary>\n\n{rows}\n</details>\n\nAfter.\n"


def test_the_readme_names_the_minutes_of_a_pre_training_too():
    results = {"seconds": {"train": 6_000.0}, "model": {}}
    assert report._minutes(results) == "100"
    assert report._minutes(results | {"model": {"pretraining": {"seconds": 3_260.0}}}) == "100 + 54"
