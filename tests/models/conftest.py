"""Runs a hub of our own on loopback, in the protocol that huggingface_hub speaks."""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "a" * 40
NOBODY = "http://127.0.0.1:9"


def _id(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class FakeHub:
    """Repositories by id, each a mapping of file names to bytes; `gated` ones are refused."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.requests: list[str] = []

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of a GET."""
        self.requests.append(path)
        path = path.partition("?")[0]
        if path.startswith("/api/models/"):
            repo = "/".join(path.split("/")[3:5])
            listing = self._tree if "/tree/" in path else self._info
            return self._refusal(repo) or listing(repo, path.split("/")[-1])
        parts = path.strip("/").split("/")
        repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        return self._refusal(repo) or self._file(repo, revision, name)

    def _refusal(self, repo: str) -> tuple[int, dict[str, str], bytes] | None:
        if repo in self.gated:
            return 403, {"X-Error-Code": "GatedRepo"}, b"{}"
        if repo not in self.repos:
            return 401, {"X-Error-Code": "RepoNotFound"}, b"{}"
        return None

    def _info(self, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        files = self._files(repo, "rfilename", "blobId")
        commit = revision if len(revision) == 40 else COMMIT
        info = {"id": repo, "modelId": repo, "sha": commit, "siblings": files, "private": False}
        return 200, {"Content-Type": "application/json"}, json.dumps(info).encode()

    def _tree(self, repo: str, revision: str) -> tuple[int, dict[str, str], bytes]:
        files = [{"type": "file", **file} for file in self._files(repo, "path", "oid")]
        return 200, {"Content-Type": "application/json"}, json.dumps(files).encode()

    def _files(self, repo: str, name: str, digest: str) -> list[dict[str, object]]:
        """What is told of each file, with the words for its name and its digest."""
        files = self.repos[repo].items()
        return [{name: file, "size": len(content), digest: _id(content)} for file, content in files]

    def _file(self, repo: str, revision: str, name: str) -> tuple[int, dict[str, str], bytes]:
        content = self.repos[repo][name]
        commit = revision if len(revision) == 40 else COMMIT
        return 200, {"ETag": f'"{_id(content)}"', "X-Repo-Commit": commit}, content


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    """A running hub that the environment points to; no token, no cache of the user's."""
    fake = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, headers, body = fake.answer(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  http.server looks it up by this name

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    point_to_hub(monkeypatch, tmp_path, f"http://127.0.0.1:{server.server_port}")
    yield fake
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody listens where the hub should be."""
    point_to_hub(monkeypatch, tmp_path, NOBODY)


def safetensors(**tensors: int) -> bytes:
    """Return a file of tensors of so many bytes each."""
    at, header = 0, {}
    for name, size in tensors.items():
        header[name] = {"dtype": "U8", "shape": [size], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + bytes(at)


def point_to_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str) -> None:
    """Set what huggingface_hub reads from the environment."""
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", url)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf-home/hub"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
