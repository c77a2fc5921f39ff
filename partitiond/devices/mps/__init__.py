"""Runs NVIDIA's Multi-Process Service: one control daemon of our own per GPU.

A control daemon (`nvidia-cuda-mps-control`) listens in a pipe folder. The first CUDA program that
finds it through CUDA_MPS_PIPE_DIRECTORY makes it start a server, which owns the GPU's scheduling;
every further program is a client of that server. Three facts shape this package:

- **One daemon per GPU.** A fault reaches every client of a server, so one server for all GPUs would
  make the host one fault domain. Each daemon sees one GPU, by UUID (clients count an index anew).
- **A daemon belongs to a folder.** Pipe folder, pid and start time together tell our daemon from an
  operator's, also after a restart of partitiond; no other process is ever signalled.
- **A client is ended by its daemon before it is killed.** A client that dies inside a kernel may
  take down the server, and so its neighbours.

Source: NVIDIA's Multi-Process Service documentation (docs.nvidia.com/deploy/mps) and the manual
page nvidia-cuda-mps-control(1). This package uses protocol version 2 ("legacy"), which every driver
speaks; it is the default even if a driver knows version 3 (CUDA_MPS_PROTOCOL_VERSION, which wins
over -p).
"""

from partitiond.devices.mps.compute_mode import compute_mode_refusal
from partitiond.devices.mps.control import MpsControl
from partitiond.devices.mps.daemon import MpsClient, MpsDaemon
from partitiond.devices.mps.environment import client_env, without_mps_env
from partitiond.devices.mps.foreign import ForeignMps

__all__ = [
    "ForeignMps",
    "MpsClient",
    "MpsControl",
    "MpsDaemon",
    "client_env",
    "compute_mode_refusal",
    "without_mps_env",
]
