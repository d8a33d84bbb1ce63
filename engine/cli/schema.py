"""schema: the settings as JSON schema, for editors and other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.errors import ConfigError


def schema(argv: Sequence[str]) -> int:
    """`detectflow schema [SECTION]`"""
    from engine.config.schema import WHOLE, json_schema

    if len(argv) > 1:
        raise ConfigError(f"schema takes one section, got {len(argv)} arguments: {' '.join(argv)}")
    print(json.dumps(json_schema(argv[0] if argv else WHOLE), indent=2, ensure_ascii=False))
    return 0
