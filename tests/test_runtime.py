import errno
import importlib.util
import json
import logging
import os
import platform
import random
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from importlib import metadata
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import psutil
import pytest
import torch

from shared.course import runtime, session
from shared.course.runtime import CourseError, parse_overrides, run_folder
from shared.course.settings import Settings

VARIABLES = ("COURSE_DATA", "COURSE_SET", "COURSE_OUTPUTS", "COURSE_TEXTS", "COURSE_PROGRESS")


@pytest.fixture(autouse=True)
def plain_machine(monkeypatch):
    """No GPU, no MPS and no course variables, whatever this machine has."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COURSE_PROFILE", "tiny")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.fixture
def cfg(monkeypatch, tmp_path):
    """A lesson's configuration with all runs below tmp_path/runs."""
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path / "runs"))
    return Settings("task-1/ag-news", "tiny", {"model": "bert", "resume": ""})


def resume_cfg(name: str) -> Settings:
    return Settings("task-1/ag-news", "tiny", {"model": "bert", "resume": name})


def pretend_gpu(monkeypatch, capability=(7, 5), name="Tesla T4"):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: name)


def restore_what_setup_sets(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)  # whoever else may have imported it
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")


# profile


@pytest.mark.parametrize("name", ["tiny", "laptop"])
def test_profile_is_read_from_the_environment(monkeypatch, name):
    monkeypatch.setenv("COURSE_PROFILE", f" {name} ")
    assert runtime.profile() == name


def test_profile_defaults_to_laptop_without_a_gpu_and_to_colab_with_one(monkeypatch):
    monkeypatch.delenv("COURSE_PROFILE")
    assert runtime.profile() == "laptop"
    pretend_gpu(monkeypatch)
    assert runtime.profile() == "colab"


def test_unknown_profile_suggests_the_nearest(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "lapto")
    with pytest.raises(CourseError, match=r"unknown profile 'lapto': did you mean 'laptop'\? known are tiny, laptop"):
        runtime.profile()


def test_unknown_name_without_a_near_one_only_lists_the_known():
    assert str(runtime.unknown("profile", "zzzz", ["tiny", "laptop"])) == "unknown profile 'zzzz': known are tiny, laptop"


def test_profile_colab_without_a_gpu_names_both_cures(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "colab")
    message = r"needs a CUDA GPU and none is visible.*COURSE_PROFILE=laptop.*Colab runtime to T4"
    with pytest.raises(CourseError, match=message):
        runtime.profile()


def test_profile_colab_with_a_gpu(monkeypatch):
    monkeypatch.setenv("COURSE_PROFILE", "colab")
    pretend_gpu(monkeypatch)
    assert runtime.profile() == "colab"


# overrides


def test_parse_overrides_reads_quotes_and_values_with_equals_signs():
    text = """a=1 b="two words" 'c=three more' url=x=y empty="""
    assert parse_overrides(text) == {"a": "1", "b": "two words", "c": "three more", "url": "x=y", "empty": ""}


def test_parse_overrides_of_nothing():
    assert parse_overrides("  ") == {}


@pytest.mark.parametrize("word", ["epochs", "=3"])
def test_parse_overrides_refuses_a_word_that_is_no_pair(word):
    with pytest.raises(CourseError, match=f"cannot read the override '{word}': write it as key=value"):
        parse_overrides(f"a=1 {word}")


def test_parse_overrides_refuses_an_open_quote():
    with pytest.raises(CourseError, match=r"override.*key=value"):
        parse_overrides("a='x")


# settings


def test_a_configuration_is_a_mapping():
    cfg = Settings("lesson", "tiny", {"epochs": 1, "values": 2})
    assert (list(cfg.keys()), list(cfg.values()), cfg["values"]) == (["epochs", "values"], [1, 2], 2)


def test_config_reads_like_an_object_and_like_a_mapping():
    cfg = Settings("lesson", "tiny", {"epochs": 1, "model": "bert"})
    assert cfg.epochs == cfg["epochs"] == cfg.get("epochs") == 1
    assert list(cfg) == ["epochs", "model"]
    assert len(cfg) == 2
    assert cfg.get("nothing", 9) == 9
    with pytest.raises(AttributeError, match=r"settings of lesson have no key 'epoch'"):
        _ = cfg.epoch


