"""Compiles the planner's kernels before they are needed: `python -m partitiond.planner.warm`.

Numba compiles a kernel when it is first called and keeps the result on disk. That takes half a
minute once for a machine and an installation; solves should not pay for it within their time
limit. Small plans that need no kernel are made without.
"""

import functools
import hashlib
import importlib.util
import os
import platform
import random
import threading
from pathlib import Path
from typing import Final

from partitiond.core.hardware import Device, DeviceKind, SharingMode
from partitiond.core.partition import PartitionSize
from partitiond.core.plan import Candidate, ModelDemand, Objective, Plan
from partitiond.core.profile import ProfileKind
from partitiond.core.spec import Demand
from partitiond.core.units import GIB, Bytes

HARDWARE: Final = "warm"
_UNDER_WAY: Final = threading.Event()
SECONDS: Final = 0.1
"""A measure of work here: solves for compiling count steps."""


def is_warm() -> bool:
    """Whether kernels of this source, interpreter and machine were compiled and kept.

    True as well while `warm` uses them, and where kernels cannot be kept: there is no waiting for
    something that every process has to do anew.
    """
    stamp = _stamp()
    return stamp is None or _UNDER_WAY.is_set() or stamp.exists() or not _writable(stamp.parent)


def _writable(folder: Path) -> bool:
    there = next((f for f in (folder, *folder.parents) if f.exists()), None)
    return there is not None and os.access(there, os.W_OK)


def warm() -> None:
    """Compile all kernels, unless that was done; keeps a stamp beside what was compiled."""
    if is_warm():
        return
    _forget_former()
    _UNDER_WAY.set()
    try:
        _use_all()
    finally:
        _UNDER_WAY.clear()
    stamp = _stamp()
    if stamp is not None:
        try:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
        except OSError:
            return  # then kernels could not be kept either, and every process compiles its own


def _kernels() -> Path | None:
    found = importlib.util.find_spec("partitiond.planner.kernels")
    return None if found is None or found.origin is None else Path(found.origin).parent


@functools.cache
def _stamp() -> Path | None:
    """A file that stands for the kernels as they are, in the folder that they are kept in."""
    folder = _kernels()
    if folder is None:
        return None
    digest = hashlib.sha256(f"{folder}\n{platform.python_version()}\n{platform.machine()}".encode())
    for name in ("numba", "llvmlite"):
        found = importlib.util.find_spec(name)
        digest.update(str(found.origin if found is not None else "").encode())
    for source in sorted(folder.glob("*.py")):
        digest.update(source.read_bytes())
    kept = os.environ.get("NUMBA_CACHE_DIR")
    place = Path(kept) if kept else folder / "__pycache__"
    return place / f"kernels-{digest.hexdigest()[:16]}.compiled"


def _forget_former() -> None:
    """Remove what was compiled of other sources: numba does not see changes of imported kernels."""
    folder = _kernels()
    if folder is None or os.environ.get("NUMBA_CACHE_DIR"):
        return
    for pattern in ("*.nbi", "*.nbc", "kernels-*.compiled"):
        for former in (folder / "__pycache__").glob(pattern):
            former.unlink(missing_ok=True)


def _use_all() -> None:
    """Plans that need every kernel: by cost, by goodput, from what runs, and a proof."""
    from partitiond.planner.api import solve
    from partitiond.planner.types import PlanRequest

    models = tuple(_model(n) for n in range(80))
    devices = tuple(_device(n) for n in range(24))
    first = solve(
        PlanRequest(devices, models, time_limit_seconds=SECONDS, deterministic=True, seed=1)
    )
    running = first.placements if isinstance(first, Plan) else ()
    for objective in (Objective.MIN_DEVICES, Objective.MAX_GOODPUT):
        for kept in (running, ()):
            solve(
                PlanRequest(
                    devices[:-2],
                    models,
                    running=kept,
                    objective=objective,
                    time_limit_seconds=SECONDS,
                    deterministic=True,
                    move_budget=0.2 if kept else None,
                )
            )
    few = tuple(_model(n) for n in range(10))
    solve(
        PlanRequest(
            devices[:4],
            few,
            objective=Objective.MAX_GOODPUT,
            time_limit_seconds=SECONDS,
            deterministic=True,
        )
    )


def _device(number: int) -> Device:
    memory = Bytes(80 * GIB)
    return Device(
        id=f"{HARDWARE}-{number}",
        kind=DeviceKind.GPU,
        hardware=HARDWARE,
        name=HARDWARE,
        host=HARDWARE,
        memory_bytes=memory,
        free_bytes=memory,
        cores=(),
        sm_count=100,
        modes=(SharingMode.MPS,),
    )


def _model(number: int) -> ModelDemand:
    """Three sizes at random; figures differ, as sets that are alike would be put together."""
    rng = random.Random(number)  # noqa: S311
    name, base, rate = f"{HARDWARE}-{number}", rng.uniform(3, 30), rng.uniform(5, 15)
    sizes = tuple(
        Candidate(
            model=name,
            profile_id=name,
            profile_kind=ProfileKind.MEASURED,
            hardware=HARDWARE,
            size=PartitionSize(SharingMode.MPS, 1, 5 * rng.randint(1 + step, 3 + 2 * step)),
            batch=8 + step,
            memory_bytes=Bytes(round(base * (1 + step / 2)) * GIB),
            kv_cache_bytes=Bytes(GIB),
            capacity_req_per_s=float(round(rate * (0.65 + step / 3))),
            output_tokens_per_s=100.0 * rate,
            ttft_p95_seconds=0.1,
            tpot_p95_seconds=0.01,
            busy=0.0,
        )
        for step in range(3)
    )
    return ModelDemand(name, Demand(req_per_s=float(rng.randint(8, 70))), sizes)


if __name__ == "__main__":
    warm()
