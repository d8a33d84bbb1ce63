"""What changed between two versions of a dataset: images, their splits, their boxes, the classes,
how boxes are spread.

An image is the same where its bytes are, whatever its name; of the others, one of the same name is
its replacement. Boxes of an image are matched by IoU, greatest first. Classes are compared by name,
so another order alone changes no box.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from engine.boxes import pairwise_iou
from engine.types import SPLITS, ImageRecord

MATCH_IOU = 0.5  # from which two boxes mean one object
UNMOVED_PX = 0.01  # corners that are nearer are the same
KS_99 = 1.63  # of the Kolmogorov-Smirnov statistic: exceeded by chance in one of a hundred
SLIGHT, CLEAR, STRONG = 0.05, 0.1, 0.25  # KS statistic from which a shift is called so

Pair = tuple[ImageRecord, ImageRecord]  # before, after


@dataclass(frozen=True)
class Version:
    """One version of a dataset. `pixels` gives an image of it as (H, W, 3) uint8 BGR, None where it
    cannot be had.
    """

    label: str
    names: tuple[str, ...]
    digest: str
    records: Sequence[ImageRecord]
    pixels: Callable[[ImageRecord], np.ndarray | None] = lambda record: None

    def labels(self, record: ImageRecord) -> list[str]:
        return [self.names[index] for index in record.classes.tolist()]


@dataclass(frozen=True)
class BoxChange:
    """One box that is not as it was. `before` or `after` is None where there is none; boxes are
    xyxy pixels.
    """

    what: str  # added, removed, moved, relabelled
    before: tuple[float, ...] | None
    after: tuple[float, ...] | None
    old_class: str = ""
    new_class: str = ""
    iou: float = 0.0

    def __str__(self) -> str:
        if self.what == "relabelled":
            return f"'{self.old_class}' is '{self.new_class}' now"
        if self.what == "moved":
            return f"'{self.new_class}' moved (IoU {self.iou:.2f})"
        return f"'{self.old_class or self.new_class}' {self.what}"


@dataclass(frozen=True)
class Shift:
    """How one measure of the boxes is distributed before and after."""

    measure: str
    before: float  # median
    after: float
    ks: float  # greatest distance of the two distribution functions, 0 to 1
    by_chance: bool  # whether samples of these sizes differ that much by chance

    @property
    def sentence(self) -> str:
        if self.by_chance or self.ks < SLIGHT:
            return f"{self.measure}: no shift beyond chance (KS {self.ks:.3f})"
        how = "strongly" if self.ks >= STRONG else "clearly" if self.ks >= CLEAR else "slightly"
        return (
            f"{self.measure}: shifted {how}, median {self.before:.3f} -> {self.after:.3f} (KS "
            f"{self.ks:.3f})"
        )


@dataclass
class Difference:
    """All that changed from `old` to `new`."""

    old: Version
    new: Version
    same: int = 0  # images with equal bytes, moved ones included
    added: list[ImageRecord] = field(default_factory=list)
    removed: list[ImageRecord] = field(default_factory=list)
    moved: list[Pair] = field(default_factory=list)  # to another split
    replaced: list[Pair] = field(default_factory=list)  # one name, other bytes
    boxes: list[tuple[Pair, list[BoxChange]]] = field(
        default_factory=list
    )  # images in both whose boxes differ
    shifts: list[Shift] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether training sees the same; the digest decides."""
        return self.old.digest == self.new.digest

    def box_counts(self) -> dict[str, int]:
        """Changes of boxes in images that are in both."""
        count = Counter(change.what for _, changes in self.boxes for change in changes)
        return {what: count[what] for what in ("added", "removed", "moved", "relabelled")}

    def class_counts(self) -> list[dict[str, object]]:
        """{"name", "before": boxes, "after": boxes} of each class of either version, and of each
        split where it has any.
        """
        tables = [_class_table(version) for version in (self.old, self.new)]
        names = list(dict.fromkeys((*self.old.names, *self.new.names)))
        rows = []
        for name in names:
            splits = {split: [table[name, split] for table in tables] for split in SPLITS}
            before, after = (sum(counts[k] for counts in splits.values()) for k in range(2))
            rows.append({"name": name, "before": before, "after": after, **splits})
        return rows


