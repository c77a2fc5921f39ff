"""The shared state of a host, record by record, through its own library."""

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
"""Where a number stands for nothing: no GPU, no instance."""
_TEXT_BYTES: Final = 512


class Records:
    """Tables of numbered records with named fields; see `fields.c` for what there is.

    Args:
        library: path of the host's libnvidia-ml.so.1.
        state: path of its shared state; has to exist (see `create_state`).

    Raises:
        DeviceError: the state is missing, or another version's.
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
        """Hold the host's lock; all other calls here want it.

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
        """How many records the table has room for."""
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
        """A field that is a whole number."""
        return int(self.text(table, row, name, inner))

    def used(self, table: str, row: int | None = None) -> list[int]:
        """Records in use: rows of a flat table, or those within a row of a table of GPUs."""
        if row is None:
            return [r for r in range(self.rows(table)) if self.number(table, r, "used")]
        return [i for i in range(self.rows(table)) if self.number(table, row, "used", i)]

    def free_row(self, table: str) -> int:
        """A record that is not in use.

        Raises:
            DeviceError: all are.
        """
        for row in range(self.rows(table)):
            if not self.number(table, row, "used"):
                return row
        raise DeviceError(
            f"The simulated host has no room for another {table}.",
            hint="Make it anew with `partitiond tools simulate create`.",
        )

    def send_event(self, gpu: int, kind: int, data: int, instance: int = NO_ID) -> None:
        """Ring the bell of everyone who waits for NVML events."""
        self._library.simgpu_event(self._host, gpu, kind, data, instance)

    def reap(self) -> None:
        """Forget processes that are gone."""
        self._library.simgpu_reap(self._host)

    def settle_energy(self, gpu: int) -> None:
        """Wanted before the power of a GPU changes."""
        self._library.simgpu_settle_energy(self._host, gpu)

    def used_bytes(self, gpu: int, instance: int = NO_ID) -> int:
        """What living processes hold."""
        return int(self._library.simgpu_used_bytes(self._host, gpu, instance))

    def add_process(self, gpu: int, pid: int, used_bytes: int) -> int:
        """A process that holds memory; its row, or -1 where there are too many."""
        return int(self._library.simgpu_add_process(self._host, gpu, pid, used_bytes))

    def samples_alive(self) -> int:
        """GPM samples of this process that are not freed."""
        return int(self._library.simgpu_samples_alive())

    def make_instance(self, gpu: int, profile_row: int, start: int, *, compute: bool = True) -> int:
        """A GPU instance with its compute instance; NVML's code."""
        return int(
            self._library.simgpu_make_instance(self._host, gpu, profile_row, start, int(compute))
        )

    def reset(self, gpu: int) -> None:
        """As a reboot does it to one GPU."""
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
"""Of the library's own controls; addresses are 64 bits wide, which ctypes has to be told."""
