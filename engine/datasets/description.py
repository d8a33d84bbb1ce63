"""Which dataset, and where it lies: `data/*.yaml`, or simply a folder of labelled images.

A description says what a dataset is; it never says what to do with it (that is `DataConfig`). It is
read and checked here; nothing is fetched or prepared.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from engine import web
from engine.config import DataConfig, Frozen
from engine.data.manifest import DATASET_FILE
from engine.datasets.formats import KINDS
from engine.datasets.formats.base import is_writable
from engine.datasets.formats.yolo_yaml import (
    AS_WRITTEN,
    KEYS,
    YoloSettings,
    split_paths,
    yolo_places,
)
from engine.errors import ConfigError, DataError, nearest
from engine.settings.base import load_yaml
from engine.settings.yaml_io import Unquoted, lines_of_file

GENERATED = "generated"  # a `format:` that no reader has: images are made, not read


def known_format(value: str | None) -> str | None:
    """ValueError for a `format:` that nothing reads; the table of formats says which there are."""
    if value is not None and value not in (*KINDS, GENERATED):
        *most, last = map(repr, (*KINDS, GENERATED))
        raise ValueError(f"should be {', '.join(most)} or {last}")
    return value


def checked_names(value: Any) -> Any:
    """Class names as a YAML file has them. ValueError for what YAML read as something else, and for
    a name given twice.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            if not isinstance(item, str) or isinstance(item, Unquoted) or not item.strip():
                raise ValueError(
                    f"class names are text: write {str(item)!r} in quotes (YAML reads no, on, 1 "
                    "otherwise)"
                )
            if not is_writable(item):
                raise ValueError(
                    f"class name {item!r} holds half of a surrogate pair; write the character "
                    "itself"
                )
        double = sorted({item for item in value if list(value).count(item) > 1})
        if double:
            raise ValueError(f"each class once: {', '.join(double)}")
    return value


