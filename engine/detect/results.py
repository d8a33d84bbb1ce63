"""What a prediction gives for one image: boxes in every form, as text, table or plot.

Holds numpy arrays and no model; `boxes` gives torch tensors of them. An image that came from a file
is read again when it is needed, so that a list of a thousand results does not hold a thousand
images. Conventions of boxes and images: `engine/types.py`. The names that people know from
Ultralytics' `Results` mean the same here; what is called otherwise is said in
`engine.detect.familiar`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from engine.detect.class_names import ClassNames
from engine.detect.familiar import RESULT_WAYS, not_here, public_names
from engine.detect.image_path import ImagePath
from engine.detect.result_boxes import ARRAYS, TENSORS, Boxes, Form, as_key, scale_of, to_xywh
from engine.errors import ConfigError, DataError, nearest
from engine.files import write_text
from engine.types import Detections, Size

NOT_DRAWN = ("masks", "probs", "kpt_radius", "kpt_line")  # of `plot`: there is none of it
ONLY_BY_DEFAULT = ("font", "im_gpu", "txt_color")  # of `plot`: our letters, our colours


@dataclass(frozen=True)
class Box:
    """One detection, as a loop over `Results` gives it. What it does not say itself, the `Results`
    of this one box does: `box.boxes.conf`, `box.plot()`.
    """

    xyxy: tuple[float, float, float, float]  # pixels of the original image
    score: float
    class_id: int
    name: str
    id: int | None = None  # of the object that it is of, where objects are followed
    # the result that it is in, and its place there
    where: tuple[Results, int] | None = field(default=None, repr=False, compare=False)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or self.where is None:
            raise AttributeError(f"'Box' object has no attribute '{name}'")
        result, place = self.where
        return getattr(result[place], name)


class Summary(list):
    """A dictionary per box; as text the line `cells.jpg 480x640: 3 RBC, 1 WBC`."""

    def __init__(self, rows: Sequence[dict[str, Any]], line: str):
        super().__init__(rows)
        self.line = line

    def __str__(self) -> str:
        return self.line

    def __contains__(self, one: object) -> bool:
        return one in self.line if isinstance(one, str) else super().__contains__(one)

    def __eq__(self, other: object) -> bool:
        return self.line == other if isinstance(other, str) else super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __reduce__(self) -> Any:
        return Summary, (list(self), self.line)


@dataclass(frozen=True, repr=False)
class Results:
    """The detections of one image, best first. `len(results)` boxes; iterating gives `Box` objects;
    `results[0]`, a slice, a mask or a list of numbers gives the `Results` of these boxes.

    names: the class names in order of their number, or by number.
    """

    detections: Detections
    names: Mapping[int, str]  # class names by number, as `ClassNames`
    source: str  # path, address, "array 3", "video.mp4 frame 17"
    size: Size  # (h, w) of the original image
    index: int = 0  # frame number in a video, else 0
    path: ImagePath | None = None  # the image file as it was named, where there is one
    speed_ms: dict[str, float] = field(
        default_factory=dict
    )  # per image: preprocess, inference, postprocess
    pixels: np.ndarray | None = None  # (H, W, 3) uint8 BGR, None where `path` can be read again
    # a frame of a video or camera, whose pixels a list of results does not keep
    passing: bool = False
    ids: np.ndarray | None = None  # (K,) int64 numbers of the objects, where they are followed
    video: Any = None  # `engine.detect.sources.Video` that the image is a frame of
    save_dir: Path | None = None  # where this run writes; None: nothing is written
    form: Form = TENSORS  # of what `boxes` gives

    def __post_init__(self) -> None:
        if not isinstance(self.names, ClassNames):
            object.__setattr__(self, "names", ClassNames(self.names))
        if self.path is not None:
            object.__setattr__(self, "path", ImagePath(self.path))

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Box]:
        ids = [None] * len(self) if self.ids is None else self.ids.tolist()
        for i, (xyxy, score, class_id, number) in enumerate(
            zip(self.xyxy.tolist(), self.scores.tolist(), self.classes.tolist(), ids)
        ):
            yield Box(tuple(xyxy), score, class_id, self.names[class_id], number, (self, i))

    def __getitem__(self, key: Any) -> Results:
        """The same image with some of the boxes. key: a number, a slice, a list or array of
        numbers, or a mask (K,); tensors too. IndexError: no such box.
        """
        key = as_key(key)
        if isinstance(key, tuple):
            raise DataError(
                f"results[{', '.join(map(str, key))}]: a result is indexed by boxes alone, as "
                "results[0] or results[:3]; columns are those of results.boxes.data"
            )
        found, atleast = self.detections, np.atleast_1d
        boxes = np.asarray(found.boxes)[key].reshape(-1, 4)
        chosen = Detections(boxes, atleast(found.scores[key]), atleast(found.classes[key]))
        ids = None if self.ids is None else atleast(self.ids[key])
        return replace(self, detections=chosen, ids=ids)

    def __repr__(self) -> str:
        return f"Results({self.line})"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"'Results' object has no attribute '{name}'")
        raise not_here("Results", name, RESULT_WAYS, public_names(Results, FIELDS))

    # Boxes ----------------------------------------------------------------------------------------

    @property
    def boxes(self) -> Boxes:
        """(K, 4) float32 xyxy pixels of the original image, as an array; its attributes `xyxy`,
        `xywh`, `xyxyn`, `xywhn`, `conf`, `cls`, `id`, `data` are torch tensors.
        """
        return Boxes.of(self.detections, self.size, self.ids, self.form)

    @property
    def xyxy(self) -> np.ndarray:
        """(K, 4) float32 xyxy pixels of the original image."""
        return self.detections.boxes

    @property
    def xywh(self) -> np.ndarray:
        """(K, 4) float32 centre x, centre y, width, height in pixels."""
        return to_xywh(self.xyxy)

    @property
    def xyxyn(self) -> np.ndarray:
        """(K, 4) float32 xyxy as fractions of the image's width and height, in [0, 1]."""
        return self.xyxy / scale_of(self.size)

    @property
    def xywhn(self) -> np.ndarray:
        """(K, 4) float32 xywh as fractions of the image's width and height."""
        return self.xywh / scale_of(self.size)

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

    masks = None  # this project detects boxes
    keypoints = None
    probs = None
    obb = None

    def cpu(self) -> Results:
        """The same: its tensors are on the CPU to begin with."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Results:
        """The same, with tensors of `boxes` on the GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def to(self, *args: Any, **kwargs: Any) -> Results:
        """The same, with tensors of `boxes` there; arguments as of `torch.Tensor.to`."""
        return replace(self, form=Form.of(args, kwargs))

    def numpy(self) -> Results:
        """The same whose `boxes` have numpy arrays as attributes."""
        return replace(self, form=ARRAYS)

    # Image ----------------------------------------------------------------------------------------

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

        return read_image(self.path.file)

    @property
    def orig_img(self) -> np.ndarray:
        """`image` under the name that many look for."""
        return self.image

    @property
    def orig_shape(self) -> Size:
        """`size`, (h, w), under the name that many look for."""
        return self.size

    @property
    def speed(self) -> dict[str, float]:
        """`speed_ms` under the name that many look for: milliseconds per image."""
        return self.speed_ms

    def without_pixels(self) -> Results:
        """The same without the image in memory, where it can be read again from its file or was
        only passing by.
        """
        return replace(self, pixels=None) if self.path is not None or self.passing else self

    def plot(
        self,
        conf: bool = True,
        line_width: float | None = None,
        font_size: float | None = None,
        pil: bool = False,
        img: np.ndarray | None = None,
        labels: bool = True,
        boxes: bool = True,
        show: bool = False,
        save: bool = False,
        filename: str | Path | None = None,
        color_mode: str = "class",
        **others: Any,
    ) -> Any:
        """A copy of the image with boxes, names and scores drawn, (H, W, 3) uint8 BGR.

        conf, labels, boxes: draw scores, names, anything at all. line_width, font_size: pixels;
        None: by the image's size. pil: a PIL image (RGB) instead. img: draw on a copy of this image
        (uint8 BGR). show, save, filename: also show it, or write it. color_mode: "class" or
        "instance", whether boxes of one class have one colour.
        """
        from engine.plots import draw_detections

        _check_plot(others, color_mode)
        drawn = self.image.copy() if img is None else np.array(img)
        if boxes:
            drawn = draw_detections(
                drawn,
                self.detections,
                tuple(self.names.values()),
                None if line_width is None else max(1, round(line_width)),
                text_px=None if font_size is None else max(6, round(font_size)),
                with_names=labels,
                with_scores=conf,
                ids=self.ids,
                by_class=color_mode == "class",
            )
        if show:
            self._show(drawn)
        if save or filename is not None:
            self._write(drawn, filename)
        if not pil:
            return drawn
        from PIL import Image

        return Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))

    def show(self, **options: Any) -> None:
        """Show the plotted image on the screen, or in the notebook; where there is no screen a
        sentence says so. options: of `plot`.
        """
        self.plot(**{**options, "show": True})

    def save(
        self, path: str | Path | None = None, filename: str | Path | None = None, **options: Any
    ) -> Path:
        """Write the plotted image; the suffix chooses the format, `.jpg` where there is none.
        Without a path it is `results_NAME` in the working directory. options: of `plot`. Returns
        the path.
        """
        return self._write(self.plot(**options), path if path is not None else filename)

    def save_txt(self, txt_file: str | Path, save_conf: bool = False) -> Path:
        """Write a line `class x y w h` per box, centre and size as fractions of the image, as YOLO
        labels are; with `save_conf` the score after it, and at the end the track where there is
        one. The file is written anew; without a box it is empty. Returns the path.
        """
        lines = []
        for i, (kind, row) in enumerate(zip(self.classes.tolist(), self.xywhn.tolist())):
            values = [*row, float(self.scores[i])] if save_conf else row
            track = [str(int(self.ids[i]))] if self.ids is not None else []
            lines.append(" ".join([str(kind), *(f"{value:.6g}" for value in values), *track]))
        write_text(txt_file, "".join(f"{line}\n" for line in lines))
        return Path(txt_file)

    def save_crop(self, save_dir: str | Path, file_name: str | Path = "im.jpg") -> list[Path]:
        """Write what is inside each box, as `save_dir/CLASS/NAME.jpg`, the second of a class
        `NAME2.jpg` and so on. Returns the paths; boxes without a pixel are left out.
        """
        from engine.plots import write_image

        if not len(self):
            return []
        image, written, counts = self.image, [], {}
        stem, limit = file_stem(str(file_name)), np.array([*self.size[::-1]] * 2)
        for xyxy, label in zip(self.xyxy, self.labels):
            x1, y1, x2, y2 = np.clip(np.nan_to_num(xyxy), 0, limit).round().astype(int).tolist()
            if x2 <= x1 or y2 <= y1:
                continue
            folder = Path(save_dir) / file_stem(label, whole=True)
            counts[folder] = count = counts.get(folder, 0) + 1
            target = folder / f"{stem}{count if count > 1 else ''}.jpg"
            written.append(write_image(image[y1:y2, x1:x2], target))
        return written

    # Text and tables ------------------------------------------------------------------------------

    @property
    def line(self) -> str:
        """`cells.jpg 480x640: 3 RBC, 1 WBC`, for a line per image."""
        found = self.verbose() or "nothing found"
        return f"{self.source} {self.size[0]}x{self.size[1]}: {found}"

    def verbose(self) -> str:
        """`3 RBC, 1 WBC`; empty where nothing was found."""
        counts: dict[str, int] = {}
        for label in self.labels:
            counts[label] = counts.get(label, 0) + 1
        return ", ".join(f"{count} {name}" for name, count in counts.items())

    def summary(self, normalize: bool = False, decimals: int = 5) -> Summary:
        """A dictionary per box: name, class, confidence, box (x1, y1, x2, y2 in pixels, or with
        `normalize` as fractions), and track_id where there are tracks; rounded to `decimals`.
        As text, `print(result.summary())`, it is `line`.
        """
        corners = self.xyxyn if normalize else self.xyxy
        rows = []
        for i, box in enumerate(np.asarray(corners, np.float64).tolist()):
            kind = int(self.classes[i])
            row = {
                "name": self.names[kind],
                "class": kind,
                "confidence": round(float(self.scores[i]), decimals),
                "box": {
                    key: round(value, decimals) for key, value in zip(("x1", "y1", "x2", "y2"), box)
                },
            }
            if self.ids is not None:
                row["track_id"] = int(self.ids[i])
            rows.append(row)
        return Summary(rows, self.line)

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

    def to_json(
        self,
        indent: int | None = None,
        normalize: bool | None = None,
        decimals: int | None = None,
    ) -> str:
        """`to_dict` as JSON text, one line unless `indent` is given. With `normalize` or `decimals`
        it is `summary` as JSON text, a list, as `tojson` gives it.
        """
        if normalize is None and decimals is None:
            return json.dumps(self.to_dict(), ensure_ascii=False, indent=indent)
        places = 5 if decimals is None else decimals
        rows = list(self.summary(bool(normalize), places))
        return json.dumps(rows, ensure_ascii=False, indent=indent)

    def tojson(self, normalize: bool = False, decimals: int = 5) -> str:
        """`summary` as JSON text: a list with an object per box."""
        return self.to_json(indent=2, normalize=normalize, decimals=decimals)

    def to_df(self, normalize: bool = False, decimals: int = 5) -> Any:
        """`summary` as a pandas DataFrame: name, class, confidence, box. DataError: no pandas."""
        columns = ["name", "class", "confidence", "box", *(["track_id"] if self.is_tracked else [])]
        rows = list(self.summary(normalize, decimals))
        return _pandas("to_df").DataFrame(rows, columns=columns)

    def to_csv(self, normalize: bool = False, decimals: int = 5) -> str:
        """`to_df` as CSV text. DataError: no pandas."""
        return self.to_df(normalize, decimals).to_csv()

    def to_dataframe(self) -> Any:
        """A pandas DataFrame with a row per box. Raises DataError with the remedy when pandas is
        not installed.
        """
        pandas = _pandas("to_dataframe")
        columns = {"source": [self.source] * len(self), "index": [self.index] * len(self)}
        columns |= {} if self.ids is None else {"id": self.ids}
        columns |= {"class": self.classes, "name": self.labels, "score": self.scores}
        columns |= dict(zip(("x1", "y1", "x2", "y2"), self.xyxy.reshape(-1, 4).T))
        return pandas.DataFrame(columns)

    @property
    def is_tracked(self) -> bool:
        """Whether the boxes have numbers of tracks."""
        return self.ids is not None

    # Inside ---------------------------------------------------------------------------------------

    def _write(self, drawn: np.ndarray, path: str | Path | None) -> Path:
        from engine.plots import write_image

        if path is None:
            path = f"results_{file_stem(self.source)}.jpg"
        return write_image(drawn, Path(path))

    def _show(self, drawn: np.ndarray) -> None:
        from engine.plots.screen import show_image

        title = self.source.rpartition(" frame ")[0] if self.passing else self.source
        show_image(drawn, title, is_frame=self.passing)


