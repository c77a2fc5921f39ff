"""Runs the simulated MPS server: a process with the real server's name that does nothing.

The control daemon keeps the server's clients. This module uses only the standard library and runs
as a file: the server starts with its first client, which waits for the start.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

ORPHAN_SECONDS = 30
"""Time that a server outlives a killed control daemon, so that no server is left for ever."""


def rename(*words: str) -> None:
    """Give this process another command line and name in /proc.

    The command line is where the kernel put it at exec: between arg_start and arg_end, fields 48
    and 49 of /proc/self/stat (proc(5)). Python no longer reads it there once it has started.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"\0".join(os.fsencode(word) for word in words)[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
    pr_set_name = 15
    ctypes.CDLL(None).prctl(pr_set_name, os.fsencode(words[0])[:15], 0, 0, 0)


def main() -> int:
    """Print that the server is ready, then wait until it is terminated or orphaned."""
    rename("nvidia-cuda-mps-server")
    uid = int(sys.argv[1])
    if os.geteuid() == 0 and uid != 0:
        os.setuid(uid)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while sys.stdin.buffer.read(1):
        pass
    signal.alarm(ORPHAN_SECONDS)
    signal.pause()
    return 0


if __name__ == "__main__":
    sys.exit(main())
