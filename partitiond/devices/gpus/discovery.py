"""Discovers the GPUs of this host: what they have, what may be done with them, their health."""

import dataclasses
import functools
import logging
import platform
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import pynvml

from partitiond.core.errors import SilentError
from partitiond.core.hardware.device_memory import GpuProcess, MemorySplit, split_memory
from partitiond.core.hardware.gpu_modes import ComputeMode, MigState, allowed_modes
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.hardware.health import (
    DeviceHealth,
    HealthReadings,
    HealthVerdict,
    XidEvent,
    judge,
)
from partitiond.core.hardware.kinds import Device, DeviceKind, ForeignProcess, silent_device
from partitiond.core.mig.changes import MigChanges
from partitiond.core.mig.geometry import Place
from partitiond.core.units import Bytes
from partitiond.devices.cpu import core_nodes
from partitiond.devices.gpus import mig
from partitiond.devices.nvml import processes
from partitiond.devices.nvml.hardware_names import hardware_key
from partitiond.devices.nvml.health import readings_of
from partitiond.devices.nvml.memory import GpuMemory, memory_of
from partitiond.devices.nvml.session import (
    LOST,
    NO_DRIVER,
    asking,
    offered,
    or_none,
    session,
    text_of,
    translate,
)
from partitiond.devices.nvml.topology import near_cores
from partitiond.platform.deadline_calls import DeadlineCalls

log = logging.getLogger(__name__)

DRIVER: Final = "the NVIDIA driver"
"""The subject of looks at the driver; each GPU has its UUID as subject (and see
`processes.OWN_PROCESSES`)."""

VOLTA: Final = 7
"""Lowest compute capability (major) at which MPS clients have memory and SMs of their own."""

_ONE_GPU: Final = LOST | {pynvml.NVML_ERROR_NO_PERMISSION, pynvml.NVML_ERROR_NOT_FOUND}
"""Errors of one GPU that say nothing about the others."""

_COMPUTE_MODES: Final[Mapping[int, ComputeMode]] = {
    pynvml.NVML_COMPUTEMODE_DEFAULT: ComputeMode.DEFAULT,
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_THREAD: ComputeMode.EXCLUSIVE_PROCESS,
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: ComputeMode.EXCLUSIVE_PROCESS,
    pynvml.NVML_COMPUTEMODE_PROHIBITED: ComputeMode.PROHIBITED,
}


@dataclasses.dataclass(frozen=True, slots=True)
class GpuSnapshot:
    """A GPU as last read: the device that plans get, and the readings it was made from."""

    device: Device
    readings: HealthReadings
    split: MemorySplit
    mig: tuple[bool, bool] | None
    compute_mode: ComputeMode


