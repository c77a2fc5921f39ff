"""Stores the requests and the CPU time of runs on real engines, for a later comparison.

A folder holds the set-up once (`setup.json`: plan, models, profiles). Each run adds a line to
`runs.jsonl` and a file for each model, in the format of `loadgen --save`. All later comparisons
and fits are made from these files, so that nothing has to be measured twice.
"""

import asyncio
import dataclasses
import enum
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from bench.processes import command_of, cpu_time, with_folder
from bench.serving.demo_fleet import DemoFleet
from bench.serving.mixed_load import load_of
from loadgen import OpenLoopResult, open_loop
from loadgen.results.runs import OPEN, Run
from loadgen.results.store import load_run, save_run
from partitiond.core.model.spec import ModelSpec
from partitiond.core.plan.record import Plan
from partitiond.core.profile.record import Profile
from partitiond.serde import from_stored_json, to_jsonable, to_stored_json
from partitiond.simulated.fleet.arrivals import SyntheticArrivals, offsets

WARM_UP_SECONDS: Final = 10.0
REQUEST_SECONDS: Final = 120.0


class Purpose(enum.StrEnum):
    """The purpose of a run: parameters are never tested on the loads that they were fitted to."""

    FIT = "fit"
    TEST = "test"


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """The set-up that ran.

    Attributes:
        specs, profiles: those of the plan's models.
        max_queue, max_wait_seconds: the proxy's limits.
    """

    plan: Plan
    specs: tuple[ModelSpec, ...]
    profiles: tuple[Profile, ...]
    max_queue: int
    max_wait_seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds used in a run.

    Attributes:
        seconds: clock time in which they were used: up to the end of the last request.
        client, proxy: those of the load generator and of the proxy's processes.
    """

    seconds: float = 0.0
    client: float = 0.0
    proxy: float = 0.0

    def since(self, before: "Cpu") -> "Cpu":
        """The CPU seconds used since `before`."""
        return Cpu(
            self.seconds - before.seconds,
            self.client - before.client,
            self.proxy - before.proxy,
        )


@dataclasses.dataclass(frozen=True, slots=True)
class RunHead:
    """The description of a run.

    Attributes:
        load: share of the load that the plan says it serves.
        turn: tells apart runs of one purpose and load, which send the very same requests.
        rates: requests/s by model.
        seed: seed of times and lengths.
        seconds: length of the window; the warm-up comes before it.
        cpu: CPU time of the load generator and the proxy.
    """

    purpose: Purpose
    load: float
    turn: int
    rates: Mapping[str, float]
    seed: int
    seconds: float
    warm_up_seconds: float = WARM_UP_SECONDS
    cpu: Cpu = dataclasses.field(default_factory=Cpu)

    def file_of(self, model: str) -> str:
        """Name of the file with the model's requests."""
        return f"{self.purpose.value}-{self.load:g}-{self.turn}-{model}.jsonl"

    def seed_of(self, model: str) -> int:
        """The seed of one model."""
        return self.seed + list(self.rates).index(model)


@dataclasses.dataclass(frozen=True, slots=True)
class Trace:
    """A run with its requests, by model; times count from the window's opening."""

    head: RunHead
    runs: Mapping[str, Run]


def store_setup(folder: Path, setup: Setup) -> None:
    """Begin a folder; files of an earlier run in the folder are deleted."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / "runs.jsonl", *folder.glob("fit-*.jsonl"), *folder.glob("test-*.jsonl")]:
        old.unlink(missing_ok=True)
    (folder / "setup.json").write_text(to_stored_json(setup) + "\n", encoding="utf-8")


def store(folder: Path, trace: Trace) -> None:
    """Add a run. Its line is written last, so that every listed run is complete."""
    for model, run in trace.runs.items():
        save_run(run, folder / trace.head.file_of(model))
    with (folder / "runs.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(to_jsonable(trace.head)) + "\n")


def load(folder: Path) -> tuple[Setup, list[Trace]]:
    """Everything in a folder.

    Raises:
        InputError: a file is missing or was not written by this module.
    """
    setup = from_stored_json(Setup, (folder / "setup.json").read_bytes())
    lines = (folder / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    heads = [from_stored_json(RunHead, line) for line in lines]
    return setup, [
        Trace(head, {model: load_run(folder / head.file_of(model)) for model in head.rates})
        for head in heads
    ]


async def measured(fleet: DemoFleet, setup: Setup, head: RunHead, made: SyntheticArrivals) -> Trace:
    """Send to all models at once, through the real proxy to the real engines."""
    specs = {spec.name: spec for spec in setup.specs}
    before, began = cpu_of(fleet), time.time()
    results = await asyncio.gather(
        *(
            open_loop(
                fleet.settings.proxy_url,
                load_of(specs[name], head.seed_of(name)),
                arrivals=offsets(made, rate, head.seed_of(name)),
                seconds=head.seconds,
                warmup_seconds=head.warm_up_seconds,
                timeout_seconds=REQUEST_SECONDS,
            )
            for name, rate in head.rates.items()
        )
    )
    used = cpu_of(fleet).since(before)
    runs = {
        name: _run(result, head, began) for name, result in zip(head.rates, results, strict=True)
    }
    return Trace(dataclasses.replace(head, cpu=used), runs)


def _run(result: OpenLoopResult, head: RunHead, began: float) -> Run:
    return Run(
        OPEN,
        f"{head.load:g} of the plan",
        result.records,
        result.opened,
        result.closed,
        instrument=result.instrument,
        started_unix=began,
    )


def cpu_of(fleet: DemoFleet) -> Cpu:
    """CPU seconds so far of this process and of the proxy's."""
    used = sum(
        cpu_time(pid, children=False).total
        for pid in with_folder(fleet.settings.run_dir)
        if "partitiond.proxy" in command_of(pid)
    )
    return Cpu(time.monotonic(), time.process_time(), used)


def repeated(traces: Sequence[Trace]) -> Iterator[tuple[Trace, ...]]:
    """Groups of test runs that sent the same requests, in the order of their loads."""
    tests = [trace for trace in traces if trace.head.purpose is Purpose.TEST]
    for factor in sorted({trace.head.load for trace in tests}):
        yield tuple(trace for trace in tests if trace.head.load == factor)
