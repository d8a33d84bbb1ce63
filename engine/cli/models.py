"""train, val, predict, export: words to settings, settings to an executor, its result to a few lines."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.config import DetectionTrainConfig, ExportConfig, Frozen, PredictConfig, ValidateConfig, parse_overrides
from engine.errors import ConfigError, nearest

INTERRUPTED = 130

# Words of a mode that are no settings of its executor, with their defaults; None: see `detectflow help MODE`.
VAL_EXTRA = {"model": "weights/best.pt", "data": "data/prepared", "project": "runs", "name": "val"}
EXPORT_EXTRA = {"model": "weights/best.pt", "format": None, "data": None, "folder": None}


def train(words: Sequence[str]) -> int:
    """`detectflow train key=value ...`"""
    config = DetectionTrainConfig.build(parse_overrides(words), "train")
    if config.nproc > 1 and "WORLD_SIZE" not in os.environ:
        _become_many(config.nproc, words)
    _prepare()
    from engine.detect import DetectionTrainer

    trainer = DetectionTrainer(config=config)
    try:
        result = trainer.train()
    except KeyboardInterrupt:
        if trainer.world.is_main:
            _say_how_to_go_on(trainer)
        return INTERRUPTED
    if trainer.world.is_main:
        print(f"best epoch {result.best_epoch + 1} of {result.epochs}: {_figures(result.metrics)}")
        print(f"weights {_short(result.best)}   pictures and tables {_short(result.save_dir)}/")
        print(f"next: detectflow val model={_short(result.best)} data={trainer.args.data} split=test")
    return 0


def val(words: Sequence[str]) -> int:
    """`detectflow val model=WEIGHTS data=DATASET key=value ...`"""
    given = parse_overrides(words)
    extra = _take(given, "val", VAL_EXTRA, ValidateConfig)
    config = ValidateConfig.build(given, "val")
    _prepare()
    from engine.detect import DetectionValidator

    folder = _fresh(Path(extra["project"]) / extra["name"])
    validator = DetectionValidator(config=config, save_dir=folder)
    metrics = validator(model=Path(extra["model"]), data=extra["data"])
    print(f"{extra['model']} on {extra['data']}, {config.split}:")
    for key, value in metrics.items():
        print(f"  {key:<28}{value:>10.4f}" if isinstance(value, float) else f"  {key:<28}{value:>10}")
    print(f"pictures and tables {_short(folder)}/")
    return 0


def predict(words: Sequence[str]) -> int:
    """`detectflow predict source=SOURCE key=value ...`"""
    given = parse_overrides(words)
    config = PredictConfig.build(given, "predict")
    if config.source is None:
        raise ConfigError("predict: no source given, for example source=images/")
    _prepare()
    from engine.detect import DetectionPredictor

    predictor = DetectionPredictor(given)
    images = boxes = 0
    for result in predictor(stream=True):
        images += 1
        boxes += len(result)
    where = f", pictures in {_short(predictor.out)}/" if config.save else ""
    skipped = f", {len(predictor.skipped)} could not be read" if predictor.skipped else ""
    print(f"{boxes} objects in {images} images{skipped}{where}")
    return 0


def export(words: Sequence[str]) -> int:
    """`detectflow export model=WEIGHTS format=FORMAT key=value ...`"""
    given = parse_overrides(words)
    extra = _take(given, "export", EXPORT_EXTRA, ExportConfig)
    config = ExportConfig.build(given, "export")
    _prepare()
    from engine.export import export as write

    weights = Path(extra["model"])
    folder = Path(extra["folder"] or weights.parent)
    folder.mkdir(parents=True, exist_ok=True)
    data = Path(extra["data"]) if extra["data"] else None
    for name in [extra["format"]] if extra["format"] else config.formats:
        report = write(weights, str(name), folder, settings=config, data=data)
        checks = "  ".join(f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                           for key, value in report.check.items())  # fmt: skip
        print(f"{_short(report.path)}   {checks}")
    return 0


def _take(given: dict[str, Any], mode: str, extra: Mapping[str, Any], schema: type[Frozen]) -> dict[str, Any]:
    """Remove the words that are no settings of the schema but of the command; unknown ones get the nearest of both."""
    for key in given:
        if key not in extra and key not in schema.model_fields:
            raise ConfigError(f"{mode}: unknown key '{key}'.{nearest(key, [*extra, *schema.model_fields])}")
    return {key: given.pop(key, default) for key, default in extra.items()}


def _prepare() -> None:
    """Console log, and the project's environment where there is a project."""
    from engine.tracking.environment import prepare_environment

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for name in ("detectflow", "engine"):
        logging.getLogger(name).setLevel(logging.INFO)
    with contextlib.suppress(ConfigError):  # used outside a project, caches stay in the working directory
        prepare_environment()


def _become_many(processes: int, words: Iterable[str]) -> None:
    """Start again under torchrun, which gives each process its rank."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
               "-m", "engine", "train", *words]  # fmt: skip
    os.execv(sys.executable, command)


def _say_how_to_go_on(trainer: Any) -> None:
    if not trainer.last.exists():
        print("Interrupted before the first epoch was complete; nothing to keep.", file=sys.stderr)
        return
    folder = trainer.save_dir
    print(
        f"Interrupted. {len(trainer.rows)} epochs are kept in {_short(folder)}/. Go on with: "
        f"detectflow train project={_short(folder.parent)} name={folder.name} resume=true",
        file=sys.stderr,
    )


def _figures(metrics: Mapping[str, Any]) -> str:
    shown = ("metrics/mAP50", "metrics/mAP50-95", "metrics/precision", "metrics/recall")
    return "  ".join(f"{key.removeprefix('metrics/')} {metrics[key]:.3f}" for key in shown if metrics.get(key) is not None)


def _fresh(folder: Path) -> Path:
    """`folder`, or with a number appended where it exists."""
    number, candidate = 2, folder
    while candidate.exists():
        candidate, number = folder.with_name(f"{folder.name}{number}"), number + 1
    return candidate


def _short(path: Path) -> str:
    """As seen from the working directory, where it lies below it."""
    path = Path(path)
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
