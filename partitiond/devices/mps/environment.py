"""Builds the environment variables of MPS for engines and control daemons."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError
from partitiond.core.units import MIB

PIPE: Final = "CUDA_MPS_PIPE_DIRECTORY"
LOG: Final = "CUDA_MPS_LOG_DIRECTORY"
PERCENTAGE: Final = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
PINNED_LIMIT: Final = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
PREFIX: Final = "CUDA_MPS_"

SOCKET_PATH_LIMIT: Final = 107
"""Most bytes of a Unix socket's path. With a longer path the control daemon fails to bind, and ends
with only "Cannot find MPS control daemon process"."""


def client_env(
    pipe_dir: Path, log_dir: Path, sm_percent: int, memory_bytes: int
) -> tuple[tuple[str, str], ...]:
    """Return the environment variables of a client.

    Args:
        sm_percent: 1..100, a cap on the share of SMs. The cap reserves no SMs.
        memory_bytes: cap on the allocation of each of the client's processes; 0 for none. The cap
            is rounded up to whole MiB (the meaning of "M" here): a client must never be refused its
            own share. The device is written as 0: the limit counts devices as the client sees them:
            one.

    Raises:
        DeviceError: MPS would ignore the numbers, so the share would have no cap.
    """
    if not 1 <= sm_percent <= 100:
        raise DeviceError(
            f"An MPS share of {sm_percent} % of the SMs is not possible.",
            hint="Give a percentage from 1 to 100.",
            facts={"sm_percent": sm_percent},
        )
    if memory_bytes < 0:
        raise DeviceError(
            f"An MPS memory limit of {memory_bytes} bytes is not possible.",
            hint="Give a positive number of bytes, or 0 for no limit.",
            facts={"memory_bytes": memory_bytes},
        )
    env = [(PIPE, str(pipe_dir)), (LOG, str(log_dir)), (PERCENTAGE, str(sm_percent))]
    if memory_bytes:
        env.append((PINNED_LIMIT, f"0={-(-memory_bytes // MIB)}M"))
    return tuple(env)


def daemon_env(
    uuid: str, pipe_dir: Path, log_dir: Path, inherited: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of a control daemon and of programs that query it.

    Inherited MPS variables are left out: an operator's limits do not apply to ours. The protocol
    version is set because the variable wins over any default of a newer driver.
    """
    env = {name: value for name, value in inherited.items() if not name.startswith(PREFIX)}
    return env | {
        PIPE: str(pipe_dir),
        LOG: str(log_dir),
        "CUDA_VISIBLE_DEVICES": uuid,
        "CUDA_MPS_PROTOCOL_VERSION": "2",
    }


def without_mps_env(run_dir: Path) -> tuple[tuple[str, str], ...]:
    """Return variables that keep an engine outside MPS, wherever an operator's daemon listens.

    Without the variables a CUDA program looks for a daemon in the default pipe folder, and would
    become a client of an operator's daemon. So the variables name an empty folder, made here.
    """
    empty = run_dir / "mps" / "none"
    empty.mkdir(parents=True, exist_ok=True)
    return ((PIPE, str(empty)),)
