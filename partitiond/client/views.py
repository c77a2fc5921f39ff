"""Adds the calls that look at what the daemon does to `ControlClient`."""

from collections.abc import Iterator, Mapping, Sequence

from partitiond.client.bodies import filter_query, given, quoted
from partitiond.client.connection import Connection
from partitiond.core.drift.correction import Correction
from partitiond.core.errors import NotReadyError
from partitiond.core.events import EVERY_EVENT, Event, EventFilter
from partitiond.core.hardware.details import DeviceDetails
from partitiond.core.hardware.host_state import HostView
from partitiond.core.hardware.kinds import Device
from partitiond.core.replica.convergence import Convergence
from partitiond.core.views.drift import DriftReport
from partitiond.core.views.lists import ReplicaView
from partitiond.core.views.overview import Overview
from partitiond.core.views.scaling import ScalingView
from partitiond.core.views.usage import UsageReport


class ViewCalls(Connection):
    """Mixed into `ControlClient`."""

    def overview(self, window_seconds: float | None = None) -> Overview:
        """Return the overview, with rates and means over the last `window_seconds` (30)."""
        return self._get(Overview, "/overview", given(window_seconds=window_seconds))

    def replicas(self, model: str | None = None) -> Sequence[ReplicaView]:
        """Return the replicas with their observed state."""
        return self._get(list[ReplicaView], "/replicas", given(model=model))

    def devices(self) -> Sequence[Device]:
        """Return the devices of all hosts."""
        return self._get(list[Device], "/devices")

    def device(self, device_id: str) -> DeviceDetails:
        """Return all details of one device. Raises NotFoundError."""
        return self._get(DeviceDetails, f"/devices/{quoted(device_id)}")

    def hosts(self) -> Sequence[HostView]:
        """Return the hosts of the fleet, the daemon's first; with one host, that one."""
        return self._get(list[HostView], "/hosts")

    def forget_host(self, name: str) -> None:
        """Count a lost host as no part of the fleet. Raises NotFoundError, ConflictError."""
        self._call("DELETE", f"/hosts/{quoted(name)}")

    def cordon(self, device_id: str, reason: str = "") -> Device:
        """Place nothing on a device from now on. Raises NotFoundError."""
        path = f"/devices/{quoted(device_id)}/cordon"
        return self._send(Device, "PUT", path, body={"reason": reason})

    def uncordon(self, device_id: str) -> Device:
        """Remove an operator's cordon, and return the device. Raises NotFoundError."""
        return self._send(Device, "DELETE", f"/devices/{quoted(device_id)}/cordon")

    def events(
        self, after: int = 0, limit: int = 200, wanted: EventFilter = EVERY_EVENT
    ) -> Sequence[Event]:
        """Return events, oldest first."""
        query = {"after": after, "limit": limit, **filter_query(wanted)}
        return self._get(list[Event], "/events", query)

    def readiness(self) -> Mapping[str, str]:
        """Return why parts are not ready, by part, empty if ready; without token one "daemon"."""
        try:
            self._call("GET", "/readyz")
        except NotReadyError as error:
            why_not = {part: str(why) for part, why in error.facts.items()}
            return why_not or {"daemon": f"{error.message} {error.hint}".strip()}
        return {}

    def metrics(self) -> str:
        """Return metrics in Prometheus's text format."""
        return self._call("GET", "/metrics").decode()

    def drift(self) -> DriftReport:
        """Return replicas against their predictions, corrections, and profiles to measure again."""
        return self._get(DriftReport, "/drift")

    def lift_correction(self, profile_id: str) -> Correction:
        """Remove a correction. Raises NotFoundError."""
        return self._send(Correction, "DELETE", f"/drift/corrections/{quoted(profile_id)}")

    def usage(
        self, since: str | None = None, until: str | None = None, by: Sequence[str] = ()
    ) -> UsageReport:
        """Return the use of models by keys between two times (ISO 8601), by key and model."""
        query = given(to=until, by=list(by) or None) | ({"from": since} if since else {})
        return self._get(UsageReport, "/usage", query)

    def scaling_of(self, model: str) -> ScalingView:
        """Return one model with autoscaling. Raises NotFoundError, ConflictError."""
        return self._get(ScalingView, f"/scaling/{quoted(model)}")

    def convergence(self, plan_id: str | None = None) -> Convergence:
        """Return the progress of a plan, by default the applied one, and the daemon's next steps.

        Raises NotFoundError: no plan of that id was applied.
        """
        return self._get(Convergence, "/plan/convergence", given(plan_id=plan_id))

    def watch_convergence(self, plan_id: str | None = None) -> Iterator[Convergence]:
        """Yield the progress now and each time it changes.

        The iterator ends once the plan is no longer converging, or when the daemon ends: the last
        item tells which. Closing the iterator closes the stream.

        Raises:
            NotFoundError: no plan of that id was applied.
            DaemonUnreachableError: the stream broke.
            DaemonTimeoutError: the daemon did not answer in time.
        """
        return self._watch(Convergence, "/plan/convergence", given(plan_id=plan_id))
