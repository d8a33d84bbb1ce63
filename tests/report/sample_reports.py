"""The reports of a run, written by hand: what the stages write, with values that are easy to check."""

import csv
import json

import cv2
import numpy as np

from engine.metrics.match_table import MatchTable
from engine.metrics.paired import compare
from engine.registry.image_list import as_text

WEIGHTS, ONNX, CHAMPION = "a" * 64, "b" * 64, "c" * 64
NAMES = ("car", "truck")


def matches(names=NAMES, images=30, hits=(0.9, 0.6), seed=0) -> MatchTable:
    """One box of each class an image; a class is found with a probability of its own, its box right
    at every IoU up to .75. Every third image has a false alarm of the first class.
    """
    rng = np.random.default_rng(seed)
    image, classes, scores, outcome = [], [], [], []
    for i in range(images):
        for c in range(len(names)):
            if rng.random() < hits[c]:
                image.append(i), classes.append(c), scores.append(round(rng.uniform(0.4, 1), 3))
                outcome.append([1] * 6 + [0] * 4)
        if i % 3 == 0:
            image.append(i), classes.append(0), scores.append(round(rng.uniform(0.1, 0.6), 3))
            outcome.append([0] * 10)
    return MatchTable(
        tuple(names),
        tuple(f"test/{i:03d}.jpg" for i in range(images)),
        np.ones((images, len(names)), np.int32),
        np.array(image, np.int32),
        np.array(classes, np.int32),
        np.array(scores),
        np.array(outcome, np.int8),
    )


def write(root, path, values):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    text = values if isinstance(values, str) else json.dumps(values)
    file.write_text(text, encoding="utf-8")
    return file


def write_rows(root, path, rows):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows(rows)


def picture(root, path, size=(60, 80), noise=False):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((*size, 3), 120, np.uint8)
    if noise:
        pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), dtype=np.uint8)
    cv2.imwrite(str(file), pixels)


def write_all(root, names=NAMES, image="test/000.jpg"):
    """Everything a report can tell of, for a version that was promoted over `cars/1`."""
    new, old = matches(names), matches(names, hits=(0.5, 0.6))
    paired = compare(old, new)
    validate = "reports/validate"
    (root / validate).mkdir(parents=True, exist_ok=True)
    new.save(root / validate / "matches.npz")
    ap = new.ap()
    about = {"weights_sha256": WEIGHTS, "split": "test"}
    write(root, f"{validate}/origin.json", about)
    values = {"mAP50-95": new.mean_ap(), "mAP50": new.mean_ap(iou=0.5), "precision": 0.75}
    values |= {"recall": 0.5, "mAP-large": None, "confidence": 0.4}
    write(root, f"{validate}/metrics.json", {f"metrics/{k}": v for k, v in values.items()})
    head = ["name", "images", "instances", "precision", "recall", "f1", "ap50", "ap"]
    rows = [[n, 30, 30, 0.75, 0.5, 0.6, ap[c, 0], ap[c].mean()] for c, n in enumerate(names)]
    write_rows(root, f"{validate}/per_class.csv", [head, *rows])
    rows = [["name", "n_gt", "n_pred", "tp", "fp", "fn", "ap50"], [image, 2, 3, 1, 2, 1, 0.25]]
    write_rows(root, f"{validate}/per_image.csv", rows)
    labels = [*names, "background"]
    counts = [[27, 1, 2], [0, 18, 12], [10, 0, 0]]
    rows = [["true", *labels], *([label, *row] for label, row in zip(labels, counts))]
    write_rows(root, f"{validate}/confusion_matrix.csv", rows)
    interval = {"precision_low": 0.8, "precision_high": 0.95, "recall_low": 0.7, "recall_high": 0.9}
    point = {"boxes": 30, "precision": 0.88, "recall": 0.81, "f1": 0.84, **interval}
    operating = {
        "goal": "precision>=0.9",
        "chosen_on": "val",
        "reported_on": "test",
        "calibration": {"method": "temperature", "ece_before": 0.083, "ece_after": 0.021},
        "classes": [{"name": n, "threshold": 0.31 + c / 10, **point} for c, n in enumerate(names)],
        "overall": point,
    }
    write(root, f"{validate}/operating_point.json", operating)
    write(root, f"{validate}/errors.json", errors(names, image))
    picture(root, f"{validate}/errors/001.jpg")
    picture(root, f"{validate}/errors/002.jpg")
    picture(root, f"{validate}/reliability.png")
    write(root, "reports/train/metrics.json", {"epochs": 12, "best_epoch": 7})
    origin = {"model": "yolov8n", "weights_sha256": WEIGHTS, "data_digest": "d" * 64, "start": {}}
    write(root, "reports/train/origin.json", origin)
    head = ["epoch", "train/box_loss", "val/box_loss", "metrics/mAP50", "metrics/mAP50-95"]
    rows = [[e, 3 / (e + 1), "" if e == 1 else 4 / (e + 1), e / 12, e / 20] for e in range(12)]
    write_rows(root, "reports/train/results.csv", [head, *rows])
    onnx = {"file": "export/best.onnx", "sha256": ONNX, "origin": "images of the dataset"}
    onnx |= {"images": 8, "max_box_px": 0.0018, "max_score": 1.2e-6, "detections": 33, "flips": 0}
    write(root, "reports/export.json", {"weights_sha256": WEIGHTS, "files": {"onnx": onnx}})
    write(root, "export/best.onnx", "x" * 2500)
    finding = {"count": 3, "policy": "warn", "examples": []}
    data = {"name": "cars", "licence": "CC0", "digest": "d" * 64, "names": list(names)}
    data |= {"counts": {"train": {"images": 5, "boxes": 10}, "test": {"images": 30, "boxes": 60}}}
    data |= {"findings": {"near_duplicate": finding}, "classes": []}
    write(root, "reports/data.json", data)
    write(root, "data/prepared/dataset.json", data)
    lines = [json.dumps({"image": f"{i}.jpg", "sha256": f"{i:064d}"}) for i in range(5)]
    write(root, "data/prepared/train.jsonl", "\n".join(lines) + "\n")
    # The champion was trained on 1, 2, 3, 4 and two that are gone; 0 is new.
    seen = "".join(f"{i:064d}\n" for i in (1, 2, 3, 4, 8, 9))
    write(root, f".cache/models/{CHAMPION}/training_images.txt", seen)
    write_lists(root)
    write(root, "reports/compare/errors.json", pair(names, image))
    for each in ("gained-01", "lost-01"):
        picture(root, f"reports/compare/images/{each}.jpg", (60, 240))
    findings = [
        {"gate": "min_test", "verdict": "PROMOTE", "reason": "30 test images", "advice": ""},
        {"gate": "not_worse", "verdict": "PROMOTE", "reason": "not worse", "advice": "do this"},
    ]
    decision = {
        "candidate": {"name": "cars/2", "digest": ONNX, "names": list(names)},
        "champion": {"name": "cars/1", "digest": CHAMPION, "names": list(names)},
        "split": "test",
        "left_out": {"mirrored copy in train": ["x y", "z w"]},
        "new_classes": [],
        "lost_classes": [],
        "decided_before": 3,
        **paired.to_dict(),
        "verdict": "PROMOTE",
        "findings": findings,
    }
    write(root, "reports/decision.json", decision)
    registration = {
        "model": "cars",
        "version": 2,
        "aliases": ["challenger", "champion"],
        "verdict": "PROMOTE",
        "reason": "it is not worse",
        "advice": [],
        "champion_version": 1,
        "weights_sha256": WEIGHTS,
        "onnx_sha256": ONNX,
        "latency": {
            "sha256": ONNX,
            "median_ms": 7.25,
            "p90_ms": 9.5,
            "runs": 30,
            "input": "160x160",
            "machine": "x86_64, cpu, 2 CPUs",
        },
        "at": "2026-11-30T08:12:59+00:00",
    }
    write(root, "reports/registration.json", registration)
    return root


