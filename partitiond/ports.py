"""Ports: what the controller, profiler and API need from the world. Adapters implement them.

Each has a real adapter and a shipped fake, and one contract suite in `tests/contract/` runs the
same cases on both.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from partitiond.core.hardware import Device
from partitiond.core.partition import Partition
from partitiond.core.plan import Infeasible, Objective, Placement, Plan, PlanDiff
from partitiond.core.profile import Profile, ProfileKind
from partitiond.core.routing import RoutingTable
from partitiond.core.spec import Architecture, ModelSpec


@dataclasses.dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model whose files are on disk (or that needs none).

    Attributes:
        folder: local folder the engine loads: config, tokenizer, and weights unless dummy.
        revision: commit or package version; None for a plain folder.
        architecture: numbers for footprint and roofline.
        dummy_weights: whether the engine must use its dummy load format.
    """

    spec: ModelSpec
    folder: Path
    revision: str | None
    architecture: Architecture
    dummy_weights: bool


@dataclasses.dataclass(frozen=True, slots=True)
class EngineLaunch:
    """Everything one engine is started with. JSON-serialisable; written to its journal first.

    Attributes:
        replica_id: unique among running engines; names its run folder.
        model_name: served name.
        model_folder: local folder.
        placement: what the plan gave it; None for an engine started by the profiler.
        device_id: device it runs on.
        visible_device: CUDA_VISIBLE_DEVICES value, or empty on a CPU.
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


@dataclasses.dataclass(frozen=True, slots=True)
class EngineHandle:
    """A running engine's process, whoever started it.

    Attributes:
        pid: process id of the shim, leader of the engine's session and process group.
        start_ticks: start time of pid in clock ticks since boot; with boot_id it tells a
            recycled pid from ours.
        generation: "<pid>-<start_ticks>", as in routes.
    """

    launch: EngineLaunch
    pid: int
    start_ticks: int
    boot_id: str
    socket_path: str
    log_path: str
    run_dir: str

    @property
    def generation(self) -> str:
        """Identifies the process behind a replica's name."""
        return f"{self.pid}-{self.start_ticks}"


@dataclasses.dataclass(frozen=True, slots=True)
class EngineExit:
    """How an engine ended: exit code (negative for a signal) and the lines that matter."""

    code: int | None
    diagnosis: str


@dataclasses.dataclass(frozen=True, slots=True)
class EngineReport:
    """What a ready engine says about itself.

    Attributes:
        kv_cache_tokens: KV tokens it really has.
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
        """Whether it answers a one-token completion within the time."""
        ...

    async def report(self, handle: EngineHandle) -> EngineReport:
        """One scrape of its metrics. Raises EngineError when it cannot be reached."""
        ...

    async def wait_exit(self, handle: EngineHandle) -> EngineExit:
        """Return once the process is gone; works for engines this process did not start."""
        ...

    async def stop(self, handle: EngineHandle, grace_seconds: float) -> EngineExit:
        """Terminate, then kill the whole group; nothing is left when it returns. Idempotent."""
        ...

    async def find(self) -> Sequence[EngineHandle]:
        """Engines of this state folder that live now, whoever started them (for adoption).

        Kills process groups whose leader is gone, and removes run folders of dead engines.
        """
        ...

    def peak_memory_bytes(self, handle: EngineHandle) -> int:
        """Peak proportional set size of its processes so far (sampled), in bytes."""
        ...


class DeviceProvider(Protocol):
    """Finds the devices of this host."""

    def discover(self) -> Sequence[Device]:
        """All devices now. Raises DeviceError when the driver refuses."""
        ...


class ModelResolver(Protocol):
    """Turns a spec into files on disk."""

    async def architecture(self, spec: ModelSpec) -> Architecture:
        """Numbers without fetching weights. Raises ModelSourceError."""
        ...

    async def resolve(
        self, spec: ModelSpec, progress: Callable[[str, float | None], None] | None = None
    ) -> ResolvedModel:
        """Fetch or make what the engine needs. `progress(text, fraction)`."""
        ...


class ProxyControl(Protocol):
    """The controller's view of the proxy process."""

    async def ensure_running(self) -> bool:
        """Adopt or start it; True when a new process was started."""
        ...

    async def wait_exit(self) -> int | None:
        """Return once its process is gone, whoever started it; at once when there is none."""
        ...

    async def publish(self, table: RoutingTable) -> None:
        """Hand over a snapshot.

        Raises ConflictError with the fact `current` when the proxy has a newer one, and
        PartitiondError when it cannot be reached.
        """
        ...

    async def in_flight(self) -> Mapping[str, int] | None:
        """Requests in flight by replica id; None when the proxy cannot say."""
        ...

    async def stats(self) -> Mapping[str, float]:
        """Counters and gauges of one scrape."""
        ...

    async def stop(self, grace_seconds: float) -> None:
        """Finish what runs within the grace, then end the process."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job.

    Attributes:
        fraction: 0..1, or None where it cannot be known.
        seconds_left: estimate, or None.
    """

    phase: str
    message: str
    fraction: float | None = None
    seconds_left: float | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileRequest:
    """One profile job.

    Attributes:
        cores: CPU cores to pin to (a CpuCores partition), or host cores beside a GPU.
        max_batch: largest batch of the sweep; the definitions cap it at 512.
        time_limit_seconds: measuring time; None for no limit.
    """

    model: ResolvedModel
    device: Device
    cores: tuple[int, ...]
    memory_bytes: int
    max_batch: int = 512
    time_limit_seconds: float | None = None
    seed: int = 0
    min_window_seconds: float = 10.0
    max_window_seconds: float = 60.0


