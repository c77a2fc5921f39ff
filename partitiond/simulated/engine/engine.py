"""Runs the engine behind the routes: accepts generations and makes their tokens in time."""

import asyncio
import contextlib
import dataclasses
import os
import signal
from collections.abc import AsyncGenerator

from starlette.requests import Request

from partitiond.simulated.engine.batch import Sequence
from partitiond.simulated.engine.generation import Generation
from partitiond.simulated.engine.loop import EngineLoop
from partitiond.simulated.engine.refusals import RefusedError
from partitiond.simulated.engine.sleeping import Sleep


class BrokenError(Exception):
    """The engine broke while it generated; has vLLM's message for that."""

    MESSAGE = "EngineCore encountered an issue. See stack trace (above) for the root cause."

    def __init__(self) -> None:
        super().__init__(self.MESSAGE)
        self.body = {
            "error": {
                "message": self.MESSAGE,
                "type": "InternalServerError",
                "param": None,
                "code": 500,
            }
        }


@dataclasses.dataclass(slots=True)
class SimulatedEngine:
    """The state that the routes share.

    Attributes:
        crash_after_requests: the process dies when it accepts more generations than this.
        crash_at_running: the process dies when so many generations are in flight.
        break_at_token: every generation breaks before the token of this number.
        calls_tools: chats with tools are answered by a call, as an engine with a parser does.
        sleep: the engine's sleep mode; None if it has none.
    """

    loop: EngineLoop
    model: str
    max_model_len: int
    kv_cache_tokens: int
    crash_after_requests: int | None = None
    crash_at_running: int | None = None
    break_at_token: int | None = None
    calls_tools: bool = False
    accepted: int = 0
    sleep: Sleep | None = None

    async def accept(self) -> None:
        """Count a request, crash if it is the one to crash on, then wait until the engine is awake.

        Raises:
            RefusedError: the weights were not read again after a deep sleep.
        """
        self.accepted += 1
        in_flight = self.loop.batch.running + self.loop.batch.waiting + 1
        worn_out = self.crash_after_requests is not None and (
            self.accepted > self.crash_after_requests
        )
        too_many = self.crash_at_running is not None and in_flight >= self.crash_at_running
        if worn_out or too_many:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.sleep is not None:
            await self.sleep.awake.wait()
            if self.sleep.stale:
                message = "the weights were not reloaded after level 2"
                raise RefusedError(500, "detail", message)

    async def run(self, sequence: Sequence) -> AsyncGenerator[int, None]:
        """Token numbers of one sequence as they are made. Raises BrokenError if set to break."""
        async with contextlib.aclosing(self.loop.generate(sequence)) as positions:
            async for position in positions:
                if position == self.break_at_token:
                    raise BrokenError
                yield position

    async def tokens(self, generation: Generation) -> AsyncGenerator[tuple[int, int], None]:
        """Yield (choice, token) pairs of all choices as they come. Raises BrokenError."""
        merged: asyncio.Queue[tuple[int, int] | BrokenError | None] = asyncio.Queue()

        async def feed(index: int, sequence: Sequence) -> None:
            try:
                async with contextlib.aclosing(self.run(sequence)) as positions:
                    async for position in positions:
                        merged.put_nowait((index, position))
            except BrokenError as error:
                merged.put_nowait(error)
            merged.put_nowait(None)

        tasks = [
            asyncio.create_task(feed(index, sequence))
            for index, sequence in enumerate(_sequences(generation))
        ]
        try:
            left = len(tasks)
            while left:
                item = await merged.get()
                if isinstance(item, BrokenError):
                    raise item
                if item is None:
                    left -= 1
                else:
                    yield item
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def finish(self, generation: Generation, request: Request) -> None:
        """Generate everything; if the client disconnects, free the places at once.

        Raises:
            BrokenError: see `run`.
        """
        work = asyncio.create_task(self._drain(generation))
        leaving = asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait({work, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            work.cancel()
            await asyncio.gather(work, leaving, return_exceptions=True)
        if not work.cancelled():
            work.result()

    async def _drain(self, generation: Generation) -> None:
        async with contextlib.aclosing(self.tokens(generation)) as made:
            async for _ in made:
                pass


def _sequences(generation: Generation) -> list[Sequence]:
    return [
        Sequence(len(generation.prompt_of(index)), max(1, len(answer.pieces)))
        for index, answer in enumerate(generation.answers)
    ]


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        continue
