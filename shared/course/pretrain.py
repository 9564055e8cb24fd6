"""Pre-train a substitute on texts without labels, once on a machine: what T5 learned from the web, in small.

    python -m shared.course.pretrain course/minilm-pointer-qa   --data ../shared/data      50 minutes, measured on two cores
    python -m shared.course.pretrain course/minilm-pointer-news --data ../shared/data      about 40 minutes there, an estimate

qa: *cloze* questions. A few words of a sentence are asked for, with some of the words around them as the question (Lewis, Denoyer,
Riedel 2019, arXiv 1906.04980). news: write the lead of an article, or its principal sentences, a quarter of which are missing in
what is read (the gap sentences of PEGASUS: Zhang, Zhao, Saleh, Liu 2020, arXiv 1912.08777). Both are written as the lessons
write their sources. The texts are those of training splits; a text that shares a tenth of its runs of eight words with one that is
scored (news is printed again, with another opening) is left out.

The model goes into the course's cache, from where the stand-in Hub serves it; its configuration notes what it was taught. A
training that was interrupted goes on with `--set resume=` and the run's name.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import string
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from shared import course
from shared.course import rows, runtime, standin, substitutes
from shared.course.runtime import CourseError, RunFolder
from shared.course.settings import COMMON, Settings, overridden

PIECE, ARTICLE = 150, 300  # words of what is read with a cloze question, and of an article, whose rest no encoder here would see
LEAD = 45  # words after which no sentence is added to what is to be written
NUMBER, NAME = re.compile(r"\W*\d"), re.compile(r"\W*[A-ZÀ-Þ]")
_RECIPE = {"rows": 24_000, "epochs": 1.0, "batch_size": 16, "learning_rate": 3e-4, "max_source": 320, "max_target": 24}
TASKS: dict[str, dict[str, Any]] = {
    "course/minilm-pointer-qa": _RECIPE,
    "course/minilm-pointer-news": _RECIPE | {"rows": 12_000, "learning_rate": 4e-4, "max_source": 448, "max_target": 96},
}
COLUMNS = {"squad": "context", "cnn_dailymail": "article", "xsum": "document"}  # where the texts are
Pair = tuple[str, str]  # what is read, what is to be written


# ---------------------------------------------------------------- texts and what is asked about them


def texts_of(name: str) -> list[str]:
    """The distinct texts of a data set's training split, without what stands in another split, too; [] where none is served."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    from shared.data import drop_reprints

    spec, column = rows.DATA_SETS[name], COLUMNS[name]
    try:
        splits = load_dataset(spec.hub_id, spec.config, revision=spec.revision)
    except DatasetNotFoundError:
        print(f"{spec.hub_id} is not served here: its texts are left out")
        return []
    scored = [text for split, part in splits.items() if split != "train" for text in part[column]]
    return list(dict.fromkeys(drop_reprints(splits["train"], scored, column)[column]))


def pieces(text: str, words: int = PIECE) -> list[list[str]]:
    """A text's sentences, in groups of about so many words."""
    from shared.metrics import split_sentences

    found: list[list[str]] = [[]]
    for sentence in split_sentences(text):
        if sum(len(other.split()) for other in found[-1]) >= words:
            found.append([])
        found[-1].append(sentence)
    return found


def cloze(sentences: list[str], rng: np.random.Generator) -> Pair | None:
    """(question and context, answer) about a random sentence of these; None where it has no words to ask for.

    The answer is a name or a number where the sentence has one, two times of three, else one to four words. A question word takes
    its place, at the front or in the gap; of eight words on either side three of four are kept.
    """
    words = sentences[int(rng.integers(len(sentences)))].split()
    place = _asked(words, rng)
    if place is None:
        return None
    start, end = place
    answer = " ".join(words[start:end]).strip(string.punctuation + "“”‘’–—")
    left, right = ([word for word in part if rng.random() < 0.75] for part in (words[max(0, start - 8) : start], words[end : end + 8]))
    asks = [_question_word(answer, rng)]
    question = " ".join([*asks, *left, *right] if rng.random() < 0.5 else [*left, *asks, *right])
    if not answer or len(left) + len(right) < 2:
        return None
    return f"question: {question.rstrip(string.punctuation)}? context: {' '.join(sentences)}", answer


