"""Images of the reports as data URLs, made small enough that the page stays one that can be
mailed.
"""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np

MOST_BYTES = 2_000_000  # of all images of a page, before base64 makes them a third larger
JPEG_QUALITY = 82
PLOT_PX = 900  # longer side of a plot


class Pictures:
    """Reads images below the folder of reports; counts what they weigh."""

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.left = folder.resolve(), most_bytes
        self.left_out: list[str] = []  # folders of the images for which there was no room

    def url(self, name: str, side_px: int, of: str = "validate") -> str:
        """The image `name` as a data URL, its longer side at most `side_px`. Empty: it is not
        there, lies outside of its folder, is no image, or there is no room left.

        of: which of the reports has it: the folder that `name` is seen from.
        """
        path = (self.folder / of / name).resolve()
        if not path.is_relative_to(self.folder / of):
            return ""
        try:
            content = path.read_bytes()
        except OSError:
            return ""
        image = (
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
        )
        if image is None:
            return ""
        kind, content = _small(image, content, path.suffix.lower(), side_px)
        if len(content) > self.left:
            self.left_out.append(of)
            return ""
        self.left -= len(content)
        return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _small(image: np.ndarray, content: bytes, suffix: str, side_px: int) -> tuple[str, bytes]:
    """The kind and bytes of the smaller image; the file's own where nothing is gained."""
    gain = side_px / max(image.shape[:2])
    if gain < 1:
        size = tuple(max(round(side * gain), 1) for side in image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
    own = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}.get(suffix)
    if own and gain >= 1 and len(content) <= len(encoded):
        return own, content
    return "jpeg", encoded
