"""The right profiles are measured on each device, and the best profile of a model counts."""

import dataclasses
from typing import Any

import pytest

from partitiond import __version__
from partitiond.controller.profiles.profiling import with_source
from partitiond.controller.profiles.targets import (
    best_kind,
    best_profiles,
    first_looks,
    in_a_hurry,
    profile_targets,
    speaks_for,
    unmeasured,
    without_estimate,
)
from partitiond.core.model.spec import EngineOptions, ModelSource, SourceKind, Variant, Weights
from partitiond.core.model.workload import Workload
from partitiond.core.profile.confirmed import CapacityTrial
from partitiond.core.profile.record import Profile, ProfileKind
from tests.controller.samples import cpu, measured_profile, spec
from tests.devices.fake import fake_gpus


def test_the_cpu_is_measured_with_one_core_and_with_all() -> None:
    assert [t.size.cores for t in profile_targets([cpu(8)], ())] == [1, 8]
    assert [t.size.cores for t in profile_targets([cpu(1)], ())] == [1]
    assert [t.size.cores for t in profile_targets([cpu(4)], (2, 16))] == [2, 4]


def test_with_gpus_each_kind_is_measured_once_and_the_cpu_is_not() -> None:
    devices = [*fake_gpus("a100-80gb", 3), *fake_gpus("l4-24gb", 2), cpu()]
    targets = profile_targets(devices, ())
    assert [t.device.id for t in targets] == ["a100-80gb-0", "l4-24gb-0"]


def test_a_profile_speaks_only_for_the_model_as_it_is_registered() -> None:
    model = spec("a")
    profile = with_source(measured_profile("a"), model)
    assert speaks_for(profile, model)
    others = [
        spec("b"),
        dataclasses.replace(model, workload=Workload(128, 32)),
        dataclasses.replace(model, engine=EngineOptions(dtype="float32")),
        dataclasses.replace(model, engine=EngineOptions(quantization="fp8")),
        dataclasses.replace(model, weights=Weights.DUMMY),
        dataclasses.replace(model, engine_kind="simulated"),
        dataclasses.replace(model, source=ModelSource(SourceKind.FOLDER, "/models/other")),
    ]
    assert not any(speaks_for(profile, other) for other in others)
    elsewhere = measured_profile("a")  # says nothing of its source
    assert speaks_for(elsewhere, model)


def test_what_was_measured_beats_any_estimate_on_that_hardware() -> None:
    measured = measured_profile("a", cores=1)
    guesses = [measured_profile("a", cores=cores, kind=ProfileKind.ESTIMATED) for cores in (1, 2)]
    assert best_profiles(spec("a"), [*guesses, measured]) == (measured,)
    assert best_profiles(spec("a"), guesses) == tuple(guesses)
    new, old = measured_profile("a", profile_id="new"), measured_profile("a", profile_id="old")
    assert best_profiles(spec("a"), [new, old]) == (new,)
    kinds = [measured_profile(kind=kind) for kind in reversed(ProfileKind)]
    assert (best_kind(kinds), best_kind([])) == (ProfileKind.MEASURED, None)


def test_only_what_was_not_measured_is_measured() -> None:
    targets = profile_targets([cpu(2)], ())
    profiles = [
        measured_profile("a", cores=1),
        measured_profile("a", cores=2, kind=ProfileKind.ESTIMATED),
    ]
    assert [t.size.cores for t in unmeasured(spec("a"), targets, profiles)] == [2]


def test_a_first_look_is_at_each_kind_of_gpu_or_the_fewest_cores_and_confirms_nothing() -> None:
    on_cpu = first_looks(profile_targets([cpu(8)], ()))
    assert [t.size.cores for t in on_cpu] == [1]
    gpus = profile_targets([*fake_gpus("a100-80gb", 3), *fake_gpus("l4-24gb", 2)], ())
    assert first_looks(gpus) == gpus
    full = measured_profile("a")
    look = dataclasses.replace(full, frontier_memory=None)
    trial = CapacityTrial(4, 1.0, 1.0, 20.0, held=False)
    assert in_a_hurry(look)
    assert not in_a_hurry(full)
    assert not in_a_hurry(dataclasses.replace(look, capacity_trials=(trial,)))
    assert not in_a_hurry(dataclasses.replace(look, kind=ProfileKind.ESTIMATED))


HERE, THERE = profile_targets([*fake_gpus("a100-80gb", 1), *fake_gpus("h100-80gb", 1)], ())


def kept(hardware: str, kind: ProfileKind = ProfileKind.ESTIMATED) -> Profile:
    return dataclasses.replace(measured_profile(hardware=hardware, kind=kind), size=HERE.size)


A100 = [kept("a100-80gb", ProfileKind.MEASURED)]
BOTH = [*A100, kept("h100-80gb")]
FP8 = Variant("fp8", EngineOptions(quantization="fp8"))


@pytest.mark.parametrize(
    ("changes", "profiles", "found"),
    [
        ({}, [], [HERE, THERE]),
        ({}, A100, [THERE]),
        ({}, BOTH, []),
        ({"workload": Workload(9, 9)}, BOTH, [HERE, THERE]),
        ({"variants": (FP8,)}, BOTH, [HERE, THERE]),
    ],
    ids=["new", "a kind came", "begun", "changed since", "another form"],
)
def test_where_a_chain_was_not_begun_is_told_by_the_profiles(
    changes: dict[str, Any], profiles: list[Profile], found: list[object]
) -> None:
    assert without_estimate(spec("a", **changes), (HERE, THERE), profiles) == tuple(found)


def estimated(dtype: str, *, version: str = __version__) -> Profile:
    made = measured_profile("a", kind=ProfileKind.ESTIMATED)
    by = dataclasses.replace(made.provenance, partitiond_version=version)
    return dataclasses.replace(made, dtype=dtype, provenance=by)


def test_under_auto_what_was_measured_in_another_type_than_the_device_computes_does_not_count() -> (
    None
):
    """By this release's estimate: an earlier one may have taken `auto` for another type."""
    model, (target, *_) = (
        spec("a", engine=EngineOptions(dtype="auto")),
        profile_targets([cpu()], ()),
    )
    measured = measured_profile("a")
    for estimate, counts in (
        (estimated("bfloat16"), True),
        (estimated("float32"), False),
        (estimated("float32", version="0.1"), True),
    ):
        both = [estimate, measured]
        assert (measured in best_profiles(model, both)) is counts
        assert (unmeasured(model, [target], both) == ()) is counts
    asked = spec("a", engine=EngineOptions(dtype="bfloat16"))
    assert best_profiles(asked, [estimated("float32"), measured]) == (measured,)
