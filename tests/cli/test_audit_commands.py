"""`events` and `models show --drift` work against an API that only remembers."""

import itertools
import json
import socket
import types

import pytest
import typer

from partitiond.cli.models.drift import report_view
from partitiond.cli.options import moment, this_person
from partitiond.core.errors import InputError
from partitiond.core.instants import unix_seconds
from partitiond.core.views.drift import DriftReport, Remeasure, ReplicaDrift
from tests.cli.conftest import Cli, ServedApi, text_of
from tests.controller.host import Host
from tests.controller.samples import CORRECTION, ENTRY


def happened(host: Host, *messages: str) -> None:
    """Three events, or one for each of these."""
    add = host.store.add_event
    for message in messages:
        add("2030-01-01T00:00:00.000Z", "k", "s", message)
    if not messages:
        add("2030-01-01T00:00:00.000Z", "model-registered", "a", "from x.", actor="ada@laptop")
        add("2030-01-02T00:00:00.000Z", "engine-ready", "a-1", "serves.")
        add("2030-01-03T00:00:00.000Z", "plan-applied", "plan-1", "as asked.", actor="bob@desk")


def test_events_show_who_asked_newest_first_and_are_narrowed(host: Host, cli: Cli) -> None:
    happened(host)
    for period in ((), ("--since", "2029-01-01")):
        shown = cli("events", *period).ended(0, "ada@laptop", "bob@desk").out
        lines = [line.split() for line in shown.splitlines() if line[:3].strip().isdecimal()]
        assert [line[1][:10] for line in lines] == ["2030-01-03", "2030-01-02", "2030-01-01"]
    for options, kinds in (
        ("--actor *", ["model-registered", "plan-applied"]),
        ("--kind engine-* --kind plan-applied", ["engine-ready", "plan-applied"]),
        ("--subject a*", ["model-registered", "engine-ready"]),
        ("--since 2030-01-02T00:00:00Z --until 2030-01-03", ["engine-ready"]),
    ):
        assert [e["kind"] for e in cli("events", *options.split(), "--json").json] == kinds


def test_an_export_is_complete_and_one_line_each(
    host: Host, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("partitiond.cli.events.PAGE", 7)
    happened(host, *map(str, range(50)))
    lines = cli("events --lines").out.splitlines()
    assert [json.loads(line)["message"] for line in lines] == [str(n) for n in range(50)]
    later = cli("events --lines --after 40 --limit 3").out.splitlines()
    assert [json.loads(line)["id"] for line in later] == [41, 42, 43]


def test_following_goes_on_over_a_restart_and_misses_and_repeats_nothing(
    served: ServedApi, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def add(number: int) -> None:
        served.host.store.add_event("2030-01-01T00:00:00.000Z", "k", "s", f"event {number}")

    pauses = itertools.count(1)

    def pause(_: float) -> None:
        number = next(pauses)
        if number == 3:
            served.stop()
        elif number == 5:
            served.start()
        elif number == 7:
            raise typer.Exit
        add(number)

    clock = types.SimpleNamespace(sleep=pause)
    monkeypatch.setattr("partitiond.cli.events.time", clock)
    add(0)
    followed = cli("events --lines --follow")
    told = [json.loads(line)["message"] for line in followed.out.splitlines()]
    assert told == [f"event {n}" for n in range(7)]
    assert followed.err.count("goes on once it answers") == 1


def test_a_period_of_many_events_shows_the_newest_and_says_that_there_are_more(
    host: Host, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened(host, *map(str, range(60)))
    since = "events --since 2029-01-01 --json --limit"
    shown = cli("events --since 2029-01-01 --json")
    assert [event["message"] for event in shown.json] == [str(n) for n in range(10, 60)]
    assert "The newest 50 of 60: --limit N shows more" in shown.said
    more = cli(since, 100)
    assert (len(more.json), more.err) == (60, "")
    after = cli("events --after 5 --limit 3 --json")
    assert [event["id"] for event in after.json] == [6, 7, 8]
    assert "--after 8 goes on" in after.err
    # More than one question gets.
    monkeypatch.setattr("partitiond.cli.events.PAGE", 7)
    for limit, of in ((3, "7 or more"), (7, "60"), (12, "60")):
        many = cli(since, limit)
        assert [event["message"] for event in many.json] == [str(n) for n in range(60 - limit, 60)]
        assert f"The newest {limit} of {of}" in many.said


def test_moments_and_people_are_what_the_api_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert moment("", "--since") == ""
    assert moment("2030-01-31", "--since") == "2030-01-31"
    hours = unix_seconds(moment("30m", "--since")) - unix_seconds(moment("2h", "--since"))
    assert hours == pytest.approx(5400, abs=60)
    with pytest.raises(InputError, match="no moment"):
        moment("yesterday", "--since")
    with pytest.raises(InputError, match="no moment"):
        moment("99999999999d", "--since")
    monkeypatch.delenv("PARTITIOND_ACTOR", raising=False)
    assert this_person().endswith(f"@{socket.gethostname()}"[-20:])
    monkeypatch.setenv("PARTITIOND_ACTOR", "nightly build <1>")
    assert this_person() == "nightly_build__1_"


def test_drift_shows_ratios_corrections_and_what_is_measured_again(host: Host, cli: Cli) -> None:
    replica = ReplicaDrift("a-1", "a-1", "a", "cpu", "slower", ENTRY.sentence, 7, ENTRY)
    waits = Remeasure("profile-a", "a", "job-1", "waits for a quiet time")
    shown = " ".join(text_of(report_view(DriftReport((replica,), (), (waits,), 30))).split())
    for words in (
        *("1.30 ±0.05", "7/30"),
        "pace is 1.30 times what its profile predicts at this load",
        "to be measured again (job-1): waits for a quiet time",
    ):
        assert words in shown
    host.service.drift._marks.set(CORRECTION.profile_id, CORRECTION)
    cli("models show --drift").ended(0, "plans take 0.75 of profile-a's rates")
    assert cli("models show --drift --json").json["corrections"][0]["factor"] == 0.75
    cli("models show --drift --lift", CORRECTION.profile_id).ended(0, "as they are again")
    assert cli("models show --drift --lift", CORRECTION.profile_id).code == 3
