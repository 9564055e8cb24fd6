"""From results to readable pages: results JSON + narrative template -> report.md and the README tables.

    python -m shared.report            render every report, README table and figure that is stale
    python -m shared.report --check    exit 1 and name the files that are stale
    python -m shared.report --memory   count the memory table of the encoder–decoders again
    python -m shared.report --publish OWNER/NAME   stamp the repository's address into badges, setup cells and READMEs

A template is the lesson's `report.md.j2`. It sets `title`, `headline` (the metric the README shows), `published`, and
`tested` (the splits it is measured on) where their names do not begin with "test"; it gets `r` (the results), `plots`
(the folder of its figures), `beside(file)` (a JSON file of its folder), `lab(name)` (the results of a lab) and the filters below.
"""

from __future__ import annotations

import argparse
import html
import itertools
import json
import math
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePath
from typing import Any

import jinja2

from shared import plots
from shared.course import overview, runtime
from shared.course.runtime import ASIDE, ROOT, CourseError, RunFolder, first_line, unknown, write_whole
from shared.metrics.intervals import ENOUGH_ROWS

PROFILES_BY_WEIGHT = ("paper", "colab", "laptop", "tiny")  # a report is about the largest profile that was run
MEASURES = {"f1": "F1", "micro_f1": "micro-F1", "macro_f1": "macro-F1", "rouge1": "ROUGE-1", "bleu": "BLEU", "chrf": "chrF"}
HUNDREDS = {"rouge1", "rouge2", "rougeL", "rougeLsum", "bleu", "chrf", "meteor"}  # metrics that run 0-100


# ---------------------------------------------------------------- results


