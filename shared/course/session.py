"""The start and the end of a lesson: what it runs on, and the results that its report is made of."""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from shared.course import runtime, standin
from shared.course.rows import BUNDLED
from shared.course.runtime import RunFolder
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
    return frozenset(value for line in lines for value in json.loads(line).values() if isinstance(value, str))


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

    kinds = {"twins": " (random two-layer twin)", "packaged": " (packaged)"}
    kind = kinds.get(_standing.models, "") if _standing is not None else ""
    cached = None if Path(cfg.model).is_dir() else try_to_load_from_cache(cfg.model, "config.json")
    meant, taught = cfg.stands_in_for.get("model"), getattr(model.config, "pretraining", None)
    return ({"stands_in_for": meant} if meant else {}) | ({"pretraining": taught} if taught else {}) | {
        "id": cfg.model + kind + (f", stands in for {meant}" if meant else ""),
        "revision": Path(cached).parent.name if isinstance(cached, str) else "unknown",  # as the cache names the commit's folder
        "parameters": sum(p.numel() for p in model.parameters()),
        "trainable": sum(p.numel() for p in model.parameters() if p.requires_grad),
    }


def _took(run: RunFolder) -> dict[str, Any]:
    """Seconds and memory as the callbacks noted them; of a resumed run also how many of its steps were timed."""
    timed = json.loads((run.logs / "timed.json").read_text(encoding="utf8"))
    steps = {key: timed[key] for key in ("steps", "of", "seconds", "peak_memory_mb")}
    return {
        "seconds": {"train": timed["seconds"], "evaluate": timed.get("evaluate", 0.0)},
        "peak_memory_mb": {"train": timed["peak_memory_mb"]},
        "tables": {"timed": [steps]} if run.resumed else {},
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
        trainer: the one that trained, for its model and its history. What it took is in the logs of `course.callbacks`.
        splits: the `Dataset`s that were used, by name.
        metrics, baselines: {name: {'value', 'low', 'high'}}, {baseline: {metric: value}}; the rest as in the results' schema.

    Raises CourseError where the disk is full.
    """
    from shared.course import report
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
    runtime.by_main_process(lambda: report.write_results(run, results, figures or {}))
    return results


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
