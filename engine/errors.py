"""The errors a user can cause. Each says what was found, where, and the next step.

Anything else that escapes the engine is our bug and keeps its traceback; these are printed as one
message by the command line, with exit code 2 for a wrong request and 1 for a run that could not be
finished.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

SHORTEST_PART = 4  # letters of a name that are enough to tell it
INTERRUPTED = 130  # as a shell says it: 128 and the number of the signal, here SIGINT
TERMINATED = 143  # and SIGTERM


class EngineError(Exception):
    """A mistake or a condition that the user can correct."""

    exit_code = 1
    reported = False  # whether another process of the same run shows it already


class ConfigError(EngineError):
    """An unknown key, a wrong type, a value out of range, settings that contradict each other."""

    exit_code = 2


class DataError(EngineError):
    """A dataset, an annotation or an image that cannot be used as it is."""


class CheckpointError(EngineError):
    """A checkpoint that is damaged, foreign, or does not fit the model."""


class TrainingError(EngineError):
    """Training cannot go on: non-finite loss, out of memory, no data left."""


class ExportError(EngineError):
    """An exported model that could not be made or does not agree with the original."""


class WorkspaceError(EngineError):
    """Another process holds the workspace, a disk is full, a file changed under a running stage."""


class Terminated(SystemExit, KeyboardInterrupt):
    """SIGTERM: everything ends as with Ctrl-C, only the exit code is another. No mistake, so no
    `EngineError`.
    """

    def __init__(self) -> None:
        super().__init__(TERMINATED)


def cause_of(error: Exception) -> str:
    """The first cause that torch names where weights do not fit a network: its first line alone
    only says that they do not.
    """
    lines = [line.strip() for line in str(error).splitlines()]
    return lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else lines[0]


def nearest(word: str, known: Iterable[str]) -> str:
    """`" Did you mean 'epochs'?"` for a near miss, else an empty string; made to be appended to a
    message.
    """
    match = nearest_name(word, known)
    return f" Did you mean '{match}'?" if match else ""


def nearest_name(word: str, known: Iterable[str]) -> str:
    """The known name that `word` is probably meant to be, whatever the case; of equally near ones
    the first. Empty: none. Names that begin with the word, or else hold it, go before others: who
    leaves out the end of a long name means no other.
    """
    matcher = difflib.SequenceMatcher(b=word.lower())
    best, nearness, known = "", 0.6, list(known)
    if len(word) >= SHORTEST_PART:
        holding = [name for name in known if word.lower() in name.lower()]
        starting = [name for name in holding if name.lower().startswith(word.lower())]
        if holding:
            known, nearness = starting or holding, 0.0
    for name in known:
        matcher.set_seq1(name.lower())
        if matcher.ratio() > nearness or (not best and matcher.ratio() == nearness):
            best, nearness = name, matcher.ratio()
    return best
