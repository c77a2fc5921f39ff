"""Questions beside a plan are answered: what-ifs, costs of constraints, explanations, ways out."""

import dataclasses
from collections.abc import Callable

import pytest

from partitiond.core.errors import InputError, SpecError
from partitiond.core.hardware.kinds import Device, SharingMode
from partitiond.core.model.spec import (
    Demand,
    FaultDomain,
    Isolation,
    ModelSource,
    ModelSpec,
    PlacementRules,
    Slo,
    SourceKind,
)
from partitiond.core.plan.answers import Alternative, PlanAnswers, PlanQuestion, figures_of
from partitiond.core.plan.record import Candidate, Infeasible, ModelDemand, Objective, Plan, Status
from partitiond.planner.answers.explain import proven_impossible
from partitiond.planner.answers.explain_model import explain_model
from partitiond.planner.answers.questions import answer
from partitiond.planner.answers.whatif import World
from partitiond.planner.api import solve
from partitiond.planner.model.types import PlanRequest
from partitiond.planner.pack.flow import Outcome, Solving, run_flow, run_flow_async
from tests.planner.build import gpu, point, want

Sizes = dict[str, tuple[Candidate, ...]]


class Asker:
    """A small world, its candidates, and a count of what is solved."""

    def __init__(self, sizes: Sizes, *specs: ModelSpec, devices: tuple[Device, ...]) -> None:
        self.sizes = sizes
        self.world = World(specs, devices, Objective.MIN_DEVICES)
        self.solved: list[Solving] = []
        self.fail: Callable[[Solving], None] = lambda _: None

    def demands(self, world: World) -> tuple[ModelDemand, ...]:
        return tuple(
            ModelDemand(
                model=spec.name,
                demand=spec.demand,
                candidates=tuple(
                    dataclasses.replace(c, hardware=kind)
                    for c in self.sizes[spec.name]
                    for kind in sorted({d.hardware for d in world.devices})
                ),
                min_replicas=spec.min_replicas,
                max_replicas=spec.max_replicas,
                isolation=spec.isolation,
                slo=spec.slo,
                rules=spec.rules,
            )
            for spec in world.specs
        )

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

    def ask(self, question: PlanQuestion, *, most: int = 1000) -> tuple[Outcome, PlanAnswers]:
        return run_flow(
            answer(question, self.world, self.request(), self.demands),
            self.solve,
            proven_impossible,
            lambda: len(self.solved) >= most,
        )


def spec(name: str, rate: float | None, **more: object) -> ModelSpec:
    source = ModelSource(SourceKind.CONFIG, name)
    return ModelSpec(name, source, demand=Demand(rate), **more)  # type: ignore[arg-type]


HALF = point("a", 6, 10, sm=50)
TENTH = point("b", 6, 5, sm=10)
"""Rates a little above the demands: replicas that share a device slow each other down."""
SIZES: Sizes = {"a": (HALF,), "b": (TENTH,)}


def gpus(count: int) -> tuple[Device, ...]:
    return tuple(gpu(f"gpu-{n}") for n in range(count))


@pytest.fixture
def asker() -> Asker:
    """Two replicas of a on one GPU, b beside nothing: two GPUs of four."""
    return Asker(SIZES, spec("a", 10), spec("b", 5), devices=gpus(4))


def by_change(found: tuple[Alternative, ...]) -> dict[str, Alternative]:
    return {one.change: one for one in found}


def test_the_plan_comes_first_and_a_question_that_asks_nothing_solves_nothing_else(
    asker: Asker,
) -> None:
    outcome, answers = asker.ask(PlanQuestion())
    assert isinstance(outcome, Plan)
    assert outcome.certificate.value == 2
    assert answers == PlanAnswers()
    assert [step.title for step in asker.solved] == ["the plan"]


def test_what_ifs_are_compared_with_the_plan_of_what_is(asker: Asker) -> None:
    texts = ("demand a=20/s", "demand a=5/s", "lose gpu-0", "without model b", "demand a=100/s")
    _, answers = asker.ask(PlanQuestion(what_if=texts))
    found = by_change(answers.what_if)
    assert tuple(found) == texts
    assert [found[text].gain for text in texts[:4]] == [-1.0, 1.0, 0.0, 1.0]
    assert found["demand a=20/s"].starts == 2
    assert found["demand a=20/s"].moves == found["demand a=20/s"].stops == 0, "near what is"
    assert found["demand a=100/s"].gain is None, "not all of it can be served"
    assert not found["demand a=100/s"].serves_all
    assert all(one.plan is not None for one in answers.what_if)


