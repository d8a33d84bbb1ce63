"""What can be wrong with labelled images, what is done about each kind, and the list of what was
found.

A finding has a kind, a place (file, line) and a policy: `error` refuses the dataset, `drop` leaves
the faulty part out, `fix` repairs it by the rule stated here, `warn` keeps it as it is. Nothing is
dropped or repaired without being counted.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from engine.errors import ConfigError, DataError, nearest

EXAMPLES_IN_REPORT = 5
EXAMPLES_IN_ERROR = 10
SEVERITIES = ("error", "warning", "note")


@dataclass(frozen=True)
class Kind:
    """One kind of finding. A policy with an empty text is not offered; `error` always is."""

    what: str
    default: str
    advice: str
    drop: str = ""
    fix: str = ""
    warn: str = ""
    note: bool = False  # worth knowing, seldom wrong

    def choices(self) -> dict[str, str]:
        """Policy -> what it does."""
        texts = {
            "error": "nothing is prepared",
            "drop": self.drop,
            "fix": self.fix,
            "warn": self.warn,
        }
        return {policy: text for policy, text in texts.items() if text}


IMAGE_OUT, BOX_OUT, KEPT = "the image is left out", "the box is left out", "kept as it is"

KINDS: dict[str, Kind] = {
    # annotation files
    "unreadable_annotation": Kind(
        "annotation file cannot be read", "error", "repair or remove the file", drop=IMAGE_OUT
    ),
    "bad_entry": Kind("entry that makes no sense", "error", "correct the entry", drop=BOX_OUT),
    "other_shape": Kind(
        "shape that is neither box nor polygon",
        "error",
        "draw a box, or remove the shape",
        drop="the shape is left out",
        fix="the box around it is taken, if it covers an area; else it is left out",
    ),
    "duplicate_entry": Kind(
        "the same thing annotated twice",
        "error",
        "remove one of the two",
        drop="the second is left out",
    ),
    "outside_folder": Kind(
        "path that leaves the dataset folder",
        "error",
        "write it relative to the dataset folder",
        drop=IMAGE_OUT,
        fix="the file of that name inside the folder is taken",
    ),
    "ambiguous_image": Kind(
        "annotation that fits more than one image",
        "error",
        "rename one of the images, or correct the annotation",
        drop=IMAGE_OUT,
        fix="the image named or placed like the annotation is taken",
    ),
    "renamed_image": Kind(
        "image under another name, or in another folder, than its annotation says",
        # a guess: `cam1/7.jpg` is missing, and `cam2/7.jpg` is the only 7.jpg there
        "error",
        "write its name into the annotation as it is here",
        drop=IMAGE_OUT,
        fix="the only image that fits is taken",
    ),
    "no_bbox": Kind(
        "annotation without a box, but with a mask",
        "fix",
        "write its `bbox`",
        drop=BOX_OUT,
        fix="the box around its polygons or its mask is taken",
    ),
    "root_class": Kind(
        "category that only groups the others",
        "drop",
        "remove it from the categories, or label objects as it",
        drop="it is no class",
        warn=KEPT,
    ),
    "split_path": Kind(
        "split that points to no folder",
        "fix",
        "correct the path",
        fix="the folder of that name inside the dataset is taken, if there is one",
    ),
    "unused_list": Kind(
        "list of a split that does not count",
        "warn",
        "name the lists that count in a description (`splits: {train: FILE, val: FILE}`), or say "
        "`splits: none`",
        warn="images go by their content",
    ),
    "unclear_lists": Kind(
        "lists of images that give one image two splits",
        "error",
        "leave one list for each split, or name those that count in a description (`splits: "
        "{train: FILE, val: FILE}`)",
        warn="none counts: images go by their content",
    ),
    "labels_elsewhere": Kind(
        "labels in a second place, which are not read",
        "error",
        "bring all labels into one place, or take those away that do not count",
        warn="they do not count",
    ),
    "link_loop": Kind(
        "link that leads back into itself",
        "warn",
        "remove the link",
        warn="the link is not followed",
    ),
    "link_outside": Kind(
        "link that leads out of the dataset folder",
        "error",
        "put what it points to into the folder",
        drop="the link is not followed",
        warn="the link is followed",
    ),
    # images
    "missing_image": Kind(
        "image that is not there", "error", "add the image or remove its annotation", drop=IMAGE_OUT
    ),
    "unreadable_image": Kind(
        "image that cannot be decoded", "error", "replace or remove the image", drop=IMAGE_OUT
    ),
    "several_pages": Kind(
        "image file with several pages or frames",
        "warn",
        "save those that count as images of their own",
        drop=IMAGE_OUT,
        warn="the first one is used",
    ),
    "dark_image": Kind(
        "image that is nearly black",
        "warn",
        "check the image; levels of 10 or 12 bits in a file of 16 must be scaled to 16",
        drop=IMAGE_OUT,
        warn=KEPT,
    ),
    "missing_size": Kind(
        "annotation without the image's size",
        "error",
        "add the size",
        drop=IMAGE_OUT,
        fix="the size is read from the image",
    ),
    "size_mismatch": Kind(
        "annotation made for another image size",
        "error",
        "annotate the image as it is now",
        drop=IMAGE_OUT,
        fix="boxes are scaled to its present size",
        warn="boxes are kept as they are",
    ),
    "exif_rotation": Kind(
        "annotation made before the image's EXIF rotation",
        "fix",
        "annotate the image as it is shown",
        drop=IMAGE_OUT,
        fix="boxes are turned with the image",
        warn="boxes are kept as they are",
    ),
    "unlabelled_image": Kind(
        "image without annotation",
        "drop",
        "annotate it, or give it an empty annotation if it shows no object",
        drop=IMAGE_OUT,
        warn="kept as an image without objects",
    ),
    "empty_image": Kind(
        "image without boxes",
        "warn",
        "make sure that it shows no object",
        drop=IMAGE_OUT,
        warn=KEPT,
    ),
    "duplicate_image": Kind(
        "image that is there twice, byte for byte",
        "warn",
        "remove one of the two",
        drop="the second is left out",
        warn=KEPT,
    ),
    "near_duplicate": Kind(
        "image that shows nearly the same as another",
        "warn",
        "remove one of the two",
        drop="the second is left out",
        warn=KEPT,
    ),
    # boxes
    "unknown_class": Kind(
        "class that is not among the names",
        "error",
        "correct it, or add it to the names",
        drop=BOX_OUT,
    ),
    "other_convention": Kind(
        "boxes that are not written as their format has them",
        "error",
        "export them again, or give the format they are in",
        warn="they are read as the format has them",
    ),
    "inverted_box": Kind(
        "box whose corners are swapped",
        "error",
        "swap them",
        drop=BOX_OUT,
        fix="the corners are swapped",
    ),
    "zero_area": Kind("box without area", "drop", "draw it again or remove it", drop=BOX_OUT),
    "outside_image": Kind(
        "box that leaves the image",
        "fix",
        "correct it",
        drop=BOX_OUT,
        fix="cut at the image's edge",
    ),
    "duplicate_box": Kind(
        "two boxes of one class on one object (IoU above 0.9)",
        "warn",
        "remove one of the two",
        drop="the second is left out",
        warn=KEPT,
    ),
    "tiny_box": Kind(
        "box with a side below data.tiny_box_px",
        "warn",
        "make sure that it marks an object",
        drop=BOX_OUT,
        warn=KEPT,
    ),
    "size_outlier": Kind(
        "box of a size unusual for its class", "warn", "check the box", warn=KEPT, note=True
    ),
    "aspect_outlier": Kind(
        "box of a shape unusual for its class", "warn", "check the box", warn=KEPT, note=True
    ),
    "label_error": Kind(
        "label that a model contradicts with confidence", "warn", "check the box", warn=KEPT
    ),
    # the dataset
    "class_imbalance": Kind(
        "class with few boxes beside another", "warn", "add images of it", warn=KEPT, note=True
    ),
    "unused_class": Kind(
        "class without any box", "warn", "remove it from the names, or add images of it", warn=KEPT
    ),
    "not_in_split": Kind(
        "image that no split list names",
        "drop",
        "add it to a list, or say `splits: none`",
        drop=IMAGE_OUT,
    ),
    "split_leak": Kind(
        "same image, or group, in two given splits",
        "error",
        "leave it in one of them",
        drop="it stays in test before val before train",
        warn=KEPT,
    ),
    "empty_split": Kind(
        "split without images",
        "error",
        "add images to it, or change data.val_fraction, data.test_fraction",
        fix="images are taken from train, by their content",
        warn="the split stays empty",
    ),
    "near_leak": Kind(
        "nearly the same image in two given splits",
        "warn",
        "leave it in one of them",
        drop="it stays in test before val before train",
        warn=KEPT,
    ),
    "linked_splits": Kind(
        "new image that joins two kept splits",
        "drop",
        "remove it, or what it resembles in one of the splits",
        drop=IMAGE_OUT,
    ),
    "foreign_splits": Kind(
        "list in data.keep_splits that names none of the images",
        "warn",
        "give the splits.jsonl of an earlier version of this dataset, or set data.keep_splits to "
        "null",
        warn="images go by their content",
    ),
    "uneven_split": Kind(
        "class whose fraction in a split is far from the one asked for",
        "warn",
        "add images of it",
        note=True,
        warn=KEPT,
        fix="images are taken from train, so that every class has its fraction",
    ),
    "no_group": Kind(
        "image to which data.group_by gives no group",
        "error",
        "correct the regular expression, or add the image to the table",
        warn="it is a group of its own",
    ),
    "split_without_boxes": Kind(
        "split without any box", "error", "put labelled images into it", warn=KEPT
    ),
    "small_split": Kind(
        "too few images for the fractions asked for",
        "warn",
        "add images, and keep these splits with data.keep_splits",
        warn="the images next in line were taken",
    ),
    "digest_mismatch": Kind(
        "content is not what the description expects",
        "warn",
        "get the dataset again, or correct `digest`",
        warn=KEPT,
    ),
}


@dataclass(frozen=True)
class Finding:
    """One place where something is wrong."""

    kind: str
    file: str  # relative to the dataset folder, or the name of what it concerns
    detail: str
    line: int | None = None
    # For a page with images:
    image: str = ""  # name of the image it is about
    boxes: tuple[tuple[float, ...], ...] = ()  # xyxy pixels of the image as shown
    other: str = ""  # name of the image it is compared with

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        text = f"{place}: {self.detail}" if place else self.detail
        # A name may hold a line end, and a table has one line for each.
        return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


@dataclass
class Findings:
    """Counts of everything found and the first few places of each kind; memory stays flat however
    much is wrong.
    """

    policies: Mapping[str, str]
    keep: int = EXAMPLES_IN_ERROR  # places of each kind
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[Finding]] = field(default_factory=dict)

    @classmethod
    def with_policies(cls, chosen: Mapping[str, str], keep: int = EXAMPLES_IN_ERROR) -> Findings:
        """The defaults with `chosen` in their place. keep: so many places of each kind are
        remembered.

        Raises:
            ConfigError: an unknown kind, or a policy that a kind does not offer.
        """
        for kind, policy in chosen.items():
            if kind not in KINDS:
                raise ConfigError(
                    f"data.policies: unknown finding '{kind}'.{nearest(kind, KINDS)} Known: "
                    f"{', '.join(KINDS)}"
                )
            offered = KINDS[kind].choices()
            if policy not in offered:
                choices = "; ".join(f"{name}: {text}" for name, text in offered.items())
                raise ConfigError(f"data.policies.{kind}: '{policy}' is not offered. {choices}")
        return cls({kind: chosen.get(kind, entry.default) for kind, entry in KINDS.items()}, keep)

    def add(self, kind: str, file: str, detail: str, line: int | None = None, **shown: Any) -> str:
        """Record a finding and return its policy: what the caller has to do. `shown`: the other
        fields of `Finding`.
        """
        self.counts[kind] = self.counts.get(kind, 0) + 1
        kept = self.examples.setdefault(kind, [])
        if len(kept) < self.keep:
            kept.append(Finding(kind, file, detail, line, **shown))
        return self.policies[kind]

    @contextlib.contextmanager
    def apart(self) -> Iterator[Findings]:
        """What is added in the block goes into the findings that it gives, to be merged when their
        turn has come.
        """
        counts, examples = self.counts, self.examples
        self.counts, self.examples = {}, {}
        try:
            yield Findings(self.policies, self.keep, self.counts, self.examples)
        finally:
            self.counts, self.examples = counts, examples

    def merge(self, later: Findings) -> None:
        """Add what `later` holds behind what is there."""
        for kind, count in later.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            kept = self.examples.setdefault(kind, [])
            kept += later.examples[kind][: self.keep - len(kept)]

    def severity(self, kind: str) -> str:
        """One of `SEVERITIES`: error where the policy refuses the dataset, else warning, or note
        for what is seldom wrong.
        """
        return (
            "error" if self.policies[kind] == "error" else "note" if KINDS[kind].note else "warning"
        )

    @property
    def worst(self) -> str:
        """The highest severity of all that was found, "" where nothing was."""
        found = {self.severity(kind) for kind in self.counts}
        return next((severity for severity in SEVERITIES if severity in found), "")

    def stop_if_refused(self, dataset: str) -> None:
        """DataError listing the findings whose policy is `error`, if there are any."""
        refused = [kind for kind in KINDS if kind in self.counts and self.policies[kind] == "error"]
        if refused:
            total = sum(self.counts[kind] for kind in refused)
            found = "1 finding" if total == 1 else f"{total} findings"
            raise DataError(
                "\n".join(
                    [
                        f"dataset '{dataset}': {found}, nothing was prepared.",
                        *map(self._refusal, refused),
                    ]
                )
            )

    def _refusal(self, kind: str) -> str:
        shown, count = self.examples[kind][:EXAMPLES_IN_ERROR], self.counts[kind]
        lines = [f"{KINDS[kind].what} ({count}):", *(f"  {finding}" for finding in shown)]
        if count > len(shown):
            lines.append(f"  ... and {count - len(shown)} more")
        return "\n".join([*lines, f"  {way_on(kind)}"])

    def warnings(self) -> list[str]:
        """One line for each kind that did not stop the dataset, for the log."""
        lines = []
        for kind in (
            kind for kind in KINDS if kind in self.counts and self.policies[kind] != "error"
        ):
            entry, policy = KINDS[kind], self.policies[kind]
            first = f"; first: {self.examples[kind][0]}"
            lines.append(
                f"{self.counts[kind]} x {entry.what} ({policy}: {entry.choices()[policy]}){first}"
            )
        return lines

    def summary(self, examples: int = EXAMPLES_IN_REPORT) -> dict[str, Any]:
        """kind -> {"count", "policy", "examples"}, in the order of `KINDS`; plain JSON, without
        paths of the machine.
        """
        return {
            kind: {
                "count": self.counts[kind],
                "policy": self.policies[kind],
                "examples": [_plain(finding) for finding in self.examples[kind][:examples]],
            }
            for kind in KINDS
            if kind in self.counts
        }


def way_on(kind: str) -> str:
    """The sentence that ends a refusal for `kind`: how to mend it, what would let it through."""
    offered = [(name, text) for name, text in KINDS[kind].choices().items() if name != "error"]
    others = " or ".join(f"-S data.policies.{kind}={name} ({text})" for name, text in offered)
    return f"Next: {KINDS[kind].advice}." + (
        f" Or run the pipeline with {others}." if others else ""
    )


def letting_through(findings: Findings) -> list[str]:
    """The words `policies.KIND=POLICY` with which what is refused now would not be; for each kind
    the policy that keeps most: `fix`, else `warn`, else `drop`.
    """
    refused = [kind for kind in KINDS if kind in findings.counts]
    refused = [kind for kind in refused if findings.policies[kind] == "error"]
    offered = {kind: KINDS[kind].choices() for kind in refused}
    kept = {
        kind: next((each for each in ("fix", "warn", "drop") if each in choices), "")
        for kind, choices in offered.items()
    }
    return [f"policies.{kind}={policy}" for kind, policy in kept.items() if policy]


def _plain(finding: Finding) -> dict[str, Any]:
    line = {"line": finding.line} if finding.line else {}
    return {"file": finding.file, **line, "detail": finding.detail}
