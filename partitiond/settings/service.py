"""Turns settings into options of service and endpoint, reloads them, writes the status line."""

import dataclasses
import logging
from collections.abc import Callable, Sequence

from partitiond.controller.demand.scaling import ScalingOptions
from partitiond.controller.limits import ControllerPolicy, WatchPolicy
from partitiond.controller.plans.planning import PlanOptions
from partitiond.controller.profiles.params import ProfilingOptions
from partitiond.controller.runtime.routes import RoutePolicy
from partitiond.controller.service import Daemon, ServiceOptions
from partitiond.core.drift.options import DriftOptions
from partitiond.core.errors import DeviceError, PartitiondError
from partitiond.core.hardware.kinds import headroom_bytes
from partitiond.core.replica.observation import ReconcilePolicy
from partitiond.core.views.lists import ReplicaView
from partitiond.devices.cpu import discover_cpu
from partitiond.platform.systemd import ready, reloading
from partitiond.platform.tls_files import check_files
from partitiond.proxy.config import ProxyOptions
from partitiond.settings.proxy import ProxySettings
from partitiond.settings.reload import changes, taken_over
from partitiond.settings.schema import Settings, settings_values
from partitiond.settings.tracing import TracingSettings

log = logging.getLogger(__name__)


def service_options(settings: Settings) -> ServiceOptions:
    """Return options of the control plane, from the settings."""
    engine, profiling = settings.engine, settings.profiling
    return ServiceOptions(
        policy=ControllerPolicy(
            reconcile=ReconcilePolicy(
                start_deadline_seconds=engine.start_deadline_seconds,
                drain_deadline_seconds=engine.drain_deadline_seconds,
                stop_grace_seconds=engine.stop_grace_seconds,
            ),
            watch=WatchPolicy(
                interval_seconds=engine.probe_interval_seconds,
                idle_probe_seconds=engine.probe_timeout_seconds,
                busy_probe_seconds=3 * engine.probe_timeout_seconds,
            ),
            loop_seconds=settings.daemon.loop_seconds,
            wake_on_request=settings.sleep.wake_on_request,
        ),
        routes=RoutePolicy(
            max_queue=settings.proxy.max_queue,
            max_wait_seconds=settings.proxy.max_wait_seconds,
            keys_required=settings.proxy.require_keys,
            wake_on_request=settings.sleep.wake_on_request,
            zero_wait_seconds=settings.scaling.max_hold_seconds,
            keys_stale_seconds=settings.keys.stale_seconds or 0.0,
        ),
        scaling=ScalingOptions(
            policy=settings.scaling.policy(),
            evict_idle_seconds=settings.scaling.evict_idle_seconds,
        ),
        planning=PlanOptions(
            objective=settings.planner.objective,
            time_limit_seconds=settings.planner.time_limit_seconds,
            seed=settings.planner.seed,
            deterministic=settings.planner.deterministic,
            move_price=settings.planner.move_price,
            host_memory_bytes=_host_memory_bytes(settings),
        ),
        usage_keep_days=settings.usage.keep_days,
        drift=DriftOptions(**settings.drift.model_dump()),
        profiling=ProfilingOptions(
            max_batch=profiling.max_batch,
            time_limit_seconds=profiling.time_limit_seconds,
            min_window_seconds=profiling.min_window_seconds,
            max_window_seconds=profiling.max_window_seconds,
            cpu_partition_cores=profiling.cpu_partition_cores,
            jobs_at_once=profiling.jobs_at_once,
            jobs_on_host=profiling.jobs_on_host,
        ),
    )


def traced(options: ProxyOptions, tracing: TracingSettings) -> ProxyOptions:
    """Return the endpoint's options, with the settings for traces."""
    endpoint = "" if tracing.endpoint is None else str(tracing.endpoint)
    return dataclasses.replace(options, traces_endpoint=endpoint, traces_ratio=tracing.ratio)


def proxy_options(settings: ProxySettings) -> ProxyOptions:
    """Return options for the endpoint's process: every setting that `ProxyOptions` has a field for.

    Raises:
        SettingsError: the files for TLS cannot be used.
    """
    fields = {field.name for field in dataclasses.fields(ProxyOptions)}
    values = {
        name: getattr(settings, name) for name in ProxySettings.model_fields if name in fields
    }
    for name in ("tls_certificate", "tls_key"):
        values[name] = "" if values[name] is None else str(values[name])
    if settings.tls_certificate is not None and settings.tls_key is not None:
        for warning in check_files(settings.tls_certificate, settings.tls_key):
            log.warning("%s", warning)
    return ProxyOptions(**values)


def _host_memory_bytes(settings: Settings) -> int | None:
    """Return the memory of this host for engines of GPUs; None with the CPU device or a simulated
    host.

    It is all memory (or cpu.memory, or the cgroup's limit) less the headroom that devices keep.
    A simulated GPU's engines are small, and its host's memory is not this machine's.
    """
    if settings.cpu.enabled or settings.gpu.simulated_host is not None:
        return None
    try:
        total = discover_cpu(None, settings.cpu.memory).memory_bytes
    except DeviceError as error:
        log.warning("host memory is not planned with: %s", error)
        return None
    return total - headroom_bytes(total)


class Reloading:
    """Holds the settings in use, and reloads them on SIGHUP."""

    def __init__(self, used: Settings, reread: Callable[[], Settings]) -> None:
        self.used = used
        self._reread = reread

    def __call__(self, daemon: Daemon) -> bool:
        """Take over reloadable settings; return whether engines now end with the daemon."""
        reloading()
        try:
            new = self._reread()
        except PartitiondError as error:
            log.error("settings were not re-read: %s", error)
            ready(f"settings were not re-read: {error.message}")
        else:
            found = changes(settings_values(self.used), settings_values(new))
            self.used = taken_over(self.used, new, found.taken)
            daemon.use(service_options(self.used))
            log.info("%s", found.text())
            ready(found.text())
        return not self.used.daemon.keep_engines_on_exit


def status_text(replicas: Sequence[ReplicaView]) -> str:
    """Return one line for `systemctl status`."""
    serving = [replica for replica in replicas if replica.state == "serving"]
    models = len({replica.model for replica in serving})
    return f"{len(serving)} of {len(replicas)} replicas serve {models} models"
