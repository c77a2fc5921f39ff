"""Defines an engine's start, process, end and report, as the supervisor and the store keep them."""

import dataclasses
from collections.abc import Mapping
from typing import Final

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
    isolation_group: str = ""
    """The model's isolation group: decides as which system user the engine runs."""
    host: str = ""
    """Host of its device, on which it runs; empty for this one."""


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
    def host(self) -> str:
        """Host on which it runs; empty for this one."""
        return self.launch.host

    @property
    def identity(self) -> tuple[str, str]:
        """Host and name, which no two engines share at the same time."""
        return self.host, self.launch.replica_id

    @property
    def generation(self) -> str:
        """Identifies the process behind a replica's name."""
        return f"{self.pid}-{self.start_ticks}"


HOST_LACKS: Final = "host-lacks"
"""Kind of an end that says nothing of the model: the host lacked what the engine needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class EngineExit:
    """An engine's exit: exit code (negative for a signal) and the lines that matter.

    Attributes:
        host_lacks: whether it ended because its host lacked something, such as thread ids.
    """

    code: int | None
    diagnosis: str
    host_lacks: bool = False


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
