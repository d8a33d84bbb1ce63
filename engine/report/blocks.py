"""What a section is made of. A block is a mapping with a `kind` that the template knows: text,
list, facts, table, charts, matrix, figures.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from engine.report import text as say
from engine.report.facts import number

ROWS = 200  # of a table
Block = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell with a style; `sort` is what a table is sorted by instead of its text."""

    value: Any
    style: str = ""
    sort: float | None = None


def text(words: str, style: str = "") -> Block:
    return {"kind": "text", "text": words, "style": style}


def table(
    head: Sequence[str], rows: Iterable[Sequence[Any]], title: str = "", style: str = ""
) -> list[Block]:
    """Cells: text, markup, `Cell`. style: "narrow", as wide as its content; "stack", a row is a
    paragraph on a phone.
    """
    rows = list(rows)
    if not rows:
        return []
    more = len(rows) - ROWS
    shown = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows[:ROWS]]
    blocks = [{"kind": "table", "title": title, "head": list(head), "rows": shown, "style": style}]
    return [*blocks, text(f"... and {more:,} more.", "soft")] if more > 0 else blocks


def amount(shown: str, value: Any = None) -> Cell:
    """A number as it is written, sorted by its value."""
    return Cell(shown, "n", number(value))


def facts_list(pairs: Iterable[tuple[str, Any]], title: str = "") -> list[Block]:
    """Names and values; without those that are empty."""
    found = [(name, value) for name, value in pairs if value not in (None, "", (), [], say.NONE)]
    return [{"kind": "facts", "title": title, "pairs": found}] if found else []


def figure(src: str, alt: str, title: str = "", words: str = "", style: str = "") -> Block:
    return {"src": src, "alt": alt, "title": title, "text": words, "style": style}


def figures(found: Sequence[Block], title: str = "", wide: bool = False) -> list[Block]:
    """wide: few and large."""
    return [{"kind": "figures", "title": title, "figures": found, "wide": wide}] if found else []


def code(value: Any) -> Markup | str:
    return Markup(f"<code>{escape(value)}</code>") if value else ""
