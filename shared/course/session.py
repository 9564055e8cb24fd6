"""The start and the end of a lesson: what it runs on, and the results that its report is made of."""

from __future__ import annotations

import functools
import gc
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from shared.course import runtime, standin, substitutes
from shared.course.rows import BUNDLED
from shared.course.runtime import CourseError, RunFolder
from shared.course.settings import Settings

SOURCE = re.compile(r"hf://datasets/([^@]+)@([0-9a-f]+)/")  # how `datasets` notes where a split's file came from
FILE = "file "  # how `data.from_file` notes it in the same place
_standing: standin.Standing | None = None
_own_file = False  # whether rows of the reader's own have been read


def setup() -> None:
    """Start a lesson, before any library of the Hub is imported: the Hub or its stand-in, one GPU, quiet libraries, a few lines.

    Raises CourseError, in one line, for an unknown profile and whatever `standin.start` refuses.
    """
    global _standing
    first = _standing is None
    _take_one_gpu()
    _standing = standin.start(runtime.profile())
    runtime.quiet()
    if _standing.address:
        import datasets

        datasets.config.USE_PARQUET_EXPORT = False  # a service that the stand-in has not got, and that would be looked up by name
    if runtime.profile() == "laptop":
        import_module("shared.course.pointer")  # a model that stands in for T5, or was saved by a lesson, is loaded by the Auto classes
    runtime.set_seed(0)
    runtime.say_where()
    print(_standing.text)
    if first:  # a Trainer collects garbage several times a training; to look through all modules took 6 of RTE's 21 seconds in `tiny`
        import_module("transformers.trainer")  # two thirds of what would be looked through, and every lesson imports it
        gc.freeze()


def _take_one_gpu() -> None:
    """Show this process its first GPU alone: with two in sight the Trainer's DataParallel silently trains in fp32, slower than one.

    `accelerate launch` gives each of its processes one itself. Too late, and so left alone, where CUDA has been started.
    """
    torch = sys.modules.get("torch")
    started = torch is not None and torch.cuda.is_initialized()
    if runtime.processes() == 1 and not started:
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]


def excerpt(text: str, row: int, width: int = 160) -> str:
    """The text on one line, cut to `width` characters; only its row number where outputs get published and it is not ours."""
    ours = _standing is not None and _standing.rows == "bundled" and not _own_file  # CC0
    if runtime.withhold_texts() and not ours and text not in _texts_of_the_course():
        return f"(row {row})"
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"


@functools.cache
def _texts_of_the_course() -> frozenset[str]:
    """The texts of the bundled rows, which everybody may read."""
    lines = (line for path in BUNDLED.glob("*/*.jsonl") for line in path.read_text(encoding="utf8").split("\n") if line)
    values = (value for line in lines for value in json.loads(line).values())
    parts = (part for value in values for part in (value.values() if isinstance(value, dict) else [value]))  # a pair of translations
    return frozenset(part for part in parts if isinstance(part, str))


def note_own_file() -> None:
    """From now on texts may be the reader's own, and are withheld where outputs get published."""
    global _own_file
    _own_file = True


