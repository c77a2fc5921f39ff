"""`partitiond simulate`: GPU hosts that are not there, to try everything without a GPU."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from partitiond.cli.options import JsonOption
from partitiond.cli.output import emit, out, print_json, say
from partitiond.core.errors import InputError, SpecError

if TYPE_CHECKING:
    from rich.table import Table

    from partitiond.simulated_gpus import HostDescription, SimulatedHost


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(
        no_args_is_help=True, help="Simulated GPU hosts: list, create, show, break."
    )
    group.command("list")(list_hosts)
    group.command("create")(create)
    group.command("show")(show)
    group.command("break")(break_host)
    app.add_typer(group, name="simulate")


FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the simulated host.", show_default=False)
]


def list_hosts(as_json: JsonOption = False) -> None:
    """List the hosts that come with partitiond."""
    from partitiond.simulated_gpus import shipped_descriptions

    descriptions = shipped_descriptions()
    emit(list(descriptions.values()), as_json=as_json, render=lambda: _hosts_table(descriptions))


def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A shipped host, or a JSON file of your own.")
    ],
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="New folder.", show_default=False)
    ],
    as_json: JsonOption = False,
) -> None:
    """Make a simulated host.

    Compiles its libraries with the system's C compiler, once.
    """
    from partitiond.simulated_gpus import SimulatedHost

    host = SimulatedHost.create(name, folder)
    if as_json:
        uuids, environment = host.uuids(), host.environment()
        print_json({"folder": str(host.folder), "uuids": uuids, "environment": environment})
        return
    say(f"{len(host.uuids())} GPUs in {host.folder}")
    variables = " ".join(f"{key}={value}" for key, value in host.environment().items())
    out().print(f"{variables} partitiond serve", markup=False, soft_wrap=True)


def show(folder: FolderArgument, as_json: JsonOption = False) -> None:
    """Show what a simulated host is now."""
    from partitiond.simulated_gpus import SimulatedHost

    gpus = _gpus(SimulatedHost.open(folder))
    emit(gpus, as_json=as_json, render=lambda: _gpus_table(gpus))


BREAK_HELP: Final = (
    "xid CODE | lose | restore | reboot | heal | fail FUNCTION CODE | process PID SIZE | "
    "health KEY=VALUE... | load KEY=VALUE... | mig on|off | privileged on|off | driver on|off"
)


def break_host(
    folder: FolderArgument,
    what: Annotated[list[str], typer.Argument(metavar="WHAT [VALUE]...", help=BREAK_HELP)],
    *,
    gpu: Annotated[
        str, typer.Option("--gpu", metavar="N|UUID", help="GPU it happens to, by index or UUID.")
    ] = "0",
    after: Annotated[
        int, typer.Option("--after", min=0, help="fail: calls that go well first.")
    ] = 0,
    times: Annotated[
        int, typer.Option("--times", min=-1, help="fail: how many calls; -1 without end.")
    ] = 1,
    as_json: JsonOption = False,
) -> None:
    """Let something happen to a simulated host while it is in use.

    "fail mig 19" lets the next call about MIG answer NVML's error 19 (in use).
    """
    from partitiond.simulated_gpus import SimulatedHost

    host = SimulatedHost.open(folder)
    word, values = what[0], what[1:]
    if word not in _BREAKS:
        raise InputError(f"There is nothing called {word!r}.", hint=f"Use {', '.join(_BREAKS)}.")
    wants, action = _BREAKS[word]
    if (wants is None and not values) or (wants is not None and len(values) != wants):
        raise InputError(f"{word} has other values.", hint=f"Write {_usage(word)}.")
    if word == "fail":
        host.fail(values[0], _number(values[1]), after=after, times=times)
    else:
        action(host, _uuid(host, gpu), values)
    if as_json:
        print_json({"done": what, "gpus": _gpus(host)})
    else:
        say(f"{' '.join(what)}: done")


Action = Callable[["SimulatedHost", str, Sequence[str]], Any]

_BREAKS: Final[Mapping[str, tuple[int | None, Action]]] = {
    # word: how many values (None: one or more), what it does
    "xid": (1, lambda host, uuid, values: host.xid(uuid, _number(values[0]))),
    "lose": (0, lambda host, uuid, _: host.lose(uuid)),
    "restore": (0, lambda host, uuid, _: host.restore(uuid)),
    "reboot": (0, lambda host, _uuid, _values: host.reboot()),
    "heal": (0, lambda host, _uuid, _values: host.heal()),
    "fail": (2, lambda *_: None),  # takes options of its own
    "process": (
        2,
        lambda host, uuid, values: host.add_process(uuid, _number(values[0]), _size(values[1])),
    ),
    "health": (None, lambda host, uuid, values: host.set_health(uuid, **_figures(values))),
    "load": (None, lambda host, uuid, values: host.set_load(uuid, **_figures(values))),
    "mig": (1, lambda host, uuid, values: host.set_mig_mode(uuid, enabled=_on(values[0]))),
    "privileged": (1, lambda host, _, values: host.privileged(_on(values[0]))),
    "driver": (1, lambda host, _, values: host.driver(loaded=_on(values[0]))),
}


def _usage(word: str) -> str:
    return next(part for part in BREAK_HELP.split(" | ") if part.split()[0] == word)


def _uuid(host: "SimulatedHost", gpu: str) -> str:
    """A GPU by its index; a UUID is left to the host to find. Raises InputError."""
    uuids = host.uuids()
    if not (gpu.isascii() and gpu.isdigit()):
        return gpu
    if int(gpu) >= len(uuids):
        raise InputError(f"There is no GPU {gpu}.", hint=f"There are {len(uuids)}, from 0.")
    return uuids[int(gpu)]


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no whole number.", hint="Write one, as 31.") from error


def _size(text: str) -> int:
    from pydantic import TypeAdapter, ValidationError

    from partitiond.settings_types import Size

    try:
        return int(TypeAdapter(Size).validate_python(text))
    except ValidationError as error:
        raise InputError(f"{text!r} is no size.", hint="Write one, as 10GiB.") from error


def _on(text: str) -> bool:
    if text not in ("on", "off"):
        raise InputError(f"{text!r} is neither on nor off.", hint="Write on or off.")
    return text == "on"


def _figures(values: Sequence[str]) -> dict[str, Any]:
    figures: dict[str, int | float] = {}
    for text in values:
        key, equals, value = text.partition("=")
        try:
            number = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise SpecError(f"{text!r} is not KEY=NUMBER.", hint="Write as ecc=3.")
        figures[key] = int(number) if number.is_integer() else number
    return figures


def _gpus(host: "SimulatedHost") -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "uuid": uuid,
            "lost": bool(host.figure(uuid, "lost")),
            "total_bytes": int(host.figure(uuid, "total_bytes")),
            "used_bytes": host.used_bytes(uuid),
            "processes": host.processes(uuid),
            "mig": host.mig_mode(uuid),
            "mig_instances": [
                {
                    "mig_profile": instance.mig_profile,
                    "slice_start": instance.slice_start,
                    "slice_count": instance.slice_count,
                    "uuid": instance.uuid,
                }
                for instance in host.geometry(uuid)
            ],
        }
        for index, uuid in enumerate(host.uuids())
    ]


def _hosts_table(descriptions: "Mapping[str, HostDescription]") -> "Table":
    from rich.table import Table

    table = Table("name", "GPUs", "what it is", box=None, pad_edge=False)
    for name, description in descriptions.items():
        table.add_row(name, str(description.count), description.about)
    return table


def _gpus_table(gpus: Sequence[Mapping[str, Any]]) -> "Table":
    from rich.table import Table

    table = Table("#", box=None, pad_edge=False)
    table.add_column("GPU", min_width=max(len(gpu["uuid"]) for gpu in gpus))
    for name in ("used", "total", "processes", "MIG"):
        table.add_column(name)
    for gpu in gpus:
        places = ", ".join(f"{i['mig_profile']}@{i['slice_start']}" for i in gpu["mig_instances"])
        table.add_row(
            str(gpu["index"]),
            f"{gpu['uuid']}{' (lost)' if gpu['lost'] else ''}",
            f"{gpu['used_bytes'] >> 20} MiB",
            f"{gpu['total_bytes'] >> 20} MiB",
            ", ".join(str(pid) for pid in gpu["processes"]) or "-",
            (places or "on, empty") if gpu["mig"] else "off",
        )
    return table
