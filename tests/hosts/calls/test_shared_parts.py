"""What many hosts are told is converted once, and is what each alone would be told."""

import dataclasses

import pytest

from partitiond.core.dispatch.routing import (
    KeyRoute,
    ModelAvailability,
    ModelRoute,
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


def test_all_hosts_are_told_what_each_alone_would_be_told() -> None:
    shared, parts = SharedParts(), TablesOfHosts(TABLE)
    changes = {"version": 2, "replicas": TABLE.replicas[1:], "models": TABLE.models[2:]}
    later = dataclasses.replace(TABLE, **changes)  # type: ignore[arg-type]
    for table, of in ((TABLE, parts), (later, TablesOfHosts(later, parts))):
        for host in HOSTS:
            assert of.of(host) == TablesOfHosts(table).of(host)
            assert shared.of(of.of(host)) == to_jsonable(TablesOfHosts(table).of(host))


def test_keys_and_models_are_converted_once_for_all_hosts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    converted: list[object] = []

    def counted(value: object) -> object:
        converted.append(value)
        return to_jsonable(value)

    monkeypatch.setattr(shared_parts, "to_jsonable", counted)
    shared, parts = SharedParts(), TablesOfHosts(TABLE)
    for host in HOSTS:
        shared.of(parts.of(host))
    # Each model in two forms: as it serves, and as it is elsewhere.
    assert len(converted) == len(HOSTS) + 2 * len(TABLE.models) + len(TABLE.keys)
    converted.clear()
    # The next table has equal routes of models, and one replica less.
    models = tuple(dataclasses.replace(model) for model in TABLE.models)
    later = dataclasses.replace(TABLE, version=2, models=models, replicas=TABLE.replicas[1:])
    parts = TablesOfHosts(later, parts)
    for host in HOSTS:
        shared.of(parts.of(host))
    assert len(converted) == len(HOSTS)
