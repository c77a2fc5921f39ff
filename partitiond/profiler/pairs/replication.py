"""Measures 1, 2, 3 ... replicas of one model side by side on the same device (Figure 5).

The same windows answer two questions. The gain of replication: the sum of throughputs of n replicas
on an n-th of the device each, against one engine on all of it. The cost of sharing: n replicas
under load at once against one replica of the very same kind alone, from which kappa and u are
fitted. On a GPU both have the same baseline; on a CPU an engine on half of the cores differs from
one on all of them, so the replica alone is an arrangement of its own.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from loadgen import Samples
from loadgen.results.statistics import half_width, summarise
from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import Device, DeviceKind, SharingMode
from partitiond.core.model.resolved import ResolvedModel
from partitiond.core.performance.interference import fit_sharing
from partitiond.core.profile.sharing import ReplicationRun, Sharing
from partitiond.profiler.pairs.arrangement import Arrangement, DeviceShare, Replica
from partitiond.profiler.pairs.side_by_side import CommonWindow, Tell, WindowPlan, measure
from partitiond.profiler.sweep.bench import Bench
from partitiond.profiler.sweep.points import combine_telemetry


@dataclasses.dataclass(frozen=True, slots=True)
class EvenSplit:
    """One device cut into equal shares.

    Attributes:
        mode: how the replicas share the device.
        cores: all host cores that the replicas have together.
        memory_bytes: all memory that the replicas have together.
        batch_of: requests in flight at each replica, by the number of replicas.
        sm_percent_of: cap on each replica's SMs under MPS, by their number; 0 for none.
        extra_env: environment of each engine, for callers that make partitions in another way.
        actuated: the engine runner makes the partitions: memory shares, or MPS shares.
    """

    mode: SharingMode
    cores: tuple[int, ...]
    memory_bytes: int
    batch_of: Callable[[int], int]
    sm_percent_of: Callable[[int], int] = lambda _: 0
    extra_env: tuple[tuple[str, str], ...] = ()
    actuated: bool = False

    def cores_each(self, replicas: int) -> int:
        """Return cores of each of `replicas` replicas, at least one; left-over cores stay
        unused.
        """
        return max(1, len(self.cores) // replicas)

    def shares(self, replicas: int) -> tuple[DeviceShare, ...]:
        """Return the share of each of `replicas` replicas."""
        each = self.cores_each(replicas)
        return tuple(
            DeviceShare(
                cores=tuple(self.cores[(i * each + k) % len(self.cores)] for k in range(each)),
                memory_bytes=self.memory_bytes // replicas,
                batch=self.batch_of(replicas),
                sm_percent=self.sm_percent_of(replicas),
                extra_env=self.extra_env,
                mode=self.mode if self.actuated else None,
            )
            for i in range(replicas)
        )


def arrangements_of(
    model: ResolvedModel, device: Device, split: EvenSplit, counts: Sequence[int]
) -> tuple[Arrangement, ...]:
    """Return one arrangement for each number of replicas, and on a CPU each kind of replica alone.

    Raises:
        InputError: more replicas than cores on a CPU device, or a count below one.
    """
    wanted = sorted(set(counts))
    if not wanted or wanted[0] < 1:
        raise InputError(
            f"{list(counts)} are no numbers of replicas.", hint="Give for example --replicas 1,2."
        )
    on_cpu = device.kind is DeviceKind.CPU
    if on_cpu and wanted[-1] > len(split.cores):
        raise InputError(
            f"{wanted[-1]} replicas need a core each; there are {len(split.cores)}.",
            hint=f"Ask for at most {len(split.cores)} replicas, or give --cores more.",
        )
    found = []
    for count in wanted:
        replicas = tuple(Replica(model, share) for share in split.shares(count))
        found.append(Arrangement(_name(count, split, on_cpu), split.mode, replicas))
        if on_cpu and count > 1:
            found.append(Arrangement(_name_alone(count, split), split.mode, replicas[:1]))
    return tuple(found)


def _name(count: int, split: EvenSplit, on_cpu: bool) -> str:
    each = split.cores_each(count)
    cores = "1 core" if each == 1 else f"{each} cores"
    where = f"on {cores}" if on_cpu else f"with 1/{count} of the memory"
    return f"{count} {where}{' each' if count > 1 else ''}"


def _name_alone(count: int, split: EvenSplit) -> str:
    each = split.cores_each(count)
    return f"one of {count}: 1 on {'1 core' if each == 1 else f'{each} cores'}, the rest idle"


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationDifference:
    """Sums of throughputs of two arrangements, compared round by round.

    Attributes:
        ratio: mean sum of `name` over that of `baseline`.
        difference, half_width: mean of the paired differences in tokens/s, and its 95 %
            half-width (infinite with one round).
    """

    name: str
    baseline: str
    ratio: float
    difference: float
    half_width: float

    @property
    def shown(self) -> bool:
        """Whether the interval of the difference excludes zero."""
        return abs(self.difference) > self.half_width


@dataclasses.dataclass(frozen=True, slots=True)
class ReplicationMeasurement:
    """The results of replicating one model.

    Attributes:
        runs: by arrangement name, in the order measured.
        differences: each number of replicas against one engine on the whole device.
        sharing: kappa and u by the cores of each replica; on a GPU by the cores in the run with
            most replicas.
        idle_cores: most CPU time per second that engines without load took; None if unknown.
        notes: what a reader should know.
    """

    runs: tuple[tuple[str, ReplicationRun], ...]
    differences: tuple[ReplicationDifference, ...]
    sharing: tuple[tuple[int, Sharing], ...]
    idle_cores: float | None
    notes: tuple[str, ...]


async def replicate(
    bench: Bench,
    model: ResolvedModel,
    split: EvenSplit,
    *,
    counts: Sequence[int],
    plan: WindowPlan,
    tell: Tell,
) -> ReplicationMeasurement:
    """Measure the windows, and evaluate them.

    Raises:
        InputError: the counts do not fit the device, or a share is too small for a request.
        EngineError: an engine did not start, died, or failed requests.
    """
    arrangements = arrangements_of(model, bench.device, split, counts)
    windows = await measure(bench, arrangements, plan, tell)
    return evaluate(arrangements, windows)


def evaluate(
    arrangements: Sequence[Arrangement], windows: Mapping[str, tuple[CommonWindow, ...]]
) -> ReplicationMeasurement:
    """Compute runs, differences and fits from the windows. Pure."""
    runs = tuple((a.name, run_of(a, windows[a.name])) for a in arrangements)
    idle = [w.idle_cores for ws in windows.values() for w in ws if w.idle_cores is not None]
    return ReplicationMeasurement(
        runs=runs,
        differences=_differences(arrangements, windows),
        sharing=_fits([run for _, run in runs]),
        idle_cores=max(idle, default=None),
        notes=_notes(windows),
    )


def run_of(arrangement: Arrangement, windows: Sequence[CommonWindow]) -> ReplicationRun:
    """Combine the windows of an arrangement into one run: means, worst replica's latencies."""
    sums = [window.total_output_tokens_per_s for window in windows]
    pooled = pool(windows)
    first = arrangement.replicas[0].share
    return ReplicationRun(
        replicas=len(arrangement.replicas),
        mode=arrangement.mode.value,
        cores_each=len(first.cores),
        batch_each=windows[0].batches[0],
        output_tokens_per_s=mean_rates(windows),
        half_width=half_width(sums) if len(sums) > 1 else root_sum(windows[0].half_widths),
        tpot_p95_seconds=max(p95(samples.tpot) for samples in pooled),
        ttft_p95_seconds=max(p95(samples.ttft) for samples in pooled),
        windows=len(windows),
        telemetry=combine_telemetry([(w.telemetry, w.seconds) for w in windows]),
        instrument_cpu=max(w.instrument_cpu for w in windows),
    )


