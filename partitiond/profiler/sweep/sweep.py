"""Makes the trials that the search asks for, on one engine that is up.

An engine that ends or hangs during a trial is started again, with the batch of that trial as the
new bound, and the sweep goes on. A trial whose load generator was saturated is made again, once.
"""

from typing import Final

from loadgen import LiveState, LoadAbortedError, StalledError
from partitiond.core.errors import EngineError, ExitedError
from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.profile.jobs import Progress
from partitiond.core.replica.engine import EngineReport
from partitiond.ports import ProfileRequest
from partitiond.profiler.search import (
    NextTrial,
    Prior,
    Purpose,
    SearchDone,
    SearchLimits,
    Visit,
    propose,
    seconds_left,
)
from partitiond.profiler.sweep.bench import Bench, Running, Tell
from partitiond.profiler.sweep.launch import ProfileLaunch
from partitiond.profiler.sweep.load import load_of
from partitiond.profiler.sweep.stall import first_stall_seconds, stall_seconds
from partitiond.profiler.sweep.trial import FailedTrial, Trial, run_trial

HALF_WIDTH_SHARE: Final = {DeviceKind.GPU: 0.02, DeviceKind.CPU: 0.05}
"""Wanted interval of a window: GPUs repeat well, hosts share their cores with other work."""

WARM_UP_SECONDS: Final = 1.0
"""One short trial does not count: its first requests pay for lazy initialisation. Chosen."""

MIN_BATCHES: Final = 2
"""Batches that a sweep that was cut short must have measured to be worth keeping."""

MAX_RESTARTS: Final = 3
"""How often an engine that ended in a trial is started again. Chosen, not measured."""


def warm_up(min_window_seconds: float) -> NextTrial:
    """Return the trial that does not count."""
    seconds = min(WARM_UP_SECONDS, min_window_seconds)
    return NextTrial(1, Purpose.UP, seconds, seconds, seconds)


