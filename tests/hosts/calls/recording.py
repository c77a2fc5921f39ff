"""Records the messages between a head and an agent, and the answers, in this release's form.

    python -m tests.hosts.calls.recording

Writes `recorded/messages-V.json` and `recorded/answers-V.json`, of the version V of the messages.
Both are of calls that were made (`RemoteHost`, `HostServer`). To be run when a call is added, or
once a new version of the messages has been made on purpose: the files of a version never lose what
another release may have sent, so look at the difference before you keep it.
"""

import asyncio
import dataclasses
import inspect
import json
import re
import time
from collections import Counter
from collections.abc import Awaitable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from partitiond.core.demand.traffic import ModelCount, TrafficSample
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import ExitedError
from partitiond.core.hardware.details import DeviceDetails, DeviceReading
from partitiond.core.hardware.health import DeviceFault
from partitiond.core.hardware.partition import ShareUse
from partitiond.core.keys.record import KeyUse
from partitiond.core.units import GIB
from partitiond.devices.fake import FakeDevices
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.calls.messages import AgentAnswer, write
from partitiond.hosts.calls.near import RemoteHost
from partitiond.ports import ProfileRequest
from partitiond.ports.host_agent import MESSAGE_VERSION
from partitiond.ports.model import ModelListing
from partitiond.serde import from_stored_json
from tests.bodies.compact import compact
from tests.controller.fakes import FakeRunner, until
from tests.controller.samples import placement, spec
from tests.engine_fixtures import simulated_launch
from tests.hosts.pipes import FakeAgent, Pipe, SharedFolders, devices_of

RECORDED: Final = Path(__file__).parent / "recorded"
ROUTING: Final = Path(__file__).parents[2] / "bodies" / "frozen" / "routing.json"
HEAD: Final = HeadSession("head-1", 2, 3, "session-1")
HOST_ID: Final = "id-two"
LONG: Final = 150
"""Characters of an object that is written once where it stands several times."""

Recorded = dict[str, Any]
"""A message or an answer, with its data as hexadecimal digits, by what it is of."""


class KeptDevices(FakeDevices):
    """Devices that can be inspected."""

    def inspect(self, device_id: str) -> DeviceDetails:
        return DeviceDetails(next(d for d in self.discover() if d.id == device_id))

    def forgive(self, device_id: str) -> None:
        del device_id


class TakingFolders(SharedFolders):
    """Folders of models that take what is written."""

    async def write(self, listing: ModelListing, name: str, offset: int, data: bytes) -> int:
        return offset + len(data)


class RecordingPipe(Pipe):
    """Keeps the first message and answer of each call; and the next answer under a name.

    Attributes:
        next: that name; empty to keep it as of its call.
    """

    def __init__(self, server: HostServer) -> None:
        super().__init__(server)
        self.messages: Recorded = {}
        self.answers: Recorded = {}
        self.next = ""

    async def call(self, body: bytes) -> bytes:
        answer = await super().call(body)
        name = self.calls[-1]
        self.messages.setdefault(name, as_recorded(body))
        self.answers.setdefault(self.next or name, as_recorded(answer))
        self.next = ""
        return answer


def as_recorded(body: bytes) -> dict[str, Any]:
    """A message or an answer as it is kept."""
    text, feed, data = body.partition(b"\n")
    found: dict[str, Any] = json.loads(text)
    return {"body": found} | ({"data": data.hex()} if feed else {})


def as_sent(recorded: dict[str, Any]) -> bytes:
    """The bytes of a recorded message or answer."""
    text = json.dumps(recorded["body"]).encode()
    return text if "data" not in recorded else text + b"\n" + bytes.fromhex(recorded["data"])


def made_agent() -> FakeAgent:
    """An agent that has something to say to each call."""
    devices = KeptDevices(devices_of("two"))
    there = FakeAgent("two", FakeRunner(), devices, host_id=HOST_ID, folders=TakingFolders())
    there.gauges.readings = {"GPU-two": DeviceReading(used_bytes=3, watts=1.5)}
    there.partitions.broken = [DeviceFault("GPU-two", "Xid 79")]
    there.partitions.held = [ShareUse("a-1", 2 * GIB, GIB)]
    there.partitions.left = ["GPU-two stays in MIG mode."]
    there.proxy.counts = {"a-1": 2}
    there.proxy.uses = {"key-1": KeyUse(1, 2, 3, 4)}
    there.proxy.sampled = TrafficSample(
        1.5, "epoch-1", {"a": ModelCount(arrived=2, ttft_buckets=(1, 2))}, usage={"key-1": {}}
    )
    return there


