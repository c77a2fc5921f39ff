"""Says how engines run as a user of their own, and opens models to that user."""

import contextlib
import dataclasses
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.model.isolation_group import of_group
from partitiond.core.replica.engine import EngineLaunch

HIDDEN: Final = tuple(
    map(
        Path,
        (
            "/run", "/tmp", "/var/tmp", "/dev/shm", "/etc/partitiond",  # noqa: S108 - of the host
            "/var/lib/partitiond", "/var/cache/partitiond",
        ),
    )
)  # fmt: skip
"""What the engines' unit hides from them (`partitiond-engine@.service`), but for `SHOWN`."""
SHOWN: Final = Path("/var/cache/partitiond/models")
"""Prepared models where the service keeps them: the unit shows them, whoever may enter above."""
READ, ENTER = stat.S_IROTH, stat.S_IROTH | stat.S_IXOTH
LIMIT_FACTOR: Final = 1.25
"""A cgroup counts what a profile does not: page cache, the kernel's share, pages touched first.
What is reclaimable is reclaimed below the limit; an engine beyond it leaks. A guess."""


def memory_limit_bytes(launch: EngineLaunch) -> int | None:
    """Return the limit of an engine's cgroup in bytes; None if the plan packs no host memory.

    The plan packs host memory only on the CPU device. On a GPU the budget is the GPU's memory, and
    an engine that is being profiled has no budget yet.
    """
    if launch.placement is None or not isinstance(launch.placement.partition, CpuCores):
        return None
    return int(launch.memory_bytes * LIMIT_FACTOR)


@dataclasses.dataclass(frozen=True, slots=True)
class EngineUser:
    """The user that engines of one isolation group run as, where it is not the daemon's.

    The user, its socket and its cache have one name, which ends in the group's.

    Attributes:
        launcher: socket at which systemd starts an engine as that user (`sandbox`).
        cache_dir: that user's folder for what engines compile.
        models_dir: the daemon's folder of prepared models.
        hidden: folders that the engines' unit hides.
        shown: the folder that it shows, although the folders above are closed.
    """

    launcher: Path
    cache_dir: Path
    models_dir: Path
    hidden: tuple[Path, ...] = HIDDEN
    shown: Path = SHOWN

    def in_group(self, group: str) -> "EngineUser":
        """Return the user of an isolation group, from that of the default group.

        Raises StartFailedError if this host lacks the group.
        """
        if not group:
            return self
        launcher = self.launcher.with_stem(of_group(self.launcher.stem, group))
        if not _is_socket(launcher):
            raise StartFailedError(
                f"This host has no isolation group {group}: there is no socket {launcher}.",
                hint=_set_up(group),
                facts={"isolation_group": group},
            )
        cache_dir = self.cache_dir.with_name(of_group(self.cache_dir.name, group))
        return dataclasses.replace(self, launcher=launcher, cache_dir=cache_dir)

    def launcher_for(self, launch: EngineLaunch) -> Path | None:
        """Return the socket at which this engine is started; None if it runs as the daemon's user.

        A client of an MPS daemon runs as the user that this daemon runs as, which its pipe folder
        tells: a daemon that an earlier release started is the daemon's user's.
        """
        env = dict(launch.extra_env)
        if "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in env:
            return self.launcher
        launcher = mps_launcher(self.launcher)
        pipe_dir = Path(env["CUDA_MPS_PIPE_DIRECTORY"])
        return launcher if pipe_dir.is_relative_to(launcher.with_suffix("")) else None

    def admit(self, launch: EngineLaunch) -> None:
        """Open the engine's model to that user. Raises StartFailedError if it stays closed."""
        folder = Path(launch.model_folder)
        open_model(folder, self.models_dir)
        require_readable(folder, self.shown, self.hidden)


def group_warning(user: EngineUser | None, group: str) -> str:
    """Return why engines of a group do not run as its user here, and what to do; empty if they do.

    Args:
        user: of the default group; None if engines run as the daemon's user.
        group: the isolation group that a model names.
    """
    if not group:
        return ""
    if user is None:
        return (
            f"Isolation group {group} has no effect here: engines run as the daemon's user. "
            f"{_set_up(group)}"
        )
    try:
        user.in_group(group)
    except StartFailedError as error:
        return str(error)
    return ""


def _set_up(group: str) -> str:
    return f"Set it up: `sudo partitiond setup --isolation-group {group} --apply`."


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def mps_launcher(launcher: Path) -> Path:
    """Return the socket of the same user's programs that share a GPU under MPS, and so see each
    other's shared memory: `partitiond-mps.sock` beside `partitiond-engine.sock`.
    """
    # Once: a group's name may have the word, too.
    return launcher.with_stem(launcher.stem.replace("engine", "mps", 1))


def open_model(folder: Path, models_dir: Path) -> None:
    """Let everybody read a model that was prepared below `models_dir`.

    Only engines get there: the folder above is closed to all but its owner, and the engines' unit
    shows them `SHOWN`.
    """
    root = models_dir.resolve()
    if not folder.resolve().is_relative_to(root):
        return
    for path in {root, *_between(root, folder.resolve()), *_tree(folder)}:
        real = path.resolve()
        if not real.is_relative_to(root):
            continue
        with contextlib.suppress(OSError):  # another's, or gone: `require_readable` tells
            mode = real.stat().st_mode
            wanted = mode | (ENTER if stat.S_ISDIR(mode) else READ)
            if wanted != mode:
                real.chmod(stat.S_IMODE(wanted))
        if real != path:
            _open_parents(real, root)


def _open_parents(path: Path, root: Path) -> None:
    """Let everybody enter the folders between `root` and a file that a model links to."""
    for folder in _between(root, path.parent):
        with contextlib.suppress(OSError):
            folder.chmod(stat.S_IMODE(folder.stat().st_mode | ENTER))


def require_readable(folder: Path, shown: Path, hidden: tuple[Path, ...] = HIDDEN) -> None:
    """Raise StartFailedError if the engines' user may not read the model in the folder, or a file
    that a link in it names.
    """
    root = shown.resolve()
    above: set[Path] = set()
    found = (folder, *_tree(folder))
    for path in found:
        real = path.resolve()
        if real.is_relative_to(root):
            continue
        above |= {*real.parents}
        place = next((place for place in hidden if real.is_relative_to(place)), None)
        if place is not None:
            raise StartFailedError(
                f"the user of the engines does not see {real}: {place} is hidden from it.",
                hint=f"Put the model elsewhere, for example below /srv, and not below {place}.",
                facts={"path": str(real)},
            )
    for path in (*sorted(above), *found):
        try:
            mode = path.stat().st_mode
        except OSError:
            continue  # the engine says it better
        needed = stat.S_IXOTH if path in above else ENTER if stat.S_ISDIR(mode) else READ
        if mode & needed != needed:
            raise StartFailedError(
                f"the user of the engines may not read {path}.",
                hint=f"Open the model to it: chmod -R o+rX {folder}"
                + (f"; chmod o+x {path}." if path in above else "."),
                facts={"path": str(path)},
            )


def _between(root: Path, folder: Path) -> Iterator[Path]:
    """Yield the folder and those above it, below `root`."""
    while folder != root and folder.is_relative_to(root):
        yield folder
        folder = folder.parent


def _tree(folder: Path) -> Iterator[Path]:
    for place, folders, files in os.walk(folder):
        yield from (Path(place, name) for name in (*folders, *files))
