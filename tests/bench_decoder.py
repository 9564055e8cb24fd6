"""The decoder part of `make bench`: batched generation and training on completions against the usual ways, side by side."""

from __future__ import annotations

import time
from unittest import mock

import numpy as np
import torch
from datasets import Dataset, load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from shared import data, text2text
from shared.course import rows as hub_rows
from tests.tiny import with_adapters

MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
LENGTH, PROMPT, NEW, BATCH = 448, 96, 48, 16
BEAMS, SUMMARY = 4, 24  # tokens of a summary
TRAIN_BATCH = 4


def articles(rows: int) -> Dataset:
    """Articles where the setup finds them; the bundled ones, all of about the same length, are repeated where there are fewer."""
    found = load_dataset("EdinburghNLP/xsum", split="train", revision=hub_rows.PARQUET)
    chosen = data.subsample(found, rows, seed=0) if len(found) > rows else found.select(np.arange(rows) % len(found))
    return chosen.filter(lambda row: row["document"].strip() and row["summary"].strip())  # the Hub's data set has a few empty ones


def load() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """SmolLM2 in float32, on the CPU."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    print(f"decoder: {MODEL}, {model.num_parameters():,} parameters")
    return model, AutoTokenizer.from_pretrained(MODEL)


def prompts(rows: Dataset, tokenizer: PreTrainedTokenizerBase, room: int) -> list[list[int]]:
    """The articles within what the model's chat template writes around a request, each cut so that the whole fits the room."""
    request = [{"role": "user", "content": "Summarise the article in one sentence.\n\n{article}"}]
    around = tokenizer.apply_chat_template(request, tokenize=False, add_generation_prompt=True).split("{article}")
    head, tail = tokenizer(around, add_special_tokens=False)["input_ids"]
    articles = tokenizer(rows["document"][:], add_special_tokens=False)["input_ids"]
    return [head + ids[: room - len(head) - len(tail)] + tail for ids in articles]


def generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> tuple[float, float]:
    """(seconds one by one / seconds in batches, share of equal texts)."""
    ids = prompts(rows, tokenizer, PROMPT)
    text2text.generate(model, tokenizer, ids[:1], max_new_tokens=2)  # the first call pays for allocation
    seconds, texts = [], []
    for size in (1, BATCH):
        started = time.perf_counter()
        texts.append(text2text.generate(model, tokenizer, ids, max_new_tokens=NEW, batch_size=size).texts)
        seconds.append(time.perf_counter() - started)
    return seconds[0] / seconds[1], float(np.mean([a == b for a, b in zip(*texts, strict=True)]))


def beams(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> tuple[float, float]:
    """(seconds of reading each prompt once per beam, as the library does, / seconds of reading it once, share of equal texts)."""
    ids = prompts(rows, tokenizer, LENGTH - SUMMARY)
    seconds, texts = [], []
    for given in ({"return_value": {}}, {"wraps": text2text._read_once}):
        with mock.patch.object(text2text, "_read_once", **given):
            started = time.perf_counter()
            found = text2text.generate(model, tokenizer, ids, max_new_tokens=SUMMARY, batch_size=BATCH, num_beams=BEAMS)
            seconds.append(time.perf_counter() - started)
        texts.append(found.texts)
    return seconds[0] / seconds[1], float(np.mean([a == b for a, b in zip(*texts, strict=True)]))


def passes(model: PreTrainedModel, batches: list[dict[str, torch.Tensor]]) -> tuple[float, float]:
    """(seconds of all forward and backward passes, loss a token). Nothing is updated, so another batching has the same loss."""
    total, count, started = 0.0, 0, time.perf_counter()
    for batch in batches:
        labels = int((batch["labels"] != text2text.IGNORED).sum())
        loss = model(**batch).loss
        loss.backward()
        total, count = total + labels * loss.item(), count + labels
    model.zero_grad()
    return time.perf_counter() - started, total / count


def to_width(batch: dict[str, torch.Tensor], tokenizer: PreTrainedTokenizerBase) -> dict[str, torch.Tensor]:
    """The batch padded on the right to the maximum length, as `padding="max_length"` does."""
    more = LENGTH - batch["input_ids"].shape[1]
    fill = {"input_ids": tokenizer.eos_token_id, "attention_mask": 0, "labels": text2text.IGNORED}
    return {key: torch.nn.functional.pad(value, (0, more), value=fill[key]) for key, value in batch.items()}


def training(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Dataset) -> tuple[float, float]:
    """(speed of grouped rows with logits for the completions alone / of rows padded to the maximum, relative difference of the losses)."""
    said = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(rows["summary"][:], add_special_tokens=False)["input_ids"]]
    asked = prompts(rows, tokenizer, LENGTH - max(map(len, said)))
    given = [{"input_ids": a + s, "labels": [text2text.IGNORED] * len(a) + s} for a, s in zip(asked, said, strict=True)]
    grouped = sorted(given, key=lambda row: -len(row["input_ids"]))
    usual, ours = text2text.CompletionCollator(tokenizer), text2text.CompletionCollator(tokenizer, only_completions=True)
    model = with_adapters(model, 16, 32).train()

    def cut(examples, collate):
        return [collate(examples[k : k + TRAIN_BATCH]) for k in range(0, len(examples), TRAIN_BATCH)]

    padded = [to_width(batch, tokenizer) for batch in cut(given, usual)]
    passes(model, padded[:1])
    slow, loss = passes(model, padded)
    fast, same = passes(model, cut(grouped, ours))
    return slow / fast, abs(same - loss) / loss


def compare(rows: int = 16) -> dict[str, float]:
    """The ratios of the three comparisons, the shares of equal texts and the relative difference of the losses."""
    model, tokenizer = load()
    chosen = articles(rows)
    speed, equal = generation(model, tokenizer, chosen)
    once, same = beams(model, tokenizer, chosen)
    faster, apart = training(model, tokenizer, chosen)
    return {
        "generation": speed, "equal texts": equal, "beams": once, "equal texts with beams": same,
        "training": faster, "loss difference": apart,
    }  # fmt: skip
