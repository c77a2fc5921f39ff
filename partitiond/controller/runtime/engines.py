"""Owns one engine: its process and its state, which one task changes.

The task starts the process (or takes over an adopted one), waits until the process is ready, probes
it, sees it exit, puts it to sleep and wakes it, and ends it. All other code only asks: `drain`,
`rest`, `sleep`, `wake`, `stop`. A replica is FAILED or STOPPED only when nothing of its process
group is left, so its partition is free by then. If something cannot be ended, the replica stays
FAILING or STOPPING and the task tries again.
"""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import Callable
from typing import Final

from partitiond.controller.limits import ControllerPolicy, WatchPolicy
from partitiond.controller.runtime.diagnosis import explain, first_line
from partitiond.core.errors import (
    DeviceError,
    EngineError,
    ExitedError,
    HostSilentError,
    PartitiondError,
)
from partitiond.core.plan.record import Placement
from partitiond.core.replica.engine import (
    HOST_LACKS,
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
)
from partitiond.core.replica.observation import LIVE, ObservedReplica, StopReason
from partitiond.core.replica.reconcile import failures_after
from partitiond.core.replica.states import ENDING, ReplicaEvent, ReplicaState, ended_state, step
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.platform.shortage import shortage
from partitiond.ports import Clock, EngineRunner

log = logging.getLogger(__name__)

Note = Callable[[str, str, str], None]
"""`Journal.note`: kind, subject, message."""

_SERIAL: Final = itertools.count(1)
"""Numbers that name a start until its process has a generation of its own."""


