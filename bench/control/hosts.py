"""Measures the control plane over many hosts: a pass of the loop, memory, pages, a host's join.

Each measurement runs a head in a process of its own, with the service, the API, a store in a file
and the default settings. The agents of the other hosts run in one further process. They answer on
sockets in a folder (`SocketCluster`), their GPUs, engines and proxies are fakes, and their engines
run already when the head starts, so that it adopts them as after a restart. Messages between head
and agents are those of the product; Ray, which would carry them, is left out.

- `one`: one host with all GPUs, for comparison.
- `many`: the same GPUs on as many hosts as `--hosts` says.

Passes count the CPU time of the whole head, all its threads included, from the begin to the end of
each pass, so other work on the machine matters little. Callbacks count that of the event loop's
thread: while one runs, no request is answered.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import gc
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from bench.command import options
from bench.control.loop_cpu import counted_callbacks
from bench.processes import memory_bytes
from partitiond.api.app import create_app
from partitiond.api.replies import ANSWERS
from partitiond.cluster.socket_cluster import SocketCluster
from partitiond.controller.runtime.launches import launch_for
from partitiond.controller.service import Adapters, service_of
from partitiond.core.errors import ModelSourceError
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.hardware.partition import MpsShare, PartitionSize
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Candidate, Infeasible, Placement, Plan
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.engine import EngineHandle
from partitiond.core.replica.states import ReplicaState
from partitiond.core.units import GIB, Bytes
from partitiond.daemon import settle_heap
from partitiond.hosts.calls.far import HostServer
from partitiond.hosts.calls.fencing import HeadSession
from partitiond.hosts.fleet import hosts_of_fleet
from partitiond.hosts.line import serve_line
from partitiond.hosts.membership import MESSAGE_SECONDS, Membership
from partitiond.hosts.this_host import NO_PLACE
from partitiond.hosts.together import Hosts
from partitiond.planner.model.types import PlanRequest
from partitiond.platform.clock import SystemClock
from partitiond.serde import prepare
from partitiond.settings.cluster import ClusterSettings
from partitiond.settings.proxy import DEFAULT_PEERS_PORT
from partitiond.settings.schema import Settings
from partitiond.settings.service import service_options
from partitiond.store import Store, open_store
from tests.controller.fakes import FakeEngine, FakeResolver, FakeRunner
from tests.controller.samples import ARCHITECTURE, NOW, measured_profile, plan, record, spec
from tests.devices.fake import FakeDevices, fake_gpus
from tests.hosts.pipes import FakeAgent

HARDWARE: Final = "a100-80gb"
HEAD: Final = "h-0000"
LATE: Final = "h-late"
TOKEN: Final = "token-of-the-bench"
PAGES: Final = ("/devices", "/replicas", "/overview", "/hosts", "/metrics", "/models", "/plan")
PATIENCE_SECONDS: Final = 600.0


# -- the fakes ---------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def asking(api: object) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the API, in the same loop."""
    transport = httpx.ASGITransport(api)  # type: ignore[arg-type]
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with httpx.AsyncClient(
        transport=transport, base_url="http://daemon", headers=headers, timeout=600
    ) as http:
        yield http


class NoArchitectures(FakeResolver):
    """Knows no architecture: deriving the sizes of all models would take minutes."""

    async def architecture(self, spec: ModelSpec) -> Architecture:
        raise ModelSourceError(f"there is no model {spec.name!r}.")


class QuickRunner(FakeRunner):
    """Finds its engines by name: the cost of the fakes does not count as the daemon's."""

    def _of(self, handle: EngineHandle) -> FakeEngine:
        return self.engines[handle.launch.replica_id]


# -- the fleet, the same in head and agents ------------------------------------------------------


def host_names(count: int) -> list[str]:
    """Names of hosts, the head's first."""
    return [f"h-{number:04d}" for number in range(count)]


def gpus_of(host: str, count: int) -> tuple[Device, ...]:
    """The GPUs of a host, with ids that no other host has."""
    gpus = fake_gpus(HARDWARE, count, host=host, cores=range(64))
    return tuple(
        dataclasses.replace(gpu, id=f"GPU-{host}-{number:03d}") for number, gpu in enumerate(gpus)
    )


