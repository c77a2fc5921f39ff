"""A requested model that does not fit gets room from idle models, waits its turn, or goes back."""

from partitiond.controller.demand.room_maker import VAIN_SECONDS
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import StartFailedError
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.placement_rules import PlacementRules
from partitiond.core.model.spec import Demand
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.step_down import MAX_TURN_SECONDS
from partitiond.core.units import GIB
from tests.controller.demand.test_scaling import ZERO, ScalingHost, spec_of
from tests.controller.samples import measured_profile
from tests.machine import until

make_host = ScalingHost


async def three(host: ScalingHost) -> None:
    """Models at zero, of which the first two were asked for and take all the room."""
    for name in "abc":
        await host.register(name, autoscale=ZERO, max_replicas=1)
    for name in "ab":
        await host.asked(name)


async def test_the_idle_give_up_their_room_for_who_is_asked_for(host: ScalingHost) -> None:
    await three(host)
    host.idle(a=5.0, b=9.0)
    host.clock.now += 50.0
    await host.asked("c")
    assert (host.serving("a"), host.serving("b"), host.serving("c")) == (1, 0, 1)
    assert host.service.scaling.view("b").scaled_to_zero


async def test_who_has_requests_keeps_its_room_and_the_asker_waits(host: ScalingHost) -> None:
    await three(host)
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    assert (host.serving("a"), host.serving("b")) == (1, 1)
    assert host.route("c") == (ModelAvailability.SLEEPING, True)
    host.idle(a=5.0)
    host.clock.now += 50.0
    await host.serves("c")
    assert (host.serving("a"), host.serving("b")) == (0, 1)


async def test_a_model_that_keeps_its_replica_is_never_evicted(host: ScalingHost) -> None:
    await host.register("kept", autoscale=Autoscale(), max_replicas=1)
    await host.register("told", demand=Demand(req_per_s=0.1), max_replicas=1)
    await host.service.plans.apply()
    await host.serves("kept")
    await host.serves("told")
    await host.register("c", autoscale=ZERO)
    host.idle(kept=1000.0, told=1000.0)
    host.clock.now += 50.0
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    assert (host.serving("kept"), host.serving("told")) == (1, 1)


async def test_who_is_woken_in_vain_goes_back_and_holds_nobody(host: ScalingHost) -> None:
    await host.register("big", demand=Demand(req_per_s=15.0))
    await host.service.plans.apply()
    await host.serves("big")
    await host.register("a", autoscale=ZERO)
    host.service.models.wake("a")
    assert not host.service.scaling.view("a").scaled_to_zero
    await host.passes(lambda: host.service.scaling.view("a").scaled_to_zero, 0.5)
    assert host.serving("big") == 2


async def test_a_busy_model_gives_its_room_in_turns(host: ScalingHost) -> None:
    await three(host)
    host.idle(a=0.0, b=0.0)
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    assert (host.serving("a"), host.serving("b")) == (1, 1)
    host.clock.now += MAX_TURN_SECONDS
    await host.serves("c")
    gone, stays = ("a", "b") if host.serving("b") else ("b", "a")
    assert (host.serving(gone), host.serving(stays)) == (0, 1)
    host.proxy.waiting = {gone: 1}
    await until(lambda: host.kinds().count("model-waits") == 2)
    host.clock.now += MAX_TURN_SECONDS
    await host.serves(gone)


async def test_who_no_plan_places_gives_the_room_back_and_pauses(host: ScalingHost) -> None:
    await host.told("pinned", demand=Demand(req_per_s=0.1), max_replicas=1)
    await host.register("a", autoscale=ZERO, max_replicas=1)
    await host.asked("a")
    rules = PlacementRules(avoid=("pinned",))
    await host.register("c", autoscale=ZERO, max_replicas=1, rules=rules)
    host.idle(a=0.0)
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    host.clock.now += MAX_TURN_SECONDS
    await until(lambda: not host.serving("a"))
    host.proxy.waiting = {"c": 1, "a": 1}
    await host.passes(lambda: host.serving("a") == 1, 0.5)
    assert host.service.scaling.view("c").scaled_to_zero
    host.proxy.waiting = {}
    host.clock.now += MAX_TURN_SECONDS
    assert host.service.parts.room.make_room({"c": 200.0}) == frozenset()
    host.clock.now += VAIN_SECONDS
    assert host.service.parts.room.make_room({"c": 200.0}) == {"c"}


