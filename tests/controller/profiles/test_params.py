"""A profile job stores its parameters, and runs with them."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitiond.controller.profiles.job_room import ONLY_THERE
from partitiond.controller.profiles.params import (
    ProfilingOptions,
    measured_spec,
    options_of,
    params_of,
    profile_request,
)
from partitiond.core.errors import InputError, SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.architecture import Architecture
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.model.spec import (
    EngineOptions,
    ModelSource,
    ModelSpec,
    SourceKind,
    Variant,
    Weights,
)
from partitiond.core.model.workload import Workload
from partitiond.core.profile.jobs import ProfileOptions
from tests.devices.fake import fake_cpu, fake_gpus
from tests.fleet.test_workloads import WORKLOADS

MODEL = Architecture("llama", 135_000_000, 576, 30, 9, 3, 64, 1536, 49152, 2048)
SPEC = ModelSpec(
    "opt-125m",
    ModelSource(SourceKind.CONFIG, "opt-125m"),
    Weights.DUMMY,
    Workload(64, 32),
    variants=(Variant("fp8", EngineOptions(quantization="fp8")),),
)


def stored(
    options: ProfileOptions, devices: Sequence[Device] = (), **settings: object
) -> dict[str, str]:
    there = devices or [fake_cpu(cores=4)]
    return dict(params_of(options, there, ProfilingOptions(**settings)))  # type: ignore[arg-type]


def test_cores_come_from_the_request_then_the_settings_then_the_device() -> None:
    for asked, settings, expected in (
        (None, (), "4"), (None, (1, 2), "1"), (None, (8,), "4"), (2, (1,), "2")
    ):  # fmt: skip
        made = stored(ProfileOptions(cores=asked), cpu_partition_cores=settings)
        assert made["cores"] == expected
    with pytest.raises(InputError, match="4 cores for engines, 5 were asked for"):
        stored(ProfileOptions(cores=5))
    with pytest.raises(InputError, match="were asked for") as refused:
        stored(ProfileOptions(memory_bytes=fake_cpu(cores=4).memory_bytes + 1))
    assert "free" in refused.value.hint
    assert stored(ProfileOptions()).keys() == {
        "device_id", "cores", "max_batch", "time_limit_seconds", "seed"
    }  # fmt: skip


@given(
    st.builds(
        ProfileOptions,
        device_id=st.just("cpu"),
        cores=st.integers(1, 4),
        max_batch=st.integers(1, 512),
        time_limit_seconds=st.floats(1, 1e6),
        memory_bytes=st.none() | st.integers(1, fake_cpu(cores=4).memory_bytes),
        seed=st.integers(0, 2**31),
        variant=st.sampled_from(["", "fp8"]),
        workload=st.none() | WORKLOADS,
        max_num_batched_tokens=st.none() | st.integers(16, 2**20),
        kv_cache_dtype=st.none() | st.sampled_from(["auto", "fp8"]),
        confirm=st.booleans(),
        paper_requests=st.integers(0, 10_000),
        any_like_it=st.just(True),
    )
)
def test_a_stored_job_is_read_back_as_it_was_asked(options: ProfileOptions) -> None:
    made = params_of(options, [fake_cpu(cores=4)], ProfilingOptions())
    assert options_of(made) == options
    with pytest.raises(InputError, match="constrained"):
        options_of((*made, ("structured_output", "yes")))
    assert all(isinstance(value, str) for _, value in made)


def test_only_a_device_that_somebody_named_among_others_like_it_is_the_only_one() -> None:
    two, other = fake_gpus("a100-80gb", 2), fake_gpus("h100-80gb")
    named = ProfileOptions(device_id=two[1].id)
    for options, devices, only in (
        (named, two, True),
        (dataclasses.replace(named, any_like_it=True), two, False),
        (ProfileOptions(), two, False),
        (ProfileOptions(device_id=two[0].id), (two[0], *other), False),
    ):
        made = stored(options, devices)
        assert (ONLY_THERE in made) is only
        assert options_of(tuple(made.items())).any_like_it is not only


def test_a_variant_is_measured_with_its_own_engine() -> None:
    form = measured_spec(SPEC, ProfileOptions(variant="fp8", kv_cache_dtype="fp8"))
    assert (form.engine.quantization, form.engine.kv_cache_dtype) == ("fp8", "fp8")
    with pytest.raises(SpecError, match="lists no variant"):
        measured_spec(SPEC, ProfileOptions(variant="int4"))
    short = dataclasses.replace(SPEC, engine=EngineOptions(max_model_len=100))
    assert measured_spec(short, ProfileOptions()).workload == SPEC.workload
    with pytest.raises(SpecError, match="do not fit in a context of 100"):
        measured_spec(short, ProfileOptions(workload=Workload(90, 20)))
    derived = measured_spec(SPEC, ProfileOptions(workload=Workload(2000, 2000)))
    assert derived.max_model_len >= 4000


def test_an_engine_is_measured_in_the_type_that_its_device_computes() -> None:
    for native, quantization, dtype in (
        ("float32", "", "float32"), ("float32", "fp8", "bfloat16"), ("bfloat16", "", "bfloat16")
    ):  # fmt: skip
        spec = dataclasses.replace(SPEC, engine=EngineOptions(quantization=quantization))
        device = dataclasses.replace(fake_cpu(cores=2), native_dtype=native)
        made = profile_request(
            ResolvedModel(spec, Path("/m"), None, MODEL, dummy_weights=True),
            device,
            ProfileOptions(),
            ProfilingOptions(),
            cores=(0,),
            memory_bytes=1 << 32,
        )
        assert made.model.spec.engine.dtype == dtype
