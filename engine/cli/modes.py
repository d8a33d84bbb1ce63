"""train, val, predict, export: arguments to settings, settings to an executor, its result to a few
lines.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.cli.arguments import take
from engine.config import (
    DetectionTrainConfig,
    ExportConfig,
    PredictConfig,
    TrackConfig,
    TrainConfig,
    ValidateConfig,
    parse_overrides,
)
from engine.config.goal import read_goal
from engine.errors import INTERRUPTED, TERMINATED, ConfigError, Terminated
from engine.files import make_folder
from engine.settings.base import load_yaml

# Arguments of a mode that its executor has no settings for, with their defaults; None: see
# `detectflow help MODE`.
VAL_EXTRA = {"model": "weights/best.pt", "data": "data/prepared", "project": "runs", "name": "val"}
EXPORT_EXTRA = {"model": "weights/best.pt", "format": None, "data": None, "folder": None}


def train(argv: Sequence[str]) -> int:
    """`detectflow train key=value ...`; with nproc=N it starts itself N times."""
    from engine.models.hub.files import with_revision
    from engine.models.registry import hub_names

    several = "WORLD_SIZE" in os.environ
    with _errors_reported_once() if several else contextlib.nullcontext():
        given = _as_started(_with_file(_of_training(argv)))
        if isinstance(given.get("model"), str):
            from engine.registry.fetch import file_of

            given["model"] = file_of(given["model"], weights=True)
        on_hub = {} if given.get("resume") else hub_names(given)
        for key, name in on_hub.items():  # once, so that all processes start from the same
            given[key] = with_revision(name, Path(), given.get("accept_licence"))
        config = _schema(given.get("trainer")).build(given, "train")
        if config.nproc > 1 and not several:
            from engine.cli.launch import launch

            words = [word for word in argv if word.partition("=")[0] not in on_hub]
            words += [f"{key}={given[key]}" for key in on_hub]
            return launch(config.nproc, ["train", *words])
        return _train(config)


def _of_training(argv: Sequence[str]) -> dict[str, Any]:
    """The settings of a training, of a trainer of the user's own too, and settings=FILE."""
    names = [arg for arg in argv if arg.startswith("trainer=")]
    trainer = parse_overrides(names, texts={"trainer"}).get("trainer")
    schema = _schema(trainer)
    return schema.in_our_names(parse_overrides(argv, schema, texts={"settings"}), "train")


def _schema(trainer: Any) -> type[TrainConfig]:
    """The settings that a training takes; a trainer class of the user's own may have more."""
    if trainer is None:
        return DetectionTrainConfig
    from engine.detect.choose import trainer_class_of

    return trainer_class_of(str(trainer)).config_class


def _train(config: TrainConfig) -> int:
    _prepare()
    from engine.detect.choose import trainer_class_of
    from engine.detect.methods import made

    trainer = made(trainer_class_of(config.trainer), config=config)
    try:
        result = trainer.train()
    except KeyboardInterrupt as ended:
        if trainer.world.is_main:
            _say_how_to_go_on(trainer)
        return TERMINATED if isinstance(ended, Terminated) else INTERRUPTED
    if trainer.world.is_main:
        print(f"best epoch {result.best_epoch} of {result.epochs}: {_summary(result.metrics)}")
        print(f"weights {_short(result.best)}   plots and tables {_short(result.save_dir)}/")
        print(f"next: {_measure(trainer, _short(result.best))}")
    return 0


def _measure(trainer: Any, weights: str) -> str:
    """The command that measures new weights: on test, which a dataset to train on need not have."""
    dataset = getattr(trainer, "dataset", None)  # a trainer of the user's own may have none
    split = "test" if dataset is None or dataset.counts["test"]["images"] else "val"
    words = (f"model={weights}", f"data={trainer.args.data}", f"split={split}")
    return shlex.join(("detectflow", "val", *words))


