"""Do the gates keep their word? Decisions about pairs of drawn models of which the truth is known.

    python -m benchmarks.gate                    # the table of the docs (about an hour)
    python -m benchmarks.gate --trials 50        # a quick look
    python -m benchmarks.gate --images 50 200    # these rows only
    python -m benchmarks.gate --keep trials.jsonl   # cut off, it goes on where it was

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

In brackets: what the true rate may be, given so many trials (95 %, Clopper and Pearson).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from joblib import Parallel, delayed
from scipy.stats import binomtest

from engine.difference import Difference
from engine.gates import GATES, Evidence, Subject, Verdict
from engine.metrics.bootstrap import RESAMPLES, ApOfDraws, Draws, draw
from engine.metrics.match_table import IOU_THRESHOLDS, MatchTable
from engine.metrics.paired import AP, OnDraws, Paired, differences, on_draws

TRIALS = {50: 2000, 200: 6000, 1000: 500, 5000: 500}  # of each number of images
IN_GROUP = (1, 5)
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


def pairs(images: int, in_group: int, lost: list[float], seed: int, resamples: int):
    """A champion and, of each of `lost`, the candidate that loses it, the first of which is 0: what
    `compare` finds. Candidates differ in the last class only, so the others are measured once.
    """
    rng = np.random.default_rng([images, in_group, seed])
    drawn = scene(rng, images, in_group)
    draws = draw([f"{i // in_group:05d}" for i in range(images)], resamples, seed)
    champion = on_draws(detector(rng, drawn, CLASSES), draws)
    equal = None
    for worse in lost:
        own = np.random.default_rng([images, in_group, seed, 1])
        table = detector(own, drawn, CLASSES, worse)
        candidate = on_draws(table, draws) if equal is None else _last_anew(equal, table, draws)
        equal = equal or candidate
        yield differences(table, [candidate, champion], draws, seed)


def _last_anew(before: OnDraws, table: MatchTable, draws: Draws) -> OnDraws:
    last = on_draws(table.subset(table.images, table.names[-1:]), draws)

    def joined(old: np.ndarray, new: np.ndarray) -> np.ndarray:
        return np.concatenate([old[:-1], new])

    return OnDraws(
        joined(before.whole, last.whole),
        ApOfDraws(
            joined(before.drawn.ap, last.drawn.ap), joined(before.drawn.ap50, last.drawn.ap50)
        ),
    )


def trial(images: int, in_group: int, lost: list[float], seed: int, resamples: int):
    """What happened once, of each rate of the table. lost: as for `pairs`, three."""
    found = list(pairs(images, in_group, lost, seed, resamples))
    equal, much, little = map(verdicts, found)
    mean = found[0].mean[AP]
    return {
        "images": images,
        "in_group": in_group,
        "resamples": resamples,
        "seed": seed,
        "better": equal["better"] == Verdict.PROMOTE,
        "plain": covers(mean, mean.plain_low, mean.plain_high),
        "ours": covers(mean, mean.low, mean.high),
        "width": None if mean.low is None else mean.high - mean.low,
        "not_worse": equal["not_worse"] == Verdict.PROMOTE,
        "held": equal["not_worse"] == Verdict.HOLD,
        "refused": equal["per_class"] == Verdict.REJECT,
        "much": much["per_class"] == Verdict.REJECT,
        "little": little[STRICT] == Verdict.REJECT,
    }


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


def trials(images: int, in_group: int, lost: list[float], options, workers: Parallel) -> list[dict]:
    """As many as asked for. Those that are in the file `--keep` are not run again."""
    done = {}
    if options.keep and options.keep.exists():
        for line in options.keep.read_text().splitlines():
            kept = json.loads(line)
            if (kept["images"], kept["in_group"], kept["resamples"]) == (
                images,
                in_group,
                options.resamples,
            ):
                done[kept["seed"]] = kept
    seeds = range(options.first, options.first + (options.trials or TRIALS.get(images, 500)))
    asked = (
        delayed(trial)(images, in_group, lost, seed, options.resamples)
        for seed in seeds
        if seed not in done
    )
    for new in workers(asked):
        done[new["seed"]] = new
        if options.keep:
            with options.keep.open("a") as stream:
                stream.write(json.dumps(new) + "\n")
    return [done[seed] for seed in seeds]


def row(images: int, in_group: int, results: list[dict]) -> str:
    def rate(of: str) -> str:
        return f"{100 * np.mean([each[of] for each in results]):.1f} %"

    def known(of: str) -> str:
        hits = sum(each[of] for each in results)
        between = binomtest(hits, len(results)).proportion_ci(method="exact")
        return f"{rate(of)} ({100 * between.low:.1f}-{100 * between.high:.1f})"

    width = np.mean([each["width"] for each in results if each["width"] is not None])
    return (
        f"| {images} | {in_group} | {len(results)} | {known('better')} "
        f"| {known('plain')} | {known('ours')} | {100 * width:.1f} "
        f"| {rate('not_worse')} | {rate('held')} "
        f"| {rate('refused')} | {rate('much')} | {rate('little')} |"
    )


def lines(options) -> Iterator[str]:
    lost = [0.0, *(loss_for(points) for points in LOSSES)]
    yield (
        "| images | in a group | trials | `better` promotes an equal model "
        "| plain interval covers | our interval covers | its width, points "
        "| `not_worse` promotes an equal model | and holds it | `per_class` refuses an equal model "
        f"| and a class {LOSSES[0]} points worse "
        f"| with margin 0 a class {LOSSES[1]} points worse |"
    )
    yield "|" + "---|" * 12
    with Parallel(n_jobs=options.workers, return_as="generator") as workers:
        for images, in_group in product(options.images, options.groups):
            began, cpu = time.perf_counter(), time.process_time()
            yield row(images, in_group, trials(images, in_group, lost, options, workers))
            print(
                f"{time.perf_counter() - began:.0f} s, {time.process_time() - cpu:.0f} s of CPU "
                "in the main process",
                file=sys.stderr,
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, help=f"of each row; without: {TRIALS}")
    parser.add_argument("--images", type=int, nargs="+", default=[*TRIALS])
    parser.add_argument("--groups", type=int, nargs="+", default=IN_GROUP, help="images in a group")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="draws of each bootstrap")
    parser.add_argument("--first", type=int, default=0, help="seed of the first trial")
    parser.add_argument("--keep", type=Path, help="file of trials; those in it are not run again")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    for line in lines(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
