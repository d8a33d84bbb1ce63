"""How tests of readers look at what a reader yields."""

from __future__ import annotations

from pathlib import Path

from engine.datasets.findings import Findings
from engine.datasets.formats import open_reader
from engine.datasets.formats.folder import Folder


def read(root: Path, format: str | None = None, policies: dict[str, str] | None = None, **options):
    """(images by name without folder and suffix, findings by kind)."""
    findings = Findings.with_policies(policies or {})
    reader = open_reader(Folder(root), format, findings, **options)
    images = {Path(image.name).stem: image for image in reader}
    return images, {
        kind: [str(f) for f in examples] for kind, examples in findings.examples.items()
    }


def rows(image) -> list[tuple]:
    """(class, corners rounded to 3 decimals) of every box."""
    return [(row.name, tuple(round(value, 3) for value in row.box)) for row in image.rows]
