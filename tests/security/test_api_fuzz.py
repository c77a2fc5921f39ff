"""No API answers a request that fits, or nearly fits, with a 5xx.

schemathesis makes the requests, hypothesis shrinks what fails.
"""

import copy
import itertools
import json
from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import generation
from starlette.testclient import TestClient

from partitiond.api.app import create_app
from tests.controller.host import Host
from tests.proxy.scripted import Received, Step, stream, well_behaved
from tests.security.attacks import good
from tests.security.target import KEY, Target, key
from tests.security.wire import Wire

OPTIONS: dict[str, Any] = {}
KEYS = [key(KEY)]
TOKEN = "an-admin-token-for-tests"


def examples(few: int, many: int) -> pytest.MarkDecorator:
    """So many for each route; by hand more, other ones each time."""
    more = pytest.param(many, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])
    return pytest.mark.parametrize("count", [few, more])


def bounds(count: int) -> settings:
    return settings(
        max_examples=count,
        derandomize=count < 10,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


def try_every_operation(document: dict[str, Any], send: Any, count: int) -> dict[str, set[int]]:
    """Requests that fit the document and requests that do not; the statuses by operation."""
    schema = schemathesis.openapi.from_dict(document)
    seen: dict[str, set[int]] = {}
    found: Any  # an operation, or why there is none: then asking for it raises
    for found in schema.get_all_operations():
        operation = found.ok()
        statuses = seen.setdefault(operation.label, set())
        for mode in generation.GenerationMode:
            _try(operation, mode, send, statuses, count)
    return seen


def _try(operation: Any, mode: Any, send: Any, statuses: set[int], count: int) -> None:
    @bounds(count)
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        status = send(case)
        statuses.add(status)
        # 501 and 503 are answers: "cannot here" and "not now".
        assert status < 500 or status in {501, 503}, f"{operation.label}: {status} to {case}"

    try:
        run()
    except Exception as error:
        if "Unsatisfiable" in type(error).__name__:
            return  # nothing can be wrong with a request that has no part
        raise


"""Operations that answer as long as what they watch runs; with random ids they end at once."""


def known(client: Any, parameter: str, token: dict[str, str]) -> str:
    """The id of something that is there, made where nothing is."""
    if parameter == "name":
        client.post("/models", json={"model": "opt-125m", "name": "known"}, headers=token)
        return "known"
    kind = parameter.removesuffix("_id")
    if kind == "job":
        client.post(f"/models/{known(client, 'name', token)}/profile", json={}, headers=token)
    if kind == "key":
        client.post("/keys", json={}, headers=token)
    listed = client.get(f"/{kind}s", headers=token).json()
    if not listed or not isinstance(listed, list):
        return "none"
    return str(listed[0].get("id") or listed[0].get("name") or "none")


def ask(client: Any, values: dict[str, Any], headers: dict[str, Any]) -> int:
    """Send what schemathesis made; what httpx itself refuses never reaches the server."""
    content = {"content": values.get("data")} if values.get("data") is not None else {}
    more = {"json": values["json"]} if "json" in values else {}
    try:
        answer = client.request(
            values["method"],
            values["url"],
            params=values.get("params"),
            headers={str(k): str(v).encode("utf-8") for k, v in headers.items()},
            **content,
            **more,
        )
    except (httpx.InvalidURL, httpx.LocalProtocolError, UnicodeError, TypeError, ValueError):
        return 0
    return int(answer.status_code)


@examples(2, 60)
def test_the_control_api_never_answers_5xx(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # No proxy is there that could be told of a key.
    monkeypatch.setattr("partitiond.controller.keys.use_cases.TELL_SECONDS", 0.0)
    host = Host()
    app = create_app(host.service, admin_token=TOKEN)
    paths = app.openapi()["paths"]
    paths["/shutdown"] = paths.pop("/shutdown")  # the last that is tried
    with TestClient(app, raise_server_exceptions=False) as client:
        token = {"Authorization": f"Bearer {TOKEN}"}
        turns = itertools.count()

        def send(case: Any) -> int:
            # Random names only ever find nothing.
            if case.path_parameters and next(turns) % 3:
                names = {name: known(client, name, token) for name in case.path_parameters}
                case.path_parameters = names
            values = case.as_transport_kwargs(base_url="http://testserver")
            return ask(client, values, {**dict(values.pop("headers")), **token})

        seen = try_every_operation(app.openapi(), send, count)
    host.store.close()
    assert len(seen) > 25
    assert any(200 in statuses for statuses in seen.values())


# Bodies as engines read them, and the same with an error at any depth. Fields and types are those
# of vLLM's request models (`vllm/entrypoints`, 0.11 and newer) and of Anthropic's messages: all
# that the proxy reads, and of the rest one of each shape. No engine is asked.

MODEL: Final = "m"
TEXT: Final = "Zürich \u2603 \x00 {}"
_SCHEMA: Final = {"type": "object", "properties": {"a": {"type": "string"}}}
_TOOL: Final = {"name": "weather", "description": TEXT, "parameters": _SCHEMA}
_CALL: Final = {"name": "weather", "arguments": '{"a": "b"}'}
_PARTS: Final = [
    {"type": "text", "text": TEXT},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
]
_MESSAGES: Final = [
    {"role": "developer", "content": TEXT, "name": TEXT},
    {"role": "user", "content": _PARTS},
    {"role": "assistant", "content": None, "reasoning": "",
     "tool_calls": [{"id": "c", "type": "function", "function": _CALL}]},
]  # fmt: skip
_SAMPLING: Final = {
    "n": 2, "temperature": 0.1 + 0.2, "seed": -(2**63), "stop": [TEXT], "stop_token_ids": [50_000],
    "logit_bias": {"50256": -100}, "truncate_prompt_tokens": 64, "priority": -5, "user": TEXT,
    "structured_outputs": {"json": _SCHEMA, "regex": TEXT, "choice": [TEXT]},
    "vllm_xargs": {"a": TEXT, "b": [1]}, "max_tokens": 64,
}  # fmt: skip
_STREAM: Final = {
    "stream": True,
    "stream_options": {"include_usage": True, "continuous_usage_stats": False},
}
_CHAT: Final = {
    **_SAMPLING, "max_completion_tokens": 0, "response_format": {"type": "text"}, "logprobs": True,
}  # fmt: skip
_ANTHROPIC: Final = {
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": [
            {"type": "text", "text": TEXT},
            {"type": "tool_use", "id": "c", "name": "weather", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": ""}]},
    ],
    "system": [{"type": "text", "text": TEXT}],
    "tools": [{"name": "weather", "input_schema": _SCHEMA}],
    "thinking": {"type": "enabled", "budget_tokens": 64},
}  # fmt: skip
_EMBEDDINGS: Final = (
    {"input": ["a" * 300, TEXT], "dimensions": 3, "truncate_prompt_tokens": 0, "user": TEXT},
    {"input": [[1, 50_000]]},
    {"messages": _MESSAGES, "add_generation_prompt": True, "dimensions": 3},
)
_SCORES: Final = (
    {"text_1": TEXT, "text_2": [TEXT], "truncate_prompt_tokens": 64},
    {"queries": [TEXT], "documents": {"content": _PARTS}},
    {"data_1": TEXT, "data_2": TEXT},
)
_RERANK: Final = ({"query": TEXT, "documents": [TEXT, {"content": _PARTS}], "top_n": 1},)

RIGHT: Final[dict[str, tuple[dict[str, Any], ...]]] = {
    "/v1/completions": (
        {"prompt": [TEXT], **_SAMPLING, **_STREAM, "best_of": 2, "echo": True, "logprobs": 1},
        {"prompt": [1, 50_000]},
        {"prompt": ""},
    ),
    "/v1/chat/completions": (
        {"messages": _MESSAGES, **_CHAT, **_STREAM,
         "tools": [{"type": "function", "function": _TOOL}]},
    ),
    "/v1/chat/completions/batch": ({"messages": [_MESSAGES], **_CHAT},),
    "/v1/responses": (
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": TEXT}]}],
         "stream": True, "instructions": TEXT, "max_output_tokens": 64, "store": False,
         "metadata": {TEXT: TEXT}, "previous_response_id": "", "background": True, "user": TEXT,
         "tools": [{"type": "function", **_TOOL}], "text": {"format": {"type": "text"}}},
        {"input": TEXT},
    ),
    "/v1/messages": ({**_ANTHROPIC, "max_tokens": 64, "stream": True, "temperature": 1},),
    "/v1/messages/count_tokens": (_ANTHROPIC,),
    **dict.fromkeys(("/v1/embeddings", "/pooling", "/classify"), _EMBEDDINGS),
    **dict.fromkeys(("/score", "/v1/score"), _SCORES),
    **dict.fromkeys(("/rerank", "/v1/rerank", "/v2/rerank"), _RERANK),
    "/tokenize": (
        {"prompt": TEXT, "add_special_tokens": True},
        {"messages": _MESSAGES, "tools": [_TOOL], "chat_template": TEXT},
    ),
    "/detokenize": ({"tokens": [0, 50_000]},),
}  # fmt: skip
"""What engines take, by route, without the model; any part may be left out or replaced."""

READ: Final = (
    "best_of", "data_1", "documents", "include_usage", "input", "max_completion_tokens",
    "max_output_tokens", "max_tokens", "messages", "n", "prompt", "stream", "stream_options",
)  # fmt: skip
"""Fields that mean something on the way to an engine: they are made wrong more often."""


def _nested(depth: int, inside: Any) -> Any:
    for level in range(depth):
        inside = [inside] if level % 2 else {"a": inside}
    return inside


KINDS: Final[tuple[Any, ...]] = (None, True, 0, -1, 2**64, 1.5, "", "a", [], ["a"], {}, {"a": 1})
"""A value of each kind that JSON has, empty and not."""

_WRONG: Final = st.one_of(
    st.sampled_from([None, True, False, "", [], {}, [[]], [{}], {"": None}, [None], "\ud800"]),
    st.sampled_from([-1, 0, 1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 10**400, -(10**4000)]),
    st.sampled_from([-0.0, 1.5, 1e308, 5e-324, float("nan"), float("inf")]),
    st.sampled_from(["1", "true", "null", "a" * 5_000, "\x00\ufffe", "\U0001f600" * 40]),
    st.builds(_nested, st.sampled_from([3, 40, 200]), st.sampled_from([0, "a"])),
    st.lists(st.sampled_from([0, TEXT, None, [], 2**64]), max_size=4),
    st.dictionaries(st.just(TEXT), st.sampled_from([-1, None, []])),
)


def _place(draw: st.DrawFn, body: dict[str, Any]) -> tuple[Any, Any]:
    """A member or item at any depth, one of few outer ones as often as all that is within it: what
    holds it, and where. An empty holder has the place "x".
    """
    holder: Any = body
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        # A wrong model would never come past the route, and is tried elsewhere.
        keys = [key for key in keys if holder is not body or key != "model"]
        keys += [key for key in keys if key in READ] * 2
        if not keys:
            return holder, "x"
        key = keys[draw(st.integers(0, len(keys) - 1))]
        inner = holder[key]
        # Every third time all of it, else something within.
        if not isinstance(inner, dict | list) or not draw(st.integers(0, 2)):
            return holder, key
        holder = inner


def _wrong(draw: st.DrawFn) -> Any:
    """A value of its own: what was drawn may be changed afterwards."""
    return copy.deepcopy(draw(_WRONG))


@st.composite
def bodies(draw: st.DrawFn, path: str) -> list[bytes]:
    """Bodies of a request: one that is right or has up to two things wrong, each at any depth; then
    the same with one value more replaced by a value of each kind.
    """
    body = {"model": MODEL, **copy.deepcopy(draw(st.sampled_from(RIGHT[path])))}
    for _ in range(draw(st.integers(0, 2))):
        holder, key = _place(draw, body)
        how = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if how == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["x", "N", *READ]))] = _wrong(draw)
        elif how == "add" or (key == "x" and isinstance(holder, list)):
            holder.append(_wrong(draw))
        elif how == "replace" or key == "x":
            holder[key] = _wrong(draw)
        else:
            del holder[key]
    found = [_written(body)]
    holder, key = _place(draw, body)
    if key != "x":
        for value in KINDS:
            holder[key] = value
            found.append(_written(body))
    return found


