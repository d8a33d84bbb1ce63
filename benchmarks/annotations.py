"""How much memory and time large annotation files take: a COCO file and a Label Studio export,
written here, read through.

Run: `python benchmarks/annotations.py [boxes, 200000]`. Each number comes from a process of its
own. Beside each reader stands `json.load` of the same file, which is what reading it whole would
cost before anything was done with it.
"""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

BOXES_PER_IMAGE = 10
POLYGON_NUMBERS = 46  # of COCO's segmentation, as many as its own have on average


def write_coco(file: Path, boxes: int) -> None:
    rng = random.Random(0)
    with file.open("w") as out:
        out.write('{"info": {}, "images": [')
        for i in range(boxes // BOXES_PER_IMAGE):
            out.write(
                ", " * (i > 0)
                + json.dumps({"file_name": f"{i}.jpg", "height": 480, "width": 640, "id": i})
            )
        out.write('], "annotations": [')
        for i in range(boxes):
            box = [round(rng.random() * 500, 2), round(rng.random() * 400, 2), 40.5, 33.25]
            polygon = [round(rng.random() * 600, 2) for _ in range(POLYGON_NUMBERS)]
            entry = {
                "segmentation": [polygon],
                "area": 702.1,
                "iscrowd": 0,
                "image_id": i // BOXES_PER_IMAGE,
                "bbox": box,
                "category_id": i % 80 + 1,
                "id": i + 1,
            }
            out.write(", " * (i > 0) + json.dumps(entry))
        categories = [{"id": k + 1, "name": f"class {k}"} for k in range(80)]
        out.write(f'], "categories": {json.dumps(categories)}}}')


def write_studio(file: Path, boxes: int) -> None:
    rng = random.Random(0)
    with file.open("w") as out:
        out.write("[")
        for i in range(boxes // BOXES_PER_IMAGE):
            regions = []
            for k in range(BOXES_PER_IMAGE):
                value = {
                    "x": rng.random() * 50,
                    "y": rng.random() * 50,
                    "width": 10.5,
                    "height": 20.25,
                    "rotation": 0,
                    "rectanglelabels": ["a"],
                }
                regions.append(
                    {
                        "original_width": 640,
                        "original_height": 480,
                        "value": value,
                        "id": f"{i}_{k}",
                        "type": "rectanglelabels",
                        "from_name": "label",
                        "to_name": "image",
                    }
                )
            answer = {
                "id": i,
                "result": regions,
                "was_cancelled": False,
                "updated_at": "2024-01-01T00:00:00Z",
            }
            task = {
                "id": i,
                "annotations": [answer],
                "data": {"image": f"/data/upload/1/abcdef12-{i}.jpg"},
                "predictions": [],
            }
            out.write(", " * (i > 0) + json.dumps(task))
        out.write("]")


WRITE: dict[str, Callable[[Path, int], None]] = {"coco": write_coco, "labelstudio": write_studio}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, format: str, way: str) -> None:
    """In a process of its own: CPU seconds, memory before and at most, boxes."""
    from engine.datasets.findings import Findings
    from engine.datasets.formats import detect_format, open_reader
    from engine.datasets.formats.folder import Folder

    files = Folder(folder)
    files.images_ending("0.jpg")  # the index of names, which any reader needs
    before, started, boxes = peak_mb(), time.process_time(), 0
    if way == "reader":
        assert detect_format(files) == format
        boxes = sum(
            len(image.rows) for image in open_reader(files, format, Findings.with_policies({}))
        )
    else:
        with (folder / "instances.json").open() as file:
            json.load(file)
    values = {
        "s": time.process_time() - started,
        "before_mb": before,
        "more_mb": peak_mb() - before,
        "boxes": boxes,
    }
    print(json.dumps(values))


def main(boxes: int) -> None:
    print(
        "| file | MB | boxes | way | CPU seconds | MB before | MB more "
        "|\n|---|---|---|---|---|---|---|"
    )
    for format, write in WRITE.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            write(folder / "instances.json", boxes)
            for i in range(boxes // BOXES_PER_IMAGE):
                (folder / f"{i}.jpg").touch()
            size = (folder / "instances.json").stat().st_size / 1e6
            for way in ("json.load", "reader"):
                done = subprocess.run(
                    [sys.executable, __file__, place, format, way],
                    capture_output=True,
                    text=True,
                    check=True,
                )
                v = json.loads(done.stdout)
                print(
                    f"| {format} | {size:.0f} | {boxes:,} | {way} | {v['s']:.1f} | "
                    f"{v['before_mb']:.0f} | {v['more_mb']:.0f} |"
                )
                assert way != "reader" or v["boxes"] == boxes


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(Path(sys.argv[1]), *sys.argv[2:])
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
