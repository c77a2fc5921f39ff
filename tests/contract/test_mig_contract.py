"""MIG behaves as our code relies on, simulated and on a real GPU.

On a real GPU, instances are made and removed only if PARTITIOND_TEST_MIG is 1: the whole test then
needs a GPU with MIG on and no instances. Reading needs nothing.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.mig.changes import CreateGpuInstance, MigLayout, illegal
from partitiond.core.mig.geometry import instance_bytes, place_of
from partitiond.core.mig.names import read_name
from partitiond.core.units import Bytes
from partitiond.devices.gpus.discovery import GpuDiscovery
from partitiond.devices.mig import MigControl, read_state
from partitiond.devices.mig.instances import perform
from partitiond.simulated.gpus import SimulatedHost
from tests.contract.cuda_program import cuda_program

ALLOWED = "PARTITIOND_TEST_MIG"
NOWHERE = Path("/nonexistent/helper.sock")


@dataclass(frozen=True)
class Here:
    """A GPU with MIG on, and the CUDA library of its host (None for the system's)."""

    uuid: str
    cuda: Path | None

    @property
    def state(self) -> MigLayout:
        return read_state(self.uuid)


@pytest.fixture(params=["simulated", pytest.param("real", marks=pytest.mark.gpu)])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Here]:
    with ExitStack() as stack:
        cuda = None
        if request.param == "simulated":
            host = SimulatedHost.create("a100-80gb-mig", tmp_path / "host")
            stack.enter_context(host.installed())
            cuda = host.cuda_path
        ids = [seen.device.id for seen in GpuDiscovery().discover([0])]
        on = [gpu for gpu in ids if (s := read_state(gpu)).enabled and s.profiles]
        if not on:
            pytest.skip("needs a GPU with MIG on")
        yield Here(on[0], cuda)


@pytest.fixture
def empty(here: Here, request: pytest.FixtureRequest) -> Here:
    """A GPU that may be cut."""
    if here.cuda is None and os.environ.get(ALLOWED) != "1":
        pytest.skip(f"changes the GPU: set {ALLOWED}=1")
    for device in (seen.device for seen in GpuDiscovery().discover([0])):
        state = read_state(device.id)
        if state.enabled and not state.instances and state.placed:
            return Here(device.id, here.cuda)
    pytest.skip("needs a GPU with MIG on and no instances, and the right to make some")


def test_what_the_driver_tells_is_a_geometry_by_our_rules(here: Here) -> None:
    state = here.state
    names = [p.name for p in state.profiles]
    assert len(names) == len(set(names))
    for profile in state.profiles:
        assert read_name(profile.name) is not None
        assert profile.starts
        assert 0 < profile.compute_slices <= 7
        assert profile.sm_count > 0
        assert instance_bytes(profile) > 0
    assert illegal(state.profiles, [i.place for i in state.instances]) == ""
    for instance in state.instances:
        assert bool(instance.uuid) == instance.whole
        assert instance.memory_bytes > 0


async def test_every_size_is_made_at_each_of_its_starts(empty: Here) -> None:
    control = MigControl("instances", NOWHERE)
    for profile in empty.state.profiles:
        for start in profile.starts:
            wanted = MigSlice(empty.uuid, Bytes(1), profile.name, start, profile.memory_slices)
            made = await control.ensure(wanted)
            try:
                assert place_of(made) == (profile.name, start, profile.memory_slices)
                assert made.uuid.startswith("MIG-")
                assert abs(made.memory_bytes - profile.memory_bytes) < 0.05 * profile.memory_bytes
            finally:
                await control.destroy(empty.uuid, place_of(made))
    assert empty.state.instances == ()


async def test_cuda_sees_the_instance_and_nothing_can_destroy_it_meanwhile(empty: Here) -> None:
    control = MigControl("instances", NOWHERE)
    size = min(empty.state.profiles, key=lambda p: (p.memory_slices, p.name))
    place = (size.name, size.starts[-1], size.memory_slices)
    made = await control.ensure(MigSlice(empty.uuid, Bytes(1), *place))
    async with cuda_program(made.uuid, empty.cuda) as program:
        assert await program.code() == 0
        shown = await program.code("memory")
        assert abs(shown - made.memory_bytes) < 0.05 * made.memory_bytes
        (busy,) = await control.instances(empty.uuid)
        assert busy.busy
        with pytest.raises(DeviceError, match="a process runs in"):
            await control.destroy(empty.uuid, place)
        largest = max(empty.state.profiles, key=lambda p: p.memory_slices)
        over = (largest.name, largest.starts[0], largest.memory_slices)
        with pytest.raises(DeviceError) as refused:  # what overlaps, by the driver itself
            perform(empty.uuid, CreateGpuInstance(over))
        assert refused.value.hint
    await control.destroy(empty.uuid, place)
    assert empty.state.instances == ()
