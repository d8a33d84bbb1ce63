"""The command line: `detectflow MODE key=value ...`. Reads arguments, calls an executor or the
flow, prints what came out.

Nothing heavy is imported before it is needed: help answers at once. Exit codes: 0 done, 1 could not
be finished, 2 a wrong request, 130 interrupted, 143 terminated. A mistake of the user is one
message; DETECTFLOW_DEBUG=1 shows where it arose.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from engine.cli.known_lines import KNOWN_MODES, in_our_words
from engine.errors import INTERRUPTED, TERMINATED, ConfigError, EngineError, Terminated, nearest
from engine.signals import interrupts_are_heard

# mode -> module that has a function of this name (or of the name behind the colon), taking the
# arguments after it
MODES = {
    "run": "engine.cli.run",
    "ui": "engine.cli.ui",
    "train": "engine.cli.modes",
    "val": "engine.cli.modes",
    "predict": "engine.cli.modes",
    "track": "engine.cli.modes",
    "export": "engine.cli.modes",
    "stage": "engine.cli.run",
    "deploy": "engine.cli.deploy",
    "worker": "engine.cli.deploy",
    "serve": "engine.cli.deploy",
    "prefect": "engine.cli.deploy",
    "schema": "engine.cli.help",
    "tune": "engine.cli.tune",
    "check": "engine.cli.data",
    "diff": "engine.cli.data",
    "tasks": "engine.cli.tasks",
    "trace": "engine.cli.trace",
    "report": "engine.cli.report",
    "compare": "engine.cli.champion",
    "promote": "engine.cli.champion",
    "rollback": "engine.cli.champion",
    "approve": "engine.cli.champion",
    "decide": "engine.cli.champion",
    "history": "engine.cli.champion",
    "convert": "engine.cli.convert",
    "models": "engine.cli.models",
    "import": "engine.cli.models:import_weights",
}
HELP_ARGUMENTS = {"help", "-h", "--help"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with interrupts_are_heard():
            return _dispatch(argv)
    except EngineError as error:
        if os.environ.get("DETECTFLOW_DEBUG"):
            raise
        if not error.reported:
            print(f"{_which_process()}{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as ended:
        print("Interrupted.", file=sys.stderr)
        return TERMINATED if isinstance(ended, Terminated) else INTERRUPTED
    except BrokenPipeError:  # `detectflow help | head`: whoever read us has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in HELP_ARGUMENTS:
        return show_help([arg for arg in argv[1:] if arg not in HELP_ARGUMENTS])
    mode, *rest = in_our_words(argv, MODES)
    if mode in {"--version", "-V", "version"}:
        from engine.version import __version__

        print(f"detectflow {__version__}")
        return 0
    if mode not in MODES:
        raise _no_mode(mode)
    if any(arg in {"-h", "--help"} for arg in rest) or rest[:1] == ["help"]:
        return show_help([mode])
    module, _, function = MODES[mode].partition(":")
    return getattr(importlib.import_module(module), function or mode)(rest)


def _no_mode(mode: str) -> ConfigError:
    if mode in KNOWN_MODES:
        return ConfigError(f"no mode '{mode}': {KNOWN_MODES[mode]}")
    return ConfigError(
        f"no mode '{mode}'.{nearest(mode, [*MODES, 'help'])} Modes: {', '.join(MODES)}, help"
    )


def _which_process() -> str:
    """`"rank 1: "` where there are several."""
    return (
        f"rank {os.environ['RANK']}: "
        if int(os.environ.get("WORLD_SIZE", 1)) > 1 and "RANK" in os.environ
        else ""
    )


def show_help(argv: Sequence[str]) -> int:
    """The list of modes, or what one mode takes."""
    from engine.cli.help import OVERVIEW, help_of

    if not argv:
        print(OVERVIEW)
        return 0
    if argv[0] not in MODES:
        raise _no_mode(argv[0])
    print(help_of(argv[0]))
    return 0
