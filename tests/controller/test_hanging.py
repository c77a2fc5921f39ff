"""The loop goes on while drivers or proxies never answer, and never reports that all is well."""

import asyncio
import dataclasses
import threading

import pytest

from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import NotFoundError, NotReadyError, PartitiondError
from partitiond.core.keys.record import KeyTerms
from partitiond.core.model.spec import Demand
from partitiond.core.profile.jobs import JobState, ProfileOptions
from tests.controller.fakes import POLICY
from tests.controller.host import Host
from tests.controller.samples import cpu, spec
from tests.machine import until

HASTY = dataclasses.replace(
    POLICY, look_seconds=0.05, patience_seconds=0.01, device_seconds=0.1, count_seconds=0.1
)
FIRST = cpu(2)


def make_host() -> Host:
    here = Host(policy=HASTY)
    here.tick_seconds = HASTY.device_seconds
    here.measured("a", "b", "c", cores=(1,))
    return here


async def serve(host: Host, *names: str) -> None:
    for name in names:
        one = spec(name, demand=Demand(req_per_s=0.1), min_replicas=1, max_replicas=1, auto=False)
        await host.service.models.register(one)
    # On a busy machine a look may miss so short a deadline.
    await host.passes(lambda: host.service.parts.devices.looked)
    async with asyncio.timeout(240):
        await host.service.plans.apply()
        for name in names:
            await host.serves(name)


def routed(host: Host) -> set[str]:
    return {route.replica_id.rpartition("-")[0] for route in host.proxy.table.replicas}


def looking() -> int:
    """Threads that ask the driver: others, as those that look at files, come and go."""
    asking = ("look at the devices", "look at details of ")
    return sum(thread.name.startswith(asking) for thread in threading.enumerate())


async def test_a_driver_that_hangs_stops_no_pass(host: Host) -> None:
    await serve(host, "a", "b")
    key, _ = await host.service.keys.create(KeyTerms())
    host.devices.hang()
    await host.passes(lambda: "devices" in host.service.readiness.problems())
    assert "silent for 0.05 s" in host.service.readiness.problems()["devices"]
    assert "devices-unknown" in host.kinds()
    host.runner.die(engine_of(host, "a"))
    await until(lambda: routed(host) == {"b"})
    await host.service.keys.remove(key.id)
    assert host.proxy.table.keys == ()
    for _ in range(5):
        host.clock.now += HASTY.device_seconds
        await host.service.plans.preview()
    assert looking() <= 1
    assert routed(host) == {"b"}, "what runs goes on, and nothing starts on what is not known"
    host.devices.become([FIRST])
    await host.passes(lambda: host.service.readiness.problems() == {})
    await host.passes(lambda: host.serving("a") == 1)


async def test_a_daemon_adopts_and_is_ready_while_the_driver_hangs(host: Host) -> None:
    await serve(host, "a", "b")
    running, applied = host.runner.running(), host.service.plans.applied()
    host.devices.hang()
    async with asyncio.timeout(240):
        await host.restart()
    for ask in (host.service.plans.preview, host.service.plans.apply):
        with pytest.raises(NotReadyError, match="no device was looked at yet"):
            await ask()  # a driver that does not answer yet has not said that there is no device
    assert host.kinds().count("engine-adopted") == 2
    await until(lambda: "loop" not in host.service.readiness.problems())
    assert routed(host) == {"a", "b"}
    assert host.service.daemon.turning
    await host.passes(lambda: "devices" in host.service.readiness.problems())
    await host.service.models.register(spec("c", demand=Demand(req_per_s=0.1)))
    begun = host.clock.now
    await host.passes(lambda: host.clock.now > begun + 10)  # none of them plans without the devices
    assert not {"plan-waits", "plan-infeasible"} & set(host.kinds())
    assert host.runner.running() == running
    assert host.service.plans.applied() == applied
    host.devices.become([FIRST])
    await host.passes(lambda: host.service.readiness.problems() == {})
    assert set(running) <= set(host.runner.running())


def engine_of(host: Host, model: str) -> str:
    return next(name for name in host.runner.running() if name.startswith(f"{model}-"))


async def test_no_pass_that_ends_is_no_sign_of_life(host: Host) -> None:
    assert host.service.daemon.turning
    hang = asyncio.Event()
    controller = host.service.parts.controller
    count = controller._count_in_flight

    async def hangs(host: str = "") -> None:
        await hang.wait()

    await serve(host, "a")
    controller._count_in_flight = hangs  # type: ignore[method-assign]
    await host.passes(lambda: not host.service.daemon.turning)
    assert "no pass of the loop has ended for 60 s" in host.service.readiness.problems()["loop"]
    controller._count_in_flight = count  # type: ignore[method-assign]
    hang.set()
    await until(lambda: host.service.daemon.turning and host.service.readiness.problems() == {})


