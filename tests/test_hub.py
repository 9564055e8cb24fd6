"""The model card's numbers, and an upload that happens only by name; the Hub itself is replaced."""

import json

import httpx
import pytest
from huggingface_hub import errors

from shared import hub, report
from shared.runtime import ROOT, CourseError

RESULTS = json.loads(sorted(ROOT.glob("task-*/*/results/small.json"))[0].read_text(encoding="utf8"))


def card(results=RESULTS):
    about = {"title": "A title", "base": "ada/base", "datasets": ["ada/rows"], "purpose": "It sorts.", "usage": "print(1)\n"}
    return hub.model_card(results, tested=next(iter(RESULTS["data"])), **about)


@pytest.mark.parametrize("name", ["ada/adapters", "a.b-c/d_e"])
def test_a_repository_has_an_owner_and_a_name(name):
    assert hub.check_repository(name) == name


@pytest.mark.parametrize("name", ["", "adapters", "ada/", "/x", "a/b/c", "https://huggingface.co/ada/x", "my name/x"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(CourseError, match="is no repository of the Hub: write it as owner/name"):
        hub.check_repository(name)


def test_the_card_has_front_matter_and_every_number_of_the_results():
    page = card()
    assert page.startswith("---\nbase_model: ada/base\nlibrary_name: peft\n")
    front = page.split("---")[1]
    assert "datasets:\n- ada/rows\n" in front and "license" not in front  # the base model's holds
    for name, value in RESULTS["metrics"].items():
        assert f"| {name} | {report.shown_metric(name, value)} |" in page
    for name in RESULTS["baselines"]:
        assert f"| {name} |" in page
    assert f"{RESULTS['model']['trainable']:,} of {RESULTS['model']['parameters']:,} numbers" in page
    assert "```python\nprint(1)\n```" in page and "It sorts." in page


def test_the_card_follows_the_results():
    changed = RESULTS | {"metrics": {"bleu": {"value": 12.34, "low": 11, "high": 13}}, "baselines": {"nothing": {"bleu": 1.26, "f1": 0.5}}}
    page = card(changed)
    assert "| bleu | 12.3 [11.0, 13.0] |" in page and "| nothing | bleu 1.3, f1 50.0 % |" in page


class Api:
    calls = None
    refusal = None

    def create_repo(self, name, **options):
        if self.refusal:
            raise self.refusal
        self.calls.append((name, options))
        return f"https://huggingface.co/{name}"

    def upload_folder(self, **options):
        self.calls.append(options)


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(Api, "calls", [])
    monkeypatch.setattr(Api, "refusal", None)
    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    return Api


def test_a_folder_with_a_card_is_uploaded_in_private(api, tmp_path):
    (tmp_path / "README.md").write_text("card")
    assert hub.push(tmp_path, "ada/adapters") == "https://huggingface.co/ada/adapters"
    (name, created), uploaded = api.calls
    assert name == "ada/adapters" and created == {"private": True, "exist_ok": True}
    assert uploaded["repo_id"] == name and uploaded["folder_path"] == tmp_path and "*.safetensors" in uploaded["allow_patterns"]
    assert "token" not in created | uploaded


def test_nothing_is_sent_without_a_card_or_to_no_repository(api, tmp_path):
    with pytest.raises(CourseError, match="has no model card"):
        hub.push(tmp_path, "ada/adapters")
    (tmp_path / "README.md").write_text("card")
    with pytest.raises(CourseError, match="is no repository"):
        hub.push(tmp_path, "adapters")
    assert api.calls == []


@pytest.mark.parametrize("kind", ["not logged in", "forbidden", "offline"])
def test_a_refusal_of_the_hub_names_the_cure(api, tmp_path, monkeypatch, kind):
    (tmp_path / "README.md").write_text("card")
    answer = httpx.Response(403, request=httpx.Request("POST", "https://huggingface.co/api/repos/create"))
    refusals = {"not logged in": errors.LocalTokenNotFoundError("Token is required"),
                "forbidden": errors.HfHubHTTPError("403 Forbidden", response=answer), "offline": httpx.ConnectError("no network")}
    monkeypatch.setattr(api, "refusal", refusals[kind])
    with pytest.raises(CourseError, match=r"did not take ada/adapters \(.+\): log in with a token that may write"):
        hub.push(tmp_path, "ada/adapters")
