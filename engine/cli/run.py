"""run and stage: the pipeline in this project."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from engine.config import Params, parse_overrides
from engine.errors import ConfigError, EngineError, WorkspaceError, nearest
from engine.settings.base import load_yaml

INTERRUPTED = 130


def run(argv: Sequence[str]) -> int:
    """`detectflow run [-S key=value ...] [--force] [--no-wait]`"""
    options = _parser().parse_args(argv)
    if importlib.util.find_spec("prefect") is None:
        raise WorkspaceError(
            "run needs Prefect: pip install prefect. Without it `dvc repro` runs the same stages."
        )
    from engine.project.environment import prepare_environment
    from engine.project.redaction import hide
    from engine.project.workspace_lock import require_writable
    from flows import overrides, server

    root = prepare_environment()
    require_writable(root)
    values = overrides_of([*options.set_param, *options.argv])
    overrides.checked(root, values)  # wrong arguments are refused before any server starts
    connection = server.connect(root)
    finished: list[Any] = []
    try:
        from flows.logs import errors_by_caller, no_links
        from flows.pipeline import finished, pipeline
        from flows.summary import as_text

        if connection.is_temporary:
            no_links()
        connection.wait()
        errors_by_caller()
        pipeline(str(root), values, force=options.force, wait=not options.no_wait)
    except KeyboardInterrupt:
        print(
            "Interrupted. Finished stages are recorded, and a training keeps its last complete "
            "epoch: `detectflow run` goes on from there (so does `dvc repro`).",
            file=sys.stderr,
        )
        return INTERRUPTED
    except EngineError:
        raise
    except Exception as error:
        if not server.is_gone():
            raise
        gone = f"The Prefect server at {hide(connection.api_url)} went away under the run"
        if not finished:
            raise WorkspaceError(
                f"{gone}. What was done is kept: start the server, and run again."
            ) from error
        print(
            f"{gone}: its page of the run is incomplete. The run itself is complete.",
            file=sys.stderr,
        )
    print(as_text(finished[-1]))
    return 0


def overrides_of(argv: Sequence[str]) -> dict[str, Any]:
    """Dotted key -> value of `key=value` arguments, and of `@FILE`, a part of a params.yaml; an
    argument wins over a file.

    Raises:
        ConfigError: an argument that is neither, a file that has no sections.
    """
    values: dict[str, Any] = {}
    for file in (arg[1:] for arg in argv if arg.startswith("@")):
        for section, settings in load_yaml(file).items():
            if not isinstance(settings, dict):
                raise ConfigError(
                    f"{file}: expected sections as params.yaml has them, such as `train:`; found "
                    f"'{section}: {settings}'"
                )
            values |= {f"{section}.{key}": value for key, value in settings.items()}
    return values | parse_overrides([arg for arg in argv if not arg.startswith("@")], Params)


def stage(argv: Sequence[str]) -> int:
    """`detectflow stage NAME`"""
    from engine.stages.layout import STAGES

    if len(argv) != 1:
        raise ConfigError(f"stage takes one name: {', '.join(STAGES)}")
    if argv[0] not in STAGES:
        raise ConfigError(
            f"no stage '{argv[0]}'.{nearest(argv[0], STAGES)} Stages: {', '.join(STAGES)}"
        )
    from engine.stages.__main__ import main

    return main([argv[0]])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = nearest(message.split()[-1], self._option_string_actions)
        raise ConfigError(f"run: {message}.{hint} `detectflow help run` shows what it takes")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="detectflow run", add_help=False, allow_abbrev=False)
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("argv", nargs="*", metavar="KEY=VALUE")
    return parser
