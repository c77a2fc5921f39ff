"""A served name is identified with a model, and the plan is made for that model."""

import dataclasses

import pytest

from partitiond.advise.identify import (
    Known,
    ServedName,
    UnidentifiedModel,
    UserChoices,
    identify,
    slug,
)
from partitiond.advise.traffic import ObservedTraffic
from partitiond.core.model import spec as specs
from partitiond.models.catalog import CATALOG
from tests.advise.looks import of_catalog as asked
from tests.advise.looks import traffic_seen


def traffic(model: str, per_second: float = 1.0) -> ObservedTraffic:
    return traffic_seen(("a", model, per_second))[0]


def find(
    name: str, served: ServedName | None = None, wishes: UserChoices | None = None
) -> Known | UnidentifiedModel:
    return identify(traffic(name), served or ServedName(), wishes or UserChoices(), asked)


def test_a_model_is_known_by_its_name_its_root_or_its_folders_name() -> None:
    for name, served in (
        ("opt-1.3b", ServedName()),
        ("facebook/opt-1.3b", ServedName()),
        ("chat", ServedName("facebook/opt-1.3b")),
        ("/mnt/models/opt-1.3b/", ServedName("/mnt/models/opt-1.3b/")),
    ):
        found = find(name, served)
        assert isinstance(found, Known)
        assert found.architecture == CATALOG["opt-1.3b"].architecture
        assert found.spec.workload.key == "100/50"
        assert found.spec.demand.req_per_s == found.traffic.rate.high


def test_what_nobody_knows_has_a_reason() -> None:
    stranger = find("secret-model", ServedName("acme/secret-7b"))
    assert isinstance(stranger, UnidentifiedModel)
    assert "secret-model" in stranger.reason


def test_a_fleet_files_model_keeps_its_slo_rules_and_engine() -> None:
    spec = specs.ModelSpec(
        "chat",
        specs.ModelSource(specs.SourceKind.HUB, "facebook/opt-1.3b"),
        slo=specs.Slo(1.0, 0.05),
        demand=specs.Demand(99.0, weight=3.0),
        engine=specs.EngineOptions(kv_cache_dtype="fp8", max_model_len=2048),
        min_replicas=2,
    )
    wishes = UserChoices({"chat": spec})
    found = find("org/Chat", wishes=wishes)
    assert isinstance(found, Known)
    other = identify(traffic("chat"), ServedName(), wishes, asked, taken=("chat",))
    assert isinstance(other, UnidentifiedModel), "a second one of the same name"
    assert found.spec.slo == specs.Slo(1.0, 0.05)
    assert found.spec.engine == spec.engine
    assert found.spec.demand.req_per_s == found.traffic.rate.high == pytest.approx(1.08, abs=0.01)
    assert found.spec.demand.weight == 3.0
    assert found.spec.min_replicas == 2


def test_the_context_follows_what_was_seen() -> None:
    seen = traffic("opt-1.3b")
    assert seen.prompt is not None
    assert seen.output is not None
    prompt = dataclasses.replace(seen.prompt, longest=500.0)
    output = dataclasses.replace(seen.output, longest=100.0)
    seen = dataclasses.replace(seen, prompt=prompt, output=output)
    served = ServedName(max_model_len=2048)
    short = identify(seen, served, UserChoices(), asked)
    assert isinstance(short, Known)
    assert short.spec.max_model_len == 750
    assert "max_model_len in a fleet file" in " ".join(short.notes)
    endless = dataclasses.replace(seen, prompt=dataclasses.replace(prompt, longest=None))
    unknown = identify(endless, served, UserChoices(), asked)
    assert isinstance(unknown, Known)
    assert unknown.spec.max_model_len == 2048


def test_metrics_that_say_nothing_or_cannot_be_are_no_demand() -> None:
    found = identify(traffic("opt-1.3b", per_second=0.0), ServedName(), UserChoices(), asked)
    assert isinstance(found, Known)
    assert "no request" in " ".join(found.notes)
    assert found.spec.demand.req_per_s
    assert found.spec.min_replicas == 1
    found = identify(traffic("opt-1.3b", per_second=1e9), ServedName(), UserChoices(), asked)
    assert isinstance(found, UnidentifiedModel)
    assert "cannot be" in found.reason


def test_names_become_allowed_ones_and_differ() -> None:
    names = {"meta/Llama-3.1 8B": "llama-3.1-8b", "///": "model", "..": "model", "A" * 99: "a" * 60}
    assert {name: slug(name) for name in names} == names
    same_ending = traffic("/b/opt-125m")
    found = identify(same_ending, ServedName(), UserChoices(), asked, taken=("opt-125m",))
    assert isinstance(found, Known)
    assert found.spec.name == "opt-125m-2"
