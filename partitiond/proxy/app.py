"""The data listener's ASGI application: an allow-list of routes, and nothing else.

Routes are matched exactly, on the decoded path that is also what authentication sees; "//",
"/./" or a second layer of escapes match nothing. The client's path is never sent on: each route
has its own fixed path at the engine. Plain ASGI, because a framework's routing would cost more
than all the rest of a request.
"""

import asyncio
import dataclasses
import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from partitiond.core.admission import Cost, estimate_cost
from partitiond.core.routing import ModelRoute
from partitiond.proxy import errors
from partitiond.proxy.answer import Answer, Call, Result, Send
from partitiond.proxy.auth import Caller
from partitiond.proxy.errors import ApiError
from partitiond.proxy.live import Flight, LiveModel
from partitiond.proxy.logs import LogFile, json_line
from partitiond.proxy.relay import Relay
from partitiond.proxy.requests import GenerationRequest, parse_request
from partitiond.proxy.state import ProxyState, new_request_id

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Scope = MutableMapping[str, Any]

GENERATING: Final = {"/v1/completions": False, "/v1/chat/completions": True}
"""Path -> whether it is a chat."""
MODELS: Final = "/v1/models"
HEALTH: Final = "/healthz"
ABORT: Final = "partitiond.abort"
"""Where the protocol leaves a function that closes the client's connection at once."""

DROPPED_BODIES: Final = 4
"""A refused body is read and dropped up to so many times the allowed size."""
DRAINING_SECONDS: Final = 0.5
"""While shutting down, a refused body may take so long: enough for one that is on its way."""

_JSON_TYPE: Final = re.compile(rb"^\s*application/(json|[\w.+-]+\+json)\s*(;|$)", re.IGNORECASE)
_logger = logging.getLogger("partitiond.proxy")


class ProxyApp:
    """ASGI application of the data listener."""

    def __init__(self, state: ProxyState, log: LogFile) -> None:
        self._state = state
        self._log = log
        self._relay = Relay(state.options, state.metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return
        answer = Answer(send, new_request_id())
        try:
            await self._route(scope, receive, answer)
        except Exception:  # the last line of defence: one request's bug must not look like a hang
            _logger.exception("request %s failed inside the proxy", answer.request_id)
            await answer.error(errors.INTERNAL)

    async def _route(self, scope: Scope, receive: Receive, answer: Answer) -> None:
        path: str = scope["path"]
        method: str = scope["method"]
        chat = GENERATING.get(path)
        if chat is not None:
            if method == "POST":
                await self._generate(scope, receive, answer, chat=chat)
            else:
                await self._refuse(scope, answer, errors.wrong_method(method, "POST"))
        elif path in {HEALTH, MODELS} or path.startswith(MODELS + "/"):
            if method in {"GET", "HEAD"}:
                await self._read_only(scope, answer, path)
            else:
                await self._refuse(scope, answer, errors.wrong_method(method, "GET"))
        else:
            await self._refuse(scope, answer, errors.unknown_route(method, path))

    async def _read_only(self, scope: Scope, answer: Answer, path: str) -> None:
        if path == HEALTH:
            ready = not self._state.draining and self._state.table.version > 0
            status = "ok" if ready else "draining" if self._state.draining else "starting"
            await answer.whole(200 if ready else 503, json.dumps({"status": status}).encode())
            return
        if self._state.table.version == 0:
            await self._refuse(scope, answer, errors.NO_TABLE)
            return
        caller = self._state.keys.identify(scope["headers"])
        if isinstance(caller, ApiError):
            await self._refuse(scope, answer, caller)
            return
        visible = [m.route for m in self._state.models.values() if caller.may_use(m.route.name)]
        if path == MODELS:
            listing = {"object": "list", "data": [_model_object(route) for route in visible]}
            await answer.whole(200, json.dumps(listing).encode())
            return
        name = path[len(MODELS) + 1 :]
        for route in visible:
            if route.name == name:
                await answer.whole(200, json.dumps(_model_object(route)).encode())
                return
        await self._refuse(scope, answer, errors.unknown_model(name))

    async def _generate(
        self, scope: Scope, receive: Receive, answer: Answer, *, chat: bool
    ) -> None:
        caller = self._admit(scope)
        if isinstance(caller, ApiError):
            await self._refuse_unread(scope, receive, answer, caller)
            return
        body = await self._read_body(receive)
        if body is None:
            return
        if isinstance(body, ApiError):
            await self._refuse_unread(scope, receive, answer, body)
            return
        request = parse_request(body, chat=chat, options=self._state.options)
        if isinstance(request, ApiError):
            await self._refuse(scope, answer, request, caller)
            return
        model = self._state.models.get(request.model)
        if model is None or not caller.may_use(request.model):
            await self._refuse(scope, answer, errors.unknown_model(request.model), caller)
            return
        flight = Flight(answer.request_id, _cost(model, request), time.monotonic())
        call = Call(caller, model, request, body, flight, answer, Result())
        await self._fly(scope, receive, call)

    def _admit(self, scope: Scope) -> Caller | ApiError:
        """Everything that can be decided before the body is read."""
        if self._state.draining:
            return errors.SHUTTING_DOWN
        if self._state.table.version == 0:
            return errors.NO_TABLE  # and so it is not known either whether keys are required
        caller = self._state.keys.identify(scope["headers"])
        if isinstance(caller, ApiError):
            return caller
        content_type = b""
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value
            elif name == b"content-encoding" and value.strip().lower() != b"identity":
                return _unsupported("Send the body uncompressed.")
            elif name == b"content-length":
                limit = self._state.options.max_body_bytes
                if int(value) > limit:  # the parser has checked that it is a number
                    return errors.body_too_large(limit)
        # A browser's form cannot have this type without asking first: no page can use a proxy
        # that listens on the visitor's own machine.
        if not _JSON_TYPE.match(content_type):
            return _unsupported("Send the header 'Content-Type: application/json'.")
        return caller

    async def _read_body(self, receive: Receive) -> bytes | ApiError | None:
        """The body; an error; or None when the client has left."""
        limit = self._state.options.max_body_bytes
        parts: list[bytes] = []
        size = 0
        try:
            async with self._state.reading():
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message["body"])
                    size += len(message["body"])
                    if size > limit:
                        return errors.body_too_large(limit)
                    if not message["more_body"]:
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            return errors.SHUTTING_DOWN if self._state.draining else errors.BODY_TOO_SLOW

    async def _refuse_unread(
        self, scope: Scope, receive: Receive, answer: Answer, error: ApiError
    ) -> None:
        """Refuse a request whose body was not read: it is read now, and dropped.

        Closing with unread bytes would reset the connection, and the client would see that
        instead of the answer. There is a bound; beyond it the reset is deserved.
        """
        left = DROPPED_BODIES * self._state.options.max_body_bytes
        seconds = DRAINING_SECONDS if self._state.draining else None
        try:
            async with self._state.reading(), asyncio.timeout(seconds):
                while left > 0 and error is not errors.BODY_TOO_SLOW:
                    message = await receive()
                    left -= len(message.get("body", b""))
                    if not message.get("more_body", False):
                        await self._refuse(scope, answer, error)
                        return
        except TimeoutError:
            pass
        await self._refuse(scope, answer, dataclasses.replace(error, close=True))

    async def _fly(self, scope: Scope, receive: Receive, call: Call) -> None:
        flight = call.flight
        flight.task = asyncio.current_task()
        watcher = asyncio.get_running_loop().create_task(_watch(receive, flight))
        self._state.flights.add(flight)
        try:
            await self._relay.run(call)
        finally:
            self._state.land(flight)
            watcher.cancel()
        if flight.abort_reason == "client_stalled" and ABORT in scope:
            scope[ABORT]()
        self._ended(scope["path"], call)

    def _ended(self, path: str, call: Call) -> None:
        """Count, learn and log, once per request."""
        result = call.result
        seconds = time.monotonic() - call.flight.started_at
        _count(self._state, call.model, result, seconds)
        if result.outcome == "ok":
            _learn(call.model, call.request, result)
        self._log.write(
            json_line(
                "request",
                request_id=call.answer.request_id,
                route=path,
                status=call.answer.status,
                outcome=result.outcome,
                error=result.error,
                model=call.request.model,
                key=call.caller.key_id,
                replica=result.replica_id,
                stream=call.request.stream,
                attempts=call.flight.attempts,
                seconds=round(seconds, 6),
                queue_seconds=_rounded(result.queue_seconds),
                ttft_seconds=_rounded(result.ttft_seconds),
                chunks=result.chunks or None,
                usage=result.usage,
            )
        )

    async def _refuse(
        self, scope: Scope, answer: Answer, error: ApiError, caller: Caller | None = None
    ) -> None:
        self._state.metrics.refusals.labels(error.code or str(error.status)).inc()
        await answer.error(error)
        self._log.write(
            json_line(
                "request",
                request_id=answer.request_id,
                route=scope["path"][:200],
                status=error.status,
                outcome="refused",
                error=error.code,
                key=caller.key_id if caller is not None else None,
            )
        )


