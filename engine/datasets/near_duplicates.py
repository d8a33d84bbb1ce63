"""Images that show nearly the same: a 256-bit difference hash (dHash), and the pairs of hashes
within a distance.

The hash asks of a 16 x 17 grey miniature, cell by cell, whether its right neighbour is brighter. It
survives another focus, brightness, size or compression, not another crop or rotation. What it would
be of the image mirrored or turned by quarters follows from its bits and from those of a second
hash, of the image with rows and columns exchanged. The search is locality-sensitive hashing by bit
sampling (Indyk and Motwani 1998): tables of randomly chosen bits, sized so that a pair at the
threshold is missed with a probability below one in a million; its time grows like n^1.3, not n^2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import cv2
import numpy as np
from PIL import Image

HASH_BITS = 256
HASH_BYTES = HASH_BITS // 8
CELLS = (17, 16)  # (w, h) of the miniature
# a large image is first averaged over whole pixels down to about so many a cell, which is several
# times faster
FINER = 8
FLAT_LEVELS = 0.5  # neighbours closer than this, of 256 grey levels, say nothing
# fraction of neighbours that must differ: on a blank ground a few edges would make strangers alike
LEAST_SHAPE = 0.5

SYMMETRIC_BITS = 45  # an image so near its own mirror image is not looked for mirrored

EXACT_BELOW = 4096  # hashes; fewer are compared each with each, which is then quicker
MISS = 1e-6  # probability that a pair exactly at the threshold is in no table
KEY_BITS = 32  # a table is sorted by so many bits; pairs have in common the first log2(n) of them
# in a bucket fuller than this an image meets its nearest neighbours in the order of the remaining
# bits
WINDOW = 32
ROWS_AT_ONCE = 64
SEED = 20_240_607  # of the sampled bits; another one finds the same pairs


def grey_levels(image: Image.Image) -> np.ndarray:
    """A decoded image as uint8 (H, W); 16 bit scaled, transparency dropped."""
    if image.mode.startswith("I"):  # Pillow would cut it off at 255
        return np.clip(np.asarray(image, np.int64) // 257, 0, 255).astype(np.uint8)
    return np.asarray(image.convert("L"))


def dhash(grey: np.ndarray) -> bytes:
    """The 32-byte hash of (H, W) uint8 grey levels; empty for an image with too little shape to
    tell it by.
    """
    h, w = grey.shape
    step = min(w // (FINER * CELLS[0]), h // (FINER * CELLS[1]))
    if step > 1:
        h, w = h // step, w // step
        grey = cv2.resize(grey[: h * step, : w * step], (w, h), interpolation=cv2.INTER_AREA)
    small = cv2.resize(grey.astype(np.float32), CELLS, interpolation=cv2.INTER_AREA)
    steps = small[:, 1:] - small[:, :-1]  # (16, 16)
    if (np.abs(steps) > FLAT_LEVELS).mean() < LEAST_SHAPE:
        return b""
    return np.packbits(steps > 0).tobytes()


def dhash_pair(grey: np.ndarray) -> tuple[bytes, bytes]:
    """`dhash` of the image, and of the image with rows and columns exchanged; the second is empty,
    too, for an image that is nearly its own mirror image or turned self. A plain sky is: what is
    alike when it is mirrored says nothing then.
    """
    upright, exchanged = dhash(grey), dhash(np.ascontiguousarray(grey.T))
    if upright and exchanged:
        eight = np.concatenate(views(as_array([upright]), as_array([exchanged])))
        own = np.bitwise_count(eight[1:] ^ eight[0]).sum(-1, dtype=np.int64)
        if own.min() <= SYMMETRIC_BITS:
            exchanged = b""
    return upright, exchanged


def views(upright: np.ndarray, exchanged: np.ndarray) -> list[np.ndarray]:
    """The hashes of the eight ways to mirror an image and turn it by quarters: eight (n, 32) uint8.

    upright, exchanged: (n, 32) uint8, the two of `dhash_pair`. The first of the eight is the image
    as it is; the last is the only one whose inverse is another view, the one before it.
    """
    return [*_flips(upright), *_flips(exchanged)[::3], *_flips(exchanged)[1:3]]


def _flips(hashes: np.ndarray) -> list[np.ndarray]:
    """As it is; mirrored left-right; up-down; both: (n, 32) uint8 each."""
    bits = np.unpackbits(hashes, axis=1).reshape(-1, CELLS[1], CELLS[1])
    # Seen in a mirror, "the right neighbour is brighter" is "it is darker".
    mirrored = 1 - bits[:, :, ::-1]
    four = (bits, mirrored, bits[:, ::-1], mirrored[:, ::-1])
    return [np.packbits(each.reshape(-1, HASH_BITS), axis=1) for each in four]


def turned(image: np.ndarray, view: int) -> np.ndarray:
    """A square miniature (S, S) as the view of that place in `views` shows it."""
    if view >= 4:
        image, view = image.T, (0, 3, 1, 2)[view - 4]
    return image[:: -1 if view & 2 else 1, :: -1 if view & 1 else 1]


def mirrored_links(
    upright: np.ndarray,
    exchanged: np.ndarray,
    threshold: int,
    same: Callable[[int, int, int, int], bool],
) -> tuple[np.ndarray, np.ndarray]:
    """Links between images of which one is nearly the other mirrored or turned by quarters, as
    `near_links` has them.

    upright, exchanged: (n, 32) uint8, the two hashes of `dhash_pair`. same: asked whether view v of
    image i is view w of image j, (i, v, j, w), where their hashes are near.
    """
    n = len(upright)

    def accept(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        # Two in one view are near as they are, or not at all.
        ends = zip((a % n).tolist(), (a // n).tolist(), (b % n).tolist(), (b // n).tolist())
        return np.array([v != w and same(i, v, j, w) for i, v, j, w in ends], bool)

    # Seven of the eight: one turned left is the other turned right.
    pairs, distances = near_links(np.concatenate(views(upright, exchanged)[:7]), threshold, accept)
    pairs = pairs % max(n, 1)
    other = pairs[:, 0] != pairs[:, 1]
    return np.sort(pairs[other], axis=1), distances[other]


def as_array(hashes: list[bytes]) -> np.ndarray:
    """Hashes of 32 bytes -> (n, 32) uint8."""
    return np.frombuffer(b"".join(hashes), np.uint8).reshape(-1, HASH_BYTES)


def near_links(
    hashes: np.ndarray,
    threshold: int,
    accept: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Links between hashes at most `threshold` bits apart, and the distance of each: (m, 2) int64
    with i < j, (m,) int64.

    hashes: (n, 32) uint8. accept: which of two arrays of near hashes may be linked. Links form a
    forest: any two hashes within the threshold are connected by them, so a thousand frames of one
    scene give 999 links and not half a million pairs. The result depends on the order of the rows.
    """
    words = np.ascontiguousarray(hashes).view(np.uint16)  # (n, 16)
    forest = _Forest(len(words))
    candidates = (
        _all_pairs(len(words)) if len(words) <= EXACT_BELOW else _table_pairs(hashes, threshold)
    )
    for a, b in candidates:
        strangers = forest.root[a] != forest.root[b]
        a, b = a[strangers], b[strangers]
        distance = hamming(words, a, b)
        near = np.nonzero(distance <= threshold)[0]
        if accept is not None and len(near):
            near = near[accept(a[near], b[near])]
        forest.connect(a[near], b[near], distance[near])
    if not forest.links:
        return np.zeros((0, 2), np.int64), np.zeros(0, np.int64)
    found = np.array(sorted(forest.links), np.int64)
    return found[:, :2], found[:, 2]


