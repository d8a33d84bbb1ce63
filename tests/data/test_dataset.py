"""Samples and the image cache: reading every kind of file, the same pixels in every cache mode,
damage noticed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engine.data import cache as image_cache
from engine.data.cache import ImageCache
from engine.data.dataset import DetectionDataset, collate
from engine.data.images import decode_with_pillow, read_image
from engine.data.transforms import GREY, Augment, to_original
from engine.errors import ConfigError, DataError
from engine.types import Batch, ImageRecord


def record(file: Path, size, boxes=(), classes=(), crowd=None) -> ImageRecord:
    return ImageRecord(
        file=file,
        sha256=hashlib.sha256(file.read_bytes()).hexdigest(),
        size=size,
        boxes=np.array(boxes, np.float64).reshape(-1, 4),
        classes=np.array(classes, np.int64),
        crowd=None if crowd is None else np.array(crowd, bool),
    )


@pytest.fixture
def records(tmp_path):
    """Five noisy images of different shapes, the last without boxes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    made = []
    for i, (h, w) in enumerate([(48, 64), (64, 40), (100, 100), (30, 90), (64, 64)]):
        file = folder / f"{i}.png"
        cv2.imwrite(str(file), rng.integers(0, 256, (h, w, 3), np.uint8))
        boxes = [[2, 2, w - 4, h - 4], [0, 0, w / 2, h / 2]] if i < 4 else []
        made.append(record(file, (h, w), boxes, [i % 3, 0] if i < 4 else []))
    return made


# --- reading --------------------------------------------------------------------------------------


def test_colour_order_is_bgr(tmp_path):
    Image.new("RGB", (4, 3), (255, 0, 10)).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.shape == (3, 4, 3) and image.dtype == np.uint8
    assert image[0, 0].tolist() == [10, 0, 255]


def test_grey_palette_and_transparent_images(tmp_path):
    Image.new("L", (4, 3), 90).save(tmp_path / "grey.png")
    Image.new("RGB", (4, 3), (1, 2, 3)).quantize(8).save(tmp_path / "palette.png")
    Image.new("RGBA", (4, 3), (7, 8, 9, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (4, 3), (255, 0, 0)).quantize(8).save(tmp_path / "moving.gif")
    assert read_image(tmp_path / "grey.png")[1, 1].tolist() == [90, 90, 90]
    assert read_image(tmp_path / "palette.png")[1, 1].tolist() == [3, 2, 1]
    assert read_image(tmp_path / "clear.png")[1, 1].tolist() == [9, 8, 7]
    assert read_image(tmp_path / "moving.gif")[1, 1].tolist() == [0, 0, 255]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path, suffix):
    deep = np.array([[0, 257 * 100, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / f"deep.{suffix}"), deep)
    assert read_image(tmp_path / f"deep.{suffix}")[0, :, 0].tolist() == [0, 100, 255]


def test_sixteen_bits_through_pillow_too():
    deep = Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16))
    import io

    buffer = io.BytesIO()
    deep.save(buffer, "PNG")
    assert decode_with_pillow(buffer.getvalue(), "x")[0, :, 1].tolist() == [0, 100, 255]


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees to the right
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:, :16] = 255
    Image.fromarray(stored).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    image = read_image(tmp_path / "turned.jpg")
    assert image.shape == (32, 16, 3)
    assert image[:14].min() > 200 and image[18:].max() < 50


@pytest.mark.parametrize(
    "content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0 broken"]
)
def test_what_is_no_image_is_named(tmp_path, content):
    file = tmp_path / "broken.jpg"
    file.write_bytes(content)
    with pytest.raises(DataError, match="broken.jpg"):
        read_image(file)


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere.jpg"):
        read_image(tmp_path / "nowhere.jpg")


# --- cache ----------------------------------------------------------------------------------------


def test_every_mode_gives_the_same_images_of_the_fitted_size(records, tmp_path):
    modes = [
        ImageCache(records, (64, 96), mode=m, cache_dir=tmp_path / "cache")
        for m in image_cache.MODES
    ]
    for _ in range(2):  # decoded, then from the cache
        for i, shape in enumerate([(64, 85), (64, 40), (64, 64), (32, 96), (64, 64)]):
            images = [cache[i] for cache in modes]
            assert [image.shape[:2] for image in images] == [shape] * 3
            assert len({image.tobytes() for image in images}) == 1


def test_cached_images_are_not_decoded_again_and_cannot_be_written(records, tmp_path):
    for mode in ("ram", "disk"):
        cache = ImageCache(records, (32, 32), mode=mode, cache_dir=tmp_path / "cache")
        first = cache[0].copy()
        cache._decode = None  # not callable: a second decoding would fail
        np.testing.assert_array_equal(cache[0], first)
        with pytest.raises(ValueError, match="read-only"):
            cache[0][:] = 0