async def _watch(receive: Receive, flight: Flight) -> None:
    """Wait for the client to leave, in whatever phase its request is."""
    while (await receive())["type"] != "http.disconnect":
        pass
    flight.abort("client_gone")


def _cost(model: LiveModel, request: GenerationRequest) -> Cost:
    text_tokens = request.prompt_bytes * model.tokens_per_byte.value
    return estimate_cost(
        sequences=request.sequences,
        prompt_tokens=(request.prompt_tokens + text_tokens) / request.prompts,
        max_tokens=request.max_tokens,
        output_p90=model.output_p90.value,
        max_model_len=model.max_model_len(),
    )


def _model_object(route: ModelRoute) -> dict[str, object]:
    return {
        "id": route.name,
        "object": "model",
        "created": route.created_at,
        "owned_by": "partitiond",
    }


def _unsupported(message: str) -> ApiError:
    return ApiError(415, message, code="unsupported_media_type")


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _count(state: ProxyState, model: LiveModel, result: Result, seconds: float) -> None:
    metrics = state.metrics.model(model.route.name)
    metrics.ended(result.outcome)
    if result.outcome == "refused":
        state.metrics.refusals.labels(result.error).inc()
    if result.queue_seconds is not None:
        metrics.queue_seconds.observe(result.queue_seconds)
    if result.ttft_seconds is not None:
        metrics.ttft_seconds.observe(result.ttft_seconds)
    if result.outcome == "ok":
        metrics.e2e_seconds.observe(seconds)
    if result.chunks:
        metrics.chunks.inc(result.chunks)
    output = result.usage[1] if result.usage is not None else result.events
    if output:
        metrics.output_tokens.inc(output)


def _learn(model: LiveModel, request: GenerationRequest, result: Result) -> None:
    """Correct the estimates by what the engine reported; without usage, by counted events."""
    if result.usage is not None and request.prompt_bytes:
        model.tokens_per_byte = model.tokens_per_byte.observe(request.prompt_bytes, result.usage[0])
    output = result.usage[1] if result.usage is not None else result.events
    model.output_p90 = model.output_p90.observe(output // request.sequences)
    if result.service_seconds is not None:
        model.service = model.service.observe(result.service_seconds)
