"""Names of MIG profiles are parsed."""

import pytest

from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig.names import MigName, canonical, memory_slices_of, read_name
from partitiond.core.units import MIB


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("1g.5gb", MigName(1, 5)),
        ("MIG 2g.20gb", MigName(2, 20)),
        ("1g.10gb+me", MigName(1, 10, "+me")),
        ("MIG 1g.6gb+me.all", MigName(1, 6, "+me.all")),
        ("4g.24gb+gfx", MigName(4, 24, "+gfx")),
        ("2g.12gb-me", MigName(2, 12, "-me")),
        ("1c.3g.40gb", MigName(3, 40, "", 1)),
        ("3c.3g.40gb", MigName(3, 40, "", 3)),
        ("1G.5GB+ME", MigName(1, 5, "+me")),
    ],
)
def test_names_are_read(text: str, name: MigName) -> None:
    assert read_name(text) == name


@pytest.mark.parametrize("text", ["", "5gb", "1g", "1g.5gb+", "g.5gb", "1g.5gb me", "1g.5gb+me!"])
def test_what_is_no_name_is_none(text: str) -> None:
    assert read_name(text) is None
    assert canonical(f" {text} ") == text.strip()


def test_a_compute_instance_with_all_slices_has_the_short_name() -> None:
    assert canonical("3c.3g.40gb") == "3g.40gb"
    assert canonical("MIG 1c.3g.40gb") == "1c.3g.40gb"
    found = read_name("1c.3g.40gb")
    assert found is not None
    assert not found.whole


@pytest.mark.parametrize(
    "hardware", ["a100-40gb", "a100-80gb", "h100-80gb", "h100-nvl-94gb", "h200-141gb", "b200-180gb"]
)
def test_a_size_lies_on_as_many_slices_as_its_memory_takes(hardware: str) -> None:
    spec = HARDWARE[hardware]
    for profile in spec.mig_profiles:
        memory = profile.memory_bytes // MIB
        assert memory_slices_of(memory, spec.memory_bytes) == profile.memory_slices
