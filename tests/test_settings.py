"""The settings of a lesson: the notebook's values, a profile's changes, the reader's; what is printed, and what is refused."""

import ast
import re
import sys

import pytest

from shared.course.runtime import CourseError
from shared.course.settings import Settings, settings
from tests.programs import LESSONS, program

module = sys.modules["shared.course.settings"]  # whose name the function has in the package
LESSON = "task-1/demo"
VALUES = {"model": "google-bert/bert-base-uncased", "train_rows": 20_000, "test_rows": None, "epochs": 2.0, "lower": False, "note": ""}
PROFILES = """
[tiny]
train_rows = "all"
epochs = 1
[laptop]
model = "course/small-one"
train_rows = 4_000
test_rows = 500
lower = true
"""


@pytest.fixture
def lesson(tmp_path, monkeypatch):
    """Writes the lesson's profiles.toml."""
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("COURSE_SET", raising=False)
    folder = tmp_path / LESSON
    folder.mkdir(parents=True)

    def write(text: str = PROFILES, profile: str = "laptop", told: str = "") -> Settings:
        (folder / "profiles.toml").write_text(text, encoding="utf8")
        monkeypatch.setattr(module.runtime, "profile", lambda: profile)
        monkeypatch.setenv("COURSE_SET", told)
        return settings(LESSON, **VALUES)

    return write


def test_offline_laptop_changes_more_where_the_hub_does_not_answer(lesson, capsys, monkeypatch):
    text = PROFILES.replace("course/small-one", "google-t5/t5-small") + '[offline]\nmodel = "course/t5-scratch"\ntrain_rows = 900\n'
    found = {}
    for kind in ("packaged", "hub", "twins", ""):
        monkeypatch.setattr(module.standin, "kind_of_models", lambda kind=kind: kind)
        found[kind] = lesson(text)
    assert [(cfg.model, cfg.train_rows, cfg.test_rows) for cfg in found.values()] == [
        ("course/t5-scratch", 900, 500), *[("google-t5/t5-small", 4_000, 500)] * 3,
    ]  # fmt: skip
    assert found["packaged"].changed["train_rows"] == (20_000, 900, "the Hub's absence")
    assert found["packaged"].stands_in_for == {"model": "google-bert/bert-base-uncased"}
    monkeypatch.setattr(module.standin, "kind_of_models", lambda: "packaged")
    assert lesson(text, profile="colab").model == VALUES["model"] and lesson(text, profile="tiny").model == VALUES["model"]
    assert lesson(text, told="model=google-t5/t5-base").stands_in_for == {}


@pytest.mark.parametrize(
    ("told", "kind", "message"),
    [
        ("course/minilm-pointer-qa", "packaged", r"once: python -m shared.course.pretrain course/minilm-pointer-qa$"),
        ("course/minilm-pointr", "packaged", r"unknown substitute 'course/minilm-pointr': did you mean 'course/minilm-pointer'\?"),
        ("course/minilm-pointer", "hub", r"^course/minilm-pointer stands in for a model .*, and the Hub answers: choose the true one"),
    ],
)
def test_a_substitute_that_cannot_be_had_is_refused_in_one_line(lesson, monkeypatch, tmp_path, told, kind, message):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(module.standin, "kind_of_models", lambda: kind)
    with pytest.raises(CourseError, match=message) as caught:
        lesson(PROFILES.replace("course/small-one", "google-t5/t5-small"), told=f"model={told}")
    assert "\n" not in str(caught.value)


def test_the_notebooks_values_are_colabs(lesson, capsys):
    cfg = lesson(profile="colab")
    assert dict(cfg) == VALUES | module.COMMON and cfg.changed == {}
    assert capsys.readouterr().out == "task-1/demo, profile colab: the settings are those of the notebook\n"
    assert (cfg.lesson, cfg.profile, cfg.epochs, cfg["model"], len(cfg)) == (LESSON, "colab", 2.0, VALUES["model"], 10)
    with pytest.raises(AttributeError, match="the settings of task-1/demo have no key 'epoch'"):
        _ = cfg.epoch


def test_a_profile_changes_some_and_the_reader_overrides_both(lesson, capsys):
    cfg = lesson(told="epochs=3 train_rows=8_000 test_rows=all note='two words'")
    assert (cfg.model, cfg.train_rows, cfg.test_rows, cfg.epochs, cfg.lower) == ("course/small-one", 8_000, None, 3.0, True)
    assert type(cfg.epochs) is float and cfg.overrides == {"epochs": 3.0, "train_rows": 8_000, "test_rows": None, "note": "two words"}
    assert cfg.changed["train_rows"] == (20_000, 8_000, "--set") and cfg.changed["lower"] == (False, True, "profile laptop")
    assert "test_rows" not in cfg.changed  # it is what the notebook says again
    header, *rows, note = capsys.readouterr().out.splitlines()
    assert header.split("  ")[0] == "setting" and [row.split()[0] for row in rows] == ["model", "train_rows", "lower", "epochs", "note"]
    assert re.fullmatch(r"train_rows +20,000 +8,000 +--set", rows[1])
    assert note.startswith("NOTE: model course/small-one stands in for google-bert/bert-base-uncased, which cannot be had here; ")
    assert cfg.stands_in_for == {"model": "google-bert/bert-base-uncased"}


