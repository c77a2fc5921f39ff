"""The benchmark of several hosts runs, and its hosts are hardly behind one proxy that knows all."""

import math

import pytest

from bench.dispatch.host_cases import HostsCase
from bench.dispatch.hosts import HostsJob, run


@pytest.mark.soak
@pytest.mark.parametrize("spread", ["all", "half"])
def test_hosts_serve_as_one_proxy_does(spread: str) -> None:
    case = HostsCase(4, spread, 0.9, 0.8)
    one = run(HostsJob(case, together=True, seconds=8.0))
    ours = run(HostsJob(case, seconds=8.0))
    assert one.hops == one.moves == 0
    assert ours.hops > 0.5
    assert ours.refused == one.refused == 0
    assert ours.response == pytest.approx(one.response, rel=0.1)


@pytest.mark.soak
def test_overload_is_refused_as_by_one_proxy_and_the_queue_keeps_its_bound() -> None:
    case = HostsCase(4, "half", 1.5)
    one = run(HostsJob(case, together=True, seconds=8.0))
    ours = run(HostsJob(case, seconds=8.0))
    assert ours.refused == pytest.approx(one.refused, abs=0.05)
    assert ours.over < 4
    assert ours.fulls < 2


@pytest.mark.soak
def test_two_greedy_keys_share_alike() -> None:
    ours = run(HostsJob(HostsCase(4, "all", 1.0, 0.8, keys="both"), seconds=8.0))
    assert ours.service["a"] / ours.service["b"] == pytest.approx(1.0, abs=0.25)
    assert all(mean < math.inf for mean, _ in ours.waits.values())
