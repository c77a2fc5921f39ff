"""Chooses each engine's cores: a core serves one engine, and running engines keep their cores.

An engine's cores come from one NUMA node if the nodes are known and one has enough free cores:
with cores of two nodes, an engine reaches half of its memory over the link between the nodes.
"""

import dataclasses
from collections.abc import Iterable, Iterator

from partitiond.core.hardware.kinds import Device, short_device
from partitiond.core.hardware.partition import CpuCores
from partitiond.core.numbers.grouping import by_key
from partitiond.core.plan.record import Placement
from partitiond.core.profile.record import ProfileKind
from partitiond.planner.model.draw import GPU_ENGINE_CORES


@dataclasses.dataclass(frozen=True, slots=True)
class CoreWish:
    """One engine's need of cores.

    Attributes:
        name: replica id.
        count: cores it needs.
        allowed: cores it may use.
        exclusive: the cores are its partition (CPU device); an engine on a GPU only needs `count`.
        kept: cores it runs on now.
        nodes: cores of the device by NUMA node; empty if they are not known.
    """

    name: str
    count: int
    allowed: tuple[int, ...]
    exclusive: bool
    kept: tuple[int, ...] = ()
    nodes: tuple[tuple[int, ...], ...] = ()


def choose_cores(wishes: list[CoreWish]) -> dict[str, tuple[int, ...]]:
    """Choose cores for every exclusive wish, by matching engines to cores.

    Running replicas keep their cores if all other wishes can still be met; if not, all cores are
    chosen anew. In both cases a choice with each engine on one node is tried first. Wishes that
    cannot be met at all are left short; the check of the plan then reports them.
    """
    owner: dict[int, int] | None = None
    for keep in (True, False):
        for asked in (_on_one_node(wishes, keep=keep), wishes):
            owner = _match(asked, keep=keep) if owner is None else owner
    mine = by_key((wishes[position].name, core) for core, position in (owner or {}).items())
    return {wish.name: tuple(sorted(mine[wish.name])) for wish in wishes if wish.exclusive}


def _on_one_node(wishes: list[CoreWish], *, keep: bool) -> list[CoreWish]:
    """Return the wishes, each narrowed to the fullest node that still has enough cores.

    The largest wishes choose first. A wish for which no node has enough may have any cores.
    """
    fixed = {core for wish in wishes for core in wish.kept} if keep else set[int]()
    nodes = sorted({node for wish in wishes for node in wish.nodes})
    left = {node: len(set(node) - fixed) for node in nodes}
    found = list(wishes)
    for n in sorted(range(len(wishes)), key=lambda n: (-wishes[n].count, n)):
        wish = wishes[n]
        if not wish.exclusive or (keep and wish.kept):
            continue
        able = [
            node
            for node in wish.nodes
            if min(left[node], len(set(node) & set(wish.allowed) - fixed)) >= wish.count
        ]
        if able:
            node = min(able, key=lambda node: (left[node], node))
            left[node] -= wish.count
            allowed = tuple(core for core in wish.allowed if core in node)
            found[n] = dataclasses.replace(wish, allowed=allowed)
    return found


def core_notes(devices: Iterable[Device], placements: Iterable[Placement]) -> Iterator[str]:
    """Yield notes on engines with too few host cores on GPUs, and on NUMA nodes: replicas that span
    two, and devices whose nodes are not known.
    """
    there, unknown = {device.id: device for device in devices}, set[str]()
    for p in placements:
        cores, guessed = p.candidate.size.cores, p.candidate.profile_kind is ProfileKind.ESTIMATED
        serves = p.candidate.host_memory_bytes > 0  # a simulated engine takes none
        if guessed and serves and cores < GPU_ENGINE_CORES:
            yield (
                f"{p.replica_id} gets {cores} host core{'s' * (cores > 1)}, all that there are, "
                f"where vLLM keeps {GPU_ENGINE_CORES} busy: it is slower than estimated"
            )
        if not isinstance(p.partition, CpuCores) or p.device_id not in there:
            continue
        nodes = there[p.device_id].core_nodes
        touched = [node for node in nodes if not set(node).isdisjoint(p.partition.cores)]
        if len(touched) > 1:
            yield (
                f"{p.replica_id} has cores of {len(touched)} NUMA nodes of "
                f"{short_device(p.device_id)}: no node has as many free"
            )
        if not nodes and p.candidate.size.cores > 1:
            unknown.add(p.device_id)
    for device_id in sorted(unknown):
        yield (
            f"the NUMA nodes of {short_device(device_id)} are not known: cores of one replica may "
            "be of several nodes"
        )


def _match(wishes: list[CoreWish], *, keep: bool) -> dict[int, int] | None:
    """Return the owner of each core by augmenting paths; None if some wish cannot be met."""
    owner: dict[int, int] = {}
    for position, wish in enumerate(wishes if keep else []):
        owner |= dict.fromkeys(wish.kept, position)
    contested = {core for wish in wishes if not wish.exclusive for core in wish.allowed}
    order = [
        sorted((c for c in wish.allowed if c not in owner), key=lambda c: (c in contested, c))
        for wish in wishes
    ]
    for position, wish in enumerate(wishes):
        missing = wish.count - (len(wish.kept) if keep else 0)
        for _ in range(missing):
            if not _augment(position, order, owner, set()):
                return None
    return owner


def _augment(position: int, order: list[list[int]], owner: dict[int, int], seen: set[int]) -> bool:
    """Give `position` one more core, moving other wishes to other cores that they may use."""
    for core in order[position]:
        if core in seen:
            continue
        seen.add(core)
        if core not in owner or (
            owner[core] != position and _augment(owner[core], order, owner, seen)
        ):
            owner[core] = position
            return True
    return False
