"""Trains in processes of their own that end by SIGKILL at a chosen moment; started as a script by
`test_kill.py`. For tests.

Reads one job a line from standard input, as JSON, and answers each with one line: how the process
ended. torch is imported once, and every training is a fork of this process, so that twenty kills
take seconds.

    {"kind": "classifier" | "detector", "overrides": {...}, "kill": null | moment}
    moment: {"event": name, "count": n}   at the n-th time the event fires
            {"write": n}                  at the n-th step of writing files: before a sync, a link
            or a rename, or with half
                                          of a checkpoint's bytes written
            {"after_s": seconds}          whatever it does then
"""

import contextlib
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from multiprocessing import forkserver

import torch

# optimizers and torchvision load it at their first use, which takes seconds: once here, not in
# every fork
import torch._dynamo
import torchvision.ops  # noqa: F401
from classifier import ClassifierTrainer

from engine.data import loader
from engine.detect import DetectionTrainer

KINDS = {"classifier": ClassifierTrainer, "detector": DetectionTrainer}


def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


class Countdown:
    """Kills at the n-th call."""

    def __init__(self, count):
        self.left = count

    def __call__(self, *_):
        self.left -= 1
        if self.left == 0:
            die()


def kill_in_writing(count):
    """Every system call that decides what a reader will find counts, and so does the middle of a
    checkpoint's bytes.
    """
    countdown = Countdown(count)
    for name in ("fsync", "link", "replace"):
        original = getattr(os, name)
        setattr(os, name, lambda *a, original=original, **k: (countdown(), original(*a, **k))[1])
    save = torch.save

    def save_in_two_halves(content, stream):
        memory = io.BytesIO()
        save(content, memory)
        data = memory.getvalue()
        stream.write(data[: len(data) // 2])
        stream.flush()
        countdown()
        stream.seek(0)
        save(content, stream)

    torch.save = save_in_two_halves


def train(job):
    trainer = KINDS[job["kind"]](overrides=job["overrides"])
    kill = job["kill"] or {}
    if "event" in kill:
        trainer.add_callback(kill["event"], Countdown(kill["count"]))
    if "write" in kill:
        kill_in_writing(kill["write"])
    if "after_s" in kill:
        threading.Thread(target=lambda: (time.sleep(kill["after_s"]), die()), daemon=True).start()
    trainer.train()


def share_the_fork_server():
    """multiprocessing asks whether its fork server lives by waiting for a child, and here it is a
    sister.
    """
    server, wait = forkserver._forkserver._forkserver_pid, os.waitpid
    os.waitpid = lambda pid, options: (0, 0) if pid == server else wait(pid, options)


def start_the_fork_server():
    """Until a process came out of it. A life killed between its call of the server and its request
    takes the server along (CPython: EOFError in its main loop). A program has a server of its own,
    which ends with it in any case; here the next life needs it.
    """
    deadline = time.monotonic() + 60  # its end, and the next one's imports, take seconds
    while time.monotonic() < deadline:
        context = loader.worker_context(torch.utils.data.TensorDataset(torch.zeros(1)))
        with contextlib.suppress(OSError, EOFError):  # it is about to end: then another is started
            process = context.Process(target=int)
            process.start()
            process.join()
            if process.exitcode == 0:
                return
        time.sleep(0.1)
    raise RuntimeError("no process comes out of the fork server")


def main():
    torch.set_num_threads(1)
    start_the_fork_server()
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            try:
                share_the_fork_server()
                train(json.loads(line))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            start_the_fork_server()
        print(
            json.dumps({"signal": os.WTERMSIG(status), "code": os.WEXITSTATUS(status)}), flush=True
        )


if __name__ == "__main__":
    main()
