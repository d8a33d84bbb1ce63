"""Train, val or test for every image: as the dataset says, else by content.

By content: an image's side depends on (seed, its group or its bytes) alone, so adding images never moves others, and equal
images, or images of one group, are always on one side. Of very few images some have to be taken by rank instead, because
a split must not be empty; that is the one exception, and it is a finding.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import ConfigError
from engine.parts.data.checks import Findings
from engine.types import SPLITS


@dataclass(frozen=True)
class Candidate:
    """What the split of one image depends on."""

    name: str
    sha256: str
    group: str  # "" none
    given: str = ""  # split that the dataset gives it


def group_of(name: str, pattern: re.Pattern[str] | None) -> str:
    """The group of an image: what `pattern` finds in its file name (its first bracket, if it has one); "" for nothing."""
    match = pattern.search(name.rsplit("/", 1)[-1]) if pattern else None
    if match is None:
        return ""
    return (match[1] or "") if pattern.groups else match[0]


def compile_group(pattern: str | None) -> re.Pattern[str] | None:
    """ConfigError for a wrong regular expression."""
    try:
        return re.compile(pattern) if pattern else None
    except re.error as error:
        raise ConfigError(f"data.group_by: {pattern!r} is no regular expression ({error})") from None


def families(candidates: Sequence[Candidate]) -> list[str]:
    """A key for each image that all images share which must stay together: equal bytes or one group, also by a chain."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            parent[key] = key = parent[parent[key]]
        return key

    for candidate in candidates:
        bytes_key = f"bytes {candidate.sha256}"
        if candidate.group:
            # The largest key stands for all ("group" > "bytes"), whatever the order of the images.
            low, high = sorted((root(bytes_key), root(f"group {candidate.group}")))
            parent[low] = high
        else:
            root(bytes_key)
    return [root(f"bytes {candidate.sha256}") for candidate in candidates]


def lot(seed: int, family: str) -> float:
    """A number in [0, 1) that belongs to this family for ever."""
    digest = hashlib.sha256(f"{seed} {family}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def assign_splits(
    candidates: Sequence[Candidate],
    findings: Findings,
    *,
    given: bool,
    seed: int,
    val_fraction: float,
    test_fraction: float,
) -> list[str]:
    """A split for each image, "" for one that is to be left out.

    given: the dataset has splits; they are respected and checked for leaks, and fractions only fill an empty split where
    `empty_split` is "fix". Else val and test get their fractions to within chance; a fraction of 0 asks for no such split.

    Raises:
        ConfigError: the fractions leave nothing to train on.
    """
    if val_fraction + test_fraction >= 1:
        raise ConfigError(
            f"data.val_fraction={val_fraction:g} and data.test_fraction={test_fraction:g} leave nothing to train on; "
            "their sum must be below 1"
        )
    keys = families(candidates)
    fractions = {"test": test_fraction, "val": val_fraction}
    sides = _given_sides(candidates, keys, findings) if given else _sides_by_content(keys, seed, fractions)
    for split, fraction in fractions.items():
        if split in sides or (not given and not fraction):
            continue
        if not given:
            findings.add("small_split", f"split {split}", f"of {len(set(keys))} different images none fell into it")
        elif fraction and findings.policies["empty_split"] == "fix":
            findings.add("empty_split", f"split {split}", f"{fraction:g} of the train images become {split}")
        else:
            continue
        sides = _take(sides, keys, split, fraction if given else 0, seed)
    for split in SPLITS:
        if split not in sides and (split == "train" or given or fractions[split]):
            findings.add("empty_split", f"split {split}", f"has no images; {len(candidates)} images can be used in all")
    return sides


def _sides_by_content(keys: Sequence[str], seed: int, fractions: dict[str, float]) -> list[str]:
    """Test below its fraction, val in the next stretch, train above."""

    def side(value: float) -> str:
        return "test" if value < fractions["test"] else "val" if value < sum(fractions.values()) else "train"

    return [side(lot(seed, key)) for key in keys]


def _take(sides: list[str], keys: Sequence[str], split: str, fraction: float, seed: int) -> list[str]:
    """Move train families with a lot below `fraction` to `split`, at least the first in line; one always stays."""
    train = {key for key, side in zip(keys, sides, strict=True) if side == "train"}
    line = sorted(train, key=lambda key: lot(seed, f"{split} {key}"))[: max(len(train) - 1, 0)]
    taken = {key for rank, key in enumerate(line) if rank == 0 or lot(seed, f"{split} {key}") < fraction}
    return [split if side == "train" and key in taken else side for key, side in zip(keys, sides, strict=True)]


def _given_sides(candidates: Sequence[Candidate], keys: Sequence[str], findings: Findings) -> list[str]:
    """The given splits; an image that leaks stays, by policy, in test before val before train."""
    members: dict[str, list[Candidate]] = defaultdict(list)
    for candidate, key in zip(candidates, keys, strict=True):
        if candidate.given:
            members[key].append(candidate)
        else:
            findings.add("not_in_split", candidate.name, "is in no split")
    stays: dict[str, str] = {}  # family -> the only split it may be in
    for key, family in members.items():
        low, high = (limit(family, key=lambda c: SPLITS.index(c.given)) for limit in (min, max))
        if low.given != high.given:
            same = "is the same image as" if low.sha256 == high.sha256 else f"is of group '{low.group}', like"
            if findings.add("split_leak", low.name, f"(in {low.given}) {same} {high.name} (in {high.given})") == "drop":
                stays[key] = high.given
    return [
        candidate.given if stays.get(key, candidate.given) == candidate.given else ""
        for candidate, key in zip(candidates, keys, strict=True)
    ]
