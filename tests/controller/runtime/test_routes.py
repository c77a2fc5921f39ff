"""Only replicas that may get requests are routed."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.controller.runtime.routes import (
    RoutedEngine,
    RoutePolicy,
    availability_of,
    key_route,
    max_wait_seconds,
    routing_from,
    service_seconds,
)
from partitiond.core.dispatch import routing
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.spec import EngineOptions, Slo
from partitiond.core.profile.jobs import AwaitedLook
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState
from tests.controller.samples import NOW, placement, record, spec


def engine(state: ReplicaState, *, name: str = "a-1", **changes: object) -> RoutedEngine:
    observed = ObservedReplica(
        "a-1", f"g-{name}", placement("a-1"), state, in_flight=0, state_since=0.0
    )
    routed = RoutedEngine(observed, name, f"/run/{name}.sock", 4096, 256)
    return dataclasses.replace(routed, **changes)  # type: ignore[arg-type]


KEY = KeyRecord(
    id="key-1",
    sha256="ab" * 32,
    created_at=NOW,
    models=("a",),
    routes=(routing.RouteKind.EMBED,),
    expires_at="2030-01-01T00:00:00Z",
    priority=-2,
    weight=0.5,
    limits=routing.RequestLimits(max_output_tokens=8),
    rates=routing.KeyRates(token_budget=100, budget_period=routing.BudgetPeriod.MONTH),
    previous_sha256="cd" * 32,
    previous_until="2026-01-01T01:00:00Z",
)


def table(*engines: RoutedEngine, **changes: Any) -> routing.RoutingTable:
    given: dict[str, Any] = {
        "desired": [placement("a-1")],
        "engines": engines,
        "models": [record("a")],
        "keys": [key_route(KEY)],
        "policy": RoutePolicy(),
        "version": 3,
    }
    return routing_from(**given | changes)


STATES = st.sampled_from(ReplicaState)
SERVING, STARTING = engine(ReplicaState.SERVING), engine(ReplicaState.STARTING)
FAILED, DRAINING = engine(ReplicaState.FAILED), engine(ReplicaState.DRAINING)


@given(st.lists(STATES, max_size=6))
def test_only_serving_engines_get_requests_and_draining_ones_finish_theirs(
    states: list[ReplicaState],
) -> None:
    engines = [engine(state, name=f"a-{n}") for n, state in enumerate(states)]
    routes = {route.replica_id: route for route in table(*engines).replicas}
    for one in engines:
        state = one.observed.state
        route = routes.get(one.name)
        open_to_new = route is not None and not route.draining
        assert open_to_new == (state is ReplicaState.SERVING)
        if state is ReplicaState.DRAINING:
            assert route is not None


def test_a_route_carries_the_limits_of_the_operating_point_and_a_model_all_its_names() -> None:
    named = record(
        "a",
        aliases=("org/A-1B",),
        request_defaults={"top_p": 0.9, "stop": ["\n"]},
        request_limits=routing.RequestLimits(max_sequences=4),
    )
    made = table(SERVING, models=[named], policy=RoutePolicy(keys_required=True))
    (replica,), (model,) = made.replicas, made.models
    assert (replica.max_sequences, replica.kv_cache_tokens) == (4, 4096)
    assert replica.service_seconds == pytest.approx(0.2 + 31 * 0.01)
    assert service_seconds(placement(), spec()) == replica.service_seconds
    assert (model.name, model.served_name, model.aliases) == ("a", "a", ("org/A-1B",))
    assert model.defaults_json == '{"stop":["\\n"],"top_p":0.9}'
    assert model.limits == routing.RequestLimits(max_sequences=4)
    assert model.created_at == 1767225600
    assert made.keys_required
    assert made.keys == (
        routing.KeyRoute(
            id=KEY.id,
            sha256=KEY.sha256,
            models=KEY.models,
            routes=KEY.routes,
            previous_sha256=KEY.previous_sha256,
            previous_until=1767229200.0,
            expires_at=1893456000.0,
            priority=KEY.priority,
            weight=KEY.weight,
            limits=KEY.limits,
            rates=KEY.rates,
        ),
    )


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        ([], 512),  # at zero: as its next engine is started
        ([engine(ReplicaState.SLEEPING)], 512),
        ([STARTING], 512),
        ([SERVING], 256),  # of the version before
        ([engine(ReplicaState.SERVING, max_model_len=768)], 768),
        ([engine(ReplicaState.SERVING, max_model_len=768, host="h2"), SERVING], 256),
        ([engine(ReplicaState.SERVING, max_model_len=768), DRAINING], 768),
        ([engine(ReplicaState.SERVING, max_model_len=0)], 512),  # not known
        ([engine(ReplicaState.SERVING, max_model_len=0), SERVING], 256),
    ],
)
def test_a_model_takes_what_all_that_serve_take(engines: list[RoutedEngine], expected: int) -> None:
    models = [record("a", engine=EngineOptions(max_model_len=512))]
    (model,) = table(*engines, models=models).models
    assert model.max_model_len == expected


def test_a_request_waits_no_longer_than_its_slo_allows_less_the_time_to_the_first_token() -> None:
    """The sample's operating point has a TTFT p95 of 0.2 s."""
    policy = RoutePolicy(max_wait_seconds=30.0)
    models = [record("a", slo=Slo(2.0, 0.1)), record("b", slo=Slo(90.0, 0.1))]
    made = table(desired=(), models=models, policy=policy)
    assert [route.max_wait_seconds for route in made.models] == [2.0, 30.0]
    assert max_wait_seconds(spec(slo=Slo(2.0, 0.1)), [placement()], policy) == pytest.approx(1.8)
    assert max_wait_seconds(spec(slo=Slo(0.1, 0.1)), [placement()], policy) == 0.0


