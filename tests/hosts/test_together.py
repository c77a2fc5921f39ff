"""One control plane over two hosts: the real controller and planner, simulated engines."""

import asyncio
import dataclasses
import itertools
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from partitiond.controller.plans.planning import PlanOptions
from partitiond.controller.service import Adapters, Service, ServiceOptions, service_of
from partitiond.core.errors import EngineUnavailableError, HostSilentError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.core.hardware.host_state import HostLimits
from partitiond.core.model.placement_rules import FaultDomain, PlacementRules
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.replica.states import ReplicaState
from partitiond.engines.process.runner import ProcessEngineRunner
from partitiond.hosts.together import Hosts
from partitiond.models.copies import COPIES, CopiedFolders
from partitiond.models.prepared import is_complete
from partitiond.platform.clock import SystemClock
from partitiond.store import Store, open_store
from tests.controller.fakes import POLICY, FakeResolver, FakeRunner, solved
from tests.controller.samples import spec
from tests.devices.fake import FakeDevices
from tests.engine_fixtures import usable_cores
from tests.hosts.pipes import FakeAgent, Pipe, agent, devices_of, piped
from tests.hosts.test_models import FILES, OwnDisk
from tests.machine import until
from tests.proxy.virtual import real_time

SECONDS = 240.0
LIMITS = HostLimits(silent_seconds=10.0, lost_seconds=600.0)
MODELS = "model_folder"


class OneFolder(FakeResolver):
    """Resolves every model to one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        folder.mkdir(parents=True)
        for name, data in FILES.items():
            (folder / name).write_bytes(data)

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        found = await super().resolve(spec, progress)
        return dataclasses.replace(found, folder=self._folder)


class Two:
    """The hosts "one", in this process, and "two", behind a pipe, each with a run folder."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.folder = folder
        self.store = store
        self.one, self.two = (self._agent(name) for name in ("one", "two"))
        self.pipe: Pipe
        self.service = self._make()

    def _agent(self, name: str) -> FakeAgent:
        """Each has a folder of models of its own; only the first one fetches."""
        there = agent(name, ProcessEngineRunner(self.folder / name, None))
        there.devices.become(devices_of(name, usable_cores(2)))
        models_dir = self.folder / f"{name}-models"
        if name == "one":
            there.models = OneFolder(models_dir / "tiny")
            there.folders = CopiedFolders(models_dir, anywhere=True)
        else:
            there.models.breaks["a"] = AssertionError("the second host fetches nothing")
            there.folders = OwnDisk(models_dir)
        return there

    def _make(self) -> Service:
        remote, self.pipe = piped(self.two)
        hosts = Hosts([self.one, remote], look_seconds=5.0, ask_again_seconds=0.05, limits=LIMITS)
        return service_of(
            Adapters(
                store=self.store,
                runner=hosts.engines,
                devices=hosts.devices,
                resolver=hosts.models,
                proxy=hosts.proxy,
                profiler=hosts.profiler,
                solve=solved,
                clock=SystemClock(),
                engine_problem=hosts.engine_problem,
                engine_version=hosts.engine_version,
                host_memory=hosts.host_memory,
                partitions=hosts.partitions,
                gauges=hosts.gauges,
            ),
            ServiceOptions(
                policy=dataclasses.replace(POLICY, device_seconds=0.1, loop_seconds=0.05),
                planning=PlanOptions(time_limit_seconds=1.0),
            ),
        )

    async def restart(self) -> None:
        """Another daemon on the same state; the hosts go on."""
        cut = self.pipe.is_cut
        await self.service.daemon.shutdown(stop_engines=False)
        self.service = self._make()
        if cut:
            self.pipe.cut()
        await self.service.daemon.start()

    def engines(self) -> dict[str, tuple[str, int]]:
        """Name, host and pid of the engines that serve."""
        return {
            e.name: (e.handle.host, e.handle.pid)
            for e in self.service.parts.controller.engines
            if e.state is ReplicaState.SERVING and e.handle is not None
        }

    def health(self) -> dict[str, DeviceHealth]:
        return {d.id: d.health for d in self.service.devices.devices}

    async def passes(self, count: int) -> None:
        """Wait until the controller has looked and decided so often."""
        controller, ended = self.service.parts.controller, asyncio.Event()
        left, one_pass = itertools.count(count - 1, -1), controller.one_pass

        async def counted() -> None:
            await one_pass()
            if next(left) == 0:
                ended.set()

        setattr(controller, "one_pass", counted)  # noqa: B010 - types forbid it
        async with asyncio.timeout(SECONDS):
            await ended.wait()
        setattr(controller, "one_pass", one_pass)  # noqa: B010

    async def serves(self) -> None:
        def all_serve() -> bool:
            view = self.service.models.model("a")
            return 0 < view.replicas_planned == view.replicas_serving

        await until(all_serve)


