"""What differs from the commit is a patch: applied to the commit it gives the code of the run."""

import subprocess

import pytest

from engine.tracking import code_state
from engine.tracking.code_state import uncommitted


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
    done = subprocess.run(["git", "-C", str(root), *settings, *words], check=True, capture_output=True, input=stdin)
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
    (repository / "huge.py").write_text("#" * (code_state.LARGEST_FILE_BYTES + 1))
    (repository / ".env").write_text("AWS_SECRET_ACCESS_KEY=hunter2\n")
    text = uncommitted(repository)
    assert "# not known to git, not in here: photo.jpg (20 bytes)" in text and "not in here: huge.py" in text
    assert "hunter2" not in text and ".env" not in text and len(text) < 500


def test_passwords_in_addresses_are_hidden_and_a_long_diff_is_cut(repository, monkeypatch):
    (repository / "code.py").write_text("uri = 'https://me:hunter2@server/x'\n" + "line\n" * 1000)
    text = uncommitted(repository)
    assert "hunter2" not in text and "# passwords in addresses" in text
    monkeypatch.setattr(code_state, "LARGEST_BYTES", 200)
    assert "# cut after 200 characters" in uncommitted(repository) and len(uncommitted(repository)) < 500
