"""Measures the speed of this host's CPU for estimates, when it is first asked for."""

import threading
from pathlib import Path

from partitiond.core.hardware.kinds import CpuFigures, Device
from partitiond.devices.bandwidth import cpu_figures


class CpuSpeed:
    """Figures of the host's CPU. Several threads may call it: one measures, the others wait.

    Args:
        state_dir: the folder that keeps the figures, so that another process need not measure.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, int], CpuFigures] = {}

    def __call__(self, device: Device) -> CpuFigures:
        """The kept figures, or figures measured now, for about two seconds on all cores.

        Raises:
            DeviceError: the measurement failed.
        """
        with self._lock:
            kept = self.kept(device)
            if kept is None:
                kept = self._kept[_key(device)] = cpu_figures(device, self._state_dir)
            return kept

    def kept(self, device: Device) -> CpuFigures | None:
        """The figures that this process already has, or None. Never measures or waits."""
        return self._kept.get(_key(device))


def _key(device: Device) -> tuple[str, str, int]:
    return device.hardware, device.name, len(device.cores)
