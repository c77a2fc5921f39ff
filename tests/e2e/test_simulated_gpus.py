"""The whole path works on a simulated host of eight GPUs with real processes: register, plan,
apply, serve, tear down; by memory shares, MPS and MIG; with a fault in the middle of each step.

At the end the host is always as it was found: no memory held, no GPU instance, no MPS process, MIG
as it was, and nothing in the device journal.
"""

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
import pytest

from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import MigSlice
from partitiond.core.plan.record import Objective, Placement
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.core.units import GIB
from partitiond.devices.mps import MpsControl
from partitiond.devices.partitions.journal import EntryKind, EntryState, read_entries
from partitiond.simulated.gpus import GpuDescription, HostDescription, KillPoint, SimulatedHost
from tests.e2e.harness import Fleet
from tests.machine import signal_all, wait_for
from tests.small_disk import fill, small_disk

pytestmark = pytest.mark.full

MODEL = "opt-125m"


class GpuFleet(Fleet):
    """A daemon on a simulated host."""

    def __init__(self, folder: Path, host: SimulatedHost, **overrides: object) -> None:
        self.host = host
        values: dict[str, object] = {
            "gpu.enabled": True,
            "gpu.simulated_host": str(host.folder),
            "cpu.enabled": False,
            "daemon.loop_seconds": 0.2,
            "planner.objective": Objective.MIN_DEVICES.value,
            "planner.time_limit_seconds": 3.0,
            "planner.deterministic": True,  # plans are the same on a busy machine
        }
        super().__init__(folder, values | overrides)
        self.found = self.picture()

    def cleanup(self) -> None:
        self.host.heal()
        super().cleanup()

    @property
    def journal(self) -> Path:
        return self.settings.state_dir / "devices.json"

    def picture(self) -> list[object]:
        """What is on the devices, apart from memory."""
        return [(u, self.host.mig_mode(u), self.host.geometry(u)) for u in self.host.uuids()]

    def register(self, name: str, replicas: int, **more: object) -> None:
        with self.client() as client:
            client.register(
                {
                    "name": name,
                    "model": MODEL,
                    "weights": "dummy",
                    "engine_kind": "simulated",
                    "workload": {"prompt_tokens": 64, "output_tokens": 32},
                    "min_replicas": replicas,
                    "max_replicas": replicas,
                    "auto": False,
                    **more,
                }
            )

    def apply(self) -> Sequence[Placement]:
        """Plan and apply; again where something changed between the two, as a user would."""
        with self.client() as client:
            for left in reversed(range(5)):
                preview = client.plan()
                try:
                    client.apply(preview.plan.id)
                    break
                except ConflictError:
                    if not left:
                        raise
            return preview.plan.placements

    def held_bytes(self) -> dict[str, int]:
        return {u: used for u in self.host.uuids() if (used := self.host.used_bytes(u))}

    def mps_processes(self) -> list[int]:
        return sorted(self._mps().pids())

    def _mps(self) -> MpsControl:
        return MpsControl(self.run_dir, str(self.host.mps_control))

    def failures(self) -> list[str]:
        with self.client() as client:
            return [e.message for e in client.events(limit=1000) if e.kind == "engine-failed"]

    def cordon(self, device_id: str) -> str:
        with self.client() as client:
            return next(d.cordon_reason for d in client.devices() if d.id == device_id)

    def apply_and_die(self) -> None:
        """Apply a plan whose first act kills the daemon."""
        with contextlib.suppress(PartitiondError):
            self.apply()
        self.wait_dead()

    def wait_dead(self) -> None:
        assert self.process is not None
        assert self.process.wait(60) == -signal.SIGKILL

    def grow(self, pid: int, more_bytes: int) -> None:
        """Let a process hold more of its GPU from now on, without a call of its own."""
        records = self.host._records
        with records.locked():
            for row in records.used("process"):
                if records.number("process", row, "pid") == pid:
                    held = int(records.number("process", row, "allocated_bytes"))
                    records.set("process", row, {"allocated_bytes": held + more_bytes})

    def mps(self, command: str, device: str) -> None:
        """Say something to the MPS daemon of a GPU, as an operator would."""
        asyncio.run(self._mps().daemon(device).ask(command))

    def replaced(self, before: Mapping[str, int | None]) -> None:
        """Wait until other processes serve under the same names."""

        def all_new() -> bool:
            now = {v.replica_id: v.pid for v in self.views() if v.state == "serving"}
            return now.keys() >= before.keys() and all(now[n] != before[n] for n in before)

        wait_for("engines to be replaced", all_new)

    def require_clean(self) -> None:
        """The host is as it was found."""
        wait_for("the memory to be free", lambda: not self.held_bytes())
        assert self.picture() == self.found
        assert self.mps_processes() == []
        assert read_entries(self.journal) == ()
        # A process that has let go of all it held may still be on its way out.
        wait_for("every process to end", lambda: not self.processes())


