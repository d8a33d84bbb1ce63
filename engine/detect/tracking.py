"""Objects followed through a video: each keeps a number from frame to frame.

ByteTrack (2110.06864) of the package `trackers`: boxes are joined by their overlap with where a
Kalman filter expects each object; first those of sure detections, then those of unsure ones, which
go on with a track but begin none. Which class a box has does not matter for it. The package is the
extra `track`; nothing else needs it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from engine.config import TrackConfig
from engine.detect.results import Results
from engine.detect.sources import DEFAULT_FPS
from engine.errors import ConfigError
from engine.types import Detections

INSTALL = "pip install --no-deps 'trackers>=2.6,<3' supervision pydeprecate"
BUFFER_FPS = 30  # frames a second in which the package counts how long a lost object is kept
SURE, UNSURE = 1.0, 0.0  # what the tracker is told of a box: whether it may begin a track


class ObjectTracker:
    """Follows the objects of one video after the other.

    starts: (C,) score from which a box of each class begins a track.
    """

    def __init__(self, config: TrackConfig, starts: np.ndarray):
        self._config = config
        self._starts = starts.astype(np.float32)  # as scores are
        self._tracker: Any = None
        self._video: Any = None  # whose objects it follows; None: images, as one video

    def follow(self, result: Results) -> Results:
        """The result with those of its boxes that belong to an object, and their numbers, from 1 on
        in every video. The results of a video come in the order of its frames.
        """
        from supervision import Detections as Boxes

        if self._tracker is None or result.video is not self._video:
            self._tracker, self._video = self._new_tracker(result), result.video
        found = result.detections
        sure = found.scores >= self._starts[found.classes]
        tracked = self._tracker.update(
            Boxes(
                xyxy=found.boxes.astype(np.float64).reshape(-1, 4),
                confidence=np.where(sure, SURE, UNSURE),
                class_id=found.classes,
                data={"row": np.arange(len(found))},
            )
        )
        ids = np.full(len(found), -1, np.int64)
        ids[np.asarray(tracked.data.get("row", ()), np.int64)] = tracked.tracker_id
        kept = ids >= 0
        seen = Detections(found.boxes[kept], found.scores[kept], found.classes[kept])
        return replace(result, detections=seen, ids=ids[kept] + 1)

    def _new_tracker(self, result: Results) -> Any:
        half = (SURE + UNSURE) / 2
        fps = DEFAULT_FPS if result.video is None else result.video.fps
        return tracker_class()(
            lost_track_buffer=round(self._config.track_buffer_s * BUFFER_FPS),
            frame_rate=fps / self._config.vid_stride,
            track_activation_threshold=half,
            high_conf_det_threshold=half,
            minimum_iou_threshold=self._config.track_iou,
        )


def tracker_class() -> Any:
    """ByteTrack.

    Raises:
        ConfigError: the extra is not installed; says how it is.
    """
    try:
        from trackers import ByteTrackTracker
    except ImportError as error:
        raise ConfigError(
            f"track needs the package trackers ({error}). `make install` brings it; elsewhere: "
            f"{INSTALL} (without dependencies: they would replace opencv-python-headless)"
        ) from None
    return ByteTrackTracker
