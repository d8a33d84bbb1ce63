"""What else is known of the images of a dataset: the columns of a CSV file beside them, such as
camera, site or weather (`data.meta_table`). Nothing is computed of it; error analysis shows
metrics by each column.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping

from engine.config import DataConfig
from engine.datasets.formats.folder import Folder, base_name
from engine.datasets.groups import NAME_COLUMN
from engine.errors import ConfigError, DataError, nearest

MetaOf = Callable[[str], Mapping[str, str]]


def nothing_known(name: str) -> Mapping[str, str]:
    return {}


def open_meta(settings: DataConfig, folder: Folder | None) -> MetaOf:
    """A function from an image's name to its columns; those of an image that is not in the table
    are empty. folder: of the dataset, None where it is generated.

    Images are named in the table by their path in the dataset folder, or by their file name alone.

    Raises:
        ConfigError: a generated dataset has no tables. DataError: a table that is not there, that
            cannot be read, or that names an image twice.
    """
    file = settings.meta_table
    if not file:
        return nothing_known
    if folder is None:
        raise ConfigError("data.meta_table: a generated dataset has no tables; set it to null")
    if file not in folder.files:
        raise DataError(
            f"{folder.root}: has no {file} (data.meta_table); its path is relative to the dataset "
            f"folder.{nearest(file, folder.with_suffix('.csv'))}"
        )
    shown = f"{folder.root}/{file}"
    try:
        table = _read(shown, folder.text(file))
    except (ValueError, csv.Error) as error:
        raise DataError(f"{shown}: not a CSV table ({error})") from None

    def meta(name: str) -> Mapping[str, str]:
        return table.get(name) or table.get(base_name(name)) or {}

    return meta


def _read(shown: str, text: str) -> dict[str, dict[str, str]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    fields = list(rows.fieldnames or ())
    if NAME_COLUMN not in fields:
        raise DataError(
            f"{shown}: has no column '{NAME_COLUMN}'; its columns: {', '.join(fields)}."
            f"{nearest(NAME_COLUMN, fields)}"
        )
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        name = (row.pop(NAME_COLUMN) or "").strip()
        values = {key: (row[key] or "").strip() for key in fields if key and key != NAME_COLUMN}
        if table.setdefault(name, values) != values:
            raise DataError(
                f"{shown}, line {rows.line_num}: {name} is described otherwise further up; keep "
                "one line. Two images of one file name are told apart by their path in the dataset "
                "folder"
            )
    return table
