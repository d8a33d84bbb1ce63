"""Folders that are whole or absent, and the lock between processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.errors import WorkspaceError
from engine.files import publish_folder
from engine.locks import locked


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_appears_whole_and_replaces_the_old_one(tmp_path):
    for text in ("one", "two"):
        with publish_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
            assert names(tmp_path) == sorted(
                {".out.lock", ".out.new"} | ({"out"} if text == "two" else set())
            )
        assert names(tmp_path) == ["out"] and names(tmp_path / "out") == [text]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_one(error, tmp_path):
    with publish_folder(tmp_path / "out") as folder:
        (folder / "old").write_text("")
    with pytest.raises(error), publish_folder(tmp_path / "out") as folder:
        (folder / "new").write_text("")
        raise error
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


def test_interrupted_between_the_two_renames_the_old_one_comes_back(tmp_path, monkeypatch):
    with publish_folder(tmp_path / "out") as folder:
        (folder / "old").write_text("")
    replace = os.replace

    def second_fails(source, target):
        if target == tmp_path / "out" and str(source).endswith(".new"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", second_fails)
    with pytest.raises(KeyboardInterrupt), publish_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["old"]


def test_who_still_writes_does_not_bring_it_back(tmp_path):
    code = (
        "import itertools, sys; from pathlib import Path\n"
        "for number in itertools.count():\n"
        "    (Path(sys.argv[1]) / str(number)).write_text('')\n"
        "    if number == 50: print('on', flush=True)\n"
    )
    with pytest.raises(KeyError), publish_folder(tmp_path / "out") as folder:
        other = subprocess.Popen(
            [sys.executable, "-c", code, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert other.stdout.readline() == "on\n"
        raise KeyError
    assert "FileNotFoundError" in other.communicate()[1] and names(tmp_path) == []


def test_what_a_killed_process_left_is_cleared_away_and_an_old_result_restored(tmp_path):
    for left in (".out.new", ".out.new.old", ".out.old"):
        (tmp_path / left).mkdir()
    (tmp_path / ".out.new.old/half").write_text("")
    (tmp_path / ".out.old/kept").write_text("")
    with pytest.raises(ValueError), publish_folder(tmp_path / "out") as folder:
        assert names(folder) == []
        raise ValueError
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["kept"]


def test_a_link_to_a_folder_stays_and_its_target_is_replaced(tmp_path):
    (tmp_path / "disk/real").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    out = tmp_path / "project/out"
    out.symlink_to(tmp_path / "disk/real")
    for text in ("one", "two"):
        with publish_folder(out) as folder:
            (folder / text).write_text(text)
            assert folder.parent == tmp_path / "disk", "a rename is possible on one disk only"
        assert out.is_symlink() and names(tmp_path / "disk/real") == [text]
        assert names(tmp_path / "disk") == ["real"] and names(tmp_path / "project") == ["out"]


def test_a_link_among_what_was_left_is_removed_and_not_what_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real/kept").write_text("")
    for left in (".out.new", ".out.new.old", ".out.old"):
        (tmp_path / left).symlink_to(tmp_path / "real")
    (tmp_path / "out").mkdir()
    with publish_folder(tmp_path / "out"):
        pass
    assert names(tmp_path) == ["out", "real"] and names(tmp_path / "real") == ["kept"]


PUBLISH = """
import logging, sys
from pathlib import Path
from engine.files import publish_folder

logging.basicConfig(format="%(message)s", stream=sys.stdout)
with publish_folder(Path(sys.argv[1])) as folder:
    for name in "abc":
        (folder / name).write_text(sys.argv[2])
    print("inside", flush=True)
    input()
"""


def publisher(target: Path, text: str) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", PUBLISH, str(target), text], **pipes)


@pytest.mark.parametrize("killed", [False, True])
def test_a_second_one_waits_for_the_first_and_says_so(killed, tmp_path):
    first = publisher(tmp_path / "out", "first")
    assert first.stdout.readline() == "inside\n"
    second = publisher(tmp_path / "out", "second")
    said = second.stdout.readline()
    assert said.startswith(f"{tmp_path / 'out'}: waiting for process {first.pid} on ")
    assert said.endswith(", which is writing it\n")
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(0.5)
    if killed:
        first.kill()
        first.communicate()
    else:
        first.communicate("\n")
        assert {file.read_text() for file in (tmp_path / "out").iterdir()} == {"first"}
    assert second.stdout.readline() == "inside\n"
    second.communicate("\n")
    assert names(tmp_path) == ["out"] and {
        file.read_text() for file in (tmp_path / "out").iterdir()
    } == {"second"}


def test_many_at_once_do_no_harm(tmp_path):
    code = (
        "import sys; from pathlib import Path; from engine.files import publish_folder\n"
        "for turn in range(40):\n"
        f"    with publish_folder(Path({str(tmp_path / 'out')!r})) as folder:\n"
        "        for name in 'abc': (folder / name).write_text(sys.argv[1])\n"
        "        assert len(list(folder.iterdir())) == 3 and {f.read_text() for f in "
        "folder.iterdir()} == {sys.argv[1]}\n"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(k)], stderr=subprocess.PIPE, text=True)
        for k in range(4)
    ]
    for process in started:
        said = process.communicate()[1]
        assert process.returncode == 0 and all(
            ": waiting for " in line for line in said.splitlines()
        ), said
    assert (
        names(tmp_path) == ["out"]
        and len({file.read_text() for file in (tmp_path / "out").iterdir()}) == 1
    )


def test_where_there_are_no_locks_it_works_without(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with publish_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("")
    assert names(tmp_path / "out") == ["a"]


def test_a_place_that_cannot_be_written_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(WorkspaceError, match="could not be written"),
        publish_folder(tmp_path / "file/out"),
    ):
        pass


def test_a_lock_keeps_another_process_waiting_and_ends_with_its_holder(tmp_path):
    code = (
        "from pathlib import Path; from engine.locks import locked\n"
        f"with locked(Path({str(tmp_path / 'sub/lock')!r})): print('mine', flush=True); input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    first = subprocess.Popen([sys.executable, "-c", code], **pipes)
    assert first.stdout.readline() == "mine\n"
    second = subprocess.Popen([sys.executable, "-c", code], **pipes)
    with pytest.raises(subprocess.TimeoutExpired):
        second.wait(1)
    first.kill()
    assert second.stdout.readline() == "mine\n"
    second.communicate("\n")
    first.communicate()
    with locked(tmp_path / "sub/lock"):
        pass
