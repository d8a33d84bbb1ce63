"""What the Prefect UI shows of a run: live progress of a stage, the result or the reason as
Markdown, tables, images.

Nothing here ever stops a run: a server that has gone is left alone for a while, and said once.
"""

from __future__ import annotations

import base64
import logging
import time
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from engine.metrics.headlines import headlines
from engine.stages.layout import Layout, read_table
from flows.server import is_gone
from flows.summary import duration

logger = logging.getLogger("detectflow")

SHORTEST_INTERVAL_S = 2.0
AFTER_FAILURE_S = 300.0

SAMPLES = {
    "Found": "validate/val_batch0_pred.jpg",
    "Labelled": "validate/val_batch0_labels.jpg",
}  # of the same images
COLUMNS = (
    "name",
    "images",
    "instances",
    "precision",
    "recall",
    "f1",
    "ap50",
    "ap",
)  # as many as the page is wide
IMAGE_BYTES = 150_000  # it goes into the server's database, as text a third longer
SIDES_PX = (1280, 960, 640, 480, 320)  # tried in turn until it is small enough
JPEG_QUALITY = 80


class ProgressArtifact:
    """A `Progress` callback (see engine.stages.layout) that keeps one progress artifact of its
    stage up to date.
    """

    def __init__(self, stage: str):
        self.key = f"{stage}-progress"  # lower-case letters, digits, dashes
        self.artifact: UUID | None = None
        self.not_before = 0.0

    def __call__(self, news: dict[str, Any]) -> None:
        done, total = news.get("done", 0), news.get("total") or 0
        if not total or (time.monotonic() < self.not_before and done != total):
            return
        self.not_before = time.monotonic() + SHORTEST_INTERVAL_S
        percent = min(100.0, 100.0 * done / total)
        try:
            _must_answer()
            if self.artifact is None:
                self.artifact = create_progress_artifact(
                    percent, key=self.key, description=describe(news)
                )
            else:
                update_progress_artifact(self.artifact, percent, description=describe(news))
        except Exception as error:  # see not_taken
            self.not_before = time.monotonic() + AFTER_FAILURE_S
            not_taken("the progress", error)


def _must_answer() -> None:
    """ConnectionError where the server has gone: each call would cost Prefect's own retries, a
    minute in all.
    """
    if is_gone():
        raise ConnectionError("it has gone")


OF_SERVER = {"prefect", "httpx", "httpcore", "anyio", "ssl", "websockets"}


def not_taken(what: str, error: Exception) -> None:
    """Say that Prefect did not take something, which is no reason to end a run: its results are in
    the workspace. A fault in code, ours or another's, is told as such, with its traceback.
    """
    packages = {kind.__module__.partition(".")[0] for kind in type(error).__mro__}
    if isinstance(error, OSError) or packages & OF_SERVER:
        shown = str(error) if isinstance(error, ConnectionError) else type(error).__name__
        logger.warning("the Prefect server does not take %s (%s); the run goes on", what, shown)
    else:
        logger.error("Prefect does not show %s: a fault in code", what, exc_info=error)


def describe(news: dict[str, Any]) -> str:
    """`{"stage": "train", "done": 3, "total": 30, "left_s": 95, ...}` -> "epoch 3 of 30 · mAP50
    0.512 · 1 min 35 s left".
    """
    unit = "epoch " if news.get("stage") == "train" else ""
    parts = [f"{unit}{news.get('done', 0)} of {news.get('total', 0)}"]
    metrics = news.get("metrics") or {}
    parts += [f"{name} {value:.3f}" for name, value in headlines(metrics).items()]
    if news.get("left_s"):
        parts.append(f"{duration(news['left_s'])} left")
    return " · ".join(parts)


def show_result(markdown: str, description: str = "what the run made") -> None:
    """The result of the run, or why there is none."""
    try:
        _must_answer()
        create_markdown_artifact(markdown, key="pipeline-result", description=description)
    except Exception as error:  # see not_taken
        not_taken("the result", error)


def show_reports(root: Path) -> None:
    """Metrics by class as a table, predictions and labels of some images as plots, from the
    reports of stage validate.
    """
    reports = Layout(root).reports
    try:
        _must_answer()
        rows = per_class_rows(reports / "validate" / "per_class.csv")
        if rows:
            create_table_artifact(
                rows, key="per-class", description="metrics by class, on the deciding split"
            )
        urls = {title: data_url(reports / name) for title, name in SAMPLES.items()}
        plots = [f"**{title}**\n\n![{title}]({url})" for title, url in urls.items() if url]
        # an image artifact would print its address below it, and that is the image again
        if plots:
            create_markdown_artifact(
                "\n\n".join(plots), key="sample-predictions", description="on the deciding split"
            )
    except Exception as error:  # see not_taken
        not_taken("tables and images", error)


def show_decision(decision: str, history: str) -> None:
    """Markdown of the verdict with its reasons, and of who was champion when."""
    try:
        _must_answer()
        create_markdown_artifact(decision, key="decision", description="verdict and reasons")
        create_markdown_artifact(
            history, key="champion-history", description="who was champion, and why"
        )
    except Exception as error:  # see not_taken
        not_taken("the decision", error)


def per_class_rows(path: Path) -> list[dict[str, Any]]:
    """The main columns of per_class.csv, numbers as numbers, to four digits; none where there is no
    such file.
    """
    # A class may be called 7: its name stays text.
    return [
        {key: row[key] if key == "name" else _number(row[key]) for key in COLUMNS if key in row}
        for row in read_table(path)
    ]


def _number(text: str) -> Any:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return round(float(text), 4)
    except ValueError:
        return text


def data_url(path: Path, limit_bytes: int = IMAGE_BYTES) -> str | None:
    """An image within its own address, smaller where it would be too large; None where there is
    none, or it stays too large.

    The reader's browser opens the address, and it sees no file of this machine.
    """
    import cv2

    image = cv2.imread(str(path)) if path.is_file() else None
    if image is None:
        return None
    for side_px in SIDES_PX:
        scale = min(1.0, side_px / max(image.shape[:2]))
        small = (
            cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            if scale < 1
            else image
        )
        content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        if len(content) <= limit_bytes:
            return "data:image/jpeg;base64," + base64.b64encode(content).decode()
    return None
