"""What published weights a network descends from: recorded with it, over every further training.

An origin is plain data: `name` (`hf:ORG/NAME@REVISION`, `torchvision:NAME@WEIGHTS`, or a file's),
`licence`, `trained_on` (where that is known) and `digest` (SHA-256), each a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from engine.models.hub.files import name_of
from engine.models.hub.licences import licence_of, trained_on

Origin = dict[str, str]
KEY = "origins"  # of the metadata of weight files


def origin_of(source: Mapping[str, Any], name: str = "") -> Origin:
    """source: what is known of the weights' folder, of `files.source_of`; name: for those that were
    not downloaded.
    """
    return {
        "name": name_of(source) if "repo" in source else name,
        "licence": licence_of(source),
        "trained_on": trained_on(source),
        "digest": str(source.get("digest", "")),
    }


def in_words(origin: Mapping[str, str]) -> str:
    """One line, for logs, tags and pages."""
    parts = [origin.get("name", "")]
    if licence := origin.get("licence"):
        parts.append(f"licence {licence}")
    if data := origin.get("trained_on"):
        parts.append(f"trained on {data}")
    if digest := origin.get("digest"):
        parts.append(f"SHA-256 {digest[:12]}")
    return ", ".join(parts)


def all_in_words(origins: Iterable[Mapping[str, str]]) -> str:
    """`in_words` of each; "" where there are none."""
    return "; ".join(map(in_words, origins))
