"""Only paths on the allow-list can be reached, in any spelling, and never without their key."""

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.security.attacks import AUTH, BODY
from tests.security.recorder import Recorder
from tests.security.target import KEY, Target
from tests.security.wire import connected, exchange, post

CONTROL_PATHS = (
    "/models", "/models/m", "/models/m/profile", "/plan", "/plan/apply", "/keys", "/keys/k",
    "/routing", "/metrics", "/state", "/shutdown", "/docs", "/redoc", "/jobs", "/replicas",
    "/devices", "/events", "/profiles", "/readyz", "/ui", "/admin",
)  # fmt: skip
ENGINE_PATHS = (
    "/metrics", "/ping", "/version", "/load", "/sleep", "/wake_up", "/is_sleeping",
    "/load_lora_adapter", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/server_info",
    "/reset_prefix_cache", "/reset_mm_cache", "/collective_rpc", "/pause", "/resume",
    "/start_profile", "/stop_profile", "/invocations", "/inference/v1/generate",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/v1/completions/render",
    "/v1/audio/transcriptions", "/update_weights",
    "/init_weights_update_group", "/v1/files", "/v1/responses/x/cancel", "/abort_requests",
    "/tokenizer_info", "/debug/pprof", "/.env", "/etc/passwd",
)  # fmt: skip
HIDDEN_PATHS = tuple(dict.fromkeys(CONTROL_PATHS + ENGINE_PATHS))

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda path: path,
    "slash-at-the-end": lambda path: path + "/",
    "two-slashes": lambda path: "/" + path,
    "three-slashes": lambda path: "//" + path,
    "dot": lambda path: "/." + path,
    "dot-dot": lambda path: "/v1/.." + path,
    "dot-dot-from-a-route": lambda path: "/v1/completions/../.." + path,
    "dot-dot-from-health": lambda path: "/health/.." + path,
    "dot-dot-from-healthz": lambda path: "/healthz/.." + path,
    "dot-dot-from-a-model": lambda path: "/v1/models/../.." + path,
    "dot-dot-semicolon": lambda path: "/v1/completions/..;/.." + path,
    "escaped-dots": lambda path: "/v1/%2e%2e" + path,
    "escaped-dots-in-capitals": lambda path: "/v1/completions/%2E%2E/%2E%2E" + path,
    "escaped-dots-twice": lambda path: "/v1/%252e%252e" + path,
    "escaped-slash": lambda path: "/v1/..%2f" + path[1:],
    "escaped-slash-first": lambda path: "/%2F" + path[1:],
    "escaped-letter": lambda path: f"/%{ord(path[1]):02x}" + path[2:],
    "escaped-letter-twice": lambda path: f"/%25{ord(path[1]):02x}" + path[2:],
    "overlong-utf-8-dots": lambda path: "/v1/%c0%ae%c0%ae" + path,
    "backslash": lambda path: "/v1\\.." + path.replace("/", "\\"),
    "escaped-backslash": lambda path: "/v1%5c.." + path.replace("/", "%5c"),
    "parameter": lambda path: path + ";x=1",
    "parameter-of-a-route": lambda path: "/v1/completions;/../.." + path,
    "query": lambda path: path + "?x=/v1/completions",
    "empty-query": lambda path: path + "?",
    "escaped-nul": lambda path: path + "%00",
    "escaped-nul-then-a-route": lambda path: path + "%00/v1/completions",
    "escaped-line-end": lambda path: path + "%0d%0ax:%20y",
    "escaped-space": lambda path: path + "%20",
    "escaped-question-mark": lambda path: path + "%3f/v1/completions",
    "escaped-hash": lambda path: path + "%23/v1/completions",
    "capitals": lambda path: path.upper() if path != path.upper() else path + "X",
    "absolute": lambda path: "http://other" + path,
    "absolute-with-port": lambda path: "http://127.0.0.1:9" + path,
    "absolute-with-user": lambda path: "http://proxy@other" + path,
    "absolute-tls": lambda path: "https://other" + path,
    "absolute-two-slashes": lambda path: "http://other/" + path,
}


TRIED_PATHS = ("/metrics", "/keys", "/shutdown", "/wake_up", "/v1/load_lora_adapter", "/.env")
"""For each spelling; that none of the others is a route is asked of the daemon's own listener."""


def test_nothing_of_the_control_plane_or_the_engine_is_reached(
    proxy: Target, engine: Recorder
) -> None:
    """With a good key. On one connection: any answer too many would be seen at the next."""
    with connected(proxy.port) as wire:
        for spelling, spelt in SPELLINGS.items():
            refusals = {(404, "unknown_url")}
            if spelling == "dot-dot-from-a-model":  # a model's name may hold slashes and dots, too
                refusals |= {(404, "model_not_found"), (405, "method_not_allowed")}
            for path in TRIED_PATHS:
                for method in (b"GET", b"POST"):
                    line = method + b" " + spelt(path).encode() + b" HTTP/1.1"
                    wire.send(post(BODY, AUTH, line=line))
                    answer = wire.answer()
                    assert answer is not None, line
                    assert (answer.status, answer.code) in refusals, (spelling, line)
    assert engine.seen == []
    assert engine.violations == []


ROUTES = {
    "/v1/completions": b"POST",
    "/v1/chat/completions": b"POST",
    "/v1/models": b"GET",
    "/v1/models/m": b"GET",
}


