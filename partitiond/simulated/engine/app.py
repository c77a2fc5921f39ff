"""Routes the simulated engine's requests: vLLM's paths that proxy, profiler and probes use."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import partitiond
from partitiond.core.model.engine_task import EngineTask
from partitiond.simulated.engine import (
    completions,
    exposition,
    messages,
    pooling,
    tokenizing,
)
from partitiond.simulated.engine.completions import Reply, request_id
from partitiond.simulated.engine.engine import BrokenError, SimulatedEngine
from partitiond.simulated.engine.messages import MessageReply
from partitiond.simulated.engine.refusals import RefusedError, read_body
from partitiond.simulated.engine.requests import read_generation
from partitiond.simulated.engine.sleeping import sleep_routes

Endpoint = Callable[[Request], Awaitable[Response]]
Handler = Callable[[SimulatedEngine, Request, dict[str, Any]], Awaitable[Response]]

STREAM: Final = "text/event-stream"


def make_app(engine: SimulatedEngine, task: EngineTask = EngineTask.GENERATE) -> Starlette:
    """Make the application."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stepping = asyncio.create_task(engine.loop.run())
        yield
        stepping.cancel()

    handlers = SHARED | HANDLERS[task]
    return Starlette(
        lifespan=lifespan,
        exception_handlers={RefusedError: _refused, HTTPException: _detail, BrokenError: _broken},
        routes=[
            *(Route(p, _posted(engine, h), methods=["POST"]) for p, h in handlers.items()),
            *_observing(engine),
            *(sleep_routes(engine.sleep) if engine.sleep is not None else ()),
        ],
    )


def _posted(engine: SimulatedEngine, handler: Handler) -> Endpoint:
    """Make an endpoint that reads the body and hands it to the handler."""

    async def endpoint(request: Request) -> Response:
        media_type = request.headers.get("content-type", "").partition(";")[0].lower()
        if media_type != "application/json":
            message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is "
            raise RefusedError(400, "Bad Request", f"{message}allowed")
        return await handler(engine, request, read_body(await request.body()))

    return endpoint


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    if error.kind == "detail":
        return JSONResponse({"detail": str(error)}, status_code=error.status)
    return JSONResponse(error.body, status_code=error.status)


