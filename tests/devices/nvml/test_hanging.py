"""A driver may hang in every single call of the daemon without harm to the daemon.

No time passes here: a look is given up where its thread has met the call that hangs.
"""

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

import pynvml
import pytest

from partitiond.core.errors import SilentError
from partitiond.core.hardware.health import DeviceHealth
from partitiond.devices.gauges import HostGauges
from partitiond.devices.host import HostDevices
from partitiond.devices.partitions.gpus import FailedGpus, NvmlGpus
from partitiond.platform.deadline_calls import DeadlineCalls, PendingCall
from partitiond.simulated.gpus import GpuDescription, HostDescription, SimulatedHost

T = TypeVar("T")
FINE, SILENT = DeviceHealth.FINE, DeviceHealth.SILENT

OF_ALL = {
    "nvmlInitWithFlags", "nvmlShutdown", "nvmlDeviceGetCount_v2", "nvmlSystemGetDriverVersion",
    "nvmlDeviceGetHandleByIndex_v2", "own processes",
}  # fmt: skip
"""What a look asks for all GPUs; all else it asks of one."""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedHost]:
    """One GPU with an instance of MIG, one without MIG."""
    gpus = (
        GpuDescription("a100-80gb", mig=True, mig_instances=("3g.40gb@4",)),
        GpuDescription("a100-80gb"),
    )
    folder = tmp_path_factory.mktemp("gpus") / "host"
    made = SimulatedHost.create(HostDescription("hanging", gpus), folder)
    with made.installed():
        yield made


class Driver:
    """Hangs in one function, of one GPU or of all.

    Attributes:
        hung: threads that hang, by their names.
        made: functions that were called.
    """

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.hung: set[str] = set()
        self.made: set[str] = set()
        self._function = self._uuid = ""

    def hang(self, function: str, uuid: str = "") -> None:
        self._function, self._uuid = function, uuid

    def heal(self) -> None:
        with self.changed:
            self._function = ""
            self.changed.notify_all()
        for thread in looking():
            thread.join(60)

    def meet(self, function: str) -> None:
        """A thread calls it."""
        self.made.add(function)
        name = threading.current_thread().name
        with self.changed:
            # A GPU that was never seen has no other name yet.
            its = self._uuid in name or name == "look at GPU 0"
            if function == self._function and name.startswith("look at ") and its:
                self.hung.add(name)
                self.changed.notify_all()
                self.changed.wait_for(lambda: not self._function, 60)
                self.hung.discard(name)


class Looks(DeadlineCalls):
    """Waits for an answer until it comes, or hangs."""

    def __init__(self, driver: Driver) -> None:
        super().__init__(60.0)
        self._driver = driver

    def begin(
        self, subject: str, call: Callable[[], T], seconds: float | None = None
    ) -> PendingCall[T]:
        """Begin and end a look."""
        name, changed = f"look at {subject}", self._driver.changed
        with changed:
            if name in self._driver.hung:
                refused: Future[T] = Future()
                refused.cancel()
                return PendingCall(subject, refused, 60.0, 0.0)

        def done(_: object) -> None:
            with changed:
                changed.notify_all()

        future = super().begin(subject, call, seconds).future
        future.add_done_callback(done)
        with changed:
            assert changed.wait_for(lambda: future.done() or name in self._driver.hung, 60)
        return PendingCall(subject, future, 60.0, 0.0)


def looking() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("look at ")]


@pytest.fixture
def driver(host: SimulatedHost, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Of the host."""
    del host
    found, pointer = Driver(), pynvml._nvmlGetFunctionPointer

    def function(name: str) -> Callable[..., object]:
        true = pointer(name)

        def call(*args: object) -> object:
            found.meet(name)
            return true(*args)

        return call

    monkeypatch.setattr(pynvml, "_nvmlGetFunctionPointer", function)
    yield found
    found.heal()


def devices_of(driver: Driver) -> HostDevices:
    def own_pids() -> list[int]:
        driver.meet("own processes")
        return []

    return HostDevices(
        cpu=False, own_pids=own_pids, mig_changes="instances", mig_helper=Path("/nonexistent"),
        looks=Looks(driver),
    )  # fmt: skip


def health(devices: HostDevices) -> list[DeviceHealth]:
    """Of the first GPU and the second."""
    return [
        device.health for device in sorted(devices.discover(), key=lambda d: not d.mig_instances)
    ]


def made_by(driver: Driver, look: Callable[[], object]) -> list[str]:
    """The functions that a look calls."""
    driver.made.clear()
    look()
    return sorted(driver.made)


def test_a_look_ends_and_tells_which_gpus_are_silent(host: SimulatedHost, driver: Driver) -> None:
    first = host.uuids()[0]
    devices = devices_of(driver)
    assert health(devices) == [FINE, FINE]
    functions = made_by(driver, lambda: health(devices))
    assert set(functions) > OF_ALL
    assert len(functions) >= 36
    for function in functions:
        late = devices_of(driver)
        driver.hang(function, "" if function in OF_ALL else first)
        for _ in range(2):
            seen = [SILENT, SILENT if function in OF_ALL else FINE]
            assert health(devices) == seen, function
        (silent,) = (device for device in devices.discover() if device.id == first)
        assert silent.cordoned
        assert silent.cordon_reason == silent.health_reason
        assert silent.health_reason.startswith("silent for 60 s")
        # Nothing that failed is made of it: what runs on a silent GPU is left alone.
        assert FailedGpus(devices.discover)() == ()
        # The first look of another daemon ends without what it could not see.
        assert first not in {device.id for device in late.discover()}
        assert function == "own processes" or late.unseen == "silent for 60 s"
        assert len(looking()) <= 4  # the driver's, each GPU's, and that of our own processes
        driver.heal()
        assert health(devices) == health(late) == [FINE, FINE], function
        assert not late.unseen


def test_a_start_is_refused_in_time_and_gauges_come_without_gpus_that_hang(
    host: SimulatedHost, driver: Driver
) -> None:
    gpus, uuid = NvmlGpus(host_pids=True, looks=Looks(driver)), host.uuids()[1]
    for look, least in ((gpus.use, 7), (gpus.mig_is_on, 2), (gpus.compute_mode, 2)):
        functions = made_by(driver, functools.partial(look, uuid))
        assert len(functions) >= least
        for function in functions:
            driver.hang(function)
            for _ in range(2):
                with pytest.raises(SilentError, match=f"{uuid}: silent for"):
                    look(uuid)
            assert len(looking()) == 1
            driver.heal()
            assert look(uuid) is not None
    functions = made_by(driver, HostGauges(cpu=False).read)
    assert {"nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates"} < set(functions)
    for function in functions:
        gauges = HostGauges(cpu=False)
        gauges._looks = Looks(driver)
        driver.hang(function)
        for _ in range(2):
            assert gauges.read() == {}
        assert len(looking()) == 1
        driver.heal()
