"""Sleeping models are drained, put to sleep, and woken by hand, by a request or by rule."""

import dataclasses
import math
from collections.abc import AsyncIterator

import pytest

from partitiond.controller.runtime.sleeping import check_may_sleep
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import ConflictError, EngineError, InputError, StoreError
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import EngineOptions, Weights
from partitiond.core.plan.record import Placement
from partitiond.core.profile.points import SleepingFootprint
from partitiond.core.replica.sleep import STOPPED
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import MIB, Bytes
from partitiond.store import Store
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement, plan, record, spec

CAN_SLEEP = EngineOptions(sleep_mode=True)
SLEEPING = ReplicaState.SLEEPING


def sleeper(replica_id: str = "a-1", core: int = 0) -> Placement:
    base = placement(replica_id, [core])
    asleep = SleepingFootprint(Bytes(100 * MIB), Bytes(50 * MIB))
    return dataclasses.replace(base, candidate=dataclasses.replace(base.candidate, asleep=asleep))


@pytest.fixture
async def bench(store: Store) -> AsyncIterator[Bench]:
    store.add_model(record("a", engine=CAN_SLEEP, sleep_after_seconds=60.0))
    store.add_model(record("b"))
    here = Bench(store)
    yield here
    await here.close()


async def asleep(bench: Bench, *placements: Placement) -> None:
    """Model a sleeps; everything else serves."""
    await bench.run(*(placements or (sleeper(),)))
    bench.controller.sleep.put_to_sleep("a", 1, "as asked")
    await bench.passes(8)
    assert bench.states()["a-1"] is SLEEPING


async def test_a_model_finishes_what_runs_and_falls_asleep(bench: Bench) -> None:
    await bench.run(sleeper())
    bench.proxy.counts = {"a-1": 2}
    bench.controller.sleep.put_to_sleep("a", 2, "as asked")
    await bench.passes(8)
    assert bench.states() == {"a-1": ReplicaState.QUIESCING}
    assert bench.routed() == {"a-1": True}
    assert bench.runner.slept == []
    bench.proxy.counts = {}
    await bench.passes()
    assert bench.states() == {"a-1": SLEEPING}
    assert bench.runner.slept == [("a-1", 2)]
    assert bench.routed() == {}
    assert bench.proxy.table.models[0].availability is ModelAvailability.SLEEPING
    assert bench.proxy.table.models[0].holds


async def test_a_request_wakes_it_waits_meanwhile_and_it_is_routed_again(bench: Bench) -> None:
    await asleep(bench)
    bench.runner.asleep_gate.clear()
    for waiting, state in ((None, SLEEPING), ({"a": 1}, ReplicaState.WAKING)):
        bench.proxy.waiting = waiting  # None: the proxy cannot be asked
        await bench.controller.sleep.look(dict)
        await bench.passes()
        assert bench.states() == {"a-1": state}
    route = bench.proxy.table.models[0]
    assert (route.availability, route.holds) == (ModelAvailability.SLEEPING, True)
    bench.runner.asleep_gate.set()
    await bench.passes()
    assert bench.runner.woken == ["a-1"]
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    assert bench.routed() == {"a-1": False}
    assert len(bench.runner.launches) == 1
    assert {"model-sleeps", "engine-asleep", "model-wakes"} <= set(bench.kinds())


async def test_an_engine_that_does_not_wake_is_ended_and_started_again(bench: Bench) -> None:
    await asleep(bench)
    bench.runner.refuse_wake = EngineError("a-1 failed at /wake_up: HTTP 500.")
    bench.controller.sleep.wake("a", "as asked")
    await bench.passes()
    assert any("HTTP 500" in event.message for event in bench.store.events())
    assert bench.runner.stopped == ["a-1"]
    assert bench.states() == {"a-1": ReplicaState.SERVING}


async def test_an_engine_that_fails_to_fall_asleep_is_ended_and_not_started_again(
    bench: Bench,
) -> None:
    await bench.run(sleeper())
    bench.runner.refuse_sleep = EngineError("Memory usage increased after sleeping.")
    bench.controller.sleep.put_to_sleep("a", 1, "as asked")
    await bench.passes(8)
    bench.clock.now += 100.0
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.FAILED}
    assert len(bench.runner.launches) == 1
    assert bench.proxy.table.models[0].availability is ModelAvailability.SLEEPING


