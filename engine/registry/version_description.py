"""What the registry page says of a version, in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.metrics.headlines import headlines
from engine.registry.candidate import DEFAULTS, Candidate

CLASS_ROWS = 30  # of a version's description
CLASS_COLUMNS = {"ap": "AP50-95", "ap50": "AP50", "precision": "precision", "recall": "recall"}
MODEL_DESCRIPTION = (
    "Object detectors made by DetectFlow. `champion` is the one to use, `challenger` the newest, "
    "`previous` the champion "
    'before: `mlflow.pyfunc.load_model("models:/NAME@champion")`. Input: a column `image` of '
    "base64 texts of encoded images; output: a column `detections` of JSON texts with class, name, "
    "score and box in pixels."
)


def describe_version(candidate: Candidate, decision: str, links: Mapping[str, str]) -> str:
    """A registered version; the list of versions shows the first line."""
    split, metrics = candidate.measured.split, candidate.metrics
    measured = headlines(metrics, prefix=f"{split}/")
    headline = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
    parts = [
        f"On {split}: {headline}." if headline else f"Nothing could be measured on {split}.",
        decision,
    ]
    if links:
        parts.append(
            f"[Report]({_within(links['page_url'])}) · [model card]"
            f"({_within(links['card_url'])}) · "
            f"[Training run]({_within(links['run_url'])}) · [reports, curves, "
            f"plots]({_within(links['report_url'])})"
        )
    parts.append(
        "\n".join(f"- {name}: {value}" for name, value in candidate.facts.items() if value)
    )
    parts.append(_thresholds(candidate))
    parts.append(_class_table(candidate))
    return "\n\n".join(part for part in parts if part) + "\n"


def _within(url: str) -> str:
    """A link within the same page, so that it leads on whatever name the server is reached by."""
    return url[url.index("#") :] if "#" in url else url


def _thresholds(candidate: Candidate) -> str:
    used = ", ".join(f"{name} {value}" for name, value in DEFAULTS.items())
    best = (
        ""
        if candidate.best_conf is None
        else f" The mean F1 is best at conf {candidate.best_conf:.3f}."
    )
    return f"Thresholds where a call names none: {used}.{best}"


def _class_table(candidate: Candidate) -> str:
    if not candidate.per_class:
        return ""
    lines = [
        "| class | objects | " + " | ".join(CLASS_COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(CLASS_COLUMNS),
    ]
    for row in candidate.per_class[:CLASS_ROWS]:
        cells = [_cell(row.get(column)) for column in CLASS_COLUMNS]
        name = str(row.get("name", "")).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {row.get('instances', '')} | " + " | ".join(cells) + " |")
    if len(candidate.per_class) > CLASS_ROWS:
        lines.append(
            f"| and {len(candidate.per_class) - CLASS_ROWS} more: `validate/per_class.csv` | | | "
            "| | |"
        )
    return "\n".join(lines)


def _cell(value: Any) -> str:
    try:
        return f"{float(value):.3f}"
    except (TypeError, ValueError):
        return ""
