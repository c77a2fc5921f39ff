"""Work that a killed daemon left unfinished is found by the next daemon, and finished."""

from collections.abc import Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.core.errors import StoreError
from partitiond.core.events import Event
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.core.profile.record import ProfileKind
from partitiond.store import open_store
from tests.controller.fakes import FakeClock, until
from tests.controller.samples import NOW, measured_profile, spec
from tests.controller.test_service import Host


async def test_a_model_that_was_removed_from_the_store_alone_is_ended() -> None:
    store = open_store(":memory:")
    here = Host(store)
    store.add_profile(measured_profile("a", cores=1))
    store.add_profile(measured_profile("a", cores=2))
    await here.service.daemon.start()
    await here.service.models.register(spec("a"))
    await here.serves("a")
    store.remove_model("a")  # and no more of what removing it means
    await here.restart()
    await until(lambda: not here.service.overview.replicas())
    assert here.runner.running() == []
    plan = here.service.plans.applied()
    assert plan is not None
    assert plan.placements == ()
    await here.service.daemon.shutdown(stop_engines=True)
    store.close()


@pytest.mark.parametrize("auto", [True, False])
async def test_a_model_that_was_only_stored_is_taken_up(auto: bool) -> None:
    store = open_store(":memory:")
    here = Host(store)
    store.add_model(ModelRecord(spec("a", auto=auto), 1, NOW, NOW))
    await here.service.daemon.start()
    if auto:
        await here.serves("a")
    else:
        await until(lambda: bool(here.service.parts.store.profiles("a")))
        assert {p.kind for p in here.service.parts.store.profiles("a")} == {ProfileKind.ESTIMATED}
        assert here.service.jobs.jobs() == ()
    await here.service.daemon.shutdown(stop_engines=True)
    store.close()


async def test_a_model_that_nothing_can_be_said_of_keeps_no_daemon_from_starting() -> None:
    store = open_store(":memory:")
    here = Host(store)
    missing = ModelSource(SourceKind.FOLDER, "missing")
    store.add_model(ModelRecord(spec("a", auto=False, source=missing), 1, NOW, NOW))
    await here.service.daemon.start()
    await until(lambda: "model-not-begun" in here.kinds())
    assert here.service.readiness.problems() == {}
    await here.service.daemon.shutdown(stop_engines=True)
    store.close()


class MovingStore:
    """A store on a disk that is full at times; only events are asked of it."""

    def __init__(self) -> None:
        self.full = False
        self.said: list[str] = []

    def add_events(self, events: Sequence[Event]) -> Sequence[Event]:
        if self.full:
            raise StoreError("the disk is full.", hint="Free some space.")
        self.said += [event.kind for event in events]
        return events


def test_events_of_a_full_disk_are_kept_and_stored_in_their_order() -> None:
    store = MovingStore()
    journal = Journal(store, FakeClock())  # type: ignore[arg-type]
    journal.note("one", "s", "m")
    store.full = True
    journal.note("two", "s", "m")
    journal.note("three", "s", "m")
    assert "full" in journal.problem
    store.full = False
    journal.save()
    assert store.said == ["one", "two", "three"]
    assert journal.problem == ""
    journal.save()
    assert store.said == ["one", "two", "three"]


def test_an_event_whose_text_is_no_unicode_is_stored_and_holds_up_no_other() -> None:
    store = open_store(":memory:")
    journal = Journal(store, FakeClock())
    journal.note("engine-unreadable", "sim-\ud800", "a field has \udcff in it.")
    journal.note("next", "s", "m")
    assert journal.problem == ""
    told = [(event.kind, event.subject, event.message) for event in store.events()]
    assert told == [
        ("engine-unreadable", "sim-\\ud800", "a field has \\udcff in it."),
        ("next", "s", "m"),
    ]
    store.close()
