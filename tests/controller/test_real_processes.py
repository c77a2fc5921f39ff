"""The whole loop works with real simulated engines, the real proxy, profiler and planner."""

import asyncio
import dataclasses
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from partitiond.controller.limits import ControllerPolicy, WatchPolicy
from partitiond.controller.plans.planning import PlanOptions
from partitiond.controller.profiles.profiling import ProfilingOptions
from partitiond.controller.service import Adapters, Service, ServiceOptions, service_of
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, SourceKind, Weights
from partitiond.core.model.workload import Workload
from partitiond.core.plan.record import Infeasible, Plan
from partitiond.core.replica.observation import ReconcilePolicy
from partitiond.devices.host import HostDevices
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.models.resolver import Resolver
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.platform.clock import SystemClock
from partitiond.ports import Store
from partitiond.profiler.runner import Profiler
from partitiond.proxy.process import start_ticks
from partitiond.proxy.supervisor import ProxyProcess
from partitiond.store import open_store
from tests.controller.fakes import until

SECONDS = 240.0
pytestmark = pytest.mark.full


async def solved(request: PlanRequest) -> Plan | Infeasible:
    return await asyncio.to_thread(solve, request)


def simulated(name: str, model: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        source=ModelSource(SourceKind.CONFIG, model),
        weights=Weights.DUMMY,
        workload=Workload(16, 8),
        demand=Demand(req_per_s=0.1),
        engine_kind="simulated",
    )


@dataclasses.dataclass
class RealHost:
    """Two cores of this machine as the CPU device, and everything real but the engine's model."""

    folder: Path
    store: Store
    service: Service
    proxy: ProxyProcess
    former: list[ProxyProcess] = dataclasses.field(default_factory=list)

    async def restart(self) -> None:
        """Another daemon on the same state, after one that left everything running."""
        await self.service.daemon.shutdown(stop_engines=False)
        self.former.append(self.proxy)
        self.service, self.proxy = make(self.folder, self.store)
        await self.service.daemon.start()

    async def serves(self, *names: str) -> None:
        def all_serve() -> bool:
            views = [self.service.models.model(name) for name in names]
            return all(
                view.availability == "serving"
                and view.replicas_planned == view.replicas_serving > 0
                for view in views
            )

        await until(all_serve, SECONDS)

    async def complete(self, model: str) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.proxy.base_url, timeout=300) as client:
            body = {"model": model, "prompt": "one two three", "max_tokens": 4}
            return await client.post("/v1/completions", json=body)


def make(folder: Path, store: Store) -> tuple[Service, ProxyProcess]:
    runner = ProcessEngineRunner(folder / "r", None)
    proxy = ProxyProcess(
        host="127.0.0.1", port=0, state_dir=folder / "p", control_socket=folder / "r" / "p.sock"
    )
    cores = sorted(os.sched_getaffinity(0))[:2]
    service = service_of(
        Adapters(
            store=store,
            runner=runner,
            devices=HostDevices(cores, nvml=False),
            resolver=Resolver(folder / "models", None, offline=True),
            proxy=proxy,
            profiler=Profiler(runner),
            solve=solved,
            clock=SystemClock(),
        ),
        ServiceOptions(
            policy=ControllerPolicy(
                reconcile=ReconcilePolicy(stop_grace_seconds=2.0),
                watch=WatchPolicy(interval_seconds=0.2, idle_probe_seconds=2.0),
                loop_seconds=0.1,
                count_seconds=0.2,
            ),
            planning=PlanOptions(time_limit_seconds=1.0),
            profiling=ProfilingOptions(
                max_batch=2,
                time_limit_seconds=4.0,
                min_window_seconds=0.2,
                max_window_seconds=0.5,
                cpu_partition_cores=(1,),
            ),
        ),
    )
    return service, proxy


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[RealHost]:
    (tmp_path / "r").mkdir()
    store = open_store(tmp_path / "store.sqlite3")
    service, proxy = make(tmp_path, store)
    here = RealHost(tmp_path, store, service, proxy)
    await service.daemon.start()
    yield here
    await here.service.daemon.shutdown(stop_engines=True)
    for proxy in here.former:
        await proxy.wait_exit()  # the process was its child, so it is its to collect
    store.close()


async def test_two_models_go_from_registration_to_answers_and_survive_what_breaks(
    host: RealHost,
) -> None:
    await host.service.models.register(simulated("one", "opt-125m"))
    await host.service.models.register(simulated("two", "opt-1.3b"))
    await host.serves("one", "two")
    assert {p.kind.value for p in host.service.parts.store.profiles()} == {"estimated", "measured"}
    assert not host.service.models.model("one").provisional
    for model in ("one", "two"):
        answer = await host.complete(model)
        assert (answer.status_code, answer.json()["model"]) == (200, model)

    await _a_killed_engine_comes_back(host)
    await _a_killed_proxy_is_back_within_two_seconds(host)
    await _a_restart_adopts_engines_and_proxy(host)

    await host.service.models.remove("one")
    await until(lambda: {r.model for r in host.service.overview.replicas()} == {"two"}, SECONDS)
    assert (await host.complete("one")).status_code == 404
    assert (await host.complete("two")).status_code == 200


async def _a_killed_engine_comes_back(host: RealHost) -> None:
    victim = next(r for r in host.service.overview.replicas() if r.model == "one")
    assert victim.pid is not None
    os.kill(victim.pid, signal.SIGKILL)
    await until(lambda: all(r.pid != victim.pid for r in host.service.overview.replicas()), SECONDS)
    assert (await host.complete("two")).status_code == 200
    await host.serves("one")
    assert (await host.complete("one")).status_code == 200


async def _a_killed_proxy_is_back_within_two_seconds(host: RealHost) -> None:
    assert host.proxy.identity is not None
    pid = host.proxy.identity.pid
    os.kill(pid, signal.SIGKILL)

    def is_back() -> bool:
        identity = host.proxy.identity
        return identity is not None and identity.pid != pid

    await until(is_back, SECONDS)
    await host.serves("one", "two")


async def _a_restart_adopts_engines_and_proxy(host: RealHost) -> None:
    pids = {r.replica_id: r.pid for r in host.service.overview.replicas()}
    assert host.proxy.identity is not None
    proxy_pid = host.proxy.identity.pid
    await host.restart()
    await host.serves("one", "two")
    assert {r.replica_id: r.pid for r in host.service.overview.replicas()} == pids
    assert all(r.adopted and r.starts == 0 for r in host.service.overview.replicas())
    assert host.proxy.identity is not None
    assert host.proxy.identity.pid == proxy_pid


async def test_nothing_is_left_after_a_shutdown(host: RealHost) -> None:
    await host.service.models.register(simulated("one", "opt-125m"))
    await host.serves("one")
    pids = [r.pid for r in host.service.overview.replicas()]
    await host.service.daemon.shutdown(stop_engines=True)
    for pid in pids:
        assert pid is not None
        assert start_ticks(pid) is None  # a zombie that nobody waited for yet counts as gone
    assert list((host.folder / "r").glob("**/*.sock")) == []
