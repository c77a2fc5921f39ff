"""The loop starts, routes, drains and adopts engines, and survives faults, on fakes."""

import asyncio
import dataclasses
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from partitiond.controller.runtime.routes import RoutePolicy
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import EngineError, EngineUnavailableError, PartitiondError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.engine import EngineExit, EngineHandle
from partitiond.core.replica.states import ReplicaState
from partitiond.store import Store, open_store
from tests.controller.fakes import POLICY, FakeEngine, FakeRunner, a_moment, start_timed_out
from tests.controller.runtime.bench import Bench
from tests.controller.samples import cpu, placement, plan, record
from tests.machine import WAIT_SECONDS, until

MEASURED, ESTIMATED = ProfileKind.MEASURED, ProfileKind.ESTIMATED
SERVING, DRAINING, FAILED = ReplicaState.SERVING, ReplicaState.DRAINING, ReplicaState.FAILED


async def test_an_applied_plan_comes_to_serve_is_routed_and_then_rests(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    assert bench.states() == {"a-1": SERVING, "b-1": SERVING}
    assert bench.routed() == {"a-1": False, "b-1": False}
    route = bench.proxy.table.replicas_of("a")[0]
    assert (route.max_sequences, route.kv_cache_tokens, route.max_model_len) == (4, 4096, 256)
    launch = bench.runner.launches[0]
    assert (launch.cores, launch.max_num_seqs) == ((0,), 4)
    published = len(bench.proxy.tables)
    await bench.passes(5)
    assert (len(bench.proxy.tables), len(bench.runner.launches)) == (published, 2)


async def test_a_replica_that_is_ready_serves_once_the_endpoint_routes_to_it(bench: Bench) -> None:
    bench.controller.apply(plan(placement("a-1")))
    while bench.states() != {"a-1": SERVING}:
        await bench.passes(1)
    bench.proxy.newest = 500  # it refuses the next table
    await bench.passes(1)
    assert bench.placed()[0].view.state == "starting"
    await bench.passes(1)
    assert bench.placed()[0].view.state == "serving"


@pytest.mark.parametrize(("kind", "started"), [(MEASURED, 2), (ESTIMATED, 1)])
async def test_engines_whose_memory_was_measured_start_together_and_others_one_at_a_time(
    bench: Bench, kind: ProfileKind, started: int
) -> None:
    bench.runner._ready_at_once = False
    await bench.run(placement("a-1", [0], kind=kind), placement("b-1", [1], kind=kind))
    assert len(bench.runner.launches) == started


@pytest.mark.parametrize(("code", "why"), [(-9, "killed"), (-9, "out of memory"), (1, "its core")])
async def test_a_dead_engine_leaves_the_routes_at_once_and_comes_back(
    bench: Bench, code: int, why: str
) -> None:
    await bench.run(placement("a-1"))
    bench.runner.die("a-1", code, why)
    await a_moment()
    await bench.controller.one_pass()
    assert (bench.routed(), bench.states()) == ({}, {"a-1": ReplicaState.STARTING})
    assert bench.proxy.table.models[0].availability is ModelAvailability.STARTING
    await bench.passes()
    assert bench.routed() == {"a-1": False}
    (engine,) = bench.controller.engines
    assert engine.starts == 2
    assert any(why in event.message for event in bench.store.events())
    bench.runner.engines["a-1"].answers = False  # it hangs
    await asyncio.wait_for(engine.ended(), WAIT_SECONDS)
    assert (engine.state, bench.runner.stopped) == (FAILED, ["a-1"])
    assert "one-token probes" in engine.last_error


async def test_what_a_failed_device_took_along_is_not_started_there_again(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.devices.become([dataclasses.replace(cpu(), health=DeviceHealth.FAILED)])
    bench.runner.die("a-1")
    await bench.passes()
    assert bench.states() == {"a-1": FAILED}
    bench.devices.become([cpu()])
    bench.clock.now += POLICY.device_seconds
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING}


async def test_an_engine_that_does_not_start_backs_off_with_its_diagnosis(bench: Bench) -> None:
    runner = bench.runner
    runner._ready_at_once = False
    await bench.run(placement("a-1"))
    runner.engines["a-1"].fails_with = start_timed_out()
    runner.engines["a-1"].ready.set()
    await a_moment()
    runner.refuse_start = EngineUnavailableError("there is no engine.", hint="Install it.")
    for failures in (2, 3):  # the first restart is immediate
        await bench.passes(3)
        (engine,) = bench.controller.engines
        assert (engine.state, engine.failures) == (FAILED, failures)
        assert "Install it." in engine.last_error
        bench.clock.now += 1.0
    assert any("within 600 s" in event.message for event in bench.store.events())
    assert len(runner.launches) == 1


async def test_a_count_from_before_the_drain_was_published_is_not_believed(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.proxy.counts = {"a-1": 2}
    bench.clock.now += POLICY.count_seconds
    await bench.controller.one_pass()
    assert [engine.in_flight for engine in bench.controller.engines] == [2]
    bench.proxy.counts = {}
    bench.controller.apply(plan(plan_id="plan-2"))
    await bench.controller.one_pass()  # drains and publishes
    assert bench.states()["a-1"] is DRAINING
    bench.proxy.die()  # and with it, what it was told
    bench.proxy.refuse_start = EngineUnavailableError("no")
    await a_moment()
    for _ in range(2):
        await bench.controller.one_pass()
    assert bench.runner.stopped == []


async def test_no_count_is_believed_before_the_endpoint_knows_of_the_drain(bench: Bench) -> None:
    """It may send the engine a request until then."""
    await bench.run(placement("a-1"))
    bench.proxy.counts = {"a-1": 0}
    bench.proxy.refuse_publish = PartitiondError("it is busy.")
    bench.controller.apply(plan(plan_id="plan-2"))
    for _ in range(3):
        await bench.controller.one_pass()
        await a_moment()
    assert (bench.states()["a-1"], bench.runner.stopped) == (DRAINING, [])
    bench.proxy.refuse_publish = None
    await bench.passes()
    assert bench.runner.stopped == ["a-1"]


@pytest.mark.parametrize("in_flight", [None, 0, 1])
async def test_an_engine_of_the_plan_that_runs_is_adopted_without_a_start(
    bench: Bench, in_flight: int | None
) -> None:
    """Busy, with a full batch, it answers no probe and keeps its route; idle, it has to answer."""
    engine = await bench.found(placement("a-1"))
    if in_flight is not None:
        engine.answers = False
        engine.ready.clear()
        await bench.proxy.ensure_running()
        bench.proxy.counts = {"a-1": in_flight}
    bench.runner.report_breaks_with = EngineError("it is busy.") if in_flight else None
    bench.controller.apply(plan(placement("a-1")))
    adopting = asyncio.create_task(bench.controller.adopt())
    if in_flight == 0:
        await a_moment()
        assert bench.states() == {"a-1": ReplicaState.STARTING}
        engine.answers = True
        engine.ready.set()
    await adopting
    assert bench.states() == {"a-1": SERVING}
    engine.answers = True
    engine.ready.set()
    await bench.passes()
    assert bench.routed() == {"a-1": False}
    assert bench.runner.launches == []
    (owned,) = bench.controller.engines
    assert (owned.adopted, owned.starts) == (True, 0)
    assert (owned.report is None) == bool(in_flight)
    bench.runner.report_breaks_with = None
    await until(lambda: owned.report is not None)  # who was too busy to report is asked again


async def test_engines_of_one_name_that_are_found_at_once_get_two(bench: Bench) -> None:
    """Two hosts may have been away, while each was given the replica."""
    bench.controller.plan = plan(placement("a-1"))
    bench.controller.observe()  # has its files fetched
    await a_moment()
    fakes = [bench.runner.add(bench.launch(placement("a-1"))) for _ in range(2)]
    bench.runner.engines = {str(number): one for number, one in enumerate(fakes)}
    await bench.controller.adopt()
    assert list(bench.states()) == ["a-1", "a-1.2"]


async def test_engines_that_nobody_wants_end_those_of_profile_jobs_at_once(bench: Bench) -> None:
    await bench.found(placement("a-7"))
    await bench.found(placement("b-1"), placement=None)
    await bench.controller.adopt()
    assert bench.runner.stopped == ["b-1"]
    await bench.passes()
    assert bench.runner.stopped == ["b-1", "a-7"]
    assert "replica-draining" in bench.kinds()


async def unread(bench: Bench, *, named: bool = True, **changes: object) -> FakeEngine:
    """An engine that runs and whose launch cannot be read."""
    engine = await bench.found(placement("a-1"), "a-1", placement=None, **changes)
    engine.handle = dataclasses.replace(engine.handle, unread="no dtype", named=named)
    return engine


async def test_an_engine_that_cannot_be_read_is_replaced_beside_it_and_ends_its_requests_first(
    bench: Bench,
) -> None:
    engine = await unread(bench)
    engine.answers = False  # nothing is asked of it
    bench.proxy.counts = {"a-1": 1}
    bench.controller.apply(plan(placement("a-1")))
    await bench.controller.adopt()
    await bench.passes()
    assert bench.states() == {"a-1": DRAINING, "a-1.2": SERVING}
    assert bench.routed() == {"a-1": True, "a-1.2": False}
    (route,) = (route for route in bench.proxy.table.replicas if route.draining)
    assert (route.generation, route.model) == (engine.handle.generation, "a")
    assert bench.runner.stopped == []
    (event,) = [e for e in bench.store.events() if e.kind == "engine-unreadable"]
    assert (event.subject, "no dtype" in event.message) == ("a-1", True)
    bench.proxy.counts = {"a-1": 0}
    bench.clock.now += POLICY.count_seconds
    await bench.passes()
    assert (bench.runner.stopped, bench.states()) == (["a-1"], {"a-1.2": SERVING})


@pytest.mark.parametrize(
    ("counts", "named"), [({"a-1": 1}, True), (None, True), ({}, False), ({"a-1": 0}, False)]
)
async def test_at_the_drain_deadline_an_engine_that_cannot_be_read_ends(
    bench: Bench, counts: dict[str, int] | None, named: bool
) -> None:
    """Also where its requests cannot be counted, as of one whose name is not known."""
    await unread(bench, named=named, memory_bytes=cpu().memory_bytes)
    bench.proxy.counts = counts
    bench.controller.apply(plan(placement("b-1")))
    await bench.controller.adopt()
    bench.clock.now += POLICY.reconcile.drain_deadline_seconds - 1
    await bench.passes()
    assert (bench.runner.stopped, bench.runner.launches) == ([], []), "its memory is not given out"
    bench.clock.now += 2
    await bench.passes(12)
    assert bench.runner.stopped == ["a-1"]
    assert [launch.replica_id for launch in bench.runner.launches] == ["b-1"]


async def test_of_a_plan_that_cannot_be_read_what_runs_stays(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    before = open_store(path)
    before.add_model(record("a"))
    before.set_plan(plan(placement("a-1"), plan_id="plan-7"))
    before.close()
    with sqlite3.connect(path) as here:
        here.execute("UPDATE plan SET body = '{}'")
    here.close()
    bench = Bench(open_store(path))
    moved = placement("a-1", (1,))
    await bench.found(placement("a-1"))
    await bench.found(moved, "a-1.2")
    await bench.controller.adopt()
    assert bench.controller.plan is not None
    unnamed = bench.controller.plan.devices  # nobody has looked at them yet
    await bench.watch.refresh(0.0)
    bench.controller.name_devices()
    assert (unnamed, bench.controller.plan.devices) == ((), (cpu(),))
    await bench.passes()
    assert bench.routed() == {"a-1": False}  # one engine of each replica
    assert bench.runner.stopped == ["a-1.2"]
    assert bench.runner.launches == []
    (event,) = [e for e in bench.store.events() if e.kind == "body-set-aside"]
    assert event.subject == "plan plan-7"
    await bench.run(moved, plan_id="plan-8")
    await bench.passes()
    assert bench.routed() == {"a-1.2": False}
    assert bench.controller.plan == bench.store.plan()
    await bench.close()
    bench.store.close()


class OverHosts(FakeRunner):
    """Engines of two hosts, of which one does not answer."""

    async def returned(self) -> tuple[EngineHandle, ...]:
        return ()

    def knows(self, host: str) -> bool:
        return host != "away"


@pytest.mark.parametrize("runner", [FakeRunner(), OverHosts()])
async def test_engines_are_unheard_on_hosts_of_which_nobody_knows_what_runs(
    store: Store, runner: FakeRunner
) -> None:
    bench = Bench(store, runner)
    bench.devices.become([cpu(), dataclasses.replace(cpu(), id="far", host="away")])
    await bench.watch.refresh(0.0)
    here = placement("a-1")
    far = dataclasses.replace(here, device_id="far")
    unheard = (far,) if isinstance(runner, OverHosts) else ()
    assert bench.controller.unheard([here, far]) == unheard
    await bench.close()


async def test_the_proxy_is_started_again_and_told_newer_routes_than_it_has(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.proxy.die()
    await a_moment()
    published = len(bench.proxy.tables)
    bench.proxy.newest = 500  # it knows more than a store that was lost
    for _ in range(2):
        await bench.controller.one_pass()
    assert bench.proxy.starts == 2
    assert bench.kinds().count("proxy-ended") == 1
    assert len(bench.proxy.tables) == published + 1
    assert bench.proxy.table.version > 500
    assert bench.routed() == {"a-1": False}


async def test_the_same_table_is_told_again_where_keys_get_stale(bench: Bench) -> None:
    bench.controller.use(RoutePolicy(keys_stale_seconds=100.0), drain_deadline_seconds=9.0)
    await bench.controller.one_pass()
    told = len(bench.proxy.tables)
    bench.clock.now += 9.5
    await bench.controller.one_pass()
    assert len(bench.proxy.tables) == told
    bench.clock.now += 0.5
    await bench.controller.one_pass()
    assert bench.proxy.tables[told:] == [bench.proxy.tables[told - 1]]
    bench.controller.use(RoutePolicy(), drain_deadline_seconds=9.0)
    await bench.controller.one_pass()
    bench.clock.now += 1e6
    await bench.controller.one_pass()
    assert len(bench.proxy.tables) == told + 2


async def test_stopping_everything_drains_first_and_leaves_nothing(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    passes = bench.after_passes
    bench.proxy.counts = {"a-1": 1}
    stopping = asyncio.create_task(bench.controller.stop_everything())
    await until(lambda: bench.runner.running() == ["a-1"])
    assert bench.routed() == {"a-1": True}
    bench.controller.hurry()  # who asks twice does not wait for requests
    await stopping
    assert bench.runner.running() == []
    assert bench.store.plan() is not None  # what was asked stays asked
    assert bench.after_passes == passes > 0, "nothing is begun after a pass meanwhile"
    assert "engine-left" not in bench.kinds()


@pytest.mark.parametrize("ends", [True, False])
async def test_the_end_waits_for_all_that_can_be_ended_and_for_ever_for_none(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ends: bool
) -> None:
    await bench.run(placement("a-1"))
    launch = dataclasses.replace(bench.runner.launches[0], replica_id="left", placement=None)
    left, find, stop = bench.runner.add(launch).handle, bench.runner.find, bench.runner.stop
    answers, tries = asyncio.Event(), 0

    async def finds() -> Sequence[EngineHandle]:
        return [handle for handle in await find() if handle == left]

    async def stops(handle: EngineHandle, grace_seconds: float) -> EngineExit:
        nonlocal tries
        await answers.wait()
        tries += handle == left
        if not ends or (handle == left and tries == 1):
            raise EngineError("process 7 is left.")
        return await stop(handle, grace_seconds)

    monkeypatch.setattr(bench.runner, "find", finds)
    monkeypatch.setattr(bench.runner, "stop", stops)
    await bench.controller.adopt()
    if not ends:
        answers.set()
        await until(lambda: tries > POLICY.stop_tries_at_exit)
    stopping = asyncio.create_task(bench.controller.stop_everything())
    await a_moment()
    answers.set()
    await stopping
    assert bench.runner.running() == ([] if ends else ["a-1", "left"])
    assert bench.kinds().count("engine-left") == (0 if ends else 2)


async def test_an_engine_has_one_name_before_and_after_it_starts(bench: Bench) -> None:
    """Nothing starts while the driver does not answer: the place of a move is held, not lent."""

    def named() -> dict[str, tuple[str, int, int]]:
        views = [placed.view for placed in bench.placed()]
        return {view.engine: (view.state, view.held_bytes, view.coming_bytes) for view in views}

    old, moved = placement("a-1", [0]), placement("a-1", [1])
    size = moved.partition.memory_bytes
    await bench.run(old)
    bench.silence()
    bench.controller.apply(plan(moved, plan_id="plan-2"))
    await bench.passes()
    assert named() == {"a-1": ("serving", size, 0), "a-1.2": ("pending", 0, size)}
    assert {p.view.replica_id for p in bench.placed()} == {"a-1"}
    assert bench.controller.held() == (("a-1", old.partition), ("a-1.2", moved.partition))
    bench.runner.die("a-1")
    await bench.passes()
    assert list(named()) == ["a-1.2"]  # the name before it is free again, and not taken
    bench.devices.become([cpu()])
    bench.clock.now += POLICY.device_seconds
    await bench.passes()
    assert named() == {"a-1.2": ("serving", size, 0)}
    bench.runner.die("a-1.2")
    await a_moment()
    assert named() == {"a-1.2": ("failed", 0, size)}  # it will be started where it was
    bench.controller.apply(plan(plan_id="plan-3"))
    assert named() == {"a-1.2": ("failed", 0, 0)}


async def test_a_defect_in_fetching_one_model_does_not_keep_the_others_from_starting(
    bench: Bench,
) -> None:
    bench.resolver.breaks["a"] = ZeroDivisionError("oops")
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    assert bench.states() == {"b-1": SERVING}
    assert "ZeroDivisionError: oops" in bench.files.progress("a")
    bench.resolver.breaks.clear()
    bench.clock.now += 30.0
    await bench.passes()
    assert bench.states() == {"a-1": SERVING, "b-1": SERVING}
