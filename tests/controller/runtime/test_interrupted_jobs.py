"""Work that a killed daemon left unfinished is found by the next daemon, and finished."""

from collections.abc import Sequence

import pytest

from partitiond.controller.journal import Journal
from partitiond.controller.models.registry import BEGIN_AGAIN_SECONDS
from partitiond.controller.profiles.targets import ProfileTarget
from partitiond.core.errors import StoreError
from partitiond.core.events import Event
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.record import ModelRecord
from partitiond.core.model.spec import ModelSource, SourceKind
from partitiond.core.profile.jobs import JobState
from partitiond.core.profile.record import ProfileKind
from partitiond.store import Store
from tests.controller.fakes import FakeClock
from tests.controller.host import Host, serving
from tests.controller.samples import NOW, spec
from tests.devices.fake import FakeDevices, fake_gpus
from tests.machine import until


async def test_a_model_that_was_removed_from_the_store_alone_is_ended(host: Host) -> None:
    await host.serve("a")
    host.store.remove_model("a")  # and no more of what removing it means
    await host.restart()
    await until(lambda: not host.service.overview.replicas())
    assert host.runner.running() == []
    assert host.applied().placements == ()


async def test_models_that_were_only_stored_are_taken_up_as_far_as_they_can(store: Store) -> None:
    missing = ModelSource(SourceKind.FOLDER, "missing")
    for one in (spec("a"), spec("b", auto=False), spec("c", auto=False, source=missing)):
        store.add_model(ModelRecord(one, 1, NOW, NOW))
    async with serving(Host(store)) as host:
        await host.serves("a")
        await until(lambda: bool(store.profiles("b")) and "model-not-begun" in host.kinds())
        assert {p.kind for p in store.profiles("b")} == {ProfileKind.ESTIMATED}
        assert {job.subject for job in host.jobs()} == {"a"}
        assert host.service.readiness.problems() == {}


A100, H100 = (
    ProfileTarget(gpu, PartitionSize(SharingMode.WHOLE, 1, 100))
    for gpu in fake_gpus("a100-80gb", 1) + fake_gpus("h100-80gb", 1)
)


async def test_on_a_kind_of_device_that_comes_while_no_daemon_runs_models_are_measured(
    store: Store,
) -> None:
    """And not again on the kind that was there, where an operator cancelled the job."""
    async with serving(Host(store, devices=FakeDevices([A100.device]))) as host:
        host.profiler.gate.clear()
        await host.register("a")
        await until(lambda: bool(host.jobs(JobState.RUNNING)))
        await host.service.jobs.cancel(host.jobs()[0].id)
        await host.service.daemon.shutdown(stop_engines=False)
        host.devices.become([A100.device, H100.device])
        host.service = host._make()
        await host.service.daemon.start()
        await until(lambda: len(host.jobs()) == 2)
        await host.lives(5.0)
        assert [job.hardware for job in host.jobs()] == ["h100-80gb", "a100-80gb"]


async def test_a_chain_that_the_store_refuses_is_begun_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> None:
        raise StoreError("the disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(host.store, "add_profile", full)
        await host.register("a")
        assert host.store.model("a").version == 1
        await host.lives(2 * BEGIN_AGAIN_SECONDS)
        assert host.kinds().count("model-not-begun") == 1
    await host.passes(lambda: bool(host.profiler.requests))


def test_events_of_a_full_disk_are_kept_and_stored_in_their_order(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Sequence[Event]) -> Sequence[Event]:
        raise StoreError("the disk is full.", hint="Free some space.")

    journal = Journal(store, FakeClock())
    journal.note("one", "s", "m")
    with monkeypatch.context() as patch:
        patch.setattr(store, "add_events", full)
        journal.note("two", "s", "m")
        journal.note("three", "s", "m")
        assert "full" in journal.problem
    for _ in range(2):
        journal.save()
        assert [event.kind for event in store.events()] == ["one", "two", "three"]
        assert journal.problem == ""


def test_an_event_whose_text_is_no_unicode_is_stored_and_holds_up_no_other(store: Store) -> None:
    journal = Journal(store, FakeClock())
    journal.note("engine-unreadable", "sim-\ud800", "a field has \udcff in it.")
    journal.note("next", "s", "m")
    assert journal.problem == ""
    told = [(event.kind, event.subject, event.message) for event in store.events()]
    assert told == [
        ("engine-unreadable", "sim-\\ud800", "a field has \\udcff in it."),
        ("next", "s", "m"),
    ]
