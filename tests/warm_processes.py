"""Commands without their imports: one process imports the heavy libraries once, and forks for each
command.

`run` and `Popen` take what `subprocess` takes and behave like it: own pid, own working folder, own
environment, own pipes, signals and exit codes, atexit and all. What is saved are the seconds of CPU
that `import torch, mlflow, dvc` costs each `python -m engine ...`. The project's own modules are
not among what is imported: a command in a copy of the project runs the copy's code; nor is
prefect, whose settings are read from the environment when it is imported.

A test about start-up, imports, the parent of a process or its command line uses `subprocess`:
there the real thing is the point.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# What commands import, of what starts no thread of its own when it is imported (onnxruntime does)
# and takes nothing from the environment that tests change (prefect, matplotlib do).
PRELOADED = (
    "torch",
    "torchvision",
    "cv2",
    "sklearn.datasets",
    "onnx",
    "fastapi",
    "httpx",
    "sqlalchemy.ext.asyncio",
    "mlflow",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_store",
    "dvc.repo",
    "dvc.cli",
)
# Programs of the environment, and the module that is the same.
PROGRAMS = {"detectflow": "engine", "dvc": "dvc"}
# Python reads these when it starts; where they are others than the server's, only a start will do.
READ_AT_START = ("PYTHON", "LANG", "LC_", "LD_", "OMP_", "MKL_", "OPENBLAS_")
HEADER = struct.Struct("!I")
# A program `python` for the PATH of commands that start Python themselves, as DVC does its stages:
# it stands between and passes on streams, signals and the exit code.
STAND_IN = """#!{python} -SE
import json, os, signal, socket, struct, sys
environment = dict(os.environ)
read_at_start = {{k: v for k, v in environment.items() if k.startswith({prefixes!r}) and v}}
if sys.argv[1:2] != ["-m"] or len(sys.argv) < 3 or read_at_start != {read_at_start!r}:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = {{"argv": sys.argv[1:], "cwd": os.getcwd(), "env": environment, "new_session": False}}
answers = socket.socket(socket.AF_UNIX)
answers.connect({address!r})
body = json.dumps(request).encode()
socket.send_fds(answers, [struct.pack("!I", len(body))], [0, 1, 2])
answers.sendall(body)
stream = answers.makefile("rb")
receive = lambda: json.loads(stream.read(*struct.unpack("!I", stream.read(4))))
pid = receive()["pid"]
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda sent, _: os.kill(pid, sent))
code = os.waitstatus_to_exitcode(receive()["status"])
if code < 0:
    signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""


class Popen(subprocess.Popen):
    """`subprocess.Popen`; a `python -m MODULE ...` or `python -c CODE ...` among its commands is
    forked from the warm process.
    """

    _answers: socket.socket | None = None  # over it comes the exit status of a forked command

    def _execute_child(self, *given: Any) -> None:
        # The order of subprocess.Popen's own method, Python 3.11 to 3.13.
        (args, executable, preexec_fn, _, pass_fds, cwd, env, _, _, shell) = given[:10]
        (p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite) = given[10:16]
        (_, gid, gids, uid, umask, new_session, process_group) = given[16:23]
        unusual = (
            executable,
            preexec_fn,
            pass_fds,
            shell,
            gid is not None,
            gids is not None,
            uid is not None,
            umask != -1,
            process_group != -1,
        )
        environment = {
            os.fsdecode(k): os.fsdecode(v) for k, v in (os.environ if env is None else env).items()
        }
        argv = None if any(unusual) else forkable(args)
        if argv is None or not _starts_alike(environment):
            return super()._execute_child(*given)
        request = {
            "argv": argv,
            "cwd": os.path.abspath(os.fsdecode(cwd or os.getcwd())),
            "env": environment,
            "new_session": bool(new_session),
        }
        ends = [p2cread, c2pwrite, errwrite]
        streams = [k if end == -1 else end for k, end in enumerate(ends)]
        self._answers, self.pid = _server().start(request, streams)
        self._child_created = True
        self._close_pipe_fds(*given[10:16])
        return None

    def _internal_poll(self, *given: Any, **named: Any) -> int | None:
        if self._answers is None:
            return super()._internal_poll(*given, **named)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid == self.pid:
                    self._handle_exitstatus(status)
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._answers is None:
            return super()._try_wait(wait_flags)
        if wait_flags == os.WNOHANG and not select.select([self._answers], [], [], 0)[0]:
            return 0, 0
        status = _receive(self._answers)
        self._answers.close()
        assert status is not None, "the warm process has ended under its commands"
        return self.pid, status["status"]


