"""Processes on a GPU are listed through the real binding."""

import os
from pathlib import Path

import pynvml
import pytest

from partitiond.core.units import GIB
from partitiond.devices.nvml.processes import name_of, processes_on, sees_host_pids
from partitiond.devices.nvml.session import gpu
from partitiond.simulated.gpus.description import GpuDescription
from tests.devices.nvml.conftest import MakeHost

SOMEBODY, MPS_CLIENT = 2**22 + 1, 2**22 + 2


def test_each_process_is_listed_once_with_its_memory(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, SOMEBODY, 2 * GIB)
    host.add_process(uuid, MPS_CLIENT, GIB, mps=True)
    with gpu(uuid, "list its processes") as handle:
        found = processes_on(handle)
    assert [p.pid for p in found] == [SOMEBODY, MPS_CLIENT]
    assert (found[0].used_bytes or 0) >= 2 * GIB
    assert {p.gpu_instance for p in found} == {None}


def test_a_driver_before_the_third_version_is_asked_for_the_second(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, SOMEBODY, 2 * GIB)
    host.fail("nvml*RunningProcesses_v3", pynvml.NVML_ERROR_FUNCTION_NOT_FOUND, times=-1)
    with gpu(uuid, "list its processes") as handle:
        assert [p.pid for p in processes_on(handle)] in ([SOMEBODY], [])


def test_processes_in_instances_name_them(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4",)))
    (uuid,) = host.uuids()
    host.add_process(host.geometry(uuid)[0].uuid, SOMEBODY, GIB)
    with gpu(uuid, "list its processes") as handle:
        (found,) = processes_on(handle)
    assert found.gpu_instance is not None


def test_a_list_that_grows_between_two_calls_is_asked_for_again(make_host: MakeHost) -> None:
    host = make_host()
    (uuid,) = host.uuids()
    host.add_process(uuid, SOMEBODY, GIB)
    host.fail("nvmlDeviceGetComputeRunningProcesses_v3", 7, after=1)
    with gpu(uuid, "list its processes") as handle:
        assert [p.pid for p in processes_on(handle)] == [SOMEBODY]


@pytest.mark.parametrize(("target", "host"), [("4026531836", True), ("4026532999", False)])
def test_the_kernel_tells_whether_this_is_a_container(
    tmp_path: Path, target: str, host: bool
) -> None:
    folder = tmp_path / "proc/self/ns"
    folder.mkdir(parents=True)
    (folder / "pid").symlink_to(f"pid:[{target}]")
    assert sees_host_pids(tmp_path) is host


def test_where_the_kernel_does_not_tell_pids_are_taken_at_their_word(tmp_path: Path) -> None:
    assert sees_host_pids(tmp_path)


def test_a_process_is_named_by_its_command() -> None:
    assert name_of(os.getpid())
    assert name_of(SOMEBODY) == ""