def test_a_model_that_is_itself_stands_in_for_none(lesson, capsys):
    assert lesson(profile="tiny").stands_in_for == {} and lesson(told="model=owner/mine").stands_in_for == {}
    assert "stands in" not in capsys.readouterr().out


def test_all_rows_and_whole_numbers_for_floats_may_stand_in_the_file(lesson):
    cfg = lesson(profile="tiny")
    assert cfg.train_rows is None and cfg.epochs == 1.0 and type(cfg.epochs) is float


@pytest.mark.parametrize(
    ("text", "told", "message"),
    [
        ("[small]", "", r"unknown profile in demo/profiles\.toml 'small': .*known are tiny, laptop, paper"),
        ("[colab]\nepochs = 1", "", r"unknown profile in demo/profiles\.toml 'colab': .*known are tiny, laptop, paper"),
        ("[laptop]\nepoch = 1", "", r"unknown key of \[laptop\] in demo/profiles\.toml 'epoch': did you mean 'epochs'"),
        ("[laptop]\nepochs = 'two'", "", r"demo/profiles\.toml, \[laptop\] epochs = 'two': the notebook has 2\.0 there, so write a number"),
        ("[laptop]\nlower = 1", "", r"\[laptop\] lower = 1: the notebook has False there, so write true or false"),
        ("[laptop]\ntest_rows = 'many'", "", r"test_rows = 'many': the notebook has None there, so write a whole number or all"),
        ("[laptop", "", r"demo/profiles\.toml cannot be read \(.*\): correct it"),
        ("", "epoch=1", r"unknown --set key of task-1/demo 'epoch': did you mean 'epochs'"),
        ("", "epochs=many", r"--set epochs=many: 'epochs' takes a number, for example epochs=2\.0"),
        ("", "train_rows=1.5", r"--set train_rows=1\.5: 'train_rows' takes a whole number, for example train_rows=20,000"),
        ("", "lower=perhaps", r"--set lower=perhaps: 'lower' takes true or false, for example lower=False"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(lesson, text, told, message):
    with pytest.raises(CourseError, match=message) as caught:
        lesson(text, told=told)
    assert "\n" not in str(caught.value)


def test_columns_of_the_readers_file_are_keys_of_their_own(lesson, monkeypatch, capsys):
    lesson(profile="colab")
    monkeypatch.setenv("COURSE_SET", "text=review label='the stars' data=my.csv")
    with pytest.raises(CourseError, match="unknown --set key of task-1/demo 'text'"):
        settings(LESSON, **VALUES, data="")  # which names no columns
    cfg = settings(LESSON, **VALUES, data="", columns={"text": "", "label": ""})
    assert cfg.columns == {"text": "review", "label": "the stars"} and cfg.data == "my.csv" and cfg["columns"] is cfg.columns
    assert cfg.overrides == {"text": "review", "label": "the stars", "data": "my.csv"} and cfg.text == "review"
    assert re.search(r"^text +\"\" +review +--set$", capsys.readouterr().out, re.MULTILINE)
    monkeypatch.delenv("COURSE_SET")
    assert settings(LESSON, **VALUES, columns={"text": ""}).columns == {"text": ""}
    monkeypatch.setenv("COURSE_SET", "columns=text")
    with pytest.raises(CourseError, match="unknown --set key of task-1/demo 'columns'"):
        settings(LESSON, **VALUES, columns={"text": ""})


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    with pytest.raises(CourseError, match=r"demo/profiles\.toml is missing: it says what the profiles change"):
        settings(LESSON, **VALUES)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["tiny", "laptop", "colab", "paper"])
def test_every_profile_of_every_lesson_is_read(path, profile, monkeypatch):
    calls = [node for node in ast.walk(ast.parse(program(path))) if isinstance(node, ast.Call)]
    (call,) = [node for node in calls if ast.unparse(node.func) == "course.settings"]
    monkeypatch.setattr(module.runtime, "profile", lambda: profile)
    monkeypatch.delenv("COURSE_SET", raising=False)
    values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    assert not [value for value in values.values() if str(value).startswith(module.substitutes.OWNER)]  # a profile alone names one
    assert set(values) <= set(settings(ast.literal_eval(call.args[0]), **values))
    assert len(set(values) - {"data", "columns"}) <= 12  # beside the reader's own file, which every lesson asks for in the same way
