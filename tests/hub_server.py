"""A server on the loopback that speaks the HTTP interface of the Hugging Face hub, as far as downloads go.

Large files are kept by git LFS: asking for one leads to another host without credentials, as it does on the real hub.
What went over the wire can be asked afterwards, and a connection can be told to break.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

LFS_FROM = 1000  # bytes
BLOCK = 1 << 16


@dataclass(frozen=True)
class Repo:
    """files: content by path. gated: "" or the one token that is let in. private: the same, but others are told that
    there is no such repository."""

    files: Mapping[str, bytes]
    gated: str = ""
    private: str = ""
    commit: str = "c0ffee" + 34 * "0"


@dataclass(frozen=True)
class Request:
    """A request for the content of a file. sent: bytes of it that were answered with."""

    path: str
    range: str
    authorization: str
    sent: int


@dataclass
class HubServer:
    """repos: by "models/owner/name" or "datasets/owner/name". breaks: for a file's content, after how many bytes each
    of the next connections ends. damage: files whose content arrives as zeros. status: to answer everything with.
    contents: every request for content, in order."""

    repos: dict[str, Repo] = field(default_factory=dict)
    breaks: dict[str, list[int]] = field(default_factory=dict)
    damage: set[str] = field(default_factory=set)
    status: int = 0
    contents: list[Request] = field(default_factory=list)

    def __enter__(self) -> HubServer:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def storage_url(self) -> str:
        """The same server by another name, which is another host to a client."""
        return f"http://localhost:{self._http.server_port}"

    def sent(self, path: str) -> int:
        """Bytes of a file's content that went out, over all requests."""
        return sum(request.sent for request in self.contents if request.path == path)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        if self.hub.status:
            return self._json(self.hub.status, {"error": "as told"})
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "storage":
            return self._content("/".join(parts[1:4]), "/".join(parts[4:]), b"")
        is_api = parts[0] == "api"
        kind, *parts = parts[1:] if is_api else parts if parts[0] == "datasets" else ["models", *parts]
        name, rest = "/".join([kind, *parts[:2]]), parts[2:]
        repo = self.hub.repos.get(name)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == "invalid":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and token != repo.private):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        if len(rest) > 1 and rest[1] not in ("main", repo.commit):
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {rest[1]}")
        if rest == ["auth-check"] and repo.gated and token != repo.gated:
            return self._refuse(403 if token else 401, "GatedRepo", "Access to this repository is restricted")
        if is_api:
            return self._json(200, _tree(repo) if rest[:1] == ["tree"] else _info(name, repo))
        return self._resolve(name, repo, token, "/".join(rest[2:]))

    def _resolve(self, name: str, repo: Repo, token: str, path: str) -> None:
        if repo.gated and token != repo.gated:
            return self._refuse(403 if token else 401, "GatedRepo", "Access to this repository is restricted")
        if path not in repo.files:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        content = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit, "ETag": f'"{_etag(content)}"'}
        if len(content) < LFS_FROM:
            return self._content(name, path, content, headers)
        headers |= {
            "X-Linked-ETag": headers["ETag"],
            "X-Linked-Size": str(len(content)),
            "Location": f"{self.hub.storage_url}/storage/{name}/{path}",
        }
        return self._send(302, b"Found", headers)

    def _content(self, name: str, path: str, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        content = content or self.hub.repos[name].files[path]
        if path in self.hub.damage:
            content = bytes(len(content))
        asked = self.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
        partial = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if asked else {}
        left = self.hub.breaks.get(path)
        until = start + left.pop(0) if left and self.command == "GET" else len(content)
        sent = self._send(206 if asked else 200, content[start:], {**(headers or {}), **partial}, until - start)
        if self.command == "GET":
            self.hub.contents.append(Request(path, asked, self.headers.get("Authorization", ""), sent))

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._json(status, {"error": message}, {"X-Error-Code": code, "X-Error-Message": message})

    def _json(self, status: int, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], until: int | None = None) -> int:
        """Answers, and breaks the connection after `until` bytes of the body; returns how many went out."""
        self.send_response(status)
        for header, value in {**headers, "Content-Length": str(len(body))}.items():
            if value:
                self.send_header(header, value)
        self.end_headers()
        if self.command == "HEAD":
            return 0
        body, whole = body[:until], len(body)
        for start in range(0, len(body), BLOCK):
            self.wfile.write(body[start : start + BLOCK])
        self.close_connection = self.close_connection or len(body) < whole
        return len(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _etag(content: bytes) -> str:
    """What the hub tells of a file: SHA-256 under LFS, else git's name of the blob."""
    if len(content) >= LFS_FROM:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _info(name: str, repo: Repo) -> dict[str, object]:
    return {
        "_id": "1",
        "id": name.partition("/")[2],
        "sha": repo.commit,
        "private": bool(repo.private),
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": path} for path in repo.files],
    }


def _tree(repo: Repo) -> list[dict[str, object]]:
    return [
        {"type": "file", "path": path, "size": len(content), "oid": _etag(content)}
        | ({"lfs": {"oid": _etag(content), "size": len(content), "pointerSize": 1}} if len(content) >= LFS_FROM else {})
        for path, content in repo.files.items()
    ]
