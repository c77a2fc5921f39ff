"""Discovers devices: NVIDIA GPUs by NVML, the host's CPU, and fakes that ship.

The adapters implement `ports.DeviceProvider`. Code that differs between a GPU and a CPU is here and
in `engines`, nowhere else.
"""
