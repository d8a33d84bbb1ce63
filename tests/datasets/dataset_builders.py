"""Small labelled datasets in every format, written by hand for the tests of readers and of
prepare.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np

H, W = 32, 64  # powers of two: fractions of the sides are exact in text

Box = tuple[str, tuple[float, float, float, float]]  # class, xyxy pixels

# Six images; together they hold both classes, and one image holds nothing.
CONTENT: dict[str, list[Box]] = {
    "a": [("cat", (4, 2, 20, 30))],
    "b": [("dog", (0, 0, 64, 32)), ("cat", (8, 8, 16, 24))],
    "c": [("dog", (32, 16, 60, 28))],
    "d": [("cat", (1, 1, 9, 9))],
    "e": [("dog", (2, 4, 34, 20))],
    "f": [],
}
SPLIT_OF = {"a": "train", "b": "train", "c": "train", "f": "train", "d": "val", "e": "test"}
NAMES = ["cat", "dog"]


def image_bytes(name: str, h: int = H, w: int = W, suffix: str = ".png") -> bytes:
    """An image that differs for every name, and is the same every time."""
    rng = np.random.default_rng(list(name.encode()))
    image = rng.integers(0, 256, (h, w, 3), np.uint8)
    return cv2.imencode(suffix, image)[1].tobytes()


def put(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def voc_xml(name: str, boxes: list[Box], size: tuple[int, int] | None = (H, W)) -> str:
    objects = "\n".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>"
        for label, (x1, y1, x2, y2) in boxes
    )
    stated = (
        f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
        if size
        else ""
    )
    return f"<annotation>\n<filename>{name}.png</filename>\n{stated}\n{objects}\n</annotation>\n"


def make_voc(root: Path, content: dict[str, list[Box]] | None = None, lists: bool = True) -> Path:
    content = CONTENT if content is None else content
    for name, boxes in content.items():
        put(root / "JPEGImages" / f"{name}.png", image_bytes(name))
        put(root / "Annotations" / f"{name}.xml", voc_xml(name, boxes))
    if lists:
        for split in ("train", "val", "test"):
            names = [name for name in content if SPLIT_OF.get(name, "train") == split]
            put(
                root / "ImageSets" / "Main" / f"{split}.txt", "".join(f"{name}\n" for name in names)
            )
    return root


def coco_json(content: dict[str, list[Box]], first_id: int = 1) -> dict:
    images, annotations = [], []
    for i, (name, boxes) in enumerate(content.items(), first_id):
        images.append({"id": i, "file_name": f"{name}.png", "height": H, "width": W})
        for label, (x1, y1, x2, y2) in boxes:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i,
                    "category_id": 10 * (NAMES.index(label) + 1),  # ids with gaps
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 10 * (i + 1), "name": name} for i, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def make_coco(root: Path, content: dict[str, list[Box]] | None = None) -> Path:
    """One JSON file for each split."""
    content = CONTENT if content is None else content
    for name in content:
        put(root / "images" / f"{name}.png", image_bytes(name))
    for split in ("train", "val", "test"):
        part = {name: boxes for name, boxes in content.items() if SPLIT_OF[name] == split}
        put(root / "annotations" / f"instances_{split}2017.json", json.dumps(coco_json(part)))
    return root


def yolo_text(boxes: list[Box]) -> str:
    rows = []
    for label, (x1, y1, x2, y2) in boxes:
        rows.append(
            f"{NAMES.index(label)} {(x1 + x2) / 2 / W} {(y1 + y2) / 2 / H} {(x2 - x1) / W} "
            f"{(y2 - y1) / H}\n"
        )
    return "".join(rows)


def make_yolo(root: Path, content: dict[str, list[Box]] | None = None) -> Path:
    content = CONTENT if content is None else content
    for name, boxes in content.items():
        put(root / "images" / SPLIT_OF[name] / f"{name}.png", image_bytes(name))
        put(root / "labels" / SPLIT_OF[name] / f"{name}.txt", yolo_text(boxes))
    paths = "".join(f"{split}: images/{split}\n" for split in ("train", "val", "test"))
    put(root / "data.yaml", f"path: ../anywhere/else\n{paths}nc: 2\nnames: [cat, dog]\n")
    return root


def cvat_xml(images: str, labels: list[str] = NAMES, task: str = "") -> str:
    """A CVAT 1.1 document. images: its `<image>` or `<track>` elements."""
    named = "".join(f"<label><name>{label}</name></label>" for label in labels)
    meta = f"<meta><task>{task}<labels>{named}</labels></task></meta>"
    return f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n{meta}\n{images}</annotations>\n'


def cvat_image(
    name: str, shapes: str, subset: str = "", size: tuple[int, int] | None = (H, W)
) -> str:
    stated = f' width="{size[1]}" height="{size[0]}"' if size else ""
    return f'<image id="0" name="{name}"{stated} subset="{subset}">\n{shapes}</image>\n'


def cvat_box(label: str, box: tuple, more: str = "") -> str:
    x1, y1, x2, y2 = box
    return f'<box label="{label}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" occluded="0" {more}></box>\n'


def make_cvat(root: Path, content: dict[str, list[Box]] | None = None) -> Path:
    """One annotations.xml; subsets are the splits."""
    content = CONTENT if content is None else content
    images = ""
    for name, boxes in content.items():
        put(root / "images" / f"{name}.png", image_bytes(name))
        images += cvat_image(
            f"{name}.png", "".join(cvat_box(*box) for box in boxes), SPLIT_OF[name]
        )
    subsets = "".join(f"<subset>{split}</subset>" for split in ("train", "val", "test"))
    put(root / "annotations.xml", cvat_xml(images, task=subsets))
    return root


def studio_region(label: str, box: tuple, **more) -> dict:
    """A rectangle of Label Studio: percent of the image."""
    x1, y1, x2, y2 = box
    value = {
        "x": x1 / W * 100,
        "y": y1 / H * 100,
        "width": (x2 - x1) / W * 100,
        "height": (y2 - y1) / H * 100,
        "rotation": 0,
    }
    region = {
        "id": f"r{label}{x1}",
        "type": "rectanglelabels",
        "from_name": "label",
        "to_name": "image",
        "original_width": W,
        "original_height": H,
        "value": {**value, "rectanglelabels": [label]},
    }
    return {**region, **more}


def studio_task(number: int, image: str, regions: list[dict]) -> dict:
    annotation = {
        "id": number,
        "was_cancelled": False,
        "result": regions,
        "updated_at": "2026-01-01T00:00:00Z",
    }
    return {"id": number, "data": {"image": image}, "annotations": [annotation], "predictions": []}


def make_labelstudio(root: Path, content: dict[str, list[Box]] | None = None) -> Path:
    """One JSON file; images in folders of their split, served from local files."""
    content = CONTENT if content is None else content
    tasks = []
    for number, (name, boxes) in enumerate(content.items(), 1):
        file = f"images/{SPLIT_OF[name]}/{name}.png"
        put(root / file, image_bytes(name))
        tasks.append(
            studio_task(
                number,
                f"/data/local-files/?d=project/{file}",
                [studio_region(*box) for box in boxes],
            )
        )
    put(root / "export.json", json.dumps(tasks))
    return root


def labelme_shape(label: str, box: tuple, **more) -> dict:
    x1, y1, x2, y2 = box
    points = [[x2, y1], [x1, y2]]  # any two opposite corners
    return {"label": label, "points": points, "shape_type": "rectangle", "flags": {}, **more}


def make_labelme(root: Path, content: dict[str, list[Box]] | None = None) -> Path:
    """A JSON file beside each image, in folders of their split."""
    content = CONTENT if content is None else content
    for name, boxes in content.items():
        place = root / "images" / SPLIT_OF[name]
        put(place / f"{name}.png", image_bytes(name))
        about = {
            "version": "5.4.1",
            "flags": {},
            "shapes": [labelme_shape(*box) for box in boxes],
            "imagePath": f"..\\photos\\{name}.png",
            "imageData": None,
            "imageHeight": H,
            "imageWidth": W,
        }
        put(place / f"{name}.json", json.dumps(about))
    return root


MAKERS = {
    "voc": make_voc,
    "coco": make_coco,
    "yolo": make_yolo,
    "cvat": make_cvat,
    "labelstudio": make_labelstudio,
    "labelme": make_labelme,
}


def tree(root: Path) -> dict[str, bytes]:
    """Every file below `root` with its content."""
    return {
        p.relative_to(root).as_posix(): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file()
    }
