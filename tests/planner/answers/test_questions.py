"""Questions beside a plan are answered: what-ifs, explanations, ways out."""

import dataclasses
from collections.abc import Callable

import pytest

from partitiond.core.errors import InputError, SpecError
from partitiond.core.hardware.kinds import Device
from partitiond.core.model.spec import FaultDomain, Isolation, ModelSpec, PlacementRules
from partitiond.core.plan import answers as told
from partitiond.core.plan.answers import Alternative, PlanAnswers, PlanQuestion
from partitiond.core.plan.record import Candidate, Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.planner.answers.explain_model import explain_model
from partitiond.planner.answers.questions import answer
from partitiond.planner.answers.whatif import World
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Outcome, Solving, run_flow, run_flow_async
from tests.planner.build import gpu, gpus, point, spec, want

HALF, TENTH = point("a", 6, 10, sm=50), point("b", 6, 5, sm=10)
"""Rates a little above the demands: replicas that share a device slow each other down."""
SIZES = {"a": (HALF,), "b": (TENTH,), "c": (point("c", 6, 5, sm=10),)}


ASKED = "demand", "min_replicas", "max_replicas", "isolation", "slo", "rules"
"""What a demand has of its model's spec."""


class Asker:
    """A small world, its candidates, and a count of what is solved."""

    def __init__(
        self, *specs: ModelSpec, devices: int | tuple[Device, ...], **sizes: tuple[Candidate, ...]
    ) -> None:
        there = gpus(devices) if isinstance(devices, int) else devices
        self.sizes = SIZES | sizes
        self.world = World(specs, there, Objective.MIN_DEVICES)
        self.solved: list[Solving] = []
        self.fail: Callable[[Solving], None] = lambda _: None

    def demands(self, world: World) -> tuple[ModelDemand, ...]:
        kinds = sorted({d.hardware for d in world.devices})
        found = []
        for one in world.specs:
            sizes = self.sizes[one.name]
            candidates = [dataclasses.replace(c, hardware=kind) for c in sizes for kind in kinds]
            asked = {field: getattr(one, field) for field in ASKED}
            found.append(dataclasses.replace(want(one.name, *candidates), **asked))
        return tuple(found)

    def request(self) -> PlanRequest:
        return PlanRequest(
            self.world.devices,
            self.demands(self.world),
            objective=self.world.objective,
            time_limit_seconds=20.0,
            deterministic=True,
            may_search=False,
        )

    def solve(self, step: Solving) -> Outcome:
        self.solved.append(step)
        self.fail(step)
        return solve(step.request)

    def ask(self, *, most: int = 1000, **question: object) -> tuple[Outcome, PlanAnswers]:
        return run_flow(
            answer(PlanQuestion(**question), self.world, self.request(), self.demands),  # type: ignore[arg-type]
            self.solve,
            lambda: len(self.solved) >= most,
        )

    def explained(self, model: str) -> told.ModelExplanation:
        """Why it is where it is."""
        found = self.ask(explain=model)[1].explanation
        assert found is not None
        return found


@pytest.fixture
def asker() -> Asker:
    """Two replicas of a on one GPU, b beside nothing: two GPUs of four."""
    return Asker(spec("a", 10), spec("b", 5), devices=4)


def by_change(found: tuple[Alternative, ...]) -> dict[str, Alternative]:
    return {one.change: one for one in found}


def test_the_plan_comes_first_and_a_question_that_asks_nothing_solves_nothing_else(
    asker: Asker,
) -> None:
    outcome, answers = asker.ask()
    assert isinstance(outcome, Plan)
    assert outcome.certificate.value == 2
    assert answers == PlanAnswers()
    assert [step.title for step in asker.solved] == ["the plan"]
    figures = told.figures_of(outcome)
    assert (figures.devices, figures.devices_used, figures.replicas) == (4, 2, 3)
    assert figures.served_req_per_s == pytest.approx(15.0)
    assert (figures.served_share, figures.status) == (1.0, Status.OPTIMAL)
    assert figures.least_headroom is not None
    assert figures.least_headroom >= -1e-9
    assert figures.price_per_hour == 2.0
    assert asker.ask(relax=True)[1] == PlanAnswers(), "all is served"
    assert len(asker.solved) == 2


def test_what_ifs_are_compared_with_the_plan_of_what_is(asker: Asker) -> None:
    texts = ("demand a=20/s", "demand a=5/s", "lose g0", "without model b", "demand a=100/s")
    _, answers = asker.ask(what_if=texts)
    expected = dict(zip(texts, (-1.0, 1.0, 0.0, 1.0, None), strict=True))
    found = by_change(answers.what_if)
    assert {change: one.gain for change, one in found.items()} == expected
    more = found["demand a=20/s"]
    assert (more.starts, more.moves, more.stops) == (2, 0, 0), "near what is"
    assert not found["demand a=100/s"].serves_all
    assert all(one.plan is not None for one in answers.what_if)


