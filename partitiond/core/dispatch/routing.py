"""Defines routing tables: immutable snapshots of usable replicas, and all that the proxy knows."""

import dataclasses
import enum
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from partitiond.core.checks import require
from partitiond.core.numbers.grouping import grouped

_SHA256: Final = re.compile(r"[0-9a-fA-F]{64}")
ROUTING_SCHEMA_VERSION: Final = 1


class ModelAvailability(enum.StrEnum):
    """Availability of a model: the proxy's answer while no replica of it serves."""

    SERVING = "serving"
    STARTING = "starting"
    """A replica is coming: requests wait for it, or get 503 with Retry-After."""
    SLEEPING = "sleeping"
    """Its replicas sleep, fall asleep or wake: requests wait for them, or get 503."""
    UNAVAILABLE = "unavailable"
    """Registered, but no replica is planned or all failed: 503."""
    ENDING = "ending"
    """All engines are being ended together with the daemon: 503."""


class RouteKind(enum.StrEnum):
    """What a route of the endpoint does; keys may be limited to some kinds."""

    GENERATE = "generate"
    """completions, chat completions, responses, messages"""
    EMBED = "embed"
    """embeddings, pooling, score, rerank"""
    TOKENIZE = "tokenize"
    """tokenize, detokenize"""


@dataclasses.dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds of one request, for a model or a key; 0 is none. The stricter of the two holds.

    Attributes:
        max_prompt_bytes: text of all its prompts together, a token id as 4 bytes; of a chat the
            JSON of what its template makes a prompt of.
        max_output_tokens: a request that asks for more is refused; one that names no limit is
            sent on with this one.
        max_sequences: prompts x n.
    """

    max_prompt_bytes: int = 0
    max_output_tokens: int = 0
    max_sequences: int = 0


NO_REQUEST_LIMITS: Final = RequestLimits()


class BudgetPeriod(enum.StrEnum):
    """When a token budget begins anew, in UTC."""

    HOUR = "hour"
    DAY = "day"
    MONTH = "month"
    NEVER = "never"


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRates:
    """What a key may use over time; 0 is no limit. Tokens are prompt plus output tokens.

    Attributes:
        requests_per_minute: a token bucket of one minute's size.
        tokens_per_minute: the same, for tokens; debited by estimate, corrected by usage.
        max_in_flight: requests running or waiting at once.
        token_budget: tokens per `budget_period`.
    """

    requests_per_minute: int = 0
    tokens_per_minute: int = 0
    max_in_flight: int = 0
    token_budget: int = 0
    budget_period: BudgetPeriod = BudgetPeriod.DAY


NO_KEY_RATES: Final = KeyRates()


@dataclasses.dataclass(frozen=True, slots=True)
class KeyShare:
    """What one host may use of a key's limits, where several hosts serve the key.

    Attributes:
        key: id of the key.
        requests, tokens: part of the limits a minute, 0..1.
        in_flight: requests at once, at least 1.
        budget_start: start of the period that `budget` is of, Unix seconds.
        budget: tokens that the host may have used by the end of that period, those that it has used
            already included.
        spent: nothing is left of the budget at any host.
    """

    key: str
    requests: float
    tokens: float
    in_flight: int
    budget_start: float = -1.0
    budget: float = 0.0
    spent: bool = False


def share_by_part(key: str, rates: KeyRates, part: float) -> KeyShare:
    """Return the share of a host that was told of a key no more than a part of all keys."""
    return KeyShare(key, part, part, max(1, math.floor(part * rates.max_in_flight + 1e-9)))


@dataclasses.dataclass(frozen=True, slots=True)
class HostShares:
    """What one host may use of keys with limits (`core.keys.shares`).

    Attributes:
        number: grows with each change that the host is told; 0 if its head divides no keys.
        part: of each key that is not in `rows`, and of each budget in a period that has no row.
        rows: of keys.
    """

    number: int = 0
    part: float = 1.0
    rows: tuple[KeyShare, ...] = ()


WHOLE_SHARES: Final = HostShares()


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaRoute:
    """A replica as the proxy sees it.

    Attributes:
        replica_id: name, also in logs and debug headers.
        model: registered model name.
        socket_path: Unix socket of its engine.
        generation: changes whenever the engine behind the name is another process.
        max_sequences: limit, the batch at its operating point.
        kv_cache_tokens: KV tokens of the started engine; 0 if unknown (then not checked).
        max_model_len: longest context in tokens.
        draining: it gets no new requests; running ones finish.
        service_seconds: expected time of one request at the operating point, for Retry-After.
        host: host that its engine runs on; empty for the proxy's own.
        tokens_per_s: expected of one sequence at the operating point; 0 if unknown.
    """

    replica_id: str
    model: str
    socket_path: str
    generation: str
    max_sequences: int
    kv_cache_tokens: int
    max_model_len: int
    draining: bool = False
    service_seconds: float = 1.0
    host: str = ""
    tokens_per_s: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class HostSlots:
    """A host with replicas of a model; draining ones do not count.

    Attributes:
        slots: sum of the replicas' limits.
        context: longest context of any, in tokens; 0 if unknown.
    """

    host: str
    slots: int
    context: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRoute:
    """One model as the proxy sees it.

    Attributes:
        name: what clients put into `model`.
        availability: what the proxy answers without a serving replica.
        served_name: name that the engine was started with.
        created_at: Unix seconds, for `/v1/models`.
        max_model_len: longest context that every replica takes, of all hosts, in tokens; without a
            replica, what the next one is started with. 0 if it is not told. For `/v1/models`.
        max_queue: requests that may wait for a slot; further ones get 429.
        max_wait_seconds: longest wait for a slot, then 429 (the SLO's TTFT bound if that is
            shorter: a request that cannot start in time is refused at once).
        retry_after_seconds: for 503 without a replica, if `ready_at` is not known.
        awaits: what has to end before a replica of an unavailable model starts; empty for nothing.
        holds: while it is SLEEPING or STARTING, requests wait until a replica serves, for
            `max_wait_seconds` at most; else they are refused at once.
        ready_at: when a replica should serve again, in seconds of this host's monotonic clock; 0
            if that is not known. A request that cannot wait that long is refused at once.
        aliases: other names clients may put into `model`; unique over all models of a table.
        defaults_json: a JSON object of parameters that a request gets when it does not name them,
            as `{"temperature":0}`; or empty.
        limits: per request.
        elsewhere: whether it is unavailable here because it serves on other hosts.
        hosts: of those whose proxies serve each other, the ones where it serves; they share
            `max_queue` by these slots.
        ttft_seconds: bound of the SLO on the time to first token; 0 without one.
        tpot_seconds: the same for the time per output token.
        wait_limit_seconds: longest wait for a slot whatever the SLO.
    """

    name: str
    availability: ModelAvailability
    served_name: str
    created_at: int = 0
    max_queue: int = 256
    max_wait_seconds: float = 30.0
    retry_after_seconds: float = 30.0
    holds: bool = False
    ready_at: float = 0.0
    aliases: tuple[str, ...] = ()
    defaults_json: str = ""
    limits: RequestLimits = NO_REQUEST_LIMITS
    elsewhere: bool = False
    hosts: tuple[HostSlots, ...] = ()
    max_model_len: int = 0
    ttft_seconds: float = 0.0
    tpot_seconds: float = 0.0
    wait_limit_seconds: float = 30.0
    awaits: str = ""

    def longest_wait_seconds(self, first_token_seconds: float | None) -> float:
        """Return the longest wait for a slot after which a request can still meet the TTFT bound.

        Args:
            first_token_seconds: in which its first token is expected once it starts; None if that
                is not known yet: then the plan's figure counts, by `max_wait_seconds`.
        """
        if first_token_seconds is None or not self.ttft_seconds:
            return self.max_wait_seconds
        return min(self.wait_limit_seconds, max(0.0, self.ttft_seconds - first_token_seconds))


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRoute:
    """An API key as the proxy sees it: its SHA-256, never the key.

    Attributes:
        id: short public name for logs and metrics.
        sha256: hex digest.
        models: models it may use, by registered name (aliases follow); empty for all.
        routes: kinds of routes it may use (see `RouteKind`); empty for all.
        previous_sha256: digest of the secret before the last rotation, or empty.
        previous_until: Unix seconds until which the previous secret is also accepted.
        expires_at: Unix seconds from which the key is refused; 0 for never.
        priority: requests of a higher priority leave the queue first; 0 is usual.
        weight: share in the fair queue relative to other keys of the same priority.
        limits: per request.
        rates: over time.
    """

    id: str
    sha256: str
    models: tuple[str, ...] = ()
    routes: tuple[RouteKind, ...] = ()
    previous_sha256: str = ""
    previous_until: float = 0.0
    expires_at: float = 0.0
    priority: int = 0
    weight: float = 1.0
    limits: RequestLimits = NO_REQUEST_LIMITS
    rates: KeyRates = NO_KEY_RATES

    def __post_init__(self) -> None:
        for digest in (self.sha256, self.previous_sha256 or self.sha256):
            require(
                _SHA256.fullmatch(digest) is not None,
                f"the SHA-256 of key {self.id} is not 64 hexadecimal digits.",
                "Make another key and delete this one.",
            )


UNIX: Final = "unix:"
"""Begins the address of a peer that is a path."""


@dataclasses.dataclass(frozen=True, slots=True)
class PeerRoute:
    """The proxy of another host, as the proxy sees it.

    Attributes:
        host: its name, which its certificate has, too.
        address: where it serves other proxies: `10.0.0.5:8001`, or `unix:` and a path.
    """

    host: str
    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class RoutingTable:
    """One immutable snapshot.

    Attributes:
        version: grows with each snapshot of one daemon; the proxy ignores older ones.
        keys_required: whether requests need a key (always so beyond loopback).
        keys_stale_seconds: a proxy that is told no table for so long refuses all keys; 0 for never.
        told_at: when the table was sent, in seconds of its sender's monotonic clock, if that is
            another host's; 0 for a time of this host (see `on_own_clock`).
        host: the host whose proxy is told this table; empty where there is one alone.
        peers: the proxies of the hosts, which serve what runs there to each other; the own host's
            is among them. Empty where the own one serves no other host.
        shares: what this host may use of keys with limits.
    """

    version: int
    models: tuple[ModelRoute, ...]
    replicas: tuple[ReplicaRoute, ...]
    keys: tuple[KeyRoute, ...] = ()
    keys_required: bool = False
    schema_version: int = ROUTING_SCHEMA_VERSION
    keys_stale_seconds: float = 0.0
    told_at: float = 0.0
    host: str = ""
    peers: tuple[PeerRoute, ...] = ()
    shares: HostShares = WHOLE_SHARES

    @property
    def age(self) -> tuple[int, int]:
        """Order of the tables of one daemon; a proxy ignores one that is less than its own."""
        return self.version, self.shares.number

    def replicas_of(self, model: str) -> tuple[ReplicaRoute, ...]:
        """Return all replicas of a model, draining ones included."""
        return tuple(r for r in self.replicas if r.model == model)


EMPTY_ROUTING_TABLE: Final = RoutingTable(version=0, models=(), replicas=())


class TablesOfHosts:
    """Makes what the proxies of hosts are told of one table.

    Each is told the replicas that run on its host, all models and keys, and where the proxies of
    the hosts serve each other. A proxy reaches the sockets of its own host alone, so a model that
    serves on other hosts alone is unavailable there, but through their proxies.

    Args:
        peers: the hosts whose proxies serve those of other hosts; each of them is told all of them,
            and a host that is none of them is told none.
        shares: returns those of a host.
        before: of the table before; what is equal in both is the same object afterwards, so that
            comparing the parts of many hosts takes little.

    Attributes:
        peers: as given.
    """

    def __init__(
        self,
        table: RoutingTable,
        before: "TablesOfHosts | None" = None,
        *,
        peers: tuple[PeerRoute, ...] = (),
        shares: Callable[[str], HostShares] = lambda _: WHOLE_SHARES,
    ) -> None:
        self._shares = shares
        self._on = grouped(table.replicas, lambda replica: replica.host)
        known: Mapping[str, ModelRoute] = before._models if before is not None else {}
        away: Mapping[str, ModelRoute] = before._away if before is not None else {}
        keys: tuple[KeyRoute, ...] = before._table.keys if before is not None else ()
        slots = _slots(table.replicas, {peer.host for peer in peers})
        models = (
            _known_route(_with_hosts(model, slots.get(model.name, ())), known)
            for model in table.models
        )
        self._models: dict[str, ModelRoute] = {model.name: model for model in models}
        self._table: RoutingTable = dataclasses.replace(
            table,
            models=tuple(self._models.values()),
            keys=keys if keys == table.keys else table.keys,
        )
        known_peers: tuple[PeerRoute, ...] = before.peers if before is not None else ()
        self.peers: tuple[PeerRoute, ...] = known_peers if known_peers == peers else peers
        self._serve_others = frozenset(peer.host for peer in peers)
        # Made once for all hosts: most models serve on few of them.
        self._away: dict[str, ModelRoute] = {
            name: away[name] if known.get(name) is model and name in away else _elsewhere(model)
            for name, model in self._models.items()
            if model.availability is ModelAvailability.SERVING
        }

    def of(self, host: str) -> RoutingTable:
        """Return what the proxy of a host is told."""
        here = tuple(self._on.get(host, ()))
        serving = {replica.model for replica in here if not replica.draining}
        models = tuple(
            model if model.name in serving else self._away.get(model.name, model)
            for model in self._table.models
        )
        peers = self.peers if host in self._serve_others else ()
        return dataclasses.replace(
            self._table,
            models=models,
            replicas=here,
            host=host,
            peers=peers,
            shares=self._shares(host),
        )


def _slots(
    replicas: Iterable[ReplicaRoute], hosts: Collection[str]
) -> dict[str, tuple[HostSlots, ...]]:
    """Return the slots of each model at each of these hosts, in the order of their names."""
    found: dict[str, dict[str, HostSlots]] = {}
    for replica in replicas:
        if replica.host in hosts and not replica.draining:
            of = found.setdefault(replica.model, {})
            others = of.get(replica.host, HostSlots(replica.host, 0))
            of[replica.host] = HostSlots(
                replica.host,
                others.slots + replica.max_sequences,
                max(others.context, replica.max_model_len),
            )
    return {model: tuple(slots for _, slots in sorted(of.items())) for model, of in found.items()}


def _with_hosts(model: ModelRoute, hosts: tuple[HostSlots, ...]) -> ModelRoute:
    return model if model.hosts == hosts else dataclasses.replace(model, hosts=hosts)


def _known_route(model: ModelRoute, known: Mapping[str, ModelRoute]) -> ModelRoute:
    before = known.get(model.name)
    return before if before is not None and before == model else model


def _elsewhere(model: ModelRoute) -> ModelRoute:
    return dataclasses.replace(model, availability=ModelAvailability.UNAVAILABLE, elsewhere=True)


def on_own_clock(table: RoutingTable, now: float) -> RoutingTable:
    """Return a table whose times are of the receiver's monotonic clock.

    Monotonic clocks of two hosts have nothing in common. The time that the table took to arrive is
    not corrected: it is short beside the start of a replica.

    Args:
        table: as it was sent.
        now: the receiver's monotonic clock, in seconds.
    """
    if not table.told_at:
        return table
    ahead = now - table.told_at

    def shift(model: ModelRoute) -> ModelRoute:
        if not model.ready_at:
            return model
        return dataclasses.replace(model, ready_at=model.ready_at + ahead)

    return dataclasses.replace(table, models=tuple(map(shift, table.models)), told_at=0.0)


def service_seconds(ttft_seconds: float, tpot_seconds: float, output_tokens: float) -> float:
    """Return the expected time of one request in an engine: TTFT + (outputs - 1) x TPOT."""
    return ttft_seconds + (output_tokens - 1) * tpot_seconds


def longest_wait_seconds(
    limit_seconds: float, ttft_bound_seconds: float | None, engine_ttft_seconds: float
) -> float:
    """Return the longest wait for a slot after which a request can still meet its SLO's TTFT bound.

    The bound counts from the request's last byte, so the engine's own time to the first token is
    subtracted. A request that started later would be late anyway, and would take the place of one
    that is not.

    Args:
        limit_seconds: longest wait whatever the SLO.
        ttft_bound_seconds: of the SLO, or None without one.
        engine_ttft_seconds: p95 of the slowest replica at its operating point.
    """
    if ttft_bound_seconds is None:
        return limit_seconds
    return min(limit_seconds, max(ttft_bound_seconds - engine_ttft_seconds, 0.0))
