"""A profile request that no waiting can fulfil is refused at once, with advice."""

import dataclasses

import pytest

from partitiond.controller.profiles.params import ProfilingOptions, options_of, params_of
from partitiond.controller.profiles.partition import check_partition, device_for, slices_of
from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.hardware.kinds import Device, MigInstance, SharingMode
from partitiond.core.profile.jobs import ProfileOptions
from partitiond.core.units import GIB, Bytes
from tests.devices.fake import fake_cpu, fake_gpus

(A100,) = fake_gpus("a100-80gb")
(L4,) = fake_gpus("l4-24gb")
SLICED = dataclasses.replace(A100, id="sliced", modes=(SharingMode.MIG,))
FIXED = dataclasses.replace(
    SLICED,
    mig_instances=(
        MigInstance("3g.40gb", 4, 4, Bytes(39 * GIB), "MIG-a"),
        MigInstance("1g.10gb", 0, 1, Bytes(9 * GIB), "MIG-b"),
    ),
    mig_fixed=True,
)
CPU = fake_cpu(cores=4)


@pytest.mark.parametrize(
    ("options", "device", "said", "hint"),
    [
        (ProfileOptions(sm_percent=30), CPU, "neither SMs nor MIG", "--cores"),
        (ProfileOptions(mig_profile="2g.20gb"), CPU, "neither SMs nor MIG", "--cores"),
        (ProfileOptions(sm_percent=30, mig_profile="2g.20gb"), A100, "do not go together", "one"),
        (ProfileOptions(sm_percent=101), A100, "is no share", "1 to 100"),
        (ProfileOptions(sm_percent=30), SLICED, "cannot be used under MPS", "--mig 7g.80gb"),
        (ProfileOptions(), SLICED, "cannot be used as a whole: it is in MIG mode", "--mig"),
        (ProfileOptions(mig_profile="2g.20gb"), L4, "offers no MIG slices", "--mps or --memory"),
        (ProfileOptions(mig_profile="2g.35gb"), A100, "has no MIG profile '2g.35gb'", "2g.20gb"),
        (ProfileOptions(mig_profile="2g.20gb"), FIXED, "has no MIG profile", "1g.10gb, 3g.40gb"),
        (
            ProfileOptions(mig_profile="1g.10gb", memory_bytes=30 * GIB),
            SLICED,
            "a slice of MIG profile 1g.10gb has",
            "larger one",
        ),
        (ProfileOptions(memory_bytes=200 * GIB), A100, "200 GiB were asked for", "Ask for less"),
    ],
)
def test_what_a_device_never_has_is_refused(
    options: ProfileOptions, device: Device, said: str, hint: str
) -> None:
    with pytest.raises(InputError) as refused:
        check_partition(options, device)
    assert said in refused.value.message
    assert hint in refused.value.hint


def test_what_it_has_is_not() -> None:
    for options, device in (
        (ProfileOptions(), A100),
        (ProfileOptions(memory_bytes=8 * GIB), A100),
        (ProfileOptions(sm_percent=100), A100),
        (ProfileOptions(mig_profile="7g.80gb"), SLICED),
        (ProfileOptions(mig_profile="3g.40gb"), FIXED),
        (ProfileOptions(cores=2), CPU),
    ):
        check_partition(options, device)
        named = dataclasses.replace(options, device_id=device.id)
        read = options_of(params_of(named, [device], ProfilingOptions()))
        assert (read.sm_percent, read.mig_profile) == (options.sm_percent, options.mig_profile)


def test_without_a_name_the_first_gpu_that_has_such_partitions_is_taken() -> None:
    there = [CPU, SLICED, L4, A100]
    assert device_for(ProfileOptions(), there) is SLICED
    assert device_for(ProfileOptions(sm_percent=30), there) is L4
    assert device_for(ProfileOptions(mig_profile="1g.10gb"), [L4, A100]) is A100
    assert device_for(ProfileOptions(), [CPU]) is CPU
    with pytest.raises(InputError, match="no GPU"):
        device_for(ProfileOptions(sm_percent=30), [CPU])
    with pytest.raises(InputError, match="no device"):
        device_for(ProfileOptions(), [])
    assert (slices_of(FIXED), slices_of(L4)) == (("1g.10gb", "3g.40gb"), ())
    with pytest.raises(NotFoundError, match="'gone'"):
        device_for(ProfileOptions(device_id="gone"), there)
