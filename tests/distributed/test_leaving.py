"""The command line in several processes: it works with a trainer and callbacks of the user's own,
and when one process fails all of them leave soon, one error is reported, and nothing is left running.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from engine.cli import main

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
# from the failure of one process to the end of the launcher, on a busy machine
LEAVE_WITHIN_S = 30.0
SETTINGS = [
    "data=clouds",
    "model=linear",
    "batch=8",
    "lr0=0.05",
    "monitor=metrics/accuracy",
    "channels_last=false",
    "device=cpu",
    "verbose=false",
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]


def start(folder, log, command, **environment):
    with open(folder / log, "w") as out:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1", **environment},
        )


def train(*words, trainer="ddp_toys:Classifier", callbacks="ddp_toys:say_events", nproc=2):
    many = [f"nproc={nproc}"] if nproc else []
    own = {word.partition("=")[0] for word in words}
    usual = [word for word in SETTINGS if word.partition("=")[0] not in own]
    return [
        sys.executable,
        "-m",
        "engine",
        "train",
        f"trainer={trainer}",
        f"callbacks=[{callbacks}]",
        *usual,
        *many,
        *words,
    ]


def wait_for(process, log, text, within_s=120):
    deadline = time.monotonic() + within_s
    while text not in log.read_text():
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def processes(log):
    """Process ids of the ranks, as `say_events` prints them."""
    return {
        int(rank): int(pid)
        for rank, pid in re.findall(r"rank (\d+) is process (\d+)", log.read_text())
    }


def assert_gone(pids, within_s=2.0):
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.05)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_nproc_trains_with_a_trainer_and_callbacks_by_dotted_path(tmp_path):
    log = tmp_path / "log"
    process = start(tmp_path, "log", train("epochs=2"))
    assert process.wait(120) == 0, log.read_text()
    said = log.read_text()
    assert said.count("best epoch") == 1 and "weights runs/train/weights/best.pt" in said
    assert "rank 0 left: done" in said and "rank 1 left: done" in said
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "log",
        "runs",
    ]  # no script was generated here
    saved = (tmp_path / "runs/train/args.yaml").read_text()
    assert "trainer: ddp_toys:Classifier" in saved and "nproc: 2" in saved
    assert_gone(processes(log).values())


@pytest.mark.parametrize(
    ("fate", "code", "said"),
    [
        ("typed", 1, "rank 1: TrainingError: the data of this rank are broken"),
        ("killed", 1, "rank 1 of this run (process {1}) was killed by SIGKILL"),
    ],
)
def test_an_error_of_one_rank_is_reported_once_and_all_leave(tmp_path, fate, code, said):
    log = tmp_path / "log"
    process = start(tmp_path, "log", train("epochs=50", trainer="ddp_toys:Broken"), FATE=fate)
    wait_for(process, log, "rank 1 is process")
    since = time.monotonic()
    assert process.wait(LEAVE_WITHIN_S) == code
    print(f"{fate}: all left within {time.monotonic() - since:.1f} s of the start of training")
    text = log.read_text()
    assert text.count(said.format(*[pid for _, pid in sorted(processes(log).items())])) == 1, text
    assert "Traceback" not in text and "Error" not in text.replace(
        "TrainingError: the data of", "", 1
    ), text
    # By its own broken connection, or ended by the launcher: whichever is faster.
    assert "rank 0 left: exception" in text or "rank 0 left: interrupted" in text
    assert_gone(processes(log).values())


def test_ctrl_c_ends_all_and_the_command_it_names_goes_on(tmp_path):
    log = tmp_path / "log"
    process = start(
        tmp_path,
        "log",
        train("epochs=200", "patience=0", callbacks="ddp_toys:say_events,ddp_toys:slowly"),
    )
    wait_for(process, log, "epoch 2 is done")
    process.send_signal(signal.SIGINT)
    assert process.wait(LEAVE_WITHIN_S) == 130
    said = log.read_text()
    assert "Traceback" not in said and said.count("Interrupted.") == 1, said
    assert "rank 0 left: interrupted" in said and "rank 1 left: interrupted" in said
    assert_gone(processes(log).values())
    words = said.rsplit("Go on with: detectflow ", 1)[1].split("\n")[0].split()
    again = start(tmp_path, "again", [sys.executable, "-m", "engine", *words])
    wait_for(
        again, tmp_path / "again", "epoch 5 is done"
    )  # the trainer, its callbacks and two processes again
    assert set(processes(tmp_path / "again")) == {0, 1}
    again.send_signal(signal.SIGTERM)
    assert again.wait(LEAVE_WITHIN_S) == 128 + signal.SIGTERM
    assert "rank 1 left: interrupted" in (tmp_path / "again").read_text()
    assert_gone(processes(tmp_path / "again").values())


def test_sigterm_ends_a_single_process_in_the_same_way(tmp_path):
    log = tmp_path / "log"
    process = start(
        tmp_path,
        "log",
        train("epochs=200", "patience=0", callbacks="ddp_toys:say_events,ddp_toys:slowly", nproc=0),
    )
    wait_for(process, log, "epoch 2 is done")
    process.send_signal(signal.SIGTERM)
    assert process.wait(LEAVE_WITHIN_S) == 128 + signal.SIGTERM
    said = log.read_text()
    assert (
        "Traceback" not in said
        and "rank 0 left: interrupted" in said
        and "Go on with: detectflow train" in said
    ), said


def test_two_machines_by_torchruns_own_flags(tmp_path):
    """Two launchers of one process each, on loopback; first to the end, then with a failing
    callback on rank 0.
    """
    for name, more, code in (("good", "", 0), ("bad", ",ddp_toys:fail_at_the_save", 1)):
        port = str(free_port())
        flags = [
            "--nnodes",
            "2",
            "--nproc-per-node",
            "1",
            "--master-addr",
            "127.0.0.1",
            "--master-port",
            port,
        ]
        words = train(
            "epochs=2", f"name={name}", callbacks="ddp_toys:say_events" + more, nproc=None
        )[1:]
        nodes = [
            start(tmp_path, f"{name}{rank}", [*TORCHRUN, *flags, "--node-rank", str(rank), *words])
            for rank in (0, 1)
        ]
        logs = [tmp_path / f"{name}{rank}" for rank in (0, 1)]
        assert [bool(node.wait(120)) for node in nodes] == [bool(code)] * 2, [
            log.read_text() for log in logs
        ]
        said = [log.read_text() for log in logs]
        for rank in (0, 1):
            assert f"rank {rank} left: {'exception' if code else 'done'}" in said[rank]
            assert_gone(processes(logs[rank]).values())
    assert "RuntimeError: the upload failed" in said[0] and "raised by rank 0 of 2" in said[0]
    assert (
        "rank 1: PeerError: this process ended because rank 0 failed: RuntimeError: the upload "
        "failed" in said[1]
    )


def test_a_users_mistake_is_one_message(tmp_path):
    """Found by rank 0 alone while the other waits; by both at once; and, under plain torchrun,
    before they are joined.
    """
    command = [
        sys.executable,
        "-m",
        "engine",
        "train",
        "data=nowhere.yaml",
        "device=cpu",
        "nproc=2",
        "batch=4",
    ]
    missing = start(tmp_path, "missing", command)
    torchrun = [
        *TORCHRUN,
        "--standalone",
        "--nproc-per-node",
        "2",
        *train("epoch=2", nproc=None)[1:],
    ]
    misspelt = start(tmp_path, "misspelt", torchrun)
    uneven = start(tmp_path, "uneven", train("batch=3"))
    assert (missing.wait(120), uneven.wait(120), misspelt.wait(120)) == (
        1,
        2,
        1,
    )  # torchrun itself always says 1
    said = (tmp_path / "uneven").read_text()
    assert said.count("Error") == said.count("batch=3 cannot be split over 2 processes") == 1, said
    said = (tmp_path / "missing").read_text()
    assert (
        said.count("nowhere.yaml") == 1 and said.count("Error") == 1 and "Traceback" not in said
    ), said
    said = (tmp_path / "misspelt").read_text()
    assert said.count("ConfigError: train: unknown key 'epoch'. Did you mean 'epochs'?") == 1, said


WATCHED = """
import signal, sys, time
from engine.core import peer_failure as failure
failure.GRACE_S = failure.POLL_S = failure.NOTICE_S = 0.5
if sys.argv[1] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
failure.FailureWatcher(failure.FailureStore(1, 2)).start()
print("watching", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    sys.exit("came to itself")
"""


def test_a_process_that_does_not_notice_is_interrupted_and_one_that_cannot_is_ended(tmp_path):
    """Its main thread waits elsewhere: for a GPU, in a callback. One hears of a failure, the other
    loses the launcher.
    """
    stores = [
        dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in range(2)
    ]
    watched = []
    for i, (store, how) in enumerate(zip(stores, ("deaf", "asleep"), strict=True)):
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        watched.append(
            start(tmp_path, f"watched{i}", [sys.executable, "-c", WATCHED, how], **address)
        )
    for i, process in enumerate(watched):
        wait_for(process, tmp_path / f"watched{i}", "watching")
    stores[0].set(
        "detectflow//0/0/failure",
        json.dumps({"rank": 0, "node": 0, "text": "DataError: bad", "exit_code": 2}),
    )
    time.sleep(2)  # the second one has looked by then
    del stores[1], store
    assert [process.wait(10) for process in watched] == [2, 1]
    assert (
        "rank 1: this process ended because rank 0 failed: DataError: bad"
        in (tmp_path / "watched0").read_text()
    )
    assert "came to itself" in (tmp_path / "watched1").read_text()


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("trainer=nowhere.mine:Trainer", "there is no module 'nowhere'"),
        ("trainer=ddp_toys:Clasifier", "Did you mean 'Classifier'?"),
        ("trainer=ddp_toys", "is not package.module:Name"),
        (
            "trainer=ddp_toys:not_a_class",
            "is a value of type int, not a class derived from a trainer",
        ),
        ("callbacks=ddp_toys:nothing", "has no 'nothing'"),
        ("callbacks=ddp_toys:not_a_class", "is a int, not a function"),
        (
            "callbacks=json:dumps",
            "raised TypeError: Object of type Classifier is not JSON serializable (/",
        ),
    ],
)
def test_a_dotted_path_that_leads_nowhere_says_what_was_not_found(
    tmp_path, monkeypatch, capsys, word, said
):
    monkeypatch.chdir(tmp_path)
    more = [] if word.startswith("trainer") else ["trainer=ddp_toys:Classifier"]
    assert main(["train", word, *more, *SETTINGS]) == 2
    shown = capsys.readouterr().err
    assert said in shown and word.partition("=")[2] in shown
    assert not (tmp_path / "runs").exists()
