"""When a signal becomes an exception: not where that would do harm.

Python runs a handler between any two steps of the main thread. An exception raised inside its own
import machinery can leave the import lock taken, and whatever another thread imports then waits for
ever; one raised in a destructor or in the callback of a weak reference is printed and lost. Both
happened to a Ctrl-C in the first second of a training (CPython 3.11).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

AGAIN_AFTER_S = 0.001
IMPORTS = "<frozen importlib._bootstrap>"
# Of it, what takes or gives back a lock; the rest cleans up after itself. tests/test_signals.py
# compares it with the Python that runs.
LOCKING = frozenset(
    {"_get_module_lock", "cb", "_lock_unlock_module", "acquire", "release", "has_deadlock"}
    | {"_has_deadlocked", "_get_lock", "__init__", "__enter__", "__exit__"}
)
CALLBACKS = ("/weakref.py", "/_weakrefset.py")
Handler = Callable[[int, FrameType | None], Any]


def raised_safely(handler: Handler) -> Handler:
    """A handler that raises, called at the first moment at which that does no harm."""

    def handle(number: int, frame: FrameType | None) -> None:
        if frame is None or is_safe(frame):
            handler(number, frame)
        else:
            _send_again(number)

    return handle


def _send_again(number: int) -> None:
    again = threading.Timer(AGAIN_AFTER_S, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def is_safe(frame: FrameType) -> bool:
    """Whether an exception may be raised at this place of the main thread."""
    code = frame.f_code
    if code.co_filename == IMPORTS and code.co_name in LOCKING:
        return False
    if code.co_filename.endswith(CALLBACKS):
        return False
    above: FrameType | None = frame
    while above is not None:  # our own frame: a second signal while the first is put off
        if above.f_code.co_name == "__del__" or above.f_code.co_filename == __file__:
            return False
        above = above.f_back
    return True


interrupt = raised_safely(signal.default_int_handler)  # Ctrl-C


@contextmanager
def interrupts_are_heard() -> Iterator[None]:
    """Ctrl-C is a KeyboardInterrupt, at a safe place, and one that Python could only print comes
    again. A handler of somebody else is left alone.
    """
    hook = sys.unraisablehook

    def not_lost(unraisable: sys.UnraisableHookArgs) -> None:
        """Where Python could only print it: a callback of the garbage collector, say."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            _send_again(signal.SIGINT)
        else:
            hook(unraisable)

    is_ours = threading.current_thread() is threading.main_thread() and (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if is_ours:
        signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = not_lost
    try:
        yield
    finally:
        if is_ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            sys.unraisablehook = hook


@contextmanager
def signals_wait() -> Iterator[None]:
    """What Ctrl-C and SIGTERM do, they do after the block: for a few steps of somebody else's code
    that an exception must not break into.
    """
    if threading.current_thread() is not threading.main_thread():  # has no handlers
        yield
        return
    came: list[int] = []
    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }
    for number in before:
        signal.signal(number, lambda received, _: came.append(received))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
