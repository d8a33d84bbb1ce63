"""What values a setting takes, in words: for help, documentation and error messages alike. Read from its JSON schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kind_of(schema: Mapping[str, Any]) -> str:
    """Type, range and unit of a property of a JSON schema: `number 0..1, share`."""
    return ", ".join(part for part in (_kind(schema), schema.get("unit")) if part)


def _kind(schema: Mapping[str, Any]) -> str:
    """`number 0..1`, `integer >= 1`, `auto | SGD`, `list of text`, from a JSON schema."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_kind(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if "enum" in schema:
        return " | ".join(repr(each) if each == "" else str(each) for each in schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    kind = schema.get("type", "anything")
    if kind == "array":
        fixed = schema.get("prefixItems")
        return f"[{', '.join(map(_kind, fixed))}]" if fixed else f"list of {_kind(schema.get('items', {}))}"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"mapping to {_kind(values)}" if isinstance(values, Mapping) else "mapping"
    return " ".join(part for part in ({"boolean": "true | false", "string": "text"}.get(kind, kind), _range(schema)) if part)


def _range(schema: Mapping[str, Any]) -> str:
    low, above = schema.get("minimum"), schema.get("exclusiveMinimum")
    high, below = schema.get("maximum"), schema.get("exclusiveMaximum")
    if low is not None and high is not None:
        return f"{low:g}..{high:g}"
    limits = [(">=", low), (">", above), ("<=", high), ("<", below)]
    return ", ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)
