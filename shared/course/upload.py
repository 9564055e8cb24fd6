"""A run's model on the Hub: `--set push_to_hub=owner/name`, or afterwards

    python -m shared.course.upload RUN owner/name

RUN is the name of a run's folder. The repository is private until its owner makes it public: the model card, which is made from the
run's results, leaves the licence and the decision to whoever has read it. Texts of the data and the results file stay here.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

from shared.course import report, runtime, standin
from shared.course.rows import DATA_SETS
from shared.course.runtime import ASIDE, ROOT, CourseError, RunFolder, first_line, write_whole
from shared.course.substitutes import OWNER

TEMPLATE = Path(__file__).with_name("model_card.md.j2")
LEFT_OUT = ["training_args.bin", "checkpoint-*"]  # a pickle that names folders of this machine
NOT_SHOWN = ("data", "columns", "overrides", "stands_in_for", "model", *ASIDE)
FROM_HUB = re.compile(r"hub: ([^@ ]+)@")  # how `session.record` names a data set of the Hub
KINDS = {  # how the name of a model's class ends: the task, as the Hub calls it
    "ForSequenceClassification": "text-classification",
    "ForQuestionAnswering": "question-answering",
    "ForConditionalGeneration": "text2text-generation",
    "ForSeq2SeqLM": "text2text-generation",
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
}
ADAPTED = {"SEQ_CLS": "text-classification", "SEQ_2_SEQ_LM": "text2text-generation", "CAUSAL_LM": "text-generation"}


def kind_of(folder: Path) -> str:
    """The task of a saved model or adapter, as the Hub calls it ("text-classification", ...); "" where it is none of the course's."""
    if (folder / "adapter_config.json").is_file():
        return ADAPTED.get(_read(folder / "adapter_config.json")["task_type"], "")
    names = _read(folder / "config.json").get("architectures") if (folder / "config.json").is_file() else None
    return next((kind for end, kind in KINDS.items() if names and names[0].endswith(end)), "")


def text_columns(results: dict[str, Any]) -> list[str]:
    """The texts that a classifier reads: one, or two as in inference."""
    told = results["config"].get("columns") or {}
    known = DATA_SETS.get(results["lesson"].split("/")[1].replace("-", "_"))
    written = [name for name, kind in known.features.items() if kind.get("dtype") == "string" and name != "id"] if known else []
    return [name for name in told if not name.startswith("label")] or written or ["text"]


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf8"))


# ---------------------------------------------------------------- the Hub


def destination() -> tuple[str | None, bool]:
    """Where uploads go, None for the client's own address; and whether that is a stand-in, so that the upload is a rehearsal."""
    address = os.environ.get("COURSE_STANDIN", "")
    told = standin.describe(address) if address else {}
    if told.get("models") == "hub":  # the stand-in serves rows alone
        return told["upstream"], False
    return None, bool(told)


def check(name: str) -> None:
    """Make the repository, or find it: what would fail after the training fails before it.

    Raises CourseError, in one line, for a name that is none, without a token, and where the Hub refuses.
    """
    from huggingface_hub import HfApi, errors, get_token, utils

    try:
        utils.validate_repo_id(name)
    except errors.HFValidationError:
        name = ""
    if name.count("/") != 1:
        raise CourseError("push_to_hub takes owner/name, your account on the Hub and a name of letters, digits, - and _: ada/my-model")
    endpoint, rehearsal = destination()
    if not rehearsal and not get_token():
        raise CourseError(
            f"push_to_hub={name} needs a token with write access (huggingface.co/settings/tokens): set HF_TOKEN, or run hf auth login"
        )
    _asked(name, lambda: HfApi(endpoint=endpoint).create_repo(name, private=True, exist_ok=True))
    if rehearsal:
        print(f"NOTE: this run does without the Hub, so push_to_hub={name} is a rehearsal; shared.course.upload can send the model later")


def _asked(name: str, call: Any, kept: str = "") -> Any:
    """What the call returns; CourseError, in one line, for whatever the client raises. `kept` says how to try again."""
    try:
        return call()
    except Exception as error:  # of a dozen kinds, from the client, from what it sends with, and from the threads it sends in
        asked: Any = next((one for one in (error, error.__cause__) if hasattr(one, "response")), error)
        status = getattr(getattr(asked, "response", None), "status_code", None)
        said = getattr(asked, "server_message", None) or next(filter(None, str(asked).splitlines()), type(asked).__name__)
        reason = {
            401: "the Hub does not accept the token: make one with write access and set HF_TOKEN",
            403: f"you may not write to it ({said[:100]}): take a name under your own account, and a token with write access",
        }.get(status, f"the Hub says: {first_line(ValueError(said))}" if status else f"the Hub cannot be reached ({said[:100]})")
        raise CourseError(f"push_to_hub={name}: {reason}{kept}") from None


