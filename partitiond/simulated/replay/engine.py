"""Simulates engines that step on the simulation's clock, and the devices that they share.

A device slows its engines down by the sigma of the engines that have work now, using the planner's
function. A new sigma applies from the next step on, not to a step that has begun.
"""

from collections.abc import Callable

from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.performance.interference import DEFAULT, Interference, sigma
from partitiond.core.plan.record import Candidate
from partitiond.simulated.replay.batch import Batch, BatchStep, Sequence
from partitiond.simulated.replay.events import SimulatedClock
from partitiond.simulated.replay.host import NO_COSTS, Host, HostCosts
from partitiond.simulated.replay.steps import Steps, steps_within

Emitted = Callable[[Sequence], None]
"""Called with a sequence that got its first token, or its last one."""
Decoded = Callable[[float, int], None]
"""Called with the seconds of all decoding sequences together, and the tokens that they got."""
Received = Callable[[float, float, int], None]
"""Called with begin and end of a run of steps, and the number of tokens sent in it."""


class SharedDevice:
    """Models how the engines of one device slow each other down.

    Attributes:
        host: host whose cores the engines keep busy; the default host is never crowded.
        sigma: slow-down of the engines that work now; 1 for one alone.
    """

    def __init__(
        self, mode: SharingMode, interference: Interference = DEFAULT, host: Host | None = None
    ) -> None:
        self.mode = mode
        self.host = host or Host()
        self._interference = interference
        self._working: dict[SteppedEngine, None] = {}
        self.sigma = 1.0

    def began(self, engine: "SteppedEngine") -> None:
        """Record that an engine has work again."""
        self._working[engine] = None
        self.host.began(engine)
        self._changed(engine)

    def rested(self, engine: "SteppedEngine") -> None:
        """Record that an engine has no more work."""
        self._working.pop(engine, None)
        self.host.rested(engine)
        self._changed(engine)

    def _changed(self, by: "SteppedEngine") -> None:
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


class SteppedEngine:
    """One engine process: takes sequences, and reports when each got its first and last token.

    Costs of the host (`simulated.replay.host`) are added to the way of a request and to the steps.

    The next step begins as soon as one ends, before a client that got a token can react: a request
    that follows an ended one finds the next step under way and waits for its end, as in a real
    engine, whose scheduler never pauses.
    """

    def __init__(
        self,
        clock: SimulatedClock,
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
        self.on_decoded: Decoded = _learn_nothing
        self.on_tokens: Received = _count_nothing
        self._clock = clock
        self._device = device
        self.steps = steps
        self.costs = costs
        # If steps are chosen ahead: requests that arrived during the step under way, and requests
        # that the step after it does not include yet.
        self._arrived: list[Sequence] = []
        self._unseen: list[Sequence] = []
        # Seconds that other processes used of the engine's cores; added to the next step.
        self._owed = 0.0
        self._step: BatchStep | None = None
        # A leap of `_count` steps since `_began`: the first takes `_first` seconds, each further
        # one `_growth` more (the KV cache grows). `_leap` tells a planned end from a later one.
        self._began = 0.0
        self._first = 0.0
        self._growth = 0.0
        self._count = 0
        self._leap = 0

    def add(self, sequence: Sequence) -> None:
        """Send a request to the engine, where it arrives after `costs.way` seconds."""
        way = self.costs.way(self._device.host.crowded)
        if way > 0:
            self._clock.at(self._clock.now + way, lambda: self._take(sequence))
        else:
            self._take(sequence)

    def _take(self, sequence: Sequence) -> None:
        """Pass an arrived request to the engine's scheduler."""
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
        done = steps_within(self._clock.now - self._began, self._first, self._growth)
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
        """Batch requests that arrived before the ended step; all of them if the engine is idle."""
        for sequence in self._unseen:
            self.batch.add(sequence)
        self._unseen, self._arrived = self._arrived, []
        if not self.batch.running and not self.batch.waiting:
            for sequence in self._unseen:
                self.batch.add(sequence)
            self._unseen = []

    def _seconds(self, step: BatchStep, earlier: int) -> float:
        """Return seconds of a step after `earlier` equal ones, alone on the device."""
        kv_tokens = step.kv_tokens + earlier * step.decoding
        return self.steps.step_seconds(step.decoding, step.prefill_tokens, kv_tokens)

    def _plan_end(self, count: int) -> None:
        self._count = count
        self._leap += 1
        number = self._leap
        seconds = count * self._first + self._growth * count * (count - 1) / 2
        self._clock.at(self._began + seconds, lambda: self._end(number))

    def _end(self, number: int) -> None:
        if number != self._leap or self._step is None:
            return
        step, count, began = self._step, self._count, self._began
        emitted = self.batch.finish_step(step, count)
        self._begin()
        self.on_tokens(began, self._clock.now, count * len(emitted))
        self.on_decoded((self._clock.now - began) * step.decoding, count * step.decoding)
        for sequence in emitted:
            if sequence.generated == count:  # its first token; only single steps give one
                self.on_first(sequence)
            if sequence.generated >= sequence.output_tokens:
                self.on_ended(sequence)


def _ignore(_sequence: Sequence) -> None:
    """Ignore a sequence, until a listener is set."""


def _learn_nothing(_seconds: float, _tokens: int) -> None:
    """Ignore what was decoded, until a listener is set."""


def _count_nothing(_began: float, _ended: float, _tokens: int) -> None:
    """Ignore tokens, until a counter is set."""
