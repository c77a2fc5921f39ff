"""Fleet files take placement rules and percentiles."""

from pathlib import Path

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.model.spec import FaultDomain, Isolation, PlacementRules
from partitiond.fleet.file import load_fleet

MODEL = '[[models]]\nmodel = "opt-125m"\n'


def _write(folder: Path, text: str) -> Path:
    path = folder / "fleet.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_fleet_file_says_all_rules(tmp_path: Path) -> None:
    text = (
        MODEL
        + """
isolation = "hardware"
isolation_group = "blue"
demand = { req_per_s = 4, percentile = 99, window_seconds = 1 }
[models.rules]
avoid = ["bert"]
near = ["embedder"]
only_on = ["rack-1"]
survive = "rack"
survive_share = 0.5
priority = -1
"""
    )
    (model,) = load_fleet(_write(tmp_path, text)).models
    assert model.rules == PlacementRules(
        ("bert",), ("embedder",), ("rack-1",), FaultDomain.RACK, 0.5, -1
    )
    assert model.isolation is Isolation.HARDWARE
    assert model.isolation_group == "blue"
    assert model.demand.planned_req_per_s == 9.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('rules = { survive = "planet" }', "models, entry 1, rules, survive"),
        ('rules = { spread = "host" }', "rules, spread: there is no such key"),
        ('isolation_group = "Blue"', "'Blue' is no name of an isolation group"),
        ("rules = { priority = 7 }", "entry 1: priority must lie between"),
        ('rules = { avoid = ["opt-125m"] }', "names itself in avoid"),
        ('rules = { avoid = "bert" }', "rules, avoid"),
        ("demand = { req_per_s = 1, percentile = 0.99 }", "percentile must be at least 50"),
        ("demand = { percentile = 99 }", "a percentile needs a demand"),
    ],
)
def test_a_mistake_in_the_rules_is_named_with_its_place(
    tmp_path: Path, text: str, says: str
) -> None:
    with pytest.raises(SpecError) as refused:
        load_fleet(_write(tmp_path, MODEL + text))
    assert says in refused.value.message
    assert refused.value.hint
