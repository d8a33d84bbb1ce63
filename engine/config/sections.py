"""Settings of the other stages, and `Params`: the whole of params.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from engine.config.device import DEVICES, Device
from engine.config.goal import FORMS, MAX_F1, read_goal
from engine.config.known_names import ANSWERS
from engine.config.trackers import NO_TRACKER, TRACKERS
from engine.config.train import DetectionTrainConfig, Fraction
from engine.errors import ConfigError, nearest
from engine.gates.table import is_own, read_gates
from engine.model_formats.table import FORMATS, find_format
from engine.settings.base import Frozen, load_yaml
from engine.settings.known_name import KnownName

Policy = Literal["error", "drop", "fix", "warn"]


def _in(unit: str) -> dict[str, str]:
    return {"unit": unit}


class TrackingConfig(Frozen):
    """What a training records while it goes on, and where."""

    tracker: str = Field(
        "mlflow",
        description=f"who records runs: {', '.join(TRACKERS)}, or {NO_TRACKER}",
    )
    classes: int = Field(
        20,
        ge=0,
        description="classes with metrics of their own every epoch, those with most objects in "
        "val; 0: none",
        json_schema_extra=_in("classes"),
    )
    images: int = Field(
        10,
        ge=0,
        description="epochs of which predictions, curves and confusion matrix are drawn, more of "
        "them early; 0: none",
        json_schema_extra=_in("epochs"),
    )
    machine_every_s: float = Field(
        10.0,
        ge=0,
        description="seconds between two samples of CPU, memory, disk, network and GPU; 0: none",
        json_schema_extra=_in("seconds"),
    )
    checkpoints: Literal["none", "best", "last", "all"] = Field(
        "best",
        description="uploaded while it trains: the best weights, the newest state too (last), or "
        "every state (all)",
    )
    checkpoint_every_epochs: int = Field(
        10,
        ge=1,
        description="epochs between two uploads of checkpoints; the end of the training counts as "
        "well",
        json_schema_extra=_in("epochs"),
    )
    code: Literal["none", "commit", "diff"] = Field(
        "commit",
        description="what a run says of its code: nothing, git's commit, or also the diff to it, "
        "which is uploaded as it is and may hold passwords",
    )

    @field_validator("tracker")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name not in (known := [*TRACKERS, NO_TRACKER]):
            raise ValueError(
                f"no such tracker.{nearest(name, known)} There are: {', '.join(known)}"
            )
        return name

    @model_validator(mode="before")
    @classmethod
    def _old_names(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "code_diff" in values:
            raise ValueError(
                "code_diff is now code: none, commit (default) or diff. Write `code: diff` where "
                "it was true"
            )
        if isinstance(values, Mapping) and "pictures" in values and "images" not in values:
            return {"images" if key == "pictures" else key: v for key, v in values.items()}
        return values


class DataConfig(Frozen):
    """The prepare stage: which dataset, and what to do with what is wrong in it."""

    source: str = Field(
        "data/digits.yaml", description="dataset description .yaml, or a folder of labelled images"
    )
    path: str | None = Field(
        None, description="local folder to use instead of the description's address"
    )
    seed: int = Field(0, ge=0, description="seed of the split and of generated images")
    val_fraction: Fraction = Field(
        0.15,
        description="fraction of images for validation, where no split is given",
        json_schema_extra=_in("fraction"),
    )
    test_fraction: Fraction = Field(
        0.15,
        description="fraction of images for the test, where no split is given",
        json_schema_extra=_in("fraction"),
    )
    group_by: str | None = Field(
        None,
        description="one group never parts over splits: a regular expression on the file name, "
        "`folder`, or a column",
    )
    group_table: str | None = Field(
        None, description="CSV file in the dataset folder with columns `image` and `group_by`"
    )
    meta_table: str | None = Field(
        None,
        description="CSV file in the dataset folder with a column `image` and whatever else is "
        "known of the images, such as camera or weather: errors are shown by each column",
    )
    keep_splits: str | None = Field(
        None, description="splits.jsonl of an earlier version, whose images stay where they are"
    )
    near_duplicate_bits: int = Field(
        45,
        ge=0,
        le=64,
        description="near duplicates: 256-bit hashes that differ in so many bits",
        json_schema_extra=_in("bits"),
    )
    find_crops: bool = Field(
        True,
        description="near duplicates: also look for images that are a part of another one",
    )
    tiny_box_px: float = Field(
        2.0,
        ge=0,
        description="boxes with a side of fewer pixels are reported as tiny",
        json_schema_extra=_in("pixels"),
    )
    class_map: dict[str, str | None] = Field(
        {}, description="class in the source -> class of the project, null: left out"
    )
    policies: dict[str, Policy] = Field(
        {}, description="finding kind -> error | drop | fix | warn; others as documented"
    )
    options: dict[str, Any] = Field(
        {}, description="options of a generated dataset, for example {train: 400, size: 160}"
    )


class ValidateConfig(Frozen):
    """The validate stage."""

    known_names: ClassVar[Mapping[str, KnownName]] = ANSWERS["validate"]

    split: Literal["train", "val", "test"] = Field("test", description="images that are evaluated")
    batch: int = Field(
        16,
        ge=1,
        description="images per step; does not change the metrics",
        json_schema_extra=_in("images"),
    )
    conf: Fraction = Field(
        0.001, description="lowest score that is evaluated", json_schema_extra=_in("score")
    )
    iou: Fraction = Field(
        0.7, description="IoU above which NMS removes the weaker box", json_schema_extra=_in("IoU")
    )
    max_det: int = Field(
        300, ge=1, description="most boxes per image", json_schema_extra=_in("boxes")
    )
    device: Device = Field("auto", description=DEVICES)
    workers: int = Field(
        0, ge=0, le=64, description="loader processes", json_schema_extra=_in("processes")
    )
    plots: bool = Field(True, description="write curves, confusion matrix and sample predictions")
    goal: str | dict[str, float] = Field(
        MAX_F1,
        description="what the thresholds of the classes are chosen for, on the val images: "
        f"{FORMS}, the cost of each",
        json_schema_extra=_in("cost"),
    )

    @field_validator("goal")
    @classmethod
    def _is_a_goal(cls, setting: Any) -> Any:
        try:
            return read_goal(setting).setting
        except ConfigError as error:
            raise ValueError(str(error)) from None


class PredictConfig(Frozen):
    """The predictor."""

    known_names: ClassVar[Mapping[str, KnownName]] = ANSWERS["predict"]

    model: str = Field("weights/best.pt", description="weights or an exported file")
    source: Any = Field(
        None, description="image, folder, list file, glob, URL, video, camera number or array"
    )
    imgsz: int | tuple[int, int] | None = Field(
        None,
        description="network input in pixels; empty: as trained",
        json_schema_extra=_in("pixels"),
    )
    batch: int = Field(16, ge=1, description="images per step", json_schema_extra=_in("images"))
    conf: Fraction = Field(
        0.25,
        description="lowest score that is reported; not given: the thresholds that the model "
        "brings, where it has them",
        json_schema_extra=_in("score"),
    )
    iou: Fraction = Field(
        0.7, description="IoU above which NMS removes the weaker box", json_schema_extra=_in("IoU")
    )
    max_det: int = Field(
        300, ge=1, description="most boxes per image", json_schema_extra=_in("boxes")
    )
    classes: tuple[int | str, ...] | None = Field(
        None, description="only these classes, by number or name"
    )
    agnostic_nms: bool = Field(False, description="NMS over all classes together")
    tile: int | None = Field(
        None,
        ge=32,
        description="side in pixels of tiles for small objects in large images",
        json_schema_extra=_in("pixels"),
    )
    tile_overlap: float = Field(
        0.2,
        ge=0,
        lt=1,
        description="fraction by which neighbouring tiles overlap",
        json_schema_extra=_in("fraction"),
    )
    device: Device = Field("auto", description=DEVICES)
    project: str = Field("runs", description="folder that holds the run directories")
    name: str = Field("predict", description="name of the run directory")
    save: bool = Field(True, description="write images with boxes, of a video an mp4")
    save_frames: bool = Field(True, description="write the frames of a video as images too")
    save_json: bool = Field(False, description="write the detections as JSON lines")
    save_csv: bool = Field(False, description="write the detections as a CSV table")
    save_txt: bool = Field(
        False, description="write a text file per image, a line `class x y w h` per box"
    )
    save_conf: bool = Field(False, description="with save_txt: the score at the end of each line")
    save_crop: bool = Field(False, description="write what is inside each box as an image")
    show: bool = Field(False, description="show the images with boxes on the screen")
    show_boxes: bool = Field(True, description="draw boxes, with their names and scores")
    show_labels: bool = Field(True, description="draw the names of the boxes")
    show_conf: bool = Field(True, description="draw the scores of the boxes")
    line_width: int | None = Field(
        None,
        ge=1,
        description="width of drawn lines, pixels; empty: by the size of the image",
        json_schema_extra=_in("pixels"),
    )
    half: bool = Field(
        False, description="compute in float16, on a GPU; of exported files the file decides"
    )
    augment: bool = Field(
        False,
        description="see every image three times, also smaller and mirrored, and merge the boxes",
    )
    vid_stride: int = Field(
        1, ge=1, description="of a video every Nth frame", json_schema_extra=_in("frames")
    )
    stream: bool = Field(False, description="yield results one by one with flat memory")
    verbose: bool = Field(True, description="a line per image")

    @field_validator("classes", mode="before")
    @classmethod
    def _one_class_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, (str, int)) else value

    def writes(self) -> bool:
        """Whether anything is written."""
        return any((self.save, self.save_json, self.save_csv, self.save_txt, self.save_crop))

    def drawing(self) -> dict[str, Any]:
        """How boxes are drawn, as `Results.plot` takes it."""
        return {
            "boxes": self.show_boxes,
            "labels": self.show_labels,
            "conf": self.show_conf,
            "line_width": self.line_width,
        }

    def thresholds(self) -> dict[str, Any]:
        """What decides which candidates are reported: conf, iou, max_det."""
        return {"conf": self.conf, "iou": self.iou, "max_det": self.max_det}


class TrackConfig(PredictConfig):
    """The predictor that follows objects."""

    known_names: ClassVar[Mapping[str, KnownName]] = ANSWERS["track"]

    conf: Fraction = Field(
        0.1,
        description="lowest score of a box that goes on with a known object",
        json_schema_extra=_in("score"),
    )
    name: str = Field("track", description="name of the run directory")
    save_frames: bool = Field(False, description="write the frames of a video as images too")
    new_track_conf: Fraction | None = Field(
        None,
        description="score from which a box begins a new object; empty: the thresholds that the "
        "model brings, else 0.25",
        json_schema_extra=_in("score"),
    )
    track_iou: Fraction = Field(
        0.2,
        description="least IoU of a box with where its object is expected",
        json_schema_extra=_in("IoU"),
    )
    track_buffer_s: float = Field(
        1.0,
        ge=0,
        description="seconds that an object keeps its number without being seen",
        json_schema_extra=_in("seconds"),
    )


def _known_format(name: str) -> str:
    try:
        return find_format(name).name
    except ConfigError as error:  # pydantic collects ValueErrors of all fields
        raise ValueError(str(error)) from None


FormatName = Annotated[
    str,
    AfterValidator(_known_format),
    Field(json_schema_extra=lambda schema: schema.update(enum=list(FORMATS))),
]


class ExportConfig(Frozen):
    """The export stage."""

    known_names: ClassVar[Mapping[str, KnownName]] = ANSWERS["export"]

    formats: tuple[FormatName, ...] = Field(("onnx",), description="formats to write")
    imgsz: int | tuple[int, int] | None = Field(
        None,
        description="network input in pixels; empty: as trained",
        json_schema_extra=_in("pixels"),
    )
    batch: int = Field(
        1,
        ge=1,
        description="images in the example, and in the file if not dynamic",
        json_schema_extra=_in("images"),
    )
    dynamic: bool = Field(True, description="free batch size")
    opset: int | None = Field(
        None, ge=17, description="ONNX operator set; empty: the exporter's own"
    )
    check_images: int = Field(
        8,
        ge=1,
        description="images on which the export is compared with PyTorch",
        json_schema_extra=_in("images"),
    )


def check_model_name(name: str) -> str:
    """`name`. ValueError where MLflow's registry takes no model of that name, or where NAME@ALIAS
    would not lead to it.
    """
    if not re.fullmatch(r"[^/:@'\"`%]+", name) or name != name.strip():
        raise ValueError(
            f"{name!r} cannot be a model's name: no / : @ % or quotes, and no blank at an end"
        )
    return name


class RegisterConfig(Frozen):
    """The register stage."""

    model: Annotated[str, AfterValidator(check_model_name)] | None = Field(
        None, description="name of the registered model; empty: the name of the dataset"
    )
    metric: str = Field(
        "metrics/mAP50-95",
        description="metric that decides who is champion: metrics/mAP50-95 or metrics/mAP50",
    )
    gate: tuple[str | dict[str, Any], ...] | None = Field(
        None,
        description="gates that a new champion has to pass, each by its name or with its settings: "
        "[min_test, {not_worse: {margin: 0.01}}]; empty: those that fit, see docs/howto/gates.md",
    )
    format: Literal["onnx", "safetensors"] = Field(
        "onnx",
        description="file that is registered and served, one of export.formats: onnx, which needs "
        "no PyTorch; safetensors, the weights, for networks that cannot be written as ONNX: "
        "served by PyTorch and this package, see docs/howto/production.md",
    )
    experiment: str = Field("detectflow", description="name of the MLflow experiment")

    @field_validator("gate")
    @classmethod
    def _are_known(cls, listed: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        """Those of ours; a gate of one's own is imported when it is asked."""
        try:
            read_gates([each for each in listed or () if not is_own(each)], "gate")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return listed


