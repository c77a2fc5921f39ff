"""Files of models are fetched once, and brought to each host that needs them."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from partitiond.controller.runtime.watching import ModelFiles
from partitiond.core.errors import ModelSourceError
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.replica.states import ReplicaState
from partitiond.store import Store
from tests.controller.fakes import FakeClock, FakeResolver, a_moment
from tests.controller.runtime.bench import Bench
from tests.controller.samples import placement, record, spec
from tests.machine import until

RETRY_SECONDS = 30.0
A, B = spec("a"), spec("b")


class FakeFleet(FakeResolver):
    """Brings files to hosts when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        self.full: set[str] = set()
        self.brought: list[tuple[str, str]] = []

    async def bring(
        self,
        model: ResolvedModel,
        host: str,
        progress: Callable[[str, float | None], None] | None = None,
    ) -> ResolvedModel:
        self.brought.append((model.spec.name, host))
        if progress is not None:
            progress(f"copying files to {host}", 0.4)
        if host in self.gates:
            await self.gates[host].wait()
        if host in self.full:
            raise ModelSourceError(f"on {host}: no space left.", hint="Free disk space.")
        return dataclasses.replace(model, folder=Path("/on") / host / model.spec.name)


class Given:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.fleet = FakeFleet()
        self.files = ModelFiles(self.fleet, self.clock, lambda: None, RETRY_SECONDS)

    async def has(self, name: str, host: str) -> ResolvedModel:
        found: list[ResolvedModel] = []

        def there() -> bool:
            got = self.files.get(spec(name), name, host)
            found.extend([got] if got is not None else [])
            return bool(found)

        await until(there)
        return found[0]


@pytest.fixture
async def given() -> Given:
    return Given()


async def test_each_host_has_the_files_in_its_own_folder(given: Given) -> None:
    assert given.files.brings
    alone = ModelFiles(FakeResolver(), FakeClock(), lambda: None, RETRY_SECONDS)
    await until(lambda: alone.get(A, "a", "here") is not None)  # where nothing is brought
    assert (alone.brings, alone.missing({"a": A})) == (False, ())
    assert (await given.has("a", "gpu-1")).folder == Path("/on/gpu-1/a")
    assert (await given.has("a", "gpu-2")).folder == Path("/on/gpu-2/a")
    assert (await given.has("a", "gpu-1")).spec == A
    assert given.fleet.count_resolves("a") == 1
    assert given.fleet.brought == [("a", "gpu-1"), ("a", "gpu-2")]


async def test_a_host_waits_for_its_own_files_alone(given: Given) -> None:
    given.fleet.gates["gpu-2"] = asyncio.Event()
    assert given.files.get(A, "a", "gpu-2") is None
    await given.has("a", "gpu-1")
    assert given.files.get(A, "a", "gpu-2") is None
    assert given.files.missing({"a": A}) == ()
    await until(lambda: given.files.progress("a", "gpu-2") != "")
    assert given.files.progress("a", "gpu-2") == "copying files to gpu-2 (40%)"
    assert given.files.progress("a", "gpu-1") == ""
    assert given.files.progress("a") == "copying files to gpu-2 (40%)"
    given.fleet.gates["gpu-2"].set()
    await given.has("a", "gpu-2")
    assert given.files.progress("a") == ""


async def test_a_copy_that_fails_is_tried_again_later_and_is_one_hosts_problem(
    given: Given,
) -> None:
    given.fleet.full.add("gpu-2")
    await given.has("a", "gpu-1")
    await until(
        lambda: (
            given.files.get(A, "a", "gpu-2") is None and given.files.copy_failures("a", "gpu-2") > 0
        )
    )
    assert given.files.progress("a", "gpu-2").startswith("on gpu-2: no space left.")
    assert given.files.progress("a", "gpu-1") == ""
    assert given.files.failures == {}, "the model itself has no problem"
    assert given.files.problem("a") == ""
    assert given.fleet.brought.count(("a", "gpu-2")) == 1
    given.fleet.full.clear()
    given.clock.now += RETRY_SECONDS
    assert (await given.has("a", "gpu-2")).folder == Path("/on/gpu-2/a")
    assert given.files.copy_failures("a", "gpu-2") == 0
    assert given.files.progress("a", "gpu-2") == ""


async def test_a_host_whose_engine_failed_is_asked_for_its_files_again(given: Given) -> None:
    await given.has("a", "gpu-1")
    given.files.look_again("a", "gpu-1")
    assert given.files.get(A, "a", "gpu-1") is None
    await given.has("a", "gpu-1")
    assert given.fleet.brought == [("a", "gpu-1")] * 2
    given.fleet.gates["gpu-1"] = asyncio.Event()
    given.files.look_again("a", "gpu-1")
    assert given.files.get(A, "a", "gpu-1") is None
    given.files.look_again("a", "gpu-1")  # under way
    assert given.files.get(A, "a", "gpu-1") is None
    given.fleet.gates["gpu-1"].set()
    await given.has("a", "gpu-1")
    assert given.fleet.brought == [("a", "gpu-1")] * 3
    other = dataclasses.replace(A, engine=dataclasses.replace(A.engine, dtype="float32"))
    await until(lambda: given.files.get(other, "a", "gpu-1") is not None)
    assert given.fleet.brought == [("a", "gpu-1")] * 4, "another source is brought anew"
    await given.has("b", "gpu-1")
    given.files.forget("a")  # the model is gone
    assert given.files.get(A, "a", "gpu-1") is None
    await given.has("b", "gpu-1")
    assert given.fleet.brought.count(("b", "gpu-1")) == 1
    await given.files.close()


async def test_each_failure_of_an_engine_lets_its_host_be_asked_once(store: Store) -> None:
    store.add_model(record("a"))
    fleet = FakeFleet()
    bench = Bench(store, resolver=fleet)
    await bench.run(placement("a-1"))
    for failures in range(2):
        assert fleet.brought == [("a", "test")] * (failures + 1)
        assert bench.states() == {"a-1": ReplicaState.SERVING}
        bench.runner.die("a-1")
        await a_moment()
        await bench.passes(2)
        bench.clock.now += 60.0
        await bench.passes(8)
    await bench.close()
