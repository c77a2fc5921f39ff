"""Starts the engine again as a plan will run it, to confirm what the sweep found.

The sweep runs on an engine with a KV cache for the largest batch. The second engine has only the
limits and KV cache of the operating point. On it the point is measured again with preemptions
counted (frontier memory), then its capacity in open loop, then the paper's mode if requested.
"""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Final

from loadgen import LiveState, LoadAbortedError
from loadgen import Workload as Load
from partitiond.core.errors import EngineError
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.confirmed import CapacityTrial, FrontierMemory, PaperMode
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.knee import TOLERANCE
from partitiond.core.profile.operating_points import named_point
from partitiond.core.profile.record import Profile
from partitiond.core.units import Bytes
from partitiond.ports import ProfileRequest
from partitiond.profiler.notes import frontier_note
from partitiond.profiler.search import NextTrial, Purpose, combine
from partitiond.profiler.sweep.bench import Bench, Running, Tell
from partitiond.profiler.sweep.launch import ProfileLaunch, confirming_launch, kv_bytes
from partitiond.profiler.sweep.load import load_of
from partitiond.profiler.sweep.paper import run_paper_mode
from partitiond.profiler.sweep.poisson_rate import (
    OpenTrial,
    confirmed_rate,
    next_rate,
    open_trial,
    run_open_trial,
)
from partitiond.profiler.sweep.sweep import HALF_WIDTH_SHARE, warm_up
from partitiond.profiler.sweep.trial import Trial, run_trial

MAX_STARTS: Final = 3
LARGER: Final = 1.25
"""Growth of the KV cache from one start to the next, if requests were preempted. Chosen."""
MAX_WINDOWS: Final = 2
"""A rate that is too low although the KV cache has room is measured once more: the host was busy,
or the sweep's window was lucky. A larger cache would not help."""

CAPACITY_TIME_SHARE: Final = 0.5
"""Share of the profile's time limit for all capacity trials together. A trial that would not end
within it is not begun, because a window that is too short tells nothing. Chosen."""

PHASE: Final = 1
"""Phase of the seeds; the sweep has phase 0."""


class ConfirmVerdict(enum.StrEnum):
    """Result of the windows on the confirming engine."""

    CONFIRMED = "confirmed"
    SLOWER = "slower"
    TOO_SMALL = "too small"


@dataclasses.dataclass(frozen=True, slots=True)
class ConfirmationTarget:
    """The operating point to confirm.

    Attributes:
        batch: requests in flight at the point.
        best_output_tokens_per_s: throughput of which the share 1 - e must remain.
        req_per_s: X / E[O] at the point.
        e2el_seconds: mean latency at the point.
    """

    batch: int
    best_output_tokens_per_s: float
    req_per_s: float
    e2el_seconds: float

    @property
    def wanted_output_tokens_per_s(self) -> float:
        """Throughput that must remain."""
        return (1 - TOLERANCE) * self.best_output_tokens_per_s


def aim_of(profile: Profile, spec: ModelSpec) -> ConfirmationTarget | None:
    """Return the operating point that replicas will run at; None if no batch holds the SLO.

    At the knee (1 - e) X* must remain; elsewhere (1 - e) of what was measured at the point.
    """
    point, knee = named_point(profile, spec.operating_point, spec.slo), profile.knee
    if point is None or point.output_tokens_per_s <= 0:
        return None
    at_knee = point.batch == knee.batch
    return ConfirmationTarget(
        batch=point.batch,
        best_output_tokens_per_s=knee.best_output_tokens_per_s
        if at_knee
        else point.output_tokens_per_s,
        req_per_s=point.req_per_s,
        e2el_seconds=point.e2el.mean,
    )


def verdict(trials: Sequence[Trial], aim: ConfirmationTarget) -> ConfirmVerdict:
    """Judge all windows on one engine together.

    Confirmed means that the throughput plus its own half-width reaches (1 - e) of the best. The
    best counts without its interval: the tolerance is for that interval, and with both a far lower
    rate would pass wherever windows are noisy.
    """
    if any(trial.kv_limited for trial in trials):
        return ConfirmVerdict.TOO_SMALL
    rate, half_width = _rate(trials)
    enough = rate + half_width >= aim.wanted_output_tokens_per_s
    return ConfirmVerdict.CONFIRMED if enough else ConfirmVerdict.SLOWER


def _rate(trials: Sequence[Trial]) -> tuple[float, float]:
    return combine([t.output_tokens_per_s for t in trials], [t.half_width for t in trials])


