"""Runs `python -m loadgen`: measures any OpenAI-compatible server, or renders saved runs."""

import sys
from collections.abc import Sequence

from loadgen.cli import compare, measure
from loadgen.cli.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE
from loadgen.errors import InputError, LoadgenError

COMMANDS = {"run": measure.main, "report": compare.main}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default `run`, and return the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given.pop(0) if given and given[0] in COMMANDS else "run"
    try:
        return COMMANDS[command](given)
    except (InputError, ValueError) as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return EXIT_USAGE
    except LoadgenError as error:
        print(f"loadgen: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