def test_nothing_is_written_beside_the_data(records, tmp_path):
    before = sorted(p.name for p in (tmp_path / "data").iterdir())
    cache = ImageCache(records, (32, 32), mode="disk", cache_dir=tmp_path / "cache")
    for i in range(len(records)):
        cache[i]
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == before
    files = [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]
    assert len(files) == len(records) and not [p for p in files if p.name.startswith(".")]


@pytest.mark.parametrize("damage", ["cut", "flipped bit", "other image", "older format", "empty"])
def test_a_damaged_cache_file_is_made_again(records, tmp_path, damage):
    cache = ImageCache(records, (32, 32), mode="disk", cache_dir=tmp_path / "cache")
    want = cache[2].copy()
    cache[4]
    path = image_cache.disk_path(tmp_path / "cache", records[2].sha256, (32, 32))
    good = path.read_bytes()
    other = image_cache.disk_path(tmp_path / "cache", records[4].sha256, (32, 32)).read_bytes()
    flipped = good[:500] + bytes([good[500] ^ 1]) + good[501:]
    bad = {
        "cut": good[:-7],
        "flipped bit": flipped,
        "other image": other,
        "older format": b"x" + good[1:],
        "empty": b"",
    }
    path.write_bytes(bad[damage])
    np.testing.assert_array_equal(cache[2], want)
    assert path.read_bytes() == good


def test_a_source_that_changed_is_not_stored_under_its_old_hash(records, tmp_path):
    cv2.imwrite(str(records[0].file), np.zeros((48, 64, 3), np.uint8))
    cache = ImageCache(records, (32, 32), mode="disk", cache_dir=tmp_path / "cache")
    with pytest.raises(DataError, match="0.png.*SHA-256"):
        cache[0]
    cv2.imwrite(str(records[0].file), np.zeros((64, 48, 3), np.uint8))
    with pytest.raises(DataError, match=r"0.png.*64 x 48"):
        ImageCache(records, (32, 32), mode="ram")[0]


def test_a_cache_that_cannot_be_written_is_left_aside(records, tmp_path):
    (tmp_path / "occupied").write_text("a file where the cache should be")
    cache = ImageCache(records, (32, 32), mode="disk", cache_dir=tmp_path / "occupied")
    with pytest.warns(UserWarning, match="occupied"):
        first = cache[0]
    np.testing.assert_array_equal(cache[0], first)


def test_too_little_memory_is_said_and_survived(records, monkeypatch):
    monkeypatch.setattr(image_cache, "available_memory", lambda: 1000)
    with pytest.warns(UserWarning, match="cache='disk'"):
        cache = ImageCache(records, (32, 32), mode="ram")
    assert cache[0].shape == (24, 32, 3)


def test_wrong_modes_are_refused(records):
    with pytest.raises(ConfigError, match="Did you mean 'disk'"):
        ImageCache(records, (32, 32), mode="dsk")
    with pytest.raises(ConfigError, match="cache_dir"):
        ImageCache(records, (32, 32), mode="disk")


# --- samples --------------------------------------------------------------------------------------


def test_validation_samples_map_back_to_the_original_boxes(records):
    dataset = DetectionDataset(records, (96, 64), cache="none")
    for i, source in enumerate(records):
        sample = dataset[i]
        assert sample.image.shape == (96, 64, 3) and sample.ori_shape == source.size
        back = to_original(sample.boxes.astype(np.float64), sample.ratio_pad, source.size)
        np.testing.assert_allclose(back, source.boxes, atol=1e-4)


def test_small_images_are_enlarged_for_training_only(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((16, 32, 3), np.uint8))
    source = [record(tmp_path / "a.png", (16, 32), [[0, 0, 32, 16]], [1])]
    validation = DetectionDataset(source, 64)[0]
    assert (validation.image != GREY).all(-1).sum() == 16 * 32
    np.testing.assert_array_equal(validation.boxes, [[16, 24, 48, 40]])
    still = Augment(mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)
    training = DetectionDataset(source, 64, still)[0]
    assert (training.image != GREY).all(-1).sum() == 32 * 64
    np.testing.assert_array_equal(training.boxes, [[0, 16, 64, 48]])
    assert training.ratio_pad is None


