"""The client works against the API on a real port."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from partitiond.client import ControlClient
from partitiond.client.connection import events
from partitiond.client.credentials import Credentials
from partitiond.client.errors import from_problem
from partitiond.core import errors
from partitiond.core.dispatch.routing import KeyRates
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec, Slo, SourceKind, Weights
from partitiond.core.plan.answers import PlanProgress, PlanQuestion
from partitiond.core.plan.record import Objective, Plan
from partitiond.core.profile.jobs import JobState, ProfileOptions
from partitiond.core.replica.convergence import PlanState
from tests.advise.servers import serving
from tests.api.conftest import TOKEN
from tests.api.test_resources import PROFILE
from tests.cli.conftest import ServedApi


@pytest.fixture
def daemon() -> Iterator[ServedApi]:
    here = ServedApi()
    yield here
    here.close()


@pytest.fixture
def client(daemon: ServedApi) -> Iterator[ControlClient]:
    with ControlClient(daemon.url, TOKEN) as made:
        yield made


def test_models_round_trip(client: ControlClient) -> None:
    """A specification is registered and changed as it is; a relative folder is the user's."""
    record = client.register({"model": "opt-125m", "weights": "dummy", "aliases": ["x"]})
    assert record.spec.weights is Weights.DUMMY
    assert client.model("opt-125m").record == record
    assert [view.record for view in client.models()] == [record]
    changed = client.update("opt-125m", {"demand": {"req_per_s": 2}}, version=1)
    assert changed.spec.demand == Demand(2.0)
    with pytest.raises(errors.PreconditionFailedError):
        client.update("opt-125m", {"auto": False}, version=1)
    whole = replace(changed.spec, request_defaults={"top_p": 0.5}, aliases=(), slo=Slo(1, 0.1))
    assert client.update("opt-125m", whole).spec == whole
    client.remove("opt-125m", version=3)
    spec = ModelSpec("m", ModelSource(SourceKind.HUB, "org/m", "abc"))
    assert client.register(spec).spec == spec
    here = client.register({"model": "./.", "name": "here"})
    assert here.spec.source.ref == str(Path.cwd())
    assert {view.record.spec.name for view in client.models()} == {"m", "here"}
    with pytest.raises(errors.SpecError, match="is no model") as refused:
        client.register({"model": "nonsense"})
    assert "opt-125m" in refused.value.hint
    assert refused.value.facts["model"] == "nonsense"


def test_jobs_are_asked_for_and_cancelled(client: ControlClient, daemon: ServedApi) -> None:
    daemon.host.profiler.gate.clear()
    client.register({"model": "opt-125m", "weights": "dummy", "auto": False})
    job = client.profile("opt-125m", ProfileOptions(cores=1, memory_bytes=5 << 30))
    assert dict(job.params).items() >= {"cores": "1", "memory_bytes": str(5 << 30)}.items()
    assert client.job(job.id).params == job.params
    assert client.cancel_job(job.id).state is JobState.CANCELLED
    assert [(j.id, j.state) for j in client.jobs()] == [(job.id, JobState.CANCELLED)]
    with pytest.raises(errors.NotFoundError):
        client.job("none")


def test_profiles_and_plans_are_seen_and_followed(client: ControlClient, daemon: ServedApi) -> None:
    """Every other call is made by the commands, whose tests are tests/cli's."""
    daemon.run(daemon.host.service.daemon.start())
    assert client.import_profile(PROFILE) == client.profile_by_id(PROFILE.id) == PROFILE
    assert list(client.profiles("opt-125m")) == [PROFILE]
    assert client.current_plan() is None
    preview = client.plan("max-goodput")
    assert client.apply(preview.plan.id).plan == client.current_plan()
    with pytest.raises(errors.NotFoundError, match="no plan 'plan-9'"):
        client.apply("plan-9")
    *_, now = client.watch_convergence(preview.plan.id)
    assert (now.plan_id, now.state) == (preview.plan.id, PlanState.CONVERGED)
    assert client.convergence().state is PlanState.CONVERGED
    with pytest.raises(errors.NotFoundError):
        list(client.watch_convergence("plan-9"))


def test_a_plan_is_asked_with_everything_and_tells_how_far_it_is(
    client: ControlClient, daemon: ServedApi
) -> None:
    daemon.host.measured("a")
    daemon.run(daemon.host.register("a", auto=False))
    told: list[PlanProgress] = []
    changes = ("+2 a100-80gb", "no mig; lose cpu")
    preview = client.plan(PlanQuestion(Objective.MAX_MIN, changes, "a", True), told.append)
    assert tuple(one.change for one in preview.answers.what_if) == changes
    assert preview.answers.explanation is not None
    assert told


def test_a_refused_question_or_code_is_the_error_it_was(
    client: ControlClient, daemon: ServedApi
) -> None:
    with pytest.raises(errors.InputError, match="not understood") as refused:
        client.plan(PlanQuestion(what_if=("fly away",)))
    assert "Write" in refused.value.hint

    async def refuses(*_: object, **__: object) -> Plan:
        raise errors.ConflictError("too much changed.", hint="Try again.")

    daemon.host.solve = refuses
    with pytest.raises(errors.ConflictError, match="too much changed"):
        client.plan()
    body = b'{"code": "of_tomorrow", "detail": "d", "hint": "h", "facts": {"a": 1}}'
    error = from_problem("http://x", 418, body)
    assert (error.code, error.hint, error.facts) == ("of_tomorrow", "h", {"a": 1})
    for name in ("../keys", "a/b", "a b", "ü", "?x=1", "#", ".", ".."):
        with pytest.raises(errors.NotFoundError):
            client.model(name)


