"""The one place that drives DVC: around a step, ask what is up to date, restore, check, and record.

`dvc repro` and the flow use this state in either order. DVC's `Repo` is no public contract, so
nothing else calls it, and tests/versioning/test_dvc_adapter.py holds what is used here against the
installed DVC. Without `.dvc`, or without the package, steps simply run, after one warning.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from engine.code.closure import differences
from engine.errors import EngineError, WorkspaceError
from engine.files import described_full_disk
from engine.project.lock_holders import command_of
from engine.project.workspace_lock import workspace_lock
from engine.settings.base import load_yaml
from engine.versioning.stage_inputs import (
    Snapshot,
    StageDefinition,
    check_unchanged,
    load_definition,
    run_checked,
    snapshot,
)

logger = logging.getLogger("detectflow.dvc")

ALWAYS = "always changed"  # DVC's word for a stage with `always_changed: true`
CODE_RECORDS = "reports/code/"
BUSY_RETRY_S = 1.0
# of a run that does not want to wait: a `dvc status`, an editor's too, is over sooner
BUSY_PATIENCE_S = 10.0
BUSY_REMIND_S = 30.0

T = TypeVar("T")


class DvcBusy(WorkspaceError):
    """Another DVC command has what is needed; the message names it."""


@dataclass(frozen=True)
class StageOutcome:
    """What became of one stage."""

    name: str
    # "ran", "skipped" (already up to date), "restored" (an earlier result with these inputs)
    status: str
    seconds: float
    value: Any = None  # what the stage's function returned, None unless it ran
    reasons: tuple[str, ...] = ()  # why it was not up to date


@dataclass
class DvcStages:
    """The stages of one workspace."""

    root: Path
    # for another holder of the workspace, or of DVC's locks; False: fail soon and name it
    wait: bool = True
    force: bool = False  # run even what is up to date
    log: logging.Logger | logging.LoggerAdapter = logger

    @property
    def versioned(self) -> bool:
        """Whether DVC takes part."""
        return (self.root / ".dvc").is_dir() and importlib.util.find_spec("dvc") is not None

    @property
    def _pipeline(self) -> str:
        """The file of the stages by its whole path: DVC takes a mere name as one of the working
        directory's dvc.yaml.
        """
        return str(self.root / "dvc.yaml")

    def run(
        self, name: str, function: Callable[[], Any], stale: Callable[[], bool] = lambda: False
    ) -> StageOutcome:
        """Bring stage `name` up to date: skip, restore, or call `function` and record what it made.

        stale: whether the result in place was made from something that DVC does not see and that
        has changed since. It
            is asked of a result that DVC finds up to date, and of one that was restored.

        Raises:
            WorkspaceError: the workspace is held (and `wait` is off), or inputs changed while the
            step ran: then
                nothing is recorded. Whatever `function` raises passes through, with nothing
                recorded.
        """
        started = time.monotonic()

        def outcome(status: str, value: Any = None, reasons: tuple[str, ...] = ()) -> StageOutcome:
            return StageOutcome(name, status, time.monotonic() - started, value, reasons)

        with workspace_lock(self.root, wait=self.wait, emit=self.log.warning):
            stage = load_definition(self.root, name)
            if not self.versioned:
                warn_of_no_versions(self.root, self.log)
                return outcome("ran", run_checked(self.root, stage, function)[0])
            reasons = self.status(name)
            if not self.force and not reasons and not stale():
                return outcome("skipped")
            if not self.force and reasons and self._restore(stage) and not stale():
                return outcome("restored", None, tuple(reasons))
            value, before = run_checked(self.root, stage, function)
            self._record(stage, before)
            return outcome("ran", value, tuple(reasons))

    def refresh(self, name: str, function: Callable[[], Any]) -> Any:
        """Call `function` of a stage that is cheap and always run, as `dvc repro` does with
        `always_changed: true`, and record what it made where dvc.lock says otherwise.

        Raises:
            WorkspaceError: as `run`. Whatever `function` raises passes through.
        """
        with workspace_lock(self.root, wait=self.wait, emit=self.log.warning):
            stage = load_definition(self.root, name)
            value, before = run_checked(self.root, stage, function)
            if self.versioned and set(self.status(name)) - {ALWAYS}:
                self._record(stage, before)
            return value

    def status(self, name: str) -> list[str]:
        """Why stage `name` has to run, as text; empty when it is up to date."""

        def ask(repo: Any) -> list[str]:
            found = repo.status(targets=[f"{self._pipeline}:{name}"])
            lines = [line for entries in found.values() for e in entries for line in _words(e)]
            return [_code_words(repo, self.root, name, line) for line in lines]

        return self._when_free(ask)

    def add(self, file: Path) -> None:
        """Version a file that is no stage's output, as `dvc add` does; nothing happens without
        DVC.
        """
        if self.versioned:
            self._when_free(lambda repo: repo.add([str(file)]))

    def _when_free(self, action: Callable[[Any], T]) -> T:
        """`action(repo)` with the open DVC repository; called again for as long as another DVC
        command is in its way.

        Raises:
            DvcBusy: `wait` is off, and the other command is still at work after some seconds.
        """
        started = time.monotonic()
        reminded = -BUSY_REMIND_S
        while True:
            try:
                with _repo(self.root) as repo:
                    return action(repo)
            except DvcBusy as busy:
                waited = time.monotonic() - started
                if not self.wait and waited >= BUSY_PATIENCE_S:
                    raise
                if self.wait and waited - reminded >= BUSY_REMIND_S:
                    self.log.warning("Waiting: %s Ctrl-C gives up.", busy)
                    reminded = waited
            time.sleep(BUSY_RETRY_S)

    def _restore(self, stage: StageDefinition) -> bool:
        """Bring back an earlier result of the same inputs from the run cache, if DVC has one."""
        from dvc.dependency.base import DependencyDoesNotExistError
        from dvc.stage.cache import RunCacheNotFoundError

        before = snapshot(self.root, stage)

        def restore(repo: Any) -> None:
            # It hashes the inputs onto the stage object it is given, so that object is used for
            # nothing else.
            with repo.lock:
                repo.stage_cache.restore(repo.stage.load_one(self._pipeline, stage.name))

        try:
            self._when_free(restore)
        except (RunCacheNotFoundError, DependencyDoesNotExistError, FileNotFoundError):
            return False  # a missing input is for the step itself to explain
        self._record(stage, before)
        return True

    def _record(self, stage: StageDefinition, before: Snapshot) -> None:
        """Hash inputs and outputs; if the inputs are still those of `before`, put the outputs into
        the cache and the lock.
        """
        self._when_free(lambda repo: _record(repo, self._pipeline, stage, before))


@functools.cache  # once, and not for every stage; a run that follows in this process forgets it
def warn_of_no_versions(root: Path, log: logging.Logger | logging.LoggerAdapter) -> None:
    """Say that DVC takes no part."""
    log.warning(
        "%s: no .dvc folder, or DVC is not installed: every stage runs, nothing is skipped or "
        "versioned. `dvc init` turns that on.",
        root,
    )


def _record(repo: Any, pipeline: str, stage: StageDefinition, before: Snapshot) -> None:
    """The same calls as at the end of DVC's own `Stage.run`, with checks between them.

    DVC's `commit` only prints that a file did not get into the cache (a full disk), and dvc.lock
    would name a result that cannot be restored.
    """
    from dvc.dependency.base import DependencyDoesNotExistError

    with repo.lock:
        loaded = repo.stage.load_one(pipeline, stage.name)
        try:
            loaded.save(run_cache=False)
        except (
            DependencyDoesNotExistError
        ) as error:  # not needed by the step, or it would have said so
            raise WorkspaceError(
                f"stage {stage.name}: {error}, although dvc.yaml names it as an input, so its "
                "results were not recorded. Bring it back, or correct dvc.yaml, and run again."
            ) from None
        check_unchanged(Path(repo.root_dir), stage, before)
        loaded.commit()
        lost = [out.def_path for out in loaded.outs if out.use_cache and out.changed_cache()]
        if lost:
            raise WorkspaceError(
                f"stage {stage.name}: {', '.join(lost)} did not get into DVC's cache "
                f"({repo.cache.local.path}; see the error above), so its results were not "
                "recorded. They are in the workspace and whole. Free some disk space and run again."
            )
        repo.stage_cache.save(loaded)
        loaded.dump(update_pipeline=False)


def is_repository(root: Path) -> bool:
    """Whether git knows this folder; DVC then needs its configuration set otherwise when it does
    not.
    """
    return any((folder / ".git").exists() for folder in (root, *root.parents))


@contextlib.contextmanager
def _repo(root: Path) -> Iterator[Any]:
    """An open DVC repository; DVC's errors as ours. DvcBusy: another DVC command is at work."""
    from dvc.dependency.base import DependencyDoesNotExistError
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.stage.cache import RunCacheNotFoundError

    logging.getLogger("dvc").setLevel(logging.WARNING)
    config = None if is_repository(root) else {"core": {"no_scm": True}}
    try:
        repo = Repo(str(root), config=config, _wait_for_lock=False)
    except DvcException as error:
        raise WorkspaceError(f"{root}: DVC cannot open the project: {error}") from error
    try:
        with repo, described_full_disk(f"{root}: DVC could not write its cache or dvc.lock"):
            yield repo
    except LockError as error:
        who = _at_work(root, error)
        raise DvcBusy(
            f"{root}: another DVC command is at work: {who}. Wait until it ends, or stop it, and "
            "run again."
        ) from error
    except (RunCacheNotFoundError, DependencyDoesNotExistError):
        raise
    except DvcException as error:
        raise WorkspaceError(f"{root}: DVC: {error}{_next_step(error)}") from error