def model_name(number: int) -> str:
    """Name of a model."""
    return f"m-{number:03d}"


def placements_on(
    devices: Sequence[Device], first: int, size: argparse.Namespace
) -> list[Placement]:
    """Replicas on MPS shares, in turns of all models.

    Args:
        first: number of the first replica in the fleet.
    """
    found = []
    for number in range(len(devices) * size.per_gpu):
        serial = first + number
        model, device = model_name(serial % size.models), devices[number // size.per_gpu]
        memory = Bytes(8 * GIB)
        candidate = Candidate(
            model=model,
            profile_id=f"{model}-profile",
            profile_kind=ProfileKind.MEASURED,
            hardware=HARDWARE,
            size=PartitionSize(SharingMode.MPS, 1, 10),
            batch=8,
            memory_bytes=memory,
            kv_cache_bytes=Bytes(4 * GIB),
            capacity_req_per_s=1.0,
            output_tokens_per_s=100.0,
            ttft_p95_seconds=0.2,
            tpot_p95_seconds=0.01,
        )
        share = MpsShare(device.id, memory, 10)
        name = f"{model}-{1 + serial // size.models}"
        found.append(Placement(name, model, device.id, share, candidate))
    return found


def agent_of(host: str, number: int, size: argparse.Namespace, *, runs: bool = True) -> FakeAgent:
    """The agent of a host whose engines run already, or that has none yet."""
    devices, runner = gpus_of(host, size.gpus), QuickRunner()
    known = {device.id: device for device in devices}
    first = number * size.gpus * size.per_gpu
    for place in placements_on(devices, first, size) if runs else ():
        model = ResolvedModel(
            spec(place.model), Path("/models") / place.model, None, ARCHITECTURE, True
        )
        runner.add(launch_for(place, model, known[place.device_id], name=place.replica_id))
    return FakeAgent(
        host,
        runner,
        FakeDevices(devices),
        models=NoArchitectures(),
        peers_address=f"{host}:{DEFAULT_PEERS_PORT}",
    )


# -- the agents of the other hosts ---------------------------------------------------------------


async def agents(folder: Path, size: argparse.Namespace) -> None:
    """Answer for all hosts but the head's; each line of the standard input has one more join."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    servers = []

    async def serve(agent: FakeAgent) -> None:
        server = HostServer(agent)
        await agent.proxy.ensure_running()
        servers.append(
            await serve_line(
                folder / f"{agent.name}.sock", lambda _host, _seconds, body: server.answer(body)
            )
        )

    for number, name in enumerate(host_names(size.hosts)):
        if name != HEAD:
            await serve(agent_of(name, number, size))
    settle_heap()
    print("ready", flush=True)
    while line := await reader.readline():
        await serve(agent_of(line.decode().strip(), size.hosts, size, runs=False))


@contextlib.contextmanager
def agents_beside(folder: Path, size: argparse.Namespace) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the agents in a process of their own while the block runs."""
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "bench.control.hosts", *words_of(size, "agents", folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError("the agents did not begin")
        yield process
    finally:
        process.kill()
        process.communicate()


# -- the head --------------------------------------------------------------------------------


@dataclasses.dataclass
class Pass:
    """CPU seconds of a pass: of the whole process, and of the event loop's thread."""

    process: float
    loop: float


class Head:
    """A control plane, over one host or over many.

    Attributes:
        passes: those that have ended since the list was emptied.
    """

    def __init__(
        self,
        store: Store,
        own: FakeAgent,
        hosts: Hosts | None,
        settings: Settings,
        size: argparse.Namespace,
        *,
        membership: Membership | None = None,
    ) -> None:
        self.size, self.store, self.own = size, store, own
        self.clock = SystemClock()
        self.hosts, self.membership = hosts, membership
        self.service = service_of(self._adapters(), service_options(settings))
        self.passes: list[Pass] = []
        controller: Any = self.service.parts.controller
        plain = controller.one_pass

        async def one_pass() -> None:
            process, loop = time.process_time(), time.thread_time()
            await plain()
            self.passes.append(Pass(time.process_time() - process, time.thread_time() - loop))

        controller.one_pass = one_pass

    def _adapters(self) -> Adapters:
        async def solve(_: PlanRequest, **__: object) -> Infeasible:
            return Infeasible(("nothing is searched for.",), ())

        many, own = self.hosts, self.own
        return Adapters(
            store=self.store,
            runner=own.engines if many is None else many.engines,
            devices=own.devices if many is None else many.devices,
            resolver=own.models if many is None else many.models,
            proxy=own.proxy if many is None else many.proxy,
            profiler=own.profiler if many is None else many.profiler,
            solve=solve,
            clock=self.clock,
            engine_problem=own.engine_problem if many is None else many.engine_problem,
            engine_version=(lambda _: "0.1") if many is None else many.engine_version,
            host_memory=dict if many is None else many.host_memory,
            partitions=own.partitions if many is None else many.partitions,
            gauges=own.gauges if many is None else many.gauges,
            hosts=self.membership,
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run it while the block runs; engines stay."""
        await self.service.daemon.start()
        try:
            yield
        finally:
            await self.service.daemon.shutdown(stop_engines=False)

    def serving(self) -> int:
        """Number of engines that serve."""
        engines = self.service.parts.controller.engines
        return sum(engine.state is ReplicaState.SERVING for engine in engines)

    async def until(self, holds: Callable[[], bool]) -> float:
        """Wait for something that comes by itself; return the seconds."""
        began = time.monotonic()
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not holds():  # noqa: ASYNC110 - nothing tells it
                await asyncio.sleep(0.01)
        return time.monotonic() - began


@contextlib.asynccontextmanager
async def head_of(store: Store, folder: Path, size: argparse.Namespace) -> AsyncIterator[Head]:
    """Make a head that follows the hosts in the folder, or one of a host alone."""
    own: Any = agent_of(HEAD, 0, size)
    own.place = NO_PLACE
    if size.hosts == 1:
        yield Head(store, own, None, Settings(), size)
        return
    cluster = ClusterSettings(enabled=True, folder=folder, trust_engines=True)
    settings = Settings(cluster=cluster)
    hosts = SocketCluster(folder, seconds=MESSAGE_SECONDS)
    head = HeadSession(HEAD, 1, 1, "bench")
    async with hosts_of_fleet(settings, store, own, hosts, head) as membership:
        yield Head(store, own, membership.hosts, settings, size, membership=membership)


def fill(store: Store, size: argparse.Namespace) -> Plan:
    """Add models, their profiles, keys, and the plan of all that runs; return the plan."""
    for number in range(size.models):
        name = model_name(number)
        store.add_model(record(name, auto=False))
        found = measured_profile(name, hardware=HARDWARE, profile_id=f"{name}-profile")
        store.add_profile(dataclasses.replace(found, size=PartitionSize(SharingMode.MPS, 1, 10)))
    for number in range(size.keys):
        store.add_key(KeyRecord(id=f"key-{number:05d}", sha256=f"{number:064x}", created_at=NOW))
    devices: list[Device] = []
    places: list[Placement] = []
    for host in host_names(size.hosts):
        gpus = gpus_of(host, size.gpus)
        places += placements_on(gpus, len(places), size)
        devices += gpus
    made = plan(*places, plan_id="plan-of-the-bench", devices=devices)
    store.set_plan(made)
    return made


async def measured(folder: Path, size: argparse.Namespace) -> dict[str, Any]:
    """Run a head and measure it."""
    store = open_store(folder / "store.sqlite3")
    applied = fill(store, size)
    store.close()
    store = open_store(folder / "store.sqlite3")
    found: dict[str, Any] = {}
    async with contextlib.AsyncExitStack() as stack:
        counted = stack.enter_context(counted_callbacks())
        apart = size.hosts > 1
        beside = stack.enter_context(agents_beside(folder, size)) if apart else None
        counted.step = "adoption"
        began, cpu = time.monotonic(), time.process_time()
        head = await stack.enter_async_context(head_of(store, folder, size))
        api = await asyncio.to_thread(create_app, head.service, admin_token=TOKEN)
        await asyncio.to_thread(prepare, ANSWERS)
        async with head.running(), asking(api) as http:
            await head.until(lambda: head.serving() == len(applied.placements))
            found["adopted"] = {
                "engines": head.serving(),
                "seconds": time.monotonic() - began,
                "cpu": time.process_time() - cpu,
                **passes_of(head.passes),
            }
            settle_heap()
            await asyncio.sleep(6.0)  # the first looks after the start
            counted.step = "rest"
            found["rest"] = await at_rest(head, size.seconds)
            gc.collect()
            found["pss"] = memory_bytes(os.getpid(), children=False)
            found["threads"] = threading.active_count()
            found["look"] = await cost_of(
                lambda: asyncio.to_thread(head.service.parts.devices._provider.discover)
            )
            if head.membership is not None:
                found["membership"] = await cost_of(head.membership.look)
            pages = {}
            for page in PAGES:
                counted.step = f"GET {page}"
                answers: list[Any] = []

                async def get(page: str = page, answers: list[Any] = answers) -> None:
                    answers.append(await http.get(page))

                pages[page] = await cost_of(get)
                answers[0].raise_for_status()
                pages[page]["bytes"] = len(answers[0].content)
            found["pages"] = pages
            counted.step = "key made"

            async def make_key() -> None:
                (await http.post("/keys", json={"label": "bench"})).raise_for_status()

            found["key"] = await cost_of(make_key)
            if beside is not None and not size.no_join:
                counted.step = "join"
                found["join"] = await join(head, beside, applied)
            counted.step = "end"
        found["callbacks"] = [
            (one.step, one.what, one.seconds)
            for one in counted.largest()
            if one.step not in ("", "end", "adoption")
        ][: size.lines]
    store.close()
    return found


async def cost_of(ask: Callable[[], Awaitable[object]]) -> dict[str, float]:
    """CPU seconds of the process, and seconds, until something has ended."""
    cpu, began = time.process_time(), time.monotonic()
    await ask()
    return {"cpu": time.process_time() - cpu, "seconds": time.monotonic() - began}


async def at_rest(head: Head, seconds: float) -> dict[str, float]:
    """Passes while nothing changes, and the head's CPU time in all."""
    head.passes.clear()
    cpu, began = time.process_time(), time.monotonic()
    await asyncio.sleep(seconds)
    busy = (time.process_time() - cpu) / (time.monotonic() - began)
    return {**passes_of(head.passes), "busy": busy}


def passes_of(passes: Sequence[Pass]) -> dict[str, float]:
    """Median and largest CPU time of passes, of the process and of the loop's thread."""
    process, loop = [one.process for one in passes] or [0.0], [one.loop for one in passes] or [0.0]
    return {
        "passes": len(passes),
        "median": statistics.median(process),
        "largest": max(process),
        "loop_median": statistics.median(loop),
        "loop_largest": max(loop),
    }


async def join(head: Head, beside: "subprocess.Popen[bytes]", applied: Plan) -> dict[str, float]:
    """A further host joins, and a plan with replicas there is applied once it is seen."""
    assert beside.stdin is not None
    devices = head.service.devices
    before = head.serving()
    beside.stdin.write(f"{LATE}\n".encode())
    beside.stdin.flush()
    seen = await head.until(lambda: any(device.host == LATE for device in devices.devices))
    gpus = gpus_of(LATE, head.size.gpus)
    more = placements_on(gpus, len(applied.placements), head.size)
    head.service.parts.controller.apply(
        dataclasses.replace(
            applied,
            id="plan-with-one-more",
            placements=(*applied.placements, *more),
            devices=(*applied.devices, *gpus),
        )
    )
    served = await head.until(lambda: head.serving() == before + len(more))
    return {"seen": seen, "served": served, "engines": len(more)}


# -- the command ---------------------------------------------------------------------------------


def words_of(size: argparse.Namespace, part: str, folder: Path) -> list[str]:
    """The command line of a part."""
    kept = ("hosts", "gpus", "per_gpu", "models", "keys", "seconds", "lines")
    words = [f"--{key.replace('_', '-')}={getattr(size, key)}" for key in kept]
    words += ["--no-join"] if size.no_join else []
    return [*words, f"--part={part}", f"--folder={folder}"]


def run_head(size: argparse.Namespace, **changes: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    size = argparse.Namespace(**{**vars(size), **changes})
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        command = [sys.executable, "-P", "-m", "bench.control.hosts"]
        command += words_of(size, "head", Path(folder))
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def milliseconds(seconds: float) -> str:
    """A time as text."""
    return f"{seconds * 1000:.1f} ms"


def told(title: str, found: dict[str, Any]) -> Iterator[str]:
    """What was found of one head, in lines."""
    adopted, rest = found["adopted"], found["rest"]
    yield f"== {title}"
    yield (
        f"adoption: {adopted['engines']} engines serve after {adopted['seconds']:.1f} s, "
        f"{adopted['cpu']:.1f} s CPU; largest pass {milliseconds(adopted['largest'])}"
    )
    yield (
        f"a pass at rest: median {milliseconds(rest['median'])}, largest "
        f"{milliseconds(rest['largest'])} (of {rest['passes']}); event loop alone "
        f"{milliseconds(rest['loop_median'])}, {milliseconds(rest['loop_largest'])}; "
        f"the head uses {rest['busy']:.1%} of a core"
    )
    for what in ("look", "membership", "key"):
        if what in found:
            cost = found[what]
            yield f"{what}: {milliseconds(cost['cpu'])} CPU, {milliseconds(cost['seconds'])}"
    for page, cost in found["pages"].items():
        yield (f"GET {page}: {milliseconds(cost['cpu'])} CPU, {cost['bytes'] / 1024:.0f} KiB")
    yield f"memory (PSS): {found['pss'] / 2**20:.0f} MiB; {found['threads']} threads"
    if "join" in found:
        one = found["join"]
        yield (
            f"a host joins: its GPUs are seen after {one['seen']:.2f} s; {one['engines']} engines "
            f"serve {one['served']:.2f} s after the plan is applied"
        )
    yield "largest callbacks of the event loop:"
    for step, what, seconds in found["callbacks"]:
        yield f"  {milliseconds(seconds):>10}  {step:16} {what}"


def main(words: Sequence[str] | None = None) -> int:
    """Run the named measurements and print their results."""
    parser = options(
        __doc__, hosts=64, gpus=8, models=300, keys=1000, per_gpu=1, seconds=20.0, lines=12
    )
    parser.add_argument("--no-join", action="store_true", help="no further host joins")
    parser.add_argument("what", nargs="*", help="some of one, many; default both")
    parser.add_argument("--part", choices=("head", "agents"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    size = parser.parse_args(words)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if size.part == "agents":
        asyncio.run(agents(size.folder, size))
        return 0
    if size.part == "head":
        print(json.dumps(asyncio.run(measured(size.folder, size))))
        return 0
    report(size, size.what or ["one", "many"])
    return 0


def report(size: argparse.Namespace, what: Sequence[str]) -> None:
    """Measure one head after the other, and print each and how they compare."""
    one = many = None
    all_gpus = size.hosts * size.gpus
    if "one" in what:
        one = run_head(size, hosts=1, gpus=all_gpus)
        print("\n".join(told(f"1 host, {all_gpus} GPUs", one)), flush=True)
    if "many" in what:
        many = run_head(size)
        print("\n".join(told(f"{size.hosts} hosts with {size.gpus} GPUs", many)), flush=True)
    if one is not None and many is not None:
        ratio = many["rest"]["median"] / one["rest"]["median"]
        grown = (many["pss"] - one["pss"]) / (size.hosts - 1)
        print(f"{size.hosts} hosts / 1 host: a pass {ratio:.2f}; {grown / 1024:.0f} KiB a host")


if __name__ == "__main__":
    sys.exit(main())
