"""Training arguments for a profile, resuming, interruption. Knows no task.

What a step costs on a CPU is decided here and in the configuration: dynamic padding with batches grouped by length,
bf16 where the processor has it, the fused AdamW kernel. `make bench` measures each against the usual recipe.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import (
    DataCollatorForSeq2Seq,
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput, TrainOutput, rotate_checkpoints

from shared import text2text
from shared.course import runtime
from shared.course.runtime import CourseError, RunFolder, first_line
from shared.course.training import Stopwatch, complete_checkpoints, last_checkpoint, leave_autocast, precision
from shared.course.training import precision_for as precision_for
from shared.legacy.runtime import Config

NO_SPACE = ("no space left", "failed writing file", "unexpected pos")  # the last two are torch.save's words for it
MODEL_KEYS = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_labels", "pooling")


def arguments(
    cfg: Config, run: RunFolder, model: PreTrainedModel, rows: int, metric: str = "loss", **overrides: Any
) -> TrainingArguments:
    """TrainingArguments for this profile, this device, this model and `rows` training rows.

    Reads epochs, batch_size, accumulate (batches a step, 1 where the lesson has no such key), learning_rate,
    evaluations_per_epoch and seed from the configuration. Several processes share a batch, so their number changes the
    speed and not the result (dropout's draws aside). A checkpoint is written at every evaluation; the best by
    `metric` on the validation rows and the last one are kept, and the best is loaded at the end. The precision is that of
    `precision_for(model)`; where it is not the device's own, a line says so.
    """
    return _on_one_gpu(TrainingArguments(**(_settings(cfg, run, model, rows, metric) | overrides)))


def seq2seq_arguments(
    cfg: Config, run: RunFolder, model: PreTrainedModel, rows: int, metric: str = "loss", **overrides: Any
) -> Seq2SeqTrainingArguments:
    """As `arguments`, for an encoder–decoder whose checks generate."""
    settings = _settings(cfg, run, model, rows, metric) | {"predict_with_generate": True}
    return _on_one_gpu(Seq2SeqTrainingArguments(**(settings | overrides)))


def _on_one_gpu(args: TrainingArguments) -> TrainingArguments:
    """One GPU for each process, however many are visible.

    The library would spread every batch over all of them by DataParallel: that trains in fp32 whatever was asked for (autocast
    does not reach its threads), slower than one GPU, and counts the loss of a packed model once for each.
    """
    args._n_gpu = min(1, args.n_gpu)
    return args


def _settings(cfg: Config, run: RunFolder, model: PreTrainedModel, rows: int, metric: str) -> dict[str, Any]:
    """What `arguments` and `seq2seq_arguments` share; the flags of `course.precision` come with it."""
    _check_settings(cfg)
    accumulate, processes = cfg.get("accumulate", 1), runtime.processes()
    if cfg.batch_size % processes:
        raise CourseError(f"batch_size={cfg.batch_size} cannot be shared by {processes} processes: choose a multiple of {processes}")
    steps_per_epoch = math.ceil(rows / (cfg.batch_size * accumulate))
    check = max(1, math.ceil(steps_per_epoch / cfg.evaluations_per_epoch))
    return {
        "output_dir": str(run.checkpoints),
        "num_train_epochs": cfg.epochs,
        "per_device_train_batch_size": cfg.batch_size // processes,
        "per_device_eval_batch_size": 2 * cfg.batch_size // processes,
        "gradient_accumulation_steps": accumulate,
        "learning_rate": cfg.learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": 0.1,  # below 1 it is a share of all steps
        "weight_decay": 0.01,
        "optim": "adamw_torch_fused",
        **precision(model),
        "train_sampling_strategy": "group_by_length",  # OrderedTrainer keeps it away from evaluation
        "eval_strategy": "steps",
        "eval_steps": check,
        "save_strategy": "steps",
        "save_steps": check,
        "save_total_limit": 2,
        "load_best_model_at_end": True,
        "metric_for_best_model": metric,
        "logging_steps": max(1, int(steps_per_epoch * cfg.epochs) // 20),
        "logging_nan_inf_filter": False,  # a loss that is not finite must be seen, not averaged away
        "seed": cfg.seed,
        "data_seed": cfg.seed,
        "report_to": "none",
        "disable_tqdm": True,
    }


def _check_settings(cfg: Config) -> None:
    for key in ("batch_size", "accumulate", "evaluations_per_epoch"):
        if (value := cfg.get(key, 1)) < 1:
            raise CourseError(f"{key}={value} trains nothing: set {key}=1 or more")
    for key in ("epochs", "learning_rate"):
        if not (0 < (value := cfg.get(key)) < math.inf):
            raise CourseError(f"{key}={value} is no positive number: set {key} to one")


# ---------------------------------------------------------------- trainer


class EpochSeededSampler(LengthGroupedSampler):
    """Length-grouped batches in a random order that depends on seed and epoch alone.

    The library's sampler draws from the global random state, so a run resumed in mid-epoch would see other batches than
    the run that was interrupted. And it hands out each fifty batches the longest first, so that short rows always come
    after long ones, and an epoch ends on the shortest. Here the batches are shuffled: only the first, the longest row's,
    keeps its place (too little memory shows at once), and the last, which may be a smaller one.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed(self.seed * 1_000 + self.epoch)
        rows = list(super().__iter__())
        first, *between = (rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size))
        last = between[-1:]
        shuffled = [between[i] for i in torch.randperm(max(0, len(between) - 1), generator=self.generator).tolist()]
        return itertools.chain(first, *shuffled, *last)


