"""Draws profiles: throughput and TPOT against batch, and throughput against memory.

A picture shows one profile, or several laid over each other; all panels share the colours. The left
panels show where more concurrent requests stop paying, the right one their cost in memory.
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import InputError
from partitiond.core.model.spec import Slo
from partitiond.core.profile.frontier import frontier
from partitiond.core.profile.points import Latency
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB

SUFFIXES: Final = (".png", ".svg")
COLOURS: Final = (
    "#1f5fa8", "#c2551b", "#3a8f4c", "#7a4fa3", "#b08a00", "#2a9d9d", "#a83a6a", "#5a5a5a",
)  # fmt: skip
"""Of about equal weight on white, and distinguishable without red and green side by side."""
MOST_PROFILES: Final = len(COLOURS)
SLO_COLOUR: Final = "#b3261e"
_HOLLOW: Final[dict[str, Any]] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 7,
    "markerfacecolor": "white",
    "markeredgewidth": 1.7,
}


@dataclasses.dataclass(frozen=True, slots=True)
class _Curve:
    """One profile as drawn."""

    profile: Profile
    colour: str
    label: str
    alone: bool


def plot_profile(profile: Profile, path: Path, slo: Slo | None = None) -> None:
    """Draw one profile into a PNG or SVG file; see `plot`."""
    plot((profile,), path, slo=slo)


def plot(profiles: Sequence[Profile], path: Path, *, slo: Slo | None = None) -> None:
    """Draw profiles into a PNG or SVG file, by the path's suffix.

    Args:
        profiles: one, or several to lay over each other.
        path: file to write.
        slo: its TPOT bound is drawn as a line.

    Raises:
        InputError: the suffix is neither .png nor .svg, or there is nothing (or too much) to draw.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"cannot draw into {path.name!r}.", hint=f"End the name in {' or '.join(SUFFIXES)}."
        )
    _check(profiles)
    # Imported here because matplotlib takes most of a second, and only this function needs it.
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Text stays text, and the same profiles give the same file, so that a picture can be diffed.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "partitiond", "font.size": 9}):
        figure = Figure(figsize=(11.0, 5.6), layout="constrained")
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1), height_ratios=(1.5, 1))
        speed = figure.add_subplot(grid[0, 0])
        tpot = figure.add_subplot(grid[1, 0], sharex=speed)
        memory = figure.add_subplot(grid[:, 1])
        curves = _curves(profiles)
        for curve in curves:
            _draw_throughput(speed, curve)
            _draw_tpot(tpot, curve)
            _draw_memory(memory, curve)
        _finish_batches(speed, tpot, profiles, slo)
        _finish_memory(memory, profiles)
        figure.suptitle(_title(profiles), fontsize=10)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=144, metadata=metadata)


def _check(profiles: Sequence[Profile]) -> None:
    if not profiles:
        raise InputError("there is no profile to draw.", hint="Name at least one.")
    if len(profiles) > MOST_PROFILES:
        raise InputError(
            f"{len(profiles)} profiles in one picture cannot be told apart.",
            hint=f"Draw at most {MOST_PROFILES}.",
        )
    for profile in profiles:
        if not profile.points:
            raise InputError(
                f"profile {profile.id} has no operating points.", hint="Measure it again."
            )


# --- labels ----------------------------------------------------------------------------------

_WORDS: Final[tuple[Callable[[Profile], str], ...]] = (
    lambda p: p.model,
    lambda p: p.variant or "as it is",
    lambda p: p.hardware,
    lambda p: p.size.key,
    lambda p: f"{p.workload.key} tokens",
    lambda p: p.dtype,
    lambda p: f"{p.kv_cache_dtype} KV",
    lambda p: f"{p.provenance.weights} weights",
    lambda p: p.kind.value,
    lambda p: p.provenance.engine_version or "no engine",
    lambda p: p.provenance.started_at[:16],
)
"""Words that can tell profiles apart, the most telling first."""


def _curves(profiles: Sequence[Profile]) -> list[_Curve]:
    """Label each profile by what it does not share with the others."""
    telling = [word for word in _WORDS if len({word(p) for p in profiles}) > 1]
    chosen = telling[:3] or [lambda p: p.model]
    alone = len(profiles) == 1
    return [
        _Curve(profile, COLOURS[i], ", ".join(word(profile) for word in chosen), alone)
        for i, profile in enumerate(profiles)
    ]


