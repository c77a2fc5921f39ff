"""Profile jobs: what they are asked with, what they do; and the estimate that comes before."""

import dataclasses
from collections.abc import Callable, Sequence

from partitiond import __version__
from partitiond.controller.jobs import Tell
from partitiond.controller.leases import Lease
from partitiond.controller.targets import Target, source_note
from partitiond.core.architecture import Architecture
from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.estimate import estimate_profile
from partitiond.core.hardware import Device, DeviceKind
from partitiond.core.profile import Profile
from partitiond.core.spec import ModelSpec
from partitiond.ports import (
    Job,
    ModelResolver,
    ProfileOptions,
    ProfileRequest,
    ProfileRunner,
    Progress,
    Store,
)


@dataclasses.dataclass(frozen=True, slots=True)
class ProfilingOptions:
    """Defaults of a profile job, from the settings."""

    max_batch: int = 512
    time_limit_seconds: float = 900.0
    min_window_seconds: float = 10.0
    max_window_seconds: float = 60.0
    cpu_partition_cores: tuple[int, ...] = ()


def options_for(target: Target) -> ProfileOptions:
    """The options that measure this target."""
    on_cpu = target.device.kind is DeviceKind.CPU
    return ProfileOptions(device_id=target.device.id, cores=target.size.cores if on_cpu else None)


def params_of(
    options: ProfileOptions, devices: Sequence[Device], defaults: ProfilingOptions
) -> tuple[tuple[str, str], ...]:
    """What a job is stored with: every choice made, so that the job can be read and repeated.

    Without a device the first GPU is taken, or the CPU where there is none; without a number of
    cores, the smallest size the settings name, or all of them where they name none.

    Raises:
        NotFoundError: there is no such device.
        InputError: it has not so many cores, or there is no device at all.
    """
    device = _device(options.device_id, devices)
    cores = options.cores
    if cores is None:
        cores = min((*defaults.cpu_partition_cores, len(device.cores)))
    if not 1 <= cores <= len(device.cores):
        raise InputError(
            f"{device.id} has {len(device.cores)} cores for engines, {cores} were asked for.",
            hint=f"Ask for 1 to {len(device.cores)} cores.",
            facts={"device": device.id, "cores": list(device.cores)},
        )
    params = {
        "device_id": device.id,
        "max_batch": str(options.max_batch or defaults.max_batch),
        "time_limit_seconds": str(options.time_limit_seconds or defaults.time_limit_seconds),
        "seed": str(options.seed),
    }
    if device.kind is DeviceKind.CPU:
        params["cores"] = str(cores)
    if options.memory_bytes is not None:
        params["memory_bytes"] = str(options.memory_bytes)
    return tuple(sorted(params.items()))


def _device(device_id: str | None, devices: Sequence[Device]) -> Device:
    if not devices:
        raise InputError(
            "this host shows no device to profile on.",
            hint="`partitiond doctor` says why; set cpu.enabled to true to use the CPU.",
        )
    if device_id is None:
        return next((d for d in devices if d.kind is DeviceKind.GPU), devices[0])
    for device in devices:
        if device.id == device_id:
            return device
    raise NotFoundError(
        f"there is no device {device_id!r}.",
        hint=f"Use one of {', '.join(device.id for device in devices)}.",
        facts={"device": device_id},
    )


class ProfileWork:
    """Does a profile job: fetch the files, measure, keep the profile."""

    def __init__(
        self,
        *,
        store: Store,
        resolver: ModelResolver,
        profiler: ProfileRunner,
        find_device: Callable[[str], Device | None],
        options: ProfilingOptions,
    ) -> None:
        self._store = store
        self._resolver = resolver
        self._profiler = profiler
        self._find_device = find_device
        self._options = options

    async def __call__(self, job: Job, lease: Lease, tell: Tell) -> str:
        """Measure on the leased partition; the id of the stored profile.

        Raises:
            PartitiondError: the model, its files or its engine could not be had.
        """
        params = dict(job.params)
        spec = self._store.model(job.subject).spec
        device = self._find_device(params["device_id"])
        if device is None:
            raise NotFoundError(
                f"the device {params['device_id']} is gone.",
                hint="`partitiond devices` lists them.",
            )

        def fetching(text: str, fraction: float | None) -> None:
            tell(Progress("fetching", text, fraction))

        model = await self._resolver.resolve(spec, fetching)
        request = ProfileRequest(
            model=model,
            device=device,
            cores=lease.cores,
            memory_bytes=lease.memory_bytes,
            max_batch=int(params["max_batch"]),
            time_limit_seconds=float(params["time_limit_seconds"]),
            seed=int(params["seed"]),
            min_window_seconds=self._options.min_window_seconds,
            max_window_seconds=self._options.max_window_seconds,
        )
        profile = with_source(await self._profiler.run(request, tell), spec)
        self._store.add_profile(profile)
        return profile.id


def with_source(profile: Profile, spec: ModelSpec) -> Profile:
    """The profile with a note of where its model came from."""
    provenance = profile.provenance
    notes = (*provenance.notes, source_note(spec))
    return dataclasses.replace(profile, provenance=dataclasses.replace(provenance, notes=notes))


def estimates(
    spec: ModelSpec, architecture: Architecture, targets: Sequence[Target], created_at: str
) -> tuple[Profile, ...]:
    """An estimated profile for each target; the same target replaces its former estimate."""
    return tuple(
        with_source(
            estimate_profile(
                model=spec.name,
                architecture=architecture,
                workload=spec.workload,
                hardware=target.device,
                size=target.size,
                max_model_len=spec.max_model_len,
                profile_id=f"estimate-{spec.name}-{target.device.hardware}-{target.size.key}",
                created_at=created_at,
                dtype=spec.engine.dtype,
                weights=spec.weights.value,
                partitiond_version=__version__,
            ),
            spec,
        )
        for target in targets
    )