FIELDS = tuple(Results.__dataclass_fields__)


def file_stem(name: str, whole: bool = False) -> str:
    """A plain file name from that of a source or a class: letters, digits, `-_.+`, never hidden.

    whole: nothing of it is a suffix or a folder.
    """
    stem = name if whole else Path(name).stem
    clean = "".join(letter if letter.isalnum() or letter in "-_.+" else "_" for letter in stem)
    return clean.lstrip(".") or "image"


def _check_plot(others: Mapping[str, Any], color_mode: str) -> None:
    """ConfigError: an option of `plot` that is none, or that would be a colour or a font of one's
    own.
    """
    if color_mode not in ("class", "instance"):
        raise ConfigError(f"plot: color_mode is 'class' or 'instance', got {color_mode!r}")
    for name, value in others.items():
        if name in NOT_DRAWN:
            continue  # whatever is asked for, there is nothing of it to draw
        if name in ONLY_BY_DEFAULT:
            if value is not None:
                raise ConfigError(
                    f"plot: {name}={value!r} is not done here: letters have the font and the "
                    "colour that can be read on each class's colour; draw your own with OpenCV on "
                    "`result.orig_img` and `result.boxes.xyxy`"
                )
            continue
        known = [key for key in Results.plot.__annotations__ if key not in ("others", "return")]
        raise ConfigError(
            f"plot: unknown option '{name}'.{nearest(name, known)} There are: {', '.join(known)}"
        )


def _pandas(method: str) -> Any:
    try:
        import pandas
    except ImportError:
        raise DataError(f"{method}() needs pandas: pip install pandas, or use to_dict().") from None
    return pandas
