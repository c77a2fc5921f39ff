"""Measures the memory bandwidth and arithmetic speed of one core and of all cores together.

A process with one thread, pinned to the core, measures each core (`bandwidth_worker`): a triad over
arrays larger than the core's cache, and a product of 32-bit matrices. First one core is measured
alone, then all at once, as cores share memory and often a clock. The measurement takes about two
seconds, so the result is kept in the state folder and measured again only for another CPU or on
demand.
"""

import contextlib
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError, InputError
from partitiond.core.hardware.kinds import CpuFigures, Device
from partitiond.core.units import MIB
from partitiond.devices.cpu import native_dtype
from partitiond.serde import from_stored, to_jsonable

CACHE_NAME: Final = "cpu-figures.json"

SECONDS: Final = 0.3
"""Length of each of the two measurements, alone and together: some ten triads over the arrays."""

MAX_PROCESSES: Final = 64
"""Memory saturates with far fewer cores; the arithmetic speed of more cores is scaled up."""

_DEADLINE_SECONDS: Final = 60.0


def cpu_figures(device: Device, state_dir: Path, *, seconds: float = SECONDS) -> CpuFigures:
    """Return the figures of this CPU: from the state folder, or measured now and kept there.

    Args:
        device: the host's CPU; its cores are measured.
        state_dir: where the result is kept. A folder that cannot be written is no error.
        seconds: length of each measurement.

    Raises:
        DeviceError: the measurement failed.
    """
    path = state_dir / CACHE_NAME
    known = _read(path).get(device.hardware)
    if known is not None and (known.name, known.cores) == (device.name, len(device.cores)):
        return known
    figures = measure_cpu(device.name, device.cores, seconds=seconds)
    _keep(path, {**_read(path), device.hardware: figures})
    return figures


def measure_cpu(
    name: str, cores: Sequence[int], *, seconds: float = SECONDS, root: Path = Path("/")
) -> CpuFigures:
    """Measure these cores now.

    Raises:
        DeviceError: a core cannot be used, or the measurement failed.
    """
    chosen = _spread(cores, MAX_PROCESSES)
    alone = _run(chosen[:1], _array_bytes(1), seconds)
    together = _run(chosen, _array_bytes(len(chosen)), seconds) if len(chosen) > 1 else alone
    return CpuFigures(
        name=name,
        cores=len(cores),
        numa_nodes=numa_nodes(root),
        core_bytes_per_s=alone[0][0],
        # Noise can make all cores look slower than one; the host reaches at least that one's.
        all_bytes_per_s=max(alone[0][0], sum(bandwidth for bandwidth, _ in together)),
        core_flops_32bit=alone[0][1],
        all_flops_32bit=max(
            alone[0][1], sum(flops for _, flops in together) * len(cores) / len(chosen)
        ),
        bfloat16=native_dtype(root) == "bfloat16",
        measured_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def numa_nodes(root: Path = Path("/")) -> int:
    """Return the number of NUMA nodes of the host; 1 if the kernel does not tell."""
    return max(1, len(list((root / "sys/devices/system/node").glob("node[0-9]*"))))


def _spread(cores: Sequence[int], most: int) -> tuple[int, ...]:
    """Return at most `most` of the cores, spread evenly over all of them."""
    count = min(len(cores), most)
    return tuple(cores[n * len(cores) // count] for n in range(count))


def _array_bytes(processes: int) -> int:
    """Return the size of each of three arrays: far above the caches, far below the memory."""
    return (64 if processes <= 16 else 16) * MIB


def _run(cores: Sequence[int], array_bytes: int, seconds: float) -> list[tuple[float, float]]:
    """Return (bytes/s, FLOP/s) of each core, all measured at the same time."""
    command = [sys.executable, "-m", "partitiond.devices.bandwidth_worker"]
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    # Measure the core, not the BLAS kernels that a user chose for their own numpy.
    inherited = {k: v for k, v in os.environ.items() if k != "OPENBLAS_CORETYPE"}
    environment = {**inherited, **one_thread}
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(core), str(array_bytes), str(seconds)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    text=True,
                )
            )
            for core in cores
        ]
        try:
            return [_result(w, core) for w, core in zip(_started(workers), cores, strict=True)]
        finally:
            for worker in workers:
                if worker.poll() is None:
                    worker.kill()


def _started(workers: Sequence["subprocess.Popen[str]"]) -> Sequence["subprocess.Popen[str]"]:
    """Wait until all workers have their arrays in memory, then start all at once."""
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    for worker in workers:
        assert worker.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the worker failed: its result says why
            worker.stdin.write("go\n")
            worker.stdin.flush()
    return workers


def _result(worker: "subprocess.Popen[str]", core: int) -> tuple[float, float]:
    try:
        out, err = worker.communicate(timeout=_DEADLINE_SECONDS)
        triads, products = json.loads(out)
        return statistics.median(triads), statistics.median(products)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"measuring core {core} took longer than {_DEADLINE_SECONDS:.0f} s.",
            hint="Try again while the host is less busy.",
        ) from error
    except (ValueError, statistics.StatisticsError) as error:
        last = (err.strip().splitlines() or ["no message"])[-1]
        raise DeviceError(
            f"core {core} could not be measured: {last}",
            hint="Check that this process may use the core and that numpy is installed.",
            facts={"core": core},
        ) from error


def _read(path: Path) -> dict[str, CpuFigures]:
    """Return kept figures by hardware key; empty if there are none, or none that can be read."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): from_stored(CpuFigures, value) for key, value in data.items()}
    except (OSError, ValueError, AttributeError, InputError):
        return {}  # the CPU can be measured again at any time


def _keep(path: Path, figures: dict[str, CpuFigures]) -> None:
    text = json.dumps({key: to_jsonable(value) for key, value in figures.items()}, indent=2)
    partial = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError:  # the folder cannot be written: measure each time
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
