"""Stage prepare end to end: images a second with one process and with several, memory, and whether
all make the same.

    python benchmarks/prepare.py [number of images] [workers ...] [--dask WORKERS]

The images are generated (seeded): JPEG of 640 x 480 with one to eight coloured shapes as objects on
textured ground, in Pascal VOC. Each row is a fresh process; what it reads was written minutes
before, so the disk is hardly measured. Memory is the largest resident set of the main process and
of one worker, and of all together in the first half of the time and in the second. On a machine
that does other work too, images per CPU second say more than those per second.
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


# Generating ---------------------------------------------------------------------------------------


def generate(folder: Path, images: int) -> None:
    """`images` images and their annotations; the same for the same number, whenever it is
    called.
    """
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
    """(2 H, 2 W, 3) uint8 of noise at three scales, and grain."""
    layers = [
        rng.uniform(0, 255, (max(2 * H // s, 1), max(2 * W // s, 1), 3)).astype(np.float32)
        for s in (8, 48, 240)
    ]
    smooth = np.mean(
        [cv2.resize(layer, (2 * W, 2 * H), interpolation=cv2.INTER_CUBIC) for layer in layers], 0
    )
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)


def picture(
    texture: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, list[tuple[str, int, int, int, int]]]:
    """An image (H, W, 3) uint8 and its boxes (class, x1, y1, x2, y2)."""
    y, x = int(rng.integers(H)), int(rng.integers(W))
    image = np.ascontiguousarray(texture[y : y + H, x : x + W][:, :: rng.choice((-1, 1))])
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


# Measuring ----------------------------------------------------------------------------------------

LOCAL = """
from engine.config import DataConfig
from engine.datasets.description import load_description
from engine.datasets.prepare import prepare
from engine.datasets.workers import LocalWorkers

source, target, workers = sys.argv[1:]
with measured() as found:
    report = prepare(load_description(source), Path(target), DataConfig(source=source), mapper=LocalWorkers(int(workers)))
    found["digest"] = report.info["digest"]
"""
DASK = """
from engine.project.environment import prepare_environment
from flows import server

source, target, workers = sys.argv[1:]
root = Path(target)
root.mkdir()
(root / "dvc.yaml").write_text("stages: {}")
dask = f"{{runner: dask, workers: {workers}}}"
(root / "params.yaml").write_text(f"data: {{source: {source}}}\\nflows: {{prepare: {dask}}}")
os.chdir(root)
os.environ["DETECTFLOW_TRACKING"] = "off"
connection = server.connect(prepare_environment(root))
connection.wait()
from flows.prepare import run_prepare
if __name__ == "__main__":
    with measured() as found:
        found["digest"] = run_prepare(root)["digest"]
"""
MEASURED = """
import contextlib, json, os, resource, sys, time
from pathlib import Path

@contextlib.contextmanager
def measured():
    found, began = {}, time.perf_counter()
    own = time.process_time()
    yield found
    others = resource.getrusage(resource.RUSAGE_CHILDREN)
    found |= {"seconds": time.perf_counter() - began, "own_cpu_s": time.process_time() - own}
    found |= {"cpu_s": found["own_cpu_s"] + others.ru_utime + others.ru_stime}
    print(json.dumps(found))