async def test_an_idle_model_that_is_in_the_way_of_a_plan_goes(host: ScalingHost) -> None:
    await host.register("a", autoscale=ZERO, max_replicas=1)
    await host.asked("a")
    rules = PlacementRules(avoid=("a",))
    await host.register("c", autoscale=ZERO, max_replicas=1, rules=rules)
    host.idle(a=20.0)
    host.clock.now += 20.0
    host.proxy.waiting = {"c": 1}  # there is room, but not beside the other
    await host.passes(lambda: host.serving("c") == 1, 0.5)
    assert host.serving("a") == 0


async def test_who_the_proxy_does_not_report_loses_no_turn(host: ScalingHost) -> None:
    await three(host)
    sleep = host.service.parts.controller.sleep
    host.proxy.unreported = {"a", "b"}
    await until(lambda: sleep.traffic.keys() == {"c"})
    host.clock.now += MAX_TURN_SECONDS
    assert host.service.parts.room.make_room({"c": 200.0}) == frozenset()
    host.proxy.unreported = set()
    await until(lambda: "a" in sleep.traffic)
    assert host.service.parts.room.make_room({"c": 200.0}) == {"c"}


async def test_nobody_goes_for_room_that_a_profile_job_holds(host: ScalingHost) -> None:
    for name in "ab":
        await host.register(name, autoscale=ZERO, max_replicas=1)
    # It needs both cores, and the job holds the one that `a` does not.
    host.store.add_profile(measured_profile("c", cores=2))
    await host.service.models.register(spec_of("c", autoscale=ZERO, max_replicas=1))
    await host.asked("a")
    host.profiler.gate.clear()
    await host.service.models.profile("b", ProfileOptions(cores=1))  # holds the other core
    await until(lambda: bool(host.profiler.requests))
    host.idle(a=50.0)
    host.clock.now += 50.0
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    assert host.serving("a") == 1
    host.profiler.gate.set()
    await host.serves("c")


async def test_who_is_asked_for_waits_for_no_profile(host: ScalingHost) -> None:
    for name in "abc":
        await host.register(name, autoscale=ZERO, max_replicas=1)
    await host.asked("a")
    host.profiler.gate.clear()
    await host.service.models.profile("b", ProfileOptions(cores=1, memory_bytes=4 * GIB))
    await until(lambda: bool(host.profiler.requests))
    host.idle(a=50.0)
    host.clock.now += 50.0
    (request,) = host.profiler.requests
    await host.asked("c")
    assert host.serving("a") == 0
    (placed,) = [launch for launch in host.runner.launches if launch.model_name == "c"]
    assert set(placed.cores).isdisjoint(request.cores)
    (job,) = host.service.jobs.jobs()
    assert job.state is JobState.RUNNING
    host.profiler.gate.set()


async def test_a_model_that_does_not_start_makes_room_for_others(host: ScalingHost) -> None:
    for name in "abc":
        await host.register(name, autoscale=ZERO, max_replicas=1)
    await host.asked("a")
    host.runner.refuse_models["b"] = StartFailedError("its files are no model.")
    host.proxy.waiting = {"b": 1}
    for failed in range(HOPELESS_FAILURES):
        await until(lambda n=failed: host.kinds().count("engine-failed") > n)  # type: ignore[misc]
        host.clock.now += 60.0
    host.proxy.waiting = {}
    host.idle(b=5.0)
    host.clock.now += 50.0
    await host.asked("c")
    assert host.service.scaling.view("b").scaled_to_zero
    assert host.serving("a") == 1
