"""The detector's executors: where the kernel, which knows no boxes, and the parts, which know no
trainer, meet.
"""

from engine.detect.predictor import DetectionPredictor
from engine.detect.results import Results
from engine.detect.trainer import DetectionTrainer
from engine.detect.validator import DetectionValidator

__all__ = ["DetectionPredictor", "DetectionTrainer", "DetectionValidator", "Results"]
