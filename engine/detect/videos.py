"""Films of what a prediction found: the frames of a video with their boxes drawn, as mp4.

MPEG-4 Part 2 (`mp4v`) is what OpenCV's headless wheels can write everywhere; desktop players show
it, browsers do not. H.264 is not in them, VP9 takes them twenty times as long.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engine.detect.sources import Video
from engine.errors import WorkspaceError

log = logging.getLogger(__name__)

CODEC = "mp4v"
SUFFIX = ".mp4"
MOST_REPEATED = 100  # frames: a longer gap is a cut


@dataclass
class _Film:
    """One film that is being written, under another name until it is whole."""

    video: Video
    path: Path
    partial: Path
    writer: cv2.VideoWriter | None  # None: it cannot be written here
    shape: tuple[int, ...]
    last: np.ndarray
    index: int  # of the last frame
    frames: int = 0


class VideoWriter:
    """Writes plotted frames, one film a video; the videos come one after the other.

    name_of: the path of a video's film, asked once for each. `written`: the films that are whole.
    """

    def __init__(self, name_of: Callable[[Video], Path]):
        self._name_of = name_of
        self._film: _Film | None = None
        self.written: list[Path] = []

    def add(self, video: Video, index: int, image: np.ndarray) -> None:
        """Frame `index` of `video`, (H, W, 3) uint8 BGR. Where frames before it are missing the
        last one is shown longer, so that the film keeps the time of the video.

        Raises:
            WorkspaceError: the film before could not be written whole.
        """
        film = self._film
        if film is None or film.video is not video or film.shape != image.shape:
            self.close()
            film = self._film = self._open(video, index, image)
        if film.writer is None:
            return
        gap = index - film.index - 1
        for _ in range(gap if gap <= MOST_REPEATED else 0):
            film.writer.write(film.last)
            film.frames += 1
        film.writer.write(image)
        film.last, film.index, film.frames = image, index, film.frames + 1

    def close(self) -> None:
        """Finish the film under way; it has its name from now on.

        Raises:
            WorkspaceError: it lacks frames, as on a full disk.
        """
        film, self._film = self._film, None
        if film is None or film.writer is None:
            return
        film.writer.release()
        frames = _frames_of(film.partial)
        if frames < film.frames:
            film.partial.unlink(missing_ok=True)
            raise WorkspaceError(
                f"{film.path}: only {frames} of {film.frames} frames could be written. Is the disk "
                "full? save=false writes no film"
            )
        os.replace(film.partial, film.path)
        self.written.append(film.path)

    def _open(self, video: Video, index: int, image: np.ndarray) -> _Film:
        path = self._name_of(video)
        partial = path.with_name(f".{path.stem[:40]}.partial{SUFFIX}")
        h, w = image.shape[:2]
        writer = cv2.VideoWriter(str(partial), cv2.VideoWriter_fourcc(*CODEC), video.fps, (w, h))
        if not writer.isOpened():
            log.warning(
                "%s: no film is written: OpenCV %s has no encoder for %s here, %dx%d at %g frames "
                "a second",
                path,
                cv2.__version__,
                CODEC,
                w,
                h,
                video.fps,
            )
            partial.unlink(missing_ok=True)
            writer = None
        return _Film(video, path, partial, writer, image.shape, image, index - 1)


def _frames_of(path: Path) -> int:
    """How many frames a film says it has; 0 where it cannot be read."""
    capture = cv2.VideoCapture(str(path))
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()
