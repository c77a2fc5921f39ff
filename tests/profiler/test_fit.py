"""The measured footprint is split into terms, and each batch gets its part."""

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.workload import Workload
from partitiond.core.performance.footprint import EngineLimits, kv_cache_bytes, kv_tokens
from partitiond.core.units import GIB
from partitiond.profiler.fit import explain_footprint, point_footprint, resident_kv_bytes
from tests.profiler.samples import ARCHITECTURE

LOAD = Workload(64, 32)


def test_the_terms_and_the_rest_add_up_to_the_peak() -> None:
    limits, sizes = EngineLimits(32, 256), {"started_kv_bytes": GIB // 2, "peak_bytes": 3 * GIB}
    measured = explain_footprint(ARCHITECTURE, limits, DeviceKind.CPU, **sizes)
    terms = measured.weights_bytes + measured.kv_cache_bytes + measured.activation_bytes
    terms += measured.graph_bytes + measured.context_bytes
    assert terms + measured.unexplained_bytes == measured.peak_bytes == 3 * GIB


def test_a_batch_has_the_kv_cache_that_it_needs_in_place_of_the_sweeps() -> None:
    for kind, started, resident in (
        (DeviceKind.CPU, GIB, 64 * 96 * ARCHITECTURE.kv_bytes_per_token),  # pages written to
        (DeviceKind.GPU, GIB, GIB),
        (DeviceKind.CPU, 100, 100),  # a small cache is never taken off twice
    ):
        found = resident_kv_bytes(
            ARCHITECTURE, kind, started_kv_bytes=started, largest_batch=64, workload=LOAD
        )
        assert found == resident
        needed = kv_cache_bytes(ARCHITECTURE, kv_tokens(8, LOAD, 256, 128), 128)
        assert point_footprint(3 * GIB, found, needed) == 3 * GIB - resident + needed
