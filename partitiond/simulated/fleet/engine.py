"""Simulates engines with steps whose cost does not depend on the number of running sequences.

The rules are those of `simulated.engine.batch`, where every step visits every sequence. Here a
decoding sequence is only the number of its last step: every sequence gets one token in each step,
so the progress of each follows from the number of steps made. Between two events an engine that
only decodes repeats the same step, so it takes such steps in one leap, which ends with the step
under way when something arrives. A test compares both, request by request.

The next step begins as soon as one ends, before a client that got a token can react: a request that
follows an ended one finds the next step under way and waits for its end, as in a real engine, whose
scheduler never pauses.
"""

import collections
import heapq
import math

from partitiond.core.dispatch import places
from partitiond.core.dispatch.admission import Cost
from partitiond.core.plan.record import Candidate
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import EventTarget, SimulatedClock
from partitiond.simulated.steps import Steps


class FleetRequest(places.Request):
    """A request from its arrival to its end. Times are seconds of the simulation.

    Attributes:
        placed, first, ended: when it got its replica, its first and its last token; -1 before.
        generated, read, number, last_step: the engine's: tokens so far and prompt tokens read while
            it does not decode, its place in the order of admission (0 while it waits), and its last
            step while it decodes.
    """

    __slots__ = (
        "arrived", "ended", "first", "generated", "last_step", "number", "output_tokens",
        "placed", "prompt_tokens", "read",
    )  # fmt: skip

    def __init__(self, arrived: float, prompt_tokens: int, output_tokens: int, cost: Cost) -> None:
        super().__init__(cost)
        self.arrived = arrived
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self.placed = -1.0
        self.first = -1.0
        self.ended = -1.0
        self.generated = 0
        self.read = 0
        self.number = 0
        self.last_step = 0


class TokenListener:
    """Receives what an engine did."""

    def first_token(self, request: FleetRequest) -> None:
        """Record that the request's first token came."""
        raise NotImplementedError

    def last_token(self, request: FleetRequest) -> None:
        """Record that the request's last token came."""
        raise NotImplementedError


