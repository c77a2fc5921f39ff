"""This host's agent is made of the adapters of this host, and says what it is."""

from pathlib import Path
from typing import NoReturn

import pytest

from partitiond import __version__
from partitiond.cluster.socket_cluster import SocketCluster
from partitiond.gpu_host import gpu_host
from partitiond.hosts.calls.fencing import NO_HEAD
from partitiond.hosts.fleet import hosts_of_fleet
from partitiond.hosts.this_host import ThisHost, this_host
from partitiond.ports.host_agent import AgentFacts, HostAgent
from partitiond.serde import from_stored_json, to_json
from partitiond.settings.schema import Settings
from partitiond.store import open_store
from tests.machine import until


@pytest.fixture
def here(tmp_path: Path) -> ThisHost:
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path / "state",
            "run_dir": tmp_path / "run",
            "cache_dir": tmp_path / "cache",
            "engine": {"variant": "cpu", "python": tmp_path / "none"},
            "gpu": {"enabled": False},
        }
    )
    return this_host(settings, gpu_host(settings))


async def test_it_says_what_it_is_under_the_name_of_its_devices(here: ThisHost) -> None:
    agent: HostAgent = here
    facts = agent.facts()
    assert {device.host for device in agent.devices.discover()} == {facts.name} == {agent.name}
    assert facts.partitiond_version == __version__
    assert facts.engine_version == ""
    assert agent.engine_problem() is not None
    assert from_stored_json(AgentFacts, to_json(facts)) == facts
    assert await agent.engines.find() == []
    assert agent.partitions is None


async def test_what_broke_while_the_members_are_watched_begins_again(
    here: ThisHost, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(SocketCluster):
        def members(self) -> NoReturn:
            raise OSError("no room for a file")

    store = open_store(":memory:")
    async with hosts_of_fleet(Settings(), store, here, Broken(tmp_path), NO_HEAD):
        await until(lambda: "begins again" in caplog.text)
    store.close()
