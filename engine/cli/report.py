"""report: the page and the model card of the latest model, made anew from what is recorded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Any

from engine.cli.arguments import folder_to_write, text_of, unknown_key, written_into
from engine.config import parse_overrides
from engine.errors import ConfigError

REPORT_EXTRA: dict[str, Any] = {"out": "runs/report", "mlflow": True}


def report(argv: Sequence[str]) -> int:
    """`detectflow report [out=FOLDER] [mlflow=false]`"""
    loose = [arg for arg in argv if "=" not in arg]
    if loose:
        raise ConfigError(
            f"report: unknown argument {loose[0]}. It is about the model of this project: "
            "detectflow report out=runs/report"
        )
    given = parse_overrides(list(argv), texts={"out"})
    for key in given:
        if key not in REPORT_EXTRA:
            raise unknown_key("report", key, REPORT_EXTRA)
    ask = given.get("mlflow", REPORT_EXTRA["mlflow"])
    if not isinstance(ask, bool):
        raise ConfigError(f"report: mlflow={ask}: expected true or false")
    folder = text_of("report", "out", given.get("out")) or REPORT_EXTRA["out"]
    out = folder_to_write("report", "out", folder)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from engine.project.environment import prepare_environment
    from engine.report.publish import write_report

    root = prepare_environment()
    with written_into(out):
        for file in write_report(root, out, ask):
            print(file.as_posix())
    return 0