def _next_step(error: Exception) -> str:
    """What to do about an error of DVC's that only says what is wrong; empty where it says more
    itself, or we know no more.
    """
    from dvc.exceptions import ConfirmRemoveError
    from dvc.rwlock import RWLockFileCorruptedError, RWLockFileFormatError

    if isinstance(error, ConfirmRemoveError):
        return (
            " It is a stage's output and was changed by hand, and DVC has no copy of that. Nothing "
            "was overwritten: move what you want to keep to another place, then `dvc checkout "
            "--force` brings back the recorded outputs; run again."
        )
    if isinstance(error, (RWLockFileCorruptedError, RWLockFileFormatError)):
        return (
            ". It lists DVC commands at work. If none is, delete it and run again: nothing else "
            "depends on it."
        )
    if "dvc.lock" in str(error):
        return (
            ". Settle a merge, or take back git's version (`git checkout dvc.lock`). Without "
            "either, delete it and run again: results with the same inputs come back from DVC's "
            "cache."
        )
    return ""


def _at_work(root: Path, error: Exception) -> str:
    """Who has what DVC would not give: `process 123 (dvc push)`, from its list of files in use or
    from its lock file.
    """
    named = re.findall(r"\(PID (\d+)\): (.+)", str(error))
    if named:
        return ", ".join(dict.fromkeys(f"process {pid} ({command})" for pid, command in named))
    with contextlib.suppress(OSError, ValueError):
        pid = int((root / ".dvc" / "tmp" / "lock").read_text())
        return f"process {pid}{command_of(pid)}"
    return str(error).rstrip(". \n")


