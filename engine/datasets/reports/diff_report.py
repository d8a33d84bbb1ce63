"""A difference of two versions for people and programs: text, plain values, a page with
images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from engine.data.manifest import class_hash
from engine.datasets.reports.html_page import Figure, Page, crop_jpeg
from engine.datasets.version_diff import BoxChange, Difference, Pair, Version
from engine.types import SPLITS, ImageRecord

NAMES_IN_TEXT = 3  # examples of each kind
FIGURES_PER_KIND = 8
FIGURES_PER_CHANGE = 4  # of boxes: no kind of change hides the others
OLD_COLOUR, NEW_COLOUR, OTHER_CLASS = 0, 2, 1  # of page.COLOURS


def diff_values(found: Difference) -> dict[str, Any]:
    """The content of diff.json: plain values without paths of the machine."""
    return {
        "before": _version_values(found.old),
        "after": _version_values(found.new),
        "same_content": found.is_empty,
        "images": {
            "same": found.same,
            "added": [
                {"name": record.name, "split": record.split, "sha256": record.sha256}
                for record in found.added
            ],
            "removed": [
                {"name": record.name, "split": record.split, "sha256": record.sha256}
                for record in found.removed
            ],
            "moved": [
                {"name": new.name, "from": old.split, "to": new.split, "sha256": new.sha256}
                for old, new in found.moved
            ],
            "replaced": [
                {"name": new.name, "before": old.sha256, "after": new.sha256}
                for old, new in found.replaced
            ],
        },
        "boxes": found.box_counts(),
        "changes": [
            {
                "name": pair[1].name,
                "sha256": pair[1].sha256,
                "boxes": [_change_values(change) for change in changes],
            }
            for pair, changes in found.boxes
        ],
        "classes": found.class_counts(),
        "shifts": [
            {
                "measure": s.measure,
                "before": s.before,
                "after": s.after,
                "ks": s.ks,
                "by_chance": s.by_chance,
                "in_words": s.sentence,
            }
            for s in found.shifts
        ],
    }


def _version_values(version: Version) -> dict[str, Any]:
    images = {split: sum(record.split == split for record in version.records) for split in SPLITS}
    boxes = sum(len(record.classes) for record in version.records)
    return {
        "label": version.label,
        "digest": version.digest,
        "class_hash": class_hash(version.names),
        "names": list(version.names),
        "images": images,
        "boxes": boxes,
    }


def _change_values(change: BoxChange) -> dict[str, Any]:
    values = {
        "what": change.what,
        "before": change.before,
        "after": change.after,
        "old_class": change.old_class,
        "new_class": change.new_class,
        "iou": round(change.iou, 4),
    }
    return {key: value for key, value in values.items() if value not in (None, "", 0.0)}


def diff_text(found: Difference) -> str:
    """What a console shows."""
    lines = [_headline(found), *(f"  {version}" for version in _both(found)), ""]
    if found.is_empty:
        return "\n".join(lines[:-1])
    for what, count, examples in image_lines(found):
        lines.append(f"{what:<22}{count:>8}" + (f"  {examples}" if examples else ""))
    for what, count in found.box_counts().items():
        lines.append(
            f"{'boxes ' + what:<22}{count:>8}" + (f"  {_examples(found, what)}" if count else "")
        )
    width = max(map(len, ("class", *(str(row["name"]) for row in found.class_counts()))))
    lines += ["", f"{'class':<{width}}{'before':>10}{'after':>10}"]
    lines += [
        f"{row['name']:<{width}}{row['before']:>10}{row['after']:>10}"
        for row in found.class_counts()
    ]
    return "\n".join([*lines, "", *(shift.sentence for shift in found.shifts)])


def _headline(found: Difference) -> str:
    if found.is_empty:
        return "No difference: training sees the same images, boxes, classes and splits."
    return f"{found.old.label} -> {found.new.label}"


def _summary(found: Difference) -> str:
    """One sentence for the top of the page."""
    if found.is_empty:
        return _headline(found)
    images = [
        f"{count:,} {what.removeprefix('images ')}"
        for what, count, _ in list(image_lines(found))[1:]
        if count
    ]
    boxes = [f"{count:,} {what}" for what, count in found.box_counts().items() if count]
    parts = [
        f"images: {', '.join(images)}" if images else "no image came, went or moved",
        f"boxes: {', '.join(boxes)}, in {_several(len(found.boxes), 'image')}"
        if boxes
        else "no box changed in the images of both",
    ]
    if found.old.names != found.new.names:
        parts.insert(0, "the classes differ")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _by_split(version: Version) -> list[int]:
    return [sum(record.split == split for record in version.records) for split in SPLITS]


def _both(found: Difference) -> Iterator[str]:
    for word, version in (("before", found.old), ("after", found.new)):
        images = ", ".join(
            f"{split} {count}" for split, count in zip(SPLITS, _by_split(version), strict=True)
        )
        boxes = sum(len(record.classes) for record in version.records)
        classes = f"{len(version.names)} classes {class_hash(version.names)}"
        yield (
            f"{word:<6} {version.digest[:16]}  {len(version.records)} images ({images}), {boxes} "
            f"boxes, {classes}"
        )


def image_lines(found: Difference) -> Iterator[tuple[str, int, str]]:
    """(what, how many, some names) of the images."""

    def some(texts: Sequence[str]) -> str:
        more = f", ... and {len(texts) - NAMES_IN_TEXT} more" if len(texts) > NAMES_IN_TEXT else ""
        return ", ".join(texts[:NAMES_IN_TEXT]) + more

    yield "images unchanged", found.same - len(found.moved), ""
    yield "images added", len(found.added), some([f"{r.name} ({r.split})" for r in found.added])
    yield (
        "images removed",
        len(found.removed),
        some([f"{r.name} ({r.split})" for r in found.removed]),
    )
    yield (
        "images moved",
        len(found.moved),
        some([f"{new.name} ({old.split} -> {new.split})" for old, new in found.moved]),
    )
    yield "images replaced", len(found.replaced), some([new.name for _, new in found.replaced])


def _examples(found: Difference, what: str) -> str:
    shown = (
        f"{pair[1].name}: {change}"
        for pair, changes in found.boxes
        for change in changes
        if change.what == what
    )
    return next(shown)


# The page -----------------------------------------------------------------------------------------


def diff_page(found: Difference) -> str:
    """The page. Images are read for its images only."""
    page = Page(f"{found.old.label} and {found.new.label} compared")
    page.paragraph(_summary(found), "good" if found.is_empty else "")
    rows = [
        (
            word,
            version.label,
            version.digest[:16],
            len(version.records),
            *_by_split(version),
            sum(len(record.classes) for record in version.records),
            len(version.names),
            class_hash(version.names),
        )
        for word, version in (("before", found.old), ("after", found.new))
    ]
    page.table(("", "version", "digest", "images", *SPLITS, "boxes", "classes", "class hash"), rows)
    if found.is_empty:
        return str(page)
    page.heading("What changed")
    page.table(
        ("", "count"),
        [(what, count) for what, count, _ in image_lines(found)]
        + [(f"boxes {what}", count) for what, count in found.box_counts().items()],
        narrow=True,
    )
    page.heading("Boxes of each class")
    head = ("class", "before", "after", *SPLITS)
    rows = [
        (
            row["name"],
            row["before"],
            row["after"],
            *("{:,}\u00a0\u2192\u00a0{:,}".format(*row[split]) for split in SPLITS),
        )
        for row in found.class_counts()
    ]
    page.table(head, rows, narrow=True)
    page.heading("How boxes are spread")
    page.lines(shift.sentence for shift in found.shifts)
    if found.boxes:
        page.heading(f"Boxes that changed, in {_several(len(found.boxes), 'image')}")
        page.paragraph("Dashed red: as it was. Green: as it is. Blue: another class now.", "soft")
        figures = list(_box_figures(found))
        page.figures(figures)
        _more(page, len(found.boxes), len(figures))
    _image_section(page, "Images added", found.new, found.added)
    _image_section(page, "Images removed", found.old, found.removed)
    _pair_section(page, "Images moved to another split", found, found.moved)
    _pair_section(page, "Images replaced under their name", found, found.replaced)
    return str(page)


def _box_figures(found: Difference) -> Iterator[Figure]:
    shown: dict[int, tuple[Pair, list[BoxChange]]] = {}
    for what in ("relabelled", "moved", "added", "removed"):
        of_kind = [
            k
            for k, (_, changes) in enumerate(found.boxes)
            if any(change.what == what for change in changes)
        ]
        shown |= {k: found.boxes[k] for k in of_kind[:FIGURES_PER_CHANGE]}
    for (_, new), changes in shown.values():
        image = found.new.pixels(new)
        if image is None:
            continue
        marked = []
        for change in changes:
            if change.before is not None:
                marked.append((change.before, OLD_COLOUR, True))
            if change.after is not None:
                marked.append(
                    (
                        change.after,
                        OTHER_CLASS if change.what == "relabelled" else NEW_COLOUR,
                        False,
                    )
                )
        texts = "; ".join(str(change) for change in changes[:6]) + (
            "; ..." if len(changes) > 6 else ""
        )
        yield Figure((crop_jpeg(image, marked, [box for box, _, _ in marked]),), _short(new), texts)


def _image_section(
    page: Page, title: str, version: Version, records: Sequence[ImageRecord]
) -> None:
    if not records:
        return
    page.heading(f"{title} ({len(records):,})")
    figures = []
    for record in records[:FIGURES_PER_KIND]:
        image = version.pixels(record)
        if image is not None:
            boxes = [(box, OTHER_CLASS, False) for box in record.boxes.tolist()]
            figures.append(
                Figure(
                    (crop_jpeg(image, boxes),),
                    _short(record),
                    f"{record.split}, {_several(len(boxes), 'box')}",
                )
            )
    page.figures(figures)
    _more(page, len(records), len(figures))


def _pair_section(page: Page, title: str, found: Difference, pairs: Sequence[Pair]) -> None:
    if not pairs:
        return
    page.heading(f"{title} ({len(pairs):,})")
    figures = []
    for old, new in pairs[:FIGURES_PER_KIND]:
        images = [found.new.pixels(new)]
        if old.sha256 != new.sha256:
            images.insert(0, found.old.pixels(old))
        shown = tuple(crop_jpeg(image) for image in images if image is not None)
        if shown:
            figures.append(Figure(shown, _short(new), f"{old.split} -> {new.split}"))
    page.figures(figures)
    _more(page, len(pairs), len(figures))


def _short(record: ImageRecord) -> str:
    return record.name.rsplit("/", 1)[-1]


def _several(count: int, what: str) -> str:
    """1 box, 2 boxes."""
    plural = f"{what}es" if what.endswith("x") else f"{what}s"
    return f"{count:,} {what if count == 1 else plural}"


def _more(page: Page, count: int, shown: int) -> None:
    if count > shown:
        page.paragraph(f"... and {count - shown:,} more; diff.json names them all", "soft")
