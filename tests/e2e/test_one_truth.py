"""All surfaces of one daemon agree on engines, plans and memory, in a change and after it."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from partitiond.core.units import GIB, Bytes, format_bytes
from partitiond.core.views.lists import ReplicaView
from partitiond.core.views.overview import Overview
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.harness import clean_environment, command
from tests.e2e.test_simulated_gpus import GpuFleet
from tests.machine import wait_for

TWO = HostDescription("two", (GpuDescription("a100-80gb", 2),), cores=16)
FOREIGN = 4711
"""A process that leaves the second GPU no room: what is to come there does not start."""
ENGINE = re.compile(r"a-\d+(\.\d+)?")
"""Names of engines of the model `a`."""


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[GpuFleet]:
    with GpuFleet(tmp_path / "fleet", SimulatedHost.create(TWO, tmp_path / "host")) as made:
        yield made


class Surfaces:
    """What each surface says at one moment; nothing changed meanwhile."""

    def __init__(self, fleet: GpuFleet) -> None:
        with fleet.client() as client:
            self.overview: Overview = client.overview()
            self.replicas: list[ReplicaView] = list(client.replicas())
            applied, waiting = client.current_plan(), client.waiting_plan()
            self.planned = {p.replica_id for p in applied.wanted} if applied else set()
            self.plans = (applied.id if applied else "", waiting.plan.id if waiting else "")
            self.drift = {view.engine for view in client.drift().replicas}
            self.metrics = client.metrics()
            self.status, self.devices = said(fleet, "status"), said(fleet, "devices")
            self.status_json = json.loads(said(fleet, "status", "--json"))
            assert self._still(client.replicas()) == self._still(self.replicas)

    @staticmethod
    def _still(views: Sequence[ReplicaView]) -> list[tuple[str, str, int]]:
        return [(view.engine, view.state, view.starts) for view in views]

    def engines(self) -> dict[str, str]:
        """State by name, the same on all surfaces."""
        found = {view.engine: view.state for view in self.replicas}
        assert len(found) == len(self.replicas)
        assert {view.engine: view.state for view in self.overview.replicas} == found
        assert {view["engine"]: view["state"] for view in self.status_json["replicas"]} == found
        rows = [line.split() for line in self.status.splitlines()]
        named = {row[0]: row[1] for row in rows if len(row) > 1 and ENGINE.fullmatch(row[0])}
        assert named == found, self.status
        told = re.findall(r'partitiond_replica_memory_bytes\{[^}]*replica="([^"]+)"', self.metrics)
        assert sorted(told) == sorted(found)
        assert self.drift == {name for name, state in found.items() if state == "serving"}
        assert {view.replica_id for view in self.replicas} == self.planned
        assert {view.engine.partition(".")[0] for view in self.replicas} == self.planned
        return found

    def waiting(self) -> str:
        """The plan that waits, the same on all surfaces."""
        plan, waits = self.plans
        assert (self.overview.plan_id, self.overview.waiting_plan_id) == self.plans
        assert (
            self.status_json["plan_id"],
            self.status_json["waiting_plan_id"] or "",
        ) == self.plans
        assert re.search(rf"^plan +{plan}$", self.status, re.MULTILINE)
        assert f"partitiond_plan_waiting {float(bool(waits))}" in self.metrics
        text = self.status
        assert (f"partitiond apply {waits}" in text) if waits else ("waits" not in text), text
        return waits

    def _comes(self) -> bool:
        return any(view.coming_bytes for view in self.replicas)

    def memory(self) -> dict[str, tuple[int, int]]:
        """What is held and what is to come by device, the same on all surfaces."""
        found = {v.device.id: (v.held_bytes, v.coming_bytes) for v in self.overview.devices}
        for view in self.overview.devices:
            own = [replica for replica in self.replicas if replica.device_id == view.device.id]
            held, coming = (sum(r.held_bytes for r in own), sum(r.coming_bytes for r in own))
            assert found[view.device.id] == (held, coming)
            assert held <= view.room_bytes
            row = next(line for line in self.devices.splitlines() if view.device.id[:12] in line)
            counts = [held, coming] if self._comes() else [held]
            words = " +".join(re.escape(format_bytes(Bytes(count))) for count in counts)
            assert re.search(rf"GiB +{words} +\d", row), row
        return found


def said(fleet: GpuFleet, *words: str) -> str:
    """What a command prints on a wide terminal."""
    wide = {**clean_environment(), "COLUMNS": "160"}
    return command("--config", fleet.config, *words, env=wide).stdout


def agreed(fleet: GpuFleet) -> Surfaces:
    """The surfaces once they agree: some look now, others say what was a few seconds ago."""
    why: list[AssertionError] = []

    def look() -> Surfaces | None:
        try:
            found = Surfaces(fleet)
            found.engines()
            found.waiting()
            found.memory()
        except AssertionError as error:
            why.append(error)
            return None
        return found

    try:
        return wait_for("all surfaces to agree", look)
    except AssertionError:
        raise why[-1] from None


@pytest.mark.full
def test_all_surfaces_agree_during_a_change_and_after(fleet: GpuFleet) -> None:
    fleet.start()
    fleet.register("a", 2)
    placements = fleet.apply()
    fleet.serving(2)
    assert len({p.device_id for p in placements}) == 1
    here = placements[0].device_id
    (there,) = set(fleet.host.uuids()) - {here}
    before = agreed(fleet)
    assert before.engines() == {"a-1": "serving", "a-2": "serving"}
    assert before.waiting() == ""
    size = sum(p.partition.memory_bytes for p in placements)
    assert before.memory() == {here: (size, 0), there: (0, 0)}

    with fleet.client() as client:
        client.cordon(here, "its fan")
        wait_for("a plan to wait", lambda: client.overview().waiting_plan_id)
        proposed = client.plan().plan  # the same one, or a better one that takes its place
        asked = proposed.id
        moved = sum(p.partition.memory_bytes for p in proposed.placements)
        *_, told = (event for event in client.events() if event.kind == "plan-waits")
    waits = agreed(fleet).waiting()
    assert (asked, told.subject) == (waits, waits)

    fleet.host.add_process(there, FOREIGN, 78 * GIB)
    with fleet.client() as client:
        wait_for(
            "the process to be seen", lambda: any(d.foreign for d in client.devices()), seconds=60
        )
        client.apply(waits)
    during = agreed(fleet)
    engines = during.engines()
    assert set(engines) == {"a-1", "a-2", "a-1.2", "a-2.2"}
    assert engines["a-1"] == engines["a-2"] == "serving" != engines["a-1.2"]
    assert (during.plans, during.waiting()) == ((waits, ""), "")
    held = during.memory()
    assert held[here] == (size, 0)
    assert sum(held[there]) == moved

    fleet.host.remove_process(there, FOREIGN)
    wait_for(
        "the moved engines alone to serve",
        lambda: (
            {(v.engine, v.state) for v in fleet.views()}
            == {("a-1.2", "serving"), ("a-2.2", "serving")}
        ),
    )
    after = agreed(fleet)
    assert after.engines() == {"a-1.2": "serving", "a-2.2": "serving"}
    assert after.waiting() == ""
    assert after.memory() == {here: (0, 0), there: (moved, 0)}
    with fleet.client() as client:
        ready = {event.subject for event in client.events() if event.kind == "engine-ready"}
        assert ready == {"a-1", "a-2", "a-1.2", "a-2.2"}
        assert client.plan().plan.id == waits  # it is what is applied
    assert fleet.terminate() == 0
