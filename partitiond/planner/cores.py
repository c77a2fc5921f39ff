"""Which cores an engine gets: each core serves one engine, running ones keep theirs."""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class CoreWish:
    """One engine's need of cores.

    Attributes:
        name: replica id.
        count: cores it needs.
        allowed: cores it may use.
        exclusive: the cores are its partition (CPU device); engines on GPUs only need as many.
        kept: cores it runs on now.
    """

    name: str
    count: int
    allowed: tuple[int, ...]
    exclusive: bool
    kept: tuple[int, ...] = ()


def choose_cores(wishes: list[CoreWish]) -> dict[str, tuple[int, ...]]:
    """Cores for every exclusive wish, by a matching of engines and cores.

    Running replicas keep their cores if everybody else still finds some; if not, all are chosen
    anew. Wishes that cannot be met at all are left short; the plan's check then says so.
    """
    owner = _match(wishes, keep=True)
    if owner is None:
        owner = _match(wishes, keep=False) or {}
    mine: dict[str, list[int]] = {wish.name: [] for wish in wishes if wish.exclusive}
    for core, position in owner.items():
        if wishes[position].exclusive:
            mine[wishes[position].name].append(core)
    return {name: tuple(sorted(cores)) for name, cores in mine.items()}


def _match(wishes: list[CoreWish], *, keep: bool) -> dict[int, int] | None:
    """Owner of each core by augmenting paths; None where some wish cannot be met."""
    owner: dict[int, int] = {}
    fixed: set[int] = set()
    if keep:
        for position, wish in enumerate(wishes):
            owner |= dict.fromkeys(wish.kept, position)
            fixed |= set(wish.kept)
    contested = {core for wish in wishes if not wish.exclusive for core in wish.allowed}
    order = [
        sorted((c for c in wish.allowed if c not in fixed), key=lambda c: (c in contested, c))
        for wish in wishes
    ]
    for position, wish in enumerate(wishes):
        missing = wish.count - (len(wish.kept) if keep else 0)
        for _ in range(missing):
            if not _augment(position, order, owner, set()):
                return None
    return owner


def _augment(position: int, order: list[list[int]], owner: dict[int, int], seen: set[int]) -> bool:
    """Give `position` one more core, letting others move to cores they may use as well."""
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
