"""The registered model: an ONNX detector that takes encoded images and gives boxes. This file
travels with the model.

MLflow copies it beside the ONNX file and runs it where the model is loaded, so it uses numpy,
OpenCV, onnxruntime and MLflow only, nothing of this project and no pickle. Letterbox, thresholds
and NMS are those of `engine.detect`; a test compares the two.

    model = mlflow.pyfunc.load_model("models:/detector@champion")
    model.predict(pandas.DataFrame({"image": [base64_of_a_jpeg]}), params={"conf":
    0.4})["detections"]

gives one list per image: `[{"class": 0, "name": "RBC", "score": 0.93, "xyxy": [x1, y1, x2, y2]},
...]`, best first, in pixels of the image as it is shown (EXIF rotation applied). A server answers
`{"predictions": [{"detections": [...]}, ...]}`, with lists and numbers as they are.
"""

import base64
import binascii
import json
import os

# Files of a few kilobytes unpack to gigabytes; OpenCV asks at its import.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(178_956_970))

import cv2
import mlflow
import numpy as np
import pandas
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

GREY = 114
IMAGES_PER_CALL = 16

# Where the model is served, nothing is sent to Microsoft either; onnxruntime asks at its import.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


class Refused(MlflowException, ValueError):
    """What was sent cannot be used: a server answers 400 with this sentence. (What MLflow puts
    before it, the table that was sent, tells a client nothing.)
    """

    def __init__(self, sentence):
        self.sentence = sentence
        super().__init__(sentence, error_code=BAD_REQUEST)

    @property
    def message(self):
        return self.sentence

    @message.setter
    def message(self, value):
        pass


class NoImage(Refused):
    """A row that holds no image."""


class NoSuchParam(Refused):
    """A parameter outside its range, which would answer with nothing, or with something else."""


class Detector(mlflow.pyfunc.PythonModel):
    """Artifact `onnx`: images (B, 3, H, W) RGB in [0, 1] -> boxes (B, N, 4) xyxy in input pixels
    and scores (B, N, classes), with names, size and thresholds in its metadata.
    """

    def load_context(self, context):
        """Open the ONNX file; on a GPU where onnxruntime has one."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        self.session = onnxruntime.InferenceSession(
            context.artifacts["onnx"], options, providers=providers
        )
        meta = self.session.get_modelmeta().custom_metadata_map
        if {"boxes", "scores"} - {output.name for output in self.session.get_outputs()}:
            raise ValueError(
                "the ONNX file was exported by an older version (no outputs boxes and scores): "
                "export and register it again with this version"
            )
        self.names = json.loads(meta["names"])
        self.needs_nms = json.loads(meta["needs_nms"])
        self.thresholds = json.loads(meta["thresholds"])
        self.point = json.loads(meta.get("operating_point", "null"))
        if self.point:  # without conf each class has its own threshold
            self.thresholds["conf"] = None
        self.input = self.session.get_inputs()[0]
        batch, _, *sides = self.input.shape
        self.fixed_batch = batch if isinstance(batch, int) else None
        self.size = tuple(
            side if isinstance(side, int) else s
            for side, s in zip(sides, json.loads(meta["imgsz"]))
        )
        self.type = np.float16 if "float16" in self.input.type else np.float32

    def predict(self, context, model_input: pandas.DataFrame, params=None):
        """model_input: a table with a column `image` of base64 texts (data: URLs too). Returns a
        table `detections`: a list of dictionaries per image.

        params: conf, the lowest score; without it each class has the threshold that the file
        brings, where it brings any. iou, above which NMS removes the weaker box of a class (without
        effect where the network needs no NMS); max_det, boxes per image; classes, numbers of the
        only ones wanted (none: all); imgsz, refused unless it is the size that the file takes.
        Raises ValueErrors: NoImage, naming the row that holds none; NoSuchParam, naming the range.
        """
        given = {key: value for key, value in (params or {}).items() if value is not None}
        settings = {**self.thresholds, "classes": (), "imgsz": None, **given}
        self.check(**settings)
        del settings["imgsz"]
        texts = list(model_input["image"])
        found = []
        step = self.fixed_batch or IMAGES_PER_CALL
        for begin in range(0, len(texts), step):
            images = [decode(text, begin + i) for i, text in enumerate(texts[begin : begin + step])]
            found += self.detect(images, **settings)
        return pandas.DataFrame({"detections": pandas.Series(found, dtype=object)})

    def check(self, conf, iou, max_det, classes, imgsz):
        """NoSuchParam where a value is none that this model can take; NaN is in no range."""
        for name, value in (("conf", conf), ("iou", iou)):
            if value is not None and not 0 <= value <= 1:
                raise NoSuchParam(f"params: {name} must be a number from 0 to 1, got {value:g}")
        if not max_det >= 1:
            raise NoSuchParam(
                f"params: max_det must be a whole number, 1 or more boxes per image, got {max_det}"
            )
        wrong = [number for number in classes if not 0 <= number < len(self.names)]
        if wrong:
            known = ", ".join(f"{number}: {name}" for number, name in enumerate(self.names))
            raise NoSuchParam(f"params: classes must be among {known}; got {wrong[0]}")
        if imgsz is not None and (imgsz, imgsz) != self.size:
            raise NoSuchParam(
                f"params: imgsz must be left out: the file takes {self.size[0]} x {self.size[1]} "
                f"pixels (height x width) only, got {imgsz}; export it again with another imgsz"
            )

    def detect(self, images, conf, iou, max_det, classes=()):
        """Images (h, w, 3) BGR uint8, at most one call's worth, to a list of detections each."""
        boxed, places = zip(*(letterbox(image, self.size) for image in images))
        batch = np.stack(boxed)[..., ::-1].transpose(0, 3, 1, 2).astype(self.type) / self.type(255)
        if self.fixed_batch is not None:
            batch = np.concatenate(
                (batch, np.zeros((self.fixed_batch - len(batch), *batch.shape[1:]), self.type))
            )
        boxes, scores = (each.astype(np.float32) for each in self.run(batch))
        settings = {"conf": conf, "iou": iou, "max_det": max_det, "wanted": classes}
        return [
            self.detections(boxes[i], scores[i], image.shape[:2], places[i], **settings)
            for i, image in enumerate(images)
        ]

    def run(self, batch):
        """Boxes (B, N, 4) and scores (B, N, classes) of images (B, 3, h, w) RGB in [0, 1]."""
        return self.session.run(["boxes", "scores"], {self.input.name: batch})

    def detections(self, boxes, scores, shape, place, conf, iou, max_det, wanted=()):
        """Boxes (N, 4) and scores (N, classes) of one image to its detections, in pixels of the
        image.
        """
        if self.point:
            boxes, scores = self.calibrated(boxes, scores, conf)
            conf = 0.0
        classes = scores.argmax(1)
        best = scores.max(1) if len(scores) else np.zeros(0, scores.dtype)
        likely = best > conf
        if len(wanted):
            likely &= np.isin(classes, list(wanted))
        xyxy, best, classes = boxes[likely], best[likely], classes[likely]
        if self.needs_nms:
            kept = nms(xyxy, best, classes, iou, max_det)
        else:
            kept = np.argsort(-best, kind="stable")[:max_det]
        (ratio_y, ratio_x), (top, left) = place
        xyxy = (xyxy[kept] - [left, top] * 2) / ([ratio_x, ratio_y] * 2)
        xyxy = np.clip(xyxy, 0, [shape[1], shape[0]] * 2)
        return [
            {
                "class": int(c),
                "name": self.names[c],
                "score": round(float(s), 5),
                "xyxy": [round(float(v), 2) for v in box],
            }
            for c, s, box in zip(classes[kept], best[kept], xyxy)
        ]

    def calibrated(self, boxes, scores, conf):
        """Of boxes (N, 4) and scores (N, classes) those with a class above its threshold (or
        `conf`), scores calibrated; the score of a class below it is 0.
        """
        maps = self.point["calibration"]["maps"]
        thresholds = self.point["thresholds"] if conf is None else [conf] * len(maps)
        limits = [
            sigmoid(joined(logit(t), each["y"], each["x"], 1 / each["slope"]))
            for t, each in zip(thresholds, maps)
        ]
        above = scores > np.array(limits, scores.dtype)
        rows = above.any(1)
        boxes, scores, above = boxes[rows], scores[rows], above[rows]
        for c, each in enumerate(maps):
            z = joined(logit(scores[:, c]), each["x"], each["y"], each["slope"])
            scores[:, c] = np.where(above[:, c], sigmoid(z), 0)
        return boxes, scores


