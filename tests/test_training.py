"""Training: arguments, order of evaluation, learning, and what survives a kill or a Ctrl-C."""

import errno
import json
import math
import os
import re
import signal
import subprocess
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import DataCollatorForSeq2Seq, TrainerCallback

from shared import metrics, qa
from shared.course import forkserver, runtime
from shared.course.runtime import ROOT, CourseError, RunFolder
from shared.legacy import data, models, seq2seq, training
from shared.legacy import report as old_report
from shared.legacy.runtime import Clock
from tests.tiny_training import BERT, config, trainer_for


@pytest.fixture
def run(tmp_path, monkeypatch) -> RunFolder:
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    return runtime.run_folder(config())


@pytest.fixture
def exact(monkeypatch) -> None:
    """For tests of arithmetic, which ask for more digits than 16 bits have."""
    monkeypatch.setenv("COURSE_PRECISION", "fp32")


class Recorded(dict):
    """Stands in for TrainingArguments, which refuses fp16 on a machine without a GPU."""

    n_gpu = 1

    def __init__(self, **kwargs):
        super().__init__(kwargs)


@pytest.mark.parametrize(
    ("precision", "device", "flags"),
    [("bf16", "cuda", (True, False)), ("fp16", "cuda", (False, True)), ("fp32", "cpu", (False, False)), ("bf16", "cpu", (True, False))],
)
def test_precision_reaches_the_arguments(monkeypatch, run, precision, device, flags):
    monkeypatch.setattr(training.runtime, "precision", lambda: precision)
    monkeypatch.setattr(training.runtime, "device", lambda: device)
    monkeypatch.setattr(training, "TrainingArguments", Recorded)
    found = training.arguments(config(), run, BERT, rows=48)
    assert (found["bf16"], found["fp16"]) == flags
    assert found["use_cpu"] == (device == "cpu")


def test_arguments_follow_the_configuration(run):
    found = training.arguments(config(), run, BERT, rows=50, metric="macro_f1")
    assert found.eval_steps == found.save_steps == 3  # 7 steps an epoch, 3 checks
    assert (found.train_sampling_strategy, found.optim.value) == ("group_by_length", "adamw_torch_fused")
    assert (found.load_best_model_at_end, found.metric_for_best_model, found.save_total_limit) == (True, "macro_f1", 2)
    assert (found.seed, found.data_seed, found.report_to) == (0, 0, [])
    assert found.get_warmup_steps(100) == 10
    assert Path(found.output_dir) == run.checkpoints


def test_batches_are_grouped_by_length_and_depend_on_seed_and_epoch():
    lengths = np.random.default_rng(0).integers(5, 100, 600).tolist()
    sampler = training.EpochSeededSampler(8, lengths, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(600))
    assert list(sampler) == first == list(training.EpochSeededSampler(8, lengths, seed=1))
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert list(training.EpochSeededSampler(8, lengths, seed=2)) != first

    def padded(order):
        return sum(8 * max(lengths[i] for i in order[k : k + 8]) for k in range(0, 600, 8))

    assert padded(first) < 1.1 * sum(lengths) < 0.8 * padded(list(range(600)))


def test_short_batches_do_not_always_follow_long_ones():
    lengths = np.random.default_rng(0).integers(5, 100, 603).tolist()
    order = list(training.EpochSeededSampler(8, lengths, seed=1))
    longest = [max(lengths[i] for i in order[k : k + 8]) for k in range(0, 603, 8)]
    assert longest[0] == max(lengths), "too little memory must show in the first step"
    falls = np.mean(np.diff(longest) < 0)
    assert 0.3 < falls < 0.7, f"{falls:.0%} of the batches are shorter than the one before"
    thirds = [np.mean(part) for part in np.array_split(longest, 3)]
    assert max(thirds) - min(thirds) < 20
    assert sorted(training.EpochSeededSampler(8, [3, 2, 1], seed=1)) == [0, 1, 2]  # fewer rows than a batch


def test_the_batches_of_an_encoder_decoder_are_grouped_by_target_and_source():
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(20, 200, 640), rng.integers(2, 24, 640)
    rows = {"input_ids": [[1] * n for n in sources], "labels": [[1] * n for n in targets]}
    arguments = types.SimpleNamespace(
        train_sampling_strategy="group_by_length", train_batch_size=8, gradient_accumulation_steps=1, world_size=1, data_seed=0, seed=0
    )

    def padded(encoder_decoder):
        """Padded over true tokens, of the sources and of the targets."""
        model = types.SimpleNamespace(config=types.SimpleNamespace(is_encoder_decoder=encoder_decoder))
        trainer = types.SimpleNamespace(args=arguments, model=model)
        order = np.array(list(training.OrderedTrainer._get_train_sampler(trainer, rows))).reshape(-1, 8)
        return [8 * lengths[order].max(1).sum() / lengths.sum() for lengths in (sources, targets)]

    by_source, by_both = padded(False), padded(True)
    assert by_both[1] < 1.3 < 1.6 < by_source[1] and by_both[0] < 1.4


