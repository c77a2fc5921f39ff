"""Creates and opens simulated hosts, and injects everything that may happen to their GPUs."""

import contextlib
import enum
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from partitiond.core.errors import ConflictError, DeviceError, NotFoundError, SpecError
from partitiond.core.performance.engine_speed import SPEED_FILE
from partitiond.serde import to_json
from partitiond.simulated.gpus.description import HostDescription, find_description, validate
from partitiond.simulated.gpus.initial_state import write_host
from partitiond.simulated.gpus.library import install_libraries
from partitiond.simulated.gpus.mps_program import write_program
from partitiond.simulated.gpus.reading import HostReader
from partitiond.simulated.gpus.records import NO_ID, create_state

XID_FALLEN_OFF_THE_BUS: Final = 79
_XID_EVENT: Final = 0x8
_HANG_MS: Final = 2**32 - 1
"""As a delay: the call hangs until its fault is removed."""
_HEALTH: Final = frozenset(
    {
        "ecc_corrected_volatile", "ecc_uncorrected_volatile", "ecc_corrected_aggregate",
        "ecc_uncorrected_aggregate", "remapped_corrected", "remapped_uncorrected",
        "remapped_pending", "remapped_failure", "throttle", "temperature_c", "compute_mode",
        "persistence_mode", "power_limit_mw",
    }
)  # fmt: skip
_LOAD: Final = frozenset(
    {
        "sm_activity", "sm_occupancy", "tensor_activity", "dram_activity", "gpu_util",
        "power_watts", "energy_joules", "gpm", "energy_counter",
    }
)  # fmt: skip


class KillPoint(enum.IntEnum):
    """Used instead of an error code: the process that makes the call is killed (SIGKILL)."""

    BEFORE = -1
    AFTER = -2
    """After the call has been carried out."""
    LOCKED = -3
    """While the process holds the host's lock."""


