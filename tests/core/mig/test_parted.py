"""Configuration files of mig-parted are read and written."""

import itertools
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partitiond.core.errors import NotFoundError, SpecError
from partitiond.core.hardware.gpus import HARDWARE
from partitiond.core.mig import parted as written
from partitiond.core.mig.geometry import geometry_from
from partitiond.core.mig.parted import MigEntry, choose_places, emit_text, entry_for, parse

yaml = pytest.importorskip("yaml")

EXAMPLE = """
version: v1
mig-configs:
  all-disabled:
    - devices: all
      mig-enabled: false
  custom:
    - devices: [0, 1]
      mig-enabled: true
      mig-devices: {}
    - device-filter: ["0x20B210DE", "0x20B510DE"]
      devices: all
      mig-enabled: true
      mig-devices:
        "1g.10gb": 2
        "2g.20gb": 1
        "3g.40gb": 1
    - devices: [3]
      mig-enabled: false
      mig-devices: {}
"""
PROFILES = HARDWARE["a100-80gb"].mig_profiles


def test_a_file_is_read() -> None:
    found = parse(yaml.safe_load(EXAMPLE), "config.yaml")
    assert [name for name, _ in found.configs] == ["all-disabled", "custom"]
    assert found.choose("all-disabled") == (MigEntry(None, enabled=False),)
    custom = found.choose("custom")
    assert custom[1] == MigEntry(
        None,
        enabled=True,
        counts=(("1g.10gb", 2), ("2g.20gb", 1), ("3g.40gb", 1)),
        device_filter=(0x20B210DE, 0x20B510DE),
    )
    assert entry_for(custom, 0, 0x20B210DE) == custom[1]
    assert entry_for(custom, 0, 0x233010DE) == custom[0]
    assert entry_for(custom, 2, 0x233010DE) is None
    assert entry_for(custom, 3, 0x20B210DE) == custom[2]
    with pytest.raises(NotFoundError, match="all-disabled, custom"):
        found.choose("balanced")
    with pytest.raises(NotFoundError, match="several"):
        found.choose()


ENTRY = {"devices": "all", "mig-enabled": True, "mig-devices": {"1g.10gb": 1}}


def in_file(**changes: Any) -> dict[str, Any]:
    entry = {k: v for k, v in (ENTRY | changes).items() if v is not ...}
    return {"version": "v1", "mig-configs": {"mine": [entry]}}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "no table"),
        ([], "no table"),
        ({"mig-configs": {}}, "no version"),
        ({"version": "v2", "mig-configs": {}}, "version 'v2'"),
        ({"version": "v1"}, "mig-configs is no table"),
        ({"version": "v1", "mig-configs": {}}, "no configuration"),
        ({"version": "v1", "mig-configs": {"a": []}}, "no list of entries"),
        ({"version": "v1", "mig-configs": {"a": {}}, "more": 1}, "unknown field 'more'"),
        (in_file(more=1), "mine, entry 1 has an unknown field 'more'"),
        (in_file(devices=...), "has no devices"),
        (in_file(**{"mig-enabled": ...}), "has no mig-enabled"),
        (in_file(**{"mig-enabled": "yes"}), "mig-enabled is 'yes'"),
        (in_file(**{"mig-devices": ...}), "has no mig-devices"),
        (in_file(**{"mig-enabled": False}), "mig-enabled: false"),
        (in_file(devices="some"), "devices is 'some'"),
        (in_file(devices=[-1]), "devices is"),
        (in_file(devices=[True]), "devices is"),
        (in_file(**{"device-filter": ["20B2"]}), "device-filter is"),
        (in_file(**{"mig-devices": {"1gb": 1}}), "'1gb' is no MIG profile"),
        (in_file(**{"mig-devices": {"1c.3g.40gb": 3}}), "divides a GPU instance"),
        (in_file(**{"mig-devices": {"1g.10gb": -1}}), "-1 instances"),
        (in_file(**{"mig-devices": {"1g.10gb": "1"}}), "'1' instances"),
        (in_file(**{"mig-devices": [1]}), "mig-devices is no table"),
    ],
)
def test_what_is_wrong_is_named(data: object, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        parse(data, "config.yaml")
    assert words in refused.value.message
    assert refused.value.message.startswith("config.yaml")
    assert refused.value.hint


names = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True).filter(
    lambda n: n not in {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
)
entries = st.builds(
    MigEntry,
    devices=st.none() | st.sets(st.integers(0, 15), max_size=4).map(lambda s: tuple(sorted(s))),
    enabled=st.just(True),
    counts=st.dictionaries(
        st.sampled_from([p.name for p in PROFILES]), st.integers(1, 7), max_size=3
    ).map(lambda d: tuple(sorted(d.items()))),
    device_filter=st.lists(st.integers(0, 2**32 - 1), max_size=2).map(tuple),
)
files = st.dictionaries(names, st.lists(entries, min_size=1, max_size=3).map(tuple), min_size=1)


@settings(max_examples=150)
@given(configs=files)
def test_what_is_written_is_read_back(configs: dict[str, tuple[MigEntry, ...]]) -> None:
    parted = written.MigParted(tuple(configs.items()))
    assert parse(written.emit(parted), "x") == parted
    assert parse(yaml.safe_load(emit_text(parted)), "x") == parted


def test_what_is_there_is_summed_up_by_gpus_that_are_alike() -> None:
    cut = {"3g.40gb": 1, "2g.20gb": 2}
    found = written.summary(
        [(0, True, cut), (1, False, {}), (2, True, dict(reversed(cut.items())))]
    )
    assert found.choose() == (
        MigEntry((0, 2), enabled=True, counts=(("2g.20gb", 2), ("3g.40gb", 1))),
        MigEntry((1,), enabled=False),
    )
    assert "- devices: [0, 2]" in emit_text(found)


@settings(max_examples=150)
@given(data=st.data())
def test_as_many_as_can_stay_where_they_are(data: st.DataObject) -> None:
    geometry = geometry_from(PROFILES)
    sets = geometry.sets
    now = dict(zip((p.name for p in PROFILES), data.draw(st.sampled_from(sets)), strict=True))
    there = geometry.places(now) or []
    drawn = zip((p.name for p in PROFILES), data.draw(st.sampled_from(sets)), strict=True)
    counts = {name: n for name, n in drawn if n}
    found = choose_places(PROFILES, counts, there)
    assert found is not None
    assert Counter(name for name, _, _ in found) == Counter(counts)
    most = max(
        size
        for size in range(len(there) + 1)
        if any(geometry.places(counts, kept) for kept in itertools.combinations(there, size))
        or size == 0
    )
    assert len(set(found) & set(there)) >= most


def test_too_many_have_no_place() -> None:
    assert choose_places(PROFILES, {"3g.40gb": 3}, ()) is None
    assert choose_places(PROFILES, {"9g.90gb": 1}, ()) is None
    assert choose_places(PROFILES, {}, ()) == ()
