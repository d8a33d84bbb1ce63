"""Geometry and colour of training images: letterbox, mosaic (2004.10934), affine, HSV, flips, mixup
(1710.09412).

Pure functions on (image uint8 BGR, boxes xyxy px, classes); whatever is random comes from the
`np.random.Generator` handed in, so the caller decides what a sample depends on. They read no files
and know no dataset.

Boxes live in corner coordinates (`engine/types.py`: the centre of pixel 0 lies at 0.5). OpenCV's
resize agrees with that; its warps count pixel centres as integers, which `warp` corrects, so that
boxes and pixels move together exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np

from engine.types import Size

GREY = 114  # the padding of the letterbox, the empty mosaic canvas and the border of the affine map

Labelled = tuple[np.ndarray, np.ndarray, np.ndarray]  # image (H, W, 3), boxes (n, 4), classes (n,)


@dataclass(frozen=True)
class Augment:
    """How strongly training images are changed. Zero switches a step off; `mosaic`, `mixup`, flips
    are probabilities.
    """

    mosaic: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    degrees: float = 0.0  # rotation in [-degrees, degrees]
    translate: float = 0.1  # fraction of the output's side
    scale: float = 0.5  # factor in [1 - scale, 1 + scale]
    shear: float = 0.0  # degrees
    perspective: float = 0.0  # per pixel, sensible up to 0.001
    hsv_h: float = 0.015  # fraction of the colour circle
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    fliplr: float = 0.5
    flipud: float = 0.0


class RatioPad(NamedTuple):
    """How an image came into the network input: `x_input = x * ratio + pad`, both in (y, x)
    order.
    """

    ratio: tuple[float, float]
    pad: tuple[int, int]


def fit_size(shape: Size, size: Size, scaleup: bool = True) -> Size:
    """The (h, w) of an image of `shape` fitted into `size` with its aspect kept; never enlarged
    without `scaleup`.
    """
    ratio = min(size[0] / shape[0], size[1] / shape[1])
    if not scaleup:
        ratio = min(ratio, 1.0)
    return max(round(shape[0] * ratio), 1), max(round(shape[1] * ratio), 1)


def resize(image: np.ndarray, shape: Size) -> np.ndarray:
    """`image` at exactly `shape`; averages areas when shrinking (no aliasing), interpolates when
    enlarging.
    """
    if image.shape[:2] == tuple(shape):
        return image
    shrinks = shape[0] * shape[1] < image.shape[0] * image.shape[1]
    return cv2.resize(
        image, (shape[1], shape[0]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )


def letterbox(image: np.ndarray, size: Size, scaleup: bool = True) -> tuple[np.ndarray, RatioPad]:
    """Fits `image` into `size` = (h, w), the rest grey, the image centred.

    Returns the (h, w, 3) image and the map to get boxes there and back (`to_input`, `to_original`).
    `scaleup=False` is the rule of validation. An odd padding puts the extra pixel below and to the
    right (rounding +-0.1).
    """
    fitted = fit_size(image.shape[:2], size, scaleup)
    half_y, half_x = (size[0] - fitted[0]) / 2, (size[1] - fitted[1]) / 2
    top, bottom = round(half_y - 0.1), round(half_y + 0.1)
    left, right = round(half_x - 0.1), round(half_x + 0.1)
    ratio_pad = RatioPad((fitted[0] / image.shape[0], fitted[1] / image.shape[1]), (top, left))
    image = resize(image, fitted)
    if top or bottom or left or right:
        image = cv2.copyMakeBorder(
            image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(GREY,) * 3
        )
    return image, ratio_pad


def to_input(boxes: np.ndarray, ratio_pad: RatioPad) -> np.ndarray:
    """(n, 4) xyxy of the original image -> xyxy of the network input."""
    (ratio_y, ratio_x), (top, left) = ratio_pad
    return boxes * np.array([ratio_x, ratio_y] * 2, boxes.dtype) + np.array(
        [left, top] * 2, boxes.dtype
    )


def to_original(boxes: np.ndarray, ratio_pad: RatioPad, shape: Size) -> np.ndarray:
    """(n, 4) xyxy of the network input -> xyxy of the original image, clipped to its `shape`;
    undoes `to_input`.
    """
    (ratio_y, ratio_x), (top, left) = ratio_pad
    boxes = (boxes - np.array([left, top] * 2, boxes.dtype)) / np.array(
        [ratio_x, ratio_y] * 2, boxes.dtype
    )
    return clip(boxes, shape)


def clip(boxes: np.ndarray, shape: Size) -> np.ndarray:
    """(n, 4) xyxy limited to an image of `shape`; a box outside collapses to no area."""
    return np.clip(boxes, 0, np.array([shape[1], shape[0]] * 2, boxes.dtype))


# --- mosaic ---------------------------------------------------------------------------------------


def mosaic_offsets(
    shapes: Sequence[Size], size: Size, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """Where the four tiles of a mosaic go: (y, x) of each tile's corner on the canvas of twice
    `size`.

    The tiles meet in a point ~ U(size / 2, 3 size / 2): top left, top right, bottom left, bottom
    right.
    """
    cy = int(rng.uniform(size[0] / 2, 3 * size[0] / 2))
    cx = int(rng.uniform(size[1] / 2, 3 * size[1] / 2))
    (h0, w0), (h1, _), (_, w2), _ = shapes
    return [(cy - h0, cx - w0), (cy - h1, cx), (cy, cx - w2), (cy, cx)]


def paste(target: np.ndarray, image: np.ndarray, top: int, left: int) -> None:
    """Copies `image` onto `target` with its corner at (top, left), in place; what does not fit is
    cut off.
    """
    y1, x1 = max(top, 0), max(left, 0)
    y2, x2 = min(top + image.shape[0], target.shape[0]), min(left + image.shape[1], target.shape[1])
    if y1 < y2 and x1 < x2:
        target[y1:y2, x1:x2] = image[y1 - top : y2 - top, x1 - left : x2 - left]


def _mosaic_labels(
    tiles: Sequence[Labelled], offsets: Sequence[tuple[int, int]], canvas: Size
) -> tuple[np.ndarray, np.ndarray]:
    shifted = [
        boxes + np.array([x, y, x, y], boxes.dtype) for (_, boxes, _), (y, x) in zip(tiles, offsets)
    ]
    boxes = clip(np.concatenate(shifted), canvas)
    classes = np.concatenate([classes for _, _, classes in tiles])
    visible = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return boxes[visible], classes[visible]


def mosaic(tiles: Sequence[Labelled], size: Size, rng: np.random.Generator) -> Labelled:
    """Four labelled images, each fitted into `size`, on one grey canvas of twice `size`; boxes
    clipped to it.
    """
    canvas = (2 * size[0], 2 * size[1])
    offsets = mosaic_offsets([image.shape[:2] for image, _, _ in tiles], size, rng)
    image = np.full((*canvas, 3), GREY, np.uint8)
    for (tile, _, _), (y, x) in zip(tiles, offsets):
        paste(image, tile, y, x)
    return image, *_mosaic_labels(tiles, offsets, canvas)


def mosaic_affine(
    tiles: Sequence[Labelled], size: Size, rng: np.random.Generator, augment: Augment
) -> Labelled:
    """`mosaic`, then `random_affine` back to `size`, without painting what the affine map leaves
    out of sight.

    Draws the same random numbers as the two one after the other and gives the same boxes and, but
    for the last bit of the interpolation, the same pixels.
    """
    canvas = (2 * size[0], 2 * size[1])
    offsets = mosaic_offsets([image.shape[:2] for image, _, _ in tiles], size, rng)
    matrix = affine_matrix(canvas, size, rng, augment)
    top, left, height, width = visible_window(matrix, canvas, size)
    window = np.full((height, width, 3), GREY, np.uint8)
    for (tile, _, _), (y, x) in zip(tiles, offsets):
        paste(window, tile, y - top, x - left)
    image = warp_image(window, matrix @ _translation(top, left), size)
    boxes, classes = warp_boxes(*_mosaic_labels(tiles, offsets, canvas), matrix, size)
    return image, boxes, classes


# --- affine and perspective -----------------------------------------------------------------------


def _translation(y: float, x: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def affine_matrix(
    shape: Size, size: Size, rng: np.random.Generator, augment: Augment
) -> np.ndarray:
    """(3, 3) map from an image of `shape` to an output of `size`, in corner coordinates (x, y, 1).

    Centre to the origin, perspective, rotation and scale, shear, then to the output's centre, give
    or take `translate` of its side.
    """
    a = augment
    perspective = np.eye(3)
    perspective[2, :2] = rng.uniform(-a.perspective, a.perspective, 2)
    angle = math.radians(rng.uniform(-a.degrees, a.degrees))
    factor = rng.uniform(1 - a.scale, 1 + a.scale)
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    rotation = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    shear = np.eye(3)
    shear[0, 1], shear[1, 0] = (
        math.tan(math.radians(rng.uniform(-a.shear, a.shear))) for _ in range(2)
    )
    to_y, to_x = (rng.uniform(0.5 - a.translate, 0.5 + a.translate) * side for side in size)
    return (
        _translation(to_y, to_x)
        @ shear
        @ rotation
        @ perspective
        @ _translation(-shape[0] / 2, -shape[1] / 2)
    )


def _project(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(n, 2) points through a (3, 3) map."""
    mapped = np.column_stack((points, np.ones(len(points)))) @ matrix.T
    return mapped[:, :2] / mapped[:, 2:]


