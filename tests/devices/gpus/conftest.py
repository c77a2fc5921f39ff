"""Provides simulated hosts whose NVML is under the real binding of this process."""

from tests.gpu_fixtures import MakeHost, make_host

__all__ = ["MakeHost", "make_host"]
