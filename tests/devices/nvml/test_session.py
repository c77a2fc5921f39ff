"""Refusals of NVML, through its real binding, become our errors."""

from collections.abc import Callable

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.devices.nvml import asking, offered, or_none

ERROR_CODES = sorted(
    value
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
)


def test_every_nvml_error_becomes_a_device_error_with_advice() -> None:
    for code in ERROR_CODES:
        with pytest.raises(DeviceError) as caught, asking("count the GPUs"):
            raise pynvml.NVMLError(code)
        assert caught.value.hint, code
        assert caught.value.facts["nvml_code"] == code
        assert isinstance(caught.value.__cause__, pynvml.NVMLError)


def refusing(code: int) -> Callable[[], int]:
    def refuse() -> int:
        raise pynvml.NVMLError(code)

    return refuse


def test_what_is_not_offered_is_none_and_another_refusal_where_it_is_only_shown() -> None:
    for code in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND):
        assert offered(refusing(code)) is None
        assert or_none(refusing(code)) is None
    refuse = refusing(pynvml.NVML_ERROR_NO_PERMISSION)
    assert or_none(refuse) is None
    assert offered(refuse, also=frozenset({pynvml.NVML_ERROR_NO_PERMISSION})) is None
    with pytest.raises(pynvml.NVMLError):
        offered(refuse)
