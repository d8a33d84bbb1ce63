"""Boxes drawn on images: one image for `Results.plot`, a grid of images for training and
validation batches.

Boxes and blending are OpenCV and numpy; lettering is Pillow with the fonts that `lettering` finds,
so that class names in any script are readable at any size (OpenCV's own letters are ASCII only).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from engine.errors import DataError
from engine.files import write_bytes
from engine.plots.fonts import drawable, drawable_names, runs
from engine.plots.style import class_colour, ink_on, shorten
from engine.types import Detections

GAP_PX = 6
BACKGROUND = 255


def draw_detections(
    image: np.ndarray,
    detections: Detections,
    names: Sequence[str],
    line_px: int | None = None,
    text_px: int | None = None,
    with_names: bool = True,
    with_scores: bool = True,
    ids: np.ndarray | None = None,
    by_class: bool = True,
) -> np.ndarray:
    """A copy of `image` (H, W, 3) uint8 BGR with boxes, names and scores; the best detection lies
    on top.

    line_px, text_px: None: by the size of the image. ids: (K,) numbers of the objects: drawn, and
    each object has a colour of its own. by_class: boxes of one class have one colour; else each box
    has its own.
    """
    count = len(detections)
    kinds = np.asarray(detections.classes)
    colours = np.asarray(ids) if ids is not None else kinds if by_class else np.arange(count)
    labels = None
    if not (with_names and with_scores and ids is None):
        known = drawable_names(names)
        labels = []
        for i in range(count):
            parts = [f"{int(ids[i])}:"] if ids is not None else []
            parts += [_name(known, int(kinds[i]))] if with_names else []
            parts += [f"{detections.scores[i]:.2f}"] if with_scores else []
            labels.append(" ".join(parts))
    canvas = np.ascontiguousarray(image[..., ::-1])
    _draw(
        canvas,
        detections.boxes,
        detections.classes,
        detections.scores,
        names,
        line_px,
        text_px,
        labels,
        colours,
    )
    return np.ascontiguousarray(canvas[..., ::-1])


def plot_images(
    images: Sequence[np.ndarray],
    boxes: Sequence[np.ndarray],
    classes: Sequence[np.ndarray],
    scores: Sequence[np.ndarray | None] | None,
    names: Sequence[str],
    path: str | Path,
    max_images: int = 16,
    titles: Sequence[str] | None = None,
    columns: int | None = None,
    cell_px: int | None = None,
) -> Path:
    """Write a grid of images with their boxes, JPEG or PNG by the suffix.

    images: (H, W, 3) uint8 RGB, sizes may differ; boxes[i] (n, 4) xyxy pixels of image i;
    classes[i] (n,); scores[i] (n,) or None for ground truth; titles, such as file names, go above
    each image. columns, cell_px: of the grid and of each image's longer side, where they are not to
    follow from the number of images.
    """
    count = min(len(images), max_images)
    if count == 0:
        return write_image(np.full((64, 64, 3), BACKGROUND, np.uint8), Path(path))
    columns = columns or math.ceil(math.sqrt(count))
    # Small images are magnified so that lettering fits; the whole grid stays near two thousand
    # pixels wide.
    cell = cell_px or int(np.clip(2000 // columns, 240, 640))
    head = 24 if titles else 0
    tiles = [_fit(image, cell) for image in images[:count]]
    tall = max(tile.shape[0] for tile, _ in tiles)
    step_y, step_x = tall + head + GAP_PX, cell + GAP_PX
    rows = math.ceil(count / columns)
    grid = np.full((rows * step_y + GAP_PX, columns * step_x + GAP_PX, 3), BACKGROUND, np.uint8)
    for i in range(count):
        top, left = GAP_PX + i // columns * step_y, GAP_PX + i % columns * step_x
        tile, scale = tiles[i]
        _draw(
            tile,
            np.asarray(boxes[i]) * scale,
            classes[i],
            None if scores is None else scores[i],
            names,
        )
        height, width = tile.shape[:2]
        y, x = top + head + (tall - height) // 2, left + (cell - width) // 2
        grid[y : y + height, x : x + width] = tile
        if titles:
            _stamp(
                grid,
                shorten(drawable(titles[i]), cell // 9),
                left + 2,
                top + 2,
                16,
                (40, 40, 40),
                None,
            )
    return write_image(grid[..., ::-1], Path(path))


def _fit(image: np.ndarray, cell: int) -> tuple[np.ndarray, float]:
    """A copy whose longer side is `cell`, and the scale."""
    height, width = image.shape[:2]
    scale = cell / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST if scale > 3 else cv2.INTER_LINEAR
    return np.ascontiguousarray(
        cv2.resize(np.ascontiguousarray(image), size, interpolation=method)
    ), scale


def _draw(
    canvas: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    scores: np.ndarray | None,
    names: Sequence[str],
    line_px: int | None = None,
    text_px: int | None = None,
    labels: Sequence[str] | None = None,
    colours: np.ndarray | None = None,
) -> None:
    """Draw onto `canvas` (H, W, 3) uint8 RGB in place.

    labels: None: name and score; an empty one is left out. colours: (n,) numbers, None: of the
    classes.
    """
    height, width = canvas.shape[:2]
    line = line_px or max(1, round(math.sqrt(height * width) / 320))
    text_px = text_px or int(np.clip(round(math.sqrt(height * width) / 45), 10, 28))
    colours = np.asarray(classes if colours is None else colours)
    limit = np.array([width, height, width, height])
    corners = (
        np.clip(np.nan_to_num(np.asarray(boxes).reshape(-1, 4)), -limit, 2 * limit)
        .round()
        .astype(int)
        .tolist()
    )
    order = list(range(len(corners)) if scores is None else np.argsort(scores, kind="stable"))
    for i in order:
        x1, y1, x2, y2 = corners[i]
        # A dark thin line under the coloured one keeps boxes visible on a ground of their own
        # colour.
        cv2.rectangle(canvas, (x1, y1), (x2, y2), (0, 0, 0), line + 2)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), class_colour(int(colours[i])), line)
    chip = text_px + 4
    names = drawable_names(names)
    for i in order:  # labels after all boxes: a line through a label makes it unreadable
        x1, y1, *_ = corners[i]
        if labels is None:
            name = _name(names, int(classes[i]))
            label = name if scores is None else f"{name} {scores[i]:.2f}"
        else:
            label = labels[i]
        if not label:
            continue
        y = y1 - chip if y1 >= chip else y1  # above the box, inside where there is no room above
        colour = class_colour(int(colours[i]))
        _stamp(canvas, label, x1, min(y, height - chip), text_px, ink_on(colour), colour)


def _name(names: Sequence[str], kind: int) -> str:
    return shorten(names[kind] if 0 <= kind < len(names) else str(kind))


def _stamp(
    canvas: np.ndarray,
    text: str,
    x: int,
    y: int,
    size_px: int,
    ink: tuple[int, int, int],
    ground: tuple[int, int, int] | None,
) -> None:
    """Write `text` on a ground of its own, moved and cut so that it stays inside the image."""
    mask = _lettering(text, size_px)
    height, width = canvas.shape[:2]
    x, y = max(0, min(x, width - mask.shape[1])), max(0, y)
    area = canvas[y : y + mask.shape[0], x : x + mask.shape[1]]
    opacity = mask[: area.shape[0], : area.shape[1], None].astype(np.float32) / 255
    base = area if ground is None else np.array(ground, np.float32)
    area[:] = (base * (1 - opacity) + np.array(ink, np.float32) * opacity).round()


@functools.lru_cache(maxsize=4096)
def _lettering(text: str, size_px: int) -> np.ndarray:
    """(h, w) uint8 opacity of one line of text, with a small margin; h is size_px + 4 for every
    text.
    """
    from PIL import Image, ImageDraw

    parts = [(_font(file, size_px), part) for file, part in runs(text)]
    lengths = [font.getlength(part) for font, part in parts]
    canvas = Image.new("L", (math.ceil(sum(lengths)) + 6, size_px + 4), 0)
    x = 3.0
    for (font, part), length in zip(parts, lengths, strict=True):
        ImageDraw.Draw(canvas).text((x, size_px // 2 + 2), part, fill=255, font=font, anchor="lm")
        x += length
    mask = np.array(canvas)
    mask.setflags(write=False)
    return mask


@functools.lru_cache(maxsize=64)
def _font(file: str, size_px: int):
    from PIL import ImageFont

    return ImageFont.truetype(file, size_px * 0.82)


def write_image(canvas: np.ndarray, path: Path) -> Path:
    """Write `canvas` (H, W, 3) uint8 BGR, whole or not at all; the suffix says the format, `.jpg`
    where there is none.

    Raises:
        DataError: no format of that name.
    """
    path = path if path.suffix else path.with_suffix(".jpg")
    suffix = path.suffix.lower()
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if suffix in (".jpg", ".jpeg") else []
    try:
        done, encoded = cv2.imencode(suffix, np.ascontiguousarray(canvas), options)
    except cv2.error:
        done = False
    if not done:
        raise DataError(f"{path}: cannot write images of the kind '{suffix}'. Use .jpg or .png.")
    write_bytes(path, encoded.tobytes())
    return path
