"""Charts as inline SVG, drawn from numbers. Colours are classes that the page's style defines for
light and dark; no script, no font, no file is needed to see them.

Every text that comes from outside (names of classes) is escaped here; what is returned is markup.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH, HEIGHT = 360, 230  # of a line chart, in units of its text: a phone shows them as pixels
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 10, 36
SERIES = 8  # colours that the style has


@dataclass(frozen=True)
class Line:
    """A line of a chart. None in `y`: not measured, the line is interrupted there."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]
    style: str = ""  # further classes: "strong", "faint", "dashed"


def line_chart(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    says: str,
    y_range: tuple[float, float] | None = None,
    legend: bool = True,
) -> Markup:
    """Lines over a common axis. says: what a reader who does not see it has to know."""
    points = [
        (x, y)
        for line in lines
        for x, y in zip(line.x, line.y)
        if y is not None and math.isfinite(y)
    ]
    if not points:
        return Markup("")
    xs, ys = zip(*points)
    x_ticks = ticks(min(xs), max(xs), 6)
    low, high = y_range or (min(0.0, *ys), max(ys))
    y_ticks = ticks(low, high, 6)
    left, right = min(xs), max(max(xs), min(xs) + 1e-9)
    bottom, top = min(low, y_ticks[0]), max(high, y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        return (
            LEFT + (x - left) / (right - left) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM),
        )

    parts = []
    for value in y_ticks:
        _, y = at(left, value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" ')
        parts.append(f'y2="{y:.1f}"/><text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" ')
        parts.append(f'text-anchor="end">{_short(value)}</text>')
    for value in x_ticks:
        if left <= value <= right:
            x, y = at(value, bottom)
            parts.append(f'<text class="tick" x="{x:.1f}" y="{y + 15:.1f}" ')
            parts.append(f'text-anchor="middle">{_short(value)}</text>')
    for number, line in enumerate(lines):
        for path in _paths(line, at):
            parts.append(f'<path class="line s{number % SERIES} {line.style}" d="{path}"/>')
    middle = (WIDTH + LEFT - RIGHT) / 2
    parts.append(f'<text class="name" x="{middle:.0f}" y="{HEIGHT - 4}" ')
    parts.append(f'text-anchor="middle">{escape(x_label)}</text>')
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(says)}">{"".join(parts)}</svg>'
    )
    named = [(number % SERIES, line) for number, line in enumerate(lines) if line.name]
    keys = "".join(
        f'<li><span class="key s{number} {line.style}"></span>{escape(line.name)}</li>'
        for number, line in named
    )
    head = f'<div class="ylabel">{escape(y_label)}</div>'
    return Markup(head + svg + (f'<ul class="legend">{keys}</ul>' if legend and keys else ""))


def _paths(line: Line, at) -> list[str]:
    """The pieces of a line between its gaps; a single point is a short stroke."""
    paths: list[list[tuple[float, float]]] = [[]]
    for x, y in zip(line.x, line.y):
        if y is None or not math.isfinite(y):
            paths.append([])
        else:
            paths[-1].append(at(x, y))
    return [
        "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in (path if len(path) > 1 else path * 2))
        for path in paths
        if path
    ]


def interval_mark(
    value: float | None,
    low: float | None,
    high: float | None,
    scale: tuple[float, float],
    zero: float | None = None,
) -> Markup:
    """A value with its interval on a scale that a column of a table shares, stretched to the width
    of its cell. zero: a line across all rows, for no difference.
    """
    if value is None:
        return Markup("")
    least, most = scale

    def at(x: float) -> str:
        place = 100 * min(max((x - least) / ((most - least) or 1), 0), 1)
        return f"{place:.2f}".rstrip("0").rstrip(".")

    parts = []
    if zero is not None and least <= zero <= most:
        parts.append(f'<line class="zero" x1="{at(zero)}" x2="{at(zero)}" y1="0" y2="20"/>')
    sign = ""
    if zero is not None and low is not None and high is not None:
        sign = " gain" if low > zero else " loss" if high < zero else ""
    if low is not None and high is not None:
        parts.append(f'<line class="span{sign}" x1="{at(low)}" x2="{at(high)}" y1="10" y2="10"/>')
    # A round mark would be stretched with the rest; a stroke keeps its width.
    parts.append(f'<line class="dot{sign}" x1="{at(value)}" x2="{at(value)}" y1="4.5" y2="15.5"/>')
    return Markup(
        '<svg class="mark" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )


def bar_mark(value: float | None, most: float, style: str = "") -> Markup:
    """A bar as long as `value` of `most`, stretched to the width of its cell."""
    if value is None or most <= 0:
        return Markup("")
    length = f"{100 * min(max(value / most, 0), 1):.4g}"
    return Markup(
        '<svg class="mark" viewBox="0 0 100 20" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="bar {style}" x="0" y="4" width="{length}" height="12"/></svg>'
    )


def scale_of(spans: Sequence[tuple[float | None, ...]], *also: float) -> tuple[float, float]:
    """The least and most of all values, with a little room on both sides."""
    values = [each for span in spans for each in span if each is not None] + list(also)
    if not values:
        return 0.0, 1.0
    room = 0.04 * ((max(values) - min(values)) or 1.0)
    return min(values) - room, max(values) + room


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """About so many round numbers (1, 2, 5 times a power of ten) that reach over both ends."""
    span = (high - low) or abs(high) or 1.0
    raw = span / max(wanted - 1, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)]


def _short(value: float) -> str:
    return f"{value:.10g}" if abs(value) < 1e5 else f"{value:.0e}"
