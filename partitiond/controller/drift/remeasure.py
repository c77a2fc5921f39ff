"""Measures drifting profiles again, by jobs that wait for a quiet time and for spare capacity.

The job is queued at once, so that `partitiond profile jobs` shows it with its reason. It gets its
lease only at a quiet time (`core.drift.correction.not_quiet`), and only from what nothing else
holds. No engine is evicted for it.
One profile is measured again once. A job that failed or was cancelled is left to the operator; a
job that was withdrawn is queued again. What drifts from the new profile, too, waits for a day: if a
comparison is wrong for good, measuring again and again mends nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.controller.plans.derived import derivable_sizes
from partitiond.controller.profiles.jobs import JobQueue
from partitiond.controller.profiles.params import ProfilingOptions, params_of
from partitiond.controller.profiles.profiling import options_for
from partitiond.controller.profiles.targets import ProfileTarget, best_profiles
from partitiond.controller.runtime.engines import Engine
from partitiond.core.demand.traffic import TrafficSample, TrafficWindow
from partitiond.core.drift.correction import QuietPolicy, not_quiet
from partitiond.core.drift.options import DriftOptions
from partitiond.core.errors import InputError, NotFoundError
from partitiond.core.hardware.kinds import Device
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.instants import unix_seconds, utc_iso
from partitiond.core.profile.jobs import Job, JobCause, JobState
from partitiond.core.profile.record import Profile
from partitiond.core.replica.states import ReplicaState
from partitiond.core.views.drift import Remeasure
from partitiond.store import Store

SHORT_SECONDS: Final = 60.0
"""Window that shows a load of this moment, beside the longer one that the settings ask for."""
LOOKS_PER_CHECK: Final = 15
"""Looks at the traffic between two checks whether plans still rest on a drifting profile."""
KNOWN_SHARE: Final = 0.9
"""Share of the quiet time that has to be known: the watch may begin a moment later. Chosen."""
AGAIN_SECONDS: Final = 24 * 3600.0
"""Least time between two measurements of the same profile because of drift. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Subject:
    """The model, hardware, size and variant of a drifting profile."""

    model: str
    hardware: str
    size: PartitionSize
    variant: str


