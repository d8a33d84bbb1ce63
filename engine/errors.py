"""The errors a user can cause. Each says what was found, where, and the next step.

Anything else that escapes the engine is our bug and keeps its traceback; these are printed as one
message by the command line, with exit code 2 for a wrong request and 1 for a run that could not be
finished.
"""

from __future__ import annotations

import difflib
import re
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
    """The known name that `word` is probably meant to be, whatever the case and `-` for `_`; of
    equally near ones the first. Empty: none; a word that only looks alike is no help.

    Names come before others that begin with the word, or have it as one of their parts (`limit` in
    `time_limit_minutes`): who leaves out the end of a long name means no other. Then typing
    mistakes: one wrong, missing, doubled or swapped letter, two in longer words, three in long
    ones. Last, names of which the word has every part and more.
    """
    plain, names = _plain(word), [(name, _plain(name)) for name in known]
    if not plain:
        return ""
    for fits in (_begins, _has_part):
        if found := [name for name, text in names if fits(text, plain)]:
            return max(found, key=lambda name: _likeness(plain, _plain(name)))
    best, least = "", (0.0, 0.0)
    for name, text in names:
        wrong = min(_mistakes(plain, part) for part in _beginnings(text, plain))
        if wrong > _forgiven(plain) or (len(plain) < SHORTEST_PART and plain[0] != text[:1]):
            continue
        rank = (wrong, -_likeness(plain, text))
        if not best or rank < least:
            best, least = name, rank
    within = [name for name, text in names if not best and _is_all_in(text, plain)]
    return max(within, key=lambda name: _likeness(plain, _plain(name)), default=best)


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")


def _begins(name: str, word: str) -> bool:
    """Whether a name begins with the word; one of three letters must be half of it (`box` of
    `boxes`).
    """
    enough = len(word) >= SHORTEST_PART or (len(word) == 3 and len(name) <= 2 * len(word))
    return enough and name.startswith(word)


def _has_part(name: str, word: str) -> bool:
    """Whether the word begins at a part of a name: `label` of `single_label`, not `rect` of
    `direct`.
    """
    at_a_part = rf"(?<![^\W_]){re.escape(word)}"
    return len(word) >= SHORTEST_PART and re.search(at_a_part, name) is not None


def _is_all_in(name: str, word: str) -> bool:
    """Whether the parts of a name, two or more, are all in the word in their order: who writes
    `on_predict_batch_begin_end` knows `on_predict_end`.
    """
    parts, rest = _parts(name), iter(_parts(word))
    return len(parts) > 1 and all(part in rest for part in parts)


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[\W_]+", name) if part]


def _beginnings(name: str, word: str) -> set[str]:
    """A name, and where the word is long enough to tell it, its first parts too: `torchvision` of
    `torchvision:retinanet`.
    """
    ends = [cut.start() for cut in re.finditer(r"[\W_]", name)]
    return {name, *(name[:end] for end in ends if len(word) > SHORTEST_PART)}


def _forgiven(word: str) -> int:
    """Mistakes that a word of its length may have."""
    return 1 if len(word) <= 5 else 2 if len(word) <= 9 else 3


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, other, one).ratio()


def _mistakes(one: str, other: str) -> int:
    """Letters inserted, left out, replaced, or swapped with their neighbour, at least (optimal
    string alignment distance).
    """
    if abs(len(one) - len(other)) > _forgiven(one):
        return len(one) + len(other)
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        before, last, row = row, before, [i]
        for j, b in enumerate(other, 1):
            least = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                least = min(least, last[j - 2] + 1)
            row.append(least)
    return row[-1]
