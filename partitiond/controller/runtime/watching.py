"""Looks after devices and model files in the background, so that the loop never waits."""

import asyncio
import dataclasses
import functools
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Final, Generic, TypeVar

from partitiond.controller.limits import LOOK_SECONDS, PATIENCE_SECONDS
from partitiond.core.errors import (
    NotReadyError,
    PartitiondError,
    SilentError,
)
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.host_state import FINE, HostStanding, HostState
from partitiond.core.hardware.hosts import hosts_of, start_cores
from partitiond.core.hardware.kinds import Device, headroom_bytes, silent_device
from partitiond.core.hardware.named import device_named
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Plan, model_of
from partitiond.core.replica.observation import Unknown
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.ports import (
    Clock,
    DeviceCare,
    DeviceProvider,
    FleetModels,
    HostedDevices,
    ModelResolver,
    PartialDevices,
)

log = logging.getLogger(__name__)
K = TypeVar("K", bound=Hashable)

Begin = Callable[[Callable[[str, float | None], None]], Awaitable[ResolvedModel]]
"""Begins a fetch, which tells how far it is."""


_ALL_FINE: Final[Mapping[str, HostStanding]] = {}


def engine_bytes(device: Device) -> int:
    """Return what all engines of a device may take together, in bytes.

    min(total - reserved, free of foreign processes) - headroom, as the plan's checker computes it.
    """
    usable = min(device.memory_bytes - device.reserved_bytes, device.free_bytes)
    return max(0, usable - headroom_bytes(device.memory_bytes))


def room_on(
    devices: Sequence[Device],
    plan: Plan | None,
    problem: str,
    standings: Mapping[str, HostStanding] = _ALL_FINE,
) -> tuple[tuple[str, int | Unknown], ...]:
    """Return the room for engines by device, for the reconciler.

    The room that the applied plan counted with holds until the next plan. If starts went by what is
    free at the moment, two starts would depend on each other's timing. A device that cannot be
    observed now, or is gone, is Unknown, and so are those of a host that is not fine: what is begun
    on a host that is only late would end as a failed start of a model that is well. A device that
    failed has no room: what ended there is planned elsewhere.
    """
    planned = {device.id: device for device in plan.devices} if plan is not None else {}
    if problem:
        return tuple((device_id, Unknown(problem)) for device_id in planned)
    found: list[tuple[str, int | Unknown]] = []
    for device in devices:
        standing = standings.get(device.host, FINE)
        if device.health is DeviceHealth.SILENT:
            found.append((device.id, Unknown(device.health_reason)))
        elif standing.state is not HostState.FINE:
            found.append((device.id, Unknown(standing.reason)))
        elif device.health is not DeviceHealth.FAILED:
            found.append((device.id, engine_bytes(planned.get(device.id, device))))
    return tuple(found)