# device and precision


@pytest.fixture
def unforced(monkeypatch) -> None:
    """The precision that the device has of itself, whatever the tests run in."""
    monkeypatch.setenv("COURSE_PRECISION", "auto")


def test_device_prefers_cuda_then_mps_then_cpu(monkeypatch):
    assert runtime.device() == "cpu"
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(runtime, "_mps_works", lambda: True)
    assert runtime.device() == "mps"
    pretend_gpu(monkeypatch)
    assert runtime.device() == "cuda"


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), "fp16"), ((7, 5), "fp16"), ((8, 0), "bf16"), ((8, 9), "bf16"), ((10, 0), "bf16")],
)
def test_precision_on_a_gpu_follows_its_compute_capability(monkeypatch, capability, expected):
    pretend_gpu(monkeypatch, capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # what a T4 claims
    assert runtime.precision() == expected


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize(
    ("capabilities", "gain", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, 1.8, "bf16"),
        ({"avx512_bf16": True, "amx_bf16": False}, 0.6, "fp32"),  # half-rate dot products: slower than fp32
        ({"avx512_bf16": True, "amx_bf16": True}, 0.6, "bf16"),  # AMX needs no trial
        ({"avx512_bf16": False, "amx_bf16": True}, 0.6, "bf16"),
        ({"avx512_bf16": False, "amx_bf16": False, "avx2": True}, 1.8, "fp32"),
        ({"neon": True}, 1.8, "fp32"),
    ],
)
def test_precision_on_a_cpu_needs_hardware_for_bf16_that_is_faster(monkeypatch, capabilities, gain, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(runtime, "bf16_gain", lambda: gain)
    assert runtime.precision() == expected


@pytest.mark.usefixtures("unforced")
@pytest.mark.parametrize(
    ("amx", "avx512", "gain", "expected"),
    [(True, True, 0.6, "bf16"), (False, True, 1.8, "bf16"), (False, True, 0.6, "fp32"), (False, False, 1.8, "fp32")],
)
def test_precision_on_a_cpu_with_an_older_torch_asks_the_private_probes(monkeypatch, amx, avx512, gain, expected):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512, raising=False)
    monkeypatch.setattr(runtime, "bf16_gain", lambda: gain)
    assert runtime.precision() == expected


def test_bf16_gain_is_a_ratio_of_two_times(monkeypatch):
    fake = {torch.float32: 3.0, torch.bfloat16: 2.0}
    now, linear = [0.0], torch.nn.functional.linear

    def slow(tokens, weight):
        now[0] += fake[tokens.dtype]
        return linear(tokens[:2], weight)

    monkeypatch.setattr(torch.nn.functional, "linear", slow)
    monkeypatch.setattr(runtime.time, "perf_counter", lambda: now[0])
    assert runtime.bf16_gain.__wrapped__() == 1.5


@pytest.mark.usefixtures("unforced")
def test_precision_on_mps_stays_at_fp32(monkeypatch):
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: True)
    assert runtime.precision("mps") == "fp32"
    assert runtime.precision("cpu") == "bf16"


def test_device_label_names_the_gpu_or_the_cores(monkeypatch):
    assert re.fullmatch(r"cpu \(\S+, \d+ cores\)", runtime.device_label())
    pretend_gpu(monkeypatch)
    assert runtime.device_label() == "Tesla T4"


# start of a lesson


def test_set_seed_repeats_python_numpy_and_torch():
    def draw(seed: int) -> tuple:
        runtime.set_seed(seed)
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    first, again, other = draw(3), draw(3), draw(4)
    assert first == again
    assert all(a != b for a, b in zip(first, other, strict=True))


def test_versions_are_those_installed_and_leave_out_what_is_not(monkeypatch):
    monkeypatch.setattr(runtime, "PACKAGES", ("torch", "no-such-package-of-the-course"))
    assert runtime.versions() == {"python": platform.python_version(), "torch": metadata.version("torch")}


