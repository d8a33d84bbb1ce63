"""Near duplicates: what the hash survives and what it does not, and a search that finds what
comparing all would.
"""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engine.datasets import near_duplicates as module
from engine.datasets.image_scan import inspect_image
from engine.datasets.near_duplicates import (
    HASH_BITS,
    as_array,
    dhash,
    grey_levels,
    hamming,
    near_links,
    tables_for,
)

THRESHOLD = 45


def scene(seed: int, size: int = 96) -> np.ndarray:
    """A smooth image, uint8 BGR, as different from another seed's as two photographs."""
    small = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    return cv2.resize(small, (size, size), interpolation=cv2.INTER_CUBIC)


def look(image: np.ndarray) -> bytes:
    return dhash(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))


def distance(a: bytes, b: bytes) -> int:
    words = as_array([a, b]).view(np.uint16)
    return int(hamming(words, np.array([0]), np.array([1]))[0])


@pytest.mark.parametrize(
    "change",
    [
        lambda i: cv2.GaussianBlur(i, (0, 0), 1.5),
        lambda i: cv2.resize(i, (140, 60), interpolation=cv2.INTER_LINEAR),
        lambda i: cv2.convertScaleAbs(i, alpha=0.8, beta=20),
        lambda i: cv2.imdecode(
            cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, 25])[1], cv2.IMREAD_COLOR
        ),
    ],
    ids=["focus", "size", "brightness", "compression"],
)
def test_what_the_hash_survives(change):
    for seed in range(5):
        assert distance(look(scene(seed)), look(change(scene(seed)))) <= THRESHOLD


def test_strangers_and_mirror_images_are_apart():
    looks = [look(scene(seed)) for seed in range(12)]
    assert min(distance(a, b) for i, a in enumerate(looks) for b in looks[:i]) > 70
    assert distance(looks[0], look(scene(0)[:, ::-1])) > 70


def test_an_image_with_too_little_shape_has_no_hash():
    """Otherwise all images of small things on a blank ground would be one family, and on one side
    of the split.
    """
    blank = np.full((64, 64, 3), 200, np.uint8)
    assert look(blank) == b""
    cv2.rectangle(blank, (10, 10), (30, 40), (20, 60, 200), -1)
    assert look(blank) == b"" and len(look(scene(0))) == 32


def test_every_mode_of_an_image_gives_the_look_of_what_is_shown():
    image = Image.fromarray(scene(3)[..., ::-1])
    plain = dhash(grey_levels(image))
    deep = Image.fromarray(np.asarray(image.convert("L"), np.uint16) * 257)
    for other in (image.convert("L"), image.convert("RGBA"), image.convert("CMYK"), deep):
        assert distance(plain, dhash(grey_levels(other))) <= 3


def test_a_rotated_file_has_the_look_of_the_rotated_image(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(scene(4)[:80, :, ::-1]).save(tmp_path / "a.jpg", exif=exif, quality=95)
    shape = inspect_image((tmp_path / "a.jpg").read_bytes())
    upright = cv2.rotate(scene(4)[:80], cv2.ROTATE_90_CLOCKWISE)
    assert shape.shown == upright.shape[:2] and distance(shape.dhash, look(upright)) <= 10


# --- the search -----------------------------------------------------------------------------------


def flipped(row: np.ndarray, bits: int, random: np.random.Generator) -> np.ndarray:
    mask = np.zeros(HASH_BITS, np.uint8)
    mask[random.permutation(HASH_BITS)[:bits]] = 1
    return row ^ np.packbits(mask)


def planted(n: int, seed: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Random hashes, a fifth of them 0 to 45 bits from another; those at exactly 46 bits are
    strangers.
    """
    random = np.random.default_rng(seed)
    hashes = random.integers(0, 256, (n, 32), np.uint8)
    pairs = random.permutation(n)[: n // 5 * 2].reshape(-1, 2).tolist()
    for k, (i, j) in enumerate(pairs):
        hashes[j] = flipped(hashes[i], k % (THRESHOLD + 2), random)
    return hashes, [
        (min(pair), max(pair)) for k, pair in enumerate(pairs) if k % (THRESHOLD + 2) <= THRESHOLD
    ]


def connected(n: int, links: np.ndarray) -> list[int]:
    root = list(range(n))
    for _ in range(n):
        before = root.copy()
        for i, j in links.tolist():
            root[i] = root[j] = min(root[i], root[j])
        if root == before:
            break
    return root


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 120), st.integers(0, 10_000))
def test_links_are_within_the_threshold_and_connect_all_that_is(n, seed):
    """Against the definition, pair by pair."""
    hashes, _ = planted(n, seed)
    links, distances = near_links(hashes, THRESHOLD)
    apart = {
        (i, j): distance(hashes[i].tobytes(), hashes[j].tobytes())
        for j in range(n)
        for i in range(j)
    }
    assert [apart[tuple(pair)] for pair in links.tolist()] == distances.tolist()
    root = connected(n, links)
    assert len(links) == n - len(set(root)), "a forest"
    for (i, j), bits in apart.items():
        assert bits > THRESHOLD or root[i] == root[j]


def test_tables_find_what_comparing_all_finds(monkeypatch):
    """The search for many hashes, on few enough to know the answer."""
    hashes, pairs = planted(3000, seed=5)
    expected = {tuple(pair) for pair in near_links(hashes, THRESHOLD)[0].tolist()}
    monkeypatch.setattr(module, "EXACT_BELOW", 0)
    assert (
        {tuple(pair) for pair in near_links(hashes, THRESHOLD)[0].tolist()}
        == expected
        == set(pairs)
    )


def test_a_scene_of_many_frames_is_one_family_in_linear_space(monkeypatch):
    random = np.random.default_rng(0)
    middle = random.integers(0, 256, 32, np.uint8)
    hashes = np.stack([flipped(middle, int(bits), random) for bits in random.integers(0, 21, 800)])
    for exact_below in (0, 4096):
        monkeypatch.setattr(module, "EXACT_BELOW", exact_below)
        links, _ = near_links(hashes, THRESHOLD)
        assert len(links) == 799 and len(set(connected(800, links))) == 1


def test_the_number_of_tables_grows_slower_than_the_number_of_images():
    """Work is n times tables: ten times the images must be far from a hundred times the work."""
    small, large = (n * tables_for(n, THRESHOLD)[1] for n in (100_000, 1_000_000))
    assert large / small < 10**1.35


@pytest.mark.parametrize("n", [0, 1])
def test_no_pairs_without_two_images(n):
    links, distances = near_links(np.zeros((n, 32), np.uint8), THRESHOLD)
    assert links.shape == (0, 2) and distances.shape == (0,)
