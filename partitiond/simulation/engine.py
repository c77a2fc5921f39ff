"""Engines that step on the simulation's clock, and the devices they share.

A device slows its engines down by sigma of those that have work at the moment, by the same
function that the planner asks. Sigma counts from the next step on: a step that has begun takes
what it was going to take.
"""

import math
from collections.abc import Callable

from partitiond.core.hardware import SharingMode
from partitiond.core.interference import DEFAULT, Interference, sigma
from partitiond.core.plan import Candidate
from partitiond.simulation.batch import Batch, Sequence, Step
from partitiond.simulation.events import Clock
from partitiond.simulation.host import NO_COSTS, Host, HostCosts
from partitiond.simulation.steps import Steps

Emitted = Callable[[Sequence], None]
"""Called with a sequence that got its first token, or its last one."""
Received = Callable[[float, float, int], None]
"""Called with the begin and the end of a run of steps, and the tokens that were sent in it."""


class SharedDevice:
    """What the engines of one device do to each other.

    Attributes:
        host: whose cores its engines keep busy; by default one that is never crowded.
        sigma: slow-down of those that work now; 1 for one alone.
    """

    def __init__(
        self, mode: SharingMode, interference: Interference = DEFAULT, host: Host | None = None
    ) -> None:
        self.mode = mode
        self.host = host or Host()
        self._interference = interference
        self._working: dict[SimulatedEngine, None] = {}
        self.sigma = 1.0

    def began(self, engine: "SimulatedEngine") -> None:
        """An engine has work again."""
        self._working[engine] = None
        self.host.began(engine)
        self._changed(engine)

    def rested(self, engine: "SimulatedEngine") -> None:
        """An engine has nothing to do any more."""
        self._working.pop(engine, None)
        self.host.rested(engine)
        self._changed(engine)

    def _changed(self, by: "SimulatedEngine") -> None:
        candidates = [engine.candidate for engine in self._working]
        new = sigma(
            self.mode,
            [c.busy for c in candidates],
            self._interference,
            [c.kappa for c in candidates],
        )
        if new == self.sigma:
            return
        self.sigma = new
        for engine in self._working:
            if engine is not by:
                engine.cut()


class SimulatedEngine:
    """One engine process: takes sequences, and says when each got its first and last token.

    What the host does for its requests (`simulation.host`) is on their way, and in its steps.

    The next step begins the moment one ends, before whoever got a token can answer: a request
    that follows an ended one finds the next step under way and waits for its end, as it does in
    an engine whose scheduler never pauses.
    """

    def __init__(
        self,
        clock: Clock,
        device: SharedDevice,
        candidate: Candidate,
        batch: Batch,
        steps: Steps,
        *,
        costs: HostCosts = NO_COSTS,
    ) -> None:
        self.candidate = candidate
        self.cores = candidate.size.cores
        self.batch = batch
        self.on_first: Emitted = _ignore
        self.on_ended: Emitted = _ignore
        self.on_tokens: Received = _count_nothing
        self._clock = clock
        self._device = device
        self._steps = steps
        self.costs = costs
        # Where steps are chosen ahead: what arrived during the step under way, and what the step
        # after it does not know of yet.
        self._arrived: list[Sequence] = []
        self._unseen: list[Sequence] = []
        # Seconds that others have used of its cores; the next step pays them.
        self._owed = 0.0
        self._step: Step | None = None
        # A leap of `_count` steps since `_began`: the first takes `_first` seconds, each further
        # one `_growth` more (their KV cache grows). `_leap` tells a planned end from a later one.
        self._began = 0.0
        self._first = 0.0
        self._growth = 0.0
        self._count = 0
        self._leap = 0

    def add(self, sequence: Sequence) -> None:
        """A request is sent to it."""
        way = self.costs.way(self._device.host.crowded)
        if way > 0:
            self._clock.at(self._clock.now + way, lambda: self._take(sequence))
        else:
            self._take(sequence)

    def _take(self, sequence: Sequence) -> None:
        """A request has come to its scheduler."""
        self._owed += self.costs.lost_to_request(self._device.host.crowded)
        if self._step is None:
            self.batch.add(sequence)
            self._device.began(self)
            self._begin()
            return
        if self.costs.schedules_ahead:
            self._arrived.append(sequence)
        else:
            self.batch.add(sequence)
        self.cut()

    def cut(self) -> None:
        """End the leap with the step that is under way."""
        done = self._steps_by(self._clock.now - self._began)
        if self._step is not None and done < self._count:
            self._plan_end(done)

    def _begin(self) -> None:
        if self.costs.schedules_ahead:
            self._look()
        self._step = step = self.batch.next_step()
        if step is None:
            self._device.rested(self)
            return
        slow, crowded = self._device.sigma, self._device.host.crowded
        count = 1 if self._owed or self._unseen else self.batch.steps_alike(step)
        self._began, self._growth = self._clock.now, 0.0
        self._first = slow * self._seconds(step, 0)
        if count > 1:
            self._growth = (slow * self._seconds(step, count - 1) - self._first) / (count - 1)
        beside = self.costs.step_seconds(len(step.emitting), step.admitted, crowded)
        self._first += beside + self._owed
        self._owed = 0.0
        self._plan_end(count)

    def _look(self) -> None:
        """See what arrived before the step that has ended, and all where nothing else is to do."""
        for sequence in self._unseen:
            self.batch.add(sequence)
        self._unseen, self._arrived = self._arrived, []
        if not self.batch.running and not self.batch.waiting:
            for sequence in self._unseen:
                self.batch.add(sequence)
            self._unseen = []

    def _seconds(self, step: Step, earlier: int) -> float:
        """Seconds of a step after `earlier` ones like it, alone on the device."""
        kv_tokens = step.kv_tokens + earlier * step.decoding
        return self._steps.step_seconds(step.decoding, step.prefill_tokens, kv_tokens)

    def _plan_end(self, count: int) -> None:
        self._count = count
        self._leap += 1
        number = self._leap
        seconds = count * self._first + self._growth * count * (count - 1) / 2
        self._clock.at(self._began + seconds, lambda: self._end(number))

    def _steps_by(self, elapsed: float) -> int:
        """Steps that have ended or are under way after so many seconds of the leap; at least 1."""
        if elapsed <= self._first:
            return 1
        # The root of n first + growth n (n - 1) / 2 = elapsed, without a division by the growth.
        middle = self._first - self._growth / 2
        root = math.sqrt(max(0.0, middle * middle + 2 * self._growth * elapsed))
        return max(1, math.ceil(2 * elapsed / (middle + root) - 1e-9))

    def _end(self, number: int) -> None:
        if number != self._leap or self._step is None:
            return
        step, count, began = self._step, self._count, self._began
        emitted = self.batch.finish_step(step, count)
        self._begin()
        self.on_tokens(began, self._clock.now, count * len(emitted))
        for sequence in emitted:
            if sequence.generated == count:  # it had none before; only single steps give a first
                self.on_first(sequence)
            if sequence.generated >= sequence.output_tokens:
                self.on_ended(sequence)


def _ignore(_sequence: Sequence) -> None:
    """Before anyone listens."""


def _count_nothing(_began: float, _ended: float, _tokens: int) -> None:
    """Before anyone counts."""