@pytest.mark.usefixtures("unforced")
def test_environment_holds_versions_device_and_precision(monkeypatch):
    pretend_gpu(monkeypatch)
    found = runtime.environment()
    assert set(found) == {"versions", "device", "precision"}
    assert (found["device"], found["precision"]) == ("Tesla T4", "fp16")
    assert set(runtime.PACKAGES) <= set(found["versions"])


@pytest.mark.usefixtures("unforced")
def test_two_lines_say_what_a_lesson_runs_on(monkeypatch, capsys):
    pretend_gpu(monkeypatch)
    runtime.say_where()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "profile tiny on Tesla T4, training precision fp16"
    assert f"torch {metadata.version('torch')}" in lines[1]


def test_setup_quiets_a_logger_that_exists(monkeypatch):
    restore_what_setup_sets(monkeypatch)
    logger = logging.getLogger(runtime.BITSANDBYTES_LOGGER)
    monkeypatch.setattr(logger, "level", logging.NOTSET)
    runtime.quiet()
    assert not logger.isEnabledFor(logging.WARNING) and logger.isEnabledFor(logging.ERROR)
    package = importlib.util.find_spec("bitsandbytes")
    if package is not None:
        source = Path(package.origin).parent.joinpath(*runtime.BITSANDBYTES_LOGGER.split(".")[1:]).with_suffix(".py")
        assert "logging.getLogger(__name__)" in source.read_text()


@pytest.mark.parametrize(("value", "expected"), [(None, False), ("show", False), ("withhold", True)])
def test_withhold_texts(monkeypatch, value, expected):
    if value:
        monkeypatch.setenv("COURSE_TEXTS", value)
    assert runtime.withhold_texts() is expected


def pretend_kernel(monkeypatch, shell):
    import IPython

    monkeypatch.setitem(sys.modules, "ipykernel", object())
    monkeypatch.setattr(IPython, "get_ipython", lambda: shell)


def test_setup_shows_course_errors_in_a_notebook_in_one_line(monkeypatch):
    restore_what_setup_sets(monkeypatch)
    shell = Mock()
    pretend_kernel(monkeypatch, shell)
    runtime.quiet()
    ((kinds, show),) = [call.args for call in shell.set_custom_exc.call_args_list]
    assert kinds == (CourseError,)
    error = CourseError("cause: cure")
    assert show(shell, CourseError, error, None) == ["CourseError: cause: cure"]
    shell._showtraceback.assert_called_once_with(CourseError, error, ["CourseError: cause: cure"])


def test_setup_works_where_ipykernel_is_imported_without_a_shell(monkeypatch):
    restore_what_setup_sets(monkeypatch)
    pretend_kernel(monkeypatch, None)
    runtime.quiet()


# run folder