def test_what_only_forbids_is_known_to_be_a_plan_of_what_is(asker: Asker) -> None:
    texts = (
        "lose g3", "-1 a100-80gb", "no mig", "only mps; lose g3", "+1 a100-80gb",
        "demand b=1/s", "lose g3; demand b=1/s", "without model b", "objective max-min",
    )  # fmt: skip
    _, answers = asker.ask(what_if=texts)
    assert [one.forbids for one in answers.what_if] == [True] * 4 + [False] * 5
    assert not any(one.is_no_gain for one in answers.what_if), "the plan is the best"
    first = answers.what_if[0]
    assert dataclasses.replace(first, gain=3.0).is_no_gain
    assert dataclasses.replace(first, gain=None).is_no_gain, "it serves all, and the plan does not"
    assert not dataclasses.replace(first, gain=3.0, forbids=False).is_no_gain


def test_a_kind_that_is_not_there_gets_candidates_and_a_mode_without_sizes_no_plan(
    asker: Asker,
) -> None:
    texts = ("+1 h100-80gb; demand a=45/s", "only memory", "lose g1")
    other, nothing, fine = asker.ask(what_if=texts)[1].what_if
    assert other.serves_all
    assert other.figures is not None
    assert other.figures.devices_used == 5
    assert nothing.figures is None
    assert nothing.infeasible is not None
    assert nothing.infeasible.reasons
    assert fine.serves_all


def test_where_there_is_no_plan_the_model_is_explained_all_the_same() -> None:
    shut = (gpu("g0", cordoned=True),)
    asker = Asker(spec("a", 4), spec("ab", 4), devices=shut, ab=(point("ab", 5, 20),))
    assert isinstance(asker.ask()[0], Infeasible)
    why = asker.explained("a")
    assert why.model == "a"
    assert why.here[0].startswith("It has no place")
    assert len(why.here) > 1
    assert not any("ab" in line.split() for line in why.here)


@pytest.mark.parametrize("title", ["lose g1", "the plan"])
def test_what_breaks_in_one_alternative_is_told_there_and_in_the_plan_raised(
    title: str, asker: Asker
) -> None:
    def fail(step: Solving) -> None:
        if step.title == title:
            raise SpecError("no power is known.", hint="Give it.")

    asker.fail = fail
    if title == "the plan":
        with pytest.raises(SpecError, match="no power"):
            asker.ask(what_if=("lose g1",))
        return
    broken, fine = asker.ask(what_if=("lose g1", "lose g2"))[1].what_if
    assert broken.infeasible == Infeasible(("no power is known.",), ("Give it.",))
    assert fine.serves_all


def test_a_wrong_question_is_refused_before_anything_is_solved(asker: Asker) -> None:
    for question in ({"what_if": ("lose g9",)}, {"what_if": ("lose g1", "fly")}, {"explain": "c"}):
        with pytest.raises(InputError):
            asker.ask(**question)
        assert asker.solved == []


def test_enough_ends_it_with_what_is_answered(asker: Asker) -> None:
    outcome, answers = asker.ask(what_if=("lose g0", "lose g1"), most=2)
    assert isinstance(outcome, Plan)
    assert [one.change for one in answers.what_if] == ["lose g0"]


async def test_beside_an_event_loop_the_same_comes_out(asker: Asker) -> None:
    async def solved(step: Solving) -> Outcome:
        return asker.solve(step)

    question = PlanQuestion(what_if=("demand a=20/s",))
    flow = answer(question, asker.world, asker.request(), asker.demands)
    _, answers = await run_flow_async(flow, solved)
    assert [one.gain for one in answers.what_if] == [-1.0]


# --- explanation -------------------------------------------------------------------------------


def test_why_a_model_is_where_it_is() -> None:
    asker = Asker(spec("a", 10), spec("b", 5), devices=3, a=(HALF, point("a", 3, 4, sm=25)))
    why = asker.explained("b")
    assert why.here[0].startswith("1 replica gives ")
    assert why.here[0].endswith("requests/s as planned, 5 wanted.")
    assert any("No more is needed" in line for line in why.not_more)
    (size,) = why.sizes
    assert (size.size, size.replicas) == ("mps-10", 1)
    assert size.per_device_req_per_s > 5 * 6, "ten fit by their SMs, each slowed by the others"


