"""What a plain Trainer needs to run alike on every device: its precision, clean ends, and what a run took.

    arguments = TrainingArguments(run.checkpoints, ..., **course.precision(model, cfg.max_length))
    trainer = Trainer(model, arguments, ..., callbacks=course.callbacks(run))
    trainer.train(resume_from_checkpoint=run.checkpoint)
"""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
import zipfile
from pathlib import Path
from types import FrameType

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, Trainer, TrainerCallback

from shared.course import runtime, tracking
from shared.course.runtime import CourseError, RunFolder

SHORT = 192  # tokens; for longer texts PyTorch's fused attention is faster in bf16 on a CPU, too (`make bench`, part library)
TRAINED = "_course_trained"  # the mark of a model that a finished training has changed


def precision_for(model: PreTrainedModel) -> str:
    """The training precision of this device and model: `runtime.precision()`, but fp32 where the architecture needs it.

    T5 was trained in bf16 and its feed-forward layers exceed fp16's largest number, 65,504: the loss becomes nan
    (https://github.com/huggingface/transformers/issues/9295). DeBERTa's first version mixes two types in its attention under
    any autocast and fails (https://github.com/huggingface/transformers/issues/35332).
    """
    precision, kind = runtime.precision(), model.config.model_type
    return "fp32" if (precision == "fp16" and "t5" in kind) or kind == "deberta" else precision


def precision(model: PreTrainedModel, max_length: int | None = None) -> dict[str, bool]:
    """The flags of TrainingArguments for this device and model; a line says so where 16 bits do not work with the architecture.

    Args:
        max_length: the most tokens that a row may have. Up to SHORT tokens, a model that trains in bf16 on a CPU is switched
            from PyTorch's fused attention, whose gradient is slow there, to the one step by step; a line says so.

    `average_tokens_across_devices` is for models that divide their loss by the tokens of all processes, as decoders do. With any
    other the Trainer would multiply the loss by the number of processes.
    """
    found, on_cpu = precision_for(model), runtime.device() == "cpu"
    if found != runtime.precision():
        print(f"a {model.config.model_type} trains in {found}: {runtime.precision()} does not work with this architecture")
    if on_cpu and found == "bf16" and max_length and max_length <= SHORT and model.config._attn_implementation == "sdpa":
        print(f"attention step by step: faster than the fused one for at most {max_length} tokens in bf16 on a CPU")
        model.set_attn_implementation("eager")
    return {
        "bf16": found == "bf16",
        "fp16": found == "fp16",
        "use_cpu": on_cpu,
        "dataloader_pin_memory": not on_cpu,
        "average_tokens_across_devices": "ForCausalLM" in type(model).__name__,
    }


def leave_autocast(model: torch.nn.Module) -> None:
    """Give a model that accelerate has prepared its own `forward` back, and let a further training prepare it again.

    For a training in 16 bits accelerate replaces `model.forward` by one under autocast, and leaves it there: the trained model
    goes on computing in 16 bits, where logits tie (8 bits of mantissa for the thousands of rows of a test), and a copy
    loaded from disk does not, so that the two disagree. The replaced method also holds the model in a reference cycle, which
    keeps a deleted model in memory until the next garbage collection. (accelerate's own
    `unwrap_model(keep_fp32_wrapper=False)` strips transformers' decorators from `forward` as well, and leaves the mark by
    which a second training would go without autocast.)
    """
    own = vars(model).pop("_original_forward", None)
    if own is not None:
        del model.forward
        if getattr(own, "__func__", None) is not type(model).forward:  # it was an attribute of this object before
            model.forward = own
    vars(model).pop("_is_accelerate_prepared", None)


def encoder_layers(model: PreTrainedModel) -> torch.nn.ModuleList:
    """The stack of transformer blocks, whatever the architecture calls it."""
    depth = model.config.num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == depth:
            return module
    raise CourseError(f"{type(model).__name__} has no list of {depth} layers: freezing is not supported for it")


def freeze_lower_layers(model: PreTrainedModel, layers: int) -> PreTrainedModel:
    """Stop training the embeddings and the lowest `layers` blocks (0 leaves the model as it is); returns the same model.

    The lowest blocks change least in fine-tuning (Lee, Tang, Lin 2019, arXiv 1911.03090), and a frozen block needs no
    backward pass, half to two thirds of its cost.
    """
    if layers == 0:
        return model
    stack = encoder_layers(model)
    if not 0 < layers < len(stack):
        raise CourseError(f"cannot freeze {layers} of {len(stack)} layers: choose 0 to {len(stack) - 1}")
    kept = {id(p) for block in stack[layers:] for p in block.parameters()}
    kept |= {id(p) for n, p in model.named_parameters() if not n.startswith(model.base_model_prefix + ".")}
    kept |= {id(p) for n, p in model.base_model.named_parameters() if n.startswith(("pooler", "final_norm"))}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    return model


def callbacks(run: RunFolder | None = None) -> list[TrainerCallback]:
    """What every lesson's Trainer gets: a clean end, a stop with cause and cure where a loss is not finite, and the run's clock.

    run: whose time and memory are noted, and whose curves go to the tracker of the setting `report_to`. None for a training beside
    the lesson's own, as in an exercise.
    """
    return [CleanEnd(run), FiniteLoss(), *([Stopwatch(run), *tracking.callbacks(run)] if run else [])]


