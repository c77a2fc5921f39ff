"""The trials of one profile against one engine that is up."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from loadgen import LiveState, LoadAbortedError
from loadgen import Workload as Load
from partitiond.core.errors import EngineError, ExitedError
from partitiond.core.hardware import DeviceKind
from partitiond.ports import Clock, EngineHandle, EngineRunner, ProfileRequest, Progress
from partitiond.profiler.launch import ProfileLaunch
from partitiond.profiler.search import (
    Done,
    NextTrial,
    Purpose,
    SearchLimits,
    Visit,
    propose,
    seconds_left,
)
from partitiond.profiler.trial import RUNNING, Trial, run_trial

IDLE_DEADLINE_SECONDS: Final = 5.0
"""Between trials the engine drops the requests of the last one; it takes up to half a second."""
DEATH_NOTICE_SECONDS: Final = 5.0
"""Requests fail a moment before the process is seen to be gone."""

HALF_WIDTH_SHARE: Final = {DeviceKind.GPU: 0.02, DeviceKind.CPU: 0.05}
"""Wanted interval of a window: GPUs repeat well, hosts share their cores with other things."""

WARM_UP_SECONDS: Final = 1.0
"""One short trial nobody counts: the first requests pay for lazy initialisation."""

MIN_BATCHES: Final = 2
"""Batches a sweep that was cut short must have measured to be worth keeping."""


class Sweep:
    """Makes trials until the search is done or the engine dies.

    Attributes:
        trials: those that count, in order.
        notes: what a reader of the profile should know.
        done: the search's last word; None where the sweep was cut short.
        peak_bytes: peak memory of the engine so far.
    """

    def __init__(
        self,
        engines: EngineRunner,
        handle: EngineHandle,
        request: ProfileRequest,
        *,
        planned: ProfileLaunch,
        clock: Clock,
        progress: Callable[[Progress], None],
    ) -> None:
        self._engines = engines
        self._handle = handle
        self._clock = clock
        self._progress = progress
        self._half_width_share = HALF_WIDTH_SHARE[request.device.kind]
        spec = request.model.spec
        self._load = Load(
            model=spec.name,
            prompt_tokens=spec.workload.prompt_tokens,
            output_tokens=spec.workload.output_tokens,
            last_token_id=min(20_000, planned.architecture.vocab_size - 1),
            seed=request.seed,
        )
        self._limits = SearchLimits(
            max_batch=planned.max_batch,
            time_limit_seconds=request.time_limit_seconds,
            min_window_seconds=request.min_window_seconds,
            max_window_seconds=request.max_window_seconds,
        )
        self.trials: list[Trial] = []
        self.notes: list[str] = []
        self.done: Done | None = None
        self.peak_bytes = 0

    async def run(self, device_rise_bytes: Callable[[], int]) -> None:
        """Warm up, then make trials until the search is done or the engine dies."""
        began = self._clock.monotonic()
        seconds = min(WARM_UP_SECONDS, self._limits.min_window_seconds)
        warm_up = NextTrial(1, Purpose.UP, seconds, seconds, seconds)
        proposal: NextTrial | Done = warm_up
        while isinstance(proposal, NextTrial):
            try:
                trial = await self._watched(proposal, began)
            except (EngineError, LoadAbortedError) as error:
                self._give_up(proposal, error)
                return
            # Both ask the kernel or a driver for a while; requests of others share this loop.
            self.peak_bytes = max(
                await asyncio.to_thread(device_rise_bytes),
                await asyncio.to_thread(self._engines.peak_memory_bytes, self._handle),
            )
            if proposal is not warm_up:
                self.trials.append(trial)
            proposal = propose(self._visits(), self._limits, self._clock.monotonic() - began)
            if isinstance(proposal, NextTrial):
                await self._until_idle()
        self.done = proposal

    def _visits(self) -> list[Visit]:
        return [trial.visit for trial in self.trials]

    async def _watched(self, proposal: NextTrial, began: float) -> Trial:
        """A trial that ends at once when the engine's process does."""
        trial = asyncio.ensure_future(
            run_trial(
                self._engines,
                self._handle,
                self._load,
                proposal,
                half_width_share=self._half_width_share,
                progress=lambda state: self._tell(proposal, state, began),
            )
        )
        exited = asyncio.ensure_future(self._engines.wait_exit(self._handle))
        try:
            await asyncio.wait({trial, exited}, return_when=asyncio.FIRST_COMPLETED)
            if trial.done() and trial.exception() is not None:
                await asyncio.wait({exited}, timeout=DEATH_NOTICE_SECONDS)
            if exited.done():
                raise self._exited_error(proposal, exited.result().diagnosis)
            return trial.result()
        finally:
            await _cancelled(trial)
            await _cancelled(exited)

    def _exited_error(self, proposal: NextTrial, diagnosis: str) -> ExitedError:
        # The diagnosis ends with the lines of the log that matter, so they end the message.
        said = f": {diagnosis}" if diagnosis else "."
        return ExitedError(
            f"the engine ended during the trial with {proposal.batch} in flight{said}",
            hint=f"See its log, {self._handle.log_path}; a smaller max batch or more memory "
            "may help.",
            facts={
                "batch": proposal.batch,
                "log_path": self._handle.log_path,
                "lines": [line.strip() for line in diagnosis.splitlines()[1:]],
            },
        )

    def _give_up(self, proposal: NextTrial, error: EngineError | LoadAbortedError) -> None:
        """Keep what was measured, if that is anything to plan with; else raise."""
        if len({trial.batch for trial in self.trials}) < MIN_BATCHES:
            if isinstance(error, EngineError):
                raise error
            raise EngineError(
                f"the trial with {proposal.batch} in flight failed: {error}",
                hint=f"See the engine's log, {self._handle.log_path}.",
            ) from error
        reason = str(error).splitlines()[0]
        self.notes.append(f"the sweep ended early at batch {proposal.batch}: {reason}")

    async def _until_idle(self) -> None:
        """Wait until the engine has dropped the last trial's requests."""
        deadline = self._clock.monotonic() + IDLE_DEADLINE_SECONDS
        while self._clock.monotonic() < deadline:
            with contextlib.suppress(EngineError):  # the next trial finds out what is wrong
                metrics = (await self._engines.report(self._handle)).metrics
                if metrics.get(RUNNING, 0.0) < 1:
                    return
            await asyncio.sleep(0.1)

    def _tell(self, proposal: NextTrial, state: LiveState, began: float) -> None:
        elapsed = self._clock.monotonic() - began
        left = seconds_left(self._visits(), self._limits, elapsed)
        rate = ""
        if state.throughput is not None:
            rate = f", {state.throughput.output_tokens_per_s:.0f} tokens/s"
        self._progress(
            Progress(
                phase="measuring",
                message=f"batch {proposal.batch} ({proposal.purpose}){rate}",
                fraction=min(1.0, elapsed / (elapsed + left)) if elapsed + left > 0 else None,
                seconds_left=left,
            )
        )


async def _cancelled(task: "asyncio.Future[Any]") -> None:
    """Cancel and wait for the end, whatever it is; results were taken before."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.exception()
