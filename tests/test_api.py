"""Every call that notebooks and helpers make into the libraries fits the signature that the installed version has.

Read from the source text, so that a call in a branch that no test enters is checked too: functions, classes and classmethods
(`AutoModel.from_pretrained`) that are reached from an import, and `super()` of a class built on the library's. Methods of
objects (`model.generate`, `trainer.train`) cannot be told from the text; the notebooks themselves, run by the tests, call those.
Where a signature ends in **kwargs, as `from_pretrained` does, any keyword fits it.
"""

import ast
import functools
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


def inheriting(tree: ast.AST, known: dict[str, Any]) -> dict[int, Any]:
    """{a call of `super()`, by its identity: the library's class above the one that it stands in}."""
    found = {}
    for owner in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        bases = [base for base in (target(expression, known) for expression in owner.bases) if base is not None]
        for node in ast.walk(owner) if bases else ():
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "super":
                found[id(node)] = bases[0]
    return found


def target(function: ast.expr, known: dict[Any, Any]) -> Any:
    """What a call calls, or None where it is not the library's; AttributeError where the library has no such name."""
    if isinstance(function, ast.Name):
        return known.get(function.id)
    if isinstance(function, ast.Call):
        return known.get(id(function))
    if isinstance(function, ast.Attribute):
        owner = target(function.value, known)
        found = None if owner is None else getattr(owner, function.attr)
        return functools.partial(found, None) if isinstance(function.value, ast.Call) and inspect.isfunction(found) else found
    return None


def calls(source: str) -> Iterator[tuple[ast.Call, Any]]:
    """Each call of a name, an attribute or a classmethod of a library with what it calls, or the AttributeError where there is none."""
    tree = ast.parse(source)
    known = imported(tree)
    known |= inheriting(tree, known)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        try:
            called = target(call.func, known)
        except AttributeError as error:
            called = error
        if called is not None:
            yield call, called


def misfit(call: ast.Call, called: Any) -> str:
    """Why the call does not fit the signature, '' where it does."""
    if isinstance(called, AttributeError):
        return str(called)
    if inspect.isclass(called) and issubclass(called, PreTrainedConfig):  # a configuration takes any key
        return ""
    try:
        signature = inspect.signature(called)
    except ValueError:  # written in C, without a signature
        return ""
    kinds = {parameter.kind for parameter in signature.parameters.values()}
    if kinds == {inspect.Parameter.VAR_KEYWORD}:  # some automatic classes show nothing but **kwargs
        return ""
    unpacked = any(isinstance(argument, ast.Starred) for argument in call.args) or any(keyword.arg is None for keyword in call.keywords)
    places = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
    try:  # what is unpacked may bring the rest
        bind = signature.bind_partial if unpacked else signature.bind
        bind(*places, **{keyword.arg: keyword.value for keyword in call.keywords if keyword.arg})
    except TypeError as error:
        return str(error)
    return ""


def misfits(source: str) -> Iterator[str]:
    """What a program gets wrong: 'line 3: ...' for a name or a parameter that the library does not have, or an argument it wants."""
    for call, called in calls(source):
        if complaint := misfit(call, called):
            yield f"line {call.lineno}: {complaint}"


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
    "from transformers import TrainingArguments\nTrainingArguments(group_by_length=True)":
        "got an unexpected keyword argument 'group_by_length'",
    "from transformers import Trainer as T\nT(None, tokenizer=None)": "got an unexpected keyword argument 'tokenizer'",
    "import transformers\ntransformers.AutoModelForNothing()": "module transformers has no attribute AutoModelForNothing",
    "import peft\npeft.LoraConfig(r=8, lora_beta=2)": "got an unexpected keyword argument 'lora_beta'",
    "from datasets import Dataset\nDataset.from_dict({}, None, None, None, None, None)": "too many positional arguments",
    "import datasets\ndatasets.load_dataset(split='train')": "missing a required argument: 'path'",
    "from transformers import AutoTokenizer\nAutoTokenizer.from_pretrained()":
        "missing a required argument: 'pretrained_model_name_or_path'",
    "from peft import PeftModel\nPeftModel.from_pretrain(None, 'x')": "type object 'PeftModel' has no attribute 'from_pretrain'",
    "from transformers import Trainer\nclass Mine(Trainer): predict = lambda self, rows: super().predict(rows, keys=1)":
        "got an unexpected keyword argument 'keys'",
}


@pytest.mark.parametrize(("source", "complaint"), WRONG.items())
def test_the_check_sees_what_is_wrong(source, complaint):
    assert list(misfits(source)) == [f"line 2: {complaint}"]


def test_the_check_lets_pass_what_is_right():
    imports = "from peft import LoraConfig\nimport datasets\n"
    right = ["LoraConfig(r=8, lora_alpha=16)", "datasets.Dataset.from_dict({'a': [1]})", "LoraConfig(**more)",
             "datasets.load_dataset(*what)", "mine(x=1)"]  # fmt: skip
    assert list(misfits(imports + "\n".join(right))) == []


def test_the_check_reaches_the_calls_of_all_libraries():
    found = [called for path in PROGRAMS for _, called in calls(program(path)) if not isinstance(called, AttributeError)]
    homes = [getattr(called, "__module__", None) or "" for called in found]
    assert {"transformers", "peft", "datasets"} <= {home.split(".")[0] for home in homes}
    assert len(found) > 100 and sum(inspect.ismethod(called) for called in found) > 20
