"""One image on its way in: where its boxes lie in the image as shown, and what is wrong with them.
Writes nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from engine.datasets.findings import Findings
from engine.datasets.formats.base import Row, SourceImage, shown
from engine.datasets.image_scan import Shape, to_shown
from engine.errors import nearest
from engine.types import Size

DUPLICATE_IOU = 0.9
DECIMALS = 4  # of box corners in pixels
# what six decimals of a fraction and two of a pixel can be off; cut without a finding
EDGE_TOLERANCE_PX = 0.05
SMALLEST_SIDE_PX = 0.01  # below that a box has no area


@dataclass(frozen=True)
class Labels:
    """The boxes of an image after the checks."""

    boxes: np.ndarray  # (n, 4) float64 xyxy pixels of the image as shown, rounded to DECIMALS
    names: tuple[str, ...]  # (n,) classes
    crowd: np.ndarray  # (n,) bool


def check_labels(
    image: SourceImage, shape: Shape, known: Collection[str], findings: Findings, *, tiny_px: float
) -> Labels | None:
    """The boxes of `image` in pixels, checked and repaired by policy; None where a policy
    leaves the image out.

    known: class names that may occur; empty: any. tiny_px: a box with a shorter side is reported.
    """
    boxes = boxes_in_pixels(image, shape, findings)
    if boxes is None:
        return None
    kept = [(row, box) for row, box in zip(image.rows, boxes, strict=True)]
    kept = [(row, box) for row, box in kept if class_is_known(row, image, known, findings)]
    kept = [
        (row, repaired)
        for row, box in kept
        if (repaired := _repaired(row, box, image, shape.shown, findings)) is not None
    ]
    kept = _without_duplicates(kept, image, findings)
    kept = [
        (row, box)
        for row, box in kept
        if not _is_dropped_as_tiny(row, box, image, tiny_px, findings)
    ]
    if not kept:
        why = "has no boxes left" if image.rows else "has no boxes"
        if findings.add("empty_image", image.name, why, image=image.name) == "drop":
            return None
    return Labels(
        boxes=np.array([box for _, box in kept], np.float64).reshape(-1, 4),
        names=tuple(row.name for row, _ in kept),
        crowd=np.array([row.crowd for row, _ in kept], bool),
    )


def with_right_masks(image: SourceImage, shape: Shape, findings: Findings) -> SourceImage:
    """The image without the boxes around masks of another size than its own, or than the one its
    annotation states: nobody knows where they lie. A finding for each.
    """
    size = image.size or shape.shown
    wrong = [row for row in image.rows if row.mask not in (None, size)]
    for row in wrong:
        h, w = row.mask
        detail = (
            f"{_place(row)}its mask is of {h} x {w} (h x w), the image {image.name} of "
            f"{size[0]} x {size[1]}; write `bbox`, or the mask in the size of the image"
        )
        findings.add("bad_entry", image.origin, detail, row.line, image=image.name)
    if not wrong:
        return image
    return replace(image, rows=tuple(row for row in image.rows if row.mask in (None, size)))


def boxes_in_pixels(image: SourceImage, shape: Shape, findings: Findings) -> np.ndarray | None:
    """The boxes of `image`, (n, 4) float64 xyxy pixels of the image as shown; None where a policy
    leaves the image out.

    Tools draw on the image as shown, so that is what boxes refer to, unless the size in the
    annotation says otherwise.
    """
    if image.states_size and image.size is None and not image.fractions:
        if (
            findings.add(
                "missing_size",
                image.origin,
                f"does not state the size of its image {image.name}",
                image.line,
            )
            == "drop"
        ):
            return None
    boxes = np.array([row.box for row in image.rows], np.float64).reshape(-1, 4)
    h, w = shape.shown
    if image.fractions:
        return boxes * (w, h, w, h)
    if image.size is None or image.size == shape.shown:
        return boxes
    turned = image.size == shape.stored
    detail = f"says {image.size[0]} x {image.size[1]} (h x w), the image {image.name} is {h} x {w}"
    detail += f" after its EXIF rotation (orientation {shape.orientation})" if turned else ""
    policy = findings.add(
        "exif_rotation" if turned else "size_mismatch",
        image.origin,
        detail,
        image.line,
        image=image.name,
    )
    if policy in ("drop", "error"):
        return None
    return to_shown(boxes, image.size, shape) if policy == "fix" else boxes


def _place(row: Row) -> str:
    return f"{row.ref}: " if row.ref else ""


def class_is_known(
    row: Row, image: SourceImage, known: Collection[str], findings: Findings
) -> bool:
    """Whether the class of `row` is among `known` (empty: any); a finding where it is not."""
    if not known or row.name in known:
        return True
    some = ", ".join(list(known)[:8]) + (", ..." if len(known) > 8 else "")
    detail = f"{_place(row)}class {shown(row.name)} is not among {some}.{nearest(row.name, known)}"
    findings.add("unknown_class", image.origin, detail, row.line, image=image.name)
    return False


def _repaired(
    row: Row, box: np.ndarray, image: SourceImage, size: Size, findings: Findings
) -> np.ndarray | None:
    """The box within the image, or None where it is left out."""
    h, w = size

    def found(kind: str, what: str) -> str:
        corners = ", ".join(f"{value:g}" for value in box.round(2))
        detail = f"{_place(row)}'{row.name}' [{corners}] {what}"
        return findings.add(
            kind, image.origin, detail, row.line, image=image.name, boxes=(tuple(box.tolist()),)
        )

    box = np.where(
        np.abs(box) < 1e9, box, np.sign(box) * 1e9
    )  # absurd numbers must not overflow below
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
        policy = found(
            "outside_image",
            f"{'lies wholly' if empty else 'reaches'} outside the image of {h} x {w} (h x w)",
        )
        if empty or policy != "fix":
            return None
    return cut.round(DECIMALS)


Placed = tuple[Row, np.ndarray]  # a row and its box in pixels


def _without_duplicates(kept: list[Placed], image: SourceImage, findings: Findings) -> list[Placed]:
    """Reports each box that repeats an earlier one of its class, once; leaves it out where the
    policy says so.
    """
    boxes = np.array([box for _, box in kept], np.float64).reshape(-1, 4)
    reported, dropped = np.zeros(len(kept), bool), np.zeros(len(kept), bool)
    for i, near in _near_each_other([row for row, _ in kept], boxes):
        if dropped[i]:
            continue
        near = near[(near > i) & ~reported[near]]
        repeats = near[iou_with(boxes[i], boxes[near]) > DUPLICATE_IOU]
        for j in np.sort(repeats).tolist():
            (first, _), (second, box) = kept[i], kept[j]
            corners = ", ".join(f"{value:g}" for value in box.round(2))
            detail = f"{_place(second)}'{second.name}' [{corners}] repeats " + (
                first.ref or f"line {first.line}"
            )
            pair = (tuple(boxes[i].tolist()), tuple(boxes[j].tolist()))
            policy = findings.add(
                "duplicate_box", image.origin, detail, second.line, image=image.name, boxes=pair
            )
            reported[j], dropped[j] = True, policy == "drop"
    return [entry for entry, out in zip(kept, dropped.tolist(), strict=True) if not out]


def _near_each_other(rows: list[Row], boxes: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(number of a box, numbers of all boxes of its class that may be on the same object),
    ascending; crowds are left out.

    Left edges of two boxes with an IoU above t lie less than (1 - t) / t of either's width apart.
    So an image with tens of thousands of boxes needs no table of all pairs.
    """
    classes: dict[str, int] = {}
    mine = np.array([index for index, row in enumerate(rows) if not row.crowd], np.int64)
    if len(mine) < 2:
        return
    class_number = np.array([classes.setdefault(rows[index].name, len(classes)) for index in mine])
    left, reach = boxes[mine, 0], (boxes[mine, 2] - boxes[mine, 0]) * (1 / DUPLICATE_IOU - 1) + 1e-6
    place = left + class_number * (
        np.ptp(left) + 2 * reach.max() + 1
    )  # classes beyond each other's reach
    order = place.argsort(kind="stable")
    ordered = place[order]
    begin, end = ordered.searchsorted(place - reach), ordered.searchsorted(place + reach, "right")
    for at in np.nonzero(end - begin > 1)[0].tolist():
        yield int(mine[at]), mine[order[begin[at] : end[at]]]


def iou_with(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(4,) and (n, 4) xyxy, corners in order -> (n,). As `engine.boxes` has it, without torch: 600
    MB for one formula.
    """
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    common = sides.clip(min=0).prod(-1)
    return common / (
        (box[2:] - box[:2]).prod() + (boxes[:, 2:] - boxes[:, :2]).prod(-1) - common + 1e-9
    )


def _is_dropped_as_tiny(
    row: Row, box: np.ndarray, image: SourceImage, tiny_px: float, findings: Findings
) -> bool:
    w, h = box[2:] - box[:2]
    if min(w, h) >= tiny_px:
        return False
    detail = f"{_place(row)}'{row.name}' is {h:.3g} x {w:.3g} pixels (h x w)"
    return (
        findings.add(
            "tiny_box",
            image.origin,
            detail,
            row.line,
            image=image.name,
            boxes=(tuple(box.tolist()),),
        )
        == "drop"
    )
