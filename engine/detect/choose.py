"""From the settings of a training to the class that runs it, and every check of them that needs no
data: a wrong name is reported before anything is written or run.
"""

from __future__ import annotations

from collections.abc import Iterable

from engine.config import DetectionTrainConfig
from engine.core.trainer import BaseTrainer
from engine.detect.model_io import is_weight_file
from engine.detect.own_network import OwnNetwork
from engine.detect.trainer import DetectionTrainer, Network
from engine.errors import ConfigError
from engine.plugins import find_object


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
    return trainer_class(config=config)


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
    if is_weight_file(config.model) and not isinstance(family, OwnNetwork):
        family.check_start(spec, config, config.model)
    else:
        spec = family.spec(config.model, config)
    family.check_size(spec, config.input_size)
    family.criterion(spec, config)


def check_training(config: DetectionTrainConfig, formats: Iterable[str] = ()) -> None:
    """What can be known of a training before it: its class, its network, the size of its input,
    whether the network can be written in the export `formats`. Reads no data.

    Raises:
        ConfigError: says what is wrong with which setting.
    """
    try:
        trainer = make_trainer(config.with_overrides({"device": "auto"}))
    except ConfigError as error:
        raise ConfigError(f"params.yaml: train: {error}") from error.__cause__
    for path in config.callbacks:
        find_object(path, "params.yaml: train.callbacks")
    network = trainer.network
    if network is None:
        return  # of a weight file, which may not be at hand yet
    for name in formats:
        reason = network.family.can_export(network.spec, name)
        if reason:
            raise ConfigError(
                f"params.yaml: train.model = {config.model} cannot be exported to {name}: {reason}"
            )
