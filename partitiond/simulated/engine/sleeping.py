"""Simulates sleep: vLLM's routes of sleep mode, and their effect on the engine's memory.

The rules are those of vLLM with `--enable-sleep-mode` in development mode. An engine that sleeps
accepts requests and computes nothing until it is woken; `wake_up?tags=weights` brings back a part,
and the engine computes only once everything is back. After level 2 the weights are noise until they
are reloaded: this engine then answers 500, where vLLM would answer nonsense.
"""

import asyncio
import dataclasses
from typing import Final, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

WEIGHTS: Final = "weights"
KV_CACHE: Final = "kv_cache"
TAGS: Final = frozenset({WEIGHTS, KV_CACHE})


class SleepMemory(Protocol):
    """The memory that the engine holds on its device, by tag."""

    def release(self, tag: str) -> None:
        """Give back the memory of the tag."""
        ...

    def retake(self, tag: str) -> None:
        """Take the tag's memory again. Ends the process, as vLLM does, if there is no room."""
        ...


@dataclasses.dataclass(slots=True)
class Sleep:
    """Whether the engine sleeps, and how deeply.

    Attributes:
        memory: the engine's device memory; None if it takes none.
        away: tags of the memory that it has given up.
        stale: since level 2 its weights have not been read again.
        awake: set while the engine computes.
    """

    memory: SleepMemory | None = None
    away: frozenset[str] = frozenset()
    stale: bool = False
    awake: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.awake.set()

    def fall_asleep(self, level: int) -> None:
        """Give up all memory that is not given up yet."""
        self.awake.clear()
        for tag in sorted(TAGS - self.away):
            if self.memory is not None:
                self.memory.release(tag)
        self.stale = self.stale or (level == 2 and WEIGHTS not in self.away)
        self.away = TAGS

    def wake(self, tags: frozenset[str]) -> None:
        """Take back the memory of these tags."""
        for tag in sorted(self.away & tags):
            if self.memory is not None:
                self.memory.retake(tag)
        self.away -= tags
        if not self.away:
            self.awake.set()

    def reload_weights(self) -> bool:
        """Read the weights again; False if their memory is given up."""
        if WEIGHTS in self.away:
            return False
        self.stale = False
        return True


def sleep_routes(sleep: Sleep) -> list[Route]:
    """vLLM's routes of sleep mode."""

    async def post_sleep(request: Request) -> Response:
        level = request.query_params.get("level", "1")
        if level not in {"1", "2"}:
            return JSONResponse({"detail": "level must be 1 or 2"}, 422)
        sleep.fall_asleep(int(level))
        return JSONResponse({"status": "sleeping", "level": int(level)})

    async def post_wake_up(request: Request) -> Response:
        tags = frozenset(request.query_params.getlist("tags")) or TAGS
        sleep.wake(tags)
        return JSONResponse({"status": "sleeping" if sleep.away else "awake"})

    async def is_sleeping(_request: Request) -> Response:
        return JSONResponse({"is_sleeping": bool(sleep.away)})

    async def collective_rpc(request: Request) -> Response:
        body = await request.json()
        if not isinstance(body, dict) or body.get("method") != "reload_weights":
            return JSONResponse({"detail": "only reload_weights is known here"}, 400)
        if not sleep.reload_weights():
            return JSONResponse({"detail": "the weights' memory is given up"}, 500)
        return JSONResponse({"results": [None]})

    return [
        Route("/sleep", post_sleep, methods=["POST"]),
        Route("/wake_up", post_wake_up, methods=["POST"]),
        Route("/is_sleeping", is_sleeping),
        Route("/collective_rpc", collective_rpc, methods=["POST"]),
    ]
