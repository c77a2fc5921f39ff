"""Only paths on the allow-list can be reached, in any spelling, and never without their key."""

import itertools
import socket
from collections.abc import Iterator

import pytest

from tests.proxy.virtual import real_time
from tests.security.attacks import AUTH, BODY
from tests.security.target import StrictEngine, Target
from tests.security.wire import Wire, exchange, post, status_of

HIDDEN_PATHS = (
    # Of the control plane
    "/models", "/models/m", "/models/m/profile", "/plan", "/plan/apply", "/keys", "/keys/k",
    "/routing", "/metrics", "/state", "/shutdown", "/docs", "/redoc", "/jobs", "/replicas",
    "/devices", "/events", "/profiles", "/readyz", "/ui", "/admin",
    # Of engines
    "/ping", "/version", "/load", "/sleep", "/wake_up", "/is_sleeping",
    "/load_lora_adapter", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/server_info",
    "/reset_prefix_cache", "/reset_mm_cache", "/collective_rpc", "/pause", "/resume",
    "/start_profile", "/stop_profile", "/invocations", "/inference/v1/generate",
    "/scale_elastic_ep", "/is_scaling_elastic_ep", "/v1/completions/render",
    "/v1/audio/transcriptions", "/update_weights", "/init_weights_update_group", "/v1/files",
    "/v1/responses/x/cancel", "/abort_requests", "/tokenizer_info", "/debug/pprof", "/.env",
    "/etc/passwd",
)  # fmt: skip
A_MODELS_NAME = "/v1/models/../.."
"""It may hold slashes and dots, too."""
BEFORE = (
    "", "/", "//", "/.", "/v1/..", "/v1/completions/../..", "/health/..", "/healthz/..",
    A_MODELS_NAME, "/v1/completions/..;/..", "/v1/%2e%2e", "/v1/completions/%2E%2E/%2E%2E",
    "/v1/%252e%252e", "/v1/%c0%ae%c0%ae", "/v1/completions;/../..", "http://other",
    "http://127.0.0.1:9", "http://proxy@other", "https://other", "http://other/",
)  # fmt: skip
AFTER = (
    "/", ";x=1", "?x=/v1/completions", "?", "%00", "%00/v1/completions", "%0d%0ax:%20y", "%20",
    "%3f/v1/completions", "%23/v1/completions",
)  # fmt: skip


def spellings(path: str) -> Iterator[str]:
    yield from (before + path for before in BEFORE)
    yield from (path + after for after in AFTER)
    yield from (before + path[1:] for before in ("/v1/..%2f", "/%2F"))
    yield from (f"/{percent}{ord(path[1]):02x}" + path[2:] for percent in ("%", "%25"))
    yield "/v1\\.." + path.replace("/", "\\")
    yield "/v1%5c.." + path.replace("/", "%5c")
    yield path.upper()


TRIED_PATHS = ("/metrics", "/keys", "/shutdown", "/wake_up", "/v1/load_lora_adapter", "/.env")
"""For each spelling; that none of the others is a route is asked of the daemon's own listener."""


async def test_nothing_of_the_control_plane_or_the_engine_is_reached(
    proxy: Target, engine: StrictEngine
) -> None:
    """With a good key, and with no answer too many."""
    for path in TRIED_PATHS:
        for spelt, method in itertools.product(spellings(path), ("GET", "POST")):
            refusals = {(404, "unknown_url")}
            if spelt.startswith(A_MODELS_NAME):
                refusals |= {(404, "model_not_found"), (405, "method_not_allowed")}
            wire = await Wire.to(proxy.port)
            answer = await wire.ask(post(BODY, AUTH, line=f"{method} {spelt} HTTP/1.1".encode()))
            assert await wire.end(), spelt
            assert (answer.status, answer.code) in refusals, (method, spelt)
    assert engine.received == []
    assert engine.violations == []


