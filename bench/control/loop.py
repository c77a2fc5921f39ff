"""Measures the longest CPU bursts of the daemon's event loop, at fleet size.

The bench runs the daemon's service and API with a store in a file, the real planner, and fakes of
engines, GPUs and proxy: models are planned onto GPUs, all replicas serve, and every kind of request
from people and programs comes once. Each callback of the loop is measured in CPU time of its
thread, so other work on the machine matters little. While a callback runs, no API request is
answered and no engine that died is started again.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import httpx

from bench.command import options
from bench.control.loop_cpu import LoopCpu, counted_callbacks
from partitiond.api.app import create_app
from partitiond.api.replies import ANSWERS
from partitiond.controller.limits import ControllerPolicy, WatchPolicy
from partitiond.controller.plans import planning
from partitiond.controller.plans.planning import PlanOptions
from partitiond.controller.runtime.engines import Engine
from partitiond.controller.service import Adapters, Service, ServiceOptions, service_of
from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, UsageCount
from partitiond.core.errors import ModelSourceError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import SM_PERCENTS, MpsShare, PartitionSize
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.plan.record import Certificate, Infeasible, Objective, Placement, Plan, Status
from partitiond.core.profile.record import Profile
from partitiond.core.replica.engine import EngineHandle
from partitiond.daemon import settle_heap
from partitiond.devices.fake import FakeDevices, fake_gpus
from partitiond.planner.check import check_plan
from partitiond.planner.model.types import PlanRequest
from partitiond.serde import prepare, to_stored_json
from partitiond.store import SqlStore, open_store
from tests.controller.fakes import (
    FakeClock,
    FakeEngine,
    FakeProfiler,
    FakeProxy,
    FakeResolver,
    FakeRunner,
    until,
)
from tests.controller.samples import NOW, measured_profile, record, spec

HARDWARE: Final = "a100-80gb"
OLD: Final = "m-"
TOKEN: Final = "token-of-the-bench"
READS: Final = (
    "/models",
    "/models/m-000",
    "/replicas",
    "/devices",
    "/overview",
    "/metrics",
    "/profiles",
    "/jobs",
    "/events",
    "/plan",
    "/plan/convergence",
    "/drift",
    "/usage",
    "/keys",
    "/readyz",
)


def main(words: Sequence[str] | None = None) -> int:
    """Run all steps once and print the largest callbacks."""
    parser = options(__doc__, models=300, gpus=128, profiles=2000, keys=1000)
    parser.add_argument("--lines", type=int, default=25, help="callbacks to print")
    size = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="pd-loop-") as folder, counted_callbacks() as counted:
        asyncio.run(everything(size, Path(folder), counted))
    print(f"{size.models} models, {size.gpus} GPUs, {size.profiles} profiles, {size.keys} keys")
    for one in counted.largest()[: size.lines]:
        print(f"{one.seconds * 1000:8.1f} ms  {one.step:24} {one.what}")
    return 0


async def everything(size: argparse.Namespace, folder: Path, counted: LoopCpu) -> None:
    """Run all steps, one after the other."""
    store = open_store(folder / "store.sqlite3")
    counted.step = "filling the store"
    fill(store, size)
    store.close()
    counted.step = "opening the store"
    store = open_store(folder / "store.sqlite3")
    fakes = Fakes(size)
    service = fakes.service(store)
    api = await asyncio.to_thread(create_app, service, admin_token=TOKEN)
    prepare(ANSWERS)
    await asyncio.sleep(0)
    try:
        counted.step = "start"
        await service.daemon.start()
        settle_heap()
        async with asking(api) as http:
            await steps(service, http, fakes, counted)
        counted.step = "end"
    finally:
        await service.daemon.shutdown(stop_engines=False)
        store.close()


async def steps(
    service: Service, http: httpx.AsyncClient, fakes: "Fakes", counted: LoopCpu
) -> None:
    """Run the named steps on a service that has started."""

    async def begin(step: str) -> None:
        await asyncio.sleep(0)  # a callback belongs to one step
        counted.step = step

    ended: list[None] = []
    one_pass = service.parts.controller.one_pass

    async def passed() -> None:
        await one_pass()
        ended.append(None)

    setattr(service.parts.controller, "one_pass", passed)  # noqa: B010 - types forbid it

    async def more_passes(count: int = 3) -> None:
        before = len(ended)

        def later() -> bool:
            fakes.clock.now += 0.05
            return len(ended) >= before + count

        await until(later)

    await begin("first passes")
    await more_passes()
    await begin("plan asked for")
    (await http.post("/plan", json={})).raise_for_status()
    await begin("POST /plan again, with a plan")
    fakes.finds = True
    planning.check_plan = accepted  # type: ignore[attr-defined]
    shown = await http.post("/plan", json={})
    shown.raise_for_status()
    plan = by_hand(fakes.asked[-1])
    await begin("POST /plan/apply")
    applied = await http.post(
        "/plan/apply", json={"plan_id": shown.json()["plan"]["id"], "allow_outage": True}
    )
    applied.raise_for_status()
    fakes.finds = False
    await begin("engines start")

    def all_serve() -> bool:
        fakes.clock.now += 0.05
        engines = service.parts.controller.engines
        return len(engines) == len(plan.placements) and all(
            engine.state.value == "serving" for engine in engines
        )

    await until(all_serve)
    await begin("passes of the loop")
    await more_passes()
    await begin("traffic: drift and scaling")
    for turn in (1, 2, 3):
        fakes.clock.now += 60.0
        fakes.proxy.sampled = sample(service.parts.controller.engines, fakes.clock.now, turn)
        await service.parts.traffic.look()
        await asyncio.sleep(0)
    await begin("usage booked")
    usage: Any = service.usage
    usage.look()
    usage.book()
    await begin("routing table as JSON")
    to_stored_json(fakes.proxy.table)
    for path in READS:
        await begin(f"GET {path}")
        (await http.get(path)).raise_for_status()
    await begin("key made")
    key = await http.post("/keys", json={"label": "bench"})
    key.raise_for_status()
    await begin("registration")
    await service.models.register(spec("new", demand=Demand(req_per_s=0.5), max_replicas=1))
    await more_passes()
    await begin("profile added, plan by itself")
    before = len(fakes.asked)
    service.profiles.keep(_profile(f"{OLD}000", 1000))
    await until(lambda: len(fakes.asked) > before)
    await more_passes()
    await begin("engine dies")
    fakes.runner.die(next(iter(fakes.runner.running())))
    await more_passes(5)


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
    """Knows the architectures of new models only: deriving sizes of all would take minutes."""

    async def architecture(self, spec: ModelSpec) -> Architecture:
        if spec.name.startswith(OLD):
            raise ModelSourceError("there is no such model.")
        return await super().architecture(spec)


class QuickRunner(FakeRunner):
    """Finds its engines by name: the cost of the fakes does not count as the daemon's."""

    def _of(self, handle: EngineHandle) -> FakeEngine:
        return self.engines[handle.launch.replica_id]


