"""The CPU is measured for real, and the figures are kept."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import CpuFigures
from partitiond.devices.bandwidth import (
    CACHE_NAME,
    cpu_figures,
    fast_dtype,
    has_bfloat16,
    measure_cpu,
    numa_nodes,
)
from partitiond.devices.cpu import discover_cpu

SHORT = 0.02


def test_all_cores_reach_at_least_what_one_does(tmp_path: Path) -> None:
    device = discover_cpu()
    found = cpu_figures(device, tmp_path, seconds=SHORT)
    assert found.cores == len(device.cores)
    assert 0 < found.core_bytes_per_s <= found.all_bytes_per_s
    assert 0 < found.core_flops_32bit <= found.all_flops_32bit
    assert found.numa_nodes >= 1


def test_what_was_measured_is_kept_until_the_cpu_is_another(tmp_path: Path) -> None:
    device = discover_cpu()
    known = CpuFigures(device.name, len(device.cores), 1, 1.0, 2.0, 3.0, 4.0, True, "then")
    from partitiond.devices.bandwidth import _keep

    _keep(tmp_path / CACHE_NAME, {device.hardware: known})
    assert cpu_figures(device, tmp_path, seconds=SHORT) == known
    other = dataclasses.replace(device, name="another CPU")
    assert cpu_figures(other, tmp_path, seconds=SHORT).core_bytes_per_s > 1e6
    assert cpu_figures(device, tmp_path, refresh=True, seconds=SHORT).measured_at != "then"


@pytest.mark.parametrize("text", ["", "[]", '{"cpu-x": {"name": 3}}', "{"])
def test_a_broken_file_is_measured_again(tmp_path: Path, text: str) -> None:
    (tmp_path / CACHE_NAME).write_text(text)
    found = cpu_figures(discover_cpu(), tmp_path, seconds=SHORT)
    assert found.core_bytes_per_s > 0
    assert "cpu-" in (tmp_path / CACHE_NAME).read_text()


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert cpu_figures(discover_cpu(), tmp_path / "file", seconds=SHORT).core_flops_32bit > 0


def test_a_core_that_is_not_there_is_an_error_with_a_hint() -> None:
    with pytest.raises(DeviceError) as refused:
        measure_cpu("x", (4095,), seconds=SHORT)
    assert "4095" in refused.value.message
    assert refused.value.hint


def test_nodes_and_bfloat16_are_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor : 0\nflags : fpu avx512_bf16 amx_int8\n")
    for node in ("node0", "node1", "possible"):
        (tmp_path / "sys/devices/system/node" / node).mkdir(parents=True)
    assert has_bfloat16(tmp_path)
    assert numa_nodes(tmp_path) == 2
    (tmp_path / "proc/cpuinfo").write_text("flags : fpu avx2\n")
    assert not has_bfloat16(tmp_path)
    assert not has_bfloat16(tmp_path / "nowhere")
    assert numa_nodes(tmp_path / "nowhere") == 1


@pytest.mark.parametrize(
    ("flags", "dtype"),
    [
        ("flags : fpu sse4_2 avx avx2 fma f16c", "float32"),
        ("flags : avx2 avx512f avx512cd", "float32"),  # Knights Landing: torch wants BW, DQ and VL
        ("flags : avx2 avx512f avx512bw avx512dq avx512vl", "bfloat16"),
        ("flags : avx2 avx512f avx512bw avx512dq avx512vl avx512_bf16 amx_bf16", "bfloat16"),
        ("Features : fp asimd evtstrm", "float32"),
        ("Features : fp asimd i8mm bf16", "bfloat16"),
        ("processor : 0", "bfloat16"),  # nothing is known: as asked
    ],
)
def test_float32_is_chosen_only_where_bfloat16_is_emulated(
    tmp_path: Path, flags: str, dtype: str
) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(f"model name : x\n{flags}\n")
    assert fast_dtype(tmp_path) == dtype
    assert fast_dtype(tmp_path / "nowhere") == "bfloat16"
