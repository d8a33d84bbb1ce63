"""Detection metrics: `DetectionMetrics` collects images one by one, `compute` gives `DetectionScores`.

AP is COCO's, through faster-coco-eval (`coco.py`); precision, recall and F1 are reported at the confidence of the best
mean F1 (`curves.py`). Means are over classes with ground truth; what cannot be said is None, never 0.
"""

from engine.parts.metrics.collector import DetectionMetrics, DetectionScores, coco_ap
from engine.parts.metrics.curves import Curves

__all__ = ["Curves", "DetectionMetrics", "DetectionScores", "coco_ap"]
