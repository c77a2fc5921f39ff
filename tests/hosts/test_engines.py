"""A host that does not answer is no engine that does not answer."""

import asyncio
import dataclasses
from collections.abc import Sequence

import pytest

from partitiond.core.errors import HostSilentError, SilentError
from partitiond.core.replica.engine import EngineHandle, EngineLaunch
from partitiond.hosts.together import Hosts
from partitiond.ports import ProfileRequest
from tests.controller.fakes import FakeClock, FakeRunner
from tests.controller.samples import spec
from tests.engine_fixtures import simulated_launch
from tests.hosts.pipes import agent, piped
from tests.hosts.virtual_time import passes


def on(host: str, name: str = "a-1") -> EngineLaunch:
    return dataclasses.replace(simulated_launch(name), host=host)


class Two:
    """The hosts "one" (the head's) and "two", behind a pipe."""

    def __init__(self) -> None:
        self.one, self.two = FakeRunner(), FakeRunner()
        self.there = agent("one", self.one), agent("two", self.two)
        remote, self.pipe = piped(self.there[1])
        self.clock = FakeClock()
        self.hosts = Hosts(
            [self.there[0], remote], look_seconds=5.0, ask_again_seconds=0.005, clock=self.clock
        )
        self.engines = self.hosts.engines

    async def cordoned(self) -> set[str]:
        seen = await asyncio.to_thread(self.hosts.devices.discover)
        return {device.id for device in seen if device.cordoned}


async def test_each_engine_runs_on_the_host_of_its_launch() -> None:
    two = Two()
    hosts = {"a-1": "one", "a-2": "two", "a-3": ""}
    for name, host in hosts.items():
        assert (await two.engines.start(on(host, name))).host == (host or "one")
    assert (two.one.running(), two.two.running()) == (["a-1", "a-3"], ["a-2"])
    found = {handle.launch.replica_id: handle for handle in await two.engines.find()}
    assert {name: handle.host for name, handle in found.items()} == {**hosts, "a-3": "one"}
    await two.engines.stop(found["a-2"], 1.0)
    assert (two.one.running(), two.two.running()) == (["a-1", "a-3"], [])
    with pytest.raises(HostSilentError, match="three is not there"):
        await two.engines.start(on("three", "a-4"))


async def test_questions_about_an_engine_wait_for_its_host_and_orders_do_not() -> None:
    two = Two()
    handle = await two.engines.start(on("two"))
    exits = asyncio.ensure_future(two.engines.wait_exit(handle))
    await passes(1.0)
    two.pipe.cut()
    probe = asyncio.ensure_future(two.engines.probe(handle, 1.0))
    ready = asyncio.ensure_future(two.engines.wait_ready(handle, 1.0))
    report = asyncio.ensure_future(two.engines.report(handle))
    asleep = asyncio.ensure_future(two.engines.sleep(handle, 1))
    await passes(5.0)
    assert not any(question.done() for question in (exits, probe, ready, report, asleep))
    with pytest.raises(HostSilentError):
        await two.engines.stop(handle, 0.0)
    assert two.two.running() == ["a-1"]
    two.pipe.mend()
    await asleep
    await two.engines.wake(handle)
    assert await report
    assert await probe
    assert (await ready).version == "0.0-fake"
    assert not exits.done()
    two.two.die("a-1", code=-9)
    assert (await exits).code == -9


async def test_a_host_that_cannot_ask_an_engine_is_asked_again() -> None:
    two = Two()
    handle = await two.engines.start(on("two"))
    two.two.probe_breaks_with = SilentError("it can open no socket.")
    probe = asyncio.ensure_future(two.engines.probe(handle, 1.0))
    await passes(5.0)
    assert not probe.done()
    two.two.probe_breaks_with = None
    assert await probe


async def test_the_engines_of_a_host_that_is_back_are_found_before_its_devices_are_used() -> None:
    two = Two()
    assert list(await two.engines.find()) == []
    assert await two.cordoned() == set()
    two.pipe.cut()
    assert await two.cordoned() == set()
    two.clock.now += 20.0
    assert await two.cordoned() == {"GPU-two", "cpu-two"}
    assert "two is silent" in two.hosts.devices.unseen
    assert list(await two.engines.returned()) == []
    with pytest.raises(HostSilentError):
        await two.engines.start(on("two"))
    await two.two.start(on("two"))  # the order had arrived; its answer had not
    two.pipe.mend()
    assert await two.cordoned() == {"GPU-two", "cpu-two"}
    (found,) = await two.engines.returned()
    assert (found.host, found.launch.replica_id) == ("two", "a-1")
    assert list(await two.engines.returned()) == []
    assert await two.cordoned() == set()
    assert two.hosts.devices.unseen == ""
    two.there[0].devices.refuse("no driver.")  # of one host: the devices of others are used
    assert await two.cordoned() == {"GPU-one", "cpu-one"}


async def test_an_engine_whose_start_was_not_answered_is_found_without_a_look() -> None:
    two = Two()
    assert list(await two.engines.find()) == []
    two.pipe.cut()
    with pytest.raises(HostSilentError):
        await two.engines.start(on("two"))
    await two.two.start(on("two"))
    two.pipe.mend()
    assert [handle.launch.replica_id for handle in await two.engines.returned()] == ["a-1"]


async def test_an_engine_that_may_have_started_during_a_search_is_looked_for_again() -> None:
    two, goes_on = Two(), asyncio.Event()
    find, start = two.two.find, two.two.start

    async def slowly() -> Sequence[EngineHandle]:
        found = await find()
        await goes_on.wait()
        return found

    async def unanswered(launch: EngineLaunch) -> EngineHandle:
        await start(launch)
        raise HostSilentError("the answer was lost.")

    two.two.find, two.two.start = slowly, unanswered  # type: ignore[method-assign]
    search = asyncio.ensure_future(two.engines.find())
    await passes(0.1)
    with pytest.raises(HostSilentError):
        await two.engines.start(on("two"))
    goes_on.set()
    assert list(await search) == []
    assert [handle.launch.replica_id for handle in await two.engines.returned()] == ["a-1"]


async def test_a_profile_is_measured_on_the_host_of_its_device() -> None:
    two = Two()
    model = await two.hosts.models.resolve(spec("a"))
    request = ProfileRequest(model, two.there[1].devices.discover()[1], (0,), 1)
    await two.hosts.profiler.run(request, lambda _: None)
    assert [len(there.profiler.requests) for there in two.there] == [0, 1]
    assert two.hosts.engine_version("two") == ""
    await asyncio.to_thread(two.hosts.devices.discover)
    assert (two.hosts.engine_version("two"), two.hosts.engine_version("three")) == ("0.1", "")
    assert two.hosts.host_memory() == {"one": 7, "two": 7}
