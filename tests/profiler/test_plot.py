"""The plot of a profile is made, and readable in the format that its name says."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from partitiond.core.errors import InputError
from partitiond.core.model.spec import Slo
from partitiond.core.profile.confirmed import FrontierMemory
from partitiond.core.profile.frontier import find_knee
from partitiond.core.profile.record import Profile
from partitiond.core.units import GIB, Bytes
from partitiond.profiler.plot import plot_profile
from tests.controller.samples import measured_profile

MEASURED = ((1, 55), (2, 99), (4, 170), (8, 250), (11, 258), (16, 262), (32, 259))


def profile(*, knee: bool = True, limited: bool = False, **changes: Any) -> Profile:
    rows, made = MEASURED if knee else MEASURED[:4], measured_profile("smollm2-135m")
    points = []
    for batch, rate in rows:
        full = limited and batch == rows[-1][0]
        figures: dict[str, Any] = {"batch": batch, "output_tokens_per_s": rate, "kv_limited": full}
        points.append(dataclasses.replace(made.points[0], half_width=rate * 0.03, **figures))
    return dataclasses.replace(
        made, **{"points": tuple(points), "knee": find_knee(points), **changes}
    )


@pytest.mark.parametrize("knee", [True, False])
@pytest.mark.parametrize("limited", [True, False])
def test_png(tmp_path: Path, knee: bool, limited: bool) -> None:
    path = tmp_path / "p.png"
    plot_profile(profile(knee=knee, limited=limited), path)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_svg_holds_the_words_a_reader_needs_and_is_the_same_each_time(tmp_path: Path) -> None:
    plot_profile(profile(), tmp_path / "one.svg")
    text = (tmp_path / "one.svg").read_text()
    for words in ("knee 8", "TPOT p95, ms", "batch (requests in flight)", "95 % of the best"):
        assert words in text
    plot_profile(profile(), tmp_path / "again.svg")
    assert (tmp_path / "again.svg").read_text() == text


def test_frontier_memory_says_whether_it_was_confirmed(tmp_path: Path) -> None:
    for confirmed in (True, False):
        memory = FrontierMemory(8, Bytes(GIB), Bytes(3 * GIB), 250.0, 3.0, 0, confirmed)
        plot_profile(profile(frontier_memory=memory), tmp_path / "p.svg")
        assert ("not confirmed" in (tmp_path / "p.svg").read_text()) != confirmed


def test_the_bound_of_the_slo_and_the_form_are_named(tmp_path: Path) -> None:
    plot_profile(profile(variant="fp8"), tmp_path / "p.svg", slo=Slo(1.0, 0.05))
    text = (tmp_path / "p.svg").read_text()
    assert "SLO: 50 ms" in text
    assert "smollm2-135m, fp8, cpu-test" in text


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.png or \.svg"):
        plot_profile(profile(), tmp_path / "p.pdf")
    with pytest.raises(InputError, match="no operating points"):
        plot_profile(profile(points=()), tmp_path / "p.png")
