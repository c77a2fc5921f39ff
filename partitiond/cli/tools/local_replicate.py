"""Measures replicas side by side in this process, and keeps the result with the profiles."""

import asyncio
import dataclasses
import datetime
import signal
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from partitiond.cli.exits import Exit
from partitiond.cli.output import say
from partitiond.cli.profile.local import choose_device, spec_of
from partitiond.cli.profile.local_engines import LocalEngines, local_engines
from partitiond.cli.progress import Reporter, reporting
from partitiond.cli.setup.engine import find_engine
from partitiond.controller.profiles.targets import speaks_for
from partitiond.core.errors import DeviceError, NotFoundError, ProfileError, SpecError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, headroom_bytes
from partitiond.core.hardware.partition import Partition, PartitionSize
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.performance.interference import DEFAULT, mode_overhead_bytes
from partitiond.core.profile.jobs import ProfileOptions, Progress
from partitiond.core.profile.operating_points import named_point
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.profile.sharing import PairRun, Sharing
from partitiond.devices.telemetry import HostTelemetry
from partitiond.models.resolver import Resolver
from partitiond.planner.model.candidates import busy_share
from partitiond.platform.clock import SystemClock
from partitiond.profiler.pairs.arrangement import DeviceShare, Replica
from partitiond.profiler.pairs.pairs import measure_pair
from partitiond.profiler.pairs.replication import EvenSplit, ReplicationMeasurement, replicate
from partitiond.profiler.pairs.side_by_side import WindowPlan
from partitiond.profiler.sweep.bench import Bench
from partitiond.run_folder import owned_run_folder
from partitiond.store import StateLock, open_store

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings
    from partitiond.store.repository import SqlStore


@dataclasses.dataclass(frozen=True, slots=True)
class MeasurementRequest:
    """A measurement that is to be made.

    Attributes:
        bodies: registration of the model, and of the other model for a pair.
        counts: numbers of replicas; ignored for a pair.
        cores: cores for all replicas together, or for each of a pair; None for all, or one.
        batch: requests in flight at each replica; None takes the profile's operating point.
        mps: on a GPU, under MPS with equal shares of the SMs; else time-sliced.
        command: the command that repeats the measurement, for the profiles' notes.
    """

    bodies: tuple[dict[str, Any], ...]
    counts: tuple[int, ...]
    cores: int | None
    batch: int | None
    device_id: str | None
    plan: WindowPlan
    command: str
    mps: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationReport:
    """The result of a replication run, and the profiles that carry it from now on."""

    model: str
    replication: ReplicationMeasurement
    profiles: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class PairReport:
    """A pair's run, and the profiles that carry it from now on."""

    pair: PairRun
    profiles: tuple[str, ...]


def measure_here(
    settings: "Settings", question: MeasurementRequest, console: Console
) -> ReplicationReport | PairReport:
    """Measure with visible progress, and keep the result with the models' newest profiles.

    Raises:
        ProfileError: a model has no profile of the size that is to be replicated.
        PartitiondError: a model cannot be had, an engine does not start, or a daemon holds the
            state folder.
        typer.Exit: interrupted, with Exit.INTERRUPTED.
    """
    percent = 100 if question.mps else None
    device = choose_device(settings, ProfileOptions(question.device_id, sm_percent=percent))
    with (
        StateLock.acquire(settings.lock_path),
        owned_run_folder(settings),
        reporting(console) as report,
    ):
        store = open_store(settings.store_path)
        try:
            replication = _Replication(settings, store, device, question)
            return asyncio.run(replication.measure(report))
        except (KeyboardInterrupt, asyncio.CancelledError) as error:
            say("interrupted; nothing was kept")
            raise typer.Exit(Exit.INTERRUPTED) from error
        finally:
            store.close()


