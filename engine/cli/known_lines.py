"""Command lines as other trainers have them: each is answered with the line that means the same
here. Nothing is run that was not asked for in our words.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection

from engine.errors import ConfigError

KEY_VALUE = ("train", "val", "predict", "track", "export", "tune")  # modes without --options
TASKS = ("detect", "segment", "classify", "pose", "obb")  # first words of `yolo TASK MODE ...`
# Commands of other trainers, and what does the same here.
KNOWN_MODES = {
    "benchmark": "it is a script now: python benchmarks/loader.py key=value ...",
    "checks": "`make test` tests an installation; `detectflow version` says which it is",
    "settings": "there are none outside the project: params.yaml, and `detectflow help train`",
    "cfg": "`detectflow help train` lists the settings, `detectflow schema` prints them",
    "copy-cfg": "params.yaml holds the settings that differ; `detectflow schema` prints all",
    "solutions": "`detectflow track` follows objects; what is made of it is up to you",
    "hub": "nothing is sent anywhere: `detectflow ui` shows runs and models on this machine",
    "login": "nothing is sent anywhere: `detectflow ui` shows runs and models on this machine",
    "evolve": "`detectflow tune` searches for settings",
    "test": "`detectflow val split=test` measures a model",
    "detect": "a mode is missing after it: `detectflow predict source=...` finds objects",
    "download": "weights are given as a file: model=FILE",
}


def in_our_words(argv: list[str], modes: Collection[str]) -> list[str]:
    """`argv`, unless it is a line of another trainer's: then it is refused with the one that means
    the same here.

    Raises:
        ConfigError: `yolo detect train data=...`, `train --epochs 3`, `task=detect mode=train`.
    """
    rest = argv[1:] if argv[0].lower() == "yolo" and len(argv) > 1 else argv
    task = next((word for word in TASKS if word in (rest[0], rest[0].removeprefix("task="))), None)
    if task and len(rest) > 1:
        rest = rest[1:]
    named = next((w for w in rest if w[:5] == "mode=" and w[5:] in modes), None)
    if named and rest[0] not in modes:  # the order does not matter there
        others = [word for word in rest if word != named and not word.startswith("task=")]
        rest = [named.removeprefix("mode="), *others]
    if task in TASKS[1:] and rest[0] in modes:
        raise ConfigError(f"no mode '{argv[0]}': only detectors are trained here, no task {task}")
    rest = _without_dashes(rest)
    if rest == argv or rest[0] not in modes:
        return argv
    raise ConfigError(
        f"'{shlex.join(argv)}' is written otherwise here: detectflow {shlex.join(rest)}"
    )


def _without_dashes(argv: list[str]) -> list[str]:
    """`train --epochs 3 --cos-lr` as `train epochs=3 cos-lr=true`, for modes that take key=value
    only.
    """
    mode, *words = argv
    if mode not in KEY_VALUE or "--help" in words or not any(w[:2] == "--" for w in words):
        return argv
    taken = [mode]
    for word in words:
        if word.startswith("--"):
            key, _, value = word[2:].partition("=")
            taken.append(f"{key.replace('-', '_')}={value or 'true'}")
        elif taken[-1].endswith("=true") and "=" not in word and len(taken) > 1:
            taken[-1] = f"{taken[-1].removesuffix('true')}{word}"
        else:
            taken.append(word)
    return taken
