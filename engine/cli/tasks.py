"""tasks: what is worth labelling or relabelling next, as files for an annotation tool."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.cli.arguments import take
from engine.config import Params, ValidateConfig, parse_overrides
from engine.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from engine.labelling.files import Tool
    from engine.labelling.task import Task

EXTRA = {
    "model": "weights/best.pt",
    "data": None,
    "unlabelled": None,
    "format": "cvat",
    "number": "50",
    "copy": None,
    "out": None,
    "split": "all",
}
RELABEL, LABEL = "relabel", "label"  # folders below `out`


def tasks(argv: Sequence[str]) -> int:
    """`detectflow tasks [model=MODEL] [unlabelled=FOLDER] [format=FORMAT] out=FOLDER key=value
    ...`
    """
    given = parse_overrides(argv, ValidateConfig, texts=EXTRA.keys() - {"copy"})
    copy = given.pop("copy", False)
    if not isinstance(copy, bool):
        raise ConfigError(f"tasks: copy={copy!r}, expected true or false")
    extra = take(given, "tasks", EXTRA, ValidateConfig)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    from engine.datasets.convert import refuse_inside
    from engine.error_analysis.report import key_of
    from engine.files import publish_folder
    from engine.labelling.collect import (
        SHOWN_SCORE,
        splits_of,
        tasks_of_folder,
        tasks_of_labelled,
    )
    from engine.labelling.files import TOOLS, write_tasks
    from engine.project.environment import prepare_environment, state_root

    root = prepare_environment()
    tool, out, number = _tool(extra["format"], TOOLS), _out(extra["out"]), _number(extra["number"])
    splits = splits_of(str(extra["split"]))
    folder = Path(extra["unlabelled"]).expanduser() if extra["unlabelled"] else None
    for place in filter(None, (folder, root / "data/prepared")):
        refuse_inside(out, place)
    from engine.comparison.models import find_model

    model = find_model(str(extra["model"]), root)
    data = _dataset(extra["data"], root, needed=folder is None)
    params = Params.load(root / "params.yaml") if (root / "params.yaml").is_file() else Params()
    settings = params.validate_.with_overrides(given, "tasks")
    relabel: list[Task] = []
    confidence, known = SHOWN_SCORE, {}
    if data is not None:
        relabel, confidence = tasks_of_labelled(
            model, data, splits, settings, number, state_root(root)
        )
        known = {r.sha256: key_of(r) for split in splits_of("all") for r in data.records(split)}
    new: list[Task] = []
    names = data.names if data is not None else ()
    if folder is not None:
        new, model_names, left_out = tasks_of_folder(
            model, folder, settings.device, number, known, confidence
        )
        names = names or model_names
        if left_out:
            print(f"{left_out} images of {folder} are in the dataset already, and left out")
    parts = {name: part for name, part in ((RELABEL, relabel), (LABEL, new)) if part}
    if not parts:
        print("Nothing to do: the model is never wrong where there are labels, and no image is new")
        return 0
    with publish_folder(out) as fresh:
        for name, part in parts.items():
            (fresh / name).mkdir()
            write_tasks(fresh / name, tool, part, names, model.name, copy)
    for name, part in parts.items():
        _say(out / name, part, tool, copy)
    return 0


def _say(place: Path, part: Sequence[Task], tool: Tool, copy: bool) -> None:
    counts = Counter(task.why for task in part)
    whys = ", ".join(f"{count} {why}" for why, count in counts.items())
    print(f"{(place / tool.main).as_posix()}: {len(part)} images ({whys}); the reasons: tasks.csv")
    print(f"  {tool.how.format(root=_root_of(place, part, copy))}")


def _root_of(place: Path, part: Sequence[Task], copy: bool) -> str:
    import os

    return str(place.resolve()) if copy else os.path.commonpath([t.file.parent for t in part])


def _tool(name: str, tools: dict[str, Tool]) -> Tool:
    if name not in tools:
        raise ConfigError(
            f"tasks: format={name}.{nearest(name, tools)} There are: {', '.join(tools)}"
        )
    return tools[name]


def _out(text: str | None) -> Path:
    if not text:
        raise ConfigError("tasks: no out given, a folder that does not exist yet: out=runs/tasks")
    out = Path(text)
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out}: is there already and is not overwritten; give another out=")
    return out


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ConfigError(f"tasks: number={text}: expected a number of images from 1 up")
    return int(text)


def _dataset(name: str | None, root: Path, needed: bool) -> Any:
    """The labelled dataset; None where there is none and none is needed."""
    from engine.data.manifest import DATASET_FILE
    from engine.detect.data import open_data

    if name is not None:
        return open_data(name)
    prepared = root / "data/prepared"
    if not needed and not (prepared / DATASET_FILE).is_file():
        return None
    return open_data(prepared)
