"""An endpoint has what it confirmed, or any table that it was sent since."""

import dataclasses

from partitiond.core.dispatch.routing import EMPTY_ROUTING_TABLE
from partitiond.core.dispatch.told_tables import MOST_TOLD, ToldTables

A, B, C = (dataclasses.replace(EMPTY_ROUTING_TABLE, version=n) for n in (1, 2, 3))


def test_what_is_sent_counts_beside_what_was_confirmed_until_an_answer() -> None:
    told = ToldTables()
    assert told.confirmed is None
    assert not told.all_hold(lambda _: True)
    told = told.sent(A)
    assert not told.all_hold(lambda _: True), "what it had before may be in force still"
    told = told.answered(A)
    assert told.confirmed is A
    assert told.sent(A).confirmed is A, "the same table again is no other"
    told = told.sent(B)
    assert told.confirmed is None
    told = told.sent(C).sent(C)
    assert told.tables == (A, B, C)
    for one in (A, B, C):
        assert not told.all_hold(lambda table, one=one: table is not one)  # type: ignore[misc]
    assert told.all_hold(lambda table: table.version in (1, 2, 3))
    assert told.answered(B).tables == (B, C), "the one sent later may be in force"
    assert told.answered(C).confirmed is C
    late = told.answered(C).answered(B)
    assert late.confirmed is C, "an answer that comes late takes nothing back"


def test_of_one_that_missed_many_tables_nothing_is_known_until_its_answer() -> None:
    told = ToldTables((A,))
    for version in range(MOST_TOLD):
        told = told.sent(dataclasses.replace(B, version=10 + version))
    assert len(told.tables) <= MOST_TOLD
    assert not told.all_hold(lambda _: True)
    assert told.sent(C).answered(C).confirmed is C
