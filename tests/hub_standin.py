"""A small Hub on this machine's loopback: true repository ids, configurations, splits and columns; tiny models, bundled rows.

The libraries' own client talks to it (HF_ENDPOINT), so ids, configurations, revisions, file names and model classes of the
`full` profile are exercised as they stand. It can also fail as the real one does: see `Hub.trouble`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import torch
from datasets import Dataset, Translation
from transformers import AutoConfig, AutoModelForMaskedLM, MarianConfig, MarianMTModel

from shared.legacy import causal, data, models, seq2seq

SHA = "5" * 40  # the commit that every revision stands for
# where the Hub keeps the rows: {data set: {split: file}}
FILES = {
    "ag_news": "data/{split}-00000-of-00001.parquet",
    "go_emotions": "simplified/{split}-00000-of-00001.parquet",
    "mnli": "mnli/{split}-00000-of-00001.parquet",
    "rte": "rte/{split}-00000-of-00001.parquet",
    "sst2": "sst2/{split}-00000-of-00001.parquet",
    "squad": "plain_text/{split}-00000-of-00001.parquet",
    "squad_v2": "squad_v2/{split}-00000-of-00001.parquet",
    "xsum": "default/{split}/0000.parquet",
    "cnn_dailymail": "3.0.0/{split}-00000-of-00001.parquet",
    "en_id": "en-id/{split}-00000-of-00001.parquet",
}


class Hub:
    """A folder with `models/owner/name/…` and `datasets/owner/name/…`, served; `asked` has every request's path.

    `trouble` maps a part of a path to what befalls it: 401, 404, 500, a float (seconds that the answer takes) or "cut" (the
    connection ends in the middle of the file).
    """

    def __init__(self, root: Path):
        self.root, self.asked, self.trouble = root, [], {}

    @contextmanager
    def serving(self):
        """The address while the server runs."""
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.respond()

    def do_GET(self):
        self.respond()

    def do_POST(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.respond()

    def respond(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        trouble = next((kind for part, kind in self.hub.trouble.items() if part in path), None)
        if isinstance(trouble, float):
            time.sleep(trouble)
        if isinstance(trouble, int):
            code = {401: "GatedRepo", 404: "RepoNotFound"}.get(trouble, "")
            return self.send(trouble, {"error": "as asked for"}, {"X-Error-Code": code})
        parts = path.strip("/").split("/")
        if parts[0] == "api":
            return self.api(parts[1:])
        kind, parts = ("datasets", parts[1:]) if parts[0] == "datasets" else ("models", parts)
        if len(parts) > 4 and parts[2] == "resolve":
            revision = 6 if parts[3] == "refs" else 4  # refs/convert/parquet has three parts
            return self.file(self.hub.root / kind / parts[0] / parts[1] / Path(*parts[revision:]), cut=trouble == "cut")
        return self.send(404, {"error": "not found"}, {"X-Error-Code": "RepoNotFound"})

    def api(self, parts: list[str]) -> None:
        if parts[0] not in ("models", "datasets") or len(parts) < 3:
            return self.send(401, {"error": "nobody is logged in"})  # whoami-v2 and the like
        folder = self.hub.root / parts[0] / parts[1] / parts[2]
        if not folder.is_dir():
            return self.send(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        verb = parts[3] if len(parts) > 3 else ""
        if verb == "tree":
            below = "/".join(parts[7:] if parts[4] == "refs" else parts[5:])
            return self.send(200, self.listing(folder, [name for name in files if name.startswith(below)], below))
        if verb == "paths-info":
            wanted = json.loads(self.body)["paths"] if self.body.startswith("{") else parse_qs(self.body).get("paths", [])
            return self.send(200, [self.entry(folder, name) for name in wanted if (folder / name).exists()])
        about = {"id": f"{parts[1]}/{parts[2]}", "sha": SHA, "private": False, "gated": False, "disabled": False, "tags": []}
        return self.send(200, about | {"downloads": 0, "likes": 0, "siblings": [{"rfilename": name} for name in files]})

    def listing(self, folder: Path, files: list[str], below: str) -> list[dict]:
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
        start = len(below) + 1 if below else 0
        folders = {name[: start + name[start:].index("/")] for name in files if "/" in name[start:]}
        if recursive:
            folders = {parent.as_posix() for name in files for parent in Path(name).parents} - {"."}
            return [self.entry(folder, name) for name in sorted({*files, *folders})]
        return [self.entry(folder, name) for name in sorted(folders | {name for name in files if "/" not in name[start:]})]

    def entry(self, folder: Path, name: str) -> dict:
        path = folder / name
        if path.is_dir():
            return {"type": "directory", "oid": SHA, "size": 0, "path": name}
        return {"type": "file", "oid": etag(path), "size": path.stat().st_size, "path": name}

    def file(self, path: Path, cut: bool) -> None:
        if not path.is_file():
            return self.send(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": SHA})
        content, size = path.read_bytes(), path.stat().st_size
        start = int(self.headers["Range"].split("=")[1].split("-")[0] or 0) if self.headers.get("Range") else 0
        headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": SHA, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self.send_response(206 if start else 200)
        for name, value in (headers | {"Content-Length": str(size - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(content[start : start + (size - start) // 2] if cut else content[start:])
        if cut:
            self.close_connection = True

    def send(self, status: int, body: dict | list, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        for name, value in ({"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


# ---------------------------------------------------------------- what it serves


def add_data(root: Path, name: str) -> None:
    """One data set in the Hub's files and configuration, its rows the course's bundled ones."""
    spec = data.SPECS[name]
    folder = root / "datasets" / spec.hub_id
    config = spec.config or "default"
    splits = [path.stem for path in sorted((data.BUNDLED / name).glob("*.jsonl"))]
    for split in splits:
        rows = data.bundled_split(name, split)
        if name == "en_id":  # the Hub has one column for both languages
            # the lesson asks about the course's own pairs too, and trains on none of them
            again = {"en": " Once more.", "id": " Sekali lagi."} if split == "train" else {"en": "", "id": ""}
            pairs = [{language: row[language] + more for language, more in again.items()} for row in rows]
            rows = Dataset.from_dict({"translation": pairs}).cast_column("translation", Translation(languages=["en", "id"]))
        target = folder / FILES[name].format(split=split)
        target.parent.mkdir(parents=True, exist_ok=True)
        rows.to_parquet(target)
    if spec.revision:
        return  # a converted branch has no card
    card = folder / "README.md"
    lines = card.read_text().removesuffix("---\n").splitlines() if card.is_file() else ["---", "configs:"]
    lines += [f"- config_name: {config}", "  data_files:"]
    for split in splits:
        lines += [f"  - split: {split}", f"    path: {FILES[name].format(split=split).replace('00000-of-00001', '*')}"]
    card.write_text("\n".join([*lines, "---"]) + "\n")


def add_models(root: Path) -> None:
    """Tiny models of the true architectures under the ids that `full` asks for."""
    columns = (("ag_news", "text"), ("squad", "context"), ("cnn_dailymail", "article"))
    texts = [text for name, column in columns for text in data.bundled_split(name, "train")[column]]
    for name, hub_id in (("bert", ""), ("distilbert", "distilbert/distilbert-base-cased")):
        model, tokenizer, _ = models.load_encoder(name, "random", ["a", "b"], tokenizer_texts=texts, seed=0)
        place = root / "models" / (hub_id or models.ENCODERS[name].hub_id)
        AutoModelForMaskedLM.from_config(model.config).save_pretrained(place)  # published without the head of a task
        tokenizer.save_pretrained(place)
    ready, tokenizer, _ = models.load_encoder("distilbert", "random", None, head="spans", tokenizer_texts=texts, seed=0)
    models.save(ready, tokenizer, root / "models" / "distilbert" / "distilbert-base-cased-distilled-squad")
    for name in ("t5-small", "t5-base"):
        model, tokenizer, _ = seq2seq.load_seq2seq(name, "random", tokenizer_texts=texts, seed=0)
        models.save(model, tokenizer, root / "models" / seq2seq.SEQ2SEQ[name].hub_id)
    for name in ("phi-2", "llama-3.2-1b"):
        model, tokenizer, _ = causal.load_causal(name, "random", tokenizer_texts=texts, max_length=2_048, seed=0)
        models.save(model, tokenizer, root / "models" / causal.CAUSAL[name].hub_id)


def add_reference(root: Path) -> None:
    """A tiny Marian under the id of the translation lesson's reference: two SentencePiece models, one vocabulary, old-style weights."""
    import sentencepiece

    place, pairs = root / "models" / "Helsinki-NLP" / "opus-mt-en-id", data.bundled_split("en_id", "train")
    place.mkdir(parents=True)
    known = {"</s>": 0, "<unk>": 1}
    for side, name in (("en", "source"), ("id", "target")):
        with (place / f"{name}.spm").open("wb") as file:
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(pairs[side]), model_writer=file, vocab_size=300, hard_vocab_limit=False, minloglevel=2
            )
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(place / f"{name}.spm"))
        for piece in range(pieces.get_piece_size()):
            known.setdefault(pieces.id_to_piece(piece), len(known))
    known["<pad>"] = len(known)
    (place / "vocab.json").write_text(json.dumps(known), encoding="utf8")
    languages = {"source_lang": "en", "target_lang": "id"}
    (place / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MarianTokenizer"} | languages), encoding="utf8")
    torch.manual_seed(0)
    sizes = {"layers": 2, "ffn_dim": 64, "attention_heads": 2}
    layers = {f"{side}_{what}": size for side in ("encoder", "decoder") for what, size in sizes.items()}
    ends = {"eos_token_id": 0, "forced_eos_token_id": 0, "pad_token_id": known["<pad>"], "decoder_start_token_id": known["<pad>"]}
    model = MarianMTModel(MarianConfig(vocab_size=len(known), d_model=32, max_position_embeddings=512, **layers, **ends))
    model.config.save_pretrained(place)
    model.generation_config.save_pretrained(place)
    torch.save(model.state_dict(), place / "pytorch_model.bin")


def build(root: Path) -> Hub:
    """Everything that the lessons' `full` profile downloads."""
    for name in FILES:
        add_data(root, name)
    add_models(root)
    if importlib.util.find_spec("sentencepiece"):  # the lesson says what it lacks and goes on without
        add_reference(root)
    assert AutoConfig.from_pretrained(root / "models" / "microsoft" / "phi-2").model_type == "phi"
    return Hub(root)
