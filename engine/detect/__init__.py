"""The detector's executors: trainer, validator, predictor, results, and the files of a model.

Here the loop, which knows no boxes, meets networks, data and metrics, which know no trainer.
Export, tracking and stages are built on top. May import `engine.core`, `data`, `models`,
`metrics`, `plots` and below; `engine.datasets` only where a raw folder is opened.
"""

from engine.detect.predictor import DetectionPredictor
from engine.detect.results import Results
from engine.detect.trainer import DetectionTrainer
from engine.detect.validator import DetectionValidator

__all__ = ["DetectionPredictor", "DetectionTrainer", "DetectionValidator", "Results"]
