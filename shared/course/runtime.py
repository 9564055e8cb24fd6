"""Where and how a lesson runs: profile, device, precision, seed, versions, run folder, progress.

Nothing here knows a model or a data set. These environment variables steer the course:

    COURSE_PROFILE   tiny | laptop | colab | paper  default: colab where a CUDA GPU is visible, else laptop
    COURSE_DATA      folder | "hub" | "bundled" default: bundled for tiny, the Hub for the others
    COURSE_SET       "key=value key=value"      overrides of the lesson's configuration
    COURSE_OUTPUTS   folder of the runs         default: <checkout>/outputs, in a read-only checkout HOME_OUTPUTS
    COURSE_PRECISION auto | fp32 | bf16 | fp16  default: auto, what the device does best; it is the training's, see `precision`
    COURSE_TEXTS     show | withhold            default: show; withhold keeps other people's texts out of outputs
    COURSE_PROGRESS  file                       where progress events go (set by shared.course.run)
    COURSE_REPO      git address                read by the notebooks' first cell alone: where the course is cloned from
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import functools
import gc
import json
import logging
import os
import platform
import random
import re
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.course.forkserver import BITSANDBYTES_LOGGER

if TYPE_CHECKING:
    from shared.course.settings import Settings

PROFILES = ("tiny", "laptop", "colab", "paper")
ASIDE = ("resume", "push_to_hub", "report_to")  # settings that change nothing of what is trained
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
ROOT = Path(__file__).resolve().parents[2]
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
PACKAGES = (
    "torch", "transformers", "datasets", "accelerate", "peft", "bitsandbytes", "evaluate", "scikit-learn", "numpy", "rouge_score",
    "sacrebleu", "nltk",
)  # fmt: skip


def first_line(error: BaseException, limit: int = 150) -> str:
    """What an error says, cut to one line; its kind where it says nothing."""
    return (str(error) or type(error).__name__).splitlines()[0][:limit]


def print_anything() -> None:
    """Let a terminal or a file that has no room for a character (an old console of Windows) show a ? for it instead of an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def encodable(text: str) -> str:
    """The text with U+FFFD for every lone surrogate, which is no character and makes tokenizers fail; nothing else moves."""
    return text if text.isascii() else LONE_SURROGATE.sub("\ufffd", text)


def command_line(main: Callable[[list[str] | None], int | None]) -> Callable[..., int]:
    """`main` of a command: nothing returned is exit status 0, a CourseError is its one line and 2, an interrupt is 130."""

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        print_anything()
        try:
            return main(argv) or 0
        except CourseError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            return 130

    return run


class CourseError(Exception):
    """A mistake that the reader can mend: the message names cause and cure in one line."""


