"""The exporter's text gives one GPU's figures, in shares and watts."""

import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.telemetry.dcgm import parse, scrape
from tests.devices.telemetry.conftest import DCGM_TEXT


def test_figures_of_one_gpu_only_are_read_over_http_and_other_text_tells_nothing(
    exporter: str,
) -> None:
    told = parse(DCGM_TEXT, "GPU-abc")
    assert scrape(exporter, "GPU-abc") == told
    activity = {"sm_activity": 0.25, "sm_occupancy": 0.125, "power_watts": 123.5}
    assert told == {"gpu_util": pytest.approx(0.4), **activity}
    assert parse(DCGM_TEXT, "GPU-nobody") == {}
    for text in ("", "garbage", "DCGM_FI_DEV_GPU_UTIL 3", '{"a"} x', "A{} 1\n" * 9):
        assert parse(text, "GPU-abc") == {}, text
    for url in ("file:///etc/passwd", "localhost:9400", "http://127.0.0.1:1/x"):
        with pytest.raises(DeviceError) as caught:
            scrape(url, "GPU-abc")
        assert caught.value.hint
