"""Classes over splits: whether each class has its fraction of val and test, and an assignment that
gives it one.

After Sechidis, Tsoumakas and Vlahavas, "On the stratification of multi-label data" (2011): the
rarest class first, each of its split groups to the split that lacks it most. It reads all images
at once, so it is not stable under additions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from engine.datasets.findings import Findings

Images = Sequence[tuple[str, tuple[int, ...]]]  # split group and classes of each image

LEAST_SURPLUS = 2  # images above the fraction below which nothing is said: one image more is chance


def report_uneven(
    images: Images,
    chosen: Mapping[str, str],
    fractions: Mapping[str, float],
    names: Sequence[str],
    findings: Findings,
) -> str:
    """A finding for each class and split whose fraction is below half or above double of the one
    asked for; their policy.

    chosen: split group -> split. fractions: split -> fraction of the images. Classes too rare to
    expect an image of are passed over.
    """
    total: Counter[int] = Counter()
    found: Counter[tuple[int, str]] = Counter()
    for group, classes in images:
        for index in set(classes):
            total[index] += 1
            found[index, chosen[group]] += 1
    policy = ""
    for index in sorted(total):
        for split in ("val", "test"):
            expected, count = fractions[split] * total[index], found[index, split]
            if expected >= 1 and (
                count < expected / 2 or count > max(2 * expected, expected + LEAST_SURPLUS)
            ):
                name = names[index] if index < len(names) else str(index)
                detail = (
                    f"class '{name}': {count} of {total[index]} images, {expected:.1f} would be "
                    "its fraction"
                )
                policy = findings.add("uneven_split", f"split {split}", detail)
    return policy


def stratified(
    images: Images,
    fixed: Mapping[str, str],
    fractions: Mapping[str, float],
    hashes: Mapping[str, float],
) -> dict[str, str]:
    """Split group -> split, so that each class, and the images as a whole, come near their
    fractions.

    fixed: split groups whose split stands. hashes: of the others; they decide who is first in line.
    """
    contents: dict[str, Counter[int]] = defaultdict(
        Counter
    )  # split group -> images with each class
    sizes: Counter[str] = Counter()
    for group, classes in images:
        contents[group].update(set(classes))
        sizes[group] += 1
    total = sum((contents[group] for group in sizes), Counter())
    wanted = {
        split: {index: fraction * count for index, count in total.items()}
        for split, fraction in fractions.items()
    }
    room = {split: fraction * len(images) for split, fraction in fractions.items()}
    asked = [split for split, fraction in fractions.items() if fraction > 0]
    chosen: dict[str, str] = {}

    def put(group: str, split: str) -> None:
        chosen[group] = split
        room[split] -= sizes[group]
        for index, count in contents[group].items():
            wanted[split][index] -= count

    for group in sorted(sizes, key=lambda group: (hashes.get(group, -1.0), group)):
        if group in fixed:
            put(group, fixed[group])
    waiting = [
        group
        for group in sorted(sizes, key=lambda group: (hashes.get(group, -1.0), group))
        if group not in fixed
    ]
    for index in sorted(total, key=lambda index: (total[index], index)):
        for group in waiting:
            if group not in chosen and contents[group][index]:
                put(group, max(asked, key=lambda split: (wanted[split][index], room[split])))
    for group in waiting:
        if group not in chosen:
            put(group, max(asked, key=lambda split: room[split]))
    return chosen