def samples_equal(a, b) -> bool:
    return all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("image", "boxes", "classes"))


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(mixup=1.0), Augment(mosaic=0.5, mixup=0.5, degrees=10)]
)
def test_a_sample_depends_on_seed_epoch_and_index_only(records, augment):
    make = lambda seed=0: DetectionDataset(records, 64, augment, seed=seed)  # noqa: E731
    a, b = make(), make()
    for i in reversed(range(5)):  # another order, other things loaded before
        b[3, i]
    for i in range(5):
        assert samples_equal(a[2, i], b[2, i])
        assert not samples_equal(a[2, i], a[3, i])
        assert not samples_equal(a[2, i], make(seed=1)[2, i])


def test_augmented_boxes_are_sane(records):
    dataset = DetectionDataset(records, (64, 96), Augment(mixup=0.3, degrees=5, flipud=0.5), seed=3)
    for epoch in range(6):
        for i in range(5):
            sample = dataset[epoch, i]
            assert sample.image.shape == (64, 96, 3) and sample.image.dtype == np.uint8
            assert sample.boxes.dtype == np.float32 and len(sample.boxes) == len(sample.classes)
            assert (sample.boxes >= 0).all() and (sample.boxes <= [96, 64, 96, 64]).all()
            assert (sample.boxes[:, 2:] - sample.boxes[:, :2] > 2).all()


def test_mosaic_and_mixup_end_with_their_epoch(records, monkeypatch):
    from engine.data import transforms

    calls = []
    for name in ("mosaic_affine", "mixup"):
        original = getattr(transforms, name)
        monkeypatch.setattr(
            transforms,
            name,
            lambda *a, _n=name, _f=original, **k: (calls.append(_n), _f(*a, **k))[1],
        )
    dataset = DetectionDataset(records, 64, Augment(mixup=1.0), mosaic_until_epoch=3)
    dataset[2, 0]
    assert calls == ["mosaic_affine", "mosaic_affine", "mixup"]
    calls.clear()
    dataset[3, 0]
    assert calls == []


def test_crowd_boxes_stay_out_and_single_cls_is_zero(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 32, 3), np.uint8))
    source = [
        record(
            tmp_path / "a.png",
            (32, 32),
            [[0, 0, 8, 8], [4, 4, 30, 30]],
            [2, 1],
            crowd=[False, True],
        )
    ]
    assert DetectionDataset(source, 32)[0].classes.tolist() == [2]
    assert DetectionDataset(source, 32, single_cls=True)[0].classes.tolist() == [0]


def test_no_records_is_an_error():
    with pytest.raises(DataError, match="empty"):
        DetectionDataset([], 32)


# --- collation ------------------------------------------------------------------------------------


def test_batch_has_exactly_the_documented_keys(records):
    dataset = DetectionDataset(records, 64, cache="none")
    samples = [dataset[i] for i in range(5)]
    batch = collate(samples)
    assert isinstance(batch, Batch)
    assert set(batch) == {
        "img",
        "cls",
        "bboxes",
        "batch_idx",
        "im_file",
        "ori_shape",
        "resized_shape",
        "ratio_pad",
    }
    assert batch["imgs"] is batch["img"]
    assert (
        batch["img"].dtype == torch.uint8
        and batch["img"].shape == (5, 3, 64, 64)
        and batch["img"].is_contiguous()
    )
    assert (
        batch["cls"].shape == (8, 1)
        and batch["bboxes"].shape == (8, 4)
        and batch["batch_idx"].shape == (8,)
    )
    assert all(batch[k].dtype == torch.float32 for k in ("cls", "bboxes", "batch_idx"))
    assert batch["batch_idx"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert all(
        isinstance(batch[k], tuple) and len(batch[k]) == 5
        for k in ("im_file", "ori_shape", "ratio_pad")
    )
    rgb = np.stack([cv2.cvtColor(s.image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1) for s in samples])
    np.testing.assert_array_equal(batch["img"].numpy(), rgb)
    assert batch["im_file"][0] == str(records[0].file) and batch["ori_shape"][0] == (48, 64)
    assert batch["resized_shape"] == ((64, 64),) * 5


def test_batch_boxes_by_hand(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((32, 64, 3), np.uint8))
    source = [record(tmp_path / "a.png", (32, 64), [[0, 0, 32, 16]], [1])]
    batch = collate([DetectionDataset(source, 64)[0]])  # 16 rows of padding above
    np.testing.assert_allclose(batch["bboxes"].numpy(), [[0.25, 0.375, 0.5, 0.25]])
    assert batch["cls"].tolist() == [[1.0]]


def test_a_batch_without_any_box(records):
    batch = collate([DetectionDataset(records, 64)[4]] * 2)
    assert (
        batch["cls"].shape == (0, 1)
        and batch["bboxes"].shape == (0, 4)
        and batch["batch_idx"].shape == (0,)
    )
