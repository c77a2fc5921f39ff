"""An agent does the same in this process and through bytes."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond import __version__
from partitiond.core import errors
from partitiond.core.hardware.details import DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.core.units import GIB, Bytes
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.messages import Message, write
from partitiond.hosts.calls.signatures import METHODS, PORTS
from partitiond.ports.host_agent import MESSAGE_VERSION, HostAgent
from tests.controller.fakes import FakeRunner
from tests.controller.samples import placement, spec
from tests.engine_fixtures import make_runner, short_dir, simulated_launch
from tests.hosts.pipes import HEAD, FakeAgent, agent, piped
from tests.machine import until

__all__ = ["short_dir"]

Reach = Callable[[FakeAgent], HostAgent]


@pytest.fixture(params=["in this process", "through bytes"])
def reach(request: pytest.FixtureRequest) -> Iterator[Reach]:
    """Makes of an agent what the control plane has of it."""
    if request.param == "in this process":
        yield lambda there: there
    else:
        yield lambda there: piped(there)[0]


async def test_what_a_host_has_is_told_and_what_is_refused_there_is_refused_here(
    reach: Reach,
) -> None:
    runner = FakeRunner(ready_at_once=False)
    there = agent("two", runner)
    here = reach(there)
    assert tuple(await asyncio.to_thread(here.devices.discover)) == tuple(there.devices.discover())
    assert here.facts() == there.facts()
    there.gauges.readings = {"GPU-two": DeviceReading(used_bytes=3, watts=1.5)}
    there.partitions.broken = [DeviceFault("GPU-two", "Xid 79")]
    assert here.gauges is not None
    assert await asyncio.to_thread(here.gauges.read) == there.gauges.readings
    assert here.partitions is not None
    assert list(await here.partitions.faults()) == there.partitions.broken
    assert list(await here.partitions.shares()) == []
    told: list[tuple[str, float | None]] = []
    found = await here.models.resolve(spec("a"), lambda text, share: told.append((text, share)))
    assert found.folder == Path("/models/a")
    assert (await here.models.architecture(spec("a"))) == found.architecture
    missing = spec("b", source=ModelSource(SourceKind.FOLDER, "missing"))
    with pytest.raises(errors.ModelSourceError, match="no such model"):
        await here.models.architecture(missing)
    there.problem = errors.EngineUnavailableError("no vLLM.", hint="Install it.")
    there.engine_version = ""
    await asyncio.to_thread(here.devices.discover)
    problem = await asyncio.to_thread(here.engine_problem)
    assert isinstance(problem, errors.EngineUnavailableError)
    assert problem.hint
    there.devices.refuse("the driver says no.")
    with pytest.raises(errors.DeviceError, match="says no") as refused:
        await asyncio.to_thread(here.devices.discover)
    assert refused.value.hint == "Check the driver, then try again."
    # An engine that breaks breaks here with the same error.
    handle = await here.engines.start(simulated_launch("a-1"))
    waits = asyncio.ensure_future(here.engines.wait_ready(handle, 1.0))
    await until(lambda: bool(runner.engines))
    gone = errors.ExitedError("gone.", hint="Look.", facts={"code": 3})
    runner.engines["a-1"].fails_with = gone
    runner.engines["a-1"].ready.set()
    with pytest.raises(errors.ExitedError) as broken:
        await waits
    assert (broken.value.message, broken.value.hint) == ("gone.", "Look.")
    assert broken.value.facts == {"code": 3}


async def test_an_engine_starts_answers_and_ends_in_its_hosts_run_folder(
    reach: Reach, short_dir: Path
) -> None:
    there = agent("two", make_runner(short_dir, None))
    engines = reach(there).engines
    cpu = there.devices.discover()[1]
    cores = CpuCores(cpu.id, Bytes(GIB), (0,))
    placed = dataclasses.replace(placement("sim-1"), device_id=cpu.id, partition=cores)
    launch = dataclasses.replace(
        simulated_launch("sim-1"), placement=placed, partition=cores, host="two", sleep_mode=True
    )
    handle = await engines.start(launch)
    try:
        assert handle.launch == launch
        assert handle.host == "two"
        assert Path(handle.run_dir).is_relative_to(short_dir)
        phases: list[str] = []
        report = await engines.wait_ready(handle, 120.0, phases.append)
        assert phases[0] == "starting the process"
        assert report.kv_cache_tokens > 0
        assert await engines.probe(handle, 10.0)
        assert (await engines.report(handle)).version == report.version
        await engines.sleep(handle, 1)
        assert await engines.sleep_level(handle, 10.0) == 1
        await engines.wake(handle)
        assert await engines.sleep_level(handle, 10.0) == 0
        assert list(await engines.find()) == [handle]
        with pytest.raises(errors.StartFailedError, match="runs already") as refused:
            await engines.start(launch)
        assert refused.value.facts == {"pid": handle.pid}
        exited = asyncio.ensure_future(engines.wait_exit(handle))
        await asyncio.sleep(0)
    finally:
        ended = await engines.stop(handle, 5.0)
    assert (await exited).code == ended.code
    assert list(await engines.find()) == []


def test_every_method_of_the_ports_can_be_carried() -> None:
    """What each does through bytes is in `tests/hosts`: proxies, models, profiles, silence."""
    for port, protocol in PORTS.items():
        for name, is_what in vars(protocol).items():
            if not name.startswith("_") and not isinstance(is_what, property):  # read at home
                assert f"{port}.{name}" in METHODS


async def test_what_a_host_cannot_read_is_refused_and_breaks_nothing() -> None:
    server = HostServer(agent("two", FakeRunner()))

    async def answer(**message: object) -> dict[str, dict[str, str]]:
        whole = json.loads(write(Message(call="look", head=HEAD)))
        found: dict[str, dict[str, str]] = json.loads(
            await server.answer(json.dumps(whole | message).encode())
        )
        return found

    newer = {"version": MESSAGE_VERSION + 2, "oldest": MESSAGE_VERSION + 1}
    assert "Upgrade partitiond on this host" in (await answer(**newer))["refused"]["hint"]
    assert (await answer(version=0, oldest=0))["refused"]["kind"] == "InputError"
    for call in ("engines.run", "engines._runner", "store.close", "look.devices"):
        error = (await answer(call=call))["error"]
        assert f"partitiond {__version__} on the host two knows no call" in error["message"]
    lacking = await answer(call="engines.start", arguments={})
    assert "lacks launch" in lacking["error"]["message"]
    assert (await answer(call="engines.start", arguments={"launch": {}}))["error"]["kind"] == (
        "InputError"
    )
    for nonsense in (b"nonsense", b"[]", b"{}", b"\xff", b"[" * 100_000):
        assert json.loads(await server.answer(nonsense))["refused"]["kind"] == "InputError"
