"""`index.html`: one self-contained page. Verdict and reasons first, then what they rest on.

It asks no network, follows light and dark, fits a phone and paper, and is complete without script.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from engine.datasets.reports.html_page import STYLE
from engine.metrics.reported import GROUP
from engine.report import text as say
from engine.report.facts import REPORTS, UNEXPECTED, Facts, number
from engine.report.measured import AP
from engine.report.pictures import Pictures
from engine.report.sections import SECTIONS

HERE = Path(__file__).parent
TEMPLATE, OWN_STYLE = "page.html.j2", "style.css"
NO_VERDICT = "No verdict"
UNBROKEN = "\u00a0to\u00a0"  # an interval stays on one line

log = logging.getLogger("detectflow")


def page_of(facts: Facts) -> str:
    """The page as HTML. A section that cannot be made from what is recorded is left out, and named
    at the end.
    """
    pictures = Pictures(facts.root / REPORTS)
    notes = [note for note in facts.notes if not _is_contradiction(note)]
    sections = []
    for anchor, menu, title, section in SECTIONS:
        try:
            blocks = section(facts, pictures)
        except UNEXPECTED as error:
            log.warning("report: section '%s' could not be made: %r", title, error)
            notes.append(f"{title}: what is recorded has another form than expected ({error!r}).")
            continue
        if blocks:
            sections.append({"anchor": anchor, "menu": menu, "title": title, "blocks": blocks})
        elif anchor in ALWAYS:
            notes.append(f"{title}: not recorded.")
    if pictures.left_out:
        where = " and ".join((REPORTS / of).as_posix() for of in sorted(set(pictures.left_out)))
        left_out = say.several(len(pictures.left_out), "image")
        notes.append(f"{left_out} more, in {where}: the page would be too big.")
    return _template().render(
        title=title_of(facts),
        lead=_lead(facts),
        banner=_banner(facts),
        warnings=[note for note in facts.notes if _is_contradiction(note)],
        cards=_cards(facts),
        sections=sections,
        notes=notes,
        reference=f"{facts.model}/{facts.version}" if facts.version else "",
        style=Markup(STYLE + (HERE / OWN_STYLE).read_text(encoding="utf-8")),  # ours
    )


ALWAYS = {"why", "metrics", "curves", "confusion", "errors", "thresholds", "data", "file", "origin"}


def title_of(facts: Facts) -> str:
    return say.called(facts) or str(facts.dataset.get("name") or "Detector")


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(TEMPLATE)


def _is_contradiction(note: str) -> bool:
    return note.startswith("The reports are about different weights")


def _lead(facts: Facts) -> str:
    """What was trained on what, and when it was decided."""
    network, data = facts.trained.get("model"), facts.dataset.get("name")
    parts = [str(network)] if network else []
    parts += [f"trained on {data}"] if data else []
    decided = [
        entry
        for entry in facts.history
        if entry.get("evidence") and str(entry.get("version")) == facts.version
    ]
    if decided:
        parts.append(f"decided on {str(decided[-1].get('at', ''))[:10]}")
    return ", ".join(parts)


def _banner(facts: Facts) -> dict[str, Any]:
    verdict, (words, style) = say.verdict_of(facts), say.verdict_words(facts)
    # After a promotion the reason of a later run may be another: that it is champion already.
    reason = str(facts.registration.get("reason") or "")
    return {
        "style": style,
        "verdict": words or NO_VERDICT,
        "code": verdict,
        "outcome": say.outcome_text(facts),
        "since": _since(facts),
        "reason": reason + ("" if reason.endswith(".") else "."),
        "advice": [str(each) for each in facts.registration.get("advice") or ()],
    } | ({"reason": ""} if not reason else {})


def _since(facts: Facts) -> Markup | str:
    """When that was so, and where to find what came after: a page stays as it was made."""
    if not facts.version:
        return ""
    command = Markup("<code>detectflow history {}</code>").format(facts.model)
    return Markup("{} What came after: {}.").format(say.as_of(facts), command)


def _cards(facts: Facts) -> list[dict[str, str]]:
    """The numbers that a reader takes away; none where they are not as expected."""
    try:
        return _headlines(facts)
    except UNEXPECTED as error:
        log.warning("report: the headline numbers could not be made: %r", error)
        return []


def _headlines(facts: Facts) -> list[dict[str, str]]:
    own = (facts.own.get("mean") or {}).get(AP) or {}
    cards = []

    def card(name: str, value: str, about: str = "", style: str = "") -> None:
        if value and value != say.NONE:
            cards.append({"name": name, "value": value, "about": about, "style": style})

    span = say.interval(own.get("low"), own.get("high"))
    card(
        f"mAP50-95 on {facts.split}",
        say.metric(facts.validated.get(f"{GROUP}mAP50-95")),
        f"95 % interval {span}".replace(" to ", UNBROKEN) if span != say.NONE else "",
    )
    against = (facts.decision.get("mean") or {}).get(AP) or {}
    a, b = number(against.get("a")), number(against.get("b"))
    if facts.decision.get("champion") and a is not None and b is not None:
        low, high = number(against.get("low")), number(against.get("high"))
        sure = low is not None and high is not None and not low <= 0 <= high
        card(
            f"Against {facts.decision['champion'].get('name', 'the champion')}",
            say.points(b - a),
            f"points, interval {say.points_interval(low, high)}".replace(" to ", UNBROKEN),
            ("good" if b > a else "error") if sure else "",
        )
    for name in ("mAP50", "precision", "recall"):
        card(
            name if name == "mAP50" else name.capitalize(),
            say.metric(facts.validated.get(f"{GROUP}{name}")),
        )
    counts = (facts.dataset.get("counts") or facts.data.get("counts") or {}).get(facts.split) or {}
    if counts:
        card(
            f"{facts.split.capitalize()} images",
            say.count(counts.get("images")),
            f"{say.count(counts.get('boxes'))} boxes to find",
        )
    return cards
