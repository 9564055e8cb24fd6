"""What runs the course, so that a lesson shows only what it teaches: `from shared import course; course.setup()`.

`setup` has to come before the libraries of the Hub are imported, so what needs them is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from shared.course.runtime import CourseError, free, newest_run, run_folder
from shared.course.session import excerpt, once, save_lab, save_results, setup, start_from
from shared.course.settings import settings

LATER = {"callbacks": "training", "check_head": "heads", "freeze_lower_layers": "training", "precision": "training"}
__all__ = [
    "CourseError", "excerpt", "free", "newest_run", "once", "run_folder", "save_lab", "save_results", "settings", "setup", "start_from",
    *LATER,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(f"shared.course.{LATER[name]}"), name)
    raise AttributeError(f"module 'shared.course' has no attribute '{name}'")
