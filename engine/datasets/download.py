"""Fetching a dataset archive once: over https, limited in size and time, unpacked where no path
can leave the folder.

An archive is only a container (hosts pack the same content anew, with other bytes); what vouches
for a dataset is the digest of its content, which the caller checks before the folder is published.
"""

from __future__ import annotations

import hashlib
import http.client
import lzma
import os
import shutil
import tarfile
import urllib.error
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from engine import web
from engine.datasets.formats.folder import inside
from engine.errors import DataError, WorkspaceError
from engine.files import atomic_write, publish_folder
from engine.locks import locked

TIMEOUT_S = 60
LEAST_TIME_S, SLOWEST_MB_PER_S = 600.0, 0.25  # what a whole download may take
CHUNK = 1 << 20
UNPACKED_FACTOR = 10  # an archive of labelled images hardly shrinks; far more is a bomb
MAX_MEMBERS = 5_000_000
BROKEN_ARCHIVE = (  # RuntimeError: encrypted; FileExistsError: the same name twice
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    FileExistsError,
)


def fetch(
    url: str,
    cache: Path,
    *,
    folder: str,
    max_mb: int,
    check: Callable[[Path], None],
    by_hand: str,
    report: Callable[[str], None],
) -> Path:
    """The unpacked dataset folder of `url`, fetched now or earlier.

    folder: where in the archive the dataset lies. check: raises DataError if the content is wrong;
    nothing is kept then.
    by_hand: what to do without network, for the error.

    Raises:
        DataError: no network, too large, a wrong archive, wrong content. WorkspaceError: the disk
            is full.
    """
    target = cache / hashlib.sha256(f"{url} {folder}".encode()).hexdigest()[:16]
    with locked(cache / f".{target.name}.fetch.lock"):  # publish_folder has a lock of its own
        if target.is_dir():
            return target
        archive = target.with_suffix(".download")
        report(f"downloading {web.shown(url)}")
        try:
            _download(url, archive, max_mb, by_hand)
            with publish_folder(target) as fresh:
                _unpack(archive, fresh, folder, max_mb * UNPACKED_FACTOR << 20, web.shown(url))
                check(fresh)
        finally:
            archive.unlink(missing_ok=True)
    return target


def _download(url: str, archive: Path, max_mb: int, by_hand: str) -> None:
    try:
        with atomic_write(archive) as file:
            web.fetch(
                url,
                file,
                limit_bytes=max_mb << 20,
                idle_s=TIMEOUT_S,
                total_s=max(LEAST_TIME_S, max_mb / SLOWEST_MB_PER_S),
                too_large=f"larger than max_download_mb: {max_mb}; nothing was kept",
                https_only=True,
            )
    except urllib.error.HTTPError as error:
        raise DataError(
            f"{web.shown(url)}: the server answers {error.code} {error.reason}. {by_hand}"
        ) from error
    except (
        web.WebRefused,
        OSError,
        ValueError,
        http.client.HTTPException,
    ) as error:  # URLError, TimeoutError and ssl errors are OSErrors
        # kept as the cause: of some, trying again may help
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{web.shown(url)}: cannot be downloaded ({reason}). {by_hand}") from error


def _copy(source: IO[bytes], target: IO[bytes], limit: int, too_large: str) -> int:
    """Copies all of `source`; its size. DataError above `limit` bytes."""
    total = 0
    while chunk := source.read(CHUNK):
        total += len(chunk)
        if total > limit:
            raise DataError(f"{too_large}; nothing was kept")
        target.write(chunk)
    return total


def _unpack(archive: Path, target: Path, folder: str, limit: int, url: str) -> None:
    """Write the regular files below `folder` of the archive; links, devices and paths that climb
    out are refused.
    """
    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    count = 0
    try:
        for name, content in _members(archive):
            count += 1
            place = inside(name)
            if place is None or count > MAX_MEMBERS:
                raise DataError(
                    f"{url}: the archive holds '{name[:80]}', which would leave its folder; it "
                    "was not unpacked"
                )
            if not place.startswith(prefix):
                continue
            file = target / place[len(prefix) :]
            file.parent.mkdir(parents=True, exist_ok=True)
            with content() as source, open(file, "xb") as written:
                limit -= _copy(
                    source,
                    written,
                    limit,
                    f"{url}: unpacks to far more than an archive of images would",
                )
    except BROKEN_ARCHIVE as error:
        raise DataError(
            f"{url}: not an archive that can be unpacked ({error}); .zip and .tar.gz can"
        ) from None
    if not any(target.iterdir()):
        raise DataError(
            f"{url}: the archive has no folder '{folder}'; correct `folder` in the description"
        )


def _members(archive: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]]]]:
    """(name, how to open it) of the regular files."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
                if not info.is_dir() and not is_link:
                    yield info.filename, lambda info=info: opened.open(info)
        return
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile():
                yield member.name, lambda member=member: opened.extractfile(member)


def forget(folder: Path) -> None:
    """Forget a download, so that the next call fetches it again."""
    try:
        gone = folder.with_name(f".{folder.name}.old")
        os.replace(folder, gone)
        shutil.rmtree(gone, ignore_errors=True)
    except FileNotFoundError:
        return  # somebody else has found it changed, too
    except OSError as error:
        raise WorkspaceError(
            f"{folder}: cannot be removed ({error.strerror}); remove it by hand"
        ) from None
