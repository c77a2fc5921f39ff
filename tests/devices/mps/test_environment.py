"""An engine gets the right environment for MPS."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.core.errors import DeviceError
from partitiond.core.units import MIB
from partitiond.devices.mps.environment import client_env, daemon_env, without_mps_env

PIPE, LOG = Path("/r/pipe"), Path("/r/log")


@given(st.integers(1, 100), st.integers(0, 200 << 30))
def test_its_share_is_never_less_than_planned_nor_a_mib_more(percent: int, size: int) -> None:
    env = dict(client_env(PIPE, LOG, percent, size))
    assert env["CUDA_MPS_PIPE_DIRECTORY"] == "/r/pipe"
    assert env["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == str(percent)
    assert ("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT" in env) == (size > 0)
    if size:
        device, _, limit = env["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"].partition("=")
        assert device == "0", "it sees one device"
        assert size <= int(limit.removesuffix("M")) * MIB < size + MIB


def test_numbers_that_mps_would_ignore_are_refused() -> None:
    for percent, size in ((0, 1), (101, 1), (-5, 1), (50, -1)):
        with pytest.raises(DeviceError, match="not possible") as raised:
            client_env(PIPE, LOG, percent, size)
        assert raised.value.hint


def test_a_daemon_sees_one_gpu_and_nothing_of_an_operators_mps() -> None:
    inherited = {"PATH": "/bin", "CUDA_MPS_CLIENT_PRIORITY": "1", "CUDA_VISIBLE_DEVICES": "3"}
    env = daemon_env("GPU-1", PIPE, LOG, inherited)
    assert (env["CUDA_VISIBLE_DEVICES"], env["PATH"]) == ("GPU-1", "/bin")
    assert "CUDA_MPS_CLIENT_PRIORITY" not in env


def test_engines_outside_mps_are_told_a_folder_without_a_daemon(tmp_path: Path) -> None:
    env = dict(without_mps_env(tmp_path))
    assert list(Path(env["CUDA_MPS_PIPE_DIRECTORY"]).iterdir()) == []
    assert env == dict(without_mps_env(tmp_path))