"""


def measure(source: Path, target: Path, workers: int, script: str) -> dict:
    """One prepare in a process of its own; its numbers, with the largest memory of it and of one of
    its workers.
    """
    command = [sys.executable, "-c", MEASURED + script, str(source), str(target), str(workers)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
    )
    watch = Watch(process.pid)
    watch.start()
    out, _ = process.communicate()
    watch.join()
    if process.returncode:
        raise SystemExit(f"prepare ended with {process.returncode}")
    return {
        **json.loads(out.splitlines()[-1]),
        "main_mb": watch.peak_mb(process.pid),
        "worker_mb": watch.peak_worker_mb(process.pid),
        "trace": watch.trace,
    }


class Watch(threading.Thread):
    """Reads the peak memory of a process and its children while they live."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.peaks, self.trace = pid, {}, []

    def run(self) -> None:
        while status(self.pid) is not None:
            try:  # the children of each of its threads
                lists = [
                    threads.read_text()
                    for threads in Path(f"/proc/{self.pid}/task").glob("*/children")
                ]
            except OSError:  # a thread has ended meanwhile
                continue
            pids = [self.pid, *(int(pid) for text in lists for pid in text.split())]
            # A child that has only just begun is still its parent's image, whose memory it would be
            # charged with.
            now = [
                (pid, found)
                for pid in pids
                if is_begun(pid, self.pid) and (found := status(pid)) is not None
            ]
            for pid, (peak, _) in now:
                self.peaks[pid] = max(peak, self.peaks.get(pid, 0.0))
            self.trace.append((time.perf_counter(), sum(resident for _, (_, resident) in now)))
            time.sleep(POLL_S)

    def peak_mb(self, pid: int) -> float:
        return self.peaks.get(pid, 0.0)

    def peak_worker_mb(self, main: int) -> float:
        return max((peak for pid, peak in self.peaks.items() if pid != main), default=0.0)


def is_begun(pid: int, main: int) -> bool:
    """Whether it is the main process, or a worker of ours or of Dask that runs its own program by
    now.
    """
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return False
    return pid == main or "LokyProcess" in words or "spawn_main" in words


def status(pid: int) -> tuple[float, float] | None:
    """(peak, present) resident memory in MB; None where the process has ended."""
    try:
        lines = dict(
            line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        )
        return tuple(int(lines[key].split()[0]) / 1024 for key in ("VmHWM", "VmRSS"))
    except (OSError, KeyError, ValueError):
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=int, nargs="?", default=10_000)
    parser.add_argument("workers", type=int, nargs="*", default=[1, 2])
    parser.add_argument(
        "--dask",
        type=int,
        metavar="WORKERS",
        help="also on a Dask cluster of so many processes here",
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        source = Path(place) / "source"
        started = time.perf_counter()
        generate(source, options.images)
        size_mb = sum(file.stat().st_size for file in (source / "JPEGImages").iterdir()) / 1e6
        print(
            f"{options.images:,} images of {W} x {H}, {size_mb:,.0f} MB, generated in "
            f"{time.perf_counter() - started:.0f} s; "
            f"load before: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores\n"
        )
        print(
            f"{'workers':<9}{'seconds':>8}{'images/s':>10}{'a core':>8}{'CPU s':>7}{'main':>7}{'images/CPU s':>14}"
            f"{'main MB':>9}{'worker MB':>11}{'all, half':>11}{'all, end':>10}{'load':>6}  digest"
        )
        rows = [(str(workers), workers, LOCAL) for workers in options.workers]
        rows += [(f"dask {options.dask}", options.dask, DASK)] if options.dask else []
        digests = {row(*each, source, Path(place) / "out", options.images) for each in rows}
        print("\nall the same" if len(digests) == 1 else "\nTHE RESULTS DIFFER")


def row(name: str, workers: int, script: str, source: Path, target: Path, images: int) -> str:
    """Measures and prints one; the digest."""
    found = measure(source, target, workers, script)
    rate = images / found["seconds"]
    trace = [resident for _, resident in found["trace"]]
    half, end = max(trace[: len(trace) // 2]), max(trace[len(trace) // 2 :])
    print(
        f"{name:<9}{found['seconds']:>8.1f}{rate:>10.0f}{rate / min(workers, os.cpu_count() or 1):>8.0f}{found['cpu_s']:>7.0f}"
        f"{found['own_cpu_s']:>7.0f}{images / found['cpu_s']:>14.0f}{found['main_mb']:>9.0f}{found['worker_mb']:>11.0f}"
        f"{half:>11.0f}{end:>10.0f}{os.getloadavg()[0]:>6.1f}  {found['digest'][:16]}",
        flush=True,
    )
    shutil.rmtree(target)
    return found["digest"]


if __name__ == "__main__":
    main()