def hangs_in(owner: object, call: str, about: str) -> asyncio.Event:
    """A call about something hangs until the event."""
    answers, real = asyncio.Event(), getattr(owner, call)

    async def hangs(*given: object, **named: object) -> object:
        if about in str(given):
            await answers.wait()
        return await real(*given, **named)

    setattr(owner, call, hangs)
    return answers


CALLS = [
    *(("proxy", call) for call in ("in_flight", "publish", "traffic", "sample", "key_use")),
    *(("runner", call) for call in ("start", "wait_ready", "probe", "report", "wait_exit", "stop")),
    *(("resolver", call) for call in ("resolve", "architecture")),
]
"""Calls of the controller's ports."""
ABOUT = {"proxy": "", "runner": "'a-", "resolver": "name='c'"}
"""Calls about the endpoint, engines of a, and files of c hang."""


@pytest.mark.parametrize(("port", "call"), CALLS)
async def test_a_call_that_hangs_holds_up_nothing_else(
    host: Host,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    port: str,
    call: str,
) -> None:
    monkeypatch.setattr("partitiond.controller.runtime.proxy_process.PROXY_PATIENCE_SECONDS", 0.01)
    await serve(host, "a", "b")
    answers = hangs_in(getattr(host, port), call, ABOUT[port])
    request.addfinalizer(answers.set)  # before the host's shutdown, if this fails
    one = spec("c", demand=Demand(req_per_s=0.1), auto=False)
    asked = asyncio.create_task(host.service.models.register(one))
    host.runner.die(engine_of(host, "a"))
    if port == "proxy":
        host.proxy.problem = "it does not answer."
        await host.passes(lambda: "proxy" in host.service.readiness.problems())
        await until(lambda: "proxy-unreachable" in host.kinds())
        host.proxy.problem = ""
    for restarted in (False, True):
        if restarted:
            left = dataclasses.replace(host.runner.launches[0], replica_id="left", placement=None)
            host.runner.add(left)
            async with asyncio.timeout(240):
                await host.restart()
        launched = len(host.runner.launches)
        host.runner.die(engine_of(host, "b"))
        # On one device one engine starts at a time: the next one at the deadline of the first.
        await host.passes(
            lambda before=launched: any(  # type: ignore[misc]
                launch.model_name == "b" for launch in host.runner.launches[before:]
            ),
            5.0,
        )
        await host.passes(lambda: host.service.parts.controller.problem == "")
        # The clock stands: a pass that ends is enough, however late the machine makes it.
        await until(lambda: host.service.daemon.turning)
        assert "loop" not in host.service.readiness.problems()
    answers.set()
    await asyncio.gather(asked, return_exceptions=True)
    await host.passes(lambda: routed(host) >= {"a", "b"}, 5.0)
    await until(lambda: "left" not in host.runner.running())


async def test_a_job_whose_files_hang_keeps_no_engine_of_its_device_from_starting(
    host: Host, request: pytest.FixtureRequest
) -> None:
    await serve(host, "a")
    await host.service.models.register(spec("c", demand=Demand(req_per_s=0.1), auto=False))
    answers = hangs_in(host.resolver, "resolve", "name='c'")
    request.addfinalizer(answers.set)
    await host.service.models.profile("c", ProfileOptions(cores=1))
    assert [job.progress.phase for job in host.jobs(JobState.RUNNING)] == ["fetching"]
    assert host.service.jobs.starting() == ()
    host.runner._ready_at_once = False
    dead = engine_of(host, "a")
    host.runner.die(dead)
    await until(lambda: dead not in host.runner.running())
    await host.passes(lambda: dead in host.runner.running())
    answers.set()
    waits = f"waits until {dead} serves"
    await host.passes(lambda: next(iter(host.jobs())).progress.message == waits)
    assert host.profiler.requests == [], "and it starts no engine beside one that starts"
    host.runner.engines[dead].ready.set()
    await host.passes(lambda: host.profiler.requests != [])


async def test_a_removed_key_is_not_called_removed_while_the_proxy_keeps_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.controller.keys.use_cases.TELL_SECONDS", 0.05)
    key, _ = await host.service.keys.create(KeyTerms())
    publish = host.proxy.publish

    async def refuses(table: RoutingTable) -> None:
        raise PartitiondError("its disk is full.")

    host.proxy.publish = refuses  # type: ignore[method-assign]
    for _ in range(2):
        with pytest.raises(NotReadyError, match="may still take it"):
            await host.service.keys.remove(key.id)
    assert host.kinds().count("key-removed") == 1
    assert "key-not-in-force" in host.kinds()
    host.proxy.publish = publish  # type: ignore[method-assign]
    await until(lambda: host.proxy.table.keys == ())
    await until(lambda: host.service.readiness.problems() == {})
    with pytest.raises(NotFoundError):
        await host.service.keys.remove(key.id)
