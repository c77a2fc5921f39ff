"""Builds the tree of commands, and imports a command's module once the command is chosen."""

import difflib
import importlib
import shlex
from collections.abc import Mapping
from typing import Any, Final

import typer.main
from typer.core import TyperCommand, TyperGroup

from partitiond.cli.output import shortened
from partitiond.cli.tree import HEADINGS, TREE, Branch, Headings, Leaf

HELP_OPTIONS: Final = ("-h", "--help")


class LateCommand:
    """A command that knows its name and help line, and imports its module for all else."""

    def __init__(self, name: str, entry: Leaf) -> None:
        self.name = name
        self.hidden = False
        self._entry = entry
        self._loaded: Any = None

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the whole help line, because each help line fits."""
        del limit
        return self._entry.help

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the command itself."""
        if self._loaded is None:
            module, _, function = self._entry.home.partition(":")
            run = getattr(importlib.import_module(f"partitiond.cli.{module}"), function)
            headings = self._entry.headings
            kind = headed(headings) if headings else TyperCommand
            alone = typer.Typer(
                add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
            )
            alone.command(self.name, cls=kind)(run)
            self._loaded = typer.main.get_command(alone)
        return getattr(self._loaded, name)


def built(entries: Mapping[str, Leaf | Branch]) -> dict[str, Any]:
    """Build the commands and groups of the table."""
    return {
        name: LateCommand(name, entry) if isinstance(entry, Leaf) else _group(name, entry)
        for name, entry in entries.items()
    }


def _group(name: str, entry: Branch) -> TyperGroup:
    kind = CommandGroup if entry.bare is None else Lists
    group = kind(
        name=name,
        commands=built(entry.entries),
        help=entry.help,
        no_args_is_help=entry.bare is None,
        subcommand_metavar=entry.metavar,
        rich_markup_mode=None,
    )
    if isinstance(group, Lists):
        group.bare = entry.bare or group.bare
        group.explained = entry.explained or group.bare
    return group


class CommandGroup(TyperGroup):
    """Commands; who names a thing in place of one is told which command shows it."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first word names. Raises UsageError."""
        word, group = args[0], ctx.command_path.partition(" ")[2]
        of_show: Any = getattr(self.commands.get("show"), "params", ())
        if word not in self.commands and any(p.param_type_name == "argument" for p in of_show):
            near = difflib.get_close_matches(word, self.commands, 1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            one = f"`partitiond {group} show {shlex.quote(word)}` shows one."
            ctx.fail(f"No such command {word!r}.{meant} {one}")
        return super().resolve_command(ctx, args)


class Root(CommandGroup):
    """The commands of `partitiond`, under headings."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{**given, "commands": built(TREE)})

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the message about a bad parameter names the refused value."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            reasons = getattr(error.__cause__, "errors", None)
            if reasons is not None:  # pydantic's errors; their text lacks the refused value
                from partitiond.serde import words_of

                first = reasons()[0]
                error.message = f"{words_of(first)}, got {first['input']!r}."
            error.message = shortened(error.message)
            raise

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write each heading with its commands."""
        del ctx
        width = max(len(name) for names in HEADINGS.values() for name in names)
        limit = formatter.width - 6 - width
        for heading, names in HEADINGS.items():
            rows = [
                (name.ljust(width), self.commands[name].get_short_help_str(limit)) for name in names
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


def headed(headings: Headings) -> type[TyperCommand]:
    """Make a command class whose help lists its options under headings.

    Options under no heading come first, as "Options".
    """
    under = {option: heading for heading, options in headings.items() for option in options.split()}

    class Headed(TyperCommand):
        """A command with many options."""

        def format_options(self, ctx: Any, formatter: Any) -> None:
            """Write arguments, then each heading with its options in the order of the table."""
            sections: dict[str, list[tuple[str, str]]] = {
                heading: [] for heading in ("Arguments", "Options", *headings)
            }
            places = list(under)
            given = [p for p in self.get_params(ctx) if p.opts[0] not in under]
            given += sorted(
                (p for p in self.get_params(ctx) if p.opts[0] in under),
                key=lambda p: places.index(p.opts[0]),
            )
            for param in given:
                record = param.get_help_record(ctx)
                if record is not None:
                    argument = param.param_type_name == "argument"
                    name = under.get(param.opts[0], "Arguments" if argument else "Options")
                    sections[name].append(record)
            for heading, rows in sections.items():
                if rows:
                    with formatter.section(heading):
                        formatter.write_dl(rows)

    return Headed


class Lists(CommandGroup):
    """A group that lists when no command is given: `partitiond keys` is `partitiond keys show`.

    Attributes:
        bare: the command that runs when none is named.
        explained: the command whose arguments and options the group's help shows.
    """

    bare = "list"
    explained = "list"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Insert the name of the command if none is given."""
        named = args if ctx.resilient_parsing else self.with_command(args)
        return super().parse_args(ctx, named)

    def with_command(self, args: list[str]) -> list[str]:
        """Put a command in front of arguments that neither name a command nor ask for help.

        `partitiond profile MODEL` measures; `partitiond profile` with at most --json lists.
        """
        if args and args[0] in {*HELP_OPTIONS, *self.commands}:
            return args
        if self.explained == self.bare:
            return args if args and not args[0].startswith("-") else [self.bare, *args]
        return [self.bare if set(args) <= {"--json"} else self.explained, *args]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the group's text and what it does without a command."""
        super().format_help_text(ctx, formatter)
        alone = self.commands[self.bare].get_short_help_str(1000).removesuffix(".")
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(f"Without a command: {alone[0].lower()}{alone[1:]}.")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options of the command that needs no name, then all commands."""
        self.commands[self.explained].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)
