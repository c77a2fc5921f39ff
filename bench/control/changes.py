"""Measures failed requests and the dip of goodput while plans change under continuous load.

A daemon, its proxy and simulated engines run as a user runs them. Closed-loop clients ask one model
all the time, while its plan changes again and again: another version, batch, memory, number of
replicas and (with GPUs) device. Each change ends when the host runs the plan; then the next begins.

The bench prints requests by how they ended, those that were held or turned away, and the goodput in
the windows of the changes as a ratio to the undisturbed median of the same run. On the CPU device
(the default) each engine has one core; with `--one-core` the old and the new engine never fit side
by side, so that each change is an outage during which requests are held.

    python -m bench.control.changes --changes 100
    python -m bench.control.changes --changes 20 --one-core
    python -m bench.control.changes --changes 100 --gpus 2
"""

import argparse
import asyncio
import collections
import contextlib
import functools
import itertools
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import httpx

from bench.command import options
from bench.control.cost import daemon, model_body
from bench.daemons import Daemon, running, wait_for
from partitiond.client.client import ControlClient
from partitiond.core.errors import ConflictError, PartitiondError
from partitiond.core.plan.record import Plan

MODEL: Final = "m"
WINDOW_SECONDS: Final = 1.0
CHANGE_SECONDS: Final = 180.0
TOKENS: Final = 16
ORDINARY: Final = {"prompt_tokens": 128, "output_tokens": 32}