def _asked(words: list[str], rng: np.random.Generator) -> tuple[int, int] | None:
    """Where the answer's words begin and end."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    marked = [bool(NUMBER.match(word)) or (at > 0 and bool(NAME.match(word))) for at, word in enumerate(words)]
    runs = [at for at, mark in enumerate(marked) if mark and not (at and marked[at - 1])]
    if runs and rng.random() < 2 / 3:
        start = end = int(rng.choice(runs))
        while end < len(words) and marked[end] and end - start < 5:
            end += 1
        return start, end
    for _ in range(10):
        size = int(rng.integers(1, 5))
        start = int(rng.integers(max(1, len(words) - size + 1)))
        ends = {word.lower().strip(string.punctuation) for word in (words[start : start + 1] + words[start + size - 1 : start + size])}
        if start + size <= len(words) and not ends & ENGLISH_STOP_WORDS:
            return start, start + size
    return None


def _question_word(answer: str, rng: np.random.Generator) -> str:
    if re.fullmatch(r"(1\d|20)\d\d", answer):
        return str(rng.choice(["when", "in what year"]))
    if NUMBER.match(answer):
        return str(rng.choice(["how many", "how much", "what"]))
    return str(rng.choice(["who", "what", "where", "which"])) if NAME.match(answer) else "what"


def gap_sentences(sentences: list[str], rng: np.random.Generator) -> Pair | None:
    """("summarize: " and the article, its lead or its principal sentences); None where there is nothing left to read.

    Two articles of five give their first sentences. Of the others the sentences that share most words with the whole are to be
    written, in their order, and each is missing in the article one time of four.
    """
    start = 0 if rng.random() < 0.5 or len(sentences) < 10 else int(rng.integers(len(sentences) - 8))
    words = np.cumsum([len(sentence.split()) for sentence in sentences[start:]])
    shown = sentences[start : start + int(np.searchsorted(words, ARTICLE)) + 1]
    if len(shown) < 4:
        return None
    lead = rng.random() < 0.4
    ranked = range(len(shown)) if lead else np.argsort([-share for share in _shares(shown)], kind="stable").tolist()
    chosen: list[int] = []
    for place in ranked:
        if sum(len(shown[at].split()) for at in chosen) >= LEAD or len(chosen) == 3:
            break
        chosen.append(place)
    chosen.sort()
    missing = set() if lead else {place for place in chosen if rng.random() < 0.25}
    read = [sentence for place, sentence in enumerate(shown) if place not in missing]
    return "summarize: " + " ".join(read), " ".join(shown[place] for place in chosen)


def _shares(sentences: list[str]) -> list[float]:
    """Of each sentence, the F1 of its words and those of all other sentences: ROUGE-1, by which PEGASUS chooses."""
    counts = [Counter(re.findall(r"\w+", sentence.lower())) for sentence in sentences]
    whole = sum(counts, Counter())
    same = [sum(min(times, whole[word] - times) for word, times in own.items()) for own in counts]
    return [2 * common / max(1, whole.total()) for common in same]  # own words and the others' are all words together


def pairs_of(texts: list[str], make: Callable[..., Pair | None], words: int, count: int, seed: int) -> list[Pair]:
    """`count` pairs about randomly drawn texts, the same for the same seed. Raises CourseError where texts give none."""
    rng = np.random.default_rng(seed)
    parts = [part for text in texts for part in pieces(text, words) if part]
    found: list[Pair] = []
    for _ in range(20 * count if parts else 0):
        pair = make(parts[int(rng.integers(len(parts)))], rng)
        found += [pair] if pair else []
        if len(found) == count:
            return found
    raise CourseError(f"{len(texts)} texts gave {len(found)} of {count} pairs: give a folder with more texts (--data), or set fewer rows")


# ---------------------------------------------------------------- training


def rows_of(cfg: Settings, texts: list[str]) -> dict[str, Any]:
    """{'train', 'held_out'}: `Dataset`s with source and target, about other texts each."""
    from datasets import Dataset

    order, few = np.random.default_rng(cfg.seed).permutation(len(texts)), max(1, len(texts) // 50)
    make, words = (gap_sentences, sys.maxsize) if cfg.lesson.endswith("news") else (cloze, PIECE)
    wanted = {"held_out": (order[:few], max(4, min(500, cfg.rows // 20))), "train": (order[few:], cfg.rows)}
    found = {}
    for name, (numbers, count) in wanted.items():
        pairs = pairs_of([texts[number] for number in numbers], make, words, count, cfg.seed)
        found[name] = Dataset.from_dict({side: [pair[place] for pair in pairs] for place, side in enumerate(("source", "target"))})
    return found


def trainer_for(cfg: Settings, run: RunFolder, parts: dict[str, Any], base: str) -> Any:
    """A Seq2SeqTrainer for a fresh copy of `base`, a model's id or folder."""
    import torch
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSeq2SeqLM.from_pretrained(base, dtype=torch.float32)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # no row is read often enough to be learned by heart

    def encode(pairs: dict[str, list[str]]) -> Any:
        encoded = tokenizer(pairs["source"], truncation=True, max_length=cfg.max_source)
        encoded["labels"] = tokenizer(text_target=pairs["target"], truncation=True, max_length=cfg.max_target)["input_ids"]
        return encoded

    encoded = {name: part.map(encode, batched=True, remove_columns=["source", "target"]) for name, part in parts.items()}
    check = max(1, len(encoded["train"]) // (6 * cfg.batch_size))
    arguments = Seq2SeqTrainingArguments(
        run.checkpoints, num_train_epochs=cfg.epochs, learning_rate=cfg.learning_rate, warmup_steps=0.05, weight_decay=0.01,
        per_device_train_batch_size=cfg.batch_size, per_device_eval_batch_size=cfg.batch_size, train_sampling_strategy="group_by_length",
        eval_strategy="steps", eval_steps=check, save_steps=check, save_total_limit=1, logging_steps=max(1, check // 4),
        prediction_loss_only=True, seed=cfg.seed, **course.precision(model),
    )  # fmt: skip
    return Seq2SeqTrainer(
        model, arguments, train_dataset=encoded["train"], eval_dataset=encoded["held_out"], processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model), callbacks=course.callbacks(run),
    )  # fmt: skip


def learn(cfg: Settings, run: RunFolder, texts: dict[str, list[str]], target: Path, base: str = substitutes.POINTER) -> dict[str, Any]:
    """Train `base` on pairs made of the texts, {data set: texts}; save it to `target`; return the note in its configuration."""
    parts = rows_of(cfg, [text for some in texts.values() for text in some])
    trainer = trainer_for(cfg, run, parts, base)
    trainer.train(resume_from_checkpoint=run.checkpoint)
    history, model = trainer.state.log_history, trainer.model
    losses = [row["eval_loss"] for row in history if "eval_loss" in row]
    note = {
        "task": "leads and gap sentences" if cfg.lesson.endswith("news") else "cloze questions",
        "data": {name: len(some) for name, some in texts.items()},
        "rows": len(parts["train"]),
        "seconds": json.loads((run.logs / "timed.json").read_text(encoding="utf8"))["seconds"],
        "held_out_loss": losses[-1] if losses else None,
        **{key: cfg[key] for key in ("epochs", "batch_size", "learning_rate")},
    }
    model.config.pretraining = note
    with runtime.writing(target.name, "start it again with --set resume="), runtime.whole_folder(target, "config.json") as place:
        model.save_pretrained(place)
        trainer.processing_class.save_pretrained(place)
    runtime.write_whole(run.path / "results.json", json.dumps(note | {"history": history}, indent=1))
    return note


# ---------------------------------------------------------------- command line


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m shared.course.pretrain", description="pre-train a substitute for profile laptop")
    parser.add_argument("model", choices=list(TASKS))
    parser.add_argument("--data", help="a folder of <name>/<split>.parquet, or 'bundled'")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help=f"override {', '.join(COMMON | _RECIPE)}")
    return parser.parse_args(argv)