def test_run_folder_has_the_documented_name_and_three_folders(cfg, tmp_path, capsys):
    before = datetime.now().replace(microsecond=0)
    run = run_folder(cfg)
    stamp, tail = run.name[:19], run.name[19:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", stamp)
    assert before <= datetime.strptime(stamp, "%Y-%m-%d_%H-%M-%S") <= datetime.now()
    assert tail == "_bert_ag-news"
    assert run.path.parent == tmp_path / "runs"
    assert not run.resumed
    assert {p.name for p in run.path.iterdir()} == {"model", "logs", "checkpoints", "settings.json"}
    assert all(folder.is_dir() and not any(folder.iterdir()) for folder in (run.model, run.logs, run.checkpoints))
    assert f"writing to runs/{run.name}" in capsys.readouterr().out


def test_a_run_is_resumed_with_the_settings_it_began_with(cfg, capsys):
    values = dict(cfg) | {"batch_size": 8, "learning_rate": 1e-3, "rows": None}
    run = run_folder(Settings("task-1/ag-news", "tiny", values))

    def again(lesson="task-1/ag-news", profile="tiny", **changes):
        return run_folder(Settings(lesson, profile, values | {"resume": run.name} | changes))

    assert again().path == run.path and again().resumed
    for changes, said in (
        ({"learning_rate": 0.5}, r"learning_rate=0\.001, and now learning_rate is 0\.5"),
        ({"batch_size": 4}, "batch_size=8, and now batch_size is 4"),
        ({"rows": 3}, "rows=None, and now rows is 3"),
        ({"lesson": "task-3/llm-sst2"}, "lesson=task-1/ag-news, and now lesson is task-3/llm-sst2"),
        ({"extra": 1}, r"extra=\(none\), and now extra is 1"),
    ):
        with pytest.raises(CourseError, match=rf"^cannot resume {run.name}: it was started with {said}; give it the settings"):
            again(**changes)
    (run.path / "settings.json").unlink()  # a folder of an older version, or made by hand
    assert again(learning_rate=0.5).resumed


def test_a_run_may_be_trained_for_longer_and_its_results_say_so(cfg, capsys):
    values = dict(cfg) | {"epochs": 2.0, "learning_rate": 1e-3}

    def again(name="", **changes):
        return run_folder(Settings("task-1/ag-news", "tiny", values | {"resume": name} | changes))

    run = again()
    assert "longer" not in session._took(run)["tables"]
    for epochs in (3.0, 3.0, 4.5):
        again(run.name, epochs=epochs)
    assert "NOTE: 2 epochs become 3; the learning rate goes on as a plan over all" in capsys.readouterr().out
    assert session._took(run)["tables"]["longer"] == [{"epochs": 2.0}, {"epochs": 3.0}]
    others = (({"epochs": 3.0}, r"epochs=4\.5, and now epochs is 3\.0"), ({"epochs": 9.0, "learning_rate": 1.0}, r"learning_rate=0\.001"))
    for changes, said in others:
        with pytest.raises(CourseError, match=f"^cannot resume {run.name}: it was started with {said}"):
            again(run.name, **changes)
    assert json.loads((run.path / "settings.json").read_text())["epochs"] == 4.5
    run.part("one")  # of several trainings those that are done would stay short
    with pytest.raises(CourseError, match=r"it was started with epochs=4\.5"):
        again(run.name, epochs=5.0)


@pytest.fixture
def stopped_clock(monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    monkeypatch.setattr(runtime, "datetime", Stopped)


def test_runs_started_in_one_second_get_folders_of_their_own(cfg, stopped_clock):
    names = [run_folder(cfg).name for _ in range(3)]
    assert names[0] == "2026-01-02_03-04-05_bert_ag-news"
    assert len(set(names)) == 3
    assert all(name.startswith(names[0]) for name in names)


def test_outputs_stand_in_the_checkout_by_default():
    assert runtime.outputs_root() == runtime.ROOT / "outputs"


def test_processes_that_start_at_the_same_moment_never_share_a_folder(cfg, stopped_clock):
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: run_folder(cfg).name, range(24)))
    assert len(set(names)) == 24


def test_a_clock_that_was_set_back_overwrites_no_run(cfg, monkeypatch):
    moments = iter([datetime(2026, 5, 2, 10, 0, 0), datetime(2026, 5, 1, 10, 0, 0), datetime(2026, 5, 2, 10, 0, 0)])

    class Unsteady(datetime):
        @classmethod
        def now(cls, tz=None):
            return next(moments)

    monkeypatch.setattr(runtime, "datetime", Unsteady)
    first = run_folder(cfg)
    (first.path / "results.json").write_text("{}")
    second, third = run_folder(cfg), run_folder(cfg)
    assert len({first.path, second.path, third.path}) == 3
    assert (first.path / "results.json").read_text() == "{}" and not (third.path / "results.json").exists()


def test_a_lone_surrogate_becomes_a_replacement_character_and_nothing_moves():
    assert runtime.encodable("a\ud800b\udfffc") == "a\ufffdb\ufffdc"
    whole = "emoji 😀, עברית, NUL \0, e\u0301"
    assert runtime.encodable(whole) == whole


