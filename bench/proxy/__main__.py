"""Runs the comparison as `python -m bench.proxy`: see the package."""

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import bench.proxy
from bench.command import chosen, options
from bench.processes import REALTIME_HELP, core_behind, cores, memory_bytes, run_first
from bench.proxy import damage, measure, native, report, tools
from bench.proxy.measure import DIRECT, DIRECTLY, SCENARIOS, Results
from bench.proxy.proxies import STARTERS, Proxy, Setting, StartError, starter
from partitiond.core.units import MIB

QUICK: tuple[str, ...] = ("ours", "nginx", "vllm-router")
HOP: tuple[str, ...] = ("ours", "hop", "nginx", "nginx-hop")
USUAL: tuple[str, ...] = (
    "ours",
    "ours:2",
    "nginx",
    "haproxy",
    "vllm-router",
    "httpx",
)


def read_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the arguments; exit on unknown names."""
    parser = options(bench.proxy.__doc__, quick=False)
    parser.add_argument("--hop", action="store_true", help=f"the proxies {','.join(HOP)}")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--seconds", type=float, help="of one measurement; default 3")
    names = ", ".join([*STARTERS, "ours:N (with N workers)", "before (see --tree)"])
    parser.add_argument("--proxies", help=f"some of {names}")
    parser.add_argument("--with", dest="more", default="", help="further ones, e.g. litellm")
    parser.add_argument("--only", help=f"measurements: some of {', '.join(SCENARIOS)}")
    parser.add_argument(
        "--ours-options", type=json.loads, default={}, help="fields of ProxyOptions, as JSON"
    )
    parser.add_argument("--tree", type=Path, help="another checkout, measured as `before`")
    parser.add_argument("--realtime", action="store_true", help=REALTIME_HELP)
    parser.add_argument("--json", type=Path, help="write all figures there")
    given = parser.parse_args(words)
    given.rounds = given.rounds or (2 if given.quick else 3)
    given.seconds = given.seconds or (2.0 if given.quick else 3.0)
    usual = HOP if given.hop else QUICK if given.quick else USUAL
    given.proxies = [*(given.proxies.split(",") if given.proxies else usual)]
    given.proxies += [name for name in given.more.split(",") if name]
    if given.tree and "before" not in given.proxies:
        given.proxies.insert(1, "before")
    given.only = chosen(parser, "--only", given.only or ",".join(SCENARIOS), SCENARIOS)
    for name in given.proxies:
        try:
            starter(name)
        except (KeyError, ValueError):
            parser.error(f"--proxies: there is no {name!r}, only {names}")
    return given


def start_all(
    names: Sequence[str], setting: Setting, tree: Path | None, stack: contextlib.ExitStack
) -> tuple[list[Proxy], dict[str, str]]:
    """Start the proxies; return (running proxies, reasons why others do not run)."""
    proxies: list[Proxy] = []
    skipped: dict[str, str] = {}
    for name in names:
        mine = dataclasses.replace(setting, tree=tree) if name == "before" and tree else setting
        try:
            proxies.append(stack.enter_context(starter(name)(mine)))
        except (tools.MissingError, StartError) as error:
            if name.startswith("ours"):
                sys.exit(str(error))
            skipped[name] = str(error)
            print(f"SKIPPED {name}: {error}", file=sys.stderr)
    return proxies, skipped


def run_rounds(
    proxies: Sequence[Proxy], only: Sequence[str], rounds: int, seconds: float, core: int | None
) -> tuple[Results, list[str]]:
    """Measure one proxy after the other, round by round; return (figures, failures)."""
    results, failures = Results(), []
    for index in range(rounds):
        for scenario in only:
            for proxy in proxies:
                if proxy.name == DIRECT and scenario not in DIRECTLY:
                    continue
                if proxy.loose and scenario != "requests":
                    continue
                try:
                    figures = SCENARIOS[scenario](proxy, seconds, core)
                except measure.WrongAnswersError as error:
                    failures.append(f"{scenario}: {error}")
                    print(f"FAILED {failures[-1]}", file=sys.stderr)
                    continue
                results.add(proxy.name, figures)
                shown = ", ".join(f"{k.strip()} {report.number(v)}" for k, v in figures.items())
                print(f"{index + 1}/{rounds} {scenario:9} {proxy.name:12} {shown}", file=sys.stderr)
        for proxy in proxies:
            if proxy.name != DIRECT:
                results.add(proxy.name, {measure.MEMORY: memory_bytes(proxy.pid) / MIB})
    results.add_differences()
    return results, failures


def main(words: Sequence[str] | None = None) -> int:
    """Run and print; return 1 if a proxy gave wrong answers."""
    given = read_arguments(words)
    proxy_core, load_core = cores()
    if proxy_core is None:
        print("Nothing is pinned: CPU figures are less exact.", file=sys.stderr)
    if given.realtime:
        run_first()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="pd-bench-") as name, contextlib.ExitStack() as stack:
        upstream = stack.enter_context(native.upstream(Path(name), load_core))
        damage.check(upstream)
        setting = Setting(Path(name), upstream, proxy_core, core_behind(), given.ours_options)
        proxies, skipped = start_all(given.proxies, setting, given.tree, stack)
        direct = Proxy(DIRECT, os.getpid(), upstream.port)
        for proxy in proxies:  # the first requests of a process differ from later ones
            with contextlib.suppress(measure.WrongAnswersError):
                SCENARIOS["requests"](proxy, 0.5, load_core)
        results, failures = run_rounds(
            [direct, *proxies], given.only, given.rounds, given.seconds, load_core
        )
    order = [DIRECT, *given.proxies]
    print_report(results, order, failures, skipped)
    if given.json:
        facts = {
            "rounds_run": given.rounds, "seconds": given.seconds, "failures": failures,
            "skipped": skipped, "ours_options": setting.options, "cores": [proxy_core, load_core],
            "core_behind": core_behind(),
        }  # fmt: skip
        given.json.write_text(json.dumps(report.as_json(results, facts), indent=1) + "\n")
    print(f"\n{time.monotonic() - started:.0f} s", file=sys.stderr)
    return 1 if failures else 0


def print_report(
    results: Results, order: Sequence[str], failures: Sequence[str], skipped: dict[str, str]
) -> None:
    """Print all tables."""
    parts = (
        report.figure_lines(results, order),
        report.ratio_lines(results, order),
        report.hop_lines(results),
        report.goal_lines(results),
        (f"FAILED {failure}" for failure in failures),
        (f"SKIPPED {name}: {why}" for name, why in skipped.items()),
    )
    for part in parts:
        lines = list(part)
        if lines:
            print("\n".join(lines), end="\n\n")


if __name__ == "__main__":
    sys.exit(main())
