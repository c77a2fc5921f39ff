"""The CPU is measured for real, and the figures are kept."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import CpuFigures
from partitiond.devices import bandwidth
from partitiond.devices.bandwidth import CACHE_NAME, cpu_figures, measure_cpu
from partitiond.devices.cpu import discover_cpu, native_dtype
from tests.devices.fake import fake_cpu


def test_all_cores_reach_at_least_what_one_does() -> None:
    device = discover_cpu()
    found = measure_cpu(device.name, device.cores, seconds=0.01)
    assert found.cores == len(device.cores)
    assert 1e6 < found.core_bytes_per_s <= found.all_bytes_per_s
    assert 0 < found.core_flops_32bit <= found.all_flops_32bit
    assert found.numa_nodes >= 1
    assert found.measured_at
    with pytest.raises(DeviceError) as refused:
        measure_cpu("x", (4095,), seconds=0.01)
    assert "4095" in refused.value.message
    assert refused.value.hint


CPU = fake_cpu(cores=2)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[CpuFigures]:
    """Each time the CPU is measured, with the figures of this time."""
    times: list[CpuFigures] = []

    def measure(name: str, cores: tuple[int, ...], *, seconds: float) -> CpuFigures:
        del seconds
        times.append(CpuFigures(name, len(cores), 1, 1.0, 2.0, 3.0, len(times), True, "then"))
        return times[-1]

    monkeypatch.setattr(bandwidth, "measure_cpu", measure)
    return times


def test_what_was_measured_is_kept_until_the_cpu_is_another(
    tmp_path: Path, measured: list[CpuFigures]
) -> None:
    for device, count in (
        (CPU, 1),
        (CPU, 1),
        (dataclasses.replace(CPU, name="another CPU"), 2),
        (dataclasses.replace(CPU, cores=(0,)), 3),
        (CPU, 4),
        (CPU, 4),
    ):
        assert cpu_figures(device, tmp_path) == measured[-1]
        assert len(measured) == count


def test_a_broken_file_is_measured_again_and_a_folder_that_cannot_be_written_is_no_failure(
    tmp_path: Path, measured: list[CpuFigures]
) -> None:
    for text in ("", "[]", '{"cpu-x": {"name": 3}}', "{"):
        (tmp_path / CACHE_NAME).write_text(text)
        assert cpu_figures(CPU, tmp_path) == measured[-1]
        assert CPU.hardware in (tmp_path / CACHE_NAME).read_text()
    (tmp_path / "file").write_text("")
    assert cpu_figures(CPU, tmp_path / "file") == measured[-1]
    assert len(measured) == 5


def test_nodes_are_read_from_the_kernel(tmp_path: Path) -> None:
    for node in ("node0", "node1", "possible"):
        (tmp_path / "sys/devices/system/node" / node).mkdir(parents=True)
    assert bandwidth.numa_nodes(tmp_path) == 2
    assert bandwidth.numa_nodes(tmp_path / "nowhere") == 1


def test_bfloat16_is_native_only_with_instructions_for_it(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    for flags, dtype in (
        ("flags : fpu sse4_2 avx avx2 fma f16c", "float32"),
        ("flags : avx2 avx512f avx512bw avx512dq avx512vl", "float32"),
        ("flags : fpu avx512_bf16 amx_int8", "bfloat16"),
        ("flags : fpu amx_bf16", "bfloat16"),
        ("Features : fp asimd evtstrm", "float32"),
        ("Features : fp asimd i8mm bf16", "bfloat16"),
    ):
        (tmp_path / "proc/cpuinfo").write_text(f"model name : x bf16\n{flags}\n")
        assert native_dtype(tmp_path) == dtype, flags
    assert native_dtype(tmp_path / "nowhere") == "float32"
