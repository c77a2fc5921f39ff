"""Assembles a profile from finished trials. Pure, so a stored run can be assembled again."""

import dataclasses
from collections.abc import Sequence

from partitiond import __version__
from partitiond.core.profile.knee import TOLERANCE, find_knee
from partitiond.core.profile.points import LimitedBy, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.replica.engine import EngineReport
from partitiond.ports import ProfileRequest
from partitiond.profiler import notes
from partitiond.profiler.fit import explain_footprint
from partitiond.profiler.search import SearchDone, best_rate
from partitiond.profiler.sweep.launch import ProfileLaunch, engine_args, size_of
from partitiond.profiler.sweep.points import points_of
from partitiond.profiler.sweep.trial import FailedTrial, Trial


@dataclasses.dataclass(frozen=True, slots=True)
class MeasuredTrials:
    """Everything a profile is made of.

    Attributes:
        done: the search's last result; None if the sweep was cut short.
        started_at: ISO 8601 UTC.
        notes: what a reader should know, from the phases themselves.
    """

    request: ProfileRequest
    planned: ProfileLaunch
    report: EngineReport
    steps: tuple[Trial | FailedTrial, ...]
    done: SearchDone | None
    started_at: str
    duration_seconds: float
    notes: tuple[str, ...] = ()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trials that count, in order."""
        return tuple(step for step in self.steps if isinstance(step, Trial))

    @property
    def died(self) -> frozenset[int]:
        """Batches that the engine did not survive, on any visit."""
        return frozenset(s.proposal.batch for s in self.steps if isinstance(s, FailedTrial))


def build_profile(measured: MeasuredTrials) -> Profile:
    """Build a finished sweep's profile; `sweep.confirm.add_confirmation` adds what follows it."""
    request, launch = measured.request, measured.planned.launch
    spec, device = request.model.spec, request.device
    footprint = explain_footprint(
        measured.planned.architecture,
        measured.planned.limits,
        device.kind,
        started_kv_bytes=launch.kv_cache_bytes,
        peak_bytes=max((t.peak_bytes for t in measured.trials), default=0),
    )
    points = points_of(request, measured.planned, measured.trials, footprint, died=measured.died)
    return Profile(
        id=profile_id(measured),
        model=spec.name,
        kind=ProfileKind.MEASURED,
        hardware=device.hardware,
        size=size_of(request),
        workload=spec.workload,
        dtype=spec.engine.dtype,
        points=points,
        knee=find_knee(
            points,
            TOLERANCE,
            capped_by=_capped_by(measured),
            best_output_tokens_per_s=best_rate([s.visit for s in measured.steps]),
        ),
        footprint=footprint,
        kv_cache_tokens=measured.report.kv_cache_tokens,
        provenance=_provenance(measured, points),
        variant=request.variant,
        max_num_batched_tokens=launch.max_num_batched_tokens,
        kv_cache_dtype=launch.kv_cache_dtype,
        slo=spec.slo,
    )


def profile_id(measured: MeasuredTrials) -> str:
    """Build a readable id that differs for everything that is measured separately."""
    request = measured.request
    spec = request.model.spec
    stamp = "".join(c for c in measured.started_at if c.isdigit())[:14]
    parts = [spec.name, request.variant, request.device.hardware, size_of(request).key]
    parts += [f"{spec.workload.prompt_tokens}-{spec.workload.output_tokens}"]
    if spec.workload.shape.value != "fixed":
        parts.append(spec.workload.shape.value)
    return "-".join(part for part in (*parts, stamp) if part)


def _capped_by(measured: MeasuredTrials) -> LimitedBy:
    """Return why the batch grew no further, for a knee that was not reached."""
    if measured.died or any(trial.kv_limited for trial in measured.trials):
        return LimitedBy.MEMORY
    if measured.done is None:
        return LimitedBy.TIME  # cut short by something else, which a note names
    if measured.done.capped_by is LimitedBy.CAP and measured.planned.memory_limited:
        return LimitedBy.MEMORY
    return measured.done.capped_by


def _provenance(measured: MeasuredTrials, points: Sequence[OperatingPoint]) -> Provenance:
    request = measured.request
    return Provenance(
        engine=measured.planned.launch.engine_kind,
        engine_version=measured.report.version,
        engine_args=engine_args(measured.planned.launch),
        weights="dummy" if request.model.dummy_weights else "real",
        model_revision=request.model.revision,
        hardware=request.device.hardware,
        device_name=request.device.name,
        driver=request.device.driver,
        host_cores=request.cores,
        seed=request.seed,
        started_at=measured.started_at,
        duration_seconds=measured.duration_seconds,
        partitiond_version=__version__,
        command=request.command,
        notes=(
            *measured.notes,
            *notes.sweep_notes(measured.trials, measured.done, points),
            *notes.died_note(measured.died, points),
        ),
    )
