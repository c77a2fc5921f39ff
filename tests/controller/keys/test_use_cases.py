"""The service makes, changes, rotates and removes keys, and passes them to the proxy."""

import dataclasses
import hashlib
from typing import Any

import pytest

from partitiond.core.dispatch.routing import KeyRates, KeyRoute, RequestLimits, RouteKind
from partitiond.core.dispatch.told_tables import ToldTables
from partitiond.core.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    NotReadyError,
    SpecError,
)
from partitiond.core.keys.record import KeyTerms, KeyUse
from partitiond.ports.host import HostTable
from tests.controller.host import Host
from tests.controller.samples import NOW
from tests.machine import until

NOW_SECONDS = 1767225600.0
LATER = "2026-02-01T00:00:00.000Z"


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def route(host: Host, key_id: str) -> KeyRoute:
    (found,) = (key for key in host.proxy.table.keys if key.id == key_id)
    return found


async def test_all_terms_reach_the_proxy_and_change_there_at_once(host: Host) -> None:
    terms = KeyTerms(
        routes=(RouteKind.EMBED,),
        expires_at=LATER,
        priority=1,
        weight=2.0,
        limits=RequestLimits(max_output_tokens=64),
        rates=KeyRates(requests_per_minute=60, token_budget=10**6),
    )
    record, key = await host.service.keys.create(terms)
    told = route(host, record.id)
    assert (told.routes, told.priority, told.weight) == ((RouteKind.EMBED,), 1, 2.0)
    assert (told.limits, told.rates) == (terms.limits, terms.rates)
    assert told.expires_at == NOW_SECONDS + 31 * 86400

    changed = await host.service.keys.update(
        record.id, dataclasses.replace(terms, expires_at=None, rates=KeyRates(max_in_flight=2))
    )
    told = route(host, record.id)
    assert (told.expires_at, told.rates) == (0.0, KeyRates(max_in_flight=2))
    assert (changed.sha256, told.sha256) == (digest(key), digest(key))
    (event,) = [e for e in host.service.events.events() if e.kind == "key-changed"]
    assert (event.subject, event.message) == (record.id, "changed: expires_at, rates.")
    same = dataclasses.replace(terms, expires_at=None, rates=KeyRates(max_in_flight=2))
    assert await host.service.keys.update(record.id, same) == changed
    assert host.kinds().count("key-changed") == 1, "a change that changes nothing is no event"


async def test_a_rotated_key_takes_both_secrets_until_the_grace_ends(host: Host) -> None:
    record, first = await host.service.keys.create(KeyTerms(label="app", weight=2.0))
    rotated, second = await host.service.keys.rotate(record.id, 3600.0)
    assert (rotated.id, rotated.label, rotated.weight) == (record.id, "app", 2.0)
    assert rotated.previous_until == "2026-01-01T01:00:00.000Z"
    told = route(host, record.id)
    assert (told.sha256, told.previous_sha256) == (digest(second), digest(first))
    assert told.previous_until == NOW_SECONDS + 3600
    # A second rotation: two secrets at most.
    _, third = await host.service.keys.rotate(record.id, 60.0)
    told = route(host, record.id)
    assert (told.sha256, told.previous_sha256) == (digest(third), digest(second))
    text = "".join(event.message for event in host.service.events.events())
    assert not any(secret in text for secret in (first, second, third))


