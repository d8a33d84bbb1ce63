"""What a prediction gives for one image: boxes in every form, as text, table or plot.

Holds no tensors and no model. An image that came from a file is read again when it is needed, so
that a list of a thousand results does not hold a thousand images. Conventions of boxes and
images: `engine/types.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.errors import DataError
from engine.types import Detections, Size


@dataclass(frozen=True)
class Box:
    """One detection, as a loop over `Results` gives it."""

    xyxy: tuple[float, float, float, float]  # pixels of the original image
    score: float
    class_id: int
    name: str
    id: int | None = None  # of the object that it is of, where objects are followed


@dataclass(frozen=True, repr=False)
class Results:
    """The detections of one image, best first. `len(results)` boxes; iterating gives `Box`
    objects.
    """

    detections: Detections
    names: Sequence[str]  # class names in order of their index
    source: str  # path, address, "array 3", "video.mp4 frame 17"
    size: Size  # (h, w) of the original image
    index: int = 0  # frame number in a video, else 0
    path: Path | None = None  # the image file, where there is one
    speed_ms: dict[str, float] = field(
        default_factory=dict
    )  # per image: preprocess, inference, postprocess
    pixels: np.ndarray | None = None  # (H, W, 3) uint8 BGR, None where `path` can be read again
    # a frame of a video or camera, whose pixels a list of results does not keep
    passing: bool = False
    ids: np.ndarray | None = None  # (K,) int64 numbers of the objects, where they are followed
    video: Any = None  # `engine.detect.sources.Video` that the image is a frame of

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Box]:
        ids = [None] * len(self) if self.ids is None else self.ids.tolist()
        for xyxy, score, class_id, number in zip(
            self.boxes.tolist(), self.scores.tolist(), self.classes.tolist(), ids
        ):
            yield Box(tuple(xyxy), score, class_id, self.names[class_id], number)

    def __repr__(self) -> str:
        return f"Results({self.summary()})"

    @property
    def boxes(self) -> np.ndarray:
        """(K, 4) float32 xyxy pixels of the original image."""
        return self.detections.boxes

    xyxy = boxes

    @property
    def xywh(self) -> np.ndarray:
        """(K, 4) float32 centre x, centre y, width, height in pixels."""
        corners = self.boxes
        return np.concatenate(
            ((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1
        )

    @property
    def xyxyn(self) -> np.ndarray:
        """(K, 4) float32 xyxy as fractions of the image's width and height, in [0, 1]."""
        return self.boxes / self._scale()

    @property
    def xywhn(self) -> np.ndarray:
        """(K, 4) float32 xywh as fractions of the image's width and height."""
        return self.xywh / self._scale()

    @property
    def scores(self) -> np.ndarray:
        """(K,) float32 in [0, 1], descending."""
        return self.detections.scores

    @property
    def classes(self) -> np.ndarray:
        """(K,) int64, index into `names`."""
        return self.detections.classes

    @property
    def labels(self) -> list[str]:
        """The class name of every box."""
        return [self.names[i] for i in self.classes.tolist()]

    @property
    def image(self) -> np.ndarray:
        """(H, W, 3) uint8 BGR. Raises DataError when the file it came from, or the frame of a
        video, has gone.
        """
        if self.pixels is not None:
            return self.pixels
        if self.path is None:
            raise DataError(
                f"{self.source}: the image was not kept; use stream=True and plot within the loop."
            )
        from engine.data.images import read_image

        return read_image(self.path)

    def without_pixels(self) -> Results:
        """The same without the image in memory, where it can be read again from its file or was
        only passing by.
        """
        return replace(self, pixels=None) if self.path is not None or self.passing else self

    def summary(self) -> str:
        """`cells.jpg 480x640: 3 RBC, 1 WBC`, for a line per image."""
        counts: dict[str, int] = {}
        for label in self.labels:
            counts[label] = counts.get(label, 0) + 1
        found = ", ".join(f"{count} {name}" for name, count in counts.items()) or "nothing found"
        return f"{self.source} {self.size[0]}x{self.size[1]}: {found}"

    def plot(self) -> np.ndarray:
        """A copy of the image with boxes, names and scores drawn, and numbers of objects where they
        are followed, (H, W, 3) uint8 BGR.
        """
        from engine.plots import draw_detections

        return draw_detections(self.image, self.detections, self.names, ids=self.ids)

    def save(self, path: str | Path) -> Path:
        """Write the plotted image; the suffix chooses the format, `.jpg` where there is none.
        Returns the path.
        """
        from engine.plots import write_image

        return write_image(self.plot(), Path(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data: source, size, and one entry per box. Coordinates in pixels, rounded to a
        hundredth.

        Bytes of a file name that are not UTF-8 become U+FFFD: text that JSON can hold."""
        return {
            "source": self.source.encode("utf-8", "surrogateescape").decode("utf-8", "replace"),
            "index": self.index,
            "height": self.size[0],
            "width": self.size[1],
            "detections": [
                {
                    "class": box.class_id,
                    "name": box.name,
                    "score": round(box.score, 5),
                    "xyxy": [round(value, 2) for value in box.xyxy],
                    **({} if box.id is None else {"id": box.id}),
                }
                for box in self
            ],
        }

    def to_json(self, indent: int | None = None) -> str:
        """`to_dict` as JSON text, one line unless `indent` is given."""
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row per box. Raises DataError with the remedy when pandas is
        not installed.
        """
        try:
            import pandas
        except ImportError:
            raise DataError(
                "to_dataframe() needs pandas: pip install pandas, or use to_dict()."
            ) from None
        columns = {"source": [self.source] * len(self), "index": [self.index] * len(self)}
        columns |= {} if self.ids is None else {"id": self.ids}
        columns |= {"class": self.classes, "name": self.labels, "score": self.scores}
        columns |= dict(zip(("x1", "y1", "x2", "y2"), self.boxes.reshape(-1, 4).T))
        return pandas.DataFrame(columns)

    def _scale(self) -> np.ndarray:
        h, w = self.size
        return np.array([w, h, w, h], np.float32)
