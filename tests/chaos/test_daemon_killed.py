"""The host converges after `kill -9` of the daemon at every step of every action.

The points are the program's own list (`partitiond.platform.fault_points`): a point without a case
here fails a test. At each point a daemon ends in the middle of an action. The next daemon must by
itself bring the host to the state in the store: each engine runs once, no unwanted engine runs,
running engines are adopted and not restarted, and nothing that was stored is lost. Then the client
repeats its request, which must succeed.
"""

import contextlib
import dataclasses
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

import partitiond
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.devices.partitions.journal import read_entries
from partitiond.platform.fault_points import FaultPoint
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.chaos.killed_fleet import RENEWED, TOKEN_SECONDS, KilledFleet, kill
from tests.machine import wait_for

Act = Callable[[KilledFleet], None]


def nothing_runs(fleet: KilledFleet) -> None:
    fleet.remove()
    fleet.converge()


def it_serves(fleet: KilledFleet) -> None:
    fleet.serve()
    fleet.wake()
    fleet.converge()


def it_sleeps(fleet: KilledFleet) -> None:
    fleet.serve()
    fleet.sleep()
    fleet.converge()


def it_serves_first(fleet: KilledFleet) -> None:
    """As its first version, and there never was another one."""
    nothing_runs(fleet)
    it_serves(fleet)


def it_is_renewed(fleet: KilledFleet) -> None:
    it_serves(fleet)
    wait_for("the next version", lambda: fleet.is_version(RENEWED), seconds=60)
    fleet.converge()


def it_is_as_it_was(fleet: KilledFleet) -> None:
    wait_for("the first version", lambda: fleet.is_version(TOKEN_SECONDS), seconds=60)
    fleet.converge()


def it_was_renewed(fleet: KilledFleet) -> None:
    it_serves(fleet)
    fleet.renew()
    it_is_renewed(fleet)


@dataclasses.dataclass(frozen=True)
class Case:
    """An action in whose middle the daemon is ended.

    Attributes:
        before: brings the fleet to where the action begins.
        act: what a user asks; asked again after the crash.
        after: what must be so in the end.
        adopts: engines that run when the daemon ends still run after the next one's start.
    """

    before: Act
    act: Act
    after: Act
    adopts: bool = False


STARTING = Case(nothing_runs, KilledFleet.serve, it_serves)
STARTED = dataclasses.replace(STARTING, adopts=True)
KEYED = Case(it_serves, KilledFleet.make_key, it_serves, adopts=True)
RESTS = Case(it_serves, KilledFleet.sleep, it_sleeps, adopts=True)
WAKES = Case(it_sleeps, KilledFleet.wake, it_serves, adopts=True)
STOPS = Case(it_serves, KilledFleet.remove, nothing_runs)
RENEWS = Case(it_serves_first, KilledFleet.renew, it_is_renewed)
GOES_BACK = Case(it_was_renewed, KilledFleet.roll_back, it_is_as_it_was)