def visible_window(matrix: np.ndarray, shape: Size, size: Size) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the part of an image of `shape` that `matrix` brings into an
    output of `size`.
    """
    h, w = size
    corners = _project(
        np.array([[0, 0], [w, 0], [0, h], [w, h]], np.float64), np.linalg.inv(matrix)
    )
    # Two pixels more: interpolation reads neighbours, and the border is grey only where the image
    # itself ends.
    x1, y1 = np.floor(corners.min(0)).astype(int) - 2
    x2, y2 = np.ceil(corners.max(0)).astype(int) + 2
    y1, x1 = int(np.clip(y1, 0, shape[0] - 1)), int(np.clip(x1, 0, shape[1] - 1))
    y2, x2 = int(np.clip(y2, y1 + 1, shape[0])), int(np.clip(x2, x1 + 1, shape[1]))
    return y1, x1, y2 - y1, x2 - x1


def warp_image(image: np.ndarray, matrix: np.ndarray, size: Size) -> np.ndarray:
    """`image` through the (3, 3) corner-coordinate `matrix`, to `size`, grey where nothing
    lands.
    """
    if image.shape[:2] == tuple(size) and np.allclose(matrix, np.eye(3), atol=1e-9):
        return image
    # OpenCV counts from the centre of pixel 0
    matrix = _translation(-0.5, -0.5) @ matrix @ _translation(0.5, 0.5)
    options = {"dsize": (size[1], size[0]), "flags": cv2.INTER_LINEAR, "borderValue": (GREY,) * 3}
    if np.any(matrix[2, :2]):
        return cv2.warpPerspective(image, matrix, **options)
    return cv2.warpAffine(image, matrix[:2], **options)


def warp_boxes(
    boxes: np.ndarray, classes: np.ndarray, matrix: np.ndarray, size: Size
) -> tuple[np.ndarray, np.ndarray]:
    """The upright boxes around the mapped boxes, clipped to `size`; those worth learning from
    (`keep_boxes`).
    """
    if not len(boxes):
        return boxes, classes
    corners = _project(boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 2), matrix).reshape(-1, 4, 2)
    whole = np.concatenate((corners.min(1), corners.max(1)), 1).astype(boxes.dtype)
    clipped = clip(whole, size)
    keep = keep_boxes(whole, clipped)
    return clipped[keep], classes[keep]


def keep_boxes(whole: np.ndarray, clipped: np.ndarray) -> np.ndarray:
    """(n,) bool: sides > 2 px, more than 0.10 of the area still visible, aspect < 100."""
    w, h = clipped[:, 2] - clipped[:, 0], clipped[:, 3] - clipped[:, 1]
    area = (whole[:, 2] - whole[:, 0]) * (whole[:, 3] - whole[:, 1])
    aspect = np.maximum(w, h) / np.maximum(np.minimum(w, h), 1e-9)
    return (w > 2) & (h > 2) & (w * h > 0.10 * area) & (aspect < 100)


def random_affine(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    size: Size,
    rng: np.random.Generator,
    augment: Augment,
) -> Labelled:
    """A random affine (or perspective) map of image and boxes to an output of `size`; see
    `affine_matrix`.
    """
    matrix = affine_matrix(image.shape[:2], size, rng, augment)
    return warp_image(image, matrix, size), *warp_boxes(boxes, classes, matrix, size)


# --- colour, flips, mixing ------------------------------------------------------------------------


def hsv(image: np.ndarray, rng: np.random.Generator, augment: Augment) -> np.ndarray:
    """Hue turned, saturation and value multiplied, by one table of 256 entries each; a new image.

    The hue is turned rather than multiplied: red lies at both ends of the circle and must not be
    torn apart.
    """
    h, s, v = rng.uniform(-1, 1, 3) * (augment.hsv_h, augment.hsv_s, augment.hsv_v)
    if not (h or s or v):
        return image
    x = np.arange(256)
    tables = np.stack(
        ((x + round(h * 180)) % 180, np.clip(x * (1 + s), 0, 255), np.clip(x * (1 + v), 0, 255)), -1
    )
    turned = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    cv2.LUT(turned, tables.astype(np.uint8)[:, None], dst=turned)
    return cv2.cvtColor(turned, cv2.COLOR_HSV2BGR)


def flip_lr(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Left becomes right."""
    boxes = boxes.copy()
    boxes[:, [0, 2]] = image.shape[1] - boxes[:, [2, 0]]
    return cv2.flip(image, 1), boxes


