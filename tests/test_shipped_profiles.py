"""The shipped profiles are readable, measured, and consistent with their own points."""

from pathlib import Path

import pytest

from partitiond.core.hardware.kinds import DeviceKind
from partitiond.core.model.precision import as_loaded
from partitiond.core.performance.footprint import EngineLimits, footprint_at
from partitiond.core.profile.knee import find_knee
from partitiond.core.profile.record import SCHEMA_VERSION, Profile, ProfileKind
from partitiond.models.catalog import CATALOG
from partitiond.serde import from_json

SHIPPED = sorted((Path(__file__).parent.parent / "profiles").glob("*.json"))


def test_there_are_some() -> None:
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_profile_was_measured_and_holds_together(path: Path) -> None:
    profile = from_json(Profile, path.read_bytes())
    assert profile.id == path.stem
    assert profile.schema_version <= SCHEMA_VERSION
    assert profile.kind is ProfileKind.MEASURED
    assert profile.provenance.engine_version
    assert profile.provenance.weights in {"real", "dummy"}
    assert profile.provenance.command.startswith("partitiond ")
    # What the answer rests on was visited twice; the notes name what was seen once.
    limit = profile.knee.batch or profile.knee.largest_batch
    answer = profile.point(limit)
    assert answer is not None
    assert answer.windows >= 2
    once = [str(point.batch) for point in profile.points if point.windows < 2]
    if once:
        assert f"measured only once: batch {', '.join(once)}" in profile.provenance.notes
    assert profile.frontier_memory is not None
    assert profile.frontier_memory.confirmed
    assert profile.capacity_req_per_s is not None
    again = find_knee(
        profile.points,
        profile.knee.tolerance,
        best_output_tokens_per_s=profile.knee.best_output_tokens_per_s,
    )
    assert again.batch == profile.knee.batch
    loaded = as_loaded(CATALOG[profile.model].architecture, dtype=profile.dtype)
    held = {point.batch: point.footprint_bytes for point in profile.points}
    held[profile.frontier_memory.batch] = profile.frontier_memory.footprint_bytes
    for batch, measured in held.items():
        limits = EngineLimits(batch, profile.workload.longest_tokens)
        reserved = footprint_at(loaded, profile.workload, limits, DeviceKind.CPU).peak_bytes
        assert measured < reserved < 1.5 * measured, "the estimate has room for what was measured"
    for point in profile.points:
        expected = point.output_tokens_per_s / profile.workload.moments.o
        assert point.req_per_s == pytest.approx(expected)
