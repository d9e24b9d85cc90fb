"""A hub on loopback: a folder of repositories, spoken of as huggingface_hub expects.

It can also misbehave, and it counts what it sends.
"""

import hashlib
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)(/revision/(?P<rev>[^/]+))?")
_TREE = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+?)/tree/(?P<rev>[^/]+)")
_FILE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<name>.+)")

REFUSALS = {
    "missing": (404, "RepoNotFound", ""),
    "private": (401, "RepoNotFound", "Repository not found"),
    "gated": (403, "GatedRepo", "Access to model is restricted"),
    "bad token": (401, "", "Invalid credentials in Authorization header"),
    "disabled": (403, "", "Access to this resource is disabled."),
    "busy": (503, "", ""),
    "limited": (429, "", ""),
}


class HubServer(ThreadingHTTPServer):
    """Serves `folder/ORG/NAME` as the repository ORG/NAME, at the revision `main`.

    `faults` has what is wrong with a repository, or with one file of it (ORG/NAME/FILE,
    or ORG/NAME/api for the list of files): a key of `REFUSALS`, bytes to send in the
    place of the content, or one of "silent", "slow", "endless", "cut", "no ranges" and
    "no sizes". `moved` has new names of repositories. `sent` counts the bytes of what
    was sent of each file.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.faults: dict[str, str | bytes] = {}
        self.moved: dict[str, str] = {}
        self.sent: Counter[str] = Counter()
        self.requests: list[str] = []
        self.closing = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str) -> str:
        return hashlib.sha1(repo.encode()).hexdigest()

    def files(self, repo: str) -> dict[str, int]:
        root = self.folder / repo
        found = sorted(path for path in root.rglob("*") if path.is_file())
        return {p.relative_to(root).as_posix(): p.stat().st_size for p in found}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may leave whenever it likes."""


@contextmanager
def serving(folder: Path) -> Iterator[HubServer]:
    """Run a hub until the block ends."""
    server = HubServer(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server
        path = urlsplit(self.path).path
        hub.requests.append(f"{self.command} {self.path}")
        matches = ((p, p.fullmatch(path)) for p in (_FILE, _TREE, _API))
        kind, match = next(((p, m) for p, m in matches if m), (None, None))
        if match is None or kind is None:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        repo, revision = match["repo"], unquote(match["rev"] or "main")
        if repo in hub.moved:
            return self._move(repo)
        name = match["name"] if kind is _FILE else "api"
        fault = hub.faults.get(f"{repo}/{name}", hub.faults.get(repo, ""))
        if fault in REFUSALS:
            return self._refuse(*REFUSALS[str(fault)])
        if not (hub.folder / repo).is_dir():
            return self._refuse(*REFUSALS["private"])
        if revision not in ("main", hub.commit(repo)):
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if kind is not _FILE:
            sizes = "blobs=true" in self.path and fault != "no sizes"
            content = self._listing(repo, sizes, tree=kind is _TREE)
        elif name in hub.files(repo):
            content = (hub.folder / repo / name).read_bytes()
        else:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        if isinstance(fault, bytes):
            content = fault
        return self._send(f"{repo}/{name}", content, fault)

    def _listing(self, repo: str, sizes: bool, tree: bool) -> bytes:
        files = self.server.files(repo)
        if tree:
            entries = [
                {"type": "file", "path": n, "size": s, "oid": "0" * 40}
                for n, s in files.items()
            ]
            return json.dumps(entries).encode()
        siblings = [
            {"rfilename": n, **({"size": s, "blobId": "0" * 40} if sizes else {})}
            for n, s in files.items()
        ]
        commit = self.server.commit(repo)
        info = {"id": repo, "modelId": repo, "sha": commit, "siblings": siblings}
        return json.dumps({**info, "private": False, "tags": []}).encode()

    def _send(self, name: str, content: bytes, fault: str | bytes) -> None:
        whole, status, repo = len(content), 200, "/".join(name.split("/")[:2])
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {
            "ETag": f'"{hashlib.sha1(content).hexdigest()}"',
            "X-Repo-Commit": self.server.commit(repo),
            "Content-Type": "application/octet-stream",
        }
        if span and fault != "no ranges":
            start, end = int(span[1]), int(span[2] or whole - 1)
            content, status = content[start : end + 1], 206
            last = start + len(content) - 1
            headers["Content-Range"] = f"bytes {start}-{last}/{whole}"
        length = 10**12 if fault == "endless" else len(content)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(length)}.items():
            self.send_header(key, value)
        if fault:
            self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._write(name, content, fault)

    def _write(self, name: str, content: bytes, fault: str | bytes) -> None:
        closing = self.server.closing
        if fault == "silent":
            closing.wait(60)
        elif fault == "slow":
            for byte in content:
                self.wfile.write(bytes([byte]))
                if closing.wait(0.05):
                    break
        elif fault == "endless":
            while not closing.is_set():
                self.wfile.write(bytes(2**16))
                self.server.sent[name] += 2**16
        else:
            part = content[: len(content) // 2] if fault == "cut" else content
            # In pieces, so that a client that leaves is noticed.
            for start in range(0, len(part), 2**14):
                self.wfile.write(part[start : start + 2**14])
                self.server.sent[name] += len(part[start : start + 2**14])

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _move(self, repo: str) -> None:
        self.send_response(307)
        self.send_header(
            "Location", self.path.replace(repo, self.server.moved[repo], 1)
        )
        self.send_header("Content-Length", "0")
        self.end_headers()


def wait_until_idle(server: HubServer) -> None:
    """Wait until nothing more is sent, so that what was can be counted."""
    before = -1
    while before != (before := server.sent.total()):
        time.sleep(0.05)
