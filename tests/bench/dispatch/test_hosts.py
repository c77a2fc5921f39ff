"""The benchmark of several hosts runs, and its hosts are hardly behind one proxy that knows all."""

import dataclasses
import math

import pytest

from bench.dispatch.host_affinity import AffinityJob
from bench.dispatch.host_affinity import run as run_affinity
from bench.dispatch.host_cases import HostsCase
from bench.dispatch.hosts import HostsJob, run
from bench.paired import spread


@pytest.mark.soak
@pytest.mark.parametrize("known_by", ["session", "prefix"])
def test_hosts_that_tell_find_replicas_as_one_proxy_does(known_by: str) -> None:
    job = AffinityJob(HostsCase(4, load=0.6), "told", known_by, "any", seconds=6.0)
    told = run_affinity(job)
    one = run_affinity(dataclasses.replace(job, way="own", together=True))
    none = run_affinity(dataclasses.replace(job, way="none"))
    assert none.same < 0.3 < 0.8 * one.same < told.same
    assert told.kb_per_second > 0 == none.kb_per_second
    assert told.response == pytest.approx(one.response, rel=0.1)


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
def test_overload_is_refused_and_greedy_keys_share_alike() -> None:
    case = HostsCase(4, "half", 1.5)
    one = run(HostsJob(case, together=True, seconds=8.0))
    ours = run(HostsJob(case, seconds=8.0))
    assert ours.refused == pytest.approx(one.refused, abs=0.05)
    assert ours.over < 4
    assert ours.fulls < 2
    ours = run(HostsJob(HostsCase(4, "all", 1.0, 0.8, keys="both"), seconds=8.0))
    assert ours.service["a"] / ours.service["b"] == pytest.approx(1.0, abs=0.25)
    assert all(mean < math.inf for mean, _ in ours.waits.values())


def test_figures_show_their_spread() -> None:
    assert spread([0.3, 0.1, 0.2], ".1f") == "0.2 (0.1..0.3)"
