"""Copies of images: which are found, what is none, and the list of test images with a copy in train."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import CONTENT, make_voc, put, tree, voc_xml

from engine.comparison.left_out import images_left_out
from engine.config import DataConfig
from engine.data.manifest import load_prepared
from engine.datasets import crops
from engine.datasets.copies import Fingerprint, find_links
from engine.datasets.demo_digits import open_reader
from engine.datasets.description import load_description
from engine.datasets.findings import Findings
from engine.datasets.near_duplicates import as_array, dhash_pair, hamming, views
from engine.datasets.prepare import prepare
from engine.datasets.scan import examine

H, W = 150, 200
THRESHOLD = 45


def photographs() -> list[np.ndarray]:
    from sklearn.datasets import load_sample_images

    return [cv2.cvtColor(image, cv2.COLOR_RGB2BGR) for image in load_sample_images().images]


def patches(n: int) -> list[np.ndarray]:
    """`n` images (150, 200, 3) uint8 as different as photographs: clouds, shapes and grain."""
    found = []
    for seed in range(n):
        random = np.random.default_rng(seed)
        noise = (random.uniform(0, 255, (k, k + k // 3, 3)).astype(np.float32) for k in (4, 12, 40))
        layers = [cv2.resize(each, (W, H), interpolation=cv2.INTER_CUBIC) for each in noise]
        image = np.mean(layers, 0).clip(0, 255).astype(np.uint8)
        for _ in range(25):
            corners = random.integers(0, W, (1, 1, 2)) + random.integers(-40, 40, (1, 3, 2))
            colour = tuple(map(int, random.integers(0, 256, 3)))
            cv2.fillPoly(image, corners.astype(np.int32), colour)
        found.append(image)
    return found


def saved(image: np.ndarray, quality: int = 80) -> np.ndarray:
    """After a JPEG."""
    data = cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def crop(image: np.ndarray, area: float, at: float = 0.5) -> np.ndarray:
    """A part of the same aspect; `at` says where, 0 to 1."""
    h, w = (round(side * area**0.5) for side in image.shape[:2])
    y, x = round((image.shape[0] - h) * at), round((image.shape[1] - w) * at)
    return image[y : y + h, x : x + w]


def grey(image: np.ndarray) -> np.ndarray:
    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def links_of(images: list[np.ndarray]) -> list[tuple[int, int, str]]:
    prints = {
        f"{number:03}": Fingerprint(
            *dhash_pair(grey(image)),
            crops.find_keypoints(grey(image)),
            crops.miniature(grey(image)),
        )
        for number, image in enumerate(images)
    }
    return [
        (int(link.one), int(link.other), link.kind)
        for link in find_links(prints, prints, THRESHOLD)
    ]


# --- mirrored -------------------------------------------------------------------------------------

EIGHT = (
    lambda g: g,
    lambda g: g[:, ::-1],
    lambda g: g[::-1],
    lambda g: g[::-1, ::-1],
    lambda g: g.T,
    lambda g: g.T[::-1, ::-1],
    lambda g: g.T[:, ::-1],
    lambda g: g.T[::-1],
)


def test_the_hash_of_each_view_follows_from_two_hashes():
    """Against the image really mirrored or turned; a few cells that are equal may decide otherwise."""
    for image in patches(4):
        upright, exchanged = (as_array([each]) for each in dhash_pair(grey(image)))
        derived = views(upright, exchanged)
        for view, turn in zip(derived, EIGHT, strict=True):
            real = as_array([dhash_pair(np.ascontiguousarray(turn(grey(image))))[0]])
            words = np.concatenate((view, real)).view(np.uint16)
            assert hamming(words, np.array([0]), np.array([1]))[0] <= 8


@pytest.mark.parametrize("turn", EIGHT[1:])
def test_mirrored_and_turned_copies_are_found(turn):
    def turned(image: np.ndarray) -> np.ndarray:
        return saved(np.stack([turn(image[..., c]) for c in range(3)], -1))

    images = patches(6)
    found = links_of([*images, *map(turned, images)])
    assert found == [(i, i + 6, "mirrored") for i in range(6)]


# --- cropped --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda i: crop(i, 0.6, 0.2),
        lambda i: crop(i, 0.75, 0.9),
        lambda i: crop(i, 0.85, 0.0),
        lambda i: cv2.resize(crop(i, 0.75), (W, H)),
        lambda i: crop(i, 0.75)[:, ::-1],
        lambda i: cv2.convertScaleAbs(crop(i, 0.75), alpha=0.8, beta=20),
    ],
    ids=["60 %", "75 %", "85 %", "scaled", "mirrored", "brighter"],
)
def test_cropped_copies_are_found(change):
    images = patches(16)
    found = links_of([*images, *(saved(change(image)) for image in images)])
    right = [link for link in found if link[1] == link[0] + 16]
    assert {kind for _, _, kind in found} == {"cropped"}
    assert len(right) >= 15 and found == right


def test_a_part_says_what_it_shows_of_the_whole():
    image = photographs()[0]
    found = crops.find_parts([crops.find_keypoints(grey(x)) for x in (crop(image, 0.7), image)])
    assert [(part.part, part.whole) for part in found] == [(0, 1)]
    assert abs(found[0].area - 0.7) < 0.03


def test_neighbouring_parts_of_one_scene_are_no_copies():
    """A camera that pans: every frame shares most of its pixels with the one before."""
    scene = photographs()[0]
    frames = [scene[40:300, x : x + 340] for x in range(0, 300, 12)]
    assert [link for link in links_of(frames) if link[2] != "re-encoded"] == []


def test_other_objects_on_a_part_of_the_same_ground_are_no_copies():
    ground = photographs()[1]
    images = [ground.copy(), cv2.resize(crop(ground, 0.7), (W, H))]
    for x in range(20, 600, 150):
        cv2.circle(images[0], (x, 200), 60, (255, 255, 255), -1)
    for x in range(20, 200, 50):
        cv2.rectangle(images[1], (x, 20), (x + 30, 120), (0, 0, 0), -1)
    assert links_of(images) == []


def test_generated_digits_hold_no_copies():
    """600 images on stretches of two photographs: many look alike, none is a copy."""
    reader = open_reader({"train": 100, "val": 20, "test": 20}, 0)
    images = [cv2.imdecode(np.frombuffer(i.content, np.uint8), cv2.IMREAD_COLOR) for i in reader]
    assert [link for link in links_of(images) if link[2] != "re-encoded"] == []


@pytest.mark.parametrize("size", [(20, 300), (1, 1), (64, 64)], ids=["narrow", "one", "blank"])
def test_an_image_too_small_or_too_plain_has_no_keypoints(size):
    assert crops.find_keypoints(np.full(size, 128, np.uint8)) is None


@pytest.mark.parametrize("n", [0, 1])
def test_without_two_images_there_are_no_pairs(n):
    image = crops.find_keypoints(grey(patches(1)[0]))
    assert crops.find_parts([image] * n) == []


def test_work_is_bounded_where_all_images_are_alike():
    """A hundred views of one place: each is compared with a few others, not with each."""
    scene = photographs()[0]
    images = [
        crops.find_keypoints(grey(scene[i : i + 300, 2 * i : 2 * i + 400])) for i in range(99)
    ]
    assert len(crops.candidates(images)) <= 99 * crops.PARTNERS


# --- in a dataset ---------------------------------------------------------------------------------


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", np.ascontiguousarray(image), [cv2.IMWRITE_JPEG_QUALITY, 90])[
        1
    ].tobytes()


KINDS = ("exact", "re-encoded", "mirrored", "cropped", "of-crop", "none")


@pytest.fixture
def leaky(tmp_path) -> Path:
    """Test images of each kind of copy of a training image, and one that is none."""
    images = patches(8)
    train = {f"train{i}": images[i] for i in range(5)} | {"train5": saved(crop(images[5], 0.7))}
    test = {
        "exact": images[0],
        "re-encoded": saved(cv2.resize(images[1], (120, 90)), 60),
        "mirrored": images[2][:, ::-1],
        "cropped": crop(images[3], 0.7, 0.3),
        "of-crop": images[5],
        "none": images[7],
    }
    splits = {name: "train" for name in train} | dict.fromkeys(test, "test") | {"v": "val"}
    root = tmp_path / "data"
    for name, image in {**train, **test, "v": images[6]}.items():
        put(root / f"images/{splits[name]}/{name}.jpg", jpeg(image))
        put(root / f"labels/{splits[name]}/{name}.txt", "0 0.5 0.5 0.4 0.4\n")
    put(
        root / "data.yaml",
        "train: images/train\nval: images/val\ntest: images/test\nnames: [cat]\n",
    )
    return root


def settings(source: Path, **changes) -> DataConfig:
    policies = {"split_leak": "warn", **changes.pop("policies", {})}
    return DataConfig(source=str(source), policies=policies, **changes)


def test_prepare_lists_the_copies_and_a_comparison_leaves_them_out(leaky, tmp_path):
    prepare(load_description(leaky), tmp_path / "out", settings(leaky))
    text = (tmp_path / "out/copies.jsonl").read_text()
    lines = {Path(line["name"]).stem: line for line in map(json.loads, text.splitlines())}
    kinds = {name: line["kind"] for name, line in lines.items()}
    of = {name: Path(line["of"]).stem for name, line in lines.items()}
    expected = {kind: kind for kind in KINDS[:4]} | {"of-crop": "cropped"}
    assert kinds == expected
    assert of == dict(zip(KINDS, ("train0", "train1", "train2", "train3", "train5"), strict=False))
    data = load_prepared(tmp_path / "out")
    by_sha = {record.sha256: Path(record.name).stem for record in data.records("test")}
    assert all(by_sha[line["sha256"]] == name for name, line in lines.items())
    reasons = images_left_out(data, "test", [])
    assert {reason: len(images) for reason, images in reasons.items()} == {
        "exact copy in train": 1,
        "re-encoded copy in train": 1,
        "mirrored copy in train": 1,
        "cropped copy in train": 2,
    }
    assert images_left_out(data, "val", []) == {}


def test_the_result_is_the_same_again_and_empty_where_nothing_is_a_copy(leaky, tmp_path):
    for name in ("one", "two"):
        prepare(load_description(leaky), tmp_path / name, settings(leaky))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    prepare(load_description(make_voc(tmp_path / "voc")), tmp_path / "plain", DataConfig())
    assert (tmp_path / "plain/copies.jsonl").read_text() == ""


def test_findings_name_mirrored_and_cropped_copies_and_policies_act_on_them(leaky):
    findings = Findings.with_policies({"split_leak": "warn"})
    examine(load_description(leaky), settings(leaky), findings)
    texts = "\n".join(map(str, findings.examples["near_leak"]))
    assert findings.counts["near_leak"] == 4
    assert "mirrored or turned, " in texts and "one is a crop, 70 % of the other" in texts.replace(
        "70%", "70 %"
    )
    findings = Findings.with_policies({"split_leak": "drop", "near_leak": "drop"})
    found = examine(load_description(leaky), settings(leaky), findings)
    assert sorted(Path(r.name).stem for r in found.records if r.split == "train") == ["train4"]
    assert found.copies == []


def test_the_search_for_crops_can_be_turned_off(leaky):
    findings = Findings.with_policies({"split_leak": "warn"})
    found = examine(load_description(leaky), settings(leaky, find_crops=False), findings)
    assert {copy.kind for copy in found.copies} == set(KINDS[:3])


def test_copies_stay_on_one_side_where_splits_go_by_content(tmp_path):
    root, images = tmp_path / "voc", patches(16)
    names = [f"{kind}{i}" for i in range(16) for kind in "amc"]
    make_voc(root, dict.fromkeys(names, CONTENT["a"]), lists=False)
    for name in names:
        image = images[int(name[1:])]
        image = {"a": image, "m": image[:, ::-1], "c": crop(image, 0.75)}[name[0]]
        put(root / f"JPEGImages/{name}.png", jpeg(image))
        size = image.shape[:2]
        put(root / f"Annotations/{name}.xml", voc_xml(name, CONTENT["a"], size=size))
    config = DataConfig(source=str(root), val_fraction=0.3, test_fraction=0.3)
    found = examine(load_description(root), config, Findings.with_policies({}))
    side = {Path(record.name).stem: record.split for record in found.records}
    together = [len({side[f"{kind}{i}"] for kind in "amc"}) == 1 for i in range(16)]
    assert sum(together) >= 15 and len(set(side.values())) == 3 and found.copies == []


def test_progress_tells_of_the_pairs(leaky):
    said: list[dict] = []
    findings = Findings.with_policies({"split_leak": "warn"})
    examine(load_description(leaky), settings(leaky), findings, progress=said.append)
    assert any("pairs" in news["metrics"] for news in said)
    assert all(news["done"] <= news["total"] for news in said)


def test_bccd_holds_the_copy_that_is_known_and_no_other(bccd):
    """364 microscope images of one kind; two of them show the same."""
    findings = Findings.with_policies({})
    found = examine(load_description(bccd), DataConfig(source=str(bccd)), findings)
    assert [(Path(c.name).stem, Path(c.of).stem, c.kind) for c in found.copies] in (
        [("BloodImage_00038", "BloodImage_00037", "re-encoded")],
        [("BloodImage_00037", "BloodImage_00038", "re-encoded")],
    )
