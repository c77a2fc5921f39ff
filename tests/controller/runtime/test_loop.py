"""The loop starts, routes, drains and adopts engines, and survives faults, on fakes."""

import asyncio
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.runtime.launches import launch_for
from partitiond.controller.runtime.loop import Controller, LoopCallbacks
from partitiond.controller.runtime.proxy_process import Endpoint
from partitiond.controller.runtime.routes import RoutePolicy
from partitiond.controller.runtime.sleeping import SleepController
from partitiond.controller.runtime.watching import DeviceWatch, ModelFiles
from partitiond.controller.views.records import PlacedView, placed_views
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import EngineError, EngineUnavailableError
from partitiond.core.hardware.kinds import Device
from partitiond.core.plan.record import Placement
from partitiond.core.replica.engine import EngineLaunch
from partitiond.core.replica.states import ReplicaState
from partitiond.devices.fake import FakeDevices
from partitiond.ports import Store
from partitiond.store import open_store
from tests.controller.fakes import (
    POLICY,
    FakeClock,
    FakeEngine,
    FakeProxy,
    FakeResolver,
    FakeRunner,
    a_moment,
    ignored,
    start_timed_out,
    until,
)
from tests.controller.samples import cpu, placement, plan, record


class Bench:
    """A controller with everything around it faked but the store."""

    def __init__(self, store: Store, runner: FakeRunner | None = None) -> None:
        self.store = store
        self.runner = runner or FakeRunner()
        self.proxy = FakeProxy()
        self.clock = FakeClock()
        self.devices = FakeDevices([cpu()])
        wake = asyncio.Event()
        journal = Journal(store, self.clock)
        self.resolver = FakeResolver()
        self.files = ModelFiles(self.resolver, self.clock, wake.set, 30.0)
        self.watch = DeviceWatch(
            self.devices, self.clock, marked=tuple, after_look=ignored, troubled=ignored
        )
        self.after_passes = 0
        endpoint = Endpoint(
            self.proxy, store=store, clock=self.clock, journal=journal, wake=wake.set
        )
        self.controller = Controller(
            store=store,
            runner=self.runner,
            endpoint=endpoint,
            devices=self.watch,
            files=self.files,
            clock=self.clock,
            journal=journal,
            policy=POLICY,
            routes=RoutePolicy(),
            wake=wake,
            sleep=SleepController(
                store=store,
                endpoint=endpoint,
                clock=self.clock,
                journal=journal,
                policy=POLICY,
                wake=wake.set,
                changed=ignored,
                make_room=lambda _: True,
            ),
            callbacks=LoopCallbacks(
                lent=tuple,
                measuring=tuple,
                spec_for=lambda spec, _: spec,
                withheld=lambda: lambda _: False,
                failed_before=lambda _: 0,
                after_pass=self._after_pass,
                looked=ignored,
                replacing=ignored,
            ),
        )

    def _after_pass(self) -> None:
        self.after_passes += 1

    async def passes(self, count: int = 6) -> None:
        for _ in range(count):
            await self.controller.one_pass()
            assert not self.controller.problem
            await a_moment()

    async def run(self, *placements: Placement, plan_id: str = "plan-1") -> None:
        self.controller.apply(plan(*placements, plan_id=plan_id))
        await self.passes()

    def states(self) -> dict[str, ReplicaState]:
        return {engine.name: engine.state for engine in self.controller.engines}

    def routed(self) -> dict[str, bool]:
        """Engine name to whether it drains."""
        return {route.replica_id: route.draining for route in self.proxy.table.replicas}

    def launch(self, wanted: Placement, name: str = "") -> EngineLaunch:
        model = self.files.get(self.store.model(wanted.model).spec)
        assert model is not None
        return launch_for(wanted, model, cpu(), name=name or wanted.replica_id)

    def planned_devices(self) -> tuple[Device, ...]:
        plan = self.controller.plan
        return () if plan is None else plan.devices

    def placed(self) -> tuple[PlacedView, ...]:
        here = self.controller
        return placed_views(
            here.desired,
            here.engines,
            name_for=here.name_for,
            asleep=here.sleep.levels,
            fetching={},
            hosts={"cpu": "h"},
        )

    def kinds(self) -> list[str]:
        return [event.kind for event in self.store.events()]


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    store = open_store(":memory:")
    store.add_model(record("a"))
    store.add_model(record("b"))
    here = Bench(store)
    yield here
    await here.controller.detach()
    await here.files.close()
    store.close()