def test_a_read_only_checkout_keeps_its_runs_in_the_home_and_says_so(cfg, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("COURSE_OUTPUTS")
    for home in ("HOME", "USERPROFILE"):  # of Unix and of Windows
        monkeypatch.setenv(home, str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: runtime.ROOT not in (path, *Path(path).parents))
    run = run_folder(cfg)
    assert run.path.parent == tmp_path / "fine-tuning-course-outputs"
    assert "the checkout is read-only, so runs are kept in ~/fine-tuning-course-outputs" in capsys.readouterr().out


@pytest.mark.parametrize("by", ["name", "path"])
def test_resume_goes_on_in_the_same_folder(cfg, capsys, by):
    run = run_folder(cfg)
    (run.checkpoints / "kept").write_text("x")
    again = run_folder(resume_cfg(run.name if by == "name" else str(run.path)))
    assert again.path == run.path.resolve()
    assert again.resumed
    assert (again.checkpoints / "kept").read_text() == "x"
    assert f"resuming runs/{run.name}" in capsys.readouterr().out


def test_resume_of_a_missing_folder_says_how_to_find_one(cfg):
    with pytest.raises(CourseError, match=r"cannot resume 'gone': no such run folder; `ls runs` shows the ones"):
        run_folder(resume_cfg("gone"))


def test_outputs_below_a_regular_file_are_refused(cfg, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path / "file" / "runs"))
    with pytest.raises(CourseError, match=r"cannot write to .*set COURSE_OUTPUTS to a folder you can"):
        run_folder(cfg)


@pytest.mark.parametrize(
    ("code", "cause"), [(errno.ENOSPC, "No space left on device"), (errno.EROFS, "Read-only file system")]
)
@pytest.mark.parametrize("call", ["mkdir", "write_text"])
def test_a_disk_that_takes_nothing_is_refused_with_the_cure(cfg, monkeypatch, call, code, cause):
    def refuse(self, *args, **kwargs):
        raise OSError(code, cause, str(self))

    monkeypatch.setattr(Path, call, refuse)
    with pytest.raises(CourseError, match=rf"cannot write to .*\({cause}\): free some space, or set COURSE_OUTPUTS"):
        run_folder(cfg)


def test_an_impossible_folder_name_is_refused_with_the_cure(cfg, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUTS", "x" * 300)
    with pytest.raises(CourseError, match=r"cannot write to .*set COURSE_OUTPUTS"):
        run_folder(cfg)


# progress and clock


def test_progress_appends_one_json_line_an_event(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "events"))
    runtime.progress(step=1, loss=0.5)
    runtime.progress(note="Zürich\n2")
    lines = (tmp_path / "events").read_text(encoding="utf8").splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 0.5}, {"note": "Zürich\n2"}]


def test_progress_writes_nothing_without_a_listener(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runtime.progress(step=1)
    assert list(tmp_path.iterdir()) == []


def test_run_folder_tells_the_listener_where_it_is(cfg, monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "events"))
    run = run_folder(cfg)
    assert json.loads((tmp_path / "events").read_text()) == {"run": str(run.path)}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library gives memory back in its own way")
def test_free_gives_the_heap_back_also_below_a_block_that_is_in_use():
    resident = psutil.Process().memory_info
    blocks = [torch.zeros(2_000) for _ in range(20_000)]  # 8 kB each, from the heap
    last, full = blocks[-1], resident().rss
    del blocks
    runtime.free()
    assert resident().rss < full - 100 * 2**20 and last.sum() == 0


def test_the_first_line_of_an_error_is_cut_and_never_empty():
    assert runtime.first_line(ValueError("broken\nand more")) == "broken"
    assert runtime.first_line(OSError()) == "OSError"
    assert runtime.first_line(ValueError("x" * 300), 10) == "x" * 10


def test_a_folder_whose_writer_dies_between_two_moves_is_known_as_unfinished(tmp_path, monkeypatch):
    def write(text):
        with runtime.whole_folder(tmp_path / "model", "config.json") as place:
            for name in ("config.json", "weights", "words"):
                (place / name).write_text(text)

    def read():
        return {path.name: path.read_text() for path in (tmp_path / "model").iterdir() if path.is_file()}

    write("old")
    (tmp_path / "model" / "v1").mkdir()
    (tmp_path / "model" / "v1" / "weights").write_text("another's")
    moved, replace = [], Path.replace

    def dies(self, target):
        moved.append(self.name)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as killed:
        killed.setattr(Path, "replace", dies)
        with pytest.raises(KeyboardInterrupt):
            write("new")
    assert moved == ["weights", "words"]
    assert read() == {"weights": "new", "words": "old"}
    write("new")
    assert read() == dict.fromkeys(("config.json", "weights", "words"), "new")
    assert (tmp_path / "model" / "v1" / "weights").read_text() == "another's"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
