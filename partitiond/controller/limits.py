"""Defines every bound of the controller, with its name."""

import dataclasses
from typing import Final

from partitiond.core.replica.observation import ReconcilePolicy
from partitiond.platform.deadline_calls import SILENT_SECONDS

LOOK_SECONDS: Final = 2 * SILENT_SECONDS + 5.0
"""Deadline of a look at all devices. The driver as a whole and each GPU have their own deadlines,
which pass earlier: the look that knows which of them is silent says so first."""
PATIENCE_SECONDS: Final = 1.0
"""A look at all GPUs takes tens of milliseconds. A pass of the loop waits so long for it, once."""


@dataclasses.dataclass(frozen=True, slots=True)
class WatchPolicy:
    """Bounds of the probes that tell whether a serving engine still generates.

    A frozen engine core leaves the engine's health page green, so a probe asks for one token. A
    freeze is noticed after at most `misses` x (interval + probe time): 70 s while idle by default.

    Attributes:
        interval_seconds: pause between two probes.
        idle_probe_seconds: time for one token while the proxy has nothing in flight there.
        busy_probe_seconds: time while requests run; the probe may queue behind a full batch.
        misses: probes in a row without an answer that make the engine count as hung.
    """

    interval_seconds: float = 15.0
    idle_probe_seconds: float = 20.0
    busy_probe_seconds: float = 60.0
    misses: int = 2


@dataclasses.dataclass(frozen=True, slots=True)
class ControllerPolicy:
    """Bounds of the loop.

    Attributes:
        reconcile: bounds of the reconciler.
        watch: bounds of the probes.
        loop_seconds: longest pause between two passes; any event wakes the loop sooner.
        device_seconds: age at which devices are looked at again.
        count_seconds: age at which requests in flight are counted again; while something drains,
            each pass counts them.
        adopt_seconds: longest wait, at the start, for adopted engines to answer their probe.
        fetch_retry_seconds: pause before a model's files are tried again after a failure.
        stop_retry_seconds: pause before an engine that could not be ended is ended again.
        stop_tries_at_exit: tries after which the daemon ends although an engine does not end.
        proxy_stop_seconds: time for the proxy to finish its requests when everything ends.
        last_call_seconds: longest wait for each of the last calls when everything ends.
        fault_seconds: pause between two looks for devices that broke.
        memory_seconds: pause between two looks at what engines hold of their shares.
        wake_poll_seconds: pause between two looks at waiting requests, while a model sleeps.
        idle_poll_seconds: the same while some model may fall asleep by its idle rule.
        wake_on_request: whether a request for a sleeping model wakes it.
        stalled_seconds: time without the end of a pass after which the loop counts as stalled: the
            daemon is not ready, and gives its service manager no sign of life. A pass that replaces
            the proxy's process may take most of it.
        look_seconds, patience_seconds: see `runtime.watching.DeviceWatch`.
    """

    reconcile: ReconcilePolicy = dataclasses.field(default_factory=ReconcilePolicy)
    watch: WatchPolicy = dataclasses.field(default_factory=WatchPolicy)
    loop_seconds: float = 0.5
    device_seconds: float = 5.0
    count_seconds: float = 2.0
    adopt_seconds: float = 30.0
    fetch_retry_seconds: float = 30.0
    stop_retry_seconds: float = 2.0
    stop_tries_at_exit: int = 5
    proxy_stop_seconds: float = 10.0
    last_call_seconds: float = 60.0
    fault_seconds: float = 2.0
    memory_seconds: float = 5.0
    wake_poll_seconds: float = 0.1
    idle_poll_seconds: float = 1.0
    wake_on_request: bool = True
    stalled_seconds: float = 60.0
    look_seconds: float = LOOK_SECONDS
    patience_seconds: float = PATIENCE_SECONDS
