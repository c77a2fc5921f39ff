"""Measures the cost of each feature of our proxy: CPU per request and per chunk with and without.

    python -m bench.proxy.features [--only no-keys,no-log] [--rounds 5] [--seconds 3]

Everything is on in the base. Each variant removes one thing (by an option, or by replacing the part
if no option exists: see `without.py`) or adds one that few requests use. All run beside each other
and are measured in turns; a difference is within one round. Parts can only be removed from the
sources, not from the compiled modules: those variants are compared with `interpreted`.
"""

import argparse
import contextlib
import dataclasses
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.command import chosen, options
from bench.proxy import measure, native, report
from bench.proxy.measure import CPU_CHUNK, CPU_REQUEST, USER_CHUNK, USER_REQUEST, Results
from bench.proxy.processes import REALTIME_HELP, cores, run_first
from bench.proxy.proxies import Proxy, Setting, StartError, ours
from partitiond.core.dispatch.routing import KeyRates, KeyRoute, RequestLimits, RoutingTable

BASE: Final = "base"
INTERPRETED: Final = "interpreted"
KEYS: Final = 100
HIGH: Final = 1_000_000_000
SHOWN: Final = (CPU_REQUEST, USER_REQUEST, CPU_CHUNK, USER_CHUNK)
NOBODY: Final = {"traces_endpoint": "http://127.0.0.1:9/v1/traces"}
"""No collector listens there: the rest of the cost of sending falls on the sending thread."""
Edit = Callable[[RoutingTable], RoutingTable]


def same(table: RoutingTable) -> RoutingTable:
    """The unchanged table."""
    return table


@dataclasses.dataclass(frozen=True, slots=True)
class Variant:
    """The base with one thing changed.

    Attributes:
        says: the difference in words.
        edit: change of the routing table.
        asks: change of the requests that clients send (fields of `Proxy`).
        without: parts that are removed.
    """

    says: str
    keys: bool = True
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    edit: Edit = same
    asks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    without: tuple[str, ...] = ()
    workers: int = 1


def many_keys(table: RoutingTable) -> RoutingTable:
    """More keys, with the client's key among the last."""
    others = tuple(KeyRoute(f"other-{n}", f"{n:064x}") for n in range(KEYS - 1))
    return dataclasses.replace(table, keys=(*others, *table.keys))


def with_rates(table: RoutingTable) -> RoutingTable:
    """A table in which every rate and budget of the key is counted, but none is reached."""
    rates = KeyRates(
        requests_per_minute=HIGH, tokens_per_minute=HIGH, max_in_flight=HIGH, token_budget=HIGH
    )
    keys = tuple(dataclasses.replace(key, rates=rates) for key in table.keys)
    return dataclasses.replace(table, keys=keys)


def model_with(**fields: Any) -> Edit:
    """An edit of the model's entry."""
    return lambda table: dataclasses.replace(
        table, models=tuple(dataclasses.replace(model, **fields) for model in table.models)
    )


LIMITS: Final = RequestLimits(max_prompt_bytes=HIGH, max_output_tokens=HIGH, max_sequences=64)

VARIANTS: Final[Mapping[str, Variant]] = {
    BASE: Variant("keys, admission, dispatch, usage, metrics and the log are on"),
    INTERPRETED: Variant("the same, not compiled", without=("nothing",)),
    "no-keys": Variant(
        "no key is required, none is sent", keys=False, options={"allowed_hosts": ["*"]}
    ),
    "no-log": Variant("no line per request", without=("log",)),
    "no-metrics": Variant("requests are not counted", without=("metrics",)),
    "no-traffic": Variant("work is not counted by model, replica and key", without=("traffic",)),
    "no-estimates": Variant("nothing is learnt of requests", without=("estimates",)),
    "keys": Variant(f"{KEYS} keys instead of one", edit=many_keys),
    "rates": Variant("rates and a budget for the key", edit=with_rates),
    "limits": Variant("limits per request", edit=model_with(limits=LIMITS)),
    "alias": Variant(
        "the model is called by an alias", edit=model_with(aliases=("a",)), asks={"model": "a"}
    ),
    "defaults": Variant("a default parameter", edit=model_with(defaults_json='{"top_p":0.9}')),
    "affinity": Variant("one session for all", asks={"header": "x-session-id: one"}),
    "debug": Variant("debug headers in every answer", options={"debug_headers": "always"}),
    "traces": Variant("one request of twenty is recorded", options=NOBODY | {"traces_ratio": 0.05}),
    "all-traces": Variant("every request is recorded", options=NOBODY | {"traces_ratio": 1.0}),
    "usage": Variant("clients ask for the usage of streams", asks={"usage": True}),
    "workers": Variant("two workers, on the same core", workers=2),
}