def replace(source: Path, target: Path) -> None:
    """Move a file or a folder over another. Windows refuses while a program has the old one open, so there it is tried for a while."""
    for pause in (0.05, 0.1, 0.2, 0.4, 0.8) if sys.platform == "win32" else ():
        try:
            source.replace(target)
            return
        except PermissionError:
            time.sleep(pause)
    source.replace(target)


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, encoding="utf8", newline="\n")
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(folder: Path, last: str) -> Iterator[Path]:
    """A folder to write into, whose files move to `folder` when all are there; where writing fails, `folder` stays as it was.

    `last` is the file by which a reader knows a finished folder: it goes first and comes last, so whoever dies between two
    moves leaves a folder that is known as unfinished. Other files of `folder` stay.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}")
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        folder.mkdir(exist_ok=True)
        (folder / last).unlink(missing_ok=True)
        for written in sorted(temporary.iterdir(), key=lambda path: path.name == last):
            replace(written, folder / written.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def writing(place: str, cure: str = "run this cell again; what was trained is in the checkpoints") -> Iterator[None]:
    """Raise CourseError, with cause and cure, where a file cannot be written: a full disk, a folder that takes nothing, an open file."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        cause = getattr(error, "strerror", None) or first_line(error)
        first = "close the program that has it open, or make it writable," if isinstance(error, PermissionError) else "free some space"
        raise CourseError(f"cannot write to {place} ({cause}): {first} and {cure}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """True for what Python, the CPU's and the GPU's allocators raise where memory is short."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in ("out of memory", "can't allocate memory"))


@contextlib.contextmanager
def memory_for(work: str, cure: str) -> Iterator[None]:
    """Raise CourseError, with cause and cure, where the memory does not suffice for `work`."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise CourseError(f"out of memory while {work}: take {cure}") from None


def check_max_length(max_length: int, tokenizer: Any) -> None:
    """Raise CourseError where `max_length` is no length, or more tokens than the model has positions for."""
    if max_length < 1:
        raise CourseError(f"max_length {max_length} leaves no token: raise it")
    if max_length > tokenizer.model_max_length:
        raise CourseError(f"max_length {max_length} is more than the model's {tokenizer.model_max_length} positions: lower it")


def unknown(kind: str, name: str, known: list[str] | tuple[str, ...]) -> CourseError:
    """The one message for a name that does not exist, with the nearest known name first."""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return CourseError(f"unknown {kind} '{name}': {hint}known are {', '.join(known)}")


# ---------------------------------------------------------------- device and precision


def device() -> str:
    """'cuda', 'mps' or 'cpu': the best that this machine has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() and _mps_works() else "cpu"


def _mps_works() -> bool:
    """False where a Mac's GPU is shown but takes no number, as on a virtual machine; the libraries then leave it alone as well."""
    import torch

    try:
        torch.ones(1, device="mps")
        return True
    except RuntimeError:
        torch.backends.mps.is_available = lambda: False  # asked by the Trainer and by `pipeline`, which would choose it
        return False


def cpu_has_bf16() -> bool:
    """True where bfloat16 products beat fp32 on this processor: with AMX, or with AVX512-BF16 if a short trial says so.

    Emulation is slower than fp32. AVX512-BF16 alone is not enough to know: where its dot products have half the rate of
    fp32's multiply-adds (AMX machines whose AMX is hidden from a guest, say) it loses by a third.
    """
    import torch

    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    if not capabilities:  # torch < 2.13 has only the private probes
        probes = {"amx_bf16": "_is_amx_tile_supported", "avx512_bf16": "_is_avx512_bf16_supported"}
        capabilities = {name: getattr(torch.cpu, probe, bool)() for name, probe in probes.items()}
    return bool(capabilities.get("amx_bf16")) or bool(capabilities.get("avx512_bf16") and bf16_gain() > 1.2)


@functools.cache
def bf16_gain(rows: int = 1024, width: int = 768, trials: int = 5) -> float:
    """Time of a linear layer's product in fp32 over that in bfloat16 on this processor, each the fastest of `trials`.

    Args:
        rows: tokens in the product. width: features in and out. A tenth of a second in all; one measurement a process.
    """
    import torch

    fastest = {}
    for kind in (torch.float32, torch.bfloat16):
        tokens, weight = torch.ones(rows, width, dtype=kind), torch.ones(width, width, dtype=kind)
        seconds = []
        for _ in range(trials + 1):  # the first one also builds the kernel; the minimum leaves it out
            begun = time.perf_counter()
            torch.nn.functional.linear(tokens, weight)
            seconds.append(time.perf_counter() - begun)
        fastest[kind] = min(seconds)
    return fastest[torch.float32] / fastest[torch.bfloat16]


def precision(device_name: str | None = None) -> str:
    """'bf16', 'fp16' or 'fp32' for training on this device: what COURSE_PRECISION asks for, else what is fastest there.

    A T4 claims bf16 (`torch.cuda.is_bf16_supported()` counts emulation), so the compute capability decides: 8.0 and
    newer bf16, older fp16. A CPU gets bf16 only where that is faster; Apple's MPS stays at fp32. Raises CourseError for an
    unknown precision, and for fp16 without a GPU: PyTorch scales fp16 gradients on CUDA alone.
    """
    import torch

    name, forced = device_name or device(), os.environ.get("COURSE_PRECISION", "").strip().lower() or "auto"
    if forced not in PRECISIONS:
        raise unknown("COURSE_PRECISION", forced, PRECISIONS)
    if forced == "fp16" and name != "cuda":
        raise CourseError(f"COURSE_PRECISION=fp16 needs a CUDA GPU and this machine trains on {name}: set it to bf16, fp32 or auto")
    if forced != "auto":
        return forced
    if name == "cuda":
        return "bf16" if torch.cuda.get_device_capability() >= (8, 0) else "fp16"
    return "bf16" if name == "cpu" and cpu_has_bf16() else "fp32"


def device_label() -> str:
    """What the results call the device: the GPU's name, or the processor's architecture and core count."""
    import torch

    if device() == "cuda":
        return torch.cuda.get_device_name()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{device()} ({platform.machine()}, {cores} cores)"


def free() -> None:
    """Give back the memory of what was deleted: Python's reference cycles (a Trainer is one), then the GPU's or the heap's free blocks."""
    import torch

    gc.collect()
    if device() == "cuda":
        torch.cuda.empty_cache()
    elif device() == "mps":
        torch.mps.empty_cache()
    elif sys.platform == "linux":  # glibc keeps what is freed; another C library may not have the call
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)