class DeviceWatch:
    """Looks at the devices of all hosts from time to time, in a thread (a driver may hang).

    Callers do not wait long for a look: a slow look goes on alone, and what was seen before counts
    until the look ends. One look is under way at a time.

    Args:
        marked: puts operators' marks on devices.
        after_look: called with the devices seen before and those seen now.
        troubled: called with each problem that was not there the last time.
        look_seconds: deadline of a look at all devices. Providers that know which device is silent
            say so sooner.
        patience_seconds: how long a caller waits for a look.

    Attributes:
        devices: as last seen.
        problem: why they could not be seen the last time; empty if they could.
        looked: whether a look has ended since the start: the driver answered, or refused.
        on_several_hosts: whether the devices are on more than one host.
        start_cores: as in `Observation`.
    """

    def __init__(
        self,
        provider: DeviceProvider,
        clock: Clock,
        *,
        marked: Callable[[Sequence[Device]], tuple[Device, ...]],
        after_look: Callable[[Sequence[Device], Sequence[Device]], None],
        troubled: Callable[[str], None],
        look_seconds: float = LOOK_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._provider = provider
        self._clock = clock
        self._marked = marked
        self._looks = DeadlineCalls(look_seconds)
        self._patience_seconds = patience_seconds
        self._under_way: asyncio.Task[None] | None = None
        self._slow = False
        self._seen_at: float | None = None
        self._seen: tuple[Device, ...] = ()
        self._remembered: tuple[Device, ...] = ()
        self.devices: tuple[Device, ...] = ()
        self._by_id: dict[str, Device] = {}
        self.on_several_hosts = False
        self.start_cores: Mapping[str, int] = {}
        self.problem = ""
        self.looked = False
        self._after_look = after_look
        self._troubled = troubled

    @property
    def trouble(self) -> str:
        """Why no device can be relied on now; empty if one can."""
        silent = [device for device in self.devices if device.health is DeviceHealth.SILENT]
        if self.problem or not silent or len(silent) < len(self.devices):
            return self.problem
        return f"no device answers: {silent[0].health_reason}"

    def remember(self, devices: Sequence[Device]) -> None:
        """Remember earlier devices: one of them that cannot be seen is silent, and not gone."""
        self._remembered = tuple(devices)
        if isinstance(self._provider, HostedDevices):
            self._provider.remember(self._remembered)

    def hosts(self) -> Mapping[str, HostStanding]:
        """Return what holds of each host now, by name; nothing if there is only one."""
        return self._provider.hosts() if isinstance(self._provider, HostedDevices) else _ALL_FINE

    @property
    def overtaken(self) -> str:
        """Why this control plane may begin nothing, as another one has taken over; else empty."""
        return next((one.reason for one in self.hosts().values() if one.overtaken), "")

    def room(self, plan: Plan | None) -> tuple[tuple[str, int | Unknown], ...]:
        """Return the room for engines by device: see `room_on`."""
        return room_on(self.devices, plan, self.problem, self.hosts())

    def is_silent(self, device_id: str) -> bool:
        """Whether nothing is known of a device now, because its driver does not answer."""
        device = self.find(device_id)
        return device is not None and device.health is DeviceHealth.SILENT

    async def refresh(self, max_age_seconds: float) -> None:
        """Look again if the last look is older than that.

        Returns after a moment at most: see the class.
        """
        now = self._clock.monotonic()
        if self._seen_at is not None and now - self._seen_at < max_age_seconds:
            return
        if self._under_way is not None:
            if self._slow or not await self._waited():
                return
            if self._under_way is not None:  # another look was begun after this call
                await self._waited()
                return
        self._seen_at = now
        self._under_way = asyncio.create_task(self._look(), name="look at the devices")
        await self._waited()

    async def look(self) -> None:
        """Look again for a caller; the caller waits for the first look as long as that takes.

        Raises:
            NotReadyError: the driver has not answered yet, so that no device is known.
        """
        await self.refresh(0.0)
        if not self.looked and self._under_way is not None:
            await asyncio.wait([self._under_way])
        if not self.looked:
            raise NotReadyError(
                f"no device was looked at yet: {self.problem}",
                hint="Ask again once the driver answers; `GET /readyz` says whether it does.",
            )

    async def _waited(self) -> bool:
        """Wait for the look under way; False if that takes too long."""
        if self._under_way is not None:
            _, waits = await asyncio.wait([self._under_way], timeout=self._patience_seconds)
            self._slow |= bool(waits)  # by then another caller may have begun the next look
        return not self._slow

    async def _look(self) -> None:
        try:
            found = await self._looks.look("the devices", self._provider.discover)
            self._take(tuple(found))
        except PartitiondError as error:
            self._fails(str(error))
            self.looked |= not isinstance(error, SilentError)
        except Exception as error:
            # A defect in a driver's adapter must not end the watch over all devices.
            log.exception("looking at the devices broke")
            self._fails(f"{type(error).__name__}: {error}")
        finally:
            self._under_way, self._slow = None, False

    def _take(self, seen: tuple[Device, ...]) -> None:
        unseen = self._provider.unseen if isinstance(self._provider, PartialDevices) else ""
        if unseen and not isinstance(self._provider, HostedDevices):  # these remember by host
            there = {device.id for device in seen}
            missing = (device for device in self._remembered if device.id not in there)
            seen += tuple(silent_device(device, unseen) for device in missing)
        before, self._seen = self._seen, seen
        self.mark()
        self.problem, self.looked = "", True
        self._after_look(before, self._seen)

    def _fails(self, problem: str) -> None:
        if problem != self.problem:
            self._troubled(problem)
        self.problem = problem

    def mark(self) -> None:
        """Put the operators' marks, which have changed, on the devices without another look."""
        self.devices = self._marked(self._seen)
        self._by_id = {device.id: device for device in reversed(self.devices)}
        self.on_several_hosts = len(hosts_of(self.devices)) > 1
        self.start_cores = start_cores(self.devices)

    def find(self, device_id: str) -> Device | None:
        """The device, or None."""
        return self._by_id.get(device_id)

    async def inspect(self, device_id: str) -> DeviceDetails:
        """Return everything that is known of one device; the beginning of its id is enough.

        Raises:
            NotFoundError, InputError: no device has that id, or several ids begin with the text.
            DeviceError: the driver refuses or is silent.
        """
        device = device_named(self.devices, device_id)
        if not isinstance(self._provider, DeviceCare):
            return DeviceDetails(device)
        inspect = functools.partial(self._provider.inspect, device.id)
        told = await self._looks.look(f"details of {device.id}", inspect)
        return dataclasses.replace(told, device=self._marked((told.device,))[0])

    def close(self) -> None:
        """Stop waiting for the look under way."""
        if self._under_way is not None:
            self._under_way.cancel()

    async def forgive(self, device_id: str) -> None:
        """Disregard what was reported against the device so far; look again soon.

        Raises:
            SilentError: the device's host does not answer.
        """
        if isinstance(self._provider, DeviceCare):
            forgive = functools.partial(self._provider.forgive, device_id)
            await self._looks.look(f"faults of {device_id}", forgive)
        self._seen_at = None


@dataclasses.dataclass(slots=True)
class _Fetch:
    """The fetch of one model's files: done, under way, or failed until `retry_at`."""

    spec: ModelSpec
    task: "asyncio.Task[ResolvedModel]"
    retry_at: float = 0.0
    progress: str = ""


class _Fetches(Generic[K]):
    """The fetches of files to their places, by key.

    Attributes:
        problems: why the files of a key are missing.
        failures: fetches that failed in a row, by key.
    """

    def __init__(self, clock: Clock, wake: Callable[[], None], retry_seconds: float) -> None:
        self._clock = clock
        self._wake = wake
        self._retry_seconds = retry_seconds
        self.by_key: dict[K, _Fetch] = {}
        self.problems: dict[K, str] = {}
        self.failures: dict[K, int] = {}

    def get(self, key: K, spec: ModelSpec, begin: Begin) -> ResolvedModel | None:
        """Return what a fetch found; otherwise have one begun, and return None."""
        fetch = self.by_key.get(key)
        if fetch is None:
            self._begin(key, spec, begin)
            return None
        if not fetch.task.done():
            return None
        if fetch.task.cancelled() or fetch.task.exception() is not None:
            self._after_failure(fetch, key, spec, begin)
            return None
        self.failures.pop(key, None)
        found = fetch.task.result()
        return found if found.spec is spec else dataclasses.replace(found, spec=spec)

    def drop(self, key: K) -> None:
        """Cancel a fetch, and forget what it found."""
        fetch = self.by_key.pop(key, None)
        if fetch is not None:
            fetch.task.cancel()
        self.problems.pop(key, None)
        self.failures.pop(key, None)

    def said(self, keys: Sequence[K]) -> str:
        """Return why one of these fetches failed, else what one of them is doing; or empty."""
        wrong = next((self.problems[key] for key in keys if key in self.problems), "")
        fetches = (self.by_key[key] for key in keys if key in self.by_key)
        return wrong or next((f.progress for f in fetches if not f.task.done()), "")

    async def close(self) -> None:
        """End all fetches."""
        tasks = [fetch.task for fetch in self.by_key.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, key: K, spec: ModelSpec, begin: Begin) -> None:
        def tell(text: str, fraction: float | None) -> None:
            share = f" ({fraction:.0%})" if fraction is not None else ""
            fetch.progress = text + share

        task = asyncio.ensure_future(begin(tell))
        self.by_key[key] = fetch = _Fetch(spec, task)
        task.add_done_callback(lambda _: self._wake())

    def _after_failure(self, fetch: _Fetch, key: K, spec: ModelSpec, begin: Begin) -> None:
        error = None if fetch.task.cancelled() else fetch.task.exception()
        now = self._clock.monotonic()
        if not fetch.retry_at:
            fetch.retry_at = now + self._retry_seconds
            self.problems[key] = _why(error)
            self.failures[key] = self.failures.get(key, 0) + 1
            if error is not None and not isinstance(error, PartitiondError):
                # A defect with one model's files must not keep the loop from all the others.
                log.error("fetching %s broke", key, exc_info=error)
        elif now >= fetch.retry_at:
            del self.problems[key]
            self._begin(key, spec, begin)


class ModelFiles:
    """Knows which models have their files on disk, and fetches the others in the background.

    A variant may have files of its own, so each form of a model (`plan.form_key`) has its fetch.
    With several hosts, the files of a form are brought to each host that needs them: a start waits
    for the files on its own host only.

    Attributes:
        problems: why the files of a form are missing, by its key.
        failures: fetches of a form's files that failed in a row, by its key.
        brings: whether the files are brought to the hosts that need them; else one host has all.
    """

    def __init__(
        self,
        resolver: ModelResolver,
        clock: Clock,
        wake: Callable[[], None],
        retry_seconds: float,
    ) -> None:
        self._resolver = resolver
        self._fleet = resolver if isinstance(resolver, FleetModels) else None
        self.brings = self._fleet is not None
        self._fetches = _Fetches[str](clock, wake, retry_seconds)
        self._copies = _Fetches[tuple[str, str]](clock, wake, retry_seconds)
        self._keys_of: dict[str, dict[str, None]] = {}  # of fetches, by model, in their order
        self._hosts_of: dict[str, dict[str, None]] = {}  # of copies, by the key of a form
        self.problems = self._fetches.problems
        self.failures = self._fetches.failures

    def get(self, spec: ModelSpec, form: str = "", host: str = "") -> ResolvedModel | None:
        """Return the files if they are there; otherwise have them fetched, and return None.

        Args:
            spec: of the form (`ModelSpec.as_variant`).
            form: its key; empty for the model itself.
            host: where they are needed; empty for anywhere.
        """
        key = form or spec.name
        before = self._fetches.by_key.get(key)
        if before is not None and not _same_files(before.spec, spec):
            self._drop(key)
        self._keys_of.setdefault(model_of(key), {})[key] = None
        found = self._fetches.get(key, spec, lambda tell: self._resolver.resolve(spec, tell))
        fleet = self._fleet
        if found is None or fleet is None or not host:
            return found
        fetched = found
        self._hosts_of.setdefault(key, {})[host] = None
        return self._copies.get((key, host), spec, lambda tell: fleet.bring(fetched, host, tell))

    def missing(self, forms: Mapping[str, ModelSpec]) -> tuple[str, ...]:
        """Keys of the forms whose files are not there yet."""
        return tuple(key for key, spec in forms.items() if self.get(spec, key) is None)

    def copy_failures(self, form: str, host: str) -> int:
        """Return how often in a row the files of a form could not be brought to a host."""
        return self._copies.failures.get((form, host), 0)

    def revision(self, name: str) -> str | None:
        """Return the commit or version of a model's files, if they are there. Fetches nothing."""
        fetch = self._fetches.by_key.get(name)
        task = fetch.task if fetch is not None else None
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result().revision

    def progress(self, name: str, host: str = "") -> str:
        """Return what the fetches of a model are doing, or why one failed; on a host, or on any."""
        keys = self._keys(name)
        said = self.problem(name) or self._fetches.said(keys)
        if said or self._fleet is None:
            return said
        there = [(key, at) for key in keys for at in self._hosts_of.get(key, ())]
        return self._copies.said([copy for copy in there if host in ("", copy[1])])

    def problem(self, name: str) -> str:
        """Return why files of a model could not be fetched; empty if no problem is known."""
        return next((self.problems[k] for k in self._keys(name) if k in self.problems), "")

    def forget(self, name: str) -> None:
        """Cancel the fetches of a model, and forget what they found."""
        for key in self._keys(name):
            self._drop(key)

    def look_again(self, form: str, host: str) -> None:
        """Ask a host for the files of a form again: an engine that read them there failed."""
        copy = self._copies.by_key.get((form, host))
        if copy is not None and copy.task.done():
            self._copies.drop((form, host))

    def _keys(self, name: str) -> list[str]:
        return list(self._keys_of.get(name, ()))

    def _drop(self, key: str) -> None:
        self._fetches.drop(key)
        self._keys_of.get(model_of(key), {}).pop(key, None)
        for host in self._hosts_of.pop(key, ()):
            self._copies.drop((key, host))

    async def close(self) -> None:
        """End all fetches."""
        await self._fetches.close()
        await self._copies.close()


def _why(error: BaseException | None) -> str:
    if error is None:
        return "the fetch was cancelled"
    if isinstance(error, PartitiondError):
        return str(error)
    return f"its files could not be fetched: {type(error).__name__}: {error}"


def _same_files(one: ModelSpec, other: ModelSpec) -> bool:
    return (
        one.source == other.source
        and one.weights == other.weights
        and one.engine_kind == other.engine_kind
        and one.engine.dtype == other.engine.dtype
    )
