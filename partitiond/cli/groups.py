"""Defines the tree of commands: overview headings, former names, defaults of bare groups.

Commands stay in their modules. `main.py` gives each module the group that its commands belong
to, and `MOVED` is the only place that knows where a command was before.
"""

from collections.abc import Mapping
from typing import Any, Final

import typer
from typer.core import TyperCommand, TyperGroup

HEADINGS: Final[Mapping[str, tuple[str, ...]]] = {
    "Start": ("demo", "doctor", "setup", "serve", "down"),
    "Models, from measuring to serving": ("models", "profile", "plan", "apply", "up"),
    "Watch": ("status", "top", "events", "devices"),
    "Access": ("keys",),
    "Instruments": ("tools",),
}
"""The commands of the overview, in the order in which a new user meets them."""

MOVED: Final[Mapping[str, tuple[str, ...]]] = {
    "backup": ("setup", "backup"),
    "restore": ("setup", "restore"),
    "engine": ("setup", "engine"),
    "config": ("setup", "config"),
    "mig": ("devices", "mig"),
    "sleep": ("models", "sleep"),
    "wake": ("models", "wake"),
    "scaling": ("models", "scaling"),
    "drift": ("models", "drift"),
    "profiles": ("profile",),
    "jobs": ("profile", "jobs"),
    "usage": ("keys", "usage"),
    "advise": ("tools", "advise"),
    "estimate": ("tools", "estimate"),
    "replicate": ("tools", "replicate"),
    "simulate": ("tools", "simulate"),
    "transfer": ("tools", "transfer"),
}
"""Former top-level commands and their present paths. The former names keep working."""

ENGINE: Final = (
    "--dtype",
    "--quantization",
    "--kv-cache-dtype",
    "--max-model-len",
    "--max-num-batched-tokens",
    "--engine-arg",
)
LIMITS: Final = ("--max-prompt-bytes", "--max-output-tokens", "--max-sequences")
MODEL_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Scaling and sleep": ("--autoscale", "--scale-to-zero", "--sleep-mode", "--sleep-after"),
    "Placement": (
        "--isolation",
        "--only-on",
        "--avoid",
        "--near",
        "--survive",
        "--survive-share",
        "--priority",
        "--weight",
        "--allow-outage",
    ),
    "Traffic in detail": (
        "--lengths",
        "--prompt-variation",
        "--output-variation",
        "--quantile",
        "--point",
        "--burst-factor",
        "--percentile",
        "--window",
    ),
    "Engine": ("--engine-kind", "--hub", "--revision", "--variant", *ENGINE),
    "Requests": ("--alias", "--default", *LIMITS),
}
"""Less common options of `models add` and `models update`, by heading."""
MEASURE_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "A share of the device": ("--device", "--cores", "--memory", "--mps", "--mig"),
    "The measurement": (
        "--max-batch",
        "--time-limit",
        "--no-confirm",
        "--fresh",
        "--seed",
        "--quantile",
        "--lengths",
        "--prompt-variation",
        "--output-variation",
        "--structured-output",
    ),
    "Engine": ("--engine-kind", "--hub", "--variant", *ENGINE),
}
PLAN_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Ask more": ("--what-if", "--explain", "--constraints", "--diff", "--relax"),
    "Of running replicas": ("--move-price", "--allow-outage"),
    "With --from alone": ("--against", "--time-limit", "--seed", "--deterministic"),
}
KEY_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "Rates and budget": (
        "--requests-per-minute",
        "--tokens-per-minute",
        "--max-in-flight",
        "--token-budget",
    ),
    "Place in the queue": ("--priority", "--weight"),
    "Limits of a request": LIMITS,
}
ESTIMATE_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "A share of the device": ("--mig", "--sm-percent", "--cores", "--memory-fraction"),
    "Traffic in detail": ("--prompt-variation", "--output-variation", "--slo-ttft", "--slo-tpot"),
    "Engine": ENGINE[:4],
}
ADVISE_OPTIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "How long it is watched": ("--minutes", "--every", "--range", "--window", "--select"),
    "What is planned": (
        "--slo-ttft",
        "--slo-tpot",
        "--burst",
        "--mode",
        "--survive",
        "--objective",
        "--time-limit",
    ),
}

HELP_OPTIONS: Final = ("-h", "--help")


class Root(TyperGroup):
    """The commands of `partitiond`, under headings; a former name runs the present command."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, with a hint on stderr if the name is a former one."""
        if cmd_name not in MOVED:
            return super().get_command(ctx, cmd_name)
        path = MOVED[cmd_name]
        if not ctx.resilient_parsing:  # completion asks as well, and must print nothing
            typer.echo(
                f"`partitiond {cmd_name}` is now `partitiond {' '.join(path)}`; "
                "the old name still works.",
                err=True,
            )
        command: Any = self
        for name in path:
            command = command.commands[name]
        return command

    def invoke(self, ctx: Any) -> Any:
        """Run the command; the message about a bad parameter names the refused value."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            reasons = getattr(error.__cause__, "errors", None)
            if reasons is not None:  # pydantic's errors; their text lacks the refused value
                first = reasons()[0]
                reason = error.message.partition(", unable to parse")[0]
                error.message = f"{reason}, got {first['input']!r}."
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


def headed(headings: Mapping[str, tuple[str, ...]]) -> type[TyperCommand]:
    """A command class whose help lists its options under headings.

    Options under no heading come first, as "Options".
    """
    under = {option: heading for heading, options in headings.items() for option in options}

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


class Lists(TyperGroup):
    """A group that lists when no command is given: `partitiond keys` is `partitiond keys list`.

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
        """The arguments with a command in front; unchanged if they name one or ask for help."""
        if args and (args[0] in HELP_OPTIONS or not args[0].startswith("-")):
            return args
        return [self.bare, *args]

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


class Shows(Lists):
    """A group that runs `show` when no command is given."""

    bare = explained = "show"


class SetsUp(Lists):
    """`partitiond setup` is `partitiond setup host`."""

    bare = explained = "host"


class Measures(Lists):
    """`partitiond profile MODEL` measures; `partitiond profile` alone lists what was measured."""

    explained = "measure"

    def with_command(self, args: list[str]) -> list[str]:
        """Insert `list` if there is at most --json, and `measure` if no command is named."""
        if set(args) <= {"--json"}:
            return [self.bare, *args]
        if args[0] in HELP_OPTIONS or args[0] in self.commands:
            return args
        return [self.explained, *args]
