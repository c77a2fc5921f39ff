"""Compares replicas with their plan's prediction, and acts on what it finds.

With each look at the proxy's counts the windows of all serving engines grow. A full window is
compared with its profile at the load it had, written to the ledger, and followed up: an event when
a verdict changes, corrected figures for plans, a profile job at a quiet time. What disturbs a
comparison (an engine that starts on the same device, a profile measured there) restarts the window.
"""

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from partitiond.controller.drift.marks import DriftMarks
from partitiond.controller.drift.remeasure import Remeasures
from partitiond.controller.journal import Journal
from partitiond.controller.runtime.engines import Engine
from partitiond.core.demand.traffic import ReplicaCount, TrafficSample
from partitiond.core.drift.correction import Correction, correction_of
from partitiond.core.drift.detection import (
    RECENT,
    Figure,
    LedgerEntry,
    Tracks,
    Verdict,
    add_window,
    pool_verdicts,
    rebuild_tracks,
    verdict_of,
)
from partitiond.core.drift.load import expected, sharing_factor, tolerance
from partitiond.core.drift.options import DriftOptions
from partitiond.core.drift.window import LONGEST_LOOKS, FullWindow, OpenWindow
from partitiond.core.errors import NotFoundError, PartitiondError
from partitiond.core.hardware.kinds import short_device
from partitiond.core.hardware.partition import Partition
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Candidate, Placement
from partitiond.core.profile.record import Profile
from partitiond.core.replica.states import ReplicaState
from partitiond.core.views.drift import DriftReport, ReplicaDrift
from partitiond.ports import Clock
from partitiond.store import Store

log = logging.getLogger(__name__)

_OFF: Final = (Verdict.SLOWER, Verdict.FASTER)
JUDGED_PER_LOOK: Final = 16
"""Windows that one look at the counts compares; each takes some milliseconds of the event loop, and
all replicas of a busy host fill theirs at once. Windows that have to wait go on growing. Chosen."""
REMEMBERED_PER_LOOK: Final = 16
"""Engines that one look begins to watch; for each of them its part of the ledger is read."""


@dataclasses.dataclass(slots=True)
class _Watched:
    """One engine that is watched.

    Attributes:
        generation: of its process; a new process begins the window again.
        gathered: the window that is not full yet; None before the first look.
        tracks: by figure, on its present profile.
        last: its last full window; judged: the last one that could be compared.
        alike: full windows in a row with requests like those that were measured; many at first.
    """

    placement: Placement
    generation: str
    tracks: Tracks = dataclasses.field(default_factory=dict)
    last: LedgerEntry | None = None
    judged: LedgerEntry | None = None
    alike: int = RECENT
    gathered: OpenWindow | None = None


