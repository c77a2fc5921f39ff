"""A host has a control plane of its own or obeys another's, and says how to change that."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from partitiond.core.errors import ConflictError, PartitiondError, StoreError
from partitiond.hosts import agent_process, one_master
from partitiond.hosts.one_master import refuse_joined, refuse_master
from partitiond.settings.schema import Settings, load_settings
from partitiond.store import open_store
from tests.controller.fakes import FakeProxy, FakeRunner
from tests.controller.samples import placement, plan
from tests.engine_fixtures import simulated_launch


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    values = {"state_dir": str(tmp_path), "cluster.head": "gpu-head", "host.name": "gpu-1"}
    values["cluster.folder"] = str(tmp_path / "hosts")
    return load_settings(overrides=values).settings


@pytest.fixture
def alone(settings: Settings) -> Settings:
    """The same host without a head in its settings."""
    cluster = settings.cluster.model_copy(update={"head": ""})
    return settings.model_copy(update={"cluster": cluster})


def test_a_host_that_joined_another_has_no_control_plane_until_it_left(
    settings: Settings, alone: Settings
) -> None:
    with pytest.raises(ConflictError, match=r"settings have this host obey .*partitiond host join"):
        refuse_joined(settings)
    refuse_joined(alone)
    one_master.note_joined(settings)
    joined = one_master.joined_head(alone)
    assert joined is not None
    assert joined.address == "gpu-head:6380"
    with pytest.raises(ConflictError, match=r"obeys the head gpu-head:6380.*partitiond down"):
        refuse_joined(alone)
    one_master.note_left(alone)
    refuse_joined(alone)


def test_a_record_that_cannot_be_read_frees_nothing_and_can_be_left(
    settings: Settings, alone: Settings
) -> None:
    (settings.state_dir / one_master.JOINED).write_bytes(b"{")
    with pytest.raises(StoreError, match="partitiond down"):
        refuse_joined(alone)
    assert one_master.is_joined(settings)
    one_master.note_left(settings)
    assert not one_master.is_joined(settings)


async def test_who_leaves_ends_engines_though_the_proxy_outlives_its_kill(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, runner = FakeProxy(), FakeRunner()
    proxy.refuse_stop = PartitiondError("the proxy is still alive after SIGKILL.")
    await runner.start(simulated_launch())
    here = SimpleNamespace(proxy=proxy, engines=runner, partitions=None)
    monkeypatch.setattr(agent_process, "this_host", lambda *_: here)
    assert await agent_process._end_all(settings, lambda _: None) == ("sim-0",)
    assert runner.stopped == ["sim-0"]


def test_a_host_whose_plan_serves_models_does_not_join(settings: Settings) -> None:
    refuse_master(settings)
    store = open_store(settings.store_path)
    refuse_master(settings)
    store.set_plan(plan())
    refuse_master(settings)
    store.set_plan(plan(placement("m-1")))
    with pytest.raises(ConflictError, match=r"serves 1 models \(m\).*models remove"):
        refuse_master(settings)
    store.close()


def test_a_hosts_id_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "host-id"
    first = one_master.ensure_host_id(path)
    assert len(first) == 16
    assert one_master.ensure_host_id(path) == first
    path.write_bytes(b"\xff")
    with pytest.raises(StoreError, match="Remove the file"):
        one_master.ensure_host_id(path)