class OrderedTrainer(Trainer):
    """Trainer whose length grouping and autocast stay in training: evaluation and prediction keep the data's order, in fp32.

    In transformers 5 `train_sampling_strategy="group_by_length"` also reorders `evaluate` and `predict`; every figure
    that lines predictions up with rows (saved predictions, error analysis, SQuAD scores) is then silently wrong.
    """

    def train(self, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in Trainer; the model then computes as before, also where the training was cut off: see `leave_autocast`."""
        try:
            return super().train(*args, **kwargs)
        finally:
            self.is_in_train = False  # which the library forgets where it was cut off
            leave_autocast(self.model)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in Trainer; while training runs in its precision (a check has to be quick), at any other time in fp32."""
        if self.is_in_train:
            return super().evaluation_loop(*args, **kwargs)
        leave_autocast(self.model)  # another Trainer may have left it inside
        native_amp, self.accelerator.native_amp = self.accelerator.native_amp, False
        try:
            return super().evaluation_loop(*args, **kwargs)
        finally:
            self.accelerator.native_amp = native_amp
            leave_autocast(self.model)

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        # with several processes accelerate shards the sequential default itself
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(dataset)
        lengths = [len(ids) for ids in dataset["input_ids"]]
        if self.model.config.is_encoder_decoder:  # a target is padded too, and a token of it costs more: targets within four tokens first
            beyond = max(lengths) + 1
            lengths = [len(target) // 4 * beyond + length for target, length in zip(dataset["labels"], lengths, strict=True)]
        # of the batch that all processes share, so that their number does not change which rows a step sees
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return EpochSeededSampler(size, lengths, self.args.data_seed or self.args.seed)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Delete old checkpoints by number: the library goes by time stamps, and after a clock was set back deletes the newest."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        super()._save_checkpoint(model, trial)
        self.args.save_total_limit = limit
        if self.args.should_save:
            rotate_checkpoints(self.args.output_dir, limit, self.state.best_model_checkpoint)

    def predict(self, test_dataset: Dataset, *args: Any, **kwargs: Any) -> PredictionOutput:
        """As in Trainer; row i of the predictions belongs to row i of `test_dataset`.

        Inside, the longest rows go first, so that a batch is padded to its own length (and too little memory shows at
        once); the way back is a permutation, so no caller sees another order.
        """
        if self.args.world_size > 1 or "input_ids" not in getattr(test_dataset, "column_names", ()):
            return super().predict(test_dataset, *args, **kwargs)
        order = np.argsort([-len(ids) for ids in test_dataset["input_ids"]], kind="stable")
        with runtime.memory_for(f"predicting {self.args.eval_batch_size} rows at once", "a smaller batch_size or max_length"):
            output = super().predict(test_dataset.select(order), *args, **kwargs)
        back = np.argsort(order)
        return output._replace(predictions=_rows(output.predictions, back), label_ids=_rows(output.label_ids, back))


def _rows(values: np.ndarray | tuple | None, order: np.ndarray) -> np.ndarray | tuple | None:
    """The rows of an array, or of every array in a tuple, in another order; None stays None."""
    if values is None:
        return None
    return tuple(_rows(part, order) for part in values) if isinstance(values, tuple) else values[order]


def trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: TrainingArguments,
    encoded: dict[str, Dataset],
    scores: Callable[[EvalPrediction], dict[str, float]] | None,
    patience: int,
    kind: type[OrderedTrainer] = OrderedTrainer,
    **settings: Any,
) -> OrderedTrainer:
    """The Trainer of an encoder lesson: batches padded to their longest row, early stopping, a line per log.

    `encoded` has the encoded rows under "train" and "validation"; `scores` is the Trainer's compute_metrics, None for the
    loss alone; `settings` are further arguments of the Trainer, for example compute_loss_func or another data_collator.
    """
    settings.setdefault("data_collator", DataCollatorWithPadding(tokenizer))
    if model.config.is_encoder_decoder:
        # their losses are means over the batch, but the Trainer takes their **kwargs for a promise to divide by the whole step's tokens
        model.accepts_loss_kwargs = False
    return kind(
        model=model,
        args=args,
        train_dataset=encoded["train"],
        eval_dataset=encoded["validation"],
        processing_class=tokenizer,
        compute_metrics=scores,
        callbacks=callbacks(patience),
        **settings,
    )


def adamw_by_size(model: PreTrainedModel, rate: float) -> tuple[type[torch.optim.Optimizer], dict[str, Any]]:
    """AdamW that moves every weight by a share of its matrix's size, as `optimizer_cls_and_kwargs` of a new Trainer.

    Args:
        model: as it is before its first step; a matrix's size is the root mean square of its values then.
        rate: the share, for example 0.01; the schedule scales it as it scales a learning rate.

    An Adam step is about as large as the learning rate, whatever the weight. A T5 begins with embeddings of size 1 and queries of size
    0.008, so that one rate for both is too small for the former or too large for the latter. Adafactor, which T5 was trained with,
    multiplies the rate by the matrix's size (Shazeer, Stern 2018, arXiv 1804.04235, section 8; its least size, 0.001, is taken over);
    nanoT5 (Nawrot 2023, arXiv 2309.02373) found this to be what plain AdamW lacks. Nothing decays.
    """
    sized = [(weight, weight.detach().float().square().mean().sqrt().item()) for weight in model.parameters() if weight.requires_grad]
    groups = [{"params": [weight], "lr": rate * max(size, 1e-3), "weight_decay": 0.0} for weight, size in sized]
    return torch.optim.AdamW, {"params": groups, "fused": True}


def weighted_loss(positive_weight: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The `compute_loss_func` of a multi-label Trainer: binary cross-entropy with a weight for each label's positive rows.

    Args:
        positive_weight: [labels]; 1 leaves a label as it is (torch.nn.BCEWithLogitsLoss, `pos_weight`).

    The loss is a mean over rows and labels. With accumulated batches the Trainer says how many decisions the whole step
    has, and leaves dividing by them to this function; a mean over each batch would be as many times too large.
    """
    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        total = torch.nn.functional.binary_cross_entropy_with_logits(
            outputs.logits.float(), labels, pos_weight=positive_weight.to(labels.device), reduction="sum"
        )
        return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)

    return loss


class OrderedSeq2SeqTrainer(OrderedTrainer, Seq2SeqTrainer):
    """Seq2SeqTrainer with the guarantees of OrderedTrainer: what is generated for row i stands in row i, always.

    Its predictions are token ids: behind a row's end stands padding, and where batches differ in width -100, on which
    tokenizers fail. `text2text.decode` takes both.
    """

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in Trainer; a Seq2SeqTrainer would keep the rows by which several processes fill their last batches up."""
        self.gather_function = self.accelerator.gather_for_metrics
        return super().evaluation_loop(*args, **kwargs)


def seq2seq_trainer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    args: Seq2SeqTrainingArguments,
    encoded: dict[str, Dataset],
    scores: Callable[[EvalPrediction], dict[str, float]] | None,
    patience: int,
    *,
    max_new_tokens: int,
    check_rows: int | None = None,
    **settings: Any,
) -> OrderedSeq2SeqTrainer:
    """The Trainer of a text-to-text lesson: labels padded with -100, checks that generate, early stopping, a line per log.

    Args:
        encoded: rows of `text2text.encode_pairs` under "train" and "validation".
        scores: the Trainer's compute_metrics; `predictions` are generated token ids, a row each, in the rows' order.
        max_new_tokens: where generation ends at the latest.
        check_rows: the checks during training look at so many validation rows, the first ones; None for all. Generating
            costs a pass through the decoder per token, a training step one per row.
        settings: further arguments of the Trainer.

    Sets `model.generation_config` to `text2text.explicit_generation`: the checkpoint's own settings (BART-base: four
    beams and no repeated trigram) and the library's default of 20 tokens would both slip into the scores unsaid.
    """
    model.generation_config = text2text.explicit_generation(model, tokenizer, max_new_tokens)
    settings.setdefault("data_collator", DataCollatorForSeq2Seq(tokenizer, model=model, label_pad_token_id=text2text.IGNORED))
    validation = encoded["validation"]
    if check_rows is not None and check_rows < len(validation):
        validation = validation.select(range(check_rows))
    return trainer(
        model, tokenizer, args, encoded | {"validation": validation}, scores, patience, kind=OrderedSeq2SeqTrainer, **settings
    )


class Reporter(TrainerCallback):
    """Prints a line per log, feeds the live progress line, stops on a loss that is not finite."""

    def __init__(self, stream: Callable[[str], None] = print):
        self.stream, self.told, self.started = stream, 0.0, time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if time.perf_counter() - self.told > 0.5:
            self.told = time.perf_counter()
            runtime.progress(step=state.global_step, of=state.max_steps)

    def on_log(self, args, state, control, logs=None, **kwargs):
        logs = logs or {}
        seconds = time.perf_counter() - self.started
        if "loss" in logs:
            if not math.isfinite(float(logs["loss"])):
                raise CourseError(
                    f"the loss is {logs['loss']} at step {state.global_step}: lower learning_rate (now "
                    f"{args.learning_rate}), or train in fp32 (COURSE_PRECISION=fp32)"
                )
            self.stream(f"step {state.global_step:>5}/{state.max_steps}  loss {float(logs['loss']):.4f}  {seconds:6.0f} s")
        elif "eval_loss" in logs:
            if not math.isfinite(float(logs["eval_loss"])):
                raise CourseError(
                    f"the validation loss is {logs['eval_loss']} at step {state.global_step}: lower learning_rate (now "
                    f"{args.learning_rate}), train in fp32 (COURSE_PRECISION=fp32), or look for a validation row without a token to "
                    "predict"
                )
            keys = [k for k in logs if k.startswith("eval_") and k.split("_")[-1] not in ("runtime", "second")]
            self.stream("   validation: " + "  ".join(f"{k[5:]} {float(logs[k]):.4f}" for k in keys))


def callbacks(patience: int) -> list[TrainerCallback]:
    """Early stopping after `patience` evaluations without a better score, and the reporter."""
    return [EarlyStoppingCallback(early_stopping_patience=patience), Reporter()]


# ---------------------------------------------------------------- fit, resume, interrupt


def fit(trainer: Trainer, run: RunFolder) -> list[dict[str, float]]:
    """Train, or go on from the run folder's last checkpoint; returns the learning curve (the Trainer's log history).

    Ctrl-C finishes the step, writes a checkpoint and prints the line that resumes; a second Ctrl-C stops at once. Called again
    after that, it goes on. Raises CourseError where this training is finished already, where the checkpoint belongs to
    another model, memory or disk are full, or the loss is not finite.
    """
    if (earlier := getattr(trainer, "fitted", None)) == "finished":
        raise CourseError("this training is finished: run the cells again from the one that loads the model to train anew")
    trainer.remove_callback(PrinterCallback)
    checkpoint = last_checkpoint(run) if run.resumed or earlier == "interrupted" else None
    if run.resumed and not checkpoint:
        print("no whole checkpoint is left: training starts from the beginning")
    if checkpoint:
        check_same_model(checkpoint, trainer.model)
        print(f"going on from {checkpoint.name}")
        _keep_patience(trainer, checkpoint)
    with _interruptible(trainer) as interrupted, _timed(trainer, run), _short_of_room(trainer.args, run):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.fitted = "interrupted" if interrupted.is_set() else "finished"
    if interrupted.is_set():
        print(f"interrupted: {last_checkpoint(run).name} is kept. Go on with --set resume={run.resume}")
        raise KeyboardInterrupt
    history = [_finite(row) for row in trainer.state.log_history]
    text = json.dumps(history, indent=1, allow_nan=False)
    runtime.by_main_process(lambda: runtime.write_whole(run.logs / "history.json", text))
    return history


def _finite(row: dict[str, float]) -> dict[str, float]:
    """The log's values that are numbers: in fp16 the first gradients overflow, by design, until the scaler has found its scale."""
    return {key: value for key, value in row.items() if not isinstance(value, float) or math.isfinite(value)}


def _keep_patience(trainer: Trainer, checkpoint: Path) -> None:
    """Go on counting the evaluations without a better score where the checkpoint left off; the library begins at none.

    (Its own `restore_callback_states_from_checkpoint` makes every callback anew, without the arguments that ours need.)
    """
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf8"))
    kept = state.get("stateful_callbacks", {}).get("EarlyStoppingCallback", {}).get("attributes", {})
    for callback in trainer.callback_handler.callbacks:
        if isinstance(callback, EarlyStoppingCallback):
            callback.early_stopping_patience_counter = kept.get("early_stopping_patience_counter", 0)
            if callback.early_stopping_patience_counter >= callback.early_stopping_patience:
                trainer.add_callback(_StopAtOnce())
                return


class _StopAtOnce(TrainerCallback):
    """Ends a training that had stopped early before it was resumed. One step is made, whose weights give way to the best ones."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = True
        control.should_evaluate = control.should_save = False


@contextmanager
def _short_of_room(args: TrainingArguments, run: RunFolder) -> Iterator[None]:
    """Name cause and cure where memory or disk are full; the libraries have an error type of their own for nearly each case."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError, SafetensorError) as error:
        said = str(error).lower()
        if runtime.is_out_of_memory(error):
            batch, accumulate = args.train_batch_size * args.world_size, args.gradient_accumulation_steps
            values = f"batch_size={batch // 2} accumulate={accumulate * 2}, which takes {'as many' if batch % 2 == 0 else 'nearly as many'}"
            if run.resume != run.name:  # a training inside the run, whose batch the lesson has derived from its key
                values = "batch_size to half of what it is and accumulate to twice that, which takes as many"
            smaller = f"set {values} rows a step, or"
            raise CourseError(
                f"out of memory with batch_size={batch} accumulate={accumulate}: {smaller if batch > 1 else 'set'} a smaller "
                f"max_length or model; resume={run.resume} goes on from the last checkpoint, if there is one"
            ) from None
        if getattr(error, "errno", None) == errno.ENOSPC or any(words in said for words in NO_SPACE):
            raise CourseError(
                f"the disk is full, so no checkpoint could be written ({first_line(error)}): free some space, then go on from the "
                f"one before it with --set resume={run.resume}"
            ) from None
        raise


def average_checkpoints(model: PreTrainedModel, run: RunFolder, last: int) -> list[str]:
    """Give `model` the mean of the weights of the newest `last` checkpoints; returns their names, the newest first.

    As in the Transformer paper (Vaswani et al. 2017, section 6.1), whose base models are the mean of the last 5. The run
    must have kept that many: pass save_total_limit=last + 1 to `arguments`, since the best one takes a place. Where there
    are fewer, all are averaged. Raises CourseError for a run without a checkpoint, and for one of another model.
    """
    if last < 1:
        raise CourseError(f"cannot average {last} checkpoints: choose 1 or more")
    chosen = list(itertools.islice(complete_checkpoints(run), last))
    if not chosen:
        raise CourseError(f"{run.name} has no checkpoint to average: train first, with save_total_limit={last + 1}")
    mean: dict[str, torch.Tensor] = {}
    for path in chosen:
        check_same_model(path, model)
        for name, weights in load_file(path / "model.safetensors").items():
            mean[name] = mean.get(name, 0) + weights.double() / len(chosen)
    differing = model.load_state_dict(mean, strict=False)  # copied into the model's own type
    given = {value.data_ptr() for name, value in model.state_dict().items() if name in mean}
    lost = [name for name in differing.missing_keys if model.state_dict()[name].data_ptr() not in given]  # the rest is tied
    if lost or differing.unexpected_keys:
        raise CourseError(f"{chosen[0].name} does not fit the model ({[*lost, *differing.unexpected_keys][0]}): train it again")
    return [path.name for path in chosen]


def check_same_model(checkpoint: Path, model: torch.nn.Module) -> None:
    """CourseError where the checkpoint was written by another architecture, size or number of labels, or by other adapters."""
    if not (checkpoint / "config.json").is_file():  # adapters are saved without the model that they belong to
        return _check_same_adapters(checkpoint, model)
    saved = json.loads((checkpoint / "config.json").read_text(encoding="utf8"))
    config = type(model.config).from_dict(saved)
    if saved.get("model_type") != model.config.model_type:
        differs = "model_type"
    else:
        differs = next((k for k in MODEL_KEYS if getattr(config, k, None) != getattr(model.config, k, None)), None)
    if differs:
        theirs = saved.get("model_type") if differs == "model_type" else getattr(config, differs, None)
        raise CourseError(
            f"{checkpoint.name} was written by another model ({differs} {theirs}, this one has "
            f"{getattr(model.config, differs, None)}): resume it with the model and data of that run, or start a new run"
        )


def _check_same_adapters(checkpoint: Path, model: torch.nn.Module) -> None:
    saved = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf8"))
    here = model.peft_config["default"].to_dict() if hasattr(model, "peft_config") else {}
    for key in ("r", "lora_alpha", "target_modules"):
        theirs, ours = (sorted(value) if isinstance(value, list | set) else value for value in (saved.get(key), here.get(key)))
        if theirs != ours:
            raise CourseError(
                f"{checkpoint.name} was written with other adapters ({key} {theirs}, this model has {ours}): resume it with the "
                "configuration of that run, or start a new run"
            )


@contextmanager
def _timed(trainer: Trainer, run: RunFolder) -> Iterator[None]:
    """A `Stopwatch` for this training alone."""
    watch = Stopwatch(run)
    trainer.add_callback(watch)
    try:
        yield
    finally:
        trainer.remove_callback(watch)


@contextmanager
def _interruptible(trainer: Trainer) -> Iterator[threading.Event]:
    """Turn the first SIGINT into 'save and stop after this step'; give the second one its usual meaning."""
    pressed = threading.Event()
    stop = _StopWhenSet(pressed)
    trainer.add_callback(stop)
    if threading.current_thread() is not threading.main_thread():
        yield pressed  # signals reach the main thread only
        return
    usual = signal.getsignal(signal.SIGINT)

    def on_interrupt(number, frame):
        pressed.set()
        signal.signal(signal.SIGINT, usual)
        print("stopping after this step (press again to stop at once)")

    signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield pressed
    finally:
        signal.signal(signal.SIGINT, usual)
        trainer.remove_callback(stop)  # or a second call would stop after a step


class _StopWhenSet(TrainerCallback):
    def __init__(self, pressed: threading.Event):
        self.pressed = pressed

    def on_step_end(self, args, state, control, **kwargs):
        if self.pressed.is_set():
            control.should_save = control.should_training_stop = True
