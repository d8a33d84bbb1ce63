"""train and val through the command line, on a handful of digits."""

import logging
import os
import shlex
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from engine.cli import main

DIGITS = """
name: digits
format: generated
generator: digits
options: {train: 8, val: 4, test: 4, size: 64, max_px: 32}
names: ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence: test
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "digits.yaml").write_text(DIGITS)
    return tmp_path


def start(folder, log, *words):
    with log.open("w") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "engine", *words],
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )


def wait_for(process, log, text, within_s=60):
    deadline = time.monotonic() + within_s
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.mark.system
def test_ctrl_c_says_what_is_kept_and_the_command_it_names_goes_on(folder):
    log = folder / "log"
    words = ["train", "data=digits.yaml", "epochs=300", "imgsz=64", "plots=false"]
    process = start(folder, log, *words)
    wait_for(process, log, "epoch 2/300")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    reported = log.read_text()
    assert "Traceback" not in reported and "epochs are kept in runs/train/" in reported
    assert (
        reported.rsplit("Go on with: ", 1)[1].strip()
        == "detectflow train project=runs name=train resume=true"
    )
    assert (folder / "runs" / "train" / "weights" / "last.pt").is_file()


def test_train_then_val_name_what_they_made(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert main(["train", "data=digits.yaml", "epochs=1", "imgsz=64", "plots=false"]) == 0
    reported = capsys.readouterr().out
    assert "weights runs/train/weights/best.pt" in reported and "best epoch 1 of 1" in reported
    command = reported.rsplit("next: detectflow ", 1)[1].split()
    assert main([*command, "plots=false"]) == 0
    assert (
        "metrics/mAP50-95" in capsys.readouterr().out
        and (folder / "runs" / "val" / "per_class.csv").is_file()
    )
    assert (
        main(["train", "project=runs", "name=train", "resume=true"]) == 0
    )  # there is nothing left to do


def test_what_comes_next_works_where_there_is_no_test_split(folder, monkeypatch, capsys):
    """CVAT's export of two subsets has none."""
    for number in range(6):
        image = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        place = folder / "my set"
        (place / "obj_train_data").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(place / f"obj_train_data/f{number}.png"), image)
        (place / f"obj_train_data/f{number}.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    (place / "obj.names").write_text("cat\n")
    for name, numbers in (("train", range(4)), ("valid", range(4, 6))):
        (place / f"{name}.txt").write_text("".join(f"obj_train_data/f{n}.png\n" for n in numbers))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    assert main(["check", "data=my set"]) == 1
    line = capsys.readouterr().out.rsplit("Lets it through: detectflow ", 1)[1].split("\n")[0]
    assert line == "check 'data=my set' policies.empty_split=fix"
    assert main(shlex.split(line)) == 0
    assert "Lets it through" not in capsys.readouterr().out
    assert main(["train", "data=my set", "epochs=1", "imgsz=64", "plots=false"]) == 0
    command = capsys.readouterr().out.rsplit("next: detectflow ", 1)[1].strip()
    assert command == "val model=runs/train/weights/best.pt 'data=my set' split=val"
    assert main([*shlex.split(command), "plots=false"]) == 0
