"""Detection metrics: `DetectionMetrics` collects images one by one, `compute` gives
`DetectionScores`.

AP is COCO's, through faster-coco-eval (`coco.py`); precision, recall and F1 are reported at the
confidence of the best mean F1 (`curves.py`). Means are over classes with ground truth; what cannot
be said is None, never 0. `MatchTable` is the file from which AP follows for any choice of the
images (bootstrap).
"""

from engine.metrics.collector import DetectionMetrics, DetectionScores, coco_ap
from engine.metrics.curves import Curves
from engine.metrics.match_table import MatchTable

__all__ = ["Curves", "DetectionMetrics", "DetectionScores", "MatchTable", "coco_ap"]
