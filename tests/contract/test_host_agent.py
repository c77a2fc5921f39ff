"""An agent does the same in this process and through bytes."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from partitiond import __version__
from partitiond.core.demand.traffic import ModelCount, TrafficSample
from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE
from partitiond.core.errors import (
    ConflictError,
    DeviceError,
    EngineUnavailableError,
    ExitedError,
    HostSilentError,
    ModelSourceError,
    PartitiondError,
    StartFailedError,
)
from partitiond.core.hardware.details import DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.keys.record import KeyUse
from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.core.profile.jobs import Progress
from partitiond.core.units import GIB, Bytes
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.messages import Message, write
from partitiond.hosts.calls.signatures import METHODS, PORTS
from partitiond.models.copies import CopiedFolders
from partitiond.ports import ProfileRequest
from partitiond.ports.host_agent import MESSAGE_VERSION, HostAgent
from partitiond.ports.model import ReceivedModel
from tests.controller.fakes import FakeRunner, until
from tests.controller.samples import placement, spec
from tests.engine_fixtures import make_runner, short_dir, simulated_launch
from tests.hosts.pipes import HEAD, FakeAgent, agent, piped

__all__ = ["short_dir"]

Reach = Callable[[FakeAgent], HostAgent]


@pytest.fixture(params=["in this process", "through bytes"])
def reach(request: pytest.FixtureRequest) -> Iterator[Reach]:
    """Makes of an agent what the control plane has of it."""
    if request.param == "in this process":
        yield lambda there: there
    else:
        yield lambda there: piped(there)[0]


async def test_devices_are_seen_and_a_refusal_is_one_here_too(reach: Reach) -> None:
    there = agent("two", FakeRunner())
    here = reach(there)
    found = await asyncio.to_thread(here.devices.discover)
    assert tuple(found) == tuple(there.devices.discover())
    there.devices.refuse("the driver says no.")
    with pytest.raises(DeviceError, match="says no") as refused:
        await asyncio.to_thread(here.devices.discover)
    assert refused.value.hint == "Check the driver, then try again."


async def test_folders_of_models_are_read_and_written_as_bytes(
    reach: Reach, tmp_path: Path
) -> None:
    there = agent("two", FakeRunner())
    there.folders = CopiedFolders(tmp_path / "models")
    folders = reach(there).folders
    model = tmp_path / "models" / "tiny"
    model.mkdir(parents=True)
    weights = bytes(range(256)) + b"\n\n{}"
    (model / "model.safetensors").write_bytes(weights)
    (model / "empty").write_bytes(b"")
    listing = await folders.listing(str(model))
    assert listing.known
    assert await folders.read(str(model), "model.safetensors", 0, 1000) == weights
    assert await folders.read(str(model), "model.safetensors", 250, 8) == weights[250:258]
    assert await folders.read(str(model), "empty", 0, 8) == b""
    other = dataclasses.replace(listing, folder="/not-here/tiny")
    assert await folders.receive(other) == ReceivedModel("", {})
    assert await folders.write(other, "empty", 0, b"") == 0
    assert await folders.write(other, "model.safetensors", 0, weights) == len(weights)
    copy = Path((await folders.receive(other)).folder)
    assert (copy / "model.safetensors").read_bytes() == weights
    with pytest.raises(ModelSourceError, match="is no file of a model") as refused:
        await folders.read(str(tmp_path), "secret", 0, 1)
    assert refused.value.facts["path"] == str(tmp_path / "secret")


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
        assert await asyncio.to_thread(reach(there).log_tail, handle, 10_000) != ""
        with pytest.raises(StartFailedError, match="runs already") as refused:
            await engines.start(launch)
        assert refused.value.facts == {"pid": handle.pid}
        exited = asyncio.ensure_future(engines.wait_exit(handle))
        await asyncio.sleep(0)
    finally:
        ended = await engines.stop(handle, 5.0)
    assert (await exited).code == ended.code
    assert list(await engines.find()) == []


async def test_engines_that_break_break_here_with_the_same_error(reach: Reach) -> None:
    runner = FakeRunner(ready_at_once=False)
    there = agent("two", runner)
    engines = reach(there).engines
    handle = await engines.start(simulated_launch("a-1"))
    waits = asyncio.ensure_future(engines.wait_ready(handle, 1.0))
    await until(lambda: bool(runner.engines))
    runner.engines["a-1"].fails_with = ExitedError("gone.", hint="Look.", facts={"code": 3})
    runner.engines["a-1"].ready.set()
    with pytest.raises(ExitedError) as broken:
        await waits
    assert (broken.value.message, broken.value.hint) == ("gone.", "Look.")
    assert broken.value.facts == {"code": 3}


async def test_a_profile_is_measured_its_progress_told_and_a_cancel_ends_it(reach: Reach) -> None:
    there = agent("two", FakeRunner())
    here = reach(there)
    told: list[Progress] = []
    model = await here.models.resolve(spec("a"))
    cpu = there.devices.discover()[1]
    request = ProfileRequest(model, cpu, (0,), GIB, checkpoint=Path("/tmp/none"))
    profile = await here.profiler.run(request, told.append)
    assert there.profiler.requests == [request]
    assert profile.model == "a"
    there.profiler.gate.clear()
    job = asyncio.ensure_future(here.profiler.run(request, told.append))
    await until(lambda: len(there.profiler.requests) == 2)
    await until(lambda: bool(told))
    assert told[-1] == Progress("measuring", "batch 4", 0.5, 10.0)
    there.profiler.stops.clear()
    job.cancel()
    await until(lambda: there.profiler.cancelled == 1)
    for _ in range(50):
        await asyncio.sleep(0)
    assert not job.done()  # not before the engine is gone there
    there.profiler.stops.set()
    with pytest.raises(asyncio.CancelledError):
        await job


async def test_files_are_fetched_or_the_reason_is_told(reach: Reach) -> None:
    here = reach(agent("two", FakeRunner()))
    told: list[tuple[str, float | None]] = []
    found = await here.models.resolve(spec("a"), lambda text, share: told.append((text, share)))
    assert found.folder == Path("/models/a")
    assert (await here.models.architecture(spec("a"))) == found.architecture
    missing = spec("b", source=ModelSource(SourceKind.FOLDER, "missing"))
    with pytest.raises(ModelSourceError, match="no such model"):
        await here.models.architecture(missing)


async def test_the_proxy_is_started_told_and_asked(reach: Reach) -> None:
    there = agent("two", FakeRunner())
    proxy = reach(there).proxy
    assert await proxy.ensure_running()
    assert not await proxy.ensure_running()
    table = dataclasses.replace(EMPTY_ROUTING_TABLE, version=3)
    await proxy.publish(table)
    assert there.proxy.tables == [table]
    with pytest.raises(ConflictError) as older:
        await proxy.publish(dataclasses.replace(table, version=2))
    assert older.value.facts == {"current": 3}
    there.proxy.counts = {"a-1": 2}
    there.proxy.uses = {"key": KeyUse(1, 2, 3, 4)}
    there.proxy.sampled = TrafficSample(
        1.5, "e", {"a": ModelCount(arrived=2, ttft_buckets=(1, 2))}, usage={"key": {}}
    )
    assert await proxy.in_flight() == {"a-1": 2}
    assert await proxy.traffic() == {}
    assert await proxy.key_use() == there.proxy.uses
    assert await proxy.sample() == there.proxy.sampled
    assert proxy.last_sample() is None
    assert "requests_total" in await proxy.metrics_text()
    exited = asyncio.ensure_future(proxy.wait_exit())
    await proxy.stop(1.0)
    assert await exited == 0
    with pytest.raises(PartitiondError):
        await proxy.publish(table)


async def test_gauges_faults_and_facts_are_told(reach: Reach) -> None:
    there = agent("two", FakeRunner())
    here = reach(there)
    there.gauges.readings = {"GPU-two": DeviceReading(used_bytes=3, watts=1.5)}
    there.partitions.broken = [DeviceFault("GPU-two", "Xid 79")]
    there.problem = EngineUnavailableError("no vLLM.", hint="Install it.")
    assert here.gauges is not None
    assert await asyncio.to_thread(here.gauges.read) == there.gauges.readings
    assert here.partitions is not None
    assert list(await here.partitions.faults()) == there.partitions.broken
    assert list(await here.partitions.shares()) == []
    problem = await asyncio.to_thread(here.engine_problem)
    assert isinstance(problem, EngineUnavailableError)
    assert (problem.message, problem.hint) == ("no vLLM.", "Install it.")
    await asyncio.to_thread(here.devices.discover)
    assert here.facts() == there.facts()


def test_every_method_of_the_ports_can_be_carried() -> None:
    for port, protocol in PORTS.items():
        for name in vars(protocol):
            if not name.startswith("_"):
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


async def test_a_host_that_is_not_reached_raises_one_error_from_every_call() -> None:
    there = agent("two", FakeRunner())
    here, pipe = piped(there)
    handle = await here.engines.start(simulated_launch("a-1"))
    exited = asyncio.ensure_future(here.engines.wait_exit(handle))
    await asyncio.sleep(0)
    pipe.cut()
    for call in (exited, here.engines.find(), here.engines.probe(handle, 1.0), here.proxy.sample()):
        with pytest.raises(HostSilentError):
            await call
    with pytest.raises(HostSilentError):
        await asyncio.to_thread(here.devices.discover)


async def test_another_host_in_the_place_of_one_is_refused_and_does_nothing() -> None:
    runner = FakeRunner()
    there = agent("two", runner)
    here, _ = piped(there)
    there.name = "three"
    with pytest.raises(HostSilentError, match="three answers in the place of the host two"):
        await asyncio.to_thread(here.devices.discover)
    assert "join under its own name" in here.refused
    with pytest.raises(HostSilentError):
        await here.engines.start(simulated_launch("a-1"))
    assert runner.running() == []
    there.name = "two"
    await asyncio.to_thread(here.devices.discover)
    assert here.refused == ""
