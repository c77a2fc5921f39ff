"""Only replicas that may get requests are routed."""

import dataclasses

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
from partitiond.core.dispatch.routing import (
    BudgetPeriod,
    HostSlots,
    KeyRates,
    KeyRoute,
    ModelAvailability,
    ModelRoute,
    PeerRoute,
    RequestLimits,
    RouteKind,
    RoutingTable,
    TablesOfHosts,
    on_own_clock,
)
from partitiond.core.keys.record import KeyRecord
from partitiond.core.model.spec import Slo
from partitiond.core.replica.observation import HOPELESS_FAILURES, ObservedReplica
from partitiond.core.replica.states import ReplicaState
from tests.controller.samples import NOW, placement, record, spec


def engine(state: ReplicaState, *, name: str = "a-1", **changes: object) -> RoutedEngine:
    observed = ObservedReplica(
        "a-1", f"g-{name}", placement("a-1"), state, in_flight=0, state_since=0.0
    )
    routed = RoutedEngine(observed, name, f"/run/{name}.sock", 4096, 256)
    return dataclasses.replace(routed, **changes)  # type: ignore[arg-type]


def table(*engines: RoutedEngine, policy: RoutePolicy | None = None) -> RoutingTable:
    return routing_from(
        desired=[placement("a-1")],
        engines=engines,
        models=[record("a")],
        keys=[key_route(KeyRecord(id="key-1", sha256="ab" * 32, models=("a",), created_at=NOW))],
        policy=policy or RoutePolicy(),
        version=3,
    )


@given(st.lists(st.tuples(st.sampled_from(ReplicaState), st.booleans()), max_size=6))
def test_only_serving_engines_get_requests_and_draining_ones_finish_theirs(
    states: list[tuple[ReplicaState, bool]],
) -> None:
    engines = [
        engine(state, name=f"a-{n}", broken=broken) for n, (state, broken) in enumerate(states)
    ]
    routes = {route.replica_id: route for route in table(*engines).replicas}
    for one in engines:
        state = one.observed.state
        route = routes.get(one.name)
        open_to_new = route is not None and not route.draining
        assert open_to_new == (state is ReplicaState.SERVING and not one.broken)
        if state is ReplicaState.DRAINING and not one.broken:
            assert route is not None


def test_a_route_carries_the_limits_of_the_operating_point() -> None:
    (route,) = table(engine(ReplicaState.SERVING)).replicas
    assert route.max_sequences == 4
    assert route.kv_cache_tokens == 4096
    assert route.service_seconds == pytest.approx(0.2 + 31 * 0.01)
    assert service_seconds(placement(), spec()) == route.service_seconds


def test_keys_and_their_requirement_are_handed_over() -> None:
    made = table(policy=RoutePolicy(keys_required=True))
    assert made.keys_required
    assert [(key.id, key.models) for key in made.keys] == [("key-1", ("a",))]


def test_a_key_is_handed_over_with_all_its_terms() -> None:
    route = key_route(
        KeyRecord(
            id="key-1",
            sha256="ab" * 32,
            created_at=NOW,
            models=("a",),
            routes=(RouteKind.EMBED,),
            expires_at="2030-01-01T00:00:00Z",
            priority=-2,
            weight=0.5,
            limits=RequestLimits(max_output_tokens=8),
            rates=KeyRates(token_budget=100, budget_period=BudgetPeriod.MONTH),
            previous_sha256="cd" * 32,
            previous_until="2026-01-01T01:00:00Z",
        )
    )
    assert route == KeyRoute(
        id="key-1",
        sha256="ab" * 32,
        models=("a",),
        routes=(RouteKind.EMBED,),
        previous_sha256="cd" * 32,
        previous_until=1767229200.0,
        expires_at=1893456000.0,
        priority=-2,
        weight=0.5,
        limits=RequestLimits(max_output_tokens=8),
        rates=KeyRates(token_budget=100, budget_period=BudgetPeriod.MONTH),
    )