EIGHT = HostDescription("eight", (GpuDescription("a100-80gb", 8),), cores=64)
EIGHT_MIG = HostDescription("eight-mig", (GpuDescription("a100-80gb", 8, mig=True),), cores=64)

HOSTS = {
    # A plan uses what a host offers: without MPS's control program memory shares are left.
    SharingMode.MEMORY: EIGHT,
    SharingMode.MPS: EIGHT,
    SharingMode.MIG: EIGHT_MIG,
}

MakeFleet = Callable[[SharingMode], GpuFleet]


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[MakeFleet]:
    made: list[GpuFleet] = []

    def make(mode: SharingMode, **overrides: object) -> GpuFleet:
        host = SimulatedHost.create(HOSTS[mode], tmp_path / "host")
        if mode is SharingMode.MEMORY:
            host.mps_control.unlink()
        made.append(GpuFleet(tmp_path / "fleet", host, **overrides))
        return made[0]

    yield make
    for fleet in made:
        fleet.cleanup()


def planned_in(mode: SharingMode, placements: Sequence[Placement]) -> set[str]:
    """Devices of a plan, all of whose replicas run in this mode."""
    assert {p.partition.mode for p in placements} == {mode}
    return {p.device_id for p in placements}


def started(fleet: GpuFleet, mode: SharingMode, replicas: int = 2) -> str:
    """A fleet that serves one model in this mode; the first of its devices."""
    fleet.start()
    fleet.register("a", replicas)
    devices = planned_in(mode, fleet.apply())
    fleet.serving(replicas)
    return sorted(devices)[0]


def ended(fleet: GpuFleet) -> None:
    assert fleet.terminate() == 0
    fleet.require_clean()


@pytest.mark.parametrize("mode", [SharingMode.MEMORY, SharingMode.MPS, SharingMode.MIG])
def test_a_plan_is_what_the_gpus_get_and_they_are_given_back(
    make_fleet: MakeFleet, mode: SharingMode
) -> None:
    fleet = make_fleet(mode)
    fleet.start()
    fleet.register("a", 3)
    fleet.register("b", 2)
    placements = fleet.apply()
    devices = planned_in(mode, placements)
    fleet.serving(5)
    assert fleet.complete("a") == fleet.complete("b") == 8
    promised = {d: sum(p.partition.memory_bytes for p in placements if p.device_id == d)
                for d in devices}  # fmt: skip
    held = fleet.held_bytes()
    assert held.keys() == devices
    assert all(held[device] <= promised[device] for device in devices)
    kinds = {entry.kind for entry in read_entries(fleet.journal)}
    expected = {SharingMode.MPS: {EntryKind.MPS}, SharingMode.MIG: {EntryKind.MIG_INSTANCE}}
    assert kinds == expected.get(mode, set())
    slices = {
        (p.device_id, p.partition.slice_start)
        for p in placements
        if isinstance(p.partition, MigSlice)
    }
    assert slices == {(d, i.slice_start) for d in devices for i in fleet.host.geometry(d)}
    ended(fleet)


@pytest.mark.parametrize("mode", [SharingMode.MPS, SharingMode.MIG])
def test_on_a_full_disk_one_of_two_dead_engines_is_started_again_and_both(
    make_fleet: MakeFleet, mode: SharingMode
) -> None:
    fleet = make_fleet(mode)
    fleet.settings.state_dir.mkdir(parents=True, exist_ok=True)
    with small_disk(fleet.settings.state_dir, 8 * 1024**2) as disk:
        started(fleet, mode, replicas=2)
        filler = fill(disk)
        for count in (1, 2):
            dead = {view.replica_id: view.pid for view in fleet.serving(2)[:count]}
            for pid in dead.values():
                psutil.Process(pid).kill()
            fleet.replaced(dead)
        filler.unlink()
        wait_for("a store that is well again", lambda: fleet.problems() == {}, seconds=60)
        ended(fleet)


