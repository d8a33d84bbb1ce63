"""Page and card as files. They are made whole or not at all, and a fault in them is told, not
raised: a registration does not depend on its report.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TypeVar

from engine.errors import EngineError
from engine.files import write_text
from engine.report.card import card_of
from engine.report.facts import collect
from engine.report.page import page_of

T, U = TypeVar("T"), TypeVar("U")
PAGE, CARD = "index.html", "model_card.md"
AGAIN = "what it is about is in reports/. Make it again with: detectflow report"

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
    facts = attempted("facts", lambda: collect(root, ask), str)
    if isinstance(facts, str):
        page, card = _page_of_failure(facts), _card_of_failure(facts)
    else:
        page = attempted("page", lambda: page_of(facts), _page_of_failure)
        card = attempted("model card", lambda: card_of(facts), _card_of_failure)
    write_text(folder / PAGE, page)
    write_text(folder / CARD, card)
    return [folder / PAGE, folder / CARD]


def attempted(
    what: str, make: Callable[[], T], otherwise: Callable[[str], U], again: str = AGAIN
) -> T | U:
    """What `make` gives; where it fails, `otherwise` of the reason, which is told. again: how a
    reader of that makes it anew.
    """
    try:
        return make()
    except Exception as error:  # whatever it is, the registration is done and stays
        reason = (
            str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        )
        log.warning("the report's %s could not be made (%s); %s", what, reason, again)
        log.debug("%s", what, exc_info=True)
        return otherwise(reason)


def _page_of_failure(reason: str) -> str:
    return FAILURE.format(reason=escape(reason))


def _card_of_failure(reason: str) -> str:
    return f"# No model card\n\nIt could not be made: {escape(reason)}\n"