class DriftUseCases:
    """The use cases of drift.

    Args:
        engines: all engines.
        leases: partitions lent to profile jobs.
        remeasures: measures drifting models again.
        changed: called when corrections changed: plans are made of other figures now.
    """

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        journal: Journal,
        engines: Callable[[], Sequence[Engine]],
        leases: Callable[[], Sequence[Partition]],
        remeasures: Remeasures,
        changed: Callable[[], None],
        options: DriftOptions,
    ) -> None:
        self._store = store
        self._clock = clock
        self._journal = journal
        self._engines = engines
        self._leases = leases
        self._changed = changed
        self._options = options
        self._watched: dict[str, _Watched] = {}
        self._busy: dict[str, float] = {}
        self._sample: TrafficSample | None = None
        self.remeasures = remeasures
        self._marks = DriftMarks(store, clock)

    # -- what is known -----------------------------------------------------------------------

    def factors(self) -> Mapping[str, float]:
        """Factors by profile id that plans are made with."""
        if not (self._options.enabled and self._options.correct):
            return {}
        return {c.profile_id: c.factor for c in self._marks.corrections.values()}

    def report(self) -> DriftReport:
        """Replicas, corrections and what is to be measured again."""
        return DriftReport(
            replicas=tuple(self._view(name) for name in sorted(self._watched)),
            corrections=tuple(
                self._marks.corrections[profile_id] for profile_id in sorted(self.factors())
            ),
            remeasures=self.remeasures.open(),
            window_requests=self._options.window_requests,
        )

    def words(self, engine: str) -> str:
        """Say in one sentence how an engine drifts; empty if it does not, or if that is unknown."""
        if engine not in self._watched:
            return ""
        view = self._view(engine)
        return view.words if view.verdict in (v.value for v in _OFF) else ""

    def lift(self, profile_id: str) -> Correction:
        """Take a correction off; the replicas are judged again. Raises NotFoundError."""
        found = self._marks.corrections.get(profile_id)
        if found is None:
            raise NotFoundError(
                f"no figures of a profile {profile_id} are corrected.",
                hint="`partitiond models show --drift` lists the corrections.",
                facts={"profile": profile_id},
            )
        for watched in self._watched.values():
            if watched.placement.candidate.profile_id == profile_id:
                watched.tracks, watched.last, watched.judged = {}, None, None
        self._marks.lift(profile_id)
        self._journal.note("figures-restored", found.model, f"{profile_id}: as asked.")
        self._changed()
        return found

    def _view(self, name: str) -> ReplicaDrift:
        watched = self._watched[name]
        entry, placement = watched.last, watched.placement
        verdict = entry.verdict if entry is not None else Verdict.LEARNING
        return ReplicaDrift(
            replica_id=placement.replica_id,
            engine=name,
            model=placement.model,
            device_id=placement.device_id,
            verdict=verdict.value,
            words="" if entry is None else self._words(entry),
            gathered=watched.gathered.requests if watched.gathered is not None else 0,
            last=entry,
        )

    def _words(self, entry: LedgerEntry) -> str:
        if entry.other_lengths:
            return f"{entry.other_lengths}: not compared; give the model this workload"
        if entry.verdict not in _OFF:
            return ""
        here = self._on_profile(entry.profile_id)
        fine = sum(1 for other in here if other.verdict is Verdict.HOLDS)
        if fine and pool_verdicts(here) is Verdict.HOLDS:
            whose = f"; {fine} others on this profile hold: look at {short_device(entry.device_id)}"
            return entry.sentence + whose
        return entry.sentence

    def _on_profile(self, profile_id: str) -> list[LedgerEntry]:
        """Return the last comparable window of each replica that is watched on a profile."""
        judged = [watched.judged for watched in self._watched.values()]
        return [e for e in judged if e is not None and e.profile_id == profile_id]

    # -- looking -----------------------------------------------------------------------------

    def take_sample(self, sample: TrafficSample) -> None:
        """Take one more sample of the proxy's counts."""
        if not self._options.enabled:
            return
        serving = {e.name: e for e in self._engines() if e.state is ReplicaState.SERVING}
        for name in self._watched.keys() - serving.keys():
            del self._watched[name]
        for name, engine in serving.items():
            self._watch(name, engine)
        unknown = [name for name in serving if name not in self._watched]
        for name in unknown[:REMEMBERED_PER_LOOK]:
            self._watched[name] = self._remembered(serving[name])
        self._busy = self._busy_shares(sample)
        disturbed = self._disturbed()
        places = ((name, engine.placement) for name, engine in serving.items())
        beside = by_key(  # those that are not watched yet slow down others, too
            (place.device_id, (name, place.candidate)) for name, place in places
        )
        if self._sample is not None and self._sample.epoch != sample.epoch:
            # A new proxy counts from zero; its counts may exceed the former proxy's already.
            for watched in self._watched.values():
                watched.gathered = None
        for name, watched in self._watched.items():
            count, device_id = sample.replicas.get(name), watched.placement.device_id
            if count is None or device_id in disturbed:
                watched.gathered = None
            else:
                self._grow(name, watched, count, sample.at, beside[device_id])
        self._sample = sample
        self._judge(sample.at)
        now = self._clock.utc_iso()
        for profile_id in self.remeasures.tend(self._drifting(), sample, now):
            if profile_id in self._marks.corrections:
                self._set(profile_id, None, "another profile has taken its place")

    def _watch(self, name: str, engine: Engine) -> None:
        """Note a watched engine's new process; forget an engine with another profile or device."""
        watched = self._watched.get(name)
        if watched is None:
            return
        if _subject(watched.placement) != _subject(engine.placement):
            del self._watched[name]
            return
        if watched.generation != engine.generation:
            watched.generation, watched.gathered = engine.generation, None
        watched.placement = engine.placement

    def _remembered(self, engine: Engine) -> _Watched:
        """Begin to watch an engine, with the ledger's entries of its present profile and device."""
        placement = engine.placement
        kept = self._store.ledger(
            model=placement.model, replica_id=placement.replica_id, limit=RECENT
        )
        since = self._marks.lifted_at(placement.candidate.profile_id)
        same = _subject(placement)
        own = [e for e in kept if (e.profile_id, e.device_id) == same and e.at > since]
        return _Watched(
            placement,
            engine.generation,
            tracks=rebuild_tracks(reversed(own)),
            last=own[0] if own else None,
            judged=next((e for e in own if e.findings), None),
            alike=next((n for n, e in enumerate(own) if e.other_lengths), RECENT),
        )

    def _busy_shares(self, sample: TrafficSample) -> dict[str, float]:
        """Share of the time since the last look that each engine was busy."""
        before = self._sample
        if before is None or before.epoch != sample.epoch or sample.at <= before.at:
            return {}
        shares = {}
        for name, count in sample.replicas.items():
            old = before.replicas.get(name)
            if old is not None and old.generation == count.generation:
                busy = (count.busy_seconds - old.busy_seconds) / (sample.at - before.at)
                shares[name] = min(1.0, max(0.0, busy))
        return shares

    def _disturbed(self) -> set[str]:
        """Devices on which an engine starts or a profile is measured."""
        starting = {
            e.placement.device_id for e in self._engines() if e.state is ReplicaState.STARTING
        }
        return starting | {partition.device_id for partition in self._leases()}

    def _grow(
        self,
        name: str,
        watched: _Watched,
        count: ReplicaCount,
        at: float,
        on_device: Sequence[tuple[str, Candidate]],
    ) -> None:
        before = watched.gathered
        if before is None or not before.goes_on(count) or len(before.looks) >= LONGEST_LOOKS:
            watched.gathered = OpenWindow(at, count, count)
            return
        own = watched.placement
        others = [(c, self._busy.get(other, 0.0)) for other, c in on_device if other != name]
        sharing = sharing_factor(own.partition.mode, own.candidate, others)
        watched.gathered = before.after(count, sharing)

    # -- judging -----------------------------------------------------------------------------

    def _judge(self, at: float) -> None:
        """Compare the full windows, in the order in which they began."""
        full: list[tuple[OpenWindow, str, FullWindow]] = []
        for name, watched in self._watched.items():
            gathered = watched.gathered
            if gathered is None:
                continue
            window = gathered.full(at, self._options.window_requests, self._options.window_seconds)
            if window is not None:
                full.append((gathered, name, window))
        full.sort(key=lambda one: one[0].began_at)
        seen: list[tuple[str, LedgerEntry, Verdict]] = []
        for gathered, name, window in full[:JUDGED_PER_LOOK]:
            watched = self._watched[name]
            watched.gathered = OpenWindow(at, gathered.last, gathered.last)
            before = verdict_of(watched.tracks)
            entry = self._compare(watched, window)
            if entry is not None:
                seen.append((name, entry, before))
        if not seen:
            return
        self._keep([entry for _, entry, _ in seen])
        with self._journal.one_transaction():
            for name, entry, before in seen:
                self._tell(name, self._watched[name], entry, before)
        for profile_id in dict.fromkeys(entry.profile_id for _, entry, _ in seen if entry.findings):
            self._correct(profile_id)

    def _compare(self, watched: _Watched, full: FullWindow) -> LedgerEntry | None:
        """Compare a window with what its profile says; None if the profile says nothing of it."""
        profile, scale = self._predictor(watched.placement)
        if profile is None:
            return None
        wanted = expected(
            profile,
            full.looks,
            prompt_tokens=full.prompt_tokens,
            output_tokens=full.output_tokens,
            scale=scale,
        )
        if wanted is None:
            return None
        placement = watched.placement
        seen = () if wanted.other_lengths else full.comparisons(wanted, tolerance(profile))
        watched.tracks, findings = add_window(watched.tracks, seen)
        entry = LedgerEntry(
            at=self._clock.utc_iso(),
            model=placement.model,
            replica_id=placement.replica_id,
            device_id=placement.device_id,
            hardware=placement.candidate.hardware,
            profile_id=placement.candidate.profile_id,
            profile_kind=placement.candidate.profile_kind,
            requests=full.requests,
            seconds=full.seconds,
            batch=wanted.batch,
            prompt_tokens=full.prompt_tokens,
            output_tokens=full.output_tokens,
            sharing=wanted.sharing,
            findings=findings,
            other_lengths=wanted.other_lengths,
        )
        watched.last = entry
        if findings:
            watched.judged = entry
        return entry

    def _keep(self, entries: Sequence[LedgerEntry]) -> None:
        """Write to the ledger; a failing store must not keep the verdicts from being reported."""
        try:
            self._store.add_ledger_entries(entries)
        except PartitiondError as error:
            names = ", ".join(entry.replica_id for entry in entries)
            log.error("windows are not in the ledger, of %s: %s", names, error)

    def _predictor(self, placement: Placement) -> tuple[Profile | None, float]:
        """Return the profile that predicts a replica, and the factor on the profile's times.

        A profile that was derived for a plan is not kept. The profile that it was derived from has
        the same shape, and the candidate says how much slower its size is.
        """
        candidate = placement.candidate
        source = candidate.profile_id.partition("@")[0]
        try:
            profile = self._store.profile(source)
        except NotFoundError:
            return None, 1.0
        if source == candidate.profile_id:
            return profile, 1.0
        point = profile.point(candidate.batch)
        planned = candidate.output_tokens_per_s / candidate.correction
        if point is None or planned <= 0:
            return None, 1.0
        return profile, point.output_tokens_per_s / planned

    def _tell(self, engine: str, watched: _Watched, entry: LedgerEntry, before: Verdict) -> None:
        """Note a changed verdict; windows that lack a figure, or all figures, change none."""
        if entry.other_lengths and watched.alike >= RECENT:
            self._journal.note("drift-lengths", engine, self._words(entry) + ".")
        watched.alike = 0 if entry.other_lengths else watched.alike + 1
        after = verdict_of(watched.tracks)
        if after is before:
            return
        if after in _OFF:
            if entry.sentence:
                self._journal.note("drift", engine, self._words(entry) + ".")
        elif before in _OFF:
            words = "it does again what its profile predicts at its load."
            self._journal.note("drift-over", engine, words)

    # -- acting ------------------------------------------------------------------------------

    def _correct(self, profile_id: str) -> None:
        """Set, change or lift the correction of a profile's figures."""
        entries = self._on_profile(profile_id)
        before = self._marks.corrections.get(profile_id)
        after = correction_of(entries, before, self._clock.utc_iso())
        # Replicas keep a superseded profile until a plan is applied; no correction is set for it.
        if after != before and (after is None or self.remeasures.counts(profile_id)):
            self._set(profile_id, after, "its replicas do again what it predicts")

    def _set(self, profile_id: str, after: Correction | None, why: str) -> None:
        known = after or self._marks.corrections.get(profile_id)
        self._marks.set(profile_id, after)
        if not self._options.correct or known is None:
            return
        model = known.model
        if after is None:
            self._journal.note("figures-restored", model, f"{profile_id}: {why}.")
        else:
            self._journal.note(
                "figures-corrected",
                model,
                f"{profile_id}: plans take {after.factor:.2f} of its rates, because "
                f"{after.replicas} replica(s) take {after.ratio:.2f} times as long as it predicts.",
            )
        self._changed()

    def _drifting(self) -> dict[str, str]:
        """Return the profiles that their replicas together disagree with, and how."""
        found = {}
        entries = [watched.judged for watched in self._watched.values()]
        judged = by_key((entry.profile_id, entry) for entry in entries if entry is not None)
        for profile_id, own in judged.items():
            together = pool_verdicts(own)
            if together in _OFF:
                pace = [f for e in own if (f := e.finding(Figure.PACE))]
                off = [f for f in pace if f.verdict is together]
                worst = max(off, key=lambda f: abs(f.ratio - 1))
                found[profile_id] = (
                    f"its replicas take {worst.ratio:.2f} times as long as it predicts"
                )
        for correction in self._marks.corrections.values():
            found.setdefault(
                correction.profile_id,
                f"its replicas took {correction.ratio:.2f} times as long as it predicts",
            )
        return found


def _subject(placement: Placement) -> tuple[str, str]:
    """Return profile and device of a placement: windows of others are not compared with it."""
    return placement.candidate.profile_id, placement.device_id
