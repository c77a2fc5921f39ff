"""Defines one schema of settings for the TOML file, the environment and the flags.

A later source wins: defaults, the file, the environment (`PARTITIOND_PROXY__PORT=9000`), flags
(`--proxy-port 9000`). `load_settings` also says where each value came from. Unknown keys and
wrong types are refused, because a setting that is silently ignored is worse than none.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import platformdirs
from pydantic import Field, model_validator

from partitiond.core.errors import SettingsError
from partitiond.core.plan.objectives import objectives_told
from partitiond.core.plan.record import MAX_MOVE_PRICE, MOVE_PRICE, Objective
from partitiond.core.units import GIB, Bytes
from partitiond.serde import Table
from partitiond.settings.cluster import RAY_PORTS, ClusterSettings, HostSettings
from partitiond.settings.drift import DriftSettings
from partitiond.settings.keys import KeysSettings
from partitiond.settings.proxy import ProxySettings
from partitiond.settings.scaling import ScalingSettings
from partitiond.settings.sources import (
    build,
    find_config_file,
    flatten,
    from_environment,
    from_file,
    from_overrides,
)
from partitiond.settings.tracing import TracingSettings
from partitiond.settings.types import (
    AbsolutePath,
    Count,
    IndexUrl,
    Port,
    Seconds,
    Size,
    SocketPath,
    is_loopback,
    reachable_url,
)
from partitiond.settings.usage import UsageSettings

APP_NAME: Final = "partitiond"
MAX_SOCKET_PATH_BYTES: Final = 100
"""sun_path of a Unix socket holds 108 bytes with the final null byte; some are in reserve."""
SOCKET_NAME_BYTES: Final = 38
"""Room below run_dir for one socket: "/", a replica's folder of 24 bytes, "/engine.sock"."""


class ControlSettings(Table):
    """The address of the control API."""

    host: str = Field("127.0.0.1", min_length=1, description="Address the control API binds.")
    port: Port = Field(8400, description="TCP port of the control API; 0 takes a free one.")
    allow_remote: bool = Field(
        default=False,
        description="Allow a control address beyond loopback. The admin token travels in clear "
        "text: put TLS in front.",
    )


class EngineSettings(Table):
    """The choice of the engine, and its time limits."""

    python: AbsolutePath | None = Field(
        None,
        description="Python of an environment with vLLM; unset takes the managed environment of "
        "`partitiond setup engine install`.",
    )
    variant: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Engine build: cuda, cpu, or auto (cuda where there is a GPU)."
    )
    index_urls: tuple[IndexUrl, ...] = Field(
        (),
        description="Package indexes to install the engine from, beside uv's default "
        "index: mirrors, or an index with torch's CPU build.",
    )
    wheel_folders: tuple[AbsolutePath, ...] = Field(
        (), description="Folders of wheels to install the engine from."
    )
    offline: bool = Field(
        default=False,
        description="Install the engine from folders of wheels alone; no index is asked.",
    )
    allow_unknown_version: bool = Field(
        default=False, description="Start engine versions that are not in the capability table."
    )
    start_deadline_seconds: Seconds = Field(
        600.0, description="Longest time an engine may take to become ready, in seconds."
    )
    drain_deadline_seconds: Seconds = Field(
        120.0, description="Longest time running requests may take while draining, in seconds."
    )
    stop_grace_seconds: Seconds = Field(
        10.0, description="Time between terminate and kill, in seconds."
    )
    probe_interval_seconds: Seconds = Field(
        15.0, description="Pause between two one-token probes of a serving engine, in seconds."
    )
    probe_timeout_seconds: Seconds = Field(
        20.0,
        description="Longest time for a probe's token while the engine is idle, in seconds; three "
        "times as long while requests run. After two misses it counts as hung and is replaced.",
    )
    warm_starts: bool = Field(
        default=True,
        description="Keep a process that has imported vLLM, and fork engines on the CPU from it: "
        "they start in a fraction of the time, for some 500 MiB of memory that they share.",
    )
    launcher: SocketPath | None = Field(
        None,
        description="Socket at which systemd starts engines as a user of their own, in a sandbox; "
        "`partitiond setup` installs it. Unset runs engines as the daemon's user.",
    )
    launcher_cache: AbsolutePath = Field(
        Path("/var/cache/partitiond-engine"),
        description="Folder of that user for what engines compile.",
    )


