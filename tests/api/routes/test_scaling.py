"""/scaling reports scaling, and registrations configure scaling."""

from typing import Any

import httpx
import pytest

from partitiond.core.views.scaling import ScalingView
from partitiond.serde import from_jsonable
from tests.api.fake_scaling import AT_ZERO, VIEW

MODEL: dict[str, Any] = {"model": "opt-125m", "weights": "dummy", "auto": False}


async def test_what_scales_is_told_by_model(http: httpx.AsyncClient) -> None:
    answer = await http.get("/scaling")
    assert from_jsonable(list[ScalingView], answer.json()) == [VIEW, AT_ZERO]
    assert (await http.get("/scaling/b")).json()["at_zero"] is True
    assert (await http.get("/scaling/nobody")).status_code == 404


async def test_a_model_is_registered_and_changed_to_scale(http: httpx.AsyncClient) -> None:
    made = await http.post("/models", json={**MODEL, "autoscale": {"scale_to_zero_seconds": 60}})
    assert made.status_code == 201, made.text
    assert made.json()["spec"]["autoscale"] == {"scale_to_zero_seconds": 60.0}
    kept = await http.patch("/models/opt-125m", json={"autoscale": {"scale_to_zero_seconds": None}})
    assert kept.json()["spec"]["autoscale"] == {"scale_to_zero_seconds": None}
    plain = await http.patch("/models/opt-125m", json={"autoscale": None})
    assert plain.json()["spec"]["autoscale"] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"autoscale": {"scale_to_zero_seconds": 0}},
        {"autoscale": {"scale_to_zero_seconds": 60}, "min_replicas": 1},
        {"autoscale": {"soon": 1}},
        {"autoscale": True},
    ],
)
async def test_what_makes_no_sense_is_refused(
    http: httpx.AsyncClient, wrong: dict[str, Any]
) -> None:
    answer = await http.post("/models", json={**MODEL, **wrong})
    assert answer.status_code == 422
