"""A Ctrl-C is raised where it does no harm: never inside the import machinery, a destructor or a
weak reference's callback, and then a moment later.
"""

import gc
import os
import signal
import subprocess
import sys
import textwrap
import time
import types
import weakref

import pytest

from engine.errors import Terminated
from engine.signals import IMPORTS, LOCKING, interrupts_are_heard, raised_safely


def code_in(file, source):
    """Names that `source` defines, as if it stood in `file`."""
    found = {}
    exec(compile(textwrap.dedent(source), file, "exec"), {"signal": signal}, found)
    return found


def until_interrupted():
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("file", [IMPORTS, "/usr/lib/python3.11/weakref.py"])
def test_code_that_must_not_be_broken_into_ends_first(file):
    step = code_in(
        file,
        """
        def _get_module_lock(done):
            signal.raise_signal(signal.SIGINT)
            done.append(1)
        """,
    )["_get_module_lock"]
    done = []
    with interrupts_are_heard(), pytest.raises(KeyboardInterrupt):
        step(done)
        until_interrupted()
    assert done == [1]


def test_what_a_destructor_would_swallow_is_raised_after_it():
    class Object:
        def __del__(self):
            self.help()
            ended.append(1)

        def help(self):
            signal.raise_signal(signal.SIGINT)

    ended = []
    with interrupts_are_heard(), pytest.raises(KeyboardInterrupt):
        Object()
        gc.collect()
        until_interrupted()
    assert ended == [1]


def test_what_python_could_only_print_comes_again():
    """A callback of the garbage collector: nobody above it catches anything."""
    ended = []

    def callback(phase, _):
        if phase == "start" and not ended:
            ended.append(1)
            signal.raise_signal(signal.SIGINT)

    gc.callbacks.append(callback)
    before = sys.unraisablehook
    try:
        with interrupts_are_heard(), pytest.raises(KeyboardInterrupt):
            gc.collect()
            until_interrupted()
    finally:
        gc.callbacks.remove(callback)
    assert ended == [1] and sys.unraisablehook is before


def test_elsewhere_it_comes_at_once_also_in_a_module_that_is_imported():
    with interrupts_are_heard(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
        pytest.fail("later")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_of_somebody_else_is_left_alone():
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with interrupts_are_heard():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    assert heard == [1]


def test_other_signals_and_their_exceptions():
    @raised_safely
    def end(*_):
        raise Terminated

    before = signal.signal(signal.SIGUSR1, end)
    step = code_in(IMPORTS, "def cb(): signal.raise_signal(signal.SIGUSR1)")["cb"]
    try:
        with pytest.raises(Terminated):
            step()
            until_interrupted()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_imports_of_other_threads_go_on_whenever_it_comes(tmp_path):
    """The main thread imports without end and is interrupted again and again; after each time
    another thread must still be able to import.
    """
    for number in range(40):
        (tmp_path / f"module{number}.py").write_text("import json\n")
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import importlib, os, random, signal, sys, threading, time
            from engine.signals import interrupts_are_heard

            heard, stop = 0, threading.Event()

            def send():
                sent = 0
                time.sleep(0.1)
                while not stop.is_set():
                    while heard < sent:  # one after the other
                        time.sleep(0.0005)
                    time.sleep(random.random() / 200)
                    os.kill(os.getpid(), signal.SIGINT)
                    sent += 1

            with interrupts_are_heard():
                end = time.monotonic() + 3
                threading.Thread(target=send, daemon=True).start()
                while time.monotonic() < end:
                    try:
                        while True:
                            for number in range(40):
                                sys.modules.pop(f"module{number}", None)
                                importlib.import_module(f"module{number}")
                    except KeyboardInterrupt:
                        heard += 1
                try:
                    stop.set()
                    time.sleep(0.2)
                except KeyboardInterrupt:  # the last one
                    pass
            time.sleep(0.1)
            other = threading.Thread(target=lambda: __import__("colorsys"), daemon=True)
            other.start()
            other.join(20)
            print(heard, "stuck" if other.is_alive() else "free", flush=True)
            os._exit(0)
            """
        )
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{tmp_path}"},
        text=True,
        capture_output=True,
        timeout=120,
    )
    assert done.stdout, done.stderr[-2000:]
    heard, end = done.stdout.split()[-2:]
    assert end == "free" and int(heard) > 20, done.stderr[-2000:]
    assert "Exception ignored" not in done.stderr


def test_the_machinery_is_where_it_is_looked_for():
    assert weakref.__file__.endswith("/weakref.py")
    import importlib._bootstrap as bootstrap

    lock = bootstrap._get_module_lock.__code__
    assert (lock.co_filename, lock.co_name) == (IMPORTS, "_get_module_lock")
    [callback] = [each for each in lock.co_consts if isinstance(each, types.CodeType)]
    assert callback.co_name in LOCKING
    for name in ("_ModuleLock", "_ModuleLockManager"):
        methods = {k for k, v in vars(getattr(bootstrap, name)).items() if callable(v)}
        assert methods - {"__repr__"} <= LOCKING, name
