"""Do the gates keep their word? Decisions about pairs of drawn models of which the truth is known.

    python -m benchmarks.gate                    # the table of the docs: 500 trials a row (an hour)
    python -m benchmarks.gate --trials 50        # a quick look
    python -m benchmarks.gate --images 50 200    # these rows only

Each trial draws a test split (objects of some classes, easy and hard ones, images of one group
alike) and two detectors that look at it; what one finds hard, the other mostly does too. The two
are of equal quality, or one class of the second is planted to be worse. It prints, for each number
of images:

- better: how often the gate promotes one of two equal models. At most 2.5 %: the interval leaves
  that much on either side.
- covers: how often the 95 % interval holds the true difference, 0; by plain percentiles and as the
  gate has it.
- not_worse, HOLD: how often an equal model passes a margin of 2 points, how often it is held.
- per_class: how often it refuses equal models; a model of which one class is 15 points worse, with
  its margin of 5 points; one that is 5 points worse, with a margin of 0 (its power).
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from joblib import Parallel, delayed

from engine.difference import Difference
from engine.gates import GATES, Evidence, Subject, Verdict
from engine.metrics.match_table import IOU_THRESHOLDS, MatchTable
from engine.metrics.paired import AP, Paired, compare

ROWS = ((50, 1), (50, 5), (200, 1), (200, 5), (1000, 1), (1000, 5), (5000, 1), (5000, 5))
CLASSES, BOXES = 3, 3.0
ALIKE = 0.6  # of the difficulty of an object, the part that both models share
FALSE_BOXES = 2.0  # an image
LOSSES = (15, 5)  # planted, points of AP of one class
STRICT = "per_class, margin 0"


def scene(rng: np.random.Generator, images: int, in_group: int, classes: int = CLASSES):
    """Objects as (image, class, difficulty), and how hard each image is."""
    groups = -(-images // in_group)
    hard = rng.normal(0, 0.6, groups)[np.arange(images) // in_group]
    image = np.repeat(np.arange(images), rng.poisson(BOXES, images))
    frequent = 1 / np.arange(1, classes + 1) ** 0.7  # some classes are rarer
    kind = rng.choice(classes, len(image), p=frequent / frequent.sum())
    return image, kind, rng.normal(0, 1, len(image)) + hard[image], hard


def detector(rng: np.random.Generator, drawn, classes: int, lost: float = 0.0) -> MatchTable:
    """One model's matches. lost: how much harder the last class is for it."""
    image, kind, difficulty, hard = drawn
    own = rng.normal(0, 1, len(image))
    ease = 1 - lost * (kind == classes - 1)
    ease = ease - np.sqrt(ALIKE) * difficulty - np.sqrt(1 - ALIKE) * own
    found = ease > -1
    overlap = (0.72 + 0.04 * ease + 0.13 * rng.normal(0, 1, len(image))).clip(0, 0.999)
    score = _sigmoid(ease + rng.normal(0, 0.5, len(image)))
    extra = np.repeat(np.arange(len(hard)), rng.poisson(FALSE_BOXES * np.exp(0.3 * hard)))
    rows = np.concatenate([image[found], extra])
    kinds = np.concatenate([kind[found], rng.integers(0, classes, len(extra))])
    scores = np.concatenate([score[found], _sigmoid(rng.normal(-1.8, 1, len(extra)))])
    hits = (overlap[found, None] >= IOU_THRESHOLDS).astype(np.int8)
    outcome = np.concatenate([hits, np.zeros((len(extra), len(IOU_THRESHOLDS)), np.int8)])
    truths = np.zeros((len(hard), classes), np.int32)
    np.add.at(truths, (image, kind), 1)
    order = np.lexsort((-scores, rows))
    return MatchTable(
        tuple(f"class {c}" for c in range(classes)),
        tuple(f"{i:05d}" for i in range(len(hard))),
        truths,
        rows[order].astype(np.int32),
        kinds[order].astype(np.int32),
        scores[order],
        outcome[order],
    )


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def groups_of(images: int, in_group: int) -> dict[str, str]:
    return {} if in_group == 1 else {f"{i:05d}": str(i // in_group) for i in range(images)}


def verdicts(found: Paired) -> dict[str, Verdict]:
    """What the gates say that compare two models."""
    asked = Evidence(
        Subject("candidate"),
        Subject("champion"),
        found.mean[AP],
        tuple(found.classes[AP].values()),
        found.images,
        found.groups,
    )
    found = {
        name: GATES[name]().ask(asked).verdict for name in ("better", "not_worse", "per_class")
    }
    return found | {STRICT: GATES["per_class"](margin=0.0).ask(asked).verdict}


def trial(images: int, in_group: int, lost: float, seed: int, resamples: int):
    rng = np.random.default_rng([images, in_group, round(1000 * lost), seed])
    drawn = scene(rng, images, in_group)
    pair = detector(rng, drawn, CLASSES), detector(rng, drawn, CLASSES, lost)
    found = compare(*pair, groups_of(images, in_group), resamples, seed)
    return found.mean[AP], verdicts(found)


def loss_for(points: float) -> float:
    """How much harder the last class has to be for its AP to fall by so many points; measured on
    many images.
    """
    rng = np.random.default_rng(0)
    drawn = scene(rng, 40_000, 1)
    base = detector(np.random.default_rng(1), drawn, CLASSES).ap()[-1].mean()
    low, high = 0.0, 3.0
    for _ in range(12):
        middle = (low + high) / 2
        worse = detector(np.random.default_rng(1), drawn, CLASSES, middle).ap()[-1].mean()
        low, high = (middle, high) if base - worse < points / 100 else (low, middle)
    return (low + high) / 2


def covers(found: Difference, low: float | None, high: float | None) -> bool:
    return low is not None and high is not None and low <= 0 <= high


def row(images: int, in_group: int, lost: list[float], options, workers: Parallel) -> str:
    equal, much, little = (
        workers(
            delayed(trial)(images, in_group, worse, k, options.resamples)
            for k in range(options.trials)
        )
        for worse in (0.0, *lost)
    )

    def rate(results, gate: str, verdict: Verdict) -> float:
        return 100 * sum(said[gate] == verdict for _, said in results) / len(results)

    def coverage(low: str, high: str) -> float:
        return 100 * np.mean([covers(d, getattr(d, low), getattr(d, high)) for d, _ in equal])

    width = np.mean([d.high - d.low for d, _ in equal if d.high is not None])
    return (
        f"| {images} | {in_group} | {rate(equal, 'better', Verdict.PROMOTE):.1f} % "
        f"| {coverage('plain_low', 'plain_high'):.1f} % | {coverage('low', 'high'):.1f} % "
        f"| {100 * width:.1f} "
        f"| {rate(equal, 'not_worse', Verdict.PROMOTE):.1f} % "
        f"| {rate(equal, 'not_worse', Verdict.HOLD):.1f} % "
        f"| {rate(equal, 'per_class', Verdict.REJECT):.1f} % "
        f"| {rate(much, 'per_class', Verdict.REJECT):.1f} % "
        f"| {rate(little, STRICT, Verdict.REJECT):.1f} % |"
    )


def lines(options) -> Iterator[str]:
    lost = [loss_for(points) for points in LOSSES]
    yield (
        "| images | in a group | `better` promotes an equal model | plain interval covers "
        "| our interval covers | its width, points | `not_worse` promotes an equal model "
        "| and holds it | `per_class` refuses an equal model "
        f"| and a class {LOSSES[0]} points worse "
        f"| with margin 0 a class {LOSSES[1]} points worse |"
    )
    yield "|" + "---|" * 11
    with Parallel(n_jobs=options.workers) as workers:
        for images, in_group in ROWS:
            if options.images and images not in options.images:
                continue
            began = time.perf_counter()
            yield row(images, in_group, lost, options, workers)
            print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--images", type=int, nargs="*", help="only these rows")
    parser.add_argument("--resamples", type=int, default=1000, help="draws of each bootstrap")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    for line in lines(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