class ProfilingSettings(Table):
    """Defaults of a profile job."""

    max_batch: int = Field(512, ge=1, le=4096, description="Largest batch of a sweep, in requests.")
    time_limit_seconds: Seconds = Field(
        900.0, description="Longest measuring time of one profile, in seconds."
    )
    min_window_seconds: Seconds = Field(10.0, description="Shortest measuring window, in seconds.")
    max_window_seconds: Seconds = Field(60.0, description="Longest measuring window, in seconds.")
    cpu_partition_cores: tuple[Count, ...] = Field(
        (),
        description="Partition sizes to profile on the CPU device, in cores; empty means one "
        "core and all cores.",
    )
    jobs_at_once: int = Field(
        1,
        ge=1,
        le=64,
        description="Profile jobs that run at the same time on each device, as far as each finds "
        "room that nobody holds. Jobs on one device share its memory bandwidth, and their profiles "
        "say so.",
    )
    jobs_on_host: int = Field(
        4,
        ge=1,
        le=64,
        description="Profile jobs that run at the same time on all devices of a host together: one "
        "process there makes the load of all.",
    )

    @model_validator(mode="after")
    def _windows_in_order(self) -> "ProfilingSettings":
        if self.min_window_seconds > self.max_window_seconds:
            raise ValueError("min_window_seconds must not be longer than max_window_seconds")
        return self


class PlannerSettings(Table):
    """Options of planning."""

    objective: Objective = Field(
        Objective.MIN_DEVICES,
        description=f"What plans are good at. {objectives_told()}.",
    )
    time_limit_seconds: Seconds = Field(10.0, description="Longest time of a solve, in seconds.")
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of the solver's random choices.")
    deterministic: bool = Field(
        default=False,
        description="Count work instead of time, so that one seed gives one plan on any machine; "
        "the time limit is then kept only roughly.",
    )
    memory_limit: Size = Field(
        Bytes(8 * GIB), ge=GIB, description="Memory the solver's process may allocate (8GiB)."
    )
    move_price: float = Field(
        MOVE_PRICE,
        ge=0,
        le=MAX_MOVE_PRICE,
        description="What it costs a plan to move or restart a running replica that could stay, "
        "in devices of mean price or draw; under max-goodput and max-min a hundredth of what is "
        "served stands for a device. 0 makes the best plan whatever it moves.",
    )


class CpuSettings(Table):
    """The host's CPU as a device."""

    enabled: bool = Field(default=True, description="Offer the CPU as a device.")
    cores: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        None, description="Core indices engines may use; unset takes all this process may use."
    )
    memory: Size | None = Field(
        None, description="Host memory engines may use, as a size (12GiB); unset takes it all."
    )


class GpuSettings(Table):
    """NVIDIA GPUs as devices."""

    enabled: bool = Field(default=True, description="Offer the GPUs that NVML shows as devices.")
    devices: tuple[str, ...] = Field(
        (),
        description="The GPUs to use, by index, UUID or its beginning; the others are left alone. "
        "Empty for those of CUDA_VISIBLE_DEVICES, and without it all.",
    )
    mps_control: str = Field(
        "nvidia-cuda-mps-control",
        min_length=1,
        description="MPS control program, found on PATH or by its absolute path.",
    )
    mig_changes: Literal["never", "instances"] = Field(
        "instances",
        description="What plans may change of MIG: nothing (only instances that exist are used), "
        "or GPU instances of GPUs whose MIG mode is on.",
    )
    mig_helper: AbsolutePath = Field(
        Path("/run/partitiond-mig/helper.sock"),
        description="Socket of the privileged MIG helper, asked where this user may not change "
        "MIG itself.",
    )
    simulated_host: AbsolutePath | None = Field(
        None,
        description="Folder of a simulated GPU host (`partitiond tools simulate`), used in place "
        "of this machine's GPUs.",
    )


class ModelsSettings(Table):
    """The allowed sources of models."""

    hub: bool = Field(
        default=False,
        description="Fetch from the Hugging Face hub where a catalog model has another source.",
    )
    offline: bool = Field(default=False, description="Never open a network connection for models.")
    allow_folders: tuple[AbsolutePath, ...] = Field(
        (),
        description="Folders local models may lie in; empty allows any folder.",
    )


class SleepSettings(Table):
    """Models that are asleep."""

    wake_on_request: bool = Field(
        default=True,
        description="A request for a sleeping model waits and wakes it, for proxy.max_wait_seconds "
        "at most; else it gets 503 until somebody wakes the model.",
    )


