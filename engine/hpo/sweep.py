"""What a search is, decided before it begins, in plain values: so it travels to a process or a
machine as it is.

Words of the command line become settings of the search and of the trainings; what is not given is
as in section train of params.yaml. The data are prepared once, here, and every trial reads the same
folder.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from engine.config import DetectionTrainConfig, Params
from engine.config.tune import TuneConfig
from engine.core.setup import make_plan
from engine.errors import ConfigError
from engine.hpo.space import Space, default_space, from_plain, load_space, to_plain
from engine.project.environment import state_root

# a URL may hold a password, which is not for a command line
STORAGE_VARIABLE = "DETECTFLOW_TUNE_STORAGE"
PREPARED = "data/prepared"
OURS = (
    "project",
    "name",
    "exist_ok",
    "resume",
    "extend",
)  # settings of training that the search decides
ONE_PROCESS = "a trial trains in one process; several trials at a time are jobs=N"
SPEED_ONLY = {"device", "workers", "verbose", "cache", "plots"}  # may differ when a study goes on


@dataclass(frozen=True)
class Sweep:
    """One search, ready to run."""

    root: str  # the workspace
    study: str
    storage: str  # database URL
    data: str  # the prepared folder
    source: str  # what the user called it
    dataset: str  # its name
    digest: str  # of the data: every trial must have seen these
    base: dict[str, Any]  # settings of every trial, as far as they are given
    space: list[dict[str, Any]]
    tune: dict[str, Any]
    # values of the first trial: what training would do today; None: outside the space
    start: dict[str, Any] | None

    @property
    def settings(self) -> TuneConfig:
        return TuneConfig.build(self.tune, "tune")

    @property
    def training(self) -> DetectionTrainConfig:
        return schema_of(self.base.get("trainer")).build(self.base, "tune")

    @property
    def dimensions(self) -> Space:
        return from_plain(self.space)

    @property
    def folder(self) -> Path:
        """Where the trials have their run directories, and the results lie."""
        return Path(self.root) / "runs" / "tune" / self.study

    @property
    def prune_after_epochs(self) -> int:
        tune = self.settings
        return tune.prune_after_epochs or max(1, self.training.epochs // 3)

    def to_plain(self) -> dict[str, Any]:
        return asdict(self)

    def identity(self) -> dict[str, Any]:
        """What must stay the same while the study goes on, or its trials could not be compared."""
        settings = {
            k: v
            for k, v in self.training.model_dump(mode="json").items()
            if k not in SPEED_ONLY | {*OURS, "data"}
        }
        return {
            "train": settings,
            "space": {each.name: each.describe() for each in self.dimensions},
            "data": self.digest,
        }


def make_sweep(given: Mapping[str, Any], root: Path) -> Sweep:
    """Check everything that can be checked before the first trial, and prepare the data.

    given: settings of `TuneConfig` and of training, mixed.

    Raises:
        ConfigError: an unknown or wrong setting, a space that does not fit. DataError: the data
            cannot be used.
    """
    params = Params.load(root / "params.yaml")
    schema = schema_of(given.get("trainer", params.train.trainer))
    tune, training = split_settings(given, schema)
    there = {name: getattr(params.train, name) for name in params.train.model_fields_set}
    base = schema.build({**there, **training}, "tune")
    if base.nproc > 1:
        raise ConfigError(f"tune: nproc={base.nproc}: {ONE_PROCESS}")
    space = (
        load_space(root / tune.space, base) if tune.space else default_space(base, fixed=training)
    )
    twice = [each.name for each in space if each.name in training]
    if twice:
        raise ConfigError(
            f"tune: {twice[0]} is given and stands in {tune.space}, too. Leave one out."
        )
    source = training.get("data") or PREPARED
    if "data" not in training and not (root / PREPARED / "dataset.json").is_file():
        raise ConfigError(
            f"tune: {PREPARED} is not there. `detectflow run` or `detectflow stage prepare` makes "
            "it; or name a dataset: data=data/digits.yaml"
        )
    from engine.datasets.open import open_dataset

    dataset = open_dataset(root / source)
    dataset.require("train", "val")
    study = tune.study or study_name(dataset.name, base.model, base.trainer)
    explicit = {
        name: value for name, value in base.model_dump(mode="json").items() if base.is_given(name)
    }
    kept = {
        name: value
        for name, value in explicit.items()
        if name not in {*OURS, "data", "nproc", *(d.name for d in space)}
    }
    return Sweep(
        root=str(root),
        study=study,
        storage=storage_url(tune, study, root),
        data=str(dataset.folder),
        source=str(source),
        dataset=dataset.name,
        digest=dataset.digest,
        base=kept,
        space=to_plain(space),
        tune=tune.model_dump(mode="json", exclude={"storage"}),
        start=start_values(base, space, dataset.counts["train"]["images"]),
    )


def schema_of(trainer: Any) -> type[DetectionTrainConfig]:
    """The settings that a trial takes; a trainer class of the user's own may have more.

    Raises:
        ConfigError: `trainer` names no class that trains detectors.
    """
    if trainer is None:
        return DetectionTrainConfig
    from engine.detect.choose import detector_class_of

    return detector_class_of(str(trainer)).config_class


def split_settings(
    given: Mapping[str, Any], schema: type[DetectionTrainConfig]
) -> tuple[TuneConfig, dict[str, Any]]:
    """(settings of the search, settings of training, which `schema` knows).

    Raises:
        ConfigError: a key of neither, with the nearest of both; one that the search decides.
    """
    known = [
        *TuneConfig.model_fields,
        *(name for name in schema.model_fields if name not in OURS),
    ]
    given = schema.in_our_names(given, "tune")
    for key in given:
        if key in OURS:
            raise ConfigError(
                f"tune: {key} belongs to the search: a trial's folder is "
                "runs/tune/STUDY/trial-NNNN, and the same command goes on with a study. Its name "
                "is study=NAME."
            )
        if key not in known:
            raise ConfigError(
                f"tune: unknown key '{key}'.{schema.instead_of(key, TuneConfig.model_fields)} "
                "`detectflow help tune` and `detectflow help train` list them."
            )
    own = {key: value for key, value in given.items() if key in TuneConfig.model_fields}
    tune = TuneConfig.build(own, "tune")
    if tune.scheduler and tune.runner != "dask":
        raise ConfigError(
            f"tune: scheduler={tune.scheduler} is for runner=dask, not for runner={tune.runner}"
        )
    return tune, {key: value for key, value in given.items() if key not in own}


def study_name(dataset: str, model: str, trainer: str | None = None) -> str:
    """`digits-yolov8n`, with a trainer of the user's own `digits-yolov8n-CellTrainer`."""
    own = f"-{trainer.rpartition(':')[2]}" if trainer else ""
    name = re.sub(r"[^\w\-.]+", "-", f"{dataset}-{Path(model).stem}{own}", flags=re.ASCII)
    return name.strip("-.") or "study"


def storage_url(tune: TuneConfig, study: str, root: Path) -> str:
    """The database of the study: as asked for, else as the environment says, else a file of the
    project.
    """
    named = tune.storage or os.environ.get(STORAGE_VARIABLE)
    return named or f"sqlite:///{state_root(root) / '.cache' / 'tune' / f'{study}.db'}"


def start_values(base: DetectionTrainConfig, space: Space, images: int) -> dict[str, Any] | None:
    """The searched settings as they are without a search, so that the first trial shows what is
    gained by one.

    images: of the training split. None: a value lies outside the space, or is decided only in a
    training.
    """
    from engine.detect.choose import make_trainer

    chosen: dict[str, Any] = {}
    if base.batch > 0:
        per_epoch = math.ceil(max(1, round(images * base.fraction)) / base.batch)
        plan = make_plan(base, base.batch, per_epoch, make_trainer(base).default_lr)
        chosen = {"optimizer": plan.optimizer, "nbs": plan.nbs, "lr0": plan.lr0}
    values = {each.name: chosen.get(each.name, getattr(base, each.name)) for each in space}
    return values if all(each.holds(values[each.name]) for each in space) else None
