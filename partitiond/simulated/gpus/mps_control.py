"""Simulates NVIDIA's `nvidia-cuda-mps-control`: same options, commands, files and logs.

    nvidia-cuda-mps-control -d        a daemon in the background
    nvidia-cuda-mps-control -f        a daemon in the foreground
    nvidia-cuda-mps-control -v        the version
    echo COMMAND | nvidia-cuda-mps-control

CUDA_MPS_PIPE_DIRECTORY selects the daemon. The daemon's clients are programs that use the simulated
libcuda. It knows the commands that partitiond gives; commands named simulate_* break it on purpose.

Queries run this module as a file, without the package: a daemon queries every few seconds, and the
real program starts in a few milliseconds.
"""

import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

MODULE: Final = "partitiond.simulated.gpus.mps_control"
NAME: Final = "nvidia-cuda-mps-control"
DETACHED: Final = "--detached"
NO_DAEMON: Final = "Cannot find MPS control daemon process"
DEFAULT_PIPE_DIR: Final = "/tmp/nvidia-mps"  # noqa: S108 - where the real one is, too
DEFAULT_LOG_DIR: Final = "/var/log/nvidia-mps"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return 0 if the daemon was started or reached."""
    words = list(sys.argv[1:] if argv is None else argv)
    if "-v" in words:
        sys.stdout.write("CUDA MPS Control binary version: 13000\n")
        return 0
    if DETACHED in words or "-f" in words:
        return _serve(words)
    if "-d" in words:
        return _background()
    if words:
        sys.stdout.write(f"Unknown option {words[0]}\nUsage: {NAME} [-d | -f] [-v]\n")
        return 1
    return _ask()


def _pipe_dir() -> Path:
    return Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or DEFAULT_PIPE_DIR)


def _connected() -> socket.socket | None:
    """Return a connection to the daemon; None if there is no daemon."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(_pipe_dir() / "control"))
    except OSError:
        connection.close()
        return None
    return connection


def _ask() -> int:
    """Send the commands from standard input, and print the answers."""
    connection = _connected()
    if connection is None:
        sys.stdout.write(f"{NO_DAEMON}\n")
        return 1
    with connection:
        for line in sys.stdin:
            if not line.strip():
                continue
            connection.sendall(line.strip().encode() + b"\n")
            said = _answer(connection)
            if said is None:
                return 0 if line.split()[0] == "quit" else 1
            if said:
                sys.stdout.write(f"{said}\n")
                sys.stdout.flush()
            if line.split()[0] == "quit":
                return 0
    return 0


def _answer(connection: socket.socket) -> str | None:
    """Return the text up to a zero byte; None if the daemon closed the connection before it."""
    said = b""
    while not said.endswith(b"\0"):
        part = connection.recv(65_536)
        if not part:
            return None
        said += part
    return said[:-1].decode(errors="replace")


def _background() -> int:
    """Start a daemon that outlives this process, and wait until it listens."""
    import subprocess

    connection = _connected()
    if connection is not None:
        connection.close()
        sys.stdout.write("An instance of this daemon is already running\n")
        return 1
    with subprocess.Popen(
        [sys.executable, "-m", MODULE, DETACHED],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        text=True,
    ) as process:
        said = process.stdout.readline() if process.stdout is not None else ""
        if said.strip() == "ready":
            process.returncode = 0  # do not wait for it on exit
            return 0
    sys.stdout.write(f"{said.strip() or NO_DAEMON}\n")
    return 1


def _serve(words: Sequence[str]) -> int:
    """Run the daemon in this process."""
    import asyncio

    from partitiond.simulated.gpus.mps_daemon import ControlDaemon
    from partitiond.simulated.gpus.mps_process import rename

    detached = DETACHED in words
    rename(NAME, "-d" if detached else "-f")
    pipe_dir = _pipe_dir()
    log_dir = Path(os.environ.get("CUDA_MPS_LOG_DIRECTORY") or DEFAULT_LOG_DIR)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    devices = tuple(word for word in visible if word.startswith(("GPU-", "MIG-")))
    try:
        connection = _connected()
        if connection is not None:
            connection.close()
            raise FileExistsError("An instance of this daemon is already running")
        for folder in (pipe_dir, log_dir):
            folder.mkdir(parents=True, exist_ok=True)
        for name in ("control", "control.sock"):
            pipe_dir.joinpath(name).unlink(missing_ok=True)
        daemon = ControlDaemon(pipe_dir, log_dir, devices)
        asyncio.run(daemon.run(_say_ready if detached else lambda: None))
    except OSError as error:
        sys.stdout.write(f"{error}\n")
        return 1
    return 0


def _say_ready() -> None:
    """Tell the starting process that the daemon is ready, and close standard output."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


if __name__ == "__main__":
    sys.exit(main())
