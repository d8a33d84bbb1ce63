"""What the Prefect UI shows of a run: live progress of a stage, and the result or the reason as Markdown.

Nothing here ever stops a run: a server that has gone is left alone for a while, and said once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact

from flows.summary import duration

logger = logging.getLogger("detectflow")

SHORTEST_INTERVAL_S = 2.0
AFTER_FAILURE_S = 300.0  # each call to a dead server costs prefect's own retries, about half a minute
SHOWN = {"metrics/mAP50": "mAP50", "metrics/mAP50-95": "mAP50-95"}


class ProgressArtifact:
    """A `Progress` callback (see engine.stages.common) that keeps one progress artifact of its stage up to date."""

    def __init__(self, stage: str, clock: Callable[[], float] = time.monotonic):
        self.key = f"{stage}-progress"  # lower-case letters, digits, dashes
        self.clock = clock
        self.artifact: UUID | None = None
        self.not_before = 0.0

    def __call__(self, news: dict[str, Any]) -> None:
        done, total = news.get("done", 0), news.get("total") or 0
        if not total or (self.clock() < self.not_before and done != total):
            return
        self.not_before = self.clock() + SHORTEST_INTERVAL_S
        percent = min(100.0, 100.0 * done / total)
        try:
            if self.artifact is None:
                self.artifact = create_progress_artifact(percent, key=self.key, description=describe(news))
            else:
                update_progress_artifact(self.artifact, percent, description=describe(news))
        except Exception as error:  # prefect, httpx, and whatever they are made of
            self.not_before = self.clock() + AFTER_FAILURE_S
            logger.warning("the Prefect server does not take the progress (%s); the run goes on", type(error).__name__)


def describe(news: dict[str, Any]) -> str:
    """`{"stage": "train", "done": 3, "total": 30, "left_s": 95, ...}` -> "epoch 3 of 30 · mAP50 0.512 · 1 min 35 s left"."""
    unit = "epoch " if news.get("stage") == "train" else ""
    parts = [f"{unit}{news.get('done', 0)} of {news.get('total', 0)}"]
    metrics = news.get("metrics") or {}
    parts += [f"{name} {metrics[key]:.3f}" for key, name in SHOWN.items() if key in metrics]
    if news.get("left_s"):
        parts.append(f"{duration(news['left_s'])} left")
    return " · ".join(parts)


def show_result(markdown: str) -> None:
    """The result of the run, or why there is none."""
    try:
        create_markdown_artifact(markdown, key="pipeline-result", description="what the run made")
    except Exception as error:
        logger.warning("the Prefect server does not take the result (%s)", type(error).__name__)