def write_json(path: Path, content: Any) -> None:
    """`write_whole` of JSON, which knows neither nan nor infinity: those become null.

    They come from an undefined score (an area under a curve where one class is missing) and from the first steps in fp16, whose
    gradients overflow until the scaler has found its scale.
    """
    write_whole(path, json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_results(run: RunFolder, results: dict[str, Any], figures: dict[str, Any]) -> None:
    """`plots/*.png`, what they were drawn from and, last, `results.json`; a line says where. CourseError where the disk is full."""
    again = f"run this cell again; where the notebook is closed, --set resume={run.resume} goes on without training again"
    with runtime.writing(run.name, again):
        records = plots.save_all(figures, run.path / "plots")
        write_whole(run.path / "plots" / "figures.json", json.dumps(records, ensure_ascii=False) + "\n")
        write_json(run.path / "results.json", results)  # last, since a run that has it is complete
    made = "results.json, {} plots and the model" if any(run.model.glob("*")) else "results.json and {} plots"  # a lab keeps no model
    print(f"{made.format(len(figures))} are in {runtime.outputs_root().name}/{run.name}")


# ---------------------------------------------------------------- rendering


def percent(value: float, digits: int = 1) -> str:
    """0.9253 -> '92.5 %'."""
    return f"{100 * value:.{digits}f} %"


def with_interval(metric: dict[str, float], digits: int = 1) -> str:
    """{'value': .9253, 'low': .9193, 'high': .9310} -> '92.5 % [91.9, 93.1]'."""
    low, high = (f"{100 * metric[key]:.{digits}f}" for key in ("low", "high"))
    return f"{percent(metric['value'], digits)} [{low}, {high}]"


def shown_metric(name: str, metric: dict[str, float]) -> str:
    """A metric in its own unit: a percentage, or plain for the ones that run from 0 to 100."""
    return points_with_interval(metric) if name in HUNDREDS else with_interval(metric)


def shown_value(name: str, value: float) -> str:
    """The value of a metric alone, in its own unit."""
    return f"{value:.1f}" if name in HUNDREDS else percent(value)


def points_with_interval(metric: dict[str, float]) -> str:
    """{'value': 38.31, 'low': 37.0, 'high': 39.02} -> '38.3 [37.0, 39.0]', for what runs from 0 to 100."""
    return f"{metric['value']:.1f} [{metric['low']:.1f}, {metric['high']:.1f}]"


LIVE = re.compile(r"[&<>\[\]`|*~$\\\r\n]|(?<!\w)_|_(?!\w)")


def inert(value: Any) -> Any:
    """`value` with a character reference, in all its strings and keys, for whatever Markdown or HTML acts on.

    Results pass through here on their way into a page, so that no template can forget it: any of their strings may come from
    data or from the reader's own settings. Ordinary words stay as they are, and a template may compare them.
    """
    if isinstance(value, str):
        return LIVE.sub(lambda match: f"&#{ord(match[0])};", value)
    if isinstance(value, dict):
        return {inert(key): inert(part) for key, part in value.items()}
    return [inert(part) for part in value] if isinstance(value, list) else value


def escape(text: str) -> str:
    """Text from data as inert Markdown on one line: no HTML, no links, no table breaks. Takes plain text and `inert` one."""
    text = " ".join(html.unescape(str(text)).split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)


CODE = str.maketrans({"`": "'", "\r": None, "\n": "⏎"})


def code_span(text: str) -> str:
    """An `inert` text between backticks, where character references mean nothing: as it was, but for backticks and line ends.

    Not for a table, whose cell a bar would end: write the backticks into the template there.
    """
    return f"`{html.unescape(str(text)).translate(CODE)}`"


def duration(seconds: float) -> str:
    """'47 s' or '12.3 min'."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def few(drawn: int, least: int = ENOUGH_ROWS) -> str:
    """What to add where so few rows, or groups of rows, were drawn that a bootstrap's interval of a mean covers less than it says."""
    return "" if drawn >= least else ", so few that the intervals of means are too narrow"


RUN_NAME = re.compile(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_")  # as the folder of a run begins


def changed(overrides: dict[str, Any]) -> str:
    """What a run was told with --set, as the end of a sentence; '' for none. What changes nothing of the training is left out."""
    pairs = [f"{key}={'all' if value is None else html.unescape(str(value))}" for key, value in overrides.items() if key not in ASIDE]
    told = code_span(f'SET="{" ".join(map(shlex.quote, pairs))}"')
    return f"; this run changed them with {told}" if pairs else ""


def needs(results: dict[str, Any]) -> str:
    """What the command of a run needs that a reader's machine does not have, as sentences; '' for nothing."""
    chosen, said = results["config"].get("overrides", {}), []
    if any(part["source"] == "folder" for part in results["data"].values()):
        said.append("Its rows came from a folder (`DATA=<folder>`) that is not published; the Hub's rows give another score.")
    for key in (key for key, value in chosen.items() if key not in ASIDE and RUN_NAME.match(str(value))):
        said.append(f"`{key}` is a run of another lesson on that machine: run that lesson first, and give the name of your own run.")
    if "stands_in_for" in results["model"]:
        leave = "leave out `model`: " if "model" in chosen else ""
        meant = code_span(results["model"]["stands_in_for"])
        said.append(f"With the Hub {leave}the lesson takes {meant}, and the rest of the recipe is not meant for it.")
    return "".join(f" {sentence}" for sentence in said)


def environment(folder: Path) -> jinja2.Environment:
    """Jinja with the report's filters; an undefined name is an error, never an empty space."""
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    jinja.globals["beside"] = lambda name: inert(json.loads((folder / name).read_text(encoding="utf8")))
    jinja.globals["lab"] = lambda name: inert(next(iter(lesson_results(folder.parents[1] / name)), None))  # None before its first run
    jinja.filters |= {
        "pct": percent,
        "interval": with_interval,
        "points": points_with_interval,
        "md": escape,
        "code": code_span,
        "duration": duration,
        "few": few,
        "changed": changed,
        "needs": needs,
        "n": lambda value: f"{value:,}",
        "fold": lambda body, summary: _details(summary, body) + "\n",
    }
    return jinja


def render(template: Path, results: dict[str, Any], plots: str, results_file: str) -> str:
    """The report of one results object; `plots` and `results_file` are where they lie as seen from the report.

    Raises CourseError where the template is broken or asks for what the results do not have.
    """
    with _errors_naming(template):
        page = environment(template.parent).get_template(template.name)
        text = page.render(r=inert(results), plots=plots, results_file=results_file, trial=is_trial(results)).strip()
    return unbroken(_bundled(results, text) + "\n" + _longer(results))


def unbroken(text: str) -> str:
    """The text, in which no line breaks between a number, its % and its interval."""
    text = re.sub(r"(?<=\d) (?=%)|(?<=[\d%s]) (?=\[[-+]?\d)", "\N{NO-BREAK SPACE}", text)
    return re.sub(r"(\[[-+]?[\d.]+,) ([-+]?[\d.]+\])", "\\1\N{NO-BREAK SPACE}\\2", text)


def with_findings(text: str, folder: Path) -> str:
    """The report that lies in this folder; the alternative text of each figure says what the figure's title says, too."""

    def described(image: re.Match) -> str:
        path = folder / image[2]
        found = plots.finding(path).replace("[", "(").replace("]", ")") if path.is_file() else ""
        return f"![{image[1]}: {found}]({image[2]})" if found else image[0]

    return re.sub(r"!\[([^]]*)\]\(([^)]+\.png)\)", described, text)


FOLDED = {"Training": "The recipe, and the loss by step", "Run it yourself": "The command, and the versions of the libraries"}
SHOWN, CHARACTERS = 5, 900  # of a longer list, such as one of errors: its rows, and about what they may have together


def folded(text: str) -> str:
    """The report, in which the sections FOLDED and whatever lists have beyond SHOWN rows open on a click."""
    parts = re.split(r"^(?=## )", text, flags=re.MULTILINE)
    for at, part in enumerate(parts):
        heading, _, body = part.partition("\n")
        if (told := FOLDED.get(heading.removeprefix("## "))) is not None:
            parts[at] = f"{heading}\n\n{_details(told, body)}\n\n"
    pieces = re.split(r"(^<details>.*?^</details>)", "".join(parts).rstrip() + "\n", flags=re.MULTILINE | re.DOTALL)
    for at in range(0, len(pieces), 2):  # what is folded already stays whole
        pieces[at] = re.sub(r"(?:^- .*\n(?:  .*\n)*)+", _short_list, pieces[at], flags=re.MULTILINE)
    return "".join(pieces)


def _short_list(found: re.Match[str]) -> str:
    rows = re.split(r"^(?=- )", found[0], flags=re.MULTILINE)[1:]
    sizes = itertools.accumulate(len(row) for row in rows)
    shown = max(2, min(SHOWN, sum(size <= CHARACTERS for size in sizes)))
    if len(rows) <= SHOWN + 2 and len(found[0]) <= 1.5 * CHARACTERS:
        return found[0]
    return "".join(rows[:shown]) + "\n" + _details(f"{len(rows) - shown} more", "".join(rows[shown:])) + "\n"


def _details(summary: str, body: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{body.strip()}\n\n</details>"


def is_trial(results: dict[str, Any]) -> bool:
    """Whether a run had no data but the course's own rows."""
    return {part["source"] for part in results.get("data", {}).values()} == {"bundled"}


def _bundled(results: dict[str, Any], text: str) -> str:
    """The report, which says below its title if it is of a trial run."""
    if not is_trial(results):
        return text
    title, _, rest = text.partition("\n")
    told = "**A trial run** on the few rows that were written for this course: it shows that everything works, not what the model can do."
    return f"{title}\n\n{told}\n{rest}"


def _longer(results: dict[str, Any]) -> str:
    """The last lines of a report on a run that was resumed with more epochs."""
    before = [f"{row['epochs']:g}" for row in results.get("tables", {}).get("longer", [])]
    if not before:
        return ""
    now, planned = f"{results['config']['epochs']:g}", ", then for ".join(before)
    resumed = f"This run was planned for {planned} epochs and resumed with {now}"
    return f"\n{resumed}: from there on the learning rate is that of a plan over all {now}.\n"


def _lesson_name(lesson: Path) -> str:
    return f"{lesson.parent.name}/{lesson.name}"


@contextmanager
def _errors_naming(template: Path) -> Iterator[None]:
    """Turn whatever goes wrong while a template is rendered into one line that names it."""
    place = _lesson_name(template.parent)
    try:
        yield
    except jinja2.UndefinedError as error:
        raise CourseError(
            f"{place}/{template.name} asks for what the results do not have ({error.message}): correct the template or, if it is newer "
            f"than the results, run {place} again, with --commit"
        ) from None
    except jinja2.TemplateSyntaxError as error:
        raise CourseError(f"{place}/{template.name}, line {error.lineno}: {error.message}: correct the template") from None
    except (OSError, ValueError, TypeError, LookupError) as error:
        what = f"{type(error).__name__}: {first_line(error)}"
        raise CourseError(f"{place}/{template.name} cannot be rendered ({what}): correct the template") from None


def headline(lesson: Path, results: dict[str, Any]) -> Any:
    """The names that a lesson's template sets for the README: title, headline, published. Takes `inert` results.

    Raises CourseError where one of them is not set, or the headline is no measure, or a tested split none, of the results.
    """
    template = lesson / "report.md.j2"
    with _errors_naming(template):
        given = {"r": results, "plots": "", "results_file": "", "trial": is_trial(results)}
        page = environment(lesson).get_template(template.name).make_module(given)
    place = f"{_lesson_name(lesson)}/{template.name}"
    for name in ("title", "headline", "published"):
        if not hasattr(page, name):
            raise CourseError(f"{place} does not set '{name}': add {{% set {name} = \"...\" %}} to its first lines")
    if page.headline not in results["metrics"]:
        raise unknown(f"headline of {place}", page.headline, list(results["metrics"]))
    for split in getattr(page, "tested", []):
        if split not in results["data"]:
            raise unknown(f"tested split of {place}", split, list(results["data"]))
    return page


def render_run(lesson: Path, run: Path) -> Path:
    """Write the report of one run beside its results."""
    results = json.loads((run / "results.json").read_text(encoding="utf8"))
    target = run / "report.md"
    here, tasks = run.resolve(), lesson.parent.resolve()

    def from_here(found: re.Match[str]) -> str:
        """A link to the lesson's neighbour; on another drive of Windows there is no way from here."""
        neighbour = tasks / found[1]
        return f"]({link(neighbour, here) if neighbour.anchor == here.anchor else neighbour.as_uri()})"

    page = render(lesson / "report.md.j2", results, "plots", "results.json")
    write_whole(target, folded(with_findings(re.sub(r"\]\(\.\./([^)]*)\)", from_here, page), run)))
    return target


def lesson_results(lesson: Path) -> list[dict[str, Any]]:
    """The committed results of a lesson, the largest profile first."""
    found = [lesson / "results" / f"{profile}.json" for profile in PROFILES_BY_WEIGHT]
    return [json.loads(path.read_text(encoding="utf8")) for path in found if path.is_file()]


def _minutes(results: dict[str, Any]) -> str:
    """The training's minutes; behind a plus those of a pre-training that the course did itself."""
    taught = results["model"].get("pretraining", {}).get("seconds")
    return f"{results['seconds']['train'] / 60:.0f}" + (f" + {taught / 60:.0f}" if taught else "")


def _training_time(results: dict[str, Any]) -> str:
    """The training's duration; where a resumed run timed only some of its steps, of how many."""
    seconds = duration(results["seconds"]["train"])
    (timed,) = results["tables"].get("timed") or [{"steps": 0, "of": 0}]
    return seconds if timed["steps"] == timed["of"] else f"{seconds} for {timed['steps']:,} of {timed['of']:,} steps"


def link(target: PurePath, base: PurePath) -> str:
    """The way from a page in the folder `base` to `target`, as a link of Markdown has it: with / on Windows too."""
    up = next(number for number, folder in enumerate((base, *base.parents)) if target.is_relative_to(folder))
    return "../" * up + target.relative_to((base, *base.parents)[up]).as_posix()


def headline_row(lesson: Path, results: dict[str, Any], base: Path) -> str:
    """One row of a README table: a lesson's headline metric, what to compare it with, then what was run on what, and how long.

    GitHub shows the first four columns or so without scrolling, so the comparison comes first.
    """
    results = inert(results)
    page, data = headline(lesson, results), results["data"]
    part = _headline_part(page, results)
    metric, (name, baseline) = part["metric"], part["baseline"]
    train = sum(data[split]["rows"] for split in part["trained_on"])
    test = "; ".join(f"{split} {data[split]['rows']:,} ({data[split]['source']})" for split in part["tested"])
    report = link(lesson / "report.md", base)
    return (
        f"| [{page.title}]({report}), {results['profile']} | {_score_cell(metric, part['score'])} "
        f"| {shown_value(metric, baseline)} ({name}) | {page.published} | {_without_owner(results['model']['id'])} | {train:,} | {test} "
        f"| {_training_time(results)}, {results['environment']['device']} |"
    )


def _score_cell(metric: str, score: Any) -> str:
    """`accuracy **92.3 % [91.7, 92.9]**`, whose number and interval stay in one line."""
    return f"{MEASURES.get(metric, metric.replace('_', '-'))} **{unbroken(shown_metric(metric, score))}**"


def _without_owner(model: str) -> str:
    """A model's name without the Hub account before it, which a narrow table has no room for; the report has both."""
    return re.sub(r"^[\w.-]+/", "", model)


def results_table(lessons: list[Path], base: Path) -> str:
    """The README table of all committed results under `lessons`; links relative to the folder `base`."""
    header = (
        "| Lesson, profile | Result, 95 % interval | Best baseline | Published, other protocol | Model | Training rows "
        "| Test rows (source) | Training time |\n|---|---|---|---|---|---|---|---|"
    )
    rows = [headline_row(lesson, results, base) for lesson in lessons for results in lesson_results(lesson)]
    return "\n".join([header, *rows])


def fill(text: str, block: str, content: str) -> str:
    """Replace what stands between <!-- block:start --> and <!-- block:end -->."""
    pattern = re.compile(rf"(<!-- {block}:start -->\n).*?(<!-- {block}:end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


def lesson_folders(root: Path = ROOT) -> list[Path]:
    """Every folder that holds a lesson, in the order of teaching."""
    return overview.in_order([path.parent for path in root.glob("task-*/*/report.md.j2")], overview.order(root))


def rendered(root: Path = ROOT) -> dict[Path, str]:
    """What every rendered file of the repository should hold: {path: text}."""
    return {path: text for pages in _renderers(root) for path, text in pages().items()}


def _renderers(root: Path) -> list[Callable[[], dict[Path, str]]]:
    """What renders the repository's files: a report at a time, then the READMEs, which need all lessons."""
    lessons = lesson_folders(root)
    return [*(partial(_report, lesson) for lesson in lessons), partial(_readmes, root, lessons)]


def stale_figures(root: Path = ROOT) -> dict[Path, dict[str, Any]]:
    """The figures that today's results or style would draw otherwise, each with what to draw it from: {path: record}."""
    records = {root / overview.FIGURE: overview.figure(overview_rows(root, lesson_folders(root)))} | _recorded(root)
    return {path: record for path, record in records.items() if plots.is_stale(record, path)}


def _recorded(root: Path) -> dict[Path, dict[str, Any]]:
    """What each figure of a lesson was drawn from."""
    found = {}
    for file in sorted(root.glob("task-*/*/plots/*/figures.json")):
        found |= {file.parent / f"{name}.png": record for name, record in json.loads(file.read_text(encoding="utf8")).items()}
    return found


def _redraw_stale(records: dict[Path, dict[str, Any]]) -> list[Path]:
    stale = [path for path, record in records.items() if plots.is_stale(record, path)]
    for path in stale:
        plots.save(plots.redraw(records[path]), path.parent, path.stem, records[path])
    return stale


def _report(lesson: Path) -> dict[Path, str]:
    found = lesson_results(lesson)
    if not found:
        return {}
    name = found[0]["profile"]
    text = render(lesson / "report.md.j2", found[0], f"plots/{name}", f"results/{name}.json")
    return {lesson / "report.md": folded(with_findings(text, lesson))}


def _readmes(root: Path, lessons: list[Path]) -> dict[Path, str]:
    pages = {}
    rows = overview_rows(root, lessons)
    for readme in [root / "README.md", root / "README.id.md", *sorted(root.glob("task-*/README.md"))]:
        if not readme.is_file():
            continue
        inside = [lesson for lesson in lessons if readme.parent in lesson.parents and lesson_results(lesson)]
        language, here = "id" if readme.name == "README.id.md" else "en", readme.parent.relative_to(root).as_posix()
        mine = [row for row in rows if here == "." or row.report.startswith(f"{here}/")]
        text = readme.read_text(encoding="utf8")
        text = fill(text, "results", results_table(inside, readme.parent))
        text = fill(text, "families", families_table(root, readme.parent))
        text = fill(text, "findings", findings_table(root))
        text = fill(text, "hero", f"![{overview.finding(rows)}]({overview.FIGURE})")
        pages[readme] = fill(text, "lessons", overview.table(mine, language, "" if here == "." else "../"))
    return pages


def findings_table(root: Path, lab: str = "task-3/lab-lora") -> str:
    """What a lab's runs say of the findings of others; "" before its first run."""
    found = [row for results in lesson_results(root / lab)[:1] for row in inert(results)["tables"]["findings"]]
    rows = "".join(f"\n| {row['finding']} ({row['source']}) | {row['our_runs']} |" for row in found)
    return f"| Finding (source) | Our runs |\n|:--|:--|{rows}" if rows else ""


def overview_rows(root: Path, lessons: list[Path]) -> list[overview.Row]:
    """What the first pages say of every lesson that has results, in the order of teaching."""
    known, address = overview.order(root), repository(root)
    numbers = {name: number for number, name in enumerate(known, 1)}
    estimates = dict(re.findall(r"^\| ([\w-]+) \|.*?\| (\d+) \| (?:yes|no) \|", _old(root / "MACHINES.md"), re.MULTILINE))
    rows = []
    for lesson in lessons:
        if found := lesson_results(lesson):
            results, told = inert(found[0]), known.get(lesson.name, {"new": {"en": "", "id": ""}, "before": []})
            page, notebook = headline(lesson, results), next(lesson.glob("*.ipynb")).relative_to(root).as_posix()
            part = _headline_part(page, results)
            scale = 1 if part["metric"] in HUNDREDS else 100
            published = getattr(page, "published_score", None)
            rows.append(
                overview.Row(
                    number=numbers.get(lesson.name, len(rows) + 1), title=page.title, new=told["new"],
                    after=", ".join(str(numbers[name]) for name in told["before"]) or "–",
                    minutes=f"{estimates.get(lesson.name, '?')} / {_minutes(results)}",
                    measure=MEASURES.get(part["metric"], part["metric"].replace("_", " ")),
                    score=tuple(scale * part["score"][key] for key in ("value", "low", "high")),
                    baseline=scale * part["baseline"][1], published=published, notebook=notebook,
                    report=(lesson / "report.md").relative_to(root).as_posix(),
                    colab=colab_link(address, notebook), kaggle=kaggle_link(address, notebook), in_sight=getattr(page, "in_sight", False),
                )
            )  # fmt: skip
    return rows


def memory_table(rows: list[dict[str, Any]]) -> str:
    """What training the published encoder–decoders takes: the rows of `cost.text_model_memory`."""
    header = (
        "| Model | Parameters | Published as | Training in fp32 | Training in mixed precision | Fits a 16 GB T4 |\n"
        "|---|---|---|---|---|---|"
    )
    lines = [
        f"| [{row['name']}](https://huggingface.co/{row['hub_id']}) | {row['parameters']:,} | {row['published']} "
        f"| {row['fp32'][0]:.1f} to {row['fp32'][1]:.1f} GiB | {row['mixed'][0]:.1f} to {row['mixed'][1]:.1f} GiB | {row['fits']} |"
        for row in rows
    ]
    return "\n".join([header, *lines])


def write_memory(root: Path = ROOT) -> list[Path]:
    """Fill the memory tables, which no run changes and which take some seconds to count; returns the files that changed."""
    from shared.course import cost  # brings torch along, which rendering does without

    pages = [page for page in sorted(root.glob("task-*/README.md")) if "<!-- memory:start -->" in _old(page)]
    table = memory_table(cost.text_model_memory()) if pages else ""
    stale = [page for page in pages if fill(_old(page), "memory", table) != _old(page)]
    for page in stale:
        write_whole(page, fill(_old(page), "memory", table))
    return stale


def colab_link(address: str, notebook: str) -> str:
    """Where Colab opens a notebook of a public GitHub repository."""
    return f"https://colab.research.google.com/github/{address}/blob/main/{notebook}"


def kaggle_link(address: str, notebook: str) -> str:
    """Where Kaggle imports a notebook of a public GitHub repository."""
    return f"https://kaggle.com/kernels/welcome?src=https://github.com/{address}/blob/main/{notebook}"


# ---------------------------------------------------------------- the three families side by side


@dataclass(frozen=True)
class Contender:
    """One family's entry for a task: the lesson or lab that ran it, and which part of its results is meant.

    part: "" for the lesson's headline, "lab" for a lab's table of that name, "encoder" for the encoder that a decoder's lesson trained on
    the same rows.
    """

    family: str
    lesson: str
    part: str = ""


ENCODER, BOTH, DECODER = "encoder", "encoder–decoder", "decoder"
SHARED_TASKS = {
    "Topic of a text (AG News)": (Contender(ENCODER, "task-1/ag-news"),),
    "Sentiment of a sentence (SST-2)": (Contender(ENCODER, "task-3/llm-sst2", "encoder"), Contender(DECODER, "task-3/llm-sst2")),
    "Answer from a text (SQuAD)": (Contender(ENCODER, "task-2/extractive-squad"), Contender(BOTH, "task-2/t5-squad")),
    "Answer or refuse (SQuAD v2)": (
        Contender(ENCODER, "task-2/lab-stride-and-spans", "lab"), Contender(DECODER, "task-3/llm-squad-v2"),
    ),
    "Summarise": (Contender(BOTH, "task-2/t5-cnn-dailymail"), Contender(DECODER, "task-3/phi2-xsum")),
}


def families_table(root: Path, base: Path) -> str:
    """The README's comparison: a row a contender that has results, and below it, a task a line, what its rows do not share.

    Every lesson enters with its largest profile. A lesson without results is left out, and a task without any.
    """
    header = (
        "| Task | Family | Score, 95 % interval | Best baseline | Lesson, profile | Model | Training rows | Scored on | Parameters trained "
        "| Minutes | Peak memory |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    rows, notes = [], []
    for task, contenders in SHARED_TASKS.items():
        found = [(c, root / c.lesson, lesson_results(root / c.lesson)) for c in contenders]
        entries = [_entry(c, lesson, results[0]) for c, lesson, results in found if results]
        rows += [_family_row(task, entry, base) for entry in entries]
        if len(entries) > 1:
            notes.append(f"- **{task}**: {_what_differs(entries)}")
    return "\n".join([header, *rows, *([""] if notes else []), *notes])


def _entry(contender: Contender, lesson: Path, results: dict[str, Any]) -> dict[str, Any]:
    """What the comparison says of one lesson, as values; `tested` names its scored splits, `scored` counts their rows."""
    results = inert(results)
    if contender.part == "lab":
        return _lab_entry(contender, lesson, results)
    page, data = headline(lesson, results), results["data"]
    entry = _headline_part(page, results)
    entry |= _encoder_part(results) if contender.part == "encoder" else {}
    phases = [phase for phase in entry["phases"] if phase in results["seconds"]]
    took = {
        "minutes": sum(results["seconds"][phase] for phase in phases) / 60,
        "memory": max(results["peak_memory_mb"][phase] for phase in phases),
    }
    return took | entry | {
        "family": contender.family, "lesson": lesson, "title": page.title, "results": results,
        "prints": [data[split]["fingerprint"] for split in entry["tested"]],
        "train_rows": sum(data[split]["rows"] for split in entry["trained_on"]), "page": "report.md",
    }


def _lab_entry(contender: Contender, lab: Path, results: dict[str, Any]) -> dict[str, Any]:
    """The same of a lab: its `headline` table says what `save_results` and a template say of a lesson."""
    (told,), data, model = results["tables"]["headline"], results["data"], results["models"][0]
    return {
        "family": contender.family, "lesson": lab, "page": f"{lab.name.replace('-', '_')}.ipynb",
        "title": told["title"], "results": results,
        "metric": "f1", "score": told["f1"], "baseline": ("always refuse", told["always_refuse"]),
        "tested": told["tested"], "scored": told["scored"], "prints": [data[split]["fingerprint"] for split in told["tested"]],
        "model": model["id"], "parameters": model["parameters"], "trained": model["trainable"],
        **{key: told[key] for key in ("train_rows", "minutes", "memory")},
    }  # fmt: skip


def _headline_part(page: Any, results: dict[str, Any]) -> dict[str, Any]:
    """Score, best baseline, rows and model of a lesson's headline."""
    metric, data, model = page.headline, results["data"], results["model"]
    tested = list(getattr(page, "tested", None) or [split for split in data if split.startswith("test")])
    baselines = {name: scores[metric] for name, scores in results["baselines"].items() if metric in scores}
    return {
        "metric": metric, "score": results["metrics"][metric], "baseline": max(baselines.items(), key=lambda item: item[1]),
        "tested": tested, "scored": sum(data[split]["rows"] for split in tested),
        "trained_on": [split for split in data if split.startswith("train")], "phases": ("warm-up", "train"),
        "model": model["id"], "trained": model["trainable"], "parameters": model["parameters"],
    }


def _encoder_part(results: dict[str, Any]) -> dict[str, Any]:
    """What differs for the encoder beside a decoder, trained and scored on the same rows; its memory alone was not measured."""
    card = results["tables"]["encoder"][0]
    score = next(row for row in results["tables"]["systems"] if row["system"] == "encoder")["accuracy"]
    return {
        "metric": "accuracy", "score": score, "minutes": card["seconds"] / 60, "memory": None,
        "model": card["id"], "trained": card["trained"], "parameters": card["parameters"],
    }


def _family_row(task: str, entry: dict[str, Any], base: Path) -> str:
    results, metric, (name, baseline) = entry["results"], entry["metric"], entry["baseline"]
    report = link(entry["lesson"] / entry["page"], base)
    memory = "–" if entry["memory"] is None else f"{entry['memory']:,.0f} MiB"
    return (
        f"| {task} | {entry['family']} | {_score_cell(metric, entry['score'])} | {shown_value(metric, baseline)} ({name}) "
        f"| [{entry['title']}]({report}), {results['profile']} | {_without_owner(entry['model'])} "
        f"| {entry['train_rows']:,} | {entry['scored']:,} | {entry['trained']:,} of {entry['parameters']:,} | {entry['minutes']:.1f} "
        f"| {memory}, {results['environment']['device']} |"
    )


def _what_differs(entries: list[dict[str, Any]]) -> str:
    """Whether the scores of one task may be compared, and what else differs, from what the results record."""
    first, *others = entries
    rows = [(entry["prints"], entry["scored"], entry["results"]["seed"]) for entry in entries]  # halves are drawn by seed
    same_rows = all(other == rows[0] for other in rows)
    differs = [] if same_rows else ["the scored rows"]
    for what, values in {
        "measure": [entry["metric"] for entry in entries],
        "training rows": [entry["train_rows"] for entry in entries],
        "parameters": [entry["parameters"] for entry in entries],
        "profile": [entry["results"]["profile"] for entry in entries],
    }.items():
        if len(set(values)) > 1:
            differs.append(f"the {what} ({' and '.join(f'{one:,}' if isinstance(one, int) else one for one in values)})")
    apart = " and ".join([", ".join(differs[:-1]), differs[-1]] if len(differs) > 1 else differs)
    if same_rows and all(entry["metric"] == first["metric"] for entry in others):
        same = f"scored on the same rows, so the scores may be compared{_told_apart(entries)}"
        return same + (f"; what differs: {apart}." if apart else ".")
    return f"**the scores must not be compared with each other**, for what differs is {apart}; compare each with its own baseline."


def _told_apart(entries: list[dict[str, Any]]) -> str:
    """What McNemar's test says of an encoder and a decoder that one run scored; "" for other entries, whose rows stand in no results."""
    one_run = len({entry["lesson"] for entry in entries}) == 1
    pairs = entries[0]["results"]["tables"].get("pairs", []) if one_run else []
    p = next((pair["p"] for pair in pairs if pair["other"] == ENCODER), None)
    if p is None:
        return ""
    return f" (McNemar's exact test: p = {p:.2g}{', so these rows do not tell the two apart' if p >= 0.05 else ''})"


# ---------------------------------------------------------------- the repository's address


def repository(root: Path = ROOT) -> str:
    """owner/name as stamped into pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf8"))["tool"]["course"]["repository"]


def publish(address: str, root: Path = ROOT) -> list[Path]:
    """Stamp owner/name into pyproject, READMEs, CITATION.cff and notebooks; returns the files that changed."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", address):
        raise CourseError(f"'{address}' is not a repository: write it as owner/name")
    old, changed = repository(root), []
    places = ("pyproject.toml", "*.cff", "*.md", "task-*/**/*.md", "*.ipynb", "task-*/*/*.ipynb")
    for path in [path for place in places for path in root.glob(place)]:
        text = path.read_text(encoding="utf8")
        stamped = re.sub(rf"(?<![\w.-]){re.escape(old)}(?![\w-])", address, text)
        if stamped != text:
            write_whole(path, stamped)
            changed.append(path)
    return changed


# ---------------------------------------------------------------- command line


def commit_run(lesson: Path, run: Path, notebook: Path) -> list[Path]:
    """Copy a run's executed notebook, results and plots into its lesson, then render everything again.

    Raises CourseError for a run on a file of the reader's own, whose scores the lesson's pages are not about.
    """
    results = json.loads((run / "results.json").read_text(encoding="utf8"))
    own_file = {"columns": {}, "data": ""} | results["config"]
    if own_file["columns"] and own_file["data"]:
        raise CourseError(f"--commit publishes a lesson's run on its own data: leave out data={own_file['data']}")
    profile = results["profile"]
    plots, fresh = lesson / "plots" / profile, lesson / "plots" / f"{profile}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(run / "plots", fresh)  # a full disk or a kill leaves the old plots whole
    if notebook.resolve() != (lesson / notebook.name).resolve():
        write_whole(lesson / notebook.name, notebook.read_text(encoding="utf8"))
    write_json(lesson / "results" / f"{profile}.json", results)
    shutil.rmtree(plots, ignore_errors=True)
    fresh.rename(plots)
    return write_pages()


def write_pages(root: Path = ROOT) -> list[Path]:
    """Write every rendered file that differs; returns those.

    One lesson's broken template keeps no other from its report: the rest is written before CourseError names the first broken one.
    """
    written, broken = _redraw_stale(_recorded(root)), None  # first: the reports say what the figures show
    for pages in _renderers(root):
        try:
            stale = {path: text for path, text in pages().items() if _old(path) != text}
        except CourseError as error:
            broken = broken or error
            continue
        for path, text in stale.items():
            write_whole(path, text)
            written.append(path)
    if broken:
        raise CourseError(f"{broken}. The other reports are written; when this is fixed, python -m shared.report renders the rest")
    figure = overview.figure(overview_rows(root, lesson_folders(root)))
    return [*written, *_redraw_stale({root / overview.FIGURE: figure})]


def _old(path: Path) -> str:
    return path.read_text(encoding="utf8") if path.is_file() else ""


@runtime.command_line
def main(argv: list[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(prog="python -m shared.report", description="render reports and README tables")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a rendered file is stale")
    parser.add_argument("--memory", action="store_true", help="count the memory tables again (after a new torch or transformers)")
    parser.add_argument("--publish", metavar="OWNER/NAME", help="stamp the repository's address everywhere")
    options = parser.parse_args(argv)
    if options.publish:
        print(f"stamped {options.publish} into {len(publish(options.publish))} files")
    if options.memory:
        print(f"memory tables: {len(write_memory())} changed")
    if options.check:
        stale = [*(path for path, text in rendered().items() if _old(path) != text), *stale_figures()]
        for path in stale:
            print(f"stale: {path.relative_to(ROOT).as_posix()} (run python -m shared.report)")
        return 1 if stale else 0
    for path in write_pages():
        print(f"rendered {path.relative_to(ROOT).as_posix()}")


if __name__ == "__main__":
    sys.exit(main())
