"""Which rooms of the engine can alter the result of which stage: the table behind "only real
changes make a stage run again".

A stage's code is what `engine.stages.NAME` imports, as far as it lies in a room of the stage's row.
Everything else (plots, HTML, progress, tracking, the command line, locks, what drives DVC and git)
shows, records or guards results and cannot alter one. Code of the user's own may call whatever it
imports of the engine, so that counts whole. tests/code/test_rooms.py runs every stage and holds
this table against the functions that were called.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.code.closure import (
    NONE,
    Closure,
    Sources,
    closure,
    combined,
    digests,
    joined,
)
from engine.code.syntax import Import

EVERYWHERE = {"boxes", "types", "stages.layout"}  # layout rounds the metrics of every report
DETECTOR = {"core", "data", "models", "metrics", "detect"}

# stage -> rooms (or single modules) below `engine` of which its result follows. Stages after
# prepare read what it made, so `datasets` is not among theirs.
ROOMS: dict[str, set[str]] = {
    "prepare": {"data", "datasets", "stages.prepare"},
    "train": {*DETECTOR, "stages.train", "stages.start_weights"},
    "validate": {
        *(*DETECTOR, "difference", "error_analysis", "gates.statistics"),
        *("datasets.label_errors", "stages.validate"),
    },
    "export": {*DETECTOR, "export", "model_formats", "stages.export"},
    "register": {
        *DETECTOR,  # it measures
        *("comparison", "difference", "gates", "registry", "tracking.run_metadata"),
        "stages.register",
    },
}

# Without influence on any result, also inside the rooms above; why. Of an entry here and one of a
# stage's row the longer counts, and the row where they are equal.
HARMLESS = {
    "comparison.text": "tables for readers",
    "cli": "what people type and read",
    "code": "reads sources, this table among them",
    "errors": "messages",
    "export.latency": "times a file, for readers",
    "files": "writes what it is given, whole",
    "lineage": "traces results",
    "locks": "keep other processes out",
    "markdown": "how words are shown",
    "model_formats": "writes and opens files that only some stages do",
    "moved": "names the new place of an old module",
    "plots": "draws results",
    "report": "pages about results",
    "project": "environment and locks",
    "stages.code": "writes down what counts here",
    "stages.own_code": "finds the user's code, which counts itself",
    "stages.progress": "shows how far a stage is",
    "stages.runner": "the frame around a stage",
    "tracking": "records results",
    "signals": "when an interrupt is raised",
    "version": "a name",
    "versioning": "asks DVC and git",
    "core.old_names": "refuses what nothing calls",
    "core.peer_failure": "ends a rank whose peer has failed",
    "core.progress": "shows the epoch",
    "core.run_lock": "keeps other processes out of the run's folder",
    "plugins": "finds the user's code, which counts itself",
    "datasets.open": "hands on a prepared folder; what else it prepares is of stage prepare",
    "datasets.reports": "pages and texts about a dataset",
    "error_analysis": "says for readers what goes wrong; of stage validate it is the result",
    "error_analysis.pictures": "draws images",
    "detect.batch_plots": "draws batches",
    "detect.data": "hands on a prepared folder",
    "detect.epoch_images": "draws predictions while it trains",
    "detect.first_output": "looks at an output and leaves no trace",
    "detect.methods": "refuses methods that cannot be called",
    "metrics.headlines": "names and texts for readers",
    "registry.fetch": "reads versions, makes none",
    "registry.moves": "what people do by hand",
    "registry.version_description": "a text for readers",
    "registry.version_files": "pages about a version",
}

# Definitions without influence on any result in modules that count, "module:name" or
# "module:Class.name"; why. Where code of the user's own reads the module, they count.
HARMLESS_DEFINITIONS = {
    "core.events:TRAIN_EVENTS": "what is true at each event, for docs; another name is refused",
    "core.events:PREDICT_EVENTS": "the same",
    "core.events:EXPORT_EVENTS": "the same",
    "core.task:TrainingTask.sample_word": "a word in messages",
    "core.task:TrainingTask.memory_advice": "words in a message",
    "detect.trainer:DetectionTrainer.sample_word": "a word in messages",
    "detect.trainer:DetectionTrainer.memory_advice": "words in a message",
    "detect.trainer:DetectionTrainer.plot_training_samples": "draws batches",
    "detect.trainer:DetectionTrainer.plot_metrics": "draws curves",  # the validator's writes tables
    "tracking.run_metadata:origin_tags": "tags of runs; register asks for none of them",
    "tracking.run_metadata:run_name": "a name for readers",
}

# stage -> of its rooms, what it imports and does not call; why.
IDLE: dict[str, dict[str, str]] = {
    "prepare": {"datasets.formats.writers": "writes for `convert`; prepare only reads"},
    "train": {"detect.runtime": "opens a file to run it; a training has its network at hand"},
    "validate": {"detect.runtime": "for exported files; the stage validates the trained weights"},
}
# Methods of a family (`engine.models.family`) that only some stages call, and stage -> those it
# does not: what they alone import is none of its code.
OF_TRAINING = {
    *("check_start", "class_rows", "criterion", "default_lr", "pretrain", "transfer"),
    *("start", "origin", "published", "recipe", "hub_names", "read_foreign"),
}
OF_EXPORT = {"can_export", "export_module", "fuse"}
OF_NETWORK = {"build", "candidates", "forward", "has_loss", "losses", "spec", "spec_of"}
NOT_CALLED = {
    "train": frozenset(OF_EXPORT),
    "validate": frozenset(OF_TRAINING | OF_EXPORT),
    "export": frozenset(OF_TRAINING),
    "register": frozenset(OF_TRAINING | OF_EXPORT | OF_NETWORK),
}
# Code that no import leads to: MLflow takes the served model's code as a file, and weights to start
# from are read through the table of formats, which alters nothing.
NOT_IMPORTED = {
    "train": (
        Import("engine.model_formats.safetensors", "read_safetensors"),
        Import("engine.model_formats.metadata", "decode_meta"),  # class names, what is built
    ),
    "register": (Import("engine.registry.pyfunc_model"), Import("engine.registry.pyfunc_weights")),
}
CONFIG = ("engine.config.", "engine.settings.")
FAMILY = "engine.models."  # each folder below it with a module `family` is one family of networks
# In the package of a family: library whose code is part of its networks -> the setting of section
# train with which it is, `key=WORD` where its value begins so, "" for always.
LIBRARIES = "NETWORKS_OF"
# In the package of a family: whether behind its name and a colon may stand whatever people call
# their networks.
ANY_NAME = "NAMES_ANYTHING"
# What code that cannot be read here may call: that of an installed package.
ANYTHING = (Import("engine.detect.trainer"), Import("engine.models.registry"))


def package_folder() -> Path:
    """The folder in which the running engine lies."""
    return Path(__file__).resolve().parents[2]


def code_of_stage(
    stage: str,
    sources: Sources,
    families: Collection[str] | None = None,
    own: Collection[Import] = (),
    own_names: Collection[str] = (),
) -> dict[str, str]:
    """module -> digest of what it does, of all modules that can alter the result of `stage`.

    families: the folders of the families of networks that are used, None: all may be. own: what
    code of the user's own imports of the engine. own_names: names that such code uses.

    Raises:
        ConfigError: a source is no Python.
    """
    reached = closure_of_stage(stage, sources, families, own)
    parts = _parts(stage, reached, sources, own)
    used = {name for module in parts for name in sources.read(module).used}
    found = digests(sources, reached, users=used | set(own_names)) | parts
    return dict(sorted(found.items()))


def closure_of_stage(
    stage: str,
    sources: Sources,
    families: Collection[str] | None = None,
    own: Collection[Import] = (),
) -> Closure:
    """The modules that count for `stage`, and the imports that lead out of them."""
    reached = closure(
        sources,
        (Import(f"engine.stages.{stage}"), *NOT_IMPORTED.get(stage, ())),
        lambda module: counts(stage, module) and not _is_other_family(module, families, sources),
        lambda module: _not_used(stage, module),
    )
    return joined(reached, closure(sources, own, counts_for_own)) if own else reached


def _not_used(stage: str, module: str) -> frozenset[str]:
    """Definitions in a module of which no result of `stage` follows: `name`, `Class.name`,
    `*.name`.
    """
    places = (entry.partition(":") for entry in HARMLESS_DEFINITIONS)
    names = {name for place, _, name in places if module == f"engine.{place}"}
    methods = NOT_CALLED.get(stage, NONE) if _is_of_family(module) else NONE
    return frozenset(names | {f"*.{name}" for name in methods})


def counts(stage: str, module: str) -> bool:
    """Whether a module of the engine can alter the result of `stage`."""
    below = module.removeprefix("engine.")
    if below == module or below in IDLE.get(stage, ()):
        return False
    counting = _longest(below, ROOMS[stage] | EVERYWHERE)
    return counting > 0 and counting >= _longest(below, HARMLESS)


def counts_for_own(module: str) -> bool:
    """Whether a module can alter a result where code of the user's own leads to it."""
    if module == "engine" or f"{module}.".startswith(CONFIG):
        return False
    below = module.removeprefix("engine.")
    counting = _longest(below, EVERYWHERE.union(*ROOMS.values()))
    return counting >= _longest(below, HARMLESS)


