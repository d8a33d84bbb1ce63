"""Objects followed through a video: each keeps a number from frame to frame.

ByteTrack (2110.06864) of the package `trackers`: boxes are joined by their overlap with where a
Kalman filter expects each object; first those of sure detections, then those of unsure ones, which
go on with a track but begin none. Which class a box has does not matter for it. The package is the
extra `track`; nothing else needs it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.config import TrackConfig
from engine.detect.predictor import DetectionPredictor
from engine.detect.results import Results
from engine.detect.sources import DEFAULT_FPS
from engine.errors import ConfigError
from engine.types import Detections

INSTALL = "pip install --no-deps 'trackers>=2.6,<3' supervision pydeprecate"
NEW_TRACK_CONF = 0.25  # where neither the user nor the model says one
SURE, UNSURE = 1.0, 0.0  # what the tracker is told of a box: whether it may begin a track


class TrackingPredictor(DetectionPredictor):
    """`DetectionPredictor` whose results have `ids`: one number for an object, from 1 on in every
    video. Images that are no video are taken as frames of one, in their order.

    Reported are boxes of known objects; an object has its number from its second frame on.
    """

    config_class = TrackConfig
    color_mode = "instance"
    config: TrackConfig

    def __init__(self, overrides: dict[str, Any] | None = None):
        super().__init__(overrides)
        self.persist = False  # whether a call goes on with the objects of the one before
        self._tracker: Any = None
        self._video: Any = None  # whose objects `_tracker` follows
        self._starts = np.zeros(0)  # (C,) score from which a box of a class begins a track

    def track(
        self, source: Any = None, stream: bool | None = None, persist: bool = False
    ) -> list[Results] | Iterator[Results]:
        """As calling it; persist: the source goes on where the last one ended, as frames do that
        are given one by one.
        """
        self.persist = persist
        return self(source, stream)

    def setup(self) -> None:
        tracker_class()  # before a model is read and a film opened
        super().setup()
        classes, point, given = (
            len(self.model.names),
            self.operating_point,
            self.config.new_track_conf,
        )
        if given is None and point is not None:
            self._starts = np.array(point.thresholds, np.float32)
        else:
            self._starts = np.full(classes, NEW_TRACK_CONF if given is None else given)

    def lowest_score(self) -> float | None:
        """Boxes of low scores go on with tracks, whatever thresholds the model brings."""
        return self.config.conf

    def postprocess(self, outputs: Any, batch: Sequence[Any]) -> list[Results]:
        return [self._followed(each) for each in super().postprocess(outputs=outputs, batch=batch)]

    def _run(self, source: Iterable[Any]) -> Iterator[Results]:
        if not self.persist:
            self._tracker = None
        return super()._run(source)

    def _followed(self, result: Results) -> Results:
        """The result with those of its boxes that belong to a track, and their numbers."""
        from supervision import Detections as Boxes

        found = result.detections
        if self._tracker is None or result.video is not self._video:
            self._tracker = self._new_tracker(result)
        sure = found.scores >= self._starts[found.classes]
        boxes = Boxes(
            xyxy=found.boxes.astype(np.float64).reshape(-1, 4),
            confidence=np.where(sure, SURE, UNSURE),
            class_id=found.classes,
            data={"row": np.arange(len(found))},
        )
        tracked = self._tracker.update(boxes)
        rows = np.asarray(tracked.data.get("row", ()), np.int64)
        ids = np.full(len(found), -1, np.int64)
        ids[rows] = tracked.tracker_id
        kept = ids >= 0
        seen = Detections(found.boxes[kept], found.scores[kept], found.classes[kept])
        return replace(result, detections=seen, ids=ids[kept] + 1)

    def _new_tracker(self, result: Results) -> Any:
        self._video = result.video
        fps = DEFAULT_FPS if result.video is None else result.video.fps
        half = (SURE + UNSURE) / 2
        return tracker_class()(
            lost_track_buffer=round(self.config.track_buffer_s * 30),  # counted at 30 a second
            frame_rate=fps / self.config.vid_stride,
            track_activation_threshold=half,
            high_conf_det_threshold=half,
            minimum_iou_threshold=self.config.track_iou,
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
