"""Slows the engines of a simulated GPU by those that work beside them, as plans expect.

Each engine has a row in a file of the simulated host, in which it writes until when its step runs
and what the step takes of the device.
An engine that ended is beside nobody once its step is over or another engine starts: the clock may
have begun anew.
"""

import itertools
import mmap
import operator
import os
import struct
import time
import zlib
from pathlib import Path
from typing import Final

from partitiond.core.performance.engine_speed import SPEED_FILE, EngineSpeed
from partitiond.core.performance.interference import DEFAULT, sigma

_ROW: Final = struct.Struct("=qIxxxxddd")
"""Process, device, end of its step by the monotonic clock, its busy share and its kappa."""
_ROWS: Final = 512
"""More engines than a host runs. Chosen."""


class Neighbours:
    """One engine's row, and what the others say.

    Args:
        host: folder of the simulated host.
        speed: of this engine.
    """

    def __init__(self, host: Path, speed: EngineSpeed) -> None:
        file = os.open(host / SPEED_FILE, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            os.lockf(file, os.F_LOCK, 0)
            os.truncate(file, _ROW.size * _ROWS)
            self._rows = mmap.mmap(file, _ROW.size * _ROWS)
            self._row = self._free_row()
            self._device = zlib.crc32(speed.device.encode())
            kappa = DEFAULT.kappa(speed.mode) if speed.kappa is None else speed.kappa
            self._mode, self._takes = speed.mode, (speed.busy, kappa)
            self._write(0.0)
        finally:
            os.close(file)  # which also ends the lock

    def _free_row(self) -> int:
        """Return where the first row without a living engine is; empty all such rows.

        An emptied row keeps its process, so that the first row without one ends them all.
        """
        rows = range(0, len(self._rows), _ROW.size)
        pids = {row: _ROW.unpack_from(self._rows, row)[0] for row in rows}
        free = [row for row, pid in pids.items() if not Path(f"/proc/{pid}").exists()]
        if not free:
            raise RuntimeError(f"a simulated host has room for {_ROWS} engines")
        for row in free:
            self._rows[row + 8 : row + _ROW.size] = bytes(_ROW.size - 8)
        return free[0]

    def slowed(self, seconds: float) -> float:
        """Return how long a step takes that begins now, and tell the others."""
        now = time.monotonic()
        rows = itertools.takewhile(operator.itemgetter(0), _ROW.iter_unpack(self._rows))
        beside = [
            (busy, kappa)
            for number, (_, device, until, busy, kappa) in enumerate(rows)
            if device == self._device and until > now and number * _ROW.size != self._row
        ]
        busy, kappas = zip(self._takes, *beside, strict=True)
        seconds *= sigma(self._mode, busy, kappas=kappas)
        self._write(now + seconds)
        return seconds

    def _write(self, until: float) -> None:
        row = os.getpid(), self._device, until, *self._takes
        _ROW.pack_into(self._rows, self._row, *row)
