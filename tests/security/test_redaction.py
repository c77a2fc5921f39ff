"""Bodies, keys and queries leave no trace in logs, in metrics or on disk."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine import wait_for
from tests.proxy.scripted import STREAM_HEAD
from tests.security.attacks import CHUNKED, chunk
from tests.security.recorder import Recorder, whole_answer
from tests.security.target import Target, digest, key, running
from tests.security.wire import connected, post

MARK = "S3CRETMARK"
KEY = f"sk-{MARK}-key"
AUTH = f"authorization: Bearer {KEY}".encode()
PROMPT = f"{MARK}-prompt"
LAST = "/v1/last-line"
PAGES = ("/metrics", "/state")


def body(**fields: object) -> bytes:
    return json.dumps({"model": "m", "prompt": PROMPT, **fields}).encode()


def stream_of(*events: str) -> bytes:
    return STREAM_HEAD + b"".join(chunk(f"data: {event}\n\n".encode()) for event in events)


CLIENT_SIDE = {
    "good": post(body(), AUTH),
    "streamed": post(body(stream=True), AUTH),
    "unknown-model": post(body(model=f"{MARK}-model"), AUTH),
    "unknown-parameter": post(body(**{f"{MARK}_parameter": 1}), AUTH),
    "bad-json": post(body()[:-1], AUTH),
    "bad-json-at-the-mark": post(b'{"model":"m","prompt":' + PROMPT.encode() + b"}", AUTH),
    "not-utf8": post(PROMPT.encode() + b"\xff", AUTH),
    "wrong-type-of-value": post(body(n=PROMPT), AUTH),
    "wrong-type-of-stream": post(body(stream=PROMPT), AUTH),
    "prompt-as-object": post(body(prompt={PROMPT: PROMPT}), AUTH),
    "nested": post(b'{"model":"m","prompt":' + b"[" * 200 + PROMPT.encode(), AUTH),
    "too-large": post(body(prompt=PROMPT * 1000), AUTH),
    "wrong-key": post(body(), f"authorization: Bearer {MARK}-wrong".encode()),
    "basic-key": post(body(), f"authorization: Basic {MARK}".encode()),
    "two-keys": post(body(), AUTH, AUTH),
    "query": post(body(), AUTH, target=f"/v1/completions?api_key={KEY}&x={MARK}".encode()),
    "query-of-an-unknown-url": post(body(), AUTH, target=f"/v1/none?key={KEY}".encode()),
    "query-of-models": post(
        b"", AUTH, line=f"GET /v1/models?key={KEY} HTTP/1.1".encode(), length=b""
    ),
    "headers": post(body(), AUTH, f"cookie: {MARK}".encode(), f"x-{MARK}: {MARK}".encode()),
    "user-agent": post(body(), AUTH, f"user-agent: {MARK}".encode(), f"referer: {MARK}".encode()),
    "content-type": post(
        body(), AUTH, f"content-type: text/{MARK}".encode(), json_type=False
    ),
    "malformed-head": post(body(), AUTH, f"x : {MARK}".encode()),
    "malformed-method": post(body(), AUTH, line=f"{MARK} / HTTP/1.1".encode()),
    "malformed-chunk": post(f"zz{MARK}\r\n".encode(), AUTH, CHUNKED, length=b""),
    "overlong-head": post(body(), AUTH, b"x: " + MARK.encode() * 5000),
    "cut-body": post(body(), AUTH, length=b"content-length: 4000"),
    "user": post(body(user=MARK), AUTH),
    "chat": post(
        json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}]}).encode(),
        AUTH,
        target=b"/v1/chat/completions",
    ),
}  # fmt: skip

ENGINE_SIDE = {
    "answers-with-the-prompt": whole_answer(f'{{"choices":[{{"text":"{PROMPT}"}}]}}'.encode()),
    "complains-with-the-prompt": whole_answer(
        f'{{"error":{{"message":"bad {PROMPT}","type":"x","code":400}}}}'.encode(),
        "400 Bad Request",
    ),
    "fails-with-the-prompt": whole_answer(f'{{"detail":"{PROMPT}"}}'.encode(), "500 Oh"),
    "fails-with-a-trace": whole_answer(f"Traceback: {PROMPT}".encode(), "500 Oh"),
    "garbage": f"{PROMPT}\r\n\r\n".encode(),
    "garbage-header": f"HTTP/1.1 200 OK\r\n{PROMPT}\r\n\r\n".encode(),
    "header-with-the-prompt": whole_answer(b"{}", extra=f"x-echo: {PROMPT}\r\n".encode()),
    "cut-answer": whole_answer(f'{{"x":"{PROMPT}"}}'.encode())[:-3],
    "garbage-chunk": stream_of(f'{{"choices":[{{"text":"{PROMPT}"}}]}}') + PROMPT.encode(),
    "cut-stream": stream_of(f'{{"choices":[{{"text":"{PROMPT}"}}]}}'),
    "error-event": stream_of(f'{{"error":{{"message":"{PROMPT}"}}}}', "[DONE]") + b"0\r\n\r\n",
    "event-that-is-no-json": stream_of(PROMPT, "[DONE]") + b"0\r\n\r\n",
    "usage-that-is-none": stream_of(f'{{"choices":[],"usage":"{PROMPT}"}}', "[DONE]")
    + b"0\r\n\r\n",
}


def ask(target: Target, request: bytes) -> bytes:
    """Everything that comes back until the proxy closes, or falls silent."""
    with connected(target.port) as wire:
        wire.socket.settimeout(3)
        wire.send(request + post(b"", b"connection: close", line=b"GET /healthz HTTP/1.1"))
        found = b""
        try:
            while piece := wire.socket.recv(65536):
                found += piece
        except (TimeoutError, ConnectionResetError):
            pass
        return found


NAMES = [*CLIENT_SIDE, *(f"{name}-{how}" for name in ENGINE_SIDE for how in ("whole", "streamed"))]
MARKS = {name: f"S3CRET{number:04d}" for number, name in enumerate(NAMES)}
"""Of the same length as `MARK`, which stands for it: a finding names the case it comes from."""


def marked(data: bytes, name: str) -> bytes:
    return data.replace(MARK.encode(), MARKS[name].encode())


@pytest.fixture(scope="module")
def left_behind() -> Iterator[tuple[Target, str]]:
    """Everything that can be read once all cases are over, files and pages."""
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        with running(
            Path(folder),
            max_body_bytes=4096,
            first_token_timeout_seconds=0.3,
            total_timeout_seconds=0.6,
            client_timeout_seconds=1.0,
        ) as (target, engine):
            keys = [key(KEY.replace(MARK, mark), f"key-{name}") for name, mark in MARKS.items()]
            target.publish(engine, keys=keys)
            for name, request in CLIENT_SIDE.items():
                ask(target, marked(request, name))
            for name, answer in ENGINE_SIDE.items():
                for how, stream in (("whole", False), ("streamed", True)):
                    case = f"{name}-{how}"
                    target.publish(engine, keys=keys, generation=case)
                    ask_engine(target, engine, case, answer, stream=stream)
            ask(target, post(b"{}", target=LAST.encode()))
            wait_for("the log to be written", lambda: LAST in target.log)
            yield target, everything(target)


def ask_engine(target: Target, engine: Recorder, case: str, answer: bytes, *, stream: bool) -> None:
    engine.forget()
    engine.answering = lambda _: marked(answer, case)
    engine.closing = True
    ask(target, marked(post(body(stream=stream), AUTH), case))
    assert engine.seen, f"{case}: the engine was never asked"


def everything(target: Target) -> str:
    files = [path for path in target.folder.rglob("*") if path.is_file()]
    texts = [f"{path.name}: {path.read_text(errors='replace')}" for path in files]
    assert len(texts) >= 4, "log, start, table, identity"
    return "\n".join([*texts, *(target.control("GET", page).text for page in PAGES)])


def test_what_clients_and_engines_say_is_nowhere_afterwards(
    left_behind: tuple[Target, str],
) -> None:
    text = left_behind[1]
    found = {name: text.find(mark) for name, mark in MARKS.items()}
    told = {name: text[max(0, at - 400) : at + 100] for name, at in found.items() if at >= 0}
    assert told == {}


def test_only_the_hash_of_a_key_is_on_disk(left_behind: tuple[Target, str]) -> None:
    target, _ = left_behind
    held = json.loads((target.folder / "state" / "routing.json").read_bytes())
    assert {entry["sha256"] for entry in held["keys"]} == {
        digest(KEY.replace(MARK, mark)) for mark in MARKS.values()
    }
    proc = Path(f"/proc/{target.process.pid}")
    assert b"S3CRET" not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    for path in (target.folder / "state").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
    assert (target.folder / "proxy.log").stat().st_mode & 0o077 == 0
    assert target.control_socket.stat().st_mode & 0o077 == 0
    assert target.control_socket.parent.stat().st_mode & 0o077 == 0
