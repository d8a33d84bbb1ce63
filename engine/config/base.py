"""What every configuration section shares: frozen, unknown keys refused with the nearest name, errors in words.

Values from the command line are read as YAML scalars (`lr0=0.01`, `imgsz=[160,320]`, `resume=true`); nothing is
evaluated. What a run derives from a configuration is a new value with its own name, never written back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from engine.errors import ConfigError, nearest


class Frozen(BaseModel):
    """Base of all sections: immutable, no unknown keys, no silent conversion of text to numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True)

    @classmethod
    def build(cls, values: Mapping[str, Any] | None = None, where: str = "configuration") -> Self:
        """Validate `values`; `where` names their origin in the error.

        Raises:
            ConfigError: names every wrong key with its nearest known one, or its type, range and meaning.
        """
        try:
            return cls.model_validate(dict(values or {}))
        except ValidationError as error:
            raise ConfigError(cls._explain(error, where)) from None

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML file of this section, for example a run's `args.yaml`."""
        return cls.build(load_yaml(path), where=str(path))

    def with_overrides(self, overrides: Mapping[str, Any], where: str = "overrides") -> Self:
        """A new section with some values replaced and everything checked again; explicitly given stays given."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self).build({**given, **overrides}, where)

    def is_given(self, name: str) -> bool:
        """Whether the user set this value: then nothing automatic may change it."""
        return name in self.model_fields_set

    @classmethod
    def _explain(cls, error: ValidationError, where: str) -> str:
        lines = []
        for item in error.errors(include_url=False):
            key = ".".join(str(part) for part in item["loc"])
            if item["type"] == "extra_forbidden":
                known = cls._fields_at(item["loc"][:-1])
                lines.append(f"unknown key '{key}'.{nearest(str(item['loc'][-1]), known)}")
                continue
            field = cls._fields_at(item["loc"][:-1]).get(str(item["loc"][-1])) if item["loc"] else None
            meaning = f" ({field.description})" if field is not None and field.description else ""
            got = f", got {item['input']!r}" if item["type"] != "missing" else ""
            lines.append(f"{key or 'settings'}: {item['msg'].removeprefix('Value error, ')}{got}{meaning}")
        return f"{where}: " + "\n  ".join(lines)

    @classmethod
    def _fields_at(cls, location: Sequence[Any]) -> dict[str, Any]:
        fields = _by_key(cls)
        for part in location:
            annotation = fields[part].annotation if part in fields else None
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return {}
            fields = _by_key(annotation)
        return fields


def _by_key(cls: type[BaseModel]) -> dict[str, Any]:
    """Fields by the key that a file has for them."""
    return {field.alias or name: field for name, field in cls.model_fields.items()}


def load_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file, as plain data."""
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
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


class _NumberLoader(yaml.SafeLoader):
    """SafeLoader that reads 1e-3 as a number, as people mean it (YAML 1.1 wants 1.0e-3)."""


_NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    __import__("re").compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)$"),
    list("-+0123456789"),
)


def parse_value(text: str) -> Any:
    """`"0.01"` -> 0.01, `"true"` -> True, `"[160, 320]"` -> list, anything else the text itself."""
    try:
        value = yaml.load(text, Loader=_NumberLoader)
    except yaml.YAMLError:
        return text
    return value if isinstance(value, (str, int, float, bool, list, dict)) or value is None else text


def parse_overrides(words: Sequence[str]) -> dict[str, Any]:
    """`["epochs=3", "lr0=1e-3"]` -> `{"epochs": 3, "lr0": 0.001}`.

    Raises:
        ConfigError: a word without `=`, or the same key twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"'{word}' is not key=value (for example epochs=3)")
        if key in values:
            raise ConfigError(f"'{key}' is given twice")
        values[key] = parse_value(text)
    return values


def describe_groups(cls: type[Frozen]) -> str:
    """The schema as help text: one line per field with default, meaning, and type or range."""
    groups: dict[str, list[str]] = {}
    kinds = cls.model_json_schema()["properties"]
    for key, field in _by_key(cls).items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        default = "(required)" if field.is_required() else _as_typed(field.get_default(call_default_factory=True))
        line = f"  {key + '=' + default:<30} {field.description or ''} [{_kind(kinds[key])}]"
        groups.setdefault(str(extra.get("group", "general")), []).append(line)
    return "\n\n".join("\n".join([f"{group}:", *lines]) for group, lines in groups.items())


def _as_typed(value: Any) -> str:
    """A default as a person would type it; empty where nothing is set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def _kind(schema: Mapping[str, Any]) -> str:
    """`number 0..1`, `integer >= 1`, `auto | SGD`, from a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema:
        return " | ".join(repr(each) if each == "" else str(each) for each in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = {"array": "list", "object": "mapping", "boolean": "true | false", "string": "text"}.get(
        schema.get("type", ""), schema.get("type", "anything")
    )
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{kind} {low:g}..{high:g}"
    limits = [(">=", low), (">", above), ("<=", high), ("<", below)]
    return " ".join([kind, ", ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)]).strip()
