"""`nproc=N`: this program N times under torchrun's agent, on this machine; one message where one of
them fails.

The agent is PyTorch's own, called as a library: it gives each process its rank, and ends the others
when one has failed. Several machines are started with `torchrun` itself, which prints its own
report.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from engine.core.peer_failure import LAUNCHED


def launch(processes: int, argv: Sequence[str]) -> int:
    """Run `python -m engine WORDS` in so many processes; the exit code of the one that failed
    first, else 0.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [
        name
        for name in logging.root.manager.loggerDict
        if name.startswith("torch.distributed.elastic")
    ]:
        logging.getLogger(name).setLevel(
            logging.CRITICAL
        )  # what it would say of a failed process is said below
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // processes, 1)))
    os.environ[LAUNCHED] = "true"
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(),
    )
    try:
        elastic_launch(config, sys.executable)("-u", "-m", "engine", *argv)
    except (
        SignalException
    ) as error:  # passed on to the processes, which have said what there is to say
        return 128 + error.sigval
    except ChildFailedError as error:
        return _exit_code(error.failures)
    return 0


def _exit_code(failures: Mapping[int, Any]) -> int:
    """A process that ends by itself has printed why; of one that was killed only its parent
    knows.
    """
    killed = {
        rank: f for rank, f in failures.items() if f.exitcode < 0 and f.exitcode != -signal.SIGTERM
    }
    for rank, failure in killed.items():
        print(
            f"rank {rank} of this run (process {failure.pid}) was killed by "
            f"{failure.signal_name()}, and the others were ended. SIGKILL mostly means that memory "
            "ran out. Add resume=true to go on after the last complete epoch.",
            file=sys.stderr,
        )
    own = [failure.exitcode for failure in failures.values() if failure.exitcode > 0]
    return 1 if killed or not own else own[0]
