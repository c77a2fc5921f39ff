"""Runs `python -m loadgen report FILE...`: renders saved runs as tables or JSON."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from loadgen.cli.exits import EXIT_OK, EXIT_SATURATED
from loadgen.cli.measure import refusal
from loadgen.loops.instrument import MAX_LATE_SECONDS
from loadgen.results.comparison import side_by_side
from loadgen.results.report import Report, render, render_refusal, report_of
from loadgen.results.store import load_run


def build_parser() -> argparse.ArgumentParser:
    """The command line of a report."""
    parser = argparse.ArgumentParser(
        prog="python -m loadgen report",
        description="Render runs saved by `--save`: one as its table, several side by side.",
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="runs saved by --save")
    add("--label", action="append", default=[], help="name of each run, in order")
    add("--json", action="store_true", help="print JSON")
    add("--allow-saturated", action="store_true", help="figures of runs not to be trusted, too")
    add("--max-late", type=float, default=MAX_LATE_SECONDS, help="as for a run, in seconds")
    return parser


def main(arguments: Sequence[str]) -> int:
    """Render the runs and return the exit code.

    Raises:
        InputError: a file is no saved run.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.label and len(options.label) != len(options.files):
        parser.error("give --label once for each file, or not at all")
    labels = options.label or _labels(options.files)
    runs = [(label, load_run(path)) for label, path in zip(labels, options.files, strict=True)]
    reports = [(label, report_of(run, options.max_late)) for label, run in runs]
    saturated = any(report.saturated for _, report in reports)
    if saturated and not options.allow_saturated:
        _print_refusals(reports, as_json=options.json)
        return EXIT_SATURATED
    _print(reports, as_json=options.json)
    return EXIT_OK


def _labels(files: Sequence[Path]) -> list[str]:
    """File names without their ending; whole paths if two names would be equal."""
    stems = [path.stem for path in files]
    return stems if len(set(stems)) == len(stems) else [str(path) for path in files]


def _print(reports: Sequence[tuple[str, Report]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({label: report.to_jsonable() for label, report in reports}, indent=2))
    elif len(reports) == 1:
        print(render(reports[0][1]))
    else:
        print(side_by_side(reports))


def _print_refusals(reports: Sequence[tuple[str, Report]], *, as_json: bool) -> None:
    refused = [(label, report) for label, report in reports if report.saturated]
    if as_json:
        print(json.dumps({label: refusal(report) for label, report in refused}, indent=2))
        return
    for label, report in refused:
        print(f"{label}: {render_refusal(report)}")
