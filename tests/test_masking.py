"""What the lessons on decoders learn from: their own cells make the rows, and here it is checked which tokens count in the loss."""

import ast
from types import SimpleNamespace

import pytest
import torch

from shared import text2text
from tests.programs import NOTEBOOKS, program
from tests.tiny import decoder, tokenizer_of

IGNORED = -100


def taken(lesson: str, *names: str, **given) -> dict:
    """The names that a lesson's cells define with a function or an assignment, made from these cells and what is given."""
    (path,) = [path for path in NOTEBOOKS if path.parent.name == lesson]
    made = {}
    for node in ast.parse(program(path)).body:
        if isinstance(node, ast.FunctionDef):
            made[node.name] = node
        elif isinstance(node, ast.Assign):
            made[ast.unparse(node.targets[0])] = node
    nodes = [node for name, node in made.items() if name in names]
    assert len(nodes) == len(names)
    exec(compile(ast.Module(nodes, []), lesson, "exec"), given)
    return given


def test_phi2_xsum_learns_the_summary_and_its_end_alone():
    tokenizer = tokenizer_of("microsoft/phi-2")
    given = {"tokenizer": tokenizer, "cfg": SimpleNamespace(max_length=96), "before": "Instruct: Summarise.\n\n", "after": "\nOutput:"}
    encode = taken("phi2-xsum", "head", "tail", "plain", "prompt_of", "encode", **given)["encode"]
    answer = [*tokenizer(" A mill is gone.", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    for times, length in ((60, 96), (1, None)):  # an article that is cut, and one that is not
        row = encode({"document": "The mill burned. " * times, "summary": "A mill is gone."})
        assert length in (None, len(row["input_ids"])) and len(row["input_ids"]) <= 96
        assert row["labels"] == [IGNORED] * (len(row["input_ids"]) - len(answer)) + answer
        said = tokenizer.decode(row["input_ids"])
        assert said.startswith("Instruct: Summarise.\n\nThe mill") and said.endswith("\nOutput: A mill is gone." + tokenizer.eos_token)


def test_llm_squad_v2_learns_answers_alone_and_each_question_as_if_it_stood_by_itself():
    tokenizer = tokenizer_of("unsloth/Llama-3.2-1B")
    names = ("REFUSAL", "REQUEST", "question_part", "ids", "head", "encode")
    encode = taken("llm-squad-v2", *names, tokenizer=tokenizer, cfg=SimpleNamespace(max_length=96))["encode"]
    questions, answers = ["What burned?", "Who sang?", "Where?"], [" the mill", " unanswerable", " in Halm"]
    context = "The mill burned in Halm."
    row = encode({"context": context, "questions": questions, "answers": answers})
    learned = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert learned == [label for label in row["labels"] if label != IGNORED]
    ends = [[*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for answer in answers]
    assert learned == [token for end in ends for token in end]
    for number, (question, answer) in enumerate(zip(questions, answers, strict=True), 1):
        alone = encode({"context": context, "questions": [question], "answers": [answer]})
        own, start = [at for at, segment in enumerate(row["segments"]) if segment == number], alone["segments"].count(0)
        for key in ("input_ids", "labels", "positions"):
            assert [row[key][at] for at in own] == alone[key][start:]


def test_the_questions_of_llm_squad_v2_cost_together_what_they_cost_one_by_one():
    """By the lesson's own collator and the solution's own function, in 32 bits."""
    name, names = "unsloth/Llama-3.2-1B", ("REFUSAL", "REQUEST", "question_part", "ids", "head", "encode", "mask_of", "collate", "loss_of")
    tokenizer, model = tokenizer_of(name), decoder(name)
    given = {"tokenizer": tokenizer, "cfg": SimpleNamespace(max_length=96), "torch": torch, "text2text": text2text, "writer": model}
    made = taken("llm-squad-v2", *names, **given)
    questions, answers = ["What burned?", "Who sang?", "Where was it?"], [" the mill", " unanswerable", " in Halm"]
    made["row"] = made["encode"]({"context": "The mill burned in Halm.", "questions": questions, "answers": answers})
    single = sum(made["loss_of"]([number]) for number in (1, 2, 3))
    assert made["loss_of"](range(1, 4)) == pytest.approx(single, rel=1e-4) and single > 1


def test_the_mask_of_llm_squad_v2_shows_the_paragraph_and_the_own_question_and_nothing_later():
    mask_of = taken("llm-squad-v2", "mask_of", torch=torch)["mask_of"]
    segments = torch.tensor([[0, 0, 1, 1, 2, 2, -1], [0, 1, 1, 2, 3, 3, 3]])
    mask = mask_of(segments)
    assert mask.shape == (2, 1, 7, 7)
    for row, at, other in torch.cartesian_prod(torch.arange(2), torch.arange(7), torch.arange(7)).tolist():
        seen = other <= at and (segments[row, other] == 0 or segments[row, other] == segments[row, at])
        assert mask[row, 0, at, other] == seen
