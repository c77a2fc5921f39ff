"""Converts routing tables to JSON for many hosts: what they have in common is converted once."""

import dataclasses
from typing import Any

from partitiond.core.dispatch.routing import KeyRoute, ModelRoute, PeerRoute, RoutingTable
from partitiond.serde import to_jsonable


class SharedParts:
    """Remembers the JSON of the routes of keys and models in the tables that were told last.

    All hosts are told the same keys, a thousand perhaps, and of the same peers; most models' routes
    are the same, too.
    What is the same object in the next table is not converted again.
    """

    def __init__(self) -> None:
        self._keys: tuple[tuple[KeyRoute, ...], list[Any]] = ((), [])
        self._peers: tuple[tuple[PeerRoute, ...], Any] = ((), [])
        self._known: dict[int, tuple[KeyRoute | ModelRoute, Any]] = {}

    def of(self, table: RoutingTable) -> dict[str, Any]:
        """Return what `to_jsonable` returns of a table. The caller changes nothing of it."""
        # Of a model there are two forms, where it serves and elsewhere; and those before.
        if len(self._known) > 4 * (len(table.models) + len(table.keys)):
            self._known.clear()
        if self._keys[0] is not table.keys:
            self._keys = table.keys, [self._json(key) for key in table.keys]
        if table.peers and self._peers[0] is not table.peers:
            self._peers = table.peers, to_jsonable(table.peers)
        rest = to_jsonable(dataclasses.replace(table, keys=(), models=(), peers=()))
        models = [self._json(model) for model in table.models]
        return {
            **rest,
            "models": models,
            "keys": self._keys[1],
            "peers": self._peers[1] if table.peers else [],
        }

    def _json(self, route: KeyRoute | ModelRoute) -> Any:
        known = self._known.get(id(route))
        if known is None or known[0] is not route:
            known = self._known[id(route)] = route, to_jsonable(route)
        return known[1]