class ProfileRunner(Protocol):
    """Measures one profile. Cancelling the task leaves no engine running."""

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        """Start an engine, sweep, stop it. Raises EngineError."""
        ...


class Clock(Protocol):
    """Time as an argument."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        ...

    def utc_iso(self) -> str:
        """Wall-clock time, ISO 8601 UTC."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class ModelRecord:
    """A registered model as stored.

    Attributes:
        version: grows with each change; the API's ETag.
        created_at, updated_at: ISO 8601 UTC.
    """

    spec: ModelSpec
    version: int
    created_at: str
    updated_at: str


class JobState(enum.StrEnum):
    """Life of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A long-running piece of work: today, profiling.

    Attributes:
        kind: "profile".
        subject: model name.
        params: what was asked (device id, cores, max_batch, time limit, seed).
        result: id of the profile it made.
        error: message and hint when it failed.
    """

    id: str
    kind: str
    subject: str
    state: JobState
    created_at: str
    updated_at: str
    progress: Progress
    params: tuple[tuple[str, str], ...] = ()
    result: str | None = None
    error: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened and why, kept in the store.

    Attributes:
        id: grows by one.
        kind: "model-registered", "plan-applied", "engine-exited", ...
        subject: model, replica, job or key it is about.
    """

    id: int
    at: str
    kind: str
    subject: str
    message: str


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRecord:
    """An API key as stored: its SHA-256, never the key."""

    id: str
    sha256: str
    label: str
    models: tuple[str, ...]
    created_at: str


class Store(Protocol):
    """What was asked, kept on disk. One writer; every call is one transaction."""

    def add_model(self, record: ModelRecord) -> None:
        """Raises ConflictError when the name is taken."""
        ...

    def models(self) -> Sequence[ModelRecord]:
        """All, by name."""
        ...

    def model(self, name: str) -> ModelRecord:
        """Raises NotFoundError."""
        ...

    def update_model(self, record: ModelRecord, *, expected_version: int) -> None:
        """Replace. Raises ConflictError when the stored version is another."""
        ...

    def remove_model(self, name: str) -> None:
        """Raises NotFoundError. Its measured profiles stay (they are costly)."""
        ...

    def add_profile(self, profile: Profile) -> None:
        """Add or replace by id."""
        ...

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Newest first."""
        ...

    def profile(self, profile_id: str) -> Profile:
        """Raises NotFoundError."""
        ...

    def put_job(self, job: Job) -> None:
        """Add or replace by id."""
        ...

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        ...

    def jobs(self, limit: int = 100) -> Sequence[Job]:
        """Newest first."""
        ...

    def set_plan(self, plan: Plan) -> None:
        """Make it the applied (desired) plan."""
        ...

    def plan(self) -> Plan | None:
        """The applied plan, or None."""
        ...

    def add_event(self, at: str, kind: str, subject: str, message: str) -> Event:
        """Append."""
        ...

    def events(self, after: int = 0, limit: int = 200) -> Sequence[Event]:
        """Oldest first, ids greater than `after`; without `after`, the newest `limit`."""
        ...

    def add_key(self, key: KeyRecord) -> None:
        """Raises ConflictError when the id is taken."""
        ...

    def keys(self) -> Sequence[KeyRecord]:
        """All, oldest first."""
        ...

    def remove_key(self, key_id: str) -> None:
        """Raises NotFoundError."""
        ...

    def next_counter(self, name: str) -> int:
        """A number that grows by one with each call and survives restarts (routing version)."""
        ...

    def close(self) -> None:
        """Checkpoint and release."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class PlanPreview:
    """A plan (or why there is none) and what applying it would change."""

    plan: Plan
    diff: PlanDiff
    infeasible: Infeasible | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicaView:
    """One replica as people see it.

    Attributes:
        state: pending, starting, serving, draining, stopping, stopped, failed.
        start_progress: last progress line while it starts.
        adopted: it was found running after a restart of the daemon.
    """

    replica_id: str
    model: str
    device_id: str
    partition: Partition
    state: str
    pid: int | None
    in_flight: int | None
    limit: int
    memory_bytes: int
    starts: int
    adopted: bool
    start_progress: str = ""
    last_error: str = ""
    log_path: str = ""
    socket_path: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ModelView:
    """One model as people see it.

    Attributes:
        availability: serving, starting or unavailable.
        profile_kind: best profile it has: measured, transferred, estimated, or None.
        provisional: it is served from an estimate.
        note: what the chain waits for, in one sentence.
    """

    record: ModelRecord
    availability: str
    replicas_serving: int
    replicas_planned: int
    profile_kind: ProfileKind | None
    provisional: bool
    note: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What a user may ask of a profile job; None takes the setting.

    Attributes:
        cores: number of cores of the partition to measure on (CPU device).
    """

    device_id: str | None = None
    cores: int | None = None
    max_batch: int | None = None
    time_limit_seconds: float | None = None
    memory_bytes: int | None = None
    seed: int = 0


