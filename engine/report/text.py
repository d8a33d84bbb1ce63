"""How values are written: the same on the page and in the card. What is not a number is a dash."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from engine.report.facts import Facts, number

NONE = "–"
DIGITS = 12  # of a digest that is shown


def metric(value: Any) -> str:
    """0.8801 -> "0.880"."""
    found = number(value)
    return NONE if found is None else f"{found:.3f}"


def interval(low: Any, high: Any) -> str:
    """`0.861 to 0.899`."""
    if number(low) is None or number(high) is None:
        return NONE
    return f"{metric(low)} to {metric(high)}"


def points(value: Any, digits: int = 1) -> str:
    """A difference of AP in points: 0.0123 -> "+1.2"."""
    found = number(value)
    if found is None:
        return NONE
    return f"{100 * found:+.{digits}f}".replace("-", "−")


def points_interval(low: Any, high: Any) -> str:
    if number(low) is None or number(high) is None:
        return NONE
    return f"{points(low)} to {points(high)}"


def percent(value: Any) -> str:
    found = number(value)
    return NONE if found is None else f"{100 * found:.0f} %"


def count(value: Any) -> str:
    """12345 -> "12,345"."""
    found = number(value)
    return NONE if found is None else f"{found:,.0f}"


def several(value: Any, what: str) -> str:
    """`1 box`, `2 boxes`."""
    plural = f"{what}es" if what.endswith("x") else f"{what}s"
    return f"{count(value)} {what if number(value) == 1 else plural}"


def size(value: Any) -> str:
    """Bytes as people read them."""
    found = number(value)
    if found is None:
        return NONE
    for unit in ("bytes", "kB", "MB"):
        if found < 1000:
            return f"{found:.0f} {unit}" if unit == "bytes" else f"{found:.1f} {unit}"
        found /= 1000
    return f"{found:.2f} GB"


def small(value: Any) -> str:
    """A small number as it is measured: 1.2e-06."""
    found = number(value)
    return NONE if found is None else f"{found:.2g}"


def digest(value: Any) -> str:
    """The beginning of a digest; empty where there is none."""
    return str(value or "")[:DIGITS]


def short_name(value: Any) -> str:
    """`val/00076.png` as it is; of a long path its end."""
    text = str(value)
    return text if len(text) <= 60 else f"...{text[-57:]}"


WORDS = {"PROMOTE": "Promoted", "HOLD": "On hold", "REJECT": "Rejected"}
STYLES = {"PROMOTE": "good", "HOLD": "warning", "REJECT": "error"}


def verdict_of(facts: Facts) -> str:
    """PROMOTE, HOLD, REJECT, or empty where nothing was decided."""
    found = facts.registration.get("verdict") or facts.decision.get("verdict")
    return str(found or "")


def verdict_words(facts: Facts) -> tuple[str, str]:
    """The verdict as people say it, and its style: none where somebody has decided otherwise
    since.
    """
    verdict = verdict_of(facts)
    now, word = champion_now(facts), WORDS.get(verdict, "")
    if verdict == "PROMOTE" and now and now != facts.version:
        return f"{word}, replaced since", ""
    if verdict in {"HOLD", "REJECT"} and now and now == facts.version:
        return f"{word}, promoted since", ""
    return word, STYLES.get(verdict, "")


def called(facts: Facts) -> str:
    """`detector version 3`."""
    return f"{facts.model} version {facts.version}" if facts.version else facts.model


def champion_now(facts: Facts) -> str:
    """The version that is champion: by the registry, else as stage register found it; empty:
    nobody, or not known.
    """
    if facts.aliases:
        return str(facts.aliases.get("champion") or "")
    if "champion" in (facts.registration.get("aliases") or ()):
        return facts.version
    return str(facts.registration.get("champion_version") or "")


def outcome_text(facts: Facts) -> str:
    """One sentence: what became of the version."""
    if not facts.version:
        return "No version has been registered from these reports yet."
    now, before = champion_now(facts), facts.registration.get("champion_version")
    if now == facts.version:
        instead = f", instead of version {before}" if before and str(before) != now else ""
        return f"{called(facts)} is the champion{instead}."
    if now:
        any_more = " any more" if verdict_of(facts) == "PROMOTE" else ""
        return f"{called(facts)} is not the champion{any_more}; version {now} is."
    return f"{called(facts)} is registered. There is no champion."


def as_of(facts: Facts) -> str:
    """`As of 2026-11-30 08:12 UTC.`: when the registry was asked who is champion, or when stage
    register had decided, where it was not asked.
    """
    found = moment(facts.asked_at if facts.aliases else facts.registration.get("at"))
    return f"As of {found}." if found else "As stage register found it."


def moment(value: Any) -> str:
    """An ISO 8601 moment in UTC as people read it; empty where it is none."""
    try:
        found = datetime.fromisoformat(str(value or "")).astimezone(UTC)
    except ValueError:
        return ""
    return f"{found:%Y-%m-%d %H:%M} UTC"


def reasons(facts: Facts) -> list[dict[str, str]]:
    """gate, verdict, reason, advice of each gate that was asked."""
    return [
        {key: str(each.get(key) or "") for key in ("gate", "verdict", "reason", "advice")}
        for each in facts.decision.get("findings") or ()
        if isinstance(each, Mapping)
    ]


def compared_on(facts: Facts) -> str:
    """`100 test images in 20 groups, 3 left out`; empty where nothing was compared."""
    decision = facts.decision
    if not decision.get("images"):
        return ""
    images, groups = decision["images"], decision.get("groups")
    grouped = f" in {several(groups, 'group')}" if groups and groups != images else ""
    out = sum(len(each) for each in (decision.get("left_out") or {}).values())
    left = f", {out} left out" if out else ""
    named = several(images, f"{decision.get('split', facts.split)} image")
    return f"{named}{grouped}{left}"