def test_a_daemon_killed_while_it_makes_or_gives_back_an_instance_leaves_none_behind(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(SharingMode.MIG)
    fleet.start()
    fleet.register("a", 1)
    fleet.host.fail("nvmlDeviceCreateGpuInstance*", KillPoint.AFTER)
    fleet.apply_and_die()
    (entry,) = read_entries(fleet.journal)
    assert (entry.kind, entry.state, entry.users) == (
        EntryKind.MIG_INSTANCE, EntryState.PLANNED, ("a-1",),
    )  # fmt: skip
    fleet.host.heal()
    fleet.start()
    fleet.serving(1)
    assert fleet.complete("a") == 8

    fleet.host.fail("nvmlGpuInstanceDestroy", KillPoint.BEFORE)
    with fleet.client() as client:
        client.remove("a")
    fleet.wait_dead()
    fleet.host.heal()
    fleet.start()
    wait_for("the leftover to go", lambda: not read_entries(fleet.journal))
    ended(fleet)


def test_engines_under_mps_are_adopted_and_started_again_with_what_they_shared(
    make_fleet: MakeFleet,
) -> None:
    """After a kill of the daemon, a fault of one client, a kill of MPS, and one that outgrows."""
    fleet = make_fleet(SharingMode.MPS)
    device = started(fleet, SharingMode.MPS, replicas=3)
    before = {view.replica_id: view.pid for view in fleet.views()}
    daemons, entries = fleet.mps_processes(), read_entries(fleet.journal)
    fleet.kill_daemon()
    fleet.start()
    assert {view.replica_id: view.pid for view in fleet.serving(3)} == before
    assert (fleet.mps_processes(), read_entries(fleet.journal)) == (daemons, entries)

    for fault in (True, False):
        before = {view.replica_id: view.pid for view in fleet.serving(3)}
        assert {view.device_id for view in fleet.views()} == {device}
        if fault:
            fleet.mps("simulate_fault", device)
        else:
            signal_all(fleet.mps_processes())
        fleet.replaced(before)
        assert fleet.complete("a") == 8

    before = {view.replica_id: view.pid for view in fleet.serving(3)}
    failed, grown = fleet.failures(), fleet.views()[0]
    assert grown.pid is not None
    for pid in (grown.pid, *(child.pid for child in psutil.Process(grown.pid).children(True))):
        fleet.grow(pid, grown.partition.memory_bytes)
    fleet.replaced({grown.replica_id: grown.pid})
    now = {view.replica_id: view.pid for view in fleet.serving(3)}
    assert {name for name, pid in before.items() if now[name] != pid} == {grown.replica_id}
    with fleet.client() as client:
        (told,) = [e for e in client.events(limit=1000) if e.kind == "engine-outgrew"]
    assert told.subject == grown.engine
    assert fleet.failures() == failed
    assert fleet.complete("a") == 8
    ended(fleet)


def test_memory_of_others_a_greedy_engine_and_a_lost_gpu_harm_nobody_else(
    make_fleet: MakeFleet,
) -> None:
    fleet = make_fleet(SharingMode.MEMORY)
    fleet.start()
    fleet.register("a", 1)
    with fleet.client() as client:
        plan = client.plan().plan
    (device,) = planned_in(SharingMode.MEMORY, plan.placements)
    with somebody() as pid:
        fleet.host.add_process(device, pid, 79 * GIB)
        with fleet.client() as client:
            client.apply(plan.id)
        # The event stays; the replica's own error is gone once it was moved to another GPU, which
        # a pass of the loop may do a moment later.
        wait_for("a refusal", lambda: any("promised" in e for e in fleet.failures()))
    (view,) = fleet.serving(1)

    greedy = {"extra_args": ["--extra-bytes", str(4 * GIB)]}
    fleet.register("greedy", 1, engine=greedy)
    fleet.apply()
    wait_for(
        "the refusal",
        lambda: any("does not keep to its partition" in e for e in fleet.failures()),
    )
    assert fleet.complete("a") == 8
    with fleet.client() as client:
        client.remove("greedy")

    lost = view.device_id
    fleet.host.lose(lost)
    wait_for("its cordon", lambda: "Xid 79" in fleet.cordon(lost))
    wait_for("its engines to end", lambda: all(v.device_id != lost or v.pid is None
                                               for v in fleet.views()))  # fmt: skip
    assert not {p.device_id for p in fleet.apply()} & {lost}
    fleet.serving(1)
    assert fleet.complete("a") == 8
    assert fleet.terminate() == 0
    fleet.host.restore(lost)
    fleet.require_clean()


@contextlib.contextmanager
def somebody() -> Iterator[int]:
    """A process that is none of ours."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.communicate()


def test_a_profile_of_a_slice_names_it_and_leaves_nothing(make_fleet: MakeFleet) -> None:
    """Which partition a job asks for, `tests/core/replica/test_leases.py` says of all kinds."""
    quick = {"profiling.min_window_seconds": 0.2, "profiling.max_window_seconds": 0.4}
    fleet = make_fleet(SharingMode.MIG, **quick)
    fleet.start()
    fleet.register("a", 1)
    asked = ProfileOptions(
        mig_profile="1g.10gb", max_batch=2, time_limit_seconds=3.0, confirm=False
    )
    with fleet.client() as client:
        job = fleet.finish(client.profile("a", asked))
        assert job.result is not None, job.error
        assert client.profile_by_id(job.result).size.mode is SharingMode.MIG
    ended(fleet)
