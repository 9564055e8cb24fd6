"""Texts in, texts out: batches for training, batched generation, label log-likelihoods. Never scores.

Padding is done here on token ids, to the right for training and encoders and to the left for a decoder that goes on
writing, so no tokenizer's `padding_side` is read or changed.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import BatchEncoding, GenerationMixin, PreTrainedModel, PreTrainedTokenizerBase

from shared import data
from shared.course.runtime import CourseError, encodable, memory_for, progress
from shared.doctor import examine as template_doctor  # noqa: F401  what a tokenizer and its chat template do

IGNORED = -100  # the label that PyTorch's cross-entropy leaves out
# What transformers calls a decoder's keys and values; 5.24 gave them another name
CACHE = next(
    name for name in ("cache", "past_key_values") if name in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)
# Greedy decoding, and nothing else that a checkpoint's generation_config may ask for (BART-base: four beams, no trigram twice, EOS
# at the limit). What belongs to its vocabulary stays: start, stop and forbidden tokens.
GREEDY = {
    "do_sample": False, "num_beams": 1, "use_cache": True, "early_stopping": False, "length_penalty": 1.0, "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "min_length": 0, "min_new_tokens": None, "forced_eos_token_id": None,
    "num_return_sequences": 1,
}  # fmt: skip


def _require(kind: str, texts: Sequence[str]) -> None:
    """CourseError for a text that is none or empty."""
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise CourseError(f"{kind} {row} is empty: drop the row, or give it a text")


def _tokenise(tokenizer: PreTrainedTokenizerBase, max_length: int | None = None, **texts: list[str]) -> BatchEncoding:
    if not tokenizer.is_fast:
        raise CourseError(f"{type(tokenizer).__name__} cannot tell what it cut: load a fast tokenizer (AutoTokenizer does)")
    texts = {side: [encodable(text) for text in given] if isinstance(given, list) else given for side, given in texts.items()}
    return tokenizer(**texts, truncation=max_length is not None, max_length=max_length, verbose=False)


def _own_tokens(tokenizer: PreTrainedTokenizerBase, kind: str, texts: Sequence[str]) -> list[list[int]]:
    """Each text's own token ids, without those that the tokenizer puts around it; CourseError for a text that has none."""
    found = tokenizer(list(texts), add_special_tokens=False)["input_ids"] if len(texts) else []
    for text, ids in zip(texts, found, strict=True):
        if not ids:
            raise CourseError(f"the {kind} {text!r} has no token in this tokenizer: give it a text that the model can say")
    return found


def _require_decoder(model: PreTrainedModel, function: str, cure: str) -> None:
    if model.config.is_encoder_decoder:
        raise CourseError(f"{function} reads a decoder; this model is an encoder-decoder: {cure}")


def _open_ended(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], add_special_tokens: bool = True
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """(ids, character offsets) of each text with the tokenizer's opening tokens but without closing ones.

    A prompt that ends with EOS or SEP tells the model that the text is over.
    """
    for row in _tokenise(tokenizer, text=texts, add_special_tokens=add_special_tokens).encodings if texts else []:
        end = len(row.ids)
        while end and row.offsets[end - 1] == (0, 0):  # stands for no character: the tokenizer put it there
            end -= 1
        yield row.ids[:end], row.offsets[:end]


