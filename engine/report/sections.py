"""The sections of the page, in their order: each a function from facts and images to blocks, empty
where nothing of it is recorded. A new section is a function and its line here.
"""

from __future__ import annotations

from collections.abc import Callable

from engine.report.blocks import Block
from engine.report.curves import confusion, curves
from engine.report.facts import Facts
from engine.report.failures import errors
from engine.report.gained import gained
from engine.report.measured import by_class, comparison, metrics, why
from engine.report.operating import thresholds
from engine.report.pictures import Pictures
from engine.report.provenance import data, exported, history, origin

Section = Callable[[Facts, Pictures], list[Block]]
SECTIONS: tuple[tuple[str, str, str, Section], ...] = (  # anchor, in the menu, title, content
    ("why", "Reasons", "Why", why),
    ("metrics", "Metrics", "Metrics", metrics),
    ("comparison", "Champion", "Against the champion", comparison),
    ("gained", "Gained, lost", "What this version gained and lost", gained),
    ("classes", "Classes", "By class", by_class),
    ("curves", "Curves", "Curves", curves),
    ("confusion", "Confusion", "Confusion", confusion),
    ("errors", "Errors", "Where it fails", errors),
    ("thresholds", "Thresholds", "Operating point", thresholds),
    ("data", "Data", "Data", data),
    ("file", "File", "Exported file", exported),
    ("origin", "Origin", "Where it comes from", origin),
    ("history", "History", "History of the registered model", history),
)
