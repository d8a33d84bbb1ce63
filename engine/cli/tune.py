"""tune: a search for the settings of training, as the flow that a deployment runs too."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Sequence

from engine.config import DetectionTrainConfig, parse_overrides
from engine.config.tune import TuneConfig
from engine.errors import WorkspaceError

INTERRUPTED = 130
NEEDED = ("prefect", "optuna")


def tune(argv: Sequence[str]) -> int:
    """`detectflow tune key=value ...`"""
    given = parse_overrides(argv, TuneConfig, DetectionTrainConfig)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise WorkspaceError(
            f"tune needs {' and '.join(missing)}: pip install 'detectflow[cluster]'"
        )
    from engine.hpo.sweep import STORAGE_VARIABLE, make_sweep
    from engine.project.environment import prepare_environment
    from flows import server

    root = prepare_environment()
    if given.get("storage"):  # Prefect shows the parameters of a flow to everybody
        os.environ[STORAGE_VARIABLE] = str(given.pop("storage"))
    make_sweep(given, root)  # wrong arguments are refused before any server starts
    connection = server.connect(root)
    try:
        from flows.logs import errors_by_caller, no_links
        from flows.sweep import sweep

        if connection.is_temporary:
            no_links()
        connection.wait()
        errors_by_caller()
        result = sweep(str(root), given)
    except KeyboardInterrupt:
        print(
            "Interrupted. Trials that ended are kept, and those under way go on from their last "
            "complete epoch: the same command continues.",
            file=sys.stderr,
        )
        return INTERRUPTED
    from engine.hpo.report import lines_of

    print("\n".join(lines_of(result)))
    return 0