def test_what_only_forbids_is_known_to_be_a_plan_of_what_is(asker: Asker) -> None:
    texts = (
        "lose gpu-3", "-1 a100-80gb", "no mig", "only mps; lose gpu-3", "+1 a100-80gb",
        "demand b=1/s", "lose gpu-3; demand b=1/s", "without model b", "objective max-min",
    )  # fmt: skip
    _, answers = asker.ask(PlanQuestion(what_if=texts, explain="b"))
    assert [one.forbids for one in answers.what_if] == [True] * 4 + [False] * 5
    assert not any(one.is_no_gain for one in answers.what_if), "the plan is the best"
    assert answers.explanation is not None
    assert all(one.forbids for one in answers.explanation.alternatives)
    (first, *_), worse = answers.what_if, 3.0
    assert dataclasses.replace(first, gain=worse).is_no_gain
    assert dataclasses.replace(first, gain=None).is_no_gain, "it serves all, and the plan does not"
    assert not dataclasses.replace(first, gain=worse, forbids=False).is_no_gain


def test_a_kind_of_device_that_is_not_there_gets_candidates(asker: Asker) -> None:
    _, answers = asker.ask(PlanQuestion(what_if=("+1 h100-80gb; demand a=45/s",)))
    (one,) = answers.what_if
    assert one.serves_all
    assert one.figures is not None
    assert one.figures.devices_used == 5


def test_a_mode_nobody_has_a_size_for_leaves_no_plan_and_the_others_stand(asker: Asker) -> None:
    outcome, answers = asker.ask(PlanQuestion(what_if=("only memory", "lose gpu-1")))
    assert isinstance(outcome, Plan)
    nothing, fine = answers.what_if
    assert nothing.figures is None
    assert nothing.infeasible is not None
    assert nothing.infeasible.reasons
    assert fine.serves_all


def test_where_there_is_no_plan_the_model_is_explained_all_the_same() -> None:
    sizes: Sizes = {"a": (point("a", 5, 20),), "ab": (point("ab", 5, 20),)}
    specs = [
        ModelSpec(name, ModelSource(SourceKind.CONFIG, "opt-125m"), demand=Demand(4.0))
        for name in sizes
    ]
    small = dataclasses.replace(gpu("gpu-0"), cordoned=True)
    asker = Asker(sizes, *specs, devices=(small,))
    outcome, answers = asker.ask(PlanQuestion(explain="a"))
    assert isinstance(outcome, Infeasible)
    assert answers.explanation is not None
    assert answers.explanation.model == "a"
    assert answers.explanation.here[0].startswith("It has no place")
    assert len(answers.explanation.here) > 1
    assert not any("ab" in line.split() for line in answers.explanation.here)
    assert not answers.explanation.alternatives


def test_what_breaks_in_one_alternative_is_told_there(asker: Asker) -> None:
    def fail(step: Solving) -> None:
        if step.title == "lose gpu-1":
            raise SpecError("no power is known.", hint="Give it.")

    asker.fail = fail
    _, answers = asker.ask(PlanQuestion(what_if=("lose gpu-1", "lose gpu-2")))
    broken, fine = answers.what_if
    assert broken.infeasible == Infeasible(("no power is known.",), ("Give it.",))
    assert fine.serves_all


def test_what_breaks_in_the_plan_itself_is_raised(asker: Asker) -> None:
    def fail(step: Solving) -> None:
        raise SpecError("broken.")

    asker.fail = fail
    with pytest.raises(SpecError, match="broken"):
        asker.ask(PlanQuestion(what_if=("lose gpu-1",)))


@pytest.mark.parametrize(
    "question",
    [
        PlanQuestion(what_if=("lose gpu-9",)),
        PlanQuestion(what_if=("lose gpu-1", "fly away")),
        PlanQuestion(explain="c"),
    ],
)
def test_a_wrong_question_is_refused_before_anything_is_solved(
    asker: Asker, question: PlanQuestion
) -> None:
    with pytest.raises(InputError):
        asker.ask(question)
    assert asker.solved == []


