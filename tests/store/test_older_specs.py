"""Specifications written before placement rules and percentiles are read as they were meant."""

from partitiond import serde
from partitiond.core.model.demand import Demand
from partitiond.core.model.spec import (
    NO_RULES,
    FaultDomain,
    ModelSource,
    ModelSpec,
    PlacementRules,
    SourceKind,
)

SPEC = ModelSpec("m", ModelSource(SourceKind.CONFIG, "opt-125m"), demand=Demand(4.0))


def test_a_specification_without_rules_has_none() -> None:
    data = serde.to_jsonable(SPEC)
    del data["rules"], data["demand"]["percentile"], data["demand"]["window_seconds"]
    read = serde.from_jsonable(ModelSpec, data)
    assert read == SPEC
    assert read.rules == NO_RULES
    assert read.demand.planned_req_per_s == 4.0


def test_rules_come_back_as_they_were_stored() -> None:
    rules = PlacementRules(("a",), ("b",), ("node-1",), FaultDomain.HOST, 0.5, 2)
    spec = ModelSpec("m", SPEC.source, demand=Demand(4.0, percentile=95.0), rules=rules)
    assert serde.from_jsonable(ModelSpec, serde.to_jsonable(spec)) == spec