def test_a_model_is_handed_over_with_its_names_defaults_and_limits() -> None:
    named = record(
        "a",
        aliases=("org/A-1B",),
        request_defaults={"top_p": 0.9, "stop": ["\n"]},
        request_limits=RequestLimits(max_sequences=4),
    )
    (route,) = routing_from(
        desired=(), engines=(), models=[named], keys=(), policy=RoutePolicy(), version=1
    ).models
    assert (route.name, route.served_name, route.aliases) == ("a", "a", ("org/A-1B",))
    assert route.defaults_json == '{"stop":["\\n"],"top_p":0.9}'
    assert route.limits == RequestLimits(max_sequences=4)
    assert route.created_at == 1767225600


def test_a_request_waits_no_longer_than_its_slo_allows() -> None:
    made = routing_from(
        desired=(),
        engines=(),
        models=[record("a", slo=Slo(2.0, 0.1)), record("b", slo=Slo(90.0, 0.1))],
        keys=(),
        policy=RoutePolicy(max_wait_seconds=30.0),
        version=1,
    )
    assert [route.max_wait_seconds for route in made.models] == [2.0, 30.0]


def test_the_time_an_engine_needs_to_the_first_token_is_not_there_to_be_waited() -> None:
    """The sample's operating point has a TTFT p95 of 0.2 s."""
    policy = RoutePolicy(max_wait_seconds=30.0)
    assert max_wait_seconds(spec(slo=Slo(2.0, 0.1)), [placement()], policy) == pytest.approx(1.8)
    assert max_wait_seconds(spec(slo=Slo(0.1, 0.1)), [placement()], policy) == 0.0


@pytest.mark.parametrize(
    ("engines", "expected"),
    [
        ([], ModelAvailability.STARTING),
        ([engine(ReplicaState.STARTING)], ModelAvailability.STARTING),
        ([engine(ReplicaState.SERVING)], ModelAvailability.SERVING),
        ([engine(ReplicaState.SERVING, broken=True)], ModelAvailability.STARTING),
        ([engine(ReplicaState.FAILED)], ModelAvailability.STARTING),
    ],
)
def test_a_wanted_model_is_coming_until_it_serves(
    engines: list[RoutedEngine], expected: ModelAvailability
) -> None:
    assert availability_of("a", [placement("a-1")], engines) is expected


def test_a_model_that_is_not_planned_or_fails_again_and_again_is_unavailable() -> None:
    assert availability_of("a", [], []) is ModelAvailability.UNAVAILABLE
    failed = engine(ReplicaState.FAILED)
    hopeless = dataclasses.replace(
        failed, observed=dataclasses.replace(failed.observed, failures=HOPELESS_FAILURES)
    )
    assert availability_of("a", [placement("a-1")], [hopeless]) is ModelAvailability.UNAVAILABLE


def test_the_last_engine_of_a_removed_model_gets_nothing_new() -> None:
    made = routing_from(
        desired=(),
        engines=[engine(ReplicaState.SERVING)],
        models=[],
        keys=(),
        policy=RoutePolicy(),
        version=1,
    )
    assert made.models == ()
    assert [route.draining for route in made.replicas] == [True]


def route_of(*engines: RoutedEngine, **more: object) -> ModelRoute:
    made = routing_from(
        desired=[placement("a-1")],
        engines=engines,
        models=[record("a")],
        keys=[],
        policy=RoutePolicy(),
        version=1,
        **more,  # type: ignore[arg-type]
    )
    return made.models[0]


def test_a_model_whose_start_is_foreseen_holds_its_requests_until_then() -> None:
    starting = engine(ReplicaState.STARTING)
    foreseen = route_of(starting, ready_at={"a": 1234.5})
    assert (foreseen.holds, foreseen.ready_at) == (True, 1234.5)
    assert foreseen.availability is ModelAvailability.STARTING
    unknown = route_of(starting)
    assert (unknown.holds, unknown.ready_at) == (False, 0.0)
    serving = route_of(engine(ReplicaState.SERVING), ready_at={"a": 1234.5})
    assert (serving.holds, serving.ready_at) == (False, 0.0)


