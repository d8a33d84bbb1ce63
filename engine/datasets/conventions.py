"""Are the numbers of boxes what their format says they are? [x1, y1, x2, y2] in a COCO file, the
upper left corner in YOLO's place of the centre: such boxes are numbers like any other, and most of
them would be cut at the edge of the image or dropped, one by one, in silence.

So boxes are counted by file, or by folder where every image has a file of its own: how many leave
the image by more than a little, have no area or swapped corners (`odd`), and how many would lie in
it if they had been written in another way (`fits`). Three things refuse a file:

- another order of numbers, in most odd boxes and in a large part of all;
- another reading (half a box away, axes exchanged, percent, thousandths) in all boxes, where the
  format's own leaves some out: it takes more evidence, since an honest box fits it often;
- a large part of boxes that would be lost, whatever they are.

The boxes around polygons, masks and turned boxes are counted apart: their numbers have no order,
but a unit, and x before y.

Honest boxes beyond the edge, drawn so or of objects that go on outside, fit none of the other
readings: half of them leave on the other side. What was measured stands in benchmarks/LOG.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.datasets.findings import Findings
from engine.datasets.formats import KINDS
from engine.datasets.formats.base import BoxNumbers, Row, SourceImage
from engine.types import Size

LEAST_ODD = 4  # fewer say nothing
LEAST_LEAVING = 3  # where all of twenty boxes fit another reading
STRONG_SHARE = 0.5  # of odd boxes, of which nearly all are boxes in another order
STRONG_TOGETHER = (8, 0.1)  # so many, if both pairs of numbers also go together, as corners do
GO_TOGETHER = 0.4  # correlation of two opposite corners; of a place and a size it is about 0
WEAK_SHARE = 0.02
UNITS_BOXES = 20
FAR = 0.85  # of a unit: how far some of twenty boxes reach, if it is the one they are written in
PX_FAR = 0.9  # the same of pixels in place of percent, of which less is needed to leave the image
PX_LEAVING = 0.1
SWAPPED = 0.1  # of sizes in the place of corners, at least
PX_BEYOND = 130  # percent
LOST = (20, 0.75)  # boxes that would be lost or cut, of all
WITHOUT_AREA = (20, 0.25)  # mistaken clicks are one in a hundred
EXPLAINED = 0.9  # of the odd boxes
CUT = 0.1  # of a box's area outside of the image is more than a shaky hand
NEAR_PX = 1.5  # rounding, and corners that count from 1
SPECK_FROM_PX = 64  # side of an image in which a box within the first pixel must be a mistake

IN_WORDS = {
    "xyxy": "corners x1, y1, x2, y2",
    "xywh": "upper left corner and size x, y, w, h",
    "cxcywh": "centre and size x, y, w, h",
    "xxyy": "edges x1, x2, y1, y2",
    "points": "points x, y",
}
ORDERS = ("xyxy", "xywh", "cxcywh", "xxyy")
UNITS = {
    "px": "pixels",
    "fraction": "fractions of the image",
    "percent": "percent of the image",
    "thousandth": "thousandths of the image",
}
_PER_IMAGE = {"fraction": 1.0, "percent": 100.0, "thousandth": 1000.0}


@dataclass(frozen=True)
class Reading:
    """A way to read four numbers."""

    numbers: BoxNumbers
    swapped: bool = False  # y before x
    weak: bool = False  # an honest box that leaves the image fits it often

    def __str__(self) -> str:
        order = IN_WORDS[self.numbers.order] + (", y before x," if self.swapped else "")
        return f"{order} in {UNITS[self.numbers.unit]}"

    def corners(self, raw: np.ndarray, sides: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """raw: (n, 4) as written; sides: (w, h) pixels. Upper left and lower right corners, (n, 2)
        each, in fractions of the image.
        """
        if self.numbers.order == "xxyy":
            raw = raw[:, [0, 2, 1, 3]]
        first, second = raw[:, :2], raw[:, 2:]
        if self.swapped:
            first, second = first[:, ::-1], second[:, ::-1]
        scale = sides if self.numbers.unit == "px" else _PER_IMAGE[self.numbers.unit]
        first, second = first / scale, second / scale
        if self.numbers.order == "xywh":
            return first, first + second
        if self.numbers.order == "cxcywh":
            return first - second / 2, first + second / 2
        return first, second


def as_written(numbers: BoxNumbers, rows: Sequence[Row], boxes: np.ndarray) -> np.ndarray:
    """(n, 4) numbers in the format's order, from (n, 4) xyxy in its unit. Where an order does not
    come back from a box, its row says it.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    pairs = {
        "xyxy": (low, high),
        "xywh": (low, high - low),
        "cxcywh": ((low + high) / 2, high - low),
        "points": (low, high),
    }
    raw = np.concatenate(pairs[numbers.order], 1)
    for index, row in enumerate(rows):
        if row.written is not None:
            raw[index] = row.written
    return raw


