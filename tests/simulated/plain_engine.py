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
        self.bit = device.join()
        step_tokens = max(behaves.max_step_tokens, candidate.batch)
        self._batch = Batch(candidate.batch, step_tokens, behaves.kv_cache_tokens)
        self._clock, self._device, self._behaves = clock, device, behaves
        self._on_token = on_token
        self._step: BatchStep | None = None

    def cut(self) -> None:
        """There is no leap to cut."""

    def add(self, sequence: Sequence) -> None:
        self._batch.add(sequence)
        if self._step is None:
            self._device.began(self)
            self._begin()

    def _begin(self) -> None:
        self._step = step = self._batch.next_step()
        if step is None:
            self._device.rested(self)
            return
        work = step.decoding, step.prefill_tokens, step.kv_tokens
        seconds = self._device.sigma * self._behaves.steps.step_seconds(*work)
        self._clock.at(self._clock.now + seconds, self._end)

    def _end(self) -> None:
        assert self._step is not None
        emitted = self._batch.finish_step(self._step)
        self._begin()
        for sequence in emitted:
            self._on_token(sequence)
