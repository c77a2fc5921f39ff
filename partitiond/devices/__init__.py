"""Devices: NVIDIA GPUs by NVML, the host's CPU, and fakes that ship.

Adapters behind `ports.DeviceProvider`. What differs between a GPU and a CPU sits here and in
`engines`, nowhere else.
"""
