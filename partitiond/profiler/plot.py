"""Draws a profile: throughput and TPOT against batch, and throughput against memory.

The left panels show where more concurrent requests stop paying, the right one their cost in memory.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import InputError
from partitiond.core.model.spec import Slo
from partitiond.core.profile.frontier import frontier
from partitiond.core.profile.points import Latency
from partitiond.core.profile.record import Profile, ProfileKind
from partitiond.core.units import GIB

SUFFIXES: Final = (".png", ".svg")
COLOUR: Final = "#1f5fa8"
SLO_COLOUR: Final = "#b3261e"


def plot_profile(profile: Profile, path: Path, slo: Slo | None = None) -> None:
    """Draw a profile into a PNG or SVG file, by the path's suffix.

    Args:
        profile: its points are drawn.
        path: file to write.
        slo: its TPOT bound is drawn as a line.

    Raises:
        InputError: the suffix is neither .png nor .svg, or the profile has no points.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(
            f"cannot draw into {path.name!r}.", hint=f"End the name in {' or '.join(SUFFIXES)}."
        )
    if not profile.points:
        raise InputError(f"profile {profile.id} has no operating points.", hint="Measure it again.")
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
        _draw_throughput(speed, profile)
        _draw_tpot(tpot, profile)
        _draw_memory(memory, profile)
        _finish_batches(speed, tpot, profile, slo)
        _finish_memory(memory, profile)
        figure.suptitle(_title(profile), fontsize=10)
        metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
        figure.savefig(path, dpi=144, metadata=metadata)


def _title(profile: Profile) -> str:
    words = [profile.model, profile.variant, profile.hardware, profile.size.key]
    words += [f"{profile.workload.key} tokens"]
    words += ["dummy weights"] if profile.provenance.weights == "dummy" else []
    words += [profile.kind.value] if profile.kind is not ProfileKind.MEASURED else []
    return ", ".join(word for word in words if word)


# --- curves ----------------------------------------------------------------------------------


def _draw_throughput(axes: Any, profile: Profile) -> None:
    points = sorted(profile.points, key=lambda p: p.batch)
    axes.errorbar(
        [p.batch for p in points],
        [p.output_tokens_per_s for p in points],
        yerr=[p.half_width for p in points],
        color=COLOUR,
        marker="o",
        markersize=4,
        capsize=2.5,
        linewidth=1.6,
        label="throughput, 95 % interval",
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
            label="limited by the KV cache",
            zorder=4,
        )
    _draw_knee(axes, profile)


def _draw_knee(axes: Any, profile: Profile) -> None:
    knee = profile.knee
    if knee.batch is None:
        reason = knee.limited_by.value if knee.limited_by else "unknown"
        axes.plot([], [], linestyle="none", label=f"no knee: still growing ({reason})")
        return
    if knee.low is not None and knee.high is not None and knee.high > knee.low:
        axes.axvspan(knee.low, knee.high, color=COLOUR, alpha=0.10, linewidth=0)
    span = f" ({knee.low} to {knee.high})" if knee.low != knee.high else ""
    axes.axvline(
        knee.batch, color=COLOUR, linewidth=1.3, linestyle="--", label=f"knee {knee.batch}{span}"
    )
    axes.axhline(
        (1 - knee.tolerance) * knee.best_output_tokens_per_s,
        color=COLOUR,
        linewidth=0.9,
        linestyle=":",
        label=f"{100 * (1 - knee.tolerance):.0f} % of the best",
    )


def _draw_tpot(axes: Any, profile: Profile) -> None:
    points = sorted(profile.points, key=lambda p: p.batch)
    axes.errorbar(
        [p.batch for p in points],
        [p.tpot.p95 * 1e3 for p in points],
        yerr=_around([p.tpot for p in points]),
        color=COLOUR,
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


def _draw_memory(axes: Any, profile: Profile) -> None:
    points = sorted(profile.points, key=lambda p: p.footprint_bytes)
    axes.plot(
        [p.footprint_bytes / GIB for p in points],
        [p.output_tokens_per_s for p in points],
        linestyle="none",
        marker="o",
        markersize=4,
        color=COLOUR,
        alpha=0.45,
        label="measured",
    )
    on_frontier = frontier([p for p in points if not p.kv_limited])
    axes.plot(
        [p.footprint_bytes / GIB for p in on_frontier],
        [p.output_tokens_per_s for p in on_frontier],
        marker="o",
        markersize=5,
        linewidth=1.6,
        color=COLOUR,
        label="frontier",
    )
    knee = profile.point(profile.knee.batch) if profile.knee.batch is not None else None
    if knee is not None:
        axes.plot(
            [knee.footprint_bytes / GIB],
            [knee.output_tokens_per_s],
            color=COLOUR,
            label="knee",
            zorder=5,
            linestyle="none",
            marker="D",
            markersize=7,
            markerfacecolor="white",
            markeredgewidth=1.7,
        )
    _draw_frontier_memory(axes, profile)


def _draw_frontier_memory(axes: Any, profile: Profile) -> None:
    found = profile.frontier_memory
    if found is None:
        return
    word = "confirmed" if found.confirmed else "not confirmed"
    axes.axvline(
        found.footprint_bytes / GIB,
        color=COLOUR,
        linewidth=1.2,
        linestyle="-." if found.confirmed else ":",
        label=f"frontier memory, {word}",
    )


# --- axes ------------------------------------------------------------------------------------


def _finish_batches(speed: Any, tpot: Any, profile: Profile, slo: Slo | None) -> None:
    batches = sorted({p.batch for p in profile.points})
    highest = max(p.output_tokens_per_s for p in profile.points)
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


def _finish_memory(axes: Any, profile: Profile) -> None:
    highest = max(p.output_tokens_per_s for p in profile.points)
    axes.set_xlabel("memory of the engine, GiB")
    axes.set_ylabel("output tokens/s")
    axes.set_ylim(bottom=0, top=1.12 * highest)
    axes.margins(x=0.08)
    axes.grid(visible=True, alpha=0.25)
    axes.legend(loc="lower right", fontsize=8, framealpha=0.9)


def _ticks(batches: Sequence[int]) -> list[int]:
    """Return batches at least 1.3x apart: closer labels would overlap."""
    ticks: list[int] = []
    for batch in sorted(batches):
        if not ticks or batch >= 1.3 * ticks[-1]:
            ticks.append(batch)
    return ticks
