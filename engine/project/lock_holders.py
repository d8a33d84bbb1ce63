"""Which processes are in the way: for messages about a database that is locked, or a command of
DVC's that is at work.

Names are a courtesy: where the system or another user's process does not say, nothing is said.
"""

from __future__ import annotations

import os
from pathlib import Path

LOCKED = "database is locked"  # SQLite's own message
COMMAND_CHARACTERS = 200


def command_of(pid: int) -> str:
    """` (dvc push)`, made to follow the number of the process; empty where it is not known."""
    try:
        import psutil

        command = psutil.Process(pid).cmdline()
    except (ImportError, psutil.Error):
        return ""
    if (
        len(command) > 1
        and Path(command[0]).name.startswith("python")
        and Path(command[1]).is_absolute()
    ):
        command = command[1:]  # a script: its interpreter says nothing
    return (
        f" ({' '.join([Path(command[0]).name, *command[1:]])[:COMMAND_CHARACTERS]})"
        if command
        else ""
    )


def opened_by(file: Path) -> str:
    """`process 123 (sqlite3 mlflow.db)` for each other process that has `file` open; empty for
    none.
    """
    try:
        import psutil
    except ImportError:
        return ""
    wanted, found = str(file.resolve()), []
    for process in psutil.process_iter(["pid"]):
        try:
            if process.pid != os.getpid() and any(
                each.path == wanted for each in process.open_files()
            ):
                found.append(f"process {process.pid}{command_of(process.pid)}")
        except (psutil.Error, OSError):  # gone meanwhile, or another user's
            continue
    return ", ".join(found)


def describe_lock(file: Path) -> str:
    """What to do about a locked database file, naming who has it open."""
    who = opened_by(file)
    return (
        f"Another program has {file} locked{f': {who}' if who else ''}. Wait until it is done, or "
        "end it, and run again."
    )
