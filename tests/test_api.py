"""Every call that notebooks and helpers make into the libraries fits the signature that the installed version has.

Read from the source text, so that a call in a branch that no test enters is checked too: functions, classes and classmethods
(`AutoModel.from_pretrained`) that are reached from an import, and `super()` of a class built on the library's. Whose method
`rows.select(order)` is cannot be told from the text, so a method of an object fits if it fits one of the classes that the
course makes objects of and that have a method of this name. Where a signature ends in **kwargs, as `from_pretrained` does, any
keyword fits it.
"""

import ast
import functools
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import datasets
import peft
import pytest
import torch
import transformers
from transformers import PreTrainedConfig

from tests.programs import PROGRAMS, program

LIBRARIES = ("transformers", "peft", "datasets", "accelerate", "evaluate", "huggingface_hub", "bitsandbytes", "sklearn", "safetensors")

OBJECTS = (  # what the programs make and call methods of, the library's
    transformers.Trainer, transformers.Seq2SeqTrainer, transformers.PreTrainedModel, transformers.EncoderDecoderModel,
    transformers.T5ForConditionalGeneration, transformers.LlamaForCausalLM, transformers.PreTrainedTokenizerFast,
    transformers.BatchEncoding, transformers.PreTrainedConfig, transformers.GenerationConfig, datasets.Dataset, datasets.DatasetDict,
    datasets.Features, peft.PeftModel, peft.PeftModelForCausalLM, peft.tuners.lora.LoraModel,
)
OTHERS = (torch.nn.Module, str, bytes, list, dict, set)  # have methods of the same names: `text.encode("utf8")`
OF_TENSORS = {"log"}  # also methods of torch's tensors, which are written in C and have no signature
USED = {  # some that the lessons live on; one that a library took away would no longer be seen by the check at all
    "add_column", "apply_chat_template", "convert_ids_to_tokens", "decode", "disable_adapter",
    "evaluate", "generate", "merge_and_unload", "num_special_tokens_to_add", "predict", "save_pretrained", "select",
    "sequence_ids", "train",
}


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


def methods(source: str) -> Iterator[tuple[ast.Call, list[Any]]]:
    """Each call of an object's method that could be one of the library's, with what it may call."""
    tree = ast.parse(source)
    modules = {(alias.asname or alias.name).split(".")[0] for node in ast.walk(tree)
               if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}  # fmt: skip
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
        owner, name = call.func.value, call.func.attr
        named = ast.unparse(owner) in ("self", "cls") or ast.unparse(owner).split(".")[0] in modules
        if not named and name not in OF_TENSORS and any(callable(getattr(kind, name, None)) for kind in OBJECTS):
            yield call, [getattr(kind, name) for kind in (*OBJECTS, *OTHERS) if callable(getattr(kind, name, None))]


def bound(method: Any) -> Any:
    """The method as an object has it, its first parameter taken."""
    return method if inspect.ismethod(method) else functools.partial(method, None)


def method_misfits(source: str) -> Iterator[str]:
    """'line 3: generate: ...' for each call of a method that fits none of the classes which have such a one."""
    for call, candidates in methods(source):
        complaints = [misfit(call, bound(method)) for method in candidates]
        if all(complaints):
            yield f"line {call.lineno}: {call.func.attr}: {complaints[0]}"


@pytest.mark.parametrize("path", PROGRAMS, ids=[path.stem for path in PROGRAMS])
def test_every_call_fits_the_installed_library(path):
    assert list(misfits(program(path))) == []
    assert list(method_misfits(program(path))) == []


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


WRONG_METHODS = {
    "trainer.train(resume=True)": "train: got an unexpected keyword argument 'resume'",
    "tokenizer.apply_chat_template()": "apply_chat_template: missing a required argument: 'conversation'",
    "rows.select(indexes=[0])": "select: missing a required argument: 'indices'",
    "tokenizer.convert_ids_to_tokens()": "convert_ids_to_tokens: missing a required argument: 'ids'",
    "trainer.add_callback()": "add_callback: missing a required argument: 'callback'",
    "rows.add_column('name')": "add_column: missing a required argument: 'column'",
}


@pytest.mark.parametrize(("source", "complaint"), WRONG_METHODS.items())
def test_the_check_sees_a_method_called_wrongly(source, complaint):
    assert list(method_misfits(source)) == [f"line 1: {complaint}"]


def test_the_check_lets_a_method_pass_that_fits_one_of_its_classes():
    right = ["model.train(False)", "trainer.train(resume_from_checkpoint='x')", "text.encode('utf8')", "rows.select(order)", "mine.walk(1)"]
    assert list(method_misfits("\n".join(right))) == []


def test_the_check_reaches_the_methods_that_the_lessons_live_on():
    found = {call.func.attr for path in PROGRAMS for call, _ in methods(program(path))}
    assert USED <= found


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
