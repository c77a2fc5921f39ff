"""Replicas run side by side on engines of known speed, and leave nothing behind."""

import asyncio
from typing import Any

import pytest

from partitiond.core.errors import EngineError, InputError
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.profile.points import Telemetry
from partitiond.core.profile.sharing import PairRun
from partitiond.core.units import GIB
from partitiond.devices.telemetry.fake import FakeTelemetry
from partitiond.platform.clock import SystemClock
from partitiond.profiler.pairs.arrangement import Arrangement, DeviceShare, Replica
from partitiond.profiler.pairs.pairs import measure_pair, require_one_group
from partitiond.profiler.pairs.replication import EvenSplit, ReplicationMeasurement, replicate
from partitiond.profiler.pairs.side_by_side import WindowPlan, measure, preempted
from partitiond.profiler.sweep.bench import Bench
from tests.profiler.conftest import EngineTraits
from tests.profiler.samples import TOLD, device, model

QUICK = WindowPlan(rounds=2, seconds=6.0)
SPLIT = EvenSplit(SharingMode.CORES, (0, 1), 16 * GIB, lambda _: 2)
ONE = Replica(model(), DeviceShare((0,), 4 * GIB, 1))


def bench_of(engines: Any, telemetry: Any = None) -> Bench:
    return Bench(engines, SystemClock(), device(), telemetry, 60.0, 5.0, None)


async def replicated(
    engines: Any, *counts: int, plan: WindowPlan = QUICK, telemetry: Any = None
) -> ReplicationMeasurement:
    bench = bench_of(engines, telemetry)
    return await replicate(bench, model(), SPLIT, counts=counts, plan=plan, tell=lambda _: None)


async def test_two_replicas_that_share_nothing_give_twice_the_sum(engines: Any) -> None:
    """The replica alone is one of the pair, and each engine is started once."""
    telemetry = FakeTelemetry(TOLD)
    found = await replicated(engines, 1, 2, telemetry=telemetry)
    launches = [engine.launch for engine in engines.engines]
    assert sorted(len(launch.cores) for launch in launches) == [1, 1, 2]
    assert {launch.max_num_seqs for launch in launches} == {2}
    loaded = [pids for _, pids, _ in telemetry.windows if len(pids) == 2]
    assert len(loaded) >= QUICK.rounds
    (whole, one), (alone_name, alone), (pair_name, two) = sorted(
        found.runs, key=lambda r: (r[1].replicas, "one of" in r[0])
    )
    assert (one.replicas, alone.replicas, two.replicas) == (1, 1, 2)
    assert "one of 2" in alone_name
    assert two.windows == one.windows == QUICK.rounds
    assert two.output_tokens_per_s == pytest.approx((40.0, 40.0), rel=0.1)
    assert alone.total_output_tokens_per_s == pytest.approx(40.0, rel=0.1)
    (difference,) = found.differences
    assert (difference.name, difference.baseline) == (pair_name, whole)
    assert difference.ratio == pytest.approx(2, rel=0.05)
    ((cores, sharing),) = found.sharing
    assert cores == 1
    assert sharing.busy == pytest.approx(0.5, abs=0.05)
    assert sharing.kappa == pytest.approx(0.0, abs=0.05)
    assert two.tpot_p95_seconds == pytest.approx(0.05, rel=0.05)
    assert two.telemetry is not None
    assert two.telemetry.cores_used == found.idle_cores == 0.25
    assert engines.running == 0


async def test_where_memory_does_not_hold_all_engines_each_arrangement_has_its_own(
    engines: Any,
) -> None:
    await replicated(engines, 1, 2, plan=WindowPlan(rounds=1, seconds=6.0, keep_up=False))
    assert len(engines.engines) == engines.stops == 4


