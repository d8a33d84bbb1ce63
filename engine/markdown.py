"""Text that came from data (names of classes, files, models, errors) in Markdown: it is shown as it
is, whatever it holds. MLflow's and Prefect's pages would load an image that a class is named after.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from typing import Any

# An underscore between two letters is none; a list begins at the start of a line, before a blank.
SPECIAL = re.compile(
    r"[\\`*\[\]|#~]|(?<![^\W_])_|_(?![^\W_])"
    r"|^[-+](?=\s|$)|^=|(?<=^\d)[.)](?=\s|$)|(?<=^\d\d)[.)](?=\s|$)"
)
APART = "&emsp;"  # a blank that is not trimmed
CODE = re.compile(r"(?<!`)`(?!`)([^`]+)`(?!`)")


def plain(value: Any) -> str:
    """One line in which Markdown finds nothing to interpret, and no HTML; "" for None."""
    text = " ".join(str("" if value is None else value).split())
    return SPECIAL.sub(lambda found: f"\\{found[0]}", escape(text, quote=False))


def sentence(text: str) -> str:
    """The same for a sentence of ours with data in it: `commands` in backticks stay code."""
    parts = CODE.split(" ".join(text.split()))
    return "".join(
        f"`{part}`" if number % 2 else _between(part) for number, part in enumerate(parts)
    )


def _between(part: str) -> str:
    """`plain`, with the blanks at both ends."""
    left, right = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{left}{plain(part)}{right}" if part.strip() else part


def spread(text: str) -> str:
    """A Markdown table whose columns keep apart also where a page gives cells no room, as MLflow's
    does.
    """
    return "\n".join(
        line if set(line) <= set("|-: ") else line.replace(" | ", f"{APART} | ")
        for line in text.split("\n")
    )


def table(head: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    """A table of plain cells."""
    lines = [f"| {' | '.join(map(plain, row))} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