async def _detail(_request: Request, error: Exception) -> Response:
    """FastAPI's shape, which vLLM uses for unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, error.status_code, headers=error.headers)


async def _broken(_request: Request, error: Exception) -> Response:
    assert isinstance(error, BrokenError)
    return JSONResponse(error.body, status_code=500)


async def _complete(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    return await _generate(engine, request, body, chat=False)


async def _chat(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    return await _generate(engine, request, body, chat=True)


async def _generate(
    engine: SimulatedEngine, request: Request, body: dict[str, Any], *, chat: bool
) -> Response:
    generation = read_generation(
        body,
        chat=chat,
        model=engine.model,
        max_model_len=engine.max_model_len,
        calls_tools=engine.calls_tools,
    )
    await engine.accept()
    name = request_id(request, "chatcmpl" if chat else "cmpl", body)
    reply = Reply.new(engine, generation, name, chat=chat)
    if generation.stream:
        return StreamingResponse(completions.stream(engine, reply), media_type=STREAM)
    await engine.finish(generation, request)
    return JSONResponse(reply.whole())


async def _message(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    try:
        generation = messages.read_message(body, engine.model, engine.max_model_len)
        await engine.accept()
        reply = MessageReply(request_id(request, "chatcmpl"), engine.model, generation)
        if generation.stream:
            return StreamingResponse(messages.stream(engine, reply), media_type=STREAM)
        await engine.finish(generation, request)
    except RefusedError as error:
        return JSONResponse(messages.error_body(error), status_code=error.status)
    except BrokenError as error:
        return JSONResponse(messages.error_body(error), status_code=500)
    return JSONResponse(reply.whole())


async def _count(engine: SimulatedEngine, _request: Request, body: dict[str, Any]) -> Response:
    try:
        return JSONResponse(messages.count_tokens(body, engine.model, engine.max_model_len))
    except RefusedError as error:
        return JSONResponse(messages.error_body(error), status_code=error.status)


async def _embed(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    return await _vectors(engine, request, body, kind="embedding", field="embedding")


async def _pool(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    return await _vectors(engine, request, body, kind="pooling", field="data")


async def _vectors(
    engine: SimulatedEngine, request: Request, body: dict[str, Any], *, kind: str, field: str
) -> Response:
    wanted = pooling.read_inputs(body, engine.model, engine.max_model_len)
    await engine.accept()
    await engine.finish(pooling.work_of(wanted.prompts), request)
    name = request_id(request, "embd" if kind == "embedding" else kind, body)
    if wanted.encoding not in {"bytes", "bytes_only"}:
        return JSONResponse(
            pooling.vectors_body(wanted, name, engine.model, kind=kind, field=field)
        )
    raw, metadata = pooling.vectors_bytes(wanted, name, engine.model)
    headers = {"metadata": metadata} if wanted.encoding == "bytes" else {}

    async def whole() -> AsyncIterator[bytes]:
        yield raw

    return StreamingResponse(whole(), headers=headers, media_type="application/octet-stream")


async def _score(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    pairs = pooling.read_pairs(body, engine.model, engine.max_model_len)
    await engine.accept()
    await engine.finish(pooling.work_of([a + b for a, b in pairs]), request)
    name = request_id(request, "score", body)
    return JSONResponse(pooling.scores_body(pairs, name, engine.model))


async def _rerank(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    wanted = pooling.read_ranking(body, engine.model, engine.max_model_len)
    await engine.accept()
    await engine.finish(pooling.work_of([a + b for a, b in wanted.pairs]), request)
    name = request_id(request, "score", body)
    return JSONResponse(pooling.ranks_body(wanted, name, engine.model))


async def _classify(engine: SimulatedEngine, request: Request, body: dict[str, Any]) -> Response:
    wanted = pooling.read_inputs(body, engine.model, engine.max_model_len)
    await engine.accept()
    await engine.finish(pooling.work_of(wanted.prompts), request)
    name = request_id(request, "classify", body)
    return JSONResponse(pooling.classes_body(wanted, name, engine.model))


async def _tokenize(engine: SimulatedEngine, _request: Request, body: dict[str, Any]) -> Response:
    return JSONResponse(tokenizing.tokenize(body, engine.model, engine.max_model_len))


async def _detokenize(engine: SimulatedEngine, _request: Request, body: dict[str, Any]) -> Response:
    return JSONResponse(tokenizing.detokenize(body, engine.model))


SHARED: Final[dict[str, Handler]] = {"/tokenize": _tokenize, "/detokenize": _detokenize}
GENERATING: Final[dict[str, Handler]] = {
    "/v1/completions": _complete,
    "/v1/chat/completions": _chat,
    "/v1/messages": _message,
    "/v1/messages/count_tokens": _count,
}
POOLING: Final[dict[str, Handler]] = {
    "/v1/embeddings": _embed,
    "/pooling": _pool,
    "/score": _score,
    "/v1/score": _score,
    "/rerank": _rerank,
    "/v1/rerank": _rerank,
    "/v2/rerank": _rerank,
}
HANDLERS: Final[dict[EngineTask, dict[str, Handler]]] = {
    EngineTask.GENERATE: GENERATING,
    EngineTask.POOL: POOLING,
    EngineTask.CLASSIFY: {"/classify": _classify},
}


def _observing(engine: SimulatedEngine) -> list[Route]:
    """Return routes that report on the engine."""

    async def models(_request: Request) -> Response:
        card: dict[str, object] = {"id": engine.model, "object": "model", "owned_by": "vllm"}
        card |= {"created": int(time.time()), "max_model_len": engine.max_model_len}
        return JSONResponse({"object": "list", "data": [card]})

    async def health(_request: Request) -> Response:
        return Response()

    async def version(_request: Request) -> Response:
        return JSONResponse({"version": f"simulated-{partitiond.__version__}"})

    async def metrics(_request: Request) -> Response:
        return PlainTextResponse(
            exposition.render(engine.loop, engine.model, engine.kv_cache_tokens)
        )

    return [
        Route("/v1/models", models),
        Route("/health", health),
        Route("/version", version),
        Route("/metrics", metrics),
    ]
