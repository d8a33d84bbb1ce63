"""What a run made, read from the reports of its stages: as text for the console, as Markdown for
the Prefect UI.

Reads files only. A report that is not there (a stage that has not run) leaves its lines out.
"""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.files import read_object
from engine.markdown import plain, sentence, table
from engine.metrics.headlines import headlines
from engine.stages.layout import Layout
from engine.tracking.mlflow_links import run_url, version_url
from flows.decision import Standing

PLOTS = ("*.png", "*.jpg")


@dataclass(frozen=True)
class StageRow:
    """What became of one stage."""

    stage: str
    status: str  # ran, skipped, restored
    seconds: float
    reasons: tuple[str, ...] = ()  # why it was not up to date


@dataclass(frozen=True)
class Summary:
    """A run, ready to be printed. All paths relative to the workspace."""

    name: str
    rows: tuple[StageRow, ...]
    seconds: float
    split: str  # which images the metrics are of
    metrics: dict[str, float]  # short name -> value
    model: str  # "detector version 3 (challenger, champion)", or ""
    decision: str  # why it is champion or not, the verdict first
    files: tuple[str, ...]
    plots: tuple[str, ...]
    advice: tuple[str, ...] = ()  # what a person can do about the decision
    later: str = ""  # what happened to the version since it was decided
    links: tuple[str, ...] = ()  # Markdown: where the run and its reports can be viewed


def summarize(
    root: Path,
    name: str,
    rows: Sequence[StageRow],
    seconds: float,
    standing: Standing | None = None,
) -> Summary:
    """Collect what the stages of `root` reported. standing: of the registered model, as the
    registry says now.
    """
    layout = Layout(root)
    validated = {
        **read_object(layout.origin("validate")),
        **read_object(layout.summary("validate")),
    }
    registered = read_object(layout.summary("register"))
    exported = read_object(layout.summary("export")).get("files") or {}
    metrics = {name: float(value) for name, value in headlines(validated).items()}
    weights = ["weights/best.pt"] if layout.best.is_file() else []
    return Summary(
        name=name,
        rows=tuple(rows),
        seconds=seconds,
        split=str(validated.get("split", "")),
        metrics=metrics,
        model=_model(standing),
        decision=_decision(registered),
        advice=tuple(map(str, registered.get("advice") or ())),
        later=standing.later_word if standing else "",
        files=(*weights, *(str(entry["file"]) for entry in exported.values() if "file" in entry)),
        plots=tuple(
            folder.relative_to(root).as_posix()
            for folder in (layout.reports / "train", layout.reports / "validate")
            if any(next(folder.glob(pattern), None) for pattern in PLOTS)
        ),
    )


def links_of(root: Path, mlflow: str | None) -> tuple[str, ...]:
    """Markdown lines that lead on: MLflow's run and version, the pages among the reports.

    mlflow: address of the MLflow UI that is up; None: the line says how to open one.
    """
    registered = read_object(Layout(root).summary("register"))
    lines = []
    run, experiment = registered.get("run_id"), registered.get("experiment_id")
    if run and mlflow:
        version = version_url(registered["model"], registered["version"], mlflow)
        if (Layout(root).reports / "index.html").is_file():
            page = run_url(experiment, f"{run}/artifacts/report/index.html", mlflow)
            card = run_url(experiment, f"{run}/artifacts/report/model_card.md", mlflow)
            lines.append(f"**[The report]({page})**, its [model card]({card})")
        lines.append(
            f"MLflow: [the training's run]({run_url(experiment, run, mlflow)}), its [curves and "
            f"tables]({run_url(experiment, f'{run}/artifacts', mlflow)}), [version "
            f"{registered['version']}]({version})"
        )
    elif run:
        lines.append(f"MLflow: run `{run}`; `detectflow ui` in `{root}` opens it")
    host = platform.node()
    lines += [
        f"Report on {host}: `{page}`" for page in sorted(Layout(root).reports.rglob("*.html"))
    ]
    lines.append(f"Reports on {host}: `{Layout(root).reports}`")
    return tuple(lines)


def _model(standing: Standing | None) -> str:
    if standing is None:
        return ""
    aliases = ", ".join(standing.own_aliases)
    if not standing.answered:
        aliases = "aliases unknown: the registry does not answer"
    return f"{standing.model} version {standing.version}" + (f" ({aliases})" if aliases else "")


def _decision(registered: dict[str, Any]) -> str:
    verdict, reason = registered.get("verdict"), str(registered.get("reason", ""))
    return f"{verdict}: {reason}" if verdict else reason


def as_text(summary: Summary) -> str:
    """For the console: about ten lines."""
    lines = ["", f"{summary.name}: {_counts(summary.rows)} in {duration(summary.seconds)}"]
    lines += [
        f"  {row.stage:<10}{row.status:<10}{duration(row.seconds):>12}" for row in summary.rows
    ]
    if summary.metrics:
        values = "  ".join(f"{name} {value:.3f}" for name, value in summary.metrics.items())
        lines.append(f"Metrics   {summary.split}: {values}")
    if summary.model:
        lines.append(f"Model     {summary.model}")
    if summary.decision:
        lines.append(f"          {summary.decision}")
    lines += [f"          {each}" for each in summary.advice]
    if summary.later:
        lines.append(f"          Since then: {summary.later}")
    if summary.files:
        lines.append(f"Files     {', '.join(summary.files)}")
    if summary.plots:
        lines.append(f"Plots     {', '.join(f'{folder}/' for folder in summary.plots)}")
    lines.append("UIs       make ui   (MLflow and Prefect; or: detectflow ui)")
    return "\n".join(lines)


def as_markdown(summary: Summary) -> str:
    """For the Prefect UI."""
    parts = [f"# {plain(summary.name)}"]
    if summary.metrics:
        head = f"| metric ({summary.split}) | value |\n|---|---|"
        parts.append(
            "\n".join(
                [head, *(f"| {name} | {value:.4f} |" for name, value in summary.metrics.items())]
            )
        )
    if summary.model:
        parts.append(f"**{plain(summary.model)}** {sentence(summary.decision)}")
        parts.append("\n".join(f"- {sentence(each)}" for each in summary.advice))
        parts.append(summary.later and f"Since then: {plain(summary.later)}")
    parts.append(stage_table(summary.rows))
    made = [f"`{path}`" for path in (*summary.files, *(f"{folder}/" for folder in summary.plots))]
    parts.append("\n".join(f"- {line}" for line in (*summary.links, *made)))
    return "\n\n".join(part for part in parts if part)


def failure_markdown(name: str, stage: str, reason: str, rows: Sequence[StageRow]) -> str:
    """The reason first, then how far the run had come."""
    parts = [f"**{stage} failed:** {sentence(reason)}", f"# {plain(name)}"]
    return "\n\n".join([*parts, stage_table(rows)] if rows else parts)


def stage_table(rows: Sequence[StageRow]) -> str:
    """A Markdown table: stage, status, time, why."""
    return table(
        ("stage", "status", "time", "why"),
        [(row.stage, row.status, duration(row.seconds), _why(row)) for row in rows],
    )


def _why(row: StageRow) -> str:
    return "; ".join(row.reasons[:3]) + (" ..." if len(row.reasons) > 3 else "")


def _counts(rows: Sequence[StageRow]) -> str:
    statuses = [row.status for row in rows]
    return ", ".join(
        f"{statuses.count(status)} {status}"
        for status in ("ran", "restored", "skipped")
        if status in statuses
    )


def duration(seconds: float) -> str:
    """0.25 -> "0.2 s", 95 -> "1 min 35 s", 7260 -> "2 h 1 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
