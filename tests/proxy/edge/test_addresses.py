from partitiond.proxy.edge.addresses import Addresses


def test_connections_beyond_the_limit_of_their_address_are_told() -> None:
    addresses = Addresses(2)
    assert [addresses.opened("10.0.0.1") for _ in range(3)] == [False, False, True]
    assert not addresses.opened("10.0.0.2")


def test_a_connection_that_ends_makes_room_for_another() -> None:
    addresses = Addresses(1)
    assert not addresses.opened("::1")
    assert addresses.opened("::1")
    addresses.closed("::1")
    addresses.closed("::1")
    assert not addresses.opened("::1")


def test_networks_of_trusted_proxies_have_no_limit() -> None:
    addresses = Addresses(1, ("10.0.0.0/8",))
    assert [addresses.opened("10.1.2.3") for _ in range(3)] == [False] * 3
    assert [addresses.opened("11.1.2.3") for _ in range(2)] == [False, True]


def test_without_a_limit_nothing_is_counted() -> None:
    addresses = Addresses(0)
    assert not any(addresses.opened("10.0.0.1") for _ in range(1000))
    addresses.closed("10.0.0.1")
