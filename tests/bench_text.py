"""The text part of `make bench`: generation in length-sorted batches against one by one, and what intervals cost ROUGE."""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from transformers import GPT2Tokenizer, PreTrainedModel, PreTrainedTokenizerBase, T5Config, T5ForConditionalGeneration

from shared import data, metrics, text2text

NEW_TOKENS = 64  # as many as a summary has
SIZES = {"d_model": 256, "d_kv": 64, "d_ff": 1_024, "num_layers": 4, "num_decoder_layers": 4, "num_heads": 4}


def bundled_articles() -> list[str]:
    return [text for split in ("train", "validation", "test") for text in data.bundled_split("cnn_dailymail", split)["article"]]


def of_many_lengths(articles: list[str], rows: int, seed: int = 0) -> list[str]:
    """`rows` texts: the articles' beginnings, of a few sentences up to all of them."""
    rng = np.random.default_rng(seed)
    texts = []
    for row in range(rows):
        sentences = metrics.split_sentences(articles[row % len(articles)])
        texts.append(" ".join(sentences[: rng.integers(2, len(sentences) + 1)]))
    return texts


def load_tokenizer(articles: list[str]) -> PreTrainedTokenizerBase:
    """A byte-level BPE trained on the articles, of which a text has about as many tokens as of T5's own; it closes a text as T5's does."""
    tokenizer = GPT2Tokenizer(eos_token="</s>", pad_token="<pad>").train_new_from_iterator([articles], 4_000, show_progress=False)
    closing = [("</s>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=closing)
    return tokenizer


def decided_model(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A small T5 with random weights, spread so widely that rounding never decides between two tokens."""
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    torch.manual_seed(0)
    config = T5Config(vocab_size=len(tokenizer), pad_token_id=pad, eos_token_id=eos, decoder_start_token_id=pad, **SIZES)
    model = T5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(3)
    return model


def generation(rows: int = 64, rounds: int = 1) -> float:
    """Seconds of generating one by one over seconds in batches, the median of `rounds` runs; the texts must agree."""
    articles = bundled_articles()
    tokenizer = load_tokenizer(articles)
    model = decided_model(tokenizer)
    sources, ratios = of_many_lengths(articles, rows), []
    for _ in range(rounds):
        started = time.perf_counter()
        single = [text2text.generate(model, tokenizer, [text], max_new_tokens=NEW_TOKENS).texts[0] for text in sources]
        between = time.perf_counter()
        batched = text2text.generate(model, tokenizer, sources, max_new_tokens=NEW_TOKENS).texts
        ratios.append((between - started) / (time.perf_counter() - between))
        assert batched == single, "batched generation gives other texts"
    assert len(set(single)) > rows / 2
    return statistics.median(ratios)


def intervals(rows: int = 1_000, rounds: int = 3) -> float:
    """Seconds of ROUGE with its 1,000-resample intervals over seconds of scoring once, the median of `rounds` runs."""
    articles, ratios = bundled_articles(), []
    summaries = [" ".join(metrics.split_sentences(text)[:3]) for text in of_many_lengths(articles, rows, seed=1)]
    references = [" ".join(metrics.split_sentences(text)[1:4]) for text in of_many_lengths(articles, rows, seed=2)]
    references = [reference or "nothing" for reference in references]
    metrics.rouge(summaries, references, resamples=1)  # the stemmer's memory is filled for both
    for _ in range(rounds):
        started = time.process_time()
        metrics.rouge(summaries, references, resamples=1)
        between = time.process_time()
        metrics.rouge(summaries, references, resamples=1_000)
        ratios.append((time.process_time() - between) / (between - started))
    return statistics.median(ratios)


def compare(rows: int = 64, pairs: int = 1_000, rounds: int = 3) -> dict[str, float]:
    """Both ratios, for tests.bench."""
    return {"generation": generation(rows), "intervals": intervals(pairs, rounds)}