def test_evaluation_keeps_the_order_of_the_data(run):
    from transformers import Trainer

    trainer = trainer_for(config(), run, rows=60)
    rows = trainer.eval_dataset
    assert trainer.args.train_sampling_strategy == "group_by_length"
    output = trainer.predict(rows)
    assert output.label_ids.tolist() == list(rows["labels"])
    alone = trainer.predict(rows.select([17])).predictions[0]
    np.testing.assert_allclose(output.predictions[17], alone, atol=1e-5)
    plain = Trainer(model=trainer.model, args=trainer.args, eval_dataset=rows, data_collator=trainer.data_collator,
                    processing_class=trainer.processing_class)
    assert plain.predict(rows).label_ids.tolist() != list(rows["labels"]), "the trap is gone: the lesson's pitfall cell needs a new text"


def test_prediction_pads_less_and_gives_what_the_plain_order_gives(run):
    trainer = trainer_for(config(), run, rows=60)
    rows = trainer.eval_dataset.map(lambda row, i: {key: row[key][: 8 + i % 40] for key in KEYS}, with_indices=True)
    padded = []
    collate = trainer.data_collator
    trainer.data_collator = lambda batch: padded.append((inputs := collate(batch))["input_ids"].numel()) or inputs
    sorted_within = trainer.predict(rows)
    tokens = [padded.copy(), padded.clear()][0]
    plain = super(training.OrderedTrainer, trainer).predict(rows)
    assert plain.label_ids.tolist() == list(rows["labels"])
    np.testing.assert_allclose(sorted_within.predictions, plain.predictions, atol=1e-5)
    assert sum(tokens) < 0.95 * sum(padded) and tokens == sorted(tokens, reverse=True)