def write_lists(root):
    """Of the champion's images 8 and 9 are gone, 4 went to val, 3 has other labels; 0 and 5, the
    latter of test, are new.
    """
    before = {"train": {i: "x" for i in (1, 2, 3, 4, 8, 9)}, "val": {}, "test": {6: "x"}}
    now = {"train": {0: "x", 1: "x", 2: "x", 3: "y"}, "val": {4: "x"}, "test": {5: "x", 6: "x"}}
    for digest, images in ((CHAMPION, before), (ONNX, now)):
        lists = {s: {f"{i:064d}": v for i, v in images[s].items()} for s in images}
        write(root, f".cache/models/{digest}/images.csv", as_text(lists))


def pair(names=NAMES, image="test/000.jpg"):
    """What the analysis of two models writes."""
    counts = {"boxes": 30, "both": 12, "gained": 9, "lost": 2, "neither": 7}
    least = {"boxes": 30, "both": 15, "gained": 1, "lost": 3, "neither": 11}
    alarms = {"a": 11, "b": 4}, {"a": 0, "b": 1}
    sides = {"a": {"missed": 2, "false_alarms": 1, "loss": 2.5}}
    sides |= {"b": {"missed": 0, "false_alarms": 0, "loss": 0.0}}
    cost = {"a": {"count": 22, "cost": 0.3}, "b": {"count": 15, "cost": 0.1234}}
    return {
        "a": "cars/1",
        "b": "cars/2",
        "images": 30,
        "boxes": 60,
        "confidences": {"a": 0.412, "b": 0.378},
        "error_types": [{"type": "missed", **cost}],
        "classes": [
            {"class": names[1], **least, "false_alarms": alarms[1]},
            {"class": names[0], **counts, "false_alarms": alarms[0]},
        ],
        "images_gained": 9,
        "images_lost": 1,
        "gained": [
            {"image": image, **sides, "picture": "images/gained-01.jpg"},
            {"image": "test/007.jpg", **sides, "picture": None},
        ],
        "lost": [
            {"image": "test/001.jpg", "a": sides["b"], "b": sides["a"]}
            | {"picture": "images/lost-01.jpg"}
        ],
    }


def errors(names=NAMES, image="test/000.jpg"):
    slices = [
        {"column": "blur", "slice": "sharp", "worse": False, "difference": 0.01, "p": 1.0},
        {"column": "brightness", "slice": "dark (< 60)", "worse": True, "difference": -0.12}
        | {"low": -0.2, "high": -0.05, "p": 0.004, "ap50": 0.7, "rest": 0.82}
        | {"images": 9, "boxes": 18},
    ]
    return {
        "split": "test",
        "images": 30,
        "boxes": 60,
        "ap50": 0.71,
        "error_types": [
            {"type": "duplicate", "count": 1, "cost": 0.0012},
            {"type": "missed", "count": 15, "cost": 0.1234},
        ],
        "by_size": [
            {"slice": "small", "boxes": 20, "ap50": 0.6},
            {"slice": "large", "boxes": 0, "ap50": None},
        ],
        "slices": slices,
        "hardest": [
            {"image": image, "missed": 1, "false_alarms": 2, "picture": "errors/001.jpg"},
            {"image": "test/001.jpg", "missed": 0, "false_alarms": 1, "picture": "errors/gone.jpg"},
        ],
        "label_errors": [
            {"image": image, "class": names[0], "kind": "missing box", "score": 0.97}
            | {"box": [1, 2, 3, 4], "picture": "errors/002.jpg"}
        ],
    }
