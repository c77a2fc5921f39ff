"""A field of a specification is in every form that a user may write it in, with one default.

The record of the core, the body and the patch of the API and the fleet file are classes of their
own, because each is typed and documented for its readers. They may not come apart.
"""

import dataclasses
from typing import Any

import pytest
from pydantic import BaseModel

from partitiond.api import key_schemas, parts, schemas
from partitiond.cli.models.commands import GivenEngine, GivenPlacement, GivenTraffic
from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.demand import Demand
from partitiond.core.model.placement_rules import PlacementRules
from partitiond.core.model.spec import EngineOptions, ModelSpec, Slo
from partitiond.core.model.workload import Workload
from partitiond.fleet import file

RECORDS: list[tuple[type[Any], type[BaseModel], type[BaseModel] | None]] = [
    (EngineOptions, parts.EngineBody, parts.EnginePatch),
    (PlacementRules, parts.RulesBody, parts.RulesPatch),
    (Demand, parts.DemandBody, parts.DemandPatch),
    (Slo, parts.SloBody, parts.SloPatch),
    (Autoscale, parts.AutoscaleBody, None),
    (RequestLimits, key_schemas.RequestLimitsBody, key_schemas.RequestLimitsPatch),
]
WRITTEN_OTHERWISE = {"name", "source", "weights"}
"""A patch changes none of them by these names; a source is written as `model`."""


def fields(record: type[Any]) -> dict[str, Any]:
    made = dataclasses.fields(record)
    return {f.name: None if f.default is dataclasses.MISSING else f.default for f in made}


def defaults(body: type[BaseModel]) -> dict[str, Any]:
    found = {name: field.get_default() for name, field in body.model_fields.items()}
    return {
        name: None if str(value) == "PydanticUndefined" else value for name, value in found.items()
    }


@pytest.mark.parametrize(("record", "body", "patch"), RECORDS)
def test_a_part_has_the_fields_and_defaults_of_its_record(
    record: type[Any], body: type[BaseModel], patch: type[BaseModel] | None
) -> None:
    assert defaults(body) == fields(record)
    if patch is not None:
        assert set(patch.model_fields) == set(fields(record))
        assert set(defaults(patch).values()) == {None}, "what is absent stays"


def test_a_workload_is_written_in_the_same_fields_everywhere() -> None:
    body = set(parts.WorkloadBody.model_fields)
    assert body == set(parts.WorkloadPatch.model_fields)
    assert body == set(file._WorkloadTable.model_fields) - {"pairs_file"}
    assert set(fields(Workload)) <= body


def test_a_model_has_the_same_fields_in_the_api_its_patch_and_the_fleet_file() -> None:
    record = set(fields(ModelSpec)) - WRITTEN_OTHERWISE
    for form in (schemas.ModelBody, schemas.ModelPatch, file._ModelTable):
        assert record <= set(form.model_fields), f"{form.__name__} lacks some"
    for name, value in defaults(schemas.ModelBody).items():
        if name in record and not isinstance(value, BaseModel):
            assert value == fields(ModelSpec)[name] or not value, name
    assert defaults(parts.RulesBody) == defaults(file._RulesTable)


def test_whatever_a_part_of_a_body_says_can_be_said_on_the_command_line() -> None:
    given = {
        field.name for record in (GivenTraffic, GivenEngine, GivenPlacement)
        for field in dataclasses.fields(record)
    }  # fmt: skip
    renamed = {
        "ttft_seconds": "ttft", "tpot_seconds": "tpot", "req_per_s": "demand",
        "window_seconds": "window", "extra_args": "engine_arg", "aliases": "alias",
        "scale_to_zero_seconds": "scale_to_zero", "sleep_after_seconds": "sleep_after",
        "operating_point": "point", "variants": "variant", "request_defaults": "default",
        "shape": "lengths", "pairs": "lengths",
    }  # fmt: skip
    bodies = [body for _, body, _ in RECORDS] + [parts.WorkloadBody]
    said = {renamed.get(name, name) for body in bodies for name in body.model_fields}
    whole = {"sleep_after_seconds", "aliases", "operating_point", "variants", "request_defaults",
             "min_replicas", "max_replicas", "isolation", "isolation_group",
             "allow_outage"}  # fmt: skip
    said |= {renamed.get(name, name) for name in whole}
    assert said <= given, said - given
