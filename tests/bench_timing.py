"""Timing for `make bench`: several ways to do the same work, side by side, and the ratio of what they take."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Ratio(NamedTuple):
    """One ratio a round: their median, the lowest and the highest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        spread = f" ({self.low:.2f} to {self.high:.2f})" if self.low < self.high else ""
        return f"{self.median:.2f} x{spread}"


def ratio(over: Sequence[float], under: Sequence[float]) -> Ratio:
    """The ratio of two figures that were taken in the same rounds."""
    found = [a / b for a, b in zip(over, under, strict=True)]
    return Ratio(statistics.median(found), min(found), max(found))


def side_by_side(
    ways: dict[str, Callable[[], Any]], rounds: int, repeat: int = 1
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """(seconds of each way in each round, what each way gave).

    A round takes all ways in turn, so that what slows the machine down meets all of them. Before the first round every way runs once
    without being timed: that run also pays for memory that later ones find.

    Args:
        repeat: runs of a way in one round, for what takes less than some tenths of a second.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results = {name: work() for name, work in ways.items()}
    for _ in range(rounds):
        for name, work in ways.items():
            started = time.perf_counter()
            for _ in range(repeat):
                results[name] = work()
            seconds[name].append((time.perf_counter() - started) / repeat)
    return seconds, results
