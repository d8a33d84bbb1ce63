"""What the checks found, for people and programs: a table, plain JSON, a page with the images of
the findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.data.images import read_image
from engine.data.manifest import class_hash
from engine.datasets.findings import KINDS, SEVERITIES, Finding, Findings, way_on
from engine.datasets.prepare import class_counts, why_unusable
from engine.datasets.reports.html_page import Figure, Page, crop_jpeg
from engine.datasets.scan import Examination
from engine.errors import DataError
from engine.types import SPLITS

KEPT_PER_KIND = 1000  # places in report.json
FIGURES_PER_KIND = 12
LINES_PER_KIND = 20  # on the page, beside the figures


def report_values(name: str, found: Examination, findings: Findings) -> dict[str, Any]:
    """The content of report.json: plain values, without times and paths of the machine."""
    places = findings.summary(KEPT_PER_KIND)
    return {
        "dataset": name,
        "severity": worst(found, findings) or "none",
        "images": {
            split: sum(record.split == split for record in found.records) for split in SPLITS
        },
        "boxes": sum(len(record.classes) for record in found.records),
        "source_digest": found.content,
        "class_hash": class_hash(found.names),
        "classes": class_counts(found.names, found.records),
        "findings": {
            kind: {
                "what": KINDS[kind].what,
                "severity": findings.severity(kind),
                "policy": entry["policy"],
                "does": KINDS[kind].choices()[entry["policy"]],
                "count": entry["count"],
                "examples": entry["examples"],
            }
            for kind, entry in ((kind, places[kind]) for kind in by_severity(findings))
        },
    }


def by_severity(findings: Findings) -> list[str]:
    """The kinds that were found, the gravest first."""
    return sorted(
        findings.counts,
        key=lambda kind: (SEVERITIES.index(findings.severity(kind)), list(KINDS).index(kind)),
    )


def worst(found: Examination, findings: Findings) -> str:
    """The highest severity: error, too, where prepare would refuse what the policies leave; ""
    where nothing was found.
    """
    return "error" if why_unusable(found, findings) else findings.worst


def verdict(found: Examination, findings: Findings) -> str:
    """One sentence: whether prepare would take the dataset, and how much there is to check."""
    counts = dict.fromkeys(SEVERITIES, 0)
    for kind, count in findings.counts.items():
        counts[findings.severity(kind)] += count
    counted = [
        f"{count:,} {word}{'s' if count > 1 else ''}" for word, count in counts.items() if count
    ]
    if counts["error"]:
        will = "would be refused: nothing is prepared until the errors are gone"
    elif why := why_unusable(found, findings):
        will = f"would be refused: {why.rstrip('.')}"
    elif not counted:
        return "Nothing was found."
    else:
        will = "can be used"
    return f"This dataset {will}. {', '.join(counted)}{'.' if counted else ''}".rstrip()


def report_text(name: str, found: Examination, findings: Findings) -> str:
    """The table for a console, and the first place of each kind."""
    images = ", ".join(
        f"{split} {sum(record.split == split for record in found.records)}" for split in SPLITS
    )
    boxes = sum(len(record.classes) for record in found.records)
    lines = [
        f"{name}: {len(found.records)} images ({images}), {boxes} boxes, {len(found.names)} "
        "classes",
        "",
    ]
    kinds = by_severity(findings)
    if not kinds and not worst(found, findings):
        return "\n".join([*lines, "nothing found"])
    lines[1:1] = [verdict(found, findings)]
    if not kinds:
        return "\n".join(lines[:-1])
    width = max(len(kind) for kind in kinds)
    lines.append(f"{'severity':<9}{'count':>7}  {'finding':<{width}}  policy")
    for kind in kinds:
        policy = findings.policies[kind]
        does = KINDS[kind].choices()[policy]
        lines.append(
            f"{findings.severity(kind):<9}{findings.counts[kind]:>7}  {kind:<{width}}  {policy}: "
            f"{does}"
        )
    lines.append("")
    for kind in kinds:
        lines.append(f"{kind}: {KINDS[kind].what}\n    {findings.examples[kind][0]}")
        if findings.severity(kind) == "error":
            lines.append(f"    {way_on(kind)}")
    if findings.worst == "error":
        lines.append("\n(For check and convert: the same words without `-S data.`)")
    return "\n".join(lines)


def report_page(name: str, found: Examination, findings: Findings) -> str:
    """The page. Images are read again, those of the images only."""
    page = Page(f"Check of {name}")
    kinds = by_severity(findings)
    images = ", ".join(
        f"{sum(record.split == split for record in found.records):,} {split}" for split in SPLITS
    )
    page.paragraph(
        f"{len(found.records):,} images ({images}). Content {found.content[:16]}, classes "
        f"{class_hash(found.names)}.",
        "soft",
    )
    page.paragraph(verdict(found, findings), worst(found, findings) or "good")
    if kinds:
        rows = [
            (
                findings.severity(kind),
                (KINDS[kind].what, kind),
                findings.counts[kind],
                f"{findings.policies[kind]}: {KINDS[kind].choices()[findings.policies[kind]]}",
            )
            for kind in kinds
        ]
        page.table(("severity", "finding", "count", "policy"), rows, [row[0] for row in rows])
    page.heading("Boxes of each class")
    page.table(
        ("class", *SPLITS),
        [tuple(row.values()) for row in class_counts(found.names, found.records)],
        narrow=True,
    )
    boxes = {record.name: record.boxes for record in found.records}
    for kind in kinds:
        severity = findings.severity(kind)
        page.heading(f"{KINDS[kind].what} ({findings.counts[kind]:,})", kind, severity, severity)
        next_step = way_on(kind) if severity == "error" else f"Next: {KINDS[kind].advice}."
        page.paragraph(f"{kind}. {next_step}", "soft")
        shown = list(_figures(findings.examples[kind][:FIGURES_PER_KIND], found.files, boxes))
        if any(len(example.boxes) > 1 for example, _ in shown):
            page.paragraph("Orange: the first of the two. Blue, dashed: the second.", "soft")
        page.figures(figure for _, figure in shown)
        shown_examples = {example for example, _ in shown}
        others = [
            str(example) for example in findings.examples[kind] if example not in shown_examples
        ][:LINES_PER_KIND]
        page.lines(others)
        more = findings.counts[kind] - len(shown_examples) - len(others)
        if more > 0:
            named = len(findings.examples[kind])
            which = "them all" if named == findings.counts[kind] else f"the first {named:,}"
            page.paragraph(f"... and {more:,} more; report.json names {which}", "soft")
    return str(page)


def _figures(
    examples: list[Finding], files: Mapping[str, Path], boxes: Mapping[str, Any]
) -> Iterator[tuple[Finding, Figure]]:
    """A figure for each example that has an image: its boxes from near, or whole images with all
    their boxes.
    """
    for example in examples:
        images = []
        for name in (example.image, example.other):
            if name not in files:
                continue
            try:
                image = read_image(files[name])
            except DataError:  # has gone since
                continue
            if example.boxes:
                marked = [(box, number, number > 0) for number, box in enumerate(example.boxes)]
                images.append(crop_jpeg(image, marked, example.boxes))
            else:  # of two images that are compared, boxes would hide what they have in common
                images.append(
                    crop_jpeg(
                        image, [(box, 1, False) for box in boxes.get(name, ()) if not example.other]
                    )
                )
        if images:
            names = [name.rsplit("/", 1)[-1] for name in (example.image, example.other) if name]
            place = f"line {example.line}: " if example.line else ""
            yield example, Figure(tuple(images), " and ".join(names), place + example.detail)
