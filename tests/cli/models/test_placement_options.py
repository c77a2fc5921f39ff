"""Options on placement rules become the body of a registration."""

import pytest
import typer

from partitiond.cli.models.placement_options import (
    demand_text,
    placement_text,
    rules_body,
)
from partitiond.core.model.demand import Demand
from partitiond.core.model.spec import (
    FaultDomain,
    Isolation,
    ModelSource,
    ModelSpec,
    PlacementRules,
    SourceKind,
)


def _body(**given: object) -> dict[str, object]:
    lists = {name: given.pop(name, None) for name in ("avoid", "near", "only_on")}
    others = {name: given.get(name) for name in ("survive", "survive_share", "priority")}
    return rules_body(*lists.values(), **others)  # type: ignore[arg-type]


def test_only_what_was_given_is_said() -> None:
    assert _body() == {}
    assert _body(avoid=["bert", "other"], priority=0) == {
        "avoid": ["bert", "other"],
        "priority": 0,
    }


def test_none_takes_a_rule_back() -> None:
    assert _body(near=["none"], survive="none") == {"near": [], "survive": None}


def test_none_beside_names_is_refused() -> None:
    with pytest.raises(typer.BadParameter, match="--only-on none"):
        _body(only_on=["none", "node-1"])


def test_a_demand_says_what_is_planned_for_it() -> None:
    assert demand_text(Demand()) == "as much as there is"
    assert demand_text(Demand(2.5)) == "2.5 requests/s"
    text = demand_text(Demand(4.0, percentile=99, window_seconds=1))
    assert text == "4 requests/s, percentile 99 of 1 s: planned for 9"


def test_rules_are_read_as_a_sentence() -> None:
    source = ModelSource(SourceKind.CONFIG, "opt-125m")
    assert placement_text(ModelSpec("m", source)) == "anywhere"
    rules = PlacementRules(("bert",), (), ("node-1",), FaultDomain.HOST, 0.5, 1)
    spec = ModelSpec("m", source, isolation=Isolation.HARDWARE, rules=rules, isolation_group="blue")
    assert placement_text(spec) == (
        "isolation hardware; isolation group blue; never beside bert; only on node-1; "
        "survives the loss of any host with 50% of the rate; priority +1"
    )
