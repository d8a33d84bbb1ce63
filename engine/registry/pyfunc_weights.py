"""The registered model where the weights themselves are registered (`register.format:
safetensors`), for networks that cannot be written as ONNX. This file travels with the model.

What goes in and out, letterbox, thresholds and NMS are those of `pyfunc_model.py`; boxes and scores
come from PyTorch, so it needs this package where the model is loaded. The weights are tensors and
plain data; code of the user's that builds the network travels beside them.
"""

from pathlib import Path

import mlflow
import numpy as np

from engine.registry.pyfunc_model import Detector


class WeightsDetector(Detector):
    """Artifact `safetensors`: a file of stage export."""

    def load_context(self, context):
        """Build the network and load its weights; on a GPU where there is one."""
        from engine.detect.runtime import load_runtime
        from engine.model_formats.metadata import decode_meta
        from engine.model_formats.table import header_of

        file = Path(context.artifacts["safetensors"])
        self.runtime = load_runtime(file)
        meta = decode_meta(header_of(file), file)
        self.names = list(self.runtime.names)
        self.needs_nms, self.size = self.runtime.needs_nms, self.runtime.input_size(None)
        self.thresholds, self.point = dict(meta["thresholds"]), meta.get("operating_point")
        if self.point:  # without conf each class has its own threshold
            self.thresholds["conf"] = None
        self.fixed_batch, self.type = None, np.float32

    def run(self, batch):
        """Boxes and scores, as of the ONNX file."""
        import torch

        found = self.runtime(torch.from_numpy(np.ascontiguousarray(batch)))
        return [each.cpu().numpy() for each in found]


mlflow.models.set_model(WeightsDetector())
