"""The arrays say what the instance says."""

from partitiond.core.model.spec import Slo
from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import RATE_SCALE, PlanRequest, rate_at
from tests.planner.build import gpu, point, want


def test_a_kappa_without_an_option_of_its_own_uses_that_of_the_next_larger_one() -> None:
    """Of three kappas, memory shares have the one in the middle, and MPS has the others."""
    models = (
        want("a", point("a", 1, 8, sm=10, kappa=0.25)),
        want("b", point("b", 1, 8, kappa=0.5)),
        want("c", point("c", 1, 8, sm=10, kappa=0.75)),
    )
    sites = build_sites(build_instance(PlanRequest((gpu(),), models)))
    site_of_kappa = dict(zip(sites.entry_kappa.tolist(), sites.entry_site.tolist(), strict=True))
    for table in (sites.limit_of, sites.option_of):
        least, middle, most = table[site_of_kappa[1], -1]
        assert least == middle != most == -1
        least, middle, most = table[site_of_kappa[0], -1]
        assert least != middle == most != -1


def test_rates_are_exact_however_they_are_computed() -> None:
    """Floats alone round up a whole number that they miss, and what hardly goes beyond one."""
    near = ((711178002 + 7919 * n + 1e-4) / RATE_SCALE for n in range(20))
    strict = Slo(1.0, 0.0115)  # at most 1.15 times its latency alone
    models = tuple(
        want(f"m{n}", point(f"m{n}", r, 8, sm=10, busy=0.1), slo=strict if n == 1 else None)
        for n, r in enumerate((10.45, 9.5, 1 / 3, 2e-9, 123456.789, *near))
    )
    sites = build_sites(build_instance(PlanRequest((gpu(),), models)))
    assert sites.level.shape[1] > 2
    for e, item in enumerate(sites.entry_item.tolist()):
        levels = sites.level[sites.entry_site[e], : sites.entry_top[e] + 1].tolist()
        exact = [rate_at(sites.instance.items[item], level) for level in levels]
        assert sites.rates[e, : len(levels)].tolist() == exact
        assert not sites.rates[e, len(levels) :].any()
