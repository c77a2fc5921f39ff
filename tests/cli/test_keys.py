"""`partitiond keys` and models' request options work against an API that only remembers."""

import json
from dataclasses import replace

import pytest

from partitiond.cli.keys.options import budget_body, expiry_body
from partitiond.core.demand.traffic import UsageCount
from partitiond.core.errors import InputError
from partitiond.core.instants import unix_seconds
from partitiond.core.keys.record import KeyUse
from partitiond.core.model.spec import ModelSpec
from tests.cli.conftest import Cli, Result
from tests.controller.host import Host
from tests.controller.samples import record

TERMS = (
    *("--label", "batch jobs", "--model", "a", "--model", "b", "--route", "generate"),
    *("--expires", "2030-01-31", "--priority", "-1", "--weight", "0.5"),
    *("--requests-per-minute", "60", "--tokens-per-minute", "10000", "--max-in-flight", "8"),
    *("--token-budget", "1_000_000/month", "--max-prompt-bytes", "4096"),
    *("--max-output-tokens", "64", "--max-sequences", "2"),
)


@pytest.fixture
def host(started: Host) -> Host:
    """Keys may name these models."""
    for name in ("a", "b"):
        started.store.add_model(record(name, auto=False))
    return started


def test_a_key_is_made_with_all_its_terms_and_shown(host: Host, cli: Cli) -> None:
    made = cli("keys create", *TERMS).ended(0)
    assert len(made.out.split()) == 1, "the key alone on standard output"
    (key,) = host.store.keys()
    host.proxy.uses = {key.id: KeyUse(12, 3400, 250_000, 1)}
    shown = cli("keys show", key.id).shown
    for words in (
        "batch jobs",
        "a, b",
        "generate",
        "2030-01-31T00:00:00Z",
        "-1",
        "0.5",
        "4,096 bytes of prompts, 64 output tokens, 2 sequences",
        "60 requests/min, 10,000 tokens/min, 8 in flight, 1,000,000 tokens a month",
        "12 requests, 3,400 tokens, 1 in flight; 250,000 of the budget (25%)",
    ):
        assert words in shown
    assert cli("keys show", key.id, "--json").json["use"]["budget_used"] == 250_000
    assert made.out.strip() not in shown + cli("keys").out


def test_a_change_names_only_what_changes(host: Host, cli: Cli) -> None:
    cli("keys create", *TERMS)
    (before,) = host.store.keys()
    changed = cli(
        f"keys update {before.id} --token-budget 5/hour --model all --expires never"
        " --max-sequences 0 --json"
    ).json
    (after,) = host.store.keys()
    assert changed["id"] == before.id
    assert (after.models, after.expires_at, after.routes) == ((), None, before.routes)
    assert (after.rates.token_budget, after.rates.budget_period) == (5, "hour")
    assert after.rates.requests_per_minute == 60
    assert (after.limits.max_sequences, after.limits.max_output_tokens) == (0, 64)
    cli("keys update", before.id).refused(2, "at least one option")


def test_a_rotated_key_is_printed_alone_with_its_grace_beside(host: Host, cli: Cli) -> None:
    cli("keys create --label old")
    (key,) = host.store.keys()

    def rotated(grace: str, *options: str) -> Result:
        return cli("keys update", key.id, "--rotate", grace, *options)

    assert "never" in cli("keys").out, "it does not expire"
    once = rotated("2h")
    assert len(once.out.split()) == 1
    assert "taken until" in once.err
    assert host.store.keys()[0].previous_until == "2026-01-01T02:00:00.000Z"
    both = rotated("0", "--json").json
    assert (both["record"]["label"], len(both["key"].split())) == ("old", 1)
    assert both["record"]["previous_until"] is None
    rotated("0", "--label", "new").refused(2, "stands alone")
    assert host.store.keys()[0].label == "old", "nothing is half done"
    rotated("a while").refused(2)
    host.store.update_key(replace(key, expires_at="2020-01-01T00:00:00Z"))
    for words in ("keys", f"keys show {key.id}"):
        cli(words).ended(0, "expired")
    assert [cli("keys remove", key.id).code for _ in range(2)] == [0, 3]