# ---------------------------------------------------------------- profile and configuration


def profile() -> str:
    """The active profile: COURSE_PROFILE, else 'colab' where CUDA is there, else 'laptop'."""
    name = os.environ.get("COURSE_PROFILE", "").strip()
    if not name:
        return "colab" if device() == "cuda" else "laptop"
    if name not in PROFILES:
        raise unknown("profile", name, PROFILES)
    if name in ("colab", "paper") and device() != "cuda":
        raise CourseError(
            f"profile '{name}' needs a CUDA GPU and none is visible: set COURSE_PROFILE=laptop, "
            "or switch the Colab runtime to T4 (Runtime > Change runtime type)"
        )
    return name


def parse_overrides(text: str) -> dict[str, str]:
    r"""'a=1 b="two words" data=C:\x' -> {'a': '1', 'b': 'two words', 'data': 'C:\\x'}: quotes hold words together, a backslash is one."""
    pairs, reader = {}, shlex.shlex(text, posix=True, punctuation_chars=False)
    reader.whitespace_split, reader.commenters, reader.escape = True, "", ""
    try:
        words = list(reader)
    except ValueError:  # a quote that is never closed
        raise CourseError(f"cannot read the override '{text}': close the quote; write it as key=value") from None
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise CourseError(f"cannot read the override '{word}': write it as key=value")
        pairs[key.strip()] = value
    return pairs


# ---------------------------------------------------------------- start of a lesson


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (CPU and GPU)."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def versions() -> dict[str, str]:
    """The installed version of every package that a result depends on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def environment() -> dict[str, Any]:
    """The `environment` object of the results: versions, device, precision."""
    return {"versions": versions(), "device": device_label(), "precision": precision()}


def quiet() -> None:
    """No progress bars and warnings of the libraries, which break the rendering of a notebook; a CourseError is one line."""
    _show_course_errors_in_one_line()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no fork warning from the DataLoader
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # widget bars break the rendering on GitHub
    logging.getLogger(BITSANDBYTES_LOGGER).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")  # peft asks for it
    warnings.filterwarnings("ignore", message="IProgress not found")  # text bars are what a notebook on GitHub can show
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


def say_where() -> None:
    """Two lines: profile, device and precision; the versions of the libraries."""
    print(f"profile {profile()} on {device_label()}, training precision {precision()}")
    print(", ".join(f"{name} {version}" for name, version in versions().items()))


def _show_course_errors_in_one_line() -> None:
    """In a notebook, show a CourseError as its message: a traceback through the course's code helps no reader."""
    if "ipykernel" not in sys.modules:
        return
    from IPython import get_ipython

    def show(shell, kind, error, traceback, tb_offset=None):
        line = [f"CourseError: {error}"]
        shell._showtraceback(kind, error, line)
        return line

    if shell := get_ipython():  # None where ipykernel is only imported, as under pytest
        shell.set_custom_exc((CourseError,), show)


def withhold_texts() -> bool:
    """True where other people's texts must stay out of outputs and results (COURSE_TEXTS=withhold)."""
    return os.environ.get("COURSE_TEXTS", "show") == "withhold"