def _class_table(version: Version) -> Counter[tuple[str, str]]:
    table: Counter[tuple[str, str]] = Counter()
    for record in version.records:
        for index, count in enumerate(
            np.bincount(record.classes, minlength=len(version.names)).tolist()
        ):
            table[version.names[index], record.split] += count
    return table


def compare(old: Version, new: Version) -> Difference:
    """The difference; time grows with the number of images and of boxes that changed."""
    found = Difference(old, new)
    left = _pair_by_content(found)
    _pair_by_name(found, *left)
    found.shifts = list(box_shifts(old.records, new.records))
    for records in (found.added, found.removed):
        records.sort(key=lambda record: (SPLITS.index(record.split), record.name, record.sha256))
    for pairs in (found.moved, found.replaced):
        pairs.sort(key=lambda pair: (pair[1].name, pair[1].sha256))
    found.boxes.sort(key=lambda entry: (-len(entry[1]), entry[0][1].name, entry[0][1].sha256))
    return found


def _pair_by_content(found: Difference) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Images with equal bytes; what is left of both sides. Of copies, those of one split and name
    are paired first.
    """
    sides: tuple[dict[str, list[ImageRecord]], ...] = (defaultdict(list), defaultdict(list))
    for side, version in zip(sides, (found.old, found.new), strict=True):
        for record in version.records:
            side[record.sha256].append(record)
    left: tuple[list[ImageRecord], list[ImageRecord]] = ([], [])
    for sha256 in sides[0].keys() | sides[1].keys():
        before, after = (side.get(sha256, []) for side in sides)
        for same in (lambda r: (r.split, r.name), lambda r: r.split, lambda r: ""):
            before, after = _paired(found, before, after, same)
        left[0].extend(before)
        left[1].extend(after)
    return left


def _paired(
    found: Difference,
    before: list[ImageRecord],
    after: list[ImageRecord],
    same: Callable[[ImageRecord], object],
) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """Take pairs that agree in `same` out of both lists."""
    waiting = defaultdict(list)
    for record in sorted(after, key=lambda record: (record.split, record.name)):
        waiting[same(record)].append(record)
    rest = []
    for record in sorted(before, key=lambda record: (record.split, record.name)):
        if not waiting[same(record)]:
            rest.append(record)
            continue
        pair = (record, waiting[same(record)].pop(0))
        found.same += 1
        if pair[0].split != pair[1].split:
            found.moved.append(pair)
        _compare_boxes(found, pair)
    return rest, [record for records in waiting.values() for record in records]


def _pair_by_name(found: Difference, before: list[ImageRecord], after: list[ImageRecord]) -> None:
    """The others: replaced where a name is on both sides once, else removed and added."""
    uses = Counter(
        (record.name, side) for side, records in enumerate((before, after)) for record in records
    )
    old = {
        record.name: record
        for record in before
        if record.name and uses[record.name, 0] == uses[record.name, 1] == 1
    }
    for record in after:
        if record.name in old:
            found.replaced.append((old[record.name], record))
            if old[record.name].size == record.size:
                _compare_boxes(found, (old[record.name], record))
        else:
            found.added.append(record)
    found.removed.extend(record for record in before if record.name not in old)


def _compare_boxes(found: Difference, pair: Pair) -> None:
    old, new = pair
    same_names = found.old.names == found.new.names
    if (
        same_names
        and np.array_equal(old.boxes, new.boxes)
        and np.array_equal(old.classes, new.classes)
    ):
        return
    changes = box_changes(old.boxes, found.old.labels(old), new.boxes, found.new.labels(new))
    if changes:
        found.boxes.append((pair, changes))


def box_changes(
    old: np.ndarray, old_names: Sequence[str], new: np.ndarray, new_names: Sequence[str]
) -> list[BoxChange]:
    """What became of the boxes of one image, (n, 4) and (m, 4) xyxy with the class of each.

    Equal boxes of one class are paired first, then the nearest of one class, then the nearest of
    any.
    """
    overlap = pairwise_iou(
        torch.from_numpy(np.asarray(old, np.float64)), torch.from_numpy(np.asarray(new, np.float64))
    ).numpy()
    alike = np.array(old_names, dtype=object)[:, None] == np.array(new_names, dtype=object)[None]
    still = alike & (np.abs(old[:, None] - new[None]).max(-1, initial=0) <= UNMOVED_PX)
    free_old, free_new = np.ones(len(old), bool), np.ones(len(new), bool)
    changes = []
    for allowed in (still, alike & (overlap >= MATCH_IOU), overlap >= MATCH_IOU):
        for i, j in _greedy(overlap, allowed & free_old[:, None] & free_new[None]):
            free_old[i] = free_new[j] = False
            if allowed is not still:
                what = "moved" if alike[i, j] else "relabelled"
                corners = tuple(old[i].tolist()), tuple(new[j].tolist())
                changes.append(
                    BoxChange(what, *corners, old_names[i], new_names[j], float(overlap[i, j]))
                )
    changes += [
        BoxChange("removed", tuple(old[i].tolist()), None, old_class=old_names[i])
        for i in np.nonzero(free_old)[0]
    ]
    changes += [
        BoxChange("added", None, tuple(new[j].tolist()), new_class=new_names[j])
        for j in np.nonzero(free_new)[0]
    ]
    return changes


def _greedy(score: np.ndarray, allowed: np.ndarray) -> Iterator[tuple[int, int]]:
    """Pairs (row, column), the highest score first, each row and column once."""
    rows, columns = np.nonzero(allowed)
    used_rows, used_columns = set(), set()
    for k in np.argsort(-score[rows, columns], kind="stable").tolist():
        i, j = int(rows[k]), int(columns[k])
        if i not in used_rows and j not in used_columns:
            used_rows.add(i)
            used_columns.add(j)
            yield i, j


# How boxes are spread -----------------------------------------------------------------------------


def box_shifts(old: Sequence[ImageRecord], new: Sequence[ImageRecord]) -> Iterator[Shift]:
    """Size (fraction of the image's side), width by height, and place of the boxes; none where a
    version has no boxes.
    """
    before, after = box_measures(old), box_measures(new)
    if not len(before) or not len(after):
        return
    n, m = len(before), len(after)
    chance = KS_99 * np.sqrt((n + m) / (n * m))
    for k, measure in enumerate(
        ("box size", "width by height", "centre from the left", "centre from the top")
    ):
        a, b = before[:, k], after[:, k]
        ks = ks_statistic(a, b)
        yield Shift(measure, float(np.median(a)), float(np.median(b)), ks, bool(ks < chance))


def box_measures(records: Sequence[ImageRecord]) -> np.ndarray:
    """(n, 4): size as a fraction of the image's side, width by height, centre x and y as fractions
    of width and height.
    """
    boxes = np.concatenate([np.zeros((0, 4)), *(record.boxes for record in records)])
    sizes = np.array([record.size for record in records], np.float64).reshape(-1, 2)
    h, w = np.repeat(sizes, [len(record.boxes) for record in records], axis=0).reshape(-1, 2).T
    width, height = (boxes[:, 2:] - boxes[:, :2]).T
    x, y = ((boxes[:, 2:] + boxes[:, :2]) / 2).T
    return np.stack((np.sqrt(width * height / (w * h)), width / height, x / w, y / h), 1)


def ks_statistic(a: np.ndarray, b: np.ndarray) -> float:
    """The two-sample Kolmogorov-Smirnov statistic of two samples (n,), (m,)."""
    points = np.concatenate((a, b))
    fractions = [
        np.searchsorted(np.sort(sample), points, side="right") / len(sample) for sample in (a, b)
    ]
    return float(np.abs(fractions[0] - fractions[1]).max())
