"""Many processes share one simulated host, and a process that dies leaves nothing held."""

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from partitiond.simulated.gpus import KillPoint, SimulatedHost
from tests.simulated.gpus.processes import asked, end, holding, said, start

GIB = 1 << 30
CONTEXT = 448 << 20

_ASK = """
import sys, pynvml
from pathlib import Path
from partitiond.simulated.gpus import SimulatedHost
host = SimulatedHost.open(Path(sys.argv[1]))
with host.installed():
    pynvml.nvmlInit()
    gpu = pynvml.nvmlDeviceGetHandleByIndex(int(sys.argv[2]))
    print(pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2).used)
    print(*(p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)))
"""


def ask_elsewhere(host: SimulatedHost, gpu: int = 0) -> subprocess.CompletedProcess[str]:
    """Used bytes and pids as another process sees them, or something else."""
    return subprocess.run(
        [sys.executable, "-c", _ASK, str(host.folder), str(gpu)],
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_memory_of_a_process_that_died_is_free(host: SimulatedHost) -> None:
    """Every process sees it, also while nobody has waited for the dead one."""
    gpu = host.uuids()[0]
    for _ in range(2):
        with holding(host, gpu, 60 * GIB) as process:
            assert host.processes(gpu) == {process.pid: 60 * GIB + CONTEXT}
            used, pids = ask_elsewhere(host).stdout.splitlines()
            assert int(used) == 60 * GIB + CONTEXT == host.used_bytes(gpu)
            assert pids.split() == [str(process.pid)]
            os.kill(process.pid, signal.SIGKILL)
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and still a zombie
            assert host.used_bytes(gpu) == 0
            assert host.processes(gpu) == {}


def test_a_new_process_with_an_old_pid_is_another(host: SimulatedHost) -> None:
    """As it is told by its start time: no memory is ascribed to whoever got the number next."""
    gpu = host.uuids()[0]
    host.add_process(gpu, os.getpid(), GIB)
    with host._records.locked():
        (row,) = host._records.used("process")
        started = host._records.number("process", row, "started")
        host._records.set("process", row, {"started": started - 1})
    assert host.used_bytes(gpu) == 0


@pytest.mark.parametrize("when", list(KillPoint))
def test_a_process_killed_in_a_call_locks_nobody_out(host: SimulatedHost, when: KillPoint) -> None:
    host.fail("nvmlDeviceGetMemoryInfo*", when)
    done = ask_elsewhere(host)
    assert done.returncode == -signal.SIGKILL
    assert ask_elsewhere(host).returncode == 0


def test_what_all_take_together_is_never_more_than_there_is(host: SimulatedHost) -> None:
    gpu = host.uuids()[0]
    with ThreadPoolExecutor(8) as pool:
        processes = list(pool.map(lambda _: start(host, gpu, 9 * GIB), range(12)))
        words = list(pool.map(said, processes))
    try:
        # Those that were refused held a context when others asked: at least so many fit beside.
        holders = [w for w in words if w[0] == "holds"]
        assert 7 <= len(holders) <= 8  # 9.4 of 79.4 GiB each
        assert {tuple(w) for w in words if w[0] == "error"} == {("error", "2")}
        for process, word in zip(processes, words, strict=True):
            if word[0] == "error":
                process.wait()  # until then it has its context
        assert host.used_bytes(gpu) == len(holders) * (9 * GIB + CONTEXT)
    finally:
        for process in processes:
            end(process)
    assert host.used_bytes(gpu) == 0


def test_a_broken_gpu_breaks_the_processes_on_it(host: SimulatedHost) -> None:
    one, other = host.uuids()
    with holding(host, one) as process, holding(host, other) as bystander:
        assert asked(process) == ["well"]
        host.xid(one, 31, breaks=719)
        assert asked(process) == ["error", "719"]
        assert asked(process) == ["error", "719"]
        assert asked(bystander) == ["well"]
        host.lose(other)
        assert asked(bystander) == ["error", "999"]
