"""What the registry page says of a model and of its versions, in Markdown.

The part about decisions is a section of its own, which every move rewrites; what somebody has
written around it stays.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from engine.markdown import plain, spread
from engine.metrics.headlines import headlines
from engine.registry.candidate import Candidate
from engine.registry.history import CHAMPION, Entry, What
from engine.tracking.mlflow_client import Store, is_of_store

log = logging.getLogger("detectflow")

MOST_CHARACTERS = 5000  # of a description: MLflow's column in PostgreSQL and MySQL
DECISIONS, HISTORY = "### Decisions", "### History"  # sections of a version and of a model
ROWS = 8  # of these tables, the newest last
CELL_CHARACTERS = 200  # of a reason in them; the tags `history.*` have all of it
CLASS_ROWS = 30  # of a version's description
CLASS_COLUMNS = {"ap": "AP50-95", "ap50": "AP50", "precision": "precision", "recall": "recall"}
MODEL_DESCRIPTION = (
    "Object detectors made by DetectFlow. `champion` is the one to use, `challenger` the newest, "
    "`previous` the champion "
    'before: `mlflow.pyfunc.load_model("models:/NAME@champion")`. Input: a column `image` of '
    "base64 texts of encoded images; output: a column `detections` of lists with class, name, "
    "score and box in pixels."
)


def describe_version(
    candidate: Candidate, history: Sequence[Entry], version: str, links: Mapping[str, str]
) -> str:
    """A registered version; the list of versions shows the first line.

    history: of the model, the oldest first.
    """
    split, metrics = candidate.measured.split, candidate.metrics
    measured = headlines(metrics, prefix=f"{split}/")
    headline = ", ".join(f"{name} {value:.3f}" for name, value in measured.items())
    parts = [
        f"On {split}: {headline}." if headline else f"Nothing could be measured on {split}.",
    ]
    if links:
        parts.append(
            f"[Report]({_within(links['page_url'])}) · [model card]"
            f"({_within(links['card_url'])}) · "
            f"[Training run]({_within(links['run_url'])}) · [reports, curves, "
            f"plots]({_within(links['report_url'])})"
        )
    parts.append(
        "\n".join(f"- {name}: {plain(value)}" for name, value in candidate.facts.items() if value)
    )
    parts.append(_thresholds(candidate))
    decisions = decisions_section(history, version)
    room = MOST_CHARACTERS - sum(len(part) + 2 for part in (*parts, decisions))
    parts += [_class_table(candidate, room), decisions]
    return "\n\n".join(part for part in parts if part) + "\n"


def decisions_section(history: Sequence[Entry], version: str, rows: int = ROWS) -> str:
    """What was decided about a version, the last word first; empty where nothing was."""
    own = about(history, version)
    if not own:
        return ""
    return f"{DECISIONS}\n\n**{last_word(own, version)}**\n\n{history_table(own, rows)}"


def history_section(history: Sequence[Entry], aliases: Mapping[str, str], rows: int = ROWS) -> str:
    """Who is champion, and the last moves of a model."""
    if not history:
        return ""
    version = aliases.get(CHAMPION)
    now = f"Champion: **version {version}**." if version else "There is **no champion**."
    return f"{HISTORY}\n\n{now}\n\n{history_table(history, rows)}"


def about(history: Sequence[Entry], version: str) -> list[Entry]:
    """The entries about a version, and the moves that ended its time as champion."""
    return [e for e in history if e.version == version or (e.moves and e.before == version)]


def last_word(own: Sequence[Entry], version: str) -> str:
    """The newest entry about a version, as a sentence: `promoted on 2026-11-30 by Jo: why`."""
    entry = own[-1]
    what: str = entry.what
    if entry.version != version:
        taken = entry.what in {What.ROLLED_BACK, What.BY_HAND}
        then = f"version {entry.version} is champion" if entry.version else "nobody is champion"
        what = f"{entry.what}, {then}" if taken else f"replaced by version {entry.version}"
    by = f" by {entry.by}" if entry.by else ""
    return f"{what} on {entry.at[:10]}{by}" + (f": {entry.why}" if entry.why else "")


def history_table(history: Sequence[Entry], rows: int = ROWS) -> str:
    """A Markdown table of the newest entries, the newest last."""
    lines = ["| when (UTC) | version | what | before | by | why |", "|---|---|---|---|---|---|"]
    if len(history) > rows:
        lines.append(f"| | | {len(history) - rows} earlier: `detectflow history` | | | |")
    for entry in history[-rows:]:
        why = entry.why
        why = why if len(why) <= CELL_CHARACTERS else f"{why[:CELL_CHARACTERS]}..."
        before = entry.before if entry.moves else ""
        cells = (
            entry.at[:16].replace("T", " "),
            entry.version or "nobody",
            entry.what,
            before,
            entry.by,
            why,
        )
        lines.append(f"| {' | '.join(plain(cell) for cell in cells)} |")
    return spread("\n".join(lines))


def with_section(text: str, heading: str, section: str) -> str:
    """`text` with its section `heading` replaced, or added at the end; the rest stays as it is."""
    before, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    _, sign, after = rest.partition("\n### ") if found else ("", "", "")
    parts = (before.strip(), section.strip(), f"### {after}".strip() if sign else "")
    return "\n\n".join(part for part in parts if part) + "\n"


def _fitting(text: str, heading: str, section: Callable[[int], str]) -> str:
    """`text` with its section of as many rows as MLflow has room for; as it is where none has."""
    tried = (with_section(text, heading, section(rows)) for rows in range(ROWS, 0, -1))
    return next((shown for shown in tried if len(shown) <= MOST_CHARACTERS), text)


def show_history(store: Store, name: str, history: Sequence[Entry]) -> None:
    """Bring the pages of the model and of the versions that the newest entry is about up to date. A
    page that cannot be written is no reason for a decision to fail: it is said, and the next move
    writes it.
    """
    try:
        client: Any = store.client
        model = client.get_registered_model(name)
        aliases = {alias: str(version) for alias, version in model.aliases.items()}
        text = model.description or MODEL_DESCRIPTION.replace("NAME", name)
        shown = _fitting(text, HISTORY, lambda rows: history_section(history, aliases, rows))
        if shown != model.description:
            client.update_registered_model(name, shown)
        newest = history[-1] if history else None
        for version in {newest.version, newest.before} - {""} if newest else ():
            _show_decisions(client, name, version, history)
    except Exception as error:
        if not is_of_store(error):
            raise
        log.warning("the page of '%s' in MLflow is not up to date (%s)", name, error)


def _show_decisions(client: Any, name: str, version: str, history: Sequence[Entry]) -> None:
    own = about(history, version)
    before = client.get_model_version(name, version).description or ""
    section = functools.partial(decisions_section, history, version)
    shown = _fitting(before, DECISIONS, section)
    if shown != before:
        client.update_model_version(name, version, shown)
    if own:
        client.set_model_version_tag(name, version, "decision", last_word(own, version)[:5000])


def _within(url: str) -> str:
    """A link within the same page, so that it leads on whatever name the server is reached by."""
    return url[url.index("#") :] if "#" in url else url


def _thresholds(candidate: Candidate) -> str:
    point = candidate.operating_point
    used = ", ".join(
        f"{name} {value}" for name, value in candidate.thresholds.items() if value is not None
    )
    if point is not None:
        rows = zip(candidate.names, point.thresholds, point.own)
        listed = [f"{plain(name)} {t:.3f}{'' if own else ' (of all)'}" for name, t, own in rows]
        more = len(listed) - CLASS_ROWS
        classes = ", ".join(listed[:CLASS_ROWS]) + (f", and {more} more" if more > 0 else "")
        return (
            f"Thresholds where a call names none: {used}; of each class, for {point.goal}, chosen "
            f"on {point.chosen_on}: {classes}. Scores are calibrated "
            f"({point.calibration.method}); a conf that a call names is one of these for all "
            "classes."
        )
    best = (
        ""
        if candidate.best_conf is None
        else f" The mean F1 is best at conf {candidate.best_conf:.3f}."
    )
    return f"Thresholds where a call names none: {used}.{best}"


def _class_table(candidate: Candidate, room: int) -> str:
    """As many rows as fit into so many characters; empty where none does."""
    shown = min(len(candidate.per_class), CLASS_ROWS)
    while shown and len(table := _class_rows(candidate, shown)) > room:
        shown -= 1
    return table if shown else ""


def _class_rows(candidate: Candidate, shown: int) -> str:
    lines = [
        "| class | objects | " + " | ".join(CLASS_COLUMNS.values()) + " |",
        "|---|---|" + "---|" * len(CLASS_COLUMNS),
    ]
    for row in candidate.per_class[:shown]:
        cells = [_cell(row.get(column)) for column in CLASS_COLUMNS]
        name = plain(row.get("name", ""))
        lines.append(f"| {name} | {row.get('instances', '')} | " + " | ".join(cells) + " |")
    if len(candidate.per_class) > shown:
        lines.append(
            f"| and {len(candidate.per_class) - shown} more: `validate/per_class.csv` | | | | | |"
        )
    return spread("\n".join(lines))


def _cell(value: Any) -> str:
    try:
        return f"{float(value):.3f}"
    except (TypeError, ValueError):
        return ""
