"""The loop goes on while drivers or proxies never answer, and never reports that all is well."""

import asyncio
import contextlib
import dataclasses
import inspect
import math
from collections.abc import Iterator
from typing import get_args, get_type_hints

import pytest

from partitiond.controller.service import Adapters
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import NotFoundError, NotReadyError, PartitiondError
from partitiond.core.keys.record import KeyTerms
from partitiond.core.model.spec import Demand, EngineOptions, ModelSpec
from partitiond.core.profile.jobs import JobState, ProfileOptions
from tests.controller.fakes import POLICY
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, spec
from tests.devices.fake import FakeDevices
from tests.machine import WAIT_SECONDS, until

LIMITS = dataclasses.replace(POLICY.reconcile, start_deadline_seconds=4.0)
HASTY = dataclasses.replace(
    POLICY, look_seconds=0.05, patience_seconds=0.01, device_seconds=0.1, count_seconds=0.1,
    fault_seconds=0.01, memory_seconds=0.01, reconcile=LIMITS, adopt_seconds=0.05,
    idle_poll_seconds=0.01, wake_poll_seconds=0.01, last_call_seconds=0.05,
)  # fmt: skip
DEVICES = [
    dataclasses.replace(cpu(1), id=f"cpu-{name}", cores=(core,)) for core, name in enumerate("abc")
]
"""Each has room for one engine: what hangs on one is elsewhere for the others."""


def make_host() -> Host:
    here = Host(policy=HASTY, devices=FakeDevices(DEVICES))
    here.tick_seconds = HASTY.device_seconds
    here.measured("a", "b", hardware=DEVICES[0].hardware, engine="simulated", cores=(1,))
    return here


def of(name: str) -> ModelSpec:
    return spec(
        name, demand=Demand(req_per_s=0.1), min_replicas=1, max_replicas=1, auto=name != "c",
        engine=EngineOptions(sleep_mode=True), engine_kind="simulated", sleep_after_seconds=3600.0,
    )  # fmt: skip


async def serve(host: Host, *names: str) -> None:
    for name in names:
        await host.service.models.register(of(name))
    # On a busy machine a look may miss so short a deadline.
    await host.passes(lambda: host.service.parts.devices.looked)
    async with asyncio.timeout(WAIT_SECONDS):
        await host.service.plans.apply()
        for name in names:
            await host.serves(name)


def routed(host: Host) -> set[str]:
    return {route.replica_id.rpartition("-")[0] for route in host.proxy.table.replicas}


async def test_a_daemon_adopts_and_is_ready_while_the_driver_hangs(host: Host) -> None:
    await serve(host, "a", "b")
    running, applied = host.runner.running(), host.service.plans.applied()
    host.devices.hang()
    await asyncio.wait_for(host.restart(), WAIT_SECONDS)
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
    host.devices.become(DEVICES)
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
    host.clock.now = float(math.ceil(host.clock.now))
    await until(lambda: controller.passed_at == host.clock.now)
    controller._count_in_flight = hangs  # type: ignore[method-assign]
    await host.passes(lambda: not host.service.daemon.turning, 5.0)
    assert "no pass of the loop has ended for 60 s" in host.service.readiness.problems()["loop"]
    controller._count_in_flight = count  # type: ignore[method-assign]
    hang.set()
    await until(lambda: host.service.daemon.turning and host.service.readiness.problems() == {})


def calls_of(port: type) -> list[str]:
    return [name for name, _ in inspect.getmembers(port, inspect.iscoroutinefunction)]


CALLS = {
    name: calls_of(kind)
    for name, hint in get_type_hints(Adapters).items()
    for kind in (hint, *get_args(hint))
    if getattr(kind, "_is_protocol", False) and calls_of(kind)
}
"""What the control plane awaits of each of its ports: a new call hangs below by itself. All other
ports are asked within these calls."""
AT_THE_ENDS = {
    "runner.find": "a daemon that begins waits for it: before it is known what runs, nothing may"
    " start. Its adapter has a time limit for each engine",
    "proxy.stop": "it is called at the end alone",
    "partitions.clear": "it is called at the end alone",
}
"""Why a call does not hang while the daemon runs; the end waits for each of them only so long."""
ABOUT = {"runner": "'a-", "resolver": "name='c'"}
"""Calls about engines of a, and files of c, hang; of other ports every call does."""


@contextlib.contextmanager
def hanging(owner: object, call: str, about: str = "") -> Iterator[asyncio.Event]:
    """A call about something hangs within the block; the event tells that one does."""
    met, answers, real = asyncio.Event(), asyncio.Event(), getattr(owner, call)

    async def hangs(*given: object, **named: object) -> object:
        if about in str(given):
            met.set()
            await answers.wait()
        return await real(*given, **named)

    setattr(owner, call, hangs)
    try:
        yield met
    finally:
        answers.set()
        setattr(owner, call, real)


async def measured(host: Host) -> None:
    await host.service.models.register(of("c"))
    await host.service.models.profile("c", ProfileOptions(cores=1))


