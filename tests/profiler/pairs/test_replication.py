"""Replicas run side by side through the real runner, with the shipped simulated engine."""

import asyncio
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest

from loadgen import Samples
from partitiond.core.errors import EngineError, InputError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.model.workload import Workload
from partitiond.core.profile.points import Telemetry
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.units import GIB, Bytes
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.platform.clock import SystemClock
from partitiond.profiler.pairs.arrangement import (
    Arrangement,
    DeviceShare,
    Replica,
    launch_of,
    may_keep_up,
)
from partitiond.profiler.pairs.pairs import BOTH, FIRST, SECOND, evaluate_pair, measure_pair
from partitiond.profiler.pairs.replication import EvenSplit, arrangements_of, evaluate, replicate
from partitiond.profiler.pairs.side_by_side import CommonWindow, WindowPlan, measure, preempted
from partitiond.profiler.sweep.bench import Bench

ARCHITECTURE = Architecture(
    family="llama",
    parameters=135_000_000,
    hidden_size=576,
    layers=30,
    heads=9,
    kv_heads=3,
    head_dim=64,
    intermediate_size=1536,
    vocab_size=49152,
    max_position=2048,
)
QUICK = WindowPlan(rounds=2, seconds=0.6)


class Watch:
    """A telemetry source that counts its windows."""

    def __init__(self) -> None:
        self.pids: list[tuple[int, ...]] = []

    async def open(self, device: Device, pids: tuple[int, ...]) -> "Watch":
        self.pids.append(pids)
        return self

    async def close(self) -> Telemetry | None:
        return Telemetry("test", cores_used=0.25)


class Recording(ProcessEngineRunner):
    """Remembers what was started."""

    launches: list[EngineLaunch]

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        self.launches = [*getattr(self, "launches", []), launch]
        return await super().start(launch)


def device(kind: DeviceKind = DeviceKind.CPU, gib: int = 32) -> Device:
    mode = SharingMode.CORES if kind is DeviceKind.CPU else SharingMode.MEMORY
    return Device(
        id=kind.value,
        kind=kind,
        hardware="test",
        name="test",
        host="here",
        memory_bytes=Bytes(gib * GIB),
        free_bytes=Bytes(gib * GIB),
        cores=(0, 1, 2, 3),
        modes=(mode,),
    )


def model(folder: Path, name: str = "tiny", *extra: str) -> ResolvedModel:
    spec = ModelSpec(
        name=name,
        source=ModelSource(SourceKind.FOLDER, str(folder)),
        workload=Workload(8, 8),
        engine=EngineOptions(max_model_len=256, extra_args=extra),
        engine_kind="simulated",
    )
    return ResolvedModel(spec, folder, None, ARCHITECTURE, dummy_weights=True)


@pytest.fixture
def runner(tmp_path: Path) -> Recording:
    return Recording(tmp_path / "run", None)


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def bench(runner: Recording, watch: Watch) -> Bench:
    return Bench(
        engines=runner,
        clock=SystemClock(),
        device=device(),
        telemetry=watch,
        start_deadline_seconds=60,
        stop_grace_seconds=5,
        device_used_bytes=None,
    )


def split(cores: Sequence[int] = (0, 0), batch: int = 2) -> EvenSplit:
    """Cores of this machine may be few; engines that sleep do not mind sharing one."""
    return EvenSplit(
        mode=SharingMode.CORES,
        cores=tuple(cores),
        memory_bytes=16 * GIB,
        batch_of=lambda _: batch,
    )


@pytest.mark.soak
async def test_two_replicas_that_share_nothing_give_twice_the_sum(
    bench: Bench, runner: Recording, watch: Watch, tmp_path: Path
) -> None:
    found = await replicate(
        bench, model(tmp_path), split(), counts=(1, 2), plan=QUICK, tell=lambda _: None
    )
    (whole, one), (alone_name, alone), (pair_name, two) = sorted(
        found.runs, key=lambda r: (r[1].replicas, "one of" in r[0])
    )
    assert (one.replicas, alone.replicas, two.replicas) == (1, 1, 2)
    assert "one of 2" in alone_name
    assert two.windows == one.windows == QUICK.rounds
    assert len(two.output_tokens_per_s) == 2
    assert two.total_output_tokens_per_s == pytest.approx(
        2 * alone.total_output_tokens_per_s, rel=0.25
    )
    (difference,) = found.differences
    assert (difference.name, difference.baseline) == (pair_name, whole)
    assert difference.ratio == pytest.approx(2, rel=0.25)
    ((cores, sharing),) = found.sharing
    assert cores == 1
    assert 0.4 < sharing.busy <= 0.7
    assert sharing.kappa < 0.25
    assert two.tpot_p95_seconds >= 0.009
    assert two.telemetry == Telemetry("test", cores_used=0.25)
    assert found.idle_cores == 0.25
    assert await runner.find() == []


