"""Prediction of many images in shards: each a file of JSON lines that is either whole or not there.

A shard that is there already was made by the same weights and settings from the same files (its
name holds a hash of all that), so a run that was interrupted goes on, and one that ran before does
nothing.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import DataError
from engine.files import atomic_write, file_state, sha256_file, write_text

log = logging.getLogger("detectflow")

LIST_SUFFIXES = {".txt", ".jsonl"}
PARTS = "parts"


@dataclass(frozen=True)
class Shard:
    """Some of the images, in order, and where their detections go."""

    number: int
    files: tuple[str, ...]
    out: str


def list_images(source: str | Path) -> list[Path]:
    """The images of a folder with its subfolders, or those that a list names: one path a line, or a
    manifest (JSON lines).

    Raises:
        DataError: nothing there, no image in it, a damaged line.
    """
    from engine.detect.sources import IMAGE_SUFFIXES

    source = Path(source)
    if source.is_dir():
        found = sorted(
            path
            for path in source.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
        )
    elif source.is_file() and source.suffix.lower() in LIST_SUFFIXES:
        found = list(_listed(source))
    elif source.exists():
        raise DataError(
            f"{source}: expected a folder of images, a .txt list of paths or a .jsonl manifest"
        )
    else:
        raise DataError(f"{source}: no such folder or list of images")
    if not found:
        raise DataError(
            f"{source}: no images in it (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    return found


def _listed(path: Path) -> Iterator[Path]:
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        try:
            name = json.loads(text)["image"] if path.suffix == ".jsonl" else text
        except (ValueError, KeyError, TypeError):
            raise DataError(
                f'{path}, line {number}: expected {{"image": PATH, ...}}, found {text[:60]!r}'
            ) from None
        yield path.parent / name


def plan(
    files: Sequence[Path], weights: Path, settings: dict[str, Any], out: Path, shard_size: int
) -> list[Shard]:
    """Shards of `shard_size` images each; their names change with weights, settings and the files'
    `file_state`.
    """
    about = json.dumps([sha256_file(weights), settings], sort_keys=True)
    shards = []
    for number, begin in enumerate(range(0, len(files), shard_size)):
        some = files[begin : begin + shard_size]
        key = hashlib.sha256("\n".join([about, *map(_identity, some)]).encode()).hexdigest()[:12]
        shards.append(
            Shard(number, tuple(map(str, some)), str(out / PARTS / f"{number:05d}-{key}.jsonl"))
        )
    return shards


def _identity(path: Path) -> str:
    try:
        return f"{path} {file_state(path.stat())}"
    except OSError:
        return f"{path} missing"


def predict_shard(shard: Shard, weights: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write the shard unless it is there; {"images": n, "skipped": n, "boxes": n, "status": "ran"
    or "kept"}.
    """
    path = Path(shard.out)
    if not path.is_file():
        _write(shard, weights, settings, path)
        status = "ran"
    else:
        status = "kept"
    rows = read_rows(path)
    return {
        "shard": shard.number,
        "images": sum("error" not in row for row in rows),
        "skipped": sum("error" in row for row in rows),
        "boxes": sum(len(row.get("detections", ())) for row in rows),
        "status": status,
    }


def _write(shard: Shard, weights: Path, settings: dict[str, Any], path: Path) -> None:
    from engine.detect import DetectionPredictor

    predictor = DetectionPredictor(
        {**settings, "model": str(weights), "save": False, "save_json": False, "verbose": False}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path, "w", encoding="utf-8") as file:
        try:
            for result in predictor(list(shard.files), stream=True):
                file.write(result.to_json() + "\n")
        except DataError:  # not one image of this shard can be read; each is named below
            if not predictor.skipped:
                raise
        for item in predictor.skipped:
            file.write(
                json.dumps({"source": item.name, "error": item.reason}, ensure_ascii=False) + "\n"
            )


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def collect(shards: Sequence[Shard], out: Path) -> dict[str, Any]:
    """All shards as one `predictions.jsonl`, and `summary.json`; shards of other weights or
    settings are removed.

    The pieces are appended one at a time: memory stays flat.
    """
    counts: Counter[str] = Counter()
    images = boxes = 0
    skipped: list[dict[str, str]] = []
    with atomic_write(out / "predictions.jsonl", "w", encoding="utf-8") as file:
        for shard in shards:
            for row in read_rows(Path(shard.out)):
                if "error" in row:
                    skipped.append(row)
                    continue
                images += 1
                boxes += len(row["detections"])
                counts.update(box["name"] for box in row["detections"])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    wanted = {Path(shard.out).name for shard in shards}
    for path in (out / PARTS).glob("*.jsonl"):
        if path.name not in wanted:
            path.unlink()
    summary = {
        "images": images,
        "boxes": boxes,
        "classes": dict(counts.most_common()),
        "skipped": skipped,
    }
    write_text(out / "summary.json", json.dumps(summary, indent=2, ensure_ascii=False) + "\n")
    return summary
