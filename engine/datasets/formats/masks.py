"""The box around a COCO `segmentation`: polygons, or a mask as run lengths, plain or compressed.

Run lengths go down the columns of the image, one after the other, and begin with those outside the
mask. Compressed, each is a row of characters of six bits (ASCII less 48): five bits of the number,
lowest first, and one that says whether more follow; from the fourth run on, what is written is the
difference to the run before last. So it is documented for the COCO API (maskApi). The mask itself
is never made: a file may claim any size.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from engine.datasets.formats.base import number, shown
from engine.datasets.formats.shapes import Box, around

MAX_DIGITS = 7  # of a compressed number: 35 bits, more than any image has pixels


def box_around(segmentation: Any) -> Box:
    """xyxy pixels of the box around polygons or a mask. ValueError says why there is none."""
    if isinstance(segmentation, dict):
        return _around_runs(segmentation)
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("there are no polygons and no mask")
    points = []
    for polygon in segmentation:
        values = list(map(number, polygon)) if isinstance(polygon, list) else [None]
        if len(values) < 6 or len(values) % 2 or None in values:
            raise ValueError(f"{shown(str(polygon))} is no polygon [x, y, x, y, x, y, ...]")
        points += zip(values[::2], values[1::2], strict=True)
    return around(points)


def _around_runs(mask: dict[str, Any]) -> Box:
    size, counts = mask.get("size"), mask.get("counts")
    if not isinstance(size, list) or len(size) != 2 or not all(_is_count(n) and n for n in size):
        raise ValueError(f"the mask's size {shown(str(size))} is not [height, width]")
    h, w = size
    lengths = list(_decoded(counts)) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(map(_is_count, lengths)):
        raise ValueError("the mask's counts are no run lengths")
    ends = list(accumulate(lengths))
    if not ends or ends[-1] != h * w:
        raise ValueError(
            f"the mask's runs are {ends[-1] if ends else 0} pixels, {h} x {w} has {h * w}"
        )
    # every second run is of the mask
    runs = [(a, b - 1) for a, b in zip(ends[::2], ends[1::2], strict=False) if b > a]
    if not runs:
        raise ValueError("the mask is empty")
    # A run that goes on in the next column touches the lower edge of one, the upper of the other.
    top = min(0 if a // h != b // h else a % h for a, b in runs)
    bottom = max(h - 1 if a // h != b // h else b % h for a, b in runs)
    return float(runs[0][0] // h), float(top), runs[-1][1] // h + 1.0, bottom + 1.0


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _decoded(text: str) -> Iterator[int]:
    """The run lengths of a compressed mask. ValueError for a text that is none."""
    before = [0, 0]  # the last two
    value = digits = place = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or digits == MAX_DIGITS:
            raise ValueError(f"the mask's counts {shown(text)} are no compressed run lengths")
        value |= (bits & 31) << 5 * digits
        digits += 1
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << 5 * digits  # the highest bit is the sign
        if place > 2:
            value += before[0]
        yield value
        before = [before[1], value]
        value, digits, place = 0, 0, place + 1
    if digits:
        raise ValueError("the mask's counts end within a number")
