"""Derives the units of programs under MPS from those of engines, which differ in little."""

from collections.abc import Sequence
from typing import Final

from partitiond.core.errors import PartitiondError

MPS_SOCKET: Final = "partitiond-mps.socket"
MPS_SERVICE: Final = "partitiond-mps@.service"
MPS_FOLDER: Final = "/run/partitiond-mps"

_SERVICE: Final = (
    ("# One engine, as a user of its own",
     "# An engine in an MPS share, or an MPS daemon (all others: partitiond-engine@.service),\n"
     "# as a user of its own"),
    ("by a connection to partitiond-engine.socket", "by a connection to partitiond-mps.socket"),
    ("Description=Engine of partitiond (%i)", "Description=Engine of partitiond under MPS (%i)"),
    ("RuntimeDirectory=partitiond-engine/%i\n", "RuntimeDirectory=partitiond-engine/mps-%i\n"),
    ("BindPaths=/run/partitiond-engine/%i\n", "BindPaths=/run/partitiond-engine/mps-%i\n"),
    ("# Shared memory, of its own processes alone.\n"
     "TemporaryFileSystem=/dev/shm:rw,mode=1777,nosuid,nodev,size=50%\n",
     "# Shared memory and MPS pipes of this user's programs under MPS (partitiond-mps.mount).\n"
     "BindPaths=/run/partitiond-mps /run/partitiond-mps:/dev/shm\n"),
)  # fmt: skip
_SOCKET: Final = (
    ("each connection starts one partitiond-engine@.service",
     "each connection starts one partitiond-mps@.service"),
    ("Where the daemon asks for an engine:", "Where the daemon asks for a program under MPS:"),
    ("Description=Engines of partitiond (socket)",
     "Description=Engines of partitiond under MPS (socket)"),
    ("RequiresMountsFor=/run/partitiond-engine\n",
     "RequiresMountsFor=/run/partitiond-engine /run/partitiond-mps\n"),
    ("ListenStream=/run/partitiond-engine.sock\n", "ListenStream=/run/partitiond-mps.sock\n"),
)  # fmt: skip
_REPLACED: Final = {MPS_SOCKET: _SOCKET, MPS_SERVICE: _SERVICE}


def mps_unit(name: str, engine_unit: str) -> str:
    """Return the text of a unit for programs under MPS, from that of the engines' unit.

    Raises:
        PartitiondError: the engines' unit is another than the one that was shipped.
    """
    return replaced(engine_unit, _REPLACED[name])


def replaced(text: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the text with each word replaced, which must stand in it exactly once."""
    for old, new in pairs:
        if text.count(old) != 1:
            raise PartitiondError(
                f"a shipped unit does not have {old!r} once.", hint="Install partitiond anew."
            )
        text = text.replace(old, new)
    return text
