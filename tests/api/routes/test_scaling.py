"""/scaling reports which models scale, and how far they are."""

import httpx

from partitiond.core.views.scaling import ScalingView
from partitiond.serde import from_jsonable
from tests.api.fake_scaling import AT_ZERO, VIEW


async def test_what_scales_is_told_by_model(http: httpx.AsyncClient) -> None:
    answer = await http.get("/scaling")
    assert from_jsonable(list[ScalingView], answer.json()) == [VIEW, AT_ZERO]
    assert (await http.get("/scaling/b")).json()["at_zero"] is True
    assert (await http.get("/scaling/nobody")).status_code == 404