class SimulatedHost(HostReader):
    """One host in its folder. Make a host with `create`, or find one with `open`."""

    # --- its folder ---------------------------------------------------------------------------

    @classmethod
    def create(cls, description: HostDescription | str, folder: Path) -> "SimulatedHost":
        """Make a host in a folder.

        Args:
            description: description, the name of a shipped one, or the path of a file.
            folder: new or empty.

        Raises:
            NotFoundError, SpecError: there is no such description, or no host can be made of it.
            ConflictError: the folder is not empty.
            DeviceError: there is no C compiler, or the folder cannot be written.
        """
        if isinstance(description, str):
            description = find_description(description)
        validate(description)
        folder = folder.absolute()
        try:
            return cls._make_in(description, folder)
        except OSError as error:
            raise DeviceError(
                f"No simulated host can be made in {folder}: {error.strerror}.",
                hint="Name a folder on a disk with room, which you may write to.",
                facts={"folder": str(folder)},
            ) from error

    @classmethod
    def _make_in(cls, description: HostDescription, folder: Path) -> "SimulatedHost":
        there = folder.exists()
        if there and any(folder.iterdir()):
            raise ConflictError(
                f"{folder} is not empty.", hint="Name a new folder, or empty this one."
            )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return cls._make(description, folder)
        except BaseException:
            # Remove everything half-made.
            for name in ("lib", "bin"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in ("state", "host.json", SPEED_FILE):
                (folder / name).unlink(missing_ok=True)
            if not there:
                folder.rmdir()
            raise

    @classmethod
    def _make(cls, description: HostDescription, folder: Path) -> "SimulatedHost":
        install_libraries(folder / "lib")
        write_program(folder / "bin" / "nvidia-cuda-mps-control", folder)
        create_state(folder / "lib" / "libnvidia-ml.so.1", folder / "state")
        (folder / SPEED_FILE).touch()
        (folder / SPEED_FILE).chmod(0o666)  # as the state: engines have users of their own
        host = cls(folder)
        with host._records.locked():
            write_host(host._records, description)
        (folder / "host.json").write_text(to_json(description, indent=2) + "\n", encoding="utf-8")
        return host

    @classmethod
    def open(cls, folder: Path) -> "SimulatedHost":
        """Open an existing host.

        Raises:
            NotFoundError: there is no host in this folder.
            DeviceError: the host is of another version.
        """
        folder = folder.absolute()
        if not (folder / "state").is_file():
            raise NotFoundError(
                f"There is no simulated host in {folder}.",
                hint="Make one with `partitiond tools simulate create NAME --out DIR`.",
            )
        return cls(folder)

    def environment(self) -> dict[str, str]:
        """Return environment variables that make a daemon or a command use this host."""
        return {"PARTITIOND_GPU__SIMULATED_HOST": str(self.folder)}

    @contextlib.contextmanager
    def installed(self) -> Iterator["SimulatedHost"]:
        """Let this process's binding use the host's NVML until the end of the block."""
        from partitiond.devices.nvml.library import library_in_use

        with library_in_use(self.nvml_path):
            yield self

    # --- faults and changes -------------------------------------------------------------------

    def xid(self, uuid: str, code: int, *, breaks: int = 0) -> None:
        """Report an Xid error.

        Args:
            breaks: CUDA error with which every next call of the processes on the GPU fails, such as
                719 (launch failed); 0 for none.
        """
        index = self._index(uuid)
        with self._records.locked():
            if breaks:
                for row in self._process_rows(index):
                    self._records.set("process", row, {"broken": breaks})
            self._records.send_event(index, _XID_EVENT, code, self._instance_id(index, uuid))

    def lose(self, uuid: str) -> None:
        """Let the GPU fall off the bus: Xid 79, and every later call about it fails."""
        index = self._index(uuid)
        with self._records.locked():
            self._records.set("gpu", index, {"lost": True})
            self._records.send_event(index, _XID_EVENT, XID_FALLEN_OFF_THE_BUS)

    def restore(self, uuid: str) -> None:
        """Bring a lost GPU back, empty, as after a reset."""
        index = self._index(uuid)
        with self._records.locked():
            self._records.reset(index)

    def reboot(self) -> None:
        """Reset all GPUs: no memory held, GPU instances gone, MIG mode as last set."""
        with self._records.locked():
            for index in range(self._records.number("host", 0, "gpus")):
                self._records.reset(index)

    def fail(
        self,
        function: str,
        error: int,
        *,
        uuid: str = "",
        after: int = 0,
        times: int = 1,
        delay_seconds: float = 0.0,
    ) -> None:
        """Let calls of a function fail.

        Args:
            function: name in NVML or CUDA, a shell pattern ("nvmlDevice*"), or "mig": all about
                MIG.
            error: the returned code, NVML's or CUDA's; a `KillPoint`; 0 only delays.
            uuid: only calls about this GPU; empty for all.
            after: number of calls that succeed first.
            times: number of calls that fail; -1 for all.
            delay_seconds: duration of each of these calls.
        """
        self._add_fault(
            function,
            error,
            uuid=uuid,
            after=after,
            times=times,
            delay_ms=round(1000 * delay_seconds),
        )

    def hang(self, function: str, *, uuid: str = "", after: int = 0) -> None:
        """Let calls of a function hang until `heal`; other calls succeed meanwhile.

        Args:
            function: function of NVML or CUDA, a shell pattern, or "mig".
            uuid: only calls about this GPU; empty for all.
            after: number of calls that succeed first.
        """
        self._add_fault(function, 0, uuid=uuid, after=after, times=-1, delay_ms=_HANG_MS)

    def heal(self) -> None:
        """Remove all faults, and let hanging calls continue."""
        with self._records.locked():
            for row in self._records.used("fault"):
                self._records.set("fault", row, {"used": 0})

    def _add_fault(
        self, function: str, error: int, *, uuid: str, after: int, times: int, delay_ms: int
    ) -> None:
        index = NO_ID if not uuid else self._index(uuid)
        with self._records.locked():
            row = self._records.free_row("fault")
            self._records.set(
                "fault",
                row,
                {
                    "function": function,
                    "gpu": index,
                    "error": int(error),
                    "after": after,
                    "times": times,
                    "delay_ms": delay_ms,
                    "seen": 0,
                    "used": 1,
                },
            )

    def add_process(self, uuid: str, pid: int, used_bytes: int, *, mps: bool = False) -> None:
        """Add a process that holds memory of a GPU or a MIG device.

        A pid that lives now is removed when it dies; a pid that does not live stands for a process
        of another container, until `remove_process`.
        """
        index = self._index(uuid)
        with self._records.locked():
            instance, compute = self._mig_ids(index, uuid)
            row = self._records.add_process(index, pid, used_bytes)
            if row < 0:
                raise ConflictError(
                    "The simulated host has too many processes.", hint="Remove some of them."
                )
            self._records.set(
                "process",
                row,
                {"instance_id": instance, "compute_id": compute, "kind": 2 if mps else 1},
            )

    def remove_process(self, uuid: str, pid: int) -> None:
        """Free what a process holds of a GPU; the process itself is left alone."""
        index = self._index(uuid)
        with self._records.locked():
            for row in self._process_rows(index, pid):
                self._records.set("process", row, {"used": 0})

    def break_process(self, pid: int, cuda_error: int) -> None:
        """Free a process's memory and let its next CUDA calls fail, as when MPS ends a client."""
        with self._records.locked():
            for row in self._records.used("process"):
                if self._records.number("process", row, "pid") == pid:
                    values = {"broken": cuda_error, "context_bytes": 0, "allocated_bytes": 0}
                    self._records.set("process", row, values)

    def set_health(self, uuid: str, *, ecc: int | None = None, retired: int | None = None,
                   throttle: int | None = None, **figures: int) -> None:  # fmt: skip
        """Change what a GPU reports about its health.

        Args:
            ecc: uncorrected errors since the driver was loaded.
            retired: rows that were remapped for uncorrected errors.
            throttle: NVML's bits of clocks event reasons.
            figures: others by the shared state's names, such as `temperature_c`,
                `remapped_pending`, `ecc_corrected_volatile`, `compute_mode`.

        Raises:
            SpecError: there is no figure of that name.
        """
        short = {
            "ecc_uncorrected_volatile": ecc,
            "remapped_uncorrected": retired,
            "throttle": throttle,
        }
        values = {k: v for k, v in short.items() if v is not None} | figures
        self._set_figures(uuid, values, _HEALTH)

    def set_load(self, uuid: str, **figures: float) -> None:
        """Change what a GPU reports about its work: `sm_activity`, `sm_occupancy`,
        `tensor_activity`, `dram_activity`, `gpu_util` (shares, 0..1), `power_watts`,
        `energy_joules` (which then grows by the power); `gpm` and `energy_counter` set whether it
        reports them at all (0 or 1).

        Raises:
            SpecError: there is no figure of that name.
        """
        self._set_figures(uuid, figures, _LOAD)

    def privileged(self, allowed: bool) -> None:
        """Set whether calls that need root are carried out. If not, they are refused
        (NVML_ERROR_NO_PERMISSION) to all processes except those with
        PARTITIOND_SIMULATED_PRIVILEGED=1 in their environment.
        """
        with self._records.locked():
            self._records.set("host", 0, {"privileged": allowed})

    def driver(self, *, loaded: bool) -> None:
        """Unload the driver, or load it: without it NVML does not start and CUDA has no device."""
        with self._records.locked():
            self._records.set("host", 0, {"driver_loaded": loaded})

    def set_mig_mode(self, uuid: str, *, enabled: bool) -> None:
        """Set the mode as an operator does before partitiond starts: at once, without instances."""
        index = self._index(uuid)
        with self._records.locked():
            self._records.set("gpu", index, {"mig_mode": enabled, "mig_pending": enabled})
            for row in self._records.used("instance", index):
                self._records.set("instance", index, {"used": 0}, inner=row)

    def _set_figures(self, uuid: str, values: Mapping[str, float], known: frozenset[str]) -> None:
        unknown = sorted(values.keys() - known)
        if any(not 0 <= value < math.inf for value in values.values()):
            raise SpecError("A figure is negative, or no number.", hint="Give numbers from 0 up.")
        if unknown:
            raise SpecError(
                f"A simulated GPU has no {unknown[0]!r}.",
                hint=f"It has {', '.join(sorted(known))}.",
            )
        index = self._index(uuid)
        with self._records.locked():
            self._records.settle_energy(index)
            try:
                self._records.set("gpu", index, values)
            except ValueError as error:
                raise SpecError(
                    f"A simulated GPU cannot have {error}.", hint="Give numbers from 0 up."
                ) from error