def upload(run: RunFolder, results: dict[str, Any], name: str) -> str:
    """Write the model card and send the run's model to the Hub; returns the repository's address, and prints it.

    Raises CourseError, in one line that says how to try again, where there is no model or the Hub does not take it.
    """
    from huggingface_hub import HfApi

    kept = f"; results and model are kept: python -m shared.course.upload {run.name} {name} tries again"
    if not kind_of(run.model):
        raise CourseError(f"push_to_hub={name}: {run.name} has no model that can be published{kept}")
    write_whole(run.model / "README.md", card(run.model, results, name))
    endpoint, rehearsal = destination()
    api, message = HfApi(endpoint=endpoint), f"Fine-tuned in {results['lesson']}, profile {results['profile']}"
    _asked(name, lambda: api.create_repo(name, private=True, exist_ok=True), kept)
    folder = {"folder_path": run.model, "ignore_patterns": LEFT_OUT, "commit_message": message}
    _asked(name, lambda: api.upload_folder(repo_id=name, **folder), kept)
    address = f"{api.endpoint}/{name}"
    if rehearsal:
        print(f"a rehearsal: the stand-in Hub has {name} until this run ends, and nothing has left this machine")
    else:
        print(f"the model is at {address}; a new repository is private: read its card, choose a licence, then make it public")
    return address


# ---------------------------------------------------------------- the card


def base_of(folder: Path, results: dict[str, Any]) -> str:
    """The Hub's id of the model that was fine-tuned, an adapter's as its configuration names it; "" where it is not on the Hub."""
    adapter = folder / "adapter_config.json"
    base = _read(adapter)["base_model_name_or_path"] if adapter.is_file() else results["config"]["model"]
    return base if re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", base) and not base.startswith(OWNER) and not Path(base).exists() else ""


def card(folder: Path, results: dict[str, Any], name: str) -> str:
    """The model card (README.md) of a saved model or adapter: what the results say, with intervals, below the Hub's header."""
    shown = report.inert(results)
    page = report.headline(ROOT / results["lesson"], shown)
    own = bool(results["config"].get("data")) and bool(results["config"].get("columns"))
    hidden = {*NOT_SHOWN, *results["config"].get("columns", {})}
    config = _read(folder / "config.json") if (folder / "config.json").is_file() else {}
    names = config.get("id2label", {}).values() if kind_of(folder) == "text-classification" else []
    template = report.environment(TEMPLATE.parent).get_template(TEMPLATE.name)
    text = template.render(
        r=shown, name=name, kind=kind_of(folder), base=base_of(folder, results), adapter=(folder / "adapter_config.json").is_file(),
        own=own, lesson=page.title, labels=report.inert([*names]), several=config.get("problem_type") == "multi_label_classification",
        pair=len(text_columns(results)) > 1, tested=_tested(page, results), value=report.shown_value, metric=report.shown_metric,
        settings={key: value for key, value in shown["config"].items() if key not in hidden},
    )  # fmt: skip
    return f"---\n{_header(folder, results, name, _tested(page, results))}\n---\n\n{text.strip()}\n"


def _tested(page: Any, results: dict[str, Any]) -> str:
    """The split that the scores are measured on, as the lesson's report names it: the first, where it names several."""
    named = getattr(page, "tested", None) or [name for name in results["data"] if name.startswith("test")]
    return (named or [*results["data"]][-1:])[0]


def _header(folder: Path, results: dict[str, Any], name: str, tested: str) -> str:
    """The Hub's metadata, without a licence. Its scores have no place for an interval, so those stand in the text alone."""
    from huggingface_hub import EvalResult, ModelCardData

    kind, base, adapter = kind_of(folder), base_of(folder, results), (folder / "adapter_config.json").is_file()
    sources = [FROM_HUB.match(results["data"][split]["source"]) for split in results["data"]]
    ids = list(dict.fromkeys(source[1] for source in sources if source))
    scored = {"dataset_type": ids[0] if ids else "own", "dataset_name": ids[0] if ids else "rows of this run", "dataset_split": tested}
    scores = [
        EvalResult(task_type=kind, metric_type=measure, metric_value=round(score["value"], 4), **scored)
        for measure, score in results["metrics"].items()
    ]
    return ModelCardData(
        base_model=base or None, base_model_relation=("adapter" if adapter else "finetune") if base else None, datasets=ids or None,
        library_name="peft" if adapter else "transformers", pipeline_tag=kind, model_name=name.split("/")[1], eval_results=scores,
    ).to_yaml()  # fmt: skip


@runtime.command_line
def main(argv: list[str] | None = None) -> int | None:
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 2:
        raise CourseError("write it as: python -m shared.course.upload RUN owner/name")
    run = RunFolder(next((path for path in (Path(arguments[0]), runtime.outputs_root() / arguments[0]) if path.is_dir()), Path()))
    if not (run.path / "results.json").is_file():
        raise CourseError(f"there is no run '{arguments[0]}' with results: `ls {runtime.outputs_root().name}` shows the runs there are")
    check(arguments[1])
    upload(run, _read(run.path / "results.json"), arguments[1])


if __name__ == "__main__":
    sys.exit(main())