def flip_ud(image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Top becomes bottom."""
    boxes = boxes.copy()
    boxes[:, [1, 3]] = image.shape[0] - boxes[:, [3, 1]]
    return cv2.flip(image, 0), boxes


def random_flips(
    image: np.ndarray, boxes: np.ndarray, rng: np.random.Generator, augment: Augment
) -> tuple[np.ndarray, np.ndarray]:
    """Each flip with its probability; both numbers are drawn always, so one setting does not shift
    the other.
    """
    ud, lr = rng.random(2) < (augment.flipud, augment.fliplr)
    if ud:
        image, boxes = flip_ud(image, boxes)
    if lr:
        image, boxes = flip_lr(image, boxes)
    return image, boxes


def mixup(first: Labelled, second: Labelled, rng: np.random.Generator) -> Labelled:
    """lambda * first + (1 - lambda) * second with lambda ~ Beta(32, 32), images of one size; all
    boxes stay.
    """
    weight = rng.beta(32, 32)
    image = cv2.addWeighted(first[0], weight, second[0], 1 - weight, 0)
    return image, np.concatenate((first[1], second[1])), np.concatenate((first[2], second[2]))


def cutmix(first: Labelled, second: Labelled, rng: np.random.Generator) -> Labelled:
    """A rectangle of `second` in `first`, at the same place in both, images of one size (CutMix,
    1905.04899).

    Its area is 1 - lambda of the image, lambda ~ U(0, 1), its centre anywhere, its shape that of
    the image. Boxes of `second` are cut at its edges, those of `first` where it covers a whole
    side. What is left must be worth learning (`keep_boxes`); a box of `first` of which no tenth is
    to be seen goes.
    """
    h, w = first[0].shape[:2]
    side = math.sqrt(1 - rng.random())
    cy, cx = rng.random() * h, rng.random() * w
    y1, x1 = (int(max(c - side * s / 2, 0)) for c, s in ((cy, h), (cx, w)))
    y2, x2 = (math.ceil(min(c + side * s / 2, s)) for c, s in ((cy, h), (cx, w)))
    image = first[0].copy()
    image[y1:y2, x1:x2] = second[0][y1:y2, x1:x2]
    hole = np.array([x1, y1, x2, y2], np.float32)
    left, keep = _beside(first[1], hole)
    cut = np.stack([np.clip(second[1][:, i], *hole[[i % 2, i % 2 + 2]]) for i in range(4)], -1)
    seen = keep_boxes(second[1], cut)
    boxes = np.concatenate((left[keep], cut[seen].astype(second[1].dtype)))
    return image, boxes, np.concatenate((first[2][keep], second[2][seen]))


def _beside(boxes: np.ndarray, hole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(n, 4) boxes around what `hole` (x1, y1, x2, y2) leaves of each, and (n,) bool: enough of its
    area is left. A box of which the hole takes a corner or the middle keeps its edges.
    """
    left = boxes.copy()
    over = np.minimum(boxes[:, 2:], hole[2:]) - np.maximum(boxes[:, :2], hole[:2])  # (n, 2)
    sides = boxes[:, 2:] - boxes[:, :2]
    touched = (over > 0).all(1)
    for axis in (0, 1):
        across = touched & (over[:, 1 - axis] >= sides[:, 1 - axis])  # all of the other side
        starts, ends = boxes[:, axis] >= hole[axis], boxes[:, axis + 2] <= hole[axis + 2]
        left[across & starts & ~ends, axis] = hole[axis + 2]
        left[across & ends & ~starts, axis + 2] = hole[axis]
    covered = np.where(touched, over.clip(min=0).prod(1), 0)
    visible = 1 - covered / np.maximum(sides.prod(1), 1e-9)
    return left, (visible > 0.10) & (~touched | keep_boxes(left, left))
