"""Reads and changes the GPUs of this host for `partitiond devices mig`, without the daemon."""

import asyncio
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pynvml

from partitiond.core.errors import DeviceError, NotFoundError
from partitiond.core.mig.changes import (
    MigChanges,
    MigLayout,
    MigPermissions,
    MigTarget,
    Refused,
    Step,
    plan_changes,
)
from partitiond.core.mig.geometry import Place
from partitiond.core.mig.text import Asked, places_for
from partitiond.devices.mig.client import MigHelper
from partitiond.devices.mig.reading import read_state
from partitiond.devices.mig.refusals import in_use
from partitiond.devices.nvml import use_library
from partitiond.devices.nvml.session import asking, session, text_of
from partitiond.devices.partitions.journal import Entry, EntryKind, place_of, read_entries
from partitiond.engines.process.owners import owners
from partitiond.platform.deadline_calls import DeadlineCalls
from partitiond.settings.schema import Settings
from partitiond.simulated.gpus import SimulatedHost


@dataclasses.dataclass(frozen=True, slots=True)
class MigGpu:
    """One GPU.

    Attributes:
        index: the driver's index.
        left_over: instances made by partitiond that no engine uses.
        engines: replica ids of engines by the instance they run in.
    """

    index: int
    uuid: str
    name: str
    state: MigLayout
    left_over: frozenset[Place] = frozenset()
    engines: tuple[tuple[Place, tuple[str, ...]], ...] = ()

    def users(self, place: Place) -> tuple[str, ...]:
        """Replicas that run in the instance at this place."""
        return dict(self.engines).get(place, ())


@dataclasses.dataclass(frozen=True, slots=True)
class GpuPlan:
    """The planned changes of one GPU."""

    gpu: MigGpu
    wish: MigTarget
    leave: MigPermissions
    steps: tuple[Step, ...] = ()
    refused: Refused | None = None


def use_gpus_of(settings: Settings) -> None:
    """Use the driver of the simulated host if the settings name one. Raises DeviceError."""
    if settings.gpu.simulated_host is not None:
        use_library(SimulatedHost.open(settings.gpu.simulated_host).nvml_path)


def find_gpus(settings: Settings, chosen: Sequence[str] = ()) -> list[MigGpu]:
    """GPUs of this host, by the driver's index.

    Args:
        settings: they name the MIG helper, and the state folder with the device journal.
        chosen: UUIDs, their beginnings, or indices; empty for all GPUs.

    Raises:
        DeviceError: the driver refuses, or there is none.
        NotFoundError: one of `chosen` names no GPU, or several.
    """
    from partitiond.gpu_host import JOURNAL

    helper = MigHelper(settings.gpu.mig_helper)
    ask = helper.read_placed if helper.there() else None
    entries = _journalled(settings.state_dir / JOURNAL)
    pids = owners(settings.run_dir)
    found = []
    for index, uuid, name in _choose(_listed(), chosen):
        state = read_state(uuid, ask)
        left_over, engines = _users(uuid, state, entries, pids)
        found.append(MigGpu(index, uuid, name, state, left_over, engines))
    return found


def plan_gpu(
    gpu: MigGpu,
    wanted: Sequence[Asked],
    *,
    changes: MigChanges,
    replace: bool,
) -> GpuPlan:
    """The steps for one GPU, or the reason for refusing them.

    Args:
        gpu: the GPU as it is.
        wanted: the instances of a geometry.
        changes: the changes that the operator allows.
        replace: whether idle instances not made by partitiond may be destroyed, too.

    Raises:
        SpecError: the GPU cannot hold what is wanted.
    """
    there = [i.place for i in gpu.state.instances]
    places = places_for(gpu.state.profiles, wanted, there) if gpu.state.capable else ()
    wish = MigTarget(places, enabled=True, only=True)
    in_engines = {place for place, _ in gpu.engines}
    may_go = gpu.left_over | (frozenset(there) if replace else frozenset())
    # An instance that is asked for at its place must be complete, whatever left it half made.
    leave = MigPermissions(changes, frozenset(may_go - in_engines), complete=True)
    found = plan_changes(gpu.state, wish, leave)
    if isinstance(found, Refused):
        return GpuPlan(gpu, wish, leave, refused=found)
    if found and gpu.engines:
        names = ", ".join(sorted({name for _, users in gpu.engines for name in users}))
        busy = Refused(
            f"engines run in its instances ({names})",
            "Stop those models first, or leave this GPU out.",
        )
        return GpuPlan(gpu, wish, leave, refused=busy)
    return GpuPlan(gpu, wish, leave, found)


