"""A checkpoint is read whole or refused with the reason, and the one before it is offered. Nothing
in it is ever executed.
"""

import pickle
import zipfile

import pytest
import torch

from engine.core import checkpoint as module
from engine.core.checkpoint import (
    Checkpoint,
    load_checkpoint,
    previous_of,
    read_sidecar,
    save_checkpoint,
    sidecar_of,
)
from engine.errors import CheckpointError, WorkspaceError


def content(value: float) -> Checkpoint:
    return Checkpoint(
        {"names": ["a"]},
        {"w": torch.full((1000,), value)},
        None,
        {"state": {}},
        {"epoch": int(value)},
    )


@pytest.fixture
def last(tmp_path):
    """Written twice, so there is one before it."""
    path = tmp_path / "last.pt"
    save_checkpoint(content(1), path)
    save_checkpoint(content(2), path)
    return path


def test_what_is_written_is_read(last):
    read = load_checkpoint(last)
    assert (
        torch.equal(read.model["w"], torch.full((1000,), 2.0))
        and read.training == {"epoch": 2}
        and read.ema is None
    )
    assert load_checkpoint(previous_of(last)).training == {"epoch": 1}
    assert read_sidecar(last)["sha256"] != read_sidecar(last)["previous_sha256"]


def test_equal_contents_are_equal_bytes(tmp_path):
    (tmp_path / "other").mkdir()
    digests = [
        save_checkpoint(content(3), folder / "best.pt") for folder in (tmp_path, tmp_path / "other")
    ]
    assert digests[0] == digests[1]


class Code:
    """A pickle that runs something when it is read."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def truncated(path, scratch):
    path.write_bytes(path.read_bytes()[:-100])


def empty(path, scratch):
    path.write_bytes(b"")


def flipped(path, scratch):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def with_code(path, scratch):
    torch.save({"model": Code(f"touch {scratch / 'executed'}")}, path)


def plain_pickle(path, scratch):
    path.write_bytes(pickle.dumps(Code(f"touch {scratch / 'executed'}")))


def of_another_project(path, scratch):
    torch.save({"model": {"w": torch.zeros(3)}, "epoch": 5}, path)


def half_of_ours(path, scratch):
    torch.save({"format": module.FORMAT, "meta": {}}, path)


def another_zip(path, scratch):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def text(path, scratch):
    path.write_text("these are no weights\n")


DAMAGES = [
    truncated,
    empty,
    flipped,
    with_code,
    plain_pickle,
    of_another_project,
    half_of_ours,
    another_zip,
    text,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_or_foreign_file_in_a_run_is_refused_and_the_previous_one_offered(
    last, tmp_path, damage
):
    damage(last, tmp_path)
    with pytest.raises(
        CheckpointError,
        match=r"last\.pt: damaged: its SHA-256 .*last\.prev\.pt, is intact: copy it over",
    ):
        load_checkpoint(last)
    assert not (tmp_path / "executed").exists()
    last.write_bytes(previous_of(last).read_bytes())  # what the message says
    assert load_checkpoint(last).training == {"epoch": 1}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_file_without_its_sidecar_is_refused_too(last, tmp_path, damage):
    """As `model=` meets it: a single file that somebody passed on."""
    sidecar_of(last).unlink()
    assert load_checkpoint(last).training == {"epoch": 2}
    damage(last, tmp_path)
    ours = (
        "not a DetectFlow checkpoint of this version"
        if damage in (of_another_project, half_of_ours)
        else "damaged, or made by"
    )
    with pytest.raises(CheckpointError, match=rf"last\.pt: {ours}.*`detectflow train`"):
        load_checkpoint(last)
    assert not (tmp_path / "executed").exists()


def test_a_previous_one_that_is_damaged_is_not_offered(last, tmp_path):
    flipped(last, tmp_path)
    flipped(previous_of(last), tmp_path)
    with pytest.raises(
        CheckpointError, match=r"damaged: its SHA-256 is not the one in last\.json\.$"
    ):
        load_checkpoint(last)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"best\.pt: no such checkpoint"):
        load_checkpoint(tmp_path / "best.pt")


def test_a_full_disk_leaves_the_old_one(last, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(
        WorkspaceError,
        match=r"\(No space left on device\)\..*, with resume=true, .* last.pt: it is intact",
    ):
        save_checkpoint(content(3), last)
    monkeypatch.undo()
    assert load_checkpoint(last).training == {"epoch": 2}
    assert not list(last.parent.glob("*.tmp"))
