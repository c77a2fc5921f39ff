"""Addresses and devices are parsed as people write them."""

import pytest

from partitiond.advise import today
from partitiond.core.errors import SpecError


def test_addresses() -> None:
    for text, address in {
        "http://node-1:8000": today.Address("http://node-1:8000"),
        "node-1:8000": today.Address("http://node-1:8000"),
        "127.0.0.1:8000=0": today.Address("http://127.0.0.1:8000", ("0",)),
        "https://e.io/llm/=GPU-ab,GPU-cd": today.Address("https://e.io/llm", ("GPU-ab", "GPU-cd")),
        "http://h:8000/metrics": today.Address("http://h:8000/metrics"),
        "unix:/run/e.sock=1": today.Address("unix:/run/e.sock", ("1",)),
    }.items():
        assert today.parse_address(text) == address
    for text in ("", "localhost", "ftp://h:1", "http://", "http://h:1=a b", "=0"):
        with pytest.raises(SpecError) as refused:
            today.parse_address(text)
        assert "http://127.0.0.1:8000" in refused.value.hint


def test_described_gpus_and_which_an_engine_has() -> None:
    """By index or id."""
    devices = today.parse_devices(["2 a100-80gb", "l4", "2xa100"])
    assert [d.id for d in devices] == ["a100-80gb-0", "a100-80gb-1", "l4-24gb-0", "a100-40gb-0",
                                       "a100-40gb-1"]  # fmt: skip
    assert devices[0].free_bytes == devices[0].memory_bytes
    assert not set(devices[0].cores) & set(devices[1].cores)
    for text in ("", "0 l4", "9999 l4", "4 gtx-9", "-1 l4", "a100-40gb:1g.5gb"):
        with pytest.raises(SpecError):
            today.parse_devices([text])
    devices = today.parse_devices(["3 l4"])
    said = today.resolve_devices(
        [today.Address("a", ("2",)), today.Address("b", ("l4-24gb-0", "2")), today.Address("c")],
        devices,
    )
    assert said == {"a": ("l4-24gb-2",), "b": ("l4-24gb-0", "l4-24gb-2"), "c": ("l4-24gb-1",)}
    with pytest.raises(SpecError, match=r"2 address\(es\) name no GPU, and 1 GPU\(s\) are left"):
        today.resolve_devices([today.Address(name) for name in "ab"], devices[:1])
    for name in ("7", "h100", "l4"):
        with pytest.raises(SpecError) as refused:
            today.resolve_devices([today.Address("a", (name,))], devices)
        assert "0 (l4-24gb-0)" in refused.value.hint
