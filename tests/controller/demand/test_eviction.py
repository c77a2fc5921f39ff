"""A requested model at zero that does not fit evicts idle models, waits, or goes back."""

from collections.abc import AsyncIterator, Mapping

import pytest

from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import StartFailedError
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import Demand
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.sleep import Traffic
from partitiond.core.units import GIB
from tests.controller.demand.test_scaling import ZERO, ScalingHost, scaling_host, spec_of
from tests.controller.fakes import until
from tests.controller.samples import measured_profile


@pytest.fixture
async def host() -> AsyncIterator[ScalingHost]:
    async with scaling_host() as here:
        yield here


async def two_of(host: ScalingHost, names: str) -> None:
    """Models at zero, of which the first two were asked for and take all the room."""
    for name in names:
        await host.register(name, autoscale=ZERO, max_replicas=1)
    for name in names[:2]:
        await host.asked(name)


async def test_the_idle_give_up_their_room_for_who_is_asked_for(host: ScalingHost) -> None:
    await two_of(host, "abc")
    host.idle(a=5.0, b=9.0)
    host.clock.now += 10.0
    await host.asked("c")
    assert (host.serving("a"), host.serving("b"), host.serving("c")) == (1, 0, 1)
    assert host.service.scaling.view("b").at_zero


async def test_who_has_requests_keeps_its_room_and_the_asker_waits(host: ScalingHost) -> None:
    await two_of(host, "abc")
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    assert (host.serving("a"), host.serving("b")) == (1, 1)
    assert host.route("c") == (ModelAvailability.SLEEPING, True)
    host.idle(a=5.0)
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
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    assert (host.serving("kept"), host.serving("told")) == (1, 1)


async def test_who_is_woken_in_vain_goes_back_and_holds_nobody(host: ScalingHost) -> None:
    await host.register("big", demand=Demand(req_per_s=15.0))
    await host.service.plans.apply()
    await host.serves("big")
    await host.register("a", autoscale=ZERO)
    host.service.models.wake("a")
    assert not host.service.scaling.view("a").at_zero
    await host.passes(lambda: host.service.scaling.view("a").at_zero, 0.1)
    assert host.serving("big") == 2


async def test_who_waits_longest_gets_the_room_first(host: ScalingHost) -> None:
    await two_of(host, "abcz")
    host.proxy.waiting = {"z": 1}
    await until(lambda: "model-waits" in host.kinds())
    host.clock.now += 1.0
    host.proxy.waiting = {"c": 1, "z": 1}
    await until(lambda: host.kinds().count("model-waits") == 2)
    host.idle(a=5.0)
    await host.serves("z")
    assert host.serving("c") == 0


async def test_a_wait_for_room_does_not_read_the_store_ten_times_a_second(
    host: ScalingHost,
) -> None:
    await two_of(host, "abc")
    host.proxy.waiting = {"c": 1}
    await until(lambda: "model-waits" in host.kinds())
    read: list[str] = []
    polls = 0
    profiles, traffic = host.store.profiles, host.proxy.traffic

    async def polled() -> Mapping[str, Traffic] | None:
        nonlocal polls
        polls += 1
        return await traffic()

    host.store.profiles = lambda name: (read.append(name), profiles(name))[1]  # type: ignore
    host.proxy.traffic = polled  # type: ignore[method-assign]
    await until(lambda: polls >= 20)
    assert len(read) < polls / 2


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
    (request,) = host.profiler.requests
    await host.asked("c")
    assert host.serving("a") == 0
    (placed,) = [launch for launch in host.runner.launches if launch.model_name == "c"]
    assert set(placed.cores).isdisjoint(request.cores)
    (job,) = host.service.jobs.jobs()
    assert job.state is JobState.RUNNING
    host.profiler.gate.set()


async def given_up(host: ScalingHost, name: str) -> None:
    """It is asked for, and none of its starts succeeds until nobody waits for it any more."""
    start = host.runner.start

    async def start_of_others(launch: EngineLaunch) -> EngineHandle:
        if launch.replica_id.startswith(name):
            raise StartFailedError("its files are no model.")
        return await start(launch)

    host.runner.start = start_of_others  # type: ignore[method-assign]
    host.proxy.waiting = {name: 1}
    for failed in range(HOPELESS_FAILURES):
        await until(lambda n=failed: host.kinds().count("engine-failed") > n)  # type: ignore[misc]
        host.clock.now += 60.0
    host.proxy.waiting = {}


async def test_a_model_that_does_not_start_makes_room_for_others(host: ScalingHost) -> None:
    for name in "abc":
        await host.register(name, autoscale=ZERO, max_replicas=1)
    await host.asked("a")
    await given_up(host, "b")
    host.idle(b=5.0)
    await host.asked("c")
    assert host.service.scaling.view("b").at_zero
    assert host.serving("a") == 1


async def test_a_model_that_does_not_start_goes_to_zero_when_nobody_asks(host: ScalingHost) -> None:
    await host.register("b", autoscale=ZERO)
    await given_up(host, "b")
    host.idle(b=29.0)
    assert not host.service.scaling.view("b").at_zero
    host.idle(b=31.0)
    await until(lambda: host.service.scaling.view("b").at_zero)
