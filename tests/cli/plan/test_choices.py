"""The price of moves is shown: the chosen plan, its reason, and the way to another plan."""

from partitiond.cli.plan.choices import choices_told, choices_view
from partitiond.core.plan.choices import Against, Choice, trade_off
from partitiond.core.plan.record import Certificate, Objective, Status
from tests.cli.conftest import text_of, widest
from tests.planner.build import gpu


def proof(
    *found: Choice, price: float = 0.25, objective: Objective = Objective.MIN_DEVICES
) -> Certificate:
    """A certificate of the chosen one, with the choices that are told."""
    mine = next(c for c in found if c.chosen)
    told = trade_off(found, is_cost=objective.is_cost, unit=1.0 if objective.is_cost else 0.01)
    return Certificate(
        objective, mine.value, 1.0, 0.0, Status.FEASIBLE, "", 0.0, move_price=price, choices=told
    )


def shown(certificate: Certificate, width: int = 80) -> str:
    return "".join(text_of(part, width) for part in choices_view(certificate, TWO))


TWO = (
    gpu("g0", price_per_hour=2.0, max_watts=200.0),
    gpu("g1", price_per_hour=4.0, max_watts=400.0),
)
STAYS = Choice(31, 31, 0, chosen=True)
MOVES = Choice(30, 29, 4)


def test_the_table_names_the_plan_bounds_prices_and_what_is_proven() -> None:
    rows = [" ".join(line.split()) for line in shown(proof(STAYS, MOVES, price=0.3)).splitlines()]
    assert "this plan 0 31 31 (proven) 0.25 or more" in rows
    assert "4 30 29 0.25 or less" in rows
    assert "moves devices at least best of these while move_price is" in rows
    for width in (60, 80, 140):
        budget = Choice(28, 28, 999, against=Against.MOVE_BUDGET)
        assert widest(shown(proof(STAYS, MOVES, budget), width)) <= width
    assert shown(Certificate(Objective.MIN_DEVICES, 1, 1, 0, Status.OPTIMAL, "", 0)) == ""


def test_why_it_is_proposed_and_how_to_get_the_others() -> None:
    far = Choice(20, 20, 900)
    assert list(choices_told(proof(STAYS, MOVES, far, price=0.3), TWO)) == [
        "This plan is proposed because a saved device may cost fewer than 3.33 moves "
        "(planner.move_price 0.3).",
        "The next best: partitiond plan --move-price 0.131",
        "The best whatever it moves: partitiond plan --move-price 0",
    ]
    told = list(choices_told(proof(STAYS, MOVES, price=0.3), TWO))
    assert told[1:] == ["The next best: partitiond plan --move-price 0"], "it is both"
    mine = Choice(30, 29, 4, chosen=True)
    assert list(choices_told(proof(Choice(31, 31, 0), mine, price=0.0), TWO)) == [
        "This plan is proposed because moves cost nothing (planner.move_price 0).",
        "The next best: partitiond plan --move-price 0.5",
    ]


def test_a_better_plan_that_is_not_made_is_shown_with_the_reason() -> None:
    for against, why in (
        (Against.NEEDLESS_STOP, "A better one stops replicas before others take"),
        (Against.MOVE_BUDGET, "because better ones move more than planner.move_budget allows"),
    ):
        certificate = proof(STAYS, Choice(30, 20, 1, against=against))
        assert any(why in line for line in choices_told(certificate, TWO))
        free = any("--move-price 0" in line for line in choices_told(certificate, TWO))
        assert free == (against is Against.NEEDLESS_STOP), "no price buys what the budget forbids"
        worse = proof(STAYS, Choice(30, 20, 5, against=against))
        assert not any(why in line for line in choices_told(worse, TWO)), (
            "it costs more than it saves"
        )


def test_a_move_is_told_in_the_unit_of_the_plan_and_in_that_of_the_setting() -> None:
    """Goodput is told with the most there is, and a share."""
    for objective, price, says in (
        (Objective.MIN_PRICE, 0.75, "a move costs 0.75 per hour (planner.move_price 0.25)"),
        (Objective.MIN_POWER, 75.0, "a move costs 75 W (planner.move_price 0.25)"),
        (Objective.MIN_DEVICES, 2.0, "a move costs 2 devices (planner.move_price 2)"),
    ):
        certificate = proof(STAYS, MOVES, price=price, objective=objective)
        assert next(choices_told(certificate, TWO)) == f"This plan is proposed because {says}."
    found = (Choice(100, 120, 0), Choice(110, 120, 4, chosen=True))
    certificate = proof(*found, price=0.0025, objective=Objective.MAX_GOODPUT)
    assert "at most" in shown(certificate)
    assert next(choices_told(certificate, TWO)) == (
        "This plan is proposed because a move costs 0.25 % of the value (planner.move_price 0.25)."
    )


def test_a_plan_that_stops_replicas_early_says_so_and_at_which_prices_it_is_the_best() -> None:
    mine = Choice(20, 20, 4, chosen=True, against=Against.NEEDLESS_STOP)
    certificate = proof(Choice(31, 31, 0), mine)
    assert "0.917 or less (stops replicas early)" in shown(certificate, 100)
    assert "counts as 8 more moves: none better" in list(choices_told(certificate, TWO))[1]
