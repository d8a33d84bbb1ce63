"""The boxes of one image: a numpy array of corners, and the forms that people know as tensors.

The array is what `Results.boxes` always was. Attributes beside it give tensors: `boxes.xyxy`,
`boxes.conf`, `boxes.cls`. Conventions of boxes: `engine/types.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from engine.detect.familiar import not_here, public_names
from engine.errors import DataError
from engine.types import Detections, Size

BOX_WAYS = {
    "xyxys": "the corners are `xyxy`",
    "names": "class names are those of the result: `result.names[int(box.cls)]`",
    "name": "the class name is `result.names[int(box.cls)]`",
    "scores": "scores of a result are `result.scores`, as a tensor `boxes.conf`",
    "classes": "classes of a result are `result.classes`, as a tensor `boxes.cls`",
    "score": "the score is `box.conf`",
    "class_id": "the class is `int(box.cls)`",
    "label": "labels of a result are `result.labels`",
    "pandas": "`result.to_dataframe()` gives a table",
}


@dataclass(frozen=True)
class Form:
    """In which form attributes are given: as arrays, or as tensors, and where."""

    arrays: bool = False
    args: tuple[Any, ...] = ()  # of `torch.Tensor.to`
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, args: tuple[Any, ...], options: Mapping[str, Any]) -> Form:
        """Tensors where `tensor.to(*args, **options)` puts them."""
        return cls(False, args, tuple(options.items()))

    def give(self, values: np.ndarray) -> Any:
        """A float32 copy of `values` in this form."""
        copied = np.array(values, np.float32)
        if self.arrays:
            return copied
        tensor = torch.from_numpy(copied)
        return tensor.to(*self.args, **dict(self.options)) if self.args or self.options else tensor


TENSORS, ARRAYS = Form(), Form(arrays=True)


@dataclass(frozen=True)
class Known:
    """What is known of the rows of a `Boxes`, and the form in which it is given."""

    scores: np.ndarray  # (K,) float32
    classes: np.ndarray  # (K,) int64
    ids: np.ndarray | None  # (K,) int64 of the tracks; None: nothing was tracked
    size: Size  # (h, w) of the image
    form: Form

    def select(self, key: Any) -> Known:
        """The same of some rows."""
        scores, classes, ids = (
            None if each is None else np.atleast_1d(each[key])
            for each in (self.scores, self.classes, self.ids)
        )
        return replace(self, scores=scores, classes=classes, ids=ids)

    def give(self, values: np.ndarray) -> Any:
        """A float32 copy of `values` in the form that is wanted."""
        return self.form.give(values)


class Boxes(np.ndarray):
    """(K, 4) float32 xyxy pixels of the original image, best first; `len(boxes)` objects.

    Beside the array, as torch tensors on the CPU, or as arrays after `numpy()`:

        xyxy, xywh      (K, 4) pixels: corners; centre, width and height
        xyxyn, xywhn    (K, 4) the same as fractions of the image's width and height
        conf, cls       (K,) scores in [0, 1]; classes as floats
        id              (K,) number of the track; None where nothing was tracked
        data            (K, 6) xyxy, conf, cls; with tracks (K, 7) xyxy, id, conf, cls

    A part that was chosen by number, slice, list or mask (also a tensor) has the same; a single box
    is the array of its four corners, and its attributes are of one row.
    """

    _known: Known | None = None

    @classmethod
    def of(
        cls,
        detections: Detections,
        size: Size,
        ids: np.ndarray | None = None,
        form: Form = TENSORS,
    ) -> Boxes:
        """The boxes of `detections` in an image of `size` (h, w); a view of its array."""
        corners = np.asarray(detections.boxes, np.float32).reshape(-1, 4)
        scores = np.asarray(detections.scores, np.float32)
        classes = np.asarray(detections.classes, np.int64)
        tracks = None if ids is None else np.asarray(ids, np.int64)
        return corners.view(cls)._with(Known(scores, classes, tracks, size, form))

    # The array ------------------------------------------------------------------------------------

    def __array_finalize__(self, other: Any) -> None:
        # What numpy makes of it (a copy, a transpose) are numbers: which rows they are is open.
        self._known = None

    def __array_wrap__(self, array: np.ndarray, context: Any = None, return_scalar: bool = False):
        return array[()] if return_scalar else np.asarray(array)

    def __getitem__(self, key: Any) -> Any:
        key = as_key(key)
        part = super().__getitem__(key)
        if not isinstance(part, np.ndarray):
            return part
        rows = self._known is not None and self.ndim == 2 and not isinstance(key, tuple)
        if not rows or np.ndim(key) > 1 or key is None:
            return np.asarray(part)
        return part._with(self._known.select(key))

    def __bool__(self) -> bool:
        return self.size > 0

    def __reduce__(self) -> Any:
        return _restore, (np.asarray(self), self._known)

    def __deepcopy__(self, memo: Any) -> Boxes:
        return _restore(np.array(self), self._known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise not_here("boxes", name, BOX_WAYS, public_names(Boxes))

    # Its rows as people know them -----------------------------------------------------------------

    @property
    def xyxy(self) -> Any:
        """(K, 4) corners in pixels."""
        return self._rows.give(self._corners)

    @property
    def xywh(self) -> Any:
        """(K, 4) centre x, centre y, width, height in pixels."""
        return self._rows.give(to_xywh(self._corners))

    @property
    def xyxyn(self) -> Any:
        """(K, 4) corners as fractions of the image's width and height."""
        return self._rows.give(self._corners / scale_of(self._rows.size))

    @property
    def xywhn(self) -> Any:
        """(K, 4) centre, width and height as fractions of the image's width and height."""
        return self._rows.give(to_xywh(self._corners) / scale_of(self._rows.size))

    @property
    def conf(self) -> Any:
        """(K,) scores in [0, 1], descending."""
        return self._rows.give(self._rows.scores)

    @property
    def cls(self) -> Any:
        """(K,) classes, as floats."""
        return self._rows.give(self._rows.classes)

    @property
    def id(self) -> Any:
        """(K,) numbers of the tracks, as floats; None where nothing was tracked."""
        return None if self._rows.ids is None else self._rows.give(self._rows.ids)

    @property
    def is_track(self) -> bool:
        """Whether the boxes have numbers of tracks."""
        return self._rows.ids is not None

    @property
    def orig_shape(self) -> Size:
        """(h, w) of the image."""
        return self._rows.size

    @property
    def data(self) -> Any:
        """(K, 6) xyxy, conf, cls; with tracks (K, 7), where the track comes before conf."""
        known = self._known
        if known is None:  # numpy's own attribute, of an array that is no rows any more
            return np.ndarray.data.__get__(self)
        columns = [known.scores, known.classes]
        if known.ids is not None:
            columns.insert(0, known.ids)
        return known.give(np.column_stack((self._corners, *columns)))

    def numpy(self) -> Boxes:
        """The same whose attributes are numpy arrays."""
        return self._again(ARRAYS)

    def cpu(self) -> Boxes:
        """The same with attributes on the CPU, where they are to begin with."""
        return self.to("cpu")

    def cuda(self, device: int | None = None) -> Boxes:
        """The same with attributes on the GPU."""
        return self.to("cuda" if device is None else f"cuda:{device}")

    def to(self, *args: Any, **kwargs: Any) -> Boxes:
        """The same whose attributes are tensors there; arguments as of `torch.Tensor.to`."""
        return self._again(Form.of(args, kwargs))

    # Inside ---------------------------------------------------------------------------------------

    @property
    def _rows(self) -> Known:
        if self._known is None:
            raise DataError(
                "these numbers were computed from boxes and are none themselves: take conf, cls, "
                "xywh and the like of `result.boxes`, or of a part of it such as result.boxes[:3]"
            )
        return self._known

    @property
    def _corners(self) -> np.ndarray:
        return np.asarray(self).reshape(-1, 4)

    def _with(self, known: Known) -> Boxes:
        self._known = known
        return self

    def _again(self, form: Form) -> Boxes:
        return self.view()._with(replace(self._rows, form=form))


def _restore(array: np.ndarray, known: Known | None) -> Boxes:
    boxes = array.view(Boxes)
    boxes._known = known
    return boxes


def as_key(key: Any) -> Any:
    """An index as numpy takes it: tensors as arrays, also in a tuple or a list."""
    if isinstance(key, torch.Tensor):
        return key.detach().cpu().numpy()
    if isinstance(key, list) and any(isinstance(each, torch.Tensor) for each in key):
        return [as_key(each) for each in key]
    return tuple(map(as_key, key)) if isinstance(key, tuple) else key


def to_xywh(corners: np.ndarray) -> np.ndarray:
    """(K, 4) xyxy -> centre x, centre y, width, height."""
    return np.concatenate(
        ((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), 1
    )


def scale_of(size: Size) -> np.ndarray:
    """(4,) w, h, w, h: what boxes in pixels are divided by to be fractions of an image."""
    h, w = size
    return np.array([w, h, w, h], np.float32)
