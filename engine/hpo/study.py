"""The study: Optuna's memory of the trials, in SQLite or PostgreSQL, and the rules by which it goes
on after a death.

One process drives a study. Its token stands in the study; a trial that finds another one there has
outlived its driver and leaves. Whoever drives next fails the trials that were left running and puts
their values into the queue again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from engine.errors import ConfigError, WorkspaceError
from engine.hpo.sweep import Sweep
from engine.locks import Lock

ATTEMPTS = 3  # of one set of values: what kills its process every time is given up
BUSY_S = 60  # how long a process waits for another one's write into SQLite
WAITED_FOR = (TrialState.RUNNING, TrialState.WAITING)
CONTINUES, ATTEMPT, ERROR = "continues", "attempt", "error"  # attributes of a trial
START = "start"  # of the trial that has the settings as they are without a search
IDENTITY, TOKEN, TRACKING = "identity", "driver", "tracking_key"  # attributes of a study

optuna.logging.set_verbosity(optuna.logging.WARNING)


def open_study(sweep: Sweep, index: int = 0) -> optuna.Study:
    """The study, made where there is none; `index` counts the trials and moves the sampler's seed.

    Raises:
        ConfigError: a wrong storage URL, a missing driver. WorkspaceError: the database does not
            answer.
    """
    training, tune = sweep.training, sweep.settings
    with _storage_errors(sweep.storage):
        if sweep.storage.startswith("sqlite:///"):
            Path(sweep.storage.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        options = (
            {"connect_args": {"timeout": BUSY_S}}
            if sweep.storage.startswith("sqlite")
            else {"pool_pre_ping": True}
        )
        storage = optuna.storages.RDBStorage(sweep.storage, engine_kwargs=options)
        return optuna.create_study(
            study_name=sweep.study,
            storage=storage,
            load_if_exists=True,
            sampler=_sampler(sweep, index),
            direction="maximize" if training.monitor_mode == "max" else "minimize",
            pruner=optuna.pruners.MedianPruner(tune.prune_after_trials, sweep.prune_after_epochs)
            if tune.pruner == "median"
            else optuna.pruners.NopPruner(),
        )


def _sampler(sweep: Sweep, index: int) -> optuna.samplers.BaseSampler:
    """A sampler of its own for every trial: seeded alike, all processes would propose the same
    values.
    """
    seed = (sweep.training.seed * 1_000_003 + index) % 2**32
    if sweep.settings.sampler == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    first = min(
        10, max(4, sweep.settings.trials // 4)
    )  # at random, before there is anything to learn from
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=first, constant_liar=True)


@contextlib.contextmanager
def driving(sweep: Sweep) -> Iterator[tuple[optuna.Study, str]]:
    """(study, token) of the one process that drives it; what a dead one left running is in the
    queue again.

    However the block ends, its trials find out and leave. Raises ConfigError where the study
    searched something else, WorkspaceError where another process drives it.
    """
    with _alone(Path(sweep.root) / ".lock" / f"tune-{sweep.study}", sweep.study):
        study = open_study(sweep)
        _check_identity(study, sweep)
        retire(study)
        token = secrets.token_hex(8)
        study.set_user_attr(TOKEN, token)
        if not study.trials and sweep.start is not None:
            study.enqueue_trial(sweep.start, user_attrs={START: True})
        try:
            yield study, token
        finally:
            study.set_user_attr(TOKEN, "")
            retire(study)


def _check_identity(study: optuna.Study, sweep: Sweep) -> None:
    now, then = sweep.identity(), study.user_attrs.get(IDENTITY)
    if then is None:
        study.set_user_attr(IDENTITY, now)
        study.set_user_attr(TRACKING, secrets.token_hex(8))
        return
    differences = [
        f"  {'.'.join(what).strip('.')}: {_of(then, what)} then, {_of(now, what)} now"
        for what in _differing(then, now)
    ]
    if differences:
        lines = "\n".join(differences)
        raise ConfigError(
            f"study '{sweep.study}' has searched something else, so its trials do not compare "
            "with new ones. Give "
            f"this search a name of its own (study=NAME), or the settings of then:\n{lines}"
        )


def _differing(then: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str]]:
    parts = [(part, name) for part in ("train", "space") for name in {**then[part], **now[part]}]
    return [place for place in [*parts, ("data", "")] if _of(then, place) != _of(now, place)]


def _of(identity: dict[str, Any], place: tuple[str, str]) -> Any:
    part, name = place
    return identity[part].get(name) if name else identity[part][:16]


def retire(study: optuna.Study) -> list[int]:
    """Fail the trials that are left running and queue their values again; numbers of those
    trials.
    """
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in left:
        study.tell(trial.number, state=TrialState.FAIL)
        attempt = trial.user_attrs.get(ATTEMPT, 1) + 1
        if attempt <= ATTEMPTS:
            again = {CONTINUES: trial.number, ATTEMPT: attempt}
            if trial.user_attrs.get(START):
                again[START] = True
            study.enqueue_trial(trial.params, user_attrs=again)
    return [trial.number for trial in left]


def is_driven_by(study: optuna.Study, token: str) -> bool:
    return study.user_attrs.get(TOKEN) == token


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that count: those that ended, without the ones whose process died and that were queued
    again.
    """
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(CONTINUES) for trial in trials}
    return [
        trial for trial in trials if trial.state not in WAITED_FOR and trial.number not in again
    ]


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials, the best first; of equals the earlier one."""
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (sign * trial.value, trial.number))


def why_all_failed(study: optuna.Study, enough: int = 3) -> str | None:
    """The most frequent reason, where so many trials have failed and none has not: trying on would
    not help.
    """
    done = finished(study)
    if len(done) < enough or any(trial.state != TrialState.FAIL for trial in done):
        return None
    return Counter(trial.user_attrs.get(ERROR, "its process died") for trial in done).most_common(
        1
    )[0][0]


@contextlib.contextmanager
def _alone(file: Path, study: str) -> Iterator[None]:
    file.parent.mkdir(parents=True, exist_ok=True)
    with Lock(file) as lock:
        if not lock.try_take(f"tune study={study}"):
            raise WorkspaceError(
                f"study '{study}' is being searched by another process of this project. Wait for "
                "it, or name another study: study=NAME"
            )
        yield


@contextlib.contextmanager
def _storage_errors(url: str) -> Iterator[None]:
    try:
        shown = make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise ConfigError(
            "tune: the storage is no database URL: expected sqlite:///FILE or "
            "postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        ) from None
    try:
        yield
    except (ImportError, optuna.exceptions.DuplicatedStudyError) as error:
        raise ConfigError(
            f"tune: {shown}: {str(error).splitlines()[0]} PostgreSQL needs a driver: pip install "
            "'psycopg[binary]', and postgresql+psycopg:// in the address."
        ) from error
    except (SQLAlchemyError, OSError, optuna.exceptions.StorageInternalError) as error:
        cause = str(error.__cause__ or error).strip().splitlines()[0][:200]
        raise WorkspaceError(
            f"tune: the storage {shown} cannot be used: {cause}. Is the database up, and may it "
            "be written?"
        ) from error
