"""run and stage: the pipeline in this project."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from engine.config import parse_overrides
from engine.config.base import load_yaml
from engine.errors import ConfigError, EngineError, WorkspaceError, nearest

INTERRUPTED = 130


def run(words: Sequence[str]) -> int:
    """`detectflow run [-S key=value ...] [--force] [--no-wait]`"""
    options = _parser().parse_args(words)
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
    values = overrides_of([*options.set_param, *options.words])
    overrides.checked(root, values)  # wrong words are answered before any server starts
    connection = server.connect(root)
    finished: list[Any] = []
    try:
        from flows.logs import no_links
        from flows.pipeline import finished, pipeline
        from flows.summary import as_text

        if connection.is_temporary:
            no_links()
        connection.wait()
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


def overrides_of(words: Sequence[str]) -> dict[str, Any]:
    """Dotted key -> value of `key=value` words, and of `@FILE`, a part of a params.yaml; a word
    wins over a file.

    Raises:
        ConfigError: a word that is neither, a file that has no sections.
    """
    values: dict[str, Any] = {}
    for file in (word[1:] for word in words if word.startswith("@")):
        for section, settings in load_yaml(file).items():
            if not isinstance(settings, dict):
                raise ConfigError(
                    f"{file}: expected sections as params.yaml has them, such as `train:`; found "
                    f"'{section}: {settings}'"
                )
            values |= {f"{section}.{key}": value for key, value in settings.items()}
    return values | parse_overrides([word for word in words if not word.startswith("@")])


def stage(words: Sequence[str]) -> int:
    """`detectflow stage NAME`"""
    from engine.stages.layout import STAGES

    if len(words) != 1:
        raise ConfigError(f"stage takes one name: {', '.join(STAGES)}")
    if words[0] not in STAGES:
        raise ConfigError(
            f"no stage '{words[0]}'.{nearest(words[0], STAGES)} Stages: {', '.join(STAGES)}"
        )
    from engine.stages.__main__ import main

    return main([words[0]])


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        hint = nearest(message.split()[-1], self._option_string_actions)
        raise ConfigError(f"run: {message}.{hint} `detectflow help run` shows what it takes")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="detectflow run", add_help=False, allow_abbrev=False)
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--force", action="store_true")
    parser.add_argument("--no-wait", action="store_true")
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE")
    return parser
