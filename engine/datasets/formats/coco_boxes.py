"""The boxes of one COCO file as plain numbers, about 60 bytes each: in the file's order while they
are added, by image once they are sorted.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from engine.datasets.formats.base import Row
from engine.datasets.formats.json_stream import Item


def is_id(value: Any) -> bool:
    """Whether a JSON value can be an id: a whole number of at most 64 bits, and not true or
    false.
    """
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63


class CocoBoxes:
    """The boxes of one file as plain numbers: in the file's order while they are added, by image
    once they are sorted.
    """

    CROWD, OWN_ID, USABLE = 1, 2, 4

    def __init__(self, categories: dict[int, str]) -> None:
        self._names = list(categories.values())  # unknown ones come behind
        self._number: dict[int | None, int] = {key: number for number, key in enumerate(categories)}
        self.images, self.columns = np.zeros(0, np.int64), ()  # once they are sorted
        self._start()

    def _start(self) -> None:
        self._xyxy = array("d")
        self._image, self._ref = (
            array("q"),
            array("q"),
        )  # ref: the annotation's id, or its place in the list
        self._name, self._line = array("i"), array("i")
        self._flags = array("b")

    def add(self, item: Item, image: int | None, box: list[Any]) -> None:
        """image: None: only remembered, for `ref` and for who has the same id. box: [x, y, w,
        h].
        """
        key, category = item.value.get("id"), item.value.get("category_id")
        x, y, w, h = box if image is not None else (0, 0, 0, 0)
        flags = self.CROWD * (item.value.get("iscrowd") == 1) + self.OWN_ID * is_id(key)
        self._xyxy.extend((x, y, x + w, y + h))
        self._image.append(image or 0)
        self._ref.append(key if is_id(key) else item.position)
        self._name.append(self._name_number(category if is_id(category) else None))
        self._line.append(item.line)
        self._flags.append(flags + self.USABLE * (image is not None))

    def _name_number(self, category: int | None) -> int:
        """An id without category stays visible: `unknown_class` decides about it like about any
        other name.
        """
        if category not in self._number:
            self._number[category] = len(self._names)
            self._names.append("no category_id" if category is None else f"category_id {category}")
        return self._number[category]

    def ref(self, row: int) -> str:
        """What people call it."""
        return self._called(self._ref[row], self._flags[row])

    def sort(self) -> list[tuple[str, int]]:
        """Put the boxes in the order of the images; the names and lines of those left out, whose id
        is taken.
        """
        flags, ref = np.frombuffer(self._flags, np.int8), np.frombuffer(self._ref, np.int64)
        (own,) = np.nonzero(flags & self.OWN_ID)
        own = own[np.argsort(ref[own], kind="stable")]
        repeats = np.sort(own[1:][ref[own[1:]] == ref[own[:-1]]])
        usable = (flags & self.USABLE) > 0
        usable[repeats] = False
        (kept,) = np.nonzero(usable)
        image = np.frombuffer(self._image, np.int64)[kept]
        order = np.argsort(image, kind="stable")
        kept, self.images = kept[order], image[order]
        xyxy = np.frombuffer(self._xyxy, np.float64).reshape(-1, 4)
        name, line = np.frombuffer(self._name, np.int32), np.frombuffer(self._line, np.int32)
        self.columns = tuple(column[kept] for column in (xyxy, name, ref, flags, line))
        left_out = [(self.ref(row), self._line[row]) for row in repeats.tolist()]
        self._start()
        return left_out

    def without_fractions(self) -> list[tuple[str, int]]:
        """Leave all boxes out, and give their names and lines, if none of the file is beyond 1 and
        some have an area.

        A single box in the first pixel of an image may be meant so; a whole file of them was
        written in fractions.
        """
        xyxy, _, ref, flags, line = self.columns
        sides = xyxy[:, 2:] - xyxy[:, :2]
        if not (sides > 0).all(1).any() or xyxy[:, :2].max() > 1 or sides.max() > 1 + 1e-9:
            return []
        left_out = [
            (self._called(r, f), n)
            for n, r, f in sorted(zip(line.tolist(), ref.tolist(), flags.tolist(), strict=True))
        ]
        self.images, self.columns = self.images[:0], tuple(column[:0] for column in self.columns)
        return left_out

    def of(self, image: int) -> tuple[Row, ...]:
        """The boxes of an image, in the order of the file. Once they are sorted."""
        begin, end = (
            np.searchsorted(self.images, image),
            np.searchsorted(self.images, image, "right"),
        )
        rows = zip(*(column[begin:end].tolist() for column in self.columns), strict=True)
        return tuple(
            Row(
                self._names[name],
                tuple(box),
                crowd=bool(flags & self.CROWD),
                line=line,
                ref=self._called(ref, flags),
            )
            for box, name, ref, flags, line in rows
        )

    def _called(self, ref: int, flags: int) -> str:
        return f"annotation {ref}" if flags & self.OWN_ID else f"annotations[{ref}]"
