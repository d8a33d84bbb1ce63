"""What differs from the commit is a patch: applied to the commit it gives the code of the run."""

import os
import shutil
import subprocess
import time

import pytest

from engine.versioning import git_diff
from engine.versioning.git_diff import uncommitted


@pytest.fixture
def repository(tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "code.py").write_text("a = 1\nb = 2\n")
    (root / "name with ü.py").write_text("x\n")
    (root / "dvc.lock").write_text("a\n")
    (root / ".gitignore").write_text(".env\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    return root


def git(root, *words, stdin=None):
    settings = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    done = subprocess.run(
        ["git", "-C", str(root), *settings, *words], check=True, capture_output=True, input=stdin
    )
    return done.stdout.decode()


def test_it_gives_the_code_of_the_run_when_it_is_applied_to_the_commit(repository, tmp_path):
    (repository / "code.py").write_text("a = 1\nb = 3\n")
    (repository / "name with ü.py").write_text("x\ny\n")
    (repository / "sub").mkdir()
    (repository / "sub" / "new module.py").write_text("c = 4")  # no line end
    (repository / "settings.yaml").write_text("d: 5\n")
    (repository / "dvc.lock").write_text("b\n")
    text = uncommitted(repository)
    commit = git(repository, "rev-parse", "HEAD").strip()
    assert text.startswith(f"# differs from commit {commit}\ndiff --git") and "dvc.lock" not in text
    git(tmp_path, "clone", "-q", str(repository), "other")
    git(tmp_path / "other", "apply", "-", stdin=text.encode())
    for name in ("code.py", "name with ü.py", "sub/new module.py", "settings.yaml"):
        assert (tmp_path / "other" / name).read_text() == (repository / name).read_text()


def test_a_clean_tree_no_git_and_no_commit_differ_in_nothing(repository, tmp_path):
    assert uncommitted(repository) == ""
    (tmp_path / "plain").mkdir()
    assert uncommitted(tmp_path / "plain") == ""
    git(tmp_path, "init", "-q", "empty")
    (tmp_path / "empty" / "a.py").write_text("1\n")
    assert uncommitted(tmp_path / "empty") == ""


def test_other_files_are_named_and_what_git_ignores_is_not(repository):
    (repository / "photo.jpg").write_bytes(b"\xff\xd8" * 10)
    (repository / "huge.py").write_text("#" * (git_diff.MAX_FILE_BYTES + 1))
    (repository / ".env").write_text("AWS_SECRET_ACCESS_KEY=hunter2\n")
    text = uncommitted(repository)
    assert (
        "# not known to git, not in here: photo.jpg (20 bytes)" in text
        and "not in here: huge.py" in text
    )
    assert "hunter2" not in text and ".env" not in text and len(text) < 500


def applied(repository, tmp_path, text):
    git(tmp_path, "clone", "-q", str(repository), "other")
    git(tmp_path / "other", "apply", "-", stdin=text.encode())
    return tmp_path / "other"


def test_a_changed_image_does_not_break_the_patch(repository, tmp_path):
    (repository / "known.png").write_bytes(b"\0\1")
    git(repository, "add", ".")
    git(repository, "commit", "-q", "-m", "second")
    (repository / "known.png").write_bytes(b"\0\2")
    (repository / "empty.py").write_text("")
    (repository / 'a "b"\t\\.py').write_text("1\n")
    (repository / "link.py").symlink_to("/dev/zero")
    os.mkfifo(repository / "pipe.py")
    text = uncommitted(repository)
    assert "not a text in UTF-8: known.png" in text and "not in here: link.py" in text
    other = applied(repository, tmp_path, text)
    assert (other / "empty.py").read_text() == "" and (other / 'a "b"\t\\.py').read_text() == "1\n"


def test_many_files_take_little_time_and_what_is_left_out_is_said(
    repository, tmp_path, monkeypatch
):
    for number in range(2000):
        (repository / f"new{number}.py").write_text("a = 1\n" * 20)
    begin = time.monotonic()
    text = uncommitted(repository)
    assert time.monotonic() - begin < git_diff.TIMEOUT_S + 5
    assert (
        text.count("new file mode") == git_diff.MAX_FILES
        and "# not known to git, left out, too many: new" in text
    )
    assert "# and 1700 more such lines\n" in text
    monkeypatch.setattr(git_diff, "MAX_BYTES", 10_000)
    text = uncommitted(repository)
    assert len(text) < 30_000 and "# left out, more than 10000 bytes in all: new" in text
    assert (applied(repository, tmp_path, text) / "new0.py").exists()


def test_a_long_change_is_left_out_whole_and_the_rest_applies(repository, tmp_path, monkeypatch):
    (repository / "code.py").write_text("line\n" * 1000)
    (repository / "name with ü.py").write_text("y\n")
    monkeypatch.setattr(git_diff, "MAX_BYTES", 4000)
    text = uncommitted(repository)
    assert "# left out, more than 4000 bytes in all: code.py\n" in text and len(text) < 1000


def test_it_ends_in_time_where_git_does_not(repository, tmp_path, monkeypatch):
    (repository / "new.py").write_text("a = 1\n")
    (tmp_path / "git").write_text(
        f'#!/bin/sh\ncase "$*" in *rev-parse*) exec {shutil.which("git")} "$@";; esac\nexec sleep '
        "30\n"
    )
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(git_diff, "TIMEOUT_S", 1.0)
    begin = time.monotonic()
    assert uncommitted(repository) == "# git did not answer within 1 s: what differs is not known\n"
    assert time.monotonic() - begin < 5
