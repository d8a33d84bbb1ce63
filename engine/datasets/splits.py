"""Train, val or test for every image: as the dataset says, as an earlier version kept it, else by
content.

By content: a split group (equal images, near duplicates, one group) is assigned to a split by
hash(seed, group), which depends on the seed and the group's name alone, so a new image moves none
but those it resembles. Three things that cannot promise: that not even those move, which kept
splits do (`data.keep_splits`); an image for val or test where none fell into it, which is
borrowed from train (`small_split`); and exact fractions, for which stratification reads all images
(policy fix of `uneven_split`). docs/data/splits.md has the reasons.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.datasets.findings import Findings
from engine.datasets.stratify import report_uneven, stratified
from engine.errors import ConfigError, DataError
from engine.types import SPLITS

SPLITS_FILE = "splits.jsonl"  # in a prepared dataset: one image a line


@dataclass(frozen=True)
class Candidate:
    """What the split of one image depends on."""

    name: str
    sha256: str
    group: str  # "" none
    given: str = ""  # split that the dataset gives it
    classes: tuple[int, ...] = ()  # that occur in it


@dataclass(frozen=True)
class Link:
    """Two different images of which one is a copy of the other, or nearly."""

    one: str  # sha256
    other: str
    bits: int = 0  # in which their hashes differ
    kind: str = "re-encoded"  # or "mirrored" (turned by quarters too), "cropped"
    area: float = 1.0  # of a cropped one: what it shows of the other

    def __str__(self) -> str:
        if self.kind == "cropped":
            return f"one is a crop, {self.area:.0%} of the other"
        how = "mirrored or turned, " if self.kind == "mirrored" else ""
        return f"{how}{self.bits} of 256 bits differ"


def split_groups(candidates: Sequence[Candidate], links: Collection[Link] = ()) -> list[str]:
    """A key for each image that all images share which must stay together: equal bytes, one group
    or linked, also by a chain.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    def join(one: str, other: str) -> None:
        # The largest key stands for all ("group" > "bytes"), whatever the order of the images.
        low, high = sorted((root(one), root(other)))
        parent[low] = high

    for candidate in candidates:
        bytes_key = f"bytes {candidate.sha256}"
        join(bytes_key, f"group {candidate.group}" if candidate.group else bytes_key)
    for link in links:
        join(f"bytes {link.one}", f"bytes {link.other}")
    return [root(f"bytes {candidate.sha256}") for candidate in candidates]


def split_by_content(sha256: str, seed: int, val_fraction: float, test_fraction: float) -> str:
    """Where an image goes that resembles no other one and belongs to no group."""
    value = split_hash(seed, f"bytes {sha256}")
    return _side(value, {"test": test_fraction, "val": val_fraction})


def split_hash(seed: int, split_group: str) -> float:
    """A number in [0, 1) that belongs to this split group for ever."""
    digest = hashlib.sha256(f"{seed} {split_group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(
    candidates: Sequence[Candidate],
    findings: Findings,
    *,
    given: bool,
    seed: int,
    val_fraction: float,
    test_fraction: float,
    links: Sequence[Link] = (),
    kept: Mapping[str, str] | None = None,
    names: Sequence[str] = (),
) -> list[str]:
    """A split for each image, "" for one that is to be left out.

    given: the dataset has splits; they are respected and checked for leaks, and fractions only fill
    an empty split where `empty_split` is "fix". Else val and test get their fractions to within
    chance; a fraction of 0 asks for no such split.
    kept: sha256 -> split in an earlier version, which stays; used where no splits are given. names:
    of the classes.

    Raises:
        ConfigError: the fractions leave nothing to train on.
    """
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"data.val_fraction={val_fraction:g} and data.test_fraction={test_fraction:g} leave "
            "nothing to train on; their sum must be below 1"
        )
    fractions = {"test": test_fraction, "val": val_fraction}
    keys = split_groups(candidates, links)
    stay: set[str] = set()  # split groups of kept images
    if given:
        sides = [candidate.given for candidate in candidates]
        for candidate in candidates:
            if not candidate.given:
                findings.add("not_in_split", candidate.name, "is in no split", image=candidate.name)
        sides = without_leaks(candidates, sides, links, findings)
    else:
        if kept and not any(candidate.sha256 in kept for candidate in candidates):
            findings.add(
                "foreign_splits",
                "",
                f"{len(kept)} images are in the list, {len(candidates)} here, and none in both",
            )
        before = [(kept or {}).get(candidate.sha256, "") for candidate in candidates]
        known = without_leaks(candidates, before, links, findings) if kept else before
        sides = _sides_by_content(candidates, keys, known, seed, fractions, names, findings)
        stay = {key for key, was in zip(keys, before, strict=True) if was}
        # What a policy left out of its kept split does not come back in another one.
        sides = [
            side if stays or not was else ""
            for side, stays, was in zip(sides, known, before, strict=True)
        ]
    sides = _without_empty_splits(sides, keys, stay, given, seed, fractions, findings)
    for split in SPLITS:
        if split not in sides and (split == "train" or given or fractions[split]):
            several = f"{len(candidates)} images can be used in all{_one_split_group(keys)}"
            detail = f"has no images; {several}"
            findings.add("empty_split", f"split {split}", detail)
    return sides


