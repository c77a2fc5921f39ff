"""The plot of a profile is made, and readable in the format that its name says."""

import dataclasses
from pathlib import Path

import pytest

from partitiond.core.errors import InputError
from partitiond.core.hardware.kinds import SharingMode
from partitiond.core.hardware.partition import PartitionSize
from partitiond.core.model.spec import Slo
from partitiond.core.model.workload import Workload
from partitiond.core.profile.confirmed import FrontierMemory
from partitiond.core.profile.frontier import find_knee
from partitiond.core.profile.points import Footprint, Latency, OperatingPoint
from partitiond.core.profile.record import Profile, ProfileKind, Provenance
from partitiond.core.units import GIB, Bytes
from partitiond.profiler.plot import MOST_PROFILES, plot, plot_profile

MEASURED = ((1, 55), (2, 99), (4, 170), (8, 250), (11, 258), (16, 262), (32, 259))


def latency(p95: float) -> Latency:
    return Latency(p95, p95, p95, p95)


def profile(*, knee: bool = True, limited: bool = False) -> Profile:
    rows = MEASURED if knee else MEASURED[:4]
    points = tuple(
        OperatingPoint(
            batch=b,
            output_tokens_per_s=rate,
            half_width=rate * 0.03,
            req_per_s=rate / 32,
            ttft=latency(0.1),
            tpot=latency(b / rate),
            itl=latency(0.02),
            e2el=latency(1.0),
            kv_tokens=b * 144,
            footprint_bytes=Bytes(3 * GIB + b),
            kv_limited=limited and b == rows[-1][0],
        )
        for b, rate in rows
    )
    size = Bytes(GIB)
    return Profile(
        id="p",
        model="smollm2-135m",
        kind=ProfileKind.MEASURED,
        hardware="cpu-test",
        size=PartitionSize(SharingMode.CORES, 1),
        workload=Workload(64, 32),
        dtype="bfloat16",
        points=points,
        knee=find_knee(points),
        footprint=Footprint(size, size, size, size, size, 0, size),
        kv_cache_tokens=4096,
        provenance=Provenance(
            "vllm", "0", (), "real", None, "cpu-test", "", "", (0,), 0, "2026-01-01", 1.0, "0"
        ),
    )


@pytest.mark.parametrize("knee", [True, False])
@pytest.mark.parametrize("limited", [True, False])
def test_png(tmp_path: Path, knee: bool, limited: bool) -> None:
    path = tmp_path / "p.png"
    plot_profile(profile(knee=knee, limited=limited), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_svg_holds_the_words_a_reader_needs(tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    plot_profile(profile(), path)
    text = path.read_text()
    for words in ("knee 8", "TPOT p95, ms", "batch (requests in flight)", "95 % of the best"):
        assert words in text


def test_the_same_profile_gives_the_same_file(tmp_path: Path) -> None:
    plot_profile(profile(), tmp_path / "a.svg")
    plot_profile(profile(), tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        plot_profile(profile(), tmp_path / "p.pdf")


def test_a_profile_without_points_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no operating points"):
        plot_profile(dataclasses.replace(profile(), points=()), tmp_path / "p.png")


def test_several_are_told_apart_by_what_they_do_not_share(tmp_path: Path) -> None:
    other = dataclasses.replace(profile(), id="q", variant="fp8", model="smollm2-135m")
    path = tmp_path / "p.svg"
    plot([profile(), other], path, slo=Slo(1.0, 0.05))
    text = path.read_text()
    for words in ("fp8", "as it is", "SLO: 50 ms", "memory of the engine, GiB", "knee"):
        assert words in text
    assert text.count("smollm2-135m, cpu-test") == 1  # shared: in the title, once


def test_frontier_memory_says_whether_it_was_confirmed(tmp_path: Path) -> None:
    for confirmed in (True, False):
        memory = FrontierMemory(8, Bytes(GIB), Bytes(3 * GIB), 250.0, 3.0, 0, confirmed)
        path = tmp_path / f"{confirmed}.svg"
        plot_profile(dataclasses.replace(profile(), frontier_memory=memory), path)
        assert ("not confirmed" in path.read_text()) != confirmed


def test_too_many_and_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="told apart"):
        plot([profile()] * (MOST_PROFILES + 1), tmp_path / "p.png")
    with pytest.raises(InputError, match="no profile"):
        plot([], tmp_path / "p.png")
