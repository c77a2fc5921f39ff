"""Runs suites with the engines on the host that clients ask, and on another one."""

from typing import cast

import pytest

from tests.chaos.rig import Proxies, hop_under_test, proxy_under_test


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(proxy_under_test, id="here"),
        pytest.param(hop_under_test, id="over a hop", marks=pytest.mark.full),
    ],
)
def proxies(request: pytest.FixtureRequest) -> Proxies:
    """Make proxies: `async with proxies(folder, **options) as proxy`."""
    return cast("Proxies", request.param)
