"""The exporter's text gives one GPU's figures, in shares and watts."""

import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.telemetry.dcgm import parse, scrape
from tests.devices.telemetry.conftest import DCGM_TEXT


def test_figures_of_one_gpu_only() -> None:
    assert parse(DCGM_TEXT, "GPU-abc") == {
        "gpu_util": pytest.approx(0.4),
        "sm_activity": 0.25,
        "sm_occupancy": 0.125,
        "power_watts": 123.5,
    }
    assert parse(DCGM_TEXT, "GPU-nobody") == {}


@pytest.mark.parametrize(
    "text", ["", "garbage", "DCGM_FI_DEV_GPU_UTIL 3", '{"a"} x', "A{} 1\n" * 9]
)
def test_other_text_tells_nothing(text: str) -> None:
    assert parse(text, "GPU-abc") == {}


def test_a_scrape_over_http(exporter: str) -> None:
    assert scrape(exporter, "GPU-abc")["power_watts"] == 123.5


@pytest.mark.parametrize("url", ["file:///etc/passwd", "localhost:9400", "http://127.0.0.1:1/x"])
def test_what_cannot_be_asked_is_a_device_error_with_advice(url: str) -> None:
    with pytest.raises(DeviceError) as caught:
        scrape(url, "GPU-abc")
    assert caught.value.hint
