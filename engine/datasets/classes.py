"""The classes of a project: names in their order, which is what the numbers in weights and labels
mean.

They stand in `data/classes.yaml`, or under `names` in the dataset description. In classes.yaml
they are fixed for the project by a person (`names`): a source that lists its own classes must list
the same, otherwise it is stopped with the difference, unless `data.class_map` says what each of its
classes is here. Or they are pinned, dataset by dataset (`datasets`), by stage prepare when it first
sees one: then a class keeps its number, and a new one gets the next.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from pydantic import Field, field_validator, model_validator

from engine.config import Frozen
from engine.data.manifest import class_hash
from engine.datasets.description import Description, checked_names
from engine.datasets.formats.base import SourceImage
from engine.errors import ConfigError, DataError, nearest
from engine.files import write_text
from engine.settings.base import load_yaml

CLASSES_FILE = "data/classes.yaml"  # in a project


class PinnedClasses(Frozen):
    """The classes of one dataset."""

    names: tuple[str, ...] = Field(
        description="class names in the order of their numbers", min_length=1
    )
    written: str = Field(
        "", description="class_hash of the names as stage prepare wrote them; another: edited"
    )

    _names = field_validator("names", mode="before")(checked_names)

    @property
    def edited(self) -> bool:
        return class_hash(self.names) != self.written


class ClassesFile(Frozen):
    """The content of classes.yaml."""

    names: tuple[str, ...] | None = Field(
        None,
        description="class names of the whole project in the order of their numbers",
        min_length=1,
    )
    hash: str | None = Field(
        None, description="class_hash of the names: a change by mistake does not pass"
    )
    datasets: dict[str, PinnedClasses] | None = Field(
        None, description="dataset -> its classes, as stage prepare pinned them"
    )

    _names = field_validator("names", mode="before")(checked_names)

    @model_validator(mode="after")
    def _one_of_two(self) -> ClassesFile:
        if (self.names is None) == (self.datasets is None):
            raise ValueError("give either names, for the whole project, or datasets")
        return self


@dataclass(frozen=True)
class ClassSchema:
    """The fixed classes, and where that is written."""

    names: tuple[str, ...]
    origin: str
    pinned: bool = False  # to their numbers; others may follow


def read_classes(path: Path) -> ClassesFile:
    """A classes.yaml as it is. ConfigError: there is none, or it is not right."""
    return ClassesFile.build(load_yaml(path, as_written=("names", "datasets")), str(path), path)


def load_classes(
    path: Path, shown_as: str | None = None, dataset: str | None = None
) -> ClassSchema | None:
    """The classes that a classes.yaml fixes: of the project, or those it pins for `dataset`; None
    where it has pins, and none for that.

    Raises:
        ConfigError: there is no such file, it is not right, or its hash is not that of its names.
    """
    content = read_classes(path)
    if content.names is None:
        pins = (content.datasets or {}).get(dataset or "")
        return ClassSchema(pins.names, shown_as or str(path), pinned=True) if pins else None
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


PINS_TEXT = """\
# The classes of each dataset, pinned when it was first prepared. The place of a name in its list is
# its number in weights, labels and reports. Stage prepare adds new classes at the end and changes
# nothing else; keep this file in git. Who edits a list gives the numbers another meaning: models
# trained before do not fit any more. `written` tells DVC of it: leave it as it is.
"""


def pin_classes(path: Path, dataset: str, names: Sequence[str]) -> tuple[str, ...]:
    """Pin the classes of a dataset, or those that are new behind the ones pinned already; returns
    what was added. Nothing is written where nothing is, and where the project's classes are fixed.

    Raises:
        ConfigError: the file that is there is not right.
    """
    before = read_classes(path) if path.is_file() else ClassesFile(datasets={})
    if before.names is not None:
        return ()
    pins = dict(before.datasets or {})
    old = pins.get(dataset)
    added = tuple(name for name in names if old is None or name not in old.names)
    if not added:
        return ()
    all_names = (*(old.names if old else ()), *added)
    # A list that a person edited stays one: its numbers do not follow from the data alone.
    written = old.written if old and old.edited else class_hash(all_names)
    pins[dataset] = PinnedClasses(names=all_names, written=written)
    parts = [_pin_text(name, each) for name, each in sorted(pins.items())]
    write_text(path, PINS_TEXT + "datasets:\n" + "".join(parts))
    return added


def _pin_text(dataset: str, pins: PinnedClasses) -> str:
    """One dataset's part of the file; a class a line, in quotes, which YAML takes for nothing
    else.
    """
    lines = [f"  {json.dumps(dataset, ensure_ascii=False)}:", "    names:"]
    lines += [f"      - {json.dumps(name, ensure_ascii=False)}" for name in pins.names]
    lines += [f"    written: {json.dumps(pins.written)}"]
    return "\n".join(lines) + "\n"


def edited_classes(path: Path) -> dict[str, str]:
    """What a person wrote into classes.yaml: dataset -> class_hash of its list where that is not as
    stage prepare left it; "" for the project's own list. {} where the file is not there, or wrong,
    which prepare says.
    """
    if not path.is_file():
        return {}
    try:
        content = read_classes(path)
    except ConfigError:
        return {}
    if content.names is not None:
        return {"": class_hash(content.names)}
    pins = content.datasets or {}
    return {name: class_hash(each.names) for name, each in sorted(pins.items()) if each.edited}


def with_pinned(schema: ClassSchema | None, names: Sequence[str]) -> tuple[str, ...]:
    """The classes of a dataset in which `names` were found: pinned ones first, in their places."""
    if schema is None or not schema.pinned:
        return tuple(names)
    return (*schema.names, *(name for name in names if name not in schema.names))


def reconcile(
    description: Description,
    schema: ClassSchema | None,
    listed: Sequence[str],
    class_map: Mapping[str, str | None],
    by_number: bool = False,
) -> tuple[str, ...]:
    """The classes of the project; where none are fixed, those the source lists, () where it lists
    none. Where they are pinned, those of the source, which are then to be put in place by
    `with_pinned`.

    listed: the source's own names in its order. class_map: its class -> class of the project, None:
    left out. by_number: the labels of the source hold numbers, which mean places in its list.

    Raises:
        DataError: the source, or the description, has other classes; the difference is in the
            message.
        ConfigError: a map that leads to a class which is not there.
    """
    if schema and schema.pinned:
        names = reconcile(description, None, listed, class_map)
        _check_pinned(description, schema, listed, names, class_map, by_number)
        return names
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


def _check_pinned(
    description: Description,
    pins: ClassSchema,
    listed: Sequence[str],
    names: Sequence[str],
    class_map: Mapping[str, str | None],
    by_number: bool,
) -> None:
    """DataError where a list that a person, or numbers in label files, rely on says other numbers
    than the pinned ones. A list that only names what labels name themselves says nothing.
    """
    own = description.content.names
    if own:
        old = [name for name in pins.names if name in own]
        if by_number:
            agrees = _same_places(own, pins.names)
        else:
            agrees = list(own[: len(old)]) == old
        if not agrees:
            raise DataError(
                _difference(description.origin.name, own, pins)
                + f"\n  Next: give the names in {description.origin.name} in the order of "
                f"{pins.origin}, new ones at the end. Or, if the new numbers are meant, change the "
                f"list of '{description.name}' in {pins.origin}; models trained before then mean "
                "other classes."
            )
    elif by_number and not all(name in class_map for name in listed):
        if not _same_places(names, pins.names):
            raise DataError(
                _difference(f"dataset '{description.name}'", listed, pins)
                + _next_step(listed, pins, class_map)
            )


def _same_places(names: Sequence[str], pinned: Sequence[str]) -> bool:
    """Whether every number that both lists have means the same in both."""
    return all(a == b for a, b in zip(names, pinned, strict=False)) and not any(
        name in pinned for name in names[len(pinned) :]
    )


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

    stays = listed if fixed.pinned else fixed.names  # a new class gets the next number
    by_name = pasted(class_map.get(name, name if name in stays else None) for name in listed)
    by_number = pasted(fixed.names[n] if n < len(fixed.names) else None for n in range(len(listed)))
    return (
        "\n  Next: export the dataset with the project's classes. Or say in params.yaml what each "
        "of its classes is here"
        f"\n    if its names are right:    data.class_map: {by_name}"
        f"\n    if its numbers are right:  data.class_map: {by_number}"
    )
