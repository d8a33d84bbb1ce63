"""What differs from the git commit, as a text that `git apply` takes: with the commit it is the code a run used.

Changed files are in it as a diff, files that git does not know yet whole where they are code or settings; others are named
only. What git ignores (`.env`) never is.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from engine.tracking.secrets import hide

WHOLE = {".py", ".yaml", ".yml", ".toml", ".json", ".cfg", ".sh", ".md"}
LARGEST_FILE_BYTES, LARGEST_BYTES = 100_000, 2_000_000
TIMEOUT_S = 10.0
EXCLUDED = (".", ":(exclude)dvc.lock")  # every run writes it


def uncommitted(root: Path) -> str:
    """The diff, with comments above it; empty where nothing differs, there is no git, or it does not answer in time."""
    changed = _git(root, "diff", "--no-color", "--no-ext-diff", "--relative", "HEAD", "--", *EXCLUDED)
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", *EXCLUDED)
    if changed is None or listed is None:
        return ""
    parts, remarks = [changed], []
    for name in sorted(filter(None, listed.split("\0"))):
        size = _size(root / name)
        if Path(name).suffix in WHOLE and size <= LARGEST_FILE_BYTES:
            parts.append(_git(root, "diff", "--no-color", "--no-ext-diff", "--no-index", "--", os.devnull, name, ok=(0, 1)) or "")
        else:
            remarks.append(f"not known to git, not in here: {name} ({size} bytes)")
    text = "".join(parts)
    shown = hide(text)
    if shown != text:
        remarks.append("passwords in addresses are replaced by ***")
    if len(shown) > LARGEST_BYTES:
        shown = shown[:LARGEST_BYTES] + "\n"
        remarks.append(f"cut after {LARGEST_BYTES} characters")
    if not (shown or remarks):
        return ""
    commit = (_git(root, "rev-parse", "HEAD") or "").strip()
    return "".join(f"# {remark}\n" for remark in (f"differs from commit {commit}", *remarks)) + shown


def _git(root: Path, *words: str, ok: tuple[int, ...] = (0,)) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode in ok else None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