class PrepareFlowConfig(Frozen):
    """Where stage prepare is computed. What it makes does not depend on it: a change runs no stage
    again.
    """

    runner: Literal["local", "dask"] = Field(
        "local",
        description="who examines the images: processes of this machine, or a Dask cluster (`dvc "
        "repro`: always local)",
    )
    workers: int = Field(
        0,
        ge=0,
        le=64,
        description="worker processes; 0: one for each core, 1: no others",
        json_schema_extra=_in("processes"),
    )
    scheduler: str | None = Field(
        None,
        description="address of a Dask scheduler, for example tcp://head:8786; empty: a cluster "
        "of processes here",
    )


class FlowsConfig(Frozen):
    """How stages are run, by stage. Nothing here changes a result, and DVC does not read it."""

    prepare: PrepareFlowConfig = PrepareFlowConfig()


class Params(Frozen):
    """The whole of params.yaml."""

    data: DataConfig = DataConfig()
    train: DetectionTrainConfig = DetectionTrainConfig()
    validate_: ValidateConfig = Field(ValidateConfig(), alias="validate")
    export: ExportConfig = ExportConfig()
    register_: RegisterConfig = Field(RegisterConfig(), alias="register")
    tracking: TrackingConfig = TrackingConfig()
    flows: FlowsConfig = FlowsConfig()

    @classmethod
    def load(cls, path: Any) -> Params:
        """Read and check params.yaml."""
        return cls.build(load_yaml(path), str(path), path)
