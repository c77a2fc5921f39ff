"""The simulated MPS server: a process of its own, with the real one's name, that only lives.

Its clients are kept by the control daemon. Standard library only, and run as a file: it starts with
the first client, who waits for it.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

ORPHAN_SECONDS = 30
"""A server whose control daemon was killed lives on; this long, so that none is left for ever."""


def rename(*words: str) -> None:
    """Give this process another command line, and name, in /proc.

    The command line is where the kernel put it at exec: between arg_start and arg_end, fields 48
    and 49 of /proc/self/stat (proc(5)). Nobody reads it there any more once Python has started.
    """
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    text = b"\0".join(os.fsencode(word) for word in words)[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))
    pr_set_name = 15
    ctypes.CDLL(None).prctl(pr_set_name, os.fsencode(words[0])[:15], 0, 0, 0)


def main() -> int:
    """Say that it is ready, then live until told otherwise or left alone."""
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
