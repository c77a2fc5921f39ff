"""Serves what the dashboard shows of the endpoint: a trial, the last requests, an engine's log."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import httpx
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse

from partitiond.api.auth import ADMITTED
from partitiond.api.given import FleetHosts, Overviews
from partitiond.api.replies import NO_STORE, Route
from partitiond.api.streams import EventStream
from partitiond.core.errors import NotFoundError, UnauthorizedError
from partitiond.engines.process.log_tail import read_tail

TAIL_BYTES: Final = 256 * 1024
"""Read of a log's end: some 500 requests. Chosen."""
SHOWN_REQUESTS: Final = 100
TRY_SECONDS: Final = 600.0
"""Longest silence of a trial. Chosen."""
ROUTES: Final = {"chat": "/v1/chat/completions", "completion": "/v1/completions"}


def _admitted(request: Request) -> None:
    """Refuse who is not logged in: the paths below /ui are open otherwise."""
    if not request.scope.get(ADMITTED, False):
        raise UnauthorizedError("the session has ended.", hint="Log in again.")


router = APIRouter(
    prefix="/ui", include_in_schema=False, dependencies=[Depends(_admitted)], route_class=Route
)


@router.post("/try/{kind}")
async def try_prompt(
    kind: Literal["chat", "completion"],
    request: Request,
    key: Annotated[str, Header(alias="x-endpoint-key", max_length=200)] = "",
) -> Response:
    """Ask the endpoint as a client would, with the key that is given; its answer is passed on."""
    headers = {"content-type": "application/json", "x-partitiond-debug": "1"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    url = request.app.state.endpoint_url + ROUTES[kind]
    parts = _asked(url, await request.body(), httpx.Headers(headers, encoding="latin-1"))
    begun, left = asyncio.ensure_future(anext(parts)), asyncio.create_task(_left(request))
    try:
        await asyncio.wait({begun, left}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (begun, left):
            task.cancel()
        await asyncio.wait({begun, left})
    if begun.cancelled():
        return Response(status_code=499)  # nobody waits for it
    try:
        answer = begun.result()
    except httpx.HTTPError as error:
        return JSONResponse({"detail": f"the endpoint does not answer: {error}."}, 502)
    stream = EventStream(parts)
    stream.status_code = answer.status_code
    stream.headers.update({k: v for k, v in answer.headers.items() if k.startswith("x-partit")})
    return stream


async def _asked(url: str, body: bytes, headers: httpx.Headers) -> AsyncGenerator[Any, None]:
    """Yield the answer as soon as it begins, then its parts; the client is closed at any end."""
    async with (
        httpx.AsyncClient(timeout=TRY_SECONDS, verify=False, trust_env=False) as http,  # noqa: S501
        http.stream("POST", url, content=body, headers=headers) as answer,
    ):
        yield answer
        async for part in answer.aiter_raw():
            yield part


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


@router.get("/requests/{model}")
async def last_requests(model: str, request: Request) -> Response:
    """The newest requests to a model, without bodies: as the end of the endpoint's log has them."""
    text = await asyncio.to_thread(read_tail, request.app.state.endpoint_log, TAIL_BYTES)
    found: list[dict[str, Any]] = []
    for line in reversed(text.splitlines()):
        if '"event":"request"' in line and line.startswith("{"):
            with contextlib.suppress(ValueError):  # a write that broke off tears a line
                if (told := json.loads(line)).get("model") == model:
                    found.append(told)
        if len(found) == SHOWN_REQUESTS:
            break
    return JSONResponse(found, headers=NO_STORE)


@router.get("/log/{engine}")
async def engine_log(engine: str, overview: Overviews, hosts: FleetHosts) -> Response:
    """The end of an engine's log. Raises NotFoundError for one of another host, too."""
    found = next((r for r in overview.replicas() if r.engine == engine), None)
    path, host = (found.log_path, found.host) if found else ("", "")
    # Another host's path may name a log of ours.
    own = {"", *(view.name for view in hosts.views() if view.is_head)}
    text = await asyncio.to_thread(read_tail, Path(path)) if path and host in own else ""
    if not text:
        raise NotFoundError(f"there is no log of {engine} here.", hint=f"{path} of its host.")
    return JSONResponse({"path": path, "text": text}, headers=NO_STORE)
