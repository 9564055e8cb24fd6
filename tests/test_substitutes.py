"""The models that stand in for T5 offline: made once, the same everywhere, served under their own ids, refused in one line."""

import hashlib
import http.client
import json
import shutil
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from shared.course import substitutes, twins
from shared.course.pointer import PointerEncoderDecoder
from shared.course.standin import Absent, Hub, Missing

with_minilm = pytest.mark.skipif(not twins.PACKAGED[substitutes.MINILM].installed(), reason="the packaged MiniLM is not installed")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def digests(folder) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def pairs_in(folder, split="train"):
    """A folder of COURSE_DATA with English–Indonesian rows of other words than the course's own."""
    (folder / "en_id").mkdir(parents=True)
    rows = {"en": [f"zyx{number} wvu" for number in range(40)], "id": [f"qqq{number} jjj" for number in range(40)]}
    pq.write_table(pa.table(rows), folder / "en_id" / f"{split}.parquet")
    return str(folder)


def test_the_small_t5_and_its_tokenizer_are_the_same_whenever_they_are_made(cache):
    first = substitutes.folder(substitutes.SCRATCH, "bundled")
    before = digests(first)
    shutil.rmtree(cache)
    assert substitutes.folder(substitutes.SCRATCH, "bundled") == first and digests(first) == before


def test_the_small_t5_ends_every_text_and_says_any_text_again():
    folder = substitutes.folder(substitutes.SCRATCH, "bundled")
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    for text in ("The bridge of Ålborg.", "naïve 😀  two blanks", "x", "di mana rumahnya?"):
        ids = tokenizer(text_target=text)["input_ids"]
        assert ids[-1] == 1 and tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.tokenize("rumah itu")[0] == tokenizer.tokenize("itu rumah")[-1]  # at the start of a text too
    assert model.config.vocab_size == len(tokenizer) <= substitutes.VOCABULARY and model.config.decoder_start_token_id == 0
    assert model(**tokenizer(["a b"], return_tensors="pt"), labels=torch.tensor([[5, 1]])).loss > 5


def test_the_tokenizer_is_made_for_the_rows_that_are_served(tmp_path):
    own, other = substitutes.folder(substitutes.SCRATCH, "bundled"), substitutes.folder(substitutes.SCRATCH, pairs_in(tmp_path / "data"))
    assert own != other
    counts = [len(AutoTokenizer.from_pretrained(folder).tokenize("zyx")) for folder in (own, other)]
    assert counts[1] < counts[0]


@pytest.mark.parametrize("folder", ["without the data set", "without its training rows"])
def test_a_folder_without_such_rows_gets_the_courses_own(tmp_path, folder):
    source = tmp_path / "data"
    if folder == "without the data set":
        source.mkdir()
    else:
        pairs_in(source, split="test")
    assert substitutes.folder(substitutes.SCRATCH, str(source)) == substitutes.folder(substitutes.SCRATCH, "bundled")


@with_minilm
def test_minilm_stands_on_both_sides_of_the_pointer():
    base, folder = twins.packaged(substitutes.MINILM), substitutes.folder(substitutes.POINTER, "bundled")
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32), AutoTokenizer.from_pretrained(folder)
    assert type(model) is PointerEncoderDecoder and model.config.pretraining is None
    encoder = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).encoder
    from transformers import BertModel

    published = BertModel.from_pretrained(base, dtype=torch.float32).state_dict()
    assert all(torch.equal(weight, published[name]) for name, weight in encoder.state_dict().items())
    for name, weight in model.decoder.bert.state_dict().items():
        assert "crossattention" in name or torch.equal(weight, published[name]), name
    assert len(model.decoder.bert.encoder.layer) == substitutes.DECODER_LAYERS
    long = " ".join(["word"] * 400)
    assert len(tokenizer(long)["input_ids"]) == 402 and len(tokenizer([long, "a"])["input_ids"][1]) == 3  # neither cut nor filled up


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", substitutes.PRETRAINED)
def test_what_has_not_been_pre_trained_names_the_command(name):
    with pytest.raises(Missing, match=rf"^{name} has to be pre-trained .*, once: python -m shared.course.pretrain {name}$"):
        substitutes.folder(name, "bundled")


def test_an_unknown_substitute_names_the_known_ones():
    with pytest.raises(Absent, match="the stand-in Hub has no course/bart, only course/t5-scratch, course/minilm-pointer, "):
        substitutes.folder("course/bart", "bundled")


def test_pairs_without_training_rows_anywhere_are_a_clear_error(tmp_path, monkeypatch):
    monkeypatch.setattr(substitutes.rows, "BUNDLED", tmp_path)
    with pytest.raises(Missing, match=r"t5-scratch needs English–Indonesian training rows .* put en_id/train.parquet into"):
        substitutes.folder(substitutes.SCRATCH, "bundled")


# ---------------------------------------------------------------- the stand-in Hub


def get(address: str, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("GET", path)
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_the_stand_in_hub_serves_them_where_models_are_packaged_and_nowhere_else(cache):
    taught = substitutes.pretrained_folder("course/minilm-pointer-qa")
    answers = {}
    for models in ("packaged", "twins"):
        hub = Hub(models=models)
        hub.serve()
        try:
            for name in ("t5-scratch", "minilm-pointer-qa"):
                answers[models, name] = get(hub.address, f"/course/{name}/resolve/main/config.json")
            if models == "packaged":  # while it serves
                taught.mkdir(parents=True)
                (taught / "config.json").write_text('{"model_type": "pointer-encoder-decoder"}', encoding="utf8")
                answers["taught"] = get(hub.address, "/course/minilm-pointer-qa/resolve/main/config.json")
        finally:
            hub.stop()
    status, content = answers["packaged", "t5-scratch"]
    assert status == 200 and json.loads(content)["model_type"] == "t5"
    status, content = answers["packaged", "minilm-pointer-qa"]
    assert status == 404 and b"once: python -m shared.course.pretrain course/minilm-pointer-qa" in content
    assert answers["taught"][0] == 200
    assert all(answers["twins", name][0] == 404 for name in ("t5-scratch", "minilm-pointer-qa"))