class DescriptionFile(Frozen):
    """The content of a data/*.yaml."""

    name: str = Field(description="short name of the dataset", min_length=1, max_length=80)
    format: str | None = Field(None, description="empty: detected")
    path: str | None = Field(None, description="folder of the dataset, relative to this file")
    url: str | None = Field(
        None, description="https address of a .zip or .tar.gz, pinned to a version"
    )
    folder: str = Field("", description="where in the archive the dataset lies")
    max_download_mb: int = Field(
        2048, ge=1, description="largest archive that is fetched, unpacked at most ten times that"
    )
    names: tuple[str, ...] = Field(
        (), description="class names in the order of their numbers; empty: as found"
    )
    licence: str = Field("", description="under what terms the data may be used")
    homepage: str = Field("", description="where the dataset is described")
    obtain: str = Field("", description="how to get it by hand, for people")
    digest: str | None = Field(
        None, description="expected content, as reports/data.json shows it under source_digest"
    )
    splits: Literal["given", "none"] | dict[Literal["train", "val", "test"], str] = Field(
        "given",
        description="given: as the dataset says; none: by content; or a list of image names for "
        "each split",
    )
    generator: str | None = Field(None, description="which generated dataset, for example digits")
    options: dict[str, Any] = Field({}, description="options of the generator")
    yolo: dict[str, Any] | None = Field(
        None, description="names, train, val, test as a data.yaml has them; empty: found"
    )

    _format = field_validator("format")(known_format)
    _names = field_validator("names", mode="before")(checked_names)

    @field_validator("digest")
    @classmethod
    def _digest_is_sha256(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch("[0-9a-f]{64}", value):
            raise ValueError(
                "must be the 64 hex digits that reports/data.json shows as source_digest"
            )
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> DescriptionFile:
        if (self.format == GENERATED) != bool(self.generator):
            raise ValueError(
                "a generated dataset has `format: generated` and `generator:`, any other has "
                "neither"
            )
        if self.generator and (self.path or self.url):
            raise ValueError("a generated dataset has neither path nor url")
        if self.path and self.url:
            raise ValueError(
                "give path or url, not both (-S data.path=FOLDER takes a local copy of a url)"
            )
        if self.url and not self.url.startswith("https://"):
            raise ValueError(f"url must begin with https://, not {web.shown(self.url)!r}")
        return self


@dataclass(frozen=True)
class Description:
    """A checked description and the file or folder it came from."""

    content: DescriptionFile
    origin: Path  # the .yaml, or the bare folder
    base: Path  # what `path` is relative to

    @property
    def name(self) -> str:
        return self.content.name

    @property
    def generated(self) -> bool:
        return self.content.format == GENERATED

    def yolo_settings(self) -> YoloSettings | None:
        """The data.yaml that was given, None where the dataset has to be searched for one."""
        if self.content.yolo is None:
            return None
        return YoloSettings(self.content.yolo, self.origin.name, lines_of_file(self.origin))

    def explain_missing(self) -> None:
        """DataError with the folders that were tried, where a data.yaml leads to none. For when the
        images are needed.
        """
        if self.content.yolo is None:
            return
        folder, tried = self._yolo_places()
        if folder is None:
            paths = (
                ", ".join(f"{split}: {text}" for split, text in split_paths(self.content.yolo))
                or "train and val"
            )
            places = "\n".join(f"  {place}" for place in tried)
            by_hand = (
                " `download` is never run: get the dataset by hand, then"
                if "download" in self.content.yolo
                else ""
            )
            raise DataError(
                f"{self.origin}: none of its splits ({paths}) is in any of these "
                f"folders:\n{places}\n  Next:{by_hand} correct "
                "`path`, the folder that holds all of them, or give it: -S data.path=FOLDER"
            )

    def _yolo_places(self) -> tuple[Path | None, list[Path]]:
        return yolo_places(self.origin, self.content.path or "", self.content.yolo)

    def local_folder(self, settings: DataConfig) -> Path | None:
        """The folder with the images: `settings.path` (relative to the current folder), else the
        description's own.

        None for a generated dataset and for one that has to be downloaded.

        Raises:
            ConfigError: a path for a generated dataset, or no address at all.
        """
        if self.generated:
            if settings.path:
                raise ConfigError(
                    f"data.path={settings.path}: dataset '{self.name}' is generated, not read; "
                    "set it to null"
                )
            return None
        if settings.options:
            raise ConfigError(
                f"data.options belong to generated datasets; '{self.name}' is none: set them to "
                f"{{}}"
            )
        if settings.path:
            return Path(settings.path)
        if self.content.yolo is not None:
            folder, tried = self._yolo_places()
            return folder or tried[0]
        if self.content.path:
            return Path(os.path.normpath(self.base / self.content.path))
        if self.content.url:
            return None
        how = f" {self.content.obtain}" if self.content.obtain else ""
        raise ConfigError(
            f"{self.origin}: says neither path nor url.{how} Then give the folder: -S "
            "data.path=FOLDER"
        )


def load_description(path: str | Path) -> Description:
    """Read a description (.yaml) or take a folder of labelled images as it is; a YOLO data.yaml is
    one of the dataset it means.

    Raises:
        DataError: there is no such file or folder, or it is a prepared dataset. ConfigError: the
            file is not right.
    """
    path = Path(path)
    if path.is_dir():
        if (path / DATASET_FILE).is_file():
            raise DataError(
                f"{path}: already prepared; train and validate take it as data=, prepare needs "
                "the labelled images"
            )
        return Description(DescriptionFile(name=_name_of(path), path="."), path, path)
    if not path.exists():
        raise DataError(f"{path}: no such description or folder.{_known_beside(path)}")
    if (
        path.suffix.lower() not in (".yaml", ".yml") or not path.is_file()
    ):  # a pipe would wait for its writer
        kind = f"{path.suffix or 'plain'} file" if path.is_file() else "device or pipe"
        raise DataError(
            f"{path}: a dataset is a description (.yaml) or a folder of labelled images, not a "
            f"{kind}"
        )
    content = load_yaml(path, as_written=(*AS_WRITTEN, *(f"yolo.{key}" for key in AS_WRITTEN)))
    if _is_yolo(content):
        base = content.get("path") or ""
        if not isinstance(base, str):
            raise ConfigError(
                f"{path}: `path` is a {type(base).__name__}, expected the folder of the dataset"
            )
        name = _name_of(path.parent) if path.stem in ("data", "dataset") else path.stem[:80]
        yolo = {key: content[key] for key in KEYS if key in content}
        values: Mapping[str, Any] = {"name": name, "format": "yolo", "path": base, "yolo": yolo}
        return Description(DescriptionFile.build(values, str(path)), path, path.parent)
    return Description(DescriptionFile.build(content, str(path), path), path, path.parent)


def _is_yolo(content: Mapping[str, Any]) -> bool:
    """Whether it is a data.yaml of YOLO tools: keys of those, or names and nothing of a description
    but a path.
    """
    if "name" in content:
        return False
    own = content.keys() & (DescriptionFile.model_fields.keys() - {"names", "path"})
    return bool(content.keys() & {"train", "val", "nc"} or ("names" in content and not own))


def _name_of(folder: Path) -> str:
    return folder.resolve().name[:80] or "dataset"


def _known_beside(path: Path) -> str:
    """A hint at what there is instead."""
    if not path.parent.is_dir():
        return f" There is no folder {path.parent} either."
    known = sorted(p.name for p in path.parent.glob("*.yaml"))
    return nearest(path.name, known) or (f" There are: {', '.join(known)}." if known else "")
