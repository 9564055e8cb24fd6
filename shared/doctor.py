"""The template doctor: what a tokenizer and its chat template do to a request and its answer, before anything is trained on them.

    for name, finding in doctor.examine("Qwen/Qwen3-0.6B", texts).items():
        print(f"{name:24} {finding}")

A finding that begins with NOTE spoils a training if nobody knows of it, and says what helps.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import AutoTokenizer, PreTrainedTokenizerBase

REQUEST, ANSWER = "Which colour has the sky?", "Blue."
THINKING = r"<\|?think(?:ing)?\|?>"


def examine(tokenizer: PreTrainedTokenizerBase | str, texts: Iterable[str] = ()) -> dict[str, str]:
    """{what was looked at: a line about it}, in the same order for every tokenizer.

    Args:
        tokenizer: or the id of its model.
        texts: what the model is to read, in which special tokens are counted.
    """
    if isinstance(tokenizer, str):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer)
    asked, whole = rendered(tokenizer)
    return {
        "template": "a chat template" if tokenizer.chat_template else 'none, as base models have: "Instruct: … Output:" will do',
        "request": _request(asked),
        "start token": _start(tokenizer, asked),
        "training and generation": _both(asked, whole),
        "thinking block": _thinking(asked, whole),
        "in the loss": _in_the_loss(tokenizer, asked, whole),
        "end and padding": _end(tokenizer),
        "special tokens in texts": _in_texts(tokenizer, texts),
    }


def rendered(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """(the request as the model is asked, the request with its answer as the model is trained)."""
    if not tokenizer.chat_template:
        asked = f"Instruct: {REQUEST}\nOutput:"
        return asked, f"{asked} {ANSWER}{tokenizer.eos_token or ''}"
    turns = [{"role": "user", "content": REQUEST}, {"role": "assistant", "content": ANSWER}]
    asked = tokenizer.apply_chat_template(turns[:1], tokenize=False, add_generation_prompt=True)
    return asked, tokenizer.apply_chat_template(turns, tokenize=False)


def _request(asked: str) -> str:
    if asked.count(REQUEST) == 1:
        return "shown as it is"
    return "NOTE: the template does not show a request as it is: set tokenizer.chat_template to one that does, or to None"


def _start(tokenizer: PreTrainedTokenizerBase, asked: str) -> str:
    start = tokenizer.bos_token_id
    count = tokenizer(asked)["input_ids"][:2].count(start) if start is not None else 0
    if count == 2:
        return f"NOTE: {tokenizer.bos_token} stands twice, from template and tokenizer: tokenise with add_special_tokens=False"
    return f"{tokenizer.bos_token}, once" if count else "none"


def _both(asked: str, whole: str) -> str:
    if whole.startswith(asked):
        return "the same up to the answer"
    place = next((i for i, (one, other) in enumerate(zip(asked, whole, strict=False)) if one != other), min(len(asked), len(whole)))
    return (
        f"NOTE: they part at {asked[place : place + 20]!r} against {whole[place : place + 20]!r}: put the answer behind the prompt "
        "that generation has"
    )


def _thinking(asked: str, whole: str) -> str:
    if re.search(THINKING, asked + whole):
        return "NOTE: the template writes one: pass enable_thinking=False, and the same way in training and generation"
    return "none"


def _in_the_loss(tokenizer: PreTrainedTokenizerBase, asked: str, whole: str) -> str:
    answer = whole[len(asked) :] if whole.startswith(asked) else whole[whole.rfind(ANSWER) :]
    ids = tokenizer(answer, add_special_tokens=False)["input_ids"]
    shown = " ".join(repr(tokenizer.decode([token]))[1:-1] for token in ids)
    if tokenizer.eos_token_id in ids:
        return f"{len(ids)} tokens for {ANSWER!r}: {shown}"
    return f"NOTE: {shown}, without the end token {tokenizer.eos_token}: add it, or the model does not learn to stop"


def _end(tokenizer: PreTrainedTokenizerBase) -> str:
    end, padding = tokenizer.eos_token, tokenizer.pad_token
    if end is None:
        return "NOTE: there is no end token, so nothing could stop: set tokenizer.eos_token"
    if padding is None:
        return f"NOTE: {end} ends, and nothing pads: pad labels with -100, and let attention_mask hide what fills a batch"
    if end == padding:
        return f"NOTE: {end} does both: a collator that masks padding by its token masks the end, too; mask by position"
    return f"{end} ends, {padding} pads"


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Texts that the tokenizer takes for control tokens, wherever they stand."""
    added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted({*added, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)


def _in_texts(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> str:
    special = special_tokens(tokenizer)
    pattern = re.compile("|".join(map(re.escape, special)) or r"(?!)")
    counts = [len(pattern.findall(text)) for text in texts]
    if not sum(counts):
        return f"none in {len(counts):,} texts"
    return (
        f"NOTE: {sum(counts):,} in {sum(map(bool, counts)):,} of {len(counts):,} texts: tokenise them with "
        "split_special_tokens=True, and they stay text"
    )