class Remeasures:
    """Queues, withdraws and gates the jobs that drift asks for."""

    def __init__(
        self,
        *,
        store: Store,
        jobs: JobQueue,
        devices: Callable[[], Sequence[Device]],
        engines: Callable[[], Sequence[Engine]],
        window: Callable[[float], TrafficWindow],
        profiling: ProfilingOptions,
        options: DriftOptions,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._devices = devices
        self._engines = engines
        self._window = window
        self._profiling = profiling
        self._options = options
        self._tended: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._not_before: dict[str, str] = {}
        self._outdated: set[str] = set()
        self._looks = 0
        self._began: TrafficSample | None = None
        self._seen_at = 0.0

    def tend(self, drifting: Mapping[str, str], sample: TrafficSample, now: str) -> list[str]:
        """Queue jobs for profiles that began to drift; withdraw jobs of profiles that stopped.

        Args:
            drifting: how each profile drifts, by profile id.
            sample: the last sample of the proxy's counts.
            now: ISO 8601 UTC.

        Returns:
            Ids of drifting profiles whose place another profile has taken: no plan rests on them.
        """
        self._looks += 1
        self._seen_at = sample.at
        if self._began is None or self._began.epoch != sample.epoch:
            self._began = sample
        for profile_id in self._tended.keys() - drifting.keys():
            self._withdraw(profile_id, "the drift is over.")
            del self._tended[profile_id]
            self._drop_refusal(profile_id)
        self._outdated &= drifting.keys()
        gone = []
        for profile_id in drifting.keys() - self._outdated:
            known = profile_id in self._tended
            if known and self._looks % LOOKS_PER_CHECK:
                continue
            subject = self._still_best(profile_id)
            if subject is None:
                gone.append(profile_id)
            elif not known or self._may_ask_again(profile_id, now):
                self._tended[profile_id] = subject.model
                self._ask(profile_id, subject, drifting[profile_id], now)
        self._outdated.update(gone)
        for profile_id in gone:
            self._withdraw(profile_id, "another profile has taken its place.")
            self._tended.pop(profile_id, None)
            self._drop_refusal(profile_id)
        return gone

    def counts(self, profile_id: str) -> bool:
        """Whether plans rest on this profile, or on one that is derived from it."""
        return self._still_best(profile_id) is not None

    def waits(self, job: Job) -> str:
        """Why a job may not begin yet; empty at a quiet time, or if drift did not queue the job."""
        if not job.drift_of:
            return ""
        policy = QuietPolicy(self._options.quiet_share, self._options.quiet_seconds)
        return not_quiet(self._load(policy.seconds), self._load(SHORT_SECONDS), policy)

    def open(self) -> tuple[Remeasure, ...]:
        """Return the profiles that are to be measured again, and what each of them waits for."""
        jobs = self._jobs.jobs()
        found = []
        for profile_id, model in sorted(self._tended.items()):
            job = _job_for(profile_id, jobs)
            if job is None:
                words = self._refused.get(profile_id, "a job for it was queued already")
                found.append(Remeasure(profile_id, model, "", words))
                continue
            live = job.state in (JobState.QUEUED, JobState.RUNNING)
            words = job.progress.message if live else f"it {job.state.value}; ask for it by hand"
            found.append(Remeasure(profile_id, model, job.id, words))
        return tuple(found)

    def _load(self, seconds: float) -> float | None:
        """Return the share of all places in use; None if it is not known for so long."""
        window = self._window(seconds)
        # The counts of a proxy do not include what the proxy before it had to do.
        told = window.seconds if self._began is None else self._seen_at - self._began.at
        if min(window.seconds, told) < KNOWN_SHARE * seconds:
            return None
        serving = [e for e in self._engines() if e.state is ReplicaState.SERVING]
        places = sum(e.placement.candidate.batch for e in serving)
        used = sum(window.replicas[e.name].mean_batch for e in serving if e.name in window.replicas)
        return used / places if places else 0.0

    def _ask(self, profile_id: str, subject: _Subject, why: str, now: str) -> None:
        """Queue the job that measures a profile again, unless there was one."""
        self._drop_refusal(profile_id)
        refusal = self._refusal(subject)
        device = next((d for d in self._devices() if d.hardware == subject.hardware), None)
        if refusal or device is None:
            self._refused[profile_id] = refusal or f"there is no {subject.hardware} any more"
            return
        options = options_for(ProfileTarget(device, subject.size))
        options = dataclasses.replace(options, variant=subject.variant)
        try:
            params = params_of(options, self._devices(), self._profiling)
        except InputError as error:
            self._refused[profile_id] = str(error)
            return
        ended = self._jobs.ended(subject.model)
        if _job_for(profile_id, (*self._jobs.open_jobs(subject.model), *ended)) is not None:
            return
        again = _again_at(ended, params, now)
        if again > now:
            self._not_before[profile_id] = again
            self._refused[profile_id] = (
                f"it was measured again because of drift already, and is not before {again[:19]}; "
                "ask for it by hand"
            )
            return
        reason = f"drift of {profile_id}: {why}"
        self._jobs.submit("profile", subject.model, params, reason=reason, drift_of=profile_id)

    def _drop_refusal(self, profile_id: str) -> None:
        self._refused.pop(profile_id, None)
        self._not_before.pop(profile_id, None)

    def _may_ask_again(self, profile_id: str, now: str) -> bool:
        """Whether a refused job may be asked for again: the reason of the refusal may be past."""
        return profile_id in self._refused and self._not_before.get(profile_id, "") <= now

    def _refusal(self, subject: _Subject) -> str:
        if not self._options.reprofile:
            return "drift.reprofile is off; measure it by hand"
        if not self._store.model(subject.model).spec.auto:
            return "the model takes no part in the chain; measure it by hand"
        return ""

    def _still_best(self, profile_id: str) -> _Subject | None:
        """Return the subject of a profile that plans rest on; None for any other profile."""
        source = profile_id.partition("@")[0]
        try:
            profile = self._store.profile(source)
            spec = self._store.model(profile.model).spec
        except NotFoundError:
            return None
        best = best_profiles(spec, self._store.profiles(spec.name))
        if all(one.id != source for one in best):
            return None
        size = profile.size if source == profile_id else self._size_of(profile_id)
        if size is None or _measured_there(best, profile, size, source):
            return None
        return _Subject(profile.model, profile.hardware, size, profile.variant)

    def _size_of(self, profile_id: str) -> PartitionSize | None:
        """Return the size of a derived profile, by its name: no engine may run on it any more."""
        key = profile_id.partition("@")[2]
        sizes = derivable_sizes(self._devices())
        running = (e.placement.candidate for e in self._engines())
        here = next((c.size for c in running if c.profile_id == profile_id), None)
        return next((size for size in sizes if size.key == key), here)

    def _withdraw(self, profile_id: str, why: str) -> None:
        for job in self._jobs.jobs():
            if job.state is JobState.QUEUED and job.drift_of == profile_id:
                self._jobs.withdraw(job, why)


def _job_for(profile_id: str, jobs: Sequence[Job]) -> Job | None:
    """Return the first job for a profile, without withdrawn jobs: these have measured nothing."""
    own = (job for job in jobs if job.drift_of == profile_id)
    return next((job for job in own if job.cause is not JobCause.WITHDRAWN), None)


def _again_at(ended: Sequence[Job], params: Sequence[tuple[str, str]], now: str) -> str:
    """Return until when a profile is not measured again by itself; empty if it never was before.

    Args:
        ended: jobs of the model, newest first.
        params: of the job that is asked for.
        now: a time after that is of a clock that was ahead, and says nothing.
    """
    done = (
        job.updated_at
        for job in ended
        if job.drift_of and job.state is JobState.SUCCEEDED and job.params == tuple(params)
    )
    last = next(done, "")
    return utc_iso(unix_seconds(last) + AGAIN_SECONDS) if "" < last <= now else ""


def _measured_there(
    best: Sequence[Profile], source: Profile, size: PartitionSize, source_id: str
) -> bool:
    """Whether a size that was derived has been measured itself by now."""
    return any(
        one.id != source_id
        and (one.hardware, one.size, one.variant) == (source.hardware, size, source.variant)
        for one in best
    )
