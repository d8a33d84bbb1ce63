"""One process at a time writes a run folder: a lock in it that names its holder, and is gone with
it. Who only reads (validation, prediction) needs no lock: files of a run are replaced as a whole.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from engine.errors import WorkspaceError
from engine.locks import Lock

LOCK_FILE = ".lock"
# While others take and release; where it never works that is one second.
TRIES, PAUSE_S = 200, 0.005


class RunLock:
    """Holds at most one folder, until the end of the block."""

    def __init__(self) -> None:
        self._lock: Lock | None = None
        self._made: list[Path] = []  # folders that were not there before, the innermost first

    def take(self, folder: Path) -> str:
        """Hold `folder`, which is made where it is missing. Returns who holds it instead, or an
        empty string.

        Raises:
            WorkspaceError: the folder cannot be made or written.
        """
        lock = Lock(folder / LOCK_FILE, transient=True, optional=True)
        lost: OSError | None = None
        for _ in range(TRIES):
            try:
                made = [each for each in (folder, *folder.parents) if not each.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                if not lock.try_take():
                    return lock.holder()
                self._lock, self._made = lock, made
                return ""
            except (FileNotFoundError, FileExistsError) as error:
                # Somebody who gave up has just removed the folder; `mkdir` that then finds none
                # says "exists".
                if folder.exists() and not folder.is_dir():
                    raise _cannot_be_made(folder, error) from error
                lost = error
                time.sleep(PAUSE_S)
            except OSError as error:
                raise _cannot_be_made(folder, error) from error
        raise _cannot_be_made(folder, lost or "others keep removing it") from lost

    def __enter__(self) -> RunLock:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Let go; the folders that were made go too where nothing was put into them."""
        if self._lock is None:
            return
        self._lock.release()
        self._lock = None
        with contextlib.suppress(OSError):
            for made in self._made:
                made.rmdir()


def _cannot_be_made(folder: Path, why: OSError | str) -> WorkspaceError:
    return WorkspaceError(
        f"{folder}: the run directory cannot be made: {why}. Choose another with project= and name="
    )
