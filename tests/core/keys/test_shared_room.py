"""No caller takes all of a room that callers share."""

import pytest

from partitiond.core.keys.shared_room import SharedRoom, network_of


def most(room: SharedRoom, caller: str) -> int:
    """Take as much as there is for a caller, one by one."""
    taken = 0
    while room.take(caller, 1):
        taken += 1
    return taken


def test_each_may_hold_half_of_what_the_others_leave() -> None:
    room = SharedRoom(1000, 10)
    assert [most(room, caller) for caller in "abcdefg"] == [500, 250, 125, 62, 31, 16, 10]
    assert room.held == 994
    room.add("b", -250)
    assert not room.take("a", 100)
    assert most(room, "b") == 128
    room.add("a", -500)
    assert most(room, "h") == 314


def test_one_of_the_largest_is_taken_while_there_is_room() -> None:
    room = SharedRoom(100, 80)
    assert room.take("a", 80)
    assert not room.take("a", 1)
    assert not room.take("b", 21)
    assert room.take("b", 20)


def test_what_is_held_without_room_counts() -> None:
    room = SharedRoom(100, 10)
    room.add("a", 70)
    assert not room.take("a", 1)
    assert most(room, "b") == 15


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"), ("", ""), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"),
    ],
)  # fmt: skip
def test_one_client_has_all_addresses_of_its_network(address: str, network: str) -> None:
    assert network_of(address) == network


def test_only_who_holds_more_gives_way() -> None:
    """Callers that hold the same push each other out for ever else."""
    room = SharedRoom(4, 1)
    for caller, more in (("a", 2), ("b", 1), ("c", 1)):
        room.add(caller, more)
    assert room.larger("b") == "a"
    assert room.larger("a") is None
    room.add("b", 1)
    assert room.larger("b") is None
