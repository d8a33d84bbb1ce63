"""From the settings of a training to the class that runs it, and every check of them that needs no
data: a wrong name is reported before anything is written or run.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.config import DetectionTrainConfig
from engine.core.trainer import BaseTrainer
from engine.detect.methods import made
from engine.detect.model_io import is_weight_file, read_weights
from engine.detect.trainer import DetectionTrainer, Network
from engine.errors import ConfigError
from engine.model_formats.table import FORMATS
from engine.plugins import find_object

REGISTERED = "onnx"  # the format of the registered model


def trainer_class_of(path: str | None) -> type[BaseTrainer]:
    """The class that `trainer=` names, of the project's folder or an installed package;
    `DetectionTrainer` where it names none.

    Raises:
        ConfigError: a path that leads nowhere, code that cannot be imported, no trainer.
    """
    if path is None:
        return DetectionTrainer
    found = find_object(path, "trainer")
    if not (isinstance(found, type) and issubclass(found, BaseTrainer)):
        raise ConfigError(
            f"trainer='{path}' is a {type(found).__name__}, not a class derived from a trainer of "
            "the engine"
        )
    return found


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


def network_of(config: DetectionTrainConfig) -> Network:
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


def check_training(
    config: DetectionTrainConfig, formats: Iterable[str] = (), root: Path = Path()
) -> None:
    """What can be known of a training before it: its class, its network, the size of its input,
    whether the network can be written in the export `formats`. Reads no data.

    root: of the workspace, from which a weight file is named.

    Raises:
        ConfigError: says what is wrong with which setting.
        CheckpointError: a weight file to start from cannot be read.
    """
    try:
        trainer = make_trainer(config.with_overrides({"device": "auto"}))
    except ConfigError as error:
        raise ConfigError(f"params.yaml: train: {error}") from error.__cause__
    for path in config.callbacks:
        find_object(path, "params.yaml: train.callbacks")
    network = trainer.network or _network_of_file(trainer, root / config.model)
    if network is None:
        return  # of a weight file that is not at hand yet
    refused = {name: network.family.can_export(network.spec, name) for name in FORMATS}
    for name in formats:
        if refused[name]:
            others = [other for other, reason in refused.items() if not reason]
            raise ConfigError(
                f"params.yaml: train.model = {config.model} cannot be exported to {name}: "
                f"{refused[name].rstrip('.')}. It can be written as: {', '.join(others) or 'none'}"
            )


def check_registration(formats: Iterable[str]) -> None:
    """ConfigError where the export `formats` leave out the one that is registered."""
    if REGISTERED not in formats:
        raise ConfigError(
            f"params.yaml: export.formats = {list(formats)}: the registered model is the "
            f"{REGISTERED} file, and without it stage register fails after the training. Add "
            f"{REGISTERED}; to train without registering use `detectflow train`"
        )


def _network_of_file(trainer: DetectionTrainer, file: Path) -> Network | None:
    """The network of the weight file that a training starts from, where that is at hand."""
    if not (file.is_file() and is_weight_file(str(file))):
        return None
    try:
        return trainer.network_of(read_weights(file)[0], str(file))
    except ConfigError as error:
        raise ConfigError(f"params.yaml: train: {error}") from error.__cause__
