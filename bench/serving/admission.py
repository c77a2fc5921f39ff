"""Compares admission at the knee with none, at 1.5 times the capacity of the demo's real engines.

    python -m bench.serving.admission [--pairs 4] [--seconds 30] [--load 1.5] [--folder .demo]

Ours: every request goes through the proxy, which holds each replica to the batch at its operating
point and refuses requests that could not start in time. Baseline: the same arrivals go straight to
the same two engines, which queue without bound. Sides alternate; "no gain shown" is a result.
"""

import asyncio
import sys
from collections.abc import Sequence

from bench.paired import alternate, compare
from bench.serving.demo_fleet import demo_fleet, options_parser
from examples.demo import overload as demo_overload
from examples.demo import steps as demo_steps

UNITS = {"goodput": "req/s", "ttft_p50": "s", "ttft_p95": "s", "refused": "share"}


def figures(side: demo_overload.Side) -> dict[str, float]:
    return {
        "goodput": side.goodput_req_per_s,
        "ttft_p50": side.ttft.p50 if side.ttft else float("nan"),
        "ttft_p95": side.ttft.p95 if side.ttft else float("nan"),
        "refused": side.refused / max(1, side.sent),
    }


async def measure(
    lanes: Sequence[demo_overload.ModelLoad], proxy_url: str, pairs: int, seconds: float
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
    parser = options_parser(__doc__, pairs=4, seconds=30.0, folder=".demo")
    parser.add_argument("--load", type=float, default=demo_steps.OVERLOAD)
    given = parser.parse_args()
    with demo_fleet(given, models=2) as fleet:
        client, specs = fleet.client, fleet.specs
        demo_steps.measure_all(fleet.story, client, specs, fleet.environment.version)
        plan = demo_steps.plan(fleet.story, client)
        demo_steps.apply(fleet.story, client, plan)
        lanes = demo_steps.lanes(client, plan, specs, given.load)
        asyncio.run(measure(lanes, fleet.settings.proxy_url, given.pairs, given.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
