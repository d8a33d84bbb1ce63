"""trace: where a model, a run or an image comes from, and what came of it."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Sequence

from engine.config import parse_overrides
from engine.errors import ConfigError, nearest

FORMATS = ("text", "json")


def trace(argv: Sequence[str]) -> int:
    """`detectflow trace X [format=text|json]`"""
    names = [arg for arg in argv if not arg.startswith("format=")]
    given = parse_overrides([arg for arg in argv if arg.startswith("format=")], texts={"format"})
    if len(names) != 1:
        raise ConfigError(
            f"trace takes one thing, not {len(names)}. `detectflow help trace` shows what can be "
            "traced"
        )
    form = str(given.get("format", "text"))
    if form not in FORMATS:
        raise ConfigError(
            f"trace: format={form}.{nearest(form, FORMATS)} Formats: {', '.join(FORMATS)}"
        )
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from engine.lineage.graph import trace as ask
    from engine.lineage.render import trace_text, trace_values
    from engine.project.environment import NoProject, prepare_environment

    root = None
    with contextlib.suppress(NoProject):  # outside a project the file alone is asked
        root = prepare_environment()
    found = ask(names[0], root)
    print(
        json.dumps(trace_values(found), indent=2, ensure_ascii=False)
        if form == "json"
        else trace_text(found)
    )
    return 0
