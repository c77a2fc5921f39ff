"""A model that cannot run keeps no other model from being planned, started and scaled."""

import asyncio
from typing import NoReturn

import pytest

from partitiond.core.errors import EngineUnavailableError, StartFailedError
from partitiond.core.model.spec import Demand, ModelSpec
from partitiond.core.replica.observation import HOPELESS_FAILURES
from partitiond.core.replica.obstacles import RETRY_BASE_SECONDS, ObstacleKind
from partitiond.core.views.preview import PlanPreview
from tests.controller.host import Host, serving
from tests.controller.samples import spec
from tests.machine import until

ABSENT = EngineUnavailableError(
    "there is no vLLM on this host.", hint="Run `install`, or update NAME so."
)
NO_MEMORY = StartFailedError("no memory.")


def one(name: str, **changes: object) -> ModelSpec:
    """A model that wants one replica of one core."""
    return spec(name, **{"demand": Demand(req_per_s=0.5), "max_replicas": 1, **changes})


def make_host() -> Host:
    """Two cores; "bad" and "good" are measured on one."""
    here = Host()
    here.measured("bad", "good")
    return here


def obstacle(host: Host, name: str = "bad") -> ObstacleKind | None:
    found = host.service.models.model(name).obstacle
    return None if found is None else found.kind


def planned(host: Host) -> set[str]:
    plan = host.service.plans.applied()
    return set() if plan is None else {p.model for p in plan.wanted}


def unplaced(preview: PlanPreview) -> dict[str, str]:
    return {u.model: f"{u.reason} {u.remedy}" for u in preview.plan.unplaced}


def starts(host: Host, name: str = "bad") -> int:
    messages = [e.message for e in host.store.events(limit=1000) if e.kind == "engine-starting"]
    return messages.count(f"starts {name}.")


async def test_a_model_that_fails_to_start_leaves_the_plan_and_the_others_serve(
    host: Host,
) -> None:
    host.runner.refuse_models["bad"] = NO_MEMORY
    await host.service.models.register(one("bad"))
    await host.service.models.register(one("good"))
    await host.serves("good")
    await host.passes(lambda: starts(host) == HOPELESS_FAILURES)
    await until(lambda: planned(host) == {"good"})
    assert (obstacle(host), starts(host)) == (ObstacleKind.START_FAILED, HOPELESS_FAILURES)
    assert "no memory." in host.service.models.model("bad").note
    assert "model-obstructed" in host.kinds()
    asked = await host.service.plans.preview()
    assert asked.infeasible is None
    assert "failed to start 3 times in a row: no memory." in unplaced(asked)["bad"]
    assert "no memory." not in " ".join(view.note for view in host.service.models.models()[1:])
    # What comes later is planned, applied and served by itself, and by hand.
    host.measured("third")
    await host.service.models.register(one("third"))
    await host.serves("third")
    assert set(unplaced(await host.service.plans.apply())) == {"bad"}
    assert starts(host) == HOPELESS_FAILURES


@pytest.mark.parametrize("name", ["bad", "guessed"])
async def test_it_is_tried_once_more_after_each_pause_until_it_starts(
    name: str, host: Host
) -> None:
    """Also if it has only an estimate, which an operator applied."""
    host.runner.refuse_models[name] = NO_MEMORY
    await host.service.models.register(one(name, auto=False))
    await host.service.plans.apply()
    await host.passes(lambda: planned(host) == set())
    tries = starts(host, name)
    host.clock.now += RETRY_BASE_SECONDS
    await until(lambda: starts(host, name) == tries + 1)
    await until(lambda: obstacle(host, name) is not None)
    await until(lambda: planned(host) == set())
    host.clock.now += RETRY_BASE_SECONDS
    await until(lambda: host.service.readiness.problems() == {})
    assert starts(host, name) == tries + 1, "the second pause is twice as long"
    host.runner.refuse_models.clear()
    host.clock.now += RETRY_BASE_SECONDS
    await host.serves(name)
    assert obstacle(host, name) is None
    assert "model-unobstructed" in host.kinds()


async def test_an_engine_that_serves_and_dies_again_and_again_is_no_obstacle(host: Host) -> None:
    await host.service.models.register(one("bad"))
    for _ in range(HOPELESS_FAILURES + 1):
        await host.serves("bad")
        dead = host.kinds().count("engine-failed")
        host.runner.die("bad-1")
        await until(lambda n=dead: host.kinds().count("engine-failed") > n)  # type: ignore[misc]
        host.clock.now += 60.0
    await host.serves("bad")
    assert (obstacle(host), "model-obstructed" in host.kinds()) == (None, False)


async def test_without_its_engine_a_model_waits_and_the_others_are_measured_and_serve() -> None:
    without = Host()
    without.engine_problem = ABSENT
    async with serving(without) as host:
        await host.service.models.register(one("good", engine_kind="simulated"))
        await host.service.models.register(one("bad"))
        await until(lambda: obstacle(host) is ObstacleKind.ENGINE_ABSENT)
        await host.serves("good")
        assert {r.model.spec.name for r in host.profiler.requests} == {"good"}
        assert unplaced(await host.service.plans.preview()) == {
            "bad": "bad cannot run here: there is no vLLM on this host. Run `install`, or update "
            "bad so."
        }
        assert set(unplaced(await host.service.plans.apply())) == {"bad"}
        assert (
            (await host.service.fit.check(one("other")))
            .summary[0]
            .startswith("other cannot run here: there is no vLLM")
        )
        fits = await host.service.fit.check(one("another", engine_kind="simulated"))
        assert "bad" not in " ".join(fits.summary)
        host.engine_problem = None
        await host.serves("bad")
        assert host.service.models.model("bad").profile_kind == "measured"
        assert starts(host) == 1


async def test_the_plan_that_still_has_a_model_that_cannot_run_starts_only_the_others(
    host: Host,
) -> None:
    async def no_plan(*_: object, **__: object) -> NoReturn:
        await asyncio.Event().wait()
        raise AssertionError

    host.runner.refuse_models["bad"] = NO_MEMORY
    for name in ("good", "bad"):
        await host.service.models.register(one(name, auto=False))
    await host.service.plans.apply()
    host.solve = no_plan
    await host.serves("good")
    await host.passes(lambda: obstacle(host) is not None)
    host.runner.die("good-1")
    await host.lives(RETRY_BASE_SECONDS / 2)
    assert planned(host) == {"bad", "good"}
    assert (starts(host), starts(host, "good")) == (HOPELESS_FAILURES, 2)


async def test_a_model_whose_profile_failed_is_placed_only_by_who_asks() -> None:
    async with serving(Host()) as host:
        host.profiler.breaks_with = StartFailedError("it broke.")
        await host.service.models.register(one("bad"))
        await until(lambda: obstacle(host) is ObstacleKind.PROFILE_FAILED)
        host.profiler.breaks_with = None
        await host.service.models.register(one("good"))
        await host.serves("good")
        plan = host.applied()
        assert [(u.model, u.reason.partition(": ")[0]) for u in plan.unplaced] == [
            ("bad", "bad is not started by itself")
        ]
        asked = await host.service.plans.preview()
        assert "bad" in {p.model for p in asked.plan.placements}
        assert any("bad is not started by itself" in line for line in asked.plan.explanation)
        await host.service.plans.apply(asked.plan.id)
        await host.serves("bad")
        assert obstacle(host) is None
