"""Starts, finds, watches and ends engine processes (`ports.EngineRunner`).

Both engine kinds use a run folder, the shim and a Unix socket. Only the command differs
(`commands`).
"""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import (
    DeviceError,
    EngineError,
    EngineUnavailableError,
    InputError,
    SilentError,
    StartFailedError,
    StartTimedOutError,
)
from partitiond.core.replica.engine import (
    HOST_LACKS,
    EngineExit,
    EngineHandle,
    EngineLaunch,
    EngineReport,
)
from partitiond.engines.install.environment import EngineEnvironment
from partitiond.engines.process import commands
from partitiond.engines.process import signals as process
from partitiond.engines.process.engine_user import EngineUser, memory_limit_bytes
from partitiond.engines.process.journal import ExitRecord, RunFolder, folder_name, run_folders
from partitiond.engines.process.log_tail import PhaseReader, read_tail
from partitiond.engines.process.spawn import Lifelines, spawn_or_undo, to_end
from partitiond.engines.process.warm import WarmStarts, warm_key
from partitiond.engines.vllm import launch as vllm
from partitiond.engines.vllm import metrics_text, sleeping
from partitiond.engines.vllm.capabilities import capabilities_of
from partitiond.engines.vllm.diagnosis import Diagnosis, diagnose, with_lines
from partitiond.engines.vllm.probing import ask_one_token, name_of_question
from partitiond.engines.vllm.unix_http import ExchangeError, HttpAnswer, NotListeningError, exchange
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.platform.process_identity import ProcessId, is_alive, raise_if_out_of_files
from partitiond.platform.shortage import shortage

log = logging.getLogger(__name__)

POLL_SECONDS: Final = 0.1
"""Between two polls of a starting engine: a connect to a Unix socket costs microseconds."""
FIRST_ANSWER_SECONDS: Final = 60.0
"""The first answer may compile kernels."""
KILL_SECONDS: Final = 8.0
"""From SIGQUIT until the shim has killed the tree; then the group is killed from outside."""
FIND_SECONDS: Final = 5.0
"""Limit of each look into /proc for an engine that is searched, all at once; a daemon's start waits
for one or two. Chosen."""
REPORT_SECONDS: Final = 10.0
"""Limit of one question to an engine, which may be in the middle of a long step."""

EnvironmentSource = EngineEnvironment | Callable[[], EngineEnvironment]


