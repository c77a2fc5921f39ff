"""Admission at the knee against none, at 1.5 times the capacity, on the demo's two real engines.

    python -m bench.bench_admission [--pairs 4] [--seconds 30] [--load 1.5] [--folder .demo]

Ours: every request goes through the proxy, which holds each replica to the batch at its operating
point and refuses what could not start in time. Baseline: the same arrivals straight to the same
engines, which queue without bound. Sides alternate; "no gain shown" is a result.
"""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.paired import alternate, compare
from partitiond.cli import demo_overload, demo_steps
from partitiond.cli.demo import DemoOptions, demo_specs, prepare_folder
from partitiond.cli.demo_daemon import DemoDaemon
from partitiond.cli.demo_story import Story
from partitiond.cli.options import connect

UNITS = {"goodput": "req/s", "ttft_p50": "s", "ttft_p95": "s", "refused": "share"}


def figures(side: demo_overload.Side) -> dict[str, float]:
    return {
        "goodput": side.goodput_req_per_s,
        "ttft_p50": side.ttft.p50 if side.ttft else float("nan"),
        "ttft_p95": side.ttft.p95 if side.ttft else float("nan"),
        "refused": side.refused / max(1, side.sent),
    }


async def measure(
    lanes: Sequence[demo_overload.Lane], proxy_url: str, pairs: int, seconds: float
) -> None:
    async def run(index: int, proxy: str | None) -> dict[str, float]:
        label = "partitiond" if proxy else "bare"
        side = await demo_overload.run_side(
            label, lanes, proxy=proxy, seconds=seconds, seed=index, progress=lambda _t, _f: None
        )
        return figures(side)

    ours, baseline = await alternate(
        pairs, lambda i: run(i, proxy_url), lambda i: run(i, None), print
    )
    print(f"\n{'':<34} {'knee':>9} {'none':>9}")
    for comparison in compare(ours, baseline, UNITS):
        print(comparison.line())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--load", type=float, default=demo_steps.OVERLOAD)
    parser.add_argument("--folder", type=Path, default=Path(".demo"))
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    given = parser.parse_args()

    options = DemoOptions(
        given.folder.absolute(),
        once=True,
        hub=False,
        seconds=given.seconds,
        overrides=tuple(given.overrides),
    )
    story = Story(Console(stderr=True), 1)
    settings, config = prepare_folder(options)
    daemon = DemoDaemon(settings, config, options.overrides)
    client = connect(settings)
    specs = demo_specs(options, settings)
    try:
        environment = demo_steps.engine(story, settings)
        asyncio.run(demo_steps.prepare_models(story, settings, environment, specs))
        daemon.start(client, story.say)
        demo_steps.measure_all(story, client, specs, environment.version)
        plan = demo_steps.plan(story, client)
        demo_steps.apply(story, client, plan, settings)
        lanes = demo_steps.lanes(client, plan, specs, given.load)
        asyncio.run(measure(lanes, settings.proxy_url, given.pairs, given.seconds))
    finally:
        daemon.stop(client)
        client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
