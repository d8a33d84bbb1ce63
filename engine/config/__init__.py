"""The typed, frozen configuration. One schema per executor; each default stands here and nowhere
else.
"""

from engine.config.sections import (
    DataConfig,
    ExportConfig,
    Params,
    PredictConfig,
    RegisterConfig,
    TrackConfig,
    TrackingConfig,
    ValidateConfig,
)
from engine.config.train import DetectionTrainConfig, TrainConfig
from engine.settings.base import Frozen, parse_overrides, parse_value

__all__ = [
    "DataConfig",
    "DetectionTrainConfig",
    "ExportConfig",
    "Frozen",
    "Params",
    "PredictConfig",
    "RegisterConfig",
    "TrackConfig",
    "TrackingConfig",
    "TrainConfig",
    "ValidateConfig",
    "parse_overrides",
    "parse_value",
]