@pytest.mark.parametrize("route", ROUTES)
def test_routing_and_authentication_agree_on_every_spelling(
    proxy: Target, engine: Recorder, route: str
) -> None:
    """A spelling that reaches a route needs its key; one that needs none reaches nothing."""
    body = b'{"model":"m","prompt":"x","messages":[{"role":"user","content":"x"}]}'
    for spelling, spelt in SPELLINGS.items():
        engine.forget()
        line = ROUTES[route] + b" " + spelt(route).encode() + b" HTTP/1.1"
        without, wrong = (
            exchange(proxy.port, post(body, *headers, line=line), 1).answers[0]
            for headers in ((), (b"authorization: Bearer x",))
        )
        assert engine.seen == [], spelling
        right = exchange(proxy.port, post(body, AUTH, line=line), 1).answers[0]
        if right.status == 200 or right.code == "model_not_found":
            assert (without.status, wrong.status) == (401, 401), spelling
        else:
            assert without.status == wrong.status == right.status in {400, 404, 405}, spelling
            assert engine.seen == [], spelling
        assert engine.violations == [], spelling


TARGETS = (
    b"CONNECT other:443 HTTP/1.1",
    b"CONNECT 127.0.0.1:22 HTTP/1.1",
    b"CONNECT /v1/completions HTTP/1.1",
    b"CONNECT http://other/ HTTP/1.1",
    b"GET other:443 HTTP/1.1",
    b"POST v1/completions HTTP/1.1",
    b"POST * HTTP/1.1",
    b"POST ? HTTP/1.1",
    b"POST ?/v1/completions HTTP/1.1",
    b"POST #/v1/completions HTTP/1.1",
    b"POST //other/v1/completions HTTP/1.1",
    b"POST http:/v1/completions HTTP/1.1",
    b"POST http:///v1/completions HTTP/1.1",
    b"POST http://[::1/v1/completions HTTP/1.1",
    b"POST http://other:port/v1/completions HTTP/1.1",
    b"POST http://other:99999/v1/completions HTTP/1.1",
    b"POST file:///etc/passwd HTTP/1.1",
    b"POST gopher://other/v1/completions HTTP/1.1",
    b"POST unix:/run/e.sock:/v1/completions HTTP/1.1",
    b"POST %2fv1%2fcompletions HTTP/1.1",
    b"POST /v1/completions#/../../metrics HTTP/1.1",
    b"POST /%%30%31 HTTP/1.1",
    b"POST /v1/%ff%fe HTTP/1.1",
    b"POST /v1/%zz HTTP/1.1",
    b"POST /v1/% HTTP/1.1",
)


def test_other_forms_of_targets_reach_nothing_without_a_key(
    proxy: Target, engine: Recorder
) -> None:
    for line in TARGETS:
        (answer,) = exchange(proxy.port, post(BODY, line=line), 1).answers
        assert answer.status in {400, 401, 404, 405}, line
        assert answer.code, line
    assert engine.seen == []
    assert engine.violations == []


def test_asterisk_form_is_answered_by_the_proxy_itself(proxy: Target, engine: Recorder) -> None:
    found = exchange(proxy.port, post(b"", AUTH, line=b"OPTIONS * HTTP/1.1"), 1)
    assert found.answers[0].status in {400, 404}
    assert engine.seen == []


class Canary:
    """A listener that nobody must ever call."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.calls = 0
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.calls += 1
            connection.close()

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(60)


@pytest.fixture
def canary() -> Iterator[Canary]:
    found = Canary()
    yield found
    found.stop()


def test_the_proxy_never_fetches_anything(proxy: Target, engine: Recorder, canary: Canary) -> None:
    """Wherever a URL can stand: in targets, hosts, headers, model names, images and files."""
    url = f"http://127.0.0.1:{canary.port}/x".encode()
    image = b'{"type":"image_url","image_url":{"url":"%s"}}' % url
    chat = b'{"model":"m","messages":[{"role":"user","content":[%s]}]}' % image
    requests = [
        post(BODY, AUTH, line=b"POST " + url + b" HTTP/1.1"),
        post(BODY, AUTH, line=b"GET " + url + b" HTTP/1.1"),
        post(BODY, AUTH, line=b"CONNECT 127.0.0.1:%d HTTP/1.1" % canary.port),
        post(BODY, AUTH, host=b"host: 127.0.0.1:%d" % canary.port),
        post(
            BODY, AUTH, b"x-forwarded-host: 127.0.0.1:%d" % canary.port, b"x-original-url: " + url
        ),
        post(BODY, AUTH, b"referer: " + url, b"forwarded: for=x;host=" + url[7:]),
        post(b'{"model":"%s","prompt":"x"}' % url, AUTH),
        post(b'{"model":"m","prompt":"%s"}' % url, AUTH),
        post(b'{"model":"m","prompt":"x","url":"%s","callback":"%s"}' % (url, url), AUTH),
        post(chat, AUTH, target=b"/v1/chat/completions"),
    ]
    for request in requests:
        with connected(proxy.port) as wire:
            wire.send(request)
            wire.answer()
    assert canary.calls == 0
    assert engine.violations == []
    assert all(request.headers["host"] == "engine" for request in engine.seen)


def test_the_keys_of_this_module_are_what_they_seem(proxy: Target, engine: Recorder) -> None:
    """Else all refusals above would mean nothing."""
    assert AUTH.endswith(KEY.encode())
    assert exchange(proxy.port, post(BODY, AUTH), 1).answers[0].status == 200
    assert len(engine.seen) == 1
