"""One format to another: every image copied, every box kept where it is, what the new format cannot
hold counted.

A conversion does not check boxes, `detectflow check` does: only what cannot be read, or cannot be
placed in its image, is a finding. The source is never written into; the target appears whole or not
at all.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from engine.config import DataConfig
from engine.data.manifest import DATASET_FILE, PreparedDataset, load_prepared
from engine.datasets.conventions import Conventions, conventions_of
from engine.datasets.description import Description, load_description
from engine.datasets.findings import Findings
from engine.datasets.formats import KINDS, writable
from engine.datasets.formats.base import Row, SourceImage
from engine.datasets.formats.writers import Labelled
from engine.datasets.image_scan import inspect_image
from engine.datasets.label_checks import DECIMALS, boxes_in_pixels, class_is_known, with_right_masks
from engine.datasets.source import bytes_of, open_source
from engine.datasets.splits import split_by_content
from engine.errors import ConfigError, DataError, nearest
from engine.files import lies_in, publish_folder
from engine.types import SPLITS


@dataclass(frozen=True)
class Converted:
    """What was written, and what was not."""

    images: int
    boxes: int
    names: tuple[str, ...]
    lost: Counter[str]  # what the format has no place for -> how often
    findings: Findings
    corrected: int = 0  # images whose boxes are those of the corrections
    added: int = 0  # images that only the corrections have
    splits: Mapping[str, int] = field(default_factory=dict)  # split -> how many of these, if any


def convert(
    data: str | Path,
    target: Path,
    format: str,
    settings: DataConfig,
    corrections: Path | None = None,
) -> Converted:
    """Write the dataset `data` (a description, a folder of labelled images, a prepared folder) as
    `format` into `target`.

    settings: path, policies, and the options of generated datasets count. corrections: a folder of
    labelled images whose boxes count where it has an image of the same bytes; its other images are
    added, in a dataset with splits each to one: what its folder says, else by its content with
    `settings.seed` and the fractions. Those of its images that have no annotation correct nothing.

    Raises:
        DataError: no such dataset, `target` exists or lies in the source, or findings whose policy
            is `error`.
        ConfigError: no such format, or settings that do not fit. WorkspaceError: the disk is full,
            or a folder refuses.
    """
    if format not in writable():
        raise ConfigError(
            f"no writer for '{format}'.{nearest(format, writable())} There are: "
            f"{', '.join(writable())}"
        )
    findings = Findings.with_policies(settings.policies)
    name, source, images, names, conventions = _open(Path(data), settings, findings)
    _refuse_target(target, source)
    count = Counter()
    new: Mapping[str, Labelled] = {}
    if corrections is not None:
        new, of_corrections = _corrections(corrections, settings)
        names = tuple(dict.fromkeys((*names, *of_corrections)))
        _refuse_target(target, corrections)
    with publish_folder(target) as folder:
        writer = KINDS[format].write(folder, names)
        for image in _corrected(
            _labelled(images, names, findings, conventions), new, settings, count
        ):
            writer.add(image)
            count.update(images=1, boxes=len(image.rows))
        findings.stop_if_refused(name)
        if not count["images"]:
            raise DataError(
                f"dataset '{name}': no image can be used: "
                f"{'; '.join(findings.warnings()) or 'it holds none'}"
            )
        writer.close()
    lost = +writer.lost
    boxes = count["boxes"] - lost["crowd boxes"]
    splits = {split: count[f"added to {split}"] for split in SPLITS if count[f"added to {split}"]}
    return Converted(
        count["images"], boxes, names, lost, findings, count["corrected"], count["added"], splits
    )


def _corrections(folder: Path, settings: DataConfig) -> tuple[dict[str, Labelled], tuple[str, ...]]:
    """SHA-256 of each image -> the image with its boxes; the classes that occur. A batch of an
    annotation tool is small, so it is held whole.

    Raises:
        DataError: no annotations that can be read, or no image with one.
    """
    policies = {**settings.policies, "unlabelled_image": "drop"}  # nobody has looked at it yet
    settings = DataConfig(source=str(folder), policies=policies)
    findings = Findings.with_policies(settings.policies)
    name, _, images, names, conventions = _open(folder, settings, findings)
    found = {
        hashlib.sha256(image.content).hexdigest(): image
        for image in _labelled(images, names, findings, conventions)
    }
    findings.stop_if_refused(name)
    if not found:
        raise DataError(
            f"{folder}: corrects nothing, no image has an annotation: "
            f"{'; '.join(findings.warnings()) or 'it holds none'}"
        )
    used = {row.name for image in found.values() for row in image.rows}
    return found, tuple(name for name in names if name in used)


def _corrected(
    images: Iterable[Labelled],
    new: Mapping[str, Labelled],
    settings: DataConfig,
    count: Counter,
) -> Iterator[Labelled]:
    """The images, with the boxes of `new` where it has the same bytes; then its others, each in a
    split where the images have splits: without one they would be left out by whoever reads them.
    """
    seen = set()
    has_splits = False
    for image in images:
        sha256 = hashlib.sha256(image.content).hexdigest() if new else ""
        if sha256 in new:
            seen.add(sha256)
            count["corrected"] += 1
            image = replace(image, rows=new[sha256].rows)
        has_splits = has_splits or image.split != ""
        yield image
    for sha256, image in new.items():
        if sha256 not in seen:
            count["added"] += 1
            if has_splits:
                split = image.split or split_by_content(
                    sha256, settings.seed, settings.val_fraction, settings.test_fraction
                )
                count[f"added to {split}"] += 1
                image = replace(image, split=split)
            yield image


def _open(
    data: Path, settings: DataConfig, findings: Findings
) -> tuple[str, Path | None, Iterable[SourceImage], tuple[str, ...], Conventions | None]:
    """(name, folder or None, images, class names in the order of their numbers, what counts whether
    boxes are as the format has them).
    """
    if (data / DATASET_FILE).is_file():
        dataset = load_prepared(data)
        return dataset.name, dataset.folder, _of_prepared(dataset), dataset.names, None
    description = load_description(data)
    opened = open_source(description, settings, findings)
    names = (
        description.content.names or opened.reader.names or _names_that_occur(description, settings)
    )
    conventions = conventions_of(opened.format)
    return description.name, opened.folder, opened.reader, names, conventions


def _names_that_occur(description: Description, settings: DataConfig) -> tuple[str, ...]:
    """The classes of a dataset that lists none, by name. A reader of its own: what it finds is
    found again.
    """
    reader = open_source(description, settings, Findings.with_policies(settings.policies)).reader
    return tuple(sorted({row.name for image in reader for row in image.rows}))


def _of_prepared(dataset: PreparedDataset) -> Iterator[SourceImage]:
    for split in SPLITS:
        for record in dataset.records(split):
            crowd = [False] * len(record.classes) if record.crowd is None else record.crowd.tolist()
            rows = tuple(
                Row(dataset.names[number], tuple(box), crowd=is_crowd)
                for number, box, is_crowd in zip(
                    record.classes.tolist(), record.boxes.tolist(), crowd, strict=True
                )
            )
            yield SourceImage(
                record.name or record.file.name,
                rows,
                f"{split}.jsonl",
                record.file,
                record.size,
                split=split,
            )


def _refuse_target(target: Path, source: Path | None) -> None:
    if os.path.lexists(target) and not (target.is_dir() and not any(target.iterdir())):
        raise DataError(
            f"{target}: is there already and is not overwritten; give another folder as out=, or "
            "remove it"
        )
    if source is not None:
        refuse_inside(target, source)


def refuse_inside(target: Path, source: Path, key: str = "out") -> None:
    """DataError where `target` lies in the dataset `source`: nothing is written into one. key: the
    word that named it.
    """
    if lies_in(target, source):
        raise DataError(
            f"{target}: lies in the dataset {source}, into which nothing is written; give another "
            f"place as {key}="
        )


def _labelled(
    images: Iterable[SourceImage],
    names: Sequence[str],
    findings: Findings,
    conventions: Conventions | None,
) -> Iterator[Labelled]:
    """The images with their boxes in pixels; those that a policy leaves out are not among them."""
    for image in images:
        data = bytes_of(image)
        if data is None:
            findings.add(
                "unreadable_image",
                image.name,
                "cannot be read: no permission, a link to nothing, or no regular file",
            )
            continue
        try:
            shape = inspect_image(data)
        except ValueError as error:
            findings.add("unreadable_image", image.name, str(error))
            continue
        image = with_right_masks(image, shape, findings)
        if conventions:
            conventions.add(image, shape.shown)
        boxes = boxes_in_pixels(image, shape, findings)
        if boxes is None:
            continue
        boxes = boxes.round(
            DECIMALS
        )  # as prepare does: rounded by a writer first, they could come out otherwise
        placed = (
            replace(row, box=tuple(box))
            for row, box in zip(image.rows, boxes.tolist(), strict=True)
        )
        rows = tuple(row for row in placed if class_is_known(row, image, names, findings))
        yield Labelled(image.name, shape.shown, rows, data, image.split)
    if conventions:
        conventions.report(findings)
