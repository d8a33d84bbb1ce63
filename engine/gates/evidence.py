"""What gates are asked about: two models, measured now on the same test images with the same
settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.difference import Difference


@dataclass(frozen=True)
class Subject:
    """One of the two models."""

    name: str  # for people: "detector/5"
    digest: str = ""  # SHA-256 of the file that production would load
    bytes: int | None = None
    names: tuple[str, ...] = ()  # its classes


@dataclass(frozen=True)
class Evidence:
    """Everything a gate may ask. Differences are candidate minus champion; without a champion their
    `a` is None, and the intervals are those of the candidate's own metric.
    """

    candidate: Subject
    champion: Subject | None
    mean: Difference  # of the deciding metric, over the classes that both models know
    classes: tuple[Difference, ...]  # AP50-95 of each of these classes
    images: int  # that were compared on
    groups: int
    split: str = "test"
    new_classes: tuple[str, ...] = ()  # known to the candidate only
    lost_classes: tuple[str, ...] = ()  # known to the champion only
    left_out: Mapping[str, int] = field(default_factory=dict)  # reason -> number of test images
    data_changed: bool = False  # whether the candidate was trained on other data than the champion
    latency: Difference | None = None  # milliseconds an image, a lower one is better
    approved_by: str = ""  # a person, empty where nobody has said yes
    decided_before: int = 0  # decisions that these very test images have made already
    vacant: str = ""  # why nobody is champion where somebody was
    searched: bool = True  # whether copies of these images in train have been looked for
    unrecorded: tuple[str, ...] = ()  # models of which the training images are not recorded

    @property
    def is_first(self) -> bool:
        return self.champion is None

    @property
    def unit(self) -> str:
        """What is drawn and counted: images, or groups of them."""
        return "images" if self.groups == self.images else "groups of images"


ONE = {"images": "image", "groups": "group", "boxes": "box", "classes": "class"}


def counted(number: int, what: str) -> str:
    """`1 group of images`, `2 groups of images`. what: of more than one."""
    if number == 1:
        word = next(word for word in what.split() if word in ONE)
        what = what.replace(word, ONE[word], 1)
    return f"{number} {what}"


def points(value: float | None) -> str:
    """A difference of AP in points: 0.0123 is "+1.2 points"."""
    return "unknown" if value is None else f"{100 * value:+.1f} points"


def interval_text(difference: Difference) -> str:
    """`+1.2 points, 95 % interval -0.5 to +2.9`."""
    if difference.low is None or difference.high is None:
        return f"{points(difference.value)}, too few images for an interval"
    return (
        f"{points(difference.value)}, 95 % interval {100 * difference.low:+.1f} to "
        f"{100 * difference.high:+.1f}"
    )
