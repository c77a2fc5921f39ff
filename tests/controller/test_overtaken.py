"""A control plane that was overtaken begins nothing, says so, and serves on."""

from collections.abc import Mapping, Sequence

import pytest

from partitiond.core.errors import ConflictError
from partitiond.core.hardware.host_state import FINE, HostStanding, overtaken_standing
from partitiond.core.hardware.kinds import Device, silent_device
from tests.controller.fakes import a_moment
from tests.controller.host import Host, serving
from tests.controller.samples import cpu
from tests.devices.fake import FakeDevices
from tests.machine import until

WHY = "another control plane has taken over."


class OwnDevices(FakeDevices):
    """The devices of the own host of a head."""

    standing: HostStanding = FINE

    def hosts(self) -> Mapping[str, HostStanding]:
        return {"test": self.standing}

    def remember(self, devices: Sequence[Device]) -> None:
        pass

    def is_overtaken(self) -> None:
        self.standing = overtaken_standing(WHY)
        self.become(silent_device(device, WHY, advice="") for device in self.discover())


async def test_it_starts_nothing_new_and_keeps_what_serves() -> None:
    devices = OwnDevices([cpu(2)])
    async with serving(Host(devices=devices)) as host:
        host.measured("a", "b", cores=(1,))
        await host.register("a", max_replicas=1)
        await host.serves("a")
        (running,) = host.runner.running()
        devices.is_overtaken()

        await host.passes(lambda: "host-refused" in host.kinds())
        measured = len(host.profiler.requests)
        assert host.service.readiness.problems()["head"] == WHY
        await host.register("b", max_replicas=1)
        await host.register("c", max_replicas=1)  # nothing is known of it
        await a_moment()
        with pytest.raises(ConflictError, match="nothing was applied: another control plane"):
            await host.service.plans.apply()
        with pytest.raises(ConflictError, match="stays awake: another control plane"):
            host.service.models.put_to_sleep("a")
        assert host.runner.running() == [running]
        assert host.serving("a") == 1
        assert {route.replica_id for route in host.proxy.table.replicas} == {running}
        host.runner.die(running)
        await until(lambda: host.serving("a") == 0)
        host.clock.now += 600.0
        await a_moment()
        assert host.runner.running() == []
        assert len(host.profiler.requests) == measured
        assert "plan-infeasible" not in host.kinds()
