"""Builds GET /traffic: the counts of one or many processes, as `core.demand.traffic.TrafficSample`
JSON.

Everything here is plain JSON from the start: the daemon asks for it every other second, beside the
requests, and there may be thousands of keys.
"""

import contextlib
import functools
import json
import math
import uuid
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from partitiond.core.demand.traffic import ModelCount, ReplicaCount, TrafficSample, UsageCount
from partitiond.core.errors import InputError
from partitiond.proxy.dispatch.live import LiveModel
from partitiond.proxy.dispatch.replicas import LiveReplica
from partitiond.proxy.dispatch.table_file import write_atomically
from partitiond.proxy.telemetry.counters import ModelMetrics
from partitiond.serde import BODY_VERSION, VERSION_FIELD, read_stored

Json = dict[str, Any]
LAST_FILE: Final = "traffic.json"
"""File with the last counts of a proxy that ended, beside its routing table."""

BOOKED_SECONDS: Final = 600.0
"""Chosen: a daemon that looks books every 10 s, or after a while if its disk is full."""
AWAY_SECONDS: Final = 60.0
"""Longer pauses mean that the daemon was away, and may not have booked what it was told. Chosen: it
looks every 2 s."""


def leave_behind(state_dir: Path, sample: Json) -> None:
    """Store the last counts for the daemon to book; a full disk loses them, not the shutdown."""
    with contextlib.suppress(OSError):
        body = {VERSION_FIELD: BODY_VERSION, **sample}
        write_atomically(state_dir / LAST_FILE, json.dumps(body).encode())


def last_sample(state_dir: Path) -> TrafficSample | None:
    """Counts of the previous proxy up to its end; None if it did not end by itself."""
    with contextlib.suppress(InputError, OSError):
        return read_stored(TrafficSample, state_dir / LAST_FILE)
    return None


class RemovedKeys:
    """Finds counts of removed keys that the daemon has booked: it has looked at them for
    `BOOKED_SECONDS`, and they stood still.
    """

    def __init__(self) -> None:
        self._still: dict[str, tuple[Any, float]] = {}
        self._at = -math.inf

    def booked(self, usage: Mapping[str, Any], keys: Collection[str], now: float) -> list[str]:
        """Return such keys after a look of the daemon; those of the table, or of requests that run,
        are `keys`.
        """
        known = self._still if now - self._at <= AWAY_SECONDS else {}
        self._at = now
        self._still = {}
        for key_id in usage.keys() - keys - {""}:
            told, since = known.get(key_id, (None, now))
            use = usage[key_id]
            self._still[key_id] = use, since if told == use else now
        return [name for name, (_, since) in self._still.items() if now - since >= BOOKED_SECONDS]


def new_epoch() -> str:
    """Return a new id for a series of counts that begins at zero."""
    return uuid.uuid4().hex


def process_traffic(
    models: Mapping[str, LiveModel],
    replicas: Iterable[LiveReplica],
    metrics: Mapping[str, ModelMetrics],
    now: float,
) -> Json:
    """Return the counts of one process.

    Args:
        models: those of the table.
        replicas: those of the table first, then those that have left it but still work.
        metrics: by model, including models that are no longer in the table.
        now: `time.monotonic`.
    """
    told: Json = {}
    for replica in replicas:
        told.setdefault(replica.replica_id, _replica(replica, now))
    names = dict.fromkeys((*models, *metrics))
    usage: dict[str, dict[str, Json]] = {}
    for name, counted in metrics.items():
        for key_id, use in counted.uses.items():
            usage.setdefault(key_id, {})[name] = _plain(use)
    return {
        "at": now,
        "models": {name: _model(models.get(name), metrics.get(name)) for name in names},
        "replicas": told,
        "usage": usage,
    }


def _model(live: LiveModel | None, counted: ModelMetrics | None) -> Json:
    if counted is None:
        counted = ModelMetrics()
    told = _plain(counted.demand) | {
        "ttft_buckets": list(counted.ttft_seconds.counts),
        "ttft_seconds": counted.ttft_seconds.sum,
        "queue_buckets": list(counted.queue_seconds.counts),
        "queue_seconds": counted.queue_seconds.sum,
    }
    if live is not None:
        told["held"] += live.held
        told["turned_away"] += live.turned_away
        told["waiting"] = live.waiting
        told["in_flight"] = sum(len(replica.requests) for replica in live.everyone())
    return told


def _replica(replica: LiveReplica, now: float) -> Json:
    requests, told = replica.requests, _plain(replica.work)
    if requests:
        told["busy_seconds"] += now - replica.busy_since
    told["sequence_seconds"] += sum(f.takes.sequences * (now - f.placed_at) for f in requests)
    told["in_flight"] = replica.own_sequences
    return told


def _plain(count: ModelCount | ReplicaCount | UsageCount) -> Json:
    return {name: getattr(count, name) for name in count.__dataclass_fields__}


