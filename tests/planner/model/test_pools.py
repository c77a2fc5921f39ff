"""Engines that share the cores of a host have no more than there are, whatever lists overlap."""

import random

import pytest

from partitiond.planner.model.pools import shared_limits
from tests.planner.build import cpu, gpu


@pytest.mark.parametrize("seed", range(40))
def test_the_limits_allow_what_each_engine_finds_cores_for(seed: int) -> None:
    """Of up to nine lists: of neighbours, of whole nodes, beside a CPU device that has all."""
    chance = random.Random(seed)
    count, length = chance.randint(1, 9), chance.randint(1, 3)
    lists = [
        tuple(range(n, n + length)) if seed % 2 else tuple(range(n // 2 * 2, n // 2 * 2 + length))
        for n in range(count)
    ]
    devices = tuple(gpu(f"g{n}", cores=cores) for n, cores in enumerate(lists))
    devices = (*devices, cpu(count + length)) if seed % 3 == 0 else devices
    pools = [pool for pool in shared_limits(devices, ()) if pool.kind == "cores"]
    for _ in range(100):
        needs = [chance.choice((0, 0, 1, 1, 2, 3)) for _ in devices]
        own = all(need <= len(d.cores) for need, d in zip(needs, devices, strict=True))
        allowed = own and all(sum(needs[b] for b in pool.bins) <= pool.capacity for pool in pools)
        wanted = [d.cores for need, d in zip(needs, devices, strict=True) for _ in range(need)]
        assert allowed == _matched(wanted), (lists, needs)


def _matched(wanted: list[tuple[int, ...]]) -> bool:
    """Whether each of these finds a core of its own, by augmenting paths."""
    owner: dict[int, int] = {}

    def found(one: int, seen: set[int]) -> bool:
        for core in wanted[one]:
            if core not in seen:
                seen.add(core)
                if core not in owner or found(owner[core], seen):
                    owner[core] = one
                    return True
        return False

    return all(found(one, set()) for one in range(len(wanted)))


def test_lists_that_do_not_overlap_take_one_limit_each() -> None:
    devices = tuple(gpu(f"g{n}", cores=(n // 2,)) for n in range(16))
    pools = shared_limits(devices, ())
    assert [len(pool.bins) for pool in pools] == [2] * 8
