"""`--set report_to=`: the Trainer's own callbacks, by the setting alone; what is missing is one line before anything is trained."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

from shared import course
from shared.course import runtime, tracking
from shared.course.runtime import CourseError
from tests.tiny_training import config

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
ROWS = [{"input_ids": [i % 50, (3 * i) % 50, 7], "labels": i % 4} for i in range(32)]


@pytest.fixture(autouse=True)
def own_variables(monkeypatch, tmp_path):
    """Nothing of what `callbacks` sets outlives a test."""
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR", "WANDB_DIR", "WANDB_SILENT", "WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "x")  # so that it is put back in any case
        monkeypatch.delenv(name)


def trained(run: runtime.RunFolder) -> Trainer:
    """A training of eight steps, as a lesson has it."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_labels=4, **SIZES))
    settings = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True}
    arguments = TrainingArguments(run.checkpoints, **settings, **course.precision(model))
    trainer = Trainer(model, arguments, train_dataset=ROWS, callbacks=course.callbacks(run))
    trainer.train()
    return trainer


def test_nothing_is_tracked_unless_asked_for():
    run = runtime.run_folder(config())
    assert run.report_to == "none" and tracking.callbacks(run) == []
    assert len(course.callbacks(run)) == 3 and len(course.callbacks()) == 2


def test_tensorboard_gets_the_losses_and_keeps_them_with_the_run():
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = runtime.run_folder(config(report_to="tensorboard"))
    trainer = trained(run)
    events = EventAccumulator(str(run.logs))
    events.Reload()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.value for event in events.Scalars("train/loss")] == pytest.approx(losses)
    assert not list(run.checkpoints.rglob("events.*"))
    assert "report_to" not in json.loads((run.path / "settings.json").read_text())  # a run may go on with another tracker


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_the_setting_names_the_librarys_callback(name, monkeypatch):
    from transformers import integrations

    made = []
    monkeypatch.setattr(integrations, tracking.TRACKERS[name], lambda: made.append(name) or name)
    run = runtime.run_folder(config(report_to=name))
    assert course.callbacks(run)[-1] == name and made == [name]
    assert tracking.os.environ["TRACKIO_DIR"] == str(runtime.outputs_root() / "trackio")


def test_a_package_that_is_missing_is_one_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name in ("tensorboard", "trackio", "wandb"):
        with pytest.raises(CourseError, match=f"^report_to={name} needs the package {name}: pip install {name}, or leave report_to out$"):
            tracking.check(name)
    with pytest.raises(CourseError, match=r"^unknown report_to 'tensorbord': did you mean 'tensorboard'\?"):
        tracking.check("tensorbord")
    tracking.check("none")


def test_the_settings_say_so_before_anything_is_trained(monkeypatch):
    monkeypatch.setenv("COURSE_SET", "report_to=mlflow")
    values = {"model": "a/b", "rows": 1, "train_rows": 1, "scored": 1, "max_length": 1, "batch_size": 1, "learning_rate": 1.0}
    values |= {"frozen_layers": 1, "accumulate": 1, "timed_batches": 1, "rounds": 1}
    with pytest.raises(CourseError, match=r"^unknown report_to 'mlflow': known are none, tensorboard, trackio, wandb$"):
        course.settings("task-1/lab-speed", **values)


def test_wandb_without_an_account_is_refused_where_it_would_ask(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(api=SimpleNamespace(api_key=None)))
    with pytest.raises(CourseError, match=r"^report_to=wandb needs an account: run wandb login, set WANDB_API_KEY, or"):
        tracking.check("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracking.check("wandb")
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(api=SimpleNamespace(api_key="x")))
    tracking.check("wandb")
