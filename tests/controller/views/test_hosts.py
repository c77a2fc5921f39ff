"""One host is shown from what the daemon knows; a host that is forgotten is noted and planned."""

import dataclasses

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.views.hosts import HostUseCases, OneHost
from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.hardware.kinds import Device
from partitiond.store import Store
from tests.controller.fakes import FakeClock
from tests.controller.samples import cpu
from tests.hosts.fleet import FINE, HEAD, LOST, FakeHosts
from tests.planner.build import gpu


def one_host(*devices: Device) -> OneHost:
    return OneHost(lambda: devices, lambda name: f"engine of {name}", FakeClock())


def test_one_host_is_the_heads_and_counts_its_devices() -> None:
    own = dataclasses.replace(cpu(), host="here")
    (host,) = one_host(own, dataclasses.replace(gpu("gpu-1"), host="here")).views()
    assert (host.name, host.is_head, host.gpus, host.devices) == ("here", True, 1, 2)
    assert host.engine_version == "engine of here"
    assert host.partitiond_version
    assert host.clock_offset_seconds == 0.0
    (bare,) = one_host().views()
    assert bare.name
    assert bare.devices == 0
    with pytest.raises(ConflictError):
        one_host(own).forget("here")
    with pytest.raises(NotFoundError):
        one_host(own).forget("another")


def test_a_forgotten_host_is_noted_and_plans_are_made_again(store: Store) -> None:
    planned: list[str] = []
    hosts = FakeHosts(HEAD, FINE, LOST)
    use = HostUseCases(
        hosts, journal=Journal(store, FakeClock()), changed=lambda: planned.append("again")
    )
    with pytest.raises(ConflictError):
        use.forget("gpu-1")
    assert (list(store.events()), planned) == ([], [])
    use.forget("gpu-2")
    (event,) = store.events()
    assert (event.kind, event.subject) == ("host-forgotten", "gpu-2")
    assert LOST.last_word in event.message
    assert planned == ["again"]
    assert [host.name for host in use.views()] == ["head", "gpu-1"]


def test_an_event_names_the_host_of_what_it_is_about(store: Store) -> None:
    hosts = {"m-1": "gpu-1"}
    journal = Journal(store, FakeClock(), host_of=lambda subject: hosts.get(subject, ""))
    journal.note("engine-ready", "m-1", "serves m.")
    journal.note("plan-applied", "plan-1", "applied.")
    assert [event.message for event in store.events()] == ["serves m. (on gpu-1)", "applied."]
