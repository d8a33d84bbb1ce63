"""What differs from the git commit, as a text that `git apply` takes: with the commit it is the
code a run used.

Changed files are in it as a diff, files that git does not know yet whole where they are code or
settings; others are named only. What git ignores (`.env`) never is. Values that look like passwords
are masked; what cannot be masked without breaking the patch is left out and named. It ends after
`TIMEOUT_S`, with what there is by then.
"""

from __future__ import annotations

import ast
import re
import stat
import subprocess
import threading
import time
from pathlib import Path

from engine.versioning.masking import PRIVATE_KEY, Masking

WHOLE = {
    ".py",
    ".yaml",
    ".yml",
    ".toml",
    ".cfg",
    ".sh",
    ".md",
}  # no .json: keys of cloud accounts are
LARGEST_FILE_BYTES, LARGEST_BYTES, MOST_FILES, MOST_REMARKS = 100_000, 2_000_000, 1000, 200
TIMEOUT_S = 10.0
EXCLUDED = (".", ":(exclude)dvc.lock")  # every run writes it
AS_WRITTEN = (
    "-c",
    "core.quotePath=true",
    "diff",
    "--no-color",
    "--no-ext-diff",
    "--no-textconv",
    "--submodule=short",
    "-U3",
)
PREFIXES = ("--src-prefix=a/", "--dst-prefix=b/", "--relative")
MASKED = "values that look like passwords are replaced by ***"


def uncommitted(root: Path) -> str:
    """The diff, with comments above it; empty where nothing differs or there is no git."""
    deadline = time.monotonic() + TIMEOUT_S
    commit = _git(root, deadline, "rev-parse", "HEAD")
    changed = _git(root, deadline, *AS_WRITTEN, *PREFIXES, "HEAD", "--", *EXCLUDED)
    listed = _git(
        root, deadline, "ls-files", "--others", "--exclude-standard", "-z", "--", *EXCLUDED
    )
    found = _Collected(deadline)
    if commit is None or changed is None:
        return (
            f"# git did not answer within {TIMEOUT_S:g} s: what differs is not known\n"
            if found.late()
            else ""
        )
    _changed_files(root, changed, found)
    if listed is None or len(listed) > 2 * LARGEST_BYTES:
        found.remarks.append("not known to git, left out: it has not listed all of them")
    _new_files(root, sorted((listed or b"").split(b"\0")[:-1]), found)
    return found.text(commit.decode().strip())


class _Collected:
    """The parts of the patch so far, what is said above it, and how much may still come."""

    def __init__(self, deadline: float):
        self.deadline = deadline
        self.parts: list[str] = []
        self.remarks: list[str] = []
        self.size, self.full, self.masked = 0, False, False

    def late(self) -> bool:
        return time.monotonic() > self.deadline

    def add(self, name: str, part: str) -> None:
        if self.size + len(part) > LARGEST_BYTES:
            self.full = True
            self.remarks.append(f"left out, more than {LARGEST_BYTES} characters in all: {name}")
        else:
            self.parts.append(part)
            self.size += len(part)

    def text(self, commit: str) -> str:
        if not (self.parts or self.remarks):
            return ""
        said = [
            f"differs from commit {commit}",
            *([MASKED] if self.masked else []),
            *self.remarks[:MOST_REMARKS],
        ]
        if len(self.remarks) > MOST_REMARKS:
            said.append(f"and {len(self.remarks) - MOST_REMARKS} more such lines")
        return "".join(f"# {_one_line(remark)}\n" for remark in said) + "".join(self.parts)


def _changed_files(root: Path, diff: bytes, found: _Collected) -> None:
    sections = re.split(rb"^(?=diff --git )", diff, flags=re.MULTILINE)[1:]
    if len(diff) > 2 * LARGEST_BYTES and sections:
        sections.pop()  # not read to its end
        found.remarks.append(
            f"left out, more than {LARGEST_BYTES} characters in all: the last of the changed files"
        )
    for section in sections:
        head, *hunks = re.split(rb"^(?=@@ )", section, flags=re.MULTILINE)
        name = _name(head)
        if found.late():
            found.remarks.append(f"left out, {TIMEOUT_S:g} s were over: {name}")
            continue
        if found.full or len(section) > LARGEST_BYTES:
            found.remarks.append(f"left out, more than {LARGEST_BYTES} characters in all: {name}")
            continue
        text = _utf8(section)
        if text is None or (not hunks and b"\nBinary files " in head):
            found.remarks.append(f"changed, not in here, not a text in UTF-8: {name}")
        elif PRIVATE_KEY.search(text) or (hunks and PRIVATE_KEY.search(_start_of(root / name))):
            found.remarks.append(f"changed, not in here, holds a private key: {name}")
        else:
            _changed_file(name, head.decode(), [hunk.decode() for hunk in hunks], found)


