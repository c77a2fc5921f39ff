"""Compares ours with a vLLM engine on the same GPU, cores, client and load, in alternating order.

    python -m bench.serving.gpu_baselines [--model opt-125m] [--replicas 4] [--rounds 3]
        [--in-flight N] [--out gpu-baselines] [--engine-python PYTHON] [--fake]

    defaults   (a) `vllm serve` with default options
    single     (b) the best single engine: its best batch, CUDA graphs, and the best of 1, 2 and 4
                   API server processes, found before the rounds
    naive      (c) equal shares of the memory, without MPS and without cores of their own
    ours           a plan under MPS, applied by a daemon and served through its proxy

Each side has the same number of requests in flight: the batch at which one engine is fastest. The
headline is ours against (b). The report gives medians over the rounds, and the 95 % interval of the
paired differences: an interval that holds 0 shows no difference, and the line says so.

Three figures of each side explain a gain: CPU seconds of the front-end for each request
(tokenising, HTTP, scheduling: everything outside the engine's own loop), the share of the time in
which the GPU ran no kernel at all, and the share of active SMs while the GPU ran kernels.
"""

import argparse
import asyncio
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.gpu_check.__main__ import NO_GPU, NO_GPU_TEXT, first_gpu, prepared, say
from bench.gpu_check.__main__ import parse as check_arguments
from bench.gpu_check.lab import SHARE, Lab, Running, Want
from bench.gpu_check.ledger import replace_file
from bench.gpu_check.runner import Changes
from bench.gpu_check.served import ServingUnavailableError, served
from bench.gpu_check.side_by_side import Together
from bench.paired import Comparison
from bench.serving.cpu_split import CpuSplit
from partitiond.core.errors import PartitiondError
from partitiond.core.hardware.kinds import SharingMode

SIDES: Final = ("defaults", "single", "naive", "ours")
HEADLINE: Final = "single"
API_SERVERS: Final = (1, 2, 4)
UNITS: Final = {
    "output tokens/s": "tok/s",
    "TPOT p95 ms": "ms",
    "TTFT p95 ms": "ms",
    "E2EL mean s": "s",
}

Figures = dict[str, float]


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """The question that the bench answers.

    Attributes:
        in_flight: number of requests in flight at each side.
        servers: number of API server processes of (b).
    """

    model: str
    replicas: int
    in_flight: int
    servers: int


# -- sides ---------------------------------------------------------------------------------------


async def measured(lab: Lab, asked: Question, side: str) -> Figures:
    """One window of one side, started for this window alone."""
    if side == "ours":
        return await _ours(lab, asked)
    if side == "naive":
        return await _naive(lab, asked)
    changes = Changes(defaults=True) if side == "defaults" else Changes(api_servers=asked.servers)
    async with lab.engines([Want(asked.model, asked.in_flight, changes=changes)]) as running:
        return await _window(lab, running, [asked.in_flight])