def near_side(pipe: Pipe, head: HeadSession = HEAD, host_id: str = HOST_ID) -> RemoteHost:
    """What a head has of the agent."""
    return RemoteHost("two", pipe, head=head, host_id=host_id, pause_seconds=0.001)


async def record() -> tuple[Recorded, Recorded]:
    """Make each call once; return messages and answers."""
    there = made_agent()
    server = HostServer(there, begin_seconds=0.05)
    pipe = RecordingPipe(server)
    here = near_side(pipe)
    await here._send("hello")
    await asyncio.to_thread(here.look)
    for method, *given in _calls(here, there):
        made = await asyncio.to_thread(method, *given)  # some block
        if inspect.isawaitable(made):
            await made
    await _long_calls(here, there, pipe)
    await _refusals(pipe)
    await here.close()
    again = HostServer(there, begin_seconds=0.05)
    former, pipe._server = server._start, again
    other = near_side(pipe)
    other._agent, other._last_word = former, time.monotonic()
    pipe.next = "restarted"
    await _fails(other.proxy.in_flight())
    await other.close()
    pipe.answers["later"] = as_recorded(write(AgentAnswer(agent=former, later="calls end.")))
    pipe.answers["unknown"] = as_recorded(write(AgentAnswer(agent=former, unknown=(7,))))
    starts = former, again._start
    return _neutral(pipe.messages, *starts), _neutral(pipe.answers, *starts)


def _calls(here: RemoteHost, there: FakeAgent) -> list[tuple[Any, ...]]:
    """Methods whose calls end at once, each with its arguments."""
    placed = placement("a-1")
    launch = dataclasses.replace(
        simulated_launch("a-1"),
        placement=placed,
        partition=placed.partition,
        host="two",
        cores=(0,),
    )
    handle = there.engines.add(launch).handle  # type: ignore[attr-defined]
    started = dataclasses.replace(launch, replica_id="b-1")
    listing = ModelListing("/models/a", ())
    table = from_stored_json(RoutingTable, ROUTING.read_bytes())
    engines, proxy, folders = here.engines, here.proxy, here.folders
    return [
        (engines.start, started),
        (engines.find,),
        (engines.wait_ready, handle, 120.0, lambda _: None),
        (engines.probe, handle, 10.0),
        (engines.report, handle),
        (engines.sleep, handle, 1),
        (engines.sleep_level, handle, 10.0),
        (engines.wake, handle),
        (here.call, "engines.peak_memory_bytes", {"handle": handle}),
        (here.partitions.clear,),
        (here.partitions.faults,),
        (here.partitions.shares,),
        (here.models.architecture, spec("a")),
        (here.models.resolve, spec("a"), lambda *_: None),
        (folders.listing, "/models/a"),
        (folders.read, "/models/a", "config.json", 0, 2),
        (folders.receive, listing),
        (folders.write, listing, "config.json", 0, b"{\n}"),
        (proxy.ensure_running,),
        (proxy.publish, table),
        (proxy.in_flight,),
        (proxy.key_use,),
        (proxy.sample,),
        (proxy.traffic,),
        (proxy.metrics_text,),
        (here.engine_problem,),
        (here.log_tail, handle, 1000),
        (here.gauges.read,),
        (here.devices.inspect, "GPU-two"),
        (here.devices.forgive, "GPU-two"),
        (engines.stop, handle, 5.0),
        (engines.wait_exit, handle),
        (proxy.stop, 1.0),
        (proxy.wait_exit,),
    ]


