"""The network of the YOLOv8 family: blocks, scales, backbone, neck, head. Knows no loss, no boxes in pixels, no trainer."""

from engine.parts.model.backbones import load_pretrained
from engine.parts.model.fuse import fuse
from engine.parts.model.network import DetectionModel, Preds, build_model
from engine.parts.model.spec import SCALES, ModelSpec, find_spec

__all__ = ["SCALES", "DetectionModel", "ModelSpec", "Preds", "build_model", "find_spec", "fuse", "load_pretrained"]
