"""What differs from the git commit, as a text that `git apply` takes: with the commit it is the
code a run used.

It is git's own diff, nothing in it is hidden: whoever uploads it uploads the passwords that stand
in changed files too. Files that git does not know yet are in it where they are code or settings;
others, and images that changed, are only named. What git ignores (`.env`) never is.
"""

from __future__ import annotations

import re
import stat
import subprocess
import time
from pathlib import Path

CODE = {".py", ".yaml", ".yml", ".toml", ".cfg", ".sh", ".md"}  # no .json: keys of cloud accounts
MAX_FILE_BYTES, MAX_BYTES, MAX_FILES, MAX_REMARKS = 100_000, 2_000_000, 100, 200
TIMEOUT_S = 10.0
EXCLUDED = (".", ":(exclude)dvc.lock")  # every run writes it
DIFF = (  # whatever the user's own settings of git are
    *("-c", "core.quotePath=true", "diff", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--submodule=short", "-U3", "--src-prefix=a/", "--dst-prefix=b/"),
)


def uncommitted(root: Path) -> str:
    """The diff, with comments above it; empty where nothing differs or there is no git."""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        commit = _git(root, deadline, "rev-parse", "HEAD").decode().strip()
        changed = _git(root, deadline, *DIFF, "--relative", "HEAD", "--", *EXCLUDED)
        untracked = ("ls-files", "--others", "--exclude-standard", "-z", "--", *EXCLUDED)
        names = _git(root, deadline, *untracked).split(b"\0")[:-1]
    except subprocess.TimeoutExpired:
        return f"# git did not answer within {TIMEOUT_S:g} s: what differs is not known\n"
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
        return ""
    remarks: list[str] = []
    unknown: list[str] = []  # they may be many, and come last
    parts = [(_title(part), part) for part in re.split(rb"(?m)^(?=diff --git )", changed)[1:]]
    parts += _new_files(root, deadline, names, unknown)
    kept, size = [], 0
    for title, part in parts:
        if b"\nBinary files " in part or not _is_utf8(part):
            remarks.append(f"not in here, not a text in UTF-8: {title}")
        elif size + len(part) > MAX_BYTES:
            remarks.append(f"left out, more than {MAX_BYTES} bytes in all: {title}")
        else:
            kept.append(part.decode())
            size += len(part)
    remarks += unknown
    if len(remarks) > MAX_REMARKS:
        remarks[MAX_REMARKS:] = [f"and {len(remarks) - MAX_REMARKS} more such lines"]
    if not (kept or remarks):
        return ""
    comments = (f"differs from commit {commit}", *remarks)
    return "".join([*(f"# {line}\n" for line in comments), *kept])


def _new_files(
    root: Path, deadline: float, names: list[bytes], remarks: list[str]
) -> list[tuple[str, bytes]]:
    """(title, diff) of the files that git does not know; what is left out goes to `remarks`."""
    parts: list[tuple[str, bytes]] = []
    for raw in sorted(names):
        path = root / raw.decode(errors="surrogateescape")
        title = ascii(path.relative_to(root).as_posix()).strip("'")
        try:
            found = path.lstat()
        except OSError:  # gone meanwhile
            continue
        is_code = path.suffix in CODE and stat.S_ISREG(found.st_mode)
        if not is_code or found.st_size > MAX_FILE_BYTES:
            remarks.append(f"not known to git, not in here: {title} ({found.st_size} bytes)")
        elif len(parts) >= MAX_FILES or time.monotonic() > deadline:
            remarks.append(f"not known to git, left out, too many: {title}")
        else:
            try:
                part = _git(root, deadline, *DIFF, "--no-index", "--", "/dev/null", raw)
            except (OSError, subprocess.SubprocessError):
                remarks.append(f"not known to git, left out, git did not read it: {title}")
            else:
                parts.append((title, part))
    return parts


def _git(root: Path, deadline: float, *argv: str | bytes) -> bytes:
    """What git prints. Raises OSError, CalledProcessError and TimeoutExpired of `subprocess`."""
    left_s = max(0.1, deadline - time.monotonic())
    done = subprocess.run(["git", "-C", str(root), *argv], capture_output=True, timeout=left_s)
    if done.returncode and not ("--no-index" in argv and done.returncode == 1):  # 1: they differ
        done.check_returncode()
    return done.stdout


def _title(part: bytes) -> str:
    """The file of a section of a diff, for people."""
    first = part.partition(b"\n")[0].removeprefix(b"diff --git ")
    return first[: len(first) // 2].decode("ascii", "replace").removeprefix("a/")


def _is_utf8(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True