class CleanEnd(TrainerCallback):
    """Ctrl-C finishes the step and keeps a checkpoint; the model leaves autocast; a model is not trained twice unnoticed.

    A second Ctrl-C stops at once. To train a trained model again as if it were new would be another experiment than the one
    that the cell describes, so it is refused with the way to do it.
    """

    def __init__(self, run: RunFolder | None):
        self.run = run

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        if getattr(model, TRAINED, False):
            raise CourseError("this model is trained already: run the cell that loads the model again, and those after it, to train anew")
        usual = signal.getsignal(signal.SIGINT)
        while isinstance(dead := getattr(usual, "__self__", None), CleanEnd):  # of a training that died, perhaps this one
            usual = dead.usual
        self.pressed, self.usual = threading.Event(), None
        if threading.current_thread() is threading.main_thread():  # signals reach no other
            self.usual = usual
            signal.signal(signal.SIGINT, self.interrupted)

    def interrupted(self, number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, self.usual)
        if not _inside_a_trainer(frame):  # the training died of something else, and did not come to its end
            signal.raise_signal(signal.SIGINT)
            return
        self.pressed.set()
        print("stopping after this step (press again to stop at once)")

    def on_step_end(self, args, state, control, **kwargs):
        runtime.progress(step=state.global_step, of=state.max_steps)
        if self.pressed.is_set():
            control.should_save = control.should_training_stop = True

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self.usual is not None:
            signal.signal(signal.SIGINT, self.usual)
        leave_autocast(model)
        if self.pressed.is_set():
            if self.run:
                print(f"interrupted: checkpoint-{state.global_step} is kept.", end=" ")
                print(f"Run this cell again to go on, or later with --set resume={self.run.resume}")
            raise KeyboardInterrupt
        setattr(model, TRAINED, True)


def _inside_a_trainer(frame: FrameType | None) -> bool:
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), Trainer):
            return True
        frame = frame.f_back
    return False


class FiniteLoss(TrainerCallback):
    """Stops with cause and cure where a loss is nan or infinite: every step after it would be wasted."""

    def on_train_begin(self, args, state, control, **kwargs):
        args.logging_nan_inf_filter = False  # with it the Trainer logs the mean of the losses before instead

    def on_log(self, args, state, control, logs=None, **kwargs):
        for name in ("loss", "eval_loss"):
            if not math.isfinite(float((logs or {}).get(name, 0.0))):
                raise CourseError(
                    f"the {'validation ' if name == 'eval_loss' else ''}loss is {logs[name]} at step {state.global_step}: lower "
                    f"learning_rate (now {args.learning_rate}), or train in fp32 (COURSE_PRECISION=fp32)"
                )


class Stopwatch(TrainerCallback):
    """Writes into the run's logs how many steps were timed, and what they took in seconds and memory, interruptions included."""

    def __init__(self, run: RunFolder):
        self.record = run.logs / "timed.json"

    def on_train_begin(self, args, state, control, **kwargs):
        known = state.global_step > 0 and self.record.is_file()  # a training that goes on from a checkpoint
        nothing = {"steps": 0, "seconds": 0.0, "peak_memory_mb": 0.0}
        self.before = json.loads(self.record.read_text(encoding="utf8")) if known else nothing
        if torch.cuda.is_available():  # what came before the training is not its memory
            torch.cuda.reset_peak_memory_stats()
        self.first, self.started, self.peak = state.global_step, time.perf_counter(), self.before["peak_memory_mb"]

    def on_step_end(self, args, state, control, **kwargs):
        self.peak = max(self.peak, runtime.memory_mb())

    def on_save(self, args, state, control, **kwargs):
        seconds = round(self.before["seconds"] + time.perf_counter() - self.started, 2)
        steps = self.before["steps"] + state.global_step - self.first
        timed = {"steps": steps, "of": state.global_step, "seconds": seconds, "peak_memory_mb": self.peak}
        runtime.by_main_process(lambda: runtime.write_whole(self.record, json.dumps(timed)))

    on_train_end = on_save

    def on_predict(self, args, state, control, metrics=None, **kwargs):
        """Predictions count as evaluation; `metrics` has the seconds under a name that ends with "_runtime"."""
        took = sum(value for name, value in (metrics or {}).items() if name.endswith("_runtime"))
        timed = json.loads(self.record.read_text(encoding="utf8")) if self.record.is_file() else {}
        timed["evaluate"] = round(timed.get("evaluate", 0.0) + took, 2)
        runtime.by_main_process(lambda: runtime.write_whole(self.record, json.dumps(timed)))


# ---------------------------------------------------------------- checkpoints


def last_checkpoint(run: RunFolder) -> Path | None:
    """The newest complete checkpoint; one that a kill cut off, or that was damaged later, is passed over and named."""
    found = {path: re.fullmatch(r"checkpoint-(\d+)", path.name) for path in run.checkpoints.glob("checkpoint-*") if path.is_dir()}
    for path in sorted(filter(found.get, found), key=lambda path: -int(found[path][1])):  # not the zip or the copy beside them
        if _is_whole(path):
            return path
        print(f"{path.name} is incomplete or damaged: passed over")
    return None


def _is_whole(checkpoint: Path) -> bool:
    """True where every file can be opened to its end: the state, which is written last, weights, optimiser, schedule."""
    try:
        json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf8"))
        weights = list(checkpoint.glob("*.safetensors"))
        for file in weights:
            with safe_open(file, "pt"):  # compares the header with the file's size
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return bool(weights) and all(_unpacks(file) for file in checkpoint.glob("*.pt*"))


def _unpacks(file: Path) -> bool:
    """True for a zip file, such as PyTorch writes, whose every part agrees with its checksum."""
    try:
        with zipfile.ZipFile(file) as parts:
            return parts.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