class Engine:
    """One engine process behind a replica's name.

    Attributes:
        name: unique among running engines; names its run folder, and the engine at the proxy. It
            is the replica's id, with a suffix while another engine of that replica still runs.
        placement: the placement that the engine was started for.
        state, since: its state, and since when it is in that state (monotonic seconds).
        shown: its state as people see it: it serves once the endpoint routes requests to it.
        failures: failures in a row of this replica, up to the last one.
        failed_starts: failed starts in a row of this replica, up to the last one.
        failure: the last failure; empty once the engine serves.
        lingers: why it could not be ended at the last try; empty if it was not tried, or has ended.
        starts: engine starts of this replica since the daemon runs.
        adopted: whether it ran already when the daemon started.
        refused: whether the device refused the last start of this replica, so that no process
            began, or the host lacked what the engine needed.
        failed_stops: how often it could not be ended.
        in_flight: requests in flight at the proxy, as last told by the loop.
        launch: what it is started with; set when its start is decided.
        sleep_level: the level at which it sleeps, or is to sleep; 0 while it is awake.

    Args:
        started: is told the model and the seconds of each start that came to serve.
    """

    def __init__(
        self,
        name: str,
        placement: Placement,
        *,
        runner: EngineRunner,
        clock: Clock,
        policy: ControllerPolicy,
        note: Note,
        wake: Callable[[], None],
        started: Callable[[str, float], None] = lambda *_: None,
        failures: int = 0,
        failed_starts: int = 0,
        starts: int = 0,
        failure: str = "",
        refused: bool = False,
    ) -> None:
        self.name = name
        self.placement = placement
        self.state = self.shown = ReplicaState.PENDING
        self.since = clock.monotonic()
        self.failures = failures
        self.failed_starts = failed_starts
        self.starts = starts
        self.refused = refused
        self.adopted = False
        self.failed_stops = 0
        self.in_flight: int | None = None
        self.failure = failure
        self.lingers = ""
        self.sleep_level = 0
        self.progress = ""
        self.handle: EngineHandle | None = None
        self.launch: EngineLaunch | None = None
        self.report: EngineReport | None = None
        self.settled = asyncio.Event()
        self._token = f"start-{next(_SERIAL)}"
        self._runner = runner
        self._clock = clock
        self._policy = policy
        self._note = note
        self._wake = wake
        self._started = started
        self._turn = asyncio.Event()
        self._stop_asked = asyncio.Event()
        self._stop_reason: StopReason | None = None
        self._grace_seconds = policy.reconcile.stop_grace_seconds
        self._task: asyncio.Task[None] | None = None

    @property
    def generation(self) -> str:
        """Identifies the process; before there is one, it identifies the start."""
        return self.handle.generation if self.handle is not None else self._token

    @property
    def live(self) -> bool:
        """Whether it holds its partition."""
        return self.state in LIVE

    @property
    def last_error(self) -> str:
        """Why it cannot be ended, else the last failure; empty if neither is known."""
        return self.lingers or self.failure

    @property
    def host(self) -> str:
        """Name of the host that it runs on, or is started on; empty before its launch is known."""
        if self.handle is not None:
            return self.handle.host
        return self.launch.host if self.launch is not None else ""

    @property
    def identity(self) -> tuple[str, str]:
        """The host that it runs on, and the name that it was started with there."""
        return self.host, self.name if self.launch is None else self.launch.replica_id

    def observed(self) -> ObservedReplica:
        """Return the engine as the reconciler sees it."""
        return ObservedReplica(
            replica_id=self.placement.replica_id,
            generation=self.generation,
            placement=self.placement,
            state=self.state,
            in_flight=self.in_flight,
            state_since=self.since,
            failures=self.failures,
            last_error=self.last_error,
            can_sleep=self.handle is not None and self.handle.launch.sleep_mode,
            sleep_level=self.sleep_level,
            failed_starts=self.failed_starts,
            stuck=bool(self.lingers),
            refused=self.refused,
        )

    def begin(self, launch: EngineLaunch) -> None:
        """Start the process."""
        self.launch = launch
        self.starts += 1
        self._happen(ReplicaEvent.START_ASKED)
        self._note("engine-starting", self.name, f"starts {self.placement.model}.")
        reached(FaultPoint.ENGINE_BEGUN)
        self._task = asyncio.create_task(self._own(launch), name=f"engine {self.name}")

    def adopt(self, handle: EngineHandle, in_flight: int | None = None) -> None:
        """Take over a process that runs already; it serves as soon as it answers a probe.

        Args:
            handle: of the process.
            in_flight: requests that the proxy has in flight there, if it counts them.
        """
        self.handle = handle
        self.in_flight = in_flight
        self.launch = handle.launch
        self.adopted = True
        self._happen(ReplicaEvent.START_ASKED)
        if handle.unread:  # it gets no requests: it finishes what runs, and ends
            self._happen(ReplicaEvent.BECAME_READY)
            self.drain()
            self.settled.set()
        self._task = asyncio.create_task(self._own(None), name=f"engine {self.name}")

    def drain(self) -> None:
        """Take no new requests from now on."""
        self._happen(ReplicaEvent.DRAIN_ASKED)
        self._note("replica-draining", self.name, "gets no new requests and finishes what runs.")
        reached(FaultPoint.ENGINE_DRAINS)

    def rest(self) -> None:
        """Take no new requests from now on, to be put to sleep."""
        self._happen(ReplicaEvent.SLEEP_ASKED)
        reached(FaultPoint.ENGINE_RESTS)

    def sleep(self, level: int) -> None:
        """Fall asleep, because nothing is in flight any more."""
        self.sleep_level = level
        self._happen(ReplicaEvent.LAST_REQUEST_DONE)
        self._turn.set()

    def wake(self) -> None:
        """Serve again: at once if the engine only rests, else once it has its memory back."""
        self._happen(ReplicaEvent.WAKE_ASKED)
        if self.state is ReplicaState.WAKING:
            self._note("engine-waking", self.name, f"wakes from level {self.sleep_level}.")
            self._turn.set()

    def stop(self, reason: StopReason, grace_seconds: float, why: str = "") -> None:
        """End the process. After a missed start deadline, or a fault, the replica has failed.

        Args:
            reason: why it is stopped.
            grace_seconds: between terminate and kill.
            why: what is wrong with the engine, in words, if the reason is FAILED.
        """
        self._stop_reason, self._grace_seconds = reason, grace_seconds
        if reason is StopReason.START_DEADLINE:
            self._break("it did not become ready in time")
        elif reason is StopReason.FAILED:
            why = why or "it did not fall asleep, or wake, in time"
            self._break(why, is_to_blame=False)
        elif self.state not in ENDING:
            self._happen(ReplicaEvent.STOP_ASKED)
        self._stop_asked.set()
        reached(FaultPoint.STOP_ASKED)

    def lose(self, why: str) -> None:
        """Count the engine as gone, because its host is lost: nothing waits for it any more, and
        it is not to blame. If its host comes back and it runs, it is adopted as another engine.
        """
        if not self.live:
            return
        self._enter(ended_state(self.state))
        self.in_flight, self.failure, self.lingers = 0, why, ""
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
        self.settled.set()

    async def ended(self) -> None:
        """Return once the engine's task is over."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def detach(self) -> None:
        """Leave the process alone and forget it: the daemon ends, the engine stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    def _happen(self, event: ReplicaEvent) -> None:
        self._enter(step(self.state, event))

    def note_routed(self) -> None:
        """Note that the endpoint routes requests to it."""
        self.shown = self.state

    def _enter(self, state: ReplicaState) -> None:
        self.state = state
        if state is not ReplicaState.SERVING:
            self.shown = state
        self.since = self._clock.monotonic()
        if state in (ReplicaState.SERVING, ReplicaState.SLEEPING):
            self.failed_starts = 0
        if state is ReplicaState.SERVING:
            self.failure = ""
        self._wake()

    def _break(self, diagnosis: str, *, is_to_blame: bool = True) -> None:
        """Serve nobody any more. It failed unless it was to end anyway; what is left is then ended.
        A later diagnosis of the same failure replaces an earlier one.
        """
        if self.state not in ENDING:
            served = self._served()
            was_starting = self.state is ReplicaState.STARTING and not self.adopted
            self._happen(ReplicaEvent.BROKE)
            if self.state is ReplicaState.FAILING:
                self.failures = failures_after(self.failures, served, self._policy.reconcile)
                self.failed_starts += was_starting and is_to_blame
        if self.state is ReplicaState.FAILING:
            self.failure = diagnosis

    async def _own(self, launch: EngineLaunch | None) -> None:
        try:
            if launch is not None:
                self.handle = await self._begun(launch)
                self.refused = False
            assert self.handle is not None
            await self._follow_on(self.handle)
        except HostSilentError as error:
            if self.handle is not None:
                await self._abandon(explain(error))
            else:  # it may run: its host is asked once it answers
                self.lose(explain(error))
        except PartitiondError as error:
            self.refused = self.handle is None and isinstance(error, DeviceError)
            await self._abandon(explain(error), is_to_blame=not self.refused)
        except Exception as error:
            # A defect must not leave a replica without an owner.
            log.exception("the supervision of %s broke", self.name)
            await self._abandon(f"its supervision broke: {type(error).__name__}: {error}")
        finally:
            self.settled.set()

    async def _begun(self, launch: EngineLaunch) -> EngineHandle:
        """Start the process. A start that is given up and does not return holds the partition until
        it does, as what it began is not known; it is no start any more, for which others wait.
        """
        start = asyncio.ensure_future(self._runner.start(launch))
        asked = asyncio.ensure_future(self._stop_asked.wait())
        try:
            await asyncio.wait([start, asked], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([start], timeout=self._grace_seconds)
            if not start.done():
                self._lingers("its start does not return: a file or a driver hangs.")
            return await start
        finally:
            asked.cancel()
            if start.cancel():
                await asyncio.wait([start])

    async def _abandon(self, diagnosis: str, *, is_to_blame: bool = True) -> None:
        self._break(diagnosis, is_to_blame=is_to_blame)
        if self.handle is not None:
            await self._end_process(self.handle, 0.0)
        self._end()

    async def _end_process(self, handle: EngineHandle, grace_seconds: float) -> None:
        """End the process; returns only once nothing of it is left and its partition is free."""
        while True:
            try:
                await self._runner.stop(handle, grace_seconds)
            except Exception as error:  # noqa: BLE001 - whatever broke, somebody must try again
                self._lingers(explain(error) if isinstance(error, PartitiondError) else repr(error))
            else:
                return
            grace_seconds = 0.0
            await asyncio.sleep(self._policy.stop_retry_seconds)

    def _lingers(self, problem: str) -> None:
        """Note that the process could not be ended: it holds its partition, and serves nothing."""
        self.failed_stops += 1
        if problem != self.lingers:
            self._note("engine-lingers", self.name, first_line(problem))
        self.lingers = problem
        self._wake()

    async def _follow_on(self, handle: EngineHandle) -> None:
        """Watch the process; while the daemon's host lacks what that takes, the engine runs on."""
        while True:
            try:
                await self._follow(handle)
            except (OSError, RuntimeError, MemoryError) as error:
                if not (what := shortage(error)):
                    raise
                log.warning("%s is not watched now: this host lacks %s", self.name, what)
                await asyncio.sleep(self._policy.stop_retry_seconds)
            else:
                return

    async def _follow(self, handle: EngineHandle) -> None:
        """Watch the process until it exits, must stop or turns out broken."""
        exited = asyncio.create_task(self._runner.wait_exit(handle))
        asked = asyncio.create_task(self._stop_asked.wait())
        life = asyncio.create_task(self._live(handle))
        tasks: list[asyncio.Task[object]] = [exited, asked, life]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # From here on the engine ends: nothing may find it ready, or say that it serves.
            life.cancel()
            await asyncio.wait([life])
            if exited.done():
                await self._after_exit(handle, exited.result())
            elif asked.done():
                await self._after_stop(handle)
            else:
                await self._after_break(handle, life)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _after_exit(self, handle: EngineHandle, exit_: EngineExit) -> None:
        code = f"exit code {exit_.code}" if exit_.code is not None else "unknown exit code"
        self.refused = exit_.host_lacks
        diagnosis = exit_.diagnosis or f"the engine ended with {code}"
        self._break(diagnosis, is_to_blame=not self.refused)
        await self._end_process(handle, 0.0)  # its children, socket and run folder
        self._end()

    async def _after_stop(self, handle: EngineHandle) -> None:
        await self._end_process(handle, self._grace_seconds)
        reached(FaultPoint.ENGINE_STOPPED)
        self._end()

    async def _after_break(self, handle: EngineHandle, life: "asyncio.Task[None]") -> None:
        error = None if life.cancelled() else life.exception()
        if not isinstance(error, EngineError):
            raise error or RuntimeError("the watch over an engine ended by itself")
        self.refused = error.facts.get("kind") == HOST_LACKS
        self._break(explain(error), is_to_blame=not self.refused)
        await self._end_process(handle, self._grace_seconds)
        self._end()

    def _end(self) -> None:
        """Note that nothing of the process is left. Later calls change nothing."""
        if not self.live:
            return
        self._happen(ReplicaEvent.EXITED)
        self.in_flight, self.lingers = 0, ""
        if self.state is ReplicaState.FAILED:
            self._note("engine-failed", self.name, first_line(self.failure))
        else:
            self._note("engine-stopped", self.name, f"ended ({self._stop_reason or 'exited'}).")

    def _served(self) -> float:
        serving = self.state is ReplicaState.SERVING
        return self._clock.monotonic() - self.since if serving else 0.0

    async def _live(self, handle: EngineHandle) -> None:
        """Wait until the engine is ready, then probe it for ever; raises EngineError if broken."""
        if handle.unread:
            await asyncio.Event().wait()
        if self.state is ReplicaState.STARTING:
            await self._become_ready(handle)
        elif self.state in (ReplicaState.FALLING_ASLEEP, ReplicaState.WAKING):
            self._turn.set()  # that began, and could not be ended
        self.settled.set()
        while True:
            await self._probe_until_its_turn(handle, self._policy.watch)
            if self.state is ReplicaState.FALLING_ASLEEP:
                reached(FaultPoint.ENGINE_FALLS_ASLEEP)
                await self._runner.sleep(handle, self.sleep_level)
                reached(FaultPoint.ENGINE_FELL_ASLEEP)
                self._happen(ReplicaEvent.FELL_ASLEEP)
                self._note("engine-asleep", self.name, f"is asleep (level {self.sleep_level}).")
            else:
                reached(FaultPoint.ENGINE_WAKES)
                await self._runner.wake(handle)
                reached(FaultPoint.ENGINE_WOKE)
                if self.report is None:
                    await self._ask_for_report(handle)
                self.sleep_level = 0
                self._happen(ReplicaEvent.BECAME_READY)
                self._note("engine-ready", self.name, f"serves {self.placement.model} again.")

    async def _become_ready(self, handle: EngineHandle) -> None:
        watch = self._policy.watch
        if self.adopted and self.in_flight:
            # It serves these requests: a full batch may keep a probe waiting, and until the probe
            # is answered no route would lead there. If it hangs, the next probes find out.
            self._serve()
            await self._ask_for_report(handle)
            return
        if self.adopted and await self._is_asleep(handle):
            # Again, which is harmless: the previous daemon may have ended while it woke the engine.
            await self._runner.sleep(handle, self.sleep_level)
            self._happen(ReplicaEvent.FELL_ASLEEP)
            return
        if self.adopted and await self._runner.probe(handle, watch.idle_probe_seconds):
            await self._ask_for_report(handle)
        else:
            self.report = await self._runner.wait_ready(
                handle, self._policy.reconcile.start_deadline_seconds, self._tell
            )
        reached(FaultPoint.ENGINE_ANSWERED)
        self._serve()

    async def _ask_for_report(self, handle: EngineHandle) -> None:
        """Ask what the engine measured of itself; without an answer its KV size stays unknown, and
        the next probe that is answered asks again.
        """
        with contextlib.suppress(EngineError):
            self.report = await self._runner.report(handle)

    def _serve(self) -> None:
        if self.state is ReplicaState.STARTING:
            if not self.adopted:
                self._started(self.placement.model, self._clock.monotonic() - self.since)
            self._happen(ReplicaEvent.BECAME_READY)
            self._note("engine-ready", self.name, f"serves {self.placement.model}.")
            reached(FaultPoint.ENGINE_READY)

    async def _is_asleep(self, handle: EngineHandle) -> bool:
        """Whether an adopted engine sleeps; a sleeping engine answers no probe."""
        if not handle.launch.sleep_mode:
            return False
        with contextlib.suppress(EngineError):  # it starts still, or hangs: its probes will tell
            self.sleep_level = await self._runner.sleep_level(
                handle, self._policy.watch.idle_probe_seconds
            )
        return self.sleep_level > 0

    def _tell(self, text: str) -> None:
        self.progress = text

    async def _probe_until_its_turn(self, handle: EngineHandle, watch: WatchPolicy) -> None:
        """Probe until the engine is to fall asleep or wake. Raises ExitedError if it hangs."""
        missed = 0
        while missed < watch.misses:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(watch.interval_seconds):
                    await self._turn.wait()
            if self._turn.is_set():
                self._turn.clear()
                return
            missed = 0 if await self._answers(handle, watch) else missed + 1
            if not missed and self.report is None and self.state is ReplicaState.SERVING:
                await self._ask_for_report(handle)
        raise ExitedError(
            f"{self.name} did not answer {missed} one-token probes in a row.",
            hint="It is ended and started again.",
            facts={"replica": self.name, "missed": missed},
        )

    async def _answers(self, handle: EngineHandle, watch: WatchPolicy) -> bool:
        """Whether the engine generates; if it sleeps, whether it still knows that it sleeps."""
        if self.state is ReplicaState.SLEEPING:
            try:
                return await self._runner.sleep_level(handle, watch.idle_probe_seconds) > 0
            except EngineError:
                return False
        busy = self.in_flight is None or self.in_flight > 0
        seconds = watch.busy_probe_seconds if busy else watch.idle_probe_seconds
        return await self._runner.probe(handle, seconds)
