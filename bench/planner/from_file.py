"""Measures the overhead of `plan --from` over its limit: `python -m bench.planner.from_file`.

The catalog's small models, each many times under other names and with other demands, are written
into a fleet file. `partitiond plan --from` plans the file in a process of its own: reading,
estimates, the solver's time limit, the check and the page. The baseline is that limit.
"""

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.command import options

NAMES: Final = (
    "opt-125m", "smollm2-135m", "gemma-3-270m", "ernie-4.5-0.3b", "qwen2.5-0.5b", "bloom-560m",
    "llama-3.2-1b", "opt-1.3b", "falcon3-1b", "gemma-2-2b", "opt-2.7b", "opt-6.7b",
)  # fmt: skip
MOST_DEMAND: Final = 20.0
"""Requests/s of a model of 125 million parameters; larger models have less demand."""


def main() -> None:
    """Print the time taken, and the part of it beyond the solver's limit."""
    parser = options(__doc__, models=1000, gpus=512, seed=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="time limit of the solver")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fleet.toml"
        file.write_text("\n".join(_lines(given.models, given.gpus, random.Random(given.seed))))
        command = [sys.executable, "-m", "partitiond", "plan", "--from", str(file)]
        began = time.perf_counter()
        page = subprocess.run(
            [*command, "--time-limit", str(given.seconds)],
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.perf_counter() - began
    if page.returncode:
        raise SystemExit(f"plan --from failed:\n{page.stderr}")
    print(page.stdout)
    print(f"{given.models} models, {given.gpus} GPUs: {took:.1f} s with a limit of ", end="")
    print(f"{given.seconds:g} s: {took - given.seconds:+.1f} s, x {took / given.seconds:.2f}")


def _lines(models: int, gpus: int, rng: random.Random) -> Iterator[str]:
    yield f'[[devices]]\nhardware = "a100-80gb"\ncount = {gpus}\nper_host = 8\ncores = 16\n'
    for i in range(models):
        name = rng.choice(NAMES)
        rate = MOST_DEMAND * rng.uniform(0.2, 1.0) / (1 + NAMES.index(name))
        yield f'[[models]]\nmodel = "{name}"\nname = "m{i}"\ndemand = {{ req_per_s = {rate:.4f} }}'


if __name__ == "__main__":
    main()