async def test_the_replica_alone_is_one_of_the_pair_and_all_engines_are_started_once(
    bench: Bench, runner: Recording, watch: Watch, tmp_path: Path
) -> None:
    await replicate(bench, model(tmp_path), split(), counts=(1, 2), plan=QUICK, tell=lambda _: None)
    assert len(runner.launches) == 3
    assert sorted(len(launch.cores) for launch in runner.launches) == [1, 1, 2]
    assert {launch.max_num_seqs for launch in runner.launches} == {2}
    loaded = [pids for pids in watch.pids if len(pids) == 2]
    assert len(loaded) >= QUICK.rounds


async def test_where_memory_does_not_hold_all_engines_each_arrangement_has_its_own(
    bench: Bench, runner: Recording, watch: Watch, tmp_path: Path
) -> None:
    plan = dataclasses.replace(QUICK, rounds=1, keep_up=False)
    await replicate(bench, model(tmp_path), split(), counts=(1, 2), plan=plan, tell=lambda _: None)
    assert len(runner.launches) == 4
    assert all(len(pids) <= 2 for pids in watch.pids)


async def test_the_order_is_reversed_from_round_to_round(bench: Bench, tmp_path: Path) -> None:
    one = Replica(model(tmp_path), DeviceShare((0,), GIB * 4, 1))
    arrangements = [
        Arrangement("a", SharingMode.CORES, (one,)),
        Arrangement("b", SharingMode.CORES, (one,)),
    ]
    said: list[str] = []
    plan = WindowPlan(rounds=3, seconds=0.2)
    windows = await measure(bench, arrangements, plan, lambda p: said.append(p.message))
    order = [text[0] for text in said if ", window" in text]
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in windows.items()} == {"a": 3, "b": 3}


@pytest.mark.soak
async def test_a_pair_is_predicted_from_its_singles_and_then_measured(
    bench: Bench, tmp_path: Path
) -> None:
    quick = Replica(model(tmp_path, "quick"), DeviceShare((0,), 4 * GIB, 2))
    slow = Replica(
        model(tmp_path, "slow", "--token-seconds", "0.02"), DeviceShare((0,), 4 * GIB, 1)
    )
    run = await measure_pair(
        bench,
        SharingMode.CORES,
        (quick, slow),
        ((0.0, None), (0.0, None)),
        plan=QUICK,
        tell=lambda _: None,
    )
    assert run.models == ("quick", "slow")
    assert run.batches == (2, 1)
    assert run.predicted_output_tokens_per_s == run.alone_output_tokens_per_s
    assert run.alone_output_tokens_per_s[0] > 2 * run.alone_output_tokens_per_s[1]
    for predicted, measured in zip(
        run.predicted_output_tokens_per_s, run.measured_output_tokens_per_s, strict=True
    ):
        assert measured == pytest.approx(predicted, rel=0.3)


async def test_an_engine_that_dies_ends_the_measurement_and_leaves_nothing(
    bench: Bench, runner: Recording, tmp_path: Path
) -> None:
    dying = model(tmp_path, "tiny", "--crash-at-running", "2")
    with pytest.raises(EngineError, match=r"2 on 1 core|one of 2"):
        await replicate(bench, dying, split(), counts=(2,), plan=QUICK, tell=lambda _: None)
    assert await runner.find() == []


async def test_cancelling_leaves_nothing(bench: Bench, runner: Recording, tmp_path: Path) -> None:
    measuring = asyncio.Event()
    task = asyncio.create_task(
        replicate(
            bench,
            model(tmp_path),
            split(),
            counts=(1, 2),
            plan=WindowPlan(rounds=50, seconds=30),
            tell=lambda p: measuring.set() if p.phase == "measuring" else None,
        )
    )
    await measuring.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await runner.find() == []


def test_shares_are_equal_parts_and_cores_are_not_shared(tmp_path: Path) -> None:
    even = dataclasses.replace(split((0, 1, 2, 3)), sm_percent_of=lambda n: 100 // n)
    shares = even.shares(2)
    assert [s.cores for s in shares] == [(0, 1), (2, 3)]
    assert {s.memory_bytes for s in shares} == {8 * GIB}
    assert {s.sm_percent for s in shares} == {50}
    with pytest.raises(InputError, match="5 replicas need a core each"):
        arrangements_of(model(tmp_path), device(), even, (1, 5))
    with pytest.raises(InputError, match="no numbers of replicas"):
        arrangements_of(model(tmp_path), device(), even, (0, 1))


def test_on_a_gpu_one_engine_with_everything_is_the_baseline_of_both_questions(
    tmp_path: Path,
) -> None:
    gpu = device(DeviceKind.GPU)
    even = dataclasses.replace(split((0, 1, 2, 3)), mode=SharingMode.MEMORY)
    found = arrangements_of(model(tmp_path), gpu, even, (1, 2, 3))
    assert [len(a.replicas) for a in found] == [1, 2, 3]
    assert len({a.name for a in found}) == 3


def test_a_share_becomes_a_launch_in_one_place(tmp_path: Path) -> None:
    gpu = device(DeviceKind.GPU)
    share = DeviceShare(
        (1, 2), 8 * GIB, 64, sm_percent=30, extra_env=(("CUDA_MPS_PIPE_DIRECTORY", "/p"),)
    )
    started = launch_of(gpu, Replica(model(tmp_path), share))
    assert started.launch.extra_env == (
        ("CUDA_MPS_PIPE_DIRECTORY", "/p"),
        ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "30"),
    )
    assert started.launch.cores == (1, 2)
    assert started.launch.memory_bytes == 8 * GIB
    assert started.batch == started.launch.max_num_seqs == 64
    assert started.launch.visible_device == gpu.id
    with pytest.raises(InputError, match="does not fit"):
        launch_of(gpu, Replica(model(tmp_path), dataclasses.replace(share, memory_bytes=1000)))


