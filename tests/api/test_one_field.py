"""A field of a specification is in every form that a user may write it in, with one default.

The record of the core and the form in which people write it are classes of their own, because each
is typed and documented for its readers; changes and fleet files are made of the form. Each field is
registered, read back, changed and cleared over HTTP, and refused with words where it is wrong.
"""

import dataclasses
import typing
from typing import Any

import httpx
import pytest
from pydantic import BaseModel

from partitiond.api import schemas
from partitiond.cli.models.form import MODEL
from partitiond.core.dispatch.routing import RequestLimits
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.demand import Demand
from partitiond.core.model.placement_rules import PlacementRules
from partitiond.core.model.spec import EngineOptions, ModelSpec, Slo
from partitiond.core.model.workload import Workload
from partitiond.fleet import parts, registration

RECORDS: list[tuple[type[Any], type[BaseModel], type[BaseModel] | None]] = [
    (EngineOptions, parts.EngineBody, parts.EnginePatch),
    (PlacementRules, parts.RulesBody, parts.RulesPatch),
    (Demand, parts.DemandBody, parts.DemandPatch),
    (Slo, parts.SloBody, parts.SloPatch),
    (Autoscale, parts.AutoscaleBody, None),
    (RequestLimits, parts.RequestLimitsBody, parts.RequestLimitsPatch),
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
        assert set(defaults(patch).values()) == {None}, "what is absent stays"


def test_a_model_has_the_fields_and_defaults_of_its_record() -> None:
    assert set(fields(Workload)) <= set(parts.WorkloadBody.model_fields)
    record = set(fields(ModelSpec)) - WRITTEN_OTHERWISE - ModelSpec.NOTED
    assert record <= set(registration.ChangeableBody.model_fields)
    for name, value in defaults(registration.ModelBody).items():
        if name in record and not isinstance(value, BaseModel):
            assert value == fields(ModelSpec)[name] or not value, name


def leaves(body: type[BaseModel], above: str = "") -> set[str]:
    found: set[str] = set()
    for name, field in body.model_fields.items():
        kinds = [field.annotation, *typing.get_args(field.annotation)]
        listed = typing.get_origin(field.annotation) is tuple
        tables = [] if listed else [k for k in kinds if hasattr(k, "model_fields")]
        found |= leaves(tables[0], f"{above}{name}.") if tables else {f"{above}{name}"}
    return found


def test_whatever_a_registration_says_can_be_said_on_the_command_line() -> None:
    otherwise = {"model", "source.kind", "source.ref", "source.revision",
                 "workload.shape", "workload.pairs"}  # fmt: skip
    assert leaves(registration.ModelBody) - {row.path for row in MODEL.rows} == otherwise


DUMMY: dict[str, Any] = {"model": "opt-125m", "weights": "dummy"}
PAIRED: dict[str, dict[str, Any]] = {
    "demand.percentile": {"demand": {"req_per_s": 4.0}},
    "rules.survive_share": {"rules": {"survive": "host"}},
    "sleep_after_seconds": {"engine": {"sleep_mode": True}},
    "engine.extra_args": {"engine_kind": "simulated"},
    "slo.quantile": {"slo": {"ttft_seconds": 1.0, "tpot_seconds": 0.1}},
}
"""What a field needs beside it."""
FIELDS: list[tuple[str, Any, Any]] = [
    ("source", {"kind": "hub", "ref": "facebook/opt-125m", "revision": "r2"}, ...),
    ("workload.prompt_tokens", 400, 512),
    ("workload.output_tokens", 100, 256),
    ("slo", {"ttft_seconds": 1.0, "tpot_seconds": 0.1, "quantile": 0.9}, None),
    ("slo.quantile", 0.9, 0.95),
    ("demand.req_per_s", 5.0, None),
    ("demand.burst_factor", 2.0, 1.0),
    ("demand.weight", 3.0, 1.0),
    ("demand.percentile", 99.0, None),
    ("demand.window_seconds", 30.0, 10.0),
    ("engine.dtype", "float32", "auto"),
    ("engine.max_model_len", 1024, None),
    ("engine.extra_args", ["--token-seconds=0.01"], []),
    ("engine.quantization", "fp8", ""),
    ("engine.kv_cache_dtype", "fp8", "auto"),
    ("engine.max_num_batched_tokens", 1024, None),
    ("engine.sleep_mode", True, False),
    ("engine_kind", "simulated", "vllm"),
    ("min_replicas", 1, 0),
    ("max_replicas", 3, None),
    ("isolation", "hardware", "shared"),
    ("isolation_group", "blue", ""),
    ("rules.avoid", ["bert"], []),
    ("rules.near", ["embedder"], []),
    ("rules.only_on", ["a100-80gb", "node-1"], []),
    ("rules.survive", "host", None),
    ("rules.survive_share", 0.5, 1.0),
    ("rules.priority", 1, 0),
    ("auto", False, True),
    ("variants", [{"name": "fp8", "engine": {"quantization": "fp8"}}], []),
    ("operating_point", "throughput", "default"),
    ("sleep_after_seconds", 600.0, None),
    ("allow_outage", True, False),
    ("aliases", ["facebook/opt-125m", "gpt-mini"], []),
    ("request_defaults", {"temperature": 0.2, "stop": ["\n"]}, {}),
    ("request_limits.max_prompt_bytes", 9, 0),
    ("request_limits.max_output_tokens", 64, 0),
    ("request_limits.max_sequences", 2, 0),
    ("autoscale", {"scale_to_zero_seconds": 60.0}, None),
]
"""Path of a field, a value, and what null returns it to; ... where null is refused."""
OTHERWISE = {"workload.shape", "workload.prompt_variation", "workload.output_variation",
             "workload.pairs", "slo.ttft_seconds", "slo.tpot_seconds"}  # fmt: skip
"""Fields that depend on one another; routes/test_models.py has the shapes of a workload."""


def test_each_field_that_can_be_changed_has_a_row_here() -> None:
    names = ("engine", "rules", "demand", "slo", "autoscale", "request_limits")
    patches = {name: patch for name, (_, _, patch) in zip(names, RECORDS, strict=True) if patch}
    parted: dict[str, type[BaseModel]] = {"workload": parts.WorkloadPatch, **patches}
    paths = {f"{name}.{one}" for name, patch in parted.items() for one in patch.model_fields}
    paths |= set(schemas.ModelPatch.model_fields) - set(parted)
    assert paths - {path for path, _, _ in FIELDS} == OTHERWISE


def nested(path: str, value: Any, beside: dict[str, Any] | None = None) -> dict[str, Any]:
    """A body that says this, beside something else."""
    first, _, rest = path.partition(".")
    body = dict(beside or {})
    body[first] = body.get(first, {}) | {rest: value} if rest else value
    return body


def at(spec: dict[str, Any], path: str) -> Any:
    first, _, rest = path.partition(".")
    found = spec[first][rest] if rest else spec[first]
    if first == "variants":  # an engine is complete in what is kept
        return [{"name": v["name"], "engine": {"quantization": v["engine"]["quantization"]}}
                for v in found]  # fmt: skip
    return found


async def test_each_field_is_registered_read_back_changed_and_cleared(
    http: httpx.AsyncClient,
) -> None:
    for number, (path, value, cleared) in enumerate(FIELDS):
        where = f"/models/m{number}"
        body = nested(path, value, DUMMY | PAIRED.get(path, {}) | {"name": f"m{number}"})
        if path == "source":
            del body["model"]
        made = await http.post("/models", json=body)
        assert made.status_code == 201, (path, made.text)
        spec = made.json()["spec"]
        assert at(spec, path) == value
        again = await http.post("/models", json=spec)
        assert again.status_code == 200, f"{path}: what was read is a body, and changes nothing"
        null = await http.patch(where, json=nested(path, None))
        if cleared is ...:
            assert (null.status_code, "pec: source: " in null.text) == (422, True), null.text
            continue
        assert null.status_code == 200, (path, null.text)
        assert at(null.json()["spec"], path) == cleared, path
        assert (await http.patch(where, json=nested(path, None))).headers["etag"] == '"2"', path
        back = await http.patch(where, json=nested(path, value))
        assert (back.headers["etag"], back.json()["spec"]) == ('"3"', spec), "all else stays"
        await http.delete(where)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"demand": {"req_per_s": 1e12}}, "demand.req_per_s: must be at most"),
    ({"demand": {"req_per_s": 0}}, "requests/s"),
    ({"workload": {"prompt_tokens": 0}}, "prompt_tokens"),
    ({"workload": {"shape": "lognormal"}}, "variation"),
    ({"workload": {"pairs": [[1, 0]]}}, "between 1"),
    ({"workload": {"pairs": [[1, 2, 3]]}}, "pairs"),
    ({"workload": {"pairs": [[1, 2]] * 1025}}, "1024"),
    ({"slo": {"ttft_seconds": -1, "tpot_seconds": 1}}, "ttft_seconds"),
    ({"slo": {"ttft_seconds": 1}}, "tpot_seconds"),
    ({"engine": {"dtype": "int3"}}, "engine.dtype"),
    ({"engine": {"quantization": "int3"}}, "quantization"),
    ({"engine": {"max_num_batched_tokens": 1}}, "16"),
    ({"engine": {"extra_args": ["--port=1"]}}, "--port"),
    ({"engine": {"extra_args": ["--token-seconds=0.01"]}}, "--token-seconds"),
    ({"engine_kind": "x"}, "engine_kind"),
    ({"min_replicas": 3, "max_replicas": 1}, "max_replicas"),
    ({"isolation_group": "Blue"}, "1 to 12 lower-case letters"),
    ({"rules": {"survive": "planet"}}, "rules.survive"),
    ({"rules": {"survive": "host", "survive_share": 0}}, "survive_share"),
    ({"rules": {"priority": 9}}, "priority"),
    ({"rules": {"avoid": ["opt-125m"]}}, "names itself in avoid"),
    ({"operating_point": "slo"}, "needs an SLO"),
    ({"variants": [{"name": "FP8"}]}, "variant"),
    ({"variants": [{"name": "a"}, {"name": "a"}]}, "differently"),
    ({"variants": [{"name": "a", "engine": {"extra_args": ["--port"]}}]}, "--port"),
    ({"variants": [{"name": "a", "model": "./x"}]}, "relative"),
    ({"variants": [{"name": "a", "colour": "red"}]}, "colour"),
    ({"variants": [{"name": "a", "engine": {"max_model_len": 64}}]}, "context of 64"),
    ({"sleep_after_seconds": 600}, "sleep_mode"),
    ({"sleep_after_seconds": 0, "engine": {"sleep_mode": True}}, "sleep_after_seconds"),
    ({"sleep_after_seconds": 1e12, "engine": {"sleep_mode": True}}, "sleep_after_seconds"),
    ({"aliases": ["a b"]}, "alias"),
    ({"aliases": "a"}, "alias"),
    ({"request_defaults": {"model": "x"}}, "model"),
    ({"request_defaults": {"temperature": 99}}, "from 0 to 2"),
    ({"request_defaults": {"a": "x" * 5000}}, "default parameters take 50"),
    ({"request_defaults": ["temperature"]}, "request_defaults"),
    ({"request_limits": {"max_output_tokens": -1}}, "max_output_tokens"),
    ({"autoscale": {"scale_to_zero_seconds": 0}}, "scale_to_zero"),
    ({"autoscale": {"scale_to_zero_seconds": 60}, "min_replicas": 1}, "min_replicas"),
    ({"autoscale": True}, "autoscale"),
    ({"colour": "red"}, "colour"),
]  # fmt: skip


async def test_wrong_values_are_refused_with_words_and_change_nothing(
    http: httpx.AsyncClient,
) -> None:
    refused = [await http.post("/models", json=DUMMY | body) for body, _ in WRONG]
    assert (await http.get("/models")).json() == []
    await http.post("/models", json=DUMMY)
    patched = [await http.patch("/models/opt-125m", json=body) for body, _ in WRONG]
    for (body, words), *answers in zip(WRONG, refused, patched, strict=True):
        for answer in answers:
            assert answer.status_code == 422, (body, answer.text)
            assert answer.headers["content-type"] == "application/problem+json"
            told = answer.json()
            assert told["hint"], body
            assert words in told["detail"] + told["hint"], body
    assert (await http.get("/models/opt-125m")).headers["etag"] == '"1"'
    headers = {"Content-Type": "application/json"}
    for number in ("NaN", "Infinity", "1e999"):  # JSON has none of them
        text = f'{{"model": "opt-125m", "request_defaults": {{"temperature": {number}}}}}'
        answer = await http.post("/models", content=text, headers=headers)
        assert answer.status_code == 422, answer.text
