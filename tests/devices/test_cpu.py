"""The CPU device has the cores and memory that are really ours, in containers too."""

import os
import re
from pathlib import Path

import pytest

from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import DeviceKind, SharingMode
from partitiond.core.units import GIB, MIB
from partitiond.devices.cpu import core_nodes, discover_cpu, hardware_key, native_dtype

MEMINFO = (
    f"MemTotal: {64 * 1024 * 1024} kB\nMemFree: 1024 kB\nMemAvailable: {48 * 1024 * 1024} kB\n"
)


def host(root: Path, files: dict[str, str]) -> Path:
    """A foreign host's kernel files below `root`."""
    given = {"proc/meminfo": MEMINFO, "proc/cpuinfo": "model name\t: Some CPU 9000 @ 2.0GHz\n"}
    for name, text in {**given, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_this_host_s_cpu_is_what_the_kernel_lets_us_use() -> None:
    device = discover_cpu()
    assert device.id == "cpu"
    assert device.kind is DeviceKind.CPU
    assert device.modes == (SharingMode.CORES,)
    assert set(device.cores) <= os.sched_getaffinity(0)
    assert 0 < device.free_bytes <= device.memory_bytes
    assert device.driver == os.uname().release
    assert re.fullmatch(r"cpu-[a-z0-9-]+-\d+c", device.hardware)


def test_a_host_without_limits_has_all_its_memory_and_cores(tmp_path: Path) -> None:
    unlimited = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}
    for folder, files in (("none", {}), ("max", unlimited)):
        device = discover_cpu(root=host(tmp_path / folder, files), affinity=range(8))
        assert device.memory_bytes == 64 * GIB
        assert device.free_bytes == 48 * GIB
        assert device.cores == tuple(range(8))


@pytest.mark.parametrize(
    "files",
    [
        {  # v2
            "proc/self/cgroup": "0::/box/inner\n",
            "sys/fs/cgroup/box/memory.max": str(8 * GIB),
            "sys/fs/cgroup/box/memory.current": str(3 * GIB),
            "sys/fs/cgroup/box/memory.stat": f"anon 5\ninactive_file {GIB}\n",
            "sys/fs/cgroup/box/inner/memory.max": "max",
            "sys/fs/cgroup/box/cpu.max": "250000 100000",
        },
        {  # v1
            "proc/self/cgroup": "4:memory:/box\n1:cpu,cpuacct:/box\n0::/\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": str(8 * GIB),
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": str(3 * GIB),
            "sys/fs/cgroup/memory/box/memory.stat": f"total_inactive_file {GIB}\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(2**63 - 4096),
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us": "100000",
        },
        {  # in a container the named group lies outside; the mount's root is ours
            "proc/self/cgroup": "0::/outside/of/here\n",
            "sys/fs/cgroup/memory.max": str(8 * GIB),
            "sys/fs/cgroup/memory.current": str(2 * GIB),
            "sys/fs/cgroup/cpu.max": "200000 100000",
        },
    ],
    ids=["v2", "v1", "container"],
)
def test_cgroup_limits_hold(tmp_path: Path, files: dict[str, str]) -> None:
    device = discover_cpu(root=host(tmp_path, files), affinity=range(8))
    assert device.memory_bytes == 8 * GIB
    assert device.free_bytes == 6 * GIB
    assert device.cores == (0, 1)


def test_cores_and_memory_can_be_limited_to_what_is_ours(tmp_path: Path) -> None:
    root = host(tmp_path, {})
    device = discover_cpu([3, 1], 2 * GIB, root=root, affinity=range(4))
    assert device.cores == (1, 3)
    assert device.memory_bytes == device.free_bytes == 2 * GIB
    assert device.hardware.endswith("-2c")
    device = discover_cpu(None, 1024 * GIB, root=root, affinity=[0])
    assert device.memory_bytes == 64 * GIB, "more than there is changes nothing"
    assert device.free_bytes % MIB == 0
    for wanted in ([9], [0, 9], []):
        with pytest.raises(DeviceError) as caught:
            discover_cpu(wanted, root=root, affinity=range(4))
        assert "[0, 1, 2, 3]" in caught.value.hint
    host(tmp_path, {"proc/meminfo": "Buffers: 1 kB\n"})
    with pytest.raises(DeviceError, match="memory"):
        discover_cpu(root=root, affinity=[0])


def test_the_hardware_key_names_model_and_cores() -> None:
    for name, cores, key in (
        ("AMD EPYC 9654 96-Core Processor", 2, "cpu-amd-epyc-9654-2c"),
        ("Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", 16, "cpu-intel-xeon-platinum-8480-16c"),
        ("AMD EPYC", 4, "cpu-amd-epyc-4c"),
    ):
        assert hardware_key(name, cores) == key


def test_cores_by_numa_node_where_the_kernel_tells_all(tmp_path: Path) -> None:
    asked: list[tuple[dict[str, str], tuple[int, ...], tuple[tuple[int, ...], ...]]] = [
        ({"node0": "0-1,8", "node1": "2-3"}, (0, 1, 2, 8), ((0, 1, 8), (2,))),
        ({"node0": "0-3"}, (0, 1, 2, 3), ((0, 1, 2, 3),)),
        ({"node0": "0-1", "node10": "4", "node2": "2-3"}, (0, 3, 4), ((0,), (3,), (4,))),
        ({"node0": "0-1"}, (0, 1, 2), ()),
        ({"node0": "nonsense"}, (0,), ()),
        ({}, (0,), ()),
    ]
    for number, (lists, cores, nodes) in enumerate(asked):
        files = {f"sys/devices/system/node/{name}/cpulist": text for name, text in lists.items()}
        assert core_nodes(cores, host(tmp_path / str(number), files)) == nodes


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
