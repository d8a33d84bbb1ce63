"""The settings in other forms: as rows for help and documentation, as a JSON schema for editors and
other programs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo

from engine.config.sections import (
    DataConfig,
    ExportConfig,
    Params,
    PredictConfig,
    PrepareFlowConfig,
    RegisterConfig,
    TrackConfig,
    TrackingConfig,
    ValidateConfig,
)
from engine.config.train import DetectionTrainConfig
from engine.config.tune import TuneConfig
from engine.errors import ConfigError, nearest
from engine.settings.base import Frozen, fields_by_key, kind_of

DIALECT = "https://json-schema.org/draft/2020-12/schema"

SECTIONS: dict[str, type[Frozen]] = {  # as params.yaml names them, and three that it has not
    "data": DataConfig,
    "train": DetectionTrainConfig,
    "validate": ValidateConfig,
    "export": ExportConfig,
    "register": RegisterConfig,
    "tracking": TrackingConfig,
    "flows.prepare": PrepareFlowConfig,
    "predict": PredictConfig,
    "track": TrackConfig,
    "tune": TuneConfig,
}
WHOLE = "params"  # the whole of params.yaml


@dataclass(frozen=True)
class Setting:
    """One setting as text."""

    key: str
    group: str
    default: str  # as a person would type it; empty where nothing is set
    kind: str  # type, range and unit: `integer >= 1, epochs`
    meaning: str


def settings_of(schema: type[Frozen]) -> list[Setting]:
    """Every setting of a section, in the order of the schema."""
    kinds = schema.model_json_schema()["properties"]
    return [
        Setting(key, _group(field), _default(field), kind_of(kinds[key]), field.description or "")
        for key, field in fields_by_key(schema).items()
    ]


def describe_groups(schema: type[Frozen]) -> str:
    """The section as help text: one line per setting with default, meaning, and type or range."""
    groups: dict[str, list[str]] = {}
    for each in settings_of(schema):
        groups.setdefault(each.group, []).append(
            f"  {each.key + '=' + each.default:<30} {each.meaning} [{each.kind}]"
        )
    return "\n\n".join("\n".join([f"{group}:", *lines]) for group, lines in groups.items())


def json_schema(section: str = WHOLE) -> dict[str, Any]:
    """JSON schema of one section, or of the whole params.yaml. Editors complete and check a file
    with it.

    Raises:
        ConfigError: there is no such section; the nearest is named.
    """
    known = [*SECTIONS, WHOLE]
    if section not in known:
        raise ConfigError(
            f"schema: no section '{section}'.{nearest(section, known)} There are: "
            f"{', '.join(known)}"
        )
    schema = Params if section == WHOLE else SECTIONS[section]
    return {"$schema": DIALECT, **schema.model_json_schema(by_alias=True)}


def _group(field: FieldInfo) -> str:
    extra = field.json_schema_extra
    return str(extra.get("group", "general")) if isinstance(extra, dict) else "general"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "(required)"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)
