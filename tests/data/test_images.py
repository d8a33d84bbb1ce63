"""Image files: every kind comes out of the one decoder as it is shown, and boxes stay on what they
were drawn on.
"""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builders import put, voc_xml
from PIL import EpsImagePlugin, Image

from engine.config import DataConfig
from engine.data.images import decode_image, decode_with_pillow
from engine.data.manifest import load_prepared
from engine.datasets.convert import convert
from engine.datasets.description import load_description
from engine.datasets.formats import writable
from engine.datasets.image_scan import inspect_image
from engine.datasets.prepare import prepare
from engine.detect.sources import open_source
from engine.errors import DataError

H, W = 24, 40
BLOCK = (4, 2, 14, 10)  # xyxy of the bright block of `scene`
TURNS = {  # EXIF orientation -> the array as shown, from the array as stored
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
WRITE = {
    "jpg": {"format": "JPEG", "quality": 100, "subsampling": 0},
    "png": {"format": "PNG"},
    "webp": {"format": "WEBP", "lossless": True},
    "tif": {"format": "TIFF"},
    "bmp": {"format": "BMP"},
}


def scene() -> np.ndarray:
    """(H, W, 3) BGR, dark, with one bright block off the middle."""
    image = np.full((H, W, 3), (40, 20, 10), np.uint8)
    x1, y1, x2, y2 = BLOCK
    image[y1:y2, x1:x2] = (250, 230, 240)
    return image


def encoded(suffix: str, mode: str = "RGB", orientation: int = 1, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image = Image.fromarray(np.ascontiguousarray(scene()[..., ::-1]))
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode, dither=Image.Dither.NONE)
    image.save(buffer, **{**WRITE[suffix], "exif": exif, **options})
    return buffer.getvalue()


def bright(image: np.ndarray) -> tuple[int, ...]:
    """xyxy of the block in an image as decoded."""
    rows, columns = np.nonzero(image.min(2) > 128)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def sizes(data: bytes) -> tuple:
    shape = inspect_image(data)
    return shape.shown, shape.stored, shape.orientation


KINDS = [
    (suffix, mode)
    for suffix, modes in {
        "jpg": "RGB L CMYK",
        "png": "RGB L RGBA P 1 LA I;16",
        "webp": "RGB RGBA",
        "tif": "RGB L RGBA P 1 CMYK I;16",
        "bmp": "RGB L P 1",
    }.items()
    for mode in modes.split()
]


@pytest.mark.parametrize(
    ("suffix", "mode"), KINDS, ids=[f"{suffix}-{mode}" for suffix, mode in KINDS]
)
def test_every_kind_and_depth_comes_out_as_it_is_shown(suffix, mode):
    data = encoded(suffix, mode)
    for decode in (decode_image, decode_with_pillow):
        image = decode(data, "x")
        assert image.shape == (H, W, 3) and image.dtype == np.uint8
        assert np.array_equal(bright(image), BLOCK)
        if mode in ("RGB", "RGBA"):
            assert np.abs(image.astype(int) - scene()).max() <= 3, (
                "blue first, and no value shifted"
            )
    assert sizes(data) == ((H, W), (H, W), 1)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_in_every_channel(suffix, channels):
    deep = np.repeat(np.array([[[0], [257 * 100], [65535]]], np.uint16), channels, 2)
    data = cv2.imencode(f".{suffix}", deep)[1].tobytes()
    assert decode_image(data, "x")[0, :, 0].tolist() == [0, 100, 255]
    assert inspect_image(data).shown == (1, 3)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_all_eight_exif_orientations_of_every_format(suffix, orientation):
    data = encoded(suffix, orientation=orientation)
    shown = TURNS[orientation](scene())
    for decode in (decode_image, decode_with_pillow):
        image = decode(data, "x")
        assert image.shape == shown.shape and np.abs(image.astype(int) - shown).max() <= 3
    assert sizes(data) == (shown.shape[:2], (H, W), orientation)


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_the_first_of_several_frames_is_turned_too(suffix, orientation):
    """OpenCV does not turn WebP and PNG with frames."""
    frames = {"save_all": True, "append_images": [Image.new("RGB", (W, H), "white")]}
    data = encoded(suffix, orientation=orientation, **frames)
    shown = TURNS[orientation](scene())
    image = decode_image(data, "x")
    assert image.shape == shown.shape and np.abs(image.astype(int) - shown).max() <= 3
    assert sizes(data) == (shown.shape[:2], (H, W), orientation) and inspect_image(data).pages == 2


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_rotation_noted_where_nobody_looks_turns_nothing(orientation):
    """In XMP alone, or as a number of four bytes, most significant first: the decoder heeds
    neither.
    """
    number = struct.pack(">HIHHHI", 42, 8, 1, 0x0112, 4, 1) + struct.pack(">II", orientation, 0)
    xmp = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><d tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    for options in ({"exif": b"Exif\0\0MM" + number}, {"exif": b"", "xmp": xmp}):
        data = encoded("jpg", **options)
        assert Image.open(io.BytesIO(data)).getexif()[0x0112] == orientation, "Pillow sees it"
        image = decode_image(data, "x")
        assert image.shape == (H, W, 3) and np.array_equal(bright(image), BLOCK)
        assert sizes(data) == ((H, W), (H, W), 1)


def test_the_further_pictures_of_a_camera_are_no_pages():
    second = Image.new("RGB", (W, H), "white")
    buffer = io.BytesIO()
    Image.fromarray(scene()).save(buffer, "MPO", save_all=True, append_images=[second])
    assert inspect_image(buffer.getvalue()).pages == 1


def test_nothing_but_the_formats_of_images_is_opened(monkeypatch):
    """EPS would start Ghostscript, whatever the file is called."""
    monkeypatch.setattr(
        EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was called")
    )
    for format in ("EPS", "GIF", "PPM", "TGA"):
        buffer = io.BytesIO()
        Image.fromarray(scene()).save(buffer, format)
        with pytest.raises(ValueError, match="no known image format"):
            inspect_image(buffer.getvalue())
        with pytest.raises(DataError):
            decode_with_pillow(buffer.getvalue(), "x.jpg")


def test_what_cannot_be_scaled_or_read_is_refused():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(buffer, "TIFF")
    with pytest.raises(ValueError, match="floats; save it with 8 or 16 bits"):
        inspect_image(buffer.getvalue())
    with pytest.raises(DataError, match=r"x\.tif: not a readable image \(its pixels are floats"):
        decode_image(buffer.getvalue(), "x.tif")
    with pytest.raises(
        DataError, match=r"x\.tif: not a readable image \(its pixels are 32-bit numbers"
    ):
        decode_image(cv2.imencode(".tif", np.full((4, 4), 99, np.int32))[1].tobytes(), "x.tif")
    for suffix in WRITE:
        with pytest.raises(ValueError):
            inspect_image(encoded(suffix)[:-40])


def test_prediction_sees_the_same_pixels_as_training(tmp_path):
    for suffix, mode, orientation in (("png", "I;16", 1), ("jpg", "CMYK", 6), ("webp", "RGBA", 3)):
        data = encoded(suffix, mode, orientation)
        file = put(tmp_path / f"{mode[0]}.{suffix}", data)
        expected = decode_image(data, "x")
        for source in (file, Image.open(file)):
            (frame,) = open_source(source)
            assert np.abs(frame.image.astype(int) - expected).max() <= 3


# --- boxes ----------------------------------------------------------------------------------------


def one_image_set(
    root: Path, suffix: str, orientation: int, box: tuple, size: tuple[int, int] | None
) -> Path:
    """A VOC set of which only image `a` matters; `b` and `c` fill val and test."""
    put(root / f"JPEGImages/a.{suffix}", encoded(suffix, orientation=orientation))
    put(
        root / "Annotations/a.xml", voc_xml("a", [("cat", box)], size).replace(".png", f".{suffix}")
    )
    for name, split in (("b", "val"), ("c", "test")):
        put(
            root / f"JPEGImages/{name}.png",
            cv2.imencode(".png", np.full((32, 64, 3), ord(name), np.uint8))[1].tobytes(),
        )
        put(root / f"Annotations/{name}.xml", voc_xml(name, [("cat", (1, 1, 9, 9))]))
        put(root / f"ImageSets/Main/{split}.txt", name)
    put(root / "ImageSets/Main/train.txt", "a")
    return root


def prepared_box(root: Path, target: Path, **policies: str) -> tuple[tuple, np.ndarray, dict]:
    """(box of image `a`, its pixels, what was found)."""
    report = prepare(
        load_description(root), target, DataConfig(source=str(root), policies=policies)
    )
    (record,) = load_prepared(target).records("train")
    return (
        tuple(record.boxes[0]),
        decode_image(record.file.read_bytes(), "a"),
        report.findings.counts,
    )


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_boxes_are_those_of_the_image_as_shown(suffix, orientation, tmp_path):
    """The convention: annotation tools turn the image, draw, and state the size they show."""
    shown = TURNS[orientation](scene())
    root = one_image_set(tmp_path / "set", suffix, orientation, bright(shown), shown.shape[:2])
    box, image, found = prepared_box(root, tmp_path / "out")
    assert np.array_equal(box, bright(image)) and found == {}


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_a_stated_size_that_is_the_stored_one_shows_that_boxes_were_not_turned(
    suffix, orientation, tmp_path
):
    root = one_image_set(tmp_path / "set", suffix, orientation, BLOCK, (H, W))
    box, image, found = prepared_box(root, tmp_path / "out")
    assert np.array_equal(box, bright(image)) and found == {"exif_rotation": 1}


def test_without_a_size_boxes_are_those_of_the_image_as_shown(tmp_path):
    root = one_image_set(tmp_path / "set", "jpg", 6, bright(TURNS[6](scene())), None)
    box, image, found = prepared_box(root, tmp_path / "out", missing_size="fix")
    assert np.array_equal(box, bright(image)) and found == {"missing_size": 1}


@pytest.mark.parametrize("format", writable())
def test_boxes_stay_on_their_object_through_every_writer(format, tmp_path):
    """Whatever kind of image: deep, grey, palette, transparent, turned by its EXIF; as written, and
    read again.
    """
    kinds = [
        ("jpg", "CMYK", 6),
        ("jpg", "L", 7),
        ("png", "I;16", 1),
        ("png", "P", 1),
        ("png", "RGBA", 8),
        ("tif", "RGB", 5),
        ("tif", "I;16", 1),
        ("webp", "RGBA", 3),
        ("bmp", "P", 1),
        ("bmp", "RGB", 1),
    ]
    for number, (suffix, mode, orientation) in enumerate(kinds):
        shown = TURNS[orientation](scene())
        root = one_image_set(
            tmp_path / f"{number}", suffix, orientation, bright(shown), shown.shape[:2]
        )
        put(root / f"JPEGImages/a.{suffix}", encoded(suffix, mode, orientation))
        convert(root, tmp_path / f"{number}-out", format, DataConfig(source=str(root)))
        box, image, found = prepared_box(
            tmp_path / f"{number}-out", tmp_path / f"{number}-prepared"
        )
        assert np.abs(np.subtract(box, bright(image))).max() <= 0.01 and found == {}, (
            suffix,
            mode,
            orientation,
        )


def promised(width: int, height: int) -> bytes:
    """A PNG whose header promises so many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + crc

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes((8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


FIRST = """
import sys
for name in sys.argv[1].split(","):
    __import__(name)
import cv2, numpy
from engine.data import images
from engine.errors import DataError
asked = []
decode = cv2.imdecode
def spied(data, flags):
    try:
        return decode(data, flags)
    except cv2.error as error:
        asked.append(str(error))
        raise
cv2.imdecode = spied
try:
    images.decode_image(open(sys.argv[2], "rb").read(), "bomb.png")
except DataError as error:
    assert "more than 179 million pixels; cut it into tiles" in str(error), error
    assert images.IS_LIMITED == (sys.argv[1] == "engine"), images.IS_LIMITED
    assert images.MAX_PIXELS == 178_956_970, "the limit that engine gives to OpenCV"
    assert len(asked) == images.IS_LIMITED and all("PIXELS" in each for each in asked), asked
    print("refused")
"""


@pytest.mark.parametrize("first", ["engine", "cv2,engine"])
def test_no_decoder_unpacks_more_than_the_limit(tmp_path, first):
    (tmp_path / "bomb.png").write_bytes(promised(30_000, 30_000))
    done = subprocess.run(
        [sys.executable, "-c", FIRST, first, str(tmp_path / "bomb.png")],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if not k.startswith("OPENCV_")},
    )
    assert done.stdout == "refused\n", done.stderr