def test_prediction_of_spans_brings_both_logits_back_in_order(run):
    rows = data.load_split("squad", "validation", 12)
    model, tokenizer, _ = models.load_encoder("bert", "random", None, head="spans", tokenizer_texts=list(rows["context"]))
    features = qa.train_features(rows, tokenizer, 64, 16)
    trainer = training.trainer(model, tokenizer, training.arguments(config(), run, model, rows=12, **ONCE),
                               {"train": features, "validation": features}, None, 2, data_collator=qa.collator(tokenizer))
    found = trainer.predict(features)
    for number in (0, len(features) // 2, len(features) - 1):
        alone = trainer.predict(features.select([number]))
        length = len(features[number]["input_ids"])
        for both, one, label, name in zip(found.predictions, alone.predictions, found.label_ids, ("start", "end"), strict=True):
            np.testing.assert_allclose(both[number][:length], one[0][:length], atol=1e-5)
            assert label[number] == features[number][f"{name}_positions"]


def test_overfits_sixteen_rows(run):
    trainer = trainer_for(config(epochs=60.0, hidden_dropout=0.0, learning_rate=2e-3), run, rows=16,
                          eval_strategy="no", save_strategy="no", load_best_model_at_end=False, logging_steps=60)
    history = training.fit(trainer, run)
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[-1] < 0.1 < 0.3 < losses[0]
    assert json.loads((run.logs / "history.json").read_text()) == history


@pytest.mark.parametrize("name", ["bert", "distilbert", "roberta", "xlnet", "deberta", "modernbert"])
def test_every_model_of_the_switch_trains_and_reloads(run, name):
    trainer = trainer_for(config(model=name), run, rows=16, max_steps=2, eval_strategy="no", save_strategy="no",
                          load_best_model_at_end=False)
    before = {key: value.detach().clone() for key, value in trainer.model.named_parameters()}
    training.fit(trainer, run)
    assert trainer.state.global_step == 2
    same = [key for key, value in trainer.model.named_parameters() if torch.equal(value.detach(), before[key])]
    assert len(same) < 0.2 * len(before), f"not trained: {same}"  # XLNet: what serves pre-training and segments
    texts = ["Shares fell in Tokyo.", "A late goal decided the final on Sunday night in Lisbon."]
    models.save(trainer.model, trainer.processing_class, run.model)
    again = models.classify(*models.load_saved(run.model), texts)
    for old, new in zip(models.classify(trainer.model, trainer.processing_class, texts), again, strict=True):
        assert [label for label, _ in old] == [label for label, _ in new]
        assert [score for _, score in old] == pytest.approx([score for _, score in new], abs=1e-5)
        assert sum(score for _, score in new) == pytest.approx(1) and [s for _, s in new] == sorted((s for _, s in new), reverse=True)


def test_best_checkpoint_is_loaded_and_two_are_kept(run):
    trainer = trainer_for(config(epochs=3.0), run)
    training.fit(trainer, run)
    best = max(row["eval_macro_f1"] for row in trainer.state.log_history if "eval_macro_f1" in row)
    assert trainer.evaluate()["eval_macro_f1"] == pytest.approx(best)
    assert 1 <= len(list(run.checkpoints.glob("checkpoint-*"))) <= 2


def test_early_stopping_stops(run):
    trainer = trainer_for(config(epochs=30.0, learning_rate=1e-12), run, extra=training.callbacks(patience=2)[:1])
    training.fit(trainer, run)
    assert trainer.state.global_step < 30  # 180 without early stopping


def test_a_process_trains_on_one_gpu_however_many_are_visible(run, monkeypatch):
    """The count that the library found is replaced; tests/test_pretended_gpu.py has two of them in sight."""
    for name in ("TrainingArguments", "Seq2SeqTrainingArguments"):
        made = getattr(training, name)

        def with_two(make=made, **settings):
            args = make(**settings)
            args._n_gpu = 2
            return args

        monkeypatch.setattr(training, name, with_two)
    for make in (training.arguments, training.seq2seq_arguments):
        args = make(config(batch_size=7), run, BERT, rows=16)
        assert (args.n_gpu, args.per_device_train_batch_size, args.train_batch_size) == (1, 7, 7)


def test_a_loss_that_is_not_finite_stops_with_the_cure(run):
    trainer = trainer_for(config(), run)
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(CourseError, match=r"^the loss is nan at step 1: lower learning_rate .*fp32"):
        training.fit(trainer, run)


def test_so_does_a_validation_loss_that_is_not_finite(run):
    trainer = trainer_for(config(), run)
    with torch.no_grad():
        trainer.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(CourseError, match=r"^the validation loss is nan at step 0: lower learning_rate .* validation row"):
        trainer.evaluate()


# ---------------------------------------------------------------- the Trainer of a lesson


KEYS = ("input_ids", "token_type_ids", "attention_mask")
ONCE = {"eval_steps": 10_000, "save_strategy": "no", "load_best_model_at_end": False}  # early stopping wants some strategy


def lesson(run, name, rows=16, cfg=None, scores=metrics.trainer_scores, patience=2, arguments=None, settings=None):
    """A lesson's Trainer on `rows` bundled rows, which are also its validation rows, with a mean-pooled tiny BERT."""
    cfg, spec = cfg or config(), data.SPECS[name]
    train = data.load_split(name, "train", rows)
    texts = [text for column in spec.texts for text in train[column]]
    problem = {"problem_type": "multi_label_classification"} if spec.multi_label else {}
    model, tokenizer, _ = models.load_encoder(
        "bert", "random", spec.names, tokenizer_texts=texts, pooling="mean", hidden_dropout=0.0, attention_dropout=0.0, **problem
    )
    encoded = data.encode(train, tokenizer, 48)
    args = training.arguments(cfg, run, model, rows=len(train), **({"logging_steps": 1} | (arguments or {})))
    both = {"train": encoded, "validation": encoded}
    return training.trainer(model, tokenizer, args, both, scores, patience, **(settings or {}))


def test_trainer_pads_each_batch_to_its_longest_row_and_scores_in_order(run):
    trainer = lesson(run, "rte")
    assert isinstance(trainer, training.OrderedTrainer)
    rows = trainer.eval_dataset
    for batch, start in zip(trainer.get_eval_dataloader(), range(0, 16, 16), strict=True):
        lengths = [len(ids) for ids in rows["input_ids"][start : start + 16]]
        assert batch["input_ids"].shape == (16, max(lengths))
        assert batch["attention_mask"].sum(1).tolist() == lengths
    output = trainer.predict(rows)
    assert output.label_ids.tolist() == list(rows["labels"])
    expected = metrics.trainer_scores(output)
    assert {key: output.metrics[f"test_{key}"] for key in expected} == expected


def test_trainer_takes_another_collator_and_does_without_scores(run):
    def marked(rows):
        raise RuntimeError(f"{len(rows)} rows came here")

    trainer = lesson(run, "rte", scores=None, settings={"data_collator": marked})
    assert trainer.compute_metrics is None
    with pytest.raises(RuntimeError, match="16 rows came here"):
        next(iter(trainer.get_eval_dataloader()))


def test_trainer_hands_the_token_types_of_pairs_to_a_mean_pooled_model(run):
    trainer = lesson(run, "mnli")
    rows, seen = trainer.train_dataset, []
    trainer.model.bert.embeddings.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["token_type_ids"].tolist()), with_kwargs=True
    )
    trainer.predict(rows)
    width = max(map(len, rows["token_type_ids"]))
    assert sorted(seen[0]) == sorted([*ids, *[0] * (width - len(ids))] for ids in rows["token_type_ids"]) and len(seen) == 1
    assert all(set(ids) == {0, 1} for ids in rows["token_type_ids"])
    for batch in trainer.get_train_dataloader():
        assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_trainer_stops_after_as_many_checks_without_a_better_score(run):
    trainer = lesson(run, "rte", cfg=config(epochs=30.0, learning_rate=1e-12, evaluations_per_epoch=1), patience=2,
                     arguments={"metric": "macro_f1"})
    training.fit(trainer, run)
    assert trainer.state.global_step == 6  # 2 steps an epoch; the first check is the best, then two without a better one