def _changed_file(name: str, head: str, hunks: list[str], found: _Collected) -> None:
    kept = []
    for hunk in hunks:
        masking = Masking(name)
        shown = masking.hunk(hunk)
        if shown is None:
            found.remarks.append(
                f"left out, lines of the commit in it look like passwords: {name}, "
                f"{hunk.split('@@')[1].strip()}"
            )
        else:
            kept.append(shown)
            found.masked |= masking.masked
    if kept or not hunks:
        found.add(name, head + "".join(kept))


def _new_files(root: Path, names: list[bytes], found: _Collected) -> None:
    read = 0
    for raw in names:
        name = raw.decode(errors="replace")
        if found.late():
            found.remarks.append(f"not known to git, left out, {TIMEOUT_S:g} s were over: {name}")
            continue
        size, mode = _size_and_mode(root / name)
        if Path(name).suffix not in WHOLE or size > LARGEST_FILE_BYTES or not stat.S_ISREG(mode):
            found.remarks.append(f"not known to git, not in here: {name} ({size} bytes)")
            continue
        if read >= MOST_FILES or found.full:
            found.remarks.append(f"not known to git, left out, too many: {name} ({size} bytes)")
            continue
        read += 1
        text = _utf8(_bytes(root / name))
        if text is None:
            found.remarks.append(f"not known to git, not in here, not a text in UTF-8: {name}")
        elif PRIVATE_KEY.search(text):
            found.remarks.append(f"not known to git, not in here, holds a private key: {name}")
        else:
            masking = Masking(name)
            found.add(name, _new_file(raw, bool(mode & stat.S_IXUSR), masking.lines(text)))
            found.masked |= masking.masked


def _new_file(raw: bytes, executable: bool, text: str) -> str:
    """The patch that makes a file, as `git diff --no-index /dev/null` writes it."""
    head = (
        f"diff --git {_quoted(b'a/' + raw)} {_quoted(b'b/' + raw)}\nnew file mode "
        f"{'100755' if executable else '100644'}\n"
    )
    if not text:
        return head
    ended = text.endswith("\n")
    lines = text[: -1 if ended else None].split("\n")
    body = "".join(f"+{line}\n" for line in lines) + (
        "" if ended else "\\ No newline at end of file\n"
    )
    return f"{head}--- /dev/null\n+++ {_quoted(b'b/' + raw)}\n@@ -0,0 +1,{len(lines)} @@\n{body}"


def _quoted(name: bytes) -> str:
    if re.fullmatch(rb"[\w./+-]+", name):
        return name.decode()
    return (
        '"'
        + "".join(chr(c) if 32 <= c < 127 and chr(c) not in '"\\' else f"\\{c:03o}" for c in name)
        + '"'
    )


def _name(head: bytes) -> str:
    """The file of a section: its new name, the old one where it is deleted."""
    first, *lines = head.split(b"\n")
    both = first.removeprefix(b"diff --git ")
    path = both[: len(both) // 2]  # the same twice, where no other line names it
    for begin in (b"+++ ", b"--- "):
        named = [
            line for line in lines if line.startswith(begin) and not line.endswith(b"/dev/null")
        ]
        if named:
            path = named[0][len(begin) :].rstrip(b"\t")
            break
    path = (
        ast.literal_eval("b" + path.decode())
        if path.startswith(b'"') and path.endswith(b'"')
        else path
    )
    return path[2:].decode(errors="replace")


def _git(root: Path, deadline: float, *words: str) -> bytes | None:
    """What git says, at most a little more than is kept; None where it fails or is late."""
    try:
        process = subprocess.Popen(
            ["git", "-C", str(root), *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    except OSError:
        return None
    late = threading.Timer(max(0.0, deadline - time.monotonic()), process.kill)
    late.start()
    with process:
        said = process.stdout.read(2 * LARGEST_BYTES + 1)
        cut = len(said) > 2 * LARGEST_BYTES
        if cut:
            process.kill()
    late.cancel()
    return said if cut or process.returncode == 0 else None


def _utf8(data: bytes) -> str | None:
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _start_of(path: Path) -> str:
    return _bytes(path).decode(errors="replace")


def _bytes(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return b""
        with path.open("rb") as file:
            return file.read(LARGEST_BYTES)
    except OSError:
        return b""


def _size_and_mode(path: Path) -> tuple[int, int]:
    try:
        found = path.lstat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mode


def _one_line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f\u2028\u2029\x85]", "?", text)
