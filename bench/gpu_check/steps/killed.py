"""Runs step 12: kills one of several replicas under MPS, and observes its neighbours."""

import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from bench.gpu_check.lab import Lab
from bench.gpu_check.scale import Scale
from bench.gpu_check.schedule import Trial
from bench.gpu_check.served import Served, served
from bench.gpu_check.steps import Outcome
from bench.gpu_check.steps.grid import MODEL, NEEDS, needs_of
from partitiond.core.hardware.kinds import SharingMode

if TYPE_CHECKING:
    from partitiond.core.views.lists import ReplicaView

MODES: Final = {"mps": SharingMode.MPS, "memory": SharingMode.MEMORY}
SLOTS_PER_REPLICA: Final = 2
SETTLE_SECONDS: Final = 1.0
RECOVER_SECONDS: Final = 600.0
OUTPUT_TOKENS: Final = 64


@dataclasses.dataclass(slots=True)
class Seen:
    """The clients' view: times (monotonic) at which requests ended, with success or not."""

    good: list[float] = dataclasses.field(default_factory=list)
    bad: list[float] = dataclasses.field(default_factory=list)

    def gap_after(self, at: float) -> float | None:
        """Longest time without a successful end after `at`; None without any after it."""
        times = [at, *sorted(t for t in self.good if t > at)]
        return max((b - a for a, b in itertools.pairwise(times)), default=None)


@dataclasses.dataclass(frozen=True)
class Killed:
    """Kills by SIGKILL, as the kernel does when memory runs out: the engine cannot clean up."""

    number: int = 12
    title: str = "A replica killed under MPS"

    def trials(self, scale: Scale, /) -> tuple[Trial, ...]:
        count = scale.planned_replicas
        return tuple(
            Trial(
                f"12.{name}",
                needs_of(name, *NEEDS),
                starts=2 * count,
                windows=0,
                other_seconds=30.0,
            )
            for name in MODES
        )

    async def run(self, trial: Trial, lab: Lab, /) -> Outcome:
        return await _killed(lab, MODES[trial.id.removeprefix("12.")])


async def _killed(lab: Lab, mode: SharingMode) -> Outcome:
    count = lab.scale.planned_replicas
    async with served(lab, mode) as daemon:
        await daemon.serve(MODEL, count)
        before = await daemon.until_serving(count, seconds=30)
        seen, ending, numbers = Seen(), asyncio.Event(), itertools.count()
        slots = [
            asyncio.create_task(_slot(daemon, lab, seen, ending, numbers))
            for _ in range(SLOTS_PER_REPLICA * count)
        ]
        try:
            await asyncio.sleep(max(SETTLE_SECONDS, lab.scale.window_seconds / 2))
            killed_at = time.monotonic()
            _kill(before[0])
            after = await _recovered(daemon, before)
            recovered = time.monotonic() - killed_at
            await asyncio.sleep(SETTLE_SECONDS)
        finally:
            ending.set()
            await asyncio.gather(*slots, return_exceptions=True)
        left = await daemon.end()
    return _outcome(mode, before, after, seen, killed_at=killed_at, recovered=recovered,
                    clean=left.nothing)  # fmt: skip


def _kill(view: "ReplicaView") -> None:
    """Kill the engine's whole process group, which the shim leads."""
    assert view.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(view.pid, signal.SIGKILL)


async def _recovered(daemon: Served, before: "Sequence[ReplicaView]") -> "Sequence[ReplicaView]":
    """All replicas, once another process serves in place of the killed one."""
    victim = before[0]
    deadline = time.monotonic() + RECOVER_SECONDS
    while True:
        views = await daemon.until_serving(len(before), seconds=RECOVER_SECONDS)
        now = {view.replica_id: view.pid for view in views}
        if now.get(victim.replica_id) != victim.pid or time.monotonic() > deadline:
            return views
        await asyncio.sleep(0.1)


def _outcome(
    mode: SharingMode,
    before: "Sequence[ReplicaView]",
    after: "Sequence[ReplicaView]",
    seen: Seen,
    *,
    killed_at: float,
    recovered: float,
    clean: bool,
) -> Outcome:
    old = {view.replica_id: view.pid for view in before[1:]}
    new = {view.replica_id: view.pid for view in after}
    restarted = sum(new.get(name) != pid for name, pid in old.items())
    gap = seen.gap_after(killed_at)
    row: dict[str, Any] = {
        "sharing": mode.value,
        "replicas": len(before),
        "neighbours restarted": restarted,
        "all serve again after s": round(recovered, 2),
        "requests that ended well": len(seen.good),
        "requests that broke": len([t for t in seen.bad if t >= killed_at]),
        "longest silence s": None if gap is None else round(gap, 2),
        "nothing left": clean,
    }
    kept = "kept serving" if not restarted else "were restarted, one after another"
    return Outcome({"rows": [row], "notes": [f"{mode}: {len(old)} neighbours {kept}."]})


async def _slot(
    daemon: Served, lab: Lab, seen: Seen, ending: asyncio.Event, numbers: Iterator[int]
) -> None:
    """Run one client that sends requests in a loop, and note how each request ended."""
    while not ending.is_set():
        good = await asyncio.to_thread(_ask, daemon.url, body_of(lab.scale, next(numbers)))
        (seen.good if good else seen.bad).append(time.monotonic())
        if not good:
            await asyncio.sleep(0.05)


def body_of(scale: Scale, number: int) -> dict[str, Any]:
    """The body of a request, like no other: the proxy refuses repeats of one that met a death."""
    rest = range(10, 9 + min(64, scale.workload.prompt_tokens))
    return {
        "model": MODEL,
        "prompt": [10 + number % 10_000, *rest],
        "max_tokens": min(OUTPUT_TOKENS, scale.workload.output_tokens),
        "ignore_eos": True,
    }


def _ask(url: str, body: dict[str, Any]) -> bool:
    """Whether a complete completion came back."""
    import httpx

    try:
        reply = httpx.post(f"{url}/v1/completions", json=body, timeout=120)
        return reply.status_code == 200 and bool(json.loads(reply.content)["choices"])
    except (httpx.HTTPError, ValueError, KeyError):
        return False
