"""Provides simulated hosts whose NVML is under the real binding of this process."""

from tests.gpu_fixtures import make_host

__all__ = ["make_host"]
