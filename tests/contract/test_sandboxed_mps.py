"""Programs in the engines' sandbox share a GPU under an MPS daemon in one, simulated and real.

On a GPU this is what no simulation tells: whether NVIDIA's server and clients go on without each
other's network, message queues, processes and signals. systemd's part of the sandbox is made here
by hand where this user may do that (root), and left out elsewhere.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import pytest

from partitiond.core.units import MIB
from partitiond.devices.mps import MpsControl, MpsDaemon
from partitiond.engines.process import shim
from partitiond.engines.process import signals as process
from partitiond.engines.process.commands import shim_command
from partitiond.engines.process.journal import RunFolder
from partitiond.engines.process.kept_programs import KeptPrograms
from partitiond.engines.process.spawn import spawn_shim
from tests.contract.test_mps_contract import CLIENT_TERMINATED, Gpu, gpu
from tests.engine_fixtures import simulated_launch
from tests.engines.process.scripts import ORDINARY, Launcher
from tests.machine import signal_all, until

__all__ = ["gpu"]

ALONE = (
    "unshare", "--net", "--ipc", "--mount", "sh", "-c",
    'mount -t proc -o hidepid=invisible proc /proc && exec "$@"', "sh",
    "setpriv", "--bounding-set=-sys_admin,-sys_ptrace,-perfmon",
)  # fmt: skip
"""PrivateNetwork=, PrivateIPC= and ProtectProc= of the unit; what is shared stays shared."""

PROGRAM = """
import ctypes, sys, time
cuda = ctypes.CDLL(sys.argv[1])
context, pointer = ctypes.c_void_p(), ctypes.c_uint64()
print("started", cuda.cuInit(0) or cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
      or cuda.cuCtxSetCurrent(context), flush=True)
print("allocated", cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(64 << 20)), flush=True)
fill = getattr(cuda, "cuMemsetD8_v2", None)  # the simulated library computes nothing
for turn in range(6000):
    print(turn, "computed", (fill(pointer, ctypes.c_ubyte(1), ctypes.c_size_t(1024)) if fill else 0)
          or cuda.cuCtxSynchronize(), flush=True)
    time.sleep(0.1)
"""


def sandbox_words() -> Sequence[str]:
    """What starts a program as alone as the unit does, as far as this user may."""
    if os.geteuid() != 0:
        return ()
    able = subprocess.run([*ALONE, "true"], capture_output=True, check=False).returncode == 0
    return ALONE if able else ORDINARY


@pytest.fixture
def launcher() -> Iterator[Launcher]:
    with tempfile.TemporaryDirectory(prefix="pd-") as folder:
        made = Launcher(Path(folder), sandbox_words())
        yield made
        made.close()


@pytest.fixture
async def daemon(gpu: Gpu, launcher: Launcher) -> AsyncIterator[MpsDaemon]:
    keepers = KeptPrograms(launcher.path)
    control = MpsControl(launcher.folder, gpu.program, check_seconds=0.0, keepers=keepers)
    daemon = control.daemon(gpu.uuid)
    await daemon.ensure()
    assert daemon.kept
    yield daemon
    with contextlib.suppress(Exception):
        await daemon.quit()
    signal_all(daemon.pids())


@contextlib.asynccontextmanager
async def program(
    name: str, gpu: Gpu, daemon: MpsDaemon, launcher: Launcher
) -> AsyncIterator[tuple[RunFolder, int]]:
    """A CUDA program that is started as engines are; its run folder and its pid."""
    folder, launch = RunFolder.of(launcher.folder, name), simulated_launch()
    env = {"CUDA_VISIBLE_DEVICES": gpu.uuid} | dict(daemon.client_env(40, 2048 * MIB))
    env |= {n: os.environ[n] for n in ("LD_LIBRARY_PATH",) if n in os.environ}
    command = shim_command([sys.executable, "-c", PROGRAM, gpu.library], env, launch, folder)
    folder.prepare(launch, command | {"launcher": str(launcher.path)})
    await spawn_shim(folder)
    try:
        await logged(folder, "allocated 0")
        await logged(folder, " computed 0")
        leader = folder.leader()
        assert leader is not None
        own = [pid for pid in process.processes_of(folder.path, leader) if runs_cuda(pid, gpu)]
        yield folder, own[-1]
    finally:
        await process.kill_all(folder.path, folder.leader())


def runs_cuda(pid: int, gpu: Gpu) -> bool:
    return gpu.library in shim.read_text(f"/proc/{pid}/cmdline").split("\0")


async def logged(folder: RunFolder, text: str, after: int = 0) -> None:
    await until(lambda: text in shim.read_text(str(folder.log))[after:], text)


async def test_a_pair_in_sandboxes_computes_under_a_daemon_in_one(
    gpu: Gpu, daemon: MpsDaemon, launcher: Launcher
) -> None:
    async with (
        program("one-0", gpu, daemon, launcher) as (one, one_pid),
        program("two-0", gpu, daemon, launcher) as (two, two_pid),
    ):
        clients = {client.pid for client in await daemon.clients()}
        assert clients == {one_pid, two_pid}, "else they run beside MPS, without their caps"
        assert await daemon.fault() == ""
        assert await daemon.terminate([one_pid]) == (one_pid,)
        await logged(one, f" computed {CLIENT_TERMINATED}")
        told = len(shim.read_text(str(two.log)))
        await logged(two, " computed 0", told)
        assert await daemon.fault() == ""