class GpuDiscovery:
    """Discovers the GPUs of this host, and remembers those that stop answering.

    Args:
        own_pids: processes of this daemon's engines and MPS servers, on any device.
        mig_changes: which changes of MIG are allowed; None skips the check, and a GPU then offers
            what its kind offers.
        mig_helper: socket of the privileged MIG helper.
        host_pids: whether the driver's pids are those of this PID namespace; None detects it.
        xids: returns the driver's Xid messages about the GPU with a UUID.
        own_instances: returns the places of our GPU instances on the GPU with a UUID; if None, only
            instances in use by foreign processes count as foreign.
        looks: makes the calls with deadlines; calls about one GPU run in a thread of that GPU.
        host: name of this host; empty for what the kernel says.

    Attributes:
        uuids: UUIDs by the driver's index, of all GPUs that ever answered.
        unseen: why GPUs may be missing from the last discovery: the driver was silent before it had
            listed them; empty if it was not.
    """

    def __init__(
        self,
        *,
        own_pids: Callable[[], Collection[int]] = tuple,
        mig_changes: MigChanges | None = None,
        mig_helper: Path | None = None,
        host_pids: bool | None = None,
        xids: Callable[[str], Sequence[XidEvent]] = lambda _: (),
        own_instances: Callable[[str], Collection[Place]] | None = None,
        looks: DeadlineCalls | None = None,
        host: str = "",
    ) -> None:
        self._looks = looks or DeadlineCalls()
        self._host = host or platform.node()
        self.uuids: dict[int, str] = {}
        self.unseen = ""
        self._own_pids = own_pids
        self._mig_changes = mig_changes
        self._mig_helper = mig_helper
        self._host_pids = processes.sees_host_pids() if host_pids is None else host_pids
        self._xids = xids
        self._own_instances = own_instances
        self._known: dict[str, GpuSnapshot] = {}
        self._hidden: dict[str, int] = {}
        self._warned: tuple[str, ...] = ()

    def discover(self, cores: Sequence[int]) -> tuple[GpuSnapshot, ...]:
        """Return all GPUs in NVML's order, then known GPUs that do not answer any more.

        The result is empty without NVIDIA's driver. GPUs are read in parallel, so a hanging GPU
        delays no other; a hanging GPU is returned as last seen, marked as silent.

        Args:
            cores: host cores usable for engines of these GPUs; each GPU gets those near it.

        Raises:
            DeviceError: the driver is there and refuses, or no GPU answers.
        """
        try:
            own = self._looks.begin(processes.OWN_PROCESSES, lambda: frozenset(self._own_pids()))
            count, driver = self._looks.ask(DRIVER, _driver)
            return self._all(count, driver, tuple(cores), own.wait())
        except SilentError as error:
            return self._all_silent(error)
        except pynvml.NVMLError as error:
            if error.value in NO_DRIVER and not self._known:
                return ()
            raise translate(error, "start") from error

    def _all(
        self, count: int, driver: str, cores: tuple[int, ...], own: frozenset[int]
    ) -> tuple[GpuSnapshot, ...]:
        def look_at(index: int) -> GpuSnapshot:
            with session():
                return self._see(pynvml.nvmlDeviceGetHandleByIndex(index), driver, cores, own)

        looks = [
            self._looks.begin(self.uuids.get(i, f"GPU {i}"), functools.partial(look_at, i))
            for i in range(count)
        ]
        seen: dict[str, GpuSnapshot] = {}
        refused: list[pynvml.NVMLError] = []
        silent: dict[int, SilentError] = {}
        for index, look in enumerate(looks):
            try:
                found = look.wait()
                seen[found.device.id] = found
                self.uuids[index] = found.device.id
            except SilentError as error:
                silent[index] = error
            except pynvml.NVMLError as error:
                if error.value not in _ONE_GPU:
                    raise translate(error, f"describe GPU {index}") from error
                refused.append(error)
        self._warn(count, [*refused, *silent.values()])
        self._known |= seen
        self.unseen = "" if silent.keys() <= self.uuids.keys() else self._silence
        seen |= self._silent([self.uuids[index] for index in silent if index in self.uuids])
        seen |= self._lost(seen, refused)
        if refused and not seen:
            raise translate(refused[0], "describe any GPU")
        return tuple(seen.values())

    def _all_silent(self, error: SilentError) -> tuple[GpuSnapshot, ...]:
        """Return the known GPUs as silent, when the driver tells nothing about any GPU."""
        self._warn(len(self._known), [error])
        self.unseen = "" if self._known else self._silence
        return tuple(self._silent(self._known).values())

    @property
    def _silence(self) -> str:
        return f"silent for {self._looks.seconds:g} s"

    def _silent(self, uuids: Iterable[str]) -> dict[str, GpuSnapshot]:
        """Return GPUs that do not answer as last seen, marked as silent."""
        found = {uuid: self._known[uuid] for uuid in uuids if uuid in self._known}
        return {
            uuid: dataclasses.replace(
                known,
                device=silent_device(known.device, self._silence),
                readings=HealthReadings(unreachable=self._silence),
            )
            for uuid, known in found.items()
        }

    def _warn(self, count: int, refused: Sequence[Exception]) -> None:
        """Log refusals once, not with every discovery."""
        words = tuple(str(error) for error in refused)
        if words and words != self._warned:
            log.warning("%d of %d GPUs do not answer: %s", len(words), count, ", ".join(words))
        self._warned = words

    def _lost(self, seen: Collection[str], refused: Sequence[Exception]) -> dict[str, GpuSnapshot]:
        """Return known GPUs that refused or are gone, as last seen, cordoned with the reason."""
        why = str(refused[0]) if refused else "the driver does not list it any more"
        found = {}
        for uuid, known in self._known.items():
            if uuid in seen:
                continue
            readings = HealthReadings(unreachable=why)
            verdict = judge(readings, self._xids(uuid))
            device = dataclasses.replace(
                known.device,
                cordoned=True,
                cordon_reason=verdict.reason,
                health=verdict.health,
                health_reason=verdict.reason,
                foreign=(),
            )
            found[uuid] = dataclasses.replace(known, device=device, readings=readings)
        return found

    def _see(
        self, handle: Any, driver: str, cores: tuple[int, ...], own: frozenset[int]
    ) -> GpuSnapshot:
        name = text_of(pynvml.nvmlDeviceGetName(handle))
        uuid = text_of(pynvml.nvmlDeviceGetUUID(handle))
        memory = memory_of(handle, name)
        key = hardware_key(name, memory.total_bytes)
        split = self._split(uuid, memory, processes.processes_on(handle), own)
        compute_mode, mode = _compute_mode(handle), mig.mig_mode(handle)
        readings = readings_of(handle)
        verdict = judge(readings, self._xids(uuid))
        state, fixed = self._mig_state(handle, mode)
        slices = self._read_mig(uuid, key, mode, own)
        cordon = _cordon(verdict, compute_mode)
        near = near_cores(handle, cores)
        device = Device(
            id=uuid,
            kind=DeviceKind.GPU,
            hardware=key,
            name=name,
            host=self._host,
            memory_bytes=Bytes(memory.total_bytes),
            free_bytes=Bytes(
                max(0, memory.total_bytes - memory.reserved_bytes - split.foreign_bytes)
            ),
            cores=near,
            sm_count=_sm_count(handle, key),
            modes=allowed_modes(
                HARDWARE[key].modes if key in HARDWARE else None,
                state,
                compute_mode,
                mps=_offers_mps(handle),
            ),
            reserved_bytes=Bytes(memory.reserved_bytes),
            driver=driver,
            cordoned=bool(cordon),
            cordon_reason=cordon,
            core_nodes=core_nodes(near),
            foreign=tuple(
                ForeignProcess(p.pid, Bytes(p.used_bytes or 0), processes.name_of(p.pid))
                for p in split.foreign
            ),
            occupied_slices=mig.occupied_slices(
                slices.instances,
                None if self._own_instances is None else self._own_instances(uuid),
            ),
            mig_instances=slices.instances,
            mig_fixed=fixed or not slices.readable,
            mig_profiles=slices.profiles,
            health=verdict.health,
            health_reason=verdict.reason,
        )
        return GpuSnapshot(device, readings, split, mode, compute_mode)

    def _split(
        self,
        uuid: str,
        memory: GpuMemory,
        found: Sequence[GpuProcess],
        own: frozenset[int],
    ) -> MemorySplit:
        if not self._host_pids:
            # A pid of another namespace may be a different process here: it says nothing.
            found = [p for p in found if processes.is_visible(p.pid)]
        split = split_memory(memory.used_bytes, found, own, self._hidden.get(uuid, 0))
        if not split.ours_bytes:
            self._hidden[uuid] = split.hidden_bytes
        return split

    def _read_mig(
        self,
        uuid: str,
        key: str,
        mode: tuple[bool, bool] | None,
        own: frozenset[int],
    ) -> mig.MigReading:
        """Return GPU instances and MIG profiles, if slices can be planned."""
        on = mode is not None and mode[0]
        if not on:
            return mig.MigReading(readable=True)
        return mig.read_mig(
            uuid,
            key,
            self._mig_helper,
            lambda pid: pid not in own and (self._host_pids or processes.is_visible(pid)),
        )

    def _mig_state(self, handle: Any, mode: tuple[bool, bool] | None) -> tuple[MigState, bool]:
        """Return with which MIG mode the GPU can be used, and whether its geometry is fixed."""
        if mode is None:
            return MigState.NONE, False
        on = mode[0]
        if self._mig_changes is None:
            return (MigState.ON if on else MigState.EITHER), False
        may = self._mig_changes != "never" and mig.may_change_instances(handle, self._mig_helper)
        return (MigState.ON if on else MigState.OFF), on and not may


