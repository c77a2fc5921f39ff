"""Fakes drift: the figures are as a test sets them."""

from collections.abc import Sequence

from partitiond.core.drift.correction import Correction
from partitiond.core.drift.detection import Figure, Finding, LedgerEntry, Verdict
from partitiond.core.errors import NotFoundError
from partitiond.core.profile.record import ProfileKind
from partitiond.core.views.drift import DriftReport, Remeasure, ReplicaDrift

FINDING = Finding(Figure.PACE, 0.010, 0.013, 0.07, Verdict.SLOWER, 1.3, 1.25, 1.35, 4)
ENTRY = LedgerEntry(
    at="2030-01-01T00:00:00Z",
    model="a",
    replica_id="a-1",
    device_id="cpu",
    hardware="cpu-test-2c",
    profile_id="profile-a",
    profile_kind=ProfileKind.MEASURED,
    requests=30,
    seconds=20.0,
    batch=2.5,
    prompt_tokens=64.0,
    output_tokens=32.0,
    sharing=1.0,
    findings=(FINDING,),
)
CORRECTION = Correction(
    "profile-a", "a", "cpu-test-2c", 0.75, 1.3, 1.25, 1.35, 1, "2030-01-01T00:00:00Z"
)


class FakeDrift:
    """Implements `ports.drift.DriftControl`."""

    def __init__(self) -> None:
        self.corrections = {CORRECTION.profile_id: CORRECTION}
        self.asked: list[tuple[str | None, str | None, int]] = []

    def report(self) -> DriftReport:
        replica = ReplicaDrift("a-1", "a-1", "a", "cpu", "slower", ENTRY.sentence, 7, ENTRY)
        waits = Remeasure("profile-a", "a", "job-1", "waits for a quiet time")
        return DriftReport((replica,), tuple(self.corrections.values()), (waits,), 30)

    def ledger(
        self, model: str | None = None, replica_id: str | None = None, limit: int = 200
    ) -> Sequence[LedgerEntry]:
        self.asked.append((model, replica_id, limit))
        return [ENTRY]

    def lift(self, profile_id: str) -> Correction:
        if profile_id not in self.corrections:
            raise NotFoundError(f"no figures of a profile {profile_id} are corrected.")
        return self.corrections.pop(profile_id)
