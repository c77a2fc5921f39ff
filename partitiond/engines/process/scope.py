"""Gives each engine a cgroup of its own, in a way that this host allows without more rights.

- **scope**: `systemd-run --scope` puts the engine's supervisor into a transient unit
  `partitiond-<replica>-<number>.scope`. A daemon that is root asks the system's manager; any other
  daemon asks the manager of its user, which needs lingering (`loginctl enable-linger USER`):
  without it the scope ends with the user's last session. A scope does not belong to the daemon's
  service: restarting or removing that service leaves the scope, and systemd removes an empty one.
- **delegated**: a cgroup `engine-<replica>` below the one that systemd delegated to the daemon's
  service (`Delegate=yes`). It survives a restart with `KillMode=process`. It gets a memory limit
  only if the daemon sits in a subgroup (`DelegateSubgroup=`, systemd 254 and newer): a cgroup
  that hands controllers to its children may hold no processes, so the service manager would fail
  to put the next daemon into such a cgroup.
- **none**: the engine stays in the daemon's cgroup; only its session tells it apart.

In every case the supervisor leads a session of its own and is found again by its run folder, by
which its tree is also killed; a cgroup adds accounting, a limit, and a name in `systemd-cgls`.
"""

import asyncio
import contextlib
import dataclasses
import logging
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from partitiond.core.errors import StartFailedError
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.replica.engine import EngineLaunch
from partitiond.engines.process.scope_facts import PROGRAM, SEARCH_PATH, ScopeFacts, host_facts

log = logging.getLogger(__name__)

CgroupMode = Literal["auto", "scope", "delegated", "none"]
Kind = Literal["user-scope", "system-scope", "delegated", "none"]