async def test_a_rotation_without_grace_ends_the_old_secret_at_once_and_none_an_expired_key(
    host: Host,
) -> None:
    record, first = await host.service.keys.create(KeyTerms())
    for grace in (-1.0, 91 * 86400.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="grace"):
            await host.service.keys.rotate(record.id, grace)
    assert list(host.service.keys.keys()) == [record]
    _, second = await host.service.keys.rotate(record.id, 0.0)
    told = route(host, record.id)
    assert (told.sha256, told.previous_sha256) == (digest(second), "")
    assert digest(first) not in repr(host.proxy.table)
    for past in (NOW, "2020-01-01"):
        with pytest.raises(InputError, match="not in the future"):
            await host.service.keys.create(KeyTerms(expires_at=past))
        with pytest.raises(InputError, match="not in the future"):
            await host.service.keys.update(record.id, KeyTerms(expires_at=past))
    host.store.update_key(dataclasses.replace(host.store.key(record.id), expires_at=NOW))
    with pytest.raises(ConflictError, match="expired"):
        await host.service.keys.rotate(record.id, 60.0)
    # It can still be given another end, or another label, which leaves the old end alone.
    await host.service.keys.update(record.id, KeyTerms(label="late", expires_at=NOW))
    await host.service.keys.update(record.id, KeyTerms(expires_at=LATER))
    await host.service.keys.rotate(record.id, 60.0)


async def test_models_are_named_as_registered_or_by_alias(host: Host) -> None:
    await host.register("a", auto=False, aliases=("org/A",))
    record, _ = await host.service.keys.create(KeyTerms(models=("org/A",)))
    assert record.models == ("a",)
    with pytest.raises(NotFoundError, match="no model unknown"):
        await host.service.keys.create(KeyTerms(models=("unknown",)))
    # A model that was removed since stays named: the key must not become one for all models.
    await host.service.models.remove("a")
    kept = await host.service.keys.update(record.id, KeyTerms(models=("a",), label="x"))
    assert kept.models == ("a",)
    with pytest.raises(NotFoundError, match="no model b"):
        await host.service.keys.update(record.id, KeyTerms(models=("a", "b")))


async def test_what_is_used_is_shown_where_the_proxy_says_it(host: Host) -> None:
    record, _ = await host.service.keys.create(KeyTerms())
    assert (await host.service.keys.show(record.id)).use is None
    host.proxy.uses = {record.id: KeyUse(3, 120, 120, 1)}
    assert (await host.service.keys.show(record.id)).use == KeyUse(3, 120, 120, 1)
    host.proxy.die()
    assert (await host.service.keys.show(record.id)).record == record
    with pytest.raises(NotFoundError):
        await host.service.keys.show("none")


async def test_a_removal_lists_the_hosts_that_have_not_confirmed_it(host: Host) -> None:
    """It is asked for again until they have; events say who lacks it, and who has it again."""
    record, _ = await host.service.keys.create(KeyTerms())
    before, problem = host.proxy.table, "the host does not answer."
    told = {"two": HostTable(ToldTables((before,)), problem)}
    fleet: Any = host.proxy
    fleet.known_tables, fleet.last_samples = lambda: told, dict
    for _ in range(2):
        with pytest.raises(NotReadyError, match="not confirmed by two") as late:
            await host.service.keys.remove(record.id)
        assert late.value.facts == {"key": record.id, "unconfirmed_hosts": ["two"]}
    noted = {(event.kind, event.subject) for event in host.service.events.events()}
    assert noted >= {("key-not-in-force", record.id), ("key-removed", record.id)}
    await until(lambda: "proxy-behind" in host.kinds())
    told["two"] = HostTable(ToldTables(), problem)  # another head does not know what that host has
    with pytest.raises(NotReadyError):
        await host.service.keys.remove(record.id)
    told["two"] = HostTable(ToldTables((host.proxy.table,)), "")
    with pytest.raises(NotFoundError):  # confirmed
        await host.service.keys.remove(record.id)
    host.service.parts.controller.wake()
    await until(lambda: "proxy-confirmed" in host.kinds())


async def test_keys_are_kept_while_there_is_no_proxy(host: Host) -> None:
    host.proxy.refuse_start = SpecError("its port is taken.")
    host.proxy.die()
    record, _ = await host.service.keys.create(KeyTerms())
    assert list(host.service.keys.keys()) == [record]
    last = host.service.events.events()[-1]
    assert (last.kind, last.subject) == ("key-not-in-force", record.id)
    assert "the proxy is gone" in last.message
