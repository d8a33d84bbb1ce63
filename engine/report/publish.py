"""Page and card as files. They are made whole or not at all, and a fault in them is told, not
raised: a registration does not depend on its report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path

from engine.errors import EngineError
from engine.files import write_text
from engine.report.card import card_of
from engine.report.facts import Facts, collect
from engine.report.page import page_of

PAGE, CARD = "index.html", "model_card.md"

FAILURE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>No report</title></head><body><h1>No report</h1>
<p>It could not be made: {reason}</p>
<p>The metrics are in <code>reports/</code>. Make it again: <code>detectflow report</code>.</p>
</body></html>
"""

log = logging.getLogger("detectflow")


def write_report(root: Path, folder: Path, ask: bool = True) -> list[Path]:
    """Write page and card of the workspace `root` into `folder`; their paths.

    ask: also MLflow, for history and origin.

    Raises:
        WorkspaceError: the disk is full, or the folder refuses the files.
    """
    facts = collect(root, ask)
    page = _made("report", page_of, facts, _page_of_failure)
    card = _made("model card", card_of, facts, _card_of_failure)
    write_text(folder / PAGE, page)
    write_text(folder / CARD, card)
    return [folder / PAGE, folder / CARD]


def _made(
    what: str, make: Callable[[Facts], str], facts: Facts, otherwise: Callable[[str], str]
) -> str:
    try:
        return make(facts)
    except Exception as error:  # whatever it is, the registration is done and stays
        reason = (
            str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        )
        log.warning(
            "the %s could not be made (%s); what it is about is in reports/. Make it again with: "
            "detectflow report",
            what,
            reason,
        )
        log.debug("%s", what, exc_info=True)
        return otherwise(reason)


def _page_of_failure(reason: str) -> str:
    return FAILURE.format(reason=escape(reason))


def _card_of_failure(reason: str) -> str:
    return f"# No model card\n\nIt could not be made: {reason}\n"
