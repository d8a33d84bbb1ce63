"""Settings of training. `TrainConfig` is what the core reads and knows no boxes;
`DetectionTrainConfig` adds them.

Recipe values are the published ones of the family (see the detector notes); where ours differ the
comment says why.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from engine.config.device import DEVICES, Device
from engine.config.known_names import ANSWERS
from engine.errors import nearest
from engine.settings.base import Frozen
from engine.settings.known_name import KnownName

Fraction = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=0)]
FirstLayers = Annotated[int, Field(ge=0)]
LayerNumber = Annotated[int, Field(ge=0)]
BACKBONES = ("resnet18", "mobilenet_v3_large", "efficientnet_b0", "convnext_tiny")
LONGEST_NAME_BYTES = 200  # file systems take 255; a number may be appended


def _f(group: str, default: Any, description: str, unit: str = "", **limits: Any) -> Any:
    extra = {"group": group, "unit": unit} if unit else {"group": group}
    return Field(default, description=description, json_schema_extra=extra, **limits)


# What a run decides itself where it is asked for this value or not at all. Any other value is taken
# as it is.
AUTOMATIC: dict[str, Any] = {
    "optimizer": "auto",
    "batch": -1,
    "lr0": None,
    "nbs": None,
    "warmup_epochs": None,
    "ema_tau_steps": None,
}


class TrainConfig(Frozen):
    """One training run, of anything."""

    listed_by: ClassVar[str] = "`detectflow help train`"
    known_names: ClassVar[Mapping[str, KnownName]] = ANSWERS["train"]

    model: str = _f("run", "model", "model name, or a checkpoint to start from")
    data: str = _f("run", "data", "what `get_dataset` is given")
    project: str = _f("run", "runs", "folder that holds the run directories")
    name: str = _f(
        "run", "train", "name of the run directory; an existing one gets a number appended"
    )
    exist_ok: bool = _f("run", False, "write into an existing run directory of that name")
    resume: bool = _f("run", False, "continue the run in project/name from its last checkpoint")
    extend: bool = _f(
        "run", False, "with resume: more epochs or patience than the run was planned with"
    )
    seed: int = _f("run", 0, "seed of weights, order and augmentation", ge=0, lt=2**63)
    deterministic: bool = _f(
        "run", True, "only deterministic kernels: same seed, same bits on one machine"
    )
    trainer: str | None = _f("run", None, "trainer class of your own: package.module:Class")
    callbacks: tuple[str, ...] = _f(
        "run", (), "functions package.module:name that get the trainer and add callbacks to it"
    )
    device: Device = _f("run", "auto", DEVICES)
    workers: int = _f(
        "run", 0, "loader processes; 0 loads in the training process", unit="processes", ge=0, le=64
    )
    verbose: bool = _f("run", True, "progress bars and a line per epoch")

    epochs: int = _f(
        "schedule", 100, "passes over the training images (epochs)", unit="epochs", ge=1
    )
    batch: int = _f(
        "schedule",
        16,
        "images per step over all ranks; -1 finds what fits the GPU",
        unit="images",
        ge=-1,
    )
    batch_memory: float = _f(
        "schedule",
        0.7,
        "fraction of the GPU's free memory that batch=-1 fills; the rest is for what varies",
        unit="fraction",
        gt=0,
        lt=1,
    )
    nbs: int | None = _f(
        "schedule",
        None,
        "nominal batch in images: gradients add up to it; empty: 64 on long runs",
        unit="images",
        ge=1,
    )
    patience: int = _f(
        "schedule",
        100,
        "epochs without a better `monitor` before training stops; 0 never",
        unit="epochs",
        ge=0,
    )
    time_limit_minutes: float | None = _f(
        "schedule",
        None,
        "minutes after which the run ends cleanly with its epoch",
        unit="minutes",
        gt=0,
    )
    val_period: int = _f(
        "schedule",
        1,
        "epochs between validations; the last epoch always validates",
        unit="epochs",
        ge=1,
    )
    save_period: int = _f(
        "schedule", 0, "also keep epochN.pt every so many epochs; 0 never", unit="epochs", ge=0
    )
    monitor: str = _f(
        "schedule",
        "",
        "column of results.csv that decides which epoch is best; empty: the first metric, or the "
        "training loss where nothing is validated",
    )
    monitor_mode: Literal["max", "min"] = _f(
        "schedule", "max", "whether a larger or smaller `monitor` is better"
    )

    optimizer: Literal["auto", "SGD", "Adam", "AdamW", "Adamax", "NAdam", "RAdam", "RMSProp"] = _f(
        "optimizer", "auto", "auto: AdamW for short runs, else SGD"
    )
    lr0: float | None = _f(
        "optimizer", None, "peak learning rate; empty: chosen with the optimizer", gt=0
    )
    lrf: Fraction = _f(
        "optimizer", 0.01, "final learning rate as a fraction of lr0", unit="fraction"
    )
    schedule: Literal["cosine", "linear", "constant"] = _f(
        "optimizer", "cosine", "shape from lr0 to lr0*lrf"
    )
    momentum: float = _f("optimizer", 0.937, "SGD and RMSProp momentum, else beta1", ge=0, lt=1)
    weight_decay: float = _f(
        "optimizer", 5e-4, "decay of weights at the nominal batch; norms and biases 0", ge=0
    )
    warmup_epochs: float | None = _f(
        "optimizer",
        None,
        "epochs of warm-up; empty: 3, at most a tenth of the run",
        unit="epochs",
        ge=0,
    )
    warmup_momentum: Fraction = _f("optimizer", 0.8, "momentum at the start of warm-up")
    warmup_bias_lr: float | None = _f(
        "optimizer", None, "bias rate at the start of warm-up; empty: 0.1 SGD, 0 Adam", ge=0
    )
    clip_norm: float = _f(
        "optimizer", 10.0, "gradient clip, L2 norm over all parameters; 0 off", ge=0
    )
    ema: bool = _f(
        "optimizer", True, "validate and save an exponential moving average of the weights"
    )
    ema_decay: float = _f("optimizer", 0.9999, "largest decay of the average", gt=0, lt=1)
    ema_tau_steps: float | None = _f(
        "optimizer",
        None,
        "steps until the average is slow; empty: scaled to the run",
        unit="steps",
        gt=0,
    )
    freeze: FirstLayers | tuple[LayerNumber | str, ...] = _f(
        "optimizer",
        (),
        "parameters whose name starts with one of these do not learn; N: the first N layers, [N]: "
        "layer N of a network that numbers them (YOLOv8 has 0 to 22)",
    )
    slow: dict[str, Factor] = _f(
        "optimizer",
        {},
        "beginning of parameter names -> their learning rate as a fraction of lr0",
        unit="fraction",
    )

    amp: bool = _f(
        "speed", True, "mixed precision on a GPU (bf16, or fp16 with a scaler); never on a CPU"
    )
    channels_last: bool = _f("speed", True, "memory layout that takes a tenth off a step on a CPU")
    nproc: int = _f(
        "speed", 1, "processes for distributed training on this machine", unit="processes", ge=1
    )

    @field_validator("model", "data", "project", mode="before")
    @classmethod
    def _a_path_is_text(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("name", mode="before")
    @classmethod
    def _a_number_is_a_name(cls, value: Any) -> Any:
        return (
            str(value) if type(value) is int else value
        )  # a command line gives name=123 as a number

    @field_validator("batch")
    @classmethod
    def _batch_is_possible(cls, value: int) -> int:
        if value == 0:
            raise ValueError("must be at least 1, or -1 to find one that fits the GPU")
        return value

    @field_validator("freeze", "callbacks", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, value: str) -> str:
        if not value or value in {".", ".."} or any(c in value for c in "/\\\0"):
            raise ValueError("must be a plain folder name, without / or \\")
        if len(value.encode()) > LONGEST_NAME_BYTES:
            raise ValueError(
                f"must be shorter: at most {LONGEST_NAME_BYTES} bytes, this has "
                f"{len(value.encode())}"
            )
        return value


class DetectionTrainConfig(TrainConfig):
    """One training run of a detector."""

    model: str = _f(
        "run",
        "yolov8n",
        "network by name (yolov8n, torchvision:NAME), model .yaml, package.module:Family of your "
        "own, or a checkpoint to start from",
    )
    data: str = _f(
        "run", "data/digits.yaml", "dataset description .yaml, or a prepared dataset folder"
    )
    monitor: str = _f(
        "schedule", "metrics/mAP50-95", "column of results.csv that decides which epoch is best"
    )

    imgsz: int | tuple[int, int] = _f(
        "images",
        640,
        "network input in pixels: one number, or [height, width]; mostly multiples of 32",
        unit="pixels",
    )
    cache: Literal["ram", "disk", "none"] = _f(
        "images", "ram", "where decoded images are kept between epochs"
    )
    fraction: float = _f(
        "images", 1.0, "fraction of the training images to use", unit="fraction", gt=0, le=1
    )
    single_cls: bool = _f("images", False, "treat every class as one")
    multi_scale: Fraction = _f(
        "images", 0.0, "vary the input size of each batch by up to this fraction", unit="fraction"
    )
    balanced: bool = _f("images", False, "draw images of rare classes more often")

    mosaic: Fraction = _f(
        "augmentation", 1.0, "probability of a mosaic of four images", unit="probability"
    )
    close_mosaic: float = _f(
        "augmentation",
        0.1,
        "mosaic, mixup and cutmix off at the end: epochs, or a fraction of them if below 1",
        unit="epochs",
        ge=0,
    )
    mixup: Fraction = _f(
        "augmentation", 0.0, "probability of blending two samples", unit="probability"
    )
    cutmix: Fraction = _f(
        "augmentation",
        0.0,
        "probability of a rectangle of another sample in this one",
        unit="probability",
    )
    degrees: float = _f("augmentation", 0.0, "rotation, +- degrees", unit="degrees", ge=0, le=180)
    translate: Fraction = _f("augmentation", 0.1, "shift, +- fraction of the size", unit="fraction")
    scale: float = _f("augmentation", 0.5, "zoom, +- gain", unit="gain", ge=0, lt=1)
    shear: float = _f("augmentation", 0.0, "shear, +- degrees", unit="degrees", ge=0, le=45)
    perspective: float = _f(
        "augmentation", 0.0, "perspective, +- fraction", unit="fraction", ge=0, le=0.001
    )
    hsv_h: Fraction = _f("augmentation", 0.015, "hue, +- gain", unit="gain")
    hsv_s: Fraction = _f("augmentation", 0.7, "saturation, +- gain", unit="gain")
    hsv_v: Fraction = _f("augmentation", 0.4, "value, +- gain", unit="gain")
    fliplr: Fraction = _f(
        "augmentation",
        0.5,
        "probability of a left-right flip; 0 for digits and letters",
        unit="probability",
    )
    flipud: Fraction = _f("augmentation", 0.0, "probability of an up-down flip", unit="probability")

    box: float = _f("loss", 7.5, "gain of the box loss (CIoU)", unit="gain", ge=0)
    cls: float = _f("loss", 0.5, "gain of the class loss (BCE)", unit="gain", ge=0)
    dfl: float = _f("loss", 1.5, "gain of the distribution focal loss", unit="gain", ge=0)
    least_side: float = _f(
        "loss",
        0.0,
        "sides of targets count as at least so many pixels where points are chosen to learn them; "
        "16 may help where most targets are a few pixels",
        unit="pixels",
        ge=0,
    )
    class_weights: dict[str, Factor] | None = _f(
        "loss", None, "class name -> factor of its class loss; others 1", unit="factor"
    )

    backbone: str = _f(
        "model",
        "",
        "network under our neck and head, instead of the family's own: resnet18, "
        "mobilenet_v3_large, efficientnet_b0 or convnext_tiny of torchvision, timm:NAME of timm",
    )
    pretrained: bool | str = _f(
        "model",
        False,
        "ImageNet weights of the backbone: true downloads, a path reads a file; for one of timm "
        "also hf:ORG/NAME",
    )

    accept_licence: str | None = _f(
        "model",
        None,
        "licence that you accept for weights to start from which are not free for everybody",
    )

    val_conf: Fraction = _f("validation", 0.001, "lowest score that is evaluated", unit="score")
    val_iou: Fraction = _f(
        "validation", 0.7, "IoU above which NMS removes the weaker box", unit="IoU"
    )
    max_det: int = _f("validation", 300, "most boxes per image", unit="boxes", ge=1)
    plots: bool = _f("validation", True, "write plots: batches, curves, confusion matrix")

    @field_validator("imgsz")
    @classmethod
    def _has_sides(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        # What a network can take is known to its family: `Family.check_size`.
        if min(value if isinstance(value, tuple) else (value,)) < 1:
            raise ValueError("must be a number of pixels above 0")
        return value

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, value: str) -> str:
        if value and value not in BACKBONES and not value.startswith("timm:"):
            raise ValueError(
                f"'{value}' is not known.{nearest(value, BACKBONES)} There are "
                f"{', '.join(BACKBONES)}, and timm:NAME"
            )
        return value

    @model_validator(mode="after")
    def _pretrained_needs_backbone(self) -> DetectionTrainConfig:
        if self.pretrained and not self.backbone:
            raise ValueError(
                f"pretrained={self.pretrained} loads ImageNet weights of the setting backbone, and "
                "none is set: set backbone too (YOLOv8 family). Other networks, those of "
                "torchvision too, start from random weights and download nothing: leave pretrained "
                "out, or give a checkpoint as model"
            )
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """(h, w) in pixels."""
        return self.imgsz if isinstance(self.imgsz, tuple) else (self.imgsz, self.imgsz)

    @property
    def mosaic_until_epoch(self) -> int:
        """First epoch without mosaic, mixup and cutmix."""
        closing = self.close_mosaic if self.close_mosaic >= 1 else self.close_mosaic * self.epochs
        return max(0, self.epochs - round(closing))
