"""Defines engines: what one is started with, what it reports, and the runner of engines."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from partitiond.core.hardware.partition import Partition
from partitiond.core.plan.record import Placement


@dataclasses.dataclass(frozen=True, slots=True)
class EngineLaunch:
    """Everything one engine is started with. JSON-serialisable; written to its journal first.

    Attributes:
        replica_id: unique among running engines; names its run folder.
        model_name: served name.
        model_folder: local folder.
        placement: what the plan assigned; None for an engine started by the profiler.
        device_id: device it runs on.
        visible_device: CUDA_VISIBLE_DEVICES value, or empty on a CPU. A UUID: the GPU's, or that
            of a MIG device, which `PartitionControl.prepare` fills in.
        cores: host cores for all its processes.
        memory_bytes: its memory budget.
        kv_cache_bytes: explicit KV cache size.
        max_num_seqs: engine's sequence limit.
        max_num_batched_tokens: tokens per step.
        max_model_len: context length.
        dtype: as in EngineOptions.
        dummy_weights: use the dummy load format.
        extra_args: further flags.
        engine_kind: "vllm" or "simulated".
        extra_env: further environment, e.g. MPS pipe folder and SM percentage.
    """

    replica_id: str
    model_name: str
    model_folder: str
    placement: Placement | None
    device_id: str
    visible_device: str
    cores: tuple[int, ...]
    memory_bytes: int
    device_memory_bytes: int
    kv_cache_bytes: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    dtype: str
    dummy_weights: bool
    extra_args: tuple[str, ...] = ()
    engine_kind: str = "vllm"
    extra_env: tuple[tuple[str, str], ...] = ()
    prefix_caching: bool = True
    """Off while profiling: repeated prompts must not be answered from the cache."""
    quantization: str = ""
    """How the engine quantises 16-bit weights while it loads them; empty if it does not."""
    kv_cache_dtype: str = "auto"
    """Precision of the KV cache: "auto" (as the weights) or "fp8"."""
    sleep_mode: bool = False
    """Start the engine so that `EngineRunner.sleep` can put it to sleep."""
    partition: Partition | None = None
    """The partition that the engine runs in, of a placement or of a profile job's lease; None: the
    whole of its device, as it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineHandle:
    """A running engine's process, whichever process started it.

    Attributes:
        pid: process id of the shim, leader of the engine's session and process group.
        start_ticks: start time of pid in clock ticks since boot; with boot_id it distinguishes
            our process from one with a recycled pid.
        generation: "<pid>-<start_ticks>", as in routes.
        unread: why the launch cannot be read; empty if it can. `launch` then holds what could be
            read of it, and the engine is only waited for and ended.
        named: whether `launch.replica_id` is the engine's own; else it is its run folder's name.
    """

    launch: EngineLaunch
    pid: int
    start_ticks: int
    boot_id: str
    socket_path: str
    log_path: str
    run_dir: str
    unread: str = ""
    named: bool = True

    @property
    def generation(self) -> str:
        """Identifies the process behind a replica's name."""
        return f"{self.pid}-{self.start_ticks}"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineExit:
    """An engine's exit: exit code (negative for a signal) and the lines that matter."""

    code: int | None
    diagnosis: str


@dataclasses.dataclass(frozen=True, slots=True)
class EngineReport:
    """A ready engine's report about itself.

    Attributes:
        kv_cache_tokens: KV tokens that the engine really has.
        version: engine version.
        metrics: gauges and counters of one scrape, by Prometheus name, label-summed.
    """

    kv_cache_tokens: int
    version: str
    metrics: Mapping[str, float]


class EngineRunner(Protocol):
    """Starts, finds, watches and ends engine processes."""

    async def start(self, launch: EngineLaunch) -> EngineHandle:
        """Spawn and return at once; readiness is `wait_ready`.

        Raises EngineUnavailableError, StartFailedError.
        """
        ...

    async def wait_ready(
        self,
        handle: EngineHandle,
        deadline_seconds: float,
        progress: Callable[[str], None] | None = None,
    ) -> EngineReport:
        """Wait for a real completion. Raises StartFailedError, StartTimedOutError."""
        ...

    async def probe(self, handle: EngineHandle, timeout_seconds: float) -> bool:
        """Whether the engine answers for one token within the time."""
        ...

    async def report(self, handle: EngineHandle) -> EngineReport:
        """Return one scrape of its metrics. Raises EngineError if it cannot be reached."""
        ...

    async def sleep(self, handle: EngineHandle, level: int) -> None:
        """Make the engine give up its KV cache and weights; nothing may be in flight.

        At level 1 the engine keeps its weights in host memory; at level 2 it reads them again when
        it is woken. Returns once the engine's memory is free.

        Raises:
            EngineError: the engine refuses or does not answer. Its memory is then unknown: end it.
        """
        ...

    async def wake(self, handle: EngineHandle) -> None:
        """Wake the engine from any level; returns once it answers a completion. Repeatable.

        Raises:
            EngineError: the engine refuses or does not answer. Its memory is then unknown: end it.
        """
        ...

    async def sleep_level(self, handle: EngineHandle, timeout_seconds: float) -> int:
        """Return the sleep level; 0 is awake. One whose wake was cut off counts as asleep.

        Raises:
            EngineError: the engine does not answer in time, so it is not even well asleep.
        """
        ...

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        """Return once the process is gone; works for engines this process did not start."""
        ...

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        """Terminate, then kill the whole group; no process is left on return. Idempotent."""
        ...

    async def find(self) -> Sequence[EngineHandle]:
        """Return the living engines of this state folder, whoever started them (for adoption).

        Kills process groups whose leader is gone, and removes run folders of dead engines.
        """
        ...

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Peak proportional set size of the engine's processes so far (sampled), in bytes."""
        ...
