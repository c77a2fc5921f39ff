"""The hardware catalog gives names, memory, and MIG slices."""

import pytest

from partitiond.core.errors import SpecError
from partitiond.core.hardware.cpus import cpu_hardware
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.kinds import DeviceKind, HardwareSpec, SharingMode
from partitiond.core.hardware.lookup import find_hardware, hardware_for_key
from partitiond.core.units import GIB, MIB


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("a100-40gb", "a100-40gb"),
        ("A100", "a100-40gb"),
        (" h100 ", "h100-80gb"),
        ("h200", "h200-141gb"),
        ("a100-pcie-40gb", "a100-pcie-40gb"),
    ],
)
def test_short_names_find_the_common_form(text: str, key: str) -> None:
    spec, slice_of = find_hardware(text)
    assert spec.key == key
    assert slice_of is None


def test_no_name_stands_for_two_kinds_or_for_a_gpu_of_another_size() -> None:
    names = []
    for spec in HARDWARE.values():
        names += [spec.key, *spec.aliases]
        for name in (spec.key, *spec.aliases):
            sold = f"-{spec.sold_bytes // GIB}gb"
            assert not name.endswith("gb") or name.endswith(sold)
    assert len(names) == len(set(names))


def test_cards_draw_less_than_modules() -> None:
    for card, module in (("a100-pcie-40gb", "a100-40gb"), ("a100-pcie-80gb", "a100-80gb")):
        drawn, most = HARDWARE[card].tdp_watts, HARDWARE[module].tdp_watts
        assert drawn is not None
        assert most is not None
        assert drawn < most


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("b200-192gb", "b200-180gb"),
        ("a100-41gb", "a100-40gb"),
        ("a100-40gb:2g.20gb", "2g.10gb"),
        ("l4:1g.5gb", "cannot be cut"),
    ],
)
def test_an_unknown_name_is_answered_with_what_there_is(name: str, hint: str) -> None:
    with pytest.raises(SpecError) as refused:
        find_hardware(name)
    assert hint in refused.value.hint


def test_a_slice_is_named_after_a_colon() -> None:
    spec, found = find_hardware("a100-40gb:1g.5gb")
    assert spec.key == "a100-40gb"
    assert found is not None
    assert (found.sm_count, found.memory_bytes, found.max_instances) == (14, 4864 * MIB, 7)


@pytest.mark.parametrize("spec", HARDWARE.values(), ids=lambda spec: spec.key)
def test_every_kind_says_what_it_is_and_where_from(spec: HardwareSpec) -> None:
    assert spec.kind is DeviceKind.GPU
    assert "NVIDIA" in spec.source
    assert 0.9 * spec.sold_bytes <= spec.memory_bytes <= 1.0 * spec.sold_bytes
    assert spec.flops_32bit < spec.flops_16bit
    assert spec.flops_8bit == 0 or spec.flops_8bit == pytest.approx(2 * spec.flops_16bit, rel=0.02)
    assert (SharingMode.MIG in spec.modes) == bool(spec.mig_profiles)
    for profile in spec.mig_profiles:
        assert profile.max_instances * profile.sm_count <= spec.sm_count
        assert profile.max_instances * profile.memory_bytes <= spec.memory_bytes
        assert profile.max_instances * profile.compute_slices <= 7
        assert profile.max_instances * profile.memory_slices <= 8
        assert profile.name.startswith(f"{profile.compute_slices}g.")


def test_the_key_of_a_profile_leads_back_to_its_hardware() -> None:
    assert hardware_for_key("l4-24gb") is HARDWARE["l4-24gb"]
    cpu = hardware_for_key("cpu-amd-epyc-9654-2c")
    assert (cpu.kind, cpu.cores) == (DeviceKind.CPU, 2)
    with pytest.raises(SpecError):
        hardware_for_key("mystery-gpu")
    assert [spec.key for spec in HARDWARE.values() if spec.native_dtype != "bfloat16"] == [
        "t4-16gb"
    ]


def test_a_cpu_s_figures_are_assumed_by_the_type_that_it_computes_in_hardware() -> None:
    wide, narrow = (cpu_hardware("cpu-x-4c", 4, GIB, dtype) for dtype in ("bfloat16", "float32"))
    assert "assumed per core: 200 GFLOP/s in 32 bit and 400 in bfloat16" in wide.source
    assert wide.flops_32bit == 2 * narrow.flops_32bit
    assert wide.flops_16bit > wide.flops_32bit
    assert narrow.flops_16bit < narrow.flops_32bit
