"""Stage prepare end to end: images a second with one process and with several, memory, and whether all make the same.

    python benchmarks/prepare.py [number of images] [workers ...]

The images are generated (seeded): JPEG of 640 x 480 with one to eight coloured shapes as objects on textured ground, in Pascal
VOC. Each row is a fresh process with a cold page cache of nothing but luck: what is read was written minutes before. Memory
is the largest resident set of the main process and of one worker, as the system counts it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import cv2
import numpy as np

H, W = 480, 640
CLASSES = ("square", "disc", "cross", "ring")
GROUNDS = 64  # textures, which are used again at other places
QUALITY = 90
POLL_S = 0.05


# Generating -------------------------------------------------------------------------------------------------------


def generate(folder: Path, images: int) -> None:
    """`images` images and their annotations; the same for the same number, whenever it is called."""
    for name in ("JPEGImages", "Annotations"):
        (folder / name).mkdir(parents=True)
    grounds = [ground(np.random.default_rng((0, k))) for k in range(GROUNDS)]
    for number in range(images):
        rng = np.random.default_rng((1, number))
        image, boxes = picture(grounds[rng.integers(GROUNDS)], rng)
        name = f"{number:06d}"
        jpeg = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1].tobytes()
        (folder / "JPEGImages" / f"{name}.jpg").write_bytes(jpeg)
        (folder / "Annotations" / f"{name}.xml").write_text(voc(name, boxes))


def ground(rng: np.random.Generator) -> np.ndarray:
    """(2 H, 2 W, 3) of noise at three scales."""
    layers = [rng.uniform(0, 255, (max(2 * H // s, 1), max(2 * W // s, 1), 3)).astype(np.float32) for s in (8, 48, 240)]
    return np.mean([cv2.resize(layer, (2 * W, 2 * H), interpolation=cv2.INTER_CUBIC) for layer in layers], 0)


def picture(texture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, int, int, int, int]]]:
    """An image (H, W, 3) uint8 and its boxes (class, x1, y1, x2, y2)."""
    y, x = int(rng.integers(H)), int(rng.integers(W))
    image = texture[y : y + H, x : x + W] + rng.normal(0, 6, (H, W, 3))
    image = np.ascontiguousarray(image.clip(0, 255).astype(np.uint8))
    boxes = []
    for _ in range(rng.integers(1, 9)):
        side = int(rng.integers(16, 160))
        x1, y1 = int(rng.integers(0, W - side)), int(rng.integers(0, H - side))
        name = CLASSES[rng.integers(len(CLASSES))]
        draw(image, name, x1, y1, side, tuple(map(int, rng.integers(0, 256, 3))))
        boxes.append((name, x1, y1, x1 + side, y1 + side))
    return image, boxes


def draw(image: np.ndarray, name: str, x: int, y: int, side: int, colour: tuple[int, ...]) -> None:
    middle, half = (x + side // 2, y + side // 2), side // 2
    if name == "square":
        cv2.rectangle(image, (x, y), (x + side, y + side), colour, -1)
    elif name == "disc":
        cv2.circle(image, middle, half, colour, -1)
    elif name == "ring":
        cv2.circle(image, middle, half - side // 12, colour, side // 6)
    else:
        cv2.line(image, (x, y), (x + side, y + side), colour, side // 8)
        cv2.line(image, (x + side, y), (x, y + side), colour, side // 8)


def voc(name: str, boxes: list[tuple[str, int, int, int, int]]) -> str:
    objects = "".join(
        f"<object><name>{label}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>\n"
        for label, x1, y1, x2, y2 in boxes
    )
    size = f"<size><width>{W}</width><height>{H}</height><depth>3</depth></size>"
    return f"<annotation>\n<filename>{name}.jpg</filename>\n{size}\n{objects}</annotation>\n"


# Measuring --------------------------------------------------------------------------------------------------------

PREPARE = """
import json, sys, time
from pathlib import Path
from engine.config import DataConfig
from engine.parts.data.description import load_description
from engine.parts.data.prepare import prepare
from engine.parts.data.workers import LocalWorkers

source, target, workers = sys.argv[1:]
passed = []
def told(values):
    passed.append((values["done"], time.perf_counter()))
