"""The settings of a lesson: the values written in its notebook, what a profile changes of them, and what the reader changes.

A notebook shows one set of values, those for a Colab T4. `profiles.toml` beside it holds, for every other profile, the values
that differ, and `--set key=value` (COURSE_SET) overrides both:

    [laptop]
    model = "google-t5/t5-small"
    train_rows = 4_000

    [offline]
    model = "course/minilm-pointer"

What stands under [offline] holds in laptop where the Hub does not answer, for models that are in no package.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.course import runtime, standin, substitutes
from shared.course.runtime import ROOT, CourseError, parse_overrides, unknown

FILE, OFFLINE = "profiles.toml", "offline"
COMMON = {"seed": 0, "resume": "", "push_to_hub": "", "report_to": "none"}  # every lesson has them; a notebook need not write them down


@dataclass(frozen=True)
class Settings(Mapping):
    """The values in force; `cfg.key` reads one. `changed` says which differ from the notebook's, and by whom."""

    lesson: str
    profile: str
    settings: dict[str, Any]
    overrides: dict[str, Any] = field(default_factory=dict)
    changed: dict[str, tuple[Any, Any, str]] = field(default_factory=dict)

    @property
    def stands_in_for(self) -> dict[str, str]:
        """{key: the notebook's model} for the models that stand in for one that cannot be had."""
        return {key: old for key, (old, new, _) in self.changed.items() if str(new).startswith(substitutes.OWNER)}

    def __getattr__(self, key: str) -> Any:
        settings = self.__dict__.get("settings", {})  # still empty while a copy is being made
        if key not in settings:
            raise AttributeError(f"the settings of {self.__dict__.get('lesson')} have no key '{key}'")
        return settings[key]

    def __getitem__(self, key: str) -> Any:
        return self.settings[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.settings)

    def __len__(self) -> int:
        return len(self.settings)


def settings(lesson: str, **values: Any) -> Settings:
    """The settings of `lesson` ("task-1/ag-news") in the active profile; prints a table of what was changed, and by whom.

    Args:
        values: the notebook's, for profile colab. None stands for "all" rows. The type of each decides what may replace it: a
            float takes whole numbers too, None takes a number or "all". `columns`, a dict, has those of the reader's own file, and
            each of them is a key: --set text=review.

    Raises CourseError, in one line, for an unknown profile or key, in `profiles.toml` or --set, and a value of another type.
    """
    columns = values.pop("columns", {})
    written, profile, file = COMMON | values | columns, runtime.profile(), ROOT / lesson / FILE
    layers = [(f"profile {profile}", _profile_values(file, profile, written))]
    if profile == "laptop" and standin.kind_of_models() == "packaged":
        layers.append(("the Hub's absence", _profile_values(file, OFFLINE, written)))
    overrides = overridden(lesson, written, os.environ.get("COURSE_SET", ""))
    layers.append(("--set", overrides))
    found, changed = dict(written), {}
    for who, layer in layers:
        for key, value in layer.items():
            found[key] = value
            changed[key] = (written[key], value, who)
    changed = {key: change for key, change in changed.items() if change[0] != change[1]}
    found |= {"columns": {key: found[key] for key in columns}} if columns else {}
    cfg = Settings(lesson, profile, found, overrides, changed)
    _print(cfg)
    for key in cfg.stands_in_for:
        substitutes.check(cfg[key], standin.kind_of_models())
    if runtime.is_main_process():
        _check(cfg)
    return cfg


def _check(cfg: Settings) -> None:
    """Before an hour of training: what it is to be published and tracked with. CourseError in one line where that cannot be had."""
    if cfg.push_to_hub and "/lab-" in cfg.lesson:
        raise CourseError(f"push_to_hub={cfg.push_to_hub}: a lab keeps no model that could be published: leave it out")
    if cfg.push_to_hub:
        from shared.course import upload

        upload.check(cfg.push_to_hub)
    if cfg.report_to != "none":
        from shared.course import tracking

        tracking.check(cfg.report_to)


def overridden(lesson: str, written: dict[str, Any], text: str) -> dict[str, Any]:
    """The values in "key=value key=value", each as the type of the written one. Raises CourseError for unknown keys and other types."""
    told = parse_overrides(text)
    for key in told:
        if key not in written:
            raise unknown(f"--set key of {lesson}", key, list(written))
    return {key: _read(key, value, written[key]) for key, value in told.items()}


def _profile_values(path: Path, profile: str, written: dict[str, Any]) -> dict[str, Any]:
    """What the file says for this profile, or `OFFLINE`; nothing for colab, whose values the notebook has."""
    place = f"{path.parent.name}/{path.name}"
    try:
        content = tomllib.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise CourseError(f"{place} is missing: it says what the profiles change of the notebook's settings") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CourseError(f"{place} cannot be read ({error}): correct it") from None
    known = [*(name for name in runtime.PROFILES if name != "colab"), OFFLINE]
    for name, values in content.items():
        if name not in known:
            raise unknown(f"profile in {place}", name, known)
        for key in values:
            if key not in written:
                raise unknown(f"key of [{name}] in {place}", key, list(written))
    return {key: _typed(f"{place}, [{profile}] {key}", value, written[key]) for key, value in content.get(profile, {}).items()}


def _typed(where: str, value: Any, example: Any) -> Any:
    """A value of the file as the type of the notebook's; "all" is None."""
    if value == "all" and (example is None or type(example) is int):
        return None
    if type(example) is float and type(value) is int:
        return float(value)
    if type(value) is not (int if example is None else type(example)):
        raise CourseError(f"{where} = {value!r}: the notebook has {example!r} there, so write {_kind(example)}")
    return value


def _read(key: str, text: str, example: Any) -> Any:
    """The text after --set key= as the type of the notebook's value; "all" and "none" are None for numbers of rows."""
    if (example is None or key.endswith("_rows")) and text.lower() in ("all", "none"):
        return None
    try:
        if type(example) is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if example is None or type(example) is int:
            return int(text.replace("_", ""))
        return type(example)(text)
    except (ValueError, KeyError):
        raise CourseError(f"--set {key}={text}: '{key}' takes {_kind(example)}, for example {key}={_shown(example)}") from None


def _kind(example: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return kinds.get(type(example), "a whole number or all")


def _shown(value: Any) -> str:
    if value is None:
        return "all"
    return f"{value:,}" if type(value) is int else str(value) if value != "" else '""'


def _print(cfg: Settings) -> None:
    """One line for each changed setting, in columns; what it was, what it is, who changed it."""
    if not cfg.changed:
        print(f"{cfg.lesson}, profile {cfg.profile}: the settings are those of the notebook")
        return
    rows = [("setting", "notebook", "now", "changed by")]
    rows += [(key, _shown(old), _shown(new), who) for key, (old, new, who) in cfg.changed.items()]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, (*widths, 0), strict=True)).rstrip())
    for key, old in cfg.stands_in_for.items():
        print(f"NOTE: {key} {cfg[key]} stands in for {old}, which cannot be had here; the text below is about {old}.")
