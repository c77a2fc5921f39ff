"""An engine that takes every step by itself and visits every sequence in it: what the fleet
simulator's engines, which leap and count, have to equal."""

from collections.abc import Callable

from partitiond.core.plan.record import Candidate
from partitiond.simulated.engine.batch import Batch, BatchStep, Sequence
from partitiond.simulated.fleet.device import FleetDevice
from partitiond.simulated.fleet.engine_model import EngineModel
from partitiond.simulated.fleet.events import SimulatedClock


class PlainEngine:
    """Calls `on_token` with each sequence that got a token."""

    def __init__(
        self,
        clock: SimulatedClock,
        device: FleetDevice,
        candidate: Candidate,
        behaves: EngineModel,
        on_token: Callable[[Sequence], None],
    ) -> None:
        self.candidate = candidate
        self.cores = candidate.size.cores
        self.costs = behaves.costs
        self.bit = device.join()
        step_tokens = max(behaves.max_step_tokens, candidate.batch)
        self._batch = Batch(candidate.batch, step_tokens, behaves.kv_cache_tokens)
        self._clock, self._device, self._behaves = clock, device, behaves
        self._on_token = on_token
        self._arrived: list[Sequence] = []
        self._unseen: list[Sequence] = []
        self._owed = 0.0
        self._step: BatchStep | None = None

    def cut(self) -> None:
        """There is no leap to cut."""

    def add(self, sequence: Sequence) -> None:
        way = self.costs.way(self._device.host.crowded)
        if way > 0:
            self._clock.at(self._clock.now + way, lambda: self._take(sequence))
        else:
            self._take(sequence)

    def _take(self, sequence: Sequence) -> None:
        self._owed += self.costs.lost_to_request(self._device.host.crowded)
        if self._step is not None and self.costs.schedules_ahead:
            self._arrived.append(sequence)
            return
        self._batch.add(sequence)
        if self._step is None:
            self._device.began(self)
            self._begin()

    def _begin(self) -> None:
        if self.costs.schedules_ahead:
            self._queue_arrivals()
        self._step = step = self._batch.next_step()
        if step is None:
            self._device.rested(self)
            return
        work = step.decoding, step.prefill_tokens, step.kv_tokens
        seconds = self._device.sigma * self._behaves.steps.step_seconds(*work)
        crowded = self._device.host.crowded
        seconds += self.costs.step_seconds(len(step.emitting), step.admitted, crowded) + self._owed
        self._owed = 0.0
        self._clock.at(self._clock.now + seconds, self._end)

    def _queue_arrivals(self) -> None:
        waiting, self._unseen, self._arrived = self._unseen, self._arrived, []
        for sequence in waiting:
            self._batch.add(sequence)
        if not self._batch.running and not self._batch.waiting:
            for sequence in self._unseen:
                self._batch.add(sequence)
            self._unseen = []

    def _end(self) -> None:
        assert self._step is not None
        emitted = self._batch.finish_step(self._step)
        self._begin()
        for sequence in emitted:
            self._on_token(sequence)