async def test_an_applied_plan_comes_to_serve_and_is_routed(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    assert bench.states() == {"a-1": ReplicaState.SERVING, "b-1": ReplicaState.SERVING}
    assert bench.routed() == {"a-1": False, "b-1": False}
    route = bench.proxy.table.replicas_of("a")[0]
    assert (route.max_sequences, route.kv_cache_tokens, route.max_model_len) == (4, 4096, 256)
    launch = bench.runner.launches[0]
    assert (launch.cores, launch.max_num_seqs) == ((0,), 4)


async def test_nothing_changes_once_the_plan_runs(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    published = len(bench.proxy.tables)
    await bench.passes(5)
    assert len(bench.proxy.tables) == published
    assert len(bench.runner.launches) == 1


async def test_a_dead_engine_leaves_the_routes_at_once_and_comes_back(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.runner.die("a-1", diagnosis="out of memory")
    await a_moment()
    await bench.controller.one_pass()
    assert bench.routed() == {}
    assert bench.states() == {"a-1": ReplicaState.FAILED}
    assert bench.proxy.table.models[0].availability is ModelAvailability.STARTING
    bench.clock.now += 1.0
    await bench.passes()
    assert bench.routed() == {"a-1": False}
    assert bench.controller.engines[0].starts == 2
    assert any("out of memory" in event.message for event in bench.store.events())


async def test_a_hung_engine_is_noticed_ended_and_started_again(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.runner.engines["a-1"].answers = False
    engine = bench.controller.engines[0]
    async with asyncio.timeout(240):
        await engine.ended()
    assert engine.state is ReplicaState.FAILED
    assert "one-token probes" in engine.last_error
    assert bench.runner.stopped == ["a-1"]


async def test_an_engine_that_never_becomes_ready_backs_off_with_its_diagnosis(
    bench: Bench,
) -> None:
    runner = bench.runner
    runner._ready_at_once = False
    await bench.run(placement("a-1"))
    runner.engines["a-1"].fails_with = start_timed_out()
    runner.engines["a-1"].ready.set()
    await a_moment()
    await bench.passes(3)
    (engine,) = bench.controller.engines
    assert (engine.state, engine.failures) == (ReplicaState.FAILED, 1)
    assert "within 600 s" in engine.last_error
    assert len(runner.launches) == 1
    bench.clock.now += 1.0
    await bench.passes(2)
    assert len(runner.launches) == 2


async def test_a_missing_engine_environment_is_an_error_on_the_replica_only(bench: Bench) -> None:
    bench.runner.refuse_start = EngineUnavailableError(
        "there is no engine.", hint="Run `partitiond setup engine install`."
    )
    await bench.run(placement("a-1"))
    (engine,) = bench.controller.engines
    assert engine.state is ReplicaState.FAILED
    assert "engine install" in engine.last_error


async def test_a_removed_replica_drains_until_its_requests_are_done(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    bench.proxy.counts = {"a-1": 2}
    bench.controller.apply(plan(placement("b-1", [1]), plan_id="plan-2"))
    await bench.passes()
    assert bench.states()["a-1"] is ReplicaState.DRAINING
    assert bench.routed() == {"a-1": True, "b-1": False}
    assert bench.runner.stopped == []
    bench.proxy.counts = {}
    await bench.passes()
    assert bench.runner.stopped == ["a-1"]
    assert bench.states() == {"b-1": ReplicaState.SERVING}


async def test_a_count_from_before_the_drain_was_published_is_not_believed(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.controller.apply(plan(plan_id="plan-2"))
    await bench.controller.one_pass()  # drains and publishes
    assert bench.states()["a-1"] is ReplicaState.DRAINING
    bench.proxy.die()  # and with it, what it was told
    bench.proxy.refuse_start = EngineUnavailableError("no")
    await a_moment()
    await bench.controller.one_pass()
    await bench.controller.one_pass()
    assert bench.runner.stopped == []


async def test_a_move_to_free_room_runs_both_until_the_new_one_serves(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]))
    bench.runner._ready_at_once = False
    bench.controller.apply(plan(placement("a-1", [1]), plan_id="plan-2"))
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING, "a-1.2": ReplicaState.STARTING}
    assert bench.routed() == {"a-1": False}
    bench.runner.engines["a-1.2"].ready.set()
    await bench.passes()
    assert bench.states() == {"a-1.2": ReplicaState.SERVING}
    assert bench.routed() == {"a-1.2": False}


async def test_running_engines_of_the_plan_are_adopted_without_a_start(bench: Bench) -> None:
    wanted = placement("a-1")
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    bench.runner.add(bench.launch(wanted))
    bench.controller.apply(plan(wanted))
    await bench.controller.adopt()
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    await bench.passes()
    assert bench.routed() == {"a-1": False}
    assert bench.runner.launches == []
    (engine,) = bench.controller.engines
    assert (engine.adopted, engine.starts) == (True, 0)


async def test_an_adopted_engine_with_requests_in_flight_keeps_its_route(bench: Bench) -> None:
    """The batch is full, and no probe is answered: new requests go there as before."""
    wanted = placement("a-1")
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    engine = bench.runner.add(bench.launch(wanted))
    engine.answers = False
    engine.ready.clear()
    await bench.proxy.ensure_running()
    bench.proxy.counts = {"a-1": 1}
    bench.controller.apply(plan(wanted))
    await bench.controller.adopt()
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    engine.answers = True
    engine.ready.set()
    await bench.passes()
    assert bench.routed() == {"a-1": False}
    assert bench.runner.launches == []


async def test_an_engine_that_was_too_busy_to_report_is_asked_again(bench: Bench) -> None:
    wanted = placement("a-1")
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    bench.runner.add(bench.launch(wanted))
    bench.runner.report_breaks_with = EngineError("it is busy.")
    await bench.proxy.ensure_running()
    bench.proxy.counts = {"a-1": 1}
    bench.controller.apply(plan(wanted))
    await bench.controller.adopt()
    await bench.passes()
    (engine,) = bench.controller.engines
    assert (engine.state, engine.report) == (ReplicaState.SERVING, None)
    bench.runner.report_breaks_with = None
    await until(lambda: engine.report is not None)


async def test_an_adopted_engine_that_is_idle_serves_once_it_answers(bench: Bench) -> None:
    wanted = placement("a-1")
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    engine = bench.runner.add(bench.launch(wanted))
    engine.answers = False
    engine.ready.clear()
    await bench.proxy.ensure_running()
    bench.proxy.counts = {"a-1": 0}
    bench.controller.apply(plan(wanted))
    adopting = asyncio.create_task(bench.controller.adopt())
    await a_moment()
    assert bench.states() == {"a-1": ReplicaState.STARTING}
    engine.answers = True
    engine.ready.set()
    await adopting
    assert bench.states() == {"a-1": ReplicaState.SERVING}


async def test_running_engines_that_nobody_wants_are_drained_and_stopped(bench: Bench) -> None:
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    bench.runner.add(bench.launch(placement("a-7")))
    await bench.controller.adopt()
    await bench.passes()
    assert bench.runner.stopped == ["a-7"]
    assert "replica-draining" in bench.kinds()


async def unread(bench: Bench, *, named: bool = True) -> FakeEngine:
    """An engine that runs and whose launch cannot be read."""
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    launch = dataclasses.replace(bench.launch(placement("a-1")), placement=None)
    engine = bench.runner.add(launch)
    engine.handle = dataclasses.replace(engine.handle, unread="no dtype", named=named)
    return engine


async def test_an_engine_that_cannot_be_read_finishes_what_runs_and_ends(bench: Bench) -> None:
    engine = await unread(bench)
    engine.answers = False  # nothing is asked of it
    bench.proxy.counts = {"a-1": 1}
    await bench.controller.adopt()
    assert bench.runner.stopped == []
    await bench.passes()
    assert bench.routed() == {"a-1": True}
    route = bench.proxy.table.replicas[0]
    assert (route.generation, route.model) == (engine.handle.generation, "a")
    assert bench.runner.stopped == []
    (event,) = [e for e in bench.store.events() if e.kind == "engine-unreadable"]
    assert (event.subject, "no dtype" in event.message) == ("a-1", True)
    bench.proxy.counts = {"a-1": 0}
    bench.clock.now += POLICY.count_seconds
    await bench.passes()
    assert bench.runner.stopped == ["a-1"]
    assert bench.states() == {}


@pytest.mark.parametrize(
    ("counts", "named"), [({"a-1": 1}, True), (None, True), ({}, False), ({"a-1": 0}, False)]
)
async def test_at_the_drain_deadline_an_engine_that_cannot_be_read_ends(
    bench: Bench, counts: dict[str, int] | None, named: bool
) -> None:
    """Also where its requests cannot be counted, as of one whose name is not known."""
    await unread(bench, named=named)
    bench.proxy.counts = counts
    await bench.controller.adopt()
    deadline = POLICY.reconcile.drain_deadline_seconds
    bench.clock.now += deadline - 1
    await bench.passes()
    assert bench.runner.stopped == []
    bench.clock.now += 2
    await bench.passes()
    assert bench.runner.stopped == ["a-1"]


async def test_an_engine_that_cannot_be_read_is_replaced_beside_it(bench: Bench) -> None:
    await unread(bench)
    bench.proxy.counts = {"a-1": 1}
    bench.controller.apply(plan(placement("a-1")))
    await bench.controller.adopt()
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.DRAINING, "a-1.2": ReplicaState.SERVING}
    assert bench.routed() == {"a-1": True, "a-1.2": False}


async def test_the_memory_of_an_engine_that_cannot_be_read_is_not_given_out(bench: Bench) -> None:
    engine = await unread(bench)
    taken = dataclasses.replace(engine.handle.launch, memory_bytes=cpu().memory_bytes)
    engine.handle = dataclasses.replace(engine.handle, launch=taken)
    bench.proxy.counts = {"a-1": 1}
    bench.controller.apply(plan(placement("b-1")))
    await bench.controller.adopt()
    await bench.passes()
    assert bench.runner.launches == []
    bench.proxy.counts = {}
    bench.clock.now += POLICY.count_seconds
    await bench.passes(12)
    assert [launch.replica_id for launch in bench.runner.launches] == ["b-1"]


async def test_of_a_plan_that_cannot_be_read_what_runs_stays(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite3"
    store = open_store(path)
    store.add_model(record("a"))
    store.set_plan(plan(placement("a-1"), plan_id="plan-7"))
    store.close()
    lose_the_plan(path)
    bench = Bench(open_store(path))
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    bench.runner.add(bench.launch(placement("a-1")))
    moved = placement("a-1", (1,))
    bench.runner.add(bench.launch(moved, "a-1.2"))
    await bench.controller.adopt()
    assert bench.planned_devices() == ()  # nobody has looked at them yet
    await bench.watch.refresh(0.0)
    bench.controller.name_devices()
    assert bench.planned_devices() == (cpu(),)
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
    await bench.controller.detach()
    await bench.files.close()
    bench.store.close()


def lose_the_plan(path: Path) -> None:
    with sqlite3.connect(path) as here:
        here.execute("UPDATE plan SET body = '{}'")
    here.close()


async def test_engines_a_profile_job_left_behind_are_stopped_at_once(bench: Bench) -> None:
    bench.files.get(bench.store.model("a").spec)
    await a_moment()
    launch = dataclasses.replace(bench.launch(placement("a-1")), placement=None)
    bench.runner.add(launch)
    await bench.controller.adopt()
    assert bench.runner.stopped == ["a-1"]
    assert bench.states() == {}


async def test_the_proxy_is_started_again_and_told_the_routes(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.proxy.die()
    await a_moment()
    published = len(bench.proxy.tables)
    await bench.controller.one_pass()
    assert bench.proxy.starts == 2
    assert len(bench.proxy.tables) == published + 1
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


async def test_after_a_lost_store_routes_are_published_above_what_the_proxy_has(
    bench: Bench,
) -> None:
    bench.proxy.newest = 500
    for _ in range(2):
        await bench.controller.one_pass()
    assert bench.proxy.table.version > 500


async def test_a_driver_that_does_not_answer_starts_and_stops_nothing(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]))
    bench.devices.refuse()
    bench.clock.now += POLICY.device_seconds
    bench.controller.apply(plan(placement("a-1", [0]), placement("b-1", [1]), plan_id="plan-2"))
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING}


async def test_stopping_everything_drains_first_and_leaves_nothing(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    bench.proxy.counts = {"a-1": 1}
    stopping = asyncio.create_task(bench.controller.stop_everything())
    await until(lambda: bench.runner.running() == ["a-1"])
    assert bench.routed() == {"a-1": True}
    bench.proxy.counts = {}
    await stopping
    assert bench.runner.running() == []
    assert bench.store.plan() is not None  # what was asked stays asked


async def test_who_asks_twice_does_not_wait_for_requests(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    bench.proxy.counts = {"a-1": 1}
    stopping = asyncio.create_task(bench.controller.stop_everything())
    await until(lambda: bench.states().get("a-1") is ReplicaState.DRAINING)
    bench.controller.hurry()
    await stopping
    assert bench.runner.running() == []


async def test_detaching_leaves_the_engines_running(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    await bench.controller.detach()
    assert bench.runner.running() == ["a-1"]
    assert bench.runner.stopped == []


async def test_an_engine_has_one_name_before_and_after_it_starts(bench: Bench) -> None:
    def named() -> dict[str, str]:
        return {placed.view.engine: placed.view.state for placed in bench.placed()}

    await bench.run(placement("a-1", [0]))
    assert named() == {"a-1": "serving"}
    bench.devices.refuse()  # nothing starts there yet
    bench.clock.now += POLICY.device_seconds
    bench.controller.apply(plan(placement("a-1", [1]), plan_id="plan-2"))
    await bench.passes()
    assert named() == {"a-1": "serving", "a-1.2": "pending"}
    bench.runner.die("a-1")
    await bench.passes()
    assert named() == {"a-1.2": "pending"}  # the name before it is free again, and not taken
    bench.devices.become([cpu()])
    bench.clock.now += POLICY.device_seconds
    await bench.passes()
    assert named() == {"a-1.2": "serving"}
    bench.runner.die("a-1.2")
    await bench.passes()
    bench.clock.now += POLICY.reconcile.backoff_max_seconds
    await bench.passes()
    assert named() == {"a-1.2": "serving"}
    assert bench.runner.running() == ["a-1.2"]


async def test_what_runs_and_what_is_to_come_are_told_apart(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]))
    bench.devices.refuse()
    bench.clock.now += POLICY.device_seconds
    moved = placement("a-1", [1])
    bench.controller.apply(plan(moved, plan_id="plan-2"))
    await bench.passes()
    size = moved.partition.memory_bytes
    memory = {p.view.engine: (p.view.held_bytes, p.view.coming_bytes) for p in bench.placed()}
    assert memory == {"a-1": (size, 0), "a-1.2": (0, size)}
    assert {p.view.replica_id for p in bench.placed()} == {"a-1"}
    bench.runner.die("a-1")
    bench.controller.apply(plan(placement("a-1", [0]), plan_id="plan-3"))
    await a_moment()
    (failed,) = bench.placed()  # it will be started again where it was
    assert (failed.view.state, failed.view.held_bytes, failed.view.coming_bytes) == (
        "failed", 0, size,
    )  # fmt: skip
    bench.controller.apply(plan(plan_id="plan-4"))
    assert [p.view.coming_bytes for p in bench.placed()] == [0]


async def test_the_place_a_replica_moves_to_is_not_lent_out(bench: Bench) -> None:
    await bench.run(placement("a-1", [0]))
    bench.devices.refuse()  # nothing starts there yet
    bench.clock.now += POLICY.device_seconds
    bench.controller.apply(plan(placement("a-1", [1]), plan_id="plan-2"))
    await bench.passes()
    assert bench.controller.held() == (
        ("a-1", placement("a-1", [0]).partition),
        ("a-1.2", placement("a-1", [1]).partition),
    )
    bench.controller.apply(plan(placement("a-1", [0]), plan_id="plan-3"))
    assert bench.controller.held() == (("a-1", placement("a-1", [0]).partition),)


async def test_a_defect_in_fetching_one_model_does_not_keep_the_others_from_starting(
    bench: Bench,
) -> None:
    bench.resolver.breaks["a"] = ZeroDivisionError("oops")
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    assert bench.states() == {"b-1": ReplicaState.SERVING}
    assert "ZeroDivisionError: oops" in bench.files.progress("a")
    bench.resolver.breaks.clear()
    bench.clock.now += 30.0
    await bench.passes()
    assert bench.states() == {"a-1": ReplicaState.SERVING, "b-1": ReplicaState.SERVING}


async def test_the_end_does_not_wait_for_ever_for_a_process_that_cannot_be_ended(
    bench: Bench,
) -> None:
    await bench.run(placement("a-1"))
    bench.runner.refuse_stop = EngineError("process 7 is left.")
    async with asyncio.timeout(240):
        await bench.controller.stop_everything()
    assert "engine-left" in bench.kinds()


async def test_nothing_is_begun_after_a_pass_while_everything_ends(bench: Bench) -> None:
    await bench.run(placement("a-1"))
    before = bench.after_passes
    await bench.controller.stop_everything()
    assert bench.after_passes == before > 0