started = time.perf_counter()
report = prepare(load_description(source), Path(target), DataConfig(source=source), told, mapper=LocalWorkers(int(workers)))
ended = time.perf_counter()
looked = next(at for done, at in passed if done == passed[-1][0])
print(json.dumps({"seconds": ended - started, "looking": looked - started, "digest": report.info["digest"],
                  "cpu_s": time.process_time()}))
"""


def measure(source: Path, target: Path, workers: int) -> dict:
    """One prepare in a process of its own; its figures, with the largest memory of it and of one of its workers."""
    command = [sys.executable, "-c", PREPARE, str(source), str(target), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    watch = Watch(process.pid)
    watch.start()
    out, _ = process.communicate()
    watch.join()
    if process.returncode:
        raise SystemExit(f"prepare ended with {process.returncode}")
    return {**json.loads(out), "main_mb": watch.peak_mb(process.pid), "worker_mb": watch.peak_worker_mb(process.pid),
            "trace": watch.trace}  # fmt: skip


class Watch(threading.Thread):
    """Reads the peak memory of a process and its children while they live."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peaks, self.trace = pid, {}, []

    def run(self) -> None:
        while status(self.pid) is not None:
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children")
            try:
                pids = [self.pid, *map(int, children.read_text().split())]
            except OSError:
                return
            # A child that has only just begun is still its parent's image, whose memory it would be charged with.
            now = [(pid, found) for pid in pids if is_begun(pid, self.pid) and (found := status(pid)) is not None]
            for pid, (peak, _) in now:
                self.peaks[pid] = max(peak, self.peaks.get(pid, 0.0))
            self.trace.append((time.perf_counter(), sum(resident for _, (_, resident) in now)))
            time.sleep(POLL_S)

    def peak_mb(self, pid: int) -> float:
        return self.peaks.get(pid, 0.0)

    def peak_worker_mb(self, main: int) -> float:
        return max((peak for pid, peak in self.peaks.items() if pid != main), default=0.0)


def is_begun(pid: int, main: int) -> bool:
    try:
        return pid == main or "engine.parts.data.workers" in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[2]
    except (OSError, IndexError):
        return False


def status(pid: int) -> tuple[float, float] | None:
    """(peak, present) resident memory in MB; None where the process has ended."""
    try:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        return tuple(int(lines[key].split()[0]) / 1024 for key in ("VmHWM", "VmRSS"))
    except (OSError, KeyError, ValueError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=int, nargs="?", default=10_000)
    parser.add_argument("workers", type=int, nargs="*", default=[1, 2])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        started = time.perf_counter()
        generate(source, options.images)
        size_mb = sum(file.stat().st_size for file in (source / "JPEGImages").iterdir()) / 1e6
        print(f"{options.images:,} images of {W} x {H}, {size_mb:,.0f} MB, generated in {time.perf_counter() - started:.0f} s; "
              f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n")  # fmt: skip
        print(f"{'workers':>8}{'seconds':>9}{'images/s':>10}{'a core':>8}{'looking':>9}{'main MB':>9}{'worker MB':>11}"
              f"{'all, half':>11}{'all, end':>10}{'load':>6}  digest")  # fmt: skip
        digests = set()
        for workers in options.workers:
            found = measure(source, Path(place) / "out", workers)
            rate = options.images / found["seconds"]
            trace = [resident for _, resident in found["trace"]]
            half, end = max(trace[: len(trace) // 2]), max(trace[len(trace) // 2 :])
            print(f"{workers:>8}{found['seconds']:>9.1f}{rate:>10.0f}{rate / min(workers, os.cpu_count() or 1):>8.0f}"
                  f"{found['looking']:>9.1f}{found['main_mb']:>9.0f}{found['worker_mb']:>11.0f}{half:>11.0f}{end:>10.0f}"
                  f"{os.getloadavg()[0]:>6.1f}  {found['digest'][:16]}", flush=True)  # fmt: skip
            digests.add(found["digest"])
            shutil.rmtree(Path(place) / "out")
        print("\nall the same" if len(digests) == 1 else "\nTHE RESULTS DIFFER")


if __name__ == "__main__":
    main()
