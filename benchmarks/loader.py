"""How many images a second the loader brings to the device, by cache, workers and augmentation; to
choose `cache` and `workers` of training.

    python benchmarks/loader.py key=value ...

    data=data/prepared     dataset description .yaml, prepared folder, or folder of labelled images
    split=train
    cache=none,ram,disk    none decodes every time; ram and disk keep decoded uint8 images
    workers=0,1,2          loader processes
    augment=true,false     true as in training, false as in validation
    images=512             so many of the split; 0 all
    epochs=3               the first fills the cache, the others use it
    format=text            text, json

It measures the loader that training uses, on the user's own images and machine; no model is built.
imgsz, batch, device, seed and augmentation are those of section train of params.yaml, if not given.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from engine.config import parse_overrides
from engine.errors import ConfigError, EngineError, nearest
from engine.settings.base import parse_value
from engine.types import SPLITS

if TYPE_CHECKING:
    from engine.types import ImageRecord

FORMATS = ("text", "json")
MOST_WORKERS = 64
TRAIN_KEYS = ("imgsz", "batch", "device", "seed")  # as in section train
DEFAULTS = {
    "data": None,
    "split": "train",
    "cache": ["none", "ram", "disk"],
    "workers": [0, 1, 2],
    "augment": [True, False],
    "images": 512,
    "epochs": 3,
    "format": "text",
}


class Speed(NamedTuple):
    """One line of the table."""

    cache: str
    workers: int
    augment: bool
    first_batch_s: (
        float  # until the first batch is on the device: the start of the workers is in it
    )
    first_epoch: float  # images/s, with that start, nothing cached
    later_epochs: float  # images/s


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    options, train = _options(parse_overrides(argv))
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    config, source = _set_up(options["data"], train)
    from engine.core.distributed import select_device
    from engine.data.manifest import read_manifest
    from engine.datasets.open import open_dataset

    device = select_device(config.device)
    records = read_manifest(open_dataset(source).manifest(options["split"]))
    if options["images"]:
        records = records[: options["images"]]
    rows = []
    for cache in options["cache"]:
        for workers in options["workers"]:
            for augment in options["augment"]:
                rows.append(
                    measure(records, config, cache, workers, augment, options["epochs"], device)
                )
    about = {
        "data": source,
        "split": options["split"],
        "images": len(records),
        "imgsz": list(config.input_size),
        "batch": config.batch,
        "device": str(device),
        "epochs": options["epochs"],
    }
    if options["format"] == "json":
        print(json.dumps({**about, "rows": [row._asdict() for row in rows]}, indent=2))
    else:
        print(table(about, rows))
    return 0


def measure(
    records: Sequence[ImageRecord],
    config: Any,
    cache: str,
    workers: int,
    augment: bool,
    epochs: int,
    device: Any,
) -> Speed:
    """One loader over `epochs` epochs, each batch brought to `device` as uint8. A disk cache starts
    empty and is removed.
    """
    from engine.data.dataset import DetectionDataset
    from engine.data.loader import build_loader
    from engine.data.transforms import Augment
    from engine.datasets.source import default_cache_dir
    from engine.detect.trainer import AUGMENT_KEYS

    place = default_cache_dir()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmark-", dir=place) as folder:
        dataset = DetectionDataset(
            records,
            config.input_size,
            augment=Augment(**{key: getattr(config, key) for key in AUGMENT_KEYS})
            if augment
            else None,
            seed=config.seed,
            cache=cache,
            cache_dir=folder if cache == "disk" else None,
        )
        loader = build_loader(
            dataset,
            config.batch,
            shuffle=augment,
            workers=workers,
            seed=config.seed,
            pin_memory=device.type == "cuda",
        )
        try:
            passes = [_epoch(loader, epoch, device) for epoch in range(epochs)]
        finally:
            loader.close()
    (first_batch_s, first_s), later_s = passes[0], sum(seconds for _, seconds in passes[1:])
    return Speed(
        cache,
        workers,
        augment,
        first_batch_s,
        len(records) / first_s,
        (epochs - 1) * len(records) / later_s,
    )


def _epoch(loader: Any, epoch: int, device: Any) -> tuple[float, float]:
    """Seconds to the first batch, and to the last."""
    loader.sampler.set_epoch(epoch)
    started, first_s = time.perf_counter(), None
    for batch in loader:
        batch["img"].to(device, non_blocking=True)
        first_s = time.perf_counter() - started if first_s is None else first_s
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return first_s or 0.0, time.perf_counter() - started


def table(about: Mapping[str, Any], rows: Sequence[Speed]) -> str:
    """What was measured, then a line for each loader."""
    height, width = about["imgsz"]
    lines = [
        f"{about['images']} images of {about['data']} ({about['split']}), {height} x {width} px, "
        f"batch {about['batch']}, uint8 to {about['device']}; images/s",
        "",
        f"{'cache':<7}{'workers':>8}{'augment':>9}{'first batch, s':>16}"
        + f"{'first epoch':>13}{'later epochs':>14}",
    ]
    for row in rows:
        lines.append(
            f"{row.cache:<7}{row.workers:>8}{'yes' if row.augment else 'no':>9}"
            f"{row.first_batch_s:>16.2f}"
            f"{row.first_epoch:>13.0f}{row.later_epochs:>14.0f}"
        )
    return "\n".join(lines)


def _options(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments with their defaults, and those of section train."""
    from engine.data.cache import MODES

    for key in given:
        if key not in DEFAULTS and key not in TRAIN_KEYS:
            raise ConfigError(f"unknown key '{key}'.{nearest(key, [*DEFAULTS, *TRAIN_KEYS])}")
    options = {key: given.get(key, default) for key, default in DEFAULTS.items()}
    for key in ("cache", "workers", "augment"):
        options[key] = _several(options[key])
    _among("cache", options["cache"], MODES)
    _among("augment", options["augment"], (True, False))
    _among("format", [options["format"]], FORMATS)
    _among("split", [options["split"]], SPLITS)
    for key, least in (
        ("workers", 0),
        ("images", 0),
        ("epochs", 2),
    ):  # one epoch would show no cache at work
        for value in options[key] if key == "workers" else [options[key]]:
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"{key}={value}: expected a whole number, {least} or more")
    if (most := max(options["workers"], default=0)) > MOST_WORKERS:
        raise ConfigError(f"workers={most}: expected {MOST_WORKERS} or less, as in training")
    return options, {key: given[key] for key in TRAIN_KEYS if key in given}


