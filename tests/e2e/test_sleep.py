"""Sleep works for a user: a daemon process, simulated engines on a GPU, commands and clients.

Which models sleep and wake, and when, is decided in core and controller; what a client hears
meanwhile is the proxy's.
"""

from collections.abc import Iterator

import openai
import pytest

from partitiond.core.units import MIB
from partitiond.core.views.lists import ReplicaView
from partitiond.simulated.gpus import SimulatedHost
from tests.e2e.test_simulated_gpus import GpuFleet
from tests.machine import wait_for

pytestmark = pytest.mark.full

MODEL = "dozer"
ENGINE = {"sleep_mode": True, "extra_args": ["--token-seconds", "0.002"]}


class SleepFleet(GpuFleet):
    """A daemon with one model that can sleep."""

    def view(self) -> ReplicaView:
        (found,) = self.views()
        return found

    def comes_to(self, state: str) -> ReplicaView:
        def there() -> ReplicaView | None:
            view = self.view()
            return view if view.state == state else None

        return wait_for(f"it to be {state}", there)

    def is_routed(self) -> bool:
        """The endpoint hears of what serves in the loop's next pass, a moment later."""
        try:
            return self.complete(MODEL) == 8
        except openai.InternalServerError as error:
            if error.code != "model_starting":
                raise
            return False


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SleepFleet]:
    folder = tmp_path_factory.mktemp("sleep")
    host = SimulatedHost.create("a100-80gb-x8", folder / "host")
    with SleepFleet(folder / "fleet", host, **{"daemon.keep_engines_on_exit": True}) as found:
        found.start()
        found.register(MODEL, 1, engine=ENGINE)
        found.apply()
        found.comes_to("serving")
        wait_for("it to be routed", found.is_routed)
        yield found


def test_a_model_is_put_to_sleep_and_the_first_request_wakes_it(fleet: SleepFleet) -> None:
    """Asleep it gives its memory to others; also at level 2, and under another daemon."""
    awake = fleet.view()
    used = fleet.host.used_bytes(awake.device_id)
    assert "falls asleep" in fleet.cli("models", "sleep", MODEL).stderr
    asleep = fleet.comes_to("asleep")
    assert asleep.pid == awake.pid
    assert asleep.held_bytes < asleep.memory_bytes
    held = fleet.host.used_bytes(awake.device_id)
    assert 0 < held < used - 100 * MIB
    assert held <= asleep.held_bytes
    (shown,) = fleet.json("models")
    assert (shown["availability"], shown["asleep"]) == ("asleep", 1)

    assert fleet.complete(MODEL) == 8  # held, woken, answered
    assert (fleet.view().state, fleet.view().pid) == ("serving", awake.pid)
    assert fleet.host.used_bytes(awake.device_id) == used
    with fleet.client() as client:
        kinds = {event.kind for event in client.events(limit=200)}
    assert {"model-sleeps", "engine-asleep", "model-wakes"} <= kinds

    fleet.cli("models", "sleep", MODEL, "--level", "2")
    fleet.comes_to("asleep")
    fleet.kill_daemon()
    fleet.start()
    found = fleet.comes_to("asleep")
    assert (found.pid, found.adopted, found.sleep_level) == (awake.pid, True, 2)
    fleet.cli("models", "sleep", MODEL, "--wake")
    fleet.comes_to("serving")
    wait_for("it to be routed", fleet.is_routed)
