"""Ends what a check leaves on the GPU: `python -m bench.gpu_check.leftovers FOLDER`.

A daemon and MPS's own one lead sessions of their own, so they would outlive a check that is killed,
and hold the GPU. This program waits until its input ends, as it does however the check ends. It
holds the lock of the results meanwhile, so the next check begins on a free GPU.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Final

from bench.gpu_check.side_by_side import environment
from bench.processes import kill, with_folder

END_SECONDS: Final = 25.0
"""From SIGTERM, at which daemons and engines end in order, until SIGKILL."""


@contextlib.contextmanager
def scratch(lock: IO[str]) -> Iterator[Path]:
    """A folder for everything that starts in the block; all of it has ended after the block.

    Temporary folders of this process lie in it, so that what runs in one of them is found.
    """
    # A socket's path has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pdc-"))
    ending = subprocess.Popen(
        [sys.executable, "-m", "bench.gpu_check.leftovers", str(folder)],
        stdin=subprocess.PIPE,
        env=environment(),
        pass_fds=(lock.fileno(),),
        start_new_session=True,
    )
    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        ending.communicate()


def end(folder: Path) -> None:
    """End every process that names the folder, in order if it can; then remove the folder."""
    deadline = time.monotonic() + END_SECONDS
    asked: set[int] = set()
    while (found := with_folder(folder)) and time.monotonic() < deadline:
        for pid in set(found) - asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        asked.update(found)
        time.sleep(0.1)
    kill(found)
    shutil.rmtree(folder, ignore_errors=True)


def main(words: Sequence[str]) -> int:
    """Wait for the end of the input, then end what is left."""
    sys.stdin.buffer.read()
    end(Path(words[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
