"""Descriptions in Markdown. That of a run is made from what the tracker holds: so it is right
whichever stage wrote last.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.markdown import plain, sentence, spread
from engine.metrics.headlines import headline_names, short_name
from engine.metrics.reported import PRIMARY
from engine.tracking.run_metadata import BEST

SPLITS = {"test": "test", "val": "val", "train": "train", BEST: "val, best epoch"}


def describe(
    params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """What a reader wants to know first, from a run's parameters, latest metrics and tags."""
    parts = [_headline(params, metrics, tags)]
    if tags.get("origin"):
        parts.append(f"> {sentence(tags['origin'])}")
    if table := _table(metrics):
        parts.append(table)
    parts.append("\n".join(f"- {line}" for line in _facts(params, metrics, tags)))
    return "\n\n".join(part for part in parts if part)


def _headline(
    params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> str:
    """One line: the UI folds away what comes after."""
    model, size, planned = (params.get(f"train.{key}", "?") for key in ("model", "imgsz", "epochs"))
    primary = short_name(PRIMARY)
    found = {name: metrics.get(f"{split}/{primary}") for split, name in SPLITS.items()}
    measured = [f"**{value:.3f}** on {name}" for name, value in found.items() if value is not None]
    dataset = plain(tags.get("dataset", "a dataset"))
    about = f"{plain(model)} at {size} px on {dataset}, {planned} epochs planned"
    return f"{primary} {', '.join(measured)}: {about}." if measured else f"{about}."


def _table(metrics: Mapping[str, float]) -> str:
    names = headline_names()
    columns = [split for split in SPLITS if any(f"{split}/{name}" in metrics for name in names)]
    if not columns:
        return ""
    lines = [
        "| | " + " | ".join(SPLITS[split] for split in columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for name in names:
        if not any(f"{split}/{name}" in metrics for split in columns):
            continue
        cells = [
            f"{metrics[key]:.3f}" if (key := f"{split}/{name}") in metrics else ""
            for split in columns
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return spread("\n".join(lines))


def _facts(
    params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
) -> list[str]:
    lines = []
    if f"{BEST}/epoch" in metrics:
        lines.append(
            f"Best epoch {metrics[f'{BEST}/epoch']:.0f} of {metrics.get(f'{BEST}/epochs', 0):.0f} "
            "trained."
        )
    if tags.get("registered"):
        lines.append(f"Registered as {plain(tags['registered'])}.")
    if tags.get("prefect.flow_run_url"):
        lines.append(f"Started by [a flow run of Prefect]({tags['prefect.flow_run_url']}).")
    if tags.get("ended"):
        lines.append(f"Ended early: {plain(tags['ended'])}.")
    if tags.get("data_digest"):
        lines.append(
            f"Data digest `{tags['data_digest'][:16]}`, classes: {plain(tags.get('classes', '?'))}."
        )
    if tags.get("weights_sha256"):
        lines.append(f"Weights `sha256:{tags['weights_sha256'][:16]}`.")
        lines.append(
            "Curves, confusion matrix and sample predictions: *Artifacts*, folders `train` and "
            "`validate`."
        )
    return lines
