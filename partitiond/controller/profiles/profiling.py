"""Runs profile jobs: measures on the leased partition; also makes the estimates before that."""

import asyncio
import dataclasses
from collections.abc import Callable, Mapping, Sequence

from partitiond.controller.profiles.job_room import waits_for
from partitiond.controller.profiles.jobs import Neighbours, Tell, Write
from partitiond.controller.profiles.params import (
    ProfilingOptions,
    measured_spec,
    options_of,
    profile_request,
)
from partitiond.controller.profiles.targets import ProfileTarget, source_of
from partitiond.core.errors import NotFoundError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode, short_device
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.recognised import recognised
from partitiond.core.model.spec import ModelSpec
from partitiond.core.profile.jobs import Job, ProfileOptions, Progress
from partitiond.core.profile.record import Profile
from partitiond.core.replica.leases import Lease
from partitiond.fleet.estimates import estimate
from partitiond.platform.fault_points import FaultPoint, reached
from partitiond.ports import FleetModels, ModelResolver, ProfileRunner
from partitiond.store import Store


def options_for(target: ProfileTarget, first_look_seconds: float = 0.0) -> ProfileOptions:
    """Return options to measure this target, in full or at a first look of so many seconds."""
    on_cpu, size = target.device.kind is DeviceKind.CPU, target.size
    return ProfileOptions(
        device_id=target.device.id,
        any_like_it=True,
        cores=size.cores if on_cpu else None,
        sm_percent=size.sm_percent if size.mode is SharingMode.MPS else None,
        mig_profile=size.mig_profile,
        time_limit_seconds=first_look_seconds or None,
        confirm=not first_look_seconds,
    )


class ProfileWork:
    """Does a profile job: fetch the files, measure, keep the profile.

    Args:
        starting: the names of engines that start now, by host.
        loop_seconds: pause between two looks at them, as between passes of the loop that starts.
    """

    def __init__(
        self,
        *,
        store: Store,
        starting: Callable[[], Mapping[str, Sequence[str]]],
        loop_seconds: float,
        resolver: ModelResolver,
        profiler: ProfileRunner,
        find_device: Callable[[str], Device | None],
        options: ProfilingOptions,
        write: Write,
    ) -> None:
        self._starting = starting
        self._loop_seconds = loop_seconds
        self._write = write
        self._store = store
        self._resolver = resolver
        self._profiler = profiler
        self._find_device = find_device
        self._options = options

    async def __call__(self, job: Job, lease: Lease, tell: Tell, neighbours: Neighbours) -> str:
        """Measure on the leased partition; return the id of the stored profile.

        Raises:
            PartitiondError: the model, its files or its engine cannot be had.
        """
        options = options_of(job.params)
        spec = self._store.model(job.subject).spec
        device = self._find_device(lease.partition.device_id)
        if device is None:
            raise NotFoundError(
                f"the device {short_device(lease.partition.device_id)} is gone.",
                hint="`partitiond devices` lists them.",
            )

        def fetching(text: str, fraction: float | None) -> None:
            tell(Progress("fetching", text, fraction))

        model = await self._resolver.resolve(measured_spec(spec, options), fetching)
        alone = dataclasses.replace(model.spec, variants=())
        model = dataclasses.replace(model, spec=recognised(alone, {"": model.architecture}))
        if isinstance(self._resolver, FleetModels):
            model = await self._resolver.bring(model, device.host, fetching)
        request = profile_request(
            model,
            device,
            options,
            self._options,
            cores=lease.cores,
            memory_bytes=lease.memory_bytes,
            partition=lease.partition,
        )
        # Other engines may start on its device until its files are there, and go first then.
        while names := self._starting().get(device.host):
            fetching(waits_for(names), None)
            await asyncio.sleep(self._loop_seconds)
        tell(Progress("starting", "starts"))
        measured = await self._profiler.run(request, tell)
        profile = with_source(measured, model.spec, *_beside(lease, neighbours()))
        # A locked store must not lose what took minutes to measure.
        await self._write(lambda: self._store.add_profile(profile))
        reached(FaultPoint.PROFILE_STORED)
        return profile.id


def _beside(lease: Lease, jobs: tuple[str, ...]) -> tuple[str, ...]:
    """Return a note on what computed on the device meanwhile; MIG slices are isolated: none."""
    names = tuple(dict.fromkeys((*lease.beside, *jobs)))
    if not names or isinstance(lease.partition, MigSlice):
        return ()
    return (f"measured beside {', '.join(names)}, which shared memory bandwidth and power",)


def with_source(profile: Profile, spec: ModelSpec, *more: str) -> Profile:
    """Return the profile with further notes, and its model's source."""
    made = profile.provenance
    made = dataclasses.replace(made, notes=(*made.notes, *more), source=source_of(spec))
    return dataclasses.replace(profile, provenance=made)


def estimates(
    spec: ModelSpec,
    architecture: Architecture,
    targets: Sequence[ProfileTarget],
    created_at: str,
) -> tuple[Profile, ...]:
    """Return an estimated profile for each target; a repeated one replaces the former.

    Args:
        spec: of one form of the model; its variants are ignored.
        architecture: of that form.
        targets: what to estimate it on.
        created_at: ISO 8601 UTC.
    """
    return tuple(
        with_source(estimate(spec, architecture, target.device, target.size, created_at), spec)
        for target in targets
    )
