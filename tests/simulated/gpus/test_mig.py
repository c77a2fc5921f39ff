"""MIG on the simulated host follows its rules, and refuses with the right codes."""

import ctypes
from collections.abc import Iterator
from typing import Any

import pynvml
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from partitiond.core.mig.geometry import starts_of
from partitiond.simulated.gpus import SimulatedHost
from tests.simulated.gpus.mig_calls import IDS, PROFILES, create, gpu_of


def mig_devices(gpu: Any) -> Iterator[Any]:
    for index in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            yield pynvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, index)
        except pynvml.NVMLError_NotFound:
            continue


def test_with_mig_off_placements_are_told_and_nothing_is_created_or_listed(
    nvml: SimulatedHost,
) -> None:
    gpu, count = gpu_of(nvml), ctypes.c_uint(2)
    for name, profile in PROFILES.items():
        assert placements(gpu, IDS[name]) == [
            (start, profile.memory_slices) for start in starts_of(profile)
        ]
    ask = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    room = pynvml.c_nvmlGpuInstancePlacement_t
    with pytest.raises(pynvml.NVMLError_InsufficientSize):
        ask(gpu, 19, (room * 2)(), ctypes.byref(count))
    assert count.value == 7
    with pytest.raises(pynvml.NVMLError_NotSupported):
        create(gpu, "1g.10gb", 0)
    assert pynvml.nvmlDeviceGetMaxMigDeviceCount(gpu) == 0


def placements(gpu: Any, profile_id: int) -> list[tuple[int, int]]:
    count = ctypes.c_uint(0)
    ask = pynvml.nvmlDeviceGetGpuInstancePossiblePlacements
    ask(gpu, profile_id, None, ctypes.byref(count))
    room = (pynvml.c_nvmlGpuInstancePlacement_t * count.value)()
    ask(gpu, profile_id, room, ctypes.byref(count))
    return [(place.start, place.size) for place in room]


@pytest.mark.parametrize(
    ("name", "start", "error"),
    [
        ("3g.40gb", 2, pynvml.NVML_ERROR_INVALID_ARGUMENT),  # never starts there
        ("1g.10gb", 7, pynvml.NVML_ERROR_INVALID_ARGUMENT),
        ("4g.40gb", 4, pynvml.NVML_ERROR_INVALID_ARGUMENT),
        ("2g.20gb", 4, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES),  # taken
        ("7g.80gb", 0, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES),
        ("1g.10gb+me", 0, pynvml.NVML_ERROR_INSUFFICIENT_RESOURCES),  # one per GPU
    ],
)
def test_what_does_not_fit_is_refused(
    mig: SimulatedHost, name: str, start: int, error: int
) -> None:
    create(gpu_of(mig), "3g.40gb", 4)
    create(gpu_of(mig), "1g.10gb+me", 3)
    with pytest.raises(pynvml.NVMLError) as refused:
        create(gpu_of(mig), name, start)
    assert refused.value.value == error


def test_compute_instances_share_one_gpu_instance(mig: SimulatedHost) -> None:
    instance = create(gpu_of(mig), "3g.40gb", 0)
    one = pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 1)
    with pytest.raises(pynvml.NVMLError_InsufficientResources):
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 0)
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlGpuInstanceCreateComputeInstance(instance, 3)
    sms = [
        pynvml.nvmlDeviceGetAttributes_v2(device).multiprocessorCount
        for device in mig_devices(gpu_of(mig))
    ]
    assert sms == [14, 28]
    info = pynvml.nvmlComputeInstanceGetInfo(one)
    assert (info.placement.start, info.placement.size) == (0, 1)
    shape = pynvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, 0, 0)
    assert (shape.instanceCount, shape.name) == (3, "MIG 1c.3g.40gb")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "destroy"]),
        st.sampled_from(sorted(PROFILES)),
        st.integers(0, 7),
    ),
    max_size=25,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=STEPS)
def test_any_sequence_agrees_with_the_rules(
    mig: SimulatedHost, sequence: list[tuple[str, str, int]]
) -> None:
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
            handle = created(gpu, name, start)
            assert (handle is not None) == (start in free)
            if handle is not None:
                there[start] = (name, handle)
        seen = {i.slice_start: i.mig_profile for i in mig.geometry(uuid)}
        assert seen == {at: held for at, (held, _) in there.items()}


def created(gpu: Any, name: str, start: int) -> Any | None:
    """Handle of a new instance; None where it is refused."""
    try:
        return create(gpu, name, start)
    except (pynvml.NVMLError_InvalidArgument, pynvml.NVMLError_InsufficientResources):
        return None


def fits(there: dict[int, tuple[str, Any]], name: str, start: int) -> bool:
    wanted = set(range(start, start + PROFILES[name].memory_slices))
    taken = {
        at + offset
        for at, (held, _) in there.items()
        for offset in range(PROFILES[held].memory_slices)
    }
    count = sum(held == name for held, _ in there.values())
    return not wanted & taken and count < PROFILES[name].max_instances
