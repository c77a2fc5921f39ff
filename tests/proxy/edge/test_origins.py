"""Cross-origin access is off by default, and exact where on."""

from partitiond.proxy.edge.origins import Cors, plain_address

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


def test_addresses_of_ipv4_clients_are_plain() -> None:
    assert plain_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_address("2001:db8::1") == "2001:db8::1"
