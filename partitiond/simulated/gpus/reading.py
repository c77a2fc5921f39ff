"""Reads a simulated host's present state: paths, GPUs, processes, GPU instances."""

from pathlib import Path

from partitiond.core.errors import NotFoundError
from partitiond.core.hardware.kinds import MigInstance
from partitiond.core.units import MIB, Bytes
from partitiond.simulated.gpus.records import NO_ID, Records


class HostReader:
    """The reading half of `SimulatedHost`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Records(self.nvml_path, folder / "state")

    @property
    def nvml_path(self) -> Path:
        """The host's libnvidia-ml.so.1."""
        return self.folder / "lib" / "libnvidia-ml.so.1"

    @property
    def cuda_path(self) -> Path:
        """The host's libcuda.so.1."""
        return self.folder / "lib" / "libcuda.so.1"

    @property
    def mps_control(self) -> Path:
        """The host's nvidia-cuda-mps-control."""
        return self.folder / "bin" / "nvidia-cuda-mps-control"

    def uuids(self) -> tuple[str, ...]:
        """Return the UUIDs of the host's GPUs, in NVML's order."""
        with self._records.locked():
            return tuple(
                self._records.text("gpu", index, "uuid")
                for index in range(self._records.number("host", 0, "gpus"))
            )

    def used_bytes(self, uuid: str) -> int:
        """Return the bytes that processes hold of a GPU, or of a MIG device."""
        index = self._index(uuid)
        with self._records.locked():
            return self._records.used_bytes(index, self._instance_id(index, uuid))

    def processes(self, uuid: str) -> dict[int, int]:
        """Return the held bytes by pid of living processes."""
        index = self._index(uuid)
        with self._records.locked():
            self._records.reap()
            held: dict[int, int] = {}
            for row in self._process_rows(index):
                read = self._records.number
                pid = read("process", row, "pid")
                held[pid] = held.get(pid, 0) + (
                    read("process", row, "context_bytes") + read("process", row, "allocated_bytes")
                )
        return held

    def mig_mode(self, uuid: str) -> bool:
        """Return whether MIG is on now."""
        return bool(self.figure(uuid, "mig_mode"))

    def figure(self, uuid: str, name: str) -> float:
        """Return a number of a GPU by the shared state's name, such as "power_watts"."""
        index = self._index(uuid)
        with self._records.locked():
            return float(self._records.text("gpu", index, name))

    def samples_alive(self) -> int:
        """Return the number of GPM samples that this process got and has not freed."""
        return self._records.samples_alive()

    def geometry(self, uuid: str) -> tuple[MigInstance, ...]:
        """Return existing GPU instances, ordered by first slice."""
        index = self._index(uuid)
        with self._records.locked():
            found = [self._instance(index, row) for row in self._records.used("instance", index)]
        return tuple(sorted(found, key=lambda instance: instance.slice_start))

    def _index(self, uuid: str) -> int:
        """Return the index of a GPU, or of a MIG device's GPU. Raises NotFoundError."""
        for index, known in enumerate(self.uuids()):
            if known == uuid:
                return index
            with self._records.locked():
                if self._instance_id(index, uuid) != NO_ID:
                    return index
        raise NotFoundError(
            f"The simulated host has no GPU {uuid!r}.", hint=f"It has {', '.join(self.uuids())}."
        )

    def _instance_id(self, index: int, uuid: str) -> int:
        return self._mig_ids(index, uuid)[0]

    def _mig_ids(self, index: int, uuid: str) -> tuple[int, int]:
        """Return a MIG device's ids of GPU and compute instance; NO_ID if it is not on this GPU."""
        if uuid.startswith("MIG-"):
            read = self._records
            for row in read.used("instance", index):
                for compute in self._computes(index, row):
                    if read.text("compute", index, "uuid", compute) == uuid:
                        return (
                            read.number("instance", index, "id", row),
                            read.number("compute", index, "id", compute),
                        )
        return NO_ID, NO_ID

    def _computes(self, index: int, row: int) -> list[int]:
        per_instance = self._records.rows("compute") // self._records.rows("instance")
        return [
            inner
            for inner in range(row * per_instance, (row + 1) * per_instance)
            if self._records.number("compute", index, "used", inner)
        ]

    def _process_rows(self, index: int, pid: int | None = None) -> list[int]:
        return [
            row
            for row in self._records.used("process")
            if self._records.number("process", row, "gpu") == index
            and pid in (None, self._records.number("process", row, "pid"))
        ]

    def _instance(self, index: int, row: int) -> MigInstance:
        read = self._records
        profile = read.number("instance", index, "profile_row", row)
        computes = self._computes(index, row)
        return MigInstance(
            mig_profile=read.text("profile", index, "name", profile),
            slice_start=read.number("instance", index, "start", row),
            slice_count=read.number("instance", index, "size", row),
            memory_bytes=Bytes(read.number("profile", index, "memory_mib", profile) * MIB),
            uuid=read.text("compute", index, "uuid", computes[0]) if computes else "",
            busy=read.used_bytes(index, read.number("instance", index, "id", row)) > 0,
        )
