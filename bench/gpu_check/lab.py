"""Provides the effects behind the steps: models, engines, load, telemetry, the profiler, MPS."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.gpu_check import mps
from bench.gpu_check.gain import union_of
from bench.gpu_check.ledger import Ledger, replace_file
from bench.gpu_check.runner import CheckRunner
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import ImpossibleError
from bench.gpu_check.side_by_side import (
    Arrivals,
    Loaders,
    Stream,
    Together,
    Watched,
    load_open,
    load_together,
)
from bench.profiler.sharing_fit import fit_sharing
from partitiond import serde
from partitiond.core.errors import EngineError, InputError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind, Weights
from partitiond.core.model.workload import Workload
from partitiond.core.performance.estimate import hardware_of
from partitiond.core.profile.jobs import Progress
from partitiond.core.profile.record import Profile
from partitiond.core.profile.sharing import ReplicationRun, Sharing
from partitiond.core.replica.engine import EngineHandle, EngineReport
from partitiond.devices.mps import MpsDaemon
from partitiond.engines.process.spawn import to_end
from partitiond.models.resolver import Resolver
from partitiond.ports import ProfileRequest
from partitiond.ports.telemetry import TelemetrySource
from partitiond.profiler.runner import Profiler
from partitiond.profiler.sweep.launch import ProfileLaunch, plan_launch
from partitiond.profiler.sweep.sampling import PREEMPTIONS

DTYPE: Final = "float16"
"""The paper's data type."""
SHARE: Final = 0.9
"""Share of the device's memory that is divided among the replicas, as in the paper."""
START_SECONDS: Final = 420.0
STOP_SECONDS: Final = 5.0
CORES_PER_LOADER: Final = 4
"""One of this many cores is kept for the load."""


@dataclasses.dataclass(frozen=True, slots=True)
class Want:
    """An engine to start.

    Attributes:
        batch: largest batch; the engine's KV cache is sized for it.
        share: share of the device's memory.
        env: additional environment, such as an MPS daemon's.
        args: additional engine flags.
        servers: number of API server processes.
        pinned: the engine has cores of its own; else it uses all cores that engines have.
        optional: a trial goes on without the engine if it does not start.
    """

    model: str
    batch: int
    share: float = SHARE
    env: tuple[tuple[str, str], ...] = ()
    args: tuple[str, ...] = ()
    servers: int = 1
    workload: Workload | None = None
    pinned: bool = True
    optional: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Running:
    """An engine that is ready."""

    want: Want
    handle: EngineHandle
    report: EngineReport
    start_seconds: float
    vocab_size: int
    workload: Workload


@dataclasses.dataclass(frozen=True, slots=True)
class Tools:
    """The tools and settings of the lab.

    Attributes:
        used_bytes: memory of the device that all processes use now.
        mps_program: the MPS control program, or the reason why there is none.
        cache_dir: compiled kernels, common to the check's engines and a daemon's.
        engine_args: flags of every engine.
        engine_python: interpreter of the engines, for a daemon's; None if they are simulated.
        mig: GPU instances may be made and destroyed.
        cuda_library: the simulated GPU's CUDA library; None for the system's.
    """

    runner: CheckRunner
    telemetry: TelemetrySource
    used_bytes: Callable[[], int]
    mps_program: Path | str
    cache_dir: Path
    engine_kind: str
    engine_args: tuple[str, ...] = ()
    engine_python: Path | None = None
    mig: bool = False
    cuda_library: Path | None = None


def planned_launch(request: ProfileRequest, replica_id: str) -> ProfileLaunch:
    """The launch of an engine. Raises ImpossibleError: the memory holds not even one request."""
    try:
        return plan_launch(request, replica_id)
    except InputError as error:
        raise ImpossibleError(str(error)) from error


