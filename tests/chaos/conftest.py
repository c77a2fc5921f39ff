"""Runs suites with the engines on the host that clients ask, and on another one."""

import functools

import pytest

from tests.chaos.rig import Proxies, proxy_under_test


@pytest.fixture(scope="module", params=["here", pytest.param("over a hop", marks=pytest.mark.slow)])
def proxies(request: pytest.FixtureRequest) -> Proxies:
    """Make proxies: `async with proxies(folder, **options) as proxy`."""
    return functools.partial(proxy_under_test, over_a_hop=request.param == "over a hop")
