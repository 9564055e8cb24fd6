"""Speed ratios, each measured side by side in one process on this machine's CPU: make bench, or python -m tests.bench

parts (--only takes some of them):
  training   training examples per second of the AG News lesson's recipe (profile laptop) against the usual one (padded to 128 tokens,
             fp32, batches at random, all layers trained), and what each of the recipe's parts adds; targets: 4 times in fp32, and
             6 times in bf16 where this processor trains in it
  library    what the library's own calls cost or gain: datasets.map against a plain call of the tokenizer, group_by_length against
             batches at random (measured with training), windows with stride and labels from offsets against shared.qa, fused
             attention against the one step by step
  decoding   answers from start and end logits: the usual loops against shared.qa; target: 20 times
  texts      generation with an encoder-decoder in batches of like length against one by one (target: 3 times), ROUGE with intervals
             against without (target: 1.3 times the time)
  decoder    generation in left-padded batches against one by one (target: 2.5 times), training on grouped rows with logits for the
             completions alone against rows padded to the limit (target: 1.5 times)

Every ratio of training, library and decoding is the median of several rounds, with the lowest and the highest; the two sides give the
same features, answers or texts, which is checked. Seconds say more about the machine than about the code, so ratios are printed.
A target that is not reached prints MISSED, and the exit status is 1.

With COURSE_DATA set to a folder the rows are that folder's, else the course's bundled rows, repeated where they are too few.
On two cores the whole takes about twelve minutes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import Any

from shared import course

PARTS = ("training", "library", "decoding", "texts", "decoder")
TARGETS = {"fp32": 4.0, "bf16": 6.0}  # times the usual recipe's examples per second
QUICK = 400  # rows with --quick


def verdict(text: str, reached: bool) -> bool:
    print(f"{text}  {'reached' if reached else 'MISSED'}", flush=True)
    return reached


def training(quick: bool, rounds: int, parts: list[str]) -> list[bool]:
    """The ladder of recipes, and of the library's calls those that a training makes."""
    from tests import bench_training

    cfg = bench_training.lesson_settings()
    rows = bench_training.lesson_rows(cfg, QUICK if quick else None)
    speeds = bench_training.speeds(cfg, rows, rounds, *([3] if quick else []))
    results = recipes(cfg, rows, speeds) if "training" in parts else []
    if "library" in parts:
        library_in_training(cfg, rows, speeds, rounds)
    return results


def recipes(cfg: Any, rows: Any, speeds: dict[str, list[float]]) -> list[bool]:
    """Each rung's own gain and its gain over the usual recipe; the verdict on the lesson's in each precision."""
    from tests import bench_training
    from tests.bench_timing import ratio

    names, rungs, results = list(speeds), bench_training.ladder(cfg), []
    usual = names[0]
    print(f"\ntraining {cfg.model} on {len(rows):,} texts of AG News; each rung adds to those above it; medians of {len(speeds[usual])}")
    print(f"{'examples/s':>10}  {'over the rung above':24}  {'over the usual':24}  recipe")
    for above, name in zip([None, *names], names, strict=False):
        over = [str(ratio(speeds[name], speeds[other])) if above else "" for other in (above or name, usual)]
        print(f"{statistics.median(speeds[name]):10.1f}  {over[0]:24}  {over[1]:24}  {name}")
    for precision, target in TARGETS.items():
        own = [name for name in names if rungs[name].bf16 == (precision == "bf16")][-1:]
        if not own:
            print(f"the lesson's recipe in {precision}: not measured, training is in fp32 here")
            continue
        found, (fast, slow) = ratio(speeds[own[0]], speeds[usual]), (statistics.median(speeds[name]) for name in (own[0], usual))
        text = f"the lesson's recipe in {precision}: {fast:.1f} examples/s against {slow:.1f} examples/s, {found} (target {target:.0f})"
        results.append(verdict(text, found.median >= target))
    return results


def library_in_training(cfg: Any, rows: Any, speeds: dict[str, list[float]], rounds: int) -> None:
    """group_by_length and `datasets.map`. No target: it is what plain code gains or costs."""
    from tests import bench_training
    from tests.bench_timing import ratio

    names, rungs = list(speeds), bench_training.ladder(cfg)
    grouped = next(name for name in names if rungs[name].grouped)
    gain = ratio(speeds[grouped], speeds[names[names.index(grouped) - 1]])
    share = bench_training.lookup_share(cfg, rows, statistics.median(speeds[names[-1]]))
    print(f"\nTrainer with group_by_length against batches at random: {gain} the examples/s, {len(rows):,} texts of AG News")
    print(f"looking all lengths up for it, once a training: {share:.1%} of the time of an epoch")
    cost = bench_training.map_cost(cfg, rows, rounds)
    print(f"datasets.map with batched calls against one call with a list: {cost} the time, {len(rows):,} texts of AG News", flush=True)