def added(one: Any, other: Any) -> Any:
    """Return the sum of two counts, field by field at every depth; text is that of the first."""
    if isinstance(one, dict):
        both = {name: added(one[name], value) for name, value in other.items() if name in one}
        return one | other | both
    if isinstance(one, list):
        return [added(a, b) for a, b in zip(one, other, strict=True)]
    return one if isinstance(one, str) else one + other


def _by_process(told: Json) -> Json:
    """Return what a worker counted, with its engines by name and generation, as a worker may not
    have taken over the last table yet.
    """
    replicas = {(name, count["generation"]): count for name, count in told["replicas"].items()}
    return {
        "models": told["models"],
        "replicas": replicas,
        "usage": told["usage"],
        "keys": told.get("keys", {}),
    }


class MergedTraffic:
    """The counts of several workers, including those that ended.

    All counts are sums except `busy_seconds`: a replica that several workers keep busy is busy for
    less than the sum of their times. Between two samples the workers are assumed to be busy
    independently of each other, which is right if connections are many.
    """

    def __init__(self) -> None:
        self._epoch = new_epoch()
        self._past: Json = {"models": {}, "replicas": {}, "usage": {}, "keys": {}}
        self._busy: dict[tuple[str, str], dict[int, float]] = {}
        """The last busy seconds that each worker reported, by its row."""
        self._busy_seconds: dict[tuple[str, str], float] = {}
        self._at = math.nan
        self._removed_keys = RemovedKeys()

    def ended(self, row: int, told: Json | None) -> None:
        """Keep the last counts of a worker that has ended, if it sent any."""
        for known in self._busy.values():
            known.pop(row, None)
        if told is None:
            return
        for count in told["models"].values():
            count["waiting"] = count["in_flight"] = 0
        for count in told["replicas"].values():
            count["in_flight"] = 0
        for count in told.get("keys", {}).values():
            count["in_flight"] = 0.0
        self._past = added(self._past, _by_process(told))

    def sample(
        self,
        told: Mapping[int, Json],
        generations: Mapping[str, str],
        now: float,
        keys: Collection[str] = (),
    ) -> Json:
        """Return the sum over all workers.

        Args:
            told: the counts that each worker sent, by its row.
            generations: of each replica in the table.
            now: `time.monotonic`.
            keys: ids of those in the table.
        """
        self._look_at_busy(told, now)
        sums = functools.reduce(added, map(_by_process, told.values()), self._past)
        usage = self._past["usage"]
        booked = self._removed_keys.booked(usage, keys, now)
        self._past = self._past | {
            "usage": {key_id: usage[key_id] for key_id in usage.keys() - booked},
            "keys": {k: count for k, count in self._past["keys"].items() if k in keys},
        }
        known = {
            (name, count["generation"])
            for part in told.values()
            for name, count in part["replicas"].items()
        }
        replicas: dict[str, Json] = {}
        for key, count in list(sums["replicas"].items()):
            name, generation = key
            if key not in known and generations.get(name) != generation:
                self._forget(key)
            elif name not in replicas or generations.get(name) == generation:
                replicas[name] = {**count, "busy_seconds": self._busy_seconds.get(key, 0.0)}
        return {
            "at": now,
            "epoch": self._epoch,
            "models": sums["models"],
            "replicas": replicas,
            "usage": sums["usage"],
            "peers": _reached(told.values()),
            "keys": dict(sums["keys"]),
            "shares_number": min([part.get("shares_number", 0) for part in told.values()] or [0]),
        }

    def _look_at_busy(self, told: Mapping[int, Json], now: float) -> None:
        seconds, self._at = now - self._at, now
        shares: dict[tuple[str, str], list[float]] = {}
        for row, part in told.items():
            for name, count in part["replicas"].items():
                key = (name, count["generation"])
                mine = self._busy.setdefault(key, {})
                busy = count["busy_seconds"] - mine.get(row, 0.0)
                mine[row] = count["busy_seconds"]
                shares.setdefault(key, []).append(max(0.0, busy))
        for key, each in shares.items():
            # Before the first sample: at least as long as the busiest worker.
            union = max(each)
            if seconds > 0.0:
                union = seconds * (1.0 - math.prod(1.0 - min(1.0, b / seconds) for b in each))
            self._busy_seconds[key] = self._busy_seconds.get(key, 0.0) + union

    def _forget(self, key: tuple[str, str]) -> None:
        """Forget an engine that is gone and has no request in flight any more."""
        for known in (self._past["replicas"], self._busy, self._busy_seconds):
            known.pop(key, None)


def _reached(told: Iterable[Json]) -> dict[str, bool]:
    """Return whether each worker reaches a host's proxy, by host."""
    found: dict[str, bool] = {}
    for part in told:
        for host, is_reached in part.get("peers", {}).items():
            found[host] = is_reached and found.get(host, True)
    return found
