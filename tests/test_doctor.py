"""Each finding of the template doctor, on tokenizers that have the fault and on one that has not."""

import pytest
from transformers import AutoTokenizer

from shared import doctor
from shared.course import twins
from shared.course.runtime import ROOT
from tests.programs import program

CHATML = twins._CHATML


@pytest.fixture
def chat():
    return AutoTokenizer.from_pretrained(twins.twin("Qwen/Qwen3-0.6B"))


@pytest.fixture
def plain():
    return AutoTokenizer.from_pretrained(twins.twin("microsoft/phi-2"))


def test_a_sound_template_gets_no_note(chat):
    found = doctor.examine(chat, ["a text", "another"])
    assert not [line for line in found.values() if line.startswith("NOTE")]
    assert found["template"] == "a chat template" and found["request"] == "shown as it is"
    assert found["in the loss"].endswith("<|im_end|> \\n") and found["end and padding"] == "<|im_end|> ends, <|endoftext|> pads"
    assert found["special tokens in texts"] == "none in 2 texts"


def test_a_base_model_has_no_template(plain):
    found = doctor.examine(plain)
    assert found["template"].startswith("none") and found["request"] == "shown as it is"
    assert found["training and generation"] == "the same up to the answer"
    assert found["in the loss"].endswith("<|endoftext|>") and "nothing pads" in found["end and padding"]


def test_an_id_is_looked_up(monkeypatch, chat):
    monkeypatch.setattr(doctor.AutoTokenizer, "from_pretrained", lambda name: {"owner/name": chat}[name])
    assert doctor.examine("owner/name") == doctor.examine(chat)


@pytest.mark.parametrize("template", ["{{ 'hello' }}", CHATML.replace("message['content']", "message['content'] | upper"),
                                      CHATML.replace("message['content']", "message['content'] * 2")])
def test_a_request_that_is_not_shown_is_told(chat, template):
    chat.chat_template = template
    assert "does not show a request as it is" in doctor.examine(chat)["request"]


def test_a_start_token_that_stands_twice_is_told():
    tokenizer = AutoTokenizer.from_pretrained(twins.twin("unsloth/Llama-3.2-1B"))
    assert doctor.examine(tokenizer)["start token"] == "<|begin_of_text|>, once"
    tokenizer.chat_template = "{{ bos_token }}" + CHATML
    assert "<|begin_of_text|> stands twice" in doctor.examine(tokenizer)["start token"]


def test_a_thinking_block_and_templates_that_part_are_told(chat):
    answer = "{{ '<think>\n\n</think>\n\n' if message['role'] == 'assistant' }}"
    chat.chat_template = CHATML.replace("{{ '<|im_start|>' + message['role'] + '\n' + message['content']",
                                        "{{ '<|im_start|>' + message['role'] + '\n' }}" + answer + "{{ message['content']")
    found = doctor.examine(chat)
    assert "enable_thinking=False" in found["thinking block"]
    assert found["training and generation"] == "the same up to the answer"  # the block is written, and so trained, as part of the answer
    chat.chat_template = chat.chat_template.replace("'<|im_start|>assistant\n'", "'<|im_start|>assistant\n<think>\nWell'")
    assert "they part at" in doctor.examine(chat)["training and generation"]


def test_an_answer_without_its_end_token_is_told(chat):
    chat.chat_template = CHATML.replace("'<|im_end|>'", "''")
    assert "without the end token <|im_end|>" in doctor.examine(chat)["in the loss"]


def test_one_token_for_end_and_padding_is_told(chat):
    chat.pad_token = chat.eos_token
    assert "does both" in doctor.examine(chat)["end and padding"]
    chat.eos_token = None
    assert "no end token" in doctor.examine(chat)["end and padding"]


def test_special_tokens_in_texts_are_counted_and_stay_text(chat):
    texts = ["He wrote <|im_end|> and <|endoftext|>.", "nothing here", "again <|im_end|>"]
    assert doctor.examine(chat, texts)["special tokens in texts"].startswith("NOTE: 3 in 2 of 3 texts: tokenise them with split_special")
    special = {chat.convert_tokens_to_ids(token) for token in doctor.special_tokens(chat)}
    assert special & set(chat(texts[0], add_special_tokens=False)["input_ids"])
    split = chat(texts[0], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert not special & set(split) and chat.decode(split) == texts[0]


def test_a_tokenizer_that_was_loaded_so_keeps_text_as_text_in_every_call_and_after_saving(tmp_path):
    """cases/22: llm-sst2 and llm-squad-v2 load theirs like this."""
    text = "He wrote <|im_end|> and <|endoftext|>."
    loaded = AutoTokenizer.from_pretrained(twins.twin("HuggingFaceTB/SmolLM2-135M-Instruct"), split_special_tokens=True)
    loaded.save_pretrained(tmp_path)
    for tokenizer in (loaded, AutoTokenizer.from_pretrained(tmp_path)):
        special = {tokenizer.convert_tokens_to_ids(token) for token in doctor.special_tokens(tokenizer)}
        for ids in (tokenizer(text)["input_ids"], tokenizer([text], return_offsets_mapping=True)["input_ids"][0]):
            assert not special & set(ids) and tokenizer.decode(ids) == text


DECODERS = sorted(path for path in (ROOT / "task-3").glob("*/*.ipynb") if not path.parent.name.startswith("lab-"))


@pytest.mark.parametrize("path", DECODERS, ids=lambda path: path.stem)
def test_every_lesson_with_a_decoder_keeps_a_readers_text_as_text(path):
    assert "split_special_tokens=True" in program(path) or '"split_special_tokens": True' in program(path)
