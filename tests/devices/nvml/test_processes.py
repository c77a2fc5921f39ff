"""Processes on a GPU are listed through the real binding."""

import os
from pathlib import Path

from partitiond.core.units import GIB
from partitiond.devices.nvml.processes import name_of, processes_on, sees_host_pids
from partitiond.devices.nvml.session import gpu
from partitiond.simulated.gpus.description import GpuDescription
from tests.gpu_fixtures import MakeHost

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
        # A list that grows between two calls is asked for again.
        host.fail("nvmlDeviceGetComputeRunningProcesses_v3", 7, after=1)
        assert processes_on(handle) == found


def test_processes_in_instances_name_them(make_host: MakeHost) -> None:
    host = make_host(GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4",)))
    (uuid,) = host.uuids()
    host.add_process(host.geometry(uuid)[0].uuid, SOMEBODY, GIB)
    with gpu(uuid, "list its processes") as handle:
        (found,) = processes_on(handle)
    assert found.gpu_instance is not None


def test_the_kernel_tells_whether_this_is_a_container(tmp_path: Path) -> None:
    assert sees_host_pids(tmp_path), "where it does not tell, pids are taken at their word"
    folder = tmp_path / "proc/self/ns"
    folder.mkdir(parents=True)
    for target, host in (("4026531836", True), ("4026532999", False)):
        (folder / "pid").unlink(missing_ok=True)
        (folder / "pid").symlink_to(f"pid:[{target}]")
        assert sees_host_pids(tmp_path) is host


def test_a_process_is_named_by_its_command() -> None:
    assert name_of(os.getpid())
    assert name_of(SOMEBODY) == ""