def test_enough_ends_it_with_what_is_answered(asker: Asker) -> None:
    texts = ("lose gpu-0", "lose gpu-1", "lose gpu-2")
    outcome, answers = asker.ask(PlanQuestion(what_if=texts, constraints=True), most=2)
    assert isinstance(outcome, Plan)
    assert [one.change for one in answers.what_if] == ["lose gpu-0"]


async def test_beside_an_event_loop_the_same_comes_out(asker: Asker) -> None:
    async def solved(step: Solving) -> Outcome:
        return asker.solve(step)

    async def prove(request: PlanRequest) -> bool:
        return proven_impossible(request)

    question = PlanQuestion(what_if=("demand a=20/s",))
    flow = answer(question, asker.world, asker.request(), asker.demands)
    _, answers = await run_flow_async(flow, solved, prove)
    assert [one.gain for one in answers.what_if] == [-1.0]


# --- constraints -------------------------------------------------------------------------------


def test_a_constraint_that_costs_a_device_is_found_and_one_that_does_not_is_free() -> None:
    asker = Asker(
        {"a": (HALF,), "b": (TENTH,), "c": (point("c", 6, 5, sm=10),)},
        spec("a", 5),
        spec("b", 5, isolation=Isolation.DEVICE),
        spec("c", 5, slo=Slo(10.0, 1.0)),
        devices=gpus(4),
    )
    _, answers = asker.ask(PlanQuestion(constraints=True))
    found = by_change(answers.constraints)
    assert found["without rule b.isolation"].gain == 1.0
    assert found["without rule c.slo"].gain == 0.0
    assert answers.constraints[0].change == "without rule b.isolation", "the dearest first"
    assert all(one.plan is None for one in answers.constraints)


def test_rules_of_one_kind_are_dropped_together_first_and_alone_only_where_they_cost() -> None:
    apart = PlacementRules(avoid=("a",))
    asker = Asker(
        {"a": (point("a", 6, 5, sm=10),), "b": (TENTH,), "c": (point("c", 6, 5, sm=10),)},
        spec("a", 5, slo=Slo(10.0, 1.0)),
        spec("b", 5, rules=apart, slo=Slo(10.0, 1.0)),
        spec("c", 5, rules=apart),
        devices=gpus(3),
    )
    _, answers = asker.ask(PlanQuestion(constraints=True))
    found = by_change(answers.constraints)
    assert found["without rule *.avoid"].gain == 1.0
    assert found["without rule b.avoid"].gain == 0.0, "c still has to be apart"
    assert found["without rule *.slo"].gain == 0.0
    assert "without rule a.slo" not in found


def test_where_there_is_nothing_to_drop_nothing_is_solved(asker: Asker) -> None:
    _, answers = asker.ask(PlanQuestion(constraints=True))
    assert answers.constraints == ()
    assert len(asker.solved) == 1


# --- explanation -------------------------------------------------------------------------------


def test_why_a_model_is_where_it_is() -> None:
    asker = Asker(
        {"a": (HALF, point("a", 3, 4, sm=25)), "b": (TENTH,)},
        spec("a", 10),
        spec("b", 5),
        devices=gpus(3),
    )
    outcome, answers = asker.ask(PlanQuestion(explain="b"))
    assert isinstance(outcome, Plan)
    why = answers.explanation
    assert why is not None
    assert why.here[0].startswith("1 replica gives ")
    assert why.here[0].endswith("requests/s as planned, 5 wanted.")
    assert any("No more is needed" in line for line in why.not_more)
    (size,) = why.sizes
    assert (size.size, size.replicas) == ("mps-10", 1)
    assert size.per_device_req_per_s > 5 * 6, "ten fit by their SMs, each slowed by the others"
    titles = [one.change for one in why.alternatives]
    assert titles == ["2 replicas instead of 1"]


def test_neighbours_are_told_with_their_numbers() -> None:
    sizes: Sizes = {name: (point(name, 6, 5, sm=15),) for name in "abc"}
    asker = Asker(sizes, spec("a", 10), spec("b", 5), spec("c", 15), devices=gpus(1))
    _, answers = asker.ask(PlanQuestion(explain="b"))
    assert answers.explanation is not None
    (line,) = [x for x in answers.explanation.here if x.startswith("gpu-0: ")]
    assert line.startswith("gpu-0: 1x beside 2x a, 3x c, memory ")


