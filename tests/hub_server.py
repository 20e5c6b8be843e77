"""A loopback server that speaks as much of the Hub's file protocol as `hf_hub_download` needs."""

from __future__ import annotations

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal
from urllib.parse import unquote

COMMIT = "c0ffee" * 6 + "abcd"
Mode = Literal["ok", "error", "truncated", "dropped", "gated", "no hub", "silent"]


class HubServer:
    """One repository at one commit.

    Attributes:
        url: For HF_ENDPOINT.
        repo_id: The only repository it knows.
        files: Name -> content.
        mode: How it (mis)behaves. "truncated" sends half and says so, "dropped" closes the connection half-way, once;
            "no hub" answers without the Hub's headers, "silent" does not answer.
        requests: `"METHOD /path"` of all requests so far.
    """

    def __init__(self, repo_id: str, files: dict[str, bytes], handler: type[Handler] | None = None) -> None:
        self.repo_id, self.files = repo_id, files
        self.mode: Mode = "ok"
        self.requests: list[str] = []
        self.closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), handler or Handler)
        self._server.hub = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def find(self, path: str) -> bytes | str:
        """Content behind a path, or the Hub's code for why there is none."""
        repo_id, found, rest = unquote(path).lstrip("/").partition("/resolve/")
        revision, _, name = rest.partition("/")
        if not found or repo_id != self.repo_id:
            return "RepoNotFound"
        if self.mode == "gated":
            return "GatedRepo"
        files = self.tree(revision)
        return "RevisionNotFound" if files is None else files.get(name, "EntryNotFound")

    def tree(self, revision: str) -> dict[str, bytes] | None:
        """Files of a revision; None if there is no such revision."""
        return self.files if revision in (COMMIT, "main") else None

    def commit_of(self, revision: str) -> str:
        """Commit that a revision names."""
        return COMMIT


class _Server(ThreadingHTTPServer):
    hub: HubServer


class Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._respond(with_body=False)

    def do_GET(self) -> None:
        self._respond(with_body=True)

    def _respond(self, with_body: bool) -> None:
        self.server.hub.requests.append(f"{self.command} {self.path}")
        if self.server.hub.mode == "silent":
            self.server.hub.closing.wait(2)
            self.close_connection = True
            return
        content = self.server.hub.find(self.path)
        if self.server.hub.mode == "error":
            self._answer(500, {}, b"out of order" if with_body else b"", 12)
        elif isinstance(content, str):
            self._answer(403 if content == "GatedRepo" else 404, {"X-Error-Code": content}, b"", 0)
        else:
            self._file(content, with_body)

    def _file(self, content: bytes, with_body: bool) -> None:
        revision = unquote(self.path).partition("/resolve/")[2].partition("/")[0]
        etag = f'"{hashlib.sha256(content).hexdigest()}"'
        headers = {"ETag": etag, "X-Repo-Commit": self.server.hub.commit_of(revision)}
        start = int(self.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        part = content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        length = len(part)
        if with_body and self.server.hub.mode in ("truncated", "dropped"):
            part = part[: len(part) // 2]
            length = len(part) if self.server.hub.mode == "truncated" else length
            self.close_connection = True
        if self.server.hub.mode == "no hub":
            headers = {}
        self._answer(206 if start else 200, headers, part if with_body else b"", length)
        if with_body and self.server.hub.mode == "dropped":
            self.server.hub.mode = "ok"

    def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass
