"""docs/howto/new-data.md, run as it is written: two weeks of a small project, decided and rolled
back.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from workspaces import ROOT, copy_project

pytestmark = pytest.mark.system

PAGE = ROOT / "docs" / "howto" / "new-data.md"
COLOURS = {"screw": (40, 200, 240), "nut": (220, 80, 60), "washer": (90, 90, 230)}  # BGR
SIDE = 64


def blocks() -> list[str]:
    """The commands of the page, a text for each block."""
    return re.findall(r"^```bash\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.S | re.M)


def write_images(folder: Path, seeds, names: list[str], known: list[str]) -> None:
    """Images of noise with two or three parts each, and YOLO labels; `known` is classes.txt."""
    for inside in ("images", "labels"):
        (folder / inside).mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        rng = np.random.default_rng([seed, 5])
        pixels = cv2.GaussianBlur(rng.integers(0, 70, (SIDE, SIDE, 3), dtype=np.uint8), (3, 3), 0)
        rows = []
        for i, cell in enumerate(rng.permutation(9)[: 2 + seed % 2]):
            name = names[(seed + i) % len(names)]
            x, y = (20 * int(c) + 2 + int(rng.integers(0, 4)) for c in (cell % 3, cell // 3))
            w, h = (
                min(int(side), SIDE - 2 - at) for side, at in zip(rng.integers(11, 17, 2), (x, y))
            )
            pixels[y : y + h, x : x + w] = np.array(COLOURS[name]) * rng.uniform(0.6, 1)
            box = (x + w / 2, y + h / 2, w, h)
            rows.append(" ".join([str(known.index(name)), *(f"{v / SIDE:.6f}" for v in box)]))
        cv2.imwrite(str(folder / "images" / f"{seed:05d}.png"), pixels)
        (folder / "labels" / f"{seed:05d}.txt").write_text("\n".join(rows) + "\n")
    (folder / "classes.txt").write_text("\n".join(known) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A clone of the project with settings for small images, and somebody's home with the images
    of two weeks.
    """
    home = tmp_path_factory.mktemp("home")
    root = copy_project(home / "project").resolve()
    write_images(home / "parts", range(300), ["screw", "nut"], ["screw", "nut"])
    week2 = home / "parts-week-2"
    known = ["screw", "nut", "washer"]
    write_images(week2, range(300, 460), known, known)
    for seed in (3, 8):  # somebody drew these boxes better
        text = (home / "parts" / "labels" / f"{seed:05d}.txt").read_text().splitlines()
        (week2 / "labels" / f"{seed:05d}.txt").write_text("\n".join(text[:-1]) + "\n")
    (root / "tiny.yaml").write_text("depth: 0.33\nwidth: 0.125\nmax_channels: 1024\n")
    params = root / "params.yaml"
    text = params.read_text()
    for old, new in {
        "model: yolov8n  ": "model: tiny.yaml",
        "imgsz: 160": "imgsz: 64",
        "epochs: 30": "epochs: 12",
        "batch: 16 ": "batch: 8  ",
        "nbs: 16": "nbs: 8",
        "  fliplr: 0.0": "  hsv_h: 0.0\n  val_period: 6\n  fliplr: 0.0",
    }.items():
        assert old in text, old
        text = text.replace(old, new, 1)
    params.write_text(text)
    for command in ("git init -q -b main", "git add -A", "git commit -qm project"):
        subprocess.run(command.split(), cwd=root, env=environment(home), check=True)
    return root, home


def environment(home: Path) -> dict[str, str]:
    """That of somebody's shell, the project's commands in its path."""
    person = {"NAME": "A", "EMAIL": "a@example.org"}
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PREFECT", "MLFLOW"))},
        **{f"GIT_{who}_{k}": v for who in ("AUTHOR", "COMMITTER") for k, v in person.items()},
        "HOME": str(home),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


class Shell:
    """Runs the page's commands, a block at a time, and keeps what they print."""

    def __init__(self, root: Path, home: Path):
        self.root, self.env = root, environment(home)

    def __call__(self, commands: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", commands],
            cwd=self.root,
            env=self.env,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def registration(root: Path) -> dict:
    return json.loads((root / "reports" / "registration.json").read_text())


def test_the_second_week_as_the_page_has_it(project):
    root, home = project
    shell = Shell(root, home)
    first, arrive, retrain, read, back, again = blocks()
    shell(first)
    assert registration(root)["model"] == "parts" and registration(root)["aliases"] == [
        "challenger",
        "champion",
    ]
    said = shell(arrive)
    assert re.search(r"images added +160", said) and "washer" in said
    assert re.search(r"boxes removed +2\b", said)

    shell(retrain)
    done = registration(root)
    decided = json.loads((root / "reports" / "decision.json").read_text())
    assert done["version"] == 2 and done["verdict"] == "PROMOTE", done["reason"]
    assert decided["new_classes"] == ["washer"] and decided["data_changed"]
    assert (root / "params.yaml").read_text().count("model: models/parts-1-") == 1

    said = shell(read)
    assert "parts/2 against parts/1" in said and "champion is version 2" in said
    assert "champion is version 1" in shell(back)
    shell("detectflow run")  # a roll-back lasts
    assert "champion is version 1" in shell("detectflow history parts")
    assert "rolled back" in shell(again) and "champion is version 2" in shell(
        "detectflow history parts"
    )
