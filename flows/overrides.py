"""Overrides of a run go through params.yaml, because dvc.lock knows only that file; comments and
layout are kept.

A value is written only after the whole file with it has been checked: a wrong override changes
nothing. Callers hold the workspace lock.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.config import Params
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.detect.choose import check_params, check_registration
from engine.errors import ConfigError, nearest
from engine.files import write_text
from engine.models.hub.files import with_revision
from engine.models.registry import hub_names
from engine.plugins import look_in
from engine.registry.fetch import file_of, is_reference
from engine.settings.base import load_yaml
from engine.stages.start_weights import KEYS, how_to_get, is_path, is_published

START = {f"train.{key}" for key in KEYS}
Overrides = Mapping[str, Any]  # dotted key of params.yaml -> value, for example {"train.epochs": 5}


def checked(root: Path, overrides: Overrides) -> Params:
    """The parameters of a run with `overrides`; nothing is written.

    Raises:
        ConfigError: names a wrong key with its nearest known one, or a wrong value with its type
            and range.
        DataError: data.source is no dataset.
    """
    path = root / "params.yaml"
    values = load_yaml(path)
    for key, value in overrides.items():
        _check_key(key)
        _check_place(root, key, value)
        _put(values, key, value)
    _fetch_start(values, root)
    where, file = (
        (f"{path.name} with {_words(overrides)}", None) if overrides else (str(path), path)
    )
    params = Params.build(values, where, file)
    Findings.with_policies(params.data.policies)  # the schema does not know the kinds of findings
    look_in(root)  # for a trainer or network of the user's own
    check_registration(params.export.formats, params.register_.format)
    check_params(params, root)  # nor which networks there are
    return params


def _fetch_start(values: dict[str, Any], root: Path) -> None:
    """Start weights that a registered model names (`detector@champion`) as the file they are, and a
    network of the hub with its revision; both are brought to this machine.
    """
    train = values.get("train")
    if not isinstance(train, dict):
        return
    on_hub = hub_names(train)
    for key in KEYS:
        if key in on_hub:
            train[key] = with_revision(on_hub[key], root, train.get("accept_licence"))
        elif isinstance(name := train.get(key), str):
            train[key] = file_of(name, weights=True, root=root)


def apply(root: Path, overrides: Overrides) -> Params:
    """Write `overrides` into params.yaml if they are right and change something; returns the
    parameters of the run.
    """
    params = checked(root, overrides)
    path = root / "params.yaml"
    values = load_yaml(path)
    changed = {key: value for key, value in overrides.items() if _put(values, key, value)}
    if changed:
        yaml = _round_trip_yaml()
        document = yaml.load(path.read_text(encoding="utf-8"))
        for key, value in changed.items():
            _put(document, key, value)
        text = io.StringIO()
        yaml.dump(document, text)
        write_text(path, text.getvalue())
    return params


def _check_key(key: str) -> None:
    """ConfigError unless `key` names a value of a section; the schema itself checks deeper keys,
    types and ranges.
    """
    section, _, field = key.partition(".")
    field = field.split(".")[0]
    schemas = {info.alias or name: info.annotation for name, info in Params.model_fields.items()}
    sections = {name: schema.model_fields for name, schema in schemas.items()}
    if section not in sections:
        homes = [f"{name}.{section}" for name, fields in sections.items() if section in fields]
        hint = (
            f" Did you mean {' or '.join(homes)}?"
            if homes and not field
            else nearest(section, sections)
        )
        raise ConfigError(
            f"params.yaml has no section '{section}'.{hint} Sections: {', '.join(sections)}"
        )
    if not field:
        raise ConfigError(
            f"'{key}' is a whole section of params.yaml: name one of its keys, for example "
            f"{key}.{next(iter(sections[key]))}=..."
        )
    if field not in sections[section]:
        raise ConfigError(
            f"params.yaml: unknown key '{section}.{field}'.{schemas[section].instead_of(field)} "
            f"`detectflow help run` lists the keys."
        )


def _check_place(root: Path, key: str, value: Any) -> None:
    """EngineError when an override names a file that is not there, or no dataset: better now than
    in params.yaml.
    """
    if not isinstance(value, str) or (root / value).exists():
        if key == "data.source" and isinstance(value, str):
            load_description(root / value)
        return
    hint = ""
    if key == "data.source":
        known = sorted(path.relative_to(root).as_posix() for path in (root / "data").glob("*.yaml"))
        hint = f"{nearest(value, known)} Descriptions here: {', '.join(known)}"
    elif key in START and is_reference(value, root):
        return
    elif key in START and is_path(value) and not is_published(value, root):
        hint = f" {how_to_get(root / value, root)}"
    elif key != "data.path":
        return
    raise ConfigError(f"{key}={value}: no such file or folder, seen from {root}.{hint}")


def _put(values: Any, dotted: str, value: Any) -> bool:
    """Set `values[a][b]` for "a.b", making sections on the way; whether that changed anything."""
    *sections, last = dotted.split(".")
    for name in sections:
        if not isinstance(values.get(name), dict):
            _set(values, name, {})
        values = values[name]
    if last in values and values[last] == value and type(values[last]) is type(value):
        return False
    _set(values, last, value)
    return True


def _set(values: Any, key: str, value: Any) -> None:
    """`values[key] = value`; in a commented document a new key goes before the last one, to which
    the blank line at the end of a section belongs.
    """
    if not hasattr(values, "ca"):
        values[key] = value
        return
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    if isinstance(value, (list, tuple, dict)):
        styled = CommentedMap(value) if isinstance(value, dict) else CommentedSeq(value)
        styled.fa.set_flow_style()
        value = styled
    if key in values or not values:
        values[key] = value
    else:
        values.insert(len(values) - 1, key, value)


def _round_trip_yaml() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096  # no line is broken
    return yaml


def _words(overrides: Overrides) -> str:
    return ", ".join(f"{key}={value}" for key, value in overrides.items())