# In the order in which they cost least: each begins where the one before ended.
ON_A_CPU = {
    FaultPoint.MODEL_STORED: STARTING,
    FaultPoint.KEY_STORED: KEYED,
    FaultPoint.SLEEP_MARKED: RESTS,
    FaultPoint.WAKE_MARKED: WAKES,
    FaultPoint.MODEL_REMOVED: STOPS,
    FaultPoint.PLAN_STORED: STARTING,
    FaultPoint.ENGINE_RESTS: RESTS,
    FaultPoint.ENGINE_WAKES: WAKES,
    FaultPoint.ENGINE_DRAINS: STOPS,
    FaultPoint.PLAN_APPLIED: STARTING,
    FaultPoint.ENGINE_FALLS_ASLEEP: RESTS,
    FaultPoint.ENGINE_WOKE: WAKES,
    FaultPoint.STOP_ASKED: STOPS,
    FaultPoint.ENGINE_BEGUN: STARTING,
    FaultPoint.ENGINE_FELL_ASLEEP: RESTS,
    FaultPoint.ENGINE_TERMINATED: STOPS,
    FaultPoint.RUN_FOLDER_MADE: STARTING,
    FaultPoint.ENGINE_GONE: STOPS,
    FaultPoint.LAUNCH_WRITTEN: STARTING,
    FaultPoint.ENGINE_TIDIED: STOPS,
    FaultPoint.COMMAND_WRITTEN: STARTING,
    FaultPoint.ENGINE_STOPPED: STOPS,
    FaultPoint.SHIM_SPAWNED: STARTING,
    FaultPoint.TABLE_NUMBERED: STOPS,
    FaultPoint.ENGINE_IDENTIFIED: STARTED,
    FaultPoint.TABLE_PUBLISHED: STOPS,
    FaultPoint.ENGINE_ANSWERED: STARTED,
    FaultPoint.STORE_COMMITTING: STOPS,
    FaultPoint.ENGINE_READY: STARTED,
    FaultPoint.STORE_COMMITTED: STOPS,
    FaultPoint.RELEASE_KEPT: RENEWS,
    FaultPoint.MODEL_UPDATED: RENEWS,
    FaultPoint.RELEASE_WANTED: GOES_BACK,
}
AT_THE_START = (
    FaultPoint.PROXY_SPAWNED,
    FaultPoint.PROXY_STARTED,
    FaultPoint.ENGINES_FOUND,
    FaultPoint.ENGINES_ADOPTED,
)
IN_A_JOB = (
    FaultPoint.JOB_QUEUED,
    FaultPoint.JOB_STARTED,
    FaultPoint.PROFILE_STORED,
    FaultPoint.JOB_FINISHED,
)
ON_A_GPU = {
    FaultPoint.JOURNAL_DRAFTED: STARTING,
    FaultPoint.PARTITION_RELEASING: STOPS,
    FaultPoint.DEVICE_PLANNED: STARTING,
    FaultPoint.DEVICE_UNDONE: STOPS,
    FaultPoint.DEVICE_TOUCHED: STARTING,
    FaultPoint.PARTITION_RELEASED: STOPS,
    FaultPoint.PARTITION_PREPARED: STARTING,
    FaultPoint.DEVICE_DONE: STARTING,
}
EACH_KIND = {
    FaultPoint.MODEL_REMOVED,
    FaultPoint.SHIM_SPAWNED,
    FaultPoint.STORE_COMMITTING,
    FaultPoint.ENGINES_FOUND,
    FaultPoint.DEVICE_TOUCHED,
}
"""One of each kind of action is in `make test-full`, all of them in `make soak`."""


def marked(points: Iterable[FaultPoint]) -> list[object]:
    return [
        pytest.param(
            point,
            id=point.value,
            marks=pytest.mark.full if point in EACH_KIND else pytest.mark.soak,
        )
        for point in points
    ]


PARTITIONS = [
    pytest.param(mode, point, marks=mark, id=f"{mode}-{point}")
    for mode, points in (
        (SharingMode.MPS, tuple(ON_A_GPU)),
        (SharingMode.MIG, (FaultPoint.DEVICE_TOUCHED, FaultPoint.DEVICE_UNDONE)),
    )
    for point in points
    for mark in [
        pytest.mark.full if point in EACH_KIND and mode is SharingMode.MPS else pytest.mark.soak
    ]
]


@pytest.fixture(scope="module")
def fleet() -> Iterator[KilledFleet]:
    with (
        tempfile.TemporaryDirectory(prefix="pd-") as name,
        KilledFleet(Path(name) / "fleet", {"cpu.cores": [0, 1]}) as found,
    ):
        found.start()
        yield found


def test_every_point_is_somewhere_in_the_program_and_in_a_case() -> None:
    sources = "".join(
        file.read_text()
        for file in Path(partitiond.__file__).parent.rglob("*.py")
        if file.name != "fault_points.py"
    )
    placed = set(re.findall(r"reached\(FaultPoint\.([A-Z_]+)\)", sources))
    assert placed == {point.name for point in FaultPoint}
    cases = [*ON_A_CPU, *AT_THE_START, *IN_A_JOB, *ON_A_GPU]
    assert sorted(cases) == sorted(FaultPoint), "a point without a case, or one with two"


@pytest.mark.parametrize("point", marked(ON_A_CPU))
def test_in_the_life_of_an_engine(fleet: KilledFleet, point: FaultPoint) -> None:
    die_and_recover(fleet, ON_A_CPU[point], point)
    assert fleet.converged()


