"""Atomic files: whole or absent, whatever happens in between."""

import errno
import hashlib
import os
import subprocess
import sys

import pytest

from engine.errors import WorkspaceError
from engine.files import atomic_write, sha256_file, write_bytes, write_text


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_written_file_is_there_and_nothing_else(tmp_path):
    target = tmp_path / "deep" / "er" / "a.txt"
    write_text(target, "Grüße\r\n")
    assert target.read_bytes() == "Grüße\r\n".encode()
    write_bytes(target, b"second")
    assert target.read_bytes() == b"second"
    assert names(target.parent) == ["a.txt"]


def test_an_error_in_the_block_keeps_the_old_file_and_leaves_no_rubbish(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_write(target) as handle:
        handle.write(b"half of the n")
        raise KeyError("oops")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["a.bin"]


def test_readers_see_the_old_file_until_the_block_ends(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with atomic_write(target) as handle:
        handle.write(b"new" * 100_000)
        handle.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" * 100_000


def test_a_link_is_replaced_and_its_target_left_alone(tmp_path):
    cache, link = tmp_path / "cache", tmp_path / "link"
    cache.write_bytes(b"precious")
    link.symlink_to(cache)
    write_bytes(link, b"new")
    assert (
        cache.read_bytes() == b"precious" and not link.is_symlink() and link.read_bytes() == b"new"
    )


def test_the_file_follows_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        write_bytes(tmp_path / "a", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_a_workspace_error_that_names_the_file(tmp_path):
    with (
        pytest.raises(WorkspaceError, match="best.pt.*No space left") as caught,
        atomic_write(tmp_path / "best.pt"),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert isinstance(caught.value.__cause__, OSError)
    assert names(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are POSIX")
def test_a_real_write_that_does_not_fit(tmp_path):
    target = tmp_path / "big.bin"
    target.write_bytes(b"old")
    code = (
        "import resource, sys\nfrom engine.errors import WorkspaceError\nfrom engine.files import "
        "write_bytes\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try: write_bytes(sys.argv[1], bytes(10**6))\nexcept WorkspaceError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert str(target) in done.stdout, done.stderr
    assert target.read_bytes() == b"old" and names(tmp_path) == ["big.bin"]


def test_another_error_of_the_block_is_not_renamed(tmp_path):
    with pytest.raises(PermissionError), atomic_write(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "some other file")


def test_a_parent_that_is_a_file_stays_an_os_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        write_bytes(tmp_path / "file" / "a", b"")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_refuses_is_a_workspace_error(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(WorkspaceError, match="may be written"):
            write_bytes(tmp_path / "a", b"")
    finally:
        tmp_path.chmod(0o700)


def test_only_modes_that_replace_the_file(tmp_path):
    with pytest.raises(ValueError, match="'a'"), atomic_write(tmp_path / "a", "a"):
        pass


def test_sha256_of_a_file(tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(content).hexdigest()
