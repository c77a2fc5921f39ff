"""NVML through its real binding: without a driver there are no GPUs; refusals become ours."""

import pynvml
import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware import HARDWARE
from partitiond.core.units import GIB, MIB
from partitiond.devices.nvml import asking, discover_gpus, hardware_key


def driver_is_there() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return False
    pynvml.nvmlShutdown()
    return True


@pytest.mark.skipif(driver_is_there(), reason="this host has NVIDIA's driver")
def test_a_host_without_driver_has_no_gpus() -> None:
    assert discover_gpus([0, 1]) == ()


@pytest.mark.gpu
def test_gpus_of_this_host_describe_themselves() -> None:
    if not driver_is_there():
        pytest.skip("needs an NVIDIA GPU")
    gpus = discover_gpus([0, 1])
    assert gpus
    for gpu in gpus:
        assert gpu.id.startswith("GPU-")
        assert 0 < gpu.free_bytes <= gpu.memory_bytes
        assert gpu.cores == (0, 1)
        assert gpu.driver


ERROR_CODES = sorted(
    value
    for name, value in vars(pynvml).items()
    if name.startswith("NVML_ERROR_") and isinstance(value, int)
)


@pytest.mark.parametrize("code", ERROR_CODES)
def test_every_nvml_error_becomes_a_device_error_with_advice(code: int) -> None:
    with pytest.raises(DeviceError) as caught, asking("count the GPUs"):
        raise pynvml.NVMLError(code)
    assert caught.value.hint
    assert caught.value.facts["nvml_code"] == code
    assert isinstance(caught.value.__cause__, pynvml.NVMLError)


@pytest.mark.parametrize(
    ("name", "mib", "key"),
    [
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", 81920, "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", 81920, "a100-pcie-80gb"),
        ("NVIDIA A100-PCIE-40GB", 40960, "a100-pcie-40gb"),
        ("NVIDIA H100 80GB HBM3", 81559, "h100-80gb"),
        ("NVIDIA H200", 143771, "h200-141gb"),
        ("NVIDIA L4", 23034, "l4-24gb"),
        ("NVIDIA L40S", 46068, "l40s-48gb"),
        ("NVIDIA H100 NVL", 95830, "h100-nvl-94gb"),
        ("Tesla T4", 15360, "t4-16gb"),
    ],
)
def test_names_and_memory_give_the_hardware_key(name: str, mib: int, key: str) -> None:
    assert hardware_key(name, mib * MIB) == key


@pytest.mark.parametrize("key", HARDWARE)
def test_every_gpu_of_the_catalog_can_be_recognised(key: str) -> None:
    model = key.rpartition("-")[0].upper().replace("PCIE", "PCIe").replace("-", " ")
    assert hardware_key(f"NVIDIA {model}", HARDWARE[key].memory_bytes) == key


def test_an_unknown_gpu_does_not_pass_for_a_known_one() -> None:
    assert hardware_key("NVIDIA A1000", 8 * GIB) == "a1000-8gb"
