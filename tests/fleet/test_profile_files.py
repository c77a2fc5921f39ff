"""Profile files of this schema and the older one are read; newer and foreign ones are refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from partitiond.core.checks import numbers_of
from partitiond.core.errors import ProfileError
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind
from partitiond.core.profile.record import SCHEMA_VERSION
from partitiond.fleet.profile_files import profile_from_json, profile_paths, read_profile
from partitiond.planner.api import solve
from partitiond.planner.model.candidates import candidates_for
from partitiond.planner.model.types import PlanRequest
from partitiond.serde import to_json, to_jsonable
from tests.controller.samples import measured_profile
from tests.planner.build import cpu
from tests.structure.imports import ROOT

NEW_IN_2 = (
    "variant", "max_num_batched_tokens", "kv_cache_dtype", "structured_output", "frontier_memory",
    "step_time", "capacity_trials", "sharing", "transfer", "paper_mode", "slo",
)  # fmt: skip


def test_files_of_this_schema_and_of_schema_1_are_read(tmp_path: Path) -> None:
    old = to_jsonable(measured_profile()) | {"schema_version": 1}
    for name in NEW_IN_2:
        del old[name]
    for point in old["points"]:
        for name in ("prompt_tokens_per_s", "attainment", "telemetry", "idle_share"):
            del point[name]
    old["workload"] = {"prompt_tokens": 64, "output_tokens": 32}
    read = dataclasses.replace(measured_profile(), frontier_memory=None)
    assert profile_from_json(json.dumps(old)) == read
    path = tmp_path / "p.json"
    path.write_text(to_json(measured_profile(), indent=2))
    assert read_profile(path) == measured_profile()
    with pytest.raises(ProfileError, match=r"none\.json"):
        read_profile(tmp_path / "none.json")


def test_another_schema_is_refused_before_its_fields_are_looked_at() -> None:
    for version, says in (
        (SCHEMA_VERSION + 1, "A newer partitiond"),
        *((v, "profile show") for v in (0, "2", None, True)),
    ):
        data = {"schema_version": version, "colour": "red"}
        with pytest.raises(ProfileError) as refused:
            profile_from_json(json.dumps(data))
        assert "schema" in refused.value.message
        assert says in refused.value.hint


NO_PROFILES = "", "{", "[]", "null", "{}", '{"schema_version": 2}', "\x00", "[" * 100_000


@pytest.mark.parametrize("text", NO_PROFILES)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.json"
    path.write_text(text)
    with pytest.raises(ProfileError) as refused:
        read_profile(path)
    assert str(path) in refused.value.message
    assert refused.value.hint


def test_folders_stand_for_the_profiles_right_in_them(tmp_path: Path) -> None:
    (tmp_path / "deeper").mkdir()
    for name in ("b.json", "a.json", "README.md", "deeper/c.json"):
        (tmp_path / name).write_text("")
    names = [path.name for path in profile_paths([tmp_path, tmp_path / "a.json"])]
    assert names == ["a.json", "b.json", "c.json"], "as a published GPU's, in a folder of its own"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProfileError, match=r"no \.json"):
        profile_paths([tmp_path / "empty"])


MEASURED = to_jsonable(measured_profile())
POINT = MEASURED["points"][0]


def point(**changes: object) -> dict[str, object]:
    return {"points": [POINT | changes, *MEASURED["points"][1:]]}


def test_figures_that_no_engine_has_are_refused() -> None:
    for changes, says in (
        ({"id": " "}, "no id"),
        ({"id": "a\nb"}, "no id"),
        ({"points": [POINT, POINT]}, "same batch"),
        (point(batch=0), "batch is not between"),
        (point(batch=10**30), "batch is not between"),
        (point(req_per_s=-1.0), r"points\.0\.req_per_s is -1\.0"),
        (point(footprint_bytes=-1), r"points\.0\.footprint_bytes is -1"),
        ({"knee": MEASURED["knee"] | {"batch": 77}}, "knee is at batch 77"),
        ({"capacity_req_per_s": -0.5}, "capacity_req_per_s is -0.5"),
    ):
        data = to_jsonable(measured_profile()) | changes
        with pytest.raises(ProfileError, match=says) as refused:
            profile_from_json(json.dumps(data))
        assert refused.value.hint


def test_numbers_that_json_does_not_have_are_refused() -> None:
    for value in (math.nan, math.inf, -math.inf):
        text = json.dumps(MEASURED | point(req_per_s=value))
        with pytest.raises(ProfileError, match="is no number in JSON"):
            profile_from_json(text)


SHIPPED = json.loads(min((ROOT / "profiles").glob("smollm2-*-160-16-2*.json")).read_text())
ODD = (2**31, 2**53, 2**63, 1e308, 1e-308, -0.0)
"""Beyond the integers of programs, of JSON and of the planner, and floats beyond their products."""


def with_number(data: Any, place: str, number: float) -> Any:
    """The data with another number at a place as `numbers_of` names it."""
    name, _, rest = place.partition(".")
    key: Any = int(name) if isinstance(data, list) else name
    parts: Any = list(data) if isinstance(data, list) else dict(data)
    parts[key] = with_number(data[key], rest, number) if rest else number
    return parts


NUMBERS = tuple(place for place, _ in numbers_of(profile_from_json(json.dumps(SHIPPED))))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(NUMBERS), st.sampled_from(ODD))
@example("points.0.req_per_s", 2**63)
@example("capacity_req_per_s", 1e6)
@example("capacity_req_per_s", 2**53)
@example("capacity_req_per_s", 1e-308)
@example("capacity_req_per_s", 1e-9)
def test_any_number_is_refused_by_its_name_or_planned(place: str, number: float) -> None:
    try:
        profile = profile_from_json(json.dumps(with_number(SHIPPED, place, number)))
    except ProfileError as error:
        refused = error.message
    else:
        refused = ""
    if refused:
        assert place.rpartition(".")[2] in refused
        return
    assert not any(abs(number) > 1e15 for _, number in numbers_of(profile))
    device = dataclasses.replace(cpu(2), hardware=profile.hardware)
    model = ModelSpec(
        profile.model,
        ModelSource(SourceKind.CONFIG, profile.model),
        workload=profile.workload,
        engine=EngineOptions(profile.dtype),
    )
    demand = candidates_for(model, [profile], [profile.hardware])
    answer = solve(PlanRequest((device,), (demand,), time_limit_seconds=0.1))
    assert json.dumps(to_jsonable(answer), allow_nan=False)
