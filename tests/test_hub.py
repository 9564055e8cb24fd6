"""The model card's numbers, and an upload that happens only by name; the Hub itself is replaced."""

import functools
import json

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from shared.course import report
from shared.course.runtime import ROOT, CourseError
from shared.legacy import hub

RESULTS = json.loads((ROOT / "task-3/llm-squad-v2/results/laptop.json").read_text(encoding="utf8"))
BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"


def card(results=RESULTS):
    about = {"title": "A title", "dataset": "ada/rows", "language": "en", "purpose": "It sorts.", "usage": "print(1)\n"}
    return hub.model_card(results, tested="validation", **about)


@pytest.mark.parametrize("name", ["ada/adapters", "a.b-c/d_e"])
def test_a_repository_has_an_owner_and_a_name(name):
    assert hub.check_repository(name) == name


@pytest.mark.parametrize("name", ["", "adapters", "ada/", "/x", "a/b/c", "https://huggingface.co/ada/x", "my name/x"])
def test_what_is_no_repository_is_refused(name):
    with pytest.raises(CourseError, match="is no repository of the Hub: write it as owner/name"):
        hub.check_repository(name)


def test_the_card_has_front_matter_and_every_number_of_the_results():
    page = card()
    assert page.startswith(f"---\nbase_model: {BASE}\nlibrary_name: peft\n")
    front = page.split("---")[1]
    assert "language: en\ndatasets:\n- ada/rows\n" in front and "license" not in front  # base model and data have their own
    assert f"[{BASE}](https://huggingface.co/{BASE})" in page and f"beside the weights of {RESULTS['model']['id']}." in page
    for name, value in RESULTS["metrics"].items():
        assert f"| {name} | {report.shown_metric(name, value)} |" in page
    for name in RESULTS["baselines"]:
        assert f"| {name} |" in page
    assert f"{RESULTS['model']['trainable']:,} of {RESULTS['model']['parameters']:,} numbers" in page
    assert "```python\nprint(1)\n```" in page and "It sorts." in page


def test_the_card_names_another_hub_model():
    page = card(RESULTS | {"config": RESULTS["config"] | {"model": "microsoft/phi-2"}})
    assert page.startswith("---\nbase_model: microsoft/phi-2\n") and BASE not in page.replace(RESULTS["model"]["id"], "")


@pytest.mark.parametrize("weights", ["random", "outputs/mine/model/merged"])
def test_a_base_model_that_is_on_no_hub_is_not_named_as_one(weights):
    page = card(RESULTS | {"config": RESULTS["config"] | {"weights": weights}, "model": RESULTS["model"] | {"id": "tiny llama"}})
    assert "base_model" not in page and "huggingface.co" not in page
    assert "adapters for a model that no Hub has:" in page and "beside the weights of tiny llama." in page


def test_rows_of_the_course_are_not_called_the_data_sets():
    split = next(name for name in RESULTS["data"] if name.startswith("train"))
    page = card(RESULTS | {"data": RESULTS["data"] | {split: RESULTS["data"][split] | {"source": "bundled"}}})
    assert "ada/rows" not in page and "datasets" not in page
    assert f"on {RESULTS['data'][split]['rows']:,} rows\n(the course's own, bundled)" in page


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


def test_one_of_several_processes_uploads(api, tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("card")
    monkeypatch.setattr(hub.runtime, "agreed", lambda choose: "what the main process got")
    assert hub.push(tmp_path, "ada/adapters") == "what the main process got" and api.calls == []


def test_nothing_is_sent_without_a_card_or_to_no_repository(api, tmp_path):
    with pytest.raises(CourseError, match="has no model card"):
        hub.push(tmp_path, "ada/adapters")
    (tmp_path / "README.md").write_text("card")
    with pytest.raises(CourseError, match="is no repository"):
        hub.push(tmp_path, "adapters")
    assert api.calls == []


@pytest.mark.parametrize("kind", ["not logged in", "forbidden"])
def test_a_refusal_of_the_hub_names_the_cure(api, tmp_path, monkeypatch, kind):
    (tmp_path / "README.md").write_text("card")
    answer = httpx.Response(403, request=httpx.Request("POST", "https://huggingface.co/api/repos/create"))
    refusals = {"not logged in": errors.LocalTokenNotFoundError("Token is required"),
                "forbidden": errors.HfHubHTTPError("403 Forbidden", response=answer)}
    monkeypatch.setattr(api, "refusal", refusals[kind])
    with pytest.raises(CourseError, match=r"did not take ada/adapters \(.+\): log in with a token that may write"):
        hub.push(tmp_path, "ada/adapters")


def test_without_a_network_the_true_client_s_error_is_told_in_a_line(tmp_path, monkeypatch):
    (tmp_path / "README.md").write_text("card")
    nobody_listens = functools.partial(huggingface_hub.HfApi, endpoint="http://127.0.0.1:9", token="hf_none")
    monkeypatch.setattr(huggingface_hub, "HfApi", nobody_listens)
    with pytest.raises(CourseError, match=r"did not take ada/adapters \(.+\): log in with a token that may write"):
        hub.push(tmp_path, "ada/adapters")