def test_a_wanted_model_is_coming_until_it_serves_unless_it_fails_again_and_again() -> None:
    hopeless = dataclasses.replace(
        FAILED, observed=dataclasses.replace(FAILED.observed, failures=HOPELESS_FAILURES)
    )
    broken = engine(ReplicaState.FAILING)
    wanted, available = [placement("a-1")], routing.ModelAvailability
    for engines in ([], [STARTING], [broken], [FAILED]):
        assert availability_of("a", wanted, engines) is available.STARTING
    assert availability_of("a", wanted, [SERVING]) is available.SERVING
    assert availability_of("a", wanted, [hopeless]) is available.UNAVAILABLE
    assert availability_of("a", [], []) is available.UNAVAILABLE
    removed = table(SERVING, desired=(), models=[])
    assert removed.models == ()
    assert [route.draining for route in removed.replicas] == [True]
    assert table(DRAINING, ending=True).models[0].availability is available.ENDING
    assert table(SERVING, ending=True).models[0].availability is available.SERVING


def test_a_model_that_is_measured_first_says_so_and_when_it_should_serve() -> None:
    look = {"a": AwaitedLook("job-1", 30.0)}
    for desired, awaits, at in (
        ([], "job-1 measures it first", 40.0),
        ([placement("a-1")], "", 40.0),
    ):
        (route,) = table(desired=desired, looks=look, ready_at={"a": 40.0}).models
        assert (route.awaits, route.ready_at) == (awaits, at)
        assert route.holds is bool(desired), "requests do not wait for a measurement"
    (route,) = table(desired=[], ready_at={"a": 40.0}).models
    assert (route.awaits, route.ready_at) == ("", 0.0)


def test_a_model_whose_start_is_foreseen_holds_its_requests_until_then() -> None:
    for one, ready_at, told in (
        (STARTING, {"a": 1234.5}, (True, 1234.5)),
        (STARTING, {}, (False, 0.0)),
        (SERVING, {"a": 1234.5}, (False, 0.0)),
    ):
        (model,) = table(one, ready_at=ready_at).models
        assert (model.holds, model.ready_at) == told


