"""`partitiond keys` and models' request options work against an API that only remembers."""

from dataclasses import replace

import pytest

from partitiond.cli.keys.options import budget_body, expiry_body
from partitiond.core.errors import InputError
from partitiond.core.instants import unix_seconds
from partitiond.core.keys.record import KeyUse
from tests.api.fake_service import FakeService
from tests.cli.conftest import Cli

TERMS = (
    *("--label", "batch jobs", "--model", "a", "--model", "b", "--route", "generate"),
    *("--expires", "2030-01-31", "--priority", "-1", "--weight", "0.5"),
    *("--requests-per-minute", "60", "--tokens-per-minute", "10000", "--max-in-flight", "8"),
    *("--token-budget", "1_000_000/month", "--max-prompt-bytes", "4096"),
    *("--max-output-tokens", "64", "--max-sequences", "2"),
)


def test_a_key_is_made_with_all_its_terms_and_shown(service: FakeService, cli: Cli) -> None:
    made = cli("keys create", *TERMS)
    assert made.code == 0, made.err
    assert len(made.out.split()) == 1, "the key alone on standard output"
    (record,) = service.keys.keys()
    service.keys.uses[record.id] = KeyUse(12, 3400, 250_000, 1)
    shown = cli("keys show", record.id).out
    for words in (
        "batch jobs",
        "a, b",
        "generate",
        "2030-01-31 00:00",
        "-1",
        "0.5",
        "4,096 bytes of prompts, 64 output tokens, 2 sequences",
        "60 requests/min, 10,000 tokens/min, 8 in flight, 1,000,000 tokens a month",
        "12 requests, 3,400 tokens, 1 in flight; 250,000 of the budget (25%)",
    ):
        assert words in " ".join(shown.split()), words
    assert cli("keys show", record.id, "--json").json["use"]["budget_used"] == 250_000
    assert made.out.strip() not in shown + cli("keys list").out


def test_a_change_names_only_what_changes(service: FakeService, cli: Cli) -> None:
    cli("keys create", *TERMS)
    (before,) = service.keys.keys()
    changed = cli(
        f"keys update {before.id} --token-budget 5/hour --model all --expires never"
        " --max-sequences 0 --json"
    ).json
    (after,) = service.keys.keys()
    assert changed["id"] == before.id
    assert (after.models, after.expires_at, after.routes) == ((), None, before.routes)
    assert (after.rates.token_budget, after.rates.budget_period) == (5, "hour")
    assert after.rates.requests_per_minute == 60
    assert (after.limits.max_sequences, after.limits.max_output_tokens) == (0, 64)
    nothing = cli("keys update", before.id)
    assert (nothing.code, "at least one option" in nothing.err) == (2, True)


def test_a_rotated_key_is_printed_alone_with_its_grace_beside(
    service: FakeService, cli: Cli
) -> None:
    cli("keys create")
    (record,) = service.keys.keys()
    rotated = cli("keys rotate", record.id, "--grace", "2h")
    assert len(rotated.out.split()) == 1
    assert "taken until" in rotated.err
    cli("keys rotate", record.id)
    cli("keys rotate", record.id, "--grace", "0")
    assert service.keys.graces == [7200.0, 3600.0, 0.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--expires", "soon"), "not a duration"),
        (("--expires", "yesterday"), "2030-01-31, 2030-01-31T12:00Z, or never"),
        (("--token-budget", "0/day"), "no limit at all"),
        (("--expires", "2030-13-01"), "no time"),
        (("--expires", "0d"), "expires_in_seconds"),
        (("--token-budget", "many"), "no budget"),
        (("--token-budget", "-5/day"), "no budget"),
        (("--token-budget", "5/week"), "no period"),
        (("--weight", "-1"), "weight"),
        (("--priority", "99"), "priority"),
        (("--requests-per-minute", "-1"), "requests_per_minute"),
        (("--route", "admin"), "routes"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(
    service: FakeService, cli: Cli, options: tuple[str, ...], words: str
) -> None:
    refused = cli("keys create", *options)
    assert refused.code == 2
    assert words in refused.err
    assert list(service.keys.keys()) == []


def test_a_grace_that_is_none_is_refused(service: FakeService, cli: Cli) -> None:
    assert cli("keys rotate key-1 --grace", "a while").code == 2
    assert service.keys.graces == []


def test_expiries_and_budgets_as_people_write_them() -> None:
    assert expiry_body("30d") == {"expires_in_seconds": 2_592_000.0}
    assert expiry_body("never") == {"expires_at": None}
    assert expiry_body(None) == {}
    noon = expiry_body("2030-01-31T12:00+02:00")["expires_at"]
    assert unix_seconds(noon) == unix_seconds("2030-01-31T10:00:00Z")
    assert budget_body("1000") == {"token_budget": 1000}
    assert budget_body("0") == {"token_budget": 0}
    assert budget_body("1000/never") == {"token_budget": 1000, "budget_period": "never"}
    with pytest.raises(InputError):
        budget_body("9" * 30)


def test_an_expired_key_is_shown_as_such(service: FakeService, cli: Cli) -> None:
    cli("keys create --label old")
    (record,) = service.keys.keys()
    service.store.update_key(replace(record, expires_at="2020-01-01T00:00:00Z"))
    assert "expired" in cli("keys list").out
    assert "expired" in cli("keys show", record.id).out


def test_a_models_names_defaults_and_limits_are_set_and_shown(
    service: FakeService, cli: Cli
) -> None:
    added = cli(
        *("models", "add", "opt-125m", "--no-auto", "--alias", "facebook/opt-125m"),
        *("--default", "temperature=0.2", "--default", 'stop=["\\n"]', "--default", "suffix=end"),
        *("--max-output-tokens", "64"),
    )
    assert added.code == 0, added.err
    spec = service.models.model("opt-125m").record.spec
    assert spec.aliases == ("facebook/opt-125m",)
    assert spec.request_defaults == {"temperature": 0.2, "stop": ["\n"], "suffix": "end"}
    shown = " ".join(cli("models show opt-125m").out.split())
    assert "facebook/opt-125m" in shown
    assert 'temperature=0.2, stop=["\\n"], suffix="end"' in shown
    assert "64 output tokens" in shown

    cli("models update opt-125m --alias none --max-sequences 4")
    spec = service.models.model("opt-125m").record.spec
    assert (spec.aliases, spec.request_limits.max_sequences) == ((), 4)
    assert spec.request_limits.max_output_tokens == 64
    cli("models update opt-125m --default top_p=1")
    assert service.models.model("opt-125m").record.spec.request_defaults == {"top_p": 1}
    cli("models update opt-125m --default none")
    assert service.models.model("opt-125m").record.spec.request_defaults == {}
    for wrong, words in (
        (("--default", "temperature"), "NAME=VALUE"),
        (("--default", "model=x"), "model can have no default"),
        (("--default", "top_p=1", "--default", "top_p=2"), "twice"),
        (("--alias", "a b"), "no alias"),
        (("--max-output-tokens", "-1"), "max_output_tokens"),
    ):
        refused = cli("models update opt-125m", *wrong)
        assert (refused.code, words in refused.err) == (2, True), refused.err