def _one_split_group(keys: Sequence[str]) -> str:
    """What to know where most images belong together, as the frames of one fixed camera do; else
    nothing.
    """
    largest = max(Counter(keys).values(), default=0)
    if largest * 2 <= len(keys) or largest < 2:
        return ""
    return (
        f", {largest} of them stay together as near duplicates, copies or one group: give splits "
        "of your own, or fewer data.near_duplicate_bits"
    )


# By content ---------------------------------------------------------------------------------------


def _sides_by_content(
    candidates: Sequence[Candidate],
    keys: Sequence[str],
    known: Sequence[str],
    seed: int,
    fractions: Mapping[str, float],
    names: Sequence[str],
    findings: Findings,
) -> list[str]:
    """Known images stay, their split groups follow them, others go by their hash or, where that is
    asked for, by class.
    """
    anchors: dict[str, set[str]] = defaultdict(set)  # split group -> splits of its known images
    for key, side in zip(keys, known, strict=True):
        if side:
            anchors[key].add(side)
    fixed = {key: sides.copy().pop() for key, sides in anchors.items() if len(sides) == 1}
    torn = {key for key, sides in anchors.items() if len(sides) > 1}
    hashes = {key: split_hash(seed, key) for key in keys if key not in anchors}
    chosen = fixed | {key: _side(value, fractions) for key, value in hashes.items()}
    images = [
        (key, candidate.classes)
        for key, candidate in zip(keys, candidates, strict=True)
        if key not in torn
    ]
    wanted = {"train": 1 - sum(fractions.values()), **fractions}
    if report_uneven(images, chosen, wanted, names, findings) == "fix":
        chosen = stratified(images, fixed, wanted, hashes)
    sides = []
    for candidate, key, side in zip(candidates, keys, known, strict=True):
        if not side and key in torn:
            between = " and ".join(split for split in SPLITS if split in anchors[key])
            findings.add(
                "linked_splits",
                candidate.name,
                f"belongs to images of {between}",
                image=candidate.name,
            )
        sides.append(side or chosen.get(key, ""))
    return sides


def _side(value: float, fractions: Mapping[str, float]) -> str:
    """Test below its fraction, val in the next stretch, train above."""
    return (
        "test"
        if value < fractions["test"]
        else "val"
        if value < sum(fractions.values())
        else "train"
    )


def _without_empty_splits(
    sides: list[str],
    keys: Sequence[str],
    stay: Collection[str],
    given: bool,
    seed: int,
    fractions: Mapping[str, float],
    findings: Findings,
) -> list[str]:
    """Images of train for a split that has none, where it is asked for; split groups in `stay` are
    not touched.
    """
    for split, fraction in fractions.items():
        if split in sides or (not given and not fraction):
            continue
        if not given:
            taken = _take(sides, keys, stay, split, 0, seed)
            back = (
                "; those borrowed from train go back once an added image does: keep them with "
                "data.keep_splits"
            )
            detail = (
                f"of {len(set(keys))} different images none fell into "
                f"it{back if taken != sides else ''}"
            )
            findings.add("small_split", f"split {split}", detail)
            sides = taken
        elif fraction and findings.policies["empty_split"] == "fix":
            findings.add(
                "empty_split", f"split {split}", f"{fraction:g} of the train images become {split}"
            )
            sides = _take(sides, keys, stay, split, fraction, seed)
    return sides


def _take(
    sides: list[str],
    keys: Sequence[str],
    stay: Collection[str],
    split: str,
    fraction: float,
    seed: int,
) -> list[str]:
    """Move train split groups with a hash below `fraction` to `split`, at least the first in line;
    one always stays.
    """
    train = {key for key, side in zip(keys, sides, strict=True) if side == "train"}
    line = sorted(train.difference(stay), key=lambda key: split_hash(seed, f"{split} {key}"))[
        : max(len(train) - 1, 0)
    ]
    taken = {
        key
        for rank, key in enumerate(line)
        if rank == 0 or split_hash(seed, f"{split} {key}") < fraction
    }
    return [
        split if side == "train" and key in taken else side
        for key, side in zip(keys, sides, strict=True)
    ]