@pytest.mark.parametrize(("patience", "steps"), [(2, 7), (3, 8)])
def test_a_resumed_run_counts_on_until_its_patience_is_over(run, patience, steps):
    """It stopped at step 6, after two checks without a better one: with the same patience nothing is left to do (one step is
    made and given up), with one check more patience it is the third such check, at step 8, that ends it."""
    options = {"cfg": config(epochs=30.0, learning_rate=1e-12, evaluations_per_epoch=1), "arguments": {"metric": "macro_f1"}}
    first = lesson(run, "rte", patience=2, **options)
    training.fit(first, run)
    again = lesson(run, "rte", patience=patience, **options)
    training.fit(again, RunFolder(run.path, resumed=True))
    assert again.state.global_step == steps
    for key, weight in first.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[key], weight, atol=1e-6, rtol=0)


def test_weights_of_one_are_the_plain_loss_and_larger_ones_count_positive_rows_as_often(run):
    logits, labels = torch.randn(5, 28), (torch.rand(5, 28) < 0.2).float()
    outputs = types.SimpleNamespace(logits=logits)
    plain = torch.nn.functional.binary_cross_entropy_with_logits
    assert training.weighted_loss(torch.ones(28))(outputs, labels).item() == pytest.approx(plain(logits, labels).item())
    weight = torch.arange(1.0, 29.0)
    counted = sum(
        math.log1p(math.exp(-z)) * w if y else math.log1p(math.exp(z))
        for row, golds in zip(logits.tolist(), labels.tolist(), strict=True)
        for z, y, w in zip(row, golds, weight.tolist(), strict=True)
    )
    assert training.weighted_loss(weight)(outputs, labels).item() == pytest.approx(counted / labels.numel(), rel=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"batch_size": 0}, "batch_size=0 trains nothing: set batch_size=1 or more"),
        ({"evaluations_per_epoch": 0}, "evaluations_per_epoch=0 trains nothing: set evaluations_per_epoch=1 or more"),
        ({"accumulate": -1}, "accumulate=-1 trains nothing: set accumulate=1 or more"),
        ({"epochs": 0.0}, "epochs=0.0 is no positive number: set epochs to one"),
        ({"learning_rate": math.nan}, "learning_rate=nan is no positive number: set learning_rate to one"),
    ],
)
def test_settings_that_cannot_train_are_told(run, values, message):
    with pytest.raises(CourseError, match=f"^{re.escape(message)}$"):
        training.arguments(config(**values), run, BERT, rows=8)


def test_trainer_passes_further_settings_on(run):
    seen = []

    def loss(outputs, labels, num_items_in_batch=None):
        seen.append(labels.shape)
        return 5 + torch.nn.functional.cross_entropy(outputs.logits, labels)

    trainer = lesson(run, "rte", arguments=ONCE | {"max_steps": 1}, settings={"compute_loss_func": loss})
    history = training.fit(trainer, run)
    assert seen[0] == (8,)
    assert history[0]["loss"] == pytest.approx(5 + np.log(2), abs=0.1)


def test_mean_pooled_pairs_are_learnt_by_heart(run):
    trainer = lesson(run, "mnli", rows=9, cfg=config(epochs=15.0, learning_rate=3e-3), arguments=ONCE)
    training.fit(trainer, run)
    assert trainer.evaluate()["eval_accuracy"] == 1.0
    models.save(trainer.model, trainer.processing_class, run.model)
    loaded, _ = models.load_saved(run.model)
    batch = next(iter(trainer.get_eval_dataloader()))
    with torch.inference_mode():
        assert torch.equal(loaded(**batch).logits, trainer.model.eval()(**batch).logits)


