"""A picture of a profile: throughput and TPOT p95 against batch, knee and frontier marked."""

from pathlib import Path
from typing import Any, Final

from partitiond.core.errors import InputError
from partitiond.core.frontier import frontier
from partitiond.core.profile import OperatingPoint, Profile, ProfileKind

SUFFIXES: Final = (".png", ".svg")
THROUGHPUT_COLOUR: Final = "#1f5fa8"
LATENCY_COLOUR: Final = "#c2551b"
KNEE_COLOUR: Final = "#3a8f4c"


def plot_profile(profile: Profile, path: Path) -> None:
    """Draw the profile into a PNG or SVG file, by the path's suffix.

    Raises:
        InputError: the suffix is neither .png nor .svg, or there is nothing to draw.
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

    figure = Figure(figsize=(8.0, 5.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw_throughput(axes, profile)
    latency_axes = axes.twinx()
    _draw_latency(latency_axes, profile.points)
    _draw_knee(axes, profile)
    _label(axes, latency_axes, profile)
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None
    # Words as text, and the same file for the same profile: a picture that can be diffed.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "partitiond"}):
        figure.savefig(path, dpi=144, metadata=metadata)


def _draw_throughput(axes: Any, profile: Profile) -> None:
    points = profile.points
    batches = [p.batch for p in points]
    rates = [p.output_tokens_per_s for p in points]
    widths = [p.half_width for p in points]
    axes.errorbar(
        batches,
        rates,
        yerr=widths,
        color=THROUGHPUT_COLOUR,
        marker="o",
        markersize=4,
        capsize=3,
        linewidth=1.6,
        label="throughput, 95 % interval",
        zorder=3,
    )
    on_frontier = frontier([p for p in points if not p.kv_limited])
    axes.plot(
        [p.batch for p in on_frontier],
        [p.output_tokens_per_s for p in on_frontier],
        linestyle="none",
        marker="o",
        markersize=9,
        markerfacecolor="none",
        markeredgecolor=THROUGHPUT_COLOUR,
        label="on the frontier",
        zorder=4,
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


def _draw_latency(axes: Any, points: tuple[OperatingPoint, ...]) -> None:
    axes.plot(
        [p.batch for p in points],
        [p.tpot.p95 * 1e3 for p in points],
        color=LATENCY_COLOUR,
        marker="s",
        markersize=3.5,
        linewidth=1.2,
        linestyle="--",
        label="TPOT p95",
    )


def _draw_knee(axes: Any, profile: Profile) -> None:
    knee = profile.knee
    if knee.batch is None:
        reason = knee.limited_by.value if knee.limited_by else "unknown"
        axes.plot([], [], linestyle="none", label=f"no knee: still growing ({reason})")
        return
    share = f"{100 * (1 - knee.tolerance):.0f} % of the best"
    if knee.low is not None and knee.high is not None and knee.high > knee.low:
        axes.axvspan(knee.low, knee.high, color=KNEE_COLOUR, alpha=0.12, linewidth=0)
    axes.axvline(
        knee.batch, color=KNEE_COLOUR, linewidth=1.6, label=f"knee {knee.batch} ({_range(profile)})"
    )
    axes.axhline(
        (1 - knee.tolerance) * knee.best_output_tokens_per_s,
        color=KNEE_COLOUR,
        linewidth=0.9,
        linestyle=":",
        label=share,
    )


def _range(profile: Profile) -> str:
    return f"{profile.knee.low} to {profile.knee.high}"


def _label(axes: Any, latency_axes: Any, profile: Profile) -> None:
    batches = [p.batch for p in profile.points]
    axes.set_xscale("log", base=2)
    axes.set_xticks(_ticks(batches), labels=[str(b) for b in _ticks(batches)])
    axes.minorticks_off()
    axes.set_xlabel("batch (requests in flight)")
    axes.set_ylabel("output tokens/s", color=THROUGHPUT_COLOUR)
    axes.set_ylim(bottom=0, top=1.12 * max(p.output_tokens_per_s for p in profile.points))
    latency_axes.set_ylabel("TPOT p95, ms", color=LATENCY_COLOUR)
    latency_axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
    weights = ", dummy weights" if profile.provenance.weights == "dummy" else ""
    kind = "" if profile.kind is ProfileKind.MEASURED else f", {profile.kind.value}"
    axes.set_title(
        f"{profile.model} on {profile.hardware}, {profile.size.key}, "
        f"{profile.workload.key} tokens{weights}{kind}",
        fontsize=10,
    )
    handles, labels = axes.get_legend_handles_labels()
    more_handles, more_labels = latency_axes.get_legend_handles_labels()
    axes.legend(
        handles + more_handles, labels + more_labels, loc="lower right", fontsize=8, framealpha=0.9
    )


def _ticks(batches: list[int]) -> list[int]:
    """Batches at least 1.4x apart: closer labels would overlap."""
    ticks: list[int] = []
    for batch in sorted(batches):
        if not ticks or batch >= 1.4 * ticks[-1]:
            ticks.append(batch)
    return ticks