def test_a_daemon_that_ends_says_so_once_nobody_serves() -> None:
    draining = engine(ReplicaState.DRAINING)
    assert route_of(draining, ending=True).availability is ModelAvailability.ENDING
    serving = engine(ReplicaState.SERVING)
    assert route_of(serving, ending=True).availability is ModelAvailability.SERVING


@given(
    st.lists(st.tuples(st.sampled_from(ReplicaState), st.sampled_from(["one", "two"])), max_size=6)
)
def test_each_host_is_told_of_the_replicas_that_run_there(
    engines: list[tuple[ReplicaState, str]],
) -> None:
    whole = table(
        *(engine(state, name=f"a-{n}", host=host) for n, (state, host) in enumerate(engines))
    )
    parts = {host: TablesOfHosts(whole).of(host) for host in ("one", "two", "idle")}
    assert sorted(r.replica_id for part in parts.values() for r in part.replicas) == sorted(
        r.replica_id for r in whole.replicas
    )
    for host, part in parts.items():
        assert {replica.host for replica in part.replicas} <= {host}
        assert (part.version, part.keys, part.keys_required) == (
            whole.version,
            whole.keys,
            whole.keys_required,
        )
        (model,), (everywhere,) = part.models, whole.models
        serves = any(not replica.draining for replica in part.replicas)
        if serves or everywhere.availability is not ModelAvailability.SERVING:
            assert model == everywhere
        else:
            assert model.availability is ModelAvailability.UNAVAILABLE
            assert model.elsewhere


def test_each_host_that_serves_others_is_told_of_all_such() -> None:
    whole = table(engine(ReplicaState.SERVING, host="one"))
    peers = tuple(PeerRoute(host, f"unix:/{host}") for host in ("one", "two"))
    first = TablesOfHosts(whole, peers=peers)
    told = {host: first.of(host) for host in ("one", "two", "old")}
    assert {host: part.host for host, part in told.items()} == {host: host for host in told}
    assert told["one"].peers == told["two"].peers == peers
    assert told["old"].peers == ()
    again = TablesOfHosts(whole, first, peers=(*peers[:1], *peers[1:]))
    assert again.peers is peers  # comparing the parts of many hosts takes little
    assert TablesOfHosts(whole, again).of("one").peers == ()


def test_hosts_that_serve_each_other_are_told_what_each_has_of_a_model() -> None:
    at = {
        "a-0": (ReplicaState.SERVING, "two"),
        "a-1": (ReplicaState.SERVING, "one"),
        "a-2": (ReplicaState.SERVING, "two"),
        "a-3": (ReplicaState.DRAINING, "three"),
        "a-4": (ReplicaState.SERVING, "old"),
    }
    whole = table(*(engine(state, name=name, host=host) for name, (state, host) in at.items()))
    slots = whole.replicas[0].max_sequences
    peers = tuple(PeerRoute(host, f"unix:/{host}") for host in ("one", "two", "three"))
    parts = TablesOfHosts(whole, peers=peers)
    for host in ("one", "three"):
        (model,) = parts.of(host).models
        assert model.hosts == (HostSlots("one", slots), HostSlots("two", 2 * slots))
    (alone,) = TablesOfHosts(whole, parts).of("one").models
    assert alone.hosts == ()


@given(st.floats(1.0, 1e7), st.floats(1.0, 1e7), st.floats(0.01, 600.0))
def test_times_of_a_table_from_another_host_are_on_the_clock_of_this_one(
    there: float, here: float, ahead: float
) -> None:
    plain = table(engine(ReplicaState.STARTING))
    coming = tuple(dataclasses.replace(m, ready_at=there + ahead) for m in plain.models)
    got = on_own_clock(dataclasses.replace(plain, models=coming, told_at=there), here)
    assert got.models[0].ready_at == pytest.approx(here + ahead)
    assert got.told_at == 0.0
    assert on_own_clock(got, here + 5.0) == got  # its times are of this host now
    unknown = dataclasses.replace(plain, told_at=there)
    assert on_own_clock(unknown, here).models[0].ready_at == 0.0
