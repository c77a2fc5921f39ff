"""Addresses and devices are parsed as people write them."""

import pytest

from partitiond.advise.today import (
    Address,
    allowing,
    described,
    emptied,
    foreign_note,
    parse_address,
    resolved,
)
from partitiond.core.errors import SpecError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.units import GIB


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://node-1:8000", Address("http://node-1:8000")),
        ("node-1:8000", Address("http://node-1:8000")),
        ("127.0.0.1:8000=0", Address("http://127.0.0.1:8000", ("0",))),
        ("https://e.io/llm/=GPU-ab,GPU-cd", Address("https://e.io/llm", ("GPU-ab", "GPU-cd"))),
        ("http://h:8000/metrics", Address("http://h:8000/metrics")),
        ("unix:/run/e.sock=1", Address("unix:/run/e.sock", ("1",))),
    ],
)  # fmt: skip
def test_addresses(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "ftp://h:1", "http://", "http://h:1=a b", "=0"])
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse_address(text)
    assert "http://127.0.0.1:8000" in refused.value.hint


def test_described_gpus() -> None:
    devices = described(["2 a100-80gb", "l4", "2xa100"])
    assert [d.id for d in devices] == ["a100-80gb-0", "a100-80gb-1", "l4-24gb-0", "a100-40gb-0",
                                       "a100-40gb-1"]  # fmt: skip
    assert devices[0].free_bytes == devices[0].memory_bytes
    assert not set(devices[0].cores) & set(devices[1].cores)


@pytest.mark.parametrize("text", ["", "0 l4", "9999 l4", "4 gtx-9", "-1 l4", "a100-40gb:1g.5gb"])
def test_gpus_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SpecError):
        described([text])


def test_an_engines_gpu_by_index_id_or_its_beginning() -> None:
    devices = described(["3 l4"])
    said = resolved([Address("a", ("2",)), Address("b", ("l4-24gb-0", "1")), Address("c")], devices)
    assert said == {"a": ("l4-24gb-2",), "b": ("l4-24gb-0", "l4-24gb-1")}


@pytest.mark.parametrize("name", ["7", "h100", "l4"])
def test_a_gpu_that_is_none_or_several_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(SpecError) as refused:
        resolved([Address("a", (name,))], described(["3 l4"]))
    assert "0 (l4-24gb-0)" in refused.value.hint


def test_devices_as_if_the_engines_were_gone_but_others_not() -> None:
    one, two = emptied(described(["2 l4"]), {"l4-24gb-1": 5 * GIB})
    assert one.free_bytes == one.memory_bytes
    assert two.free_bytes == two.memory_bytes - 5 * GIB
    assert "l4-24gb-1" in foreign_note({"l4-24gb-1": 5 * GIB, "x": 0})[0]


def test_only_some_sharing() -> None:
    devices = described(["a100-80gb"])
    (only,) = allowing(devices, [SharingMode.MEMORY, SharingMode.MIG])
    assert only.modes == (SharingMode.MEMORY, SharingMode.MIG)
    assert allowing(devices, []) == devices
    with pytest.raises(SpecError, match="allows none"):
        allowing(devices, [SharingMode.CORES])