# Leaks --------------------------------------------------------------------------------------------


def without_leaks(
    candidates: Sequence[Candidate], sides: Sequence[str], links: Sequence[Link], findings: Findings
) -> list[str]:
    """`sides` with "" for images that are also in another split and that a policy leaves out: test
    before val before train.
    """
    exact, near = split_groups(candidates), split_groups(candidates, links)
    stays = _report_shared(candidates, exact, sides, findings)
    stays_near = _report_linked(candidates, near, sides, links, findings)
    return [
        side if stays.get(key, side) == side and stays_near.get(near_key, side) == side else ""
        for side, key, near_key in zip(sides, exact, near, strict=True)
    ]


def _report_shared(
    candidates: Sequence[Candidate], keys: Sequence[str], sides: Sequence[str], findings: Findings
) -> dict[str, str]:
    """Findings for equal images and groups in two splits; split group -> the only split it may be
    in, by policy.
    """
    members: dict[str, list[tuple[int, Candidate]]] = defaultdict(list)
    for candidate, key, side in zip(candidates, keys, sides, strict=True):
        if side:
            members[key].append((SPLITS.index(side), candidate))
    stays = {}
    for key, split_group in members.items():
        (low, first), (high, second) = (
            limit(split_group, key=lambda member: member[0]) for limit in (min, max)
        )
        if low != high:
            same = (
                "is the same image as"
                if first.sha256 == second.sha256
                else f"is of group '{first.group}', like"
            )
            detail = f"(in {SPLITS[low]}) {same} {second.name} (in {SPLITS[high]})"
            if (
                findings.add("split_leak", first.name, detail, image=first.name, other=second.name)
                == "drop"
            ):
                stays[key] = SPLITS[high]
    return stays


def _report_linked(
    candidates: Sequence[Candidate],
    keys: Sequence[str],
    sides: Sequence[str],
    links: Sequence[Link],
    findings: Findings,
) -> dict[str, str]:
    """The same for near duplicates."""
    found: dict[str, list[tuple[int, Candidate]]] = defaultdict(list)  # sha256 -> where
    highest: dict[str, int] = {}  # split group -> split
    for candidate, key, side in zip(candidates, keys, sides, strict=True):
        if side:
            found[candidate.sha256].append((SPLITS.index(side), candidate))
            highest[key] = max(highest.get(key, 0), SPLITS.index(side))
    split_group = {candidate.sha256: key for candidate, key in zip(candidates, keys, strict=True)}
    stays = {}
    for link in links:
        ends = sorted(found[link.one][:1] + found[link.other][:1], key=lambda end: end[0])
        if len(ends) == 2 and ends[0][0] != ends[1][0]:
            (low, first), (high, second) = ends
            detail = (
                f"(in {SPLITS[low]}) is nearly the same as {second.name} (in {SPLITS[high]}), "
                f"{link}"
            )
            if (
                findings.add("near_leak", first.name, detail, image=first.name, other=second.name)
                == "drop"
            ):
                key = split_group[link.one]
                stays[key] = SPLITS[highest[key]]
    return stays


# Kept splits --------------------------------------------------------------------------------------


def splits_text(sides: Mapping[str, str]) -> str:
    """sha256 -> split as JSON lines, in an order that depends on the content alone."""
    return "".join(
        json.dumps({"sha256": sha256, "split": sides[sha256]}) + "\n" for sha256 in sorted(sides)
    )


def read_kept_splits(path: Path) -> dict[str, str]:
    """sha256 -> split, as `splits_text` wrote it; of a prepared folder its list.

    Raises:
        DataError: no such file, or a line that says something else.
    """
    file = path / SPLITS_FILE if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: cannot be read ({error}); data.keep_splits is the {SPLITS_FILE} of a "
            "prepared dataset"
        ) from None
    kept: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            if "image" in entry and "split" not in entry:
                raise DataError(
                    f"{file}: a manifest, which lists one split; data.keep_splits is the "
                    f"{SPLITS_FILE} beside it"
                )
            sha256, split = entry["sha256"], entry["split"]
            if (
                split not in SPLITS
                or not isinstance(sha256, str)
                or kept.get(sha256, split) != split
            ):
                raise ValueError(f"split {split!r}")
        except (ValueError, KeyError, TypeError) as error:
            wanted = '{"sha256": ..., "split": "train"}, each image once'
            raise DataError(f"{file}, line {number}: {error!r}; a line is {wanted}") from None
        kept[sha256] = split
    if not kept:
        raise DataError(
            f"{file}: holds no image; set data.keep_splits to null, or give the {SPLITS_FILE} of "
            "a prepared dataset"
        )
    return kept