def apply_gpu(settings: Settings, plan: GpuPlan) -> MigLayout:
    """Apply the steps of the plan. Raises DeviceError."""

    from partitiond.devices.mig import MigControl, read_state

    control = MigControl(plan.leave.changes, settings.gpu.mig_helper)
    try:
        asyncio.run(control.apply(plan.gpu.uuid, plan.wish, plan.leave))
    except DeviceError as error:
        holder = _daemon(settings) if in_use(error) else ""
        if holder:
            error.hint = (
                f"The partitiond daemon ({holder}) keeps the GPU open, since it listens to its "
                "events. Let the daemon change the mode (gpu.mig_changes = mode), or stop it for "
                f"the while (`systemctl stop partitiond`). If it is not that: {error.hint}"
            )
        raise
    return read_state(plan.gpu.uuid)


def _daemon(settings: Settings) -> str:
    """The daemon that runs on this state folder, "pid 123"; empty if none can be seen."""
    from partitiond.store.lock import lock_holder

    with contextlib.suppress(OSError):
        holder = lock_holder(settings.lock_path)
        return "" if holder is None else f"pid {holder.pid}"
    return ""


def _listed() -> list[tuple[int, str, str]]:
    """Index, UUID and name of all GPUs. Raises DeviceError."""
    found = DeadlineCalls().ask("the NVIDIA driver", _listed_by_driver)
    if not found:
        raise DeviceError("there is no GPU.", hint="Check with nvidia-smi.")
    return found


def _listed_by_driver() -> list[tuple[int, str, str]]:
    found = []
    with asking("list the GPUs"), session():
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            uuid = text_of(pynvml.nvmlDeviceGetUUID(handle))
            name = text_of(pynvml.nvmlDeviceGetName(handle))
            found.append((index, uuid, name))
    return found


def _choose(
    listed: list[tuple[int, str, str]], chosen: Sequence[str]
) -> list[tuple[int, str, str]]:
    found = {}
    for text in chosen:
        mine = [g for g in listed if text == str(g[0]) or (len(text) > 4 and g[1].startswith(text))]
        if len(mine) != 1:
            known = ", ".join(f"{g[0]} ({g[1]})" for g in listed)
            several = "several GPUs are called" if mine else "there is no GPU"
            raise NotFoundError(f"{several} {text!r}.", hint=f"There are {known}.")
        found[mine[0][0]] = mine[0]
    return [found[index] for index in sorted(found)] if chosen else listed


def _journalled(path: Path) -> list[Entry]:
    """Instances that a daemon on this state folder made. Raises DeviceError."""
    try:
        entries = read_entries(path)
    except OSError as error:
        raise DeviceError(
            f"the device journal {path} cannot be read: {error.strerror}.",
            hint="Run as the daemon's user or as root: it says which instances engines use.",
        ) from error
    return [entry for entry in entries if entry.kind is EntryKind.MIG_INSTANCE]


def _users(
    uuid: str, state: MigLayout, entries: Sequence[Entry], owners: Mapping[int, str]
) -> tuple[frozenset[Place], tuple[tuple[Place, tuple[str, ...]], ...]]:
    """Our instances without engines, and those with engines, by journal and by process."""
    mine = [(place_of(entry.what), entry.users) for entry in entries if entry.device_id == uuid]
    used = {place: set(users) for place, users in mine if users}
    for instance in state.instances:
        running = {owners[pid] for pid in instance.pids if pid in owners}
        if running:
            used.setdefault(instance.place, set()).update(running)
    left_over = frozenset(place for place, users in mine if not users and place not in used)
    return left_over, tuple(sorted((place, tuple(sorted(names))) for place, names in used.items()))
