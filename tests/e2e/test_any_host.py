"""The endpoint of each of three hosts serves a model that runs on two of them, under load, while a
host is upgraded, drained and killed: nothing is lost but what ran on the dead one.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.e2e.harness import Load, Outcome, stream_once
from tests.e2e.test_several_hosts import AGENTS, ManyHosts, all_fine, hosts
from tests.machine import signal_all, wait_for

__all__ = ["hosts"]

TOKENS = 24
SLOTS = 3
"""Streams at once at each endpoint."""

pytestmark = pytest.mark.full


@contextlib.contextmanager
def loads(at: tuple[ManyHosts, ...]) -> Iterator[dict[str, Load]]:
    """Closed-loop streams at the endpoint of each host."""
    made = {host.name: Load(host.base_url, {"a": SLOTS}, TOKENS) for host in at}
    with contextlib.ExitStack() as stack:
        for load in made.values():
            stack.enter_context(load.running())
        yield made


def all_go_on(at: dict[str, Load], served: Callable[[Outcome], bool] = bool) -> None:
    """Wait until each endpoint has answered more requests, served as asked for."""
    before = {name: len(load.outcomes) for name, load in at.items()}

    def more() -> bool:
        return all(
            sum(map(served, load.outcomes[before[name] :])) >= 2 * SLOTS
            for name, load in at.items()
        )

    wait_for("more answers at each endpoint", more)


def lost(load: Load) -> list[Outcome]:
    return [one for one in load.outcomes if one.ended != "done" or one.tokens < TOKENS]


def served_by(host: ManyHosts) -> str:
    """The name at the endpoints of the replica that a host without load has itself."""
    asked = Outcome("a", 0.0)
    asyncio.run(stream_once(host.base_url, asked, 1))
    return asked.replica


def answers(host: ManyHosts) -> bool:
    """Whether a host's endpoint takes requests."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{host.base_url.removesuffix('/v1')}/healthz").status_code == 200
    return False


def test_nothing_is_lost_but_what_ran_on_the_host_that_died(
    hosts: Callable[[str], ManyHosts],
) -> None:
    fleet = {name: hosts(name) for name in ("head", *AGENTS)}
    head = fleet["head"]
    for host in fleet.values():
        host.start()
    all_fine(head)
    head.register("a", 2, isolation="device")
    head.apply()
    owners = {view.host for view in head.serving(2)}
    assert len(owners) == 2
    for host in fleet.values():
        assert host.complete("a") == 8
    victim = fleet[min(owners - {"head"})]

    drained = served_by(victim)
    with loads(tuple(fleet.values())) as at:
        all_go_on(at)

        # An upgrade restarts the agent; endpoint and engines are adopted.
        assert victim.terminate() == 0
        all_go_on(at)
        victim.start()
        all_fine(head)
        all_go_on(at)

        # Drained: its replica moves to the host that had none.
        with head.client() as client:
            device = next(d.id for d in client.devices() if d.host == victim.name)
            client.cordon(device, "its fan is replaced")
        head.apply()

        def moved() -> bool:
            now = {view.host for view in head.views()}
            return victim.name not in now and len(head.serving_pids()) == 2

        wait_for("the replica to move", moved)
        all_go_on(at, lambda one: one.replica != drained)
        with head.client() as client:
            client.uncordon(device)

        # The head's control plane is gone, and each endpoint goes on with the table it has.
        head.kill_daemon()
        all_go_on(at)
        head.start()
        all_fine(head)
    assert {name: lost(load) for name, load in at.items()} == {name: [] for name in at}

    dead = fleet[next(view.host for view in head.views() if view.host in AGENTS)]
    gone = served_by(dead)
    living = tuple(host for host in fleet.values() if host is not dead)
    with loads(living) as at:
        all_go_on(at)
        wait_for(
            "streams on each replica",
            lambda: all(load.streaming("a") for load in at.values()),
        )
        dead.kill_daemon()
        signal_all(dead.processes(), signal.SIGKILL)
        all_go_on(at, lambda one: one.ended == "done" and one.replica != gone)
        dead.start()
        wait_for("the host's endpoint", lambda: answers(dead))
        assert dead.complete("a") == 8
        all_fine(head)
        head.serving(2)
        all_go_on(at)
    for load in at.values():
        for one in lost(load):
            assert one.replica == gone, one
            assert one.ended == "error-event", one
