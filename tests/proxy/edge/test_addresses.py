from partitiond.proxy.edge.addresses import Addresses


def test_connections_of_an_address_are_beyond_its_limit_until_others_of_it_end() -> None:
    addresses = Addresses(1)
    assert [addresses.opened(one) for one in ("::1", "::1", "10.0.0.2")] == [False, True, False]
    addresses.closed("::1")
    addresses.closed("::1")
    assert not addresses.opened("::1")


def test_networks_of_trusted_proxies_have_no_limit() -> None:
    addresses = Addresses(1, ("10.0.0.0/8",))
    assert [addresses.opened("10.1.2.3") for _ in range(3)] == [False] * 3
    assert [addresses.opened("11.1.2.3") for _ in range(2)] == [False, True]
