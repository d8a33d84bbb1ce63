"""Boxes and pixels must move together: painted rectangles are found again by colour after each
transform.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.data import transforms as t
from engine.data.transforms import Augment

COLOURS = np.array([[0, 0, 255], [0, 255, 0], [255, 0, 0], [0, 255, 255]], np.uint8)
STILL = Augment(translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def painted(shape: tuple[int, int], boxes: list[list[int]], first_colour: int = 0):
    """A black image with one filled rectangle a box, each in its own colour."""
    image = np.zeros((*shape, 3), np.uint8)
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        image[y1:y2, x1:x2] = COLOURS[first_colour + i]
    classes = np.arange(first_colour, first_colour + len(boxes))
    return image, np.array(boxes, np.float32).reshape(-1, 4), classes


def extent(image: np.ndarray, colour: np.ndarray) -> np.ndarray | None:
    """xyxy of the pixels that are more `colour` than black or grey; None where there are none."""
    near = np.abs(image.astype(int) - colour.astype(int)).max(-1) < 100
    ys, xs = np.nonzero(near)
    return np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) if len(ys) else None


def assert_boxes_fit(image, boxes, classes, tolerance: float = 1.01) -> None:
    for box, label in zip(boxes, classes):
        found = extent(image, COLOURS[label])
        assert found is not None
        np.testing.assert_allclose(box, found, atol=tolerance)


# --- letterbox ------------------------------------------------------------------------------------


def test_letterbox_by_hand():
    image, boxes, _ = painted((50, 100), [[10, 10, 50, 40]])
    out, ratio_pad = t.letterbox(
        image, (65, 64), scaleup=False
    )  # r = .64: 32 x 64, 33 rows left: 16 above, 17 below
    assert out.shape == (65, 64, 3)
    assert ratio_pad == ((0.64, 0.64), (16, 0))
    assert (out[:16] == t.GREY).all() and (out[48:] == t.GREY).all() and (out[16] == 0).all()
    np.testing.assert_allclose(t.to_input(boxes, ratio_pad), [[6.4, 22.4, 32, 41.6]], rtol=1e-6)


def test_letterbox_of_validation_never_enlarges():
    image, _, _ = painted((10, 20), [])
    out, ratio_pad = t.letterbox(image, (64, 64), scaleup=False)
    assert ratio_pad == ((1, 1), (27, 22)) and out.shape == (64, 64, 3)
    assert t.letterbox(image, (64, 64))[1].ratio == (3.2, 3.2)


sides = st.integers(8, 90)


@settings(deadline=None, max_examples=60)
@given(h=sides, w=sides, th=sides, tw=sides, scaleup=st.booleans())
def test_letterbox_round_trip(h, w, th, tw, scaleup):
    image = np.zeros((h, w, 3), np.uint8)
    out, ratio_pad = t.letterbox(image, (th, tw), scaleup)
    assert out.shape == (th, tw, 3)
    boxes = np.array([[0, 0, w, h], [1, 2, w / 2, h / 3]], np.float64)
    mapped = t.to_input(boxes, ratio_pad)
    assert (mapped >= -1e-9).all() and (mapped[:, [2, 3]] <= np.array([tw, th]) + 1e-9).all()
    np.testing.assert_allclose(t.to_original(mapped, ratio_pad, (h, w)), boxes, atol=1e-9)


def test_letterbox_keeps_boxes_on_their_pixels():
    image, boxes, classes = painted((40, 80), [[8, 8, 40, 32]])
    for size in [(64, 64), (96, 64), (32, 96)]:
        out, ratio_pad = t.letterbox(image, size)
        assert_boxes_fit(out, t.to_input(boxes, ratio_pad), classes)


# --- mosaic and affine ----------------------------------------------------------------------------


def tiles(size: tuple[int, int]):
    h, w = size
    shapes = [(h, w), (h // 2, w), (h, w // 2), (h, w)]
    return [
        painted((a, b), [[b // 4, a // 4, b // 4 * 3, a // 4 * 3]], first_colour=i)
        for i, (a, b) in enumerate(shapes)
    ]


@pytest.mark.parametrize("size", [(64, 64), (48, 96)])
@pytest.mark.parametrize("seed", range(8))
def test_mosaic_boxes_stay_inside_and_cover_their_pixels(size, seed):
    image, boxes, classes = t.mosaic(tiles(size), size, rng(seed))
    assert image.shape == (2 * size[0], 2 * size[1], 3)
    assert (
        (boxes >= 0).all()
        and (boxes[:, 2] <= 2 * size[1]).all()
        and (boxes[:, 3] <= 2 * size[0]).all()
    )
    assert_boxes_fit(image, boxes, classes, tolerance=0)  # tiles are copied, not interpolated
    gone = set(range(4)) - set(classes.tolist())
    assert all(extent(image, COLOURS[i]) is None for i in gone)


def test_mosaic_centre_lies_in_the_middle_half():
    size = (20, 40)
    for seed in range(50):
        (y0, x0), _, _, (cy, cx) = t.mosaic_offsets([(20, 40)] * 4, size, rng(seed))
        assert 10 <= cy < 30 and 20 <= cx < 60 and (y0, x0) == (cy - 20, cx - 40)


def test_affine_at_rest_changes_nothing():
    image, boxes, classes = painted((64, 48), [[8, 8, 30, 20]])
    out = t.random_affine(image, boxes, classes, (64, 48), rng(), STILL)
    for got, want in zip(out, (image, boxes, classes)):
        np.testing.assert_array_equal(got, want)


def test_affine_translation_by_hand():
    image, boxes, classes = painted((64, 64), [[8, 8, 30, 20]])
    matrix = t._translation(4, 10)
    np.testing.assert_array_equal(
        t.warp_boxes(boxes, classes, matrix, (64, 64))[0], [[18, 12, 40, 24]]
    )
    moved = t.warp_image(image, matrix, (64, 64))
    np.testing.assert_array_equal(moved[4:, 10:], image[:-4, :-10])
    assert (moved[:4] == t.GREY).all() and (moved[:, :10] == t.GREY).all()


def test_scaling_is_exact_in_corner_coordinates():
    """Twice the size: every pixel becomes 2 x 2. A warp that counts pixel centres would be half a
    pixel off.
    """
    image, boxes, classes = painted((32, 32), [[4, 6, 20, 26]])
    matrix = np.diag([2.0, 2.0, 1.0])
    out = t.warp_image(image, matrix, (64, 64))
    assert_boxes_fit(out, t.warp_boxes(boxes, classes, matrix, (64, 64))[0], classes, tolerance=0)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(80, 80), (64, 96)])
def test_affine_boxes_cover_their_pixels(seed, size):
    image, boxes, classes = painted(size, [[10, 10, 30, 40], [40, 20, 60, 60]])
    strong = Augment(translate=0.2, scale=0.4)
    assert_boxes_fit(*t.random_affine(image, boxes, classes, size, rng(seed), strong))


@pytest.mark.parametrize("seed", range(6))
def test_rotated_sheared_boxes_enclose_their_pixels(seed):
    image, boxes, classes = painted((96, 96), [[30, 30, 66, 50]])
    wild = Augment(degrees=40, shear=10, perspective=0.0005, translate=0, scale=0.1)
    out, boxes, classes = t.random_affine(image, boxes, classes, (96, 96), rng(seed), wild)
    assert_boxes_fit(
        out, boxes, classes, tolerance=2.5
    )  # sharp corners of a turned box cover less than half a pixel


@pytest.mark.parametrize(
    "augment", [Augment(), Augment(degrees=20, shear=5), Augment(perspective=0.001)]
)
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_lean_mosaic_equals_the_plain_one(augment, size):
    for seed in range(10):
        plain = rng(seed)
        whole = t.mosaic(tiles(size), size, plain)
        want = t.random_affine(*whole, size, plain, augment)
        got = t.mosaic_affine(tiles(size), size, rng(seed), augment)
        np.testing.assert_array_equal(got[1], want[1])
        np.testing.assert_array_equal(got[2], want[2])
        # Positions are rounded to 1/32 px; at an edge of black to full colour that is 8 levels.
        assert np.abs(got[0].astype(int) - want[0].astype(int)).max() <= 16
        assert np.abs(got[0].astype(int) - want[0].astype(int)).mean() < 0.2


def test_box_filter_by_hand():
    whole = np.array(
        [
            [0, 0, 10, 10],
            [0, 0, 2, 10],
            [-90, 0, 10, 10],
            [-89, 0, 10, 10],
            [0, 0, 300, 3],
            [0, 0, 303, 3],
        ]
    )
    clipped = np.array(
        [
            [0, 0, 10, 10],
            [0, 0, 2, 10],
            [0, 0, 10, 10],
            [0, 0, 10, 10],
            [0, 0, 299, 3],
            [0, 0, 303, 3],
        ]
    )
    assert t.keep_boxes(whole * 1.0, clipped * 1.0).tolist() == [
        True,
        False,
        False,
        True,
        True,
        False,
    ]


def test_no_boxes_pass_through_everything():
    empty = [painted((32, 32), []) for _ in range(4)]
    augment = Augment(fliplr=1, flipud=1, degrees=10)
    for image, boxes, classes in (
        t.mosaic(empty, (32, 32), rng()),
        t.mosaic_affine(empty, (32, 32), rng(), augment),
        t.random_affine(*empty[0], (32, 32), rng(), augment),
        t.mixup(empty[0], empty[1], rng()),
        t.cutmix(empty[0], empty[1], rng()),
        (*t.random_flips(empty[0][0], empty[0][1], rng(), augment), empty[0][2]),
    ):
        assert boxes.shape == (0, 4) and classes.shape == (0,) and image.dtype == np.uint8


# --- colour, flips, mixup -------------------------------------------------------------------------


def test_flips_move_boxes_with_pixels_and_undo_themselves():
    image, boxes, classes = painted((40, 64), [[4, 8, 20, 16], [30, 20, 60, 36]])
    for flip in (t.flip_lr, t.flip_ud):
        once = flip(image, boxes)
        assert_boxes_fit(*once, classes, tolerance=0)
        twice = flip(*once)
        np.testing.assert_array_equal(twice[0], image)
        np.testing.assert_array_equal(twice[1], boxes)


def test_hsv_gains():
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert t.hsv(image, rng(), STILL) is image
    before = image.copy()
    out = t.hsv(image, rng(3), Augment())
    np.testing.assert_array_equal(image, before)  # never in place: the image may be the cached one
    assert out.shape == image.shape and out.dtype == np.uint8 and (out != image).any()
    grey = np.full((4, 4, 3), 100, np.uint8)
    for seed in range(5):  # grey has no saturation: only its value moves
        out = t.hsv(grey, rng(seed), Augment(hsv_v=0.4))
        assert (out == out[0, 0, 0]).all() and 59 <= out[0, 0, 0] <= 140


def test_mixup_keeps_all_boxes_and_blends_by_halves():
    first, second = (
        painted((32, 32), [[4, 4, 20, 20]]),
        painted((32, 32), [[10, 10, 30, 30]], first_colour=1),
    )
    image, boxes, classes = t.mixup(first, second, rng())
    assert classes.tolist() == [0, 1] and boxes.shape == (2, 4)
    red, green = int(image[5, 5, 2]), int(image[25, 25, 1])
    assert abs(red + green - 255) <= 1 and 64 < red < 191


class Fixed:
    """A generator that draws these numbers in [0, 1)."""

    def __init__(self, *numbers):
        self.numbers = list(numbers)

    def random(self):
        return self.numbers.pop(0)


def test_cutmix_by_hand():
    """A hole of half the side around (24, 24) of 32 x 32: rows and columns 16 to 32."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    boxes = np.array([[2, 2, 10, 10], [8, 18, 24, 30], [18, 18, 30, 30], [12, 4, 30, 30]])
    others = np.array([[20, 20, 28, 28], [0, 0, 30, 30], [0, 0, 17, 17]])
    first = (pixels[0], boxes.astype(np.float32), np.arange(4))
    second = (pixels[1], others.astype(np.float32), np.arange(4, 7))
    before = pixels[0].copy()
    image, found, classes = t.cutmix(first, second, Fixed(0.75, 0.75, 0.75))
    np.testing.assert_array_equal(image[:16], first[0][:16])
    np.testing.assert_array_equal(image[:, :16], first[0][:, :16])
    np.testing.assert_array_equal(image[16:, 16:], second[0][16:, 16:])
    assert found.tolist() == [
        [2, 2, 10, 10],  # beside it
        [8, 18, 16, 30],  # all of its height is covered from x = 16 on
        [12, 4, 30, 30],  # a corner is covered: it reaches as far as before. The third has gone
        [20, 20, 28, 28],  # of the second image: inside
        [16, 16, 30, 30],  # cut at the edges; the last one shows 1 x 1 pixel and goes
    ]
    assert classes.tolist() == [0, 1, 3, 4, 5]
    np.testing.assert_array_equal(first[0], before)  # never in place


@pytest.mark.parametrize("seed", range(30))
def test_cutmix_leaves_boxes_inside_and_worth_learning(seed):
    r = np.random.default_rng(seed)
    samples = []
    for _ in range(2):
        corner = r.uniform(0, 50, (6, 2))
        boxes = np.concatenate((corner, corner + r.uniform(3, 40, (6, 2))), 1).clip(0, 64)
        image = r.integers(0, 256, (64, 64, 3), np.uint8)
        samples.append((image, boxes.astype(np.float32), np.arange(6)))
    image, boxes, classes = t.cutmix(*samples, rng(seed))
    assert len(boxes) == len(classes) and boxes.dtype == np.float32
    assert (boxes >= 0).all() and (boxes <= 64).all()
    assert t.keep_boxes(boxes, boxes).all()
    same = [(image == each[0]).all(-1) for each in samples]
    assert (same[0] | same[1]).all()


def test_the_same_generator_state_gives_the_same_bytes():
    for seed in range(3):
        a, b = (
            t.mosaic_affine(tiles((64, 64)), (64, 64), rng(seed), Augment(degrees=5))
            for _ in range(2)
        )
        assert a[0].tobytes() == b[0].tobytes() and a[1].tobytes() == b[1].tobytes()
