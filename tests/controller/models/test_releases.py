"""A new release starts beside the old one, and is rolled back if it does not come up."""

import dataclasses

import pytest

from partitiond.controller.models.releases import _has_room
from partitiond.controller.service import Service
from partitiond.core.dispatch.routing import RoutingTable
from partitiond.core.errors import (
    ConflictError,
    ModelSourceError,
    StartFailedError,
)
from partitiond.core.model.spec import Demand, ModelSource, ModelSpec
from partitiond.core.plan.record import Placement
from partitiond.core.replica.releases import ROLL_BACK_AFTER, ReleaseState
from tests.controller.host import Host
from tests.controller.samples import placement, plan, spec
from tests.machine import until


def version(revision: str, **changes: object) -> ModelSpec:
    plain = spec("a", demand=Demand(req_per_s=0.5), **changes)
    source = ModelSource(plain.source.kind, plain.source.ref, revision)
    return dataclasses.replace(plain, source=source)


@pytest.fixture
async def host(host: Host) -> Host:
    """Version r1 serves on one of two cores."""
    host.measured("a")
    await host.service.models.register(version("r1"))
    await host.serves("a")
    return host


def states(service: Service) -> dict[str | None, ReleaseState]:
    return {r.spec.source.revision: r.state for r in service.releases.history("a")}


def revisions(host: Host) -> list[str | None]:
    """Of the engines that run, as they were started."""
    return [
        host.runner.engines[name].handle.launch.placement.candidate.release  # type: ignore[union-attr]
        for name in host.runner.running()
    ]


async def arrived(host: Host, revision: str) -> None:
    await until(lambda: states(host.service).get(revision) is ReleaseState.SERVING)


async def test_a_new_version_serves_before_it_takes_the_old_one_s_place_by_itself(
    host: Host,
) -> None:
    before, served = revisions(host), []
    publish = host.proxy.publish

    async def watched(table: RoutingTable) -> None:
        await publish(table)
        served.append(any(not r.draining for r in host.proxy.table.replicas_of("a")))

    host.proxy.publish = watched  # type: ignore[method-assign]
    await host.service.models.update(version("r2"), None)
    assert states(host.service)["r2"] is ReleaseState.COMING
    await arrived(host, "r2")
    assert states(host.service) == {"r2": ReleaseState.SERVING, "r1": ReleaseState.REPLACED}
    await until(lambda: len(host.runner.running()) == 1)
    assert revisions(host) != before
    assert all(served)
    assert "model-released" in host.kinds()
    now = host.service.models.model("a").record
    with pytest.raises(ConflictError, match="already"):
        await host.service.releases.roll_back("a", now.version)
    # What is asked of the model meanwhile stays when it goes back.
    await host.service.models.update(dataclasses.replace(now.spec, aliases=("other",)), None)
    await host.service.releases.roll_back("a")
    await arrived(host, "r1")
    spec_now = host.service.models.model("a").record.spec
    assert (spec_now.source.revision, spec_now.aliases) == ("r1", ("other",))
    await host.service.models.remove("a")
    assert host.store.releases() == []


@pytest.mark.parametrize("lacks", ["start", "files"])
async def test_a_version_that_does_not_start_or_lacks_its_files_goes_back_by_itself(
    host: Host, lacks: str
) -> None:
    before, name = revisions(host), host.runner.running()
    fetches = host.resolver.count_resolves("a")
    if lacks == "start":
        host.runner.refuse_start = StartFailedError("it is none.")
    else:
        host.resolver.breaks["a"] = ModelSourceError("it is none.", hint="Upload them.")
    await host.service.models.update(version("r2"), None)
    await host.passes(lambda: "model-rolled-back" in host.kinds(), 2.0)
    if lacks == "start":
        assert host.kinds().count("engine-failed") >= ROLL_BACK_AFTER
    else:
        assert host.resolver.count_resolves("a") >= fetches + ROLL_BACK_AFTER
    event = next(e for e in host.store.events(limit=1000) if e.kind == "model-rolled-back")
    assert "it is none" in event.message
    host.runner.refuse_start = None
    host.resolver.breaks.clear()
    await arrived(host, "r1")
    assert states(host.service) == {"r2": ReleaseState.FAILED, "r1": ReleaseState.SERVING}
    assert host.service.models.model("a").record.spec.source.revision == "r1"
    assert (revisions(host), host.runner.running()) == (before, name), "the old one never stopped"


async def test_a_way_back_that_was_cut_short_is_finished_by_the_next_daemon(host: Host) -> None:
    await host.service.models.update(version("r2"), None)
    await arrived(host, "r2")
    second = next(r for r in host.store.releases("a") if r.spec.source.revision == "r2")
    first = next(r for r in host.store.releases("a") if r.spec.source.revision == "r1")
    # As it is on disk when the daemon is killed right after either line of going back.
    host.store.put_release(dataclasses.replace(second, state=ReleaseState.FAILED))
    await host.restart()
    await arrived(host, "r1")
    assert host.service.models.model("a").record.spec.source.revision == "r1"
    host.store.put_release(dataclasses.replace(second, state=ReleaseState.COMING))
    host.store.put_release(dataclasses.replace(first, state=ReleaseState.REPLACED))
    await host.restart()
    await arrived(host, "r2")
    assert host.service.models.model("a").record.spec.source.revision == "r2"


async def test_a_replacement_that_was_cut_short_is_watched_over_by_the_next_daemon(
    host: Host,
) -> None:
    await host.service.models.update(version("r2"), None)
    await arrived(host, "r2")
    await host.service.daemon.shutdown(stop_engines=False)
    now = host.store.model("a")
    newer = dataclasses.replace(now, spec=version("r3"), version=now.version + 1)
    host.store.update_model(newer, expected_version=now.version)
    await host.restart()
    await arrived(host, "r3")


ONE, TWO = placement("a-1", [0]), placement("a-2", [1])


@pytest.mark.parametrize(
    ("now", "before", "room"),
    [
        ([ONE], [ONE], True),  # its own places are free: the new version leaves them
        ([ONE, placement("b-1", [1])], [ONE], True),
        ([placement("b-1", [0])], [ONE], False),
        ([placement("b-1", [0])], [TWO], True),
        ([ONE], [placement("b-1", [0]), TWO], True),  # of other models nothing is asked
        ([], [ONE, dataclasses.replace(ONE, replica_id="a-2")], False),
        ([], [dataclasses.replace(ONE, device_id="gone")], False),
    ],
)
def test_a_version_goes_back_to_its_places_where_no_other_model_holds_them(
    now: list[Placement], before: list[Placement], room: bool
) -> None:
    assert _has_room(plan(*now), plan(*before), "a") is room