@pytest.mark.parametrize(
    ("method", "route"),
    [
        *[("POST", path) for path in ("/v1/completions", "/v1/chat/completions")],
        *[("GET", path) for path in ("/v1/models", "/v1/models/m")],
    ],
)
async def test_routing_and_authentication_agree_on_every_spelling(
    proxy: Target, engine: StrictEngine, method: str, route: str
) -> None:
    """A spelling that reaches a route needs its key; one that needs none reaches nothing."""
    body = b'{"model":"m","prompt":"x","messages":[{"role":"user","content":"x"}]}'
    for spelt in spellings(route):
        engine.forget()
        line = f"{method} {spelt} HTTP/1.1".encode()
        without, wrong = [
            await status_of(proxy.port, post(body, *headers, line=line))
            for headers in ((), (b"authorization: Bearer x",))
        ]
        assert engine.received == [], spelt
        right = (await exchange(proxy.port, post(body, AUTH, line=line), 1)).answers[0]
        if right.status == 200 or right.code == "model_not_found":
            assert (without, wrong) == (401, 401), spelt
        else:
            assert without == wrong == right.status in {400, 404, 405}, spelt
            assert engine.received == [], spelt
        assert engine.violations == [], spelt


TARGETS = (
    *("other:443", "v1/completions", "*", "?", "?/v1/completions", "#/v1/completions"),
    *("//other/v1/completions", "http:/v1/completions", "http:///v1/completions"),
    *("http://[::1/v1/completions", "http://other:port/v1/completions"),
    *("http://other:99999/v1/completions", "file:///etc/passwd", "gopher://other/v1/completions"),
    *("unix:/run/e.sock:/v1/completions", "%2fv1%2fcompletions"),
    *("/v1/completions#/../../metrics", "/%%30%31", "/v1/%ff%fe", "/v1/%zz", "/v1/%"),
)
TUNNELS = ("other:443", "127.0.0.1:22", "/v1/completions", "http://other/")


async def test_other_forms_of_targets_reach_nothing_without_a_key(
    proxy: Target, engine: StrictEngine
) -> None:
    lines = [f"POST {target}" for target in TARGETS] + [f"CONNECT {target}" for target in TUNNELS]
    for line in (*lines, "GET other:443", "OPTIONS *"):
        request = post(BODY, line=f"{line} HTTP/1.1".encode())
        (answer,) = (await exchange(proxy.port, request, 1)).answers
        assert answer.status in {400, 401, 404, 405}, line
        assert answer.code, line
    assert engine.received == []
    assert engine.violations == []


@real_time
async def test_the_proxy_never_fetches_anything(proxy: Target, engine: StrictEngine) -> None:
    """Wherever a URL can stand: in targets, hosts, headers, model names, images and files."""
    with socket.create_server(("127.0.0.1", 0)) as canary:  # that nobody must ever call
        at = b"127.0.0.1:%d" % canary.getsockname()[1]
        url = b"http://%s/x" % at
        image = b'{"type":"image_url","image_url":{"url":"%s"}}' % url
        chat = b'{"model":"m","messages":[{"role":"user","content":[%s]}]}' % image
        for request in (
            post(BODY, AUTH, line=b"POST " + url + b" HTTP/1.1"),
            post(BODY, AUTH, line=b"GET " + url + b" HTTP/1.1"),
            post(BODY, AUTH, line=b"CONNECT " + at + b" HTTP/1.1"),
            post(BODY, AUTH, host=b"host: " + at),
            post(BODY, AUTH, b"x-forwarded-host: " + at, b"x-original-url: " + url),
            post(BODY, AUTH, b"referer: " + url, b"forwarded: for=x;host=" + at),
            post(b'{"model":"%s","prompt":"x"}' % url, AUTH),
            post(b'{"model":"m","prompt":"%s"}' % url, AUTH),
            post(b'{"model":"m","prompt":"x","url":"%s","callback":"%s"}' % (url, url), AUTH),
            post(chat, AUTH, target=b"/v1/chat/completions"),
        ):
            wire = await Wire.to(proxy.port)
            await wire.ask(request)
            wire.leave()
        canary.setblocking(False)
        with pytest.raises(BlockingIOError):
            canary.accept()
    assert engine.violations == []
    assert engine.received, "with this key they are served"
    assert all(request.headers["host"] == "engine" for request in engine.received)
