"""What many hosts are told is converted once, and is what each alone would be told."""

import dataclasses

import pytest

from partitiond.core.dispatch import routing
from partitiond.hosts.calls import shared_parts
from partitiond.hosts.calls.shared_parts import SharedParts
from partitiond.serde import to_jsonable

HOSTS = [f"h{number}" for number in range(8)]
TABLE = routing.RoutingTable(
    version=1,
    models=tuple(
        routing.ModelRoute(f"m{host}", routing.ModelAvailability.SERVING, "m") for host in HOSTS
    ),
    replicas=tuple(
        routing.ReplicaRoute(f"m{host}-1", f"m{host}", "/s", f"g-{host}", 4, 4096, 512, host=host)
        for host in HOSTS
    ),
    keys=tuple(routing.KeyRoute(f"k{number}", f"{number:064x}") for number in range(16)),
)
PEERS = tuple(routing.PeerRoute(host, f"{host}:6387") for host in HOSTS[1:])
"""The first host has an older release."""


def test_all_hosts_are_told_what_each_alone_would_be_told_and_common_parts_are_converted_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted: list[object] = []

    def counted(value: object) -> object:
        converted.append(value)
        return to_jsonable(value)

    monkeypatch.setattr(shared_parts, "to_jsonable", counted)
    # The later table has equal routes of models and peers, and one replica less.
    models = tuple(dataclasses.replace(model) for model in TABLE.models)
    later = dataclasses.replace(TABLE, version=2, models=models, replicas=TABLE.replicas[1:])
    shared, former = SharedParts(), None
    # Each model is converted in two forms: as it serves, and as it is elsewhere.
    all_parts = len(HOSTS) + 2 * len(TABLE.models) + len(TABLE.keys) + 1
    for table, peers, count in (
        (TABLE, PEERS, all_parts),
        (later, tuple(map(dataclasses.replace, PEERS)), len(HOSTS)),
        (dataclasses.replace(later, version=3, models=models[2:]), PEERS, len(HOSTS)),
    ):
        former = routing.TablesOfHosts(table, former, peers=peers)
        for host in HOSTS:
            alone = routing.TablesOfHosts(table, peers=PEERS).of(host)
            assert former.of(host) == alone
            assert shared.of(former.of(host)) == to_jsonable(alone)
        assert len(converted) == count
        converted.clear()
