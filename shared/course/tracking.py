"""Curves in a tracker, beside those of the lesson: `--set report_to=tensorboard`, `trackio` or `wandb`, by the Trainer's own callbacks.

    tensorboard --logdir outputs             curves of all runs, on this machine
    TRACKIO_DIR=outputs/trackio trackio show --project huggingface     the same with trackio
    wandb                                    sends settings and curves to an account at wandb.ai; WANDB_MODE=offline keeps them here
"""

from __future__ import annotations

import importlib.util
import os

from transformers import TrainerCallback

from shared.course import runtime
from shared.course.runtime import CourseError, RunFolder, unknown

TRACKERS = {"none": "", "tensorboard": "TensorBoardCallback", "trackio": "TrackioCallback", "wandb": "WandbCallback"}


def check(name: str) -> None:
    """Raise CourseError, in one line, for an unknown tracker, one that is not installed, and wandb without an account."""
    if name not in TRACKERS:
        raise unknown("report_to", name, list(TRACKERS))
    if name != "none" and importlib.util.find_spec(name) is None:
        raise CourseError(f"report_to={name} needs the package {name}: pip install {name}, or leave report_to out")
    if name == "wandb" and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb

        if not wandb.api.api_key:  # it would ask for one in the middle of the notebook
            raise CourseError("report_to=wandb needs an account: run wandb login, set WANDB_API_KEY, or stay here with WANDB_MODE=offline")


def callbacks(run: RunFolder) -> list[TrainerCallback]:
    """The library's callback for the run's tracker, if it has one, with all that is kept on this machine in the runs' folder."""
    if run.report_to == "none":
        return []
    from transformers import integrations

    os.environ["TENSORBOARD_LOGGING_DIR"] = str(run.logs)
    os.environ.setdefault("TRACKIO_DIR", str(runtime.outputs_root() / "trackio"))  # else in HF_HOME, which a stand-in Hub deletes
    os.environ.setdefault("WANDB_DIR", str(runtime.outputs_root()))
    os.environ.setdefault("WANDB_SILENT", "true")
    return [getattr(integrations, TRACKERS[run.report_to])()]