def other_readings(numbers: BoxNumbers) -> tuple[Reading, ...]:
    """What boxes may be that are not as a format has them, the likelier first."""
    unit, order = numbers.unit, numbers.order
    orders = (order, *(each for each in ORDERS if each != order))
    if order == "points":
        orders = ("points",)
    halves = {"xywh", "cxcywh"}  # half a box from each other
    found = [
        Reading(BoxNumbers(other, unit), weak={order, other} == halves) for other in orders[1:]
    ]
    if unit == "percent":  # honest boxes may lie so near the corner, or reach so far
        found += [Reading(BoxNumbers(each, "fraction"), weak=True) for each in orders]
        found += [Reading(BoxNumbers(each, "px"), weak=True) for each in orders]
    if unit == "px":
        likelier = ORDERS if order != "points" else orders
        found += [Reading(BoxNumbers(each, "fraction")) for each in likelier]
        found += [
            Reading(BoxNumbers(each, unit), True, weak=each == order)
            for each in orders
            if each != "xxyy" and {order, each} != halves  # of which honest ones fit many
        ]
        found += [
            Reading(BoxNumbers(each, "thousandth"), swapped, weak=True)
            for each in orders
            for swapped in (False, True)
        ]
        found += [Reading(BoxNumbers(each, "percent"), weak=True) for each in orders]
    return tuple(found)


@dataclass
class _Counts:
    """Of one file or folder; m: its other readings."""

    readings: int
    boxes: int = 0
    odd: int = 0
    leaving: int = 0  # beyond the edge at all
    axes: np.ndarray = field(default_factory=lambda: np.zeros(2, np.int64))  # of those, by axis
    lost: int = 0  # without area, or cut by more than CUT
    empty: int = 0  # without area
    # (m,) of all boxes, of the odd ones that have an area as they are read
    fits: np.ndarray = field(init=False)
    explained: np.ndarray = field(init=False)
    # (m, 2) how far the corners go in each of the other readings, in its unit; and of the side,
    # were these numbers pixels
    lowest: np.ndarray = field(init=False)
    highest: np.ndarray = field(init=False)
    reach: np.ndarray = field(init=False)
    # of the numbers as written
    smallest: float = np.inf
    largest: float = -np.inf
    top: float = -np.inf  # the largest corner, in the format's unit
    swapped: int = 0  # boxes whose second corner is not the lower right one
    # of the numbers of odd boxes, by axis: n, x, y, xx, yy, xy
    moments: np.ndarray = field(default_factory=lambda: np.zeros((6, 2)))
    edges: np.ndarray = field(default_factory=lambda: np.zeros((6, 2)))  # the same, as x1 x2 y1 y2
    first: tuple[str, int | None] = ("", None)  # the first odd box

    def __post_init__(self) -> None:
        self.fits = np.zeros(self.readings, np.int64)
        self.explained = np.zeros(self.readings, np.int64)
        self.lowest = np.full((self.readings, 2), np.inf)
        self.highest = np.full((self.readings, 2), -np.inf)
        self.reach = np.zeros((self.readings, 2))

    def add(self, other: _Counts) -> None:
        for name in (
            "boxes",
            "odd",
            "swapped",
            "leaving",
            "axes",
            "lost",
            "empty",
            "fits",
            "explained",
            "moments",
            "edges",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lowest = np.minimum(self.lowest, other.lowest)
        self.highest = np.maximum(self.highest, other.highest)
        self.reach = np.maximum(self.reach, other.reach)
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)
        self.top = max(self.top, other.top)
        self.first = self.first if self.first[0] else other.first

    def together(self, order: str) -> float:
        """The correlation of the first with the second corner in odd boxes, whose numbers are in
        this order; the smaller of both axes.
        """
        n, x, y, xx, yy, xy = self.edges if order == "xxyy" else self.moments
        spread = (n * xx - x * x) * (n * yy - y * y)
        common = n * xy - x * y
        return float(np.divide(common, np.sqrt(spread), np.zeros(2), where=spread > 1e-18).min())


