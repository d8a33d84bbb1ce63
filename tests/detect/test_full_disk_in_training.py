"""A disk that fills at any moment of a run: one sentence that names the file, and after space is
made the run goes on to the same weights. A tiny file system of its own where this may be mounted,
else a limit on the size of files.
"""

import os
import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from engine.core.checkpoint import load_checkpoint
from engine.detect import DetectionTrainer
from engine.errors import WorkspaceError

pytestmark = pytest.mark.system


class Mounted:
    """A tmpfs. `fill` leaves no byte of it, `free` gives them back."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=60m", "tmpfs", str(folder)], capture_output=True
        )
        if done.returncode:
            raise PermissionError(done.stderr)

    def fill(self):
        with open(self.folder / "filler", "wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(1 << 16))
            except OSError:
                pass

    def free(self):
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self):
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


class Limited:
    """Anywhere: no file may grow any more. The signal that comes with it is ignored by Python."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

    def fill(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self.hard))

    def free(self):
        resource.setrlimit(resource.RLIMIT_FSIZE, (self.hard, self.hard))

    close = free


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk") / "small"
    try:
        small = Mounted(folder)
    except (PermissionError, FileNotFoundError):
        small = Limited(folder)
    yield small
    small.close()


@pytest.fixture(scope="module")
def plan(shapes, tmp_path_factory):
    """Settings of a run of a second, and the weights it comes to."""
    folder = tmp_path_factory.mktemp("plan")
    os.environ["DETECTFLOW_STATE"] = str(folder / "state")
    (folder / "tiny.yaml").write_text("depth: 0.1\nwidth: 0.06\nmax_channels: 1024\n")
    settings = {
        "model": str(folder / "tiny.yaml"),
        "data": str(shapes),
        "imgsz": 64,
        "epochs": 2,
        "batch": 4,
        "verbose": False,
        "device": "cpu",
        "save_period": 1,
    }
    return settings, DetectionTrainer(
        {**settings, "project": str(folder), "plots": False}
    ).train().best_sha256


MOMENTS = {  # event, how often it must have fired -> what cannot be written then
    ("on_pretrain_routine_end", 1): "train_batch0.jpg",
    ("on_train_batch_end", 3): "last.pt",
    ("on_train_epoch_end", 1): "results.csv",
    ("on_val_end", 2): "results.csv",
    ("on_train_batch_end", 6): "last.pt",
    ("on_model_save", 2): "last.json",
    ("on_val_batch_start", 5): "val_batch0_labels.jpg",
    ("on_val_batch_end", 6): "matches.npz",
    ("on_final_eval_end", 1): "results.png",
}


@pytest.mark.parametrize(
    ("moment", "file"), MOMENTS.items(), ids=[f"{event}-{count}" for event, count in MOMENTS]
)
def test_a_disk_that_fills_costs_no_epoch_that_was_complete(disk, plan, moment, file):
    settings, weights = plan
    event, left = moment
    name = f"{event}-{left}"
    trainer = DetectionTrainer({**settings, "project": str(disk.folder), "name": name})

    def count(_):
        nonlocal left
        left -= 1
        if left == 0:
            disk.fill()

    trainer.add_callback(event, count)
    try:
        with pytest.raises(WorkspaceError) as error:
            trainer.train()
    finally:
        disk.free()
    said = str(error.value)
    assert file in said and ("No space left on device" in said or "File too large" in said), said
    assert "ree some disk space" in said or "Free space there" in said
    complete = trainer.last.exists()
    if complete:
        assert load_checkpoint(trainer.last).training["epoch"] == trainer.epoch - (
            file == "last.pt"
        )
    assert not list(trainer.save_dir.rglob("*.tmp"))
    how = {"resume": True} if complete else {"exist_ok": True}
    assert (
        DetectionTrainer({**settings, "project": str(disk.folder), "name": name, **how})
        .train()
        .best_sha256
        == weights
    )
    shutil.rmtree(trainer.save_dir)