def test_neighbours_are_told_with_their_numbers_and_what_stops_one_more_with_figures() -> None:
    sizes = {name: (point(name, 6, 5, sm=15),) for name in "abc"}
    asker = Asker(spec("a", 10), spec("b", 5), spec("c", 15), devices=1, **sizes)
    (line,) = [x for x in asker.explained("b").here if x.startswith("g0: ")]
    assert line.startswith("g0: 1x beside 2x a, 3x c, memory ")
    why = Asker(spec("a", 20), devices=1).explained("a")
    assert any("g0 gives away 150 % of its SMs" in line for line in why.not_more)
    assert "No device is empty." in why.not_more


def test_a_size_that_serves_less_is_said_to_take_what_it_takes() -> None:
    """Only one replica is allowed: the best size per device, which takes less, does not do."""
    best, chosen = point("a", 2.9, 38, sm=50, batch=64), point("a", 4.6, 61, sm=80, batch=128)
    why = Asker(spec("a", 4, max_replicas=1), devices=1, a=(best, chosen)).explained("a")
    assert why.here[1] == (
        "mps-80 at batch 128: a device full of it serves 4.6 requests/s, full of the best size "
        "there, mps-50 at batch 64, 5.58; this one takes 61 GiB, that one 38 GiB."
    )


def test_where_there_are_several_kinds_of_device_it_is_said_on_which_a_size_is_best() -> None:
    large, small = point("a", 6, 10, sm=50), point("a", 2, 10, sm=50, hardware="l4-24gb")
    devices = gpu("gpu-0"), gpu("gpu-1", gib=22, hardware="l4-24gb", price_per_hour=0.1)
    model = want("a", large, small, rate=3)
    request = PlanRequest(devices, (model,), objective=Objective.MIN_PRICE)
    why = explain_model(request, solve(request), model)
    assert [size.note for size in why.sizes] == ["best there", "chosen 2x; best there"]
    assert why.here[1].startswith("mps-50 at batch 8 on l4-24gb: a device full of it serves ")
    assert why.here[1].endswith("; no size of it serves noticeably more there.")


def test_sizes_are_called_the_best_per_device_where_every_one_is() -> None:
    """Both are in use; a device full of the narrow one serves less, or as much."""
    for rate, best in ((4, False), (12.1, True)):
        sizes = point("a", 12, 10, sm=60), point("a", rate, 10, sm=40)
        model = want("a", *sizes, rate=40)
        plan = solve(PlanRequest(gpus(1), (model,), objective=Objective.MAX_GOODPUT))
        assert isinstance(plan, Plan)
        assert any("none of its sizes serves" in line for line in plan.explanation) == best


# --- ways out ----------------------------------------------------------------------------------


def test_too_much_demand_names_the_smallest_ways_out() -> None:
    small = (point("c", 6, 1, sm=5),)
    asker = Asker(spec("a", 30), spec("b", 5), spec("c", 5), devices=2, c=small)
    outcome, answers = asker.ask(relax=True)
    assert isinstance(outcome, Plan)
    assert outcome.certificate.objective is Objective.MAX_GOODPUT
    found = answers.relaxations
    assert found is not None
    ways = by_change(found.cheapest)
    assert "+2 a100-80gb" in ways, "one for a, one for b and c"
    assert all(one.serves_all for one in found.cheapest)
    assert any(text.startswith("demand a=") for text in ways)


@pytest.mark.parametrize(
    ("models", "among"),
    [
        ((spec("a", 25), spec("b", 30)), ""),
        ((spec("a", 60, rules=PlacementRules(survive=FaultDomain.DEVICE, survive_share=0.9)),), ""),
        ((spec("a", 60, min_replicas=9),), ""),
        ((spec("a", 25), spec("b", 5, isolation=Isolation.DEVICE)), "without rule b.isolation"),
    ],
)
def test_what_is_said_to_help_helps(models: tuple[ModelSpec, ...], among: str) -> None:
    asker = Asker(*models, devices=2 if among == "" else 3)
    ways = asker.ask(relax=True)[1].relaxations
    assert ways is not None
    texts = tuple(one.change for one in ways.cheapest)
    assert texts
    assert not among or among in texts
    again = asker.ask(what_if=texts)[1].what_if
    assert all(one.serves_all for one in again)
    for said, made in zip(ways.cheapest, again, strict=True):
        assert said.figures is not None
        assert made.figures is not None
        wanted = made.figures.wanted_req_per_s
        assert said.figures.served_req_per_s == pytest.approx(wanted, rel=0.02)
