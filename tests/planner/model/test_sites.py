"""The arrays say what the instance says."""

from partitiond.planner.model.instance import build_instance
from partitiond.planner.model.sites import build_sites
from partitiond.planner.model.types import PlanRequest
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
