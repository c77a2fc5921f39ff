"""Estimates of a CPU device rest on its measured figures, or say that they do not."""

import dataclasses
import threading

from partitiond.controller.profiles.cpu_figures import ASSUMED, Figures, figures_for
from partitiond.controller.service import Adapters, ServiceOptions
from partitiond.core.errors import DeviceError
from partitiond.core.hardware.kinds import CpuFigures, Device
from partitiond.core.profile.record import Profile, ProfileKind
from tests.controller.fakes import POLICY
from tests.controller.host import Host
from tests.controller.samples import cpu, spec
from tests.devices.fake import fake_gpus
from tests.machine import until

SLOW = CpuFigures("test CPU", 2, 1, 1e9, 2e9, 1e10, 2e10, False, "2026-01-01T00:00:00+00:00")


class Speed:
    """Measures when asked; remembers where it was asked."""

    def __init__(self, fails_with: Exception | None = None) -> None:
        self.known: CpuFigures | None = None
        self.fails_with = fails_with
        self.threads: list[threading.Thread] = []

    def __call__(self, device: Device) -> CpuFigures:
        self.threads.append(threading.current_thread())
        if self.fails_with is not None:
            raise self.fails_with
        self.known = SLOW
        return SLOW

    def kept(self, device: Device) -> CpuFigures | None:
        return self.known


async def test_figures_are_measured_in_a_thread_once_and_only_where_an_estimate_needs_them() -> (
    None
):
    speed = Speed()
    for model, devices, measure in (
        (spec(), fake_gpus("a100-80gb"), speed),
        (spec(engine_kind="simulated"), [cpu()], speed),
        (spec(), [cpu()], None),
    ):
        assert await figures_for(model, devices, measure, busy=False) == ASSUMED
    unknown = await figures_for(spec(), [cpu()], speed, busy=True)
    assert (unknown.cpu, speed.threads) == (None, [])
    assert "being measured" in unknown.note
    for busy in (False, False, True):
        assert await figures_for(spec(), [cpu()], speed, busy=busy) == Figures(SLOW)
    (thread,) = speed.threads
    assert thread is not threading.main_thread()
    broken = Speed(DeviceError("core 1 could not be measured: no numpy\nmore", hint="Install it."))
    found = await figures_for(spec(), [cpu()], broken, busy=False)
    assert found.cpu is None
    assert found.note == "CPU figures are assumed: core 1 could not be measured: no numpy"


class MeasuringHost(Host):
    """A host whose CPU can be measured."""

    speed = Speed()

    def _adapters(self) -> Adapters:
        self.speed = Speed()
        return dataclasses.replace(super()._adapters(), cpu_speed=self.speed)

    def _options(self) -> ServiceOptions:
        return ServiceOptions(policy=POLICY)


make_host = MeasuringHost


def estimated(host: Host, name: str) -> list[Profile]:
    found = [p for p in host.service.parts.store.profiles(name) if p.kind is ProfileKind.ESTIMATED]
    assert found
    return found


async def test_registering_estimates_with_what_this_cpu_reaches(host: MeasuringHost) -> None:
    await host.register("a", auto=False)
    for profile in estimated(host, "a"):
        assert any("measured on this host" in note for note in profile.provenance.notes)
    slow = max(p.knee.best_output_tokens_per_s for p in estimated(host, "a"))
    host.speed.known, host.speed.fails_with = None, DeviceError("no.", hint="Try again.")
    await host.register("b", auto=False)
    for profile in estimated(host, "b"):
        assert "CPU figures are assumed: no." in profile.provenance.notes
    assert max(p.knee.best_output_tokens_per_s for p in estimated(host, "b")) > 2 * slow
    host.profiler.gate.clear()
    await host.register("c", engine_kind="simulated")
    await until(lambda: bool(host.profiler.requests))
    looks = len(host.speed.threads)
    await host.register("d", auto=False)  # which does not disturb the job
    assert len(host.speed.threads) == looks
    assert any("being measured" in n for p in estimated(host, "d") for n in p.provenance.notes)
