"""What `detectflow help` prints. The settings of a mode are read from its schema, so they are never another list."""

from __future__ import annotations

OVERVIEW = """\
detectflow MODE key=value ...      retrain object detectors, and know what came out

  run       the whole pipeline: prepare, train, validate, export, register
  ui        open the MLflow and Prefect UIs on this machine
  train     train a detector
  val       the figures of a trained detector on a dataset
  predict   find objects in images, folders, videos
  export    write a trained detector as ONNX, TorchScript or safetensors
  stage     one stage of the pipeline, without asking what is up to date
  help      what a mode takes: detectflow help train

  detectflow run -S train.epochs=50
  detectflow train model=yolov8n data=data/digits.yaml epochs=3
  detectflow predict model=weights/best.pt source=images/

DETECTFLOW_DEBUG=1 shows where an error was raised."""

USAGE = {
    "run": """\
detectflow run [-S section.key=value ...] [--force] [--no-wait]

Brings the pipeline of this project up to date: what has not changed is skipped. Overrides are written into params.yaml.
Interrupted, it goes on where it was; `dvc repro` continues it too.

  -S KEY=VALUE   set a value of params.yaml first; may be repeated
  --force        run every stage, also what is up to date
  --no-wait      fail at once when somebody else works in this project

  detectflow run
  detectflow run -S train.epochs=50 -S train.model=yolov8s
  detectflow run -S data.source=data/bccd.yaml -S data.path=../bccd""",
    "ui": """\
detectflow ui

Starts MLflow (port 5000, or MLFLOW_PORT) and Prefect (port 4200, or PREFECT_SERVER_API_PORT) on 127.0.0.1, with the data of
this project, and prints their addresses. A run that starts meanwhile reports to them. Ctrl-C ends both. Where
MLFLOW_TRACKING_URI or PREFECT_API_URL names a server of your team, that one is shown and none is started.""",
    "train": """\
detectflow train key=value ...

Trains a detector into runs/NAME/: weights/best.pt and last.pt, results.csv, pictures.

  detectflow train model=yolov8n data=data/digits.yaml epochs=3
  detectflow train model=runs/train/weights/best.pt data=images/ imgsz=[320,640] batch=8
  detectflow train name=train resume=true
  torchrun --nproc-per-node 2 -m engine train model=yolov8s data=data/bccd.yaml""",
    "val": """\
detectflow val model=WEIGHTS data=DATASET key=value ...

The figures of a trained detector: COCO average precision, precision and recall, per class and per image.

  model=weights/best.pt      weights: .pt or .safetensors
  data=data/prepared         dataset description .yaml, prepared folder, or folder of labelled images
  project=runs name=val      where tables and pictures go

  detectflow val model=runs/train/weights/best.pt data=data/bccd.yaml split=val""",
    "predict": """\
detectflow predict source=SOURCE key=value ...

Finds objects. Pictures with boxes go to runs/predict/.

  detectflow predict model=weights/best.pt source=images/ conf=0.4
  detectflow predict model=export/best.onnx source=film.mp4 save_json=true
  detectflow predict source=aerial.tif tile=640""",
    "export": """\
detectflow export model=WEIGHTS format=FORMAT key=value ...

Writes a trained detector in another format and compares its output with PyTorch's.

  model=weights/best.pt      weights: .pt or .safetensors
  format=onnx                onnx, torchscript, safetensors
  data=...                   dataset whose images are compared; without it: noise
  folder=...                 where the file goes; default: beside the weights

  detectflow export model=runs/train/weights/best.pt format=onnx dynamic=true""",
    "stage": """\
detectflow stage NAME

Runs one stage of the pipeline by itself: prepare, train, validate, export or register. It does not ask whether the result is
up to date, and records nothing with DVC; `detectflow run` and `dvc repro` do.""",
}


def help_of(mode: str) -> str:
    """Usage, examples and settings of one mode."""
    parts = [USAGE[mode]]
    if mode == "run":
        parts.append(_params())
    elif mode in {"train", "val", "predict", "export"}:
        parts.append(f"Settings, with their defaults\n\n{_settings(mode)}")
    return "\n\n".join(parts)


def _settings(mode: str) -> str:
    from engine import config
    from engine.config.base import describe_groups

    schemas = {
        "train": config.DetectionTrainConfig,
        "val": config.ValidateConfig,
        "predict": config.PredictConfig,
        "export": config.ExportConfig,
    }
    return describe_groups(schemas[mode])


def _params() -> str:
    from engine.config import Params
    from engine.config.base import describe_groups

    parts = ["Keys of params.yaml, with their defaults"]
    for name, field in Params.model_fields.items():
        section = field.alias or name
        if section == "train":
            parts.append("train:\n  as in `detectflow help train`")
        else:
            parts.append(describe_groups(field.annotation).replace("general:", f"{section}:", 1))
    return "\n\n".join(parts)