def test_engines_stay_up_together_where_the_device_holds_them(tmp_path: Path) -> None:
    gpu = device(DeviceKind.GPU, gib=24)

    def arrangement(gib: int) -> Arrangement:
        shares = (DeviceShare((0,), gib * GIB, 2), DeviceShare((1,), gib * GIB, 2))
        replicas = tuple(Replica(model(tmp_path), share) for share in shares)
        return Arrangement("two", SharingMode.MEMORY, replicas)

    assert may_keep_up(gpu, [arrangement(10)])
    assert not may_keep_up(gpu, [arrangement(10), arrangement(12)])
    assert may_keep_up(device(gib=24), [arrangement(12)])


def window(*rates: float) -> CommonWindow:
    empty = tuple(Samples() for _ in rates)
    return CommonWindow(10.0, rates, tuple(1.0 for _ in rates), empty, tuple(4 for _ in rates))


def test_drift_of_the_machine_is_no_difference_between_arrangements(tmp_path: Path) -> None:
    """The machine speeds up by half while measuring; both arrangements see it."""
    arrangements = arrangements_of(model(tmp_path), device(), split((0, 1)), (1, 2))
    speeds = (1.0, 1.1, 1.3, 1.5)
    windows = {}
    for a in arrangements:
        rates = (60.0,) * len(a.replicas) if "1 core" in a.name else (100.0,)
        windows[a.name] = tuple(window(*(rate * s for rate in rates)) for s in speeds)
    found = evaluate(arrangements, windows)
    (difference,) = found.differences
    assert difference.ratio == pytest.approx(1.2)
    assert difference.shown
    ((_, sharing),) = found.sharing
    assert sharing.busy == pytest.approx(0.5)
    assert sharing.kappa == pytest.approx(0, abs=1e-9)
    assert {run.cores_each for _, run in found.runs} == {1, 2}
    assert sharing.runs == tuple(run for _, run in found.runs)


def test_the_names_of_a_pairs_arrangements_are_different() -> None:
    assert len({FIRST, BOTH, SECOND}) == 3


def test_an_engine_that_did_not_tell_its_preemptions_is_left_out() -> None:
    assert preempted([5.0, 1.0], [7.0, 4.0]) == 5
    assert preempted([None, 1.0], [7.0, 4.0]) == 3
    assert preempted([5.0, 1.0], [None, 4.0]) == 3
    assert preempted([None], [None]) == 0


def test_a_run_states_its_energy_and_what_the_load_generator_took(tmp_path: Path) -> None:
    """Energies of windows are added; means weigh by the length of the windows."""
    (arrangement,) = arrangements_of(model(tmp_path), device(), split((0,)), (1,))
    told = [
        dataclasses.replace(
            window(100.0),
            seconds=seconds,
            telemetry=Telemetry("test", power_watts=watts, energy_joules=watts * seconds),
            instrument_cpu=cpu,
            saturated=reasons,
        )
        for seconds, watts, cpu, reasons in [(10.0, 50.0, 0.1, ()), (30.0, 90.0, 0.9, ("late",))]
    ]
    found = evaluate([arrangement], {arrangement.name: tuple(told)})
    ((_, run),) = found.runs
    assert run.telemetry == Telemetry("test", power_watts=80.0, energy_joules=3200.0)
    assert run.instrument_cpu == 0.9
    (note,) = found.notes
    assert "saturated in 1 of 2 windows, so do not trust them: late" in note


def test_a_pair_states_what_the_load_generator_took(tmp_path: Path) -> None:
    replica = Replica(model(tmp_path), DeviceShare((0,), 4 * GIB, 2))
    busy = dataclasses.replace(window(50.0, 50.0), instrument_cpu=0.4)
    windows = {FIRST: (window(60.0),), BOTH: (busy,), SECOND: (window(60.0),)}
    shared = ((0.5, None), (0.5, None))
    run = evaluate_pair(SharingMode.CORES, (replica, replica), shared, windows)
    assert run.instrument_cpu == 0.4
