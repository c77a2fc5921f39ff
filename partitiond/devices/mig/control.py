"""Makes, lists and removes GPU instances for the rest of the daemon."""

import asyncio
import functools
import logging
import os
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import MigInstance, short_device
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.mig.changes import (
    CreateComputeInstance,
    CreateGpuInstance,
    DestroyGpuInstance,
    MigChanges,
    MigLayout,
    MigPermissions,
    PresentInstance,
    Refused,
    Step,
    place_text,
    plan_changes,
    plan_removal,
    step_text,
)
from partitiond.core.mig.geometry import Place
from partitiond.devices.mig.client import MigHelper
from partitiond.devices.mig.instances import perform
from partitiond.devices.mig.reading import read_state
from partitiond.devices.mig.refusals import not_permitted
from partitiond.devices.nodes import make_mig_nodes
from partitiond.devices.nvml.processes import OWN_PROCESSES
from partitiond.platform.deadline_calls import DeadlineCalls

log = logging.getLogger(__name__)

Planning = Callable[[MigLayout], tuple[Step, ...] | Refused]
ATTEMPTS: Final = 3
"""How often steps are planned anew if another process changes the GPU meanwhile."""
CHANGE_SECONDS: Final = 300.0
"""Deadline of all steps on one GPU: each step may take as long as the helper's answer."""


class MigControl:
    """Makes and removes GPU instances; uses the privileged helper if this user may not.

    Args:
        changes: which changes are allowed (gpu.mig_changes).
        helper: socket of the privileged helper; it need not exist.
        own_pids: processes of this daemon's engines; other processes in an instance make it busy.
        looks: makes the calls, each with a deadline; None uses the default deadline.
    """

    def __init__(
        self,
        changes: MigChanges,
        helper: Path,
        own_pids: Callable[[], Collection[int]] = lambda: (),
        looks: DeadlineCalls | None = None,
    ) -> None:
        self._looks = looks or DeadlineCalls()
        self._changes: MigChanges = changes
        self._helper = MigHelper(helper)
        self._own_pids = own_pids
        self._one_at_a_time = asyncio.Lock()

    async def ensure(self, wanted: MigSlice, ours: Collection[Place] = ()) -> MigInstance:
        """Return the instance at this place, whole and idle; make it if it is missing.

        On failure nothing of the instance is left. Our instances that are in the way are destroyed.

        Args:
            wanted: place of the instance.
            ours: instances that we made and that hold no other replica: they may be destroyed to
                make room, and the wanted one, if among them, completed. An instance that others
                left without compute instance is refused.

        Raises:
            DeviceError: the instance may not or cannot be made, or a foreign process runs in it.
        """
        place = (wanted.mig_profile, wanted.slice_start, wanted.slice_count)
        device_id = wanted.device_id
        async with self._one_at_a_time:
            state = await self._reach(device_id, self._toward((place,), ours))
        found = _at(state, place)
        if found is None or not found.uuid:
            raise DeviceError(
                f"the GPU instance {place_text(place)} of {short_device(device_id)} is "
                f"not there after all.",
                hint="Somebody else changes the GPU: look with `nvidia-smi mig -lgi`.",
            )
        others = sorted(set(found.pids) - await self._own())
        if others:
            raise DeviceError(
                f"process {others[0]} runs in {place_text(place)} of {short_device(device_id)}.",
                hint="End it, or plan again: the instance counts as taken.",
                facts={"pids": others},
            )
        return _instance(found, busy=False)

    async def destroy(self, device_id: str, place: Place) -> None:
        """Remove an instance, even a half-made one; a missing instance is no error.

        Raises:
            DeviceError: a process runs in the instance, or the driver refuses.
        """
        async with self._one_at_a_time:
            await self._reach(device_id, lambda state: plan_removal(state, place))

    async def instances(self, device_id: str) -> tuple[MigInstance, ...]:
        """Return existing instances by first slice; none if MIG is off. Raises DeviceError."""
        state = await self._read(device_id)
        own = await self._own()
        return tuple(_instance(i, busy=bool(set(i.pids) - own)) for i in state.instances)

    async def _read(self, device_id: str) -> MigLayout:
        return await self._looks.look(device_id, lambda: self._read_now(device_id))

    async def _own(self) -> set[int]:
        return set(await self._looks.look(OWN_PROCESSES, self._own_pids))

    def _read_now(self, device_id: str) -> MigLayout:
        ask = self._helper.read_placed if self._helper.there() else None
        return read_state(device_id, ask)

    def _toward(self, wanted: Sequence[Place], ours: Collection[Place]) -> Planning:
        leave = MigPermissions(self._changes, frozenset(ours))
        return lambda state: plan_changes(state, wanted, leave)

    async def _reach(self, device_id: str, planning: Planning) -> MigLayout:
        """Take the steps, one by one; plan anew if another process changed the GPU meanwhile."""
        for attempt in range(1, ATTEMPTS + 1):
            state = await self._read(device_id)
            steps = _possible(device_id, state, planning(state))
            if not steps:
                return state
            try:
                take = functools.partial(self._take, device_id, steps)
                await self._looks.look(f"a change of {device_id}", take, CHANGE_SECONDS)
            except DeviceError as error:
                if attempt == ATTEMPTS or await self._read(device_id) == state:
                    raise
                device = short_device(device_id)
                log.warning("%s; planning the MIG steps of %s anew", error.message, device)
        return await self._read(device_id)

    def _take(self, device_id: str, steps: Sequence[Step]) -> None:
        """Take all steps. A failing step leaves behind no GPU instance in which nothing can run."""
        made: Place | None = None
        for step in steps:
            try:
                self._perform(device_id, step)
            except DeviceError:
                if isinstance(step, CreateComputeInstance) and step.place == made:
                    self._take_back(device_id, DestroyGpuInstance(made))
                raise
            made = step.place if isinstance(step, CreateGpuInstance) else None

    def _take_back(self, device_id: str, step: Step) -> None:
        try:
            self._perform(device_id, step)
        except DeviceError as error:  # the journal has it, and tries again
            log.warning("could not %s on %s: %s", step_text(step), short_device(device_id), error)

    def _perform(self, device_id: str, step: Step) -> None:
        """Do a step, or let the helper do it. Raises DeviceError."""
        try:
            perform(device_id, step)
        except DeviceError as error:
            if not not_permitted(error) or not self._helper.there():
                raise
            self._helper.perform(device_id, step)
        else:
            if isinstance(step, CreateComputeInstance) and os.geteuid() == 0:
                make_mig_nodes()  # engines of another user may not make them
        log.info("%s: %s", short_device(device_id), step_text(step))


def _possible(
    device_id: str, state: MigLayout, found: tuple[Step, ...] | Refused
) -> tuple[Step, ...]:
    """Return the steps. Raises DeviceError if refused, or if places of instances are unknown."""
    if isinstance(found, Refused):
        raise DeviceError(f"{short_device(device_id)}: {found.reason}.", hint=found.hint)
    if found and not state.placed:
        raise DeviceError(
            f"{short_device(device_id)}: this user may not change MIG, nor see where "
            f"instances are.",
            hint="Start the MIG helper (partitiond-mig.socket), or set gpu.mig_changes to "
            "never to use the instances that exist.",
        )
    return found


def _at(state: MigLayout, place: Place) -> PresentInstance | None:
    return next((i for i in state.instances if i.place == place), None)


def _instance(found: PresentInstance, *, busy: bool) -> MigInstance:
    name, start, size = found.place
    return MigInstance(name, start, size, found.memory_bytes, found.uuid, busy)