class ProcessEngineRunner:
    """Runs engines as processes, each with a run folder below `run_dir`.

    Args:
        run_dir: folder of the run folders. Two daemons must not share one.
        environment: runs the "vllm" kind; a function is called at each start, so that an
            environment installed meanwhile is found; None if only simulated engines run.
        cache_dir: shared by all engines (model inspection, compile caches).
        allow_unknown_version: start engine versions that are not in the capabilities table.
        reap_seconds: time after SIGKILL at which a process counts as unkillable.
        simulated_host: folder of the simulated GPU host whose memory simulated engines take.
        traces_endpoint: where engines send their spans; empty if nowhere.
        user: the user that engines run as; None for this process's. Engines of a user of their own
            send no spans: they have no network.
        warm: what a process imports from which engines are forked, by their kind (`warm.MODULES`);
            engines of other kinds import by themselves.

    An engine without a placement (one of the profiler's) ends with the process that started it.
    """

    def __init__(
        self,
        run_dir: Path,
        environment: EnvironmentSource | None,
        *,
        cache_dir: Path | None = None,
        allow_unknown_version: bool = False,
        reap_seconds: float = process.REAP_SECONDS,
        simulated_host: Path | None = None,
        traces_endpoint: str = "",
        user: EngineUser | None = None,
        warm: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self._run_dir = run_dir.absolute()
        self._environment = environment
        self._cache_dir = (cache_dir or run_dir / ".cache").absolute()
        self._allow_unknown_version = allow_unknown_version
        self._peaks: dict[str, int] = {}
        self._starting: set[Path] = set()
        self._finding = asyncio.Lock()
        self._reap_seconds = reap_seconds
        self._simulated_host = simulated_host
        self._lifelines = Lifelines()
        self._traces_endpoint = traces_endpoint
        self._user = user
        self._warm_modules = warm or {}
        self._warm = WarmStarts(self._run_dir / ".warm", time.monotonic)

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        """Spawn; return at once.

        Raises:
            EngineUnavailableError, StartFailedError, SpecError.
            DeviceError: this host lacks what a process takes; the engine is not to blame.
        """
        try:
            return await self._start(launch)
        except (OSError, RuntimeError, MemoryError) as error:
            if what := shortage(error):
                raise DeviceError(
                    f"this host lacks {what}: no process for {launch.replica_id} can be made.",
                    hint="It is tried again. See what else on the host uses them.",
                    facts={"replica": launch.replica_id},
                ) from error
            if not isinstance(error, OSError):
                raise
            raise StartFailedError(
                f"no process for {launch.replica_id} can be made on this host: {error}.",
                hint="See that the path is there, and that this user may use it.",
                facts={"replica": launch.replica_id},
            ) from error

    async def _start(self, launch: EngineLaunch) -> EngineHandle:
        self._run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = RunFolder.of(self._run_dir, launch.replica_id)
        folder.require_short_socket()
        await self._clear_earlier(folder, launch.replica_id)
        command = await asyncio.to_thread(self._command, launch, folder)
        async with self._finding:  # which would clear the new folder for what was left in the old
            self._starting.add(folder.path)
        try:
            await to_end(asyncio.to_thread(folder.prepare, launch, command))
            return await self._spawn(launch, folder, command)
        finally:
            self._starting.discard(folder.path)

    async def close(self) -> None:
        """End what is kept for starts; engines live on."""
        await self._warm.close()

    async def _spawn(
        self, launch: EngineLaunch, folder: RunFolder, command: dict[str, Any]
    ) -> EngineHandle:
        key = warm_key(launch, command, self._warm_modules)
        parent = None if key is None else await self._warm.parent(key)
        lifeline = None if launch.placement is not None else self._lifelines.open(folder)
        try:
            if parent is not None:
                try:
                    return await spawn_or_undo(folder, begun=parent.fork(folder, lifeline))
                except StartFailedError as error:
                    await self._warm.failed(parent, error)
                # The engine imports by itself. What failed may have left a socket there.
                await to_end(asyncio.to_thread(folder.prepare, launch, command))
            return await spawn_or_undo(folder, lifeline)
        except BaseException:
            self._lifelines.close(folder)
            raise
        finally:
            if lifeline is not None:
                os.close(lifeline)

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        """Wait for a real answer; on any failure the caller still has to stop the engine.

        `progress` gets a phase whenever the engine enters one ("loading weights (40 %)").

        Raises:
            StartFailedError: the engine ended or refuses its task; the message has a diagnosis.
            StartTimedOutError: the engine was not ready by the deadline.
        """
        tell = progress or (lambda _text: None)
        tell("starting the process")
        phases = PhaseReader(Path(handle.log_path))
        try:
            async with asyncio.timeout(deadline_seconds):
                await self._until_it_answers(handle, phases, tell)
                return await self.report(handle)
        except TimeoutError as error:
            tail = await asyncio.to_thread(lambda: diagnose(read_tail(Path(handle.log_path))))
            message = f"{handle.launch.replica_id} was not ready after {deadline_seconds:g} s."
            raise StartTimedOutError(
                with_lines(message, tail.lines),
                hint="Give it more cores, or raise engine.start_deadline_seconds; its log is "
                f"{handle.log_path}.",
                facts={
                    "deadline_seconds": deadline_seconds,
                    "lines": list(tail.lines),
                    "log": handle.log_path,
                },
            ) from error

    async def _until_it_answers(
        self, handle: EngineHandle, phases: PhaseReader, tell: Callable[[str], None]
    ) -> None:
        while True:
            phase = phases.next_phase()
            if phase is not None:
                tell(phase)
            if not is_alive(_identity(handle)):
                raise await self._start_failed(handle)
            with contextlib.suppress(ExchangeError, SilentError):
                if await _is_healthy(handle) and await self._first_answer(handle):
                    return
            await asyncio.sleep(POLL_SECONDS)

    async def _first_answer(self, handle: EngineHandle) -> bool:
        answer = await ask_one_token(handle, FIRST_ANSWER_SECONDS)
        if 400 <= answer.status < 500:
            raise StartFailedError(
                f"{handle.launch.replica_id} came up but refuses "
                f"{name_of_question(handle.launch)}: "
                f"HTTP {answer.status} {answer.body[:300].decode(errors='replace')}",
                hint="See that the model generates text, or give the engine --runner pooling where "
                "it embeds, scores or ranks.",
                facts={"status": answer.status},
            )
        return answer.status == 200

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        """Return whether the engine answers for one token in time (`engines.vllm.probing`).

        Raises SilentError: it cannot be asked.
        """
        try:
            answer = await ask_one_token(handle, timeout_seconds)
        except ExchangeError:
            return False
        return answer.status == 200

    async def report(self, handle: EngineHandle) -> EngineReport:
        """Return one scrape of /metrics.

        Raises EngineError: the engine cannot be reached; SilentError: it cannot be asked.
        """
        try:
            metrics = await _get(handle, "/metrics")
            version = (await _get(handle, "/version")).fields().get("version")
            known = isinstance(version, str) and version.isprintable()
            return await asyncio.to_thread(
                _report, metrics.body, str(version)[:100] if known else ""
            )
        except ExchangeError as error:
            raise EngineError(
                f"{handle.launch.replica_id} does not tell its metrics: {error}.",
                hint=f"See its log, {handle.log_path}.",
            ) from error

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        """Put the engine to sleep (`engines.vllm.sleeping`). Raises EngineError."""
        await sleeping.put_to_sleep(handle, level)

    async def wake(self, handle: EngineHandle) -> None:
        """Wake the engine; returns once it answers for one token. Raises EngineError."""
        await sleeping.wake(handle)
        if not await self.probe(handle, FIRST_ANSWER_SECONDS):
            raise sleeping.does_not_answer(handle)

    async def sleep_level(self, handle: EngineHandle, timeout_seconds: float) -> int:
        """Return the engine's sleep level; 0 is awake. Raises EngineError."""
        return await sleeping.sleep_level(handle, timeout_seconds)

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        """Return once no process of the engine is left; also for engines found after a restart."""
        await process.wait_gone(_identity(handle))
        while True:
            # Survivors of SIGKILL sleep in a driver: the partition is free only once they wake.
            with contextlib.suppress(process.StillAliveError):
                return await self._settle(handle, asked=False)

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        """Send SIGTERM, and SIGKILL after the grace; no process is left on return. Idempotent.

        Raises:
            EngineError: some processes of the engine outlive SIGKILL, so its memory and devices
                are not free; `facts["pids"]` names the processes. Call it again.
        """
        leader = _identity(handle)
        if not is_alive(leader):
            return await self._settle(handle, asked=False)
        process.send_signal(leader, signal.SIGTERM)
        reached(FaultPoint.ENGINE_TERMINATED)
        if not await process.gone_within(leader, grace_seconds):
            process.send_signal(leader, signal.SIGQUIT)
            await process.gone_within(leader, KILL_SECONDS)
        return await self._settle(handle, asked=True)

    async def find(self) -> Sequence[EngineHandle]:
        """Return the living engines of this run folder, including those whose launch cannot be
        read; kill and clear what is left of dead engines.

        Raises:
            SilentError: this process can open nothing. Without an engine that lives, its devices
                would be taken for free.
        """
        async with self._finding:
            try:
                return await self._find()
            except OSError as error:
                raise SilentError(
                    f"what runs below {self._run_dir} is not known: {error}.",
                    hint="See that the host has free files and memory; it is looked for again.",
                    facts={"folder": str(self._run_dir)},
                ) from error

    async def _find(self) -> Sequence[EngineHandle]:
        folders = await asyncio.to_thread(run_folders, self._run_dir)
        looks = (self._find_in(one) for one in folders if one.path not in self._starting)
        # None outlives the lock: what it clears might be the folder of an engine that starts then.
        found = await asyncio.gather(*looks, return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if one is not None and not isinstance(one, BaseException)]

    async def _find_in(self, folder: RunFolder) -> EngineHandle | None:
        try:
            handle = await self._handle_in(folder)
            if handle is not None and is_alive(_identity(handle)):
                return handle
            leader = None if handle is None else _identity(handle)
            if not await self._kill_all(folder, leader, FIND_SECONDS):
                await asyncio.to_thread(folder.clear)
        except (SilentError, OSError) as error:
            if isinstance(error, OSError):
                raise_if_out_of_files(error)
            log.warning("what is left of an engine is looked for again later: %s", error)
        return None

    async def _handle_in(self, folder: RunFolder) -> EngineHandle | None:
        """Return the folder's engine. Raises SilentError: /proc does not answer, and its record
        does not name a living process, or its launch is another folder's, from which both may have
        been copied."""
        try:
            return await process.look(folder.path, folder.handle, FIND_SECONDS)
        except SilentError:
            with contextlib.suppress(InputError):
                told = await asyncio.to_thread(folder.handle, asks=False)
                own = told is not None and folder_name(told.launch.replica_id) == folder.path.name
                if told is not None and own and is_alive(_identity(told)):
                    return told
            raise

    async def discard(self, handle: EngineHandle) -> None:
        """Remove the run folder of an engine that is gone, log included; a living one's stays."""
        folder, leader = RunFolder(Path(handle.run_dir)), _identity(handle)
        found = await process.look(folder.path, folder.leader)
        if found == leader and not is_alive(leader):
            await asyncio.to_thread(folder.remove)

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Return the peak proportional set size of the engine and its shim, in bytes.

        The shim samples it as soon as it runs; the last sample is at most ten seconds old, and one
        small file to read. For an engine that is being profiled the current size counts, too, as
        its footprint rests on it, and what it shares with its parent; call this in a thread.

        Raises:
            SilentError: /proc does not answer, and the engine is being profiled.
        """
        peak = max(
            RunFolder(Path(handle.run_dir)).peak_pss_bytes(),
            self._peaks.get(handle.generation, 0),
        )
        if handle.launch.placement is None:
            run_dir, leader = Path(handle.run_dir), _identity(handle)
            weigh = functools.partial(process.bytes_alone, run_dir, leader)
            peak = max(peak, process.PROC.ask(f"memory of {run_dir.name}", weigh))
        self._peaks[handle.generation] = peak
        return peak

    async def held_bytes(self, handle: EngineHandle) -> int:
        """Return what the engine's processes hold now, in bytes; see `ports.EngineRunner`."""
        run_dir, leader = Path(handle.run_dir), _identity(handle)
        return await process.look(run_dir, lambda: process.bytes_alone(run_dir, leader))

    def _command(self, launch: EngineLaunch, folder: RunFolder) -> dict[str, Any]:
        user = None if self._user is None else self._user.in_group(launch.isolation_group)
        launcher = None if user is None else user.launcher_for(launch)
        if user is None or launcher is None:
            return self._own_command(launch, folder, self._cache_dir, self._traces_endpoint)
        user.admit(launch)
        made = self._own_command(launch, folder, user.cache_dir, "")
        return made | {
            "launcher": str(launcher),
            "memory_max": memory_limit_bytes(launch),
        }

    def _own_command(
        self, launch: EngineLaunch, folder: RunFolder, cache_dir: Path, traces_endpoint: str
    ) -> dict[str, Any]:
        if launch.engine_kind == "simulated":
            return commands.simulated_command(launch, folder, self._simulated_host)
        environment = self._engine_environment()
        capabilities = capabilities_of(
            environment.version, allow_unknown=self._allow_unknown_version
        )
        made = commands.vllm_command(launch, environment, capabilities, cache_dir, folder)
        # A trial of the profiler serves no client's requests.
        if traces_endpoint and launch.placement is not None:
            made["argv"] += vllm.tracing_flags(traces_endpoint)
            made["env"] |= vllm.TRACING_ENVIRONMENT
        return made

    def _engine_environment(self) -> EngineEnvironment:
        if self._environment is None:
            raise EngineUnavailableError(
                "this runner has no vLLM environment.",
                hint="Run `partitiond setup engine install`, or set engine.python.",
            )
        if isinstance(self._environment, EngineEnvironment):
            return self._environment
        return self._environment()

    async def _clear_earlier(self, folder: RunFolder, replica_id: str) -> None:
        """Refuse to start beside a living engine of the same name; kill leftovers of a dead one."""
        if not folder.path.exists():
            return
        leader = await process.look(folder.path, folder.leader)
        if leader is not None and is_alive(leader):
            raise StartFailedError(
                f"{replica_id} runs already (process {leader.pid}).",
                hint="Stop it first, or adopt it.",
                facts={"pid": leader.pid},
            )
        process.require_gone(replica_id, await self._kill_all(folder, leader))

    async def _kill_all(
        self, folder: RunFolder, leader: ProcessId | None, look_seconds: float | None = None
    ) -> tuple[int, ...]:
        return await process.kill_all(folder.path, leader, self._reap_seconds, look_seconds)

    async def _settle(self, handle: EngineHandle, *, asked: bool) -> EngineExit:
        """After the shim is gone: kill its survivors, tidy up, and say how the engine ended."""
        folder = RunFolder(Path(handle.run_dir))
        replaced = functools.partial(folder.is_replaced, _identity(handle))
        if await process.look(folder.path, replaced):
            return EngineExit(None, "it was replaced by a newer engine of the same name.")
        process.require_gone(
            handle.launch.replica_id, await self._kill_all(folder, _identity(handle))
        )
        reached(FaultPoint.ENGINE_GONE)
        self._lifelines.close(folder)
        self._peaks.pop(handle.generation, None)
        record = folder.exit()
        found = await self._diagnose(handle, record, asked=asked)
        await asyncio.to_thread(folder.remove_leftovers)
        reached(FaultPoint.ENGINE_TIDIED)
        return EngineExit(_exit_code(record), found.text(), host_lacks=found.kind == HOST_LACKS)

    async def _diagnose(
        self, handle: EngineHandle, record: ExitRecord | None, *, asked: bool
    ) -> Diagnosis:
        return await asyncio.to_thread(
            lambda: diagnose(
                read_tail(Path(handle.log_path)),
                code=_exit_code(record),
                oom_kills=record.oom_kills if record else 0,
                asked=asked,
                memory_bytes=handle.launch.memory_bytes,
            )
        )

    async def _start_failed(self, handle: EngineHandle) -> StartFailedError:
        record = RunFolder(Path(handle.run_dir)).exit()
        found = await self._diagnose(handle, record, asked=False)
        return StartFailedError(
            with_lines(f"{handle.launch.replica_id} did not start: {found.message}", found.lines),
            hint=found.hint,
            facts={
                "kind": found.kind,
                "lines": list(found.lines),
                "log": handle.log_path,
                "code": _exit_code(record),
            },
        )


def _identity(handle: EngineHandle) -> ProcessId:
    return ProcessId(handle.pid, handle.start_ticks, handle.boot_id)


def _exit_code(record: ExitRecord | None) -> int | None:
    """Return the code as `subprocess` gives it; a shim that left no record was killed itself."""
    if record is None:
        return -int(signal.SIGKILL)
    return record.code if record.signal is None else -record.signal


def _report(metrics: bytes, version: str) -> EngineReport:
    text = metrics.decode(errors="replace")
    return EngineReport(metrics_text.kv_cache_tokens(text), version, metrics_text.label_sums(text))


async def _get(handle: EngineHandle, path: str) -> HttpAnswer:
    answer = await exchange(handle.socket_path, "GET", path, timeout_seconds=REPORT_SECONDS)
    if answer.status != 200:
        raise ExchangeError(f"GET {path} answered HTTP {answer.status}")
    return answer


async def _is_healthy(handle: EngineHandle) -> bool:
    try:
        return (await _get(handle, "/health")).status == 200
    except NotListeningError:
        return False
