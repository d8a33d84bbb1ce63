"""Which rooms of the engine can alter the result of which stage: the table behind "only real
changes make a stage run again".

A stage's code is what `engine.stages.NAME` imports, as far as it lies in a room of the stage's row.
Everything else (plots, HTML, progress, tracking, the command line, locks, what drives DVC and git)
shows, records or guards results and cannot alter one. tests/code/test_rooms.py runs every stage and
holds this table against the functions that were called.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from engine.code.closure import Closure, Sources, closure, digests

EVERYWHERE = {"boxes", "types", "stages.layout"}  # layout rounds the metrics of every report
DETECTOR = {"core", "data", "models", "metrics", "detect"}

# stage -> rooms (or single modules) below `engine` of which its result follows. Stages after
# prepare read what it made, so `datasets` is not among theirs.
ROOMS: dict[str, set[str]] = {
    "prepare": {"data", "datasets", "stages.prepare"},
    "train": {*DETECTOR, "stages.train", "stages.start_weights", "model_formats.safetensors"},
    "validate": {*DETECTOR, "stages.validate"},
    "export": {*DETECTOR, "export", "model_formats", "stages.export"},
    "register": {"data", "registry", "tracking.run_metadata", "stages.register"},
}

# Without influence on any result, also inside the rooms above; why. Of an entry here and one of a
# stage's row the longer counts, and the row where they are equal.
HARMLESS = {
    "cli": "what people type and read",
    "code": "reads sources, this table among them",
    "errors": "messages",
    "files": "writes what it is given, whole",
    "lineage": "traces results",
    "locks": "keep other processes out",
    "model_formats": "writes and opens files that only some stages do",
    "moved": "names the new place of an old module",
    "plots": "draws results",
    "project": "environment and locks",
    "stages.code": "writes down what counts here",
    "stages.runner": "the frame around a stage",
    "tracking": "records results",
    "version": "a name",
    "versioning": "asks DVC and git",
    "core.old_names": "refuses what nothing calls",
    "core.peer_failure": "ends a rank whose peer has failed",
    "core.progress": "shows the epoch",
    "plugins": "finds the user's code, which counts itself",
    "datasets.open": "hands on a prepared folder; what else it prepares is of stage prepare",
    "datasets.reports": "pages and texts about a dataset",
    "detect.batch_plots": "draws batches",
    "detect.data": "hands on a prepared folder",
    "detect.epoch_images": "draws predictions while it trains",
    "metrics.headlines": "names and texts for readers",
    "registry.fetch": "reads versions, makes none",
    "registry.version_description": "a text for readers",
}

# Of the detector's rooms, what only a training calls: a family names its loss beside its decoding.
TRAIN_ALONE = {"models.yolov8.assign", "models.yolov8.loss"}

# Modules that no import leads to: MLflow takes the served model's code as a file, and weights to
# start from are read through the table of formats, which alters nothing.
NOT_IMPORTED = {
    "train": ("engine.model_formats.safetensors",),
    "register": ("engine.registry.pyfunc_model",),
}
FAMILY = "engine.models."  # each folder below it with a module `family` is one family of networks


def package_folder() -> Path:
    """The folder in which the running engine lies."""
    return Path(__file__).resolve().parents[2]


def code_of_stage(stage: str, sources: Sources, family: str | None = None) -> dict[str, str]:
    """module -> digest of what it does, of all modules that can alter the result of `stage`.

    family: the folder of the one family of networks that is used, None where all may be.

    Raises:
        ConfigError: a source is no Python.
    """
    reached = closure_of_stage(stage, sources, family)
    found = digests(sources, reached.modules) | _of_settings(reached, sources)
    return dict(sorted(found.items()))


def closure_of_stage(stage: str, sources: Sources, family: str | None = None) -> Closure:
    """The modules that count for `stage`, and the imports that lead out of them."""
    starts = (f"engine.stages.{stage}", *NOT_IMPORTED.get(stage, ()))
    return closure(
        sources,
        starts,
        lambda module: counts(stage, module) and not _is_other_family(module, family, sources),
    )


def counts(stage: str, module: str) -> bool:
    """Whether a module of the engine can alter the result of `stage`."""
    below = module.removeprefix("engine.")
    if below == module:
        return False
    if stage != "train" and below in TRAIN_ALONE:
        return False
    counting = _longest(below, ROOMS[stage] | EVERYWHERE)
    return counting > 0 and counting >= _longest(below, HARMLESS)


def _longest(module: str, rooms: Iterable[str]) -> int:
    """The length of the longest entry in which the module lies, 0 where there is none."""
    own = (len(room) for room in rooms if module == room or module.startswith(f"{room}."))
    return max(own, default=0)


def family_folder(model: str, sources: Sources) -> str | None:
    """The family folder whose name `model` begins with; None where the name does not say, as of a
    checkpoint.
    """
    if "/" in model or Path(model).suffix:
        return None
    engine = sources.find("engine")
    names = [f.name for f in (engine.parent / "models").iterdir() if f.is_dir()] if engine else []
    return next((name for name in sorted(names, reverse=True) if model.startswith(name)), None)


def _is_other_family(module: str, family: str | None, sources: Sources) -> bool:
    folder = module.removeprefix(FAMILY).partition(".")[0]
    return (
        family is not None
        and module.startswith(FAMILY)
        and folder != family
        and sources.find(f"{FAMILY}{folder}.family") is not None
    )


def _of_settings(reached: Closure, sources: Sources) -> dict[str, str]:
    """What the modules use of `engine.config`: only the named functions, values and methods, for a
    change of another section's settings is none of this stage's.
    """
    wanted: dict[str, set[str]] = {}
    waiting = [pair for pair in reached.outside if pair[0].module.startswith("engine.config")]
    seen = set()
    while waiting:
        pair = waiting.pop()
        if pair in seen:
            continue
        seen.add(pair)
        found, importer = pair
        for module, follow in sources.behind(found, importer):
            if not follow or not module.startswith("engine.config"):
                continue
            wanted.setdefault(module, set()).add(found.name)
            _, imports = sources.definitions(module, {found.name})
            waiting += [(each, module) for each in imports]
    return {module: sources.definitions(module, names)[0] for module, names in wanted.items()}
