"""What this host's CPU reaches, for estimates: measured when it is asked for the first time."""

import threading
from pathlib import Path

from partitiond.core.hardware import CpuFigures, Device
from partitiond.devices.bandwidth import cpu_figures


class CpuSpeed:
    """Figures of the host's CPU. Callable from several threads: one measures, the others wait.

    Args:
        state_dir: where figures are kept, so that another process need not measure again.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str, int], CpuFigures] = {}

    def __call__(self, device: Device) -> CpuFigures:
        """Kept or measured now, for about two seconds on all cores.

        Raises:
            DeviceError: the measurement failed.
        """
        with self._lock:
            kept = self.kept(device)
            if kept is None:
                kept = self._kept[_key(device)] = cpu_figures(device, self._state_dir)
            return kept

    def kept(self, device: Device) -> CpuFigures | None:
        """What this process knows already. Does not look and does not wait."""
        return self._kept.get(_key(device))


def _key(device: Device) -> tuple[str, str, int]:
    return device.hardware, device.name, len(device.cores)
