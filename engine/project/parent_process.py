"""A stage ends with the command that started it, also when that is killed with -9 (Linux; elsewhere
nothing happens).

The kernel sends a signal when the parent dies (prctl(2), PR_SET_PDEATHSIG). But DVC starts a stage
by `$SHELL -c`, or by /bin/sh where SHELL is not set (cron, systemd, containers): bash gives its
process to the stage, dash stays between the two and outlives DVC. So under DVC the process above
such a shell is watched as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
from pathlib import Path

PR_SET_PDEATHSIG = 1
SHELLS = {"sh", "ash", "bash", "dash", "fish", "ksh", "zsh"}


def end_with_parent() -> None:
    """Ask for a SIGTERM when the parent process ends, or under DVC the one that started the
    parent's shell.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we could ask
        os.kill(os.getpid(), signal.SIGTERM)
    if "DVC_STAGE" in os.environ and (above := _starter_of_shell(parent)):
        _end_with(above)


def _starter_of_shell(process: int) -> int | None:
    """The parent of `process` if that is a shell; 1, or whoever takes in orphans, when it has ended
    already.
    """
    with contextlib.suppress(OSError, ValueError, IndexError):
        name, fields = Path(f"/proc/{process}/stat").read_text().split("(", 1)[1].rsplit(")", 1)
        return int(fields.split()[1]) if name in SHELLS else None
    return None


def _end_with(process: int) -> None:
    """Send this process a SIGTERM when `process` ends; a thread waits for that without looking
    again and again.
    """
    try:
        ended = os.pidfd_open(process)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGTERM)
        return
    except (
        OSError
    ):  # a kernel or a sandbox without pidfd: the workspace lock still keeps a second one out
        return

    def wait() -> None:
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        poll.poll()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, name="end-with-parent", daemon=True).start()
