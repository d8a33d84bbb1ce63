"""Images that are a part of another one: cut out, perhaps scaled, turned, mirrored.

Keypoints with binary descriptors (ORB, Rublee et al. 2011) of a small copy of each image are
gathered while it is decoded. Descriptors that are alike name the pairs worth a look (bit sampling,
as in `near_duplicates`); where the keypoints of a pair agree on one similarity transform that puts
the frame of one image inside the other, the pixels of both decide, block by block. Work and memory
are bounded: each descriptor meets a few neighbours, each image a few others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

WORK_PX = 256  # longer side of the copy on which keypoints are found
LEAST_PX = 32  # an image with a shorter side has none
POINTS = 96  # of an image, at most
DESCRIPTOR_BYTES = 32
THUMB_PX = 64  # side of the square miniature whose pixels are compared

# Which pairs are worth a look
TABLES = 8
KEY_BITS = 32
LEAST_BITS = 10  # that a bucket shares
WINDOW = 8  # neighbours that a descriptor meets in a bucket
SEED = 20_261_130  # of the sampled bits
ALIKE_BITS = 44  # of 256 in which descriptors of one point may differ
LEAST_VOTES = 4  # meetings of alike descriptors
PARTNERS = 8  # others that an image is compared with, at most

# When one is a part of the other
LEAST_POINTS = 8  # that agree on the transform
TRIED = 40  # matches of a pair, the closest ones, from which transforms are made
POINT_PX = 4.0  # of WORK_PX, by which a point may miss
FRAME = 0.03  # of a side, by which the part may reach over the edge
LEAST_AREA = 0.35  # of the whole image that the part must show
# What shows more is the same frame, which the hash of `near_duplicates` is to judge: frames of one
# fixed camera would pass here.
MOST_AREA = 0.975
GRID = 4  # blocks a side
SHAPE_LEVELS = 4.0  # standard deviation in grey levels from which a block says something
BLOCK_ALIKE = 0.6  # correlation of a block
MOST_BLOCKS = 0.9  # fraction of the blocks that must be alike
ALIKE = 0.9  # correlation of the whole part


@dataclass(frozen=True)
class Keypoints:
    """What is kept of one image to find its parts, about 10 kB. n: keypoints, at most POINTS."""

    size: tuple[int, int]  # (w, h) of the copy with keypoints
    points: bytes  # (n, 2) float32, x and y in pixels of that copy
    descriptors: bytes  # (n, 32) uint8
    mirrored: bytes  # the same of the image mirrored left-right, point by point
    thumb: bytes  # (64, 64) uint8, the whole image


def miniature(grey: np.ndarray) -> bytes:
    """(64, 64) uint8 of (H, W) grey levels, whatever their aspect."""
    return cv2.resize(grey, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA).tobytes()


def open_miniature(thumb: bytes) -> np.ndarray:
    """(64, 64) uint8."""
    return np.frombuffer(thumb, np.uint8).reshape(THUMB_PX, THUMB_PX)


def find_keypoints(grey: np.ndarray) -> Keypoints | None:
    """The keypoints of (H, W) uint8 grey levels; None for an image too small or too plain."""
    h, w = grey.shape
    gain = WORK_PX / max(h, w)
    size = (max(round(w * gain), 1), max(round(h * gain), 1))
    if min(h, w, *size) < LEAST_PX:
        return None
    how = cv2.INTER_AREA if gain < 1 else cv2.INTER_LINEAR
    small = cv2.resize(grey, size, interpolation=how)
    orb = cv2.ORB_create(POINTS, 1.2, 6, 15, 0, 2, cv2.ORB_HARRIS_SCORE, 31, 10)
    found = orb.detect(small, None)
    found, descriptors = orb.compute(small, found)
    if descriptors is None or len(found) < LEAST_POINTS:
        return None
    flipped = [
        cv2.KeyPoint(
            size[0] - 1 - p.pt[0],
            p.pt[1],
            p.size,
            (180 - p.angle) % 360,
            p.response,
            p.octave,
            number,
        )
        for number, p in enumerate(found)
    ]
    # Points too near the edge are left out there and here alike; class_id says which are left.
    flipped, mirrored = orb.compute(np.ascontiguousarray(small[:, ::-1]), flipped)
    left = [p.class_id for p in flipped]
    if mirrored is None or len(left) < LEAST_POINTS:
        return None
    points = np.array([found[i].pt for i in left], np.float32)
    return Keypoints(
        size, points.tobytes(), descriptors[left].tobytes(), mirrored.tobytes(), miniature(grey)
    )


@dataclass(frozen=True)
class Part:
    """Image `part` shows `area` (0 to 1) of image `whole`; both are places in a list."""

    part: int
    whole: int
    area: float


def find_parts(
    images: Sequence[Keypoints],
    known: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Part]:
    """The pairs of which one image is a part of the other, in the order of the list.

    known: for two arrays of places, whether the pairs are known to be copies, which are not looked
    at. progress: is called with pairs done and pairs in all.
    """
    pairs = candidates(images, known)
    opened = _Opened(images)
    found = []
    for number, (one, other) in enumerate(pairs.tolist()):
        if progress is not None and number % 256 == 0:
            progress(number, len(pairs))
        part = compare(opened, one, other)
        if part is not None:
            found.append(part)
    return found


# Which pairs are worth a look ---------------------------------------------------------------------


def candidates(
    images: Sequence[Keypoints],
    known: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Pairs of places (m, 2) int64 with the first the lower, whose descriptors are often alike: for
    each image the PARTNERS with most of them.
    """
    n = len(images)
    pairs, votes = _votes(images)
    if known is not None and len(pairs):
        strangers = ~known(pairs // n, pairs % n)
        pairs, votes = pairs[strangers], votes[strangers]
    often = votes >= LEAST_VOTES
    pairs, votes = pairs[often], votes[often]
    one, other = pairs // max(n, 1), pairs % max(n, 1)
    # The rank of each pair among those of an image, for both of its images.
    ends, both = np.concatenate((one, other)), np.tile(np.arange(len(pairs)), 2)
    order = np.lexsort((both, -votes[both], ends))
    first = np.searchsorted(ends[order], ends[order])
    chosen = np.unique(both[order][np.arange(len(order)) - first < PARTNERS])
    return np.stack((one[chosen], other[chosen]), 1)


def _votes(images: Sequence[Keypoints]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of images as `lower * n + higher`, ascending, and how often descriptors of them met and
    were alike.
    """
    n = len(images)
    upright = _stacked([image.descriptors for image in images])
    if not len(upright):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    mirrored = _stacked([image.mirrored for image in images])
    count = [len(image.descriptors) // DESCRIPTOR_BYTES for image in images]
    owner = np.tile(np.repeat(np.arange(n), count), 2)
    rows = np.concatenate((upright, mirrored))
    words = rows.view(np.uint64)  # (m, 4)
    is_upright = np.arange(len(rows)) < len(upright)
    pairs, votes = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for order, bucket in _tables(rows):
        met = []
        for offset in range(1, min(WINDOW, len(rows) - 1) + 1):
            here = np.nonzero(bucket[offset:] == bucket[:-offset])[0]
            a, b = order[here], order[here + offset]
            # Two mirrored ones say what the upright ones say.
            use = (owner[a] != owner[b]) & (is_upright[a] | is_upright[b])
            a, b = a[use], b[use]
            alike = np.bitwise_count(words[a] ^ words[b]).sum(1, dtype=np.int64) <= ALIKE_BITS
            low, high = np.minimum(owner[a], owner[b]), np.maximum(owner[a], owner[b])
            met.append((low * n + high)[alike])
        fresh, counts = np.unique(np.concatenate(met), return_counts=True)
        pairs, votes = _added(pairs, votes, fresh, counts)
    return pairs, votes


def _added(
    pairs: np.ndarray, votes: np.ndarray, fresh: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    found, inverse = np.unique(np.concatenate((pairs, fresh)), return_inverse=True)
    total = np.bincount(inverse, np.concatenate((votes, counts)), len(found))
    return found, total.astype(np.int64)


def _tables(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For each table the order of the descriptors (m, 32) and the bucket of each, in that order."""
    bits = max(math.ceil(math.log2(max(len(rows), 2))), LEAST_BITS)
    columns = np.ascontiguousarray(np.unpackbits(rows, axis=1).T)  # (256, m)
    random = np.random.default_rng(SEED)
    place = np.arange(len(rows), dtype=np.uint64)
    for _ in range(TABLES):
        chosen = random.permutation(len(columns))[:KEY_BITS]
        key = np.packbits(columns[chosen], axis=0).T.copy().view(">u4")[:, 0].astype(np.uint64)
        ordered = np.sort(key << np.uint64(32) | place)
        yield (
            (ordered & np.uint64(0xFFFFFFFF)).astype(np.int64),
            ordered >> np.uint64(64 - min(bits, KEY_BITS)),
        )


def _stacked(rows: Sequence[bytes]) -> np.ndarray:
    """(m, 32) uint8."""
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, DESCRIPTOR_BYTES)


# When one is a part of the other ------------------------------------------------------------------


class _Opened:
    """Keypoints as arrays, by place."""

    def __init__(self, images: Sequence[Keypoints]) -> None:
        self.images = images

    def points(self, place: int) -> np.ndarray:
        """(n,) complex, x + i y."""
        xy = np.frombuffer(self.images[place].points, np.float32).reshape(-1, 2).astype(float)
        return xy[:, 0] + 1j * xy[:, 1]

    def words(self, place: int, mirrored: bool) -> np.ndarray:
        """(n, 4) uint64."""
        image = self.images[place]
        return np.frombuffer(image.mirrored if mirrored else image.descriptors, np.uint64).reshape(
            -1, 4
        )

    def thumb(self, place: int) -> np.ndarray:
        return open_miniature(self.images[place].thumb)


def compare(opened: _Opened, one: int, other: int) -> Part | None:
    """Whether one of two images is a part of the other, as it is or mirrored."""
    for mirrored in (False, True):
        found = _transform(opened, one, other, mirrored)
        if found is None:
            continue
        gain, shift = found  # a point z of `other` (mirrored) is at gain * z + shift in `one`
        back = (1 / gain, -shift / gain)
        part = _shown(opened, other, one, (gain, shift), mirrored, of_part=True)
        if part is None:
            part = _shown(opened, one, other, back, mirrored, of_part=False)
        if part is not None:
            return part
    return None


def _transform(
    opened: _Opened, one: int, other: int, mirrored: bool
) -> tuple[complex, complex] | None:
    """The similarity transform on which most matches of keypoints agree, from `other` (mirrored) to
    `one`; None where too few do.
    """
    a, b = opened.words(one, False), opened.words(other, mirrored)
    bits = np.bitwise_count(a[:, None] ^ b[None]).sum(-1, dtype=np.int64)  # (na, nb)
    nearest = bits.argmin(1)
    mine = np.arange(len(a))
    mutual = (bits.argmin(0)[nearest] == mine) & (bits[mine, nearest] <= ALIKE_BITS)
    mine, theirs = mine[mutual], nearest[mutual]
    if len(mine) < LEAST_POINTS:
        return None
    order = np.argsort(bits[mine, theirs], kind="stable")
    w, z = opened.points(one)[mine[order]], opened.points(other)[theirs[order]]
    if mirrored:
        z = opened.images[other].size[0] - 1 - z.conj()
    # Every two of the closest matches give a transform: (k,) gains and shifts.
    p, q = np.triu_indices(min(len(w), TRIED), 1)
    apart = (np.abs(z[p] - z[q]) > 4 * POINT_PX) & (np.abs(w[p] - w[q]) > 4 * POINT_PX)
    p, q = p[apart], q[apart]
    if not len(p):
        return None
    gains = (w[p] - w[q]) / (z[p] - z[q])
    shifts = w[p] - gains * z[p]
    fits = np.abs(gains[:, None] * z + shifts[:, None] - w) <= POINT_PX  # (k, matches)
    agree = fits[fits.sum(1).argmax()]
    for _ in range(2):
        if agree.sum() < LEAST_POINTS:
            return None
        gain, shift = _fit(z[agree], w[agree])
        agree = np.abs(gain * z + shift - w) <= POINT_PX
    return (gain, shift) if agree.sum() >= LEAST_POINTS and abs(gain) > 0 else None


def _fit(z: np.ndarray, w: np.ndarray) -> tuple[complex, complex]:
    """The similarity transform that brings `z` closest to `w` in the sense of least squares."""
    dz, dw = z - z.mean(), w - w.mean()
    gain = (dz.conj() * dw).sum() / max((abs(dz) ** 2).sum(), 1e-12)
    return complex(gain), complex(w.mean() - gain * z.mean())


def _shown(
    opened: _Opened,
    part: int,
    whole: int,
    transform: tuple[complex, complex],
    mirrored: bool,
    of_part: bool,
) -> Part | None:
    """`part` as a part of `whole`, where its frame lies inside and the pixels are the same; else
    None.

    transform: from pixels of `part` to those of `whole`. mirrored: one of the two is mirrored;
    of_part: that is the part.
    """
    gain, shift = transform
    w, h = opened.images[part].size
    width, height = opened.images[whole].size
    area = w * h * abs(gain) ** 2 / (width * height)
    corners = gain * np.array([0, w, 1j * h, w + 1j * h]) + shift
    inside = (
        (corners.real >= -FRAME * width)
        & (corners.real <= (1 + FRAME) * width)
        & (corners.imag >= -FRAME * height)
        & (corners.imag <= (1 + FRAME) * height)
    )
    if not LEAST_AREA <= area <= MOST_AREA or not inside.all():
        return None
    small, large = opened.thumb(part), opened.thumb(whole)
    if mirrored:
        small, large = (small[:, ::-1], large) if of_part else (small, large[:, ::-1])
    # Where each pixel of the part's miniature lies in that of the whole.
    middle = (np.arange(THUMB_PX) + 0.5) / THUMB_PX
    places = gain * (middle[None] * w + 1j * middle[:, None] * h) + shift
    seen = cv2.remap(
        np.ascontiguousarray(large),
        (places.real / width * THUMB_PX - 0.5).astype(np.float32),
        (places.imag / height * THUMB_PX - 0.5).astype(np.float32),
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    # The part's miniature is the finer one.
    blur = 0.5 / math.sqrt(area)
    small = cv2.GaussianBlur(np.ascontiguousarray(small), (0, 0), blur)
    return Part(part, whole, area) if same_pixels(small, seen) else None


def same_pixels(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two aligned miniatures (64, 64) uint8 show the same, nearly everywhere: strangers on
    the same ground do not.
    """
    a, b = _blocks(one), _blocks(other)
    whole_a, whole_b = a.reshape(1, -1), b.reshape(1, -1)
    if _correlation(whole_a, whole_b)[0] < ALIKE:
        return False
    # Brightness and contrast may be others, the same ones everywhere.
    slope = np.std(whole_a) / max(np.std(whole_b), 1e-6)
    b = (b - whole_b.mean()) * slope + whole_a.mean()
    plain = (a.std(1) < SHAPE_LEVELS) & (b.std(1) < SHAPE_LEVELS)
    near = np.abs(a - b).mean(1) < 2 * SHAPE_LEVELS
    alike = np.where(plain, near, _correlation(a, b) >= BLOCK_ALIKE)
    return bool(alike.mean() >= MOST_BLOCKS)


def _blocks(image: np.ndarray) -> np.ndarray:
    """(64, 64) -> (16, 256) float."""
    side = THUMB_PX // GRID
    return (
        image.astype(float)
        .reshape(GRID, side, GRID, side)
        .swapaxes(1, 2)
        .reshape(GRID * GRID, side * side)
    )


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of each row of two (n, k): (n,), 0 where one says nothing."""
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), scale, out=np.zeros(len(a)), where=scale > 1e-9)
