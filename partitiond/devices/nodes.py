"""Makes, as root, device nodes of MIG instances for engines that may not make them.

CUDA opens /dev/nvidia-caps/nvidia-cap* of the GPU instance and of the compute instance it runs in.
If a node is missing, the driver's library starts the setuid program `nvidia-modprobe` to make it.
Under NoNewPrivileges this fails, and CUDA finds no device. So a process that runs as root and has
made an instance also makes the nodes of the instance. (NVIDIA, "MIG User Guide", "Device Nodes and
Capabilities"; `nvidia-modprobe -f` takes the path of a capability.)
"""

import logging
import shutil
import subprocess
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

CAPABILITIES: Final = Path("/proc/driver/nvidia/capabilities")
ACCESS_FILES: Final = ("gpu*/mig/gi*/access", "gpu*/mig/gi*/ci*/access")
SEARCH_PATH: Final = "/usr/bin:/bin:/usr/sbin:/sbin"
SECONDS: Final = 10.0


def make_mig_nodes(
    capabilities: Path = CAPABILITIES, *, search_path: str = SEARCH_PATH
) -> tuple[str, ...]:
    """Make the nodes of all existing MIG instances; existing nodes stay as they are.

    Returns:
        The capabilities without a node. Raises nothing: an engine that cannot open its instance
        reports it, and on some hosts nodes are made by other means.
    """
    files = sorted(str(file) for shape in ACCESS_FILES for file in capabilities.glob(shape))
    if not files:
        return ()
    program = shutil.which("nvidia-modprobe", path=search_path)
    if program is None:
        log.warning("nvidia-modprobe is not installed: nodes of MIG instances may be missing")
        return tuple(files)
    failed = tuple(file for file in files if not _make(program, file))
    if failed:
        log.warning("no device node for %s", ", ".join(failed))
    return failed


def _make(program: str, file: str) -> bool:
    try:
        done = subprocess.run(
            [program, "-f", file],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