def test_what_is(client: ControlClient, daemon: ServedApi) -> None:
    assert list(client.replicas()) == list(client.replicas("b")) == []
    daemon.host.store.add_event("t", "k", "s", "m")
    assert [event.message for event in client.events(after=0, limit=5)] == ["m"]
    assert "partitiond_replicas" in client.metrics()
    client.register({"model": "opt-125m", "weights": "dummy", "auto": False})
    assert [model.name for model in client.overview(window_seconds=60.0).models] == ["opt-125m"]
    assert client.readiness() == {"loop": "the first pass is not over"}
    client.token = "another-token-for-tests"
    assert client.readiness().keys() == {"daemon"}, "not told why, it does not say ready"
    client.token = TOKEN
    daemon.run(daemon.host.service.daemon.start())
    daemon.run(daemon.host.passes(lambda: daemon.host.service.readiness.problems() == {}))
    assert client.readiness() == {}
    assert [device.id for device in client.devices()] == ["cpu"]


def test_a_record_of_a_key_says_all_its_terms(client: ControlClient) -> None:
    client.register({"model": "opt-125m", "name": "m", "auto": False})
    record, _ = client.create_key("app", ["m"])
    assert record.models == ("m",)
    changed = client.update_key(record.id, {"rates": {"max_in_flight": 2}})
    assert changed.rates == KeyRates(max_in_flight=2)
    terms = replace(changed, rates=KeyRates(), expires_at="2030-01-01T00:00:00.000Z")
    assert client.update_key(record.id, terms) == terms


@pytest.mark.parametrize("token", ["", "wrong", "ü", "two\nlines", "two words"])
def test_a_wrong_token_is_told_apart(daemon: ServedApi, token: str) -> None:
    with ControlClient(daemon.url, token) as client:
        with pytest.raises(errors.UnauthorizedError, match="token"):
            client.models()
        client.token = f"{TOKEN}\n"  # as read from its file
        assert list(client.models()) == []


@pytest.mark.parametrize("first", ["", "of-the-daemon-before"])
def test_a_token_that_is_written_later_is_read_again(daemon: ServedApi, first: str) -> None:
    tokens = [first]
    with ControlClient(daemon.url, first, reread=lambda: tokens[-1]) as client:
        with pytest.raises(errors.UnauthorizedError):
            client.models()
        tokens.append(TOKEN)
        assert list(client.models()) == []
        client.plan()  # a stream
        assert client.token == TOKEN


def test_a_refused_token_is_read_again_once() -> None:
    """A daemon that refuses every token is asked twice, not for ever."""
    tokens = iter(f"token-{number}" for number in range(1000))
    asked = 0

    def refuse(request: httpx.Request) -> httpx.Response:
        nonlocal asked
        asked += 1
        return httpx.Response(401)

    credentials = Credentials("first", "", lambda: next(tokens))
    with httpx.Client(transport=httpx.MockTransport(refuse), auth=credentials) as http:
        assert http.get("http://daemon").status_code == 401
    assert asked == 2


def test_nobody_there() -> None:
    with socket.socket() as taken:  # bound, not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            ControlClient(url, TOKEN) as client,
            pytest.raises(errors.DaemonUnreachableError) as caught,
        ):
            client.models()
    assert "partitiond serve" in caught.value.hint


def test_a_daemon_that_is_starting_is_waited_for_and_nothing_is_sent_twice() -> None:
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        asked: list[bool] = []

        def starts() -> bool:
            asked.append(True)
            return len(asked) < 4

        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        with ControlClient(url, TOKEN, starts=starts) as client:
            for call in (client.models, lambda: client.register({"model": "m"}), client.shutdown):
                asked.clear()
                with pytest.raises(errors.DaemonUnreachableError):
                    call()
                assert len(asked) == 4
            asked.clear()
            with pytest.raises(errors.DaemonUnreachableError):
                next(client.watch_convergence())
            assert len(asked) == 4


def test_a_daemon_that_does_not_answer_in_time_runs_all_the_same() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with (
            ControlClient(url, TOKEN, timeout=0.2) as client,
            pytest.raises(errors.DaemonTimeoutError, match="runs, but did not answer") as caught,
        ):
            client.models()
    assert "serve" not in caught.value.hint
    assert "try again" in caught.value.hint


def test_a_question_is_asked_again_where_a_connection_had_ended() -> None:
    """The daemon ends one that was idle, and the client may have begun to write to it."""
    asked: list[str] = []

    def answer(path: str) -> tuple[int, str]:
        asked.append(path)
        if len(asked) == 1:
            raise ConnectionResetError
        return 200, "[]"

    with serving(answer) as url, ControlClient(url, TOKEN) as client:
        assert client.models() == []
    assert asked == ["/models"] * 2


def test_somebody_else_there() -> None:
    with serving(lambda path: (404 if path == "/plan" else 200, "<html>hello</html>")) as url:
        with ControlClient(url, TOKEN) as client:
            for call in (client.models, client.current_plan):
                with pytest.raises(errors.DaemonUnreachableError, match="not partitiond"):
                    call()


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_before_it_is_sent(number: float) -> None:
    with (
        ControlClient("http://127.0.0.1:1", TOKEN) as client,
        pytest.raises(
            errors.InputError, match=r"demand\.req_per_s: (nan|inf) is not a finite number"
        ),
    ):
        client.update("m", {"demand": {"req_per_s": number}})


def test_events_skip_comments_and_join_lines() -> None:
    lines = [": hi", "", "id: 1", "event: x", "data: a", "data:b", "", "data: lost"]
    assert [data for _, data in events(iter(lines))] == [b"a\nb"]
