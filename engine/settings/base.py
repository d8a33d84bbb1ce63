"""The base of every configuration section: frozen, unknown keys refused with the nearest name,
errors as sentences.

Values from the command line are read as YAML (`lr0=0.01`, `imgsz=[160,320]`, `resume=true`) where
the setting is no text; nothing is evaluated. What a run derives from a configuration is a new value
with its own name, never written back.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence, Set
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from engine.errors import ConfigError, nearest, nearest_name
from engine.settings.known_name import KnownName, in_ours
from engine.settings.yaml_io import NumberLoader, lines_of_file, nearest_line, read_yaml

NULLS = {"", "null", "Null", "NULL", "~"}
SHOWN = 300  # characters of a wrong value in a message


class Frozen(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversion of text or true to
    numbers, no inf or nan.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        validate_default=True,
        use_attribute_docstrings=True,
    )
    listed_by: ClassVar[str] = ""
    """The command that lists the keys of a section with too many for a message."""
    known_names: ClassVar[Mapping[str, KnownName]] = {}
    """Names and values that users of other trainers bring."""

    @model_validator(mode="before")
    @classmethod
    def _choices_in_any_case(cls, values: Any) -> Any:
        """`optimizer=sgd` where one of the choices is SGD."""
        if not isinstance(values, Mapping):
            return values
        fields = fields_by_key(cls)
        return {
            key: _as_chosen(value, fields[key].annotation)
            if isinstance(value, str) and key in fields
            else value
            for key, value in values.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        """YAML knows lists only."""
        if not isinstance(values, Mapping):
            return values
        fixed = {key for key, field in fields_by_key(cls).items() if _takes_tuple(field.annotation)}
        return {
            key: tuple(value) if key in fixed and isinstance(value, list) else value
            for key, value in values.items()
        }

    @model_validator(mode="before")
    @classmethod
    def _in_our_names(cls, values: Any) -> Any:
        """Runs first: of the validators before, the last one does."""
        if not isinstance(values, Mapping):
            return values
        return in_ours(cls.known_names, cls._as_plain(values))

    @classmethod
    def _as_plain(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` with those of other libraries as the plain ones that mean the same."""
        fields = fields_by_key(cls)
        return {
            key: _plain(value, _kinds(fields[key].annotation) if key in fields else set())
            for key, value in values.items()
        }

    @classmethod
    def build(
        cls,
        values: Mapping[str, Any] | None = None,
        where: str = "configuration",
        file: Path | str | None = None,
    ) -> Self:
        """Validate `values`; `where` names their origin in the error, with the lines of the YAML
        `file` if they are its content.

        Raises:
            ConfigError: names every wrong key with its nearest known one, or its type, range and
                meaning.
        """
        if values is not None and not isinstance(values, Mapping):
            raise ConfigError(
                f"{where}: settings are given by name, {{'name': value}}; got "
                f"{type(values).__name__} {values!r}"
            )
        try:
            return cls.model_validate(dict(values or {}))
        except ValidationError as error:
            raise ConfigError(
                cls._explain(error, where, lines_of_file(file) if file else {})
            ) from None

    @classmethod
    def in_our_names(cls, values: Mapping[str, Any], where: str) -> dict[str, Any]:
        """`values` with those that other trainers call otherwise under our names; `build` does it
        too, this is for who looks at them before.

        Raises:
            ConfigError: one of them has no such meaning here, or contradicts another.
        """
        try:
            return in_ours(cls.known_names, cls._as_plain(values))
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file of this section, for example a run's `args.yaml`."""
        return cls.build(load_yaml(path), str(path), path)

    def with_overrides(self, overrides: Mapping[str, Any], where: str = "overrides") -> Self:
        """A new section with some values replaced and everything checked again; explicitly given
        stays given.
        """
        fields = type(self).model_fields
        given = {fields[name].alias or name: getattr(self, name) for name in self.model_fields_set}
        return type(self).build({**given, **overrides}, where)

    def is_given(self, name: str) -> bool:
        """Whether the user set this value: then nothing automatic may change it."""
        return name in self.model_fields_set

    @classmethod
    def _explain(cls, error: ValidationError, where: str, in_file: dict[str, int]) -> str:
        lines: dict[str, str] = {}  # by key: a value that fits none of several types is one mistake
        for item in error.errors(include_url=False):
            section, depth = cls._section_at(item["loc"])
            name = str(item["loc"][depth]) if depth < len(item["loc"]) else ""
            key = ".".join(str(part) for part in item["loc"][: depth + 1])
            line = nearest_line(in_file, ".".join(map(str, item["loc"])))
            at = f"line {line}: " if line else ""
            if item["type"] == "extra_forbidden":
                said = section.instead_of(name)
                lines[key] = f"{at}unknown key '{key}'.{said}"
                continue
            said = item["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
            if key in lines:
                said = "Input should be of one of these types"
            got = "" if section._is_whole(name, item) else f", got {_shown(item['input'])}"
            lines[key] = f"{at}{key or 'settings'}: {said}{got}{section._meaning(name)}"
        return f"{where}: " + "\n  ".join(lines.values())

    @classmethod
    def _is_whole(cls, key: str, item: Mapping[str, Any]) -> bool:
        """Whether an error is about a section as a whole (a value of it is missing, two contradict
        each other): printing all of it would hide what was said.
        """
        field = fields_by_key(cls).get(key)
        is_section = field is None or _is_section(field.annotation)
        return item["type"] == "missing" or (item["type"] == "value_error" and is_section)

    @classmethod
    def _section_at(cls, location: Sequence[Any]) -> tuple[type[Frozen], int]:
        """The innermost section that `location` leads into, and how many of its parts name
        sections.
        """
        section: type[Frozen] = cls
        for depth, part in enumerate(location):
            field = fields_by_key(section).get(part)
            annotation = field.annotation if field is not None else None
            if not _is_section(annotation) or depth + 1 == len(location):
                return section, depth
            section = annotation
        return section, 0

    @classmethod
    def instead_of(cls, key: str, others: Collection[str] = ()) -> str:
        """What to do about an unknown key: our name for what other trainers call so, or why there
        is none; else the nearest known one with its meaning, else all of them or who lists them.

        others: keys that are taken beside those of the section.
        """
        known = [*others, *fields_by_key(cls)]
        theirs = cls.known_names.get(key)
        if theirs is not None and theirs.here in known:
            how = f" {theirs.how}" if theirs.how else ""
            return f" Here it is called {theirs.here}{cls._meaning(theirs.here)}.{how}"
        if theirs is not None and not theirs.here:
            return f" There is none here ({theirs.meaning}): {theirs.how}."
        near = nearest_name(key, known)
        if near:
            return f"{nearest(key, known)}{cls._meaning(near)}"
        choice = f"that {cls.listed_by} lists" if cls.listed_by else f"of: {', '.join(known)}"
        return f" Remove it, or take one {choice}."

    @classmethod
    def _meaning(cls, key: str) -> str:
        """` (type, range and unit: meaning)` of a setting, or nothing."""
        field = fields_by_key(cls).get(key)
        if field is None or _is_section(field.annotation):
            return ""
        kind = kind_of(cls.model_json_schema(by_alias=True)["properties"][key])
        return f" ({kind}: {field.description})" if field.description else f" ({kind})"


def _plain(value: Any, kinds: set[type]) -> Any:
    """What a value of another library means: numbers, arrays and tensors as Python's own, a path as
    text, several values in any kind of collection as a list. A setting that takes anything gets it
    as it is.
    """
    if object in kinds or value is None or type(value) in {str, int, float, bool, tuple, dict}:
        return _plain_tuple(value, kinds) if type(value) is tuple else value
    if isinstance(value, os.PathLike):
        return os.fspath(value) if str in kinds else value
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numpy, torch
        return _whole_numbers(value.tolist(), kinds)
    if isinstance(value, Set):  # no order of its own
        return [_plain(each, kinds) for each in sorted(value, key=str)]
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes, bytearray)):
        return [_plain(each, kinds) for each in value]
    return value


