"""What was decided about the model of a run: read from the report of stage register and from the
registry as it is at this moment, as events and as Markdown for the Prefect UI.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.files import read_object
from engine.markdown import plain, sentence, table
from engine.metrics.paired import AP, AP50
from engine.registry.history import Entry, What, read_entries, waiting
from engine.registry.version_description import about, history_section, last_word
from engine.stages.layout import Layout
from engine.tracking.mlflow_links import model_state

logger = logging.getLogger("detectflow")

HISTORY_ROWS = 30


@dataclass(frozen=True)
class Standing:
    """The registered model of a workspace, and what the registry says of it now."""

    report: Mapping[str, Any]  # reports/registration.json
    answered: bool = True  # whether the registry could be asked
    aliases: Mapping[str, str] = field(default_factory=dict)  # alias -> version
    history: Sequence[Entry] = ()  # the oldest first

    @property
    def model(self) -> str:
        return str(self.report["model"])

    @property
    def version(self) -> str:
        return str(self.report["version"])

    @property
    def own_aliases(self) -> tuple[str, ...]:
        return tuple(sorted(a for a, version in self.aliases.items() if version == self.version))

    @property
    def waiting(self) -> Entry | None:
        """The decision after which only a person's yes is missing."""
        return waiting(self.history, self.version)

    def decided_since(self, moment: str) -> list[Entry]:
        """What the gates, and the answers that a run was given, have decided since. moment: ISO
        8601, UTC, by this machine's clock, which dated the entries too.
        """
        return [each for each in self.history if each.evidence and each.at >= moment]

    @property
    def later_word(self) -> str:
        """What happened to the version after the decision of the report; empty where nothing
        did.
        """
        own = about(self.history, self.version)
        if not own or (own[-1].evidence and own[-1].version == self.version):
            return ""
        return last_word(own, self.version)

    @property
    def is_outdated(self) -> bool:
        """Whether a person has said yes, no, or promoted the version since the report was
        written, so that stage register has something new to say.
        """
        own = [e for e in self.history if e.version == self.version and e.what in ANSWERS]
        verdict = self.report.get("verdict")
        return bool(own and verdict) and ANSWERS[own[-1].what] != verdict


ANSWERS = {
    What.PROMOTED: "PROMOTE",
    What.HELD: "HOLD",
    What.REJECTED: "REJECT",
    What.APPROVED: "a yes",
}


def standing_of(root: Path) -> Standing | None:
    """The model that stage register has registered here; None where there is none yet."""
    report = read_object(Layout(root).summary("register"))
    if not report.get("model") or not report.get("version"):
        return None
    state = model_state(root, str(report["model"]))
    if state is None:
        return Standing(report, answered=False)
    return Standing(report, True, state.aliases, read_entries(state.tags))


def history_markdown(found: Standing) -> str:
    """Who is champion, and what led to it."""
    section = history_section(found.history, found.aliases, HISTORY_ROWS)
    return f"# {plain(found.model)}\n\n{section or 'Nothing has been decided yet.'}"


def decision_markdown(found: Standing, root: Path) -> str:
    """Verdict and reason first, then the gates, what to do, and the comparison by class."""
    report = found.report
    verdict, reason = report.get("verdict"), sentence(str(report.get("reason")))
    parts = [
        f"# {plain(found.model)} version {found.version}",
        f"**{verdict}**: {reason}" if verdict else f"**{reason}**",
        found.later_word and f"Since then: {plain(found.later_word)}.",
    ]
    values = comparison_values(found, root)
    parts.append(_findings(values.get("findings") or ()))
    parts += [f"- {sentence(str(each))}" for each in report.get("advice") or ()]
    if values:
        parts += [_introduction(values), _differences(values)]
    return "\n\n".join(part for part in parts if part)


def comparison_values(found: Standing, root: Path) -> Mapping[str, Any]:
    """The comparison behind the decision; empty where it was not kept."""
    values = read_object(Layout(root).reports / "decision.json")
    own = (values.get("candidate") or {}).get("name") == f"{found.model}/{found.version}"
    return values if own else {}


def _findings(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = [[each["gate"], each["verdict"], each["reason"]] for each in findings]
    return table(["gate", "verdict", "reason"], rows) if rows else ""


def _introduction(values: Mapping[str, Any]) -> str:
    against = f" against {values['champion']['name']}" if values.get("champion") else ""
    left_out = sum(map(len, (values.get("left_out") or {}).values()))
    without = f", {left_out} left out" if left_out else ""
    return (
        f"{plain(values['candidate']['name'] + against)} on {values['images']} images of "
        f"{values['split']}{without}. Differences in points of AP."
    )


def _differences(values: Mapping[str, Any]) -> str:
    """Both means, then the classes, the largest loss first."""
    pair = bool(values.get("champion"))
    classes = sorted((values["classes"].get(AP) or {}).values(), key=_gain)
    rows = [_row(each, pair) for each in (values["mean"][AP], values["mean"][AP50], *classes)]
    head = ["", "boxes", "champion", "candidate", "difference", "95 % interval"]
    return table(head if pair else [*head[:2], "candidate", head[-1]], rows)


def _gain(each: Mapping[str, Any]) -> float:
    if each["a"] is None or each["b"] is None:
        return each["b"] or 0.0
    return each["b"] - each["a"]


def _row(each: Mapping[str, Any], pair: bool) -> list[str]:
    head = [each["of"] or each["metric"], str(each["boxes"])]
    a, b = ("-" if each[key] is None else f"{each[key]:.3f}" for key in ("a", "b"))
    low, high = each["low"], each["high"]
    if not pair:
        interval = "-" if low is None else f"{low:.3f} to {high:.3f}"
        return [*head, b, interval]
    known = each["a"] is not None and each["b"] is not None
    interval = "-" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
    return [*head, a, b, f"{100 * (each['b'] - each['a']):+.1f}" if known else "-", interval]
