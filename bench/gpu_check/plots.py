"""Draws plots beside the report. Without matplotlib there are none; the tables hold all figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu_check.ledger import Ledger

SWEEPS = ("2.opt-125m", "6.opt-1.3b", "16.qwen3-0.6b")
COLOURS = ("#1f5fa8", "#c2551b", "#3a8f4c")


def draw(ledger: Ledger, folder: Path) -> dict[int, list[Path]]:
    """Draw all plots with data into folder/plots; return the files by step."""
    try:
        import matplotlib as mpl
    except ImportError:
        return {}
    plots = folder / "plots"
    plots.mkdir(exist_ok=True)
    with mpl.rc_context({"font.size": 9}):
        made = {
            2: _curves(ledger, SWEEPS, plots / "throughput-latency.png"),
            4: _bars(ledger, "4.", "replicas", plots / "replicas.png"),
            8: _bars(ledger, "8.", "SM %", plots / "sm-shares.png"),
            9: _bars(ledger, "9.", "replicas", plots / "opt-2.7b.png"),
        }
    return {number: [path] for number, path in made.items() if path is not None}


def _curves(ledger: Ledger, trials: Sequence[str], path: Path) -> Path | None:
    """Throughput over mean latency, a point per batch: the form of the paper's Figure 1."""
    curves = {name: ledger.data(name).get("curve") for name in trials}
    if not any(curves.values()):
        return None
    figure, axes = _axes()
    for (name, curve), colour in zip(curves.items(), COLOURS, strict=False):
        if not curve:
            continue
        x, y = [p["e2el"] for p in curve], [p["tokens_per_s"] for p in curve]
        axes.plot(x, y, "o-", color=colour, label=name.partition(".")[2])
        for point in curve:
            axes.annotate(f"{point['batch']:g}", (point["e2el"], point["tokens_per_s"]))
    axes.set_xlabel("mean end-to-end latency (s)")
    axes.set_ylabel("output tokens/s")
    axes.legend()
    figure.savefig(path, dpi=120)
    return path


def _bars(ledger: Ledger, prefix: str, key: str, path: Path) -> Path | None:
    """Throughput by the value of one column, sharing modes side by side."""
    rows = [
        row
        for name, entry in ledger.entries.items()
        if name.startswith(prefix)
        for row in entry.data.get("rows", [])
        if row.get(key) is not None
    ]
    if not rows:
        return None
    figure, axes = _axes()
    labels = [" ".join(filter(None, (f"{row[key]}", row.get("sharing")))) for row in rows]
    heights = [row["output tokens/s"] for row in rows]
    errors = [row.get("half width") or 0.0 for row in rows]
    axes.bar(labels, heights, yerr=errors, color=COLOURS[0], capsize=4)
    axes.set_xlabel(key)
    axes.set_ylabel("output tokens/s, all engines")
    figure.savefig(path, dpi=120)
    return path


def _axes() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
