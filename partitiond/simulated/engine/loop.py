"""Steps the simulated engine's batch: the real clock around the pure batch."""

import asyncio
import dataclasses
import time
from collections.abc import AsyncGenerator, Callable

from partitiond.simulated.engine.batch import Batch, BatchStep, Sequence
from partitiond.simulated.steps import Steps


@dataclasses.dataclass(slots=True)
class Totals:
    """Counters since the start, in the units of the metrics (seconds, tokens, requests)."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    finished: int = 0
    aborted: int = 0
    ttft_seconds: float = 0.0
    ttft_count: int = 0
    e2el_seconds: float = 0.0
    queue_seconds: float = 0.0
    itl_seconds: float = 0.0
    itl_count: int = 0


class EngineLoop:
    """Steps the batch while there is work, and hands tokens to their requests.

    Args:
        steps: how long a step takes alone.
        slowed: returns how long a step of so many seconds takes beside what else works now.
    """

    def __init__(
        self, batch: Batch, steps: Steps, slowed: Callable[[float], float] = float
    ) -> None:
        self.batch = batch
        self.totals = Totals()
        self._steps = steps
        self._slowed = slowed
        self._queues: dict[Sequence, asyncio.Queue[None]] = {}
        self._work = asyncio.Event()

    async def run(self) -> None:
        """Step until cancelled. After a late step the next sleep is shorter, so that rates hold."""
        due = time.monotonic()
        while True:
            step = self.batch.next_step()
            if step is None:
                self._work.clear()
                await self._work.wait()
                due = time.monotonic()
                continue
            alone = self._steps.step_seconds(step.decoding, step.prefill_tokens, step.kv_tokens)
            due += self._slowed(alone)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            due = max(due, time.monotonic() - 0.1)
            self._hand_out(step)

    def _hand_out(self, step: BatchStep) -> None:
        self.totals.prompt_tokens += step.prefill_tokens
        for sequence in self.batch.finish_step(step):
            self.totals.generated_tokens += 1
            queue = self._queues.get(sequence)
            if queue is not None:
                queue.put_nowait(None)

    async def generate(self, sequence: Sequence) -> AsyncGenerator[int, None]:
        """Yield token numbers 0, 1, ... of a sequence; closing early frees its place at once."""
        queue: asyncio.Queue[None] = asyncio.Queue()
        self._queues[sequence] = queue
        self.batch.add(sequence)
        self._work.set()
        arrived = last = time.monotonic()
        position = 0
        try:
            for position in range(sequence.output_tokens):
                await queue.get()
                now = time.monotonic()
                self._count(position, now - arrived, now - last)
                last = now
                yield position
        finally:
            ended = position == sequence.output_tokens - 1 and sequence.generated > position
            self.batch.remove(sequence)
            del self._queues[sequence]
            self.totals.finished += ended
            self.totals.aborted += not ended
            self.totals.e2el_seconds += (time.monotonic() - arrived) if ended else 0.0

    def _count(self, position: int, since_arrival: float, since_last: float) -> None:
        if position == 0:
            self.totals.ttft_seconds += since_arrival
            self.totals.ttft_count += 1
        else:
            self.totals.itl_seconds += since_last
            self.totals.itl_count += 1
