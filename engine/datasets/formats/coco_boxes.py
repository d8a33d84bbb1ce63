"""The boxes of one COCO file as plain numbers, about 60 bytes each: in the file's order while they
are added, by image once they are sorted.
"""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np

from engine.datasets.formats.base import Row
from engine.datasets.formats.json_stream import Item
from engine.datasets.formats.shapes import Box
from engine.types import Size

Key = int | str

_SMALL = 1 << 62  # whole numbers below it stand for themselves


def id_of(value: Any) -> Key | None:
    """An id as it counts, None where it is none. A whole number (of at most 64 bits) is the same id
    as 1.0 and as the text "1", as tables write it; any other text is an id as it stands.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    elif isinstance(value, str):
        value = value.strip()
        if not value:
            return None
        if value.isdecimal() and value.isascii() and len(value) < 20 and str(int(value)) == value:
            value = int(value)
        else:
            return value
    if isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 63:
        return value
    return None


class ImageIds:
    """The ids of a file's images as numbers of 63 bits: themselves, where they are such numbers;
    only texts take memory of their own.
    """

    def __init__(self) -> None:
        self._number: dict[Key, int] = {}

    def add(self, key: Key) -> int:
        """The number of an id, for an image's entry."""
        if isinstance(key, int) and -_SMALL <= key < _SMALL:
            return key
        return self._number.setdefault(key, _SMALL + len(self._number))

    def of(self, key: Key | None) -> int | None:
        """The number of an id; None where it is none, or a text that no image has."""
        if isinstance(key, int) and -_SMALL <= key < _SMALL:
            return key
        return self._number.get(key)


def is_crowd(value: Any) -> bool:
    return value in (1, "1")


class CocoBoxes:
    """The boxes of one file as plain numbers: in the file's order while they are added, by image
    once they are sorted.
    """

    CROWD, OWN_ID, USABLE, OUTLINE = 1, 2, 4, 8

    def __init__(self, categories: dict[Key, str]) -> None:
        self._names = list(categories.values())  # unknown ones come behind
        self._number: dict[Key | None, int] = {key: number for number, key in enumerate(categories)}
        self._sizes: dict[Size | None, int] = {None: 0}  # of masks
        self._size_list: list[Size | None] = []
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
        self._mask = array("i")  # its place in `_sizes`

    def add(
        self,
        item: Item,
        image: int | None,
        box: Box | None,
        *,
        outline: bool = False,
        mask: Size | None = None,
    ) -> None:
        """image: None: only remembered, for `ref` and for who has the same id. box: xyxy.
        outline: the box is the one around a polygon or a mask. mask: (h, w) of that mask.
        """
        key = id_of(item.value.get("id"))
        own = isinstance(key, int)  # a text is not held: its place in the list says enough
        flags = self.CROWD * is_crowd(item.value.get("iscrowd")) + self.OWN_ID * own
        flags += self.OUTLINE * outline
        self._xyxy.extend(box if image is not None else (0, 0, 0, 0))
        self._image.append(image or 0)
        self._ref.append(key if own else item.position)
        self._name.append(self._name_number(id_of(item.value.get("category_id"))))
        self._line.append(item.line)
        self._flags.append(flags + self.USABLE * (image is not None))
        self._mask.append(self._sizes.setdefault(mask, len(self._sizes)))

    def _name_number(self, category: Key | None) -> int:
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
        mask = np.frombuffer(self._mask, np.int32)
        self.columns = tuple(column[kept] for column in (xyxy, name, ref, flags, line, mask))
        self._size_list = list(self._sizes)
        left_out = [(self.ref(row), self._line[row]) for row in repeats.tolist()]
        self._start()
        return left_out

    def without_fractions(self) -> list[tuple[str, int]]:
        """Leave all boxes out, and give their names and lines, if none of the file is beyond 1 and
        some have an area.

        A single box in the first pixel of an image may be meant so; a whole file of them was
        written in fractions.
        """
        xyxy, _, ref, flags, line, _ = self.columns
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
                outline=bool(flags & self.OUTLINE),
                line=line,
                ref=self._called(ref, flags),
                mask=self._size_list[mask],
            )
            for box, name, ref, flags, line, mask in rows
        )

    def _called(self, ref: int, flags: int) -> str:
        return f"annotation {ref}" if flags & self.OWN_ID else f"annotations[{ref}]"