class Fakes:
    """The fakes that the service runs on."""

    def __init__(self, size: argparse.Namespace) -> None:
        self.runner = QuickRunner()
        self.resolver, self.proxy = NoArchitectures(), FakeProxy()
        self.profiler, self.clock = FakeProfiler(), FakeClock()
        self.asked: list[PlanRequest] = []
        self.finds = False
        self.devices = FakeDevices(fake_gpus(HARDWARE, size.gpus, cores=range(64)))

    async def solve(self, request: PlanRequest, **_: object) -> Plan | Infeasible:
        """Return no plan, or one by `by_hand`: the real planner works in a separate process."""
        self.asked.append(request)
        if self.finds:
            return by_hand(request)
        return Infeasible(("nothing is searched for.",), ())

    def service(self, store: SqlStore) -> Service:
        """The daemon's service on these fakes."""
        policy = ControllerPolicy(
            watch=WatchPolicy(interval_seconds=0.5), loop_seconds=0.02, count_seconds=0.0
        )
        return service_of(
            Adapters(
                store=store,
                runner=self.runner,
                devices=self.devices,
                resolver=self.resolver,
                proxy=self.proxy,
                profiler=self.profiler,
                solve=self.solve,
                clock=self.clock,
            ),
            ServiceOptions(policy=policy, planning=PlanOptions(time_limit_seconds=2.0)),
        )


