"""Runs the steps that compare: engines start once side by side, and windows on them alternate.

A grid is a list of engines and a list of arms. An arm puts load on some of the engines, the others
idle. The arms follow each other, then the deciding and the uncertain ones again in reverse order,
so that drift is in all of them.
"""

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from bench.gpu_check.gain import Gain, Rate, gain, rate_of
from bench.gpu_check.lab import SHARE, Lab, Running, Want
from bench.gpu_check.load_worker import CERTAIN
from bench.gpu_check.mps import MpsUnavailableError
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.side_by_side import Together
from bench.gpu_check.steps import Outcome
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.profile.sharing import ReplicationRun
from partitiond.core.units import GIB

MODEL: Final = "opt-125m"
NEEDS: Final = (f"2.{MODEL}",)
MODES: Final = {"mps": SharingMode.MPS, "slices": SharingMode.MEMORY, "cores": SharingMode.CORES}
PROVED: Final = "1.mps"
"""MPS is proved by a probe before a trial relies on it."""
SWEEPS: Final = {
    "opt-125m": "2.opt-125m",
    "opt-1.3b": "6.opt-1.3b",
    "qwen3-0.6b": "16.qwen3-0.6b",
    "opt-2.7b": "17.opt-2.7b",
    "opt-6.7b": "17.opt-6.7b",
    "opt-13b": "17.opt-13b",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Arm:
    """What one window measures.

    Attributes:
        columns: first columns of its row.
        engines: indexes of the engines under load.
        batch: requests in flight at each.
        single: it is one of the single engines that the others are compared with.
        output_tokens: of its requests; None for the engine's workload.
    """

    columns: Mapping[str, Any]
    engines: tuple[int, ...]
    batch: int
    single: bool = False
    output_tokens: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """The engines of a grid, and its arms."""

    wants: tuple[Want, ...]
    arms: tuple[Arm, ...]


def needs_of(mode: str, *trials: str) -> tuple[str, ...]:
    """What a trial needs in this mode."""
    return (PROVED, *trials) if mode == "mps" else trials


def require_caps(lab: Lab, what: str) -> None:
    """Raises MpsUnavailableError if a client saw more "SMs" or "memory" than its cap."""
    told = lab.ledger.data(PROVED).get("uncapped")
    # A checkpoint of an earlier release has one text for both.
    problem = told.get(what) if isinstance(told, Mapping) else told
    if problem:
        raise MpsUnavailableError(problem)


@contextlib.asynccontextmanager
async def sharing_device(
    lab: Lab,
    wants: Sequence[Want],
    mode: SharingMode,
    *,
    sm_percent: int = 100,
    limit_bytes: int = 0,
    native: int = 0,
) -> AsyncIterator[list[Running]]:
    """Run engines that share the device in this mode; an MPS daemon ends together with them.

    Under MPS, a percentage caps the SMs of each engine, and reserves none. The last `native`
    engines are no clients of MPS.

    Raises:
        MpsUnavailableError: MPS was asked for and does not start.
        EngineError: an engine did not start.
    """
    async with contextlib.AsyncExitStack() as stack:
        if mode is SharingMode.MPS:
            daemon = await stack.enter_async_context(lab.mps())
            env = daemon.client_env(sm_percent, limit_bytes)
            clients = len(wants) - native
            wants = [
                dataclasses.replace(want, env=env) if number < clients else want
                for number, want in enumerate(wants)
            ]
        yield await stack.enter_async_context(lab.engines(wants))


# -- windows in alternation ------------------------------------------------------------------


async def alternated(
    arms: Sequence[Arm], measure: Callable[[Arm], Awaitable[Together]]
) -> list[list[Together]]:
    """The windows of each arm, as `measure` gives them."""
    found = [[await measure(arm)] for arm in arms]
    for number in reversed(again(arms, found)):
        found[number].append(await measure(arms[number]))
    return found


def on(lab: Lab, running: Sequence[Running]) -> Callable[[Arm], Awaitable[Together]]:
    """Measures arms on engines that are ready."""

    async def measure(arm: Arm) -> Together:
        engines = [running[index] for index in arm.engines]
        workload = None
        if arm.output_tokens is not None:
            workload = dataclasses.replace(engines[0].workload, output_tokens=arm.output_tokens)
        return await lab.load(engines, [arm.batch] * len(engines), workload)

    return measure


def again(arms: Sequence[Arm], found: Sequence[Sequence[Together]]) -> list[int]:
    """The arms to measure once more: uncertain ones, and the two that decide the gain. Pure."""
    rates = [rate_of(windows) for windows in found]
    wanted = {number for number, rate in enumerate(rates) if rate.share > CERTAIN}
    for singles in (True, False) if any(arm.single for arm in arms) else ():
        wanted.add(best_of(arms, rates, single=singles))
    return sorted(wanted)


def best_of(arms: Sequence[Arm], rates: Sequence[Rate], *, single: bool) -> int:
    """The fastest of the single engines, or of the others."""
    among = [number for number, arm in enumerate(arms) if arm.single is single]
    return max(among, key=lambda number: rates[number].tokens_per_s)


def rows_of(arms: Sequence[Arm], found: Sequence[Sequence[Together]]) -> list[dict[str, Any]]:
    """A row for each arm, beside the best single engine if there is one. Pure."""
    rates = [rate_of(windows) for windows in found]
    gains = gains_of(arms, rates)
    rows = []
    for arm, windows, rate, over in zip(arms, found, rates, gains, strict=True):
        row = {
            **arm.columns,
            "batch each": arm.batch,
            **windows[-1].row(),
            "output tokens/s": round(rate.tokens_per_s, 1),
            "half width": round(rate.half_width, 1),
            "windows": len(windows),
        }
        if over is not None:
            row["by best single"] = f"{over.ratio:.3f} ± {over.half_width:.3f}"
            row["shown"] = over.verdict
        rows.append(row)
    return rows


def gains_of(arms: Sequence[Arm], rates: Sequence[Rate]) -> list[Gain | None]:
    """The gain of each arm over the best single engine; None for single engines themselves."""
    if not any(arm.single for arm in arms):
        return [None] * len(arms)
    single = rates[best_of(arms, rates, single=True)]
    return [
        None if arm.single else gain(rate, single) for arm, rate in zip(arms, rates, strict=True)
    ]


def headline(arms: Sequence[Arm], found: Sequence[Sequence[Together]]) -> str:
    """What the best arm gains, in words. Pure."""
    rates = [rate_of(windows) for windows in found]
    best = best_of(arms, rates, single=False)
    over = gains_of(arms, rates)[best]
    assert over is not None
    return (
        f"{_named(arms[best])}: {over.ratio:.2f} ± {over.half_width:.2f} times the best single "
        f"engine ({_named(arms[best_of(arms, rates, single=True)])}): {over.verdict}."
    )


def _named(arm: Arm) -> str:
    """The columns in which the arm differs from those of its kind."""
    same = {"replicas", "sharing"} if arm.single else set()
    return ", ".join(f"{name} {value}" for name, value in arm.columns.items() if name not in same)


def as_run(
    arm: Arm, windows: Sequence[Together], mode: SharingMode, cores_each: int
) -> ReplicationRun:
    """An arm's windows in the form that the profile keeps. Pure."""
    last, rate = windows[-1], rate_of(windows)
    factor = rate.tokens_per_s / last.output_tokens_per_s if last.output_tokens_per_s else 1.0
    return ReplicationRun(
        replicas=len(last.each),
        mode=mode.value,
        cores_each=cores_each,
        batch_each=arm.batch,
        output_tokens_per_s=tuple(factor * r["output_tokens_per_s"] for r in last.each),
        half_width=rate.half_width,
        tpot_p95_seconds=last.worst("tpot_p95_seconds") or 0.0,
        ttft_p95_seconds=last.worst("ttft_p95_seconds") or 0.0,
        windows=len(windows),
        telemetry=last.telemetry,
    )


def shown(mode: SharingMode) -> str:
    """The mode in the paper's words."""
    words = {SharingMode.MPS: "MPS", SharingMode.CORES: "cores of their own"}
    return words.get(mode, "time-sliced")


# -- replicas beside the best single engine --------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Replicas:
    """Measures numbers of replicas and single engines of one model, all on the same engines.

    The replicas together and each single engine have the same KV cache in all, so a gain is one at
    equal total KV. The paper's Figure 5 divides the memory anew for each number; a start each would
    take most of the time, and what a small model does not need of its share changes nothing.

    Attributes:
        number: the step.
        model: its sweep names the batch.
    """

    number: int
    model: str

    @property
    def title(self) -> str:
        return f"{self.model}: replicas beside the best single engine"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        return tuple(
            Trial(
                f"{self.number}.{mode}-{name}",
                needs_of(mode, SWEEPS[self.model]),
                starts=1,  # they start side by side
                # The first mode finds the best number of API servers.
                windows=len(_counts(scale, most))
                + (len(scale.servers) if mode == scale.modes[0] else 1)
                + 2,
                other_seconds=2.0 + most,
            )
            for mode in scale.modes
            for name, most in (("few", scale.few), ("many", scale.many))
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        name, _, number = trial.id.partition(".")[2].partition("-")
        mode, most = MODES[name], lab.scale.few if number == "few" else lab.scale.many
        known = best_servers(lab, self.number)
        servers = lab.scale.servers if known is None else (known,)
        wants = await _replicas_wants(lab, self.model, most, servers)
        async with sharing_device(lab, wants, mode, native=len(servers)) as running:
            started, best = [engine.want for engine in running], lab.best_batch(self.model)
            arms = replicas_arms(started, _counts(lab.scale, most), shown(mode), best)
            cores_each = len(running[0].handle.launch.cores)
            found = await alternated(arms, on(lab, running))
        runs = [
            as_run(arm, windows, mode, cores_each)
            for arm, windows in zip(arms, found, strict=True)
            if not arm.single
        ]
        rows = rows_of(arms, found)
        said = [headline(arms, found)]
        missing = {want.servers for want in wants} - {want.servers for want in started}
        if missing:
            said.append(f"No engine of {', '.join(map(str, sorted(missing)))} API servers started.")
        sharing = lab.keep_runs(self.model, runs)
        said.append(f"{shown(mode)}: u = {sharing.busy:.3f}, kappa = {sharing.kappa:.4f}.")
        kv = [sum(e.handle.launch.kv_cache_bytes for e in some) / GIB
              for some in (running[:most], running[most : most + 1])]  # fmt: skip
        said.append(f"KV cache in all: replicas {kv[0]:.2f} GiB, a single engine {kv[1]:.2f} GiB.")
        rates = [rate_of(windows) for windows in found]
        fastest = arms[best_of(arms, rates, single=True)].columns["API servers"]
        return Outcome({"rows": rows, "notes": said, "servers": fastest})


def best_servers(lab: Lab, step: int) -> int | None:
    """API servers of the fastest single engine in an earlier trial of a step."""
    for name, entry in lab.ledger.entries.items():
        if name.startswith(f"{step}.") and "servers" in entry.data:
            return int(entry.data["servers"])
    return None


def _counts(scale: Scale, most: int) -> list[int]:
    return [count for count in scale.counts if count <= most]


async def _replicas_wants(lab: Lab, model: str, most: int, servers: Sequence[int]) -> list[Want]:
    """The replicas, then the single engines; one of several servers is left out if it fails."""
    share = SHARE / (1 + len(servers))
    single = Want(model, lab.best_batch(model), share=share, pinned=False)
    one = Want(model, max(1, single.batch // most), share=share / most)
    each = min(await lab.largest_batch(one), max(1, await lab.largest_batch(single) // most))
    one, single = (
        dataclasses.replace(want, batch=batch)
        for want, batch in ((one, each), (single, each * most))
    )
    return [one] * most + [
        dataclasses.replace(single, servers=count, optional=count > min(servers))
        for count in servers
    ]


def replicas_arms(
    started: Sequence[Want], counts: Sequence[int], sharing: str, best: int
) -> list[Arm]:
    """The arms of replicas and of the single engines behind them that started. Pure.

    Args:
        started: as many replicas as the largest of `counts`, and single engines.
        counts: numbers of replicas that are measured.
        sharing: how the replicas share the device.
        best: a single engine's best batch, which its memory may not hold.
    """
    arms = [
        Arm({"replicas": count, "sharing": sharing}, tuple(range(count)), started[0].batch)
        for count in counts
    ]
    for number, want in enumerate(started[max(counts) :], start=max(counts)):
        columns = {"replicas": 1, "sharing": "single engine", "API servers": want.servers}
        if want.batch < best:
            columns["held"] = f"to batch {want.batch} of {best}"
        arms.append(Arm(columns, (number,), want.batch, single=True))
    return arms


# -- other grids -----------------------------------------------------------------------------

Planner = Callable[[Lab, str], Plan]


@dataclasses.dataclass(frozen=True)
class Grid:
    """Measures arms that are compared with each other alone.

    Attributes:
        names: of its trials, by what varies; each is one set of engines.
        planned: the engines and arms of a trial, by the lab and the name.
        mps: the engines are clients of MPS; a name may end with the percentage of their SMs.
        windows: windows of a trial.
    """

    number: int
    title: str
    names: Callable[[Scale], Sequence[str]]
    planned: Planner
    needs: tuple[str, ...] = NEEDS
    mps: bool = False
    windows: int = 4

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        needs = needs_of("mps" if self.mps else "", *self.needs)
        return tuple(
            Trial(f"{self.number}.{name}", needs, starts=1, windows=self.windows, other_seconds=4.0)
            for name in self.names(scale)
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        name = trial.id.partition(".")[2]
        plan = self.planned(lab, name)
        mode = SharingMode.MPS if self.mps else SharingMode.MEMORY
        percent = int(name.rpartition("-")[2]) if self.mps else 100
        if percent < 100:
            require_caps(lab, "SMs")
        async with sharing_device(lab, plan.wants, mode, sm_percent=percent) as running:
            arms = [
                dataclasses.replace(
                    arm, batch=min(arm.batch, running[arm.engines[0]].handle.launch.max_num_seqs)
                )
                for arm in plan.arms
            ]
            found = await alternated(arms, on(lab, running))
        rows = rows_of(arms, found)
        return Outcome({"rows": rows})


def _eager(lab: Lab, _name: str) -> Plan:
    """One engine with CUDA graphs, and one without."""
    graphs = Want(MODEL, lab.best_batch(MODEL), share=SHARE / 2, pinned=False)
    flags = () if lab.tools.engine_kind == "simulated" else ("--enforce-eager",)
    wants = (graphs, dataclasses.replace(graphs, args=flags))
    arms = (
        Arm({"CUDA graphs": "on"}, (0,), graphs.batch),
        Arm({"CUDA graphs": "off"}, (1,), graphs.batch),
    )
    return Plan(wants, arms)


def _capped(lab: Lab, name: str) -> Plan:
    """Numbers of replicas, each with the same cap on its SMs."""
    most, percent = lab.scale.few, int(name.rpartition("-")[2])
    batch = max(1, lab.best_batch(MODEL) // most)
    arms = [
        Arm({"SM %": percent, "replicas": count}, tuple(range(count)), batch)
        for count in _counts(lab.scale, most)
    ]
    return Plan((Want(MODEL, batch, share=SHARE / most),) * most, tuple(arms))


def _lengths(lab: Lab, name: str) -> Plan:
    """One engine, and outputs of several lengths."""
    model = name.partition("-")[2]
    outputs = lab.scale.outputs
    workload = dataclasses.replace(lab.scale.workload, output_tokens=max(outputs))
    want = Want(model, lab.scale.max_batch, workload=workload)
    arms = [
        Arm({"model": model, "output tokens": tokens}, (0,), want.batch, output_tokens=tokens)
        for tokens in outputs
    ]
    return Plan((want,), tuple(arms))


def _fractions(lab: Lab, _name: str) -> Plan:
    """Engines with parts of the memory, each at the largest batch that its KV cache holds."""
    shares = lab.scale.memory_shares
    arms = [
        Arm({"share of the memory": share}, (number,), lab.scale.max_batch)
        for number, share in enumerate(shares)
    ]
    wants = [Want(MODEL, lab.scale.max_batch, share=share, pinned=False) for share in shares]
    return Plan(tuple(wants), tuple(arms))


EAGER: Final = Grid(3, "CUDA graphs on and off", lambda _: ("eager",), _eager, windows=2)
CAPPED: Final = Grid(
    8,
    "Replicas with shares of the SMs",
    lambda scale: [f"sm-{percent}" for percent in scale.sm_percents],
    _capped,
    mps=True,
)
LENGTHS: Final = Grid(
    9, "Output lengths", lambda scale: (f"output-{scale.lengths_model}",), _lengths, needs=()
)
FRACTIONS: Final = Grid(18, "Throughput by share of the memory", lambda _: ("memory",), _fractions)
