"""Under which name the project's models are registered."""

from __future__ import annotations

import re
from pathlib import Path

from engine.config import Params
from engine.errors import ConfigError
from engine.tracking.run_metadata import dataset_metadata

NOT_IN_A_NAME = re.compile(r"[/:@'\"`%\s]+")  # MLflow's registry, and readers of `NAME@ALIAS`


def registered_name(params: Params, root: Path) -> str:
    """What `register.model` says, else the prepared dataset's name: models of two datasets are
    never each other's champion.

    Raises:
        ConfigError: neither is known.
    """
    if params.register_.model:
        return params.register_.model
    dataset = str(dataset_metadata(root).get("name", ""))
    name = NOT_IN_A_NAME.sub("-", dataset).strip("-")
    if dataset and not name:
        raise ConfigError(
            f"the dataset's name, '{dataset}', is none for a registered model: set register.model "
            "in params.yaml, for example register.model: parts"
        )
    if not name:
        raise ConfigError(
            f"{root}: no dataset is prepared yet, and models are registered under the dataset's "
            "name. Name the model, run the pipeline (`detectflow run`), or set register.model in "
            "params.yaml."
        )
    return name