async def test_the_order_is_reversed_from_round_to_round(engines: Any) -> None:
    arrangements = [Arrangement(name, SharingMode.CORES, (ONE,)) for name in ("a", "b")]
    said: list[str] = []
    plan = WindowPlan(rounds=3, seconds=2.0)
    windows = await measure(bench_of(engines), arrangements, plan, lambda p: said.append(p.message))
    order = [text[0] for text in said if ", window" in text]
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in windows.items()} == {"a": 3, "b": 3}


async def paired(
    engines: Any, mode: SharingMode, replicas: tuple[Replica, Replica], busy: float
) -> PairRun:
    shared, bench = ((busy, None), (busy, None)), bench_of(engines)
    return await measure_pair(bench, mode, replicas, shared, plan=QUICK, tell=lambda _: None)


async def test_a_pair_is_predicted_from_its_singles_and_then_measured(engines: Any) -> None:
    engines.traits_of["slow"] = EngineTraits(base_seconds=0.2)
    quick = Replica(model("quick"), DeviceShare((0,), 4 * GIB, 2))
    slow = Replica(model("slow"), DeviceShare((0,), 4 * GIB, 1))
    run = await paired(engines, SharingMode.CORES, (quick, slow), 0.0)
    assert (run.models, run.batches) == (("quick", "slow"), (2, 1))
    assert run.predicted_output_tokens_per_s == run.alone_output_tokens_per_s
    assert run.alone_output_tokens_per_s == pytest.approx((40.0, 1 / 0.205), rel=0.1)
    predicted = pytest.approx(run.predicted_output_tokens_per_s, rel=0.05)
    assert run.measured_output_tokens_per_s == predicted


async def test_models_of_two_isolation_groups_are_not_measured_under_one_mps_daemon(
    engines: Any,
) -> None:
    share = DeviceShare((0,), 4 * GIB, 1, mode=SharingMode.MPS)
    a, b = (Replica(model(isolation_group=group), share) for group in "ab")
    with pytest.raises(InputError, match="an MPS daemon serves one group") as refused:
        await paired(engines, SharingMode.MPS, (a, b), 0.5)
    assert "another sharing mode" in refused.value.hint
    assert engines.engines == []
    require_one_group(SharingMode.MPS, (a, a))
    require_one_group(SharingMode.MEMORY, (a, b))
    shared = a.share.partition_on(device(), "a")
    assert getattr(shared, "isolation_group", None) == "a"


async def test_an_engine_that_dies_ends_the_measurement_and_leaves_nothing(
    engines: Any, traits: Any
) -> None:
    traits.dies_at_batch = 2
    with pytest.raises(EngineError, match=r"2 on 1 core|one of 2"):
        await replicated(engines, 2)
    assert engines.running == 0


class Slow:
    """A source of telemetry that takes a moment to close."""

    def __init__(self, events: list[str]) -> None:
        self.events = events
        self.opened = asyncio.Event()

    async def open(self, device: Device, pids: tuple[int, ...]) -> "Slow":
        self.opened.set()
        return self

    async def close(self) -> Telemetry | None:
        for _ in range(20):
            await asyncio.sleep(0)
        self.events.append("closed")
        return None


async def test_whoever_cancels_leaves_no_engine_and_no_window_open(engines: Any) -> None:
    """The device is not listened to after the engines are gone."""
    slow = Slow(engines.events)
    one = Arrangement("a", SharingMode.CORES, (ONE,))
    plan = WindowPlan(rounds=50, seconds=300.0)
    task = asyncio.create_task(measure(bench_of(engines, slow), [one], plan, lambda _: None))
    await slow.opened.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engines.events == ["closed", "stop"]
    assert engines.running == 0


def test_an_engine_that_did_not_tell_its_preemptions_is_left_out() -> None:
    assert preempted([5.0, 1.0], [7.0, 4.0]) == 5
    assert preempted([None, 1.0], [7.0, 4.0]) == 3
    assert preempted([5.0, 1.0], [None, 4.0]) == 3
    assert preempted([None], [None]) == 0
