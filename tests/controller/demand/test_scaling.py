"""Models that scale automatically are planned for the measured load, and go to zero when idle."""

import dataclasses

import pytest

from partitiond.controller.demand.scaling import Scaling, ScalingOptions
from partitiond.controller.plans.planning import PlanOptions
from partitiond.controller.service import Service, ServiceOptions
from partitiond.core.demand.forecast import ForecastPolicy
from partitiond.core.demand.planned_rate import ScalingPolicy
from partitiond.core.demand.traffic import ModelCount, TrafficSample
from partitiond.core.dispatch.routing import ModelAvailability
from partitiond.core.errors import ConflictError, NotFoundError
from partitiond.core.model.autoscale import Autoscale
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.plan.answers import PlanQuestion
from partitiond.core.plan.record import Objective
from tests.controller.fakes import POLICY
from tests.controller.host import Host
from tests.controller.samples import measured_profile, spec
from tests.machine import until

QUICK = dataclasses.replace(POLICY, wake_poll_seconds=0.005, idle_poll_seconds=0.005)
SCALING = ScalingOptions(
    policy=ScalingPolicy(
        forecast=ForecastPolicy(step_seconds=10.0, horizon_steps=1),
        up_cooldown_seconds=0.0,
        down_window_seconds=60.0,
    ),
    evict_idle_seconds=1.0,
)
ZERO = Autoscale(scale_to_zero_seconds=30.0)


class ScalingHost(Host):
    """A host of two cores, room for two replicas, whose proxy counts what it is told to."""

    def _options(self) -> ServiceOptions:
        planning = PlanOptions(time_limit_seconds=1.0)
        return ServiceOptions(policy=QUICK, planning=planning, scaling=SCALING)

    def _make(self) -> Service:
        self.arrived: dict[str, int] = {}
        self.at = 0.0
        return super()._make()

    async def register(self, name: str, **changes: object) -> None:
        self.store.add_profile(measured_profile(name))
        await self.service.models.register(spec_of(name, **changes))

    async def told(self, name: str, **changes: object) -> None:
        """A model that is planned for a demand serves."""
        await self.register(name, **changes)
        await self.service.plans.apply()
        await self.serves(name)

    async def asked(self, name: str) -> None:
        """A request waits for it until it serves."""
        self.proxy.waiting = {name: 1}
        await self.serves(name)
        self.proxy.waiting = {}

    def idle(self, **seconds: float) -> None:
        self.proxy.idle_seconds |= seconds

    def step(self, **req_per_s: float) -> None:
        """Ten seconds of traffic."""
        scaling = self.service.scaling
        assert isinstance(scaling, Scaling)
        if not self.at:
            scaling.take_sample(self._sample())
        self.at += 10.0
        for name, rate in req_per_s.items():
            self.arrived[name] = self.arrived.get(name, 0) + round(rate * 10)
        scaling.take_sample(self._sample())

    def _sample(self) -> TrafficSample:
        counts = {name: ModelCount(arrived=count) for name, count in self.arrived.items()}
        return TrafficSample(at=self.clock.now + self.at, epoch="one", models=counts)

    def route(self, name: str) -> tuple[ModelAvailability, bool] | None:
        """What the proxy was last told of a model; None before it was."""
        routes = self.proxy.table.models if self.proxy.tables else ()
        found = [route for route in routes if route.name == name]
        return (found[0].availability, found[0].holds) if found else None


def spec_of(name: str, **changes: object) -> ModelSpec:
    return spec(name, **{"auto": False, "max_replicas": 2, **changes})


make_host = ScalingHost