class Load:
    """Closed-loop clients in a thread of their own."""

    def __init__(self, url: str, clients: int) -> None:
        self._url, self._clients = url, clients
        self._ending = False
        self.ended: list[tuple[float, str]] = []
        self.longest = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        """Run the clients while the block runs."""
        thread = threading.Thread(target=lambda: asyncio.run(self._main()), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._ending = True
            thread.join(120)

    async def _main(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self._clients):
                group.create_task(self._one())

    async def _one(self) -> None:
        body = {"model": MODEL, "prompt": "Once upon a time", "max_tokens": TOKENS}
        async with httpx.AsyncClient(base_url=self._url, timeout=120, trust_env=False) as client:
            while not self._ending:
                began = time.monotonic()
                try:
                    answer = await client.post("/v1/completions", json=body)
                    how = "ok" if answer.status_code == 200 else _word(answer)
                except httpx.HTTPError as error:
                    how = type(error).__name__
                now = time.monotonic()
                self.longest = max(self.longest, now - began)
                self.ended.append((now, how))
                if how != "ok":
                    await asyncio.sleep(0.1)

    def rates(self, begin: float, end: float) -> list[float]:
        """Requests/s that ended well in each whole window between the two times."""
        count = int((end - begin) / WINDOW_SECONDS)
        found = [0] * count
        for at, how in self.ended:
            number = int((at - begin) / WINDOW_SECONDS)
            if how == "ok" and at >= begin and number < count:
                found[number] += 1
        return [number / WINDOW_SECONDS for number in found]


def _word(answer: httpx.Response) -> str:
    with contextlib.suppress(ValueError):
        return f"{answer.status_code} {answer.json()['error']['code']}"
    return str(answer.status_code)


Step = tuple[str, Callable[[], object]]


def changes(client: ControlClient, *, gpus: bool, room: bool) -> Iterator[Step]:
    """The changes, one after the other, in an endless cycle."""
    numbers = itertools.count(1)

    def version() -> object:
        for device in client.devices():
            if device.cordoned:  # its replicas have moved: the device has room again
                client.uncordon(device.id)
        flags = ["--token-seconds", f"{0.01 + 0.00001 * next(numbers):.5f}"]
        return client.update(MODEL, {"engine": {"extra_args": flags}})

    def set_to(**values: Any) -> Callable[[], object]:
        return lambda: client.update(MODEL, values)

    def cordon() -> object:
        here = client.replicas(MODEL)[0].device_id
        return client.cordon(here, "to move what runs there")

    steps: list[Step] = [
        ("version", version),
        ("memory", set_to(workload={"prompt_tokens": 256, "output_tokens": 64})),
        ("version", version),
        ("memory", set_to(workload=ORDINARY)),
        ("batch", set_to(slo={"ttft_seconds": 30.0, "tpot_seconds": 0.012})),
        ("batch", set_to(slo=None)),
    ]
    if room:
        steps += [
            ("replicas", set_to(min_replicas=2, max_replicas=2)),
            ("replicas", set_to(min_replicas=1, max_replicas=1)),
        ]
    if gpus:
        steps += [("device", cordon)]
    return itertools.cycle(steps)


def runs(client: ControlClient, plan: Plan) -> bool:
    """Whether the host runs exactly that plan."""
    views = client.replicas()
    wanted = {(p.device_id, p.partition, p.candidate.batch) for p in plan.placements}
    there = {(v.device_id, v.partition, v.limit) for v in views if v.state == "serving"}
    whole = len(views) == len(plan.placements)
    return whole and wanted == there and all(r.state != "coming" for r in client.releases(MODEL))


def apply(client: ControlClient) -> Plan | None:
    """Apply the plan for the change, unless it is applied already. None without a plan."""
    before = client.current_plan()
    for _ in range(5):
        with contextlib.suppress(ConflictError):
            return client.apply().plan
    return before


def one_run(one: Daemon, given: argparse.Namespace) -> Iterator[str]:
    """Make all changes and report their results."""
    with one.client() as client, Load(one.settings.proxy_url, given.clients).running() as load:
        once = {"min_replicas": 1, "max_replicas": 1, "demand": {}}
        client.register(model_body(MODEL, auto=False, allow_outage=bool(given.one_core), **once))
        first = apply(client)
        assert first is not None
        wait_for("the first replica", lambda: runs(client, first), CHANGE_SECONDS)
        begin = time.monotonic()
        time.sleep(given.calm)
        calm_until = time.monotonic()
        calm = statistics.median(load.rates(begin, calm_until))
        yield f"undisturbed: {calm:.1f} requests/s, median of {given.calm:.0f} s"
        took: dict[str, list[float]] = collections.defaultdict(list)
        spans: list[tuple[float, float]] = []
        steps = changes(client, gpus=bool(given.gpus), room=not given.one_core)
        for number, (what, change) in zip(range(given.changes), steps, strict=False):
            began = time.monotonic()
            change()
            plan = apply(client)
            assert plan is not None
            wait_for(
                f"change {number}, {what}", functools.partial(runs, client, plan), CHANGE_SECONDS
            )
            ended = time.monotonic()
            took[what].append(ended - began)
            spans.append((began, ended))
            if given.verbose:
                bad = sum(how != "ok" for at, how in list(load.ended) if at >= begin)
                yield f"  {number} {what} {ended - began:.1f} s, {bad} requests failed so far"
            time.sleep(given.pause)
        yield from told(load, begin, spans, took, calm)
        yield from counted(client)


def told(
    load: Load,
    begin: float,
    spans: Sequence[tuple[float, float]],
    took: dict[str, list[float]],
    calm: float,
) -> Iterator[str]:
    """Report the requests and the goodput as the clients saw them."""
    ended = collections.Counter(how for at, how in load.ended if at >= begin)
    ok = ended.pop("ok", 0)
    yield f"changes: {len(spans)} (" + ", ".join(f"{k} {len(v)}" for k, v in took.items()) + ")"
    yield f"requests: {ok} ok, {sum(ended.values())} not {dict(ended) if ended else ''}"
    yield f"longest request: {load.longest:.2f} s"
    during = [rate for span in spans for rate in load.rates(*span)]
    if during and calm:
        quantiles = [during_at(during, q) / calm for q in (0.0, 0.05, 0.5)]
        yield (
            f"goodput in {len(during)} windows of {WINDOW_SECONDS:g} s during changes, as a ratio "
            f"to the undisturbed median: least {quantiles[0]:.2f}, 5 % {quantiles[1]:.2f}, "
            f"median {quantiles[2]:.2f}"
        )
    for what, seconds in took.items():
        yield f"  {what}: {statistics.median(seconds):.1f} s (median)"


def during_at(values: Sequence[float], quantile: float) -> float:
    """A quantile, by the nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(quantile * len(ordered)))]


def counted(client: ControlClient) -> Iterator[str]:
    """Report the proxy's counts of held and refused requests."""
    with contextlib.suppress(PartitiondError):
        lines = client.metrics().splitlines()
        for name in ("held", "turned_away"):
            found = [line for line in lines if name in line and not line.startswith("#")]
            yield from (f"  {line}" for line in found)


def main(words: Sequence[str] | None = None) -> int:
    """Run the bench and print its report; the exit code is always 0."""
    parser = options(__doc__, changes=100, clients=4)
    parser.add_argument("--calm", type=float, default=15.0, help="seconds before the first change")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two changes")
    parser.add_argument("--one-core", action="store_true", help="no room side by side")
    parser.add_argument("--gpus", type=int, default=0, help="simulated GPUs instead of the CPU")
    parser.add_argument("--verbose", action="store_true", help="one line for each change")
    given = parser.parse_args(words)
    with contextlib.ExitStack() as stack:
        if given.gpus:
            given.tree = None
            one = stack.enter_context(daemon(given, given.gpus))
        else:
            settings: dict[str, object] = {"gpu.enabled": False}
            settings["profiling.cpu_partition_cores"] = [1]
            if given.one_core:
                settings["cpu.cores"] = [0]
            one = stack.enter_context(running(settings))
        for line in one_run(one, given):
            print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