@pytest.fixture
async def hosts() -> AsyncIterator[Two]:
    """Both with a daemon; nothing runs on either afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    store = open_store(":memory:")
    here = Two(folder, store)
    await here.service.daemon.start()
    yield here
    here.pipe.mend()
    await here.service.daemon.shutdown(stop_engines=True)
    for handle in await here.two.engines.find():
        await here.two.engines.stop(handle, 0.0)
    store.close()
    shutil.rmtree(folder)


@real_time
async def test_a_plan_over_two_hosts_is_run_adopted_and_outlives_a_silent_host(hosts: Two) -> None:
    over_hosts = PlacementRules(survive=FaultDomain.HOST)
    wanted = spec("a", demand=Demand(req_per_s=9.0), engine_kind="simulated", rules=over_hosts)
    await hosts.service.models.register(dataclasses.replace(wanted, auto=False))
    seen = {d.id: d.host for d in hosts.service.devices.devices}
    assert seen == {"GPU-one": "one", "cpu-one": "one", "GPU-two": "two", "cpu-two": "two"}
    await hosts.service.plans.apply()
    await hosts.serves()
    before, applied = hosts.engines(), hosts.service.plans.applied()
    assert {host for host, _ in before.values()} == {"one", "two"}
    folders = {
        host: Path(json.loads((hosts.folder / host / name / "launch.json").read_text())[MODELS])
        for name, (host, _) in before.items()
    }
    assert folders["one"] == hosts.folder / "one-models" / "tiny"
    assert folders["two"].parent == hosts.folder / "two-models" / COPIES
    assert is_complete(folders["two"])
    assert {name: (folders["two"] / name).read_bytes() for name in FILES} == FILES
    for there in (hosts.one, hosts.two):
        await until(lambda there=there: bool(there.proxy.tables))  # type: ignore[misc]
        mine = {name for name, (host, _) in before.items() if host == there.name}
        await until(
            lambda there=there, mine=mine: (
                {r.replica_id for r in there.proxy.table.replicas}  # type: ignore[misc]
                == mine
            ),
        )

    await hosts.restart()
    await hosts.serves()
    assert hosts.engines() == before

    hosts.pipe.cut()
    await until(lambda: hosts.health()["cpu-two"] is DeviceHealth.SILENT)
    assert hosts.health()["cpu-one"] is DeviceHealth.FINE
    await hosts.passes(5)
    assert hosts.engines() == before  # nothing is known of those on two, so nothing is done
    assert hosts.service.parts.controller.problem == ""

    await hosts.restart()  # nobody tells this daemon what runs on two
    await until(lambda: hosts.health().get("cpu-two") is DeviceHealth.SILENT)
    on_one = {name: at for name, at in before.items() if at[0] == "one"}
    await until(lambda: hosts.engines() == on_one)

    hosts.pipe.mend()
    await until(lambda: hosts.engines() == before)
    await until(lambda: hosts.health()["cpu-two"] is DeviceHealth.FINE)
    await hosts.passes(5)
    assert hosts.engines() == before
    assert hosts.service.plans.applied() == applied


async def test_an_engine_on_any_host_will_do() -> None:
    own, two, three = (FakeAgent(n, FakeRunner(), FakeDevices(devices_of(n))) for n in "abc")
    hosts = Hosts([own, two])
    absent = two.problem = EngineUnavailableError("there is none.", hint="Install it.")
    assert hosts.engine_problem() is None
    own.problem, two.problem = absent, None
    assert hosts.engine_problem() is None
    two.problem = absent
    assert hosts.engine_problem() is absent
    hosts.add(piped(three)[0])
    with pytest.raises(HostSilentError, match="not looked at yet"):
        hosts.engine_problem()