def _longest(module: str, rooms: Iterable[str]) -> int:
    """The length of the longest entry in which the module lies, 0 where there is none."""
    own = (len(room) for room in rooms if module == room or module.startswith(f"{room}."))
    return max(own, default=0)


def family_folders(sources: Sources) -> list[str]:
    """The folders of all families of the engine."""
    engine = sources.find("engine")
    folders = (engine.parent / "models").iterdir() if engine else ()
    return sorted(f.name for f in folders if sources.find(f"{FAMILY}{f.name}.family"))


def family_folder(model: str, sources: Sources) -> str | None:
    """The folder of the family that knows a network by this name (`yolov8n`, `torchvision:NAME`),
    by the names in its sources; None: none of ours, or a file.
    """
    for folder in family_folders(sources):
        if model.startswith(f"{folder}:") and sources.constant(f"{FAMILY}{folder}", ANY_NAME):
            return folder
        if model.startswith(folder):
            place = sources.find(f"{FAMILY}{folder}.family").parent
            modules = [f"{FAMILY}{folder}.{file.stem}" for file in sorted(place.glob("*.py"))]
            name = model.removeprefix(f"{folder}:").partition("@")[0]
            if any(sources.find(m) and sources.holds(m, name) for m in modules):
                return folder
    return None


def families_among(modules: Iterable[str], sources: Sources) -> list[str]:
    """The folders of families in which one of the modules lies."""
    places = {m.removeprefix(FAMILY).partition(".")[0] for m in modules if m.startswith(FAMILY)}
    return [folder for folder in family_folders(sources) if folder in places]


