"""Fakes the hosts of a fleet: what is known of each is what a test says."""

import dataclasses
from collections.abc import Sequence

from partitiond.core.hardware.host_state import HostState, HostView, host_to_forget

HEAD = HostView(
    "head",
    is_head=True,
    address="10.0.0.1",
    host_id="id-head",
    partitiond_version="1.2.0",
    engine_version="0.24.0",
    ray_version="2.60.0",
    last_word="2030-01-31T17:00:00.000Z",
    clock_offset_seconds=0.0,
    gpus=0,
    devices=1,
    peers_address="10.0.0.1:6387",
)
FINE = dataclasses.replace(
    HEAD,
    name="gpu-1",
    is_head=False,
    address="10.0.0.2",
    host_id="id-1",
    clock_offset_seconds=-0.0123,
    gpus=8,
    devices=8,
    peers_address="10.0.0.2:6387",
)
LOST = dataclasses.replace(
    FINE,
    name="gpu-2",
    state=HostState.LOST,
    reason="it has not answered for 10 min: plans are made without it.",
    address="10.0.0.3",
    peers_address="10.0.0.3:6387",
    host_id="id-2",
    silent_seconds=600.0,
    last_word="2030-01-31T16:50:00.000Z",
)
NEVER = HostView(
    "gpu-3",
    HostState.REFUSED,
    "another host has this name: give one of them another, [host] name.",
    address="10.0.0.4",
)


class FakeHosts:
    """Implements `ports.cluster.FleetHosts`. Attributes are for tests to set and look at."""

    def __init__(self, *hosts: HostView) -> None:
        self.hosts = hosts or (HEAD,)

    def views(self) -> Sequence[HostView]:
        return self.hosts

    def forget(self, name: str) -> None:
        gone = host_to_forget(self.hosts, name)
        self.hosts = tuple(host for host in self.hosts if host is not gone)
