"""Files and folders that are whole or absent: atomic writing and content hashes, for every layer.

A reader, a crash or `kill -9` at any moment sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from engine.errors import WorkspaceError
from engine.locks import Lock

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)

log = logging.getLogger("detectflow.files")


@contextlib.contextmanager
def atomic_write(path: str | Path, mode: str = "wb", **open_options: Any) -> Iterator[IO]:
    """Open a temporary file beside `path`; when the block ends well it becomes `path`, else it is
    removed.

    mode: "w" or "wb"; text is UTF-8 unless `encoding` says otherwise. Missing parent folders are
    made. A `path` that is
    a link is replaced by a file: what the link points to (a DVC cache, say) is never written
    through. Raises WorkspaceError when the disk is full or the folder refuses the file; whatever
    the block raises passes on.
    """
    if mode not in ("w", "wb"):
        raise ValueError(f"atomic_write writes new files: mode 'w' or 'wb', not {mode!r}")
    path = Path(path)
    if "b" not in mode:
        open_options.setdefault("encoding", "utf-8")
    # Not `tempfile`: it makes files of mode 0600, and a published file should follow the umask.
    # Same folder: a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(temporary, mode.replace("w", "x"), **open_options)
    except OSError as error:
        raise _explained(error, path, FULL + REFUSED) from error
    try:
        with handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        # A refusal inside the block may concern any other file; only "full" is surely about ours.
        if isinstance(error, OSError) and error.errno in FULL:
            raise _explained(error, path, FULL) from error
        raise
    _sync_folder(path.parent)


def write_text(path: str | Path, text: str) -> None:
    """`atomic_write` of one UTF-8 string, line ends as they are."""
    with atomic_write(path, "w", newline="") as handle:
        handle.write(text)


def write_bytes(path: str | Path, content: bytes) -> None:
    """`atomic_write` of bytes at hand."""
    with atomic_write(path) as handle:
        handle.write(content)


def read_object(path: str | Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is none, or the file is damaged."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def make_folder(folder: Path) -> None:
    """Make `folder` and those above it where they are missing. WorkspaceError: it cannot be
    made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: this folder cannot be made ({error.strerror}); choose another place"
        ) from error


def lies_in(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or in it, as they are named or where links lead."""
    as_named = Path(os.path.abspath(path)).is_relative_to(os.path.abspath(folder))
    return as_named or path.resolve().is_relative_to(folder.resolve())


def open_regular(path: Path) -> IO[bytes]:
    """Open a file to read its bytes. OSError, too, for what is none: a pipe nobody writes to is
    waited for without end.
    """
    refuse_special(path)
    return open(path, "rb")


def refuse_special(path: Path) -> None:
    """OSError for a pipe, a socket or a device, which is not opened; and where there is nothing."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise OSError(errno.EINVAL, "no regular file but a pipe, a socket or a device", str(path))


@contextlib.contextmanager
def publish_folder(target: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends well it takes the place of `target`, else
    `target` stays as it was.

    Nothing is ever written into an existing result: its files may be links into DVC's cache. Where
    `target` itself is a link to a folder (on another disk, say) it stays one, and what it points to
    is replaced. Whoever wants to publish the same `target` meanwhile waits until this one is done,
    and says for whom.

    Raises:
        WorkspaceError: something cannot be written, in the block too.
    """
    place = Path(os.path.realpath(target)) if target.is_symlink() else target
    lock = Lock(place.with_name(f".{place.name}.lock"), transient=True, optional=True)

    waiting = functools.partial(log.warning, "%s: waiting for %s, which is writing it", target)
    try:
        lock.path.parent.mkdir(parents=True, exist_ok=True)
        with lock:
            lock.take(waiting=waiting)
            with _published(place) as fresh:
                yield fresh
    except OSError as error:
        raise WorkspaceError(
            f"{target}: could not be written ({error.strerror or error}). Free some disk space, "
            "check who owns the folder, and run again."
        ) from error


@contextlib.contextmanager
def _published(target: Path) -> Iterator[Path]:
    fresh, old, gone = (
        target.with_name(f".{target.name}.{what}") for what in ("new", "old", "new.old")
    )
    try:
        if old.exists() and not target.exists():  # killed between the two renames below
            os.replace(old, target)
        for leftover in (fresh, old, gone):
            _remove(leftover)
        fresh.mkdir(parents=True)
        yield fresh
        if target.exists():
            os.replace(target, old)
        os.replace(fresh, target)
    finally:
        if old.exists() and not target.exists():  # interrupted between the two renames
            os.replace(old, target)
        with contextlib.suppress(
            OSError
        ):  # under another name nobody who still writes into it can bring it back
            os.replace(fresh, gone)
        for leftover in (fresh, old, gone):
            with contextlib.suppress(OSError):
                _remove(leftover, ignore_errors=True)


def _remove(folder: Path, ignore_errors: bool = False) -> None:
    """Remove a folder with what is in it, of a link the link alone; nothing where there is none."""
    if folder.is_symlink():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder, ignore_errors)


@contextlib.contextmanager
def described_full_disk(doing: str) -> Iterator[None]:
    """Around work that writes by other hands than ours: a full disk is reported as such; every
    other error passes through.

    Raises:
        WorkspaceError: the disk, a quota or a limit on the size of files is exhausted; begins with
            `doing`.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise WorkspaceError(
            f"{doing}: {os.strerror(error.errno)}{where}. Free some disk space and run again: "
            "what was finished before is kept."
        ) from error


def file_state(found: os.stat_result) -> tuple[int, int, int, int]:
    """What tells a file from another of its name, also from one of the same size whose time was set
    back: inode, size, times of content and of inode. For caches.
    """
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def sha256_file(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, hex; read in pieces, so size does not matter."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _explained(error: OSError, path: Path, known: tuple[int, ...]) -> OSError | WorkspaceError:
    if error.errno not in known:
        return error
    where = f"Writing {path} failed: {os.strerror(error.errno)}."
    if error.errno in FULL:
        return WorkspaceError(
            f"{where} The earlier file, if any, is untouched. Free space there and run again."
        )
    return WorkspaceError(
        f"{where} Check who owns {path.parent} and whether it may be written, or choose another "
        "folder."
    )


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power cut; file systems that cannot sync a folder are left
    alone.
    """
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