class Lab:
    """One GPU, and all work on it.

    Args:
        device: the GPU; its cores are divided between engines and load.
        folder: folder for profiles, logs and models.
        say: shows progress to people.
    """

    def __init__(
        self,
        device: Device,
        *,
        scale: Scale,
        tools: Tools,
        ledger: Ledger,
        folder: Path,
        seed: int,
        say: Callable[[str], None],
    ) -> None:
        self.device = device
        self.scale = scale
        self.tools = tools
        self.ledger = ledger
        self.folder = folder
        self.seed = seed
        self.say = say
        self._resolver = Resolver(folder / "models", None, offline=True)
        self._count = 0
        self.loaders = Loaders()
        spared = len(device.cores) // CORES_PER_LOADER
        self.load_cores = device.cores[len(device.cores) - spared :] if spared else ()
        self.engine_cores = device.cores[: len(device.cores) - spared]

    # --- models and profiles ------------------------------------------------------------------

    def spec(self, want: Want) -> ModelSpec:
        """A catalog model with dummy weights: true speed, no download."""
        on_gpu = self.device.kind is DeviceKind.GPU
        dtype = DTYPE if on_gpu else hardware_of(self.device).native_dtype
        return ModelSpec(
            want.model,
            ModelSource(SourceKind.CONFIG, want.model),
            weights=Weights.DUMMY,
            workload=want.workload or self.scale.workload,
            engine=EngineOptions(dtype, extra_args=(*self.tools.engine_args, *want.args)),
            engine_kind=self.tools.engine_kind,
        )

    async def resolved(self, want: Want) -> ResolvedModel:
        """Config and tokenizer on disk."""
        return await self._resolver.resolve(self.spec(want))

    async def request(self, want: Want, cores: tuple[int, ...] = ()) -> ProfileRequest:
        """The request for the profiler, or for its launch planning."""
        usable = min(
            self.device.free_bytes - headroom_bytes(self.device.memory_bytes),
            int(self.device.memory_bytes * want.share),
        )
        return ProfileRequest(
            model=await self.resolved(want),
            device=self.device,
            cores=cores or self.engine_cores,
            memory_bytes=usable,
            max_batch=want.batch,
            time_limit_seconds=self.scale.sweep_seconds,
            seed=self.seed,
            min_window_seconds=self.scale.min_window_seconds,
            max_window_seconds=self.scale.window_seconds,
            confirm_memory=False,
            confirm_capacity=False,
            paper_requests=self.scale.paper_requests,
            command=self.ledger.command,
        )

    async def profile(self, want: Want) -> Profile:
        """Sweep, and keep the profile as profiles/MODEL.json. Raises ImpossibleError."""
        request = await self.request(want)
        planned_launch(request, "check-planned")  # the profiler would call the same a failure
        self.profile_path(want.model).parent.mkdir(parents=True, exist_ok=True)
        profiler = Profiler(
            self.tools.runner,
            start_deadline_seconds=START_SECONDS,
            stop_grace_seconds=STOP_SECONDS,
            device_used_bytes=lambda _device: self.tools.used_bytes(),
            telemetry=self.tools.telemetry,
        )
        profile = await profiler.run(request, self.tell)
        self.keep(profile)
        return profile

    def profile_path(self, model: str) -> Path:
        return self.folder / "profiles" / f"{model}.json"

    def measured(self, model: str) -> Profile:
        """The profile of an earlier trial. Raises EngineError if the file is missing."""
        try:
            return serde.from_json(Profile, self.profile_path(model).read_bytes())
        except OSError as error:
            raise EngineError(
                f"{self.profile_path(model)} is gone, which the checkpoint says was measured.",
                hint="Put it back, or begin anew with another --out.",
            ) from error

    async def largest_batch(self, want: Want) -> int:
        """The largest batch, up to the wanted one, whose footprint fits into the share."""
        return planned_launch(await self.request(want), "check-planned").max_batch

    def best_batch(self, model: str) -> int:
        """The batch with the highest throughput that the KV cache did not limit."""
        points = [point for point in self.measured(model).points if not point.kv_limited]
        return max(points, key=lambda point: point.output_tokens_per_s).batch

    def keep_runs(self, model: str, runs: Sequence[ReplicationRun]) -> Sharing:
        """Add replication runs of one mode to the model's profile, beside its earlier runs.

        Returns:
            u and kappa, fitted to all runs of the mode.
        """
        profile = self.measured(model)
        known = next((s for s in profile.sharing if s.mode == runs[0].mode), None)
        sharing = fit_sharing(union_of(known.runs if known else (), runs))
        if known is not None:
            sharing = dataclasses.replace(sharing, pairs=known.pairs)
        others = tuple(kept for kept in profile.sharing if kept.mode != sharing.mode)
        self.keep(dataclasses.replace(profile, sharing=(*others, sharing)))
        return sharing

    def measured_kappa(self, model: str, mode: SharingMode) -> float | None:
        """The model's kappa in a mode, or None if replication was not measured in it."""
        known = self.measured(model).sharing
        return next((sharing.kappa for sharing in known if sharing.mode == mode.value), None)

    def keep(self, profile: Profile) -> None:
        """Write the profile as profiles/MODEL.json, and replace an earlier one."""
        path = self.profile_path(profile.model)
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, serde.to_json(profile, indent=1) + "\n")

    def tell(self, progress: Progress) -> None:
        """Show the profiler's progress."""
        self.say(f"{progress.phase}: {progress.message}")

    # --- engines ------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def engines(self, wants: Sequence[Want]) -> AsyncIterator[list[Running]]:
        """Start engines side by side, and stop them all at the end, even after an error.

        Their KV bytes are explicit and their footprints known, so they fit together. Optional ones
        that do not start are missing from the list. The logs of all that do not are kept in logs/.

        Raises:
            EngineError: an engine that is not optional did not start.
            ImpossibleError: the memory of an engine holds not even one request.
        """
        self.say(f"starting engines: {len(wants)} of {wants[0].model}")
        starting = [
            asyncio.create_task(self._start_if_needed(want, cores))
            for want, cores in zip(wants, self.cores_of(wants), strict=True)
        ]
        try:
            yield [engine for engine in await asyncio.gather(*starting) if engine is not None]
        finally:
            await to_end(self._stop_all(starting))

    async def _stop_all(self, starting: Sequence[asyncio.Task[Running | None]]) -> None:
        """Stop the engines, and record the time of a start and a stop together."""
        for task in starting:
            task.cancel()
        ended = await asyncio.gather(*starting, return_exceptions=True)
        running = [engine for engine in ended if isinstance(engine, Running)]
        began = time.monotonic()
        await self._stop([engine.handle for engine in running])
        if running:
            slowest = max(engine.start_seconds for engine in running)
            self.ledger.starts.append(slowest + time.monotonic() - began)

    def cores_of(self, wants: Sequence[Want]) -> list[tuple[int, ...]]:
        """Cores of each engine: the pinned ones get an even share, or all if there are too few."""
        cores = self.engine_cores
        pinned = [number for number, want in enumerate(wants) if want.pinned]
        each = len(cores) // max(1, len(pinned))
        found = [cores] * len(wants)
        for place, number in enumerate(pinned if each else ()):
            found[number] = cores[place * each : (place + 1) * each]
        return found

    async def _start_if_needed(self, want: Want, cores: tuple[int, ...]) -> Running | None:
        """The engine, ready; None for an optional one that did not start."""
        try:
            return await self._start(want, cores)
        except EngineError as error:
            if not want.optional:
                raise
            self.say(f"going on without an engine of {want.servers} API servers: {error}")
            return None

    async def _start(self, want: Want, cores: tuple[int, ...]) -> Running:
        self._count += 1
        replica_id = f"check-{self._count}"
        request = await self.request(want, cores)
        planned = planned_launch(request, replica_id)
        launch = dataclasses.replace(
            planned.launch, extra_env=(*planned.launch.extra_env, *want.env)
        )
        self.tools.runner.serve_by(replica_id, want.servers)
        began = time.monotonic()
        handle = await self.tools.runner.start(launch)
        try:
            report = await self.tools.runner.wait_ready(handle, START_SECONDS, self.say)
        except BaseException:
            self._keep_log(handle)
            await to_end(self._stop([handle]))
            raise
        return Running(
            want,
            handle,
            report,
            time.monotonic() - began,
            planned.architecture.vocab_size,
            want.workload or self.scale.workload,
        )

    async def _stop(self, handles: Sequence[EngineHandle]) -> None:
        ended = await asyncio.gather(*map(self._stop_one, handles), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _stop_one(self, handle: EngineHandle) -> None:
        await self.tools.runner.stop(handle, STOP_SECONDS)
        await self.tools.runner.discard(handle)

    def _keep_log(self, handle: EngineHandle) -> None:
        logs = self.folder / "logs"
        logs.mkdir(exist_ok=True)
        with contextlib.suppress(OSError):
            text = Path(handle.log_path).read_text(errors="replace")
            (logs / f"{handle.launch.replica_id}.log").write_text(text[-1_000_000:])

    # --- load ---------------------------------------------------------------------------------

    async def load(
        self,
        running: Sequence[Running],
        batches: Sequence[int],
        workload: Workload | None = None,
    ) -> Together:
        """Measure one common window on engines that are ready; `workload` replaces theirs."""
        self.say(f"measuring {len(running)} engines with {', '.join(map(str, batches))} in flight")
        streams = [
            self.stream(engine, number, batch, workload)
            for number, (engine, batch) in enumerate(zip(running, batches, strict=True))
        ]
        pids = tuple(engine.handle.pid for engine in running)
        return await self.window(streams, pids, lambda: self._preempted(running))

    def stream(
        self, engine: Running, number: int, batch: int, workload: Workload | None = None
    ) -> Stream:
        """Load number `number` of a window, on an engine that is ready."""
        lengths = workload or engine.workload
        load = self.load_of(engine.want.model, number, lengths, engine.vocab_size)
        return Stream(engine.handle.socket_path, load, batch, self.load_cores)

    async def window(
        self,
        streams: Sequence[Stream],
        pids: tuple[int, ...],
        preempted: Callable[[], Awaitable[Sequence[int | None]]],
    ) -> Together:
        """Measure one common window of several loads."""
        limits = (self.scale.min_window_seconds, self.scale.window_seconds)
        watched = Watched(lambda: self.tools.telemetry.open(self.device, pids), preempted)
        return await load_together(self.loaders, streams, limits, watched)

    async def arrive(self, stream: Stream, req_per_s: float, e2el_seconds: float) -> dict[str, Any]:
        """Send requests in open loop; `load_worker`'s figures of the window."""
        slo = {"ttft_seconds": self.scale.ttft_seconds, "tpot_seconds": self.scale.tpot_seconds}
        seconds = max(self.scale.window_seconds, 2 * e2el_seconds)
        return await load_open(
            self.loaders, stream, Arrivals(req_per_s, seconds, 2 * e2el_seconds, slo)
        )

    async def _preempted(self, running: Sequence[Running]) -> list[int | None]:
        """Requests that each engine preempted so far; None for one too busy to answer."""
        found: list[int | None] = []
        for engine in running:
            metrics: Mapping[str, float] = {}
            with contextlib.suppress(EngineError):
                metrics = (await self.tools.runner.report(engine.handle)).metrics
            count = next((metrics[name] for name in PREEMPTIONS if name in metrics), None)
            found.append(None if count is None else round(count))
        return found

    def load_of(
        self, model: str, number: int, workload: Workload | None = None, vocab_size: int = 1 << 20
    ) -> dict[str, Any]:
        """The fields of `loadgen.Workload` for stream `number` of a window."""
        lengths = workload or self.scale.workload
        return {
            "model": model,
            "prompt_tokens": lengths.prompt_tokens,
            "output_tokens": lengths.output_tokens,
            "last_token_id": min(20_000, vocab_size - 1),
            "seed": self.seed + number,
        }

    @contextlib.asynccontextmanager
    async def mps(self) -> AsyncIterator[MpsDaemon]:
        """An MPS daemon for this GPU. Raises MpsUnavailableError."""
        if isinstance(self.tools.mps_program, str):
            raise mps.MpsUnavailableError(self.tools.mps_program)
        async with mps.mps(str(self.tools.mps_program), self.device.id) as daemon:
            yield daemon

    async def settled_bytes(self) -> int:
        """Used memory once it is constant: drivers free memory a moment after a process ends."""
        before = -1
        for _ in range(20):
            now = await asyncio.to_thread(self.tools.used_bytes)
            if now == before:
                break
            before = now
            await asyncio.sleep(0.1)
        return before
