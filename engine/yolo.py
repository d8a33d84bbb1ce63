"""The short way: `Detector("yolov8n").train(data=..., epochs=3)`, also under the name `YOLO`. A
thin layer over the executors, which do the work.

Whoever outgrows it takes `DetectionTrainer`, `DetectionValidator`, `DetectionPredictor` or
`engine.export.export`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.core.results import TrainResult
from engine.errors import ConfigError


class Detector:
    """A detector by name (`yolov8n`, `torchvision:NAME`, `package.module:Class` of a family of your
    own), model .yaml, weight file, or registered model (`detector@champion`, `detector/3`); after
    `train` it stands for the best weights.

    Raises:
        ConfigError: an unknown name. CheckpointError: weights that cannot be read.
    """

    def __init__(self, model: str | Path = "yolov8n"):
        from engine.config import DetectionTrainConfig
        from engine.detect.model_io import is_weight_file, read_weights
        from engine.model_formats.table import check_suffix, is_model_file
        from engine.models.registry import family_of
        from engine.registry.fetch import file_of

        self.model = file_of(str(model), weights=True)
        self.weights: Path | None = None
        if is_weight_file(self.model):
            read_weights(self.model)
            self.weights = Path(self.model)
        elif is_model_file(Path(self.model)):
            check_suffix(Path(self.model))
            self.weights = Path(self.model)
        else:
            family_of(self.model).spec(self.model, DetectionTrainConfig(model=self.model))
        self.data: str | None = None
        self._tracking: Any = None  # (settings, predictor) of `track`

    def train(self, **settings: Any) -> TrainResult:
        """Train with `DetectionTrainConfig` settings by name; see `detectflow train --help`.

        `Detector("runs/train/weights/last.pt").train(resume=True)` goes on with that run."""
        from engine.detect.choose import trainer_class_of
        from engine.detect.methods import made

        if settings.get("model", self.model) != self.model:
            raise ConfigError(
                f"train: the model is '{self.model}'; for another one make "
                f"{type(self).__name__}({str(settings['model'])!r})"
            )
        trainer_class = trainer_class_of(settings.get("trainer"))
        trainer = made(trainer_class, overrides={"model": self.model, **settings})
        result = trainer.train()
        self.weights, self.data = result.best, trainer.args.data
        return result

    def val(self, data: str | Path | None = None, **settings: Any) -> dict[str, float]:
        """Metrics on the test images of `data` (default: of the training), or of `split=`."""
        from engine.detect.validator import validator_class_of

        source = data if data is not None else self.data
        if source is None:
            raise ConfigError(
                "val: no data; give data=, a dataset description or a prepared folder"
            )
        weights = self._trained("val")
        return validator_class_of(weights)(overrides=settings)(model=weights, data=source)

    def predict(self, source: Any, **settings: Any) -> Any:
        """`Results` of every image of `source`; nothing is written unless `save=True`."""
        from engine.detect import DetectionPredictor

        stream = bool(settings.get("stream", False))
        predictor = DetectionPredictor(
            {"model": str(self._trained("predict")), "save": False, "verbose": False, **settings}
        )
        return predictor(source, stream=stream)

    __call__ = predict

    def track(self, source: Any, persist: bool = False, **settings: Any) -> Any:
        """`Results` with `ids`, the numbers of objects that are followed through a video; needs the
        extra `track`. persist: the source goes on where the last one ended, frame by frame.
        """
        from engine.detect.predictor import TrackingPredictor

        quiet = {"model": str(self._trained("track")), "save": False, "verbose": False}
        given = {**quiet, **settings}
        if self._tracking is None or not persist or self._tracking[0] != given:
            self._tracking = (given, TrackingPredictor(given))
        return self._tracking[1].track(source, bool(settings.get("stream", False)), persist)

    def export(
        self,
        format: str = "onnx",
        folder: str | Path | None = None,
        data: str | Path | None = None,
        **settings: Any,
    ) -> Path:
        """Write the weights in another format, checked against PyTorch; the path of the file.

        It lies in `folder`, by default beside the weights; for those that the pipeline of a project
        made, in its `runs/export/`.
        """
        from engine.config import ExportConfig
        from engine.export import export
        from engine.stages.places import export_folder

        weights = self._trained("export")
        config = ExportConfig.build(settings, "export")
        return export(
            weights, format, export_folder(weights, folder), settings=config, data=data
        ).path

    def _trained(self, verb: str) -> Path:
        if self.weights is None:
            raise ConfigError(
                f"{verb}: '{self.model}' has no weights yet; call train() first, or "
                f"{type(self).__name__}('path/to/best.pt')"
            )
        return self.weights


class YOLO(Detector):
    """`Detector` under the name that many look for; it takes networks of every family."""