def test_the_next_best_size_and_what_it_costs() -> None:
    dear = point("b", 6, 5, sm=60)
    asker = Asker({"a": (HALF,), "b": (TENTH, dear)}, spec("a", 5), spec("b", 5), devices=gpus(3))
    _, answers = asker.ask(PlanQuestion(explain="b"))
    why = answers.explanation
    assert why is not None
    found = by_change(why.alternatives)
    assert found["not as mps-10"].gain == -1.0
    chosen = next(size for size in why.sizes if size.replicas)
    assert chosen.note == "chosen 1x; best per device"


def test_a_size_that_serves_less_is_said_to_take_what_it_takes() -> None:
    """Only one replica is allowed: the best size per device, which takes less, does not do."""
    best, chosen = point("a", 2.9, 38, sm=50, batch=64), point("a", 4.6, 61, sm=80, batch=128)
    asker = Asker({"a": (best, chosen)}, spec("a", 4, max_replicas=1), devices=gpus(1))
    _, answers = asker.ask(PlanQuestion(explain="a"), most=1)
    assert answers.explanation is not None
    told = answers.explanation.here[1]
    assert told == (
        "mps-80 at batch 128: a device full of it serves 4.6 requests/s, full of the best size "
        "there, mps-50 at batch 64, 5.58; this one takes 61 GiB, that one 38 GiB."
    )


def test_where_there_are_several_kinds_of_device_it_is_said_on_which_a_size_is_best() -> None:
    large, small = point("a", 6, 10, sm=50), point("a", 2, 10, sm=50, hardware="l4-24gb")
    devices = gpu("gpu-0"), gpu("gpu-1", gib=22, hardware="l4-24gb", price_per_hour=0.1)
    model = want("a", large, small, rate=3)
    request = PlanRequest(devices, (model,), objective=Objective.MIN_PRICE)
    why = explain_model(request, solve(request), model)
    notes = [size.note for size in why.sizes]
    assert notes == ["best there", "chosen 2x; best there"]
    assert why.here[1].startswith("mps-50 at batch 8 on l4-24gb: a device full of it serves ")
    assert why.here[1].endswith("; no size of it serves noticeably more there.")


def test_sizes_are_called_the_best_per_device_where_every_one_is() -> None:
    wide, narrow = point("a", 12, 10, sm=60), point("a", 4, 10, sm=40)
    model = want("a", wide, narrow, rate=40)

    def told(*candidates: Candidate) -> bool:
        one = dataclasses.replace(model, candidates=candidates)
        plan = solve(PlanRequest(gpus(1), (one,), objective=Objective.MAX_GOODPUT))
        assert isinstance(plan, Plan)
        assert {p.candidate for p in plan.placements} <= set(candidates)
        return any("none of its sizes serves" in line for line in plan.explanation)

    assert not told(wide, narrow), "both are in use, and a device full of one serves less"
    assert told(wide, dataclasses.replace(narrow, capacity_req_per_s=12.1))


def test_what_stops_one_more_replica_is_said_with_figures() -> None:
    asker = Asker({"a": (HALF,)}, spec("a", 20), devices=gpus(1))
    outcome, answers = asker.ask(PlanQuestion(explain="a"))
    assert isinstance(outcome, Plan)
    why = answers.explanation
    assert why is not None
    assert any("gpu-0 has 0 % of its SMs free, it needs 50 %" in line for line in why.not_more)
    assert "No device is empty." in why.not_more


# --- ways out ----------------------------------------------------------------------------------


def test_where_all_is_served_no_way_out_is_looked_for(asker: Asker) -> None:
    _, answers = asker.ask(PlanQuestion(relax=True))
    assert answers.relaxations is None


def test_too_much_demand_names_the_conflict_and_the_smallest_ways_out() -> None:
    asker = Asker(
        SIZES | {"c": (point("c", 6, 1, sm=5),)},
        spec("a", 30),
        spec("b", 5),
        spec("c", 5),
        devices=gpus(2),
    )
    outcome, answers = asker.ask(PlanQuestion(relax=True))
    assert isinstance(outcome, Plan)
    assert outcome.certificate.objective is Objective.MAX_GOODPUT
    found = answers.relaxations
    assert found is not None
    assert found.conflict == ("a",), "it needs three GPUs by itself"
    ways = by_change(found.cheapest)
    assert "+2 a100-80gb" in ways, "one for a, one for b and c"
    assert all(one.serves_all for one in found.cheapest)
    assert any(text.startswith("demand a=") for text in ways)
    assert any(text.startswith("demand *0.") for text in ways)


