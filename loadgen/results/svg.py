"""Draws line charts as SVG text, for a report that needs no network and no plotting library.

Colours are CSS classes (`s0` to `s7`) so that the page can set them for light and dark.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

Point = tuple[float, float]

WIDTH: Final = 560
HEIGHT: Final = 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 34, 44
COLOURS: Final = 8
SMALLEST: Final = 1e-12
"""Values below it count as 0: nothing that is plotted is measured so finely."""


@dataclasses.dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Attributes:
        label: text for the legend.
        points: growing in x.
        step: hold each value until the next point.
        fill: tint the area below.
        colour: index of the page's colours, modulo `COLOURS`.
    """

    label: str
    points: Sequence[Point]
    step: bool = False
    fill: bool = False
    colour: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class _Axis:
    low: float
    high: float
    log: bool
    start: float
    end: float

    def at(self, value: float) -> float:
        if self.log:
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)


def chart(
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    log_x: bool = False,
    legend_left: bool = False,
) -> str:
    """A chart of these series; without points it says "no values" instead of an empty frame."""
    drawn = [s for s in series if s.points]
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
        f'<text class="title" x="{_LEFT}" y="18">{escape(title)}</text>',
    ]
    if not drawn:
        parts.append(f'<text class="tick" x="{_LEFT}" y="{HEIGHT / 2}">no values</text></svg>')
        return "".join(parts)
    x_axis = _x_axis((x for s in drawn for x, _ in s.points), log_x)
    y_axis = _y_axis(y for s in drawn for _, y in s.points)
    parts += _frame(x_axis, y_axis, x_label, y_label)
    parts += [_line(s, x_axis, y_axis) for s in drawn]
    parts += _legend(drawn, left=legend_left)
    return "".join(parts) + "</svg>"


def _x_axis(values: Iterable[float], log: bool) -> _Axis:
    known = [value for value in values if not log or value > SMALLEST]
    low, high = min(known, default=1.0), max(known, default=1.0)
    if log:
        low, high = low / 1.05, high * 1.05
    elif high - low <= 1e-9 * max(1e-3, abs(low), abs(high)):
        low, high = low - 0.5, high + 0.5
    return _Axis(low, high, log, _LEFT, WIDTH - _RIGHT)


def _y_axis(values: Iterable[float]) -> _Axis:
    high = max(values)
    ticks = linear_ticks(0.0, high if high > SMALLEST else 1.0)
    return _Axis(0.0, max(ticks[-1], high), False, HEIGHT - _BOTTOM, _TOP)


def linear_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers that cover [low, high], steps of 1, 2 or 5 times a power of ten."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten within [low, high]; powers alone over many decades, and
    evenly spaced round numbers over less than one decade."""
    if high / low < 4:
        return [tick for tick in linear_ticks(low, high) if low <= tick <= high]
    factors = (1, 2, 5) if high / low < 1e3 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [10.0**decade * factor for decade in decades for factor in factors]
    return [tick for tick in ticks if low <= tick <= high]


def _frame(x_axis: _Axis, y_axis: _Axis, x_label: str, y_label: str) -> list[str]:
    parts = []
    for tick in linear_ticks(y_axis.low, y_axis.high):
        if tick <= y_axis.high * (1 + 1e-9):
            y = y_axis.at(tick)
            parts.append(_rule(_LEFT, y, WIDTH - _RIGHT, y))
            parts.append(_text(_LEFT - 6, y + 4, short(tick), "end"))
    ticks = (log_ticks if x_axis.log else linear_ticks)(x_axis.low, x_axis.high)
    for tick in ticks:
        if x_axis.low <= tick <= x_axis.high:
            x = x_axis.at(tick)
            parts.append(_rule(x, HEIGHT - _BOTTOM, x, HEIGHT - _BOTTOM + 4))
            parts.append(_text(x, HEIGHT - _BOTTOM + 17, short(tick), "middle"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(_text(middle, HEIGHT - 8, x_label, "middle"))
    centre = (_TOP + HEIGHT - _BOTTOM) / 2
    turn = f' transform="rotate(-90 13 {centre:.0f})"'
    parts.append(_text(13, centre, y_label, "middle", turn))
    return parts


def _line(series: Series, x_axis: _Axis, y_axis: _Axis) -> str:
    points = [
        (x_axis.at(x), y_axis.at(y)) for x, y in series.points if not x_axis.log or x > SMALLEST
    ]
    if not points:
        return ""
    moves = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for x, y in points[1:]:
        moves.append(f"H{x:.1f}V{y:.1f}" if series.step else f"L{x:.1f} {y:.1f}")
    path, colour = "".join(moves), f"s{series.colour % COLOURS}"
    area = ""
    if series.fill:
        base = y_axis.start
        closed = f"{path}V{base:.1f}H{points[0][0]:.1f}Z"
        area = f'<path class="area {colour}" d="{closed}" stroke="none"/>'
    return f'{area}<path class="line {colour}" d="{path}" fill="none"/>'


def _legend(series: Sequence[Series], *, left: bool) -> list[str]:
    parts = []
    for row, one in enumerate(s for s in series if s.label):
        y, colour = _TOP + 10 + 15 * row, f"s{one.colour % COLOURS}"
        x = _LEFT + 8 if left else WIDTH - _RIGHT - 26
        parts.append(f'<path class="line {colour}" d="M{x} {y}H{x + 18}" fill="none"/>')
        anchor = "start" if left else "end"
        parts.append(_text(x + (24 if left else -6), y + 4, one.label[:40], anchor))
    return parts


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path class="rule" d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'


def _text(x: float, y: float, text: str, anchor: str, more: str = "") -> str:
    return (
        f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>'
        f"{escape(text)}</text>"
    )


def short(value: float) -> str:
    """A number as text for an axis: 12000 is 12k."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:.4g}M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.4g}"
