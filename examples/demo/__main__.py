"""Runs the demo from the command line: `make demo`, or `python -m examples.demo`."""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from examples.demo.demo import DemoOptions, run_demo
from partitiond.cli.exits import Exit, exit_for
from partitiond.cli.output import print_error, print_json
from partitiond.core.errors import PartitiondError

ABOUT = """Shows everything partitiond does, on this machine, for real.

Installs an engine, measures two small models, plans, serves, chats and overloads. Takes about 6
minutes on two cores, and under 3 the second time: the engine, the models and the measurements are
kept. On a terminal it goes on serving until Ctrl-C.
"""


def options() -> tuple[DemoOptions, bool]:
    """Return the options of the command line, and whether the result is printed as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo",
        description=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--once", action="store_true", help="shut down at the end on a terminal")
    parser.add_argument("--state-dir", type=Path, default=Path(".demo"), help="[%(default)s]")
    parser.add_argument("--hub", action="store_true", help="fetch models from Hugging Face")
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="of each overload [%(default)s]"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true", help="print what was measured")
    given = parser.parse_args()
    if not given.seconds >= 5:
        parser.error("--seconds: an overload takes 5 s or more")
    demo = DemoOptions(
        given.state_dir.expanduser().absolute(),
        once=given.once,
        hub=given.hub,
        seconds=given.seconds,
        overrides=tuple(given.set),
        as_json=given.json,
    )
    return demo, given.json


def main() -> NoReturn:
    """Run the demo and leave with one of the command line's statuses."""
    demo, as_json = options()
    try:
        outcome = run_demo(demo)
    except PartitiondError as error:
        print_error(error)
        sys.exit(exit_for(error))
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    if as_json:
        print_json(outcome)
    sys.exit(Exit.OK)


main()
