"""The bench runs, and the two sides of each of its ratios do the same work: few rows, two-layer twins, no speed."""

import ast
import dataclasses
import json

import pytest
import torch
from datasets import Dataset
from transformers import AutoTokenizer

from shared import data
from shared.course import runtime
from tests import bench, bench_attention, bench_decoder, bench_qa, bench_text, bench_timing, bench_training

ROWS = 80  # four full batches of 16 in profile tiny


@pytest.fixture(scope="module")
def cfg():
    return bench_training.lesson_settings()


@pytest.fixture(scope="module")
def rows(cfg) -> Dataset:
    return bench_training.lesson_rows(cfg, ROWS)


@pytest.fixture(scope="module")
def tokenizer(cfg):
    return AutoTokenizer.from_pretrained(cfg.model)


@pytest.fixture
def bf16(monkeypatch):
    """As on a processor that trains in it."""
    monkeypatch.setenv("COURSE_PRECISION", "bf16")


def trainer(recipe, cfg, rows, tokenizer, folder, steps=1):
    encoded = bench_training.tokenised(rows, tokenizer, cfg, recipe.padded)
    return bench_training.trainer_for(recipe, cfg, encoded, tokenizer, str(folder), steps)


def read(batches) -> list[tuple[list[int], int]]:
    """The token ids without padding and the label of every row, sorted."""
    found = []
    for batch in batches:
        for ids, mask, label in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
            found.append((ids[mask.bool()].tolist(), int(label)))
    return sorted(found)


def test_a_ratio_is_the_median_of_the_rounds_with_its_spread():
    assert bench_timing.ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == (3.0, 2.0, 4.0)
    assert str(bench_timing.ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])) == "3.00 x (2.00 to 4.00)"
    assert str(bench_timing.ratio([3.0], [2.0])) == "1.50 x"


def test_each_way_runs_once_untimed_and_then_in_every_round():
    calls = []
    ways = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}
    seconds, results = bench_timing.side_by_side(ways, rounds=2, repeat=2)
    assert "".join(calls) == "ab" + "aabb" * 2 and results == {"a": 8, "b": 10}
    assert [len(taken) for taken in seconds.values()] == [2, 2] and min(map(min, seconds.values())) > 0


def test_the_last_rung_is_what_the_lesson_does(cfg, rows, tokenizer, tmp_path, bf16):
    names, recipes = zip(*bench_training.ladder(cfg).items(), strict=True)
    assert recipes[0] == bench_training.Recipe() and "usual" in names[0]
    wanted = bench_training.Recipe(padded=False, grouped=True, dropout=cfg.dropout, frozen=cfg.frozen_layers, bf16=True)
    assert recipes[-1] == wanted and cfg.frozen_layers == 1 and cfg.dropout == 0  # of profile tiny
    ours, usual = (trainer(recipe, cfg, rows, tokenizer, tmp_path) for recipe in (recipes[-1], recipes[0]))
    for made, frozen, dropout in ((ours, True, 0.0), (usual, False, 0.1)):
        assert {m.p for m in made.model.modules() if isinstance(m, torch.nn.Dropout)} == {dropout}
        assert any(not p.requires_grad for p in made.model.parameters()) == frozen
    assert (ours.args.bf16, usual.args.bf16) == (True, False)
    assert (ours.args.train_sampling_strategy, usual.args.train_sampling_strategy) == ("group_by_length", "random")
    assert {made.args.per_device_train_batch_size for made in (ours, usual)} == {cfg.batch_size}


