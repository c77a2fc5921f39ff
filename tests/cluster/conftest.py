"""Has each test of this room reach real Ray by the fixtures of `ray_fixtures`."""

from tests.cluster.ray_fixtures import cluster, ray_hosts, ray_python

__all__ = ["cluster", "ray_hosts", "ray_python"]
