"""What the stand-in Hub does with an upload: it keeps the files and serves them from then on, so that publishing can be rehearsed offline.

It answers the calls that `huggingface_hub` makes for a commit: create the repository, ask how each file is to be sent, send the large ones
by Git LFS, and commit. What was received lies in a temporary folder and is gone when the stand-in ends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from pathlib import Path
from typing import IO, Any

LARGE = (".safetensors", ".bin", ".pt", ".onnx", ".gguf", ".model", ".spm")  # the Hub takes these by LFS, whatever their size
REGULAR = 10 * 2**20  # bytes; what is larger goes by LFS, too
STORE = "course-lfs"  # the path below which large files are sent


class Refused(Exception):
    """An upload that is not taken: the Hub's status, one line, and what more its answer says."""

    def __init__(self, status: int, message: str, **more: str):
        super().__init__(message)
        self.status, self.answer = status, {"error": message} | more


class Inbox:
    """The repositories that were created here: {id: {file name: path}}, and what of them is on its way.

    Args:
        folder: where the files are kept.
        taken: the owners of what the stand-in serves itself; nobody may create or change anything under their names.
    """

    def __init__(self, folder: Path, taken: set[str]):
        self.folder, self.taken = folder, taken
        self.repositories: dict[str, dict[str, Path]] = {}
        self.visibility: dict[str, str] = {}
        self._lock = threading.Lock()

    def answer(self, parts: list[str], body: bytes, address: str) -> dict[str, Any] | None:
        """What the Hub answers to this POST; None where it is no part of an upload. Raises Refused."""
        if parts == ["api", "repos", "create"]:
            return self.create(json.loads(body), address)
        if parts == ["api", "validate-yaml"]:
            return {"errors": [], "warnings": []}
        if parts[:1] == [STORE]:  # all of the file has come, and has been compared with its hash
            return {}
        if parts[2:] == ["info", "lfs", "objects", "batch"] and parts[1].endswith(".git"):
            self.of("/".join(parts).removesuffix(".git/info/lfs/objects/batch"))
            return {"transfer": "basic", "objects": [self.asked(entry, address) for entry in json.loads(body)["objects"]]}
        if parts[:2] != ["api", "models"] or len(parts) != 6 or parts[4] not in ("preupload", "commit"):
            return None
        name = "/".join(parts[2:4])
        self.of(name)
        if parts[4] == "preupload":
            return {"files": [self.way(entry) for entry in json.loads(body)["files"]]}
        return self.commit(name, [json.loads(line) for line in body.splitlines() if line.strip()], address)

    def create(self, asked: dict[str, Any], address: str) -> dict[str, Any]:
        """A new repository. The Hub's 409, which the client may take for success, where there is one already."""
        name = f"{asked.get('organization') or 'you'}/{asked.get('name', '')}"
        self.check(name)
        if name in self.repositories:
            raise Refused(409, f"You already created this model repo: {name}", url=f"{address}/{name}")
        self.repositories[name] = {}
        self.visibility[name] = asked.get("visibility") or "public"
        return {"url": f"{address}/{name}", "name": name, "id": name}

    def check(self, name: str) -> None:
        """Refused where the name's owner is not the one who uploads."""
        if name.split("/")[0] in self.taken:
            raise Refused(403, f"You don't have the rights to create or change a model under the namespace \"{name.split('/')[0]}\"")

    def of(self, name: str) -> dict[str, Path]:
        """The files of a repository."""
        self.check(name)
        if name not in self.repositories:
            raise Refused(404, f"no repository {name}: create it first")
        return self.repositories[name]

    def way(self, entry: dict[str, Any]) -> dict[str, Any]:
        """How a file is to be sent."""
        large = entry["path"].endswith(LARGE) or entry["size"] > REGULAR
        return {"path": entry["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": None}

    def asked(self, entry: dict[str, Any], address: str) -> dict[str, Any]:
        """Where a large file is to be sent; nowhere if it is here already."""
        about = {"oid": entry["oid"], "size": entry["size"]}
        if self.place(entry["oid"]).is_file():
            return about
        href = f"{address}/{STORE}/{entry['oid']}"
        return about | {"actions": {"upload": {"href": href}, "verify": {"href": href}}}

    def store(self, oid: str, stream: IO[bytes], length: int) -> None:
        """Take a large file. Refused where it is cut off or has another content than it was announced with."""
        place = self.place(oid)
        partial, digest = place.with_name(f".{oid}-{threading.get_ident()}"), hashlib.sha256()
        with open(partial, "wb") as file:
            while length and (part := stream.read(min(length, 2**20))):
                file.write(part)
                digest.update(part)
                length -= len(part)
        if length or digest.hexdigest() != oid:
            partial.unlink()
            raise Refused(400, "the file's content has another hash than announced")
        partial.replace(place)

    def commit(self, name: str, lines: list[dict[str, Any]], address: str) -> dict[str, Any]:
        """Put the files into the repository, all or none."""
        files = dict(self.of(name))
        for line in lines:
            value, kind = line["value"], line["key"]
            if kind == "file":
                files[value["path"]] = self._keep(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                files[value["path"]] = self.place(value["oid"])
                if not files[value["path"]].is_file():
                    raise Refused(400, f"{value['path']} was never sent")
            elif kind == "deletedFile":
                files.pop(value["path"], None)
        with self._lock:
            self.repositories[name] = files
        oid = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        return {"success": True, "commitOid": oid, "commitUrl": f"{address}/{name}/commit/{oid}", "hookOutput": ""}

    def place(self, oid: str) -> Path:
        """Where the content with this SHA-256 is kept."""
        if not re.fullmatch("[0-9a-f]{64}", oid):
            raise Refused(400, f"{oid} is no SHA-256")
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / oid

    def _keep(self, content: bytes) -> Path:
        path = self.place(hashlib.sha256(content).hexdigest())
        path.write_bytes(content)
        return path
