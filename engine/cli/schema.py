"""schema: the settings as JSON schema, for editors and other programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from engine.errors import ConfigError


def schema(words: Sequence[str]) -> int:
    """`detectflow schema [SECTION]`"""
    from engine.config.schema import WHOLE, json_schema

    if len(words) > 1:
        raise ConfigError(f"schema takes one section, got {len(words)} words: {' '.join(words)}")
    print(json.dumps(json_schema(words[0] if words else WHOLE), indent=2, ensure_ascii=False))
    return 0
