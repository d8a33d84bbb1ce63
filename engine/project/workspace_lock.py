"""One process at a time changes a workspace: a lock that names its holder, and dies with it.

The lock is `flock` on `.lock/workspace`: the kernel frees it when the holder ends in any way, so
there are no stale locks to clean. The text in the file is for people and only believed while
somebody holds the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pwd
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from engine.errors import WorkspaceError

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
POLL_S = 0.2
REMIND_S = 30.0


@dataclass(frozen=True)
class Holder:
    """Who holds the workspace."""

    pid: int
    command: str
    since: str  # ISO 8601, UTC

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) since {self.since}"


class _Held:
    """Locks of this process: a flow that holds the workspace lets its own steps in."""

    def __init__(self) -> None:
        self.guard = threading.Lock()
        self.entries: dict[Path, tuple[int, int]] = {}  # lock file -> (descriptor, depth)


_held = _Held()


def lock_file(root: Path) -> Path:
    return root / ".lock" / "workspace"


def holder(root: Path) -> Holder | None:
    """Who holds the workspace now, or None; a text left by a dead holder does not count."""
    path = lock_file(root)
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return _read(descriptor)
        finally:
            os.close(descriptor)
    return None


@contextlib.contextmanager
def workspace_lock(
    root: Path,
    command: str | None = None,
    *,
    wait: bool = True,
    timeout_s: float | None = None,
    tell: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the workspace of `root`; re-entrant within this process.

    wait: whether to wait for another holder, saying so through `tell` (default: a log warning);
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
        tell=tell,
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
    tell: Callable[[str], None] | None = None,
    for_all: bool = False,
) -> Iterator[None]:
    """Hold the lock file `path`, which stands for `what` at `where` in messages; else as
    `workspace_lock`.

    for_all: whether other users of the machine take this lock too, and so must be able to open the
    file.
    """
    with _held.guard:
        entry = _held.entries.get(path)
        if entry:
            _held.entries[path] = (entry[0], entry[1] + 1)
    if not entry:
        descriptor = _acquire(path, what, where, wait, timeout_s, tell or logger.warning, for_all)
        _write(descriptor, command or " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:200])
        with _held.guard:
            _held.entries[path] = (descriptor, 1)
    try:
        yield
    finally:
        with _held.guard:
            descriptor, depth = _held.entries[path]
            if depth > 1:
                _held.entries[path] = (descriptor, depth - 1)
            else:
                del _held.entries[path]
                # Said out loud: a forked loader process may still have a copy of the descriptor.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
                os.close(descriptor)


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
        "the file system lets nobody write there"
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


def _open(path: Path, for_all: bool) -> int:
    """The lock file, made where it is missing; first without O_CREAT, which Linux refuses to others
    in a folder like /tmp.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        if for_all:
            with contextlib.suppress(OSError):  # another user's, made between the two calls
                os.fchmod(descriptor, 0o666)
        return descriptor


def _acquire(
    path: Path,
    what: str,
    where: str,
    wait: bool,
    timeout_s: float | None,
    tell: Callable[[str], None],
    for_all: bool,
) -> int:
    try:
        descriptor = _open(path, for_all)
    except PermissionError:
        at = next(place for place in (path, *path.parents) if os.access(place, os.F_OK))
        raise WorkspaceError(f"{path}: {what} cannot be locked: {at} {_not_yours(at)}") from None
    except OSError as error:
        raise WorkspaceError(
            f"{path}: {what} cannot be locked: {error.strerror}. May this folder be written?"
        ) from error
    started = time.monotonic()
    reminded = -REMIND_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                waited = time.monotonic() - started
                who = _read(descriptor) or "another process"
                if not wait or (timeout_s is not None and waited >= timeout_s):
                    raise WorkspaceError(
                        f"{where}: {what} is held by {who}. Wait until it ends, or stop it, and "
                        "run again."
                    ) from None
                if waited - reminded >= REMIND_S:
                    tell(f"Waiting: {what} is held by {who}. Ctrl-C gives up.")
                    reminded = waited
                time.sleep(POLL_S)
    except BaseException:
        os.close(descriptor)
        raise


def _write(descriptor: int, command: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    text = json.dumps({"pid": os.getpid(), "command": command, "since": now}).encode()
    with contextlib.suppress(
        OSError
    ):  # a full disk must not keep anybody out; the name is a courtesy
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text, 0)


def _read(descriptor: int) -> Holder | None:
    try:
        return Holder(**json.loads(os.pread(descriptor, 4096, 0)))
    except (OSError, ValueError, TypeError):
        return None
