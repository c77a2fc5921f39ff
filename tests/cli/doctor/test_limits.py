"""The doctor reports limits of the host and its cgroup, and leftovers of earlier runs."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.cli.doctor.facts import CgroupLimits, HostFacts
from partitiond.cli.doctor.findings import DoctorFinding
from partitiond.cli.doctor.leftovers import EngineFolder, check_engines
from partitiond.cli.doctor.limits import Ulimits, check_limits
from partitiond.core.units import GIB, MIB
from tests.cli.test_doctor_host import HOST, bad

# -- limits --------------------------------------------------------------------------------------


UNLIMITED = Ulimits()


def limits(
    host: HostFacts = HOST, told: Ulimits = UNLIMITED, gpus: int = 8, cores: int = 64
) -> list[DoctorFinding]:
    return bad(check_limits(host, told, gpus=gpus, cores=cores))


def test_a_large_host_without_limits_is_fine() -> None:
    assert limits() == []


@pytest.mark.parametrize(
    ("host", "told", "cores", "check", "command"),
    [
        ({"cgroup": CgroupLimits(memory_bytes=8 * GIB)}, {}, 64, "cgroup memory", "MemoryMax=32G"),
        ({"cgroup": CgroupLimits(pids=512)}, {}, 64, "cgroup processes", "TasksMax=infinity"),
        ({"cgroup": CgroupLimits(pids=512), "container": "docker"}, {}, 64, "cgroup processes",
         "--pids-limit -1"),
        ({"cgroup": CgroupLimits(cores=4)}, {}, 64, "cores", "AllowedCPUs="),
        ({}, {}, 8, "cores", "AllowedCPUs="),
        ({}, {"processes": 4096}, 64, "processes", "ulimit -u"),
        ({}, {"locked_bytes": 8 * MIB}, 64, "locked memory", "ulimit -l"),
        ({"shared_memory_bytes": 64 * MIB}, {}, 64, "shared memory size", "remount,size=2g"),
        ({"shared_memory_bytes": 64 * MIB, "container": "docker"}, {}, 64, "shared memory size",
         "--shm-size=2g"),
        ({"shared_memory_bytes": None}, {}, 64, "shared memory size", "mount -t tmpfs"),
        ({"numa_nodes": 2, "numa_balancing": True}, {}, 64, "numa", "numa_balancing=0"),
        ({"swap_bytes": 8 * GIB, "swap_used_bytes": 4 * GIB}, {}, 64, "swap", "swappiness"),
        ({"overcommit": 2}, {}, 64, "overcommit", "overcommit_memory=0"),
    ],
)  # fmt: skip
def test_each_limit_in_the_way_names_the_command(
    host: dict[str, object], told: dict[str, int], cores: int, check: str, command: str
) -> None:
    (found,) = limits(dataclasses.replace(HOST, **host), Ulimits(**told), cores=cores)  # type: ignore[arg-type]
    assert found.check == check
    assert command in found.command


def test_what_only_gpu_hosts_need_is_not_asked_of_others() -> None:
    host = HostFacts(numa_nodes=2, numa_balancing=True, shared_memory_bytes=64 * MIB)
    assert limits(host, Ulimits(locked_bytes=64 * 1024), gpus=0, cores=1) == []


# -- leftovers -----------------------------------------------------------------------------------


def test_engines_that_serve_are_never_fixed_and_others_are() -> None:
    folders = (
        EngineFolder("a-1", alive=True, processes=3, serving=True),
        EngineFolder("profile-1", alive=True, processes=3, serving=False),
        EngineFolder("b-1", alive=False, processes=1, serving=True),
    )
    serving, orphan, dead = bad(check_engines(folders, Path("/run/x"), daemon_runs=False))
    assert (serving.fix, orphan.fix) == ("", "end them")
    assert dead.fix == "clear them and end the processes"
    assert bad(check_engines(folders, Path("/run/x"), daemon_runs=True)) == []
    assert bad(check_engines((), Path("/run/x"), daemon_runs=False)) == []
