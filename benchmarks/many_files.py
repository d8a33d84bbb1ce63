"""What DVC costs with many files: prepared images one by one, or packed into one tar per split.

    python benchmarks/many_files.py [number of images ...]

Every number is made as a folder of random bytes of JPEG size (content does not matter to DVC), then
`dvc add`, `status`, `push` to a local folder, `pull` into an empty cache, and one no-change run of
our own adapter; wall seconds, in a folder of its own that is removed. The disk used by workspace
and cache tells what linking saves.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np

from engine.versioning.dvc_repo import DvcStages

NUMBERS = (1_000, 5_000, 20_000)
IMAGE_BYTES = 8_000
OURS = "reflink,hardlink,symlink,copy"  # as the project's .dvc/config
HARDLINKS = "hardlink,symlink,copy"
STAGE = "stages:\n  prepare:\n    cmd: echo\n    deps: [params.yaml]\n    outs: [prepared]\n"


def run(root: Path, *words: str) -> float:
    """Wall seconds of one dvc command."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "dvc", *words, "-q"], cwd=root, check=True)
    return time.perf_counter() - started


def make(folder: Path, images: int, packed: bool) -> None:
    """`images` files in images/, or one tar with the same bytes."""
    random = np.random.default_rng(0)
    target = folder / "prepared"
    (target / "images").mkdir(parents=True)
    for number in range(images):
        (target / "images" / f"{number:06d}.jpg").write_bytes(random.bytes(IMAGE_BYTES))
    if packed:
        with tarfile.open(target / "images.tar", "w") as tar:
            tar.add(target / "images", "images")
        shutil.rmtree(target / "images")


def used_mb(root: Path) -> float:
    """Disk used by `root`, every inode once."""
    seen = {
        (s.st_dev, s.st_ino): s.st_blocks * 512
        for s in (p.lstat() for p in root.rglob("*") if not p.is_dir())
    }
    return sum(seen.values()) / 1e6


def measure(images: int, packed: bool, links: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "project"
        root.mkdir()
        make(root, images, packed)
        run(root, "init", "--no-scm")
        run(root, "config", "cache.type", links)
        run(root, "remote", "add", "--default", "store", str(Path(place) / "store"))
        (root / "dvc.yaml").write_text(STAGE)
        (root / "params.yaml").write_text("a: 1\n")
        seconds = [run(root, "commit", "--force", "prepare"), run(root, "status")]
        megabytes = used_mb(root)
        started = time.perf_counter()
        assert DvcStages(root).run("prepare", lambda: None).status == "skipped"
        seconds.append(time.perf_counter() - started)
        seconds.append(run(root, "push"))
        if not packed:  # one image more: what must be hashed, stored and sent again
            (root / "prepared" / "images" / "new.jpg").write_bytes(os.urandom(IMAGE_BYTES))
        else:
            with tarfile.open(root / "prepared" / "images.tar.new", "w") as tar:
                extra = Path(place) / "new.jpg"
                extra.write_bytes(os.urandom(IMAGE_BYTES))
                with tarfile.open(root / "prepared" / "images.tar") as before:
                    for member in before:
                        tar.addfile(member, before.extractfile(member))
                tar.add(extra, "images/new.jpg")
            os.replace(root / "prepared" / "images.tar.new", root / "prepared" / "images.tar")
        sent = used_mb(Path(place) / "store")
        seconds.append(run(root, "commit", "--force", "prepare") + run(root, "push"))
        sent = used_mb(Path(place) / "store") - sent
        shutil.rmtree(root / ".dvc" / "cache")
        shutil.rmtree(root / "prepared")
        seconds.append(run(root, "pull"))
    kind = "tar" if packed else "files"
    columns = "".join(f"{value:>11.1f}" for value in (*seconds, megabytes, sent))
    return f"{images:>7,} {kind:<6}{links.split(',')[0]:<9}{columns}"


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]] or NUMBERS
    heads = ("commit", "status", "no change", "push", "one more", "pull", "disk MB", "sent MB")
    print(f"{'images':>7} {'as':<6}{'links':<9}" + "".join(f"{head:>11}" for head in heads))
    for images in numbers:
        for packed, links in ((False, OURS), (False, HARDLINKS), (False, "copy"), (True, OURS)):
            print(measure(images, packed, links), flush=True)


if __name__ == "__main__":
    main()