def _title(profiles: Sequence[Profile]) -> str:
    """Name what all of the profiles share."""
    first = profiles[0]
    shared = [word(first) for word in _WORDS[:5] if len({word(p) for p in profiles}) == 1]
    shared = [word for word in shared if word != "as it is"]
    if all(p.provenance.weights == "dummy" for p in profiles):
        shared.append("dummy weights")
    if first.kind is not ProfileKind.MEASURED and len({p.kind for p in profiles}) == 1:
        shared.append(first.kind.value)
    return ", ".join(shared) or "profiles"


# --- curves ----------------------------------------------------------------------------------


def _draw_throughput(axes: Any, curve: _Curve) -> None:
    points = sorted(curve.profile.points, key=lambda p: p.batch)
    label = "throughput, 95 % interval" if curve.alone else curve.label
    axes.errorbar(
        [p.batch for p in points],
        [p.output_tokens_per_s for p in points],
        yerr=[p.half_width for p in points],
        color=curve.colour,
        marker="o",
        markersize=4,
        capsize=2.5,
        linewidth=1.6,
        label=label,
        zorder=3,
    )
    limited = [p for p in points if p.kv_limited]
    if limited:
        axes.plot(
            [p.batch for p in limited],
            [p.output_tokens_per_s for p in limited],
            linestyle="none",
            marker="x",
            markersize=9,
            color="black",
            label="limited by the KV cache" if curve.alone else "_",
            zorder=4,
        )
    _draw_knee(axes, curve)


def _draw_knee(axes: Any, curve: _Curve) -> None:
    knee, colour = curve.profile.knee, curve.colour
    if knee.batch is None:
        if curve.alone:
            reason = knee.limited_by.value if knee.limited_by else "unknown"
            axes.plot([], [], linestyle="none", label=f"no knee: still growing ({reason})")
        return
    if not curve.alone:
        _mark_knee(axes, curve)
        return
    if knee.low is not None and knee.high is not None and knee.high > knee.low:
        axes.axvspan(knee.low, knee.high, color=colour, alpha=0.10, linewidth=0)
    span = f" ({knee.low} to {knee.high})" if knee.low != knee.high else ""
    axes.axvline(
        knee.batch, color=colour, linewidth=1.3, linestyle="--", label=f"knee {knee.batch}{span}"
    )
    axes.axhline(
        (1 - knee.tolerance) * knee.best_output_tokens_per_s,
        color=colour,
        linewidth=0.9,
        linestyle=":",
        label=f"{100 * (1 - knee.tolerance):.0f} % of the best",
    )


def _mark_knee(axes: Any, curve: _Curve) -> None:
    """Mark the knee on its curve, with its range as a bar: shades of several curves would mix."""
    knee = curve.profile.knee
    point = None if knee.batch is None else curve.profile.point(knee.batch)
    if point is None:
        return
    rate = point.output_tokens_per_s
    if knee.low is not None and knee.high is not None:
        axes.plot(
            [knee.low, knee.high], [rate, rate], color=curve.colour, linewidth=7, alpha=0.22,
            solid_capstyle="butt", label="_", zorder=2,
        )  # fmt: skip
    _diamond(axes, point.batch, rate, curve.colour, "_")


def _diamond(axes: Any, x: float, y: float, colour: str, label: str) -> None:
    axes.plot(
        [x],
        [y],
        color=colour,
        label=label,
        zorder=5,
        **_HOLLOW,
    )


def _draw_tpot(axes: Any, curve: _Curve) -> None:
    points = sorted(curve.profile.points, key=lambda p: p.batch)
    axes.errorbar(
        [p.batch for p in points],
        [p.tpot.p95 * 1e3 for p in points],
        yerr=_around([p.tpot for p in points]),
        color=curve.colour,
        marker="s",
        markersize=3.5,
        capsize=2,
        linewidth=1.3,
        label="_",
    )