def record(splits: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The `data` object of the results: {split: {source, rows, fingerprint}} of the rows that were used, `Dataset`s by name."""
    from shared import data

    return {
        name: {"source": _source(rows), "rows": len(rows), "fingerprint": data.fingerprint(rows)} for name, rows in splits.items()
    }


def _source(rows: Any) -> str:
    """'bundled', 'folder', the Hub's data set at its commit, or the reader's own file by its name."""
    noted = list(rows.info.download_checksums or {})
    if noted and noted[0].startswith(FILE):
        return noted[0]
    if _standing is not None and _standing.rows != "hub":
        return "bundled" if _standing.rows == "bundled" else "folder"
    noted = next(map(SOURCE.match, noted), None)
    return f"hub: {noted[1]}@{noted[2][:12]}" if noted else "hub"


def model_card(cfg: Settings, model: Any) -> dict[str, Any]:
    """The `model` object of the results: id, the commit it was loaded from, its parameters and those that are trained.

    A substitute is called one in its id, which reports and READMEs show, and under `stands_in_for`. What it was taught before the
    lesson (`shared.course.pretrain`) is under `pretraining`.
    """
    from huggingface_hub import try_to_load_from_cache

    from shared.lora import count_parameters  # counts those in 4 bits as what they stand for

    kinds = {"twins": " (random two-layer twin)", "packaged": " (packaged)"}
    kind = kinds.get(_standing.models, "") if _standing is not None else ""
    if cfg.model.startswith(substitutes.OWNER):
        kind = " (made by the course)"
    cached = None if Path(cfg.model).is_dir() else try_to_load_from_cache(cfg.model, "config.json")
    meant, taught = cfg.stands_in_for.get("model"), getattr(model.config, "pretraining", None)
    return ({"stands_in_for": meant} if meant else {}) | ({"pretraining": taught} if taught else {}) | {
        "id": cfg.model + kind + (f", stands in for {meant}" if meant else ""),
        "revision": Path(cached).parent.name if isinstance(cached, str) else "unknown",  # as the cache names the commit's folder
        **count_parameters(model),
    }


ALIKE = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers")  # of two models with the same encoder


def start_from(name: str, like: str) -> tuple[str, dict[str, Any]]:
    """A model to start a training from: (what `from_pretrained` takes, what is known of its own training).

    Args:
        name: a model of the Hub, a folder, or a run of this course by its name, whose saved model is meant.
        like: the model whose encoder it has to have.

    The second is {'model': name, 'data', 'rows', 'accuracy'}, the training data, its rows and the score that a run's results name, each
    None where nothing says it. The score is None too after a training on the reader's own file. Raises CourseError for a run that isn't
    there, and where the two encoders differ.
    """
    from transformers import AutoConfig

    run = runtime.outputs_root() / name
    kept = any((run / "model").glob("*config.json"))
    if name and run.is_dir() and (run / "model").is_dir() and not kept:
        raise CourseError(f"the run '{name}' kept no model: finish it with --set resume={name}, or name another one")
    checkpoint = str(run / "model") if kept else name
    if "/" not in checkpoint and not Path(checkpoint).is_dir():  # the Hub's names have an owner
        raise CourseError(f"there is no run '{name}' with a model: `ls {runtime.outputs_root().name}` shows the runs there are")
    configs = [AutoConfig.from_pretrained(model) for model in (checkpoint, like)]
    for key in ALIKE:
        there, wanted = (getattr(config, key, None) for config in configs)
        if there != wanted:
            raise CourseError(f"{name} cannot stand in for {like}: its {key} is {there}, not {wanted}; name a model with the same encoder")
    known = {"model": name, "data": None, "rows": None, "accuracy": None}
    if (run / "results.json").is_file():
        made = json.loads((run / "results.json").read_text(encoding="utf8"))
        train, learned, accuracy = made["data"]["train"], made["config"].get("train_data"), made["metrics"].get("accuracy", {}).get("value")
        if str(train.get("source")).startswith(FILE):  # the reader's own: the score is of other rows than the lesson's
            learned, accuracy = train["source"], None
        known |= {"data": learned, "rows": train["rows"], "accuracy": accuracy}
    return checkpoint, known


def once(part: RunFolder, work: Callable[[], Any]) -> Any:
    """What `work` returns, as JSON has it, read from the folder where it was done there before, as in a run that is resumed.

        for seed in range(5):
            part = run.part(f"seed-{seed}")
            answers[seed] = course.once(part, lambda: answers_of(finetune(seed, part)))

    So a series of trainings that dies goes on with those that are missing. The part's checkpoints are removed when its work is done:
    those of ten trainings fill a disk. Raises CourseError where the disk is full.
    """
    record = part.logs / "once.json"
    if runtime.agreed(record.is_file):
        print(f"{part.name}: was done before, and is read from {part.resume}")
    else:
        found = work()
        runtime.by_main_process(lambda: _note(part, record, found))
    return json.loads(record.read_text(encoding="utf8"))


def _note(part: RunFolder, record: Path, found: Any) -> None:
    with runtime.writing(part.resume):
        runtime.write_whole(record, json.dumps(found))
    shutil.rmtree(part.checkpoints, ignore_errors=True)


def _took(run: RunFolder) -> dict[str, Any]:
    """Seconds and memory as the callbacks noted them, of all the run's trainings; of a resumed run also how many steps were timed."""
    clocks = [run.logs / "timed.json", *sorted(run.path.glob("parts/*/logs/timed.json"))]
    found = [json.loads(clock.read_text(encoding="utf8")) for clock in clocks if clock.is_file()]
    timed = {key: round(sum(one.get(key, 0) for one in found), 2) for key in ("steps", "of", "seconds", "evaluate")}
    timed["peak_memory_mb"] = max((one.get("peak_memory_mb", 0.0) for one in found), default=0.0)
    evaluate, note = timed.pop("evaluate"), run.path / "settings.json"
    before = json.loads(note.read_text(encoding="utf8")).get("epochs_before", []) if note.is_file() else []
    return {
        "seconds": {"train": timed["seconds"], "evaluate": evaluate},
        "peak_memory_mb": {"train": timed["peak_memory_mb"]},
        "tables": ({"timed": [timed]} if run.resumed else {}) | ({"longer": [{"epochs": epochs} for epochs in before]} if before else {}),
    }


def _begin(cfg: Settings, splits: dict[str, Any]) -> dict[str, Any]:
    """What the results of lessons and labs begin with."""
    config = {**cfg, "overrides": cfg.overrides} | ({"stands_in_for": cfg.stands_in_for} if cfg.stands_in_for else {})
    return {"lesson": cfg.lesson, "profile": cfg.profile, "config": config, "data": record(splits)}


def save_results(
    run: RunFolder,
    cfg: Settings,
    trainer: Any,
    *,
    splits: dict[str, Any],
    metrics: dict[str, dict[str, float]],
    baselines: dict[str, dict[str, float]],
    tables: dict[str, list[dict]] | None = None,
    examples: list[dict] | None = None,
    figures: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `results.json` and `plots/*.png` into the run folder and return the results; call it before anything is asserted.

    Args:
        trainer: the one that trained, for its model and history. What it took is in `course.callbacks`' logs, the run's parts added up.
        splits: the `Dataset`s that were used, by name.
        metrics, baselines: {name: {'value', 'low', 'high'}}, {baseline: {metric: value}}; the rest as in the results' schema.

    With the setting `push_to_hub` the saved model goes to the Hub. Raises CourseError where the disk is full or the Hub refuses.
    """
    from shared.course.training import precision_for

    took = _took(run)
    results = {
        **_begin(cfg, splits),
        "model": model_card(cfg, trainer.model),
        "environment": runtime.environment() | {"precision": precision_for(trainer.model)},
        "seed": cfg.seed,
        **{key: took[key] for key in ("seconds", "peak_memory_mb")},
        "history": list(trainer.state.log_history),
        "metrics": metrics,
        "baselines": baselines,
        "tables": (tables or {}) | took["tables"],
        "examples": examples or [],
    }
    note_few_rows(results["data"])
    runtime.by_main_process(lambda: _finish(run, results, figures or {}))
    return results


def note_few_rows(data: dict[str, dict[str, Any]]) -> None:
    """Say where the scored rows are so few that a bootstrap's intervals are too narrow."""
    from shared.metrics.intervals import ENOUGH_ROWS

    tested = [name for name in data if name.startswith("test")] or [name for name in data if name.startswith(("validation", "matched"))]
    rows = min((data[name]["rows"] for name in tested), default=ENOUGH_ROWS)
    if rows < ENOUGH_ROWS:
        print(f"NOTE: {rows} scored rows: below about {ENOUGH_ROWS}, intervals of means and F1 are too narrow (task-1/lab-measuring)")


def _finish(run: RunFolder, results: dict[str, Any], figures: dict[str, Any]) -> None:
    """Write everything, then publish the model where that was asked for: whatever the Hub says, the run is kept."""
    from shared.course import report, upload

    report.write_results(run, results, figures)
    if results["config"].get("push_to_hub"):
        upload.upload(run, results, results["config"]["push_to_hub"])


def save_lab(
    run: RunFolder,
    cfg: Settings,
    *,
    splits: dict[str, Any],
    tables: dict[str, list[dict]],
    figures: dict[str, Any],
    models: list[Any] = (),
) -> dict[str, Any]:
    """Write a lab's `results.json` and `plots/*.png` into the run folder and return the results; before anything is asserted.

    A lab measures many things and has no headline: its figures stand in `tables`, which reports and READMEs may quote.

    Args:
        splits: the `Dataset`s that were used, by name.
        tables: {name: rows}, each row a dict of numbers, texts or {'value', 'low', 'high'}.
        models: the models that were trained or scored.

    Raises CourseError where the disk is full.
    """
    from shared.course import report

    results = {
        **_begin(cfg, splits),
        "models": [model_card(cfg, model) for model in models],
        "environment": runtime.environment(),
        "seed": cfg.seed,
        "tables": tables,
    }
    runtime.by_main_process(lambda: report.write_results(run, results, figures))
    return results
