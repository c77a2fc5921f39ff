"""Lengths are parsed as they are given on the command line."""

import json
from pathlib import Path

import pytest
import typer

from partitiond.cli.models import table
from partitiond.cli.models.form import MODEL
from partitiond.core.demand.traffic import ModelCount, TrafficSample
from partitiond.core.errors import InputError, SpecError
from partitiond.core.model import spec as specs
from partitiond.core.model.demand import Demand
from partitiond.core.model.workload import Workload
from partitiond.fleet.registration import ModelBody, RegistrationRules
from partitiond.serde import to_jsonable
from tests.cli.conftest import Cli
from tests.controller.host import Host


def workload_of(
    lengths: str | None = None, model: str = "opt-125m", engine: object = None, **given: float
) -> Workload:
    body = MODEL.body_of({"lengths": lengths, **given})
    parsed = ModelBody.model_validate({"model": model, "engine": engine or {}, **body})
    return parsed.to_spec(RegistrationRules()).workload


def test_lengths_are_the_usual_ones_fixed_or_lognormal() -> None:
    assert workload_of() == Workload()
    assert workload_of(prompt_tokens=64) == Workload(64, 256)
    assert workload_of("fixed", output_tokens=8) == Workload(512, 8)
    assert workload_of(output_variation=0.5) == Workload.lognormal(512, 256, 0.0, 0.5)
    assert workload_of("lognormal", prompt_tokens=100) == Workload.lognormal(100, 256, 1.0, 1.0)
    assert workload_of("lognormal", prompt_variation=0.5) == Workload.lognormal(512, 256, 0.5, 1.0)
    with pytest.raises(SpecError, match="fixed workload with variations"):
        workload_of("fixed", prompt_variation=0.5)


def test_lengths_come_from_files_of_pairs_or_of_a_profile(tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("prompt_tokens,output_tokens\n100,10\n300,30\n")
    assert workload_of(str(pairs)) == Workload.of_trace([(100, 10), (300, 30)])
    path = tmp_path / "profile.json"
    trace = Workload.of_trace([(1, 2), (3, 4)])
    for workload in (Workload(64, 32), Workload.lognormal(64, 32, 0.5, 0.0), trace):
        path.write_text(json.dumps({"id": "x", "workload": to_jsonable(workload)}))
        assert workload_of(str(path)) == workload
    for text in ("{}", "[]", "not json", '{"workload": 3}', "[" * 100_000):
        path.write_text(text)
        with pytest.raises(InputError, match="no profile"):
            workload_of(str(path))
    for name, said in (("zero.json", "larger than"), ("zero.csv", "no trace that is known")):
        (tmp_path / name).symlink_to("/dev/zero")
        with pytest.raises(InputError, match=said):
            workload_of(str(tmp_path / name))
    with pytest.raises(SpecError, match="means of a trace follow from its pairs"):
        workload_of(str(pairs), prompt_tokens=5)
    for missing, said in (("missing.csv", "cannot read"), ("missing.json", "cannot be read")):
        with pytest.raises((InputError, SpecError), match=said):
            workload_of(str(tmp_path / missing))


def test_names_in_rules_that_are_not_there_are_told_with_what_was_meant(
    host: Host, cli: Cli
) -> None:
    cli("models add opt-125m --no-auto --name chat").ended(0)
    added = cli("models add opt-125m --no-auto --name b --near chta --only-on nowhere").ended(0)
    assert "--near chta: there is nothing of that name now. Did you mean chat?" in added.said
    assert "--only-on nowhere" in added.said
    assert "--near chat:" not in cli("models update b --near chat --no-wait").said
    assert "--avoid x" in cli("models update b --avoid x --near chat --no-wait").said


def test_what_scales_is_shown_and_set(host: Host, cli: Cli) -> None:
    cli("models add opt-125m --autoscale --no-auto --name a").ended(0)
    for at, arrived in ((0.0, 0), (60.0, 90)):
        counts = {"a": ModelCount(arrived=arrived)}
        host.service.scaling.take_sample(TrafficSample(at, "epoch", counts))
    shown = cli("models show a --json").json
    assert (shown["scaling"]["measured_req_per_s"], shown["releases"][0]["version"]) == (1.5, 1)
    cli("models show a").ended(0, "0/0 serve", "1.5/s")
    cli("models add opt-125m --no-auto --name still")
    assert cli("models show still --json").json["scaling"] is None


BODIES: list[tuple[dict[str, object], dict[str, object]]] = [
    ({}, {}),
    ({"avoid": [], "priority": None}, {}),
    ({"avoid": ["bert"], "priority": 0}, {"rules": {"avoid": ["bert"], "priority": 0}}),
    ({"near": ["none"], "survive": "none"}, {"rules": {"near": (), "survive": None}}),
    ({"isolation_group": "none", "quantization": "none"},
     {"engine": {"quantization": ""}, "isolation_group": ""}),
    ({"autoscale": True}, {"autoscale": {}}),
    ({"scale_to_zero": 600.0}, {"autoscale": {"scale_to_zero_seconds": 600.0}}),
    ({"autoscale": True, "scale_to_zero": 0.0}, {"autoscale": {"scale_to_zero_seconds": None}}),
    ({"autoscale": False}, {"autoscale": None}),
    ({"sleep_after": 0.0}, {"sleep_after_seconds": None}),
    ({"default": ["temperature=0.2", "stop=x"]},
     {"request_defaults": {"temperature": 0.2, "stop": "x"}}),
    ({"default": ["none"], "alias": ["none"]}, {"aliases": (), "request_defaults": {}}),
]  # fmt: skip


@pytest.mark.parametrize(("given", "body"), BODIES)
def test_options_are_a_body_of_what_was_given(
    given: dict[str, object], body: dict[str, object]
) -> None:
    """A word takes back what a model has, and so does 0 where it means never."""
    assert MODEL.body_of(given) == body


@pytest.mark.parametrize(
    "given", [{"only_on": ["none", "node-1"]}, {"autoscale": False, "scale_to_zero": 600.0}]
)
def test_options_that_exclude_each_other_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(typer.BadParameter):
        MODEL.body_of(given)


def test_rules_and_demand_are_a_sentence() -> None:
    source = specs.ModelSource(specs.SourceKind.CONFIG, "opt-125m")
    assert table.placement_text(specs.ModelSpec("m", source)) == "anywhere"
    rules = specs.PlacementRules(("bert",), (), ("node-1",), specs.FaultDomain.HOST, 0.5, 1)
    spec = specs.ModelSpec(
        "m", source, isolation=specs.Isolation.HARDWARE, rules=rules, isolation_group="blue"
    )
    assert table.placement_text(spec) == (
        "isolation hardware; isolation group blue; never beside bert; only on node-1; "
        "survives the loss of any host with 50% of the rate; priority +1"
    )
    assert table.demand_text(Demand()) == "as much as there is"
    assert table.demand_text(Demand(2.5)) == "2.5 requests/s"
    text = table.demand_text(Demand(4.0, percentile=99, window_seconds=1))
    assert text == "4 requests/s, percentile 99 of 1 s: planned for 9"