def die_and_recover(fleet: KilledFleet, case: Case, point: FaultPoint, count: int = 1) -> None:
    fleet.up()
    case.before(fleet)
    kept = fleet.kept()
    fleet.arm(point, count)
    with contextlib.suppress(PartitiondError):
        case.act(fleet)
    fleet.wait_dead()
    fleet.disarm()
    left = fleet.never_twice()
    fleet.start()
    fleet.converge()
    now = fleet.kept()
    assert all(kept[kind] <= now[kind] for kind in kept), "something stored was lost"
    if case.adopts:
        assert left
        assert fleet.engines() == left, "what ran was started again"
    case.act(fleet)
    case.after(fleet)


@pytest.mark.parametrize("point", marked(AT_THE_START))
def test_in_its_own_start(fleet: KilledFleet, point: FaultPoint) -> None:
    """Killed while it takes over what the daemon before left; the third one has it all."""
    fleet.up()
    it_serves(fleet)
    left = fleet.engines()
    fleet.kill_daemon()
    if point is FaultPoint.PROXY_SPAWNED:
        kill(fleet.process_with("partitiond.proxy"))
    fleet.arm(point)
    fleet.launch()
    fleet.wait_dead()
    fleet.disarm()
    fleet.start()
    fleet.converge()
    assert fleet.engines() == left
    wait_for("an answer", fleet.answers)


@pytest.mark.soak
def test_in_a_profile_job(fleet: KilledFleet) -> None:
    """At each of its steps, one after the other: in the end the profile is there."""
    fleet.up()
    nothing_runs(fleet)
    fleet.register()
    for point in IN_A_JOB:
        # The first that ends is the one that the daemon before left running.
        fleet.arm(point, 2 if point is FaultPoint.JOB_FINISHED else 1)
        if not fleet.is_alive:
            fleet.launch()
        wait_for(f"the daemon to come to {point}", lambda: asks_until_dead(fleet), seconds=60)
    fleet.disarm()
    fleet.start()
    wait_for("the profile", fleet.profiled, seconds=60)
    with fleet.client() as client:
        results = {job.result for job in client.jobs() if job.result}
        assert results <= {profile.id for profile in client.profiles("a")}
    nothing_runs(fleet)


def asks_until_dead(fleet: KilledFleet) -> bool:
    with contextlib.suppress(PartitiondError):
        fleet.profile()
    return not fleet.is_alive


@pytest.fixture(scope="module")
def gpus(request: pytest.FixtureRequest) -> Iterator[tuple[KilledFleet, SimulatedHost]]:
    """A fleet on one simulated GPU, which is as it was found in the end."""
    mig = request.param is SharingMode.MIG
    with tempfile.TemporaryDirectory(prefix="pd-") as name:
        described = HostDescription("one", (GpuDescription("a100-80gb", 1, mig=mig),), cores=8)
        host = SimulatedHost.create(described, Path(name) / "host")
        settings = {
            "gpu.enabled": True,
            "gpu.simulated_host": str(host.folder),
            "cpu.enabled": False,
        }
        with KilledFleet(Path(name) / "fleet", settings) as found:
            found.replicas = 2  # one alone would get the whole device
            found.start()
            yield found, host
            found.terminate()
            assert read_entries(found.settings.state_dir / "devices.json") == ()
            assert [host.used_bytes(uuid) for uuid in host.uuids()] == [0]
            assert [host.geometry(uuid) for uuid in host.uuids()] == [()]
            assert found.processes() == []


@pytest.mark.parametrize(("gpus", "point"), PARTITIONS, indirect=["gpus"])
def test_with_a_partition(gpus: tuple[KilledFleet, SimulatedHost], point: FaultPoint) -> None:
    fleet, host = gpus
    die_and_recover(fleet, ON_A_GPU[point], point)
    used = [user for entry in read_entries(fleet.settings.state_dir / "devices.json")
            for user in entry.users]  # fmt: skip
    assert set(used) == fleet.engines().keys(), "a partition without its engine"
    assert not fleet.engines() or any(host.used_bytes(uuid) for uuid in host.uuids())