async def _naive(lab: Lab, asked: Question) -> Figures:
    """Equal `--gpu-memory-utilization` for all engines, on all cores, time-sliced."""
    each = max(1, asked.in_flight // asked.replicas)
    want = Want(asked.model, each, share=SHARE / asked.replicas, pinned=False)
    async with lab.engines([want] * asked.replicas) as running:
        return await _window(lab, running, [each] * asked.replicas)


async def _ours(lab: Lab, asked: Question) -> Figures:
    async with served(lab, SharingMode.MPS) as daemon:
        await daemon.serve(asked.model, asked.replicas)
        views = await daemon.until_serving(asked.replicas, seconds=60)
        pids = [view.pid for view in views if view.pid is not None]
        split = CpuSplit([*pids, *daemon.processes()])
        split.begin()
        found = await daemon.load(asked.model, asked.in_flight, pids)
        return _figures(lab, found, split.end())


async def _window(lab: Lab, running: Sequence[Running], batches: Sequence[int]) -> Figures:
    split = CpuSplit([engine.handle.pid for engine in running])
    split.begin()
    found = await lab.load(running, batches)
    return _figures(lab, found, split.end())


def _figures(lab: Lab, found: Together, cpu: tuple[float, float, float]) -> Figures:
    """All compared figures of one window, without those that the GPU does not report."""
    front, core, seconds = cpu
    tokens = found.output_tokens_per_s
    requests_per_s = tokens / max(1, lab.scale.workload.output_tokens)
    told = found.telemetry
    figures: dict[str, float | None] = {
        **{name: value for name, value in found.row().items() if name in UNITS},
        "J/token": found.joules_per_token,
        "front-end CPU s/request": _by(front / seconds, requests_per_s),
        "engine loop CPU s/request": _by(core / seconds, requests_per_s),
        "idle share": None if told is None or told.gpu_util is None else 1 - told.gpu_util,
        "SM activity": None if told is None else told.sm_activity,
        "SM occupancy": None if told is None else told.sm_occupancy,
    }
    return {name: value for name, value in figures.items() if value is not None}


def _by(share: float, rate: float) -> float | None:
    return share / rate if rate > 0 else None


# -- the rounds ------------------------------------------------------------------------------------


async def best_servers(lab: Lab, model: str, in_flight: int) -> tuple[int, dict[int, float]]:
    """API server processes at which one engine is fastest, and the rate at each number."""
    rates: dict[int, float] = {}
    simulated = lab.tools.engine_kind == "simulated"
    for servers in API_SERVERS[:1] if simulated else API_SERVERS:
        asked = Question(model, 1, in_flight, servers)
        found = await measured(lab, asked, "single")
        rates[servers] = found["output tokens/s"]
        say(f"single engine, {servers} API servers: {rates[servers]:.0f} tokens/s")
    return max(rates, key=rates.__getitem__), rates


def order_of(round_number: int, sides: Sequence[str]) -> tuple[str, ...]:
    """Rotate the sides with each round and reverse every second round: drift hits all. Pure."""
    at = round_number % len(sides)
    rotated = (*sides[at:], *sides[:at])
    return rotated if round_number % 2 == 0 else tuple(reversed(rotated))


async def rounds(
    lab: Lab,
    asked: Question,
    count: int,
    *,
    sides: Sequence[str],
    keep: Callable[[Mapping[str, Sequence[Figures]]], None],
    measure: Callable[[Lab, Question, str], Awaitable[Figures]] = measured,
) -> tuple[dict[str, list[Figures]], dict[str, str]]:
    """Run all sides in every round; leave out the sides that cannot run here, with the reason."""
    found: dict[str, list[Figures]] = {side: [] for side in sides}
    impossible: dict[str, str] = {}
    for number in range(count):
        for side in order_of(number, sides):
            if side in impossible:
                continue
            try:
                figures = await measure(lab, asked, side)
            except ServingUnavailableError as error:
                impossible[side] = str(error)
                say(f"{side}: not possible here: {error}")
                continue
            found[side].append(figures)
            keep(found)
            say(
                f"round {number + 1}/{count} {side}: {figures['output tokens/s']:.0f} tokens/s, "
                f"TPOT p95 {figures.get('TPOT p95 ms', 0.0):.1f} ms"
            )
    return {side: rows for side, rows in found.items() if rows}, impossible


# -- the report ------------------------------------------------------------------------------------


def comparisons(found: Mapping[str, Sequence[Figures]], baseline: str) -> list[Comparison]:
    """Ours against a baseline, for each figure that every window of both has. Pure."""
    ours, base = found.get("ours", ()), found.get(baseline, ())
    rounds_of_both = min(len(ours), len(base))
    return [
        Comparison(name, unit, tuple(r[name] for r in ours[:rounds_of_both]),
                   tuple(r[name] for r in base[:rounds_of_both]))
        for name, unit in UNITS.items()
        if rounds_of_both and all(name in row for row in (*ours, *base))
    ]  # fmt: skip


def breakdown(found: Mapping[str, Sequence[Figures]]) -> list[str]:
    """The figures in which ours differs from the best single engine, in words. Pure."""
    ours, single = _medians(found.get("ours", ())), _medians(found.get(HEADLINE, ()))
    lines = []
    for name, words in (
        ("front-end CPU s/request", "front-end CPU for each request"),
        ("engine loop CPU s/request", "CPU of the engines' own loops for each request"),
        ("idle share", "share of the time without any kernel"),
        ("SM activity", "share of the SMs that were active (overlap raises it)"),
        ("J/token", "energy for each output token"),
    ):
        if name in ours and name in single:
            lines.append(f"{words}: ours {ours[name]:.4g}, best single {single[name]:.4g}")
    rate, activity = "output tokens/s", "SM activity"
    if rate in ours and rate in single and ours.get(activity) and single.get(activity):
        gain, busier = ours[rate] / single[rate], ours[activity] / single[activity]
        lines.append(
            f"the ratio {gain:.2f} is {busier:.2f} from busier SMs times {gain / busier:.2f} from "
            "tokens for each active SM"
        )
    return lines


def _medians(rows: Sequence[Figures]) -> Figures:
    names = set.intersection(*(set(row) for row in rows)) if rows else set()
    return {name: statistics.median(row[name] for row in rows) for name in names}


def report(
    asked: Question, found: Mapping[str, Sequence[Figures]], impossible: Mapping[str, str]
) -> list[str]:
    """Lines for people: the headline first. Pure."""
    lines = [
        f"{asked.model}, {asked.in_flight} requests in flight at each side; ours: "
        f"{asked.replicas} replicas; (b) with {asked.servers} API server processes"
    ]
    if "ours" not in found:
        why = impossible.get("ours", "no window of it was measured")
        lines.append(f"no headline: ours was not measured: {why}")
    titles = {"single": "(b) best single engine", "defaults": "(a) vllm serve, defaults",
              "naive": "(c) equal shares, no MPS, no pinning"}  # fmt: skip
    for side in ("single", "defaults", "naive"):
        pairs = comparisons(found, side)
        if pairs:
            lines += ["", f"ours against {titles[side]}:", *(pair.line() for pair in pairs)]
    told = breakdown(found)
    lines += ["", "where it comes from:", *told] if told else []
    return lines


# -- the command -----------------------------------------------------------------------------------


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving.gpu_baselines", allow_abbrev=False
    )
    parser.add_argument("--model", default="opt-125m", help="of the catalog")
    parser.add_argument("--replicas", type=int, default=4, help="of ours and of (c)")
    parser.add_argument("--rounds", type=int, default=3, help="windows of each side, 3 or more")
    parser.add_argument("--in-flight", type=int, help="requests [the best batch of a sweep]")
    parser.add_argument("--sides", default=",".join(SIDES), help="which of them, as single,ours")
    parser.add_argument("--out", type=Path, default=Path("gpu-baselines"))
    parser.add_argument("--engine-python", type=Path, default=Path(sys.executable))
    parser.add_argument("--fake", action="store_true", help="simulate the GPU and its engines")
    given = parser.parse_args(argv)
    given.sides = tuple(side for side in given.sides.split(",") if side)
    if not given.sides or not set(given.sides) <= set(SIDES):
        parser.error(f"--sides takes some of {','.join(SIDES)}")
    if given.rounds < 3 and not given.fake:
        parser.error("--rounds takes 3 or more: with fewer there is no interval")
    if given.replicas < 1 or (given.in_flight is not None and given.in_flight < given.replicas):
        parser.error("--replicas takes 1 or more, and --in-flight at least as many")
    return given


