"""models: which networks there are to train, and weights to start from. import: weights that
another tool wrote, and published ones, as they are.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.arguments import text_of, unknown_key
from engine.config import DetectionTrainConfig, parse_overrides
from engine.errors import ConfigError

if TYPE_CHECKING:
    from engine.detect.import_weights import Imported

HEAD = ("model", "M params", "COCO AP", "weights", "from px", "GB", "here")
NUMBERS = {1, 2, 4, 5}  # columns set to the right
NOTES = """
COCO AP: as published, mAP50-95 on val2017. from px: smallest input side.
GB: memory of a training batch of 16 at 640 px.
Others: hf:ORG/NAME, hf:./FOLDER, torchvision:NAME, backbone=timm:NAME, your files and classes.
Which one to start from: docs/howto/pretrained.md"""
IMPORT = ("family", "licence", "names", "imgsz", "out")  # of a file
PUBLISHED = ("accept_licence", "imgsz", "out")


def import_weights(argv: Sequence[str]) -> int:
    """`detectflow import FILE family=yolov8 licence=NAME [names=[...]] [imgsz=SIDE] [out=FILE]`,
    `detectflow import hf:ORG/NAME [accept_licence=NAME] [imgsz=SIDE] [out=FILE]`
    """
    files = [word for word in argv if "=" not in word]
    if len(files) != 1:
        raise ConfigError(
            "import: give one file, for example weights.pt, or a name, for example "
            "hf:ustc-community/dfine-nano-coco"
        )
    words = [word for word in argv if "=" in word]
    texts = {"family", "licence", "out", "accept_licence"}
    given = parse_overrides(words, DetectionTrainConfig, texts=texts)
    from engine.detect.import_weights import is_published

    allowed = PUBLISHED if is_published(files[0]) else IMPORT
    for key in given:
        if key not in allowed:
            raise unknown_key("import", key, allowed)
    if is_published(files[0]):
        done = _published(files[0], given)
    else:
        done = _foreign(Path(files[0]).expanduser(), given)
    classes = ", ".join(done.names[:5]) + (", ..." if len(done.names) > 5 else "")
    print(
        f"{done.path}: {done.network}, {len(done.names)} classes ({classes}), "
        f"{done.imgsz[0]} px{' (assumed: imgsz= sets it)' if done.is_assumed else ''}"
    )
    print(f"Licence {done.licence}, recorded with every model that is trained from it.")
    print(f"  detectflow val model={done.path} data=DATASET")
    print(f"  detectflow train model={done.path} data=DATASET")
    return 0


def _published(model: str, given: dict[str, Any]) -> Imported:
    from engine.detect.import_weights import import_published, short_name
    from engine.project.environment import NoProject, prepare_environment

    with contextlib.suppress(NoProject):  # the project's folder of published weights, if any
        prepare_environment()
    accepted = text_of("import", "accept_licence", given.get("accept_licence"))
    out, imgsz = _out(given, short_name(model)), _side(given.get("imgsz"))
    return import_published(model, out, imgsz, accepted)


def _foreign(path: Path, given: dict[str, Any]) -> Imported:
    for key, example in {"family": "yolov8", "licence": "AGPL-3.0"}.items():
        if not text_of("import", key, given.get(key)):
            raise ConfigError(
                f"import: no {key} given, for example {key}={example}"
                + (": that under which you have the weights" if key == "licence" else "")
            )
    from engine.detect.import_weights import import_weights as bring

    return bring(
        path,
        str(given["family"]),
        str(given["licence"]),
        _out(given, path.stem),
        _names(given.get("names")),
        _side(given.get("imgsz")),
    )


def _out(given: dict[str, Any], name: str) -> Path:
    out = Path(text_of("import", "out", given.get("out")) or Path("models") / f"{name}.pt")
    if out.suffix.lower() != ".pt":
        raise ConfigError(f"import: out={out}: the file is a checkpoint, its name ends in .pt")
    return out


def _names(value: Any) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        raise ConfigError(f"import: names={value!r}, expected a list, for example names=[cat,dog]")
    return [str(each) for each in value]


def _side(value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ConfigError(f"import: imgsz={value!r}, expected pixels, for example imgsz=640")


def models(argv: Sequence[str]) -> int:
    """`detectflow models`"""
    if argv:
        raise ConfigError(f"models: takes nothing, got {' '.join(argv)}")
    from engine.models.catalogue import CATALOGUE
    from engine.models.hub.files import START, cache_dir, name_of, sources_in
    from engine.project.environment import NoProject, prepare_environment

    with contextlib.suppress(NoProject):  # the list is the same anywhere
        prepare_environment()
    here = {
        name_of(source).partition("@")[0] for source in sources_in((START, cache_dir() / "hub"))
    }
    rows = [HEAD]
    for entry in CATALOGUE:
        rows.append(
            (
                entry.name,
                f"{entry.params:.1f}",
                "-" if entry.ap is None else f"{entry.ap:.1f}",
                entry.licence if entry.ap is not None else "(fresh weights)",
                str(entry.smallest_px),
                f"{entry.memory_gb:.0f}",
                "yes" if entry.name.partition("@")[0] in here else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if column in NUMBERS else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    print(NOTES)
    return 0
