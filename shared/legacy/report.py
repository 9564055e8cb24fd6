"""How the lessons that are not plain code yet write their results."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from shared.course.report import write_json, write_results, writing_results
from shared.legacy import runtime
from shared.legacy.runtime import Config, RunFolder


def save_results(
    run: RunFolder,
    cfg: Config,
    *,
    data: dict[str, Any],
    model: dict[str, Any],
    clock: runtime.Clock,
    history: list[dict],
    metrics: dict[str, dict[str, float]],
    baselines: dict[str, dict[str, float]],
    tables: dict[str, list[dict]] | None = None,
    examples: list[dict] | None = None,
    figures: dict[str, Any] | None = None,
    precision: str | None = None,
) -> dict[str, Any]:
    """Write `results.json` and `plots/*.png` into the run folder and return the results object.

    `metrics` is {name: {'value', 'low', 'high'}}; `baselines` {baseline: {metric: value}}; the rest as in the results
    schema. Accuracies, F1 and exact match are fractions; ROUGE, BLEU and chrF run from 0 to 100. `precision` is what was
    trained in, where that is not the device's default (`training.precision_for`). Raises CourseError where the disk is full.
    """
    timed = _timed(run)
    results = {
        "lesson": cfg.lesson,
        "profile": cfg.profile,
        "config": {**cfg, "overrides": cfg.overrides},
        "data": data,
        "model": model,
        "environment": runtime.environment() | ({"precision": precision} if precision else {}),
        "seed": cfg.seed,
        **_times(clock, run),
        "history": history,
        "metrics": metrics,
        "baselines": baselines,
        "tables": (tables or {}) | ({"timed": timed} if timed else {}),
        "examples": examples or [],
    }
    runtime.by_main_process(lambda: write_results(run, results, figures or {}))
    return results


def _timed(run: RunFolder, part: str = "") -> list[dict[str, float]]:
    """Of a resumed run, the steps that were timed, of how many, their seconds and peak memory (`training.Stopwatch`); else nothing.

    Args:
        part: the folder of a second training inside the run, if that is meant.
    """
    record = run.path / part / "logs" / "timed.json"
    return [json.loads(record.read_text(encoding="utf8"))] if run.resumed and record.is_file() else []


def _times(clock: runtime.Clock, run: RunFolder) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of each phase; of a resumed run's trainings ('train', 'train <folder in the run>'), those on record."""
    found = {"seconds": dict(clock.seconds), "peak_memory_mb": dict(clock.peak_memory_mb)}
    for phase in [phase for phase in clock.seconds if phase.partition(" ")[0] == "train"]:
        for row in _timed(run, phase.partition(" ")[2]):
            for key, phases in found.items():
                phases[phase] = row[key]
    return found


def once(run: RunFolder, name: str, work: Callable[[], Any]) -> Any:
    """What `work` returns, as JSON: done now and kept in the run's logs, or read from there if an earlier start did it."""
    record = run.logs / f"{name}.json"
    if not runtime.agreed(record.is_file):
        done = work()
        with writing_results(run):
            runtime.by_main_process(lambda: write_json(record, done))
    return json.loads(record.read_text(encoding="utf8"))
