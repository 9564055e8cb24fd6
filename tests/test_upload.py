"""A run's model on the Hub: what is sent, that it can be loaded from there, what its card says, and what is refused in one line.

The client reads its address while it is imported, so it runs in a process of its own, which does as much as it can.
"""

import json

import pytest
import yaml

from shared.course import inbox, report, standin, upload
from shared.course.runtime import ROOT, CourseError, RunFolder
from tests.test_standin import get, run, serving

RESULTS = json.loads((ROOT / "task-1/ag-news/results/laptop.json").read_text(encoding="utf8"))

PUBLISHED = """
standing = standin.start("tiny")
from pathlib import Path
import huggingface_hub, torch, transformers
from peft import LoraConfig, get_peft_model
from shared.course import runtime, upload
transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar(); huggingface_hub.utils.disable_progress_bars()
BERT, LLAMA = "google-bert/bert-base-uncased", "unsloth/Llama-3.2-1B"
results, api, found = json.load(open("RESULTS")), huggingface_hub.HfApi(), {}
def folder(name, model, base):
    run = runtime.RunFolder(Path(name))
    model.save_pretrained(run.model)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(run.model)
    (run.model / "training_args.bin").write_bytes(b"names /srv/ada")
    return run
def same(one, other):
    ours, theirs = one.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
names = dict(enumerate(["World", "Sports", "Business", "Sci/Tech"]))
model = transformers.AutoModelForSequenceClassification.from_pretrained(BERT, num_labels=4, id2label=names)
news = folder("the-run", model, BERT)
upload.check("ada/news")
upload.upload(news, results, "ada/news")
upload.upload(news, results, "ada/news")  # once more: the large file is there already
found["files"] = sorted(api.list_repo_files("ada/news"))
found["visibility"] = dict(standing.hub.inbox.visibility)
found["card"] = huggingface_hub.ModelCard.load("ada/news").content
found["same"] = same(model, transformers.AutoModelForSequenceClassification.from_pretrained("ada/news"))
found["said"] = len(transformers.pipeline("text-classification", model="ada/news", top_k=None)("Rates rise.")[0])
decoder = transformers.AutoModelForCausalLM.from_pretrained(LLAMA, dtype=torch.float32)
adapted = get_peft_model(decoder, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], init_lora_weights=False)).eval()
changed = results | {"config": results["config"] | {"model": LLAMA}}
upload.upload(folder("adapters", adapted, LLAMA), changed, "ada/adapters")
again = transformers.AutoModelForCausalLM.from_pretrained("ada/adapters", dtype=torch.float32).eval()
ids = torch.tensor([[1, 2, 3]])
found["adapters"] = [torch.allclose(adapted(ids).logits, again(ids).logits, atol=1e-5), sorted(api.list_repo_files("ada/adapters"))]
found["adapter card"] = huggingface_hub.ModelCard.load("ada/adapters").content
found["refused"] = {}
def tried(what, work):
    try:
        found["refused"][what] = work() or "nothing"
    except runtime.CourseError as error:
        found["refused"][what] = str(error)
for trouble in ({"repos/create": 401}, {"repos/create": 403}):
    standing.hub.trouble = trouble
    tried(f"early {list(trouble.values())}", lambda: upload.check("ada/other"))
for trouble in ({"/commit/": 403}, {"lfs/objects": 500}, {"/commit/": 413}):
    standing.hub.trouble = trouble
    (news.model / "model.safetensors").write_bytes(os.urandom(1000))
    tried(f"late {list(trouble.values())}", lambda: upload.upload(news, results, "ada/news"))
standing.hub.trouble = {}
tried("theirs", lambda: upload.check("google-bert/mine"))
os.remove(news.model / "config.json")
tried("no model", lambda: upload.upload(news, results, "ada/news"))
os.environ["HF_TOKEN"] = "hf_x"
upload.destination = lambda: ("http://127.0.0.1:9", False)
tried("gone", lambda: upload.check("ada/other"))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """What a process found that published a classifier and adapters, on a stand-in Hub of its own."""
    place = tmp_path_factory.mktemp("published")
    code = f"os.chdir({str(place)!r})\n" + PUBLISHED.replace("RESULTS", str(ROOT / "task-1/ag-news/results/laptop.json"))
    said = run(code, tmp_path_factory.mktemp("cache"))
    return json.loads(said.splitlines()[-1]) | {"output": said}


def test_all_files_arrive_and_the_model_loads_from_there(published):
    assert published["files"] == ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert published["same"] and published["said"] == 4
    assert published["visibility"] == {"ada/news": "private"}
    assert "NOTE: this run does without the Hub, so push_to_hub=ada/news is a rehearsal" in published["output"]
    assert "a rehearsal: the stand-in Hub has ada/news until this run ends, and nothing has left this machine" in published["output"]


def test_adapters_arrive_with_the_name_of_their_base_and_answer_alike(published):
    alike, files = published["adapters"]
    assert alike and {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(files)
    assert not {"model.safetensors", "training_args.bin"} & set(files)
    header = yaml.safe_load(published["adapter card"].split("---")[1])
    assert header["base_model"] == "unsloth/Llama-3.2-1B" and header["base_model_relation"] == "adapter"
    assert header["library_name"] == "peft" and header["pipeline_tag"] == "text-generation"
    assert "Adapters for `unsloth/Llama-3.2-1B`" in published["adapter card"]


def test_the_card_says_what_the_results_say(published):
    card, accuracy = published["card"], RESULTS["metrics"]["accuracy"]
    header = yaml.safe_load(card.split("---")[1])
    assert header["base_model"] == RESULTS["config"]["model"] and header["base_model_relation"] == "finetune"
    assert header["pipeline_tag"] == "text-classification" and "license" not in header
    (index,) = header["model-index"]
    scores = {score["type"]: score["value"] for score in index["results"][0]["metrics"]}
    assert index["name"] == "news" and scores == {name: round(score["value"], 4) for name, score in RESULTS["metrics"].items()}
    assert f"| accuracy | **{report.with_interval(accuracy)}** |" in card
    assert "| train | 27,921 | a local copy of the lesson's data set |" in card and "TF-IDF + logistic regression" in card
    assert "7,600 rows of `test`" in card and "4 labels: World, Sports, Business, Sci/Tech." in card
    assert 'pipeline("text-classification", model="ada/news", top_k=None)' in card
    assert "## Limits" in card and "## Licence\n\nNone has been chosen." in card
    assert not [line for line in card.splitlines() if "[text withheld" in line or "(row " in line]


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("early [401]", "push_to_hub=ada/other: the Hub does not accept the token: make one with write access and set HF_TOKEN"),
        ("early [403]", "push_to_hub=ada/other: you may not write to it (as asked for): take a name under your own account, and a token"),
        ("theirs", "push_to_hub=google-bert/mine: you may not write to it (You don't have the rights to create or change a model"),
        ("gone", "push_to_hub=ada/other: the Hub cannot be reached ("),
        ("late [403]", "push_to_hub=ada/news: you may not write to it (as asked for): take a name under your own account"),
        ("late [413]", "push_to_hub=ada/news: the Hub says: as asked for; results and model are kept"),
        ("late [500]", "push_to_hub=ada/news: the Hub says: as asked for; results and model are kept"),
        ("no model", "push_to_hub=ada/news: the-run has no model that can be published; results and model are kept"),
    ],
)
def test_a_refusal_is_one_line_that_says_how_to_try_again(published, what, line):
    said = published["refused"][what]
    assert said.startswith(line) and "\n" not in said
    again = "; results and model are kept: python -m shared.course.upload the-run ada/news tries again"
    assert said.endswith(again) == (what.startswith("late") or what == "no model")


def test_a_refusal_that_ends_the_connection_says_so():
    """Else the client sends its next request into a connection that is gone, and calls the Hub unreachable."""
    asked = json.dumps({"name": "mine", "organization": "google-bert", "type": "model"})
    with serving() as hub:
        status, headers, _ = get(hub.address, "/api/repos/create", "POST", asked)
    assert status == 403 and headers["Connection"] == "close"


# ---------------------------------------------------------------- before anything is trained


@pytest.mark.parametrize("name", ["news", "ada/my news", "https://huggingface.co/ada/news", "ada/news/1", "/news", "ada/", "a/..", "a//b"])
def test_a_name_that_is_none_is_refused_at_once(name):
    with pytest.raises(CourseError, match=r"^push_to_hub takes owner/name, your account on the Hub and a name of letters"):
        upload.check(name)


def test_without_a_token_nothing_begins(tmp_path):
    code = """
    from shared.course import runtime, upload
    upload.check("ada/news")
    """
    with serving() as hub:
        said = run(code, tmp_path, HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path))
        told = "push_to_hub=ada/news needs a token with write access (huggingface.co/settings/tokens): set HF_TOKEN, or run hf auth login"
        assert said == f"CourseError: {told}" and hub.asked == []
        assert run(code, tmp_path, HF_ENDPOINT=hub.address, HF_HOME=str(tmp_path), HF_TOKEN="hf_x") == ""
        assert list(hub.inbox.repositories) == ["ada/news"]


def test_where_only_rows_are_served_here_the_upload_goes_to_the_hub_itself(monkeypatch):
    with serving() as upstream:
        about = {"models": "hub", "upstream": upstream.address}
        monkeypatch.setattr(standin, "describe", lambda address: about)
        monkeypatch.setenv("COURSE_STANDIN", "http://127.0.0.1:9")
        assert upload.destination() == (upstream.address, False)
    monkeypatch.setattr(standin, "describe", lambda address: {})
    assert upload.destination() == (None, False)


def test_a_lab_and_a_wrong_setting_are_refused_by_the_settings(monkeypatch):
    from shared import course

    monkeypatch.setenv("COURSE_SET", "push_to_hub=ada/lab")
    with pytest.raises(CourseError, match=r"^push_to_hub=ada/lab: a lab keeps no model that could be published: leave it out$"):
        course.settings("task-1/lab-speed", model="a/b", **dict.fromkeys(("rows", "train_rows", "scored", "max_length", "batch_size",
                        "frozen_layers", "accumulate", "timed_batches", "rounds"), 1), learning_rate=1.0)  # fmt: skip


# ---------------------------------------------------------------- the stand-in's side


def test_what_the_stand_in_serves_stays_read_only_and_uploads_are_checked():
    large, oid = b"weights", "9a9ebd4fd9e5c4a2d7ed6d5ccd9a4d5b9c1d3fe6a6c44ec9fd0a7bb84d4f2f0b"
    with serving() as hub:
        def post(path: str, **body) -> tuple[int, dict]:
            status, _, content = get(hub.address, path, "POST", body=json.dumps(body))
            return status, json.loads(content)

        assert post("/api/repos/create", name="mine", organization="google-bert")[0] == 403
        assert post("/api/models/google-bert/bert-base-uncased/preupload/main", files=[])[0] == 403
        assert post("/api/models/ada/news/preupload/main", files=[])[0] == 404
        assert post("/api/repos/create", name="news", organization="ada")[0] == 200
        assert post("/api/repos/create", name="news", organization="ada")[0] == 409
        status, _, content = get(hub.address, f"/{inbox.STORE}/{oid}", "PUT", body=large.decode())
        assert status == 400 and b"another hash" in content
        assert get(hub.address, f"/{inbox.STORE}/..%2F..%2Fevil", "PUT", body="x")[0] == 400
        sent = {"key": "lfsFile", "value": {"path": "model.safetensors", "oid": oid, "size": 7}}
        assert post("/api/models/ada/news/commit/main", **sent) == (400, {"error": "model.safetensors was never sent"})
        for wrong in ("../../../etc/passwd", "/etc/passwd"):
            assert post("/api/models/ada/news/commit/main", key="lfsFile", value={"path": "x", "oid": wrong})[0] == 400
        assert hub.inbox.repositories == {"ada/news": {}}
    with serving(models="hub", upstream="http://127.0.0.1:9") as hub:  # uploads are the Hub's own there
        assert get(hub.address, "/api/repos/create", "POST", body="{}")[0] == 403
        assert get(hub.address, f"/{inbox.STORE}/{oid}", "PUT", body="x")[0] == 403


# ---------------------------------------------------------------- the card by itself, and the command


@pytest.fixture
def finished(tmp_path, monkeypatch) -> RunFolder:
    """A run with a model's configuration and AG News' results."""
    monkeypatch.setenv("COURSE_OUTPUTS", str(tmp_path))
    made = RunFolder(tmp_path / "the-run")
    made.model.mkdir(parents=True)
    config = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a|b", "1": "c"}}
    (made.model / "config.json").write_text(json.dumps(config))
    (made.path / "results.json").write_text(json.dumps(RESULTS))
    return made


def test_a_card_for_the_readers_own_data_names_no_file_and_no_folder(finished):
    results = json.loads(json.dumps(RESULTS))
    results["config"] |= {"data": "/srv/ada/secret.csv", "columns": {"text": "review"}, "text": "review", "model": str(finished.path)}
    for part in results["data"].values():
        part["source"] = "file secret.csv"
    card = upload.card(finished.model, results, "ada/news")
    assert "secret" not in card and "/srv" not in card and str(finished.path) not in card and "`text`" not in card
    assert ", on data of the author's own." in card and "| the author's own file |" in card and "a&#124;b, c." in card
    assert "base_model" not in yaml.safe_load(card.split("---")[1])


def test_a_card_says_how_two_texts_are_asked_about_and_that_several_labels_may_hold(finished):
    results = json.loads((ROOT / "task-1/mnli/results/laptop.json").read_text(encoding="utf8"))
    card = upload.card(finished.model, results, "ada/pairs")
    assert 'print(classify({"text": "The first text.", "text_pair": "The second text."}))' in card and "Several labels" not in card
    assert "Measured on 9,815 rows of `matched`, which took no part" in card
    config = json.loads((finished.model / "config.json").read_text()) | {"problem_type": "multi_label_classification"}
    (finished.model / "config.json").write_text(json.dumps(config))
    assert "- Several labels may hold at once." in upload.card(finished.model, RESULTS, "ada/several")


def test_a_card_names_the_hubs_data_set_a_substitute_and_a_twin(finished):
    results = json.loads(json.dumps(RESULTS))
    results["model"] |= {"id": "a/b (random two-layer twin)", "stands_in_for": "google-t5/t5-small"}
    for part in results["data"].values():
        part["source"] = "hub: fancyzhx/ag_news@0123456789ab"
    card = upload.card(finished.model, results, "ada/news")
    assert yaml.safe_load(card.split("---")[1])["datasets"] == ["fancyzhx/ag_news"]
    assert "> **A rehearsal.**" in card and "> **A substitute.** The lesson is about `google-t5/t5-small`" in card


def test_the_command_publishes_a_run_later(finished, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(upload, "check", asked.append)
    monkeypatch.setattr(upload, "upload", lambda run, results, name: asked.append((run.name, results["lesson"], name)))
    assert upload.main(["the-run", "ada/news"]) == 0 and asked == ["ada/news", ("the-run", "task-1/ag-news", "ada/news")]
    assert upload.main(["a-run", "ada/news"]) == 2 and upload.main([]) == 2
    assert "there is no run 'a-run' with results" in capsys.readouterr().err
