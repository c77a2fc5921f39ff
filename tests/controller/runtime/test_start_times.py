"""How long engines took to start is data of the store, on whichever host they started."""

import pytest

from partitiond.controller.runtime.start_times import KEPT_STARTS, MARK, StartTimes
from partitiond.core.errors import EngineUnavailableError, StoreError
from partitiond.core.replica.states import ReplicaState
from partitiond.store import Store
from tests.controller.fakes import FakeClock
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement


def test_the_median_of_a_models_last_starts_outlives_a_daemon(store: Store) -> None:
    for seconds in (1000.0, *[30.0] * (KEPT_STARTS - 1), 10.0):
        StartTimes(store).note("a", seconds, FakeClock())
    StartTimes(store).note("b", 2.0, FakeClock())
    store.set_mark(MARK, "c", "nothing of the kind")
    assert StartTimes(store).seconds() == {"a": 30.0, "b": 2.0}
    assert "1000" not in store.marks(MARK)["a"]


def test_a_store_that_refuses_costs_a_figure_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise StoreError("the disk is full.")

    monkeypatch.setattr(store, "set_mark", refuse)
    StartTimes(store).note("a", 1.0, FakeClock())
    assert StartTimes(store).seconds() == {}


async def test_a_start_is_measured_until_it_serves_and_what_fails_or_is_adopted_is_none(
    bench: Bench,
) -> None:
    bench.runner._ready_at_once = False
    await bench.run(placement("a-1", [0]), placement("b-1", [1]))
    bench.clock.now += 20.0
    bench.runner.engines["a-1"].ready.set()
    await bench.passes()
    bench.runner.die("b-1")
    bench.runner.refuse_start = EngineUnavailableError("there is no engine.")
    await bench.passes()
    bench.clock.now += 7.0
    bench.controller.engines = []
    await bench.controller.adopt()
    assert bench.states() == {"a-1": ReplicaState.SERVING}
    assert StartTimes(bench.store).seconds() == {"a": 20.0}