async def run(given: argparse.Namespace, lab: Lab) -> int:
    """Run the whole bench on a lab; results are on disk after every window."""
    in_flight = given.in_flight
    if not lab.profile_path(given.model).exists():
        await lab.profile(Want(given.model, lab.scale.max_batch))
    in_flight = in_flight or max(given.replicas, lab.best_batch(given.model))
    servers, rates = await best_servers(lab, given.model, in_flight)
    asked = Question(given.model, given.replicas, in_flight, servers)
    path = given.out / "baselines.json"

    def keep(found: Mapping[str, Sequence[Figures]]) -> None:
        content: dict[str, Any] = {
            "hardware": lab.device.hardware,
            "engine": lab.ledger.subject.engine,
            "question": dataclasses.asdict(asked),
            "api_servers": rates,
            "rounds": found,
        }
        replace_file(path, json.dumps(content, indent=1) + "\n")

    found, impossible = await rounds(lab, asked, given.rounds, sides=given.sides, keep=keep)
    lines = report(asked, found, impossible)
    if lab.tools.engine_kind == "simulated":
        lines.insert(0, "Nothing here was measured: the GPU and its engines are simulated.")
    (given.out / "baselines.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"\nwindows are kept in {path}")
    return 0


def main(argv: Sequence[str]) -> int:
    given = parse(argv)
    began = time.monotonic()
    given.out = given.out.absolute()
    given.out.mkdir(parents=True, exist_ok=True)
    passed = ["--out", str(given.out), "--engine-python", str(given.engine_python)]
    arguments = check_arguments([*passed, *(["--fake"] if given.fake else [])])
    try:
        with first_gpu(fake=given.fake) as (gpu, host):
            if gpu is None:
                say(f"{NO_GPU_TEXT} --fake shows what it would do.")
                return NO_GPU
            with prepared(arguments, gpu, host) as lab:
                return asyncio.run(run(given, lab))
    except PartitiondError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say(f"interrupted after {time.monotonic() - began:.0f} s; windows so far are kept")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
