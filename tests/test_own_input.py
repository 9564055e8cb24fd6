"""What readers type in themselves: very long, broken, right-to-left, made of emoji. Every family answers, or says what is wrong."""

import pytest
import torch
from transformers import AutoModelForQuestionAnswering, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from shared import qa, text2text
from shared.course.runtime import CourseError, encodable
from tests.tiny import DECODERS, decoder, tokenizer_of

ODD = {
    "NUL bytes": "the train\0 left\0 at nine",
    "lone surrogates": "the train \ud83d left \ude00 at nine",
    "right to left": "יצאה הרכבת בשעה תשע \u202eenin ta tfel",
    "Arabic": "غادر القطار في الساعة التاسعة",
    "emoji": "👩🏽‍🚀 left at 🕘, 🇮🇩 first",
    "combining marks": "the tra\u0301\u0302\u0303in le\u0308ft",
    "control characters": "the \x1b[31mtrain\x07 left",
    "white space of many kinds": "the\u00a0train\u2003left\u200bat\tnine\r\n",
    "markup": "<script>alert('x')</script> [link](javascript:x) | **bold**",
}
odd = pytest.mark.parametrize("text", ODD.values(), ids=ODD)
SENTENCE = "the train left at nine and "
LONG = SENTENCE * 400_000  # more than 10 million characters


@pytest.fixture(scope="module")
def reader():
    name = "google-bert/bert-base-uncased"
    torch.manual_seed(0)
    return AutoModelForQuestionAnswering.from_pretrained(name).eval(), AutoTokenizer.from_pretrained(name)


@pytest.fixture(scope="module")
def writers():
    name = "google-t5/t5-small"
    return [(AutoModelForSeq2SeqLM.from_pretrained(name).eval(), tokenizer_of(name)), (decoder(DECODERS[1]), tokenizer_of(DECODERS[1]))]


@odd
def test_answers_are_cut_out_of_the_very_text(reader, text):
    spans = qa.answer(*reader, "when did it leave?", text, max_length=48, stride=8)
    assert spans
    for span in spans:
        assert 0 <= span.start_char <= span.end_char <= len(text)
        assert span.text == encodable(text)[span.start_char : span.end_char]


@odd
def test_writers_end_and_give_text(writers, text):
    for model, tokenizer in writers:
        written = text2text.generate(model, tokenizer, [text], max_new_tokens=8)
        assert len(written.texts) == 1 and isinstance(written.texts[0], str)
        written.texts[0].encode("utf8")  # can be shown and saved


@pytest.mark.parametrize("times", [4_000, pytest.param(400_000, marks=pytest.mark.slow)])
def test_a_book_is_cut_and_said(writers, capsys, times):
    written = text2text.generate(*writers[0], [SENTENCE * times], max_new_tokens=2, max_source=64)
    assert len(written.texts) == 1 and "1 of 1 sources did not fit into 64 tokens and lost their right end" in capsys.readouterr().out


@pytest.mark.slow
def test_ten_million_characters_are_read_to_their_end(reader, monkeypatch):
    model, tokenizer = reader
    (wanted,) = tokenizer("!", add_special_tokens=False)["input_ids"]

    def finds_it(input_ids, **kwargs):  # in place of a trained model
        score = 50.0 * (input_ids == wanted)
        return QuestionAnsweringModelOutput(start_logits=score, end_logits=score)

    monkeypatch.setattr(model, "forward", finds_it)
    best = qa.answer(model, tokenizer, "when did it leave?", LONG + "!", max_length=384, stride=16, n_best=3)[0]
    assert (best.text, best.start_char, best.end_char) == ("!", len(LONG), len(LONG) + 1)


@pytest.mark.parametrize("nothing", ["", "  \n\t", "\u2003", None, 7])
def test_nothing_is_no_text(reader, writers, nothing):
    with pytest.raises(CourseError, match="context is empty"):
        qa.answer(*reader, "when?", nothing)
    for model, tokenizer in writers:
        with pytest.raises(CourseError, match=r"is empty|texts and token ids are mixed"):
            text2text.generate(model, tokenizer, [nothing, "a text"], max_new_tokens=2)