def test_what_is_wrong_is_said_and_nothing_is_made(host: Host, cli: Cli) -> None:
    for options, words in (
        ("--expires soon", "not a duration"),
        ("--expires yesterday", "2030-01-31, 2030-01-31T12:00Z, or never"),
        ("--expires 2030-13-01", "no time"),
        ("--token-budget 0/day", "no limit at all"),
        ("--token-budget -5/day", "no budget"),
        ("--token-budget 5/week", "no period"),
    ):
        cli(*("keys", "create", *options.split())).refused(2, words)
    assert list(host.store.keys()) == []


def test_expiries_and_budgets_as_people_write_them() -> None:
    assert expiry_body("30d") == {"expires_in_seconds": 2_592_000.0}
    assert expiry_body("never") == {"expires_at": None}
    noon = expiry_body("2030-01-31T12:00+02:00")["expires_at"]
    assert unix_seconds(noon) == unix_seconds("2030-01-31T10:00:00Z")
    assert budget_body("0") == {"token_budget": 0}
    assert budget_body("1000/never") == {"token_budget": 1000, "budget_period": "never"}
    with pytest.raises(InputError):
        budget_body("9" * 30)


def test_a_models_names_defaults_and_limits_are_set_and_shown(host: Host, cli: Cli) -> None:
    cli(
        *("models", "add", "opt-125m", "--no-auto", "--alias", "facebook/opt-125m"),
        *("--default", "temperature=0.2", "--default", 'stop=["\\n"]', "--default", "suffix=end"),
        *("--max-output-tokens", "64"),
    ).ended(0)

    def spec() -> ModelSpec:
        return host.store.model("opt-125m").spec

    assert spec().aliases == ("facebook/opt-125m",)
    assert spec().request_defaults == {"temperature": 0.2, "stop": ["\n"], "suffix": "end"}
    defaults = 'temperature=0.2, stop=["\\n"], suffix="end"'
    cli("models show opt-125m").ended(0, "facebook/opt-125m", defaults, "64 output tokens")
    cli("models update opt-125m --alias none --max-sequences 4 --default top_p=1")
    limits = spec().request_limits
    assert (spec().aliases, spec().request_defaults) == ((), {"top_p": 1})
    assert (limits.max_sequences, limits.max_output_tokens) == (4, 64)
    cli("models update opt-125m --default none")
    assert spec().request_defaults == {}
    for wrong, words in (
        (("--default", "temperature"), "NAME=VALUE"),
        (("--default", "model=x"), "model can have no default"),
        (("--default", "top_p=1", "--default", "top_p=2"), "twice"),
        (("--alias", "a b"), "no alias"),
    ):
        cli("models update opt-125m", *wrong).refused(2, words)


def test_usage_is_shown(host: Host, cli: Cli) -> None:
    used = UsageCount(1200, 3, 45_000, 90_000)
    host.store.add_usage("2025-01-01T00", {("key-1", "opt"): used}, {})
    asked = ("keys", "show", "--usage", "--since", "2025-01-01", "--until", "2025-01-02")
    cli(*asked).ended(0, "key-1", "opt", "1,200", "45,000", "90,000")
    told = json.loads(cli(*asked, "--by", "day", "--json").out)
    assert told["lines"][0]["period"] == "2025-01-01"
    one_day = cli("keys show --usage --since 2025-01-01 --until 2025-01-01 --json")
    assert json.loads(one_day.out)["last_hour"] == "2025-01-01T23"
    assert "Nothing was used" in cli("keys show --usage --since 2020-01-01 --until 2020-02-01").out
    cli("keys show --usage --since soon").refused(2, "7d")
    cli("keys show --usage --by key,nonsense").refused(2, "--by 'nonsense' is none of key, model")
