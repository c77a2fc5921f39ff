"""Two hosts run the same model, each from a folder of its own."""

import dataclasses
import json
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from partitiond.core.model.placement_rules import FaultDomain, PlacementRules
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.models.copies import COPIES, CopiedFolders
from partitiond.models.prepared import is_complete
from partitiond.store import SqlStore, open_store
from tests.controller.fakes import FakeResolver
from tests.controller.samples import spec
from tests.hosts.pipes import FakeAgent
from tests.hosts.test_models import FILES, OwnDisk
from tests.hosts.test_together import Two


class OneFolder(FakeResolver):
    """Resolves every model to one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        for name, data in FILES.items():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        found = await super().resolve(spec, progress)
        return dataclasses.replace(found, folder=self._folder)


class Apart(Two):
    """The two hosts, each with a folder of models; only the first one fetches."""

    def _agent(self, name: str) -> FakeAgent:
        there = super()._agent(name)
        models_dir = self.folder / f"{name}-models"
        if name == "one":
            there.models = OneFolder(models_dir / "tiny")
            there.folders = CopiedFolders(models_dir, anywhere=True)
        else:
            there.models.breaks["a"] = AssertionError("the second host fetches nothing")
            there.folders = OwnDisk(models_dir)
        return there


@pytest.fixture
async def store() -> AsyncIterator[SqlStore]:
    store = open_store(":memory:")
    yield store
    store.close()


async def test_each_host_runs_the_model_from_its_own_folder(store: SqlStore) -> None:
    folder = Path(tempfile.mkdtemp(prefix="pd-"))
    hosts = Apart(folder, store)
    await hosts.service.daemon.start()
    try:
        over_hosts = PlacementRules(survive=FaultDomain.HOST)
        wanted = spec("a", demand=Demand(req_per_s=9.0), engine_kind="simulated", rules=over_hosts)
        await hosts.service.models.register(dataclasses.replace(wanted, auto=False))
        await hosts.service.plans.apply()
        await hosts.serves()
        read = {
            (host, json.loads((folder / host / name / "launch.json").read_text())["model_folder"])
            for name, (host, _) in hosts.engines().items()
        }
        ((_, on_one), (_, on_two)) = sorted(read)
        assert on_one == str(folder / "one-models" / "tiny")
        assert Path(on_two).parent == folder / "two-models" / COPIES
        assert is_complete(Path(on_two))
        assert {name: (Path(on_two) / name).read_bytes() for name in FILES} == FILES
    finally:
        await hosts.service.daemon.shutdown(stop_engines=True)
        shutil.rmtree(folder)
