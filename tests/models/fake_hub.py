"""A hub on loopback: what the real `huggingface_hub` client asks for, answered from folders."""

import hashlib
import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """models: repo -> {revision: folder}, the newest last."""

    def __init__(self):
        self.models: dict[str, dict[str, Path]] = {}
        self.licences: dict[str, str] = {}  # of a repo, or of one of its revisions
        self.asked: list[tuple[str, str, dict]] = []  # method, path, headers
        self.token = ""  # wanted, where it is set
        self.cut: set[str] = set()  # files whose next answer ends halfway
        self.renamed: dict[str, str] = {}  # old name -> the one it answers with
        self.says: dict[str, str] = {}  # revision -> the one it answers with
        self.wrong: set[str] = set()  # files of which other bytes come than it says

    def answer(self, handler, method):
        path = handler.path.split("?")[0]
        self.asked.append((method, path, dict(handler.headers)))
        if self.token and handler.headers.get("Authorization") != f"Bearer {self.token}":
            return self._error(handler, 401, "RepoNotFound", "Invalid username or password.")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repo, rest = "/".join(parts[2:4]), parts[4:]
        else:
            repo, rest = "/".join(parts[:2]), parts[2:]
        repo = self.renamed.get(repo, repo)
        if repo not in self.models:
            return self._error(handler, 404, "RepoNotFound", "Repository not found")
        revisions = self.models[repo]
        wanted = rest[1] if len(rest) > 1 else "main"
        revision = list(revisions)[-1] if wanted == "main" else wanted
        if revision not in revisions:
            return self._error(handler, 404, "RevisionNotFound", "Revision not found")
        folder = revisions[revision]
        if parts[0] == "api" and (not rest or rest[0] == "revision"):
            return self._json(handler, self._info(repo, revision, folder))
        if parts[0] == "api" and rest[0] == "tree":
            return self._json(handler, [self._entry(f) for f in _files(folder)])
        return self._file(handler, method, folder / "/".join(rest[2:]), revision)

    def _entry(self, file):
        entry = {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": "0" * 40}
        if file.suffix == ".safetensors":
            entry["lfs"] = {
                "oid": _sha256(file),
                "sha256": _sha256(file),
                "size": file.stat().st_size,
                "pointerSize": 130,
            }
        return entry

    def _info(self, repo, revision, folder):
        siblings = []
        for file in _files(folder):
            entry = self._entry(file)
            one = {"rfilename": file.name, "size": entry["size"], "blobId": "0" * 40}
            if "lfs" in entry:
                one["lfs"] = entry["lfs"]
            siblings.append(one)
        return {
            "_id": "1",
            "id": repo,
            "modelId": repo,
            "sha": self.says.get(revision, revision),
            "private": False,
            "tags": [],
            "downloads": 0,
            "siblings": siblings,
            "cardData": {
                "license": self.licences.get(revision, self.licences.get(repo, "apache-2.0"))
            },
        }

    def _file(self, handler, method, file, revision):
        if not file.is_file():
            return self._error(handler, 404, "EntryNotFound", "Entry not found")
        content = file.read_bytes()
        if file.name in self.wrong:
            content = bytes([content[0] ^ 1]) + content[1:]
        start, code = 0, 200
        if (span := handler.headers.get("Range")) and span.endswith("-"):
            start, code = int(span.removeprefix("bytes=").rstrip("-")), 206
        handler.send_response(code)
        handler.send_header("X-Repo-Commit", revision)
        handler.send_header("ETag", f'"{_sha256(file)}"')
        handler.send_header("Accept-Ranges", "bytes")
        if code == 206:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        if method == "GET":
            part = content[start:]
            if file.name in self.cut:
                self.cut.discard(file.name)
                handler.wfile.write(part[: len(part) // 2])
                handler.wfile.flush()
                handler.connection.shutdown(socket.SHUT_RDWR)
                return
            handler.wfile.write(part)

    def _json(self, handler, value):
        body = json.dumps(value).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def _error(self, handler, code, kind, said):
        handler.send_response(code)
        handler.send_header("X-Error-Code", kind)
        handler.send_header("X-Error-Message", said)
        handler.send_header("Content-Length", "0")
        handler.end_headers()


@contextmanager
def running():
    """(hub, its address)."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            hub.answer(self, "GET")

        def do_HEAD(self):
            hub.answer(self, "HEAD")

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _files(folder):
    return sorted(file for file in folder.iterdir() if file.is_file())


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()
