"""Files as they were at a revision of the project: from git, from DVC's cache, or from DVC's remote
where they are not here.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from engine.errors import WorkspaceError
from engine.versioning.dvc_repo import is_repository

Read = Callable[[str], bytes]


def open_revision(root: Path, revision: str) -> Read:
    """A function that reads a file of the project, by its path relative to `root`, as `revision`
    has it.

    revision: anything git understands: a tag, a branch, HEAD~1, an experiment's name. Nothing in
    the workspace changes.

    Raises:
        WorkspaceError: no project with git and DVC; the function raises it for a revision that is
            none, a file that the revision has not, or one that neither the cache nor the remote can
            give.
    """
    if (
        not is_repository(root)
        or not (root / ".dvc").is_dir()
        or importlib.util.find_spec("dvc") is None
    ):
        raise WorkspaceError(
            f"'{revision}' is no folder or file here, and no revision either: {root} is not under "
            "git and DVC. Give a prepared folder, a manifest, a description or a folder of "
            "labelled images."
        )
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc.scm import RevError

    logging.getLogger("dvc").setLevel(logging.WARNING)
    files = DVCFileSystem(str(root), rev=revision)

    def read(path: str) -> bytes:
        try:
            with files.open(path, "rb") as file:
                return file.read()
        except RevError:
            raise WorkspaceError(
                f"'{revision}' is no folder or file here, and no revision that git knows: `git "
                "log --oneline` shows them."
            ) from None
        except (OSError, DvcException) as error:
            raise WorkspaceError(
                f"{path} cannot be had for revision {revision} ({error or type(error).__name__}). "
                "If it is not in the cache: `dvc fetch --all-commits`, or check that out and run "
                "`dvc repro`."
            ) from None

    return read
