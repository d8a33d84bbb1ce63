"""One image on its way in: is it whole, how large is it as shown, and where do its boxes lie. Decodes; writes nothing."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from PIL import Image

from engine.errors import DataError, nearest
from engine.parts.data.cache import decode_image
from engine.parts.data.checks import Findings
from engine.parts.data.formats.base import Row, SourceImage, shown
from engine.types import Size

ORIENTATION_TAG = 0x0112
DUPLICATE_IOU = 0.9
DECIMALS = 4  # of box corners in pixels
EDGE_TOLERANCE_PX = 0.05  # what six decimals of a share and two of a pixel can be off; cut without a finding
SMALLEST_SIDE_PX = 0.01  # below that a box has no area


@dataclass(frozen=True)
class Shape:
    """The size of an image, (h, w)."""

    shown: Size  # as everybody sees it and training decodes it
    stored: Size  # before the EXIF rotation
    orientation: int = 1  # EXIF, 1 to 8


def inspect_image(data: bytes) -> Shape:
    """Decode an image completely.

    Raises:
        ValueError: it is no image, or it ends too early; the text says what is wrong.
    """
    if not data:
        raise ValueError("the file is empty")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # large images and odd EXIF blocks are none of our business here
            with Image.open(io.BytesIO(data)) as image:
                orientation = image.getexif().get(ORIENTATION_TAG, 1)
                image.load()
                stored = (image.height, image.width)
    # Pillow raises many types on damaged files, and its plugins raise any.
    except Exception as error:
        text = str(error)
        raise ValueError("no known image format" if "cannot identify" in text else text or type(error).__name__) from None
    if orientation not in range(2, 9):
        return Shape(stored, stored)
    # Only some decoders heed the rotation; what counts is what training will see.
    try:
        h, w = decode_image(data, "image").shape[:2]
    except DataError as error:
        raise ValueError(str(error)) from None
    turned = (h, w) != stored or orientation < 5 or h == w
    return Shape((h, w), stored, orientation if turned else 1)


@dataclass(frozen=True)
class Labels:
    """The boxes of an image after the checks."""

    boxes: np.ndarray  # (n, 4) float64 xyxy pixels of the image as shown, rounded to DECIMALS
    names: tuple[str, ...]  # (n,) classes
    crowd: np.ndarray  # (n,) bool


def check_labels(image: SourceImage, shape: Shape, known: Collection[str], findings: Findings) -> Labels | None:
    """The boxes of `image` in pixels, checked and mended by policy; None where a policy leaves the image out.

    known: class names that may occur; empty: any.
    """
    if image.states_size and image.size is None and not image.shares:
        if findings.add("missing_size", image.origin, "does not state the size of its image") == "drop":
            return None
    boxes = np.array([row.box for row in image.rows], np.float64).reshape(-1, 4)
    if image.shares:
        h, w = shape.shown
        boxes = boxes * (w, h, w, h)
    elif image.size is not None and image.size != shape.shown:
        policy = findings.add("size_mismatch", image.origin, _mismatch(image.size, shape))
        if policy in ("drop", "error"):
            return None
        if policy == "fix":
            boxes = to_shown(boxes, image.size, shape)
    kept = [(row, box) for row, box in zip(image.rows, boxes, strict=True)]
    kept = [(row, box) for row, box in kept if _class_is_known(row, image, known, findings)]
    kept = [(row, mended) for row, box in kept if (mended := _mended(row, box, image, shape.shown, findings)) is not None]
    kept = _without_duplicates(kept, image, findings)
    if not kept and findings.add("empty_image", image.name, "has no boxes left" if image.rows else "has no boxes") == "drop":
        return None
    return Labels(
        boxes=np.array([box for _, box in kept], np.float64).reshape(-1, 4),
        names=tuple(row.name for row, _ in kept),
        crowd=np.array([row.crowd for row, _ in kept], bool),
    )


def _mismatch(size: Size, shape: Shape) -> str:
    text = f"says {size[0]} x {size[1]} (h x w), the image is {shape.shown[0]} x {shape.shown[1]}"
    return text + (" after its EXIF rotation" if size == shape.stored else "")


def to_shown(boxes: np.ndarray, size: Size, shape: Shape) -> np.ndarray:
    """Boxes (n, 4) of an annotation made for `size` -> pixels of the image as shown: turned with it, or else scaled."""
    h, w = size
    if size != shape.stored or shape.orientation == 1:
        gain = (shape.shown[1] / w, shape.shown[0] / h)
        return boxes * (*gain, *gain)
    x, y = boxes[:, 0::2], boxes[:, 1::2]
    turned = {
        2: (w - x, y), 3: (w - x, h - y), 4: (x, h - y), 5: (y, x), 6: (h - y, x), 7: (h - y, w - x), 8: (y, w - x),
    }  # fmt: skip
    x, y = turned[shape.orientation]
    return np.stack((x.min(1), y.min(1), x.max(1), y.max(1)), 1)


def _place(row: Row) -> str:
    return f"{row.ref}: " if row.ref else ""


def _class_is_known(row: Row, image: SourceImage, known: Collection[str], findings: Findings) -> bool:
    if not known or row.name in known:
        return True
    some = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
    detail = f"{_place(row)}class {shown(row.name)} is not among {some}.{nearest(row.name, known)}"
    findings.add("unknown_class", image.origin, detail, row.line)
    return False


def _mended(row: Row, box: np.ndarray, image: SourceImage, size: Size, findings: Findings) -> np.ndarray | None:
    """The box within the image, or None where it is left out."""
    h, w = size

    def found(kind: str, what: str) -> str:
        corners = ", ".join(f"{value:g}" for value in box.round(2))
        return findings.add(kind, image.origin, f"{_place(row)}'{row.name}' [{corners}] {what}", row.line)

    box = np.where(np.abs(box) < 1e9, box, np.sign(box) * 1e9)  # absurd numbers must not overflow below
    if (box[2:] < box[:2]).any():
        if found("inverted_box", "has its corners swapped") != "fix":
            return None
        box = np.concatenate((np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])))
    if (box[2:] - box[:2] < SMALLEST_SIDE_PX).any():
        found("zero_area", "has no area")
        return None
    cut = np.clip(box, 0, (w, h, w, h))
    empty = (cut[2:] - cut[:2] < SMALLEST_SIDE_PX).any()
    if empty or np.abs(cut - box).max() > EDGE_TOLERANCE_PX:
        policy = found("outside_image", f"{'lies wholly' if empty else 'reaches'} outside the image of {h} x {w} (h x w)")
        if empty or policy != "fix":
            return None
    return cut.round(DECIMALS)


Placed = tuple[Row, np.ndarray]  # a row and its box in pixels


def _without_duplicates(kept: list[Placed], image: SourceImage, findings: Findings) -> list[Placed]:
    """Reports pairs of one class on one object; leaves the second out where the policy says so."""
    if len(kept) < 2:
        return kept
    # Its import takes two seconds, which whoever only asks whether a source changed should not wait for.
    import torch

    from engine.boxes import pairwise_iou

    boxes = torch.from_numpy(np.array([box for _, box in kept]))
    overlap = pairwise_iou(boxes, boxes).numpy() > DUPLICATE_IOU
    dropped: set[int] = set()
    for i, j in zip(*np.nonzero(np.triu(overlap, 1)), strict=True):
        (first, _), (second, box) = kept[i], kept[j]
        if first.name == second.name and not (first.crowd or second.crowd) and i not in dropped:
            corners = ", ".join(f"{value:g}" for value in box.round(2))
            detail = f"{_place(second)}'{second.name}' [{corners}] repeats " + (first.ref or f"line {first.line}")
            if findings.add("duplicate_box", image.origin, detail, second.line) == "drop":
                dropped.add(int(j))
    return [entry for index, entry in enumerate(kept) if index not in dropped]
