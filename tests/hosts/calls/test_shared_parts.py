"""What many hosts are told is converted once, and is what each alone would be told."""

import dataclasses

import pytest

from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    PeerRoute,
    ReplicaRoute,
    RoutingTable,
    TablesOfHosts,
)
from partitiond.hosts.calls import shared_parts
from partitiond.hosts.calls.shared_parts import SharedParts
from partitiond.serde import to_jsonable

HOSTS = [f"h{number}" for number in range(8)]
TABLE = RoutingTable(
    version=1,
    models=tuple(ModelRoute(f"m{host}", ModelAvailability.SERVING, "m") for host in HOSTS),
    replicas=tuple(
        ReplicaRoute(f"m{host}-1", f"m{host}", "/s", f"g-{host}", 4, 4096, 512, host=host)
        for host in HOSTS
    ),
    keys=tuple(KeyRoute(f"k{number}", f"{number:064x}") for number in range(16)),
)
PEERS = tuple(PeerRoute(host, f"{host}:6387") for host in HOSTS[1:])
"""The first host has an older release."""


def test_all_hosts_are_told_what_each_alone_would_be_told() -> None:
    shared, parts = SharedParts(), TablesOfHosts(TABLE, peers=PEERS)
    changes = {"version": 2, "replicas": TABLE.replicas[1:], "models": TABLE.models[2:]}
    later = dataclasses.replace(TABLE, **changes)  # type: ignore[arg-type]
    for table, of in ((TABLE, parts), (later, TablesOfHosts(later, parts, peers=PEERS))):
        for host in HOSTS:
            alone = TablesOfHosts(table, peers=PEERS).of(host)
            assert of.of(host) == alone
            assert shared.of(of.of(host)) == to_jsonable(alone)


def test_keys_models_and_peers_are_converted_once_for_all_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted: list[object] = []

    def counted(value: object) -> object:
        converted.append(value)
        return to_jsonable(value)

    monkeypatch.setattr(shared_parts, "to_jsonable", counted)
    shared, parts = SharedParts(), TablesOfHosts(TABLE, peers=PEERS)
    for host in HOSTS:
        shared.of(parts.of(host))
    # Each model in two forms: as it serves, and as it is elsewhere.
    assert len(converted) == len(HOSTS) + 2 * len(TABLE.models) + len(TABLE.keys) + 1
    converted.clear()
    # The next table has equal routes of models, and one replica less.
    models = tuple(dataclasses.replace(model) for model in TABLE.models)
    later = dataclasses.replace(TABLE, version=2, models=models, replicas=TABLE.replicas[1:])
    parts = TablesOfHosts(later, parts, peers=tuple(map(dataclasses.replace, PEERS)))
    for host in HOSTS:
        shared.of(parts.of(host))
    assert len(converted) == len(HOSTS)
