"""Settings of a search for hyper-parameters: how many trials, where, by what rule. What one trial
is, section train says.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from engine.config.train import _f
from engine.settings.base import Frozen


class TuneConfig(Frozen):
    """One search. No name here is also a setting of training: `detectflow tune` takes both."""

    trials: int = _f(
        "search",
        20,
        "finished trials the study is to have; asked for more later, it goes on",
        unit="trials",
        ge=1,
    )
    study: str | None = _f(
        "search",
        None,
        "name of the study, and of its folder in runs/tune; empty: dataset and model",
    )
    space: str | None = _f(
        "search", None, "YAML file of what is searched; empty: the default space"
    )
    sampler: Literal["tpe", "random"] = _f(
        "search", "tpe", "tpe learns from earlier trials, random does not"
    )
    stop_after_minutes: float | None = _f(
        "search",
        None,
        "minutes after which no further trial is begun; empty: no limit",
        unit="minutes",
        gt=0,
    )
    keep: int = _f(
        "search",
        3,
        "best trials whose weights are kept; those of all other trials are removed",
        unit="trials",
        ge=1,
    )

    pruner: Literal["median", "none"] = _f(
        "pruning", "median", "median ends a trial that is worse than half of the others were"
    )
    prune_after_trials: int = _f(
        "pruning", 4, "trials that are complete before one may be pruned", unit="trials", ge=1
    )
    prune_after_epochs: int | None = _f(
        "pruning",
        None,
        "epochs that every trial gets; empty: a third of its epochs",
        unit="epochs",
        ge=1,
    )

    jobs: int = _f("where", 1, "trials at a time", unit="trials", ge=1)
    runner: Literal["processes", "threads", "dask"] = _f(
        "where",
        "processes",
        "who runs several trials at a time: processes or threads here, or a Dask cluster",
    )
    scheduler: str | None = _f(
        "where", None, "address of a Dask scheduler; empty: as many Dask workers here as jobs"
    )
    storage: str | None = _f(
        "where",
        None,
        "database URL of the study; empty: DETECTFLOW_TUNE_STORAGE, else a SQLite file in "
        ".cache/tune",
    )

    @field_validator("study")
    @classmethod
    def _study_is_a_folder(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[\w\-][\w\-.]*", value, flags=re.ASCII):
            raise ValueError("must be a plain name of letters, digits, - _ and .")
        return value
