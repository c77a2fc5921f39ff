"""MIG placement on the simulated host agrees with models that know nothing but slices."""

from typing import Any

import pynvml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.mig.geometry import starts_of
from partitiond.simulated.gpus import SimulatedHost
from tests.core.mig.maximal_placements import maximal_placements
from tests.simulated.gpus.mig_calls import IDS, MODEL, PROFILES, create, create_whole, gpu_of

Step = tuple[str, str, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["create", "chosen", "destroy"]),
        st.sampled_from(sorted(PROFILES)),
        st.integers(0, 7),
    ),
    max_size=25,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=steps)
def test_any_sequence_agrees_with_the_rules(mig: SimulatedHost, sequence: list[Step]) -> None:
    """Against a model that knows nothing but slices: starts, overlaps, and how many at most."""
    uuid, gpu = mig.uuids()[0], gpu_of(mig)
    mig.set_mig_mode(uuid, enabled=True)
    there: dict[int, tuple[str, Any]] = {}  # by first slice
    for action, name, start in sequence:
        free = [s for s in starts_of(PROFILES[name]) if fits(there, name, s)]
        if action == "destroy":
            if start in there:
                pynvml.nvmlGpuInstanceDestroy(there.pop(start)[1])
        else:
            at = created(gpu, name, None if action == "chosen" else start)
            if at is None:
                assert not free if action == "chosen" else start not in free
            else:
                at_slice, handle = at
                assert at_slice in free
                assert action == "chosen" or at_slice == start
                there[at_slice] = (name, handle)
        seen = {i.slice_start: i.mig_profile for i in mig.geometry(uuid)}
        assert seen == {at: held for at, (held, _) in there.items()}
        capacity = pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, IDS[name])
        assert capacity == how_many_more(there, name)


def created(gpu: Any, name: str, start: int | None) -> tuple[int, Any] | None:
    """First slice and handle of a new instance; None where it is refused."""
    try:
        if start is None:
            handle = pynvml.nvmlDeviceCreateGpuInstance(gpu, IDS[name])
        else:
            handle = create(gpu, name, start)
    except (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_InsufficientResources):
        return None
    return pynvml.nvmlGpuInstanceGetInfo(handle).placement.start, handle


def fits(there: dict[int, tuple[str, Any]], name: str, start: int) -> bool:
    wanted = set(range(start, start + PROFILES[name].memory_slices))
    taken = {
        at + offset
        for at, (held, _) in there.items()
        for offset in range(PROFILES[held].memory_slices)
    }
    count = sum(held == name for held, _ in there.values())
    return not wanted & taken and count < PROFILES[name].max_instances


def how_many_more(there: dict[int, tuple[str, Any]], name: str) -> int:
    """By trying all."""
    free = [s for s in starts_of(PROFILES[name]) if fits(there, name, s)]
    return max((1 + how_many_more({**there, s: (name, None)}, name) for s in free), default=0)


def test_every_maximal_placement_can_be_made(mig: SimulatedHost) -> None:
    """All 78 of an A100, by the driver's rules: each instance fits, and nothing beside them."""
    uuid, gpu = mig.uuids()[0], gpu_of(mig)
    found = maximal_placements(MODEL)
    assert len(found) == 78
    for places in found:
        mig.set_mig_mode(uuid, enabled=True)
        for name, start, _size in sorted(places, key=lambda place: place[1]):
            create_whole(gpu, name, start)
        left = [
            pynvml.nvmlDeviceGetGpuInstanceRemainingCapacity(gpu, number)
            for name, number in IDS.items()
            if not name.endswith("+me")
        ]
        assert set(left) == {0}
