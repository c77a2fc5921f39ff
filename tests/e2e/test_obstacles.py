"""Models that cannot run, one of each kind, leave all others running by themselves."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.core.profile.record import ProfileKind
from partitiond.core.replica.obstacles import Obstacle, ObstacleKind
from partitiond.models.catalog import entry_of
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost
from tests.e2e.test_simulated_gpus import GpuFleet
from tests.machine import wait_for

CATALOG = {"model": "opt-125m", "weights": "dummy", "max_replicas": 1}
GOOD = CATALOG | {"engine_kind": "simulated", "auto": False, "demand": {"req_per_s": 1.0}}


class TroubledFleet(GpuFleet):
    """One that says what keeps its models from running."""

    def add(self, name: str, **more: object) -> None:
        with self.client() as client:
            client.register({**GOOD, "name": name, **more})

    def obstacles(self) -> dict[str, Obstacle]:
        with self.client() as client:
            return {v.record.spec.name: v.obstacle for v in client.models() if v.obstacle}

    def until_obstructed(self, *names: str) -> dict[str, Obstacle]:
        def all_of_them() -> dict[str, Obstacle] | None:
            found = self.obstacles()
            return found if found.keys() == set(names) else None

        return wait_for(f"obstacles of {names}", all_of_them)

    def serve(self, *names: str) -> None:
        """Wait until these replicas serve, named by their models, and no other."""

        def all_serve() -> bool:
            return sorted(v.model for v in self.views() if v.state == "serving") == sorted(names)

        wait_for(f"{names} to serve", all_serve)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[TroubledFleet]:
    description = HostDescription("host", (GpuDescription("a100-80gb", 4),), numa_nodes=1, cores=16)
    host = SimulatedHost.create(description, tmp_path / "host")
    host.mps_control.unlink()  # few sizes to choose from: the plan is not what this is about
    with TroubledFleet(tmp_path / "fleet", host, **QUICK) as fleet:
        fleet.start()
        yield fleet


def folder_without_weights(folder: Path) -> str:
    """What a download that was cut short leaves."""
    folder.mkdir()
    entry = entry_of(ModelSource(SourceKind.CONFIG, "opt-125m"))
    assert entry is not None
    (folder / "config.json").write_text(json.dumps(dict(entry.config)))
    return str(folder)


FAILS = {"extra_args": ["--fail-start", "CUDA out of memory"]}
EMBEDS = {"extra_args": ["--runner", "pooling"]}
"""Such a model is measured, planned and served as one that generates text."""
QUICK = {
    "profiling.max_batch": 2,
    "profiling.min_window_seconds": 0.2,
    "profiling.max_window_seconds": 0.5,
}


@pytest.mark.full
@pytest.mark.timeout(600)
def test_models_that_cannot_run_keep_no_other_from_being_planned_and_served(
    fleet: TroubledFleet, tmp_path: Path
) -> None:
    fleet.add("no-engine", engine_kind="vllm", auto=True)
    fleet.add("no-profile", engine=FAILS, auto=True)
    fleet.add("no-weights", model=folder_without_weights(tmp_path / "m"), weights="real", auto=True)
    told = fleet.until_obstructed("no-engine", "no-profile", "no-weights")
    assert told["no-engine"].kind is ObstacleKind.ENGINE_ABSENT
    assert "`partitiond models update no-engine --engine-kind simulated`" in told["no-engine"].hint
    assert told["no-profile"].kind is ObstacleKind.PROFILE_FAILED
    assert told["no-weights"].kind is ObstacleKind.PROFILE_FAILED

    # Others are planned and started by themselves, and scaled.
    demand = {"req_per_s": 0.01}  # at whatever the machine is measured
    fleet.add("good", engine=EMBEDS, demand=demand, auto=True)
    fleet.serve("good")
    with fleet.client() as client:
        assert ProfileKind.MEASURED in {profile.kind for profile in client.profiles("good")}
    fleet.json("models", "update", "good", "--min-replicas", "2", "--max-replicas", "2")
    fleet.serve("good", "good")

    # A plan says beforehand what cannot start; what fails when it is applied is given up.
    fleet.add("no-start", engine=FAILS)
    fleet.add("by-hand")
    plan = fleet.json("plan", code=7)["plan"]
    assert [u["model"] for u in plan["unplaced"]] == ["no-engine"]
    assert any("no-profile is not started by itself" in line for line in plan["explanation"])
    fleet.json("apply", "--no-wait", code=7)

    def given_up() -> bool:
        found = fleet.obstacles().get("no-start")
        return found is not None and found.kind is ObstacleKind.START_FAILED

    wait_for("no-start to be given up", given_up)
    assert "not enough device memory" in fleet.obstacles()["no-start"].reason
    fleet.serve("good", "good", "by-hand")
    assert fleet.complete("by-hand") == 8

    # Later ones are applied as if nothing was, and what was put right serves.
    fleet.json(
        "models", "update", "no-engine", "--engine-kind", "simulated", "--no-auto", "--no-wait"
    )
    fleet.json("models", "update", "no-start", "--demand", "2", "--no-wait")
    applied = fleet.json("apply", "--no-wait", code=7)["plan"]
    assert "no-start" in {u["model"] for u in applied["unplaced"]}
    fleet.serve("good", "good", "by-hand", "no-engine")
    assert "no-engine" not in fleet.obstacles()

    with fleet.client() as client:
        models = {m.name: m for m in client.overview().models}
    assert models["no-start"].obstacle == fleet.obstacles()["no-start"]
    assert models["no-start"].note == str(models["no-start"].obstacle)