def pretrain(model: str, told: str = "") -> Path:
    """Pre-train one of TASKS on the texts that are served here; returns its folder. `told`: overrides, "key=value key=value"."""
    course.setup()
    if standin.kind_of_models() != "packaged":
        raise CourseError(f"{model} is for machines without the Hub, in profile laptop: here choose the model that it stands in for")
    overrides = overridden(model, COMMON | TASKS[model], told)
    values = COMMON | TASKS[model] | {"model": substitutes.POINTER} | overrides
    cfg = Settings(model.removeprefix(substitutes.OWNER), runtime.profile(), values, overrides)
    run, started = course.run_folder(cfg), time.perf_counter()
    texts = {name: texts_of(name) for name in COLUMNS}
    print(", ".join(f"{len(some):,} texts of {name}" for name, some in texts.items()), flush=True)
    target = substitutes.pretrained_folder(model)
    note = learn(cfg, run, texts, target)
    print(f"{note['rows']:,} pairs in {time.perf_counter() - started:.0f} s; lessons take it by --set model={model}")
    return target


@runtime.command_line
def main(argv: list[str] | None = None) -> int | None:
    options = parse(argv)
    os.environ["COURSE_PROFILE"] = os.environ.get("COURSE_PROFILE") or "laptop"
    if options.data:
        os.environ["COURSE_DATA"] = options.data
    pretrain(options.model, " ".join(shlex.quote(word) for word in options.set))


if __name__ == "__main__":
    sys.exit(main())
