"""What programs are told of MPS through their environment."""

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

CLIENT_LIMIT: Final = 48
"""Client contexts of one server. 60 from CUDA 13.1 on, 48 from Volta on: the number that holds on
every driver. A program may have more than one."""

SOCKET_PATH_LIMIT: Final = 107
"""Bytes of a Unix socket's path. Over it the control daemon fails to bind, and ends saying only
"Cannot find MPS control daemon process"."""


def client_env(
    pipe_dir: Path, log_dir: Path, sm_percent: int, memory_bytes: int
) -> tuple[tuple[str, str], ...]:
    """What a client is started with.

    Args:
        sm_percent: 1..100, a cap on the share of SMs. It reserves none.
        memory_bytes: cap on what each of its processes allocates; 0 for none. Rounded up to whole
            MiB, which is what "M" means here: a client must never be refused its own share. The
            device is written as 0: the limit counts devices as the client sees them, and it sees
            one.

    Raises:
        DeviceError: numbers that MPS would ignore, so that the share would be no share.
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
    """What a control daemon, and whoever asks it, is started with.

    What is inherited of MPS is left out: an operator's limits are not ours. The protocol version is
    named because the variable wins over any default a newer driver may have.
    """
    env = {name: value for name, value in inherited.items() if not name.startswith(PREFIX)}
    return env | {
        PIPE: str(pipe_dir),
        LOG: str(log_dir),
        "CUDA_VISIBLE_DEVICES": uuid,
        "CUDA_MPS_PROTOCOL_VERSION": "2",
    }


def without_mps_env(run_dir: Path) -> tuple[tuple[str, str], ...]:
    """What keeps an engine outside MPS, wherever an operator's daemon listens.

    A CUDA program that is told nothing looks for a daemon in the default pipe folder, and would
    become a client of an operator's. It is told an empty folder instead, which is made here.
    """
    empty = run_dir / "mps" / "none"
    empty.mkdir(parents=True, exist_ok=True)
    return ((PIPE, str(empty)),)