class ControlService(Protocol):
    """The use cases of the control plane; the API is a thin layer over it."""

    async def register(self, spec: ModelSpec) -> ModelRecord:
        """Register and (with `auto`) start the chain. Raises ConflictError, SpecError."""
        ...

    def models(self) -> Sequence[ModelView]:
        """All models."""
        ...

    def model(self, name: str) -> ModelView:
        """Raises NotFoundError."""
        ...

    async def update(self, spec: ModelSpec, expected_version: int | None) -> ModelRecord:
        """Replace the spec of a model. Raises NotFoundError, ConflictError."""
        ...

    async def remove(self, name: str, expected_version: int | None = None) -> None:
        """Remove the model: its replicas drain and stop."""
        ...

    async def profile(self, name: str, options: ProfileOptions) -> Job:
        """Queue a profile job."""
        ...

    def jobs(self) -> Sequence[Job]:
        """Newest first."""
        ...

    def job(self, job_id: str) -> Job:
        """Raises NotFoundError."""
        ...

    async def cancel_job(self, job_id: str) -> Job:
        """Cancel; returns once nothing of it runs."""
        ...

    def profiles(self, model: str | None = None) -> Sequence[Profile]:
        """Newest first."""
        ...

    def profile_by_id(self, profile_id: str) -> Profile:
        """Raises NotFoundError."""
        ...

    def import_profile(self, profile: Profile) -> Profile:
        """Keep a profile made elsewhere."""
        ...

    async def plan(self, objective: Objective | None = None) -> PlanPreview:
        """Dry run. The preview's plan can be applied by id while nothing changed since."""
        ...

    async def apply(self, plan_id: str | None = None) -> PlanPreview:
        """Apply the plan of that id, or a fresh one. Raises ConflictError when it is outdated."""
        ...

    def current_plan(self) -> Plan | None:
        """The applied plan."""
        ...

    def replicas(self) -> Sequence[ReplicaView]:
        """All replicas, stopped and failed ones that are still wanted included."""
        ...

    def devices(self) -> Sequence[Device]:
        """Devices of this host."""
        ...

    def events(self, after: int = 0, limit: int = 200) -> Sequence[Event]:
        """Oldest first."""
        ...

    async def create_key(self, label: str, models: Sequence[str]) -> tuple[KeyRecord, str]:
        """The record and the key itself, which is shown once and not kept."""
        ...

    def keys(self) -> Sequence[KeyRecord]:
        """All keys."""
        ...

    async def remove_key(self, key_id: str) -> None:
        """Raises NotFoundError."""
        ...

    def readiness(self) -> Mapping[str, str]:
        """Empty when ready; else what is not, by part (proxy, store, loop)."""
        ...

    async def metrics(self) -> str:
        """Prometheus text."""
        ...

    async def shutdown(self, *, stop_engines: bool) -> None:
        """End the loop, the jobs, and (if asked) engines and proxy."""
        ...
