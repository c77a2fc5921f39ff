"""Kills a fleet's daemon at a named point, restarts it, and checks the invariants."""

import collections
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

import httpx

from partitiond.client.client import ControlClient
from partitiond.core.errors import ConflictError
from partitiond.core.keys.record import KeyRecord
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.replica.releases import ReleaseState
from partitiond.engines.process.signals import REPLICA_DIR_VARIABLE
from partitiond.platform.fault_points import VARIABLE, FaultPoint
from tests.e2e.harness import Fleet
from tests.machine import wait_for

CONVERGE_SECONDS = 120.0
TOKEN_SECONDS = "0.002"
RENEWED = "0.003"
MODEL = "a"
BODY = {
    "name": MODEL,
    "model": "opt-125m",
    "weights": "dummy",
    "engine_kind": "simulated",
    "workload": {"prompt_tokens": 16, "output_tokens": 8},
    "auto": False,
}
QUICK = {
    "daemon.loop_seconds": 0.1,
    "planner.time_limit_seconds": 2.0,
    "profiling.cpu_partition_cores": [1],
    "profiling.max_batch": 2,
    "profiling.time_limit_seconds": 4,
    "profiling.min_window_seconds": 0.2,
    "profiling.max_window_seconds": 0.4,
}


class KilledFleet(Fleet):
    """One daemon after the other on one state folder.

    Args:
        overrides: settings.

    Attributes:
        replicas: of its model.
    """

    def __init__(self, folder: Path, overrides: Mapping[str, object]) -> None:
        super().__init__(folder, QUICK | dict(overrides))
        self._faults = folder.with_name("fault")  # it is no sign of the fleet in an environment
        self.environment = {VARIABLE: f"@{self._faults}"}
        self.replicas = 1

    # --- the daemon ---------------------------------------------------------------------------

    def is_up(self) -> bool:
        """Whether it answers."""
        return self._looked_at() is not None

    def is_well(self) -> bool:
        """Whether nothing keeps it from its work."""
        return self._looked_at() == {}

    def _looked_at(self) -> Mapping[str, str] | None:
        """Its problems; None also of a daemon that ends meanwhile."""
        try:
            return self.problems()
        except AssertionError:
            return None

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def cleanup(self) -> None:
        if self.is_alive:
            self.kill_daemon()
        super().cleanup()

    def arm(self, point: FaultPoint, count: int = 1) -> None:
        """The daemon that runs, or the next one, ends when it comes there for that time."""
        self._faults.write_text(f"{point}:{count}")

    def up(self) -> None:
        """As the first test of all finds it, whatever happened to the one before."""
        self.disarm()
        if not self.is_alive:
            self.start()

    def disarm(self) -> None:
        self._faults.write_text("")

    def wait_dead(self) -> None:
        wait_for("the daemon to come to the point", lambda: not self.is_alive, seconds=60,
                 pause=0.005)  # fmt: skip

    # --- what runs ----------------------------------------------------------------------------

    def engines(self) -> dict[str, list[int]]:
        return engines_in(self.run_dir)

    def never_twice(self) -> dict[str, list[int]]:
        """The engines; none of them is there twice."""
        found = self.engines()
        assert all(len(pids) == 1 for pids in found.values()), f"started twice: {found}"
        return found

    def run_folders(self) -> set[str]:
        return {entry.parent.name for entry in self.run_dir.glob("*/launch.json")}

    def wanted(self) -> dict[str, str]:
        """State by replica, as the store says it is to be."""
        with self.client() as client:
            plan = client.current_plan()
            asleep = {view.record.spec.name: view.asleep for view in client.models()}
        return {
            p.replica_id: "asleep" if asleep[p.model] else "serving"
            for p in (plan.wanted if plan is not None else ())
            if p.model in asleep
        }

    def states(self) -> dict[str, str]:
        """State by engine."""
        with self.client() as client:
            return {view.engine: view.state for view in client.replicas()}

    def converged(self) -> bool:
        """Whether what runs is what the store says, once each, and nothing else.

        A model that was removed wants nothing, whatever the plan says.
        """
        running = self.never_twice()
        wanted = self.wanted()
        states = self.states()
        whole = {_replica(name): state for name, state in states.items()} == wanted
        return whole and len(states) == len(wanted) and running.keys() == states.keys()

    def converge(self) -> None:
        try:
            wait_for("what the store says", self.converged, seconds=CONVERGE_SECONDS, pause=0.05)
        except AssertionError as error:
            raise AssertionError(
                f"{error}: wants {self.wanted()}, has {self.states()}, runs {self.engines()}\n"
                f"{self.log.read_text()[-1500:]}"
            ) from error
        assert self.run_folders() >= self.engines().keys()

    def kept(self) -> dict[str, set[str]]:
        """What the store has by kind; nothing of it may be lost by a crash."""
        with self.client() as client:
            return {
                "keys": set(map(_id, client.keys())),
                "profiles": {profile.id for profile in client.profiles()},
                "events": {str(event.id) for event in client.events(limit=1000)},
                "jobs": {job.id for job in client.jobs()},
            }

    # --- what a user does, and does again until it is so -----------------------------------------

    def register(self) -> None:
        with self.client() as client:
            if MODEL not in {view.record.spec.name for view in client.models()}:
                count = {"min_replicas": self.replicas, "max_replicas": self.replicas}
                client.register(BODY | count | {"engine": self._engine(TOKEN_SECONDS)})

    def _engine(self, token_seconds: str) -> dict[str, object]:
        return {"sleep_mode": True, "extra_args": ["--token-seconds", token_seconds]}

    def serve(self) -> None:
        """The model is registered, and a plan with it is applied."""
        self.register()
        with self.client() as client:
            plan = client.current_plan()
            if plan is None or not any(p.model == MODEL for p in plan.placements):
                _apply(client)

    def renew(self) -> None:
        """The model is replaced by its next version."""
        with self.client() as client:
            client.update(MODEL, {"engine": self._engine(RENEWED)})

    def roll_back(self) -> None:
        """It is the version that it was first."""
        with self.client() as client, contextlib.suppress(ConflictError):
            client.roll_back(MODEL, min(r.version for r in client.releases(MODEL)))

    def is_version(self, token_seconds: str) -> bool:
        """Whether that one serves, and the other one is known as the way back."""
        with self.client() as client:
            releases = client.releases(MODEL)
        states = {r.spec.engine.extra_args[1]: r.state for r in releases}
        other = ({TOKEN_SECONDS, RENEWED} - {token_seconds}).pop()
        wanted = {token_seconds: ReleaseState.SERVING, other: ReleaseState.REPLACED}
        return states == wanted and all(
            f"--token-seconds\0{token_seconds}\0".encode() in _command(pid)
            for pids in self.engines().values()
            for pid in pids
        )

    def make_key(self) -> None:
        with self.client() as client:
            client.create_key("a key")

    def sleep(self) -> None:
        with self.client() as client:
            client.sleep(MODEL)

    def wake(self) -> None:
        with self.client() as client:
            client.wake(MODEL)

    def remove(self) -> None:
        with self.client() as client:
            if MODEL in {view.record.spec.name for view in client.models()}:
                client.remove(MODEL)

    def profile(self) -> None:
        """A job that measures it, unless one waits or runs or has ended well."""
        with self.client() as client:
            if not any(job.state is JobState.SUCCEEDED for job in client.jobs()):
                client.profile(MODEL, ProfileOptions(cores=1))

    def profiled(self) -> bool:
        """Asked for again as long as it is interrupted."""
        self.profile()
        with self.client() as client:
            measured = [p for p in client.profiles(MODEL) if p.kind.value == "measured"]
            done = any(job.state is JobState.SUCCEEDED for job in client.jobs())
        return done and bool(measured)

    def answers(self) -> bool:
        """Whether a request is answered through the endpoint."""
        body = {"model": MODEL, "prompt": "Once", "max_tokens": 2}
        with contextlib.suppress(httpx.HTTPError):
            url = f"{self.base_url}/completions"
            return httpx.post(url, json=body, timeout=60, verify=False).is_success
        return False


def engines_in(run_dir: Path) -> dict[str, list[int]]:
    """Engine processes by the name of their run folder, counted on the host."""
    found = collections.defaultdict(list)
    mark = f"{REPLICA_DIR_VARIABLE}={run_dir.resolve()}/".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"partitiond.simulated.engine" not in words:
                continue
            for variable in (entry / "environ").read_bytes().split(b"\0"):
                if variable.startswith(mark):
                    found[variable[len(mark) :].decode()].append(int(entry.name))
    return dict(found)


def _replica(engine: str) -> str:
    """The one that took another one's place has a suffix: a-1.2 is an engine of a-1."""
    return engine.partition(".")[0]


def _command(pid: int) -> bytes:
    """The process's arguments; none of one that ended after it was listed."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def _id(key: KeyRecord) -> str:
    return key.id


def _apply(client: ControlClient) -> None:
    """Plan and apply; again where something changed between the two, as a user would."""

    def applied() -> bool:
        plan = client.plan().plan
        with contextlib.suppress(ConflictError):
            if any(p.model == MODEL for p in plan.placements):
                client.apply(plan.id)
                return True
        return False

    wait_for("a plan with the model", applied, seconds=CONVERGE_SECONDS)


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 9)