# ---------------------------------------------------------------- several processes that train together


def processes() -> int:
    """How many there are: what `accelerate launch` or `torchrun` set, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """True in the first of them, the one that writes and prints."""
    return int(os.environ.get("RANK", "0")) == 0


def agreed(choose: Callable[[], Any]) -> Any:
    """What `choose` returns in the main process, in every process."""
    if processes() == 1:
        return choose()
    from accelerate.utils import broadcast_object_list

    answer = [choose() if _group().is_main_process else None]
    broadcast_object_list(answer)
    return answer[0]


def by_main_process(work: Callable[[], Any]) -> None:
    """Do it in the main process alone; the others wait until it is done."""
    if is_main_process():
        work()
    if processes() > 1:
        _group().wait_for_everyone()


def _group() -> Any:
    from accelerate import PartialState

    return PartialState(cpu=device() == "cpu")


# ---------------------------------------------------------------- run folder, progress, clock


@dataclass(frozen=True)
class RunFolder:
    """`outputs/YYYY-MM-DD_HH-MM-SS_<model>_<lesson>` with the places inside it."""

    path: Path
    resumed: bool = False
    report_to: str = "none"  # the tracker of its trainings, see `tracking`

    @property
    def model(self) -> Path:
        """Where the model and its tokenizer are saved."""
        return self.path / "model"

    @property
    def logs(self) -> Path:
        """What the training said and counted."""
        return self.path / "logs"

    @property
    def checkpoints(self) -> Path:
        """The Trainer's own folder."""
        return self.path / "checkpoints"

    @property
    def checkpoint(self) -> str | None:
        """The newest complete checkpoint, for `Trainer.train(resume_from_checkpoint=...)`; None in a run that has none yet."""
        from shared.course.training import last_checkpoint

        found = last_checkpoint(self)
        return None if found is None else str(found)

    def part(self, name: str) -> RunFolder:
        """The folder of one training of several inside this run, with checkpoints and a clock of its own; made where it is missing."""
        found = RunFolder(self.path / "parts" / name, self.resumed, self.report_to)
        for folder in (found.logs, found.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        return found

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def resume(self) -> str:
        """What `--set resume=` takes: the name of the run, also where this folder is one training of several inside it."""
        run = self.path.parents[1] if self.path.parent.name == "parts" else self.path
        return run.name if run.resolve().parent == outputs_root().resolve() else str(run.resolve())


HOME_OUTPUTS = Path("~/fine-tuning-course-outputs")


def outputs_root() -> Path:
    """The folder that holds all runs: COURSE_OUTPUTS, else `outputs` in the checkout, else (read-only) one in the home."""
    inside = ROOT / "outputs"
    writable = os.access(inside if inside.is_dir() else ROOT, os.W_OK)
    return Path(os.environ.get("COURSE_OUTPUTS") or (inside if writable else HOME_OUTPUTS)).expanduser()


def run_folder(cfg: Settings) -> RunFolder:
    """A new run folder for this lesson, or the one named by the configuration key `resume`.

    Raises CourseError where the folder to resume does not exist, belongs to a run with other settings, or can't be written to.
    """
    resume = cfg.get("resume", "")
    path = outputs_root()
    try:
        path = agreed(lambda: _resumed_path(resume) if resume else _new_path(cfg))
        run = RunFolder(path, bool(resume), cfg.get("report_to", "none"))
        for folder in (run.model, run.logs, run.checkpoints):
            folder.mkdir(parents=True, exist_ok=True)
        probe = run.logs / f".write-test-{os.getpid()}"
        probe.write_text("", encoding="utf8", newline="\n")
        probe.unlink()
        by_main_process(lambda: _check_or_note_settings(cfg, run))
    except OSError as error:
        raise CourseError(
            f"cannot write to {path} ({error.strerror}): free some space, or set COURSE_OUTPUTS to a folder you can write"
        ) from None
    progress(run=str(path))
    if outputs_root() == HOME_OUTPUTS.expanduser():
        print(f"NOTE: the checkout is read-only, so runs are kept in {HOME_OUTPUTS.as_posix()}")
    print(f"{'resuming' if resume else 'writing to'} {outputs_root().name}/{run.name}")
    return run


def newest_run(lesson: str, everywhere: bool = False) -> RunFolder | None:
    """The newest complete run of a lesson ("task-1/ag-news") that kept a model; None where there is none.

    Args:
        everywhere: of any profile and any data; else of the active profile, on the lesson's own data.
    """
    for file in sorted(outputs_root().glob("*/results.json"), reverse=True):  # the names begin with the time
        made, run = json.loads(file.read_text(encoding="utf8")), RunFolder(file.parent)
        ours = everywhere or (made.get("profile") == profile() and not made.get("config", {}).get("data"))
        if made.get("lesson") == lesson and ours and any(run.model.glob("*config.json")):
            return run
    return None


def _check_or_note_settings(cfg: Settings, run: RunFolder) -> None:
    """Write down what a new run was started with; CourseError where a resumed one was started with something else.

    Else its results would claim settings under which the first part of the training did not run. More epochs are no such claim: they are
    noted as `epochs_before`, and the results say so.
    """
    note = run.path / "settings.json"
    values = {key: value for key, value in cfg.items() if key not in ASIDE}
    now = json.loads(json.dumps({"lesson": cfg.lesson, "profile": cfg.profile} | values))
    if not (run.resumed and note.is_file()):  # a run folder made by hand has no note
        write_whole(note, json.dumps(now, indent=1, ensure_ascii=False))
        return
    began = json.loads(note.read_text(encoding="utf8"))
    before = began.pop("epochs_before", [])
    longer = not (run.path / "parts").is_dir() and began.get("epochs", 0) < now.get("epochs", 0)
    if longer:
        before, began = [*before, began["epochs"]], began | {"epochs": now["epochs"]}
    for key in [*began, *(key for key in now if key not in began)]:
        then, here = (values.get(key, "(none)") for values in (began, now))
        if then != here:
            raise CourseError(
                f"cannot resume {run.name}: it was started with {key}={then}, and now {key} is {here}; give it the settings it began "
                "with, or start a new run without resume"
            )
    if longer:
        write_whole(note, json.dumps(began | {"epochs_before": before}, indent=1, ensure_ascii=False))
        print(f"NOTE: {before[-1]:g} epochs become {now['epochs']:g}; the learning rate goes on as a plan over all of them has it")


def _new_path(cfg: Settings) -> Path:
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    base = outputs_root() / f"{stamp}_{_as_file_name(cfg.model)}_{cfg.lesson.rsplit('/', 1)[-1]}"
    base.parent.mkdir(parents=True, exist_ok=True)
    path, number = base, 2
    while True:
        try:
            path.mkdir()  # fails where another run, perhaps of another process, has taken the name
            return path
        except FileExistsError:
            path, number = base.with_name(f"{base.name}-{number}"), number + 1


def _as_file_name(model: str) -> str:
    """A Hub id, or the end of a long path, without what some system has no room for in a name: / \\ : * ? " < > | and spaces."""
    return re.sub(r"[^\w.+@-]+", "-", model)[-60:].strip("-. ") or "model"


def _resumed_path(resume: str) -> Path:
    for path in (Path(resume), outputs_root() / Path(resume).name):
        if path.is_dir():
            return path.resolve()
    raise CourseError(f"cannot resume '{resume}': no such run folder; `ls {outputs_root().name}` shows the ones there are")


def progress(**event: Any) -> None:
    """Tell `shared.course.run` where the lesson is (one JSON line appended to COURSE_PROGRESS; nothing without it)."""
    target = os.environ.get("COURSE_PROGRESS")
    if target:  # whoever watched may be gone, which is no reason for a training to stop
        with contextlib.suppress(OSError), open(target, "a", encoding="utf8", newline="\n") as stream:
            stream.write(json.dumps(event) + "\n")


def memory_mb() -> float:
    """The most that the GPU had allocated since this phase began, or the process's resident set of this moment; in MiB."""
    import psutil
    import torch

    taken = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    return round(taken / 2**20, 1)
