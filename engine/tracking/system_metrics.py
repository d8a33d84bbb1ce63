"""The machine during a training: CPU, memory, disk, network and GPU, every few seconds, under the
names of MLflow's own monitors.

MLflow's own thread would ask the server at every sample and end at the first that is not answered.
This one only takes the samples, with MLflow's monitors, and hands them to whoever keeps them.
Metrics of the GPU need the package nvidia-ml-py.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("detectflow.tracking")

PREFIX = "system/"  # MLflow's UI has a tab for these
FIRST_S = 1.0  # until the first sample: the load of a CPU is measured between two moments

Emit = Callable[[dict[str, float], int, int], None]  # metrics by name, step, time in ms


class MachineWatch:
    """A thread that calls `emit` until it is stopped. Steps go on counting time over interruptions
    of the run.
    """

    def __init__(self, every_s: float, started_ms: int, emit: Emit):
        self.every_s, self.started_ms, self.emit = every_s, started_ms, emit
        self._last_step = -1
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="detectflow-machine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take a last sample and end; at most a few seconds."""
        self._stopped.set()
        self._thread.join(timeout=5.0)

    def _work(self) -> None:
        try:
            monitors = make_monitors()
            read(monitors)  # sets the mark from which the next load is measured
            pause = min(FIRST_S, self.every_s)
            while not self._stopped.wait(pause):
                self._sample(monitors)
                pause = self.every_s
            self._sample(monitors)
        except ImportError as error:
            logger.info("no metrics of the machine in MLflow: %s", error)
        except Exception as error:  # whatever a driver, a container or a full disk can do
            logger.warning("metrics of the machine end here: %s: %s", type(error).__name__, error)

    def _sample(self, monitors: list[Any]) -> None:
        now_ms = int(time.time() * 1000)
        step = max(self._last_step + 1, int((now_ms - self.started_ms) / 1000 / self.every_s))
        self._last_step = step
        self.emit(read(monitors), step, now_ms)


def make_monitors() -> list[Any]:
    """MLflow's monitors of what this machine has. ImportError without psutil."""
    from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
    from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
    from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor
    from mlflow.system_metrics.metrics.rocm_monitor import ROCMMonitor

    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    for make in (GPUMonitor, ROCMMonitor):
        try:
            monitors.append(make())
            break
        except Exception as error:  # no such card, no driver, no package for it
            logger.debug("%s: %s", make.__name__, error)
    return monitors


def read(monitors: list[Any]) -> dict[str, float]:
    """One sample: `system/cpu_utilization_percentage` and so on, and the memory of this process."""
    import psutil

    found = {
        f"{PREFIX}process_memory_megabytes": round(psutil.Process().memory_info().rss / 1e6, 1)
    }
    for monitor in monitors:
        monitor.collect_metrics()
        found |= {
            f"{PREFIX}{name}": float(value) for name, value in monitor.aggregate_metrics().items()
        }
        monitor.clear_metrics()
    return found