async def test_a_sleeper_is_adopted_asleep_and_woken(bench: Bench) -> None:
    await bench.found(sleeper())
    bench.runner.levels["a-1"] = 2
    bench.store.set_mark("asleep", "a", "2")
    bench.controller.apply(plan(sleeper()))
    await bench.controller.adopt()
    assert bench.states() == {"a-1": SLEEPING}
    await bench.passes()
    assert bench.runner.launches == []
    (engine,) = bench.controller.engines
    assert engine.sleep_level == 2
    bench.controller.sleep.wake("a", "as asked")
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    assert bench.proxy.table.replicas[0].kv_cache_tokens == 4096
    bench.controller.sleep.put_to_sleep("a", 1, "as asked")
    await bench.passes(8)
    assert bench.states() == {"a-1": SLEEPING}
    bench.runner.engines["a-1"].answers = False  # it hangs, which is noticed
    await engine.ended()
    assert engine.state is ReplicaState.FAILED


@pytest.mark.parametrize("overtaken", ["", "another head took over."])
async def test_a_model_without_requests_falls_asleep_by_its_rule(
    bench: Bench, overtaken: str
) -> None:
    """Unless the head was overtaken."""
    await bench.run(sleeper())
    bench.controller.sleep._overtaken = lambda: overtaken
    since = {"a": bench.clock.now}
    bench.proxy.idle_seconds = {"a": 3600.0}  # from before it was here
    await bench.controller.sleep.look(lambda: since)
    assert "model-sleeps" not in bench.kinds()
    bench.clock.now += 60.0
    await bench.controller.sleep.look(lambda: since)
    assert bench.controller.sleep.levels == ({} if overtaken else {"a": 1})
    await bench.passes(8)
    assert bench.states() == {"a-1": ReplicaState.SERVING if overtaken else SLEEPING}


async def test_a_model_that_was_given_up_goes_to_zero_if_it_may_and_does_not_sleep(
    bench: Bench,
) -> None:
    bench.store.add_model(record("c", autoscale=Autoscale(scale_to_zero_seconds=60.0)))
    await bench.run()
    bench.proxy.idle_seconds = {"a": 3600.0, "c": 3600.0}
    await bench.controller.sleep.look(lambda: {"a": -math.inf, "c": -math.inf})
    assert bench.controller.sleep.levels == {"c": STOPPED}


def holds_requests(bench: Bench) -> bool:
    return bench.proxy.table.models[0].holds


async def test_without_waking_on_request_clients_hear_that_it_sleeps(bench: Bench) -> None:
    bench.controller._routes = dataclasses.replace(bench.controller._routes, wake_on_request=False)
    await asleep(bench)
    assert not holds_requests(bench)
    bench.runner.asleep_gate.clear()
    bench.controller.sleep.wake("a", "as asked")
    await bench.passes()
    assert holds_requests(bench)  # it is being woken: who comes now waits
    bench.runner.asleep_gate.set()


@pytest.mark.parametrize(
    ("changes", "level", "already", "error", "words"),
    [
        ({}, 1, 0, ConflictError, "no sleep mode"),
        ({"engine": CAN_SLEEP}, 3, 0, InputError, "level 3"),
        ({"engine": CAN_SLEEP}, 2, 1, ConflictError, "is asleep at level 1 already"),
        ({"engine": CAN_SLEEP, "weights": Weights.DUMMY}, 2, 0, ConflictError, "random weights"),
    ],
)
def test_what_cannot_sleep_is_refused_with_what_to_do(
    changes: dict[str, object], level: int, already: int, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        check_may_sleep(spec("a", **changes), level, already)
    assert getattr(caught.value, "hint", "")


async def test_a_mark_that_the_store_did_not_have_yet_goes_with_its_model(bench: Bench) -> None:
    sleep, store = bench.controller.sleep, bench.store
    stored = store.set_mark
    refusals = iter([True, True])  # as it is marked, and as the marks are looked at once more

    def set_mark(kind: str, subject: str, value: str | None, at: str = "") -> None:
        if next(refusals, False):
            raise StoreError("the disk is full.")
        stored(kind, subject, value, at)

    store.set_mark = set_mark  # type: ignore[method-assign]
    sleep.put_to_sleep("a", 1, "as asked")
    assert sleep.levels == {"a": 1}
    sleep.forget("a")
    assert sleep.refresh() == {}
    assert store.marks("asleep") == {}