def test_multi_label_rows_are_learnt_until_every_label_ranks_its_rows_first(run):
    """The probabilities of a short training stay far below 0.5; what it learnt shows with thresholds of the labels' own."""
    trainer = lesson(run, "go_emotions", cfg=config(epochs=15.0, learning_rate=2e-3), arguments=ONCE,
                     scores=metrics.multilabel_trainer_scores)
    occur = np.any(trainer.train_dataset["labels"], axis=0).mean()  # the share of labels that these rows have
    before = trainer.evaluate()
    history = training.fit(trainer, run)
    after = trainer.evaluate()
    losses = [row["loss"] for row in history if "loss" in row]
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.4
    assert before["eval_tuned_macro_f1"] < 0.6 * occur
    assert after["eval_tuned_macro_f1"] == pytest.approx(occur)
    assert after["eval_micro_f1"] == 0


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["mnli", "go_emotions"])
def test_accumulated_steps_are_one_large_step(run, name):
    """The loss is a mean over the batch: four batches of 2 rows must weigh as much as one of 8. (GoEmotions: with its weighted loss.)"""
    settings = {"compute_loss_func": training.weighted_loss(torch.linspace(1, 20, 28))} if name == "go_emotions" else {}

    def trained(batch_size, steps):
        arguments = ONCE | {"max_steps": 1, "gradient_accumulation_steps": steps, "optim": "sgd", "max_grad_norm": 0.0,
                            "warmup_steps": 0, "weight_decay": 0.0}
        cfg = config(batch_size=batch_size, learning_rate=0.1)
        trainer = lesson(run, name, rows=8, cfg=cfg, arguments=arguments, settings=settings, scores=None)
        history = training.fit(trainer, run)
        return trainer.model.state_dict(), history[0]["loss"]

    (large, one_loss), (small, four_losses) = trained(8, 1), trained(2, 4)
    assert four_losses == pytest.approx(one_loss, abs=1e-4)
    for key in large:
        torch.testing.assert_close(small[key], large[key], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", ["t5-small", "bart-base"])
def test_accumulated_steps_of_an_encoder_decoder_are_one_large_step(run, name):
    ids = np.random.default_rng(0).integers(5, 200, (8, 11)).tolist()
    rows = Dataset.from_list([{"input_ids": row[:6], "attention_mask": [1] * 6, "labels": row[6:]} for row in ids])

    def trained(batch_size, steps):
        model, tokenizer, _ = seq2seq.load_seq2seq(name, "random", tokenizer_texts=["one two three"], vocabulary=300, dropout=0.0)
        more = ONCE | {"max_steps": 1, "gradient_accumulation_steps": steps, "optim": "sgd", "max_grad_norm": 0.0, "warmup_steps": 0,
                       "weight_decay": 0.0, "logging_steps": 1}  # fmt: skip
        args = training.arguments(config(batch_size=batch_size, learning_rate=0.1), run, model, rows=8, **more)
        collate = DataCollatorForSeq2Seq(tokenizer, model=model)
        trainer = training.trainer(model, tokenizer, args, {"train": rows, "validation": rows}, None, 2, data_collator=collate)
        return training.fit(trainer, run)[0]["loss"], trainer.model.state_dict()

    (one_loss, large), (four_losses, small) = trained(8, 1), trained(2, 4)
    assert four_losses == pytest.approx(one_loss, abs=1e-3)
    for key in large:
        torch.testing.assert_close(small[key], large[key], atol=1e-5, rtol=0)


@pytest.mark.usefixtures("exact")
def test_adamw_by_size_moves_every_weight_by_the_same_share_of_its_matrix(run):
    model, tokenizer, _ = seq2seq.load_seq2seq("t5-small", "random", tokenizer_texts=["one two three"], vocabulary=300, dropout=0.0)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    rows = Dataset.from_list([{"input_ids": [7, 8, 9], "attention_mask": [1] * 3, "labels": [8, 5, 1]}] * 8)
    args = training.arguments(config(), run, model, rows=8, **ONCE, max_steps=1, warmup_steps=0)
    optimizer = training.adamw_by_size(model, 0.01)
    trainer = training.trainer(model, tokenizer, args, {"train": rows, "validation": rows}, None, 2, optimizer_cls_and_kwargs=optimizer,
                               data_collator=DataCollatorForSeq2Seq(tokenizer, model=model))  # fmt: skip
    training.fit(trainer, run)
    sizes = {}
    for name, weight in model.named_parameters():
        sizes[name] = before[name].square().mean().sqrt().item()
        moved = (weight - before[name]).abs()[(weight != before[name])]
        assert moved.numel() and moved.max().item() == pytest.approx(0.01 * max(sizes[name], 1e-3), rel=0.02), name
    assert max(sizes.values()) > 40 * min(sizes.values())  # so that one rate for all would have been far off


class PressAt(TrainerCallback):
    """Ctrl-C at the end of one step, once."""

    def __init__(self, step: int):
        self.step, self.done = step, False

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step and not self.done:
            self.done = True
            signal.raise_signal(signal.SIGINT)


def test_a_training_goes_on_where_it_was_interrupted_and_is_not_done_twice_unnoticed(run, capsys):
    trainer = trainer_for(config(epochs=2.0), run, rows=32, extra=[PressAt(3)], eval_steps=100, save_steps=100)
    before = len(trainer.callback_handler.callbacks)
    with pytest.raises(KeyboardInterrupt):
        training.fit(trainer, run)
    assert trainer.state.global_step in (3, 4) and len(trainer.callback_handler.callbacks) <= before
    reached = trainer.state.global_step
    history = training.fit(trainer, run)  # the cell once more
    assert f"going on from checkpoint-{reached}" in capsys.readouterr().out
    assert trainer.state.global_step == 8 and [row["step"] for row in history if "loss" in row] == list(range(1, 9))
    with pytest.raises(CourseError, match="this training is finished: run the cells again from the one that loads the model"):
        training.fit(trainer, run)


# ---------------------------------------------------------------- interruption, in a process of its own


def start(folder: Path, name: str, *options: str) -> subprocess.Popen:
    environment = os.environ | {"COURSE_OUTPUTS": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        forkserver.command("tests.tiny_training", name, *options),
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )


def final_loss(output: str) -> float:
    return float(re.search(r"final loss ([\d.]+)", output).group(1))


def wait_for_step(process: subprocess.Popen, step: int) -> None:
    for line in process.stdout:
        if (found := re.match(r"step +(\d+)/", line)) and int(found.group(1)) >= step:
            return
    pytest.fail(f"the training ended before step {step}")


def test_killed_run_resumes_to_the_same_final_loss(tmp_path):
    whole = start(tmp_path, "whole")
    killed = start(tmp_path, "killed", "--slow", "0.15")
    wait_for_step(killed, 11)  # checkpoints every 2 steps, 6 steps an epoch: the kill falls into the middle of epoch 2
    killed.send_signal(signal.SIGKILL)
    killed.wait(timeout=60)
    expected = final_loss(whole.communicate(timeout=120)[0])
    checkpoints = sorted((tmp_path / "killed" / "checkpoints").glob("checkpoint-*"))
    assert checkpoints, "the kill left no checkpoint"
    output = start(tmp_path, "killed", "--resume").communicate(timeout=120)[0]
    assert re.search(r"going on from checkpoint-1\d", output)
    assert final_loss(output) == pytest.approx(expected, abs=1e-4)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("file", "damage"),
    [("trainer_state.json", cut), ("model.safetensors", cut), ("optimizer.pt", cut), ("scheduler.pt", cut), ("optimizer.pt", flip)],
)
def test_a_damaged_checkpoint_is_passed_over_and_named(run, capsys, file, damage):
    training.fit(trainer_for(config(epochs=1.0), run, rows=24, save_total_limit=5), run)
    *_, before, newest = sorted(run.checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    assert training.last_checkpoint(run) == newest
    content = (newest / file).read_bytes()
    (newest / file).write_bytes(damage(content))
    assert training.last_checkpoint(run) == before
    assert f"{newest.name} is incomplete or damaged: passed over" in capsys.readouterr().out
    resumed = RunFolder(run.path, resumed=True)
    training.fit(trainer_for(config(epochs=1.0), resumed, rows=24), resumed)
    assert f"going on from {before.name}" in capsys.readouterr().out


def test_a_resumed_training_counts_the_steps_and_seconds_before_the_interruption(run):
    training.fit(trainer_for(config(epochs=1.0), run, rows=24), run)  # 3 steps
    record = run.logs / "timed.json"
    first = json.loads(record.read_text())
    assert (first["steps"], first["of"]) == (3, 3) and first["seconds"] > 0
    assert old_report._timed(run) == []  # not resumed: the lesson's own clock is right
    resumed = RunFolder(run.path, resumed=True)
    record.write_text('{"steps": 3, "of": 3, "seconds": 1000.0, "peak_memory_mb": 1e6}')
    training.fit(trainer_for(config(epochs=2.0), resumed, rows=24), resumed)
    (both,) = old_report._timed(resumed)
    assert (both["steps"], both["of"]) == (6, 6) and 1000 < both["seconds"] < 1100 and both["peak_memory_mb"] == 1e6
    record.unlink()  # an interruption before the first record: only what was timed is claimed
    training.fit(trainer_for(config(epochs=3.0), resumed, rows=24), resumed)
    (part,) = old_report._timed(resumed)
    assert (part["steps"], part["of"]) == (3, 9) and part["seconds"] < 100 and 50 < part["peak_memory_mb"] < 1e5


def test_the_times_of_a_resumed_run_are_those_on_record_for_each_of_its_trainings(run):
    clock = Clock()
    clock.seconds = {"load": 2.0, "train": 1.0, "train v2": 1.5, "train other": 0.5}
    clock.peak_memory_mb = dict.fromkeys(clock.seconds, 10.0)
    for part, seconds in (("", 100.0), ("v2", 200.0)):
        (run.path / part / "logs").mkdir(parents=True, exist_ok=True)
        (run.path / part / "logs" / "timed.json").write_text(json.dumps({"steps": 3, "of": 3, "seconds": seconds, "peak_memory_mb": 99.0}))
    assert old_report._times(clock, run)["seconds"] == clock.seconds  # not resumed
    found = old_report._times(clock, RunFolder(run.path, resumed=True))
    assert found["seconds"] == {"load": 2.0, "train": 100.0, "train v2": 200.0, "train other": 0.5}
    assert found["peak_memory_mb"] == {"load": 10.0, "train": 99.0, "train v2": 99.0, "train other": 10.0}


def test_a_checkpoint_without_state_or_weights_is_none(run):
    for name in ("checkpoint-3", "checkpoint-4"):
        (run.checkpoints / name).mkdir()
    (run.checkpoints / "checkpoint-4" / "trainer_state.json").write_text("{}")
    assert training.last_checkpoint(run) is None


class AtStep(TrainerCallback):
    """Does something after a step."""

    def __init__(self, work, step: int = 2):
        self.work, self.step = work, step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.work()


def raise_on_the_gpu():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


@pytest.mark.parametrize("work", [lambda: torch.empty(2**52), raise_on_the_gpu, lambda: bytearray(2**62)], ids=["cpu", "cuda", "python"])
@pytest.mark.parametrize(
    ("batch", "advice"),
    [(8, r"batch_size=8 accumulate=1: set batch_size=4 accumulate=2, which takes as many rows a step, or a smaller max_length"),
     (1, r"batch_size=1 accumulate=1: set a smaller max_length or model")],
)  # fmt: skip
def test_out_of_memory_suggests_the_values(run, work, batch, advice):
    trainer = trainer_for(config(batch_size=batch), run, rows=16, extra=[AtStep(work)])
    with pytest.raises(CourseError, match=rf"out of memory with {advice}.*resume={run.name}"):
        training.fit(trainer, run)


def test_a_training_inside_a_run_names_the_run_and_leaves_the_lessons_batch_to_the_lesson(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    inner = RunFolder(tmp_path / "2026-01-02_03-04-05_bert_ag-news" / "encoder")
    for folder in (inner.logs, inner.checkpoints):
        folder.mkdir(parents=True)
    trainer = trainer_for(config(batch_size=8), inner, rows=16, extra=[AtStep(raise_on_the_gpu)])
    advice = "set batch_size to half of what it is and accumulate to twice that, which takes as many rows a step"
    with pytest.raises(CourseError, match=rf"{advice}.*; resume=2026-01-02_03-04-05_bert_ag-news goes on"):
        training.fit(trainer, inner)


def test_out_of_memory_in_a_prediction_names_the_cure(run, monkeypatch):
    trainer = trainer_for(config(batch_size=8), run, rows=16)
    monkeypatch.setattr(trainer.model, "forward", lambda input_ids=None, **others: raise_on_the_gpu())
    with pytest.raises(CourseError, match="out of memory while predicting 16 rows at once: take a smaller batch_size or max_length"):
        trainer.predict(trainer.eval_dataset)


def test_halved_batches_accumulated_are_as_many_steps(run):
    whole, halves = (training.arguments(config(batch_size=size, accumulate=n), run, BERT, rows=50) for size, n in ((8, 1), (4, 2)))
    assert (whole.eval_steps, whole.gradient_accumulation_steps) == (3, 1)
    assert (halves.eval_steps, halves.gradient_accumulation_steps) == (3, 2)


def test_a_full_disk_names_the_cure_and_keeps_the_checkpoint_before(run):
    trainer = trainer_for(config(), run)

    def on_a_full_disk(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    def fill_up():  # after the second step's checkpoint
        trainer.save_model = on_a_full_disk

    trainer.add_callback(AtStep(fill_up, step=3))
    with pytest.raises(CourseError, match=rf"the disk is full.*No space left.*: free some space.*--set resume={run.name}"):
        training.fit(trainer, run)
    assert training.last_checkpoint(run).name == "checkpoint-2"


@pytest.mark.parametrize("words", ["unexpected pos 704 vs 598", "PytorchStreamWriter failed writing file data/3: file write failed"])
def test_what_torch_says_of_a_full_disk_is_understood(run, words):
    def fail():
        raise RuntimeError(f"[enforce fail at inline_container.cc:672] . {words}")

    with pytest.raises(CourseError, match="the disk is full"):
        training.fit(trainer_for(config(), run, rows=16, extra=[AtStep(fail)]), run)


def test_other_errors_of_a_training_stay_what_they_are(run):
    def fail():
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        training.fit(trainer_for(config(), run, rows=16, extra=[AtStep(fail)]), run)


def test_checkpoint_of_another_model_is_refused(run, tmp_path):
    training.fit(trainer_for(config(epochs=1.0), run), run)
    resumed = RunFolder(run.path, resumed=True)
    other = trainer_for(config(model="distilbert"), resumed)
    with pytest.raises(CourseError, match=r"another model \(model_type bert, this one has distilbert\): resume it with"):
        training.fit(other, resumed)
    three, _, _ = models.load_encoder("bert", "random", ["a", "b", "c"], tokenizer_texts=["one two"], seed=0)
    three.config.vocab_size = other.model.config.vocab_size
    with pytest.raises(CourseError, match=r"another model \(num_labels 4, this one has 3\): resume it with"):
        training.check_same_model(training.last_checkpoint(run), three)


# ---------------------------------------------------------------- the mean of checkpoints


def test_the_mean_of_the_last_checkpoints_is_that_of_each_weight(run):
    from safetensors.torch import load_file

    trainer = lesson(run, "rte", cfg=config(epochs=2.0), arguments={"save_total_limit": 6, "eval_steps": 1, "save_steps": 1})
    training.fit(trainer, run)
    names = training.average_checkpoints(trainer.model, run, 3)
    steps = sorted((int(path.name.rsplit("-", 1)[1]) for path in run.checkpoints.glob("checkpoint-*")), reverse=True)
    assert names == [f"checkpoint-{step}" for step in steps[:3]]
    saved = [load_file(run.checkpoints / name / "model.safetensors") for name in names]
    for name, value in trainer.model.state_dict().items():
        assert torch.allclose(value, torch.stack([part[name] for part in saved]).mean(0), atol=1e-6)
    assert training.average_checkpoints(trainer.model, run, 100) == [f"checkpoint-{step}" for step in steps]


def checkpoint(run, model, step):
    folder = run.checkpoints / f"checkpoint-{step}"
    model.save_pretrained(folder)
    (folder / "trainer_state.json").write_text("{}")
    return folder


def test_tied_weights_are_averaged_once_and_stay_tied(run):
    from shared.legacy import seq2seq

    model, _, _ = seq2seq.load_seq2seq("t5-small", "random", tokenizer_texts=["one two three"], vocabulary=300)
    for step, value in ((1, 1.0), (2, 4.0)):
        with torch.no_grad():
            model.shared.weight.fill_(value)
        checkpoint(run, model, step)
    assert training.average_checkpoints(model, run, 2) == ["checkpoint-2", "checkpoint-1"]
    for weights in (model.shared.weight, model.lm_head.weight, model.encoder.embed_tokens.weight):
        assert (weights == 2.5).all() and weights.data_ptr() == model.shared.weight.data_ptr()


def test_checkpoints_that_cannot_be_averaged_say_why(run):
    trainer = lesson(run, "rte")
    with pytest.raises(CourseError, match=r"^cannot average 0 checkpoints: choose 1 or more$"):
        training.average_checkpoints(trainer.model, run, 0)
    with pytest.raises(CourseError, match=r"has no checkpoint to average: train first, with save_total_limit=4$"):
        training.average_checkpoints(trainer.model, run, 3)
    checkpoint(run, lesson(run, "ag_news").model, 7)
    with pytest.raises(CourseError, match=r"^checkpoint-7 was written by another model"):
        training.average_checkpoints(trainer.model, run, 1)


def test_a_t5_is_never_trained_in_fp16(monkeypatch):
    monkeypatch.setattr(training.runtime, "precision", lambda: "fp16")
    t5, bart = (types.SimpleNamespace(config=types.SimpleNamespace(model_type=kind)) for kind in ("t5", "bart"))
    assert (training.precision_for(t5), training.precision_for(bart)) == ("fp32", "fp16")
    monkeypatch.setattr(training.runtime, "precision", lambda: "bf16")
    assert training.precision_for(t5) == "bf16"
