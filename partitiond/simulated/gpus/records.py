"""Reads and writes a host's shared state, record by record, through the host's own library."""

import contextlib
import ctypes
import errno
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from partitiond.core.errors import DeviceError

NO_ID: Final = 0xFFFFFFFF
"""Number that means none: no GPU, no instance."""
_TEXT_BYTES: Final = 512


class Records:
    """Tables of numbered records with named fields; `fields.c` lists them.

    Args:
        library: path of the host's libnvidia-ml.so.1.
        state: path of the host's shared state; it has to exist (see `create_state`).

    Raises:
        DeviceError: the state is missing, or of another version.
    """

    def __init__(self, library: Path, state: Path) -> None:
        self._library = _load(library)
        self._host: int | None = self._library.simgpu_open(os.fsencode(state))
        if not self._host:
            raise DeviceError(
                f"{state} is no simulated host of this version of partitiond.",
                hint="Make it anew with `partitiond tools simulate create`.",
                facts={"path": str(state)},
            )
        weakref.finalize(self, self._library.simgpu_close, self._host)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the host's lock; all other calls here require it.

        Raises:
            DeviceError: another process has held it for ten seconds.
        """
        if self._library.simgpu_lock(self._host):
            raise DeviceError(
                "The simulated host is locked by a process that does not go on.",
                hint="End the process that is stopped in a debugger or suspended, and try again.",
            )
        try:
            yield
        finally:
            self._library.simgpu_unlock(self._host)

    def rows(self, table: str) -> int:
        """Return how many records the table has room for."""
        return int(self._library.simgpu_rows(table.encode()))

    def set(self, table: str, row: int, values: Mapping[str, object], inner: int = 0) -> None:
        """Write fields.

        Raises:
            ValueError: there is no such record or field, or the value does not fit.
        """
        for name, value in values.items():
            text = str(int(value) if isinstance(value, bool) else value)
            failed = self._library.simgpu_set(
                self._host, table.encode(), row, inner, name.encode(), text.encode()
            )
            if failed:
                raise ValueError(
                    f"{table}[{row}][{inner}].{name} = {text}: {errno.errorcode.get(failed)}"
                )

    def text(self, table: str, row: int, name: str, inner: int = 0) -> str:
        """Read a field. Raises ValueError as `set` does."""
        buffer = ctypes.create_string_buffer(_TEXT_BYTES)
        failed = self._library.simgpu_get(
            self._host, table.encode(), row, inner, name.encode(), buffer, _TEXT_BYTES
        )
        if failed:
            raise ValueError(f"{table}[{row}][{inner}].{name}: {errno.errorcode.get(failed)}")
        return buffer.value.decode()

    def number(self, table: str, row: int, name: str, inner: int = 0) -> int:
        """Read a field that is a whole number."""
        return int(self.text(table, row, name, inner))

    def used(self, table: str, row: int | None = None) -> list[int]:
        """Return records in use: rows of a flat table, or those within a row of a table of GPUs."""
        if row is None:
            return [r for r in range(self.rows(table)) if self.number(table, r, "used")]
        return [i for i in range(self.rows(table)) if self.number(table, row, "used", i)]

    def free_row(self, table: str) -> int:
        """Return a record that is not in use.

        Raises:
            DeviceError: all records are in use.
        """
        for row in range(self.rows(table)):
            if not self.number(table, row, "used"):
                return row
        raise DeviceError(
            f"The simulated host has no room for another {table}.",
            hint="Make it anew with `partitiond tools simulate create`.",
        )

    def send_event(self, gpu: int, kind: int, data: int, instance: int = NO_ID) -> None:
        """Send an event to all processes that wait for NVML events."""
        self._library.simgpu_event(self._host, gpu, kind, data, instance)

    def reap(self) -> None:
        """Remove processes that are gone."""
        self._library.simgpu_reap(self._host)

    def settle_energy(self, gpu: int) -> None:
        """Count a GPU's energy up to now; required before its power changes."""
        self._library.simgpu_settle_energy(self._host, gpu)

    def used_bytes(self, gpu: int, instance: int = NO_ID) -> int:
        """Return the bytes that living processes hold."""
        return int(self._library.simgpu_used_bytes(self._host, gpu, instance))

    def add_process(self, gpu: int, pid: int, used_bytes: int) -> int:
        """Add a process that holds memory; return its row, or -1 if there are too many."""
        return int(self._library.simgpu_add_process(self._host, gpu, pid, used_bytes))

    def samples_alive(self) -> int:
        """Return the number of this process's GPM samples that are not freed."""
        return int(self._library.simgpu_samples_alive())

    def make_instance(self, gpu: int, profile_row: int, start: int) -> int:
        """Make a GPU instance with its compute instance; return NVML's code."""
        return int(self._library.simgpu_make_instance(self._host, gpu, profile_row, start, 1))

    def reset(self, gpu: int) -> None:
        """Reset one GPU, as a reboot does."""
        self._library.simgpu_reset(self._host, gpu)


def create_state(library: Path, state: Path) -> None:
    """Make an empty shared state.

    Raises:
        DeviceError: the file cannot be made, or is there already.
    """
    failed = int(_load(library).simgpu_create(os.fsencode(state)))
    if failed:
        raise DeviceError(
            f"{state} cannot be made: {os.strerror(failed)}.",
            hint="Name an empty folder on a disk with a few megabytes free.",
            facts={"path": str(state), "errno": failed},
        )


def _load(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"{path} cannot be loaded: {error}.",
            hint="Make the simulated host anew with `partitiond tools simulate create`.",
            facts={"path": str(path)},
        ) from error
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, f"simgpu_{name}")
        function.restype, function.argtypes = result, arguments
    return library


_HOST: Final = ctypes.c_void_p
_UINT: Final = ctypes.c_uint
_U64: Final = ctypes.c_uint64
_TEXT: Final = ctypes.c_char_p
_SIGNATURES: Final[Mapping[str, tuple[type | None, list[type]]]] = {
    "create": (ctypes.c_int, [_TEXT]),
    "open": (_HOST, [_TEXT]),
    "close": (None, [_HOST]),
    "lock": (ctypes.c_int, [_HOST]),
    "unlock": (None, [_HOST]),
    "rows": (_UINT, [_TEXT]),
    "set": (ctypes.c_int, [_HOST, _TEXT, _UINT, _UINT, _TEXT, _TEXT]),
    "get": (ctypes.c_int, [_HOST, _TEXT, _UINT, _UINT, _TEXT, _TEXT, ctypes.c_size_t]),
    "event": (None, [_HOST, _UINT, _U64, _U64, _UINT]),
    "reap": (None, [_HOST]),
    "settle_energy": (None, [_HOST, _UINT]),
    "used_bytes": (_U64, [_HOST, _UINT, _UINT]),
    "add_process": (ctypes.c_int, [_HOST, _UINT, ctypes.c_int, _U64]),
    "make_instance": (ctypes.c_int, [_HOST, _UINT, _UINT, _UINT, ctypes.c_int]),
    "samples_alive": (ctypes.c_int, []),
    "reset": (None, [_HOST, _UINT]),
}
"""Signatures of the library's control functions; without them ctypes would cut 64-bit addresses."""
