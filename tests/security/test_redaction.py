"""Bodies, keys and queries leave no trace in logs, in metrics or on disk."""

import hashlib
import itertools
import json
from pathlib import Path

from tests.machine import until
from tests.proxy.conftest import MakeProcess
from tests.proxy.scripted import STREAM_HEAD, plays
from tests.proxy.virtual import real_time
from tests.security.attacks import CHUNKED, chunk
from tests.security.target import StrictEngine, key, table
from tests.security.test_fuzz import whole
from tests.security.wire import Wire, post

MARK = "S3CRETMARK"
KEY = f"sk-{MARK}-key"
AUTH = f"authorization: Bearer {KEY}".encode()
PROMPT = f"{MARK}-prompt"
LAST = "/v1/last-line"


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
    "answers-with-the-prompt": whole(f'{{"choices":[{{"text":"{PROMPT}"}}]}}'.encode()),
    "complains-with-the-prompt": whole(
        f'{{"error":{{"message":"bad {PROMPT}","type":"x","code":400}}}}'.encode(),
        "400 Bad Request",
    ),
    "fails-with-the-prompt": whole(f'{{"detail":"{PROMPT}"}}'.encode(), "500 Oh"),
    "fails-with-a-trace": whole(f"Traceback: {PROMPT}".encode(), "500 Oh"),
    "garbage": f"{PROMPT}\r\n\r\n".encode(),
    "garbage-header": f"HTTP/1.1 200 OK\r\n{PROMPT}\r\n\r\n".encode(),
    "header-with-the-prompt": whole(b"{}", extra=f"x-echo: {PROMPT}\r\n".encode()),
    "cut-answer": whole(f'{{"x":"{PROMPT}"}}'.encode())[:-3],
    "garbage-chunk": stream_of(f'{{"choices":[{{"text":"{PROMPT}"}}]}}') + PROMPT.encode(),
    "cut-stream": stream_of(f'{{"choices":[{{"text":"{PROMPT}"}}]}}'),
    "error-event": stream_of(f'{{"error":{{"message":"{PROMPT}"}}}}', "[DONE]") + b"0\r\n\r\n",
    "event-that-is-no-json": stream_of(PROMPT, "[DONE]") + b"0\r\n\r\n",
    "usage-that-is-none": stream_of(f'{{"choices":[],"usage":"{PROMPT}"}}', "[DONE]")
    + b"0\r\n\r\n",
}


NAMES = [*CLIENT_SIDE, *(f"{name}-{how}" for name in ENGINE_SIDE for how in ("whole", "streamed"))]
MARKS = {name: f"S3CRET{number:04d}" for number, name in enumerate(NAMES)}
"""Of the same length as `MARK`, which stands for it: a finding names the case it comes from."""


def marked(data: bytes, name: str) -> bytes:
    return data.replace(MARK.encode(), MARKS[name].encode())


def digest(mark: str) -> str:
    return hashlib.sha256(KEY.replace(MARK, mark).encode()).hexdigest()


@real_time
async def test_what_clients_and_engines_say_is_nowhere_afterwards(
    make_process: MakeProcess, folder: Path
) -> None:
    """Neither in a file of a proxy that had all cases, nor on its pages; of keys the hash is."""
    process = make_process(
        max_body_bytes=4096,
        first_token_timeout_seconds=0.3,
        total_timeout_seconds=0.6,
        client_timeout_seconds=1.0,
    )
    await process.ensure_running()
    engine = StrictEngine(folder / "e.sock")
    await engine.start()
    port = int(process.base_url.rpartition(":")[2].partition("/")[0])
    keys = [key(KEY.replace(MARK, mark), f"key-{name}") for name, mark in MARKS.items()]
    await process.publish(table(engine.path, keys))
    for name, request in CLIENT_SIDE.items():
        await ask(port, marked(request, name))
    answers = itertools.product(ENGINE_SIDE.items(), (("whole", False), ("streamed", True)))
    for version, ((name, answer), (how, stream)) in enumerate(answers, 2):
        case = f"{name}-{how}"
        await process.publish(table(engine.path, keys, version=version, generation=case))
        engine.received.clear()
        engine.script = plays(marked(answer, case), "close")
        await ask(port, marked(post(body(stream=stream), AUTH), case))
        assert engine.received, f"{case}: the engine was never asked"
    await ask(port, post(b"{}", target=LAST.encode()))
    await until(lambda: LAST in process.log_path.read_text())
    state = folder / "s"
    files = [path for path in state.rglob("*") if path.is_file()]
    assert len(files) >= 3, "log, table, identity"
    pages = json.dumps([await process.state(), await process.metrics_text()])
    text = "\n".join([pages, *(path.read_text(errors="replace") for path in files)])
    found = {name: text.find(mark) for name, mark in MARKS.items()}
    told = {name: text[max(0, at - 400) : at + 100] for name, at in found.items() if at >= 0}
    assert told == {}

    held = json.loads((state / "routing.json").read_bytes())
    assert {entry["sha256"] for entry in held["keys"]} == {digest(one) for one in MARKS.values()}
    assert process.identity is not None
    proc = Path(f"/proc/{process.identity.pid}")
    assert b"S3CRET" not in (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    for path in set(state.rglob("*")) - {process.log_path}:  # its folder is closed
        assert path.stat().st_mode & 0o077 == 0, f"{path} can be read by others"
    await engine.stop()


async def ask(port: int, request: bytes) -> None:
    """Ask, and read what comes back until the proxy closes."""
    wire = await Wire.to(port)
    wire.send(request + post(b"", b"connection: close", line=b"GET /healthz HTTP/1.1"))
    await wire.rest()
    wire.leave()
