"""Stores the requests of runs on real engines, for a later comparison.

A folder holds the set-up once (`setup.json`: plan, models, profiles). Each run adds a line to
`runs.jsonl` and a file for each model, in the format of `loadgen --save`. All later comparisons
are made from these files, so that nothing has to be measured twice.
"""

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

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
class RunHead:
    """The description of a run.

    Attributes:
        load: share of the load that the plan says it serves.
        turn: tells apart runs of one load, which send the very same requests.
        rates: requests/s by model.
        seed: seed of times and lengths.
        seconds: length of the window; the warm-up comes before it.
    """

    load: float
    turn: int
    rates: Mapping[str, float]
    seed: int
    seconds: float
    warm_up_seconds: float = WARM_UP_SECONDS

    def file_of(self, model: str) -> str:
        """Name of the file with the model's requests."""
        return f"test-{self.load:g}-{self.turn}-{model}.jsonl"

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
    for old in [folder / "runs.jsonl", *folder.glob("test-*.jsonl")]:
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
    began = time.time()
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
    runs = {
        name: _run(result, head, began) for name, result in zip(head.rates, results, strict=True)
    }
    return Trace(head, runs)


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


def repeated(traces: Sequence[Trace]) -> Iterator[tuple[Trace, ...]]:
    """Groups of runs that sent the same requests, in the order of their loads."""
    for factor in sorted({trace.head.load for trace in traces}):
        yield tuple(trace for trace in traces if trace.head.load == factor)