def test_clients_of_a_model_that_would_have_to_start_come_back_after_its_usual_start() -> None:
    for waited_for, known, told in (([], "a", 5.0), (["a"], "a", 2.5), (["a"], "b", 30.0)):
        (model,) = table(asleep=["a"], waited_for=waited_for, starts={known: 2.5}).models
        assert model.retry_after_seconds == told


@given(st.lists(st.tuples(STATES, st.sampled_from(["one", "two"])), max_size=6))
def test_each_host_is_told_of_the_replicas_that_run_there(
    engines: list[tuple[ReplicaState, str]],
) -> None:
    whole = table(
        *(engine(state, name=f"a-{n}", host=host) for n, (state, host) in enumerate(engines))
    )
    parts = {host: routing.TablesOfHosts(whole).of(host) for host in ("one", "two", "idle")}
    assert sorted(r.replica_id for part in parts.values() for r in part.replicas) == sorted(
        r.replica_id for r in whole.replicas
    )
    for host, part in parts.items():
        assert {replica.host for replica in part.replicas} <= {host}
        for same in ("version", "keys", "keys_required"):
            assert getattr(part, same) == getattr(whole, same)
        (model,), (everywhere,) = part.models, whole.models
        serves = any(not replica.draining for replica in part.replicas)
        if serves or everywhere.availability is not routing.ModelAvailability.SERVING:
            assert model == everywhere
        else:
            assert model.availability is routing.ModelAvailability.UNAVAILABLE
            assert model.elsewhere


def test_hosts_that_serve_each_other_are_told_of_all_such_and_what_each_has_of_a_model() -> None:
    at = {
        "a-0": (ReplicaState.SERVING, "two"),
        "a-1": (ReplicaState.SERVING, "one"),
        "a-2": (ReplicaState.SERVING, "two"),
        "a-3": (ReplicaState.DRAINING, "three"),
        "a-4": (ReplicaState.SERVING, "old"),
    }
    whole = table(*(engine(state, name=name, host=host) for name, (state, host) in at.items()))
    slots, context = whole.replicas[0].max_sequences, whole.replicas[0].max_model_len
    peers = tuple(routing.PeerRoute(host, f"unix:/{host}") for host in ("one", "two", "three"))
    parts = routing.TablesOfHosts(whole, peers=peers)
    for host in ("one", "three"):
        part = parts.of(host)
        (model,) = part.models
        assert (part.host, part.peers) == (host, peers)
        assert model.hosts == tuple(
            routing.HostSlots(name, n * slots, context) for name, n in (("one", 1), ("two", 2))
        )
    assert parts.of("old").peers == ()
    again = routing.TablesOfHosts(whole, parts, peers=(*peers[:1], *peers[1:]))
    assert again.peers is peers  # comparing the parts of many hosts takes little
    alone = routing.TablesOfHosts(whole, again).of("one")
    assert (alone.peers, alone.models[0].hosts) == ((), ())


@given(st.floats(1.0, 1e7), st.floats(1.0, 1e7), st.floats(0.01, 600.0))
def test_times_of_a_table_from_another_host_are_on_the_clock_of_this_one(
    there: float, here: float, ahead: float
) -> None:
    plain = table(STARTING)
    coming = tuple(dataclasses.replace(m, ready_at=there + ahead) for m in plain.models)
    told = dataclasses.replace(plain, models=coming, told_at=there)
    got = routing.on_own_clock(told, here)
    assert got.models[0].ready_at == pytest.approx(here + ahead)
    assert got.told_at == 0.0
    assert routing.on_own_clock(got, here + 5.0) == got  # its times are of this host now
    unknown = dataclasses.replace(plain, told_at=there)
    assert routing.on_own_clock(unknown, here).models[0].ready_at == 0.0