async def test_a_model_that_scales_to_zero_begins_there_starts_on_request_and_goes_back(
    host: ScalingHost,
) -> None:
    await host.register("a", autoscale=ZERO)
    await until(lambda: host.route("a") == (ModelAvailability.SLEEPING, True))
    assert host.runner.launches == []
    assert "scaled to zero" in host.service.models.model("a").note
    await host.restart()  # who is at zero stays there
    assert host.service.scaling.view("a").scaled_to_zero
    await host.asked("a")
    assert len(host.runner.launches) == 1
    host.clock.now += 1000.0  # it is asked for all the time
    await until(lambda: host.route("a") == (ModelAvailability.SERVING, False))
    assert host.kinds().count("model-scaled-to-zero") == 1
    host.idle(a=31.0)
    host.clock.now += 31.0
    await until(lambda: not host.runner.running())
    assert host.route("a") == (ModelAvailability.SLEEPING, True)
    host.idle(a=0.0)
    await host.asked("a")
    assert len(host.runner.launches) == 2
    assert {"model-scaled-to-zero", "model-wakes"} <= set(host.kinds())


async def test_measured_demand_makes_replicas_and_takes_them_back(host: ScalingHost) -> None:
    await host.told("a", autoscale=Autoscale(), demand=Demand(req_per_s=0.5))
    assert host.serving("a") == 1
    for _ in range(4):
        host.step(a=15.0)  # a replica gives 12.5 requests/s, less a margin
    await until(lambda: host.serving("a") == 2)
    assert host.service.scaling.view("a").planned_req_per_s >= 15.0
    learned = host.service.scaling.view("a").planned_req_per_s
    asked = spec_of("a", autoscale=Autoscale(), demand=Demand(req_per_s=0.25, weight=2.0))
    imagined = (await host.service.fit.plan_with([asked])).plan
    wanted = {model.model: model.demand_req_per_s for model in imagined.forecasts}
    assert wanted == {"a": learned}, "a changed model keeps the demand that it learned"
    for _ in range(24):
        host.step(a=1.0)
    await until(lambda: host.serving("a") == 1)
    assert host.kinds().count("plan-applied") == 3
    assert "demand-changed" in host.kinds()


async def test_without_autoscale_a_measured_demand_changes_nothing(host: ScalingHost) -> None:
    await host.told("a", demand=Demand(req_per_s=0.5))
    for _ in range(6):
        host.step(a=50.0)
    assert "demand-changed" not in host.kinds()
    with pytest.raises(ConflictError, match="does not scale"):
        host.service.scaling.view("a")
    with pytest.raises(NotFoundError):
        host.service.scaling.view("nobody")


async def test_a_model_that_does_not_scale_any_more_is_awake(host: ScalingHost) -> None:
    await host.register("a", autoscale=ZERO)
    plain = dataclasses.replace(spec_of("a"), autoscale=None, auto=True)
    await host.service.models.update(plain, None)
    await until(lambda: "model-wakes" in host.kinds())
    await host.serves("a")


async def test_a_restarted_daemon_takes_no_old_requests_for_new_ones(host: ScalingHost) -> None:
    await host.told("a", autoscale=Autoscale(), demand=Demand(req_per_s=15.0))
    scaling = host.service.scaling
    assert isinstance(scaling, Scaling)
    host.arrived["a"] = 1_000_000
    host.step()
    assert scaling.req_per_s("a") == 0.0
    host.step(a=1.0)
    assert 0.0 < scaling.req_per_s("a") < 1.0
    await host.restart()
    host.step(a=1.0)
    host.step(a=1.0)
    assert host.service.scaling.view("a").planned_req_per_s == 15.0, "nothing shrinks at once"
    await host.service.models.remove("a")
    host.step()
    assert host.service.scaling.req_per_s("a") == 0.0


async def test_a_plan_that_was_made_before_the_demand_moved_is_followed_by_another(
    host: ScalingHost,
) -> None:
    await host.told("a", autoscale=Autoscale(), demand=Demand(req_per_s=0.5))
    other = PlanQuestion(objective=Objective.MAX_MIN)  # the same one would be applied already
    before = await host.service.plans.preview(other)
    host.step(a=15.0)
    planned = host.service.scaling.view("a").planned_req_per_s
    assert planned > 15.0
    scaling = host.service.scaling
    assert isinstance(scaling, Scaling)
    again: list[str] = []
    scaling.plan_again = lambda: again.append("made anew")
    host.step(a=15.0)
    assert again == []
    await host.service.plans.apply(before.plan.id)
    host.step(a=15.0)
    assert again == ["made anew"]
