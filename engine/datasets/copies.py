"""Copies of images among images: nearly the same (compressed again, scaled, brighter), mirrored or
turned, cropped; and which images of val and test have a copy in train.

Links hold images together when splits are made, and are findings where splits are given. The list
of copies is for whoever measures: a test image of which a copy was trained on proves nothing.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.datasets.crops import Keypoints, find_parts, open_miniature, same_pixels
from engine.datasets.near_duplicates import (
    HASH_BITS,
    as_array,
    hamming,
    mirrored_links,
    near_links,
    turned,
    views,
)
from engine.datasets.splits import Candidate, Link, split_groups
from engine.types import SPLITS, ImageRecord

ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Fingerprint:
    """What copies of one image have in common with it."""

    dhash: bytes  # `near_duplicates.dhash_pair`
    exchanged: bytes  # empty: not looked for mirrored
    keypoints: Keypoints | None = None  # None where crops are not looked for, too
    thumb: bytes = b""  # `crops.miniature`, where `exchanged` is there


@dataclass(frozen=True)
class Copy:
    """An image of val or test, and a training image of which it is a copy (or which is one of
    it).
    """

    split: str
    sha256: str
    kind: str  # "exact", "re-encoded", "mirrored" (turned by quarters too), "cropped"
    name: str
    of: str  # name of the training image


def find_links(
    sha256s: Iterable[str],
    prints: Mapping[str, Fingerprint],
    threshold: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Link]:
    """Links between different images that are copies, or nearly; those of the hash form a forest.

    threshold: bits in which hashes of copies differ at most. progress: see `crops.find_parts`.
    """
    shas = sorted(set(sha256s))
    hashed = [sha for sha in shas if prints[sha].dhash]
    pairs, distances = near_links(as_array([prints[sha].dhash for sha in hashed]), threshold)
    links = _as_links(hashed, pairs, distances, "re-encoded")
    whole = [sha for sha in hashed if prints[sha].exchanged]
    upright = as_array([prints[sha].dhash for sha in whole])
    exchanged = as_array([prints[sha].exchanged for sha in whole])

    def same(i: int, v: int, j: int, w: int) -> bool:
        # Hashes of symmetric things are near when mirrored; a copy is the same in every pixel.
        one, other = (open_miniature(prints[whole[n]].thumb) for n in (i, j))
        return same_pixels(turned(one, v), turned(other, w))

    pairs, distances = mirrored_links(upright, exchanged, threshold, same)
    links += _joining(links, _as_links(whole, pairs, distances, "mirrored"))
    return links + _crops(shas, prints, threshold, progress)


def _as_links(
    shas: Sequence[str], pairs: np.ndarray, distances: np.ndarray, kind: str
) -> list[Link]:
    return [
        Link(shas[i], shas[j], bits, kind)
        for (i, j), bits in zip(pairs.tolist(), distances.tolist(), strict=True)
    ]


def _joining(links: Sequence[Link], more: Sequence[Link]) -> list[Link]:
    """Those of `more` that join what is not joined yet, the nearest first."""
    root: dict[str, str] = {}

    def find(sha: str) -> str:
        while root.setdefault(sha, sha) != sha:
            root[sha] = sha = root[root[sha]]
        return sha

    for link in links:
        root[find(link.one)] = find(link.other)
    found = []
    for link in sorted(more, key=lambda link: (link.bits, link.one, link.other)):
        one, other = find(link.one), find(link.other)
        if one != other:
            root[one] = other
            found.append(link)
    return sorted(found, key=lambda link: (link.one, link.other))


def _crops(
    shas: Sequence[str],
    prints: Mapping[str, Fingerprint],
    threshold: int,
    progress: Callable[[int, int], None] | None,
) -> list[Link]:
    """Links between images of which one is a part of the other, and that the hash does not link."""
    with_points = [sha for sha in shas if prints[sha].keypoints is not None]
    hashes = _Hashes(with_points, prints)
    places = np.arange(len(with_points))
    parts = find_parts(
        [prints[sha].keypoints for sha in with_points],
        known=lambda a, b: hashes.nearest(places[a], places[b]) <= threshold,
        progress=progress,
    )
    return [
        Link(*sorted((with_points[part.part], with_points[part.whole])), 0, "cropped", part.area)
        for part in parts
    ]


class _Hashes:
    """The hashes of some images; one without a hash is far from all."""

    def __init__(self, shas: Sequence[str], prints: Mapping[str, Fingerprint]) -> None:
        blank = bytes(HASH_BITS // 8)
        self.has = np.array([bool(prints[sha].dhash) for sha in shas], bool)
        self.mirrors = np.array([bool(prints[sha].exchanged) for sha in shas], bool) & self.has
        upright = as_array([prints[sha].dhash or blank for sha in shas])
        exchanged = as_array([prints[sha].exchanged or blank for sha in shas])
        self.views = [
            np.ascontiguousarray(each).view(np.uint16) for each in views(upright, exchanged)
        ]

    def as_shown(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Bits between images `a` and `b` as they are, HASH_BITS where one has no hash."""
        found = hamming(self.views[0], a, b)
        return np.where(self.has[a] & self.has[b], found, HASH_BITS)

    def nearest(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The same with `b` mirrored and turned, whichever way is nearest."""
        best = self.as_shown(a, b)
        for view in self.views[1:]:
            bits = np.bitwise_count(self.views[0][a] ^ view[b]).sum(-1, dtype=np.int64)
            best = np.where(self.mirrors[a] & self.mirrors[b], np.minimum(best, bits), best)
        return best


# Copies of training images ------------------------------------------------------------------------


def copies_in_train(
    records: Sequence[ImageRecord],
    links: Sequence[Link],
    prints: Mapping[str, Fingerprint],
    threshold: int,
) -> list[Copy]:
    """Images of val and test with a copy in train, each once, with the closest kind of copy: exact,
    re-encoded, mirrored, cropped. A crop of a near duplicate of a training image is one, too.

    records: with their splits. links: as `find_links` gives them.
    """
    train = {record.sha256: record for record in reversed(records) if record.split == "train"}
    held_out = {
        (record.split, record.sha256): record
        for record in reversed(records)
        if record.split in SPLITS and record.split != "train"
    }
    found: dict[str, tuple[str, str]] = {  # sha256 -> (kind, sha256 of the training image)
        sha: ("exact", sha) for _, sha in held_out if sha in train
    }
    crops = defaultdict(list)
    for link in links:
        if link.kind == "cropped":
            crops[link.one].append(link.other)
            crops[link.other].append(link.one)
    for members in _linked(records, links):
        asked = [sha for sha in members if sha not in train]
        trained = [sha for sha in members if sha in train]
        if asked and trained:
            # Its own crops too, and images of which a training image is nearly a duplicate.
            near = _closest(members, trained, prints, threshold)
            for sha in asked:
                if sha in near:
                    found[sha] = near[sha]
                    continue
                for other in sorted(crops[sha]):
                    of = other if other in train else near.get(other, ("", ""))[1]
                    if of:
                        found[sha] = ("cropped", of)
                        break
    return [
        Copy(split, sha, kind, record.name, train[of].name)
        for (split, sha), record in sorted(held_out.items())
        for kind, of in [found.get(sha, ("", ""))]
        if kind
    ]


def _linked(records: Sequence[ImageRecord], links: Sequence[Link]) -> list[list[str]]:
    """SHA-256 of the images that links hold together, ascending, for each such group."""
    present = {record.sha256 for record in records}
    links = [link for link in links if link.one in present and link.other in present]
    shas = sorted({sha for link in links for sha in (link.one, link.other)})
    members = defaultdict(list)
    for sha, key in zip(
        shas, split_groups([Candidate("", s, "") for s in shas], links), strict=True
    ):
        members[key].append(sha)
    return [members[key] for key in sorted(members)]


def _closest(
    members: Sequence[str],
    trained: Sequence[str],
    prints: Mapping[str, Fingerprint],
    threshold: int,
) -> dict[str, tuple[str, str]]:
    """For images within the threshold of a training image: the kind of copy, and the nearest
    training image.
    """
    hashes = _Hashes(members, prints)
    place = {sha: number for number, sha in enumerate(members)}
    known = set(trained)
    others = np.array([place[sha] for sha in trained])
    asked = [sha for sha in members if sha not in known]
    found = {}
    for start in range(0, len(asked), ROWS_AT_ONCE):
        block = asked[start : start + ROWS_AT_ONCE]
        rows = np.array([place[sha] for sha in block])[:, None]
        for kind, distance in (("mirrored", hashes.nearest), ("re-encoded", hashes.as_shown)):
            bits = distance(rows, others[None])  # (rows, trained)
            for sha, nearest, number in zip(block, bits.min(1), bits.argmin(1), strict=True):
                of = trained[number]
                if nearest <= threshold and (kind != "mirrored" or _mirrors(prints, sha, of)):
                    found[sha] = (kind, of)
    return found


def _mirrors(prints: Mapping[str, Fingerprint], one: str, other: str) -> bool:
    """Whether one is the other mirrored or turned, by their pixels."""
    if not (prints[one].thumb and prints[other].thumb):
        return False
    a, b = open_miniature(prints[one].thumb), open_miniature(prints[other].thumb)
    return any(same_pixels(a, turned(b, view)) for view in range(1, 8))


def copies_text(copies: Iterable[Copy]) -> str:
    """JSON lines, in the order of split, content and name."""
    return "".join(
        json.dumps(
            {"split": c.split, "sha256": c.sha256, "kind": c.kind, "name": c.name, "of": c.of},
            ensure_ascii=False,
        )
        + "\n"
        for c in copies
    )
