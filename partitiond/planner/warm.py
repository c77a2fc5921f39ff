"""Compiles the planner's kernels before they are needed (`python -m partitiond.planner`).

Numba compiles a kernel at its first call and keeps the result on disk. All kernels take a minute
and a half of one core, once for a machine and an installation. Solves do not pay for it within
their time limit, and plans that greedy packers prove optimal need no kernels. Only one process
compiles at a time; other processes wait for it.
"""

import contextlib
import dataclasses
import fcntl
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Demand
from partitiond.core.plan.record import Candidate, ModelDemand, Objective, Plan
from partitiond.core.profile.record import ProfileKind
from partitiond.core.units import GIB, Bytes
from partitiond.planner import kernel_cache as kept
from partitiond.planner.model.types import PlanRequest

HARDWARE: Final = "warm"
_UNDER_WAY: Final = threading.Event()
_DONE_HERE: Final = threading.Event()
"""Set once this process has compiled the kernels, even if they could not be kept on disk."""
FUNCTIONS: Final = 78
"""Approximate number of functions that numba compiles for all kernels, including its own."""
LOOK_SECONDS: Final = 0.5
SECONDS: Final = 0.1
"""Pause between looks at the lock. A mere measure of work: solves for compiling count steps."""


Tell = Callable[[float], object]
"""Called with the share that is compiled, from 0 to 1."""
Solve = Callable[[PlanRequest], object]
"""Solves a request, as `planner.api.solve` does; what it returns for a plan is a `Plan`."""


def is_warm() -> bool:
    """Return whether kernels of this source, interpreter and machine are compiled.

    Also True while `warm` uses them. If they cannot be kept, every process compiles its own.
    """
    stamp = kept.stamp()
    here = _UNDER_WAY.is_set() or _DONE_HERE.is_set()
    return here or (stamp is not None and stamp.exists())


def warm(solve: Solve, tell: Tell = lambda _share: None) -> None:
    """Compile all kernels unless that was done, and keep a stamp beside the compiled files.

    Args:
        solve: solves the requests that use every kernel.
        tell: called with the share that is compiled, several times a second.
    """
    if is_warm():
        return
    tell(0.0)
    with _alone(tell):
        if not is_warm():
            _compile_all(solve, tell)
            _keep_stamp()
    _DONE_HERE.set()


def _compile_all(solve: Solve, tell: Tell) -> None:
    from partitiond.planner.kernels.counting import compiled_functions

    _UNDER_WAY.set()
    try:
        with compiled_functions(lambda count: tell(min(1.0, count / FUNCTIONS))):
            _use_all(solve)
    finally:
        _UNDER_WAY.clear()


def _keep_stamp() -> None:
    stamp = kept.stamp()
    # Without a writable folder the kernels could not be kept either.
    with contextlib.suppress(OSError):
        if stamp is not None:
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()


@contextlib.contextmanager
def _alone(tell: Tell) -> Iterator[None]:
    """Wait while another process compiles them; continue at once if no lock file can be used."""
    stamp = kept.stamp()
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            if stamp is not None:
                stamp.parent.mkdir(parents=True, exist_ok=True)
                lock = held.enter_context(stamp.with_suffix(".lock").open("w"))
                while not _locked(lock.fileno()):
                    tell(0.0)
                    time.sleep(LOOK_SECONDS)
        yield


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _use_all(solve: Solve) -> None:
    """Solve plans that need every kernel: by cost, and by goodput from what runs."""
    devices, models = tuple(map(_device, range(24))), tuple(map(_model, range(80)))
    usual = PlanRequest(
        devices[:-2], models, time_limit_seconds=SECONDS, deterministic=True, seed=1
    )
    first = solve(dataclasses.replace(usual, devices=devices))
    running = first.placements if isinstance(first, Plan) else ()
    replanned = dataclasses.replace(usual, running=running, move_budget=0.2)
    for asked in (
        replanned,
        usual,
        dataclasses.replace(replanned, objective=Objective.MAX_GOODPUT),
    ):
        solve(asked)


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
    """Return a model with three random sizes; figures differ, as equal sets would be merged."""
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