def accepted(*given: Any, **more: Any) -> tuple[str, ...]:
    """Check a plan and accept it anyway: a plan from `by_hand` has no certificate."""
    check_plan(*given, **more)
    return ()


def by_hand(request: PlanRequest) -> Plan:
    """Place a replica of each model on an MPS share, in turns on all GPUs, without any search."""
    placements = []
    for number, model in enumerate(request.models):
        device = request.devices[number % len(request.devices)]
        candidate = next(c for c in model.candidates if c.size.mode is SharingMode.MPS)
        share = MpsShare(device.id, candidate.memory_bytes, candidate.size.sm_percent)
        placements.append(Placement(f"{model.model}-1", model.model, device.id, share, candidate))
    certificate = Certificate(
        Objective.MIN_DEVICES, 1.0, 1.0, 0.0, Status.FEASIBLE, "by hand", seconds=0.0
    )
    return Plan(
        id="plan-of-the-bench",
        placements=tuple(placements),
        devices=request.devices,
        forecasts=(),
        unplaced=(),
        certificate=certificate,
        explanation=(),
        created_at=NOW,
    )


def sample(engines: Sequence[Engine], at: float, turn: int) -> TrafficSample:
    """The proxy's counts while all engines work."""
    return TrafficSample(
        at,
        "one proxy",
        {e.placement.model: ModelCount(arrived=100 * turn) for e in engines},
        {
            e.name: ReplicaCount(
                e.placement.model,
                e.generation,
                ok=100 * turn,
                prompt_tokens=6400 * turn,
                output_tokens=3200 * turn,
                service_seconds=40.0 * turn,
                first_seconds=10.0 * turn,
                first_count=100 * turn,
                rest_seconds=30.0 * turn,
                rest_tokens=3100 * turn,
                sequence_seconds=40.0 * turn,
                busy_seconds=30.0 * turn,
            )
            for e in engines
        },
        {f"key-{n:05d}": {f"{OLD}000": UsageCount(requests=turn)} for n in range(0, 1000, 5)},
    )


def fill(store: SqlStore, size: argparse.Namespace) -> None:
    """Add models without a plan, and their profiles, most of them superseded."""
    names = [f"{OLD}{number:03d}" for number in range(size.models)]
    for name in names:
        store.add_model(record(name, auto=False, max_replicas=1, demand=Demand(req_per_s=0.5)))
    for number in range(size.profiles):
        name, turn = names[number % len(names)], number // len(names)
        store.add_profile(_profile(name, turn))
    for number in range(size.keys):
        store.add_key(KeyRecord(id=f"key-{number:05d}", sha256=f"{number:064x}", created_at=NOW))


def _profile(name: str, turn: int) -> Profile:
    """A profile: on the whole GPU for the first turn, then on MPS shares."""
    found = measured_profile(name, hardware=HARDWARE, profile_id=f"{name}-{turn}")
    if turn == 0:
        size = PartitionSize(SharingMode.WHOLE, 1, 100)
    else:
        size = PartitionSize(SharingMode.MPS, 1, SM_PERCENTS[turn % len(SM_PERCENTS)])
    return dataclasses.replace(found, size=size)


if __name__ == "__main__":
    sys.exit(main())