class Confirmation:
    """Measures frontier memory, capacity and the paper's mode, on one more engine start or a few.

    Attributes:
        frontier_memory: None if no engine came up.
        capacity_trials: in order.
        paper_mode: None if it was not requested, or failed.
        notes: what a reader of the profile should know.
    """

    def __init__(
        self,
        bench: Bench,
        request: ProfileRequest,
        planned: ProfileLaunch,
        aim: ConfirmationTarget,
        *,
        tell: Tell,
    ) -> None:
        self._bench = bench
        self._request = request
        self._planned = planned
        self._aim = aim
        self._tell = tell
        self._capacity_seconds = 0.0
        self.frontier_memory: FrontierMemory | None = None
        self.capacity_trials: list[CapacityTrial] = []
        self.paper_mode: PaperMode | None = None
        self.notes: list[str] = []

    async def run(self) -> None:
        """Do what is requested; an engine that fails here costs only its part."""
        await self._starts()
        self._note_capacity()

    async def _starts(self) -> None:
        """Start up to three engines; only a KV cache that was too small is made larger.

        A failed start is repeated unchanged: above all, a start that was refused for lack of memory
        must not ask for more.
        """
        cache = kv_bytes(self._request, self._planned.architecture, self._aim.batch)
        starts = 1
        while self._work_left() and starts <= MAX_STARTS:
            try:
                if await self._on_engine(cache, starts):
                    return
                cache = round(cache * LARGER)
            except (EngineError, LoadAbortedError) as error:
                reason = str(error).splitlines()[0]
                self.notes.append(f"confirming start {starts} failed: {reason}")
                if self.frontier_memory is not None:
                    return
            starts += 1

    def _work_left(self) -> bool:
        asked = self._request
        return (
            (asked.confirm_memory and self.frontier_memory is None)
            or (asked.confirm_capacity and self._next_trial() is not None)
            or (asked.paper_requests > 0 and self.paper_mode is None)
        )

    async def _on_engine(self, cache: int, starts: int) -> bool:
        """Do all that is left on one start; False if its KV cache was too small."""
        planned = confirming_launch(
            self._request,
            f"{self._planned.launch.replica_id}-{starts}",
            batch=self._aim.batch,
            kv_cache_bytes=cache,
        )
        load = load_of(self._request, planned.architecture, PHASE + starts)
        async with self._bench.running(planned.launch, self._tell) as engine:
            if self._request.confirm_memory and self.frontier_memory is None:
                found, said = await self._frontier_memory(engine, load, cache, starts)
                if said is ConfirmVerdict.TOO_SMALL and starts < MAX_STARTS:
                    return False
                self.frontier_memory = found
            if self._request.confirm_capacity:
                await self._capacity(engine, load)
            if self._request.paper_requests > 0 and self.paper_mode is None:
                await self._paper(engine, load)
            await self._raise_footprint(engine)
        return True

    async def _frontier_memory(
        self, engine: Running, load: Load, cache: int, starts: int
    ) -> tuple[FrontierMemory, ConfirmVerdict]:
        await self._trial(engine, load, warm_up(self._request.min_window_seconds))
        trials: list[Trial] = []
        said = ConfirmVerdict.SLOWER
        while said is ConfirmVerdict.SLOWER and len(trials) < MAX_WINDOWS:
            await self._bench.until_idle(engine)
            fresh = dataclasses.replace(load, seed=load.seed + 1 + len(trials))
            trials.append(await self._trial(engine, fresh, self._knee_trial()))
            said = verdict(trials, self._aim)
        rate, half_width = _rate(trials)
        if said is ConfirmVerdict.SLOWER:
            self.notes.append(
                f"at its frontier memory batch {self._aim.batch} gave {rate:.4g} tokens/s, "
                f"{rate / self._aim.best_output_tokens_per_s:.0%} of the "
                f"{self._aim.best_output_tokens_per_s:.4g} that were found and less than the "
                f"{1 - TOLERANCE:.0%} wanted, without preemptions"
            )
        found = FrontierMemory(
            batch=self._aim.batch,
            kv_cache_bytes=Bytes(cache),
            footprint_bytes=Bytes(trials[-1].peak_bytes),
            output_tokens_per_s=rate,
            half_width=half_width,
            preemptions=sum(trial.engine.preemptions for trial in trials),
            confirmed=said is ConfirmVerdict.CONFIRMED,
            starts=starts,
            share_of_best=rate / self._aim.best_output_tokens_per_s,
        )
        return found, said

    def _knee_trial(self) -> NextTrial:
        asked = self._request
        return NextTrial(
            batch=self._aim.batch,
            purpose=Purpose.CONFIRM,
            min_window_seconds=asked.min_window_seconds,
            max_window_seconds=asked.max_window_seconds,
            expected_seconds=asked.min_window_seconds + 2 * self._aim.e2el_seconds,
        )

    async def _trial(self, engine: Running, load: Load, proposal: NextTrial) -> Trial:
        def show(state: LiveState) -> None:
            rate = (
                ""
                if state.throughput is None
                else (f", {state.throughput.output_tokens_per_s:.0f} tokens/s")
            )
            self._show(f"batch {proposal.batch} at its frontier memory{rate}", 0.0)

        return await self._bench.while_alive(
            engine,
            f"the confirming trial with {proposal.batch} in flight",
            run_trial(
                self._bench,
                engine,
                load,
                proposal,
                half_width_share=HALF_WIDTH_SHARE[self._request.device.kind],
                slo=self._request.model.spec.slo,
                progress=show,
            ),
        )

    def _next_trial(self, seed: int = 0) -> OpenTrial | None:
        """Return the next capacity trial; None if none is left, or none that ends in time."""
        trial = self._wanted_trial(seed)
        return trial if trial is not None and self._in_time(trial) else None

    def _wanted_trial(self, seed: int = 0) -> OpenTrial | None:
        rate = next_rate(self.capacity_trials, self._aim.req_per_s)
        if rate is None:
            return None
        return open_trial(
            self._aim.batch,
            rate,
            self._aim.e2el_seconds,
            min_window_seconds=self._request.min_window_seconds,
            slo=self._request.model.spec.slo,
            seed=seed + 100 * (len(self.capacity_trials) + 1),
        )

    def _in_time(self, trial: OpenTrial) -> bool:
        limit = self._request.time_limit_seconds
        ends = self._capacity_seconds + trial.expected_seconds
        return limit is None or ends <= CAPACITY_TIME_SHARE * limit

    async def _capacity(self, engine: Running, load: Load) -> None:
        while (trial := self._next_trial(load.seed)) is not None:
            await self._bench.until_idle(engine)
            rate, number = trial.req_per_s, len(self.capacity_trials) + 1
            self._show(f"open loop {number} at {rate:.3g} requests/s", trial.expected_seconds)
            began = self._bench.clock.monotonic()
            done = await self._bench.while_alive(
                engine,
                f"the open-loop trial at {rate:.3g} requests/s",
                run_open_trial(engine, load, trial, self._request.model.spec.slo),
            )
            self._capacity_seconds += self._bench.clock.monotonic() - began
            self.capacity_trials.append(done)

    def _note_capacity(self) -> None:
        """Note why no rate is confirmed, if the time was too short."""
        trial = self._wanted_trial() if self._request.confirm_capacity else None
        if trial is None or self._in_time(trial) or confirmed_rate(self.capacity_trials):
            return
        needed = (self._capacity_seconds + trial.expected_seconds) / CAPACITY_TIME_SHARE
        self.notes.append(
            f"capacity is not confirmed: an open-loop trial at {trial.req_per_s:.3g} requests/s "
            f"takes {trial.expected_seconds:.0f} s to tell anything, more than is left of "
            f"{CAPACITY_TIME_SHARE:.0%} of the time limit; a limit of {needed:.0f} s allows it"
        )

    async def _paper(self, engine: Running, load: Load) -> None:
        await self._bench.until_idle(engine)
        count = self._request.paper_requests
        self._show(f"{count} requests at once", count / self._aim.req_per_s)
        fresh = dataclasses.replace(load, seed=load.seed + 50)
        self.paper_mode = await self._bench.while_alive(
            engine, f"{count} requests at once", run_paper_mode(engine, fresh, count)
        )

    async def _raise_footprint(self, engine: Running) -> None:
        """Raise the footprint to the peak of everything on this engine, not of one window only."""
        found = self.frontier_memory
        peak = await self._bench.peak_bytes(engine)
        if found is not None and peak > found.footprint_bytes:
            self.frontier_memory = dataclasses.replace(found, footprint_bytes=Bytes(peak))

    def _show(self, message: str, expected_seconds: float) -> None:
        """Report progress; the rest takes a time that is not known, so no fraction is shown."""
        self._tell(Progress("confirming", message, None, expected_seconds or None))


def add_confirmation(profile: Profile, confirmation: Confirmation) -> Profile:
    """Return the profile with what the confirming starts showed.

    The confirmed batch gets the footprint that its start needed.
    """
    found, trials = confirmation.frontier_memory, tuple(confirmation.capacity_trials)
    confirmed = found is not None and found.confirmed
    made = profile.provenance
    notes = (*made.notes, *confirmation.notes, *frontier_note(found))
    return dataclasses.replace(
        profile,
        points=tuple(
            dataclasses.replace(point, footprint_bytes=found.footprint_bytes)
            if found is not None and confirmed and point.batch == found.batch
            else point
            for point in profile.points
        ),
        frontier_memory=found,
        capacity_trials=trials,
        capacity_req_per_s=confirmed_rate(trials),
        paper_mode=confirmation.paper_mode or profile.paper_mode,
        provenance=dataclasses.replace(made, notes=tuple(dict.fromkeys(notes))),
    )
