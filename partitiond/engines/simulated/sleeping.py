"""The simulated engine's sleep: vLLM's routes of sleep mode, and what they do to its memory.

As in vLLM with `--enable-sleep-mode` in development mode: asleep it takes requests and computes
nothing until it is woken; `wake_up?tags=weights` brings back a part, and it computes only once all
of it is there. After level 2 the weights are noise until they are reloaded: this engine then
answers 500, where vLLM would answer nonsense.
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


class Memory(Protocol):
    """What the engine holds on its device, by tag."""

    def release(self, tag: str) -> None:
        """Give back what has the tag."""
        ...

    def retake(self, tag: str) -> None:
        """Take it again. Ends the process, as vLLM does, where there is no room."""
        ...


@dataclasses.dataclass(slots=True)
class Sleep:
    """Whether the engine sleeps, and how deep.

    Attributes:
        memory: of its device; None where it takes none.
        away: tags of what it has given up.
        stale: its weights are not read again since level 2.
        awake: set while it computes.
    """

    memory: Memory | None = None
    away: frozenset[str] = frozenset()
    stale: bool = False
    awake: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.awake.set()

    def fall_asleep(self, level: int) -> None:
        """Give everything up that it does not have given up."""
        self.awake.clear()
        for tag in sorted(TAGS - self.away):
            if self.memory is not None:
                self.memory.release(tag)
        self.stale = self.stale or (level == 2 and WEIGHTS not in self.away)
        self.away = TAGS

    def wake(self, tags: frozenset[str]) -> None:
        """Take back what has these tags."""
        for tag in sorted(self.away & tags):
            if self.memory is not None:
                self.memory.retake(tag)
        self.away -= tags
        if not self.away:
            self.awake.set()

    def reload_weights(self) -> bool:
        """Read the weights again; False where there is no memory for them."""
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
