"""A host that does not answer is no engine that does not answer."""

import asyncio
import dataclasses

import pytest

from partitiond.core.errors import HostSilentError
from partitiond.hosts.agents import Agents
from partitiond.hosts.engines import HostsEngines
from partitiond.hosts.together import Hosts
from partitiond.ports import ProfileRequest
from tests.controller.fakes import FakeClock, FakeRunner
from tests.controller.samples import spec
from tests.engine_fixtures import simulated_launch
from tests.hosts.pipes import Pipe, agent, piped
from tests.hosts.virtual_time import passes, virtual


def both() -> tuple[HostsEngines, FakeRunner, FakeRunner, Pipe]:
    one, two = FakeRunner(), FakeRunner()
    remote, pipe = piped(agent("two", two))
    agents = Agents([agent("one", one), remote])
    return HostsEngines(agents, ask_again_seconds=0.005), one, two, pipe


@virtual
async def test_each_engine_runs_on_the_host_of_its_launch() -> None:
    engines, one, two, _ = both()
    for name, host in (("a-1", "one"), ("a-2", "two"), ("a-3", "")):
        launch = dataclasses.replace(simulated_launch(name), host=host)
        assert (await engines.start(launch)).host == (host or "one")
    assert (one.running(), two.running()) == (["a-1", "a-3"], ["a-2"])
    found = {handle.launch.replica_id: handle for handle in await engines.find()}
    assert {name: handle.host for name, handle in found.items()} == {
        "a-1": "one",
        "a-2": "two",
        "a-3": "one",
    }
    await engines.stop(found["a-2"], 1.0)
    assert (one.running(), two.running()) == (["a-1", "a-3"], [])
    elsewhere = dataclasses.replace(simulated_launch("a-4"), host="three")
    with pytest.raises(HostSilentError, match="three is not there"):
        await engines.start(elsewhere)


@virtual
async def test_questions_about_an_engine_wait_for_its_host_and_orders_do_not() -> None:
    engines, _, two, pipe = both()
    handle = await engines.start(dataclasses.replace(simulated_launch("a-1"), host="two"))
    exits = asyncio.ensure_future(engines.wait_exit(handle))
    await passes(1.0)
    pipe.cut()
    probe = asyncio.ensure_future(engines.probe(handle, 1.0))
    ready = asyncio.ensure_future(engines.wait_ready(handle, 1.0))
    report = asyncio.ensure_future(engines.report(handle))
    asleep = asyncio.ensure_future(engines.sleep(handle, 1))
    await passes(5.0)
    assert not any(question.done() for question in (exits, probe, ready, report, asleep))
    with pytest.raises(HostSilentError):
        await engines.stop(handle, 0.0)
    assert two.running() == ["a-1"]
    pipe.mend()
    await asleep
    await engines.wake(handle)
    assert await report
    assert await probe
    assert (await ready).version == "0.0-fake"
    assert not exits.done()
    two.die("a-1", code=-9)
    assert (await exits).code == -9


@virtual
async def test_the_engines_of_a_host_that_is_back_are_found_before_its_devices_are_used() -> None:
    one, two = agent("one", FakeRunner()), agent("two", FakeRunner())
    remote, pipe = piped(two)
    clock = FakeClock()
    hosts = Hosts([one, remote], look_seconds=5.0, ask_again_seconds=0.005, clock=clock)

    async def cordoned() -> set[str]:
        seen = await asyncio.to_thread(hosts.devices.discover)
        return {device.id for device in seen if device.cordoned}

    assert list(await hosts.engines.find()) == []
    assert await cordoned() == set()
    pipe.cut()
    assert await cordoned() == set()
    clock.now += 20.0
    assert await cordoned() == {"GPU-two", "cpu-two"}
    assert "two is silent" in hosts.devices.unseen
    assert list(await hosts.engines.returned()) == []
    lost = dataclasses.replace(simulated_launch("a-1"), host="two")
    with pytest.raises(HostSilentError):
        await hosts.engines.start(lost)
    await two.engines.start(lost)  # the order had arrived; its answer had not
    pipe.mend()
    assert await cordoned() == {"GPU-two", "cpu-two"}
    assert [handle.host for handle in await hosts.engines.returned()] == ["two"]
    assert list(await hosts.engines.returned()) == []
    assert await cordoned() == set()
    assert hosts.devices.unseen == ""
    one.devices.refuse("no driver.")  # of one host: the devices of others are used
    assert await cordoned() == {"GPU-one", "cpu-one"}


@virtual
async def test_an_engine_whose_start_was_not_answered_is_found_once_its_host_answers() -> None:
    engines, _, two, pipe = both()
    assert list(await engines.find()) == []
    pipe.cut()
    lost = dataclasses.replace(simulated_launch("a-1"), host="two")
    with pytest.raises(HostSilentError):
        await engines.start(lost)
    await two.start(lost)
    pipe.mend()
    assert [handle.launch.replica_id for handle in await engines.returned()] == ["a-1"]


@virtual
async def test_a_profile_is_measured_on_the_host_of_its_device() -> None:
    one, two = agent("one", FakeRunner()), agent("two", FakeRunner())
    hosts = Hosts([one, piped(two)[0]])

    model = await hosts.models.resolve(spec("a"))
    request = ProfileRequest(model, two.devices.discover()[1], (0,), 1)
    await hosts.profiler.run(request, lambda _: None)
    assert (len(one.profiler.requests), len(two.profiler.requests)) == (0, 1)
    assert hosts.engine_version("two") == ""
    await asyncio.to_thread(hosts.devices.discover)
    assert (hosts.engine_version("two"), hosts.engine_version("three")) == ("0.1", "")
    assert hosts.host_memory() == {"one": 7, "two": 7}