def hamming(words: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bits that differ between the rows `a` and `b` of (n, 16) uint16: int64, of the shape of `a`
    and `b`.
    """
    return np.bitwise_count(words[a] ^ words[b]).sum(-1, dtype=np.int64)


class _Forest:
    """Connected components that grow; `root[i]` is the same for all hashes connected with `i`."""

    def __init__(self, n: int) -> None:
        self.root = np.arange(n)
        self.links: list[tuple[int, int, int]] = []

    def connect(self, a: np.ndarray, b: np.ndarray, distance: np.ndarray) -> None:
        if not len(a):
            return
        root = self.root
        for i, j, bits in zip(a.tolist(), b.tolist(), distance.tolist()):
            low, high = sorted((self._find(i), self._find(j)))
            if low != high:
                root[high] = low
                self.links.append((min(i, j), max(i, j), bits))
        while not np.array_equal(root, shorter := root[root]):
            root[:] = shorter

    def _find(self, i: int) -> int:
        root = self.root
        while root[i] != i:
            root[i] = root[root[i]]
            i = int(root[i])
        return i


def _all_pairs(n: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, n - 1, ROWS_AT_ONCE):
        rows = np.arange(start, min(start + ROWS_AT_ONCE, n - 1))
        a, b = np.nonzero(rows[:, None] < np.arange(n)[None])
        yield rows[a], b


def tables_for(n: int, threshold: int) -> tuple[int, int]:
    """(bits that a bucket shares, tables) so that a pair at the threshold is missed with
    probability `MISS` at most.
    """
    bits = max(math.ceil(math.log2(max(n, 2))), 8)
    same = math.prod(
        (HASH_BITS - threshold - i) / (HASH_BITS - i) for i in range(bits)
    )  # one table catches the pair
    return bits, math.ceil(math.log(MISS) / math.log1p(-same))


def _table_pairs(hashes: np.ndarray, threshold: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs that share a bucket of some table."""
    n = len(hashes)
    bits, tables = tables_for(n, threshold)
    columns = np.ascontiguousarray(np.unpackbits(hashes, axis=1).T)  # (256, n)
    random = np.random.default_rng(SEED)
    place = np.arange(n, dtype=np.uint64)
    for _ in range(tables):
        chosen = random.permutation(HASH_BITS)[:KEY_BITS]
        key = np.packbits(columns[chosen], axis=0).T.copy().view(">u4")[:, 0].astype(np.uint64)
        # The place in the low half makes the order, and so the result, the same on every machine.
        ordered = np.sort(key << np.uint64(32) | place)
        bucket = ordered >> np.uint64(64 - bits)
        order = (ordered & np.uint64(0xFFFFFFFF)).astype(np.int64)
        for offset in range(1, min(WINDOW, n - 1) + 1):
            here = np.nonzero(bucket[offset:] == bucket[:-offset])[0]
            if not len(here):
                break
            yield order[here], order[here + offset]