class DaemonSettings(Table):
    """The daemon itself."""

    keep_engines_on_exit: bool = Field(
        default=False, description="Leave engines and endpoint running when the daemon ends."
    )
    loop_seconds: float = Field(
        0.5, gt=0, le=60, description="Pause between two passes of the reconcile loop, in seconds."
    )


def _user_folder(path_of: Callable[[str], Path], setting: str) -> Path:
    """Return a folder of this user. Raises SettingsError: nothing says where it would be."""
    try:
        return path_of(APP_NAME)
    except RuntimeError as error:  # containers run users that have no entry in passwd
        raise SettingsError(
            f"{setting} has no default: this user has no home folder (HOME or an entry in passwd).",
            hint="Set HOME, or PARTITIOND_STATE_DIR and PARTITIOND_CACHE_DIR.",
            facts={"key": setting},
        ) from error


def _default_state_dir() -> Path:
    return _user_folder(platformdirs.user_state_path, "state_dir")


def _default_run_dir(data: dict[str, Any]) -> Path:
    state_dir: Path = data.get("state_dir") or _default_state_dir()
    return state_dir / "run"


class Settings(Table):
    """Everything that can be set, with defaults."""

    state_dir: AbsolutePath = Field(
        default_factory=_default_state_dir,
        description="Folder of the store, the admin token and the lock; one daemon per folder.",
        json_schema_extra={"default_text": "the platform's user state folder"},
    )
    run_dir: AbsolutePath = Field(
        default_factory=_default_run_dir,
        description="Folder of sockets, journals and logs of running engines.",
        json_schema_extra={"default_text": "state_dir/run"},
    )
    cache_dir: AbsolutePath = Field(
        default_factory=lambda: _user_folder(platformdirs.user_cache_path, "cache_dir"),
        description="Folder of fetched models and managed engine environments.",
        json_schema_extra={"default_text": "the platform's user cache folder"},
    )
    control: ControlSettings = ControlSettings()
    proxy: ProxySettings = ProxySettings()
    keys: KeysSettings = KeysSettings()
    usage: UsageSettings = UsageSettings()
    tracing: TracingSettings = TracingSettings()
    drift: DriftSettings = DriftSettings()
    engine: EngineSettings = EngineSettings()
    profiling: ProfilingSettings = ProfilingSettings()
    planner: PlannerSettings = PlannerSettings()
    cpu: CpuSettings = CpuSettings()
    gpu: GpuSettings = GpuSettings()
    models: ModelsSettings = ModelsSettings()
    sleep: SleepSettings = SleepSettings()
    scaling: ScalingSettings = ScalingSettings()
    daemon: DaemonSettings = DaemonSettings()
    host: HostSettings = HostSettings()
    cluster: ClusterSettings = ClusterSettings()

    @model_validator(mode="after")
    def _sockets_fit(self) -> "Settings":
        room = MAX_SOCKET_PATH_BYTES - SOCKET_NAME_BYTES
        length = len(str(self.run_dir).encode())
        if length > room:
            raise ValueError(
                f"run_dir {self.run_dir} is {length} bytes long; Unix sockets below it allow "
                f"{room} at most: set run_dir to a shorter folder, as /run/partitiond"
            )
        return self

    @model_validator(mode="after")
    def _nothing_open_without_keys(self) -> "Settings":
        if not is_loopback(self.proxy.host) and not self.proxy.require_keys:
            raise ValueError(
                f"proxy.host {self.proxy.host} is beyond loopback and proxy.require_keys is "
                "false: set proxy.require_keys to true, or proxy.host to 127.0.0.1"
            )
        if not is_loopback(self.control.host) and not self.control.allow_remote:
            raise ValueError(
                f"control.host {self.control.host} is beyond loopback: keep 127.0.0.1 and "
                "reach it through SSH or a TLS proxy, or set control.allow_remote to true"
            )
        return self

    @model_validator(mode="after")
    def _one_master(self) -> "Settings":
        if self.cluster.enabled and self.cluster.joined:
            raise ValueError(
                f"cluster.enabled is true and cluster.head is {self.cluster.head}: a host is the "
                "head, or obeys one; set cluster.enabled to false, or cluster.head to nothing"
            )
        return self

    @model_validator(mode="after")
    def _peers_beside_ray(self) -> "Settings":
        cluster, port = self.cluster, self.proxy.peers_port
        has_ray = (cluster.enabled or cluster.joined) and cluster.folder is None
        if has_ray and any(port in ports for ports in cluster.ray_ports):
            raise ValueError(
                f"proxy.peers_port {port} is one of Ray's ports (cluster.port is "
                f"{cluster.port}): set it to {cluster.port + RAY_PORTS}, which Ray leaves free"
            )
        return self

    @model_validator(mode="after")
    def _token_apart_from_engines(self) -> "Settings":
        cluster = self.cluster
        safe = self.engine.launcher is not None or cluster.trust_engines or cluster.folder
        if (cluster.enabled or cluster.joined) and not safe:
            raise ValueError(
                "engines run as the daemon's user (engine.launcher is not set), so each engine "
                "could read the token of the cluster, and run programs on every host: have "
                "`partitiond setup` give engines a user of their own, or, for a trial on one "
                "machine or where all models are trusted, set cluster.trust_engines to true"
            )
        return self

    @property
    def cluster_token_path(self) -> Path:
        """The file of the token that all hosts of a cluster share, mode 0600."""
        return self.cluster.find_token(self.state_dir)

    @property
    def cluster_tls_dir(self) -> Path:
        """Folder of the certificates of a cluster."""
        return self.cluster.find_tls(self.state_dir)

    @property
    def agent_socket(self) -> Path:
        """Socket at which this host's agent answers its head."""
        if self.cluster.folder is not None:
            return self.cluster.folder / f"{self.host.own_name}.sock"
        return self.run_dir / "agent.sock"

    @property
    def host_id_path(self) -> Path:
        """File of this host's id, made once."""
        return self.state_dir / "host-id"

    @property
    def models_dir(self) -> Path:
        """Folder of fetched models and tokenizers."""
        return self.cache_dir / "models"

    @property
    def engines_dir(self) -> Path:
        """Folder of managed engine environments."""
        return self.cache_dir / "engines"

    @property
    def store_path(self) -> Path:
        """The SQLite file."""
        return self.state_dir / "partitiond.sqlite3"

    @property
    def token_path(self) -> Path:
        """The admin token's file, mode 0600."""
        return self.state_dir / "admin-token"

    @property
    def metrics_token_path(self) -> Path:
        """The file of the token that opens the metrics alone, mode 0600."""
        return self.state_dir / "metrics-token"

    @property
    def lock_path(self) -> Path:
        """The lock that one daemon holds on the state folder."""
        return self.state_dir / "daemon.lock"

    @property
    def control_url(self) -> str:
        """The URL of the control API for clients on this host."""
        return reachable_url(self.control.host, self.control.port)

    @property
    def proxy_url(self) -> str:
        """The URL of the OpenAI-compatible endpoint for clients on this host (without /v1)."""
        return reachable_url(self.proxy.host, self.proxy.port, tls=self.proxy.tls)