def val(argv: Sequence[str]) -> int:
    """`detectflow val model=WEIGHTS data=DATASET key=value ...`"""
    given = parse_overrides(argv, ValidateConfig, texts=VAL_EXTRA)
    extra = take(given, "val", VAL_EXTRA, ValidateConfig)
    config = ValidateConfig.build(given, "val")
    _prepare()
    from engine.cli.progress import validation_bar
    from engine.detect.choose_point import settle_point
    from engine.detect.report_point import report_point
    from engine.detect.validator import validator_class_of

    named, extra["model"] = extra["model"], model_file(str(extra["model"]))

    with _own(Path(extra["project"]) / extra["name"]) as folder:
        validator = validator_class_of(extra["model"])(config=config, save_dir=folder)
        with validation_bar(validator):
            metrics = validator(model=Path(extra["model"]), data=extra["data"])
        point = settle_point(validator, Path(extra["model"]), extra["data"])
        found = report_point(validator, point, folder) if validator.world.is_main else None
    if not validator.world.is_main:
        return 0
    scores = validator.scores
    print(
        f"{named} on {extra['data']}, {config.split}: {scores.images} images, "
        f"{scores.instances} objects"
    )
    for key, value in metrics.items():
        print(f"  {key:<28}{'-' if value is None else f'{value:.4f}':>10}")
    print(
        "  ms per image: "
        + ", ".join(f"{step} {ms:.1f}" for step, ms in validator.speed_ms.items())
    )
    if found is not None:
        print(_at_the_thresholds(found))
    print(f"plots and tables {_short(folder)}/")
    return 0


def _at_the_thresholds(report: Mapping[str, Any]) -> str:
    """The operating point in two lines: precision and recall of all classes with intervals."""
    rates, calibration = report["overall"], report["calibration"]
    said = [f"at the thresholds for {read_goal(report['goal'])}, chosen on {report['chosen_on']}:"]
    for name in ("precision", "recall"):
        value, low, high = (rates[f"{name}{end}"] for end in ("", "_low", "_high"))
        said.append(
            f"{name} -"
            if value is None
            else f"{name} {value:.3f}"
            if low is None
            else f"{name} {value:.3f} ({low:.3f} to {high:.3f})"
        )
    line = "  ".join(said)
    if calibration["ece_before"] is None:
        return line
    errors = f"{calibration['ece_before']:.3f} -> {calibration['ece_after']:.3f}"
    return f"{line}\ncalibration ({calibration['method']}): ECE {errors}"


def predict(argv: Sequence[str]) -> int:
    """`detectflow predict source=SOURCE key=value ...`; 1 where some of the images could not be
    read.
    """
    return _find("predict", PredictConfig, argv)


def track(argv: Sequence[str]) -> int:
    """`detectflow track source=VIDEO key=value ...`: predict, with a number for each object."""
    return _find("track", TrackConfig, argv)


def _find(mode: str, schema: type[PredictConfig], argv: Sequence[str]) -> int:
    given = schema.in_our_names(parse_overrides(argv, schema), mode)
    config = schema.build(given, mode)
    if config.source is None:
        raise ConfigError(f"{mode}: no source given, for example source=images/")
    _prepare()
    from engine.cli.progress import prediction_bar
    from engine.detect import DetectionPredictor

    if mode == "track":
        from engine.detect.predictor import TrackingPredictor as DetectionPredictor

    given["model"] = model_file(config.model)

    images = boxes = code = 0
    objects: set[tuple[Any, int]] = set()  # (video, number)
    with _own(Path(config.project) / config.name) as folder:  # images of two runs do not mix
        predictor = DetectionPredictor({**given, "name": folder.name})
        try:
            with prediction_bar(predictor):
                for result in predictor(stream=True):
                    images += 1
                    boxes += len(result)
                    numbers = () if result.ids is None else result.ids.tolist()
                    objects.update((result.video, number) for number in numbers)
        except KeyboardInterrupt:  # how a camera ends
            code = INTERRUPTED
    what = " and ".join(predictor.written())
    where = f", {what} in {_short(predictor.out)}/" if what else ""
    skipped = f", {len(predictor.skipped)} could not be read" if predictor.skipped else ""
    found = f"{len(objects)} objects, {boxes} boxes" if mode == "track" else f"{boxes} objects"
    print(f"{found} in {images} images{skipped}{where}")
    return code or int(bool(predictor.skipped))


def export(argv: Sequence[str]) -> int:
    """`detectflow export model=WEIGHTS format=FORMAT key=value ...`"""
    given = parse_overrides(argv, ExportConfig, texts=EXPORT_EXTRA)
    extra = take(given, "export", EXPORT_EXTRA, ExportConfig)
    config = ExportConfig.build(given, "export")
    _prepare()
    from engine.detect.import_weights import is_published
    from engine.export import export as write
    from engine.stages.places import EXPORTS, export_folder

    weights = Path(model_file(str(extra["model"]), weights=True))
    asked = extra["folder"]
    if asked is None and is_published(str(extra["model"])):
        asked = EXPORTS  # not into the cache
    folder = export_folder(weights, asked)
    data = Path(extra["data"]) if extra["data"] else None
    for name in [extra["format"]] if extra["format"] else config.formats:
        report = write(weights, str(name), folder, settings=config, data=data)
        checks = "  ".join(
            f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in report.check.items()
        )
        print(f"{_short(report.path)}   {checks}")
    return 0