class _Replication:
    """One measurement: finds profiles, runs engines, keeps the result."""

    def __init__(
        self, settings: "Settings", store: "SqlStore", device: Device, question: MeasurementRequest
    ) -> None:
        self._settings = settings
        self._store = store
        self._device = device
        self._question = question
        on_gpu = SharingMode.MPS if question.mps else SharingMode.MEMORY
        self._mode = SharingMode.CORES if device.kind is DeviceKind.CPU else on_gpu
        self._engines: LocalEngines | None = None

    async def measure(self, report: Reporter) -> ReplicationReport | PairReport:
        """Measure; Ctrl-C and SIGTERM cancel this task, which ends its engines."""
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        specs = [self._spec(body) for body in self._question.bodies]

        def show(progress: Progress) -> None:
            text = ": ".join(part for part in (progress.phase, progress.message) if part)
            report.update(text, progress.fraction, progress.seconds_left)

        if len(specs) == 1:
            return await self._replicas(specs[0], report, show)
        return await self._pair(specs, report, show)

    async def _replicas(self, spec: ModelSpec, report: Reporter, show: Any) -> ReplicationReport:
        cores = self._cores(self._question.cores or len(self._device.cores))
        counts = self._question.counts
        each = max(1, len(cores) // max(counts))
        # Looked up before anything starts: without a profile, nothing can carry the result.
        profile = self._profile(spec, each)
        split = EvenSplit(
            mode=self._mode,
            cores=cores,
            memory_bytes=self._memory_bytes(),
            batch_of=lambda count: self._batch(spec, profile, len(cores) // count, count),
            sm_percent_of=self._sm_percent,
            actuated=True,
        )
        bench, (model,) = await self._bench([spec], report)
        try:
            found = await replicate(
                bench, model, split, counts=counts, plan=self._question.plan, tell=show
            )
        except asyncio.CancelledError:
            await self._discard()
            raise
        finally:
            self._close()
        kept = [
            self._keep(owner, sharing)
            for cores_each, sharing in found.sharing
            if (owner := self._find(spec, cores_each)) is not None
        ]
        return ReplicationReport(spec.name, found, tuple(kept))

    async def _pair(self, specs: Sequence[ModelSpec], report: Reporter, show: Any) -> PairReport:
        each = self._question.cores or 1
        cores = self._cores(2 * each)
        profiles = [self._profile(spec, each) for spec in specs]
        bench, models = await self._bench(specs, report)
        first, second = (
            Replica(
                model,
                DeviceShare(
                    cores=cores[i * each : (i + 1) * each],
                    memory_bytes=self._memory_bytes() // 2,
                    batch=self._batch(spec, profile, each, 1),
                    sm_percent=self._sm_percent(2),
                    mode=self._mode,
                ),
            )
            for i, (model, spec, profile) in enumerate(zip(models, specs, profiles, strict=True))
        )
        one, other = (self._shared(spec, p) for spec, p in zip(specs, profiles, strict=True))
        try:
            run = await measure_pair(
                bench,
                self._mode,
                (first, second),
                (one, other),
                plan=self._question.plan,
                tell=show,
            )
        except asyncio.CancelledError:
            await self._discard()
            raise
        finally:
            self._close()
        kept = tuple(self._keep_pair(p, run, busy) for p, (busy, _) in zip(
            profiles, (one, other), strict=True
        ))  # fmt: skip
        return PairReport(run, tuple(dict.fromkeys(kept)))

    # -- what is known -------------------------------------------------------------------------

    def _spec(self, body: dict[str, Any]) -> ModelSpec:
        """The specification as registered; of an unregistered model, as the options say."""
        try:
            return self._store.model(str(body["model"])).spec
        except NotFoundError:
            return spec_of(body, self._settings)

    def _find(self, spec: ModelSpec, cores: int) -> Profile | None:
        """The newest measured profile of this size on this hardware."""
        on_cpu = self._device.kind is DeviceKind.CPU
        size = PartitionSize(SharingMode.CORES, cores) if on_cpu else None
        return next(
            (
                profile
                for profile in self._store.profiles(spec.name)
                if profile.kind is ProfileKind.MEASURED
                and not profile.variant
                and speaks_for(profile, spec)
                and profile.hardware == self._device.hardware
                and (profile.size == size or (size is None and _is_whole(profile)))
            ),
            None,
        )

    def _profile(self, spec: ModelSpec, cores: int) -> Profile:
        found = self._find(spec, cores)
        if found is None:
            flag = f" --cores {cores}" if self._device.kind is DeviceKind.CPU else ""
            raise ProfileError(
                f"{spec.name} was not measured on {self._device.id}"
                f"{f' with {cores} cores' if cores > 1 else ' with 1 core' if flag else ''} "
                f"for {spec.workload.key} tokens.",
                hint=f"Run `partitiond profile {spec.name}{flag}` with the same options first: "
                "it says how many requests each replica gets, and carries the result.",
                facts={"model": spec.name, "hardware": self._device.hardware},
            )
        return found

    def _batch(self, spec: ModelSpec, profile: Profile, cores: int, count: int) -> int:
        """Requests in flight at each of `count` replicas with `cores` cores.

        The operating point of a profile of that size decides. If that size was not measured, all
        replicas together get as many requests as the largest number of replicas does.
        """
        if self._question.batch is not None:
            return self._question.batch
        same = self._find(spec, cores)
        point = named_point(same or profile, spec.operating_point, spec.slo)
        if point is None:
            raise ProfileError(
                f"{(same or profile).id} has no operating point that holds the SLO.",
                hint="Give --batch, or loosen the SLO.",
            )
        if same is not None:
            return point.batch
        return max(1, point.batch * max(self._question.counts) // count)

    def _shared(self, spec: ModelSpec, profile: Profile) -> tuple[float, float | None]:
        """u and kappa as measured; the mode's default if they were not measured."""
        point = named_point(profile, spec.operating_point, spec.slo) or profile.points[0]
        own = next((s for s in profile.sharing if s.mode == self._mode and s.runs), None)
        return busy_share(profile, point, self._mode), own.kappa if own is not None else None

    def _cores(self, count: int) -> tuple[int, ...]:
        if count > len(self._device.cores):
            raise SpecError(
                f"{count} cores are needed; {self._device.id} has {len(self._device.cores)}.",
                hint="Give --cores less, or ask for fewer replicas.",
            )
        return self._device.cores[:count]

    def _memory_bytes(self) -> int:
        device = self._device
        free = min(device.free_bytes, device.memory_bytes - device.reserved_bytes)
        taken = headroom_bytes(device.memory_bytes) + mode_overhead_bytes(self._mode)
        return max(0, free - taken)

    def _sm_percent(self, replicas: int) -> int:
        """SM percent of each replica: equal shares under MPS, no cap in other modes."""
        return max(1, 100 // replicas) if self._mode is SharingMode.MPS else 0

    # -- engines -------------------------------------------------------------------------------

    async def _bench(
        self, specs: Sequence[ModelSpec], report: Reporter
    ) -> tuple[Bench, list[ResolvedModel]]:
        settings = self._settings
        real = any(spec.engine_kind == "vllm" for spec in specs)
        environment = find_engine(settings) if real else None
        python = environment.python if environment is not None else None
        hub = settings.models.hub
        resolver = Resolver(settings.models_dir, python, settings.models.offline, hub)
        models = [await resolver.resolve(spec, report.update) for spec in specs]
        engines = self._engines = local_engines(settings, environment)
        refuse_company(await engines.held(), self._device)
        bench = Bench(
            engines=engines.runner,
            clock=SystemClock(),
            device=self._device,
            telemetry=HostTelemetry(
                dcgm_url=settings.gpu.dcgm_url, looks=engines.host.devices.looks
            ),
            start_deadline_seconds=settings.engine.start_deadline_seconds,
            stop_grace_seconds=settings.engine.stop_grace_seconds,
            device_used_bytes=None,
        )
        return bench, models

    async def _discard(self) -> None:
        if self._engines is not None:
            await self._engines.discard()

    def _close(self) -> None:
        if self._engines is not None:
            self._engines.host.devices.close()

    # -- what is kept --------------------------------------------------------------------------

    def _keep(self, profile: Profile, sharing: Sharing) -> str:
        old = next((s for s in profile.sharing if s.mode == sharing.mode), None)
        pairs = old.pairs if old is not None else ()
        return self._store_with(profile, dataclasses.replace(sharing, pairs=pairs))

    def _keep_pair(self, profile: Profile, run: PairRun, busy: float) -> str:
        old = next((s for s in profile.sharing if s.mode == run.mode), None)
        sharing = old or Sharing(run.mode, DEFAULT.kappa(self._mode), busy, ())
        others = tuple(p for p in sharing.pairs if not _same_pair(p, run))
        return self._store_with(profile, dataclasses.replace(sharing, pairs=(*others, run)))

    def _store_with(self, profile: Profile, sharing: Sharing) -> str:
        others = tuple(s for s in profile.sharing if s.mode != sharing.mode)
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        note = f"sharing measured on {today} by `{self._question.command}`"
        made = dataclasses.replace(profile.provenance, notes=(*profile.provenance.notes, note))
        self._store.add_profile(
            dataclasses.replace(profile, sharing=(*others, sharing), provenance=made)
        )
        return profile.id


def refuse_company(held: Sequence[tuple[str, Partition]], device: Device) -> None:
    """Raise DeviceError if engines that a daemon left running are on this device."""
    names = sorted(name for name, partition in held if partition.device_id == device.id)
    if names:
        raise DeviceError(
            f"{', '.join(names)} {'runs' if len(names) == 1 else 'run'} on {device.id} without a "
            "daemon, and would be measured with ours.",
            hint="Stop them first: `partitiond serve`, then `partitiond down`.",
            facts={"device": device.id, "replicas": names},
        )


def _is_whole(profile: Profile) -> bool:
    return profile.size.mode in {SharingMode.WHOLE, SharingMode.MEMORY}


def _same_pair(one: PairRun, other: PairRun) -> bool:
    def key(run: PairRun) -> tuple[object, ...]:
        return tuple(sorted(zip(run.models, run.cores_each, strict=True)))

    return key(one) == key(other)
