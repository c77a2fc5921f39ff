"""Takes the simulated engine's device memory through CUDA's driver, as vLLM takes it.

The order is: context, check of the free memory, weights, KV cache, then graphs and activations.
Each refusal is in vLLM's words (v1/worker/utils.py `request_memory`, torch's allocator), so that a
log reads the same. Only the driver is a stand-in.
"""

import argparse
import os
import sys
import threading
from pathlib import Path
from typing import Final, NoReturn

from partitiond.core.units import GIB
from partitiond.devices.cuda import OUT_OF_MEMORY, Context, Cuda, CudaError
from partitiond.simulated.engine.sleeping import KV_CACHE, WEIGHTS

HOST_VARIABLE: Final = "PARTITIOND_SIMULATED_HOST"
"""The folder of the simulated GPU host; the daemon sets it, never a user."""
LIBRARY: Final = "lib/libcuda.so.1"
STEPS: Final = 8
"""Weights come in pieces, as tensors do: memory may run out in the middle of loading."""
CHECK_SECONDS: Final = 0.2
"""Between two checks of the device while nothing is computed. A real engine notices at its next
kernel, which comes sooner under load and never while it idles."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that decide how much memory it takes; flags of vLLM keep vLLM's names."""
    parser.add_argument("--gpu-memory-utilization", type=float, default=0.0)
    parser.add_argument("--kv-cache-memory-bytes", type=int, default=0)
    parser.add_argument("--weights-bytes", type=int, default=0)
    parser.add_argument("--runtime-bytes", type=int, default=0, help="activations, CUDA graphs")
    parser.add_argument("--extra-bytes", type=int, default=0, help="more than anyone planned")


class SimulatedGpuMemory:
    """The memory that the engine holds on its GPU, from its start to its end."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._sizes: dict[str, int] = {}
        self._held: dict[str, list[int]] = {}

    @classmethod
    def take(cls, arguments: argparse.Namespace, folder: str) -> "SimulatedGpuMemory":
        """Take everything, or end the process as vLLM does if that fails."""
        try:
            context = Cuda(Path(folder) / LIBRARY).retain(0)
            memory = cls(context)
            memory.fill(arguments)
        except CudaError as error:
            _die(_words(error.cuda_code, error.name))
        return memory

    def fill(self, arguments: argparse.Namespace) -> None:
        """Fill in vLLM's order. Raises CudaError; ends the process if the memory is not free."""
        self._require_free(arguments.gpu_memory_utilization)
        self._sizes = {
            WEIGHTS: arguments.weights_bytes,
            KV_CACHE: arguments.kv_cache_memory_bytes,
        }
        self.retake(WEIGHTS)
        print(f"INFO Model loading took {arguments.weights_bytes / GIB:.2f} GiB memory", flush=True)
        self.retake(KV_CACHE)
        self._allocate(arguments.runtime_bytes)
        self._allocate(arguments.extra_bytes)
        print("INFO Graph capturing finished", flush=True)

    def release(self, tag: str) -> None:
        """Give up the memory of the weights or the KV cache, to fall asleep."""
        for pointer in self._held.pop(tag, []):
            self._context.free(pointer)

    def retake(self, tag: str) -> None:
        """Take a tag's memory (again), in pieces; ends the process if there is no room."""
        pieces = STEPS if tag == WEIGHTS else 1
        size = self._sizes[tag] // pieces
        taken = [self._allocate(size) for _ in range(pieces if size > 0 else 0)]
        self._held[tag] = taken

    def _require_free(self, utilization: float) -> None:
        free, total = self._context.memory()
        wanted = total * utilization
        if free < wanted:
            _die(
                f"ValueError: Free memory on device cuda:0 ({free / GIB:.2f}/{total / GIB:.2f} "
                "GiB) on startup is less than desired GPU memory utilization "
                f"({utilization}, {wanted / GIB:.2f} GiB). Decrease GPU memory utilization or "
                "reduce GPU memory used by other processes."
            )

    def _allocate(self, size: int) -> int:
        if size <= 0:
            return 0
        try:
            return self._context.allocate(size)
        except CudaError as error:
            if error.cuda_code != OUT_OF_MEMORY:
                raise
            free, total = self._context.memory()
            _die(
                f"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {size / GIB:.2f} "
                f"GiB. GPU 0 has a total capacity of {total / GIB:.2f} GiB of which "
                f"{free / GIB:.2f} GiB is free."
            )

    def watch(self) -> None:
        """End the process when the device reports that nothing computes there any more."""
        thread = threading.Thread(target=self._watch, name="device", daemon=True)
        thread.start()

    def _watch(self) -> None:
        pause = threading.Event()
        while not pause.wait(CHECK_SECONDS):
            try:
                self._context.synchronize()
            except CudaError as error:
                _die(_words(error.cuda_code, error.name), at_once=True)


def _words(code: int, name: str) -> str:
    return f"torch.AcceleratorError: CUDA error: {name} ({code})"


def _die(line: str, *, at_once: bool = False) -> NoReturn:
    print(f"ERROR EngineCore failed to start.\n{line}", file=sys.stderr, flush=True)
    if at_once:
        # A thread cannot end its process by an exception.
        os._exit(1)
    sys.exit(1)