@dataclass
class CompletionCollator:
    """Pads rows of input_ids and labels (-100 on the prompt) for a decoder on the right: labels with -100, attention with 0.

    The labels were fixed row by row, so EOS stays in the loss even where it is also the padding token. The library's
    DataCollatorForLanguageModeling masks every padding token there is, and with it that EOS.

    With `only_completions` the model is asked for logits only where some row of the batch has a label (`logits_to_keep`), so
    the product with the vocabulary, the largest of a small model, is not computed for the prompts. The loss is the same;
    the labels then have one column for each position asked for, already shifted.
    """

    tokenizer: PreTrainedTokenizerBase
    only_completions: bool = False

    def __call__(self, rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        """{'input_ids', 'attention_mask', 'labels'}, each [rows, longest row], int64; more with `only_completions`."""
        ids, mask = _pad([row["input_ids"] for row in rows], _padding_token(self.tokenizer), "right")
        labels, _ = _pad([row["labels"] for row in rows], IGNORED, "right")
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if self.only_completions:
            following = labels[:, 1:]  # what stands after each position
            asked = (following != IGNORED).any(0).nonzero()[:, 0]
            # under both names: the Trainer counts the one, the model's loss reads the other
            batch |= {"logits_to_keep": asked, "labels": following[:, asked], "shift_labels": following[:, asked]}
        return batch


def _pad(rows: Sequence[Sequence[int]], value: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, attention mask), both [rows, longest row]."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        place = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[number, place], mask[number, place] = torch.tensor(row, dtype=torch.long), 1
    return ids, mask


def _padding_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills the masked places: the padding token, else EOS; the attention mask hides either."""
    return next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)


# ---------------------------------------------------------------- generation


class Generated(NamedTuple):
    """What `generate` returns, in the order of the sources. stopped: booleans [texts], ended by EOS before the limit."""

    texts: list[str]
    stopped: np.ndarray


def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[str | list[int]],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    max_source: int | None = None,
    **arguments: Any,
) -> Generated:
    """The model's answer to every source.

    Args:
        sources: texts (with their prefix), or token ids.
        max_source: tokens, for an encoder-decoder: a longer text loses its right end, which is said. A decoder's prompt
            cannot be cut like that, because the instruction may stand at its end: cut its document before.
        arguments: more for the library's `generate`. The default is greedy (`GREEDY`) whatever the model's generation_config says.
            With num_return_sequences=n the n texts of a source follow one another.

    Sources of like length share a batch, the longest first, padded left for a decoder and right for an encoder. Only the continuation
    is decoded. Generation stops at the model's or the tokenizer's EOS. CourseError for an empty source or one beyond the model's window.
    """
    rows = _source_ids(model, tokenizer, sources, max_source)
    _check_window(model, rows, max_new_tokens)
    seq2seq, stops, pad = model.config.is_encoder_decoder, _stop_tokens(model, tokenizer), _padding_token(tokenizer)
    arguments = GREEDY | {"eos_token_id": stops, "pad_token_id": pad} | arguments
    stops, each = np.atleast_1d(arguments["eos_token_id"]), arguments["num_return_sequences"]
    texts, stopped = [""] * (each * len(rows)), np.zeros(each * len(rows), bool)
    with _evaluating(model, batch_size):
        for batch in _batches(rows, batch_size):
            places = [each * row + number for row in batch for number in range(each)]
            ids, mask = (part.to(model.device) for part in _pad([rows[row] for row in batch], pad, "right" if seq2seq else "left"))
            given = {"input_ids": ids, "attention_mask": mask, **arguments, **_read_once(model, ids, mask, arguments)}
            output = model.generate(max_new_tokens=max_new_tokens, **given)
            new = output[:, 1 if seq2seq else ids.shape[1] :].cpu().numpy()  # a decoder of its own begins with a start token
            stopped[places] = np.isin(new, stops).any(1)
            for place, text in zip(places, decode(new, tokenizer), strict=True):
                texts[place] = text
    return Generated(texts, stopped)


def _read_once(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, arguments: dict[str, Any]) -> dict[str, Any]:
    """For beams and samples: the keys and values of all tokens but the last, so that a decoder reads each prompt once.

    The library's `generate` reads it once per beam or sample. The texts are the same (`make bench` compares them, and the seconds).
    """
    times = max(arguments["num_beams"], arguments["num_return_sequences"])
    if times == 1 or ids.shape[1] == 1 or not arguments["use_cache"] or model.config.is_encoder_decoder:
        return {}
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    ids, mask, places = ids[:, :-1], mask[:, :-1], places[:, :-1]
    with torch.no_grad():
        read = model(input_ids=ids, attention_mask=mask, position_ids=places, use_cache=True, logits_to_keep=1)
    read[CACHE].batch_repeat_interleave(times)
    return {CACHE: read[CACHE]}


class Scored(NamedTuple):
    """What `generate_scored` returns, in the order of the prompts.

    texts: the first line of each reply. stopped: booleans [prompts], that line ended before the limit. log_likelihood: float64
    [prompts], log P of the line and of the token that ended it. rival: float64 [prompts, tokens], log P of each token of
    the rival, EOS last.
    """

    texts: list[str]
    stopped: np.ndarray
    log_likelihood: np.ndarray
    rival: np.ndarray


def generate_scored(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    rival: str,
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    **arguments: Any,
) -> Scored:
    """What a decoder replies, how likely that was, and how likely a fixed other reply, the rival, would have been.

    Args:
        prompts: token ids.
        rival: for example " unanswerable"; it is tokenised apart from the prompt.
        arguments: more for `model.generate`. The likelihoods are the model's own, before any token that they forbid.

    A prompt is read once, for the reply and for the rival. A reply ends with its first line. Otherwise as `generate`;
    raises CourseError also for a rival without a token.
    """
    _require_decoder(model, "generate_scored", "use generate")
    rows = _source_ids(model, tokenizer, prompts, None)
    ending = [*_own_tokens(tokenizer, "rival", [rival])[0], tokenizer.eos_token_id]
    _check_window(model, rows, max(max_new_tokens, len(ending)))
    stops, pad = _stop_tokens(model, tokenizer), _padding_token(tokenizer)
    fixed = GREEDY | {"return_dict_in_generate": True, "output_logits": True}
    found = Scored([""] * len(rows), np.zeros(len(rows), bool), np.zeros(len(rows)), np.zeros((len(rows), len(ending))))
    with _evaluating(model, batch_size):
        for batch in _batches(rows, batch_size):
            ids, mask = (part.to(model.device) for part in _pad([rows[row] for row in batch], pad, "left"))
            limits = {"max_new_tokens": max_new_tokens, "eos_token_id": stops, "pad_token_id": pad}
            output = model.generate(input_ids=ids, attention_mask=mask, **limits, **fixed, **arguments)
            new, said = _spoken(output, ids.shape[1])
            found.rival[batch] = _continued(model, output[CACHE], ids, mask, ending).cpu().double()
            for row, tokens, scores in zip(batch, new.tolist(), said, strict=True):
                count, found.stopped[row] = _first_line(tokens, tokenizer, stops)
                found.texts[row] = decode([tokens[:count]], tokenizer)[0].split("\n")[0].strip()
                found.log_likelihood[row] = scores[:count].sum()
    return found


def _spoken(output: Any, start: int) -> tuple[torch.Tensor, torch.Tensor]:
    """What was generated after the first `start` tokens, and log P of each token of it, both [rows, new tokens]."""
    new = output.sequences[:, start:]
    return new, torch.stack([_picked(step, new[:, k]) for k, step in enumerate(output.logits)], 1).cpu().double()


def _picked(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """log P of each token, [...], from logits [..., vocabulary]."""
    return logits.float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


def _first_line(tokens: list[int], tokenizer: PreTrainedTokenizerBase, stops: list[int]) -> tuple[int, bool]:
    """How many tokens belong to the reply's first line, with the one that ended it, and whether one did."""
    for count, token in enumerate(tokens, 1):
        if token in stops or "\n" in tokenizer.decode(tokens[:count]).lstrip():
            return count, True
    return len(tokens), False


def _continued(model: PreTrainedModel, cache: Any, ids: torch.Tensor, mask: torch.Tensor, ending: list[int]) -> torch.Tensor:
    """log P of each token of `ending` after left-padded prompts that `cache` begins with, [rows, tokens]."""
    start = ids.shape[1] - 1  # the prompt's last token predicts the ending's first
    try:
        cache.crop(start - cache.get_seq_length())
    except RuntimeError:  # a sliding window has forgotten the beginning: read it again
        cache, start = None, 0
    tokens = torch.tensor(ending, device=ids.device).expand(len(ids), -1)
    attended = torch.cat([mask, mask.new_ones(len(ids), len(ending) - 1)], 1)
    output = model(
        input_ids=torch.cat([ids, tokens[:, :-1]], 1)[:, start:],
        attention_mask=attended,
        position_ids=(attended.cumsum(-1) - 1).clamp(min=0)[:, start:],
        use_cache=cache is not None,
        logits_to_keep=len(ending),
        **{CACHE: cache},
    )
    return _picked(output.logits, tokens)


def decode(ids: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts of rows of token ids (lists, array or tensor), without special tokens and outer white space.

    Negative ids are left out: labels and the Trainer's padded predictions have -100, on which the tokenizers fail.
    """
    rows = ids.tolist() if hasattr(ids, "tolist") else ids
    kept = ([token for token in row if token >= 0] for row in rows)
    return [tokenizer.decode(row, skip_special_tokens=True).strip() for row in kept]


def respell(texts: Sequence[str], sources: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts in the spelling of their sources, where the tokenizer has lost capitals, accents or the blanks around signs.

    What a model copies stands in its source letter for letter. The longest runs of words whose letters stand there, between the
    borders of words, become what stands there: "10. 5 million" is 10.5 million again, and "beyonce" Beyoncé. What does not
    stand in the source stays as it is, and so does all that a tokenizer without such losses has decoded, T5's for one.
    """
    if len(texts) != len(sources):
        raise CourseError(f"{len(texts)} texts for {len(sources)} sources: give one a text, in the same order")
    probe = "Ida has 10.5"
    if decode([tokenizer(probe)["input_ids"]], tokenizer) == [probe]:
        return list(texts)
    return [_respelled(text, source) for text, source in zip(texts, sources, strict=True)]


def _respelled(text: str, source: str, longest: int = 40) -> str:
    tokens = [(found.start(), found.end()) for found in re.finditer(r"\w+|[^\w\s]", text)]
    own, there = _letters_of(text), _letters_of(source)
    before = np.searchsorted([place for _, place in own], range(len(text) + 1))  # letters before each place
    said, letters = ("".join(letter for letter, _ in some) for some in (own, there))
    written, at, first = [], 0, 0
    while first < len(tokens):
        start = tokens[first][0]
        for last in range(min(len(tokens), first + longest), first, -1):
            end = tokens[last - 1][1]
            if place := _between_words(said[before[start] : before[end]], letters, there, source):
                written += [text[at:start], source[place[0] : place[1]]]
                at, first = end, last
                break
        else:
            first += 1
    return "".join([*written, text[at:]])


def _letters_of(text: str) -> list[tuple[str, int]]:
    """(letter in lower case without its accent, its place) of all that is neither white space nor an accent of its own."""
    places = [(letter.lower(), place) for place, letter in enumerate(text) if not letter.isspace()]
    parts = [(part, place) for letter, place in places for part in unicodedata.normalize("NFD", letter)]
    return [(part, place) for part, place in parts if unicodedata.category(part) != "Mn"]


def _between_words(wanted: str, letters: str, there: list[tuple[str, int]], source: str) -> tuple[int, int] | None:
    """(start, end) in the source of the first place where these letters stand and no word goes on at either side."""
    found = letters.find(wanted) if wanted else -1
    while found >= 0:
        start, end = there[found][1], there[found + len(wanted) - 1][1] + 1
        cut = [side for side in (start, end) if 0 < side < len(source) and source[side - 1].isalnum() and source[side].isalnum()]
        after = there[found + len(wanted)][1] if found + len(wanted) < len(there) else len(source)
        if not cut and after >= end and (not found or there[found - 1][1] < start):  # nor a part of a syllable
            return start, end
        found = letters.find(wanted, found + 1)
    return None


def _source_ids(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sources: Sequence[str | list[int]], max_source: int | None
) -> list[list[int]]:
    texts = [source for source in sources if isinstance(source, str)]
    if texts and len(texts) < len(sources):
        raise CourseError("texts and token ids are mixed: generate from them in two calls")
    if not texts:
        return _no_empty("source", [list(source) for source in sources])
    _require("source", texts)
    if model.config.is_encoder_decoder:
        encoded = _tokenise(tokenizer, max_source, text=texts)
        if max_source is not None and (cut := data.count_cut(encoded, max_source)):
            print(f"{cut:,} of {len(texts):,} sources did not fit into {max_source:,} tokens and lost their right end")
        return encoded["input_ids"]
    if max_source is not None:
        raise CourseError("max_source would cut the end of a decoder's prompt: cut its document instead")
    return _no_empty("source", [ids for ids, _ in _open_ended(tokenizer, texts)])


def _no_empty(kind: str, rows: list[list[int]]) -> list[list[int]]:
    """The rows; CourseError for one without a token: a text may be made of characters that its tokenizer drops."""
    for row, ids in enumerate(rows):
        if not ids:
            raise CourseError(f"{kind} {row} is empty, for it has no token: drop the row, or give it a text that the tokenizer knows")
    return rows


def _check_window(model: PreTrainedModel, rows: list[list[int]], new_tokens: int) -> None:
    """CourseError where positions would run out; relative ones (T5) have no end."""
    seq2seq = model.config.is_encoder_decoder
    config = getattr(model.config, "encoder", model.config) if seq2seq else model.config
    window = getattr(config, "max_position_embeddings", None)
    longest = max(range(len(rows)), key=lambda row: len(rows[row]), default=None)
    needed = 0 if longest is None else len(rows[longest]) + (0 if seq2seq else new_tokens)
    if window and needed > window:
        cure = "set max_source" if seq2seq else "cut its document"
        raise CourseError(f"source {longest} needs {needed:,} tokens and the model has {window:,}: {cure}")


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The model's EOS tokens and the tokenizer's, which fine-tuning taught; a BERT has SEP instead."""
    of_model = getattr(model.generation_config, "eos_token_id", None)
    stops = {int(token) for token in np.atleast_1d([] if of_model is None else of_model)}
    stops |= {token for token in [tokenizer.eos_token_id] if token is not None}
    if not stops and tokenizer.sep_token_id is None:
        raise CourseError("neither model nor tokenizer has an EOS token, so nothing could stop: pass eos_token_id")
    return sorted(stops) or [tokenizer.sep_token_id]


def _batches(rows: Sequence[Sequence[int]], size: int) -> Iterator[np.ndarray]:
    """Row numbers, the longest rows first: what is too big fails at once, and like lengths share a batch."""
    order = np.argsort([-len(row) for row in rows], kind="stable")
    with tqdm(total=len(rows), unit="row", leave=False, delay=1, disable=_bar_disabled()) as bar:
        for start in range(0, len(rows), size):
            chosen = order[start : start + size]
            yield chosen
            bar.update(len(chosen))
            progress(step=start + len(chosen), of=len(rows))


def _bar_disabled() -> bool | None:
    """tqdm's `disable`: a bar in a notebook that somebody sits at, and (None) where the error stream is a terminal.

    Whatever executes a notebook unattended (nbclient, nbval) tells the kernel that nobody can type; its outputs, which
    may be published, get no bar.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    kernel = getattr(shell, "kernel", None)
    return None if kernel is None else not getattr(kernel, "_allow_stdin", False)


@contextlib.contextmanager
def _evaluating(model: PreTrainedModel, batch_size: int) -> Iterator[None]:
    """Dropout off and no gradients; the model's mode is restored. CourseError where the batches are too large for the memory."""
    training = model.training
    model.eval()
    try:
        with memory_for(f"asking the model for {batch_size} texts at once", "fewer (batch_size), or shorter ones"), torch.inference_mode():
            yield
    finally:
        model.train(training)


# ---------------------------------------------------------------- label log-likelihoods


def label_log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    labels: Sequence[str],
    batch_size: int = 16,
    add_special_tokens: bool = True,
) -> np.ndarray:
    """log P(label | prompt) of a decoder, summed over the label's tokens: float64 [prompts, labels].

    As lm-evaluation-harness does it (lm_eval/models/huggingface.py and lm_eval/api/model.py, `_encode_pair` and
    `_loglikelihood_tokens`): white space at the prompt's end moves to the label; prompt + label is tokenised as one text,
    and the label's tokens are those after as many as the prompt alone has. A longer label has a lower sum; divide by its
    length for the harness's acc_norm. Labels mostly begin with a space: " positive", " negative".

    Args:
        add_special_tokens: whether the tokenizer's opening tokens (Llama's BOS) stand first, as in training here. The
            harness leaves them out by default.

    Labels of one token share a single pass per prompt, and only the last positions' logits are computed. Raises
    CourseError for no label, a prompt or label without a token, a prompt too long for the model, and an encoder-decoder.
    """
    _require_decoder(model, "label_log_likelihoods", "let it generate the label")
    contexts, endings = _encode_labels(tokenizer, prompts, labels, add_special_tokens)
    inputs: dict[tuple[int, ...], list[int]] = {}  # what the model reads -> the pairs that it is read for
    for pair, (context, ending) in enumerate(zip(contexts, endings, strict=True)):
        inputs.setdefault((*context, *ending[:-1]), []).append(pair)
    rows, pairs = list(inputs), list(inputs.values())
    _check_window(model, rows, 0)
    found = np.zeros(len(contexts))
    with _evaluating(model, batch_size):
        for batch in _batches(rows, batch_size):
            asked = [(place, pair) for place, row in enumerate(batch) for pair in pairs[row]]
            targets, counted = _pad([endings[pair] for _, pair in asked], 0, "left")
            ids, mask = _pad([rows[row] for row in batch], _padding_token(tokenizer), "left")
            scores = _last_log_probabilities(model, ids, mask, targets.shape[1])
            scores = scores[[place for place, _ in asked]].gather(-1, targets[..., None].to(model.device))[..., 0]
            found[[pair for _, pair in asked]] = (scores.cpu().double() * counted).sum(1)
    return found.reshape(len(prompts), len(labels))


def _encode_labels(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], labels: Sequence[str], add_special_tokens: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """Token ids of the prompt and of the label of each pair, [prompts x labels]."""
    if not len(labels):
        raise CourseError("there is no label to choose from: give at least one, such as ' positive'")
    _require("prompt", prompts)
    _require("label", labels)
    _own_tokens(tokenizer, "label", labels)
    bare = [prompt.rstrip() for prompt in prompts]
    wholes = [prompt + label for prompt in prompts for label in labels]
    contexts = _no_empty("prompt", [ids for ids, _ in _open_ended(tokenizer, bare, add_special_tokens)])
    contexts = [ids for ids in contexts for _ in labels]
    joined = _open_ended(tokenizer, wholes, add_special_tokens)
    endings = [ids[len(context) :] for (ids, _), context in zip(joined, contexts, strict=True)]
    for pair, ending in enumerate(endings):
        if not ending:
            label = labels[pair % len(labels)]
            raise CourseError(f"the label {label!r} melts into the prompt's last token: begin it with a space")
    return contexts, endings


def _last_log_probabilities(model: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, keep: int) -> torch.Tensor:
    """float32 [rows, keep, vocabulary]: what the model expects after each of the last `keep` tokens of left-padded rows."""
    output = model(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0).to(model.device),  # padding on the left takes no position
        use_cache=False,
        logits_to_keep=keep,
    )
    return output.logits.float().log_softmax(-1)
