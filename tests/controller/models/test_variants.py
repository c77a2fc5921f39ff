"""Variants go from registration to running replicas, with fakes at the ports."""

import dataclasses
from collections.abc import Callable

import pytest

from partitiond.api.routes.models import registered_so
from partitiond.controller.models.variants import form_estimates, other_form
from partitiond.controller.profiles.targets import best_profiles, profile_targets, source_of
from partitiond.controller.runtime.launches import form_of
from partitiond.core.errors import ConflictError, ModelSourceError, SpecError
from partitiond.core.model.engine_task import EngineTask
from partitiond.core.model.spec import (
    DEFAULT_WORKLOAD,
    EngineOptions,
    ModelSource,
    SourceKind,
    Variant,
)
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import JobState, ProfileOptions, Progress
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.replica.releases import ReleaseState
from partitiond.ports import ProfileRequest
from tests.controller.fakes import FakeProfiler
from tests.controller.host import Host
from tests.controller.samples import ARCHITECTURE, NOW, cpu, measured_profile, placement, spec
from tests.machine import until
from tests.planner.test_candidate_profiles import loaded, quicker

FP8 = Variant("fp8", EngineOptions(quantization="fp8", kv_cache_dtype="fp8"))
AWQ = Variant("awq", EngineOptions(), ModelSource(SourceKind.FOLDER, "/models/a-awq"))


class FormProfiler(FakeProfiler):
    """Measures each form as itself; a variant is twice as fast as its model."""

    async def run(self, request: ProfileRequest, progress: Callable[[Progress], None]) -> Profile:
        made = await super().run(request, progress)
        if request.variant:
            made = quicker(made, 2.0)
        engine = request.model.spec.engine
        if engine.quantization:
            made = loaded(made, engine.quantization)
        return dataclasses.replace(
            made,
            id=f"{made.id}-{request.variant}",
            variant=request.variant,
            kv_cache_dtype=engine.kv_cache_dtype,
        )


def make_host() -> Host:
    here = Host()
    here.profiler = FormProfiler()
    here.service = here._make()
    return here


async def test_a_variant_is_measured_beside_the_model_planned_and_started_as_itself(
    host: Host,
) -> None:
    await host.register("a", variants=(FP8,))
    assert {p.variant for p in host.service.parts.store.profiles("a")} >= {"", "fp8"}
    await host.serves("a")
    assert {r.variant for r in host.profiler.requests} == {"", "fp8"}
    measured = [r.model.spec.engine for r in host.profiler.requests if r.variant]
    assert set(measured) == {dataclasses.replace(FP8.engine, dtype="bfloat16")}
    assert {launch.quantization for launch in host.runner.launches} == {"fp8"}
    assert {launch.kv_cache_dtype for launch in host.runner.launches} == {"fp8"}
    assert {view.variant for view in host.service.overview.replicas()} == {"fp8"}
    plan = host.applied()
    assert any("variant fp8" in line for line in plan.explanation)


async def test_without_variants_nothing_but_the_model_is_ever_planned(host: Host) -> None:
    await host.register("a")
    fast = dataclasses.replace(measured_profile("a"), id="fast", variant="fp8")
    host.service.profiles.keep(fast)
    await host.serves("a")
    assert {launch.quantization for launch in host.runner.launches} == {""}


async def test_another_engine_of_a_running_variant_is_a_new_release(host: Host) -> None:
    missing = Variant("awq", EngineOptions(), ModelSource(SourceKind.FOLDER, "missing"))
    with pytest.raises(ModelSourceError):  # what cannot be had refuses the registration
        await host.register("a", variants=(missing,))
    await host.register("a", variants=(FP8,))
    await host.serves("a")
    other = Variant("fp8", EngineOptions(quantization="fp8"))
    await host.service.models.update(spec("a", variants=(other,)), None)
    newest, before = host.service.releases.history("a")
    assert (newest.spec.variants, newest.state) == ((other,), ReleaseState.COMING)
    assert (before.spec.variants, before.state) == ((FP8,), ReleaseState.SERVING)


def test_each_form_has_an_estimate_of_its_own() -> None:
    one = spec("a", variants=(FP8, AWQ))
    targets = profile_targets([cpu()], ())
    made = form_estimates(one, dict.fromkeys(("", "fp8", "awq"), ARCHITECTURE), targets, NOW)
    assert {p.variant for p in made} == {"", "fp8", "awq"}
    assert len({p.id for p in made}) == len(made) == 3 * len(targets)
    assert all(p.model == "a" and p.kind is ProfileKind.ESTIMATED for p in made)
    base, fp8 = (next(p for p in made if p.variant == v) for v in ("", "fp8"))
    assert fp8.footprint.kv_cache_bytes < base.footprint.kv_cache_bytes
    (awq,) = {p.provenance.source for p in made if p.variant == "awq"}
    assert awq == source_of(one.as_variant("awq"))
    assert set(best_profiles(one, made)) == set(made)


