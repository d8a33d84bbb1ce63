"""The YOLOv8 family: network (blocks, scales, backbone, neck, head), assignment, loss, decoding.

`family.py` offers them to the registry. Knows no other family and no trainer.
"""

from engine.models.yolov8.backbones import load_pretrained
from engine.models.yolov8.fuse import fuse
from engine.models.yolov8.network import DetectionModel, Preds, build_model
from engine.models.yolov8.spec import SCALES, ModelSpec, find_spec

__all__ = [
    "SCALES",
    "DetectionModel",
    "ModelSpec",
    "Preds",
    "build_model",
    "find_spec",
    "fuse",
    "load_pretrained",
]

# Library whose code is part of the networks -> the setting of section train with which it is: see
# engine.models.torchvision.
NETWORKS_OF = {"torchvision": "backbone", "timm": "backbone=timm:"}
