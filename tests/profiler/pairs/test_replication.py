"""Shares become launches, and windows become comparisons: functions of data."""

import dataclasses

import pytest

from loadgen import Samples
from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.profile.points import Telemetry
from partitiond.core.units import GIB
from partitiond.profiler.pairs import arrangement as places
from partitiond.profiler.pairs.arrangement import Arrangement, DeviceShare, Replica
from partitiond.profiler.pairs.pairs import BOTH, FIRST, SECOND, evaluate_pair
from partitiond.profiler.pairs.replication import EvenSplit, arrangements_of, evaluate
from partitiond.profiler.pairs.side_by_side import CommonWindow
from tests.profiler.samples import device, model

GPU = device(DeviceKind.GPU, gib=24)


def split(*cores: int) -> EvenSplit:
    return EvenSplit(SharingMode.CORES, cores, 16 * GIB, lambda _: 2)


def window(*rates: float) -> CommonWindow:
    empty = tuple(Samples() for _ in rates)
    return CommonWindow(10.0, rates, tuple(1.0 for _ in rates), empty, tuple(4 for _ in rates))


def test_shares_are_equal_parts_and_cores_are_not_shared() -> None:
    even = dataclasses.replace(split(0, 1, 2, 3), sm_percent_of=lambda n: 100 // n)
    shares = even.shares(2)
    assert [s.cores for s in shares] == [(0, 1), (2, 3)]
    assert {s.memory_bytes for s in shares} == {8 * GIB}
    assert {s.sm_percent for s in shares} == {50}
    with pytest.raises(InputError, match="5 replicas need a core each"):
        arrangements_of(model(), device(), even, (1, 5))
    with pytest.raises(InputError, match="no numbers of replicas"):
        arrangements_of(model(), device(), even, (0, 1))


def test_on_a_gpu_one_engine_with_everything_is_the_baseline_of_both_questions() -> None:
    even = dataclasses.replace(split(0, 1, 2, 3), mode=SharingMode.MEMORY)
    found = arrangements_of(model(), GPU, even, (1, 2, 3))
    assert [len(a.replicas) for a in found] == [1, 2, 3]
    assert len({a.name for a in found}) == 3


def test_a_share_becomes_a_launch_in_one_place() -> None:
    pipe = ("CUDA_MPS_PIPE_DIRECTORY", "/p")
    share = DeviceShare((1, 2), 8 * GIB, 64, sm_percent=30, extra_env=(pipe,))
    started = places.launch_of(GPU, Replica(model(), share))
    assert started.launch.extra_env == (pipe, ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30"))
    assert started.launch.cores == (1, 2)
    assert started.launch.memory_bytes == 8 * GIB
    assert started.batch == started.launch.max_num_seqs == 64
    assert started.launch.visible_device == GPU.id
    with pytest.raises(InputError, match="does not fit"):
        places.launch_of(GPU, Replica(model(), dataclasses.replace(share, memory_bytes=1000)))


def test_engines_stay_up_together_where_the_device_holds_them() -> None:
    def arrangement(gib: int) -> Arrangement:
        shares = (DeviceShare((0,), gib * GIB, 2), DeviceShare((1,), gib * GIB, 2))
        return Arrangement("two", SharingMode.MEMORY, tuple(Replica(model(), s) for s in shares))

    assert places.may_keep_up(GPU, [arrangement(10)])
    assert not places.may_keep_up(GPU, [arrangement(10), arrangement(12)])
    assert places.may_keep_up(device(gib=24), [arrangement(12)])


def test_drift_of_the_machine_is_no_difference_between_arrangements() -> None:
    """The machine speeds up by half while measuring; both arrangements see it."""
    arrangements = arrangements_of(model(), device(), split(0, 1), (1, 2))
    windows = {}
    for a in arrangements:
        rates = (60.0,) * len(a.replicas) if "1 core" in a.name else (100.0,)
        windows[a.name] = tuple(window(*(r * s for r in rates)) for s in (1.0, 1.1, 1.3, 1.5))
    found = evaluate(arrangements, windows)
    (difference,) = found.differences
    assert difference.ratio == pytest.approx(1.2)
    assert difference.shown
    ((_, sharing),) = found.sharing
    assert sharing.busy == pytest.approx(0.5)
    assert sharing.kappa == pytest.approx(0, abs=1e-9)
    assert {run.cores_each for _, run in found.runs} == {1, 2}
    assert sharing.runs == tuple(run for _, run in found.runs)


def test_a_run_states_its_energy_and_what_the_load_generator_took() -> None:
    """Energies of windows are added; means weigh by the length of the windows."""
    (arrangement,) = arrangements_of(model(), device(), split(0), (1,))
    told = tuple(
        dataclasses.replace(
            window(100.0),
            seconds=seconds,
            telemetry=Telemetry("test", power_watts=watts, energy_joules=watts * seconds),
            instrument_cpu=cpu,
            saturated=reasons,
        )
        for seconds, watts, cpu, reasons in [(10.0, 50.0, 0.1, ()), (30.0, 90.0, 0.9, ("late",))]
    )
    found = evaluate([arrangement], {arrangement.name: told})
    ((_, run),) = found.runs
    assert run.telemetry == Telemetry("test", power_watts=80.0, energy_joules=3200.0)
    assert run.instrument_cpu == 0.9
    (note,) = found.notes
    assert "saturated in 1 of 2 windows, so do not trust them: late" in note


def test_a_pair_states_what_the_load_generator_took() -> None:
    replica = Replica(model(), DeviceShare((0,), 4 * GIB, 2))
    busy = dataclasses.replace(window(50.0, 50.0), instrument_cpu=0.4)
    windows = {FIRST: (window(60.0),), BOTH: (busy,), SECOND: (window(60.0),)}
    shared = ((0.5, None), (0.5, None))
    run = evaluate_pair(SharingMode.CORES, (replica, replica), shared, windows)
    assert run.instrument_cpu == 0.4
