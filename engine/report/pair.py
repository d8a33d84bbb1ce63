"""What a version gains and loses against another, by class and image: `errors.json` and images,
from measurements that a comparison has made already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from engine.comparison.evidence import Comparison
from engine.error_analysis.pair import FOLDER, of_classes, pair_report
from engine.files import make_folder, write_text

PAIR_FILE = "errors.json"


def write_pair(found: Comparison, folder: Path) -> dict[str, Any]:
    """Write what the candidate gains and loses, on the images and classes that count; the values.
    Empty where there is nothing to set side by side: no champion, no image.

    folder: exists, without images of an earlier comparison.
    """
    table, champion, candidate = found.tables[0], found.champion, found.candidate
    values: dict[str, Any] = {}
    if champion is not None and table.images:
        names = candidate.table.names
        sides = [
            of_classes(each.samples, names, table.names, table.images)
            for each in (champion, candidate)
        ]
        make_folder(folder / FOLDER)
        models = champion.model.name, candidate.model.name
        values = pair_report(sides[0], sides[1], table.names, models, folder)
    write_text(folder / PAIR_FILE, json.dumps(values, ensure_ascii=False, indent=1) + "\n")
    return values