class Sweep:
    """Makes trials until the search is done or the engine does not come back.

    Attributes:
        steps: finished trials and deaths, in order.
        notes: what a reader of the profile should know.
        done: the search's last result; None if the sweep was cut short.
        report: the engine's report when it was ready.
    """

    def __init__(
        self,
        bench: Bench,
        request: ProfileRequest,
        planned: ProfileLaunch,
        *,
        prior: Prior | None,
        tell: Tell,
    ) -> None:
        self._bench = bench
        self._request = request
        self._planned = planned
        self._tell = tell
        self._half_width_share = HALF_WIDTH_SHARE[request.device.kind]
        self._load = load_of(request, planned.architecture)
        self._prior = prior
        self._began: float | None = None
        self._restarts = 0
        self._warm: Visit | None = None
        self._remeasures = True
        self.steps: list[Trial | FailedTrial] = []
        self.notes: list[str] = []
        self.done: SearchDone | None = None
        self.report: EngineReport | None = None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that count, in order."""
        return tuple(step for step in self.steps if isinstance(step, Trial))

    @property
    def deaths(self) -> tuple[FailedTrial, ...]:
        """Trials that the engine did not survive."""
        return tuple(step for step in self.steps if isinstance(step, FailedTrial))

    @property
    def elapsed_seconds(self) -> float:
        """Time since the first engine was up."""
        now = self._bench.clock.monotonic()
        return 0.0 if self._began is None else now - self._began

    async def run(self, engine: Running) -> None:
        """Make trials on an engine that is up, until the search is done.

        Call it again with another engine after an `ExitedError` that `survives`.

        Raises:
            ExitedError: the engine ended during a trial.
            StalledError: the engine answered no request any more.
        """
        if self._began is None:
            self._began = self._bench.clock.monotonic()
        self.report = self.report or engine.report
        proposal = self._next()
        if isinstance(proposal, NextTrial):
            await self._warm_up(engine)
        while isinstance(proposal, NextTrial):
            await self._bench.until_idle(engine)
            self.steps.append(await self._step(engine, proposal))
            proposal = self._next()
        self.done = proposal

    def _next(self) -> NextTrial | SearchDone:
        return propose(self._visits(), self._limits(), self.elapsed_seconds)

    async def _step(self, engine: Running, proposal: NextTrial) -> Trial:
        began = self._bench.clock.monotonic()
        try:
            trial = await self._trial(engine, proposal)
            return await self._again(engine, trial) if trial.saturated else trial
        except (ExitedError, StalledError) as error:
            seconds = self._bench.clock.monotonic() - began
            self.steps.append(FailedTrial(proposal, seconds, _reason(error)))
            raise

    async def _again(self, engine: Running, trial: Trial) -> Trial:
        """Repeat the trial, unless that did not help before or takes more time than is left.

        A host without a core for the load generator saturates it in every trial.
        """
        limit = self._request.time_limit_seconds
        late = limit is not None and self.elapsed_seconds + trial.seconds > limit
        if late or not self._remeasures:
            return trial
        await self._bench.until_idle(engine)
        again = await self._trial(engine, trial.proposal)
        self._remeasures = not again.saturated
        if not again.saturated:
            self.notes.append(f"batch {trial.batch} was measured again: {trial.saturated[0]}")
        return again

    async def _warm_up(self, engine: Running) -> None:
        proposal = warm_up(self._request.min_window_seconds)
        output_tokens = self._request.model.spec.workload.moments.o
        silence = first_stall_seconds(
            proposal.batch, output_tokens, self._prior, self._bench.stall_seconds
        )
        self._warm = (await self._trial(engine, proposal, silence)).visit

    def survives(self, error: EngineError | LoadAbortedError) -> bool:
        """Return whether a new engine should go on below the batch that ended the last one.

        If not, the finished trials are kept, provided that they are enough to plan with.

        Raises:
            EngineError: nothing worth keeping was measured.
        """
        reason = _reason(error)
        died = isinstance(error, ExitedError | StalledError) and bool(self.deaths)
        if died and self._restarts < MAX_RESTARTS and self._limits().max_batch > 0:
            self._restarts += 1
            self.notes.append(f"started again below the batch that ended the engine: {reason}")
            return True
        if len({trial.batch for trial in self.trials}) < MIN_BATCHES:
            if isinstance(error, EngineError):
                raise error
            raise EngineError(f"a trial failed: {error}", hint="See the engine's log.") from error
        self.notes.append(f"the sweep ended early: {reason}")
        return False

    def _limits(self) -> SearchLimits:
        """Return the bounds of the search, below every batch that ended the engine."""
        below = min((death.proposal.batch - 1 for death in self.deaths), default=None)
        largest = self._planned.max_batch
        return SearchLimits(
            max_batch=largest if below is None else min(largest, below),
            time_limit_seconds=self._request.time_limit_seconds,
            min_window_seconds=self._request.min_window_seconds,
            max_window_seconds=self._request.max_window_seconds,
            prior=self._prior,
        )

    def _visits(self) -> list[Visit]:
        return [step.visit for step in self.steps]

    def _silence(self, batch: int) -> float:
        seen = [*self._visits(), *([self._warm] if self._warm is not None else [])]
        return stall_seconds(batch, seen, self._bench.stall_seconds)

    async def _trial(
        self, engine: Running, proposal: NextTrial, silence: float | None = None
    ) -> Trial:
        return await self._bench.while_alive(
            engine,
            f"the trial with {proposal.batch} in flight",
            run_trial(
                self._bench,
                engine,
                self._load,
                proposal,
                half_width_share=self._half_width_share,
                slo=self._request.model.spec.slo,
                stall_seconds=self._silence(proposal.batch) if silence is None else silence,
                progress=lambda state: self._show(proposal, state),
            ),
        )

    def _show(self, proposal: NextTrial, state: LiveState) -> None:
        elapsed = self.elapsed_seconds
        left = seconds_left(self._visits(), self._limits(), elapsed)
        rate = ""
        if state.throughput is not None:
            rate = f", {state.throughput.output_tokens_per_s:.0f} tokens/s"
        self._tell(
            Progress(
                phase="measuring",
                message=f"batch {proposal.batch} ({proposal.purpose}){rate}",
                fraction=min(1.0, elapsed / (elapsed + left)) if elapsed + left > 0 else None,
                seconds_left=left,
            )
        )


async def sweep_through(sweep: Sweep, bench: Bench, planned: ProfileLaunch, tell: Tell) -> None:
    """Run a sweep on one engine, or on a few more if trials end it.

    Raises:
        EngineError: the engine did not start, or died before anything was measured.
    """
    while True:
        try:
            async with bench.running(planned.launch, tell) as engine:
                await sweep.run(engine)
        except (EngineError, LoadAbortedError) as error:
            if sweep.survives(error):
                continue
        return


def _reason(error: Exception) -> str:
    line = str(error).splitlines()[0]
    return f"stalled: {line}" if isinstance(error, StalledError) else line