@pytest.mark.parametrize(("beside", "conflict"), [(40, {"a", "b", "c"}), (90, {"c"})])
def test_who_must_be_near_to_another_is_no_conflict_without_it(
    beside: int, conflict: set[str]
) -> None:
    """The proof is asked about a without b as well: then a is near to nobody."""
    sizes: Sizes = {
        "a": (point("a", 30, 30, sm=30),),
        "b": (point("b", 10, 15, sm=5),),
        "c": (point("c", 30, beside, sm=40),),
    }
    near = PlacementRules(near=("b",))
    asker = Asker(sizes, spec("a", 20, rules=near), spec("b", 1), spec("c", 20), devices=gpus(1))
    _, answers = asker.ask(PlanQuestion(relax=True))
    assert answers.relaxations is not None
    assert set(answers.relaxations.conflict) == conflict
    alone = Asker(sizes, spec("a", 20), devices=gpus(1)).ask(PlanQuestion())[0]
    assert isinstance(alone, Plan)
    assert not alone.unplaced


def test_an_isolation_that_is_in_the_way_is_among_the_ways_out() -> None:
    asker = Asker(SIZES, spec("a", 5), spec("b", 5, isolation=Isolation.DEVICE), devices=gpus(1))
    _, answers = asker.ask(PlanQuestion(relax=True))
    found = answers.relaxations
    assert found is not None
    assert set(found.conflict) <= {"a", "b"}
    assert "without rule b.isolation" in by_change(found.cheapest)


@pytest.mark.parametrize(
    "models",
    [
        (spec("a", 25), spec("b", 30)),
        (spec("a", 60, rules=PlacementRules(survive=FaultDomain.DEVICE, survive_share=0.9)),),
        (spec("a", 60, min_replicas=9),),
    ],
)
def test_what_is_said_to_help_helps(models: tuple[ModelSpec, ...]) -> None:
    asker = Asker(SIZES, *models, devices=gpus(2))
    _, answers = asker.ask(PlanQuestion(relax=True))
    assert answers.relaxations is not None
    texts = tuple(one.change for one in answers.relaxations.cheapest)
    assert texts
    _, again = asker.ask(PlanQuestion(what_if=texts))
    assert all(one.serves_all for one in again.what_if)
    for told, made in zip(answers.relaxations.cheapest, again.what_if, strict=True):
        assert told.figures is not None
        assert made.figures is not None
        wanted = made.figures.wanted_req_per_s
        assert told.figures.served_req_per_s == pytest.approx(wanted, rel=0.02)


# --- figures -----------------------------------------------------------------------------------


def test_figures_of_a_plan(asker: Asker) -> None:
    outcome, _ = asker.ask(PlanQuestion())
    assert isinstance(outcome, Plan)
    figures = figures_of(outcome)
    assert (figures.devices, figures.devices_used, figures.replicas) == (4, 2, 3)
    assert figures.served_req_per_s == pytest.approx(15.0)
    assert figures.served_share == 1.0
    assert figures.status is Status.OPTIMAL
    assert figures.least_headroom is not None
    assert figures.least_headroom >= -1e-9
    assert figures.price_per_hour == 2.0
    assert SharingMode.MPS in {p.partition.mode for p in outcome.placements}


def test_what_no_device_could_ever_hold_is_called_proven() -> None:
    """One host cannot survive its own loss: plan and ways out must say the same of it."""
    rules = PlacementRules(survive=FaultDomain.HOST)
    asker = Asker(SIZES, spec("a", 5, rules=rules), spec("b", 5), devices=gpus(2))
    outcome, answers = asker.ask(PlanQuestion(relax=True))
    assert isinstance(outcome, Plan)
    assert any("proven impossible" in line for line in outcome.explanation)
    assert answers.relaxations is not None
    assert answers.relaxations.conflict == ("a",)
    assert "not proven" not in answers.relaxations.note


def test_a_model_without_any_size_is_the_conflict() -> None:
    asker = Asker(SIZES | {"c": ()}, spec("a", 5), spec("c", 5), devices=gpus(2))
    _, answers = asker.ask(PlanQuestion(relax=True))
    assert answers.relaxations is not None
    assert answers.relaxations.conflict == ("c",)
    assert "cannot be placed" in answers.relaxations.note