def arguments_of(source: str) -> dict[str, str]:
    """The arguments of the first call of TrainingArguments in a program, as they are written."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and ast.unparse(node.func) == "TrainingArguments")
    return {keyword.arg or "**": ast.unparse(keyword.value) for keyword in next(calls).keywords}


def test_the_arguments_are_those_of_the_lessons_cell():
    """But for how long it trains, checks, checkpoints and logs."""
    cells = json.loads((runtime.ROOT / bench_training.LESSON / "ag_news.ipynb").read_text(encoding="utf8"))["cells"]
    cell = next(source for cell in cells if "TrainingArguments(\n" in (source := "".join(cell["source"])))
    lesson = arguments_of(cell)
    own = arguments_of((runtime.ROOT / "tests" / "bench_training.py").read_text(encoding="utf8"))
    length = {"num_train_epochs", "max_steps", "seed", "disable_tqdm", "logging_steps", "load_best_model_at_end"}
    length |= {key for key in {*lesson, *own} if key.startswith(("eval_", "save_"))}
    differ = {key for key in {*lesson, *own} - length if lesson.get(key) != own.get(key)}
    assert differ == {"train_sampling_strategy", "**"}  # which the rungs change
    assert lesson["train_sampling_strategy"] in own["train_sampling_strategy"] and lesson["**"] == "course.precision(model, cfg.max_length)"


def test_every_rung_reads_the_same_texts_once(cfg, rows, tokenizer, tmp_path, bf16):
    cfg = dataclasses.replace(cfg, settings=dict(cfg) | {"max_length": 256})  # the twin's tokenizer knows few words: its texts are long
    seen, positions = [], []
    for recipe in bench_training.ladder(cfg).values():
        batches = list(trainer(recipe, cfg, rows, tokenizer, tmp_path).get_train_dataloader())
        seen.append(read(batches))
        positions.append(sum(batch["input_ids"].numel() for batch in batches))
    assert all(found == seen[0] for found in seen) and len(seen[0]) == len(rows)
    assert positions[0] == len(rows) * cfg.max_length > positions[1] > positions[2] == positions[-1]


def test_padding_changes_no_logit(cfg, rows, tokenizer, tmp_path):
    usual = trainer(bench_training.Recipe(), cfg, rows, tokenizer, tmp_path)
    model, few = usual.model.eval(), list(range(8))
    padded, own = (bench_training.tokenised(rows, tokenizer, cfg, wide).select(few).remove_columns("label") for wide in (True, False))
    with torch.no_grad():
        wide = model(**tokenizer.pad(padded[:], return_tensors="pt")).logits
        narrow = model(**tokenizer.pad(own[:], return_tensors="pt")).logits
    assert torch.allclose(wide, narrow, atol=1e-5)


def test_every_recipe_is_trained_and_timed_in_every_round(cfg, rows, monkeypatch, bf16):
    rungs = bench_training.ladder(cfg)
    usual, grouped, lesson = (list(rungs)[place] for place in (0, 2, -1))
    monkeypatch.setattr(bench_training, "ladder", lambda cfg: {name: rungs[name] for name in (usual, grouped, lesson)})
    speeds = bench_training.speeds(cfg, rows, rounds=2, steps=3)
    assert list(speeds) == [usual, grouped, lesson]
    assert all(len(found) == 2 and min(found) > 0 for found in speeds.values())
    with pytest.raises(ValueError, match="too few"):
        bench_training.speeds(cfg, rows, rounds=1, steps=6)


def test_a_recipe_is_timed_without_its_first_step():
    timer = bench_training.StepTimes()
    timer.marks = [5.0, 6.0, 9.0]
    assert timer.examples_per_second(16) == 8.0


def test_grouped_batches_are_timed_over_a_whole_cycle(rows, cfg):
    assert [bench_training.cycle(n, 32) for n in (3_800, 100_000, 40)] == [29, 50, 1]


def test_map_and_lookup(cfg, rows, tokenizer):
    assert bench_training.map_cost(cfg, rows, rounds=1).median > 0
    alike = tokenizer(rows["text"][:], truncation=True, max_length=cfg.max_length)
    assert bench_training.tokenised(rows, tokenizer, cfg)["input_ids"][:] == alike["input_ids"]
    assert 0 < bench_training.lookup_share(cfg, rows, speed=100.0) < 10


def test_the_rows_are_the_lessons_own_draw_and_repeated_where_too_few(cfg):
    few, many = bench_training.lesson_rows(cfg, 80), bench_training.lesson_rows(cfg, 2_000)
    assert len(few) == 76 and len(set(few["text"])) == 76
    assert len(many) == 1_900 > len(set(many["text"]))


# ---------------------------------------------------------------- question answering


def test_both_sides_give_the_same_windows_and_labels(monkeypatch):
    monkeypatch.setattr(bench_qa, "LENGTH", 96)
    monkeypatch.setattr(bench_qa, "STRIDE", 24)
    tokenizer, rows = bench_qa.load_tokenizer(), data.bundled_split("squad", "train").select(range(24))
    ours = bench_qa.values(bench_qa.qa.train_features(rows, tokenizer, 96, 24))
    for padding in (False, "max_length"):
        usual = bench_qa.usual_features(rows, tokenizer, padding)
        assert bench_qa.values(usual) == ours
    assert {len(ids) for ids in usual["input_ids"]} == {96} and len(usual) > 24  # of padded windows, several for a text
    found = bench_qa.features("rows", rows, tokenizer, rounds=1)
    assert (found.questions, found.paragraphs) == (24, len(set(rows["context"]))) and min(found.usual, found.padded) > (0, 0, 0)


def test_features_that_differ_are_no_ratio(monkeypatch):
    rows = data.bundled_split("squad", "train").select(range(4))
    usual = bench_qa.usual_features
    monkeypatch.setattr(bench_qa, "usual_features", lambda rows, *more: usual(rows.select([0, 1, 2, 2]), *more))
    with pytest.raises(AssertionError, match="the features differ"):
        bench_qa.features("rows", rows, bench_qa.load_tokenizer(), rounds=1)


def test_both_decoders_give_the_same_answers():
    rows = data.bundled_split("squad", "train").select(range(12))
    assert bench_qa.decoding(rows, bench_qa.load_tokenizer(), rounds=1).median > 0  # it compares them itself


def test_each_sample_names_its_data(monkeypatch):
    assert list(bench_qa.samples(10)) == ["the course's bundled rows"]
    monkeypatch.setattr(bench_qa.standin, "start", lambda profile: type("Standing", (), {"rows": "/some/folder"}))
    found = bench_qa.samples(10)
    assert list(found)[1:] == ["squad/train of COURSE_DATA, drawn at random", "squad/train of COURSE_DATA, the first rows"]
    assert [len(rows) for rows in found.values()][1:] == [10, 10]


# ---------------------------------------------------------------- texts and decoder


def test_texts_and_decoder_run(monkeypatch):
    monkeypatch.setattr(bench_text, "NEW_TOKENS", 4)
    small = {"d_model": 64, "d_kv": 32, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2}
    monkeypatch.setattr(bench_text, "SIZES", small)
    monkeypatch.setattr(bench_decoder, "NEW", 4)
    monkeypatch.setattr(bench_decoder, "SUMMARY", 4)
    monkeypatch.setattr(bench_decoder, "LENGTH", 160)
    found = bench_text.compare(rows=4, pairs=10, rounds=1)
    assert min(found.values()) > 0  # that the texts are the same is checked there
    found = bench_decoder.compare(rows=8)
    assert found["generation"] > 0 and found["training"] > 0 and found["beams"] > 0
    assert found["equal texts"] == found["equal texts with beams"] == 1 and found["loss difference"] < 1e-4


# ---------------------------------------------------------------- the command


def test_help_says_what_is_measured(capsys):
    with pytest.raises(SystemExit) as end:
        bench.main(["--help"])
    shown = capsys.readouterr().out
    assert end.value.code == 0 and all(f"\n  {part} " in shown for part in bench.PARTS) and "MISSED" in shown


@pytest.mark.parametrize("wrong", [["--only", "speed"], ["--rounds", "0"], ["--accuracy"]])
def test_what_cannot_be_measured_is_refused(wrong, capsys, monkeypatch):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    with pytest.raises(SystemExit) as end:
        bench.main(wrong)
    assert end.value.code == 2 and wrong[0] in capsys.readouterr().err


def test_targets_and_data_are_printed(cfg, rows, capsys, bf16):
    names = list(bench_training.ladder(cfg))
    speeds = {name: [10.0 * (1 + number)] * 3 for number, name in enumerate(names)}
    assert bench.recipes(cfg, rows, speeds) == [True, True]  # 5 times in fp32, 6 in bf16
    speeds[names[-1]] = [55.0, 59.0, 58.0]
    assert bench.recipes(cfg, rows, speeds) == [True, False]
    shown = capsys.readouterr().out.splitlines()
    assert shown[-1].endswith("58.0 examples/s against 10.0 examples/s, 5.80 x (5.50 to 5.90) (target 6)  MISSED")
    assert "1.16 x (1.10 to 1.18)" in shown[-3]  # bf16 alone
    assert bench.recipes(cfg, rows, {name: speeds[name] for name in names[:-1]}) == [True]
    assert "bf16: not measured" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_two_ways_to_compute_attention_give_the_same(dtype):
    found = bench_attention.compare(64, dtype, rounds=1)
    assert 0 < found.low <= found.median <= found.high
