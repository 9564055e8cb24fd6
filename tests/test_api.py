"""Every call that notebooks and helpers make into the libraries names parameters that the installed version has.

Read from the source text, so that a call in a branch that no test enters is checked too.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from transformers import PreTrainedConfig

from shared.runtime import ROOT
from tests.programs import PROGRAMS, program

LIBRARIES = ("transformers", "peft", "datasets", "accelerate", "evaluate", "huggingface_hub", "bitsandbytes", "sklearn", "safetensors")


def imported(tree: ast.AST) -> dict[str, Any]:
    """{name in the program: what it stands for}, for everything imported from one of the libraries."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):  # `from transformers.models import bert`
                    importlib.import_module(f"{node.module}.{alias.name}")
                found[alias.asname or alias.name] = getattr(module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                if top in LIBRARIES:
                    module = importlib.import_module(alias.name)
                    found[alias.asname or top] = module if alias.asname else importlib.import_module(top)
    return found


def target(function: ast.expr, known: dict[str, Any]) -> Any:
    """What a call calls, or None where it is not the library's; AttributeError where the library has no such name."""
    if isinstance(function, ast.Name):
        return known.get(function.id)
    if isinstance(function, ast.Attribute):
        owner = target(function.value, known)
        return None if owner is None else getattr(owner, function.attr)
    return None


def misfits(source: str) -> Iterator[str]:
    """What a program gets wrong: 'line 3: ...' for a name or a parameter that the library does not have."""
    tree = ast.parse(source)
    known = imported(tree)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        try:
            called = target(call.func, known)
            parameters = inspect.signature(called).parameters.values() if callable(called) else None
        except AttributeError as error:
            yield f"line {call.lineno}: {error}"
            continue
        except ValueError:  # written in C, without a signature
            continue
        if parameters is None or (inspect.isclass(called) and issubclass(called, PreTrainedConfig)):  # a configuration takes any key
            continue
        names = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
        open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters)
        if not open_ended:
            yield from (f"line {call.lineno}: no parameter {k.arg}" for k in call.keywords if k.arg and k.arg not in names)
        places = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        starred = any(isinstance(argument, ast.Starred) for argument in call.args)
        hidden = open_ended and not places  # the automatic classes show nothing but **kwargs
        if not starred and not hidden and not any(p.kind is p.VAR_POSITIONAL for p in parameters) and len(call.args) > places:
            yield f"line {call.lineno}: {len(call.args)} arguments for {places} places"


@pytest.mark.parametrize("path", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_every_call_fits_the_installed_library(path):
    assert list(misfits(program(path))) == []


def test_the_settings_of_a_training_are_arguments_of_the_trainer():
    from transformers import Seq2SeqTrainingArguments, TrainingArguments

    tree = ast.parse(program(ROOT / "shared" / "training.py"))
    (function,) = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == "_settings"]
    (returned,) = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
    keys = {key.value for key in returned.keys}
    assert len(keys) > 20
    for kind in (TrainingArguments, Seq2SeqTrainingArguments):
        assert keys <= set(inspect.signature(kind).parameters)


WRONG = {
    "from transformers import TrainingArguments\nTrainingArguments(group_by_length=True)": "no parameter group_by_length",
    "from transformers import Trainer as T\nT(None, tokenizer=None)": "no parameter tokenizer",
    "import transformers\ntransformers.AutoModelForNothing()": "module transformers has no attribute AutoModelForNothing",
    "import peft\npeft.LoraConfig(r=8, lora_beta=2)": "no parameter lora_beta",
    "from datasets import Dataset\nDataset.from_dict({}, None, None, None, None, None)": "6 arguments for 5 places",
}


@pytest.mark.parametrize(("source", "complaint"), WRONG.items())
def test_the_check_sees_what_is_wrong(source, complaint):
    assert list(misfits(source)) == [f"line 2: {complaint}"]


def test_the_check_lets_pass_what_is_right():
    imports = "from peft import LoraConfig\nimport datasets\n"
    assert list(misfits(f"{imports}LoraConfig(r=8, lora_alpha=16)\ndatasets.Dataset.from_dict({{'a': [1]}})\nmine(x=1)")) == []
