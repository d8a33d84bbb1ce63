"""Films of handwritten digits that move, with the identity of each known, and a detector that finds
them by their white cards.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.datasets import load_digits

from engine.detect.predictor import TrackingPredictor
from engine.detect.runtime import Runtime

SIDE = 26  # of a card, pixels
SIZE = 192  # of a frame
FPS = 20.0


def cards(count: int, seed: int = 0) -> list[np.ndarray]:
    """(SIDE, SIDE) uint8: a dark digit on a white card."""
    images = load_digits().images
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    drawn = []
    for index in chosen:
        ink = cv2.resize(images[index] / 16, (SIDE - 8, SIDE - 8), interpolation=cv2.INTER_LINEAR)
        card = np.full((SIDE, SIDE), 255.0)
        card[4:-4, 4:-4] -= 255 * np.clip(ink, 0, 1)
        drawn.append(card.astype(np.uint8))
    return drawn


def straight(start, end, frames: int) -> np.ndarray:
    """(frames, 2) corners x, y on the way from start to end."""
    return np.linspace(start, end, frames).round().astype(int)


def film(path: Path, ways: list[np.ndarray], hidden: dict[int, range] | None = None) -> np.ndarray:
    """Write the film; the truth: (frames, digits, 4) xyxy, nan where a digit is hidden."""
    drawn = cards(len(ways))
    frames = len(ways[0])
    truth = np.full((frames, len(ways), 4), np.nan)
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), FPS, (SIZE, SIZE))
    assert writer.isOpened()
    for t in range(frames):
        canvas = np.full((SIZE, SIZE, 3), 40, np.uint8)
        for i, (way, card) in enumerate(zip(ways, drawn)):
            x, y = way[t]
            if t in (hidden or {}).get(i, ()):
                continue
            canvas[y : y + SIDE, x : x + SIDE] = np.minimum(card, shaded(i))[..., None]
            truth[t, i] = x, y, x + SIDE, y + SIDE
        writer.write(canvas)
    writer.release()
    return truth


def shaded(way: int) -> int:
    """The grey of a card, by which a detector can tell two cards that overlap."""
    return 255 - 20 * (way % 4)


def find_cards(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, 3, H, W) -> boxes (B, 20, 4), scores (B, 20, 1): what is to be seen of each card, where
    it is a third or more, score 0.9; less than two thirds 0.2.
    """
    boxes, scores = torch.zeros(len(images), 20, 4), torch.zeros(len(images), 20, 1)
    for index, image in enumerate((images[:, 1] * 255).numpy()):
        found = 0
        for way in range(4):
            _, _, stats, _ = cv2.connectedComponentsWithStats(
                (np.abs(image - shaded(way)) < 9).astype(np.uint8)
            )
            for x, y, w, h, area in stats[1:]:
                if w * h >= SIDE * SIDE / 3 and area > 100 and found < 20:
                    boxes[index, found] = torch.tensor([x, y, x + w, y + h])
                    scores[index, found] = 0.9 if w * h > 2 * SIDE * SIDE / 3 else 0.2
                    found += 1
    return boxes, scores


class CardTracker(TrackingPredictor):
    def get_model(self):
        return Runtime(find_cards, ("digit",), (SIZE, SIZE), torch.device("cpu"))


def numbers_of(results, truth: np.ndarray) -> np.ndarray:
    """(frames, digits) number that the tracker gave each digit, 0 where it gave none."""
    numbers = np.zeros(truth.shape[:2], int)
    for t, result in enumerate(results):
        for box in result:
            x1, y1, x2, y2 = box.xyxy
            middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
            middles = (truth[t, :, :2] + truth[t, :, 2:]) / 2
            far = np.nan_to_num(np.abs(middles - middle).max(1), nan=np.inf)
            if far.min() < SIDE / 4:
                numbers[t, far.argmin()] = box.id
    return numbers


def crossings(count: int, seed: int = 0):
    """Pairs of ways that meet in the middle of the film, from all sides, at speeds of their own."""
    rng = np.random.default_rng(seed)
    frames, middle = 60, (SIZE - SIDE) / 2
    for _ in range(count):
        angles = rng.uniform(0, 2 * np.pi) + np.array([0, rng.uniform(np.pi / 6, np.pi)])
        pairs = []
        for angle in angles:
            reach = rng.uniform(50, 80) * np.array([np.cos(angle), np.sin(angle)])
            pairs.append(straight(middle - reach, middle + reach, frames))
        yield pairs
