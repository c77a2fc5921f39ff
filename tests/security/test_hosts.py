"""Only our own host names are answered without keys, not names that point here (DNS rebinding)."""

from partitiond.proxy.edge.hosts import AllowedHosts
from tests.proxy.virtual import real_time
from tests.security.attacks import AUTH, BODY, good
from tests.security.target import KEY, StrictEngine, Target, key
from tests.security.wire import exchange, post, status_of

OURS = [
    "localhost", "LocalHost:8000", "localhost.", "app.localhost:1", "127.0.0.1", "127.0.0.1:8000",
    "127.9.9.9", "192.168.0.7:80", "[::1]:8000", "[::1]", "ai.example", "AI.example:8000",
    "ai.example.", "::1",
]  # fmt: skip
NOT_OURS = [
    "evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example",
    "notlocalhost", "localhost.example", "ai.example.evil.example", "sub.ai.example", "1", "0x7f.1",
    "127.0.0.1@evil.example", "evil.example@localhost:80", "[::1].evil.example", "[evil.example]",
]  # fmt: skip


OPTIONS = {"allowed_hosts": ("ai.example",)}


def test_addresses_localhost_and_listed_names_are_answered_and_no_others() -> None:
    allowed = AllowedHosts(OPTIONS["allowed_hosts"])
    assert [name for name in OURS if allowed.refusal(name.encode())] == []
    assert [name for name in NOT_OURS if not allowed.refusal(name.encode())] == []
    assert AllowedHosts(["*"]).refusal(b"evil.example") is None


@real_time  # a connection is on loopback only to the kernel
async def test_another_name_is_refused_and_the_answer_says_what_to_set(
    proxy: Target, engine: StrictEngine
) -> None:
    proxy.publish(keys_required=False)
    for _ in range(2):  # read, then known
        assert await status_of(proxy.port, good(host=b"host: ai.example:1")) == 200
        engine.forget()
        for line in (b"", b"GET /v1/models HTTP/1.1", b"GET /healthz HTTP/1.1"):
            found = await exchange(proxy.port, good(host=b"host: evil.example", line=line), 1)
            assert (found.answers[0].status, found.closed) == (403, True)
            assert b'"code":"host_not_allowed"' in found.answers[0].body
            assert b"[proxy] allowed_hosts" in found.answers[0].body
        assert engine.received == []


@real_time
async def test_the_host_of_an_absolute_target_decides_in_place_of_the_header(
    proxy: Target, engine: StrictEngine
) -> None:
    proxy.publish(keys_required=False)
    for host, status in (
        ("ai.example:80", 200), ("[::1]", 200), ("[2001:db8::1]:8000", 200),
        ("evil.example", 403), ("localhost@evil.example", 403), ("localhost.evil.example:1", 403),
    ):  # fmt: skip
        for header in (b"host: localhost", b"host: evil.example"):
            data = good(target=f"http://{host}/v1/completions".encode(), host=header)
            assert await status_of(proxy.port, data) == status, (host, header)
    assert len(engine.received) == 6


@real_time
async def test_with_keys_no_name_matters_and_no_head_is_remembered_beyond_them(
    proxy: Target,
) -> None:
    request = post(BODY, AUTH, host=b"host: evil.example")
    for required, status in ((True, 200), (False, 403), (True, 200), (False, 403)):
        proxy.publish(keys=[key(KEY)], keys_required=required)
        for _ in range(3):
            assert await status_of(proxy.port, request) == status
