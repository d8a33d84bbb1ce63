"""convert: a labelled dataset in another format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engine.cli.arguments import nested, text_of, unknown_key
from engine.config import DataConfig, parse_overrides
from engine.errors import ConfigError

REQUIRED = {
    "data": "data/bccd.yaml",
    "format": "coco",
    "out": "converted/",
}  # argument -> an example
CORRECTIONS = "corrections"
SETTINGS = ("path", "options", "policies")  # of the data section


def convert(argv: Sequence[str]) -> int:
    """`detectflow convert data=DATASET format=FORMAT out=FOLDER [path=FOLDER]
    [corrections=FOLDER] [policies.KIND=POLICY ...]`
    """
    given = parse_overrides(argv, DataConfig, texts={*REQUIRED, CORRECTIONS})
    corrections = text_of("convert", CORRECTIONS, given.pop(CORRECTIONS, None))
    for key in given:
        if key not in REQUIRED and key.partition(".")[0] not in SETTINGS:
            raise unknown_key("convert", key, [*REQUIRED, *SETTINGS, CORRECTIONS])
    settings = nested({k: v for k, v in given.items() if k not in REQUIRED}, DataConfig())
    for key, example in REQUIRED.items():
        if given.get(key) is None:
            raise ConfigError(f"convert: no {key} given, for example {key}={example}")
    source = DataConfig.build({"source": str(given["data"]), **settings}, "convert")
    from engine.datasets.convert import convert as write

    out = Path(str(text_of("convert", "out", given["out"])))
    done = write(
        str(text_of("convert", "data", given["data"])),
        out,
        str(given["format"]),
        source,
        Path(corrections) if corrections else None,
    )
    for line in done.findings.warnings():
        print(line)
    for what, count in done.lost.items():
        print(f"{given['format']} has no place for {count} x {what}: left out")
    if corrections:
        placed = ", ".join(f"{split} {count}" for split, count in done.splits.items())
        print(
            f"{corrections}: {done.corrected} images of the dataset have its boxes now, "
            f"{done.added} images are new{f' ({placed})' if placed else ''}"
        )
    print(
        f"{done.images} images, {done.boxes} boxes, {len(done.names)} classes as "
        f"{given['format']} in {out}/"
    )
    return 0