class FleetEngine(EventTarget):
    """One engine process: takes requests, and tells when each got its first and last token.

    Attributes:
        tokens: tokens that the engine has generated.
        preemptions: sequences that lost their place.
        bit: bit of this engine among the engines of its device.
    """

    def __init__(
        self,
        clock: SimulatedClock,
        device: FleetDevice,
        candidate: Candidate,
        behaves: EngineModel,
        served: TokenListener,
    ) -> None:
        """
        Args:
            clock: clock of the simulation.
            device: device of the engine.
            candidate: candidate that the engine runs.
            behaves: step times alone on the device, and limits.
            served: receives first and last tokens.
        """
        self.candidate = candidate
        self.tokens = 0
        self.preemptions = 0
        self.bit = device.join()
        self._clock = clock
        self._device = device
        self._steps: Steps = behaves.steps
        self._served = served
        self._max_sequences = candidate.batch
        self._max_step_tokens = max(behaves.max_step_tokens, candidate.batch)
        self._kv_tokens = behaves.kv_cache_tokens
        self._waiting: collections.deque[FleetRequest] = collections.deque()
        # In the order of admission; `_reading` are those with a prompt to read.
        self._running: dict[FleetRequest, None] = {}
        self._reading: dict[FleetRequest, None] = {}
        self._admitted = 0
        # Decoding requests by last step; entries of preempted requests carry an old number.
        self._ends: list[tuple[int, int, FleetRequest]] = []
        self._decoding = 0
        self._made = 0
        # KV tokens of all running requests, once prompts are read; of decoding ones, now.
        self._held = 0
        self._context = 0
        # A leap of `_count` steps since `_began`: the first takes `_first` seconds, each further
        # one `_growth` more (the KV cache grows). `_leap` tells a planned end from a later one.
        self._at_work = False
        self._read_now: list[FleetRequest] = []
        self._began = 0.0
        self._first = 0.0
        self._growth = 0.0
        self._count = 0
        self._leap = 0

    def add(self, request: FleetRequest) -> None:
        """Queue a request in the engine, which looks at it when the step under way has ended."""
        self._waiting.append(request)
        if self._at_work:
            self.cut()
        else:
            self._at_work = True
            self._device.began(self)
            self._begin()

    def cut(self) -> None:
        """End the leap with the step that is under way."""
        if self._count > 1:
            done = _steps_within(self._clock.now - self._began, self._first, self._growth)
            if done < self._count:
                self._plan_end(done)

    def due(self, number: int) -> None:
        """End the leap, unless it was cut."""
        if number == self._leap:
            self._end()

    def _end(self) -> None:
        count, decoding = self._count, self._decoding
        self._made = made = self._made + count
        self._held += count * decoding
        self._context += count * decoding
        ended: list[FleetRequest] = []
        ends, running = self._ends, self._running
        while ends and ends[0][0] <= made:
            _, number, request = heapq.heappop(ends)
            if request.number == number:
                size = request.prompt_tokens + request.output_tokens - 1
                self._held -= size
                self._context -= size
                self._decoding -= 1
                del running[request]
                ended.append(request)
        read = self._read_now
        self.tokens += count * decoding + len(read)
        for request in read:
            self._begin_to_decode(request)
        self._begin()
        served = self._served
        for request in ended:
            served.last_token(request)
        for request in read:
            if request.generated == 1:
                served.first_token(request)
            if request.generated >= request.output_tokens:
                served.last_token(request)

    def _begin_to_decode(self, request: FleetRequest) -> None:
        """Move a request whose prompt is read to decoding; reading the prompt gave it a token."""
        if request.generated > 0:
            self._held += 1
        request.generated += 1
        size = request.prompt_tokens + request.generated - 1
        if request.generated >= request.output_tokens:
            self._held -= size
            del self._running[request]
            return
        request.last_step = self._made + request.output_tokens - request.generated
        heapq.heappush(self._ends, (request.last_step, request.number, request))
        self._decoding += 1
        self._context += size

    def _begin(self) -> None:
        """Choose what the next step does, and how often."""
        running = self._running
        while len(running) > 1 and self._held + len(running) > self._kv_tokens:
            self._preempt(next(reversed(running)))
        decoding, context = self._decoding, self._context
        if self._waiting:
            self._admit()
        prefill_tokens = 0
        self._read_now = []
        if self._reading:
            prefill_tokens = self._read_prompts(max(0, self._max_step_tokens - decoding))
        if not decoding and not prefill_tokens:
            self._at_work = False
            self._device.rested(self)
            return
        slow = self._device.sigma
        count = 1 if prefill_tokens else self._steps_alike()
        self._began, self._growth = self._clock.now, 0.0
        steps = self._steps
        self._first = slow * steps.step_seconds(decoding, prefill_tokens, context)
        if count > 1:
            last = steps.step_seconds(decoding, prefill_tokens, context + (count - 1) * decoding)
            self._growth = (slow * last - self._first) / (count - 1)
        self._plan_end(count)

    def _admit(self) -> None:
        waiting, running = self._waiting, self._running
        while waiting and len(running) < self._max_sequences:
            request = waiting[0]
            to_read = request.prompt_tokens + max(0, request.generated - 1)
            if running and self._held + to_read + 1 > self._kv_tokens:
                break
            waiting.popleft()
            self._admitted += 1
            request.number = self._admitted
            running[request] = None
            self._reading[request] = None
            self._held += to_read

    def _read_prompts(self, budget: int) -> int:
        read = 0
        for request in self._reading:
            to_read = request.prompt_tokens + max(0, request.generated - 1) - request.read
            chunk = min(to_read, budget - read)
            if chunk <= 0:
                break
            request.read += chunk
            read += chunk
            if chunk == to_read:
                self._read_now.append(request)
        for request in self._read_now:
            del self._reading[request]
        return read

    def _preempt(self, request: FleetRequest) -> None:
        """Preempt a request: it loses its place, and everything is read again later."""
        del self._running[request]
        if request in self._reading:
            del self._reading[request]
            self._held -= request.prompt_tokens + max(0, request.generated - 1)
        else:
            request.generated = request.output_tokens - (request.last_step - self._made)
            size = request.prompt_tokens + request.generated - 1
            self._held -= size
            self._context -= size
            self._decoding -= 1
        request.number = 0
        request.read = 0
        self._waiting.appendleft(request)
        self.preemptions += 1

    def _steps_alike(self) -> int:
        """Return how many steps in a row do the same unless something is added."""
        ends = self._ends
        while ends[0][2].number != ends[0][1]:
            heapq.heappop(ends)
        most = ends[0][0] - self._made
        running = len(self._running)
        if running > 1:
            most = min(most, (self._kv_tokens - self._held) // running)
        return max(1, most)

    def _plan_end(self, count: int) -> None:
        self._count = count
        self._leap += 1
        seconds = count * self._first + self._growth * count * (count - 1) / 2
        self._clock.plan(self._began + seconds, self, self._leap)


def _steps_within(elapsed: float, first: float, growth: float) -> int:
    """Return steps that have begun within `elapsed` seconds of a leap; at least 1.

    Args:
        elapsed: since the leap began.
        first: seconds of the leap's first step.
        growth: seconds by which each further step is longer than the one before.
    """
    if elapsed <= first:
        return 1
    # The root of n first + growth n (n - 1) / 2 = elapsed, without a division by the growth.
    middle = first - growth / 2
    root = math.sqrt(max(0.0, middle * middle + 2 * growth * elapsed))
    return max(1, math.ceil(2 * elapsed / (middle + root) - 1e-9))
