"""A loopback Hub that also takes commits: as much of the protocol as `create_repo` and `create_commit` need."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from .hub_server import Handler, HubServer

TOKEN = "hf_test"


class UploadServer(HubServer):
    """No repository at first; `create_repo` makes one.

    Attributes:
        commits: Commit -> all files at that commit; the last one is the head.
        private: Whether the repository is private.
        failing: Part of a path -> status with which requests for it fail.
        objects: Large files that were uploaded, by sha256.
        summaries: First lines of the commits.
    """

    def __init__(self) -> None:
        super().__init__("", {}, UploadHandler)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.private = False
        self.failing: dict[str, int] = {}
        self.objects: dict[str, bytes] = {}
        self.summaries: list[str] = []

    def tree(self, revision: str) -> dict[str, bytes] | None:
        return self.commits.get(self.commit_of(revision))

    def commit_of(self, revision: str) -> str:
        return list(self.commits)[-1] if revision == "main" and self.commits else revision

    def commit(self, body: bytes) -> str:
        """Applies the lines of a commit; returns its hash."""
        files = dict(self.tree("main") or {})
        for item in map(json.loads, body.splitlines()):
            value = item["value"]
            if item["key"] == "header":
                self.summaries.append(value["summary"])
            elif item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert item["key"] == "lfsFile", item["key"]
                files[value["path"]] = self.objects[value["oid"]]
        name = hashlib.sha1(body + str(len(self.commits)).encode()).hexdigest()
        self.commits[name] = files
        return name


class UploadHandler(Handler):
    def do_GET(self) -> None:
        hub = self._hub()
        if self.path == f"/api/models/{hub.repo_id}":
            hub.requests.append(f"GET {self.path}")
            self._json(200, {"id": hub.repo_id, "private": hub.private, "sha": hub.commit_of("main")})
        else:
            super().do_GET()

    def do_PUT(self) -> None:
        content = self._body()
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(content).hexdigest() == digest
        self._hub().objects[digest] = content
        self._json(200, {})

    def do_POST(self) -> None:
        hub, body = self._hub(), self._body()
        status = next((status for part, status in hub.failing.items() if part in self.path), None)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            status = 401
        self._json(status, {"error": "refused"}) if status else self._json(*self._reply(hub, body))

    def _reply(self, hub: UploadServer, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.path.endswith(f"/api/models/{hub.repo_id}/commit/main"):
            name = hub.commit(body)
            return 200, {"success": True, "commitOid": name, "commitUrl": f"{hub.url}/{hub.repo_id}/commit/{name}"}
        facts = json.loads(body)
        if self.path == "/api/repos/create":
            made, hub.repo_id = not hub.repo_id, f"{facts['organization']}/{facts['name']}"
            hub.private = facts.get("private") or facts.get("visibility") == "private" if made else hub.private
            return 200 if made else 409, {"url": f"{hub.url}/{hub.repo_id}"}
        if self.path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if self.path == f"/api/models/{hub.repo_id}/preupload/main":
            return 200, {"files": [self._mode(hub, file) for file in facts["files"]]}
        assert self.path == f"/{hub.repo_id}.git/info/lfs/objects/batch", self.path
        objects = [
            {**item, "actions": {"upload": {"href": f"{hub.url}/objects/{item['oid']}"}}} for item in facts["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def _mode(self, hub: UploadServer, file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith(".safetensors")
        there = (hub.tree("main") or {}).get(file["path"])
        oid = hashlib.sha256(there).hexdigest() if there is not None and large else None
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _hub(self) -> UploadServer:
        assert isinstance(self.server.hub, UploadServer)
        return self.server.hub

    def _body(self) -> bytes:
        self._hub().requests.append(f"{self.command} {self.path}")
        if length := self.headers.get("Content-Length"):
            return self.rfile.read(int(length))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _json(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self._answer(status, {"Content-Type": "application/json"}, body, len(body))