def _written(body: dict[str, Any]) -> bytes:
    return json.dumps(body).encode()


def _typed(request: Received) -> list[Step]:
    """As `well_behaved`, with the events of each API."""
    if not request.body.get("stream") or request.path not in STREAMS:
        return well_behaved(request)
    return stream(STREAMS[request.path])


STREAMS: Final = {
    "/v1/responses": b'event: response.output_text.delta\ndata: {"delta":"hello"}\n\n'
    b'event: response.completed\ndata: {"type":"response.completed"}\n\n',
    "/v1/messages": b'event: content_block_delta\ndata: {"delta":{"text":"hello"}}\n\n'
    b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


@examples(4, 100)
async def test_no_body_that_an_engine_might_read_gets_a_5xx(proxy: Target, count: int) -> None:
    """What engines read, which the document does not tell, with anything wrong at any depth."""
    statuses: set[int] = set()
    proxy.engine.script = _typed
    for path in RIGHT:
        for body in drawn(path, count):
            wire = await Wire.to(proxy.port)
            answer = await wire.ask(good(body=body, target=path.encode()))
            wire.leave()
            statuses.add(answer.status)
            told = f"{path}: {answer.status} to {body[:4000]!r}"
            assert answer.status < 500, told
            assert answer.status < 400 or answer.json()["error"]["message"], told
    assert {200, 400} <= statuses
    assert proxy.engine.violations == []


def drawn(path: str, count: int) -> list[bytes]:
    """Bodies of so many draws."""
    found: list[bytes] = []

    @bounds(count)
    @given(alike=bodies(path))
    def draw(alike: list[bytes]) -> None:
        found.extend(alike)

    draw()
    return found
