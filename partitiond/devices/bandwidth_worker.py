"""Measures one core: `python -m partitiond.devices.bandwidth_worker CORE BYTES S`.

The process pins itself, fills its arrays, prints "ready" and waits for a line. Then it runs triads
and matrix products for S seconds each and prints the rates of every repetition as JSON.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Final

import numpy as np

_MATRIX: Final = 512
"""Rows of the square matrices: many enough for full speed, few enough for the cache."""

_TRIAD_ARRAYS: Final = 5
"""Array passes of a = b + s c in two numpy calls: read c, write a; read a and b, write a."""


def repeat(work: Callable[[], None], amount: float, seconds: float) -> list[float]:
    """Warm up once, then repeat for `seconds`, at least three times; return each amount / time.

    Times are those of the thread on its core, so that other work of the host does not count.
    """
    work()
    rates: list[float] = []
    end = time.perf_counter() + seconds
    while len(rates) < 3 or time.perf_counter() < end:
        start = time.thread_time()
        work()
        rates.append(amount / (time.thread_time() - start))
    return rates


def main(arguments: list[str]) -> int:
    """Measure one core."""
    core, array_bytes, seconds = int(arguments[0]), int(arguments[1]), float(arguments[2])
    os.sched_setaffinity(0, {core})
    count = array_bytes // 8
    a, b, c = np.zeros(count), np.ones(count), np.ones(count)
    a.fill(1.0)  # map every page before the clock starts
    left = np.ones((_MATRIX, _MATRIX), np.float32)
    right = np.ones((_MATRIX, _MATRIX), np.float32)
    product = np.empty_like(left)

    def triad() -> None:
        np.multiply(c, 0.5, out=a)
        np.add(a, b, out=a)

    def multiply() -> None:
        np.matmul(left, right, out=product)

    print("ready", flush=True)
    sys.stdin.readline()
    triads = repeat(triad, _TRIAD_ARRAYS * 8.0 * count, seconds)
    products = repeat(multiply, 2.0 * _MATRIX**3, seconds)
    print(json.dumps([triads, products]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
