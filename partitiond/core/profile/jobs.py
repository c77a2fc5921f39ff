"""Defines profile jobs: options, state and progress."""

import dataclasses
import enum
import heapq
from collections.abc import Iterable, Mapping
from typing import Final

from partitiond.core.hardware.kinds import short_device
from partitiond.core.model.workload import Workload


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a job.

    Attributes:
        fraction: 0..1, or None where it cannot be known.
        seconds_left: estimate, or None.
    """

    phase: str
    message: str
    fraction: float | None = None
    seconds_left: float | None = None


class JobState(enum.StrEnum):
    """Life of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED: Final = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
"""States of a job that has ended; a job in any other state is open."""


class JobCause(enum.StrEnum):
    """Why a job ended that neither succeeded nor failed by itself, nor was cancelled by a person.

    Jobs that a release without causes stored have none.
    """

    NONE = ""
    INTERRUPTED = "interrupted"
    """The daemon ended while the job ran."""
    HOST_LOST = "host-lost"
    """Its host did not answer any more while the job ran."""
    WITHDRAWN = "withdrawn"
    """Nothing needed the job any more while it waited, or what it failed for is gone: it counts as
    not done."""


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """A long-running piece of work: today, profiling.

    Attributes:
        kind: "profile".
        subject: model name.
        params: what was asked (device id, cores, max_batch, time limit, seed).
        result: id of the profile it made.
        error: message and hint when it failed.
        cause: why it ended, if not by itself.
        reason: why the chain queued it by itself; it takes it back when the reason vanishes while
            the job waits. Empty if a person asked for the job.
        device_id: where it runs or ran; of a job that waits, where the interrupted one ran that it
            goes on from. Empty where it never ran.
        hardware: of the device that was asked for; any other of it does as well, unless the params
            say otherwise. Empty where that was not known.
        host: of the device on which it runs or ran; empty with one host.
        drift_of: id of the profile whose drift queued it; empty for every other reason.
    """

    id: str
    kind: str
    subject: str
    state: JobState
    created_at: str
    updated_at: str
    progress: Progress
    params: tuple[tuple[str, str], ...] = ()
    result: str | None = None
    error: str = ""
    reason: str = ""
    device_id: str = ""
    hardware: str = ""
    host: str = ""
    cause: JobCause = JobCause.NONE
    drift_of: str = ""


def job_place(job: Job) -> str:
    """Return for people where a job runs or ran; empty if it never ran."""
    device = short_device(job.device_id)
    return f"{device} of {job.host}" if job.host else device


NOT_MEASURED: Final = "not measured yet"
"""Reason of a job whose model waits for it: it looks first, for a short time, so that the model is
served soon."""

ELSEWHERE: Final = "not measured on this kind of device yet"
"""Reason of a look at a model that was looked at on another kind of device already."""

IN_FULL: Final = "measured in a hurry"
"""Reason of a job that measures what a first look left open, once the model is served."""

LATER: Final = {ELSEWHERE: 1, IN_FULL: 2}
"""Reasons of jobs that no plan waits for: their place in the queue. All others have 0."""

FIRST_LOOK_SECONDS: Final = 45.0
"""Measuring time of a first look: three batches far apart. Chosen."""

AROUND_SECONDS: Final = 60.0
"""Time of a first look that is not measuring, and from its end until a replica serves: two starts
of an engine and a plan. A guess."""


@dataclasses.dataclass(frozen=True, slots=True)
class AwaitedLook:
    """The first look that a model waits for.

    Attributes:
        job_id: the job.
        seconds: expected until the model is served.
        measures: "it" for the model itself, or "others".
    """

    job_id: str
    seconds: float
    measures: str = "it"


def looked_at(job: Job) -> tuple[str, str] | None:
    """Return the model and the form that a first look is at, on any device: plans wait for one such
    job only. None for other jobs."""
    return (
        None if job.reason != NOT_MEASURED else (job.subject, dict(job.params).get("variant", ""))
    )


def awaited_looks(running: Iterable[Job], queued: Iterable[Job]) -> dict[str, AwaitedLook]:
    """Return what models that are not measured yet wait for, by model: each for its own look, and
    all for the last one, as no plan is made by itself before. As many looks as run now go on side
    by side.

    Args:
        queued: in the order in which they are done.
    """
    now = [job for job in running if looked_at(job)]
    looks: dict[tuple[str, str], Job] = {}
    for job in (*now, *queued):
        if look := looked_at(job):
            looks.setdefault(look, job)
    each = FIRST_LOOK_SECONDS + AROUND_SECONDS
    left = [job.progress.seconds_left for job in now] or [0.0]
    ends = sorted(each if seconds is None else seconds for seconds in left)
    for _ in range(len(looks) - len(now)):
        heapq.heapreplace(ends, ends[0] + each)
    found: dict[str, AwaitedLook] = {}
    for job in looks.values():
        found.setdefault(job.subject, AwaitedLook(job.id, AROUND_SECONDS + max(ends)))
    return found


def awaited_by_all(
    looks: Mapping[str, AwaitedLook], models: Iterable[str]
) -> dict[str, AwaitedLook]:
    """Return the first look that each model waits for: its own, else the last of all looks."""
    others = (dataclasses.replace(look, measures="others") for look in list(looks.values())[-1:])
    return {model: look for look in others for model in models} | dict(looks)


def measured_by(job: Job) -> str:
    """Return for people what a job measures: partition, form and lengths."""
    asked = dict(job.params)
    cores = asked.get("cores")
    parts = [
        f"{cores} core{'s' * (cores != '1')}" if cores else "",
        f"{asked['sm_percent']} % of the SMs" if "sm_percent" in asked else "",
        asked.get("mig_profile", ""),
        asked.get("variant", ""),
        f"KV {asked['kv_cache_dtype']}" if "kv_cache_dtype" in asked else "",
        "first look" if job.reason in (NOT_MEASURED, ELSEWHERE) else "",
    ]
    whole = not {"cores", "sm_percent", "mig_profile", "memory_bytes"} & asked.keys()
    return ", ".join(filter(None, ["whole" if whole else "", *parts]))


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileOptions:
    """Options of a profile job; None takes the setting.

    Attributes:
        device_id: device to measure on; None for any device of the first suitable hardware.
        any_like_it: any other device of the same hardware will do instead of the named one.
        cores: number of cores of the partition to measure on (CPU device).
        memory_bytes: memory of the partition; on a GPU this option alone asks for a memory share.
        sm_percent: measure in an MPS share with that much of the SMs, in percent (GPU).
        mig_profile: measure in a MIG slice of this MIG profile (GPU); empty for none.
        variant: form of the model to measure; empty for the model itself.
        workload: lengths other than the model's, to see how they change the frontier.
        max_num_batched_tokens, kv_cache_dtype: other than the model's engine options.
        confirm: confirm frontier memory and capacity after the sweep.
        paper_requests: requests of the paper's mode; 0 leaves it out.
    """

    device_id: str | None = None
    cores: int | None = None
    max_batch: int | None = None
    time_limit_seconds: float | None = None
    memory_bytes: int | None = None
    seed: int = 0
    variant: str = ""
    workload: Workload | None = None
    max_num_batched_tokens: int | None = None
    kv_cache_dtype: str | None = None
    confirm: bool = True
    paper_requests: int = 0
    sm_percent: int | None = None
    mig_profile: str = ""
    any_like_it: bool = False
