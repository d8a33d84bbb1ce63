"""Copies of images: how many of each kind are found, what is taken for one by mistake, and what it
costs.

    python benchmarks/copies.py [--bccd FOLDER] [--cost NUMBER ...]

Recall: each image once more, changed and saved as JPEG, among all others; found means
that links of any kind hold the two together, for that is what keeps them on one side of a split. False alarms: links
between different images of sets without copies, and between frames of drawn videos. Images are
stretches of scikit-learn's two photographs, the generated digits, and BCCD where it is given.
`--cost` draws so many images and times the search for crops, CPU seconds of one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import prepare as drawn

from engine.datasets.copies import Fingerprint, find_links
from engine.datasets.crops import find_keypoints, find_parts, miniature
from engine.datasets.demo_digits import open_reader
from engine.datasets.near_duplicates import dhash_pair

THRESHOLD = 45
Image = np.ndarray  # (H, W) uint8, grey


def crop(image: Image, area: float, random: np.random.Generator) -> Image:
    h, w = (round(side * area**0.5) for side in image.shape)
    y, x = (int(random.integers(0, n - m + 1)) for n, m in zip(image.shape, (h, w), strict=True))
    return image[y : y + h, x : x + w]


def scaled(image: Image, gain: float) -> Image:
    return cv2.resize(image, None, fx=gain, fy=gain, interpolation=cv2.INTER_AREA)


CHANGES: dict[str, Callable[[Image, np.random.Generator], Image]] = {
    "re-encoded": lambda i, r: i,
    "re-encoded, half the size": lambda i, r: scaled(i, 0.5),
    "mirrored left-right": lambda i, r: i[:, ::-1],
    "mirrored up-down": lambda i, r: i[::-1],
    "turned by a quarter": lambda i, r: np.rot90(i),
    "cropped to 95 %": lambda i, r: crop(i, 0.95, r),
    "cropped to 90 %": lambda i, r: crop(i, 0.9, r),
    "cropped to 75 %": lambda i, r: crop(i, 0.75, r),
    "cropped to 60 %": lambda i, r: crop(i, 0.6, r),
    "75 %, half the size": lambda i, r: scaled(crop(i, 0.75, r), 0.5),
    "75 %, mirrored": lambda i, r: crop(i, 0.75, r)[:, ::-1],
    "60 %, mirrored": lambda i, r: crop(i, 0.6, r)[:, ::-1],
    "75 %, turned by a quarter": lambda i, r: np.rot90(crop(i, 0.75, r)),
}


def saved(image: Image, quality: int) -> Image:
    """After a JPEG."""
    image = np.ascontiguousarray(image)
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)


def fingerprint(image: Image) -> Fingerprint:
    return Fingerprint(*dhash_pair(image), find_keypoints(image), miniature(image))


def links(prints: list[Fingerprint]) -> list[tuple[int, int, str]]:
    named = {f"{number:07}": each for number, each in enumerate(prints)}
    found = find_links(named, named, THRESHOLD)
    return [(int(link.one), int(link.other), link.kind) for link in found]


def together(number: int, found: list[tuple[int, int, str]]) -> list[int]:
    """A key for each image that all share which links hold together, also by a chain."""
    key = list(range(number))
    for a, b, _ in found:
        old, new = key[a], key[b]
        key = [new if each == old else each for each in key]
    return key


# What is looked at --------------------------------------------------------------------------------


def photographs() -> list[Image]:
    from sklearn.datasets import load_sample_images

    return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in load_sample_images().images]


def stretches() -> list[Image]:
    """24 parts of the two photographs, none of which shares a pixel with another."""
    return [
        photograph[y : y + 140, x : x + 160]
        for photograph in photographs()
        for y in range(0, 420, 140)
        for x in range(0, 640, 160)
    ]


def digits(number: int) -> list[Image]:
    sizes = {"train": number * 2 // 3, "val": number // 6, "test": number // 6}
    return [
        cv2.imdecode(np.frombuffer(image.content, np.uint8), cv2.IMREAD_GRAYSCALE)
        for image in open_reader(sizes, 0)
    ]


def shapes(number: int) -> Iterator[Image]:
    """Shapes on 64 grounds, of which each image shows another stretch."""
    grounds = [drawn.ground(np.random.default_rng((0, k))) for k in range(drawn.GROUNDS)]
    for n in range(number):
        random = np.random.default_rng((1, n))
        image, _ = drawn.picture(grounds[random.integers(len(grounds))], random)
        yield cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)


def pan(step_px: int) -> list[Image]:
    """A camera that moves over two photographs: frames of 260 x 340, `step_px` from the last."""
    return [p[40:300, x : x + 340] for p in photographs() for x in range(0, 300, step_px)]


def fixed_camera() -> list[Image]:
    """60 frames of two places, with noise, and three discs that move on."""
    frames = []
    for t in range(60):
        frame = photographs()[t % 2].astype(float)
        for k in range(3):
            cv2.circle(frame, ((70 + k * 180 + t * 6) % 600, 90 + k * 110), 34, 255.0 * (k % 2), -1)
        frame += np.random.default_rng(t).normal(0, 4, frame.shape)
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return frames


# Tables -------------------------------------------------------------------------------------------


def recall(sets: dict[str, list[Image]]) -> None:
    base = {name: [fingerprint(image) for image in images] for name, images in sets.items()}
    print(f"{'found of each kind':<28}" + "".join(f"{name:>16}" for name in sets))
    for change, function in CHANGES.items():
        cells = []
        for name, images in sets.items():
            random = np.random.default_rng(0)
            n = len(images)
            copies = [fingerprint(saved(function(image, random), 80)) for image in images]
            key = together(2 * n, links([*base[name], *copies]))
            cells.append(f"{sum(key[i] == key[i + n] for i in range(n))} of {n}")
        print(f"{change:<28}" + "".join(f"{cell:>16}" for cell in cells), flush=True)


def false_alarms(sets: dict[str, list[Image]]) -> None:
    print(
        f"\n{'links between different images':<36}{'images':>8}{'near':>8}{'mirrored':>10}{'cropped':>9}"
    )
    for name, images in sets.items():
        kinds = [kind for _, _, kind in links([fingerprint(image) for image in images])]
        counts = [kinds.count(kind) for kind in ("re-encoded", "mirrored", "cropped")]
        print(f"{name:<36}{len(images):>8}{counts[0]:>8}{counts[1]:>10}{counts[2]:>9}", flush=True)


def cost(numbers: list[int]) -> None:
    print(
        f"\n{'images drawn':<14}{'ms an image':>12}{'kB an image':>12}{'search, CPU s':>15}{'found':>7}"
    )
    for number in numbers:
        spent, found = 0.0, []
        for image in shapes(number):
            started = time.process_time()
            found.append(find_keypoints(image))
            spent += time.process_time() - started
        points = [each for each in found if each is not None]
        kb = np.mean(
            [sum(map(len, (p.points, p.descriptors, p.mirrored, p.thumb))) for p in points]
        )
        started = time.process_time()
        parts = find_parts(points)
        seconds = time.process_time() - started
        print(
            f"{number:<14,}{1e3 * spent / number:>12.1f}{kb / 1e3:>12.1f}{seconds:>15.1f}{len(parts):>7}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bccd", type=Path, help="its folder JPEGImages")
    parser.add_argument("--cost", type=int, nargs="*", default=[])
    options = parser.parse_args()
    cv2.setNumThreads(1)
    bccd = (
        [cv2.imread(str(f), 0) for f in sorted(options.bccd.glob("*.jpg"))] if options.bccd else []
    )
    sets = {"photographs": stretches(), "digits": digits(120)}
    recall(sets | ({"BCCD": bccd} if bccd else {}))
    false_alarms(
        {
            "stretches of two photographs": stretches(),
            "digits": digits(600),
            "shapes on 64 grounds": list(shapes(600)),
            "panning camera, 12 px a frame": pan(12),
            "panning camera, 40 px a frame": pan(40),
            "fixed camera, moving discs": fixed_camera(),
            **({"BCCD": bccd} if bccd else {}),
        }
    )
    cost(options.cost)


if __name__ == "__main__":
    main()
