"""A cgroup of its own for each engine, by whatever this host allows without more rights.

- **scope**: `systemd-run --scope` puts the engine's supervisor into a transient unit
  `partitiond-<replica>-<number>.scope`. A daemon that is root asks the system's manager; any other
  asks the manager of its user, which needs lingering (`loginctl enable-linger USER`), or the scope
  ends with the user's last session. A scope is nobody's child: restarting, or removing, the
  service of the daemon does not touch it, and systemd clears it away once it is empty.
- **delegated**: a cgroup `engine-<replica>` below the one that systemd delegated to the daemon's
  service (`Delegate=yes`). It survives a restart with `KillMode=process`. It gets a limit of memory
  only where the daemon sits in a subgroup (`DelegateSubgroup=`, systemd 254 and newer): a cgroup
  that hands controllers to its children may hold no processes, and the service manager would fail
  to put the next daemon into one that does.
- **none**: the engine stays in the daemon's cgroup, told apart by its session alone.

Whichever it is, the supervisor leads a session of its own, is found again by its run folder, and
its tree is killed by that; a cgroup adds accounting, a limit, and a name in `systemd-cgls`.
"""

import asyncio
import contextlib
import dataclasses
import logging
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from partitiond.core.errors import StartFailedError
from partitiond.core.partition import CpuCores
from partitiond.ports import EngineLaunch

log = logging.getLogger(__name__)

CgroupMode = Literal["auto", "scope", "delegated", "none"]
Kind = Literal["user-scope", "system-scope", "delegated", "none"]

SUBGROUP: Final = "daemon"
"""`DelegateSubgroup=` of the unit: where the daemon itself sits, beside its engines' cgroups."""
LIMIT_FACTOR: Final = 1.25
"""A cgroup counts what a profile does not: page cache, the kernel's share, pages touched first.
What is reclaimable is reclaimed below the limit; an engine beyond it leaks."""
PROBE_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 60.0
"""A user's manager may come up later than the daemon: a refusal is not remembered for ever."""
PROGRAM: Final = "systemd-run"
SEARCH_PATH: Final = "/usr/bin:/bin"


@dataclasses.dataclass(frozen=True, slots=True)
class Facts:
    """What decides, as it is on this host.

    Attributes:
        uid: effective user of the daemon.
        program: systemd-run, or "" where there is none.
        system_manager: whether systemd runs this host.
        user_manager: whether the manager of our user runs.
        lingers: whether that manager goes on without a session of the user.
        delegated: folder below which we may make cgroups, or None.
        subgroup: whether the daemon sits beside, and not in, the parent of the engines' cgroups.
    """

    uid: int
    program: str = ""
    system_manager: bool = False
    user_manager: bool = False
    lingers: bool = False
    delegated: Path | None = None
    subgroup: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """Where engines go, in the order to be tried; `refusal` says why there is nowhere."""

    kinds: tuple[Kind, ...]
    refusal: str = ""


def choose(mode: CgroupMode, facts: Facts) -> Choice:
    """Which kinds of cgroup to try on this host, best first. Pure."""
    scope, no_scope = _scope(facts)
    match mode:
        case "none":
            return Choice(("none",))
        case "scope":
            return Choice((scope,)) if scope else Choice((), no_scope)
        case "delegated":
            if facts.delegated is None:
                return Choice((), "no cgroup was delegated to this process")
            return Choice(("delegated",))
        case "auto":
            kinds: list[Kind] = []
            if scope and (scope == "system-scope" or facts.lingers):
                kinds.append(scope)
            if facts.delegated is not None:
                kinds.append("delegated")
            return Choice((*kinds, "none"))


def _scope(facts: Facts) -> tuple[Kind | None, str]:
    if not facts.program:
        return None, "systemd-run is not installed"
    if facts.uid == 0:
        if facts.system_manager:
            return "system-scope", ""
        return None, "systemd does not run this host"
    if facts.user_manager:
        return "user-scope", ""
    return None, f"no manager of user {facts.uid} runs (loginctl enable-linger)"


def memory_limit_bytes(launch: EngineLaunch) -> int | None:
    """The limit of an engine's cgroup in bytes: only where the plan packed host memory.

    That is on the CPU device. Beside a GPU the budget is the GPU's memory, and an engine that is
    being profiled has no budget yet.
    """
    if launch.placement is None or not isinstance(launch.placement.partition, CpuCores):
        return None
    return int(launch.memory_bytes * LIMIT_FACTOR)


