"""Stale profiles are reported at the model, and measured again once, only if it matters."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.controller.profiles.staleness import Staleness, current_of
from partitiond.controller.service import Adapters
from partitiond.core.errors import ConflictError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import EngineOptions, ModelSource, ModelSpec, SourceKind, Variant
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import FIRST_LOOK_SECONDS, Job, JobCause, JobState, ProfileOptions
from partitiond.core.profile.record import Profile
from partitiond.core.profile.staleness import Current
from partitiond.store import open_store
from tests.controller.fakes import a_moment
from tests.controller.host import Host, serving
from tests.controller.samples import cpu, measured_profile, spec
from tests.machine import until
from tests.store.holder import locked


class AgedHost(Host):
    """A host whose engine can be replaced."""

    engine_version = ""

    def _adapters(self) -> Adapters:
        return dataclasses.replace(
            super()._adapters(), engine_version=lambda _: self.engine_version
        )


make_host = AgedHost


def stale_jobs(host: Host) -> list[Job]:
    return [job for job in host.jobs() if "stale" in job.reason]


async def test_another_engine_is_said_and_measured_again_once(host: AgedHost) -> None:
    await host.register("a")
    await host.serves("a")
    host.engine_version = "1.0"  # the fake engine says 0.0-fake: stale after each measurement
    await until(lambda: bool(stale_jobs(host)))
    stale = stale_jobs(host)
    assert all("the engine was 0.0-fake, now it is 1.0" in job.reason for job in stale)
    views = [v for v in host.service.profiles.views("a") if v.profile.kind.value == "measured"]
    assert all(view.stale for view in views)
    for _ in range(3):
        await host.restart()
        await a_moment(500)  # many times what beginning a job takes
    again = stale_jobs(host)
    assert len({job.params for job in again}) == len(again) <= 2


async def test_the_note_of_a_served_model_names_the_command(host: AgedHost) -> None:
    await host.register("a", auto=False)
    host.measured("a", cores=(1,))
    host.engine_version = "1.0"
    await host.service.plans.apply()
    await host.serves("a")
    note = host.service.models.model("a").note
    assert "stale" in note
    assert "partitiond profile a --cores 1" in note
    assert [job.state for job in host.service.jobs.jobs()] == []  # outside the chain: only said


async def test_a_queued_job_whose_reason_vanished_is_withdrawn_unless_somebody_asked_for_it(
    host: AgedHost,
) -> None:
    host.engine_version = "0.0.9"  # a patch release is no reason
    await host.register("a")
    await host.serves("a")
    assert not stale_jobs(host)
    for hour, asked in ((1, False), (3, True)):
        host.clock.wall = f"2026-01-01T0{hour}:00:00.000Z"
        await host.service.models.update(spec("a", workload=Workload(100, 50)), None)
        (one, *others) = [j for j in host.service.jobs.jobs() if j.state is JobState.QUEUED]
        assert {job.reason for job in (one, *others)} == {"not measured yet"}
        if asked:
            cores = int(dict(one.params)["cores"])
            asked_for = ProfileOptions(
                cores=cores, time_limit_seconds=FIRST_LOOK_SECONDS, confirm=False
            )
            again = await host.service.models.profile("a", asked_for)
            assert again.id == one.id
        host.clock.wall = f"2026-01-01T0{hour + 1}:00:00.000Z"
        await host.service.models.update(spec("a"), None)
        ended = host.service.jobs.job(one.id)
        assert (ended.state is JobState.CANCELLED) is not asked
        assert (ended.cause is JobCause.WITHDRAWN) is not asked


def current(profile: Profile, registered: ModelSpec | None, device: Device) -> Current:
    return current_of(
        profile, registered, fetched_revision="v1", engine_version=lambda _: "", devices=[device]
    )


def test_a_profile_is_compared_with_its_own_files_and_the_driver_of_its_hardware() -> None:
    own = ModelSource(SourceKind.HUB, "org/awq", "v2")
    fp8 = Variant("fp8", EngineOptions(quantization="fp8"))
    registered = spec(
        "a",
        source=ModelSource(SourceKind.HUB, "org/a"),
        variants=(Variant("awq", EngineOptions(), own), fp8),
    )
    for variant, revision in (("", "v1"), ("fp8", "v1"), ("awq", "v2")):
        profile = dataclasses.replace(measured_profile(), variant=variant)
        assert current(profile, registered, cpu()).model_revision == revision
    here = dataclasses.replace(cpu(), driver="6.1")
    assert current(measured_profile(hardware="a100"), None, here).driver == ""
    assert current(measured_profile(), None, here).driver == "6.1"


def test_a_profile_is_stale_once_it_speaks_for_no_host_that_has_its_hardware() -> None:
    profile = measured_profile("a")
    made = dataclasses.replace(profile.provenance, engine_version="0.9.0", driver="6.1")
    profile = dataclasses.replace(profile, provenance=made)
    devices = [
        dataclasses.replace(cpu(), id=f"cpu-{host}", host=host, driver=driver)
        for host, driver in (("new", "6.2"), ("old", "6.1"), ("older", "6.2"))
    ]
    versions = {"new": "0.10.0", "old": "0.9.1", "older": "0.8.0", "": "0.10.0"}
    here = Staleness(
        spec_of=spec,
        fetched_revision=lambda _: None,
        engine_version=versions.__getitem__,
        devices=lambda: devices,
    )
    assert here.reasons(profile) == ()
    now = here.current_of(profile)
    assert (now.engine_version, now.driver) == ("0.9.1", "6.1")
    versions["old"] = "0.10.0"
    assert "0.10.0" in " ".join(here.reasons(profile))
    # Another profile under the same id is another one: nothing is remembered of the first.
    newer = dataclasses.replace(profile.provenance, engine_version="0.10.0")
    assert here.reasons(dataclasses.replace(profile, provenance=newer)) == ()
    versions["older"] = "0.9.0"  # with another driver, which is no reason to measure again
    assert len(here.reasons(profile)) == 1
    assert here.to_measure_again([profile]) == ()


async def test_an_import_never_replaces_another_profile_unasked(host: AgedHost) -> None:
    one = measured_profile("a", profile_id="p")
    other = dataclasses.replace(one, kv_cache_tokens=1)
    old = dataclasses.replace(one, schema_version=1)
    assert host.service.profiles.keep(old).schema_version == 2
    assert host.service.profiles.keep(one) == one  # the same again
    with pytest.raises(ConflictError):
        host.service.profiles.keep(other)
    assert host.service.profiles.view("p").profile == one
    assert host.service.profiles.keep(other, replace=True) == other
    assert host.service.profiles.view("p").profile == other


async def test_what_became_stale_while_the_store_was_locked_is_measured_again(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "s.sqlite3", patience_seconds=0.01)
    async with serving(AgedHost(store)) as host:
        await host.register("a")
        await host.serves("a")
        with locked(store.path):
            host.engine_version = "1.0"
            await until(lambda: "locked" in host.service.readiness.problems().get("loop", ""))
        await until(lambda: bool(stale_jobs(host)))
