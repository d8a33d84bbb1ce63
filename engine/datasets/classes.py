"""The classes of a project: names in their order, which is what the numbers in weights and labels
mean.

They stand in `data/classes.yaml`, or under `names` in the dataset description. A source that lists
its own classes must list the same; otherwise it is stopped with the difference, unless
`data.class_map` says what each of its classes is here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import Field, field_validator

from engine.config import Frozen
from engine.data.manifest import class_hash
from engine.datasets.description import Description, checked_names
from engine.datasets.formats.base import SourceImage
from engine.errors import ConfigError, DataError, nearest
from engine.files import write_text
from engine.settings.base import load_yaml

CLASSES_FILE = "data/classes.yaml"  # in a project


class ClassesFile(Frozen):
    """The content of classes.yaml."""

    names: tuple[str, ...] = Field(
        description="class names in the order of their numbers", min_length=1
    )
    hash: str | None = Field(
        None, description="class_hash of the names: a change by mistake does not pass"
    )

    _names = field_validator("names", mode="before")(checked_names)


@dataclass(frozen=True)
class ClassSchema:
    """The fixed classes, and where that is written."""

    names: tuple[str, ...]
    origin: str


def load_classes(path: Path, shown_as: str | None = None) -> ClassSchema:
    """Read a classes.yaml.

    Raises:
        ConfigError: there is none, it is not right, or its hash is not that of its names.
    """
    content = ClassesFile.build(load_yaml(path, as_written=("names",)), str(path), path)
    found = class_hash(content.names)
    if content.hash not in (None, found):
        raise ConfigError(
            f"{path}: hash is {content.hash}, the names have {found}: a name or the order was "
            f"changed. Undo that, or, if it is meant, write `hash: {found}`; models trained before "
            "then mean other classes"
        )
    return ClassSchema(content.names, shown_as or str(path))


def write_classes(path: Path, names: Sequence[str]) -> None:
    """Fix the classes of a project."""
    text = yaml.safe_dump(
        {"names": list(names), "hash": class_hash(names)}, sort_keys=False, allow_unicode=True
    )
    write_text(
        path,
        "# The classes of this project. Their order is what the numbers in weights and labels "
        "mean.\n" + text,
    )


def reconcile(
    description: Description,
    schema: ClassSchema | None,
    listed: Sequence[str],
    class_map: Mapping[str, str | None],
) -> tuple[str, ...]:
    """The classes of the project; where none are fixed, those the source lists, () where it lists
    none.

    listed: the source's own names in its order. class_map: its class -> class of the project, None:
    left out.

    Raises:
        DataError: the source, or the description, has other classes; the difference is in the
            message.
        ConfigError: a map that leads to a class which is not there.
    """
    own = (
        ClassSchema(description.content.names, description.origin.name)
        if description.content.names
        else None
    )
    if schema and own and schema.names != own.names:
        raise DataError(
            _difference(own.origin, own.names, schema)
            + f"\n  Next: make the two agree, {schema.origin} decides."
        )
    fixed = schema or own
    if fixed is None:
        mapped = (class_map.get(name, name) for name in listed)
        return tuple(dict.fromkeys(name for name in mapped if name is not None))
    for name, target in class_map.items():
        if target is not None and target not in fixed.names:
            hint = nearest(target, fixed.names)
            known = f"{', '.join(fixed.names)} ({fixed.origin})"
            raise ConfigError(
                f"data.class_map: '{name}' becomes '{target}', which is not among {known}.{hint}"
            )
    mapped = tuple(
        name for name in (class_map.get(name, name) for name in listed) if name is not None
    )
    on_purpose = all(name in class_map for name in listed)
    if mapped != fixed.names and not on_purpose:
        raise DataError(
            _difference(f"dataset '{description.name}'", listed, fixed)
            + _next_step(listed, fixed, class_map)
        )
    return fixed.names


def rename_rows(image: SourceImage, class_map: Mapping[str, str | None]) -> SourceImage:
    """`image` with the project's class names; boxes of a class that is mapped to nothing are left
    out.
    """
    if not class_map:
        return image
    rows = [(row, class_map.get(row.name, row.name)) for row in image.rows]
    return replace(
        image, rows=tuple(replace(row, name=name) for row, name in rows if name is not None)
    )


def _difference(who: str, listed: Sequence[str], fixed: ClassSchema) -> str:
    """What differs, a line for each number."""
    lines = [
        f"{who}: its classes are not those of {fixed.origin} (class hash {class_hash(listed)}, "
        f"not {class_hash(fixed.names)}):"
    ]
    added = [name for name in listed if name not in fixed.names]
    dropped = [name for name in fixed.names if name not in listed]
    for number in range(max(len(listed), len(fixed.names))):
        here = listed[number] if number < len(listed) else None
        there = fixed.names[number] if number < len(fixed.names) else None
        if here != there:
            lines.append(
                f"  {number}: {there or '-'} -> {here or '-'}  "
                f"({_what_happened(here, there, added, dropped)})"
            )
    return "\n".join(lines)


def _what_happened(
    here: str | None, there: str | None, added: Sequence[str], dropped: Sequence[str]
) -> str:
    if here in added and there in dropped:
        return "renamed, or another class"
    if here in added:
        return f"'{here}' is new"
    if there in dropped:
        return f"'{there}' is gone"
    return "another order"


def _next_step(
    listed: Sequence[str], fixed: ClassSchema, class_map: Mapping[str, str | None]
) -> str:
    """Two maps to choose from, ready to be pasted: by name, and by number."""

    def pasted(targets: Iterable[str | None]) -> str:
        pairs = zip(listed, targets, strict=True)
        return (
            "{"
            + ", ".join(
                f"{json.dumps(a, ensure_ascii=False)}: {json.dumps(b, ensure_ascii=False)}"
                for a, b in pairs
            )
            + "}"
        )

    by_name = pasted(class_map.get(name, name if name in fixed.names else None) for name in listed)
    by_number = pasted(fixed.names[n] if n < len(fixed.names) else None for n in range(len(listed)))
    return (
        "\n  Next: export the dataset with the project's classes. Or say in params.yaml what each "
        "of its classes is here"
        f"\n    if its names are right:    data.class_map: {by_name}"
        f"\n    if its numbers are right:  data.class_map: {by_number}"
    )