@dataclasses.dataclass(frozen=True, slots=True)
class CgroupPlace:
    """How one engine's supervisor is started so that it lands in its cgroup.

    Attributes:
        prefix: words before the supervisor's command.
        environment: what those words need to find their manager.
    """

    kind: Kind = "none"
    prefix: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


NOWHERE: Final = CgroupPlace()


class EngineCgroups:
    """Gives each engine a cgroup, as set and as this host allows.

    Args:
        mode: the setting `engine.cgroup`.
        look: the facts; by default what this host shows.
        now: a monotonic clock in seconds.
    """

    def __init__(
        self,
        mode: CgroupMode = "none",
        look: Callable[[], Facts] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode: CgroupMode = mode
        self._look = look or host_facts
        self._now = now
        self._works: set[Kind] = set()
        self._refused: dict[Kind, float] = {}

    async def place(self, launch: EngineLaunch, name: str) -> CgroupPlace:
        """Where an engine goes. `name` is that of its run folder.

        Raises:
            StartFailedError: the mode that was set is not possible here.
        """
        if self._mode == "none":
            return NOWHERE
        facts = await asyncio.to_thread(self._look)
        choice = choose(self._mode, facts)
        limit, refusal = memory_limit_bytes(launch), choice.refusal
        for kind in choice.kinds:
            place = _place(kind, facts, name, limit)
            refusal = await self._refusal(place, facts)
            if not refusal:
                return place
        raise StartFailedError(
            f"engine.cgroup = {self._mode} is not possible here: {refusal}.",
            hint="Set engine.cgroup to auto, or make it possible (`partitiond setup` shows how).",
            facts={"mode": self._mode, "uid": facts.uid},
        )

    async def _refusal(self, place: CgroupPlace, facts: Facts) -> str:
        """Why a place cannot be had; empty when it can."""
        if place.kind == "none" or place.kind in self._works:
            return ""
        refused_at = self._refused.get(place.kind)
        if (
            refused_at is not None
            and self._mode == "auto"
            and self._now() - refused_at < RETRY_SECONDS
        ):
            return "it was refused a moment ago"
        why = await _try(place) if place.kind != "delegated" else _cannot_make(place, facts)
        if not why:
            self._works.add(place.kind)
            return ""
        self._refused[place.kind] = self._now()
        log.warning("engines get no %s: %s", place.kind, why)
        return why

    def tidy(self, name: str) -> None:
        """Remove the delegated cgroup of an engine that is gone; scopes go by themselves."""
        if self._mode in ("none", "scope"):
            return
        parent = self._look().delegated
        if parent is not None:
            with contextlib.suppress(OSError):  # there was none, or a process is still leaving it
                _folder(parent, name).rmdir()


def unit_name(name: str, token: str) -> str:
    """A scope's name: the replica's, made of what a unit's name may hold, and a token.

    The token keeps it apart from the scope of an earlier engine of the same replica, which
    systemd may not have cleared away yet.
    """
    safe = re.sub(r"[^A-Za-z0-9:_.]", "-", name)
    return f"partitiond-{safe}-{token}"


def scope_command(
    kind: Kind, program: str, *, unit: str, memory_bytes: int | None = None, about: str = ""
) -> tuple[str, ...]:
    """The words that run a command in a scope of its own."""
    words = [program, "--user" if kind == "user-scope" else "--system"]
    words += ["--scope", "--collect", "--quiet", f"--unit={unit}"]
    words += [f"--description={about}"] if about else []
    if memory_bytes is not None:
        # Swapping an engine out would hide that it leaks, and stall its neighbours.
        words += ["-p", f"MemoryMax={memory_bytes}", "-p", "MemorySwapMax=0"]
    return (*words, "--")


def _place(kind: Kind, facts: Facts, name: str, limit: int | None) -> CgroupPlace:
    if kind == "delegated" and facts.delegated is not None:
        folder = _folder(facts.delegated, name)
        memory = str(limit) if limit is not None and facts.subgroup else ""
        return CgroupPlace(kind, ("/bin/sh", "-c", _INTO_CGROUP, "cgroup", str(folder), memory))
    if kind in ("user-scope", "system-scope"):
        unit = unit_name(name, secrets.token_hex(4))
        words = scope_command(
            kind, facts.program, unit=unit, memory_bytes=limit, about=f"partitiond engine {name}"
        )
        return CgroupPlace(kind, words, _manager_environment(kind, facts.uid))
    return NOWHERE


_INTO_CGROUP: Final = (
    'folder=$1; limit=$2; shift 2; mkdir -p "$folder" && echo $$ >"$folder/cgroup.procs" || exit 1;'
    ' if [ -n "$limit" ]; then parent=${folder%/*}; '
    '{ echo +memory >"$parent/cgroup.subtree_control" && echo "$limit" >"$folder/memory.max"; } '
    '2>/dev/null || echo "no memory limit for $folder" >&2; fi; exec "$@"'
)
"""A process can only move itself between fork and exec, and the daemon has threads: a shell can."""


def _folder(parent: Path, name: str) -> Path:
    return parent / f"engine-{name}"


def _manager_environment(kind: Kind, uid: int) -> tuple[tuple[str, str], ...]:
    """A system service has no XDG_RUNTIME_DIR, by which systemd-run finds the user's manager."""
    return (("XDG_RUNTIME_DIR", f"/run/user/{uid}"),) if kind == "user-scope" else ()


async def _try(place: CgroupPlace) -> str:
    """Run `true` in a scope; why it failed, or empty.

    Beforehand, because the exit status of systemd-run cannot be told from that of its command.
    """
    words = [w for w in place.prefix if not w.startswith("--unit=")]
    words.insert(-1, f"--unit={unit_name('probe', secrets.token_hex(4))}")
    try:
        child = await asyncio.create_subprocess_exec(
            *words,
            "true",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": SEARCH_PATH, **dict(place.environment)},
        )
    except OSError as error:
        return f"{words[0]} cannot be run: {error.strerror}"
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, errors = await child.communicate()
    except TimeoutError:
        child.kill()
        await child.wait()
        return f"{PROGRAM} did not answer in {PROBE_SECONDS:g} s"
    if child.returncode == 0:
        return ""
    said = errors.decode(errors="replace").strip().splitlines()
    return said[-1][:300] if said else f"{PROGRAM} ended with {child.returncode}"


def _cannot_make(place: CgroupPlace, facts: Facts) -> str:
    del place
    if facts.delegated is None:
        return "no cgroup was delegated to this process"
    probe = _folder(facts.delegated, f"probe-{secrets.token_hex(4)}")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{facts.delegated} takes no cgroups: {error.strerror}"
    return ""


def host_facts() -> Facts:
    """What this host shows now."""
    uid = os.geteuid()
    delegated, subgroup = delegated_folder()
    return Facts(
        uid=uid,
        program=shutil.which(PROGRAM, path=SEARCH_PATH) or "",
        system_manager=Path("/run/systemd/system").is_dir(),
        user_manager=_exists(Path(f"/run/user/{uid}/systemd/private")),
        lingers=_exists(Path("/var/lib/systemd/linger") / _user_name(uid)),
        delegated=delegated,
        subgroup=subgroup,
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False


def _user_name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def delegated_folder(proc: Path = Path("/proc/self")) -> tuple[Path | None, bool]:
    """The folder below which engines may get cgroups, and whether we sit beside them in it."""
    own = own_cgroup(proc)
    if own is None:
        return None, False
    subgroup = own.name == SUBGROUP
    parent = own.parent if subgroup else own
    return (parent, subgroup) if _is_delegated(parent) else (None, False)


def own_cgroup(proc: Path = Path("/proc/self")) -> Path | None:
    """Folder of this process's cgroup (version 2), or None where the host has none."""
    try:
        groups = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
    except OSError:
        return None
    path = next((line[3:] for line in groups if line.startswith("0::")), None)
    for line in mounts if path is not None else ():
        fields, _, kind = line.partition(" - ")
        if kind.split()[:1] != ["cgroup2"]:
            continue
        root, mounted = fields.split()[3:5]
        below = os.path.relpath(str(path), root)
        if below != ".." and not below.startswith("../"):
            return Path(os.path.normpath(Path(mounted) / below))
    return None


def _is_delegated(folder: Path) -> bool:
    """Whether systemd gave us this cgroup: it marks it, and makes it our user's.

    The mark counts for root, to whom every cgroup is writable; a service's cgroup that belongs to
    another user is enough for that user (systemd before 251 has no mark that users can read).
    """
    for mark in ("trusted.delegate", "user.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(folder, mark) == b"1":
                return os.access(folder, os.W_OK)
    try:
        owner = folder.stat().st_uid
    except OSError:
        return False
    mine = owner == os.geteuid() != 0 and folder.suffix == ".service"
    return mine and os.access(folder, os.W_OK)
