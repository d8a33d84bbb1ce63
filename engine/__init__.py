"""DetectFlow's engine: train, validate, predict and export object detectors. Knows no orchestrator
and no tracker.
"""

import os
import sys
from typing import Any

from engine.moved import report_moved_modules
from engine.version import __version__

__all__ = ["YOLO", "Detector", "__version__"]

# From 1.29 onnxruntime reports models and the machine to Microsoft, unless this is set before it
# is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Files of a few kilobytes unpack to gigabytes. OpenCV reads its limit when it is imported: where
# that was done before, `engine.data.images` asks Pillow for the size of each image first.
if "cv2" not in sys.modules:
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(178_956_970))
report_moved_modules()


def __getattr__(name: str) -> Any:
    # Torch takes seconds to import; `detectflow --help` and the vocabulary do without it.
    if name == "YOLO":
        from engine.yolo import YOLO

        return YOLO
    if name == "Detector":
        from engine.yolo import Detector

        return Detector
    raise AttributeError(f"module 'engine' has no attribute '{name}'")