def test_only_a_changed_form_is_another_one() -> None:
    one, base = spec("a", variants=(FP8,)), placement("a-1")
    of_fp8 = dataclasses.replace(base, candidate=dataclasses.replace(base.candidate, variant="fp8"))
    assert form_of(one, of_fp8).engine == FP8.engine
    with pytest.raises(SpecError, match="lists no variant"):
        form_of(spec("a"), of_fp8)
    assert not other_form(one, spec("a", variants=(FP8, AWQ)), "fp8")
    assert not other_form(one, spec("a"), "fp8")
    assert other_form(one, spec("a", variants=(Variant("fp8", EngineOptions()),)), "fp8")
    assert not other_form(one, spec("a", variants=(Variant("fp8", EngineOptions()),)), "")


async def test_a_model_that_pools_is_started_to_pool_unless_its_user_says_otherwise(
    host: Host,
) -> None:
    host.resolver.pools = True
    await host.register("a")
    made = host.store.model("a").spec
    assert made.engine.extra_args == ("--runner=pooling",)
    assert made.workload == Workload(64, 32), "as its user said"
    await host.register("c", workload=DEFAULT_WORKLOAD)
    assert host.store.model("c").spec.workload == Workload(512, 1)
    same = await host.service.models.update(spec("c", workload=DEFAULT_WORKLOAD), None)
    assert same.version == 1, "as before `c` was recognised"
    for alias, found in ((), same), (("d",), None):
        again = spec("c", workload=DEFAULT_WORKLOAD, aliases=alias)
        assert await registered_so(host.service.models, again) == found
    earlier = dataclasses.replace(same, spec=dataclasses.replace(same.spec, built_for=0))
    host.store.update_model(earlier, expected_version=1)
    noted = await host.service.models.update(spec("c", workload=DEFAULT_WORKLOAD), None)
    assert noted.spec.built_for == 4096, "an earlier release did not note it"
    for name, runner, workload in (
        ("embeds", "--convert=embed", Workload(512, 1)),
        ("asks", "--runner=auto", Workload(512, 1)),
        ("told", "--runner=generate", DEFAULT_WORKLOAD),
    ):
        engine = EngineOptions(extra_args=(runner,))
        await host.register(name, engine=engine, workload=DEFAULT_WORKLOAD)
        made = host.store.model(name).spec
        assert (made.engine == engine) == (made.engine.task is EngineTask.GENERATE)
        assert made.workload == workload, name


async def test_a_dry_run_answers_what_would_be_stored_and_stores_nothing(host: Host) -> None:
    models, pooling = host.service.models, EngineOptions(extra_args=("--runner=pooling",))
    new = await models.register(spec("a", engine=pooling), dry_run=True)
    assert (new.version, host.store.models()) == (1, ())
    await host.register("a", engine=pooling)
    with pytest.raises(ConflictError, match="registered already"):
        await models.register(spec("a"), dry_run=True)
    as_was = host.store.model("a")
    offered = dataclasses.replace(as_was.spec, aliases=("b",))
    for changed in (spec("a"), offered):  # a model that generates loses its flag, too
        would_be = await models.update(changed, None, dry_run=True)
        assert (would_be.version, would_be.spec) == (2, changed)
        assert host.store.model("a") == as_was
    with pytest.raises(SpecError, match="context of 4097 tokens, but was built for"):
        await models.update(spec("a", engine=EngineOptions(max_model_len=4097)), None, dry_run=True)


async def test_a_form_has_no_longer_context_than_it_was_built_for(host: Host) -> None:
    with pytest.raises(SpecError, match="context of 4097 tokens, but was built for"):
        await host.register("a", engine=EngineOptions(max_model_len=4097))
    short = Variant("short", EngineOptions(max_model_len=90))
    with pytest.raises(SpecError, match="which the variant short has"):
        await host.register("b", variants=(short,))
    made = Workload(3500, 500)
    await host.register("b", workload=made, auto=False)
    stored = host.store.model("b").spec
    assert stored.engine == spec("b").engine, "nobody named a context"
    assert stored.max_model_len == 4096, "a quarter more would be too long"
    await host.passes(lambda: bool(host.proxy.table.models))
    (route,) = host.proxy.table.models
    assert route.max_model_len == 4096, "clients are told so before an engine runs"
    shorter = dataclasses.replace(stored, workload=Workload(100, 50))
    changed = (await host.service.models.update(shorter, None)).spec
    assert changed == spec("b", workload=Workload(100, 50), auto=False), "as registered anew"
    assert changed.max_model_len == 256
    for asked in (changed, dataclasses.replace(changed, aliases=("c",))):
        unread = dataclasses.replace(asked, built_for=0)
        assert (await host.service.models.update(unread, None)).spec.built_for == 4096
    await host.register("a", auto=False)
    job = await host.service.models.profile("a", ProfileOptions(workload=Workload(4000, 100)))
    await until(lambda: host.service.jobs.job(job.id).state is JobState.FAILED)
    assert "was built for 4096" in host.service.jobs.job(job.id).error
