"""The upright box around a shape: annotation tools also know turned rectangles, polygons and
ellipses.

Angles are degrees, clockwise as seen on the screen (y grows downwards).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

Box = tuple[float, float, float, float]  # xyxy
Point = tuple[float, float]


def around(points: Iterable[Point]) -> Box:
    """The box around at least one point."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def around_turned(box: Box, degrees: float, about: Point | None = None) -> Box:
    """The box around `box` turned by `degrees` about a point, or its own centre."""
    if degrees % 360 == 0:
        return box
    x1, y1, x2, y2 = box
    cx, cy = about or ((x1 + x2) / 2, (y1 + y2) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2))
    return around(
        (cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos)
        for x, y in corners
    )


def around_ellipse(centre: Point, radii: Point, degrees: float) -> Box:
    """The box around an ellipse turned about its centre."""
    (cx, cy), (rx, ry) = centre, radii
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_w, half_h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - half_w, cy - half_h, cx + half_w, cy + half_h