def _driver() -> tuple[int, str]:
    """Return the number of GPUs and the driver's version."""
    with session(), asking("count the GPUs"):
        return pynvml.nvmlDeviceGetCount(), text_of(pynvml.nvmlSystemGetDriverVersion())


def _cordon(verdict: HealthVerdict, compute_mode: ComputeMode) -> str:
    """Return why a GPU's own state forbids placing anything on it; empty if it does not."""
    if verdict.health is DeviceHealth.FAILED:
        return verdict.reason
    if compute_mode is ComputeMode.PROHIBITED:
        return "its compute mode prohibits all work; allow it with nvidia-smi -c DEFAULT."
    return ""


def _compute_mode(handle: Any) -> ComputeMode:
    mode = or_none(pynvml.nvmlDeviceGetComputeMode, handle)
    return ComputeMode.DEFAULT if mode is None else _COMPUTE_MODES.get(mode, ComputeMode.DEFAULT)


def _offers_mps(handle: Any) -> bool:
    """Whether MPS gives each client its own SMs and memory; true if the driver does not tell."""
    capability = or_none(pynvml.nvmlDeviceGetCudaComputeCapability, handle)
    return capability is None or int(capability[0]) >= VOLTA


def _sm_count(handle: Any, key: str) -> int:
    """Return the catalog's SM count; for unknown GPUs the driver's (if they are MIG-capable)."""
    if key in HARDWARE:
        return HARDWARE[key].sm_count
    absent = frozenset({pynvml.NVML_ERROR_INVALID_ARGUMENT, pynvml.NVML_ERROR_NO_PERMISSION})
    attributes = offered(pynvml.nvmlDeviceGetAttributes_v2, handle, also=absent)
    return 0 if attributes is None else int(attributes.multiprocessorCount)
