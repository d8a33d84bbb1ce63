"""The answer of `detectflow trace` for people, a tree with numbered sources, and for programs,
plain values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from engine.config import Params
from engine.lineage.evidence import Fact
from engine.lineage.graph import Node, Trace
from engine.metrics.headlines import headlines
from engine.registry.history import What
from engine.tracking.run_metadata import flat_params, in_text

WIDTH = 150  # characters of a value; settings, and what was decided and why, are shown whole
WHOLE = {*What, "no champion since"}


def trace_values(found: Trace) -> dict[str, Any]:
    """Plain values for JSON; each fact with its sources."""
    return {
        "subject": _values(found.subject),
        "made_from": [_values(node) for node in found.made_from],
        "led_to": [_values(node) for node in found.led_to],
        "summary": list(found.summary),
        "notes": list(found.notes),
        "not_asked": list(found.unasked),
    }


def _values(node: Node) -> dict[str, Any]:
    values: dict[str, Any] = {"kind": node.kind, "key": node.key}
    if node.relation:
        values["relation"] = node.relation
    values["known_from"] = list(node.known_from)
    if node.again:
        return {**values, "again": True}
    values["facts"] = [
        {"name": f.name, "value": f.value, "known_from": list(f.known_from)} for f in node.facts
    ]
    return {**values, "children": [_values(child) for child in node.children]}


def trace_text(found: Trace) -> str:
    """A tree each for what it was made from and what came of it, then the sources by number, and
    who did not answer.
    """
    sources = _Sources()
    lines = [
        f"{found.subject.kind} {found.subject.key}",
        *_facts(found.subject.facts, "  ", sources),
    ]
    lines += [f"  {sentence}" for sentence in found.summary]
    for title, nodes in (("made from", found.made_from), ("led to", found.led_to)):
        if found.subject.kind != "image" or title == "led to":
            lines += ["", title, *(_tree(nodes, "", sources) or ["  nothing that is known here"])]
    for title, sentences in (("note", found.notes), ("could not be asked", found.unasked)):
        if sentences:
            lines += ["", title, *(f"  {sentence}" for sentence in sentences)]
    return "\n".join([*lines, "", *sources.legend()])


class _Sources:
    """Numbers for sources, in the order in which they come up."""

    def __init__(self):
        self.numbers: dict[str, int] = {}

    def mark(self, known_from: Iterable[str]) -> str:
        found = sorted(
            self.numbers.setdefault(source, len(self.numbers) + 1) for source in known_from
        )
        return f"  [{','.join(map(str, found))}]" if found else ""

    def legend(self) -> list[str]:
        lines = [f"  [{number}] {source}" for source, number in self.numbers.items()]
        return ["known from", *lines] if lines else []


def _tree(nodes: Sequence[Node], indent: str, sources: _Sources) -> list[str]:
    lines = []
    for node in nodes:
        last = node is nodes[-1]
        title = f"{node.relation} {node.kind} {node.key}" + ("  (see above)" if node.again else "")
        lines.append(f"{indent}{'└─' if last else '├─'} {title}{sources.mark(node.known_from)}")
        below = f"{indent}{'   ' if last else '│  '}"
        lines += _facts(node.facts, f"{below}{'│  ' if node.children else '   '}", sources)
        lines += _tree(node.children, below, sources)
    return lines


def _facts(facts: Sequence[Fact], indent: str, sources: _Sources) -> list[str]:
    lines = []
    for fact in facts:
        text = _value_text(fact.name, fact.value)
        whole = len(text) <= WIDTH or isinstance(fact.value, Mapping) or fact.name in WHOLE
        short = text if whole else f"{text[:WIDTH]}..."
        lines.append(
            f"{indent}{fact.name.replace('_', ' ')}: {short}{sources.mark(fact.known_from)}"
        )
    return lines


def _value_text(name: str, value: Any) -> str:
    if not isinstance(value, Mapping):
        return str(value)
    if name == "settings":
        changed = differing(value)
        return (
            f"{_pairs(changed) or 'none'} (the other {len(value) - len(changed)} are the defaults)"
        )
    if name.startswith("metrics on"):
        shown = (f"{key} {number}" for key, number in headlines(value).items())
        return ", ".join(shown) or "nothing could be measured"
    return _pairs(value)


def _pairs(values: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={in_text(value)}" for key, value in values.items())


def differing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not the defaults of this version."""
    defaults = flat_params(Params())
    return {key: value for key, value in settings.items() if defaults.get(key) != in_text(value)}
