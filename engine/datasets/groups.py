"""Which images belong together: frames of one video, slides of one patient. One group never parts
over splits.

`data.group_by` is a regular expression on the file name, the word `folder`, or, with
`data.group_table`, a column of a CSV file in the dataset folder.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from engine.config import DataConfig
from engine.datasets.findings import Findings
from engine.datasets.formats.folder import Folder
from engine.errors import ConfigError, DataError, nearest

BY_FOLDER = "folder"
NAME_COLUMN = "image"


def open_groups(
    settings: DataConfig, folder: Folder | None, findings: Findings
) -> Callable[[str], str]:
    """A function from an image's name to its group, "" for none. folder: of the dataset, None where
    it is generated.

    Raises:
        ConfigError: settings that contradict each other, or a pattern that fits no image.
        DataError: a table that cannot be
            read, or that gives an image two groups.
    """
    if settings.group_table:
        if not settings.group_by:
            raise ConfigError(
                "data.group_table needs data.group_by: the name of its column that holds the groups"
            )
        if folder is None:
            raise ConfigError("data.group_table: a generated dataset has no tables; set it to null")
        return _from_table(settings.group_table, settings.group_by, folder, findings)
    if settings.group_by == BY_FOLDER:
        return lambda name: name.rpartition("/")[0]
    if not settings.group_by:
        return lambda name: ""
    return _from_pattern(compile_group(settings.group_by), folder, findings)


def group_of(name: str, pattern: re.Pattern[str] | None) -> str:
    """The group of an image: what `pattern` finds in its file name (its first bracket, if it has
    one); "" for nothing.
    """
    match = pattern.search(name.rsplit("/", 1)[-1]) if pattern else None
    if match is None:
        return ""
    return (match[1] or "") if pattern.groups else match[0]


def compile_group(pattern: str | None) -> re.Pattern[str] | None:
    """ConfigError for a wrong regular expression."""
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ConfigError(
            f"data.group_by: {pattern!r} is no regular expression ({error})"
        ) from None


def _from_pattern(
    pattern: re.Pattern[str], folder: Folder | None, findings: Findings
) -> Callable[[str], str]:
    images = folder.images if folder is not None else ()
    if images and not any(group_of(name, pattern) for name in images):
        hint = (
            "; for a column of a CSV file set data.group_table too"
            if pattern.pattern.isidentifier()
            else ""
        )
        raise ConfigError(
            f"data.group_by: {pattern.pattern!r} fits none of the file names, the first is "
            f"{images[0].rsplit('/', 1)[-1]}. Correct the regular expression, or set it to "
            f"null{hint}"
        )

    def group(name: str) -> str:
        found = group_of(name, pattern)
        if not found:
            findings.add(
                "no_group",
                name,
                f"data.group_by {pattern.pattern!r} does not fit its file name",
                image=name,
            )
        return found

    return group


def _from_table(file: str, column: str, folder: Folder, findings: Findings) -> Callable[[str], str]:
    """Images are named in the table by their path in the dataset folder, or by their file name
    alone.
    """
    if file not in folder.files:
        hint = nearest(file, folder.with_suffix(".csv"))
        raise DataError(
            f"{folder.root}: has no {file} (data.group_table); its path is relative to the "
            f"dataset folder.{hint}"
        )
    try:
        groups = _read_table(f"{folder.root}/{file}", folder.text(file), column)
    except (ValueError, csv.Error) as error:
        raise DataError(f"{folder.root}/{file}: not a CSV table ({error})") from None
    owners: dict[str, str] = {}  # file name in the table -> the image it stands for

    def group(name: str) -> str:
        key = name if name in groups else name.rsplit("/", 1)[-1]
        if not groups.get(key):
            findings.add(
                "no_group",
                name,
                f"is not in {file}" if key not in groups else f"has no {column} in {file}",
            )
        elif (owner := owners.setdefault(key, name)) != name:
            findings.add(
                "no_group",
                name,
                f"is called {key} as {owner} is; {file} must name both by their path",
            )
            return ""
        return groups.get(key, "")

    return group


def _read_table(shown: str, text: str, column: str) -> dict[str, str]:
    """Image -> its group. DataError: a column is missing, or an image has two groups."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    fields = list(rows.fieldnames or ())
    missing = [name for name in (NAME_COLUMN, column) if name not in fields]
    if missing:
        raise DataError(
            f"{shown}: has no column '{missing[0]}'; its columns: "
            f"{', '.join(fields)}.{nearest(missing[0], fields)}"
        )
    groups: dict[str, str] = {}
    for row in rows:
        name, value = ((row[key] or "").strip() for key in (NAME_COLUMN, column))
        if groups.setdefault(name, value) != value:
            raise DataError(
                f"{shown}, line {rows.line_num}: {name} has {column} '{value}', and "
                f"'{groups[name]}' further up; keep one line. Two images of one file name are told "
                "apart by their path in the dataset folder"
            )
    return groups
