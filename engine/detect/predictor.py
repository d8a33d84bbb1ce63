"""Detection on images and videos: source -> letterbox -> model -> NMS -> `Results`.

The loop, events and skipping of unreadable inputs are `BasePredictor`'s. An image is seen
whole or, with `tile`, also in overlapping pieces (small objects in large images); both go the same
way, as one or as many `View`s.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine.config import PredictConfig, TrackConfig
from engine.core.predictor import BasePredictor
from engine.data.transforms import RatioPad, letterbox, to_original
from engine.detect.look_thrice import look_thrice
from engine.detect.operating_point import select
from engine.detect.results import Results, file_stem
from engine.detect.runtime import Runtime, load_runtime
from engine.detect.sources import (
    IMAGE_SUFFIXES,
    VIDEO_SUFFIXES,
    Frame,
    Skipped,
    Source,
    Video,
    open_source,
)
from engine.detect.tiles import merge_tiles, touches_seam
from engine.detect.tiles import tile_corners as corners_of
from engine.detect.tracking import ObjectTracker, tracker_class
from engine.detect.videos import SUFFIX as VIDEO_SUFFIX
from engine.detect.videos import VideoWriter
from engine.errors import ConfigError, nearest
from engine.files import make_folder
from engine.metrics.operating_point import OperatingPoint
from engine.models.nms import nms, warm_up
from engine.plots.images import write_image
from engine.types import Detections, Size

log = logging.getLogger(__name__)

CSV_HEAD = "source,index,id,class,name,score,x1,y1,x2,y2\n"
TABLES = ("detections.jsonl", "detections.csv")
NEW_TRACK_CONF = 0.25  # where neither the user nor the model says one
MOST_FILMS = 3  # named in a line
MOST_NAMED = 10  # classes in a line


@dataclass(frozen=True)
class View:
    """A part of a frame as the model sees it: all of it, or a tile. `corner` is its (x, y) in the
    frame.
    """

    frame: Frame
    image: np.ndarray  # (h, w, 3) uint8 BGR, a view into the frame's pixels
    corner: tuple[int, int] = (0, 0)
    last: bool = True  # with this one all of the frame has been seen

    @property
    def is_tile(self) -> bool:
        return self.image.shape != self.frame.image.shape


class DetectionPredictor(BasePredictor):
    """Find objects: `DetectionPredictor(overrides={"model": "weights/best.pt", "conf":
    0.4})("images/")` -> list of `Results`.
    """

    config_class = PredictConfig
    color_mode = "class"  # whether boxes of one class have one colour; else "instance"
    config: PredictConfig
    model: Runtime

    def __init__(self, overrides: dict[str, Any] | None = None):
        super().__init__(overrides)
        self.out = Path(self.config.project) / self.config.name
        self.ratio_pads: Sequence[
            RatioPad
        ] = ()  # of the running batch; set by preprocess, read by postprocess
        # inputs of the running source; None: not known (a video, a camera)
        self.total: int | None = None
        self._size: Size = (0, 0)  # of the network input, known with the model
        self._wanted: tuple[int, ...] | None = None  # class indices to report, None: all
        # thresholds and calibration that the model brings; None: `conf` and its scores as they are
        self.operating_point: OperatingPoint | None = None
        self._limits = np.zeros(0)  # (C,) scores of the network that these mean
        self._views: list[
            tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
        ] = []  # of the frame under way
        self._written = 0  # results of this run
        self._images = 0  # images that were written of them
        self._tracking: Any = None  # the predictor of `track`, made when it is asked for
        self._videos = VideoWriter(self._video_path)
        self._files: dict[str, int] = {}  # file -> how many of this name were written in this run

    def get_model(self) -> Runtime:
        """The detector of `config.model`; override to bring any callable with the attributes of
        `Runtime`.
        """
        return load_runtime(self.config.model, self.config.device)

    def setup(self) -> None:
        super().setup()
        warm_up()
        self._size = self.model.input_size(self.config.imgsz)
        self._wanted = class_indices(self.config.classes, self.model.names)
        # the model may be a callable of the user's own
        if self.config.half and self.model.device.type != "cuda":
            log.warning(
                "half: float16 is for GPUs; on %s it is computed in float32", self.model.device
            )
        self.operating_point = point = getattr(self.model, "operating_point", None)
        if point is not None:
            given = self.lowest_score()
            self._limits = point.limits(given)
            if given is None and self.config.verbose:
                log.info("%s", described(point, self.model.names))

    def lowest_score(self) -> float | None:
        """One score for all classes from which boxes are reported; None: the model's thresholds."""
        return self.config.conf if self.config.is_given("conf") else None

    def track(
        self, source: Any = None, stream: bool | None = None, persist: bool = False
    ) -> list[Results] | Iterator[Results]:
        """Results whose boxes have the numbers of their objects, `ids`: see `TrackingPredictor`,
        which is made once, of these settings.
        """
        if self._tracking is None:
            given = {name: getattr(self.config, name) for name in self.config.model_fields_set}
            self._tracking = TrackingPredictor({"name": self.config.name, **given})
        return self._tracking.track(source, stream, persist)

    def get_source(self, source: Any) -> Source:
        opened = open_source(source, self.config.vid_stride)
        self.total = opened.len_hint
        return opened

    def is_skipped(self, item: Any) -> bool:
        return isinstance(item, Skipped)

    def report_skipped(self, item: Skipped) -> None:
        log.warning("skipped %s", item)

    def batch_size(self, source: Source) -> int:
        # A camera must not wait for fifteen more frames before the first is processed.
        return 1 if source.live and not self.config.is_given("batch") else self.config.batch

    def views(self, item: Frame) -> Iterator[View]:
        """The whole frame, and with `tile` its pieces when it is larger than one tile."""
        h, w = item.image.shape[:2]
        tile = self.config.tile
        if tile is None or (h <= tile and w <= tile):
            yield View(item, item.image)
            return
        yield View(item, item.image, last=False)
        corners = corners_of((h, w), tile, self.config.tile_overlap)
        for number, (x, y) in enumerate(corners, 1):
            yield View(
                item, item.image[y : y + tile, x : x + tile], (x, y), last=number == len(corners)
            )

    def preprocess(self, batch: Sequence[View]) -> Tensor:
        """(B, 3, H, W) float RGB in [0, 1], each view letterboxed to the network input."""
        # Images are not enlarged, as in validation; tiles are, they are there to make small things
        # large.
        boxed, self.ratio_pads = zip(
            *(letterbox(v.image, self._size, scaleup=v.is_tile) for v in batch)
        )
        stacked = np.ascontiguousarray(np.stack(boxed)[..., ::-1].transpose(0, 3, 1, 2))
        return torch.from_numpy(stacked).to(self.model.device).float() / 255

    def inference(self, inputs: Tensor) -> Any:
        """The model's candidates; with `augment` those of three looks at each view."""
        device = self.model.device.type
        with torch.autocast("cuda", torch.float16, enabled=self.config.half and device == "cuda"):
            return look_thrice(self.model, inputs) if self.config.augment else self.model(inputs)

    def detections(self, outputs: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Of each view: boxes (K, 4) xyxy px of the network input, scores (K,), classes (K,) int64,
        best first.

        outputs: of the model, boxes (B, N, 4) and scores (B, N, C); override it for a callable that
        answers otherwise. Where the model brings an operating point, scores are calibrated; without
        a `conf` a class counts from its own threshold on."""
        boxes, scores = outputs
        c, point = self.config, self.operating_point
        images = [(b[None], s[None]) for b, s in zip(boxes, scores)]
        if point is not None:
            chosen = (select(b[0], s[0], point, self._limits) for b, s in images)
            images = [(b[None], s[None]) for b, s in chosen]
        return [
            nms(
                b,
                s,
                c.conf if point is None else 0.0,
                c.iou if self.model.needs_nms or c.augment else None,
                max_det=c.max_det,
                multi_label=False,
                agnostic=c.agnostic_nms,
                classes=self._wanted,
            )[0]
            for b, s in images
        ]

    def postprocess(self, outputs: Any, batch: Sequence[View]) -> list[Results]:
        """The results of all frames that are complete with this batch."""
        c, results = self.config, []
        for view, ratio_pad, (view_boxes, *others) in zip(
            batch, self.ratio_pads, self.detections(outputs)
        ):
            shape = view.image.shape[:2]
            local = to_original(view_boxes.float().cpu().numpy(), ratio_pad, shape)
            in_frame = local + np.array(view.corner * 2, np.float32)
            cut = touches_seam(in_frame, view.corner, shape, view.frame.image.shape[:2])
            self._views.append((in_frame, *(each.cpu().numpy() for each in others), cut))
            if view.last:
                views, self._views = self._views, []
                results.append(
                    self._result(view.frame, merge_tiles(views, c.iou, c.max_det, c.agnostic_nms))
                )
        return results

    def retain(self, result: Results) -> Results:
        return result.without_pixels()

    def write_results(self, result: Results) -> None:
        """Under `project/name`: the image with its boxes (`save`), of a video an mp4 and its frames
        as images (`save_frames`); a line of `detections.jsonl` (`save_json`); lines of
        `detections.csv` (`save_csv`); `labels/NAME.txt` (`save_txt`); `crops/CLASS/NAME.jpg`
        (`save_crop`).
        """
        self._written += 1
        if self.config.verbose:
            log.info(
                "%s",
                result.line
                if self.total is None
                else f"{self._written}/{self.total} {result.line}",
            )
        c = self.config
        if c.show:
            result.show(**c.drawing())
        if not c.writes():
            return
        make_folder(self.out)
        name = self._image_name(result)
        if c.save:
            plotted = result.plot(**c.drawing(), color_mode=self.color_mode)
            if result.video is not None:
                self._videos.add(result.video, result.index, plotted)
            if result.video is None or c.save_frames:
                write_image(plotted, self._unique(self.out, *name))
                self._images += 1
        if c.save_txt:
            result.save_txt(self._unique(self.out / "labels", name[0], ".txt"), c.save_conf)
        if c.save_crop:
            result.save_crop(self.out / "crops", self._unique(self.out / "crops", name[0], ".jpg"))
        if c.save_json:
            self._append(TABLES[0], result.to_json() + "\n")
        if c.save_csv:
            self._append(TABLES[1], csv_lines(result), CSV_HEAD)

    def _append(self, name: str, text: str, head: str = "") -> None:
        """Add text to a file of this run; the first time it is made anew, with `head`."""
        path = self.out / name
        mode, text = ("a", text) if str(path) in self._files else ("w", head + text)
        self._files[str(path)] = 1
        with path.open(mode, encoding="utf-8", newline="") as file:
            file.write(text)

    def _run(self, source: Iterable[Any]) -> Iterator[Results]:
        self._views, self._files, self._written, self._images = [], {}, 0, 0
        self._videos = VideoWriter(self._video_path)
        return self._closing(super()._run(source))

    def _closing(self, results: Iterator[Results]) -> Iterator[Results]:
        """What is written of a video gets its end also where the run is left or fails."""
        try:
            yield from results
        finally:
            self._videos.close()

    def _result(self, frame: Frame, detections: Detections) -> Results:
        size = frame.image.shape[:2]
        return Results(
            detections,
            self.model.names,
            frame.name,
            size,
            frame.index,
            frame.path,
            self.speed_ms,  # filled when the batch is done
            frame.image,
            frame.passing,
            video=frame.video,
            save_dir=self.out if self.config.writes() else None,
        )

    def _image_name(self, result: Results) -> tuple[str, str]:
        """(stem, suffix) of the files of a result; of an address without its query."""
        name = Path(result.source.split("?")[0])
        if name.suffix.lower() in IMAGE_SUFFIXES:
            return file_stem(name.name), name.suffix.lower()
        return file_stem(name.name, whole=True), ".jpg"

    def _unique(self, folder: Path, stem: str, suffix: str) -> Path:
        """Where a file goes; those of one name in one run get numbers."""
        path = folder / f"{stem}{suffix}"
        self._files[str(path)] = count = self._files.get(str(path), 0) + 1
        return path if count == 1 else folder / f"{stem}-{count}{suffix}"

    def _video_path(self, video: Video) -> Path:
        """Where the film of a video goes."""
        name = Path(video.name.split("?")[0].rstrip("/"))
        whole = name.suffix.lower() not in VIDEO_SUFFIXES
        return self._unique(self.out, file_stem(name.name, whole), VIDEO_SUFFIX)

    @property
    def videos(self) -> list[Path]:
        """The films that were written in this run."""
        return self._videos.written

    def written(self) -> list[str]:
        """What this run wrote, in words."""
        films = [path.name for path in self.videos]
        films = films if len(films) <= MOST_FILMS else [f"{len(films)} films"]
        tables = [name for name in TABLES if str(self.out / name) in self._files]
        images = ["images"] if self._images else []
        folders = [
            name
            for name, wanted in (("labels", self.config.save_txt), ("crops", self.config.save_crop))
            if wanted
        ]
        return [*images, *films, *tables, *folders]


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
        self._tracker: ObjectTracker | None = None

    def track(
        self, source: Any = None, stream: bool | None = None, persist: bool = False
    ) -> list[Results] | Iterator[Results]:
        """As calling it; persist: the source goes on where the last one ended, as frames do that
        are given one by one.
        """
        self.persist = persist
        return self(source, stream)

    def setup(self) -> None:
        tracker_class()  # before a model is read and a video opened
        super().setup()

    def lowest_score(self) -> float | None:
        """Boxes of low scores go on with tracks, whatever thresholds the model brings."""
        return self.config.conf

    def postprocess(self, outputs: Any, batch: Sequence[View]) -> list[Results]:
        results = super().postprocess(outputs=outputs, batch=batch)
        return [self._tracker.follow(each) for each in results]

    def _run(self, source: Iterable[Any]) -> Iterator[Results]:
        if self._tracker is None or not self.persist:
            self._tracker = ObjectTracker(self.config, self._starts())
        return super()._run(source)

    def _starts(self) -> np.ndarray:
        """(C,) scores from which boxes begin tracks."""
        point, given = self.operating_point, self.config.new_track_conf
        if given is None and point is not None:
            return np.array(point.thresholds)
        return np.full(len(self.model.names), NEW_TRACK_CONF if given is None else given)


def csv_lines(result: Results) -> str:
    """A line of a table for each box; `CSV_HEAD` names the columns."""
    data = result.to_dict()
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for each in data["detections"]:
        row = (data["source"], data["index"], each.get("id", ""), each["class"], each["name"])
        writer.writerow((*row, each["score"], *each["xyxy"]))
    return lines.getvalue()


def described(point: OperatingPoint, names: Sequence[str]) -> str:
    """The thresholds that are used where a call names no `conf`, in a line."""
    listed = [f"{name} {t:.2f}" for name, t in zip(names, point.thresholds)]
    more = f", and {len(listed) - MOST_NAMED} more" if len(listed) > MOST_NAMED else ""
    return (
        f"thresholds of the model ({point.goal}, chosen on {point.chosen_on}): "
        f"{', '.join(listed[:MOST_NAMED])}{more}; conf= sets one for all classes"
    )


def class_indices(wanted: Sequence[int | str] | None, names: Sequence[str]) -> list[int] | None:
    """Indices of classes given by number or name; None, meaning all, stays None. ConfigError for an
    unknown one.
    """
    if wanted is None:
        return None
    indices = []
    for one in wanted:
        if isinstance(one, str) and one in names:
            indices.append(list(names).index(one))
        elif str(one).isdecimal() and int(one) < len(names):
            indices.append(int(one))
        else:
            hint = nearest(str(one), names)
            raise ConfigError(
                f"classes: the model has no class {one!r}.{hint} It knows: {', '.join(names)}."
            )
    return indices
