"""Settings, start and clock of the lessons that are not plain code yet; the rest of what they use is the course's own."""

from __future__ import annotations

import contextlib
import os
import textwrap
import threading
import time
from collections.abc import Iterator
from typing import Any

from shared.course.runtime import *  # noqa: F403  (an old lesson finds everything under one name)
from shared.course.runtime import PROFILES, CourseError, memory_mb, parse_overrides, profile, quiet, say_where, set_seed, unknown
from shared.course.settings import Settings as Config

COLUMNS = PROFILES[:3]  # of a lesson's configuration table
WIDEST = 24  # letters of a value in the table that a lesson prints of its configuration
SPLIT_ROWS = ("train_rows", "validation_rows", "test_rows")  # go to data.load_split, where None takes the whole split


def convert(key: str, text: str, row: tuple[Any, Any, Any]) -> Any:
    """The override `text` as the type of the defaults in `row`; "all" is None for a split's rows and where a default is None."""
    example = next((value for value in row if value is not None), 1_000)
    kind = float if any(type(value) is float for value in row) else type(example)
    if (None in row or key in SPLIT_ROWS) and text.lower() in ("none", "all"):
        return None
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is int and "." in text:
            raise ValueError(text)
        return kind(text)
    except (ValueError, KeyError):
        raise CourseError(f"--set {key}={text}: '{key}' takes a {kind.__name__}, for example {key}={example}") from None


def configure(lesson: str, table: dict[str, tuple[Any, Any, Any]]) -> Config:
    """Pick the active profile's column of `table` ({key: (tiny, laptop, colab)}), apply COURSE_SET, print it.

    Raises CourseError for an unknown key or a value of the wrong type, and for profile paper, which has no column.
    """
    name = profile()
    if name not in COLUMNS:
        raise CourseError(f"{lesson} has no profile {name} yet: take colab, with the --set line that stands above this cell")
    column = COLUMNS.index(name)
    values = {key: row[column] for key, row in table.items()}
    overrides = {}
    for key, text in parse_overrides(os.environ.get("COURSE_SET", "")).items():
        if key not in values:
            raise unknown(f"--set key of {lesson}", key, list(values))
        overrides[key] = convert(key, text, table[key])
    values.update(overrides)
    _print_table(table, column, overrides)
    return Config(lesson, name, values, overrides)


def _print_table(table: dict[str, tuple], column: int, overrides: dict[str, Any]) -> None:
    header = [f"[{p}]" if i == column else p for i, p in enumerate(COLUMNS)]
    rows = {"": header} | {key: [_shortened(value) for value in row] for key, row in table.items()}
    first = max(20, *(len(key) + 2 for key in rows))
    widths = [max(12, *(len(cells[i]) + 2 for cells in rows.values())) for i in range(len(COLUMNS))]
    for key, cells in rows.items():
        note = f"   -> {_shortened(overrides[key])} (--set)" if key in overrides else ""
        print((f"{key:{first}}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)) + note).rstrip())
    for key, row in table.items():  # what was shortened, in full: one long value would push every column off the page
        value = overrides.get(key, row[column])
        if len(_shown(value)) > WIDEST:
            print(textwrap.fill(f"{key}: {_shown(value)}", 110, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False))


def _shortened(value: Any) -> str:
    """`_shown`, cut to what a column of the printed configuration has room for."""
    text = _shown(value)
    return text if len(text) <= WIDEST else text[: WIDEST - 2].rstrip() + " …"


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    return f"{value:,}" if type(value) is int else str(value)


def setup(seed: int = 0) -> None:
    """Start a lesson: seed, quiet libraries, and two lines that say what the lesson runs on."""
    if os.environ.get("COURSE_PROFILE") == "tiny":
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    quiet()
    set_seed(seed)
    say_where(f", seed {seed}")


class Clock:
    """Seconds and peak memory per phase of a lesson.

    `with clock("train"): ...` records both under the phase's name. Memory is the GPU's peak allocation on CUDA, else
    the process's peak resident set, sampled ten times a second; in MiB.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peak_memory_mb: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        started = time.perf_counter()
        with _peak_memory() as peak:
            yield
        self.seconds[phase] = round(time.perf_counter() - started, 2)
        self.peak_memory_mb[phase] = peak[0]


@contextlib.contextmanager
def _peak_memory() -> Iterator[list[float]]:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    peak, done = [memory_mb()], threading.Event()

    def sample() -> None:
        while not done.wait(0.1):
            peak[0] = max(peak[0], memory_mb())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()
    try:
        yield peak
    finally:
        done.set()
        sampler.join()
        peak[0] = max(peak[0], memory_mb())