def mean_rates(windows: Sequence[CommonWindow]) -> tuple[float, ...]:
    """Return the mean output tokens/s of each replica over the windows."""
    each = zip(*(window.output_tokens_per_s for window in windows), strict=True)
    return tuple(statistics.fmean(rates) for rates in each)


def pool(windows: Sequence[CommonWindow]) -> list[Samples]:
    """Return latencies of each replica over all windows."""
    pooled = list(windows[0].samples)
    for window in windows[1:]:
        pooled = [one + more for one, more in zip(pooled, window.samples, strict=True)]
    return pooled


def p95(values: Sequence[float]) -> float:
    """Return 95th percentile; 0 without values (no request ended inside any window)."""
    summary = summarise(values)
    return summary.p95 if summary is not None else 0.0


def root_sum(half_widths: Sequence[float]) -> float:
    """Return the half-width of a sum of independent figures."""
    return math.sqrt(math.fsum(w * w for w in half_widths))


def _differences(
    arrangements: Sequence[Arrangement], windows: Mapping[str, tuple[CommonWindow, ...]]
) -> tuple[ReplicationDifference, ...]:
    """Compare each number of replicas with one engine that has all cores and memory."""
    whole = next((a for a in arrangements if _is_whole(a, arrangements)), None)
    if whole is None:
        return ()
    others = [a for a in arrangements if len(a.replicas) > 1]
    return tuple(compare(a.name, windows[a.name], whole.name, windows[whole.name]) for a in others)