def _several(value: Any) -> list[Any]:
    """`0,1,2`, `[0,1,2]` and `0` alike are lists."""
    if isinstance(value, str):
        return [parse_value(part.strip()) for part in value.split(",")]
    return list(value) if isinstance(value, list | tuple) else [value]


def _among(key: str, values: Sequence[Any], known: Sequence[Any]) -> None:
    for value in values:
        if value not in known:
            shown = ", ".join(str(each).lower() for each in known)
            raise ConfigError(
                f"{key}={value}.{nearest(str(value), map(str, known))} There are: {shown}"
            )


def _set_up(data: Any, train: Mapping[str, Any]) -> tuple[Any, str]:
    """The settings of training, those of the project where there is one, and the dataset."""
    from engine.config import Params
    from engine.config.schema import SECTIONS
    from engine.project.environment import NoProject, prepare_environment
    from engine.stages.layout import Layout

    root = None
    with contextlib.suppress(NoProject):  # any dataset can be measured outside a project
        root = prepare_environment()
    base = Params.load(root / "params.yaml").train if root else SECTIONS["train"]()
    config = base.with_overrides(train)
    if config.batch < 1:
        raise ConfigError(
            f"batch={config.batch} is found in training; give a number, for example batch=16"
        )
    if data is not None:
        return config, str(data)
    prepared = Layout(root).prepared if root else None
    if prepared is None or not (prepared / "dataset.json").is_file():
        where = (
            f"{prepared}: no prepared dataset"
            if prepared
            else f"{Path.cwd()}: no project here or above"
        )
        raise ConfigError(
            f"{where}. Prepare it (`detectflow run`) or bring it (`dvc pull`), or name a dataset: "
            "`data=data/digits.yaml`"
        )
    return config, str(prepared)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except EngineError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
