"""A conversation finds its replica from any host almost as often as with one proxy."""

import dataclasses

import pytest

from bench.dispatch.host_affinity import AffinityJob, run
from bench.dispatch.host_cases import HostsCase


@pytest.mark.soak
@pytest.mark.parametrize("known_by", ["session", "prefix"])
def test_hosts_that_tell_find_replicas_as_one_proxy_does(known_by: str) -> None:
    job = AffinityJob(HostsCase(4, load=0.6), "told", known_by, "any", seconds=6.0)
    told = run(job)
    one = run(dataclasses.replace(job, way="own", together=True))
    none = run(dataclasses.replace(job, way="none"))
    assert none.same < 0.3 < 0.8 * one.same < told.same
    assert told.kb_per_second > 0 == none.kb_per_second
    assert told.response == pytest.approx(one.response, rel=0.1)