def _is_whole(arrangement: Arrangement, all_of_them: Sequence[Arrangement]) -> bool:
    most = max(a.replicas[0].share.memory_bytes for a in all_of_them)
    alone = len(arrangement.replicas) == 1
    return alone and arrangement.replicas[0].share.memory_bytes == most


def compare(
    name: str, ours: Sequence[CommonWindow], base_name: str, base: Sequence[CommonWindow]
) -> ReplicationDifference:
    """Compare round by round, so that drift affects both sides."""
    pairs = [
        (a.total_output_tokens_per_s, b.total_output_tokens_per_s)
        for a, b in zip(ours, base, strict=True)
    ]
    differences = [a - b for a, b in pairs]
    below = statistics.fmean(b for _, b in pairs)
    return ReplicationDifference(
        name=name,
        baseline=base_name,
        ratio=statistics.fmean(a for a, _ in pairs) / below if below > 0 else math.inf,
        difference=statistics.fmean(differences),
        half_width=half_width(differences),
    )


def _fits(runs: Sequence[ReplicationRun]) -> tuple[tuple[int, Sharing], ...]:
    """Return kappa and u of each kind of replica that was measured alone and beside others."""
    if runs[0].mode != SharingMode.CORES.value:
        several = any(r.replicas > 1 for r in runs) and any(r.replicas == 1 for r in runs)
        most = max(runs, key=lambda run: run.replicas)
        return ((most.cores_each, fit_sharing(runs)),) if several else ()
    crowds = {run.cores_each for run in runs if run.replicas > 1}
    alone = {run.cores_each for run in runs if run.replicas == 1}
    return tuple((each, fit_sharing(runs, each)) for each in sorted(crowds & alone))


def _notes(windows: Mapping[str, tuple[CommonWindow, ...]]) -> tuple[str, ...]:
    found = []
    for name, seen in windows.items():
        preempted = sum(window.preemptions for window in seen)
        if preempted:
            found.append(f"{name}: {preempted} requests were preempted; its KV cache is too small")
        saturated = [window.saturated[0] for window in seen if window.saturated]
        if saturated:
            found.append(
                f"{name}: the load generator was saturated in {len(saturated)} of {len(seen)} "
                f"windows, so do not trust them: {saturated[-1]}"
            )
        batches = sorted({batch for window in seen for batch in window.batches})
        if len(batches) > 1:
            found.append(f"{name}: batches differ: {batches}")
    return tuple(found)
