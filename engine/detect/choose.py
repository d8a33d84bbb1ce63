"""From the settings of a training to the class that runs it, and every check of them that needs no
data: a wrong name is reported before anything is written or run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from engine.config import DetectionTrainConfig, ExportConfig, Params
from engine.core.early_stopping import check_monitor
from engine.core.trainer import BaseTrainer
from engine.detect.methods import made
from engine.detect.model_io import is_weight_file, read_weights
from engine.detect.trainer import DetectionTrainer, Network
from engine.detect.validator import DetectionValidator
from engine.errors import ConfigError, ExportError, nearest
from engine.metrics.reported import DECIDING
from engine.model_formats.table import FORMATS
from engine.models.family import Family
from engine.plugins import find_object

ONNX, WEIGHTS = "onnx", "safetensors"  # formats that can be registered


def trainer_class_of(path: str | None) -> type[BaseTrainer]:
    """The class that `trainer=` names, of the project's folder or an installed package;
    `DetectionTrainer` where it names none.

    Raises:
        ConfigError: a path that leads nowhere, code that cannot be imported, no trainer.
    """
    if path is None:
        return DetectionTrainer
    found = find_object(path, "trainer")
    if isinstance(found, type) and issubclass(found, BaseTrainer):
        return found
    if isinstance(found, Family) or (isinstance(found, type) and issubclass(found, Family)):
        raise ConfigError(
            f"trainer='{path}' is a family of networks, not a trainer: give model={path}"
        )
    what = (
        f"the class {found.__name__}"
        if isinstance(found, type)
        else f"a value of type {type(found).__name__}"
    )
    raise ConfigError(
        f"trainer='{path}' is {what}, not a class derived from a trainer of the engine"
    )


def detector_class_of(path: str | None) -> type[DetectionTrainer]:
    """`trainer_class_of`, where it has to be a trainer of detectors.

    Raises:
        ConfigError: see there; a trainer of something else.
    """
    found = trainer_class_of(path)
    if not issubclass(found, DetectionTrainer):
        raise ConfigError(
            f"trainer='{path}' does not derive from engine.detect.DetectionTrainer, and the "
            "pipeline and `detectflow tune` train detectors"
        )
    return found


def make_trainer(config: DetectionTrainConfig) -> DetectionTrainer:
    """The trainer of a detector that the settings ask for. Its own class may have settings more;
    these have their defaults.

    Raises:
        ConfigError: see `trainer_class_of`; a network that is not known, a size it cannot take.
    """
    trainer_class = detector_class_of(config.trainer)
    if not isinstance(config, trainer_class.config_class):
        given = {name: getattr(config, name) for name in config.model_fields_set}
        config = trainer_class.config_class.build(given, f"trainer {config.trainer}")
    return made(trainer_class, config=config)


def named_network(config: DetectionTrainConfig) -> Network:
    """The network that a training with these settings has, its weight file read where it starts
    from one; `refuse_settings` says whether it takes others.

    Raises:
        ConfigError, CheckpointError: see `make_trainer`; a file that is not there, or no weights.
    """
    trainer = make_trainer(config.with_overrides({"device": "auto", "resume": False}))
    trainer.read_network()
    return trainer.network


def refuse_settings(network: Network, config: DetectionTrainConfig) -> None:
    """ConfigError where a network cannot be trained with these settings, `config.model` among
    them: a size it cannot take, a setting that it has no use for.
    """
    family, spec = network
    if is_weight_file(config.model) and family.trainer_class is None:
        family.check_start(spec, config, config.model)
    else:
        spec = family.spec(config.model, config)
    family.check_size(spec, config.input_size)
    family.criterion(spec, config)


def check_params(params: Params, root: Path = Path()) -> None:
    """What can be known of a run of the pipeline before it trains: that its settings can be
    trained, exported and registered. Reads no data.

    root: of the workspace, from which a weight file is named.

    Raises:
        ConfigError: says what is wrong with which setting of params.yaml.
        CheckpointError: a weight file to start from cannot be read.
    """
    network = check_training(params.train, root)
    check_export(params.export, network, params.train.model)
    check_metric(params.register_.metric)


def check_training(config: DetectionTrainConfig, root: Path = Path()) -> Network | None:
    """A training's class, its network, the size of its input and what it monitors. The network, or
    None: that of a weight file that is not at hand yet.

    Raises:
        ConfigError, CheckpointError: see `check_params`.
    """
    try:
        trainer = make_trainer(config.with_overrides({"device": "auto"}))
    except ConfigError as error:
        raise ConfigError(f"params.yaml: train: {error}") from error.__cause__
    for path in config.callbacks:
        find_object(path, "params.yaml: train.callbacks")
    network = trainer.network or _network_of_file(trainer, root / config.model)
    _check_monitor(trainer, network)
    return network


def check_export(config: ExportConfig, network: Network | None, model: str) -> None:
    """ConfigError where the network of `train.model` cannot be written as `config` wants it: the
    format, its operator set, the size of the input.
    """
    if network is not None:
        refused = {name: network.family.can_export(network.spec, name) for name in FORMATS}
        for name in config.formats:
            if refused[name]:
                others = [other for other, reason in refused.items() if not reason]
                instead = (
                    f". To register its weights, served by PyTorch: export.formats: [{WEIGHTS}] "
                    f"and register.format: {WEIGHTS}"
                )
                raise ConfigError(
                    f"params.yaml: train.model = {model} cannot be exported to {name}: "
                    f"{refused[name].rstrip('.')}. It can be written as: "
                    f"{', '.join(others) or 'none'}"
                    f"{instead if name == ONNX and WEIGHTS in others else ''}"
                )
    if network is not None and config.imgsz is not None:
        side = config.imgsz
        try:
            network.family.check_size(network.spec, (side, side) if isinstance(side, int) else side)
        except ConfigError as error:
            raise ConfigError(f"params.yaml: export.imgsz = {side}: {error}") from error.__cause__
    for check in (FORMATS[name].check_opset for name in config.formats):
        if check is not None and config.opset is not None:
            try:
                check(config.opset)
            except ExportError as error:
                raise ConfigError(f"params.yaml: export.opset = {config.opset}: {error}") from error


def check_metric(metric: str) -> None:
    """ConfigError where `register.metric` is none by which two models can be compared image by
    image.
    """
    if metric not in DECIDING:
        raise ConfigError(
            f"params.yaml: register.metric = '{metric}' cannot decide between two models."
            f"{nearest(metric, DECIDING)} There are: {', '.join(DECIDING)}"
        )


def check_registration(formats: Iterable[str], registered: str) -> None:
    """ConfigError where the export `formats` leave out `registered`, that of the registered
    model.
    """
    if registered not in formats:
        advice = (
            f"Add {ONNX}; where the network cannot be written so, register.format: {WEIGHTS} "
            "registers the weights, served by PyTorch"
            if registered == ONNX
            else f"Add {registered}"
        )
        raise ConfigError(
            f"params.yaml: export.formats = {list(formats)}: the registered model is the "
            f"{registered} file, and without it stage register fails after the training. {advice}; "
            "to train without registering use `detectflow train`"
        )


def _check_monitor(trainer: DetectionTrainer, network: Network | None) -> None:
    """ConfigError where no column of results.csv will be called `train.monitor`. The training says
    so itself, after stage prepare; here it is refused as far as it is known without data.
    """
    monitor, own = trainer.args.monitor, type(trainer)
    if (
        trainer.adds_metrics()
        or trainer.args.callbacks  # which may add metrics when the training begins
        or own.get_validator is not DetectionTrainer.get_validator
    ):
        return
    declared = _declared_metrics(own.validator_class)
    if declared is None or monitor.startswith("lr/"):  # the optimizer names its groups
        return
    if own is DetectionTrainer and network is not None:
        losses = network.family.losses(network.spec)
        names = [f"{kind}/{name}" for kind in ("val", "train") for name in losses]
    elif monitor.startswith(("val/", "train/")):
        return  # losses of a class or a weight file that are not known yet
    else:
        names = []
    try:
        check_monitor(monitor, [*declared, *names])
    except ConfigError as error:
        raise ConfigError(f"params.yaml: train: {error}") from None


def _declared_metrics(validator_class: Any) -> tuple[str, ...] | None:
    """What validators of a class return, as far as the class alone says it; None: more may come."""
    base = DetectionValidator
    said = (
        isinstance(validator_class, type)
        and issubclass(validator_class, base)
        and validator_class.__init__ is base.__init__
        and validator_class.__call__ is base.__call__
    )
    return validator_class.__new__(validator_class).declared_metrics() if said else None


def _network_of_file(trainer: DetectionTrainer, file: Path) -> Network | None:
    """The network of the weight file that a training starts from, where that is at hand."""
    if not (file.is_file() and is_weight_file(str(file))):
        return None
    try:
        return trainer.network_in_file(read_weights(file)[0], str(file))
    except ConfigError as error:
        raise ConfigError(f"params.yaml: train: {error}") from error.__cause__
