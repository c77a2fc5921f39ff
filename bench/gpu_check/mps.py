"""Runs an MPS control daemon while a block runs, with `partitiond.devices.mps` in its own folder.

Nothing on the GPU is changed: no compute mode, no clocks. If the daemon does not start, engines can
only share by time slices, and the reason is a result.
"""

import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from bench.gpu_check.schedule import ImpossibleError
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.devices.mps import MpsControl, MpsDaemon

CONTROL: Final = "nvidia-cuda-mps-control"


class MpsUnavailableError(ImpossibleError):
    """MPS cannot be used here; the text gives the reason."""

    def __str__(self) -> str:
        return f"MPS: {self.args[0]}"


def control_program(device: Device) -> str:
    """The path of the control program. Raises MpsUnavailableError."""
    if SharingMode.MPS not in device.modes:
        raise MpsUnavailableError("this device does not allow MPS (MIG may be on)")
    found = shutil.which(CONTROL)
    if found is None:
        raise MpsUnavailableError(f"{CONTROL} is not installed")
    return found


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
