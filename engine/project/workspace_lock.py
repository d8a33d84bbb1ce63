"""One process at a time changes a workspace: the lock `.lock/workspace` names its holder, and is
freed when it ends in any way.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pwd
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from engine.errors import WorkspaceError
from engine.locks import Holder, Lock, holder_of

logger = logging.getLogger("detectflow.workspace")

WRITTEN = (
    ".lock",
    ".lock/workspace",
    ".cache",
    ".dvc/tmp",
    ".prefect",
    "data",
    "dvc.lock",
    "mlflow.db",
    "runs",
)  # by every run
REMIND_S = 30.0


# Locks of this process: a flow that holds the workspace lets its own steps in.
_held: dict[Path, tuple[Lock, int]] = {}  # lock file -> (lock, depth)
_guard = threading.Lock()


def lock_file(root: Path) -> Path:
    return root / ".lock" / "workspace"


def holder(root: Path) -> Holder | None:
    """Who holds the workspace now, or None; a text left by a dead holder does not count."""
    return holder_of(lock_file(root))


@contextlib.contextmanager
def workspace_lock(
    root: Path,
    command: str | None = None,
    *,
    wait: bool = True,
    timeout_s: float | None = None,
    emit: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the workspace of `root`; re-entrant within this process.

    wait: whether to wait for another holder, saying so through `emit` (default: a log warning);
    else fail at once.

    Raises:
        WorkspaceError: somebody else holds it, and `wait` is off or `timeout_s` has passed.
    """
    root = root.resolve()
    with named_lock(
        lock_file(root),
        "the workspace",
        str(root),
        command,
        wait=wait,
        timeout_s=timeout_s,
        emit=emit,
    ):
        yield


@contextlib.contextmanager
def named_lock(
    path: Path,
    what: str,
    where: str,
    command: str | None = None,
    *,
    wait: bool = True,
    timeout_s: float | None = None,
    emit: Callable[[str], None] | None = None,
    for_all: bool = False,
) -> Iterator[None]:
    """Hold the lock file `path`, which stands for `what` at `where` in messages; else as
    `workspace_lock`.

    for_all: whether other users of the machine take this lock too, and so must be able to open the
    file.
    """
    with _guard:
        entry = _held.get(path)
        if entry:
            _held[path] = (entry[0], entry[1] + 1)
    if not entry:
        lock = Lock(path, for_all=for_all)
        command = command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])
        _take(lock, what, where, command, timeout_s if wait else 0, emit or logger.warning)
        with _guard:
            _held[path] = (lock, 1)
    try:
        yield
    finally:
        with _guard:
            lock, depth = _held[path]
            if depth > 1:
                _held[path] = (lock, depth - 1)
            else:
                del _held[path]
                lock.release()


def require_writable(root: Path) -> None:
    """WorkspaceError naming the first place in the workspace that this user may not write, and
    whose it is.
    """
    for path in (root, *(root / name for name in WRITTEN)):
        if path.exists() and not os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0)):
            raise WorkspaceError(f"{path}: {_not_yours(path)}")


def _not_yours(path: Path) -> str:
    """Why `path` cannot be written and what to do."""
    owner, user = _name_of(path.stat().st_uid), _name_of(os.geteuid())
    whose = (
        "the file system is read-only there"
        if owner == user
        else f"it belongs to {owner}, and you are {user}"
    )
    return (
        f"may not be written ({whose}). A run writes into its workspace: ask for write permission, "
        "or work in a copy of your own (`git clone`, then `dvc pull`)."
    )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # a container without a name for its user
        return f"user {uid}"


def _take(
    lock: Lock,
    what: str,
    where: str,
    command: str,
    timeout_s: float | None,
    emit: Callable[[str], None],
) -> None:
    def waiting(who: str) -> None:
        emit(f"Waiting: {what} is held by {who}. Ctrl-C gives up.")

    path = lock.path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        taken = lock.take(command, timeout_s=timeout_s, waiting=waiting, again_s=REMIND_S)
    except PermissionError:
        at = next(place for place in (path, *path.parents) if os.access(place, os.F_OK))
        raise WorkspaceError(f"{path}: {what} cannot be locked: {at} {_not_yours(at)}") from None
    except OSError as error:
        raise WorkspaceError(
            f"{path}: {what} cannot be locked: {error.strerror}. May this folder be written?"
        ) from error
    if not taken:
        raise WorkspaceError(
            f"{where}: {what} is held by {lock.holder()}. Wait until it ends, or stop it, and run "
            "again."
        )
