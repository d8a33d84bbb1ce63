"""How often boxes in another convention are noticed, and honest ones taken for such.

    python benchmarks/conventions.py [datasets=40]

Draws datasets in every format: boxes of uniform place and size, as many for each of the readings
that `engine.datasets.conventions` knows, and honest ones: within their image, cut at its edge, or
drawn whole beyond it. Writes nothing.
"""

from __future__ import annotations

import sys

import numpy as np

from engine.datasets.conventions import Reading, conventions_of, other_readings
from engine.datasets.findings import Findings
from engine.datasets.formats import KINDS
from engine.datasets.formats.base import Row, SourceImage

PER_IMAGE = {"fraction": 1.0, "percent": 100.0, "thousandth": 1000.0}
SETS = {  # name -> (images, boxes in each, smallest and largest side of a box, (h, w))
    "28 boxes, 160 px": (14, 2, 0.1, 0.3, (120, 160)),
    "200 small boxes": (50, 4, 0.03, 0.1, (480, 640)),
    "200 boxes": (50, 4, 0.05, 0.4, (480, 640)),
    "200 boxes, full HD": (50, 4, 0.05, 0.4, (1080, 1920)),
    "60 large boxes": (60, 1, 0.5, 0.9, (480, 640)),
}
HONEST = ("inside", "cut", "beyond", "below", "sloppy")


def boxes(rng: np.random.Generator, count: int, low: float, high: float, honest: str) -> np.ndarray:
    """(count, 4) xyxy in fractions of the image."""
    sides = np.exp(rng.uniform(np.log(low), np.log(high), (count, 2)))
    centres = sides / 2 + rng.uniform(0, 1, (count, 2)) * (1 - sides)
    if honest in ("cut", "beyond"):  # objects that go on outside
        centres = rng.uniform(0, 1, (count, 2))
    elif honest == "below":  # that stand on the lower edge
        centres[:, 1] = rng.uniform(0.6, 1, count)
    found = np.concatenate((centres - sides / 2, centres + sides / 2), 1)
    if honest == "sloppy":  # every corner up to 2 % of the image off
        found += rng.uniform(-0.02, 0.02, found.shape)
    return np.clip(found, 0, 1) if honest == "cut" else found


def written(box: np.ndarray, reading: Reading, sides: np.ndarray) -> np.ndarray:
    """(n, 4) numbers that `reading` reads as `box`."""
    numbers = reading.numbers
    scale = sides if numbers.unit == "px" else PER_IMAGE[numbers.unit]
    first, second = box[:, :2] * scale, box[:, 2:] * scale
    if numbers.order == "xxyy":
        return np.stack((first[:, 0], second[:, 0], first[:, 1], second[:, 1]), 1)
    if numbers.order == "xywh":
        second = second - first
    elif numbers.order == "cxcywh":
        first, second = (first + second) / 2, second - first
    if reading.swapped:
        first, second = first[:, ::-1], second[:, ::-1]
    return np.concatenate((first, second), 1)


def is_refused(format: str, reading: Reading, seed: int, set: str, honest: str) -> bool:
    images, each, low, high, (h, w) = SETS[set]
    rng, sides = np.random.default_rng(seed), np.array((w, h), float)
    counts, own = conventions_of(format), Reading(KINDS[format].numbers)
    fractions = own.numbers.unit == "fraction"
    for number in range(images):
        raw = written(boxes(rng, each, low, high, honest), reading, sides)
        corners = np.concatenate(own.corners(raw, sides), 1)
        corners = corners if fractions else corners * np.tile(sides, 2)
        rows = tuple(
            Row("x", tuple(box), written=tuple(numbers))
            for box, numbers in zip(corners.tolist(), raw.tolist(), strict=True)
        )
        image = SourceImage(f"{number}.jpg", rows, "all/x.txt", fractions=fractions)
        counts.add(image, (h, w))
    findings = Findings.with_policies({})
    counts.report(findings)
    return bool(findings.counts)


def main() -> None:
    options = dict(word.split("=", 1) for word in sys.argv[1:])
    count = int(options.get("datasets", 40))
    print(f"refused, of {count} datasets each\n")
    print(f"| format | written as | {' | '.join(SETS)} |")
    print("|---" * (2 + len(SETS)) + "|")
    for format, kind in KINDS.items():
        own = Reading(kind.numbers)
        cases = [(str(other), other, "inside") for other in other_readings(kind.numbers)]
        cases += [(f"honest, {honest}", own, honest) for honest in HONEST]
        for name, reading, honest in cases:
            cells = [
                sum(is_refused(format, reading, seed, set, honest) for seed in range(count))
                for set in SETS
            ]
            print(f"| {format} | {name} | {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
