"""Discovers GPUs as devices: what NVML tells of each, with its MIG instances.

`nvml` asks the driver and `mig` reads the geometry; this room makes devices of both.
"""