def run(
    args: Sequence[str],
    *,
    input: str | bytes | None = None,
    capture_output: bool = False,
    check: bool = False,
    timeout: float | None = None,
    **options: Any,
) -> subprocess.CompletedProcess:
    """`subprocess.run`, by the warm process."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(args, **options) as process:
        try:
            out, err = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            process.communicate()
            raise
    done = subprocess.CompletedProcess(args, process.returncode, out, err)
    if check:
        done.check_returncode()
    return done


def programs() -> str:
    """A folder for the front of PATH: its `python -m MODULE` is forked from the warm process."""
    folder = Path(_server().folder.name) / "bin"
    if not folder.exists():
        folder.mkdir()
        server = _server()
        text = STAND_IN.format(
            python=sys.executable,
            prefixes=READ_AT_START,
            read_at_start=_read_at_start(server.environment),
            address=server.address,
        )
        (folder / "python").write_text(text)
        (folder / "python").chmod(0o755)
    return str(folder)


def forkable(args: Any) -> list[str] | None:
    """["-m", module, its arguments] or ["-c", code, its arguments] of a command of this
    environment's Python; None: it is another one.
    """
    if isinstance(args, (str, bytes, os.PathLike)):
        return None
    program, *rest = (os.fspath(word) for word in args)
    if program == sys.executable and len(rest) >= 2 and rest[0] in ("-m", "-c"):
        return rest
    path = Path(program)
    if path.name in PROGRAMS and path.parent in (Path(), Path(sys.executable).parent):
        return ["-m", PROGRAMS[path.name], *rest]
    return None


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(READ_AT_START) and v}


def _starts_alike(environment: Mapping[str, str]) -> bool:
    return _read_at_start(environment) == _read_at_start(_server().environment)


class _Server:
    """The warm process, seen from the tests."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="warm-")
        self.environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PREFECT_", "MLFLOW_", "DVC_", "DETECTFLOW_"))
            },
            "OMP_NUM_THREADS": "1",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "GIT_PYTHON_REFRESH": "quiet",
        }
        self.address = os.path.join(self.folder.name, "socket")
        self.log = os.path.join(self.folder.name, "log")
        with open(self.log, "wb") as log:
            # Its standard input is our hand on it: it ends when that is closed, however we end.
            self.process = subprocess.Popen(
                [sys.executable, __file__, self.address],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=self.folder.name,
                env=self.environment,
            )
        if self.process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"the warm process did not start: {Path(self.log).read_text()}")
        self.process.stdout.close()
        atexit.register(self.stop)

    def start(self, request: dict, streams: list[int]) -> tuple[socket.socket, int]:
        """(the connection over which the exit status comes, pid)."""
        answers = socket.socket(socket.AF_UNIX)
        try:
            answers.connect(self.address)
            body = json.dumps(request).encode()
            socket.send_fds(answers, [HEADER.pack(len(body))], streams)
            answers.sendall(body)
            begun = _receive(answers)
        except OSError as error:
            raise RuntimeError(f"the warm process is gone: {Path(self.log).read_text()}") from error
        if begun is None:
            raise RuntimeError(f"the warm process is gone: {Path(self.log).read_text()}")
        if "error" in begun:  # as subprocess does: the folder is not there
            raise OSError(*begun["error"])
        return answers, begun["pid"]

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.folder.cleanup()


_servers: dict[int, _Server] = {}  # pid -> its server: a forked test process asks for its own