def _plain_tuple(values: tuple[Any, ...], kinds: set[type]) -> tuple[Any, ...]:
    return tuple(_plain(each, kinds) for each in values)


def _whole_numbers(value: Any, kinds: set[type]) -> Any:
    """Of an array: classes as a tensor are floats, as those of boxes are."""
    if isinstance(value, list):
        return [_whole_numbers(each, kinds) for each in value]
    is_whole = isinstance(value, float) and value.is_integer() and float not in kinds
    return int(value) if is_whole else value


def _as_chosen(text: str, annotation: Any) -> str:
    """The choice of a `Literal` that a text is, whatever the case; else the text."""
    parts = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    choices = [c for part in parts if get_origin(part) is Literal for c in get_args(part)]
    if not choices or text in choices:
        return text
    meant = [c for c in choices if isinstance(c, str) and c.lower() == text.strip().lower()]
    return meant[0] if len(meant) == 1 else text


def _shown(value: Any) -> str:
    """A wrong value for a message: not all of one that is very long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of 5,000 digits has no text in Python
        return f"a very long {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}... ({len(text):,} characters)"


def fields_by_key(cls: type[BaseModel]) -> dict[str, FieldInfo]:
    """Fields by the key that a file has for them."""
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Frozen)


def _takes_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(map(_takes_tuple, get_args(annotation)))


def load_yaml(path: str | Path, as_written: Collection[str] = ()) -> dict[str, Any]:
    """A YAML mapping from a file, as plain data. as_written: as for `read_yaml`."""
    try:
        data = read_yaml(Path(path).read_text(encoding="utf-8-sig"), as_written)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, found a {type(data).__name__}")
    return data


def parse_value(text: str, kind: Any = None) -> Any:
    """What a word of the command line stands for: `"0.01"` -> 0.01, `"true"` -> True,
    `"[160, 320]"` -> list, anything else the text itself, nothing of it taken for a comment.

    kind: the setting's type. Where it is text the word stays as it is (`name=007`), but for quotes
    around all of it and a `null` that the setting may be. Where it may be text or something else, a
    file or folder of that name comes first.
    """
    value = _as_yaml(text)
    kinds = _kinds(kind)
    is_text = bool(kinds) and kinds <= {str, type(None)}
    word = text if is_text else text.strip()  # blanks are text too
    if word in NULLS and (not is_text or type(None) in kinds) and not _exists(text):
        return None
    if value is None:  # a comment
        return text
    if is_text or (kinds & {str, object} and _exists(text)) or isinstance(value, str):
        is_quoted = text[:1] in {'"', "'"} and text[-1:] == text[:1] and isinstance(value, str)
        return value if is_quoted else text
    return value


def _as_yaml(text: str) -> Any:
    try:
        value = yaml.load(text, Loader=NumberLoader)
    # 2026-13-45, !!timestamp x, a number of 5,000 digits, a list in a list in a ...
    except (yaml.YAMLError, RecursionError):
        return text
    is_plain = value is None or isinstance(value, (str, int, float, bool, list, dict))
    return value if is_plain else text


def _exists(text: str) -> bool:
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long, or with a NUL in it
        return False


def _kinds(annotation: Any) -> set[type]:
    """The types that a setting may have: text as `str`, anything as `object`."""
    if annotation is None:
        return set()
    if annotation is Any:
        return {object}
    origin = get_origin(annotation)
    if origin is Literal:
        return {type(value) for value in get_args(annotation)}
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return set().union(*(_kinds(part) or {type(None)} for part in get_args(annotation)))
    found = origin or annotation
    is_text = isinstance(found, type) and issubclass(found, (str, Path))
    return {str} if is_text else {found}


def _kind_of_key(schema: type[BaseModel], key: str) -> Any:
    """The type of a dotted key; None where the schema does not know it."""
    name, dot, rest = key.partition(".")
    field = fields_by_key(schema).get(name)
    if field is None or not dot:
        return field.annotation if field is not None else None
    if _is_section(field.annotation):
        return _kind_of_key(field.annotation, rest)
    return next(iter(get_args(field.annotation)[1:]), None)  # of a mapping its values'


def parse_overrides(
    argv: Sequence[str],
    *schemas: type[BaseModel],
    texts: Collection[str] = (),
) -> dict[str, Any]:
    """`["epochs=3", "lr0=1e-3"]` -> `{"epochs": 3, "lr0": 0.001}`, by the types of the settings.

    schemas: the settings that the keys belong to, in sections where they are dotted; the first that
    knows a key says its type. texts: keys beside them whose value is text.

    Raises:
        ConfigError: an argument without `=`, or the same key twice.
    """
    values: dict[str, Any] = {}
    for argument in argv:
        key, equals, text = argument.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{argument}' is not key=value (for example epochs=3)")
        if key in values:
            raise ConfigError(f"'{key}' is given twice")
        kinds = (_kind_of_key(schema, key) for schema in schemas)
        kind = str | None if key in texts else next((k for k in kinds if k is not None), None)
        values[key] = parse_value(text, kind)
    return values


def kind_of(schema: Mapping[str, Any]) -> str:
    """Type, range and unit of a property of a JSON schema: `number 0..1, fraction`."""
    return ", ".join(part for part in (_kind(schema), schema.get("unit")) if part)


def _kind(schema: Mapping[str, Any]) -> str:
    """`number 0..1`, `integer >= 1`, `auto | SGD`, `list of text`, from a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(
            dict.fromkeys(_kind(part) for part in schema["anyOf"] if part.get("type") != "null")
        )
    if "enum" in schema:
        return " | ".join(repr(each) if each == "" else str(each) for each in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    if kind == "array":
        fixed = schema.get("prefixItems")
        return (
            f"[{', '.join(map(_kind, fixed))}]"
            if fixed
            else f"list of {_kind(schema.get('items', {}))}"
        )
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_kind(values)}" if isinstance(values, Mapping) else "mapping"
    return " ".join(
        part
        for part in ({"boolean": "true | false", "string": "text"}.get(kind, kind), _range(schema))
        if part
    )


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{low:g}..{high:g}"
    limits = [(">=", low), (">", above), ("<=", high), ("<", below)]
    return ", ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)
