"""labelme's shapes and paths; what all formats have in common is in test_formats.py."""

import json

import pytest
from dataset_builders import H, W, image_bytes, put
from reading import read

from engine.datasets.formats.folder import Folder


def read_all(root):
    images, findings = read(root, "labelme")
    return list(images.values()), findings


def one(root, *shapes, path="a.png", **more):
    put(root / "a.png", image_bytes("a"))
    about = {"shapes": shapes, "imagePath": path, "imageHeight": H, "imageWidth": W, **more}
    put(root / "a.json", json.dumps(about))
    return read_all(root)


@pytest.mark.parametrize(
    ("kind", "points", "box"),
    [
        ("rectangle", [[2, 3], [20, 9]], (2, 3, 20, 9)),
        ("rectangle", [[20, 9], [2, 3]], (2, 3, 20, 9)),
        ("rectangle", [[2, 3], [20, 3], [20, 9], [2, 9]], (2, 3, 20, 9)),  # X-AnyLabeling
        ("polygon", [[2, 3], [20, 5], [8, 9.5]], (2, 3, 20, 9.5)),
        (None, [[2, 3], [20, 5], [8, 9.5]], (2, 3, 20, 9.5)),  # of old versions
        ("circle", [[10, 10], [13, 14]], (5, 5, 15, 15)),
        ("rotation", [[5, 0], [10, 5], [5, 10], [0, 5]], (0, 0, 10, 10)),
        ("mask", [[2, 3], [20, 9]], (2, 3, 20, 9)),
    ],
)
def test_the_box_around_each_shape(tmp_path, kind, points, box):
    ((image,), counts) = one(tmp_path, {"label": "cat", "points": points, "shape_type": kind})
    assert [(row.name, row.box) for row in image.rows] == [("cat", box)] and not counts


@pytest.mark.parametrize(
    "path", ["a.png", "/home/me/photos/a.png", "C:\\photos\\a.png", "../x/a.png", "", None, "b.png"]
)
def test_the_image_beside_the_file_is_meant_wherever_it_was_drawn(tmp_path, path):
    ((image,), counts) = one(tmp_path, path=path)
    assert image.name == "a.png" and image.size == (H, W) and not counts


def test_an_image_in_another_folder_is_found_by_its_path(tmp_path):
    put(tmp_path / "photos" / "x.png", image_bytes("a"))
    about = {"shapes": [], "imagePath": "../photos/x.png", "flags": {}}
    put(tmp_path / "labels" / "first.json", json.dumps(about))
    ((image,), counts) = read_all(tmp_path)
    assert image.name == "photos/x.png" and not counts


def test_a_copy_of_the_image_within_the_file_is_passed_over(tmp_path):
    ((image,), counts) = one(tmp_path, imageData="iVBOR" * 10_000)
    assert image.path == tmp_path / "a.png" and not counts


def test_a_file_with_its_keys_in_order_and_the_image_in_it_is_known(tmp_path):
    """labelme's own order has the shapes first; other tools sort, and then the image comes first."""
    from engine.datasets.formats.labelme import is_labelme

    content = {"flags": {}, "imageData": "A" * 100_000, "imagePath": "a.png", "shapes": []}
    (tmp_path / "a.json").write_text(json.dumps(content, sort_keys=True))
    (tmp_path / "coco.json").write_text(json.dumps({"images": [], "annotations": []}))
    folder = Folder(tmp_path)
    assert is_labelme(folder, "a.json") and not is_labelme(folder, "coco.json")