def libraries_of(
    families: Iterable[str], settings: Mapping[str, Any], sources: Sources
) -> list[str]:
    """The libraries whose code is part of the networks of these families, under these settings of
    section train.
    """
    found = set()
    for folder in families:
        for library, setting in (sources.constant(f"{FAMILY}{folder}", LIBRARIES) or {}).items():
            key, _, begins = setting.partition("=")
            value = settings.get(key)
            if not key or (value and str(value).startswith(begins)):
                found.add(library)
    return sorted(found)


def _is_of_family(module: str) -> bool:
    return module.startswith(FAMILY) and module.rpartition(".")[2] == "family"


def _is_other_family(module: str, families: Collection[str] | None, sources: Sources) -> bool:
    folder = module.removeprefix(FAMILY).partition(".")[0]
    return (
        families is not None
        and module.startswith(FAMILY)
        and folder not in families
        and sources.find(f"{FAMILY}{folder}.family") is not None
    )


def _parts(
    stage: str, reached: Closure, sources: Sources, own: Collection[Import]
) -> dict[str, str]:
    """module -> digest of the functions, classes and values that are used of it, of modules that do
    not count whole: of the settings, for a change of another section's settings is none of this
    stage's; what no import leads to; what code of the user's own takes of harmless rooms.
    """
    wanted: dict[str, set[str]] = {}
    found: dict[str, str] = {}
    waiting = [
        (*pair, CONFIG) for pair in reached.outside if f"{pair[0].module}.".startswith(CONFIG)
    ]
    waiting += [(start, "", CONFIG) for start in NOT_IMPORTED.get(stage, ())]
    waiting += [(e, "", CONFIG if f"{e.module}.".startswith(CONFIG) else ("engine.",)) for e in own]
    seen = set()
    while waiting:
        request = import_, importer, within = waiting.pop()
        if request in seen:
            continue
        seen.add(request)
        for module, name, follow, offer in sources.behind(import_, importer):
            if module in reached.modules:
                continue
            if importer and not f"{module}.".startswith(within):
                continue
            if offer is not None:
                wanted.setdefault(module, set()).add(f"{offer.alias}={offer.module}:{offer.name}")
            elif follow and name:
                wanted.setdefault(module, set()).add(name)
                _, imports = sources.definitions(module, {name})
                waiting += [(each, module, within) for each in imports]
            elif follow and module != "engine":
                source = sources.read(module)
                found[module] = source.whole
                waiting += [(each, module, within) for each in source.imports]
    for module, names in wanted.items():
        if module not in found:
            offers = sorted(name for name in names if "=" in name)
            digest, _ = sources.definitions(module, names - set(offers))
            found[module] = combined([digest, offers]) if offers else digest
    return {module: digest for module, digest in found.items() if digest}