async def _long_calls(here: RemoteHost, there: FakeAgent, pipe: RecordingPipe) -> None:
    """A call that tells its progress, one that fails, and one that is cancelled."""
    model = await here.models.resolve(spec("a"))
    request = ProfileRequest(model, there.devices.discover()[1], (0,), GIB)
    told = asyncio.Event()
    there.profiler.gate.clear()
    running = asyncio.ensure_future(here.profiler.run(request, lambda _: told.set()))
    await told.wait()
    there.profiler.gate.set()
    await running
    runner = there.engines
    assert isinstance(runner, FakeRunner)
    runner._ready_at_once = False
    handle = runner.add(simulated_launch("c-1")).handle
    runner.engines["c-1"].fails_with = ExitedError("gone.", hint="Look.", facts={"code": 3})
    runner.engines["c-1"].ready.set()
    pipe.next = "error"
    await _fails(here.engines.wait_ready(handle, 1.0))
    waits = asyncio.ensure_future(here.engines.wait_exit(handle))
    await until(lambda: any(call.runs for call in here._calls.values()))
    waits.cancel()
    await asyncio.gather(waits, return_exceptions=True)


async def _refusals(pipe: RecordingPipe) -> None:
    """Refused: another machine, a former start, a head that was overtaken."""
    refused = [
        ("refused: another host", near_side(pipe, host_id="another")),
        ("refused: an earlier start", near_side(pipe, dataclasses.replace(HEAD, start=2))),
        ("refused: a lower epoch", near_side(pipe, dataclasses.replace(HEAD, epoch=1))),
    ]
    for name, host in refused:
        pipe.next = name
        await _fails(asyncio.to_thread(host.look))
        await host.close()


async def _fails(call: Awaitable[Any]) -> None:
    try:
        await call
    except Exception:  # noqa: BLE001 - whatever it is: it is recorded
        return
    raise AssertionError("it did not fail")


def _neutral(found: Recorded, *starts: str) -> Recorded:
    """Without what differs at each run."""
    text = json.dumps(found)
    for number, start in enumerate(starts, 1):
        text = text.replace(start, f"agent-{number}")
    text = re.sub(r'"release": "[^"]*"', '"release": "0.1.0"', text)
    text = re.sub(r'"line": \d+', '"line": 1', text)
    neutral: Recorded = json.loads(text)
    return dict(sorted(neutral.items()))


def packed(found: Recorded) -> dict[str, Any]:
    """As it is written: what most have in common once, and long parts that stand several times."""
    bodies = [one["body"] for one in found.values()]
    every = {name: _most_frequent(body[name] for body in bodies) for name in bodies[0]}
    own = {
        name: one | {"body": {k: v for k, v in one["body"].items() if v != every[k]}}
        for name, one in found.items()
    }
    times = Counter(json.dumps(part) for part in _objects([one["body"] for one in own.values()]))
    parts: dict[str, Any] = {}

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(part) for part in value]
        if not isinstance(value, dict):
            return value
        text = json.dumps(value)
        if times[text] == 1 or len(text) < LONG:
            return short_of(value)
        if text not in names:
            names[text] = f"part {len(names) + 1}"
            parts[names[text]] = short_of(value)
        return {"as": names[text]}

    def short_of(body: dict[str, Any]) -> dict[str, Any]:
        return {key: short(part) for key, part in body.items()}

    names: dict[str, str] = {}
    of = {
        name: one | {"body": {k: short(v) for k, v in one["body"].items()}}
        for name, one in own.items()
    }
    return {"every": every, "parts": parts, "of": of}


def _most_frequent(values: Iterable[Any]) -> Any:
    return json.loads(Counter(map(json.dumps, values)).most_common(1)[0][0])


def _objects(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        yield value
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _objects(part)


def unpacked(file: dict[str, Any]) -> Recorded:
    """What was written."""

    def whole(value: Any) -> Any:
        if isinstance(value, list):
            return [whole(part) for part in value]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"as"}:
            return whole(file["parts"][value["as"]])
        return {key: whole(part) for key, part in value.items()}

    of: Recorded = whole(file["of"])
    return {name: one | {"body": {**file["every"], **one["body"]}} for name, one in of.items()}


def main() -> None:
    """Write both files."""
    for what, found in zip(("messages", "answers"), asyncio.run(record()), strict=True):
        path = RECORDED / f"{what}-{MESSAGE_VERSION}.json"
        path.write_text(compact(packed(found)) + "\n", encoding="utf-8")
        print(f"{path}: {len(found)}")


if __name__ == "__main__":
    main()