def library(quick: bool, rounds: int) -> list[bool]:
    """The library's ways to compute attention; windows and labels by its call, labels by the usual loop. What plain code costs."""
    import torch

    from tests import bench_attention, bench_qa

    for dtype in (torch.float32, torch.bfloat16):
        for length in bench_attention.LENGTHS[: 1 if quick else None]:
            found = bench_attention.compare(length, dtype, rounds)
            print(f"fused attention against step by step, {length} tokens in {str(dtype)[6:]}: {found} the time", flush=True)

    tokenizer = bench_qa.load_tokenizer()
    for name, rows in bench_qa.samples(QUICK if quick else 2_000).items():
        found = bench_qa.features(name, rows, tokenizer, rounds, repeat=5 if len(rows) < 200 else 1)
        print(
            "windows by tokenizer(..., stride=, return_overflowing_tokens=True), labels by the usual loop against shared.qa: "
            f"{found.usual} the time, {found.padded} where windows are padded to {bench_qa.LENGTH}; "
            f"data: {found.data}, {found.questions:,} questions, {found.questions / found.paragraphs:.2f} per paragraph",
            flush=True,
        )
    return []


def decoding(quick: bool, rounds: int) -> list[bool]:
    """Span decoding."""
    import numpy as np

    from tests import bench_qa

    count = QUICK if quick else 5_000
    name, rows = list(bench_qa.samples(count).items())[:2][-1]
    if len(rows) < count:  # a paragraph that comes again is decoded again: repeated rows favour neither side
        name, rows = f"{name}, repeated", rows.select(np.arange(count) % len(rows))
    found = bench_qa.decoding(rows, bench_qa.load_tokenizer(), rounds)
    text = f"\nspan decoding, the usual loops with n_best {bench_qa.N_BEST} against shared.qa: {found} the time, same answers"
    return [verdict(f"{text}; data: {name}, {len(rows):,} questions (target 20)", found.median >= 20)]


def texts(quick: bool, rounds: int) -> list[bool]:
    """Generating with an encoder-decoder, and ROUGE."""
    from tests import bench_text

    found = bench_text.compare(*(8, 100, 1) if quick else (64, 1_000, rounds))
    return [
        verdict(f"\ngeneration, one by one against length-sorted batches: {found['generation']:.1f} x ours, same texts (target 3)",
                found["generation"] >= 3),
        verdict(f"ROUGE with 1,000 resamples against scoring once: {found['intervals']:.2f} x the time (target 1.3)",
                found["intervals"] <= 1.3),
    ]  # fmt: skip


def decoder(quick: bool, rounds: int) -> list[bool]:
    """Generating with a decoder, and training it; one round, as each takes a minute."""
    from tests import bench_decoder

    found = bench_decoder.compare(*(4,) if quick else ())
    return [
        verdict(f"generation in left-padded batches against one by one: {found['generation']:.1f} x, "
                f"{found['equal texts']:.0%} of the texts the same (target 2.5, all)",
                found["generation"] >= 2.5 and found["equal texts"] == 1),
        verdict(f"beams that read each prompt once, against once per beam: {found['beams']:.1f} x, "
                f"{found['equal texts with beams']:.0%} of the texts the same (target 2, all)",
                found["beams"] >= 2 and found["equal texts with beams"] == 1),
        verdict("training a decoder on grouped rows with logits for completions only, against rows padded to the maximum: "
                f"{found['training']:.2f} x, losses {found['loss difference']:.0e} apart (target 1.5, 1e-4)",
                found["training"] >= 1.5 and found["loss difference"] <= 1e-4),
    ]  # fmt: skip


def accuracy() -> list[bool]:
    """What the speed costs: both recipes for one epoch on the same texts, scored on all test texts."""
    from tests import bench_training

    usual, ours = bench_training.accuracies(bench_training.lesson_settings())
    text = f"test accuracy after one epoch: the usual recipe {usual:.4f}, the lesson's {ours:.4f} (target: at most 0.005 less)"
    return [verdict(text, ours >= usual - 0.005)]


def main(argv: list[str] | None = None) -> int:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__, formatter_class=shape)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"some of {', '.join(PARTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=3, help="how often each is timed; default: 3")
    parser.add_argument("--quick", action="store_true", help="few rows, one round: does it run?")
    parser.add_argument("--accuracy", action="store_true", help="also train both recipes for an epoch and score them; needs COURSE_DATA")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds takes 1 or more")
    if options.accuracy and os.environ.get("COURSE_DATA", "bundled") == "bundled":
        parser.error("--accuracy needs COURSE_DATA: a score on the bundled rows would say little")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the ratios are the CPU's
    os.environ.setdefault("COURSE_PROFILE", "laptop")
    os.environ.setdefault("COURSE_DATA", "bundled")
    course.setup()  # before the libraries of the Hub are imported, as in a lesson
    rounds, results = 1 if options.quick else options.rounds, []
    if {"training", "library"} & set(options.only):
        results += training(options.quick, rounds, options.only)
    for part in (library, decoding, texts, decoder):
        if part.__name__ in options.only:
            results += part(options.quick, rounds)
    if options.accuracy:
        results += accuracy()
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