def default_config_files() -> tuple[Path, ...]:
    """Return the possible paths of the settings file; only the first that exists is read."""
    own: list[Path] = []
    with contextlib.suppress(RuntimeError):  # this user has no home folder
        own.append(platformdirs.user_config_path(APP_NAME) / "config.toml")
    return (*own, Path("/etc/partitiond/config.toml"))


@dataclasses.dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings with the origin of each value.

    Attributes:
        origins: dotted key -> "default", "file /etc/partitiond/config.toml:proxy.port",
            "environment PARTITIOND_PROXY__PORT" or "--set proxy.port".
        config_file: the file that was read, or None.
    """

    settings: Settings
    origins: dict[str, str]
    config_file: Path | None = None


def load_settings(
    config_file: Path | None = None,
    env: Mapping[str, str] | None = None,
    overrides: Mapping[str, object] | None = None,
    where: str = "--set",
) -> LoadedSettings:
    """Read settings from defaults, file, environment and flags; later sources override.

    Args:
        config_file: file to read; None takes PARTITIOND_CONFIG, then the first of
            `default_config_files` that exists, then no file.
        env: environment variables; None takes none.
        overrides: dotted key -> value; None as a value means that it was not given.
        where: where the overrides were given, for messages.

    Raises:
        SettingsError: an unknown key, a wrong type, a refused value or broken TOML; the message
            names the file or variable and the key.
    """
    environment = env or {}
    file = find_config_file(config_file, environment, default_config_files())
    layers = [
        from_environment(Settings, environment),
        from_overrides(Settings, overrides or {}, where),
    ]
    if file is not None:
        layers.insert(0, from_file(Settings, file))
    settings, origins = build(Settings, layers)
    return LoadedSettings(settings, origins, file)


def settings_values(settings: Settings) -> dict[str, object]:
    """Dotted key -> plain JSON value, for `setup config show`."""
    return flatten(settings.model_dump(mode="json"))