def _around(latencies: Sequence[Latency]) -> list[list[float]]:
    """Return distances in ms from p95 down and up to the ends of its interval; 0 without an
    interval.
    """
    down, up = [], []
    for latency in latencies:
        low, high = latency.p95_interval or (latency.p95, latency.p95)
        down.append(max(0.0, latency.p95 - low) * 1e3)
        up.append(max(0.0, high - latency.p95) * 1e3)
    return [down, up]


def _draw_memory(axes: Any, curve: _Curve) -> None:
    profile = curve.profile
    points = sorted(profile.points, key=lambda p: p.footprint_bytes)
    axes.plot(
        [p.footprint_bytes / GIB for p in points],
        [p.output_tokens_per_s for p in points],
        linestyle="none",
        marker="o",
        markersize=4,
        color=curve.colour,
        alpha=0.45,
        label="measured" if curve.alone else "_",
    )
    on_frontier = frontier([p for p in points if not p.kv_limited])
    axes.plot(
        [p.footprint_bytes / GIB for p in on_frontier],
        [p.output_tokens_per_s for p in on_frontier],
        marker="o",
        markersize=5,
        linewidth=1.6,
        color=curve.colour,
        label="frontier" if curve.alone else "_",
    )
    knee = profile.point(profile.knee.batch) if profile.knee.batch is not None else None
    if knee is not None:
        label = "knee" if curve.alone else "_"
        x = knee.footprint_bytes / GIB
        _diamond(axes, x, knee.output_tokens_per_s, curve.colour, label)
    _draw_frontier_memory(axes, curve)


def _draw_frontier_memory(axes: Any, curve: _Curve) -> None:
    found = curve.profile.frontier_memory
    if found is None:
        return
    word = "confirmed" if found.confirmed else "not confirmed"
    axes.axvline(
        found.footprint_bytes / GIB,
        color=curve.colour,
        linewidth=1.2,
        linestyle="-." if found.confirmed else ":",
        label=f"frontier memory, {word}" if curve.alone else "_",
    )


# --- axes ------------------------------------------------------------------------------------


def _finish_batches(speed: Any, tpot: Any, profiles: Sequence[Profile], slo: Slo | None) -> None:
    batches = sorted({p.batch for profile in profiles for p in profile.points})
    highest = max(p.output_tokens_per_s for profile in profiles for p in profile.points)
    speed.set_xscale("log", base=2)
    speed.minorticks_off()
    ticks = _ticks(batches)
    speed.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    tpot.minorticks_off()
    speed.tick_params(labelbottom=False)
    speed.set_ylabel("output tokens/s")
    speed.set_ylim(bottom=0, top=1.12 * highest)
    speed.grid(visible=True, alpha=0.25)
    speed.legend(loc="lower right", fontsize=8, framealpha=0.9)
    tpot.set_xlabel("batch (requests in flight)")
    tpot.set_ylabel("TPOT p95, ms")
    tpot.grid(visible=True, alpha=0.25)
    if slo is not None:
        tpot.axhline(
            slo.tpot_seconds * 1e3,
            color=SLO_COLOUR,
            linewidth=1.2,
            label=f"SLO: {slo.tpot_seconds * 1e3:g} ms",
        )
        tpot.legend(loc="upper left", fontsize=8, framealpha=0.9)
    tpot.set_ylim(bottom=0)


def _finish_memory(axes: Any, profiles: Sequence[Profile]) -> None:
    highest = max(p.output_tokens_per_s for profile in profiles for p in profile.points)
    axes.set_xlabel("memory of the engine, GiB")
    axes.set_ylabel("output tokens/s")
    axes.set_ylim(bottom=0, top=1.12 * highest)
    axes.margins(x=0.08)
    axes.grid(visible=True, alpha=0.25)
    if len(profiles) > 1:  # colours are explained on the left
        axes.plot([], [], color="#444444", marker="o", markersize=5, label="frontier")
        axes.plot([], [], color="#444444", **_HOLLOW, label="knee")
        if any(p.frontier_memory is not None for p in profiles):
            axes.plot([], [], color="#444444", linestyle="-.", label="frontier memory, confirmed")
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9)


def _ticks(batches: Sequence[int]) -> list[int]:
    """Return batches at least 1.3x apart: closer labels would overlap."""
    ticks: list[int] = []
    for batch in sorted(batches):
        if not ticks or batch >= 1.3 * ticks[-1]:
            ticks.append(batch)
    return ticks
