"""Classes over splits: whether each class has its share of val and test, and an assignment that
gives it one.

After Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data" (2011): the
rarest class first, each of its families to the split that lacks it most. It looks at all images at
once, so it is not stable under additions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from engine.datasets.findings import Findings

Images = Sequence[tuple[str, tuple[int, ...]]]  # family and classes of each image

LEAST_SURPLUS = 2  # images above the share below which nothing is said: one image more is chance


def report_uneven(
    images: Images,
    chosen: Mapping[str, str],
    shares: Mapping[str, float],
    names: Sequence[str],
    findings: Findings,
) -> str:
    """A finding for each class and split whose share is below half or above double of the one asked
    for; their policy.

    chosen: family -> split. shares: split -> share of the images. Classes too rare to expect an
    image of are passed over.
    """
    total: Counter[int] = Counter()
    found: Counter[tuple[int, str]] = Counter()
    for family, classes in images:
        for index in set(classes):
            total[index] += 1
            found[index, chosen[family]] += 1
    policy = ""
    for index in sorted(total):
        for split in ("val", "test"):
            expected, count = shares[split] * total[index], found[index, split]
            if expected >= 1 and (
                count < expected / 2 or count > max(2 * expected, expected + LEAST_SURPLUS)
            ):
                name = names[index] if index < len(names) else str(index)
                detail = (
                    f"class '{name}': {count} of {total[index]} images, {expected:.1f} would be "
                    "its share"
                )
                policy = findings.add("uneven_split", f"split {split}", detail)
    return policy


def stratified(
    images: Images, fixed: Mapping[str, str], shares: Mapping[str, float], lots: Mapping[str, float]
) -> dict[str, str]:
    """Family -> split, so that each class, and the images as a whole, come near their shares.

    fixed: families whose split stands. lots: of the others; they decide who is first in line.
    """
    contents: dict[str, Counter[int]] = defaultdict(Counter)  # family -> images with each class
    sizes: Counter[str] = Counter()
    for family, classes in images:
        contents[family].update(set(classes))
        sizes[family] += 1
    total = sum((contents[family] for family in sizes), Counter())
    wanted = {
        split: {index: share * count for index, count in total.items()}
        for split, share in shares.items()
    }
    room = {split: share * len(images) for split, share in shares.items()}
    asked = [split for split, share in shares.items() if share > 0]
    chosen: dict[str, str] = {}

    def put(family: str, split: str) -> None:
        chosen[family] = split
        room[split] -= sizes[family]
        for index, count in contents[family].items():
            wanted[split][index] -= count

    for family in sorted(sizes, key=lambda family: (lots.get(family, -1.0), family)):
        if family in fixed:
            put(family, fixed[family])
    waiting = [
        family
        for family in sorted(sizes, key=lambda family: (lots.get(family, -1.0), family))
        if family not in fixed
    ]
    for index in sorted(total, key=lambda index: (total[index], index)):
        for family in waiting:
            if family not in chosen and contents[family][index]:
                put(family, max(asked, key=lambda split: (wanted[split][index], room[split])))
    for family in waiting:
        if family not in chosen:
            put(family, max(asked, key=lambda split: room[split]))
    return chosen
