"""Cross-origin access and forwarded addresses are off by default, and exact where on."""

import pytest

from partitiond.proxy.edge.origins import Cors, TrustedProxies, plain_address

PAGE = b"https://chat.example"


def test_only_listed_origins_are_allowed_and_named_and_caches_are_told() -> None:
    cors = Cors((PAGE.decode(),))
    headers = dict(cors.headers(PAGE))
    assert (headers[b"access-control-allow-origin"], headers[b"vary"]) == (PAGE, b"Origin")
    allowed = cors.preflight(PAGE, b"authorization, x-session-id")
    assert allowed is not None
    assert dict(allowed)[b"access-control-allow-headers"] == b"authorization, x-session-id"
    others = b"https://chat.example.evil", b"http://chat.example", b"null", b"", b"https://chat"
    for origin in others:
        assert cors.headers(origin) == [(b"vary", b"Origin")]
        assert cors.preflight(origin, b"") is None
    # Nor can a header be put into the answer.
    for asked in (b"a\r\nx: y", b"a\x00", b'a"b', b"x" * 2000):
        assert cors.preflight(PAGE, asked) is None
    nobody, everybody = Cors(()), Cors(("*",))
    assert not nobody
    assert (nobody.headers(PAGE), nobody.preflight(PAGE, b"content-type")) == ([], None)
    assert dict(everybody.headers(PAGE))[b"access-control-allow-origin"] == b"*", "no echo"


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", b"10.1.1.1", "203.0.113.9"),  # not a proxy of ours: not believed
        ("10.0.0.1", b"", "10.0.0.1"),
        ("10.0.0.1", b"198.51.100.7", "198.51.100.7"),
        ("10.0.0.1", b"6.6.6.6, 198.51.100.7, 10.0.0.2", "198.51.100.7"),  # the left is a lie
        ("10.0.0.1", b"198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.1", b"[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", b"2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", b"198.51.100.7, garbage", "10.0.0.1"),
        ("10.0.0.1", b"10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("", b"198.51.100.7", ""),  # a Unix socket
        ("::ffff:10.0.0.1", b"198.51.100.7", "198.51.100.7"),  # as a listener for IPv6 sees IPv4
    ],
)
def test_the_client_is_the_last_hop_that_is_not_trusted(
    peer: str, forwarded: bytes, client: str
) -> None:
    assert TrustedProxies(("10.0.0.0/8",)).client_address(peer, forwarded) == client


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (b"::ffff:198.51.100.7", "198.51.100.7"),  # as a listener for IPv6 sees IPv4
        (b'fe80::1%"}', "10.0.0.1"),  # a zone can be any text
        (b"198.51.100.7\x00", "10.0.0.1"),
    ],
)
def test_what_is_taken_from_a_header_is_an_address_and_nothing_else(
    forwarded: bytes, client: str
) -> None:
    assert TrustedProxies(("10.0.0.0/8",)).client_address("10.0.0.1", forwarded) == client


def test_without_trusted_proxies_nothing_is_believed_and_addresses_are_plain() -> None:
    assert TrustedProxies(()).client_address("10.0.0.1", b"198.51.100.7") == "10.0.0.1"
    assert plain_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_address("2001:db8::1") == "2001:db8::1"