def start(name: str, setting: Setting) -> "contextlib.AbstractContextManager[Proxy]":
    """Run a variant as a proxy."""
    variant = VARIANTS[name]
    mine = dataclasses.replace(
        setting,
        keys=variant.keys,
        options=variant.options,
        edit=variant.edit,
        asks=variant.asks,
        without=variant.without,
    )
    return ours(mine, name=name, workers=variant.workers)


def start_all(names: Sequence[str], setting: Setting, stack: contextlib.ExitStack) -> list[Proxy]:
    """Start all variants. Exits if one of them does not start."""
    try:
        return [stack.enter_context(start(name, setting)) for name in names]
    except StartError as error:
        sys.exit(str(error))


def base_of(name: str) -> str:
    """The variant that a variant is compared with."""
    return INTERPRETED if VARIANTS[name].without and name != INTERPRETED else BASE


def line_of(results: Results, name: str) -> str:
    """A variant's medians, and its differences to the base with their range."""
    cells = []
    beside = base_of(name)
    for figure in SHOWN:
        mine, base = (results.values.get(n, {}).get(figure, []) for n in (name, beside))
        differences = [a - b for a, b in zip(mine, base, strict=False)]
        if not differences:
            cells.append(f"{'-':>30}")
        elif name == BASE:
            cells.append(f"{report.number(statistics.median(mine)):>30}")
        else:
            text = f"{statistics.median(differences):+.2f}"
            spread = f"({min(differences):+.2f}..{max(differences):+.2f})"
            cells.append(f"{text:>12} {spread:>17}")
    return f"{name:14}" + "".join(cells) + f"   {VARIANTS[name].says}"


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments."""
    parser = options(__doc__, rounds=5, seconds=3.0)
    parser.add_argument("--only", help=f"variants: some of {', '.join(VARIANTS)}")
    parser.add_argument("--realtime", action="store_true", help=REALTIME_HELP)
    given = parser.parse_args(words)
    wanted = chosen(parser, "--only", given.only or ",".join(VARIANTS), VARIANTS)
    bases = [BASE, *({INTERPRETED} & {base_of(name) for name in wanted})]
    given.variants = [*bases, *(name for name in wanted if name not in bases)]
    return given


def main(words: Sequence[str] | None = None) -> int:
    """Run and print; return 1 if a variant gave wrong answers."""
    given = read_arguments(words)
    if given.realtime:
        run_first()
    proxy_core, load_core = cores(spread=False)
    results, failures = Results(), []
    with tempfile.TemporaryDirectory(prefix="pd-bench-") as folder, contextlib.ExitStack() as stack:
        upstream = stack.enter_context(native.upstream(Path(folder), load_core))
        setting = Setting(Path(folder), upstream, proxy_core)
        proxies = start_all(given.variants, setting, stack)
        for index in range(-1, given.rounds):  # the first round is only a warm-up
            for scenario in (measure.requests, measure.paced):
                for proxy in proxies:
                    seconds = given.seconds if index >= 0 else 0.5
                    try:
                        figures = scenario(proxy, seconds, load_core, False)
                    except measure.WrongAnswersError as error:
                        failures.append(str(error))
                        continue
                    if index >= 0:
                        results.add(proxy.name, figures)
            print(f"round {index + 1} of {given.rounds}", file=sys.stderr)
    print(f"{'':14}" + "".join(f"{figure.strip():>30}" for figure in SHOWN))
    for name in given.variants:
        print(line_of(results, name))
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
