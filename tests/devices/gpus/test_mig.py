"""Discovery reports MIG mode and instances."""

import socket
from pathlib import Path

import pynvml
import pytest

from partitiond.devices.gpus import mig
from partitiond.devices.nvml.session import gpu
from partitiond.simulated.gpus.description import GpuDescription
from tests.devices.gpus.conftest import MakeHost

CUT = GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4", "1g.10gb@0"))


@pytest.mark.parametrize(
    ("description", "mode"),
    [(CUT, (True, True)), (GpuDescription("a100-80gb"), (False, False))],
)
def test_the_mode_now_and_after_a_reset(
    make_host: MakeHost, description: GpuDescription, mode: tuple[bool, bool]
) -> None:
    host = make_host(description)
    with gpu(host.uuids()[0], "tell its mode") as handle:
        assert mig.mig_mode(handle) == mode


def test_a_gpu_without_mig_has_no_mode(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("l4-24gb"))
    with gpu(host.uuids()[0], "tell its mode") as handle:
        assert mig.mig_mode(handle) is None
        assert not mig.may_change_instances(handle, None)


def test_a_helper_that_can_be_reached_may(make_host: MakeHost, tmp_path: Path) -> None:
    host = make_host(CUT)
    host.privileged(False)
    helper = tmp_path / "h.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(helper))
        with gpu(host.uuids()[0], "ask") as handle:
            assert mig.may_change_instances(handle, helper)
        assert mig.may_change_mode(helper, instances=False)
    assert not mig.may_change_mode(tmp_path / "none", instances=False)


def test_a_geometry_that_cannot_be_read_is_no_reason_to_lose_the_gpu(make_host: MakeHost) -> None:
    host = make_host(CUT)
    host.fail("nvmlDeviceGetMaxMigDeviceCount", pynvml.NVML_ERROR_UNKNOWN, times=-1)
    read = mig.read_mig(host.uuids()[0], "a100-80gb", None, lambda _: True)
    assert (read.readable, read.instances) == (False, ())
