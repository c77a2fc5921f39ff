"""The simulated engine's routes."""

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

import partitiond
from partitiond.engines.simulated import exposition
from partitiond.engines.simulated.loop import EngineLoop
from partitiond.engines.simulated.requests import (
    Generation,
    RefusedError,
    read_body,
    read_generation,
    word,
)
from partitiond.engines.simulated.sleeping import Sleep, sleep_routes
from partitiond.simulation.batch import Sequence


@dataclasses.dataclass(slots=True)
class SimulatedEngine:
    """What the routes share.

    Attributes:
        crash_after_requests: the process dies when it accepts more generations than this.
        crash_at_running: the process dies when so many generations are in flight.
        sleep: its sleep mode; None without.
    """

    loop: EngineLoop
    model: str
    max_model_len: int
    kv_cache_tokens: int
    crash_after_requests: int | None = None
    crash_at_running: int | None = None
    accepted: int = 0
    sleep: Sleep | None = None

    def accept(self) -> None:
        """Count a generation, and crash when it is the one to crash on."""
        self.accepted += 1
        in_flight = self.loop.batch.running + self.loop.batch.waiting + 1
        worn_out = self.crash_after_requests is not None and (
            self.accepted > self.crash_after_requests
        )
        too_many = self.crash_at_running is not None and in_flight >= self.crash_at_running
        if worn_out or too_many:
            os.kill(os.getpid(), signal.SIGKILL)


@dataclasses.dataclass(frozen=True, slots=True)
class _Reply:
    """Shapes of one request's answers."""

    chat: bool
    id: str
    created: int
    model: str

    @classmethod
    def new(cls, chat: bool, model: str) -> "_Reply":
        prefix = "chatcmpl" if chat else "cmpl"
        return cls(chat, f"{prefix}-{uuid.uuid4().hex}", int(time.time()), model)

    def head(self, *, chunk: bool) -> dict[str, Any]:
        kind = "text_completion"
        if self.chat:
            kind = "chat.completion.chunk" if chunk else "chat.completion"
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def chunk(self, index: int, text: str, reason: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "logprobs": None, "finish_reason": reason}
        choice |= {"delta": {"content": text}} if self.chat else {"text": text}
        return self.head(chunk=True) | {"choices": [choice]}

    def whole(self, generation: Generation, usage: dict[str, int]) -> dict[str, Any]:
        text = "".join(word(position) for position in range(generation.output_tokens))
        choices = []
        for index in range(len(generation.prompts) * generation.n):
            choice: dict[str, Any] = {
                "index": index,
                "logprobs": None,
                "finish_reason": generation.finish_reason,
            }
            message = {"role": "assistant", "content": text}
            choice |= {"message": message} if self.chat else {"text": text}
            choices.append(choice)
        return self.head(chunk=False) | {"choices": choices, "usage": usage}


def _usage(generation: Generation) -> dict[str, int]:
    prompt = sum(generation.prompts)
    completion = len(generation.prompts) * generation.n * generation.output_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def make_app(engine: SimulatedEngine) -> Starlette:
    """The application: vLLM's paths that the proxy, profiler and probes use."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        stepping = asyncio.create_task(engine.loop.run())
        yield
        stepping.cancel()

    async def completions(request: Request) -> Response:
        return await _generate(engine, request, chat=False)

    async def chat(request: Request) -> Response:
        return await _generate(engine, request, chat=True)

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

    return Starlette(
        lifespan=lifespan,
        exception_handlers={RefusedError: _refused, HTTPException: _detail},
        routes=[
            Route("/v1/completions", completions, methods=["POST"]),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/models", models),
            Route("/health", health),
            Route("/version", version),
            Route("/metrics", metrics),
            *(sleep_routes(engine.sleep) if engine.sleep is not None else ()),
        ],
    )


async def _refused(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RefusedError)
    return JSONResponse(error.body, status_code=error.status)


async def _detail(_request: Request, error: Exception) -> Response:
    """FastAPI's shape, which vLLM uses for unknown paths and methods."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"detail": error.detail}, status_code=error.status_code)


async def _generate(engine: SimulatedEngine, request: Request, *, chat: bool) -> Response:
    body = read_body(await request.body())
    generation = read_generation(
        body, chat=chat, model=engine.model, max_model_len=engine.max_model_len
    )
    engine.accept()
    if engine.sleep is not None:
        await engine.sleep.awake.wait()
        if engine.sleep.stale:
            return JSONResponse({"detail": "the weights were not reloaded after level 2"}, 500)
    reply = _Reply.new(chat, engine.model)
    if generation.stream:
        return StreamingResponse(_stream(engine, generation, reply), media_type="text/event-stream")
    await _until_done_or_gone(engine, generation, request)
    return JSONResponse(reply.whole(generation, _usage(generation)))


def _sequences(generation: Generation) -> list[Sequence]:
    return [
        Sequence(prompt, generation.output_tokens)
        for prompt in generation.prompts
        for _ in range(generation.n)
    ]


async def _consume(engine: SimulatedEngine, sequence: Sequence) -> None:
    async with contextlib.aclosing(engine.loop.generate(sequence)) as tokens:
        async for _ in tokens:
            pass


async def _consume_all(engine: SimulatedEngine, sequences: list[Sequence]) -> None:
    async with asyncio.TaskGroup() as group:
        for sequence in sequences:
            group.create_task(_consume(engine, sequence))


async def _until_done_or_gone(
    engine: SimulatedEngine, generation: Generation, request: Request
) -> None:
    """Generate everything; when the client leaves, free the places at once."""
    work = asyncio.create_task(_consume_all(engine, _sequences(generation)))
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
        work.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue


def _event(value: object) -> str:
    return f"data: {json.dumps(value, separators=(',', ':'))}\n\n"


async def _stream(
    engine: SimulatedEngine, generation: Generation, reply: _Reply
) -> AsyncIterator[str]:
    """One event per token, in the order the tokens are made; then the usage, if asked; [DONE]."""
    if reply.chat:
        first = reply.chunk(0, "", None)
        first["choices"][0]["delta"] = {"role": "assistant", "content": ""}
        yield _event(first)
    async with contextlib.aclosing(_tokens(engine, generation)) as tokens:
        async for index, position in tokens:
            last = position == generation.output_tokens - 1
            reason = generation.finish_reason if last else None
            yield _event(reply.chunk(index, word(position), reason))
    if generation.include_usage:
        yield _event(reply.head(chunk=True) | {"choices": [], "usage": _usage(generation)})
    yield "data: [DONE]\n\n"


async def _tokens(
    engine: SimulatedEngine, generation: Generation
) -> AsyncGenerator[tuple[int, int], None]:
    """(choice, token) pairs of all choices as they come."""
    merged: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()

    async def feed(index: int, sequence: Sequence) -> None:
        async with contextlib.aclosing(engine.loop.generate(sequence)) as tokens:
            async for position in tokens:
                merged.put_nowait((index, position))
        merged.put_nowait(None)

    tasks = [
        asyncio.create_task(feed(index, sequence))
        for index, sequence in enumerate(_sequences(generation))
    ]
    try:
        left = len(tasks)
        while left:
            item = await merged.get()
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
