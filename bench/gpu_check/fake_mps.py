"""Stands in for nvidia-cuda-mps-control where there is no GPU: -f waits for "quit" on its pipe."""

import os
import sys
from pathlib import Path


def main() -> int:
    pipe = Path(os.environ["CUDA_MPS_PIPE_DIRECTORY"]) / "control"
    if "-f" in sys.argv:
        os.mkfifo(pipe)
        while pipe.read_text().strip() != "quit":
            pass
    else:
        pipe.write_text(sys.stdin.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