async def holds_up_nothing(host: Host, port: str, call: str) -> None:
    """A sleeps, wakes and hangs, c is measured, b dies, and another daemon begins: b is back within
    five seconds of either, and all is well once the call answers.
    """
    with hanging(getattr(host, port), call, ABOUT.get(port, "")) as met:
        if call == "ensure_running":
            host.proxy.die()
        if call == "held_bytes":  # asked of an engine that may hold too much
            host.runner.peaks[engine_of(host, "a")] = 2**50
            await host.passes(met.is_set)
        (key,) = host.service.keys.keys()
        calls = measured(host), host.service.metrics.text(), host.service.keys.show(key.id)
        asked = [asyncio.ensure_future(call) for call in calls]
        sleep = host.service.parts.controller.sleep
        sleep.put_to_sleep("a", 1, "as asked")
        await host.passes(lambda: met.is_set() or routed(host) == {"b"})
        sleep.wake("a", "as asked")
        await host.passes(lambda: met.is_set() or "a" in routed(host))
        host.runner.engines[engine_of(host, "a")].answers = False
        for restarts in (False, True):
            if restarts:
                launch = host.runner.launches[0]
                host.runner.add(dataclasses.replace(launch, replica_id="left", placement=None))
                await asyncio.wait_for(host.restart(), WAIT_SECONDS)
            await host.lives(120.0, 10.0)  # b dies for the first time in a while
            dead = engine_of(host, "b")
            host.runner.die(dead)
            await host.lives(5.0)
            assert dead in host.runner.running()
            assert host.service.parts.controller.problem == ""
            assert "loop" not in host.service.readiness.problems()
        await host.passes(met.is_set)
    await asyncio.gather(*asked, return_exceptions=True)
    await host.passes(lambda: routed(host) >= {"a", "b"}, 10.0)
    await until(lambda: "left" not in host.runner.running())
    await host.passes(lambda: not host.jobs(JobState.RUNNING, JobState.QUEUED))
    await host.service.models.remove("c")


@pytest.mark.parametrize("port", CALLS)
async def test_a_call_that_hangs_holds_up_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch, port: str
) -> None:
    monkeypatch.setattr("partitiond.controller.runtime.proxy_process.PROXY_PATIENCE_SECONDS", 0.01)
    await serve(host, "a", "b")
    await host.service.keys.create(KeyTerms())
    for call in CALLS[port]:
        if f"{port}.{call}" not in AT_THE_ENDS:
            await holds_up_nothing(host, port, call)


async def test_a_last_call_that_hangs_holds_up_the_end_only_so_long() -> None:
    host = make_host()
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(serving(host))
        await serve(host, "a")
        for name in AT_THE_ENDS:
            port, _, call = name.partition(".")
            stack.enter_context(hanging(getattr(host, port), call))
        await host.service.daemon.shutdown(stop_engines=True)
        assert {"engine-left", "device-left", "proxy-unreachable"} <= set(host.kinds())


async def test_a_job_whose_files_hang_keeps_no_engine_of_its_device_from_starting(
    host: Host,
) -> None:
    host.devices.become([dataclasses.replace(DEVICES[0], cores=(0, 1))])
    await serve(host, "a")
    await host.service.models.register(spec("c", demand=Demand(req_per_s=0.1), auto=False))
    with hanging(host.resolver, "resolve", "name='c'"):
        await host.service.models.profile("c", ProfileOptions(cores=1))
        assert [job.progress.phase for job in host.jobs(JobState.RUNNING)] == ["fetching"]
        assert host.service.jobs.starting() == ()
        host.runner._ready_at_once = False
        dead = engine_of(host, "a")
        host.runner.die(dead)
        await until(lambda: dead not in host.runner.running())
        await host.passes(lambda: dead in host.runner.running())
    waits = f"waits until {dead} serves"
    await host.passes(lambda: next(iter(host.jobs())).progress.message == waits)
    assert ABOUT["resolver"] not in str(host.profiler.requests), "nothing beside what starts"
    host.runner.engines[dead].ready.set()
    await host.passes(lambda: ABOUT["resolver"] in str(host.profiler.requests))


async def test_a_removed_key_is_not_called_removed_while_the_proxy_keeps_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.controller.keys.use_cases.TELL_SECONDS", 0.05)
    key, _ = await host.service.keys.create(KeyTerms())
    await until(lambda: host.proxy.table.keys != ())
    publish = host.proxy.publish

    hung = asyncio.Event()

    async def hangs(table: RoutingTable) -> None:
        await hung.wait()
        raise PartitiondError("its disk is full.")

    host.proxy.publish = hangs  # type: ignore[method-assign]
    late, _ = await host.service.keys.create(KeyTerms())
    for _ in range(2):  # its table lies in the endpoint's socket
        with pytest.raises(NotReadyError, match="may still take it"):
            await host.service.keys.remove(late.id)
    hung.set()
    for _ in range(2):
        with pytest.raises(NotReadyError, match="may still take it"):
            await host.service.keys.remove(key.id)
    assert host.kinds().count("key-removed") == 2
    assert "key-not-in-force" in host.kinds()
    host.proxy.publish = publish  # type: ignore[method-assign]
    await until(lambda: host.proxy.table.keys == ())
    await until(lambda: host.service.readiness.problems() == {})
    for removed in (key, late):
        with pytest.raises(NotFoundError):
            await host.service.keys.remove(removed.id)