def model_file(model: str, weights: bool = False) -> str:
    """As `engine.registry.fetch.file_of`; of a name of published weights they, as a weight file."""
    from engine.detect.import_weights import is_published, published_file
    from engine.registry.fetch import file_of

    if is_published(model) and (found := published_file(model)):
        return str(found)
    return file_of(model, weights)


def _prepare() -> None:
    """Console log, and the project's environment where there is a project."""
    from engine.project.environment import NoProject, prepare_environment

    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if int(os.environ.get("RANK", 0)) == 0:  # of several processes one reports progress
        for name in ("detectflow", "engine"):
            logging.getLogger(name).setLevel(logging.INFO)
    with contextlib.suppress(
        NoProject
    ):  # used outside a project, caches stay in the working directory
        prepare_environment()


def _with_file(given: dict[str, Any]) -> dict[str, Any]:
    """With settings=FILE: those of its section train, or of the whole file where it has none;
    the command line wins.
    """
    file = given.pop("settings", None)
    if file is None:
        return given
    values = load_yaml(str(file))
    section = values.get("train", values)
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: expected `key: value` lines below train, found {section!r}")
    schema = _schema(given.get("trainer", section.get("trainer")))
    schema.build(section, str(file))  # an error in the file names it
    return {**section, **given}


def _as_started(given: dict[str, Any]) -> dict[str, Any]:
    """With resume: how the run was started, which has to be known before it is opened."""
    if given.get("resume") is not True:
        return given
    from engine.core.run_directory import run_of

    project, name = (
        given.get(key, TrainConfig.model_fields[key].default) for key in ("project", "name")
    )
    run = None if "name" in given else run_of(str(given.get("model", "")))
    saved = (run or Path(str(project)) / str(name)) / "args.yaml"
    values = load_yaml(saved) if saved.is_file() else {}
    return {
        **{key: values[key] for key in ("trainer", "nproc") if values.get(key) is not None},
        **given,
    }


def _errors_reported_once() -> contextlib.AbstractContextManager[None]:
    from engine.core.distributed import world_from_environment
    from engine.core.peer_failure import reported_once

    world = world_from_environment()
    return reported_once(world.rank, world.size)


def _say_how_to_go_on(trainer: Any) -> None:
    if not trainer.last.exists():
        print("Interrupted before the first epoch was complete; nothing to keep.", file=sys.stderr)
        return
    folder, many = trainer.save_dir, trainer.world.size > 1 and trainer.args.nproc == 1
    where = "the same torchrun command with" if many else "detectflow train"
    print(
        f"Interrupted. {len(trainer.rows)} epochs are kept in {_short(folder)}/. Go on with: "
        f"{where} project={_short(folder.parent)} name={folder.name} resume=true",
        file=sys.stderr,
    )


def _summary(metrics: Mapping[str, Any]) -> str:
    from engine.metrics.headlines import headlines

    return "  ".join(f"{name} {value:.3f}" for name, value in headlines(metrics).items())


@contextlib.contextmanager
def _own(folder: Path) -> Iterator[Path]:
    """`folder`, or with a number appended where it exists, for nobody else; it goes again if
    nothing was put into it.
    """
    if int(os.environ.get("RANK", 0)) > 0:  # torchrun: the first process has one and writes
        yield folder
        return
    made = [above for above in folder.parents if not above.exists()]
    number, candidate = 2, folder
    while True:
        try:
            candidate.mkdir(parents=True)
            break
        except FileExistsError:
            candidate, number = folder.with_name(f"{folder.name}{number}"), number + 1
        except OSError:
            make_folder(candidate)  # says what is wrong
    try:
        yield candidate
    finally:
        with contextlib.suppress(OSError):  # not empty
            for empty in (candidate, *made):
                empty.rmdir()


def _short(path: Path) -> str:
    """As seen from the working directory, where it lies below it."""
    path = Path(path)
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)
