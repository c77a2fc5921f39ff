"""Makes the parser of a benchmark's command line."""

import argparse
import sys
from collections.abc import Collection


def options(text: str | None, /, **plain: object) -> argparse.ArgumentParser:
    """A parser whose help is the benchmark's own text.

    Args:
        text: the benchmark's docstring.
        plain: options that need no help, by name, with their defaults; False makes a flag.
    """
    spec = sys.modules["__main__"].__spec__
    parser = argparse.ArgumentParser(
        prog=f"python -m {spec.name.removesuffix('.__main__')}" if spec is not None else None,
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, default in plain.items():
        flag = f"--{name.replace('_', '-')}"
        if default is False:
            parser.add_argument(flag, action="store_true")
        else:
            parser.add_argument(flag, type=type(default), default=default, help="[%(default)s]")
    return parser


def chosen(
    parser: argparse.ArgumentParser, option: str, given: str, known: Collection[str]
) -> list[str]:
    """The names in a list like "a,b"; exits if one of them is not known."""
    names = [name for name in given.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"{option}: there is no {name!r}, only {', '.join(known)}")
    return names