LIMIT_FACTOR: Final = 1.25
"""A cgroup counts what a profile does not: page cache, the kernel's share, pages touched first.
What is reclaimable is reclaimed below the limit; an engine beyond it leaks. A guess."""
PROBE_SECONDS: Final = 5.0
"""A user's manager that does not answer in this time counts as one that refuses."""
RETRY_SECONDS: Final = 60.0
"""A user's manager may come up later than the daemon: a refusal counts for this long. Chosen."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScopeChoice:
    """Kinds of cgroup to try, in this order; `refusal` says why there is none."""

    kinds: tuple[Kind, ...]
    refusal: str = ""


def choose(mode: CgroupMode, facts: ScopeFacts) -> ScopeChoice:
    """Choose the kinds of cgroup to try on this host, best first. Pure."""
    scope, no_scope = _scope(facts)
    match mode:
        case "none":
            return ScopeChoice(("none",))
        case "scope":
            return ScopeChoice((scope,)) if scope else ScopeChoice((), no_scope)
        case "delegated":
            if facts.delegated is None:
                return ScopeChoice((), "no cgroup was delegated to this process")
            return ScopeChoice(("delegated",))
        case "auto":
            kinds: list[Kind] = []
            if scope and (scope == "system-scope" or facts.lingers):
                kinds.append(scope)
            if facts.delegated is not None:
                kinds.append("delegated")
            return ScopeChoice((*kinds, "none"))


def _scope(facts: ScopeFacts) -> tuple[Kind | None, str]:
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
    """Return the limit of an engine's cgroup in bytes; None if the plan packs no host memory.

    The plan packs host memory only on the CPU device. On a GPU the budget is the GPU's memory, and
    an engine that is being profiled has no budget yet.
    """
    if launch.placement is None or not isinstance(launch.placement.partition, CpuCores):
        return None
    return int(launch.memory_bytes * LIMIT_FACTOR)


@dataclasses.dataclass(frozen=True, slots=True)
class CgroupPlace:
    """The way to start one engine's supervisor so that it lands in its cgroup.

    Attributes:
        prefix: words before the supervisor's command.
        environment: variables with which those words find their manager.
    """

    kind: Kind = "none"
    prefix: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()


NOWHERE: Final = CgroupPlace()


class EngineCgroups:
    """Gives each engine a cgroup, as the setting and this host allow.

    Args:
        mode: the setting `engine.cgroup`.
        look: reads the facts; by default those of this host.
        now: a monotonic clock in seconds.
    """

    def __init__(
        self,
        mode: CgroupMode = "none",
        look: Callable[[], ScopeFacts] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode: CgroupMode = mode
        self._look = look or host_facts
        self._now = now
        self._works: set[Kind] = set()
        self._refused: dict[Kind, float] = {}

    async def place(self, launch: EngineLaunch, name: str) -> CgroupPlace:
        """Choose where an engine goes. `name` is the name of its run folder.

        Raises:
            StartFailedError: the mode that was set is not possible here.
        """
        return await self.place_named(name, limit=memory_limit_bytes(launch))

    async def place_named(self, name: str, *, limit: int | None = None) -> CgroupPlace:
        """Choose where a process goes that has to outlive the daemon as engines do.

        Args:
            limit: memory limit in bytes.

        Raises:
            StartFailedError: the mode that was set is not possible here.
        """
        if self._mode == "none":
            return NOWHERE
        facts = await asyncio.to_thread(self._look)
        choice = choose(self._mode, facts)
        refusal = choice.refusal
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

    async def _refusal(self, place: CgroupPlace, facts: ScopeFacts) -> str:
        """Return why a place is not available; empty if it is available."""
        if place.kind == "none" or place.kind in self._works:
            return ""
        refused_at = self._refused.get(place.kind)
        if (
            refused_at is not None
            and self._mode == "auto"
            and self._now() - refused_at < RETRY_SECONDS
        ):
            return "it was refused a moment ago"
        why = await _try(place) if place.kind != "delegated" else _cannot_make(facts)
        if not why:
            self._works.add(place.kind)
            return ""
        self._refused[place.kind] = self._now()
        log.warning("engines get no %s: %s", place.kind, why)
        return why

    def doubt(self, place: CgroupPlace) -> None:
        """Note that an engine could not be started there: test that kind before its next use."""
        self._works.discard(place.kind)

    def tidy(self, name: str) -> None:
        """Remove the delegated cgroup of an engine that is gone; systemd removes scopes itself."""
        if self._mode in ("none", "scope"):
            return
        parent = self._look().delegated
        if parent is not None:
            with contextlib.suppress(OSError):  # there was none, or a process is still leaving it
                _folder(parent, name).rmdir()


def unit_name(name: str, token: str) -> str:
    """Build a scope's name from the replica's name, in characters that units allow, and a token.

    The token distinguishes the scope from that of an earlier engine of the same replica, which
    systemd may not have removed yet.
    """
    safe = re.sub(r"[^A-Za-z0-9:_.]", "-", name)
    return f"partitiond-{safe}-{token}"


def scope_command(
    kind: Kind, program: str, *, unit: str, memory_bytes: int | None = None, about: str = ""
) -> tuple[str, ...]:
    """Return the words that run a command in a scope of its own."""
    words = [program, "--user" if kind == "user-scope" else "--system"]
    words += ["--scope", "--collect", "--quiet", f"--unit={unit}"]
    words += [f"--description={about}"] if about else []
    if memory_bytes is not None:
        # Swapping an engine out would hide that it leaks, and stall its neighbours.
        words += ["-p", f"MemoryMax={memory_bytes}", "-p", "MemorySwapMax=0"]
    return (*words, "--")


def _place(kind: Kind, facts: ScopeFacts, name: str, limit: int | None) -> CgroupPlace:
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
"""The move happens between fork and exec: a shell can do that, a daemon with threads cannot."""


def _folder(parent: Path, name: str) -> Path:
    return parent / f"engine-{name}"


def _manager_environment(kind: Kind, uid: int) -> tuple[tuple[str, str], ...]:
    """Return XDG_RUNTIME_DIR, by which systemd-run finds the user's manager: services lack it."""
    return (("XDG_RUNTIME_DIR", f"/run/user/{uid}"),) if kind == "user-scope" else ()


async def _try(place: CgroupPlace) -> str:
    """Run `true` in a scope; return why that failed, or an empty text.

    It runs beforehand, because systemd-run's exit status cannot be told from its command's.
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


def _cannot_make(facts: ScopeFacts) -> str:
    if facts.delegated is None:
        return "no cgroup was delegated to this process"
    probe = _folder(facts.delegated, f"probe-{secrets.token_hex(4)}")
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError as error:
        return f"{facts.delegated} takes no cgroups: {error.strerror}"
    return ""
