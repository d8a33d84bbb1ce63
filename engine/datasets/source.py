"""A dataset found and opened: its folder, fetched where it has only an address, and its reader.
Writes only into the cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine import web
from engine.config import DataConfig
from engine.datasets.description import GENERATED, Description
from engine.datasets.download import fetch, forget
from engine.datasets.findings import Findings
from engine.datasets.formats import detect_format, open_reader
from engine.datasets.formats.base import Reader, SourceImage
from engine.datasets.formats.folder import Folder
from engine.datasets.generated import generator
from engine.datasets.groups import open_groups
from engine.datasets.image_table import MetaOf, nothing_known, open_meta
from engine.datasets.source_digest import SourceDigest
from engine.errors import DataError
from engine.files import lies_in

log = logging.getLogger("detectflow.data")


@dataclass(frozen=True)
class Source:
    """An opened dataset: its reader, and where it came from."""

    reader: Reader
    format: str
    group_of: Callable[[str], str]  # image name -> its group, "" none
    folder: Path | None = None  # None: generated
    downloaded: bool = False
    meta_of: MetaOf = nothing_known  # image name -> what else is known of it


def open_source(
    description: Description, settings: DataConfig, findings: Findings, names: tuple[str, ...] = ()
) -> Source:
    """Find the dataset, fetch it where it has only a url, and open its reader.

    names: classes in the order of their numbers, for a YOLO folder where neither it nor the
    description names them.
    """
    content = description.content
    folder = description.local_folder(settings)
    if description.generated:
        options = {**content.options, **settings.options}
        reader = generator(content.generator).open_reader(options, settings.seed)
        groups, meta = open_groups(settings, None, findings), open_meta(settings, None)
        return Source(reader, GENERATED, groups, meta_of=meta)
    downloaded = folder is None
    if folder is None:
        folder = fetch(
            content.url,
            default_cache_dir() / "downloads",
            folder=content.folder,
            max_mb=content.max_download_mb,
            check=lambda fresh: _check_download(description, settings, fresh),
            by_hand=f"{content.obtain} Then give the folder: -S data.path=FOLDER".strip(),
            report=log.info,
        )
    return _open_folder(description, settings, folder, findings, names, downloaded)


def _open_folder(
    description: Description,
    settings: DataConfig,
    folder: Path,
    findings: Findings,
    names: tuple[str, ...] = (),
    downloaded: bool = False,
) -> Source:
    content = description.content
    if not settings.path:
        description.explain_missing()
    files = Folder(folder)
    found = content.format or detect_format(files)
    reader = open_reader(
        files,
        found,
        findings,
        names=content.names or names,
        splits=content.splits,
        yolo=description.yolo_settings(),
    )
    groups, meta = open_groups(settings, files, findings), open_meta(settings, files)
    return Source(reader, found, groups, folder, downloaded, meta)


def read_source_digest(
    description: Description, settings: DataConfig, folder: Path, names: tuple[str, ...] = ()
) -> tuple[str, str]:
    """(content, layout) of a dataset folder as `SourceDigest` has them, without preparing anything.
    names: as in `open_source`.

    Raises:
        DataError: nothing can be read there.
    """
    source = _open_folder(
        description, settings, folder, Findings.with_policies(settings.policies), names
    )
    digest = SourceDigest()
    for image in source.reader:
        data = bytes_of(image)
        digest.add(
            image,
            "" if data is None else hashlib.sha256(data).hexdigest(),
            source.group_of(image.name),
            source.meta_of(image.name),
        )
    return digest.content(source.reader.names), digest.layout()


def bytes_of(image: SourceImage) -> bytes | None:
    """The image file, None where it cannot be read."""
    try:
        return image.read()
    except OSError:
        return None


def _check_download(description: Description, settings: DataConfig, folder: Path) -> None:
    expected = description.content.digest
    found, _ = read_source_digest(description, settings, folder)
    if expected is None:
        log.warning(
            "%s: the download is not checked; add `digest: %s` to %s",
            description.name,
            found,
            description.origin.name,
        )
    elif found != expected:
        raise DataError(
            f"{web.shown(description.content.url)}: the download's content has digest {found}, "
            f"{description.origin.name} expects {expected}. It was not kept. Try again; if it "
            "stays so, the address no longer holds that version."
        )


def compare_digest(
    description: Description, source: Source, content: str, findings: Findings
) -> None:
    """A finding where the source is not what the description expects; a changed download is
    removed.

    Raises:
        DataError: the unpacked download was changed.
    """
    expected = description.content.digest
    if expected is None or content == expected:
        return
    if source.downloaded:
        forget(source.folder)
        raise DataError(
            f"{source.folder}: the unpacked download was changed; it was removed, run again to "
            "fetch it anew"
        )
    detail = (
        f"content {content[:16]}..., `digest` says {expected[:16]}...: another version, or files "
        "were changed"
    )
    findings.add("digest_mismatch", description.origin.name, detail)


def default_cache_dir() -> Path:
    """The project's .cache/ (the environment knows the project), or one in the current folder."""
    return Path(os.environ.get("DETECTFLOW_STATE", ".")) / ".cache"


def refuse_result_in(folder: Path, target: Path) -> None:
    """DataError where `target`, which is to be written, lies in the dataset `folder`."""
    if lies_in(target, folder):
        raise DataError(
            f"{folder}: holds {target}, where the result would go; give the folder of the images "
            "alone, or start elsewhere"
        )