def _server() -> _Server:
    if os.getpid() not in _servers:
        _servers[os.getpid()] = _Server()
    return _servers[os.getpid()]


def _receive(connection: socket.socket) -> dict | None:
    """The next message; None: the other side is gone."""
    header = _exactly(connection, HEADER.size)
    body = header and _exactly(connection, HEADER.unpack(header)[0])
    return json.loads(body) if body else None


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            return b""
        data += part
    return data


def _send(connection: socket.socket, message: dict) -> None:
    body = json.dumps(message).encode()
    try:
        connection.sendall(HEADER.pack(len(body)) + body)
    except OSError:  # whoever started the command no longer asks for its end
        pass


# The warm process itself


def serve(address: str) -> dict | None:
    """Fork for each request until standard input ends; returns the request in the child, None in
    the server.
    """
    wake, woken = socket.socketpair()
    for end in (wake, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(address)
    listening.listen(64)
    os.write(1, b"ready\n")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    running: dict[int, socket.socket] = {}  # pid -> who waits for it
    while True:
        ready = select.select([0, wake, listening], [], [])[0]
        if wake in ready:
            wake.recv(4096)
            while running:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    break
                with running.pop(pid) as waiting:
                    _send(waiting, {"status": status})
        if 0 in ready and not os.read(0, 1):
            return None
        if listening not in ready:
            continue
        connection = listening.accept()[0]
        header, streams, _, _ = socket.recv_fds(connection, HEADER.size, 3)
        if len(header) < HEADER.size:
            connection.close()
            continue
        request = json.loads(_exactly(connection, HEADER.unpack(header)[0]))
        try:
            os.stat(request["cwd"])
        except OSError as error:
            _send(connection, {"error": [error.errno, error.strerror, request["cwd"]]})
            connection.close()
        else:
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                for open_socket in (wake, woken, listening, connection, *running.values()):
                    open_socket.close()
                os.closerange(3, max(streams) + 1)
                return request
            running[pid] = connection
            _send(connection, {"pid": pid})
        for stream in streams:
            os.close(stream)


def become(request: dict) -> None:
    """In the fork: what `python -m MODULE ...` or `python -c CODE ...` finds when it starts."""
    if request["new_session"]:
        os.setsid()
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    own_folder = os.path.dirname(os.path.abspath(__file__))
    kind, program, *arguments = request["argv"]
    first = request["cwd"] if kind == "-m" else ""
    sys.path[:] = [first, *(entry for entry in sys.path if entry != own_folder)]
    importlib.invalidate_caches()
    sys.path_importer_cache.clear()
    sys.argv[:] = [program if kind == "-m" else "-c", *arguments]
    sys.stdout.reconfigure(line_buffering=os.isatty(1))
    import random

    import numpy

    random.seed()
    numpy.random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].seed()
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    if kind == "-m":
        runpy._run_module_as_main(program)
    else:
        exec(compile(program, "<string>", "exec"), main.__dict__)


def exit_code(outcome: BaseException | None) -> int:
    """What Python makes of the end of a program: its exit code, and a message on stderr."""
    if outcome is None:
        return 0
    if not isinstance(outcome, SystemExit):
        sys.excepthook(type(outcome), outcome, outcome.__traceback__)
        if isinstance(outcome, KeyboardInterrupt):
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        return 1
    if outcome.code is None or isinstance(outcome.code, int):
        return (outcome.code or 0) & 0xFF
    print(outcome.code, file=sys.stderr)
    return 1


def run_and_end(request: dict) -> None:
    """`become`, and the end of a program: threads joined, exit functions called, all written. The
    memory is left to the system, which spares half a second of freeing modules.
    """
    outcome = None
    try:
        become(request)
    except BaseException as error:
        outcome = error
    code = 1
    try:
        code = exit_code(outcome)
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # what Python answers to a reader that has gone
        code = 120
    finally:
        os._exit(code)


if __name__ == "__main__":
    for name in PRELOADED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    wanted = serve(sys.argv[1])
    if wanted is not None:
        run_and_end(wanted)