def joined(z, x, y, slope):
    """Lines through the points (x, y), continued with `slope` on both sides, at `z`."""
    return np.interp(z, x, y) + slope * (np.minimum(z - x[0], 0) + np.maximum(z - x[-1], 0))


def logit(scores):
    inside = np.clip(np.asarray(scores, np.float64), 1e-12, 1 - 1e-12)
    return np.log(inside) - np.log1p(-inside)


def sigmoid(z):
    return 0.5 * (1 + np.tanh(0.5 * z))


def decode(text, row):
    """Base64 of an encoded image to (h, w, 3) BGR uint8."""
    try:
        content = base64.b64decode(
            text.partition(",")[2] if text.startswith("data:") else text, validate=False
        )
        image = (
            cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
        )
    except (binascii.Error, cv2.error, AttributeError, TypeError):
        image = None
    if image is None:
        raise NoImage(
            f"row {row}: 'image' must be the base64 text of an encoded image (JPEG, PNG, ...)"
        )
    return image


def letterbox(image, size):
    """`image` fitted into `size` = (h, w) without being enlarged, grey around it; and ((ratio y,
    x), (top, left)).
    """
    h, w = image.shape[:2]
    ratio = min(size[0] / h, size[1] / w, 1.0)
    fitted = max(round(h * ratio), 1), max(round(w * ratio), 1)
    if fitted != (h, w):
        image = cv2.resize(image, fitted[::-1], interpolation=cv2.INTER_AREA)
    half_y, half_x = (size[0] - fitted[0]) / 2, (size[1] - fitted[1]) / 2
    top, bottom = round(half_y - 0.1), round(half_y + 0.1)
    left, right = round(half_x - 0.1), round(half_x + 0.1)
    image = cv2.copyMakeBorder(
        image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(GREY,) * 3
    )
    return image, ((fitted[0] / h, fitted[1] / w), (top, left))


def nms(boxes, scores, classes, iou, limit):
    """Indices of the boxes (n, 4) xyxy to keep, best first: a box yields to a better one of its
    class it overlaps.
    """
    boxes = boxes.astype(np.float64)
    area = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), 1)
    order, kept = np.argsort(-scores, kind="stable"), []
    while len(order) and len(kept) < limit:
        first, order = order[0], order[1:]
        kept.append(first)
        low, high = (
            np.maximum(boxes[first, :2], boxes[order, :2]),
            np.minimum(boxes[first, 2:], boxes[order, 2:]),
        )
        common = np.prod(np.maximum(high - low, 0), 1)
        overlap = common / np.maximum(area[first] + area[order] - common, 1e-9)
        order = order[(overlap <= iou) | (classes[order] != classes[first])]
    return np.array(kept, np.int64)


mlflow.models.set_model(Detector())