def _moments(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(n, 2) each -> (6, 2): see `_Counts.moments`."""
    sums = (np.ones_like(x), x, y, x * x, y * y, x * y)
    return np.array([each.sum(0) for each in sums])


def conventions_of(format: str) -> Conventions | None:
    """For the boxes of a dataset in this format; None where nothing is known of its numbers."""
    kind = KINDS.get(format)
    return Conventions(kind.numbers, by_file=kind.many_in_file) if kind and kind.numbers else None


class Conventions:
    """Counts the boxes of one dataset while it is read, and says at its end what looks wrong.

    numbers: how the format writes boxes. by_file: one annotation file holds many images.
    """

    def __init__(self, numbers: BoxNumbers, *, by_file: bool) -> None:
        self._boxes = _Tally(numbers)
        self._outlines = _Tally(BoxNumbers("points", numbers.unit))
        self._by_file = by_file

    def add(self, image: SourceImage, size: Size) -> None:
        """size: (h, w) of the image as shown, for annotations that do not say theirs."""
        h, w = image.size or size
        key = image.origin if self._by_file else image.origin.rpartition("/")[0] or "."
        for tally, outline in ((self._boxes, False), (self._outlines, True)):
            rows = [row for row in image.rows if not row.crowd and row.outline is outline]
            if rows:
                boxes = np.array([row.box for row in rows], np.float64)
                boxes = boxes if image.fractions else boxes / (w, h, w, h)
                tally.add(key, image.origin, rows, boxes, np.array((w, h), np.float64))

    def report(self, findings: Findings) -> None:
        """Findings about the files or folders that look wrong, or about all boxes where only they
        together do. Call once, when all images were counted.
        """
        self._boxes.report(findings)
        self._outlines.report(findings)


class _Tally:
    """Counts boxes that are written in one way, by file or folder."""

    def __init__(self, numbers: BoxNumbers) -> None:
        self._own = Reading(numbers)
        self._others = other_readings(numbers)
        self._counts: dict[str, _Counts] = {}

    def add(
        self, key: str, origin: str, rows: Sequence[Row], boxes: np.ndarray, sides: np.ndarray
    ) -> None:
        """boxes: (n, 4) xyxy in fractions of the image. key: the file or folder they count for.
        origin: the file they are in. sides: (w, h) pixels.
        """
        boxes = np.clip(boxes * np.tile(self._scale(sides), 2), -1e9, 1e9)
        raw = as_written(self._own.numbers, rows, boxes)
        if key not in self._counts:
            self._counts[key] = _Counts(len(self._others))
        self._count(self._counts[key], origin, rows, raw, sides)

    def _count(
        self, to: _Counts, origin: str, rows: Sequence[Row], raw: np.ndarray, sides: np.ndarray
    ) -> None:
        low, high = self._own.corners(raw, sides)
        near = NEAR_PX / sides
        swapped = (high < low).any(1)
        if self._own.numbers.any_corners:
            low, high = np.minimum(low, high), np.maximum(low, high)
        ordered = ~(high < low).any(1)
        empty = ordered & ((high - low) * sides < 0.01).any(1)
        inside = np.clip(np.minimum(high, 1) - np.maximum(low, 0), 0, None).prod(1)
        area = (high - low).prod(1)
        beyond = (low < -near) | (high > 1 + near)  # (n, 2)
        cut = ordered & ~empty & beyond.any(1) & (inside < (1 - CUT) * area)
        speck = self._specks(raw, sides)
        odd = swapped | cut | speck
        faulty = odd | empty | beyond.any(1)
        to.boxes += len(rows)
        to.lost += int((empty | cut).sum())
        to.empty += int(empty.sum())
        to.odd += int(odd.sum())
        to.swapped += int(swapped.sum())
        to.top = max(to.top, (high * self._scale(sides)).max())
        to.leaving += int((odd | beyond.any(1)).sum())
        to.axes += (beyond | (high < low)).sum(0)
        to.smallest, to.largest = min(to.smallest, raw.min()), max(to.largest, raw.max())
        for index, reading in enumerate(self._others):
            a, b = reading.corners(raw, sides)
            fits = ((a >= -near) & (b <= 1 + near) & (b - a > 1e-6)).all(1)
            if reading.numbers.unit == "px":
                fits &= ~speck
            to.fits[index] += int(fits.sum())
            to.explained[index] += int((fits & odd).sum())
            unit = _PER_IMAGE.get(reading.numbers.unit, 1.0)
            a, b = a.min(0) * unit, b.max(0) * unit
            to.lowest[index] = np.minimum(to.lowest[index], a)
            to.highest[index] = np.maximum(to.highest[index], b)
            to.reach[index] = np.maximum(to.reach[index], b / sides)
        if not to.first[0] and faulty.any():
            row = rows[int(faulty.argmax())]
            to.first = (f"{origin}{f', {row.ref}' if row.ref else ''}", row.line)
        if odd.any():
            to.moments += _moments(raw[odd, :2], raw[odd, 2:])
            to.edges += _moments(raw[odd][:, [0, 2]], raw[odd][:, [1, 3]])

    def _scale(self, sides: np.ndarray) -> np.ndarray:
        """(2,) what a whole side is in the format's unit."""
        unit = self._own.numbers.unit
        return sides if unit == "px" else np.full(2, _PER_IMAGE[unit])

    def _specks(self, raw: np.ndarray, sides: np.ndarray) -> np.ndarray:
        """Boxes whose numbers are all within 0 to 1, where those are pixels of a larger image."""
        if self._own.numbers.unit != "px" or sides.min() < SPECK_FROM_PX:
            return np.zeros(len(raw), bool)
        return (raw >= 0).all(1) & (raw <= 1 + 1e-6).all(1) & (raw[:, 2:] > 0).all(1)

    # The end ------------------------------------------------------------------------------------

    def report(self, findings: Findings) -> None:
        """Findings about the files or folders that look wrong, or about all boxes where only they
        together do. Call once, when all images were counted.
        """
        said = [
            findings.add("other_convention", key, detail)
            for key, counts in self._counts.items()
            if (detail := self._wrong(counts))
        ]
        if not said and len(self._counts) > 1:
            whole = _Counts(len(self._others))
            for counts in self._counts.values():
                whole.add(counts)
            if detail := self._wrong(whole):
                findings.add("other_convention", "", f"of all together, {detail}")

    def _wrong(self, of: _Counts) -> str:
        """What is wrong with these boxes, a sentence; "" where nothing is."""
        best = self._likeliest(of)
        if best is not None:
            return (
                f"{self._said(of)} they look like {self._others[best]}: so read, {of.fits[best]:,} "
                f"of {of.boxes:,} boxes lie within their image"
            )
        if of.lost >= LOST[0] and of.lost >= LOST[1] * of.boxes:
            return f"{self._said(of)} {of.lost:,} of {of.boxes:,} would be cut or left out"
        if of.empty >= WITHOUT_AREA[0] and of.empty >= WITHOUT_AREA[1] * of.boxes:
            return f"{self._said(of)} {of.empty:,} of {of.boxes:,} have no area"
        return ""

    def _said(self, of: _Counts) -> str:
        place, line = of.first
        first = f", first {place}{f', line {line}' if line else ''}" if place else ""
        count = max(of.odd, of.leaving, of.lost)
        odd = f"{count:,} of {of.boxes:,} boxes do not fit their image{first};" if count else ""
        return f"read as {self._own}, {odd or 'all boxes are in its upper left part;'}"

    def _likeliest(self, of: _Counts) -> int | None:
        """The other reading of which there is evidence, and which most boxes fit."""
        found = [
            index
            for index, reading in enumerate(self._others)
            if (self._is_weakly(of, index) if reading.weak else self._is_strongly(of, index))
        ]

        def rank(index: int) -> tuple[bool, bool, int, int]:
            strong = not self._others[index].weak
            return self._fills(of, index), strong, of.explained[index], of.fits[index]

        return max(found, key=rank, default=None)

    def _is_strongly(self, of: _Counts, index: int) -> bool:
        """Whether the odd boxes are many, and nearly all of them in another order or unit."""
        # Where corners may come in any order, swapped ones are no fault, only a hint.
        numbers, own = self._others[index].numbers, self._own.numbers
        least = UNITS_BOXES if own.any_corners and numbers.unit == own.unit else LEAST_ODD
        if of.odd < least or of.explained[index] < EXPLAINED * of.odd:
            return False
        share = of.odd / of.boxes
        many, part = STRONG_TOGETHER
        return share >= STRONG_SHARE or (
            of.odd >= many and share >= part and self._is_ordered(of, numbers)
        )

    def _is_ordered(self, of: _Counts, numbers: BoxNumbers) -> bool:
        """Whether the numbers of odd boxes go together as those of this order do, and those of the
        format's own do not.
        """
        if numbers.order in ("xyxy", "xxyy", "points"):
            return of.together(numbers.order) >= GO_TOGETHER
        own = self._own.numbers
        return own.order != "xyxy" or own.unit != numbers.unit or of.together("xyxy") < GO_TOGETHER

    def _is_weakly(self, of: _Counts, index: int) -> bool:
        """Whether all boxes fit another reading, and not the format's own."""
        numbers, own = self._others[index].numbers, self._own.numbers
        if own.unit != numbers.unit == "fraction":  # in place of percent
            within = of.smallest >= 0 and of.largest <= 1 + 1e-6 and of.boxes >= LEAST_ODD
            return within and of.fits[index] >= EXPLAINED * of.boxes
        if self._fills(of, index):
            return True
        missing = of.boxes - of.fits[index]
        if of.boxes < UNITS_BOXES or of.leaving < LEAST_LEAVING or missing * 20 > of.leaving:
            return False
        if numbers.unit != own.unit:
            whole, px = _PER_IMAGE.get(numbers.unit, 1.0), numbers.unit == "px"
            far = (of.highest[index] >= (PX_FAR if px else FAR) * whole).all()
            if px:  # an honest percentage may be a little above 100, and an image 100 pixels wide
                return bool(far) and of.top >= PX_BEYOND and of.odd >= PX_LEAVING * of.boxes
            return bool(far) and of.odd >= STRONG_SHARE * of.boxes
        half = numbers.order != own.order
        return of.leaving >= WEAK_SHARE * of.boxes and (not half or bool((of.axes > 0).all()))

    def _fills(self, of: _Counts, index: int) -> bool:
        """Whether all corners, read in percent or thousandths, go from about 0 to just below the
        unit in both directions, which is far from what images measure: as pixels they would keep
        out of the right and the lower part, or leave on one side only.
        """
        numbers = self._others[index].numbers
        if numbers.unit not in ("percent", "thousandth") or numbers.unit == self._own.numbers.unit:
            return False
        unit = _PER_IMAGE[numbers.unit]
        # Honest corners are sizes too, if they are all in the upper left part.
        if self._own.numbers.order == "xyxy" and numbers.order in ("xywh", "cxcywh"):
            if of.swapped < SWAPPED * of.boxes:
                return False
        low, high, reach = of.lowest[index], of.highest[index], of.reach[index]
        return (
            of.boxes >= UNITS_BOXES
            and (of.boxes - of.fits[index]) * 50 <= of.boxes
            and bool((low >= -1e-6).all() and (low <= 0.1 * unit).all())
            and bool((high >= FAR * unit).all() and (high <= 1.005 * unit).all())
            and bool(((reach <= 0.85) | (reach >= 1.25)).all())
        )
