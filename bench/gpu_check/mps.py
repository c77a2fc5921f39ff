"""Runs an MPS control daemon while a block runs, with `partitiond.devices.mps` in its own folder.

Nothing on the GPU is changed: no compute mode, no clocks. If the daemon does not start, engines can
only share by time slices, and the reason is a result.
"""

import asyncio
import contextlib
import json
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from bench.gpu_check.schedule import ImpossibleError
from bench.gpu_check.side_by_side import environment
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.devices.cuda import CudaDevice
from partitiond.devices.mps import MpsControl, MpsDaemon

CONTROL: Final = "nvidia-cuda-mps-control"
CONTAINER_FOLDER: Final = "/usr/local/nvidia/bin"
"""Where container runtimes and Kubernetes' device plugins mount the driver's programs."""
PROBE_SECONDS: Final = 20.0
_PROBE: Final = (
    "import dataclasses, json, sys\n"
    "from pathlib import Path\n"
    "from partitiond.devices.cuda import Cuda\n"
    "cuda = Cuda(Path(sys.argv[1]) if sys.argv[1:] else None)\n"
    "_free, total = cuda.retain(0).memory()\n"
    "seen = dataclasses.replace(cuda.devices()[0], total_bytes=total)\n"
    "print(json.dumps(dataclasses.asdict(seen)))\n"
)


class MpsUnavailableError(ImpossibleError):
    """MPS cannot be used here; the text gives the reason."""

    def __str__(self) -> str:
        return f"MPS: {self.args[0]}"


def control_program(device: Device, near: Sequence[str] | None = None) -> str:
    """The path of the control program.

    Args:
        near: folders near the driver's library; None for those of the one that is loaded.

    Raises:
        MpsUnavailableError: the device does not allow MPS, or there is no such program.
    """
    if SharingMode.MPS not in device.modes:
        raise MpsUnavailableError("this device does not allow it (a CPU, or MIG is on)")
    near = _beside_the_driver() if near is None else near
    for folders in (None, ":".join((CONTAINER_FOLDER, *near))):
        found = shutil.which(CONTROL, path=folders)
        if found is not None:
            return found
    raise MpsUnavailableError(
        f"{CONTROL} is neither on PATH, nor in {CONTAINER_FOLDER}, nor beside the driver's library"
    )


def _beside_the_driver() -> list[str]:
    """Folders near the NVML library that this process has loaded."""
    with contextlib.suppress(OSError):
        found = re.search(r"(/\S+)/libnvidia-ml\.so", Path("/proc/self/maps").read_text())
        if found:
            folder = Path(found[1])
            return [str(folder), *(str(above / "bin") for above in folder.parents)]
    return []


async def probe(
    uuid: str, env: Sequence[tuple[str, str]], library: Path | None = None
) -> CudaDevice:
    """Return the device as a client of an MPS daemon sees it, in a process of its own.

    The total memory is that of a context, which a limit changes by NVIDIA's documentation.

    Args:
        uuid: the daemon's GPU, which the client sees alone.
        env: the client's environment.
        library: the CUDA library; None for the system's.

    Raises:
        DeviceError: the client did not come up.
    """
    words = [] if library is None else [str(library)]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROBE, *words,
        env={**environment(), "CUDA_VISIBLE_DEVICES": uuid, **dict(env)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            said, complaints = await process.communicate()
    except TimeoutError as error:
        raise DeviceError(
            f"a client of MPS did not come up in {PROBE_SECONDS:g} s.",
            hint="See control.log and server.log of MPS.",
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        words = complaints.decode(errors="replace").strip().splitlines()[-1:]
        raise DeviceError(
            f"a client of MPS failed: {' '.join(words)}", hint="See MPS's control.log."
        )
    return CudaDevice(**json.loads(said))


@contextlib.asynccontextmanager
async def mps(program: str, uuid: str) -> AsyncIterator[MpsDaemon]:
    """Run a daemon for one GPU; it is told to quit, and is ended, at the end of the block.

    Raises:
        MpsUnavailableError: the daemon did not start.
    """
    # A socket's path has at most 107 bytes, so the folder is below the system's temporary folder.
    folder = Path(tempfile.mkdtemp(prefix="pd-mps-"))
    daemon = MpsControl(folder, program).daemon(uuid)
    try:
        try:
            await daemon.ensure()
        except DeviceError as error:
            raise MpsUnavailableError(error.message) from error
        try:
            yield daemon
        finally:
            await daemon.quit()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