def _code_words(repo: Any, root: Path, stage: str, line: str) -> str:
    """`dep reports/code/train.json modified` names a record of code; here, what differs in it from
    the recorded one. The line itself where that one is not in the cache.
    """
    match = re.fullmatch(rf"dep ({CODE_RECORDS}\S+) modified", line)
    if match is None:
        return line
    try:
        lock = load_yaml(root / "dvc.lock")["stages"][stage]
        (md5,) = [dep["md5"] for dep in lock["deps"] if dep["path"] == match[1]]
        old = json.loads((Path(repo.cache.local.path) / md5[:2] / md5[2:]).read_bytes())
        names = differences(old, json.loads((root / match[1]).read_bytes()))
    except (EngineError, OSError, ValueError, KeyError, TypeError):
        return line
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"code changed: {', '.join(names[:3])}{more}" if names else line


def _words(entry: Any) -> list[str]:
    if isinstance(entry, str):
        return [entry]  # "changed checksum": the command or the list of inputs was edited
    lines = []
    for kind, items in entry.items():
        for path, what in items.items():
            if isinstance(what, dict):  # parameters: {"train.epochs": "modified"}
                lines += [f"{path}: {key} {state}" for key, state in what.items()]
            else:
                lines.append(f"{kind.removeprefix('changed ').removesuffix('s')} {path} {what}")
    return lines
