"""Implements `partitiond tools simulate`: makes simulated GPU hosts, to try all without a GPU."""

import asyncio
import ctypes
import os
import shlex
import signal
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import TypeAdapter, ValidationError
from rich.table import Table

from partitiond.cli.columns import Column, table_of
from partitiond.cli.options import JsonOption, option, settings_of, spread
from partitiond.cli.output import emit, out, print_json, say
from partitiond.core.errors import InputError, SpecError
from partitiond.core.units import Bytes, format_bytes
from partitiond.settings.types import Size
from partitiond.simulated.gpus import HostDescription, SimulatedHost, shipped_descriptions

if TYPE_CHECKING:
    from partitiond.settings.schema import Settings


MOST_CALLS: Final = 1_000_000
MOST_CODE: Final = 9999
"""NVML's and CUDA's error codes end at 999; Xid codes are below that, too."""

FolderArgument = Annotated[
    Path, typer.Argument(metavar="DIR", help="Folder of the simulated host.", show_default=False)
]


def create(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="A shipped host, or a JSON file of your own."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="New folder.", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a simulated host, or list those that come with partitiond.

    Compiles its libraries with the system's C compiler, once.
    """
    if name is None and folder is not None:
        raise typer.BadParameter("name the host to make there; without --out they are listed.")
    if name is None:
        shipped = shipped_descriptions()
        emit(list(shipped.values()), as_json=as_json, render=lambda: _hosts_table(shipped))
        return
    if folder is None:
        raise typer.BadParameter("name a new folder for it: --out DIR.")
    host = SimulatedHost.create(name, folder)
    if as_json:
        uuids, environment = host.uuids(), host.environment()
        print_json({"folder": str(host.folder), "uuids": uuids, "environment": environment})
        return
    count = len(host.uuids())
    say(f"{count} GPU{'' if count == 1 else 's'} in {host.folder}")
    say("Use it in this shell:")
    for key, value in host.environment().items():
        out().print(f"export {key}={shlex.quote(value)}", markup=False, soft_wrap=True)


BREAK_HELP: Final = (
    "xid CODE | lose | restore | reboot | heal | fail FUNCTION CODE | process PID SIZE | "
    "health KEY=VALUE... | load KEY=VALUE... | mps fault|kill | mig on|off | "
    "privileged on|off | driver on|off"
)


@spread
def break_host(
    ctx: typer.Context,
    folder: FolderArgument,
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[WHAT [VALUE]...]", help=BREAK_HELP)
    ] = None,
    *,
    gpu: str = option(
        "GPU: its index, or the beginning of its UUID.", default="0", metavar="N|UUID"
    ),
    after: int = option("fail: calls that go well first.", default=0, min=0, max=MOST_CALLS),
    times: int = option("fail: how many calls; -1 without end.", default=1, min=-1, max=MOST_CALLS),
    as_json: JsonOption = False,
) -> None:
    """Let something happen to a simulated host in use, or show it.

    "fail mig 19" lets the next call about MIG answer NVML's error 19 (in use).
    """
    host = SimulatedHost.open(folder)
    if not what:
        gpus = _gpus(host)
        emit(gpus, as_json=as_json, render=lambda: _gpus_table(gpus))
        return
    word, values = what[0], what[1:]
    if word not in _BREAKS:
        raise InputError(f"There is nothing called {word!r}.", hint=f"Use {', '.join(_BREAKS)}.")
    wants, action = _BREAKS[word]
    if (wants is None and not values) or (wants is not None and len(values) != wants):
        raise InputError(f"{word} has other values.", hint=f"Write {_usage(word)}.")
    if word == "fail":
        host.fail(_function(host, values[0]), _code(values[1]), after=after, times=times)
    elif word == "mps":
        _break_mps(settings_of(ctx), host, _uuid(host, gpu), values[0])
    else:
        action(host, _uuid(host, gpu), values)
    if as_json:
        print_json({"done": what, "gpus": _gpus(host)})
    else:
        say(f"{' '.join(what)}: done")


Action = Callable[["SimulatedHost", str, Sequence[str]], Any]

_BREAKS: Final[Mapping[str, tuple[int | None, Action]]] = {
    # word: number of values (None: one or more), action
    "xid": (1, lambda host, uuid, values: host.xid(uuid, _code(values[0]))),
    "lose": (0, lambda host, uuid, _: host.lose(uuid)),
    "restore": (0, lambda host, uuid, _: host.restore(uuid)),
    "reboot": (0, lambda host, _uuid, _values: host.reboot()),
    "heal": (0, lambda host, _uuid, _values: host.heal()),
    "fail": (2, lambda *_: None),  # has options of its own: see `break_host`
    "mps": (1, lambda *_: None),  # needs the run folder from the settings
    "process": (
        2,
        lambda host, uuid, values: _process(host, uuid, _number(values[0]), _size(values[1])),
    ),
    "health": (None, lambda host, uuid, values: host.set_health(uuid, **_figures(values))),
    "load": (None, lambda host, uuid, values: host.set_load(uuid, **_figures(values))),
    "mig": (1, lambda host, uuid, values: _mig(host, uuid, enabled=_on(values[0]))),
    "privileged": (1, lambda host, _, values: host.privileged(_on(values[0]))),
    "driver": (1, lambda host, _, values: host.driver(loaded=_on(values[0]))),
}


def _process(host: SimulatedHost, uuid: str, pid: int, size: int) -> None:
    """Add a foreign process that holds `size` bytes; 0 removes it."""
    if not 0 < pid < 2**31:
        raise InputError(f"{pid} is no pid.", hint="Write one, as 4711.")
    room = int(host.figure(uuid, "total_bytes"))
    if size > room:
        raise InputError(
            f"No process holds {format_bytes(Bytes(size))} of {format_bytes(Bytes(room))}.",
            hint="Write what fits; 0 takes the process away.",
        )
    if size:
        host.add_process(uuid, pid, size)
    else:
        host.remove_process(uuid, pid)


def _mig(host: SimulatedHost, uuid: str, *, enabled: bool) -> None:
    """Set the MIG mode as nvidia-smi does. Raises InputError if processes use the GPU."""
    if host.processes(uuid):
        raise InputError(
            "The mode of a GPU cannot change while processes use it.",
            hint="`partitiond tools simulate break HOST` names them.",
        )
    host.set_mig_mode(uuid, enabled=enabled)


def _function(host: SimulatedHost, name: str) -> str:
    """Check the name of a function of the host's libraries, a pattern for some, or "mig"."""
    letters = {*string.ascii_letters, *string.digits, *"_*?[]"}
    pattern = set("*?[") & set(name)
    known = name == "mig" or (pattern and name.startswith(("nvml", "cu")))
    if not known and not pattern and name.isidentifier():
        paths = (host.nvml_path, host.cuda_path)
        known = any(hasattr(ctypes.CDLL(str(path)), name) for path in paths)
    if not known or len(name) > 60 or not letters.issuperset(name):
        raise InputError(
            f"{name[:60]!r} is no function of NVML or CUDA that a simulated host has.",
            hint="Write as nvmlDeviceGetMemoryInfo_v2, 'nvmlDeviceGetMemoryInfo*', or mig.",
        )
    return name


def _code(text: str) -> int:
    """Parse the code of an error."""
    number = _number(text)
    if not 0 < number <= MOST_CODE:
        raise InputError(f"{text} is no code of an error.", hint=f"Write 1 to {MOST_CODE}.")
    return number


def _usage(word: str) -> str:
    return next(part for part in BREAK_HELP.split(" | ") if part.split()[0] == word)


def _uuid(host: SimulatedHost, gpu: str) -> str:
    """Find a GPU by its index or a prefix of its UUID. Raises InputError."""
    uuids = host.uuids()
    if gpu.isascii() and gpu.isdigit() and len(gpu) < 3:
        if int(gpu) >= len(uuids):
            raise InputError(f"There is no GPU {gpu}.", hint=f"There are {len(uuids)}, from 0.")
        return uuids[int(gpu)]
    found = [uuid for uuid in uuids if gpu and uuid.startswith(gpu)]
    if len(found) != 1:
        why = f"{gpu} is the beginning of {len(found)} UUIDs." if found else f"No GPU is {gpu!r}."
        raise InputError(why, hint=f"There are {', '.join(uuid[:12] for uuid in uuids)}.")
    return found[0]


def _break_mps(settings: "Settings", host: SimulatedHost, uuid: str, how: str) -> None:
    """Simulate a client's fatal fault on a GPU's MPS server, or kill its control daemon."""
    if how not in ("fault", "kill"):
        raise InputError(f"{how!r} is nothing that happens to MPS.", hint=f"Write {_usage('mps')}.")
    from partitiond.gpu_host import mps_control

    daemon = mps_control(settings, str(host.mps_control)).daemon(uuid)
    if not daemon.process():
        raise InputError(
            f"No MPS daemon of {settings.run_dir} runs on {uuid}.",
            hint="Name a GPU on which replicas run in the mode mps, with the daemon's settings.",
        )
    if how == "kill":
        for pid in daemon.pids():
            os.kill(pid, signal.SIGKILL)
    else:
        asyncio.run(daemon.ask("simulate_fault"))


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:
        raise InputError(f"{text!r} is no whole number.", hint="Write one, as 31.") from error


def _size(text: str) -> int:
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


def _gpus(host: SimulatedHost) -> list[dict[str, Any]]:
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


def _hosts_table(descriptions: Mapping[str, HostDescription]) -> Table:
    return table_of(
        descriptions.items(),
        Column("name", lambda row: row[0], whole=True),
        Column(">GPUs", lambda row: str(row[1].count)),
        Column("what it is", lambda row: row[1].about),
    )


def _gpus_table(gpus: Sequence[Mapping[str, Any]]) -> Table:
    def places(gpu: Mapping[str, Any]) -> str:
        there = (f"{i['mig_profile']}@{i['slice_start']}" for i in gpu["mig_instances"])
        return (", ".join(there) or "on, empty") if gpu["mig"] else "off"

    return table_of(
        gpus,
        Column("#", lambda gpu: str(gpu["index"])),
        Column("GPU", lambda gpu: gpu["uuid"] + (" (lost)" if gpu["lost"] else ""), whole=True),
        Column(">MiB", lambda g: f"{g['used_bytes'] >> 20}/{g['total_bytes'] >> 20}", whole=True),
        Column("processes", lambda gpu: ", ".join(map(str, gpu["processes"])) or "-"),
        Column("MIG", places),
    )
